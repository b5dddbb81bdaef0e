"""Many at once: half-open handshakes, no descriptor left, clients that open and reset."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress

import pytest
import trio

import rawws
from rawws.transport import READ_SIZE
from tests.hostile.serving import descriptors, eventually, healthy, serve
from tests.raw_client import TEXT, frame, handshake

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LIMITS = rawws.Limits()
CROWD = 10_000
BATCH = 100
KIB = 1024
HALF = handshake("/echo")[:-2]
"""A handshake but for its last line end."""


async def test_ten_thousand_half_open_handshakes_leave_room_for_whole_ones() -> None:
    """Of heads that are not complete `max_pending_handshakes` are kept; the others are refused, and each costs under
    6 KiB until it has read why; however fast they come, they do not count against `max_connections` meanwhile."""
    with descriptors(CROWD + 500) as allowed, serve() as server, healthy(server):
        crowd = allowed // BATCH * BATCH - 500
        before = server.descriptors()
        socks: list[socket.socket] = []
        try:
            with server.grows_at_most(LIMITS.max_pending_handshakes * LIMITS.max_head_size + crowd * 6 * KIB):
                for _ in range(0, crowd, BATCH):
                    for _ in range(BATCH):
                        socks.append(socket.socket())
                        socks[-1].setblocking(False)
                        assert socks[-1].connect_ex(("127.0.0.1", server.port)) in (0, errno.EINPROGRESS)
                    for sock in socks[-BATCH:]:
                        await trio.lowlevel.wait_writable(sock)
                        with suppress(ConnectionError):  # it has been cut already
                            sock.send(HALF)
                async with server.peers(1, "/echo") as (client,):
                    await client.send(frame(TEXT, b"through"))
                    assert await client.frame() == (TEXT, b"through")
                    # The crowd is down to those that are pending, and the newest of them is still served.
                    most = LIMITS.max_pending_handshakes + before + 1
                    await eventually(lambda: server.descriptors() <= most)
                    socks[-1].setblocking(True)
                    socks[-1].sendall(b"\r\n")
                    assert socks[-1].recv(100).startswith(b"HTTP/1.1 101 ")
        finally:
            for sock in socks:
                sock.close()
        await eventually(lambda: server.descriptors() == before)


async def test_without_descriptors_health_is_answered_and_the_connections_that_are_there_are_served() -> None:
    """A process without descriptors keeps those that it has, and one to answer others with."""
    few = 64
    with serve(descriptors=few) as server:
        with healthy(server):
            async with server.peers(1) as (kept,):
                await kept.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await kept.answer()).status == 200
                before = server.descriptors()
                with server.grows_at_most(few * 64 * KIB):
                    async with server.peers(3 * few):
                        await eventually(lambda: server.descriptors() == few)
                        for _ in range(5):
                            # On a new connection, on one from before, and nothing else on a new one.
                            assert await server.get("/health") == b"HTTP/1.1 200 OK"
                            await kept.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                            assert (await kept.answer()).status == 200
                            assert await server.get("/") == b"HTTP/1.1 503 Service Unavailable"
                            assert await server.get("/echo") == b"HTTP/1.1 503 Service Unavailable"
                    await eventually(lambda: server.descriptors() == before)
                async with server.peers(20, "/echo/task") as clients:
                    for client in clients:
                        await client.send(frame(TEXT, b"recovered"))
                        assert await client.frame() == (TEXT, b"recovered")
        server.terminate(said="WARNING rawws: no connection can be accepted for now: Too many open files\n")


STAGES = {
    "nothing": b"",
    "half a handshake": HALF,
    "a handshake": handshake("/echo"),
    "messages": handshake("/echo/task") + frame(TEXT, b"x" * 1000) * 20,
    "half a message": handshake("/broadcast") + frame(TEXT, b"x" * 1000)[:500],
}


async def test_clients_that_open_and_reset_leave_nothing_behind() -> None:
    """Of a connection that was reset nothing is kept: those of the moment cost a read and a connection each."""
    no_linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, for 0 seconds: close sends RST
    at_a_time = 50
    with serve() as server, healthy(server):
        before = server.descriptors()
        with server.grows_at_most(at_a_time * (READ_SIZE + 16 * KIB)):
            for number in range(3000):
                with socket.create_connection(("127.0.0.1", server.port)) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
                    sock.sendall(list(STAGES.values())[number % len(STAGES)])
                if number % at_a_time == 0:
                    await eventually(lambda: server.descriptors() <= before)
        await eventually(lambda: server.descriptors() == before)
