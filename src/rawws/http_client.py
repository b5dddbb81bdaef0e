"""The client's side of HTTP/1.1: one request, and the answer to it (RFC 9110, RFC 9112), by h11, without I/O.

Facts: a client of WebSockets asks once on a connection: a server for an Upgrade, or a proxy for a tunnel (CONNECT).
What comes back is either a yes (101, or any 2xx of a proxy), after which the stream is another protocol's, or an
ordinary answer that says why not, and then the connection is of no further use. As on the server's side a head is cut
out of the stream here, held to what RFC 9112 says and h11 forgives, bounded in bytes and fields, and given to h11
whole; what follows a yes stays in our buffer, byte for byte. Of an ordinary answer's body no more than `MAX_BODY_SIZE`
bytes are kept. A server is as little trusted as a client: nothing here waits or grows without a bound, and no message
quotes its bytes.

This module knows no sockets, clocks or WebSocket rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import h11

from .errors import HandshakeFailed
from .http import Headers, has_clean_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .limits import Limits

__all__ = ["MAX_BODY_SIZE", "Answer", "Inquiry"]

MAX_BODY_SIZE: Final = 64 * 1024
"""Bytes that are kept of the body of a refusal: it is for people to read."""

_MAX_INTERIM: Final = 8
"""Interim answers (1xx) before the final one; servers send one or two (RFC 9110 §15.2)."""

_END_OF_HEAD: Final = b"\r\n\r\n"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    """The status code: 101, or a final one."""
    headers: Headers
    body: bytes = b""
    """The body of a refusal, or the beginning of a long one."""


@final
class Inquiry:
    """One request and its answer.

    Args:
        target: the request target, in ASCII.
        headers: all its fields, Host and Upgrade included.
        limits: `max_head_size` and `max_header_count` are read.
        method: `GET` of a server, or `CONNECT` of a proxy (RFC 9110 §9.3.6).

    Attributes:
        peer: who is asked, in words.
        request: the bytes to send.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_complete",
        "_h11",
        "_head",
        "_interim",
        "_limits",
        "_scanned",
        "peer",
        "request",
    )

    def __init__(
        self, target: str, headers: Sequence[tuple[str, str]], limits: Limits, method: Literal["GET", "CONNECT"] = "GET"
    ) -> None:
        self.peer = "the server" if method == "GET" else "the proxy"
        self._limits = limits
        self._h11 = h11.Connection(h11.CLIENT)
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer that hold no end of a head
        self._head: Answer | None = None
        self._interim = 0
        self._body = bytearray()
        self._complete = False
        request = h11.Request(method=method, target=target, headers=list(headers))
        self.request = (self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b"")

    @property
    def has_head(self) -> bool:
        """Whether the head of the answer has come, and only a body may be missing."""
        return self._head is not None

    @property
    def granted(self) -> bool:
        """Whether the answer is a yes, and the stream another protocol's from then on."""
        return self._h11.their_state is h11.SWITCHED_PROTOCOL

    @property
    def trailing_data(self) -> bytes:
        """What came after the head of a yes: the new protocol's first bytes."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer; empty ones mean the end of the stream."""
        if self._head is None or self.granted:
            self._buffer += data
        elif not self._complete:
            self._h11.receive_data(data)
            self._take_body()

    def next_answer(self) -> Answer | None:
        """Return the answer once it is complete, or as much of it as is kept; None until then.

        Raises:
            HandshakeFailed: this is no HTTP/1.1, or its head is beyond a limit.
        """
        while self._head is None:
            head = self._take_head()
            if head is None:
                return None
            self._parse(head)
        return self.partial_answer() if self._complete else None

    def partial_answer(self) -> Answer:
        """Return the answer with what has come of its body; its head must have come."""
        assert self._head is not None
        return Answer(self._head.status, self._head.headers, bytes(self._body))

    # -- inside ----------------------------------------------------------------------------------------------

    def _take_head(self) -> bytes | None:
        """Cut a head off the buffer, its empty line included; None while it is incomplete."""
        buffer = self._buffer
        limit = self._limits.max_head_size
        end = buffer.find(_END_OF_HEAD, max(0, self._scanned - 3), limit)
        if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
            raise HandshakeFailed(f"{self.peer} does not speak HTTP/1.1")
        if end < 0:
            if len(buffer) >= limit:
                raise HandshakeFailed(f"the head of {self.peer}'s answer is too long")
            self._scanned = len(buffer)
            return None
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        self._scanned = 0
        return head

    def _parse(self, head: bytes) -> None:
        if head.count(b"\r\n") - 2 > self._limits.max_header_count:
            raise HandshakeFailed(f"the head of {self.peer}'s answer has too many fields")
        if not has_clean_lines(head):
            raise HandshakeFailed(
                f"the head of {self.peer}'s answer has a control character, a bare line end or a folded line"
            )
        self._h11.receive_data(head)
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError:
            raise HandshakeFailed(f"the head of {self.peer}'s answer is malformed") from None
        # A whole head makes h11 return one of these two, or raise.
        assert isinstance(event, (h11.InformationalResponse, h11.Response))
        if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise HandshakeFailed(f"{self.peer} sends interim answers without end")
            return
        if event.http_version != b"1.1" and event.status_code == 101:
            raise HandshakeFailed(f"{self.peer} does not speak HTTP/1.1")
        fields = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
        self._head = Answer(event.status_code, Headers.of_block(fields, head[head.index(b"\r\n") + 2 : -2]))
        if self.granted:
            self._complete = True
        else:
            if self._buffer:
                self._h11.receive_data(bytes(self._buffer))
                self._buffer.clear()
            self._take_body()

    def _take_body(self) -> None:
        """Keep what has come of the body; where it is broken or long, that is its end."""
        try:
            while isinstance(event := self._h11.next_event(), h11.Data):
                self._body += event.data
        except h11.RemoteProtocolError:
            self._complete = True
        if self._h11.their_state is not h11.SEND_BODY or len(self._body) >= MAX_BODY_SIZE:
            self._complete = True
            del self._body[MAX_BODY_SIZE:]
