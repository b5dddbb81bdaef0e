"""The reactor alone, with receivers that write down what they are told: its rules, one by one."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import socket
import struct
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from rawws.reactor import Reactor, is_supported
from rawws.socket_transport import SocketTransport
from rawws.transport import HIGH_WATER, LOW_WATER, READ_SIZE

from .drivers import Script, jumping_clock, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

pytestmark = pytest.mark.skipif(not is_supported(), reason="the reactor needs Linux")

KIB = 1024


@pytest.fixture
def clock() -> MockClock:
    return jumping_clock()


@asynccontextmanager
async def running(stall_timeout: float = 10.0) -> AsyncIterator[Reactor]:
    reactor = Reactor(stall_timeout=stall_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        yield reactor
        nursery.cancel_scope.cancel()


class Ends:
    """A connection of a reactor: its receiver, and the peer's socket."""

    def __init__(self, reactor: Reactor, *, tcp: bool = False, **on: Callable[..., Any]) -> None:
        ours, theirs = tcp_pair() if tcp else socket.socketpair()
        theirs.setblocking(False)
        self.peer = theirs
        self.script: Script

        def greet(transport: SocketTransport, address: object) -> Script:
            self.script = Script(transport, **on)
            return self.script

        reactor.adopt(ours, greet, None)
        self.transport = self.script.transport

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    def reset(self) -> None:
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()

    def read(self) -> bytes:
        """What the peer has received; b"" also at its end."""
        data = b""
        try:
            while more := self.peer.recv(1 << 20):
                data += more
        except BlockingIOError:
            pass
        return data

    def at_end(self) -> bool:
        try:
            return self.peer.recv(1) == b""
        except BlockingIOError:
            return False

    def fill(self) -> int:
        """Write until the peer is behind; how many bytes that took."""
        written = 0
        while not self.transport.blocked:
            self.transport.write(bytes(READ_SIZE))
            written += READ_SIZE
            self.transport.flush()
        return written


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        return server, client


async def read_much(reactor: Reactor) -> None:
    """Have the reactor's next batch read as much as there is of each connection."""
    with Ends(reactor) as ends:
        ends.peer.send(bytes(20_000))
        await settle()


async def eventually(what: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not what():  # noqa: ASYNC110
            await trio.sleep(0.001)


class TestMoving:
    async def test_bytes_go_both_ways_and_replies_of_one_read_leave_in_one_piece(self) -> None:
        def reply(transport: SocketTransport, data: bytes) -> None:
            for byte in data:
                transport.write(bytes((byte,)))
            assert ends.read() == b""  # corked

        async with running() as reactor:
            with Ends(reactor, data=reply) as ends:
                ends.peer.send(b"abc")
                await settle()
                assert ends.read() == b"abc"
                assert ends.transport.queued == 0
                assert not ends.transport.blocked

    async def test_write_of_a_task_leaves_at_once_and_with_more_soon(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                await settle()  # the reactor sleeps
                ends.transport.write(b"now")
                assert ends.read() == b"now"
                ends.transport.write(b"a", more=True)
                ends.transport.write(b"b", more=True)
                assert ends.read() == b""
                assert ends.transport.queued == 2
                await settle(2)
                assert ends.read() == b"ab"
                ends.transport.write(b"c", more=True)
                ends.transport.flush()
                assert ends.read() == b"c"

    async def test_peer_that_is_behind_and_catches_up(self) -> None:
        more = [b"x" * HIGH_WATER] * 20

        def refill(transport: SocketTransport) -> None:
            assert transport.queued <= LOW_WATER
            while more and transport.queued <= HIGH_WATER:
                transport.write(more.pop())

        async with running() as reactor:
            with Ends(reactor, drained=refill) as ends:
                written = ends.fill()
                assert ends.transport.queued > 0
                ends.transport.write(b"small")
                size = 0
                while size < written + 5 + 20 * HIGH_WATER:
                    size += len(ends.read())
                    await settle(3)
                # Everything that waited above the transport left without anybody asking again.
                assert more == []
                assert ends.transport.queued == 0
                assert not ends.transport.blocked

    async def test_large_pieces_leave_without_being_joined(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                pieces = [b"a" * 10, b"b" * 300_000, b"c" * 70_000, b"d" * 10, b"e" * 70_000]
                for piece in pieces:
                    ends.transport.write(piece, more=True)
                got = b""
                while len(got) < 440_020:
                    got += ends.read()
                    await settle(2)
                assert got == b"".join(pieces)

    async def test_large_pieces_that_the_kernel_takes_whole_follow_each_other(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                assert ends.script.transport is ends.transport
                for letter in (b"a", b"b"):
                    ends.transport.write(letter * HIGH_WATER, more=True)
                ends.transport.flush()
                assert ends.read() == b"a" * HIGH_WATER + b"b" * HIGH_WATER

    async def test_paused_connection_is_not_read_and_not_in_the_set(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                ends.transport.pause()
                assert not _is_registered(reactor, ends)
                ends.peer.send(b"later")
                await settle()
                assert ends.script.names == []
                ends.transport.resume()
                await settle()
                assert ends.script.told == [("data", b"later")]

    async def test_connection_paused_by_another_in_the_same_batch_is_not_read_again(self) -> None:
        async with running() as reactor:

            def pause_both(transport: SocketTransport, data: bytes) -> None:
                one.transport.pause()
                two.transport.pause()
                one.peer.send(b"later")
                two.peer.send(b"later")

            with Ends(reactor, data=pause_both) as one, Ends(reactor, data=pause_both) as two:
                one.peer.send(b"1")
                two.peer.send(b"2")
                await settle()
                assert one.script.told == [("data", b"1")]
                assert two.script.told == [("data", b"2")]  # it had been read

    async def test_connection_paused_by_an_earlier_group_of_the_same_batch_is_not_read(self) -> None:
        async with running() as reactor:

            def pause_two(transport: SocketTransport, data: bytes) -> None:
                two.transport.pause()

            with Ends(reactor, data=pause_two) as one, Ends(reactor) as two:
                await read_much(reactor)
                one.peer.send(bytes(20_000))  # a group of its own
                two.peer.send(b"2")
                await settle()
                assert one.script.names == ["data"]
                assert two.script.names == []

    async def test_connections_are_read_from_before_they_are_served_and_answered(self) -> None:
        async with running() as reactor:

            def answer(transport: SocketTransport, data: bytes) -> None:
                assert isinstance(two.transport, SocketTransport)
                with pytest.raises(BlockingIOError):
                    two.transport._sock.recv(1)
                transport.write(data)
                with pytest.raises(BlockingIOError):
                    one.peer.recv(1)

            with Ends(reactor, data=answer) as one, Ends(reactor, data=answer) as two:
                one.peer.send(b"1")
                two.peer.send(b"2")
                await settle()
                assert (one.read(), two.read()) == (b"1", b"2")

    async def test_reads_are_small_until_there_is_much_to_read(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                for size in (20_000, 20_000, 1, 20_000):
                    ends.peer.send(bytes(size))
                    await settle()
                assert [len(args[0]) for _, *args in ends.script.told] == [4096, 15_904, 20_000, 1, 4096, 15_904]

    async def test_spurious_event_is_no_end(self) -> None:
        """BlockingIOError is not EOF: here somebody else has taken what there was to read."""

        def steal(transport: SocketTransport, data: bytes) -> None:
            assert isinstance(two.transport, SocketTransport)
            assert two.transport._sock.recv(10) == b"2"

        async with running() as reactor:
            with Ends(reactor, data=steal) as one, Ends(reactor) as two:
                await read_much(reactor)
                one.peer.send(bytes(20_000))  # a group of its own
                two.peer.send(b"2")
                await settle()
                assert one.script.names == ["data"]
                assert two.script.names == []

    async def test_spurious_writability_is_no_progress(self, clock: MockClock) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                ends.fill()
                assert isinstance(ends.transport, SocketTransport)
                before = ends.transport._progress_at
                await trio.sleep(1)
                assert not ends.transport.attend(select.EPOLLOUT, trio.current_time())
                assert ends.transport.blocked
                assert ends.transport._progress_at == before


class PolledEpoll:
    """An epoll descriptor with a clock: what is polled in vain takes time, and then what was prepared happens."""

    SECONDS: Final = 2.0**-16

    def __init__(self, reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
        self._epoll = reactor.epoll
        self._now = 0.0
        self.polls = 0
        self.answers: list[Callable[[], object]] = []
        """What happens, one after the other, when something was polled in vain for the second time."""
        self._in_vain = 0
        reactor.epoll = self  # type: ignore[assignment]  # all of it that is used
        monkeypatch.setattr("rawws.loop.perf_counter", lambda: self._now)
        monkeypatch.setattr("rawws.loop._BUSY_POLL_SECONDS", 3 * self.SECONDS)

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        events = self._epoll.poll(timeout, limit)
        if limit != 1:
            self._in_vain = 0
            return events
        self.polls += 1
        if not events:
            self._now += self.SECONDS
            self._in_vain += 1
            if self._in_vain == 2 and self.answers:
                self.answers.pop(0)()
        return events

    def fileno(self) -> int:
        return self._epoll.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class TestBusyPolling:
    """Whoever waits here sleeps: a test that has its turn would be a task that the loop must not keep waiting."""

    async def test_what_comes_at_once_is_served_before_the_loop_sleeps(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = 0

        class Waits(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                nonlocal waits
                waits += timeout > 0

        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            with Ends(reactor, data=lambda transport, data: transport.write(data)) as ends:
                await trio.sleep(1)
                reactor.credit = 0
                epoll.answers = [lambda: ends.peer.send(b"x")] * 40
                trio.lowlevel.add_instrument(Waits())
                ends.peer.send(b"x")
                await trio.sleep(1)
                assert ends.script.told == [("data", b"x")] * 41
                assert ends.read() == b"x" * 41
                assert waits < 5  # of 41 echoes
                # 32 is all that can be saved, and the last one was in vain.
                assert reactor.credit == 28
                # What was polled is not counted as work, and nothing else took time.
                assert reactor.busy_seconds == 0.0

    async def test_what_is_in_vain_too_often_is_not_tried_for_a_while(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            with Ends(reactor) as ends:
                await trio.sleep(1)
                reactor.credit, epoll.polls = 4, 0
                credits = []
                for _ in range(4):
                    ends.peer.send(b"x")
                    await trio.sleep(1)
                    credits.append(reactor.credit)
                assert credits == [0, -256, -255, -254]
                assert epoll.polls == 2 * 3

    async def test_a_busy_loop_does_not_poll_on(self, clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """What has come meanwhile is left for the next batch: Trio has its turn, and more comes."""
        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            with Ends(reactor) as two, Ends(reactor, data=lambda *_: two.peer.send(b"2")) as one:
                await trio.sleep(1)
                reactor.credit, epoll.polls = 0, 0
                one.peer.send(b"1")
                await trio.sleep(1)
                assert two.script.told == [("data", b"2")]
                assert epoll.polls == 1
                assert reactor.credit == -255

    async def test_a_task_that_was_woken_has_its_turn_first(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running() as reactor, trio.open_nursery() as nursery:
            epoll = PolledEpoll(reactor, monkeypatch)
            woken = trio.Event()
            with Ends(reactor, data=lambda *_: woken.set()) as ends:
                nursery.start_soon(woken.wait)
                await trio.sleep(1)
                reactor.credit, epoll.polls = 8, 0
                ends.peer.send(b"x")
                await woken.wait()
                assert (reactor.credit, epoll.polls) == (8, 0)

    async def test_a_task_that_the_loop_can_not_see_waits_for_a_moment_only(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that has its turn in the same tick of Trio's, where Trio chooses who is the first."""
        served = []
        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            for _ in range(20):
                with Ends(reactor, data=lambda transport, data: transport.write(data)) as ends:
                    await trio.sleep(1)
                    reactor.credit = 8
                    epoll.answers = [partial(ends.peer.send, b"x")] * 40
                    ends.peer.send(b"x")
                    await trio.lowlevel.checkpoint()
                    served.append(len(ends.script.told))
                    await trio.sleep(1)
                    assert ends.script.told == [("data", b"x")] * 41
        assert 5 < max(served) < 10

    async def test_the_answer_to_what_a_task_sends_is_polled_for(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            with Ends(reactor) as ends:
                await trio.sleep(1)
                reactor.credit = 0
                epoll.answers = [lambda: ends.peer.send(b"answer")]
                ends.transport.write(b"question")
                assert ends.read() == b"question"  # it does not wait for the poll
                await trio.sleep(1)
                assert ends.script.told == [("data", b"answer")]

    async def test_what_tasks_send_while_there_is_no_credit_wakes_nobody(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running() as reactor:
            epoll = PolledEpoll(reactor, monkeypatch)
            with Ends(reactor) as ends:
                await trio.sleep(1)
                reactor.credit, epoll.polls = -1, 0
                ends.transport.write(b"question")
                await trio.sleep(1)
                assert (reactor.credit, epoll.polls) == (-1, 0)


def _is_registered(reactor: Reactor, ends: Ends) -> bool:
    assert isinstance(ends.transport, SocketTransport)
    try:
        reactor.epoll.modify(ends.transport._fd, select.EPOLLIN)
    except FileNotFoundError:
        return False
    return True


class TestEnds:
    async def test_fin_of_the_peer(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                ends.peer.send(b"last")
                ends.peer.shutdown(socket.SHUT_WR)
                await ends.script.ended.wait()
                assert ends.script.told == [("data", b"last"), ("eof", None)]
                assert ends.at_end()
                ends.transport.write(b"in vain")
                ends.transport.flush()
                ends.transport.resume()
                ends.transport.close(0)
                ends.transport.abort()
                ends.transport.wake_at(0)
                await settle()
                assert ends.script.names == ["data", "eof"]

    async def test_fin_while_bytes_are_queued(self) -> None:
        """The peer may still want what is queued to it; the receiver is told after it has left."""
        async with running() as reactor:
            with Ends(reactor) as ends:
                written = ends.fill()
                ends.peer.shutdown(socket.SHUT_WR)
                await settle()
                assert ends.script.names == []
                ends.transport.resume()  # what the receiver does meanwhile makes no busy loop
                await settle()
                size = 0
                while not ends.script.ended.is_set():
                    size += len(ends.read())
                    await settle(2)
                assert size + len(ends.read()) == written
                assert ends.script.names.count("eof") == 1

    async def test_fin_while_bytes_wait_to_leave_in_one_piece(self) -> None:
        def write_to(transport: SocketTransport, data: bytes) -> None:
            two.transport.write(b"from one")

        async with running() as reactor:
            with Ends(reactor, data=write_to) as one, Ends(reactor) as two:
                one.peer.send(b"x")
                two.peer.shutdown(socket.SHUT_WR)
                await two.script.ended.wait()
                assert two.read() == b"from one"

    async def test_reset_tells_the_error_once(self) -> None:
        async with running() as reactor:
            with Ends(reactor, tcp=True) as ends:
                ends.reset()
                await ends.script.ended.wait()
                assert ends.script.names == ["eof"]
                assert isinstance(ends.script.told[0][1], ConnectionResetError)

    async def test_what_the_peer_sent_before_a_reset_is_received(self) -> None:
        """A write that fails does not hide what the kernel had received before."""
        async with running() as reactor:
            with Ends(reactor, tcp=True) as ends:
                ends.transport.pause()
                ends.peer.send(b"last words")
                ends.reset()
                await settle()
                assert ends.script.names == []  # not in the set: the reset is not seen
                while not ends.script.ended.is_set():
                    ends.transport.write(b"x")
                    assert "eof" not in ends.script.names  # never from inside of a write
                    await settle(3)
                assert ends.script.names == ["data", "eof"]
                assert ends.script.received == b"last words"

    async def test_paused_connection_ends_after_its_queue(self) -> None:
        async with running() as reactor:
            for how in ("fin", "reset"):
                with Ends(reactor, tcp=True) as ends:
                    ends.transport.pause()
                    ends.peer.send(b"queue")
                    ends.peer.close() if how == "fin" else ends.reset()
                    await settle()
                    assert ends.script.names == []
                    ends.transport.resume()
                    await ends.script.ended.wait()
                    assert ends.script.names == ["data", "eof"]

    async def test_reset_of_a_paused_peer_that_is_behind_is_seen(self) -> None:
        async with running() as reactor:
            with Ends(reactor, tcp=True) as ends:
                ends.transport.pause()
                ends.peer.send(b"queue")
                ends.fill()
                ends.reset()
                await ends.script.ended.wait()
                assert ends.script.names == ["data", "eof"]

    async def test_flush_and_direct_write_that_fail_are_told_from_the_loop(self) -> None:
        async with running() as reactor:
            for more in (False, True):
                with Ends(reactor) as ends:
                    ends.transport.pause()
                    ends.peer.close()
                    ends.transport.write(b"x", more)
                    ends.transport.flush()
                    assert ends.script.names == []
                    await ends.script.ended.wait()
                    assert isinstance(ends.script.told[-1][1], BrokenPipeError)

    async def test_connection_lost_inside_anothers_callback(self) -> None:
        def write_to_all(transport: SocketTransport, data: bytes) -> None:
            for other in all_ends:
                other.transport.write(data)
                other.transport.flush()

        async with running() as reactor:
            all_ends = [Ends(reactor, data=write_to_all) for _ in range(5)]
            for ends in all_ends[1:]:
                ends.transport.pause()
                ends.peer.close()
            all_ends[0].peer.send(b"x")
            await settle()
            assert [ends.script.names for ends in all_ends] == [["data"]] + [["eof"]] * 4
            all_ends[0].peer.close()

    async def test_ends_cause_writes_and_writes_cause_ends(self) -> None:
        def tell_next(transport: SocketTransport, error: object) -> None:
            if chain:
                chain.pop().transport.write(b"your neighbour is gone")

        async with running() as reactor:
            chain = [Ends(reactor, eof=tell_next) for _ in range(10)]
            everyone = list(chain)
            for ends in everyone[:-1]:
                ends.transport.pause()
                ends.peer.close()
            chain.pop()
            everyone[-1].transport.abort()
            await settle(5)
            assert all(ends.script.names == ["eof"] for ends in everyone)
            everyone[-1].peer.close()

    async def test_abort_inside_a_callback(self) -> None:
        def abort(transport: SocketTransport, data: bytes) -> None:
            transport.write(b"lost")
            transport.abort()
            transport.write(b"lost")
            assert transport.queued == 0
            assert not transport.blocked

        async with running() as reactor:
            with Ends(reactor, data=abort) as ends:
                ends.peer.send(b"x")
                await ends.script.ended.wait()
                assert ends.script.names == ["data", "eof"]
                assert ends.read() == b""

    async def test_abort_resets_a_peer_that_is_behind(self) -> None:
        async with running() as reactor:
            with Ends(reactor, tcp=True) as ends:
                ends.fill()
                ends.transport.abort()
                await ends.script.ended.wait()
                with pytest.raises(ConnectionResetError):  # noqa: PT012
                    while True:
                        ends.read()
                        await settle(1)

    async def test_close_sends_what_is_queued_then_fin_then_discards(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                written = ends.fill()
                ends.transport.pause()
                ends.transport.close(inf)
                ends.transport.close(0)  # the first one counts
                ends.transport.pause()  # in vain
                ends.peer.send(b"discarded")
                size = 0
                while not ends.at_end():
                    size += len(ends.read()) + 1
                    await settle(2)
                assert size >= written
                ends.peer.send(b"discarded, too")
                await settle()
                assert ends.script.names == []
                ends.peer.close()
                await ends.script.ended.wait()
                assert ends.script.told == [("eof", None)]

    async def test_close_after_the_peers_fin_and_with_bytes_queued(self) -> None:
        async with running() as reactor:
            with Ends(reactor) as ends:
                written = ends.fill()
                ends.peer.shutdown(socket.SHUT_WR)
                await settle()
                ends.transport.close(inf)
                size = 0
                while not ends.script.ended.is_set():
                    size += len(ends.read())
                    await settle(2)
                assert size + len(ends.read()) == written
                assert ends.script.names == ["eof"]

    async def test_close_that_lingers_ends_at_its_deadline(self, clock: MockClock) -> None:
        async with running() as reactor:
            with Ends(reactor) as one, Ends(reactor) as two:
                two.fill()
                began = trio.current_time()
                one.transport.close(began + 3)
                two.transport.close(began + 4)
                await one.script.ended.wait()
                assert trio.current_time() - began == pytest.approx(3, abs=0.2)
                await two.script.ended.wait()
                assert trio.current_time() - began == pytest.approx(4, abs=0.2)

    async def test_close_of_a_connection_that_has_just_broken(self) -> None:
        async with running() as reactor:
            with Ends(reactor, tcp=True) as ends:
                ends.reset()
                ends.transport.close(inf)
                await ends.script.ended.wait()
                assert ends.script.names == ["eof"]

    async def test_descriptor_number_is_not_reused_inside_a_batch(self) -> None:
        """Two connections end, a third comes, in one batch: no event of one reaches another."""
        async with running() as reactor:
            received: list[Script] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                received.append(Script(transport))
                return received[-1]

            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                reactor.listen(listener.dup(), greet, refuse)
            for count in range(1, 21):
                with Ends(reactor) as one, Ends(reactor, data=lambda *_: one.transport.abort()) as two:
                    two.peer.send(b"x")
                    one.peer.send(b"stale")
                    with socket.create_connection(address) as client:
                        client.send(b"new")
                        await eventually(lambda: len(received) == count and received[-1].received == b"new")  # noqa: B023
                        await one.script.ended.wait()
                    await received[-1].ended.wait()
                    assert received[-1].names == ["data", "eof"]

    async def test_who_comes_in_the_batch_in_which_another_ends_comes_after_it(self) -> None:
        async with running() as reactor:
            order: list[str] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                order.append("comes")
                return Script(transport, eof=lambda *_: order.append("goes"))

            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                reactor.listen(listener.dup(), greet, refuse)
            for count in range(1, 11):
                client = socket.create_connection(address)
                await eventually(lambda: len(order) == 2 * count - 1)  # noqa: B023
                client.close()
            await eventually(lambda: len(order) == 20)
            assert order == ["comes", "goes"] * 10

    async def test_a_listener_that_was_closed_in_the_batch_in_which_it_was_ready_is_left_alone(self) -> None:
        def greet(transport: SocketTransport, address: object) -> Script:
            raise AssertionError("nobody is to come")

        async with running() as reactor:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                reactor.listen(listener.dup(), greet, refuse)
            with Ends(reactor, data=lambda *_: reactor.stop_listening()) as ends:
                ends.peer.send(b"x")
                with socket.create_connection(address) as client:
                    await settle()
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
                assert ends.script.names == ["data"]


class TestTime:
    async def test_deadlines_come_in_order_and_again(self, clock: MockClock) -> None:
        def due(name: str, transport: SocketTransport) -> float:
            order.append((name, round(trio.current_time() - began)))
            return trio.current_time() + 5 if len(order) < 5 else inf

        order: list[tuple[str, int]] = []
        async with running() as reactor:
            began = trio.current_time()
            with Ends(reactor, due=partial(due, "a")) as a, Ends(reactor, due=partial(due, "b")) as b:
                b.transport.wake_at(began + 3)
                a.transport.wake_at(began + 9)
                a.transport.wake_at(began + 2)
                a.transport.wake_at(began + 4)  # later than what is asked for already
                await trio.sleep(30)
        assert order == [("a", 2), ("b", 3), ("a", 7), ("b", 8), ("a", 12), ("b", 13)]

    async def test_due_that_asks_for_the_past_is_no_endless_loop(self, clock: MockClock) -> None:
        calls = 0

        def due(transport: SocketTransport) -> float:
            nonlocal calls
            calls += 1
            return -inf if calls < 5 else inf

        async with running() as reactor:
            with Ends(reactor, due=due) as ends:
                ends.transport.wake_at(trio.current_time())
                await trio.sleep(1)
        assert calls == 5

    async def test_peer_without_progress_stalls(self, clock: MockClock) -> None:
        async with running(stall_timeout=7) as reactor:
            with Ends(reactor, stalled=lambda transport, seconds: transport.abort()) as ends:
                ends.fill()
                await trio.sleep(5)
                while not ends.read():
                    pass
                began = trio.current_time()
                await settle()
                ends.fill()
                await ends.script.ended.wait()
                assert ("stalled", 7) in ends.script.told
                assert trio.current_time() - began == pytest.approx(7, abs=0.3)

    async def test_process_that_was_stopped_reads_before_it_blames(self, clock: MockClock) -> None:
        """Time passes with bytes in the kernel: everyone who sent something is read before deadlines count."""
        heard: set[object] = set()

        def due(transport: SocketTransport) -> float:
            if transport not in heard:
                transport.abort()
            return inf

        async with running() as reactor:
            many = [Ends(reactor, data=lambda transport, data: heard.add(transport), due=due) for _ in range(600)]
            for ends in many:
                ends.transport.wake_at(trio.current_time() + 5)
            await settle()
            for ends in many[1:]:
                ends.peer.send(b"alive")
            clock.jump(60)
            await eventually(lambda: many[0].script.ended.is_set())
            assert len(heard) == 599
            assert not any(ends.script.ended.is_set() for ends in many[1:])
            for ends in many:
                ends.peer.close()

    @pytest.mark.parametrize("attempt", range(10))  # Trio chooses whether the alarm rings before it reads or after
    async def test_process_that_was_stopped_reads_all_of_what_was_sent_before_it_blames(
        self, clock: MockClock, attempt: int
    ) -> None:
        heard = 0

        def data(transport: SocketTransport, data: bytes) -> None:
            nonlocal heard
            heard += len(data)

        def due(transport: SocketTransport) -> float:
            if heard < 20_000:
                transport.abort()
            return inf

        async with running() as reactor:
            with Ends(reactor, data=data, due=due) as ends:
                ends.transport.wake_at(trio.current_time() + 5)
                await settle()
                ends.peer.send(bytes(20_000))
                clock.jump(60)
                await eventually(lambda: heard == 20_000 or ends.script.ended.is_set())
                await settle()
                assert not ends.script.ended.is_set()

    async def test_deadlines_are_not_put_off_for_ever_by_a_busy_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rawws.loop._BATCH_EVENTS", 2)
        monkeypatch.setattr("rawws.loop._OVERDUE_SECONDS", 0.05)
        async with running() as reactor:
            busy = [Ends(reactor, data=lambda *_: None) for _ in range(4)]
            with Ends(reactor, due=lambda transport: transport.abort()) as ends:
                ends.transport.wake_at(trio.current_time())
                with trio.fail_after(20):
                    while not ends.script.ended.is_set():
                        for one in busy:
                            one.peer.send(b"x")
                        await settle(1)
            for one in busy:
                one.peer.close()

    async def test_batch_ends_after_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rawws.loop._BATCH_SECONDS", -1.0)
        async with running() as reactor:
            many = [Ends(reactor, data=lambda transport, _: transport.schedule()) for _ in range(40)]
            for ends in many:
                ends.peer.send(b"x")
            await settle(200)
            assert all(ends.script.names == ["data", "proceed"] for ends in many)
            for ends in many:
                ends.peer.close()

    async def test_batch_looks_again_while_no_task_waits_for_its_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that is woken has its turn next, whatever else has become ready."""
        monkeypatch.setattr("rawws.loop._WORTH_A_LOOK", 0.0)
        monkeypatch.setattr("rawws.loop._STAY_SECONDS", 60.0)
        order: list[str] = []
        woken, done = trio.Event(), trio.Event()

        def send_more(transport: SocketTransport, data: bytes) -> None:
            order.append(data.decode())
            if data == b"3":
                done.set()
            else:
                ends.peer.send(b"%d" % (int(data) + 1))
            if data == b"2":
                woken.set()

        class Waits(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                order.append("wait")

        async with running() as reactor, trio.open_nursery() as nursery:
            with Ends(reactor, data=send_more) as ends:
                nursery.start_soon(woken.wait)
                await settle()
                waits = Waits()
                trio.lowlevel.add_instrument(waits)
                ends.peer.send(b"1")
                await done.wait()
                trio.lowlevel.remove_instrument(waits)
        # What "1" sent was found at once; what "2" sent had to wait for the task that it woke.
        assert order[order.index("1") :][:3] == ["1", "2", "wait"]

    async def test_batch_that_has_looked_long_enough_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rawws.loop._WORTH_A_LOOK", 0.0)
        monkeypatch.setattr("rawws.loop._STAY_SECONDS", 0.0)
        async with running() as reactor:
            with Ends(reactor, data=lambda transport, _: ends.peer.send(b"more")) as ends:
                ends.peer.send(b"x")
                await settle()  # or the batch would never end
                assert ends.script.names.count("data") > 1

    async def test_timers_of_the_dead_do_not_pile_up(self) -> None:
        async with running() as reactor:
            for _ in range(500):
                with Ends(reactor) as ends:
                    ends.transport.wake_at(trio.current_time() + 1000)
                    ends.transport.abort()
                    await ends.script.ended.wait()
            assert len(reactor._timers) < 150

    async def test_run_list_gives_turns(self) -> None:
        order: list[str] = []

        def go_on(name: str, transport: SocketTransport, *_: object) -> None:
            order.append(name)
            if order.count(name) < 4:
                transport.schedule()
                transport.schedule()  # twice is once

        async with running() as reactor:
            with (
                Ends(reactor, data=partial(go_on, "a"), proceed=partial(go_on, "a")) as a,
                Ends(reactor, data=partial(go_on, "b"), proceed=partial(go_on, "b")) as b,
            ):
                a.peer.send(b"x")
                b.peer.send(b"x")
                await settle()
        assert sorted(order[:2]) == sorted(order[2:4]) == sorted(order[4:6]) == ["a", "b"]
        assert len(order) == 8

    async def test_scheduling_from_a_task_wakes_the_reactor(self) -> None:
        async with running() as reactor:
            with Ends(reactor, proceed=lambda transport: transport.write(b"done")) as ends:
                await settle()
                ends.transport.schedule()
                await settle()
                assert ends.read() == b"done"

    async def test_time_slice(self) -> None:
        def work(transport: SocketTransport, data: bytes) -> None:
            assert not transport.expired()
            time.sleep(0.003)
            assert transport.expired()
            done.append(transport)

        done: list[SocketTransport] = []
        async with running() as reactor:
            with Ends(reactor, data=work) as ends, Ends(reactor, data=work) as other:
                ends.peer.send(b"x")
                other.peer.send(b"x")
                await eventually(lambda: len(done) == 2)
        assert not ends.transport.expired()  # nobody would call `proceed` any more


class TestMistakes:
    @pytest.mark.parametrize("where", ["data", "proceed", "drained", "due", "eof"])
    async def test_receiver_that_raises_costs_its_own_connection_only(
        self, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        async with running() as reactor:
            with Ends(reactor) as healthy, Ends(reactor, tcp=False, **{where: fail}) as ends:
                match where:
                    case "data":
                        ends.peer.send(b"x")
                    case "proceed":
                        ends.transport.schedule()
                    case "drained":
                        ends.fill()
                        await settle()
                        ends.read()
                    case "due":
                        ends.transport.wake_at(trio.current_time())
                    case _:
                        ends.transport.abort()
                await eventually(lambda: "eof" in ends.script.names)
                healthy.peer.send(b"fine")
                await eventually(lambda: healthy.script.received == b"fine")
                assert ends.script.names.count("eof") == 1
        assert len(caplog.records) == 1

    async def test_greeting_that_raises_costs_one_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        def greet(transport: SocketTransport, address: object) -> Script:
            raise ZeroDivisionError

        async with running() as reactor:
            ours, theirs = socket.socketpair()
            with theirs:
                reactor.adopt(ours, greet, None)
                await settle()
                assert theirs.recv(1) == b""
        assert len(caplog.records) == 1

    async def test_kernel_without_watches_costs_one_connection(self) -> None:
        class Full:
            def __init__(self, epoll: select.epoll) -> None:
                self.epoll = epoll

            def register(self, fd: int, mask: int) -> None:
                raise OSError(errno.ENOSPC, "no space")

            def __getattr__(self, name: str) -> Any:
                return getattr(self.epoll, name)

        async with running() as reactor:
            real = reactor.epoll
            reactor.epoll = Full(real)  # type: ignore[assignment]
            with Ends(reactor) as ends:
                reactor.epoll = real
                await ends.script.ended.wait()
                assert ends.script.told[0][1].errno == errno.ENOSPC

    async def test_base_exception_ends_the_reactor_and_everyone_is_told(self) -> None:
        def leave(*_: object) -> None:
            raise SystemExit(3)

        descriptors = _descriptors()
        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012
            async with running() as reactor:
                many = [Ends(reactor, eof=leave) for _ in range(3)]
                innocent = [Ends(reactor) for _ in range(3)]
                ends = Ends(reactor, data=leave)
                many[0].transport.abort()
                many[1].transport.abort()
                ends.peer.send(b"x")
                await trio.sleep_forever()
        assert caught.group_contains(SystemExit) if isinstance(caught.value, BaseExceptionGroup) else True
        for one in (*many, *innocent, ends):
            assert one.script.names.count("eof") == 1
            one.peer.close()
        assert _descriptors() == descriptors

    async def test_cancellation_closes_everything(self) -> None:
        descriptors = _descriptors()
        async with running() as reactor:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                reactor.listen(listener.dup(), lambda *_: Script(*_[:1]), refuse)
            ends = [Ends(reactor) for _ in range(10)]
            ends[0].fill()
            ends[1].transport.pause()
            ends[2].transport.schedule()
            ends[3].transport.write(b"x", more=True)
        for one in ends:
            assert one.script.names[-1] == "proceed" if one is ends[2] else one.script.names == ["eof"]
            one.transport.write(b"in vain")
            one.transport.schedule()
            one.transport.resume()
            one.peer.close()
        assert _descriptors() == descriptors
        gc.collect()  # a socket that was forgotten would warn here, and warnings are errors

    async def test_keyboard_interrupt_is_held_back_in_the_loop(self) -> None:
        protected: list[bool] = []
        async with running() as reactor:
            look = lambda *_: protected.append(trio.lowlevel.currently_ki_protected())  # noqa: E731
            with Ends(reactor, data=look) as ends:
                ends.peer.send(b"x")
                await settle()
        assert protected == [True]


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class TestListening:
    async def test_accepts_what_waits(self) -> None:
        async with running() as reactor, trio.open_nursery() as nursery:
            scripts: list[tuple[Script, object]] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                scripts.append((Script(transport), address))
                return scripts[-1][0]

            listener = socket.create_server(("127.0.0.1", 0), backlog=200)
            reactor.listen(listener, greet, refuse)
            clients = [socket.create_connection(listener.getsockname()) for _ in range(150)]
            await eventually(lambda: len(scripts) == 150)
            assert {address for _, address in scripts} == {client.getsockname() for client in clients}
            reactor.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", _port(clients[0])))
            clients[0].send(b"still served")
            await eventually(lambda: any(script.received == b"still served" for script, _ in scripts))
            for client in clients:
                client.close()
            nursery.cancel_scope.cancel()

    async def test_unix_listener(self, tmp_path: Any) -> None:
        async with running() as reactor:
            scripts: list[Script] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                scripts.append(Script(transport, data=lambda transport, data: transport.write(data)))
                return scripts[-1]

            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
            reactor.listen(listener, greet, refuse)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                client.send(b"x")
                await eventually(lambda: scripts and scripts[0].received == b"x")
                assert client.recv(1) == b"x"

    async def test_without_descriptors_clients_are_answered_one_by_one_and_the_last_may_take_a_moment_to_ask(
        self, clock: MockClock
    ) -> None:
        async with running() as reactor:
            scripts: list[Script] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                scripts.append(Script(transport))
                return scripts[-1]

            listener = Stubborn(socket.create_server(("127.0.0.1", 0)))
            listener.failures = [errno.EMFILE]
            asking, silent, last = (socket.create_connection(listener.getsockname()) for _ in range(3))
            asking.send(b"first")
            reactor.listen(listener, greet, refuse)  # type: ignore[arg-type]
            began = trio.current_time()
            await settle()
            assert asking.recv(100) == b"503 to first"
            assert asking.recv(100) == b""
            assert silent.recv(100) == b"503 to "  # somebody else waits: it has no time to ask
            assert reactor._reserve == -1
            last.send(b"last")
            await trio.sleep(0.11)
            assert last.recv(100) == b"503 to last"
            assert reactor._reserve >= 0
            with socket.create_connection(listener.getsockname()):
                await eventually(lambda: scripts)
            assert trio.current_time() - began == pytest.approx(0.1, abs=0.05)
            for client in (asking, silent, last):
                client.close()

    async def test_process_that_really_has_no_descriptor_left_recovers(self) -> None:
        async with running() as reactor:
            scripts: list[Script] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                scripts.append(Script(transport))
                return scripts[-1]

            listener = socket.create_server(("127.0.0.1", 0))
            reactor.listen(listener, greet, refuse)
            clients = [socket.socket() for _ in range(3)]
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in _descriptors()) + 20, limits[1]))
            fillers: list[int] = []
            try:
                with suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                for client in clients:
                    client.connect(listener.getsockname())
                await settle()
                assert scripts == []
                assert clients[0].recv(100) == b"503 to "
            finally:
                for filler in fillers:
                    os.close(filler)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            late = socket.create_connection(listener.getsockname())
            late.send(b"patience")
            await eventually(lambda: scripts and scripts[0].received == b"patience")
            for client in (*clients, late):
                client.close()

    async def test_everything_fails_for_want_of_descriptors(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running() as reactor:
            listener = Stubborn(socket.create_server(("127.0.0.1", 0)))
            listener.failures = [errno.EMFILE, errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
            monkeypatch.setattr("os.open", _fail)
            scripts: list[Script] = []

            def greet(transport: SocketTransport, address: object) -> Script:
                scripts.append(Script(transport))
                return scripts[-1]

            reactor.listen(listener, greet, refuse)  # type: ignore[arg-type]
            with socket.create_connection(listener.getsockname()), socket.create_connection(listener.getsockname()):
                await settle()
                assert reactor._reserve == -1  # somebody else was faster
                await trio.sleep(0.15)
                assert listener.failures == []
                monkeypatch.undo()
                await trio.sleep(0.15)
                assert reactor._reserve >= 0
                assert len(scripts) == 2
        assert [record.getMessage()[:39] for record in caplog.records] == [
            "no connection can be accepted for now: "
        ]  # once

    async def test_stop_listening_while_a_listener_rests(self) -> None:
        async with running() as reactor:
            listener = Stubborn(socket.create_server(("127.0.0.1", 0)))
            listener.failures = [errno.EMFILE, errno.EMFILE]
            reactor.listen(listener, lambda *_: Script(*_[:1]), refuse)  # type: ignore[arg-type]
            with socket.create_connection(listener.getsockname()):
                await eventually(lambda: listener.failures == [])
                reactor.stop_listening()
            await trio.sleep(0.15)

    async def test_client_that_was_reset_before_it_was_accepted(self) -> None:
        async with running() as reactor:
            listener = Stubborn(socket.create_server(("127.0.0.1", 0)))
            listener.broken = True
            reactor.listen(listener, lambda *_: Script(*_[:1]), refuse)  # type: ignore[arg-type]
            with socket.create_connection(listener.getsockname()) as client:
                await settle()
                assert client.recv(1) == b""


def refuse(address: object, data: bytes) -> bytes:
    assert isinstance(address, tuple)
    return b"503 to " + data


def _fail(*_: object) -> int:
    raise OSError(errno.EMFILE, "too many")


def _port(client: socket.socket) -> int:
    port = client.getpeername()[1]
    assert isinstance(port, int)
    return port


class Stubborn:
    """A listening socket that fails as it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.failures: list[int] = []
        self.broken = False

    def accept(self) -> tuple[Any, Any]:
        if self.failures:
            raise OSError(self.failures.pop(0), "as told")
        sock, address = self.sock.accept()
        return (Broken(sock) if self.broken else sock), address

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class Broken:
    """An accepted socket that takes no options."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def setsockopt(self, *_: object) -> None:
        raise OSError(errno.EINVAL, "reset")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)
