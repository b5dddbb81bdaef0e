"""The table of cases: what each one sends, to how many connections, and what is read off.

This module is data. A case names a mode of a load generator (`load.c`, or `chat.c` for its one mode) with its
options, the mode of the servers, and its metrics; the runner knows how to carry a mode out, the report how to
print a metric. It knows nothing of peers but what a server must be able to do for the case.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CASES", "Case", "Metric", "Mode", "Payload", "select_cases"]

Mode: TypeAlias = Literal["echo", "broadcast", "handshakes", "latency", "memory", "start", "chat", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of a case."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The messages of a case."""

    kind: Literal["text", "binary", "json"] = "text"
    size: int = 32
    """Bytes of one message before compression."""
    count: int = 64
    """Different messages; they are sent in turn."""
    deflated: bool = False
    """Offer permessage-deflate and send the messages compressed, with context takeover and 12 window bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table in the README."""

    name: str
    title: str
    mode: Mode
    metrics: tuple[Metric, ...]
    connections: int = 64
    active: int | None = None
    """How many of the connections send; None: all."""
    depth: int = 1
    """Messages a connection sends in one write before it waits for the replies; of a broadcast, under way."""
    payload: Payload = Payload()
    echoes: int = 0
    """Messages that each connection has echoed before its memory counts."""
    settle: float = 0.0
    """Seconds between the last handshake and the first message."""
    period: float = 1.0
    """Seconds between two messages of a member of the chat."""
    reference: str | None = None
    """The peer that ratios are taken to; None: that of the run."""

    @property
    def sample(self) -> int:
        """Compare the content of every n-th reply: of each one while that costs the generator nothing."""
        return 1 if self.payload.size <= 4096 else 8


_MESSAGES = (Metric(key="rate", title="messages", unit="msg/s"),)
_MEMORY = (Metric(key="bytes", title="memory", unit="B/connection", higher_is_better=False),)

CASES: tuple[Case, ...] = (
    Case(name="echo", title="Echo, 32 B text, 64 connections", mode="echo", metrics=_MESSAGES),
    Case(name="echo-1", title="Echo, 32 B text, 1 connection", mode="echo", metrics=_MESSAGES, connections=1),
    Case(
        name="echo-1000",
        title="Echo, 32 B text, 1000 connections",
        mode="echo",
        metrics=_MESSAGES,
        connections=1000,
    ),
    Case(
        name="pipelined",
        title="Echo, 32 B text, 64 connections, 16 deep",
        mode="echo",
        metrics=_MESSAGES,
        depth=16,
    ),
    Case(
        name="binary-1k",
        title="Echo, 1 KiB binary, 64 connections",
        mode="echo",
        metrics=_MESSAGES,
        payload=Payload(kind="binary", size=1024),
    ),
    Case(
        name="binary-64k",
        title="Echo, 64 KiB binary, 16 connections",
        mode="echo",
        metrics=_MESSAGES,
        connections=16,
        payload=Payload(kind="binary", size=64 * 1024, count=16),
    ),
    Case(
        name="binary-1m",
        title="Echo, 1 MiB binary, 4 connections",
        mode="echo",
        metrics=_MESSAGES,
        connections=4,
        payload=Payload(kind="binary", size=1024 * 1024, count=4),
    ),
    Case(
        name="deflate",
        title="Echo, 4 KiB JSON deflated, 64 connections",
        mode="echo",
        metrics=_MESSAGES,
        payload=Payload(kind="json", size=4096, deflated=True),
    ),
    Case(
        name="broadcast",
        title="Broadcast, 32 B text to 1000 connections",
        mode="broadcast",
        metrics=(Metric(key="rate", title="deliveries", unit="deliveries/s"),),
        connections=1000,
        depth=2,
        settle=0.5,
    ),
    Case(
        name="handshakes",
        title="Connect, upgrade, close; 64 at a time",
        mode="handshakes",
        metrics=(Metric(key="rate", title="connections", unit="connections/s"),),
    ),
    Case(
        name="latency",
        title="Latency of a probe while 64 connections echo",
        mode="latency",
        metrics=(
            Metric(key="p50_us", title="p50", unit="µs", higher_is_better=False),
            Metric(key="p99_us", title="p99", unit="µs", higher_is_better=False),
            Metric(key="p999_us", title="p99.9", unit="µs", higher_is_better=False),
        ),
    ),
    Case(
        name="chat",
        title="Chat, a room of 1000, each says 32 B once a second",
        mode="chat",
        metrics=(
            Metric(key="p50_ms", title="delivery p50", unit="ms", higher_is_better=False),
            Metric(key="p99_ms", title="delivery p99", unit="ms", higher_is_better=False),
            Metric(key="max_ms", title="delivery max", unit="ms", higher_is_better=False),
            Metric(key="rate", title="deliveries", unit="deliveries/s"),
        ),
        connections=1000,
        settle=1.0,
    ),
    Case(
        name="client-1",
        title="Client, 32 B text echoed by the floor, 1 connection",
        mode="client",
        metrics=_MESSAGES,
        connections=1,
        reference="rawws-client",
    ),
    Case(
        name="client-64",
        title="Client, 32 B text echoed by the floor, 64 connections",
        mode="client",
        metrics=_MESSAGES,
        reference="rawws-client",
    ),
    Case(
        name="memory-1k",
        title="Memory per idle connection, 1000",
        mode="memory",
        metrics=_MEMORY,
        connections=1000,
    ),
    Case(
        name="memory-10k",
        title="Memory per idle connection, 10 000",
        mode="memory",
        metrics=_MEMORY,
        connections=10_000,
    ),
    Case(
        name="memory-deflated",
        title="Memory per idle connection that has echoed 4 KiB JSON deflated twice, 1000",
        mode="memory",
        metrics=_MEMORY,
        connections=1000,
        payload=Payload(kind="json", size=4096, deflated=True),
        echoes=2,
    ),
    Case(
        name="start",
        title="Start of the process to its first handshake",
        mode="start",
        metrics=(Metric(key="ms", title="time", unit="ms", higher_is_better=False),),
    ),
)


def select_cases(patterns: Iterable[str]) -> tuple[Case, ...]:
    """Return the cases whose names match a shell pattern, in the table's order; all of them without patterns.

    Raises:
        ValueError: a pattern matches no case.
    """
    wanted = list(patterns)
    for pattern in wanted:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f"no case is called {pattern!r}; there are {', '.join(case.name for case in CASES)}")
    return tuple(
        case for case in CASES if not wanted or any(fnmatch.fnmatchcase(case.name, pattern) for pattern in wanted)
    )
