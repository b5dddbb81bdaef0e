"""permessage-deflate (RFC 7692): what is negotiated, and how messages are deflated and inflated.

Facts: the layer above decides which messages are compressed and what RSV1 means; this module knows payloads
and the values of Sec-WebSocket-Extensions fields, no frames, sockets or clocks. `Inflater` and `Deflater` do
not care whether a server or a client uses them.

Strategy: an offer that cannot be met exactly is declined and the next one is looked at, so that a bad offer
costs a client its compression and never its connection. Nothing is inflated beyond the bound that the caller
gives with each call.

Between messages no object of a library is kept. What a context comes to is the window, the last bytes that were
said: at most 4 KiB with 12 window bits, and less while less was said, where the libraries' objects take 11 KB to
inflate and 38 (zlib) to 168 KB (isal) to deflate. A new object that is given the window as its dictionary reads
and writes the same bytes, for 0.4 µs a message more to inflate and 1.3 (isal) or 6 µs (zlib) to deflate.

Cost, measured with 12 window bits: to deflate 4 KiB of JSON with context / of random bytes, and what is left of
the JSON: zlib at level 6 49 / 125 µs, 655 B; zlib-ng at level 6 33 / 82 µs, 654 B; isal at level 1 10 / 20 µs,
907 B. So isal deflates where it is installed (`rawws[speed]`); in one of some thousand messages the same input gives
other bytes than before, which inflate to the same. Inflating stays with zlib: 8 µs against 5 µs for isal, which lets
some malformed streams pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, final

from .errors import CloseCode, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "BACKENDS",
    "Backend",
    "DeflateOptions",
    "DeflateParameters",
    "Deflater",
    "Inflater",
    "confirm",
    "load_backend",
    "negotiate",
    "offer",
]

# --- Backends -----------------------------------------------------------------------------------------------


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self, mode: int, /) -> bytes: ...


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A library with the interface of the standard library's zlib."""

    compressobj: Callable[[int, int, int, int, int, bytes], _Compressor]
    decompressobj: Callable[[int, bytes], _Decompressor]
    error: type[Exception]
    default_level: int
    """The level that None stands for."""
    max_level: int
    """The highest level that the library knows."""
    max_memory_level: int
    """The highest memory level that is of use: more of isal's make no message of up to 64 KiB faster or shorter."""


BACKENDS: Final[Mapping[str, tuple[str, int, int, int]]] = {
    "zlib": ("zlib", 6, 9, 9),
    "zlib-ng": ("zlib_ng.zlib_ng", 6, 9, 9),
    "isal": ("isal.isal_zlib", 1, 3, 3),
}
"""Name: module, default level, highest level, highest memory level. Each deflates with 9 to 15 window bits."""


@cache
def load_backend(name: str) -> Backend:
    """Import the backend called `name`, a key of `BACKENDS`.

    Raises:
        ImportError: it is not installed.
    """
    module_name, default_level, max_level, max_memory_level = BACKENDS[name]
    module = import_module(module_name)
    return Backend(
        compressobj=module.compressobj,
        decompressobj=module.decompressobj,
        error=module.error,
        default_level=default_level,
        max_level=max_level,
        max_memory_level=max_memory_level,
    )


@cache  # a failed import is not remembered by Python, and costs more than a message
def _deflating_backend() -> Backend:
    try:
        return load_backend("isal")
    except ImportError:
        return load_backend("zlib")


# --- Negotiation (RFC 7692 §7.1) ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeflateOptions:
    """What a server or a client wants of permessage-deflate; the `server_` fields are about what the server sends.

    Raises:
        ValueError: a field is outside its range.
    """

    server_max_window_bits: int = 12
    """Base-2 logarithm of the server's window in bytes, 9 to 15; fewer where a client asks for fewer."""
    client_max_window_bits: int = 12
    """The same for clients' windows, 9 to 15, asked of those that offer to be asked; others may use 15."""
    server_no_context_takeover: bool = False
    """Whether the server deflates each message on its own: less memory, shared broadcasts, more bytes."""
    client_no_context_takeover: bool = False
    """Whether clients are asked to deflate each message on its own."""
    memory_level: int = 5
    """zlib's memLevel, 1 to 9: its tables take 2 to the power of this plus 9 bytes while it works, 16 KiB for 5."""
    level: int | None = None
    """zlib's level, 1 to 9; None: the backend's default. A backend with fewer levels takes its highest."""
    threshold: int = 1024
    """Bytes from which on a message is compressed; shorter ones leave as they are, and what would not get shorter."""

    def __post_init__(self) -> None:
        for name in ("server_max_window_bits", "client_max_window_bits"):
            # 8 is missing because zlib cannot deflate with it; `negotiate` says what that means for offers.
            if not 9 <= getattr(self, name) <= 15:
                raise ValueError(f"{name} must be 9 to 15, not {getattr(self, name)!r}")
        if not 1 <= self.memory_level <= 9:
            raise ValueError(f"memory_level must be 1 to 9, not {self.memory_level!r}")
        if self.level is not None and not 1 <= self.level <= 9:
            raise ValueError(f"level must be 1 to 9 or None, not {self.level!r}")
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, not {self.threshold!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeflateParameters:
    """What one connection agreed on."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    """What the server deflates with: 9 to 15 for us as the server, 8 to 15 for us as the client."""
    client_max_window_bits: int
    """What the client deflates with, 8 to 15; 15 unless the client let itself be limited."""

    @property
    def header(self) -> str:
        """The value of Sec-WebSocket-Extensions in the server's answer (RFC 7692 §7.1).

        A server may name the first three parameters unasked. The fourth may only answer an offer that had it;
        it is left out when it is 15, which is what its absence means.
        """
        parts = ["permessage-deflate"]
        if self.server_no_context_takeover:
            parts.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append("client_no_context_takeover")
        parts.append(f"server_max_window_bits={self.server_max_window_bits}")
        if self.client_max_window_bits < 15:
            parts.append(f"client_max_window_bits={self.client_max_window_bits}")
        return "; ".join(parts)


_MAX_OFFERS: Final = 16
"""Extension offers looked at in one request; browsers send one, Autobahn's longest list has three."""

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# The alternatives exclude each other at the first character, so that a failed match costs linear time.
_QUOTED: Final = r'"((?:[^"\\]|\\.)*)"'
_BALANCED: Final = re.compile(rf'(?:[^"]|{_QUOTED})*', re.DOTALL)
_ELEMENT: Final = re.compile(rf'(?:[^",]|{_QUOTED})+', re.DOTALL)
_NAME: Final = re.compile(rf"[ \t]*({_TOKEN})[ \t]*")
# RFC 6455 §4.3 writes its grammar with RFC 2616's implied white space, so it may stand around "=" as well.
_PARAMETER: Final = re.compile(rf";[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|{_QUOTED})[ \t]*)?", re.DOTALL)
_WHOLE_TOKEN: Final = re.compile(_TOKEN)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_WINDOW_BITS: Final = {str(bits): bits for bits in range(8, 16)}  # RFC 7692 §7.1.2: no leading zeros


def negotiate(values: Iterable[str], options: DeflateOptions) -> DeflateParameters | None:
    """Accept the first offer of permessage-deflate that can be met exactly (RFC 7692 §5.1, §7.1).

    Other extensions are skipped. An offer is declined when it is malformed, or has a parameter that is
    unknown, repeated or of a wrong value; a field with an unbalanced quote is skipped whole. RFC 6455 §9.1
    would fail the handshake for a malformed value; declining is gentler and as safe, since nothing of it is
    used.
    `server_max_window_bits=8` is declined too: zlib cannot deflate with a window of 256 bytes, and the answer
    must not name a larger one than the offer (RFC 7692 §7.1.2.1).

    Args:
        values: the values of the client's Sec-WebSocket-Extensions fields, in order, decoded as latin-1. Of
            the offers in them the first 16 are looked at.
        options: what the server wants.

    Returns:
        What was agreed, or None when no offer is acceptable. It never raises, whatever the values are.
    """
    for _, offer in zip(range(_MAX_OFFERS), _elements(values), strict=False):
        parameters = _parse_offer(offer)
        if parameters is not None:
            answer = _answer(parameters, options)
            if answer is not None:
                return answer
    return None


def offer(options: DeflateOptions) -> str:
    """Return a client's one offer (RFC 7692 §7.1), which `confirm` holds the answer to.

    It always says `client_max_window_bits`, so that a server may limit our window.
    """
    parts = ["permessage-deflate"]
    if options.server_no_context_takeover:
        parts.append("server_no_context_takeover")
    if options.client_no_context_takeover:
        parts.append("client_no_context_takeover")
    if options.server_max_window_bits < 15:
        parts.append(f"server_max_window_bits={options.server_max_window_bits}")
    bits = options.client_max_window_bits
    parts.append(f"client_max_window_bits={bits}" if bits < 15 else "client_max_window_bits")
    return "; ".join(parts)


def confirm(values: Iterable[str], options: DeflateOptions) -> DeflateParameters | None:
    """Check that a server's answer accepts our `offer` (RFC 6455 §4.1, RFC 7692 §7.1).

    Args:
        values: the values of the server's Sec-WebSocket-Extensions fields, decoded as latin-1.
        options: what the offer was made from.

    Returns:
        What was agreed, None where the server takes no extension. `client_max_window_bits` is what we may use, our
        own wish included; it can be 8, which zlib cannot deflate with.

    Raises:
        ValueError: this accepts something that we did not offer, or not all that we insisted on.
    """
    values = tuple(values)
    elements = list(_elements(values))
    if not elements and all(not value.strip(" \t") for value in values):
        return None
    parameters = _parse_offer(elements[0]) if len(elements) == 1 and all(map(_BALANCED.fullmatch, values)) else None
    if parameters is None:
        raise ValueError("the server accepted an extension that was not offered")
    server_max_window_bits = client_max_window_bits = 15
    for name, value in parameters.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover") and value is None:
            continue
        if name == "server_max_window_bits" and value in _WINDOW_BITS:
            server_max_window_bits = _WINDOW_BITS[value]
        elif name == "client_max_window_bits" and value in _WINDOW_BITS:
            client_max_window_bits = _WINDOW_BITS[value]
            if client_max_window_bits > options.client_max_window_bits:  # RFC 7692 §7.1.2.2
                raise ValueError("the server allows a larger window than was offered")
        else:
            raise ValueError("the server's answer has an unknown parameter of permessage-deflate, or a wrong value")
    # RFC 7692 §7.1.1.1, §7.1.2.1: a server that cannot do what these two ask for must decline the offer.
    if options.server_no_context_takeover and "server_no_context_takeover" not in parameters:
        raise ValueError("the server would use context takeover")
    if server_max_window_bits > options.server_max_window_bits:
        raise ValueError("the server would use a larger window than was asked for")
    return DeflateParameters(
        server_no_context_takeover="server_no_context_takeover" in parameters,
        # RFC 7692 §7.1.1.2: ours is a hint that the server need not repeat, and its word binds us.
        client_no_context_takeover=options.client_no_context_takeover or "client_no_context_takeover" in parameters,
        server_max_window_bits=server_max_window_bits,
        client_max_window_bits=min(client_max_window_bits, options.client_max_window_bits),
    )


def _elements(values: Iterable[str]) -> Iterator[str]:
    """Yield the comma-separated elements of all fields that have balanced quotes."""
    for value in values:
        if _BALANCED.fullmatch(value):
            for match in _ELEMENT.finditer(value):
                if match[0].strip(" \t"):  # an empty element counts for nothing (RFC 9110 §5.6.1.2)
                    yield match[0]


def _parse_offer(offer: str) -> dict[str, str | None] | None:
    """Return the parameters of one offer of permessage-deflate; None for anything else and when malformed."""
    name = _NAME.match(offer)
    if name is None or name[1] != "permessage-deflate":
        return None
    parameters: dict[str, str | None] = {}
    position = name.end()
    while position < len(offer):
        match = _PARAMETER.match(offer, position)
        if match is None or match[1] in parameters:
            return None
        parameter, value, quoted = match.groups()
        if quoted is not None:
            value = _QUOTED_PAIR.sub(r"\1", quoted)
            if not _WHOLE_TOKEN.fullmatch(value):  # RFC 6455 §9.1: unquoted, it must be a token
                return None
        parameters[parameter] = value
        position = match.end()
    return parameters


def _answer(parameters: dict[str, str | None], options: DeflateOptions) -> DeflateParameters | None:
    """Meet one well-formed offer, or return None where that is impossible."""
    server_no_context_takeover = options.server_no_context_takeover
    client_no_context_takeover = options.client_no_context_takeover
    server_max_window_bits = options.server_max_window_bits
    client_max_window_bits = 15
    for name, value in parameters.items():
        if name == "server_no_context_takeover" and value is None:
            server_no_context_takeover = True
        elif name == "client_no_context_takeover" and value is None:
            client_no_context_takeover = True  # a hint; taking it up frees the inflater between messages
        elif name == "server_max_window_bits" and value in _WINDOW_BITS and value != "8":
            server_max_window_bits = min(server_max_window_bits, _WINDOW_BITS[value])
        elif name == "client_max_window_bits" and (value is None or value in _WINDOW_BITS):
            offered = 15 if value is None else _WINDOW_BITS[value]
            client_max_window_bits = min(options.client_max_window_bits, offered)
        else:
            return None
    return DeflateParameters(
        server_no_context_takeover=server_no_context_takeover,
        client_no_context_takeover=client_no_context_takeover,
        server_max_window_bits=server_max_window_bits,
        client_max_window_bits=client_max_window_bits,
    )


# --- Payloads (RFC 7692 §7.2) -------------------------------------------------------------------------------

_TAIL: Final = b"\x00\x00\xff\xff"
"""What a sender cuts from the end of a message and a receiver puts back (RFC 7692 §7.2.1, §7.2.2)."""

_END: Final = _TAIL + b"\x03\x00"
"""That, and an empty last block: only where the payload was whole does the stream end with it."""

_SYNC_FLUSH: Final = 2
"""Z_SYNC_FLUSH, the same number in every backend."""

_MAX_STREAMS: Final = 64
"""Blocks with BFINAL=1 in one message. Each costs a new inflater, and a peer could buy one for two bytes."""

_STEP: Final = 64 * 1024
"""Bytes inflated, and bytes fed, in one call: what a refused message costs beyond its bound."""


def _slide(window: bytes, said: bytes, size: int) -> bytes:
    """Return the last `size` bytes of what a window held and what was said after it."""
    kept = size - len(said)
    if kept <= 0:
        return said[-size:]
    return window[-kept:] + said


@final
class Inflater:
    """Inflates the messages of one direction of a connection, never beyond a bound (RFC 7692 §7.2.2).

    A block with BFINAL=1 ends a DEFLATE stream, and the bytes after it begin a new one with an empty window,
    also under context takeover: RFC 7692 §7.2.3.4 allows such blocks and says nothing of the window; in
    RFC 1951 a reference reaches back to blocks of its own stream only; and a library that ended its stream
    has nothing left to refer to. A reference beyond is malformed data. Later messages use the new window.

    After a FrameError the object is of no further use: the connection has failed.

    Args:
        window_bits: what the sender agreed to, 8 to 15.
        no_context_takeover: whether the sender starts each message with an empty window.
        backend: the library to inflate with; zlib by default.
    """

    __slots__ = ("_backend", "_inflater", "_no_context_takeover", "_streams", "_window", "_window_bits")

    def __init__(self, window_bits: int, no_context_takeover: bool, *, backend: Backend | None = None) -> None:
        # Not every library inflates with 8 bits; a larger window inflates all that a smaller one does.
        self._window_bits = max(9, window_bits)
        self._no_context_takeover = no_context_takeover
        self._backend = backend
        self._inflater: _Decompressor | None = None  # None: the next byte begins a message, or a new stream in it
        self._window = b""  # what the next stream may refer to
        self._streams = 0  # that ended within this message

    def message(self, payload: bytes, max_length: int) -> bytes:
        """Inflate a whole message: `decompress` and `finish` in one.

        Args, Returns, Raises: as for `decompress`.
        """
        if payload and len(payload) <= _STEP - len(_END):
            window = self._window
            try:
                return self._inflate(payload + _END, max_length, _END)
            except FrameError:
                # zlib looks ahead. Of two faults the same is to be reported in whatever pieces a message came.
                self._window = window
            finally:
                self._inflater = None
                self._streams = 0
        message = self.decompress(payload, max_length)
        return message + self.finish(max_length - len(message))

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Inflate the next piece of a message's payload.

        Args:
            data: bytes of the payload, as they come, across frames of the message too.
            max_length: bytes by which the message may still grow.

        Returns:
            At most `max_length` bytes. While it works, at most twice that are held.

        Raises:
            FrameError: 1009 when there are more, 1007 for malformed data, 1008 for more than 64 blocks with
                BFINAL=1 in a message.
        """
        if len(data) <= _STEP:
            return self._inflate(data, max_length)
        # In steps, because what zlib leaves unread it copies, once for each step of the output.
        view = memoryview(data)
        pieces = []
        for start in range(0, len(data), _STEP):
            piece = self._inflate(view[start : start + _STEP], max_length)
            max_length -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def finish(self, max_length: int) -> bytes:
        """End the message: inflate what its payload left open.

        A payload that ends with a BFINAL=1 block lacks the octet 0x00 that RFC 7692 §7.2.3.4 puts after it;
        it is accepted, since it is whole. One that ends within a block is malformed: something of it is missing.

        Args, Returns, Raises: as for `decompress`.
        """
        result = b"" if self._inflater is None else self._inflate(_END, max_length, _END)
        self._streams = 0
        self._inflater = None
        return result

    def _inflate(self, data: bytes | memoryview, max_length: int, tail: bytes = b"") -> bytes:
        """Inflate `data`, of which `tail` is not the peer's: no stream begins with that, and the last ends with it."""
        backend = self._backend
        if backend is None:
            backend = self._backend = load_backend("zlib")
        pieces = []
        while True:
            inflater = self._inflater
            if inflater is None:
                if not data:
                    break
                inflater = self._inflater = backend.decompressobj(-self._window_bits, self._window)
            # One byte more than allowed is asked for: when fewer come, all input was read and nothing waits
            # inside, which `unconsumed_tail` alone does not tell (zlib and isal hold back output without it).
            # Never 0, which would mean no bound.
            asked = min(max(max_length, 0) + 1, _STEP)
            try:
                piece = inflater.decompress(data, asked)
            except backend.error:
                raise FrameError(CloseCode.INVALID_PAYLOAD, "malformed compressed data") from None
            if len(piece) > max_length:
                raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
            max_length -= len(piece)
            pieces.append(piece)
            if inflater.eof and (inflater.unused_data or not tail):
                self._streams += 1
                if self._streams > _MAX_STREAMS:
                    raise FrameError(CloseCode.POLICY_VIOLATION, "too many final blocks in a message")
                self._inflater = None
                self._window = b""
                data = inflater.unused_data
                if data == tail:
                    break
                continue
            if not self._no_context_takeover:
                self._window = _slide(self._window, piece, 1 << self._window_bits)
            if len(piece) < asked:
                if tail and not inflater.eof:
                    raise FrameError(CloseCode.INVALID_PAYLOAD, "compressed data ends within a block")
                break
            data = inflater.unconsumed_tail
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@final
class Deflater:
    """Deflates the messages of one direction of a connection (RFC 7692 §7.2.1).

    Messages must leave in the order in which they were deflated, and none may be dropped in between unless
    `no_context_takeover` holds: each may refer to the one before.

    Args:
        window_bits: what was agreed, 9 to 15.
        no_context_takeover: whether each message starts with an empty window.
        memory_level: zlib's memLevel, 1 to 9.
        level: zlib's level, 1 to 9, or the backend's highest if that is lower; None: the backend's default.
        backend: the library to deflate with; isal by default where it is installed, else zlib.
    """

    __slots__ = ("_backend", "_level", "_memory_level", "_no_context_takeover", "_window", "_window_bits")

    def __init__(
        self,
        window_bits: int,
        no_context_takeover: bool,
        memory_level: int,
        level: int | None,
        *,
        backend: Backend | None = None,
    ) -> None:
        self._window_bits = window_bits
        self._no_context_takeover = no_context_takeover
        self._memory_level = memory_level
        self._level = level
        self._backend = backend
        self._window = b""

    @property
    def no_context_takeover(self) -> bool:
        """Whether each message stands on its own, so that it may be shared with other peers or dropped."""
        return self._no_context_takeover

    def compress(self, data: bytes) -> bytes:
        """Return the payload of a whole message."""
        return self.compress_piece(data, True)

    def compress_if_smaller(self, data: bytes) -> bytes | None:
        """Return the payload of a whole message, or None where that has no fewer bytes than the message itself.

        Then the message must leave as it is; the window is what it was, for it holds only what was deflated.
        """
        window = self._window
        payload = self.compress(data)
        if len(payload) < len(data):
            return payload
        self._window = window
        return None

    def compress_piece(self, data: bytes, final: bool) -> bytes:
        """Return the payload of the next frame of a message.

        All that was given is in it, so the receiver can read it at once. Only the last frame loses its tail;
        an empty one is the single octet 0x00 (RFC 7692 §7.2.3.6), and one that is neither is empty.
        """
        if data:
            deflater = self._new_deflater()
            payload = deflater.compress(data) + deflater.flush(_SYNC_FLUSH)
            if final:
                payload = payload[: -len(_TAIL)]
        else:
            payload = b"\x00" if final else b""
        if final and self._no_context_takeover:
            self._window = b""
        else:
            self._window = _slide(self._window, data, 1 << self._window_bits)
        return payload

    def _new_deflater(self) -> _Compressor:
        backend = self._backend
        if backend is None:
            backend = self._backend = _deflating_backend()
        level = backend.default_level if self._level is None else min(self._level, backend.max_level)
        # 8: DEFLATED, the only method there is. Negative window bits: no header, no checksum. 0: the default strategy.
        memory_level = min(self._memory_level, backend.max_memory_level)
        return backend.compressobj(level, 8, -self._window_bits, memory_level, 0, self._window)
