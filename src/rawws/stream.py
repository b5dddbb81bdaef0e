"""The driver of one Trio stream: TLS, Unix sockets, memory streams, platforms without epoll.

Strategy: three tasks own the stream. One reads, one writes, one keeps the time; a receiver, and through it an
application's tasks, only ever touches the buffer between them, because a second sender on a Trio stream is an
error and a cancelled `SSLStream.send_all` breaks it. Rules:

* The writer sends in pieces of 16 KiB, so that progress is seen as it happens. The peer counts as behind while a
  piece is under way: a stream does not tell more.
* What is small is copied to leave together; what is large is kept as it is, so that connections share it.
* The end of a connection is one sequence in one place, `_finish`: everything that was written, close_notify and FIN
  without waiting between them (RFC 8446 §6.1), the peer's FIN, all by one deadline.
* What has arrived counts before what is due, and before a failure of sending: both wait for the reader.

Cost: three tasks and a few kilobytes a connection; plain TCP on Linux takes the reactor instead. It does not
know what the bytes mean.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack, final

import trio
from trio.lowlevel import checkpoint

from .socket_transport import unacknowledged
from .transport import FIRST_LOOK, LOW_WATER, NOBODY, READ_SIZE, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StreamTransport", "let_leave"]

_LAST_STEPS: Final = 8
"""Steps that the task of a stream may make to get a last Close frame out; TLS over a socket takes two."""

_Args = TypeVarTuple("_Args")
_log = logging.getLogger("rawws")

_PIECE: Final = 16_384
"""Bytes that one `send_all` takes at most; also the size of a TLS record."""
_SLICE_SECONDS: Final = 0.001
"""Time after which one connection lets others have their turn."""
_REST_SECONDS: Final = 1.0
"""Time for reading what the peer had sent before sending to it failed."""
_LOOKS: Final = 4
"""How often a peer that is behind is looked at in the time after which one without progress is given up."""
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@final
class _Deaf(trio.abc.ReceiveStream):
    """A stream that nothing comes from: whoever says goodbye through it waits for no answer."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        """There is nothing to close."""


async def let_leave(is_queued: Callable[[], object]) -> None:
    """Let the tasks of streams write what was queued last, in spite of a cancellation; wait for no peer.

    Args:
        is_queued: whether something is left to write.
    """
    with trio.CancelScope(shield=True):
        for _ in range(_LAST_STEPS):
            if is_queued():
                await trio.lowlevel.checkpoint()


@final
class StreamTransport(Transport):
    """One stream of Trio's, which becomes the transport's.

    Args:
        stream: closed when `run` returns.
        stall_timeout: seconds that bytes may be queued to the peer without a piece of them leaving.
    """

    __slots__ = (
        "_alarm",
        "_close_by",
        "_closing",
        "_dead",
        "_error",
        "_in_kernel",
        "_may_read",
        "_out",
        "_over",
        "_peer_done",
        "_progress_at",
        "_read_all",
        "_scheduled",
        "_scope",
        "_secured",
        "_slice_began",
        "_stall_timeout",
        "_stream",
        "_work",
    )

    def __init__(self, stream: trio.abc.Stream, *, stall_timeout: float) -> None:
        super().__init__()
        self._stream = stream
        self._stall_timeout = stall_timeout
        self._out: list[bytearray | memoryview] = []
        self._dead = False
        self._over = False
        self._peer_done = False
        self._error: Exception | None = None
        self._scheduled = False
        self._closing = False
        self._close_by = inf
        self._progress_at = 0.0
        self._in_kernel = -1
        self._secured = False  # whether the TLS handshake, where there is one, is complete
        self._slice_began = 0.0
        self._may_read = trio.Event()
        self._may_read.set()
        self._read_all = trio.Event()
        self._work = trio.Event()
        self._alarm = trio.CancelScope()
        self._scope = trio.CancelScope()

    # -- what a receiver calls -------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def expired(self) -> bool:
        # In the end nobody would call `proceed`.
        return not self._over and perf_counter() - self._slice_began > _SLICE_SECONDS

    def without_progress(self) -> float:
        return trio.current_time() - self._progress_at if self.blocked else 0.0

    def unacknowledged(self) -> int:
        return self.queued + (self._held_by_kernel() or 0)

    def write(self, data: bytes, more: bool = False) -> None:
        if not self._dead:
            if len(data) > _PIECE:
                self._out.append(memoryview(data))
            elif self._out and isinstance(self._out[-1], bytearray):
                self._out[-1] += data
            else:
                self._out.append(bytearray(data))
            self.queued += len(data)
            self._work.set()

    def flush(self) -> None:
        if self.queued and not self.blocked:  # nothing leaves before the writer runs next
            self.blocked = True
            self._progress_at = trio.current_time()

    def pause(self) -> None:
        if self._may_read.is_set() and not self._dead and not self._closing:
            self._may_read = trio.Event()

    def resume(self) -> None:
        self._may_read.set()

    def schedule(self) -> None:
        self._scheduled = True
        self._alarm.deadline = -inf

    def wake_at(self, when: float) -> None:
        if when < self._alarm.deadline:
            self._alarm.deadline = when

    def close(self, by: float) -> None:
        self._closing = True
        self._close_by = min(by, self._close_by)
        self.wake_at(by)
        self._may_read.set()  # a peer that waits for us to read would never read what is queued
        self._work.set()

    def abort(self) -> None:
        self._drop()
        self._scope.cancel()

    # -- the tasks -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the stream until it ends; then close it and tell the receiver.

        When cancelled, the stream is closed forcefully, and the receiver is told all the same.
        """
        secure = self._stream if isinstance(self._stream, trio.SSLStream) else None
        stream: trio.abc.Stream = secure.transport_stream if secure is not None else self._stream
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_time)
                    reading = trio.CancelScope()
                    nursery.start_soon(self._read, reading)
                    await self._write()
                    reading.cancel()
                    await self._read_all.wait()
                    await self._finish(secure, stream)
                    nursery.cancel_scope.cancel()
        except BaseException:
            self._over = True
            raise
        finally:
            self._drop()
            with trio.CancelScope(shield=True), suppress(*_BROKEN):
                await trio.aclose_forcefully(stream)
            self._tell(self.receiver.eof, self._error)
        try:
            while self._scheduled:
                await checkpoint()
                self._go_on()
        finally:
            self._over = True
            if self._scheduled:
                self._go_on()
            self.receiver = NOBODY  # no cycle: both are freed with their last user

    async def _read(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                if isinstance(self._stream, trio.SSLStream):
                    await self._stream.do_handshake()
                    self._secured = True
                while True:
                    if not self._may_read.is_set():
                        await self._may_read.wait()
                    data = await self._stream.receive_some(READ_SIZE)
                    if not data:
                        await self._hear_out()
                        # What is queued may still be wanted, and the writer ends the connection after it.
                        self._peer_done = True
                        self._work.set()
                        return
                    if not self._closing and not self._scope.cancel_called:
                        self._slice_began = perf_counter()
                        self._tell(self.receiver.data, bytes(data), trio.current_time())
        except _BROKEN as exc:
            self._error = self._error or exc
            self._scope.cancel()
        finally:
            self._read_all.set()

    async def _hear_out(self) -> None:
        """The peer has sent FIN: wait while the receiver has something to say to it."""
        while not self._closing and not self._dead and self._tell(self.receiver.half_closed):
            self.pause()
            await self._may_read.wait()

    async def _write(self) -> None:
        """Send until there is nothing more to send and the connection is to be closed."""
        while True:
            await self._work.wait()
            while self._out:
                piece = self._next_piece()
                self.blocked = True
                self._progress_at = trio.current_time()
                self._in_kernel = -1
                self.wake_at(self._progress_at + min(self._stall_timeout / _LOOKS, FIRST_LOOK))
                try:
                    await self._stream.send_all(piece)
                except _BROKEN as exc:
                    await self._lose(exc)
                    return
                if not self._dead:
                    self.queued -= len(piece)
                self.blocked = False
                if self.queued <= LOW_WATER and not self._closing and not self._dead:
                    self._tell(self.receiver.drained)
            if self._closing:
                return
            if self._peer_done:
                self.close(trio.current_time() + self._stall_timeout)
                return
            self._work = trio.Event()

    def _next_piece(self) -> bytes:
        """Take what leaves next; it counts as queued until it has left."""
        out = self._out
        piece = b""
        while out and len(piece) < _PIECE:
            first, room = out[0], _PIECE - len(piece)
            piece += first[:room]
            if len(first) <= room:
                del out[0]
            elif isinstance(first, bytearray):
                del first[:room]
            else:
                out[0] = first[room:]
        return piece

    async def _lose(self, error: Exception) -> None:
        """Nothing can be sent any more; what the peer had sent before is still the receiver's."""
        self._error = error
        self._drop()
        if not self._closing:
            self._may_read.set()
            with trio.move_on_after(_REST_SECONDS):
                await self._read_all.wait()
        self._scope.cancel()

    async def _finish(self, secure: trio.SSLStream[trio.abc.Stream] | None, stream: trio.abc.Stream) -> None:
        """Say that nothing more will be sent, and discard until the peer says so too."""
        with suppress(*_BROKEN):  # it has ended in another way
            if secure is not None and self._secured:
                if isinstance(stream, trio.abc.HalfCloseableStream):
                    secure.transport_stream = trio.StapledStream(stream, _Deaf())
                with suppress(trio.BrokenResourceError):
                    # Where we wait, many peers answer close_notify with FIN, or with what was under way.
                    await secure.unwrap()
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
                while await stream.receive_some(READ_SIZE):
                    pass
            else:
                await stream.aclose()

    async def _keep_time(self) -> None:
        """Call `proceed` and `due` when they are asked for."""
        while True:
            with self._alarm:
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            # In a process that was stopped for a while what arrived meanwhile is read first.
            await checkpoint()
            if self._scheduled:
                self._go_on()
            now = trio.current_time()
            if now >= self._close_by:
                self.abort()
                return
            if self.blocked:
                self._look_for_progress(now)
                stalled_at = self._progress_at + self._stall_timeout
                if now >= stalled_at:
                    self._tell(self.receiver.stalled, self._stall_timeout)
                else:
                    self.wake_at(min(stalled_at, now + self._stall_timeout / _LOOKS))
            self._tell(self._look_due, now)

    def _look_for_progress(self, now: float) -> None:
        """See whether a piece that is under way moves: a slow peer may take long until a socket asks for more."""
        in_kernel = self._held_by_kernel()
        if in_kernel is None:
            return
        if in_kernel < self._in_kernel or self._in_kernel < 0:
            # What the first look finds may have grown since the piece began: it says nothing against the peer.
            self._progress_at = now
        self._in_kernel = in_kernel

    def _held_by_kernel(self) -> int | None:
        """Return the bytes sent that the peer's machine has not acknowledged; None for a stream that is no socket's."""
        below = getattr(self._stream, "transport_stream", self._stream)
        return unacknowledged(below.socket.fileno()) if isinstance(below, trio.SocketStream) else None

    def _look_due(self, now: float) -> None:
        self.wake_at(min(self._close_by, self.receiver.due(now)))

    def _go_on(self) -> None:
        self._scheduled = False
        self._slice_began = perf_counter()
        self._tell(self.receiver.proceed, trio.current_time())

    def _tell(self, what: Callable[[Unpack[_Args]], object], *args: *_Args) -> object:
        """Call the receiver, return its answer; what it should not have raised ends this connection and no other."""
        try:
            return what(*args)
        except Exception:
            _log.exception("a mistake in rawws: the connection is cut")
            self.abort()
            return None

    def _drop(self) -> None:
        """Forget what is queued, and what will be written."""
        self._dead = True
        self._out.clear()
        self.queued = 0
        self.blocked = False
