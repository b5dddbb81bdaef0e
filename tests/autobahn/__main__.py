"""`python -m tests.autobahn`: play the Autobahn suite against rawws and print the counts.

With `--client` the client is played against: each `wstest` is a server then, and one process of `client.py` its client.

One server a lane is started as `python -m rawws serve --port 0` with `--max-message-size` raised and
every other limit at its default; or `--url` names a server that already runs. `--jobs` processes of
`wstest` play at a time: a case is mostly one message going back and forth, so that two of them keep two
cores busy. A timeout bounds the run, and what was not played by then counts as missing.

The exit status is 0 when all passed, 1 when not, 2 when there was nothing to run with.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from . import report
from .plan import CASES_IN_ALL, CASES_WITHOUT_COMPRESSION, Agent, agents, client_agents, select, shards
from .play import Player
from .suite import SuiteUnavailableError, install

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_LANES = {"on": (True,), "off": (False,), "both": (True, False)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    home = Path(os.environ.get("RAWWS_AUTOBAHN_HOME") or _CHECKOUT / "build" / "autobahn").resolve()
    started = time.monotonic()
    try:
        suite = install(home)
        planned = _plan(suite.cases(), options)
    except (SuiteUnavailableError, ValueError) as error:
        print(f"autobahn: {error}", file=sys.stderr)
        return 2
    reports = home / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)

    dealt = shards(planned)
    player = Player(suite, reports, options.python, options.jobs)
    running = {agent: agent.path for agent in planned if options.url}
    trio.run(player.play, dealt, running, options.timeout)

    results = [result for shard in dealt for result in report.read(player.index(shard), shard.agent.name, shard.cases)]
    print(f"\n{report.table(results)}\n")
    for line in [*player.errors, *report.problems(results)]:
        print(line)
    good = report.passed(results) and not player.errors
    seconds = time.monotonic() - started
    print(f"autobahn {'passed' if good else 'FAILED'} in {seconds:.0f} s; reports are in {reports}")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.autobahn",
        description="Play the Autobahn conformance suite against rawws.",
        epilog="Without options: all 517 cases against both endpoints, fast lane on and off.",
    )
    parser.add_argument(
        "--profile",
        choices=("full", "ci"),
        default="full",
        help="ci: all 517 for the Protocol with the lane on, the 301 without compression for the rest",
    )
    parser.add_argument("--client", action="store_true", help="play against rawws's client instead of its server")
    parser.add_argument("--targets", default="echo,task", help="of echo (a Protocol), task (an async handler)")
    parser.add_argument("--lane", choices=tuple(_LANES), default="both", help="the fast lane")
    parser.add_argument("--cases", help="all, no-compression, or numbers and patterns: 1.*,9.1.6")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has rawws")
    parser.add_argument("--url", action="append", help="play against this running server (ws://…) instead")
    parser.add_argument("--jobs", type=_positive, default=2, help="wstest processes at a time (2)")
    parser.add_argument("--timeout", type=float, default=5400.0, help="seconds for all of it (5400)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _plan(known: Sequence[str], options: argparse.Namespace) -> list[Agent]:
    counts = (len(known), len(select(known, "no-compression")))
    if counts != (CASES_IN_ALL, CASES_WITHOUT_COMPRESSION):
        raise ValueError(f"the suite has {counts[0]} cases, {counts[1]} without compression: not the one meant")
    if options.url:
        cases = select(known, options.cases or "all")
        return [Agent(_agent_name(url), url, True, cases) for url in options.url]
    if options.client:
        return client_agents(known, lanes=_LANES[options.lane], profile=options.profile, selection=options.cases)
    return agents(
        known,
        targets=options.targets.split(","),
        lanes=_LANES[options.lane],
        profile=options.profile,
        selection=options.cases,
    )


def _agent_name(url: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", url.lower()))


if __name__ == "__main__":
    sys.exit(main())
