"""uvicorn with wsproto, on uvloop and httptools."""

from __future__ import annotations

import uvicorn

from benchmarks.peers import settings
from benchmarks.peers.asgi import application

options = settings()
uvicorn.run(
    application(broadcasting=options.broadcast),
    host="127.0.0.1",
    port=options.port,
    loop="uvloop",
    http="httptools",
    ws="wsproto",
    ws_per_message_deflate=options.deflate,
    ws_ping_interval=options.ping_interval or 20.0,
    lifespan="off",
    access_log=False,
    log_level="warning",
)
