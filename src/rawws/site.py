"""What a server serves, and how: applications by path, files, pages, and the settings that hold for all of them.

A site is made once, checked then, and never changes; so a mistake in it is an exception where it was made, not
an answer to somebody's request. It knows no sockets and no connections. Cost: a look-up or two a request.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Mapping
from copy import copy
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Final, TypeAlias, final

from .deflate import DeflateOptions
from .handshake import WEBSOCKET_VERSION, canonical_host, canonical_origin, check_host
from .http import Request, Response, require_get
from .limits import Limits
from .protocol import Protocol
from .static_files import StaticFiles

if TYPE_CHECKING:
    import os

    from .http import Address
    from .websocket import WebSocket

__all__ = ["App", "Handler", "Page", "Site", "for_this_machine", "remote_host"]

Handler: TypeAlias = "Callable[[WebSocket], Awaitable[object]]"
"""An async function that is run, in a task of its own, for each connection."""
App: TypeAlias = "Handler | Protocol | Mapping[str, Handler | Protocol]"
"""An async function, a `Protocol` instance, or a mapping of paths to either."""
Page: TypeAlias = "Callable[[Request], Response | Awaitable[Response]]"
"""What answers a GET or HEAD: a function, called by the driver, which must not block, or an async function, which is
run in a task."""

_UPGRADE_HEADERS: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", WEBSOCKET_VERSION))
_NOTHING: Final = Response.text(404, "There is nothing here.")
_PROXY_FIELDS: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")
"""Fields that say that a proxy passed a request on (RFC 7239, RFC 9110 §7.6.3, and what nginx's manual has one set)."""


@final
class Site:
    """Applications, files, pages and settings; see `rawws.serve` for the arguments.

    Raises:
        TypeError: an application or a page is none.
        ValueError: a path that no request can have, an origin that is none.
        OSError: the static folder cannot be read.
    """

    __slots__ = ("_app", "_apps", "_pages", "_static", "compression", "fast_lane", "hosts", "limits", "origins")

    def __init__(
        self,
        app: App,
        *,
        static: StaticFiles | str | os.PathLike[str] | None = None,
        pages: Mapping[str, Page] | None = None,
        origins: Collection[str] | None = None,
        hosts: Collection[str] | None = None,
        limits: Limits | None = None,
        compression: DeflateOptions | bool = True,
        fast_lane: bool = True,
    ) -> None:
        self._app: Handler | Protocol | None = None
        self._apps: dict[str, Handler | Protocol] = {}
        if isinstance(app, Mapping):
            self._apps = {_checked_path(path): _checked_app(one) for path, one in app.items()}
        else:
            self._app = _checked_app(app)
        self._pages: dict[str, Page] = {}
        for path, page in (pages or {}).items():
            if not callable(page):
                raise TypeError(f"a page is a function of the request, not {page!r}")
            self._pages[_checked_path(path)] = page
        self._static = static if static is None or isinstance(static, StaticFiles) else StaticFiles.load(static)
        self.origins = _checked_origins(origins)
        self.hosts = _checked_hosts(hosts)
        self.limits = limits if limits is not None else Limits()
        if isinstance(compression, DeflateOptions):
            self.compression: DeflateOptions | None = compression
        else:
            self.compression = DeflateOptions() if compression else None
        self.fast_lane = fast_lane

    def with_pages(self, pages: Mapping[str, Page]) -> Site:
        """Return a site with further pages; its own come first."""
        other = copy(self)
        other._pages = {**pages, **self._pages}
        return other

    def check(self, request: Request) -> None:
        """Refuse a request that does not ask this server.

        Raises:
            HandshakeError: 421, its host is not among `hosts`.
        """
        if self.hosts is not None:
            check_host(request, self.hosts)

    def find_app(self, path: str) -> Handler | Protocol | None:
        """Return the application at a path, or None."""
        return self._app if self._app is not None else self._apps.get(path)

    def find_page(self, path: str) -> Page | None:
        """Return the page at a path, or None."""
        return self._pages.get(path)

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a request that asks for no WebSocket: a page, a file, the hint that here is a WebSocket, 404.

        Where one of several applications is, no file is, but for the page of a folder, whose path they may share. The
        answer of an async page is to be awaited.

        Raises:
            HandshakeError: 405; and what a page raises.
        """
        path = request.path
        page = self._pages.get(path)
        if page is not None:
            require_get(request)
            return page(request)
        if self._static is not None and (path not in self._apps or path.endswith("/")):
            response = self._static.respond(request)
            if response is not None:
                return response
        if self.find_app(path) is None:
            return _NOTHING
        require_get(request)
        return Response.text(426, "This is a WebSocket; ask for an Upgrade.", _UPGRADE_HEADERS)


def for_this_machine(page: Page) -> Page:
    """Return a page for peers on this machine alone; for others, and for what a proxy passes on, there is nothing.

    A proxy on this machine that says nowhere that it is one cannot be told from a peer.
    """

    def is_theirs(request: Request) -> bool:
        return remote_host(request.client) is None and not any(field in request.headers for field in _PROXY_FIELDS)

    if iscoroutinefunction(page):

        @wraps(page)
        async def answer_later(request: Request) -> Response:
            return await page(request) if is_theirs(request) else _NOTHING

        return answer_later

    @wraps(page)
    def answer(request: Request) -> Response | Awaitable[Response]:
        return page(request) if is_theirs(request) else _NOTHING

    return answer


def remote_host(client: Address) -> str | None:
    """Return the host of a peer on another machine; None for loopback and for a peer without a network address.

    An IPv4 address that is mapped into IPv6 comes as IPv4 (RFC 4291 §2.5.5.2).
    """
    return _remote(client[0]) if isinstance(client, tuple) else None


@lru_cache(maxsize=1024)  # asked when a connection comes and when it goes, and parsing takes as long as a frame
def _remote(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
        host = str(address)
    return None if address.is_loopback else host


def _checked_path(path: str) -> str:
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError(f"a path begins with a slash and has neither ? nor #, unlike {path!r}")
    return path


def _checked_app(app: object) -> Handler | Protocol:
    if isinstance(app, Protocol):
        for name in ("on_open", "on_message", "on_closing", "on_close"):
            if iscoroutinefunction(getattr(app, name)):
                raise TypeError(f"{type(app).__name__}.{name} is an async function, and nobody would await it")
        return app
    if isinstance(app, type) and issubclass(app, Protocol):
        raise TypeError(f"an application is an instance of a Protocol: {app.__name__}(), not {app.__name__}")
    if not callable(app):
        raise TypeError(f"an application is an async function or a Protocol instance, not {app!r}")
    return app


def _checked_origins(origins: Collection[str] | None) -> Collection[str] | None:
    if origins is None or origins == "*":
        return origins
    if isinstance(origins, str):
        raise ValueError("origins is a collection of origins, the string '*' or None")
    listed = frozenset(origins)
    for origin in listed - {"*"}:
        canonical_origin(origin)
    return listed


def _checked_hosts(hosts: Collection[str] | None) -> Collection[str] | None:
    if hosts is None:
        return None
    if isinstance(hosts, str):
        raise ValueError("hosts is a collection of hosts, or None")
    return frozenset(map(canonical_host, hosts))
