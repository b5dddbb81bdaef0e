"""Reading HTTP/1.1 requests and writing their answers, by h11, without I/O (RFC 9112).

Strategy: a head is cut out of the stream here, and h11 is fed exactly one whole head at a time, by a fresh
`h11.Connection` for each: what follows a head (pipelined requests, the first WebSocket frames) stays in our buffer,
whose size the driver can read. Before h11 sees a head it is held to what RFC 9112 says and h11 forgives: CRLF line
ends, no folding, no control characters, a size, a number of fields. The verdict depends on the bytes alone, never on
how they were cut into reads, and no answer quotes a byte of the peer.

Cost: one search for the end and one for forbidden bytes, each byte looked at once whatever the size of the reads;
h11's parser takes most of the rest. This module knows no sockets, clocks, routes or WebSocket rules.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast, final
from urllib.parse import unquote_to_bytes

import h11

from .errors import HandshakeError
from .http import (
    ABSOLUTE_FORM,
    FAULT,
    Headers,
    Request,
    check_fields,
    is_token,
    list_elements,
    parse_authority,
    reason_phrase,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .http import Address, Response
    from .limits import Limits

__all__ = ["MAX_QUERY_FIELDS", "MAX_TARGET_SIZE", "RequestReader"]

MAX_TARGET_SIZE: Final = 8 * 1024
"""Bytes of a request target; beyond: 414 (RFC 9112 §3 asks for 8000 at least; Apache's LimitRequestLine)."""

MAX_QUERY_FIELDS: Final = 1000
"""Fields of a query, counted by their `&`; beyond: 400 (Django's DATA_UPLOAD_MAX_NUMBER_FIELDS)."""

# RFC 9110 §9 and RFC 5789, from what h11 yields to the one object that all requests share.
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
}
_VERSIONS: Final = {b"1.0": "1.0", b"1.1": "1.1"}
_CR: Final = 0x0D
_LF: Final = 0x0A
_END_OF_HEAD: Final = b"\r\n\r\n"
_METHOD_STARTS: Final = frozenset(code for code in range(0x80) if is_token(chr(code)))
_CONTENT_LENGTH_LINE: Final = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _State(Enum):
    """What a `RequestReader` may do next."""

    READING = auto()
    """Bytes of a head are awaited."""
    PENDING = auto()
    """A request was returned and has no answer yet."""
    FAILED = auto()
    """An error was raised and has no answer yet."""
    ENDED = auto()
    """The last answer of the connection has been made, or the protocol was switched."""


@final
class RequestReader:
    """Cut a byte stream into requests and turn answers into bytes, one after the other.

    The driver calls `feed` with what it read, then `next_request` until it returns None, and `respond`,
    `respond_in_parts` or `switch_protocols` once for each request; while a request waits for its answer it should
    not read. With `next_request` called after each `feed`, `buffered` stays below the head limit plus one read.

    Args:
        limits: `max_head_size` and `max_header_count` are read.
        client: the peer's address, for the requests.
        secure: whether the bytes came through TLS, for the requests.
    """

    __slots__ = (
        "_buffer", "_client", "_h11", "_is_head", "_keep_alive", "_limits", "_may_switch", "_scanned", "_secure",
        "_skipped_empty_line", "_state",
    )  # fmt: skip

    def __init__(self, limits: Limits, client: Address = None, secure: bool = False) -> None:
        self._limits = limits
        self._client = client
        self._secure = secure
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer that hold neither a fault nor the end of a head
        self._skipped_empty_line = False
        self._h11: h11.Connection | None = None  # made when a head is complete: a waiting peer costs little
        self._is_head = False
        self._may_switch = False
        self._keep_alive = True
        self._state = _State.READING

    @property
    def buffered(self) -> int:
        """Bytes that were fed and belong to no request returned so far."""
        return len(self._buffer)

    @property
    def trailing_data(self) -> bytes:
        """What was fed beyond the request last returned: after a switch, the new protocol's first bytes."""
        return bytes(self._buffer)

    @property
    def idle(self) -> bool:
        """Whether no request waits for an answer and no byte of a next head has come."""
        return self._state is _State.READING and not self._buffer

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow (RFC 9112 §9.3), as far as is known by now."""
        return self._keep_alive

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer. Empty ones are no end; after an error or a last answer all are dropped."""
        if self._state is _State.READING or self._state is _State.PENDING:
            self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next request, or None while its head is incomplete or another one waits for its answer.

        Raises:
            HandshakeError: the head cannot be served. The reader is dead from then on: `respond` takes one
                answer, and nothing else comes out.
        """
        if self._state is not _State.READING or not self._buffer:
            return None
        try:
            head = self._take_head()
            if head is None:
                return None
            request = self._parse(head)
        except HandshakeError:
            self._state = _State.FAILED
            self._keep_alive = False
            self._buffer.clear()
            raise
        self._state = _State.PENDING
        return request

    def respond(self, response: Response, *, close: bool = False, date: str | None = None) -> bytes:
        """Return an answer in one piece; otherwise like `respond_in_parts`."""
        return b"".join(self.respond_in_parts(response, close=close, date=date))

    def respond_in_parts(
        self, response: Response, *, close: bool = False, date: str | None = None
    ) -> tuple[bytes, bytes]:
        """Return head and body of an answer: to the request last returned, to the error last raised, or unasked.

        The body is the response's own object, so that those who are sent the same share it; empty where HTTP has none.

        An unasked answer (408, 503) and one to an error end the connection, as `close` does, as HTTP/1.0 and
        the client's `Connection: close` do; the answer says so, and `keep_alive` is false.

        Args:
            response: what to answer; Content-Length and Connection are added.
            close: whether to end the connection after it.
            date: the value of the Date field (RFC 9110 §6.6.1); None sends none.

        Raises:
            RuntimeError: the connection has had its last answer.
        """
        if self._state is _State.ENDED:
            raise RuntimeError("the last answer has been sent")
        if self._state is not _State.PENDING or close:
            self._keep_alive = False
        status = response.status
        bodiless = status in (204, 304)  # RFC 9110 §8.6, §15.4.5: a length would be wrong or of no use
        fields = list(response.headers)
        if date is not None:
            fields.append(("Date", date))
        if not bodiless:
            fields.append(("Content-Length", str(len(response.body))))
        options = ["upgrade"] if any(name.lower() == "upgrade" for name, _ in fields) else []  # RFC 9110 §7.8
        if not self._keep_alive:
            options.append("close")
        if options:
            fields.append(("Connection", ", ".join(options)))
        # An h11 that has read `close`, or HTTP/1.0, would put a line for each option in place of ours.
        writer = self._h11 if self._h11 is not None and self._keep_alive else h11.Connection(h11.SERVER)
        head = writer.send(h11.Response(status_code=status, headers=fields, reason=reason_phrase(status)))
        self._h11 = None
        body = b"" if bodiless or self._is_head else response.body
        if self._keep_alive:
            self._state = _State.READING
            self._is_head = False
        else:
            self._state = _State.ENDED
            self._buffer.clear()
        return head, body

    def switch_protocols(self, headers: Sequence[tuple[str, str]]) -> bytes:
        """Return the bytes of a 101 answer to the request last returned (RFC 9110 §15.2.2).

        From then on the stream is another protocol's; `trailing_data` is its beginning.

        Args:
            headers: all fields of the answer, Upgrade and Connection included, as `accept_headers` made them.

        Raises:
            RuntimeError: no request waits for an answer.
            ValueError: the request asked for no upgrade, or a field is not legal.
        """
        if self._h11 is None or self._state is not _State.PENDING:
            raise RuntimeError("no request waits for an answer")
        if not self._may_switch:
            raise ValueError("the request asked for no upgrade")
        # Written here and not by h11, whose state machine takes as long for it as for parsing the request.
        check_fields(headers, owned=frozenset())
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
        self._h11 = None
        self._state = _State.ENDED
        self._keep_alive = False
        return b"HTTP/1.1 101 Switching Protocols\r\n" + fields.encode("ascii") + b"\r\n"

    def _take_head(self) -> bytes | None:
        """Cut one head off the buffer, its empty line included; None while it is incomplete.

        Where several things are wrong, the one whose last byte came first decides, so that the verdict is the
        same for every cutting of the stream.
        """
        buffer = self._buffer
        if not self._scanned:
            # RFC 9112 §2.2: a server should skip one empty line before a request line.
            if buffer[0] == _CR and not self._skipped_empty_line:
                if len(buffer) == 1:
                    return None
                if buffer[1] == _LF:
                    self._skipped_empty_line = True
                    del buffer[:2]
                    if not buffer:
                        return None
            if buffer[0] not in _METHOD_STARTS:  # such as a TLS ClientHello
                raise HandshakeError(400, "This is not an HTTP request.")
        limit = self._limits.max_head_size
        # The longest thing that we look for has four bytes; three of them may have been there before.
        start = max(0, self._scanned - 3)
        end = buffer.find(_END_OF_HEAD, start, limit)
        stop = end + 4 if end >= 0 else min(len(buffer), limit)
        fault = FAULT.search(buffer, start, stop)
        overrun = _target_overrun(buffer, stop) if stop > MAX_TARGET_SIZE else -1
        self._is_head = buffer.startswith(b"HEAD ")
        if fault is not None and not 0 <= overrun < fault.end() - 1:
            raise HandshakeError(400, "The request head has a control character, a bare line end or a folded line.")
        if overrun >= 0:
            raise HandshakeError(414, "The request target is too long.")
        if end < 0:
            if stop == limit:
                raise HandshakeError(431, "The request head is too long.")
            self._scanned = stop
            return None
        head = bytes(buffer[:stop])
        del buffer[:stop]
        self._scanned = 0
        self._skipped_empty_line = False
        return head

    def _parse(self, head: bytes) -> Request:
        if head.count(b"\r\n") - 2 > self._limits.max_header_count:
            raise HandshakeError(431, "The request head has too many fields.")
        self._h11 = h11.Connection(h11.SERVER)
        self._h11.receive_data(head)
        try:
            event = cast("h11.Request", self._h11.next_event())  # the head is whole: h11 returns it or raises
        except h11.RemoteProtocolError as exc:
            # From None: h11's message quotes the peer.
            if exc.error_status_hint == 501 and not _CONTENT_LENGTH_LINE.search(head):
                raise HandshakeError(501, "This transfer coding is not implemented.") from None
            raise HandshakeError(400, "The request head is malformed.") from None
        version = _VERSIONS.get(event.http_version)
        if version is None:
            raise HandshakeError(505, "This server speaks HTTP/1.1.")
        method = _METHODS.get(event.method)
        if method is None:
            raise HandshakeError(501, "This method is not implemented.")
        headers = Headers.of_block(
            [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers.raw_items()],
            head[head.index(b"\r\n") + 2 : -2],
        )
        _check_body(version, headers, head)
        target = event.target.decode("ascii")
        path, query, authority = _split_target(method, target)
        _check_hosts(target, authority, headers.get("host"))
        if (expect := headers.get("expect")) is not None and set(list_elements(expect)) != {"100-continue"}:
            raise HandshakeError(417, "This expectation cannot be met.")  # RFC 9110 §10.1.1
        self._may_switch = "upgrade" in headers
        # h11's own rule, which it holds our answers to: HTTP/1.0 is never kept alive.
        self._keep_alive = version == "1.1" and "close" not in list_elements(headers.get("connection", ""))
        return Request(method, target, path, query, headers, version, self._client, self._secure)


def _target_overrun(buffer: bytearray, stop: int) -> int:
    """Return where the request target has its first byte too many, before `stop`; -1 where it has none."""
    space = buffer.find(b" ", 0, stop)
    last = space + 1 + MAX_TARGET_SIZE
    if space < 0 or last >= stop:
        return -1
    if buffer.find(b"\r", 0, last + 1) >= 0 or buffer.find(b" ", space + 1, last + 1) >= 0:
        return -1
    return last


def _check_hosts(target: str, authority: str | None, host: str | None) -> None:
    """Check the host in an absolute target and the Host field.

    RFC 9112 §3.2.2: the target would decide. Stricter: a client sends the same in both (§3.2), and whoever sends
    something else hopes that a proxy before us looks at the other one.
    """
    named = [parse_authority(name) for name in (authority, host) if name is not None]
    if None in named:
        raise HandshakeError(400, "The host of the request is malformed.")
    default = 443 if target[:5].lower() == "https" or target[:3].lower() == "wss" else 80
    if len({(name, default if port is None else port) for name, port in filter(None, named)}) == 2:
        raise HandshakeError(400, "The target and the Host field name different hosts.")


def _check_body(version: str, headers: Headers, head: bytes) -> None:
    """Refuse a request with a body: nothing here takes one, and it would be read as what follows the head."""
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None and (length is not None or version == "1.0"):
        # RFC 9112 §6.1: signs of request smuggling.
        raise HandshakeError(400, "The length of the request body is ambiguous.")
    if length is not None and (len(said := _CONTENT_LENGTH_LINE.findall(head)) > 1 or b"," in said[0]):
        # RFC 9110 §8.6 allows a length that is said twice; stricter, as nginx is, and h11 is not.
        raise HandshakeError(400, "The length of the request body is said more than once.")
    if coding is None and (length is None or int(length) == 0):
        return
    if "upgrade" in headers:
        raise HandshakeError(400, "A request to switch protocols may not have a body.")
    raise HandshakeError(413, "This server takes no request bodies.")


def _split_target(method: str, target: str) -> tuple[str, str, str | None]:
    """Split a target into the decoded path, the raw query, and the authority of the absolute form.

    RFC 9112 §3.2: the origin form and the absolute form are taken. The others belong to CONNECT, which is for
    proxies, and to `OPTIONS *`.
    """
    authority = None
    rest = target
    if not target.startswith("/"):
        match = ABSOLUTE_FORM.fullmatch(target)
        if match is None:
            raise HandshakeError(400, "The request target must be a path or an absolute HTTP address.")
        authority = match[1]
        rest = match[2] if match[2].startswith("/") else f"/{match[2]}"
    if method == "CONNECT" or "#" in rest:
        raise HandshakeError(400, "The request target is malformed.")
    path, _, query = rest.partition("?")
    if query.count("&") >= MAX_QUERY_FIELDS:
        raise HandshakeError(400, "The query has too many fields.")
    if "%" in path:
        path = _percent_decode(path)
    return path, query, authority


def _percent_decode(path: str) -> str:
    """Decode a path. Stricter than RFC 3986: no control characters, which only attacks on logs need."""
    if not _BROKEN_ESCAPE.search(path):
        try:
            decoded = unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            if _CONTROL.search(decoded):
                raise HandshakeError(400, "The path of the request has a control character.")
            return decoded
    raise HandshakeError(400, "The path of the request is not percent-encoded UTF-8.")
