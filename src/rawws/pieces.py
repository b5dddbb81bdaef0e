"""Messages in pieces: receiving one as it arrives, sending one as it is made (RFC 6455 §5.4).

Rules: both belong to one `WebSocket` and are made by it; they are the other half of its inside and use it so.
While a message is being written, other messages wait behind it, not yet encoded (what they are compressed with
depends on what goes before them), and control frames pass. A message that cannot be completed ends the
connection, for no peer could tell where the next one begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from .errors import CloseCode
from .pace import breathe

if TYPE_CHECKING:
    from types import TracebackType

    from .websocket import WebSocket

__all__ = ["MessageChunks", "MessageWriter"]


@final
class MessageChunks:
    """One message in pieces, an async iterator; made by `WebSocket.receive_chunks`.

    Raises, while it is iterated: as `WebSocket.receive`.
    """

    __slots__ = ("_began", "_ended", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._began = False
        self._ended = False

    def __aiter__(self) -> MessageChunks:
        return self

    async def __anext__(self) -> str | bytes:
        """Wait for the next piece, `str` of a text message or `bytes`; a cancelled call loses nothing.

        An empty message is one empty piece.

        Raises:
            ConnectionClosed: the connection ended before the message did.
            trio.BusyResourceError: another task is receiving from this connection.
            RuntimeError: the messages of this connection go to a `Protocol`.
        """
        await breathe()
        if self._ended:
            raise StopAsyncIteration
        ws = self._ws
        queue = ws._begin_receiving()
        ws._streaming = True
        try:
            while not queue:
                piece = ws._decoder.take_partial() if ws._decoder is not None else None
                if piece:
                    self._began = True
                    return piece
                ws._raise_at_end()
                await ws._park()
        finally:
            ws._receiving = ws._streaming = False
        self._ended = True
        rest = ws._take()
        if self._began and not rest:
            raise StopAsyncIteration
        return rest


@final
class MessageWriter:
    """A message that is sent in pieces, an async context manager; made by `WebSocket.message_writer`.

    Leaving the block by an exception, cancellation included, after a piece was sent leaves a message that cannot
    be completed: the connection is closed with 1011.
    """

    __slots__ = ("_begun", "_compress", "_entered", "_text", "_ws")

    def __init__(self, ws: WebSocket, text: bool, compress: bool) -> None:
        self._ws = ws
        self._text = text
        self._compress = compress
        self._entered = False
        self._begun = False

    async def __aenter__(self) -> MessageWriter:
        """Wait until no other message is being written, and hold back other messages from now on.

        Raises:
            ConnectionClosed: the connection takes no more messages.
        """
        ws = self._ws
        if ws._writer_lock is None:
            ws._writer_lock = trio.Lock()
        await ws._writer_lock.acquire()
        try:
            await ws._wait_for_room(writing=True)
        except BaseException:
            ws._writer_lock.release()
            raise
        ws._writing = ws._crowded = self._entered = True
        self._begun = False
        return self

    async def write(self, piece: str | bytes | bytearray | memoryview) -> None:
        """Send a piece; wait while the send buffer is full. A cancelled call has queued all of it or nothing.

        Raises:
            ConnectionClosed: the connection takes no more messages.
            RuntimeError: outside of the `async with` block.
            TypeError: bytes in a text message, or text in a binary one.
            ValueError: text with a lone surrogate.
        """
        await breathe()
        if not self._entered:
            raise RuntimeError("a message is written inside of `async with`")
        if isinstance(piece, str) is not self._text or not isinstance(piece, (str, bytes, bytearray, memoryview)):
            raise TypeError("a text message is written in str, a binary one in bytes")
        if piece:  # an empty frame says nothing, and peers may count it against us
            await self._write(piece.encode() if isinstance(piece, str) else bytes(piece), ends=False)

    async def _write(self, piece: bytes, *, ends: bool) -> None:
        ws = self._ws
        await ws._wait_for_room(writing=True)
        encoder = ws._encoder
        assert encoder is not None
        frame = encoder.fragment(
            piece, text=self._text, begins=not self._begun, ends=ends, compress=encoder.compresses(0, self._compress)
        )
        self._begun = True
        ws._queue_frame(frame, False)
        ws.bytes_sent += len(frame)
        ws.messages_sent += ends

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ws = self._ws
        self._entered = False
        try:
            if exc is None:
                await self._write(b"", ends=True)
                self._begun = False
        finally:
            if self._begun:
                ws.close_nowait(CloseCode.INTERNAL_ERROR, "a message could not be completed")
            ws._release_behind()
            assert ws._writer_lock is not None
            ws._writer_lock.release()
