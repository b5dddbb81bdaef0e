"""WebSocket URIs (RFC 6455 §3): what to dial, what to ask for, and where a redirect may lead.

Facts: a `Uri` is what is left of an address once everything about it is decided: host and port to dial, the Host
field, the request target in ASCII, the user and password that stood in it. International names become IDNA, paths
and queries are percent-encoded where they were not. What no browser would take (control characters, spaces around
it, a fragment) is an error, not a guess: an address that is read in two ways is how requests go astray.

`http` and `https` are taken for `ws` and `wss`, as WHATWG's URL rules for WebSockets have it, so that a redirect's
Location reads as any other address.

This module knows no sockets, headers or clocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, final
from urllib.parse import quote, unquote, urljoin, urlsplit

from .http import parse_authority

__all__ = ["Uri", "parse_uri", "split_netloc"]

_SECURE: Final = {"ws": False, "http": False, "wss": True, "https": True}
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RESERVED_AND_ESCAPES: Final = "/?:@!$&'()*+,;=~%"  # RFC 3986 §3.3, §3.4


@final
@dataclass(frozen=True, slots=True)
class Uri:
    """The address of a WebSocket."""

    secure: bool
    """Whether it is `wss`."""
    host: str
    """A name or an address to dial, in ASCII and lower case, an IPv6 address without its brackets."""
    port: int
    target: str
    """The request target: path and query, percent-encoded (RFC 6455 §3, "resource-name")."""
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    """User and password, decoded."""

    @property
    def authority(self) -> str:
        """The Host field: the host, and the port unless it is the scheme's (RFC 6455 §4.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.secure) else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What two addresses must share to be trusted with the same credentials (RFC 6454 §4)."""
        return self.secure, self.host, self.port

    def __str__(self) -> str:
        """The address without user and password, to be shown."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.target}"

    def redirected(self, location: str) -> Uri:
        """Follow a Location field (RFC 9110 §10.2.2); a fragment in it, and a user, are nothing to us.

        Credentials stay where the origin stays the same, and are lost for good where it does not.

        Raises:
            ValueError: it is no address of a WebSocket, or leads from TLS to plain text.
        """
        if _FORBIDDEN.search(location):  # the standard library would forgive some of it
            raise ValueError("the address holds white space, a control character or a backslash")
        # `urljoin` knows what to do with schemes of the web; the result says the same for ours.
        base = f"{'https' if self.secure else 'http'}://{self.authority}{self.target}"
        try:
            address = urljoin(base, location.partition("#")[0])
        except ValueError:
            raise ValueError("the address has a malformed host") from None
        uri = parse_uri(address)
        if self.secure and not uri.secure:
            raise ValueError("it leads from TLS to plain text")
        return replace(uri, credentials=self.credentials if uri.origin == self.origin else None)


def parse_uri(address: str) -> Uri:
    """Parse an address such as `wss://user:password@example.com/path?query`.

    Raises:
        ValueError: it is not the address of a WebSocket. The message does not quote it, for it may hold a password.
    """
    if _FORBIDDEN.search(address):
        raise ValueError("the address holds white space, a control character or a backslash")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise ValueError("the address has a malformed host") from None
    secure = _SECURE.get(parts.scheme)
    if secure is None:
        raise ValueError("the address should begin with ws:// or wss://")
    if "#" in address:
        raise ValueError("the address of a WebSocket has no fragment")  # RFC 6455 §3
    host, port, credentials = split_netloc(parts.netloc)
    if credentials is not None and ":" in credentials[0]:
        raise ValueError("the user in the address has a colon, which HTTP cannot say")  # RFC 7617 §2
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    if _BROKEN_ESCAPE.search(target):
        raise ValueError("the address has a % without two hexadecimal digits")
    return Uri(
        secure,
        host,
        _default_port(secure) if port is None else port,
        quote(target, safe=_RESERVED_AND_ESCAPES),
        credentials,
    )


def split_netloc(netloc: str) -> tuple[str, int | None, tuple[str, str] | None]:
    """Split `user:password@host:port` into host, port and credentials, as `Uri` has them; None where there are none.

    Raises:
        ValueError: it is malformed. The message does not quote it.
    """
    userinfo, at, authority = netloc.rpartition("@")
    split = parse_authority(authority if authority.isascii() else _in_ascii(authority))
    if split is None:
        raise ValueError("the address has no host, or a malformed one")
    host, port = split
    if not _can_be_looked_up(host):
        raise ValueError("the host in the address has a part that is empty or too long, or is too long itself")
    if port == 0:
        raise ValueError("the address has the port 0")
    return host.strip("[]"), port, _split_userinfo(userinfo) if at else None


def _default_port(secure: bool) -> int:
    return 443 if secure else 80


def _can_be_looked_up(host: str) -> bool:
    """Tell whether DNS can hold a name (RFC 1035 §2.3.4); the lookup itself would not raise an OSError."""
    name = host.removesuffix(".")
    return len(name) <= 253 and all(1 <= len(label) <= 63 for label in name.split("."))


def _in_ascii(authority: str) -> str:
    """Put an international domain name into the spelling that DNS knows (UTS #46, as browsers do)."""
    import idna  # seldom needed, and slow to import

    host, colon, port = authority.partition(":")
    try:
        return idna.encode(host, uts46=True).decode("ascii") + colon + port
    except idna.IDNAError:
        return ""


def _split_userinfo(userinfo: str) -> tuple[str, str]:
    user, _, password = userinfo.partition(":")
    try:
        return unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the user or password in the address is not percent-encoded UTF-8") from None
