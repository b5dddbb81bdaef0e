"""Bytes to messages and control frames (RFC 6455 §5, §8).

Rules:

* wsproto is the protocol engine. This is the one module that touches what wsproto does not export:
  `FrameProtocol`, `FrameDecoder`, `ParseFailed`, `CloseReason`, `Frame`, `Opcode`, `RsvBits` and
  `FrameProtocol._process_close` of wsproto 1.3's `frame_protocol`. `wsproto.Connection` builds its own
  FrameProtocol and so leaves no seam for a bounded inflater and for failing once.
* A fast lane stands in front of it: a final, unfragmented, correctly masked data frame at a message boundary (a
  compressed one when it has arrived whole), and a whole ping or pong, are decoded here; of a whole Close frame
  wsproto judges the payload. Everything else (fragments, compressed frames in pieces, anything illegal) goes to
  wsproto, cut by its header: wsproto never holds more than the frame it is working on. The differential test
  holds both to the same messages, codes and bytes.
* A large frame is unmasked and checked as it arrives, once; what came before is not copied again.
* The decoder is pulled, one event at a time, so that whoever pulls decides when to stop.

Cost: 0.8 µs for a text of 32 bytes in the lane, 8 µs through wsproto. An idle decoder holds no buffer
and no engine. This module knows no sockets, no trio and no clock.
"""

from __future__ import annotations

from codecs import utf_8_decode
from io import StringIO
from typing import TYPE_CHECKING, Final, final

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from .deflate import Inflater
from .errors import CloseCode, FrameError
from .masking import apply_mask, rotate, unmask_piece, unmask_short

if TYPE_CHECKING:
    from .deflate import DeflateParameters

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "MAX_CONTROL_PAYLOAD",
    "PING",
    "PONG",
    "PROGRESS",
    "TEXT",
    "Control",
    "Decoder",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_MASKED: Final = 0x80
_OVER: Final = -1
"""Bytes to come, after the last frame that there may be."""
_NO_RSV: Final = RsvBits(False, False, False)
_ONLY_RSV1: Final = RsvBits(True, False, False)
_LARGE_PIECE: Final = 4096
"""Bytes from which on a piece of a message is kept as it came."""
MAX_CONTROL_PAYLOAD: Final = 125
"""Bytes of a control frame's payload (RFC 6455 §5.5)."""
_CODES_WSPROTO_REFUSES: Final = (CloseCode.BAD_GATEWAY,)
"""Registered with IANA after RFC 6455, unknown to wsproto 1.3 (1012 and 1013 it knows)."""


@final
class Control:
    """A control frame, or an empty frame that ends nothing (`CONTINUATION`): both count against a rate.

    Attributes:
        opcode: `PING`, `PONG`, `CLOSE` or `CONTINUATION`.
        payload: the application data of a ping or pong, at most 125 bytes.
        code, reason: of a Close frame; 1005 when it had none (RFC 6455 §7.1.5).
    """

    __slots__ = ("code", "opcode", "payload", "reason")

    def __init__(self, opcode: int, payload: bytes = b"", code: int = 0, reason: str = "") -> None:
        self.opcode = opcode
        self.payload = payload
        self.code = code
        self.reason = reason


_EMPTY_FRAGMENT: Final = Control(CONTINUATION)
PROGRESS: Final = Control(CONTINUATION)
"""What `next` returns for a frame that ends nothing: one read can hold thousands, and whoever pulls may stop."""


class _Rules(Extension):
    """Our limits and permessage-deflate, through wsproto's interface for extensions.

    wsproto calls `frame_inbound_header` before the payload, `frame_inbound_payload_data` for each piece of
    payload, of control frames too, and `frame_inbound_complete` once a frame. Returning a close code fails
    the connection; `reason` says why.
    """

    name = "rawws"

    def __init__(self, max_size: int, max_fragments: int, inflater: Inflater | None) -> None:
        self._max_size = max_size
        self._max_fragments = max_fragments
        self._inflater = inflater  # None: compression was not negotiated
        self._open = False
        self._compressed = False
        self._is_data = False
        self._fragments = 0
        self.size = 0
        self.empty = False
        self.reason = ""

    def copy(self) -> _Rules:
        """Rules that judge the next header as these do, and leave these as they are."""
        rules = _Rules(self._max_size, self._max_fragments, self._inflater)
        rules._open = self._open
        rules._compressed = self._compressed
        rules._fragments = self._fragments
        rules.size = self.size
        return rules

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False  # the offer is made in the handshake, not by wsproto

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._is_data = not opcode.iscontrol()
        if not self._is_data:
            return _NO_RSV
        if opcode is Opcode.CONTINUATION:
            if not self._open:
                return self._fail(CloseReason.PROTOCOL_ERROR, "a continuation without a message")
            # Here, and not where the last frame allowed has ended: a header comes before anything that is wrong with a
            # payload, so that the verdict does not depend on how the stream was cut.
            if self._fragments >= self._max_fragments:
                return self._fail(CloseReason.POLICY_VIOLATION, f"message over {self._max_fragments} frames")
            # Only the first frame of a message says that it is compressed (RFC 7692 §6.1).
            allowed = _NO_RSV
        else:
            if self._open:
                return self._fail(CloseReason.PROTOCOL_ERROR, "a new message before the last one ended")
            allowed = _NO_RSV if self._inflater is None else _ONLY_RSV1
            self._compressed = allowed.rsv1 and rsv.rsv1
            self.size = 0
            self._fragments = 0
        self._open = True
        self.empty = payload_length == 0
        if not self._compressed and self.size + payload_length > self._max_size:
            return self._fail(CloseReason.MESSAGE_TOO_BIG, f"message over {self._max_size} bytes")
        return allowed

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if not self._is_data:
            return data
        if self._compressed and data:
            assert self._inflater is not None
            try:
                data = self._inflater.decompress(data, self._max_size - self.size)
            except FrameError as exc:
                return self._fail(CloseReason(exc.code), exc.reason)
        self.size += len(data)
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not self._is_data:
            return None
        self._fragments += 1
        if not fin:
            return None
        self._open = False
        if not self._compressed:
            return None
        assert self._inflater is not None
        try:
            return self._inflater.finish(self._max_size - self.size)
        except FrameError as exc:
            return self._fail(CloseReason(exc.code), exc.reason)

    def _fail(self, code: CloseReason, reason: str) -> CloseReason:
        self.reason = reason
        return code


class _Engine(FrameProtocol):
    """wsproto's FrameProtocol, with the close codes that were registered after it was written."""

    def _process_close(self, frame: Frame) -> Frame:
        payload = frame.payload
        assert isinstance(payload, bytes)
        code = int.from_bytes(payload[:2], "big")
        if code not in _CODES_WSPROTO_REFUSES:
            return super()._process_close(frame)
        # The rest of a Close frame's rules still come from wsproto: judge the reason beside a code it knows.
        known = super()._process_close(frame._replace(payload=b"\x03\xe8" + payload[2:]))
        assert isinstance(known.payload, tuple)
        return known._replace(payload=(code, known.payload[1]))


_JUDGE: Final = _Engine(False, [])
"""For Close frames, which `_process_close` judges without touching its engine."""


@final
class Decoder:
    """Bytes in, messages and control frames out.

    A Close frame, a FrameError and `discard` are the end: what was fed and what is fed after it is dropped.

    Args:
        is_client: decode a server's frames (which must not be masked) rather than a client's (which must be).
        max_message_size: bytes of a message after inflating; beyond it `next` fails with 1009.
        max_fragments: frames of a message; beyond it `next` fails with 1008.
        deflate: what the handshake negotiated, or None.
        fast_lane: False sends every frame through wsproto.

    Attributes:
        data: what was fed last and not decoded whole; empty when `next` has nothing to say. Whoever finds it empty
            may as well put bytes there himself.
    """

    __slots__ = (
        "_at",
        "_binary",
        "_engine",
        "_fast_lane",
        "_in_message",
        "_inflater",
        "_is_client",
        "_key",
        "_left",
        "_mask_bit",
        "_max_fragments",
        "_max_size",
        "_rules",
        "_short_header",
        "_slow",
        "_tail",
        "_text",
        "data",
    )

    def __init__(
        self,
        *,
        is_client: bool,
        max_message_size: int,
        max_fragments: int,
        deflate: DeflateParameters | None = None,
        fast_lane: bool = True,
    ) -> None:
        self._is_client = is_client
        self._mask_bit = 0 if is_client else _MASKED
        self._short_header = 2 if is_client else 6
        self._max_size = max_message_size
        self._max_fragments = max_fragments
        self._inflater: Inflater | None = None
        if deflate is not None:
            if is_client:
                self._inflater = Inflater(deflate.server_max_window_bits, deflate.server_no_context_takeover)
            else:
                self._inflater = Inflater(deflate.client_max_window_bits, deflate.client_no_context_takeover)
        self._fast_lane = fast_lane
        self.data = b""
        self._at = 0
        # Of the frame that has begun and not ended: bytes to come (_OVER when none may), whether they go to
        # wsproto, and the masking key turned to the next one.
        self._left = 0
        self._slow = False
        self._key = b""
        # Of the message that has begun and not ended: whether a frame of it did, and what came of it.
        self._in_message = False
        self._binary: list[bytes | bytearray | memoryview] | None = None
        self._text: StringIO | None = None
        self._tail = b""
        self._engine: _Engine | None = None
        self._rules: _Rules | None = None

    @property
    def undecoded(self) -> int:
        """Bytes that were fed and not decoded yet."""
        return len(self.data) - self._at

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer. What `next` has not decoded yet is kept before them."""
        if not self.data:
            self.data = data
        elif self._left != _OVER:
            self.data = self.data[self._at :] + data
        self._at = 0

    def discard(self) -> None:
        """Forget everything that was fed, and drop what comes: the connection has ended or failed."""
        self.data = b""
        self._at = 0
        self._left = _OVER
        self._binary = self._text = None
        if self._engine is not None:
            # Its generator refers to it: closing that lets both go now, not when the garbage is collected.
            self._engine._parse_more.close()
            self._engine = None

    def next(self) -> str | bytes | Control | None:
        """Decode one message or control frame; None when more bytes are needed.

        Returns:
            `str` for a text message, `bytes` for a binary one, a `Control` otherwise.

        Raises:
            FrameError: the peer broke RFC 6455 or RFC 7692, or a limit was passed.
        """
        while True:
            if self._left:
                return self._resume_frame()
            data = self.data
            at = self._at
            size = len(data)
            if size - at < 2:
                return None
            if self._fast_lane:
                first = data[at]
                # 126 and 127 announce an extended length; it is over 127 when the masking bit is wrong.
                length = data[at + 1] ^ self._mask_bit
                # 0x81 and 0x82: a final text or binary frame without RSV bits.
                is_message = (first == 0x81 or first == 0x82) and not self._in_message
                if length < 126:
                    start = at + self._short_header
                    stop = start + length
                    if stop <= size:
                        if is_message:
                            if stop == size:
                                self.data = b""
                                self._at = 0
                            else:
                                self._at = stop
                            if length > self._max_size:
                                raise self._too_big()
                            payload = unmask_short(data[at + 2 : stop]) if self._mask_bit else data[start:stop]
                            if first == 0x82:
                                return payload
                            try:
                                return payload.decode()
                            except UnicodeDecodeError:
                                raise self._bad_text() from None
                        if 0x88 <= first <= 0x8A:  # a whole control frame, also within a message
                            self._consume(stop)
                            payload = unmask_short(data[at + 2 : stop]) if self._mask_bit else data[start:stop]
                            if first != 0x88:
                                return Control(first & 0x0F, payload)
                            return self._judge_close(payload)
                # 0xC1 and 0xC2: the same with RSV1, compressed (RFC 7692 §6).
                is_compressed = (first == 0xC1 or first == 0xC2) and not self._in_message
                if (is_message or is_compressed) and length < 128:
                    header, payload_size = self._measure(at)
                    if header and _is_minimal(length, payload_size):
                        start = at + header
                        if is_message:
                            return self._begin_frame(first, start, payload_size)
                        if self._inflater is not None and start + payload_size <= size:
                            return self._inflate_frame(first, start, start + payload_size)
            if not self._begin_slow(at):
                return None

    def take_partial(self) -> str | bytes | None:
        """Hand over what has arrived of the unfinished message; None when no message is under way.

        What is taken is left out of what `next` returns when the message ends, and may be empty. Text is cut
        between characters.
        """
        if self._text is not None:
            piece = self._text.getvalue()
            self._text = StringIO()
            return piece
        if self._binary is not None:
            chunk = b"".join(self._binary)
            self._binary = []
            return chunk
        return None

    # -- headers -----------------------------------------------------------------------------------------

    def _measure(self, at: int) -> tuple[int, int]:
        """Bytes of the frame header at `at` and of its payload by its account; zeros until it is whole."""
        data = self.data
        second = data[at + 1]
        header = 6 if second & _MASKED else 2
        size = second & 0x7F
        extended = 0 if size < 126 else 2 if size == 126 else 8
        header += extended
        if len(data) - at < header:
            return 0, 0
        if extended:
            size = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        return header, size

    def _consume(self, stop: int) -> None:
        if stop == len(self.data):
            self.data = b""
            self._at = 0
        else:
            self._at = stop

    # -- the lane, for frames that are large or arrive in pieces -------------------------------------------

    def _begin_frame(self, first: int, start: int, size: int) -> str | bytes | None:
        """Decode the frame whose payload of `size` bytes begins at `start`, or as much as there is of it."""
        if size > self._max_size:
            raise self._too_big()
        data = self.data
        key = data[start - 4 : start] if self._mask_bit else b""
        stop = start + size
        if stop <= len(data):
            self._consume(stop)
            if not key:
                payload = data[start:stop]
            elif size < _LARGE_PIECE:
                payload = apply_mask(data[start:stop], key)
            else:
                payload = apply_mask(memoryview(data)[start:stop], key)  # what masks it copies it, once
            if first == 0x82:
                return payload
            try:
                return payload.decode()
            except UnicodeDecodeError:
                raise self._bad_text() from None
        self._consume(start)
        self._left = size
        self._slow = False
        self._key = key
        if first == 0x82:
            self._binary = []
        else:
            self._text = StringIO()
        self._resume_lane()
        return None

    def _inflate_frame(self, first: int, start: int, stop: int) -> str | bytes:
        """Decode a whole compressed frame, a message, whose payload is from `start` to `stop`."""
        data = self.data
        payload = data[start:stop]
        if self._mask_bit:
            payload = apply_mask(payload, data[start - 4 : start])
        self._consume(stop)
        assert self._inflater is not None
        try:
            message = self._inflater.message(payload, self._max_size)
        except FrameError as exc:
            raise self._fail(exc.code, exc.reason) from None
        if first == 0xC2:
            return message
        try:
            return message.decode()
        except UnicodeDecodeError:
            raise self._bad_text() from None

    def _resume_frame(self) -> str | bytes | Control | None:
        if self._left == _OVER:
            self.discard()
            return None
        if not self.data:
            return None
        if self._slow:
            return self._resume_slow()
        self._resume_lane()
        return None if self._left else self._take_message()

    def _resume_lane(self) -> None:
        """Unmask, check and keep what has come of the frame."""
        at = self._at
        stop = min(at + self._left, len(self.data))
        piece: bytes | memoryview
        if self._key:
            piece = unmask_piece(self.data, at, stop, self._key)
            self._key = rotate(self._key, stop - at)
        else:
            piece = self.data[at:stop]
        self._consume(stop)
        self._left -= stop - at
        if self._binary is not None:
            _append(self._binary, piece)
        else:
            if self._tail:
                piece = b"".join((self._tail, piece))
            try:
                text, used = utf_8_decode(piece, "strict", not self._left)
            except UnicodeDecodeError:
                raise self._bad_text() from None
            self._tail = bytes(piece[used:])
            assert self._text is not None
            self._text.write(text)

    def _take_message(self) -> str | bytes:
        message: str | bytes
        if self._text is not None:
            message = self._text.getvalue()
            self._text = None
        else:
            assert self._binary is not None
            message = b"".join(self._binary)
            self._binary = None
        return message

    # -- through wsproto ---------------------------------------------------------------------------------

    def _begin_slow(self, at: int) -> bool:
        """Hand the frame at `at` to wsproto from here on; False when too little of it has arrived."""
        header, size = self._measure(at)
        is_control = self.data[at] & 0x08
        if not header or (is_control and len(self.data) - at < header + size):
            # Nothing waits inside wsproto, and a ping that comes in pieces may still go through the lane; but what
            # can already be seen to be wrong fails now.
            self._judge_header(self.data[at:])
            return False
        self._left = header + size
        self._slow = True
        return True

    def _resume_slow(self) -> str | bytes | Control | None:
        engine = self._engine
        if engine is None:
            self._rules = self._new_rules()
            engine = self._engine = _Engine(self._is_client, [self._rules])
        at = self._at
        stop = min(at + self._left, len(self.data))
        engine.receive_bytes(self.data[at:stop])
        self._left -= stop - at
        self._consume(stop)
        event: str | bytes | Control | None = None
        try:
            for frame in engine.received_frames():  # one at the most: no more than one was fed
                event = self._take_frame(frame)
        except ParseFailed as exc:
            raise self._failure(exc, self._rules) from None
        return event

    def _take_frame(self, frame: Frame) -> str | bytes | Control | None:
        payload = frame.payload
        if isinstance(payload, tuple):
            self.discard()
            return Control(CLOSE, b"", int(payload[0]), payload[1])
        if frame.opcode.iscontrol():
            assert isinstance(payload, bytes)
            return Control(int(frame.opcode), payload)
        if frame.message_finished:
            self._in_message = False
            if self._text is None and self._binary is None:
                return payload
            self._keep(payload)
            return self._take_message()
        self._in_message = True
        self._keep(payload)
        assert self._rules is not None
        if not frame.frame_finished:
            return None
        return _EMPTY_FRAGMENT if self._rules.empty else PROGRESS

    def _keep(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            if self._text is None:
                self._text = StringIO()
            self._text.write(payload)
        else:
            if self._binary is None:
                self._binary = []
            _append(self._binary, payload)

    def _new_rules(self) -> _Rules:
        return _Rules(self._max_size, self._max_fragments, self._inflater)

    def _judge_header(self, head: bytes) -> None:
        """Let a wsproto decoder of its own look at a header whose frame has not arrived whole."""
        rules = self._new_rules() if self._rules is None else self._rules.copy()
        judge = FrameDecoder(self._is_client, [rules])
        judge.receive_bytes(head)
        try:
            judge.parse_header()
        except ParseFailed as exc:
            raise self._failure(exc, rules) from None

    def _judge_close(self, payload: bytes) -> Control:
        """Let wsproto judge a whole Close frame, without an engine: it keeps nothing for it."""
        try:
            frame = _JUDGE._process_close(Frame(Opcode.CLOSE, payload, True, True))
        except ParseFailed as exc:
            raise self._failure(exc, None) from None
        self.discard()
        assert isinstance(frame.payload, tuple)
        return Control(CLOSE, b"", int(frame.payload[0]), frame.payload[1])

    # -- failures ------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str) -> FrameError:
        self.discard()
        return FrameError(code, reason)

    def _too_big(self) -> FrameError:
        return self._fail(CloseCode.MESSAGE_TOO_BIG, f"message over {self._max_size} bytes")

    def _bad_text(self) -> FrameError:
        return self._fail(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")

    def _failure(self, exc: ParseFailed, rules: _Rules | None) -> FrameError:
        if rules is not None and rules.reason:
            return self._fail(int(exc.code), rules.reason)
        if exc.code is CloseReason.INVALID_FRAME_PAYLOAD_DATA:
            return self._bad_text()
        return self._fail(int(exc.code), str(exc))


def _append(pieces: list[bytes | bytearray | memoryview], piece: bytes | memoryview) -> None:
    """Add to what has arrived of a message; small pieces share one buffer, so that each does not cost an object."""
    if len(piece) >= _LARGE_PIECE:
        pieces.append(piece)
    elif pieces and isinstance(pieces[-1], bytearray):
        pieces[-1] += piece
    else:
        pieces.append(bytearray(piece))


def _is_minimal(short: int, size: int) -> bool:
    """Whether a payload length that begins with `short` takes the fewest bytes (RFC 6455 §5.2)."""
    if short == 126:
        return size > 125
    return short != 127 or 0xFFFF < size < 1 << 63
