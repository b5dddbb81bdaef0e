"""permessage-deflate: negotiation, bounds, streams and windows, over every backend (RFC 7692)."""

from __future__ import annotations

import random
import sys
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawws import deflate
from rawws.deflate import (
    BACKENDS,
    Backend,
    DeflateOptions,
    DeflateParameters,
    Deflater,
    Inflater,
    confirm,
    load_backend,
    negotiate,
    offer,
)
from rawws.errors import FrameError

MIB = 1024 * 1024


def backend_or_skip(name: str) -> Backend:
    try:
        return load_backend(name)
    except ImportError:
        pytest.skip(f"pip install {name}")


def deflated(message: bytes, window_bits: int = 15, mode: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Deflate one message with the standard library; Z_SYNC_FLUSH cuts its tail, Z_FINISH sets BFINAL=1."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -window_bits)
    payload = compressor.compress(message) + compressor.flush(mode)
    return payload.removesuffix(b"\x00\x00\xff\xff") if mode == zlib.Z_SYNC_FLUSH else payload


def inflated(inflater: Inflater, payload: bytes, limit: int = MIB, size: int | None = None) -> bytes:
    """Inflate one message, whole or in pieces of `size` bytes."""
    if size is None:
        return inflater.message(payload, limit)
    message = b""
    for start in range(0, len(payload), size):
        message += inflater.decompress(payload[start : start + size], limit - len(message))
    return message + inflater.finish(limit - len(message))


def failure(inflater: Inflater, payload: bytes, limit: int = MIB, size: int | None = None) -> int:
    """Return the close code with which inflating one message fails."""
    with pytest.raises(FrameError) as caught:
        inflated(inflater, payload, limit, size)
    assert len(caught.value.reason.encode()) <= 123
    return caught.value.code


def agreed(values: str | list[str], **options: Any) -> str | None:
    """Return the answer to the values of a client's header fields, None when compression is declined."""
    fields = [values] if isinstance(values, str) else values
    parameters = negotiate(fields, DeflateOptions(**options))
    return None if parameters is None else parameters.header


class TestOptions:
    def test_defaults_are_twelve_bits_level_five_and_one_kibibyte(self) -> None:
        options = DeflateOptions()
        assert (options.server_max_window_bits, options.client_max_window_bits) == (12, 12)
        assert (options.server_no_context_takeover, options.client_no_context_takeover) == (False, False)
        assert (options.memory_level, options.level, options.threshold) == (5, None, 1024)

    @pytest.mark.parametrize(
        "options",
        [
            {"server_max_window_bits": 8},  # zlib cannot deflate with it
            {"server_max_window_bits": 16},
            {"client_max_window_bits": 8},
            {"client_max_window_bits": 16},
            {"memory_level": 0},
            {"memory_level": 10},
            {"level": 0},
            {"level": 10},
            {"threshold": -1},
        ],
    )
    def test_a_value_out_of_range_is_a_value_error_that_names_the_field(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            DeflateOptions(**options)  # type: ignore[arg-type]

    def test_the_ends_of_every_range_are_accepted(self) -> None:
        for bits, level in ((9, 1), (15, 9)):
            DeflateOptions(
                server_max_window_bits=bits,
                client_max_window_bits=bits,
                memory_level=level,
                level=level,
                threshold=0,
            )


class TestNegotiation:
    @pytest.mark.parametrize(
        ("values", "answer"),
        [
            # What browsers send.
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
            # What Autobahn's groups 12 and 13 offer: no parameters, then each takeover and each window size.
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits",
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
                "server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_max_window_bits=9",
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=15",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_max_window_bits; server_no_context_takeover; "
                "server_max_window_bits=9, permessage-deflate; client_max_window_bits; "
                "server_no_context_takeover, permessage-deflate; client_max_window_bits",
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=12",
            ),
            # TRAPS 4: `client_max_window_bits=abc`, `="10"`, `=`: quoted numbers are legal.
            ("permessage-deflate; client_max_window_bits=abc", None),
            (
                'permessage-deflate; client_max_window_bits="10"',
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            ),
            (
                'permessage-deflate; client_max_window_bits="1\\0"',
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            ),
            ("permessage-deflate; client_max_window_bits=", None),
            ('permessage-deflate; client_max_window_bits=""', None),
            ('permessage-deflate; client_max_window_bits="10', None),
            ('permessage-deflate; client_max_window_bits="1 0"', None),  # unquoted, it is no token
            ('permessage-deflate; client_max_window_bits="10"1', None),
            ("permessage-deflate; server_max_window_bits=abc", None),
            # TRAPS 5: unknown, repeated, misspelt or wrongly valued parameters; `1_0`.
            ("permessage-deflate; unknown", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-deflate; client_max_window_bits=10; client_max_window_bits=10", None),
            ("permessage-deflate; server_no_context_takover", None),
            ("permessage-deflate; Server_No_Context_Takeover", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_no_context_takeover=true", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=1_0", None),
            ("permessage-deflate; client_max_window_bits=1_0", None),
            ("permessage-deflate; server_max_window_bits=010", None),
            ("permessage-deflate; server_max_window_bits=+10", None),
            ("permessage-deflate; server_max_window_bits=7", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; client_max_window_bits=16", None),
            ("permessage-deflate; client_max_window_bits=\xb2", None),  # a digit only to str.isdigit
            # 256-byte windows: we cannot deflate with one, and can inflate what was deflated with one.
            ("permessage-deflate; server_max_window_bits=8", None),
            (
                "permessage-deflate; client_max_window_bits=8",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=8",
            ),
            (
                "permessage-deflate; client_max_window_bits=15",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            # TRAPS 8: several offers in one header: in order, fresh state each, the first acceptable wins.
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=8, permessage-deflate",
                "permessage-deflate; server_max_window_bits=12",
            ),
            (
                "permessage-deflate; client_max_window_bits=9; unknown, "
                "permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=9",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                ["permessage-deflate; bad=1", "permessage-deflate; server_max_window_bits=11"],
                "permessage-deflate; server_max_window_bits=11",
            ),
            # Other extensions, white space, empty elements, separators inside quotes.
            ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
            ("permessage-bzip2; server_max_window_bits=9", None),
            ("Permessage-Deflate", None),
            (
                'x; y="a, permessage-deflate; \\", z", permessage-deflate',
                "permessage-deflate; server_max_window_bits=12",
            ),
            ('x; y="a, permessage-deflate', None),
            ('permessage-deflate, x; y="', None),  # an unbalanced quote: nothing of the field is used
            (",\t, permessage-deflate ,", "permessage-deflate; server_max_window_bits=12"),
            (
                " permessage-deflate\t;\tserver_max_window_bits = 10 ; client_no_context_takeover ",
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=10",
            ),
            ("permessage-deflate;", None),
            ("permessage-deflate;;server_no_context_takeover", None),
            ("permessage-deflate server_no_context_takeover", None),
            ("permessage-deflate; server_no_context_takeover client_no_context_takeover", None),
            ("permessage-deflate; =10", None),
            ("; permessage-deflate", None),
            ("permessage-deflate\n", None),
            ("", None),
            ([], None),
        ],
    )
    def test_each_offer_gets_its_answer(self, values: str | list[str], answer: str | None) -> None:
        assert agreed(values) == answer

    def test_the_smaller_window_wins_when_the_client_asks_for_a_larger_one(self) -> None:
        # TRAPS 6: server set to 10 bits, client asks 15.
        assert (
            agreed("permessage-deflate; server_max_window_bits=15", server_max_window_bits=10)
            == "permessage-deflate; server_max_window_bits=10"
        )

    def test_the_answer_names_fifteen_bits_when_that_was_asked(self) -> None:
        # RFC 7692 §7.1.2.1: an offer with the parameter is accepted by including it.
        assert (
            agreed("permessage-deflate; server_max_window_bits=15", server_max_window_bits=15)
            == "permessage-deflate; server_max_window_bits=15"
        )

    def test_we_inflate_with_fifteen_bits_unless_the_client_let_itself_be_limited(self) -> None:
        # TRAPS 7: server sets client bits the client did not offer.
        options = DeflateOptions(client_max_window_bits=9)
        unlimited = negotiate(["permessage-deflate"], options)
        assert unlimited is not None
        assert unlimited.client_max_window_bits == 15
        assert "client_max_window_bits" not in unlimited.header
        limited = negotiate(["permessage-deflate; client_max_window_bits"], options)
        assert limited is not None
        assert limited.client_max_window_bits == 9
        assert "client_max_window_bits=9" in limited.header

    def test_takeover_options_are_answered_unasked(self) -> None:
        assert (
            agreed("permessage-deflate", server_no_context_takeover=True, client_no_context_takeover=True)
            == "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=12"
        )

    def test_two_negotiations_share_nothing(self) -> None:
        # TRAPS 17: one extension object for two connections.
        options = DeflateOptions()
        first = negotiate(["permessage-deflate; server_max_window_bits=9"], options)
        second = negotiate(["permessage-deflate"], options)
        assert first is not None
        assert second is not None
        assert (first.server_max_window_bits, second.server_max_window_bits) == (9, 12)
        assert options == DeflateOptions()

    def test_empty_elements_are_no_offers(self) -> None:
        assert agreed(" , \t," * 20 + "permessage-deflate") == "permessage-deflate; server_max_window_bits=12"

    def test_offers_beyond_the_sixteenth_are_not_looked_at(self) -> None:
        assert agreed(["x, " * 15 + "permessage-deflate"]) == "permessage-deflate; server_max_window_bits=12"
        assert agreed(["x, " * 15, "x", "permessage-deflate"]) is None

    @pytest.mark.parametrize("value", ['"' * 16_384, '"\\' * 8_192, "permessage-deflate;" + " " * 16_384 + "="])
    def test_a_hostile_value_is_declined_in_linear_time(self, value: str) -> None:
        assert agreed(value) is None

    @settings(deadline=None)
    @given(
        st.lists(
            st.text(st.characters(max_codepoint=255), max_size=60)
            | st.text('permsg-dflatwinob_="\\;, \t0189', max_size=60)
            | st.lists(
                st.sampled_from(
                    [
                        "permessage-deflate",
                        "server_max_window_bits",
                        "client_max_window_bits",
                        "server_no_context_takeover",
                        "client_no_context_takeover",
                        "x",
                        *(";", ";", "=", ",", '"', "\\", " ", "\t", "8", "9", "10", "15", '"12"'),
                    ]
                )
            ).map("".join),
            max_size=4,
        )
    )
    def test_no_value_raises_and_every_answer_can_be_kept(self, values: list[str]) -> None:
        parameters = negotiate(values, DeflateOptions())
        if parameters is not None:
            assert 9 <= parameters.server_max_window_bits <= 12
            assert 8 <= parameters.client_max_window_bits <= 15
            names = [part.partition("=")[0] for part in parameters.header.split("; ")]
            assert len(names) == len(set(names))
            # RFC 7692 §7.1.2.2: only an offer that had it may be answered with it.
            if "client_max_window_bits" in names:
                assert any("client_max_window_bits" in value for value in values)

    def test_the_answer_is_itself_an_acceptable_offer(self) -> None:
        parameters = DeflateParameters(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=9,
            client_max_window_bits=14,
        )
        assert negotiate([parameters.header], DeflateOptions(client_max_window_bits=15)) == parameters


@pytest.mark.parametrize("name", list(BACKENDS))
class TestInflating:
    @pytest.mark.parametrize("size", [None, 1, 3])
    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),  # RFC 7692 §7.2.3.1: one compressed block
            # §7.2.3.3: a block without compression, then an empty one
            (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),  # §7.2.3.4: BFINAL=1, then the octet 0x00
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello"),  # the same, ended without that octet
            # §7.2.3.5: two blocks with an empty one between them
            (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
            (b"\x00", b""),  # §7.2.3.6: an empty message
            (b"\x02\x00", b""),  # an empty block with fixed codes, then an empty stored one
            (b"", b""),  # no payload at all
        ],
    )
    def test_examples_of_the_rfc_inflate_and_the_next_message_too(
        self, name: str, payload: bytes, message: bytes, size: int | None
    ) -> None:
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        assert inflated(inflater, payload, size=size) == message
        assert inflated(inflater, b"\xf2\x48\xcd\xc9\xc9\x07\x00", size=size) == b"Hello"

    def test_the_second_message_may_refer_to_the_first(self, name: str) -> None:
        # RFC 7692 §7.2.3.2: the second "Hello" is a reference to the first.
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        assert inflated(inflater, b"\xf2\x48\xcd\xc9\xc9\x07\x00") == b"Hello"
        assert inflated(inflater, b"\xf2\x00\x11\x00\x00") == b"Hello"

    def test_without_takeover_a_reference_to_the_message_before_fails_with_1007(self, name: str) -> None:
        inflater = Inflater(15, True, backend=backend_or_skip(name))
        assert inflated(inflater, b"\xf2\x48\xcd\xc9\xc9\x07\x00") == b"Hello"
        assert failure(inflater, b"\xf2\x00\x11\x00\x00") == 1007

    @pytest.mark.parametrize(
        "payload",
        [
            b"\x06",  # BTYPE 11, reserved
            b"\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00",  # LEN and NLEN do not agree
            b"\xf2\x00\x11\x00\x00",  # refers to bytes before the first
        ],
    )
    def test_malformed_data_fails_with_1007(self, name: str, payload: bytes) -> None:
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), payload) == 1007
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), payload, size=1) == 1007

    @pytest.mark.parametrize("size", [None, 1])
    @pytest.mark.parametrize("no_context_takeover", [False, True])
    def test_a_message_that_has_lost_its_end_fails_with_1007(
        self, name: str, no_context_takeover: bool, size: int | None
    ) -> None:
        payload = deflated(b"pay 100 to bob; account 4711 ok")
        for cut in range(1, len(payload)):
            inflater = Inflater(15, no_context_takeover, backend=backend_or_skip(name))
            assert failure(inflater, payload[:cut], size=size) == 1007

    def test_of_two_faults_of_a_whole_message_the_same_is_reported_as_of_its_payload_alone(self, name: str) -> None:
        """Found by fuzzing: with more behind the payload, zlib finds what is malformed after what is too much."""
        payload = bytes.fromhex("b25174fdf1770e7f217f7f7f217f7f7f7f00")
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), payload, limit=16, size=100) == 1009
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), payload, limit=16) == 1009

    @pytest.mark.parametrize("size", [None, 1])
    def test_a_message_that_kept_its_tail_fails_with_1007(self, name: str, size: int | None) -> None:
        payload = deflated(b"Hello") + b"\x00\x00\xff\xff"
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), payload, size=size) == 1007

    @settings(deadline=None)
    @given(data=st.binary(max_size=200), limit=st.integers(0, 300), size=st.integers(1, 50))
    def test_random_bytes_inflate_within_the_limit_or_fail_with_our_error(
        self, name: str, data: bytes, limit: int, size: int
    ) -> None:
        code, message = 0, b""
        try:
            message = inflated(Inflater(12, False, backend=backend_or_skip(name)), data, limit, size)
        except FrameError as error:
            code = error.code
        assert code in (0, 1007, 1008, 1009)
        assert len(message) <= limit

    # TRAPS 3: a deflate block with BFINAL=1, then more messages.

    @pytest.mark.parametrize("size", [None, 1])
    def test_bytes_after_a_final_block_inflate_and_later_messages_are_intact(self, name: str, size: int | None) -> None:
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        final = deflated(b"first ", mode=zlib.Z_FINISH)
        sender = zlib.compressobj(9, zlib.DEFLATED, -15)  # what the sender goes on with
        payloads = [(sender.compress(b"second") + sender.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(3)]
        assert len(payloads[1]) < len(payloads[0])  # it refers to the message before
        assert inflated(inflater, final + final + payloads[0], size=size) == b"first first second"
        assert inflated(inflater, payloads[1], size=size) == b"second"
        assert inflated(inflater, payloads[2], size=size) == b"second"

    def test_a_final_block_empties_the_window(self, name: str) -> None:
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        assert inflated(inflater, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00") == b"Hello"
        assert failure(inflater, b"\xf2\x00\x11\x00\x00") == 1007

    def test_sixty_four_final_blocks_in_a_message_are_accepted_and_one_more_fails_with_1008(self, name: str) -> None:
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        empty = b"\x03\x00"  # BFINAL=1, BTYPE=01, end of block
        for _ in range(2):  # counted for each message
            assert inflated(inflater, empty * 64 + b"\x00") == b""
        assert failure(inflater, empty * 65 + b"\x00") == 1008
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), empty * 65, size=1) == 1008

    # TRAPS 2: 4 KB of deflate that inflate to 4 MiB; 260 KB to 256 MiB.

    @pytest.mark.parametrize("size", [None, 1000, 65_536, 65_537])
    def test_four_kilobytes_that_inflate_to_four_mebibytes_are_bounded(self, name: str, size: int | None) -> None:
        bomb = deflated(bytes(4 * MIB))
        assert len(bomb) < 4100
        backend = backend_or_skip(name)
        assert inflated(Inflater(15, False, backend=backend), bomb, 4 * MIB, size) == bytes(4 * MIB)
        assert failure(Inflater(15, False, backend=backend), bomb, 4 * MIB - 1, size) == 1009
        assert failure(Inflater(15, False, backend=backend), bomb, MIB, size) == 1009

    @pytest.mark.parametrize("size", [None, 10_000])
    def test_a_bomb_of_256_mebibytes_fails_with_1009_in_bounded_memory(self, name: str, size: int | None) -> None:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        mebibyte = bytes(MIB)
        bomb = b"".join(compressor.compress(mebibyte) for _ in range(256)) + compressor.flush()
        assert 250_000 < len(bomb) < 270_000
        inflater = Inflater(15, False, backend=backend_or_skip(name))
        tracemalloc.start()
        try:
            code = failure(inflater, bomb, MIB) if size is None else _failure_of_pieces(inflater, bomb, size)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert code == 1009
        assert peak < MIB + 512 * 1024

    @pytest.mark.parametrize("message", [b"a" * 250, b"a" * 65_535, b"a" * 65_536, b"a" * 65_537, b"\x00\xff" * 5])
    @pytest.mark.parametrize("size", [None, 1, 7])
    def test_exactly_the_limit_is_accepted_and_one_byte_more_refused(
        self, name: str, message: bytes, size: int | None
    ) -> None:
        backend = backend_or_skip(name)
        for mode in (zlib.Z_SYNC_FLUSH, zlib.Z_FINISH):
            payload = deflated(message, mode=mode)
            assert inflated(Inflater(15, False, backend=backend), payload, len(message), size) == message
            assert failure(Inflater(15, False, backend=backend), payload, len(message) - 1, size) == 1009

    def test_a_limit_of_zero_accepts_an_empty_message_alone(self, name: str) -> None:
        backend = backend_or_skip(name)
        assert inflated(Inflater(15, False, backend=backend), b"\x00", 0) == b""
        assert failure(Inflater(15, False, backend=backend), deflated(b"a"), 0) == 1009

    def test_a_negative_limit_is_no_licence(self, name: str) -> None:
        assert failure(Inflater(15, False, backend=backend_or_skip(name)), deflated(bytes(MIB)), -1) == 1009

    @settings(deadline=None)
    @given(
        members=st.lists(st.binary(max_size=300) | st.binary(max_size=8).map(lambda b: b * 40), max_size=6),
        size=st.integers(1, 400),
        step=st.integers(1, 40),
    )
    def test_output_crossing_any_step_is_complete(self, name: str, members: list[bytes], size: int, step: int) -> None:
        payload = b"".join(deflated(member, mode=zlib.Z_FINISH) for member in members) + b"\x00"
        message = b"".join(members)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deflate, "_STEP", step)
            inflater = Inflater(15, False, backend=backend_or_skip(name))
            assert inflated(inflater, payload, len(message), size) == message

    @pytest.mark.parametrize("size", [None, 1, 4096])
    @pytest.mark.parametrize("window_bits", range(9, 16))
    def test_what_a_peer_that_keeps_its_context_sends_inflates(
        self, name: str, window_bits: int, size: int | None
    ) -> None:
        sender = zlib.compressobj(9, zlib.DEFLATED, -window_bits)
        rng = random.Random(window_bits)
        rare = rng.randbytes(60)
        inflater = Inflater(window_bits, False, backend=backend_or_skip(name))
        for distance in (0, 0, 100, 400, 900, 1900, 3900, 8000, 16_000, 32_000, 70_000, 0):
            for message in (rare, bytes(rng.choices(b"abcd", k=distance)), rare * 2):
                payload = (sender.compress(message) + sender.flush(zlib.Z_SYNC_FLUSH))[:-4]
                assert inflated(inflater, payload, size=size) == message
                assert len(inflater._window) <= 1 << window_bits

    @pytest.mark.parametrize("size", [None, 1, 3000])
    def test_the_window_reaches_back_as_far_as_was_agreed_and_no_further(self, name: str, size: int | None) -> None:
        said = random.Random(4).randbytes(4096)
        stored = b"\x00\x00\x10\xff\xef" + said + b"\x00"  # a block without compression, then the empty one
        # A block with fixed codes: 3 bytes from 4096, and from 4097 bytes before; then the empty block.
        for reference, message in ((b"\x02\xf6\xff\x01\x00", said[:3]), (b"\x02\x0e\x00\x00\x00", None)):
            inflater = Inflater(12, False, backend=backend_or_skip(name))
            assert inflated(inflater, stored, size=size) == said
            if message is None:
                assert failure(inflater, reference, size=size) == 1007
            else:
                assert inflated(inflater, reference, size=size) == message

    def test_a_window_of_eight_bits_inflates(self, name: str) -> None:
        message = bytes(range(200)) * 3  # no distance beyond 200
        inflater = Inflater(8, False, backend=backend_or_skip(name))
        for _ in range(2):
            assert inflated(inflater, deflated(message, 9), size=1) == message


def _failure_of_pieces(inflater: Inflater, payload: bytes, size: int) -> int:
    """Return the close code, keeping what was inflated as a connection does: in a list."""
    pieces: list[bytes] = []
    room = MIB
    try:
        for start in range(0, len(payload), size):
            pieces.append(inflater.decompress(payload[start : start + size], room))
            room -= len(pieces[-1])
    except FrameError as error:
        return error.code
    raise AssertionError("the whole bomb was inflated")


def window_bits_needed(payload: bytes, message: bytes) -> int:
    """Return the fewest window bits with which the standard library inflates `payload`.

    One byte of output a call: within a call zlib also refers to what it has just written, beyond its window.
    """
    for bits in range(8, 16):
        inflater = zlib.decompressobj(-bits)
        output = bytearray()
        try:
            while byte := inflater.decompress(inflater.unconsumed_tail if output else payload, 1):
                output += byte
        except zlib.error:
            continue
        assert output == message
        return bits
    raise AssertionError("not inflatable with any window")


MESSAGES = st.lists(
    st.binary(max_size=200)
    | st.binary(min_size=1, max_size=20).map(lambda b: b * 50)
    | st.sampled_from([b"", b"\x00", b"Hello", bytes(5000), random.Random(1).randbytes(17_000)]),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("name", list(BACKENDS))
class TestDeflating:
    def test_hello_is_what_the_rfc_says(self, name: str) -> None:
        deflater = Deflater(15, False, 8, None, backend=backend_or_skip(name))
        assert deflater.compress(b"Hello") == b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # RFC 7692 §7.2.3.1

    def test_an_empty_message_is_a_zero_octet_at_any_time(self, name: str) -> None:
        deflater = Deflater(15, False, 8, None, backend=backend_or_skip(name))
        inflater = Inflater(15, False)
        for message in (b"", b"", b"Hello", b"", b"", b"Hello"):
            payload = deflater.compress(message)
            assert message or payload == b"\x00"  # RFC 7692 §7.2.3.6
            assert inflated(inflater, payload) == message

    def test_only_the_last_piece_loses_its_tail(self, name: str) -> None:
        deflater = Deflater(15, False, 8, None, backend=backend_or_skip(name))
        pieces = [
            deflater.compress_piece(b"", False),
            deflater.compress_piece(b"Hel", False),
            deflater.compress_piece(b"lo", True),
        ]
        assert pieces[0] == b""
        assert pieces[1].endswith(b"\x00\x00\xff\xff")
        assert not pieces[2].endswith(b"\x00\x00\xff\xff")
        assert zlib.decompressobj(-15).decompress(b"".join(pieces) + b"\x00\x00\xff\xff") == b"Hello"

    def test_a_message_may_end_with_an_empty_piece(self, name: str) -> None:
        deflater = Deflater(15, False, 8, None, backend=backend_or_skip(name))
        inflater = Inflater(15, False)
        for _ in range(2):
            payload = deflater.compress_piece(b"Hello", False) + deflater.compress_piece(b"", True)
            assert payload.endswith(b"\x00\x00\xff\xff\x00")
            assert inflated(inflater, payload) == b"Hello"

    def test_what_a_piece_holds_can_be_read_at_once(self, name: str) -> None:
        deflater = Deflater(12, False, 5, None, backend=backend_or_skip(name))
        inflater = Inflater(12, False)
        assert inflater.decompress(deflater.compress_piece(b"Hello", False), MIB) == b"Hello"

    def test_takeover_shortens_a_repetition_and_its_absence_does_not(self, name: str) -> None:
        message = random.Random(2).randbytes(300)
        kept = Deflater(12, False, 5, None, backend=backend_or_skip(name))
        dropped = Deflater(12, True, 5, None, backend=backend_or_skip(name))
        assert (kept.no_context_takeover, dropped.no_context_takeover) == (False, True)
        assert len(kept.compress(message)) > 300
        assert len(kept.compress(message)) < 100
        assert dropped.compress(message) == dropped.compress(message)

    @pytest.mark.parametrize("level", [1, 6, 9])
    @pytest.mark.parametrize("memory_level", [1, 9])
    def test_every_level_is_accepted(self, name: str, level: int, memory_level: int) -> None:
        deflater = Deflater(12, True, memory_level, level, backend=backend_or_skip(name))
        assert inflated(Inflater(12, True), deflater.compress(b"Hello" * 999)) == b"Hello" * 999

    @settings(deadline=None)
    @given(
        messages=MESSAGES,
        window_bits=st.integers(9, 15),
        no_context_takeover=st.booleans(),
        memory_level=st.integers(1, 9),
        level=st.none() | st.integers(1, 9),
        size=st.integers(1, 5000),
    )
    @example(
        messages=[random.Random(3).randbytes(n) for n in (16_374, 16_379, 16_384, 32_768)],
        window_bits=12,
        no_context_takeover=False,
        memory_level=5,
        level=None,
        size=4096,
    )  # around the output buffers of the libraries
    def test_messages_come_back_over_any_split(
        self,
        name: str,
        messages: list[bytes],
        window_bits: int,
        no_context_takeover: bool,
        memory_level: int,
        level: int | None,
        size: int,
    ) -> None:
        backend = backend_or_skip(name)
        deflater = Deflater(window_bits, no_context_takeover, memory_level, level, backend=backend)
        inflaters = [
            Inflater(window_bits, no_context_takeover),
            Inflater(window_bits, no_context_takeover, backend=backend),
        ]
        reference = zlib.decompressobj(-window_bits)  # the standard library with the window agreed
        for message in messages:
            pieces = [message[start : start + size] for start in range(0, len(message), size)] or [b""]
            payload = b"".join(
                deflater.compress_piece(piece, number == len(pieces)) for number, piece in enumerate(pieces, 1)
            )
            for inflater in inflaters:
                assert inflated(inflater, payload, len(message), size) == message
            if no_context_takeover:
                reference = zlib.decompressobj(-window_bits)
            assert reference.decompress(payload + b"\x00\x00\xff\xff") == message

    @pytest.mark.parametrize("level", [1, None, 9])
    @pytest.mark.parametrize("window_bits", range(9, 16))
    def test_no_window_larger_than_agreed_is_needed(self, name: str, window_bits: int, level: int | None) -> None:
        # Each message repeats 60 rare bytes at one distance, on both sides of every window's end.
        rng = random.Random(window_bits)
        messages = []
        for distance in (100, 200, 300, 450, 700, 980, 1500, 1980, 3000, 4050, 6000, 8150, 16_000, 32_600):
            rare = bytes(rng.choices(range(128, 256), k=60))
            messages.append(rare + bytes(rng.choices(b"abcd", k=distance)) + rare)
        deflater = Deflater(window_bits, False, 8, level, backend=backend_or_skip(name))
        payload = b"".join(deflater.compress(message) + b"\x00\x00\xff\xff" for message in messages)
        needed = window_bits_needed(payload, b"".join(messages))
        assert needed <= window_bits
        assert needed >= window_bits - 1  # and the window is used: zlib's 9 bits reach back only 250 bytes


class TestBackends:
    def test_isal_deflates_where_it_is_installed(self) -> None:
        expected = backend_or_skip("isal")
        deflater = Deflater(12, False, 5, None)
        deflater.compress(b"Hello")
        assert deflater._backend is expected

    def test_zlib_deflates_where_isal_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)  # makes the import raise ImportError
        load_backend.cache_clear()
        deflate._deflating_backend.cache_clear()
        try:
            deflater = Deflater(12, False, 5, None)
            assert deflater.compress(b"Hello") == b"\xf2\x48\xcd\xc9\xc9\x07\x00"
            assert deflater._backend == load_backend("zlib")
        finally:
            load_backend.cache_clear()
            deflate._deflating_backend.cache_clear()

    def test_zlib_inflates(self) -> None:
        inflater = Inflater(12, False)
        assert inflated(inflater, b"\xf2\x48\xcd\xc9\xc9\x07\x00") == b"Hello"
        assert inflater._backend is load_backend("zlib")

    @pytest.mark.parametrize("alone", [True, False])
    def test_between_messages_only_the_window_is_kept(self, alone: bool) -> None:
        inflater, deflater = Inflater(12, alone), Deflater(12, alone, 5, None)
        for kept in (b"", b"Hello", b"HelloHello"):
            assert inflater._inflater is None
            assert inflater._window == (b"" if alone else kept)
            assert deflater._window == (b"" if alone else kept)
            assert inflated(inflater, deflater.compress(b"Hello")) == b"Hello"


class TestOffer:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
            (
                {"server_max_window_bits": 15, "client_max_window_bits": 15},
                "permessage-deflate; client_max_window_bits",
            ),
            (
                {"server_no_context_takeover": True, "client_no_context_takeover": True, "server_max_window_bits": 9},
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
                "server_max_window_bits=9; client_max_window_bits=12",
            ),
        ],
    )
    def test_it_says_what_is_wanted(self, options: dict[str, Any], expected: str) -> None:
        assert offer(DeflateOptions(**options)) == expected

    @pytest.mark.parametrize("client_bits", [9, 15])
    @pytest.mark.parametrize("server_bits", [9, 15])
    @pytest.mark.parametrize("alone", [True, False])
    def test_our_own_server_agrees_with_our_client(self, client_bits: int, server_bits: int, alone: bool) -> None:
        wanted = DeflateOptions(
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
            server_no_context_takeover=alone,
            client_no_context_takeover=alone,
        )
        for ours in (DeflateOptions(), DeflateOptions(client_no_context_takeover=True, server_max_window_bits=10)):
            agreed = negotiate([offer(wanted)], ours)
            assert agreed is not None
            assert confirm([agreed.header], wanted) == agreed


def confirmed(*values: str, **options: Any) -> tuple[bool, bool, int, int]:
    """What a client makes of an answer: both takeovers and both windows."""
    parameters = confirm(values, DeflateOptions(**options))
    assert parameters is not None
    return (
        parameters.server_no_context_takeover,
        parameters.client_no_context_takeover,
        parameters.server_max_window_bits,
        parameters.client_max_window_bits,
    )


ANY_WINDOW: dict[str, Any] = {"server_max_window_bits": 15, "client_max_window_bits": 15}


class TestConfirm:
    @pytest.mark.parametrize("values", [(), ("",), (" ", "\t")])
    def test_no_extension_is_no_compression(self, values: tuple[str, ...]) -> None:
        assert confirm(values, DeflateOptions()) is None

    def test_what_the_server_says_binds(self) -> None:
        assert confirmed("permessage-deflate", **ANY_WINDOW) == (False, False, 15, 15)
        assert confirmed("permessage-deflate; server_no_context_takeover", **ANY_WINDOW) == (True, False, 15, 15)
        assert confirmed("permessage-deflate; client_no_context_takeover", **ANY_WINDOW) == (False, True, 15, 15)
        assert confirmed('permessage-deflate; server_max_window_bits="8"', **ANY_WINDOW) == (False, False, 8, 15)
        assert confirmed("permessage-deflate; client_max_window_bits=8", **ANY_WINDOW) == (False, False, 15, 8)

    def test_our_own_wishes_hold_where_the_server_is_silent(self) -> None:
        answer = "permessage-deflate; server_max_window_bits=12"
        assert confirmed(answer, client_max_window_bits=10, client_no_context_takeover=True) == (False, True, 12, 10)

    @pytest.mark.parametrize(
        "values",
        [
            ("permessage-deflate, permessage-deflate",),
            ("permessage-deflate", "permessage-deflate"),
            ("x-webkit-deflate-frame",),
            ("permessage-deflate, x",),
            ("permessage-deflate; x",),
            ("permessage-deflate; server_no_context_takeover=1",),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover",),
            ("permessage-deflate; server_max_window_bits",),
            ("permessage-deflate; server_max_window_bits=7",),
            ("permessage-deflate; server_max_window_bits=16",),
            ("permessage-deflate; server_max_window_bits=1_0",),
            ("permessage-deflate; client_max_window_bits",),
            ("permessage-deflate; client_max_window_bits=abc",),
            ('permessage-deflate; client_max_window_bits="',),
            ("permessage-deflate;",),
            ("permessage-deflate\xe4",),
            ('"',),
        ],
    )
    def test_what_accepts_no_offer_of_ours_is_a_value_error(self, values: tuple[str, ...]) -> None:
        """TRAPS 4, 5, 8, for the client: a strict parser that raises nothing else."""
        with pytest.raises(ValueError, match="server"):
            confirm(values, DeflateOptions(**ANY_WINDOW))

    @pytest.mark.parametrize(
        ("value", "options"),
        [
            ("permessage-deflate", {"server_max_window_bits": 12}),
            ("permessage-deflate; server_max_window_bits=13", {"server_max_window_bits": 12}),
            ("permessage-deflate", {"server_max_window_bits": 15, "server_no_context_takeover": True}),
            ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=13", {}),
        ],
    )
    def test_what_does_not_keep_to_our_offer_is_a_value_error(self, value: str, options: dict[str, Any]) -> None:
        """RFC 7692 §7.1.1.1, §7.1.2."""
        with pytest.raises(ValueError, match="server"):
            confirm([value], DeflateOptions(**options))

    @given(st.lists(st.text(alphabet=st.characters(max_codepoint=255), max_size=40), max_size=3))
    def test_any_values_are_an_agreement_none_or_a_value_error(self, values: list[str]) -> None:
        for given_values in (values, [f"permessage-deflate{value}" for value in values]):
            with suppress(ValueError):
                confirm(given_values, DeflateOptions(**ANY_WINDOW))
