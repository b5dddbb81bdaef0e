"""Who is connected, and sending to them, over real sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

import rawws
from tests.raw_client import BINARY, CLOSE, CLOSE_1000, TEXT, Client, connected, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Room(rawws.Protocol):
    """Puts every connection into one manager."""

    def __init__(self) -> None:
        self.manager = rawws.ConnectionManager()
        self.sockets: list[rawws.WebSocket] = []
        self.closed = trio.Event()

    def on_open(self, ws: rawws.WebSocket) -> None:
        self.sockets.append(ws)
        self.manager.connect(ws)

    def on_close(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self.closed.set()


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
async def server(room: Room) -> AsyncIterator[rawws.Server]:
    async with serving(room) as server:
        yield server


async def test_connections_are_listed_in_the_order_in_which_they_came(server: rawws.Server, room: Room) -> None:
    async with connected(server) as first, connected(server) as second:
        await first.open()
        await second.open()
        assert room.manager.active_connections == tuple(room.sockets)
        assert len(room.sockets) == 2


async def test_the_list_is_a_snapshot(server: rawws.Server, room: Room) -> None:
    async with connected(server) as client:
        await client.open()
        for ws in room.manager.active_connections:
            room.manager.disconnect(ws)  # while the list is gone through
        assert room.manager.active_connections == ()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_ended_is_forgotten_by_itself(server: rawws.Server, room: Room, how: str) -> None:
    async with connected(server) as client:
        await client.open()
        if how == "close":
            await client.send(CLOSE_1000)
        else:
            assert isinstance(client.stream, trio.SocketStream)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            await client.stream.aclose()
        with trio.fail_after(5):
            await room.closed.wait()
        await trio.lowlevel.checkpoint()
        assert room.manager.active_connections == ()
        assert room.manager._watched == set()


async def test_connecting_twice_and_disconnecting_a_stranger_are_harmless(server: rawws.Server, room: Room) -> None:
    async with connected(server) as client:
        await client.open()
        (ws,) = room.sockets
        room.manager.connect(ws)
        assert list(room.manager.active_connections) == [ws]
        assert room.manager.broadcast("once").sent == 1
        room.manager.disconnect(ws)
        room.manager.disconnect(ws)
        assert room.manager.active_connections == ()
        assert room.manager.broadcast("nobody") == (0, 0, 0)
        assert await client.frame() == (TEXT, b"once")


async def test_coming_and_going_for_ever_leaves_one_callback(server: rawws.Server, room: Room) -> None:
    async with connected(server) as client:
        await client.open()
        (ws,) = room.sockets
        for _ in range(1000):
            room.manager.disconnect(ws)
            room.manager.connect(ws)
        assert ws._callbacks is not None
        assert len(ws._callbacks) == 1


async def test_a_connection_that_is_over_is_not_kept(server: rawws.Server, room: Room) -> None:
    async with connected(server) as client:
        await client.open()
        await client.send(CLOSE_1000)
        await client.ended()
    with trio.fail_after(5):
        await room.closed.wait()
    manager = rawws.ConnectionManager()
    await trio.lowlevel.checkpoint()
    manager.connect(room.sockets[0])
    assert manager.active_connections == ()


async def test_a_personal_message_goes_to_one(server: rawws.Server, room: Room) -> None:
    async with connected(server) as first, connected(server) as second:
        await first.open()
        await second.open()
        await room.manager.send_personal_message("for you", room.sockets[1])
        room.manager.broadcast("for all")
        assert await first.frame() == (TEXT, b"for all")
        assert await second.frame() == (TEXT, b"for you")


async def test_a_broadcast_goes_to_all_but_the_excluded(server: rawws.Server, room: Room) -> None:
    async with connected(server) as first, connected(server) as second, connected(server) as third:
        for client in (first, second, third):
            await client.open()
        one, two, _ = room.sockets
        assert room.manager.broadcast(b"\x00\xff", exclude=None) == (3, 0, 0)
        assert room.manager.broadcast("not one", exclude=one).sent == 2
        assert room.manager.broadcast("just three", exclude=[one, two]).sent == 1
        for client in (first, second, third):
            assert await client.frame() == (BINARY, b"\x00\xff")
        assert await second.frame() == (TEXT, b"not one")
        assert await third.frame() == (TEXT, b"not one")
        assert await third.frame() == (TEXT, b"just three")


async def test_a_wrong_message_is_an_error_before_anybody_gets_it(server: rawws.Server, room: Room) -> None:
    async with connected(server) as client:
        await client.open()
        with pytest.raises(ValueError, match="surrogate"):
            room.manager.broadcast("\ud800")
        for message in (object(), 5, [65, 66], {65: 1}, None):
            with pytest.raises(TypeError, match="a message is str or bytes"):
                room.manager.broadcast(message)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="policy must be"):
            room.manager.broadcast("x", policy="drop")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="policy must be"):
            room.manager.join(room.sockets[0], "tea", policy="drop")  # type: ignore[arg-type]
        assert room.manager.rooms == ()
        room.manager.broadcast("fine")
        assert await client.frame() == (TEXT, b"fine")


async def slow_and_quick(server: rawws.Server) -> tuple[Client, Client]:
    """Two clients; the first one reads nothing."""
    address = server.addresses[0]
    assert isinstance(address, tuple)
    clients = [Client(await trio.open_tcp_stream(*address)) for _ in range(2)]
    for client in clients:
        await client.open()
    return clients[0], clients[1]


async def test_a_peer_that_does_not_read_delays_nobody_and_is_counted(server: rawws.Server, room: Room) -> None:
    slow, quick = await slow_and_quick(server)
    message = bytes(300_000)
    results = [room.manager.broadcast("nobody is known to be slow yet")]
    assert results == [(2, 0, 0)]
    assert (await quick.frame())[0] == TEXT
    for _ in range(40):
        results.append(room.manager.broadcast(message, policy="drop_newest"))
        assert (await quick.frame())[1] == message
    assert (1, 1, 0) in results
    assert results[-1] == (1, 0, 1)
    assert room.manager.active_connections == tuple(room.sockets)
    await trio.aclose_forcefully(slow.stream)
    await trio.aclose_forcefully(quick.stream)


async def test_by_default_a_peer_that_does_not_read_is_closed_with_1013(server: rawws.Server, room: Room) -> None:
    slow, quick = await slow_and_quick(server)
    ended: list[int] = []
    room.sockets[0].add_close_callback(lambda ws, closed: ended.append(closed.code))
    message = bytes(300_000)
    for _ in range(40):
        room.manager.broadcast(message)
        assert (await quick.frame())[1] == message
    assert room.manager.broadcast("x") == (1, 0, 1) or room.manager.active_connections == (room.sockets[1],)
    assert await quick.frame() == (TEXT, b"x")
    first, payload = await slow.frame()
    while first == BINARY:  # what was queued still comes, and then our Close
        assert payload == message
        first, payload = await slow.frame()
    assert (first, payload[:2]) == (CLOSE, b"\x03\xf5")
    await slow.stream.aclose()
    with trio.fail_after(5):
        while not ended:
            await trio.lowlevel.checkpoint()
    assert ended == [1013]
    await trio.aclose_forcefully(quick.stream)
