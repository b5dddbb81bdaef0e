"""What the server must stand, as rules over what was seen: pure functions, so that they can be tested.

Memory is judged by the straight line that fits the samples after the warm-up best: a leak shows in its slope, and what
comes and goes with the peers does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MAX_RISE", "MIN_RISE", "Sample", "broken_rules", "line_through", "percentile"]

MAX_RISE: Final = 0.08
"""How much memory may rise along the line from the end of the warm-up to the end, as a share of what it was."""
MIN_RISE: Final = 8 * 1024 * 1024
"""Bytes that it may rise in any case."""


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server.

    Attributes:
        seconds: since the beginning.
        memory: bytes resident.
        descriptors: open.
        connections: open, as the peers count them.
        latencies: seconds from message to reply at healthy peers since the last look, the median and the 99th of 100;
            None where there were none.
    """

    seconds: float
    memory: int
    descriptors: int
    connections: int
    latencies: tuple[float, float] | None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed; of sorted values, at least one."""
    return values[min(len(values) - 1, int(len(values) * share))]


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope and the height at 0 of the line with the least squares of distances; two points at least."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slope, mean_y - slope * mean_x


def broken_rules(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each rule that was broken; the keys are those that `__main__` writes."""
    broken = []
    if summary["errors"]:
        broken.append(f"healthy peers: {len(summary['errors'])} errors, the first: {summary['errors'][0]}")
    if summary["spared"]:
        broken.append(
            f"hostile peers: {len(summary['spared'])} did not get what they deserve, the first: {summary['spared'][0]}"
        )
    if missing := [name for name, times in summary["attacks"].items() if not times]:
        broken.append(f"hostile peers: never seen to the end: {', '.join(missing)}")
    if summary["most_connections"] < 0.95 * summary["wanted_connections"]:
        broken.append(
            f"load: {summary['most_connections']} connections at most, {summary['wanted_connections']} were wanted"
        )
    memory = summary["memory"]
    allowed = max(MIN_RISE, MAX_RISE * memory["at_warm_up"])
    if memory["rise"] > allowed:
        broken.append(
            f"memory: rose by {memory['rise'] / 1e6:.1f} MB after the warm-up, {allowed / 1e6:.1f} MB are allowed"
        )
    descriptors = summary["descriptors"]
    if descriptors["left"] != descriptors["expected"]:
        broken.append(
            f"descriptors: {descriptors['left']} were open when all but {summary['kept']} peers had left, "
            f"{descriptors['expected']} were expected"
        )
    if summary["parted"] != summary["kept"]:
        broken.append(f"shutdown: {summary['parted']} of {summary['kept']} peers had a good end")
    if summary["exit_status"] != 0:
        broken.append(f"shutdown: the server ended with {summary['exit_status']}")
    if summary["shutdown_seconds"] > summary["shutdown_allowed"]:
        broken.append(f"shutdown: it took {summary['shutdown_seconds']:.1f} s")
    if summary["logged"]:
        broken.append(f"log: {summary['logged']}")
    return broken
