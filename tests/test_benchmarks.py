"""The benchmark suite itself: its statistics, its tables of cases, peers and targets, its reports, and that its
load generator serves a right server and refuses a wrong one.

Nothing here measures anything; the runs against the C floor last a fraction of a second and need a compiler.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import zlib
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks import build, payloads
from benchmarks.cases import CASES, Payload, select_cases
from benchmarks.machine import describe
from benchmarks.processes import BenchmarkError, Cores, generate, run_client
from benchmarks.registry import PEERS, REFERENCE, Peer, distributions, select_peers, variant
from benchmarks.results import Outcome, Results, median_ratio, spread
from benchmarks.runner import Plan, files_for, measure, run, serving
from benchmarks.tables import load
from benchmarks.targets import TARGETS, Target, check_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.cases import Case

ECHO = next(case for case in CASES if case.name == "echo")
LATENCY = next(case for case in CASES if case.name == "latency")
CHAT = next(case for case in CASES if case.name == "chat")
CLIENT = next(case for case in CASES if case.name == "client-64")
FLOOR = next(peer for peer in PEERS if peer.name == "floor")
RAWWS, RAWWS_TASK, PICOWS = (
    next(peer for peer in PEERS if peer.name == name) for name in ("rawws", "rawws-task", "picows")
)
QUICK = Plan(seconds=0.25, warmup=0.02, repeat=1)  # on a machine where others work too, a tenth may pass in vain
MACHINE = {"cpu": "a CPU", "kernel": "Linux 6", "python": "CPython 3.11.0", "date": "2026-01-02T03:04:05"}

needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "-")


def results_of(case: Case, **rates: list[float | None]) -> Results:
    """Results with one figure a round for each peer; None stands for a round without one."""
    results = Results(MACHINE, REFERENCE)
    for name, values in rates.items():
        peer = next(peer for peer in PEERS if peer.name == name.replace("_", "-"))
        row = results.row(case, peer)
        for value in values:
            figures = {} if value is None else dict.fromkeys((metric.key for metric in case.metrics), value)
            row.outcomes.append(Outcome(figures, client_cpu=0.5, server_cpu=1.0))
    return results


class TestStatistics:
    def test_spread_has_median_least_and_greatest(self) -> None:
        found = spread([3.0, 1.0, 2.0, 10.0])
        assert (found.median, found.low, found.high) == (2.5, 1.0, 10.0)

    def test_ratio_is_the_median_of_ratios_within_rounds(self) -> None:
        # The ratio of the medians would be 20 / 20.
        assert median_ratio([10, 20, 60], [20, 10, 30]) == 2.0

    def test_ratio_leaves_out_rounds_without_both_figures(self) -> None:
        assert median_ratio([10, None, 30], [10, 20, None]) == 1.0
        assert median_ratio([10], [0.0]) is None
        assert median_ratio([], []) is None

    def test_row_above_ninety_percent_of_the_generators_core_is_client_bound(self) -> None:
        results = results_of(ECHO, rawws=[1.0])
        row = results.row(ECHO, RAWWS)
        assert not row.client_bound
        row.outcomes[:] = [Outcome({"rate": 1.0}, client_cpu=0.91)]
        assert row.client_bound

    def test_row_with_an_error_has_no_ratio_and_is_named(self) -> None:
        results = results_of(ECHO, rawws=[10.0], picows=[20.0])
        assert results.ratio(ECHO, ECHO.metrics[0], "picows") == 2.0
        results.row(ECHO, PICOWS).outcomes.append(Outcome(error="wrong opcode"))
        assert results.ratio(ECHO, ECHO.metrics[0], "picows") is None
        assert results.errors == ["echo, picows: wrong opcode"]

    def test_come_back_from_their_file(self) -> None:
        results = results_of(ECHO, rawws=[10.0, 30.0], picows=[20.0, 40.0])
        results.row(ECHO, PICOWS).outcomes.append(Outcome(error="wrong opcode"))
        results.row(ECHO, FLOOR).skipped = "not today"
        results.absent["aiohttp"] = "not installed: aiohttp"
        data = json.loads(json.dumps(results.to_json()))
        assert load(data).to_json() == data

    def test_rows_of_several_runs_say_which_one_measured_them(self) -> None:
        here, there = (
            {"date": f"2026-01-0{day}", "command": f"python -m benchmarks --seconds {day}", "revision": f"abc{day}"}
            for day in (1, 2)
        )
        first, second = (Results({"cpu": "a CPU", **run}, REFERENCE) for run in (here, there))
        first.row(ECHO, RAWWS).outcomes.append(Outcome({"rate": 1.0}))
        second.row(ECHO, PICOWS).outcomes.append(Outcome({"rate": 2.0}))
        data = json.loads(json.dumps(first.to_json()))
        data["cases"][0]["rows"] += second.to_json()["cases"][0]["rows"]
        assert [row["run"] for row in data["cases"][0]["rows"]] == [here, there]
        assert [row["run"] for row in load(data).to_json()["cases"][0]["rows"]] == [here, there]

    def test_json_keeps_every_measurement(self) -> None:
        data = json.loads(json.dumps(results_of(ECHO, rawws=[10.0, 30.0], picows=[20.0, 40.0]).to_json()))
        (case,) = data["cases"]
        figures = {row["peer"]: row["figures"]["rate"] for row in case["rows"]}
        assert figures["rawws"]["runs"] == [10.0, 30.0]
        assert figures["picows"] == {
            "median": 30.0,
            "min": 20.0,
            "max": 40.0,
            "ratio": pytest.approx((20 / 10 + 40 / 30) / 2),
            "runs": [20.0, 40.0],
        }


class TestTables:
    def test_names_are_unique(self) -> None:
        assert len({case.name for case in CASES}) == len(CASES)
        assert len({peer.name for peer in PEERS}) == len(PEERS)

    def test_patterns_select_cases_in_the_order_of_the_table(self) -> None:
        assert [case.name for case in select_cases(["echo"])] == ["echo"]
        assert [case.name for case in select_cases(["start", "echo-1*"])] == ["echo-1", "echo-1000", "start"]
        assert select_cases([]) == CASES

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no case is called 'ecko'"):
            select_cases(["ecko"])
        with pytest.raises(ValueError, match="no peer is called 'rawss'"):
            select_peers(["rawss"])

    def test_spaces_about_names_do_not_matter(self) -> None:
        assert [peer.name for peer in select_peers([" rawws", "picows "])] == ["rawws", "picows"]

    def test_peers_without_deflate_have_no_row_in_its_case(self) -> None:
        deflate = next(case for case in CASES if case.payload.deflated)
        assert PICOWS.unsupported(deflate) == "no permessage-deflate"
        assert not RAWWS.unsupported(deflate)
        assert not PICOWS.unsupported(ECHO)

    def test_only_the_handler_of_rawws_has_a_chat(self) -> None:
        servers = [peer for peer in PEERS if peer.takes_part(CHAT)]
        assert [peer.name for peer in servers if not peer.unsupported(CHAT)] == ["rawws-task"]
        assert PICOWS.unsupported(CHAT) == "no chat"
        assert not variant(RAWWS_TASK, "compiled", "there").unsupported(CHAT)

    def test_missing_peer_says_which_module_it_lacks(self) -> None:
        assert replace(PICOWS, modules=("json", "no_such_module")).missing() == "not installed: no_such_module"
        assert replace(PICOWS, modules=("json",)).missing() == ""

    def test_every_program_is_there(self) -> None:
        folder = build.ROOT / "benchmarks"
        for peer in PEERS:
            kind = "clients" if peer.is_client else "peers"
            source = folder / f"{peer.program}.c" if peer.compiled else folder / kind / f"{peer.program}.py"
            assert source.is_file()

    def test_versions_of_rawws_say_what_it_uses_where_it_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        installed = {"rawws": "1.0", "trio": "0.1", "numpy": "2.1", "isal": "1.7", "prometheus-client": "0.2"}

        def version(name: str) -> str:
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError
            return installed[name]

        monkeypatch.setattr("importlib.metadata.version", version)
        assert distributions([RAWWS]) == installed
        installed["zlib-ng"] = "1.0"
        assert distributions([RAWWS_TASK]) == installed
        assert distributions(peer for peer in PEERS if peer.name == "rawws-client") == installed
        assert "numpy" not in distributions(peer for peer in PEERS if peer.name == "rawws-plain")

    def test_clients_have_cases_of_their_own(self) -> None:
        clients = [peer.name for peer in PEERS if peer.takes_part(CLIENT)]
        assert clients == [peer.name for peer in PEERS if peer.is_client]
        assert "rawws-client" in clients
        assert not any(peer.takes_part(ECHO) for peer in PEERS if peer.is_client)

    def test_compiled_build_comes_beside_the_same_peers(self) -> None:
        names = [peer.name for peer in select_peers(["rawws", "rawws-task", "picows"], compiled="there")]
        assert names == ["rawws", "rawws-task", "picows", "rawws-compiled", "rawws-compiled-task"]
        assert variant(RAWWS, "compiled", "there").environment == {"PYTHONPATH": "there"}

    def test_rawws_without_its_extra_is_measured_in_two_cases_unless_it_is_named(self) -> None:
        plain = next(peer for peer in select_peers(None) if peer.name == "rawws-plain")
        assert [case.name for case in CASES if plain.takes_part(case)] == ["binary-64k", "binary-1m"]
        (named,) = select_peers(["rawws-plain"])
        assert named.takes_part(ECHO)
        assert not named.takes_part(CLIENT)

    def test_every_target_names_a_case_a_metric_and_peers(self) -> None:
        cases = {case.name: {metric.key for metric in case.metrics} for case in CASES}
        peers = {peer.name for peer in select_peers(None, compiled="there")}
        for target in TARGETS:
            assert target.metric in cases[target.case]
            assert {target.subject, *target.against} <= peers


class TestTargets:
    def test_ratio_is_taken_of_the_subject_to_the_best_peer(self) -> None:
        results = results_of(ECHO, rawws=[90.0], picows=[100.0], aiohttp=[50.0])
        found = {(target.subject, target.against): value for target, value in check_targets(results)}
        assert found["rawws", ("picows",)] == 0.9
        assert found["rawws", ("aiohttp",)] == 1.8
        assert not any(subject == "rawws-task" for subject, _ in found)

    def test_the_best_of_several_is_the_highest_rate(self) -> None:
        case = next(case for case in CASES if case.name == "binary-64k")
        results = self.against_all(case, picows=[100.0], aiohttp=[50.0])
        assert [value for target, value in check_targets(results)] == [0.9]

    @staticmethod
    def against_all(case: Case, **rates: list[float | None]) -> Results:
        """Results of rawws at 90 and of every Python peer, at 10 unless another rate is given."""
        (target,) = (it for it in TARGETS if it.case == case.name and it.subject == "rawws" and len(it.against) > 1)
        others: dict[str, list[float | None]] = {name.replace("-", "_"): [10.0] for name in target.against}
        return results_of(case, rawws=[90.0], **(others | rates))

    def test_the_best_of_several_is_not_known_before_all_are_measured(self) -> None:
        case = next(case for case in CASES if case.name == "binary-64k")
        results = self.against_all(case)
        assert [value for target, value in check_targets(results)] == [9.0]
        results.row(case, PICOWS).outcomes.append(Outcome(error="stuck"))
        assert check_targets(results) == []
        del results.rows[case.name]["picows"]
        assert check_targets(results) == []

    def test_who_cannot_do_a_case_is_not_missed(self) -> None:
        case = next(case for case in CASES if case.name == "deflate")
        results = self.against_all(case)
        results.row(case, PICOWS).outcomes.clear()
        assert check_targets(results) == []
        results.row(case, PICOWS).skipped = PICOWS.unsupported(case)
        assert [value for target, value in check_targets(results)] == [9.0]

    def test_amounts_are_judged_without_a_peer(self) -> None:
        case = next(case for case in CASES if case.name == "memory-10k")
        ((target, value),) = check_targets(results_of(case, rawws=[2000.0]))
        assert value == 2000.0
        assert target.met(value)
        assert not target.met(2049)

    def test_a_delivery_of_the_chat_may_take_250_ms(self) -> None:
        ((target, value),) = check_targets(results_of(CHAT, rawws_task=[250.0]))
        assert (target.metric, value) == ("p99_ms", 250.0)
        assert target.met(value)
        assert not target.met(250.1)

    def test_bounds_read_as_words(self) -> None:
        assert Target(case="echo", subject="rawws", against=("picows",), bound=0.85).text == "≥ 0.85 x picows"
        assert Target(case="echo", subject="rawws", bound=2048, at_most=True).text == "≤ 2048"


class TestPayloads:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_messages_have_the_size_and_number_of_the_case(self, case: Case) -> None:
        messages = payloads.make_messages(case.payload)
        assert len(messages) == case.payload.count
        assert {len(message) for message in messages} == {case.payload.size}
        assert len(set(messages)) == len(messages)
        assert messages == payloads.make_messages(case.payload)

    def test_json_messages_are_json(self) -> None:
        for message in payloads.make_messages(Payload(kind="json", size=4096)):
            assert json.loads(message)["type"] == "quotes"

    def test_compressed_messages_can_be_sent_round_and_round(self) -> None:
        payload = Payload(kind="json", size=4096, count=4, deflated=True)
        wire = payloads.wire_messages(payload)
        inflater = zlib.decompressobj(wbits=-12)
        for number in range(10):
            text = inflater.decompress(wire[number % 4] + b"\x00\x00\xff\xff")
            assert text == payloads.make_messages(payload)[number % 4]

    def test_compressed_replies_with_other_content_are_refused(self) -> None:
        payload = Payload(kind="json", size=1024, count=4, deflated=True)
        messages, wire = payloads.make_messages(payload), payloads.wire_messages(payload)
        payloads.check_deflated_replies(wire, messages)
        with pytest.raises(ValueError, match="no compressed reply"):
            payloads.check_deflated_replies([], messages)
        with pytest.raises(ValueError, match="reply 1 has other content"):
            payloads.check_deflated_replies(wire, [messages[0], messages[0]])
        with pytest.raises(ValueError, match="reply 0 does not inflate"):
            payloads.check_deflated_replies([b"\xff\xff"], messages)

    def test_records_come_back_and_a_torn_one_is_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "records"
        payloads.write_records(path, [b"", b"one", b"two"])
        assert payloads.read_records(path) == [b"", b"one", b"two"]
        path.write_bytes(path.read_bytes()[:-1])
        assert payloads.read_records(path) == [b"", b"one"]

    def test_keys_are_answered_as_rfc_6455_says(self) -> None:
        for line in payloads.key_lines(3).splitlines():
            key, accept = line.split()
            digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
            assert accept == b64encode(digest).decode()


class TestReport:
    def render(self, results: Results) -> str:
        console_module = pytest.importorskip("rich.console")
        from benchmarks.report import print_results

        text = io.StringIO()
        print_results(console_module.Console(file=text, width=150), results)
        return text.getvalue()

    def test_table_has_the_best_first_with_ratio_and_remarks(self) -> None:
        results = results_of(ECHO, rawws=[1000.0, 3000.0], picows=[4000.0, 6000.0])
        results.row(ECHO, PICOWS).outcomes[0] = Outcome({"rate": 4000.0}, client_cpu=0.99)
        results.row(ECHO, PICOWS).outcomes[1] = Outcome({"rate": 6000.0}, client_cpu=0.95)
        results.row(ECHO, FLOOR).skipped = "not today"
        results.absent["aiohttp"] = "not installed: aiohttp"
        text = self.render(results)
        assert text.index("picows on uvloop") < text.index("rawws, Protocol")
        assert re.search(r"picows on uvloop +5 000 +4 000 to 6 000 +3\.00 .*client-bound", text)
        assert "not today" in text
        assert "skipped aiohttp: not installed: aiohttp" in text
        assert re.search(r"≥ 0\.85 x picows +0\.38 +missed", text)

    def test_tables_of_clients_say_so(self) -> None:
        results = results_of(CLIENT, rawws_client=[1000.0], picows_client=[2000.0])
        results.row(CLIENT, next(peer for peer in PEERS if peer.name == "picows-client")).outcomes[:] = [
            Outcome({"rate": 2000.0}, client_cpu=0.95, server_cpu=0.4)
        ]
        text = self.render(results)
        assert re.search(r"^ +client +median +min to max +÷ rawws-client +client CPU +floor CPU +remarks", text, re.M)
        assert re.search(r"picows on uvloop +2 000 +2 000 to 2 000 +2\.00 +40% +95% +floor-bound", text)
        assert "server" not in text

    def test_case_with_several_figures_has_a_table_for_each(self) -> None:
        text = self.render(results_of(LATENCY, rawws=[100.0]))
        assert [title in text for title in ("p50, µs", "p99, µs", "p99.9, µs")] == [True] * 3

    def test_chat_is_reported_in_milliseconds(self) -> None:
        text = self.render(results_of(CHAT, rawws_task=[123.0]))
        assert [f"delivery {name}, ms" in text for name in ("p50", "p99", "max")] == [True] * 3
        assert re.search(r"rawws, async handler +123 ", text)
        assert re.search(r"chat +rawws-task +≤ 250 +123 +reached", text)

    def test_figures_are_written_with_three_digits(self) -> None:
        pytest.importorskip("rich")
        from benchmarks.report import figure, time_text

        assert [figure(value) for value in (1069000, 44.12, 0.8734)] == ["1 069 000", "44.1", "0.87"]
        assert time_text(125.4) == "2:05"

    @pytest.mark.parametrize("terminal", [True, False])
    def test_progress_is_for_a_terminal(self, terminal: bool) -> None:
        console_module = pytest.importorskip("rich.console")
        from benchmarks.report import Display

        text = io.StringIO()
        console = console_module.Console(file=text, width=150, force_terminal=terminal)
        with Display(console, {"echo": 1.0}, 2, 2.0) as display:
            display.before(ECHO, RAWWS, 0)
            display.after(ECHO, RAWWS, Outcome(error="it is stuck"))
        assert ("1/2" in text.getvalue()) is terminal
        assert "echo, rawws: it is stuck" in text.getvalue()

    def test_chart_says_case_and_unit_and_is_the_same_twice(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from benchmarks.chart import draw_bars

        data = results_of(ECHO, rawws=[1000.0], picows=[2000.0]).to_json()
        assert draw_bars(data, tmp_path / "a.svg") == 1
        assert draw_bars(data, tmp_path / "b.svg") == 1
        text = (tmp_path / "a.svg").read_text()
        assert "Echo, 32 B text, 64 connections" in text
        assert "msg/s" in text
        assert text == (tmp_path / "b.svg").read_text()
        assert draw_bars(data, tmp_path / "c.svg", ["start"]) == 0

    def test_panels_put_the_best_on_top_whichever_way_is_better(self) -> None:
        from benchmarks.chart import panels

        start = next(case for case in CASES if case.name == "start")
        fastest = [
            panels(results_of(case, rawws=[1.0], picows=[2.0]).to_json())[0]["bars"][0]["peer"]
            for case in (ECHO, start)
        ]
        assert fastest == ["picows", "rawws"]


class Silent:
    """A watcher that keeps the order of what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def before(self, case: Case, peer: Peer, round_number: int) -> None:
        self.seen.append((case.name, peer.name, round_number))

    def after(self, case: Case, peer: Peer, outcome: Outcome) -> None:
        pass


class TestRun:
    def test_peers_take_turns_and_a_failed_one_is_not_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried = []

        def pretend(case: Case, peer: Peer, plan: Plan, files: object) -> Outcome:
            tried.append(peer.name)
            return Outcome(error="stuck") if peer is PICOWS else Outcome({"rate": float(len(tried))})

        monkeypatch.setattr("benchmarks.runner.measure", pretend)
        watcher = Silent()
        results = run([ECHO], [RAWWS, PICOWS, FLOOR], replace(QUICK, repeat=2), Results(MACHINE, REFERENCE), watcher)
        assert tried == ["rawws", "picows", "floor", "rawws", "floor"]
        assert [name for _, name, _ in watcher.seen] == ["rawws", "picows", "floor"] * 2
        assert results.row(ECHO, RAWWS).values(ECHO.metrics[0]) == [1.0, 4.0]
        assert results.row(ECHO, PICOWS).error == "stuck"

    def test_server_that_ends_at_once_is_an_error_with_its_last_words(self) -> None:
        broken = replace(PICOWS, program="no_such_server")
        with files_for(ECHO) as files:
            outcome = measure(ECHO, broken, QUICK, files)
        assert "the server ended with status 1" in outcome.error
        assert "no_such_server" in outcome.error


@needs_compiler
class TestLoadGeneratorAgainstTheFloor:
    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("echo", {"connections": 4}),
            ("pipelined", {"connections": 4}),
            ("binary-64k", {"connections": 2}),
            ("binary-1m", {"connections": 2}),
            ("broadcast", {"connections": 8, "settle": 0.02}),
            ("handshakes", {"connections": 4}),
            ("latency", {"connections": 4}),
        ],
    )
    def test_case_yields_its_figures(self, name: str, changes: dict[str, Any]) -> None:
        case = replace(next(case for case in CASES if case.name == name), **changes)
        with files_for(case) as files:
            outcome = measure(case, FLOOR, QUICK, files)
        assert outcome.error == ""
        assert set(outcome.values) == {metric.key for metric in case.metrics}
        assert all(value > 0 for value in outcome.values.values())
        assert outcome.client_cpu is not None
        assert outcome.server_cpu is not None

    def test_memory_is_read_after_two_rounds_of_pings(self) -> None:
        case = replace(next(case for case in CASES if case.name == "memory-1k"), connections=20)
        with files_for(case) as files:
            outcome = measure(case, FLOOR, QUICK, files)
        assert outcome.error == ""
        assert outcome.notes == ("keepalive off, the client pings",)

    def test_start_is_timed(self) -> None:
        case = next(case for case in CASES if case.name == "start")
        with files_for(case) as files:
            outcome = measure(case, FLOOR, QUICK, files)
        assert outcome.error == ""
        assert outcome.values["ms"] > 0


@needs_compiler
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.is_client], ids=lambda peer: peer.name)
def test_a_client_yields_its_figures(peer: Peer) -> None:
    if absent := peer.missing():
        pytest.skip(f"pip install {' '.join(peer.modules)}: {absent}")
    case = replace(CLIENT, connections=3)
    with files_for(case) as files:
        outcome = measure(case, peer, QUICK, files)
    assert outcome.error == ""
    assert outcome.values["rate"] > 0
    assert outcome.client_cpu is not None
    assert outcome.server_cpu is not None


@needs_compiler
def test_a_client_that_fails_says_why() -> None:
    peer = replace(next(peer for peer in PEERS if peer.is_client), program="no_such_client")
    with files_for(CLIENT) as files:
        assert "No module named" in measure(CLIENT, peer, QUICK, files).error


@needs_compiler
def test_chat_yields_its_figures() -> None:
    case = replace(CHAT, connections=12, period=0.02, settle=0.05)
    with files_for(case) as files:
        outcome = measure(case, RAWWS_TASK, QUICK, files)
    assert outcome.error == ""
    assert set(outcome.values) == {"p50_ms", "p99_ms", "max_ms", "rate"}
    assert 0 < outcome.values["p50_ms"] <= outcome.values["p99_ms"] <= outcome.values["max_ms"] + 0.01
    assert outcome.values["rate"] > 0
    assert outcome.client_cpu is not None
    assert outcome.server_cpu is not None


def _serve(connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    """Answer the Upgrade of one connection, then each batch of its frames with `answer`."""
    with connection, contextlib.suppress(OSError):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(4096)
        found = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert found is not None
        digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + b64encode(digest) + b"\r\n\r\n"
        )
        while data := connection.recv(4096):
            connection.sendall(answer(data))


@contextlib.contextmanager
def wrong_server(*answers: Callable[[bytes], bytes]) -> Iterator[int]:
    """Run a server that answers the frames of each connection with its own of `answers`; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def accept() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=_serve, args=(connection, answer)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            for thread in (acceptor, *threads):
                thread.join(10)


@pytest.mark.parametrize(
    ("own", "users", "found"),
    [
        ({"PYTHONPATH": "own"}, "one:two", "own:ROOT:one:two"),
        ({"PYTHONPATH": "own"}, None, "own:ROOT"),
        (None, "one", "ROOT:one"),
        (None, "", "ROOT"),
    ],
)
def test_a_process_finds_its_own_modules_then_the_suite_then_those_of_the_user(
    own: dict[str, str] | None, users: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if users is not None:
        monkeypatch.setenv("PYTHONPATH", users)
    program = "import json, os; print(json.dumps({'path': os.environ['PYTHONPATH']}))"
    report = run_client([sys.executable, "-c", program], None, 10, own)
    assert report["path"] == found.replace("ROOT", str(build.ROOT))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("style", "imported"), [((), True), (("plain",), False)], ids=["with", "without"])
def test_numpy_serves_large_messages_unless_the_server_is_to_do_without(style: tuple[str, ...], imported: bool) -> None:
    pytest.importorskip("numpy")
    with serving(replace(RAWWS, style=style), "echo", Cores(None, None)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                # FIN and binary, masked, 65536 bytes
                b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00" + b"\x01\x02\x03\x04" + bytes(65536)
            )
            received = b""
            while not received.endswith(b"\x01\x02\x03\x04" * 16384):
                data = connection.recv(65536)
                assert data
                received += data
        with open(f"/proc/{server.pid}/maps") as file:
            assert ("numpy" in file.read()) is imported


@needs_compiler
class TestLoadGeneratorRefusesWrongReplies:
    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            # FIN and binary instead of FIN and text
            (b"\x82\x20" + bytes(32), "first byte of a reply is 0x82, not 0x81"),
            # RSV1 although nothing was negotiated
            (b"\xc1\x20" + bytes(32), "first byte of a reply is 0xc1, not 0x81"),
            # text without FIN
            (b"\x01\x20" + bytes(32), "first byte of a reply is 0x01, not 0x81"),
            # 31 bytes instead of 32
            (b"\x81\x1f" + bytes(31), "a reply of 31 bytes, not 32"),
            # the right header, other content
            (b"\x81\x20" + bytes(32), "other content than its message"),
            # a masked frame from a server
            (b"\x81\xa0" + bytes(36), "a masked frame from the server"),
            # Close, 1011
            (b"\x88\x02\x03\xf3", "the server closed connection 0 with 1011"),
        ],
        ids=["opcode", "rsv1", "fin", "length", "content", "mask", "close"],
    )
    def test_reply_is_an_error(self, answer: bytes, complaint: str) -> None:
        with (
            files_for(ECHO) as files,
            wrong_server(lambda data: answer) as port,
            pytest.raises(BenchmarkError, match=re.escape(complaint)),
        ):
            generate(
                "echo", port, None, 10,
                connections=1, seconds=0.2, warmup=0, payloads=files.payloads, keys=files.keys,
            )  # fmt: skip

    def test_refused_upgrade_is_an_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, files_for(ECHO) as files:

            def refuse() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

            thread = threading.Thread(target=refuse)
            thread.start()
            with pytest.raises(BenchmarkError, match=r"the handshake was answered with: HTTP/1\.1 503"):
                generate(
                    "echo", listener.getsockname()[1], None, 10,
                    connections=1, seconds=0.2, payloads=files.payloads, keys=files.keys,
                )  # fmt: skip
            thread.join(10)


class Echo:
    """A right answer to each message of 32 bytes, to the first `replies` of them alone."""

    def __init__(self, replies: float = math.inf) -> None:
        self.replies = replies
        self.pending = b""

    def __call__(self, data: bytes) -> bytes:
        self.pending += data
        answers: list[bytes] = []
        while len(self.pending) >= 38:
            frame, self.pending = self.pending[:38], self.pending[38:]
            assert frame[:2] == b"\x81\xa0"  # FIN and text, masked, 32 bytes
            key, payload = frame[2:6], frame[6:]
            if len(answers) < self.replies:
                answers.append(b"\x81\x20" + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)))
        self.replies -= len(answers)
        return b"".join(answers)


@needs_compiler
class TestLoadGeneratorRefusesServersThatFallSilent:
    """A server that answers until the clock starts, or that forgets some of its connections."""

    def run(self, mode: str, *answers: Callable[[bytes], bytes], **options: object) -> dict[str, Any]:
        with files_for(ECHO) as files, wrong_server(*answers) as port:
            return generate(
                mode, port, None, 10,
                connections=len(answers), seconds=0.2, payloads=files.payloads, keys=files.keys, **options,
            )  # fmt: skip

    def test_without_a_reply_in_the_measured_time_there_is_no_rate(self) -> None:
        with pytest.raises(BenchmarkError, match=r"nothing was answered in the measured 0\.2 s"):
            self.run("echo", Echo(replies=3), warmup=0.2)

    def test_each_connection_must_have_a_reply(self) -> None:
        with pytest.raises(BenchmarkError, match=r"1 of 2 connections had no reply in the measured 0\.2 s"):
            self.run("echo", Echo(), Echo(replies=3), warmup=0.2)

    def test_a_connection_that_sends_nothing_needs_no_reply(self) -> None:
        assert self.run("echo", Echo(), lambda data: b"", warmup=0, active=1)["messages"] > 0

    def test_each_receiver_of_a_broadcast_must_hear_something(self) -> None:
        with pytest.raises(BenchmarkError, match=r"1 of 2 connections heard nothing in the measured 0\.2 s"):
            self.run("broadcast", Echo(), lambda data: b"", warmup=0, depth=64)

    def test_each_slot_for_handshakes_must_see_one(self) -> None:
        with pytest.raises(BenchmarkError, match=r"nothing was answered in the measured 0\.2 s"):
            self.run("handshakes", lambda data: b"", warmup=0)


class WrongRoom:
    """A chat of one member, who hears what it says as `wrong` has changed it."""

    def __init__(self, wrong: Callable[[dict[str, Any]], dict[str, Any]] = lambda message: message) -> None:
        self.wrong = wrong
        self.name = ""
        self.last_id = 0

    def __call__(self, data: bytes) -> bytes:
        return b"".join(map(self.answer, self.messages(data)))

    @staticmethod
    def messages(data: bytes) -> Iterator[dict[str, Any]]:
        """Read masked text frames; a message of the generator comes whole, maybe several in one read."""
        while data:
            assert data[0] == 0x81
            length, at = data[1] & 127, 2
            if length == 126:
                length, at = int.from_bytes(data[2:4], "big"), 4
            key, payload = data[at : at + 4], data[at + 4 : at + 4 + length]
            yield json.loads(bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)))
            data = data[at + 4 + length :]

    def answer(self, message: dict[str, Any]) -> bytes:
        if message["type"] == "hello":
            self.name = message["name"]
            return b"".join(
                self.frame({"room": "benchmark"} | fields)
                for fields in (
                    {"type": "welcome", "version": 1},
                    {"type": "history", "kind": "recent", "more": False, "messages": []},
                    {"type": "presence", "event": "members", "name": self.name, "members": [self.name]},
                )
            )
        self.last_id += 1
        return self.frame(self.wrong({**message, "id": self.last_id, "time": 1, "name": self.name}))

    @staticmethod
    def frame(fields: dict[str, Any]) -> bytes:
        """FIN and text, 126 to 65535 bytes."""
        text = json.dumps(fields, separators=(",", ":")).ljust(126).encode()
        return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


@needs_compiler
class TestChatGeneratorRefusesWrongRooms:
    def run(self, *rooms: WrongRoom) -> dict[str, Any]:
        with files_for(CHAT) as files, wrong_server(*rooms) as port:
            return generate(
                "chat", port, None, 10,
                connections=len(rooms), seconds=0.2, warmup=0, period=0.04, payloads=files.payloads, keys=files.keys,
            )  # fmt: skip

    def test_right_room_is_measured(self) -> None:
        report = self.run(WrongRoom())
        assert report["said"] == report["samples"] == 5
        assert 0 < report["p50_ms"] <= report["p99_ms"] <= report["max_ms"] + 0.01

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            ({"text": "other words"}, "a message with another text than was said"),
            ({"name": "member 1"}, "a message with another sender's name"),
            ({"room": "elsewhere"}, "not a message of the room"),
            ({"type": "typing"}, "not a message of the room"),
            ({"type": "error", "code": "unavailable"}, "member 0 was told of an error"),
            ({"client": "0-1"}, "a message that nobody sent, or out of its sender's order"),
            ({"client": "1-0"}, "a message that nobody sent, or out of its sender's order"),
            ({"client": "0-0"}, "a message that nobody sent, or out of its sender's order"),
            ({"id": 7}, "id 7 after id 7"),
        ],
        ids=["text", "name", "room", "type", "error", "early", "stranger", "twice", "id"],
    )
    def test_message_is_an_error(self, wrong: dict[str, Any], complaint: str) -> None:
        with pytest.raises(BenchmarkError, match=re.escape(complaint)):
            self.run(WrongRoom(lambda message: message | wrong))

    def test_members_who_do_not_hear_the_same_are_an_error(self) -> None:
        with pytest.raises(BenchmarkError, match="did not get what others got"):
            self.run(WrongRoom(), WrongRoom())


@needs_compiler
class TestBuild:
    def test_program_is_built_once_and_again_when_its_source_is_newer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build, "BUILD", tmp_path)
        program = build.program("floor")
        first = program.stat().st_mtime_ns
        assert build.program("floor").stat().st_mtime_ns == first
        source = (build.ROOT / "benchmarks" / "floor.c").stat().st_mtime_ns
        os.utime(program, ns=(source - 1, source - 1))
        assert build.program("floor").stat().st_mtime_ns > source
        header = (build.ROOT / "benchmarks" / "client.h").stat().st_mtime_ns
        os.utime(program, ns=(header, header))
        assert build.program("floor").stat().st_mtime_ns > header

    def test_compiler_may_have_options(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build, "BUILD", tmp_path)
        monkeypatch.setenv("CC", f"{os.environ.get('CC', 'cc')} -DOPTION='1 + 1'")
        assert build.compiler()[-1] == "-DOPTION=1 + 1"
        assert build.program("floor").exists()

    def test_sources_compile_without_warnings(self, tmp_path: Path) -> None:
        for name in ("load", "chat", "room", "floor"):
            source = build.ROOT / "benchmarks" / f"{name}.c"
            done = subprocess.run(
                [
                    *build.compiler(),
                    "-O2",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-o",
                    str(tmp_path / name),
                    str(source),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr


class TestCommands:
    """What is wrong with a call is said in a sentence, with status 2."""

    @pytest.fixture(autouse=True)
    def extra(self) -> None:
        pytest.importorskip("rich")
        pytest.importorskip("matplotlib")

    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        from benchmarks.__main__ import main

        try:
            status: object = main(arguments)
        except SystemExit as end:
            status = end.code
        assert status == 2
        return capsys.readouterr().err

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
    @pytest.mark.parametrize("command", [["echo"], ["growth"], ["compare", "HEAD"], ["codec"]], ids=lambda it: it[0])
    def test_seconds_must_be_a_time(self, command: list[str], seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "must be positive" in self.refused(capsys, *command, f"--seconds={seconds}")

    @pytest.mark.parametrize("option", ["--warmup=nan", "--warmup=-1", "--repeat=0"])
    def test_the_rest_of_the_plan_too(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "must be positive" in self.refused(capsys, "echo", option)

    def test_a_codec_without_turns_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "must be positive" in self.refused(capsys, "codec", "--repeat=0")

    @pytest.mark.parametrize("command", [["tables", "FILE"], ["chart", "FILE", "out.svg"]], ids=lambda it: it[0])
    def test_a_file_without_results_is_refused(
        self, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "results.json"
        words = [str(path) if word == "FILE" else word for word in command]
        assert f"cannot read {path}: No such file or directory" in self.refused(capsys, *words)
        for text in ("{", "[]", "{}", '{"machine": {}}', "\udcff"):
            path.write_bytes(text.encode(errors="surrogateescape"))
            assert f"{path} has no results" in self.refused(capsys, *words)

    def test_results_that_have_no_table_are_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"machine": MACHINE, "plots": []}))
        assert f"{path} has plots, and no tables" in self.refused(capsys, "tables", str(path))
        path.write_text(json.dumps(results_of(ECHO, rawws=[1.0]).to_json()).replace('"rawws"', '"rawws-tree"'))
        assert f"{path} names 'rawws-tree', which" in self.refused(capsys, "tables", str(path))

    def test_a_part_of_the_cases_has_a_part_of_the_columns(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from benchmarks.__main__ import main

        path = tmp_path / "results.json"
        path.write_text(json.dumps(results_of(ECHO, rawws=[2000.0]).to_json()))
        assert main(["tables", str(path)]) == 0
        assert capsys.readouterr().out == (
            "\n| server | 64 |\n| --- | ---: |\n| rawws, Protocol | 2.00 |\n\n"
            "| case | of | bound | measured |  |\n| --- | --- | --- | ---: | --- |\n"
        )

    @pytest.mark.parametrize(
        "arguments",
        [("client-1", "--peers", "rawws"), ("echo", "--peers", "rawws-client"), ("deflate", "--peers", "picows")],
        ids=" ".join,
    )
    def test_where_nothing_is_to_be_measured_old_results_stay(
        self, arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "results.json"
        path.write_text("{}")
        assert "there is nothing to measure" in self.refused(capsys, *arguments, "--json", str(path))
        assert path.read_text() == "{}"

    @pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
    def test_without_a_compiler_that_works_nothing_is_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(build, "BUILD", tmp_path / "build")
        json_path = tmp_path / "results.json"
        words = ("echo", "--peers", "rawws", "--json", str(json_path))
        broken = tmp_path / "cc"
        broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
        broken.chmod(0o755)
        for compiler, complaint in (
            (str(tmp_path / "nowhere"), "no C compiler"),
            ("cc '", "no C compiler"),
            (f"{broken} -O1", "it is broken"),
            ("false", "false ended with status 1"),
        ):
            monkeypatch.setenv("CC", compiler)
            assert self.refused(capsys, *words) == f"cannot build load.c: {complaint}\n"
        assert not json_path.exists()


class TestCodec:
    def test_is_measured_without_websockets(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich")
        from benchmarks import codec

        for name in ("websockets", "websockets.speedups"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(codec, "CASES", [case for case in codec.CASES if case.payload.size <= 4096])
        assert codec.main(["--seconds", "0.0001", "--repeat", "1"]) == 0
        output = capsys.readouterr().out
        assert "skipped websockets: not installed" in output
        assert [output.count(f"{name}, ") for name in ("decode", "encode", "unmask", "inflate", "deflate")] == [
            2, 2, 2, 1, 1,
        ]  # fmt: skip

    def test_an_interrupted_one_shows_what_it_measured(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("rich")
        from benchmarks import codec

        turns = iter([[codec.Timing("rawws", [1.0])]])

        def measure_case(works: object, seconds: float, repeat: int) -> list[codec.Timing]:
            for turn in turns:
                return turn
            raise KeyboardInterrupt

        monkeypatch.setattr(codec, "measure_case", measure_case)
        assert codec.main([]) == 1
        output = capsys.readouterr().out
        assert "interrupted: what follows is what was measured until then" in output
        assert "decode, 32 B" in output
        assert "encode" not in output

    def test_wrong_result_ends_the_measurement(self) -> None:
        from benchmarks.codec import measure_case
        from benchmarks.codec_subjects import Work

        with pytest.raises(ValueError, match="nobody returns a wrong result"):
            measure_case([Work("nobody", lambda: 1, lambda got: got == 2)], 0.001, 1)

    @pytest.mark.parametrize("operation", ["decode", "encode", "unmask", "inflate", "deflate", "handshake"])
    def test_everybody_does_the_same_work(self, operation: str) -> None:
        pytest.importorskip("websockets.speedups")
        from benchmarks.codec import CASES as CODEC_CASES
        from benchmarks.codec import measure_case
        from benchmarks.codec_subjects import subjects

        for case in CODEC_CASES:
            if case.operation == operation and case.payload.size <= 4096:
                timings = measure_case(subjects(operation, case.payload), 0.0001, 1)
                assert timings[0].subject == "rawws"
                assert all(value for timing in timings for value in timing.microseconds)


class TestGrowth:
    def test_points_carry_what_the_axis_says(self) -> None:
        pytest.importorskip("rich")
        from benchmarks.growth import PLOTS, plot_cases, plot_data

        room = next(plot for plot in PLOTS if plot.name == "room")
        cases = plot_cases(room)
        assert [case.connections for case in cases] == list(room.sizes)
        results = Results(MACHINE, REFERENCE)
        for case in cases[:2]:
            results.row(case, RAWWS).outcomes.append(Outcome({"rate": 10_000.0}))
        # 10 and 100 deliveries at 10 000 a second take 1 and 10 ms.
        assert plot_data(results, [room])["plots"][0]["series"] == {RAWWS.label: [[10, 1.0], [100, 10.0]]}

    def test_at_most_64_connections_are_busy(self) -> None:
        pytest.importorskip("rich")
        from benchmarks.growth import PLOTS, plot_cases

        connections = next(plot for plot in PLOTS if plot.name == "connections")
        assert [case.active for case in plot_cases(connections)] == [1, 10, 64, 64, 64]

    def test_plots_are_drawn(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from benchmarks.chart import draw_lines

        plot = {"name": "room", "title": "Time", "unit": "ms", "axis": "room", "log": True}
        data = {"machine": MACHINE, "plots": [{**plot, "series": {"rawws": [[10, 1.0], [100, 9.0]]}}]}
        assert draw_lines(data, tmp_path / "growth.svg") == 1
        assert "Time" in (tmp_path / "growth.svg").read_text()
        assert draw_lines({"machine": MACHINE, "plots": [{**plot, "series": {}}]}, tmp_path / "none.svg") == 0


class TestCompare:
    def test_revision_is_unpacked_and_an_unknown_one_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("rich")
        from benchmarks.compare import unpack

        repository = tmp_path / "repository"
        (repository / "src" / "rawws").mkdir(parents=True)
        (repository / "src" / "rawws" / "__init__.py").write_text("old = True\n")
        git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.com"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "old"]):
            subprocess.run([*git, *arguments], check=True, capture_output=True)
        monkeypatch.setattr(build, "ROOT", repository)
        folder = tmp_path / "there"
        folder.mkdir()
        assert re.fullmatch("[0-9a-f]{7,}", unpack("HEAD", folder))
        assert (folder / "src" / "rawws" / "__init__.py").read_text() == "old = True\n"
        with pytest.raises(ValueError, match="git does not know the revision 'nowhere'"):
            unpack("nowhere", folder)

    def test_table_has_the_ratio_of_tree_to_revision(self) -> None:
        console_module = pytest.importorskip("rich.console")
        from benchmarks.compare import comparison_table

        tree, old = variant(RAWWS, "tree", "here"), variant(RAWWS, "abc1234", "there")
        results = Results(MACHINE, old.name)
        for peer, rate in ((tree, 1100.0), (old, 1000.0)):
            results.row(ECHO, peer).outcomes.append(Outcome({"rate": rate}))
        text = io.StringIO()
        console_module.Console(file=text, width=150).print(comparison_table(results, [(tree, old)]))
        assert re.search(r"rawws-tree +1 000 +1 100 +1\.100", text.getvalue())


def test_command_of_a_run_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "binary-*", "--peers", "rawws, picows"])
    assert describe([])["command"] == "python -m benchmarks 'binary-*' --peers 'rawws, picows'"


def test_cores_are_two_different_ones_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert Cores.choose() == Cores(3, 5)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3}, raising=False)
    assert Cores.choose() == Cores(3, 3)
