"""`async for ws in connect(url)`: when it connects again, when it stops, and what it says then.

Dialling is replaced by a list of outcomes, and the clock jumps, so every delay is exact.
"""

from __future__ import annotations

import gc
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio
from trio.testing import memory_stream_pair

import rawws
from tests.raw_client import echo
from tests.raw_client import serving as serving_rawws
from tests.raw_server import Host, frame, url_of

if TYPE_CHECKING:
    from rawws.client import Connections

Outcome: TypeAlias = Exception | Callable[[Host], Awaitable[object]]

BACKOFF = rawws.Backoff(first=1.0, factor=2.0, maximum=10.0, steady=30.0, random=lambda: 1.0)


class Net:
    """What dialling leads to, one outcome after the other, and when it was tried."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.outcomes: list[Outcome] = []
        self.times: list[float] = []
        self._nursery = nursery

    async def dial(self, uri: object, **_: object) -> trio.abc.Stream:
        self.times.append(trio.current_time())
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(outcome, Host(theirs))
        return ours

    @property
    def delays(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in zip(self.times, self.times[1:], strict=False)]


@pytest.fixture
async def net(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Net:
    net = Net(nursery)
    monkeypatch.setattr("rawws.client.dial", net.dial)
    return net


def connect(**options: Any) -> rawws.Connect:
    return rawws.connect("ws://server/", **{"backoff": BACKOFF, **options})


def ending(code: int, *, after: float = 0.0) -> Outcome:
    """A server that says hello, and closes."""

    async def script(host: Host) -> None:
        await host.accept(then=frame(0x81, b"hello"))
        await trio.sleep(after)
        await host.send(frame(0x88, code.to_bytes(2, "big")))
        await host.close_frame()
        await host.stream.aclose()

    return script


async def hanging_up(host: Host) -> None:
    await host.accept(then=frame(0x81, b"hello"))
    await host.stream.aclose()


async def patient(host: Host) -> None:
    """A server that waits for the client to close."""
    await host.accept(then=frame(0x81, b"hello"))
    await host.closes()


def refusing(status: int, *fields: str) -> Outcome:
    async def script(host: Host) -> None:
        await host.request()
        head = "\r\n".join([f"HTTP/1.1 {status} No", "Content-Length: 2", *fields, "\r\n"])
        await host.send(head.encode() + b"no")

    return script


async def talk(connections: Any) -> list[str | bytes]:
    """What people write: a loop in a loop."""
    messages = []
    async for ws in connections:
        async for message in ws:
            messages.append(message)  # noqa: PERF401
    return messages


class TestAgain:
    async def test_it_reconnects_until_the_server_says_1000(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [ending(1001), hanging_up, ending(1012), ending(4000), ending(1000)]
        assert await talk(connect()) == ["hello"] * 5
        assert net.delays == [1, 2, 4, 8]

    async def test_attempts_that_fail_grow_the_delay_up_to_the_maximum(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [*[ConnectionRefusedError(), OSError("no route"), TimeoutError()] * 2, ending(1000)]
        assert await talk(connect()) == ["hello"]
        assert net.delays == [1, 2, 4, 8, 10, 10]

    async def test_chance_shortens_each_delay(self, net: Net, autojump_clock: Any) -> None:
        shares = iter([0.0, 0.5, 1.0])
        net.outcomes = [OSError(), OSError(), OSError(), ending(1000)]
        await talk(connect(backoff=rawws.Backoff(random=lambda: next(shares))))
        assert net.delays == [0.5, 1.5, 4.0]

    async def test_a_connection_that_lasted_starts_the_series_anew(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [OSError(), OSError(), ending(1001, after=29), ending(1001, after=30), ending(1000)]
        await talk(connect(limits=rawws.Limits(ping_interval=math.inf)))
        assert net.delays == [1, 2, 29 + 4, 30 + 1]

    async def test_a_body_that_ends_closes_its_connection(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [patient, patient, ending(1000)]
        seen: list[rawws.WebSocket] = []
        async for ws in connect():
            assert all(earlier.closed is not None for earlier in seen)
            seen.append(ws)
            assert await ws.receive() == "hello"
            if len(seen) == 3:
                await ws.wait_closed()
        assert [ws.closed and (ws.closed.code, ws.closed.by) for ws in seen] == [
            (1000, "us"),
            (1000, "us"),
            (1000, "peer"),
        ]
        assert net.delays == [1, 2]

    async def test_a_timeout_of_the_handshake_is_tried_again(self, net: Net, autojump_clock: Any) -> None:
        async def mute(host: Host) -> None:
            await host.rest()

        net.outcomes = [mute, ending(1000)]
        await talk(connect(open_timeout=3))
        assert net.delays == [3 + 1]

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
    async def test_these_refusals_are_tried_again(self, net: Net, autojump_clock: Any, status: int) -> None:
        net.outcomes = [refusing(status), ending(1000)]
        assert await talk(connect()) == ["hello"]
        assert net.delays == [1]

    async def test_retry_after_comes_on_top_and_is_bounded(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [
            refusing(503, "Retry-After: 7"),
            refusing(429, "Retry-After: 999999"),
            refusing(503, "Retry-After: soon"),
            ending(1000),
        ]
        await talk(connect())
        assert net.delays == [7 + 1, 600 + 2, 4]

    async def test_network_failures_of_tls_are_tried_again(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [ssl.SSLEOFError("EOF"), ending(1000)]
        assert await talk(connect()) == ["hello"]

    async def test_other_calls_still_raise_what_ended_the_connection(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [hanging_up, ending(1000)]
        codes = []
        async for ws in connect():
            assert await ws.receive() == "hello"
            with pytest.raises(rawws.ConnectionClosed) as caught:
                await ws.receive()
            codes.append(caught.value.code)
        assert codes == [1006, 1000]


class TestStop:
    @pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003])
    async def test_final_close_codes_are_raised_with_a_note(self, net: Net, autojump_clock: Any, code: int) -> None:
        net.outcomes = [ending(code)]
        with pytest.raises(rawws.ConnectionClosed) as caught:
            await talk(connect())
        assert (caught.value.code, caught.value.by) == (code, "peer")
        assert caught.value.__notes__[0].startswith("not connected again: ")

    async def test_a_rule_that_the_server_broke_is_final_too(self, net: Net, autojump_clock: Any) -> None:
        async def masked(host: Host) -> None:
            await host.accept(then=b"\x81\x80\x00\x00\x00\x00")
            await host.closes()

        net.outcomes = [masked]
        with pytest.raises(rawws.ConnectionClosed) as caught:
            await talk(connect())
        assert (caught.value.code, caught.value.by) == (1002, "us")

    @pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 410])
    async def test_other_refusals_are_raised_with_a_note(self, net: Net, autojump_clock: Any, status: int) -> None:
        net.outcomes = [refusing(status)]
        with pytest.raises(rawws.HandshakeRejected) as caught:
            await talk(connect())
        assert (caught.value.status, caught.value.body) == (status, b"no")
        assert caught.value.__notes__ == [
            "not connected again: the server would answer the same request in the same way"
        ]

    async def test_a_wrong_answer_is_raised(self, net: Net, autojump_clock: Any) -> None:
        async def other(host: Host) -> None:
            await host.request()
            await host.send(b"220 mail.example.com ESMTP\r\n")

        net.outcomes = [other]
        with pytest.raises(rawws.HandshakeFailed, match=r"HTTP/1\.1"):
            await talk(connect())

    @pytest.mark.parametrize("exc", [ssl.SSLCertVerificationError("bad"), ssl.SSLError("bad"), PermissionError("no")])
    async def test_bad_certificates_and_doors_are_raised(self, net: Net, autojump_clock: Any, exc: OSError) -> None:
        net.outcomes = [OSError(), exc]
        with pytest.raises(type(exc)) as caught:
            await talk(connect())
        assert caught.value is exc
        assert len(exc.__notes__) == 1

    async def test_after_the_end_it_stays_ended(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [ending(1000)]
        connections = aiter(connect())
        assert await talk(connections) == ["hello"]
        with pytest.raises(StopAsyncIteration):
            await anext(connections)


class TestLeaving:
    async def test_leaving_the_loop_closes_in_the_background(self, net: Net, autojump_clock: Any) -> None:
        done = trio.Event()

        async def script(host: Host) -> None:
            await host.accept()
            assert await host.closes() == (1000, "")
            done.set()

        net.outcomes = [script]
        async for _ in connect():
            break
        await done.wait()

    async def test_an_exception_in_the_body_leaves_bare(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [patient]

        async def raising() -> None:
            async for _ in connect():
                raise KeyError

        with pytest.raises(KeyError):
            await raising()

    async def test_aclosing_waits_for_the_end(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [patient]
        async with aclosing(aiter(connect())) as connections:
            ws = await anext(connections)
        assert ws.closed is not None
        await connections.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(connections)

    async def test_a_cancelled_delay_ends_it(self, net: Net, autojump_clock: Any) -> None:
        net.outcomes = [OSError()]
        with trio.move_on_after(0.5) as scope:
            await talk(connect())
        assert scope.cancelled_caught
        assert len(net.times) == 1

    async def test_a_loop_that_another_task_drops_is_closed_all_the_same(self, net: Net, autojump_clock: Any) -> None:
        done = trio.Event()

        async def script(host: Host) -> None:
            await host.accept()
            await host.closes()
            done.set()

        async def drop(holder: list[Connections]) -> None:
            holder.clear()

        net.outcomes = [script]
        holder = [aiter(connect())]
        await anext(holder[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop, holder)
        await done.wait()


def test_a_loop_that_is_left_at_the_end_of_the_run_says_goodbye() -> None:
    closed: list[tuple[int, str]] = []

    async def handler(ws: rawws.WebSocket) -> None:
        ws.add_close_callback(lambda _, end: closed.append((end.code, end.by)))
        await echo(ws)

    async def main() -> None:
        async with serving_rawws(handler) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client, url_of(server))
            await trio.testing.wait_all_tasks_blocked()

    async def client(url: str) -> None:
        async for ws in rawws.connect(url):
            await ws.send("Hello")
            assert await ws.receive() == "Hello"
            return

    trio.run(main)
    assert closed == [(1000, "peer")]


def test_a_loop_that_outlives_its_run_is_forgotten() -> None:
    async def main() -> Any:
        async with serving_rawws(echo) as server:
            connections = aiter(rawws.connect(url_of(server)))
            await anext(connections)
            return connections

    kept = [trio.run(main)]
    kept.clear()
    gc.collect()
