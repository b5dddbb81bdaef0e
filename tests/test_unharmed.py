"""The first test of all: whatever one client does, a hundred others see nothing of it.

A hundred healthy clients echo without a pause over TCP, half of them with a `Protocol`, half with tasks, while
one bad client after another sends what wsproto and h11 get wrong, noise, half a handshake, makes a handler raise,
resets its connection, or never reads. The server and its clients share one process and one Trio run, so its memory can
be read and its log heard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import rawws
from tests.raw_client import CLOSE, KEY, TEXT, Client, connected, echo, frame, handshake, serving
from tests.test_traps import BAD_FRAMES, BAD_HEADS, DEFLATE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rawws.site import Handler

HEALTHY = 100
MIB = 1024 * 1024

Attack = tuple[str, "Callable[[Client], Awaitable[object]]"]


class Healthy:
    """Clients that send, read their echo and send again."""

    def __init__(self) -> None:
        self.echoes = [0] * HEALTHY
        self._missing: set[int] = set()
        self._all_echoed = trio.Event()

    async def run(self, server: rawws.Server, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with connected(server) as client:
            await client.open("/protocol" if number % 2 else "/task")
            task_status.started()
            message = b"from client %d, " % number
            while True:
                payload = message + b"%d" % self.echoes[number]
                await client.send(frame(TEXT, payload, key=b"\x01\x02\x03\x04"))
                assert await client.frame() == (TEXT, payload)
                self.echoes[number] += 1
                self._missing.discard(number)
                if not self._missing:
                    self._all_echoed.set()

    async def wait_for_another_echo_of_each(self) -> None:
        self._missing = set(range(HEALTHY))
        self._all_echoed = trio.Event()
        with trio.fail_after(5):
            await self._all_echoed.wait()


class Failing(rawws.Protocol):
    """An application of bugs: it raises where the path says."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_open(self, ws: rawws.WebSocket) -> None:
        self._fail("on_open")

    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        self._fail("on_message")

    def on_closing(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self._fail("on_closing")

    def on_close(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self._fail("on_close")

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(f"{where} raises")


async def raise_at_once(ws: rawws.WebSocket) -> None:
    raise RuntimeError("the handler raises")


async def raise_later(ws: rawws.WebSocket) -> None:
    await ws.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_at_once, ws)


async def pour(ws: rawws.WebSocket) -> None:
    while True:
        await ws.send(bytes(100_000))


class Pour(rawws.Protocol):
    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        for _ in range(1000):
            ws.send_nowait(bytes(100_000))


FAILING = [Failing(where) for where in ("on_open", "on_message", "on_closing", "on_close")]
APPS: dict[str, Handler | rawws.Protocol] = {
    "/protocol": rawws.EchoProtocol(),
    "/task": echo,
    **{f"/{app.where}": app for app in FAILING},
    "/raises": raise_at_once,
    "/raises/later": raise_later,
    "/pours": pour,
    "/pours/protocol": Pour(),
}


def sending(data: bytes) -> Callable[[Client], Awaitable[object]]:
    """Send bytes, and read until the server ends the connection or has had the time to."""

    async def attack(client: Client) -> None:
        async def push() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            with trio.move_on_after(0.05):
                await client.ended()
            nursery.cancel_scope.cancel()

    return attack


def reset(data: bytes) -> Callable[[Client], Awaitable[object]]:
    async def attack(client: Client) -> None:
        await client.send(data)
        await trio.sleep(0.005)
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return attack


def never_reading(path: str) -> Callable[[Client], Awaitable[object]]:
    async def attack(client: Client) -> None:
        await client.open(path)
        with trio.move_on_after(0.3):
            while True:
                await client.send(frame(TEXT, b"x" * 100_000))

    return attack


def attacks() -> Iterator[Attack]:
    for head in BAD_HEADS:
        yield f"row {head.row}: {head.what}", sending(head.sends)
    for bad in BAD_FRAMES:
        for path in ("/protocol", "/task"):
            yield f"row {bad.row}: {bad.what}", sending(handshake(path, *bad.offers) + bad.sends)
    noise = random.Random(7)
    for number in range(10):
        data = noise.randbytes(noise.randrange(1, 100_000))
        yield f"noise {number}", sending(data)
        yield f"noise {number} after a request line", sending(b"GET / HTTP/1.1\r\n" + data)
        yield f"noise {number} as frames", sending(handshake("/task", DEFLATE) + data)
        yield f"noise {number} in a message", sending(handshake("/protocol", DEFLATE) + frame(0xC1, data))
    for number in range(len(handshake()))[:: len(handshake()) // 8]:
        yield f"{number} bytes of a handshake", sending(handshake()[:number])
        yield f"{number} bytes of a handshake, then a reset", reset(handshake()[:number])
    for app in FAILING:
        yield f"{app.where} raises", sending(handshake(f"/{app.where}") + frame(TEXT, b"x") + frame(CLOSE, b"\x03\xe8"))
    for path in ("/raises", "/raises/later"):
        yield f"{path} raises", sending(handshake(path) + frame(TEXT, b"x") * 2)
    for path in ("/protocol", "/task", "/pours", "/pours/protocol"):
        yield f"a reset on {path}", reset(handshake(path) + frame(TEXT, b"x" * 1000) * 50)
        yield f"never reading from {path}", never_reading(path)


def memory(what: str) -> int:
    """A line of this process's status, in bytes: VmRSS for what it has, VmHWM for the most that it had."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def forget_highest_memory() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_hundred_healthy_clients_see_nothing_of_what_a_bad_one_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rawws")
    healthy = Healthy()
    lines: dict[str, list[str]] = {}
    async with serving(APPS) as server, trio.open_nursery() as nursery:
        for number in range(HEALTHY):
            await nursery.start(healthy.run, server, number)
        await healthy.wait_for_another_echo_of_each()
        before = forget_highest_memory()
        for name, attack in attacks():
            heard = len(caplog.records)
            async with connected(server) as client:
                await attack(client)
            await healthy.wait_for_another_echo_of_each()
            # But for the line that every connection has in its end, which may come when the next one is here already.
            said = [record for record in caplog.records[heard:] if not hasattr(record, "rawws")]
            lines[name] = [record.getMessage() for record in said]
        grown = memory("VmHWM") - before
        async with connected(server) as client:
            await client.open("/protocol")
            await client.send(frame(TEXT, b"still there"))
            assert await client.frame() == (TEXT, b"still there")
        nursery.cancel_scope.cancel()
    assert {name: said for name, said in lines.items() if len(said) > 1} == {}
    everything = [record.getMessage() for record in caplog.records]
    assert all(line.isascii() and line.isprintable() for line in everything)
    assert KEY.decode() not in "".join(everything)
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB in {os.getpid()}"
