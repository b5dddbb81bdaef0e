"""The server of aiohttp. The client says what window it compresses with."""

from __future__ import annotations

import asyncio
import json

from aiohttp import WSMsgType, web

from tests.interop.peers.scenario import REASON

ended: asyncio.Queue[tuple[int, str]] = asyncio.Queue()


async def play(request: web.Request) -> web.StreamResponse:
    kind, _, rest = request.path[1:].partition("/")
    if kind == "refuse":
        return web.Response(status=403)
    ws = web.WebSocketResponse(protocols=["second"], autoping=kind != "ping")
    await ws.prepare(request)
    if kind == "close":
        await ws.close(code=int(rest), message=REASON.encode())
    elif kind == "seen":
        await ws.send_str(json.dumps(await ended.get()))
    elif kind == "ping":
        await ws.ping(b"ping")
        pong = await ws.receive()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"ping"), pong
        await ws.send_str("pong")
    elif kind == "end":
        closed = await ws.receive()
        assert closed.type is WSMsgType.CLOSE, closed
        ended.put_nowait((closed.data, closed.extra or ""))
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", play)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"": f"ws://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
