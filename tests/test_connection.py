"""The state machine of a connection: every cell of its table, and scenarios in literal bytes."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final

import pytest

from rawws.connection import Connection
from rawws.deflate import DeflateOptions, DeflateParameters
from rawws.encoder import Encoder, SharedMessage
from rawws.errors import CloseCode, ConnectionClosed
from rawws.frames import Control, Decoder
from rawws.limits import Limits
from rawws.sending import Sending, SendStatus
from rawws.states import TRANSITIONS, Action, Event, State
from rawws.transport import HIGH_WATER, LOW_WATER, Receiver, Transport
from tests.conftest import FAST_LANE
from tests.memory_transport import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rawws.limits import SlowConsumerPolicy

SENT, QUEUED, DROPPED, CLOSED = SendStatus.SENT, SendStatus.QUEUED, SendStatus.DROPPED, SendStatus.CLOSED
MIB: Final = 1024 * 1024

# What a client sends; the masking key is zero, so that the payload can be read.
HELLO: Final = b"\x81\x85\x00\x00\x00\x00hello"  # FIN, text, 5 bytes
WORLD: Final = b"\x82\x85\x00\x00\x00\x00world"  # FIN, binary, 5 bytes
EMPTY: Final = b"\x81\x80\x00\x00\x00\x00"  # FIN, text, no bytes
PING_HI: Final = b"\x89\x82\x00\x00\x00\x00hi"
PONG_EMPTY: Final = b"\x8a\x80\x00\x00\x00\x00"
CLOSE_1000_BYE: Final = b"\x88\x85\x00\x00\x00\x00\x03\xe8bye"
CLOSE_4321: Final = b"\x88\x82\x00\x00\x00\x00\x10\xe1"
CLOSE_EMPTY: Final = b"\x88\x80\x00\x00\x00\x00"
RESERVED_OPCODE: Final = b"\x83\x80\x00\x00\x00\x00"
UNMASKED: Final = b"\x81\x05hello"
TEXT_FRAGMENT: Final = b"\x01\x83\x00\x00\x00\x00hel"  # text, not FIN
EMPTY_FRAGMENT: Final = b"\x00\x80\x00\x00\x00\x00"  # continuation, not FIN
LAST_FRAGMENT: Final = b"\x80\x82\x00\x00\x00\x00lo"

# What we answer.
HELLO_BACK: Final = b"\x81\x05hello"
PONG_HI: Final = b"\x8a\x02hi"
OUR_CLOSE_1000: Final = b"\x88\x02\x03\xe8"


class Application(Connection):
    """A connection with an application that keeps what it is told, and answers as a test wants.

    Attributes:
        told: messages, `("closing", closed)` and `("closed", closed)`, in order.
        answers: whether it still has something to say when the peer's FIN has come.
        on_message, on_closing, on_closed: called at each of these; what they raise is a crash.
    """

    def __init__(self, transport: MemoryTransport, limits: Limits | None = None, *, queue: bool = False) -> None:
        super().__init__(transport, limits or Limits())
        transport.receiver = self
        self.told: list[Any] = []
        self.pongs: list[bytes] = []
        self.wakes = 0
        self.answers = False
        self.on_message: Callable[[str | bytes], object] = lambda message: None
        self.on_closing: Callable[[], object] = lambda: None
        self.on_closed: Callable[[], object] = lambda: None
        self._in_callback = False
        if queue:
            self._queue = deque()

    @property
    def messages(self) -> list[str | bytes]:
        return [what for what in self.told if not isinstance(what, tuple)]

    @property
    def ends(self) -> list[tuple[str, int, str, str]]:
        """What was told of the end, as (what, code, reason, by)."""
        return [(what[0], what[1].code, what[1].reason, what[1].by) for what in self.told if isinstance(what, tuple)]

    def state(self) -> State:
        return self._state

    def receive(self) -> str | bytes | None:
        """Take a message as a handler does; None when it would wait.

        Raises:
            ConnectionClosed: it would be raised.
        """
        assert self._queue is not None
        if self._queue:
            return self._take()
        if self._exhausted:
            if self._state is State.FAILED or self._state is State.HALF_CLOSED:
                self._happen(Event.LOCAL_CLOSE)
                self._settle()
            assert self._closed is not None
            raise self._closed.of(self)
        return None

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        assert not self._in_callback, "callbacks never nest"
        self._in_callback = True
        try:
            callback(*args)
        except ZeroDivisionError:
            self.close_nowait(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._in_callback = False

    def _deliver(self, message: str | bytes) -> None:
        self.told.append(message)
        if self._queue is not None:
            self._enqueue(message)
        else:
            self._call(self.on_message, message)

    def _say_closing(self, closed: ConnectionClosed) -> bool:
        if self._queue is not None:
            return False
        self.told.append(("closing", closed))
        self._call(self.on_closing)
        return True

    def _say_closed(self, closed: ConnectionClosed) -> None:
        self.told.append(("closed", closed))
        self._call(self.on_closed)

    def _may_answer(self) -> bool:
        return self.answers

    def _pong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def _wake(self) -> None:
        self.wakes += 1

    def _accept(self) -> None:
        self.open()

    def open(self, deflate: DeflateParameters | None = None, options: DeflateOptions | None = None) -> None:
        """Accept the opening handshake."""
        limits = self._limits
        decoder = Decoder(
            is_client=False,
            max_message_size=limits.max_message_size,
            max_fragments=limits.fragments,
            deflate=deflate,
            fast_lane=FAST_LANE,
        )
        self._open(decoder, Encoder(is_client=False, deflate=deflate, options=options))


def connected(
    limits: Limits | None = None,
    *,
    queue: bool = False,
    window: float = inf,
    deflate: DeflateParameters | None = None,
    options: DeflateOptions | None = None,
) -> tuple[MemoryTransport, Application]:
    """Return an open connection and its transport."""
    transport = MemoryTransport(window)
    app = Application(transport, limits, queue=queue)
    app.open(deflate, options)
    return transport, app


def echoing(limits: Limits | None = None, **options: Any) -> tuple[MemoryTransport, Application]:
    transport, app = connected(limits, **options)
    app.on_message = app.send_nowait
    return transport, app


@pytest.fixture(params=["whole", "byte by byte"])
def arrive(request: pytest.FixtureRequest) -> Callable[[MemoryTransport, bytes], None]:
    """How bytes arrive: all at once, or one at a time for as long as they are read."""

    def deliver(transport: MemoryTransport, data: bytes) -> None:
        step = len(data) if request.param == "whole" else 1
        for start in range(0, len(data), step):
            transport.data(data[start : start + step])

    return deliver


Arrive = Any  # the fixture above


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Cut a server's bytes into frames: the first byte and the payload of each."""
    found = []
    at = 0
    while at < len(data):
        first, size = data[at : at + 2]
        at += 2
        if size > 125:
            extended = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + extended], "big")
            at += extended
        assert at + size <= len(data), "a frame was cut off"
        found.append((first, data[at : at + size]))
        at += size
    return found


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame with a masking key of zero."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return bytes((first, 0x80 | 126)) + size.to_bytes(2, "big") + bytes(4) + payload
    return bytes((first, 0x80 | 127)) + size.to_bytes(8, "big") + bytes(4) + payload


NO_CONTEXT: Final = DeflateParameters(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=12,
    client_max_window_bits=15,
)
CONTEXT: Final = DeflateParameters(
    server_no_context_takeover=False,
    client_no_context_takeover=False,
    server_max_window_bits=12,
    client_max_window_bits=15,
)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


class TestTransitions:
    EXPECTED: Final = {
        #            ACCEPT        LOCAL_CLOSE PEER_CLOSE     FAILURE     FIN         EOF      TIMEOUT       CUT
        "CONNECTING": "OPEN        CLOSED      CONNECTING     CONNECTING  CONNECTING  CLOSED   CLOSED        CLOSED",
        "OPEN": "       OPEN        CLOSING     PEER_CLOSED    FAILED      HALF_CLOSED CLOSED   OPEN          CLOSED",
        "PEER_CLOSED": "PEER_CLOSED CLOSED      PEER_CLOSED    PEER_CLOSED PEER_CLOSED CLOSED   CLOSED        CLOSED",
        "FAILED": "     FAILED      CLOSED      FAILED         FAILED      FAILED      CLOSED   CLOSED        CLOSED",
        "HALF_CLOSED": "HALF_CLOSED CLOSED      HALF_CLOSED    HALF_CLOSED HALF_CLOSED CLOSED   CLOSED        CLOSED",
        "CLOSING": "    CLOSING     CLOSING     CLOSED         CLOSED      CLOSING     CLOSED   CLOSED        CLOSED",
        "CLOSED": "     CLOSED      CLOSED      CLOSED         CLOSED      CLOSED      CLOSED   CLOSED        CLOSED",
    }

    def test_the_table_has_every_cell_and_each_leads_where_it_should(self) -> None:
        assert set(TRANSITIONS) == {(state, event) for state in State for event in Event}
        for (state, event), (after, _) in TRANSITIONS.items():
            expected = self.EXPECTED[state.name].split()[list(Event).index(event)]
            assert after.name == expected, (state, event)

    @pytest.mark.parametrize("state", State)
    @pytest.mark.parametrize("event", Event)
    def test_what_a_cell_does(self, state: State, event: Event) -> None:
        after, action = TRANSITIONS[state, event]
        # Our Close leaves once: on the way out of the states in which it has not left.
        if Action.SEND_CLOSE in action:
            assert state in (State.OPEN, State.PEER_CLOSED, State.FAILED)
            assert after in (State.CLOSING, State.CLOSED)
        # A connection that is over has ended its TCP connection in one way, or it had ended by itself.
        if after is State.CLOSED and state is not State.CLOSED:
            assert bool(action & (Action.FINISH | Action.ABORT)) == (event is not Event.EOF)
        assert not (action & Action.FINISH and action & Action.ABORT)
        if after is state and state is not State.CLOSED:
            assert action is Action.NOTHING
        # Where reading has stopped nothing is read any more.
        if after in (State.PEER_CLOSED, State.FAILED) and after is not state:
            assert action is Action.STOP_READING

    @pytest.mark.parametrize("state", State)
    @pytest.mark.parametrize("event", Event)
    def test_every_cell_can_be_walked(self, state: State, event: Event) -> None:
        transport = MemoryTransport()
        app = Application(transport)
        if state is not State.CONNECTING:
            app.open()
        if state in (State.PEER_CLOSED, State.FAILED, State.HALF_CLOSED):
            app._end(ConnectionClosed(CloseCode.PROTOCOL_ERROR, "", "us"))
        if state in (State.CLOSING, State.CLOSED):
            app.close_nowait()
        if state is State.CLOSED:
            transport.data(CLOSE_1000_BYE)
        app._state = state
        transport.take()
        finished, aborted = transport.closing_by, transport.aborted
        if state is not State.CONNECTING or event is not Event.ACCEPT:
            app._end(ConnectionClosed(CloseCode.NORMAL_CLOSURE, "", "us"))
        app._happen(event)
        after, action = TRANSITIONS[state, event]
        assert app.state() is after
        assert bool(transport.take()) == (Action.SEND_CLOSE in action)
        assert (transport.closing_by != finished) == (Action.FINISH in action)
        assert (transport.aborted != aborted) == (Action.ABORT in action)


class TestMessagesAndControlFrames:
    def test_messages_are_delivered_and_answered(self, arrive: Arrive) -> None:
        transport, app = echoing()
        arrive(transport, HELLO + WORLD + EMPTY)
        assert app.told == ["hello", b"world", ""]
        assert transport.take() == b"\x81\x05hello\x82\x05world\x81\x00"

    def test_answers_to_one_read_leave_in_one_piece(self) -> None:
        transport, _ = echoing()
        transport.data(HELLO * 20)
        assert transport.flushes == 1
        assert transport.take() == HELLO_BACK * 20

    def test_a_ping_is_answered_between_the_fragments_of_a_message(self, arrive: Arrive) -> None:
        transport, app = echoing()
        arrive(transport, TEXT_FRAGMENT + PING_HI + LAST_FRAGMENT)
        assert transport.take() == PONG_HI + HELLO_BACK
        assert app.told == ["hello"]

    def test_a_pong_is_taken_and_not_answered(self, arrive: Arrive) -> None:
        transport, app = connected()
        arrive(transport, b"\x8a\x82\x00\x00\x00\x00hi")
        assert app.pongs == [b"hi"]
        assert transport.take() == b""

    def test_counters_count_messages_and_the_bytes_on_the_wire(self, arrive: Arrive) -> None:
        transport, app = echoing()
        arrive(transport, HELLO + PING_HI + TEXT_FRAGMENT + LAST_FRAGMENT)
        app.ping_nowait(b"x")
        app.close_nowait()
        assert app.messages_received == 2
        assert app.bytes_received == len(HELLO + PING_HI + TEXT_FRAGMENT + LAST_FRAGMENT)
        assert app.messages_sent == 2
        assert app.bytes_sent == len(transport.take())

    def test_what_came_with_the_handshake_is_decoded_once_the_driver_proceeds(self) -> None:
        transport = MemoryTransport()
        app = Application(transport)
        app.on_message = app.send_nowait
        transport.data(HELLO + TEXT_FRAGMENT)
        app.open()
        assert app.told == []  # on_open may still be running
        transport.data(LAST_FRAGMENT)  # and more may come first
        transport.proceed_all()
        assert app.told == ["hello", "hello"]
        assert app.bytes_received == len(HELLO + TEXT_FRAGMENT + LAST_FRAGMENT)

    def test_the_first_thing_sent_accepts_the_handshake(self) -> None:
        for send in (Application.send_nowait, Application.ping_nowait):
            transport = MemoryTransport()
            app = Application(transport)
            send(app, b"x")
            assert app.state() is State.OPEN
            assert transport.take() in (b"\x82\x01x", b"\x89\x01x")
        transport = MemoryTransport()
        app = Application(transport)
        assert app.send_shared(SharedMessage("x")) is SENT
        transport.flush()
        assert transport.take() == b"\x81\x01x"

    def test_a_message_that_cannot_be_sent_is_an_error_and_sends_nothing(self) -> None:
        transport, app = connected()
        with pytest.raises(TypeError):
            app.send_nowait(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="surrogates not allowed"):
            app.send_nowait("\ud800")
        with pytest.raises(ValueError, match="at most 125 bytes"):
            app.ping_nowait(b"x" * 126)
        with pytest.raises(ValueError, match="may not be sent"):
            app.close_nowait(1006)
        assert transport.take() == b""
        assert app.state() is State.OPEN
        assert (app.messages_sent, app.bytes_sent) == (0, 0)

    def test_who_waits_for_pieces_is_woken_by_every_read(self) -> None:
        transport, app = connected(queue=True)
        transport.data(b"\x01\x83\x00\x00\x00\x00hel")
        assert app.wakes == 0
        app._streaming = True
        transport.data(b"\x00\x82\x00\x00\x00\x00lo")
        assert app.wakes == 1

    def test_a_connection_refuses_to_be_used_without_an_application(self) -> None:
        connection = Connection(Transport(), Limits())
        sending = Sending(Transport(), Limits())
        receiver = Receiver()
        closed = ConnectionClosed(1000)
        for call in (
            lambda: connection._deliver(""),
            connection._wake,
            lambda: connection._say_closing(closed),
            lambda: connection._say_closed(closed),
            connection._may_answer,
            lambda: connection._pong(b""),
            connection._accept,
            sending._hold_reading,
            lambda: sending._give_up(0),
            lambda: receiver.data(b"", 0.0),
            lambda: receiver.proceed(0.0),
            receiver.drained,
            lambda: receiver.due(0.0),
            lambda: receiver.stalled(0.0),
            lambda: receiver.eof(None),
        ):
            with pytest.raises(NotImplementedError):
                call()

    def test_the_interface_of_a_transport_is_what_a_driver_must_provide(self) -> None:
        transport = Transport()
        for call in (
            transport.now,
            transport.expired,
            transport.without_progress,
            transport.unacknowledged,
            lambda: transport.write(b""),
            transport.flush,
            transport.pause,
            transport.resume,
            transport.schedule,
            lambda: transport.wake_at(0.0),
            lambda: transport.close(0.0),
            transport.abort,
        ):
            with pytest.raises(NotImplementedError):
                call()
        transport.receiver.proceed(0.0)  # a transport that was given no receiver may go on
        transport.receiver.eof(None)  # and end


class TestThePeersClose:
    def test_a_callback_application_answers_at_once_with_the_same_code(self, arrive: Arrive) -> None:
        transport, app = echoing()
        arrive(transport, HELLO + CLOSE_1000_BYE)
        assert transport.take() == HELLO_BACK + OUR_CLOSE_1000  # the code comes back, the reason does not
        assert app.ends == [("closing", 1000, "bye", "peer"), ("closed", 1000, "bye", "peer")]
        assert transport.closing_by == 1005.0

    def test_a_code_of_the_application_comes_back_and_no_code_is_answered_by_none(self, arrive: Arrive) -> None:
        transport, app = connected()
        arrive(transport, CLOSE_4321)
        assert transport.take() == b"\x88\x02\x10\xe1"
        transport, app = connected()
        arrive(transport, CLOSE_EMPTY)
        assert transport.take() == b"\x88\x00"
        assert app.ends[-1] == ("closed", 1005, "", "peer")

    def test_a_goodbye_leaves_before_the_answering_close(self, arrive: Arrive) -> None:
        transport, app = connected()
        app.on_closing = lambda: app.send_nowait("Bye!!!")
        arrive(transport, CLOSE_1000_BYE)
        assert transport.take() == b"\x81\x06Bye!!!" + OUR_CLOSE_1000

    def test_a_handler_can_still_send_until_it_returns(self, arrive: Arrive) -> None:
        transport, app = connected(queue=True)
        arrive(transport, HELLO + CLOSE_1000_BYE)
        assert transport.take() == b""
        assert app.state() is State.PEER_CLOSED
        assert app.receive() == "hello"
        with pytest.raises(ConnectionClosed):
            app.receive()
        assert app.send_nowait("bye") is SENT
        assert not app.ping_nowait()
        app.close_nowait(1001, "ours comes too late")
        assert transport.take() == b"\x81\x03bye" + OUR_CLOSE_1000
        assert app.ends == [("closed", 1000, "bye", "peer")]
        assert app.send_nowait("more") is CLOSED

    def test_close_discards_what_was_received_also_after_the_peers_close(self) -> None:
        transport, app = connected(queue=True)
        transport.data(HELLO + CLOSE_1000_BYE)
        app.close_nowait()
        with pytest.raises(ConnectionClosed):
            app.receive()

    def test_our_close_leaves_by_the_deadline_although_the_handler_does_not_ask(self, arrive: Arrive) -> None:
        transport, app = connected(queue=True)
        arrive(transport, HELLO + CLOSE_1000_BYE)
        transport.pass_time(4.9)
        assert transport.take() == b""
        transport.pass_time(0.2)
        assert transport.take() == OUR_CLOSE_1000
        assert app.state() is State.CLOSED
        assert transport.closing_by == 1010.0  # the peer has its time to answer our FIN
        assert app.receive() == "hello"
        with pytest.raises(ConnectionClosed) as caught:
            app.receive()
        assert caught.value.by == "peer"

    def test_what_comes_after_the_peers_close_is_discarded(self, arrive: Arrive) -> None:
        transport, app = connected(queue=True)
        arrive(transport, CLOSE_1000_BYE + HELLO + PING_HI + RESERVED_OPCODE)
        assert app.told == []
        assert app.state() is State.PEER_CLOSED
        assert transport.paused
        assert app._decoder is not None
        assert app._decoder.undecoded == 0

    def test_eof_while_the_handler_has_not_answered_ends_the_connection(self) -> None:
        transport, app = connected(queue=True)
        transport.data(CLOSE_1000_BYE)
        transport.eof()
        assert app.ends == [("closed", 1000, "bye", "peer")]
        assert app.send_nowait("x") is CLOSED

    def test_on_closing_may_ask_for_another_code_and_does_not_get_it(self) -> None:
        transport, app = connected()
        app.on_closing = lambda: app.close_nowait(4000)
        transport.data(CLOSE_1000_BYE)
        assert transport.take() == OUR_CLOSE_1000
        assert [what[0] for what in app.ends] == ["closing", "closed"]


class TestFailures:
    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (RESERVED_OPCODE, 1002),
            (UNMASKED, 1002),
            (b"\x81\x82\x00\x00\x00\x00\xc3\x28", 1007),  # text that is not UTF-8
            (b"\x82\xff\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00", 1009),  # a GiB
        ],
    )
    def test_messages_before_a_bad_frame_are_answered_then_our_close_leaves(
        self, arrive: Arrive, bad: bytes, code: int
    ) -> None:
        transport, app = echoing()
        arrive(transport, HELLO + WORLD + bad + HELLO)
        sent = frames(transport.take())
        assert sent[:2] == [(0x81, b"hello"), (0x82, b"world")]
        assert len(sent) == 3
        assert sent[2][0] == 0x88
        assert int.from_bytes(sent[2][1][:2], "big") == code
        assert [(what, told, by) for what, told, _, by in app.ends] == [("closing", code, "us"), ("closed", code, "us")]
        assert app.messages == ["hello", b"world"]
        assert transport.closing_by == 1005.0

    def test_after_a_failure_a_handler_answers_what_came_before_and_then_our_close_leaves(self, arrive: Arrive) -> None:
        transport, app = connected(queue=True)
        arrive(transport, HELLO + WORLD + RESERVED_OPCODE + HELLO)
        assert app.state() is State.FAILED
        for _ in range(2):
            message = app.receive()
            assert message is not None
            assert app.send_nowait(message) is SENT
        assert transport.take() == b"\x81\x05hello\x82\x05world"
        with pytest.raises(ConnectionClosed) as caught:
            app.receive()
        assert caught.value.code == 1002
        assert app._fatal
        assert frames(transport.take())[0][1][:2] == b"\x03\xea"
        assert app.state() is State.CLOSED

    def test_our_close_leaves_by_the_deadline_after_a_failure(self) -> None:
        transport, app = connected(queue=True)
        transport.data(HELLO + RESERVED_OPCODE)
        transport.pass_time(5)
        assert frames(transport.take())[0][1][:2] == b"\x03\xea"
        assert app.state() is State.CLOSED

    def test_eof_after_a_failure_keeps_the_failure(self) -> None:
        transport, app = connected(queue=True)
        transport.data(RESERVED_OPCODE)
        transport.eof()
        with pytest.raises(ConnectionClosed) as caught:
            app.receive()
        assert caught.value.code == 1002

    def test_a_callback_that_raises_ends_its_connection_with_1011_after_what_it_sent(self, arrive: Arrive) -> None:
        transport, app = connected()

        def crash(message: str | bytes) -> None:
            app.send_nowait("before")
            raise ZeroDivisionError

        app.on_message = crash
        arrive(transport, HELLO + HELLO)
        assert transport.take() == b"\x81\x06before\x88\x10\x03\xf3internal error"
        assert app.messages == ["hello"]
        arrive(transport, CLOSE_1000_BYE)
        assert app.ends[-1] == ("closed", 1011, "internal error", "us")

    def test_an_exception_that_is_not_for_us_leaves_the_connection_able_to_end(self) -> None:
        transport, app = connected()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        app.on_message = interrupt
        with pytest.raises(KeyboardInterrupt):
            transport.data(HELLO)
        app.on_closing = interrupt
        with pytest.raises(KeyboardInterrupt):
            app.close_nowait()
        app.on_closed = interrupt
        with pytest.raises(KeyboardInterrupt):
            transport.eof()
        assert not app._busy
        assert app._reported


class TestOurClose:
    def test_the_closing_handshake(self, arrive: Arrive) -> None:
        transport, app = connected()
        app.close_nowait(4321, "enough")
        assert transport.take() == b"\x88\x08\x10\xe1enough"
        assert app.ends == [("closing", 4321, "enough", "us")]
        assert app.send_nowait("more") is CLOSED
        assert app.send_shared(SharedMessage("more")) is CLOSED
        assert not app.ping_nowait()
        arrive(transport, HELLO + PING_HI + CLOSE_1000_BYE + HELLO)
        assert transport.take() == b""  # control frames are not answered after our Close
        assert app.messages == []
        assert app.ends[1:] == [("closed", 4321, "enough", "us")]
        assert transport.closing_by == 1005.0
        assert app.messages_received == 0

    def test_the_first_code_wins(self) -> None:
        transport, app = connected()
        app.close_nowait(4001)
        app.close_nowait(4002)
        transport.data(CLOSE_1000_BYE)
        app.close_nowait(4003)
        assert transport.take() == b"\x88\x02\x0f\xa1"
        assert [code for _, code, _, _ in app.ends] == [4001, 4001]

    def test_a_close_in_a_callback_is_told_after_it_returned_and_nothing_more_is_delivered(self) -> None:
        transport, app = connected()
        states = []

        def close(message: str | bytes) -> None:
            app.close_nowait(4001)
            states.append(app.state())
            app.send_nowait("last words")
            app.close_nowait(4002)

        app.on_message = close
        app.on_closing = lambda: app.send_nowait("goodbye")
        transport.data(HELLO + HELLO + CLOSE_1000_BYE)
        assert states == [State.OPEN]
        assert transport.take() == b"\x81\x0alast words\x81\x07goodbye\x88\x02\x0f\xa1"
        assert app.messages == ["hello"]
        transport.proceed_all()  # the rest of the read holds the peer's Close
        assert app.messages == ["hello"]
        assert app.ends == [("closing", 4001, "", "us"), ("closed", 4001, "", "us")]

    def test_a_close_discards_what_was_received_and_reads_on(self) -> None:
        limits = Limits(receive_queue_messages=2)
        transport, app = connected(limits, queue=True)
        transport.data(HELLO * 5 + CLOSE_1000_BYE)
        assert transport.paused
        app.close_nowait()
        assert not transport.paused
        with pytest.raises(ConnectionClosed):
            app.receive()
        transport.proceed_all()
        assert app.ends == [("closed", 1000, "", "us")]
        assert not app._fatal

    def test_a_close_reads_on_although_the_peer_does_not_read(self) -> None:
        transport, app = echoing(window=0)
        app.send_nowait(noise(HIGH_WATER + 1))
        assert transport.paused
        app.close_nowait()
        assert not transport.paused
        transport.data(HELLO + PING_HI)
        assert not transport.paused
        transport.data(CLOSE_1000_BYE)
        assert app.state() is State.CLOSED

    def test_a_peer_that_does_not_answer_is_cut_by_the_deadline(self) -> None:
        transport, app = connected()
        app.close_nowait()
        transport.data(HELLO)
        transport.pass_time(4.9)
        assert not transport.aborted
        assert app.due(transport.clock) == 1005.0  # a driver may ask early
        transport.pass_time(0.2)
        assert transport.aborted
        assert app.ends == [("closing", 1000, "", "us"), ("closed", 1000, "", "us")]

    def test_a_bad_frame_after_our_close_ends_the_connection_without_another_close(self, arrive: Arrive) -> None:
        transport, app = connected()
        app.close_nowait()
        transport.take()
        arrive(transport, RESERVED_OPCODE)
        assert transport.take() == b""
        assert app.ends[-1] == ("closed", 1000, "", "us")

    def test_eof_after_our_close_keeps_ours(self) -> None:
        transport, app = connected()
        app.close_nowait()
        transport.eof(ConnectionResetError())
        assert app.ends[-1] == ("closed", 1000, "", "us")

    def test_before_the_handshake_was_answered_there_is_no_close_frame(self) -> None:
        transport = MemoryTransport()
        app = Application(transport)
        app.close_nowait()
        assert transport.take() == b""
        assert transport.closing_by == 1005.0
        assert app.ends == [("closed", 1000, "", "us")]

    def test_a_close_asked_before_the_accept_leaves_after_it(self) -> None:
        transport = MemoryTransport()
        app = Application(transport)
        transport.data(HELLO + CLOSE_1000_BYE)
        app._busy = True  # as while on_open runs
        app.close_nowait()
        app.open()
        app._busy = False
        app._settle()
        assert transport.take() == OUR_CLOSE_1000
        transport.proceed_all()
        assert app.ends == [("closing", 1000, "", "us"), ("closed", 1000, "", "us")]

    def test_what_was_queued_leaves_before_the_close(self) -> None:
        transport, app = connected(window=0)
        messages = [noise(40_000, seed) for seed in range(4)]
        for message in messages:
            app.send_nowait(message)
        assert app._backlog_size
        app.close_nowait()
        transport.read()
        assert frames(transport.take()) == [(0x82, message) for message in messages] + [(0x88, b"\x03\xe8")]


class TestTheEndOfTheStream:
    def test_eof_without_a_close_is_1006_from_the_network(self) -> None:
        transport, app = echoing()
        transport.data(HELLO)
        transport.eof()
        assert app.told[0] == "hello"
        assert app.ends == [("closed", 1006, "", "network")]
        assert app._fatal
        assert app.send_nowait("x") is CLOSED

    def test_an_error_is_named(self) -> None:
        transport, app = connected()
        transport.eof(ConnectionResetError(104, "whatever the system says"))
        assert app.ends == [("closed", 1006, "ConnectionResetError", "network")]

    def test_eof_before_the_handshake_was_answered(self) -> None:
        transport = MemoryTransport()
        app = Application(transport)
        transport.eof()
        assert app.ends == [("closed", 1006, "", "network")]
        assert app.due(2000.0) == inf

    def test_eof_is_told_after_what_was_held_for_a_peer_that_does_not_read(self) -> None:
        transport, app = connected(window=0)
        app.on_message = lambda message: app.send_nowait(noise(40_000))
        transport.data(HELLO * 4 + CLOSE_1000_BYE)
        assert app.messages == ["hello"] * 2
        transport.eof(ConnectionResetError())
        assert app.messages == ["hello"] * 4
        # The peer's Close had arrived before the end of the stream.
        assert app.ends == [("closed", 1000, "bye", "peer")]
        assert not app._fatal

    def test_a_failure_found_in_what_came_before_eof_is_earlier_than_eof(self) -> None:
        transport, app = connected(window=0)
        app.on_message = lambda message: app.send_nowait(noise(40_000))
        transport.data(HELLO * 3 + RESERVED_OPCODE + HELLO)
        transport.eof()
        assert app.messages == ["hello"] * 3
        assert [(code, by) for _, code, _, by in app.ends] == [(1002, "us")]

    def test_eof_is_told_after_what_was_held_for_the_sake_of_others(self) -> None:
        transport, app = connected()
        transport.slice_is_over = True
        transport.data(HELLO * 40)
        assert len(app.messages) < 40
        transport.eof()
        assert app.ends == []
        app._cut(CloseCode.GOING_AWAY, "too late to be the reason")
        transport.proceed_all()
        assert app.messages == ["hello"] * 40
        assert app.told[-1] == ("closed", app._closed)
        assert app.ends == [("closed", 1006, "", "network")]

    def test_a_crash_after_eof_ends_the_delivery(self) -> None:
        transport, app = connected()
        transport.slice_is_over = True
        transport.data(HELLO * 40)
        transport.eof()
        count = len(app.messages)

        def crash(message: str | bytes) -> None:
            raise ZeroDivisionError

        app.on_message = crash
        transport.proceed_all()
        assert len(app.messages) == count + 1
        assert app.ends == [("closed", 1006, "", "network")]

    def test_a_handler_takes_what_came_before_eof_with_no_driver_left(self) -> None:
        limits = Limits(receive_queue_messages=2, receive_queue_size=10 * MIB)
        transport, app = connected(limits, queue=True)
        transport.slice_is_over = True
        transport.data(masked(0x82, noise(9_000)) * 5 + HELLO)
        transport.eof()
        assert app.ends == [("closed", 1006, "", "network")]  # told at once to whoever does not read
        assert [len(app.receive() or b"") for _ in range(6)] == [9_000] * 5 + [5]
        with pytest.raises(ConnectionClosed):
            app.receive()

    def test_bytes_after_the_end_are_discarded(self) -> None:
        transport, app = connected()
        transport.data(CLOSE_1000_BYE)
        app.data(HELLO, 1000.0)  # as a driver would, that does not know yet
        app.proceed(1000.0)
        assert app.messages == []
        assert app._decoder is not None
        assert app._decoder.undecoded == 0

    def test_a_cut_loses_what_is_queued_and_discards_what_was_received(self) -> None:
        transport, app = connected(queue=True, window=0)
        transport.data(HELLO)
        app.send_nowait("x")
        app._cut(CloseCode.GOING_AWAY, "server shutdown")
        assert transport.aborted
        with pytest.raises(ConnectionClosed):
            app.receive()
        assert app.ends == [("closed", 1001, "server shutdown", "us")]
        transport.eof()
        assert len(app.ends) == 1

    def test_a_cut_in_a_callback_is_told_after_it_returned(self) -> None:
        transport, app = connected()
        app.on_message = lambda message: app._cut(CloseCode.GOING_AWAY, "")
        transport.data(HELLO + HELLO)
        assert app.messages == ["hello"]
        assert app.ends == [("closed", 1001, "", "us")]
        transport, app = connected()
        app.on_closing = lambda: app._cut(CloseCode.GOING_AWAY, "")
        app.close_nowait()
        assert transport.take() == b""
        assert app.ends == [("closing", 1000, "", "us"), ("closed", 1000, "", "us")]

    def test_a_cut_ends_also_the_wait_for_the_peers_fin(self) -> None:
        transport, app = connected()
        transport.data(CLOSE_1000_BYE)
        assert not transport.aborted
        app._cut(CloseCode.GOING_AWAY, "")
        assert transport.aborted
        assert app.ends[-1] == ("closed", 1000, "bye", "peer")

    def test_a_peer_that_takes_nothing_is_cut_with_1013(self) -> None:
        for close_first in (False, True):
            transport, app = connected(window=0)
            app.send_nowait("x")
            if close_first:
                app.close_nowait()
            app.stalled(10.0)
            assert transport.aborted
            assert app.ends[-1][1:] == (
                (1000, "", "us") if close_first else (1013, "nothing could be sent for 10 s", "us")
            )


class TestKeepalive:
    def test_a_silent_peer_is_pinged_and_any_byte_is_life(self) -> None:
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7))
        transport.pass_time(19)
        transport.data(b"\x81")  # not even a header
        transport.pass_time(19)
        assert transport.take() == b""
        transport.pass_time(1)
        assert transport.take() == b"\x89\x00"
        transport.pass_time(6)
        transport.data(b"\x85")
        transport.pass_time(19)
        assert transport.take() == b""
        assert app.state() is State.OPEN
        transport.pass_time(1)
        assert transport.take() == b"\x89\x00"

    def test_a_peer_that_stays_silent_is_failed_with_1011(self) -> None:
        for queue in (False, True):
            transport, app = connected(Limits(ping_interval=20, ping_timeout=7), queue=queue)
            transport.pass_time(20)
            transport.take()
            transport.pass_time(6.9)
            assert app.state() is State.OPEN
            transport.pass_time(0.2)
            if queue:
                assert app.state() is State.FAILED
                with pytest.raises(ConnectionClosed):
                    app.receive()
            assert frames(transport.take()) == [(0x88, b"\x03\xf3no answer to a ping for 7 s")]
            assert app.state() is State.CLOSED
            transport.pass_time(10)
            assert transport.aborted

    def test_pings_can_be_switched_off(self) -> None:
        transport, app = connected(Limits(ping_interval=inf))
        transport.pass_time(1e6)
        assert transport.take() == b""
        assert app.state() is State.OPEN

    def test_while_we_do_not_read_no_peer_is_blamed(self) -> None:
        limits = Limits(ping_interval=20, ping_timeout=7, receive_queue_messages=1)
        transport, app = connected(limits, queue=True)
        transport.data(HELLO)
        assert transport.paused
        transport.pass_time(1010)
        assert transport.take() == b""
        assert app.receive() == "hello"
        assert not transport.paused
        transport.pass_time(19)
        assert transport.take() == b""
        transport.pass_time(1)
        assert transport.take() == b"\x89\x00"

    def test_a_pong_that_waits_to_be_read_is_waited_for(self) -> None:
        limits = Limits(ping_interval=20, ping_timeout=7, receive_queue_messages=1)
        transport, app = connected(limits, queue=True)
        transport.pass_time(20)
        assert transport.take() == b"\x89\x00"
        transport.data(HELLO)  # reading stops; the pong stands behind
        transport.pass_time(100)
        assert app.receive() == "hello"
        transport.pass_time(10)
        assert app.state() is State.OPEN
        transport.data(PONG_EMPTY)
        assert app.pongs == [b""]

    def test_the_pong_is_waited_for_from_when_the_ping_has_left(self) -> None:
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7), window=0)
        app.send_nowait("x")
        transport.pass_time(30)  # the ping stands behind what the peer does not read
        transport.pass_time(30)
        assert app.state() is State.OPEN
        transport.read()
        assert transport.take() == b"\x81\x01x\x89\x00"
        transport.pass_time(6.9)
        assert app.state() is State.OPEN
        transport.pass_time(0.2)
        assert app.ends[-1][1] == 1011

    def test_a_peer_that_takes_what_stands_before_the_ping_is_slow_and_not_gone(self) -> None:
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7))
        app.send_nowait("x" * 998)
        transport.under_way = 1000
        transport.pass_time(20)
        transport.under_way += 2  # the ping
        for _ in range(4):
            transport.pass_time(6)
            app.send_nowait("y" * 98)  # does not hide that the peer takes what is before
            transport.under_way += 100 - 10
            transport.pass_time(1)
            assert app.state() is State.OPEN
        transport.pass_time(7.1)
        assert app.ends[-1][1] == 1011

    def test_what_tls_adds_to_a_ping_does_not_stand_before_it(self) -> None:
        """A driver counts records, of which one that holds a ping has 22 bytes more, and up to 85 with old ciphers."""
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7))
        transport.under_way = 22 + 2
        transport.pass_time(20)
        transport.under_way = 0
        transport.pass_time(7.1)
        assert app.ends[-1][1] == 1011

    def test_once_all_before_the_ping_is_acknowledged_the_peer_has_its_time_and_no_more(self) -> None:
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7))
        transport.under_way = 1000
        transport.pass_time(20)
        transport.under_way = 0
        transport.pass_time(7 + 6.9)
        assert app.state() is State.OPEN
        transport.pass_time(0.2)
        assert app.ends[-1][1] == 1011

    def test_what_is_sent_behind_the_ping_gives_no_time(self) -> None:
        transport, app = connected(Limits(ping_interval=20, ping_timeout=7))
        transport.pass_time(20)
        for _ in range(3):
            transport.pass_time(2)
            app.send_nowait("x")
            transport.under_way += 1
        transport.pass_time(1.1)
        assert app.ends[-1][1] == 1011


class TestBoundsOfReceiving:
    def test_more_control_frames_than_allowed_a_second_fail_with_1008(self, arrive: Arrive) -> None:
        limits = Limits(max_control_rate=5)
        transport, app = connected(limits)
        arrive(transport, PING_HI * 5)
        transport.clock += 1.0
        arrive(transport, PONG_EMPTY * 5)
        assert app.state() is State.OPEN
        assert transport.take() == PONG_HI * 5
        arrive(transport, PING_HI)
        assert app.ends[-1] == ("closed", 1008, "over 5 control or empty frames a second", "us")

    def test_those_that_came_while_nothing_was_read_count_for_that_time(self) -> None:
        transport, app = connected(Limits(max_control_rate=5, receive_queue_messages=1), queue=True)
        transport.data(masked(0x81, b"x"))
        assert transport.paused
        transport.pass_time(8)
        assert app._take() == "x"
        assert not transport.paused
        transport.data(PING_HI * 44)  # of eight seconds, and of the one that begins
        assert app.state() is State.OPEN
        transport.data(PING_HI * 2)
        assert app.state() is State.FAILED

    def test_empty_fragments_count_and_empty_messages_do_not(self, arrive: Arrive) -> None:
        limits = Limits(max_control_rate=5)
        transport, app = connected(limits)
        arrive(transport, EMPTY * 200)
        assert app.messages == [""] * 200
        arrive(transport, TEXT_FRAGMENT + EMPTY_FRAGMENT * 5)
        assert app.state() is State.OPEN
        arrive(transport, EMPTY_FRAGMENT)
        assert app.ends[-1][1] == 1008

    def test_control_frames_that_pass_the_rate_after_our_close_end_the_connection(self) -> None:
        transport, app = connected(Limits(max_control_rate=5))
        app.close_nowait()
        transport.data(PING_HI * 6)
        assert app.ends[-1] == ("closed", 1000, "", "us")

    def test_decoding_stops_at_the_bound_of_messages_and_goes_on_as_they_are_taken(self, arrive: Arrive) -> None:
        limits = Limits(receive_queue_messages=3)
        transport, app = connected(limits, queue=True)
        transport.data(b"".join(masked(0x81, b"%d" % number) for number in range(10)))
        assert transport.paused
        assert app._queue is not None
        for number in range(10):
            assert len(app._queue) == min(3, 10 - number)
            assert app.receive() == str(number)
        assert not transport.paused
        assert app.receive() is None
        assert not transport.scheduled  # whoever takes a message decodes the next one: nothing is put off

    def test_decoding_stops_at_the_bound_of_bytes(self) -> None:
        limits = Limits(receive_queue_size=1000)
        transport, app = connected(limits, queue=True)
        transport.data(masked(0x82, bytes(999)) + masked(0x82, bytes(5000)) + HELLO)
        assert app._queue is not None
        assert [len(message) for message in app._queue] == [999, 5000]
        assert len(app.receive() or "") == 999
        assert app._queue_size == 5000  # still full
        assert transport.paused
        assert len(app.receive() or "") == 5000
        assert app.receive() == "hello"
        assert not transport.paused

    def test_a_bad_frame_behind_a_full_queue_is_found_when_it_is_its_turn(self) -> None:
        transport, app = connected(Limits(receive_queue_messages=1), queue=True)
        transport.data(HELLO + WORLD + RESERVED_OPCODE)
        assert app.state() is State.OPEN
        assert app.receive() == "hello"
        assert app.state() is State.OPEN
        assert app.receive() == b"world"
        assert app.state() is State.FAILED
        assert transport.paused

    @pytest.mark.parametrize("queue", [False, True])
    def test_compressed_messages_of_a_mebibyte_in_one_read_are_decoded_one_at_a_time(self, queue: bool) -> None:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        payload = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        frame = masked(0xC2, payload.removesuffix(b"\x00\x00\xff\xff"))  # FIN, RSV1, binary
        count = 65536 // len(frame)
        assert count > 60
        transport, app = connected(queue=queue, deflate=NO_CONTEXT)
        transport.slice_is_over = True
        sizes = []

        def measure(message: str | bytes) -> None:
            sizes.append(len(message))
            app.told.clear()

        app.on_message = measure
        tracemalloc.start()
        try:
            transport.data(frame * count)
            if queue:
                app.told.clear()
                for number in range(count):
                    sizes.append(len(app.receive() or ""))
                    app.told.clear()
                    assert len(app._queue or ()) == (number < count - 1)
            else:
                for number in range(1, count):
                    assert len(sizes) == number  # one, and others have their turn
                    assert transport.paused
                    assert transport.proceed()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sizes == [MIB] * count
        assert peak < 5 * MIB
        transport.proceed_all()
        assert not transport.paused

    def test_small_messages_have_their_share_of_a_slice_and_the_clock_is_not_looked_at_for_each(self) -> None:
        transport, app = connected()
        transport.data(HELLO * 100)
        assert len(app.messages) == 100
        transport.slice_is_over = True
        transport.data(HELLO * 100)
        assert len(app.messages) == 116
        transport.slice_is_over = False
        transport.proceed_all()
        assert len(app.messages) == 200

    def test_what_is_discarded_after_our_close_has_its_slices_too(self) -> None:
        for queue in (False, True):
            transport, app = connected(queue=queue)
            transport.slice_is_over = True
            app.close_nowait()
            transport.data(HELLO * 40 + CLOSE_1000_BYE)
            assert app.state() is State.CLOSING
            assert transport.paused
            transport.proceed_all()
            assert app.state() is State.CLOSED

    @pytest.mark.parametrize("queue", [False, True])
    def test_frames_that_make_no_message_have_their_slices_too(self, queue: bool) -> None:
        transport, app = connected(queue=queue)
        transport.slice_is_over = True
        transport.data(masked(0x01, b"x") + masked(0x00, b"x") * 40)
        assert transport.paused  # a receive queue does not bound the work of fragments
        transport.proceed_all()
        assert not transport.paused
        transport.data(masked(0x80, b"x"))
        assert (app.receive() if queue else app.messages.pop()) == "x" * 42

    def test_a_slice_that_ends_while_the_peer_does_not_read(self) -> None:
        transport, app = connected(window=0)
        app.on_message = lambda message: app.send_nowait(noise(5_000))
        transport.slice_is_over = True
        transport.data(HELLO * 40)
        assert len(app.messages) == 14  # HIGH_WATER is passed before the slice ends
        transport.read(40_000)
        transport.proceed_all()
        assert 14 < len(app.messages) < 40
        transport.read()
        transport.proceed_all()
        assert len(app.messages) == 40
        assert not transport.paused


class TestBackPressure:
    def test_reading_stops_above_the_high_water_mark_and_resumes_at_the_low_one(self) -> None:
        transport, app = echoing(window=0)
        message = noise(1000)
        read = masked(0x82, message) * 100
        transport.data(read)
        assert transport.paused
        assert HIGH_WATER < transport.queued < HIGH_WATER + 1100
        assert len(app.messages) == 66
        transport.read(transport.queued - LOW_WATER - 1)
        assert transport.paused
        transport.read(1)
        assert not transport.paused
        transport.proceed_all()
        assert len(app.messages) > 66
        transport.read()
        transport.proceed_all()
        assert frames(transport.take()) == [(0x82, message)] * 100
        assert not transport.paused

    def test_a_peer_that_does_not_read_is_not_read_from_either_also_when_it_only_pings(self) -> None:
        transport, _ = connected(Limits(max_control_rate=10_000), window=0)
        transport.data(masked(0x89, bytes(125)) * 1000)
        assert transport.paused
        assert HIGH_WATER < transport.queued < HIGH_WATER + 128
        transport.read()
        transport.proceed_all()
        assert transport.take() == (b"\x8a\x7d" + bytes(125)) * 1000

    def test_what_was_queued_in_the_batch_of_another_stops_reading_before_the_next_message(self) -> None:
        transport, app = connected(window=0)
        with transport.cork():
            for _ in range(4):  # with its headers just above the mark
                assert app.send_nowait(noise(HIGH_WATER // 4)) is SENT
        assert transport.blocked
        transport.data(HELLO)
        assert app.messages == []
        assert transport.paused
        transport.read()
        transport.proceed_all()
        assert app.messages == ["hello"]

    def test_a_message_that_leaves_is_sent_one_that_waits_is_queued(self) -> None:
        transport, app = connected(window=10)
        assert app.send_nowait("x" * 8) is SENT
        assert app.send_nowait("y") is QUEUED
        assert app.send_shared(SharedMessage("z")) is QUEUED
        transport.read()
        assert transport.take() == b"\x81\x08xxxxxxxx\x81\x01y\x81\x01z"
        assert app.send_nowait("more") is SENT

    def test_a_peer_that_only_looks_behind_in_a_batch_is_sent_to(self) -> None:
        transport, app = connected()
        message = noise(40_000)
        with transport.cork():
            for _ in range(20):
                assert app.send_nowait(message) is SENT
        assert not app._crowded
        assert not transport.paused
        assert frames(transport.take()) == [(0x82, message)] * 20

    def test_messages_wait_whole_behind_the_high_water_mark_and_leave_in_order(self) -> None:
        transport, app = connected(window=0)
        messages = [noise(30_000, seed) for seed in range(12)]
        for number, message in enumerate(messages):
            shared = SharedMessage(message) if number % 3 == 0 else None
            status = app.send_shared(shared) if shared else app.send_nowait(message)
            assert status is (QUEUED if number else SENT)  # what is shared is tried when the turn ends
            assert transport.queued <= HIGH_WATER + 30_004
        assert app.send_buffer == sum(len(message) + 4 for message in messages)
        assert app._backlog is not None
        assert len(app._backlog._frames) == 9
        for _ in range(40):
            transport.read(10_000)
            assert transport.queued <= HIGH_WATER + 30_004
        assert frames(transport.take()) == [(0x82, message) for message in messages]
        assert app.send_buffer == 0
        assert not transport.paused

    def test_a_peer_that_takes_all_at_once_leaves_nothing_waiting(self) -> None:
        transport, app = connected(window=0)
        messages = [noise(40_000, seed) for seed in range(12)]
        for message in messages:
            app.send_nowait(message)
        transport.read()
        assert frames(transport.take()) == [(0x82, message) for message in messages]
        assert not transport.paused
        assert not app._crowded

    def test_a_large_message_at_the_end_of_the_backlog_keeps_reading_stopped_until_it_has_left(self) -> None:
        transport, app = connected(window=0)
        for size in (70_000, 90_000):
            app.send_nowait(noise(size))
        assert app._backlog_size
        transport.read(60_000)
        assert not app._backlog_size
        assert transport.paused
        transport.read(60_000)
        assert not transport.blocked or transport.queued <= LOW_WATER or transport.paused
        transport.read(LOW_WATER)
        assert not transport.paused

    def test_a_broadcast_stops_the_reading_from_a_peer_that_does_not_read(self) -> None:
        transport, app = connected(window=0)
        shared = SharedMessage(noise(HIGH_WATER))
        assert app.send_shared(shared) is QUEUED
        assert transport.paused
        assert app.send_shared(shared) is QUEUED
        transport.read()
        assert transport.take() == shared.plain * 2
        assert not transport.paused

    def test_a_pong_passes_the_messages_that_wait(self) -> None:
        transport, app = connected(window=0)
        for _ in range(4):
            app.send_nowait(noise(40_000))
        app.ping_nowait(b"!")
        transport.read()
        assert [first for first, _ in frames(transport.take())] == [0x82, 0x82, 0x89, 0x82, 0x82]

    def test_a_send_buffer_smaller_than_the_high_water_mark_is_the_bound_all_the_same(self) -> None:
        transport, app = echoing(Limits(max_send_buffer=1000), window=0)
        assert app.send_nowait(bytes(990)) is QUEUED
        assert app.send_nowait(bytes(990)) is QUEUED
        assert app.send_nowait("x", policy="drop_newest") is DROPPED
        assert transport.queued == 2 * 994
        assert transport.paused  # an echo slows down, it does not close
        transport.read()
        assert app.send_nowait("x") is SENT
        assert not transport.paused

    def test_eof_forgets_what_is_queued(self) -> None:
        transport, app = connected(window=0)
        for _ in range(4):
            app.send_nowait(noise(40_000))
        transport.eof()
        assert app.send_buffer == 0


class TestSlowConsumers:
    LIMITS: Final = Limits(max_send_buffer=200_000)

    def full(
        self, policy: SlowConsumerPolicy = "close", **options: Any
    ) -> tuple[MemoryTransport, Application, list[bytes]]:
        """A connection whose send buffer of 200 000 bytes was just filled with messages of 40 000."""
        limits = Limits(max_send_buffer=200_000, slow_consumer=policy)
        transport, app = connected(limits, window=0, **options)
        messages = [noise(40_000, seed) for seed in range(5)]
        for message in messages:
            assert app.send_nowait(message) is QUEUED
        return transport, app, messages

    def test_the_bound_is_the_limit_and_one_message(self) -> None:
        limits = Limits(max_send_buffer=200_000, slow_consumer="drop_newest")
        _, app = connected(limits, window=0)
        assert app.send_nowait(bytes(199_000)) is QUEUED
        assert app.send_nowait(bytes(MIB)) is QUEUED  # accepted whole
        assert app.send_nowait("x") is DROPPED
        assert app.send_buffer == 199_000 + 10 + MIB + 10

    def test_close_says_1013_after_what_was_queued(self) -> None:
        transport, app, messages = self.full()
        app.on_closing = lambda: app.send_nowait("goodbye")
        transport.clock += 3.2
        assert app.send_nowait("one too many") is CLOSED
        assert app.told == []  # callbacks come from the driver, not from inside a send
        assert app.ping_nowait() is False  # what takes no message takes no ping
        assert app.send_nowait("another") is CLOSED
        assert app.send_shared(SharedMessage("another")) is CLOSED
        assert transport.proceed()
        assert app.state() is State.CLOSING
        transport.read()
        sent = frames(transport.take())
        assert sent[:5] == [(0x82, message) for message in messages]
        assert [first for first, _ in sent[5:]] == [0x88]
        assert sent[5][1] == b"\x03\xf5send buffer full: 200020 bytes wait, none left for 3.2 s"
        assert app.ends[0][:2] == ("closing", 1013)
        assert app.slow_consumer_actions == {"close": 1}  # the goodbye found no room, which is not counted again

    def test_after_a_refused_message_none_is_taken_although_the_peer_reads_meanwhile(self) -> None:
        transport, app, messages = self.full()
        assert app.send_nowait("one too many") is CLOSED
        transport.read(150_000)
        assert app.send_nowait("a gap before it") is CLOSED
        transport.read()
        assert app.send_nowait("a gap before it") is CLOSED
        transport.proceed_all()
        assert [payload for first, payload in frames(transport.take()) if first != 0x88] == messages

    def test_a_goodbye_is_said_where_the_peer_has_made_room_for_it(self) -> None:
        transport, app, _ = self.full()
        app.on_closing = lambda: app.send_nowait("goodbye")
        assert app.send_nowait("one too many") is CLOSED
        transport.read()
        transport.proceed_all()
        assert [payload[:7] for _, payload in frames(transport.take())[5:-1]] == [b"goodbye"]

    def test_a_full_buffer_found_in_a_callback_closes_after_it(self) -> None:
        transport, app, _ = self.full()
        statuses = []
        app.on_message = lambda message: statuses.append(app.send_nowait(message))
        transport.data(HELLO)  # not read: the peer does not read either
        assert transport.paused
        transport.read(180_000)
        transport.window = 0
        transport.proceed_all()
        assert statuses == [QUEUED]
        app.on_message = lambda message: statuses.extend(app.send_nowait(noise(50_000)) for _ in range(6))
        transport.data(HELLO + HELLO)
        assert statuses[-1] is CLOSED
        assert app.ends == [("closing", 1013, app.ends[0][2], "us")]
        assert app.messages == ["hello", "hello"]

    def test_a_close_that_was_decided_is_the_end_although_the_stream_ends_first(self) -> None:
        for queue in (False, True):
            transport, app, _ = self.full(queue=queue)
            assert app.send_nowait("one too many") is CLOSED
            transport.eof()
            assert [what[:2] for what in app.ends] == [("closed", 1013)]
            if queue:
                with pytest.raises(ConnectionClosed):
                    app.receive()

    def test_one_more_message_to_a_peer_that_has_closed_and_does_not_read(self) -> None:
        transport, app, _ = self.full(queue=True)
        app._release(2)  # as if the peer had read: the point is the state
        transport.data(CLOSE_1000_BYE)
        app._happen(Event.PEER_CLOSE)
        app._end(ConnectionClosed(1000, "bye", "peer"))
        assert app.send_nowait("x", policy="drop_newest") is DROPPED  # the connection would still take one
        assert app.send_nowait("x") is CLOSED
        transport.proceed_all()
        assert app.ends == [("closed", 1000, "bye", "peer")]
        transport.read()
        assert frames(transport.take())[-1] == (0x88, b"\x03\xe8")

    def test_drop_newest_drops_the_message_and_nothing_else(self) -> None:
        transport, app, messages = self.full("drop_newest")
        assert app.send_nowait("dropped") is DROPPED
        assert app.send_shared(SharedMessage("dropped")) is DROPPED
        transport.read()
        assert [payload for _, payload in frames(transport.take())] == messages
        assert app.messages_sent == 5
        assert app.send_nowait("taken") is SENT

    def test_drop_oldest_drops_whole_messages_that_have_not_begun_to_leave(self) -> None:
        transport, app, messages = self.full("drop_oldest")
        transport.read(10)  # the first has begun to leave
        assert app.send_nowait(noise(70_000, 9)) is QUEUED
        assert app.send_nowait("last") is QUEUED
        transport.read()
        # Two are with the transport, beyond reach; two of the other three made room.
        assert [payload for _, payload in frames(transport.take())] == [
            *messages[:2],
            messages[4],
            noise(70_000, 9),
            b"last",
        ]
        assert app.messages_sent == 5
        assert app.bytes_sent == 3 * 40_004 + 70_010 + 6

    def test_a_policy_can_be_chosen_for_one_message(self) -> None:
        _, app, _ = self.full("close")
        assert app.send_nowait("x", policy="drop_newest") is DROPPED
        assert app.send_shared(SharedMessage("x"), policy="drop_oldest") is QUEUED
        assert app.send_nowait(bytes(60_000), policy="drop_oldest") is QUEUED
        assert app.send_nowait("x", policy="close") is CLOSED

    def test_drop_oldest_drops_nothing_where_that_would_not_be_enough(self) -> None:
        limits = Limits(max_send_buffer=70_000, slow_consumer="drop_oldest")
        transport, app = connected(limits, window=0)
        messages = [bytes(70_000), b"small"]
        assert app.send_nowait(messages[0]) is QUEUED
        assert app.send_nowait(messages[1]) is DROPPED
        assert app.send_nowait(messages[1]) is DROPPED
        transport.read()
        assert [payload for _, payload in frames(transport.take())] == messages[:1]

    @pytest.mark.parametrize("deflate", [CONTEXT, NO_CONTEXT])
    def test_what_is_dropped_leaves_a_stream_that_can_be_decoded(self, deflate: DeflateParameters) -> None:
        limits = Limits(max_send_buffer=100_000, slow_consumer="drop_oldest")
        transport, app = connected(limits, window=0, deflate=deflate, options=DeflateOptions())
        # Half of them compress, against each other too where there is a context, and half are not compressed.
        messages = [noise(1500, seed % 7).hex() + f" {seed}" for seed in range(200)]
        statuses = {app.send_nowait(message, compress=seed % 2 == 0) for seed, message in enumerate(messages)}
        statuses |= {app.send_shared(SharedMessage(message)) for message in messages[:20]}
        assert QUEUED in statuses
        transport.read()
        peer = Decoder(is_client=True, max_message_size=MIB, max_fragments=100, deflate=deflate)
        peer.feed(transport.take())
        received: list[str | bytes | Control] = []
        while (message := peer.next()) is not None:
            received.append(message)
        assert len(received) == app.messages_sent
        assert len(received) < 220
        if deflate is CONTEXT:
            # All that were compressed with context and taken have come.
            assert [message for message in received if message in messages[1::2]] != messages[1::2]
        in_order: Iterator[object] = iter(messages + messages[:20])
        assert all(message in in_order for message in received)

    def test_a_stream_of_nothing_but_compressed_messages_with_context_cannot_be_dropped(self) -> None:
        limits = Limits(max_send_buffer=70_000, slow_consumer="drop_oldest")
        _, app = connected(limits, window=0, deflate=CONTEXT, options=DeflateOptions())
        statuses = [app.send_nowait(noise(2000, seed), compress=True) for seed in range(60)]
        taken = statuses.index(DROPPED)
        assert set(statuses[:taken]) == {QUEUED}
        assert set(statuses[taken:]) == {DROPPED}


class TestAMessageInPieces:
    """As `pieces.MessageWriter` does it."""

    def begun(
        self, limits: Limits | None = None, window: float = inf, deflate: DeflateParameters | None = None
    ) -> tuple[MemoryTransport, Application]:
        options = DeflateOptions() if deflate else None
        transport, app = connected(limits, window=window, deflate=deflate, options=options)
        app._writing = app._crowded = True
        self.piece(app, b"hel", begins=True)
        return transport, app

    def piece(self, app: Application, piece: bytes, *, begins: bool = False, ends: bool = False) -> None:
        assert app._encoder is not None
        app._queue_frame(app._encoder.fragment(piece, text=True, begins=begins, ends=ends, compress=False), False)

    def test_other_messages_wait_behind_it_and_control_frames_pass(self) -> None:
        transport, app = self.begun()
        assert app.send_nowait("second") is QUEUED
        assert app.send_shared(SharedMessage("third")) is QUEUED
        assert app.send_nowait(bytearray(b"fourth")) is QUEUED
        assert app.send_nowait(memoryview(b"fifth")) is QUEUED
        assert app.send_buffer == 4 * 64  # what is short counts for its place in the queue
        transport.data(PING_HI)
        self.piece(app, b"lo", ends=True)
        wakes = app.wakes
        app._release_behind()
        assert app.wakes > wakes
        assert frames(transport.take()) == [
            (0x01, b"hel"),
            (0x8A, b"hi"),
            (0x80, b"lo"),
            (0x81, b"second"),
            (0x81, b"third"),
            (0x82, b"fourth"),
            (0x82, b"fifth"),
        ]
        assert app.send_nowait("now at once") is SENT
        assert app._backlog is None  # as of every connection whose peer keeps up

    def test_a_message_that_cannot_be_sent_is_an_error_at_once(self) -> None:
        transport, app = self.begun()
        with pytest.raises(TypeError):
            app.send_nowait(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="surrogates not allowed"):
            app.send_nowait("\ud800")
        self.piece(app, b"lo", ends=True)
        app._release_behind()
        assert frames(transport.take()) == [(0x01, b"hel"), (0x80, b"lo")]

    def test_what_waits_behind_it_counts_against_the_send_buffer(self) -> None:
        limits = Limits(max_send_buffer=1000, slow_consumer="drop_newest")
        _, app = self.begun(limits)
        assert app.send_nowait(bytes(1200)) is QUEUED
        assert app.send_nowait("x") is DROPPED

    def test_drop_oldest_drops_what_waits_behind_it_too(self) -> None:
        limits = Limits(max_send_buffer=100_000, slow_consumer="drop_oldest")
        transport, app = self.begun(limits, window=0)
        for size in (70_000, 20_000):
            self.piece(app, b"x" * size)
        for number in range(5):
            assert app.send_nowait(str(number) * 4_000) is QUEUED
        assert app.send_nowait("5" * 4_000) is QUEUED
        self.piece(app, b"lo", ends=True)
        app._release_behind()
        transport.read()
        pieces = frames(transport.take())
        assert [first for first, _ in pieces] == [0x01, 0x00, 0x00, 0x80, 0x81, 0x81, 0x81]
        assert [payload[:1] for _, payload in pieces[4:]] == [b"3", b"4", b"5"]

    def test_what_waited_behind_it_waits_on_where_the_peer_is_behind(self) -> None:
        transport, app = self.begun(window=0)
        for number in range(4):
            app.send_nowait(str(number) * 40_000)
        self.piece(app, b"lo", ends=True)
        app._release_behind()
        assert app._backlog_size
        assert app._crowded
        transport.read()
        assert [first for first, _ in frames(transport.take())] == [0x01, 0x80, 0x81, 0x81, 0x81, 0x81]
        assert not app._crowded

    def test_a_piece_waits_for_nothing_that_only_looks_queued_in_this_batch(self) -> None:
        transport, app = self.begun()
        with transport.cork():
            for _ in range(5):
                self.piece(app, b"x" * 40_000)
        assert not app._backlog_size
        assert not transport.paused
        transport, app = connected()
        with transport.cork():
            app.send_nowait(bytes(HIGH_WATER))
            app._writing = app._crowded = True
            self.piece(app, b"x", begins=True)
        assert not app._backlog_size
        assert not transport.paused

    def test_what_waited_behind_a_message_that_is_never_completed_is_not_sent(self) -> None:
        transport, app = self.begun()
        app.send_nowait("behind")
        app.close_nowait(CloseCode.INTERNAL_ERROR, "")
        app._release_behind()
        assert frames(transport.take()) == [(0x01, b"hel"), (0x88, b"\x03\xf3")]
        assert app.send_buffer == 0

    def test_drained_in_the_middle_of_it_does_not_let_others_in(self) -> None:
        transport, app = self.begun(window=0)
        transport.read()
        assert app.send_nowait("behind") is QUEUED
        self.piece(app, b"lo", ends=True)
        app._release_behind()
        assert [first for first, _ in frames(transport.take())] == [0x01, 0x80, 0x81]
