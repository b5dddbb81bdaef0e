"""The opening handshake of RFC 6455 §4.1, the client's side: the request, and what its answer must say, without I/O.

Facts: `Opening` is one attempt at one address with a key of its own. It says what to send, judges the 101 (the
Sec-WebSocket-Accept of our key, no subprotocol and no extension but what was offered), and makes of a redirect the
next attempt: to the same origin with everything, to another one without what would prove to it who we are. Field
values are latin-1 text of the server until they have matched what was expected, and no message quotes them.

What an application asks for is checked once, before anything is dialled, in `Wishes`. This module knows no sockets
and no clock; `http_client.py` knows bytes, `deflate.py` what extensions mean.
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final
from urllib.parse import unquote

from ._version import __version__
from .deflate import confirm, offer
from .errors import HandshakeFailed, HandshakeRejected
from .handshake import WEBSOCKET_VERSION, accept_value, canonical_origin
from .http import Headers, Request, basic_credentials, check_fields, is_token, list_elements

if TYPE_CHECKING:
    from .deflate import DeflateOptions, DeflateParameters
    from .http_client import Answer
    from .uri import Uri

__all__ = ["MAX_REDIRECTS", "Opening", "Wishes"]

MAX_REDIRECTS: Final = 10
"""Redirects that one connection follows; browsers follow 20, curl's default is 50, most chains have one or two."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_OWNED_FIELDS: Final = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "origin",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


@final
@dataclass(frozen=True, slots=True)
class Wishes:
    """What an application asks of a handshake, besides the address.

    Raises:
        ValueError: a header field is not legal or one that rawws sets; a subprotocol is not a token or repeated; the
            origin is none.
    """

    headers: tuple[tuple[str, str], ...] = ()
    """Further header fields of the request."""
    subprotocols: tuple[str, ...] = ()
    """In the order of preference."""
    origin: str | None = None
    compression: DeflateOptions | None = None
    """What to offer of permessage-deflate; None offers nothing."""

    def __post_init__(self) -> None:
        check_fields(self.headers, owned=_OWNED_FIELDS)
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise ValueError(f"{subprotocol!r} is not the name of a subprotocol")
        if len(set(self.subprotocols)) != len(self.subprotocols):
            raise ValueError("a subprotocol is offered twice")
        if self.origin is not None:
            canonical_origin(self.origin)

    def has(self, name: str) -> bool:
        """Whether the application sets this field itself; `name` is in lower case."""
        return any(field.lower() == name for field, _ in self.headers)


@final
class Opening:
    """One attempt at opening a WebSocket.

    Args:
        uri: where.
        wishes: what to ask for.
        redirects: how many redirects led here.
        key: the Sec-WebSocket-Key, 16 bytes in base64; by default fresh ones from the system's randomness.

    Attributes:
        uri: where the attempt goes.
        request: its request, as `WebSocket.request` has it.
    """

    __slots__ = ("_key", "_redirects", "_wishes", "request", "uri")

    def __init__(self, uri: Uri, wishes: Wishes, redirects: int = 0, *, key: str | None = None) -> None:
        self.uri = uri
        self._wishes = wishes
        self._redirects = redirects
        self._key = b2a_base64(os.urandom(16), newline=False).decode("ascii") if key is None else key
        path, _, query = uri.target.partition("?")
        self.request = Request("GET", uri.target, unquote(path), query, Headers(self._fields()), secure=uri.secure)

    def _fields(self) -> list[tuple[str, str]]:
        wishes = self._wishes
        fields = [
            ("Host", self.uri.authority),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", WEBSOCKET_VERSION),
        ]
        if wishes.origin is not None:
            fields.append(("Origin", wishes.origin))
        if wishes.subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(wishes.subprotocols)))
        if wishes.compression is not None:
            fields.append(("Sec-WebSocket-Extensions", offer(wishes.compression)))
        if self.uri.credentials is not None and not wishes.has("authorization"):
            fields.append(("Authorization", basic_credentials(*self.uri.credentials)))
        if not wishes.has("user-agent"):
            fields.append(("User-Agent", f"rawws/{__version__}"))
        fields.extend(wishes.headers)
        return fields

    def agree(self, answer: Answer) -> tuple[str | None, DeflateParameters | None]:
        """Check a 101 (RFC 6455 §4.1) and return the subprotocol and what was agreed of permessage-deflate.

        Raises:
            HandshakeFailed: the answer does not fit the request.
        """
        headers = answer.headers
        if headers.get("upgrade", "").lower() != "websocket":
            raise HandshakeFailed("the server's answer does not upgrade to websocket")
        if "upgrade" not in list_elements(headers.get("connection", "")):
            raise HandshakeFailed("the server's answer has no Connection field that lists upgrade")
        if headers.get("sec-websocket-accept") != accept_value(self._key):
            raise HandshakeFailed("the Sec-WebSocket-Accept of the server's answer is missing or wrong")
        subprotocol = headers.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self._wishes.subprotocols:
            raise HandshakeFailed("the server chose a subprotocol that was not offered")
        extensions = headers.get_all("sec-websocket-extensions")
        if not extensions:
            return subprotocol, None
        if self._wishes.compression is None:
            raise HandshakeFailed("the server accepted an extension that was not offered")
        try:
            return subprotocol, confirm(extensions, self._wishes.compression)
        except ValueError as exc:
            raise HandshakeFailed(str(exc)) from None

    def follow(self, answer: Answer) -> Opening:
        """Return the next attempt, where a final answer leads to one.

        A redirect is followed to wherever it leads but from TLS to plain text (RFC 6455 §4.1 leaves it to the client).
        To another origin goes no Authorization, no Cookie and no Proxy-Authorization, and none that was left behind
        comes back later.

        Raises:
            HandshakeRejected: it is no redirect, or one that is not followed.
        """
        location = answer.headers.get("location")
        if answer.status not in _REDIRECTS or location is None:
            raise _rejected(answer)
        if self._redirects == MAX_REDIRECTS:
            raise _rejected(answer, f"more than {MAX_REDIRECTS} redirects")
        try:
            uri = self.uri.redirected(location)
        except ValueError as exc:
            raise _rejected(answer, f"the redirect is not followed: {exc}") from None
        wishes = self._wishes
        if uri.origin != self.uri.origin:
            kept = tuple((name, value) for name, value in wishes.headers if name.lower() not in _CREDENTIALS)
            wishes = replace(wishes, headers=kept)
        return Opening(uri, wishes, self._redirects + 1)


def _rejected(answer: Answer, reason: str = "") -> HandshakeRejected:
    return HandshakeRejected(answer.status, answer.headers, answer.body, reason)
