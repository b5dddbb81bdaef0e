"""picows on uvloop: its listener callbacks, which are its only interface."""

from __future__ import annotations

import asyncio

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.clients import TEXT, Meter, settings

options = settings()
meter = Meter(options.server_pid)
PAYLOAD = TEXT.encode()


class Echo(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, PAYLOAD)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            meter.check(frame.get_payload_as_utf8_text())
            transport.send(WSMsgType.TEXT, PAYLOAD)


async def main() -> None:
    transports = [(await ws_connect(Echo, options.url))[0] for _ in range(options.connections)]
    await asyncio.sleep(options.warmup)
    with meter.measured():
        await asyncio.sleep(options.seconds)
    for transport in transports:
        transport.disconnect(graceful=False)


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
