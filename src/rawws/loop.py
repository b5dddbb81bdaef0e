"""The reactor's loop: who is ready, whose turn it is, what is due and what has ended. It never waits.

Rules, each found by experiment:

* Sockets are closed at the end of a batch, and events of connections that ended in it are skipped: the kernel gives a
  descriptor's number away at once. A list of events is never held across a checkpoint.
* Listeners accept when what ended in the batch has ended: a place that is free by then is free for those who come.
* Connections are served by the group: all are read from, then their receivers called, then what these wrote is sent.
  So the code of each step, the kernel's above all, stays in the processor's caches: 64 connections that echo are served
  6 % faster, a thousand 12 %.
* Whoever sleeps in the kernel is woken late: over one connection that is more than half of the time of an echo. So the
  loop polls for 30 µs before it sleeps, while four times in five something comes; 2.6 times as many echoes for
  callbacks, 1.7 for handlers and clients. Otherwise it is tried once in 256 batches.
* Deadlines expire only after a pass that read from everyone who had sent something, so that a process that was stopped
  for a while does not blame its peers.
* Without descriptors a listener rests again and again, and between its rests the one that was kept for this lets
  clients be answered, one after the other.

Cost: about three system calls a batch. It does not know what the bytes mean. `reactor.py` adds the waiting; this module
is one of those that the compiled build compiles.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections import deque
from contextlib import ExitStack, suppress
from functools import cache
from heapq import heapify, heappop, heappush
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import current_statistics, reschedule

from ._mypyc import mypyc_attr
from .lag import WORTH_NOTING, Lag
from .socket_transport import SocketTransport
from .transport import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import Receiver

__all__ = ["Loop"]

_log = logging.getLogger("rawws")

# Bounds that tests set lower are not Final: mypyc would write their values into the code.
_BATCH_EVENTS = 256
"""Events that one pass takes from the kernel."""
_BATCH_SECONDS = 0.005
"""Time after which a batch lets Trio's other tasks run."""
_GROUP: Final = 32
"""Connections that are read from before their receivers are called, and these before what they wrote is sent."""
_GROUP_SIZE: Final = 16_384
"""Bytes read beyond which a group is full: what is large does not leave the processor's caches before it is used."""
_SMALL_READ: Final = 4096
"""Bytes that a read takes at most, while no group of the batch before had so many. Each read asks for a block of that
size and keeps of it what came; what is then kept of large blocks for a while leaves holes that no such block fits."""
_HEAP_BLOCK: Final = 8 * 1024 * 1024
"""Bytes of a block that glibc is shown once: it then takes blocks up to this from its heap and keeps twice as much of
what is free there, where it would map, or give back and take again, the pages of every large message. With blocks of
4 to 16 MiB, echoes of 1 MiB are 1.02 to 1.15 times as many."""
_STAY_SECONDS = 0.002
"""Time after which a batch does not look again for what has become ready meanwhile."""
_WORTH_A_LOOK = 5e-5
"""Seconds of work in which something is likely to have become ready; Trio takes 15 µs of its own a batch."""
_BUSY_POLL_SECONDS = 3e-5
"""Time for which the loop polls for an answer before it sleeps: twice what a process beside it takes to give one."""
_CHAIN_SECONDS = 2e-4
"""The same time for a batch that has polled: a task that is ready but has not had its turn in this tick of Trio's can
not be seen from here, and waits for so long at most."""
_MISS: Final = 4
"""Credit that it costs to have polled in vain; not in vain brings 1, so that four times in five must be."""
_MOST_CREDIT: Final = 32
"""What can be saved: after nine times in vain, one after the other, credit has run out at the latest."""
_PAUSE: Final = 256
"""Batches without a try when credit has run out."""
_OVERDUE_SECONDS = 1.0
"""How late deadlines may get before a pass ignores the two bounds above to be sure that it reads from everyone."""
_STALE_TIMERS: Final = 64
"""Timers of connections that are gone from which on it is worth looking for them."""
_ACCEPTS: Final = 64
"""Connections that one listener accepts in a batch."""
_REST_SECONDS: Final = 0.1
"""Time that a listener rests after the process ran out of descriptors."""
_SAY_AGAIN_SECONDS: Final = 60.0
"""Time after which the log is told again that there are no descriptors."""
_IN: Final = 1
"""EPOLLIN; the only bit of nearly all events."""
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@final
class _Listener:
    """A listening socket of a reactor, or one that rests for want of descriptors, with a client that it lets ask."""

    __slots__ = ("greet", "guest", "refuse", "sock")

    def __init__(
        self,
        sock: socket.socket,
        greet: Callable[[SocketTransport, object], Receiver],
        refuse: Callable[[object, bytes], bytes],
    ) -> None:
        self.sock = sock
        self.greet = greet
        self.refuse = refuse
        self.guest: tuple[socket.socket, object] | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Loop:
    """What a reactor does without waiting.

    Attributes:
        busy_seconds: how long all batches took together, without the time that they polled.
        credit: what busy polling has earned; below 0 it is not tried.
        lag: how long batches took that took long, and how late alarms rang.

    Args:
        stall_timeout: seconds that bytes may be queued to a peer without one of them leaving.
    """

    __slots__ = (
        "_alarm",
        "_changed",
        "_connections",
        "_doorbell",
        "_ended",
        "_flusher",
        "_goes_on",
        "_listeners",
        "_overdue",
        "_rang",
        "_rang_at",
        "_read_size",
        "_reserve",
        "_resting",
        "_run_list",
        "_said_short_at",
        "_stale_timers",
        "_timers",
        "busy_seconds",
        "credit",
        "dirty",
        "epoll",
        "in_batch",
        "is_closed",
        "lag",
        "slice_began",
        "stall_timeout",
    )

    def __init__(self, *, stall_timeout: float) -> None:
        self.stall_timeout = stall_timeout
        _keep_large_blocks()
        self.epoll = select.epoll()
        self.dirty: list[SocketTransport] = []
        self.in_batch = False
        self.is_closed = False
        self.busy_seconds = 0.0
        self.lag = Lag()
        self.slice_began = 0.0
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._doorbell, select.EPOLLIN)
        self._reserve = -1
        self._keep_reserve()
        self._connections: dict[int, SocketTransport] = {}
        self._listeners: dict[int, _Listener] = {}
        self._resting: deque[tuple[float, _Listener]] = deque()
        self._run_list: deque[SocketTransport] = deque()
        self._changed: list[SocketTransport] = []
        self._ended: list[SocketTransport] = []
        self._timers: list[tuple[float, SocketTransport]] = []
        self._stale_timers = 0
        self._read_size = _SMALL_READ
        self._goes_on = False
        self.credit = 0
        self._overdue = False
        self._rang = False
        self._rang_at = inf
        self._alarm = trio.CancelScope()
        self._flusher: trio.lowlevel.Task | None = None
        self._said_short_at = -inf

    # -- what the endpoints call -----------------------------------------------------------------------------

    def listen(
        self,
        sock: socket.socket,
        greet: Callable[[SocketTransport, object], Receiver],
        refuse: Callable[[object, bytes], bytes],
    ) -> None:
        """Accept connections from a listening socket, which becomes the reactor's.

        Args:
            greet: called with the transport of a new connection and the peer's address; returns its receiver.
            refuse: called with the address and the first bytes of a client for which no descriptor is left; returns
                what it is sent before it is closed. It must not raise.
        """
        sock.setblocking(False)
        self._listeners[sock.fileno()] = _Listener(sock, greet, refuse)
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def stop_listening(self) -> None:
        """Close the listening sockets."""
        for fd, listener in self._listeners.items():
            if all(listener is not resting for _, resting in self._resting):
                self.epoll.unregister(fd)
            self._dismiss_guest(listener)
            listener.sock.close()
        self._listeners.clear()
        self._resting.clear()

    def adopt(self, sock: socket.socket, greet: Callable[[SocketTransport, object], Receiver], address: object) -> None:
        """Serve a connected socket, which becomes the reactor's."""
        sock.setblocking(False)
        transport = SocketTransport(self, sock)
        self._connections[transport._fd] = transport
        try:
            transport.receiver = greet(transport, address)
        except Exception:
            transport.fail()
        transport.apply_change()

    # -- what transports call ----------------------------------------------------------------------------------

    def run_soon(self, transport: SocketTransport) -> None:
        """Put a connection on the run list."""
        self._run_list.append(transport)
        if not self.in_batch:
            self._ring()

    def flush_soon(self) -> None:
        """Flush what is dirty when the tasks that are ready have run."""
        if self._flusher is not None:
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
        heappush(self._timers, (when, transport))
        if when < self._alarm.deadline and not self._rang:
            self._alarm.deadline = when

    # -- inside --------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        if not self.is_closed:
            os.eventfd_write(self._doorbell, 1)

    def _serve_batch(self) -> None:
        """Serve what is ready; and while more is likely to be and no task was woken for its turn, look again."""
        began = looked = perf_counter()
        stay_seconds = _STAY_SECONDS
        polled = 0.0
        self.in_batch = True
        goes_on, self._goes_on = self._goes_on, False
        while self._serve_ready(began) or goes_on:
            goes_on = False
            clock = perf_counter()
            if clock - began > stay_seconds or self._run_list or self._overdue:
                self._goes_on = stay_seconds == _CHAIN_SECONDS
                break
            if clock - looked > _WORTH_A_LOOK:
                if current_statistics().tasks_runnable:
                    break
                looked = clock
            else:
                is_ready = self._busy_poll(clock)
                looked = perf_counter()
                polled += looked - clock
                if not is_ready:
                    break
                stay_seconds = _CHAIN_SECONDS
        self.in_batch = False
        clock = perf_counter()
        self.busy_seconds += clock - began - polled
        if clock - began > WORTH_NOTING:
            self.lag.note(clock - began, trio.current_time())

    def _serve_answers(self) -> None:
        """Serve what answers what tasks have just sent, if it comes within a moment."""
        if not self._run_list and not self._overdue and self._busy_poll(perf_counter()):
            self._serve_batch()

    def _busy_poll(self, clock: float) -> bool:
        """Poll for a moment, if that was seldom in vain lately and no task was woken for its turn.

        Args:
            clock: the time, by `perf_counter`.

        Returns:
            Whether something is ready.
        """
        credit = self.credit
        if credit < 0:
            self.credit = credit + 1
            return False
        if current_statistics().tasks_runnable:
            return False
        until = clock + _BUSY_POLL_SECONDS
        poll = self.epoll.poll
        if not poll(0, 1):  # else nobody would have slept, and more will have come when Trio had its turn
            while perf_counter() < until:
                if poll(0, 1):
                    self.credit = min(credit + 1, _MOST_CREDIT)
                    return True
        self.credit = credit - _MISS if credit >= _MISS else -_PAUSE
        return False

    def _serve_ready(self, began: float) -> bool:
        """Serve what is ready, end what has ended and let deadlines that have passed take effect.

        Args:
            began: when the batch did, by `perf_counter`.

        Returns:
            Whether anything was ready.
        """
        now = trio.current_time()
        connections = self._connections
        patient = self._overdue and now - self._rang_at > _OVERDUE_SECONDS
        limit = len(connections) + len(self._listeners) + 1 if patient else _BATCH_EVENTS
        events = self.epoll.poll(0, limit)
        complete = patient or len(events) < limit
        arrived: list[tuple[SocketTransport, bytes]] = []
        visited: list[int] = []
        size = 0
        # What is due expires after this pass, if it has read all that was sent in time.
        read_size = READ_SIZE if self._rang else self._read_size
        self._read_size = _SMALL_READ
        for fd, event in events:
            transport = connections.get(fd)
            if transport is not None:
                # Reading is the one thing that is done here and not by a method: a call less for each message.
                if event != _IN or transport._paused:
                    try:
                        if not transport.attend(event, now):
                            continue
                    except Exception:
                        transport.fail()
                        continue
                try:
                    data = transport._sock.recv(read_size)
                except BlockingIOError:
                    continue
                except OSError as exc:
                    transport._lose(exc)
                    continue
                arrived.append((transport, data))
                size += len(data)
                if size > _GROUP_SIZE or len(arrived) == _GROUP:
                    if size >= _SMALL_READ:
                        self._read_size = READ_SIZE
                    self._serve_group(arrived, now)
                    arrived = []
                    size = 0
                    if not patient and perf_counter() - began > _BATCH_SECONDS:
                        complete = False
                        break
            elif fd == self._doorbell:
                os.eventfd_read(fd)
            elif fd in self._listeners:
                visited.append(fd)
        if size >= _SMALL_READ:
            self._read_size = READ_SIZE
        self._serve_group(arrived, now)
        for _ in range(len(self._run_list)):
            self._proceed(now)
            if perf_counter() - began > _BATCH_SECONDS:
                break
        self._finish_batch(now)
        if visited:
            for fd in visited:
                self._accept(fd, now)
            self._finish_batch(now)
        if self._rang:
            self._overdue = not complete
            if complete:
                self._expire(now)
                self._finish_batch(now)
        return bool(events)

    def _serve_group(self, arrived: list[tuple[SocketTransport, bytes]], now: float) -> None:
        """Give what was read to the receivers, then send what they wrote."""
        for transport, data in arrived:
            try:
                transport.take(data, now)
            except Exception:
                transport.fail()
        self._flush_dirty()

    def _proceed(self, now: float) -> None:
        """Let the first connection on the run list go on."""
        transport = self._run_list.popleft()
        try:
            transport.go_on(now)
        except Exception:
            transport.fail()

    def _finish_batch(self, now: float) -> None:
        """Send what was written to others, and end what has ended; either may cause more of both."""
        while self.dirty or self._ended or self._changed:
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
        dirty, self.dirty = self.dirty, []
        for transport in dirty:
            transport._dirty = False
            transport.flush()

    def _forget_timers(self, gone: int) -> None:
        """Drop the timers of connections that are gone before their time, once they are the most."""
        self._stale_timers += gone
        if self._stale_timers > _STALE_TIMERS and 2 * self._stale_timers > len(self._timers):
            self._stale_timers = 0
            self._timers = [entry for entry in self._timers if not entry[1]._dead]
            heapify(self._timers)

    def _expire(self, now: float) -> None:
        self._rang = False
        timers = self._timers
        due: list[SocketTransport] = []
        while timers and timers[0][0] <= now:
            when, transport = heappop(timers)
            if when == transport._due:
                transport._due = inf
                due.append(transport)
        for transport in due:
            try:
                transport.tick(now)
            except Exception:
                transport.fail()
        while self._resting and self._resting[0][0] <= now:
            listener = self._resting.popleft()[1]
            self._dismiss_guest(listener)
            self._keep_reserve()
            self.epoll.register(listener.sock.fileno(), select.EPOLLIN)
        earliest = timers[0][0] if timers else inf
        if self._resting:
            earliest = min(earliest, self._resting[0][0])
        self._alarm.deadline = earliest

    def _accept(self, fd: int, now: float) -> None:
        """Accept what waits at a listener, if it still listens."""
        listener = self._listeners.get(fd)
        if listener is None:
            return
        for _ in range(_ACCEPTS):
            try:
                sock, address = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _OUT_OF_DESCRIPTORS:
                    self._refuse_some(listener)
                    self._rest(listener, now)
                    if now - self._said_short_at > _SAY_AGAIN_SECONDS:
                        self._said_short_at = now
                        _log.warning("no connection can be accepted for now: %s", exc.strerror)
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

    def _refuse_some(self, listener: _Listener) -> None:
        """Answer clients although no descriptor is left, one after the other, with the one that was kept for this."""
        for _ in range(_ACCEPTS):
            self._drop_reserve()
            try:
                sock, address = listener.sock.accept()
            except OSError:
                break  # nobody else waits, or somebody else took the descriptor
            sock.setblocking(False)
            asked = _received(sock)
            if not asked and not _somebody_waits(listener.sock):
                listener.guest = (sock, address)  # it may ask while the listener rests
                return
            _refuse(listener, sock, address, asked)
        self._keep_reserve()

    def _dismiss_guest(self, listener: _Listener) -> None:
        """Answer the client that was let ask, whether it did or not."""
        if listener.guest is not None:
            sock, address = listener.guest
            listener.guest = None
            _refuse(listener, sock, address, _received(sock))

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


def _received(sock: socket.socket) -> bytes:
    """Return what a client has sent so far; left unread it would turn our answer into a reset."""
    try:
        return sock.recv(READ_SIZE)
    except OSError:
        return b""  # it has not asked yet, or it has gone


@cache
def _keep_large_blocks() -> None:
    """Show glibc a block, once in a process: it is mapped then, never touched and given back."""
    bytes(_HEAP_BLOCK)


def _refuse(listener: _Listener, sock: socket.socket, address: object, asked: bytes) -> None:
    with sock, suppress(OSError):  # it has gone
        sock.send(listener.refuse(address, asked))


def _somebody_waits(sock: socket.socket) -> bool:
    """Whether another client waits to be accepted; without a descriptor for it, `accept` cannot tell."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
