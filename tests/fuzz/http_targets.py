"""Request heads, and offers of extensions with their answers.

For every stream of heads: the same requests and the same error come of it however it is cut into reads; nothing but
HandshakeError is raised, and each has an answer; the buffer is bounded; a request written out again is read as the
same request; and where the rules allow an upgrade, the 101 that answers it is a legal head. For every offer: what was
agreed was offered, keeps to what the server wants, is itself agreed to when it is offered, and works; the same for
every answer that a client takes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

import h11

from rawws.deflate import DeflateOptions, DeflateParameters, confirm, negotiate, offer
from rawws.encoder import Encoder
from rawws.errors import HandshakeError
from rawws.frames import Decoder
from rawws.handshake import accept_headers, check_origin, check_upgrade
from rawws.http import Request, Response, reason_phrase
from rawws.limits import Limits
from rawws.request_reader import RequestReader
from tests.fuzz.frame_targets import cut_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["answers", "heads", "offers"]

_LIMITS: Final = (Limits(), Limits(max_head_size=256, max_header_count=5))
_ORIGINS: Final = (None, ("*",), ("http://localhost:8000", "null"))
_OPTIONS: Final = DeflateOptions()
_SWITCH: Final = b"HTTP/1.1 101 Switching Protocols\r\n"


def heads(data: bytes) -> None:
    """A connection that begins with HTTP: request heads, pipelined or not, and what follows an upgrade."""
    if len(data) < 2:
        return
    limits = _LIMITS[data[0] & 1]
    origins = _ORIGINS[(data[0] >> 1) % 3]
    stream = data[2:]
    whole = list(_serve([stream], limits, origins))
    assert list(_serve(cut_up(stream, data[1]), limits, origins)) == whole


def _serve(chunks: Iterable[bytes], limits: Limits, origins: tuple[str, ...] | None) -> Iterator[Request | bytes]:
    """Yield each request and its answer; behind a 101, what belongs to the new protocol."""
    reader = RequestReader(limits)
    switched: bytearray | None = None
    for chunk in chunks:
        if switched is not None:
            switched += chunk
            continue
        reader.feed(chunk)
        while switched is None:
            try:
                request = reader.next_request()
            except HandshakeError as error:
                assert reader.buffered == 0
                yield _refusal(reader, error)
                return
            if request is None:
                break
            yield request
            _check_request(request, limits)
            answer = _answer(reader, request, origins)
            yield answer
            if answer.startswith(_SWITCH):
                switched = bytearray(reader.trailing_data)
            elif not reader.keep_alive:
                return
        assert switched is not None or reader.buffered < limits.max_head_size
    if switched is not None:
        yield bytes(switched)


def _answer(reader: RequestReader, request: Request, origins: tuple[str, ...] | None) -> bytes:
    try:
        accept = check_upgrade(request)
        check_origin(request, origins)
    except HandshakeError as error:
        return _refusal(reader, error)
    agreed = negotiate(request.headers.get_all("sec-websocket-extensions"), _OPTIONS)
    fields = accept_headers(
        accept,
        offered=request.subprotocols,
        subprotocol=next(iter(request.subprotocols), None),
        extensions=None if agreed is None else agreed.header,
    )
    answer = reader.switch_protocols(fields)
    _check_switch(answer)
    return answer


@lru_cache(maxsize=256)  # they differ in the key and the subprotocol
def _check_switch(answer: bytes) -> None:
    """Let h11 read a 101 as a client does."""
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Upgrade", "b"), ("Connection", "Upgrade")])
    )
    client.receive_data(answer)
    event = client.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 101
    assert client.trailing_data == (b"", False)


def _refusal(reader: RequestReader, error: HandshakeError) -> bytes:
    answer = reader.respond(Response.text(error.status, error.message, error.headers))
    status = b"HTTP/1.1 %d %b\r\n" % (error.status, reason_phrase(error.status))
    assert answer.startswith(status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body in (b"", f"{error.message}\n".encode())
    *lines, last = head.split(b"\r\n")
    assert (last in (b"Connection: close", b"Connection: upgrade, close")) is not reader.keep_alive
    assert not any(line.startswith(b"Connection:") for line in lines)
    return answer


def _check_request(request: Request, limits: Limits) -> None:
    """What an application may rely on, and that the head written out again says the same."""
    assert request.path.startswith("/")
    assert request.path.isprintable() or not any(map(_is_control, request.path))
    _ = (request.host, request.query_params, request.origin)
    assert len(request.headers.raw) <= limits.max_header_count
    lines = [f"{request.method} {request.target} HTTP/{request.http_version}"]
    lines += [f"{name}: {value}" for name, value in request.headers.raw]
    reader = RequestReader(Limits(max_head_size=2 * _LIMITS[0].max_head_size))
    reader.feed("\r\n".join([*lines, "", ""]).encode("latin-1"))
    again = reader.next_request()
    assert again == request
    assert again is not None
    fields = again.headers.raw
    assert fields == request.headers.raw
    again.headers.compact()
    assert again.headers.raw == fields
    assert reader.buffered == 0


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _wishes(data: bytes) -> DeflateOptions:
    return DeflateOptions(
        server_max_window_bits=9 + data[0] % 7,
        client_max_window_bits=9 + data[1] % 7,
        server_no_context_takeover=data[0] >= 0x80,
        client_no_context_takeover=data[1] >= 0x80,
    )


def offers(data: bytes) -> None:
    """A client's Sec-WebSocket-Extensions, a field a line, before a server whose wishes the first bytes choose."""
    if len(data) < 2:
        return
    options = _wishes(data)
    text = data[2:].decode("latin-1")
    values = text.split("\n")
    agreed = negotiate(values, options)
    if '"' not in text:
        assert negotiate([", ".join(values)], options) == agreed  # RFC 9110 §5.3
    if agreed is None:
        return
    assert "permessage-deflate" in text
    assert agreed.server_max_window_bits <= options.server_max_window_bits
    assert agreed.server_no_context_takeover or not options.server_no_context_takeover
    assert agreed.client_no_context_takeover or not options.client_no_context_takeover
    if agreed.client_max_window_bits < 15:
        assert "client_max_window_bits" in text
        assert agreed.client_max_window_bits <= options.client_max_window_bits
    assert negotiate([agreed.header], options) == agreed
    _check_conversation(agreed)


def answers(data: bytes) -> None:
    """A server's Sec-WebSocket-Extensions, a field a line, before a client whose wishes the first bytes choose."""
    if len(data) < 2:
        return
    options = _wishes(data)
    _check_agreement(options)
    values = data[2:].decode("latin-1").split("\n")
    try:
        agreed = confirm(values, options)
    except ValueError:
        return
    if agreed is None:
        assert not "".join(values).strip(" \t,")
        return
    assert agreed.server_max_window_bits <= options.server_max_window_bits
    assert agreed.client_max_window_bits <= options.client_max_window_bits
    assert agreed.server_no_context_takeover or not options.server_no_context_takeover
    assert agreed.client_no_context_takeover or not options.client_no_context_takeover
    if agreed.server_max_window_bits >= 9:  # what a server of ours deflates with
        assert confirm([agreed.header], options) == agreed
        _check_conversation(agreed)


@cache
def _check_agreement(wishes: DeflateOptions) -> None:
    """Let a client with these wishes meet servers of every kind: both sides understand the answer in the same way."""
    for bits in range(9, 16):
        for alone in (True, False):
            server = DeflateOptions(
                server_max_window_bits=bits, client_max_window_bits=bits, server_no_context_takeover=alone
            )
            agreed = negotiate([offer(wishes)], server)
            assert agreed is not None
            assert confirm([agreed.header], wishes) == agreed


@cache
def _check_conversation(agreed: DeflateParameters) -> None:
    """Talk under what was agreed, in both directions, with and without the context of the message before."""
    options = DeflateOptions(threshold=0, memory_level=1)
    for is_client in (True, False):
        encoder = Encoder(is_client=is_client, deflate=agreed, options=options)
        if is_client and agreed.client_max_window_bits < 9:
            continue  # zlib deflates with 9 bits at least, so no client of ours agrees to fewer
        decoder = Decoder(is_client=not is_client, max_message_size=1 << 20, max_fragments=1, deflate=agreed)
        for message in ("Hello" * 100, b"", b"Hello" * 2000, "Hello" * 100):
            decoder.feed(encoder.message(message))
            assert decoder.next() == message
