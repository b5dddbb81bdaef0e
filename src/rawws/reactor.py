"""The driver of many plain sockets: one Trio task, one epoll descriptor (Linux).

Strategy: an epoll descriptor can itself be waited for, so a task waits for it with `wait_readable` and then
serves every ready socket in one plain loop: no task switch, no `epoll_ctl` and no checkpoint a message. Rules,
each found by experiment:

* Sockets are closed at the end of a batch, and events of connections that ended in it are skipped: the kernel
  gives a descriptor's number away at once. A list of events is never held across a checkpoint.
* A paused socket is not in the set at all; with an empty mask it would report HUP and ERR for ever.
* What a receiver learns of the end of its stream it learns from the loop, never from inside its own write,
  and after everything that the peer had sent: a reset leaves that readable.
* Deadlines expire only after a pass that read from everyone who had sent something, so that a process that was
  stopped for a while does not blame its peers; a second task sleeps until the earliest one.
* The loop runs with KeyboardInterrupt held back; what calls an application's code lets it through again.

Cost: about three system calls a batch and two a message. It does not know what the bytes mean.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import sys
from collections import deque
from contextlib import ExitStack, suppress
from heapq import heapify, heappop, heappush
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio
from trio.lowlevel import (
    Abort,
    checkpoint,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)

from .transport import LOW_WATER, READ_SIZE, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import Receiver

__all__ = ["Reactor", "SocketTransport", "is_supported"]

_log = logging.getLogger("rawws")

_BATCH_EVENTS: Final = 256
"""Events that one pass takes from the kernel."""
_BATCH_SECONDS: Final = 0.005
"""Time after which a batch lets Trio's other tasks run."""
_OVERDUE_SECONDS: Final = 1.0
"""How late deadlines may get before a pass ignores the two bounds above to be sure that it reads from everyone."""
_SLICE_SECONDS: Final = 0.001
"""Time after which one connection lets others have their turn."""
_LAST_READS: Final = 128
"""Reads at most of what a peer had sent before the connection broke: 8 MiB, more than a kernel keeps by default."""
_STALE_TIMERS: Final = 64
"""Timers of connections that are gone from which on it is worth looking for them."""
_PIECES: Final = 64
"""Pieces that one `sendmsg` takes; well below any system's IOV_MAX."""
_ACCEPTS: Final = 64
"""Connections that one listener accepts in a batch."""
_REST_SECONDS: Final = 0.1
"""Time that a listener rests after the process ran out of descriptors."""
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_NO_LINGER: Final = struct.pack("ii", 1, 0)


def is_supported() -> bool:
    """Whether this platform has what the reactor needs: epoll and eventfd."""
    return sys.platform == "linux"


if sys.platform == "linux":
    _IN: Final = select.EPOLLIN
    _OUT: Final = select.EPOLLOUT
    _FAILED: Final = select.EPOLLHUP | select.EPOLLERR


@final
class SocketTransport(Transport):
    """One connected, non-blocking stream socket of a reactor."""

    __slots__ = (
        "_changed",
        "_close_by",
        "_closing",
        "_corked",
        "_dead",
        "_dirty",
        "_due",
        "_error",
        "_fd",
        "_mask",
        "_out",
        "_paused",
        "_peer_done",
        "_progress_at",
        "_reactor",
        "_reset",
        "_scheduled",
        "_sock",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = 0
        self._out: list[bytes | memoryview] = []
        self._corked = False
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

    # -- what a receiver calls -------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def expired(self) -> bool:
        reactor = self._reactor
        if reactor.is_closed:
            return False  # nobody would call `proceed`
        clock = perf_counter()
        if reactor.slice_began == 0.0:
            reactor.slice_began = clock
            return False
        return clock - reactor.slice_began > _SLICE_SECONDS

    def write(self, data: bytes, more: bool = False) -> None:
        if self._dead:
            return
        out = self._out
        if self._corked:
            out.append(data)
            self.queued += len(data)
            return
        if not out and not more and not self._reactor.in_batch:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._lose(exc)
                return
            if sent < len(data):
                out.append(memoryview(data)[sent:])
                self.queued = len(data) - sent
                self._block()
            return
        out.append(data)
        self.queued += len(data)
        if not self._dirty and not self.blocked:
            self._dirty = True
            self._reactor.flush_soon(self)

    def flush(self) -> None:
        out = self._out
        if not out or self.blocked:
            return
        try:
            if len(out) == 1:
                sent = self._sock.send(out[0])
            elif self.queued <= READ_SIZE:
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
            out.clear()
            if self._closing:
                self._send_fin()
        elif self._forget_sent(sent):
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
            self._reactor.run_soon(self)

    def wake_at(self, when: float) -> None:
        if when < self._due and not self._dead:
            self._due = when
            self._reactor.wake_at(when, self)

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

    # -- what the reactor calls --------------------------------------------------------------------------------

    def ready(self, events: int, now: float) -> None:
        """Serve a readiness event."""
        if self._dead:
            return
        if self._paused:
            if events & _FAILED and not self._mask & _IN:
                # Nothing more can be sent; what was received before is still the receiver's.
                self._lose(ConnectionResetError(errno.ECONNRESET, "the peer is gone"))
                return
        elif events & ~_OUT:
            try:
                data = self._sock.recv(READ_SIZE)
            except BlockingIOError:
                pass
            except OSError as exc:
                self._lose(exc)
                return
            else:
                if not data:
                    self._end_of_input()
                elif not self._closing:
                    self._reactor.slice_began = 0.0
                    self._corked = True
                    self.receiver.data(data, now)
                    self._corked = False
                    if self._out:
                        self.flush()
        if events & _OUT and self.blocked:
            self._unblock(now)

    def go_on(self, now: float) -> None:
        """Let the receiver proceed."""
        self._scheduled = False
        self._reactor.slice_began = 0.0
        self._corked = True
        self.receiver.proceed(now)
        self._corked = False
        if self._out:
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
            stalled_at = self._progress_at + self._reactor.stall_timeout
            if now >= stalled_at:
                self.receiver.stalled(self._reactor.stall_timeout)
            else:
                when = min(when, stalled_at)
        when = min(when, self.receiver.due(now))
        if when is not inf:
            self.wake_at(when)

    def apply_change(self) -> None:
        """Bring the kernel's set to what is wanted now."""
        self._changed = False
        if self._dead:
            return
        mask = (0 if self._paused else _IN) | (_OUT if self.blocked else 0)
        if mask == self._mask:
            return
        epoll = self._reactor.epoll
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
            if self._mask:
                self._mask = 0
                self._reactor.epoll.unregister(self._fd)
            if not self._reset:
                with suppress(OSError):  # it is not connected any more
                    # A child process may have a copy of the descriptor, and closing ours would end nothing.
                    self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        if not self._changed:
            self._changed = True
            self._reactor.change_soon(self)

    def _block(self) -> None:
        self.blocked = True
        now = trio.current_time()
        self._progress_at = now
        self.wake_at(now + self._reactor.stall_timeout)
        self._change()

    def _unblock(self, now: float) -> None:
        before = self.queued, self._progress_at
        self.blocked = False
        self.flush()
        if self.blocked and self.queued == before[0]:
            self._progress_at = before[1]
        while self.queued <= LOW_WATER and not self._closing and not self._dead:
            self._corked = True
            self.receiver.drained()
            self._corked = False
            if self.blocked or not self._out:
                break
            self.flush()  # and if all of it leaves, there may be more where it came from
        if not self.blocked:
            self._change()
            if self._peer_done:
                self._lose(None)

    def _forget_sent(self, sent: int) -> bool:
        """Take what has left from the pieces; whether that was all that was tried."""
        out = self._out
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

    def _end_of_input(self) -> None:
        """The peer has sent FIN; what is queued to it may still be wanted."""
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
            self._out.clear()
            self.queued = 0
            self.blocked = False
            self._reactor.end_soon(self)


@final
class _Listener:
    """A listening socket of a reactor, or one that rests for want of descriptors."""

    __slots__ = ("greet", "refusal", "sock")

    def __init__(
        self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], refusal: bytes
    ) -> None:
        self.sock = sock
        self.greet = greet
        self.refusal = refusal


@final
class Reactor:
    """Serves listening and connected sockets until `run` is cancelled.

    Args:
        stall_timeout: seconds that bytes may be queued to a peer without one of them leaving.
    """

    __slots__ = (
        "_alarm",
        "_changed",
        "_connections",
        "_dirty",
        "_doorbell",
        "_ended",
        "_flusher",
        "_listeners",
        "_overdue",
        "_rang",
        "_rang_at",
        "_reserve",
        "_resting",
        "_run_list",
        "_sequence",
        "_stale_timers",
        "_timers",
        "epoll",
        "in_batch",
        "is_closed",
        "slice_began",
        "stall_timeout",
    )

    def __init__(self, *, stall_timeout: float) -> None:
        self.stall_timeout = stall_timeout
        self.epoll = select.epoll()
        self.in_batch = False
        self.is_closed = False
        self.slice_began = 0.0
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._doorbell, _IN)
        self._reserve = -1
        self._keep_reserve()
        self._connections: dict[int, SocketTransport] = {}
        self._listeners: dict[int, _Listener] = {}
        self._resting: deque[tuple[float, _Listener]] = deque()
        self._run_list: deque[SocketTransport] = deque()
        self._dirty: list[SocketTransport] = []
        self._changed: list[SocketTransport] = []
        self._ended: list[SocketTransport] = []
        self._timers: list[tuple[float, int, SocketTransport]] = []
        self._stale_timers = 0
        self._sequence = 0
        self._overdue = False
        self._rang = False
        self._rang_at = inf
        self._alarm = trio.CancelScope()
        self._flusher: trio.lowlevel.Task | None = None

    # -- what the endpoints call -----------------------------------------------------------------------------

    def listen(self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], refusal: bytes) -> None:
        """Accept connections from a listening socket, which becomes the reactor's.

        Args:
            greet: called with the transport of a new connection and the peer's address; returns its receiver.
            refusal: what a client is sent when no descriptor is left for it.
        """
        sock.setblocking(False)
        self._listeners[sock.fileno()] = _Listener(sock, greet, refusal)
        self.epoll.register(sock.fileno(), _IN)

    def stop_listening(self) -> None:
        """Close the listening sockets."""
        for fd, listener in self._listeners.items():
            if all(listener is not resting for _, resting in self._resting):
                self.epoll.unregister(fd)
            listener.sock.close()
        self._listeners.clear()
        self._resting.clear()

    def adopt(self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], address: object) -> None:
        """Serve a connected socket, which becomes the reactor's."""
        sock.setblocking(False)
        transport = SocketTransport(self, sock)
        self._connections[sock.fileno()] = transport
        try:
            transport.receiver = greet(transport, address)
        except Exception:
            transport.fail()
        transport.apply_change()

    @enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every socket is closed, whatever is queued, and each receiver told."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sleep_until_due)
                nursery.start_soon(self._flush_when_asked)
                task_status.started()
                while True:
                    if self._run_list or self._overdue:
                        await checkpoint()
                    else:
                        await wait_readable(self.epoll.fileno())
                    self._serve_batch()
        finally:
            self._close()

    # -- what transports call ----------------------------------------------------------------------------------

    def run_soon(self, transport: SocketTransport) -> None:
        """Put a connection on the run list."""
        self._run_list.append(transport)
        if not self.in_batch:
            self._ring()

    def flush_soon(self, transport: SocketTransport) -> None:
        """Flush a transport at the end of the batch, or when the tasks that are ready have run."""
        self._dirty.append(transport)
        if not self.in_batch and self._flusher is not None:
            task, self._flusher = self._flusher, None
            reschedule(task)

    def change_soon(self, transport: SocketTransport) -> None:
        """Change what the kernel watches of a transport, before the next wait."""
        if self.in_batch:
            self._changed.append(transport)
        else:
            transport.apply_change()

    def end_soon(self, transport: SocketTransport) -> None:
        """Tell the end of a stream, and close it, from the loop."""
        self._ended.append(transport)
        if not self.in_batch:
            self._ring()

    def wake_at(self, when: float, transport: SocketTransport) -> None:
        """Call `tick` then."""
        self._sequence += 1
        heappush(self._timers, (when, self._sequence, transport))
        if when < self._alarm.deadline and not self._rang:
            self._alarm.deadline = when

    # -- inside --------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        if not self.is_closed:
            os.eventfd_write(self._doorbell, 1)

    def _serve_batch(self) -> None:
        now = trio.current_time()
        began = perf_counter()
        connections = self._connections
        patient = self._overdue and now - self._rang_at > _OVERDUE_SECONDS
        limit = len(connections) + len(self._listeners) + 1 if patient else _BATCH_EVENTS
        events = self.epoll.poll(0, limit)
        complete = patient or len(events) < limit
        self.in_batch = True
        for served, (fd, event) in enumerate(events, 1):
            transport = connections.get(fd)
            if transport is not None:
                try:
                    transport.ready(event, now)
                except Exception:
                    transport.fail()
            elif fd == self._doorbell:
                os.eventfd_read(fd)
            elif fd in self._listeners:
                self._accept(fd, now)
            if not served & 15 and not patient and perf_counter() - began > _BATCH_SECONDS:
                complete = False
                break
        for _ in range(len(self._run_list)):
            self._proceed(now)
            if perf_counter() - began > _BATCH_SECONDS:
                break
        self._finish_batch(now)
        if self._rang:
            self._overdue = not complete
            if complete:
                self._expire(now)
                self._finish_batch(now)
        self.in_batch = False

    def _proceed(self, now: float) -> None:
        """Let the first connection on the run list go on."""
        transport = self._run_list.popleft()
        try:
            transport.go_on(now)
        except Exception:
            transport.fail()

    def _finish_batch(self, now: float) -> None:
        """Send what was written to others, and end what has ended; either may cause more of both."""
        while self._dirty or self._ended or self._changed:
            self._flush_dirty()
            ended, self._ended = self._ended, []
            for transport in ended:
                try:
                    transport.end(now)
                finally:
                    del self._connections[transport._fd]
            self._forget_timers(len(ended))
            changed, self._changed = self._changed, []
            for transport in changed:
                transport.apply_change()

    def _flush_dirty(self) -> None:
        dirty, self._dirty = self._dirty, []
        for transport in dirty:
            transport._dirty = False
            transport.flush()

    def _forget_timers(self, gone: int) -> None:
        """Drop the timers of connections that are gone before their time, once they are the most."""
        self._stale_timers += gone
        if self._stale_timers > _STALE_TIMERS and 2 * self._stale_timers > len(self._timers):
            self._stale_timers = 0
            self._timers = [entry for entry in self._timers if not entry[2]._dead]
            heapify(self._timers)

    def _expire(self, now: float) -> None:
        self._rang = False
        timers = self._timers
        due: list[SocketTransport] = []
        while timers and timers[0][0] <= now:
            when, _, transport = heappop(timers)
            if when == transport._due:
                transport._due = inf
                due.append(transport)
        for transport in due:
            try:
                transport.tick(now)
            except Exception:
                transport.fail()
        while self._resting and self._resting[0][0] <= now:
            self._keep_reserve()
            self.epoll.register(self._resting.popleft()[1].sock.fileno(), _IN)
        earliest = timers[0][0] if timers else inf
        if self._resting:
            earliest = min(earliest, self._resting[0][0])
        self._alarm.deadline = earliest

    @enable_ki_protection
    async def _sleep_until_due(self) -> NoReturn:
        while True:
            with self._alarm:
                await trio.sleep_forever()
            # From here on the loop sets the alarm, when it has seen to what is due.
            self._rang = True
            self._rang_at = trio.current_time()
            self._alarm = trio.CancelScope()
            self._ring()

    @enable_ki_protection
    async def _flush_when_asked(self) -> NoReturn:
        def abort(_: object) -> Abort:
            self._flusher = None
            return Abort.SUCCEEDED

        while True:
            self._flush_dirty()
            self._flusher = current_task()
            await wait_task_rescheduled(abort)

    def _accept(self, fd: int, now: float) -> None:
        """Accept what waits at a listener."""
        listener = self._listeners[fd]
        for _ in range(_ACCEPTS):
            try:
                sock, address = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _OUT_OF_DESCRIPTORS:
                    self._refuse(listener)
                    self._rest(listener, now)
                    return
                continue  # this one connection failed before it was accepted
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                except OSError:
                    sock.close()  # reset by the peer already
                    continue
            self.adopt(sock, listener.greet, address)

    def _keep_reserve(self) -> None:
        """Keep a descriptor for the time when there is no other."""
        if self._reserve < 0:
            with suppress(OSError):  # somebody was faster; there is another chance when the listener has rested
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _drop_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _refuse(self, listener: _Listener) -> None:
        """Answer one client although no descriptor is left, with the one that was kept for this."""
        self._drop_reserve()
        try:
            sock, _ = listener.sock.accept()
        except OSError:
            pass  # somebody else took the descriptor, or the client has gone
        else:
            with sock:
                sock.setblocking(False)
                with suppress(OSError):  # it has not asked yet
                    sock.recv(READ_SIZE)  # a request left unread would turn our answer into a reset
                with suppress(OSError):  # it has gone
                    sock.send(listener.refusal)
        self._keep_reserve()

    def _rest(self, listener: _Listener, now: float) -> None:
        """Leave the listener alone for a while; it would be ready, and in vain, all the time."""
        self.epoll.unregister(listener.sock.fileno())
        until = now + _REST_SECONDS
        self._resting.append((until, listener))
        if until < self._alarm.deadline and not self._rang:
            self._alarm.deadline = until

    def _close(self) -> None:
        """Cut every connection, and tell each receiver, whatever the others raise."""
        now = trio.current_time()
        self.in_batch = True
        self.is_closed = True
        self.stop_listening()
        left = list(self._connections.values())
        self._connections.clear()
        for transport in left:
            transport.abort()
        self._ended.clear()
        with ExitStack() as stack:
            stack.callback(self._close_descriptors)
            stack.callback(self._run_rest, now)
            for transport in left:
                stack.callback(transport.end, now)

    def _run_rest(self, now: float) -> None:
        while self._run_list:
            self._proceed(now)

    def _close_descriptors(self) -> None:
        self.epoll.close()
        os.close(self._doorbell)
        self._drop_reserve()
