"""Show a run in the terminal: the bar and the time left while it works, the tables at the end.

Rendering only: everything that is printed was computed in `results`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks.targets import check_targets

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from benchmarks.cases import Case, Metric
    from benchmarks.registry import Peer
    from benchmarks.results import Outcome, Results, Row

__all__ = ["Display", "case_table", "figure", "make_console", "print_results", "time_text"]


def make_console() -> Console:
    """Return the terminal; output that goes to a file or a pipe gets room for a whole row."""
    console = Console()
    return console if console.is_terminal else Console(width=150)


def figure(value: float) -> str:
    """Write a figure with three significant digits at least, and thin groups: 1 069 000, 44.1, 0.873."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def time_text(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


class Display:
    """The progress bar of a run, on a terminal; a `Watcher`. A line is printed for every error as it happens."""

    def __init__(self, console: Console, seconds: dict[str, float], measurements: int, total: float) -> None:
        """Make a bar for `measurements` steps of `seconds` each by case, `total` seconds in all."""
        self._seconds = seconds
        self._total = total
        self._done = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("about {task.fields[left]} left"),
            console=console,
            refresh_per_second=2,  # the screen must not take the load generator's core
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting", total=measurements, left=time_text(total))

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def before(self, case: Case, peer: Peer, round_number: int) -> None:
        """Say what is measured now."""
        self._progress.update(self._task, description=f"{case.name}, {peer.name}, round {round_number + 1}")

    def after(self, case: Case, peer: Peer, outcome: Outcome) -> None:
        """Count one measurement; the time left scales the estimate by how long the run took so far."""
        self._done += self._seconds[case.name]
        elapsed = self._progress.tasks[0].elapsed or 0.0
        left = (self._total - self._done) * elapsed / self._done
        self._progress.update(self._task, advance=1, left=time_text(left))
        if outcome.error:
            self._progress.console.print(Text(f"{case.name}, {peer.name}: {outcome.error}", style="red"))


def _cpu(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _remark(row: Row) -> str:
    remarks = [f"{'floor' if row.peer.is_client else 'client'}-bound"] if row.client_bound else []
    return "; ".join([*remarks, *row.notes])


def case_table(results: Results, case: Case, metric: Metric) -> Table:
    """Build the table of one figure, the best peer first, then what was skipped or failed."""
    title = f"{case.title}: {metric.title}, {metric.unit}" if len(case.metrics) > 1 else f"{case.title} ({metric.unit})"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    measured_kind, other_kind = ("client", "floor") if case.mode == "client" else ("server", "client")
    table.add_column(measured_kind)
    reference = case.reference or results.reference
    for name in ("median", "min to max", f"÷ {reference}", f"{measured_kind} CPU", f"{other_kind} CPU"):
        table.add_column(name, justify="right")
    table.add_column("remarks", overflow="fold")
    measured = []
    for row in results.measured(case):
        found = row.spread(metric)
        if found is not None:
            measured.append((found.median, row, found))
    for _, row, found in sorted(measured, key=lambda item: item[0], reverse=metric.higher_is_better):
        ratio = results.ratio(case, metric, row.peer.name)
        table.add_row(
            row.peer.label,
            figure(found.median),
            f"{figure(found.low)} to {figure(found.high)}",
            "" if ratio is None else f"{ratio:.2f}",
            _cpu(row.server_cpu),
            _cpu(row.client_cpu),
            _remark(row),
            style="bold" if row.peer.name.startswith("rawws") else None,
        )
    for row in results.rows[case.name].values():
        if row.error:
            table.add_row(row.peer.label, "error", "", "", "", "", row.error, style="red")
        elif row.skipped:
            table.add_row(row.peer.label, "-", "", "", "", "", row.skipped, style="dim")
    return table


def print_results(console: Console, results: Results) -> None:
    """Print every table, the peers that are absent, and the figures to reach."""
    for case in results.cases:
        for metric in case.metrics:
            console.print(case_table(results, case, metric))
    for name, reason in results.absent.items():
        console.print(f"skipped {name}: {reason}")
    if checked := check_targets(results):
        table = Table(title="Figures to reach", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in ("case", "rawws", "bound", "measured", ""):
            table.add_column(column)
        for target, value in checked:
            met = target.met(value)
            table.add_row(
                target.case, target.subject, target.text, figure(value), "reached" if met else "missed",
                style="green" if met else "red",
            )  # fmt: skip
        console.print(table)
