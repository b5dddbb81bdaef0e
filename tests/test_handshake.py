"""The opening handshake, as literal bytes; rows 10 to 16 of the traps in wsproto and h11."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawws.errors import HandshakeError
from rawws.handshake import (
    accept_headers,
    accept_value,
    canonical_host,
    canonical_origin,
    check_host,
    check_origin,
    check_upgrade,
    is_websocket_request,
)
from rawws.http import Headers, Request, Response
from rawws.limits import Limits
from rawws.request_reader import RequestReader

if TYPE_CHECKING:
    from collections.abc import Collection

LIMITS = Limits()
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
CHROME = (
    b"GET /echo HTTP/1.1\r\n"
    b"Host: 127.0.0.1:8000\r\n"
    b"Connection: Upgrade\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0\r\n"
    b"Upgrade: websocket\r\n"
    b"Origin: http://127.0.0.1:8000\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"\r\n"
)
HOST = b"Host: a\r\n"
UPGRADE = b"Upgrade: websocket\r\n"
CONNECTION = b"Connection: Upgrade\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
LINES = (b"GET / HTTP/1.1\r\n", HOST, UPGRADE, CONNECTION, VERSION, KEY)


def opening(old: bytes = b"", new: bytes = b"") -> bytes:
    """Return a minimal handshake, in which the line `old` is replaced by `new`."""
    assert not old or old in LINES
    return b"".join(new if line == old else line for line in LINES) + b"\r\n"


def with_lines(lines: bytes) -> bytes:
    return opening(KEY, KEY + lines)


def read(data: bytes, step: int = 0) -> Request:
    """Feed a head, `step` bytes at a time, and return its request."""
    reader = RequestReader(LIMITS, None, secure=False)
    for start in range(0, len(data), step or len(data)):
        reader.feed(data[start : start + (step or len(data))])
        request = reader.next_request()
        if request is not None:
            return request
    raise AssertionError("the head is incomplete")


def request_from(origin: str | None, host: str = "example.com", *, secure: bool = False) -> Request:
    fields = [("Host", host)] + ([] if origin is None else [("Origin", origin)])
    return Request("GET", "/", "/", "", Headers(fields), secure=secure)


steps = pytest.mark.parametrize("step", [pytest.param(0, id="whole"), pytest.param(1, id="byte_by_byte")])


@steps
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(opening(), id="minimal"),
        pytest.param(CHROME, id="chrome"),
        pytest.param(opening(CONNECTION, b"Connection: keep-alive, Upgrade\r\n"), id="12-firefox"),
        pytest.param(
            opening(CONNECTION, b"Connection: keep-alive\r\nConnection: upgrade\r\n"),
            id="12-two-connection-lines",
        ),
        pytest.param(opening(UPGRADE, b"Upgrade: websocket, h2c\r\n"), id="12-two-upgrades"),
        pytest.param(opening(UPGRADE, b"Upgrade: h2c\r\nUpgrade: WebSocket\r\n"), id="12-two-upgrade-lines"),
        pytest.param(opening(KEY, b"sec-websocket-KEY:\tdGhlIHNhbXBsZSBub25jZQ==  \r\n"), id="spaces-and-case"),
        pytest.param(with_lines(b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,c\r\n"), id="subprotocols"),
        pytest.param(with_lines(b"Content-Length: 0\r\n"), id="14-content-length-0"),
        pytest.param(with_lines(b"X: \xff\r\n"), id="10-a-byte-beyond-ascii-elsewhere"),
        pytest.param(opening(LINES[0], b"GET http://a/ HTTP/1.1\r\n"), id="32-absolute-form"),
    ],
)
def test_a_legal_handshake_gets_the_accept_value_of_the_rfc(data: bytes, step: int) -> None:
    request = read(data, step)
    assert is_websocket_request(request)
    assert check_upgrade(request) == ACCEPT


@steps
@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(opening(HOST, b"Host: \x80\r\n"), 400, id="10-host"),
        pytest.param(opening(CONNECTION, b"Connection: Upgrade, \x80\r\n"), 400, id="10-connection"),
        pytest.param(with_lines(b"Sec-WebSocket-Protocol: \x80\r\n"), 400, id="10-subprotocol"),
        pytest.param(with_lines(b"Sec-WebSocket-Extensions: \x80\r\n"), 400, id="10-extensions"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: \x80GhlIHNhbXBsZSBub25jZQ==\r\n"), 400, id="10-key"),
        pytest.param(opening(VERSION, b"Sec-WebSocket-Version: \xb9\r\n"), 426, id="10-version"),
        pytest.param(opening(UPGRADE, b"Upgrade: websocket\x80\r\n"), 426, id="10-upgrade"),
        pytest.param(opening(KEY), 400, id="11-no-key"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key:\r\n"), 400, id="11-empty-key"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: x\r\n"), 400, id="11-key-of-one-letter"),
        pytest.param(opening(KEY, KEY + KEY), 400, id="11-two-keys"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n"), 400, id="11-key-of-15-bytes"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n"), 400, id="11-key-of-17-bytes"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j_Q==\r\n"), 400, id="11-url-safe-key"),
        pytest.param(opening(KEY, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n"), 400, id="11-key-without-padding"),
        pytest.param(opening(CONNECTION), 400, id="12-no-connection"),
        pytest.param(opening(CONNECTION, b"Connection: keep-alive\r\n"), 400, id="12-connection-without-upgrade"),
        pytest.param(opening(CONNECTION, b"Connection: upgraded\r\n"), 400, id="12-connection-with-longer-token"),
        pytest.param(opening(UPGRADE), 426, id="12-no-upgrade"),
        pytest.param(opening(UPGRADE, b"Upgrade: h2c\r\n"), 426, id="12-another-upgrade"),
        pytest.param(opening(UPGRADE, b"Upgrade: websocket2\r\n"), 426, id="12-longer-upgrade"),
        pytest.param(opening(LINES[0], b"GET / HTTP/1.0\r\n"), 426, id="13-http-1.0"),
        pytest.param(opening(LINES[0], b"GET / HTTP/3.0\r\n"), 505, id="13-http-3.0"),
        pytest.param(with_lines(b"Content-Length: 5\r\n"), 400, id="14-content-length"),
        pytest.param(with_lines(b"Transfer-Encoding: chunked\r\n"), 400, id="14-chunked"),
        pytest.param(with_lines(b"no colon\r\n"), 400, id="16-malformed"),
        pytest.param(opening(LINES[0], b"POST / HTTP/1.1\r\n"), 405, id="post"),
        pytest.param(opening(LINES[0], b"HEAD / HTTP/1.1\r\n"), 405, id="head"),
        pytest.param(opening(VERSION), 426, id="no-version"),
        pytest.param(opening(VERSION, b"Sec-WebSocket-Version: 8\r\n"), 426, id="version-8"),
        pytest.param(opening(VERSION, b"Sec-WebSocket-Version: 013\r\n"), 426, id="version-013"),
        pytest.param(opening(VERSION, VERSION + VERSION), 400, id="two-versions"),
        pytest.param(with_lines(b"Sec-WebSocket-Protocol: a b\r\n"), 400, id="subprotocol-with-space"),
        pytest.param(with_lines(b"Sec-WebSocket-Protocol: a, a\r\n"), 400, id="subprotocol-twice"),
    ],
)
def test_an_illegal_handshake_gets_its_status(data: bytes, status: int, step: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(read(data, step))
    assert caught.value.status == status


def test_refusals_say_what_would_be_accepted() -> None:
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(read(opening(LINES[0], b"POST / HTTP/1.1\r\n")))
    assert caught.value.headers == (("Allow", "GET"),)
    for data in (
        opening(UPGRADE),
        opening(VERSION, b"Sec-WebSocket-Version: 8\r\n"),
        opening(LINES[0], b"GET / HTTP/1.0\r\n"),
    ):
        with pytest.raises(HandshakeError) as caught:
            check_upgrade(read(data))
        assert caught.value.headers == (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


def test_16_a_refusal_on_the_wire() -> None:
    reader = RequestReader(LIMITS, None, secure=False)
    reader.feed(opening(VERSION, b"Sec-WebSocket-Version: 8\r\n"))
    request = reader.next_request()
    assert request is not None
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(request)
    error = caught.value
    assert reader.respond(Response.text(error.status, error.message, error.headers), close=True) == (
        b"HTTP/1.1 426 Upgrade Required\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"Upgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Content-Length: 34\r\n"
        b"Connection: upgrade, close\r\n"
        b"\r\n"
        b"The WebSocket version must be 13.\n"
    )


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: h2c\r\n", b"Upgrade: \xffwebsocket\r\n", b"Upgrade:\r\n"])
def test_a_request_without_the_token_is_no_websocket_request(upgrade: bytes) -> None:
    assert not is_websocket_request(read(opening(UPGRADE, upgrade)))


@steps
def test_15_a_whole_handshake_leaves_the_first_frame(step: int) -> None:
    frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"  # RFC 6455 §5.7: masked "Hello"
    stream = CHROME.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat, x\r\n\r\n") + frame
    reader = RequestReader(LIMITS, ("127.0.0.1", 50_007), secure=False)
    request = None
    for start in range(0, len(stream), step or len(stream)):
        reader.feed(stream[start : start + (step or len(stream))])
        request = request or reader.next_request()
    assert request is not None
    check_origin(request, None)
    fields = accept_headers(
        check_upgrade(request),
        offered=request.subprotocols,
        subprotocol="x",
        extensions="permessage-deflate; server_max_window_bits=12",
        headers=[("Set-Cookie", "a=b; HttpOnly")],
    )
    assert reader.switch_protocols(fields) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: x\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n"
        b"Set-Cookie: a=b; HttpOnly\r\n"
        b"\r\n"
    )
    assert reader.trailing_data == frame


def test_the_shortest_answer_has_three_fields() -> None:
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == ACCEPT
    assert accept_headers(ACCEPT) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", ACCEPT),
    ]


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(("X", "a\r\nb: c"), id="30-crlf"),
        pytest.param(("X", "a\x1b"), id="30-esc"),
        pytest.param(("X", "é"), id="30-beyond-ascii"),
        pytest.param(("X:", "a"), id="30-name"),
        *(
            (name, "x")
            for name in (
                "Connection",
                "UPGRADE",
                "Content-Length",
                "Transfer-Encoding",
                "Sec-WebSocket-Accept",
                "sec-websocket-extensions",
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Protocol",
                "Sec-WebSocket-Version",
            )
        ),
    ],
)
def test_an_illegal_or_owned_field_of_the_application_is_a_value_error(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="header field"):
        accept_headers(ACCEPT, headers=[field])


def test_a_subprotocol_that_was_not_offered_is_a_value_error() -> None:
    for chosen in ("b", "A", "", "a\r\n"):
        with pytest.raises(ValueError, match="offer"):
            accept_headers(ACCEPT, offered=("a",), subprotocol=chosen)
    with pytest.raises(ValueError, match="offer"):
        accept_headers(ACCEPT, subprotocol="a")


def test_an_illegal_extensions_value_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="header field"):
        accept_headers(ACCEPT, extensions="x\r\ny: z")


# Origin


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        pytest.param(None, "example.com", id="no-browser"),
        pytest.param("http://example.com", "example.com", id="same"),
        pytest.param("https://example.com", "example.com", id="proxy-ended-tls"),
        pytest.param("http://example.com", "example.com:80", id="http-default-port"),
        pytest.param("https://example.com", "example.com:443", id="https-default-port"),
        pytest.param("https://example.com:443", "example.com", id="https-default-port-in-origin"),
        pytest.param("http://localhost:9000", "localhost:9000", id="port"),
        pytest.param("HTTP://Example.COM", "eXample.com", id="case"),
        pytest.param("http://[::1]:8000", "[::1]:8000", id="ipv6"),
        pytest.param("http://[fe80::A]", "[FE80::a]:80", id="ipv6-case"),
        pytest.param("http://example.com", "example.com:", id="empty-port"),
    ],
)
def test_the_servers_own_origin_passes(origin: str | None, host: str) -> None:
    check_origin(request_from(origin, host), None)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        pytest.param("http://localhost:90000", "localhost:9000", id="longer-port"),
        pytest.param("http://localhost:9000", "localhost:900", id="shorter-port"),
        pytest.param("http://localhost:9000", "localhost", id="port-in-origin-alone"),
        pytest.param("http://localhost", "localhost:9000", id="port-in-host-alone"),
        pytest.param("http://localhost:0", "localhost", id="port-0"),
        pytest.param("http://example.com", "example.com:443", id="http-is-not-443"),
        pytest.param("https://example.com", "example.com:80", id="https-is-not-80"),
        pytest.param("http://evil-example.com", "example.com", id="suffix"),
        pytest.param("http://example.com.evil", "example.com", id="prefix"),
        pytest.param("http://example.com@evil", "example.com", id="user"),
        pytest.param("http://example.com/", "example.com", id="path"),
        pytest.param("http://example.com http://evil", "example.com", id="list"),
        pytest.param("example.com", "example.com", id="no-scheme"),
        pytest.param("://example.com", "example.com", id="empty-scheme"),
        pytest.param("file://", "", id="file"),
        pytest.param("http://", "", id="no-host-on-either-side"),
        pytest.param("ftp://example.com", "example.com", id="another-scheme"),
        pytest.param("null", "null", id="null"),
        pytest.param("", "example.com", id="empty"),
        pytest.param("http://\xe9", "\xe9", id="beyond-ascii"),
    ],
)
def test_a_foreign_origin_is_refused_with_403(origin: str, host: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_origin(request_from(origin, host), None)
    assert caught.value.status == 403


def test_http_is_a_foreign_origin_where_tls_ended_here() -> None:
    check_origin(request_from("https://example.com", secure=True), None)
    with pytest.raises(HandshakeError) as caught:
        check_origin(request_from("http://example.com", secure=True), None)
    assert caught.value.status == 403


@pytest.mark.parametrize("origins", [None, "*", ["http://a"]])
def test_two_origins_are_refused_with_400(origins: Collection[str] | None) -> None:
    request = read(with_lines(b"Origin: http://a\r\nOrigin: http://a\r\n"))
    with pytest.raises(HandshakeError) as caught:
        check_origin(request, origins)
    assert caught.value.status == 400


@pytest.mark.parametrize("origin", ["http://evil", "null", "", "\xe9", None])
def test_a_star_lets_every_origin_pass(origin: str | None) -> None:
    check_origin(request_from(origin), "*")
    check_origin(request_from(origin), ["https://a", "*"])


LISTED = ["https://example.com", "http://localhost:8000", "app://X", "not an origin"]


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "https://example.com",
        "https://EXAMPLE.com:443",
        "http://localhost:8000",
        "app://x",
        "not an origin",
    ],
)
def test_a_listed_origin_passes_whatever_the_host(origin: str | None) -> None:
    check_origin(request_from(origin, "elsewhere"), LISTED)


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "https://example.com:8443",
        "http://localhost:80000",
        "https://elsewhere:8443",
        "null",
        "x",
    ],
)
def test_an_origin_that_is_not_listed_is_refused_with_403(origin: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_origin(request_from(origin, "elsewhere"), LISTED)
    assert caught.value.status == 403


@pytest.mark.parametrize("origins", [[], LISTED, ["null"]])
def test_a_list_widens_what_passes_and_the_servers_own_origin_is_always_among_it(origins: Collection[str]) -> None:
    check_origin(request_from("http://a:8000", "a:8000"), origins)
    with pytest.raises(HandshakeError):
        check_origin(request_from("http://a:80", "a:8000"), origins)


def test_null_passes_only_when_it_is_listed() -> None:
    check_origin(request_from("null"), ["null"])
    with pytest.raises(HandshakeError):
        check_origin(request_from("null"), ["Null"])


def test_an_absolute_target_tells_the_host_where_there_is_no_field_for_it() -> None:
    # RFC 9112 §3.2.2; with a Host field they have to be the same.
    data = b"GET http://b:81/ HTTP/1.0\r\nOrigin: http://b:81\r\n\r\n"
    check_origin(read(data), None)
    with pytest.raises(HandshakeError):
        check_origin(read(data.replace(b"Origin: http://b:81", b"Origin: http://a")), None)


def test_a_string_of_origins_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="collection"):
        check_origin(request_from("http://a"), "http://a")


@pytest.mark.parametrize(
    ("origin", "canonical"),
    [
        ("HTTPS://Example.COM:443", "https://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://[::A]:80", "http://[::a]"),
        ("app://x", "app://x"),
        ("app://x:5", "app://x:5"),
        ("null", "null"),
    ],
)
def test_an_origin_has_one_canonical_spelling(origin: str, canonical: str) -> None:
    assert canonical_origin(origin) == canonical


@pytest.mark.parametrize(
    "origin", ["", "*", "example.com", "http://example.com/", "http://", "1http://a", "http://a:b"]
)
def test_what_is_no_origin_is_a_value_error(origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        canonical_origin(origin)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [("Example.COM", "example.com"), ("example.com:080", "example.com:80"), ("[::A]", "[::a]"), ("a:", "a")],
)
def test_a_host_has_one_canonical_spelling(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical


@pytest.mark.parametrize("host", ["", "*", "http://a", "a/", "a b", "a:b", "a:70000", "user@a", "::1"])
def test_what_is_no_host_is_a_value_error(host: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        canonical_host(host)


HOSTS = ["example.com", "localhost:8000", "[::1]", "plain.example:80", "secure.example:443"]


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "EXAMPLE.com:9",
        "localhost:8000",
        "[::1]:1",
        "plain.example",
        "plain.example:80",
        "secure.example",
    ],
)
def test_a_listed_host_is_served(host: str) -> None:
    check_host(request_from(None, host), HOSTS)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com.",
        "www.example.com",
        "localhost",
        "localhost:80000",
        "localhost:800",
        "plain.example:443",
        "a b",
    ],
)
def test_another_host_is_refused_with_421(host: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_host(request_from(None, host), HOSTS)
    assert caught.value.status == 421


def test_an_absolute_target_replaces_the_host() -> None:
    # RFC 9112 §3.2.2
    request = read(b"GET http://b:81/ HTTP/1.0\r\n\r\n")
    check_host(request, ["b:81"])
    with pytest.raises(HandshakeError):
        check_host(request, ["a"])


# Properties

NAMES = st.sampled_from(
    [
        "Host",
        "Upgrade",
        "Connection",
        "Origin",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
    ]
)
VALUES = st.sampled_from(
    [
        "websocket",
        "upgrade",
        "13",
        "dGhlIHNhbXBsZSBub25jZQ==",
        "http://a",
        "null",
        "a, b",
        ",",
        "[",
        "http://[::1]:1",
    ]
) | st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=8)


@settings(deadline=None)
@example(
    fields=[("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", "13")],
    secure=False,
)
@given(fields=st.lists(st.tuples(NAMES, VALUES), max_size=12), secure=st.booleans())
def test_nothing_but_a_handshake_error_comes_of_any_fields(fields: list[tuple[str, str]], secure: bool) -> None:
    request = Request("GET", "/", "/", "", Headers(fields), secure=secure)
    for origins in (None, "*", ["http://a", "null"]):
        try:
            accept = check_upgrade(request)
            check_origin(request, origins)
        except HandshakeError:
            continue
        else:
            assert accept == accept_value(request.headers["Sec-WebSocket-Key"])
            accept_headers(accept, offered=request.subprotocols, subprotocol=next(iter(request.subprotocols), None))


@settings(deadline=None)
@given(st.integers(0, len(CHROME) - 1), st.integers(0, 255))
def test_one_changed_byte_gives_a_switch_or_a_handshake_error(index: int, byte: int) -> None:
    data = bytearray(CHROME)
    data[index] = byte
    reader = RequestReader(LIMITS, None, secure=False)
    reader.feed(bytes(data))
    with suppress(HandshakeError):
        request = reader.next_request()
        if request is not None:
            check_origin(request, None)
            answer = reader.switch_protocols(accept_headers(check_upgrade(request)))
            assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
