"""What an application sees of a connection, over each driver, sentence by sentence, and what its client does."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import trio

import rawws
from rawws import ConnectionClosed, Limits, SendStatus
from rawws.opening import Handshake
from rawws.states import State

from .drivers import (
    BINARY,
    CONTINUATION,
    DRIVERS,
    PING,
    PONG,
    REQUEST,
    TEXT,
    Driver,
    DriverName,
    Held,
    close,
    frame,
    jumping_clock,
    request,
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

KIB = 1024
MIB = 1024 * 1024
FAST = Limits(accept_timeout=1e6, close_timeout=1e6, ping_interval=1e6, send_timeout=1e6)
"""Limits whose deadlines no test reaches."""
NOT_CUT_SHORT = pytest.mark.parametrize("driver", ["reactor", "stream"], indirect=True)
"""For tests of a FIN that is all: TLS that ends so was cut short, and lets nothing be answered."""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    name: DriverName = request.param
    return Driver(name)


@pytest.fixture
def clock() -> MockClock:
    return jumping_clock()


class Recorder(rawws.Protocol):
    """Writes down its callbacks; `on` says what else they do."""

    def __init__(self, **on: Callable[..., Any]) -> None:
        self.on = on
        self.told: list[tuple[Any, ...]] = []
        self.depth = 0
        self.closed = trio.Event()
        self.ws: rawws.WebSocket | None = None

    def _tell(self, what: str, ws: rawws.WebSocket, *args: Any) -> None:
        assert not self.depth, "callbacks never nest"
        self.depth += 1
        try:
            self.told.append((what, *args))
            if what in self.on:
                self.on[what](ws, *args)
        finally:
            self.depth -= 1

    def on_open(self, ws: rawws.WebSocket) -> None:
        self.ws = ws
        self._tell("on_open", ws)

    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        self._tell("on_message", ws, message)

    def on_closing(self, ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
        self._tell("on_closing", ws, closed.code, closed.by)

    def on_close(self, ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
        self._tell("on_close", ws, closed.code, closed.by)
        self.closed.set()


async def collect(ws: rawws.WebSocket) -> list[str | bytes]:
    return [message async for message in ws]


def end_of(ws: rawws.WebSocket) -> tuple[int, str]:
    assert ws.closed is not None
    return ws.closed.code, ws.closed.by


async def flood(ws: rawws.WebSocket, size: int = 64 * KIB) -> int:
    """Send until the peer is behind; how many messages that took."""
    for count in range(1, 10_000):
        if ws.send_nowait(bytes(size)) is SendStatus.QUEUED and ws.send_buffer > 64 * KIB:
            return count
        await settle(3)
    raise AssertionError("the peer took everything")


def only_traceback(caplog: pytest.LogCaptureFixture) -> str:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 1, records
    assert records[0].exc_info is not None
    return repr(records[0].exc_info[1])


class TestOpening:
    async def test_request_is_there_before_the_answer(self, driver: Driver) -> None:
        held = Held()
        async with driver.serve(held) as connect:
            peer = await connect()
            scheme = "https" if driver.name == "tls" else "http"
            fields = (f"Origin: {scheme}://localhost", "Sec-WebSocket-Protocol: a, b", "X-Token: 7")
            await peer.send(request("/room?name=x%20y&name=z", *fields))
            ws = await held.next()
            assert ws.request.path == "/room"
            assert ws.request.query == "name=x%20y&name=z"
            assert ws.request.origin == f"{scheme}://localhost"
            assert ws.request.headers["x-token"] == "7"
            assert list(ws.request.subprotocols) == ["a", "b"]
            assert (ws.request.client is not None) is (driver.name == "reactor")
            assert "connecting" in repr(ws)
            await ws.accept()
            head = await peer.head()
            # The value for this key is the example of RFC 6455 §1.3.
            assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
            assert b"Sec-WebSocket-Protocol" not in head
            assert ws.subprotocol is None
            assert "open" in repr(ws)

    async def test_accept_with_subprotocol_and_headers(self, driver: Driver) -> None:
        held = Held()
        async with driver.serve(held) as connect:
            peer = await connect()
            await peer.send(request("/", "Sec-WebSocket-Protocol: a, b"))
            ws = await held.next()
            with pytest.raises(ValueError, match="offer"):
                await ws.accept(subprotocol="c")
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.accept(headers=[("X", "a\r\nb")])
            await ws.accept(subprotocol="b", headers={"Set-Cookie": "k=v"})
            head = await peer.head()
            assert b"Sec-WebSocket-Protocol: b\r\n" in head
            assert b"Set-Cookie: k=v\r\n" in head
            assert ws.subprotocol == "b"

    @pytest.mark.parametrize("how", ["receive", "iterate", "send", "send_nowait", "ping", "writer", "chunks"])
    async def test_first_use_accepts(self, driver: Driver, how: str) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            if how == "receive":
                await ws.receive()
            elif how == "iterate":
                await collect(ws)
            elif how == "send":
                await ws.send("x")
            elif how == "send_nowait":
                assert ws.send_nowait("x") is SendStatus.SENT
            elif how == "ping":
                await ws.ping()
            elif how == "writer":
                async with ws.message_writer() as writer:
                    await writer.write("x")
            else:
                async for _ in ws.receive_chunks():
                    pass

        async with driver.serve(handler) as connect:
            peer = await connect()
            assert (await peer.open()).startswith(b"HTTP/1.1 101 ")
            await peer.stream.aclose()

    async def test_reject_answers_over_http(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            await ws.reject(401, "Who are you?", headers=[("WWW-Authenticate", "Basic")])
            assert await collect(ws) == []
            assert ws.send_nowait("x") is SendStatus.CLOSED
            with pytest.raises(ConnectionClosed, match="rejected with 401"):
                await ws.receive()
            with pytest.raises(ConnectionClosed):
                await ws.send("x")
            with pytest.raises(ConnectionClosed):
                await ws.ping()
            with pytest.raises(RuntimeError):
                await ws.accept()
            with pytest.raises(RuntimeError):
                await ws.reject()
            await ws.close()
            done.set()

        done = trio.Event()
        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"WWW-Authenticate: Basic\r\n" in answer
            assert answer.endswith(b"\r\n\r\nWho are you?")
            await peer.stream.aclose()
            await done.wait()

    async def test_reject_takes_bytes_and_checks_the_status(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.reject(200)
            await ws.reject(503, b"\xff\0")

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            assert (await peer.rest()).endswith(b"\r\n\r\n\xff\0")

    async def test_handshake_is_answered_once(self, driver: Driver) -> None:
        async with driver.open() as (ws, _):
            with pytest.raises(RuntimeError):
                await ws.accept()
            with pytest.raises(RuntimeError):
                await ws.reject(403)

    async def test_returning_without_accepting_is_403(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            await trio.lowlevel.checkpoint()

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            assert (await peer.rest()).startswith(b"HTTP/1.1 403 ")

    async def test_raising_without_accepting_is_500_and_one_traceback(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            raise KeyError("secret")

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"secret" not in answer
        assert "secret" in only_traceback(caplog)

    async def test_returning_after_accepting_closes_with_1000(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            await ws.accept()

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.open()
            assert await peer.close_frame() == (1000, "")

    async def test_accept_timeout_runs_from_the_complete_head_then_503(self, driver: Driver, clock: MockClock) -> None:
        held = Held()
        async with driver.serve(held, limits=Limits(accept_timeout=3, head_timeout=10)) as connect:
            peer = await connect()
            await peer.send(REQUEST[:-2])
            await trio.sleep(9)
            await peer.send(REQUEST[-2:])
            ws = await held.next()
            began = trio.current_time()
            assert (await peer.rest()).startswith(b"HTTP/1.1 503 ")
            assert 3 <= trio.current_time() - began < 4
            with pytest.raises(ConnectionClosed):
                await ws.accept()
            await ws.reject(403)  # too late, and harmless
            assert await collect(ws) == []

    async def test_nothing_is_read_until_the_handshake_is_answered(self, driver: Driver) -> None:
        held = Held()
        async with driver.serve(held) as connect:
            peer = await connect()
            # The first frame comes in the same segment as the request, the second one while nothing is read.
            await peer.send(REQUEST + frame(TEXT, b"one"))
            ws = await held.next()
            await peer.send(frame(TEXT, b"two"))
            await settle()
            assert ws.bytes_received == 0
            await ws.accept()
            assert [await ws.receive(), await ws.receive()] == ["one", "two"]

    async def test_closing_before_the_answer_refuses_with_403(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            await ws.close()

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            assert (await peer.rest()).startswith(b"HTTP/1.1 403 ")

    async def test_closing_in_on_open_refuses_with_403_too(self, driver: Driver) -> None:
        class Unwilling(rawws.Protocol):
            def on_open(self, ws: rawws.WebSocket) -> None:
                with pytest.raises(ValueError, match="1006"):
                    ws.close_nowait(1006)
                ws.close_nowait()
                assert ws.closed is not None

        async with driver.serve(Unwilling()) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            assert (await peer.rest()).startswith(b"HTTP/1.1 403 ")

    async def test_cancelled_accept_and_reject_have_not_begun(self, driver: Driver) -> None:
        held = Held()
        async with driver.serve(held) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            ws = await held.next()
            for answer in (ws.accept, ws.reject):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await answer()
                assert scope.cancelled_caught
            await ws.accept()
            assert (await peer.head()).startswith(b"HTTP/1.1 101 ")

    async def test_shutdown_before_the_answer_refuses_with_503(self, driver: Driver) -> None:
        held = Held()
        async with driver.serve(held) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            (await held.next()).shut_down()
            assert (await peer.rest()).startswith(b"HTTP/1.1 503 ")


def test_the_interface_of_a_handshake_is_what_an_endpoint_must_provide() -> None:
    handshake = Handshake()
    for call in (lambda: handshake.accept(None, ()), lambda: handshake.reject(403, b"", ()), handshake.trailing_data):
        with pytest.raises(NotImplementedError):
            call()


class TestReceiving:
    async def test_text_is_str_and_binary_is_bytes(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, "ä".encode()) + frame(BINARY, b"\0\xff") + frame(TEXT))
            assert await ws.receive() == "ä"
            assert await ws.receive() == b"\0\xff"
            assert await ws.receive() == ""
            assert (ws.messages_received, ws.bytes_received) == (3, 8 + 8 + 6)

    async def test_cancelled_receive_loses_no_message(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            got: list[str | bytes] = []

            async def receive() -> None:
                with scope:
                    got.append(await ws.receive())

            for number in range(20):
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await settle(3)
                    nursery.start_soon(peer.send, frame(TEXT, b"%d" % number))
                    await settle(number // 2)
                    scope.cancel()
                if len(got) == number:
                    got.append(await ws.receive())
            assert got == [str(number) for number in range(20)]

    async def test_message_and_cancellation_at_once_deliver_the_message(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            got: list[str | bytes] = []

            async def receive() -> None:
                with scope:
                    got.append(await ws.receive())

            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await settle()
                ws._deliver("by hand")  # wakes the task ...
                scope.cancel()  # ... which is cancelled before it runs
            assert got == ["by hand"]
            await peer.send(frame(TEXT, b"next"))
            assert await ws.receive() == "next"

    async def test_message_and_close_at_once_deliver_the_message(self, driver: Driver) -> None:
        async with driver.open() as (ws, _peer):
            got: list[str | bytes] = []

            async def receive() -> None:
                got.extend([message async for message in ws])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await settle()
                ws._deliver("")  # the task is given this one ...
                ws._deliver("behind it")
                ws.close_nowait()  # ... and the close discards the other
            assert got == [""]

    async def test_second_concurrent_receive_is_busy(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:
            nursery.start_soon(ws.receive)
            await settle()
            with pytest.raises(trio.BusyResourceError):
                await ws.receive()
            async with aclosing(_chunks(ws)) as chunks:
                with pytest.raises(trio.BusyResourceError):
                    await anext(chunks)
            await peer.send(frame(TEXT))

    @pytest.mark.parametrize("receive", [rawws.WebSocket.receive, anext], ids=["receive", "async-for"])
    async def test_message_that_another_task_takes_while_this_one_lets_others_run(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch, receive: Callable[[rawws.WebSocket], Awaitable[object]]
    ) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"taken"))
            await settle()

            async def let_others_run() -> None:
                monkeypatch.undo()
                assert await ws.receive() == "taken"
                await peer.send(frame(TEXT, b"next"))

            monkeypatch.setattr("rawws.websocket.breathe", let_others_run)
            assert await receive(ws) == "next"

    async def test_receiving_from_a_protocol_is_a_mistake(self, driver: Driver) -> None:
        protocol = Recorder()
        async with driver.serve(protocol) as connect:
            await (await connect()).open()
            assert protocol.ws is not None
            with pytest.raises(RuntimeError, match="on_message"):
                await protocol.ws.receive()
            with pytest.raises(RuntimeError, match="on_message"):
                await anext(protocol.ws.receive_chunks())

    async def test_reading_stops_when_the_receive_queue_is_full_and_goes_on(self, driver: Driver) -> None:
        async with driver.open(limits=Limits(receive_queue_messages=4)) as (ws, peer):
            await peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(100)))
            await settle()
            received = ws.bytes_received
            assert ws.messages_received == 4
            await peer.send(frame(TEXT, b"100"))
            await settle()
            assert ws.bytes_received == received
            for number in range(101):
                assert await ws.receive() == str(number)
                assert ws.messages_received <= number + 1 + 4

    async def test_bytes_count_for_the_receive_queue_too(self, driver: Driver) -> None:
        async with driver.open(limits=Limits(receive_queue_size=1000)) as (ws, peer):
            await peer.send(frame(BINARY, bytes(400)) * 20)
            await settle()
            assert ws.messages_received == 3  # 1200 bytes: what reaches the limit is the last
            for _ in range(20):
                assert await ws.receive() == bytes(400)

    async def test_what_came_before_the_end_is_received_however_long_it_takes_to_decode(self, driver: Driver) -> None:
        message = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 1500 + frame(CONTINUATION, b"c")
        async with driver.open(limits=FAST) as (ws, peer):
            await peer.send(frame(TEXT, b"short") * 16 + message)
            await settle()
            peer.cut()
            while ws.closed is None:  # reading has stopped, so that only sending finds it out
                ws.send_nowait("?")
                await settle()
            with trio.fail_after(20):
                assert [await ws.receive() for _ in range(17)] == ["short"] * 16 + ["a" + "b" * 1500 + "c"]

    async def test_waiting_receive_is_not_starved_by_an_idle_peer(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            for number in range(50):
                await peer.send(frame(TEXT, b"%d" % number))
                assert await ws.receive() == str(number)

    async def test_byte_by_byte(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            for byte in frame(TEXT, b"slow") + frame(BINARY, bytes(130)):
                await peer.send(bytes((byte,)))
            assert await ws.receive() == "slow"
            assert await ws.receive() == bytes(130)


async def _chunks(ws: rawws.WebSocket) -> Any:
    async for chunk in ws.receive_chunks():
        yield chunk


class TestSending:
    async def test_text_bytes_and_anything_like_bytes(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await ws.send("ä")
            await ws.send(b"\0")
            await ws.send(bytearray(b"\1"))
            await ws.send(memoryview(b"\2\3"))
            assert await peer.frame() == (TEXT, "ä".encode())
            assert [await peer.frame() for _ in range(3)] == [(BINARY, b"\0"), (BINARY, b"\1"), (BINARY, b"\2\3")]
            assert (ws.messages_sent, ws.bytes_sent) == (4, 4 + 3 + 3 + 4)

    async def test_mistakes_of_the_caller_send_nothing(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            for bad, exception in ((7, TypeError), (None, TypeError), ("\ud800", ValueError)):
                with pytest.raises(exception):
                    await ws.send(bad)  # type: ignore[arg-type]
                with pytest.raises(exception):
                    ws.send_nowait(bad)  # type: ignore[arg-type]
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.ping(bytes(126))
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.close(1006)
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.close(1000, "\ud800")
            await ws.send("good")
            assert await peer.text() == "good"

    async def test_frames_of_several_tasks_do_not_interleave(self, driver: Driver) -> None:
        async def send(letter: str) -> None:
            for _ in range(20):
                await ws.send(letter * 20_000)

        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(send, letter)
            seen = [await peer.text() for _ in range(60)]
            assert sorted(seen) == [letter * 20_000 for letter in "abc" for _ in range(20)]

    async def test_send_waits_for_room_and_goes_on(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=FAST) as (ws, peer):
            sent = await flood(ws)
            while ws.send_buffer < MIB:
                ws.send_nowait(bytes(64 * KIB))
                sent += 1
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ws.send, "waits")
                    await settle()
                    scope.cancel()
            assert scope.cancelled_caught  # it has waited ...
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.send, "goes")
                await settle()
                assert ws.messages_sent == sent
                for _ in range(sent):
                    assert await peer.frame() == (BINARY, bytes(64 * KIB))
                assert await peer.text() == "goes"  # ... and what was cancelled has sent nothing of its message

    async def test_message_is_taken_whole_while_less_than_the_limit_is_queued(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=FAST) as (ws, peer):
            sent = await flood(ws)
            while ws.send_buffer < MIB - 64 * KIB - 100:
                ws.send_nowait(bytes(64 * KIB))
                sent += 1
            await ws.send(bytes(8 * MIB))
            assert 8 * MIB < ws.send_buffer < 9 * MIB + 100
            assert ws.send_nowait("over", policy="drop_newest") is SendStatus.DROPPED
            for _ in range(sent):
                await peer.frame()
            assert await peer.frame() == (BINARY, bytes(8 * MIB))

    async def test_send_that_makes_no_progress_ends_the_connection(self, driver: Driver, clock: MockClock) -> None:
        async with driver.open(narrow=True, limits=Limits(send_timeout=4, ping_interval=1e6)) as (ws, peer):
            while ws.send_buffer < MIB:
                ws.send_nowait(bytes(64 * KIB))
                await settle(3)
            began = trio.current_time()
            with pytest.raises(ConnectionClosed) as caught:
                await ws.send("never")
            assert (caught.value.code, caught.value.by) == (1013, "us")
            # Each look at the peer jumps a second, while the kernel still acknowledges what it took: that is progress.
            assert 3.9 <= trio.current_time() - began < 8
            assert await ws.wait_closed() is ws.closed
            peer.cut()

    async def test_a_message_that_is_refused_for_a_full_buffer_says_that_the_connection_ends(
        self, driver: Driver
    ) -> None:
        async with driver.open(narrow=True) as (ws, peer):
            while ws.send_nowait(bytes(64 * KIB)) is not SendStatus.CLOSED:
                assert ws.closed is None
            assert ws.closed is not None  # although our Close frame leaves only when the driver goes on
            assert (ws.closed.code, ws.closed.by) == (1013, "us")
            with pytest.raises(ConnectionClosed):
                await ws.send("late")
            with pytest.raises(ConnectionClosed):
                await ws.ping()
            peer.cut()

    async def test_statuses_of_send_nowait(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=FAST) as (ws, peer):
            assert ws.send_nowait("a") is SendStatus.SENT
            assert await peer.text() == "a"
            await flood(ws)
            assert ws.send_nowait("b") is SendStatus.QUEUED
            while ws.send_buffer < MIB:
                assert ws.send_nowait(bytes(64 * KIB)) is SendStatus.QUEUED
            assert ws.send_nowait("c", policy="drop_newest") is SendStatus.DROPPED
            assert ws.send_nowait("d", policy="drop_oldest") is SendStatus.QUEUED
            while ws.send_buffer < MIB:
                ws.send_nowait(bytes(64 * KIB))
            assert ws.send_nowait("e") is SendStatus.CLOSED  # the default policy closes with 1013
            assert ws.send_nowait("f") is SendStatus.CLOSED
            with pytest.raises(ConnectionClosed):
                await ws.send("g")
            await settle()
            assert not ws.ping_nowait()
            assert end_of(ws) == (1013, "us")
            peer.cut()

    async def test_echo_slows_down_and_does_not_close(self, driver: Driver) -> None:
        """Neither side of an echo reads for a while: everything comes back, and nothing piles up meanwhile."""
        protocol = Recorder(on_message=lambda ws, message: ws.send_nowait(message))
        messages, size = 400, 64 * KIB
        async with driver.serve(protocol, limits=FAST) as connect:
            peer = await connect(narrow=True)
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for number in range(messages):
                        await peer.send(frame(BINARY, number.to_bytes(2, "big") + bytes(size)))

                nursery.start_soon(peer.open)
                await settle()
                nursery.start_soon(send)
                await settle(200)
                ws = protocol.ws
                assert ws is not None
                for number in range(messages):
                    assert ws.send_buffer <= 64 * KIB + size + 100
                    opcode, payload = await peer.frame()
                    assert (opcode, payload[:2]) == (BINARY, number.to_bytes(2, "big"))

    @pytest.mark.parametrize("size", [100, 70_000, 1_000_000])
    async def test_large_echo_of_a_task(self, driver: Driver, size: int) -> None:
        async with driver.serve(rawws_echo, limits=FAST) as connect:
            peer = await connect()
            await peer.open()
            for _ in range(5):
                await peer.send(frame(BINARY, bytes(size)))
                assert await peer.frame() == (BINARY, bytes(size))


async def rawws_echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class TestEnding:
    async def test_messages_before_the_peers_close_are_delivered(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"a") + frame(TEXT, b"b") + close(3001, "bye") + frame(TEXT, b"late"))
            assert await collect(ws) == ["a", "b"]  # and it ends quietly
            assert end_of(ws) == (3001, "peer")
            with pytest.raises(ConnectionClosed, match="closed by peer with 3001: bye") as caught:
                await ws.receive()
            assert caught.value.reason == "bye"
            await ws.send("goodbye")  # sending works until our Close is queued
            await ws.close(1000)
            assert await peer.text() == "goodbye"
            assert await peer.close_frame() == (3001, "")
            assert await peer.rest() == b""

    async def test_our_close_leaves_when_the_handler_returns(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            async for message in ws:
                await ws.send(message)
            await leave.wait()
            await ws.send("bye")

        leave = trio.Event()
        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.open(REQUEST + frame(TEXT, b"a") + close(None))
            assert await peer.text() == "a"
            await settle()
            leave.set()
            assert await peer.text() == "bye"
            assert await peer.close_frame() == (1005, "")

    async def test_our_close_leaves_within_close_timeout_of_reading_the_peers(
        self, driver: Driver, clock: MockClock
    ) -> None:
        async with driver.open(limits=Limits(close_timeout=2)) as (ws, peer):
            await peer.send(close(1000))
            began = trio.current_time()
            assert await peer.close_frame() == (1000, "")
            assert 1.9 <= trio.current_time() - began < 3
            assert ws.send_nowait("late") is SendStatus.CLOSED

    async def test_after_a_failure_our_close_leaves_when_the_next_message_is_asked_for(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(0x3))
            await settle()
            assert await ws.receive() == "a"
            await ws.send("a")
            assert await ws.receive() == "b"
            await ws.send("b")
            with pytest.raises(ConnectionClosed) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.by) == (1002, "us")
            assert await peer.text() == "a"
            assert await peer.text() == "b"
            assert (await peer.close_frame())[0] == 1002
            with pytest.raises(ConnectionClosed):
                await collect(ws)  # async for raises what was no orderly end
            assert await peer.rest() == b""

    async def test_failure_without_a_reader_is_told_to_the_peer_in_time(self, driver: Driver, clock: MockClock) -> None:
        async with driver.open(limits=Limits(close_timeout=2)) as (_, peer):
            await peer.send(frame(0x3))
            began = trio.current_time()
            assert (await peer.close_frame())[0] == 1002
            assert 1.9 <= trio.current_time() - began < 3

    async def test_failure_wakes_a_waiting_receive(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(ConnectionClosed):
                    await ws.receive()

            nursery.start_soon(receive)
            await settle()
            await peer.send(frame(TEXT, b"\xff"))
            assert (await peer.close_frame())[0] == 1007

    async def test_end_without_close_raises_from_async_for(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"a"))
            await settle()
            peer.cut()
            got: list[str | bytes] = []
            with pytest.raises(ConnectionClosed) as caught:  # noqa: PT012
                async for message in ws:
                    got.append(message)  # noqa: PERF401  (what came before the exception counts)
            assert got == ["a"]
            assert (caught.value.code, caught.value.by) == (1006, "network")
            assert caught.value.concerns(ws)
            assert ws.send_nowait("x") is SendStatus.CLOSED
            with pytest.raises(ConnectionClosed):
                await ws.send("x")

    @NOT_CUT_SHORT
    async def test_what_came_before_fin_is_answered_however_long_it_takes(self, driver: Driver) -> None:
        ended: list[tuple[int, str]] = []

        async def echo(ws: rawws.WebSocket) -> None:
            try:
                async for message in ws:
                    await settle(50)
                    await ws.send(message)
            finally:
                assert ws.closed is not None
                ended.append((ws.closed.code, ws.closed.by))

        async with driver.serve(echo, limits=FAST) as connect:
            for count in (1, 3, 40):  # 16 fill the receive queue
                peer = await connect()
                await peer.open()
                await peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
                await peer.eof()
                assert [await peer.text() for _ in range(count)] == [str(number) for number in range(count)]
                assert await peer.rest() == b""
            peer = await connect()
            await peer.send(REQUEST + frame(TEXT, b"early"))
            await peer.eof()
            await peer.head()
            assert await peer.text() == "early"
            assert await peer.rest() == b""
            peer = await connect()
            await peer.send(REQUEST + frame(TEXT, b"early") + close(4000))
            await peer.eof()
            await peer.head()
            assert await peer.text() == "early"
            assert (await peer.close_frame())[0] == 4000
            assert await peer.rest() == b""
        assert ended == [(1006, "network")] * 4 + [(4000, "peer")]

    @NOT_CUT_SHORT
    async def test_fin_ends_a_waiting_receive_at_once_and_a_handler_that_never_asks_in_time(
        self, driver: Driver, clock: MockClock
    ) -> None:
        async with driver.open(limits=FAST) as (ws, peer):  # there is nothing to answer
            await peer.eof()
            assert await ws.wait_closed() is ws.closed
            assert await peer.rest() == b""
        async with driver.open(limits=Limits(close_timeout=3)) as (ws, peer):
            await peer.send(frame(TEXT, b"x"))
            await peer.eof()
            await settle()
            assert ws.send_nowait("can be heard") is not SendStatus.CLOSED
            assert await peer.text() == "can be heard"
            assert end_of(ws) == (1006, "network")
            began = trio.current_time()
            assert await ws.wait_closed() is ws.closed
            assert 2.9 <= trio.current_time() - began < 4
            assert ws.send_nowait("x") is SendStatus.CLOSED
            assert await peer.rest() == b""
        async with driver.open(limits=FAST) as (ws, peer), trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(ConnectionClosed):
                    await ws.receive()

            nursery.start_soon(receive)
            await settle()
            await peer.eof()
            assert await peer.rest() == b""
            assert await ws.wait_closed() is ws.closed

    @NOT_CUT_SHORT
    @pytest.mark.parametrize("how", ["close", "return", "cut"])
    async def test_after_fin_a_handler_ends_without_a_close_frame(self, driver: Driver, how: str) -> None:

        async def handler(ws: rawws.WebSocket) -> None:
            await ws.accept()
            await read.wait()
            await settle()
            if how == "close":
                await ws.close(4000)
            elif how == "cut":
                ws.cut()
            assert how == "return" or await ws.wait_closed() is ws.closed
            closed.append(ws)

        read = trio.Event()
        closed: list[rawws.WebSocket] = []
        async with driver.serve(handler, limits=FAST) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(frame(TEXT, b"never received"))
            await peer.eof()
            await settle()
            read.set()
            assert await peer.rest() == b""
        assert end_of(closed[0]) == ((1001, "us") if how == "cut" else (1006, "network"))

    async def test_who_has_only_to_wait_for_the_end_does_not_delay_it(self, driver: Driver) -> None:
        async def only_waits(ws: rawws.WebSocket) -> None:
            await ws.accept()
            ended.append((await ws.wait_closed()).code)

        async def reads_first(ws: rawws.WebSocket) -> None:
            async for message in ws:
                await ws.send(message)
            ended.append((await ws.wait_closed()).code)

        async def has_a_reader(ws: rawws.WebSocket) -> None:
            async def read() -> None:
                async for message in ws:
                    await settle(50)
                    await ws.send(message)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                ended.append((await ws.wait_closed()).code)

        ended: list[int] = []
        apps = {"/only": only_waits, "/first": reads_first, "/reader": has_a_reader}
        async with driver.serve(apps, limits=FAST) as connect:
            for path in apps:
                peer = await connect()
                await peer.open(request(path))
                if path != "/only":
                    await peer.send(frame(TEXT, b"a") + frame(TEXT, b"b"))
                await peer.send(close(4000))
                if path != "/only":
                    assert [await peer.text(), await peer.text()] == ["a", "b"]
                assert (await peer.close_frame())[0] == 4000
                assert await peer.rest() == b""
                await peer.stream.aclose()
            await settle()
            assert ended == [4000] * 3
            peer = await connect()
            await peer.open(request("/only"))
            await peer.send(frame(0x3))
            assert (await peer.close_frame())[0] == 1002
            assert await peer.rest() == b""
            if driver.name != "tls":
                peer = await connect()
                await peer.open(request("/only"))
                await peer.eof()
                assert await peer.rest() == b""

    async def test_somebody_elses_wait_for_the_end_says_nothing_for_the_handler(self, driver: Driver) -> None:
        async with driver.open(limits=FAST) as (ws, peer), trio.open_nursery() as nursery:
            nursery.start_soon(ws.wait_closed)
            await settle()
            await peer.send(close(4000))
            await settle()
            await ws.send("one more thing")
            assert await peer.text() == "one more thing"
            nursery.start_soon(ws.close)
            assert (await peer.close_frame())[0] == 4000
            await peer.stream.aclose()

    async def test_own_close_ends_async_for_quietly_and_discards_the_queue(self, driver: Driver) -> None:
        async with driver.open(limits=Limits(receive_queue_messages=2)) as (ws, peer):
            # More than the queue takes; the peer's Close is behind all of it.
            await peer.send(frame(TEXT, b"x") * 50)
            await settle()

            async def answer() -> None:
                assert await peer.close_frame() == (4000, "over")
                await peer.send(frame(TEXT, b"y") * 50 + close(4000))
                assert await peer.rest() == b""

            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                await ws.close(4000, "over")
            assert end_of(ws) == (4000, "us")
            assert await collect(ws) == []
            with pytest.raises(ConnectionClosed):
                await ws.receive()

    async def test_own_close_wakes_a_waiting_receive(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:

            async def iterate() -> None:
                assert await collect(ws) == []

            nursery.start_soon(iterate)
            await settle()
            ws.close_nowait(1001)
            await peer.send(close(1001))
            await peer.close_frame()

    async def test_close_is_idempotent_and_the_first_code_wins(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            ended: list[int] = []

            async def end(code: int) -> None:
                await ws.close(code)
                ended.append(code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end, 4001)
                await settle()
                nursery.start_soon(end, 4002)
                ws.close_nowait(4003)
                await settle()
                assert ended == []  # both wait for the same end
                assert (await peer.close_frame())[0] == 4001
                await peer.send(close(4001))
            assert sorted(ended) == [4001, 4002]
            await ws.close(4004)
            assert end_of(ws) == (4001, "us")
            assert await peer.rest() == b""

    async def test_close_never_hangs_with_a_peer_that_reads_and_says_nothing(
        self, driver: Driver, clock: MockClock
    ) -> None:
        async with driver.open(narrow=True, limits=Limits(close_timeout=3, send_timeout=100)) as (ws, peer):
            await flood(ws)
            began = trio.current_time()
            await ws.close()
            assert 2.9 <= trio.current_time() - began < 4
            peer.cut()

    async def test_close_reads_on_while_the_peer_is_behind(self, driver: Driver) -> None:
        """Both sides have filled the other's buffers: reading resumes, and so the peer comes to read our Close."""
        protocol = Recorder(on_message=lambda ws, message: ws.send_nowait(message))
        async with driver.serve(protocol, limits=FAST) as connect:
            peer = await connect(narrow=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.open)
                await settle()
                sent = 0

                async def send() -> None:
                    nonlocal sent
                    while True:
                        await peer.send(frame(BINARY, bytes(64 * KIB)))
                        sent += 1

                nursery.start_soon(send)
                before = -1
                while sent != before or sent < 1:
                    before = sent
                    await settle(100)
                ws = protocol.ws
                assert ws is not None
                nursery.start_soon(ws.close)
                await settle(500)
                assert sent > before
                nursery.cancel_scope.cancel()

    async def test_cancelled_close_cuts_and_raises(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ws.close)
                    await settle()
                    scope.cancel()
            assert scope.cancelled_caught
            assert end_of(ws) == (1000, "us")
            assert await ws.wait_closed() is ws.closed
            await peer.close_frame()
            assert await peer.rest() == b""

    async def test_a_close_that_was_cancelled_before_has_said_what_it_had_to_say(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            with trio.CancelScope() as scope:
                scope.cancel()
                ws.send_nowait("last words")
                await ws.close(4000, "over")
            assert scope.cancelled_caught
            assert await peer.text() == "last words"
            assert await peer.close_frame() == (4000, "over")

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1])
    async def test_a_code_that_may_not_be_sent_is_refused_and_closes_nothing(self, driver: Driver, code: int) -> None:
        async with driver.open() as (ws, peer):
            with pytest.raises(ValueError, match="may not be sent as a close code"):
                await ws.close(code)
            with pytest.raises(ValueError, match="may not be sent as a close code"):
                ws.close_nowait(code)
            ws.send_nowait("still here")
            assert await peer.text() == "still here"

    async def test_wait_closed_and_close_callbacks_serve_who_does_not_read(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            told: list[tuple[rawws.WebSocket, int]] = []

            def tell(ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
                told.append((ws, closed.code))

            ws.add_close_callback(tell)
            ws.add_close_callback(tell)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.wait_closed)
                nursery.start_soon(ws.wait_closed)
                await settle()
                await peer.stream.aclose()
            assert told == [(ws, 1006)] * 2
            ws.add_close_callback(tell)
            assert told == [(ws, 1006)] * 3
            assert (await ws.wait_closed()).by == "network"

    async def test_close_callback_that_is_added_in_a_callback_is_called_after_it(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        steps: list[str] = []

        def fail(ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
            steps.append("fails")
            raise ZeroDivisionError

        class App(rawws.Protocol):
            def on_close(self, ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
                ws.add_close_callback(second)
                steps.append("on_close")

        def first(ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
            ws.add_close_callback(lambda *_: steps.append("nested"))
            steps.append("first")

        def second(ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
            ws.add_close_callback(fail)
            steps.append("second")

        class Opening(App):
            def on_open(self, ws: rawws.WebSocket) -> None:
                ws.add_close_callback(first)
                held.append(ws)

        held: list[rawws.WebSocket] = []
        async with driver.serve(Opening()) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(close(1000))
            assert await peer.close_frame() == (1000, "")
            await peer.stream.aclose()
            await held[0].wait_closed()
            assert steps == ["first", "nested", "on_close", "second", "fails"]
            held[0].add_close_callback(fail)
            assert steps[-1] == "fails"
            assert len(steps) == 6
        assert [record.exc_info is not None for record in caplog.records] == [True, True]

    async def test_close_callback_that_raises_is_logged_and_the_others_are_called(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with driver.open() as (ws, peer):
            told: list[int] = []

            def fail(ws: rawws.WebSocket, closed: ConnectionClosed) -> None:
                raise ZeroDivisionError

            ws.add_close_callback(fail)
            ws.add_close_callback(lambda ws, closed: told.append(closed.code))
            await peer.stream.aclose()
            await ws.wait_closed()
            assert told == [1006]
        assert "ZeroDivisionError" in only_traceback(caplog)

    async def test_cut_ends_at_once(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            ws.cut()
            assert end_of(ws) == (1001, "us")
            assert await peer.rest() == b""


class TestHandlers:
    @pytest.mark.parametrize("grouped", [False, True])
    async def test_own_connection_closed_is_an_ordinary_end(
        self, driver: Driver, grouped: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            if not grouped:
                await ws.receive()
            async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
                nursery.start_soon(ws.receive)
                inner.start_soon(wait_then_send, ws)

        async def wait_then_send(ws: rawws.WebSocket) -> None:
            await ws.wait_closed()
            await ws.send("x")

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.open()
            if grouped:
                peer.cut()
                await settle()
            else:
                await peer.send(close(1000))
                assert await peer.close_frame() == (1000, "")
        assert not caplog.records

    @pytest.mark.parametrize("how", ["wait_closed", "closed"])
    async def test_so_is_what_its_connection_says_of_its_end(
        self, driver: Driver, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            await ws.accept()
            closed = await ws.wait_closed()
            if how == "closed":
                assert ws.closed is not None
                raise ws.closed
            raise closed

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(close(1000))
            assert await peer.close_frame() == (1000, "")
            await settle()
        assert not caplog.records

    @pytest.mark.parametrize("grouped", [False, True])
    async def test_connection_closed_of_another_connection_is_1011(
        self, driver: Driver, grouped: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            if ws.request.path == "/other":
                others.append(ws)
                await ws.wait_closed()
                return
            await ws.accept()
            try:
                await others[0].receive()
            except ConnectionClosed as exc:
                if grouped:
                    raise ExceptionGroup("both", [exc, ConnectionClosed(1000).of(ws)]) from None
                raise

        others: list[rawws.WebSocket] = []
        shared = Held()
        if driver.name == "reactor":
            async with driver.serve(handler) as connect:
                other = await connect()
                await other.send(request("/other"))
                await settle()
                peer = await connect()
                await peer.open()
                other.cut()
                assert await peer.close_frame() == (1011, "internal error")
        else:
            async with driver.serve(shared) as connect_other, driver.serve(handler) as connect:
                other = await connect_other()
                await other.send(REQUEST)
                others.append(await shared.next())
                peer = await connect()
                await peer.open()
                other.cut()
                assert await peer.close_frame() == (1011, "internal error")
        assert "ConnectionClosed" in only_traceback(caplog)

    async def test_any_other_exception_is_1011_and_one_traceback_and_no_detail(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            message = await ws.receive()
            await ws.send("before")
            raise ZeroDivisionError(message)

        async with driver.serve(handler) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(frame(TEXT, b"secret"))
            assert await peer.text() == "before"  # what it had sent leaves first
            assert await peer.close_frame() == (1011, "internal error")
        assert "ZeroDivisionError" in only_traceback(caplog)

    async def test_base_exception_ends_the_server(self, driver: Driver) -> None:
        async def handler(ws: rawws.WebSocket) -> None:
            raise SystemExit(3)

        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012
            async with driver.serve(handler) as connect:
                peer = await connect()
                await peer.send(REQUEST)
                await trio.sleep_forever()
        assert _leaves(caught.value) == [SystemExit]


def _leaves(exc: BaseException) -> list[type[BaseException]]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for one in exc.exceptions for leaf in _leaves(one)]
    return [type(exc)]


class TestCallbacks:
    async def test_order_and_once(self, driver: Driver) -> None:
        protocol = Recorder()
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open(REQUEST + frame(TEXT, b"a"))
            await peer.send(frame(BINARY, b"b") + close(3000) + frame(TEXT, b"late"))
            assert await peer.close_frame() == (3000, "")
            await peer.stream.aclose()
            await protocol.closed.wait()
            await settle()
        assert protocol.told == [
            ("on_open",),
            ("on_message", "a"),
            ("on_message", b"b"),
            ("on_closing", 3000, "peer"),
            ("on_close", 3000, "peer"),
        ]

    async def test_end_without_close_skips_on_closing(self, driver: Driver) -> None:
        protocol = Recorder()
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(frame(TEXT, b"last"))
            await settle()
            await peer.stream.aclose()
            await protocol.closed.wait()
        assert protocol.told == [("on_open",), ("on_message", "last"), ("on_close", 1006, "network")]

    async def test_on_open_may_accept_or_reject(self, driver: Driver) -> None:
        def choose(ws: rawws.WebSocket) -> None:
            if ws.request.path == "/no":
                ws.reject_nowait(403, "no")
                with pytest.raises(RuntimeError):
                    ws.accept_nowait()
            else:
                ws.accept_nowait(subprotocol="a", headers=[("X", "y")])
                ws.send_nowait("welcome")

        protocol = Recorder(on_open=choose)
        async with driver.serve(protocol) as connect:
            peer = await connect()
            head = await peer.open(request("/", "Sec-WebSocket-Protocol: a"))
            assert b"Sec-WebSocket-Protocol: a\r\n" in head
            assert b"X: y\r\n" in head
            assert await peer.text() == "welcome"
            peer = await connect()
            await peer.send(request("/no"))
            assert (await peer.rest()).startswith(b"HTTP/1.1 403 ")
        names = [told[0] for told in protocol.told]
        assert (names.count("on_open"), names.count("on_close")) == (2, 2)
        assert ("on_close", 1006, "us") in protocol.told  # of the one that was refused

    async def test_on_open_is_before_the_101(self, driver: Driver) -> None:
        def first(ws: rawws.WebSocket) -> None:
            states.append(ws._state)
            ws.send_nowait("said at once")

        states: list[State] = []
        async with driver.serve(Recorder(on_open=first)) as connect:
            peer = await connect()
            assert (await peer.open()).startswith(b"HTTP/1.1 101 ")
            assert await peer.text() == "said at once"
        assert states == [State.CONNECTING]

    async def test_on_open_may_close(self, driver: Driver) -> None:
        protocol = Recorder(on_open=lambda ws: ws.close_nowait(4001, "full"))
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            answer = await peer.head()
            if answer.startswith(b"HTTP/1.1 101 "):
                assert await peer.close_frame() == (4001, "full")

    async def test_on_open_that_raises_is_500(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        def fail(ws: rawws.WebSocket) -> None:
            raise ZeroDivisionError

        protocol = Recorder(on_open=fail)
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.send(REQUEST)
            assert (await peer.rest()).startswith(b"HTTP/1.1 500 ")
        assert protocol.told == [("on_open",), ("on_close", 1006, "us")]
        assert "ZeroDivisionError" in only_traceback(caplog)

    async def test_on_open_that_raises_after_accepting_is_1011(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(ws: rawws.WebSocket) -> None:
            ws.send_nowait("before")
            raise ZeroDivisionError

        async with driver.serve(Recorder(on_open=fail)) as connect:
            peer = await connect()
            await peer.open()
            assert await peer.text() == "before"
            assert await peer.close_frame() == (1011, "internal error")
        assert "ZeroDivisionError" in only_traceback(caplog)

    async def test_on_message_that_raises_is_1011_after_what_it_had_sent(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(ws: rawws.WebSocket, message: str) -> None:
            ws.send_nowait(message)
            raise ZeroDivisionError

        protocol = Recorder(on_message=fail)
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
            assert await peer.text() == "one"
            assert await peer.close_frame() == (1011, "internal error")
            await peer.send(close(1011))
            await peer.rest()
            await peer.stream.aclose()
            await protocol.closed.wait()
        assert [told[0] for told in protocol.told] == ["on_open", "on_message", "on_closing", "on_close"]
        assert "ZeroDivisionError" in only_traceback(caplog)

    async def test_on_closing_says_goodbye_before_our_close(self, driver: Driver) -> None:
        def goodbye(ws: rawws.WebSocket, code: int, by: str) -> None:
            assert ws.send_nowait("bye") is SendStatus.SENT
            ws.close_nowait(4002)  # the first code wins

        protocol = Recorder(on_closing=goodbye)
        async with driver.serve(protocol) as connect:
            for ends in ("peer", "us", "shutdown"):
                peer = await connect()
                await peer.open()
                assert protocol.ws is not None
                if ends == "peer":
                    await peer.send(close(1000))
                elif ends == "us":
                    protocol.ws.close_nowait(4001)
                else:
                    protocol.ws.shut_down()
                assert await peer.text() == "bye"
                assert (await peer.close_frame())[0] == {"peer": 1000, "us": 4001, "shutdown": 1001}[ends]
                await peer.stream.aclose()
                await settle()
        assert [told[1:] for told in protocol.told if told[0] == "on_closing"] == [
            (1000, "peer"),
            (4001, "us"),
            (1001, "us"),
        ]
        assert [told[0] for told in protocol.told].count("on_close") == 3

    async def test_on_closing_and_on_close_that_raise_are_logged(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(ws: rawws.WebSocket, code: int, by: str) -> None:
            raise ZeroDivisionError

        protocol = Recorder(on_closing=fail, on_close=fail)
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open()
            await peer.send(close(1000))
            assert await peer.close_frame() == (1000, "")
            await peer.stream.aclose()
            await settle()
        assert [record.getMessage().rsplit(": ", 1)[1] for record in caplog.records] == [
            "on_closing raised",
            "on_close raised",
        ]

    async def test_closing_found_inside_a_callback_is_reported_after_it(self, driver: Driver) -> None:
        def end(ws: rawws.WebSocket, message: str) -> None:
            if message == "close":
                ws.close_nowait(4001)
            else:
                ws.cut()
            order.append("returned")

        order: list[str] = []
        for message in ("close", "cut"):
            protocol = Recorder(on_message=end, on_closing=lambda ws, *_: order.append("closing"))
            async with driver.serve(protocol) as connect:
                peer = await connect()
                await peer.open()
                await peer.send(frame(TEXT, message.encode()) + frame(TEXT, b"ignored"))
                await peer.rest() if message == "cut" else await peer.close_frame()
                await peer.stream.aclose()
                await protocol.closed.wait()
            assert [told[0] for told in protocol.told].count("on_message") == 1
        assert order == ["returned", "closing", "returned"]

    async def test_close_callbacks_come_before_on_close(self, driver: Driver) -> None:
        order: list[str] = []
        protocol = Recorder(
            on_open=lambda ws: ws.add_close_callback(lambda *_: order.append("callback")),
            on_close=lambda *_: order.append("on_close"),
        )
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open()
            await peer.stream.aclose()
            await protocol.closed.wait()
        assert order == ["callback", "on_close"]

    async def test_base_exception_of_a_callback_ends_the_server(self, driver: Driver) -> None:
        def leave(ws: rawws.WebSocket, message: str) -> None:
            raise SystemExit(3)

        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012
            async with driver.serve(Recorder(on_message=leave)) as connect:
                peer = await connect()
                await peer.send(REQUEST + frame(TEXT, b"x"))
                await trio.sleep_forever()
        assert _leaves(caught.value) == [SystemExit]

    async def test_keyboard_interrupt_protection_does_not_reach_callbacks(self, driver: Driver) -> None:
        def look(ws: rawws.WebSocket, *_: Any) -> None:
            protected.append(trio.lowlevel.currently_ki_protected())

        protected: list[bool] = []
        protocol = Recorder(on_open=look, on_message=look, on_closing=look, on_close=look)
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open(REQUEST + frame(TEXT, b"x"))
            assert protocol.ws is not None
            protocol.ws.add_close_callback(look)
            await peer.send(close(1000))
            await peer.close_frame()
            await peer.stream.aclose()
            await protocol.closed.wait()
        assert protected == [False] * 5

    async def test_protocol_connections_send_from_tasks_too(self, driver: Driver) -> None:
        protocol = Recorder()
        async with driver.serve(protocol) as connect:
            peer = await connect()
            await peer.open()
            assert protocol.ws is not None
            await protocol.ws.send("from a task")
            assert await peer.text() == "from a task"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(protocol.ws.close)
                assert await peer.close_frame() == (1000, "")
                await peer.send(close(1000))


class TestPings:
    async def test_ping_measures_its_pong(self, driver: Driver, clock: MockClock) -> None:
        async with driver.open() as (ws, peer):

            async def answer() -> None:
                opcode, payload = await peer.frame()
                assert opcode == PING
                await trio.sleep(2)
                await peer.send(frame(PONG, payload))

            assert ws.latency is None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                assert await ws.ping() == pytest.approx(2, abs=0.1)
            assert ws.latency == pytest.approx(2, abs=0.1)

    async def test_pong_answers_the_pings_before_it(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:
            for payload in (b"a", b"b", b"c"):
                nursery.start_soon(ws.ping, payload)
                assert await peer.frame() == (PING, payload)
            with pytest.raises(ValueError, match="under way"):
                await ws.ping(b"b")
            await peer.send(frame(PONG, b"unasked") + frame(PONG, b"b") + frame(PONG, b"c"))

    async def test_default_payloads_are_distinct(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"\0\0\0\2")
            await settle()
            nursery.start_soon(ws.ping)
            nursery.start_soon(ws.ping)
            payloads = {(await peer.frame())[1] for _ in range(3)}
            assert len(payloads) == 3
            for payload in payloads:
                await peer.send(frame(PONG, payload))

    async def test_ping_that_nobody_answers_is_too_slow(self, driver: Driver, clock: MockClock) -> None:
        async with driver.open(limits=Limits(ping_interval=1000, ping_timeout=3)) as (ws, peer):
            with pytest.raises(trio.TooSlowError):
                await ws.ping()
            await ws.send("it lives")
            assert (await peer.frame())[0] == PING
            assert await peer.text() == "it lives"

    async def test_ping_ends_with_the_connection(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer), trio.open_nursery() as nursery:

            async def ping() -> None:
                with pytest.raises(ConnectionClosed):
                    await ws.ping()

            nursery.start_soon(ping)
            await settle()
            peer.cut()

    async def test_ping_nowait(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            assert ws.ping_nowait(b"x")
            assert await peer.frame() == (PING, b"x")
            ws.close_nowait()
            assert not ws.ping_nowait()

    async def test_silent_peer_is_pinged_and_closed_with_1011(self, driver: Driver, clock: MockClock) -> None:
        protocol = Recorder()
        async with driver.serve(protocol, limits=Limits(ping_interval=20, ping_timeout=5)) as connect:
            peer = await connect()
            await peer.open()
            began = trio.current_time()
            assert (await peer.frame())[0] == PING
            assert trio.current_time() - began == pytest.approx(20, abs=0.5)
            assert (await peer.close_frame())[0] == 1011
            assert trio.current_time() - began == pytest.approx(25, abs=0.5)
            await protocol.closed.wait()
            await peer.stream.aclose()
        assert protocol.told[-1] == ("on_close", 1011, "us")

    async def test_peer_that_answers_stays(self, driver: Driver, clock: MockClock) -> None:
        protocol = Recorder()
        async with driver.serve(protocol, limits=Limits(ping_interval=20, ping_timeout=5)) as connect:
            peer = await connect()
            await peer.open()
            for _ in range(5):
                opcode, payload = await peer.frame()
                assert opcode == PING
                await trio.sleep(2)
                await peer.send(frame(PONG, payload))
            await settle()
            assert protocol.ws is not None
            assert protocol.ws.latency == pytest.approx(2, abs=0.2)
            assert protocol.told == [("on_open",)]

    async def test_any_byte_counts_as_life(self, driver: Driver, clock: MockClock) -> None:
        protocol = Recorder()
        async with driver.serve(protocol, limits=Limits(ping_interval=20, ping_timeout=5)) as connect:
            peer = await connect()
            await peer.open()
            for byte in frame(TEXT, b"slow"):
                await trio.sleep(19)
                await peer.send(bytes((byte,)))
            await settle()
            assert protocol.told == [("on_open",), ("on_message", "slow")]
            protocol.told.clear()
            await trio.sleep(15)
            with trio.move_on_after(0):
                raise AssertionError(await peer.frame())

    async def test_pong_clock_stands_still_while_we_do_not_read(self, driver: Driver, clock: MockClock) -> None:
        limits = Limits(ping_interval=20, ping_timeout=5, receive_queue_messages=1)
        async with driver.open(limits=limits) as (ws, peer):
            await peer.send(frame(TEXT, b"a") + frame(TEXT, b"b"))
            await trio.sleep(100)
            assert ws.closed is None
            assert await ws.receive() == "a"
            assert await ws.receive() == "b"
            assert ws.closed is None
