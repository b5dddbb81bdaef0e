"""Which connection is in which room.

Facts: a room begins with its first member and ends with its last, and its slow-consumer policy with it; nothing is
kept of an empty one. A connection is in a bounded number of rooms. Members are in the order in which they came.

Cost: two dictionary entries a membership; every operation is constant but leaving all rooms. This module sends
nothing and knows of a connection only that it can be a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import KeysView

    from .limits import SlowConsumerPolicy
    from .websocket import WebSocket

__all__ = ["MAX_ROOMS_PER_CONNECTION", "Rooms"]

MAX_ROOMS_PER_CONNECTION: Final = 128
"""Rooms that a connection may be in."""


@final
class _Room:
    __slots__ = ("members", "policy")

    def __init__(self) -> None:
        self.members: dict[WebSocket, None] = {}
        self.policy: SlowConsumerPolicy | None = None


_NOBODY: Final[dict[WebSocket, None]] = {}
_NOWHERE: Final[dict[str, None]] = {}


@final
class Rooms:
    """Rooms and their members.

    Args:
        max_rooms: rooms that a connection may be in.
    """

    __slots__ = ("_by_member", "_max_rooms", "_rooms")

    def __init__(self, max_rooms: int = MAX_ROOMS_PER_CONNECTION) -> None:
        self._max_rooms = max_rooms
        self._rooms: dict[str, _Room] = {}
        self._by_member: dict[WebSocket, dict[str, None]] = {}

    @property
    def names(self) -> KeysView[str]:
        """The rooms that have members; a live view."""
        return self._rooms.keys()

    def join(self, ws: WebSocket, name: str, policy: SlowConsumerPolicy | None = None) -> None:
        """Put a connection into a room; see `ConnectionManager.join`."""
        mine = self._by_member.get(ws, _NOWHERE)
        if name not in mine:
            if len(mine) >= self._max_rooms:
                raise RuntimeError(f"a connection is in at most {self._max_rooms} rooms")
            self._by_member.setdefault(ws, {})[name] = None
            self._rooms.setdefault(name, _Room()).members[ws] = None
        if policy is not None:
            self._rooms[name].policy = policy

    def leave(self, ws: WebSocket, name: str) -> None:
        """Take a connection out of a room; a stranger is harmless."""
        mine = self._by_member.get(ws, _NOWHERE)
        if name not in mine:
            return
        del mine[name]
        if not mine:
            del self._by_member[ws]
        room = self._rooms[name]
        del room.members[ws]
        if not room.members:
            del self._rooms[name]

    def leave_all(self, ws: WebSocket) -> None:
        """Take a connection out of every room."""
        for name in list(self._by_member.get(ws, _NOWHERE)):
            self.leave(ws, name)

    def members(self, name: str) -> KeysView[WebSocket]:
        """Return the members of a room, a live view while it lasts; empty for a room that there is not."""
        room = self._rooms.get(name)
        return _NOBODY.keys() if room is None else room.members.keys()

    def of(self, ws: WebSocket) -> KeysView[str]:
        """Return the rooms that a connection is in."""
        return self._by_member.get(ws, _NOWHERE).keys()

    def policy(self, name: str) -> SlowConsumerPolicy | None:
        """Return a room's own policy, None where the connections' limits hold."""
        room = self._rooms.get(name)
        return None if room is None else room.policy
