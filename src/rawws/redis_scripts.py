"""What of a room stands in Redis: its keys, the entries of its streams, and the scripts that change it in one step.

Facts: all keys of a room share a hash tag, so they are in one slot of a cluster. Everything that happens has an id:
the clock of Redis in microseconds, or one more than the id before. An entry names the id before its own; so whoever
has heard up to some id sees whether the next entry follows, whatever happened to Redis in between: the ids form a
chain, and a chain that was cut (Redis came back with less than it had acknowledged, or empty) shows.

Keys, after `PREFIX:{ROOM}:` (ROOM percent-encoded): `room` (hash: the last id, and up to where messages and other
entries may have been forgotten; also the name of the channel), `messages` and `events` (streams, an entry's id is
`ID-0`, its one field `e` what the channel carries), `names`, `taken`, `seats`, `order` and `leases` (who is there: name
by session, session by what names are compared by, seat by session, arrival by session, end of lease by worker), and
`sent:WHO` (the last client ids of a session). WHO is a digest: a session's token is never stored.

Rules: a script that finds no room begins one; what others wrote into the streams is skipped and counted, never given
out, and where none of ours could follow it, it is removed. A script returns how much it has skipped or removed, and
then its answer. This module only has text and arithmetic. Cost: a publication
is one script, some 20 commands of constant time.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import quote

from .backplane import Entry, Kind

__all__ = [
    "ENTER",
    "ENTRIES_LOST",
    "FORGET",
    "HISTORY",
    "LEAVE",
    "MAX_BODY",
    "NOTIFY",
    "PEOPLE",
    "PUBLISH",
    "READ",
    "READ_AT_ONCE",
    "SEATS_LOST",
    "Link",
    "pack_relayed",
    "room_keys",
    "sent_key",
    "unpack",
    "unpack_relayed",
    "who_is",
]

MAX_BODY: Final = 64 * 1024
"""Bytes of a message's body; the chat's take 25 KiB where every character needs escaping."""
SEATS_LOST: Final = 1
ENTRIES_LOST: Final = 2
"""What READ finds to be lost."""
READ_AT_ONCE: Final = 256
"""Entries of each stream that one read brings."""

_END: Final = 2**53  # of the numbers in an entry: beyond, neither Lua nor a browser tells one from the next
_MAX_PACKED: Final = MAX_BODY + 4096  # an entry; beyond, somebody else wrote it
_MAX_EVENTS: Final = 10_000  # entries that are no messages: they are kept for workers that were away for a moment
_REMEMBERED: Final = 32  # client ids of a session, as in memory
_REMEMBERED_SECONDS: Final = 3600
_MAX_ROOM_IN_KEY: Final = 200
_KINDS: Final[dict[bytes, Kind]] = {kind.encode(): kind for kind in ("message", "joined", "left", "typing")}


class Link(NamedTuple):
    """An entry, and where it follows."""

    before: int
    """The id before its own."""
    entry: Entry


def room_keys(prefix: str, room: str) -> list[str]:
    """Return a room's keys in the order that the scripts know; the first one names its channel too."""
    name = quote(room, safe="", errors="surrogatepass")
    if len(name) > _MAX_ROOM_IN_KEY:
        name = "%%" + blake2b(name.encode(), digest_size=20).hexdigest()  # nothing is quoted like that
    parts = ("room", "messages", "events", "names", "taken", "seats", "order", "leases")
    return [f"{prefix}:{{{name}}}:{part}" for part in parts]


def sent_key(keys: list[str], who: str) -> str:
    """Return the key of the client ids that a session used in a room."""
    return keys[0].removesuffix("room") + f"sent:{who}"


def who_is(session: str) -> str:
    """Return what stands for a session in Redis."""
    return blake2b(session.encode(errors="surrogatepass"), digest_size=12, person=b"rawws.who").hexdigest()


def unpack(packed: object) -> Link | None:
    """Read an entry, None for anything that a script did not write."""
    if not isinstance(packed, bytes) or len(packed) > _MAX_PACKED:
        return None
    parts = packed.split(b" ", 5)
    if len(parts) != 6:
        return None
    *numbers, kind, length, rest = parts
    known = _KINDS.get(kind)
    if known is None or not all(number.isdigit() and len(number) <= 16 for number in (*numbers, length)):
        return None
    before, id, time = map(int, numbers)
    size = int(length)
    if size > len(rest) or before >= id or max(id, time) >= _END:
        return None
    try:
        name, body = rest[:size].decode(), rest[size:].decode()
    except UnicodeDecodeError:
        return None
    return Link(before, Entry(id, time, known, name, body))


def pack_relayed(message: str | bytes) -> bytes:
    """Return a relayed message as its channel carries it."""
    return b"t" + message.encode() if isinstance(message, str) else b"b" + message


def unpack_relayed(packed: object) -> str | bytes | None:
    """Read what `pack_relayed` made, None for anything else."""
    if isinstance(packed, bytes) and packed[:1] == b"b":
        return packed[1:]
    if isinstance(packed, bytes) and packed[:1] == b"t":
        with suppress(UnicodeDecodeError):
            return packed[1:].decode()
    return None


# -- the scripts -----------------------------------------------------------------------------------------------------

# KEYS: those of `room_keys`, and for PUBLISH that of `sent_key`. ARGV: the worker, the milliseconds of a lease, the
# seconds for which a room is kept, the messages that are kept, and then each script's own.
_COMMON: Final = f"""
local room, messages, events, names, taken, seats, order, leases = unpack(KEYS)
local worker, lease, keep, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local skipped = 0  -- entries that others wrote

local function text(number) return string.format('%.0f', number) end
-- Beyond an id, whatever others have put behind it.
local function beyond(id) return '(' .. id .. '-18446744073709551615' end

local now = redis.call('TIME')
local micro = now[1] * 1000000 + now[2]
local milli = math.floor(micro / 1000)

local state = redis.call('HMGET', room, 'position', 'messages', 'events')
local position = state[1]
local forgotten = {{ [messages] = state[2], [events] = state[3] }}
if not position or not string.match(position, '^%d+$') or tonumber(position) >= {_END} then
  -- Nothing is known of this room any more, or nonsense: whoever has seen it has missed something.
  position = text(micro)
  redis.call('DEL', messages, events, names, taken, seats, order, leases)
  redis.call('HSET', room, 'position', position, 'messages', position, 'events', position)
  redis.call('EXPIRE', room, keep)
  forgotten = {{ [messages] = position, [events] = position }}
end

local function forget(stream, id)
  if tonumber(id) > tonumber(forgotten[stream]) then
    forgotten[stream] = id
    redis.call('HSET', room, stream == messages and 'messages' or 'events', id)
  end
end

-- Remove what others have put behind our entries, unless that is very much, and let ours follow again.
local function clear(stream)
  for _ = 1, 100 do
    local found = redis.pcall('XREVRANGE', stream, '+', beyond(position), 'COUNT', 100)
    if found.err then return end
    for _, each in ipairs(found) do redis.call('XDEL', stream, each[1]) end
    skipped = skipped + #found
    if #found == 0 then break end
  end
  local last = position .. '-18446744073709551615'
  redis.pcall('XSETID', stream, last, 'ENTRIESADDED', redis.call('XLEN', stream), 'MAXDELETEDID', '0-0')
end

-- Append to a stream; trim it, remembering what went; return whether that could be done.
local function add(stream, limit, id, packed)
  local length = redis.pcall('XLEN', stream)
  if type(length) ~= 'number' then return false end
  local going = length >= limit and redis.call('XRANGE', stream, '-', '+', 'COUNT', length - limit + 1)
  local added = redis.pcall('XADD', stream, 'MAXLEN', limit, id .. '-0', 'e', packed)
  if type(added) == 'table' and added.err then return false end
  if going then
    local last = string.match(going[#going][1], '^%d+')
    forget(stream, tonumber(last) <= tonumber(position) and last or position)
  end
  return true
end

-- Append to a stream, whatever others have done to it: put entries behind which none of ours could follow, or made
-- something else of it.
local function append(stream, limit, id, packed)
  if not add(stream, limit, id, packed) then
    clear(stream)
    if not add(stream, limit, id, packed) then
      skipped = skipped + 1
      redis.call('DEL', stream)
      forget(stream, position)
      add(stream, limit, id, packed)
    end
  end
  redis.call('EXPIRE', stream, keep)
end

-- Something happens in the room.
local function note(kind, name, body)
  local id = text(math.max(tonumber(position) + 1, micro))
  local packed = position .. ' ' .. id .. ' ' .. text(milli) .. ' ' .. kind .. ' ' .. #name .. ' ' .. name .. body
  if kind == 'message' then append(messages, most, id, packed) else append(events, {_MAX_EVENTS}, id, packed) end
  position = id
  redis.call('HSET', room, 'position', position)
  redis.call('EXPIRE', room, keep)
  redis.call('PUBLISH', room, packed)
end

local function vacate(who, key)
  local name = redis.call('HGET', names, who)
  redis.call('HDEL', names, who)
  redis.call('HDEL', seats, who)
  redis.call('HDEL', taken, key)
  redis.call('ZREM', order, who)
  if name then note('left', name, '') end
  return name
end

-- Give back a seat for each token that `given_back` says so of.
local function release(who, given_back)
  local found = redis.call('HGET', seats, who)
  if not found then return nil end
  local seat = cjson.decode(found)
  local holds = {{}}
  for _, token in ipairs(seat.holds) do
    if not given_back(token) then holds[#holds + 1] = token end
  end
  if #holds == #seat.holds then return nil end
  if #holds == 0 then return vacate(who, seat.key) end
  seat.holds = holds
  redis.call('HSET', seats, who, cjson.encode(seat))
  return nil
end

-- The seats of workers that have not been heard of for the time of a lease are given back. A worker that asks lives.
local function reap()
  local dead = {{}}
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. text(milli))) do
    if other ~= worker then
      dead[other] = true
      redis.call('ZREM', leases, other)
    end
  end
  if next(dead) then
    for _, who in ipairs(redis.call('ZRANGE', order, 0, -1)) do
      release(who, function(token) return dead[string.match(token, '^[^:]*')] end)
    end
  end
end

-- Whether a worker that has seats has lost them: everybody took it for dead, or nothing is known of it.
local function is_lost(seated) return seated == '1' and not redis.call('ZSCORE', leases, worker) end

-- The worker lives, and so do its seats. Should all workers of the room die, what tells of them goes by itself.
local function renew()
  redis.call('ZADD', leases, text(milli + lease), worker)
  for _, key in ipairs({{ names, taken, seats, order, leases }}) do redis.call('PEXPIRE', key, lease * 4) end
end

local kinds = {{ message = true, joined = true, left = true, typing = true }}

-- What `unpack` (in Python) can read, but for its letters, at the place where it says that it is; none of ours is
-- beyond the position.
local function is_ours(id, fields)
  local packed = fields[2]
  if #fields ~= 2 or fields[1] ~= 'e' or #packed > {_MAX_PACKED} then return false end
  local before, own, time, kind, length, at = string.match(packed, '^(%d+) (%d+) (%d+) (%l+) (%d+) ()')
  return before and own .. '-0' == id and math.max(#before, #own, #time, #length) <= 16 and kinds[kind]
    and tonumber(before) < tonumber(own) and tonumber(own) <= tonumber(position)
    and tonumber(time) < {_END}
    and at - 1 + tonumber(length) <= #packed
end

-- Up to `want` of our entries of a stream from one id towards another.
local function collect(command, stream, from, to, want)
  local found = {{}}
  while true do
    local batch = redis.pcall(command, stream, from, to, 'COUNT', want - #found)
    if batch.err then
      skipped = skipped + 1
      return found
    end
    for _, each in ipairs(batch) do
      if is_ours(each[1], each[2]) then found[#found + 1] = each[2][2] else skipped = skipped + 1 end
    end
    if #found >= want or #batch == 0 then return found end
    from = '(' .. batch[#batch][1]
  end
end

-- Whether the chain of ids goes past an id without touching it.
local function goes_past(id)
  local first
  for _, stream in ipairs({{ messages, events }}) do
    local packed = collect('XRANGE', stream, beyond(id), '+', 1)[1]
    if packed then
      local before, own = string.match(packed, '^(%d+) (%d+)')
      if not first or tonumber(own) < first.own then first = {{ own = tonumber(own), before = tonumber(before) }} end
    end
  end
  return first and first.before < tonumber(id)
end
"""


def _script(body: str) -> str:
    """Return a script that returns what was skipped, and what `body` returns."""
    return (
        f"{_COMMON}\nlocal function answer()\n{body}\nend\nlocal answered = answer()\nreturn {{ skipped, answered }}\n"
    )


READ: Final = _script(f"""
-- AFTER (or empty), SEATED -> position, what is lost, messages, events
local after, seated = ARGV[5], ARGV[6]
reap()
if is_lost(seated) then return {{ position, {SEATS_LOST}, {{}}, {{}} }} end
if seated == '1' then renew() end
-- Together, however long nobody has said anything: what of a room is gone alone would be missed by nobody.
for _, key in ipairs({{ room, messages, events }}) do redis.call('EXPIRE', key, keep) end
if after == '' then return {{ position, 0, {{}}, {{}} }} end
if tonumber(after) > tonumber(position) then
  -- Redis has forgotten what it had told: go on beyond that, and let nobody believe that nothing is missing.
  position = text(math.max(tonumber(after) + 1, micro))
  redis.call('HSET', room, 'position', position)
  forget(messages, position)
  forget(events, position)
end
if tonumber(after) < tonumber(forgotten[messages]) or tonumber(after) < tonumber(forgotten[events]) then
  return {{ position, {ENTRIES_LOST}, {{}}, {{}} }}
end
local said = collect('XRANGE', messages, beyond(after), '+', {READ_AT_ONCE})
local happened = collect('XRANGE', events, beyond(after), '+', {READ_AT_ONCE})
return {{ position, 0, said, happened }}
""")

FORGET: Final = _script("""
-- Whoever has seen anything has missed something -> position
forget(messages, position)
forget(events, position)
return position
""")

HISTORY: Final = _script("""
-- AFTER or BEFORE (or both empty), LIMIT -> position, whether there is a gap, messages (newest first without AFTER),
-- one more than LIMIT if there are
local after, before, want = ARGV[5], ARGV[6], tonumber(ARGV[7]) + 1
if after == '' then
  return { position, 0, collect('XREVRANGE', messages, before == '' and '+' or '(' .. before .. '-0', '-', want) }
end
if tonumber(after) < tonumber(forgotten[messages]) or tonumber(after) > tonumber(position) or goes_past(after) then
  return { position, 1, {} }
end
return { position, 0, collect('XRANGE', messages, beyond(after), '+', want) }
""")

ENTER: Final = _script("""
-- WHO, NAME, what it is compared by, TOKEN, SEATED, and what stands before a number of one digit, of two and so on, in
-- the name and in what it is compared by -> name; nothing where the caller's other seats are lost
local who, wanted, base, token, seated = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
reap()
if is_lost(seated) then return {} end
local found = redis.call('HGET', seats, who)
local seat = found and cjson.decode(found)
local holds = seat and seat.holds or {}
if seat and (seat.wanted ~= wanted or redis.call('HEXISTS', names, who) == 0) then
  vacate(who, seat.key)
  seat = nil
end
if not seat then
  local name, key, number = wanted, base, 1
  while redis.call('HEXISTS', taken, key) == 1 do
    number = number + 1
    local at = 8 + 2 * #tostring(number)
    name, key = ARGV[at] .. number, ARGV[at + 1] .. number
  end
  seat = { wanted = wanted, key = key }
  redis.call('HSET', names, who, name)
  redis.call('HSET', taken, key, who)
  note('joined', name, '')
  redis.call('ZADD', order, position, who)
end
holds[#holds + 1] = token
seat.holds = holds
redis.call('HSET', seats, who, cjson.encode(seat))
renew()
return { redis.call('HGET', names, who) }
""")

LEAVE: Final = _script("""
-- WHO, TOKEN -> id, time, name where that was the end of the seat
local name = release(ARGV[5], function(token) return token == ARGV[6] end)
if name then return { position, text(milli), name } end
return {}
""")

PEOPLE: Final = _script("""
-- LIMIT -> number, names
local present = redis.call('ZRANGE', order, 0, ARGV[5] - 1)
if #present == 0 then return { 0, {} } end
return { redis.call('ZCARD', order), redis.call('HMGET', names, unpack(present)) }
""")

PUBLISH: Final = _script(f"""
-- WHO, BODY, CLIENT (or empty) -> id, time, whether it was there already; nothing where the seat is lost
local who, body, client = ARGV[5], ARGV[6], ARGV[7]
local name = redis.call('HGET', names, who)
if not name then return {{}} end
if client ~= '' then
  for _, line in ipairs(redis.call('LRANGE', KEYS[9], 0, -1)) do
    local id, time, used = string.match(line, '^(%d+) (%d+) (.*)$')
    if used == client then return {{ id, time, 1 }} end
  end
end
note('message', name, body)
if client ~= '' then
  redis.call('LPUSH', KEYS[9], position .. ' ' .. text(milli) .. ' ' .. client)
  redis.call('LTRIM', KEYS[9], 0, {_REMEMBERED - 1})
  redis.call('EXPIRE', KEYS[9], {_REMEMBERED_SECONDS})
end
return {{ position, text(milli), 0 }}
""")

NOTIFY: Final = _script("""
-- WHO, KIND -> anything; nothing where the seat is lost
local name = redis.call('HGET', names, ARGV[5])
if not name then return {} end
note(ARGV[6], name, '')
return { 1 }
""")
