"""What a parent and its workers say to each other: bounded lines, deadlines, and nothing that raises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from rawws.control import Channel, health_text

if TYPE_CHECKING:
    from rawws.control import HealthReport, State, WorkerHealth


async def test_a_message_arrives_as_it_was_sent_one_after_the_other() -> None:
    ours, theirs = map(Channel, memory_stream_pair())
    await ours.send({"type": "ready"})
    await ours.send({"type": "ask", "kind": "health", "number": 7})
    await theirs.send({"type": "answer", "value": {"ä": [1.5, None]}})
    assert await theirs.receive() == {"type": "ready"}
    assert await theirs.receive() == {"type": "ask", "kind": "health", "number": 7}
    assert await ours.receive() == {"type": "answer", "value": {"ä": [1.5, None]}}


async def test_a_message_may_come_in_pieces() -> None:
    ours, theirs = memory_stream_pair()
    channel = Channel(theirs)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert await channel.receive() == {"type": "x"}
            assert await channel.receive() == {"type": "y"}

        for byte in b'{"type":"x"}\n{"type":"y"}\n':
            await ours.send_all(bytes([byte]))
            await wait_all_tasks_blocked()


async def test_messages_of_two_tasks_do_not_mix() -> None:
    ours, theirs = map(Channel, lockstep_stream_pair())
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ours.send, {"number": number, "text": "x" * 100_000})
        numbers = set()
        for _ in range(3):
            message = await theirs.receive()
            assert message is not None
            assert message["text"] == "x" * 100_000
            numbers.add(message["number"])
    assert numbers == {0, 1, 2}


async def test_the_end_is_none_for_who_receives_and_nothing_for_who_sends() -> None:
    ours, theirs = map(Channel, memory_stream_pair())
    await theirs.aclose()
    assert await ours.receive() is None
    await ours.send({"type": "ready"})
    await ours.aclose()
    assert await ours.receive() is None
    await ours.send({"type": "ready"})


@pytest.mark.parametrize("line", [b"ready\n", b'"ready"\n', b"\xff\n", b"[1]\n", b"\n"])
async def test_what_is_no_message_is_the_end(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(line)
    assert await Channel(theirs).receive() is None
    assert len(caplog.records) == 1


async def test_a_line_that_does_not_end_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"x" * (1 << 20) + b"x")
    assert await Channel(theirs).receive() is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_who_does_not_take_a_message_in_time_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = lockstep_stream_pair()  # it holds nothing: sending waits for the other side
    channel = Channel(ours)
    await channel.send({"type": "drain"})
    assert trio.current_time() == 2.0
    assert await channel.receive() is None
    await trio.aclose_forcefully(theirs)


async def test_a_cancelled_sender_sends_all_the_same() -> None:
    ours, theirs = map(Channel, memory_stream_pair())
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.send({"type": "ready"})
    assert await theirs.receive() == {"type": "ready"}


def row(worker: int, state: State, connections: int | None = None, pid: int | None = 100) -> WorkerHealth:
    report: HealthReport | None = None if connections is None else {"connections": connections, "lag": 0.0}
    return {"worker": worker, "pid": pid, "state": state, "seconds": 61.4, "report": report}


class TestHealth:
    def test_all_are_well_when_one_in_each_place_serves_and_answers(self) -> None:
        assert health_text([row(0, "serving", 3), row(1, "serving", 0), row(1, "draining", 2)]) == (
            True,
            "ok\n"
            "worker 0: serving for 61 s as process 100, 3 connections\n"
            "worker 1: serving for 61 s as process 100, 0 connections\n"
            "worker 1: draining for 61 s as process 100, 2 connections",
        )

    @pytest.mark.parametrize(
        ("other", "line"),
        [
            (row(1, "serving"), "worker 1: serving for 61 s as process 100, does not answer"),
            (row(1, "draining", 2), "worker 1: draining for 61 s as process 100, 2 connections"),
            (row(1, "stopping", 2), "worker 1: stopping for 61 s as process 100, 2 connections"),
            (row(1, "starting"), "worker 1: starting for 61 s as process 100"),
            (row(1, "waiting", pid=None), "worker 1: waiting"),
        ],
    )
    def test_one_place_in_which_none_serves_is_told(self, other: WorkerHealth, line: str) -> None:
        healthy, text = health_text([row(0, "serving", 3), other])
        assert not healthy
        assert text.splitlines()[0] == "not every worker serves"
        assert text.splitlines()[2] == line
