"""Trio's rule for checkpoints, kept cheaply: a task that never blocks still yields.

Every call of `send` and `receive` checks for cancellation. They are counted, whichever task makes them, from the last
time that one of them blocked: after `CALLS_WITHOUT_BLOCKING` calls the next is a full checkpoint. A task that has made
that many without blocking is certain to be among those that yield, and no lookup of the task is needed to know it.

Cost: 0.2 µs a call, nearly all of it Trio's check for cancellation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trio.lowlevel import checkpoint, checkpoint_if_cancelled, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import outcome
    import trio

__all__ = ["CALLS_WITHOUT_BLOCKING", "blocks", "breathe", "hand_over", "sleep_order", "unpark"]

CALLS_WITHOUT_BLOCKING: Final = 16
"""Calls that one task makes before it lets others run."""

_calls = 0


def breathe() -> Coroutine[Any, Any, None]:
    """Return what to await: a checkpoint when it is the turn of other tasks, else a check for cancellation.

    A plain function, because one coroutine a call is enough.
    """
    global _calls
    if _calls >= CALLS_WITHOUT_BLOCKING:
        _calls = 1
        return checkpoint()  # noqa: ASYNC105  the caller awaits it
    _calls += 1
    return checkpoint_if_cancelled()  # noqa: ASYNC105  the caller awaits it


def sleep_order(abort: Callable[[trio.lowlevel.RaiseCancelT], trio.lowlevel.Abort]) -> object:
    """Return what `wait_task_rescheduled(abort)` yields to Trio's loop, to be yielded to it again and again.

    To make it anew each time, in a coroutine of its own, costs a handler that echoes short messages 5 to 8 % of its
    rate. What Trio answers is an outcome to unwrap.
    """
    sleeping = wait_task_rescheduled(abort)  # noqa: ASYNC105  it is not to sleep now
    order: object = sleeping.send(None)
    sleeping.close()
    return order


def blocks() -> None:
    """Say that this task is about to sleep."""
    global _calls
    _calls = 0


class _Nothing:
    """An outcome of None. Trio makes a new `outcome.Value` for each task that it wakes; one will do for all."""

    __slots__ = ()

    def unwrap(self) -> None:
        """Return None."""


_NOTHING: Final[outcome.Outcome[None]] = _Nothing()  # type: ignore[assignment]  # all of it that Trio uses


def unpark(task: trio.lowlevel.Task) -> None:
    """Let a task that sleeps go on."""
    reschedule(task, _NOTHING)


def hand_over(task: trio.lowlevel.Task, message: str | bytes) -> None:
    """Let a task that sleeps for a message go on with it: what it yielded its order for is the message itself.

    Trio passes on what it is given here; that its own waiting unwraps it is no concern of who waits by an order. To put
    the message into a queue and take it out again costs 0.17 µs, a fifteenth of what a handler's echo takes of Python.
    """
    reschedule(task, message)  # type: ignore[arg-type]  # no outcome, as said above
