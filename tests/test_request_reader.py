"""Request heads and plain answers, as literal bytes; rows 16 and 24 to 32 of the traps in h11."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawws.errors import HandshakeError
from rawws.http import (
    Headers,
    Request,
    Response,
    reason_phrase,
)
from rawws.limits import Limits
from rawws.request_reader import MAX_QUERY_FIELDS, MAX_TARGET_SIZE, RequestReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMITS = Limits()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD_OF_1_KIB = Limits(max_head_size=1024)
CLIENT = ("192.0.2.7", 50_007)


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def in_sevens(data: bytes) -> Iterable[bytes]:
    return (data[index : index + 7] for index in range(0, len(data), 7))


cuts = pytest.mark.parametrize("cut", [whole, byte_by_byte, in_sevens])


def new_reader(limits: Limits = LIMITS) -> RequestReader:
    return RequestReader(limits, CLIENT, secure=False)


def read_all(chunks: Iterable[bytes], limits: Limits = LIMITS) -> tuple[list[Request], int | None]:
    """Feed chunks, answer each request at once; return the requests and the status of the error, if any."""
    reader = new_reader(limits)
    requests = []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (request := reader.next_request()) is not None:
                requests.append(request)
                reader.respond(Response(200))
        except HandshakeError as error:
            assert reader.buffered == 0
            return requests, error.status
        assert reader.buffered < limits.max_head_size
    return requests, None


def read_one(data: bytes, cut: Callable[[bytes], Iterable[bytes]] = whole, limits: Limits = LIMITS) -> Request:
    requests, status = read_all(cut(data), limits)
    assert status is None
    assert len(requests) == 1
    return requests[0]


def pending(data: bytes) -> RequestReader:
    """Return a reader whose request waits for its answer."""
    reader = new_reader()
    reader.feed(data)
    assert reader.next_request() is not None
    return reader


def failed(data: bytes) -> RequestReader:
    """Return a reader whose error waits for its answer."""
    reader = new_reader()
    reader.feed(data)
    with pytest.raises(HandshakeError):
        reader.next_request()
    return reader


def fields(count: int) -> bytes:
    return b"".join(b"X-%d: y\r\n" % index for index in range(count))


def sized(size: int) -> bytes:
    """Return a legal head of `size` bytes."""
    frame = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    return frame.replace(b"X: ", b"X: " + b"x" * (size - len(frame)))


def with_target(target: bytes, host: bytes = b"a") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


def with_field(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"


def with_host(host: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


REFUSED = [
    # Row 16: what h11 finds.
    pytest.param(b"GET /\r\n\r\n", 400, id="16-http-0.9"),
    pytest.param(b"GET / HTTP/2\r\n\r\n", 400, id="16-version-of-one-digit"),
    pytest.param(b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, id="16-version-in-lower-case"),
    pytest.param(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="16-two-spaces"),
    pytest.param(b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="16-method-is-no-token"),
    pytest.param(with_field(b"no colon"), 400, id="16-field-without-colon"),
    pytest.param(with_field(b"X : y"), 400, id="16-space-before-colon"),
    pytest.param(with_field(b": y"), 400, id="16-field-without-name"),
    pytest.param(with_field(b"X\xe9: y"), 400, id="16-name-beyond-ascii"),
    pytest.param(
        with_field(b"X:" + b" " * 16_000 + b"\x00"), 400, id="16-spaces-that-h11-would-take-squared-time-over"
    ),
    # Row 24: size and number, whatever the size of the read.
    pytest.param(with_field(fields(5000)[:-2]), 431, id="24-five-thousand-fields"),
    pytest.param(with_field(fields(100)[:-2]), 431, id="24-a-hundred-and-one-fields"),
    pytest.param(sized(16 * 1024 + 1), 431, id="24-one-byte-over-16-kib"),
    pytest.param(sized(16 * 1024 + 2)[:-2], 431, id="24-full-and-still-incomplete"),
    pytest.param(b"G" * 20_000, 431, id="24-method-without-end"),
    pytest.param(with_target(b"/" * (MAX_TARGET_SIZE + 1)), 414, id="24-target-one-byte-over-8-kib"),
    pytest.param(b"GET /" + b"x" * MAX_TARGET_SIZE, 414, id="24-target-over-8-kib-without-end"),
    pytest.param(b"GET /" + b"x" * 20_000, 414, id="24-target-over-the-head-limit"),
    pytest.param(b"GET /" + b"x" * 9000 + b"\x00", 414, id="24-long-target-before-a-control-character"),
    pytest.param(b"GET /" + b"x" * (MAX_TARGET_SIZE - 1) + b"\x00", 400, id="24-control-character-just-in-time"),
    pytest.param(b"GET /\x00" + b"x" * 9000, 400, id="24-control-character-before-a-long-target"),
    pytest.param(with_target(b"/?" + b"&" * MAX_QUERY_FIELDS), 400, id="24-query-of-1001-fields"),
    # Row 26: no request has a body.
    pytest.param(with_field(b"Content-Length: 1"), 413, id="26-content-length"),
    pytest.param(with_field(b"Transfer-Encoding: chunked"), 413, id="26-chunked"),
    pytest.param(with_field(b"Content-Length: 0\r\nTransfer-Encoding: chunked"), 400, id="26-both"),
    pytest.param(with_field(b"Content-Length: 0, 0"), 400, id="26-list-of-lengths"),
    pytest.param(with_field(b"content-length: 0\r\nContent-Length: 0"), 400, id="26-length-twice"),
    pytest.param(with_field(b"content-length: 5\r\nTransfer-Encoding: gzip"), 400, id="26-both-and-unknown-coding"),
    pytest.param(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="26-chunked-in-http-1.0"),
    pytest.param(with_field(b"Transfer-Encoding: gzip, chunked"), 501, id="26-unknown-coding"),
    pytest.param(with_field(b"Content-Length: 1\r\nContent-Length: 2"), 400, id="26-two-lengths"),
    pytest.param(with_field(b"Content-Length: 1, 2"), 400, id="26-two-lengths-in-a-list"),
    pytest.param(with_field(b"Content-Length: +1"), 400, id="26-length-with-sign"),
    pytest.param(with_field(b"Content-Length: 1_0"), 400, id="26-length-with-underscore"),
    pytest.param(with_field(b"Content-Length:"), 400, id="26-empty-length"),
    pytest.param(with_field(b"Content-Length: " + b"9" * 21), 400, id="26-length-of-21-digits"),
    pytest.param(with_field(b"Expect: 100-continue\r\nContent-Length: 5"), 413, id="26-expectation-and-body"),
    pytest.param(with_field(b"Expect: 200-ok"), 417, id="26-unknown-expectation"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 413, id="26-post"),
    # Row 27: line ends and folding, found before the head is complete.
    pytest.param(b"GET / HTTP/1.1\n", 400, id="27-bare-lf"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\n", 400, id="27-bare-lf-in-a-field"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, id="27-bare-lf-as-empty-line"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\rX", 400, id="27-bare-cr"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\r\n", 400, id="27-two-crs"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\rX", 400, id="27-bare-cr-after-a-line-end"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n ", 400, id="27-folded-by-a-space"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\t", 400, id="27-folded-by-a-tab"),
    pytest.param(b"GET / HTTP/1.1\r\n ", 400, id="27-folded-request-line"),
    # Row 28.
    pytest.param(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505, id="28-http-9.9"),
    pytest.param(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, id="28-http-1.2"),
    pytest.param(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, id="28-http-3.0"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="28-http-2-preface"),
    # Row 29: control characters, found before the head is complete, also in the escapes of a path.
    *(
        pytest.param(b"GET / HTTP/1.1\r\nX: a" + bytes([code]), 400, id=f"29-{code:#04x}-in-a-value")
        for code in (0x00, 0x01, 0x07, 0x08, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)
    ),
    pytest.param(b"GET /\x1b[2J", 400, id="29-esc-in-a-target"),
    pytest.param(with_target(b"/\t"), 400, id="29-tab-in-a-target"),
    pytest.param(with_target(b"/\xe9"), 400, id="29-target-beyond-ascii"),
    pytest.param(with_target(b"/%00"), 400, id="29-escaped-nul"),
    pytest.param(with_target(b"/%1B[2J"), 400, id="29-escaped-esc"),
    pytest.param(with_target(b"/%C2%9B2J"), 400, id="29-escaped-c1-control"),
    pytest.param(with_target(b"/%E9"), 400, id="29-escaped-latin-1"),
    pytest.param(with_target(b"/%ED%A0%80"), 400, id="29-escaped-surrogate"),
    pytest.param(with_target(b"/%zz"), 400, id="29-broken-escape"),
    pytest.param(with_target(b"/%4"), 400, id="29-half-an-escape"),
    # Row 32: targets and preambles.
    pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="32-asterisk"),
    pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="32-authority-form"),
    pytest.param(b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="32-connect-with-a-path"),
    pytest.param(with_target(b"index.html"), 400, id="32-relative-path"),
    pytest.param(with_target(b"ftp://a/"), 400, id="32-another-scheme"),
    pytest.param(with_target(b"http:///x"), 400, id="32-absolute-without-host"),
    pytest.param(with_target(b"http://u@a/"), 400, id="32-absolute-with-user"),
    pytest.param(with_target(b"/#top"), 400, id="32-fragment"),
    pytest.param(with_target(b"http://a#top"), 400, id="32-fragment-after-a-host"),
    pytest.param(b"\r\n\r\n", 400, id="32-two-empty-lines"),
    pytest.param(b"\rG", 400, id="32-half-an-empty-line"),
    pytest.param(b"\n", 400, id="32-bare-lf-first"),
    pytest.param(b" GET", 400, id="32-space-first"),
    pytest.param(b"\r\n GET", 400, id="32-space-after-an-empty-line"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="32-tls-client-hello"),
    pytest.param(b"\x80\x2e\x01\x00\x02", 400, id="32-sslv2-client-hello"),
    pytest.param(b"(", 400, id="32-no-first-byte-of-a-method"),
    # Methods and hosts.
    pytest.param(b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="unknown-method"),
    pytest.param(b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="method-in-lower-case"),
    pytest.param(b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="method-of-another-rfc"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, id="two-hosts"),
    pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two-hosts-in-http-1.0"),
    pytest.param(b"GET http://a/ HTTP/1.1\r\nHost: b/\r\n\r\n", 400, id="bad-host-beside-absolute-target"),
    pytest.param(with_target(b"http://b/"), 400, id="32-other-host-in-absolute-target"),
    pytest.param(with_target(b"http://a:443/"), 400, id="32-the-other-schemes-port-in-absolute-target"),
    pytest.param(with_target(b"http://a:81/"), 400, id="32-other-port-in-absolute-target"),
    *(
        pytest.param(with_host(host), 400, id=f"host-{name}")
        for name, host in {
            "empty": b"",
            "with-space": b"a b",
            "with-slash": b"a/b",
            "with-user": b"u@a",
            "with-comma": b"a, b",
            "beyond-ascii": b"\xe9",
            "escaped": b"%41",
            "port-of-letters": b"a:b",
            "port-alone": b":80",
            "port-65536": b"a:65536",
            "two-ports": b"a:1:2",
            "ipv6-without-brackets": b"::1",
            "ipv6-illegal": b"[:::]",
            "ipv6-open": b"[::1",
        }.items()
    ),
]


@cuts
@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_a_bad_head_is_refused_for_every_cutting_of_the_stream(
    data: bytes, status: int, cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    assert read_all(cut(data)) == ([], status)


@cuts
@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_a_good_request_before_a_bad_one_is_served(
    data: bytes, status: int, cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    requests, found = read_all(cut(GET + data))
    assert [request.method for request in requests] == ["GET"]
    assert found == status


@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_the_answer_to_a_bad_head_has_a_reason_closes_and_quotes_nothing(data: bytes, status: int) -> None:
    # Row 16; the markers would show in an answer that quotes the request.
    reader = new_reader()
    reader.feed(data)
    with pytest.raises(HandshakeError) as caught:
        reader.next_request()
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    answer = reader.respond(Response.text(error.status, error.message, error.headers))
    assert answer.startswith(b"HTTP/1.1 %d %s\r\n" % (status, reason_phrase(status)))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + error.message.encode() + b"\n")
    assert not reader.keep_alive
    reader.feed(GET)
    assert reader.next_request() is None
    assert reader.buffered == 0
    with pytest.raises(RuntimeError, match="last answer"):
        reader.respond(Response(200))


@pytest.mark.parametrize(
    ("data", "path", "query", "host"),
    [
        pytest.param(GET, "/", "", "a", id="origin-form"),
        pytest.param(with_target(b"/a/b?c=d&e"), "/a/b", "c=d&e", "a", id="query"),
        pytest.param(with_target(b"/?a?b"), "/", "a?b", "a", id="question-mark-in-query"),
        pytest.param(with_target(b"/%C3%A9%2Fx%20?%C3%A9"), "/é/x ", "%C3%A9", "a", id="escapes"),
        pytest.param(with_target(b"//evil/x"), "//evil/x", "", "a", id="two-slashes-are-a-path"),
        pytest.param(with_target(b"http://b:81/x?y", b"b:81"), "/x", "y", "b:81", id="32-absolute-form"),
        pytest.param(
            with_target(b"http://b:80/x", b"b"), "/x", "", "b:80", id="32-absolute-form-with-the-default-port"
        ),
        pytest.param(with_target(b"HTTPS://b/x", b"b:443"), "/x", "", "b", id="32-absolute-form-without-it"),
        pytest.param(with_target(b"WSS://B/x", b"b"), "/x", "", "B", id="32-absolute-form-in-upper-case"),
        pytest.param(with_target(b"ws://b?y", b"b"), "/", "y", "b", id="32-absolute-form-without-path"),
        pytest.param(with_target(b"https://[::1]:80", b"[::1]:80"), "/", "", "[::1]:80", id="32-absolute-host-alone"),
        pytest.param(b"\r\n" + GET, "/", "", "a", id="32-one-empty-line-first"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", "/", "", "", id="http-1.0-without-host"),
        pytest.param(with_field(b"Content-Length: 0"), "/", "", "a", id="26-content-length-0"),
        pytest.param(with_field(b"Expect: 100-Continue"), "/", "", "a", id="26-expectation-without-body"),
        pytest.param(with_field(fields(99)[:-2]), "/", "", "a", id="24-a-hundred-fields"),
        pytest.param(sized(16 * 1024), "/", "", "a", id="24-16-kib"),
        pytest.param(
            with_target(b"/" + b"x" * (MAX_TARGET_SIZE - 1)),
            "/" + "x" * (MAX_TARGET_SIZE - 1),
            "",
            "a",
            id="24-target-of-8-kib",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\nHost: a\r\n\r\n",
            "/",
            "",
            "a",
            id="24-value-over-8-kib",
        ),
        pytest.param(with_host(b"[::1]:8000"), "/", "", "[::1]:8000", id="host-ipv6"),
        pytest.param(with_host(b"A_b.example:"), "/", "", "A_b.example:", id="host-with-empty-port"),
        pytest.param(with_host(b"127.0.0.1:65535"), "/", "", "127.0.0.1:65535", id="host-ipv4"),
    ],
)
@cuts
def test_a_good_head_is_read_for_every_cutting_of_the_stream(
    data: bytes, path: str, query: str, host: str, cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    request = read_one(data, cut)
    assert (request.path, request.query, request.host) == (path, query, host)
    assert request.method == "GET"
    assert request.client == CLIENT
    assert not request.secure
    assert request.http_version == ("1.0" if b"HTTP/1.0" in data else "1.1")
    assert data.split(b" ")[1] == request.target.encode()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (b"/%1b", "The path of the request has a control character."),
        (b"/%00", "The path of the request has a control character."),
        (b"/%C2%9B", "The path of the request has a control character."),
        (b"/%E9", "The path of the request is not percent-encoded UTF-8."),
        (b"/%zz", "The path of the request is not percent-encoded UTF-8."),
    ],
)
def test_29_what_is_wrong_with_an_escape_is_said(path: bytes, says: str) -> None:
    reader = new_reader()
    reader.feed(with_target(path))
    with pytest.raises(HandshakeError, match=says):
        reader.next_request()


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"])
def test_methods_of_rfc_9110_and_patch_are_left_to_the_router(method: bytes) -> None:
    assert read_one(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n").method == method.decode()


def test_a_head_limit_below_the_target_limit_holds() -> None:
    assert read_all([sized(1024)], HEAD_OF_1_KIB)[1] is None
    assert read_all([sized(1025)], HEAD_OF_1_KIB) == ([], 431)
    assert read_all(byte_by_byte(sized(1025)), HEAD_OF_1_KIB) == ([], 431)


@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_14_an_upgrade_with_a_body_is_refused_with_400(length: bytes) -> None:
    assert read_all([with_field(b"Upgrade: websocket\r\nConnection: upgrade\r\n" + length)]) == ([], 400)


def test_25_pipelined_bytes_wait_uncounted_by_h11_and_are_visible_to_the_driver() -> None:
    reader = pending(GET + GET + b"GET")
    assert reader.buffered == len(GET) + 3
    assert reader.trailing_data == GET + b"GET"
    assert reader.next_request() is None  # one at a time
    reader.respond(Response(200))
    assert reader.next_request() is not None
    assert reader.trailing_data == b"GET"
    reader.respond(Response(200))
    assert reader.next_request() is None
    assert not reader.idle


def test_31_feeding_nothing_is_not_the_end_of_the_stream() -> None:
    reader = new_reader()
    for chunk in (b"", GET[:5], b"", GET[5:], b""):
        reader.feed(chunk)
    assert reader.next_request() is not None
    reader.feed(b"")
    reader.respond(Response(200))
    reader.feed(GET)
    assert reader.next_request() is not None


def test_a_reader_is_idle_until_a_byte_of_a_head_comes_and_after_each_answer() -> None:
    reader = new_reader()
    assert reader.idle
    reader.feed(GET[:1])
    assert reader.next_request() is None
    assert not reader.idle
    reader.feed(GET[1:])
    assert reader.next_request() is not None
    assert not reader.idle
    reader.respond(Response(200))
    assert reader.idle
    reader.feed(b"\r\n")  # the empty line that some clients send after a body
    assert reader.next_request() is None
    assert reader.idle


# Answers


def test_an_answer_to_get_keeps_the_connection() -> None:
    reader = pending(GET)
    assert reader.keep_alive
    assert reader.respond(Response(200, (("ETag", '"x"'),), b"body"), date="Mon, 23 Nov 2026 08:00:00 GMT") == (
        b'HTTP/1.1 200 OK\r\nETag: "x"\r\nDate: Mon, 23 Nov 2026 08:00:00 GMT\r\nContent-Length: 4\r\n\r\nbody'
    )
    assert reader.keep_alive


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    reader = pending(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reader.respond(Response(200, (), b"body")) == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    reader.feed(GET)
    assert reader.next_request() is not None
    assert reader.respond(Response(200, (), b"body")).endswith(b"\r\n\r\nbody")


def test_the_body_beside_its_head_is_the_responses_own_object() -> None:
    response = Response(200, (), bytes(100))
    head, body = pending(GET).respond_in_parts(response)
    assert head == b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    assert body is response.body


@pytest.mark.parametrize(
    ("method", "status"),
    [(b"HEAD", 200), (b"HEAD", 304), (b"GET", 304), (b"GET", 204)],
)
def test_where_http_has_no_body_there_is_none_beside_the_head(method: bytes, status: int) -> None:
    head, body = pending(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n").respond_in_parts(Response(status, (), b"body"))
    assert head.endswith(b"\r\n\r\n")
    assert body == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HEAD / HTTP/1.1\r\n\r\n", id="found-by-h11"),
        pytest.param(b"HEAD / HTTP/9.9\r\nHost: a\r\n\r\n", id="found-after-h11"),
        pytest.param(b"HEAD / HTTP/1.1\r\nHost: a\n", id="found-before-h11"),
    ],
)
def test_an_error_of_head_has_no_body(data: bytes) -> None:
    answer = failed(data).respond(Response.text(400, "No."))
    assert answer.endswith(b"Content-Length: 4\r\nConnection: close\r\n\r\n")


def test_an_answer_without_a_body_has_no_length() -> None:
    answer = pending(GET).respond(Response(304, (("ETag", '"x"'),), b"body"))
    assert answer == b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", id="http-1.0"),
        pytest.param(with_field(b"Connection: Close"), id="close"),
        pytest.param(with_field(b"Connection: x\r\nConnection: y,\tclose"), id="close-in-a-list"),
    ],
)
def test_the_connection_ends_where_the_client_wants_it(data: bytes) -> None:
    reader = pending(data + GET)
    assert not reader.keep_alive
    assert reader.respond(Response(200)) == (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert reader.next_request() is None
    assert reader.buffered == 0


def test_the_connection_ends_where_the_server_wants_it() -> None:
    reader = pending(GET)
    assert b"\r\nConnection: close\r\n" in reader.respond(Response(200), close=True)
    assert not reader.keep_alive
    assert not reader.idle


def test_an_unasked_answer_ends_the_connection() -> None:
    reader = new_reader()
    reader.feed(b"GET / HT")
    assert reader.next_request() is None
    assert reader.respond(Response.text(408, "Too slow.")) == (
        b"HTTP/1.1 408 Request Timeout\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"Content-Length: 10\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"Too slow.\n"
    )


def test_an_answer_with_an_upgrade_field_names_it_in_connection() -> None:
    # RFC 9110 §7.8
    answer = pending(GET).respond(Response(426, (("Upgrade", "websocket"),)))
    assert answer == (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\nConnection: upgrade\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("data", "connection"),
    [
        pytest.param(GET, b"upgrade", id="kept"),
        pytest.param(with_field(b"Connection: close"), b"upgrade, close", id="the-client-ends-it"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", b"upgrade, close", id="http-1.0"),
    ],
)
def test_what_an_answer_says_of_its_connection_stands_in_one_line(data: bytes, connection: bytes) -> None:
    # RFC 9110 §7.6.1: a list.
    answer = pending(data).respond(Response(426, (("Upgrade", "websocket"),)))
    assert answer.endswith(b"Content-Length: 0\r\nConnection: " + connection + b"\r\n\r\n")
    assert answer.count(b"onnection: ") == 1


UPGRADE = with_field(b"Upgrade: x\r\nConnection: upgrade")


def test_15_a_switch_leaves_the_first_bytes_of_the_new_protocol() -> None:
    reader = pending(UPGRADE + b"\x81\x80abcd")
    answer = reader.switch_protocols([("Upgrade", "x"), ("Connection", "Upgrade")])
    assert answer == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    assert reader.trailing_data == b"\x81\x80abcd"
    assert not reader.keep_alive
    assert not reader.idle
    assert reader.next_request() is None


@pytest.mark.parametrize(
    ("data", "field"),
    [
        pytest.param(GET, ("X", "y"), id="not-asked-for"),
        pytest.param(UPGRADE, ("X", "y\r\nZ: z"), id="30-crlf-in-a-value"),
    ],
)
def test_a_switch_that_is_not_legal_leaves_the_request_to_be_answered(data: bytes, field: tuple[str, str]) -> None:
    reader = pending(data)
    with pytest.raises(ValueError, match=r"\w"):
        reader.switch_protocols([field])
    assert reader.respond(Response(500)).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


def test_a_switch_needs_a_request() -> None:
    with pytest.raises(RuntimeError, match="no request"):
        new_reader().switch_protocols([])
    with pytest.raises(RuntimeError, match="no request"):
        failed(b"GET / HTTP/9.9\r\nHost: a\r\nUpgrade: x\r\n\r\n").switch_protocols([])


# Values


def test_header_bytes_survive_as_latin_1() -> None:
    request = read_one(with_field(b"X: \xe9\xff \t"))
    assert request.headers["x"] == "\xe9\xff"
    assert request.headers.raw == (("Host", "a"), ("X", "\xe9\xff"))


def test_a_request_reads_its_query_origin_and_subprotocols() -> None:
    request = read_one(
        b"GET /?a=1&b=&a=%C3%A9+x&c HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n"
        b"Sec-WebSocket-Protocol: chat.v2,, chat\r\nSec-WebSocket-Protocol: x\r\n\r\n"
    )
    assert request.query_params == {"a": ["1", "é x"], "b": [""], "c": [""]}
    assert request.origin == "http://b"
    assert request.subprotocols == ("chat.v2", "chat", "x")
    plain = read_one(GET)
    assert plain.query_params == {}
    assert plain.origin is None
    assert plain.subprotocols == ()


def test_the_largest_query_can_be_read() -> None:
    request = read_one(with_target(b"/?" + b"&".join([b"a=1"] * MAX_QUERY_FIELDS)))
    assert request.query_params == {"a": ["1"] * MAX_QUERY_FIELDS}


@pytest.mark.parametrize("offer", [b"a b", b"\xe9", b'"a"', b"a, a"])
def test_subprotocols_that_are_not_tokens_or_are_repeated_are_refused(offer: bytes) -> None:
    request = read_one(with_field(b"Sec-WebSocket-Protocol: " + offer))
    with pytest.raises(HandshakeError) as caught:
        _ = request.subprotocols
    assert caught.value.status == 400


# Properties

VALID = (
    b"GET /chat?a=b HTTP/1.1\r\nHost: example.com:8000\r\n"
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nOrigin: http://example.com:8000\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"\x00",
        b"\xff",
        b"%",
        b"\r\n\r\n",
        b"Host: b\r\n",
        b"HTTP/1.1",
        b"x" * 300,
    ]
)


@st.composite
def mutated_heads(draw: st.DrawFn) -> bytes:
    """A few heads in a row, in some of which a slice was replaced."""
    stream = bytearray()
    for head in draw(st.lists(st.sampled_from([GET, VALID, b"\r\n" + GET, b"HEAD" + GET[3:]]), max_size=3)):
        changed = bytearray(head)
        if draw(st.booleans()):
            start = draw(st.integers(0, len(head)))
            changed[start : start + draw(st.integers(0, 3))] = draw(PIECES | st.binary(max_size=3))
        stream += changed
    return bytes(stream)


def cut_at(data: bytes, places: list[int]) -> Iterable[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return (data[start:stop] for start, stop in pairwise(edges))


@settings(deadline=None)
@example(data=GET + b"\r\n\r\n", places=[], size=64)
@given(
    data=mutated_heads() | st.binary(max_size=200),
    places=st.lists(st.integers(0, 2000), max_size=20),
    size=st.sampled_from([64, 256, 16 * 1024]),
)
def test_the_requests_and_the_error_do_not_depend_on_the_cutting(data: bytes, places: list[int], size: int) -> None:
    # `read_all` lets nothing but HandshakeError pass and holds the buffer to its bound.
    limits = Limits(max_head_size=size)
    expected = read_all([data], limits)
    assert read_all(cut_at(data, places), limits) == expected
    assert read_all(byte_by_byte(data), limits) == expected


@settings(deadline=None)
@given(
    st.integers(8170, 8200),
    st.sampled_from([b" HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00", b"\r\n", b"\rx", b"\n", b""]),
)
def test_the_edge_of_the_target_limit_does_not_depend_on_the_cutting(size: int, rest: bytes) -> None:
    data = b"GET /" + b"x" * size + rest
    assert read_all(cut_at(data, [*range(8170, 8240)])) == read_all([data])


def test_a_driver_that_pauses_buffers_no_more_than_a_head_and_one_read() -> None:
    reader = new_reader()
    most = 0
    for _ in range(10):
        reader.feed(b"GET / HTTP/1.1\r\nX: " + b"x" * 65_517)
        most = max(most, reader.buffered)
        try:
            reader.next_request()
        except HandshakeError:
            assert reader.buffered == 0
    assert most <= LIMITS.max_head_size + 65_536


class TestCompactHeaders:
    HEAD = (
        b"GET / HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"Accept: a\r\n"
        b"X-Padded: \t two  words \t \r\n"
        b"ACCEPT: b\r\n"
        b"X-Empty:\r\n"
        b"X-Latin: \xe9:\xff\r\n"
        b"\r\n"
    )

    def test_compact_headers_tell_the_same_as_before(self) -> None:
        reader = RequestReader(Limits())
        reader.feed(self.HEAD)
        request = reader.next_request()
        assert request is not None
        raw, items, shown = request.headers.raw, dict(request.headers), repr(request.headers)
        request.headers.compact()
        assert request.headers.raw == raw
        assert dict(request.headers) == items
        assert repr(request.headers) == shown
        assert request.headers.get_all("accept") == ("a", "b")
        assert request.headers["x-latin"] == "\xe9:\xff"
        assert request.headers["x-padded"] == "two  words"

    def test_headers_that_were_not_read_from_a_head_stay_as_they_are(self) -> None:
        headers = Headers([("A", "1")])
        headers.compact()
        assert headers.raw == (("A", "1"),)
