"""The driver of one stream alone, and what both drivers promise a receiver (`TestBothDrivers`)."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from rawws.reactor import Reactor, is_supported
from rawws.stream import StreamTransport
from rawws.transport import HIGH_WATER, LOW_WATER, READ_SIZE, Transport

from .drivers import Script, client_context, jumping_clock, server_context, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

STALL = 10.0


@pytest.fixture
def clock() -> MockClock:
    return jumping_clock()


class Ends:
    """A connection: the transport, its receiver, and the peer's stream."""

    def __init__(self, transport: Transport, peer: trio.abc.HalfCloseableStream, on: dict[str, Any]) -> None:
        self.transport = transport
        self.peer = peer
        self.script = Script(transport, **on)
        transport.receiver = self.script
        self.returned = trio.Event()
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        assert isinstance(self.transport, StreamTransport)
        try:
            with self.scope:
                await self.transport.run()
        finally:
            self.returned.set()

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.peer.receive_some(size - len(data))
            assert more, data
            data += more
        return data


@asynccontextmanager
async def over_stream(*, narrow: bool = False, **on: Callable[..., Any]) -> AsyncIterator[Ends]:
    ours, theirs = lockstep_stream_pair() if narrow else memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ends = Ends(StreamTransport(ours, stall_timeout=STALL), theirs, on)
        nursery.start_soon(ends.run)
        yield ends
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over_tls(
    *, narrow: bool = False, https_compatible: bool = True, **on: Callable[..., Any]
) -> AsyncIterator[tuple[Ends, trio.SSLStream[Any]]]:
    ours, theirs = lockstep_stream_pair() if narrow else memory_stream_pair()
    server = trio.SSLStream(ours, server_context(), server_side=True, https_compatible=https_compatible)
    client = trio.SSLStream(theirs, client_context(), server_hostname="localhost", https_compatible=https_compatible)
    async with trio.open_nursery() as nursery:
        ends = Ends(StreamTransport(server, stall_timeout=STALL), theirs, on)
        nursery.start_soon(ends.run)
        await client.do_handshake()
        yield ends, client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over_reactor(*, narrow: bool = False, **on: Callable[..., Any]) -> AsyncIterator[Ends]:
    reactor = Reactor(stall_timeout=STALL)
    ours, theirs = socket.socketpair()
    peer = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    made: list[Ends] = []

    def greet(transport: Transport, address: object) -> Script:
        made.append(Ends(transport, peer, on))
        return made[0].script

    async with peer, trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        reactor.adopt(ours, greet, None)
        yield made[0]
        nursery.cancel_scope.cancel()


class TestBothDrivers:
    @pytest.fixture(
        params=[
            pytest.param(over_reactor, marks=pytest.mark.skipif(not is_supported(), reason="needs Linux")),
            over_stream,
        ],
        ids=["reactor", "stream"],
    )
    def over(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    async def test_bytes_go_both_ways(self, over: Any) -> None:
        async with over(data=lambda transport, data: transport.write(data.upper())) as ends:
            await ends.peer.send_all(b"abc")
            assert await ends.read(3) == b"ABC"

    async def test_fin_is_told_once_and_last(self, over: Any) -> None:
        async with over() as ends:
            await ends.peer.send_all(b"last")
            await ends.peer.send_eof()
            await ends.script.ended.wait()
            assert ends.script.told == [("data", b"last"), ("eof", None)]
            assert await ends.peer.receive_some(1) == b""
            ends.transport.write(b"in vain")
            assert (ends.transport.queued, ends.transport.blocked) == (0, False)
            await settle()
            assert ends.script.names == ["data", "eof"]

    async def test_fin_does_not_lose_what_is_queued(self, over: Any) -> None:
        async with over(narrow=True) as ends:
            ends.transport.write(bytes(1_000_000))
            await settle()
            await ends.peer.send_eof()
            assert await ends.read(1_000_000) == bytes(1_000_000)
            await ends.script.ended.wait()
            assert ends.script.told[-1] == ("eof", None)

    async def test_paused_is_not_read(self, over: Any) -> None:
        async with over() as ends:
            await settle()
            ends.transport.pause()
            ends.transport.pause()
            await settle()
            await ends.peer.send_all(b"a")
            await settle()
            before = bytes(ends.script.received)
            await ends.peer.send_all(b"b")
            await settle()
            # What was under way when reading paused may still come.
            assert ends.script.received == before in (b"", b"a")
            ends.transport.resume()
            await settle()
            assert ends.script.received == b"ab"

    async def test_peer_that_is_behind_catches_up(self, over: Any) -> None:
        more = [bytes(HIGH_WATER)] * 20

        def refill(transport: Transport) -> None:
            assert transport.queued <= LOW_WATER
            while more and transport.queued <= HIGH_WATER:
                transport.write(more.pop())

        async with over(narrow=True, drained=refill) as ends:
            written = 0
            while not ends.transport.blocked:
                ends.transport.write(bytes(READ_SIZE))
                written += READ_SIZE
                ends.transport.flush()
                await settle(3)
            assert ends.transport.queued > 0
            await ends.read(written + 20 * HIGH_WATER)
            await settle()
            assert more == []
            assert (ends.transport.queued, ends.transport.blocked) == (0, False)

    async def test_what_is_large_is_not_copied_and_keeps_its_place(self, over: Any) -> None:
        large = bytes(range(256)) * 4096
        async with over(narrow=True) as ends:
            for piece in (b"a", b"bc", large, b"d", large, large[: READ_SIZE // 2], b"e"):
                ends.transport.write(piece, more=True)
            ends.transport.flush()
            await settle()
            waiting = [piece.obj for piece in ends.transport._out if isinstance(piece, memoryview)]
            waiting += [piece for piece in ends.transport._out if isinstance(piece, bytes)]
            assert sum(piece is large for piece in waiting) == 2
            expected = b"abc" + large + b"d" + large + large[: READ_SIZE // 2] + b"e"
            assert await ends.read(len(expected)) == expected
            await settle()
            assert (ends.transport.queued, ends.transport.blocked) == (0, False)

    async def test_close_sends_then_fin_then_discards(self, over: Any) -> None:
        async with over(narrow=True) as ends:
            ends.transport.write(bytes(1_000_000))
            ends.transport.pause()
            await settle()
            ends.transport.close(inf)
            ends.transport.pause()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.peer.send_all, b"discarded")
                assert await ends.read(1_000_000) == bytes(1_000_000)
            assert await ends.peer.receive_some(1) == b""
            await ends.peer.send_all(b"discarded")
            await ends.peer.send_eof()
            await ends.script.ended.wait()
            assert ends.script.told == [("eof", None)]

    @pytest.mark.parametrize("reads", [False, True])
    async def test_close_ends_at_its_deadline(self, over: Any, clock: MockClock, reads: bool) -> None:
        async with over(narrow=True) as ends:
            ends.transport.write(bytes(1_000_000))
            await settle()
            began = trio.current_time()
            ends.transport.close(began + 3)
            if reads:
                await ends.read(1_000_000)
                assert await ends.peer.receive_some(1) == b""
            await ends.script.ended.wait()
            assert trio.current_time() - began == pytest.approx(3, abs=0.3)

    async def test_stall(self, over: Any, clock: MockClock) -> None:
        async with over(narrow=True, stalled=lambda transport, _: transport.abort()) as ends:
            ends.transport.write(bytes(4_000_000))
            await settle()
            for _ in range(3):
                await trio.sleep(STALL * 0.7)
                await ends.read(1_000_000)
            began = trio.current_time()
            await ends.script.ended.wait()
            assert ("stalled", STALL) in ends.script.told
            assert STALL * 0.9 <= trio.current_time() - began < STALL * 1.3

    async def test_abort_inside_a_callback(self, over: Any) -> None:
        def abort(transport: Transport, data: bytes) -> None:
            transport.write(b"lost")
            transport.abort()
            transport.write(b"lost")
            assert (transport.queued, transport.blocked) == (0, False)

        async with over(data=abort) as ends:
            await ends.peer.send_all(b"x")
            await ends.script.ended.wait()
            assert ends.script.told == [("data", b"x"), ("eof", None)]

    async def test_due_and_proceed(self, over: Any, clock: MockClock) -> None:
        async with over(due=lambda transport: trio.current_time() + 4) as ends:
            began = trio.current_time()
            ends.transport.wake_at(began + 2)
            ends.transport.wake_at(began + 3)
            ends.transport.schedule()
            await settle()
            assert "proceed" in ends.script.names
            ends.script.told.clear()
            await trio.sleep(9)
            assert ends.script.names.count("due") in (2, 3)
            assert ends.transport.now() == trio.current_time()

    async def test_proceed_after_the_end(self, over: Any) -> None:
        def again(transport: Transport, *_: object) -> None:
            if len(ends.script.told) < 6:
                transport.schedule()

        async with over(eof=again, proceed=again) as ends:
            await ends.peer.send_eof()
            await settle(60)
            assert ends.script.names == ["eof"] + ["proceed"] * 5

    async def test_time_slice(self, over: Any) -> None:
        def work(transport: Transport, data: bytes) -> None:
            assert not transport.expired()
            time.sleep(0.003)
            assert transport.expired()

        async with over(data=work) as ends:
            await ends.peer.send_all(b"x")
            await settle()
        assert not ends.transport.expired()
        assert ends.script.names == ["data", "eof"]

    async def test_cancellation_tells_the_end_and_finishes_what_was_put_off(self, over: Any) -> None:
        def put_off(transport: Transport, error: object) -> None:
            assert not transport.expired()  # nobody would call `proceed`
            transport.schedule()

        async with over(eof=put_off) as ends:
            ends.transport.schedule()
            await settle()
        assert ends.script.names.count("eof") == 1

    @pytest.mark.parametrize("where", ["data", "drained", "due", "proceed", "eof"])
    async def test_receiver_that_raises_ends_its_connection(
        self, over: Any, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        async with over(**{where: fail}) as ends:
            await ends.peer.send_all(b"x")
            ends.transport.schedule()
            ends.transport.wake_at(trio.current_time())
            for _ in range(100):
                ends.transport.write(bytes(READ_SIZE))
                ends.transport.flush()
            with trio.move_on_after(0.1 if where == "eof" else 5), suppress(trio.BrokenResourceError):
                while await ends.peer.receive_some(1 << 20):
                    pass
            ends.transport.abort()
            await settle()
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
        assert ends.script.names.count("eof") == 1


@pytest.mark.skipif(not is_supported(), reason="needs the kernel's count of bytes that a peer has not acknowledged")
class TestSlowSockets:
    """A socket asks for more when a third of the kernel's buffer is free: who reads slowly does not come that far."""

    @pytest.fixture(params=["reactor", "stream"])
    async def slow(self, request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
        """A connection over TCP whose peer is behind."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = trio.socket.socket()
            theirs.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await theirs.connect(listener.getsockname())
            ours = listener.accept()[0]
        ends: list[Ends] = []
        async with trio.SocketStream(theirs) as peer, trio.open_nursery() as nursery:
            if request.param == "stream":
                ours.setblocking(False)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
                ends.append(Ends(StreamTransport(stream, stall_timeout=STALL), peer, {}))
                nursery.start_soon(ends[0].run)
            else:
                reactor = Reactor(stall_timeout=STALL)
                await nursery.start(reactor.run)

                def greet(transport: Transport, address: object) -> Script:
                    ends.append(Ends(transport, peer, {}))
                    return ends[0].script

                reactor.adopt(ours, greet, None)
            await settle()
            ends[0].transport.write(bytes(16 << 20))
            await settle()
            yield ends[0]
            nursery.cancel_scope.cancel()

    async def test_who_reads_slowly_does_not_stall_and_who_stops_does(self, slow: Ends, clock: MockClock) -> None:
        for _ in range(12):
            await slow.read(20_000)
            await trio.sleep(STALL / 4)
        assert "stalled" not in slow.script.names
        began = trio.current_time()
        while "stalled" not in slow.script.names:  # noqa: ASYNC110
            await trio.sleep(0.5)
        assert STALL / 2 <= trio.current_time() - began <= 1.6 * STALL


class TestStream:
    async def test_broken_stream_tells_the_error(self) -> None:
        async with over_stream(narrow=True) as ends:
            ends.transport.pause()
            await settle()
            await trio.aclose_forcefully(ends.peer)
            ends.transport.write(b"x")
            await ends.script.ended.wait()
            assert isinstance(ends.script.told[-1][1], trio.BrokenResourceError)

    async def test_what_the_peer_sent_before_sending_failed_is_received(self) -> None:
        async with over_stream() as ends:
            ends.transport.pause()
            await settle()
            await ends.peer.send_all(b"a")
            await settle()
            await ends.peer.send_all(b"last words")
            ends.peer.receive_stream.close()  # type: ignore[attr-defined]
            ends.transport.write(b"x")
            await ends.peer.send_eof()
            await ends.script.ended.wait()
            assert ends.script.received == b"alast words"

    async def test_sending_that_failed_does_not_wait_for_ever(self, clock: MockClock) -> None:
        async with over_stream() as ends:
            await settle()
            ends.peer.receive_stream.close()  # type: ignore[attr-defined]
            ends.transport.write(b"x")
            await ends.script.ended.wait()
            assert isinstance(ends.script.told[-1][1], trio.BrokenResourceError)

    async def test_sending_that_fails_while_closing(self) -> None:
        async with over_stream() as ends:
            await settle()
            ends.peer.receive_stream.close()  # type: ignore[attr-defined]
            ends.transport.write(b"x")
            ends.transport.close(inf)
            await ends.script.ended.wait()
            assert ends.script.names == ["eof"]

    async def test_error_of_reading(self) -> None:
        async with over_tls(https_compatible=False) as (ends, _):
            await ends.peer.send_all(b"\x17\x03\x03\x00\x05wrong")  # a record that no key fits
            await ends.script.ended.wait()
            assert isinstance(ends.script.told[-1][1], trio.BrokenResourceError)

    async def test_stream_without_half_close(self) -> None:
        class Whole(trio.abc.Stream):
            def __init__(self, stream: trio.abc.Stream) -> None:
                self.stream = stream
                self.closed = False

            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                await self.stream.send_all(data)

            async def wait_send_all_might_not_block(self) -> None:
                await self.stream.wait_send_all_might_not_block()

            async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
                return await self.stream.receive_some(max_bytes)

            async def aclose(self) -> None:
                self.closed = True
                await self.stream.aclose()

        ours, theirs = memory_stream_pair()
        whole = Whole(ours)
        async with trio.open_nursery() as nursery:
            ends = Ends(StreamTransport(whole, stall_timeout=STALL), theirs, {})
            nursery.start_soon(ends.run)
            ends.transport.write(b"bye")
            ends.transport.close(inf)
            assert await ends.read(3) == b"bye"
            assert await theirs.receive_some(1) == b""
            await ends.returned.wait()
        assert whole.closed

    async def test_tls_ends_with_close_notify_and_fin(self) -> None:
        async with over_tls(https_compatible=False) as (ends, client):
            ends.transport.write(b"bye")
            ends.transport.close(inf)
            assert await client.receive_some(3) == b"bye"
            # Without close_notify this would be BrokenResourceError.
            assert await client.receive_some(1) == b""
            await client.aclose()
            await ends.returned.wait()
            assert ends.script.told == [("eof", None)]

    async def test_tls_peer_that_answers_close_notify_with_data_or_fin(self) -> None:
        async with over_tls() as (ends, client):
            ends.transport.write(b"bye")
            ends.transport.close(inf)
            await client.send_all(b"under way")
            assert await client.receive_some(3) == b"bye"
            await ends.peer.send_eof()
            await ends.returned.wait()
            assert ends.script.told[-1] == ("eof", None)

    async def test_tls_peer_that_does_not_answer_close_notify_gets_fin_all_the_same(self) -> None:
        async with over_tls() as (ends, client):
            ends.transport.write(b"bye")
            ends.transport.close(inf)
            with trio.fail_after(1):
                while await ends.peer.receive_some():
                    pass
            await client.aclose()
            await ends.returned.wait()
            assert ends.script.told[-1] == ("eof", None)

    async def test_tls_over_a_stream_without_half_close_waits_for_the_peers_close_notify(self) -> None:
        class Whole(trio.abc.Stream):
            """A stream of which no half can be closed."""

            def __init__(self, stream: trio.abc.Stream) -> None:
                self.stream = stream

            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                await self.stream.send_all(data)

            async def wait_send_all_might_not_block(self) -> None:
                await self.stream.wait_send_all_might_not_block()

            async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
                return await self.stream.receive_some(max_bytes)

            async def aclose(self) -> None:
                await self.stream.aclose()

        ours, theirs = memory_stream_pair()
        server = trio.SSLStream(Whole(ours), server_context(), server_side=True)
        client = trio.SSLStream(theirs, client_context(), server_hostname="localhost")
        async with trio.open_nursery() as nursery:
            ends = Ends(StreamTransport(server, stall_timeout=STALL), theirs, {})
            nursery.start_soon(ends.run)
            await client.do_handshake()
            ends.transport.write(b"bye")
            ends.transport.close(inf)
            assert await client.receive_some(3) == b"bye"
            await settle()
            assert not ends.returned.is_set()
            await client.aclose()
            await ends.returned.wait()

    async def test_tls_fin_of_the_peer(self) -> None:
        async with over_tls() as (ends, client):
            await client.send_all(b"x")
            await settle()
            await client.aclose()
            await ends.returned.wait()
            assert ends.script.told == [("data", b"x"), ("eof", None)]

    async def test_tls_peer_that_never_reads_is_closed_in_time(self, clock: MockClock) -> None:
        async with over_tls() as (ends, client):
            began = trio.current_time()
            ends.transport.close(began + 3)
            await ends.returned.wait()
            assert trio.current_time() - began == pytest.approx(3, abs=0.2)
            await trio.aclose_forcefully(client)

    async def test_handshake_of_tls_is_part_of_the_first_read(self) -> None:
        ours, theirs = memory_stream_pair()
        server = trio.SSLStream(ours, server_context(), server_side=True)
        async with trio.open_nursery() as nursery:
            ends = Ends(StreamTransport(server, stall_timeout=STALL), theirs, {})
            nursery.start_soon(ends.run)
            await theirs.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await ends.returned.wait()
            assert isinstance(ends.script.told[-1][1], trio.BrokenResourceError)

    async def test_sockets_are_closed_after_tls(self) -> None:
        """After `SSLStream.unwrap` the stream no longer closes what is below it; the driver does."""
        ours, theirs = socket.socketpair()
        below = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        client = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), client_context(), server_hostname="localhost"
        )
        server = trio.SSLStream(below, server_context(), server_side=True)
        async with trio.open_nursery() as nursery:
            ends = Ends(StreamTransport(server, stall_timeout=STALL), memory_stream_pair()[0], {})
            nursery.start_soon(ends.run)
            await client.do_handshake()
            ends.transport.close(inf)
            assert await client.receive_some(1) == b""
            await client.aclose()
            await ends.returned.wait()
        assert below.socket.fileno() == -1

    async def test_process_that_was_stopped_reads_before_it_blames(self, clock: MockClock) -> None:
        heard = False

        def hear(*_: object) -> None:
            nonlocal heard
            heard = True

        def due(transport: Transport) -> float:
            if not heard:
                transport.abort()
            return inf

        async with over_stream(data=hear, due=due) as ends:
            ends.transport.wake_at(trio.current_time() + 5)
            await settle()
            await ends.peer.send_all(b"alive")
            clock.jump(60)
            await settle()
            assert ends.script.names == ["data", "due"]

    async def test_base_exception_is_raised_and_the_receiver_told(self) -> None:
        def leave(*_: object) -> None:
            raise SystemExit(3)

        with pytest.raises(BaseExceptionGroup):  # noqa: PT012
            async with over_stream(data=leave) as ends:
                await ends.peer.send_all(b"x")
                await trio.sleep_forever()
        assert ends.script.names == ["data", "eof"]

    async def test_cancelled_while_work_is_put_off_after_the_end(self) -> None:
        def again(transport: Transport, *_: object) -> None:
            if transport.expired():
                transport.schedule()
            if len(ends.script.told) == 3:
                ends.scope.cancel()

        async with over_stream(eof=again, proceed=again) as ends:
            await ends.peer.send_eof()
            await ends.returned.wait()
            assert ends.script.names[0] == "eof"
            assert len(ends.script.names) <= 5
