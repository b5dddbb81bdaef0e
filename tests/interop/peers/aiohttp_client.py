"""The client of aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError

from tests.interop.peers.asyncio_runner import run_asyncio
from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence


class Connection:
    def __init__(self, session: ClientSession, ws: ClientWebSocketResponse) -> None:
        self._session = session
        self._ws = ws
        self.subprotocol = ws.protocol

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._ws.send_str(data)
        else:
            await self._ws.send_bytes(data)

    async def receive(self) -> str | bytes:
        message = await self._ws.receive()
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), message
        data: str | bytes = message.data
        return data

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        raise NotImplementedError

    async def ping(self) -> None:
        # Pongs are seen only by who answers pings too.
        self._ws._autoping = False
        await self._ws.ping(b"ping")
        message = await self._ws.receive()
        assert (message.type, message.data) == (WSMsgType.PONG, b"ping"), message

    async def close(self, code: int, reason: str) -> None:
        await self._ws.close(code=code, message=reason.encode())
        await self._session.close()

    async def closed(self) -> tuple[int, str]:
        message = await self._ws.receive()
        assert message.type is WSMsgType.CLOSE, message
        await self._session.close()
        return message.data, message.extra or ""


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    session = ClientSession()
    try:
        # 15 is what it can compress with, and no parameter.
        ws = await session.ws_connect(url, protocols=subprotocols, compress=window or 15)
    except WSServerHandshakeError as error:
        await session.close()
        raise RefusedError(error.status) from error
    return Connection(session, ws)


main(run_asyncio, open_connection)
