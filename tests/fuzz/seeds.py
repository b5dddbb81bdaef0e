"""Seeds from the Autobahn suite: what its client sends in each case, recorded, and cut down to what a fuzzer can use.

A server of ours is played against in this process; the stream below it keeps what arrives. Of each connection the
head and the first frames are kept, up to `_MOST` bytes, with constant masking keys and a constant Sec-WebSocket-Key.
Each becomes an input of every target whose language it speaks. Cases that only differ in the size of messages (9,
and most of 12 and 13) would give nothing that the others do not.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

import rawws
from rawws.echo import applications
from rawws.limits import Limits
from tests.autobahn.plan import Agent, Shard
from tests.autobahn.play import Player
from tests.autobahn.suite import install
from tests.test_handshake import CHROME
from tests.test_request_reader import REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["record"]

_LEFT_OUT: Final = re.compile(r"9\.|1[23]\.\d+\.([2-9]|1\d)$")
_MASK: Final = b"\x37\xfa\x21\x3d"  # the masking key of RFC 6455 §5.7
_MOST: Final = 480
_SECONDS: Final = 300.0
_KEY: Final = re.compile(rb"(?<=Sec-WebSocket-Key: )\S+")
_PORT: Final = re.compile(rb"(?<=127\.0\.0\.1:)\d+")
_USER_AGENT: Final = re.compile(rb"User-Agent: [^\r]*\r\n")
_OFFERS: Final = re.compile(rb"Sec-WebSocket-Extensions: ([^\r]*)\r\n")


_UPGRADE: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
_RESPONSES: Final = (
    _UPGRADE + b"\r\n\x81\x05Hello",
    _UPGRADE + b"Sec-WebSocket-Protocol: chat\r\n\r\n",
    _UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n\r\n\xc1\x00",
    _UPGRADE.replace(b"s3pP", b"S3pP") + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + _UPGRADE + b"\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere?a=b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: wss://user:secret@example.org/\r\n\r\n",
    b"HTTP/1.1 301 Moved Permanently\r\nLocation: http://localhost:8001/\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever and more",
    b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlater\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
)
"""What servers answer to a client; the suite's own client shows none of it."""


class _Frame(NamedTuple):
    """A client's frame, its payload without the mask."""

    first: int
    second: int
    extended: bytes
    """The rest of the length."""
    payload: bytes

    @property
    def from_client(self) -> bytes:
        """As a client sends it; where it was masked, every other size is masked with zeros, the rest as in RFC 6455."""
        head = bytes((self.first, self.second)) + self.extended
        if not self.second & 0x80:
            return head + self.payload
        key = _MASK if len(self.payload) % 2 else bytes(4)
        return head + key + _masked(self.payload, key)

    @property
    def from_server(self) -> bytes:
        """As a server would have sent it."""
        return bytes((self.first, self.second & 0x7F)) + self.extended + self.payload


class _Recorder(trio.abc.HalfCloseableStream):
    """A stream that keeps what comes out of it."""

    def __init__(self, stream: trio.SocketStream, heard: bytearray) -> None:
        self._stream = stream
        self._heard = heard

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self._heard += data
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Listener(trio.abc.Listener[_Recorder]):
    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.heard: list[bytearray] = []

    async def accept(self) -> _Recorder:
        stream = await self._listener.accept()
        self.heard.append(bytearray())
        return _Recorder(stream, self.heard[-1])

    async def aclose(self) -> None:
        await self._listener.aclose()


def record(home: Path) -> dict[str, list[bytes]]:
    """Play the suite, which is installed beside `home` when it is not, and return inputs by target.

    Raises:
        SuiteUnavailableError: the suite cannot be had.
        RuntimeError: it could not be played.
    """
    suite = install(home.parent / "autobahn")
    cases = tuple(case for case in suite.cases() if not _LEFT_OUT.match(case))
    with TemporaryDirectory() as reports:
        player = Player(suite, Path(reports), sys.executable, 1)
        heard = trio.run(_play, player, cases)
    if player.errors:
        raise RuntimeError("; ".join(player.errors))
    return _inputs(heard)


async def _play(player: Player, cases: tuple[str, ...]) -> list[bytes]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    recording = _Listener(listener)
    agent = Agent("recording", "/echo", True, cases)
    async with trio.open_nursery() as nursery:
        limits = Limits(max_message_size=1 << 24)
        await nursery.start(partial(rawws.serve_listeners, applications(), [recording], limits=limits))
        shard = Shard(agent, "all", cases)
        await player.play([shard], {agent: f"ws://127.0.0.1:{port}/echo"}, _SECONDS)
        nursery.cancel_scope.cancel()
    return [bytes(stream) for stream in recording.heard]


def _frames(stream: bytes) -> Iterator[_Frame]:
    """Cut a client's stream into frames and take the masks off, as far as it goes and its headers can be believed."""
    at = 0
    while len(stream) - at >= 2:
        first, second = stream[at], stream[at + 1]
        size, begin = second & 0x7F, at + 2
        extended = stream[begin : begin + {126: 2, 127: 8}.get(size, 0)]
        begin += len(extended)
        if extended:
            size = int.from_bytes(extended, "big")
        key = bytes(4)
        if second & 0x80:
            key = stream[begin : begin + 4].ljust(4, b"\x00")
            begin += 4
        at = begin + size
        yield _Frame(first, second, extended, _masked(stream[begin:at], key))


def _masked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def _inputs(heard: list[bytes]) -> dict[str, list[bytes]]:
    inputs: defaultdict[str, set[bytes]] = defaultdict(set)
    heads = {CHROME, *(head for param in REFUSED if isinstance(head := param.values[0], bytes) and len(head) < _MOST)}
    for stream in heard:
        head, end, rest = stream.partition(b"\r\n\r\n")
        head = _USER_AGENT.sub(b"", _PORT.sub(b"8000", _KEY.sub(b"dGhlIHNhbXBsZSBub25jZQ==", head + end)))
        heads.add(head)
        if offer := _OFFERS.search(head):
            for name in ("offers", "answers"):  # an answer is written in the language of offers
                inputs[name] |= {bytes((wishes, wishes)) + offer[1] for wishes in (3, 0x86)}
        kept: list[_Frame] = []
        for frame in _frames(rest):
            kept.append(frame)
            if sum(len(frame.from_client) for frame in kept) > _MOST:
                kept.pop()
                break
        if not kept:
            continue
        compressed = any(frame.first & 0x40 for frame in kept)
        # The largest limits, reads of seven bytes; for the connection, callbacks that echo, and reads of a frame.
        for suffix in ("_deflate",) if compressed else ("", "_deflate"):
            inputs[f"server_frames{suffix}"].add(b"\x0f\x07" + b"".join(frame.from_client for frame in kept))
            inputs[f"client_frames{suffix}"].add(b"\x0f\x07" + b"".join(frame.from_server for frame in kept))
        steps = b""
        for frame in kept:
            piece = frame.from_client
            for start in range(0, len(piece), 255):
                steps += b"\x00" + bytes((len(piece[start : start + 255]),)) + piece[start : start + 255]
        inputs["connection"].add(bytes((4 if compressed else 0, 1)) + steps)
    inputs["heads"] = {b"\x00\x07" + head for head in heads}
    inputs["responses"] = {bytes((wishes, 7)) + answer for wishes in (2, 4) for answer in _RESPONSES}
    return {name: sorted(found) for name, found in inputs.items()}
