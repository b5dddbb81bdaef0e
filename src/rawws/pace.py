"""Trio's rule for checkpoints, kept cheaply: a task that never blocks still yields.

Every call of `send` and `receive` checks for cancellation; after `CALLS_WITHOUT_BLOCKING` calls by one task with
no other task's calls between them it is a full checkpoint, so that a loop over messages that are there already
does not keep the other tasks waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio.lowlevel import checkpoint, checkpoint_if_cancelled, current_task

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import trio

__all__ = ["CALLS_WITHOUT_BLOCKING", "breathe"]

CALLS_WITHOUT_BLOCKING: Final = 16
"""Calls that one task makes before it lets others run."""


class _Streak:
    """The task that called last, and how many calls in a row were its."""

    __slots__ = ("calls", "task")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.calls = 0


_streak: Final = _Streak()


def breathe() -> Awaitable[None]:
    """Return what to await: a checkpoint when it is the turn of other tasks, else a check for cancellation.

    A plain function, because one coroutine a call is enough.
    """
    task = current_task()
    if _streak.task is not task:
        _streak.task = task
        _streak.calls = 1
    elif _streak.calls >= CALLS_WITHOUT_BLOCKING:
        _streak.calls = 1
        return checkpoint()  # noqa: ASYNC105  the caller awaits it
    else:
        _streak.calls += 1
    return checkpoint_if_cancelled()  # noqa: ASYNC105  the caller awaits it
