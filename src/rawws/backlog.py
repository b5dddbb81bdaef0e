"""What waits for a peer that is behind: whole messages, in the order in which they leave, some of which may be dropped.

Two queues, the second after the first: frames that are encoded and wait for room in the transport, and messages that
are not encoded yet because they wait for the end of one that is being written in pieces. A frame whose compression
others may refer to is never dropped, nor is a part of a message. A connection whose peer keeps up has no backlog.
What is short counts as `_LEAST` bytes against a bound, for it takes that much memory, and an empty message too.

Cost: dropping takes the same time however much waits: of what may not be dropped nothing is looked at twice. This
module knows no sockets, no trio and no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, final

from .encoder import SharedMessage

__all__ = ["Backlog", "Dropped"]


_LEAST: Final = 64
"""Bytes that whatever waits counts as at least: its place in a queue takes as many."""


class Dropped(NamedTuple):
    """What `drop_oldest` did."""

    messages: int
    """How many messages are gone, encoded or not."""
    frames: int
    """How many of them were encoded."""
    frame_bytes: int
    """Bytes of these."""
    passed: list[bytes]
    """Frames that stood before what was dropped and may not be dropped: they are to leave now."""


@final
class Backlog:
    """The messages of one connection that wait.

    Attributes:
        frames_size: bytes of the frames that wait.
        frames_cost: what these count as.
        cost: what all that waits counts as; messages that are not encoded, as what they hold.
    """

    __slots__ = ("_behind", "_behind_cost", "_droppable_cost", "_frames", "frames_cost", "frames_size")

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, bool]] = deque()
        self.frames_size = 0
        self.frames_cost = 0
        self._droppable_cost = 0
        self._behind: deque[tuple[str | bytes | SharedMessage, bool | None]] = deque()
        self._behind_cost = 0

    @property
    def cost(self) -> int:
        return self.frames_cost + self._behind_cost

    def put(self, frame: bytes, droppable: bool) -> None:
        """Append a frame; `droppable` unless a later one may refer to it (RFC 7692 §7.2.3.2)."""
        self._frames.append((frame, droppable))
        self.frames_size += len(frame)
        cost = max(len(frame), _LEAST)
        self.frames_cost += cost
        if droppable:
            self._droppable_cost += cost

    def take(self) -> bytes:
        """Take the oldest frame; there must be one, which `frames_size` tells."""
        frame, droppable = self._frames.popleft()
        self.frames_size -= len(frame)
        cost = max(len(frame), _LEAST)
        self.frames_cost -= cost
        if droppable:
            self._droppable_cost -= cost
        return frame

    def put_behind(self, message: str | bytes | bytearray | memoryview | SharedMessage, compress: bool | None) -> None:
        """Append a message that is encoded when the one being written in pieces has ended.

        Raises:
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate (RFC 6455 §8.1).
        """
        if isinstance(message, (bytearray, memoryview)):
            message = bytes(message)
        if not isinstance(message, (str, bytes, SharedMessage)):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        self._behind_cost += _cost_encoded(message)
        self._behind.append((message, compress))

    def take_behind(self) -> deque[tuple[str | bytes | SharedMessage, bool | None]]:
        """Take all messages that are not encoded, each with the wish of who sent it to compress it."""
        behind, self._behind = self._behind, deque()
        self._behind_cost = 0
        return behind

    def drop_oldest(self, excess: int) -> Dropped | None:
        """Drop the oldest messages until the cost is less by `excess`; None, and drop none, where it cannot be."""
        if excess > self._behind_cost + self._droppable_cost:
            return None
        messages = frames = frame_bytes = 0
        passed = []
        while excess > 0 and self._droppable_cost:
            droppable = self._frames[0][1]
            frame = self.take()
            if droppable:
                frames += 1
                frame_bytes += len(frame)
                excess -= max(len(frame), _LEAST)
            else:
                # Nothing before it can be dropped any more: it is not to be looked at again for each message.
                passed.append(frame)
        while excess > 0:
            cost = _cost_encoded(self._behind.popleft()[0])
            messages += 1
            excess -= cost
            self._behind_cost -= cost
        return Dropped(messages + frames, frames, frame_bytes, passed)


def _cost_encoded(message: str | bytes | SharedMessage) -> int:
    if isinstance(message, SharedMessage):
        return max(message.size, _LEAST)
    return max(len(message.encode() if isinstance(message, str) else message), _LEAST)
