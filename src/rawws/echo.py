"""The small applications that `rawws serve` offers, written on the public API as anybody would write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .chat import Chat
from .errors import CloseCode
from .manager import ConnectionManager
from .protocol import Protocol

if TYPE_CHECKING:
    from .errors import ConnectionClosed
    from .site import Handler
    from .websocket import WebSocket

__all__ = ["BroadcastProtocol", "CommunicateProtocol", "EchoProtocol", "applications", "echo"]

_GOODBYE: Final = "Bye!!!"


class EchoProtocol(Protocol):
    """Every message comes back as it came, text as text, binary as binary."""

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send_nowait(message)


async def echo(ws: WebSocket) -> None:
    """Do the same as `EchoProtocol`, in a task for each connection."""
    async for message in ws:
        await ws.send(message)


class CommunicateProtocol(Protocol):
    """Each text comes back to its sender alone, as `Received:` and the text; who leaves is told goodbye."""

    def __init__(self) -> None:
        self.manager = ConnectionManager()

    def on_open(self, ws: WebSocket) -> None:
        self.manager.connect(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        if isinstance(message, str):
            ws.send_nowait(f"Received:{message}")
        else:
            ws.close_nowait(CloseCode.UNSUPPORTED_DATA, "text only")

    def on_closing(self, ws: WebSocket, closed: ConnectionClosed) -> None:
        if closed.by == "peer" or closed.code == CloseCode.GOING_AWAY:
            ws.send_nowait(_GOODBYE)


class BroadcastProtocol(Protocol):
    """Every message goes, as it came, to every connection, the sender included."""

    def __init__(self) -> None:
        self.manager = ConnectionManager()

    def on_open(self, ws: WebSocket) -> None:
        self.manager.connect(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        self.manager.broadcast(message)


def applications() -> dict[str, Handler | Protocol]:
    """Return what the command serves, by path."""
    return {
        "/communicate": CommunicateProtocol(),
        "/echo": EchoProtocol(),
        "/echo/task": echo,
        "/broadcast": BroadcastProtocol(),
        "/chat": Chat(),
    }
