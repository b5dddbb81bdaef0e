"""The longest delay of late: which is kept, for how long, and who measures it."""

from __future__ import annotations

import time

import pytest
import trio

import rawws
from rawws import server as server_module
from rawws.lag import Lag
from tests.raw_client import TEXT, connected, frame, serving
from tests.test_reactor import eventually

BLOCKED = 0.1


class TestWindow:
    def test_without_a_note_there_was_no_delay(self) -> None:
        assert Lag().longest(0.0) == 0.0
        assert Lag().longest(1e9) == 0.0

    def test_the_longest_counts(self) -> None:
        lag = Lag()
        for seconds in (0.002, 0.5, 0.01):
            lag.note(seconds, 1000.0)
        assert lag.longest(1059.0) == 0.5

    @pytest.mark.parametrize("looks", [(), (1030.0, 1061.0, 1090.0)])
    def test_it_is_forgotten_after_two_minutes_and_not_before_one(self, looks: tuple[float, ...]) -> None:
        lag = Lag()
        lag.note(0.5, 1000.0)
        for now in looks:
            assert lag.longest(now) == 0.5
        if not looks:
            assert lag.longest(1119.0) == 0.5
        assert lag.longest(1240.0) == 0.0

    def test_a_later_delay_is_seen_beside_an_earlier_longer_one_and_after_it(self) -> None:
        lag = Lag()
        lag.note(0.5, 1000.0)
        lag.note(0.1, 1070.0)
        assert lag.longest(1071.0) == 0.5
        assert lag.longest(1131.0) == 0.1


class Blocking(rawws.Protocol):
    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        time.sleep(BLOCKED)
        ws.send_nowait(message)


async def blocking(ws: rawws.WebSocket) -> None:
    async for message in ws:
        time.sleep(BLOCKED)  # noqa: ASYNC251  which is the mistake that lag shows
        await ws.send(message)


async def test_a_callback_that_blocks_is_seen_by_the_length_of_its_batch() -> None:
    async with serving(Blocking()) as server, connected(server) as client:
        await client.open()
        assert server.lag < BLOCKED
        await client.send(frame(TEXT, b"hello"))
        assert await client.frame() == (TEXT, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        assert server.lag >= BLOCKED
        assert server.busy_seconds >= BLOCKED


async def test_a_handler_that_blocks_is_seen_by_an_alarm_that_rings_late() -> None:
    limits = rawws.Limits(ping_interval=BLOCKED / 4)
    async with serving(blocking, limits=limits) as server, connected(server) as client:
        await client.open()
        await client.send(frame(TEXT, b"hello"))
        while (await client.frame())[0] != TEXT:
            pass
        await eventually(lambda: server.lag >= BLOCKED / 2)


async def test_where_there_is_no_reactor_the_server_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "is_supported", lambda: False)
    monkeypatch.setattr(server_module, "_BEAT_SECONDS", BLOCKED / 4)
    async with serving(blocking) as server, connected(server) as client:
        await client.open()
        await client.send(frame(TEXT, b"hello"))
        assert await client.frame() == (TEXT, b"hello")
        await eventually(lambda: server.lag >= BLOCKED / 2)
        assert server.busy_seconds == 0.0
