"""The driver of one Trio stream: TLS, Unix sockets, memory streams, platforms without epoll.

Strategy: three tasks own the stream. One reads, one writes, one keeps the time; a receiver, and through it an
application's tasks, only ever touches the buffer between them, because a second sender on a Trio stream is an
error and a cancelled `SSLStream.send_all` breaks it. Rules:

* The writer sends in pieces of 16 KiB, so that progress is seen as it happens.
* The end of a connection is one sequence in one place, `_finish`: everything that was written, close_notify and
  FIN, the peer's FIN, all by one deadline.

Cost: three tasks and a few kilobytes a connection; plain TCP on Linux takes the reactor instead. It does not
know what the bytes mean.
"""

from __future__ import annotations

from math import inf
from time import perf_counter
from typing import Final, final

import trio
from trio.lowlevel import checkpoint

from .transport import LOW_WATER, READ_SIZE, Transport

__all__ = ["StreamTransport"]

_PIECE: Final = 16_384
"""Bytes that one `send_all` takes at most; also the size of a TLS record."""
_SLICE_SECONDS: Final = 0.001
"""Time after which one connection lets others have their turn."""


@final
class StreamTransport(Transport):
    """One stream of Trio's, which becomes the transport's.

    Args:
        stream: closed when `run` returns.
        stall_timeout: seconds that bytes may be queued to the peer without any of them leaving.
    """

    __slots__ = (
        "_alarm",
        "_aborted",
        "_close_by",
        "_ended",
        "_error",
        "_may_read",
        "_out",
        "_progress_at",
        "_scheduled",
        "_scope",
        "_sending",
        "_slice_began",
        "_stall_timeout",
        "_stream",
        "_work",
    )

    def __init__(self, stream: trio.abc.Stream, *, stall_timeout: float) -> None:
        super().__init__()
        self._stream = stream
        self._stall_timeout = stall_timeout
        self._out = bytearray()
        self._sending = False
        self._ended = False
        self._aborted = False
        self._error: Exception | None = None
        self._scheduled = False
        self._close_by = inf
        self._progress_at = 0.0
        self._slice_began = 0.0
        self._may_read = trio.Event()
        self._may_read.set()
        self._work = trio.Event()
        self._alarm = trio.CancelScope()
        self._scope = trio.CancelScope()

    # -- what a receiver calls -------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def expired(self) -> bool:
        return perf_counter() - self._slice_began > _SLICE_SECONDS

    def write(self, data: bytes, more: bool = False) -> None:
        if not self._ended:
            self._out += data
            self.queued += len(data)
            self.blocked = self._sending
            self._work.set()

    def flush(self) -> None:
        pass  # the writer takes what there is when it runs next

    def pause(self) -> None:
        if self._may_read.is_set():
            self._may_read = trio.Event()

    def resume(self) -> None:
        self._may_read.set()

    def schedule(self) -> None:
        self._scheduled = True
        self._alarm.deadline = -inf

    def wake_at(self, when: float) -> None:
        self._alarm.deadline = min(self._alarm.deadline, when)

    def close(self, by: float) -> None:
        if self._close_by is inf:
            self._close_by = by
            self._work.set()

    def abort(self) -> None:
        self._aborted = True
        self._scope.cancel()

    # -- the tasks -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the stream until it ends; then close it and tell the receiver.

        When cancelled, the stream is closed forcefully.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_time)
                    reading = trio.CancelScope()
                    nursery.start_soon(self._read, reading)
                    await self._write()
                    reading.cancel()
                    await self._finish()
                    nursery.cancel_scope.cancel()
        finally:
            self._ended = True
            self._out.clear()
            self.queued = 0
            self.blocked = False
            await trio.aclose_forcefully(self._stream)
            self.receiver.eof(self._error)
        while self._scheduled:
            self._scheduled = False
            await checkpoint()
            self._go_on()

    async def _read(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await self._may_read.wait()
                try:
                    data = await self._stream.receive_some(READ_SIZE)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self._lose(exc)
                    return
                if self._close_by is not inf:
                    if not data:
                        return
                elif data:
                    self._slice_began = perf_counter()
                    self.receiver.data(bytes(data), trio.current_time())
                else:
                    # FIN: what is queued may still be wanted, and the writer ends the connection after it.
                    self.close(trio.current_time() + self._stall_timeout)
                    return

    async def _write(self) -> None:
        """Send until there is nothing more to send and the connection is to be closed."""
        while True:
            await self._work.wait()
            while self._out:
                piece = bytes(self._out[:_PIECE])
                self._sending = True
                self._progress_at = trio.current_time()
                self.wake_at(self._progress_at + self._stall_timeout)
                try:
                    await self._stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self._lose(exc)
                    return
                self._sending = False
                del self._out[: len(piece)]
                self.queued = len(self._out)
                if self.blocked and self.queued <= LOW_WATER and self._close_by is inf:
                    self.blocked = False
                    self.receiver.drained()
            if self._close_by is not inf:
                return
            self._work = trio.Event()

    async def _finish(self) -> None:
        """Say that nothing more will be sent, and discard until the peer says so too."""
        stream = self._stream
        with trio.CancelScope(deadline=self._close_by):
            try:
                if isinstance(stream, trio.SSLStream):
                    try:
                        await stream.unwrap()
                    except trio.BrokenResourceError:
                        pass  # many peers answer close_notify with FIN, or with what was under way
                    stream = stream.transport_stream
                if isinstance(stream, trio.abc.HalfCloseableStream):
                    await stream.send_eof()
                    while await stream.receive_some(READ_SIZE):
                        pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it has ended in another way

    async def _keep_time(self) -> None:
        """Call `proceed` and `due` when they are asked for."""
        while True:
            with self._alarm:
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            if self._scheduled:
                self._scheduled = False
                await checkpoint()
                self._go_on()
            now = trio.current_time()
            if now >= self._close_by:
                self.abort()
                return
            when = min(self._close_by, self.receiver.due(now))
            if self._sending:
                stalled_at = self._progress_at + self._stall_timeout
                if now >= stalled_at:
                    self.receiver.stalled(self._stall_timeout)
                else:
                    when = min(when, stalled_at)
            self.wake_at(when)

    def _go_on(self) -> None:
        self._slice_began = perf_counter()
        self.receiver.proceed(trio.current_time())

    def _lose(self, error: Exception) -> None:
        self._error = error
        self._scope.cancel()
