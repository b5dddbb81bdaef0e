"""aiohttp's client, with its C parser, on uvloop: one session, a task for each connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import uvloop

from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)


async def echo(ws: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        await ws.send_str(TEXT)
        meter.check(await ws.receive_str())


async def main() -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        AsyncExitStack() as stack,
    ):
        tasks = [
            asyncio.create_task(echo(await stack.enter_async_context(session.ws_connect(options.url))))
            for _ in range(options.connections)
        ]
        await asyncio.sleep(options.warmup)
        with meter.measured():
            await asyncio.sleep(options.seconds)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
