"""One of several processes that serve one port: the worker's side.

Strategy: a worker is a server like any other on listening sockets that its parent gave it. Beside it runs a task that
does what the parent says, and shuts the server down in order when the parent is gone. `/health` and `/metrics` tell
of all workers: the one that is asked asks the parent, which asks them all. Rules:

* What is asked of the parent has a deadline, and so many questions at a time and no more.
* Where an application keeps in its memory what all its connections share, a second process would split it without a
  word: `refuse` takes its place and says so.

It knows no other process and starts none. Cost: nothing a connection.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, Unpack, final

import trio

from .control import Channel, health_text
from .errors import HandshakeError
from .http import Response
from .listeners import secured
from .metrics import CONTENT_TYPE, collect, render
from .protocol import Protocol
from .server import serve_listeners
from .site import for_this_machine

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from .control import HealthReport, Kind, WorkerHealth
    from .http import Request
    from .metrics import Snapshot
    from .server import Options, Server
    from .site import App, Page
    from .websocket import WebSocket

__all__ = ["Refusing", "Worker", "inherit", "pages"]

_ASK_SECONDS: Final = 4.0
"""Time that the parent has to answer; it gives each worker less."""
_MAX_QUESTIONS: Final = 32
"""Questions that may wait for the parent's answer."""
_NO_STORE: Final = ("Cache-Control", "no-store")


@final
class Refusing(Protocol):
    """Answers every handshake with 503 and why; `page` does the same for plain HTTP.

    Args:
        why: one sentence or two for a person.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def on_open(self, ws: WebSocket) -> None:
        ws.reject_nowait(503, f"{self._why}\n")

    def page(self, request: Request) -> Response:
        """Answer a GET; a `Page`."""
        return Response.text(503, self._why, (_NO_STORE,))


@final
class Worker:
    """A worker's side of what it and its parent say to each other.

    Args:
        stream: to the parent; becomes the worker's.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._parent = Channel(stream)
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._cut = trio.CancelScope()

    async def ask(self, kind: Kind) -> Any:
        """Ask the parent about all workers.

        Raises:
            HandshakeError: 503, there is no answer.
        """
        if len(self._questions) < _MAX_QUESTIONS:
            self._number += 1
            number = self._number
            question = self._questions[number] = _Question()
            try:
                with trio.move_on_after(_ASK_SECONDS):
                    await self._parent.send({"type": "ask", "kind": kind, "number": number})
                    await question.answered.wait()
                    return question.answer
            finally:
                del self._questions[number]
        raise HandshakeError(503, "The parent of the workers does not answer.")

    async def serve(self, app: App, listeners: Sequence[trio.abc.Listener[Any]], **options: Unpack[Options]) -> None:
        """Serve until the parent, SIGINT or SIGTERM says that it is over, or the parent is gone; then say how it was.

        A second signal cuts. Otherwise like `rawws.serve_listeners`.
        """
        try:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with trio.open_nursery() as nursery:
                    server: Server = await nursery.start(self._serve, nursery, app, listeners, options)
                    await self._parent.send({"type": "ready"})
                    nursery.start_soon(self._obey_parent, server)
                    nursery.start_soon(self._obey_signals, server, signals)
            await self._report(server, "metrics")
        finally:
            await self._parent.aclose()

    def pages(self) -> dict[str, Page]:
        """Return `/health` and `/metrics` of all workers, for peers on this machine."""
        return {path: for_this_machine(page) for path, page in pages(self.ask).items()}

    async def _serve(
        self,
        nursery: trio.Nursery,
        app: App,
        listeners: Sequence[trio.abc.Listener[Any]],
        options: Options,
        task_status: trio.TaskStatus[Server],
    ) -> None:
        with self._cut:
            await serve_listeners(app, listeners, task_status=task_status, **options)
        nursery.cancel_scope.cancel()

    async def _obey_parent(self, server: Server) -> None:
        async with trio.open_nursery() as nursery:
            while (message := await self._parent.receive()) is not None:
                match message:
                    case {"type": "answer", "number": int(number), "value": value}:
                        if (question := self._questions.get(number)) is not None:
                            question.answer = value
                            question.answered.set()
                    case {"type": "report", "kind": "health" | "metrics" as kind}:
                        nursery.start_soon(self._report, server, kind)
                    case {"type": "drain"}:
                        nursery.start_soon(_leave, server)
                    case {"type": "shut down"}:
                        nursery.start_soon(server.shutdown)
                    case {"type": "cut"}:
                        self._cut.cancel()
            nursery.start_soon(server.shutdown)

    async def _obey_signals(self, server: Server, signals: AsyncIterator[int]) -> None:
        await anext(signals)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, server)
            await anext(signals)
            self._cut.cancel()

    async def _report(self, server: Server, kind: Kind) -> None:
        value: Snapshot | HealthReport
        if kind == "metrics":
            value = collect(server)
        else:
            value = {"connections": server.plain_connections + len(server.websockets), "lag": server.lag}
        await self._parent.send({"type": "report", "kind": kind, "value": value})


@final
class _Question:
    """What was asked of the parent."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Any = None


async def _leave(server: Server) -> None:
    """Leave new connections to the other workers, which listen too, and shut down."""
    await server.drain()
    await server.shutdown()


def inherit(
    descriptors: Sequence[int], ssl_context: ssl.SSLContext | None
) -> tuple[Worker, list[trio.abc.Listener[Any]]]:
    """Return what a process makes of the descriptors that its parent gave it; see `workers.spawner`.

    The signals by which a terminal tells its processes of its end, and a person all processes of a name to reload,
    are ignored from then on.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sockets = []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        sockets.append(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    stream, *listeners = sockets
    return Worker(trio.SocketStream(stream)), secured([trio.SocketListener(sock) for sock in listeners], ssl_context)


def pages(ask: Callable[[Kind], Awaitable[Any]]) -> dict[str, Page]:
    """Return the pages that tell of all workers, by path.

    Args:
        ask: tells what is to be known about all workers: of their health a list of `WorkerHealth`, of their metrics
            a snapshot.
    """

    async def health(request: Request) -> Response:
        workers: list[WorkerHealth] = await ask("health")
        healthy, text = health_text(workers)
        lag = max((report["lag"] for one in workers if (report := one["report"]) is not None), default=0.0)
        # As a server by itself says it.
        return Response.text(200 if healthy else 503, text, (_NO_STORE, ("Server-Timing", f"lag;dur={lag * 1000:.1f}")))

    async def metrics(request: Request) -> Response:
        return Response(200, (("Content-Type", CONTENT_TYPE), _NO_STORE), render(await ask("metrics")))

    return {"/health": health, "/metrics": metrics}
