"""Every exception as people and programs read it: its words, its code, and whose connection it is about."""

from __future__ import annotations

import pytest

import rawws
from rawws import CloseCode, ConnectionClosed, FrameError, HandshakeError, RawwsError
from rawws.backplane import BackplaneError, TooManyRoomsError
from rawws.chat_protocol import ChatError
from rawws.errors import HandshakeFailed, HandshakeRejected


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HandshakeError(431, "The request head is too large."), "431: The request head is too large."),
        (HandshakeRejected(401, {}, b""), "the server answered the opening handshake with 401"),
        (
            HandshakeRejected(301, {}, b"", "a redirect to another host"),
            "the server answered the opening handshake with 301: a redirect to another host",
        ),
        (FrameError(1002, "a reserved opcode"), "1002: a reserved opcode"),
        (FrameError(CloseCode.MESSAGE_TOO_BIG, "too big"), "1009: too big"),
        (ConnectionClosed(1001, "back soon", "peer"), "closed by peer with 1001: back soon"),
        (ConnectionClosed(1006), "closed by network with 1006"),
        (ConnectionClosed(CloseCode.NORMAL_CLOSURE, by="us"), "closed by us with 1000"),
        (ChatError("rooms[3].last", "wrong_type", "`last` is an integer."), "rooms[3].last: `last` is an integer."),
        (TooManyRoomsError("there are 5 rooms"), "there are 5 rooms"),
    ],
)
def test_an_error_says_what_is_wrong_in_one_line(error: RawwsError, words: str) -> None:
    assert str(error) == words


@pytest.mark.parametrize(
    "kind",
    [
        HandshakeError,
        HandshakeFailed,
        HandshakeRejected,
        FrameError,
        ConnectionClosed,
        ChatError,
        BackplaneError,
        TooManyRoomsError,
    ],
)
def test_every_error_is_a_rawws_error(kind: type[Exception]) -> None:
    assert issubclass(kind, RawwsError)
    assert not issubclass(kind, (OSError, ValueError, RuntimeError))


def test_a_handshake_error_carries_what_the_answer_needs() -> None:
    error = HandshakeError(405, "Use GET.", (("Allow", "GET, HEAD"),))
    assert (error.status, error.message, error.headers) == (405, "Use GET.", (("Allow", "GET, HEAD"),))
    assert HandshakeError(400, "No.").headers == ()


def test_a_frame_error_carries_what_the_close_frame_needs() -> None:
    error = FrameError(1007, "not UTF-8")
    assert (error.code, error.reason) == (1007, "not UTF-8")


class TestConnectionClosed:
    def test_it_says_which_code_and_who(self) -> None:
        closed = ConnectionClosed(1000, "done", "us")
        assert (closed.code, closed.reason, closed.by) == (1000, "done", "us")
        assert closed.args == (1000, "done", "us")

    def test_a_copy_belongs_to_one_connection_and_has_no_traceback(self) -> None:
        one, other = object(), object()
        closed = ConnectionClosed(1001, "bye", "peer")
        assert closed.queues is None
        closed.queues = (3, 4)
        try:
            raise closed
        except ConnectionClosed:
            pass
        copy = closed.of(one)
        assert copy is not closed
        assert str(copy) == str(closed)
        assert closed.__traceback__ is not None
        assert copy.__traceback__ is None
        assert copy.queues == (3, 4)
        assert copy.concerns(one)
        assert not copy.concerns(other)

    def test_one_that_somebody_else_made_concerns_no_connection(self) -> None:
        assert not ConnectionClosed(1000).concerns(object())


def test_close_codes_are_those_of_the_iana_registry() -> None:
    assert [code.value for code in rawws.CloseCode] == [
        *(1000, 1001, 1002, 1003),
        *(1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
    ]
