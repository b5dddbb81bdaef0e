"""No await on a peer without a deadline: each returns in its stated time from a peer that reads nothing at all.

Over the reactor, a Trio stream in memory and TLS; the time is virtual. What a call waits for is set to `DEADLINE`,
every other bound to more than the test may take, so that no other can be what ended it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest
import trio
from trio.testing import lockstep_stream_pair

import rawws
from rawws import ConnectionClosed, Limits

from .drivers import (
    DRIVERS,
    PING,
    PONG,
    Driver,
    DriverName,
    Held,
    Peer,
    client_context,
    frame,
    jumping_clock,
    server_context,
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

KIB: Final = 1024
DEADLINE: Final = 4.0
LATER: Final = 1e6
LATE: Final = 3.0
"""Seconds that the virtual clock may run ahead while the kernel is at work: it jumps to each look at the peer."""
TIMES: Final = (
    "head_timeout",
    "accept_timeout",
    "ping_interval",
    "ping_timeout",
    "close_timeout",
    "send_timeout",
    "shutdown_timeout",
)


def only(*deadlines: str) -> Limits:
    """Limits in which these are `DEADLINE` and the others are not reached."""
    times = {name: DEADLINE if name in deadlines else LATER for name in TIMES}
    return Limits(max_send_buffer=128 * KIB, slow_consumer="drop_newest", **times)  # type: ignore[arg-type]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    name: DriverName = request.param
    return Driver(name)


@pytest.fixture
def clock() -> MockClock:
    return jumping_clock()


async def fill(ws: rawws.WebSocket) -> None:
    """Send until the peer, which reads nothing, has made every buffer full."""
    for _ in range(3):
        while ws.send_nowait(bytes(64 * KIB)) is not rawws.SendStatus.DROPPED:
            await settle(3)
        await settle()


async def send(ws: rawws.WebSocket) -> None:
    await ws.send("never")


async def write(ws: rawws.WebSocket) -> None:
    async with ws.message_writer() as writer:
        await writer.write("never")


async def receive(ws: rawws.WebSocket) -> None:
    await ws.receive()


async def receive_chunks(ws: rawws.WebSocket) -> None:
    async for _ in ws.receive_chunks():
        pass


async def iterate(ws: rawws.WebSocket) -> None:
    async for _ in ws:
        pass


async def ping(ws: rawws.WebSocket) -> None:
    await ws.ping()


async def close(ws: rawws.WebSocket) -> None:
    await ws.close()


async def wait_closed(ws: rawws.WebSocket) -> None:
    ws.close_nowait()
    await ws.wait_closed()


Call: TypeAlias = "Callable[[rawws.WebSocket], Awaitable[None]]"
NAMES: Final = ("send", "write", "receive", "receive_chunks", "iterate", "ping", "close", "wait_closed")
CALLS: Final[list[tuple[Call, str, type[Exception] | None]]] = [
    (send, "send_timeout", ConnectionClosed),
    (write, "send_timeout", ConnectionClosed),
    (receive, "send_timeout", ConnectionClosed),
    (receive_chunks, "send_timeout", ConnectionClosed),
    (iterate, "send_timeout", ConnectionClosed),
    (ping, "ping_timeout", trio.TooSlowError),
    (close, "close_timeout", None),
    (wait_closed, "close_timeout", None),
]


@pytest.mark.parametrize(("call", "deadline", "raises"), CALLS, ids=NAMES)
async def test_a_call_returns_in_its_time_from_a_peer_that_reads_nothing(
    driver: Driver, clock: MockClock, call: Call, deadline: str, raises: type[Exception] | None
) -> None:
    async with driver.open(narrow=True, limits=only(deadline)) as (ws, peer):
        await fill(ws)
        began = trio.current_time()
        if raises is None:
            await call(ws)
        else:
            with pytest.raises(raises) as caught:
                await call(ws)
            if isinstance(caught.value, ConnectionClosed):
                assert (caught.value.code, caught.value.by) == (1013, "us")
                assert caught.value.reason == f"nothing could be sent for {DEADLINE:g} s"
        assert trio.current_time() - began <= DEADLINE + LATE
        if call is not ping:
            assert await ws.wait_closed() is ws.closed
        peer.cut()


@pytest.mark.parametrize("call", [call[0] for call in CALLS], ids=NAMES)
async def test_a_cancelled_call_returns_at_once(driver: Driver, clock: MockClock, call: Call) -> None:
    async with driver.open(narrow=True, limits=only()) as (ws, peer):
        await fill(ws)
        began = trio.current_time()
        with trio.move_on_after(DEADLINE) as scope:
            await call(ws)
        assert scope.cancelled_caught
        assert trio.current_time() - began <= DEADLINE + LATE
        peer.cut()


async def test_keepalive_ends_a_peer_that_says_nothing_and_tells_who_waits(driver: Driver, clock: MockClock) -> None:
    async with driver.open(limits=only("ping_interval", "ping_timeout")) as (ws, peer):
        began = trio.current_time()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.by) == (1011, "us")
        assert 2 * DEADLINE - 0.5 <= trio.current_time() - began <= 2 * DEADLINE + LATE
        peer.cut()


async def test_keepalive_waits_for_a_peer_that_reads_slowly_what_stands_before_the_ping(
    driver: Driver, clock: MockClock
) -> None:
    async with driver.open(narrow=True, limits=only("ping_interval", "ping_timeout")) as (ws, peer):
        size = 200 * KIB
        assert ws.send_nowait(bytes(size)) is not rawws.SendStatus.DROPPED
        size += 10
        began = trio.current_time()
        while size > 0:
            await trio.sleep(DEADLINE / 4)
            size -= len(await peer.stream.receive_some(min(size, 8 * KIB)))
        assert await peer.frame() == (PING, b"")
        assert trio.current_time() - began > 5 * DEADLINE
        await peer.send(frame(PONG))
        await trio.sleep(DEADLINE / 2)
        assert ws.closed is None
        peer.cut()


async def test_a_handler_that_returns_and_one_that_raises_wait_for_nobody(driver: Driver, clock: MockClock) -> None:
    ended: list[float] = []

    async def handler(ws: rawws.WebSocket) -> None:
        ws.add_close_callback(lambda ws, closed: ended.append(trio.current_time()))
        await ws.accept()
        await fill(ws)
        if ws.request.path == "/raises":
            raise ZeroDivisionError

    async with driver.serve(handler, limits=only("close_timeout")) as connect:
        began = trio.current_time()
        for path in ("/returns", "/raises"):
            peer = await connect(narrow=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.open, b"GET " + path.encode() + HANDSHAKE)
        with trio.fail_after(DEADLINE + LATE):
            while len(ended) < 2:  # noqa: ASYNC110
                await trio.sleep(0.1)
    assert all(when - began <= DEADLINE + LATE for when in ended)


HANDSHAKE: Final = (
    b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class OneStream(trio.abc.Listener[trio.abc.Stream]):
    """A listener that has one stream to accept, in memory."""

    def __init__(self) -> None:
        self._ours: trio.abc.Stream | None
        self._ours, self.theirs = lockstep_stream_pair()

    async def accept(self) -> trio.abc.Stream:
        stream, self._ours = self._ours, None
        if stream is None:
            await trio.sleep_forever()
        assert stream is not None
        return stream

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def start(nursery: trio.Nursery, held: Held, name: DriverName, limits: Limits) -> tuple[rawws.Server, Peer]:
    """Serve over each kind of listener, and connect a peer to it that reads no more than the handshake's answer."""
    listeners: list[trio.abc.Listener[Any]]
    memory = OneStream()
    if name == "stream":
        listeners = [memory]
    else:
        context = server_context() if name == "tls" else None
        listeners = await rawws.listeners.open_listeners("127.0.0.1", 0, context)
    server: rawws.Server = await nursery.start(partial(rawws.serve_listeners, held, listeners, limits=limits))
    stream: trio.abc.Stream = memory.theirs
    if name != "stream":
        address = server.addresses[0]
        assert isinstance(address, tuple)
        sock = trio.socket.socket()
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await sock.connect(address)
        stream = trio.SocketStream(sock)
        if name == "tls":
            stream = trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True)
    return server, Peer(stream, lambda: None)


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize("how", ["shutdown", "a cancelled shutdown", "a cancelled serve"])
async def test_a_server_ends_in_its_time_whatever_its_peers_do(name: DriverName, how: str, clock: MockClock) -> None:
    held = Held()
    async with trio.open_nursery() as nursery:
        server, peer = await start(nursery, held, name, only("shutdown_timeout"))
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
            ws = await held.next()
            await ws.accept()
        await fill(ws)
        began = trio.current_time()
        if how == "a cancelled serve":
            nursery.cancel_scope.cancel()
        else:
            with trio.move_on_after(LATER if how == "shutdown" else 1):
                await server.shutdown()
    waited = DEADLINE if how == "shutdown" else 1
    assert trio.current_time() - began <= waited + LATE
    assert ws.closed is not None
    await trio.aclose_forcefully(peer.stream)


async def test_a_handler_that_does_not_answer_and_a_refusal_wait_for_nobody(driver: Driver, clock: MockClock) -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        if ws.request.path == "/refuses":
            await ws.reject(403, bytes(256 * KIB))
        else:
            await trio.sleep_forever()

    async with driver.serve(handler, limits=only("accept_timeout", "close_timeout")) as connect:
        for path in ("/refuses", "/sleeps"):
            peer = await connect()
            began = trio.current_time()
            await peer.send(b"GET " + path.encode() + HANDSHAKE)
            answer = await peer.head()
            assert answer.startswith(b"HTTP/1.1 403 " if path == "/refuses" else b"HTTP/1.1 503 ")
            assert trio.current_time() - began <= DEADLINE + LATE
