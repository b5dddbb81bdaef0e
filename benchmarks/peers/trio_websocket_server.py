"""trio-websocket. It has no keepalive of its own; the heartbeat is the recipe of its documentation."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from benchmarks.peers import settings

options = settings()
clients: set[WebSocketConnection] = set()


async def heartbeat(ws: WebSocketConnection, timeout: float, interval: float) -> None:
    while True:
        with trio.fail_after(timeout):
            await ws.ping()
        await trio.sleep(interval)


async def echo(ws: WebSocketConnection) -> None:
    while True:
        await ws.send_message(await ws.get_message())


async def broadcast(ws: WebSocketConnection) -> None:
    while True:
        message = await ws.get_message()
        for client in list(clients):
            await client.send_message(message)


async def handle(request: WebSocketRequest) -> None:
    ws = await request.accept()
    clients.add(ws)
    try:
        async with trio.open_nursery() as nursery:
            if options.ping_interval is not None:
                nursery.start_soon(heartbeat, ws, 20.0, options.ping_interval)
            await (broadcast if options.broadcast else echo)(ws)
    except* ConnectionClosed:
        pass
    finally:
        clients.discard(ws)


trio.run(lambda: serve_websocket(handle, "127.0.0.1", options.port, ssl_context=None))
