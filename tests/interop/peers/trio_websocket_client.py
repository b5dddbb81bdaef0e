"""The client of trio-websocket."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, open_websocket_url

from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager


class Connection:
    def __init__(self, ws: WebSocketConnection, block: AbstractAsyncContextManager[WebSocketConnection]) -> None:
        self._ws = ws
        self._block = block
        self.subprotocol = ws.subprotocol

    async def send(self, data: str | bytes) -> None:
        await self._ws.send_message(data)

    async def receive(self) -> str | bytes:
        message: str | bytes = await self._ws.get_message()
        return message

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        raise NotImplementedError

    async def ping(self) -> None:
        await self._ws.ping(b"ping")

    async def close(self, code: int, reason: str) -> None:
        await self._ws.aclose(code, reason)
        await self._block.__aexit__(None, None, None)

    async def closed(self) -> tuple[int, str]:
        with suppress(ConnectionClosed):
            await self._ws.get_message()
        await self._block.__aexit__(None, None, None)
        closed = self._ws.closed
        assert closed is not None
        return closed.code, closed.reason or ""


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    block = open_websocket_url(url, subprotocols=subprotocols or None, max_message_size=1 << 21)
    try:
        return Connection(await block.__aenter__(), block)
    except ConnectionRejected as error:
        raise RefusedError(error.status_code) from error


main(trio.run, open_connection)
