"""Write a results file as the README shows it: what was measured, and the figures to reach.

`python -m benchmarks tables benchmarks/results.json` prints Markdown; a test holds the README to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES
from benchmarks.registry import select_peers
from benchmarks.report import figure
from benchmarks.results import Outcome, Results
from benchmarks.targets import check_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.registry import Peer

__all__ = ["load", "measured_tables", "target_table"]


@dataclass(frozen=True, slots=True)
class _Column:
    case: str
    metric: str
    head: str
    unit: float = 1.0


_TABLES = (
    (
        _Column("echo-1", "rate", "1 connection", 1e3),
        _Column("echo", "rate", "64", 1e3),
        _Column("echo-1000", "rate", "1000", 1e3),
        _Column("pipelined", "rate", "16 deep", 1e3),
        _Column("deflate", "rate", "JSON deflated", 1e3),
        _Column("binary-1k", "rate", "1 KiB", 1e3),
        _Column("binary-64k", "rate", "64 KiB", 1e3),
        _Column("binary-1m", "rate", "1 MiB", 1e3),
        _Column("broadcast", "rate", "broadcast", 1e3),
        _Column("handshakes", "rate", "handshakes", 1e3),
    ),
    (
        _Column("latency", "p50_us", "p50, µs"),
        _Column("latency", "p99_us", "p99, µs"),
        _Column("latency", "p999_us", "p99.9, µs"),
        _Column("memory-1k", "bytes", "memory of 1000, KiB each", 1024),
        _Column("memory-10k", "bytes", "of 10 000", 1024),
        _Column("memory-deflated", "bytes", "after JSON deflated", 1024),
        _Column("start", "ms", "start, ms"),
    ),
    (
        _Column("client-1", "rate", "1 connection", 1e3),
        _Column("client-64", "rate", "64", 1e3),
    ),
)


def load(data: Mapping[str, Any]) -> Results:
    """Make results of what `Results.to_json` returned; of what measured them, the load's and server's shares alone.

    Raises:
        KeyError: it names a case or a peer that is no longer there.
    """
    cases = {case.name: case for case in CASES}
    peers = {peer.name: peer for peer in _every_peer()}
    results = Results(data["machine"], data["reference"], absent=dict(data["absent"]))
    for found in data["cases"]:
        for line in found["rows"]:
            row = results.row(cases[found["name"]], peers[line["peer"]])
            row.skipped, row.run = line["skipped"], line.get("run", {})
            runs = {key: values["runs"] for key, values in line["figures"].items()}
            for number in range(max(map(len, runs.values()), default=0)):
                values = {key: run[number] for key, run in runs.items() if run[number] is not None}
                if values:
                    row.outcomes.append(Outcome(values, line["client_cpu"], line["server_cpu"]))
            if line["error"]:
                row.outcomes.append(Outcome(error=line["error"]))
    return results


def _every_peer() -> Iterator[Peer]:
    yield from select_peers([peer.name for peer in select_peers(None)], compiled=".")
    yield from select_peers(["rawws-no-lane"], compiled=".")


def measured_tables(results: Results) -> Iterator[str]:
    """Yield the lines of a table of rates, one of latency, memory and start, and one of clients.

    Columns of cases that were not measured are left out, and so is a table without any.
    """
    for every in _TABLES:
        columns = [column for column in every if column.case in results.rows]
        if not columns:
            continue
        metrics = []
        for column in columns:
            case = next(case for case in results.cases if case.name == column.case)
            metrics.append((case, next(metric for metric in case.metrics if metric.key == column.metric)))
        rows = list(results.rows[columns[0].case].values())
        yield ""
        yield _line(["client" if rows[0].peer.is_client else "server", *(column.head for column in columns)])
        yield _line(["---", *("---:" for _ in columns)])
        for peer in (row.peer for row in rows):
            cells = [peer.label]
            for column, (case, metric) in zip(columns, metrics, strict=True):
                row = results.rows[case.name].get(peer.name)
                found = None if row is None or row.error else row.spread(metric)
                if row is None or found is None:
                    cells.append("")
                else:
                    cells.append(figure(found.median / column.unit) + ("*" if row.client_bound else ""))
            yield _line(cells)


def target_table(results: Results) -> Iterator[str]:
    """Yield the lines of the table of the figures to reach."""
    yield _line(["case", "of", "bound", "measured", ""])
    yield _line(["---", "---", "---", "---:", "---"])
    for target, value in check_targets(results):
        word = "reached" if target.met(value) else "missed"
        yield _line([f"`{target.case}`", target.subject, target.text, figure(value), word])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
