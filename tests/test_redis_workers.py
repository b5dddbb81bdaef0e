"""Several server processes with one Redis: what their clients are promised when a worker, Redis or the network fails.

The clients do what the chat's protocol tells them to: they remember the last id, come back when a connection ends, to
another worker if need be, and send again what was not confirmed.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from tests.conftest import FAST_LANE
from tests.hostile.serving import eventually
from tests.proxy import Proxy
from tests.raw_client import BINARY, CLOSE, PING, TEXT, Client, frame
from tests.redis_server import RedisServer, running_redis
from tests.test_cli import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LANE: Final = () if FAST_LANE else ("--no-fast-lane",)
ROOM: Final = "tea"


class Worker:
    """A server process."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        found = re.search(r":(\d+)/$", line)
        assert found is not None, line
        self.process = process
        self.port = int(found[1])


@contextmanager
def workers(number: int, url: str, *arguments: str) -> Iterator[list[Worker]]:
    """Run servers that share a backplane."""
    with ExitStack() as stack:
        options = ("--port", "0", "--backplane", url, "--log-level", "critical", *LANE, *arguments)
        yield [Worker(*stack.enter_context(running(*options))) for _ in range(number)]


class Member:
    """A client of the chat that keeps to its protocol.

    Attributes:
        heard: the messages of the room, in the order in which they came: ids and texts.
        pending: texts that are not confirmed, by client id.
        errors: what the server could not do.
        gaps: how often it was told that something is missing.
        connections: how often it has been in the room.
    """

    def __init__(self, name: str, ports: list[int]) -> None:
        self.name = name
        self.heard: list[tuple[int, str]] = []
        self.pending: dict[str, str] = {}
        self.errors: list[str] = []
        self.gaps = 0
        self.connections = 0
        self.closed_with: list[int] = []
        self._ports = ports
        self._last: int | None = None
        self._numbers = count(1)
        self._client: Client | None = None
        self._sending = trio.Lock()  # what is said and what is said again come from different tasks

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.heard]

    async def run(self) -> None:
        """Be in the room, whatever happens."""
        for attempt in count():
            try:
                await self._be_in(self._ports[attempt % len(self._ports)])
            except (OSError, EOFError, trio.BrokenResourceError):
                await trio.sleep(0.05)
            finally:
                self._client = None

    async def say(self, text: str) -> None:
        client = f"{self.name}-{next(self._numbers)}"
        self.pending[client] = text
        if self._client is not None:
            await self._send(self._client, client)

    async def arrived(self) -> None:
        await eventually(lambda: self._client is not None)

    async def _send(self, connection: Client, client: str) -> None:
        async with self._sending:
            if client not in self.pending:
                return
            said = {"type": "message", "room": ROOM, "text": self.pending[client], "client": client}
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it is sent again after the next hello
                await connection.send(frame(TEXT, json.dumps(said).encode()))

    async def _be_in(self, port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = Client(stream)
            await client.open("/chat")
            entry = {"room": ROOM} if self._last is None else {"room": ROOM, "last": self._last}
            session = f"session-of-{self.name:->16}"
            hello = {"type": "hello", "name": self.name, "session": session, "rooms": [entry]}
            await client.send(frame(TEXT, json.dumps(hello).encode()))
            while True:
                first, payload = await client.frame()
                if first == CLOSE:
                    self.closed_with.append(int.from_bytes(payload[:2], "big"))
                    return
                if first != PING:
                    await self._hear(client, json.loads(payload))

    async def _hear(self, client: Client, message: dict[str, Any]) -> None:
        match message["type"]:
            case "message":
                self._take(message)
            case "history":
                for each in message["messages"]:
                    self._take(each)
            case "gap":
                self.gaps += 1
            case "confirmed":
                self.pending.pop(message["client"], None)
            case "error":
                self.errors.append(message["code"])
                assert message["code"] == "unavailable", message
                if "client" not in message:
                    raise EOFError("it is not in the room")
                await trio.sleep(0.1)
                await self._send(client, message["client"])
            case "presence":
                self._last = max(self._last or 0, message["id"])
                if message["event"] == "members":
                    self.connections += 1
                    sent: set[str] = set()
                    while unsent := [pending for pending in self.pending if pending not in sent]:
                        sent.add(unsent[0])
                        await self._send(client, unsent[0])
                    self._client = client

    def _take(self, message: dict[str, Any]) -> None:
        self.heard.append((message["id"], message["text"]))
        self._last = max(self._last or 0, message["id"])
        self.pending.pop(message.get("client", ""), None)


@asynccontextmanager
async def members(number: int, ports: list[int]) -> AsyncIterator[list[Member]]:
    """People in the room, spread over the workers."""
    people = [Member(f"m{index}", ports[index % len(ports) :] + ports[: index % len(ports)]) for index in range(number)]
    async with trio.open_nursery() as nursery:
        for member in people:
            nursery.start_soon(member.run)
            await member.arrived()
        yield people
        nursery.cancel_scope.cancel()


async def talk(people: list[Member], each: int, pause: float = 0.01) -> None:
    """Have everybody say something, in turn."""
    for number in range(each):
        for member in people:
            await member.say(f"{member.name} says {number}")
            await trio.sleep(pause)


def agree(people: list[Member], each: int) -> None:
    """Everybody has heard everything once, in one order, and everybody's own messages in theirs."""
    first = people[0].heard
    assert [id for id, _ in first] == sorted({id for id, _ in first})
    assert sorted(people[0].texts) == sorted(f"{m.name} says {n}" for m in people for n in range(each))
    for member in people:
        assert member.heard == first
        own = [text for text in people[0].texts if text.startswith(f"{member.name} ")]
        assert own == [f"{member.name} says {n}" for n in range(each)]


async def test_a_worker_that_is_killed_loses_nothing_and_its_clients_go_on_elsewhere(
    redis_server: RedisServer,
) -> None:
    redis_server.command("FLUSHALL")
    with workers(3, redis_server.url) as (one, two, three):
        async with members(6, [one.port, two.port, three.port]) as people:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, people, 40)
                await trio.sleep(0.8)
                one.process.kill()
            await eventually(lambda: not any(member.pending for member in people), 20)
            await eventually(lambda: all(len(member.heard) == 240 for member in people))
            agree(people, 40)
            assert [member.connections for member in people] == [2, 1, 1, 2, 1, 1]
            assert not any(member.gaps for member in people)


async def test_redis_stopped_for_ten_seconds_and_started_again_has_lost_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    with (
        running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server,
        workers(2, server.url) as (one, two),
    ):
        async with members(4, [one.port, two.port]) as people:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, people, 20, 0.1)
                await trio.sleep(1)
                server.stop()
                await trio.sleep(0.5)  # what was on its way has come
                acknowledged = people[0].texts
                await trio.sleep(10)  # twice as long as the chat waits for an answer
                assert not any(people[0].heard[len(acknowledged) :])
                await trio.to_thread.run_sync(server.start)
            await eventually(lambda: not any(member.pending for member in people), 20)
            await eventually(lambda: all(len(member.heard) == 80 for member in people))
            assert people[0].texts[: len(acknowledged)] == acknowledged
            # Who said something meanwhile was told that it was not delivered, and said it again.
            assert all("unavailable" in member.errors for member in people)
            assert sorted(people[0].texts) == sorted(f"{m.name} says {n}" for m in people for n in range(20))
            assert all(member.heard == people[0].heard for member in people)
            assert not any(member.gaps for member in people)


async def test_redis_started_again_empty_is_told_to_everybody_as_a_gap(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, workers(2, server.url) as (one, two):
        async with members(4, [one.port, two.port]) as people:
            await talk(people, 1)
            await eventually(lambda: all(len(member.heard) == 4 for member in people))
            server.stop()
            await trio.to_thread.run_sync(server.start)
            await eventually(lambda: all(member.gaps == 1 for member in people), 20)
            assert all(member.closed_with == [1012] for member in people)
            await eventually(lambda: all(member.connections == 2 for member in people))
            await people[0].say("after the gap")
            await eventually(lambda: all(member.texts[4:] == ["after the gap"] for member in people))


@asynccontextmanager
async def behind_a_proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(server.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


class Echo:
    """A connection to /echo, and the longest time that an echo took."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.number = 0

    async def run(self, port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = Client(stream)
            await client.open("/echo")
            while True:
                began = trio.current_time()
                await client.send(frame(TEXT, b"x"))
                assert await client.frame() == (TEXT, b"x")
                self.worst = max(self.worst, trio.current_time() - began)
                self.number += 1
                await trio.sleep(0.01)


async def test_a_slow_redis_slows_the_room_and_nothing_else(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    async with behind_a_proxy(redis_server) as proxy:
        with await trio.to_thread.run_sync(_entered, workers(1, proxy.url)) as (worker,):
            async with members(2, [worker.port]) as people, trio.open_nursery() as nursery:
                echo = Echo()
                nursery.start_soon(echo.run, worker.port)
                proxy.delay = 0.6
                began = trio.current_time()
                await talk(people, 5)
                await eventually(lambda: all(len(member.heard) == 10 for member in people), 30)
                assert trio.current_time() - began >= 1.2  # so much each way
                agree(people, 5)
                assert echo.number > 20
                assert echo.worst < 0.5
                assert not any(member.errors for member in people)
                nursery.cancel_scope.cancel()


async def test_a_partition_is_told_to_senders_and_ends_by_itself(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    async with behind_a_proxy(redis_server) as proxy:
        with await trio.to_thread.run_sync(_entered, workers(1, proxy.url)) as (worker,):
            async with members(2, [worker.port]) as people, trio.open_nursery() as nursery:
                echo = Echo()
                nursery.start_soon(echo.run, worker.port)
                proxy.freeze()
                await people[0].say("m0 says 0")
                await eventually(lambda: "unavailable" in people[0].errors, 7)
                await people[1].say("m1 says 0")
                proxy.thaw()
                await eventually(lambda: all(len(member.heard) == 2 for member in people), 20)
                agree(people, 1)
                assert echo.worst < 0.5
                nursery.cancel_scope.cancel()


class _entered:  # noqa: N801  it is used as a function
    """A context that was entered in a thread, while the proxy that it needs runs in Trio."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._value = context.__enter__()

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, *exc: object) -> None:
        self._context.__exit__(*exc)


async def test_a_broadcast_reaches_the_connections_of_all_workers_as_it_is(redis_server: RedisServer) -> None:
    with workers(2, redis_server.url) as (one, two), trio.fail_after(10):
        async with (
            await trio.open_tcp_stream("127.0.0.1", one.port) as near,
            await trio.open_tcp_stream("127.0.0.1", two.port) as far,
        ):
            sender, receiver = Client(near), Client(far)
            for client in (receiver, sender):
                await client.open("/broadcast")
                await client.send(frame(TEXT, b"here"))  # who hears itself is among them
                assert await client.frame() == (TEXT, b"here")
            assert await receiver.frame() == (TEXT, b"here")
            for first, payload in ((TEXT, "é".encode()), (BINARY, b"\x00\xff")):
                await sender.send(frame(first, payload))
                for client in (sender, receiver):
                    assert await client.frame() == (first, payload)


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="--workers needs a POSIX system")
async def test_the_workers_of_one_port_are_one_chat(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    with workers(1, redis_server.url, "--workers", "2") as (parent,):
        async with members(8, [parent.port]) as people:
            await talk(people, 3)
            await eventually(lambda: all(len(member.heard) == 24 for member in people))
            agree(people, 3)
        parent.process.terminate()
        await trio.to_thread.run_sync(parent.process.wait, 20)


@pytest.mark.parametrize("number", ["0", "2"])
async def test_a_second_signal_cuts_though_redis_is_silent(redis_server: RedisServer, number: str) -> None:
    redis_server.command("FLUSHALL")
    several = ("--log-level", "warning", *(("--workers", number) if number != "0" else ()))
    async with behind_a_proxy(redis_server) as proxy:
        with await trio.to_thread.run_sync(_entered, workers(1, proxy.url, *several)) as (worker,):
            async with members(4, [worker.port]):
                proxy.freeze()
            worker.process.terminate()
            await trio.sleep(0.5)
            assert worker.process.poll() is None  # the seats are to be given back
            began = trio.current_time()
            worker.process.terminate()
            await eventually(lambda: worker.process.poll() is not None, 20)
            assert trio.current_time() - began < 2
            assert worker.process.returncode == 0
            assert worker.process.stderr is not None
            assert worker.process.stderr.read() == ""  # nor has its parent killed one
