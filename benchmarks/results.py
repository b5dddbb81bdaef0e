"""What a run yields and what is made of it: outcomes, medians, spreads, ratios, and the JSON of all of them.

Pure: no processes, no terminal. One `Outcome` is one measurement of one peer in one case. Repetitions are
interleaved, so the ratio of two peers is taken within each round and the median of these ratios is reported:
what slows the machine for a while slows both.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.cases import Case, Metric
    from benchmarks.registry import Peer

__all__ = ["CLIENT_BOUND", "Outcome", "Results", "Row", "Spread", "median_ratio", "spread"]

CLIENT_BOUND = 0.9
"""The load generator's share of its core above which a row says more about it than about the server."""


_RUN = ("date", "command", "revision")
"""What each row says of the run that measured it: rows of several runs may meet in one file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement, or why there is none."""

    values: Mapping[str, float] = field(default_factory=dict)
    """The case's metrics by key."""
    client_cpu: float | None = None
    """The load generator's share of a core in the measured time, 0 to 1; where clients are measured, the floor's."""
    server_cpu: float | None = None
    """The server's; where clients are measured, the client's."""
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several measurements of one figure come to."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the least and the greatest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def median_ratio(values: Sequence[float | None], reference: Sequence[float | None]) -> float | None:
    """Return the median of value ÷ reference over the rounds that have both; None without one."""
    ratios = [value / base for value, base in zip(values, reference, strict=False) if value is not None and base]
    return statistics.median(ratios) if ratios else None


@dataclass(slots=True)
class Row:
    """One peer in one case."""

    peer: Peer
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Date, command and revision of the run that measured it."""

    @property
    def error(self) -> str:
        """The first error, or an empty string."""
        return next((outcome.error for outcome in self.outcomes if outcome.error), "")

    def values(self, metric: Metric) -> list[float | None]:
        """Return one figure for each round, None where there is none."""
        return [outcome.values.get(metric.key) for outcome in self.outcomes]

    def spread(self, metric: Metric) -> Spread | None:
        """Return the figure's median and spread over the rounds; None when nothing was measured."""
        values = [value for value in self.values(metric) if value is not None]
        return spread(values) if values else None

    @property
    def client_cpu(self) -> float | None:
        """The median share of a core that the load generator took."""
        shares = [outcome.client_cpu for outcome in self.outcomes if outcome.client_cpu is not None]
        return statistics.median(shares) if shares else None

    @property
    def server_cpu(self) -> float | None:
        """The median share of a core that the server took."""
        shares = [outcome.server_cpu for outcome in self.outcomes if outcome.server_cpu is not None]
        return statistics.median(shares) if shares else None

    @property
    def client_bound(self) -> bool:
        """The load generator was the bottleneck: the server may be faster than the row says."""
        return self.client_cpu is not None and self.client_cpu > CLIENT_BOUND

    @property
    def notes(self) -> tuple[str, ...]:
        """Every different note, in order."""
        return tuple(dict.fromkeys(note for outcome in self.outcomes for note in outcome.notes))


@dataclass(slots=True)
class Results:
    """Everything that one run of the suite measured."""

    machine: Mapping[str, Any]
    reference: str
    cases: list[Case] = field(default_factory=list)
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    """Rows by the names of case and peer."""
    absent: dict[str, str] = field(default_factory=dict)
    """Peers that could not be started here, and why."""

    def row(self, case: Case, peer: Peer) -> Row:
        """Return the row of a peer in a case, making it when it is new."""
        if case.name not in self.rows:
            self.cases.append(case)
            self.rows[case.name] = {}
        run = {key: self.machine[key] for key in _RUN if key in self.machine}
        return self.rows[case.name].setdefault(peer.name, Row(peer, run=run))

    def measured(self, case: Case) -> list[Row]:
        """Return the case's rows that have figures."""
        return [row for row in self.rows[case.name].values() if row.outcomes and not row.error]

    def ratio(self, case: Case, metric: Metric, name: str, reference: str | None = None) -> float | None:
        """Return a peer's median ratio to the reference, or None when one of them has no figure."""
        rows = self.rows.get(case.name, {})
        row, base = rows.get(name), rows.get(reference or case.reference or self.reference)
        if row is None or base is None or row.error or base.error:
            return None
        return median_ratio(row.values(metric), base.values(metric))

    @property
    def errors(self) -> list[str]:
        """One line for every row that ended with an error."""
        return [f"{case}, {row.peer.name}: {row.error}" for case, row in self._all_rows() if row.error]

    def _all_rows(self) -> Iterator[tuple[str, Row]]:
        for case, rows in self.rows.items():
            for row in rows.values():
                yield case, row

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data, each measurement included."""
        return {
            "machine": dict(self.machine),
            "reference": self.reference,
            "absent": self.absent,
            "cases": [
                {
                    "name": case.name,
                    "title": case.title,
                    "metrics": [asdict(metric) for metric in case.metrics],
                    "rows": [self._row_to_json(case, row) for row in self.rows[case.name].values()],
                }
                for case in self.cases
            ],
        }

    def _row_to_json(self, case: Case, row: Row) -> dict[str, Any]:
        figures = {}
        for metric in case.metrics:
            if (found := row.spread(metric)) is not None:
                ratio = self.ratio(case, metric, row.peer.name)
                figures[metric.key] = {
                    "median": found.median,
                    "min": found.low,
                    "max": found.high,
                    "ratio": ratio,
                    "runs": row.values(metric),
                }
        return {
            "peer": row.peer.name,
            "label": row.peer.label,
            "figures": figures,
            "client_cpu": row.client_cpu,
            "server_cpu": row.server_cpu,
            "client_bound": row.client_bound,
            "notes": list(row.notes),
            "skipped": row.skipped,
            "error": row.error,
            "run": dict(row.run),
        }
