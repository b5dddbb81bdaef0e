"""Every trap that can be reached over the wire, against a whole server: literal bytes over TCP.

The traps are what wsproto 1.3.2 and h11 0.16.0 get wrong, numbered as in the project's list of them; each test shows
what rawws does instead. Row 23 is about imports and row 31 about a call, so neither has bytes of its own here;
what row 31 guards, a peer that ends its half of the stream, has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

import rawws
from tests.raw_client import (
    CLOSE,
    CLOSE_1000,
    KEY,
    PING,
    PONG,
    TEXT,
    Client,
    connected,
    echo,
    frame,
    handshake,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"
HELLO = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # RFC 7692 §7.2.3.1: "Hello", compressed without a context
UPGRADE = b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
WITH_KEY = UPGRADE + b"Sec-WebSocket-Key: " + KEY + b"\r\n"
MIB = 1024 * 1024


def deflate(data: bytes, bits: int = 15) -> bytes:
    """Compress a message as RFC 7692 §7.2.1 says."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


class BadHead(NamedTuple):
    row: int
    what: str
    sends: bytes
    status: int
    reason: str


BAD_HEADS = [
    BadHead(10, "a byte over 0x7f in Host", b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400, "Bad Request"),
    BadHead(
        10,
        "a byte over 0x7f in Connection",
        handshake().replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff"),
        400,
        "Bad Request",
    ),
    BadHead(
        10,
        "a byte over 0x7f in Sec-WebSocket-Protocol",
        handshake("/", b"Sec-WebSocket-Protocol: ch\xe4t"),
        400,
        "Bad Request",
    ),
    BadHead(
        10,
        "a byte over 0x7f in Sec-WebSocket-Extensions",
        handshake("/", DEFLATE + b"; \xfc=1"),
        400,
        "Bad Request",
    ),
    BadHead(11, "the key x", handshake().replace(KEY, b"x"), 400, "Bad Request"),
    BadHead(11, "two keys", handshake("/", b"Sec-WebSocket-Key: " + KEY), 400, "Bad Request"),
    BadHead(11, "no key", b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n", 400, "Bad Request"),
    BadHead(13, "an Upgrade in HTTP/1.0", b"GET / HTTP/1.0\r\n" + WITH_KEY + b"\r\n", 426, "Upgrade Required"),
    BadHead(13, "HTTP/3.0", b"GET / HTTP/3.0\r\n" + WITH_KEY + b"\r\n", 505, "HTTP Version Not Supported"),
    BadHead(14, "an Upgrade with Content-Length", handshake("/", b"Content-Length: 5") + b"hello", 400, "Bad Request"),
    BadHead(
        14,
        "an Upgrade with chunks",
        handshake("/", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        400,
        "Bad Request",
    ),
    BadHead(16, "no request line", b"hello\r\n\r\n", 400, "Bad Request"),
    BadHead(16, "a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "Bad Request"),
    BadHead(
        16,
        "an unknown transfer coding",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n",
        501,
        "Not Implemented",
    ),
    BadHead(
        16,
        "a head without an end",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000,
        431,
        "Request Header Fields Too Large",
    ),
    BadHead(
        24,
        "5000 header fields at once",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        431,
        "Request Header Fields Too Large",
    ),
    BadHead(
        24,
        "101 header fields",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100 + b"\r\n",
        431,
        "Request Header Fields Too Large",
    ),
    BadHead(
        26,
        "Transfer-Encoding with Content-Length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "Bad Request",
    ),
    BadHead(
        26,
        "chunks in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "Bad Request",
    ),
    BadHead(
        26,
        "a request body",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        413,
        "Content Too Large",
    ),
    BadHead(27, "bare LF", b"GET / HTTP/1.1\nHost: a\n\n", 400, "Bad Request"),
    BadHead(27, "a folded field", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "Bad Request"),
    BadHead(28, "HTTP/9.9", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505, "HTTP Version Not Supported"),
    BadHead(29, "ESC in a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n", 400, "Bad Request"),
    BadHead(29, "BEL in a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x07\r\n\r\n", 400, "Bad Request"),
    BadHead(29, "DEL in a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400, "Bad Request"),
    BadHead(29, "ESC in a path", b"GET /%1b[2J HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request"),
    BadHead(32, "the target *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request"),
    BadHead(32, "an authority as target", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400, "Bad Request"),
    BadHead(32, "another host in the target", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request"),
    BadHead(32, "two empty lines first", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request"),
]


class BadFrames(NamedTuple):
    row: int
    what: str
    offers: tuple[bytes, ...]
    sends: bytes
    code: int


BAD_FRAMES = [
    BadFrames(2, "4 KB that inflate to 4 MiB", (DEFLATE,), frame(0xC1, deflate(bytes(4 * MIB))), 1009),
    BadFrames(2, "one byte over the limit", (DEFLATE,), frame(0xC2, deflate(bytes(MIB + 1))), 1009),
    BadFrames(
        2,
        "the same, split over fragments",
        (DEFLATE,),
        frame(0x42, deflate(bytes(MIB + 1))[:600]) + frame(0x80, deflate(bytes(MIB + 1))[600:]),
        1009,
    ),
    BadFrames(2, "260 KB that inflate to 256 MiB", (DEFLATE,), frame(0xC2, deflate(bytes(256 * MIB))), 1009),
    BadFrames(18, "a frame that is not masked", (), b"\x81\x05hello", 1002),
    BadFrames(18, "a reserved bit", (), frame(0xC1, HELLO), 1002),
    BadFrames(18, "a reserved opcode", (), frame(0x83), 1002),
    BadFrames(18, "a ping in fragments", (), frame(0x09), 1002),
    BadFrames(18, "a ping of 126 bytes", (), frame(PING, bytes(126)), 1002),
    BadFrames(18, "a length in more bytes than it takes", (), b"\x81\xfe\x00\x05\x00\x00\x00\x00hello", 1002),
    BadFrames(18, "a continuation of nothing", (), frame(0x80, b"hello"), 1002),
    BadFrames(18, "a message within a message", (), frame(0x01, b"he") + frame(TEXT, b"llo"), 1002),
    BadFrames(18, "text that is no UTF-8", (), frame(TEXT, b"\xc3\x28"), 1007),
    BadFrames(18, "a Close frame of one byte", (), frame(CLOSE, b"\x03"), 1002),
    BadFrames(18, "a close reason that is no UTF-8", (), frame(CLOSE, b"\x03\xe8\xff"), 1007),
    BadFrames(18, "a close code that may not be sent", (), frame(CLOSE, b"\x03\xed"), 1002),
    BadFrames(18, "deflate that is none", (DEFLATE,), frame(0xC2, b"\xff\xff\xff\xff"), 1007),
    # FIN and binary, masked, a length in eight bytes: 2 to the power of 62. The header alone is sent.
    BadFrames(20, "a frame of 2^62 bytes", (), b"\x82\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1009),
    BadFrames(20, "a frame of 2^63 bytes", (), b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1002),
    BadFrames(20, "a million empty continuations", (), frame(0x01) + frame(0x00) * 1_000_000, 1008),
    BadFrames(20, "a message of a byte a frame", (), frame(0x01, b"x") + frame(0x00, b"x") * 20_000, 1008),
    BadFrames(20, "a thousand pings at once", (), frame(PING) * 1000, 1008),
]


class EchoAndSize(rawws.Protocol):
    """Text comes back; of a binary message its size. Keeps what ended each connection."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str, str]] = []

    def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
        ws.send_nowait(message if isinstance(message, str) else str(len(message)))

    def on_close(self, ws: rawws.WebSocket, closed: rawws.ConnectionClosed) -> None:
        self.ends.append((closed.code, closed.reason, closed.by))


@pytest.fixture
def app() -> EchoAndSize:
    return EchoAndSize()


@pytest.fixture
async def server(app: EchoAndSize) -> AsyncIterator[rawws.Server]:
    async with serving({"/": app, "/task": echo}) as server:
        yield server


@pytest.fixture
async def client(server: rawws.Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


async def push(client: Client, data: bytes) -> None:
    """Send what the server may stop to read."""
    with contextlib.suppress(trio.BrokenResourceError):
        await client.send(data)


@pytest.mark.parametrize("bad", BAD_HEADS, ids=[f"row {bad.row}: {bad.what}" for bad in BAD_HEADS])
async def test_a_bad_head_gets_its_status_a_reason_a_sentence_and_the_end(client: Client, bad: BadHead) -> None:
    await push(client, bad.sends)
    answer = await client.answer()
    assert (answer.status, answer.reason) == (bad.status, bad.reason)
    assert "close" in answer.fields["connection"]
    assert answer.fields["content-type"] == "text/plain; charset=utf-8"
    assert 10 < len(answer.body) < 100
    assert await client.ended() == b""


@pytest.mark.parametrize("path", ["/", "/task"], ids=["protocol", "task"])
@pytest.mark.parametrize("bad", BAD_FRAMES, ids=[f"row {bad.row}: {bad.what}" for bad in BAD_FRAMES])
async def test_bad_frames_get_one_close_frame_with_the_right_code(client: Client, bad: BadFrames, path: str) -> None:
    await client.open(path, *bad.offers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, bad.sends)
        first, payload = await client.frame()
        while first == PONG:
            first, payload = await client.frame()
        nursery.cancel_scope.cancel()
    assert (first, int.from_bytes(payload[:2], "big")) == (CLOSE, bad.code)
    assert payload[2:].decode().isprintable()
    assert await client.ended() == b""


async def test_row_1_a_ping_within_a_compressed_message_does_not_hurt_it(client: Client) -> None:
    await client.open("/", DEFLATE)
    # RSV1 and text, 3 bytes; a ping; FIN and continuation, 4 bytes: masked with zeros.
    await client.send(
        b"\x41\x83\x00\x00\x00\x00\xf2\x48\xcd\x89\x81\x00\x00\x00\x00!\x80\x84\x00\x00\x00\x00\xc9\xc9\x07\x00"
    )
    assert await client.frame() == (PONG, b"!")
    assert await client.frame() == (TEXT, b"Hello")


async def test_row_1_a_pong_within_a_compressed_binary_message_does_not_hurt_it(client: Client) -> None:
    await client.open("/", DEFLATE)
    await client.send(frame(0x42, HELLO[:3]) + frame(PONG) + frame(0x80, HELLO[3:]))
    assert await client.frame() == (TEXT, b"5")


async def test_row_2_exactly_the_limit_is_accepted_whole_and_in_fragments(client: Client) -> None:
    await client.open("/", DEFLATE)
    packed = deflate(bytes(MIB))
    await client.send(frame(0xC2, packed))
    assert await client.frame() == (TEXT, b"1048576")
    packed = deflate(bytes(MIB))
    await client.send(frame(0x42, packed[:500]) + frame(0x80, packed[500:]))
    assert await client.frame() == (TEXT, b"1048576")


async def test_row_3_a_final_block_hurts_no_later_message(client: Client) -> None:
    await client.open("/", DEFLATE)
    final = b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"  # RFC 7692 §7.2.3.4: "Hello" in a block with BFINAL
    await client.send(frame(0xC1, final) + frame(0xC1, HELLO) + frame(TEXT, b"plain"))
    assert await client.frame() == (TEXT, b"Hello")
    assert await client.frame() == (TEXT, b"Hello")
    assert await client.frame() == (TEXT, b"plain")


async def test_row_3_what_follows_a_final_block_within_a_message_is_kept(client: Client) -> None:
    await client.open("/", DEFLATE)
    await client.send(frame(0xC1, b"\xf3\x48\xcd\xc9\xc9\x07\x00" + HELLO))
    assert await client.frame() == (TEXT, b"HelloHello")


@pytest.mark.parametrize(
    ("row", "offer"),
    [
        (4, b"client_max_window_bits=abc"),
        (4, b"client_max_window_bits="),
        (5, b"client_max_window_bits=1_0"),
        (5, b"client_max_window_bits=16"),
        (5, b"server_no_context_takeover; server_no_context_takeover"),
        (5, b"server_no_context_takeover=1"),
        (5, b"server_max_windw_bits=10"),
        (5, b"server_max_window_bits"),
    ],
)
async def test_rows_4_and_5_an_illegal_offer_is_declined(client: Client, row: int, offer: bytes) -> None:
    answer = await client.open("/", DEFLATE + b"; " + offer)
    assert "sec-websocket-extensions" not in answer.fields
    await client.send(frame(TEXT, b"plain"))
    assert await client.frame() == (TEXT, b"plain")


async def test_row_4_a_quoted_number_is_legal(client: Client) -> None:
    answer = await client.open("/", DEFLATE + b'; server_max_window_bits="10"')
    assert "server_max_window_bits=10" in answer.fields["sec-websocket-extensions"]


async def test_row_6_the_smaller_window_wins() -> None:
    options = rawws.DeflateOptions(server_max_window_bits=10)
    async with serving(EchoAndSize(), compression=options) as server:
        for asked, agreed in ((b"15", "10"), (b"9", "9")):
            async with connected(server) as client:
                answer = await client.open("/", DEFLATE + b"; server_max_window_bits=" + asked)
                assert f"server_max_window_bits={agreed}" in answer.fields["sec-websocket-extensions"].split("; ")


async def test_row_7_a_client_that_was_not_asked_for_less_may_use_a_window_of_15_bits(client: Client) -> None:
    answer = await client.open("/", DEFLATE)
    assert "client_max_window_bits" not in answer.fields["sec-websocket-extensions"]
    noise = os.urandom(20_000)
    packed = deflate(noise + noise)
    assert len(packed) < 30_000  # it refers 20 000 bytes back
    await client.send(frame(0xC2, packed))
    assert await client.frame() == (TEXT, b"40000")


async def test_row_8_of_several_offers_the_first_acceptable_one_wins(client: Client) -> None:
    answer = await client.open(
        "/",
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99, x-other,"
        b" permessage-deflate; client_no_context_takeover; server_max_window_bits=11",
        b"Sec-WebSocket-Extensions: permessage-deflate",
    )
    agreed = answer.fields["sec-websocket-extensions"].split("; ")
    assert agreed[0] == "permessage-deflate"
    assert set(agreed[1:]) == {"client_no_context_takeover", "server_max_window_bits=11"}


async def test_row_9_tiny_messages_leave_as_they_are_and_large_ones_compressed(client: Client) -> None:
    await client.open("/", DEFLATE)
    await client.send(frame(TEXT, b"x" * 100) + frame(TEXT, b"x" * 5000))
    assert await client.frame() == (TEXT, b"x" * 100)
    first, payload = await client.frame()
    assert first == 0xC1
    assert zlib.decompress(payload + b"\x00\x00\xff\xff" + b"\x03\x00", -15) == b"x" * 5000


async def test_row_12_connection_lines_are_merged_and_upgrade_lists_match_without_case(client: Client) -> None:
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: uPGRADE\r\nUpgrade: WebSocket, h2c\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
    )
    assert (await client.answer()).status == 101


@pytest.mark.parametrize("path", ["/", "/task"])
async def test_row_15_frames_in_the_segment_of_the_request_are_delivered(client: Client, path: str) -> None:
    await client.send(handshake(path) + frame(TEXT, b"early", key=b"\x01\x02\x03\x04") + frame(PING)[:3])
    assert (await client.answer()).status == 101
    assert await client.frame() == (TEXT, b"early")
    await client.send(frame(PING)[3:])
    assert await client.frame() == (PONG, b"")


async def test_row_17_two_connections_share_no_dictionary(server: rawws.Server) -> None:
    text = bytes(range(32, 126)) * 20
    for _ in range(2):
        async with connected(server) as client:
            await client.open("/", DEFLATE)
            await client.send(frame(TEXT, text))
            first, payload = await client.frame()
            assert first == 0xC1
            assert zlib.decompress(payload + b"\x00\x00\xff\xff" + b"\x03\x00", -15) == text


async def test_row_18_nothing_after_a_failure_is_read_and_it_is_no_close_of_the_peer(
    client: Client, app: EchoAndSize
) -> None:
    await client.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, frame(TEXT, b"before") + b"\x81\x05hello" + frame(TEXT, b"after") * 1_000_000)
        assert await client.frame() == (TEXT, b"before")
        code, _ = await client.closed()
        nursery.cancel_scope.cancel()
    assert code == 1002
    assert [(code, by) for code, _, by in app.ends] == [(1002, "us")]


async def test_row_19_what_follows_our_close_is_ignored_and_the_first_close_counts(
    client: Client, app: EchoAndSize, server: rawws.Server
) -> None:
    await client.open()
    (ws,) = server.websockets
    ws.close_nowait(4000, "enough")
    assert await client.frame() == (CLOSE, b"\x0f\xa0enough")
    await client.send(frame(PING) + frame(TEXT, b"late") + CLOSE_1000 + frame(PING) + frame(CLOSE, b"\x03\xe9"))
    assert await client.ended() == b""
    assert app.ends == [(4000, "enough", "us")]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 1012, 1013, 1014, 3000, 4999])
async def test_row_21_every_code_that_may_be_sent_is_accepted_and_echoed(
    client: Client, app: EchoAndSize, code: int
) -> None:
    await client.open()
    await client.send(frame(CLOSE, code.to_bytes(2, "big") + b"bye"))
    assert (await client.frame()) == (CLOSE, code.to_bytes(2, "big"))
    assert await client.ended() == b""
    await client.stream.aclose()
    with trio.fail_after(5):
        while not app.ends:
            await trio.lowlevel.checkpoint()
    assert app.ends == [(code, "bye", "peer")]


async def test_row_22_what_may_not_be_sent_is_an_error_before_a_byte_is_queued() -> None:
    async def wrong(ws: rawws.WebSocket) -> None:
        await ws.accept()
        for code in (0, 999, 1005 - 1, 1006, 1015, 2999, 5000, 70_000):
            with pytest.raises(ValueError, match="may not be sent"):
                await ws.close(code)
        with pytest.raises(ValueError, match="125"):
            await ws.ping(bytes(126))
        with pytest.raises(ValueError, match="surrogate"):
            await ws.send("\ud800")
        await ws.send("nothing of it")

    async with serving(wrong) as server, connected(server) as client:
        await client.open()
        assert await client.frame() == (TEXT, b"nothing of it")
        assert await client.frame() == (CLOSE, b"\x03\xe8")


async def test_row_25_who_takes_no_answers_is_read_from_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "file").write_bytes(bytes(100_000))
    request = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(echo, static=folder) as server, connected(server) as client:
        sent = 0
        with trio.move_on_after(0.5):
            while sent < 50 * MIB:
                await client.stream.send_all(request * 1000)
                sent += len(request) * 1000
        assert sent < 20 * MIB  # what the kernel holds, and one read
        answers = 0
        while answers < 100:
            assert len((await client.answer()).body) == 100_000
            answers += 1


async def test_row_29_what_a_peer_says_is_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(rawws.Protocol):
        def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
            raise RuntimeError("the application's own bug")

    caplog.set_level(logging.DEBUG, logger="rawws")
    async with serving({"/": echo, "/\u202etxt": Broken()}) as server:
        async with connected(server) as client:
            await client.open("/%E2%80%AEtxt")
            await client.send(frame(TEXT, b"\x1b[2J"))
            assert await client.frame() == (CLOSE, b"\x03\xf3internal error")
        async with connected(server) as client:
            await client.open()
            await client.send(frame(CLOSE, b"\x03\xe8\x1b]0;owned\x07"))
            assert (await client.frame())[0] == CLOSE
    # The traceback below a record's first line is the application's own and quotes nothing of the peer.
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3  # what went wrong, and a line for each connection
    assert all(line.isascii() and line.isprintable() for line in said)
    assert len([line for line in said if "\\u202etxt" in line]) == 2
    assert len([line for line in said if r"\x1b]0;owned\x07" in line]) == 1


@pytest.mark.parametrize(
    "headers",
    [[("X", "a\r\nSet-Cookie: b")], [("X: a\r\nY", "b")], [("X", "\x1b")]],
    ids=["value", "name", "escape"],
)
async def test_row_30_a_line_end_in_our_own_headers_never_leaves(
    headers: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(ws: rawws.WebSocket) -> None:
        with pytest.raises(ValueError, match="header field"):
            await ws.accept(headers=headers)
        await ws.reject(499, "no\r\n", headers=headers)

    async with serving(app) as server, connected(server) as client:
        await client.send(handshake())
        answer = await client.answer()
        assert (answer.status, answer.reason) == (500, "Internal Server Error")
        assert "x" not in answer.fields
        assert "set-cookie" not in answer.fields
        assert await client.ended() == b""
    assert "is not printable ASCII" in caplog.text or "is not the name" in caplog.text


async def test_row_30_a_status_without_a_name_has_a_constant_reason() -> None:
    async def app(ws: rawws.WebSocket) -> None:
        await ws.reject(499)

    async with serving(app) as server, connected(server) as client:
        await client.send(handshake())
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.body) == (499, "Client Error", b"Client Error.\n")


async def test_row_31_a_peer_that_ends_its_half_is_answered_first(server: rawws.Server) -> None:
    async with connected(server) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert (await client.answer()).status == 426
        assert await client.ended() == b""


async def test_row_32_the_absolute_form_and_one_empty_line_are_accepted(client: Client) -> None:
    await client.send(b"\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.answer()).status == 426
