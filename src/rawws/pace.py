"""Trio's rule for checkpoints, kept cheaply: a task that never blocks still yields.

Every call of `send` and `receive` checks for cancellation; after `CALLS_WITHOUT_BLOCKING` calls by one task with
no other task's calls between them it is a full checkpoint, so that a loop over messages that are there already
does not keep the other tasks waiting.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from trio import current_effective_deadline
from trio.lowlevel import current_task

if TYPE_CHECKING:
    import trio

__all__ = ["CALLS_WITHOUT_BLOCKING", "is_turn_over"]

CALLS_WITHOUT_BLOCKING: Final = 16
"""Calls that one task makes before it lets others run."""


class _Streak:
    """The task that called last, and how many calls in a row were its."""

    __slots__ = ("calls", "task")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.calls = 0


_streak: Final = _Streak()


def is_turn_over() -> bool:
    """Whether the running task must make a checkpoint now: it is cancelled, or it is the turn of others.

    A function and not an awaitable, because most calls need not wait for anything.
    """
    task = current_task()
    if _streak.task is not task:
        _streak.task = task
        _streak.calls = 1
    elif _streak.calls >= CALLS_WITHOUT_BLOCKING:
        _streak.calls = 1
        return True
    else:
        _streak.calls += 1
    return current_effective_deadline() == -inf
