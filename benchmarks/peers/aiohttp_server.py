"""aiohttp's server, with its C parser, on uvloop."""

from __future__ import annotations

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers import settings

options = settings()
clients: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=options.deflate, heartbeat=options.ping_interval)
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def broadcast(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=options.deflate, heartbeat=options.ping_interval)
    await ws.prepare(request)
    clients.add(ws)
    try:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                for client in list(clients):
                    await client.send_str(message.data)
    finally:
        clients.discard(ws)
    return ws


app = web.Application()
app.router.add_get("/", broadcast if options.broadcast else echo)
web.run_app(
    app,
    host="127.0.0.1",
    port=options.port,
    access_log=None,
    print=None,
    backlog=4096,
    loop=uvloop.new_event_loop(),
)
