"""A server that knows nothing: literal bytes out, bytes in, for tests of the client.

It shares no code with rawws, so that a mistake in rawws cannot hide in it. What it does with a connection is a
script: an async function of a `Host`. `serving` runs scripts behind both drivers of the client: behind TCP, which
the reactor serves, and behind memory streams.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import trio
from trio.testing import memory_stream_pair

import rawws
from tests.conftest import FAST_LANE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["DRIVERS", "DriverName", "Host", "Script", "frame", "serving", "url_of"]

DriverName: TypeAlias = Literal["reactor", "stream"]
DRIVERS: tuple[DriverName, ...] = ("reactor", "stream")


def frame(first: int, payload: bytes = b"") -> bytes:
    """A server's frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def url_of(server: rawws.Server, where: str = "ws://127.0.0.1") -> str:
    """The address of a server of rawws."""
    address = server.addresses[0]
    assert isinstance(address, tuple)
    return f"{where}:{address[1]}/"


class Host:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.fields: dict[str, str] = {}
        self.target = ""
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _need(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.stream.receive_some()
            assert data, f"end of stream after {bytes(self._buffer)!r}"
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def request(self) -> None:
        """Read the request, into `target` and `fields` (names in lower case)."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data = await self.stream.receive_some()
            assert data, "end of stream within a request"
            self._buffer += data
        lines = (await self._need(end + 4)).decode("ascii").split("\r\n")[:-2]
        method, self.target, version = lines[0].split(" ")
        assert (method, version) == ("GET", "HTTP/1.1")
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in self.fields, f"{name} is repeated"
            self.fields[name.lower()] = value

    async def accept(self, *fields: str, then: bytes = b"") -> None:
        """Read the request and answer 101, with more header fields, and bytes in the same segment."""
        await self.request()
        digest = hashlib.sha1((self.fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())
        head = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(digest.digest()).decode()}",
            *fields,
            "\r\n",
        ]
        await self.send("\r\n".join(head).encode() + then)

    async def frame(self) -> tuple[int, bytes]:
        """Read a client's frame: its first byte and its payload, which must be masked."""
        first, second = await self._need(2)
        assert second & 0x80, "a client masks"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self._need(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._need(8), "big")
        key = await self._need(4)
        payload = await self._need(size)
        return first, bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))

    async def close_frame(self) -> tuple[int, str]:
        """Read a Close frame: code and reason."""
        first, payload = await self.frame()
        assert first == 0x88, (first, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")

    async def rest(self) -> bytes:
        """Read everything up to the end of the stream, which may be a reset."""
        try:
            while data := await self.stream.receive_some():
                self._buffer += data
        except trio.BrokenResourceError:
            pass
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    async def closes(self) -> tuple[int, str]:
        """Answer the client's Close, end the connection, and return what the client's Close said."""
        said = await self.close_frame()
        await self.send(frame(0x88, said[0].to_bytes(2, "big")))
        await self.stream.aclose()
        return said


Script: TypeAlias = "Callable[[Host], Awaitable[object]]"


@asynccontextmanager
async def serving(
    script: Script, driver: DriverName = "stream"
) -> AsyncIterator[Callable[..., AbstractAsyncContextManager[rawws.WebSocket]]]:
    """Run a script for each connection; yields what connects, with the options of `rawws.connect`."""

    async def run(stream: trio.abc.HalfCloseableStream) -> None:
        async with stream:
            await script(Host(stream))

    async with trio.open_nursery() as nursery:

        def connect_stream(target: str = "/", **options: Any) -> AbstractAsyncContextManager[rawws.WebSocket]:
            options.setdefault("fast_lane", FAST_LANE)
            ours, theirs = memory_stream_pair()
            nursery.start_soon(run, theirs)
            return rawws.connect_stream(ours, f"ws://localhost{target}", **options)

        if driver == "stream":
            yield connect_stream
        else:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, run, listeners)

            def connect(target: str = "/", **options: Any) -> rawws.Connect:
                options.setdefault("fast_lane", FAST_LANE)
                return rawws.connect(f"ws://127.0.0.1:{port}{target}", **options)

            yield connect
        nursery.cancel_scope.cancel()
