"""One plain socket of the reactor: what is queued to its peer, and how it ends.

Rules, each found by experiment:

* A paused socket is not in the kernel's set at all; with an empty mask it would report HUP and ERR for ever.
* What a receiver learns of the end of its stream it learns from the loop, never from inside its own write, and after
  everything that the peer had sent: a reset leaves that readable.
* What is written outside of a batch is tried at once; what is written in one leaves when the group of connections that
  are served together has been served, and what is large when the receiver's call returns: one system call each.
* A socket becomes writable when a third of the kernel's buffer is free, which a slow peer may need minutes for: what
  says that bytes leave is the kernel's count of those that the peer has not acknowledged.

Cost: one `recv` and one `send` a message. It does not know what the bytes mean; of the loop it knows what it asks of
it, and it never waits.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
import sys
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, final

import trio

from .transport import FIRST_LOOK, HIGH_WATER, LOW_WATER, NOBODY, READ_SIZE, Transport

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["SocketTransport", "unacknowledged"]

_log = logging.getLogger("rawws")

_SLICE_SECONDS: Final = 0.001
"""Time after which one connection lets others have their turn."""
_LAST_READS: Final = 64
"""Reads at most of what a peer had sent before the connection broke: 8 MiB, more than a kernel keeps by default."""
_LOOKS: Final = 4
"""How often a peer that is behind is looked at in the time after which one without progress is given up."""
_LARGE: Final = 4096
"""Bytes queued while one connection is served beyond which they do not wait for those of others: they would leave the
processor's caches meanwhile."""
_PIECES: Final = 64
"""Pieces that one `sendmsg` takes; well below any system's IOV_MAX."""
_SHORT: Final = 1024
"""Bytes of a piece below which more than `_PIECES` are joined while they wait: each is an object that takes memory."""

_NO_LINGER: Final = struct.pack("ii", 1, 0)

if sys.platform == "linux":
    import fcntl
    import termios

    _IN: Final = select.EPOLLIN
    _OUT: Final = select.EPOLLOUT
    _FAILED: Final = select.EPOLLHUP | select.EPOLLERR


def unacknowledged(fd: int) -> int:
    """Return how many bytes the kernel holds that a socket's peer has not acknowledged (Linux); 0 if it cannot tell."""
    if sys.platform == "linux":
        with suppress(OSError):  # it is no socket any more
            return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    return 0


@final
class SocketTransport(Transport):
    """One connected, non-blocking stream socket of a loop."""

    __slots__ = (
        "_changed",
        "_close_by",
        "_closing",
        "_dead",
        "_dirty",
        "_due",
        "_error",
        "_fd",
        "_in_kernel",
        "_loop",
        "_mask",
        "_out",
        "_paused",
        "_peer_done",
        "_progress_at",
        "_reset",
        "_scheduled",
        "_sock",
    )

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = 0
        self._out: list[bytes | memoryview] | None = None  # when nothing is queued: most connections are idle
        self._dirty = False
        self._changed = False
        self._paused = False
        self._scheduled = False
        self._dead = False
        self._error: Exception | None = None
        self._reset = False
        self._peer_done = False
        self._closing = False
        self._close_by = inf
        self._due = inf
        self._progress_at = 0.0
        self._in_kernel = 0

    def __lt__(self, other: object) -> bool:
        """Let a heap compare timers of one time, whose order does not matter."""
        return False

    def __hash__(self) -> int:
        return id(self)  # mypyc gives a class that compares none by itself

    # -- what a receiver calls -------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def expired(self) -> bool:
        loop = self._loop
        if loop.is_closed:
            return False  # nobody would call `proceed`
        clock = perf_counter()
        if loop.slice_began == 0.0:
            loop.slice_began = clock
            return False
        return clock - loop.slice_began > _SLICE_SECONDS

    def without_progress(self) -> float:
        if not self.blocked or unacknowledged(self._fd) < self._in_kernel:
            return 0.0
        return trio.current_time() - self._progress_at

    def unacknowledged(self) -> int:
        return self.queued + unacknowledged(self._fd)

    def write(self, data: bytes, more: bool = False) -> None:
        if self._dead:
            return
        out = self._out
        loop = self._loop
        if out is None and not more and not loop.in_batch:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._lose(exc)
                return
            if sent < len(data):
                self._out = [memoryview(data)[sent:]]
                self.queued = len(data) - sent
                self._block()
            if loop.credit >= 0:
                loop.flush_soon()
            return
        if out is None:
            self._out = [data]
        else:
            out.append(data)
        self.queued += len(data)
        if self.blocked:
            if out is not None and len(out) > _PIECES and len(data) < _SHORT:
                out[:] = [b"".join(out)]
        elif not self._dirty:
            self._dirty = True
            loop.dirty.append(self)
            if not loop.in_batch:
                loop.flush_soon()

    def flush(self) -> None:
        out = self._out
        if out is None or self.blocked:
            return
        try:
            if len(out) == 1:
                sent = self._sock.send(out[0])
            elif self.queued <= HIGH_WATER:
                out[:] = [b"".join(out)]
                sent = self._sock.send(out[0])
            else:
                # Large pieces go as they are: a payload is not copied once more to stand behind its header.
                sent = self._sock.sendmsg(out[:_PIECES])
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._lose(exc)
            return
        self.queued -= sent
        if not self.queued:
            self._out = None
            if self._closing:
                self._send_fin()
        elif _forget_sent(out, sent):
            self.flush()
        else:
            self._block()

    def pause(self) -> None:
        if not self._closing:
            self._paused = True
            self._change()

    def resume(self) -> None:
        self._paused = False
        self._change()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.run_soon(self)

    def wake_at(self, when: float) -> None:
        if when < self._due and not self._dead:
            self._due = when
            self._loop.wake_at(when, self)

    def close(self, by: float) -> None:
        if not self._closing and not self._dead:
            self._closing = True
            self._close_by = by
            self.wake_at(by)
            if self._out:
                self.resume()  # a peer that waits for us to read would never read what is queued
            else:
                self._send_fin()

    def abort(self) -> None:
        if not self._dead:
            if self.blocked:
                # The peer does not take what the kernel holds for it: let that be freed now, with a reset, and not
                # when the kernel gives up. To a peer that keeps up, what the kernel took is still delivered.
                self._reset = True
                with suppress(OSError):  # the socket is beyond that already
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._lose(None)

    # -- what the loop calls --------------------------------------------------------------------------------

    def attend(self, events: int, now: float) -> bool:
        """Serve a readiness event, but for the reading; return whether there is something to read, and who wants it."""
        if self._dead:
            return False
        if self._paused and events & _FAILED and not self._mask & _IN:
            # Nothing more can be sent; what was received before is still the receiver's.
            self._lose(ConnectionResetError(errno.ECONNRESET, "the peer is gone"))
            return False
        if events & _OUT and self.blocked:
            self._unblock(now)
        return bool(events & ~_OUT) and not self._paused and not self._dead

    def take(self, data: bytes, now: float) -> None:
        """Give the receiver what was read; nothing is the end of the input."""
        if self._dead:
            return  # by what another connection's receiver has done since
        if not data:
            self._end_of_input()
        elif not self._closing:
            self._loop.slice_began = 0.0
            self.receiver.data(data, now)
            if self.queued > _LARGE:
                self.flush()

    def go_on(self, now: float) -> None:
        """Let the receiver proceed."""
        self._scheduled = False
        self._loop.slice_began = 0.0
        self.receiver.proceed(now)
        self.flush()

    def tick(self, now: float) -> None:
        """Let deadlines that have passed take effect."""
        if self._dead:
            return
        if now >= self._close_by:
            self.abort()
            return
        when = self._close_by
        if self.blocked:
            patience = self._loop.stall_timeout
            in_kernel = unacknowledged(self._fd)
            if in_kernel < self._in_kernel:
                self._in_kernel = in_kernel
                self._progress_at = now
            stalled_at = self._progress_at + patience
            if now >= stalled_at:
                self.receiver.stalled(patience)
            else:
                when = min(when, stalled_at, now + patience / _LOOKS)
        when = min(when, self.receiver.due(now))
        if when != inf:
            self.wake_at(when)

    def apply_change(self) -> None:
        """Bring the kernel's set to what is wanted now."""
        self._changed = False
        if self._dead:
            return
        mask = (0 if self._paused else _IN) | (_OUT if self.blocked else 0)
        if mask == self._mask:
            return
        epoll = self._loop.epoll
        try:
            if not mask:
                epoll.unregister(self._fd)
            elif not self._mask:
                epoll.register(self._fd, mask)
            else:
                epoll.modify(self._fd, mask)
        except OSError as exc:
            self._lose(exc)  # the kernel has no memory, or no more watches for this user
        else:
            self._mask = mask

    def fail(self) -> None:
        """Cut a connection whose receiver raised what it should not have: a mistake of ours, not of the others."""
        _log.exception("a mistake in rawws: the connection is cut")
        self.abort()

    def end(self, now: float) -> None:
        """Tell the receiver that the stream is over, the last thing that it hears of it, and close the socket."""
        try:
            if self._error is not None and not self._closing:
                self._read_rest(now)
            self.receiver.eof(self._error)
        except Exception:
            self.fail()
        finally:
            if not self._scheduled:
                self.receiver = NOBODY  # no cycle: both are freed with their last user, not by the collector
            if self._mask:
                self._mask = 0
                self._loop.epoll.unregister(self._fd)
            if not self._reset:
                with suppress(OSError):  # it is not connected any more
                    # A child process may have a copy of the descriptor, and closing ours would end nothing.
                    self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        if not self._changed:
            self._changed = True
            self._loop.change_soon(self)

    def _block(self) -> None:
        self.blocked = True
        now = trio.current_time()
        self._progress_at = now
        self._in_kernel = unacknowledged(self._fd)
        self.wake_at(now + min(self._loop.stall_timeout / _LOOKS, FIRST_LOOK))
        self._change()

    def _unblock(self, now: float) -> None:
        queued, progress_at, in_kernel = self.queued, self._progress_at, self._in_kernel
        self.blocked = False
        self.flush()
        if self.blocked and self.queued == queued and self._in_kernel >= in_kernel:
            self._progress_at = progress_at
        while self.queued <= LOW_WATER and not self._closing and not self._dead:
            self.receiver.drained()
            if self.blocked or not self._out:
                break
            self.flush()  # and if all of it leaves, there may be more where it came from
        if not self.blocked:
            self._change()
            if self._peer_done:
                self._lose(None)

    def _end_of_input(self) -> None:
        """The peer has sent FIN; what is queued to it may still be wanted, and what its receiver has to say."""
        if not self._closing and self.receiver.half_closed():
            self.pause()
            return
        self.flush()
        if self._out:
            self._peer_done = True
            self._paused = True
            self._change()
        else:
            self._lose(None)

    def _send_fin(self) -> None:
        """Nothing more will be sent: say so, and discard until the peer says so too."""
        if self._peer_done:
            self._lose(None)
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._lose(exc)
            return
        self.resume()

    def _read_rest(self, now: float) -> None:
        """Give the receiver what the peer had sent before the connection broke; the kernel has kept it."""
        for _ in range(_LAST_READS):
            try:
                data = self._sock.recv(READ_SIZE)
            except OSError:
                return
            if not data:
                return
            self.receiver.data(data, now)

    def _lose(self, error: Exception | None) -> None:
        if not self._dead:
            self._dead = True
            self._error = error
            self._out = None
            self.queued = 0
            self.blocked = False
            self._loop.end_soon(self)


def _forget_sent(out: list[bytes | memoryview], sent: int) -> bool:
    """Take what has left from the pieces, some of which remain; whether that was all that was tried."""
    whole = 0
    for piece in out[:_PIECES]:
        if sent < len(piece):
            break
        sent -= len(piece)
        whole += 1
    del out[:whole]
    if whole == _PIECES:
        return True
    out[0] = memoryview(out[0])[sent:]
    return False
