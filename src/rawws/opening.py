"""The opening handshake of a connection: accepted, refused, or made by us and accepted by the server (RFC 6455 §4).

The endpoint that read the request provides a `Handshake`, which makes bytes of an answer; here is when it is given, and
what begins or ends with it. Rules:

* It is answered once. Who receives or sends before it was answered accepts it, who closes refuses it with 403.
* Nobody waits for the answer without a deadline: `accept_timeout` refuses with 503.
* Every refusal says why in one word, `refusal`, and ends the connection in order.

Cost: once a connection; a message passes nothing of it. It knows no listeners, no routes and no bytes of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import current_task, enable_ki_protection

from .connection import Connection
from .encoder import Encoder, check_close
from .errors import CloseCode, ConnectionClosed
from .frames import Decoder
from .states import Event, State

if TYPE_CHECKING:
    from .deflate import DeflateOptions, DeflateParameters
    from .http import HeaderFields, Request
    from .http_client import Answer
    from .limits import Limits
    from .transport import Transport

__all__ = ["Handshake", "OpeningConnection"]


class Handshake:
    """The opening handshake that waits for an answer; the endpoint that read the request provides it."""

    __slots__ = ()

    def accept(
        self, subprotocol: str | None, headers: HeaderFields
    ) -> tuple[bytes, DeflateParameters | None, DeflateOptions | None]:
        """Return the head of the 101, what was negotiated, and how we compress.

        Raises:
            ValueError: a subprotocol that was not offered, or a header that may not stand there.
        """
        raise NotImplementedError

    def reject(self, status: int, body: str | bytes, headers: HeaderFields) -> bytes:
        """Return the whole refusal.

        Raises:
            ValueError: a status or a header that may not stand there.
        """
        raise NotImplementedError

    def trailing_data(self) -> bytes:
        """Return what came after the request's head."""
        raise NotImplementedError


class OpeningConnection(Connection):
    """A connection and its opening handshake.

    Args:
        transport, limits: as for `Connection`.
        request: the handshake's request.
        handshake: what makes its answer; None on the client's side.
        fast_lane: whether frames are decoded by the fast lane where it can.
    """

    __slots__ = (
        "_answered",
        "_client_side",
        "_fast_lane",
        "_handshake",
        "_opened",
        "_owner",
        "began_at",
        "refusal",
        "request",
        "subprotocol",
    )

    def __init__(
        self, transport: Transport, limits: Limits, request: Request, handshake: Handshake | None, *, fast_lane: bool
    ) -> None:
        super().__init__(transport, limits)
        self.request = request
        self.subprotocol: str | None = None
        self._handshake = handshake
        self._client_side: _ClientSide | None = None
        self._fast_lane = fast_lane
        self._opened = False
        self._answered = False
        self.began_at = transport.now()
        self.refusal = ""
        self._owner: trio.lowlevel.Task | None = None  # the handler's, or who opened a client's connection
        transport.wake_at(self.began_at + limits.accept_timeout)

    @enable_ki_protection
    def accept_nowait(self, *, subprotocol: str | None = None, headers: HeaderFields = ()) -> None:
        """Accept the opening handshake (RFC 6455 §4.2.2).

        Args:
            subprotocol: one of `request.subprotocols`, or None for none.
            headers: further header fields of the 101, a mapping or pairs.

        Raises:
            RuntimeError: it was accepted or rejected before.
            ValueError: a subprotocol that was not offered, or a header that may not stand there.
            ConnectionClosed: the client is gone.
        """
        self._answer_once()
        if self._state is not State.CONNECTING:
            raise self._why()
        handshake = self._handshake
        assert handshake is not None
        head, deflate, options = handshake.accept(subprotocol, headers)
        self.subprotocol = subprotocol
        self._answered = self._opened = True
        self._early = handshake.trailing_data() + self._early
        self._handshake = None
        self._transport.write(head)
        self._begin(deflate, options, is_client=False)
        self.request.headers.compact()

    def start_as_client(
        self,
        response: Answer,
        trailing_data: bytes,
        subprotocol: str | None,
        deflate: DeflateParameters | None,
        options: DeflateOptions | None,
        *,
        ends_quietly: bool,
    ) -> None:
        """Begin to talk to the server that has accepted our opening handshake (RFC 6455 §4.1).

        Args:
            response: its 101.
            trailing_data: what came after it.
            subprotocol, deflate: what was agreed.
            options: how we compress.
            ends_quietly: whether `async for` ends without an exception whatever ends the connection, because whoever
                iterates over connections is told.
        """
        self._client_side = _ClientSide(response, ends_quietly)
        self._owner = current_task()
        self.subprotocol = subprotocol
        self._answered = self._opened = True
        self._early = trailing_data
        self._begin(deflate, options, is_client=True)

    def _begin(self, deflate: DeflateParameters | None, options: DeflateOptions | None, *, is_client: bool) -> None:
        limits = self._limits
        self._open(
            Decoder(
                is_client=is_client,
                max_message_size=limits.max_message_size,
                max_fragments=limits.fragments,
                deflate=deflate,
                fast_lane=self._fast_lane,
            ),
            Encoder(is_client=is_client, deflate=deflate, options=options),
        )

    def reject_nowait(self, status: int = 403, body: str | bytes = "", headers: HeaderFields = ()) -> None:
        """Refuse the opening handshake with an HTTP answer, and close.

        Args:
            status: 300 to 599.
            body: text (sent as text/plain in UTF-8) or bytes, as it is; by default the status in words.
            headers: further header fields, a mapping or pairs.

        Raises:
            RuntimeError: it was accepted or rejected before.
            ValueError: a status or a header that may not stand there.
        """
        self._answer_once()
        if self._state is State.CONNECTING:
            self._refuse(status, body, headers)
        self._answered = True

    def _answer_once(self) -> None:
        if self._answered:
            raise RuntimeError("the opening handshake has been answered already")

    @enable_ki_protection
    def _refuse(
        self, status: int, body: str | bytes = "", headers: HeaderFields = (), why: str = "application"
    ) -> None:
        handshake = self._handshake
        assert handshake is not None
        answer = handshake.reject(status, body, headers)
        self._handshake = None
        self.refusal = why
        self._transport.write(answer)
        self._end(ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, f"rejected with {status}", "us"))
        self._happen(Event.LOCAL_CLOSE)
        self._settle()

    async def accept(self, *, subprotocol: str | None = None, headers: HeaderFields = ()) -> None:
        """Accept the opening handshake; see `accept_nowait`. When cancelled, it has accepted or not begun."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.accept_nowait(subprotocol=subprotocol, headers=headers)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reject(self, status: int = 403, body: str | bytes = "", headers: HeaderFields = ()) -> None:
        """Refuse the opening handshake; see `reject_nowait`. When cancelled, it has refused or not begun."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.reject_nowait(status, body, headers)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _accept(self) -> None:
        if self._state is State.CONNECTING:
            self.accept_nowait()

    @property
    def response(self) -> Answer | None:
        """The server's 101, its status and headers, on the client's side; None on the server's side."""
        return self._client_side.response if self._client_side is not None else None

    @property
    def is_opened(self) -> bool:
        """Whether the opening handshake was completed; so it stays when the connection has ended."""
        return self._opened

    def due(self, now: float) -> float:
        if self._state is State.CONNECTING:
            accept_by = self.began_at + self._limits.accept_timeout
            if now < accept_by:
                return accept_by
            self._refuse(503, "The application did not answer in time.\n", why="accept_timeout")
        return super().due(now)

    def close_nowait(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin to close; the first code wins. What was queued before leaves before the Close frame.

        Before the handshake was answered it refuses it with 403.

        Raises:
            ValueError: a code that may not be sent, or a reason with a lone surrogate (RFC 6455 §7.4).
        """
        if self._state is State.CONNECTING:
            check_close(code, reason)
            self._refuse(403)
        super().close_nowait(code, reason)

    def _why(self) -> ConnectionClosed:
        closed = self._closed or self._pending_close
        assert closed is not None
        return closed.of(self)


class _ClientSide:
    """What only a client's connection has."""

    __slots__ = ("ends_quietly", "response")

    def __init__(self, response: Answer, ends_quietly: bool) -> None:
        self.response = response
        self.ends_quietly = ends_quietly
