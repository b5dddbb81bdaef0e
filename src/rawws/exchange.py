"""One connection while it speaks HTTP: requests in, plain answers out, until a request becomes a WebSocket.

Rules: a request is answered before the next one is looked at; nothing is read while an answer does not leave;
a refusal is one short answer and the end of the connection; one for want of room waits for the first bytes of the
request, since many clients do not look for an answer before. Every wait has a deadline: `head_timeout` from the
connection's beginning, and from each answer, to the next complete head; the transport's own for a peer that
takes no byte; `accept_timeout` for an async page, and for the WebSocket that a handshake becomes. It decides
nothing itself: the reader knows HTTP, `handshake.py` the Upgrade, the site what is where.

Cost: what the reader costs; a timer for each answer. What goes wrong is at most one line in the log.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from inspect import iscoroutinefunction
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from .deflate import negotiate
from .errors import HandshakeError
from .handshake import accept_headers, check_origin, check_upgrade, is_websocket_request
from .http import Response, field_pairs, reason_phrase
from .logs import escape, peer_name
from .opening import Handshake
from .protocol import Protocol
from .request_reader import RequestReader
from .transport import HIGH_WATER, Receiver
from .websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .deflate import DeflateOptions, DeflateParameters
    from .http import Address, HeaderFields, Request
    from .site import Handler, Site
    from .transport import Transport

__all__ = ["Exchange", "Home", "answer_without_connection"]

_log = logging.getLogger("rawws")

_REASONS: Final = {
    403: "origin",
    404: "not_found",
    405: "method",
    408: "head_timeout",
    421: "host",
    426: "version",
    500: "error",
    503: "shutdown",
}
"""Why a request is refused, where nothing else is said; every other status is for a head that cannot be served."""
_REFUSAL_SECONDS: Final = 1.0
"""Time that a client that is to be refused has to ask, and then to read why; a crowd of them must not hold the
descriptors that are short."""


class Home:
    """Where connections live: the server that counts them and runs their handlers."""

    __slots__ = ()

    def head_complete(self, exchange: Exchange) -> None:
        """Learn, at least once, that a connection no longer waits for its first head."""
        raise NotImplementedError

    def welcome(self, exchange: Exchange, ws: WebSocket, app: Protocol | Handler) -> None:
        """Take over what an exchange became, and let its application answer the handshake."""
        raise NotImplementedError

    def run_soon(self, what: Callable[[], Awaitable[None]]) -> None:
        """Run an async function in a task that a shutdown cancels in the end."""
        raise NotImplementedError

    def refused(self, exchange: Exchange, reason: str) -> None:
        """Learn that a connection was refused, which ends it soon, and why, in one word of `metrics.py`."""
        raise NotImplementedError

    def exchange_gone(self, exchange: Exchange) -> None:
        """Learn that a connection ended before it became a WebSocket."""
        raise NotImplementedError

    @property
    def websocket_gone(self) -> Callable[[WebSocket], None]:
        """What to call with a WebSocket whose transport is closed; one object for all, since each keeps it."""
        raise NotImplementedError

    @property
    def is_closing(self) -> bool:
        """Whether new handshakes are refused because the server goes away."""
        raise NotImplementedError


@final
class _ServerHandshake(Handshake):
    """A handshake that passed every check and waits for the application's word."""

    __slots__ = ("_accept", "_options", "_reader", "_request")

    def __init__(self, request: Request, reader: RequestReader, accept: str, options: DeflateOptions | None) -> None:
        self._request = request
        self._reader = reader
        self._accept = accept
        self._options = options

    def accept(
        self, subprotocol: str | None, headers: HeaderFields
    ) -> tuple[bytes, DeflateParameters | None, DeflateOptions | None]:
        deflate = None
        if self._options is not None:
            deflate = negotiate(self._request.headers.get_all("sec-websocket-extensions"), self._options)
        fields = accept_headers(
            self._accept,
            offered=self._request.subprotocols,
            subprotocol=subprotocol,
            extensions=deflate.header if deflate is not None else None,
            headers=field_pairs(headers),
        )
        return self._reader.switch_protocols(fields), deflate, self._options

    def reject(self, status: int, body: str | bytes, headers: HeaderFields) -> bytes:
        if not 300 <= status <= 599:
            raise ValueError(f"a handshake is refused with a status from 300 to 599, not {status}")
        fields = field_pairs(headers)
        if not body:
            response = Response.text(status, f"{reason_phrase(status).decode('ascii')}.", fields)
        elif isinstance(body, str):
            response = Response.text(status, body, fields, end="")
        else:
            response = Response(status, fields, body)
        return self._reader.respond(response, close=True, date=formatdate(usegmt=True))

    def trailing_data(self) -> bytes:
        return self._reader.trailing_data


@final
class Exchange(Receiver):
    """The HTTP side of one connection.

    Attributes:
        client: the peer's address.
    """

    __slots__ = (
        "_head_by",
        "_home",
        "_linger",
        "_over",
        "_page",
        "_paused",
        "_reader",
        "_refusal",
        "_site",
        "_transport",
        "client",
    )

    def __init__(self, site: Site, home: Home, transport: Transport, client: Address, *, secure: bool) -> None:
        self._site = site
        self._home = home
        self._transport = transport
        self._reader = RequestReader(site.limits, client, secure)
        self._over = False  # the last answer has been written, or the connection is a WebSocket, or it has ended
        self._paused = False
        self._linger = 0.0  # seconds that the end of the connection may take, once the last answer is leaving
        self._page: trio.CancelScope | None = None  # around the page that makes the answer, while one does
        self._refusal: str | None = None  # what is said with 503 as soon as anything has been asked
        self.client = client
        self._head_by = transport.now() + site.limits.head_timeout
        transport.wake_at(self._head_by)

    def refuse(
        self,
        status: int,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        reason: str | None = None,
        path: str | None = None,
    ) -> None:
        """Answer with a status and end the connection; when its last answer has been given, do nothing.

        Args:
            reason: why, in one word of `metrics.py`, where the status does not say it.
            path: what was asked for, if a request was.
        """
        if not self._over:
            self._count_refusal(status, message, reason, path)
            self._answer_last(Response.text(status, message, headers))

    def refuse_when_asked(self, message: str, reason: str) -> None:
        """Refuse for want of room: counted now, answered with 503 when first bytes have come, or after a second.

        Args:
            reason: why, in one word of `metrics.py`.
        """
        if not self._reader.idle:
            self.refuse(503, message, reason=reason)
            return
        self._count_refusal(503, message, reason)
        self._home.head_complete(self)
        self._refusal = message
        self._head_by = self._transport.now() + _REFUSAL_SECONDS
        self._transport.wake_at(self._head_by)

    def shut_down(self) -> bool:
        """Close because the server is going away; whether that should be waited for, as an answer is leaving."""
        if self._page is not None:
            return True
        if self._refusal is not None:
            self._say_refusal()
            return True
        if self._reader.idle:
            leaving = self._transport.queued > 0
            self._finish(_REFUSAL_SECONDS)
            return leaving
        self.refuse(503, "The server is shutting down.")
        return True

    def cut(self) -> None:
        """End the connection at once; what it was told may be lost."""
        if self._refusal is not None:
            self._say_refusal()
            self._transport.flush()
        self._transport.abort()

    # -- what the driver calls -------------------------------------------------------------------------------

    def data(self, data: bytes, now: float) -> None:
        self._reader.feed(data)
        if self._refusal is not None:
            with suppress(HandshakeError):
                self._reader.next_request()  # it may be HEAD
            self._say_refusal()
        elif not self._paused:
            self._advance(now)

    def proceed(self, now: float) -> None:
        if self._paused and not self._over and self._page is None:
            self._paused = False
            self._transport.resume()
            self._advance(now)

    def drained(self) -> None:
        if self._linger:
            self._transport.close(self._transport.now() + self._linger)
        elif self._paused:
            self._transport.schedule()

    def due(self, now: float) -> float:
        if not self._over and now >= self._head_by:
            if self._refusal is not None:
                self._say_refusal()
            elif self._page is not None:
                self._page.cancel()
                self.refuse(503, "The answer took too long.", reason="accept_timeout")
            elif self._transport.queued:
                # The last answer is still leaving, and `stalled` watches over that.
                self._head_by = now + self._site.limits.head_timeout
            elif self._reader.idle:
                self._finish(_REFUSAL_SECONDS)
            else:
                self.refuse(408, "The request did not arrive in time.")
        return inf if self._over else self._head_by

    def stalled(self, seconds: float) -> None:
        self.cut()

    def eof(self, error: Exception | None) -> None:
        self._over = True
        if self._page is not None:
            self._page.cancel()
        self._home.exchange_gone(self)

    # -- inside ------------------------------------------------------------------------------------------------

    def _count_refusal(self, status: int, message: str, reason: str | None, path: str | None = None) -> None:
        reason = reason or _REASONS.get(status, "malformed")
        self._home.refused(self, reason)
        if _log.isEnabledFor(logging.INFO):
            name = peer_name(self.client)
            facts = {"client": name, "path": path, "status": status, "refused": reason}
            what = name if path is None else f"{name} {escape(path)}"
            _log.info("%s is refused with %d: %s", what, status, message, extra={"rawws": facts})

    def _say_refusal(self) -> None:
        """Say what waited for the client to ask."""
        assert self._refusal is not None
        message, self._refusal = self._refusal, None
        self._answer_last(Response.text(503, message))

    def _answer_last(self, response: Response) -> None:
        self._transport.write(self._reader.respond(response, close=True, date=formatdate(usegmt=True)))
        self._finish(_REFUSAL_SECONDS)

    def _advance(self, now: float) -> None:
        """Answer the requests that have arrived, as far as the peer takes the answers and our time goes."""
        reader = self._reader
        while not self._over:
            request = None
            try:
                request = reader.next_request()
                if request is None:
                    return
                self._home.head_complete(self)
                self._site.check(request)
                if self._upgrade(request):
                    return
                response = self._respond(request)
            except HandshakeError as exc:
                self.refuse(exc.status, exc.message, exc.headers, path=None if request is None else request.path)
                return
            if not isinstance(response, Response):
                self._await(response, request, now)
                return
            self._log_answer(request, response)
            if not self._write(response, now):
                return

    def _respond(self, request: Request) -> Response | Awaitable[Response]:
        try:
            return self._site.respond(request)
        except HandshakeError:
            raise
        except Exception:
            raise self._page_failed(request) from None

    def _page_failed(self, request: Request) -> HandshakeError:
        _log.exception("%s: the answer to %s raised", peer_name(self.client), escape(request.path))
        return HandshakeError(500, "The server failed to answer.")

    def _await(self, response: Awaitable[Response], request: Request, now: float) -> None:
        """Have a page answer in a task; until then nothing is read, and `due` watches the time."""
        self._pause()
        self._page = trio.CancelScope()
        self._head_by = now + self._site.limits.accept_timeout
        self._transport.wake_at(self._head_by)
        self._home.run_soon(partial(self._run_page, self._page, response, request))

    async def _run_page(self, scope: trio.CancelScope, response: Awaitable[Response], request: Request) -> None:
        answer: Response | HandshakeError | None = None
        try:
            with scope:
                answer = await response
        except HandshakeError as exc:
            answer = exc
        except Exception:
            answer = self._page_failed(request)
        except BaseExceptionGroup as group:
            faults, rest = group.split(Exception)
            if faults is not None:
                self._page_failed(request)
            if rest is not None:
                raise rest from None
        self._page = None
        if answer is None or self._over:
            return
        if isinstance(answer, HandshakeError):
            self.refuse(answer.status, answer.message, answer.headers, path=request.path)
            return
        self._log_answer(request, answer)
        now = self._transport.now()
        self._paused = False
        self._transport.resume()
        if self._write(answer, now):
            self._advance(now)

    def _log_answer(self, request: Request, response: Response) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            name, path = peer_name(self.client), escape(request.path)
            _log.debug("%s %s %s is answered with %d", name, request.method, path, response.status)

    def _write(self, response: Response, now: float) -> bool:
        """Write an answer; whether the next request may be looked at now."""
        reader = self._reader
        transport = self._transport
        close = self._home.is_closing
        head, body = reader.respond_in_parts(response, close=close, date=formatdate(usegmt=True))
        if len(body) > HIGH_WATER:  # whoever is sent the same file shares it, however slowly it leaves
            transport.write(head, more=True)
            transport.write(body)
        else:
            transport.write(head + body)
        if not reader.keep_alive:
            self._finish(self._site.limits.close_timeout)
            return False
        self._head_by = now + self._site.limits.head_timeout
        if self._is_behind():
            self._pause()  # `drained` goes on
            return False
        if reader.buffered and transport.expired():
            self._pause()
            transport.schedule()
            return False
        return True

    def _upgrade(self, request: Request) -> bool:
        """Turn the connection into a WebSocket if that is what the request asks for."""
        if not is_websocket_request(request):
            return False
        site = self._site
        app = site.find_app(request.path)
        if app is None:
            raise HandshakeError(404, "There is no WebSocket here.")
        accept = check_upgrade(request)
        check_origin(request, site.origins)
        if self._home.is_closing:
            raise HandshakeError(503, "The server is shutting down.")
        transport = self._transport
        transport.pause()
        self._over = True
        ws = WebSocket(
            transport,
            site.limits,
            request,
            _ServerHandshake(request, self._reader, accept, site.compression),
            app=app if isinstance(app, Protocol) else None,
            fast_lane=site.fast_lane,
            on_gone=self._home.websocket_gone,
        )
        transport.receiver = ws
        self._home.welcome(self, ws, app)
        return True

    def _is_behind(self) -> bool:
        """Whether more waits for the peer than should, after what can leave has left."""
        transport = self._transport
        if transport.queued > HIGH_WATER:
            transport.flush()
        return transport.queued > HIGH_WATER

    def _pause(self) -> None:
        self._paused = True
        self._transport.pause()

    def _finish(self, linger: float) -> None:
        """End the connection after what was written; a slow peer may take its time over a long answer."""
        if self._over:
            return
        self._over = True
        self._home.head_complete(self)
        if self._is_behind():
            self._linger = linger
            self._pause()
        else:
            self._transport.close(self._transport.now() + linger)


def answer_without_connection(site: Site, client: Address, data: bytes) -> bytes:
    """Answer a client for which no descriptor is left, whatever it has sent: a page such as /health, or 503.

    Pages that have to be waited for are not among them.
    """
    reader = RequestReader(site.limits, client)
    reader.feed(data)
    response = Response.text(503, "The server is out of descriptors.")
    try:
        request = reader.next_request()
        page = site.find_page(request.path) if request is not None else None
        if request is not None and page is not None and not iscoroutinefunction(page):
            answer = site.respond(request)
            if isinstance(answer, Response):
                response = answer
    except HandshakeError as exc:
        response = Response.text(exc.status, exc.message, exc.headers)
    except Exception:
        _log.exception("%s: the answer of a page raised", peer_name(client))
    return reader.respond(response, close=True, date=formatdate(usegmt=True))
