"""Streams of frames, as a server and as a client reads them, without deflate and with it.

The first byte of an input chooses limits, what was negotiated and which lane gets the stream in pieces, the second
how large these are, the rest is the stream. For every stream: the lane, no lane and any cutting give the same events;
nothing but a FrameError ends it, and that or a Close frame is the last event; what waits undecoded and what comes out
is bounded; and what was decoded is decoded again from what our encoder makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rawws.deflate import DeflateOptions, DeflateParameters
from rawws.encoder import Encoder, close_payload
from rawws.errors import CloseCode
from rawws.frames import CLOSE, CONTINUATION, MAX_CONTROL_PAYLOAD, Decoder
from tests.test_frames import Came, Failed, is_end, pull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.test_frames import Event

__all__ = ["client_frames", "client_frames_deflate", "cut_up", "server_frames", "server_frames_deflate"]

_SIZES: Final = (16, 300, 2000, 70_000)
"""Limits of a message: below and above each form of the length."""
_FRAGMENTS: Final = (1, 3, 16, 1000)
_MOST_READS: Final = 100
_OF_PAYLOADS: Final = (CloseCode.INVALID_PAYLOAD, CloseCode.POLICY_VIOLATION, CloseCode.MESSAGE_TOO_BIG)
"""Codes for what is wrong with a payload and not with a header."""
_MOST_UNDECODED: Final = 14 + MAX_CONTROL_PAYLOAD
"""Bytes that may wait: a whole header, and a control frame that has not arrived whole."""


def _parameters(bits: int, *, alone: bool) -> DeflateParameters:
    return DeflateParameters(
        server_no_context_takeover=alone,
        client_no_context_takeover=alone,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )


_PARAMETERS: Final = (
    _parameters(15, alone=False),
    _parameters(9, alone=False),
    _parameters(15, alone=True),
    _parameters(12, alone=True),
)
_COMPRESS_ALL: Final = DeflateOptions(threshold=0, memory_level=1)


def cut_up(stream: bytes, size: int) -> Iterator[bytes]:
    """Cut a stream into reads of `size` bytes, or into `_MOST_READS` where these would be more."""
    size = max(1, size, len(stream) // _MOST_READS)
    return (stream[start : start + size] for start in range(0, len(stream), size))


def server_frames(data: bytes) -> None:
    """A client's frames, read by a server."""
    _check(data, is_client=False, compressed=False)


def server_frames_deflate(data: bytes) -> None:
    """A client's frames under permessage-deflate, read by a server."""
    _check(data, is_client=False, compressed=True)


def client_frames(data: bytes) -> None:
    """A server's frames, read by a client."""
    _check(data, is_client=True, compressed=False)


def client_frames_deflate(data: bytes) -> None:
    """A server's frames under permessage-deflate, read by a client."""
    _check(data, is_client=True, compressed=True)


def _check(data: bytes, *, is_client: bool, compressed: bool) -> None:
    if len(data) < 2:
        return
    max_size = _SIZES[data[0] & 3]
    max_fragments = _FRAGMENTS[data[0] >> 2 & 3]
    deflate = _PARAMETERS[data[0] >> 4 & 3] if compressed else None
    stream = data[2:]

    def decoder(fast_lane: bool) -> Decoder:
        return Decoder(
            is_client=is_client,
            max_message_size=max_size,
            max_fragments=max_fragments,
            deflate=deflate,
            fast_lane=fast_lane,
        )

    events = _decode(decoder(True), [stream], max_size)
    assert _decode(decoder(False), [stream], max_size) == events
    in_reads = _decode(decoder(data[0] < 0x80), cut_up(stream, data[1]), max_size)
    if compressed and events and isinstance(events[-1], Failed) and events[-1].code in _OF_PAYLOADS:
        # What is wrong with compressed text is found while it is inflated, and what is wrong with the text behind that:
        # of two faults in one read it is the former, in two reads the one that comes first.
        assert in_reads
        assert isinstance(in_reads[-1], Failed)
        assert in_reads[-1].code in _OF_PAYLOADS
        assert in_reads[:-1] == events[:-1]
    else:
        assert in_reads == events
    _check_round_trip(events, is_client=is_client, deflate=deflate)


def _decode(decoder: Decoder, chunks: Iterator[bytes] | list[bytes], max_size: int) -> list[Event]:
    events: list[Event] = []
    for chunk in chunks:
        decoder.feed(chunk)
        events += pull(decoder)
        assert decoder.undecoded <= _MOST_UNDECODED
        if events and is_end(events[-1]):
            assert decoder.undecoded == 0
            assert decoder.take_partial() is None
    assert not any(map(is_end, events[:-1]))
    for event in events:
        if isinstance(event, (str, bytes)):
            assert _size(event) <= max_size
        elif isinstance(event, Failed):
            assert event.reason
            close_payload(event.code, event.reason)  # raises for what no Close frame can say
            assert len(event.reason.encode()) <= MAX_CONTROL_PAYLOAD - 2
    partial = decoder.take_partial()
    assert partial is None or _size(partial) <= max_size
    return events


def _size(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) else len(message.encode())


def _check_round_trip(events: list[Event], *, is_client: bool, deflate: DeflateParameters | None) -> None:
    """Decode what our encoder, in the place of the peer, makes of the events; the reads are its frames."""
    encoder = Encoder(is_client=not is_client, deflate=deflate, options=None if deflate is None else _COMPRESS_ALL)
    said: list[Event] = []
    stream = bytearray()
    for event in events:
        if isinstance(event, (str, bytes)):
            # Of even size it is compressed in any case, of odd size where that makes it shorter.
            stream += encoder.message(event, None if len(event) & 1 else True)
        elif isinstance(event, Failed) or event.opcode == CONTINUATION:
            continue
        elif event.opcode == CLOSE:
            stream += encoder.control(CLOSE, close_payload(event.code, event.reason))
        else:
            stream += encoder.control(event.opcode, event.payload)
        said.append(event if not isinstance(event, Came) else Came(*event))
    if said:
        decoder = Decoder(is_client=is_client, max_message_size=_SIZES[-1], max_fragments=1, deflate=deflate)
        assert _decode(decoder, [bytes(stream)], _SIZES[-1]) == said
