"""A client that knows nothing: literal bytes out, bytes in, cut only where HTTP and RFC 6455 say.

It shares no code with rawws, so that a mistake in rawws cannot hide in it. Frames are masked with a key that is
given, or with zeros, which RFC 6455 allows and which leaves the payload readable.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

import rawws
from tests.conftest import FAST_LANE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rawws.site import App

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
CLOSE_1000 = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # FIN and Close, masked with zeros, 2 bytes: 1000


def handshake(path: str = "/", *fields: bytes) -> bytes:
    """The example of RFC 6455 §1.3 for a path, with more header fields."""
    head = [
        b"GET " + path.encode() + b" HTTP/1.1",
        b"Host: server.example.com",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        *fields,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n"


def frame(first: int, payload: bytes = b"", key: bytes = b"\x00\x00\x00\x00") -> bytes:
    """A client's frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    if any(key):
        payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return head + key + payload


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    reason: str
    fields: dict[str, str]
    """Header fields, their names in lower case; none may be repeated but Connection, whose values are joined."""
    body: bytes


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ended(self) -> bytes:
        """What still comes until the server ends the connection, by FIN or reset."""
        try:
            while data := await self.stream.receive_some():
                self._buffer += data
        except trio.BrokenResourceError:
            pass
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError(f"the connection ended after {bytes(self._buffer)!r}")
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def answer(self, *, to_head: bool = False) -> Answer:
        """An HTTP answer; a body is as long as Content-Length says, but for the answer to a HEAD."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError(f"the connection ended after {bytes(self._buffer)!r}")
            self._buffer += data
        lines = (await self.exactly(end + 4)).decode("ascii").split("\r\n")[:-2]
        version, status, reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        fields: dict[str, str] = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            name = name.lower()
            assert name not in fields or name == "connection", f"{name} is repeated"
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        size = 0 if to_head else int(fields.get("content-length", 0))
        return Answer(int(status), reason, fields, await self.exactly(size))

    async def frame(self) -> tuple[int, bytes]:
        """The first byte of a server's frame, and its payload."""
        first, size = await self.exactly(2)
        assert size < 0x80, "a server's frame is masked"
        if size == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        return first, await self.exactly(size)

    async def open(self, path: str = "/", *fields: bytes) -> Answer:
        """Open a WebSocket."""
        await self.send(handshake(path, *fields))
        answer = await self.answer()
        assert answer.status == 101, answer
        assert answer.fields["sec-websocket-accept"] == ACCEPT.decode()
        return answer

    async def closed(self) -> tuple[int, str]:
        """The code and the reason of the Close frame that comes next, after which nothing comes."""
        first, payload = await self.frame()
        assert first == CLOSE, (first, payload)
        assert await self.ended() == b""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


@asynccontextmanager
async def serving(app: App, **options: Any) -> AsyncIterator[rawws.Server]:
    """Serve on a free port of loopback until the block ends."""
    options.setdefault("fast_lane", FAST_LANE)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, app, "127.0.0.1", 0, **options))
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(server: rawws.Server) -> AsyncIterator[Client]:
    """Connect to a server of `serving`."""
    address = server.addresses[0]
    assert isinstance(address, tuple)
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        yield Client(stream)


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)
