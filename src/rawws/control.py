"""What the parent of several workers and each of them say to each other, over a Unix socket pair.

A message is one JSON object on a line. The worker says that it is `ready`, and may `ask` about all workers, which the
parent answers with an `answer` of the same number; the parent may want a `report` about this worker, which it gets as a
`report` of the same kind, and says how it is to end: `drain`, `shut down` or `cut`. The end of the stream means that
the other side is gone.

Rules: a line has a bound, sending has a deadline, and a side that keeps neither is as good as gone; so nobody waits
for a process that hangs, and nothing here raises. It knows no processes, no sockets and no applications. Cost: some
microseconds a message, and there are few.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, final

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Channel", "HealthReport", "Kind", "Message", "State", "WorkerHealth", "health_text"]

_log = logging.getLogger("rawws")

_MAX_LINE: Final = 1 << 20
"""Bytes of a message; the metrics of a worker take some thousands."""
_READ_SIZE: Final = 65_536
_SEND_SECONDS: Final = 2.0
"""Time that the other side has to take a message from us."""

Message: TypeAlias = dict[str, Any]
"""What is said; its `type` is one of the words above."""
Kind: TypeAlias = Literal["health", "metrics"]
"""What can be asked about a worker, or all of them."""
State: TypeAlias = Literal["starting", "serving", "draining", "stopping", "waiting"]
"""What a worker does. One that drains makes room for another, one that stops does so with all others; one that waits
does not run, because it has died too often."""


class HealthReport(TypedDict):
    """What a worker says about itself."""

    connections: int
    lag: float
    """The longest delay of its event loop in the last minute or two, in seconds."""


class WorkerHealth(TypedDict):
    """How a worker is."""

    worker: int
    """Its place, from 0; there are two in a place while one makes room for the other."""
    pid: int | None
    state: State
    seconds: float
    """Since it was started."""
    report: HealthReport | None
    """None when it did not answer in time."""


@final
class Channel:
    """One side's end of what is said.

    Args:
        stream: becomes the channel's.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._received = bytearray()

    async def send(self, message: Message) -> None:
        """Send a message; when the other side does not take it in time, close the channel.

        A cancelled call sends it all the same.
        """
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with trio.move_on_after(_SEND_SECONDS, shield=True) as scope:
            async with self._sending:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # `receive` tells
                    await self._stream.send_all(line)
        if scope.cancelled_caught:
            await self.aclose()

    async def receive(self) -> Message | None:
        """Return the next message, or None: the other side is gone, or says what it cannot mean.

        A cancelled call loses nothing.
        """
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > _MAX_LINE:
                _log.error("a process of this server sent a line that does not end")
                return None
            try:
                data = await self._stream.receive_some(_READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            _log.error("a process of this server sent what is no message: %a", line[:80])
            return None
        return message

    async def aclose(self) -> None:
        """Close the channel at once; who receives from it gets None."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


def health_text(workers: Sequence[WorkerHealth]) -> tuple[bool, str]:
    """Return whether in every place a worker serves and answers; and a page of text that says so, and how each is."""
    lines = []
    well = set()
    for one in workers:
        report = one["report"]
        line = f"worker {one['worker']}: {one['state']}"
        if one["pid"] is not None:
            line += f" for {one['seconds']:.0f} s as process {one['pid']}"
        if report is not None:
            line += f", {report['connections']} connections"
            if one["state"] == "serving":
                well.add(one["worker"])
        elif one["state"] not in ("starting", "waiting"):
            line += ", does not answer"
        lines.append(line)
    healthy = well == {one["worker"] for one in workers}
    return healthy, "\n".join(["ok" if healthy else "not every worker serves", *lines])
