"""Hypercorn's trio worker, whose WebSockets are by wsproto."""

from __future__ import annotations

import json
import socket

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from tests.interop.peers.asgi import application

ended, seen = trio.open_memory_channel[tuple[int | None, str | None]](1)


def put(_: object) -> None:
    """Forget the code, which is 1006 whenever the client closes."""
    ended.send_nowait((None, None))


listener = socket.create_server(("127.0.0.1", 0))
config = Config()
config.bind = [f"fd://{listener.fileno()}"]
config.loglevel = "WARNING"
print(json.dumps({"": f"ws://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
trio.run(serve, application(trio.sleep, put, seen.receive), config)
