"""rawws: a `Protocol`, or with the style `task` an async handler.

`no-lane` switches the fast lane off; `plain` serves as if the extra `speed` were not installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import rawws
from benchmarks.peers import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.peers import Settings

manager = rawws.ConnectionManager()


class EchoProtocol(rawws.Protocol):
    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        ws.send_nowait(message)


class BroadcastProtocol(rawws.Protocol):
    def on_open(self, ws: rawws.WebSocket) -> None:
        manager.connect(ws)

    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        manager.broadcast(message)


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def broadcast(ws: rawws.WebSocket) -> None:
    await ws.accept()
    manager.connect(ws)
    async for message in ws:
        manager.broadcast(message)


def application(options: Settings) -> Callable[[rawws.WebSocket], Awaitable[None]] | rawws.Protocol:
    if options.chat:
        return rawws.Chat()
    if "task" in options.style:
        return broadcast if options.broadcast else echo
    return BroadcastProtocol() if options.broadcast else EchoProtocol()


def main() -> None:
    options = settings()
    if "plain" in options.style:
        for name in ("numpy", "isal"):  # rawws imports them when a message is worth it
            sys.modules[name] = None  # type: ignore[assignment]  # how Python knows what cannot be imported
    limits = rawws.Limits(max_connections=20_000, ping_interval=options.ping_interval or 20.0)
    rawws.run(
        application(options),
        "127.0.0.1",
        options.port,
        compression=options.deflate,
        fast_lane="no-lane" not in options.style,
        limits=limits,
    )


main()
