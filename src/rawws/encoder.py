"""Messages and control frames to bytes (RFC 6455 §5.2, RFC 7692 §7.2.1).

Facts: a header takes the fewest bytes that its length allows; a server's frames are not masked, a client's
are, each with a fresh key. A whole message is one frame. What a broadcast sends is encoded once, in a
`SharedMessage`, and the same bytes go to every socket.

Rule: everything that can be wrong with what a caller sends is raised before a byte is made: text with a lone
surrogate, a close code that may not be sent, a control frame over 125 bytes (wsproto sends some of these).

Cost: 0.1 µs for a server's message of 32 bytes, 0.4 µs for a client's. The compressor is made when it is first
needed. This module knows no sockets, no trio and no clock.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, final

from .deflate import Deflater
from .errors import CloseCode
from .frames import BINARY, CONTINUATION, MAX_CONTROL_PAYLOAD, TEXT
from .masking import apply_mask, mask_short

if TYPE_CHECKING:
    from .deflate import DeflateOptions, DeflateParameters

__all__ = ["Encoder", "SharedMessage", "check_close", "close_payload"]

_FIN: Final = 0x80
_RSV1: Final = 0x40
_MASKED: Final = 0x80


def _short_headers(first: int, mask_bit: int) -> list[bytes]:
    return [bytes((first, mask_bit | size)) for size in range(126)]


_TEXT_HEADERS: Final = _short_headers(_FIN | TEXT, 0)
_BINARY_HEADERS: Final = _short_headers(_FIN | BINARY, 0)
_MASKED_TEXT_HEADERS: Final = _short_headers(_FIN | TEXT, _MASKED)
_MASKED_BINARY_HEADERS: Final = _short_headers(_FIN | BINARY, _MASKED)


def _header(first: int, size: int, mask_bit: int) -> bytes:
    """A frame header up to the masking key, its length in the fewest bytes (RFC 6455 §5.2)."""
    if size < 126:
        return bytes((first, mask_bit | size))
    if size <= 0xFFFF:
        return bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")


def close_payload(code: int, reason: str = "") -> bytes:
    """Encode the payload of a Close frame (RFC 6455 §5.5.1, §7.4).

    Args:
        code: 1005 for a Close frame without a code; else 1000 to 1003, 1007 to 1014 or 3000 to 4999.
        reason: its reason; cut between characters to fit 123 bytes of UTF-8.

    Raises:
        ValueError: the code may not stand in a Close frame, a reason without a code, or a lone surrogate.
        TypeError: a code that is no integer, a reason that is no text.
    """
    if not isinstance(code, int) or not isinstance(reason, str):
        raise TypeError(f"a close code is int and a reason str, not {type(code).__name__} and {type(reason).__name__}")
    if code == CloseCode.NO_STATUS_RECEIVED:
        if reason:
            raise ValueError("a close reason needs a close code")
        return b""
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(f"{int(code)} may not be sent as a close code")
    encoded = reason.encode()
    if len(encoded) > MAX_CONTROL_PAYLOAD - 2:
        encoded = encoded[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return int(code).to_bytes(2, "big") + encoded


def check_close(code: int, reason: str = "") -> None:
    """Check what an application wants to close with; as `close_payload`, but that it says some code.

    1005 is what an application is told of a Close frame without one, "and MUST NOT be set" (RFC 6455 §7.4.1).

    Raises:
        ValueError, TypeError: as `close_payload`.
    """
    if code == CloseCode.NO_STATUS_RECEIVED:
        raise ValueError(f"{int(code)} may not be sent as a close code")
    close_payload(code, reason)


class _MaskKeys:
    """Fresh masking keys from the system's randomness, drawn 256 at a time (RFC 6455 §5.3, §10.3).

    All connections of a process share them, those of Trio runs in other threads too: `list.pop` gives no key twice.
    """

    __slots__ = ("_drawn",)

    def __init__(self) -> None:
        self._drawn: list[int] = []

    def next(self) -> int:
        try:
            return self._drawn.pop()
        except IndexError:
            drawn: list[int] = list(struct.unpack(">256I", os.urandom(1024)))
            key = drawn.pop()
            self._drawn.extend(drawn)
            return key

    def forget(self) -> None:
        """Drop what was drawn: after a fork, two processes hold the same keys."""
        self._drawn.clear()


_mask_keys = _MaskKeys()
if hasattr(os, "register_at_fork"):  # pragma: no branch  where there is none, nobody forks
    os.register_at_fork(after_in_child=_mask_keys.forget)


@final
class SharedMessage:
    """One message for many peers: each form of it is encoded once and the same bytes go to every socket.

    Compressed bytes are shared only among peers for whom we compress without context takeover; a frame that
    was compressed with one peer's context would corrupt what another reads next.
    """

    __slots__ = ("_compressed", "first", "payload", "plain")

    def __init__(self, message: str | bytes | bytearray | memoryview) -> None:
        if isinstance(message, str):
            self.first = _FIN | TEXT
            self.payload = message.encode()
        elif isinstance(message, (bytes, bytearray, memoryview)):
            self.first = _FIN | BINARY
            self.payload = bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        self.plain = _header(self.first, len(self.payload), 0) + self.payload
        self._compressed: dict[tuple[int, int, int | None], bytes] | None = None

    def compressed(self, deflate: DeflateParameters, options: DeflateOptions) -> bytes:
        """The shortest frame that peers of these parameters read, who must be without server context takeover."""
        key = (deflate.server_max_window_bits, options.memory_level, options.level)
        if self._compressed is None:
            self._compressed = {}
        frame = self._compressed.get(key)
        if frame is None:
            payload = Deflater(key[0], True, key[1], key[2]).compress_if_smaller(self.payload)
            frame = self.plain if payload is None else _header(self.first | _RSV1, len(payload), 0) + payload
            self._compressed[key] = frame
        return frame

    @property
    def size(self) -> int:
        """Bytes of the message before compression."""
        return len(self.payload)


@final
class Encoder:
    """Messages and control frames in, bytes out.

    Args:
        is_client: mask every frame, each with a fresh key.
        deflate: what the handshake negotiated, or None.
        options: how we compress; without it nothing is compressed, whatever was negotiated.

    Attributes:
        is_client: whose frames these are.
    """

    __slots__ = ("_deflate", "_deflater", "_mask_bit", "_options", "_threshold", "is_client")

    def __init__(
        self,
        *,
        is_client: bool,
        deflate: DeflateParameters | None = None,
        options: DeflateOptions | None = None,
    ) -> None:
        self.is_client = is_client
        self._mask_bit = _MASKED if is_client else 0
        self._deflate = deflate if options is not None else None
        self._options = options
        self._threshold = options.threshold if options is not None and deflate is not None else 1 << 62
        self._deflater: Deflater | None = None

    @property
    def has_context(self) -> bool:
        """Whether what we compress refers to what we compressed before; then none of it may be left out."""
        deflate = self._deflate
        if deflate is None:
            return False
        return not (deflate.client_no_context_takeover if self.is_client else deflate.server_no_context_takeover)

    def compresses(self, size: int, compress: bool | None) -> bool:
        """Whether a message of `size` bytes is worth compressing; `compress` is the sender's wish, if any."""
        if self._deflate is None:
            return False
        return size >= self._threshold if compress is None else compress

    def message(self, message: str | bytes | bytearray | memoryview, compress: bool | None = None) -> bytes:
        """Encode a whole message as one frame.

        Raises:
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate, which UTF-8 cannot say.
        """
        if isinstance(message, str):
            payload = message.encode()
            size = len(payload)
            if size < 126 and compress is None and size < self._threshold:
                if not self.is_client:
                    return _TEXT_HEADERS[size] + payload
                return _MASKED_TEXT_HEADERS[size] + mask_short(payload, _mask_keys.next())
            first = _FIN | TEXT
        elif isinstance(message, (bytes, bytearray, memoryview)):
            payload = message if isinstance(message, bytes) else bytes(message)
            size = len(payload)
            if size < 126 and compress is None and size < self._threshold:
                if not self.is_client:
                    return _BINARY_HEADERS[size] + payload
                return _MASKED_BINARY_HEADERS[size] + mask_short(payload, _mask_keys.next())
            first = _FIN | BINARY
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        return b"".join(self._frame(*self._compressed(first, payload, compress)))

    def large_message(
        self, message: str | bytes | bytearray | memoryview, compress: bool | None = None
    ) -> tuple[bytes, bytes]:
        """Encode a whole message as the header and the payload of one frame, so that the payload is not copied.

        Raises as `message` does.
        """
        if isinstance(message, str):
            return self._frame(*self._compressed(_FIN | TEXT, message.encode(), compress))
        if isinstance(message, (bytes, bytearray, memoryview)):
            payload = message if isinstance(message, bytes) else bytes(message)
            return self._frame(*self._compressed(_FIN | BINARY, payload, compress))
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

    def _compressed(self, first: int, payload: bytes, compress: bool | None) -> tuple[int, bytes]:
        """Compress the payload where that is due, and say so in the first byte of its frame.

        What would not get shorter leaves as it is, unless the sender wishes otherwise: a peer's limit for messages may
        hold for frames too, and a random megabyte that was "compressed" would pass it.
        """
        if not self.compresses(len(payload), compress):
            return first, payload
        deflater = self._deflate_with()
        compressed = deflater.compress(payload) if compress else deflater.compress_if_smaller(payload)
        return (first, payload) if compressed is None else (first | _RSV1, compressed)

    def shared(self, message: SharedMessage) -> bytes:
        """The bytes of a shared message for this peer; a client's are its own."""
        deflate = self._deflate
        if self.is_client:  # every frame is masked with a key of its own: nothing but the message is shared
            return b"".join(self._frame(*self._compressed(message.first, message.payload, None)))
        if deflate is None or not deflate.server_no_context_takeover or message.size < self._threshold:
            return message.plain
        assert self._options is not None
        return message.compressed(deflate, self._options)

    def fragment(self, piece: bytes, *, text: bool, begins: bool, ends: bool, compress: bool) -> bytes:
        """Encode one frame of a message that is sent in pieces (RFC 6455 §5.4, RFC 7692 §7.2.1)."""
        first = (TEXT if text else BINARY) if begins else CONTINUATION
        if ends:
            first |= _FIN
        if compress:
            piece = self._deflate_with().compress_piece(piece, ends)
            if begins:
                first |= _RSV1
        return b"".join(self._frame(first, piece))

    def control(self, opcode: int, payload: bytes) -> bytes:
        """Encode a control frame.

        Raises:
            ValueError: more than 125 bytes of payload (RFC 6455 §5.5).
        """
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a control frame holds at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
        return b"".join(self._frame(_FIN | opcode, payload))

    def _frame(self, first: int, payload: bytes) -> tuple[bytes, bytes]:
        """Return the header and the payload of a frame as they go on the wire."""
        header = _header(first, len(payload), self._mask_bit)
        if not self.is_client:
            return header, payload
        key = _mask_keys.next().to_bytes(4, "big")
        return header + key, apply_mask(payload, key)

    def _deflate_with(self) -> Deflater:
        if self._deflater is None:
            deflate, options = self._deflate, self._options
            assert deflate is not None
            assert options is not None
            if self.is_client:
                bits, takeover = deflate.client_max_window_bits, deflate.client_no_context_takeover
            else:
                bits, takeover = deflate.server_max_window_bits, deflate.server_no_context_takeover
            self._deflater = Deflater(bits, takeover, options.memory_level, options.level)
        return self._deflater
