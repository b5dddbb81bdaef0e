"""The backlog: what waits, in which order it leaves, and what may be dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.backlog import Backlog, Dropped
from rawws.encoder import SharedMessage

LONG = b"0123456789" * 10


def test_frames_leave_in_order_and_count_until_they_do() -> None:
    backlog = Backlog()
    backlog.put(LONG, True)
    backlog.put(b"678", False)
    assert (backlog.frames_size, backlog.frames_cost, backlog.cost) == (103, 100 + 64, 100 + 64)
    assert backlog.take() == LONG
    assert (backlog.frames_size, backlog.frames_cost) == (3, 64)
    assert backlog.take() == b"678"
    assert (backlog.frames_size, backlog.frames_cost, backlog.cost) == (0, 0, 0)


def test_messages_behind_count_as_what_they_hold_and_are_taken_at_once() -> None:
    backlog = Backlog()
    text, shared = "é" * 40, SharedMessage("é" * 50)
    backlog.put(b"frame", True)
    backlog.put_behind(text, None)
    backlog.put_behind(memoryview(LONG), True)
    backlog.put_behind(shared, None)
    backlog.put_behind(SharedMessage(""), None)
    backlog.put_behind("", None)
    assert (backlog.frames_cost, backlog.cost) == (64, 64 + 80 + 100 + 100 + 64 + 64)
    assert [message for message, _ in list(backlog.take_behind())[:3]] == [text, LONG, shared]
    assert not backlog.take_behind()
    assert backlog.cost == 64


def test_what_cannot_be_sent_is_refused_before_it_waits() -> None:
    backlog = Backlog()
    with pytest.raises(ValueError, match="surrogates not allowed"):
        backlog.put_behind("\udc00", None)
    with pytest.raises(TypeError, match="a message is str or bytes, not int"):
        backlog.put_behind(7, None)  # type: ignore[arg-type]
    assert backlog.cost == 0
    assert not backlog.take_behind()


def test_the_oldest_go_first_and_what_may_not_be_dropped_before_them_leaves() -> None:
    backlog = Backlog()
    backlog.put(b"ctx", False)
    backlog.put(b"old", True)
    backlog.put(LONG, True)
    backlog.put_behind("behind", None)
    assert backlog.drop_oldest(1) == Dropped(1, 1, 3, [b"ctx"])
    assert (backlog.frames_size, backlog.cost) == (100, 164)
    assert backlog.drop_oldest(101) == Dropped(2, 1, 100, [])
    assert backlog.cost == 0


def test_nothing_is_dropped_where_that_would_not_be_enough() -> None:
    backlog = Backlog()
    backlog.put(b"ctx", False)
    backlog.put(b"may go", True)
    assert backlog.drop_oldest(65) is None
    assert backlog.take() == b"ctx"
    assert backlog.take() == b"may go"


def cost(message: bytes) -> int:
    return max(len(message), 64)


@given(
    st.lists(st.tuples(st.sampled_from([b"x", b"yz", LONG, LONG * 2]), st.booleans()), max_size=20),
    st.lists(st.sampled_from([b"x", b"yz", LONG, LONG * 2]), max_size=5),
    st.integers(1, 1500),
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
    before = backlog.cost
    dropped = backlog.drop_oldest(excess)
    if dropped is None:
        assert sum(map(cost, candidates)) < excess
        assert backlog.cost == before
        return
    gone = candidates[: dropped.messages]
    assert sum(map(cost, gone)) >= excess > sum(map(cost, gone[:-1]))
    assert dropped.frame_bytes == sum(map(len, gone[: dropped.frames]))
    left = []
    while backlog.frames_size:
        left.append(backlog.take())
    kept = [frame for frame, droppable in frames if not droppable]
    assert dropped.passed == kept[: len(dropped.passed)]
    assert sorted(dropped.passed + left) == sorted(kept + candidates[dropped.frames : len(candidates) - len(behind)])
    assert [message for message, _ in backlog.take_behind()] == behind[dropped.messages - dropped.frames :]
