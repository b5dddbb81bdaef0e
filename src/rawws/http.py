"""HTTP/1.1 request heads and plain answers (RFC 9110, RFC 9112), by h11, without I/O.

Facts: nothing that rawws serves takes a request body, so a request is its head. A head is cut out of the
stream here, and h11 is fed exactly one whole head at a time, by a fresh `h11.Connection` for each: what
follows a head (pipelined requests, the first WebSocket frames) stays in our buffer, whose size the driver can
read. Before h11 sees a head it is held to what RFC 9112 says and h11 forgives: CRLF line ends, no folding, no
control characters, a size, a number of fields. The verdict depends on the bytes alone, never on how they were
cut into reads, and no answer quotes a byte of the peer.

Cost: one search for the end and one for forbidden bytes, each byte looked at once whatever the size of the
reads; h11's parser takes most of the rest. This module knows no sockets, clocks, routes or WebSocket rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast, final, overload
from urllib.parse import parse_qs, unquote_to_bytes

import h11

from rawws.errors import HandshakeError

if TYPE_CHECKING:
    from rawws.limits import Limits

__all__ = [
    "MAX_QUERY_FIELDS",
    "MAX_TARGET_SIZE",
    "Address",
    "Headers",
    "Request",
    "RequestReader",
    "Response",
    "check_fields",
    "has_clean_lines",
    "is_token",
    "list_elements",
    "parse_authority",
    "reason_phrase",
    "token_list",
]

Address: TypeAlias = tuple[str, int] | str | None
"""A peer: host and port, the path of a Unix socket, or None where the transport has no addresses."""

MAX_TARGET_SIZE: Final = 8 * 1024
"""Bytes of a request target; beyond: 414 (RFC 9112 §3 asks for 8000 at least; Apache's LimitRequestLine)."""

MAX_QUERY_FIELDS: Final = 1000
"""Fields of a query, counted by their `&`; beyond: 400 (Django's DATA_UPLOAD_MAX_NUMBER_FIELDS)."""

_T = TypeVar("_T")

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_OUR_VALUE: Final = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")  # RFC 9110 §5.5 without obs-text
# RFC 9110 §9
# From what h11 yields to the one object that all requests share.
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE")
}
_VERSIONS: Final = {b"1.0": "1.0", b"1.1": "1.1"}
_FRAMING_FIELDS: Final = frozenset({"connection", "content-length", "date", "transfer-encoding"})

_CR: Final = 0x0D
_LF: Final = 0x0A
_END_OF_HEAD: Final = b"\r\n\r\n"
_METHOD_STARTS: Final = frozenset(code for code in range(0x80) if _TOKEN.fullmatch(chr(code)))

# A control character; a CR without LF; a LF without CR; a line that begins with white space. The pattern
# starts with one character class, so that sre skips ordinary text at full speed. It also keeps h11's header
# regex from its quadratic case, a run of spaces before a byte that matches nothing.
_FAULT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f](?:(?<![\r\n])|(?<=\r)[^\n]|(?<=\n)(?<!\r\n)|(?<=\r\n)[ \t])")
_CONTENT_LENGTH_LINE: Final = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)

_ABSOLUTE_FORM: Final = re.compile(r"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"([-.~_0-9A-Za-z]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# The names of RFC 9110 §15, where the standard library's differ from one Python to the next.
_REASONS: Final = {
    **{status.value: status.phrase.encode("ascii") for status in HTTPStatus},
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    422: b"Unprocessable Content",
}
_REASON_CLASSES: Final = {2: b"Success", 3: b"Redirection", 4: b"Client Error", 5: b"Server Error"}


def reason_phrase(status: int) -> bytes:
    """Return the reason phrase of a final status code, 200 to 599, from a constant table (RFC 9110 §15)."""
    return _REASONS.get(status) or _REASON_CLASSES[status // 100]


def check_fields(headers: Iterable[tuple[str, str]], *, owned: frozenset[str]) -> None:
    """Check header fields of an answer: tokens as names, printable ASCII as values (RFC 9110 §5).

    Args:
        headers: names and values.
        owned: names in lower case that the caller may not set, because rawws does.

    Raises:
        ValueError: a name is not a token or is owned; a value has a control character, a character beyond
            ASCII, or white space at an end. The message does not quote the value.
    """
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header field")
        if name.lower() in owned:
            raise ValueError(f"rawws sets the header field {name} itself")
        if not _OUR_VALUE.fullmatch(value):
            raise ValueError(f"the value of the header field {name} is not printable ASCII")


def has_clean_lines(head: bytes) -> bool:
    """Tell whether a head has only lines that end with CR LF, none folded, and no control character in them."""
    return _FAULT.search(head) is None


def is_token(value: str) -> bool:
    """Tell whether this is a token (RFC 9110 §5.6.2), as the names of fields, methods and subprotocols are."""
    return _TOKEN.fullmatch(value) is not None


def list_elements(value: str) -> list[str]:
    """Split a comma-separated field value in lower case, without empty elements (RFC 9110 §5.6.1)."""
    return [element for part in value.lower().split(",") if (element := part.strip(" \t"))]


def token_list(value: str) -> tuple[str, ...]:
    """Split a comma-separated list of tokens, in order, in their own case, without empty elements.

    Raises:
        HandshakeError: 400, an element is not a token (RFC 9110 §5.6.2).
    """
    tokens = tuple(element for part in value.split(",") if (element := part.strip(" \t")))
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            raise HandshakeError(400, "A header field that lists tokens holds something else.")
    return tokens


def parse_authority(authority: str) -> tuple[str, int | None] | None:
    """Split `host` or `host:port` into the host in lower case and the port, None where there is none.

    A host is a domain name, an IPv4 address or an IPv6 address in brackets (RFC 3986 §3.2.2). Stricter than
    its `reg-name`: no percent-encoding and no sub-delims, which no name that a browser resolves has, and no
    user information (RFC 9110 §4.2.4). Returns None for anything else.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    host, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and port > 0xFFFF:
        return None
    if host[0] == "[":
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return None
    return host.lower(), port


@final
class Headers(Mapping[str, str]):
    """The header fields of a message, an immutable multi-map whose names are compared without case.

    `headers[name]` joins the values of repeated fields with ", " (RFC 9110 §5.3); `get_all` keeps them apart.
    Iteration gives each name once, in lower case, in the order of first appearance. Values are decoded as
    latin-1, so that every byte of the peer survives (RFC 9110 §5.5).

    Args:
        fields: names and values, in order.
    """

    __slots__ = ("_block", "_fields", "_merged")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: tuple[tuple[str, str], ...] | None = tuple(fields)
        self._merged: dict[str, str] | None = None
        self._block: bytes | None = None

    @classmethod
    def of_block(cls, fields: Iterable[tuple[str, str]], block: bytes) -> Headers:
        """Make the fields of a head that arrived as `block`: its lines after the first, each with its CR LF."""
        headers = cls(fields)
        headers._block = block
        return headers

    def compact(self) -> None:
        """Keep nothing but the bytes of the head until somebody asks again: a fifth of the memory."""
        if self._block is not None:
            self._fields = self._merged = None

    @property
    def raw(self) -> tuple[tuple[str, str], ...]:
        """Names and values as they came, in order."""
        fields = self._fields
        if fields is None:
            assert self._block is not None
            # The block was judged when it came: each line has a colon, and none is folded.
            lines = self._block.decode("latin-1").split("\r\n")
            split = (line.partition(":") for line in lines if line)
            fields = self._fields = tuple((name, value.strip(" \t")) for name, _, value in split)
        return fields

    def _by_name(self) -> dict[str, str]:
        merged = self._merged
        if merged is None:
            merged = self._merged = {}
            for name, value in self.raw:
                key = name.lower()
                merged[key] = f"{merged[key]}, {value}" if key in merged else value
        return merged

    def __getitem__(self, name: str) -> str:
        return self._by_name()[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name()

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    def __repr__(self) -> str:
        return f"Headers({list(self.raw)!r})"

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: _T, /) -> str | _T: ...
    def get(self, name: str, default: object = None, /) -> object:
        """Return the merged value of a field, or `default`."""
        return self._by_name().get(name.lower(), default)

    def items(self) -> ItemsView[str, str]:
        """Return the names in lower case with their merged values."""
        return self._by_name().items()

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return the values of all fields of this name, in order; empty where there is none."""
        key = name.lower()
        return tuple(value for field, value in self.raw if field.lower() == key)


@final
@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request."""

    method: str
    """Such as `GET`; one of the methods of RFC 9110 §9."""
    target: str
    """The request target as it was sent (RFC 9112 §3.2)."""
    path: str
    """The path of the target, percent-decoded, without control characters; begins with `/`."""
    query: str
    """The query of the target as it was sent, without the `?`; empty where there is none."""
    headers: Headers
    http_version: str = "1.1"
    """`1.0` or `1.1`."""
    client: Address = None
    """The peer's address."""
    secure: bool = False
    """Whether the bytes came through TLS that ended in this process."""

    @property
    def host(self) -> str:
        """The authority that the client asked: of an absolute target, else of the Host field (RFC 9112 §3.3).

        Where there are both they are the same.

        Empty for an HTTP/1.0 request that names none.
        """
        if not self.target.startswith("/") and (match := _ABSOLUTE_FORM.fullmatch(self.target)):
            return match[1]
        return self.headers.get("host", "")

    @property
    def origin(self) -> str | None:
        """The Origin field (RFC 6454 §7), None where there is none."""
        return self.headers.get("origin")

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order of preference (RFC 6455 §11.3.4).

        Raises:
            HandshakeError: 400, an offer is not a token or is repeated. A request that has passed
                `check_upgrade` never raises.
        """
        value = self.headers.get("sec-websocket-protocol")
        if value is None:
            return ()
        offers = token_list(value)
        if len(set(offers)) != len(offers):
            raise HandshakeError(400, "A subprotocol is offered twice.")
        return offers

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The query as an HTML form would have sent it: each name with its values, blank ones included."""
        return parse_qs(self.query, keep_blank_values=True)


@final
@dataclass(frozen=True, slots=True)
class Response:
    """A plain answer, with its whole body.

    Raises:
        ValueError: the status is not final, or a header field is not legal or one that `RequestReader`
            sets: Connection, Content-Length, Date, Transfer-Encoding.
    """

    status: int
    """The status code, 200 to 599."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    """The body that a GET gets; `RequestReader.respond` withholds it where HTTP forbids one."""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"{self.status} is not a final status code")
        check_fields(self.headers, owned=_FRAMING_FIELDS)

    @classmethod
    def text(cls, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
        """Return a short answer in plain text, `message` and a newline."""
        kind = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
        return cls(status, (*kind, *headers), f"{message}\n".encode())


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

    The driver calls `feed` with what it read, then `next_request` until it returns None, and `respond` or
    `switch_protocols` once for each request; while a request waits for its answer it should not read. With
    `next_request` called after each `feed`, `buffered` stays below the head limit plus one read.

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
        """Return the bytes of an answer: to the request last returned, to the error last raised, or unasked.

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
        if any(name.lower() == "upgrade" for name, _ in response.headers):
            fields.append(("Connection", "upgrade"))  # RFC 9110 §7.8
        if not self._keep_alive:
            fields.append(("Connection", "close"))
        writer = self._h11 or h11.Connection(h11.SERVER)
        head = writer.send(h11.Response(status_code=status, headers=fields, reason=reason_phrase(status)))
        self._h11 = None
        body = b"" if bodiless or self._is_head else response.body
        if self._keep_alive:
            self._state = _State.READING
            self._is_head = False
        else:
            self._state = _State.ENDED
            self._buffer.clear()
        return head + body

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
        fault = _FAULT.search(buffer, start, stop)
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
        _check_body(version, headers)
        target = event.target.decode("ascii")
        path, query, authority = _split_target(method, target)
        _check_hosts(authority, headers.get("host"))
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


def _check_hosts(authority: str | None, host: str | None) -> None:
    """Check the host in an absolute target and the Host field.

    RFC 9112 §3.2.2: the target would decide. Stricter: a client sends the same in both (§3.2), and whoever sends
    something else hopes that a proxy before us looks at the other one.
    """
    named = [parse_authority(name) for name in (authority, host) if name is not None]
    if None in named:
        raise HandshakeError(400, "The host of the request is malformed.")
    if len(named) == 2 and named[0] != named[1]:
        raise HandshakeError(400, "The target and the Host field name different hosts.")


def _check_body(version: str, headers: Headers) -> None:
    """Refuse a request with a body: nothing here takes one, and it would be read as what follows the head."""
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None and (length is not None or version == "1.0"):
        # RFC 9112 §6.1: signs of request smuggling.
        raise HandshakeError(400, "The length of the request body is ambiguous.")
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
        match = _ABSOLUTE_FORM.fullmatch(target)
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
            if not _CONTROL.search(decoded):
                return decoded
    raise HandshakeError(400, "The path of the request is not percent-encoded UTF-8.")
