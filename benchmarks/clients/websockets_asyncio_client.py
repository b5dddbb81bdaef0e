"""websockets on asyncio and uvloop: its `connect`, a task for each connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)


async def echo(ws: ClientConnection) -> None:
    while True:
        await ws.send(TEXT)
        meter.check(await ws.recv())


async def main() -> None:
    async with AsyncExitStack() as stack:
        tasks = [
            asyncio.create_task(echo(await stack.enter_async_context(connect(options.url, compression=None))))
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
