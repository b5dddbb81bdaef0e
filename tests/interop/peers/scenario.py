"""What a client plays: one short exchange for each cell, over whatever library it is written with.

A client program calls `main` with a function that opens a connection. The cells' names come on the command
line after the server's addresses in JSON, `{"": "ws://…", "9": "ws://…", …}`: the server on the address of a
number limits both of its windows of permessage-deflate to that many bits. A line of JSON is printed for each
cell that was played, `{"cell": …}`, with a `problem` when it went wrong, and for the cells of compression with
the bytes that the messages took on the wire.

The server's side of the agreement, by path: `/echo` sends every message back, `/fragments` sends it back in
three fragments, `/ping` pings, waits for the pong and says `pong`, `/close/CODE` closes with that code, `/wire`
is `/echo` but for the text `wire`, which it answers with the bytes that it has received and sent, `/seen`
tells the code and the reason that `/end` was closed with, `/refuse` answers 403; and everywhere the subprotocol
`second` is chosen where it is offered.
"""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["ALL_CODES", "REASON", "SUBPROTOCOLS", "WINDOWS", "Connection", "RefusedError", "main", "message"]

TEXT: Final = "grüße, €, \U0001f600"
REASON: Final = "bye, é"
SUBPROTOCOLS: Final = ("first", "second")
WINDOWS: Final = range(9, 16)
ALL_CODES: Final = (1000, 1001, 1008, 1011, 3000, 4999)


class RefusedError(Exception):
    """The server did not let the client in; the argument is the status of its answer."""


class Connection(Protocol):
    """One open connection of the library under test."""

    @property
    def subprotocol(self) -> str | None: ...

    async def send(self, data: str | bytes) -> None: ...

    async def receive(self) -> str | bytes: ...

    async def send_fragments(self, pieces: Sequence[str]) -> None:
        """Send one text message in a frame for each piece."""

    async def ping(self) -> None:
        """Send a ping and wait for its pong."""

    async def close(self, code: int, reason: str) -> None:
        """Close, and wait for the end of the connection."""

    async def closed(self) -> tuple[int, str]:
        """Wait for the server's Close, and return its code and reason."""


class Connect(Protocol):
    """Opens a connection; raises RefusedError."""

    def __call__(
        self, url: str, *, subprotocols: Sequence[str] = (), window: int | None = None
    ) -> Awaitable[Connection]:
        """Open a connection, with permessage-deflate where the library has it.

        Args:
            url: where to.
            subprotocols: those to offer.
            window: the bits of both windows to ask the server for.
        """


def message() -> str:
    """Return a text that takes the fewer bytes the larger the window is that it is deflated with.

    For each window it has as much text in blocks of random letters, three quarters as long as the window, each of
    them twice.
    """
    number = 1
    text = []
    for bits in WINDOWS:
        for _ in range(1 << (WINDOWS[-1] - bits)):
            block = []
            for _ in range(3 << (bits - 2)):
                number = (number * 75 + 74) % 65537
                block.append("abcdefghijklmnop"[number // 16 % 16])
            text.append("".join(block) * 2)
    return "".join(text)


class _Player:
    def __init__(self, connect: Connect, urls: dict[str, str]) -> None:
        self._connect = connect
        self._urls = urls

    async def _open(self, path: str, **options: Any) -> Connection:
        return await self._connect(self._urls[""] + path, **options)

    async def _echo(self, *messages: str | bytes) -> None:
        connection = await self._open("/echo")
        for sent in messages:
            await connection.send(sent)
            _expect(await connection.receive(), sent)
        await connection.close(1000, "")

    async def text(self) -> None:
        await self._echo(TEXT)

    async def binary(self) -> None:
        await self._echo(bytes(range(256)))

    async def empty(self) -> None:
        await self._echo("", b"")

    async def large(self) -> None:
        await self._echo(bytes(range(256)) * 4096, "é" * (1 << 19))

    async def client_fragments(self) -> None:
        connection = await self._open("/echo")
        # The second piece ends within a character, as a fragment may where the library lets it.
        await connection.send_fragments(["Zwölf ", "Boxkämpfer", " jagen Viktor"])
        _expect(await connection.receive(), "Zwölf Boxkämpfer jagen Viktor")
        await connection.close(1000, "")

    async def server_fragments(self) -> None:
        connection = await self._open("/fragments")
        for sent in (TEXT * 40, bytes(range(256))):
            await connection.send(sent)
            _expect(await connection.receive(), sent)
        await connection.close(1000, "")

    async def asked(self) -> dict[str, list[int]]:
        return await self._compressed({bits: (self._urls[""], bits) for bits in WINDOWS})

    async def given(self) -> dict[str, list[int]]:
        return await self._compressed({bits: (self._urls[str(bits)], None) for bits in WINDOWS})

    async def _compressed(self, ways: dict[int, tuple[str, int | None]]) -> dict[str, list[int]]:
        """Send the text there and back for each window; return what it took from the client and from the server."""
        text = message()
        sizes: dict[str, list[int]] = {"client": [], "server": []}
        for url, window in ways.values():
            connection = await self._connect(url + "/wire", window=window)
            before = await self._wire(connection)
            await connection.send(text)
            _expect(await connection.receive(), text)
            after = await self._wire(connection)
            # What asking itself takes is the same for every window, and a few bytes.
            sizes["client"].append(after[0] - before[0])
            sizes["server"].append(after[1] - before[1])
            await connection.close(1000, "")
        return sizes

    async def _wire(self, connection: Connection) -> list[int]:
        """The bytes that have come from the client and from the server."""
        if (counted := getattr(connection, "wire", None)) is not None:
            return list(counted())
        await connection.send("wire")
        return [int(count) for count in json.loads(await connection.receive())]

    async def subprotocol(self) -> None:
        connection = await self._open("/echo", subprotocols=SUBPROTOCOLS)
        _expect(connection.subprotocol, "second")
        await connection.close(1000, "")
        connection = await self._open("/echo")
        _expect(connection.subprotocol, None)
        await connection.close(1000, "")

    async def client_ping(self) -> None:
        connection = await self._open("/echo")
        await connection.ping()
        await connection.close(1000, "")

    async def server_ping(self) -> None:
        connection = await self._open("/ping")
        _expect(await connection.receive(), "pong")
        await connection.close(1000, "")

    async def client_close(self) -> None:
        for code in ALL_CODES:
            connection = await self._open("/end")
            await connection.close(code, REASON)
            connection = await self._open("/seen")
            seen = json.loads(await connection.receive())
            # Null is what the server does not tell its application.
            _expect(seen, [None if seen[0] is None else code, None if seen[1] is None else REASON])
            await connection.close(1000, "")

    async def server_close(self) -> None:
        for code in ALL_CODES:
            connection = await self._open(f"/close/{code}")
            _expect(await connection.closed(), (code, REASON))

    async def refusal(self) -> None:
        try:
            await self._open("/refuse")
        except RefusedError as error:
            _expect(error.args[0], 403)
        else:
            raise AssertionError("the refusal was no error")


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{_short(found)} instead of {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:60]}… ({len(text)} characters)"


async def _play(connect: Connect, urls: dict[str, str], cells: Sequence[str]) -> None:
    player = _Player(connect, urls)
    for cell in cells:
        told: dict[str, object] = {"cell": cell}
        try:
            told |= await getattr(player, cell)() or {}
        except Exception as error:
            traceback.print_exc()
            told["problem"] = f"{type(error).__name__}: {error}"
        print(json.dumps(told), flush=True)


def main(run: Callable[..., object], connect: Connect) -> None:
    """Play what the command line asks for.

    Args:
        run: `trio.run` or `run_asyncio`.
        connect: opens a connection.
    """
    run(_play, connect, json.loads(sys.argv[1]), sys.argv[2:])


def pieces(data: str | bytes) -> list[Any]:
    """Cut a message into three, for `/fragments`."""
    third = -(-len(data) // 3)
    return list(itertools.chain(data[at : at + third] for at in range(0, len(data), third)))
