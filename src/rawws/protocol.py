"""What an application that lives in callbacks provides.

Facts: a `Protocol` needs no task. Its methods are called by the driver between two reads, so they must not
block; work that awaits goes to a nursery of the application's own. One instance serves many connections and
tells them apart by the `WebSocket` that each call brings.

Rules for the callbacks of one connection: they never nest; `on_open` is first, `on_close` is last and comes
exactly once, also when `on_open` refused the handshake or raised. A callback that raises an
`Exception` ends its connection with 1011 and one logged traceback; what it had sent leaves first. Other
exceptions end the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ConnectionClosed
    from .websocket import WebSocket

__all__ = ["Protocol"]


class Protocol:
    """Callbacks of a WebSocket connection; override what you need."""

    def on_open(self, ws: WebSocket) -> None:
        """Take a new connection, before the 101 leaves.

        May call `ws.accept_nowait` or `ws.reject_nowait`; returning accepts. Raising answers 500.
        """

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """Take a message: `str` for text, `bytes` for binary."""

    def on_closing(self, ws: WebSocket, closed: ConnectionClosed) -> None:
        """Say goodbye: called just before our Close frame, whoever began; `ws.send_nowait` still works."""

    def on_close(self, ws: WebSocket, closed: ConnectionClosed) -> None:
        """Learn that the connection is over. Nothing can be sent any more."""
