"""Keeps several workers running: starts, watches, replaces and ends them.

Strategy: a task for each place starts a worker, watches it, and starts another when it has died or is to be replaced;
another task for each process hears what it says. Rules:

* A worker is replaced by one that serves already; one that does not begin to leaves the old one where it is.
* Who dies soon after its start is started again later and later; who lived for a while, at once.
* Everything that is asked of a worker has a deadline, and in the end there is SIGKILL, also for one that cannot be
  understood.

It does not know what workers serve, nor how a process is started: `Process` and `Spawn` are the seam. Cost: two tasks
a worker, and nothing a connection.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import trio

from .control import Channel
from .metrics import merge, retire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .control import Kind, State, WorkerHealth
    from .metrics import Snapshot

__all__ = ["Process", "Spawn", "Supervisor", "WorkersDidNotStartError"]

_log = logging.getLogger("rawws")

_START_SECONDS: Final = 30.0
"""Time that a worker has from its start until it serves."""
_HEALTHY_SECONDS: Final = 10.0
"""A worker that lived for so long did not die of its start."""
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
"""Bounds of the time between one early death and the next start; it doubles. The first early death costs none."""
_LEAVE_SECONDS: Final = 4.0
"""Time that a worker has, beyond the shutdown's own, to answer those who have just connected, and to exit."""
_CUT_SECONDS: Final = 1.0
"""Time that a worker has to say what can be said at once, and to exit."""
_REPORT_SECONDS: Final = 2.0
"""Time that a worker has to report."""
_LAST_WORDS_SECONDS: Final = 0.5
"""Time that what a worker said before it ended has to arrive."""
_EXIT_SECONDS: Final = 5.0
"""Time that a worker that says nothing any more has to exit."""
_EXPLAINED: Final = 2
"""Exit status of a worker that has said itself, in a line, what keeps it from serving."""
_MAX_QUESTIONS: Final = 64
"""Questions of one worker that may wait for an answer."""


class WorkersDidNotStartError(Exception):
    """The first worker ended before any of them served.

    Attributes:
        status: its exit status, or the negative number of a signal; None where no process could be started.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class Process(ABC):
    """A worker as its parent sees it.

    Attributes:
        pid: its number.
        stream: what it says, and what it is told.
    """

    pid: int
    stream: trio.abc.Stream

    @abstractmethod
    async def wait(self) -> int:
        """Wait for its end; return its exit status, or the negative number of a signal."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, if it runs."""


Spawn: TypeAlias = "Callable[[], Awaitable[Process]]"
"""What starts a worker; may raise OSError. A cancelled call leaves no process behind."""


@final
class _Report:
    """What a worker was asked to report."""

    __slots__ = ("arrived", "value")

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.value: Any = None


@final
class _Worker:
    """One worker process."""

    __slots__ = ("began", "channel", "ended", "last", "process", "questions", "reports", "slot", "state", "status")

    def __init__(self, slot: _Slot, process: Process) -> None:
        self.slot = slot
        self.process = process
        self.channel = Channel(process.stream)
        self.state: State = "starting"
        self.began = trio.current_time()
        self.ended = trio.Event()
        self.status: int | None = None
        self.last: Snapshot = {}  # what it counted when it was last asked
        self.reports: dict[Kind, _Report] = {}  # those that have not arrived
        self.questions = 0

    def __str__(self) -> str:
        return f"worker {self.slot.index} (process {self.process.pid})"

    async def report(self, kind: Kind) -> Any:
        """Return a report, None when there is none in time. One is under way at a time, for all who want it."""
        report = self.reports.get(kind)
        if report is None:
            report = self.reports[kind] = _Report()
            await self.channel.send({"type": "report", "kind": kind})
        with trio.move_on_after(_REPORT_SECONDS):
            await report.arrived.wait()
        return report.value


@final
class _Wish:
    """That a place gets another worker."""

    __slots__ = ("decided", "is_granted")

    def __init__(self) -> None:
        self.decided = trio.Event()
        self.is_granted = False

    def decide(self, granted: bool) -> None:
        """Say whether another worker serves there now."""
        self.is_granted = granted
        self.decided.set()


@final
class _Slot:
    """One worker's place, in which another follows it."""

    __slots__ = ("failures", "index", "is_tried", "news", "wish", "worker")

    def __init__(self, index: int) -> None:
        self.index = index
        self.worker: _Worker | None = None
        self.failures = 0  # early deaths, one after the other
        self.is_tried = False
        self.wish: _Wish | None = None
        self.news = trio.Event()

    def take_wish(self) -> _Wish | None:
        """Return what is wished here, which is up to the caller then."""
        wish, self.wish = self.wish, None
        return wish

    def tell(self) -> None:
        """Wake up who keeps this place."""
        self.news.set()
        self.news = trio.Event()


@final
class Supervisor:
    """Keeps workers running until a signal ends it.

    Args:
        count: workers.
        spawn: starts one.
        shutdown_timeout: seconds that a worker takes to shut down, at the most.
    """

    def __init__(self, count: int, spawn: Spawn, *, shutdown_timeout: float) -> None:
        self._spawn = spawn
        self._shutdown_timeout = shutdown_timeout
        self._slots = [_Slot(index) for index in range(count)]
        self._workers: list[_Worker] = []  # every one that runs, those that start and those that leave too
        self._processes: trio.Nursery | None = None
        self._served = trio.Event()  # by one of them, once
        self._tried = trio.Event()  # every place once had a worker that served, or died
        self._error: Exception | None = None
        self._retired: Snapshot = {}
        self._deaths = 0

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, signals: AsyncIterator[int], started: Callable[[], object]) -> None:
        """Keep workers running: until SIGINT or SIGTERM, which shuts them down in order, the second one at once.

        SIGHUP replaces them, one after the other. When cancelled, they are killed.

        Args:
            signals: those that this process gets.
            started: called once they serve.

        Raises:
            WorkersDidNotStartError: none of them ever served.
            Exception: what `started` raised.
        """
        async with trio.open_nursery() as self._processes:
            async with trio.open_nursery() as keepers:
                for slot in self._slots:
                    keepers.start_soon(self._keep, slot, keepers.cancel_scope)
                keepers.start_soon(self._announce, started, keepers.cancel_scope)
                keepers.start_soon(self._obey, signals, keepers.cancel_scope)
            async with trio.open_nursery() as ends:
                ends.start_soon(self._cut_on_signal, signals)
                await self._end_all()
                ends.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    async def _announce(self, started: Callable[[], object], keepers: trio.CancelScope) -> None:
        await self._tried.wait()
        try:
            started()
        except Exception as exc:
            self._error = exc
            keepers.cancel()

    async def _obey(self, signals: AsyncIterator[int], keepers: trio.CancelScope) -> None:
        """Replace the workers whenever that is asked for; stop keeping them on the first signal to end."""
        wanted, want = trio.open_memory_channel[None](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._replace_when_wanted, want)
            async for number in signals:
                if number != signal.SIGHUP:
                    keepers.cancel()
                    return
                with suppress(trio.WouldBlock):  # one more round comes already
                    wanted.send_nowait(None)

    async def _end_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for worker in list(self._workers):
                worker.state = "stopping"
                nursery.start_soon(self._see_off, worker, "shut down")

    async def _cut_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                break
        async with trio.open_nursery() as nursery:
            for worker in list(self._workers):
                nursery.start_soon(self._see_off, worker, "cut")

    # -- places ----------------------------------------------------------------------------------------------------

    async def _keep(self, slot: _Slot, keepers: trio.CancelScope) -> None:
        """Keep a worker running in a place."""
        if slot.index:
            # What keeps all of them from serving is said once, by the first.
            await self._served.wait()
        while True:
            wish = slot.take_wish()
            began = trio.current_time()
            slot.worker = await self._start(slot)
            serves = slot.worker is not None and await self._until_serving(slot.worker)
            if wish is not None:
                wish.decide(serves)
            slot.is_tried = True
            if self._served.is_set() and all(slot.is_tried for slot in self._slots):
                self._tried.set()
            while slot.worker is not None and not slot.worker.ended.is_set():
                wish = slot.take_wish()
                if wish is not None:
                    wish.decide(await self._replace(slot, slot.worker))
                else:
                    await slot.news.wait()
            if slot.worker is not None:
                began = slot.worker.began
            if not self._served.is_set():
                self._error = WorkersDidNotStartError(None if slot.worker is None else slot.worker.status)
                keepers.cancel()
                return
            slot.worker = None
            await self._rest(slot, trio.current_time() - began)

    async def _rest(self, slot: _Slot, lived: float) -> None:
        """Wait before the next start, the longer the more were in vain."""
        if lived >= _HEALTHY_SECONDS:
            slot.failures = 0
            return
        slot.failures += 1
        if slot.failures > 1:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(slot.failures - 2, 16))
            _log.error("worker %d is started again in %g s", slot.index, delay)
            with trio.move_on_after(delay):
                while slot.wish is None:
                    await slot.news.wait()

    async def _replace(self, slot: _Slot, old: _Worker) -> bool:
        """Put another worker in the place of one, once it serves, which is to leave then; say whether it does."""
        assert self._processes is not None
        new = await self._start(slot)
        if new is None or not await self._until_serving(new):
            _log.error("%s stays: the one to take its place did not serve", old)
            return False
        slot.worker = new
        if not old.ended.is_set():
            old.state = "draining"
        self._processes.start_soon(self._see_off, old, "drain")
        while not (old.ended.is_set() or new.ended.is_set()):
            await slot.news.wait()
        _log.info("%s took the place of %s", new, old)
        return True

    async def _replace_when_wanted(self, want: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in want:
            for slot in self._slots:
                wish = slot.wish = _Wish()
                slot.tell()
                await wish.decided.wait()
                if not wish.is_granted:
                    _log.error("the other workers are not replaced either")
                    break

    # -- processes -------------------------------------------------------------------------------------------------

    async def _start(self, slot: _Slot) -> _Worker | None:
        """Start a process, and what watches it."""
        assert self._processes is not None
        try:
            process = await self._spawn()
        except OSError as exc:
            _log.error("worker %d cannot be started: %s", slot.index, exc)
            return None
        worker = _Worker(slot, process)
        self._workers.append(worker)
        self._processes.start_soon(self._watch, worker)
        return worker

    async def _until_serving(self, worker: _Worker) -> bool:
        """Wait until a worker serves, or has ended because it did not."""
        with trio.move_on_after(_START_SECONDS):
            while worker.state == "starting" and not worker.ended.is_set():
                await worker.slot.news.wait()
        if worker.state == "starting" and not worker.ended.is_set():
            _log.error("%s does not begin to serve", worker)
            worker.process.kill()
            await worker.ended.wait()
        return not worker.ended.is_set()

    async def _see_off(self, worker: _Worker, word: Literal["drain", "shut down", "cut"]) -> None:
        """Have a worker end, and wait for that."""
        with trio.move_on_after(_CUT_SECONDS if word == "cut" else self._shutdown_timeout + _LEAVE_SECONDS):
            await worker.channel.send({"type": word})
            await worker.ended.wait()
        if not worker.ended.is_set():
            _log.warning("%s does not end, and is killed", worker)
            worker.process.kill()
            await worker.ended.wait()

    async def _watch(self, worker: _Worker) -> None:
        """Hear what a worker says until it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                heard = trio.Event()
                nursery.start_soon(self._hear, worker, nursery, heard)
                worker.status = await worker.process.wait()
                with trio.move_on_after(_LAST_WORDS_SECONDS):
                    await heard.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if worker.status is None:
                    worker.state = "stopping"
                    worker.process.kill()
                    worker.status = await worker.process.wait()
                await worker.channel.aclose()
            self._workers.remove(worker)
            self._retired = merge([self._retired, retire(worker.last)])
            if worker.state in ("starting", "serving"):
                self._deaths += 1
                if self._served.is_set() or worker.status != _EXPLAINED:  # else that line is all that there is to say
                    _log.error("%s %s", worker, _death(worker.status))
            worker.ended.set()
            for report in worker.reports.values():
                report.arrived.set()
            worker.slot.tell()

    async def _hear(self, worker: _Worker, nursery: trio.Nursery, heard: trio.Event) -> None:
        while (message := await worker.channel.receive()) is not None:
            match message:
                case {"type": "ready"}:
                    if worker.state == "starting":
                        worker.state = "serving"
                        self._served.set()
                        worker.slot.tell()
                case {"type": "report", "kind": "health" | "metrics" as kind, "value": value}:
                    if kind == "metrics":
                        worker.last = value
                    if (report := worker.reports.pop(kind, None)) is not None:
                        report.value = value
                        report.arrived.set()
                case {"type": "ask", "kind": "health" | "metrics" as kind, "number": int(number)}:
                    if worker.questions < _MAX_QUESTIONS:
                        worker.questions += 1
                        nursery.start_soon(self._answer, worker, kind, number)
        heard.set()
        # It is about to exit, or says what it cannot mean.
        await trio.sleep(_EXIT_SECONDS)
        worker.process.kill()

    # -- what is known of all ----------------------------------------------------------------------------------------

    async def _answer(self, worker: _Worker, kind: Kind, number: int) -> None:
        value = await self.ask(kind)
        worker.questions -= 1
        await worker.channel.send({"type": "answer", "number": number, "value": value})

    async def ask(self, kind: Kind) -> list[WorkerHealth] | Snapshot:
        """Ask every worker; return how each is, or what all counted. Takes two seconds if one does not answer."""
        # What they do may change while they are asked: told is what they did before.
        states = {worker: worker.state for worker in self._workers}
        reports: dict[_Worker, Any] = {}

        async def ask(worker: _Worker) -> None:
            reports[worker] = await worker.report(kind)

        async with trio.open_nursery() as nursery:
            for worker, state in states.items():
                if state != "starting":
                    nursery.start_soon(ask, worker)
        return self._health(states, reports) if kind == "health" else self._metrics(states, reports)

    def _health(self, states: dict[_Worker, State], reports: dict[_Worker, Any]) -> list[WorkerHealth]:
        now = trio.current_time()
        rows: list[WorkerHealth] = []
        for slot in self._slots:
            there = [worker for worker in states if worker.slot is slot]
            rows += [
                {
                    "worker": slot.index,
                    "pid": worker.process.pid,
                    "state": states[worker],
                    "seconds": now - worker.began,
                    "report": reports.get(worker),
                }
                for worker in there
            ]
            if not there:
                rows.append({"worker": slot.index, "pid": None, "state": "waiting", "seconds": 0.0, "report": None})
        return rows

    def _metrics(self, states: dict[_Worker, State], reports: dict[_Worker, Any]) -> Snapshot:
        counts: dict[str, float] = {}
        for state in states.values():
            counts[state] = counts.get(state, 0) + 1
        ours: Snapshot = {"rawws_workers": counts, "rawws_worker_deaths": {"": self._deaths}}
        # Of one that does not answer, what it had counted before, for a counter never falls; one that has ended since
        # is among the retired already.
        theirs = [reports.get(worker) or retire(worker.last) for worker in self._workers]
        return merge([self._retired, *theirs, ours])


def _death(status: int | None) -> str:
    assert status is not None
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"
