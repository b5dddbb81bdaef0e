"""rawws's client; its first argument is the authority whose certificates it trusts."""

from __future__ import annotations

import os
import ssl
import sys
from typing import TYPE_CHECKING

import trio

import rawws
from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

context = ssl.create_default_context(cafile=sys.argv.pop(1))


class Connection:
    def __init__(self, ws: rawws.WebSocket, block: AbstractAsyncContextManager[rawws.WebSocket]) -> None:
        self._ws = ws
        self._block = block
        self.subprotocol = ws.subprotocol

    async def send(self, data: str | bytes) -> None:
        await self._ws.send(data)

    async def receive(self) -> str | bytes:
        return await self._ws.receive()

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        async with self._ws.message_writer(text=True) as writer:
            for piece in pieces:
                await writer.write(piece)

    async def ping(self) -> None:
        await self._ws.ping()

    async def close(self, code: int, reason: str) -> None:
        await self._ws.close(code, reason)
        await self._block.__aexit__(None, None, None)

    async def closed(self) -> tuple[int, str]:
        async for message in self._ws:
            raise AssertionError(message)
        await self._block.__aexit__(None, None, None)  # answers the server's Close
        closed = self._ws.closed
        assert closed is not None
        assert closed.by == "peer", closed
        return closed.code, closed.reason

    def wire(self) -> tuple[int, int]:
        """The bytes that were sent and received."""
        return self._ws.bytes_sent, self._ws.bytes_received


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    bits = window or 15
    block = rawws.connect(
        url,
        subprotocols=subprotocols,
        ssl_context=context if url.startswith("wss:") else None,
        compression=rawws.DeflateOptions(server_max_window_bits=bits, client_max_window_bits=bits),
        fast_lane=os.environ.get("RAWWS_FAST_LANE", "1") != "0",
    )
    try:
        return Connection(await block.__aenter__(), block)
    except rawws.HandshakeRejected as error:
        raise RefusedError(error.status) from error


main(trio.run, open_connection)
