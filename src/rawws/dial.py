"""From an address to a stream that is ready for the opening handshake: TCP, a proxy, TLS.

Strategy: Trio looks names up and races addresses (RFC 8305), `http_client.py` asks proxies of HTTP for a tunnel,
python-socks those of SOCKS, the standard library does TLS; this module puts one on top of the other and sees that
nothing stays open when one of them fails. What goes wrong on the network is an OSError, whichever of them found it; a
certificate that does not convince is the standard library's own `ssl.SSLCertVerificationError`.

It sets no deadlines: whoever calls does. It does not know what the bytes mean that go to the server.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from ._version import __version__
from .errors import HandshakeFailed
from .http import basic_credentials
from .http_client import Inquiry
from .limits import Limits
from .reconnect import HEALING_STATUSES
from .transport import READ_SIZE
from .uri import split_netloc

if TYPE_CHECKING:
    from python_socks.async_.trio import Proxy as SocksProxy

    from .uri import Uri

__all__ = ["PASSING", "Proxy", "ProxyFailed", "ProxyRefused", "ask", "dial", "open_tunnel", "receive"]

PASSING: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""What TLS raises where the network failed, and not TLS."""

_SOCKS: Final = {
    "socks4": ("SOCKS4", False),
    "socks4a": ("SOCKS4", True),
    "socks5": ("SOCKS5", True),
    "socks5h": ("SOCKS5", True),
}
"""Schemes of SOCKS: python-socks's name, and whether the proxy looks names up."""

_REFUSALS: Final = frozenset({2, 91, 92, 93})
"""Replies of SOCKS proxies that say "not you": SOCKS5's 2 (RFC 1928 §6), and all that SOCKS4 has."""


@final
class ProxyFailed(ConnectionError):
    """A proxy cannot be reached, or does not do what a proxy does."""


@final
class ProxyRefused(PermissionError):
    """A proxy says no, and would say it again."""


@final
class Proxy:
    """A proxy: `http://[user:password@]host:port` (CONNECT), or `socks5://…`, `socks4://…`, `socks4a://…`.

    A SOCKS5 proxy looks the server's name up, a SOCKS4 proxy does not. User and password are said in UTF-8 (RFC 7617
    leaves it to the client, RFC 1929 says nothing of it).

    Raises:
        ImportError: it is one of SOCKS, and python-socks, the extra `rawws[proxy]`, is not installed.
        ValueError: this is no such address, or its kind of proxy cannot be told this user and password. The message
            does not quote it.
    """

    __slots__ = ("_credentials", "_host", "_port", "_socks")

    def __init__(self, address: str) -> None:
        scheme, separator, rest = address.partition("://")
        scheme = scheme.lower()
        if not separator or (scheme != "http" and scheme not in _SOCKS):
            raise ValueError("a proxy's address should begin with http://, socks5:// or socks4://")
        try:
            self._host, port, self._credentials = split_netloc(rest.partition("/")[0])
        except ValueError as exc:
            raise ValueError(f"the proxy cannot be used: {exc}") from None
        if port is None:
            raise ValueError("a proxy's address needs a host and a port")
        self._port = port
        fault = _fault_of(scheme, *self._credentials) if self._credentials is not None else None
        if fault is not None:
            raise ValueError(f"the proxy cannot be used: {fault}")
        self._socks = None if scheme == "http" else self._of_socks(scheme)

    def _of_socks(self, scheme: str) -> SocksProxy:
        try:
            from python_socks import ProxyType
            from python_socks.async_.trio import Proxy as SocksProxy
        except ImportError:
            raise ImportError("a proxy of SOCKS needs python-socks: pip install 'rawws[proxy]'") from None
        name, rdns = _SOCKS[scheme]
        user, password = map(_Octets.of, self._credentials) if self._credentials is not None else (None, None)
        return SocksProxy(ProxyType[name], self._host, self._port, user, password, rdns)

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Connect to a server through the proxy.

        Raises:
            ProxyRefused: the proxy does not let us.
            ProxyFailed: it is the proxy that cannot be reached, or breaks its rules.
            OSError: the server behind it cannot be reached.
        """
        if self._socks is not None:
            return await self._connect_by_socks(self._socks, host, port)
        try:
            stream = await trio.open_tcp_stream(self._host, self._port)
        except OSError as exc:
            raise self._unreachable(exc) from exc
        try:
            await open_tunnel(stream, host, port, self._credentials)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _connect_by_socks(self, proxy: SocksProxy, host: str, port: int) -> trio.SocketStream:
        from python_socks import ProxyConnectionError, ProxyError

        try:
            return trio.SocketStream(await proxy.connect(host, port, timeout=inf))
        except ProxyError as exc:
            code = exc.error_code
            # What goes wrong with authentication has no code there, only these words.
            if code in _REFUSALS or (code is None and "authentication" in str(exc)):
                raise ProxyRefused(f"the proxy does not let us through: {code or exc}") from exc
            raise ConnectionError(f"the proxy does not reach the server ({code or exc})") from exc
        except ProxyConnectionError as exc:
            raise self._unreachable(exc.__cause__) from exc
        except (ConnectionError, UnicodeDecodeError) as exc:
            raise ProxyFailed(f"the proxy does not answer as one of SOCKS: {exc}") from exc

    def _unreachable(self, why: object) -> ProxyFailed:
        return ProxyFailed(f"the proxy {_authority(self._host, self._port)} cannot be reached: {why}")


@final
class _Octets(str):
    """Text for python-socks, which counts characters and takes ASCII alone: a character for each byte of UTF-8."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> _Octets:
        return cls(text.encode(), "latin-1")

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


def _fault_of(scheme: str, user: str, password: str) -> str | None:
    """Return why this kind of proxy cannot be told a user and password, None where it can."""
    if scheme == "http":
        return "its user has a colon, which HTTP cannot say" if ":" in user else None  # RFC 7617 §2
    if scheme.startswith("socks5"):
        if all(1 <= len(text.encode()) <= 255 for text in (user, password)):  # RFC 1929 §2
            return None
        return "to SOCKS5 a user and a password have 1 to 255 bytes each"
    return "SOCKS4 has no password, and no NUL in a user" if password or "\0" in user else None


async def open_tunnel(stream: trio.abc.Stream, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    """Ask a proxy of HTTP to make a stream one to a server (RFC 9110 §9.3.6).

    Raises:
        ProxyRefused: the proxy does not let us.
        ProxyFailed: it breaks HTTP/1.1, or the connection.
        ConnectionError: it does not reach the server.
    """
    authority = _authority(host, port)
    fields = [("Host", authority), ("User-Agent", f"rawws/{__version__}")]
    if credentials is not None:
        fields.append(("Proxy-Authorization", basic_credentials(*credentials)))
    inquiry = Inquiry(authority, fields, Limits(), "CONNECT")
    try:
        await ask(stream, inquiry)
    except (ConnectionError, HandshakeFailed) as exc:
        raise ProxyFailed(str(exc)) from None
    status = inquiry.partial_answer().status
    if 400 <= status < 500 and status not in HEALING_STATUSES:
        raise ProxyRefused(f"the proxy does not let us through: {status}")
    if not inquiry.granted:
        raise ConnectionError(f"the proxy does not reach the server ({status})")
    if inquiry.trailing_data:  # TLS and HTTP begin with the client, so the server has not said it
        raise ProxyFailed("the proxy sends more than its answer")


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def ask(stream: trio.abc.Stream, inquiry: Inquiry) -> None:
    """Send a request, and feed its answer until the head of that is there.

    Raises:
        OSError: the connection ended before.
        HandshakeFailed: this is no HTTP/1.1.
    """
    with suppress(trio.BrokenResourceError):  # who refuses everybody may not read what we ask
        await stream.send_all(inquiry.request)
    while inquiry.next_answer() is None and not inquiry.has_head:
        data = await receive(stream)
        if not data:
            raise ConnectionError(f"{inquiry.peer} ended the connection before it answered")
        inquiry.feed(data)


async def receive(stream: trio.abc.Stream) -> bytes:
    """Read; a broken connection has come to its end.

    Raises:
        ssl.SSLError: TLS failed: a server of TLS 1.3 judges our certificate after our handshake (RFC 8446 §4.4.2.4).
    """
    try:
        return bytes(await stream.receive_some(READ_SIZE))
    except trio.BrokenResourceError as exc:
        if isinstance(exc.__cause__, ssl.SSLError) and not isinstance(exc.__cause__, PASSING):
            raise exc.__cause__ from None
        return b""


@cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads the system's certificates, which takes some hundredths of a second


async def dial(
    uri: Uri, *, ssl_context: ssl.SSLContext | None, proxy: Proxy | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect to the server of an address, its TLS handshake included.

    Raises:
        OSError: it cannot be reached, or ends the connection; `ssl.SSLError` is one: TLS fails.
    """
    if proxy is None:
        stream = await trio.open_tcp_stream(uri.host, uri.port)
    else:
        stream = await proxy.connect(uri.host, uri.port)
    if not uri.secure:
        return stream
    context = _default_context() if ssl_context is None else ssl_context
    # Many servers end TCP without close_notify; a WebSocket's end is its Close frame.
    secure = trio.SSLStream(stream, context, server_hostname=uri.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as exc:
        await trio.aclose_forcefully(secure)
        if isinstance(exc.__cause__, ssl.SSLError):
            raise exc.__cause__ from None
        raise ConnectionError("the server ended the connection during the TLS handshake") from exc
    except BaseException:
        await trio.aclose_forcefully(secure)
        raise
    return secure
