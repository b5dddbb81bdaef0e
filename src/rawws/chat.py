"""Chat rooms over a WebSocket, written on the public API as anybody would write them.

Strategy: a task for each connection reads what the person does and asks the backplane for it; what happens in a
room comes back from the backplane, once for all connections of this process, is encoded once and broadcast. So a
sender's own message reaches it on the way that it takes to everybody, and the order is one for all.

To be read from `Chat.__call__`, the handler: a `_Visitor` is one connection and does what it says, a `_Room` passes on
what happens, the `_Lobby` is what all connections share.

Rules:

* Who joins a room first gets what it missed and only then what happens now; what happens meanwhile is kept for it
  (`_Room.catch_up`). There is no hole and no overlap, and the ids that a client sees of a room always grow.
* Where the backplane has lost something (a `reset`), who is in the room is closed with 1012 and comes again.
* Who does not read is closed with 1013 and misses nothing when it comes back: no message is ever dropped silently.
* What is wrong with a message is told to its sender and to nobody else. Who floods is read more slowly.
* Everything that waits has a deadline: the hello, the backplane, and sending by the connection's own. What came while
  the backplane was waited for in vain has waited too, and is not waited for as long again.

The protocol is in chat_protocol.py, where rooms are kept in backplane.py. Cost: a task a connection.
"""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import count
from math import inf
from operator import attrgetter
from time import time_ns
from typing import TYPE_CHECKING, Final, Literal, final

import trio

from .backplane import Backplane, BackplaneError, Entry, MemoryBackplane, Page, Seat, TooManyRoomsError
from .chat_protocol import (
    MAX_HISTORY,
    MAX_MEMBERS,
    MAX_ROOMS,
    ChatError,
    ClientMessage,
    Hello,
    History,
    Join,
    Leave,
    Said,
    Typing,
    encode_body,
    encode_confirmed,
    encode_error,
    encode_event,
    encode_gap,
    encode_history,
    encode_members,
    encode_welcome,
    is_event,
    parse,
)
from .errors import CloseCode
from .manager import ConnectionManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .websocket import WebSocket

__all__ = ["SESSION_TAKEN", "Chat"]

SESSION_TAKEN: Final = 4000
"""Close code: another connection has said hello with the same session."""

_HELLO_SECONDS: Final = 10.0
"""Time within which a connection says who it is."""
_BACKPLANE_SECONDS: Final = 5.0
"""Time that the backplane has for one answer; also to tell it of all that a connection leaves."""
_MOMENT: Final = 0.1
"""Time that the backplane has for all together that came while it did not answer, and in which these are received; and
for hearing what a connection leaves when the server is cut."""
_ERRORS: Final = 16
_ERROR_SECONDS: Final = 10.0
"""So many errors within that time end a connection."""
_RATE: Final = 400.0
"""Messages a second beyond which a connection is read more slowly."""
_BURST: Final = 1200
"""Messages that may come at once."""
_TYPING_SECONDS: Final = 1.0
"""Time within which one notice of typing is passed on to a room."""
_MAX_KEPT_BACK: Final = 1000
"""Entries that are kept for a connection that is catching up; beyond, it is not fast enough."""


@final
class Chat:
    """The application: `rawws.run({"/chat": rawws.Chat()}, "127.0.0.1", 8000)`.

    Args:
        backplane: where rooms are kept; by default in the memory of this process.
    """

    def __init__(self, backplane: Backplane | None = None) -> None:
        self.backplane = backplane if backplane is not None else MemoryBackplane()
        self.backplane.expect(lambda entry: is_event(entry.kind, entry.name, entry.body))
        self.manager = ConnectionManager()
        self._lobby = _Lobby(self.backplane, self.manager)

    async def __call__(self, ws: WebSocket) -> None:
        """Serve one connection."""
        visitor = _Visitor(self._lobby, ws)
        hello = None
        with trio.move_on_after(_HELLO_SECONDS):
            hello = await visitor.hear_hello()
        if hello is None:
            await ws.close(CloseCode.POLICY_VIOLATION, "no hello")
            return
        try:
            await visitor.enter_as(hello)
            async for frame in ws:
                await visitor.hear(frame)
        finally:
            await visitor.leave_all()


@final
class _Lobby:
    """What the connections of this process share: its rooms, and which connection is whose."""

    __slots__ = ("_arrivals", "backplane", "manager", "rooms", "sessions")

    def __init__(self, backplane: Backplane, manager: ConnectionManager) -> None:
        self.backplane = backplane
        self.manager = manager
        self.rooms: dict[str, _Room] = {}
        self.sessions: dict[str, _Visitor] = {}
        self._arrivals = count()

    def arrive(self) -> int:
        """Return the number of a connection that has just been opened: the later, the higher."""
        return next(self._arrivals)

    def take_over(self, session: str, visitor: _Visitor) -> tuple[_Visitor | None, _Visitor]:
        """Make a connection the one of its session; return the one that was closed for it, and whose the session is.

        Of two the later stays, in whichever order they have come this far: the other is its ghost.
        """
        other = self.sessions.get(session)
        if other is None:
            self.sessions[session] = visitor
            return None, visitor
        ghost, newer = sorted((other, visitor), key=attrgetter("number"))
        self.sessions[session] = newer
        ghost.ws.close_nowait(SESSION_TAKEN, "this session has another connection")
        return ghost, newer

    def forget(self, session: str, visitor: _Visitor) -> None:
        """Forget a connection, unless another one is its session's by now."""
        if self.sessions.get(session) is visitor:
            del self.sessions[session]

    async def open_room(self, name: str) -> _Room:
        """Return a room, subscribed to; `close_room` must follow in the end."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = _Room(name, self)
        room.users += 1
        try:
            await room.subscribe()
        except BaseException:
            await self.close_room(room)
            raise
        return room

    async def close_room(self, room: _Room) -> None:
        """End one use of a room; with the last one the subscription ends."""
        room.users -= 1
        with trio.move_on_after(_BACKPLANE_SECONDS, shield=True), suppress(BackplaneError):
            await room.unsubscribe_if_unused()
        if not room.users and self.rooms.get(room.name) is room and not room.subscribed:
            del self.rooms[room.name]


@final
class _Room:
    """What this process knows of a room: its subscription, and who is catching up with it."""

    __slots__ = ("_backplane", "_catching_up", "_change", "_manager", "delivered", "name", "subscribed", "users")

    def __init__(self, name: str, lobby: _Lobby) -> None:
        self.name = name
        self.users = 0
        self.subscribed = False
        self._backplane = lobby.backplane
        self._manager = lobby.manager
        self._change: trio.Event | None = None
        self.delivered = 0
        self._catching_up: dict[WebSocket, _Backlog] = {}

    async def subscribe(self) -> None:
        """Have what happens delivered; of many who ask at once one does it and all go on together."""
        while not self.subscribed:
            if self._change is not None:
                await self._change.wait()
                continue
            with self._changing():
                position = await self._backplane.subscribe(self.name, self._deliver)
                self.delivered = max(self.delivered, position)
                self.subscribed = True

    async def unsubscribe_if_unused(self) -> None:
        if self.users or not self.subscribed:
            return
        with self._changing():
            self.subscribed = False  # who comes now waits, and subscribes again
            try:
                await self._backplane.unsubscribe(self.name, self._deliver)
            except BaseException:
                self.subscribed = True
                raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the one who subscribes or unsubscribes."""
        change = self._change = trio.Event()
        try:
            yield
        finally:
            self._change = None
            change.set()

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """Take what has happened in the room, and give it to everybody who is in it."""
        for entry in entries:
            if entry.kind == "reset":
                self._begin_anew()
                continue
            text = self.encode(entry)
            for ws, backlog in self._catching_up.items():
                if len(backlog.kept) < _MAX_KEPT_BACK:
                    backlog.kept.append((entry.id, text))
                else:
                    ws.close_nowait(CloseCode.TRY_AGAIN_LATER, "too slow to catch up")
            self._manager.broadcast(text, room=self.name)
        self.delivered = entries[-1].id
        for backlog in self._catching_up.values():
            backlog.grew.set()

    def _begin_anew(self) -> None:
        """Have everybody come again, by the ids that they saw last: so they learn what they missed, and their names."""
        for ws in (*self._manager.members(self.name), *self._catching_up):
            ws.close_nowait(CloseCode.SERVICE_RESTART, "the room begins anew; come again")

    async def catch_up(self, ws: WebSocket, seat: Seat, wanted: str, last: int | None, until: float) -> None:
        """Send a connection what it missed of the room and who is there, and put it among those who hear the rest."""
        self._manager.leave(ws, self.name)
        backlog = self._catching_up[ws] = _Backlog()
        try:
            position = await self._send_history(ws, last, until)
            with _asking(self.name, until=until):
                names, number = await self._backplane.people(self.name, MAX_MEMBERS)
            await ws.send(encode_members(self.name, position, _now(), seat.name, wanted, names, number))
            while True:
                while backlog.kept:
                    id, text = backlog.kept.popleft()
                    if id > position:
                        await ws.send(text)
                if self.delivered >= position:
                    break
                # The history was ahead of what has been delivered: the same is still to come, and to be left out.
                backlog.grew = trio.Event()
                with _asking(self.name, until=until):
                    await backlog.grew.wait()
            self._manager.join(ws, self.name, policy="close")
        finally:
            del self._catching_up[ws]

    async def _send_history(self, ws: WebSocket, last: int | None, until: float) -> int:
        """Send what was said after the id `last`, or the newest of it; return the position that this reaches."""
        while last is not None:
            page = await self.history(until, after=last)
            if page.gap:
                await ws.send(encode_gap(self.name, last))
                break
            await ws.send(self.encode_page("missed", page))
            if not page.more:
                return page.position
            last = page.entries[-1].id
        page = await self.history(until)
        await ws.send(self.encode_page("recent", page))
        return page.position

    async def history(
        self, until: float, *, after: int | None = None, before: int | None = None, limit: int = MAX_HISTORY
    ) -> Page:
        with _asking(self.name, until=until):
            return await self._backplane.history(self.name, after=after, before=before, limit=limit)

    def encode_page(self, kind: Literal["recent", "missed", "older"], page: Page) -> str:
        return encode_history(self.name, kind, map(self.encode, page.entries), page.more)

    def encode(self, entry: Entry) -> str:
        return encode_event(self.name, entry.kind, entry.id, entry.time, entry.name, entry.body)


@final
class _Backlog:
    """What happens in a room while a connection catches up with it."""

    __slots__ = ("grew", "kept")

    def __init__(self) -> None:
        self.kept: deque[tuple[int, str]] = deque()
        self.grew = trio.Event()


@final
class _Place:
    """A connection's place in a room."""

    __slots__ = ("room", "seat", "typed_at")

    def __init__(self, room: _Room, seat: Seat) -> None:
        self.room = room
        self.seat = seat
        self.typed_at = -inf


@final
class _Visitor:
    """One connection: who it is, where it is, and how much it has said."""

    __slots__ = (
        "_backplane",
        "_by",
        "_errors",
        "_lobby",
        "_paid_until",
        "_places",
        "_session",
        "_until",
        "name",
        "number",
        "ws",
    )

    def __init__(self, lobby: _Lobby, ws: WebSocket) -> None:
        self._lobby = lobby
        self._backplane = lobby.backplane
        self.ws = ws
        self.number = lobby.arrive()
        self.name = ""
        self._session = ""
        self._by = ""
        self._places: dict[str, _Place] = {}
        self._errors: deque[float] = deque(maxlen=_ERRORS)
        self._paid_until = 0.0
        self._until = inf

    # -- the beginning and the end -------------------------------------------------------------------------------------

    async def hear_hello(self) -> Hello:
        """Wait until the connection says who it is."""
        while True:
            frame = await self.ws.receive()
            try:
                message = parse(frame)
                if isinstance(message, Hello):
                    return message
                raise ChatError("type", "hello_first", "A connection says hello first.")
            except ChatError as exc:
                await self._refuse(exc)

    async def enter_as(self, hello: Hello) -> None:
        """Enter the rooms of a hello, in the place of the connection that its session had before."""
        self.name = hello.name
        self._session = hello.session or secrets.token_urlsafe(18)
        self._by = blake2b(self._session.encode(), digest_size=8).hexdigest()
        await self.ws.send(encode_welcome(self._session, self._by, _now()))
        entered: list[Join] = []
        for join in hello.rooms:
            try:
                await self._enter(join.room)
                entered.append(join)
            except ChatError as exc:
                await self._refuse(exc)
        # Only now: a seat that is shared for a moment is neither left nor given away.
        ghost, newer = self._lobby.take_over(self._session, self)
        if ghost is not None and ghost.name != newer.name:
            await self._rename(newer.name)
        for join in entered:
            try:
                await self._catch_up(join)
            except ChatError as exc:
                await self._refuse(exc)

    async def leave_all(self) -> None:
        """Leave every room, whatever ended the connection: all at once, and within a moment where that is a cut.

        A seat that was not given back by then expires where it is kept.
        """
        goodbye = trio.CancelScope(deadline=trio.current_time() + _BACKPLANE_SECONDS, shield=True)

        async def leave() -> None:
            with goodbye:
                async with trio.open_nursery() as nursery:
                    for name in self._places:
                        nursery.start_soon(self._leave, name)
            for place in self._places.values():
                await self._lobby.close_room(place.room)
            self._lobby.forget(self._session, self)
            meanwhile.cancel_scope.cancel()

        async with trio.open_nursery() as meanwhile:
            meanwhile.start_soon(leave)
            try:
                await trio.sleep_forever()
            finally:
                goodbye.deadline = min(goodbye.deadline, trio.current_time() + _MOMENT)

    # -- what it says --------------------------------------------------------------------------------------------------

    async def hear(self, frame: str | bytes) -> None:
        """Do what a message asks for, or say what is wrong with it.

        Where the backplane did not answer in time, then so for the messages that have come meanwhile.
        """
        self._until = inf
        begun = trio.current_time()
        waiting: str | bytes | None = frame
        while waiting is not None:
            await self._pace()
            try:
                await self._do(parse(waiting))
            except ChatError as exc:
                await self._refuse(exc)
                if exc.code == "unavailable" and self._until == inf:
                    self._until = max(begun + _BACKPLANE_SECONDS, trio.current_time() + _MOMENT)
            if self._until == inf:
                return
            waiting = None
            now = trio.current_time()
            with trio.move_on_at(min(now, self._until) + _MOMENT):  # who goes on talking is heard in earnest again
                waiting = await anext(self.ws, None)

    async def _do(self, message: ClientMessage) -> None:
        match message:
            case Said():
                await self._say(message)
            case Typing():
                await self._type(message)
            case History():
                place = self._place(message.room)
                page = await place.room.history(self._until, before=message.before, limit=message.limit)
                await self.ws.send(place.room.encode_page("older", page))
            case Join():
                await self._enter(message.room)
                await self._catch_up(message)
            case Leave():
                place = self._place(message.room)
                left = await self._leave(message.room)
                await self.ws.send(place.room.encode(left))
            case _:
                raise ChatError("type", "repeated", "A connection says hello once.")

    async def _say(self, said: Said) -> None:
        place = self._place(said.room, said.client)
        with _asking(said.room, said.client, self._until):
            receipt = await self._backplane.publish(
                place.seat, encode_body(said.text, self._by, said.client), said.client
            )
        if receipt.repeated:
            await self.ws.send(encode_confirmed(said.room, said.client, receipt.id, receipt.time))

    async def _type(self, typing: Typing) -> None:
        place = self._place(typing.room)
        now = trio.current_time()
        if now - place.typed_at >= _TYPING_SECONDS:
            place.typed_at = now
            with _asking(typing.room, until=self._until):
                await self._backplane.notify(place.seat, "typing")

    # -- rooms ---------------------------------------------------------------------------------------------------------

    def _place(self, name: str, client: str | None = None) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise ChatError("room", "not_joined", "You are not in this room.", room=name, client=client)
        return place

    async def _enter(self, name: str) -> None:
        """Take a seat in a room; nothing of it is heard before `_catch_up`."""
        if name in self._places:
            return
        if len(self._places) >= MAX_ROOMS:
            raise ChatError("room", "too_many", f"A connection is in at most {MAX_ROOMS} rooms.", room=name)
        with _asking(name, until=self._until):
            room = await self._lobby.open_room(name)
            try:
                seat = await self._backplane.enter(name, self._session, self.name)
            except BaseException:
                await self._lobby.close_room(room)
                raise
        self._places[name] = _Place(room, seat)

    async def _rename(self, name: str) -> None:
        """Give the seats the name that was asked for last: two who entered at once may have done so in either order."""
        for room, place in self._places.items():
            try:
                with _asking(room):
                    place.seat, before = await self._backplane.enter(room, self._session, name), place.seat
                    await self._backplane.leave(before)
            except ChatError as exc:
                await self._refuse(exc)

    async def _catch_up(self, join: Join) -> None:
        place = self._places[join.room]
        try:
            await place.room.catch_up(self.ws, place.seat, self.name, join.last, self._until)
        except ChatError:
            await self._leave(join.room)
            raise

    async def _leave(self, name: str) -> Entry:
        """Hear nothing more of a room, and give the seat in it back; return the end of it, for who wants to know.

        When cancelled, the seat is still to be given back, by `leave_all`.
        """
        place = self._places[name]
        self._lobby.manager.leave(self.ws, name)
        left = None
        with trio.move_on_after(_BACKPLANE_SECONDS), suppress(BackplaneError):
            left = await self._backplane.leave(place.seat)  # one that was not given back expires where it is kept
        del self._places[name]
        await self._lobby.close_room(place.room)
        return left or Entry(place.room.delivered, _now(), "left", place.seat.name, "")

    # -- bounds --------------------------------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Wait where more was said than may be: each message pays for a while, and a burst may be owed."""
        now = trio.current_time()
        self._paid_until = max(self._paid_until, now) + 1 / _RATE
        owed = self._paid_until - now - _BURST / _RATE
        if owed > 0:
            await trio.sleep(owed)

    async def _refuse(self, error: ChatError) -> None:
        """Say what is wrong; end a connection that gets nothing right."""
        await self.ws.send(encode_error(error))
        if error.is_ours or (error.code == "not_joined" and self._until < inf):  # it could not be let in
            return
        now = trio.current_time()
        self._errors.append(now)
        if len(self._errors) == _ERRORS and now - self._errors[0] < _ERROR_SECONDS:
            await self.ws.close(CloseCode.POLICY_VIOLATION, f"{_ERRORS} errors within {_ERROR_SECONDS:g} s")


@contextmanager
def _asking(room: str, client: str | None = None, until: float = inf) -> Iterator[None]:
    """Ask the backplane about a room, until then if not so long, and turn its failure into what the client is told."""
    try:
        with trio.fail_at(min(until, trio.current_time() + _BACKPLANE_SECONDS)):
            yield
    except TooManyRoomsError:
        what = "There is no place for another room."
        raise ChatError("room", "too_many", what, room=room, client=client, is_ours=True) from None
    except (BackplaneError, trio.TooSlowError):
        what = "The room does not answer; try again."
        raise ChatError("room", "unavailable", what, room=room, client=client, is_ours=True) from None


def _now() -> int:
    return time_ns() // 1_000_000
