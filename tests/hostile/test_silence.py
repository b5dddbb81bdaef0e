"""Peers that take what they want and give nothing: those that never read, and those that have vanished."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import rawws
from tests.hostile.serving import MIB, Process, attack, eventually, frames, healthy, push, serve
from tests.raw_client import CLOSE, PING, TEXT, Client, frame
from tests.test_traps import DEFLATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DEAF = 20
"""Peers that never read."""
RATE = 10_000
"""Messages a second that the room publishes."""
SECONDS = 2
SIZE = 500
BATCH = 500
READ = 65_536
POLICIES = ["close", "drop_newest", "drop_oldest"]


def message(number: int) -> bytes:
    return b"%08d" % number + b"x" * (SIZE - 8)


async def publish(client: Client) -> None:
    """Send at the rate and not faster; what cannot be sent in time is sent late."""
    began = trio.current_time()
    for number in range(0, RATE * SECONDS, BATCH):
        await trio.sleep_until(began + number / RATE)
        await client.send(b"".join(frame(TEXT, message(number + one)) for one in range(BATCH)))


@pytest.mark.parametrize("policy", POLICIES)
async def test_peers_that_never_read_delay_nobody_while_a_room_publishes_10_000_messages_a_second(policy: str) -> None:
    """To each of them at most the send buffer and one message is queued; to the others as much, if they are slow."""
    limits = rawws.Limits(max_send_buffer=MIB // 4)
    flags = [f"--slow-consumer={policy}", f"--max-send-buffer={limits.max_send_buffer}", "--close-timeout=30"]
    size = RATE * SECONDS * (SIZE + 4)
    everything = b"".join(b"\x81\x7e" + SIZE.to_bytes(2, "big") + message(one) for one in range(RATE * SECONDS))
    received: list[bool] = []

    async def listen(client: Client) -> None:
        received.append(await client.exactly(size) == everything)

    with serve(*flags) as server, healthy(server):
        async with (
            server.peers(DEAF // 2, "/broadcast", narrow=True) as deaf,
            server.peers(DEAF // 2, "/broadcast", DEFLATE, narrow=True),
            server.peers(2, "/broadcast") as (publisher, listener),
        ):
            with server.grows_at_most((DEAF + 2) * (limits.max_send_buffer + SIZE + 4)), trio.fail_after(SECONDS + 8):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listen, publisher)
                    nursery.start_soon(listen, listener)
                    nursery.start_soon(publish, publisher)
            assert received == [True, True]  # everything, in order
            if policy == "close":
                # What one who was closed had been promised comes before the Close frame, without a gap.
                number = 0
                while (came := await deaf[0].frame())[0] == TEXT:
                    assert int(came[1][:8]) == number
                    number += 1
                assert (came[0], came[1][:2], b"send buffer full" in came[1]) == (CLOSE, b"\x03\xf5", True)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_peer_that_takes_nothing_for_send_timeout_is_cut(policy: str) -> None:
    """A peer that takes nothing costs its send buffer for `send_timeout`, and then nothing."""
    limits = rawws.Limits(max_send_buffer=MIB // 4)
    flags = [f"--slow-consumer={policy}", "--send-timeout=1", f"--max-send-buffer={limits.max_send_buffer}"]
    with serve(*flags) as server, healthy(server):
        async with server.peers(5, "/broadcast", narrow=True), server.peers(1, "/broadcast") as (publisher,):
            descriptors = server.descriptors()
            with server.grows_at_most(6 * (limits.max_send_buffer + SIZE)), trio.fail_after(8):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(publisher.ended)
                    while server.descriptors() > descriptors - 5:
                        await push(publisher, frame(TEXT, message(0)) * BATCH)
                        await trio.sleep(0.02)
                    nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Process]:
    with serve("--ping-interval=0.5", "--ping-timeout=0.5", "--close-timeout=0.5", "--send-timeout=1") as server:
        yield server


async def test_peers_that_vanish_without_fin_are_found_by_the_ping_that_they_do_not_answer(impatient: Process) -> None:
    """Nothing tells that a peer is gone but its silence; until then it costs a connection, under 16 KiB."""
    with healthy(impatient):
        before = impatient.descriptors()
        with impatient.grows_at_most(90 * 16 * 1024):
            async with (
                impatient.peers(30, "/echo") as some,
                impatient.peers(30, "/echo/task") as others,
                impatient.peers(30, "/broadcast") as more,
            ):
                began = trio.current_time()
                await eventually(lambda: impatient.descriptors() == before)
                assert trio.current_time() - began < 3
                for client in (*some, *others, *more):
                    (ping, _), (close, payload) = frames(await client.ended())
                    assert (ping, close, payload[:2]) == (PING, CLOSE, b"\x03\xf3")
                    assert payload[2:].startswith(b"no answer to a ping for 0.5 s")


async def test_a_peer_that_vanishes_while_it_is_sent_to_is_cut_after_send_timeout(impatient: Process) -> None:
    """What the kernel has not taken is kept for `send_timeout`: the send buffer and one message."""
    with healthy(impatient):
        before = impatient.descriptors()
        with impatient.grows_at_most(2 * (rawws.Limits().max_send_buffer + rawws.Limits().max_message_size)):
            async with impatient.peers(2, "/echo", narrow=True) as clients:
                for client in clients:
                    with trio.move_on_after(0.3):
                        await push(client, frame(TEXT, bytes(100_000)) * 100)
                await eventually(lambda: impatient.descriptors() == before, 5)


async def test_a_slow_peer_that_reads_steadily_is_not_cut(impatient: Process) -> None:
    """A socket asks for more when a third of the kernel's buffer is free: a slow peer may not come that far in time."""
    text = frame(TEXT, b"x" * 100_000)
    with healthy(impatient):
        async with impatient.peers(1, "/echo", narrow=True) as (client,), trio.open_nursery() as nursery:
            nursery.start_soon(push, client, text * 30)
            for _ in range(60):
                await client.exactly(10_000)  # 200 KB a second, for three times `send_timeout`
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()


async def test_an_answer_that_nobody_reads_is_no_reason_to_keep_a_descriptor(impatient: Process) -> None:
    """A page goes out of memory that all share; of an answer that does not leave nothing more is kept."""
    with healthy(impatient):
        before = impatient.descriptors()
        with impatient.grows_at_most(10 * 4 * READ):
            async with impatient.peers(10, narrow=True) as clients, trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(push, client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
                await eventually(lambda: impatient.descriptors() == before, 8)
                nursery.cancel_scope.cancel()


async def test_downloads_that_nobody_reads_share_the_file(tmp_path: Path) -> None:
    """A file goes out of memory that all share; of a download that does not leave nothing else is kept."""
    (tmp_path / "large").write_bytes(random.Random(5).randbytes(16 * MIB))
    with serve(f"--static={tmp_path}") as server, healthy(server), server.grows_at_most(10 * 4 * READ):
        async with server.peers(10, narrow=True) as clients:
            for client in clients:
                await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await client.exactly(17)) == b"HTTP/1.1 200 OK\r\n"


async def test_messages_that_were_read_before_a_peer_vanished_are_answered(impatient: Process) -> None:
    async with impatient.peers(1, "/echo") as (client,):
        told = await attack(client, frame(TEXT, b"last words"))
    assert told[0] == (TEXT, b"last words")
