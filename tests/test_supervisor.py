"""Keeping workers running, with processes that a test made up, on a virtual clock."""

from __future__ import annotations

import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from rawws.control import Channel
from rawws.supervisor import Process, Supervisor, WorkersDidNotStartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rawws.control import Message


class FakeProcess(Process):
    """A process that does what a test says."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stream, self._theirs = memory_stream_pair()
        self.parent = Channel(self._theirs)
        self.heard: list[Message] = []
        self.born = trio.current_time()
        self.died = float("inf")
        self.status: int | None = None
        self._ended = trio.Event()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        self.end(-signal.SIGKILL)

    def end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self.died = trio.current_time()
            self._ended.set()
            # As the kernel does it.
            self._theirs.send_stream.close()
            self._theirs.receive_stream.close()

    async def hear(self) -> Message | None:
        message = await self.parent.receive()
        if message is not None:
            self.heard.append(message)
        return message

    @property
    def words(self) -> list[str]:
        """What it was told, but for questions."""
        return [message["type"] for message in self.heard if message["type"] not in ("report", "answer")]


async def serves(process: FakeProcess) -> None:
    """Serve until told to end."""
    await process.parent.send({"type": "ready"})
    while (message := await process.hear()) is not None:
        if message["type"] == "report":
            value: Any = {"connections": process.pid, "lag": 0.0}
            if message["kind"] == "metrics":
                value = {"rawws_messages_sent": {"": process.pid}, "rawws_send_queue_bytes": {"": 1000}}
            await process.parent.send({"type": "report", "kind": message["kind"], "value": value})
        elif message["type"] != "answer":
            await process.parent.aclose()
            process.end(0)
            return


async def says_nothing(process: FakeProcess) -> None:
    pass


async def hangs(process: FakeProcess) -> None:
    """Serve, and then hear nothing any more."""
    await process.parent.send({"type": "ready"})


def dies(after: float, *, serving: bool = True, status: int = -signal.SIGSEGV) -> Callable[[FakeProcess], Any]:
    async def die(process: FakeProcess) -> None:
        if serving:
            await process.parent.send({"type": "ready"})
        await trio.sleep(after)
        process.end(status)

    return die


class Fleet:
    """What was started, and how."""

    def __init__(self, *lives: Callable[[FakeProcess], Awaitable[object]] | None) -> None:
        self.lives = list(lives)
        self.processes: list[FakeProcess] = []
        self.tries: list[float] = []
        self.nursery: trio.Nursery
        self.supervisor: Supervisor
        self.announced: list[float] = []
        self.send_signal, self.signals = trio.open_memory_channel[int](10)
        self.finished = trio.Event()

    async def spawn(self) -> Process:
        """Start a process with the next life; the last one again and again. None cannot be started."""
        life = self.lives.pop(0) if len(self.lives) > 1 else self.lives[0]
        self.tries.append(trio.current_time())
        if life is None:
            raise OSError("no more processes")
        process = FakeProcess(100 + len(self.processes))
        self.processes.append(process)
        self.nursery.start_soon(life, process)
        return process

    def signal(self, number: int) -> None:
        self.send_signal.send_nowait(number)

    @property
    def living(self) -> list[int]:
        return [process.pid for process in self.processes if process.status is None]

    async def run(self) -> None:
        await self.supervisor.run(self.signals, lambda: self.announced.append(trio.current_time()))
        self.finished.set()


@asynccontextmanager
async def keeping(
    count: int, *lives: Callable[[FakeProcess], Awaitable[object]] | None, shutdown_timeout: float = 10.0
) -> AsyncIterator[Fleet]:
    """Keep workers of some lives, in the order of their births; end with a cancellation."""
    fleet = Fleet(*lives)
    fleet.supervisor = Supervisor(count, fleet.spawn, shutdown_timeout=shutdown_timeout)
    async with trio.open_nursery() as fleet.nursery:
        fleet.nursery.start_soon(fleet.run)
        await wait_all_tasks_blocked()
        yield fleet
        fleet.nursery.cancel_scope.cancel()
    assert fleet.living == []


class TestStarting:
    async def test_it_tells_once_when_all_serve(self, autojump_clock: MockClock) -> None:
        async def slowly(process: FakeProcess) -> None:
            await trio.sleep(3)
            await serves(process)

        async with keeping(3, serves, serves, slowly, serves) as fleet:
            assert fleet.announced == []
            await trio.sleep(100)
            assert fleet.announced == [3.0]
            assert len(fleet.processes) == 3

    async def test_the_others_are_started_when_the_first_serves(self, autojump_clock: MockClock) -> None:
        async def slowly(process: FakeProcess) -> None:
            await trio.sleep(5)
            await serves(process)

        async with keeping(3, slowly, serves) as fleet:
            await trio.sleep(10)
            assert fleet.tries == [0.0, 5.0, 5.0]

    @pytest.mark.parametrize(
        ("life", "status", "after"),
        [(dies(1, serving=False, status=2), 2, 1.0), (None, None, 0.0), (says_nothing, -signal.SIGKILL, 30.0)],
        ids=["it ends", "no process", "it does not begin"],
    )
    async def test_a_first_worker_that_never_serves_is_the_end(
        self, autojump_clock: MockClock, life: Callable[[FakeProcess], Any] | None, status: int | None, after: float
    ) -> None:
        fleet = Fleet(life)
        fleet.supervisor = Supervisor(2, fleet.spawn, shutdown_timeout=10.0)
        async with trio.open_nursery() as fleet.nursery:
            with pytest.raises(WorkersDidNotStartError) as caught:
                await fleet.run()
        assert caught.value.status == status
        assert trio.current_time() == after
        assert len(fleet.tries) == 1
        assert fleet.announced == []

    @pytest.mark.parametrize(("status", "said"), [(2, []), (1, ["worker 0 (process 100) ended with status 1"])])
    async def test_of_a_first_worker_that_has_said_why_it_does_not_serve_nothing_more_is_said(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, status: int, said: list[str]
    ) -> None:
        fleet = Fleet(dies(1, serving=False, status=status))
        fleet.supervisor = Supervisor(2, fleet.spawn, shutdown_timeout=10.0)
        async with trio.open_nursery() as fleet.nursery:
            with pytest.raises(WorkersDidNotStartError):
                await fleet.run()
        assert [record.getMessage() for record in caplog.records] == said

    async def test_an_error_of_who_is_told_ends_all_in_order_and_is_raised(self, autojump_clock: MockClock) -> None:
        fleet = Fleet(serves)
        fleet.supervisor = Supervisor(2, fleet.spawn, shutdown_timeout=10.0)

        def refuse() -> None:
            raise ValueError("nobody reads this")

        async with trio.open_nursery() as fleet.nursery:
            with pytest.raises(ValueError, match="nobody reads this"):
                await fleet.supervisor.run(fleet.signals, refuse)
        assert [process.words for process in fleet.processes] == [["shut down"], ["shut down"]]

    async def test_when_cancelled_it_kills(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves) as fleet:
            assert len(fleet.living) == 2
        assert [process.status for process in fleet.processes] == [-signal.SIGKILL, -signal.SIGKILL]


class TestDying:
    async def test_one_that_dies_is_replaced_at_once_and_the_others_stay(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with keeping(2, serves, dies(60), serves) as fleet:
            await trio.sleep(100)
            assert fleet.tries == [0.0, 0.0, 60.0]
            assert fleet.living == [100, 102]
            assert len(fleet.announced) == 1
        assert [record.getMessage() for record in caplog.records] == ["worker 1 (process 101) died of SIGSEGV"]

    async def test_early_deaths_are_followed_by_longer_and_longer_rests_up_to_a_bound(
        self, autojump_clock: MockClock
    ) -> None:
        async with keeping(2, serves, dies(1)) as fleet:
            await trio.sleep(105)
            assert fleet.tries[1:] == [0.0, 1.0, 2.5, 4.5, 7.5, 12.5, 21.5, 38.5, 69.5, 100.5]
            assert fleet.announced == [0.0]

    async def test_a_crash_before_it_serves_counts_as_well(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, dies(0.25, serving=False, status=1)) as fleet:
            await trio.sleep(4)
            assert fleet.tries[1:] == [0.0, 0.25, 1.0, 2.25]
            # The others serve, and what listens does so.
            assert fleet.announced == [0.25]

    async def test_a_process_that_cannot_be_started_is_tried_again(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with keeping(2, serves, None, None, serves) as fleet:
            await trio.sleep(10)
            assert fleet.tries == [0.0, 0.0, 0.0, 0.5]
            assert fleet.living == [100, 101]
        assert "worker 1 cannot be started: no more processes" in caplog.text

    async def test_a_long_life_makes_up_for_early_deaths(self, autojump_clock: MockClock) -> None:
        early = [dies(1)] * 4
        async with keeping(2, serves, *early, dies(10), dies(1), dies(1), serves) as fleet:
            await trio.sleep(60)
            # Four early deaths, one at 17.5 after ten seconds, then early ones again from the beginning.
            assert fleet.tries[1:] == [0.0, 1.0, 2.5, 4.5, 7.5, 17.5, 18.5, 20.0]

    async def test_very_many_early_deaths_do_no_harm(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, dies(0)) as fleet:
            await trio.sleep(10_000)
            assert fleet.tries[-1] - fleet.tries[-2] == 30.0

    async def test_one_that_does_not_begin_to_serve_is_killed(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with keeping(2, serves, says_nothing, serves) as fleet:
            await trio.sleep(31)
            assert fleet.tries == [0.0, 0.0, 30.0]
            assert fleet.living == [100, 102]
        assert "worker 1 (process 101) does not begin to serve" in caplog.text

    async def test_one_that_says_what_it_cannot_mean_is_killed(self, autojump_clock: MockClock) -> None:
        async def babbles(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            await process.parent._stream.send_all(b"ready, I said\n")

        async with keeping(2, serves, babbles, serves) as fleet:
            await trio.sleep(20)
            assert fleet.tries == [0.0, 0.0, 5.0]
            assert fleet.processes[1].status == -signal.SIGKILL

    async def test_words_without_a_meaning_are_not_heard(self, autojump_clock: MockClock) -> None:
        async def chatters(process: FakeProcess) -> None:
            await process.parent.send({"type": "hello"})
            await process.parent.send({"type": "report", "kind": "weather", "value": 1})
            await process.parent.send({"type": "ask", "kind": "weather", "number": 1})
            await process.parent.send({"type": "report", "kind": "health", "value": None})  # nobody asked
            await process.parent.send({"type": "ready"})
            await serves(process)

        async with keeping(2, serves, chatters) as fleet:
            await trio.sleep(20)
            assert fleet.living == [100, 101]


class TestReplacing:
    async def test_sighup_replaces_one_after_the_other_each_by_one_that_serves(self, autojump_clock: MockClock) -> None:
        events: list[str] = []

        async def told(process: FakeProcess) -> None:
            await trio.sleep(1)  # to start
            events.append(f"{process.pid} serves")
            await process.parent.send({"type": "ready"})
            message = await process.hear()
            assert message is not None
            events.append(f"{process.pid} is told: {message['type']}")
            await trio.sleep(2)  # to end
            events.append(f"{process.pid} ends")
            process.end(0)

        async with keeping(2, told) as fleet:
            await trio.sleep(10)
            events.clear()
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert events == [
                "102 serves",
                "100 is told: drain",
                "100 ends",
                "103 serves",
                "101 is told: drain",
                "101 ends",
            ]
            assert fleet.living == [102, 103]

    async def test_one_that_does_not_come_to_serve_leaves_all_as_they_are(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with keeping(3, serves, serves, serves, serves, dies(0, serving=False, status=2), serves) as fleet:
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            # The first was replaced, the second stays, and nothing was tried with the third.
            assert fleet.living == [101, 102, 103]
            assert len(fleet.tries) == 5
            assert ") stays: the one to take its place did not serve" in caplog.text
            assert "the other workers are not replaced either" in caplog.text
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert fleet.living == [105, 106, 107]

    async def test_one_that_cannot_be_started_leaves_all_as_they_are(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, serves, None, serves) as fleet:
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert fleet.living == [100, 101]

    async def test_further_sighups_during_a_round_are_one_more_round(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves) as fleet:
            for _ in range(5):
                fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert len(fleet.processes) in (6, 8)
            assert fleet.living == [process.pid for process in fleet.processes[-2:]]

    async def test_one_that_does_not_leave_is_killed(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with keeping(2, hangs, serves, shutdown_timeout=10.0) as fleet:
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert fleet.processes[0].status == -signal.SIGKILL
            assert fleet.processes[0].died == 14.0
            assert fleet.living == [102, 103]
        assert "worker 0 (process 100) does not end, and is killed" in caplog.text

    async def test_one_that_dies_while_the_one_before_leaves_is_replaced_at_once(
        self, autojump_clock: MockClock
    ) -> None:
        async with keeping(2, hangs, serves, dies(2), serves) as fleet:
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert fleet.tries == [0.0, 0.0, 0.0, 2.0, 2.0]
            assert fleet.processes[0].died == 14.0  # the one that was to leave
            assert fleet.living == [103, 104]

    async def test_one_that_dies_while_another_takes_its_place_is_not_started_twice(
        self, autojump_clock: MockClock
    ) -> None:
        async def slowly(process: FakeProcess) -> None:
            await trio.sleep(5)
            await serves(process)

        async with keeping(2, serves, dies(21), serves, slowly, serves) as fleet:
            await trio.sleep(20)
            fleet.signal(signal.SIGHUP)
            await trio.sleep(60)
            assert fleet.tries == [0.0, 0.0, 20.0, 20.0]
            assert fleet.living == [102, 103]

    async def test_one_that_rests_is_started_at_once(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, *[dies(1)] * 6, serves) as fleet:
            await trio.sleep(15)  # the sixth died at 13.5, the next would be started at 21.5
            assert len(fleet.tries) == 7
            fleet.signal(signal.SIGHUP)
            await trio.sleep(1)
            assert fleet.tries[7:] == [15.0, 15.0]
            assert len(fleet.living) == 2


class TestEnding:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_a_signal_has_all_shut_down(self, autojump_clock: MockClock, number: int) -> None:
        async with keeping(3, serves) as fleet:
            fleet.signal(number)
            await fleet.finished.wait()
            assert [process.words for process in fleet.processes] == [["shut down"]] * 3
            assert [process.status for process in fleet.processes] == [0, 0, 0]
            assert trio.current_time() < 1

    async def test_it_waits_for_those_that_take_their_time_and_kills_those_that_take_more(
        self, autojump_clock: MockClock
    ) -> None:
        async def slowly(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            await process.hear()
            await trio.sleep(9)
            process.end(0)

        async with keeping(2, slowly, hangs, shutdown_timeout=10.0) as fleet:
            fleet.signal(signal.SIGTERM)
            fleet.signal(signal.SIGHUP)  # too late for that
            await fleet.finished.wait()
            assert [process.status for process in fleet.processes] == [0, -signal.SIGKILL]
            assert trio.current_time() == 14.0

    async def test_a_second_signal_cuts(self, autojump_clock: MockClock) -> None:
        async def cut(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            while await process.hear():
                if process.words == ["shut down", "cut"]:
                    process.end(0)

        async with keeping(2, cut, hangs, shutdown_timeout=100.0) as fleet:
            fleet.signal(signal.SIGTERM)
            await trio.sleep(5)
            assert len(fleet.living) == 2
            fleet.signal(signal.SIGTERM)
            await fleet.finished.wait()
            assert [process.status for process in fleet.processes] == [0, -signal.SIGKILL]
            assert [process.died for process in fleet.processes] == [5.0, 6.0]

    async def test_those_that_start_rest_or_leave_are_ended_too(self, autojump_clock: MockClock) -> None:
        async def leaves_slowly(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            while await process.hear():
                if process.words == ["drain", "shut down"]:
                    process.end(0)

        async def starts_slowly(process: FakeProcess) -> None:
            await trio.sleep(5)
            await serves(process)

        async with keeping(2, leaves_slowly, dies(15), serves, starts_slowly) as fleet:
            await trio.sleep(14)
            fleet.signal(signal.SIGHUP)
            await trio.sleep(2)
            # 100 leaves for 102; 101 has died, and 103 starts.
            assert fleet.living == [100, 102, 103]
            fleet.signal(signal.SIGTERM)
            await fleet.finished.wait()
            assert fleet.living == []
            assert [process.status for process in fleet.processes] == [0, -signal.SIGSEGV, 0, 0]


class TestAsking:
    async def test_health_tells_of_every_place(self, autojump_clock: MockClock) -> None:
        async with keeping(2, hangs, dies(1)) as fleet:
            await trio.sleep(9)  # the other one rests from 8.5 to 12.5
            rows = await fleet.supervisor.ask("health")
            assert trio.current_time() == 11.0
            assert rows == [
                {"worker": 0, "pid": 100, "state": "serving", "seconds": 11.0, "report": None},
                {"worker": 1, "pid": None, "state": "waiting", "seconds": 0.0, "report": None},
            ]

    async def test_health_tells_of_those_that_start_and_leave(self, autojump_clock: MockClock) -> None:
        async def leaves_slowly(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            while message := await process.hear():
                if message["type"] == "report":
                    value = {"connections": 3, "lag": 0.5}
                    await process.parent.send({"type": "report", "kind": "health", "value": value})

        async def starts_slowly(process: FakeProcess) -> None:
            await trio.sleep(1)
            await serves(process)

        async with keeping(2, leaves_slowly, serves, starts_slowly) as fleet:
            fleet.signal(signal.SIGHUP)
            await wait_all_tasks_blocked()
            states = []
            for _ in range(2):
                rows = await fleet.supervisor.ask("health")
                assert isinstance(rows, list)
                states.append([(row["worker"], row["pid"], row["state"], row["report"] is not None) for row in rows])
                await trio.sleep(2)
            assert states[0] == [(0, 100, "serving", True), (0, 102, "starting", False), (1, 101, "serving", True)]
            assert states[1] == [(0, 100, "draining", True), (0, 102, "serving", True), (1, 101, "serving", True)]

    async def test_metrics_are_those_of_all_and_never_fall(self, autojump_clock: MockClock) -> None:
        async def once(process: FakeProcess) -> None:
            """Tell once, and then no more."""
            await process.parent.send({"type": "ready"})
            await process.hear()
            value = {"rawws_messages_sent": {"": 5}, "rawws_send_queue_bytes": {"": 50}}
            await process.parent.send({"type": "report", "kind": "metrics", "value": value})

        async with keeping(2, serves, once, serves) as fleet:

            async def numbers() -> tuple[float, float, dict[str, float], dict[str, float]]:
                snapshot = await fleet.supervisor.ask("metrics")
                assert isinstance(snapshot, dict)
                return (
                    snapshot["rawws_messages_sent"][""],
                    snapshot["rawws_send_queue_bytes"][""],
                    snapshot["rawws_workers"],
                    snapshot["rawws_worker_deaths"],
                )

            assert await numbers() == (105, 1050, {"serving": 2}, {"": 0})
            # One does not answer any more: what it counted stays, how it stands is not known.
            assert await numbers() == (105, 1000, {"serving": 2}, {"": 0})
            fleet.processes[1].end(1)
            await trio.sleep(1)
            assert await numbers() == (105 + 102, 2000, {"serving": 2}, {"": 1})
            fleet.signal(signal.SIGHUP)
            await trio.sleep(10)
            assert await numbers() == (105 + 102 + 103 + 104, 2000, {"serving": 2}, {"": 1})

    async def test_one_that_ends_while_others_are_asked_counts_once(self, autojump_clock: MockClock) -> None:
        async def answers_and_ends(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            await process.hear()
            value = {"rawws_messages_sent": {"": 5}}
            await process.parent.send({"type": "report", "kind": "metrics", "value": value})
            await trio.sleep(1)
            process.end(0)

        async with keeping(2, hangs, answers_and_ends, hangs) as fleet:
            snapshot = await fleet.supervisor.ask("metrics")
            assert isinstance(snapshot, dict)
            assert trio.current_time() == 2.0
            assert snapshot["rawws_messages_sent"] == {"": 5}

    async def test_one_that_begins_to_serve_while_others_are_asked_still_starts(
        self, autojump_clock: MockClock
    ) -> None:
        async def starts_slowly(process: FakeProcess) -> None:
            await trio.sleep(1)
            await serves(process)

        async with keeping(2, serves, hangs, starts_slowly, starts_slowly) as fleet:
            fleet.signal(signal.SIGHUP)
            await wait_all_tasks_blocked()
            rows = await fleet.supervisor.ask("health")
            assert trio.current_time() == 2.0
            assert isinstance(rows, list)
            states = [(row["worker"], row["pid"], row["state"], row["report"] is not None) for row in rows]
            assert states == [(0, 100, "serving", True), (0, 102, "starting", False), (1, 101, "serving", False)]

    async def test_what_it_says_last_counts(self, autojump_clock: MockClock) -> None:
        async def at_last(process: FakeProcess) -> None:
            await process.parent.send({"type": "ready"})
            await process.hear()
            value = {"rawws_messages_sent": {"": 7}}
            await process.parent.send({"type": "report", "kind": "metrics", "value": value})
            process.end(0)

        async with keeping(2, at_last, serves) as fleet:
            fleet.signal(signal.SIGHUP)
            await trio.sleep(10)
            snapshot = await fleet.supervisor.ask("metrics")
            assert isinstance(snapshot, dict)
            assert snapshot["rawws_messages_sent"][""] == 7 + 102 + 103

    async def test_many_who_ask_are_one_question_to_a_worker(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, hangs) as fleet:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(fleet.supervisor.ask, "health")
            assert trio.current_time() == 2.0
            assert [message["type"] for message in fleet.processes[0].heard] == ["report"]
            # One that does not answer is not asked again and again.
            await fleet.supervisor.ask("health")
            fleet.nursery.start_soon(fleet.processes[1].hear)
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await fleet.processes[1].hear()
                pytest.fail("it was asked twice")

    async def test_who_waits_for_one_that_dies_waits_no_longer(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, dies(1), serves) as fleet:
            await trio.sleep(0.5)
            rows = await fleet.supervisor.ask("health")
            assert trio.current_time() == 1.0
            assert isinstance(rows, list)
            assert [(row["pid"], row["report"] is not None) for row in rows] == [(100, True), (101, False)]

    async def test_a_worker_that_asks_is_answered_by_number(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves) as fleet:
            worker = fleet.processes[0]
            for number in (7, 8):
                await worker.parent.send({"type": "ask", "kind": "health", "number": number})
            await trio.sleep(1)
            answers = {message["number"]: message["value"] for message in worker.heard if message["type"] == "answer"}
            assert set(answers) == {7, 8}
            assert [row["pid"] for row in answers[7]] == [100, 101]

    async def test_so_many_questions_wait_and_no_more(self, autojump_clock: MockClock) -> None:
        async with keeping(2, serves, hangs) as fleet:
            worker = fleet.processes[0]
            for number in range(100):
                await worker.parent.send({"type": "ask", "kind": "health", "number": number})
            await trio.sleep(10)
            assert sum(message["type"] == "answer" for message in worker.heard) == 64
            await worker.parent.send({"type": "ask", "kind": "health", "number": 1000})
            await trio.sleep(10)
            assert worker.heard[-1]["number"] == 1000


def test_a_death_by_a_signal_without_a_name_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with keeping(2, serves, dies(60, status=-40), serves):
            await trio.sleep(100)

    caplog.set_level(logging.ERROR)
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [record.getMessage() for record in caplog.records] == ["worker 1 (process 101) died of signal 40"]
