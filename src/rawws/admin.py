"""Where a server says how it is: the pages `/health` and `/metrics`, and an address of their own for them.

Rules: on the server's own address the two answer peers on this machine alone, and no request that a proxy passed on,
for behind one every peer seems to be on this machine. On an address of their own they answer whoever reaches it; then
there are none on the server's. A Unix socket that nobody listens on any more is replaced, one in use is not.

Cost: nothing until somebody asks. It knows what a `Server` shows of itself.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from .http import Response
from .metrics import CONTENT_TYPE, collect, render

if TYPE_CHECKING:
    from .http import Request
    from .server import Server
    from .site import Page

__all__ = ["AdminAddress", "admin_name", "admin_pages", "open_admin_listeners"]

AdminAddress: TypeAlias = "tuple[str, int] | str | os.PathLike[str]"
"""Host and port, or the path of a Unix socket."""

_FRESH: Final = ("Cache-Control", "no-store")
_BACKLOG: Final = 64
"""Connections that the kernel keeps until they are accepted; scrapers and probes are few."""


def admin_pages(server: Server) -> dict[str, Page]:
    """Return `/health` and `/metrics` of a server, which answer everybody."""

    def health(request: Request) -> Response:
        # Milliseconds; the one field that tells a probe about time (W3C Server Timing).
        timing = ("Server-Timing", f"lag;dur={server.lag * 1000:.1f}")
        if server.is_closing:
            return Response.text(503, "shutting down", (_FRESH, timing))
        return Response.text(200, "ok", (_FRESH, timing))

    async def metrics(request: Request) -> Response:
        # In a thread, for the first scrape imports prometheus_client, which takes some 25 ms.
        text = await trio.to_thread.run_sync(render, collect(server))
        return Response(200, (("Content-Type", CONTENT_TYPE), _FRESH), text)

    return {"/health": health, "/metrics": metrics}


def admin_name(address: AdminAddress) -> str:
    """Return an address as people write it: `host:port`, or `unix:` and a path."""
    if isinstance(address, tuple):
        host, port = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{os.fspath(address)}"


async def open_admin_listeners(address: AdminAddress) -> list[trio.SocketListener]:
    """Bind an address.

    Raises:
        OSError: it cannot be bound; `filename` is its `admin_name`.
    """
    try:
        if isinstance(address, tuple):
            host, port = address
            return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
        return [await _listen_on_path(os.fspath(address))]
    except OSError as exc:
        exc.filename = admin_name(address)
        raise


async def _listen_on_path(path: str) -> trio.SocketListener:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                await _remove_if_unused(path)
        await sock.bind(path)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


async def _remove_if_unused(path: str) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as probe:
        try:
            await probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
