"""Peers that drip a byte now and then: each phase of a connection ends when its time is over, whatever arrives.

The times are a second instead of ten, and a byte comes every tenth of one.
"""

from __future__ import annotations

import ssl
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trustme

import rawws
from rawws.transport import READ_SIZE
from tests.hostile.serving import MIB, Process, eventually, frames, healthy, serve
from tests.raw_client import BINARY, CLOSE, CLOSE_1000, PING, Client, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PHASE = 1.0
"""Seconds that each phase may take here."""
EARLY, LATE = 0.15, 0.5
"""Seconds between what the two processes call the beginning, and that a loaded machine may be late."""
REFUSAL = 1.0
"""Seconds that a client has to read why it is refused, before it is cut."""
PEERS = 20
PHASES = ("head-timeout", "accept-timeout", "close-timeout", "shutdown-timeout", "ping-interval", "ping-timeout")
TIMES = [f"--{name}={PHASE}" for name in PHASES]
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 500


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with serve(*TIMES) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    chain = tmp_path_factory.mktemp("tls") / "chain.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
    with serve(*TIMES, f"--tls-cert={chain}") as server:
        yield server


class Dripped(NamedTuple):
    """What became of a peer that dripped."""

    received: bytes
    answered: float
    """Seconds until the server's first byte, or its end."""
    ended: float
    """Seconds until the server took no more bytes, or there were no more to send."""


async def drip(clients: list[Client], data: bytes) -> list[Dripped]:
    """Let peers drip the same, whatever the server says, until it cuts them."""
    told: list[Dripped] = []

    async def one(client: Client) -> None:
        began = trio.current_time()
        received, answered = bytearray(), 0.0

        async def read() -> None:
            nonlocal answered
            while True:
                try:
                    data = await client.stream.receive_some()
                except trio.BrokenResourceError:
                    return
                finally:
                    answered = answered or trio.current_time() - began
                if not data:
                    return
                received.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                for byte in data:
                    await client.send(bytes((byte,)))
                    await trio.sleep(0.1)
            except trio.BrokenResourceError:
                pass
            ended = trio.current_time() - began
            nursery.cancel_scope.cancel()
        told.append(Dripped(bytes(received), answered, ended))

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(one, client)
    return told


async def test_a_head_that_drips_gets_408_when_its_time_is_over(server: Process) -> None:
    """A head that is not complete holds what has come of it, at most `max_head_size`."""
    with healthy(server):
        before = server.descriptors()
        with server.grows_at_most(PEERS * rawws.Limits().max_head_size):
            async with server.peers(PEERS) as clients:
                told = await drip(clients, HEAD)
        await eventually(lambda: server.descriptors() == before)
    assert all(one.received.startswith(b"HTTP/1.1 408 ") for one in told)
    assert all(PHASE - EARLY < one.answered < PHASE + LATE for one in told)
    assert all(one.ended < PHASE + REFUSAL + LATE for one in told)


async def test_the_next_head_on_a_kept_connection_has_as_much_time(server: Process) -> None:
    with healthy(server):
        async with server.peers(PEERS) as clients:
            for client in clients:
                await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for client in clients:
                assert (await client.answer()).status == 200
            told = await drip(clients, HEAD)
    assert all(one.received.startswith(b"HTTP/1.1 408 ") for one in told)
    assert all(PHASE - EARLY < one.answered < PHASE + LATE for one in told)
    assert all(one.ended < PHASE + REFUSAL + LATE for one in told)


async def test_a_tls_handshake_that_drips_is_ended_when_the_time_of_the_head_is_over(tls_server: Process) -> None:
    """TLS that is not established holds OpenSSL's state of it and the tasks of its driver: under 128 KiB."""
    outgoing = ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    before = tls_server.descriptors()
    with tls_server.grows_at_most(PEERS * 128 * 1024):
        async with tls_server.peers(PEERS) as clients:
            told = await drip(clients, outgoing.read())
    await eventually(lambda: tls_server.descriptors() == before)
    assert all(one.received == b"" for one in told)
    assert all(PHASE - EARLY < one.answered < PHASE + LATE for one in told)
    assert all(one.ended < PHASE + REFUSAL + LATE for one in told)


async def test_a_head_that_drips_within_tls_has_no_more_time(tls_server: Process, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with tls_server.peers(5) as clients:
        streams = [trio.SSLStream(client.stream, context, server_hostname="localhost") for client in clients]
        for stream in streams:
            await stream.do_handshake()
        told = await drip([Client(stream) for stream in streams], HEAD)
    assert all(one.received.startswith(b"HTTP/1.1 408 ") for one in told)
    assert all(PHASE - EARLY < one.answered < PHASE + LATE for one in told)
    assert all(one.ended < PHASE + REFUSAL + LATE for one in told)


async def test_a_message_that_drips_is_life_and_takes_no_more_than_a_connection(server: Process) -> None:
    """A slow sender is no attacker: what it costs is a connection, what has come of one message, and one read."""
    message = frame(BINARY, bytes(14))  # 20 bytes: two seconds, longer than a peer may be silent
    with healthy(server), server.grows_at_most(PEERS * READ_SIZE):
        async with server.peers(PEERS, "/echo") as clients:
            told = await drip(clients, message + b"\x82\x8e")
    assert all(list(frames(one.received)) == [(BINARY, bytes(14))] for one in told)


async def test_a_message_that_stops_in_the_middle_gets_1011_when_the_ping_is_not_answered(server: Process) -> None:
    with healthy(server):
        async with server.peers(1, "/echo") as (client,):
            began = trio.current_time()
            await client.send(frame(BINARY, bytes(20))[:10])
            (ping, _), (close, payload) = frames(await client.ended())
            assert 2 * PHASE - EARLY < trio.current_time() - began < 2 * PHASE + LATE
    assert (ping, close, payload[:2], b"1 s" in payload) == (PING, CLOSE, b"\x03\xf3", True)


async def test_a_close_that_is_not_answered_is_cut_when_its_time_is_over_whatever_drips(server: Process) -> None:
    """While the peer's Close frame is waited for, what arrives is read and thrown away."""
    with healthy(server), server.grows_at_most(PEERS * READ_SIZE):
        async with server.peers(PEERS, "/communicate") as clients:
            for client in clients:
                await client.send(frame(BINARY, b"this path takes text only"))
            told = await drip(clients, frame(PING, b"x") * 30)
    assert all(next(frames(one.received)) == (CLOSE, b"\x03\xebtext only") for one in told)
    assert all(PHASE - EARLY < one.ended < PHASE + LATE for one in told)


async def test_an_end_of_tcp_that_does_not_come_is_cut_when_its_time_is_over_whatever_drips(server: Process) -> None:
    """After both Close frames what arrives is read and thrown away, until the peer's FIN."""
    with healthy(server):
        before = server.descriptors()
        with server.grows_at_most(PEERS * READ_SIZE):
            async with server.peers(PEERS, "/echo") as clients:
                for client in clients:
                    await client.send(CLOSE_1000)
                told = await drip(clients, bytes(50))
        await eventually(lambda: server.descriptors() == before)
    assert all(one.received == b"\x88\x02\x03\xe8" for one in told)
    assert all(PHASE - EARLY < one.ended < PHASE + LATE for one in told)


async def test_a_shutdown_waits_no_longer_than_its_time_for_peers_that_say_nothing() -> None:
    with serve(*TIMES) as server:
        async with server.peers(1) as (head,), server.peers(5, "/echo/task") as clients:
            await head.send(HEAD)
            for client in clients:
                await client.send(frame(BINARY, bytes(MIB))[:100])
            began = time.monotonic()
            server.terminate()
            assert time.monotonic() - began < PHASE + LATE
