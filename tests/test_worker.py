"""One of several workers, in this process: what its parent says, and what it asks."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import rawws
from rawws.control import Channel
from rawws.echo import CommunicateProtocol
from rawws.worker import Refusing, Worker, inherit, pages
from tests.conftest import FAST_LANE
from tests.drivers import client_context, server_context
from tests.raw_client import TEXT, Client, frame, handshake

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from rawws.site import App


class Working(NamedTuple):
    """A worker that serves, from its parent's side."""

    worker: Worker
    parent: Channel
    connect: Callable[[], Awaitable[Client]]
    ended: trio.Event
    """Set when it has."""


@asynccontextmanager
async def working(app: App, *, tls: bool = False, **options: Any) -> AsyncIterator[Working]:
    """Be a worker, on a listening socket that is somebody else's too."""
    ours, theirs = socket.socketpair()
    # Until the end nobody else accepts what waits in its queue; so it does for a worker that has stopped listening.
    with socket.create_server(("127.0.0.1", 0)) as shared:
        copies = [os.dup(theirs.fileno()), os.dup(shared.fileno())]
        theirs.close()
        worker, listeners = inherit(copies, server_context() if tls else None)
        parent = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        ended = trio.Event()
        clients = []

        async def work() -> None:
            await worker.serve(app, listeners, pages=worker.pages(), fast_lane=FAST_LANE, **options)
            ended.set()

        async def connect() -> Client:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", shared.getsockname()[1])
            if tls:
                stream = trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True)
            clients.append(stream)
            return Client(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            with trio.fail_after(10):
                assert await parent.receive() == {"type": "ready"}
                yield Working(worker, parent, connect, ended)
            nursery.cancel_scope.cancel()
        for stream in clients:
            await trio.aclose_forcefully(stream)
        await parent.aclose()


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Restore what `inherit` ignores."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def last_report(parent: Channel) -> dict[str, Any]:
    """The metrics that come last, after which nothing comes."""
    message = await parent.receive()
    assert message is not None
    assert (message["type"], message["kind"]) == ("report", "metrics")
    assert await parent.receive() is None
    value: dict[str, Any] = message["value"]
    return value


class TestBeingTold:
    async def test_it_reports_how_it_is_and_what_it_counted(self) -> None:
        async with working(echo) as (_, parent, connect, _):
            client = await connect()
            await client.open("/")
            await client.send(frame(TEXT, b"hello"))
            await client.frame()
            await parent.send({"type": "report", "kind": "health"})
            message = await parent.receive()
            assert message is not None
            assert message["value"].pop("lag") >= 0
            assert message == {"type": "report", "kind": "health", "value": {"connections": 1}}
            await parent.send({"type": "report", "kind": "metrics"})
            message = await parent.receive()
            assert message is not None
            assert message["value"]["rawws_messages_received"] == {"": 1}

    async def test_words_without_a_meaning_are_not_heard(self) -> None:
        async with working(echo) as (_, parent, _, _):
            await parent.send({"type": "dance"})
            await parent.send({"type": "answer", "number": 7, "value": 1})  # nobody asked
            await parent.send({"type": "report", "kind": "weather"})
            await parent.send({"type": "report", "kind": "health"})
            message = await parent.receive()
            assert message is not None
            assert message["kind"] == "health"

    @pytest.mark.parametrize("how", ["shut down", "the parent is gone", "SIGTERM", "SIGINT"])
    async def test_it_shuts_down_in_order(self, how: str) -> None:
        async with working(CommunicateProtocol()) as (_, parent, connect, ended):
            client = await connect()
            await client.open("/")
            if how == "shut down":
                await parent.send({"type": "shut down"})
            elif how == "the parent is gone":
                await parent.aclose()
            else:
                os.kill(os.getpid(), getattr(signal, how))
            assert await client.frame() == (TEXT, b"Bye!!!")
            assert await client.frame() == (0x88, b"\x03\xe9server shutdown")
            await client.send(frame(0x88, b"\x03\xe9"))
            assert await client.ended() == b""
            await trio.aclose_forcefully(client.stream)
            if how != "the parent is gone":
                assert (await last_report(parent))["rawws_websockets_closed"] == {"1001,us": 1}
            await ended.wait()

    @pytest.mark.parametrize("how", ["cut", "SIGTERM"])
    async def test_then_it_may_be_cut(self, how: str) -> None:
        async with working(echo) as (_, parent, connect, ended):
            client = await connect()
            await client.open("/")
            await parent.send({"type": "shut down"})
            assert await client.frame() == (0x88, b"\x03\xe9server shutdown")
            # The client answers nothing, and would be waited for.
            if how == "cut":
                await parent.send({"type": "cut"})
            else:
                os.kill(os.getpid(), signal.SIGTERM)
                await wait_all_tasks_blocked()
                os.kill(os.getpid(), signal.SIGTERM)
            with trio.fail_after(3):
                await last_report(parent)
                await ended.wait()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
class TestMakingRoom:
    async def test_who_has_connected_is_answered_and_who_connects_later_is_left_to_others(self, tls: bool) -> None:
        async with working(echo, tls=tls) as (_, parent, connect, ended):
            asked = await connect()
            await asked.open("/")
            silent = await connect()
            if tls:
                assert isinstance(silent.stream, trio.SSLStream)
                await silent.stream.do_handshake()
            await parent.send({"type": "report", "kind": "health"})
            while (message := await parent.receive()) and message["value"]["connections"] < 2:
                await parent.send({"type": "report", "kind": "health"})
            await parent.send({"type": "drain"})
            await parent.send({"type": "report", "kind": "health"})
            await parent.receive()
            later = await connect()
            # It connected before: its handshake is completed, and then it is sent away like the other.
            await silent.open("/")
            for client in (asked, silent):
                assert await client.frame() == (0x88, b"\x03\xe9server shutdown")
                await client.send(frame(0x88, b"\x03\xe9"))
                assert await client.ended() == b""
                await trio.aclose_forcefully(client.stream)
            await last_report(parent)
            await ended.wait()
            # Nobody has accepted that one; it waits in the queue of the socket.
            with trio.move_on_after(0.1) as waited:
                await later.send(handshake("/"))
                await later.stream.receive_some(1)
            assert waited.cancelled_caught

    async def test_a_handshake_that_the_application_has_not_answered_is_waited_for(self, tls: bool) -> None:
        async def slow(ws: rawws.WebSocket) -> None:
            await trio.sleep(0.2)
            await echo(ws)

        async with working(slow, tls=tls) as (_, parent, connect, ended):
            client = await connect()
            await client.send(handshake("/"))
            await parent.send({"type": "report", "kind": "health"})
            while (message := await parent.receive()) and message["value"]["connections"] < 1:
                await parent.send({"type": "report", "kind": "health"})
            await trio.sleep(0.05)
            await parent.send({"type": "drain"})
            assert (await client.answer()).status == 101
            assert await client.frame() == (0x88, b"\x03\xe9server shutdown")
            await client.send(frame(0x88, b"\x03\xe9"))
            await trio.aclose_forcefully(client.stream)
            await ended.wait()

    async def test_who_never_asks_is_not_waited_for_for_ever(self, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rawws.server._DRAIN_SECONDS", 0.2)
        async with working(echo, tls=tls) as (_, parent, connect, ended):
            client = await connect()
            await parent.send({"type": "report", "kind": "health"})
            while (message := await parent.receive()) and message["value"]["connections"] < 1:
                await parent.send({"type": "report", "kind": "health"})
            began = trio.current_time()
            await parent.send({"type": "drain"})
            # It is told nothing, for it has asked nothing.
            assert await client.ended() == b""
            assert trio.current_time() - began >= 0.2
            await trio.aclose_forcefully(client.stream)
            await ended.wait()


class OneStream(trio.abc.Listener[trio.abc.Stream]):
    """A listener that accepts one stream, when it is let."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.let = trio.Event()
        self.accepted = False

    async def accept(self) -> trio.abc.Stream:
        if self.accepted:
            await trio.sleep_forever()
        await self.let.wait()
        self.accepted = True
        return self.stream

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("steps", range(5))
async def test_a_stream_that_was_accepted_a_moment_ago_is_answered_too(steps: int) -> None:
    ours, theirs = memory_stream_pair()
    listener = OneStream(ours)
    client = Client(theirs)
    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve_listeners, echo, [listener]))
        await wait_all_tasks_blocked()
        await client.send(handshake("/"))
        listener.let.set()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await server.drain()
        nursery.start_soon(server.shutdown)
        if listener.accepted:
            assert (await client.answer()).status == 101
            assert await client.frame() == (0x88, b"\x03\xe9server shutdown")
        await trio.aclose_forcefully(theirs)
    assert listener.accepted or steps < 2


class TestAsking:
    async def test_its_pages_tell_what_the_parent_knows(self) -> None:
        async with working(echo) as (_, parent, connect, _):
            client = await connect()
            for path, value, status, body in (
                (
                    "/health",
                    [
                        {
                            "worker": 0,
                            "pid": 7,
                            "state": "serving",
                            "seconds": 1.0,
                            "report": {"connections": 2, "lag": 0.25},
                        },
                        {
                            "worker": 1,
                            "pid": 8,
                            "state": "serving",
                            "seconds": 1.0,
                            "report": {"connections": 0, "lag": 0},
                        },
                    ],
                    200,
                    "ok\nworker 0: serving for 1 s as process 7, 2 connections\n",
                ),
                (
                    "/health",
                    [{"worker": 0, "pid": None, "state": "waiting", "seconds": 0.0, "report": None}],
                    503,
                    "not every worker serves\nworker 0: waiting\n",
                ),
                ("/metrics", {"rawws_messages_sent": {"": 12345}}, 200, "rawws_messages_sent_total 12345.0\n"),
            ):
                await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                question = await parent.receive()
                assert question is not None
                assert (question["type"], question["kind"]) == ("ask", path[1:])
                await parent.send({"type": "answer", "number": question["number"], "value": value})
                answer = await client.answer()
                assert answer.status == status
                assert body in answer.body.decode()
                assert answer.fields["cache-control"] == "no-store"
                if status == 200 and path == "/health":
                    assert answer.fields["server-timing"] == "lag;dur=250.0"

    async def test_a_parent_that_does_not_answer_is_told(self, autojump_clock: MockClock) -> None:
        ours, theirs = memory_stream_pair()
        worker = Worker(ours)
        with pytest.raises(rawws.HandshakeError, match="503: The parent of the workers does not answer"):
            await worker.ask("health")
        assert trio.current_time() == 4.0
        await trio.aclose_forcefully(theirs)

    async def test_so_many_wait_for_an_answer_and_no_more(self, autojump_clock: MockClock) -> None:
        ours, _theirs = memory_stream_pair()
        worker = Worker(ours)
        refused = []

        async def ask() -> None:
            try:
                await worker.ask("health")
            except rawws.HandshakeError:
                refused.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask)
        assert refused == [0.0] * 8 + [4.0] * 32

    async def test_its_pages_are_for_this_machine_and_those_of_the_parent_for_all(self) -> None:
        async def ask(kind: str) -> Any:
            return []

        request = rawws.Request("GET", "/health", "/health", "", rawws.Headers(), client=("192.0.2.1", 1))
        worker = Worker(memory_stream_pair()[0])
        theirs = worker.pages()["/health"](request)
        assert not isinstance(theirs, rawws.Response)
        assert (await theirs).status == 404
        ours = pages(ask)["/health"](request)
        assert not isinstance(ours, rawws.Response)
        assert (await ours).status == 200


class TestRefusing:
    async def test_a_handshake_and_a_plain_request_are_told_why(self) -> None:
        refusing = Refusing("Not here, as there are several of us.")
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(rawws.serve, {"/chat": refusing}, "127.0.0.1", 0, pages={"/chat": refusing.page})
            )
            for request in (handshake("/chat"), b"GET /chat HTTP/1.1\r\nHost: a\r\n\r\n"):
                async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                    client = Client(stream)
                    await client.send(request)
                    answer = await client.answer()
                    assert answer.status == 503
                    assert answer.body == b"Not here, as there are several of us.\n"
            nursery.cancel_scope.cancel()


class TestInheriting:
    async def test_what_it_inherits_it_does_not_pass_on(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, socket.create_server(("127.0.0.1", 0)) as listening:
            copies = [theirs.detach(), os.dup(listening.fileno())]
            for descriptor in copies:
                os.set_inheritable(descriptor, True)
            worker, (listener,) = inherit(copies, None)
            assert not any(map(os.get_inheritable, copies))
            assert isinstance(listener, trio.SocketListener)
            assert listener.socket.getsockname() == listening.getsockname()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            await listener.aclose()
            await worker._parent.aclose()

    async def test_with_a_context_it_speaks_tls(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, socket.create_server(("127.0.0.1", 0)) as listening:
            worker, (listener,) = inherit([theirs.detach(), os.dup(listening.fileno())], server_context())
            assert isinstance(listener, trio.SSLListener)
            await listener.aclose()
            await worker._parent.aclose()
