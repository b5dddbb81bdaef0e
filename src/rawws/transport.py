"""The seam between the drivers, which move bytes, and the rest, which knows what they mean.

A driver (the reactor, or the driver of one stream) owns a `Transport` a connection and calls its `Receiver`;
a receiver (the HTTP exchange, then the WebSocket) writes to its transport. Both run in one thread and never
wait. Rules:

* A driver calls `data`, `proceed` and `drained` with its output corked: what the receiver writes meanwhile leaves
  in one piece, when the call returns or a few others have. It never calls a receiver from inside one of the
  receiver's own calls.
* Whatever is queued after a `flush`, the receiver's or the driver's own, makes the transport blocked; and every
  time that a blocked transport is rid of enough of it, `drained` is called. So what waits for `drained` never
  waits in vain.
* Times are seconds of one clock, the transport's `now()`.
* After `close` and `abort` a receiver gets no `data` and no `drained`. `eof` comes once: after the peer's FIN, when
  the receiver has nothing more to say, an error of the stream, or the end of a `close` or `abort`; from then on
  nothing is queued, writing is in vain, and only `proceed` may follow, where it was asked for.

This module imports nothing of rawws and is the whole of what the reactor and stream.py know about it.
"""

from __future__ import annotations

from typing import Final

from ._mypyc import mypyc_attr

__all__ = ["FIRST_LOOK", "HIGH_WATER", "LOW_WATER", "NOBODY", "READ_SIZE", "Receiver", "Transport"]

READ_SIZE: Final = 131_072
"""Bytes that one read takes at most: a frame of 64 KiB comes in one, which makes an echo of such a sixth faster."""
HIGH_WATER: Final = 65_536
"""Bytes queued to a peer beyond which nothing is read from it, and more is kept in whole messages."""
LOW_WATER: Final = HIGH_WATER // 2
"""Bytes queued to a peer at which that ends; half, so that a slow peer does not make us stop and go at each frame."""

FIRST_LOOK: Final = 0.05
"""Seconds after which a peer that is behind is looked at first: what left in the moment before counts until then."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Receiver:
    """What a driver calls."""

    __slots__ = ()

    def data(self, data: bytes, now: float) -> None:
        """Take bytes that arrived; never empty."""
        raise NotImplementedError

    def proceed(self, now: float) -> None:
        """Go on with what was left undone for the sake of others, as `Transport.schedule` asked."""
        raise NotImplementedError

    def drained(self) -> None:
        """Learn that at most `LOW_WATER` bytes are queued, after the transport was blocked; it may be so again."""
        raise NotImplementedError

    def due(self, now: float) -> float:
        """Act on deadlines that have passed; return when to be called next, `math.inf` for never.

        A driver calls it after everything that had arrived by then was read, and what was scheduled has had its turn.
        """
        raise NotImplementedError

    def stalled(self, seconds: float) -> None:
        """Learn that for so long no queued byte has left; the receiver is expected to abort."""
        raise NotImplementedError

    def half_closed(self) -> bool:
        """Learn that the peer has sent its FIN; whether something may still be said to it.

        Then the stream stays, for writing. Nothing is read until `resume` or `close`, and then the driver asks again.
        """
        return False

    def eof(self, error: Exception | None) -> None:
        """Learn that the stream is over; `error` is None for the peer's orderly FIN."""
        raise NotImplementedError


class _Nobody(Receiver):
    """The receiver of a transport that was not given one yet, or whose stream is over."""

    __slots__ = ()

    def proceed(self, now: float) -> None:
        pass

    def eof(self, error: Exception | None) -> None:
        pass


NOBODY: Final = _Nobody()


@mypyc_attr(allow_interpreted_subclasses=True)
class Transport:
    """What a receiver calls.

    Attributes:
        receiver: who is called; replaced after an Upgrade.
        queued: bytes written and not taken by the kernel or the stream yet.
        blocked: whether the peer is behind: the kernel or the stream refused to take more; then `queued` is not 0.
    """

    __slots__ = ("blocked", "queued", "receiver")

    def __init__(self) -> None:
        self.receiver: Receiver = NOBODY
        self.queued = 0
        self.blocked = False

    def now(self) -> float:
        """Return the time on the clock of the driver."""
        raise NotImplementedError

    def expired(self) -> bool:
        """Whether the time that one connection may take before others have their turn is used up."""
        raise NotImplementedError

    def without_progress(self) -> float:
        """Return for how many seconds no queued byte has left; 0 while the peer is not behind."""
        raise NotImplementedError

    def unacknowledged(self) -> int:
        """Return how many bytes written the peer's machine has not acknowledged; `queued` where nothing tells."""
        raise NotImplementedError

    def write(self, data: bytes, more: bool = False) -> None:
        """Queue bytes; they leave now, soon after the driver's call, or, with `more`, a little later.

        Beyond `HIGH_WATER` they are not copied: a thousand connections that are sent the same object share it.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Let what is queued leave now, as far as the peer takes it; the transport is blocked by what remains."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more from the peer, until `resume`; what was read already may still come."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read from the peer again."""
        raise NotImplementedError

    def schedule(self) -> None:
        """Ask for a call of `proceed` after other connections had their turn."""
        raise NotImplementedError

    def wake_at(self, when: float) -> None:
        """Ask for a call of `due` at the latest then."""
        raise NotImplementedError

    def close(self, by: float) -> None:
        """Send what is queued, then FIN, then wait for the peer's FIN, discarding; abort at the time `by`."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut the connection at once; what is queued is lost."""
        raise NotImplementedError
