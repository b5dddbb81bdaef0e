"""What is counted, how several processes' numbers become one, and the text that Prometheus reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

import rawws
from rawws.http import Headers
from rawws.metrics import Counters, Snapshot, collect, merge, render, retire
from rawws.opening import Handshake
from rawws.websocket import WebSocket
from tests.conftest import FAST_LANE
from tests.memory_transport import MemoryTransport
from tests.raw_client import CLOSE, CLOSE_1000, PING, PONG, TEXT, connected, echo, frame, handshake, serving
from tests.test_reactor import eventually

if TYPE_CHECKING:
    from rawws.server import Server
    from tests.raw_client import Client


README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def samples(snapshot: Snapshot) -> dict[str, float]:
    """What Prometheus' own parser reads of a snapshot: `name{label=value,…}` and the number."""
    found = {}
    for family in text_string_to_metric_families(render(snapshot).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def of(snapshot: Snapshot, name: str, key: str = "") -> float:
    return snapshot[name][key]


async def leaves(client: Client) -> None:
    await client.send(CLOSE_1000)
    await client.ended()
    await client.stream.aclose()


async def until_gone(server: Server) -> None:
    await eventually(lambda: not (server.websockets or server.plain_connections))


class _Accepting(Handshake):
    """A handshake that nothing is asked of."""

    def accept(self, subprotocol: object, headers: object) -> Any:
        return b"101", None, None

    def reject(self, status: int, body: object, headers: object) -> bytes:
        return b"%d" % status

    def trailing_data(self) -> bytes:
        return b""


def memory_websocket(limits: rawws.Limits | None = None, window: float = float("inf")) -> WebSocket:
    """A connection over a transport in memory, whose peer reads so much of what follows its opening."""
    request = rawws.Request("GET", "/", "/", "", Headers())
    transport = MemoryTransport()
    transport.receiver = ws = WebSocket(
        transport,
        limits or rawws.Limits(),
        request,
        _Accepting(),
        app=rawws.EchoProtocol(),
        fast_lane=FAST_LANE,
        on_gone=lambda ws: None,
    )
    ws.start()
    transport.take()
    transport.window = window
    return ws


def stub(*websockets: WebSocket) -> Server:
    """Something that shows of itself what a server does."""
    shown = SimpleNamespace(
        counters=Counters(),
        websockets=frozenset(websockets),
        plain_connections=0,
        running_handlers=0,
        busy_seconds=0.0,
        lag=0.0,
    )
    return cast("Server", shown)


class TestCollecting:
    async def test_open_connections_and_those_that_are_gone_count_alike(self) -> None:
        async with serving({"/task": echo, "/protocol": rawws.EchoProtocol()}) as server:
            async with connected(server) as task, connected(server) as protocol, connected(server) as http:
                for client, path in ((task, "/task"), (protocol, "/protocol")):
                    await client.open(path)
                    await client.send(frame(TEXT, b"hello"))
                    assert await client.frame() == (TEXT, b"hello")
                await http.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await http.answer()
                seen = collect(server)
                assert seen["rawws_connections_open"] == {"http": 1, "websocket": 2}
                assert of(seen, "rawws_handlers_running") == 1
                assert seen["rawws_websockets_closed"] == {}
                await leaves(task)
                await leaves(protocol)
            await until_gone(server)
            gone = collect(server)
        for snapshot, close in ((seen, 0), (gone, 1)):
            assert of(snapshot, "rawws_connections_accepted") == 3
            assert of(snapshot, "rawws_websockets_opened") == 2
            assert of(snapshot, "rawws_messages_received") == of(snapshot, "rawws_messages_sent") == 2
            # Frames of 11 and 7 bytes; a Close of 8 and its answer of 4.
            assert of(snapshot, "rawws_received_bytes") == 2 * (11 + 8 * close)
            assert of(snapshot, "rawws_sent_bytes") == 2 * (7 + 4 * close)
        assert gone["rawws_connections_open"] == {"http": 0, "websocket": 0}
        assert gone["rawws_websockets_closed"] == {"1000,peer": 2}
        assert of(gone, "rawws_handlers_running") == 0
        assert of(gone, "rawws_reactor_busy_seconds") > 0

    async def test_the_fast_lane_on_and_off_count_the_same(self) -> None:
        counted = []
        for fast_lane in (True, False):
            async with serving({"/": rawws.EchoProtocol()}, fast_lane=fast_lane) as server:
                async with connected(server) as client:
                    await client.open("/", b"Sec-WebSocket-Extensions: permessage-deflate")
                    data = frame(TEXT, b"hello", key=b"\x01\x02\x03\x04")
                    data += frame(PING, b"?") + frame(0x01, b"in ") + frame(PING) + frame(0x80, b"pieces")
                    data += frame(0x82, bytes(70_000)) + frame(PONG, b"unasked") + frame(0xC1, b"\xf2\x48\x05\x00")
                    await client.send(data + frame(CLOSE, b"\x0f\xa0"))
                    await client.ended()
                async with connected(server) as client:
                    await client.open()
                    await client.send(frame(0x83, b"reserved"))
                    await client.ended()
                await until_gone(server)
                snapshot = collect(server)
            for name in ("rawws_reactor_busy_seconds", "rawws_reactor_lag_seconds"):
                del snapshot[name]
            counted.append(snapshot)
        assert counted[0] == counted[1]
        assert of(counted[0], "rawws_messages_received") == 4
        assert counted[0]["rawws_websockets_closed"] == {"4xxx,peer": 1, "1002,us": 1}

    async def test_refusals_are_counted_by_why(self) -> None:
        async def picky(ws: rawws.WebSocket) -> None:
            if ws.request.query == "raise":
                raise LookupError("on purpose")
            if ws.request.query == "wait":
                await trio.sleep_forever()
            await ws.reject(401)

        limits = rawws.Limits(accept_timeout=0.05, head_timeout=0.3)
        async with serving({"/": picky}, limits=limits, hosts=["server.example.com"]) as server:
            for data, reason in (
                (handshake(), "application"),
                (handshake("/?raise"), "error"),
                (handshake("/?wait"), "accept_timeout"),
                (handshake("/nowhere"), "not_found"),
                (handshake("/", b"Origin: http://evil.example"), "origin"),
                (handshake().replace(b"server.", b"rebound."), "host"),
                (handshake().replace(b"GET", b"POST"), "method"),
                (handshake().replace(b"13", b"8"), "version"),
                (b"GET /\r\n\r\n", "malformed"),
                (b"G", "head_timeout"),
            ):
                before = collect(server)["rawws_connections_refused"]
                async with connected(server) as client:
                    await client.send(data)
                    await client.answer()
                await until_gone(server)
                after = collect(server)["rawws_connections_refused"]
                assert {why for why in after if after[why] != before[why]} == {reason}
                assert after[reason] == 1

    async def test_refusals_of_a_full_server_are_counted_by_the_limit(self) -> None:
        async with (
            serving(rawws.EchoProtocol(), limits=rawws.Limits(max_connections=3, max_pending_handshakes=2)) as server,
            connected(server) as oldest,
            connected(server),
            connected(server) as third,
        ):
            assert (await oldest.answer()).status == 503
            await third.open()
            async with connected(server), connected(server) as last:
                assert (await last.answer()).status == 503
            refused = collect(server)["rawws_connections_refused"]
            assert refused["max_connections"] == 1
            assert refused["max_pending_handshakes"] == 1

    async def test_a_shutdown_is_a_reason_too(self) -> None:
        async def undecided(ws: rawws.WebSocket) -> None:
            await trio.sleep_forever()

        async with serving(undecided, limits=rawws.Limits(shutdown_timeout=0.05)) as server:
            async with connected(server) as asked, connected(server) as asking:
                await asked.send(handshake())
                await asking.send(handshake()[:-2])
                await trio.testing.wait_all_tasks_blocked(0.02)
                await server.shutdown()
            assert of(collect(server), "rawws_connections_refused", "shutdown") == 2

    def test_queues_pings_and_round_trips_are_those_of_open_connections(self) -> None:
        websockets = [memory_websocket(window=0), memory_websocket(), memory_websocket()]
        websockets[0].send_nowait(bytes(100))
        for ws, seconds in zip(websockets[1:], (0.004, 7.0), strict=True):
            transport = cast("MemoryTransport", ws._transport)
            transport.pass_time(20)
            assert transport.take() == b"\x89\x00"
            transport.clock += seconds
            transport.data(b"\x8a\x80\x00\x00\x00\x00")
        snapshot = collect(stub(*websockets))
        assert of(snapshot, "rawws_send_queue_bytes") == 102
        assert of(snapshot, "rawws_receive_queue_bytes") == 0
        assert of(snapshot, "rawws_pings_sent") == 2
        times = snapshot["rawws_round_trip_seconds"]
        assert (times["0.0025"], times["0.005"], times["5.0"], times["10.0"], times["+Inf"]) == (0, 1, 1, 2, 2)
        assert times["sum"] == pytest.approx(7.004)

    def test_what_is_done_about_slow_consumers_is_counted(self) -> None:
        limits = rawws.Limits(max_send_buffer=100_000)
        ws = memory_websocket(limits, window=0)
        for _ in range(3):
            ws.send_nowait(bytes(40_000))
        assert ws.slow_consumer_actions is None
        ws.send_nowait("x", policy="drop_newest")
        ws.send_nowait("x", policy="drop_oldest")
        assert ws.slow_consumer_actions == {"drop_newest": 1, "drop_oldest": 1}
        ws.send_nowait(bytes(40_000))
        ws.send_nowait("x", policy="close")
        ws.stalled(10.0)
        server = stub(ws)
        expected = {"close": 1, "cut": 1, "drop_newest": 1, "drop_oldest": 1}
        assert collect(server)["rawws_slow_consumer_actions"] == expected
        server.counters.forget(ws)
        assert collect(stub())["rawws_slow_consumer_actions"] == dict.fromkeys(expected, 0)
        cast("Any", server).websockets = frozenset()
        assert collect(server)["rawws_slow_consumer_actions"] == expected

    def test_a_counter_never_falls_although_messages_are_taken_back(self) -> None:
        ws = memory_websocket(rawws.Limits(max_send_buffer=100_000), window=0)
        for _ in range(3):
            ws.send_nowait(bytes(40_000))
        server = stub(ws)
        before = collect(server)
        ws.send_nowait("x", policy="drop_oldest")
        assert ws.bytes_sent < of(before, "rawws_sent_bytes")
        after = collect(server)
        for name in ("rawws_sent_bytes", "rawws_messages_sent"):
            assert of(after, name) == of(before, name)

    def test_a_peer_cannot_make_up_a_label(self) -> None:
        counters = Counters()
        for code in (1000, 1005, 1014, 2999, 3000, 3999, 4000, 4321, 4999, 5000):
            ws = memory_websocket()
            ws._end(rawws.ConnectionClosed(code, "", "peer"))
            counters.forget(ws)
        assert counters.closed == {
            "1000,peer": 1,
            "1005,peer": 1,
            "1014,peer": 1,
            "other,peer": 2,
            "3xxx,peer": 2,
            "4xxx,peer": 3,
        }

    def test_a_thousand_open_connections_are_collected_in_a_blink(self) -> None:
        server = stub(*(memory_websocket() for _ in range(1000)))
        began = time.perf_counter()
        snapshot = collect(server)
        text = render(snapshot)
        assert time.perf_counter() - began < 0.5  # measured: 0.5 ms, and 25 ms more where prometheus_client is imported
        assert of(snapshot, "rawws_connections_open", "websocket") == 1000
        # The text does not grow with them.
        assert len(text) < 2 * len(render(collect(stub())))


def example(**lag: float) -> Snapshot:
    ws = memory_websocket()
    server = cast("Any", stub(ws))
    server.lag = lag.get("lag", 0.0)
    server.counters.accepted = 3
    server.counters.refuse("origin")
    gone = memory_websocket()
    gone._end(rawws.ConnectionClosed(1001, "", "peer"))
    server.counters.forget(gone)
    return collect(server)


class TestMerging:
    def test_sums_and_the_longest_lag(self) -> None:
        merged = merge([example(lag=0.25), example(lag=0.5), example(lag=0.125)])
        assert of(merged, "rawws_connections_accepted") == 9
        assert of(merged, "rawws_connections_open", "websocket") == 3
        assert merged["rawws_websockets_closed"] == {"1001,peer": 3}
        assert of(merged, "rawws_reactor_lag_seconds") == 0.5

    def test_a_snapshot_survives_json_and_one_alone_stays_what_it_is(self) -> None:
        snapshot = example()
        assert merge([json.loads(json.dumps(snapshot))]) == snapshot
        assert merge([]) == {}

    def test_merging_changes_none_of_what_is_merged(self) -> None:
        one, other = example(), example()
        merge([one, other])
        assert one == other == example()

    def test_of_a_process_that_has_ended_its_counters_are_kept(self) -> None:
        kept = retire(example(lag=1.0))
        assert of(kept, "rawws_connections_accepted") == 3
        assert "rawws_connections_open" not in kept
        assert "rawws_round_trip_seconds" not in kept
        merged = merge([kept, example(lag=0.5)])
        assert of(merged, "rawws_connections_accepted") == 6
        assert of(merged, "rawws_connections_open", "websocket") == 1
        assert of(merged, "rawws_reactor_lag_seconds") == 0.5

    def test_of_a_newer_process_what_is_not_known_is_kept_and_not_shown(self) -> None:
        newer: Snapshot = {**example(), "rawws_of_the_future": {"a": 1}}
        merged = merge([newer, newer])
        assert merged["rawws_of_the_future"] == {"a": 2}
        assert retire(newer) == retire(example())
        assert b"future" not in render(merged)


class TestText:
    def test_prometheus_reads_it(self) -> None:
        read = samples(example(lag=0.5))
        assert read["rawws_connections_open{protocol=websocket}"] == 1
        assert read["rawws_connections_accepted_total"] == 3
        assert read["rawws_connections_refused_total{reason=origin}"] == 1
        assert read["rawws_connections_refused_total{reason=host}"] == 0
        assert read["rawws_websockets_closed_total{by=peer,code=1001}"] == 1
        assert read["rawws_round_trip_seconds_bucket{le=+Inf}"] == 0
        assert read["rawws_reactor_lag_seconds"] == 0.5

    def test_names_follow_prometheus_conventions(self) -> None:
        text = render(example()).decode()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                assert name.startswith("rawws_")
                assert name.endswith("_total") is (kind == "counter")
                assert name.partition("_total")[0].rsplit("_", 1)[1] not in ("ms", "milliseconds", "kb", "mb")

    def test_a_snapshot_without_numbers_is_text_too(self) -> None:
        assert samples({})["rawws_round_trip_seconds_bucket{le=+Inf}"] == 0

    def test_the_readme_names_every_metric_and_its_kind(self) -> None:
        told: dict[str, str] = {}
        for line in README.partition("\n## Watching it\n")[2].partition("\n## ")[0].splitlines():
            if line.startswith("| `rawws_"):
                names, kind = line.split("|")[1:3]
                told |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind.strip())
        kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", render(example()).decode(), re.MULTILINE))
        assert told == {name: kind for name, kind in kinds.items() if not name.endswith(("_gcount", "_gsum"))}


def test_prometheus_client_is_imported_by_the_first_scrape_and_not_before() -> None:
    program = """
        import sys
        from functools import partial
        import trio
        import rawws, rawws.cli
        from rawws.metrics import collect, render

        async def main():
            async with trio.open_nursery() as nursery:
                serve = partial(rawws.serve, rawws.EchoProtocol(), "127.0.0.1", 0, admin=True)
                server = await nursery.start(serve)
                async def get(path):
                    async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                        await stream.send_all(b"GET %s HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n" % path)
                        return b"".join([data async for data in stream])
                assert b"200 OK" in await get(b"/health")
                collect(server)
                print("prometheus_client" in sys.modules)
                assert b"rawws_connections_accepted_total 2.0" in await get(b"/metrics")
                print("prometheus_client" in sys.modules)
                nursery.cancel_scope.cancel()

        trio.run(main)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")
