"""Measure how costs grow with the work: `python -m benchmarks growth`.

Three plots: messages a second as connections go from 1 to 10 000, of which at most 64 are busy; memory of
each idle connection from 1000 to 10 000; and the time of one broadcast as its room grows from 10 to 5000. The
first two should stay flat, the third grow in step with the room.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.cases import CASES, Case
from benchmarks.registry import REFERENCE, select_peers
from benchmarks.session import add_plan_arguments, measure_all, plan_from

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import Results

__all__ = ["PLOTS", "Plot", "main", "plot_cases", "plot_data"]

_PEERS = "rawws,rawws-task,floor,picows,aiohttp"
_BUSY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure as one number grows."""

    name: str
    title: str
    unit: str
    axis: str
    case: str
    """The case it varies."""
    sizes: tuple[int, ...]
    log: bool = False
    """Draw the figure on a logarithmic axis too: what grows in step is a straight line."""

    def value(self, size: int, figure: float) -> float:
        """Return what is plotted for a measured figure of the case."""
        return _VALUES[self.name](size, figure)


_VALUES: dict[str, Callable[[int, float], float]] = {
    "connections": lambda size, rate: rate,
    "memory": lambda size, amount: amount / 1024,
    "room": lambda size, rate: size / rate * 1e3,
}

PLOTS: tuple[Plot, ...] = (
    Plot(
        name="connections",
        title=f"Echo, 32 B text, at most {_BUSY} connections busy",
        unit="messages/s",
        axis="open connections",
        case="echo",
        sizes=(1, 10, 100, 1000, 10_000),
    ),
    Plot(
        name="memory",
        title="Memory per idle connection",
        unit="KiB",
        axis="open connections",
        case="memory-1k",
        sizes=(1000, 2000, 5000, 10_000),
    ),
    Plot(
        name="room",
        title="Time of one broadcast, 32 B text",
        unit="ms",
        axis="connections in the room",
        case="broadcast",
        sizes=(10, 100, 1000, 5000),
        log=True,
    ),
)


def plot_cases(plot: Plot) -> list[Case]:
    """Return the cases behind a plot, one for each size."""
    base = next(case for case in CASES if case.name == plot.case)
    return [
        replace(
            base,
            name=f"{plot.name}-{size}",
            title=f"{plot.title}: {size} {plot.axis}",
            connections=size,
            active=min(size, _BUSY) if plot.name == "connections" else None,
        )
        for size in plot.sizes
    ]


def plot_data(results: Results, plots: Sequence[Plot]) -> dict[str, Any]:
    """Return the plots as plain data: for each peer the points (size, median)."""
    drawn = []
    for plot in plots:
        series: dict[str, list[list[float]]] = {}
        for case in plot_cases(plot):
            if case.name not in results.rows:
                continue
            for row in results.measured(case):
                found = row.spread(case.metrics[0])
                if found is not None:
                    point = [case.connections, plot.value(case.connections, found.median)]
                    series.setdefault(row.peer.label, []).append(point)
        drawn.append(
            {
                "name": plot.name,
                "title": plot.title,
                "unit": plot.unit,
                "axis": plot.axis,
                "log": plot.log,
                "series": series,
            }
        )
    return {"machine": dict(results.machine), "plots": drawn}


def main(argv: Sequence[str]) -> int:
    """Run `python -m benchmarks growth` and return its exit status."""
    names = [plot.name for plot in PLOTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__.partition("\n\n")[0])
    parser.add_argument("plots", nargs="*", metavar="PLOT", help=f"of: {', '.join(names)} (default: all)")
    parser.add_argument("--peers", default=_PEERS, help=f"comma-separated (default: {_PEERS})")
    parser.add_argument("--json", type=Path, default=build.BUILD / "growth.json", help="where the results go")
    parser.add_argument("--chart", type=Path, help="where the plots go (default: beside the results)")
    add_plan_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        peers = select_peers(arguments.peers.split(","))
        plan = plan_from(arguments)
    except ValueError as error:
        parser.error(str(error))
    if unknown := [name for name in arguments.plots if name not in names]:
        parser.error(f"no plot is called {unknown[0]!r}")
    plots = [plot for plot in PLOTS if not arguments.plots or plot.name in arguments.plots]

    from benchmarks.chart import draw_lines
    from benchmarks.report import figure, make_console

    console = make_console()
    cases = [case for plot in plots for case in plot_cases(plot)]
    results, finished = measure_all(console, cases, peers, plan, REFERENCE)
    data = plot_data(results, plots)
    for plot in data["plots"]:
        console.print(f"{plot['title']}, {plot['unit']}", style="bold")
        for label, points in plot["series"].items():
            console.print(f"  {label}: " + ", ".join(f"{size:g}: {figure(value)}" for size, value in points))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(data, indent=1) + "\n")
    chart = arguments.chart or arguments.json.with_suffix(".svg")
    drawn = draw_lines(data, chart)
    console.print(f"results: {arguments.json}" + (f", plots: {chart}" if drawn else ""))
    return 0 if finished and not results.errors else 1
