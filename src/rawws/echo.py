"""The small applications that `rawws serve` offers, written on the public API as anybody would write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from .backplane import BackplaneError
from .chat import Chat
from .errors import CloseCode
from .manager import ConnectionManager
from .protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .backplane import Backplane
    from .errors import ConnectionClosed
    from .websocket import WebSocket

__all__ = ["BroadcastProtocol", "CommunicateProtocol", "EchoProtocol", "SharedBroadcast", "applications", "echo"]

_GOODBYE: Final = "Bye!!!"
_EVERYBODY: Final = "broadcast"
_RELAY_SECONDS: Final = 5.0
"""Time that the backplane has to pass a message on."""


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


@final
class SharedBroadcast:
    """What `BroadcastProtocol` does, for the connections of all processes that share a backplane.

    Args:
        backplane: passes the messages on; one that it cannot pass on ends its sender's connection with 1013.
    """

    def __init__(self, backplane: Backplane) -> None:
        self.manager = ConnectionManager()
        self._backplane = backplane
        self._listening = trio.Lock()
        self._is_listening = False

    async def __call__(self, ws: WebSocket) -> None:
        """Serve one connection."""
        try:
            with trio.fail_after(_RELAY_SECONDS):
                await self._listen()
            self.manager.connect(ws)
            async for message in ws:
                with trio.fail_after(_RELAY_SECONDS):
                    await self._backplane.relay(_EVERYBODY, message)
        except (BackplaneError, trio.TooSlowError):
            await ws.close(CloseCode.TRY_AGAIN_LATER, "messages cannot be passed on")

    async def _listen(self) -> None:
        async with self._listening:
            if not self._is_listening:
                await self._backplane.listen(_EVERYBODY, self.manager.broadcast)
                self._is_listening = True


class BroadcastProtocol(Protocol):
    """Every message goes, as it came, to every connection, the sender included."""

    def __init__(self) -> None:
        self.manager = ConnectionManager()

    def on_open(self, ws: WebSocket) -> None:
        self.manager.connect(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        self.manager.broadcast(message)


def applications(backplane: Backplane | None = None) -> dict[str, Callable[[WebSocket], Awaitable[object]] | Protocol]:
    """Return what the command serves, by path.

    Args:
        backplane: what other processes share with this one; None for one process alone.
    """
    return {
        "/communicate": CommunicateProtocol(),
        "/echo": EchoProtocol(),
        "/echo/task": echo,
        "/broadcast": BroadcastProtocol() if backplane is None else SharedBroadcast(backplane),
        "/chat": Chat(backplane),
    }
