"""The small applications of the command, over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from rawws.backplane import BackplaneError, MemoryBackplane
from rawws.echo import applications
from tests.raw_client import BINARY, CLOSE, CLOSE_1000, TEXT, Client, connected, frame, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import rawws


@pytest.fixture
async def server() -> AsyncIterator[rawws.Server]:
    async with serving(applications()) as server:
        yield server


@pytest.fixture
async def client(server: rawws.Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


@pytest.mark.parametrize("path", ["/echo", "/echo/task"])
async def test_echo_sends_every_message_back_as_it_came(client: Client, path: str) -> None:
    await client.open(path)
    await client.send(frame(TEXT, b"text") + frame(BINARY, b"\x00\xff") + frame(TEXT))
    assert await client.frame() == (TEXT, b"text")
    assert await client.frame() == (BINARY, b"\x00\xff")
    assert await client.frame() == (TEXT, b"")
    await client.send(CLOSE_1000)
    assert await client.closed() == (1000, "")


async def test_communicate_answers_each_text_to_its_sender_alone(server: rawws.Server, client: Client) -> None:
    async with connected(server) as other:
        await client.open("/communicate")
        await other.open("/communicate")
        await client.send(frame(TEXT, b"hello") + frame(TEXT, "\N{SNOWMAN}".encode()) + frame(TEXT))
        await other.send(frame(TEXT, b"other"))
        assert await client.frame() == (TEXT, b"Received:hello")
        assert await client.frame() == (TEXT, "Received:\N{SNOWMAN}".encode())
        assert await client.frame() == (TEXT, b"Received:")
        assert await other.frame() == (TEXT, b"Received:other")


async def test_communicate_says_goodbye_before_it_answers_a_close(client: Client) -> None:
    await client.open("/communicate")
    await client.send(frame(TEXT, b"hello") + CLOSE_1000)
    assert await client.frame() == (TEXT, b"Received:hello")
    assert await client.frame() == (TEXT, b"Bye!!!")
    assert await client.closed() == (1000, "")


async def test_communicate_takes_text_only(client: Client) -> None:
    await client.open("/communicate")
    await client.send(frame(TEXT, b"before") + frame(BINARY, b"\x00") + frame(TEXT, b"after"))
    assert await client.frame() == (TEXT, b"Received:before")
    assert await client.frame() == (CLOSE, b"\x03\xebtext only")  # without a goodbye
    await client.send(frame(CLOSE, b"\x03\xeb"))
    assert await client.ended() == b""


async def test_communicate_says_no_goodbye_after_a_failure(client: Client) -> None:
    await client.open("/communicate")
    await client.send(b"\x81\x05hello")  # not masked
    code, _ = await client.closed()
    assert code == 1002


async def test_communicate_says_goodbye_at_shutdown(server: rawws.Server, client: Client) -> None:
    await client.open("/communicate")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.shutdown)
        assert await client.frame() == (TEXT, b"Bye!!!")
        assert await client.frame() == (CLOSE, b"\x03\xe9server shutdown")
        await client.send(frame(CLOSE, b"\x03\xe9"))
        assert await client.ended() == b""
        await client.stream.aclose()


async def test_broadcast_sends_every_message_as_it_came_to_all_on_its_path(
    server: rawws.Server, client: Client
) -> None:
    async with connected(server) as other, connected(server) as elsewhere:
        await client.open("/broadcast")
        await other.open("/broadcast")
        await elsewhere.open("/echo")
        await client.send(frame(TEXT, b"text") + frame(BINARY, b"\x00\xff"))
        for member in (client, other):
            assert await member.frame() == (TEXT, b"text")
            assert await member.frame() == (BINARY, b"\x00\xff")
        await elsewhere.send(frame(TEXT, b"own"))
        assert await elsewhere.frame() == (TEXT, b"own")
        await other.send(CLOSE_1000)
        assert await other.closed() == (1000, "")
        await client.send(frame(TEXT, b"alone"))
        assert await client.frame() == (TEXT, b"alone")


@pytest.mark.parametrize("path", ["/communicate", "/broadcast"])
async def test_a_peer_that_vanishes_is_forgotten(server: rawws.Server, path: str) -> None:
    app = applications()[path]
    async with serving({path: app}) as server:
        async with connected(server) as client:
            await client.open(path)
            assert len(app.manager.active_connections) == 1  # type: ignore[union-attr]
        with trio.fail_after(5):
            while app.manager.active_connections:  # type: ignore[union-attr]
                await trio.lowlevel.checkpoint()


class Unreachable(MemoryBackplane):
    """Passes nothing on."""

    async def relay(self, channel: str, message: str | bytes) -> None:
        raise BackplaneError("no connection")


async def test_a_broadcast_over_a_backplane_is_as_one_without() -> None:
    shared = MemoryBackplane()
    async with (
        serving(applications(shared)) as one,
        serving(applications(shared)) as two,
        connected(one) as client,
        connected(two) as other,
    ):
        await client.open("/broadcast")
        await other.open("/broadcast")
        await other.send(frame(TEXT, b"here"))  # who hears itself is among them
        assert await other.frame() == (TEXT, b"here")
        assert await client.frame() == (TEXT, b"here")
        await client.send(frame(TEXT, b"text") + frame(BINARY, b"\x00\xff"))
        for member in (client, other):
            assert await member.frame() == (TEXT, b"text")
            assert await member.frame() == (BINARY, b"\x00\xff")
        await client.send(CLOSE_1000)
        assert await client.closed() == (1000, "")


async def test_a_broadcast_that_cannot_be_passed_on_ends_its_senders_connection() -> None:
    async with serving(applications(Unreachable())) as server, connected(server) as client:
        await client.open("/broadcast")
        await client.send(frame(TEXT, b"text"))
        assert await client.frame() == (CLOSE, b"\x03\xf5messages cannot be passed on")
