"""The chat, by literal JSON over connections in memory, on the server's own connections and history."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

import rawws
from rawws.backplane import BackplaneError, Entry, MemoryBackplane, Page, Receipt, Seat
from rawws.chat import Chat
from rawws.encoder import SharedMessage
from tests.conftest import FAST_LANE
from tests.raw_client import CLOSE, CLOSE_1000, TEXT, Client, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW: Final = 1_763_886_000_456
"""Milliseconds; the clock of every test here stands still."""
ID: Final = NOW * 1000
"""The first id that a room gets."""


def session_of(name: str) -> str:
    """A session for each person of these tests."""
    return f"session-of-{name.lower():-<8}"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.chat.time_ns", lambda: NOW * 1_000_000)


def clock() -> int:
    return ID


def memory(**bounds: int) -> MemoryBackplane:
    return MemoryBackplane(clock=clock, **bounds)


class Slow(MemoryBackplane):
    """Waits before it answers."""

    gate: trio.Event | None = None
    people_gate: trio.Event | None = None
    free = 0
    """Histories that are answered at once although the gate is shut."""

    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        if self.gate is not None:
            if self.free:
                self.free -= 1
            else:
                await self.gate.wait()
        return await super().history(room, after=after, before=before, limit=limit)

    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        found = await super().people(room, limit)
        if self.people_gate is not None:
            await self.people_gate.wait()
        return found


class SlowDoor(MemoryBackplane):
    """Lets those who enter wait, the first by the first of its doors, before or after they have taken their seats."""

    def __init__(self, *, clock: Callable[[], int]) -> None:
        super().__init__(clock=clock)
        self.doors: list[tuple[Literal["before", "after"], trio.Event]] = []

    async def enter(self, room: str, session: str, name: str) -> Seat:
        when, door = self.doors.pop(0) if self.doors else (None, None)
        if door is not None and when == "before":
            await door.wait()
        seat = await super().enter(room, session, name)
        if door is not None and when == "after":
            await door.wait()
        return seat


class Late(MemoryBackplane):
    """Delivers when it is told to, as one over a network may."""

    holding = False

    def __init__(self, *, clock: Callable[[], int]) -> None:
        super().__init__(clock=clock)
        self.held: list[tuple[Callable[[Sequence[Entry]], object], Sequence[Entry]]] = []

    async def subscribe(self, room: str, deliver: Callable[[Sequence[Entry]], object]) -> int:
        def later(entries: Sequence[Entry]) -> None:
            if self.holding:
                self.held.append((deliver, entries))
            else:
                deliver(entries)

        return await super().subscribe(room, later)

    def release(self) -> None:
        self.holding = False
        for deliver, entries in self.held:
            deliver(entries)


class Broken(MemoryBackplane):
    """Fails, or does not answer at all, in the calls that are named."""

    failing: Sequence[str] = ()
    hanging: Sequence[str] = ()
    pause = 0.0
    """Seconds that it takes to give a seat back."""

    async def _reach(self, call: str) -> None:
        if call in self.hanging:
            await trio.sleep_forever()
        if call in self.failing:
            raise BackplaneError("no connection")

    async def subscribe(self, room: str, deliver: Callable[[Sequence[Entry]], object]) -> int:
        await self._reach("subscribe")
        return await super().subscribe(room, deliver)

    async def unsubscribe(self, room: str, deliver: Callable[[Sequence[Entry]], object]) -> None:
        await self._reach("unsubscribe")
        await super().unsubscribe(room, deliver)

    async def enter(self, room: str, session: str, name: str) -> Seat:
        await self._reach("enter")
        return await super().enter(room, session, name)

    async def leave(self, seat: Seat) -> Entry | None:
        await self._reach("leave")
        await trio.sleep(self.pause)
        return await super().leave(seat)

    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        await self._reach("people")
        return await super().people(room, limit)

    async def publish(self, seat: Seat, body: str, client: str | None) -> Receipt:
        await self._reach("publish")
        return await super().publish(seat, body, client)

    async def notify(self, seat: Seat, kind: Literal["typing"]) -> None:
        await self._reach("notify")
        await super().notify(seat, kind)

    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        await self._reach("history")
        return await super().history(room, after=after, before=before, limit=limit)


class Person:
    """A client of the chat."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.client = Client(stream)

    async def say(self, message: str | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        await self.client.send(frame(TEXT, data))

    async def hear(self) -> str:
        """The next message, as it came."""
        with trio.fail_after(60):
            first, payload = await self.client.frame()
        assert first == TEXT, (first, payload)
        return payload.decode()

    async def told(self, kind: str) -> dict[str, Any]:
        """The next message, which is of a type (or of an event, for presence)."""
        message: dict[str, Any] = json.loads(await self.hear())
        assert kind in (message["type"], message.get("event")), message
        return message

    async def refused(self) -> tuple[str, str]:
        """The field and the code of the error that comes next."""
        error = await self.told("error")
        assert error["message"]
        return error["field"], error["code"]

    async def closed(self) -> tuple[int, str]:
        with trio.fail_after(60):
            first, payload = await self.client.frame()
            assert first == CLOSE, (first, payload)
            await self.client.send(frame(CLOSE, payload[:2]))
            await self.client.ended()
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def quiet(self) -> None:
        """Nothing more has come, once the server has nothing left to do."""
        await self.say('{"type":"?"}')
        assert await self.refused() == ("type", "unknown_type")

    async def hello(self, name: str, *rooms: str, session: str | None = None) -> list[str]:
        """Enter rooms; what comes until it is in all of them."""
        entries = [{"room": room} for room in rooms]
        hello = {"type": "hello", "name": name, "rooms": entries, "session": session}
        await self.say(json.dumps(hello))
        heard = [await self.hear()]
        for _ in rooms:
            heard.append(await self.hear())
            while '"event":"members"' not in heard[-1]:
                heard.append(await self.hear())
        return heard

    async def leave(self) -> None:
        await self.client.send(CLOSE_1000)
        await self.client.ended()


class Party:
    """Connections to one chat."""

    def __init__(self, chat: Chat, nursery: trio.Nursery) -> None:
        self.chat = chat
        self.nursery = nursery

    async def arrive(
        self, pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = memory_stream_pair, **limits: Any
    ) -> Person:
        near, far = pair()

        async def serve() -> None:
            await rawws.serve_stream(self.chat, far, limits=rawws.Limits(**limits), fast_lane=FAST_LANE)

        self.nursery.start_soon(serve)
        person = Person(near)
        await person.client.open("/chat")
        return person

    async def people(self, *names: str, room: str = "tea") -> list[Person]:
        """People in a room who have heard each other arrive."""
        people: list[Person] = []
        for name in names:
            person = await self.arrive()
            await person.hello(name, room, session=session_of("".join(filter(str.isalpha, name))))
            for other in people:
                await other.told("joined")
            people.append(person)
        return people


@asynccontextmanager
async def party(chat: Chat | None = None) -> AsyncIterator[Party]:
    async with trio.open_nursery() as nursery:
        yield Party(chat or Chat(memory()), nursery)
        nursery.cancel_scope.cancel()


class TestHello:
    async def test_the_first_who_comes_finds_an_empty_room(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","session":"session-of-ada-----","rooms":[{"room":"tea"}]}')
            mark = (await ada.told("welcome"))["by"]
            assert len(mark) == 16
            assert await ada.hear() == '{"type":"history","room":"tea","kind":"recent","more":false,"messages":[]}'
            assert (
                await ada.hear() == '{"type":"presence","event":"members","room":"tea",'
                f'"id":{ID + 1},"time":{NOW},"name":"Ada","members":["Ada"],"count":1}}'
            )
            await ada.quiet()

    async def test_the_second_ada_becomes_ada_2_and_is_told_so(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            other = await chat.arrive()
            members = json.loads((await other.hello("Ada", "tea"))[-1])
            assert members["name"] == "Ada 2"
            assert members["wanted"] == "Ada"
            assert members["members"] == ["Ada", "Ada 2"]
            assert (
                await ada.hear()
                == f'{{"type":"presence","event":"joined","room":"tea","id":{ID + 2},"time":{NOW},"name":"Ada 2"}}'
            )

    async def test_a_session_is_drawn_for_who_brings_none(self) -> None:
        async with party() as chat:
            ada, bo = await chat.arrive(), await chat.arrive()
            first = json.loads((await ada.hello("Ada"))[0])
            second = json.loads((await bo.hello("Bo"))[0])
            assert len(first["session"]) >= 16
            assert first["session"] != second["session"]
            assert first["by"] != second["by"]

    async def test_what_comes_before_a_hello_is_refused(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.say('{"type":"join","room":"tea"}')
            assert await ada.refused() == ("type", "hello_first")
            await ada.say("what")
            assert await ada.refused() == ("json", "bad_json")
            await ada.hello("Ada", "tea")

    async def test_a_second_hello_is_refused(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"hello","name":"Bo","rooms":[]}')
            assert await ada.refused() == ("type", "repeated")

    async def test_who_says_no_hello_is_closed_with_1008(self, autojump_clock: trio.testing.MockClock) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            began = trio.current_time()
            first, payload = await ada.client.frame()
            assert trio.current_time() - began == pytest.approx(10)
            assert (first, payload) == (CLOSE, b"\x03\xf0no hello")
            await ada.client.send(frame(CLOSE, b"\x03\xf0"))
            await ada.client.ended()

    async def test_who_goes_before_a_hello_leaves_nothing_behind(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.leave()
            assert not chat.chat._lobby.sessions


class TestTalking:
    async def test_a_message_reaches_everybody_in_the_same_bytes(self) -> None:
        async with party() as chat:
            people = await chat.people("Ada", "Bo", "Cy")
            await people[1].say('{"type":"message","room":"tea","text":"<b>\\u00e9</b>","client":"b-1"}')
            heard = [await person.hear() for person in people]
            message = json.loads(heard[0])
            assert len(message.pop("by")) == 16
            assert message == {
                "type": "message",
                "room": "tea",
                "id": ID + 4,
                "time": NOW,
                "name": "Bo",
                "client": "b-1",
                "text": "<b>é</b>",
            }
            assert heard == [heard[0]] * 3

    async def test_a_broadcast_is_encoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with party() as chat:
            people = await chat.people("Ada", "Bo", "Cy")
            encoded: list[str | bytes] = []

            def counted(message: str | bytes) -> SharedMessage:
                encoded.append(message)
                return SharedMessage(message)

            monkeypatch.setattr("rawws.manager.SharedMessage", counted)
            await people[0].say('{"type":"message","room":"tea","text":"hi"}')
            assert {await person.hear() for person in people} == set(encoded)
            assert len(encoded) == 1

    async def test_a_message_without_a_client_id_has_none(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            assert "client" not in await ada.told("message")

    @pytest.mark.parametrize(
        "text", ["שלום", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "x" * 4096, "\N{GRINNING FACE}" * 1024, "a\nb"]
    )
    async def test_any_unicode_arrives_as_it_was_said(self, text: str) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say(json.dumps({"type": "message", "room": "tea", "text": text}))
            assert (await ada.told("message"))["text"] == text

    async def test_no_control_character_reaches_another_person(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("A\x1bd\x07a")
            await ada.say('{"type":"message","room":"tea","text":"a\\u001b[31m\\u0000\\r\\nb"}')
            message = await ada.told("message")
            assert message["name"] == "Ada"
            assert message["text"] == "a[31m\nb"

    async def test_a_lone_surrogate_is_refused_and_breaks_nobody(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await ada.say('{"type":"message","room":"tea","text":"\\ud800","client":"a-1"}')
            assert await ada.told("error") == {
                "type": "error",
                "field": "text",
                "code": "invalid",
                "message": "Half of a surrogate pair is not a character.",
                "room": "tea",
                "client": "a-1",
            }
            await bo.quiet()

    async def test_a_room_that_was_not_joined_is_refused(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            for message in (
                '{"type":"message","room":"cake","text":"hi","client":"a-1"}',
                '{"type":"typing","room":"cake"}',
                '{"type":"history","room":"cake","before":5}',
                '{"type":"leave","room":"cake"}',
            ):
                await ada.say(message)
                error = await ada.told("error")
                assert (error["field"], error["code"], error["room"]) == ("room", "not_joined", "cake")

    async def test_binary_is_refused(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.client.send(frame(0x82, b"{}"))
            assert await ada.refused() == ("json", "bad_json")

    async def test_typing_is_passed_on_at_most_once_a_second(self, autojump_clock: trio.testing.MockClock) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            for _ in range(3):
                await ada.say('{"type":"typing","room":"tea"}')
            assert (
                await ada.hear()
                == await bo.hear()
                == (f'{{"type":"typing","room":"tea","id":{ID + 3},"time":{NOW},"name":"Ada"}}')
            )
            await ada.quiet()
            await trio.sleep(1)
            await ada.say('{"type":"typing","room":"tea"}')
            await bo.told("typing")
            await bo.quiet()


class TestRooms:
    async def test_who_is_in_two_rooms_hears_both(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            (bo,) = await chat.people("Bo", room="cake")
            await ada.say('{"type":"join","room":"cake"}')
            await ada.told("history")
            assert (await ada.told("members"))["members"] == ["Bo", "Ada"]
            await bo.told("joined")
            await bo.say('{"type":"message","room":"cake","text":"hi"}')
            assert (await ada.told("message"))["room"] == "cake"

    async def test_who_leaves_hears_it_and_then_nothing(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await bo.say('{"type":"leave","room":"tea"}')
            left = f'{{"type":"presence","event":"left","room":"tea","id":{ID + 3},"time":{NOW},"name":"Bo"}}'
            assert await ada.hear() == await bo.hear() == left
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.told("message")
            await bo.quiet()
            await bo.say('{"type":"message","room":"tea","text":"hi"}')
            assert await bo.refused() == ("room", "not_joined")

    @pytest.mark.parametrize("politely", [True, False])
    async def test_who_is_gone_has_left(self, politely: bool) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            if politely:
                await bo.leave()
            else:
                await bo.stream.aclose()
            assert (await ada.told("left"))["name"] == "Bo"

    async def test_joining_a_room_again_tells_it_again_and_tells_the_others_nothing(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            said = await ada.told("message")
            await bo.told("message")
            await ada.say('{"type":"join","room":"tea"}')
            assert (await ada.told("history"))["messages"] == [said]
            assert (await ada.told("members"))["members"] == ["Ada", "Bo"]
            await bo.quiet()
            await bo.say('{"type":"message","room":"tea","text":"still"}')
            assert (await ada.told("message"))["text"] == "still"

    async def test_a_room_ends_with_its_last_member_and_its_history_does_not(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.told("message")
            await ada.leave()
            await wait_all_tasks_blocked()
            assert not chat.chat._lobby.rooms
            assert not chat.chat._lobby.sessions
            assert chat.chat.manager.rooms == ()
            bo = await chat.arrive()
            heard = await bo.hello("Bo", "tea")
            assert [message["text"] for message in json.loads(heard[1])["messages"]] == ["hi"]

    async def test_a_connection_is_in_at_most_128_rooms(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", *[f"room {number}" for number in range(128)])
            await ada.say('{"type":"join","room":"one more"}')
            error = await ada.told("error")
            assert (error["field"], error["code"], error["room"]) == ("room", "too_many", "one more")
            await ada.say('{"type":"leave","room":"room 5"}')
            await ada.told("left")
            await ada.say('{"type":"join","room":"one more"}')
            await ada.told("history")
            await ada.told("members")

    async def test_there_is_a_bound_for_all_rooms(self) -> None:
        async with party(Chat(memory(max_rooms=1))) as chat:
            (ada,) = await chat.people("Ada")
            bo = await chat.arrive()
            await bo.say('{"type":"hello","name":"Bo","rooms":[{"room":"cake"},{"room":"tea"}]}')
            await bo.told("welcome")
            error = await bo.told("error")
            assert (error["code"], error["room"]) == ("too_many", "cake")
            await bo.told("history")
            await bo.told("members")
            await ada.told("joined")
            assert chat.chat._lobby.rooms.keys() == {"tea"}


class TestHistory:
    async def test_the_newest_50_come_on_joining_and_older_ones_on_request(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            for number in range(120):
                await ada.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
                await ada.told("message")
            bo = await chat.arrive()
            recent = json.loads((await bo.hello("Bo", "tea"))[1])
            assert recent["more"] is True
            assert [int(message["text"]) for message in recent["messages"]] == [*range(70, 120)]
            await bo.say(f'{{"type":"history","room":"tea","before":{recent["messages"][0]["id"]}}}')
            older = await bo.told("history")
            assert (older["kind"], older["more"]) == ("older", True)
            assert [int(message["text"]) for message in older["messages"]] == [*range(20, 70)]
            await bo.say(f'{{"type":"history","room":"tea","before":{older["messages"][0]["id"]},"limit":30}}')
            older = await bo.told("history")
            assert older["more"] is False
            assert [int(message["text"]) for message in older["messages"]] == [*range(20)]

    async def test_a_message_in_the_history_is_the_message_that_was_heard(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"message","room":"tea","text":"\\"\\u2028\\u00e9","client":"a-1"}')
            heard = await ada.hear()
            bo = await chat.arrive()
            assert (await bo.hello("Bo", "tea"))[1] == (
                f'{{"type":"history","room":"tea","kind":"recent","more":false,"messages":[{heard}]}}'
            )


def rejoin(session: str, last: int, room: str = "tea", name: str = "Ada") -> str:
    return json.dumps({"type": "hello", "name": name, "session": session, "rooms": [{"room": room, "last": last}]})


class TestRecovery:
    async def test_who_comes_back_gets_exactly_what_it_missed(self, autojump_clock: trio.testing.MockClock) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await bo.say('{"type":"message","room":"tea","text":"heard"}')
            last = (await ada.told("message"))["id"]
            await ada.stream.aclose()
            await bo.told("message")
            await bo.told("left")
            for number in range(120):
                await bo.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
                await bo.told("message")
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Ada"), last))
            await ada.told("welcome")
            texts = []
            for more in (True, True, False):
                history = await ada.told("history")
                assert (history["kind"], history["more"]) == ("missed", more)
                texts += [message["text"] for message in history["messages"]]
            assert texts == [str(number) for number in range(120)]
            assert (await ada.told("members"))["name"] == "Ada"
            await bo.told("joined")
            await bo.say('{"type":"message","room":"tea","text":"now"}')
            assert (await ada.told("message"))["text"] == "now"

    async def test_who_missed_nothing_gets_nothing(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await bo.say('{"type":"message","room":"tea","text":"heard"}')
            last = (await ada.told("message"))["id"]
            await ada.stream.aclose()
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Ada"), last))
            await ada.told("welcome")
            assert await ada.hear() == '{"type":"history","room":"tea","kind":"missed","more":false,"messages":[]}'

    async def test_the_id_of_a_presence_is_as_good_as_that_of_a_message(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            await ada.say('{"type":"message","room":"tea","text":"before"}')
            await ada.told("message")
            bo = await chat.arrive()
            last = json.loads((await bo.hello("Bo", "tea", session=session_of("Bo")))[-1])["id"]
            await bo.stream.aclose()
            await ada.say('{"type":"message","room":"tea","text":"after"}')
            await wait_all_tasks_blocked()
            bo = await chat.arrive()
            await bo.say(rejoin(session_of("Bo"), last))
            await bo.told("welcome")
            assert [message["text"] for message in (await bo.told("history"))["messages"]] == ["after"]

    async def test_who_was_away_too_long_is_told_of_the_gap(self) -> None:
        async with party(Chat(memory(max_kept=60))) as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await bo.say('{"type":"message","room":"tea","text":"heard"}')
            last = (await ada.told("message"))["id"]
            await ada.stream.aclose()
            for number in range(61):
                await bo.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
            await wait_all_tasks_blocked()
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Ada"), last))
            await ada.told("welcome")
            assert await ada.hear() == f'{{"type":"gap","room":"tea","last":{last}}}'
            history = await ada.told("history")
            assert history["kind"] == "recent"
            assert [int(message["text"]) for message in history["messages"]] == [*range(11, 61)]
            await ada.told("members")

    async def test_a_server_that_began_anew_tells_of_the_gap(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Ada"), 1_663_886_000_456_000))
            await ada.told("welcome")
            await ada.told("gap")
            await ada.told("history")
            await ada.told("members")

    async def test_the_ghost_of_a_connection_keeps_no_name(self) -> None:
        async with party() as chat:
            ghost, bo = await chat.people("Ada", "Bo")
            ada = await chat.arrive()
            members = json.loads((await ada.hello("Ada", "tea", session=session_of("Ada")))[-1])
            assert members["name"] == "Ada"
            assert members["members"] == ["Ada", "Bo"]
            assert await ghost.closed() == (4000, "this session has another connection")
            await bo.quiet()  # for the others nobody came and nobody left
            await bo.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.told("message")

    async def test_a_ghost_that_speaks_at_last_is_not_heard(self) -> None:
        async with party() as chat:
            ghost, bo = await chat.people("Ada", "Bo")
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", session=session_of("Ada"))
            await ghost.say('{"type":"message","room":"tea","text":"boo"}')
            await wait_all_tasks_blocked()
            await bo.quiet()

    async def test_of_two_connections_the_later_stays_whichever_the_backplane_answers_first(self) -> None:
        backplane = SlowDoor(clock=clock)
        async with party(Chat(backplane)) as chat:
            door = trio.Event()
            backplane.doors = [("before", door)]
            ghost = await chat.arrive()
            await ghost.say(rejoin(session_of("Ada"), ID))
            await ghost.told("welcome")
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", session=session_of("Ada"))
            door.set()
            assert await ghost.closed() == (4000, "this session has another connection")
            (bo,) = await chat.people("Bo")
            await ada.told("joined")
            await bo.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.told("message")
            await ada.leave()
            await bo.told("message")
            await bo.told("left")
            assert chat.chat._lobby.sessions.keys() == {session_of("Bo")}

    async def test_of_two_connections_the_later_stays_though_it_said_hello_first(self) -> None:
        async with party() as chat:
            ghost = await chat.arrive()
            ada = await chat.arrive()
            await ada.hello("Ada", session=session_of("Ada"))
            await ghost.say(json.dumps({"type": "hello", "name": "Ada", "session": session_of("Ada"), "rooms": []}))
            await ghost.told("welcome")
            assert await ghost.closed() == (4000, "this session has another connection")
            await ada.quiet()

    @pytest.mark.parametrize("later_waits", [False, True])
    async def test_of_two_names_the_later_stays_whichever_the_backplane_hears_first(self, later_waits: bool) -> None:
        backplane = SlowDoor(clock=clock)
        async with party(Chat(backplane)) as chat:
            doors = [trio.Event(), trio.Event()]
            backplane.doors = [("before", doors[0])]
            if later_waits:
                backplane.doors.append(("after", doors[1]))
            for name in ("Ada", "Countess"):
                person = await chat.arrive()
                await person.say(rejoin(session_of("Ada"), ID, name=name))
                await person.told("welcome")
                await wait_all_tasks_blocked()
            assert await backplane.people("tea", 10) == (["Countess"], 1)
            doors[0].set()
            await wait_all_tasks_blocked()
            assert await backplane.people("tea", 10) == (["Ada" if later_waits else "Countess"], 1)
            doors[1].set()
            await wait_all_tasks_blocked()
            assert await backplane.people("tea", 10) == (["Countess"], 1)
            await person.stream.aclose()
            await wait_all_tasks_blocked()
            assert backplane._idle.keys() == {"tea"}  # no seat was kept

    async def test_another_name_of_the_same_session_is_a_rename(self) -> None:
        async with party() as chat:
            _, bo = await chat.people("Ada", "Bo")
            ada = await chat.arrive()
            members = json.loads((await ada.hello("Countess", "tea", session=session_of("Ada")))[-1])
            assert members["members"] == ["Countess", "Bo"] or members["members"] == ["Bo", "Countess"]
            assert (await bo.told("left"))["name"] == "Ada"
            assert (await bo.told("joined"))["name"] == "Countess"
            await bo.quiet()

    async def test_rooms_of_the_ghost_that_are_not_named_again_are_left(self) -> None:
        async with party() as chat:
            _, bo = await chat.people("Ada", "Bo")
            ada = await chat.arrive()
            await ada.hello("Ada", "cake", session=session_of("Ada"))
            assert (await bo.told("left"))["name"] == "Ada"

    async def test_a_message_that_is_sent_again_appears_once(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            await ada.say('{"type":"message","room":"tea","text":"once","client":"a-1"}')
            await bo.told("message")
            await ada.stream.aclose()  # it had not heard that its message arrived
            await bo.told("left")
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Ada"), ID + 2))
            await ada.told("welcome")
            (message,) = (await ada.told("history"))["messages"]
            assert message["client"] == "a-1"
            await ada.told("members")
            await bo.told("joined")
            await ada.say('{"type":"message","room":"tea","text":"once","client":"a-1"}')
            assert (
                await ada.hear()
                == f'{{"type":"confirmed","room":"tea","client":"a-1","id":{message["id"]},"time":{NOW}}}'
            )
            await bo.quiet()

    async def test_a_message_that_had_not_arrived_is_sent_again_and_arrives(self) -> None:
        async with party() as chat:
            ada, bo = await chat.people("Ada", "Bo")
            whole = frame(TEXT, b'{"type":"message","room":"tea","text":"once","client":"a-1"}')
            await ada.client.send(whole[:20])
            await ada.stream.aclose()
            await bo.told("left")
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", session=session_of("Ada"))
            await bo.told("joined")
            await ada.client.send(whole)
            assert await ada.hear() == await bo.hear()

    async def test_what_happens_while_somebody_catches_up_comes_after_it(self) -> None:
        backplane = Slow(clock=clock)
        async with party(Chat(backplane)) as chat:
            (bo,) = await chat.people("Bo")
            await bo.say('{"type":"message","room":"tea","text":"1"}')
            await bo.told("message")
            backplane.gate = trio.Event()
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
            await ada.told("welcome")
            await bo.told("joined")
            await bo.say('{"type":"message","room":"tea","text":"2"}')
            await bo.told("message")
            backplane.gate.set()
            # The history was read after the second message; it must not come twice.
            assert [message["text"] for message in (await ada.told("history"))["messages"]] == ["1", "2"]
            await ada.told("members")
            await bo.say('{"type":"message","room":"tea","text":"3"}')
            assert (await ada.told("message"))["text"] == "3"

    async def test_what_happens_after_the_history_was_read_comes_after_it(self) -> None:
        backplane = Slow(clock=clock)
        async with party(Chat(backplane)) as chat:
            (bo,) = await chat.people("Bo")
            backplane.people_gate = trio.Event()
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
            await ada.told("welcome")
            assert (await ada.told("history"))["messages"] == []
            await bo.told("joined")
            await bo.say('{"type":"message","room":"tea","text":"meanwhile"}')
            await bo.told("message")
            backplane.people_gate.set()
            members = await ada.told("members")
            message = await ada.told("message")
            assert message["text"] == "meanwhile"
            assert message["id"] > members["id"]

    async def test_a_history_that_is_ahead_of_what_was_delivered_makes_no_double(self) -> None:
        backplane = Late(clock=clock)
        async with party(Chat(backplane)) as chat:
            (bo,) = await chat.people("Bo")
            backplane.holding = True
            await bo.say('{"type":"message","room":"tea","text":"late"}')
            await wait_all_tasks_blocked()
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
            await ada.told("welcome")
            assert [message["text"] for message in (await ada.told("history"))["messages"]] == ["late"]
            await ada.told("members")
            await wait_all_tasks_blocked()
            backplane.release()
            assert (await bo.told("message"))["text"] == "late"
            await ada.quiet()
            await bo.say('{"type":"message","room":"tea","text":"next"}')
            assert (await ada.told("message"))["text"] == "next"

    async def test_messages_that_go_while_somebody_catches_up_are_a_gap(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Slow(clock=clock, max_kept=60)
        async with party(Chat(backplane)) as chat:
            (bo,) = await chat.people("Bo")
            for number in range(60):
                await bo.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
                await bo.told("message")
            backplane.gate = trio.Event()
            backplane.free = 1
            ada = await chat.arrive()
            await ada.say(rejoin(session_of("Cy"), ID + 1))
            await ada.told("welcome")
            assert (await ada.told("history"))["more"] is True
            await bo.told("joined")
            for number in range(60):
                await bo.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
                await bo.told("message")
            backplane.gate.set()
            await ada.told("gap")
            assert (await ada.told("history"))["kind"] == "recent"

    async def test_who_is_too_slow_to_catch_up_is_closed_with_1013(self) -> None:
        backplane = Slow(clock=clock)
        async with party(Chat(backplane)) as chat:
            bo = await chat.arrive()
            await bo.hello("Bo", "tea")
            backplane.gate = trio.Event()
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
            await ada.told("welcome")
            await bo.told("joined")
            seat = await backplane.enter("tea", "another-session-", "Cy")
            await bo.told("joined")
            for number in range(1000):
                await backplane.publish(seat, '{"by":"x","text":"x"}', str(number))
            assert await ada.closed() == (1013, "too slow to catch up")
            backplane.gate.set()


class TestAnUnreachableBackplane:
    @pytest.mark.parametrize("how", ["failing", "hanging"])
    async def test_a_message_is_reported_as_not_sent(self, how: str, autojump_clock: trio.testing.MockClock) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            setattr(backplane, how, ["publish"])
            await ada.say('{"type":"message","room":"tea","text":"hi","client":"a-1"}')
            error = await ada.told("error")
            assert (error["field"], error["code"], error["room"], error["client"]) == (
                "room",
                "unavailable",
                "tea",
                "a-1",
            )
            setattr(backplane, how, [])
            await ada.say('{"type":"message","room":"tea","text":"hi","client":"a-1"}')
            await ada.told("message")

    @pytest.mark.parametrize("how", ["failing", "hanging"])
    @pytest.mark.parametrize("call", ["subscribe", "enter", "history", "people"])
    async def test_a_room_that_does_not_answer_is_not_joined(
        self, call: str, how: str, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (bo,) = await chat.people("Bo", room="cake")
            setattr(backplane, how, [call])
            await bo.say('{"type":"join","room":"tea"}')
            message = json.loads(await bo.hear())
            while message["type"] == "history":
                message = json.loads(await bo.hear())
            assert (message["code"], message["room"]) == ("unavailable", "tea")
            await bo.say('{"type":"message","room":"tea","text":"hi"}')
            assert await bo.refused() == ("room", "not_joined")
            assert chat.chat._lobby.rooms.keys() == {"cake"}
            setattr(backplane, how, [])
            await bo.say('{"type":"join","room":"tea"}')
            await bo.told("history")
            await bo.told("members")

    async def test_a_hello_says_which_rooms_do_not_answer(self) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            backplane.failing = ["people"]
            ada = await chat.arrive()
            await ada.say('{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
            await ada.told("welcome")
            await ada.told("history")
            assert await ada.refused() == ("room", "unavailable")

    async def test_that_is_not_counted_against_the_client(self) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.failing = ["publish"]
            for _ in range(40):
                await ada.say('{"type":"message","room":"tea","text":"hi","client":"a-1"}')
                assert await ada.refused() == ("room", "unavailable")

    async def test_what_came_meanwhile_fails_with_it_in_order_and_is_not_waited_for_as_long_again(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.hanging = ["publish", "notify", "history", "enter"]
            began = trio.current_time()
            said = [f'{{"type":"message","room":"tea","text":"hi","client":"a-{number}"}}' for number in range(40)]
            said[5:5] = ['{"type":"typing","room":"tea"}', '{"type":"history","room":"tea","before":9}']
            said += ['{"type":"join","room":"cake"}', '{"type":"join","room":"tea"}']
            for each in said[:30]:
                await ada.say(each)
            await trio.sleep(4)
            for each in said[30:]:
                await ada.say(each)
            errors = [await ada.told("error") for _ in said]
            assert trio.current_time() - began == pytest.approx(5, abs=0.2)
            assert {error["code"] for error in errors} == {"unavailable"}
            assert [error.get("client") for error in errors] == [json.loads(each).get("client") for each in said]
            assert [error["room"] for error in errors] == [json.loads(each)["room"] for each in said]

    async def test_messages_behind_a_join_that_failed_are_not_counted_against_the_client(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.hanging = ["enter"]
            await ada.say('{"type":"join","room":"cake"}')
            for _ in range(20):
                await ada.say('{"type":"message","room":"cake","text":"hi"}')
            assert await ada.refused() == ("room", "unavailable")
            for _ in range(20):
                assert await ada.refused() == ("room", "not_joined")
            await ada.quiet()

    async def test_what_can_be_done_of_what_came_meanwhile_is_done(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.hanging = ["publish"]
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.say('{"type":"history","room":"tea","before":9}')
            await ada.say('{"type":"leave","room":"tea"}')
            assert await ada.refused() == ("room", "unavailable")
            await ada.told("history")
            await ada.told("left")

    async def test_what_comes_later_is_waited_for_as_long_as_ever(self, autojump_clock: trio.testing.MockClock) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.hanging = ["publish"]
            began = trio.current_time()
            for number in range(3):
                await ada.say('{"type":"message","room":"tea","text":"hi"}')
                assert await ada.refused() == ("room", "unavailable")
                await trio.sleep(0.5)
                assert trio.current_time() - began == pytest.approx(5.5 * (number + 1), abs=0.1)

    async def test_who_goes_in_the_meantime_has_gone(self, autojump_clock: trio.testing.MockClock) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            backplane.hanging = ["publish"]
            await ada.say('{"type":"message","room":"tea","text":"hi"}')
            await ada.client.send(CLOSE_1000)
            await trio.sleep(10)
            assert not chat.chat._lobby.sessions

    @pytest.mark.parametrize("how", ["failing", "hanging"])
    async def test_who_leaves_has_left(self, how: str, autojump_clock: trio.testing.MockClock) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            setattr(backplane, how, ["leave"])
            await ada.say('{"type":"leave","room":"tea"}')
            assert (await ada.told("left"))["name"] == "Ada"
            await ada.say('{"type":"leave","room":"tea"}')
            assert await ada.refused() == ("room", "not_joined")

    @pytest.mark.parametrize("how", ["failing", "hanging"])
    async def test_leaving_ends_although_nobody_can_be_told(
        self, how: str, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            (ada,) = await chat.people("Ada")
            setattr(backplane, how, ["leave", "unsubscribe"])
            await ada.stream.aclose()
            await trio.sleep(20)
            assert not chat.chat._lobby.sessions
            assert chat.chat.manager.rooms == ()

    async def test_all_rooms_together_are_not_waited_for_longer_than_one(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", "cake", "jam")
            backplane.hanging = ["leave"]
            await ada.stream.aclose()
            await trio.sleep(5.1)
            assert not chat.chat._lobby.sessions
            assert not chat.chat._lobby.rooms

    @pytest.mark.parametrize("after", [0.0, 3.0], ids=["cut", "cut while it leaves"])
    async def test_who_is_cut_waits_a_moment_and_no_longer(
        self, after: float, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", "cake")
            backplane.hanging = ["leave"]
            if after:
                await ada.stream.aclose()
                await trio.sleep(after)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(0.1)
        assert not chat.chat._lobby.sessions
        assert not chat.chat._lobby.rooms

    async def test_who_is_cut_gives_its_seats_back_to_a_backplane_that_answers(self) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", "cake")
            await ada.say('{"type":"leave","room":"tea"}')  # is cut while it does
        for room in ("tea", "cake"):
            assert await backplane.people(room, 10) == ([], 0)

    async def test_a_backplane_that_is_slow_is_given_the_seats_back(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        backplane = Broken(clock=clock)
        async with party(Chat(backplane)) as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", "tea", "cake")
            backplane.pause = 4
            await ada.leave()
            await trio.sleep(4.1)
            for room in ("tea", "cake"):
                assert await backplane.people(room, 10) == ([], 0)


class TestBounds:
    async def test_the_connection_stays_after_15_errors_and_ends_with_1008_after_16(self) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            for number in range(16):
                await ada.say("{")
                if number < 15:
                    assert await ada.refused() == ("json", "bad_json")
            assert await ada.refused() == ("json", "bad_json")
            assert await ada.closed() == (1008, "16 errors within 10 s")

    async def test_so_many_before_the_hello_do_the_same(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            for _ in range(16):
                await ada.say('{"type":"typing","room":"tea"}')
                assert await ada.refused() == ("type", "hello_first")
            assert await ada.closed() == (1008, "16 errors within 10 s")

    async def test_that_the_server_has_no_room_is_not_counted_against_the_client(self) -> None:
        async with party(Chat(memory(max_rooms=1))) as chat:
            (ada,) = await chat.people("Ada")
            bo = await chat.arrive()
            rooms = [{"room": f"room {number}"} for number in range(128)]
            await bo.say(json.dumps({"type": "hello", "name": "Bo", "rooms": rooms}))
            await bo.told("welcome")
            for _ in rooms:
                assert await bo.refused() == ("room", "too_many")
            await bo.say('{"type":"join","room":"tea"}')
            await bo.told("history")
            await bo.told("members")
            await ada.told("joined")

    async def test_more_rooms_than_a_connection_may_be_in_are_its_own_error(self) -> None:
        async with party() as chat:
            ada = await chat.arrive()
            await ada.hello("Ada", *map(str, range(128)))
            for number in range(16):
                await ada.say(f'{{"type":"join","room":"another {number}"}}')
                assert await ada.refused() == ("room", "too_many")
            assert await ada.closed() == (1008, "16 errors within 10 s")

    async def test_errors_over_a_longer_time_are_forgiven(self, autojump_clock: trio.testing.MockClock) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            for _ in range(40):
                await ada.say("{")
                assert await ada.refused() == ("json", "bad_json")
                await trio.sleep(0.7)

    async def test_who_floods_is_read_more_slowly_and_loses_nothing(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with party() as chat:
            (ada,) = await chat.people("Ada")
            began = trio.current_time()
            for number in range(1600):
                await ada.say(f'{{"type":"message","room":"tea","text":"{number}"}}')
            texts = [(await ada.told("message"))["text"] for _ in range(1600)]
            assert texts == [str(number) for number in range(1600)]
            assert trio.current_time() - began == pytest.approx((1600 - 1200) / 400)

    async def test_who_does_not_read_is_closed_with_1013_and_recovers(self) -> None:
        async with party() as chat:
            (bo,) = await chat.people("Bo")
            deaf = await chat.arrive(lockstep_stream_pair, max_send_buffer=65_536)
            heard = await deaf.hello("Deaf", "tea", session=session_of("Cy"))
            last = json.loads(heard[-1])["id"]
            await bo.told("joined")
            for number in range(60):
                await bo.say(f'{{"type":"message","room":"tea","text":"{number:04}{"x" * 4000}"}}')
            texts: list[str] = []
            while len(texts) < 60:
                message = json.loads(await bo.hear())
                if message["type"] == "message":
                    texts.append(message["text"])
            while True:
                first, payload = await deaf.client.frame()
                if first != TEXT:
                    break
                last = json.loads(payload)["id"]
            assert (first, payload[:2]) == (CLOSE, b"\x03\xf5")  # 1013
            await deaf.client.send(frame(CLOSE, b"\x03\xf5"))
            deaf = await chat.arrive()
            await deaf.say(rejoin(session_of("Cy"), last, name="Deaf"))
            await deaf.told("welcome")
            missed = [message["text"] for message in (await deaf.told("history"))["messages"]]
            assert missed
            assert missed == texts[-len(missed) :]

    async def test_the_server_going_away_ends_every_visit(self) -> None:
        chat = Chat(memory())
        async with party(chat) as guests:
            await guests.people("Ada", "Bo")
        assert not chat._lobby.sessions
        assert not chat._lobby.rooms
        assert chat.manager.active_connections == ()

    async def test_the_memory_of_one_process_is_the_default(self) -> None:
        assert isinstance(Chat().backplane, MemoryBackplane)


async def heard_by_all(people: Sequence[Person]) -> list[bytes]:
    """What comes to each until the server has nothing left to do."""
    heard = [bytearray() for _ in people]

    async def listen(person: Person, into: bytearray) -> None:
        while True:
            into += await person.stream.receive_some()

    async with trio.open_nursery() as nursery:
        for person, into in zip(people, heard, strict=True):
            nursery.start_soon(listen, person, into)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return [bytes(data) for data in heard]


async def test_a_room_of_1000_members_hears_one_message() -> None:
    async with party() as chat:
        people = [await chat.arrive() for _ in range(1000)]
        async with trio.open_nursery() as nursery:
            for person in people:
                nursery.start_soon(person.say, '{"type":"hello","name":"Ada","rooms":[{"room":"tea"}]}')
        arrivals = await heard_by_all(people)
        assert all(data.count(b'"event":"members"') == 1 for data in arrivals)
        assert len(chat.chat.manager.members("tea")) == 1000
        assert (await chat.chat.backplane.people("tea", 2000))[0][-1] == "Ada 1000"
        await people[0].say('{"type":"message","room":"tea","text":"hi","client":"a-1"}')
        (message,) = set(await heard_by_all(people))
        assert message.count(b'"text":"hi"') == message.count(b'"type"') == 1


# -- nothing is lost, nothing comes twice, whatever breaks ---------------------------------------------------------


class Model:
    """A client that keeps to the protocol's rules, over connections that break."""

    def __init__(self, party: Party, number: int) -> None:
        self.party = party
        self.name = "Ada"  # all of them
        self.session = f"session-number-{number}"
        self.number = number
        self.made = 0
        self.pending: dict[str, str] = {}
        self.last: int | None = None
        self.seen: list[tuple[int, str]] = []
        self.gaps = 0
        self.lock = trio.Lock()
        self.person: Person | None = None
        self.inbox: list[dict[str, Any]] = []
        self.live = False
        self.scope = trio.CancelScope()

    async def connect(self) -> None:
        """Open a new connection; the one before may be a ghost now."""
        self.lose()
        self.person = person = await self.party.arrive()
        await person.say(
            json.dumps(
                {
                    "type": "hello",
                    "name": self.name,
                    "session": self.session,
                    "rooms": [{"room": "tea", "last": self.last}],
                }
            )
        )
        self.scope = trio.CancelScope()
        self.inbox = []
        self.party.nursery.start_soon(self._read, person, self.inbox, self.scope)

    async def _read(self, person: Person, inbox: list[dict[str, Any]], scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    first, payload = await person.client.frame()
                except (EOFError, trio.ClosedResourceError):
                    return
                if first == TEXT:
                    inbox.append(json.loads(payload))

    def lose(self) -> None:
        """Hear no more of the connection; what came and was not looked at is lost with it."""
        self.scope.cancel()
        self.inbox = []
        self.live = False
        self.person = None

    async def cut(self) -> None:
        person = self.person
        self.lose()
        if person is not None:
            await person.stream.aclose()

    async def send(self, *, half: bool = False) -> None:
        if len(self.pending) < 32:
            self.made += 1
            client = f"{self.number}.{self.made}"
            self.pending[client] = f"text of {client}"
            if self.live:
                await self._transmit(client, half=half)
                if half:
                    await self.cut()

    async def _transmit(self, client: str, *, half: bool = False) -> None:
        assert self.person is not None
        message = {"type": "message", "room": "tea", "text": self.pending[client], "client": client}
        data = frame(TEXT, json.dumps(message).encode())
        await self.person.client.send(data[: len(data) // 2] if half else data)

    async def act(self, action: str) -> None:
        match action:
            case "send":
                await self.send()
            case "half":
                await self.send(half=True)
            case "again":
                await self.send_again()
            case "cut":
                await self.cut()
            case "connect":
                await self.connect()
            case "look":
                await self.look(1000)
            case _:
                await self.look(1)

    async def send_again(self) -> None:
        """Send everything that is not confirmed once more, as a nervous client may."""
        for client in list(self.pending):
            if self.live and client in self.pending:
                await self._transmit(client)

    async def look(self, most: int) -> None:
        """Look at messages that have come."""
        while self.inbox and most:
            most -= 1
            message = self.inbox.pop(0)
            match message["type"]:
                case "message":
                    self._see(message)
                case "history":
                    for each in message["messages"]:
                        self._see(each)
                case "gap":
                    assert message["last"] >= (self.last or 0)
                    self.gaps += 1
                case "presence":
                    self._advance(message["id"], strictly=False)
                    if message["event"] == "members" and not self.live:
                        self.live = True
                        await self.send_again()
                case "confirmed":
                    self.pending.pop(message["client"], None)
                case other:
                    assert other == "welcome", message

    def _see(self, message: dict[str, Any]) -> None:
        self._advance(message["id"], strictly=True)
        self.seen.append((message["id"], message["client"]))
        self.pending.pop(message["client"], None)

    def _advance(self, id: int, *, strictly: bool) -> None:
        if self.last is not None:
            assert id > self.last or (not strictly and id == self.last), "ids grow"
        self.last = id


class Lagging(MemoryBackplane):
    """Answers and delivers after some of Trio's other tasks have run, as one over a network does.

    Args:
        lags: how many checkpoints each step takes, over and over.
    """

    def __init__(self, lags: Sequence[int], max_kept: int) -> None:
        super().__init__(max_kept=max_kept)
        self._lags = cycle(lags or [0])
        self._send, self._receive = trio.open_memory_channel[Callable[[], object]](inf)
        self._lines: dict[object, list[Callable[[Sequence[Entry]], object]]] = {}

    async def pump(self) -> None:
        """Deliver."""
        async for deliver in self._receive:
            await self._lag()
            deliver()

    async def _lag(self) -> None:
        for _ in range(next(self._lags)):
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def subscribe(self, room: str, deliver: Callable[[Sequence[Entry]], object]) -> int:
        await self._lag()
        line = self._lines[room] = [deliver]  # empty when the subscription has ended

        def later(entries: Sequence[Entry]) -> None:
            self._send.send_nowait(lambda: [each(entries) for each in line])

        self._lines[deliver] = [later]
        position = await super().subscribe(room, later)
        await self._lag()
        return position

    async def unsubscribe(self, room: str, deliver: Callable[[Sequence[Entry]], object]) -> None:
        await self._lag()
        self._lines.pop(room).clear()
        await super().unsubscribe(room, *self._lines.pop(deliver))

    async def enter(self, room: str, session: str, name: str) -> Seat:
        await self._lag()
        seat = await super().enter(room, session, name)
        await self._lag()
        return seat

    async def leave(self, seat: Seat) -> Entry | None:
        await self._lag()
        return await super().leave(seat)

    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        await self._lag()
        people = await super().people(room, limit)
        await self._lag()
        return people

    async def publish(self, seat: Seat, body: str, client: str | None) -> Receipt:
        await self._lag()
        receipt = await super().publish(seat, body, client)
        await self._lag()
        return receipt

    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        await self._lag()
        page = await super().history(room, after=after, before=before, limit=limit)
        await self._lag()
        return page


ACTIONS: Final = ["send", "send", "send", "again", "half", "cut", "connect", "look", "look 1"]
STEPS: Final = st.lists(
    # What happens at one time: who does what, after how many checkpoints; then whether everything comes to rest.
    st.tuples(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS), st.integers(0, 20))), st.booleans()),
    max_size=30,
)
LAGS: Final = st.lists(st.integers(0, 6), max_size=20)
Step: TypeAlias = "tuple[Sequence[tuple[int, str, int]], bool]"


async def live_through(steps: Sequence[Step], lags: Sequence[int], max_kept: int) -> list[Model]:
    backplane = Lagging(lags, max_kept)
    async with party(Chat(backplane)) as guests:
        guests.nursery.start_soon(backplane.pump)
        models = [Model(guests, number) for number in range(3)]

        async def act(number: int, action: str, delay: int) -> None:
            for _ in range(delay):
                await trio.lowlevel.checkpoint()
            model = models[number]
            async with model.lock:
                await model.act(action)

        async def settle() -> None:
            for _ in range(3):
                await wait_all_tasks_blocked()
                for model in models:
                    await model.look(1000)

        async def connect_all() -> None:
            async with trio.open_nursery() as nursery:
                for model in models:
                    nursery.start_soon(model.connect)
            await settle()

        await connect_all()
        for actions, rests in steps:
            async with trio.open_nursery() as nursery:
                for action in actions:
                    nursery.start_soon(act, *action)
            if rests:
                await settle()
        await connect_all()
        return models


@given(STEPS, LAGS)
def test_everybody_sees_each_message_once_and_in_one_order(steps: Sequence[Step], lags: Sequence[int]) -> None:
    models = trio.run(live_through, steps, lags, 1000)
    for model in models:
        assert not model.pending, "everything was confirmed in the end"
        assert model.gaps == 0
        clients = [client for _, client in model.seen]
        assert len(clients) == len(set(clients)) == sum(each.made for each in models)
        assert model.seen == models[0].seen
        for each in models:
            own = [client for client in clients if client.startswith(f"{each.number}.")]
            assert own == [f"{each.number}.{number + 1}" for number in range(each.made)]


@given(STEPS, LAGS)
def test_who_misses_something_is_told_of_a_gap(steps: Sequence[Step], lags: Sequence[int]) -> None:
    models = trio.run(live_through, steps, lags, 2)
    everything = sorted({each for model in models for each in model.seen})
    assert len({client for _, client in everything}) == len(everything)
    for model in models:
        assert not model.pending
        assert len(model.seen) == len(set(model.seen))
        if not model.gaps:
            assert model.seen == everything


class TestBeginningAnew:
    async def test_who_is_in_a_room_that_has_lost_something_is_told_to_come_again(self) -> None:
        backplane = Slow(clock=clock)
        async with party(Chat(backplane)) as chat:
            ada, bo = await chat.people("Ada", "Bo")
            elsewhere = await chat.arrive()
            await elsewhere.hello("Cy", "cake")
            catching_up = await chat.arrive()
            backplane.gate = trio.Event()
            await catching_up.say(
                '{"type":"hello","name":"Dee","session":"session-of-dee-----","rooms":[{"room":"tea"}]}'
            )
            for person in (ada, bo):
                await person.told("joined")
            (deliver,) = backplane._rooms["tea"].subscribers
            deliver([Entry(ID + 100, 0, "reset", "", "")])
            backplane.gate.set()
            await catching_up.told("welcome")
            for person in (ada, bo, catching_up):
                assert await person.closed() == (1012, "the room begins anew; come again")
            await elsewhere.quiet()
            assert backplane._idle.keys() == {"tea"}
