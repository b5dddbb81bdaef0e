"""python-socketio on uvicorn and uvloop: a room of all clients, through its manager for Redis.

`python -m benchmarks.peers.socketio_server PORT REDIS_URL`. What the client emits as `say` reaches the room as `say`.
"""

from __future__ import annotations

import sys
from typing import Any

import socketio  # type: ignore[import-untyped]  # it has no types
import uvicorn

port, url = sys.argv[1:]
sio: Any = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(url))


@sio.event  # type: ignore[untyped-decorator]  # it has no types
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await sio.enter_room(sid, "benchmark")


@sio.event  # type: ignore[untyped-decorator]  # it has no types
async def say(sid: str, text: str) -> None:
    await sio.emit("say", text, room="benchmark")


uvicorn.run(
    socketio.ASGIApp(sio),
    host="127.0.0.1",
    port=int(port),
    loop="uvloop",
    http="httptools",
    ws="websockets-sansio",
    ws_per_message_deflate=False,
    lifespan="off",
    access_log=False,
    log_level="warning",
)
