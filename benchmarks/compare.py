"""Measure the working tree against another revision of rawws in one run: `python -m benchmarks compare REV`.

The revision is unpacked into a folder that goes afterwards; its servers import rawws from there, those of the
working tree from `src`. Both run the suite's own programs, in turns, as any two peers do.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import build
from benchmarks.cases import select_cases
from benchmarks.registry import select_peers, variant
from benchmarks.session import add_plan_arguments, measure_all, plan_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from benchmarks.registry import Peer
    from benchmarks.results import Results

__all__ = ["comparison_table", "main", "unpack"]

_PEERS = "rawws,rawws-task"
_CASES = ("echo", "echo-1", "echo-1000", "pipelined", "binary-*", "deflate", "broadcast", "handshakes")


def unpack(revision: str, folder: Path) -> str:
    """Unpack a revision of this repository into a folder and return its short name.

    Raises:
        ValueError: git does not know the revision, or it has no `src/rawws`.
    """
    named = subprocess.run(
        ["git", "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"],
        cwd=build.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if named.returncode:
        raise ValueError(f"git does not know the revision {revision!r}")
    name = named.stdout.strip()
    archive = subprocess.run(
        ["git", "archive", name],
        cwd=build.ROOT,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    if not (folder / "src" / "rawws").is_dir():
        raise ValueError(f"revision {name} has no src/rawws")
    return name


def comparison_table(results: Results, pairs: Sequence[tuple[Peer, Peer]]) -> Table:
    """Build the table of ratios, working tree ÷ revision, by case and peer."""
    from rich import box
    from rich.table import Table

    from benchmarks.report import figure

    table = Table(title="Working tree ÷ revision", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("case", "peer", "revision", "working tree", "ratio", ""):
        table.add_column(name, justify="left" if name in ("case", "peer", "") else "right")
    for case in results.cases:
        for metric in case.metrics:
            for tree, old in pairs:
                ratio = results.ratio(case, metric, tree.name, reference=old.name)
                here, there = (results.rows[case.name][peer.name].spread(metric) for peer in (tree, old))
                if ratio is None or here is None or there is None:
                    continue
                table.add_row(
                    f"{case.title} ({metric.unit})",
                    tree.name,
                    figure(there.median),
                    figure(here.median),
                    f"{ratio:.3f}",
                    "" if metric.higher_is_better else "lower is better",
                )
    return table


def main(argv: Sequence[str]) -> int:
    """Run `python -m benchmarks compare` and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__.partition("\n\n")[0])
    parser.add_argument("revision", metavar="REV", help="a commit, tag or branch")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"shell patterns (default: {' '.join(_CASES)})")
    parser.add_argument("--peers", default=_PEERS, help=f"comma-separated rawws peers (default: {_PEERS})")
    parser.add_argument("--json", type=Path, default=build.BUILD / "compare.json", help="where the results go")
    add_plan_arguments(parser)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rawws-compare-") as folder:
        try:
            cases = select_cases(arguments.cases or _CASES)
            chosen = select_peers(arguments.peers.split(","))
            plan = plan_from(arguments)
            if any(peer.program != "rawws_server" for peer in chosen):
                raise ValueError("only rawws's own peers can be compared with a revision")
            name = unpack(arguments.revision, Path(folder))
        except ValueError as error:
            parser.error(str(error))
        pairs = [
            (variant(peer, "tree", str(build.ROOT / "src")), variant(peer, name, str(Path(folder, "src"))))
            for peer in chosen
        ]

        from benchmarks.report import make_console, print_results

        console = make_console()
        peers = [peer for pair in pairs for peer in pair]
        results, finished = measure_all(console, cases, peers, plan, pairs[0][1].name)
    print_results(console, results)
    console.print(comparison_table(results, pairs))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    console.print(f"results: {arguments.json}")
    return 0 if finished and not results.errors else 1
