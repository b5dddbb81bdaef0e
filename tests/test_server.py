"""The server over real sockets: starting, listeners of every kind, limits, deadlines, signals, and how it ends."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

import rawws
from rawws import listeners as listeners_module
from rawws import server as server_module
from tests.conftest import FAST_LANE
from tests.raw_client import BINARY, CLOSE, CLOSE_1000, TEXT, Client, connected, echo, frame, handshake, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GOING_AWAY = (CLOSE, b"\x03\xe9server shutdown")
CLOSE_1001 = frame(CLOSE, b"\x03\xe9")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LIMITS = rawws.Limits


class Recorder(rawws.Protocol):
    """An echo that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        ws.send_nowait(message)

    def on_closing(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self.told.append(f"closing {closed.code} by {closed.by}")
        ws.send_nowait("goodbye")

    def on_close(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self.told.append(f"close {closed.code} by {closed.by}")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def port_of(server: rawws.Server) -> int:
    address = server.addresses[0]
    assert isinstance(address, tuple)
    return address[1]


@asynccontextmanager
async def listening(app: Any, *listeners: trio.abc.Listener[Any], **options: Any) -> AsyncIterator[rawws.Server]:
    options.setdefault("fast_lane", FAST_LANE)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve_listeners, app, listeners, **options))
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory_client(app: Any, **options: Any) -> AsyncIterator[Client]:
    """A client of `serve_stream`, which must have returned when the block ends."""
    options.setdefault("fast_lane", FAST_LANE)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(rawws.serve_stream, app, theirs, **options))
        async with ours:
            yield Client(ours)


async def echoes(client: Client) -> None:
    await client.open()
    await client.send(frame(TEXT, b"hello", key=b"\x01\x02\x03\x04"))
    assert await client.frame() == (TEXT, b"hello")


async def ends_in_order(client: Client) -> None:
    await client.send(CLOSE_1000)
    assert await client.frame() == (CLOSE, b"\x03\xe8")
    assert await client.ended() == b""


class TestStarting:
    async def test_nursery_start_returns_the_server_with_its_addresses(self) -> None:
        async with serving(echo) as server:
            assert isinstance(server, rawws.Server)
            assert server.addresses == [("127.0.0.1", port_of(server))]
            assert port_of(server) > 0
            assert server.websockets == frozenset()
            async with connected(server) as client:
                await echoes(client)
                assert len(server.websockets) == 1

    async def test_a_port_that_is_taken_is_a_bare_oserror(self) -> None:
        async with serving(echo) as server:
            with pytest.raises(OSError, match="Errno") as caught:
                await rawws.serve(echo, "127.0.0.1", port_of(server))
            assert caught.value.errno == errno.EADDRINUSE
            async with trio.open_nursery() as nursery:
                with pytest.raises(OSError, match="Errno"):
                    await nursery.start(rawws.serve, echo, "127.0.0.1", port_of(server))

    async def test_mistakes_are_bare_and_come_before_a_port_is_bound(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="an application is"):
            await rawws.serve(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not an origin"):
            await rawws.serve(echo, origins=["example.com"])
        with pytest.raises(FileNotFoundError):
            await rawws.serve(echo, static=tmp_path / "nowhere")
        with pytest.raises(TypeError, match="an instance of a Protocol"):
            await rawws.serve_listeners(rawws.EchoProtocol, [])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="an instance of a Protocol"):
            await rawws.serve_stream(rawws.EchoProtocol, trio.testing.memory_stream_pair()[0])  # type: ignore[arg-type]

    async def test_an_exception_of_on_start_leaves_run_bare_and_closes_the_listeners(self) -> None:
        seen: list[rawws.Server] = []

        def on_start(server: rawws.Server) -> None:
            seen.append(server)
            raise LookupError("no")

        with pytest.raises(LookupError, match="no"):
            await trio.to_thread.run_sync(partial(rawws.run, echo, "127.0.0.1", 0, on_start=on_start))
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port_of(seen[0]))

    async def test_cancelled_while_it_starts_it_leaves_nothing_open(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await rawws.serve_listeners(echo, [listener])
        assert scope.cancelled_caught
        assert listener.socket.fileno() == -1

    async def test_all_addresses_of_a_name_share_a_free_port(self) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, echo, None, 0))
            assert len({port for _, port in server.addresses}) == 1
            nursery.cancel_scope.cancel()

    async def test_a_free_port_is_looked_for_until_it_is_free_on_all_addresses(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        original = trio.open_tcp_listeners

        async def open_tcp_listeners(port: int, *, host: str, backlog: int) -> list[trio.SocketListener]:
            asked.append(port)
            if port and len(asked) < 5:
                raise OSError(errno.EADDRINUSE, "taken on the other address")
            first = await original(port, host="127.0.0.1", backlog=backlog)
            return first + await original(port, host="127.0.0.2", backlog=backlog)

        monkeypatch.setattr(trio, "open_tcp_listeners", open_tcp_listeners)
        listeners = await listeners_module.open_listeners("a.name", 0)
        assert [bool(port) for port in asked] == [False, True, False, True, False, True]
        ports = set()
        for listener in listeners:
            assert isinstance(listener, trio.SocketListener)
            ports.add(listener.socket.getsockname()[1])
            await listener.aclose()
        assert len(ports) == 1

    async def test_where_no_port_is_free_on_all_addresses_each_has_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = trio.open_tcp_listeners

        async def open_tcp_listeners(port: int, *, host: str, backlog: int) -> list[trio.SocketListener]:
            if port:
                raise OSError(errno.EADDRINUSE, "taken on the other address")
            first = await original(0, host="127.0.0.1", backlog=backlog)
            return first + await original(0, host="127.0.0.2", backlog=backlog)

        monkeypatch.setattr(trio, "open_tcp_listeners", open_tcp_listeners)
        listeners = await listeners_module.open_listeners("a.name", 0)
        assert len(listeners) == 2
        for listener in listeners:
            await listener.aclose()


class TestListeners:
    async def test_a_tcp_listener_stays_its_owners_until_the_end_and_is_closed_then(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listening(echo, listener) as server:
            assert listener.socket.getsockname() == server.addresses[0]
            async with connected(server) as client:
                await echoes(client)
        assert listener.socket.fileno() == -1

    async def test_several_listeners_are_served_at_once(self) -> None:
        listeners = [
            *await trio.open_tcp_listeners(0, host="127.0.0.1"),
            *await trio.open_tcp_listeners(0, host="127.0.0.2"),
        ]
        async with listening(echo, *listeners) as server:
            assert len(server.addresses) == 2
            for address in server.addresses:
                assert isinstance(address, tuple)
                async with await trio.open_tcp_stream(*address) as stream:
                    await echoes(Client(stream))

    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.bind(path)
        sock.listen()
        seen = []

        async def app(ws: rawws.WebSocket) -> None:
            seen.append(ws.request.client)
            await echo(ws)

        async with listening(app, trio.SocketListener(sock)) as server:
            assert server.addresses == [path]
            async with await trio.open_unix_socket(path) as stream:
                await echoes(Client(stream))
                await ends_in_order(Client(stream))
        assert seen == [None]

    @pytest.mark.parametrize("app", [echo, Recorder()], ids=["task", "protocol"])
    async def test_tls(self, app: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        async with serving(app, ssl_context=server_tls) as server:
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(server), ssl_context=client_tls)
            async with stream:
                await echoes(Client(stream))
                (ws,) = server.websockets
                assert ws.request.secure
                assert isinstance(ws.request.client, tuple)
                assert ws.request.client[0] == "127.0.0.1"

    async def test_a_page_of_plain_http_is_foreign_to_a_tls_server(
        self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
    ) -> None:
        async with serving(echo, ssl_context=server_tls) as server:
            for scheme, status in ((b"https", 101), (b"http", 403)):
                stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(server), ssl_context=client_tls)
                async with stream:
                    client = Client(stream)
                    await client.send(handshake("/", b"Origin: " + scheme + b"://server.example.com"))
                    assert (await client.answer()).status == status

    async def test_who_speaks_no_tls_gets_an_end_and_hurts_nobody(
        self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
    ) -> None:
        async with serving(echo, ssl_context=server_tls) as server:
            async with connected(server) as client:
                await client.send(GET)
                assert b"HTTP" not in await client.ended()
            async with connected(server) as client:
                await client.send(b"\x16\x03\x01")
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(server), ssl_context=client_tls)
            async with stream:
                await echoes(Client(stream))

    async def test_without_epoll_every_connection_has_a_driver_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_module, "is_supported", lambda: False)
        async with serving(echo) as server:
            async with connected(server) as client, connected(server) as other:
                await echoes(client)
                await echoes(other)
                await ends_in_order(client)
            async with connected(server) as client:
                await client.send(GET)
                assert (await client.answer()).status == 426

    async def test_a_listener_of_any_kind(self) -> None:
        class Listener(trio.abc.Listener[trio.abc.Stream]):
            """Accepts what a test gives it; has no socket, and so no address."""

            def __init__(self) -> None:
                self.give, self._take = trio.open_memory_channel[trio.abc.Stream](1)

            async def accept(self) -> trio.abc.Stream:
                return await self._take.receive()

            async def aclose(self) -> None:
                self._take.close()
                await trio.lowlevel.checkpoint()

        listener = Listener()
        async with listening(echo, listener) as server:
            assert server.addresses == []
            ours, theirs = trio.testing.memory_stream_pair()
            await listener.give.send(theirs)
            await echoes(Client(ours))
        with pytest.raises(trio.BrokenResourceError):
            listener.give.send_nowait(theirs)

    async def test_a_stream_of_any_kind(self) -> None:
        async with memory_client(echo) as client:
            await echoes(client)
            await ends_in_order(client)

    async def test_a_stream_may_be_plain_http_to_its_end(self) -> None:
        async with memory_client({"/ws": echo}) as client:
            await client.send(GET)
            assert (await client.answer()).status == 404

    async def test_serve_stream_waits_for_its_handler(self) -> None:
        done = []

        async def handler(ws: rawws.WebSocket) -> None:
            async for _ in ws:
                pass
            await trio.sleep(0.05)
            done.append(ws)

        async with memory_client(handler) as client:
            await client.open()
            await ends_in_order(client)
        assert len(done) == 1

    async def test_serve_stream_cancelled_says_1001_and_cuts(self) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rawws.serve_stream, echo, theirs, fast_lane=FAST_LANE))
            await echoes(client)
            nursery.cancel_scope.cancel()
        assert await client.frame() == GOING_AWAY
        assert await client.ended() == b""

    async def test_a_stream_that_raises_what_it_should_not_ends_its_own_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Odd(trio.abc.Stream):
            async def send_all(self, data: object) -> None:
                raise LookupError("odd")

            async def wait_send_all_might_not_block(self) -> None:
                raise NotImplementedError

            async def receive_some(self, max_bytes: int | None = None) -> bytes:
                raise LookupError("odd")

            async def aclose(self) -> None:
                await trio.lowlevel.checkpoint()

        await rawws.serve_stream(echo, Odd())
        assert [record.getMessage() for record in caplog.records] == ["a stream raised what a Trio stream does not"]

    async def test_a_stream_whose_peer_has_gone_has_no_address(self) -> None:
        left, right = trio.socket.socketpair()

        class Gone:
            def __getattr__(self, name: str) -> Any:
                if name == "getpeername":
                    raise OSError(errno.ENOTCONN, "not connected")
                return getattr(left, name)

        stream = trio.SocketStream(left)
        stream.socket = Gone()  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rawws.serve_stream, echo, stream)
            async with trio.SocketStream(right) as ours:
                await echoes(Client(ours))


class TestShutdown:
    async def test_says_1001_to_all_refuses_new_handshakes_and_returns_when_all_have_answered(self) -> None:
        recorder = Recorder()
        async with serving({"/": recorder, "/task": echo}) as server:
            async with connected(server) as client, connected(server) as task, connected(server) as late:
                await client.open()
                await task.open("/task")
                await late.send(handshake()[:-2])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.shutdown)
                    assert await client.frame() == (TEXT, b"goodbye")
                    assert await client.frame() == GOING_AWAY
                    assert await task.frame() == GOING_AWAY
                    assert (await late.answer()).status == 503
                    assert await late.ended() == b""
                    async with connected(server) as new:
                        await new.send(handshake())
                        answer = await new.answer()
                        assert (answer.status, answer.reason) == (503, "Service Unavailable")
                        assert await new.ended() == b""
                    for peer in (client, task):
                        await peer.send(CLOSE_1001)
                        assert await peer.ended() == b""
                        await peer.stream.aclose()
                    await late.stream.aclose()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", port_of(server))
        assert recorder.told == ["closing 1001 by us", "close 1001 by us"]

    async def test_serve_returns_with_it(self) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, echo, "127.0.0.1", 0))
            await server.shutdown()
        await server.shutdown()  # and once it has ended there is nothing to wait for

    async def test_idle_http_connections_do_not_hold_it_up(self) -> None:
        async with serving(echo) as server, connected(server) as silent, connected(server) as kept:
            await kept.send(GET)
            assert (await kept.answer()).status == 426
            began = trio.current_time()
            await server.shutdown()  # although neither of the two has closed
            assert trio.current_time() - began < 0.9
            assert await silent.ended() == await kept.ended() == b""

    async def test_who_connects_meanwhile_and_says_nothing_does_not_hold_it_up(self) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.shutdown)
                assert await client.frame() == GOING_AWAY
                async with connected(server) as silent:
                    await client.send(CLOSE_1001)
                    assert await client.ended() == b""
                    await client.stream.aclose()
                    with trio.fail_after(4):
                        await silent.ended()

    async def test_plain_requests_are_answered_once_more_and_then_closed(self) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.shutdown)
                assert await client.frame() == GOING_AWAY
                async with connected(server) as other:
                    await other.send(GET)
                    answer = await other.answer()
                    assert answer.status == 426
                    assert "close" in answer.fields["connection"]
                    assert await other.ended() == b""
                await client.send(CLOSE_1001)
                await client.stream.aclose()

    async def test_what_is_left_after_its_time_is_cut_and_cancelled(self) -> None:
        ended = []

        async def stubborn(ws: rawws.WebSocket) -> None:
            await ws.accept()
            try:
                await trio.sleep_forever()
            finally:
                ended.append("handler")

        limits = LIMITS(shutdown_timeout=0.1)
        async with (
            serving({"/": echo, "/stubborn": stubborn}, limits=limits) as server,
            connected(server) as silent,
            connected(server) as client,
        ):
            await silent.open()
            await client.open("/stubborn")
            began = trio.current_time()
            await server.shutdown()
            assert 0.1 <= trio.current_time() - began < 4
            assert ended == ["handler"]
            assert server.websockets == frozenset()
            assert await silent.frame() == GOING_AWAY
            assert await silent.ended() == b""

    async def test_a_handshake_that_waits_for_the_application_gets_503(self) -> None:
        async def undecided(ws: rawws.WebSocket) -> None:
            await trio.sleep_forever()

        async with serving(undecided, limits=LIMITS(shutdown_timeout=0.1)) as server, connected(server) as client:
            await client.send(handshake())
            await trio.testing.wait_all_tasks_blocked(0.02)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.shutdown)
                assert (await client.answer()).status == 503

    async def test_a_second_call_waits_for_the_same_end(self) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            order = []

            async def shut_down(name: str) -> None:
                await server.shutdown()
                order.append(name)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(shut_down, "first")
                nursery.start_soon(shut_down, "second")
                assert await client.frame() == GOING_AWAY
                assert order == []
                await client.send(CLOSE_1001)
                assert await client.ended() == b""
                await client.stream.aclose()
            assert sorted(order) == ["first", "second"]

    async def test_cancelled_it_cuts_at_once(self) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            with trio.move_on_after(0.05) as scope:
                await server.shutdown()
            assert scope.cancelled_caught
            assert await client.frame() == GOING_AWAY
            with trio.fail_after(4):
                assert await client.ended() == b""

    async def test_a_handler_that_awaits_it_holds_it_up_no_longer_than_the_timeout(self) -> None:
        servers: list[rawws.Server] = []

        async def handler(ws: rawws.WebSocket) -> None:
            await ws.receive()
            await servers[0].shutdown()

        async with serving(handler, limits=LIMITS(shutdown_timeout=0.1)) as server, connected(server) as client:
            servers.append(server)
            await client.open()
            await client.send(frame(TEXT, b"stop"))
            assert await client.frame() == GOING_AWAY
            with trio.fail_after(4):
                assert await client.ended() == b""


class TestCancelling:
    @pytest.mark.parametrize("app", [echo, Recorder()], ids=["task", "protocol"])
    async def test_serve_says_1001_to_who_can_be_told_at_once_and_returns(self, app: Any) -> None:
        async with serving(app) as server:
            clients = []
            for _ in range(3):
                address = server.addresses[0]
                assert isinstance(address, tuple)
                clients.append(Client(await trio.open_tcp_stream(*address)))
                await clients[-1].open()
            began = trio.current_time()
        assert trio.current_time() - began < 4
        for client in clients:
            got = await client.ended()
            assert got.endswith(b"\x88\x11\x03\xe9server shutdown")
            await client.stream.aclose()

    async def test_over_tls_too(self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        async with serving(echo, ssl_context=server_tls) as server:
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(server), ssl_context=client_tls)
            client = Client(stream)
            await client.open()
        assert await client.frame() == GOING_AWAY
        await trio.aclose_forcefully(stream)

    async def test_a_peer_that_does_not_read_does_not_hold_it_up(self) -> None:
        async def pour(ws: rawws.WebSocket) -> None:
            while True:
                await ws.send(bytes(100_000))

        async with serving(pour) as server, connected(server) as client:
            await client.open()
            await trio.sleep(0.1)
            began = trio.current_time()
            # Leaving the block cancels the server.
        assert trio.current_time() - began < 4


class TestExceptions:
    @pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
    @pytest.mark.parametrize("kind", ["task", "protocol"])
    async def test_what_is_no_exception_ends_the_server_bare(self, stop: BaseException, kind: str) -> None:
        class Stopping(rawws.Protocol):
            def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
                raise stop

        async def stopping(ws: rawws.WebSocket) -> None:
            await ws.receive()
            raise stop

        async def attack(server: rawws.Server) -> None:
            async with connected(server) as client:
                await client.open()
                await client.send(frame(TEXT, b"stop"))
                await client.ended()

        async with trio.open_nursery() as nursery:

            class Status:
                def started(self, server: rawws.Server) -> None:
                    nursery.start_soon(attack, server)

            with pytest.raises(type(stop)) as caught:
                await rawws.serve(
                    stopping if kind == "task" else Stopping(),
                    "127.0.0.1",
                    0,
                    task_status=Status(),  # type: ignore[arg-type]
                    fast_lane=FAST_LANE,
                )
            assert caught.value is stop
            assert caught.value.__context__ is None

    async def test_one_that_comes_while_it_says_goodbye_ends_it_too(self) -> None:
        class Stopping(rawws.Protocol):
            def on_closing(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
                raise SystemExit(3)

        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)

        async def serve(scope: trio.CancelScope) -> None:
            with scope:
                await rawws.serve_stream(Stopping(), theirs)

        scope = trio.CancelScope()
        with trio.fail_after(5):
            with pytest.RaisesGroup(SystemExit):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve, scope)
                    await client.open()
                    scope.cancel()

    async def test_several_that_end_it_leave_as_a_group(self) -> None:
        async def run() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fail, LookupError())
                nursery.start_soon(self.fail, ArithmeticError())

        with pytest.raises(ExceptionGroup) as caught:
            await server_module._without_group(run)
        assert {type(exc) for exc in caught.value.exceptions} == {LookupError, ArithmeticError}

    @staticmethod
    async def fail(exc: Exception) -> None:
        raise exc

    async def test_a_handler_that_raises_ends_its_own_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(ws: rawws.WebSocket) -> None:
            if ws.request.query == "early":
                raise LookupError("early")
            async for message in ws:
                if message == "raise":
                    raise LookupError("late")
                await ws.send(message)

        async with serving(app) as server, connected(server) as healthy:
            await echoes(healthy)
            async with connected(server) as client:
                await client.send(handshake("/?early"))
                assert (await client.answer()).status == 500
                assert await client.ended() == b""
            async with connected(server) as client:
                await client.open()
                await client.send(frame(TEXT, b"raise"))
                assert await client.frame() == (CLOSE, b"\x03\xf3internal error")
            await healthy.send(frame(TEXT, b"still here"))
            assert await healthy.frame() == (TEXT, b"still here")
        assert len(caplog.records) == 2

    @pytest.mark.parametrize("fault", ["", "late"])
    @pytest.mark.parametrize("how", ["cancelled", "shut down", "shutdown cancelled"])
    async def test_a_handler_with_a_nursery_that_is_cancelled_raises_nothing_out_of_the_server(
        self, how: str, fault: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
    ) -> None:
        async def receive(ws: rawws.WebSocket) -> None:
            while True:
                await ws.receive()

        async def stubborn(ws: rawws.WebSocket) -> None:
            with trio.CancelScope(shield=True):
                await ws.wait_closed()
            if fault:
                raise LookupError(fault)
            await ws.receive()

        async def app(ws: rawws.WebSocket) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, ws)
                nursery.start_soon(stubborn, ws)
                nursery.start_soon(trio.sleep_forever)

        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)
        servers: list[rawws.Server] = []

        class Listener(trio.abc.Listener[trio.abc.Stream]):
            accepted = False

            async def accept(self) -> trio.abc.Stream:
                if self.accepted:
                    await trio.sleep_forever()
                self.accepted = True
                return theirs

            async def aclose(self) -> None:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            servers.append(
                await nursery.start(
                    partial(rawws.serve_listeners, app, [Listener()], limits=LIMITS(shutdown_timeout=2))
                )
            )
            await client.open()
            await trio.testing.wait_all_tasks_blocked()
            if how == "cancelled":
                nursery.cancel_scope.cancel()
            elif how == "shut down":
                await servers[0].shutdown()
            else:
                with trio.move_on_after(1):
                    await servers[0].shutdown()
        assert [record.exc_info is not None for record in caplog.records] == ([True] if fault else [])

    async def test_what_is_no_exception_of_a_handlers_nursery_ends_the_server(self) -> None:
        async def stop(what: BaseException) -> None:
            raise what

        async def app(ws: rawws.WebSocket) -> None:
            await ws.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop, SystemExit(3))
                nursery.start_soon(ws.close)

        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)
        with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rawws.serve_stream, app, theirs)
                await client.open()

    async def test_returning_is_403_before_and_1000_after_the_handshake_was_accepted(self) -> None:
        async def app(ws: rawws.WebSocket) -> None:
            if ws.request.query:
                await ws.accept()

        async with serving(app) as server:
            async with connected(server) as client:
                await client.send(handshake())
                assert (await client.answer()).status == 403
            async with connected(server) as client:
                await client.open("/?accept")
                assert await client.frame() == (CLOSE, b"\x03\xe8")


class TestLimits:
    async def test_beyond_max_connections_new_ones_get_503_and_old_ones_stay(self) -> None:
        async with (
            serving(echo, limits=LIMITS(max_connections=2)) as server,
            connected(server) as first,
            connected(server) as second,
        ):
            await echoes(first)
            await second.send(GET)
            assert (await second.answer()).status == 426
            async with connected(server) as third:
                assert (await third.answer()).status == 503
                assert await third.ended() == b""
            await first.send(frame(TEXT, b"still here"))
            assert await first.frame() == (TEXT, b"still here")
            await first.send(CLOSE_1000)
            await first.stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
            async with connected(server) as fourth:
                await echoes(fourth)

    async def test_a_place_that_has_become_free_is_free(self) -> None:
        """Also when the server learns of the end and of the newcomer at the same time."""
        async with serving(echo, limits=LIMITS(max_connections=1)) as server:
            answers = set()
            for number in range(40):
                sock = socket.create_connection(("127.0.0.1", port_of(server)))
                sock.sendall(GET if number % 3 else handshake())
                sock.setblocking(False)
                wrapped = trio.socket.from_stdlib_socket(sock)
                answers.add((await wrapped.recv(1000))[:12])
                wrapped.close()
            assert answers == {b"HTTP/1.1 101", b"HTTP/1.1 426"}

    async def test_of_a_crowd_of_refused_ones_the_oldest_is_cut(self) -> None:
        async with (
            serving(echo, limits=LIMITS(max_connections=1, max_pending_handshakes=2)) as server,
            connected(server) as first,
            connected(server) as second,
            connected(server) as third,
        ):
            await echoes(first)
            for refused in (second, third):
                await refused.send(GET)
                assert (await refused.answer()).status == 503
            assert server.plain_connections == 2
            async with connected(server) as fourth:
                await fourth.send(GET)
                assert (await fourth.answer()).status == 503
                assert server.plain_connections == 2
            assert await second.ended() == b""
            await first.send(frame(TEXT, b"still here"))
            assert await first.frame() == (TEXT, b"still here")

    async def test_who_is_refused_is_told_when_it_has_asked(self) -> None:
        async with (
            serving(echo, limits=LIMITS(max_connections=1, max_pending_handshakes=2)) as server,
            connected(server) as first,
            connected(server) as second,
            connected(server) as third,
        ):
            await echoes(first)
            with trio.move_on_after(0.1) as scope:
                await second.answer()
            assert scope.cancelled_caught
            assert server.counters.refused["max_connections"] == 2
            async with connected(server):
                assert (await second.answer()).status == 503  # it is the one too many, and cut
                assert await second.ended() == b""
                began = trio.current_time()
                await third.send(handshake())
                assert (await third.answer()).status == 503
                assert trio.current_time() - began < 0.5

    async def test_those_that_are_refused_keep_nobody_out(self) -> None:
        """However many come in the second that each of them has to read why."""
        limits = LIMITS(max_connections=3, max_pending_handshakes=2)
        async with serving(echo, limits=limits) as server, AsyncExitStack() as stack:
            for _ in range(10):
                crowd = await stack.enter_async_context(connected(server))
                await crowd.send(handshake()[:20])
            async with connected(server) as client:
                await echoes(client)
                assert server.plain_connections == 4

    async def test_each_address_has_a_bound_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def remote_host(client: object) -> str | None:
            assert isinstance(client, tuple)
            return str(client[0])  # loopback counts, for once

        monkeypatch.setattr(server_module, "remote_host", remote_host)
        (listener,) = await trio.open_tcp_listeners(0, host="0.0.0.0")
        async with listening(echo, listener, limits=LIMITS(max_connections_per_address=1)) as server:
            for _ in range(2):
                async with connected_from(server, "127.0.0.2") as first:
                    await echoes(first)
                    async with connected_from(server, "127.0.0.2") as second:
                        assert (await second.answer()).status == 503
                        await first.stream.aclose()
                        await trio.testing.wait_all_tasks_blocked(0.05)
                        async with connected_from(server, "127.0.0.2") as third:
                            await echoes(third)  # though the second may still read why
                    async with connected_from(server, "127.0.0.3") as other:
                        await echoes(other)
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert server._by_host == {}

    async def test_loopback_has_none(self) -> None:
        async with (
            serving(echo, limits=LIMITS(max_connections_per_address=1)) as server,
            connected(server) as first,
            connected(server) as second,
        ):
            await echoes(first)
            await echoes(second)

    async def test_of_too_many_pending_handshakes_the_oldest_is_dropped_and_the_newest_served(self) -> None:
        async with serving(echo, limits=LIMITS(max_pending_handshakes=2)) as server, connected(server) as open_one:
            await echoes(open_one)  # pending no longer
            async with connected(server) as first, connected(server) as second:
                await second.send(handshake()[:20])
                await first.send(handshake()[:20])
                async with connected(server) as third:
                    assert (await first.answer()).status == 503
                    assert await first.ended() == b""
                    await echoes(third)
                    await second.send(handshake()[20:])
                    assert (await second.answer()).status == 101

    async def test_refused_ones_that_linger_are_pending_no_more(self) -> None:
        """A crowd of bad clients that stay after their refusal must not be refused twice, nor end the server."""
        async with serving(echo, limits=LIMITS(max_pending_handshakes=2)) as server, trio.open_nursery() as nursery:

            async def bad() -> None:
                async with connected(server) as client:
                    await client.send(b"\r\n\r\n\r\n\r\n")
                    assert (await client.answer()).status == 400
                    await trio.sleep(0.2)

            for _ in range(10):
                nursery.start_soon(bad)
                await trio.sleep(0.005)
            async with connected(server) as client:
                await echoes(client)


@asynccontextmanager
async def connected_from(server: rawws.Server, host: str) -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(server), local_address=host)
    async with stream:
        yield Client(stream)


class TestDeadlines:
    async def test_a_head_that_does_not_end_is_408_and_a_silent_peer_is_just_closed(self) -> None:
        async with (
            serving(echo, limits=LIMITS(head_timeout=0.1)) as server,
            connected(server) as client,
            connected(server) as silent,
        ):
            await client.send(GET[:-1])
            answer = await client.answer()
            assert (answer.status, answer.reason) == (408, "Request Timeout")
            assert await client.ended() == b""
            assert await silent.ended() == b""

    async def test_dripping_bytes_do_not_extend_it(self) -> None:
        began = trio.current_time()  # before the connection, from whose acceptance on the time counts
        async with serving(echo, limits=LIMITS(head_timeout=0.2)) as server, connected(server) as client:

            async def drip() -> None:
                for byte in GET[:-1]:
                    await client.send(bytes((byte,)))
                    await trio.sleep(0.02)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drip)
                assert (await client.answer()).status == 408
                nursery.cancel_scope.cancel()
            assert 0.15 < trio.current_time() - began < 4

    async def test_a_kept_connection_is_closed_when_it_is_idle_for_so_long(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with memory_client(echo) as client:
            for _ in range(3):
                await trio.sleep(9)
                await client.send(GET)
                assert (await client.answer()).status == 426
            began = trio.current_time()
            assert await client.ended() == b""
            assert trio.current_time() - began == pytest.approx(10)

    async def test_it_holds_on_streams_too(self, autojump_clock: trio.testing.MockClock) -> None:
        began = trio.current_time()
        async with memory_client(echo) as client:
            await client.send(GET[:-1])
            assert (await client.answer()).status == 408
            assert trio.current_time() - began == pytest.approx(10)

    async def test_a_tls_handshake_that_does_not_end_is_cut(self, server_tls: ssl.SSLContext) -> None:
        async with (
            serving(echo, ssl_context=server_tls, limits=LIMITS(head_timeout=0.1)) as server,
            connected(server) as client,
        ):
            await client.send(b"\x16\x03\x01")
            with trio.fail_after(4):
                assert await client.ended() == b""

    async def test_a_pending_tls_handshake_is_dropped_for_newer_ones(
        self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
    ) -> None:
        async with (
            serving(echo, ssl_context=server_tls, limits=LIMITS(max_pending_handshakes=1)) as server,
            connected(server) as old,
        ):
            await trio.testing.wait_all_tasks_blocked(0.02)
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(server), ssl_context=client_tls)
            async with stream:
                await echoes(Client(stream))
            with trio.fail_after(4):
                assert await old.ended() == b""

    async def test_an_application_that_does_not_answer_is_503(self) -> None:
        cancelled = []

        async def undecided(ws: rawws.WebSocket) -> None:
            try:
                await ws.wait_closed()
            finally:
                cancelled.append(ws)

        async with serving(undecided, limits=LIMITS(accept_timeout=0.1)) as server, connected(server) as client:
            await client.send(handshake())
            answer = await client.answer()
            assert (answer.status, answer.reason) == (503, "Service Unavailable")
            assert await client.ended() == b""
        assert len(cancelled) == 1


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script that serves on a free port and prints it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


RUN = """
import sys
import rawws

class Slow(rawws.Protocol):
    pass

def on_start(server):
    print(server.addresses[0][1], flush=True)

rawws.run(Slow(), "127.0.0.1", 0, on_start=on_start)
print("returned")
"""


SLOW_LIFESPAN = """
import sys
from contextlib import asynccontextmanager
import rawws
import trio

@asynccontextmanager
async def lifespan():
    print("entering", flush=True)
    if sys.argv[1] == "enter":
        await trio.sleep_forever()
    try:
        yield
    finally:
        print("leaving", flush=True)
        await trio.sleep_forever()

rawws.run(rawws.EchoProtocol(), port=0, on_start=lambda server: print("listening", flush=True), lifespan=lifespan())
print("returned")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_shuts_down_in_order(self, number: signal.Signals) -> None:
        with start(RUN) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as answer:
                sock.sendall(handshake())
                while answer.readline().strip():
                    pass
                process.send_signal(number)
                assert answer.read(19) == b"\x88\x11\x03\xe9server shutdown"
                sock.sendall(CLOSE_1001)
                assert answer.read() == b""
            out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "returned\n", "")

    def test_a_second_signal_cuts(self) -> None:
        with start(RUN) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as answer:
                sock.sendall(handshake())
                while answer.readline().strip():
                    pass
                process.send_signal(signal.SIGINT)
                assert answer.read(19) == b"\x88\x11\x03\xe9server shutdown"
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=5)
                assert time.monotonic() - began < 2
        assert (process.returncode, out, err) == (0, "returned\n", "")

    @pytest.mark.parametrize("signals", [1, 2], ids=["in order", "cut"])
    def test_in_this_process_too_and_the_handlers_are_put_back(self, signals: int) -> None:
        ended: list[bytes] = []
        threads: list[threading.Thread] = []
        before = signal.getsignal(signal.SIGTERM)

        def visit(port: int) -> None:
            with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as answer:
                sock.sendall(handshake())
                while answer.readline().strip():
                    pass
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append(answer.read(19))
                if signals == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                    ended.append(answer.read())

        def on_start(server: rawws.Server) -> None:
            threads.append(threading.Thread(target=visit, args=[port_of(server)]))
            threads[0].start()

        rawws.run(echo, "127.0.0.1", 0, on_start=on_start)
        threads[0].join()
        assert ended == [b"\x88\x11\x03\xe9server shutdown", b""][:signals]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_a_lifespan_is_entered_before_the_server_listens_and_left_after_it_has_ended(self) -> None:
        steps: list[str] = []

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            steps.append("entered")
            yield
            steps.append("left")

        def on_start(server: rawws.Server) -> None:
            steps.append("listens")
            trio.lowlevel.spawn_system_task(server.shutdown)

        rawws.run(echo, "127.0.0.1", 0, on_start=on_start, lifespan=lifespan())
        assert steps == ["entered", "listens", "left"]
        thread = threading.Thread(
            target=partial(rawws.run, echo, "127.0.0.1", 0, on_start=on_start, lifespan=lifespan())
        )
        thread.start()
        thread.join(10)
        assert steps == ["entered", "listens", "left"] * 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_a_lifespan_that_is_being_entered(self, number: signal.Signals) -> None:
        with start(SLOW_LIFESPAN, "enter") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "entering\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "returned\n", "")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal_ends_a_lifespan_that_is_being_left(self, number: signal.Signals) -> None:
        with start(SLOW_LIFESPAN, "leave") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "entering\n"
            assert process.stdout.readline() == "listening\n"
            process.send_signal(number)
            assert process.stdout.readline() == "leaving\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "returned\n", "")

    def test_without_on_start_it_runs_as_well(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        with start(f"import rawws; rawws.run(rawws.EchoProtocol(), port={port})") as process:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
            process.terminate()
            assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == 0

    def test_serve_installs_no_signal_handlers_and_a_keyboard_interrupt_leaves_it_bare(self) -> None:
        script = """
import signal
import rawws
import trio

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

async def main():
    async def tell(*, task_status):
        pass

    class Status:
        def started(self, server):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            print(server.addresses[0][1], flush=True)

    try:
        await rawws.serve(rawws.EchoProtocol(), "127.0.0.1", 0, task_status=Status())
    except KeyboardInterrupt:
        print("interrupted")

trio.run(main)
"""
        with start(script) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as answer:
                sock.sendall(handshake())
                while answer.readline().strip():
                    pass
                process.send_signal(signal.SIGINT)
                assert answer.read(19) == b"\x88\x11\x03\xe9server shutdown"
                out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "interrupted\n", "")

    def test_it_runs_in_a_thread_that_gets_no_signals(self) -> None:
        ready = threading.Event()
        servers: list[rawws.Server] = []
        tokens: list[trio.lowlevel.TrioToken] = []

        def on_start(server: rawws.Server) -> None:
            servers.append(server)
            tokens.append(trio.lowlevel.current_trio_token())
            ready.set()

        thread = threading.Thread(target=partial(rawws.run, echo, "127.0.0.1", 0, on_start=on_start))
        thread.start()
        assert ready.wait(5)
        with socket.create_connection(("127.0.0.1", port_of(servers[0]))) as sock:
            sock.sendall(GET)
            assert sock.recv(100).startswith(b"HTTP/1.1 426 ")
        trio.from_thread.run(servers[0].shutdown, trio_token=tokens[0])
        thread.join(5)
        assert not thread.is_alive()

    def test_signals_that_come_while_it_starts_end_it_in_order(self) -> None:
        """The handlers are there before the port is bound, so there is no moment for a traceback."""
        script = "import rawws; rawws.run(rawws.EchoProtocol(), port=0, on_start=lambda s: __import__('os').kill(0, 2))"
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == 0


class TestBinary:
    async def test_text_stays_text_and_binary_stays_binary(self) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            await client.send(frame(BINARY, b"\x00\xff") + frame(TEXT, "ü".encode()))
            assert await client.frame() == (BINARY, b"\x00\xff")
            assert await client.frame() == (TEXT, "ü".encode())


async def test_a_thousand_connections_come_and_go_and_nothing_is_left() -> None:
    async with serving({"/": Recorder(), "/task": echo}) as server:
        for number in range(10):
            async with trio.open_nursery() as nursery:

                async def visit(path: str) -> None:
                    async with connected(server) as client:
                        await client.open(path)
                        await client.send(CLOSE_1000)
                        await client.ended()

                for _ in range(100):
                    nursery.start_soon(visit, "/" if number % 2 else "/task")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.websockets == frozenset()
        assert (server._exchanges, server._pending, server._running_handlers) == (set(), {}, 0)


@pytest.mark.parametrize("path", ["/", "/task"])
async def test_a_connection_that_ended_is_freed_without_the_collector(path: str) -> None:
    async with serving({"/": Recorder(), "/task": echo}) as server:
        freed: list[str] = []
        gc.collect()
        gc.disable()
        try:
            async with connected(server) as client:
                await client.open(path)
                (ws,) = server.websockets
                weakref.finalize(ws, freed.append, "websocket")
                del ws
                await client.send(CLOSE_1000)
                await client.ended()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert freed == ["websocket"]
        finally:
            gc.enable()
