"""The driver of many plain sockets: one Trio task, one epoll descriptor (Linux).

Strategy: an epoll descriptor can itself be waited for, so a task waits for it with `wait_readable` and then
serves every ready socket in one plain loop: no task switch, no `epoll_ctl` and no checkpoint a message. Rules,
each found by experiment:

* Sockets are closed at the end of a batch, and events of connections that ended in it are skipped: the kernel
  gives a descriptor's number away at once. A list of events is never held across a checkpoint.
* A paused socket is not in the set at all; with an empty mask it would report HUP and ERR for ever.
* What a receiver learns of the end of its stream it learns from the loop, never from inside its own write.
* Deadlines expire only after a pass that left nothing unread, so that a process that was stopped for a while
  does not blame its peers; a second task sleeps until the earliest one.
* The loop runs with KeyboardInterrupt held back; what calls an application's code lets it through again.

Cost: about three system calls a batch and two a message. It does not know what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
from collections import deque
from heapq import heappop, heappush
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

_BATCH_EVENTS: Final = 256
"""Events that one pass takes from the kernel."""
_BATCH_SECONDS: Final = 0.005
"""Time after which a batch lets Trio's other tasks run."""
_SLICE_SECONDS: Final = 0.001
"""Time after which one connection lets others have their turn."""
_OVERDUE_SECONDS: Final = 1.0
"""How late deadlines may get before a pass ignores `_BATCH_SECONDS` to be sure that it has read everything."""
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
        "_corked",
        "_dead",
        "_dirty",
        "_due",
        "_fd",
        "_mask",
        "_out",
        "_paused",
        "_peer_done",
        "_progress_at",
        "_reactor",
        "_scheduled",
        "_sock",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = 0
        self._out: list[bytes] = []
        self._corked = False
        self._dirty = False
        self._changed = False
        self._paused = False
        self._scheduled = False
        self._dead = False
        self._peer_done = False
        self._close_by = inf
        self._due = inf
        self._progress_at = 0.0

    # -- what a receiver calls -------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def expired(self) -> bool:
        reactor = self._reactor
        clock = perf_counter()
        if reactor.slice_began == 0.0:
            reactor.slice_began = clock
            return False
        return clock - reactor.slice_began > _SLICE_SECONDS

    def write(self, data: bytes, more: bool = False) -> None:
        out = self._out
        if self._dead:
            return
        if not out and not more and not self._corked and not self._reactor.in_batch:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._lose(exc)
                return
            if sent == len(data):
                return
            data = data[sent:]
            self.queued = len(data)
            out.append(data)
            self._block()
            return
        out.append(data)
        self.queued += len(data)
        if not self._corked and not self._dirty and not self.blocked:
            self._dirty = True
            self._reactor.flush_soon(self)

    def flush(self) -> None:
        out = self._out
        if not out or self.blocked or self._dead:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._lose(exc)
            return
        out.clear()
        if sent == len(data):
            self.queued = 0
            if self._close_by is not inf:
                self._send_fin()
            return
        out.append(data[sent:])
        self.queued = len(data) - sent
        self._block()

    def pause(self) -> None:
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
        if self._close_by is inf and not self._dead:
            self._close_by = by
            self.wake_at(by)
            if not self._out:
                self._send_fin()

    def abort(self) -> None:
        if not self._dead:
            try:
                # Nobody waits for what the kernel still holds: let it be freed now, not when it gives up.
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            except OSError:
                pass  # the socket is beyond that already
            self._lose(None)

    # -- what the reactor calls --------------------------------------------------------------------------------

    def ready(self, events: int, now: float) -> None:
        """Serve a readiness event."""
        if self._dead:
            return
        if not self._paused:
            if events & ~_OUT:
                try:
                    data = self._sock.recv(READ_SIZE)
                except BlockingIOError:
                    pass
                except OSError as exc:
                    self._lose(exc)
                    return
                else:
                    if self._close_by is not inf:
                        if not data:
                            self._lose(None)
                            return
                    elif data:
                        self._reactor.slice_began = 0.0
                        self._corked = True
                        self.receiver.data(data, now)
                        self._corked = False
                        if self._out:
                            self.flush()
                    else:
                        self._end_of_input()
        elif events & _FAILED and not self._mask & _IN:
            # Nothing more can be sent; what was read before is still the receiver's.
            self._lose(ConnectionResetError(errno.ECONNRESET, "the peer is gone"))
            return
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
        self._due = inf
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
        if not mask:
            epoll.unregister(self._fd)
        elif not self._mask:
            epoll.register(self._fd, mask)
        else:
            epoll.modify(self._fd, mask)
        self._mask = mask

    def tell_end(self, error: Exception | None) -> None:
        """Tell the receiver that the stream is over; the last thing that it hears."""
        self.receiver.eof(error)

    def release(self) -> None:
        """Close the socket."""
        if self._mask:
            self._mask = 0
            self._reactor.epoll.unregister(self._fd)
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
        before = self.queued
        self.blocked = False
        self.flush()
        if self._dead:
            return
        if self.queued < before:
            self._progress_at = now
        if self.queued <= LOW_WATER and self._close_by is inf:
            self._corked = True
            self.receiver.drained()
            self._corked = False
            self.flush()
        if not self.blocked:
            self._change()
            if self._peer_done:
                self._lose(None)

    def _end_of_input(self) -> None:
        """The peer has sent FIN; what is queued to it may still be wanted."""
        if self._out:
            self._peer_done = True
            self.pause()
        else:
            self._lose(None)

    def _send_fin(self) -> None:
        """Nothing more will be sent: say so, and discard until the peer says so too."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._lose(exc)
            return
        self.resume()

    def _lose(self, error: Exception | None) -> None:
        if not self._dead:
            self._dead = True
            self._out.clear()
            self.queued = 0
            self.blocked = False
            self._reactor.end_soon(self, error)


@final
class _Listener:
    """A listening socket of a reactor, or one that rests for want of descriptors."""

    __slots__ = ("greet", "refusal", "sock")

    def __init__(self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], refusal: bytes) -> None:
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
        "_reserve",
        "_resting",
        "_run_list",
        "_sequence",
        "_timers",
        "epoll",
        "in_batch",
        "slice_began",
        "stall_timeout",
    )

    def __init__(self, *, stall_timeout: float) -> None:
        self.stall_timeout = stall_timeout
        self.epoll = select.epoll()
        self.in_batch = False
        self.slice_began = 0.0
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._doorbell, _IN)
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._connections: dict[int, SocketTransport] = {}
        self._listeners: dict[int, _Listener] = {}
        self._resting: list[tuple[float, _Listener]] = []
        self._run_list: deque[SocketTransport] = deque()
        self._dirty: list[SocketTransport] = []
        self._changed: list[SocketTransport] = []
        self._ended: list[tuple[SocketTransport, Exception | None]] = []
        self._timers: list[tuple[float, int, SocketTransport]] = []
        self._sequence = 0
        self._overdue = False
        self._rang = False
        self._alarm = trio.CancelScope()
        self._flusher: trio.lowlevel.Task | None = None

    # -- what the endpoints call -----------------------------------------------------------------------------

    def listen(
        self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], refusal: bytes
    ) -> None:
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
        transport.receiver = greet(transport, address)
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

    def end_soon(self, transport: SocketTransport, error: Exception | None) -> None:
        """Tell the end of a stream, and close it, from the loop."""
        self._ended.append((transport, error))
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
        os.eventfd_write(self._doorbell, 1)

    def _serve_batch(self) -> None:
        now = trio.current_time()
        began = perf_counter()
        events = self.epoll.poll(0, _BATCH_EVENTS)
        connections = self._connections
        patient = self._overdue and bool(self._timers) and now - self._timers[0][0] > _OVERDUE_SECONDS
        complete = len(events) < _BATCH_EVENTS or patient
        served = 0
        self.in_batch = True
        for fd, event in events:
            transport = connections.get(fd)
            if transport is not None:
                transport.ready(event, now)
            elif fd == self._doorbell:
                os.eventfd_read(fd)
            elif fd in self._listeners:
                complete = self._accept(fd, now) and complete
            served += 1
            if not served & 15 and not patient and perf_counter() - began > _BATCH_SECONDS:
                complete = False
                break
        for _ in range(len(self._run_list)):
            if perf_counter() - began > _BATCH_SECONDS:
                break
            self._run_list.popleft().go_on(now)
        self._finish_batch()
        if self._rang:
            self._overdue = not complete
            if complete:
                self._expire(now)
                self._finish_batch()
        self.in_batch = False

    def _finish_batch(self) -> None:
        """Send what was written to others, and end what has ended; either may cause more of both."""
        while self._dirty or self._ended:
            dirty, self._dirty = self._dirty, []
            for transport in dirty:
                transport._dirty = False
                transport.flush()
            ended, self._ended = self._ended, []
            for transport, error in ended:
                transport.tell_end(error)
            for transport, _ in ended:
                del self._connections[transport._fd]
                transport.release()
        changed, self._changed = self._changed, []
        for transport in changed:
            transport.apply_change()

    def _expire(self, now: float) -> None:
        self._rang = False
        timers = self._timers
        while timers and timers[0][0] <= now:
            when, _, transport = heappop(timers)
            if when == transport._due:
                transport.tick(now)
        if self._resting and self._resting[0][0] <= now:
            for _, listener in self._resting:
                self.epoll.register(listener.sock.fileno(), _IN)
            self._resting.clear()
        earliest = timers[0][0] if timers else inf
        if self._resting:
            earliest = min(earliest, self._resting[0][0])
        self._alarm.deadline = earliest

    async def _sleep_until_due(self) -> NoReturn:
        while True:
            with self._alarm:
                await trio.sleep_forever()
            # From here on the loop sets the alarm, when it has seen to what is due.
            self._rang = True
            self._alarm = trio.CancelScope()
            self._ring()

    async def _flush_when_asked(self) -> NoReturn:
        def abort(_: object) -> Abort:
            self._flusher = None
            return Abort.SUCCEEDED

        while True:
            self._flusher = current_task()
            await wait_task_rescheduled(abort)
            dirty, self._dirty = self._dirty, []
            for transport in dirty:
                transport._dirty = False
                transport.flush()

    def _accept(self, fd: int, now: float) -> bool:
        """Accept what waits at a listener; whether that was all."""
        listener = self._listeners[fd]
        for _ in range(_ACCEPTS):
            try:
                sock, address = listener.sock.accept()
            except BlockingIOError:
                return True
            except OSError as exc:
                if exc.errno in _OUT_OF_DESCRIPTORS:
                    self._refuse(listener)
                    self._rest(listener, now)
                    return True
                continue  # this one connection failed before it was accepted
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                except OSError:
                    sock.close()  # reset by the peer already
                    continue
            self.adopt(sock, listener.greet, address)
        return False

    def _refuse(self, listener: _Listener) -> None:
        """Answer one client although no descriptor is left, with the one that was kept for this."""
        os.close(self._reserve)
        try:
            sock, _ = listener.sock.accept()
        except OSError:
            pass  # somebody else took the descriptor, or the client has gone
        else:
            with sock:
                sock.setblocking(False)
                try:
                    sock.recv(READ_SIZE)  # a request left unread would turn our answer into a reset
                    sock.send(listener.refusal)
                except OSError:
                    pass  # it has not asked yet, or has gone: closing is the answer
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _rest(self, listener: _Listener, now: float) -> None:
        """Leave the listener alone for a while; it would be ready, and in vain, all the time."""
        self.epoll.unregister(listener.sock.fileno())
        until = now + _REST_SECONDS
        self._resting.append((until, listener))
        if until < self._alarm.deadline and not self._rang:
            self._alarm.deadline = until

    def _close(self) -> None:
        self.in_batch = True
        self.stop_listening()
        for transport in list(self._connections.values()):
            transport.abort()
        self._finish_batch()
        self.epoll.close()
        os.close(self._doorbell)
        os.close(self._reserve)
