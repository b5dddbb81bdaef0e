"""Adapters of the codec benchmark: each library's own calls for the same five pieces of work.

An operation is a function without arguments that does the work once and returns a result which the benchmark
compares with what it must be. This is the one module of the suite that knows the inside of rawws, by the
public names of `frames`, `encoder`, `masking`, `deflate`, `http` and `handshake`. websockets' layer hands
over the UTF-8 of a text message, not the text; its figures stand as they are.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.payloads import make_messages, wire_messages
from benchmarks.registry import importable

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.server import ServerProtocol

    from benchmarks.cases import Payload

__all__ = ["KEY", "REQUEST", "SPEEDUPS", "WEBSOCKETS", "Work", "absent", "client_frame", "subjects"]

WEBSOCKETS, SPEEDUPS = "websockets", "websockets.speedups"
"""Modules that may be missing; wsproto comes with rawws."""

KEY = bytes.fromhex("37fa213d")
"""The masking key of every frame (the one of the examples in RFC 6455 §5.7)."""
REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_OFFER = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
_TAIL = b"\x00\x00\xff\xff"


def absent() -> list[str]:
    """Return the names of the modules that are not installed; what needs them is left out."""
    return [module for module in (WEBSOCKETS, SPEEDUPS) if not importable(module)]


@dataclass(frozen=True, slots=True)
class Work:
    """One library doing one piece of work."""

    subject: str
    run: Callable[[], object]
    check: Callable[[object], bool]
    """Whether a result is right."""


def client_frame(payload: bytes, first: int) -> bytes:
    """Return a client's frame around a payload, masked with `KEY`."""
    n = len(payload)
    if n < 126:
        length = bytes((0x80 | n,))
    elif n < 65536:
        length = b"\xfe" + n.to_bytes(2, "big")
    else:
        length = b"\xff" + n.to_bytes(8, "big")
    mask = int.from_bytes((KEY * (n // 4 + 1))[:n], "big")
    return bytes((first,)) + length + KEY + (int.from_bytes(payload, "big") ^ mask).to_bytes(n, "big")


def subjects(operation: str, payload: Payload) -> list[Work]:
    """Return everybody who is installed and can do an operation on a payload, rawws first."""
    return _OPERATIONS[operation](payload)


def _decode(payload: Payload) -> list[Work]:
    text = payload.kind != "binary"
    raw = make_messages(payload)[0]
    message = raw.decode() if text else raw
    return _decoders([client_frame(raw, 0x81 if text else 0x82)], [message], deflated=False)


def _inflate(payload: Payload) -> list[Work]:
    messages = [message.decode() for message in make_messages(payload)]
    wire = wire_messages(payload)
    works = _decoders([client_frame(data, 0xC1) for data in wire], messages, deflated=True)
    expected, source = itertools.cycle(messages), itertools.cycle(wire)
    inflater = zlib.decompressobj(wbits=-15)
    works.append(
        Work(
            "C (zlib)",
            lambda: inflater.decompress(next(source) + _TAIL),
            lambda got: got == next(expected).encode(),
        )
    )
    return works


def _decoders(frames: list[bytes], messages: list[str | bytes] | list[str], *, deflated: bool) -> list[Work]:
    from wsproto.connection import Connection, ConnectionType
    from wsproto.extensions import PerMessageDeflate

    from rawws.deflate import DeflateParameters
    from rawws.frames import Decoder

    def turns(
        run: Callable[[bytes], object], wanted: Callable[[str | bytes], object]
    ) -> tuple[Callable[[], object], Callable[[object], bool]]:
        feed, expected = itertools.cycle(frames).__next__, itertools.cycle(messages)
        return (lambda: run(feed())), (lambda got: got == wanted(next(expected)))

    parameters = DeflateParameters(
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        server_max_window_bits=12,
        client_max_window_bits=12,
    )
    decoder = Decoder(
        is_client=False,
        max_message_size=1 << 20,
        max_fragments=1 << 14,
        deflate=parameters if deflated else None,
    )

    def with_rawws(data: bytes) -> object:
        decoder.feed(data)
        return decoder.next()

    extension = PerMessageDeflate(client_max_window_bits=12, server_max_window_bits=12)
    extension.accept(_OFFER)
    connection = Connection(ConnectionType.SERVER, [extension] if deflated else [])

    def with_wsproto(data: bytes) -> object:
        connection.receive_data(data)
        return b"".join(_event_bytes(event) for event in connection.events())

    def encoded(message: str | bytes) -> bytes:
        return message.encode() if isinstance(message, str) else message

    works = [
        Work("rawws", *turns(with_rawws, lambda message: message)),
        Work("wsproto", *turns(with_wsproto, encoded)),
    ]
    if importable(WEBSOCKETS):
        works.append(Work("websockets", *turns(_websockets_decoder(deflated=deflated), encoded)))
    return works


def _websockets_decoder(*, deflated: bool) -> Callable[[bytes], object]:
    from websockets.extensions.permessage_deflate import PerMessageDeflate

    protocol = _open_websockets()
    if deflated:
        protocol.extensions = [PerMessageDeflate(False, False, 12, 12)]

    def decode(data: bytes) -> object:
        protocol.receive_data(data)
        return protocol.events_received()[0].data  # type: ignore[union-attr]  # a wrong type raises

    return decode


def _event_bytes(event: object) -> bytes:
    data = event.data  # type: ignore[attr-defined]  # a wrong type raises
    return data.encode() if isinstance(data, str) else bytes(data)


def _open_websockets() -> ServerProtocol:
    """Return websockets' sans-IO protocol after a handshake."""
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

    protocol = ServerProtocol()
    protocol.receive_data(REQUEST)
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    protocol.data_to_send()
    return protocol


def _encode(payload: Payload) -> list[Work]:
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage, TextMessage

    from rawws.encoder import Encoder

    raw = make_messages(payload)[0]
    text = payload.kind != "binary"
    message: str | bytes = raw.decode() if text else raw
    encoder, connection = Encoder(is_client=False), Connection(ConnectionType.SERVER)
    event = TextMessage(raw.decode()) if text else BytesMessage(raw)
    masked = client_frame(raw, 0x81 if text else 0x82)
    header = masked[: len(masked) - len(raw) - 4]
    wanted = header[:1] + bytes((header[1] & 0x7F,)) + header[2:] + raw
    works = [
        Work("rawws", lambda: encoder.message(message), wanted.__eq__),
        Work("wsproto", lambda: connection.send(event), wanted.__eq__),
    ]
    if importable(WEBSOCKETS):
        works.append(Work("websockets", _websockets_encoder(message), wanted.__eq__))
    return works


def _websockets_encoder(message: str | bytes) -> Callable[[], object]:
    protocol = _open_websockets()

    def encode() -> object:
        if isinstance(message, str):
            protocol.send_text(message.encode())
        else:
            protocol.send_binary(message)
        return b"".join(protocol.data_to_send())

    return encode


def _deflate(payload: Payload) -> list[Work]:
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import TextMessage
    from wsproto.extensions import PerMessageDeflate

    from rawws.deflate import DeflateOptions, DeflateParameters
    from rawws.encoder import Encoder

    messages = [message.decode() for message in make_messages(payload)]
    parameters = DeflateParameters(
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        server_max_window_bits=12,
        client_max_window_bits=12,
    )
    encoder = Encoder(is_client=False, deflate=parameters, options=DeflateOptions())
    extension = PerMessageDeflate(client_max_window_bits=12, server_max_window_bits=12)
    extension.accept(_OFFER)
    connection = Connection(ConnectionType.SERVER, [extension])

    def turns(run: Callable[[str], bytes], skip: int = 4) -> tuple[Callable[[], object], Callable[[object], bool]]:
        """Inflate what comes out: the frames of a server have a header of four bytes at this size."""
        feed, expected = itertools.cycle(messages).__next__, itertools.cycle(messages)
        inflater = zlib.decompressobj(wbits=-15)

        def check(got: object) -> bool:
            return isinstance(got, bytes) and inflater.decompress(got[skip:] + _TAIL).decode() == next(expected)

        return (lambda: run(feed())), check

    compressor = zlib.compressobj(wbits=-12, memLevel=5)

    def with_zlib(message: str) -> bytes:
        return (compressor.compress(message.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    works = [
        Work("rawws", *turns(encoder.message)),
        Work("wsproto", *turns(lambda message: connection.send(TextMessage(message)))),
        Work("C (zlib)", *turns(with_zlib, skip=0)),
    ]
    if importable(WEBSOCKETS):
        works.append(Work("websockets", *turns(_websockets_deflater())))
    return works


def _websockets_deflater() -> Callable[[str], bytes]:
    from websockets.extensions.permessage_deflate import PerMessageDeflate

    protocol = _open_websockets()
    protocol.extensions = [PerMessageDeflate(False, False, 12, 12, {"memLevel": 5})]

    def deflate(message: str) -> bytes:
        protocol.send_text(message.encode())
        return b"".join(protocol.data_to_send())

    return deflate


def _unmask(payload: Payload) -> list[Work]:
    from wsproto.frame_protocol import XorMaskerSimple

    from rawws.masking import apply_mask

    plain = make_messages(payload)[0]
    masked = client_frame(plain, 0x82)[-len(plain) :]
    own_copy = bytearray(masked)  # what wsproto's decoder passes; it copies once more
    works = [
        Work("rawws", lambda: apply_mask(masked, KEY), plain.__eq__),
        Work("wsproto", lambda: XorMaskerSimple(KEY).process(own_copy), lambda got: got == plain),
    ]
    if importable(SPEEDUPS):
        from websockets.speedups import apply_mask as c_mask

        works.append(Work("C (websockets)", lambda: c_mask(masked, KEY), plain.__eq__))
    return works


def _handshake(payload: Payload) -> list[Work]:
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection

    from rawws.handshake import accept_headers, check_upgrade
    from rawws.limits import Limits
    from rawws.request_reader import RequestReader

    limits = Limits()

    def with_rawws() -> object:
        reader = RequestReader(limits)
        reader.feed(REQUEST)
        request = reader.next_request()
        assert request is not None
        return reader.switch_protocols(accept_headers(check_upgrade(request)))

    def with_wsproto() -> object:
        connection = WSConnection(ConnectionType.SERVER)
        connection.receive_data(REQUEST)
        for _ in connection.events():
            return connection.send(AcceptConnection())
        return None

    def check(got: object) -> bool:
        return isinstance(got, bytes) and got.startswith(b"HTTP/1.1 101") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in got

    works = [Work("rawws", with_rawws, check), Work("wsproto", with_wsproto, check)]
    if importable(WEBSOCKETS):
        works.append(Work("websockets", _websockets_handshake(), check))
    return works


def _websockets_handshake() -> Callable[[], object]:
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

    def answer() -> object:
        protocol = ServerProtocol()
        protocol.receive_data(REQUEST)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        return b"".join(protocol.data_to_send())

    return answer


_OPERATIONS: dict[str, Callable[[Payload], list[Work]]] = {
    "decode": _decode,
    "encode": _encode,
    "unmask": _unmask,
    "inflate": _inflate,
    "deflate": _deflate,
    "handshake": _handshake,
}
