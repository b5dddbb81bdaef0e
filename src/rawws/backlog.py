"""What waits for a peer that is behind: whole messages, in the order in which they leave, some of which may be dropped.

Two queues, the second after the first: frames that are encoded and wait for room in the transport, and messages that
are not encoded yet because they wait for the end of one that is being written in pieces. A frame whose compression
others may refer to is never dropped, nor is a part of a message. A connection whose peer keeps up has no backlog.

Cost: dropping takes the same time however much waits: of what may not be dropped nothing is looked at twice. This
module knows no sockets, no trio and no clock.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, final

from .encoder import SharedMessage

__all__ = ["Backlog", "Dropped"]


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
        size: bytes of all that waits; of messages that are not encoded, what they hold.
    """

    __slots__ = ("_behind", "_behind_size", "_droppable_size", "_frames", "frames_size")

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, bool]] = deque()
        self.frames_size = 0
        self._droppable_size = 0
        self._behind: deque[tuple[str | bytes | SharedMessage, bool | None]] = deque()
        self._behind_size = 0

    @property
    def size(self) -> int:
        return self.frames_size + self._behind_size

    def put(self, frame: bytes, droppable: bool) -> None:
        """Append a frame; `droppable` unless a later one may refer to it (RFC 7692 §7.2.3.2)."""
        self._frames.append((frame, droppable))
        self.frames_size += len(frame)
        if droppable:
            self._droppable_size += len(frame)

    def take(self) -> bytes:
        """Take the oldest frame; there must be one, which `frames_size` tells."""
        frame, droppable = self._frames.popleft()
        self.frames_size -= len(frame)
        if droppable:
            self._droppable_size -= len(frame)
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
        self._behind_size += _encoded_size(message)
        self._behind.append((message, compress))

    def take_behind(self) -> deque[tuple[str | bytes | SharedMessage, bool | None]]:
        """Take all messages that are not encoded, each with the wish of who sent it to compress it."""
        behind, self._behind = self._behind, deque()
        self._behind_size = 0
        return behind

    def drop_oldest(self, excess: int) -> Dropped | None:
        """Drop the oldest messages until `excess` bytes are gone; None, and drop none, where that is not possible."""
        if excess > self._behind_size + self._droppable_size:
            return None
        messages = frames = frame_bytes = 0
        passed = []
        while excess > 0 and self._droppable_size:
            droppable = self._frames[0][1]
            frame = self.take()
            if droppable:
                frames += 1
                frame_bytes += len(frame)
                excess -= len(frame)
            else:
                # Nothing before it can be dropped any more: it is not to be looked at again for each message.
                passed.append(frame)
        while excess > 0:
            size = _encoded_size(self._behind.popleft()[0])
            messages += 1
            excess -= size
            self._behind_size -= size
        return Dropped(messages + frames, frames, frame_bytes, passed)


def _encoded_size(message: str | bytes | SharedMessage) -> int:
    if isinstance(message, SharedMessage):
        return message.size
    return len(message.encode()) if isinstance(message, str) else len(message)
