"""websockets on asyncio with uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers import settings

clients: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def to_all(ws: ServerConnection) -> None:
    clients.add(ws)
    try:
        async for message in ws:
            broadcast(clients, message)
    finally:
        clients.discard(ws)


async def main() -> None:
    options = settings()
    async with serve(
        to_all if options.broadcast else echo,
        "127.0.0.1",
        options.port,
        compression="deflate" if options.deflate else None,
        ping_interval=options.ping_interval or 20.0,
        backlog=4096,
    ) as server:
        await server.serve_forever()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
