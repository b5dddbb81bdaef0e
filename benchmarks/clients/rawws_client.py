"""rawws: `connect`, a task for each connection."""

from __future__ import annotations

import trio

import rawws
from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)


async def echo(ws: rawws.WebSocket) -> None:
    while True:
        await ws.send(TEXT)
        meter.check(await ws.receive())


async def connect(task_status: trio.TaskStatus[None]) -> None:
    async with rawws.connect(options.url, compression=False) as ws:
        task_status.started()
        await echo(ws)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(options.connections):
            await nursery.start(connect)
        await trio.sleep(options.warmup)
        with meter.measured():
            await trio.sleep(options.seconds)
        nursery.cancel_scope.cancel()


trio.run(main)
