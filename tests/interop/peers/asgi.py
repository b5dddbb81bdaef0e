"""The ASGI application that uvicorn and Hypercorn serve; ASGI has no pings and no fragments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.interop.peers.scenario import REASON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["PING_INTERVAL", "PING_TIMEOUT", "application"]

PING_INTERVAL = 0.5
"""Seconds between the pings of the server."""
PING_TIMEOUT = 2.0
"""Seconds in which it wants its pong, which a machine under load takes a part of."""


def application(
    sleep: Callable[[float], Awaitable[None]],
    put: Callable[[tuple[int | None, str | None]], object],
    get: Callable[[], Awaitable[tuple[int | None, str | None]]],
) -> Any:
    """Build the application, for the sleep and the queue of Trio or asyncio."""

    async def play(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket", scope
        kind, _, rest = scope["path"][1:].partition("/")
        await receive()
        if kind == "refuse":
            await send({"type": "websocket.close"})
            return
        subprotocol = "second" if "second" in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        if kind == "close":
            await send({"type": "websocket.close", "code": int(rest), "reason": REASON})
        elif kind == "seen":
            await send({"type": "websocket.send", "text": json.dumps(await get())})
        elif kind == "ping":
            await sleep(PING_INTERVAL + PING_TIMEOUT + 0.5)  # which only a client that answers pings survives
            await send({"type": "websocket.send", "text": "pong"})
        while (event := await receive())["type"] == "websocket.receive":
            data = {name: event[name] for name in ("text", "bytes") if event.get(name) is not None}
            await send({"type": "websocket.send", **data})
        if kind == "end":
            put((event["code"], event.get("reason")))

    return play
