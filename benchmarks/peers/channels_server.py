"""Django Channels on uvicorn and uvloop: a group of all clients, through channels-redis.

`python -m benchmarks.peers.channels_server PORT REDIS_URL core|pubsub`: the first is channels-redis's layer over lists,
the second its layer over pub/sub.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]  # it has no types
from channels.routing import ProtocolTypeRouter  # type: ignore[import-untyped]  # it has no types
from django.conf import settings  # type: ignore[import-untyped]  # it has no types

port, url, kind = sys.argv[1:]
BACKENDS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": BACKENDS[kind], "CONFIG": {"hosts": [url]}}})


class Room(AsyncWebsocketConsumer):  # type: ignore[misc]  # its base has no types
    async def connect(self) -> None:
        await self.channel_layer.group_add("benchmark", self.channel_name)
        await self.accept()
        await self.send("ready")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("benchmark", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("benchmark", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


uvicorn.run(
    ProtocolTypeRouter({"websocket": Room.as_asgi()}),
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
