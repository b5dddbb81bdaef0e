"""A machine that plays a whole connection: the application, the peer, the network and the clock, in any order.

The peer reads with our own decoder as a client's, which other tests hold to plain wsproto, and a cutter of frames
that knows nothing but their headers. What must hold at every moment is written as sentences: the invariants.
"""

from __future__ import annotations

from functools import cache
from math import inf
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rawws.deflate import DeflateOptions
from rawws.encoder import Encoder, SharedMessage, close_payload
from rawws.errors import ConnectionClosed
from rawws.frames import CLOSE, PING, PONG, Control, Decoder
from rawws.limits import Limits
from rawws.sending import SendStatus
from rawws.states import State
from rawws.transport import HIGH_WATER, READ_SIZE
from tests.memory_transport import MemoryTransport
from tests.test_connection import CONTEXT, NO_CONTEXT, Application, noise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rawws.deflate import DeflateParameters
    from rawws.limits import SlowConsumerPolicy

MAX_SEND_BUFFER: Final = 150_000
MAX_MESSAGE: Final = 40_000
CONTROL_FRAMES: Final = 100 * 127
"""Bytes of control frames, and of the headers of others, that one run of the machine can cause."""
RANK: Final = {
    State.CONNECTING: 0,
    State.OPEN: 1,
    State.PEER_CLOSED: 2,
    State.FAILED: 2,
    State.HALF_CLOSED: 2,
    State.CLOSING: 3,
    State.CLOSED: 4,
}
CAN_SEND: Final = (State.OPEN, State.PEER_CLOSED, State.FAILED, State.HALF_CLOSED)
POLICIES: Final[list[SlowConsumerPolicy]] = ["close", "drop_newest", "drop_oldest"]
SIZES: Final = st.sampled_from([0, 6, 125, 126, 2_000, 20_000, MAX_MESSAGE])
RARELY: Final = st.sampled_from([False, False, False, False, True])
"""For what ends the connection: after it not much happens."""

cached_noise: Final = cache(noise)


class Peer:
    """The other side: what it has sent and the network still holds, and what it has read."""

    def __init__(self, transport: MemoryTransport, deflate: DeflateParameters | None) -> None:
        options = DeflateOptions(memory_level=1) if deflate else None
        self._transport = transport
        self._encoder = Encoder(is_client=True, deflate=deflate, options=options)
        self._decoder = Decoder(is_client=True, max_message_size=1 << 30, max_fragments=1 << 30, deflate=deflate)
        self._cut_off = b""
        self.on_the_way = b""
        self.opcodes: list[int] = []
        self.messages: list[str | bytes] = []
        self.close: Control | None = None

    def send(self, message: bytes, compress: bool) -> None:
        self.on_the_way += self._encoder.message(message, compress)

    def send_fragment(self, piece: bytes, *, begins: bool, ends: bool) -> None:
        self.on_the_way += self._encoder.fragment(piece, text=False, begins=begins, ends=ends, compress=False)

    def send_control(self, opcode: int, payload: bytes) -> None:
        self.on_the_way += self._encoder.control(opcode, payload)

    def look(self) -> None:
        """Decode what has come."""
        data = self._transport.take()
        self._decoder.feed(data)
        while (event := self._decoder.next()) is not None:
            if not isinstance(event, Control):
                self.messages.append(event)
            elif event.opcode == CLOSE:
                self.close = event
        data = self._cut_off + data
        while len(data) >= 2:
            size, header = data[1], 2
            if size > 125:
                header = 4 if size == 126 else 10
                size = int.from_bytes(data[2:header], "big")
            if len(data) < header + size:
                break
            self.opcodes.append(data[0] & 0x0F)
            data = data[header + size :]
        self._cut_off = data


class WholeConnection(RuleBasedStateMachine):
    """Two ways to write an application, three policies, with and without compression, one clock."""

    @initialize(
        queue=st.booleans(),
        policy=st.sampled_from(POLICIES),
        deflate=st.sampled_from([None, CONTEXT, NO_CONTEXT]),
        window=st.sampled_from([0, 1000, inf]),
        in_callback=st.sampled_from(["nothing", "echo", "goodbye", "close", "crash", "cut"]),
        early=st.booleans(),
    )
    def start(
        self,
        queue: bool,
        policy: SlowConsumerPolicy,
        deflate: DeflateParameters | None,
        window: float,
        in_callback: str,
        early: bool,
    ) -> None:
        self.limits = Limits(
            max_send_buffer=MAX_SEND_BUFFER,
            slow_consumer=policy,
            receive_queue_messages=3,
            receive_queue_size=30_000,
            max_message_size=MAX_MESSAGE,
        )
        self.transport = MemoryTransport(window)
        self.app = Application(self.transport, self.limits, queue=queue)
        self.peer = Peer(self.transport, deflate)
        self.queue = queue
        self.in_callback = in_callback
        self.number = 0
        self.state = State.CONNECTING
        # The peer's messages, those on the way included, and the pieces of the one that it has not ended.
        self.sent: list[bytes] = []
        self.fragments: list[bytes] = []
        self.peer_has_ended = False
        # Whether the peer has sent its FIN, and whether that came before any Close.
        self.fin = False
        self.needs_no_close = False
        # What a handler has received.
        self.taken: list[str | bytes] = []
        # What was accepted for sending, in the order in which it is to leave; what is being written in pieces, and
        # what waits behind that.
        self.accepted: list[bytes] = []
        self.pieces: list[bytes] | None = None
        self.behind: list[bytes] = []
        self.wrote_in_pieces = False
        # Whether some of the accepted may have been dropped, some of the received discarded.
        self.dropped = False
        self.discarded = False
        self.app.on_message = self.answer
        if in_callback == "goodbye":
            self.app.on_closing = lambda: self.send(b"goodbye")
        if early:
            self.sent.append(b"early")
            self.peer.send(b"early", False)
            self.deliver(READ_SIZE)
        self.app.open(deflate, DeflateOptions(memory_level=1, threshold=1000) if deflate else None)

    # -- the application -------------------------------------------------------------------------------------

    def answer(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        if self.in_callback == "echo":
            self.send(message)
        elif self.in_callback == "close":
            self.discarded = True
            self.app.close_nowait(4000)
        elif self.in_callback == "cut":
            self.discarded = True
            self.app._cut(1001, "")
        elif self.in_callback == "crash":
            self.discarded = True
            raise ZeroDivisionError

    def send(
        self, message: bytes, *, shared: bool = False, compress: bool = False, policy: SlowConsumerPolicy | None = None
    ) -> SendStatus:
        app = self.app
        could_send = app.state() in CAN_SEND
        blocked = self.transport.blocked
        before = app.messages_sent, app.send_buffer
        if shared:
            status = app.send_shared(SharedMessage(message), policy)
        else:
            status = app.send_nowait(message, compress=compress or None, policy=policy)
        policy = policy or self.limits.slow_consumer
        full = blocked and before[1] >= MAX_SEND_BUFFER
        if status in (SendStatus.SENT, SendStatus.QUEUED):
            assert could_send
            assert not full or policy == "drop_oldest"
            self.dropped = self.dropped or policy == "drop_oldest"
            (self.accepted if self.pieces is None else self.behind).append(message)
        elif status is SendStatus.DROPPED:
            assert policy != "close"
            assert not blocked or (full and before == (app.messages_sent, app.send_buffer))
        elif could_send:
            assert app._pending_close is not None
            self.discarded = True
        return status

    def payload(self, size: int) -> bytes:
        """A message that can be told from every other, but for the empty one."""
        self.number += 1
        return b"%06d" % self.number + cached_noise(size - 6, self.number % 5) if size else b""

    @rule(size=SIZES, shared=st.booleans(), compress=st.booleans(), policy=st.sampled_from([None, *POLICIES]))
    def the_application_sends(self, size: int, shared: bool, compress: bool, policy: SlowConsumerPolicy | None) -> None:
        self.send(self.payload(size), shared=shared, compress=compress, policy=policy)

    @rule(count=st.integers(1, 8))
    def the_application_sends_many_in_the_batch_of_another(self, count: int) -> None:
        with self.transport.cork():
            for _ in range(count):
                self.send(self.payload(MAX_MESSAGE), shared=True)

    @rule()
    def the_application_pings(self) -> None:
        takes = self.app.state() is State.OPEN and self.app._pending_close is None
        assert self.app.ping_nowait(b"?") is takes

    @precondition(lambda self: self.pieces is None and self.app.state() in CAN_SEND)
    @rule()
    def a_writer_begins(self) -> None:
        self.pieces = []
        self.wrote_in_pieces = True
        self.app._writing = self.app._crowded = True

    @precondition(lambda self: self.pieces is not None)
    @rule(size=SIZES, ends=st.booleans())
    def a_writer_writes(self, size: int, ends: bool) -> None:
        app = self.app
        assert self.pieces is not None
        if app.state() in CAN_SEND:
            if self.transport.queued + app._backlog_size >= MAX_SEND_BUFFER:
                return  # it waits
            piece = cached_noise(size)
            assert app._encoder is not None
            frame = app._encoder.fragment(piece, text=False, begins=not self.pieces, ends=ends, compress=False)
            app._queue_frame(frame, False)
            app.messages_sent += ends
            self.pieces.append(piece)
            if ends:
                self.accepted += [b"".join(self.pieces), *self.behind]
        elif not ends:
            return
        if ends:
            self.behind.clear()
            self.pieces = None
            app._release_behind()

    @rule(code=st.sampled_from([1000, 1001, 4000]), really=RARELY)
    def the_application_closes(self, code: int, really: bool) -> None:
        if really:
            self.discarded = True
            self.app.close_nowait(code)

    @precondition(lambda self: self.queue)
    @rule(count=st.integers(1, 5))
    def the_handler_receives(self, count: int) -> None:
        try:
            for _ in range(count):
                message = self.app.receive()
                if message is not None:
                    self.taken.append(message)
        except ConnectionClosed:
            pass

    @rule(really=RARELY)
    def the_server_cuts(self, really: bool) -> None:
        if really:
            self.discarded = True
            self.app._cut(1001, "")

    # -- the peer ----------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.peer_has_ended and not self.fragments)
    @rule(size=SIZES, compress=st.booleans(), count=st.integers(1, 6))
    def the_peer_sends(self, size: int, compress: bool, count: int) -> None:
        for _ in range(count):
            message = self.payload(size)
            self.sent.append(message)
            self.peer.send(message, compress)

    @precondition(lambda self: not self.peer_has_ended and sum(map(len, self.fragments)) < MAX_MESSAGE // 2)
    @rule(size=st.sampled_from([1, 10, 2000]), ends=st.booleans())
    def the_peer_sends_a_fragment(self, size: int, ends: bool) -> None:
        piece = cached_noise(size, self.number % 5)
        self.peer.send_fragment(piece, begins=not self.fragments, ends=ends)
        self.fragments.append(piece)
        if ends:
            self.sent.append(b"".join(self.fragments))
            self.fragments.clear()

    @precondition(lambda self: not self.peer_has_ended)
    @rule(opcode=st.sampled_from([PING, PONG]))
    def the_peer_pings(self, opcode: int) -> None:
        self.peer.send_control(opcode, b"!")

    @precondition(lambda self: not self.peer_has_ended)
    @rule(code=st.sampled_from([1000, 1005, 3000]), really=RARELY)
    def the_peer_closes(self, code: int, really: bool) -> None:
        if really:
            self.peer_has_ended = True
            self.peer.send_control(CLOSE, close_payload(code))

    @precondition(lambda self: not self.peer_has_ended)
    @rule(really=RARELY)
    def the_peer_breaks_a_rule(self, really: bool) -> None:
        if really:
            self.peer_has_ended = True
            self.peer.on_the_way += b"\x83\x80\x00\x00\x00\x00"  # a reserved opcode

    @rule(size=st.sampled_from([1, 100, 5_000, 50_000, 1 << 20]))
    def the_peer_reads(self, size: int) -> None:
        if not self.transport.ended:
            self.transport.read(size)

    @rule()
    def the_peer_stops_reading(self) -> None:
        self.transport.window = 0

    # -- the network and the driver ----------------------------------------------------------------------------

    def deliver(self, size: int) -> None:
        peer, transport = self.peer, self.transport
        over = transport.ended or transport.aborted or transport.closing_by is not None
        piece = peer.on_the_way[:size]
        if piece and not transport.paused and not over:
            peer.on_the_way = peer.on_the_way[size:]
            delivered = len(self.app.messages) if transport.queued > HIGH_WATER else None
            transport.data(piece)
            assert delivered in (None, len(self.app.messages)), "a peer that does not read is not read from"
        elif self.fin and not (piece or transport.paused or over):
            transport.half_close()
            self.needs_no_close = self.needs_no_close or self.app.state() in (State.HALF_CLOSED, State.CLOSED)

    @rule(size=st.sampled_from([1, 7, 100, 10_000, READ_SIZE]))
    def bytes_arrive(self, size: int) -> None:
        self.deliver(size)

    @rule(over=st.booleans())
    def others_had_their_turn(self, over: bool) -> None:
        self.transport.slice_is_over = over
        self.transport.proceed()

    @rule(seconds=st.sampled_from([0.5, 3.0, 19.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.transport.pass_time(seconds)

    @precondition(lambda self: not self.transport.ended)
    @rule(error=st.sampled_from([None, ConnectionResetError()]), really=RARELY)
    def the_stream_ends(self, error: Exception | None, really: bool) -> None:
        if really or self.transport.aborted:
            self.transport.eof(error)

    @rule(answers=st.booleans(), really=RARELY)
    def the_peer_sends_fin(self, answers: bool, really: bool) -> None:
        if really:
            self.peer_has_ended = self.fin = True
            self.app.answers = answers and self.queue

    @precondition(lambda self: self.transport.blocked)
    @rule(really=RARELY)
    def nothing_could_be_sent_for_long(self, really: bool) -> None:
        if really:
            self.discarded = True
            self.app.stalled(10.0)

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def the_state_never_goes_back(self) -> None:
        state = self.app.state()
        assert state is self.state or RANK[state] > RANK[self.state]
        self.state = state

    @invariant()
    def at_most_one_close_frame_leaves_and_nothing_follows_it(self) -> None:
        self.peer.look()
        assert CLOSE not in self.peer.opcodes[:-1]

    @invariant()
    def what_the_peer_reads_is_a_prefix_of_what_was_accepted_for_sending_in_order(self) -> None:
        read = self.peer.messages
        if self.dropped:
            accepted: Iterator[object] = iter(self.accepted)
            assert all(message in accepted for message in read)
        else:
            assert read == self.accepted[: len(read)]

    @invariant()
    def every_message_is_delivered_once_and_in_order(self) -> None:
        delivered = self.app.messages
        assert delivered == self.sent[: len(delivered)]
        assert self.taken == self.sent[: len(self.taken)]

    @invariant()
    def the_bounds_hold(self) -> None:
        app = self.app
        queue = app._queue or ()
        assert len(queue) <= self.limits.receive_queue_messages
        assert app._queue_size == sum(map(len, queue)) < self.limits.receive_queue_size + MAX_MESSAGE
        assert app._backlog_size == sum(len(frame) for frame, _ in (app._backlog._frames if app._backlog else ()))
        # What waits behind a message in pieces must not hinder that message: it has the bound for itself.
        bound = 2 * MAX_SEND_BUFFER if self.wrote_in_pieces else MAX_SEND_BUFFER
        assert app.send_buffer < bound + MAX_MESSAGE + CONTROL_FRAMES

    @invariant()
    def the_end_is_told_exactly_once_and_last(self) -> None:
        told = [what[0] if isinstance(what, tuple) else "message" for what in self.app.told]
        assert told.count("closed") == self.app._reported
        if self.queue:
            assert "closing" not in told  # its handler decides when our Close leaves
        else:
            assert "closed" not in told[:-1]
            assert told.count("closing") <= 1
            assert "closing" not in told or set(told[told.index("closing") + 1 :]) <= {"closed"}

    @invariant()
    def nothing_waits_for_what_does_not_come(self) -> None:
        app, transport = self.app, self.transport
        if app.state() is State.CLOSED:
            assert app._reported or transport.scheduled
            return
        assert transport.paused == bool(app._held)
        assert app._queue or not app._held & 1  # a full queue has something to be taken
        assert transport.blocked or not app._held & 2
        assert transport.scheduled or not app._held & 4
        assert transport.scheduled or app._pending_close is None
        assert app._pending_close is not None or not app._held & 8
        assert (transport.blocked and app._crowded) or not app._backlog_size
        if app.state() in CAN_SEND:
            assert app._crowded == (bool(app._backlog_size) or app._writing or app._pending_close is not None)
        if not app._held and not transport.scheduled:
            assert app._decoder is not None
            assert app._decoder.next() is None  # whatever is complete has been decoded

    def teardown(self) -> None:
        """Read everything on both sides, let the time pass, end the stream: then all of it is as it should be."""
        if not hasattr(self, "app"):
            return
        app, transport, peer = self.app, self.transport, self.peer
        transport.slice_is_over = False
        before = None
        while before != (before := (len(peer.on_the_way), len(self.taken), app.send_buffer, app.state())):
            if not transport.ended:
                transport.flush()  # the turn is over in which something was left for a little later
                transport.read(inf)
            transport.proceed_all()
            self.deliver(READ_SIZE)
            transport.proceed_all()
            if self.queue:
                self.the_handler_receives(5)
        peer.look()
        if not transport.ended and not transport.aborted:
            if self.queue and app.state() is State.PEER_CLOSED:
                app.close_nowait()  # as when the handler has returned
                peer.look()
            # Nothing that was accepted, and not dropped by its policy, is lost; and who ends is answered.
            assert len(peer.messages) == app.messages_sent
            assert transport.queued == app._backlog_size == 0
            assert (peer.close is not None) == (app.state() is not State.OPEN and not self.needs_no_close)
            if self.peer_has_ended:
                assert app.state() is State.CLOSED
        if not self.discarded and not peer.on_the_way:
            assert (self.taken if self.queue else app.messages) == self.sent
        transport.pass_time(60)
        if not transport.ended:
            transport.eof()
        transport.proceed_all()
        assert app.state() is State.CLOSED
        assert app.ends[-1][0] == "closed"
        assert app.send_buffer == 0
        self.everything_holds()

    def everything_holds(self) -> None:
        self.the_state_never_goes_back()
        self.at_most_one_close_frame_leaves_and_nothing_follows_it()
        self.what_the_peer_reads_is_a_prefix_of_what_was_accepted_for_sending_in_order()
        self.every_message_is_delivered_once_and_in_order()
        self.the_bounds_hold()
        self.the_end_is_told_exactly_once_and_last()
        self.nothing_waits_for_what_does_not_come()


TestWholeConnection = WholeConnection.TestCase
