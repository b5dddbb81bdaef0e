"""Entries as they stand in Redis: what is read of them, and what is not. The scripts are in test_redis_backplane.py."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.backplane import Entry
from rawws.redis_scripts import MAX_BODY, Link, pack_relayed, unpack, unpack_relayed, who_is

PACKED: Final = b"17 18 1763886000456 message 5 \xc3\x89va hi there"


def test_an_entry_is_read() -> None:
    # The length is that of the name in bytes; the body follows at once, spaces and all.
    assert unpack(PACKED) == Link(17, Entry(18, 1763886000456, "message", "Éva ", "hi there"))
    assert unpack(b"1 2 3 typing 2 Bo") == Link(1, Entry(2, 3, "typing", "Bo", ""))
    last = 2**53 - 1
    assert unpack(b"1 %d %d typing 2 Bo" % (last, last)) == Link(1, Entry(last, last, "typing", "Bo", ""))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"1 2 3 message 1",
        b"1 2 3 message 9 Ada",
        b"1 2 3 dancing 3 Ada",
        b"1 2 3 reset 3 Ada",
        b"2 2 3 message 3 Ada",
        b"x 2 3 message 3 Ada",
        b"1 -2 3 message 3 Ada",
        b"1 2 3.5 message 3 Ada",
        b"1 2 3 message  Ada",
        b"1 12345678901234567 3 message 3 Ada",
        b"1 9007199254740992 3 message 3 Ada",  # 2**53
        b"1 2 9007199254740992 message 3 Ada",
        "1 2 3 message 3 Ada",
        None,
        7,
        b"1 2 3 message 3 Ada" + b"x" * (MAX_BODY + 5000),
        b"1 2 3 message 3 A\xffa",
        b"1 2 3 message 3 Ada\xed\xa0\x80",  # half of a surrogate pair
        b"1 2 3 message 1 \xc3\xa9",
    ],
)
def test_what_no_script_wrote_is_no_entry(packed: object) -> None:
    assert unpack(packed) is None


@given(st.binary(max_size=60) | st.builds(lambda tail: b"1 2 3 message " + tail, st.binary(max_size=60)))
def test_any_bytes_are_an_entry_or_none(packed: bytes) -> None:
    link = unpack(packed)
    assert link is None or link.before < link.entry.id


def test_a_session_cannot_be_told_from_what_stands_for_it() -> None:
    assert who_is("session-of-ada") == who_is("session-of-ada") != who_is("session-of-bob")
    assert "session" not in who_is("session-of-ada")
    assert len(who_is("\ud800")) == 24


@pytest.mark.parametrize("message", ["", "text \u00e9", b"", b"\x00\xff"])
def test_a_relayed_message_comes_out_as_it_went_in(message: str | bytes) -> None:
    assert unpack_relayed(pack_relayed(message)) == message


@pytest.mark.parametrize("packed", [b"", b"x", b"t\xff", "t", None])
def test_what_was_not_relayed_is_no_message(packed: object) -> None:
    assert unpack_relayed(packed) is None
