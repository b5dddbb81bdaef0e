"""The opening handshake of RFC 6455 §4.2: from a request to the header fields of its 101, without I/O.

Facts: `check_upgrade` decides by the RFC whether a request opens a WebSocket, `check_origin` by the
same-origin rule whether its page may, `check_host` whether it asks this server at all, `accept_headers`
makes the answer. Field values are latin-1 text of the peer until they have matched a pattern of ASCII, and
nothing here quotes them. A field that must not be repeated needs no counting: repeated fields arrive
joined by ", ", and no legal value of such a field has a comma.

Cost: a few dictionary look-ups and one SHA-1. This module knows no sockets, clocks or routes; `deflate.py`
knows what extension offers mean.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from hashlib import sha1
from typing import TYPE_CHECKING, Final

from rawws.errors import HandshakeError
from rawws.http import check_fields, list_elements, parse_authority

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rawws.http import Request

__all__ = [
    "WEBSOCKET_VERSION",
    "accept_headers",
    "accept_value",
    "canonical_host",
    "canonical_origin",
    "check_host",
    "check_origin",
    "check_upgrade",
    "is_websocket_request",
]

WEBSOCKET_VERSION: Final = "13"
"""The one version of the protocol (RFC 6455 §4.1)."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
# 16 bytes in base64. RFC 4648 §3.5 lets a decoder forgive stray bits in the last digit, and so do we.
_KEY: Final = re.compile(r"[+/0-9A-Za-z]{22}==")
_UPGRADE_FIELDS: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", WEBSOCKET_VERSION))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SCHEME: Final = re.compile(r"[A-Za-z][-+.0-9A-Za-z]*")  # RFC 3986 §3.1
_OWNED_FIELDS: Final = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)
_NOTHING_OWNED: Final[frozenset[str]] = frozenset()


def is_websocket_request(request: Request) -> bool:
    """Tell whether a request wants a WebSocket: an Upgrade field lists `websocket`, in any case."""
    upgrade = request.headers.get("upgrade")
    return upgrade is not None and "websocket" in list_elements(upgrade)


def accept_value(key: str) -> str:
    """Return the Sec-WebSocket-Accept of a Sec-WebSocket-Key (RFC 6455 §4.2.2, step 5.4)."""
    digest = sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode("ascii")


def check_upgrade(request: Request) -> str:
    """Check the client's opening handshake (RFC 6455 §4.2.1) and return the Sec-WebSocket-Accept value.

    The Host field, the HTTP version's digits and the absence of a body have been checked by `RequestReader`.

    Raises:
        HandshakeError: 405 for a method other than GET. 426 for HTTP/1.0, for a request that does not ask for
            a WebSocket, and for another version of the protocol, none included. 400 for a Connection field
            without `upgrade`, a missing, repeated or illegal key, subprotocols that are not tokens or are
            repeated, and extension offers beyond ASCII.
    """
    headers = request.headers
    if request.method != "GET":
        raise HandshakeError(405, "A WebSocket is opened with GET.", (("Allow", "GET"),))
    # RFC 9110 §7.8: a server must ignore the Upgrade field of an HTTP/1.0 request.
    if request.http_version == "1.0" or not is_websocket_request(request):
        raise HandshakeError(426, "This address takes WebSocket connections.", _UPGRADE_FIELDS)
    connection = headers.get("connection", "")
    if not connection.isascii() or "upgrade" not in list_elements(connection):
        raise HandshakeError(400, "The Connection field must list upgrade.")
    version = headers.get("sec-websocket-version", "")
    if version != WEBSOCKET_VERSION:
        if "," in version:  # RFC 6455 §11.3.5: at most once in a request
            raise HandshakeError(400, "There must be one Sec-WebSocket-Version.")
        raise HandshakeError(426, "The WebSocket version must be 13.", _UPGRADE_FIELDS)
    key = headers.get("sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise HandshakeError(400, "There must be one Sec-WebSocket-Key of 16 bytes in base64.")
    if "sec-websocket-protocol" in headers:
        _ = request.subprotocols  # raises
    if not headers.get("sec-websocket-extensions", "").isascii():
        raise HandshakeError(400, "The Sec-WebSocket-Extensions field is malformed.")
    return accept_value(key)


def canonical_origin(origin: str) -> str:
    """Return a serialized origin in the one spelling that browsers send: lower case, no default port.

    Args:
        origin: `scheme://host` or `scheme://host:port` (RFC 6454 §6.2), or `null`.

    Raises:
        ValueError: this is not a serialized origin; a path, even `/`, makes it none.
    """
    if origin == "null":
        return origin
    parts = _split_origin(origin)
    if parts is None:
        raise ValueError("not an origin: it should look like https://example.com or http://localhost:8000")
    scheme, host, port = parts
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS.get(scheme) else f"{scheme}://{host}:{port}"


def canonical_host(host: str) -> str:
    """Return a host, or host and port, in the one spelling that `check_host` compares: lower case.

    Raises:
        ValueError: this is neither.
    """
    parts = parse_authority(host)
    if parts is None:
        raise ValueError("not a host: it should look like example.com, localhost:8000 or [::1]")
    name, port = parts
    return name if port is None else f"{name}:{port}"


def check_host(request: Request, hosts: Collection[str]) -> None:
    """Refuse a request for a host that is not served here, such as a stranger's name that was pointed at us.

    A page whose own name is made to lead here (DNS rebinding) is same-origin with itself, so that its Origin proves
    nothing; its Host gives it away.

    Args:
        request: any request.
        hosts: what is served, spelt as by `canonical_host`; without a port a host is served on every port.

    Raises:
        HandshakeError: 421 (RFC 9110 §15.5.20).
    """
    parts = parse_authority(request.host)
    if parts is not None:
        name, port = parts
        # A proxy may have ended TLS before us, so that either default port may be meant where none is said.
        ports = _DEFAULT_PORTS.values() if port is None else (port,)
        if name in hosts or any(f"{name}:{port}" in hosts for port in ports):
            return
    raise HandshakeError(421, "This host is not served here.")


def check_origin(request: Request, origins: Collection[str] | None) -> None:
    """Refuse a handshake that a page of a foreign origin caused (RFC 6455 §10.2).

    Args:
        request: the handshake. Without an Origin field no browser sent it, and it passes.
        origins: the origin of the server itself always passes: host and port of the Host field, where the
            Origin's scheme gives the default port, since a proxy may have ended TLS before us; only where TLS
            ended here is `http` known to be foreign. A collection lists serialized origins that pass besides,
            `null` among them only if it is meant; with the string `*`, alone or in it, every origin does.

    Raises:
        HandshakeError: 403, the origin is foreign; 400, there is more than one.
        ValueError: `origins` is a string other than `*`.
    """
    if isinstance(origins, str) and origins != "*":
        raise ValueError("origins must be a collection of origins, the string '*' or None")
    origin = request.origin
    if origin is None:
        return
    if "," in origin:
        raise HandshakeError(400, "There must be one Origin.")
    if origins is not None and (origin in origins or "*" in origins or _is_listed(origin, origins)):
        return
    if not _is_own_origin(request, origin):
        raise HandshakeError(403, "Pages of this origin may not connect.")


def accept_headers(
    accept: str,
    *,
    offered: Collection[str] = (),
    subprotocol: str | None = None,
    extensions: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> list[tuple[str, str]]:
    """Return the header fields of the 101 answer (RFC 6455 §4.2.2), for `RequestReader.switch_protocols`.

    Args:
        accept: what `check_upgrade` returned.
        offered: what the client offered, `request.subprotocols`.
        subprotocol: the one chosen of them, or None.
        extensions: the value of Sec-WebSocket-Extensions, or None.
        headers: the application's own fields.

    Raises:
        ValueError: the subprotocol was not offered; a field of the application is not legal or belongs to the
            handshake; the extensions are not printable ASCII.
    """
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
    if subprotocol is not None:
        # RFC 6455 §4.1: a client fails a connection whose server chose what it did not offer.
        if subprotocol not in offered:
            raise ValueError("the client did not offer this subprotocol")
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions is not None:
        fields.append(("Sec-WebSocket-Extensions", extensions))
        check_fields(fields[-1:], owned=_NOTHING_OWNED)
    check_fields(headers, owned=_OWNED_FIELDS)
    fields.extend(headers)
    return fields


def _split_origin(origin: str) -> tuple[str, str, int | None] | None:
    """Split a serialized origin into scheme and host in lower case and the port, by default the scheme's.

    Returns None for `null` and for what is no serialized origin.
    """
    scheme, _, authority = origin.partition("://")
    parts = parse_authority(authority)
    if parts is None or not _SCHEME.fullmatch(scheme):
        return None
    scheme = scheme.lower()
    host, port = parts
    return scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else port


def _is_own_origin(request: Request, origin: str) -> bool:
    parts = _split_origin(origin)
    ours = parse_authority(request.host)
    if parts is None or ours is None:
        return False
    scheme, host, port = parts
    if scheme not in _DEFAULT_PORTS or (request.secure and scheme == "http"):
        return False
    our_port = _DEFAULT_PORTS[scheme] if ours[1] is None else ours[1]
    return host == ours[0] and port == our_port


def _is_listed(origin: str, origins: Collection[str]) -> bool:
    """Compare an origin with a list whatever the spelling of either; the exact ones were found before."""
    wanted = _split_origin(origin)
    return wanted is not None and any(_split_origin(entry) == wanted for entry in origins)
