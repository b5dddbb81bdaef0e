"""Where rooms are: their order, their history, who is in them. The seam, and the one that lives in memory.

Facts: what happens in a room is an `Entry` with an id that grows within the room; messages are kept for a while,
everything else is only passed on. An application subscribes once a room, whatever the number of its connections,
and is called with entries in the order of their ids. A seat is a place in a room under a name that nobody else has
there; it belongs to a session, and the connections that a session has at one time share it.

Rules of the seam, for whoever writes another one (over Redis, say):

* Every entry reaches every subscriber once, in order. After `subscribe` returned a position, entries beyond it come.
* `history` tells the position up to which it is complete; entries up to there may still be on their way.
* Ids never repeat, also when everything was forgotten: then they begin beyond what anybody has seen, and `history`
  says that there is a gap.
* A call that was cancelled or raised `BackplaneError` has done nothing, but for `publish`: that may have, and is
  repeated safely with the same client id. Whoever calls sets the deadline.

Cost in memory: a few microseconds an entry. What is published while Trio's other tasks run goes to the subscribers
as one batch, so that a busy room's fan-out grows with the batches and not with the messages.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from itertools import count
from sys import getsizeof
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, final

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from .chat_protocol import before_number, name_key
from .errors import RawwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Backplane",
    "BackplaneError",
    "Deliver",
    "Entry",
    "Kind",
    "MemoryBackplane",
    "Page",
    "Receipt",
    "Seat",
    "TooManyRoomsError",
]

Kind: TypeAlias = Literal["message", "joined", "left", "typing", "reset"]
"""What happens in a room; only messages are kept.

`reset` is said to subscribers only, by a backplane that has lost something: entries are missing here, or the seats that
were taken here are. They are given back, and whoever is in the room enters it anew.
"""


class BackplaneError(RawwsError):
    """What was asked of a backplane was not done, as far as it knows; it may be asked again."""


class TooManyRoomsError(BackplaneError):
    """There is no place for another room."""


class Entry(NamedTuple):
    """Something that happened in a room."""

    id: int
    """Its place in the room; grows, with gaps."""
    time: int
    """Milliseconds since 1970."""
    kind: Kind
    name: str
    """Who did it."""
    body: str
    """What the application gave with it; empty for all but messages."""


Deliver: TypeAlias = "Callable[[Sequence[Entry]], object]"
"""What takes a room's entries: in order, never none, without raising."""


class Page(NamedTuple):
    """A piece of a room's history."""

    entries: Sequence[Entry]
    """Messages, in order."""
    position: int
    """The id up to which nothing is missing at the end, if there are no more."""
    more: bool
    """Whether messages are kept beyond this piece: newer ones when asked by `after`, else older ones."""
    gap: bool
    """Whether messages after `after` may have been forgotten; then `entries` is empty."""


class Receipt(NamedTuple):
    """Where a message is."""

    id: int
    time: int
    repeated: bool
    """Whether it was there already, published with the same client id before."""


class Seat(NamedTuple):
    """One connection's hold on a place in a room."""

    room: str
    session: str
    name: str
    """What the session is called here."""
    token: int
    """Tells the connections of a session apart."""


class Backplane(ABC):
    """The seam between an application with rooms and where they are; see this module's rules.

    A call waits for where the rooms are as long as its caller lets it, and raises `BackplaneError` where that fails.
    When cancelled, it may have been done or not; a seat that was taken in vain is given back.
    """

    def expect(self, is_own: Callable[[Entry], bool]) -> None:  # noqa: B027 - one in memory need not know
        """Be told how the application knows its own entries, before the first of them is delivered.

        Where others can write too, what is not own is skipped.
        """

    @abstractmethod
    async def subscribe(self, room: str, deliver: Deliver) -> int:
        """Have a room's entries delivered from now on; return the position after which they come.

        Raises:
            TooManyRoomsError: there are too many rooms.
        """

    @abstractmethod
    async def unsubscribe(self, room: str, deliver: Deliver) -> None:
        """End a subscription."""

    @abstractmethod
    async def enter(self, room: str, session: str, name: str) -> Seat:
        """Take a seat in a subscribed room under `name`, or under `name` and a number where that is taken.

        A session that has a seat shares it; another name than it asked for before renames it. The room learns of a
        new seat as `joined`.
        """

    @abstractmethod
    async def leave(self, seat: Seat) -> Entry | None:
        """Give a seat back; unless another connection shares it the room learns of it as `left`, which is returned."""

    @abstractmethod
    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        """Return who is in a room: at most `limit` names, in the order in which they came, and the number of all."""

    @abstractmethod
    async def publish(self, seat: Seat, body: str, client: str | None) -> Receipt:
        """Put a message into a room; return when it is kept there.

        Args:
            seat: whose message it is.
            body: what the application wants to find in the entry.
            client: what the sender calls it; the last 32 of a session are remembered, and one that is repeated is not
                put there again.
        """

    @abstractmethod
    async def notify(self, seat: Seat, kind: Literal["typing"]) -> None:
        """Pass something on to whoever is in the room now."""

    @abstractmethod
    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        """Return messages of a subscribed room: the oldest after an id, the newest before one, or the newest."""

    @abstractmethod
    async def listen(self, channel: str, deliver: Callable[[str | bytes], object]) -> None:
        """Have what is relayed to a channel delivered from now on, by a function that must not raise."""

    @abstractmethod
    async def relay(self, channel: str, message: str | bytes) -> None:
        """Pass a message on to whoever listens to a channel now: at most once, and nothing is kept of it."""


# -- in memory -------------------------------------------------------------------------------------------------------


@final
class _Chair:
    """A session's place in a room."""

    __slots__ = ("key", "name", "tokens", "wanted")

    def __init__(self, wanted: str, name: str, key: str) -> None:
        self.wanted = wanted
        self.name = name
        self.key = key
        self.tokens: set[int] = set()


@final
class _Log:
    """One room."""

    __slots__ = ("chairs", "forgotten", "kept", "keys", "pending", "position", "subscribers")

    def __init__(self, position: int) -> None:
        self.position = position
        self.forgotten = position
        """The greatest id of a message that may have been here and is not kept."""
        self.kept: deque[Entry] = deque()
        self.pending: list[Entry] = []
        self.subscribers: list[Deliver] = []
        self.chairs: dict[str, _Chair] = {}
        self.keys: set[str] = set()


class MemoryBackplane(Backplane):
    """Rooms within one process, for as long as it lives.

    Args:
        max_kept: messages that are kept of a room.
        max_bytes: bytes that all kept messages may take; beyond, the oldest of all are forgotten.
        max_rooms: rooms at one time; those that nobody is in are forgotten first, least recently used first.
        max_senders: sessions whose last client ids are remembered, most recently used first.
        clock: microseconds since 1970.
    """

    REMEMBERED: Final = 32
    """Client ids that are remembered of a session."""

    def __init__(
        self,
        *,
        max_kept: int = 1000,
        max_bytes: int = 64 * 1024 * 1024,
        max_rooms: int = 10_000,
        max_senders: int = 10_000,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._max_kept = max_kept
        self._max_bytes = max_bytes
        self._max_rooms = max_rooms
        self._max_senders = max_senders
        self._clock = clock
        self._last_id = 0
        self._tokens = count(1)
        self._listeners: dict[str, list[Callable[[str | bytes], object]]] = {}
        self._rooms: dict[str, _Log] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._ages: OrderedDict[int, _Log] = OrderedDict()  # every kept message, the oldest first
        self._senders: OrderedDict[str, OrderedDict[tuple[str, str], Receipt]] = OrderedDict()

    async def subscribe(self, room: str, deliver: Deliver) -> int:
        await checkpoint_if_cancelled()
        log = self._rooms.get(room)
        if log is None:
            if len(self._rooms) >= self._max_rooms:
                self._forget_idle_room()
            log = self._rooms[room] = _Log(self._next_id())
        self._idle.pop(room, None)
        self._flush(log)  # what is pending came before
        log.subscribers.append(deliver)
        position = log.position
        await cancel_shielded_checkpoint()
        return position

    async def unsubscribe(self, room: str, deliver: Deliver) -> None:
        await checkpoint_if_cancelled()
        log = self._rooms[room]
        log.subscribers.remove(deliver)
        if not log.subscribers:
            self._idle[room] = None
        await cancel_shielded_checkpoint()

    async def enter(self, room: str, session: str, name: str) -> Seat:
        await checkpoint_if_cancelled()
        log = self._rooms[room]
        chair = log.chairs.get(session)
        if chair is not None and chair.wanted != name:
            self._note(log, "left", chair.name)
            log.keys.remove(chair.key)
            tokens = chair.tokens
            chair = None
        else:
            tokens = set()
        if chair is None:
            chair = log.chairs[session] = _Chair(name, *_free_name(name, log.keys))
            chair.tokens = tokens
            log.keys.add(chair.key)
            self._note(log, "joined", chair.name)
        token = next(self._tokens)
        chair.tokens.add(token)
        seat = Seat(room, session, chair.name, token)
        await self._deliver_soon(log)
        return seat

    async def leave(self, seat: Seat) -> Entry | None:
        await checkpoint_if_cancelled()
        log = self._rooms[seat.room]
        chair = log.chairs[seat.session]
        chair.tokens.remove(seat.token)
        left = None
        if not chair.tokens:
            del log.chairs[seat.session]
            log.keys.remove(chair.key)
            left = self._note(log, "left", chair.name)
        await self._deliver_soon(log)
        return left

    async def people(self, room: str, limit: int) -> tuple[Sequence[str], int]:
        await checkpoint_if_cancelled()
        chairs = self._rooms[room].chairs
        names = [chair.name for _, chair in zip(range(limit), chairs.values(), strict=False)]
        number = len(chairs)
        await cancel_shielded_checkpoint()
        return names, number

    async def publish(self, seat: Seat, body: str, client: str | None) -> Receipt:
        await checkpoint_if_cancelled()
        log = self._rooms[seat.room]
        receipt = self._published(seat, client) if client is not None else None
        if receipt is None:
            entry = self._note(log, "message", log.chairs[seat.session].name, body)
            self._keep(log, entry)
            receipt = Receipt(entry.id, entry.time, repeated=False)
            if client is not None:
                self._remember(seat, client, receipt)
        await self._deliver_soon(log)
        return receipt

    async def notify(self, seat: Seat, kind: Literal["typing"]) -> None:
        await checkpoint_if_cancelled()
        log = self._rooms[seat.room]
        self._note(log, kind, log.chairs[seat.session].name)
        await self._deliver_soon(log)

    async def history(self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 50) -> Page:
        await checkpoint_if_cancelled()
        log = self._rooms[room]
        page = _page(log, after, before, limit)
        await cancel_shielded_checkpoint()
        return page

    async def listen(self, channel: str, deliver: Callable[[str | bytes], object]) -> None:
        await checkpoint_if_cancelled()
        self._listeners.setdefault(channel, []).append(deliver)
        await cancel_shielded_checkpoint()

    async def relay(self, channel: str, message: str | bytes) -> None:
        await checkpoint_if_cancelled()
        for deliver in self._listeners.get(channel, ()):
            deliver(message)
        await cancel_shielded_checkpoint()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _next_id(self) -> int:
        # The clock, so that a process that starts anew goes on beyond the ids of the one before.
        self._last_id = max(self._last_id + 1, self._clock())
        return self._last_id

    def _note(self, log: _Log, kind: Kind, name: str, body: str = "") -> Entry:
        """Give something that happened its place."""
        log.position = self._next_id()
        entry = Entry(log.position, self._clock() // 1000, kind, name, body)
        log.pending.append(entry)
        return entry

    async def _deliver_soon(self, log: _Log) -> None:
        """Deliver what is pending, after every task that runs now had its say."""
        await cancel_shielded_checkpoint()
        self._flush(log)

    def _flush(self, log: _Log) -> None:
        if log.pending:
            entries, log.pending = log.pending, []
            for deliver in list(log.subscribers):
                deliver(entries)

    def _keep(self, log: _Log, entry: Entry) -> None:
        log.kept.append(entry)
        self._ages[entry.id] = log
        self._bytes += _size(entry)
        if len(log.kept) > self._max_kept:
            self._forget_oldest(log)
        while self._bytes > self._max_bytes:
            self._forget_oldest(next(iter(self._ages.values())))

    def _forget_oldest(self, log: _Log) -> None:
        """Forget a room's oldest message."""
        entry = log.kept.popleft()
        log.forgotten = entry.id
        self._bytes -= _size(entry)
        del self._ages[entry.id]

    def _forget_idle_room(self) -> None:
        if not self._idle:
            raise TooManyRoomsError(f"there are {self._max_rooms} rooms with people in them")
        log = self._rooms.pop(self._idle.popitem(last=False)[0])
        while log.kept:
            self._forget_oldest(log)

    def _published(self, seat: Seat, client: str) -> Receipt | None:
        """Return where a message is that a session has published with this client id lately."""
        sent = self._senders.get(seat.session)
        return None if sent is None else sent.get((seat.room, client))

    def _remember(self, seat: Seat, client: str, receipt: Receipt) -> None:
        sent = self._senders.setdefault(seat.session, OrderedDict())
        self._senders.move_to_end(seat.session)
        if len(self._senders) > self._max_senders:
            self._senders.popitem(last=False)
        sent[seat.room, client] = receipt._replace(repeated=True)
        if len(sent) > self.REMEMBERED:
            sent.popitem(last=False)


def _page(log: _Log, after: int | None, before: int | None, limit: int) -> Page:
    """Cut a page from what is kept of a room."""
    kept = log.kept
    if after is not None:
        if after < log.forgotten or after > log.position:
            return Page((), log.position, more=False, gap=True)
        missed: deque[Entry] = deque()
        for entry in reversed(kept):  # who asks has mostly missed little
            if entry.id <= after:
                break
            missed.appendleft(entry)
        return Page(list(missed)[:limit], log.position, more=len(missed) > limit, gap=False)
    older = [entry for entry in kept if before is None or entry.id < before]
    return Page(older[-limit:], log.position, more=len(older) > limit, gap=False)


def _size(entry: Entry) -> int:
    """Bytes of memory that a kept message takes: its strings, which have up to four a character, and the rest of it."""
    return getsizeof(entry.body) + 400


def _free_name(wanted: str, taken: set[str]) -> tuple[str, str]:
    """Return a name that nobody has, and what it is compared by."""
    name, key = wanted, name_key(wanted)
    digits, number = 0, 1
    while key in taken:
        number += 1
        if len(str(number)) > digits:
            digits += 1
            before, key_before = before_number(wanted, digits)
        name, key = f"{before}{number}", f"{key_before}{number}"
    return name, key
