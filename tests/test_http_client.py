"""A client's request and its answer, as literal bytes, whole, byte by byte and in sevens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import HandshakeFailed
from rawws.http_client import MAX_BODY_SIZE, Answer, Inquiry
from rawws.limits import Limits

FIELDS = [("Host", "a"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def inquiry(limits: Limits | None = None) -> Inquiry:
    return Inquiry("/x?y", FIELDS, limits or Limits())


def ask(data: bytes, size: int, limits: Limits | None = None) -> tuple[Answer | None, bytes]:
    """The answer to a request, and what came after it, read in pieces of `size` bytes."""
    asked = inquiry(limits)
    for at in range(0, len(data), size):
        asked.feed(data[at : at + size])
        asked.next_answer()  # may raise early
    return asked.next_answer(), asked.trailing_data


def failure(data: bytes, limits: Limits | None = None) -> str:
    """Why an answer fails, which is the same however it is cut."""
    reasons = set()
    for size in (len(data), 7, 1):
        with pytest.raises(HandshakeFailed) as caught:
            ask(data, size, limits)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    return reasons.pop()


sizes = pytest.mark.parametrize("size", [1 << 20, 7, 1])


def test_the_request_is_a_get_with_the_fields_as_they_were_given() -> None:
    assert inquiry().request == (b"GET /x?y HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


@sizes
def test_a_101_is_an_answer_and_what_follows_it_is_kept(size: int) -> None:
    """TRAPS 15: the first frame in the same segment."""
    frame = b"\x81\x05Hello\r\n\r\n"
    answer, rest = ask(SWITCH + frame, size)
    assert answer is not None
    assert answer.status == 101
    assert dict(answer.headers) == {"upgrade": "websocket", "connection": "Upgrade"}
    assert rest == frame


@sizes
def test_interim_answers_are_passed_over(size: int) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    answer, rest = ask(b"HTTP/1.1 100 Continue\r\n\r\n" + early + SWITCH + b"x", size)
    assert answer is not None
    assert (answer.status, rest) == (101, b"x")


def test_interim_answers_without_end_fail() -> None:
    assert "without end" in failure(b"HTTP/1.1 100 Continue\r\n\r\n" * 9)


@sizes
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, b"no"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno more", 403, b"no"),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n2\r\npe\r\n0\r\n\r\n", 404, b"nope"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\nx\r\n", 404, b"no"),
    ],
)
def test_a_refusal_has_its_body(data: bytes, status: int, body: bytes, size: int) -> None:
    answer, _ = ask(data, size)
    assert answer is not None
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize("head", [b"HTTP/1.0 503 Oops\r\n\r\n", b"HTTP/1.1 503 Oops\r\nContent-Length: 99\r\n\r\n"])
def test_a_body_may_end_with_the_stream(head: bytes) -> None:
    asked = inquiry()
    asked.feed(head + b"bro")
    assert asked.next_answer() is None
    assert asked.has_head
    asked.feed(b"ken")
    assert asked.partial_answer().body == b"broken"
    asked.feed(b"")
    answer = asked.next_answer()
    assert answer is not None
    assert (answer.status, answer.body) == (503, b"broken")


def test_a_long_body_is_cut_and_not_waited_for() -> None:
    asked = inquiry()
    asked.feed(b"HTTP/1.1 500 Oops\r\n\r\n")
    for _ in range(MAX_BODY_SIZE // 1000):
        asked.feed(b"x" * 1000)
        assert asked.next_answer() is None
    asked.feed(b"x" * 1000)
    asked.feed(b"x" * 1000)
    answer = asked.next_answer()
    assert answer is not None
    assert answer.body == b"x" * MAX_BODY_SIZE


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert
        b"HTTP/2 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_what_is_no_http_1_1_fails(head: bytes) -> None:
    assert failure(head) == "the server does not speak HTTP/1.1"


@pytest.mark.parametrize(
    "line",
    [
        b"X: a\x00b",
        b"X: a\x1bb",
        b"X: a\x7fb",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: a\r\n folded",
    ],
)
def test_control_characters_bare_line_ends_and_folding_fail(line: bytes) -> None:
    """TRAPS 27, 29: h11 would take them."""
    assert "control character" in failure(b"HTTP/1.1 101 Switching Protocols\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 1O1 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nX : a\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_a_malformed_head_fails(head: bytes) -> None:
    assert failure(head) == "the head of the server's answer is malformed"


def test_a_long_head_fails_although_it_is_complete() -> None:
    """TRAPS 24: h11's own limit holds only while it needs more."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 2000 + b"\r\n\r\n"
    assert failure(head, Limits(max_head_size=1024)) == "the head of the server's answer is too long"
    assert ask(head, len(head), Limits(max_head_size=len(head)))[0] is not None


def test_many_fields_fail() -> None:
    def head(fields: int) -> bytes:
        return b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: x\r\n" * fields + b"\r\n"

    assert failure(head(4), Limits(max_header_count=3)) == "the head of the server's answer has too many fields"
    assert ask(head(3), 1, Limits(max_header_count=3))[0] is not None


class TestTunnels:
    """CONNECT, which asks a proxy (RFC 9110 §9.3.6)."""

    def tunnel(self) -> Inquiry:
        return Inquiry("a:443", [("Host", "a:443")], Limits(), "CONNECT")

    def test_the_request_names_a_host_and_a_port(self) -> None:
        assert self.tunnel().request == b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"

    @sizes
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\n",  # which means nothing here
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ],
    )
    def test_any_2xx_is_a_yes_and_what_follows_it_is_kept(self, head: bytes, size: int) -> None:
        asked = self.tunnel()
        data = head + b"\r\n\r\nrest"
        for at in range(0, len(data), size):
            asked.feed(data[at : at + size])
            asked.next_answer()
        assert asked.has_head
        assert asked.granted
        assert asked.trailing_data == b"\r\n\r\nrest"

    @pytest.mark.parametrize("head", [b"HTTP/1.1 302 Found\r\n\r\n", b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n"])
    def test_anything_else_is_a_no(self, head: bytes) -> None:
        asked = self.tunnel()
        asked.feed(head)
        assert asked.next_answer() is None
        assert asked.has_head
        assert not asked.granted

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"SOCKS", "the proxy does not speak HTTP/1.1"),
            (b"HTTP/1.1 200\r\nX : y\r\n\r\n", "the head of the proxy's answer is malformed"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "the head of the proxy's answer is malformed"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 14), "the head of the proxy's answer is too long"),
        ],
    )
    def test_what_breaks_the_rules_is_the_proxys(self, data: bytes, why: str) -> None:
        asked = self.tunnel()
        asked.feed(data)
        with pytest.raises(HandshakeFailed) as caught:
            asked.next_answer()
        assert str(caught.value) == why


@given(
    data=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda data: b"HTTP/1.1 101 \r\n" + data)),
    size=st.integers(1, 60),
)
def test_any_bytes_are_an_answer_or_none_yet_or_fail(data: bytes, size: int) -> None:
    outcomes: list[object] = []
    for step in (size, 1):
        try:
            answer, rest = ask(data, step)
        except HandshakeFailed:
            outcomes.append(None)
        else:
            outcomes.append((answer and (answer.status, answer.headers.raw), rest))
    assert outcomes[0] == outcomes[1]
