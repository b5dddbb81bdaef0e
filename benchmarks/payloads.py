"""The bytes that the load generator sends: messages, handshake keys, and the check of compressed replies.

Deterministic: the same case sends the same bytes on every machine. A file of messages is a run of records,
32 bits of length (little-endian) and the bytes, as `load.c` reads it and writes captured replies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benchmarks.cases import Payload

__all__ = [
    "check_deflated_replies",
    "key_lines",
    "make_messages",
    "read_records",
    "wire_messages",
    "write_records",
]

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WINDOW_BITS = 12
_TAIL = b"\x00\x00\xff\xff"  # RFC 7692 §7.2.1: cut off a compressed message, put back before inflating


def make_messages(payload: Payload) -> list[bytes]:
    """Return the messages of a payload before compression, `payload.count` of `payload.size` bytes each."""
    source = random.Random(f"{payload.kind} {payload.size}")
    if payload.kind == "binary":
        return [source.randbytes(payload.size) for _ in range(payload.count)]
    if payload.kind == "json":
        return [_json_message(source, payload.size) for _ in range(payload.count)]
    alphabet = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"
    return ["".join(source.choices(alphabet, k=payload.size)).encode() for _ in range(payload.count)]


def _json_message(source: random.Random, size: int) -> bytes:
    """Return a JSON text of exactly `size` bytes: a list of quotes, the kind of message a ticker sends."""
    quotes: list[dict[str, object]] = []
    text = b""
    while len(text) < size:
        quotes.append(
            {
                "id": source.randrange(10**8),
                "symbol": "".join(source.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=4)),
                "price": round(source.uniform(1, 500), 2),
                "volume": source.randrange(10**5),
                "time": f"2026-01-{source.randrange(1, 29):02}T12:{source.randrange(60):02}:00Z",
                "side": source.choice(["buy", "sell"]),
            }
        )
        text = json.dumps({"type": "quotes", "quotes": quotes}).encode()
    quotes.pop()
    text = json.dumps({"type": "quotes", "quotes": quotes, "pad": ""}).encode()
    pad = max(0, size - len(text))
    return json.dumps({"type": "quotes", "quotes": quotes, "pad": "x" * pad}).encode()[:size]


def wire_messages(payload: Payload) -> list[bytes]:
    """Return the payloads as they stand in frames.

    Compressed ones form one stream: each message may refer to the ones before it, and the first to none, so
    that a client can send them in turn and start again.
    """
    messages = make_messages(payload)
    if not payload.deflated:
        return messages
    compressor = zlib.compressobj(wbits=-_WINDOW_BITS)
    wire = []
    for message in messages:
        data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        wire.append(data.removesuffix(_TAIL))
    return wire


def check_deflated_replies(replies: list[bytes], messages: list[bytes]) -> None:
    """Inflate a connection's first replies and compare them with the messages they echo.

    Raises:
        ValueError: there are none, they do not inflate, or one has another content.
    """
    if not replies:
        raise ValueError("no compressed reply was captured")
    inflater = zlib.decompressobj(wbits=-15)
    for number, reply in enumerate(replies):
        try:
            text = inflater.decompress(reply + _TAIL)
        except zlib.error as error:
            raise ValueError(f"compressed reply {number} does not inflate: {error}") from error
        if text != messages[number % len(messages)]:
            raise ValueError(f"compressed reply {number} has other content than its message")


def key_lines(count: int = 64) -> str:
    """Return lines of a Sec-WebSocket-Key and the Sec-WebSocket-Accept that answers it (RFC 6455 §4.2.2)."""
    source = random.Random("keys")
    lines = []
    for _ in range(count):
        key = base64.b64encode(source.randbytes(16)).decode()
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        lines.append(f"{key} {accept}\n")
    return "".join(lines)


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a file of records."""
    path.write_bytes(b"".join(struct.pack("<I", len(record)) + record for record in records))


def read_records(path: Path) -> list[bytes]:
    """Read a file of records; a last one that is cut short is left out."""
    return list(_records(path.read_bytes()))


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            return
        yield data[at + 4 : at + 4 + length]
        at += 4 + length
