"""picows on uvloop: its listener callbacks, which are its only interface; it has no permessage-deflate."""

from __future__ import annotations

import asyncio

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers import settings

clients: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        clients.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            message = frame.get_payload_as_bytes()
            for client in clients:
                client.send(frame.msg_type, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        clients.discard(transport)


async def main() -> None:
    options = settings()
    listener = Broadcast if options.broadcast else Echo

    def create(request: WSUpgradeRequest) -> WSListener:
        return listener()

    server = await ws_create_server(
        create,
        "127.0.0.1",
        options.port,
        backlog=4096,
        enable_auto_ping=options.ping_interval is not None,
        auto_ping_idle_timeout=options.ping_interval or 20.0,
        auto_ping_reply_timeout=options.ping_interval or 20.0,  # at most the idle timeout
    )
    await server.serve_forever()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
