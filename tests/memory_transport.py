"""A transport in memory, for tests of a receiver: a clock that is set, a peer that reads as much as it is told.

It behaves as the reactor's does: what is written outside a call of the receiver leaves at once, what is written
inside one when the call returns, and a peer that does not take everything makes it blocked. Everything that a
receiver asks for is kept to be looked at, and a breach of the seam's rules, on either side, is an AssertionError.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from rawws.transport import LOW_WATER, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryTransport(Transport):
    """The driver of one connection, by hand.

    Attributes:
        clock: seconds; what `now` returns.
        window: bytes that the peer takes from now on; `math.inf` for a peer that reads everything.
        under_way: bytes that have left and that the peer's machine has not acknowledged.
        sent: what has left and the test has not taken yet.
        slice_is_over: what `expired` returns.
        paused, scheduled, alarm, closing_by, aborted: what the receiver asked for; None or `math.inf` for nothing.
        corked: whether a call of the receiver, or a batch, is under way.
        ended: whether the receiver was told of the end.
        flushes: calls of `flush` that had something to send.
    """

    def __init__(self, window: float = inf) -> None:
        super().__init__()
        self.clock = 1000.0
        self.window = window
        self.under_way = 0
        self.sent = bytearray()
        self.slice_is_over = False
        self.paused = False
        self.scheduled = False
        self.alarm = inf
        self.closing_by: float | None = None
        self.aborted = False
        self.corked = False
        self.ended = False
        self.flushes = 0
        self._out = bytearray()
        self._progress_at = 0.0

    # -- what a receiver calls -----------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock

    def expired(self) -> bool:
        return self.slice_is_over

    def without_progress(self) -> float:
        return self.clock - self._progress_at if self.blocked else 0.0

    def unacknowledged(self) -> int:
        return self.queued + self.under_way

    def write(self, data: bytes, more: bool = False) -> None:
        assert data
        if self.aborted or self.ended:
            return
        assert self.closing_by is None, "nothing is written after close"
        self._out += data
        self.queued = len(self._out)
        if not self.corked and not more and not self.blocked:
            self.flush()

    def flush(self) -> None:
        if self._out and not self.blocked:
            self.flushes += 1
            self._progress_at = self.clock
            self._send()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def schedule(self) -> None:
        self.scheduled = True

    def wake_at(self, when: float) -> None:
        self.alarm = min(self.alarm, when)

    def close(self, by: float) -> None:
        if self.closing_by is None:
            self.closing_by = by
            self.wake_at(by)

    def abort(self) -> None:
        self.aborted = True
        self._forget()

    # -- what a test does ------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Return what has left since the last call."""
        sent = bytes(self.sent)
        self.sent.clear()
        return sent

    def data(self, data: bytes) -> None:
        """Let bytes arrive; after a close they are discarded, as every driver does."""
        assert not self.ended
        if self.closing_by is None and not self.aborted:
            with self.cork():
                self.receiver.data(data, self.clock)

    def proceed(self) -> bool:
        """Let the receiver go on, if it asked for it; whether it had."""
        if not self.scheduled:
            return False
        self.scheduled = False
        with self.cork():
            self.receiver.proceed(self.clock)
        return True

    def proceed_all(self) -> None:
        """Let the receiver go on until it asks no more."""
        while self.proceed():
            pass

    def read(self, size: float = inf) -> None:
        """Let the peer take so many bytes more."""
        self.window += size
        if self.blocked:
            self.blocked = False
            self._send()
            if self.queued <= LOW_WATER and self.closing_by is None and not self.aborted:
                with self.cork():
                    self.receiver.drained()

    def pass_time(self, seconds: float) -> None:
        """Let the time pass, and what is due happen when it is."""
        until = self.clock + seconds
        while self.alarm <= until and not self.ended:
            self.clock = max(self.clock, self.alarm)
            self.alarm = inf
            self.proceed()
            if self.closing_by is not None and self.clock >= self.closing_by:
                self.abort()
                break
            self.wake_at(self.receiver.due(self.clock))
            if self.closing_by is not None:
                self.wake_at(self.closing_by)
            assert self.alarm > self.clock, "the receiver would be asked for ever"
        self.clock = until

    def half_close(self) -> None:
        """Let the peer's FIN arrive, as often as the receiver reads up to it; the stream ends if that is all."""
        assert not self.ended
        with self.cork():
            stays = self.closing_by is None and not self.aborted and self.receiver.half_closed()
        if stays:
            self.pause()
        else:
            self.eof()

    def eof(self, error: Exception | None = None) -> None:
        """End the stream."""
        assert not self.ended
        self.ended = True
        self._forget()
        self.receiver.eof(error)

    @contextmanager
    def cork(self) -> Iterator[None]:
        """Let nothing leave until the end, as in a call of the receiver or while another connection is served."""
        assert not self.corked, "calls of a receiver never nest"
        self.corked = True
        try:
            yield
        finally:
            self.corked = False
        self.flush()

    # -- inside ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        size = int(min(len(self._out), self.window))
        self.sent += self._out[:size]
        del self._out[:size]
        self.window -= size
        if size:
            self._progress_at = self.clock
        self.queued = len(self._out)
        self.blocked = bool(self._out)

    def _forget(self) -> None:
        self._out.clear()
        self.queued = 0
        self.blocked = False
