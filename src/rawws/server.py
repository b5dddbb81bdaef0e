"""Listening, counting, shutting down.

Strategy: a `Server` is where connections live. Plain TCP listeners go to the reactor, every other listener and
stream to a driver of its own. The drivers outlive a cancellation of `serve` for the moment that it takes to say
1001; handlers do not. Rules:

* Mistakes and bind errors leave `serve` bare, before a nursery opens; so does the one exception that ends it
  later, for its nurseries are nobody else's concern.
* A handler's exception ends its connection, never the server; only BaseExceptions that are no Exception do.
* Nothing is accepted beyond the limits without an answer, as long as a crowd leaves room for that.

Cost: a few dictionary entries a connection. It installs no signal handlers; `run` does.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, final

import trio

from .admin import admin_pages, open_admin_listeners
from .exchange import Exchange, Home, answer_without_connection
from .lag import Lag
from .listeners import address_of, open_listeners, socket_of
from .logs import log_connection
from .metrics import Counters
from .protocol import Protocol
from .reactor import Reactor, is_supported
from .site import Site, for_this_machine, remote_host
from .stream import StreamTransport, let_leave

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from .admin import AdminAddress
    from .deflate import DeflateOptions
    from .http import Address
    from .limits import Limits
    from .site import App, Handler, Page
    from .static_files import StaticFiles
    from .transport import Receiver, Transport
    from .websocket import WebSocket

__all__ = ["Options", "Server", "run", "serve", "serve_listeners", "serve_stream"]

_log = logging.getLogger("rawws")

_DRAIN_SECONDS: Final = 2.0
"""Time that those who have connected have to ask, and to be answered, after the server stopped listening."""
_DRAIN_LOOK_SECONDS: Final = 0.05
"""How often a server that drains looks whether they are."""
_BEAT_SECONDS: Final = 1.0
"""Time between two looks at the delay of the event loop, where no reactor sees it."""


class Options(TypedDict, total=False):
    """Keyword arguments of `serve`, `serve_listeners`, `serve_stream` and `run`."""

    static: StaticFiles | str | os.PathLike[str] | None
    """A folder whose files are served on plain GET; read to memory once, at most 64 MiB in 10 000 files. A path of a
    mapping of applications has no file, unless it ends with a slash: there may be both a page and a WebSocket. Default:
    none."""
    pages: Mapping[str, Page] | None
    """Further answers to plain GET and HEAD, by path: functions of the request, which must not block, or async
    functions of it, which have `accept_timeout`."""
    origins: Collection[str] | None
    """Origins whose pages may connect besides the server's own; None (default): no others; `"*"`: all."""
    hosts: Collection[str] | None
    """Hosts that are served, as clients name them: `example.com` on every port, `localhost:8000` on one; requests for
    others get 421, which stops pages whose name is made to lead here (DNS rebinding). None (default): all."""
    limits: Limits | None
    """The bounds of each connection and of the server; None (default): `Limits()`."""
    compression: DeflateOptions | bool
    """permessage-deflate (RFC 7692): how, or whether; default: True."""
    fast_lane: bool
    """False sends every frame through wsproto; default: True."""


@final
class Server(Home):
    """A running server; `await nursery.start(rawws.serve, …)` returns it.

    Attributes:
        addresses: what it listens on, as the sockets say: `(host, port)` for TCP, a path for a Unix socket.
        admin_addresses: where `/health` and `/metrics` are, if they have an address of their own.
        counters: what it has counted; `rawws.metrics.collect` makes the most of them.
    """

    def __init__(self, site: Site, admin: AdminAddress | bool = False) -> None:
        self._admin: AdminAddress | None = None
        if admin is True:
            site = site.with_pages({path: for_this_machine(page) for path, page in admin_pages(self).items()})
        elif admin is not False:
            self._admin = admin
        self._site = site
        self._lag = Lag()
        self._closing = False
        self._idle = trio.Event()
        self._finished = trio.Event()
        self._ended = trio.Event()
        self._reactor: Reactor | None = None
        self._handlers: trio.Nursery | None = None
        self._drivers: trio.Nursery | None = None
        self._websockets: set[WebSocket] = set()
        self._exchanges: set[Exchange] = set()
        self._pending: dict[Exchange, None] = {}  # those without a complete head, in the order of their arrival
        self._refused: dict[Exchange, None] = {}  # those that may still read why, in the order of their refusal
        self._leaving: set[Exchange] = set()  # those that a shutdown waits for
        self._by_host: dict[str, int] = {}
        self._running_handlers = 0
        self._on_gone = self._websocket_gone  # a bound method takes 64 bytes
        self._accepting = trio.CancelScope()  # streams, by tasks of Trio's
        self.addresses: list[Address] = []
        self.admin_addresses: list[Address] = []
        self.counters = Counters()

    # -- what a user sees --------------------------------------------------------------------------------------

    @property
    def websockets(self) -> frozenset[WebSocket]:
        """The WebSocket connections that are open or opening."""
        return frozenset(self._websockets)

    @property
    def plain_connections(self) -> int:
        """The number of connections that speak HTTP, or have said nothing yet."""
        return len(self._exchanges)

    @property
    def running_handlers(self) -> int:
        """The number of async handlers that run."""
        return self._running_handlers

    @property
    def lag(self) -> float:
        """The longest delay of the event loop in the last minute or two, in seconds."""
        lag = self._reactor.lag if self._reactor is not None else self._lag
        return lag.longest(trio.current_time())

    @property
    def busy_seconds(self) -> float:
        """The time that the reactor has spent on its sockets; 0 where there is none."""
        return self._reactor.busy_seconds if self._reactor is not None else 0.0

    async def drain(self) -> None:
        """Stop listening; return when everybody who had connected has an answer, after two seconds at the latest.

        For one of several processes that share a listening socket: what waits in its queue goes to the others. The
        connections stay open; `shutdown` closes them. A cancelled call has stopped listening.
        """
        if self._reactor is not None:
            self._reactor.stop_listening()
        self._accepting.cancel()
        with trio.move_on_after(_DRAIN_SECONDS):
            while True:
                # First of all: a stream that was accepted is counted when its task runs.
                await trio.sleep(_DRAIN_LOOK_SECONDS)
                if not self._pending and all(ws.is_opened or ws.closed for ws in self._websockets):
                    break

    async def shutdown(self) -> None:
        """Close in order: refuse new handshakes with 503, say 1001 to all, wait, then cut what is left.

        Returns when every connection is closed and every handler has ended, after `shutdown_timeout` at the
        latest; `serve` returns then too. Further calls wait for the same end. When cancelled, it cuts at once.
        A handler that awaits this holds it up; it should start it in a nursery that outlives the handler.
        """
        try:
            if not self._closing:
                self._closing = True
                # Who has nothing to get, and who connects from now on, is not waited for.
                self._leaving = {exchange for exchange in list(self._exchanges) if exchange.shut_down()}
                for ws in list(self._websockets):
                    ws.shut_down()
            self._look_idle()
            with trio.move_on_after(self._site.limits.shutdown_timeout):
                await self._idle.wait()
        finally:
            self._finished.set()
        await self._ended.wait()

    # -- what serves -------------------------------------------------------------------------------------------

    async def run(self, listeners: Sequence[trio.abc.Listener[Any]], started: Callable[[Server], object]) -> None:
        """Serve listeners, and close them, until `shutdown` has ended or this is cancelled."""
        own: list[trio.SocketListener] = []
        try:
            if self._admin is not None:
                own = await open_admin_listeners(self._admin)
                self.admin_addresses = [address_of(listener.socket.getsockname()) for listener in own]
            await _without_group(partial(self._run, listeners, own, started))
        finally:
            with trio.CancelScope(shield=True):
                for listener in (*listeners, *own):
                    await trio.aclose_forcefully(listener)
            for address in self.admin_addresses:
                if isinstance(address, str):
                    with suppress(OSError):  # somebody has removed it
                        os.unlink(address)
            self._ended.set()

    async def _run(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        own: Sequence[trio.abc.Listener[Any]],
        started: Callable[[Server], object],
    ) -> None:
        async with trio.open_nursery() as handlers, self._outlive(handlers):
            await self._listen(listeners)
            if own:
                admin = Server(Site({}, pages=admin_pages(self), limits=self._site.limits))
                handlers.start_soon(admin.run, own, _nothing)
            started(self)
            await self._finished.wait()
            handlers.cancel_scope.cancel()

    async def run_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one stream until its connection and its handler end."""
        await _without_group(partial(self._run_stream, stream))

    async def _run_stream(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as handlers, self._outlive(handlers) as drivers:
            done = trio.Event()
            drivers.start_soon(self._serve_stream, stream, done)
            await done.wait()

    @asynccontextmanager
    async def _outlive(self, handlers: trio.Nursery) -> AsyncIterator[trio.Nursery]:
        """Keep the drivers in a nursery that a cancellation reaches only after everybody was told."""
        self._handlers = handlers
        scope = trio.CancelScope(shield=True)
        ready = trio.Event()

        async def run() -> None:
            with scope:
                async with trio.open_nursery() as self._drivers:
                    ready.set()
                    await trio.sleep_forever()

        handlers.start_soon(run)
        try:
            await ready.wait()
            assert self._drivers is not None
            yield self._drivers
        finally:
            try:
                await self._cut_all()
            finally:
                scope.cancel()

    async def _listen(self, listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        assert self._drivers is not None
        others: list[trio.abc.Listener[Any]] = []
        limits = self._site.limits
        for listener in listeners:
            sock = socket_of(listener)
            if sock is not None:
                self.addresses.append(address_of(sock.getsockname()))
            if (
                is_supported()
                and isinstance(listener, trio.SocketListener)
                and listener.socket.family in (socket.AF_INET, socket.AF_INET6)
            ):
                if self._reactor is None:
                    self._reactor = Reactor(stall_timeout=limits.send_timeout)
                    await self._drivers.start(self._reactor.run)
                # A duplicate, so that the listener stays what its owner knows it as until the end.
                copy = socket.fromfd(listener.socket.fileno(), listener.socket.family, listener.socket.type)
                self._reactor.listen(copy, self._greet, self._refuse)
            else:
                others.append(listener)
        if others:
            await self._drivers.start(self._accept_streams, others)
            if self._reactor is None:
                self._drivers.start_soon(self._beat)

    def _greet(self, transport: Transport, address: object, *, secure: bool = False) -> Receiver:
        """Take a new connection: its HTTP side, which may be all of it."""
        self.counters.accepted += 1
        client = address_of(address)
        exchange = Exchange(self._site, self, transport, client, secure=secure)
        self._exchanges.add(exchange)
        host = remote_host(client)
        if host is not None:
            self._by_host[host] = self._by_host.get(host, 0) + 1
        limits = self._site.limits
        connections = len(self._exchanges) + len(self._websockets)
        if connections - len(self._refused) > limits.max_connections:
            exchange.refuse_when_asked("The server has too many connections.", "max_connections")
        elif host is not None and self._by_host[host] > limits.max_connections_per_address:
            exchange.refuse_when_asked(
                "There are too many connections from this address.", "max_connections_per_address"
            )
        else:
            self._pending[exchange] = None
            if len(self._pending) > limits.max_pending_handshakes:
                oldest = next(iter(self._pending))
                oldest.refuse_when_asked(
                    "The server has too many connections that have not asked for anything.", "max_pending_handshakes"
                )
        if connections > limits.max_connections + limits.max_pending_handshakes:
            # Those that were refused keep nobody out, however many come in the time that each has to read why.
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self._exchanges.discard(oldest)
            oldest.cut()
        return exchange

    def _refuse(self, address: object, data: bytes) -> bytes:
        """Answer a client for which no descriptor is left."""
        self.counters.refuse("descriptors")
        return answer_without_connection(self._site, address_of(address), data)

    async def _beat(self) -> None:
        """Measure the delay of the event loop where no reactor does."""
        while True:
            due = trio.current_time() + _BEAT_SECONDS
            await trio.sleep_until(due)
            now = trio.current_time()
            self._lag.note(now - due, now)

    async def _accept_streams(
        self, listeners: list[trio.abc.Listener[Any]], task_status: trio.TaskStatus[object]
    ) -> None:
        with self._accepting:
            await trio.serve_listeners(
                self._serve_stream, listeners, handler_nursery=self._drivers, task_status=task_status
            )

    async def _serve_stream(self, stream: trio.abc.Stream, done: trio.Event | None = None) -> None:
        """Serve one stream; a TLS handshake happens in its first read, and under the deadline of the first head."""
        try:
            transport = StreamTransport(stream, stall_timeout=self._site.limits.send_timeout)
            sock = socket_of(stream)
            try:
                address = sock.getpeername() if sock is not None else None
            except OSError:
                address = None  # the peer is gone already; reading will say so
            transport.receiver = self._greet(transport, address, secure=isinstance(stream, trio.SSLStream))
            await transport.run()
        except Exception:
            _log.exception("a stream raised what a Trio stream does not")
        finally:
            if done is not None:
                done.set()

    async def _cut_all(self) -> None:
        """Say 1001 to whoever is left, as far as that needs no waiting, and end it."""
        self._closing = True
        left = list(self._websockets)
        with ExitStack() as stack:
            for ws in left:
                stack.callback(ws.shut_down)
        await let_leave(lambda: any(ws.send_buffer for ws in left))
        for ws in left:
            ws.cut()

    # -- what the connections tell -------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._closing

    def head_complete(self, exchange: Exchange) -> None:
        self._pending.pop(exchange, None)

    def welcome(self, exchange: Exchange, ws: WebSocket, app: Protocol | Handler) -> None:
        self._exchanges.discard(exchange)
        self._websockets.add(ws)
        if isinstance(app, Protocol):
            ws.start()
        else:
            assert self._handlers is not None
            self._running_handlers += 1
            self._handlers.start_soon(self._run_handler, ws, app)

    async def _run_handler(self, ws: WebSocket, handler: Handler) -> None:
        try:
            await ws.run(handler)
        finally:
            self._running_handlers -= 1
            self._look_idle()

    def run_soon(self, what: Callable[[], Awaitable[None]]) -> None:
        assert self._handlers is not None
        self._handlers.start_soon(what)

    def refused(self, exchange: Exchange, reason: str) -> None:
        self._refused[exchange] = None
        self._forget(exchange.client)  # it may still read why, and keeps nobody of its address out
        self.counters.refuse(reason)

    def exchange_gone(self, exchange: Exchange) -> None:
        if exchange in self._exchanges and exchange not in self._refused:
            self._forget(exchange.client)
        self._pending.pop(exchange, None)
        self._refused.pop(exchange, None)
        self._exchanges.discard(exchange)
        self._leaving.discard(exchange)
        self._look_idle()

    @property
    def websocket_gone(self) -> Callable[[WebSocket], None]:
        return self._on_gone

    def _websocket_gone(self, ws: WebSocket) -> None:
        self._websockets.discard(ws)
        self.counters.forget(ws)
        log_connection(ws, trio.current_time() - ws.began_at, self.lag)
        self._forget(ws.request.client)
        self._look_idle()

    def _forget(self, client: Address) -> None:
        """Count one connection less from this address."""
        host = remote_host(client)
        if host is not None:
            self._by_host[host] -= 1
            if not self._by_host[host]:
                del self._by_host[host]

    def _look_idle(self) -> None:
        if self._closing and not (self._websockets or self._leaving or self._running_handlers):
            self._idle.set()


async def serve(
    app: App,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    *,
    ssl_context: ssl.SSLContext | None = None,
    admin: AdminAddress | bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve WebSocket connections, and files on plain HTTP, on a TCP port.

    Returns when `Server.shutdown` has ended. When cancelled, makes one attempt at saying 1001 that waits for
    nobody, cuts every connection and returns. Installs no signal handlers.

    Args:
        app: an async function or a `Protocol` instance for every path, or a mapping of paths to either.
        host: an address or a name; None binds all interfaces.
        port: 0 lets the system choose; `Server.addresses` tells.
        ssl_context: with it the server speaks TLS.
        admin: where `/health` and `/metrics` are. True: here, for peers on this machine. Host and port, or the path of
            a Unix socket: there, in plain HTTP, for whoever reaches it. False: nowhere.
        options: keywords, which `Options` describes: `static`, a folder to serve on plain GET; `pages`, functions that
            answer plain GET, by path; `origins` and `hosts`, whose pages may connect and what is served; `limits`, the
            bounds; `compression`, whether or how messages are deflated; `fast_lane`.

    Raises:
        OSError: an address cannot be bound, or the static folder cannot be read; raised bare.
        TypeError, ValueError: an argument is wrong; raised bare.
    """
    server = Server(Site(app, **options), admin)
    await server.run(await open_listeners(host, port, ssl_context), task_status.started)


async def serve_listeners(
    app: App,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    admin: AdminAddress | bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve connections of listeners that are open already, of any kind; they are closed in the end.

    Otherwise like `serve`.
    """
    await Server(Site(app, **options), admin).run(listeners, task_status.started)


async def serve_stream(app: App, stream: trio.abc.Stream, **options: Unpack[Options]) -> None:
    """Serve one connection on any Trio stream, and return when it has ended; the stream is closed then.

    When cancelled, makes one attempt at saying 1001 that waits for nobody, and cuts the connection.
    """
    await Server(Site(app, **options)).run_stream(stream)


def run(
    app: App,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    *,
    ssl_context: ssl.SSLContext | None = None,
    admin: AdminAddress | bool = False,
    on_start: Callable[[Server], object] | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
    **options: Unpack[Options],
) -> None:
    """Run a server until SIGINT or SIGTERM: the first one shuts it down in order, a second one cuts.

    Args:
        on_start: called with the server when it listens.
        lifespan: what the application needs to be open, such as a `RedisBackplane`: entered before the server
            listens, left when it has ended.

    Otherwise like `serve`.
    """
    trio.run(partial(_run, app, host, port, ssl_context, admin, on_start, lifespan, options))


async def _run(
    app: App,
    host: str | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
    admin: AdminAddress | bool,
    on_start: Callable[[Server], object] | None,
    lifespan: AbstractAsyncContextManager[object] | None,
    options: Options,
) -> None:
    started = on_start if on_start is not None else _nothing
    opened = lifespan if lifespan is not None else nullcontext()

    async def serve(started: Callable[[Server], object]) -> None:
        async with opened:
            server = Server(Site(app, **options), admin)
            await server.run(await open_listeners(host, port, ssl_context), started)

    if threading.current_thread() is threading.main_thread():
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await _without_group(partial(_obey, signals, serve, started))
    else:
        await serve(started)


async def _obey(
    signals: AsyncIterator[int],
    serve: Callable[[Callable[[Server], object]], Awaitable[None]],
    started: Callable[[Server], object],
) -> None:
    """Serve; shut down on the first signal, if the server listens by then, and cut on the second."""
    servers: list[Server] = []

    def listens(server: Server) -> None:
        servers.append(server)
        started(server)

    async def stop() -> None:
        await anext(signals)
        async with trio.open_nursery() as shutdowns:
            if servers:
                shutdowns.start_soon(servers[0].shutdown)
                await anext(signals)
            everything.cancel_scope.cancel()

    async with trio.open_nursery() as everything:
        everything.start_soon(stop)
        await serve(listens)
        everything.cancel_scope.cancel()


def _nothing(server: Server) -> None:
    pass


async def _without_group(run: Callable[[], Awaitable[None]]) -> None:
    """Run something whose nurseries are its own affair: one exception that ends it leaves as it is."""
    try:
        await run()
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, BaseExceptionGroup):
            raise
    else:
        return
    raise cause  # out here, where the group does not become its context
