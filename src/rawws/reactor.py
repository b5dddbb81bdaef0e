"""The driver of many plain sockets: one Trio task, one epoll descriptor (Linux).

Strategy: an epoll descriptor can itself be waited for, so a task waits for it with `wait_readable` and then serves
every ready socket in one plain loop: no task switch, no `epoll_ctl` and no checkpoint a message. A second task sleeps
until the earliest deadline, a third sends what other tasks wrote, each when it is woken.

Rule: the loop runs with KeyboardInterrupt held back; what calls an application's code lets it through again. Trio
marks the code of Python functions for that, so that these three tasks are interpreted on the compiled build too.

Cost: about three system calls a batch and two a message; `loop.py` and `socket_transport.py` make them. It does not
know what the bytes mean.
"""

from __future__ import annotations

import sys
from typing import NoReturn, final

import trio
from trio.lowlevel import Abort, checkpoint, current_task, enable_ki_protection, wait_readable, wait_task_rescheduled

from .lag import WORTH_NOTING
from .loop import Loop

__all__ = ["Reactor", "is_supported"]


def is_supported() -> bool:
    """Whether this platform has what the reactor needs: epoll and eventfd."""
    return sys.platform == "linux"


@final
class Reactor(Loop):
    """Serves listening and connected sockets until `run` is cancelled.

    Args:
        stall_timeout: seconds that bytes may be queued to a peer without one of them leaving.
    """

    __slots__ = ()

    @enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every socket is closed, whatever is queued, and each receiver told."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sleep_until_due)
                nursery.start_soon(self._flush_when_asked)
                task_status.started()
                while True:
                    if self._run_list or self._overdue or self._goes_on:
                        await checkpoint()
                    else:
                        await wait_readable(self.epoll.fileno())
                    self._serve_batch()
        finally:
            self._close()

    @enable_ki_protection
    async def _sleep_until_due(self) -> NoReturn:
        while True:
            with self._alarm:
                await trio.sleep_forever()
            # From here on the loop sets the alarm, when it has seen to what is due.
            self._rang = True
            self._rang_at = trio.current_time()
            late = self._rang_at - self._alarm.deadline
            if late > WORTH_NOTING:
                self.lag.note(late, self._rang_at)
            self._alarm = trio.CancelScope()
            self._ring()

    @enable_ki_protection
    async def _flush_when_asked(self) -> NoReturn:
        def abort(_: object) -> Abort:
            self._flusher = None
            return Abort.SUCCEEDED

        self._flush_dirty()
        while True:
            self._flusher = current_task()
            await wait_task_rescheduled(abort)
            self._flush_dirty()
            self._serve_answers()
