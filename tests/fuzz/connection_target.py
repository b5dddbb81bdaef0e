"""A whole connection with an application, against a peer that sends anything and a network that does its worst.

An input is a program. Its first two bytes choose the application, the limits and what was negotiated; then each byte
is a step (what arrives, what the peer reads, what the application does, how time passes), some with operands. Nothing
that a driver calls may raise; the state never goes back; callbacks never nest (the application asserts it); what is
queued is bounded; what leaves is frames that a client decodes: what was accepted for sending, in order, at most one
Close and nothing behind it; the end is told once, to callbacks last; and the lane makes no difference to any of it.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from rawws.deflate import DeflateOptions, load_backend
from rawws.encoder import Encoder, SharedMessage
from rawws.errors import ConnectionClosed
from rawws.frames import CLOSE, Control, Decoder
from rawws.limits import Limits
from rawws.sending import SendStatus
from rawws.states import State
from tests.memory_transport import MemoryTransport
from tests.test_connection import CONTEXT, NO_CONTEXT, Application

if TYPE_CHECKING:
    from rawws.deflate import DeflateParameters
    from rawws.limits import SlowConsumerPolicy

__all__ = ["connection"]

_MAX_MESSAGE: Final = 2000
_MAX_SEND_BUFFER: Final = 5000
_POLICIES: Final[tuple[SlowConsumerPolicy, ...]] = ("close", "drop_newest", "drop_oldest", "close")
_DEFLATE: Final = (None, CONTEXT, NO_CONTEXT, None)
_IN_CALLBACK: Final = ("nothing", "echo", "goodbye", "close", "crash", "cut", "ping", "echo")
_SECONDS: Final = (0.3, 3.0, 19.0, 25.0)
_SIZES: Final = (0, 20, 200, _MAX_MESSAGE)
_READS: Final = (1, 100, 4000, 1 << 20)
_RANK: Final = {
    State.CONNECTING: 0,
    State.OPEN: 1,
    State.PEER_CLOSED: 2,
    State.FAILED: 2,
    State.HALF_CLOSED: 2,
    State.CLOSING: 3,
    State.CLOSED: 4,
}
_OPTIONS: Final = DeflateOptions(memory_level=1, threshold=100)
_SLACK: Final = 127 * 100
"""Bytes of control frames that a second may bring, which pass every bound of messages."""


def connection(data: bytes) -> None:
    """Play a program on both lanes and compare."""
    if len(data) < 3:
        return
    if _lane_makes_a_difference(data):
        # Of several matches isal now and then takes another one, by what its memory held before; zlib never does.
        with patch("rawws.deflate._deflating_backend", partial(load_backend, "zlib")):
            assert not _lane_makes_a_difference(data)


def _lane_makes_a_difference(data: bytes) -> bool:
    return _Play(data, fast_lane=True).run() != _Play(data, fast_lane=False).run()


class _App(Application):
    """The application under test, with the lane on or off whatever the environment says."""

    def __init__(self, transport: MemoryTransport, limits: Limits, *, queue: bool, fast_lane: bool) -> None:
        super().__init__(transport, limits, queue=queue)
        self._lane = fast_lane

    def open(self, deflate: DeflateParameters | None = None, options: DeflateOptions | None = None) -> None:
        decoder = Decoder(
            is_client=False,
            max_message_size=self._limits.max_message_size,
            max_fragments=self._limits.fragments,
            deflate=deflate,
            fast_lane=self._lane,
        )
        self._open(decoder, Encoder(is_client=False, deflate=deflate, options=options))


class _Play:
    """One run of a program."""

    def __init__(self, data: bytes, *, fast_lane: bool) -> None:
        self._data = data
        self._at = 2
        self._limits = Limits(
            max_send_buffer=_MAX_SEND_BUFFER,
            slow_consumer=_POLICIES[data[0] & 3],
            receive_queue_messages=3,
            receive_queue_size=1500,
            max_message_size=_MAX_MESSAGE,
        )
        self._in_callback = _IN_CALLBACK[data[1] & 7]
        self._deflate = _DEFLATE[data[0] >> 2 & 3]
        self._transport = MemoryTransport(0 if data[1] & 8 else inf)
        self._app = _App(self._transport, self._limits, queue=bool(data[0] & 16), fast_lane=fast_lane)
        self._app.on_message = self._answer
        if self._in_callback == "goodbye":
            self._app.on_closing = lambda: self._send(b"goodbye")
        self._peer = Decoder(is_client=True, max_message_size=1 << 20, max_fragments=1 << 20, deflate=self._deflate)
        self._peer_read: list[str | bytes] = []
        self._peer_saw_close = False
        self._on_the_way = b""
        self._state = State.CONNECTING
        self._accepted: list[str | bytes] = []
        self._dropped = False
        self._received: list[str | bytes] = []
        self._sent = bytearray()
        self._number = 0
        if data[0] & 32:
            self._arrive()  # with the request's head
        self._app.open(self._deflate, _OPTIONS if self._deflate else None)

    def run(self) -> object:
        """Play to the end; return everything that can be seen from outside."""
        steps = (
            self._arrive,
            self._arrive,
            self._time_passes,
            self._peer_reads,
            self._application_sends,
            self._others_had_their_turn,
            self._application_acts,
            self._network_acts,
        )
        while self._at < len(self._data):
            self._operand = self._data[self._at]
            self._at += 1
            steps[self._operand & 7]()
            self._check()
        self._end()
        told = self._app.messages, self._app.ends, self._app.pongs, self._received
        return told, bytes(self._sent), self._peer_read, self._accepted

    # -- steps ---------------------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece

    def _arrive(self) -> None:
        """Bytes arrive: as many as the next byte says; what is not read waits in the network."""
        size = self._take(1)
        self._on_the_way += self._take(size[0]) if size else b""
        self._deliver()

    def _deliver(self) -> None:
        transport = self._transport
        over = transport.ended or transport.aborted or transport.closing_by is not None
        if self._on_the_way and not transport.paused and not over:
            piece, self._on_the_way = self._on_the_way, b""
            transport.data(piece)

    def _time_passes(self) -> None:
        self._transport.pass_time(_SECONDS[self._operand >> 3 & 3])

    def _peer_reads(self) -> None:
        if not self._transport.ended:
            self._transport.read(_READS[self._operand >> 3 & 3])
        if self._operand & 32:
            self._transport.window = 0

    def _application_sends(self) -> None:
        self._number += 1
        size = _SIZES[self._operand >> 3 & 3]
        message = (b"%d." % self._number * size)[:size]
        shared, compress = bool(self._operand & 32), True if self._operand & 64 else None
        self._send(message if self._operand & 128 else message.decode(), shared=shared, compress=compress)

    def _others_had_their_turn(self) -> None:
        self._transport.slice_is_over = bool(self._operand & 8)
        self._transport.proceed()
        self._deliver()

    def _application_acts(self) -> None:
        what = self._operand >> 3 & 7
        if what < 5:
            self._receive(what)
        elif what == 5:
            takes = self._app.state() is State.OPEN and self._app._pending_close is None
            assert self._app.ping_nowait(b"?") is takes
        elif what == 6:
            self._app.close_nowait(1000 + (self._operand >> 6))
        else:
            self._app._cut(1001, "")

    def _receive(self, count: int) -> None:
        if self._app._queue is None:
            return
        try:
            for _ in range(count):
                message = self._app.receive()
                if message is not None:
                    self._received.append(message)
        except ConnectionClosed:
            pass

    def _network_acts(self) -> None:
        what = self._operand >> 3 & 3
        if what == 0 and self._transport.blocked:
            self._app.stalled(10.0)
        elif what == 1 and not self._transport.ended:
            self._transport.eof(None)
        elif what == 2 and not self._transport.ended:
            self._transport.eof(ConnectionResetError())
        elif what == 3 and not self._transport.ended:
            self._deliver()
            if self._operand & 32:
                self._fin()

    def _fin(self) -> None:
        """The peer's FIN arrives, behind everything that it sent."""
        transport = self._transport
        if not (self._on_the_way or transport.paused or transport.ended):
            self._app.answers = bool(self._operand & 64) and self._app._queue is not None
            transport.half_close()

    # -- the application -------------------------------------------------------------------------------------

    def _answer(self, message: str | bytes) -> None:
        if self._in_callback == "echo":
            self._send(message)
        elif self._in_callback == "close":
            self._app.close_nowait(4000, "enough")
        elif self._in_callback == "crash":
            raise ZeroDivisionError
        elif self._in_callback == "cut":
            self._app._cut(1001, "")
        elif self._in_callback == "ping":
            self._app.ping_nowait(b"!")

    def _send(self, message: str | bytes, *, shared: bool = False, compress: bool | None = None) -> None:
        app = self._app
        status = app.send_shared(SharedMessage(message)) if shared else app.send_nowait(message, compress=compress)
        if status in (SendStatus.SENT, SendStatus.QUEUED):
            self._accepted.append(message)
            self._dropped = self._dropped or self._limits.slow_consumer == "drop_oldest"
        elif status is SendStatus.DROPPED:
            assert self._limits.slow_consumer != "close"

    # -- what must hold ----------------------------------------------------------------------------------------

    def _check(self) -> None:
        app, transport = self._app, self._transport
        state = app.state()
        assert state is self._state or _RANK[state] > _RANK[self._state]
        self._state = state
        self._look()
        queue = app._queue or ()
        assert len(queue) <= self._limits.receive_queue_messages
        assert app._queue_size == sum(map(len, queue)) < self._limits.receive_queue_size + _MAX_MESSAGE
        assert app._backlog_size == sum(len(frame) for frame, _ in (app._backlog._frames if app._backlog else ()))
        # The control frames of each second, and of a message one frame's header and what deflate may add.
        assert app.send_buffer < _MAX_SEND_BUFFER + _MAX_MESSAGE + 64 + _SLACK
        assert transport.queued <= app.send_buffer
        self._check_that_nothing_waits_in_vain()

    def _check_that_nothing_waits_in_vain(self) -> None:
        app, transport = self._app, self._transport
        if app.state() is State.CLOSED:
            assert app._reported or transport.scheduled
            return
        assert transport.paused == bool(app._held)
        assert transport.blocked or not app._backlog_size
        assert transport.scheduled or app._pending_close is None

    def _look(self) -> None:
        """Let the peer decode what has come; it never finds a fault in it."""
        data = self._transport.take()
        if not data:
            return
        assert not self._peer_saw_close, "something follows our Close"
        known = len(self._peer_read)
        self._sent += data
        self._peer.feed(data)
        while (event := self._peer.next()) is not None:
            assert not self._peer_saw_close, "something follows our Close"
            if not isinstance(event, Control):
                self._peer_read.append(event)
            elif event.opcode == CLOSE:
                self._peer_saw_close = True
        if self._dropped:
            accepted = iter(self._accepted)
            assert all(message in accepted for message in self._peer_read)
        else:
            assert self._peer_read[known:] == self._accepted[known : len(self._peer_read)]

    def _end(self) -> None:
        """Let the peer read everything, and the stream end; then all is over and told."""
        transport, app = self._transport, self._app
        transport.slice_is_over = False
        transport.proceed_all()
        if not transport.ended:
            transport.read(inf)
            transport.proceed_all()
            self._check()
            transport.eof(None)
        transport.proceed_all()
        self._receive(1 << 20)
        transport.proceed_all()
        self._check()
        assert app.state() is State.CLOSED
        told = [what[0] if isinstance(what, tuple) else "message" for what in app.told]
        assert told.count("closed") == 1
        if app._queue is not None:
            return  # its handler takes messages, and says when our Close leaves, whatever has been told
        assert told[-1] == "closed"
        assert told.count("closing") <= 1
        assert "closing" not in told or told.index("closing") == len(told) - 2
