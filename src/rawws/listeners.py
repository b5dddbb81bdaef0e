"""Opening what a server listens on, and asking sockets for their addresses.

Rules: a bind error leaves bare, and leaves nothing open; a port that the system chose is the same on every address of
a name. It knows TCP and TLS, and nothing of what is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from .http import Address

__all__ = ["address_of", "open_listeners", "secured", "socket_of"]

_BACKLOG: Final = 4096
"""Connections that the kernel keeps for a listener until they are accepted."""
_SAME_PORT_TRIES: Final = 8
"""How often a free port is looked for that is free on every address of a name."""


async def open_listeners(
    host: str | None, port: int, ssl_context: ssl.SSLContext | None = None
) -> list[trio.abc.Listener[Any]]:
    """Bind TCP listeners, for `serve_listeners`.

    Args:
        host: an address or a name; None binds all interfaces.
        port: 0 lets the system choose, one port for all addresses of the host if there is such.
        ssl_context: with it the listeners speak TLS.

    Raises:
        OSError: an address cannot be bound.
        ValueError: there is no such port.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    for _ in range(_SAME_PORT_TRIES):
        chosen = [listener.socket.getsockname()[1] for listener in listeners]
        if len(set(chosen)) == 1:
            break
        for listener in listeners:
            listener.socket.close()
        try:
            listeners = await trio.open_tcp_listeners(chosen[0], host=host, backlog=_BACKLOG)
        except OSError:
            listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    return secured(listeners, ssl_context)


def secured(
    listeners: Sequence[trio.SocketListener], ssl_context: ssl.SSLContext | None
) -> list[trio.abc.Listener[Any]]:
    """Return listeners that speak TLS, or the same without a context."""
    if ssl_context is None:
        return list(listeners)
    # Browsers do not wait for close_notify, and neither do we.
    return [trio.SSLListener(listener, ssl_context, https_compatible=True) for listener in listeners]


def socket_of(resource: object) -> Any:
    """Return the trio socket below a listener or stream, None where there is none."""
    for attribute in ("transport_listener", "transport_stream"):
        resource = getattr(resource, attribute, resource)
    return getattr(resource, "socket", None)


def address_of(address: object) -> Address:
    """Return a socket address as `(host, port)`, a Unix socket's as its path, None for one without a name."""
    if isinstance(address, tuple):
        return (str(address[0]), int(address[1]))
    return address if isinstance(address, str) and address else None
