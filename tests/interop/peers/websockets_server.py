"""The server of websockets, on asyncio."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets import ConnectionClosed, Subprotocol
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from tests.interop.peers.scenario import REASON, WINDOWS, pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets import Request, Response

ended: asyncio.Queue[tuple[int, str]] = asyncio.Queue()


def refuse(ws: ServerConnection, request: Request) -> Response | None:
    return ws.respond(HTTPStatus.FORBIDDEN, "no") if request.path == "/refuse" else None


async def play(ws: ServerConnection) -> None:
    assert ws.request is not None
    kind, _, rest = ws.request.path[1:].partition("/")
    if kind == "close":
        await ws.close(int(rest), REASON)
    elif kind == "seen":
        await ws.send(json.dumps(await ended.get()))
    elif kind == "ping":
        await (await ws.ping())
        await ws.send("pong")
    try:
        while True:
            message = await ws.recv()
            await ws.send(pieces(message) if kind == "fragments" else message)
    except ConnectionClosed as error:
        if kind == "end" and error.rcvd is not None:
            ended.put_nowait((error.rcvd.code, error.rcvd.reason))


def choose(ws: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("second") if "second" in offered else None


async def main() -> None:
    listening = {}
    for bits in (None, *WINDOWS):
        deflate = ServerPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=bits)
        server = await serve(
            play, "127.0.0.1", 0, process_request=refuse, select_subprotocol=choose, extensions=[deflate]
        )
        listening[str(bits or "")] = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps(listening), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
