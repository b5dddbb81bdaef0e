"""Who is connected, and sending to them: one by one or to all.

Rules: a connection that has ended is forgotten by itself; a broadcast goes over a snapshot, encodes its message
once and waits for nobody. A peer that does not read is dealt with by its send buffer's policy and delays no
other. Cost of a broadcast: one write a member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .connection import SendStatus
from .encoder import SharedMessage
from .websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .errors import ConnectionClosed
    from .limits import SlowConsumerPolicy

__all__ = ["BroadcastResult", "ConnectionManager"]


class BroadcastResult(NamedTuple):
    """How many connections a broadcast reached."""

    sent: int
    """Those that keep up: the message left."""
    queued: int
    """Those that are behind: the message waits in their send buffer."""
    dropped: int
    """Those that did not get it: their send buffer is full, or they have just ended."""


class ConnectionManager:
    """Keeps track of connections and sends to them."""

    def __init__(self) -> None:
        self._connections: dict[WebSocket, None] = {}
        self._watched: set[WebSocket] = set()  # who comes and goes often is told to call back once

    @property
    def active_connections(self) -> tuple[WebSocket, ...]:
        """The connections, in the order in which they came; a snapshot."""
        return tuple(self._connections)

    def connect(self, ws: WebSocket) -> None:
        """Add a connection, until it ends or `disconnect`; adding it twice is harmless."""
        self._connections[ws] = None
        if ws not in self._watched:
            self._watched.add(ws)
            ws.add_close_callback(self._forget)

    def disconnect(self, ws: WebSocket) -> None:
        """Forget a connection, without closing it; a stranger is harmless."""
        self._connections.pop(ws, None)

    async def send_personal_message(self, message: str | bytes, ws: WebSocket) -> None:
        """Send a message to one connection; like `ws.send`, with the same exceptions."""
        await ws.send(message)

    def broadcast(
        self,
        message: str | bytes,
        *,
        exclude: WebSocket | Iterable[WebSocket] = (),
        policy: SlowConsumerPolicy | None = None,
    ) -> BroadcastResult:
        """Send a message to every connection, encoded once, waiting for none.

        Args:
            message: `str` leaves as text, `bytes` as binary.
            exclude: a connection, or several, that do not get it.
            policy: what to do to a connection whose send buffer is full, if not what its limits say.

        Raises:
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate.
        """
        excluded = {exclude} if isinstance(exclude, WebSocket) else set(exclude)
        shared = SharedMessage(message)
        sent = queued = dropped = 0
        for ws in list(self._connections):
            if ws in excluded:
                continue
            status = ws.send_shared(shared, policy)
            if status is SendStatus.SENT:
                sent += 1
            elif status is SendStatus.QUEUED:
                queued += 1
            else:
                dropped += 1
        return BroadcastResult(sent, queued, dropped)

    def _forget(self, ws: WebSocket, closed: ConnectionClosed) -> None:
        self._watched.discard(ws)
        self.disconnect(ws)
