"""Encoding messages and controls: literal bytes, equality with wsproto, sharing, and round trips."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from rawws import encoder as encoder_module
from rawws.deflate import DeflateOptions, DeflateParameters
from rawws.encoder import Encoder, SharedMessage, close_payload
from rawws.frames import CLOSE, PING, PONG, Control, Decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1024 * 1024
OPTIONS = DeflateOptions()
LONG = "Hello, world! " * 100  # over the threshold of 1024 bytes


def deflate_parameters(
    *, client_bits: int = 15, server_bits: int = 15, client_alone: bool = False, server_alone: bool = False
) -> DeflateParameters:
    return DeflateParameters(
        server_no_context_takeover=server_alone,
        client_no_context_takeover=client_alone,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )


def server(deflate: DeflateParameters | None = None, options: DeflateOptions = OPTIONS) -> Encoder:
    return Encoder(is_client=False, deflate=deflate, options=options)


def client(deflate: DeflateParameters | None = None, options: DeflateOptions = OPTIONS) -> Encoder:
    return Encoder(is_client=True, deflate=deflate, options=options)


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def unmasked(frame: bytes) -> bytes:
    """Turn a client's frame into the same one from a server; it must be masked."""
    assert frame[1] & 0x80
    start = 2 + {126: 2, 127: 8}.get(frame[1] & 0x7F, 0)
    key, payload = frame[start : start + 4], frame[start + 4 :]
    plain = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    return frame[:1] + bytes((frame[1] & 0x7F,)) + frame[2:start] + plain


def masking_key(frame: bytes) -> bytes:
    return frame[2:6]


class TestMessages:
    def test_the_examples_of_the_rfc(self) -> None:
        """RFC 6455 §5.7, unmasked."""
        assert server().message("Hello") == b"\x81\x05\x48\x65\x6c\x6c\x6f"
        assert server().message(bytes(256)) == b"\x82\x7e\x01\x00" + bytes(256)
        assert server().message(bytes(65_536)) == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(65_536)
        assert server().fragment(b"Hel", text=True, begins=True, ends=False, compress=False) == b"\x01\x03Hel"
        assert server().fragment(b"lo", text=True, begins=False, ends=True, compress=False) == b"\x80\x02lo"
        assert server().control(PING, b"Hello") == b"\x89\x05\x48\x65\x6c\x6c\x6f"

    @pytest.mark.parametrize(
        ("size", "head"),
        [
            (0, b"\x00"),
            (1, b"\x01"),
            (125, b"\x7d"),
            (126, b"\x7e\x00\x7e"),
            (65_535, b"\x7e\xff\xff"),
            (65_536, b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ],
    )
    def test_a_length_takes_the_fewest_bytes(self, size: int, head: bytes) -> None:
        for encoder in (server(), server(deflate_parameters(), DeflateOptions(threshold=MIB))):
            assert encoder.message("x" * size) == b"\x81" + head + b"x" * size
            assert encoder.message(bytes(size)) == b"\x82" + head + bytes(size)
            assert encoder.message("x" * size, compress=False) == b"\x81" + head + b"x" * size
        assert unmasked(client().message("x" * size)) == b"\x81" + head + b"x" * size
        assert unmasked(client().message(bytes(size))) == b"\x82" + head + bytes(size)

    def test_text_leaves_as_utf_8(self) -> None:
        assert server().message("né😀") == b"\x81\x07n\xc3\xa9\xf0\x9f\x98\x80"

    def test_whatever_is_like_bytes_leaves_as_binary(self) -> None:
        for like in (b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a.b.c")[::2]):
            assert server().message(like) == b"\x82\x03abc"
            assert unmasked(client().message(like)) == b"\x82\x03abc"

    @pytest.mark.parametrize("message", [None, 1, ["a"], object()])
    def test_anything_else_is_a_type_error(self, message: object) -> None:
        with pytest.raises(TypeError, match=f"str or bytes, not {type(message).__name__}"):
            server().message(message)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"str or bytes, not {type(message).__name__}"):
            server().large_message(message)  # type: ignore[arg-type]

    @pytest.mark.parametrize("text", ["\ud800", "abc\udfff", "x" * 500 + "\ud83d"])
    def test_trap_22_a_lone_surrogate_is_a_value_error(self, text: str) -> None:
        for encoder in (server(), client(), server(deflate_parameters())):
            with pytest.raises(ValueError, match="surrogates"):
                encoder.message(text)
        with pytest.raises(ValueError, match="surrogates"):
            SharedMessage(text)

    def test_a_message_that_could_not_be_encoded_leaves_no_trace_in_the_window(self) -> None:
        encoder, other = server(deflate_parameters()), server(deflate_parameters())
        with pytest.raises(ValueError, match="surrogates"):
            encoder.message(LONG + "\ud800")
        assert encoder.message(LONG) == other.message(LONG)


class TestControls:
    @pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
    def test_controls_of_0_and_125_bytes(self, opcode: int) -> None:
        for encoder in (server(), server(deflate_parameters(), DeflateOptions(threshold=0))):
            assert encoder.control(opcode, b"") == bytes((0x80 | opcode, 0))
            assert encoder.control(opcode, bytes(125)) == bytes((0x80 | opcode, 125)) + bytes(125)
        assert unmasked(client().control(opcode, b"abc")) == bytes((0x80 | opcode, 3)) + b"abc"

    @pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
    def test_trap_22_a_control_of_126_bytes_is_a_value_error(self, opcode: int) -> None:
        for encoder in (server(), client()):
            with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
                encoder.control(opcode, bytes(126))


class TestClosePayload:
    @pytest.mark.parametrize(
        "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    )
    def test_a_code_that_may_be_sent(self, code: int) -> None:
        assert close_payload(code) == code.to_bytes(2, "big")
        assert close_payload(code, "né") == code.to_bytes(2, "big") + b"n\xc3\xa9"

    @pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1006, 1015, 1016, 2000, 2999, 5000, 65_535, 65_536, 70_000])
    def test_trap_22_a_code_that_may_not_be_sent_is_a_value_error(self, code: int) -> None:
        with pytest.raises(ValueError, match=f"{code} may not be sent"):
            close_payload(code)

    def test_no_code_is_an_empty_payload_and_takes_no_reason(self) -> None:
        assert close_payload(1005) == b""
        with pytest.raises(ValueError, match="needs a close code"):
            close_payload(1005, "why")

    @pytest.mark.parametrize(
        ("code", "reason"), [(None, ""), (1000.0, ""), (3000.5, ""), ("1000", ""), (1000, None), (1000, b"why")]
    )
    def test_what_is_no_integer_or_no_text_is_a_type_error(self, code: Any, reason: Any) -> None:
        with pytest.raises(TypeError, match=r"str|int"):  # the compiled build has words of its own
            close_payload(code, reason)

    def test_a_lone_surrogate_in_a_reason_is_a_value_error(self) -> None:
        with pytest.raises(ValueError, match="surrogates"):
            close_payload(1000, "\udc80")

    def test_a_long_reason_is_cut_between_characters(self) -> None:
        assert close_payload(1000, "x" * 123) == b"\x03\xe8" + b"x" * 123
        assert close_payload(1000, "x" * 124) == b"\x03\xe8" + b"x" * 123
        assert close_payload(1000, "x" * 122 + "é") == b"\x03\xe8" + b"x" * 122
        assert close_payload(1000, "€" * 50) == b"\x03\xe8" + "€".encode() * 41

    @given(reason=st.text(max_size=200))
    def test_a_payload_fits_a_control_frame_and_is_utf_8(self, reason: str) -> None:
        payload = close_payload(1000, reason)
        assert len(payload) <= 125
        assert reason.startswith(payload[2:].decode())


class TestMasking:
    def test_every_frame_has_a_fresh_key(self) -> None:
        encoder = client()
        frames = [encoder.message("Hello") for _ in range(700)]  # keys are drawn 256 at a time
        frames += [encoder.control(PING, b"Hello") for _ in range(100)]
        frames += [client().message(b"Hello") for _ in range(100)]
        assert len({masking_key(frame) for frame in frames}) > 890  # 4 bytes repeat once in ten thousand runs
        assert {unmasked(frame) for frame in frames[:700]} == {b"\x81\x05Hello"}

    def test_keys_come_from_the_systems_randomness_each_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = []

        def urandom(size: int) -> bytes:
            drawn.append(size)
            return b"".join(number.to_bytes(4, "big") for number in range(size // 4))

        monkeypatch.setattr("os.urandom", urandom)
        monkeypatch.setattr(encoder_module, "_mask_keys", encoder_module._MaskKeys())
        keys = [masking_key(client().message(b"x")) for _ in range(257)]
        assert keys == [number.to_bytes(4, "big") for number in [*range(255, -1, -1), 255]]
        assert drawn == [1024, 1024]

    def test_a_forked_process_does_not_use_the_keys_of_its_parent(self) -> None:
        keys = encoder_module._MaskKeys()
        keys.next()
        drawn = keys._drawn.copy()
        keys.forget()
        assert len(drawn) == 255
        assert {keys.next() for _ in range(256)}.isdisjoint(drawn[:100])  # by chance once in 160 000 runs


class TestCompression:
    def test_the_example_of_the_rfc(self) -> None:
        """RFC 7692 §7.2.3: RSV1 is set and the tail is cut."""
        for encoder in (server(deflate_parameters()), client(deflate_parameters())):
            frame = encoder.message("Hello", compress=True)
            if frame[1] & 0x80:
                frame = unmasked(frame)
            assert frame[0] == 0xC1
            assert inflated(frame[2:]) == b"Hello"
            assert not frame.endswith(b"\x00\x00\xff\xff")

    def test_messages_from_the_threshold_on_are_compressed(self) -> None:
        encoder = server(deflate_parameters(), DeflateOptions(threshold=100))
        assert encoder.message("x" * 99)[0] == 0x81
        assert encoder.message(bytes(99))[0] == 0x82
        assert encoder.message("x" * 100)[0] == 0xC1
        assert encoder.message(bytes(100))[0] == 0xC2
        assert encoder.message("é" * 49)[0] == 0x81  # bytes count, not characters
        assert encoder.message("é" * 50)[0] == 0xC1

    def test_the_empty_message_is_compressed_if_the_sender_wishes(self) -> None:
        encoder = server(deflate_parameters(), DeflateOptions(threshold=0))
        assert encoder.message("", compress=True) == b"\xc1\x01\x00"

    @pytest.mark.parametrize("alone", [True, False])
    def test_what_would_not_get_shorter_leaves_as_it_is_and_in_no_window(self, alone: bool) -> None:
        """A random megabyte takes 320 bytes more when it is deflated, and would pass a peer's limit of 1 MiB."""
        deflate = deflate_parameters(server_alone=alone)
        encoder, decoder = server(deflate), decoder_for(is_client=True, deflate=deflate)
        noise = random.Random(7).randbytes(MIB)
        messages: list[str | bytes] = [LONG, noise, LONG, noise[:2000], LONG]
        frames = [encoder.message(message) for message in messages]
        assert [frame[0] for frame in frames] == [0xC1, 0x82, 0xC1, 0x82, 0xC1]
        assert frames[1] == b"\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x00" + noise
        assert b"".join(encoder.large_message(noise)) == frames[1]
        assert decoded(decoder, frames) == messages
        assert encoder.message(noise[:2000], compress=True)[0] == 0xC2  # who wishes it gets it
        assert encoder.message("a", compress=None)[0] == 0x81

    def test_a_threshold_of_0_compresses_what_gets_shorter(self) -> None:
        encoder = server(deflate_parameters(), DeflateOptions(threshold=0))
        assert [encoder.message(text)[0] for text in ("", "Hello", "x" * 50)] == [0x81, 0x81, 0xC1]

    def test_the_senders_wish_wins_over_the_threshold(self) -> None:
        for encoder in (server(deflate_parameters()), client(deflate_parameters())):
            assert encoder.message("Hi", compress=True)[0] == 0xC1
            assert encoder.message(b"Hi", compress=True)[0] == 0xC2
            assert encoder.message(LONG, compress=False)[0] == 0x81
            assert encoder.message(LONG, compress=None)[0] == 0xC1

    def test_compresses_says_what_message_does(self) -> None:
        encoder = server(deflate_parameters(), DeflateOptions(threshold=100))
        for size, wish, expected in (
            (99, None, False),
            (100, None, True),
            (0, True, True),
            (1000, False, False),
        ):
            assert encoder.compresses(size, wish) is expected
            assert bool(encoder.message(bytes(size), wish)[0] & 0x40) is expected

    def test_nothing_is_compressed_unless_it_was_negotiated(self) -> None:
        for encoder in (server(), Encoder(is_client=False), Encoder(is_client=False, deflate=deflate_parameters())):
            assert encoder.message(LONG, compress=True)[0] == 0x81
            assert not encoder.compresses(MIB, True)
            assert not encoder.has_context
            assert encoder.shared(SharedMessage(LONG))[0] == 0x81

    @pytest.mark.parametrize("alone", [True, False])
    def test_has_context_is_about_our_own_side(self, alone: bool) -> None:
        assert server(deflate_parameters(server_alone=alone)).has_context is not alone
        assert client(deflate_parameters(client_alone=alone)).has_context is not alone
        assert server(deflate_parameters(client_alone=alone)).has_context
        assert client(deflate_parameters(server_alone=alone)).has_context

    def test_a_message_with_context_refers_to_the_one_before_and_one_without_does_not(self) -> None:
        encoder = server(deflate_parameters())
        first, second = encoder.message(LONG), encoder.message(LONG)
        assert len(second) < len(first)
        encoder = server(deflate_parameters(server_alone=True))
        assert encoder.message(LONG) == encoder.message(LONG)

    @pytest.mark.parametrize(("bits", "reaches"), [(9, False), (15, True)])
    def test_each_side_keeps_to_its_own_window(self, bits: int, reaches: bool) -> None:
        noise = random.Random(0).randbytes(3000)
        for encoder in (
            server(deflate_parameters(server_bits=bits, client_bits=24 - bits)),
            client(deflate_parameters(client_bits=bits, server_bits=24 - bits)),
        ):
            first, second = encoder.message(noise, compress=True), encoder.message(noise[:200], compress=True)
            assert (len(second) < 100) is reaches
            window = zlib.decompressobj(-bits)
            data = b""
            for frame in (first, second):
                plain = unmasked(frame) if frame[1] & 0x80 else frame
                start = 2 + {126: 2, 127: 8}.get(plain[1], 0)
                data += window.decompress(plain[start:] + b"\x00\x00\xff\xff")
            assert data == noise + noise[:200]

    def test_fragments_are_one_compressed_message(self) -> None:
        encoder = server(deflate_parameters())
        frames = [
            encoder.fragment(b"Hello", text=True, begins=True, ends=False, compress=True),
            encoder.fragment(b", world", text=True, begins=False, ends=False, compress=True),
            encoder.fragment(b"", text=True, begins=False, ends=True, compress=True),
        ]
        assert [frame[0] for frame in frames] == [0x41, 0x00, 0x80]  # RSV1 stands in the first frame alone
        window = zlib.decompressobj(-15)
        assert window.decompress(frames[0][2:]) == b"Hello"  # can be read at once
        assert window.decompress(frames[1][2:]) == b", world"
        assert window.decompress(frames[2][2:] + b"\x00\x00\xff\xff") == b""

    def test_a_message_may_be_one_fragment(self) -> None:
        encoder = server(deflate_parameters())
        frame = encoder.fragment(b"Hello", text=False, begins=True, ends=True, compress=True)
        assert frame[0] == 0xC2
        assert inflated(frame[2:]) == b"Hello"
        assert encoder.fragment(b"a", text=False, begins=True, ends=True, compress=False) == b"\x82\x01a"


class TestSharedMessages:
    def test_the_same_bytes_go_to_every_peer(self) -> None:
        message = SharedMessage("Hello")
        frame = server().shared(message)
        assert frame == b"\x81\x05Hello"
        for encoder in (server(), server(deflate_parameters()), server(deflate_parameters(server_alone=True))):
            assert encoder.shared(message) is frame

    @pytest.mark.parametrize("data", [b"abc", bytearray(b"abc")])
    def test_binary(self, data: bytes | bytearray) -> None:
        message = SharedMessage(data)
        assert message.size == 3
        assert server().shared(message) == b"\x82\x03abc"

    def test_what_was_shared_does_not_change_with_its_source(self) -> None:
        source = bytearray(b"x" * 2000)
        message = SharedMessage(source)
        source[:] = b"y" * 2000
        assert inflated(server(deflate_parameters(server_alone=True)).shared(message)[2:]) == b"x" * 2000

    def test_size_is_bytes_before_compression(self) -> None:
        assert SharedMessage("né").size == 3

    def test_it_goes_compressed_only_to_peers_without_context_takeover(self) -> None:
        message = SharedMessage(LONG)
        compressed = server(deflate_parameters(server_alone=True)).shared(message)
        assert compressed[0] == 0xC1
        assert len(compressed) < len(LONG)
        assert server(deflate_parameters(server_alone=True, client_alone=True)).shared(message) is compressed
        for deflate in (None, deflate_parameters(), deflate_parameters(client_alone=True)):
            assert server(deflate).shared(message) is message.plain

    def test_it_is_compressed_once_for_each_window_and_level(self) -> None:
        message = SharedMessage(bytes(range(256)) * 40)
        seen = {}
        for bits in (9, 12, 15):
            for level in (1, 9):
                options = DeflateOptions(level=level)
                deflate = deflate_parameters(server_alone=True, server_bits=bits)
                frame = server(deflate, options).shared(message)
                assert server(deflate, options).shared(message) is frame
                seen[bits, level] = frame
        assert len({id(frame) for frame in seen.values()}) == len(seen)

    def test_it_leaves_as_it_is_where_that_is_shorter(self) -> None:
        message = SharedMessage(random.Random(7).randbytes(2000))
        encoder = server(deflate_parameters(server_alone=True))
        assert encoder.shared(message) is message.plain
        assert encoder.shared(message) is message.plain  # found out once

    def test_the_threshold_of_each_peer_holds(self) -> None:
        message = SharedMessage("x" * 500)
        deflate = deflate_parameters(server_alone=True)
        assert server(deflate).shared(message) is message.plain
        assert server(deflate, DeflateOptions(threshold=500)).shared(message)[0] == 0xC1

    def test_a_shared_frame_leaves_a_peers_own_window_alone(self) -> None:
        deflate = deflate_parameters()
        encoder, decoder = server(deflate), decoder_for(is_client=True, deflate=deflate)
        message = SharedMessage(LONG)
        wire = encoder.message(LONG) + encoder.shared(message) + encoder.message(LONG) + encoder.shared(message)
        assert decoded(decoder, [wire]) == [LONG] * 4

    def test_a_client_masks_a_shared_message_with_a_key_of_its_own(self) -> None:
        message = SharedMessage("Hello")
        frames = [client().shared(message) for _ in range(2)]
        assert [unmasked(frame) for frame in frames] == [b"\x81\x05Hello"] * 2
        assert masking_key(frames[0]) != masking_key(frames[1])  # 4 bytes repeat once in four thousand million runs

    def test_a_client_compresses_a_shared_message_for_itself(self) -> None:
        encoder = client(deflate_parameters())
        frame = unmasked(encoder.shared(SharedMessage("Hello" * 500)))
        assert frame[0] == 0xC1
        assert inflated(frame[2:]) == b"Hello" * 500


# --- The same bytes as wsproto ----------------------------------------------------------------------------------

MESSAGES = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=200),
    st.sampled_from(["x" * 125, "x" * 126, "é" * 32_768, bytes(65_535), bytes(65_536)]),
)


@given(message=MESSAGES)
def test_a_message_is_what_wsproto_makes_of_it(message: str | bytes) -> None:
    expected = bytes(FrameProtocol(False, []).send_data(message))
    assert server().message(message) == expected
    assert SharedMessage(message).plain == expected
    assert unmasked(client().message(message)) == expected
    assert unmasked(bytes(FrameProtocol(True, []).send_data(message))) == expected


@given(payload=st.binary(max_size=125))
def test_a_ping_and_a_pong_are_what_wsproto_makes_of_them(payload: bytes) -> None:
    engine = FrameProtocol(False, [])
    assert server().control(PING, payload) == engine.ping(payload)
    assert server().control(PONG, payload) == engine.pong(payload)
    assert unmasked(client().control(PING, payload)) == engine.ping(payload)


@given(
    code=st.one_of(st.none(), st.sampled_from([1000, 1001, 1011, 1012, 1013, 1014]), st.integers(3000, 4999)),
    reason=st.text(max_size=130),
)
def test_a_close_is_what_wsproto_makes_of_it(code: int | None, reason: str) -> None:
    if code is None:
        reason = ""
    expected = FrameProtocol(False, []).close(code, reason)
    assert server().control(CLOSE, close_payload(1005 if code is None else code, reason)) == expected


@given(pieces=st.lists(st.binary(max_size=200), min_size=1, max_size=5), text=st.booleans())
def test_fragments_are_what_wsproto_makes_of_them(pieces: list[bytes], text: bool) -> None:
    engine = FrameProtocol(False, [])
    for index, piece in enumerate(pieces):
        if text:
            piece = piece.hex().encode()
        begins, ends = index == 0, index == len(pieces) - 1
        expected = engine.send_data(piece.decode() if text else piece, fin=ends)
        assert server().fragment(piece, text=text, begins=begins, ends=ends, compress=False) == expected
        ours = client().fragment(piece, text=text, begins=begins, ends=ends, compress=False)
        assert unmasked(ours) == expected


# --- From an encoder to a decoder -------------------------------------------------------------------------------


def decoder_for(*, is_client: bool, deflate: DeflateParameters | None = None, fast_lane: bool = True) -> Decoder:
    return Decoder(is_client=is_client, max_message_size=MIB, max_fragments=100, deflate=deflate, fast_lane=fast_lane)


def decoded(decoder: Decoder, chunks: Iterable[bytes]) -> list[str | bytes | tuple[int, bytes]]:
    """Messages and controls; empty fragments are left out."""
    events: list[str | bytes | tuple[int, bytes]] = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (event := decoder.next()) is not None:
            if not isinstance(event, Control):
                events.append(event)
            elif event.opcode:
                events.append((event.opcode, event.payload))
    return events


@given(
    is_client=st.booleans(),
    deflate=st.one_of(
        st.none(),
        st.builds(
            deflate_parameters,
            client_bits=st.integers(9, 15),
            server_bits=st.integers(9, 15),
            client_alone=st.booleans(),
            server_alone=st.booleans(),
        ),
    ),
    messages=st.lists(
        st.tuples(
            st.one_of(MESSAGES, st.just("Hello, world! " * 90), st.just(bytes(range(256)) * 20)),
            st.sampled_from([None, True, False]),
            st.sampled_from([None, 1, 7, 5000]),
            st.booleans(),
        ),
        max_size=6,
    ),
    size=st.sampled_from([1, 3, 100, 4096, 1 << 20]),
)
def test_what_one_side_encodes_the_other_decodes(
    fast_lane: bool,
    is_client: bool,
    deflate: DeflateParameters | None,
    messages: list[tuple[str | bytes, bool | None, int | None, bool]],
    size: int,
) -> None:
    """Whole and in pieces, compressed or not, with pings between, whatever was negotiated, in any chunking."""
    encoder = Encoder(is_client=is_client, deflate=deflate, options=OPTIONS)
    wire = b""
    expected: list[str | bytes | tuple[int, bytes]] = []
    for message, wish, step, ping in messages:
        data = message.encode() if isinstance(message, str) else message
        if ping:
            wire += encoder.control(PING, data[:125])
            expected.append((PING, data[:125]))
        if step is None or len(data) > 50 * step:
            wire += encoder.message(message, wish)
        else:
            compress = encoder.compresses(len(data), wish)
            pieces = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
            for index, piece in enumerate(pieces):
                wire += encoder.fragment(
                    piece,
                    text=isinstance(message, str),
                    begins=index == 0,
                    ends=index == len(pieces) - 1,
                    compress=compress,
                )
                if ping and index < len(pieces) - 1:
                    wire += encoder.control(PONG, b"between")
                    expected.append((PONG, b"between"))
        expected.append(message)
    if size < 100 and len(wire) > 4000:
        size = 1000
    chunks = [wire[at : at + size] for at in range(0, len(wire), size)]
    decoder = decoder_for(is_client=not is_client, deflate=deflate, fast_lane=fast_lane)
    assert decoded(decoder, chunks) == expected
