"""The ASGI application that uvicorn and Hypercorn serve."""

from __future__ import annotations

from typing import Any

__all__ = ["application"]


def application(*, broadcasting: bool) -> Any:
    """Build the application: an echo, or a broadcast to every connection."""
    clients: set[Any] = set()

    async def lifespan(receive: Any, send: Any) -> None:
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            text = event.get("text")
            if text is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": event["bytes"]})

    async def broadcast(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        clients.add(send)
        try:
            while (event := await receive())["type"] == "websocket.receive":
                message = {"type": "websocket.send", "text": event["text"]}
                for client in list(clients):
                    await client(message)
        finally:
            clients.discard(send)

    return broadcast if broadcasting else echo
