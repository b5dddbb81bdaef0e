"""Rooms of a ConnectionManager, over connections in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

import rawws
from tests.conftest import FAST_LANE
from tests.raw_client import CLOSE, CLOSE_1000, TEXT, Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Guests(rawws.Protocol):
    """Gives a test the server's side of its connections, in the order in which they open."""

    def __init__(self) -> None:
        self.opened: list[rawws.WebSocket] = []

    def on_open(self, ws: rawws.WebSocket) -> None:
        self.opened.append(ws)


@asynccontextmanager
async def guests(
    number: int,
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = memory_stream_pair,
    max_send_buffer: int = 1 << 20,
) -> AsyncIterator[tuple[list[Client], list[rawws.WebSocket]]]:
    """Open connections, both sides of each."""
    app = Guests()
    clients = []
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            near, far = pair()

            limits = rawws.Limits(max_send_buffer=max_send_buffer)
            nursery.start_soon(partial(rawws.serve_stream, app, far, limits=limits, fast_lane=FAST_LANE))
            client = Client(near)
            await client.open()
            clients.append(client)
        yield clients, app.opened
        nursery.cancel_scope.cancel()


async def test_a_room_begins_with_its_first_member_and_ends_with_its_last() -> None:
    manager = rawws.ConnectionManager()
    async with guests(2) as (_, (ada, bo)):
        assert not manager.rooms
        assert not manager.members("tea")
        manager.join(ada, "tea")
        manager.join(bo, "tea")
        manager.join(ada, "cake")
        assert list(manager.rooms) == ["tea", "cake"]
        assert manager.members("tea") == (ada, bo)
        assert manager.rooms_of(ada) == ("tea", "cake")
        manager.leave(ada, "tea")
        assert manager.members("tea") == (bo,)
        manager.leave(bo, "tea")
        assert list(manager.rooms) == ["cake"]
        assert not manager.rooms_of(bo)


async def test_joining_twice_and_leaving_as_a_stranger_is_harmless() -> None:
    manager = rawws.ConnectionManager()
    async with guests(2) as (_, (ada, bo)):
        manager.join(ada, "tea")
        manager.join(ada, "tea")
        manager.leave(bo, "tea")
        manager.leave(ada, "cake")
        assert manager.members("tea") == (ada,)


async def test_who_joins_a_room_is_connected_and_who_is_disconnected_leaves_its_rooms() -> None:
    manager = rawws.ConnectionManager()
    async with guests(1) as (_, (ada,)):
        manager.join(ada, "tea")
        manager.join(ada, "cake")
        assert manager.active_connections == (ada,)
        manager.disconnect(ada)
        assert not manager.active_connections
        assert not manager.rooms


async def test_a_connection_that_ends_leaves_its_rooms() -> None:
    manager = rawws.ConnectionManager()
    async with guests(2) as ((client, _), (ada, bo)):
        for ws in (ada, bo):
            manager.join(ws, "tea")
        await client.send(CLOSE_1000)
        await ada.wait_closed()
        assert manager.members("tea") == (bo,)
        manager.join(ada, "tea")  # too late: it does not stay
        assert manager.members("tea") == (bo,)


async def test_a_broadcast_to_a_room_reaches_its_members_only() -> None:
    manager = rawws.ConnectionManager()
    async with guests(3) as (clients, (ada, bo, cy)):
        manager.connect(cy)
        manager.join(ada, "tea")
        manager.join(bo, "tea")
        assert manager.broadcast("to the room", room="tea").dropped == 0
        assert manager.broadcast("to all").sent == 3
        assert manager.broadcast("to nobody", room="cake") == (0, 0, 0)
        assert manager.broadcast("to Bo", room="tea", exclude=ada).sent == 1
        assert await clients[0].frame() == (TEXT, b"to the room")
        assert await clients[0].frame() == (TEXT, b"to all")
        assert await clients[1].frame() == (TEXT, b"to the room")
        assert await clients[1].frame() == (TEXT, b"to all")
        assert await clients[1].frame() == (TEXT, b"to Bo")
        assert await clients[2].frame() == (TEXT, b"to all")


async def test_a_connection_is_in_at_most_128_rooms() -> None:
    manager = rawws.ConnectionManager()
    async with guests(1) as (_, (ada,)):
        for number in range(128):
            manager.join(ada, f"room {number}")
        with pytest.raises(RuntimeError, match="at most 128 rooms"):
            manager.join(ada, "one more")
        manager.join(ada, "room 5")
        assert len(manager.rooms) == 128
        manager.leave(ada, "room 5")
        manager.join(ada, "one more")


async def test_a_manager_may_allow_fewer_rooms() -> None:
    manager = rawws.ConnectionManager(max_rooms=1)
    async with guests(1) as (_, (ada,)):
        manager.join(ada, "tea")
        with pytest.raises(RuntimeError):
            manager.join(ada, "cake")


async def fill(manager: rawws.ConnectionManager, room: str) -> None:
    """Fill the send buffers of a room whose members do not read."""
    await wait_all_tasks_blocked()  # the handshake's answer has left
    assert manager.broadcast("x" * 70_000, room=room).dropped == 0
    await wait_all_tasks_blocked()


async def test_a_rooms_policy_wins_over_the_connections() -> None:
    manager = rawws.ConnectionManager()
    async with guests(1, lockstep_stream_pair, max_send_buffer=1) as ((client,), (ada,)):
        manager.join(ada, "tea", policy="drop_newest")
        await fill(manager, "tea")
        assert manager.broadcast("lost", room="tea") == (0, 0, 1)
        manager.join(ada, "tea")  # without a policy: the one that was given stays
        assert manager.broadcast("lost", room="tea") == (0, 0, 1)
        assert await client.frame() == (TEXT, b"x" * 70_000)
        await wait_all_tasks_blocked()
        assert manager.broadcast("kept", room="tea").dropped == 0
        assert await client.frame() == (TEXT, b"kept")


async def test_the_policy_of_a_broadcast_wins_over_the_rooms() -> None:
    manager = rawws.ConnectionManager()
    async with guests(1, lockstep_stream_pair, max_send_buffer=1) as ((client,), (ada,)):
        manager.join(ada, "tea", policy="drop_newest")
        await fill(manager, "tea")
        assert manager.broadcast("lost", room="tea", policy="close") == (0, 0, 1)
        assert await client.frame() == (TEXT, b"x" * 70_000)
        first, payload = await client.frame()
        assert first == CLOSE
        assert payload[:2] == b"\x03\xf5"  # 1013


async def test_a_rooms_policy_ends_with_the_room() -> None:
    manager = rawws.ConnectionManager()
    async with guests(1, lockstep_stream_pair, max_send_buffer=1) as ((client,), (ada,)):
        manager.join(ada, "tea", policy="drop_newest")
        manager.leave(ada, "tea")
        manager.join(ada, "tea")
        await fill(manager, "tea")
        assert manager.broadcast("lost", room="tea") == (0, 0, 1)
        assert await client.frame() == (TEXT, b"x" * 70_000)
        assert (await client.frame())[0] == CLOSE
