"""websockets on trio."""

from __future__ import annotations

import trio
from websockets.trio.server import ServerConnection, broadcast, serve

from benchmarks.peers import settings

clients: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def to_all(ws: ServerConnection) -> None:
    clients.add(ws)
    try:
        async for message in ws:
            await broadcast(list(clients), message)
    finally:
        clients.discard(ws)


async def main() -> None:
    options = settings()
    await serve(
        to_all if options.broadcast else echo,
        options.port,
        host="127.0.0.1",
        compression="deflate" if options.deflate else None,
        ping_interval=options.ping_interval or 20.0,
        backlog=4096,
    )


trio.run(main)
