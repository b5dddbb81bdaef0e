"""Hypercorn's trio worker. It agrees to permessage-deflate whenever a client offers it."""

from __future__ import annotations

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from benchmarks.peers import settings
from benchmarks.peers.asgi import application

options = settings()
config = Config()
config.bind = [f"127.0.0.1:{options.port}"]
config.backlog = 4096
config.websocket_ping_interval = options.ping_interval
config.loglevel = "WARNING"
trio.run(serve, application(broadcasting=options.broadcast), config)
