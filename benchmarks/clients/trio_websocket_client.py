"""trio-websocket: its `open_websocket_url`, a task for each connection."""

from __future__ import annotations

import trio
from trio_websocket import open_websocket_url

from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)


async def echo(task_status: trio.TaskStatus[None]) -> None:
    async with open_websocket_url(options.url) as ws:
        task_status.started()
        while True:
            await ws.send_message(TEXT)
            meter.check(await ws.get_message())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(options.connections):
            await nursery.start(echo)
        await trio.sleep(options.warmup)
        with meter.measured():
            await trio.sleep(options.seconds)
        nursery.cancel_scope.cancel()


trio.run(main)
