"""What an application holds: one WebSocket connection, for tasks and for callbacks.

Strategy: `Connection` does the work without waiting, `OpeningConnection` opens it; this module adds the waiting
(`receive`, `send`, `close`, `ping`), messages in pieces, and how an application's code is called. Rules:

* Nobody waits for a peer without a deadline: the driver and `Connection.due` end a connection that makes no
  progress, and its end wakes everyone who waits.
* A cancelled `receive` has taken no message, a cancelled `send` has queued all of its message or nothing.
* A task that sends or receives without ever blocking yields to others now and then (`pace.py`).

Cost: two short calls a message above `Connection`. It knows no listeners and no routes.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, final

import trio
from trio.lowlevel import Abort, current_task, disable_ki_protection

from .encoder import check_close
from .errors import CloseCode, ConnectionClosed
from .logs import escape
from .opening import OpeningConnection
from .pace import blocks, breathe, hand_over, sleep_order, unpark
from .pieces import MessageChunks, MessageWriter
from .sending import LARGE, SendStatus
from .states import Event, State
from .stream import let_leave

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    import outcome

    from .http import Request
    from .limits import Limits
    from .opening import Handshake
    from .protocol import Protocol
    from .transport import Transport

__all__ = ["WebSocket"]

_log = logging.getLogger("rawws")

_OPEN: Final = State.OPEN  # a module global is found faster than a member of an Enum

_Data = str | bytes | bytearray | memoryview


@final
class WebSocket(OpeningConnection):
    """A WebSocket connection.

    Attributes:
        request: the opening handshake's request: path, query, headers, origin, subprotocols, client address.
        subprotocol: the one that was accepted, or None.
        latency: seconds that the last answered ping took, or None.
        messages_received, messages_sent, bytes_received, bytes_sent: counted since the handshake; bytes are those
            on the wire.
        pings_sent: our own, those of keepalive included.
        slow_consumer_actions: what was done because the peer did not read: messages dropped (`drop_newest`,
            `drop_oldest`), closes with 1013 (`close`), cuts after `send_timeout` (`cut`); None for nothing.
        began_at: when the handshake's request was complete, on Trio's clock.
        refusal: why the handshake was refused, in one word: `application`, `error`, `accept_timeout`, `shutdown`;
            empty while it was not.
    """

    __slots__ = (
        "__weakref__",
        "_app",
        "_callbacks",
        "_done",
        "_nobody_reads",
        "_on_gone",
        "_pings",
        "_receiver",
        "_receiving",
        "_resigned",
        "_room",
        "_sleep_order",
        "_writer_lock",
        "latency",
    )

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        request: Request,
        handshake: Handshake | None,
        *,
        app: Protocol | None,
        fast_lane: bool,
        on_gone: Callable[[WebSocket], None],
    ) -> None:
        super().__init__(transport, limits, request, handshake, fast_lane=fast_lane)
        self.latency: float | None = None
        self._on_gone = on_gone
        self._app = app
        self._resigned = False  # whether the owner waits for the end
        self._nobody_reads = True  # whether nobody asked for a message yet, or who did was told of the end
        self._receiver: trio.lowlevel.Task | None = None
        self._receiving = False
        self._room: trio.lowlevel.ParkingLot | None = None
        self._sleep_order: object = None
        self._done: trio.Event | None = None
        self._callbacks: list[Callable[[WebSocket, ConnectionClosed], object]] | None = None
        self._pings: dict[bytes, _Ping] | None = None
        self._writer_lock: trio.Lock | None = None
        if app is None:
            self._queue = deque()

    def __repr__(self) -> str:
        return f"<rawws.WebSocket {escape(self.request.path)} {self._state.name.lower()} at {id(self):#x}>"

    # -- receiving -----------------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        """Wait for the next message: `str` for a text message, `bytes` for a binary one.

        Accepts the handshake if nothing did. A cancelled call loses no message.

        Raises:
            ConnectionClosed: the connection is over, and every message that came before was received.
            trio.BusyResourceError: another task is receiving from this connection.
            RuntimeError: the messages of this connection go to a `Protocol`.
        """
        return await self._next(quietly=False)

    @coroutine
    def _next(self, quietly: bool) -> Generator[Any, Any, str | bytes]:
        """Take the next message; wait until there is one, which is a checkpoint, or raise what ended the connection.

        A generator: each message goes through here, and no coroutine shall stand between this wait and Trio's loop.
        """
        if self._queue and not self._receiving:
            self._nobody_reads = False
            yield from breathe().__await__()
            if self._queue:  # no other task has taken it meanwhile
                return self._take()
        queue = self._begin_receiving()
        try:
            while not queue:
                if self._state is not _OPEN:
                    self._raise_at_end(quietly)
                woken_by = yield self._going_to_sleep()
                if isinstance(woken_by, (str, bytes)):
                    return woken_by
                woken_by.unwrap()
        finally:
            self._receiving = False
        return self._take()

    def _begin_receiving(self) -> deque[str | bytes]:
        """Become the one task that waits for messages; accepts the handshake if nothing did."""
        queue = self._queue
        if queue is None:
            raise RuntimeError("the messages of this connection go to Protocol.on_message")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this connection")
        if self._state is not _OPEN:
            self._accept()
        self._receiving = True
        self._nobody_reads = False
        return queue

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    def __anext__(self) -> Awaitable[str | bytes]:
        """Receive the next message; end on a Close from the peer or from us, raise on any other end."""
        return self._next(quietly=True)

    def receive_chunks(self) -> MessageChunks:
        """Receive one message in pieces as they arrive: `async for chunk in ws.receive_chunks()`.

        `max_message_size` holds for the whole message. What is left when the loop is left early is what `receive`
        returns next.
        """
        return MessageChunks(self)

    @coroutine
    def _park(self) -> Generator[object, outcome.Outcome[None], None]:
        """Sleep until `_wake`."""
        (yield self._going_to_sleep()).unwrap()

    def _going_to_sleep(self) -> object:
        """Return what a coroutine yields to sleep until `_wake`; what was sent leaves first."""
        if self._transport.queued:
            self._transport.flush()
        self._receiver = current_task()
        if self._sleep_order is None:
            self._sleep_order = sleep_order(self._stop_waiting)
        blocks()
        return self._sleep_order

    def _stop_waiting(self, _: object) -> Abort:
        self._receiver = None
        return Abort.SUCCEEDED

    def _raise_at_end(self, quietly: bool = False) -> None:
        if self._exhausted:
            self._nobody_reads = True
            if self._state is State.FAILED or self._state is State.HALF_CLOSED:
                # The handler has answered what came before; now our Close, or our FIN, may leave.
                self._happen(Event.LOCAL_CLOSE)
                self._settle()
            elif self._resigned:
                self._settle()
            if quietly and (not self._fatal or (self._client_side is not None and self._client_side.ends_quietly)):
                raise StopAsyncIteration
            raise self._why()

    # -- sending -------------------------------------------------------------------------------------------

    async def send(self, message: _Data, *, compress: bool | None = None) -> None:
        """Send a message; wait while `max_send_buffer` bytes or more are queued to the peer.

        Accepts the handshake if nothing did. Any task may send; frames never interleave. A cancelled call has
        queued all of its message or nothing.

        Args:
            message: `str` leaves as text, anything bytes-like as binary.
            compress: whether to compress it where that was negotiated; None compresses from the threshold on.

        Raises:
            ConnectionClosed: the connection takes no more messages, or nothing could be sent for `send_timeout`.
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate (RFC 6455 §8.1).
        """
        await breathe()
        transport = self._transport
        if self._state is _OPEN and not self._crowded and transport.queued <= self._high_water:
            if len(message) >= LARGE:
                self._send_large(message, compress)
            else:
                assert self._encoder is not None
                frame = self._encoder.message(message, compress)
                self.messages_sent += 1
                self.bytes_sent += len(frame)
                # With more to read the handler is likely to send again at once: let that leave in one piece.
                transport.write(frame, bool(self._queue))
            if transport.queued > self._high_water:
                self._relieve()
            return
        await self._wait_for_room()
        if self.send_nowait(message, compress=compress) is SendStatus.CLOSED:
            raise self._why()

    async def _wait_for_room(self, *, writing: bool = False) -> None:
        """Wait until a message may be queued; for the writer of a message, what waits behind it does not count."""
        while True:
            if self._state is State.CONNECTING:
                self._accept()
            if self._state is State.CLOSING or self._state is State.CLOSED:
                raise self._why()
            waiting = self._frames_buffer if writing else self.send_buffer
            if waiting < self._limits.max_send_buffer:
                return
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            await self._room.park()

    def message_writer(self, *, text: bool = True, compress: bool = False) -> MessageWriter:
        """Send one message in pieces: `async with ws.message_writer(text=True) as writer: await writer.write(…)`.

        Args:
            text: whether it is a text message (pieces are `str`) or a binary one (pieces are bytes-like).
            compress: whether to compress it where that was negotiated.
        """
        return MessageWriter(self, text, compress)

    # -- pings ---------------------------------------------------------------------------------------------

    async def ping(self, payload: bytes | None = None) -> float:
        """Send a ping and wait for its pong (RFC 6455 §5.5.2); return the seconds that it took.

        When cancelled, the ping may have left; a pong that comes later is passed over.

        Args:
            payload: at most 125 bytes; by default one that no other waiting ping has.

        Raises:
            ConnectionClosed: the connection is over.
            trio.TooSlowError: no pong within `ping_timeout`.
            ValueError: more than 125 bytes, or a payload that another call waits for.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._pings is None:
            self._pings = {}
        if payload is None:
            number = len(self._pings) + 1
            while number.to_bytes(4, "big") in self._pings:
                number += 1
            payload = number.to_bytes(4, "big")
        elif payload in self._pings:
            raise ValueError("a ping with this payload is under way")
        if not self.ping_nowait(payload):
            raise self._why()
        ping = self._pings[payload] = _Ping(self._transport.now())
        try:
            with trio.fail_after(self._limits.ping_timeout):
                await ping.answered.wait()
        finally:
            if self._pings is not None:  # the end of the connection forgets them
                self._pings.pop(payload, None)
        if ping.seconds is None:
            raise self._why()
        return ping.seconds

    def _pong(self, payload: bytes) -> None:
        now = self._heard_at
        if not payload and self._pinged_at < now:
            self.latency = now - self._pinged_at
            self._pinged_at = self._pong_by = inf  # most connections are idle: what they keep counts
        pings = self._pings
        if pings is None or payload not in pings:
            return
        for waiting in list(pings):
            # A peer may answer only the last of several pings (RFC 6455 §5.5.3).
            ping = pings.pop(waiting)
            ping.seconds = self.latency = self._transport.now() - ping.sent_at
            ping.answered.set()
            if waiting == payload:
                break

    # -- ending --------------------------------------------------------------------------------------------

    @property
    def closed(self) -> ConnectionClosed | None:
        """What ended the connection, or is about to, such as a full send buffer; None while it lives."""
        return self._closed or self._pending_close

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection: send what is queued and a Close frame, wait for the peer's (RFC 6455 §7.1.2).

        Received messages that nobody took are discarded. Returns within `close_timeout`, whatever the peer does.
        A second call waits for the same end; the first code wins. Before the handshake was answered it refuses it
        with 403. When cancelled, it cuts the connection.

        Raises:
            ValueError: a code that may not be sent, or a reason with a lone surrogate (RFC 6455 §7.4).
        """
        check_close(code, reason)
        try:
            self.close_nowait(code, reason)
            await self.wait_closed()
        except trio.Cancelled:
            await let_leave(lambda: self.send_buffer)
            self._cut(code, reason)
            raise

    async def wait_closed(self) -> ConnectionClosed:
        """Wait until the connection is over, and return what ended it.

        When the handler itself waits here, or the task that opened a client's connection, it has said what it had to
        say: the peer's Close is answered at once, unless another task is still taking messages that came before it.
        Messages that nobody takes hold reading up as ever, and the peer's Close with it. A cancelled call has changed
        nothing.
        """
        if self._reported:
            await trio.lowlevel.checkpoint()
        else:
            if self._done is None:
                self._done = trio.Event()
            if current_task() is self._owner:
                self._resigned = True
                self._settle()
            try:
                await self._done.wait()
            finally:
                self._resigned = False
        assert self._closed is not None
        return self._closed

    def add_close_callback(self, fn: Callable[[WebSocket, ConnectionClosed], object]) -> None:
        """Call `fn(ws, closed)` once when the connection is over; at once if it is already.

        From a callback that is told of the end: when that has returned. What `fn` raises is logged.
        """
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(fn)
        if self._reported and not self._busy:
            self._run_close_callbacks()

    def eof(self, error: Exception | None) -> None:
        super().eof(error)
        self._on_gone(self)

    # -- what Connection asks ------------------------------------------------------------------------------

    @disable_ki_protection
    def _deliver(self, message: str | bytes) -> None:
        if self._app is None:
            task = self._receiver
            if task is None or self._streaming:  # `_pump` wakes who waits for pieces
                self._enqueue(message)
            else:
                self._receiver = None
                hand_over(task, message)
        else:
            try:
                self._app.on_message(self, message)
            except Exception:
                self._crash("on_message")

    def _wake(self) -> None:
        task = self._receiver
        if task is not None and (self._queue or self._exhausted or self._streaming):
            self._receiver = None
            unpark(task)
        if self._room is not None and (
            self._state is State.CLOSED
            or self._state is State.CLOSING
            or self._frames_buffer < self._limits.max_send_buffer
        ):
            self._room.unpark_all()

    def _say_closing(self, closed: ConnectionClosed) -> bool:
        app = self._app
        if app is None:
            return self._has_said_all
        try:
            _call_on_closing(app, self, closed)
        except Exception:
            _log.exception("%r: on_closing raised", self)
        return True

    @property
    def _has_said_all(self) -> bool:
        """Whether nobody is left who would answer messages."""
        return self._resigned and self._nobody_reads

    def _may_answer(self) -> bool:
        asks = self._app is None and self.messages_received > 0
        return asks and self._receiver is None and not self._has_said_all

    def _say_closed(self, closed: ConnectionClosed) -> None:
        self._sleep_order = self._owner = None  # they refer to us
        self._run_close_callbacks()
        if self._app is not None:
            try:
                _call_on_close(self._app, self, closed)
            except Exception:
                _log.exception("%r: on_close raised", self)
            self._run_close_callbacks()
        if self._done is not None:
            self._done.set()
        pings, self._pings = self._pings, None
        for ping in (pings or {}).values():
            ping.answered.set()

    def _run_close_callbacks(self) -> None:
        assert self._closed is not None
        while self._callbacks:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                try:
                    _call(callback, self, self._closed)
                except Exception:
                    _log.exception("%r: a close callback raised", self)

    def _crash(self, where: str) -> None:
        """The application raised: log it, say 1011 and no more (RFC 6455 §7.4.1)."""
        _log.exception("%r: %s raised", self, where)
        if self._state is State.CONNECTING:
            self._refuse(500, why="error")
        else:
            self.close_nowait(CloseCode.INTERNAL_ERROR, "internal error")

    # -- what an endpoint does with a new connection ---------------------------------------------------------

    def start(self) -> None:
        """Open the connection of a `Protocol`: let it see the request, accept unless it answered."""
        assert self._app is not None
        self._busy = True
        try:
            _call_on_open(self._app, self)
            self._accept()
        except Exception:
            self._crash("on_open")
        finally:
            self._busy = False
        self._settle()

    async def run(self, handler: Callable[[WebSocket], Awaitable[object]]) -> None:
        """Run an async handler for this connection, and end the connection as the handler ended.

        Of what leaves a nursery of the handler's that was cancelled, only that leaves here which is no `Exception`.
        """
        self._owner = current_task()
        try:
            await handler(self)
        except Exception as exc:
            if not _only_says_closed(exc, self):
                self._crash("the handler")
                return
        except BaseExceptionGroup as group:
            faults, rest = group.split(Exception)
            if faults is not None and not _only_says_closed(faults, self):
                self._crash("the handler")
            if rest is not None:
                raise rest from None
        self.close_nowait()

    def shut_down(self) -> None:
        """Close because the server is going away: 1001, or 503 before the handshake was answered."""
        if self._state is State.CONNECTING:
            self._refuse(503, "The server is shutting down.\n", why="shutdown")
        else:
            self.close_nowait(CloseCode.GOING_AWAY, "server shutdown")

    def cut(self) -> None:
        """End the connection at once, after one attempt at what is queued."""
        self._transport.flush()
        self._cut(CloseCode.GOING_AWAY, "server shutdown")


# The reactor runs with KeyboardInterrupt held back; an application's code does not.


@disable_ki_protection
def _call_on_open(app: Protocol, ws: WebSocket) -> None:
    app.on_open(ws)


@disable_ki_protection
def _call_on_closing(app: Protocol, ws: WebSocket, closed: ConnectionClosed) -> None:
    app.on_closing(ws, closed)


@disable_ki_protection
def _call_on_close(app: Protocol, ws: WebSocket, closed: ConnectionClosed) -> None:
    app.on_close(ws, closed)


@disable_ki_protection
def _call(callback: Callable[[WebSocket, ConnectionClosed], object], ws: WebSocket, closed: ConnectionClosed) -> None:
    callback(ws, closed)


def _only_says_closed(exc: BaseException, ws: WebSocket) -> bool:
    """Whether an exception only says that this connection is closed, bare or as every leaf of a group."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_only_says_closed(leaf, ws) for leaf in exc.exceptions)
    return isinstance(exc, ConnectionClosed) and (exc.concerns(ws) or exc is ws.closed)


class _Ping:
    """A ping that somebody waits for."""

    __slots__ = ("answered", "seconds", "sent_at")

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.answered = trio.Event()
        self.seconds: float | None = None
