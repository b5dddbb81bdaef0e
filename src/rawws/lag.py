"""How late the event loop was: the longest delay of the last minute or two, in three numbers.

Facts: who measures a delay (a batch that took long, an alarm that rang late) notes it. Kept are the longest of this
minute and of the one before it, so that a delay is seen by whoever looks once a minute and forgotten after two. It
knows no clock: the time comes as an argument.

Cost: a comparison or two for each note, and nothing is noted that is too short to matter.
"""

from __future__ import annotations

from math import inf
from typing import Final, final

__all__ = ["WORTH_NOTING", "Lag"]

WORTH_NOTING: Final = 0.001
"""Seconds below which a delay is not worth a note; one read of 64 KiB takes up to that."""
_WINDOW: Final = 60.0
"""Seconds of which the longest delay is kept, and then kept once more; a scraper looks several times in it."""


@final
class Lag:
    """The longest delays of late."""

    __slots__ = ("_before", "_longest", "_since")

    def __init__(self) -> None:
        self._longest = 0.0
        self._before = 0.0
        self._since = -inf

    def note(self, seconds: float, now: float) -> None:
        """Take a delay that was measured just now."""
        self._turn(now)
        if seconds > self._longest:
            self._longest = seconds

    def longest(self, now: float) -> float:
        """Return the longest delay, in seconds, of the last one to two minutes; 0 where none was noted."""
        self._turn(now)
        return max(self._longest, self._before)

    def _turn(self, now: float) -> None:
        passed = now - self._since
        if passed >= _WINDOW:
            self._before = self._longest if passed < 2 * _WINDOW else 0.0
            self._longest = 0.0
            self._since = now
