"""Rooms in Redis: one room for all workers, on one machine or many.

Facts: a room's order, ids and history are a stream in Redis, which scripts append to (redis_scripts.py). What a
script appends it also publishes, and every worker that is subscribed to the room hears it. A worker that hears an
entry which follows what it heard last passes it on; whenever it does not follow, or is of the future, and every few
seconds anyway, it reads the stream. So nothing depends on a message being heard, and it costs no reading when all are.

Rules:

* The order is that of the ids. What was acknowledged is as safe as Redis keeps it; should Redis have less than it
  acknowledged, or nothing, the chain of ids shows that, subscribers get a `reset`, and history says `gap`.
* A seat is held by a lease of its worker in that room. A worker that is not heard of loses its seats, and learns of
  it when it is back: a `reset` too. A seat that could not be given back is given back later.
* A worker without a connection waits (as long as its callers let it) and fails nothing but what was under way.
* What others wrote into streams and channels is skipped, counted in `skipped`, and logged once. An entry with a right
  head is judged by the application (`expect`), once for all who hear it; skipped, it is no part of the chain.

Cost: for a message one script, and one message to every worker that is in the room; each five seconds one script
for every room of a worker. coredis, which does the talking, comes with `rawws[redis]`.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, final

import trio

from . import redis_scripts as scripts
from .backplane import Backplane, BackplaneError, Deliver, Entry, Page, Receipt, Seat
from .chat_protocol import before_number, name_key
from .redis_url import RedisUrl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ["RedisBackplane"]

_log: Final = logging.getLogger("rawws.backplane")

_MAX_NAMES: Final = 5000
"""Names that one script can return."""
_MAX_DIGITS: Final = 6
"""Digits of the number that tells a name from others that are the same."""
_PHASES: Final = 16
"""Parts into which the regular reading of all rooms is divided, so that it never takes long at one time."""
_MAX_TURNS: Final = 64
"""Turns of Trio for which heard entries are gathered before they are delivered, at most."""
_MAX_AHEAD: Final = 3_600_000_000
"""Microseconds by which an id that is heard may be ahead of the clock; what is farther is not believed, but read."""
_SEATS_LOST: Final = "this worker has lost its seats in the room"


@final
class _Room:
    """What this worker knows of a room."""

    __slots__ = (
        "again",
        "delivered",
        "keys",
        "lock",
        "name",
        "pending",
        "phase",
        "reading",
        "seats",
        "subscribers",
        "times_anew",
        "users",
    )

    def __init__(self, name: str, keys: list[str]) -> None:
        self.name = name
        self.keys = keys
        self.subscribers: list[Deliver] = []
        self.users = 0
        """Subscribers, and those who are about to be."""
        self.lock = trio.Lock()
        self.delivered: int | None = None
        """The id up to which everything was heard; None before the first answer."""
        self.pending: list[Entry] = []
        self.seats: dict[str, str] = {}
        """The seats that are held here: who has each, by token."""
        self.times_anew = 0
        """How often the seats were lost."""
        self.phase = hash(name) % _PHASES
        self.reading = False
        self.again = False

    @property
    def channel(self) -> str:
        return self.keys[0]


@final
class RedisBackplane(Backplane):
    """Rooms for all workers that name the same Redis: `async with RedisBackplane(url) as backplane: ...`.

    Entering connects; leaving ends the connection. In between it is held, and made again when it ends. It must be
    open while an application uses it.

    Args:
        url: `redis://user:password@host:6379/0`; `rediss` for TLS (`?ca=FILE&cert=FILE&key=FILE`, each optional);
            `redis+cluster://host:6379,host:6379`; `redis+sentinel://host:26379,host:26379/SERVICE/0`; both also with
            `rediss`; `unix:///path?db=0`.
        prefix: what the keys begin with: another one is another chat.
        keepalive: seconds within which a connection that is dead without having been closed is noticed.
        presence_timeout: seconds after which a worker that is not heard of has left its rooms.
        max_kept: messages that are kept of a room.
        keep: seconds for which a room is kept after its last use.

    Raises:
        ImportError: coredis, the extra `rawws[redis]`, is not installed.
        ValueError: the URL names no Redis.
        OSError: a file that it names cannot be read, or is not what it should be.
        BackplaneError: on entering: Redis cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rawws",
        keepalive: float = 10.0,
        presence_timeout: float = 15.0,
        max_kept: int = 1000,
        keep: float = 7 * 24 * 3600.0,
    ) -> None:
        try:
            from .redis_link import RedisLink
        except ImportError as exc:
            what = f"RedisBackplane needs {exc.name}: pip install 'rawws[redis]'"
            raise ImportError(what, name=exc.name) from None
        self.skipped = 0
        """Entries that others wrote into streams and channels, and that were not passed on."""
        self._is_own: Callable[[Entry], bool] = lambda _: True
        self._prefix = prefix
        self._presence_timeout = presence_timeout
        self._worker = secrets.token_hex(8)
        self._common = (self._worker, int(presence_timeout * 1000), int(keep), max_kept)
        self._link = RedisLink(
            RedisUrl.parse(url),
            keepalive=keepalive,
            scripts=(
                scripts.ENTER,
                scripts.FORGET,
                scripts.HISTORY,
                scripts.LEAVE,
                scripts.NOTIFY,
                scripts.PEOPLE,
                scripts.PUBLISH,
                scripts.READ,
            ),
            heard=self._hear,
            connected=self._read_all_soon,
        )
        self._rooms: dict[str, _Room] = {}
        self._by_channel: dict[str, _Room] = {}
        self._tokens = count(1)
        self._owed: dict[str, tuple[list[str], str]] = {}
        """Seats that are to be given back: the room's keys and whose it is, by token."""
        self._is_paying = False
        self._has_warned = False
        """Whether this connection's first loss was logged as a warning; of 10 000 rooms the rest are as many lines."""
        self._listeners: dict[str, list[Callable[[str | bytes], object]]] = {}
        self._with_pending: dict[_Room, None] = {}
        self._heard = 0
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._opened: AbstractAsyncContextManager[None] | None = None

    # -- its life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        opened = self._open()
        await opened.__aenter__()
        self._opened = opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._opened is not None
        opened, self._opened = self._opened, None
        return await opened.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        if self._nursery is not None:
            raise RuntimeError("this backplane is open already")
        ended_by = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await nursery.start(self._link.run)
                nursery.start_soon(self._deliver_when_quiet)
                nursery.start_soon(self._tick)
                yield
            except BaseException as exc:
                ended_by = exc
            self._nursery = None
            nursery.cancel_scope.cancel()
        if ended_by is not None:
            raise ended_by  # out here, as it came: the nursery is nobody else's affair

    # -- the seam ------------------------------------------------------------------------------------------------------

    def expect(self, is_own: Callable[[Entry], bool]) -> None:
        self._is_own = is_own

    async def subscribe(self, room: str, deliver: Deliver) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        here = self._rooms.get(room)
        if here is None:
            here = self._rooms[room] = _Room(room, scripts.room_keys(self._prefix, room))
            self._by_channel[here.channel] = here
        here.users += 1
        try:
            async with here.lock:
                if here.delivered is None:
                    await self._ready()
                    await self._link.subscribe(here.channel)
                    position, *_ = await self._ask(here, scripts.READ, "", _flag(here.seats))
                    here.delivered = int(position)
                    if here.again:
                        self._read_soon(here)  # what was heard before the answer came was not taken
        except BaseException:
            await self._let_go(here)
            raise
        self._flush(here)  # what is pending came before
        here.subscribers.append(deliver)
        return here.delivered

    async def unsubscribe(self, room: str, deliver: Deliver) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        here = self._rooms[room]
        here.subscribers.remove(deliver)
        await self._let_go(here)

    async def enter(self, room: str, session: str, name: str) -> Seat:
        await trio.lowlevel.checkpoint_if_cancelled()
        here = self._rooms[room]
        number = next(self._tokens)
        token = self._token(number)
        who = scripts.who_is(session)
        numbered = [each for digits in range(1, _MAX_DIGITS + 1) for each in before_number(name, digits)]
        await self._ready()
        arguments = (who, name, name_key(name), token)
        times_anew = here.times_anew
        try:
            answer = await self._ask(here, scripts.ENTER, *arguments, _flag(here.seats), *numbered)
            if not answer:
                await self._begin_anew(here, times_anew)
                answer = await self._ask(here, scripts.ENTER, *arguments, _flag(here.seats), *numbered)
        except BaseException:
            self._owed[token] = (here.keys, who)  # it may have been taken
            raise
        if not answer:
            raise BackplaneError(_SEATS_LOST)
        here.seats[token] = who
        return Seat(room, session, answer[0].decode(), number)

    async def leave(self, seat: Seat) -> Entry | None:
        await trio.lowlevel.checkpoint_if_cancelled()
        here = self._rooms.get(seat.room)
        token = self._token(seat.token)
        if here is None or token not in here.seats:
            return None  # it was lost
        who = here.seats.pop(token)
        self._owed[token] = (here.keys, who)
        if not self._link.is_up:
            return None  # it is given back as soon as that can be
        answer = await self._ask(here, scripts.LEAVE, who, token)
        self._owed.pop(token, None)
        if not answer:
            return None
        id, time, name = answer
        return Entry(int(id), int(time), "left", name.decode(), "")

    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        await trio.lowlevel.checkpoint_if_cancelled()
        number, names = await self._ask(self._rooms[room], scripts.PEOPLE, min(limit, _MAX_NAMES))
        return [name.decode() for name in names if name is not None], int(number)

    async def publish(self, seat: Seat, body: str, client: str | None) -> Receipt:
        await trio.lowlevel.checkpoint_if_cancelled()
        packed = body.encode()
        if len(packed) > scripts.MAX_BODY:
            raise BackplaneError(f"a message's body has at most {scripts.MAX_BODY} bytes")
        here = self._room_of(seat)
        who = scripts.who_is(seat.session)
        answer = await self._ask(here, scripts.PUBLISH, who, packed, client or "", sent=who)
        if not answer:
            await self._lose(here, seat)
        id, time, repeated = answer
        return Receipt(int(id), int(time), bool(repeated))

    async def notify(self, seat: Seat, kind: Literal["typing"]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        here = self._room_of(seat)
        if not await self._ask(here, scripts.NOTIFY, scripts.who_is(seat.session), kind):
            await self._lose(here, seat)

    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        await trio.lowlevel.checkpoint_if_cancelled()
        bounds = ["" if bound is None else bound for bound in (after, before)]
        asked = limit
        while True:
            answer = await self._ask(self._rooms[room], scripts.HISTORY, *bounds, asked)
            position, gap, packed = answer
            entries = [link.entry for link in self._unpack(packed) if link.entry.kind == "message"]
            more = len(entries) > limit
            if more or len(packed) <= asked:
                break
            asked *= 2  # of what there is, so much was written by others
        entries = entries[:limit]
        if after is None:
            entries.reverse()
        return Page(entries, int(position), more, bool(gap))

    async def listen(self, channel: str, deliver: Callable[[str | bytes], object]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._ready()
        full = self._relay_channel(channel)
        await self._link.subscribe(full)
        self._listeners.setdefault(full, []).append(deliver)

    async def relay(self, channel: str, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._ready()
        await self._link.publish(self._relay_channel(channel), scripts.pack_relayed(message))

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        """Wait for the connection; the caller sets the deadline."""
        await trio.lowlevel.checkpoint_if_cancelled()  # our own tasks end with the nursery, though it is gone already
        if self._nursery is None:
            raise RuntimeError("this backplane is not open: async with RedisBackplane(url) as backplane")
        await self._link.ready()

    async def _ask(self, room: _Room, script: str, *arguments: str | bytes | int, sent: str | None = None) -> Any:
        await self._ready()
        keys = room.keys if sent is None else [*room.keys, scripts.sent_key(room.keys, sent)]
        return await self._call(script, keys, *arguments)

    async def _call(self, script: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        skipped, answer = await self._link.call(script, keys, (*self._common, *arguments))
        self._skip(skipped)
        return answer

    def _token(self, number: int) -> str:
        return f"{self._worker}:{number}"

    async def _let_go(self, room: _Room) -> None:
        """End one use of a room; with the last one it is heard of no more."""
        room.users -= 1
        if not room.users:
            del self._rooms[room.name]
            del self._by_channel[room.channel]
            self._owe(room)
            await self._link.unsubscribe(room.channel)

    def _owe(self, room: _Room) -> None:
        """Give a room's seats back, later."""
        for token, who in room.seats.items():
            self._owed[token] = (room.keys, who)
        room.seats.clear()

    async def _tick(self) -> None:
        """Renew the leases, and read what may not have been heard; give back what could not be given back."""
        phase = 0
        while True:
            await trio.sleep(self._presence_timeout / 3 / _PHASES)
            phase = (phase + 1) % _PHASES
            for room in self._rooms.values():
                if room.phase == phase:
                    self._read_soon(room)
            if self._owed and not self._is_paying and self._nursery is not None:
                self._is_paying = True
                self._nursery.start_soon(self._pay)

    def _read_all_soon(self) -> None:
        self._has_warned = False
        for room in self._rooms.values():
            self._read_soon(room)

    async def _pay(self) -> None:
        """Give back what is owed; beside the tick, for this may take long, and the leases may not."""
        try:
            for token, (keys, who) in list(self._owed.items()):
                await self._call(scripts.LEAVE, keys, who, token)
                self._owed.pop(token, None)
        except BackplaneError as exc:
            _log.info("seats are given back later: %s", exc)
        finally:
            self._is_paying = False

    # -- hearing -------------------------------------------------------------------------------------------------------

    def _hear(self, channel: str, packed: object) -> None:
        """Take what was published to a room's channel."""
        room = self._by_channel.get(channel)
        if room is None:
            self._hear_relayed(channel, packed)
            return
        link = scripts.unpack(packed)
        if room.delivered is None:
            room.again = True
        elif link is None:
            self._skip(1)
        elif link.entry.id <= room.delivered:
            pass  # it was read before it was heard
        elif link.before == room.delivered and link.entry.id <= time_ns() // 1000 + _MAX_AHEAD:
            if self._is_own(link.entry):
                self._take(room, link.entry)
            else:
                self._skip(1)
        else:
            self._read_soon(room)

    def _hear_relayed(self, channel: str, packed: object) -> None:
        listeners = self._listeners.get(channel)
        if listeners is None:
            return  # of a room that was left a moment ago
        message = scripts.unpack_relayed(packed)
        if message is None:
            self._skip(1)
        else:
            for deliver in listeners:
                deliver(message)

    def _relay_channel(self, channel: str) -> str:
        return f"{self._prefix}:relay:{channel}"

    def _take(self, room: _Room, entry: Entry) -> None:
        """Have an entry delivered, after what came before it and with what comes right behind."""
        room.delivered = entry.id
        room.pending.append(entry)
        self._with_pending[room] = None
        self._heard += 1
        self._wake.set()

    async def _deliver_when_quiet(self) -> None:
        """Deliver what was taken, all of it that comes at one time as one batch."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            for _ in range(_MAX_TURNS):
                heard = self._heard
                await trio.lowlevel.checkpoint()
                if heard == self._heard:
                    break
            rooms, self._with_pending = self._with_pending, {}
            for room in rooms:
                self._flush(room)

    def _flush(self, room: _Room) -> None:
        if room.pending:
            entries, room.pending = room.pending, []
            for deliver in list(room.subscribers):
                deliver(entries)

    def _read_soon(self, room: _Room) -> None:
        """Read what of a room was not heard, in a task of its own; it goes on while there is more."""
        if room.reading:
            room.again = True
        elif room.delivered is not None and self._nursery is not None:
            room.reading = True
            self._nursery.start_soon(self._read, room)

    async def _read(self, room: _Room) -> None:
        try:
            room.again = True
            while room.again and room.users:
                room.again = False
                times_anew = room.times_anew
                after = room.delivered
                assert after is not None
                answer = await self._ask(room, scripts.READ, after, _flag(room.seats))
                position, lost, said, happened = answer
                links = self._unpack([*said, *happened])
                if lost:
                    # Where more is under way to be heard than is kept, what was forgotten may be among it.
                    is_underway = lost == scripts.ENTRIES_LOST and room.delivered != after
                    if not is_underway and times_anew == room.times_anew:
                        self._start_anew(room, int(position))
                elif not self._follow(room, sorted(links), after, not _is_full(said) and not _is_full(happened)):
                    self._start_anew(room, int(await self._ask(room, scripts.FORGET)))
        except BackplaneError as exc:
            _log.info("a room is read later: %s", exc)  # with the next connection, or the next tick
        finally:
            room.reading = False

    def _follow(self, room: _Room, links: list[scripts.Link], after: int, all_there: bool) -> bool:
        """Take entries that follow each other, of those after an id; return whether the chain holds."""
        for link in links:
            assert room.delivered is not None
            if link.entry.id <= room.delivered:
                continue
            if link.before != room.delivered:
                # The streams were read to different ends: the rest comes with the next reading.
                room.again = True
                return not all_there and room.delivered != after
            self._take(room, link.entry)
        room.again |= not all_there
        return all_there or room.delivered != after  # else what others wrote stands in the way

    def _room_of(self, seat: Seat) -> _Room:
        here = self._rooms[seat.room]
        if self._token(seat.token) not in here.seats:
            raise BackplaneError(_SEATS_LOST)
        return here

    async def _lose(self, room: _Room, seat: Seat) -> NoReturn:
        """Redis knows nothing of a seat, so nothing of any of ours in the room."""
        if self._token(seat.token) in room.seats:
            await self._begin_anew(room, room.times_anew)
        raise BackplaneError(_SEATS_LOST)

    async def _begin_anew(self, room: _Room, times_anew: int) -> None:
        """Our seats in a room are lost: begin anew in it where Redis is, once, however many calls find that out.

        Args:
            times_anew: how often the seats had been lost before.
        """
        position, *_ = await self._ask(room, scripts.READ, "", _flag(False))
        if times_anew == room.times_anew:
            self._start_anew(room, int(position))

    def _start_anew(self, room: _Room, position: int) -> None:
        """Have everybody in a room begin anew."""
        level = logging.INFO if self._has_warned else logging.WARNING
        self._has_warned = True
        _log.log(level, "Redis has lost something of room %r, or our seats: everybody in it begins anew", room.name)
        room.times_anew += 1
        self._owe(room)
        self._take(room, Entry(max(position, room.delivered or 0), 0, "reset", "", ""))
        self._flush(room)

    def _unpack(self, packed: Sequence[object]) -> list[scripts.Link]:
        links = [link for link in map(scripts.unpack, packed) if link is not None and self._is_own(link.entry)]
        self._skip(len(packed) - len(links))
        return links

    def _skip(self, number: int) -> None:
        if number and not self.skipped:
            _log.warning("something else writes into the keys or channels of %s in Redis; it is skipped", self._prefix)
        self.skipped += number


def _flag(value: object) -> str:
    return "1" if value else "0"


def _is_full(packed: Sequence[object]) -> bool:
    return len(packed) >= scripts.READ_AT_ONCE
