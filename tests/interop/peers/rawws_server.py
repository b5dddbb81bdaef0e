"""rawws's server, once with every window of permessage-deflate and once for each that it limits to."""

from __future__ import annotations

import json
import os
from functools import partial

import trio

import rawws
from tests.interop.peers.scenario import REASON, WINDOWS, pieces

ended, seen = trio.open_memory_channel[rawws.ConnectionClosed](1)


async def serve(ws: rawws.WebSocket) -> None:
    kind, _, rest = ws.request.path[1:].partition("/")
    if kind == "refuse":
        await ws.reject(403, "no")
        return
    await ws.accept(subprotocol="second" if "second" in ws.request.subprotocols else None)
    if kind == "close":
        await ws.close(int(rest), REASON)
    elif kind == "seen":
        closed = await seen.receive()
        await ws.send(json.dumps([closed.code, closed.reason]))
    elif kind == "ping":
        await ws.ping()
        await ws.send("pong")
    async for message in ws:
        if kind == "fragments":
            await send_fragments(ws, message)
        elif kind == "wire" and message == "wire":
            await ws.send(json.dumps([ws.bytes_received, ws.bytes_sent]), compress=False)
        else:
            await ws.send(message)
    if kind == "end":
        await ws.close()  # answers the client's Close, whose code stays the one of the connection
        await ended.send(await ws.wait_closed())


async def send_fragments(ws: rawws.WebSocket, message: str | bytes) -> None:
    async with ws.message_writer(text=isinstance(message, str)) as writer:
        for piece in pieces(message):
            await writer.write(piece)


async def main() -> None:
    lane = os.environ.get("RAWWS_FAST_LANE", "1") != "0"
    listening = {}
    async with trio.open_nursery() as nursery:
        for bits in (None, *WINDOWS):
            most = bits or 15
            options = rawws.DeflateOptions(server_max_window_bits=most, client_max_window_bits=most)
            server = await nursery.start(
                partial(rawws.serve, serve, "127.0.0.1", 0, compression=options, origins={"*"}, fast_lane=lane)
            )
            listening[str(bits or "")] = f"ws://127.0.0.1:{server.addresses[0][1]}"
        print(json.dumps(listening), flush=True)


trio.run(main)
