"""The client of websockets, on asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from websockets import InvalidStatus, Subprotocol
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.interop.peers.asyncio_runner import run_asyncio
from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence


class Connection:
    def __init__(self, ws: ClientConnection) -> None:
        self._ws = ws
        self.subprotocol = ws.subprotocol

    async def send(self, data: str | bytes) -> None:
        await self._ws.send(data)

    async def receive(self) -> str | bytes:
        return await self._ws.recv()

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        await self._ws.send(pieces)

    async def ping(self) -> None:
        await (await self._ws.ping())

    async def close(self, code: int, reason: str) -> None:
        await self._ws.close(code, reason)

    async def closed(self) -> tuple[int, str]:
        await self._ws.wait_closed()
        assert self._ws.close_code is not None
        return self._ws.close_code, self._ws.close_reason or ""


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    deflate = ClientPerMessageDeflateFactory(
        server_max_window_bits=window, client_max_window_bits=window if window is not None else True
    )
    try:
        ws = await connect(
            url, subprotocols=cast("Sequence[Subprotocol]", subprotocols) or None, extensions=[deflate], proxy=None
        )
    except InvalidStatus as error:
        raise RefusedError(error.response.status_code) from error
    return Connection(ws)


main(run_asyncio, open_connection)
