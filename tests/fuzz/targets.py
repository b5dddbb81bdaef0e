"""Every target by name, with what a fuzzer should know of its input: its length and the words of its language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from tests.fuzz.connection_target import connection
from tests.fuzz.frame_targets import client_frames, client_frames_deflate, server_frames, server_frames_deflate
from tests.fuzz.http_targets import answers, heads, offers
from tests.fuzz.response_target import responses

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TARGETS", "Target"]

_OFFER_WORDS: Final = (
    b"permessage-deflate",
    b"server_no_context_takeover",
    b"client_no_context_takeover",
    b"server_max_window_bits",
    b"client_max_window_bits",
    b"=10",
    b'="15"',
    b'"1\\0"',
    b"; ",
    b", ",
)
_HEAD_WORDS: Final = (
    b"GET / HTTP/1.1\r\n",
    b"HEAD ",
    b"OPTIONS ",
    b" HTTP/1.0\r\n",
    b"\r\n\r\n",
    b"Host: localhost:8000\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Origin: http://localhost:8000\r\n",
    b"Origin: null\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Protocol: chat, superchat\r\n",
    b"Sec-WebSocket-Extensions: ",
    b"http://localhost:8000/",
    b"[::1]:8000",
    b"%2e",
    b"?a=b&",
    *_OFFER_WORDS,
)
_RESPONSE_WORDS: Final = (
    b"HTTP/1.1 101 \r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 302 Found\r\n",
    b"HTTP/1.1 100 \r\n\r\n",
    b"HTTP/1.1 204 \r\n",
    b"\r\n\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: close\r\n",
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    b"Sec-WebSocket-Protocol: chat\r\n",
    b"Sec-WebSocket-Extensions: ",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"Location: /other\r\n",
    b"Location: wss://localhost:8000/\r\n",
    b"Location: //user:password@example.org\r\n",
    *_OFFER_WORDS,
)
_FRAME_WORDS: Final = (
    b"\x81\x80\x00\x00\x00\x00",  # FIN, text, masked, empty
    b"\x02\x81\x00\x00\x00\x00x",  # binary, one byte
    b"\x80\x81\x00\x00\x00\x00x",  # FIN, continuation
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",  # Close 1000
    b"\x88\x02\x03\xe8",
    b"\x89\x80\x00\x00\x00\x00",
    b"\x8a\x00",
    b"\xfe\x00\x7e",  # 126 bytes, masked
    b"\x7e\x00\x7e",
    b"\xff\x00\x00\x00\x00\x00\x01\x00\x00",  # 64 KiB, masked
    b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00",  # RFC 7692 §7.2.3.1, masked
    b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",  # RFC 7692 §7.2.3.4: BFINAL=1
    b"\xf0\x9f\x98\x80",  # four bytes of UTF-8
    b"\xed\xa0\x80",  # a surrogate
)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What must hold for any bytes.

    Attributes:
        check: raises when it does not.
        max_length: bytes beyond which longer inputs show nothing new.
        words: pieces to make inputs of.
    """

    check: Callable[[bytes], None]
    max_length: int
    words: tuple[bytes, ...]


TARGETS: Final = {
    "heads": Target(heads, 600, _HEAD_WORDS),
    "responses": Target(responses, 600, _RESPONSE_WORDS),
    "offers": Target(offers, 300, _OFFER_WORDS),
    "answers": Target(answers, 300, _OFFER_WORDS),
    "server_frames": Target(server_frames, 256, _FRAME_WORDS),
    "server_frames_deflate": Target(server_frames_deflate, 256, _FRAME_WORDS),
    "client_frames": Target(client_frames, 256, _FRAME_WORDS),
    "client_frames_deflate": Target(client_frames_deflate, 256, _FRAME_WORDS),
    "connection": Target(connection, 300, _FRAME_WORDS),
}
