"""Fairness: a task that never has to wait still lets the others run, and notices its cancellation."""

from __future__ import annotations

import pytest
import trio

from rawws import Limits

from .drivers import (
    DRIVERS,
    TEXT,
    Driver,
    DriverName,
    frame,
    settle,
)

KIB = 1024
MIB = 1024 * 1024
FAST = Limits(accept_timeout=1e6, close_timeout=1e6, ping_interval=1e6, send_timeout=1e6)
"""Limits whose deadlines no test reaches."""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    name: DriverName = request.param
    return Driver(name)


class TestFairness:
    async def test_send_loop_runs_beside_a_ticker(self, driver: Driver) -> None:
        async with driver.open(limits=FAST) as (ws, peer):
            sends = 0
            gaps: list[int] = []

            async def tick() -> None:
                while True:
                    before = sends
                    await trio.lowlevel.checkpoint()
                    gaps.append(sends - before)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick)
                for _ in range(1000):
                    await ws.send("x")
                    sends += 1
                nursery.cancel_scope.cancel()
            # 16 calls between two checkpoints, and two tasks may change places in Trio's order between two rounds.
            assert max(gaps) <= 32
            for _ in range(1000):
                assert await peer.text() == "x"

    async def test_receive_loop_runs_beside_a_ticker(self, driver: Driver) -> None:
        async with driver.open(limits=Limits(receive_queue_messages=1000)) as (ws, peer):
            await peer.send(frame(TEXT, b"x") * 500)
            while ws.messages_received < 500:
                await settle(1)
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await trio.lowlevel.checkpoint()
                    ticks += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick)
                for _ in range(500):
                    await ws.receive()
                nursery.cancel_scope.cancel()
            assert ticks >= 500 // 20

    async def test_every_call_checks_for_cancellation(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"x") * 3)
            await settle()
            with trio.CancelScope() as scope:
                scope.cancel()
                await ws.send("x")
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                await ws.receive()
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                await ws.ping()
            assert scope.cancelled_caught
            assert ws.messages_sent == 0
            assert [await ws.receive() for _ in range(3)] == ["x"] * 3
