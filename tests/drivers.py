"""What the tests of connections share: servers over each driver, and a client that speaks literal bytes.

`Driver` makes servers of one kind (the reactor behind TCP, the driver of one stream behind memory or TLS), so
that one test class runs over all of them. `Peer` is the client: it sends what a test writes down and reads one
frame at a time. `Script` is a receiver for tests of a driver alone.

About clocks: `jumping_clock` jumps as soon as nothing has happened for 20 ms of real time. That is long enough
for what the kernel moves between two sockets of this process, so deadlines of minutes pass at once while bytes
are under way in real sockets.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Unpack

import trio
import trustme
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

import rawws
from rawws.transport import Receiver, Transport

from .conftest import FAST_LANE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rawws.server import Options
    from rawws.site import App

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "DRIVERS",
    "PING",
    "PONG",
    "REQUEST",
    "TEXT",
    "Driver",
    "DriverName",
    "Held",
    "Peer",
    "Script",
    "close",
    "frame",
    "jumping_clock",
    "request",
    "settle",
]

DriverName: TypeAlias = Literal["reactor", "stream", "tls"]
DRIVERS: Final[tuple[DriverName, ...]] = ("reactor", "stream", "tls")

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_KEY: Final = b"\x11\x22\x33\x44"


def jumping_clock() -> MockClock:
    """A clock that jumps over waiting, but not over what the kernel takes a moment for."""
    return MockClock(autojump_threshold=0.02)


def request(path: str = "/", *fields: str) -> bytes:
    """A handshake (the key is the example of RFC 6455 §1.3), with more header fields."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *fields,
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1")


REQUEST: Final = request()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame, masked (RFC 6455 §5.2)."""
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    size = len(payload)
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size <= 0xFFFF:
        header = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    # The mask is the same four bytes again and again, so masking is one exclusive or of two large numbers.
    mask = (_KEY * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
    return header + _KEY + masked


def close(code: int | None = 1000, reason: str = "") -> bytes:
    """A client's Close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


async def settle(passes: int = 20) -> None:
    """Let every other task run until it waits, sockets of this process included."""
    for _ in range(passes):
        await trio.lowlevel.checkpoint()


class Peer:
    """The client's end of a connection."""

    def __init__(self, stream: trio.abc.Stream, cut: Callable[[], object]) -> None:
        self.stream = stream
        self._cut = cut
        self._read = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def eof(self) -> None:
        """Send FIN, and go on reading."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    def cut(self) -> None:
        """End the connection without a word: a reset where there is a socket."""
        self._cut()

    async def _need(self, size: int) -> bytes:
        while len(self._read) < size:
            data = await self.stream.receive_some(1 << 20)
            assert data, f"end of stream after {bytes(self._read)!r}"
            self._read += data
        data = bytes(self._read[:size])
        del self._read[:size]
        return data

    async def head(self) -> bytes:
        """Read an HTTP head, through its empty line."""
        while b"\r\n\r\n" not in self._read:
            data = await self.stream.receive_some(1 << 20)
            assert data, f"end of stream after {bytes(self._read)!r}"
            self._read += data
        return await self._need(self._read.index(b"\r\n\r\n") + 4)

    async def frame(self) -> tuple[int, bytes]:
        """Read a server's frame: its first byte but for FIN, which it must have, and its payload."""
        first, second = await self._need(2)
        assert first & 0x80
        return first & 0x7F, await self._payload(second)

    async def fragment(self) -> tuple[int, bytes]:
        """Read a server's frame: its first byte and its payload."""
        first, second = await self._need(2)
        return first, await self._payload(second)

    async def _payload(self, second: int) -> bytes:
        assert not second & 0x80, "a server does not mask"
        size = second
        if size == 126:
            size = int.from_bytes(await self._need(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._need(8), "big")
        return await self._need(size)

    async def text(self) -> str:
        """Read a text message."""
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    async def close_frame(self) -> tuple[int, str]:
        """Read a Close frame: code and reason."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")

    async def rest(self) -> bytes:
        """Read everything up to the end of the stream, which may be a reset."""
        try:
            while data := await self.stream.receive_some(1 << 20):
                self._read += data
        except trio.BrokenResourceError:
            pass
        rest = bytes(self._read)
        self._read.clear()
        return rest

    async def open(self, data: bytes = REQUEST) -> bytes:
        """Send a handshake and read the head of the answer."""
        await self.send(data)
        return await self.head()


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert("localhost").configure_cert(context)
    return context


@cache
def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context


class Driver:
    """Servers over one kind of driver."""

    def __init__(self, name: DriverName) -> None:
        self.name = name

    @asynccontextmanager
    async def serve(self, app: App, **options: Unpack[Options]) -> AsyncIterator[Callable[..., Any]]:
        """Serve; give a coroutine function that connects a `Peer`, `narrow=True` one whose bytes do not pile up."""
        options.setdefault("fast_lane", FAST_LANE)
        peers: list[Peer] = []
        async with trio.open_nursery() as nursery:
            if self.name == "reactor":
                server = await nursery.start(partial(rawws.serve, app, "127.0.0.1", 0, **options))
                make = partial(self._connect, server.addresses[0][1])
            else:
                make = partial(self._pair, nursery, app, options)

            async def connect(*, narrow: bool = False) -> Peer:
                peers.append(await make(narrow=narrow))
                return peers[-1]

            try:
                yield connect
            finally:
                for peer in peers:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(peer.stream)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open(
        self, *fields: str, narrow: bool = False, **options: Unpack[Options]
    ) -> AsyncIterator[tuple[rawws.WebSocket, Peer]]:
        """An open connection from both ends; its handler waits, and the test does the rest."""
        held = Held()
        async with self.serve(held, **options) as connect:
            peer = await connect(narrow=narrow)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.open, request("/", *fields))
                    ws = await held.next()
                    await ws.accept()
            await settle()
            yield ws, peer
            held.done.set()

    async def _connect(self, port: int, *, narrow: bool = False) -> Peer:
        sock = trio.socket.socket()
        if narrow:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", port))
        stream = trio.SocketStream(sock)

        def cut() -> None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

        return Peer(stream, cut)

    async def _pair(self, nursery: trio.Nursery, app: App, options: Options, *, narrow: bool = False) -> Peer:
        ours: trio.abc.HalfCloseableStream
        theirs: trio.abc.HalfCloseableStream
        ours, theirs = lockstep_stream_pair() if narrow else memory_stream_pair()

        def cut() -> None:
            assert isinstance(theirs, trio.StapledStream)
            for half in (theirs.send_stream, theirs.receive_stream):
                half.close()

        if self.name == "stream":
            nursery.start_soon(partial(rawws.serve_stream, app, ours, **options))
            return Peer(theirs, cut)
        server = trio.SSLStream(ours, server_context(), server_side=True, https_compatible=True)
        client = trio.SSLStream(theirs, client_context(), server_hostname="localhost", https_compatible=True)
        nursery.start_soon(partial(rawws.serve_stream, app, server, **options))
        await client.do_handshake()
        return Peer(client, cut)


class Held:
    """A handler that hands its connection over and waits until it may end."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[rawws.WebSocket](1000)
        self.done = trio.Event()

    async def __call__(self, ws: rawws.WebSocket) -> None:
        self._send.send_nowait(ws)
        await self.done.wait()

    async def next(self) -> rawws.WebSocket:
        return await self._receive.receive()


class Script(Receiver):
    """A receiver that writes down what it is told; `on` says what else it does."""

    def __init__(self, transport: Transport, **on: Callable[..., Any]) -> None:
        self.transport = transport
        self.on = on
        self.told: list[tuple[Any, ...]] = []
        self.depth = 0
        self.ended = trio.Event()
        self.received = bytearray()

    def _tell(self, what: str, *args: Any) -> Any:
        assert not self.depth, "a receiver is never called from inside of its own call"
        self.depth += 1
        try:
            self.told.append((what, *args))
            return self.on[what](self.transport, *args) if what in self.on else None
        finally:
            self.depth -= 1

    @property
    def names(self) -> list[str]:
        return [entry[0] for entry in self.told]

    def data(self, data: bytes, now: float) -> None:
        self.received += data
        self._tell("data", data)

    def proceed(self, now: float) -> None:
        self._tell("proceed")

    def drained(self) -> None:
        self._tell("drained")

    def due(self, now: float) -> float:
        when = self._tell("due")
        return float("inf") if when is None else float(when)

    def stalled(self, seconds: float) -> None:
        self._tell("stalled", seconds)

    def eof(self, error: Exception | None) -> None:
        self._tell("eof", error)
        self.ended.set()
