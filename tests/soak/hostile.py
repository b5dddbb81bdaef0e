"""Hostile peers: each does its worst and then checks that it got what it deserves, and in the time that is stated.

Each is one life: it returns when the server has dealt with it. The times are those of the default `Limits`, with some
patience for a machine that does other things too.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING, Final

import trio

from tests.raw_client import BINARY, CLOSE, PING, PONG, TEXT, Client, frame, handshake
from tests.soak.load import SOON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.soak.load import Load

__all__ = ["ATTACKS", "attack"]

_HEAD: Final = 10.0 + SOON
"""Seconds within which a head must be complete."""
_STALLED: Final = 10.0 + SOON
"""Seconds without progress after which a peer that does not read is cut."""
_UNREAD: Final = 90.0
"""Seconds after which one that does not read what is broadcast is cut: the kernel takes two megabytes before that."""
_SILENT: Final = 20.0 + 20.0 + SOON
"""Seconds to the ping and from there to the end."""
_OFFER: Final = b"Sec-WebSocket-Extensions: permessage-deflate"
_DEFLATE: Final = zlib.compressobj(9, zlib.DEFLATED, -15)
_BOMB: Final = _DEFLATE.compress(bytes(8 << 20)) + _DEFLATE.flush(zlib.Z_SYNC_FLUSH)


async def attack(load: Load, number: int) -> None:
    """Attack for ever, each time in another way."""
    names = list(ATTACKS)
    turn = number
    while True:
        name = names[turn % len(names)]
        turn += 1
        try:
            await ATTACKS[name](load)
        except (AssertionError, EOFError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            load.spared.append(f"{name}: {error!r}")
            await trio.sleep(1.0)
        else:
            load.attacks[name] = load.attacks.get(name, 0) + 1
        await trio.sleep(random.uniform(0.2, 2.0))


async def _closed_with(client: Client, code: int, seconds: float = SOON) -> None:
    """See a Close of this code come, before or after other things, and then the end."""
    with trio.fail_after(seconds):
        while True:
            first, payload = await client.frame()
            if first == CLOSE:
                found = int.from_bytes(payload[:2], "big")
                assert found == code, f"closed with {found}, not {code}: {payload[2:]!r}"
                await client.ended()
                return


async def _sends(load: Load, data: bytes, code: int, *fields: bytes) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.open(random.choice(("/echo", "/echo/task")), *fields)
            await client.send(data)
        await _closed_with(client, code)


async def garbage(load: Load) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.send(b"\x16\x03\x01" + random.randbytes(300))
            assert b" 400 " in await client.ended()


async def a_reserved_opcode(load: Load) -> None:
    await _sends(load, frame(TEXT, b"hello") + frame(0x83, random.randbytes(20)), 1002)


async def an_unmasked_frame(load: Load) -> None:
    await _sends(load, b"\x81\x05hello", 1002)


async def text_that_is_none(load: Load) -> None:
    await _sends(load, frame(TEXT, b"\xff" + bytes(100)), 1007)


async def a_length_of_2_to_the_62(load: Load) -> None:
    await _sends(load, b"\x82\xff\x40" + bytes(7 + 4), 1009)


async def a_bomb(load: Load) -> None:
    await _sends(load, frame(BINARY | 0x40, _BOMB[:-4]), 1009, _OFFER)


async def a_flood_of_pings(load: Load) -> None:
    await _sends(load, frame(PING, b"x") * 300, 1008)


async def a_flood_of_empty_fragments(load: Load) -> None:
    await _sends(load, frame(0x01) + frame(0x00) * 300, 1008)


async def nonsense_in_the_chat(load: Load) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.open("/chat")
            await client.send(frame(TEXT, b"{]") * 20)
        await _closed_with(client, 1008)


async def half_open(load: Load) -> None:
    """Connect and say nothing."""
    async with load.connect("hostile") as client:
        with trio.fail_after(_HEAD):
            await client.ended()


async def a_head_byte_by_byte(load: Load) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(_HEAD):
            try:
                for byte in handshake("/echo"):
                    await client.send(bytes((byte,)))
                    await trio.sleep(1.0)
            except trio.BrokenResourceError:
                return
    raise AssertionError("the head could be sent to its end")


async def half_a_frame(load: Load) -> None:
    """Begin a message and go silent, pongs included."""
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.open("/echo")
            await client.send(frame(BINARY, bytes(5000))[:2000])
        await _closed_with(client, 1011, _SILENT)


async def a_reset_within_a_frame(load: Load) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.open("/echo")
            await client.send(frame(TEXT, b"hello" * 50)[: random.randrange(1, 250)])
            assert isinstance(client.stream, trio.SocketStream)
            client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


async def an_end_without_a_close(load: Load) -> None:
    async with load.connect("hostile") as client:
        with trio.fail_after(SOON):
            await client.open("/echo")
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            await client.ended()


async def an_echo_that_is_not_read(load: Load) -> None:
    """Send what comes back and do not read it: the server stops reading, then it cuts."""
    message = frame(BINARY, bytes(60_000))
    async with load.connect("hostile", narrow=True) as client:
        await client.open("/echo")
        with trio.fail_after(_STALLED):
            try:
                while True:
                    await client.send(message)
            except trio.BrokenResourceError:
                return


async def a_broadcast_that_is_not_read(load: Load) -> None:
    """Join those who are sent to and read nothing."""
    async with load.connect("hostile", narrow=True) as client:
        await client.open("/broadcast")
        with trio.move_on_after(_UNREAD):
            while True:  # a pong now and then tells when nobody is there any more
                await trio.sleep(1.0)
                try:
                    await client.send(frame(PONG))
                except trio.BrokenResourceError:
                    return
        raise AssertionError("it was not cut")


ATTACKS: Final[dict[str, Callable[[Load], Awaitable[None]]]] = {
    attacker.__name__: attacker
    for attacker in (
        garbage,
        a_reserved_opcode,
        an_unmasked_frame,
        text_that_is_none,
        a_length_of_2_to_the_62,
        a_bomb,
        a_flood_of_pings,
        a_flood_of_empty_fragments,
        nonsense_in_the_chat,
        half_open,
        a_head_byte_by_byte,
        half_a_frame,
        a_reset_within_a_frame,
        an_end_without_a_close,
        an_echo_that_is_not_read,
        a_broadcast_that_is_not_read,
    )
}
