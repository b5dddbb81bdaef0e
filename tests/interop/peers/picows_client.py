"""The client of picows: frames and callbacks, without the layer that resembles websockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from picows import WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect

from tests.interop.peers.asyncio_runner import run_asyncio
from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONTROL = (WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE)


class Listener(WSListener):
    def __init__(self) -> None:
        self.messages: asyncio.Queue[str | bytes | tuple[int, str]] = asyncio.Queue()
        self.pong: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._kind = WSMsgType.TEXT
        self._message = b""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.PONG:
            self.pong.set_result(frame.get_payload_as_bytes())
        elif frame.msg_type is WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            self.messages.put_nowait((int.from_bytes(payload[:2], "big"), payload[2:].decode()))
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type not in _CONTROL:
            if frame.msg_type is not WSMsgType.CONTINUATION:
                self._kind, self._message = frame.msg_type, b""
            self._message += frame.get_payload_as_bytes()
            if frame.fin:
                text = self._kind is WSMsgType.TEXT
                self.messages.put_nowait(self._message.decode() if text else self._message)


class Connection:
    def __init__(self, transport: WSTransport, listener: Listener) -> None:
        self._transport = transport
        self._listener = listener
        self.subprotocol = transport.response.headers.get("Sec-WebSocket-Protocol")

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._transport.send(WSMsgType.TEXT, data.encode())
        else:
            self._transport.send(WSMsgType.BINARY, data)

    async def receive(self) -> str | bytes:
        message = await self._listener.messages.get()
        assert not isinstance(message, tuple), message
        return message

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        for number, piece in enumerate(pieces):
            kind = WSMsgType.CONTINUATION if number else WSMsgType.TEXT
            self._transport.send(kind, piece.encode(), fin=number == len(pieces) - 1)

    async def ping(self) -> None:
        self._transport.send_ping(b"ping")
        assert await self._listener.pong == b"ping"

    async def close(self, code: int, reason: str) -> None:
        self._transport.send_close(code, reason.encode())  # type: ignore[arg-type]  # its enumeration lacks 3000
        await self._transport.wait_disconnected()

    async def closed(self) -> tuple[int, str]:
        message = await self._listener.messages.get()
        assert isinstance(message, tuple), message
        return message


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    headers = {"Sec-WebSocket-Protocol": ", ".join(subprotocols)} if subprotocols else None
    try:
        transport, listener = await ws_connect(Listener, url, extra_headers=headers)
    except WSHandshakeError as error:
        raise RefusedError(error.response.status.value if error.response else 0) from error
    assert isinstance(listener, Listener)
    return Connection(transport, listener)


main(run_asyncio, open_connection)
