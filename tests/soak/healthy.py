"""Healthy peers: each checks the content and the order of everything that it is owed, and that it comes in time.

Whatever is wrong is an exception, which `serve_time` turns into a sentence; a peer whose server says goodbye at the
end of the soak has done its part. All waits are bounded.
"""

from __future__ import annotations

import json
import random
import zlib
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.raw_client import BINARY, CLOSE, CLOSE_1000, PING, PONG, TEXT, frame, handshake
from tests.soak.load import BINARY_BLOCK, GOODBYE, TEXT_BLOCK, GoodbyeError, Load, SharedClient, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["broadcast", "chat", "churn", "echo", "fill", "health", "quiet", "serve_time", "slow", "warm_up"]

_PATIENCE: Final = 20.0
"""Seconds within which every reply must come."""
_SIZES: Final = (0, 1, 20, 125, 126, 500, 1023, 1024, 4096, 16_384, 65_535, 65_536, 200_000)
_WEIGHTS: Final = (2, 5, 50, 5, 5, 20, 5, 5, 10, 2, 1, 1, 0.3)
_THINKING: Final = 5.0
"""Seconds between two turns of an echo peer, on average."""
_OFFER: Final = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
_RSV1: Final = 0x40
_TAIL: Final = b"\x00\x00\xff\xff"
_ROOM: Final = 10
"""People in a room of the chat."""
_HISTORY: Final = 1000
"""Messages of a room that the server keeps."""


async def serve_time(load: Load, kind: str, peer: Callable[[Load, int], Awaitable[None]], number: int) -> None:
    """Let a peer live one life after the other, until the server says goodbye or the soak is over."""
    while not load.terminating:
        try:
            await peer(load, number)
        except GoodbyeError:
            break
        except ConnectionRefusedError:
            if load.terminating:
                break
            load.errors.append(f"{kind}: the server does not listen")
            await trio.sleep(1.0)
        except (AssertionError, EOFError, OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as error:
            load.errors.append(f"{kind}{' at the shutdown' if load.terminating else ''}: {error!r}")
            if load.terminating:
                return
            await trio.sleep(1.0)
    load.parted += 1


class _Echo:
    """An echo, compressed or not: what is to come back, and when each was sent."""

    def __init__(self, load: Load, client: SharedClient, prefix: bytes, compressed: bool) -> None:
        self._load = load
        self._client = client
        self._prefix = prefix
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, -12) if compressed else None
        self._inflate = zlib.decompressobj(-12) if compressed else None

    async def turn(self, rng: random.Random, messages: int, least: int = 0) -> None:
        """Send some messages at once, and a ping sometimes, and read the replies in order.

        Each has `least` bytes or more.
        """
        text_only = bool(self._prefix)
        owed: list[tuple[int, bytes]] = []
        out = []
        pong = None
        for _ in range(messages):
            text = text_only or rng.random() < 0.5
            size = max(least, rng.choices(_SIZES, _WEIGHTS)[0])
            at = rng.randrange(len(TEXT_BLOCK) - size)
            payload = (TEXT_BLOCK if text else BINARY_BLOCK)[at : at + size]
            first = TEXT if text else BINARY
            owed.append((first, self._prefix + payload))
            if self._deflate is not None and size >= 100:
                packed = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
                out.append(frame(first | _RSV1, packed.removesuffix(_TAIL)))
            else:
                out.append(frame(first, payload))
        if rng.random() < 0.1:
            pong = b"%d" % rng.randrange(1 << 30)
            out.append(frame(PING, pong))
        sent = trio.current_time()
        with trio.fail_after(_PATIENCE):
            async with trio.open_nursery() as nursery:
                # Large ones may fill both directions: who only sends until all has left would wait for ever.
                nursery.start_soon(self._client.send, b"".join(out))
                while owed or pong is not None:
                    first, payload = await talk(self._load, self._client)
                    if first == PONG:
                        assert payload == pong, "a pong that nobody asked for"
                        pong = None
                        continue
                    assert owed, f"nothing was owed, but {first:#x} came"
                    assert (first & ~_RSV1, self._unpacked(first, payload)) == owed.pop(0), "a wrong reply"
                    self._load.replied(sent)

    def _unpacked(self, first: int, payload: bytes) -> bytes:
        if not first & _RSV1:
            return payload
        assert self._inflate is not None, "compressed, though that was not agreed"
        return self._inflate.decompress(payload + _TAIL)


async def _open(load: Load, client: SharedClient, path: str, compressed: bool) -> None:
    try:
        with trio.fail_after(_PATIENCE):
            await client.send(handshake(path, *([_OFFER] if compressed else [])))
            answer = await client.answer()
    except (EOFError, trio.BrokenResourceError):
        if load.terminating:  # the kernel took this connection, the server never did
            raise GoodbyeError from None
        raise
    if load.terminating and answer.status == 503:
        raise GoodbyeError
    assert answer.status == 101, answer
    said = answer.fields.get("sec-websocket-extensions")
    assert (said is not None) is compressed
    assert said is None or "client_max_window_bits=12" in said


async def _leave(load: Load, client: SharedClient) -> None:
    """Close, and see the server answer with the same code and end the connection."""
    with trio.fail_after(_PATIENCE):
        await client.send(CLOSE_1000)
        while True:
            first, payload = await talk(load, client)
            if first == CLOSE:
                assert payload == b"\x03\xe8", f"closed with {payload!r}"
                assert await client.ended() == b"", "something follows the server's Close"
                return


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a nursery: the server's goodbye, where one of its tasks heard that, else the first thing."""
    goodbye, _ = group.split(GoodbyeError)
    cause: BaseException = goodbye or group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause


async def _listen(load: Load, client: SharedClient, seconds: float) -> None:
    """Hear nothing but pings for a while. It ends between two frames, for what may come is small and comes whole."""
    with trio.move_on_after(seconds):
        first, _ = await talk(load, client)
        raise AssertionError(f"{first:#x} came unasked")


async def _session(load: Load, kind: str, number: int, turns: int, thinking: float) -> None:
    rng = random.Random()
    path = ("/echo", "/echo/task", "/communicate")[number % 3]
    compressed = number % 10 < 3
    async with load.connect(kind) as client:
        await _open(load, client, path, compressed)
        conversation = _Echo(load, client, b"Received:" if path == "/communicate" else b"", compressed)
        for turn in range(turns):
            try:
                if compressed and kind == "echo" and not turn:
                    # Enough to touch all that both contexts take: their pages are not to come little by little.
                    await conversation.turn(rng, 3, least=65_536)
                else:
                    await conversation.turn(rng, rng.choice((1, 1, 1, 2, 4)))
            except BaseExceptionGroup as group:
                raise _cause(group) from None
            await _listen(load, client, min(3 * thinking, rng.expovariate(1 / thinking)))
        if rng.random() < 0.7:
            if path == "/communicate":
                await _goodbye(load, client)
            else:
                await _leave(load, client)
        # Else it just goes away; the descriptor must come back all the same.


async def _goodbye(load: Load, client: SharedClient) -> None:
    """Leave /communicate, which says something before its Close."""
    with trio.fail_after(_PATIENCE):
        await client.send(CLOSE_1000)
        said = []
        while (message := await client.frame())[0] != CLOSE:
            if message[0] != PING:
                said.append(message)
        assert said == [(TEXT, GOODBYE)], f"{said!r} instead of a goodbye"
        assert message[1] == CLOSE_1000[-2:] or load.terminating, f"closed with {message[1]!r}"
        assert await client.ended() == b"", "something follows the server's Close"


async def echo(load: Load, number: int) -> None:
    """Live for minutes: mixed sizes, text and binary, pipelined or not, compressed or not."""
    await _session(load, "echo", number, turns=random.randrange(20, 60), thinking=_THINKING)


async def warm_up(load: Load) -> None:
    """Let the server do everything once, so that what it keeps for ever is there, and leave no connection."""
    for number in range(3):
        await _session(load, "warm-up", number, turns=3, thinking=0.01)


async def churn(load: Load, number: int) -> None:
    """Come, say little, and go."""
    await _session(load, "churn", number, turns=random.randrange(0, 4), thinking=1.0)


async def quiet(load: Load, number: int) -> None:
    """Say nothing and answer pings, for minutes; then something, which must still come back."""
    async with load.connect("quiet") as client:
        await _open(load, client, "/echo", False)
        await _listen(load, client, random.uniform(30.0, 120.0))
        try:
            await _Echo(load, client, b"", False).turn(random.Random(), 1)
        except BaseExceptionGroup as group:
            raise _cause(group) from None
        await _leave(load, client)


async def slow(load: Load, number: int) -> None:
    """Send much and read it back slowly, through a narrow window: everything must come, in order."""
    sizes = [8192] * 40
    async with load.connect("slow", narrow=True) as client:
        await _open(load, client, ("/echo", "/echo/task")[number % 2], False)
        out = b"".join(frame(BINARY, BINARY_BLOCK[at : at + size]) for at, size in enumerate(sizes))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, out)
                for at, size in enumerate(sizes):
                    with trio.fail_after(_PATIENCE):
                        assert await talk(load, client) == (BINARY, BINARY_BLOCK[at : at + size]), "a wrong reply"
                    load.replies += 1
                    await trio.sleep(0.3)
        except BaseExceptionGroup as group:
            raise _cause(group) from None
        await _leave(load, client)


async def health(load: Load, number: int) -> None:
    """Ask for /health, as a supervisor does."""
    async with load.connect("health") as client:
        for _ in range(20):
            sent = trio.current_time()
            with trio.fail_after(_PATIENCE):
                await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = await client.answer()
            assert answer.status == 200, answer
            load.replied(sent)
            await trio.sleep(0.5)


async def broadcast(load: Load, number: int) -> None:
    """Be one of those on /broadcast for the whole soak: every sender's messages come, each once and in order."""
    seen: dict[bytes, int] = {}
    numbers = count(1)
    async with load.connect("broadcast") as client:
        await _open(load, client, "/broadcast", False)
        try:
            async with trio.open_nursery() as nursery:
                if number < 8:
                    nursery.start_soon(_say, client, number, numbers)
                while True:
                    first, payload = await talk(load, client)
                    assert first == BINARY
                    sender, its_number, at, sent, rest = payload.split(b" ", 4)
                    assert seen.get(sender, int(its_number) - 1) == int(its_number) - 1, "one is missing or came twice"
                    seen[sender] = int(its_number)
                    assert rest == BINARY_BLOCK[int(at) : int(at) + len(rest)], "a wrong message"
                    assert len(rest) == 16_000
                    load.deliveries += 1
                    if int(sender) == number:
                        load.replied(float(sent))
        except BaseExceptionGroup as group:
            raise _cause(group) from None


async def _say(client: SharedClient, number: int, numbers: count[int]) -> None:
    for its_number in numbers:
        at = its_number % 1000
        head = b"%d %d %d %r " % (number, its_number, at, trio.current_time())
        with trio.fail_after(_PATIENCE):
            await client.send(frame(BINARY, head + BINARY_BLOCK[at : at + 16_000]))
        await trio.sleep(1.0)


class _Person:
    """Somebody in the chat, across reconnects."""

    def __init__(self, number: int) -> None:
        self.room = f"room {number // _ROOM}"
        self.session = f"soak-{number:012}-{random.randrange(1 << 40)}"
        self.last: int | None = None
        self.said = 0
        self.heard: dict[str, int] = {}
        self.sent_at: dict[str, float] = {}

    def hear(self, load: Load, message: dict[str, Any]) -> None:
        """Take a message that was said, live or missed."""
        assert self.last is None or message["id"] > self.last, "a message came twice, or out of order"
        self.last = message["id"]
        by, its_number = message["by"], int(message["text"].split()[0])
        assert self.heard.get(by, its_number - 1) == its_number - 1, "what somebody said is missing, or came twice"
        self.heard[by] = its_number
        load.deliveries += 1
        sent = self.sent_at.pop(message.get("client", ""), None)
        if sent is not None:
            load.replied(sent)


_PEOPLE: Final[dict[int, _Person]] = {}


async def fill(load: Load, people: int) -> None:
    """Fill the history of every room that so many people will be in, so that what it takes is there from the start."""
    async with trio.open_nursery() as nursery:
        for number in range(0, people, _ROOM):
            nursery.start_soon(_fill_room, load, f"room {number // _ROOM}")


async def _fill_room(load: Load, room: str) -> None:
    async with load.connect("warm-up") as client:
        await _open(load, client, "/chat", False)
        await _tell(client, type="hello", name="Filler", rooms=[{"room": room}])
        said = (
            frame(TEXT, json.dumps({"type": "message", "room": room, "text": f"{number} hello"}).encode())
            for number in range(1, _HISTORY + 1)
        )
        # The server reads fifty a second.
        with trio.fail_after(2 * _HISTORY / 50 + _PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, b"".join(said))
                heard = 0
                while heard < _HISTORY:
                    first, payload = await talk(load, client)
                    assert first == TEXT
                    heard += json.loads(payload)["type"] == "message"
            await client.send(CLOSE_1000)
            assert await client.closed() == (1000, "")


async def chat(load: Load, number: int) -> None:
    """Be in a room of the chat, talk and listen; leave after a while, and miss nothing by it."""
    person = _PEOPLE.setdefault(number, _Person(number))
    async with load.connect("chat") as client:
        await _open(load, client, "/chat", False)
        joining: dict[str, Any] = {"room": person.room}
        if person.last is not None:
            joining["last"] = person.last
        await _tell(client, type="hello", name=f"Person {number}", session=person.session, rooms=[joining])
        with trio.fail_after(_PATIENCE):
            while (await _hear(load, client, person)).get("event") != "members":
                pass
        until = trio.current_time() + random.uniform(20.0, 60.0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_chatter, client, person)
                while trio.current_time() < until:
                    await _hear(load, client, person)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _cause(group) from None
        with trio.fail_after(_PATIENCE):
            await client.send(CLOSE_1000)
            while (await _hear(load, client, person)).get("type") != "closed":
                pass
            assert await client.ended() == b"", "something follows the server's Close"
    person.sent_at.clear()


async def _tell(client: SharedClient, /, **message: Any) -> None:
    """Say something, all of it even where this is cancelled."""
    with trio.fail_after(_PATIENCE, shield=True):
        await client.send(frame(TEXT, json.dumps(message).encode()))


async def _hear(load: Load, client: SharedClient, person: _Person) -> dict[str, Any]:
    first, payload = await talk(load, client)
    if (first, payload) == (CLOSE, CLOSE_1000[-2:]):
        return {"type": "closed"}
    assert first == TEXT, f"{first:#x}: {payload!r}"
    message: dict[str, Any] = json.loads(payload)
    kind = message["type"]
    assert kind in ("welcome", "history", "presence", "message"), message
    if kind == "message":
        person.hear(load, message)
    elif kind == "history":
        assert person.last is None or message["kind"] == "missed", "messages were lost"
        for missed in message["messages"]:
            person.hear(load, missed)
    elif kind == "presence":
        person.last = max(person.last or 0, message["id"])
    return message


async def _chatter(client: SharedClient, person: _Person) -> None:
    while True:
        await trio.sleep(random.uniform(2.0, 15.0))
        person.said += 1
        name = f"{person.said}"
        person.sent_at[name] = trio.current_time()
        await _tell(client, type="message", room=person.room, text=f"{person.said} hello", client=name)
