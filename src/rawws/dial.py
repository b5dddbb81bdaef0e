"""From an address to a stream that is ready for the opening handshake: TCP, a proxy, TLS.

Strategy: Trio looks names up and races addresses (RFC 8305), python-socks talks to proxies, the standard library
does TLS; this module puts one on top of the other and sees that nothing stays open when one of them fails. What goes
wrong on the network is an OSError, whichever of them found it; a certificate that does not convince is the standard
library's own `ssl.SSLCertVerificationError`.

It sets no deadlines: whoever calls does. It does not know what the bytes mean.
"""

from __future__ import annotations

import ssl
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from python_socks.async_.trio import Proxy as _Proxy

    from .uri import Uri

__all__ = ["Proxy", "dial"]

_SCHEMES: Final = {
    "http": ("http", False),
    "socks4": ("socks4", False),
    "socks4a": ("socks4", True),
    "socks5": ("socks5", True),
    "socks5h": ("socks5", True),
}
"""Schemes of proxies: python-socks's name, and whether the proxy looks names up."""

_REFUSALS: Final = frozenset({401, 403, 407})
"""Statuses of an HTTP proxy that say "not you"."""


@final
class Proxy:
    """A proxy: `http://[user:password@]host:port` (CONNECT), or `socks5://…`, `socks4://…`, `socks4a://…`.

    A SOCKS5 proxy looks the server's name up, a SOCKS4 proxy does not.

    Raises:
        ImportError: python-socks, the extra `rawws[proxy]`, is not installed.
        ValueError: this is no such address. The message does not quote it.
    """

    __slots__ = ("_proxy",)

    def __init__(self, address: str) -> None:
        try:
            from python_socks.async_.trio import Proxy
        except ImportError:
            raise ImportError("a proxy needs python-socks: pip install 'rawws[proxy]'") from None

        scheme, separator, rest = address.partition("://")
        if not separator or scheme.lower() not in _SCHEMES:
            raise ValueError("a proxy's address should begin with http://, socks5:// or socks4://")
        known, rdns = _SCHEMES[scheme.lower()]
        try:
            self._proxy: _Proxy = Proxy.from_url(f"{known}://{rest}", rdns=rdns)
        except ValueError:
            raise ValueError("a proxy's address needs a host and a port") from None

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Connect to a server through the proxy.

        Raises:
            PermissionError: the proxy does not let us.
            OSError: the proxy, or the server behind it, cannot be reached.
        """
        from python_socks import ProxyError

        try:
            return trio.SocketStream(await self._proxy.connect(host, port, timeout=inf))
        except ProxyError as exc:
            code = exc.error_code
            if code in _REFUSALS:
                raise PermissionError(f"the proxy does not let us through: {code}") from exc
            raise ConnectionError(f"the proxy does not reach the server ({code or 'no reason'})") from exc


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
