"""What HTTP/1.1 messages are made of: requests, plain answers, header fields (RFC 9110, RFC 9112), without I/O.

Facts: nothing that rawws serves takes a request body, so a request is its head. Header fields keep every byte of the
peer, as latin-1, and shrink to the bytes that they came as once nobody reads them. Whatever checks text of HTTP, on
either side of a connection, is here once: tokens, lists, authorities, lines, the fields of an answer.

Cost: a dictionary of the fields when the first is looked up. This module knows no sockets, clocks, routes, parsers or
WebSocket rules; `request_reader.py` makes requests of bytes.
"""

from __future__ import annotations

import ipaddress
import re
from binascii import b2a_base64
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias, TypeVar, final, overload
from urllib.parse import parse_qs

from rawws.errors import HandshakeError

__all__ = [
    "ABSOLUTE_FORM",
    "FAULT",
    "Address",
    "HeaderFields",
    "Headers",
    "Request",
    "Response",
    "basic_credentials",
    "check_fields",
    "field_pairs",
    "has_clean_lines",
    "is_token",
    "list_elements",
    "parse_authority",
    "reason_phrase",
    "require_get",
    "token_list",
]

Address: TypeAlias = tuple[str, int] | str | None
"""A peer: host and port, the path of a Unix socket, or None where the transport has no addresses."""

HeaderFields: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header fields that an application gives: a mapping, or names and values, which may repeat a name."""

_T = TypeVar("_T")

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_OUR_VALUE: Final = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")  # RFC 9110 §5.5 without obs-text
_FRAMING_FIELDS: Final = frozenset({"connection", "content-length", "date", "transfer-encoding"})


# A control character; a CR without LF; a LF without CR; a line that begins with white space. The pattern
# starts with one character class, so that sre skips ordinary text at full speed. It also keeps h11's header
# regex from its quadratic case, a run of spaces before a byte that matches nothing.
FAULT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f](?:(?<![\r\n])|(?<=\r)[^\n]|(?<=\n)(?<!\r\n)|(?<=\r\n)[ \t])")

ABSOLUTE_FORM: Final = re.compile(r"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"([-.~_0-9A-Za-z]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")

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


def field_pairs(headers: HeaderFields) -> tuple[tuple[str, str], ...]:
    """Return header fields, given as pairs or as a mapping, as pairs of names and values."""
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)


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


def basic_credentials(user: str, password: str) -> str:
    """Return the value of an Authorization or Proxy-Authorization field (RFC 7617 §2); `user` has no colon."""
    return f"Basic {b2a_base64(f'{user}:{password}'.encode(), newline=False).decode('ascii')}"


def has_clean_lines(head: bytes) -> bool:
    """Tell whether a head has only lines that end with CR LF, none folded, and no control character in them."""
    return FAULT.search(head) is None


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
    """Such as `GET`; one of the methods of RFC 9110 §9, or `PATCH`."""
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
        if not self.target.startswith("/") and (match := ABSOLUTE_FORM.fullmatch(self.target)):
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


def require_get(request: Request) -> None:
    """Refuse every method but GET, and HEAD, which is GET without the body (RFC 9110 §9.3.2).

    Raises:
        HandshakeError: 405.
    """
    if request.method not in ("GET", "HEAD"):
        raise HandshakeError(405, "Only GET and HEAD are allowed here.", (("Allow", "GET, HEAD"),))


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
    def text(cls, status: int, message: str, headers: tuple[tuple[str, str], ...] = (), *, end: str = "\n") -> Response:
        """Return a short answer in plain text, `message` and a newline."""
        kind = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
        return cls(status, (*kind, *headers), f"{message}{end}".encode())
