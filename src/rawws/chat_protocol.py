"""The chat's messages: JSON text to typed messages, and back.

Facts: a client's message is one JSON object with a `type`; each type is a dataclass here and its fields are the
wire's fields. Whatever is wrong with one is a `ChatError` that names the field. The README has the whole table.

Rules: what `parse` returns can be sent to other people as it is, and so can what `is_event` admits of that which was
kept where others can write too. Texts and names are cleaned (control characters
never reach another person), names of rooms are refused instead, for they are keys that both sides compare; lone
surrogates, which JSON can escape and UTF-8 cannot say, are refused everywhere. No input makes `parse` raise
anything else.

Cost: one pass of the standard library's JSON reader over at most 64 Ki characters; some 10 µs for a chat line.
This module imports no trio and knows neither connections nor where history is kept.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

from .errors import RawwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "MAX_CLIENT",
    "MAX_HISTORY",
    "MAX_MEMBERS",
    "MAX_MESSAGE",
    "MAX_NAME",
    "MAX_ROOM",
    "MAX_ROOMS",
    "MAX_SESSION",
    "MAX_TEXT",
    "MIN_SESSION",
    "VERSION",
    "ChatError",
    "ClientMessage",
    "ErrorCode",
    "Hello",
    "History",
    "Join",
    "Leave",
    "Said",
    "Typing",
    "before_number",
    "encode_body",
    "encode_confirmed",
    "encode_error",
    "encode_event",
    "encode_gap",
    "encode_history",
    "encode_members",
    "encode_welcome",
    "is_event",
    "name_key",
    "parse",
]

VERSION: Final = 1
"""The version of this protocol, said in `welcome`."""
MAX_MESSAGE: Final = 65_536
"""Characters of JSON that a client's message may have; a hello with 128 rooms in escapes fits."""
MAX_ROOMS: Final = 128
"""Rooms that a connection is in at most."""
MAX_ROOM: Final = 32
"""Characters of a room's name."""
MAX_NAME: Final = 32
"""Characters of a person's name, with the number that it gets where it is taken."""
MAX_TEXT: Final = 4096
"""Bytes of a text in UTF-8."""
MIN_SESSION: Final = 16
MAX_SESSION: Final = 64
"""Characters of a session's token."""
MAX_CLIENT: Final = 40
"""Characters of a message's client id; a UUID has 36."""
MAX_BY: Final = 16
"""Characters of what a session's messages are marked with: hexadecimal digits."""
MAX_HISTORY: Final = 50
"""Messages in one answer of history."""
MAX_MEMBERS: Final = 1000
"""Names in one list of members."""

_MAX_ID: Final = 2**53 - 1  # what a JavaScript number counts exactly

_JOINERS: Final = "\u200c\u200d"  # format characters that emoji, Persian and Indic scripts are spelt with
_FIRST_JOINED: Final = "\u0600"  # Latin, Greek, Cyrillic, Armenian and Hebrew, which have no use for them, come before
# What nobody sees, and what these are compared as: default-ignorable code points, and the blank pattern of Braille.
_UNSEEN: Final[dict[int, str | None]] = {
    **dict.fromkeys([0xAD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810)]),
    **dict.fromkeys([*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164]),
    **dict.fromkeys([*range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4)]),
    **dict.fromkeys([*range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)]),
    0x2800: " ",
}
_SKIN_TONES: Final = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_UNSPEAKABLE: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
_CONTROLS: Final = {code: None for code in _UNSPEAKABLE if chr(code) not in "\n\t"}
_TOKEN: Final = frozenset(ascii_letters + digits + "_-")
_CLIENT_ID: Final = _TOKEN | {"."}
_BY: Final = frozenset("0123456789abcdef")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

ErrorCode: TypeAlias = Literal[
    "bad_json",
    "empty",
    "hello_first",
    "invalid",
    "missing",
    "not_joined",
    "repeated",
    "too_long",
    "too_many",
    "unavailable",
    "unknown_type",
    "wrong_type",
]
"""What is wrong, for programs."""


class ChatError(RawwsError):
    """A client's message cannot be served; the client is told and the connection stays.

    Attributes:
        field: the field that is wrong, such as `text` or `rooms[3].last`; `json` for the message as a whole.
        code: what is wrong with it, for programs.
        message: what is wrong with it, for people; it never quotes what the client sent.
        room, client: the room and the client id of the message, where it had valid ones.
        is_ours: whether the fault is the server's, which has no place or cannot reach what it needs.
    """

    def __init__(
        self,
        field: str,
        code: ErrorCode,
        message: str,
        *,
        room: str | None = None,
        client: str | None = None,
        is_ours: bool = False,
    ) -> None:
        super().__init__(field, code, message)
        self.field = field
        self.code: ErrorCode = code
        self.message = message
        self.room = room
        self.client = client
        self.is_ours = is_ours

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Join:
    """Be in a room, and get what was said in it after the id `last`, or the newest of it."""

    room: str
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """Say who this is: the first message of every connection."""

    name: str
    rooms: tuple[Join, ...]
    session: str | None = None
    """Who this is across reconnects, a secret of the client; None lets the server draw one."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Be in a room no longer."""

    room: str


@dataclass(frozen=True, slots=True)
class Said:
    """Say something in a room (`message` on the wire)."""

    room: str
    text: str
    client: str | None = None
    """The client's own id of it, the same when it is sent again."""


@dataclass(frozen=True, slots=True)
class Typing:
    """Tell the room that something is being typed."""

    room: str


@dataclass(frozen=True, slots=True)
class History:
    """Ask for messages that are older than the id `before`."""

    room: str
    before: int
    limit: int = MAX_HISTORY


ClientMessage: TypeAlias = Hello | Join | Leave | Said | Typing | History


# -- from a client -------------------------------------------------------------------------------------------------


def parse(frame: str | bytes) -> ClientMessage:
    """Read a client's message.

    Args:
        frame: a whole WebSocket message; only text can be right.

    Raises:
        ChatError: something is wrong with it; names the field.
    """
    fields = _Fields(_load(frame))
    kind = fields.string("type")
    read = _READERS.get(kind)
    if read is None:
        raise ChatError("type", "unknown_type", "There is no such type of message.")
    try:
        return read(fields)
    except ChatError as exc:
        # Let the client know which of its messages this is about.
        exc.room = exc.room or fields.valid("room", _check_room)
        exc.client = exc.client or fields.valid("client", _check_client)
        raise


def _load(frame: str | bytes) -> dict[str, object]:
    if not isinstance(frame, str):
        raise ChatError("json", "bad_json", "A message is text, not binary.")
    if len(frame) > MAX_MESSAGE:
        raise ChatError("json", "too_long", f"A message has at most {MAX_MESSAGE} characters.")
    try:
        value = _decoder.decode(frame)
    except (ValueError, RecursionError):
        # ValueError is also what numbers of very many digits make.
        raise ChatError("json", "bad_json", "This is not JSON.") from None
    if not isinstance(value, dict):
        raise ChatError("json", "bad_json", "A message is a JSON object.")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands there twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


class _Fields:
    """The fields of a JSON object, read with their types checked."""

    __slots__ = ("_path", "_values")

    def __init__(self, values: dict[str, object], path: str = "") -> None:
        self._values = values
        self._path = path

    def path(self, key: str) -> str:
        return f"{self._path}{key}"

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def string(self, key: str, check: Callable[[str, str], str] | None = None) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise ChatError(self.path(key), "wrong_type", f"`{key}` is a string.")
        return value if check is None else check(self.path(key), value)

    def number(self, key: str, least: int, most: int) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ChatError(self.path(key), "wrong_type", f"`{key}` is an integer.")
        if not least <= value <= most:
            raise ChatError(self.path(key), "invalid", f"`{key}` is {least} to {most}.")
        return value

    def objects(self, key: str, most: int) -> list[_Fields]:
        value = self._get(key)
        if not isinstance(value, list):
            raise ChatError(self.path(key), "wrong_type", f"`{key}` is a list.")
        if len(value) > most:
            raise ChatError(self.path(key), "too_long", f"`{key}` has at most {most} entries.")
        found: list[_Fields] = []
        for number, item in enumerate(value):
            path = f"{self.path(key)}[{number}]"
            if not isinstance(item, dict):
                raise ChatError(path, "wrong_type", f"An entry of `{key}` is an object.")
            found.append(_Fields(item, f"{path}."))
        return found

    def valid(self, key: str, check: Callable[[str, str], str]) -> str | None:
        """Return a string that passes its check, None for anything else."""
        try:
            return self.string(key, check)
        except ChatError:
            return None

    def _get(self, key: str) -> object:
        value = self._values.get(key)
        if value is None:
            raise ChatError(self.path(key), "missing", f"`{key}` is missing.")
        return value


def _read_hello(fields: _Fields) -> Hello:
    name = fields.string("name", _clean_name)
    session = fields.string("session", _check_session) if fields.has("session") else None
    rooms: dict[str, Join] = {}
    for entry in fields.objects("rooms", MAX_ROOMS):
        join = _read_join(entry)
        if join.room in rooms:
            raise ChatError(entry.path("room"), "invalid", "Each room stands there once.")
        rooms[join.room] = join
    return Hello(name, tuple(rooms.values()), session)


def _read_join(fields: _Fields) -> Join:
    return Join(
        fields.string("room", _check_room),
        fields.number("last", 0, _MAX_ID) if fields.has("last") else None,
    )


def _read_leave(fields: _Fields) -> Leave:
    return Leave(fields.string("room", _check_room))


def _read_said(fields: _Fields) -> Said:
    return Said(
        fields.string("room", _check_room),
        fields.string("text", _clean_text),
        fields.string("client", _check_client) if fields.has("client") else None,
    )


def _read_typing(fields: _Fields) -> Typing:
    return Typing(fields.string("room", _check_room))


def _read_history(fields: _Fields) -> History:
    return History(
        fields.string("room", _check_room),
        fields.number("before", 0, _MAX_ID),
        fields.number("limit", 1, MAX_HISTORY) if fields.has("limit") else MAX_HISTORY,
    )


_READERS: Final[dict[str, Callable[[_Fields], ClientMessage]]] = {
    "hello": _read_hello,
    "join": _read_join,
    "leave": _read_leave,
    "message": _read_said,
    "typing": _read_typing,
    "history": _read_history,
}


# -- what may stand in a field -------------------------------------------------------------------------------------


def _clean_text(path: str, text: str) -> str:
    """Return a text without control characters but for line feeds and tabs."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.translate(_CONTROLS)
    if len(_utf8(path, text)) > MAX_TEXT:
        raise ChatError(path, "too_long", f"A text has at most {MAX_TEXT} bytes of UTF-8.")
    if not any(_is_seen(c) for c in text):
        raise ChatError(path, "empty", "A text has at least one visible character.")
    return text


def _clean_name(path: str, name: str) -> str:
    """Return a person's name as one line in NFC, without characters that are not seen or turn the line around."""
    _utf8(path, name)
    if len(name) <= 4 * MAX_NAME:  # so that little is gone through
        name = " ".join(name.split())
        name = "".join([c for c in name if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf")])
        name = unicodedata.normalize("NFC", " ".join(name.split()))
    return _check_length(path, name, MAX_NAME, "name")


def _check_room(path: str, room: str) -> str:
    _utf8(path, room)
    _check_length(path, room, MAX_ROOM, "room's name")
    if room != " ".join(room.split()) or room != unicodedata.normalize("NFC", room):
        raise ChatError(path, "invalid", "A room's name is in NFC, its words one space apart.")
    if any(unicodedata.category(c) in ("Cc", "Cf") and not _joins(room, at) for at, c in enumerate(room)):
        raise ChatError(path, "invalid", "A room's name has no control or format characters.")
    return room


def _joins(room: str, at: int) -> bool:
    """Return whether a joiner stands there, and where it shows: within an emoji, or a script that is spelt with it."""
    around = room[max(at - 1, 0) : at] + room[at + 1 : at + 2]
    return room[at] in _JOINERS and len(around) == 2 and all(c >= _FIRST_JOINED and c not in _JOINERS for c in around)


def _check_length(path: str, value: str, most: int, what: str) -> str:
    if len(value) > most:
        raise ChatError(path, "too_long", f"A {what} has at most {most} characters.")
    if not any(unicodedata.category(c)[0] in "LNPS" and _is_seen(c) for c in value):
        raise ChatError(path, "empty", f"A {what} has at least one visible character.")
    return value


def _is_seen(character: str) -> bool:
    return not character.isspace() and ord(character) not in _UNSEEN


def _check_session(path: str, session: str) -> str:
    if len(session) > MAX_SESSION:
        raise ChatError(path, "too_long", f"A session has at most {MAX_SESSION} characters.")
    if len(session) < MIN_SESSION or not _TOKEN.issuperset(session):
        raise ChatError(path, "invalid", f"A session has at least {MIN_SESSION} characters of A-Z, a-z, 0-9, _ and -.")
    return session


def _check_client(path: str, client: str) -> str:
    if len(client) > MAX_CLIENT:
        raise ChatError(path, "too_long", f"A client id has at most {MAX_CLIENT} characters.")
    if not _is_client(client):
        raise ChatError(path, "invalid", "A client id has one or more of A-Z, a-z, 0-9, _, - and the full stop.")
    return client


def _is_client(client: str) -> bool:
    return 0 < len(client) <= MAX_CLIENT and _CLIENT_ID.issuperset(client)


def _utf8(path: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ChatError(path, "invalid", "Half of a surrogate pair is not a character.") from None


# -- names that are taken ------------------------------------------------------------------------------------------


def name_key(name: str) -> str:
    """Return what names are compared by: those that look alike are one, and nobody sees a joiner."""
    folded = unicodedata.normalize("NFKC", name).casefold().translate(_UNSEEN)
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def before_number(name: str, digits: int) -> tuple[str, str]:
    """Return what stands before the number of a name that is taken, and before that of its `name_key`.

    It is cut to leave room for so many digits, but not within what is one character to the eye.
    """
    room = MAX_NAME - 1 - digits
    end = min(len(name), room)
    if end < len(name):
        while end and _goes_on(name, end):
            end -= 1
    before = name[: end or room].rstrip() + " "
    return before, name_key(before + "0")[:-1]


def _goes_on(name: str, at: int) -> bool:
    """Return whether the character there belongs to the one before."""
    here = name[at]
    return name[at - 1] == "\u200d" or here in _JOINERS or here in _SKIN_TONES or unicodedata.category(here)[0] == "M"


# -- to a client -----------------------------------------------------------------------------------------------------


def encode_body(text: str, by: str, client: str | None) -> str:
    """Return what of a message does not depend on where it stands, as `encode_event` takes it."""
    body = {"by": by, "text": text} if client is None else {"by": by, "client": client, "text": text}
    return _encode(body)


def encode_event(room: str, kind: str, id: int, time: int, name: str, body: str) -> str:
    """Encode something that happened in a room.

    Args:
        kind: `message`, `typing`, or the event of a presence.
        id: its place in the room.
        time: milliseconds since 1970.
        name: who did it.
        body: for a message, what `encode_body` returned.
    """
    head = f'"room":{_encode(room)},"id":{id},"time":{time},"name":{_encode(name)}'
    if kind == "message":
        return f'{{"type":"message",{head},{body[1:]}'
    if kind == "typing":
        return f'{{"type":"typing",{head}}}'
    return f'{{"type":"presence","event":"{kind}",{head}}}'


def is_event(kind: str, name: str, body: str) -> bool:
    """Return whether `encode_event` may be given this, which was kept where others can write too.

    A body is spliced into what is sent: it must be, to the letter, what `encode_body` returns of a text that may be
    sent. What may stand in a text does not depend on a version of Unicode here: processes that share a room agree.
    """
    if not 0 < len(name) <= MAX_NAME or _is_unspeakable(name, _UNSPEAKABLE):
        return False
    if kind != "message":
        return not body
    try:
        fields = _decoder.decode(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    by, text, client = (fields.get(key) for key in ("by", "text", "client"))
    if not isinstance(by, str) or not 0 < len(by) <= MAX_BY or not _BY.issuperset(by):
        return False
    if not isinstance(text, str) or not text or _is_unspeakable(text, _CONTROLS) or len(text.encode()) > MAX_TEXT:
        return False
    if client is not None and not (isinstance(client, str) and _is_client(client)):
        return False
    return body == encode_body(text, by, client)


def _is_unspeakable(text: str, controls: dict[int, None]) -> bool:
    """Return whether there are control characters in a text, or halves of surrogate pairs."""
    return text.translate(controls) != text or _SURROGATE.search(text) is not None


def encode_history(room: str, kind: Literal["recent", "missed", "older"], messages: Iterable[str], more: bool) -> str:
    """Encode a piece of a room's history; `messages` are encoded already."""
    return (
        f'{{"type":"history","room":{_encode(room)},"kind":"{kind}",'
        f'"more":{"true" if more else "false"},"messages":[{",".join(messages)}]}}'
    )


def encode_members(room: str, id: int, time: int, name: str, wanted: str, members: Sequence[str], count: int) -> str:
    """Encode who is in a room; `name` is what the reader is called in it, `wanted` what it asked for."""
    message: dict[str, object] = {"type": "presence", "event": "members", "room": room, "id": id, "time": time}
    message["name"] = name
    if wanted != name:
        message["wanted"] = wanted
    return _encode({**message, "members": list(members[:MAX_MEMBERS]), "count": count})


def encode_gap(room: str, last: int) -> str:
    """Encode that what was said after the id `last` is not all there any more."""
    return _encode({"type": "gap", "room": room, "last": last})


def encode_confirmed(room: str, client: str | None, id: int, time: int) -> str:
    """Encode that a message that was sent again is in the room already."""
    return _encode({"type": "confirmed", "room": room, "client": client, "id": id, "time": time})


def encode_welcome(session: str, by: str, time: int) -> str:
    """Encode the answer to a hello; `by` is what the session's messages are marked with."""
    return _encode({"type": "welcome", "version": VERSION, "session": session, "by": by, "time": time})


def encode_error(error: ChatError) -> str:
    """Encode what is wrong with a client's message."""
    message = {"type": "error", "field": error.field, "code": error.code, "message": error.message}
    if error.room is not None:
        message["room"] = error.room
    if error.client is not None:
        message["client"] = error.client
    return _encode(message)
