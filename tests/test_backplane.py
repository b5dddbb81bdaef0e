"""The backplanes, one test class over both: order, ids, history, names; and what only the one in memory does."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import pytest
import trio

from rawws.backplane import Backplane, Entry, MemoryBackplane, Seat, TooManyRoomsError
from rawws.redis_backplane import RedisBackplane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.redis_server import RedisServer

ADA: Final = "session-of-ada--"
BO: Final = "session-of-bo---"


class Clock:
    """Microseconds that stand still unless a test moves them."""

    def __init__(self, now: int = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Ear:
    """A subscriber that keeps what it hears, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self._grew = trio.Event()

    def __call__(self, entries: Sequence[Entry]) -> None:
        self.batches.append(list(entries))
        self._grew.set()

    async def until(self, id: int) -> None:
        """Wait until an entry was heard, or one after it."""
        with trio.fail_after(10):
            while not self.ids or self.ids[-1] < id:
                await self.more()

    async def more(self) -> None:
        """Wait for the next batch."""
        self._grew = trio.Event()
        await self._grew.wait()

    @property
    def heard(self) -> list[tuple[str, str, str]]:
        return [(e.kind, e.name, e.body) for batch in self.batches for e in batch]

    @property
    def ids(self) -> list[int]:
        return [e.id for batch in self.batches for e in batch]


async def seated(backplane: Backplane, room: str = "tea", session: str = ADA, name: str = "Ada") -> tuple[Seat, Ear]:
    """Subscribe to a room and take a seat in it."""
    ear = Ear()
    await backplane.subscribe(room, ear)
    seat = await backplane.enter(room, session, name)
    await settled(backplane, ear, room=room)
    return seat, ear


async def bodies(backplane: Backplane, room: str = "tea", **asked: int) -> tuple[list[str], bool, bool]:
    page = await backplane.history(room, **asked)
    return [entry.body for entry in page.entries], page.more, page.gap


async def settled(backplane: Backplane, *ears: Ear, room: str = "tea") -> None:
    """Wait until ears have heard what has happened: that may take a moment, and does over a network."""
    position = (await backplane.history(room)).position
    for ear in ears:
        await ear.until(position)


@pytest.fixture(params=["memory", "redis"])
async def backplane(request: pytest.FixtureRequest) -> AsyncIterator[Backplane]:
    """Each backplane, with nothing in it."""
    if request.param == "memory":
        yield MemoryBackplane()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with RedisBackplane(server.url, prefix=f"test-{secrets.token_hex(6)}") as redis:
        yield redis


class TestEntries:
    async def test_what_happens_reaches_every_subscriber_in_order(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        second = Ear()
        await backplane.subscribe("tea", second)
        await backplane.publish(seat, "one", None)
        await backplane.notify(seat, "typing")
        await backplane.publish(seat, "two", None)
        await backplane.leave(seat)
        await settled(backplane, ear, second)
        rest = [("message", "Ada", "one"), ("typing", "Ada", ""), ("message", "Ada", "two"), ("left", "Ada", "")]
        assert ear.heard == [("joined", "Ada", ""), *rest]
        assert second.heard == rest

    async def test_a_subscription_ends(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        second = Ear()
        await backplane.subscribe("tea", second)
        await backplane.unsubscribe("tea", ear)
        await backplane.publish(seat, "x", None)
        await settled(backplane, second)
        assert ("message", "Ada", "x") not in ear.heard
        assert second.heard == [("message", "Ada", "x")]

    async def test_rooms_hear_nothing_of_each_other(self, backplane: Backplane) -> None:
        seat, tea = await seated(backplane, "tea")
        _, cake = await seated(backplane, "cake")
        await backplane.publish(seat, "x", None)
        await settled(backplane, tea)
        assert cake.heard == [("joined", "Ada", "")]

    async def test_a_subscriber_does_not_hear_what_was_pending_before_its_position(self, backplane: Backplane) -> None:
        seat, first = await seated(backplane)
        second = Ear()
        position = 0

        async def subscribe() -> None:
            nonlocal position
            position = await backplane.subscribe("tea", second)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(backplane.publish, seat, str(number), None)
            nursery.start_soon(subscribe)
            for number in range(5):
                nursery.start_soon(backplane.publish, seat, str(number), None)
        await settled(backplane, first)
        later = [id for id in first.ids if id > position]  # none, when everybody was faster than the subscriber
        if later:
            await second.until(later[-1])
        assert second.ids == later

    async def test_a_cancelled_call_has_done_nothing(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        del ear.batches[:]
        with trio.CancelScope() as scope:
            scope.cancel()
            await backplane.publish(seat, "x", "a1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await backplane.enter("tea", BO, "Bo")
        assert ear.batches == []
        assert not (await backplane.publish(seat, "x", "a1")).repeated
        assert await backplane.people("tea", 10) == (["Ada"], 1)


class TestHistory:
    async def test_pages_of_the_newest_the_missed_and_the_older(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        for number in range(7):
            await backplane.publish(seat, str(number), None)
            await backplane.notify(seat, "typing")
        await settled(backplane, ear)
        ids = [e.id for batch in ear.batches for e in batch if e.kind == "message"]
        assert await bodies(backplane, limit=3) == (["4", "5", "6"], True, False)
        assert await bodies(backplane, before=ids[4], limit=3) == (["1", "2", "3"], True, False)
        assert await bodies(backplane, before=ids[3], limit=3) == (["0", "1", "2"], False, False)
        assert await bodies(backplane, before=ids[0]) == ([], False, False)
        assert await bodies(backplane, after=ids[1], limit=3) == (["2", "3", "4"], True, False)
        assert await bodies(backplane, after=ids[3], limit=3) == (["4", "5", "6"], False, False)
        assert await bodies(backplane, after=ids[6]) == ([], False, False)

    async def test_a_page_tells_the_position_that_it_reaches(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        assert (await backplane.history("tea")).position == ear.ids[-1]
        await backplane.notify(seat, "typing")
        await settled(backplane, ear)
        assert (await backplane.history("tea", after=0)).position == ear.ids[-1]

    async def test_1000_messages_are_kept_and_then_there_is_a_gap(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        joined = ear.ids[0]
        for number in range(1000):
            await backplane.publish(seat, str(number), None)
        assert (await bodies(backplane, after=joined, limit=50))[0][0] == "0"
        await backplane.publish(seat, "one more", None)
        await settled(backplane, ear)
        assert await bodies(backplane, after=joined) == ([], False, True)
        assert (await bodies(backplane, after=ear.ids[1]))[0][0] == "1"  # who has seen the forgotten one misses nothing
        assert (await bodies(backplane, before=2**53, limit=2000))[0] == [*map(str, range(1, 1000)), "one more"]

    async def test_an_id_of_the_future_is_a_gap(self, backplane: Backplane) -> None:
        _, ear = await seated(backplane)
        assert await bodies(backplane, after=ear.ids[-1]) == ([], False, False)
        assert await bodies(backplane, after=ear.ids[-1] + 1) == ([], False, True)

    async def test_history_outlives_the_last_member(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        receipt = await backplane.publish(seat, "x", None)
        await backplane.leave(seat)
        await backplane.unsubscribe("tea", ear)
        await backplane.subscribe("tea", Ear())
        assert await bodies(backplane) == (["x"], False, False)
        assert await bodies(backplane, after=receipt.id) == ([], False, False)


class TestPublishing:
    async def test_a_client_id_that_is_repeated_is_published_once(self, backplane: Backplane) -> None:
        seat, ear = await seated(backplane)
        first = await backplane.publish(seat, "x", "a1")
        again = await backplane.publish(seat, "x", "a1")
        await settled(backplane, ear)
        assert not first.repeated
        assert again == (first.id, first.time, True)
        assert ear.heard.count(("message", "Ada", "x")) == 1

    async def test_it_is_the_sessions_and_the_rooms_own(self, backplane: Backplane) -> None:
        ada, _ = await seated(backplane)
        bo, _ = await seated(backplane, "tea", BO, "Bo")
        cake, _ = await seated(backplane, "cake")
        for seat in (ada, bo, cake):
            assert not (await backplane.publish(seat, "x", "a1")).repeated

    async def test_it_is_remembered_across_connections(self, backplane: Backplane) -> None:
        seat, _ = await seated(backplane)
        await backplane.publish(seat, "x", "a1")
        await backplane.leave(seat)
        seat = await backplane.enter("tea", ADA, "Ada")
        assert (await backplane.publish(seat, "x", "a1")).repeated

    async def test_the_last_32_of_a_session_are_remembered(self, backplane: Backplane) -> None:
        seat, _ = await seated(backplane)
        for number in range(33):
            await backplane.publish(seat, "x", str(number))
        assert (await backplane.publish(seat, "x", "1")).repeated
        assert not (await backplane.publish(seat, "x", "0")).repeated


class TestNames:
    async def test_a_name_that_is_taken_gets_a_number(self, backplane: Backplane) -> None:
        await backplane.subscribe("tea", Ear())
        names = [(await backplane.enter("tea", f"session-{number}", "Ada")).name for number in range(4)]
        assert names == ["Ada", "Ada 2", "Ada 3", "Ada 4"]
        assert (await backplane.enter("tea", "session-of-another", "Ada 2")).name == "Ada 2 2"

    async def test_a_name_with_a_number_is_no_longer_than_a_name_may_be(self, backplane: Backplane) -> None:
        await backplane.subscribe("tea", Ear())
        long = "x" * 32
        names = [(await backplane.enter("tea", f"session-{number}", long)).name for number in range(11)]
        assert names == [
            long,
            *("x" * 30 + f" {number}" for number in range(2, 10)),
            "x" * 29 + " 10",
            "x" * 29 + " 11",
        ]
        # Who wants what another one was given gets another one.
        assert (await backplane.enter("tea", BO, "x" * 30 + " 2")).name == "x" * 29 + " 12"

    @pytest.mark.parametrize(
        "name",
        [
            "ada",
            "ADA",
            "\uff21\uff44\uff41",
            "A\u200dda",
            "A\u200cda",
            "Ada\ufe0f",
            "Ada\u034f",
        ],  # the third: full-width
    )
    async def test_names_that_look_alike_are_one(self, backplane: Backplane, name: str) -> None:
        await seated(backplane)
        assert (await backplane.enter("tea", BO, name)).name == f"{name} 2"

    async def test_a_name_is_free_again_when_its_seat_was_given_back(self, backplane: Backplane) -> None:
        seat, _ = await seated(backplane)
        await backplane.leave(seat)
        assert (await backplane.enter("tea", BO, "Ada")).name == "Ada"

    async def test_a_session_takes_its_own_seat_and_nobody_hears_of_it(self, backplane: Backplane) -> None:
        ghost, ear = await seated(backplane)
        del ear.batches[:]
        seat = await backplane.enter("tea", ADA, "Ada")
        assert seat.name == "Ada"
        await backplane.leave(ghost)
        await settled(backplane)
        assert ear.batches == []
        assert await backplane.people("tea", 10) == (["Ada"], 1)
        await backplane.leave(seat)
        await settled(backplane, ear)
        assert ear.heard == [("left", "Ada", "")]

    async def test_who_became_ada_2_stays_ada_2(self, backplane: Backplane) -> None:
        ada, _ = await seated(backplane)
        await backplane.enter("tea", BO, "Ada")
        await backplane.leave(ada)
        assert (await backplane.enter("tea", BO, "Ada")).name == "Ada 2"

    async def test_another_name_renames(self, backplane: Backplane) -> None:
        before, ear = await seated(backplane)
        seat = await backplane.enter("tea", ADA, "Bo")
        assert seat.name == "Bo"
        await backplane.leave(before)
        await backplane.publish(seat, "x", None)
        await settled(backplane, ear)
        assert ear.heard == [
            ("joined", "Ada", ""),
            ("left", "Ada", ""),
            ("joined", "Bo", ""),
            ("message", "Bo", "x"),
        ]
        assert (await backplane.enter("tea", BO, "Ada")).name == "Ada"

    async def test_people_are_in_the_order_in_which_they_came(self, backplane: Backplane) -> None:
        await backplane.subscribe("tea", Ear())
        for name in "cab":
            await backplane.enter("tea", f"session-{name}", name)
        assert await backplane.people("tea", 2) == (["c", "a"], 3)


class TestMemory:
    async def test_ids_grow_while_the_clock_stands_still_or_goes_back(self) -> None:
        clock = Clock()
        backplane = MemoryBackplane(clock=clock)
        seat, ear = await seated(backplane)
        for now in (1_000_000, 500, 0, 2_000_000, 2_000_000):
            clock.now = now
            await backplane.publish(seat, "x", None)
        assert ear.ids == sorted(set(ear.ids))
        assert ear.ids[-2:] == [2_000_000, 2_000_001]

    async def test_the_time_is_the_servers_in_milliseconds(self) -> None:
        backplane = MemoryBackplane(clock=Clock(1_763_886_000_456_789))
        seat, ear = await seated(backplane)
        receipt = await backplane.publish(seat, "x", None)
        assert receipt.time == ear.batches[-1][0].time == 1_763_886_000_456

    async def test_what_tasks_publish_at_one_time_is_one_batch(self) -> None:
        backplane = MemoryBackplane()
        seat, ear = await seated(backplane)
        del ear.batches[:]
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(backplane.publish, seat, str(number), None)
        assert len(ear.batches) == 1
        assert len(ear.batches[0]) == 100
        assert ear.ids == sorted(set(ear.ids))

    async def test_a_new_process_goes_on_beyond_the_ids_of_the_one_before(self) -> None:
        clock = Clock()
        before = MemoryBackplane(clock=clock)
        _, ear = await seated(before)
        clock.now += 1000
        after = MemoryBackplane(clock=clock)
        seat, _ = await seated(after)
        receipt = await after.publish(seat, "x", None)
        assert receipt.id > ear.ids[-1]
        assert await bodies(after, after=ear.ids[-1]) == ([], False, True)

    async def test_rooms_that_nobody_is_in_are_forgotten_first_used_first(self) -> None:
        backplane = MemoryBackplane(max_rooms=2)
        for room in ("old", "new"):
            seat, ear = await seated(backplane, room)
            await backplane.publish(seat, room, None)
            await backplane.leave(seat)
            await backplane.unsubscribe(room, ear)
        await backplane.subscribe("third", Ear())
        assert backplane._rooms.keys() == {"new", "third"}
        assert len(backplane._ages) == 1
        await backplane.subscribe("new", Ear())
        assert await bodies(backplane, "new") == (["new"], False, False)
        with pytest.raises(TooManyRoomsError, match="2 rooms"):
            await backplane.subscribe("fourth", Ear())

    async def test_beyond_the_memory_for_messages_the_oldest_of_all_rooms_go(self) -> None:
        backplane = MemoryBackplane(max_bytes=20_000)
        quiet, ear = await seated(backplane, "quiet")
        await backplane.publish(quiet, "first of all", None)
        loud, _ = await seated(backplane, "loud", BO, "Bo")
        for number in range(100):
            await backplane.publish(loud, f"{number:04}" + "x" * 996, None)
        assert await bodies(backplane, "quiet") == ([], False, False)
        assert await bodies(backplane, "quiet", after=ear.ids[0]) == ([], False, True)
        kept = (await bodies(backplane, "loud", limit=1000))[0]
        assert kept[-1].startswith("0099")
        assert 10 <= len(kept) <= 14
        assert backplane._bytes <= 20_000
        assert len(backplane._ages) == len(kept)

    async def test_the_sessions_that_are_remembered_are_bounded(self) -> None:
        backplane = MemoryBackplane(max_senders=2)
        await seated(backplane)
        seats = [await backplane.enter("tea", f"session-number-{number}", "x") for number in range(3)]
        for each in seats:
            await backplane.publish(each, "x", "a1")
        assert len(backplane._senders) == 2
        assert not (await backplane.publish(seats[0], "x", "a1")).repeated
        assert (await backplane.publish(seats[2], "x", "a1")).repeated
