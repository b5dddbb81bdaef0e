"""The client of websocket-client, which blocks: each step is over when it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websocket import ABNF, WebSocket, WebSocketBadStatusException, create_connection

from tests.interop.peers.asyncio_runner import run_asyncio
from tests.interop.peers.scenario import RefusedError, main

if TYPE_CHECKING:
    from collections.abc import Sequence


class Connection:
    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self.subprotocol = ws.getsubprotocol()

    async def send(self, data: str | bytes) -> None:
        self._ws.send(data, ABNF.OPCODE_TEXT if isinstance(data, str) else ABNF.OPCODE_BINARY)

    async def receive(self) -> str | bytes:
        opcode, data = self._ws.recv_data()
        assert opcode in (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY), opcode
        return data.decode() if opcode == ABNF.OPCODE_TEXT else bytes(data)

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        for number, piece in enumerate(pieces):
            opcode = ABNF.OPCODE_CONT if number else ABNF.OPCODE_TEXT
            self._ws.send_frame(ABNF.create_frame(piece.encode(), opcode, fin=int(number == len(pieces) - 1)))

    async def ping(self) -> None:
        self._ws.ping(b"ping")
        opcode, frame = self._ws.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (ABNF.OPCODE_PONG, b"ping")

    async def close(self, code: int, reason: str) -> None:
        self._ws.close(code, reason.encode())

    async def closed(self) -> tuple[int, str]:
        opcode, frame = self._ws.recv_data_frame(control_frame=True)
        assert opcode == ABNF.OPCODE_CLOSE, opcode
        self._ws.close()
        return int.from_bytes(frame.data[:2], "big"), frame.data[2:].decode()


async def open_connection(url: str, *, subprotocols: Sequence[str] = (), window: int | None = None) -> Connection:
    try:
        return Connection(create_connection(url, timeout=30, subprotocols=list(subprotocols)))
    except WebSocketBadStatusException as error:
        raise RefusedError(error.status_code) from error


main(run_asyncio, open_connection)
