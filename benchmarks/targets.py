"""The figures that rawws sets itself, as data, and whether a run reached them.

A target compares the subject with the best of some peers, by medians of ratios within rounds, or with a fixed
amount. One that cannot be computed from a run, because a peer or a case is absent, is left out; so is one against
several peers of which some were not measured, for the best may be among them. Who cannot do a case is not missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.results import Results

__all__ = ["TARGETS", "Target", "check_targets"]

_PYTHON_PEERS = (
    "picows",
    "aiohttp",
    "websockets",
    "websockets-trio",
    "uvicorn",
    "hypercorn",
    "trio-websocket",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One bound on one figure of one rawws peer."""

    case: str
    subject: str
    bound: float
    against: tuple[str, ...] = ()
    """The best of these peers is the unit of the bound; empty: the bound is an amount."""
    at_most: bool = False
    metric: str = "rate"

    @property
    def text(self) -> str:
        """The bound in words."""
        sign = "≤" if self.at_most else "≥"
        if not self.against:
            return f"{sign} {self.bound:g}"
        unit = self.against[0] if len(self.against) == 1 else "the best Python peer"
        return f"{sign} {self.bound:g} x {unit}"

    def met(self, value: float) -> bool:
        """Return whether a measured value keeps the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


TARGETS: tuple[Target, ...] = (
    Target(case="echo", subject="rawws", against=("picows",), bound=0.85),
    Target(case="echo", subject="rawws", against=("aiohttp",), bound=1.6),
    Target(case="echo", subject="rawws-compiled", against=("picows",), bound=1.0),
    Target(case="echo", subject="rawws-task", against=("aiohttp",), bound=0.95),
    Target(case="echo", subject="rawws-task", against=("websockets-trio",), bound=5),
    Target(case="pipelined", subject="rawws", against=("picows",), bound=3),
    Target(case="pipelined", subject="rawws-task", against=("aiohttp",), bound=1.2),
    Target(case="echo-1", subject="rawws", against=("aiohttp",), bound=1.0),
    Target(case="echo-1000", subject="rawws", against=("picows",), bound=0.85),
    Target(case="echo-1000", subject="rawws-compiled", against=("picows",), bound=1.0),
    Target(case="binary-64k", subject="rawws", against=_PYTHON_PEERS, bound=0.95),
    Target(case="binary-1m", subject="rawws", against=_PYTHON_PEERS, bound=0.95),
    Target(case="binary-64k", subject="rawws-plain", against=("uvicorn",), bound=1.0),
    Target(case="binary-1m", subject="rawws-plain", against=("uvicorn",), bound=1.0),
    Target(case="deflate", subject="rawws", against=_PYTHON_PEERS, bound=1.0),
    Target(case="broadcast", subject="rawws", against=("picows",), bound=1.0),
    Target(case="broadcast", subject="rawws", against=("floor",), bound=0.75),
    Target(case="handshakes", subject="rawws", against=("aiohttp",), bound=1.0),
    Target(case="memory-10k", subject="rawws", bound=2048, at_most=True, metric="bytes"),
    Target(case="memory-10k", subject="rawws-task", bound=6144, at_most=True, metric="bytes"),
    Target(case="latency", subject="rawws", against=("picows",), bound=1.2, at_most=True, metric="p99_us"),
    Target(case="client-1", subject="rawws-client", against=("aiohttp-client",), bound=1.0),
    Target(case="client-1", subject="rawws-client", against=("websockets-trio-client",), bound=5),
    Target(case="client-1", subject="rawws-client", against=("trio-websocket-client",), bound=5),
    Target(case="client-64", subject="rawws-client", against=("aiohttp-client",), bound=1.0),
    Target(case="client-64", subject="rawws-client", against=("websockets-trio-client",), bound=5),
    Target(case="client-64", subject="rawws-client", against=("trio-websocket-client",), bound=5),
    Target(case="chat", subject="rawws-task", bound=250, at_most=True, metric="p99_ms"),
    Target(case="start", subject="rawws", against=("aiohttp",), bound=1.1, at_most=True, metric="ms"),
)


def check_targets(results: Results) -> list[tuple[Target, float]]:
    """Return the targets that a run can judge, each with what was measured."""
    checked = []
    for target in TARGETS:
        value = _measured(results, target)
        if value is not None:
            checked.append((target, value))
    return checked


def _measured(results: Results, target: Target) -> float | None:
    case = next((case for case in results.cases if case.name == target.case), None)
    if case is None:
        return None
    metric = next(metric for metric in case.metrics if metric.key == target.metric)
    if not target.against:
        row = results.rows[case.name].get(target.subject)
        found = row.spread(metric) if row is not None and not row.error else None
        return found.median if found is not None else None
    rows = results.rows[case.name]
    able = [name for name in target.against if name not in rows or not rows[name].skipped]
    against = [results.ratio(case, metric, target.subject, reference=name) for name in able]
    ratios = [ratio for ratio in against if ratio is not None]
    if not ratios or len(ratios) < len(against):
        return None
    return max(ratios) if target.at_most else min(ratios)
