"""What a server did and how it stands, in numbers, as Prometheus reads them.

Strategy: connections count their own messages and bytes; what else happens is added to plain integers where it
happens, none of it once a message. A scrape adds the open connections to the totals of those that are gone. The
result is a plain dictionary, so that several processes can be merged into one before it is written out. Rules:

* Label values come from tables of ours, never from a peer: what a peer makes up is counted as `other`.
* A counter never falls, although the policy `drop_oldest` takes messages back that were counted as sent.
* prometheus_client is imported at the first scrape, not before.

Cost: a few additions a connection; half a microsecond for each open connection a scrape. It knows what a `Server`
shows of itself.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, final

from .errors import CloseCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from .server import Server
    from .websocket import WebSocket

__all__ = ["CONTENT_TYPE", "Counters", "Snapshot", "collect", "merge", "render", "retire"]

Snapshot: TypeAlias = dict[str, dict[str, float]]
"""A metric's name, without `_total`; its label values joined by commas, empty where it has none; the number."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The Content-Type of what `render` returns."""

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends, in seconds, of the buckets of round-trip times, from a local network's to a dying one's."""
_BUCKET_NAMES: Final = (*map(str, _BUCKETS), "+Inf")
_REFUSALS: Final = (
    "accept_timeout",
    "application",
    "descriptors",
    "error",
    "head_timeout",
    "host",
    "malformed",
    "max_connections",
    "max_connections_per_address",
    "max_pending_handshakes",
    "method",
    "not_found",
    "origin",
    "shutdown",
    "version",
)
_ACTIONS: Final = ("close", "cut", "drop_newest", "drop_oldest")
_CODES: Final = frozenset(map(int, CloseCode))


class _Family(NamedTuple):
    kind: Literal["counter", "gauge", "maximum", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_FAMILIES: Final = {
    "rawws_connections_open": _Family("gauge", "Connections now, by what they speak.", ("protocol",)),
    "rawws_connections_accepted": _Family("counter", "Connections that were accepted."),
    "rawws_connections_refused": _Family("counter", "Requests and handshakes refused, by why.", ("reason",)),
    "rawws_websockets_opened": _Family("counter", "Opening handshakes that were completed."),
    "rawws_websockets_closed": _Family(
        "counter", "WebSocket connections that ended, by code and who ended them.", ("code", "by")
    ),
    "rawws_messages_received": _Family("counter", "Messages from peers."),
    "rawws_messages_sent": _Family("counter", "Messages to peers."),
    "rawws_received_bytes": _Family("counter", "Bytes of frames from peers."),
    "rawws_sent_bytes": _Family("counter", "Bytes of frames to peers."),
    "rawws_pings_sent": _Family("counter", "Pings to peers."),
    "rawws_round_trip_seconds": _Family("histogram", "What the last answered ping of each open connection took."),
    "rawws_slow_consumer_actions": _Family(
        "counter", "Messages dropped, and connections closed or cut, because a peer did not read.", ("action",)
    ),
    "rawws_send_queue_bytes": _Family("gauge", "Bytes that wait for peers to read."),
    "rawws_receive_queue_bytes": _Family("gauge", "Bytes of messages that wait for the application."),
    "rawws_handlers_running": _Family("gauge", "Async handlers that run."),
    "rawws_reactor_busy_seconds": _Family("counter", "Time that the reactor spent on its sockets."),
    "rawws_reactor_lag_seconds": _Family("maximum", "The longest delay of the event loop in the last minute or two."),
    "rawws_workers": _Family("gauge", "Processes that serve together, by what they do.", ("state",)),
    "rawws_worker_deaths": _Family("counter", "Processes of those that ended although nobody had told them to."),
}


@final
class Counters:
    """What a server adds up while it runs.

    Attributes:
        accepted: connections that were accepted.
        refused: requests and handshakes that were refused, by why.
        closed: WebSocket connections that are gone, by code and who ended them.
        totals: what they did.
    """

    __slots__ = ("accepted", "closed", "refused", "shown", "totals")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = dict.fromkeys(_REFUSALS, 0)
        self.closed: dict[str, int] = {}
        self.totals = Totals()
        self.shown: dict[str, int] = {}  # what a counter that might fall was at the last scrape

    def refuse(self, reason: str) -> None:
        """Count a refusal."""
        self.refused[reason] += 1

    def forget(self, ws: WebSocket) -> None:
        """Count a connection that is gone."""
        if ws.refusal:
            self.refuse(ws.refusal)
        if ws.is_opened:
            assert ws.closed is not None
            key = f"{_code_label(ws.closed.code)},{ws.closed.by}"
            self.closed[key] = self.closed.get(key, 0) + 1
        self.totals.add(ws)

    def not_below(self, name: str, number: int) -> int:
        """Return a number, or the one that was shown before where that was more."""
        number = self.shown[name] = max(number, self.shown.get(name, 0))
        return number


@final
class Totals:
    """What connections did, added up."""

    __slots__ = (
        "actions",
        "bytes_received",
        "bytes_sent",
        "messages_received",
        "messages_sent",
        "opened",
        "pings_sent",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.pings_sent = 0
        self.actions = dict.fromkeys(_ACTIONS, 0)

    def add(self, of: WebSocket | Totals) -> None:
        """Add what a connection did, or several."""
        self.messages_received += of.messages_received
        self.messages_sent += of.messages_sent
        self.bytes_received += of.bytes_received
        self.bytes_sent += of.bytes_sent
        self.pings_sent += of.pings_sent
        if isinstance(of, Totals):
            self.opened += of.opened
            actions: dict[str, int] | None = of.actions
        else:
            self.opened += of.is_opened
            actions = of.slow_consumer_actions
        for action, count in (actions or {}).items():
            self.actions[action] += count


def collect(server: Server) -> Snapshot:
    """Return what a server counted and how it stands; to be called in the thread that it runs in."""
    counters = server.counters
    totals = Totals()
    totals.add(counters.totals)
    gone = totals.opened
    to_send = to_receive = 0
    buckets = [0] * len(_BUCKET_NAMES)
    round_trips = 0.0
    websockets = server.websockets
    for ws in websockets:
        totals.add(ws)
        to_send += ws.send_buffer
        to_receive += ws.receive_buffer
        if ws.latency is not None:
            buckets[bisect_left(_BUCKETS, ws.latency)] += 1
            round_trips += ws.latency
    opened = totals.opened - gone
    http = server.plain_connections + len(websockets) - opened
    return {
        "rawws_connections_open": {"http": http, "websocket": opened},
        "rawws_connections_accepted": {"": counters.accepted},
        "rawws_connections_refused": dict(counters.refused),
        "rawws_websockets_opened": {"": totals.opened},
        "rawws_websockets_closed": dict(counters.closed),
        "rawws_messages_received": {"": totals.messages_received},
        "rawws_messages_sent": {"": counters.not_below("messages", totals.messages_sent)},
        "rawws_received_bytes": {"": totals.bytes_received},
        "rawws_sent_bytes": {"": counters.not_below("bytes", totals.bytes_sent)},
        "rawws_pings_sent": {"": totals.pings_sent},
        "rawws_round_trip_seconds": {**dict(zip(_BUCKET_NAMES, accumulate(buckets), strict=True)), "sum": round_trips},
        "rawws_slow_consumer_actions": dict(totals.actions),
        "rawws_send_queue_bytes": {"": to_send},
        "rawws_receive_queue_bytes": {"": to_receive},
        "rawws_handlers_running": {"": server.running_handlers},
        "rawws_reactor_busy_seconds": {"": server.busy_seconds},
        "rawws_reactor_lag_seconds": {"": server.lag},
    }


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return several processes' numbers as one: sums, and the longest of what is a longest."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, numbers in snapshot.items():
            into = merged.setdefault(name, {})
            family = _FAMILIES.get(name)
            for key, number in numbers.items():
                before = into.get(key, 0)
                into[key] = max(before, number) if family and family.kind == "maximum" else before + number
    return merged


def retire(snapshot: Snapshot) -> Snapshot:
    """Return what is to be kept, and merged, of a process that has ended: its counters."""
    counters = {name for name, family in _FAMILIES.items() if family.kind == "counter"}
    return {name: dict(numbers) for name, numbers in snapshot.items() if name in counters}


def render(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus' text format, version 0.0.4; what it does not know is left out."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    """Gives prometheus_client the metrics of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily

        for name, family in _FAMILIES.items():
            numbers = self._snapshot.get(name, {})
            if family.kind == "histogram":
                buckets = [(upper, numbers.get(upper, 0.0)) for upper in _BUCKET_NAMES]
                yield GaugeHistogramMetricFamily(name, family.help, buckets=buckets, gsum_value=numbers.get("sum", 0.0))
                continue
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = make(name, family.help, labels=family.labels)
            for key, number in sorted(numbers.items()):
                metric.add_metric(key.split(",") if family.labels else (), number)
            yield metric


def _code_label(code: int) -> str:
    """Return a close code as a label value; those that a peer may make up share a few."""
    if code in _CODES:
        return str(code)
    return f"{code // 1000}xxx" if 3000 <= code <= 4999 else "other"
