"""The backlog: what waits, in which order it leaves, and what may be dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.backlog import Backlog, Dropped
from rawws.encoder import SharedMessage


def test_frames_leave_in_order_and_count_until_they_do() -> None:
    backlog = Backlog()
    backlog.put(b"12345", True)
    backlog.put(b"678", False)
    assert (backlog.frames_size, backlog.size) == (8, 8)
    assert backlog.take() == b"12345"
    assert backlog.frames_size == 3
    assert backlog.take() == b"678"
    assert (backlog.frames_size, backlog.size) == (0, 0)


def test_messages_behind_count_as_what_they_hold_and_are_taken_at_once() -> None:
    backlog = Backlog()
    shared = SharedMessage("é")
    backlog.put(b"frame", True)
    backlog.put_behind("é", None)
    backlog.put_behind(memoryview(b"abc"), True)
    backlog.put_behind(shared, None)
    assert (backlog.frames_size, backlog.size) == (5, 5 + 2 + 3 + 2)
    assert list(backlog.take_behind()) == [("é", None), (b"abc", True), (shared, None)]
    assert not backlog.take_behind()
    assert backlog.size == 5


def test_what_cannot_be_sent_is_refused_before_it_waits() -> None:
    backlog = Backlog()
    with pytest.raises(ValueError, match="surrogates not allowed"):
        backlog.put_behind("\udc00", None)
    with pytest.raises(TypeError, match="a message is str or bytes, not int"):
        backlog.put_behind(7, None)  # type: ignore[arg-type]
    assert backlog.size == 0
    assert not backlog.take_behind()


def test_the_oldest_go_first_and_what_may_not_be_dropped_before_them_leaves() -> None:
    backlog = Backlog()
    backlog.put(b"ctx", False)
    backlog.put(b"old", True)
    backlog.put(b"new", True)
    backlog.put_behind("behind", None)
    assert backlog.drop_oldest(1) == Dropped(1, 1, 3, [b"ctx"])
    assert (backlog.frames_size, backlog.size) == (3, 9)
    assert backlog.drop_oldest(4) == Dropped(2, 1, 3, [])
    assert backlog.size == 0


def test_nothing_is_dropped_where_that_would_not_be_enough() -> None:
    backlog = Backlog()
    backlog.put(b"ctx", False)
    backlog.put(b"may go", True)
    assert backlog.drop_oldest(7) is None
    assert backlog.take() == b"ctx"
    assert backlog.take() == b"may go"


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.booleans()), max_size=20),
    st.lists(st.binary(min_size=1, max_size=9), max_size=5),
    st.integers(1, 60),
)
def test_whatever_waits_no_more_is_dropped_than_was_asked_but_for_one_message(
    frames: list[tuple[bytes, bool]], behind: list[bytes], excess: int
) -> None:
    backlog = Backlog()
    for frame, droppable in frames:
        backlog.put(frame, droppable)
    for message in behind:
        backlog.put_behind(message, None)
    candidates = [frame for frame, droppable in frames if droppable] + behind
    before = backlog.size
    dropped = backlog.drop_oldest(excess)
    if dropped is None:
        assert sum(map(len, candidates)) < excess
        assert backlog.size == before
        return
    gone = candidates[: dropped.messages]
    assert sum(map(len, gone)) >= excess > sum(map(len, gone[:-1]))
    assert dropped.frame_bytes == sum(map(len, gone[: dropped.frames]))
    left = []
    while backlog.frames_size:
        left.append(backlog.take())
    kept = [frame for frame, droppable in frames if not droppable]
    assert dropped.passed == kept[: len(dropped.passed)]
    assert sorted(dropped.passed + left) == sorted(kept + candidates[dropped.frames : len(candidates) - len(behind)])
    assert [message for message, _ in backlog.take_behind()] == behind[dropped.messages - dropped.frames :]
