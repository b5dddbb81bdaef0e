"""Who is connected, and sending to them: one by one, to a room or to all.

Rules: a connection that has ended is forgotten by itself, in its rooms too; a broadcast goes over a snapshot, encodes
its message once and waits for nobody. A peer that does not read is dealt with by its send buffer's policy and delays
no other. Cost of a broadcast: one write a member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .encoder import SharedMessage
from .limits import check_policy
from .rooms import MAX_ROOMS_PER_CONNECTION, Rooms
from .sending import SendStatus
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
    """Keeps track of connections and sends to them.

    Args:
        max_rooms: rooms that one connection may be in.
    """

    def __init__(self, *, max_rooms: int = MAX_ROOMS_PER_CONNECTION) -> None:
        self._connections: dict[WebSocket, None] = {}
        self._rooms = Rooms(max_rooms)
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
        """Forget a connection, without closing it; it leaves its rooms. A stranger is harmless."""
        self._connections.pop(ws, None)
        self._rooms.leave_all(ws)

    def join(self, ws: WebSocket, room: str, *, policy: SlowConsumerPolicy | None = None) -> None:
        """Put a connection into a room, until it ends, `leave` or `disconnect`; joining twice is harmless.

        The room begins with its first member and ends with its last. The connection is added if it is not yet.

        Args:
            policy: what a broadcast to this room does to a member whose send buffer is full, if not what the
                member's limits say; it holds for all members, until another is given or the room ends.

        Raises:
            RuntimeError: the connection is in `max_rooms` rooms.
            ValueError: the policy is none.
        """
        if policy is not None:
            check_policy(policy)
        self._rooms.join(ws, room, policy)
        self.connect(ws)

    def leave(self, ws: WebSocket, room: str) -> None:
        """Take a connection out of a room; a stranger is harmless."""
        self._rooms.leave(ws, room)

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that have members, in the order in which they began; a snapshot."""
        return tuple(self._rooms.names)

    def members(self, room: str) -> tuple[WebSocket, ...]:
        """Return the members of a room, in the order in which they came; none for a room that there is not."""
        return tuple(self._rooms.members(room))

    def rooms_of(self, ws: WebSocket) -> tuple[str, ...]:
        """Return the rooms that a connection is in, in the order in which it joined them."""
        return tuple(self._rooms.of(ws))

    async def send_personal_message(self, message: str | bytes, ws: WebSocket) -> None:
        """Send a message to one connection; like `ws.send`, with the same exceptions."""
        await ws.send(message)

    def broadcast(
        self,
        message: str | bytes,
        *,
        room: str | None = None,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
        policy: SlowConsumerPolicy | None = None,
    ) -> BroadcastResult:
        """Send a message to every connection, or to the members of a room, encoded once, waiting for none.

        Args:
            message: `str` leaves as text, `bytes` as binary.
            room: whose members get it; None for every connection.
            exclude: a connection, or several, that do not get it.
            policy: what to do to a connection whose send buffer is full, if not what its room or its limits say.

        Raises:
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate, or a policy that is none.
        """
        if policy is not None:
            check_policy(policy)
        excluded = {exclude} if isinstance(exclude, WebSocket) else set(exclude or ())
        shared = SharedMessage(message)
        if room is None:
            receivers = list(self._connections)
        else:
            receivers = list(self._rooms.members(room))
            policy = policy or self._rooms.policy(room)
        sent = queued = dropped = 0
        for ws in receivers:
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
