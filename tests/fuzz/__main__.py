"""`python -m tests.fuzz`: run the targets under atheris, record seeds, pack what was found worth keeping.

The exit status of `run` is 0 when nothing was found, 1 when something was, 2 when atheris is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.fuzz import corpus
from tests.fuzz.runner import Fuzzer, drive

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_HOME = Path(__file__).resolve().parents[2] / "build" / "fuzz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if find_spec("atheris") is None:
        print("fuzz: atheris is missing; pip install -e '.[fuzz]' brings it", file=sys.stderr)
        return 2
    if arguments[:1] == ["drive"]:
        # Before anything of rawws is imported: atheris instruments what is imported after it.
        drive(arguments[1], int(arguments[2]), arguments[3:])
    options = _parser().parse_args(arguments)
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        print(
            f"fuzz: no target is called {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}", file=sys.stderr
        )
        return 2
    home = options.home.resolve()
    if options.command == "seeds":
        from tests.fuzz.seeds import record

        for name, inputs in record(home).items():
            print(f"{name}: {corpus.save(name, [*corpus.load(name), *inputs])} inputs kept")
        return 0
    if options.command == "pack":
        for name in names:
            # What is kept stays; their names, digests of what they hold, put the others into an order without a bias.
            found = [path.read_bytes() for path in sorted((home / name / "corpus").glob("*"))]
            print(f"{name}: {corpus.save(name, [*corpus.load(name), *found])} inputs kept of {len(found)} found")
        return 0
    fuzzer = Fuzzer(home, options.executions, options.seconds, options.jobs)
    trio.run(fuzzer.run, names)
    for error in fuzzer.errors:
        print(error)
    return 1 if fuzzer.errors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz rawws by coverage.")
    parser.add_argument("command", choices=("run", "seeds", "pack"))
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--executions", type=int, default=10_000_000, help="of each, earlier runs included")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for each, this time")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--home", type=Path, default=_HOME, help="where logs and corpus are (default: build/fuzz)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
