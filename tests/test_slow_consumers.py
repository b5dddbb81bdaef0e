"""What becomes of peers that do not read, over each driver: the policies, whose holds, that no other peer notices."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import pytest
import trio

import rawws
from rawws import Limits, SendStatus
from rawws.socket_transport import SocketTransport

from .drivers import CLOSE, DRIVERS, PING, TEXT, Driver, DriverName, Held, Peer, request, settle

if TYPE_CHECKING:
    from rawws.limits import SlowConsumerPolicy

KIB: Final = 1024
LIMIT: Final = 256 * KIB
POLICIES: Final[tuple[SlowConsumerPolicy, ...]] = ("close", "drop_newest", "drop_oldest")
CONTEXT: Final = "Sec-WebSocket-Extensions: permessage-deflate"
NO_CONTEXT: Final = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    name: DriverName = request.param
    return Driver(name)


def limits(policy: SlowConsumerPolicy) -> Limits:
    return Limits(max_send_buffer=LIMIT, slow_consumer=policy, send_timeout=60, ping_interval=60, close_timeout=60)


def text(number: int, size: int = 4 * KIB) -> str:
    """A message that can be told from every other and that compresses to about half."""
    noise = random.Random(number % 7).randbytes(size // 2).hex()
    return f"{number:08}{noise}"[:size]


async def fall_behind(ws: rawws.WebSocket) -> list[str]:
    """Send until the kernel takes no more; return what was sent."""
    sent: list[str] = []
    while ws.send_buffer <= 64 * KIB:
        sent.append(text(len(sent), 64 * KIB))
        ws.send_nowait(sent[-1], compress=False)
        await settle(3)
    return sent


class Members:
    """Connections of one manager, with the two ends of each."""

    def __init__(self, driver: Driver, stack: AsyncExitStack, policy: SlowConsumerPolicy) -> None:
        self.manager = rawws.ConnectionManager()
        self._driver = driver
        self._stack = stack
        self._held = Held()
        self._policy = policy

    async def add(self, *fields: str, narrow: bool = False) -> tuple[rawws.WebSocket, Peer]:
        connect = await self._stack.enter_async_context(self._driver.serve(self._held, limits=limits(self._policy)))
        peer: Peer = await connect(narrow=narrow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open, request("/", *fields))
            ws = await self._held.next()
            await ws.accept()
        self.manager.connect(ws)
        return ws, peer


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_peer_that_does_not_read_delays_no_other(driver: Driver, policy: SlowConsumerPolicy) -> None:
    async with AsyncExitStack() as stack:
        members = Members(driver, stack, policy)
        deaf = [await members.add(narrow=True) for _ in range(3)]
        for ws, _ in deaf:
            await fall_behind(ws)
        _, peer = await members.add()
        with trio.fail_after(30):
            for number in range(200):
                message = text(number)
                result = members.manager.broadcast(message)
                assert await peer.text() == message  # before the next one is sent
                await settle(1)
        assert result.sent + result.queued >= 1
        for ws, _ in deaf:
            assert ws.send_buffer < LIMIT + 5 * KIB
            assert ws.slow_consumer_actions is not None
            count = ws.slow_consumer_actions[policy]
            if policy == "close":
                assert count == 1
                assert ws.closed is not None
                assert ws.closed.code == 1013
                assert "send buffer full" in ws.closed.reason
                assert ws not in members.manager.active_connections or not ws.ping_nowait()
            else:
                assert count > 50
                assert ws.closed is None
        for _, deaf_peer in deaf:
            deaf_peer.cut()


async def test_a_rooms_policy_wins_over_the_connections_and_a_broadcasts_over_both(driver: Driver) -> None:
    async with AsyncExitStack() as stack:
        members = Members(driver, stack, "close")
        manager = members.manager
        ws, peer = await members.add(narrow=True)
        manager.join(ws, "patient", policy="drop_newest")
        manager.join(ws, "forgetful", policy="drop_oldest")
        manager.join(ws, "strict")
        while manager.broadcast(text(0), room="patient").dropped == 0:
            await settle(1)
        with pytest.raises(ValueError, match="policy must be"):
            ws.send_nowait("x", policy="drop")  # type: ignore[arg-type]
        assert ws.slow_consumer_actions == {"drop_newest": 1}
        assert manager.broadcast(text(1), room="forgetful").queued == 1
        assert ws.slow_consumer_actions == {"drop_newest": 1, "drop_oldest": 1}
        assert manager.broadcast(text(2), room="strict", policy="drop_newest").dropped == 1
        assert manager.broadcast(text(3), policy="drop_newest").dropped == 1
        assert ws.closed is None
        assert manager.broadcast(text(4), room="strict").dropped == 1  # as its own limits say
        assert ws.closed is not None
        assert ws.slow_consumer_actions == {"drop_newest": 3, "drop_oldest": 1, "close": 1}
        peer.cut()


def inflate(payload: bytes, inflater: zlib._Decompress) -> bytes:
    """As RFC 7692 §7.2.2 says; the window of an inflater stays from message to message."""
    return inflater.decompress(payload + b"\x00\x00\xff\xff")


@pytest.mark.parametrize("offer", [CONTEXT, NO_CONTEXT], ids=["context", "no context"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_no_policy_corrupts_a_compressed_stream(driver: Driver, policy: SlowConsumerPolicy, offer: str) -> None:
    """Whole messages are missing, and what comes inflates to others, in order, with nothing but zlib."""
    async with AsyncExitStack() as stack:
        members = Members(driver, stack, policy)
        ws, peer = await members.add(offer, narrow=True)
        sent = await fall_behind(ws)
        for number in range(400):
            message = text(1000 + number)
            sent.append(message)
            # Some for all, some for one, some that are not compressed; the last ones while the buffer is full.
            if number % 3 == 0:
                members.manager.broadcast(message)
            else:
                ws.send_nowait(message, compress=number % 3 == 1)
            if number % 8 == 0:
                await settle(1)
        ended = ws.closed is not None
        assert ended is (policy == "close")
        assert ws.slow_consumer_actions is not None
        assert set(ws.slow_consumer_actions) <= {policy, "drop_newest"}
        # The peer begins to read, and there is room again: what comes then goes on from what came before.
        received: list[str] = []
        compressed = 0
        inflater = zlib.decompressobj(-15)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                if not ended:
                    nursery.start_soon(ws.send, "the last one")
                while not received or received[-1] != "the last one":
                    opcode, payload = await peer.frame()
                    if opcode == CLOSE:
                        break
                    if opcode == PING:
                        continue
                    assert opcode & 0x3F == TEXT
                    if opcode & 0x40:
                        payload = inflate(payload, inflater)
                        compressed += 1
                    received.append(payload.decode())
        assert compressed > 5
        assert len(received) == ws.messages_sent
        assert len(received) < len(sent)
        in_order = iter([*sent, "the last one"])
        assert all(message in in_order for message in received)
        if policy == "close":
            assert received == sent[: len(received)]  # promised before it was closed, without a gap
        peer.cut()


async def test_what_is_dropped_takes_no_longer_when_more_waits(driver: Driver) -> None:
    """Dropping the oldest looks at what it drops, and at nothing else: a thousand small messages are no burden."""
    async with driver.open(narrow=True, limits=limits("drop_oldest")) as (ws, peer):
        while ws.slow_consumer_actions is None:
            ws.send_nowait("x" * 100)
        backlog = ws._backlog
        assert backlog is not None
        assert len(backlog._frames) > 1000
        assert ws.send_nowait("y" * 100) is SendStatus.QUEUED
        assert backlog.frames_size == sum(len(frame) for frame, _ in backlog._frames)
        assert backlog._droppable_cost == backlog.frames_cost == backlog.frames_size  # none is short
        peer.cut()


@pytest.mark.parametrize("message", ["", "x", b""])
async def test_short_messages_take_no_more_memory_than_the_limit_says(driver: Driver, message: str | bytes) -> None:
    """An empty message is two bytes on the wire, and 112 in a queue."""
    async with driver.open(narrow=True, limits=limits("close")) as (ws, peer):
        await fall_behind(ws)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            number = 0
            while ws.send_nowait(message) is SendStatus.QUEUED:
                number += 1
            assert tracemalloc.get_traced_memory()[0] - before < 2 * LIMIT
        finally:
            tracemalloc.stop()
        assert number <= LIMIT // 64 + 1
        peer.cut()


async def test_a_peer_that_is_behind_is_kept_few_pieces_of_what_fits_the_transport() -> None:
    async with Driver("reactor").open(narrow=True, limits=limits("close")) as (ws, peer):
        transport = ws._transport
        assert isinstance(transport, SocketTransport)
        while not transport.blocked:
            ws.send_nowait("x" * 30_000)
        for _ in range(1000):
            transport.write(b"\x8a\x00")  # as pongs do, which pass every queue
        assert transport._out is not None
        assert len(transport._out) < 130
        assert transport.queued == sum(map(len, transport._out))
        peer.cut()


@pytest.mark.parametrize("message", ["", b""])
async def test_empty_messages_behind_one_in_pieces_are_bounded_too(driver: Driver, message: str | bytes) -> None:
    async with driver.open(limits=limits("close")) as (ws, peer):
        manager = rawws.ConnectionManager()
        manager.connect(ws)
        async with ws.message_writer() as writer:
            await writer.write("begun")
            number = 0
            while manager.broadcast(message).queued:
                number += 1
            assert number == LIMIT // 64
            assert ws.closed is not None
            assert ws.closed.code == 1013
        peer.cut()
