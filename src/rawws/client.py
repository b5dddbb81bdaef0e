"""The client: `connect`, for one connection or for one after the other.

Strategy: the opening handshake happens on an ordinary Trio stream, in the task that connects. Then a driver takes the
stream over (`carrier.py`). No nursery stands between an application and its exceptions: what a block raises leaves it
bare. Rules:

* Whoever connects gets a `WebSocket` or an exception, and in the second case nothing is left open.
* Leaving the block ends the connection: it returns when the socket is closed, within `close_timeout`, and at once
  when it is cancelled.
* The loop over connections knows when to stop by `reconnect.py`, and says why.

Cost: a connection costs what the server's costs. It knows no frames; `client_handshake.py` knows the handshake.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from .carrier import carry
from .client_handshake import Opening, Wishes
from .deflate import DeflateOptions
from .dial import PASSING, Proxy, ask, dial, receive
from .errors import CloseCode, HandshakeFailed, HandshakeRejected
from .http import field_pairs
from .http_client import Answer, Inquiry
from .limits import Limits
from .reconnect import Backoff, retry_after, why_not_again, will_heal
from .uri import parse_uri
from .websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from types import TracebackType

    from .http import HeaderFields
    from .transport import Receiver, Transport
    from .uri import Uri

__all__ = ["Connect", "connect", "connect_stream"]

_log = logging.getLogger("rawws")

_BODY_SECONDS: Final = 1.0
"""Time that the body of a refusal may take once its head is there."""


def connect(
    url: str,
    *,
    headers: HeaderFields = (),
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | None = None,
    limits: Limits | None = None,
    compression: DeflateOptions | bool = True,
    fast_lane: bool = True,
    open_timeout: float = 10.0,
    backoff: Backoff | None = None,
) -> Connect:
    """Connect to a WebSocket server: `async with connect(url) as ws`, or `async for ws in connect(url)`.

    The first form is one connection. Leaving the block closes it with 1000, with 1011 when an exception leaves it, and
    returns when the socket is closed, within `close_timeout`; a cancelled block sends 1001 if that needs no waiting,
    and cuts. The second form connects again and again; see `Connect.__aiter__`.

    Redirects are followed, at most ten, never from TLS to plain text. User and password of the URL, Authorization,
    Cookie and Proxy-Authorization stay with the origin of `url`.

    Args:
        url: `ws://` or `wss://`, also `http://` or `https://`, which mean the same. A user and password in it become
            Basic authentication (RFC 7617), unless `headers` has an Authorization.
        headers: further header fields of the request, a mapping or pairs; those of the handshake itself are not taken.
        subprotocols: offered in this order of preference; `ws.subprotocol` is the server's choice.
        origin: the Origin field, such as `https://example.com`; None sends none, as befits what is no browser.
        ssl_context: for `wss`; None trusts what the system trusts.
        proxy: `http://[user:password@]host:port` (CONNECT); `socks5://…` or `socks4://…`, by python-socks, the extra
            `rawws[proxy]`. None dials directly: environment variables are not looked at.
        limits: the bounds of the connection; None: `Limits()`.
        compression: permessage-deflate (RFC 7692): how, or whether, to offer it.
        fast_lane: False sends every frame through wsproto.
        open_timeout: seconds for all of it: names, proxies, TLS, redirects, the opening handshake; `math.inf` for none.
        backoff: the delays of `async for`; None: `Backoff()`.

    Raises:
        ValueError: an argument is wrong; raised by the call itself.
        ImportError: a proxy of SOCKS is given and python-socks is not installed; raised by the call itself.

    Entering the block raises:

    Raises:
        OSError: the server cannot be reached or hangs up; among them `TimeoutError` after `open_timeout` and
            `ssl.SSLCertVerificationError` for a certificate that does not convince.
        HandshakeRejected: the server refused, or redirected too often.
        HandshakeFailed: the server's answer breaks HTTP/1.1, RFC 6455 or RFC 7692.
    """
    if not open_timeout > 0:
        raise ValueError("open_timeout must be positive")
    settings = _Settings(url, headers, subprotocols, origin, limits, compression, fast_lane)
    settings.ssl_context = ssl_context
    settings.proxy = Proxy(proxy) if proxy is not None else None
    return Connect(settings, open_timeout, backoff or Backoff())


@asynccontextmanager
async def connect_stream(
    stream: trio.abc.Stream,
    url: str,
    *,
    headers: HeaderFields = (),
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    limits: Limits | None = None,
    compression: DeflateOptions | bool = True,
    fast_lane: bool = True,
    open_timeout: float = 10.0,
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket on a Trio stream that is connected already: a Unix socket, a tunnel, a memory stream.

    The stream becomes the connection's and is closed with it. `url` only says what the request asks for; where it is
    `wss`, TLS is the stream's affair. No redirect is followed. Otherwise like `async with connect(url, …)`.
    """
    settings = _Settings(url, headers, subprotocols, origin, limits, compression, fast_lane)
    async with await _within(open_timeout, partial(settings.open_on, stream)) as ws:
        yield ws


@final
class Connect:
    """What `connect` returns: an asynchronous context manager, and an asynchronous iterable."""

    def __init__(self, settings: _Settings, open_timeout: float, backoff: Backoff) -> None:
        self._settings = settings
        self._open_timeout = open_timeout
        self._backoff = backoff
        self._link: _Link | None = None

    async def __aenter__(self) -> WebSocket:
        """Connect; see `connect` for what it raises. When cancelled, nothing is left open."""
        if self._link is not None:
            raise RuntimeError("a connection is open already; call connect again for another one")
        self._link = await self._open(ends_quietly=False)
        return self._link.ws

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        link, self._link = self._link, None
        assert link is not None
        await link.__aexit__(kind, exc, traceback)

    def __aiter__(self) -> Connections:
        """Connect, and when the connection has ended connect again: `async for ws in connect(url)`.

        A connection is closed with 1000 when the body of the loop has ended and the next one is asked for; leaving the
        loop closes it too, in the background. `async for message in ws` in it ends quietly whatever ended the
        connection; other calls raise ConnectionClosed as ever. After an end, and after an attempt that failed, comes a
        delay by `backoff`, longer each time until a connection has lasted, and no shorter than a Retry-After of at
        most ten minutes. What happens after

        * 1000 from the server: the loop ends, for all is done;
        * 1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003, from whichever side: it raises the ConnectionClosed;
        * any other close code, or none: it connects again;
        * a refusal with 408, 425, 429 or 5xx, an address that cannot be reached, a timeout: it tries again;
        * any other refusal, a redirect that is not followed, a wrong answer, a failure of TLS such as a bad
          certificate, a proxy that does not let us through: it raises what `async with` would.

        What is raised has a note that says why it is not tried again.
        """
        return Connections(self)

    async def _open(self, *, ends_quietly: bool) -> _Link:
        """Connect, within the time that it may take."""
        return await _within(self._open_timeout, partial(self._settings.open, ends_quietly=ends_quietly))


@final
class Connections:
    """One connection after the other; `async for ws in connect(url)` makes and iterates it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._link: _Link | None = None
        self._failures = 0
        self._opened_at = 0.0
        self._over = False

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> WebSocket:
        """Close the last connection, wait, connect; when cancelled, nothing is left open."""
        delay = 0.0
        if self._link is not None:
            delay = await self._after_connection()
        while not self._over:
            if delay:
                await trio.sleep(delay)
            try:
                self._link = await self._connect._open(ends_quietly=True)
            except (OSError, HandshakeFailed) as exc:
                delay = self._after_failure(exc)
            else:
                self._opened_at = trio.current_time()
                return self._link.ws
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection that is open, and end the iteration; see `contextlib.aclosing`."""
        self._over = True
        link, self._link = self._link, None
        if link is not None:
            await link.end(CloseCode.NORMAL_CLOSURE)
        else:
            await trio.lowlevel.checkpoint()

    async def _after_connection(self) -> float:
        """End the connection, and return how long to wait before the next one."""
        link, self._link = self._link, None
        assert link is not None
        await link.end(CloseCode.NORMAL_CLOSURE)
        closed = link.ws.closed
        assert closed is not None
        reason = why_not_again(closed)
        if reason is not None:
            self._over = True
            exc = closed.of(link.ws)
            exc.add_note(f"not connected again: {reason}")
            raise exc
        if closed.by == "peer" and closed.code == CloseCode.NORMAL_CLOSURE:
            self._over = True
            return 0.0
        if trio.current_time() - self._opened_at >= self._connect._backoff.steady:
            self._failures = 0
        return self._next_delay(str(closed))

    def _after_failure(self, exc: OSError | HandshakeFailed) -> float:
        """Return how long to wait after an attempt that failed; raise what will not heal."""
        asked = 0.0
        reason = ""
        if isinstance(exc, HandshakeRejected):
            asked = retry_after(exc.headers)
        if isinstance(exc, HandshakeFailed):
            if not will_heal(exc):
                reason = "the server would answer the same request in the same way"
        elif isinstance(exc, ssl.SSLError) and not isinstance(exc, PASSING):
            reason = "TLS would fail in the same way"
        elif isinstance(exc, PermissionError):
            reason = "it would be denied again"
        if reason:
            self._over = True
            exc.add_note(f"not connected again: {reason}")
            raise exc
        return self._next_delay(str(exc) or type(exc).__name__, asked)

    def _next_delay(self, why: str, asked: float = 0.0) -> float:
        self._failures += 1
        delay = asked + self._connect._backoff.delay(self._failures)
        _log.info("connecting again in %.1f s: %a", delay, why)
        return delay

    def __del__(self) -> None:
        # Whoever breaks out of the loop drops its iterator. The Close frame leaves at once where that is safe, in the
        # task that iterated; the driver sees to the rest.
        if self._link is not None:
            self._link.drop()


@final
class _Settings:
    """What `connect` was asked for, checked."""

    def __init__(
        self,
        url: str,
        headers: HeaderFields,
        subprotocols: Sequence[str],
        origin: str | None,
        limits: Limits | None,
        compression: DeflateOptions | bool,
        fast_lane: bool,
    ) -> None:
        self._uri: Uri = parse_uri(url)
        if isinstance(subprotocols, str):
            raise ValueError("subprotocols must be a sequence of names, not one string")
        if isinstance(compression, bool):
            self._compression = DeflateOptions() if compression else None
        else:
            self._compression = compression
        self._wishes = Wishes(field_pairs(headers), tuple(subprotocols), origin, self._compression)
        self._limits = Limits() if limits is None else limits
        self._fast_lane = fast_lane
        self.ssl_context: ssl.SSLContext | None = None
        self.proxy: Proxy | None = None

    async def open(self, *, ends_quietly: bool) -> _Link:
        """Dial, and shake hands, wherever that leads."""
        opening = Opening(self._uri, self._wishes)
        while True:
            stream = await dial(opening.uri, ssl_context=self.ssl_context, proxy=self.proxy)
            try:
                answer, trailing_data = await _ask(stream, opening, self._limits)
                if answer.status == 101:
                    return self._hand_over(stream, opening, answer, trailing_data, ends_quietly)
                opening = opening.follow(answer)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            await trio.aclose_forcefully(stream)

    async def open_on(self, stream: trio.abc.Stream) -> _Link:
        """Shake hands on a stream."""
        opening = Opening(self._uri, self._wishes)
        try:
            answer, trailing_data = await _ask(stream, opening, self._limits)
            if answer.status != 101:
                raise HandshakeRejected(answer.status, answer.headers, answer.body)
            return self._hand_over(stream, opening, answer, trailing_data, ends_quietly=False)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    @trio.lowlevel.enable_ki_protection  # a socket that has left Trio's stream is on its way to a driver
    def _hand_over(
        self, stream: trio.abc.Stream, opening: Opening, answer: Answer, trailing_data: bytes, ends_quietly: bool
    ) -> _Link:
        """Make the WebSocket, and give the stream to a driver."""
        subprotocol, deflate = opening.agree(answer)
        options = self._compression
        if deflate is not None and deflate.client_max_window_bits == 8:
            options = None  # zlib cannot deflate with so small a window; what we send leaves as it is
        limits = self._limits
        link = _Link()

        def greet(transport: Transport, release: Callable[[], object]) -> Receiver:
            def on_gone(_: WebSocket) -> None:
                release()
                link.gone.set()

            ws = link.ws = WebSocket(
                transport,
                limits,
                opening.request,
                None,
                app=None,
                fast_lane=self._fast_lane,
                on_gone=on_gone,
            )
            ws.start_as_client(answer, trailing_data, subprotocol, deflate, options, ends_quietly=ends_quietly)
            return ws

        carry(stream, greet, stall_timeout=limits.send_timeout)
        return link


@final
class _Link:
    """A connection, and who is told when its driver is done with it."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.gone = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._task = trio.lowlevel.current_task()

    async def __aenter__(self) -> WebSocket:
        return self.ws

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            await self.end(CloseCode.NORMAL_CLOSURE)
        else:
            # Whatever is no Exception, cancellation and Ctrl-C above all, is nobody's mistake.
            await self.end(CloseCode.INTERNAL_ERROR if isinstance(exc, Exception) else CloseCode.GOING_AWAY)

    async def end(self, code: int) -> None:
        """Close, and wait until the driver is done; when cancelled, cut."""
        try:
            await self.ws.close(code)  # which cuts when it is cancelled
            await self.gone.wait()
        finally:
            if not self.gone.is_set():
                self.ws.cut()
                with trio.CancelScope(shield=True):
                    await self.gone.wait()

    def drop(self) -> None:
        """Begin to close, from wherever garbage is collected."""
        with suppress(trio.RunFinishedError):
            try:
                ours = trio.lowlevel.current_task() is self._task
            except RuntimeError:
                ours = False
            if ours:
                self.ws.close_nowait()
            elif not self.gone.is_set():
                self._token.run_sync_soon(self.ws.close_nowait)


async def _within(seconds: float, open_link: Callable[[], Awaitable[_Link]]) -> _Link:
    with trio.move_on_after(seconds):
        return await open_link()
    raise TimeoutError(f"the WebSocket was not open after {seconds:g} s")


async def _ask(stream: trio.abc.Stream, opening: Opening, limits: Limits) -> tuple[Answer, bytes]:
    """Send the request, and return the answer and what came after it.

    Raises:
        OSError: the connection ended before the answer.
        HandshakeFailed: this is no HTTP/1.1.
    """
    request = opening.request
    inquiry = Inquiry(request.target, request.headers.raw, limits)
    await ask(stream, inquiry)
    with trio.move_on_after(_BODY_SECONDS):
        while inquiry.next_answer() is None:
            inquiry.feed(await receive(stream))
    return inquiry.partial_answer(), inquiry.trailing_data
