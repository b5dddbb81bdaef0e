"""Messages in pieces, over each driver: what the peer reads, and what becomes of what is not completed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from rawws import CloseCode, ConnectionClosed, Limits, SendStatus

from .drivers import (
    BINARY,
    CONTINUATION,
    DRIVERS,
    PING,
    PONG,
    TEXT,
    Driver,
    DriverName,
    close,
    frame,
    settle,
)

KIB = 1024
MIB = 1024 * 1024
FAST = Limits(accept_timeout=1e6, close_timeout=1e6, ping_interval=1e6, send_timeout=1e6)
"""Limits whose deadlines no test reaches."""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    name: DriverName = request.param
    return Driver(name)


class TestPieces:
    async def test_message_leaves_in_pieces(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            async with ws.message_writer(text=True) as writer:
                await writer.write("a")
                assert await peer.fragment() == (TEXT, b"a")  # it does not wait for the rest
                await writer.write("")  # says nothing
                await writer.write("ä")
            assert [await peer.fragment() for _ in range(2)] == [(CONTINUATION, "ä".encode()), (0x80, b"")]
            async with ws.message_writer(text=False) as writer:
                await writer.write(bytearray(b"\0"))
                await writer.write(memoryview(b"\1"))
            assert [await peer.fragment() for _ in range(3)] == [(BINARY, b"\0"), (CONTINUATION, b"\1"), (0x80, b"")]
            async with ws.message_writer():
                pass
            assert await peer.fragment() == (0x80 | TEXT, b"")
            assert ws.messages_sent == 3

    async def test_writer_may_be_used_again_but_not_outside_of_its_block(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            writer = ws.message_writer()
            with pytest.raises(RuntimeError):
                await writer.write("early")
            for _ in range(2):
                async with writer:
                    await writer.write("x")
                assert [await peer.fragment() for _ in range(2)] == [(TEXT, b"x"), (0x80, b"")]
                with pytest.raises(RuntimeError):
                    await writer.write("late")

    async def test_other_messages_queue_behind_and_control_frames_pass(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            async with ws.message_writer() as writer:
                await writer.write("one")
                assert ws.send_nowait("behind") is SendStatus.QUEUED
                await ws.send(b"too")
                shared = bytearray(b"copied")
                await ws.send(shared)
                shared[:] = b"change"
                with pytest.raises(TypeError):
                    ws.send_nowait(7)  # type: ignore[arg-type]
                with pytest.raises(ValueError):  # noqa: PT011
                    ws.send_nowait("\ud800")
                assert ws.ping_nowait(b"p")
                await peer.send(frame(PING, b"q"))
                assert [await peer.fragment() for _ in range(3)] == [
                    (TEXT, b"one"),
                    (0x80 | PING, b"p"),
                    (0x80 | PONG, b"q"),
                ]
                assert ws.send_buffer == 3 * 64  # what is short counts for its place in the queue
                await writer.write("two")
            assert [await peer.fragment() for _ in range(2)] == [(CONTINUATION, b"two"), (0x80, b"")]
            assert [await peer.frame() for _ in range(3)] == [(TEXT, b"behind"), (BINARY, b"too"), (BINARY, b"copied")]

    async def test_second_writer_waits_for_the_first(self, driver: Driver) -> None:
        async def write(letter: str) -> None:
            async with ws.message_writer() as writer:
                for _ in range(3):
                    await writer.write(letter)
                    await settle(3)

        async with driver.open() as (ws, peer):
            async with trio.open_nursery() as nursery:
                for letter in "ab":
                    nursery.start_soon(write, letter)
            pieces = b"".join([(await peer.fragment())[1] for _ in range(8)])
            assert pieces in (b"aaabbb", b"bbbaaa")

    async def test_cancellation_aborts_a_begun_message_with_1011(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            with trio.CancelScope() as scope:
                async with ws.message_writer() as writer:
                    await writer.write("begun")
                    ws.send_nowait("lost")
                    scope.cancel()
                    await writer.write("cancelled")
            assert await peer.fragment() == (TEXT, b"begun")
            assert (await peer.close_frame())[0] == 1011
            with pytest.raises(ConnectionClosed):
                async with ws.message_writer():
                    pass

    async def test_cancellation_at_the_last_frame_aborts_with_1011(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=Limits(max_send_buffer=1000, send_timeout=1e6)) as (ws, peer):
            with trio.CancelScope() as scope:
                async with ws.message_writer(text=False) as writer:
                    with trio.move_on_after(1e6) as inner:
                        await writer.write(bytes(20_000_000))
                    assert not inner.cancelled_caught
                    scope.cancel()
            assert scope.cancelled_caught
            assert await peer.fragment() == (BINARY, bytes(20_000_000))
            assert (await peer.close_frame())[0] == 1011

    async def test_leaving_before_the_first_piece_sends_nothing(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            with pytest.raises(KeyError):  # noqa: PT012
                async with ws.message_writer():
                    ws.send_nowait("behind")
                    raise KeyError
            assert await peer.text() == "behind"
            assert ws.closed is None

    @pytest.mark.parametrize(("text", "piece"), [(True, b"x"), (False, "x"), (False, 5), (True, None)])
    async def test_wrong_type_aborts_with_1011(self, driver: Driver, text: bool, piece: Any) -> None:
        async with driver.open() as (ws, peer):
            with pytest.raises(TypeError):  # noqa: PT012
                async with ws.message_writer(text=text) as writer:
                    await writer.write("a" if text else b"a")
                    await writer.write(piece)
            assert await peer.fragment() == (TEXT if text else BINARY, b"a")
            assert (await peer.close_frame())[0] == 1011

    async def test_write_waits_for_room(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=FAST) as (ws, peer):
            written = 0

            async def write() -> None:
                nonlocal written
                async with ws.message_writer(text=False) as writer:
                    for _ in range(500):
                        await writer.write(bytes(64 * KIB))
                        written += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await settle(2000)
                assert written < 500
                assert ws.send_buffer <= MIB + 64 * KIB + 10
                size = 0
                while size < 500 * 64 * KIB:
                    size += len((await peer.fragment())[1])
                assert await peer.fragment() == (0x80, b"")

    async def test_end_of_the_connection_ends_a_waiting_writer(self, driver: Driver) -> None:
        async with driver.open(narrow=True, limits=FAST) as (ws, peer):
            with pytest.raises(ConnectionClosed):  # noqa: PT012
                async with ws.message_writer(text=False) as writer:
                    while ws.send_buffer < MIB:
                        await writer.write(bytes(64 * KIB))
                    peer.cut()
                    while True:
                        await writer.write(bytes(64 * KIB))

    async def test_chunks_come_as_they_arrive(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            chunks = ws.receive_chunks()
            assert aiter(chunks) is chunks
            await peer.send(frame(TEXT, b"a\xc3", fin=False))
            assert await anext(chunks) == "a"
            await peer.send(frame(PING, b"p") + frame(CONTINUATION, b"\xa4b", fin=False))
            assert await anext(chunks) == "äb"
            assert await peer.frame() == (PONG, b"p")
            await peer.send(frame(CONTINUATION, b"c") + frame(TEXT, b"next"))
            assert await anext(chunks) == "c"
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)
            assert await ws.receive() == "next"

    async def test_chunks_of_one_large_frame(self, driver: Driver) -> None:
        payload = bytes(range(250)) * 400
        data = frame(BINARY, payload)
        async with driver.open() as (ws, peer):
            chunks = ws.receive_chunks()
            got = b""
            for at in range(0, len(data), 9973):
                await peer.send(data[at : at + 9973])
                chunk = await anext(chunks)
                assert isinstance(chunk, bytes)
                got += chunk
            assert got == payload

    async def test_chunks_of_a_queued_a_whole_and_an_empty_message(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"queued") + frame(BINARY) + frame(TEXT, b"", fin=False) + frame(CONTINUATION))
            await settle()
            assert [chunk async for chunk in ws.receive_chunks()] == ["queued"]
            assert [chunk async for chunk in ws.receive_chunks()] == [b""]
            assert [chunk async for chunk in ws.receive_chunks()] == [""]

    async def test_chunk_that_ends_empty_is_no_chunk(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            chunks = ws.receive_chunks()
            await peer.send(frame(TEXT, b"a", fin=False))
            assert await anext(chunks) == "a"
            await peer.send(frame(CONTINUATION))
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)

    async def test_what_is_left_of_a_message_is_received_next(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"be", fin=False))
            async for chunk in ws.receive_chunks():
                assert chunk == "be"
                break
            await peer.send(frame(CONTINUATION, b"gun"))
            assert await ws.receive() == "gun"

    async def test_cancelled_chunk_is_not_lost(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            chunks = ws.receive_chunks()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(anext, chunks))
                    await settle()
                    scope.cancel()
            await peer.send(frame(TEXT, b"here"))
            assert [chunk async for chunk in chunks] == ["here"]

    async def test_chunks_end_with_the_connection(self, driver: Driver) -> None:
        async with driver.open() as (ws, peer):
            await peer.send(frame(TEXT, b"be", fin=False) + close(1001))
            chunks = ws.receive_chunks()
            with pytest.raises(ConnectionClosed) as caught:  # noqa: PT012
                while True:
                    assert await anext(chunks) == "be"
            assert (caught.value.code, caught.value.by) == (1001, "peer")

    async def test_size_limit_holds_for_all_pieces_together(self, driver: Driver) -> None:
        async with driver.open(limits=Limits(max_message_size=1000)) as (ws, peer):
            chunks = ws.receive_chunks()
            for _ in range(2):
                await peer.send(frame(BINARY if not ws.bytes_received else CONTINUATION, bytes(500), fin=False))
                assert await anext(chunks) == bytes(500)
            await peer.send(frame(CONTINUATION, b"x", fin=False))
            with pytest.raises(ConnectionClosed) as caught:
                await anext(chunks)
            assert caught.value.code == CloseCode.MESSAGE_TOO_BIG
