"""Rooms in Redis, with real Redis servers: several workers, and everything that can happen to Redis.

What any backplane does is in test_backplane.py. Workers here are backplanes in one process: they share nothing but
Redis. Whole server processes are in test_redis_workers.py.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import rawws
from rawws import redis_scripts as scripts
from rawws.backplane import BackplaneError, Seat
from rawws.chat import Chat
from rawws.redis_backplane import RedisBackplane
from tests.proxy import Proxy
from tests.redis_server import RedisServer, free_port, running_redis
from tests.test_backplane import ADA, BO, Ear, bodies, seated, settled
from tests.test_chat import party

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ALWAYS: Final = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own that has written down what it acknowledges."""
    with running_redis(tmp_path, *ALWAYS) as server:
        yield server


@asynccontextmanager
async def through_proxy(server: RedisServer, **options: Any) -> AsyncIterator[tuple[Proxy, RedisBackplane]]:
    """A worker whose network is in the test's hands."""
    proxy = Proxy(server.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with RedisBackplane(proxy.url, **options) as backplane:
            yield proxy, backplane
        nursery.cancel_scope.cancel()


async def until_heard(ear: Ear, what: tuple[str, str, str], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while what not in ear.heard:
            await ear.more()


async def until_down(backplane: RedisBackplane) -> None:
    """Wait until the worker has noticed that it has no connection."""
    with trio.fail_after(5):
        while backplane._link.is_up:  # noqa: ASYNC110 - nobody else wants to know that at once
            await trio.sleep(0.01)


def resets(ear: Ear) -> int:
    return sum(kind == "reset" for kind, _, _ in ear.heard)


class TestWorkers:
    async def test_members_on_different_workers_see_one_order_and_each_message_once(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            ada, at_one = await seated(one)
            bo, at_two = await seated(two, "tea", BO, "Bo")

            async def talk(worker: RedisBackplane, seat: Seat, name: str) -> None:
                for number in range(150):
                    await worker.publish(seat, f"{name} {number}", None)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, one, ada, "Ada")
                nursery.start_soon(talk, two, bo, "Bo")
            await settled(one, at_one)
            await settled(two, at_two)
        messages = [each for each in at_one.heard if each[0] == "message"]
        assert messages == [each for each in at_two.heard if each[0] == "message"]
        assert at_one.ids == sorted(set(at_one.ids))
        for name in ("Ada", "Bo"):
            assert [body for _, _, body in messages if body.startswith(name)] == [f"{name} {n}" for n in range(150)]

    async def test_a_message_that_is_sent_again_to_another_worker_appears_once(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            seat, _ = await seated(one)
            first = await one.publish(seat, "x", "a 1")
            ear = Ear()
            await two.subscribe("tea", ear)
            again = await two.publish(await two.enter("tea", ADA, "Ada"), "x", "a 1")
            assert again == (first.id, first.time, True)
            assert await bodies(two) == (["x"], False, False)

    async def test_names_are_unique_across_workers_and_a_session_shares_its_seat(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            ada, ear = await seated(one)
            await two.subscribe("tea", Ear())
            other = await two.enter("tea", BO, "ADA")
            assert other.name == "ADA 2"
            shared = await two.enter("tea", ADA, "Ada")
            assert shared.name == "Ada"
            await one.leave(ada)
            assert await two.people("tea", 10) == (["Ada", "ADA 2"], 2)
            await two.leave(shared)
            await settled(one, ear)
            assert ear.heard[-1] == ("left", "Ada", "")

    async def test_a_worker_that_is_not_heard_of_has_left_its_rooms(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as living:
            _, ear = await seated(living, "tea", BO, "Bo")
            async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as dying:
                await seated(dying)
                await until_heard(ear, ("joined", "Ada", ""))
            await until_heard(ear, ("left", "Ada", ""))
            assert await living.people("tea", 10) == (["Bo"], 1)
            assert resets(ear) == 0

    async def test_a_worker_that_is_alone_keeps_its_seats_however_late_it_is(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.5) as backplane:
            seat, ear = await seated(backplane)
            await trio.sleep(1)  # several leases long
            await backplane.publish(seat, "still here", None)
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "still here")]

    async def test_what_was_relayed_reaches_every_worker(self, redis_server: RedisServer, prefix: str) -> None:
        send, receive = trio.open_memory_channel[str | bytes](10)
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            await two.listen("all", send.send_nowait)
            redis_server.command("PUBLISH", f"{prefix}:relay:all", b"t\xff")
            await one.relay("all", "text")
            await one.relay("all", b"\x00binary")
            with trio.fail_after(5):
                assert [await receive.receive() for _ in range(2)] == ["text", b"\x00binary"]
            assert two.skipped == 1


class TestReading:
    async def test_who_was_cut_off_hears_all_that_it_missed_in_order(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as other,
            through_proxy(redis_server, prefix=prefix, keepalive=1) as (proxy, backplane),
        ):
            _, ear = await seated(backplane)
            bo, _ = await seated(other, "tea", BO, "Bo")
            proxy.freeze()
            proxy.cut()
            for number in range(3 * scripts.READ_AT_ONCE):
                await other.publish(bo, str(number), None)
                await other.notify(bo, "typing")
            proxy.thaw()
            await until_heard(ear, ("message", "Bo", str(3 * scripts.READ_AT_ONCE - 1)))
            await settled(backplane, ear)
        assert [body for kind, _, body in ear.heard if kind == "message"] == list(
            map(str, range(3 * scripts.READ_AT_ONCE))
        )
        assert ear.ids == sorted(set(ear.ids))
        assert resets(ear) == 0

    async def test_who_missed_more_than_is_kept_begins_anew(self, redis_server: RedisServer, prefix: str) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix, max_kept=5) as other,
            through_proxy(redis_server, prefix=prefix, max_kept=5, keepalive=1) as (proxy, backplane),
        ):
            _, ear = await seated(backplane)
            bo, _ = await seated(other, "tea", BO, "Bo")
            last = ear.ids[-1]
            proxy.freeze()
            proxy.cut()
            for number in range(10):
                await other.publish(bo, str(number), None)
            proxy.thaw()
            with trio.fail_after(10):
                while not resets(ear):
                    await ear.more()
            assert await bodies(backplane, after=last) == ([], False, True)
            assert await bodies(backplane) == (["5", "6", "7", "8", "9"], False, False)
            await other.publish(bo, "and on", None)
            await until_heard(ear, ("message", "Bo", "and on"))
            assert ear.ids == sorted(ear.ids)

    async def test_what_is_lost_by_the_way_is_read(
        self, redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            monkeypatch.setattr(backplane._link, "_heard", lambda channel, packed: None)
            await backplane.publish(seat, "never heard", None)
            monkeypatch.setattr(backplane._link, "_heard", backplane._hear)
            await backplane.publish(seat, "heard", None)
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "never heard"), ("message", "Ada", "heard")]


class TestOutages:
    async def test_what_was_acknowledged_before_redis_stopped_is_there_when_it_is_back(
        self, durable: RedisServer
    ) -> None:
        async with RedisBackplane(durable.url, keepalive=2) as backplane:
            seat, ear = await seated(backplane)
            for number in range(20):
                await backplane.publish(seat, str(number), None)
            last = ear.ids[0]
            durable.stop()
            await until_down(backplane)
            with trio.move_on_after(0.5) as waiting:
                await backplane.publish(seat, "too early", "c1")
            assert waiting.cancelled_caught  # it waits for as long as its caller lets it
            await trio.to_thread.run_sync(durable.start)
            with trio.fail_after(10):
                receipt = await backplane.publish(seat, "in time", "c2")
            await settled(backplane, ear)
            assert not receipt.repeated
            kept = (await bodies(backplane, after=last))[0]
            assert kept == [*map(str, range(20)), "in time"]
            assert [body for kind, _, body in ear.heard if kind == "message"] == kept
            assert resets(ear) == 0

    async def test_what_is_under_way_when_redis_stops_fails_at_once(self, tmp_path: Path) -> None:
        with running_redis(tmp_path) as server:
            async with through_proxy(server) as (proxy, backplane):
                seat, _ = await seated(backplane)
                proxy.freeze()

                async def publish() -> None:
                    with pytest.raises(BackplaneError):
                        await backplane.publish(seat, "x", None)

                with trio.fail_after(2):
                    async with trio.open_nursery() as nursery:
                        for _ in range(3):
                            nursery.start_soon(publish)
                        await trio.testing.wait_all_tasks_blocked(0.05)
                        server.stop()
                        proxy.cut()

    async def test_what_waits_is_bounded(self, redis_server: RedisServer, prefix: str) -> None:
        async with through_proxy(redis_server, prefix=prefix, keepalive=60) as (proxy, backplane):
            seat, ear = await seated(backplane)
            proxy.freeze()
            async with trio.open_nursery() as nursery:
                for number in range(3000):
                    nursery.start_soon(backplane.publish, seat, str(number), None)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert backplane._link._life is not None
                assert len(backplane._link._life.calls) == 1024
                proxy.thaw()
            await settled(backplane, ear)
            assert sorted(int(body) for kind, _, body in ear.heard if kind == "message") == list(range(3000))

    async def test_what_was_reported_as_unavailable_and_is_sent_again_appears_once(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            through_proxy(redis_server, prefix=prefix, keepalive=60) as (proxy, backplane),
            party(Chat(backplane)) as chat,
        ):
            (ada,) = await chat.people("Ada")
            proxy.freeze()
            began = trio.current_time()
            said = [f'{{"type":"message","room":"tea","text":"{number}","client":"a-{number}"}}' for number in range(4)]
            for each in said:
                await ada.say(each)
            for _ in said:
                assert await ada.refused() == ("room", "unavailable")
            assert trio.current_time() - began < 9  # not twice as long, on a busy machine either
            proxy.thaw()
            await trio.sleep(0.5)
            for each in said:
                await ada.say(each)
            settled: dict[str, int] = {}
            messages = []
            while len(settled) < len(said):
                heard = json.loads(await ada.hear())  # what came through after all is confirmed when it is sent again
                settled[heard["client"]] = heard["id"]
                messages += [heard["text"]] if heard["type"] == "message" else []
            page = await backplane.history("tea")
            assert [entry.id for entry in page.entries] == sorted(settled.values())
            assert messages == ["0", "1", "2", "3"]

    async def test_a_frozen_connection_is_noticed_within_the_keepalive_time(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with through_proxy(redis_server, prefix=prefix, keepalive=1) as (proxy, backplane):
            seat, ear = await seated(backplane)
            proxy.freeze()
            began = trio.current_time()
            with pytest.raises(BackplaneError, match=r"has ended|timed out"), trio.fail_after(5):
                await backplane.publish(seat, "x", "c1")
            await until_down(backplane)
            assert trio.current_time() - began < 2  # a second, and what a busy machine adds
            proxy.thaw()
            with trio.fail_after(10):
                await backplane.publish(seat, "x", "c1")
            await settled(backplane, ear)
            # The first one had been sent, and came through when the network did; or not. It is there once.
            assert ear.heard[1:] == [("message", "Ada", "x")]

    async def test_after_a_frozen_connection_the_next_one_is_there_at_once(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with through_proxy(redis_server, prefix=prefix, keepalive=4) as (proxy, backplane):
            seat, ear = await seated(backplane)
            proxy.freeze_connections()
            began = trio.current_time()
            await until_down(backplane)
            down = trio.current_time()
            assert down - began < 5
            await backplane.publish(seat, "x", None)
            assert trio.current_time() - down < 2  # and not as long again as it took to notice
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "x")]

    async def test_who_leaves_a_room_waits_for_no_answer_of_redis(self, redis_server: RedisServer, prefix: str) -> None:
        async with through_proxy(redis_server, prefix=prefix, keepalive=4) as (proxy, backplane):
            ear = Ear()
            await backplane.subscribe("tea", ear)
            proxy.freeze()
            with trio.fail_after(0.5):
                await backplane.unsubscribe("tea", ear)
            proxy.thaw()
            seat, ear = await seated(backplane)  # which says that it is heard again
            await backplane.publish(seat, "x", None)
            await settled(backplane, ear)

    async def test_a_process_that_was_stopped_reads_before_it_gives_up(
        self, redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix, keepalive=0.4) as backplane:
            life = backplane._link._life
            assert life is not None
            publish = life.client.publish
            stopped = trio.Event()

            async def publish_and_stop(channel: str, message: bytes) -> None:
                await publish(channel, message)
                time.sleep(0.5)  # noqa: ASYNC251 - that is what it looks like from inside
                stopped.set()

            monkeypatch.setattr(life.client, "publish", publish_and_stop)
            await stopped.wait()
            monkeypatch.undo()
            await trio.sleep(0.5)  # another round
            assert backplane._link._life is life

    async def test_who_was_taken_for_dead_begins_anew(self, redis_server: RedisServer, prefix: str) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as other,
            through_proxy(redis_server, prefix=prefix, presence_timeout=0.6, keepalive=1) as (proxy, backplane),
        ):
            seat, ear = await seated(backplane)
            _, beside = await seated(other, "tea", BO, "Bo")
            proxy.freeze()
            proxy.cut()
            await until_heard(beside, ("left", "Ada", ""))
            assert (await other.enter("tea", "session-of-another", "Ada")).name == "Ada"
            proxy.thaw()
            with trio.fail_after(10):
                while not resets(ear):
                    await ear.more()
            with pytest.raises(BackplaneError, match="lost its seats"):
                await backplane.publish(seat, "x", None)
            assert await backplane.leave(seat) is None
            again = await backplane.enter("tea", ADA, "Ada")
            assert again.name == "Ada 2"
            await backplane.publish(again, "here again", None)
            assert resets(ear) == 1

    async def test_a_seat_that_could_not_be_given_back_is_given_back_later(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as other,
            through_proxy(redis_server, prefix=prefix, keepalive=1, presence_timeout=2) as (proxy, backplane),
        ):
            ada, _ = await seated(backplane)
            cy = await backplane.enter("tea", "session-of-cy---", "Cy")
            _, ear = await seated(other, "tea", BO, "Bo")
            proxy.freeze()
            with trio.move_on_after(0.05):
                await backplane.leave(ada)
            with trio.move_on_after(0.05):
                await backplane.enter("tea", "session-of-dee--", "Dee")
            proxy.cut()
            await until_down(backplane)
            assert await backplane.leave(cy) is None
            proxy.thaw()
            await until_heard(ear, ("left", "Ada", ""))
            await until_heard(ear, ("left", "Cy", ""))
            with trio.fail_after(5):
                while (await other.people("tea", 10))[0] != ["Bo"]:
                    await ear.more()

    async def test_a_slow_redis_is_waited_for(self, redis_server: RedisServer, prefix: str) -> None:
        async with through_proxy(redis_server, prefix=prefix) as (proxy, backplane):
            seat, ear = await seated(backplane)
            proxy.delay = 0.2
            began = trio.current_time()
            await backplane.publish(seat, "x", None)
            assert trio.current_time() - began >= 0.4
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "x")]


class TestLosses:
    async def test_a_redis_that_is_empty_after_a_restart_is_a_gap(self, tmp_path: Path) -> None:
        with running_redis(tmp_path) as server:
            async with RedisBackplane(server.url, keepalive=2) as backplane:
                seat, ear = await seated(backplane)
                await backplane.publish(seat, "forgotten", None)
                await settled(backplane, ear)
                last = ear.ids[-1]
                server.stop()
                await trio.to_thread.run_sync(server.start)
                with trio.fail_after(10):
                    while not resets(ear):
                        await ear.more()
                assert await bodies(backplane, after=last) == ([], False, True)
                assert await bodies(backplane) == ([], False, False)
                assert await backplane.leave(seat) is None
                seat = await backplane.enter("tea", ADA, "Ada")
                receipt = await backplane.publish(seat, "new", None)
                assert receipt.id > last
                await settled(backplane, ear)
                assert ear.ids == sorted(ear.ids)

    async def test_the_first_call_after_a_loss_learns_of_it_and_only_the_first_begins_anew(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            keys = scripts.room_keys(prefix, "tea")
            redis_server.command("DEL", *keys)
            failures = []
            async with trio.open_nursery() as nursery:

                async def fail() -> None:
                    with pytest.raises(BackplaneError, match="lost its seats"):
                        await backplane.notify(seat, "typing")
                    failures.append(1)

                for _ in range(3):
                    nursery.start_soon(fail)
            assert len(failures) == 3
            assert resets(ear) == 1
            assert (await backplane.enter("tea", ADA, "Ada")).name == "Ada"

    async def test_who_takes_a_seat_beside_seats_that_are_lost_gets_it_and_the_others_begin_anew_once(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as backplane:
            ada, ear = await seated(backplane)
            redis_server.command("DEL", *scripts.room_keys(prefix, "tea"))
            seats: list[Seat] = []

            async def enter(session: str, name: str) -> None:
                seats.append(await backplane.enter("tea", session, name))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(enter, BO, "Bo")
                nursery.start_soon(enter, "session-of-cy---", "Cy")
            assert resets(ear) == 1
            assert await backplane.leave(ada) is None
            assert sorted((await backplane.people("tea", 10))[0]) == ["Bo", "Cy"]
            await backplane.publish(seats[0], "x", None)
            await trio.sleep(0.5)  # the room is read meanwhile, and nothing more is missing
            await settled(backplane, ear)
            assert ear.heard[-1] == ("message", seats[0].name, "x")
            assert resets(ear) == 1

    async def test_a_seat_that_is_lost_again_at_once_is_an_error(
        self, redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            _, ear = await seated(backplane)
            call = backplane._link.call

            async def lose_and_call(script: str, *rest: Any) -> Any:
                return [0, []] if script == scripts.ENTER else await call(script, *rest)

            monkeypatch.setattr(backplane._link, "call", lose_and_call)
            with pytest.raises(BackplaneError, match="lost its seats"):
                await backplane.enter("tea", BO, "Bo")
            monkeypatch.undo()
            assert resets(ear) == 1
            assert (await backplane.enter("tea", BO, "Bo")).name == "Bo"

    async def test_who_comes_right_after_redis_was_emptied_is_let_in_and_those_who_are_there_come_again(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane, party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            redis_server.command("DEL", *scripts.room_keys(prefix, "tea"))
            bo = await chat.arrive()
            assert json.loads((await bo.hello("Bo", "tea"))[-1])["members"] == ["Bo"]
            assert (await ada.closed())[0] == 1012
            await bo.say('{"type":"message","room":"tea","text":"hello"}')
            assert (await bo.told("message"))["text"] == "hello"

    async def test_a_redis_that_has_less_than_it_acknowledged_is_a_gap(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        keys = scripts.room_keys(prefix, "tea")
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            ada, at_one = await seated(one)
            _, at_two = await seated(two, "tea", BO, "Bo")
            before = (await one.publish(ada, "kept", None)).id
            await settled(two, at_two)
            # Now Redis goes back in time: the second one was acknowledged, and is not there.
            lost = (await one.publish(ada, "lost", None)).id
            await settled(one, at_one)
            await settled(two, at_two)
            redis_server.command("XDEL", keys[1], f"{lost}-0")
            redis_server.command("HSET", keys[0], "position", str(before))
            await one.publish(ada, "after", None)
            for ear in (at_one, at_two):
                with trio.fail_after(10):
                    while not resets(ear):
                        await ear.more()
            for seen in (before, lost):
                assert await bodies(two, after=seen) == ([], False, True)
            assert await bodies(two) == (["kept", "after"], False, False)

    async def test_a_history_that_goes_past_an_id_is_a_gap_before_anybody_has_noticed(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        keys = scripts.room_keys(prefix, "tea")
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            ada, ear = await seated(backplane)
            first = (await backplane.publish(ada, "one", None)).id
            await settled(backplane, ear)
            redis_server.command("HSET", keys[0], "position", str(ear.ids[0]))
            redis_server.command("XDEL", keys[1], f"{first}-0")
            async with RedisBackplane(redis_server.url, prefix=prefix) as other:
                await other.subscribe("tea", Ear())
                bo = await other.enter("tea", BO, "Bo")
                await other.publish(bo, "two", None)
                assert (await bodies(other, after=first))[2]

    async def test_redis_behind_what_was_heard_goes_on_beyond_it(self, redis_server: RedisServer, prefix: str) -> None:
        keys = scripts.room_keys(prefix, "tea")
        async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as backplane:
            ada, ear = await seated(backplane)
            last = (await backplane.publish(ada, "x", None)).id
            await settled(backplane, ear)
            redis_server.command("HSET", keys[0], "position", str(ear.ids[0]))
            with trio.fail_after(10):
                while not resets(ear):
                    await ear.more()
            assert await bodies(backplane, after=last) == ([], False, True)
            assert (await backplane.history("tea")).position > last


class TestWhatOthersWrite:
    ROOMS: Final = (
        "}",
        "{",
        "{}",
        "a}b{c",
        "*",
        "a:b",
        "a b",
        "a\r\nSET x 1\r\n",
        "\x00",
        "%7D",
        "☕" * 32,
        "é" * 400,
        "x" * 100_000,
        "\ud800",
    )

    async def test_a_room_may_have_any_name_and_is_no_other_room(self, redis_server: RedisServer, prefix: str) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            for number, room in enumerate(self.ROOMS):
                seat, ear = await seated(backplane, room)
                await backplane.publish(seat, str(number), None)
                await settled(backplane, ear, room=room)
                assert ear.heard == [("joined", "Ada", ""), ("message", "Ada", str(number))]
                assert await bodies(backplane, room) == ([str(number)], False, False)

    def test_the_keys_of_a_room_share_a_hash_tag(self) -> None:
        for room in self.ROOMS:
            keys = scripts.room_keys("p", room)
            tags = {key[key.index("{") + 1 : key.index("}")] for key in [*keys, scripts.sent_key(keys, "who")]}
            assert len(tags) == 1
            assert tags != {""}
            assert all(len(key) < 300 for key in keys)

    async def test_what_others_put_into_streams_and_channels_is_skipped_counted_and_logged_once(
        self, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        messages, events = scripts.room_keys(prefix, "tea")[1:3]
        channel = scripts.room_keys(prefix, "tea")[0]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            await backplane.publish(seat, "one", None)
            await settled(backplane, ear)
            last = ear.ids[-1]
            with caplog.at_level(logging.WARNING, "rawws.backplane"):
                redis_server.command("XADD", messages, "*", "e", "nonsense")
                redis_server.command("XADD", messages, "*", "other", "1", "fields", "2")
                for number, rest in enumerate((b"message 2 xy" + b"z" * 70_000, b"message 9 xy", b"dancing 1 xy"), 1):
                    packed = b"%d %d 1 %b" % (last, last + number, rest)
                    redis_server.command("XADD", messages, f"{last + number}-0", "e", packed)
                redis_server.command("PUBLISH", channel, "")
                redis_server.command("PUBLISH", channel, b"\xff" * 1000)
                await backplane.publish(seat, "two", None)
                await settled(backplane, ear)
                assert await bodies(backplane, limit=1) == (["two"], True, False)
                assert await bodies(backplane, after=ear.ids[0]) == (["one", "two"], False, False)
        assert [body for kind, _, body in ear.heard if kind == "message"] == ["one", "two"]
        assert backplane.skipped >= 7
        assert sum("something else writes" in record.message for record in caplog.records) == 1
        assert events

    @pytest.mark.parametrize(
        "body",
        [
            b'{"by":',
            b'{"by":"9d3e","text":5}',
            b'{"by":"9d3e"}',
            b'{"by":"9d3e","text":"a\\u001bb"}',
            b'{"by":"9d3e","text":"a\\ud800b"}',
            b'{"by":"9d3e","text":"\xff"}',
            b'{"by":"9d3e","text":"hi","type":"welcome","room":"other"}',
        ],
    )
    async def test_an_entry_with_a_right_head_and_a_foreign_body_reaches_nobody_and_closes_nobody(
        self, redis_server: RedisServer, prefix: str, body: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        channel, messages, *_ = scripts.room_keys(prefix, "tea")
        async with (
            RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as backplane,
            party(Chat(backplane)) as chat,
        ):
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"message","room":"tea","text":"one"}')
            last = (await ada.told("message"))["id"]
            packed = b"%d %d 1763886000456 message 3 Eve%b" % (last, last + 1, body)
            with caplog.at_level(logging.WARNING, "rawws.backplane"):
                redis_server.command("XADD", messages, f"{last + 1}-0", "e", packed)
                redis_server.command("PUBLISH", channel, packed)
                await trio.sleep(0.3)  # the room is read, too
                await ada.say('{"type":"message","room":"tea","text":"two"}')
                assert (await ada.told("message"))["text"] == "two"
            bo = await chat.arrive()
            history = json.loads((await bo.hello("Bo", "tea"))[1])
            assert [each["text"] for each in history["messages"]] == ["one", "two"]
            assert backplane.skipped >= 1
        assert sum("something else writes" in record.message for record in caplog.records) == 1

    async def test_a_page_of_history_is_full_whatever_others_wrote_between(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        messages = scripts.room_keys(prefix, "tea")[1]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            backplane.expect(lambda entry: entry.name != "Eve")
            seat, ear = await seated(backplane)
            first = (await backplane.publish(seat, "0", None)).id
            for number in range(1, 5):
                last = (await backplane.publish(seat, str(number), None)).id
                for foreign in range(1, 8):
                    kind = b"message" if foreign % 2 else b"typing"
                    packed = b"%d %d 1 %b 3 Eve" % (last, last + foreign, kind)
                    redis_server.command("XADD", messages, f"{last + foreign}-0", "e", packed)
            await backplane.publish(seat, "5", None)
            await settled(backplane, ear)
            assert await bodies(backplane, limit=3) == (["3", "4", "5"], True, False)
            assert await bodies(backplane, before=last, limit=2) == (["2", "3"], True, False)
            assert await bodies(backplane, after=first, limit=3) == (["1", "2", "3"], True, False)
            assert await bodies(backplane, after=first) == (["1", "2", "3", "4", "5"], False, False)

    async def test_more_of_others_than_is_read_at_once_makes_a_new_beginning_and_no_endless_reading(
        self, redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        messages = scripts.room_keys(prefix, "tea")[1]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            backplane.expect(lambda entry: entry.name != "Eve")
            seat, ear = await seated(backplane)
            last = (await backplane.publish(seat, "one", None)).id
            await settled(backplane, ear)
            for number in range(1, scripts.READ_AT_ONCE + 1):
                redis_server.command(
                    "XADD", messages, f"{last + number}-0", "e", b"%d %d 1 message 3 Eve" % (last, last + number)
                )
            missed = trio.Event()
            monkeypatch.setattr(backplane._link, "_heard", lambda channel, packed: missed.set())
            await backplane.publish(seat, "never heard", None)
            await missed.wait()
            monkeypatch.setattr(backplane._link, "_heard", backplane._hear)
            backplane._read_all_soon()
            with trio.fail_after(10):
                while not resets(ear):
                    await ear.more()
            assert await bodies(backplane, limit=1) == (["never heard"], True, False)

    @pytest.mark.parametrize(
        "id",
        [
            9_999_999_999_999_999,
            2**53,
            2**53 - 1,
            time.time_ns() // 1000 + 2 * 3_600_000_000,
        ],
        ids=["16 digits", "2**53", "the last one", "in two hours"],
    )
    async def test_a_published_line_with_an_id_of_the_far_future_does_not_move_the_room_there(
        self, redis_server: RedisServer, prefix: str, id: int
    ) -> None:
        channel = scripts.room_keys(prefix, "tea")[0]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            redis_server.command("PUBLISH", channel, b"%d %d 1 joined 3 Eve" % (ear.ids[-1], id))
            await trio.sleep(0.1)  # it is heard
            receipt = await backplane.publish(seat, "x", None)
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "x")]
            assert receipt.id < time.time_ns() // 1000 + 60_000_000

    @pytest.mark.parametrize("number", ["id", "time"])
    async def test_an_entry_with_a_number_of_2_to_the_53_is_skipped(
        self, redis_server: RedisServer, prefix: str, number: str
    ) -> None:
        messages = scripts.room_keys(prefix, "tea")[1]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            last = ear.ids[-1]
            id, written = (2**53, 1) if number == "id" else (last + 1, 2**53)
            redis_server.command("XADD", messages, f"{id}-0", "e", b"%d %d %d message 3 Eve" % (last, id, written))
            assert await bodies(backplane) == ([], False, False)
            await backplane.publish(seat, "x", None)
            await settled(backplane, ear)
            assert ear.heard[1:] == [("message", "Ada", "x")]
            assert await bodies(backplane) == (["x"], False, False)
            assert backplane.skipped

    @pytest.mark.parametrize(
        "position", ["nonsense", "99999999999999999999", "9007199254740992", "inf", "nan", "-5", "1.5"]
    )
    async def test_a_room_whose_position_others_have_spoilt_begins_anew(
        self, redis_server: RedisServer, prefix: str, position: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            redis_server.command("HSET", scripts.room_keys(prefix, "tea")[0], "position", position)
            with pytest.raises(BackplaneError, match="lost its seats"):
                await backplane.publish(seat, "x", None)
            assert resets(ear) == 1
            receipt = await backplane.publish(await backplane.enter("tea", ADA, "Ada"), "x", None)
            assert receipt.id < time.time_ns() // 1000 + 60_000_000
            await settled(backplane, ear)
            assert ear.heard[-1] == ("message", "Ada", "x")

    async def test_a_clock_that_is_far_behind_that_of_redis_costs_readings_and_nothing_else(
        self, redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        two_hours = 2 * 3600 * 1_000_000_000
        monkeypatch.setattr("rawws.redis_backplane.time_ns", lambda: time.time_ns() - two_hours)
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            for number in range(20):
                await backplane.publish(seat, str(number), None)
            await settled(backplane, ear)
            assert [body for _, _, body in ear.heard[1:]] == list(map(str, range(20)))
            assert resets(ear) == 0

    async def test_a_seat_whose_name_is_gone_is_no_seat_and_its_session_gets_a_name_anew(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        names = scripts.room_keys(prefix, "tea")[3]
        async with (
            RedisBackplane(redis_server.url, prefix=prefix) as one,
            RedisBackplane(redis_server.url, prefix=prefix) as two,
        ):
            first, _ = await seated(one)
            _, ear = await seated(two, "tea", BO, "Bo")
            redis_server.command("DEL", names)
            second = await two.enter("tea", ADA, "Ada")
            assert second.name == "Ada"
            await two.publish(second, "x", None)
            await two.leave(second)  # the first connection of the session is still there
            await one.publish(first, "y", None)
            await settled(two, ear)
            assert ear.heard[1:] == [("joined", "Ada", ""), ("message", "Ada", "x"), ("message", "Ada", "y")]

    async def test_a_seat_whose_name_is_gone_is_given_back_without_a_word(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        keys = scripts.room_keys(prefix, "tea")
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            redis_server.command("DEL", keys[3])
            assert await backplane.leave(seat) is None
            again = await backplane.enter("tea", BO, "Ada")
            assert again.name == "Ada"
            await settled(backplane, ear)
            assert ear.heard[1:] == [("joined", "Ada", "")]

    @pytest.mark.parametrize(
        "spoil",
        [
            [("XADD", "9007199254740000000-0", "foo", "bar")],
            [
                ("XADD", "18446744073709551615-1", "e", "x"),
                ("XADD", "18446744073709551615-18446744073709551615", "e", "x"),
            ],
            [("XADD", "9007199254740000000-0", "foo", "bar"), ("XDEL", "9007199254740000000-0")],
        ],
    )
    @pytest.mark.parametrize("stream", [1, 2])
    async def test_what_others_put_where_none_of_ours_can_follow_is_removed_and_nothing_else(
        self,
        redis_server: RedisServer,
        prefix: str,
        spoil: list[tuple[str, ...]],
        stream: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        key = scripts.room_keys(prefix, "tea")[stream]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            for number in range(7):
                await backplane.publish(seat, str(number), None)
            for command, *rest in spoil:
                redis_server.command(command, key, *rest)
            for number in range(7, 9):
                await backplane.notify(seat, "typing")
                await backplane.publish(seat, str(number), None)
            await settled(backplane, ear)
            said = [str(number) for number in range(9)]
            assert await bodies(backplane) == (said, False, False)
            assert await bodies(backplane, after=ear.ids[0]) == (said, False, False)
            assert [body for kind, _, body in ear.heard if kind == "message"] == said
            assert b"9007199254740000000" not in redis_server.command("XRANGE", key, "-", "+")
            if spoil[-1][0] == "XADD":
                assert backplane.skipped == len(spoil)
                assert sum("something else writes" in record.message for record in caplog.records) == 1

    async def test_what_others_put_there_pushes_nothing_out_without_a_gap(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        messages = scripts.room_keys(prefix, "tea")[1]
        async with RedisBackplane(redis_server.url, prefix=prefix, max_kept=3) as backplane:
            seat, ear = await seated(backplane)
            last = (await backplane.publish(seat, "one", None)).id
            for number in range(1, 6):
                redis_server.command("XADD", messages, f"{last + number}-0", "foo", "bar")
            await backplane.publish(seat, "two", None)
            await settled(backplane, ear)
            assert await bodies(backplane) == (["two"], False, False)
            assert await bodies(backplane, after=ear.ids[0]) == ([], False, True)
            assert await bodies(backplane, after=last) == (["two"], False, False)

    @pytest.mark.parametrize(
        "spoil",
        [
            'redis.call("SET", KEYS[1], "no stream at all")',
            'for n = 1, 10001 do redis.call("XADD", KEYS[1], "9007199254740000000-*", "e", "x") end',
        ],
    )
    async def test_a_stream_that_others_have_spoilt_begins_anew(
        self, redis_server: RedisServer, prefix: str, spoil: str
    ) -> None:
        messages = scripts.room_keys(prefix, "tea")[1]
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            await backplane.publish(seat, "one", None)
            await settled(backplane, ear)
            redis_server.command("EVAL", spoil, "1", messages)
            await backplane.publish(seat, "two", None)
            await settled(backplane, ear)
            assert await bodies(backplane) == (["two"], False, False)
            assert ear.heard[1:] == [("message", "Ada", "one"), ("message", "Ada", "two")]
            assert await bodies(backplane, after=ear.ids[0]) == ([], False, True)
            assert backplane.skipped >= 1

    async def test_a_key_of_another_kind_is_a_failure_of_its_room_alone(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            redis_server.command("SET", scripts.room_keys(prefix, "spoilt")[0], "x")
            with pytest.raises(BackplaneError, match="wrong kind of value"):
                await backplane.subscribe("spoilt", Ear())
            seat, _ = await seated(backplane)
            await backplane.publish(seat, "x", None)

    async def test_what_comes_late_from_a_room_that_was_left_is_nobodys(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, ear = await seated(backplane)
            await backplane.leave(seat)
            await backplane.unsubscribe("tea", ear)
            backplane._hear(scripts.room_keys(prefix, "tea")[0], b"1 2 3 message 3 Adahi")
            assert backplane.skipped == 0

    async def test_a_body_over_the_bound_is_refused(self, redis_server: RedisServer, prefix: str) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, _ = await seated(backplane)
            await backplane.publish(seat, "x" * scripts.MAX_BODY, None)
            with pytest.raises(BackplaneError, match="at most 65536 bytes"):
                await backplane.publish(seat, "x" * scripts.MAX_BODY + "x", None)
            assert len((await bodies(backplane))[0]) == 1

    async def test_every_key_expires(self, redis_server: RedisServer, prefix: str) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            seat, _ = await seated(backplane)
            await backplane.publish(seat, "x", "c1")
            await backplane.notify(seat, "typing")
        keys = scripts.room_keys(prefix, "tea")
        for key in [*keys, scripts.sent_key(keys, scripts.who_is(ADA))]:
            answer = redis_server.command("PTTL", key)
            assert int(answer[1:]) > 0, key

    async def test_the_keys_of_a_room_that_is_used_expire_together_however_quiet_it_is(
        self, redis_server: RedisServer, prefix: str
    ) -> None:
        keys = scripts.room_keys(prefix, "tea")
        async with RedisBackplane(redis_server.url, prefix=prefix, presence_timeout=0.6) as backplane:
            seat, _ = await seated(backplane)
            await backplane.publish(seat, "x", None)
            for key in keys[:3]:
                redis_server.command("EXPIRE", key, "5")
            await trio.sleep(0.5)
            for key in keys[:3]:
                assert int(redis_server.command("TTL", key)[1:]) > 1000, key


class TestOpening:
    async def test_redis_that_is_not_there_is_an_error_that_says_so(self) -> None:
        with pytest.raises(BackplaneError, match=r"Redis at 127\.0\.0\.1:\d+ cannot be used"):
            async with RedisBackplane(f"redis://user:secret@127.0.0.1:{free_port()}"):
                pytest.fail("it is not there")

    async def test_a_wrong_password_is_an_error_without_the_password(self, tmp_path: Path) -> None:
        with running_redis(tmp_path) as server:
            server.command("CONFIG", "SET", "requirepass", "right")
            with pytest.raises(BackplaneError) as caught:
                async with RedisBackplane(f"redis://:wrong@127.0.0.1:{server.port}"):
                    pytest.fail("it was let in")
            assert "wrong@" not in str(caught.value)
            async with RedisBackplane(f"redis://:right@127.0.0.1:{server.port}/3") as backplane:
                await seated(backplane)

    async def test_what_ends_the_body_leaves_as_it_came(self, redis_server: RedisServer) -> None:
        with pytest.raises(KeyError):
            async with RedisBackplane(redis_server.url):
                raise KeyError

    async def test_a_reading_that_was_to_begin_ends_with_the_body(self, redis_server: RedisServer, prefix: str) -> None:
        async with RedisBackplane(redis_server.url, prefix=prefix) as backplane:
            await backplane.subscribe("tea", Ear())
            await trio.testing.wait_all_tasks_blocked()
            backplane._read_soon(backplane._rooms["tea"])  # its task runs after the body has ended

    async def test_one_that_is_not_open_says_how_to_open_it(self, redis_server: RedisServer) -> None:
        backplane = RedisBackplane(redis_server.url)
        with pytest.raises(RuntimeError, match="async with"):
            await backplane.subscribe("tea", Ear())
        async with backplane:
            with pytest.raises(RuntimeError, match="open already"):
                async with backplane:
                    pytest.fail("it was opened twice")
        async with backplane:  # and again, one after the other
            await seated(backplane)

    def test_a_wrong_url_is_an_error_at_once(self) -> None:
        with pytest.raises(ValueError, match="scheme"):
            RedisBackplane("http://localhost")

    def test_it_is_a_name_of_the_package(self) -> None:
        assert rawws.RedisBackplane is RedisBackplane
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            _ = rawws.Nothing


class TestPlaces:
    """Redis in all the ways in which it can be there."""

    async def works(self, url: str) -> None:
        """Two workers have a room there."""
        async with RedisBackplane(url, keepalive=2) as one, RedisBackplane(url, keepalive=2) as two:
            seat, at_one = await seated(one)
            _, at_two = await seated(two, "tea", BO, "Bo")
            await one.publish(seat, "x", "c1")
            await settled(one, at_one)
            await settled(two, at_two)
            assert at_one.heard[-1] == at_two.heard[-1] == ("message", "Ada", "x")
            assert await bodies(two) == (["x"], False, False)

    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        with running_redis(tmp_path, "--unixsocket", str(tmp_path / "socket")):
            await self.works(f"unix://{tmp_path}/socket?db=2")

    async def test_tls_with_a_certificate_that_is_checked(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        port = free_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "yes"]
        for option, name in (("cert-file", "cert"), ("key-file", "key"), ("ca-cert-file", "ca")):
            options += [f"--tls-{option}", str(tmp_path / f"{name}.pem")]
        files = f"ca={tmp_path}/ca.pem&cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"
        with running_redis(tmp_path, *options):
            await self.works(f"rediss://127.0.0.1:{port}?{files}")
            with pytest.raises(BackplaneError, match="certificate verify failed"):
                await self.works(f"rediss://127.0.0.1:{port}")

    @pytest.mark.parametrize(
        ("query", "why"),
        [
            ("ca=no-ca.pem", "no-ca.pem: No such file or directory"),
            ("ca=text.pem", "text.pem: no certificates in PEM"),
            ("cert=no-cert.pem", "no-cert.pem: No such file or directory"),
            ("cert=cert.pem&key=no-key.pem", "cert.pem or no-key.pem: No such file or directory"),
            ("cert=cert.pem&key=text.pem", "cert.pem or text.pem: no certificate with its key in PEM"),
            ("cert=cert.pem&key=encrypted.pem", "cert.pem or encrypted.pem: no certificate with its key in PEM"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, why: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        certificate = trustme.CA().issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path("cert.pem")
        Path("text.pem").write_text("nothing\n")
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        password = BestAvailableEncryption(b"secret")
        Path("encrypted.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password))
        with pytest.raises(OSError, match=why):
            RedisBackplane(f"rediss://127.0.0.1:1?{query}")

    async def test_a_file_that_is_gone_later_is_waited_for(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(ca)
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
        port = free_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(ca)]
        for option in ("cert-file", "key-file"):
            options += [f"--tls-{option}", str(tmp_path / "cert.pem")]
        with running_redis(tmp_path, *options) as server:
            async with RedisBackplane(f"rediss://127.0.0.1:{port}?ca={ca}") as backplane:
                seat, _ = await seated(backplane)
                ca.rename(tmp_path / "elsewhere.pem")
                server.command("CLIENT", "KILL", "TYPE", "normal")
                server.command("CLIENT", "KILL", "TYPE", "pubsub")
                await until_down(backplane)
                await trio.sleep(0.5)
                assert not backplane._link.is_up
                (tmp_path / "elsewhere.pem").rename(ca)
                with trio.fail_after(5):
                    await backplane.publish(seat, "x", None)

    async def test_a_cluster(self, tmp_path: Path) -> None:
        with running_redis(tmp_path, "--cluster-enabled", "yes") as server:
            assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
            with trio.fail_after(10):
                while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await self.works(f"redis+cluster://127.0.0.1:{server.port}")

    async def test_sentinel(self, tmp_path: Path, redis_server: RedisServer) -> None:
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(f"sentinel monitor main 127.0.0.1 {redis_server.port} 1\n")
        redis_server.command("FLUSHALL")
        with running_redis(tmp_path, program=(str(configuration), "--sentinel")) as sentinel:
            await self.works(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
            with pytest.raises(BackplaneError, match="other"):
                await self.works(f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
