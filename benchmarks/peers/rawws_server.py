"""rawws: a `Protocol`, or with the style `task` an async handler; `no-lane` switches the fast lane off."""

from __future__ import annotations

import rawws
from benchmarks.peers import settings

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


def main() -> None:
    options = settings()
    task = "task" in options.style
    limits = rawws.Limits(max_connections=20_000, ping_interval=options.ping_interval or 20.0)
    app = (broadcast if task else BroadcastProtocol()) if options.broadcast else (echo if task else EchoProtocol())
    rawws.run(
        app,
        "127.0.0.1",
        options.port,
        compression=options.deflate,
        fast_lane="no-lane" not in options.style,
        limits=limits,
    )


main()
