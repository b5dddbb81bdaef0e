"""The state machine of one connection, without I/O: open, closing, closed (RFC 6455 §7).

Bytes come in through the `Receiver` methods and leave through `Sending`; time comes as an argument or from the
transport. `WebSocket` adds what an application holds. Rules:

* `TRANSITIONS` says, for every state and event, what becomes of the connection. Nothing else changes the state.
* Decoding is pulled and stops for a reason, each a bit of `_held`: the receive queue is full, the peer does not
  read what we send, our time slice is over, a close was asked for, or the connection has ended.
* Whatever the application is told of the end is told by `_settle`, when no callback of this connection runs, so
  callbacks never nest; and a slow consumer is told from the driver, so those of many do not either.

Cost: a message costs one pull and one delivery. This module knows no sockets, no trio and no clock.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from ._mypyc import mypyc_attr
from .encoder import Encoder, check_close, close_payload
from .errors import CloseCode, ConnectionClosed, FrameError
from .frames import CLOSE, PING, PONG, PROGRESS, Control, Decoder
from .sending import Sending
from .states import TRANSITIONS, Action, Event, State

if TYPE_CHECKING:
    from collections import deque

    from .limits import Limits
    from .transport import Transport

__all__ = ["Connection"]

# The hot paths below compare against these names: a module global is found faster than a member of an Enum.
_OPEN: Final = State.OPEN
_STEPS: Final = {step: (state, action.value) for step, (state, action) in TRANSITIONS.items()}
_STOP_READING: Final[int] = Action.STOP_READING.value
_DISCARD: Final[int] = Action.DISCARD.value
_SEND_CLOSE: Final[int] = Action.SEND_CLOSE.value
_FINISH: Final[int] = Action.FINISH.value
_ABORT: Final[int] = Action.ABORT.value

_INTERNAL_ERROR: Final[int] = CloseCode.INTERNAL_ERROR.value
_TRY_AGAIN_LATER: Final[int] = CloseCode.TRY_AGAIN_LATER.value

_ENDING: Final = (State.PEER_CLOSED, State.FAILED, State.HALF_CLOSED)
"""The end was read, and what came before it may still be answered."""

# Why decoding is held.
_QUEUE_FULL: Final = 1
_BACKPRESSURE: Final = 2
_TIME_SLICE: Final = 4
_CLOSE_ASKED: Final = 8
_ENDED: Final = 16

_OF_RECORDS: Final = 128
"""Bytes that TLS may have added to a ping and what stands around it: they are no data before it."""

_SLICE_COST: Final = 16_384
"""Bytes of messages (and 1 KiB for each) between two looks at the clock while decoding."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Connection(Sending):
    """One WebSocket connection: what it has received and has to send, and how it ends.

    Args:
        transport: where bytes leave; its `receiver` is set to this connection by whoever makes both.
        limits: the bounds that hold.
    """

    __slots__ = (
        "_before_ping",
        "_busy",
        "_close_by",
        "_closed",
        "_control_count",
        "_control_since",
        "_decoder",
        "_discarding",
        "_early",
        "_fatal",
        "_heard_at",
        "_held",
        "_ping_offset",
        "_pinged_at",
        "_pong_by",
        "_queue",
        "_queue_size",
        "_reported",
        "_streaming",
        "bytes_received",
        "messages_received",
    )

    def __init__(self, transport: Transport, limits: Limits) -> None:
        super().__init__(transport, limits)
        self._busy = False
        self._streaming = False
        self._discarding = False
        self._fatal = False
        self._reported = False
        self._decoder: Decoder | None = None
        self._early = b""
        self._held = 0
        self._queue: deque[str | bytes] | None = None
        self._queue_size = 0
        self._closed: ConnectionClosed | None = None
        self._close_by = inf
        self._heard_at = 0.0
        self._pinged_at = inf
        self._pong_by = inf
        self._ping_offset = 0
        self._before_ping = 0
        self._control_since = 0.0
        self._control_count = 0
        self.messages_received = 0
        self.bytes_received = 0

    # -- what a subclass adds ------------------------------------------------------------------------------

    def _deliver(self, message: str | bytes) -> None:
        """Give a message to the application."""
        raise NotImplementedError

    def _say_closing(self, closed: ConnectionClosed) -> bool:
        """Tell the application that our Close is about to leave; False when its next step decides when."""
        raise NotImplementedError

    def _say_closed(self, closed: ConnectionClosed) -> None:
        """Tell the application that the connection is over."""
        raise NotImplementedError

    def _may_answer(self) -> bool:
        """Whether the application has not answered yet all that it was given."""
        raise NotImplementedError

    def _pong(self, payload: bytes) -> None:
        """Take the payload of a pong."""
        raise NotImplementedError

    # -- opening -------------------------------------------------------------------------------------------

    def _open(self, decoder: Decoder, encoder: Encoder) -> None:
        """Begin to talk, after the handshake's answer was written and while the transport is still paused."""
        transport = self._transport
        self._decoder = decoder
        self._encoder = encoder
        self._heard_at = transport.now()
        self._happen(Event.ACCEPT)
        transport.wake_at(self._heard_at + self._limits.ping_interval)
        transport.resume()
        if self._early:
            self.bytes_received = len(self._early)
            decoder.feed(self._early)
            self._early = b""
            transport.schedule()

    # -- what the driver calls -----------------------------------------------------------------------------

    def data(self, data: bytes, now: float) -> None:
        self._heard_at = now
        decoder = self._decoder
        if decoder is None:
            self._early += data  # what came with the request's head, or was under way when reading paused
        elif not self._held & _ENDED:
            self.bytes_received += len(data)
            if decoder.data:
                decoder.feed(data)
            else:
                decoder.data = data
            self._pump(now)

    def proceed(self, now: float) -> None:
        if self._held & _TIME_SLICE:
            self._decode_on(_TIME_SLICE, now)
        else:
            self._pump(now)

    def drained(self) -> None:
        if self._pinged_at != inf:
            self._await_pong(self._transport.now())  # the ping has not reached the kernel before now
        if self._catch_up():
            self._release(_BACKPRESSURE)
        self._wake()

    def due(self, now: float) -> float:
        state = self._state
        if state is _OPEN:
            return self._keep_alive(now)
        if state is State.CLOSED and (self._encoder is None or not self._encoder.is_client):
            return inf
        if now < self._close_by:
            return self._close_by
        if state is State.CLOSED:
            self._transport.abort()  # the server has not ended the TCP connection in time
            return inf
        self._happen(Event.TIMEOUT)
        self._settle()
        return inf

    def stalled(self, seconds: float) -> None:
        self._acted("cut", 1)
        self._cut(CloseCode.TRY_AGAIN_LATER, f"nothing could be sent for {seconds:g} s")

    def half_closed(self) -> bool:
        if not self._held:
            self._pump(self._heard_at)  # what came with the request's head may not have had its turn
        if self._held:
            return self._state is not State.CLOSED
        if self._state is not _OPEN or not self._may_answer():
            return False
        self._end(ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, "", "network"), fatal=True)
        self._happen(Event.FIN)
        self._hold(_ENDED)
        return True

    def eof(self, error: Exception | None) -> None:
        reason = "" if error is None else error.__class__.__name__
        self._end(ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, reason, "network"), fatal=True)
        self._happen(Event.EOF)
        self._forget_queued()
        self._held &= ~_BACKPRESSURE
        self._pump(self._heard_at)  # what was read and not decoded may still hold messages

    # -- receiving -----------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Decode and deliver until the bytes, the time or a bound runs out."""
        decoder = self._decoder
        if decoder is None:
            self._settle()
            return
        transport = self._transport
        budget = _SLICE_COST
        self._busy = True
        try:
            while True:
                if transport.queued > self._high_water:
                    self._relieve()
                if self._held:
                    break
                message = decoder.next()
                if message is None:
                    break
                if isinstance(message, Control):
                    if message is not PROGRESS:
                        self._control(message, now)
                elif not self._discarding:
                    self.messages_received += 1
                    self._deliver(message)
                if not decoder.data:
                    break
                budget -= 1024 if isinstance(message, Control) else len(message) + 1024
                if budget < 0:
                    budget = _SLICE_COST
                    # A receive queue bounds the work of messages as it is, but not that of what is none (yet).
                    bounded = self._queue is not None and not self._discarding and not isinstance(message, Control)
                    if not bounded and transport.expired():
                        self._hold(_TIME_SLICE)
                        transport.receiver = self  # a driver has forgotten whom it told of the end
                        transport.schedule()
        except FrameError as exc:
            self._fail(exc.code, exc.reason)
        finally:
            self._busy = False
        if self._state is not _OPEN or self._pending_close is not None:
            self._settle()
        elif self._streaming:
            self._wake()

    def _control(self, control: Control, now: float) -> None:
        if now - self._control_since >= 1.0:
            self._control_since = now
            self._control_count = min(self._control_count, 0)
        self._control_count += 1
        if self._control_count > self._limits.max_control_rate:
            raise FrameError(
                CloseCode.POLICY_VIOLATION, f"over {self._limits.max_control_rate} control or empty frames a second"
            )
        if control.opcode == PING:
            if self._state is _OPEN:
                self._send_control(PONG, control.payload)
        elif control.opcode == PONG:
            self._pong(control.payload)
        elif control.opcode == CLOSE:
            self._end(ConnectionClosed(control.code, control.reason, "peer"))
            self._happen(Event.PEER_CLOSE)

    def _take(self) -> str | bytes:
        """Take the oldest message from the receive queue, and decode on where that made room."""
        assert self._queue is not None
        message = self._queue.popleft()
        self._queue_size -= len(message)
        if self._held & _QUEUE_FULL:
            limits = self._limits
            if len(self._queue) < limits.receive_queue_messages and self._queue_size < limits.receive_queue_size:
                self._decode_on(_QUEUE_FULL, self._heard_at)
        return message

    def _enqueue(self, message: str | bytes) -> None:
        """Keep a message for `receive`."""
        assert self._queue is not None
        self._queue.append(message)
        self._queue_size += len(message)
        limits = self._limits
        if len(self._queue) >= limits.receive_queue_messages or self._queue_size >= limits.receive_queue_size:
            self._hold(_QUEUE_FULL)

    @property
    def receive_buffer(self) -> int:
        """Bytes (characters for text) of messages that were received and wait for the application."""
        return self._queue_size

    @property
    def _exhausted(self) -> bool:
        """Whether no further message can come: the end has been reached and nothing lies before it."""
        if self._state is _OPEN or self._state is State.CONNECTING or self._queue:
            return False
        return self._discarding or bool(self._held & _ENDED) or self._decoder is None or not self._held

    def _hold(self, bit: int) -> None:
        if not self._held:
            self._transport.pause()
        self._held |= bit

    def _hold_reading(self) -> None:
        # A connection that discards what it reads answers nothing, and looks for the peer's Close.
        if not self._discarding:
            self._hold(_BACKPRESSURE)

    def _release(self, bits: int) -> None:
        """Take reasons to hold away; when none is left, read again and have the rest decoded in its turn."""
        if self._held & bits:
            self._held &= ~bits
            if not self._held:
                assert self._decoder is not None
                self._read_again()
                if self._decoder.undecoded:
                    self._transport.schedule()

    def _decode_on(self, bit: int, now: float) -> None:
        """Take a reason to hold away; when none is left, decode the rest, and only then read again."""
        self._held &= ~bit
        self._pump(now)
        if not self._held:
            self._read_again()

    def _read_again(self) -> None:
        # What the peer said meanwhile was not heard: the clocks of keepalive begin anew, and what the kernel has kept
        # may hold the control frames of all that time.
        now = self._transport.now()
        self._control_count -= int((now - self._heard_at) * self._limits.max_control_rate)
        self._heard_at = now
        self._pinged_at = inf
        self._transport.resume()

    # -- keepalive -----------------------------------------------------------------------------------------

    def _keep_alive(self, now: float) -> float:
        """Ping a silent peer, fail one that stays silent; return when to look again (RFC 6455 §5.5.2)."""
        limits = self._limits
        if self._held:
            # We do not read: its pong may be waiting for us. Both clocks stand still until we do.
            return now + limits.ping_interval
        if self._pinged_at <= self._heard_at:
            self._pinged_at = inf
        if self._pinged_at != inf:
            if self._transport.blocked:
                self._await_pong(now)  # the ping has not reached the kernel; `stalled` watches that
            elif now >= self._pong_by and not self._give_ping_time(now):
                self._fail(CloseCode.INTERNAL_ERROR, f"no answer to a ping for {limits.ping_timeout:g} s")
                self._settle()
                return self._close_by
            return self._pong_by
        silent = now - self._heard_at
        if silent >= limits.ping_interval:
            self._ping_offset = self.bytes_sent - self._backlog_size
            self._await_pong(now)
            self.ping_nowait()
            return self._pong_by
        return self._heard_at + limits.ping_interval

    def _await_pong(self, now: float) -> None:
        self._pinged_at = now
        self._pong_by = now + self._limits.ping_timeout
        self._before_ping = self._left_before_ping()

    def _give_ping_time(self, now: float) -> bool:
        """Wait on for a pong while the peer still takes what stands before our ping; False when it does not.

        A peer on a slow line may have minutes of data before it, in the kernels of both sides and on the way.
        """
        before = self._before_ping
        self._before_ping = self._left_before_ping()
        if self._before_ping >= before:
            return False
        self._pong_by = now + self._limits.ping_timeout
        return True

    def _left_before_ping(self) -> int:
        """Return how many of the bytes before our last ping the peer's machine has not acknowledged."""
        written_since = self.bytes_sent - self._backlog_size - self._ping_offset
        return max(0, self._transport.unacknowledged() - written_since - _OF_RECORDS)

    # -- ending --------------------------------------------------------------------------------------------

    def close_nowait(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin to close; the first code wins. What was queued before leaves before the Close frame.

        Raises:
            ValueError: a code that may not be sent, or a reason with a lone surrogate (RFC 6455 §7.4).
        """
        check_close(code, reason)
        if self._state is State.CLOSED:
            self._happen(Event.LOCAL_CLOSE)
        elif self._state is State.HALF_CLOSED:
            self._happen(Event.LOCAL_CLOSE)  # no Close leaves: that FIN came first is what is told
            self._settle()
        if self._state is State.CLOSING or self._state is State.CLOSED or self._pending_close is not None:
            return
        self._pending_close = ConnectionClosed(code, reason, "us")
        if self._busy:
            self._hold(_CLOSE_ASKED)
        else:
            self._settle()

    def _give_up(self, waiting: int) -> None:
        # Said when the driver proceeds: whoever sends to many must not find the callbacks of one in his way.
        silence = self._transport.without_progress()
        reason = f"send buffer full: {waiting} bytes wait, none left for {silence:.1f} s"
        if self._closed is None:  # else it is the goodbye that finds no room
            self._acted("close", 1)
        self._pending_close = ConnectionClosed(CloseCode.TRY_AGAIN_LATER, reason, "us")
        self._pending_close.queues = (waiting, self._queue_size)
        self._hold(_CLOSE_ASKED)
        self._transport.schedule()

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection: a rule was broken or a bound passed (RFC 6455 §7.1.7)."""
        self._end(ConnectionClosed(code, reason, "us"), fatal=True)
        self._happen(Event.FAILURE)

    def _cut(self, code: int, reason: str) -> None:
        """End the connection without a closing handshake."""
        if self._state is not State.CLOSED:
            self._end(ConnectionClosed(code, reason, "us"), fatal=True)
        self._happen(Event.CUT)
        self._settle()

    def _end(self, closed: ConnectionClosed, *, fatal: bool = False) -> None:
        """Keep the first thing that ended the connection, and start the clock of the closing handshake.

        What is found in the bytes that came before EOF is earlier than EOF, and a close that was asked for earlier
        than both.
        """
        if self._closed is None or (self._closed.by == "network" and not self._reported):
            if self._pending_close is not None:
                closed, fatal = self._pending_close, False
            self._closed = closed
            self._fatal = fatal
            is_trouble = closed.code == _INTERNAL_ERROR or closed.code == _TRY_AGAIN_LATER
            if is_trouble and closed.by == "us" and closed.queues is None:
                closed.queues = (self.send_buffer, self.receive_buffer)
        if self._close_by == inf:
            self._start_close_clock()

    def _start_close_clock(self) -> None:
        self._close_by = self._transport.now() + self._limits.close_timeout
        self._transport.wake_at(self._close_by)

    def _happen(self, event: Event) -> None:
        """Move to the next state and do what belongs to it."""
        before = self._state
        self._state, action = _STEPS[before, event]
        if not action:
            return
        if action & _STOP_READING:
            self._hold(_ENDED)
            assert self._decoder is not None
            self._decoder.discard()
        if action & _DISCARD:
            self._discarding = True
            if self._queue:
                self._queue.clear()
            self._queue_size = 0
        if action & _SEND_CLOSE:
            self._send_close()
        if action & _FINISH:
            if self._encoder is not None and self._encoder.is_client and before is not State.HALF_CLOSED:
                self._transport.resume()  # RFC 6455 §7.1.1: the server ends the TCP connection; `due` waits for it
            else:
                self._transport.close(self._close_by)
        if action & _ABORT:
            self._transport.abort()
        if action & _DISCARD and self._state is State.CLOSING:
            # The peer's Close may stand behind anything that was held back.
            self._release(_QUEUE_FULL | _BACKPRESSURE | _TIME_SLICE | _CLOSE_ASKED)

    def _send_close(self) -> None:
        closed = self._closed
        assert closed is not None
        self._send_all_queued()
        self._send_control(CLOSE, close_payload(closed.code, closed.reason if closed.by == "us" else ""))
        self._start_close_clock()  # a handler may have taken its time until here; the peer has not

    def _settle(self) -> None:
        """Tell the application what has ended, each thing once, and let our Close leave after it was told."""
        if self._busy:
            return
        state = self._state
        pending = self._pending_close
        if pending is not None or state in _ENDING:
            self._pending_close = None
            leaves = pending is not None
            if pending is not None:
                self._end(pending)
            if state is not State.CLOSED and state is not State.CONNECTING:
                assert self._closed is not None
                self._busy = True
                try:
                    leaves = self._say_closing(self._closed) or leaves
                finally:
                    self._busy = False
                self._pending_close = None
            if leaves:
                self._happen(Event.LOCAL_CLOSE)
        if self._state is State.CLOSED and not self._reported and not self._undelivered:
            self._reported = True
            assert self._closed is not None
            self._busy = True
            try:
                self._say_closed(self._closed)
            finally:
                self._busy = False
        self._wake()

    @property
    def _undelivered(self) -> bool:
        """Whether decoding was put off and will go on although the connection has ended."""
        return bool(self._held & _TIME_SLICE) and not self._discarding
