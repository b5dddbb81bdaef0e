"""uvicorn, with its WebSockets by the sans-I/O layer of websockets."""

from __future__ import annotations

import asyncio
import json
import socket

import uvicorn

from tests.interop.peers.asgi import PING_INTERVAL, PING_TIMEOUT, application

ended: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()
listener = socket.create_server(("127.0.0.1", 0))
config = uvicorn.Config(
    application(asyncio.sleep, ended.put_nowait, ended.get),
    ws="websockets-sansio",
    ws_ping_interval=PING_INTERVAL,
    ws_ping_timeout=PING_TIMEOUT,
    lifespan="off",
    log_level="warning",
)
print(json.dumps({"": f"ws://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
uvicorn.Server(config).run(sockets=[listener])
