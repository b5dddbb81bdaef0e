"""The command line of the suite: `python -m benchmarks [CASE ...]`, and `compare`, `codec`, `growth` and so on."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.cases import CASES, select_cases
from benchmarks.processes import BenchmarkError, end_as_interrupted
from benchmarks.registry import PEERS, REFERENCE, select_peers

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Measure rawws beside the servers that its users would pick instead.

Each server runs in its own process on its own core, the load generator on another. Peers take turns; medians,
spreads and ratios to rawws are printed at the end, and written to build/benchmarks/results.json with a chart.

  python -m benchmarks                      every case, every peer that is installed
  python -m benchmarks echo 'binary-*' --peers rawws,picows --seconds 2
  python -m benchmarks compare HEAD         the working tree against a revision, in one run
  python -m benchmarks codec                the codec alone, without sockets
  python -m benchmarks growth               figures as connections and rooms grow
  python -m benchmarks.backplane            rooms over several processes and Redis, beside others that have them
  python -m benchmarks chart results.json out.svg [CASE ...]
  python -m benchmarks tables results.json  the tables of the README"""


def _run(argv: Sequence[str]) -> int:
    from benchmarks import session

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"shell patterns of: {', '.join(c.name for c in CASES)}"
    )
    parser.add_argument("--peers", help=f"comma-separated, of: {', '.join(peer.name for peer in PEERS)}")
    parser.add_argument("--compiled", metavar="PATH", help="a folder with a compiled build of rawws, measured as well")
    parser.add_argument("--json", type=Path, default=build.BUILD / "results.json", help="where the results go")
    parser.add_argument("--chart", type=Path, help="where the chart goes (default: beside the results)")
    session.add_plan_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        cases = select_cases(arguments.cases)
        peers = select_peers(arguments.peers.split(",") if arguments.peers else None, arguments.compiled)
        plan = session.plan_from(arguments)
    except ValueError as error:
        parser.error(str(error))

    from benchmarks.chart import draw_bars
    from benchmarks.report import make_console, print_results

    console = make_console()
    results, finished = session.measure_all(console, cases, peers, plan, REFERENCE)
    data = results.to_json()
    print_results(console, results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(data, indent=1) + "\n")
    chart = arguments.chart or arguments.json.with_suffix(".svg")
    drawn = draw_bars(data, chart)
    console.print(f"results: {arguments.json}" + (f", chart: {chart}" if drawn else ""))
    return 0 if finished and not results.errors else 1


def _chart(argv: Sequence[str]) -> int:
    from benchmarks.chart import draw_bars, draw_lines

    parser = argparse.ArgumentParser(prog="python -m benchmarks chart", description="Draw a results file again.")
    parser.add_argument("results", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="cases to draw (default: all)")
    arguments = parser.parse_args(argv)
    data = _read(parser, arguments.results)
    if "plots" in data:
        drawn = draw_lines(data, arguments.svg)
    else:
        drawn = draw_bars(data, arguments.svg, arguments.cases or None)
    print(f"{drawn} panels in {arguments.svg}" if drawn else "nothing to draw")
    return 0 if drawn else 1


def _tables(argv: Sequence[str]) -> int:
    from benchmarks.tables import load, measured_tables, target_table

    parser = argparse.ArgumentParser(prog="python -m benchmarks tables", description="Print results as Markdown.")
    parser.add_argument("results", type=Path)
    path = parser.parse_args(argv).results
    data = _read(parser, path)
    if "cases" not in data:
        parser.error(f"{path} has plots, and no tables")
    try:
        results = load(data)
    except KeyError as error:
        parser.error(f"{path} names {error}, which the suite does not know")
    print("\n".join([*measured_tables(results), "", *target_table(results)]))
    return 0


def _read(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Return what is in a file of results or plots; without such a file the program ends with a sentence."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        parser.error(f"cannot read {path}: {error.strerror}")
    except ValueError:
        data = None
    if not isinstance(data, dict) or "machine" not in data or not data.keys() & {"cases", "plots"}:
        parser.error(f"{path} has no results")
    return data


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status: 2 where there was nothing to be done."""
    if absent := [name for name in ("rich", "matplotlib") if importlib.util.find_spec(name) is None]:
        print(f"not installed: {', '.join(absent)}; the extra `bench` of rawws brings what the suite needs")
        return 2
    try:
        return _command(argv)
    except (build.BuildError, BenchmarkError) as error:
        print(error, file=sys.stderr)
        return 2


def _command(argv: Sequence[str]) -> int:
    command, *rest = argv or [""]
    if command == "compare":
        from benchmarks import compare

        return compare.main(rest)
    if command == "codec":
        from benchmarks import codec

        return codec.main(rest)
    if command == "growth":
        from benchmarks import growth

        return growth.main(rest)
    if command == "chart":
        return _chart(rest)
    if command == "tables":
        return _tables(rest)
    return _run(argv)


if __name__ == "__main__":
    end_as_interrupted()
    sys.exit(main(sys.argv[1:]))
