"""What every peer of a soak shares: where the server is, what is sent, what was counted, how a peer connects.

Messages are slices of one block that is made from a fixed seed, so that a reply can be compared with what it should
be for the cost of a comparison.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import trio

from tests.raw_client import CLOSE, PING, PONG, Client, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "BINARY_BLOCK",
    "GOODBYE",
    "SOON",
    "TEXT_BLOCK",
    "GoodbyeError",
    "Load",
    "SharedClient",
    "talk",
]

_SOURCES: Final = 16
"""Addresses of loopback that peers come from, so that the ports of one do not run out."""
_BLOCK: Final = 1 << 19
_RANDOM: Final = random.Random(5)
BINARY_BLOCK: Final = _RANDOM.randbytes(_BLOCK)
TEXT_BLOCK: Final = "".join(_RANDOM.choices("abcdefghij klmnopqrstuvwxyz", k=_BLOCK)).encode()
"""Text that deflate makes smaller, ASCII so that it may be cut anywhere."""
_CLOSE_1001: Final = b"\x03\xe9"
GOODBYE: Final = b"Bye!!!"
SOON: Final = 15.0
"""Seconds within which what depends on nothing else happens, on a machine that does other things too."""


class GoodbyeError(Exception):
    """The server has said that it is being shut down: the end of a peer's part, and no fault."""


@final
class SharedClient(Client):
    """A client that two tasks may send with: one what it wants to say, one what pings ask for."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._sending = trio.Lock()
        self._pongs: list[bytes] = []

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await super().send(data)
            while self._pongs:
                await super().send(self._pongs.pop(0))

    async def pong(self, payload: bytes) -> None:
        """Answer a ping; where another task is sending, it does so when it is done, for who reads must not wait."""
        if self._sending.locked():
            self._pongs.append(frame(PONG, payload))
        else:
            await self.send(frame(PONG, payload))


@final
class Load:
    """The state of the whole soak.

    Attributes:
        port: of the server on loopback.
        open: connections by kind of peer.
        errors: what went wrong at healthy peers, a sentence each.
        spared: hostile peers that did not get what they deserve, a sentence each.
        replies, deliveries, connects: how many there have been.
        attacks: how many hostile peers got what they deserve, by kind.
        terminating: whether the server has been told to shut down.
        parted: peers that were told so by 1001, or came just then and were turned away.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.open: dict[str, int] = {}
        self.errors: list[str] = []
        self.spared: list[str] = []
        self.replies = 0
        self.deliveries = 0
        self.connects = 0
        self.attacks: dict[str, int] = {}
        self.terminating = False
        self.parted = 0
        self._latencies: list[float] = []
        self._next_source = 0

    def connections(self) -> int:
        """Connections that are open now."""
        return sum(self.open.values())

    def replied(self, since: float) -> None:
        """Count a reply to what was sent at the time `since`."""
        self.replies += 1
        self._latencies.append(trio.current_time() - since)

    def take_latencies(self) -> list[float]:
        """Seconds from message to reply, of all replies since the last call."""
        taken, self._latencies = self._latencies, []
        return taken

    @asynccontextmanager
    async def connect(self, kind: str, *, narrow: bool = False) -> AsyncIterator[SharedClient]:
        """Connect, and count; `narrow` makes the window for what the server sends as small as it gets."""
        self._next_source = (self._next_source + 1) % _SOURCES
        sock = trio.socket.socket()
        try:
            if narrow:
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await sock.bind((f"127.0.0.{2 + self._next_source}", 0))
            await sock.connect(("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        stream = trio.SocketStream(sock)
        self.connects += 1
        self.open[kind] = self.open.get(kind, 0) + 1
        try:
            yield SharedClient(stream)
        finally:
            self.open[kind] -= 1
            sock.close()


async def talk(load: Load, client: SharedClient) -> tuple[int, bytes]:
    """Read the next message of a server, answering its pings.

    Raises:
        GoodbyeError: the server shuts down, has said so and ended the connection.
    """
    while True:
        first, payload = await client.frame()
        if first == PING:
            await client.pong(payload)
        elif load.terminating and payload == GOODBYE:
            pass  # what /communicate says before it closes
        elif first == CLOSE and load.terminating and payload[:2] == _CLOSE_1001:
            # To the end, also where whoever listens had only a moment for it: the goodbye is said once.
            with trio.fail_after(SOON, shield=True):
                await client.send(frame(CLOSE, _CLOSE_1001))
                assert await client.ended() == b"", "something follows the server's Close"
            raise GoodbyeError
        else:
            return first, payload
