"""What a server serves, and how: applications by path, files, and the settings that hold for all of them.

A site is made once, checked then, and never changes; so a mistake in it is an exception where it was made, not
an answer to somebody's request. It knows no sockets and no connections.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeAlias, final

from .deflate import DeflateOptions
from .errors import HandshakeError
from .handshake import WEBSOCKET_VERSION, canonical_origin
from .http import Response
from .limits import Limits
from .protocol import Protocol
from .static_files import StaticFiles

if TYPE_CHECKING:
    from .http import Request
    from .websocket import WebSocket

__all__ = ["App", "Handler", "Site"]

Handler: TypeAlias = "Callable[[WebSocket], Awaitable[object]]"
"""An async function that is run, in a task of its own, for each connection."""
App: TypeAlias = "Handler | Protocol | Mapping[str, Handler | Protocol]"
"""An async function, a `Protocol` instance, or a mapping of paths to either."""

_UPGRADE_HEADERS = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", WEBSOCKET_VERSION))


@final
class Site:
    """Applications, files and settings; see `rawws.serve` for the arguments.

    Raises:
        TypeError: an application is none.
        ValueError: a path without a leading slash, an origin that is none.
        OSError: the static folder cannot be read.
    """

    __slots__ = ("_app", "_apps", "_static", "compression", "fast_lane", "limits", "origins")

    def __init__(
        self,
        app: App,
        *,
        static: StaticFiles | str | os.PathLike[str] | None = None,
        origins: Collection[str] | None = None,
        limits: Limits | None = None,
        compression: DeflateOptions | bool = True,
        fast_lane: bool = True,
    ) -> None:
        self._app: Handler | Protocol | None = None
        self._apps: dict[str, Handler | Protocol] = {}
        if isinstance(app, Mapping):
            for path, one in app.items():
                if not path.startswith("/"):
                    raise ValueError(f"a path begins with a slash, {path!r} does not")
                self._apps[path] = _checked(one)
        else:
            self._app = _checked(app)
        self._static = static if static is None or isinstance(static, StaticFiles) else StaticFiles.load(static)
        if origins is not None and origins != "*":
            if isinstance(origins, str):
                raise ValueError("origins is a collection of origins, the string '*' or None")
            for origin in origins:
                if origin != "*":
                    canonical_origin(origin)
        self.origins = origins
        self.limits = limits if limits is not None else Limits()
        if isinstance(compression, DeflateOptions):
            self.compression: DeflateOptions | None = compression
        else:
            self.compression = DeflateOptions() if compression else None
        self.fast_lane = fast_lane

    def find_app(self, path: str) -> Handler | Protocol | None:
        """Return the application at a path, or None."""
        return self._app or self._apps.get(path)

    def respond(self, request: Request) -> Response:
        """Answer a request that asks for no WebSocket.

        Raises:
            HandshakeError: 404, 405 or 426.
        """
        if self._static is not None:
            response = self._static.respond(request)
            if response is not None:
                return response
        if self.find_app(request.path) is not None:
            if request.method != "GET":
                raise HandshakeError(405, "Only GET is allowed here.", (("Allow", "GET"),))
            return Response.text(426, "This is a WebSocket; ask for an Upgrade.", _UPGRADE_HEADERS)
        return Response.text(404, "There is nothing here.")


def _checked(app: object) -> Handler | Protocol:
    if isinstance(app, Protocol):
        return app
    if isinstance(app, type) and issubclass(app, Protocol):
        raise TypeError(f"an application is an instance of a Protocol: {app.__name__}(), not {app.__name__}")
    if not callable(app):
        raise TypeError(f"an application is an async function or a Protocol instance, not {app!r}")
    return app
