"""Messages that are made to cost more than they should: bombs, floods, lengths that are never sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import trio

import rawws
from rawws.transport import READ_SIZE
from tests.hostile.serving import MIB, Process, attack, eventually, healthy, push, serve
from tests.raw_client import CLOSE, CLOSE_1000, PING, PONG, TEXT, Client, frame
from tests.test_traps import DEFLATE, deflate

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LIMITS = rawws.Limits()
PEERS = 6


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with serve() as server:
        yield server


async def all_at_once(server: Process, data: bytes, *fields: bytes, path: str) -> tuple[int, str]:
    """Code and reason of the Close frame that each of several peers gets that send the same at the same time."""
    told: set[tuple[int, str]] = set()

    async def be_told(client: Client) -> None:
        *others, (first, payload) = await attack(client, data)
        assert {first for first, _ in others} <= {PONG}
        assert first == CLOSE
        told.add((int.from_bytes(payload[:2], "big"), payload[2:].decode()))

    async with server.peers(PEERS, path, *fields) as clients, trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(be_told, client)
    assert len(told) == 1
    return told.pop()


BOMBS = {
    "4 KB that inflate to 4 MiB": deflate(bytes(4 * MIB)),
    "260 KB that inflate to 256 MiB": deflate(bytes(256 * MIB)),
}


def in_fragments(payload: bytes) -> bytes:
    """A compressed binary message in ten frames."""
    size = len(payload) // 10 + 1
    cut = [payload[at : at + size] for at in range(0, len(payload), size)]
    heads = [0x42, *[0x00] * (len(cut) - 2), 0x80]
    return b"".join(frame(head, piece) for head, piece in zip(heads, cut, strict=True))


@pytest.mark.parametrize("path", ["/echo", "/echo/task"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in fragments"])
@pytest.mark.parametrize("what", BOMBS)
async def test_a_decompression_bomb_gets_1009_and_the_memory_of_one_message(
    server: Process, what: str, whole: bool, path: str
) -> None:
    """An inflating message is at most its limit, held twice while its pieces are joined, and what one read brings."""
    data = frame(0xC2, BOMBS[what]) if whole else in_fragments(BOMBS[what])
    with healthy(server), server.grows_at_most(PEERS * (2 * LIMITS.max_message_size + READ_SIZE)):
        code, _ = await all_at_once(server, data, DEFLATE, path=path)
    assert code == 1009


FLOODS = {
    "a message of a byte a frame": frame(0x01, b"x") + frame(0x00, b"x") * 20_000,
    "empty frames that end nothing": frame(0x01) + frame(0x00) * 200_000,
    "pings": frame(PING) * 200_000,
    "pings of 125 bytes within a message": frame(0x01, b"x") + frame(PING, bytes(125)) * 20_000,
}


@pytest.mark.parametrize("path", ["/echo", "/echo/task"])
@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_of_frames_gets_1008_and_no_memory(server: Process, what: str, path: str) -> None:
    """A message in frames is at most `max_fragments` pieces, each an object of at most 64 bytes, and one read."""
    with healthy(server), server.grows_at_most(PEERS * (LIMITS.fragments * 64 + READ_SIZE)):
        code, _ = await all_at_once(server, FLOODS[what], path=path)
    assert code == 1008


@pytest.mark.parametrize("first", [0x82, 0x02], ids=["whole", "a fragment"])
@pytest.mark.parametrize("sent", [0, 4 * MIB])
async def test_a_length_of_2_to_the_62_gets_1009_and_no_memory(server: Process, first: int, sent: int) -> None:
    """Of a message that is too long nothing is kept, however much of it is sent: one read."""
    header = bytes((first, 0xFF)) + (1 << 62).to_bytes(8, "big") + bytes(4)
    with healthy(server), server.grows_at_most(PEERS * READ_SIZE):
        code, _ = await all_at_once(server, header + bytes(sent), path="/echo")
    assert code == 1009


async def test_messages_that_never_end_are_kept_up_to_their_limit(server: Process) -> None:
    """A connection in the middle of a message holds the message and one read, for as long as its peer is there."""
    size = LIMITS.max_message_size
    header = b"\x82\xff" + size.to_bytes(8, "big") + bytes(4)  # FIN and binary, masked with zeros, 1 MiB
    with healthy(server):
        before = server.descriptors()
        with server.grows_at_most(PEERS * (size + READ_SIZE)):
            async with server.peers(PEERS, "/echo") as clients:
                for client in clients:
                    await client.send(header + bytes(size - 1))
                await trio.sleep(0.2)
                assert server.descriptors() == before + PEERS
        await eventually(lambda: server.descriptors() == before)


async def test_what_comes_after_a_broken_rule_is_not_kept(server: Process) -> None:
    """After a failure nothing is kept of what is read until the peer's end: one read."""
    with healthy(server), server.grows_at_most(PEERS * READ_SIZE):
        code, _ = await all_at_once(server, b"\x81\x05hello" + bytes(8 * MIB), path="/echo/task")
    assert code == 1002


async def test_pipelined_requests_are_answered_in_turn_and_not_kept(server: Process) -> None:
    """While an answer does not leave nothing is read: of each peer one read, and answers up to two high-water marks."""
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100_000
    with healthy(server), server.grows_at_most(PEERS * (READ_SIZE + 2 * 65_536)):
        async with server.peers(PEERS, narrow=True) as clients:
            with trio.move_on_after(0.5):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(push, client, ask)


async def test_the_largest_message_comes_back(server: Process) -> None:
    largest = b"x" * LIMITS.max_message_size
    with healthy(server):
        async with server.peers(1, "/echo") as (client,):
            assert await attack(client, frame(TEXT, largest) + CLOSE_1000) == [(TEXT, largest), (CLOSE, b"\x03\xe8")]
