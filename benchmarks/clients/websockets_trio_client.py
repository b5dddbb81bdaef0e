"""websockets on trio: its `connect`, a task for each connection."""

from __future__ import annotations

import trio
from websockets.trio.client import connect

from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)


async def echo(task_status: trio.TaskStatus[None]) -> None:
    async with connect(options.url, compression=None) as ws:
        task_status.started()
        while True:
            await ws.send(TEXT)
            meter.check(await ws.recv())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(options.connections):
            await nursery.start(echo)
        await trio.sleep(options.warmup)
        with meter.measured():
            await trio.sleep(options.seconds)
        nursery.cancel_scope.cancel()


trio.run(main)
