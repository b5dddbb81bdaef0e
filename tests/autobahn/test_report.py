"""The harness tells a pass from everything else, without Autobahn: it reads reports made here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from . import report
from .plan import Agent, agents, select, shards

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AGENT = "rawws-protocol-lane-on"
KNOWN = ("1.1.1", "1.1.2", "6.4.1", "9.1.6", "10.1.1", "12.1.1", "12.1.2", "12.2.1", "13.7.18")


def entry(behavior: str, behavior_close: str, case: str = "1.1.1") -> dict[str, object]:
    """Make what `index.json` says of one case."""
    return {
        "behavior": behavior,
        "behaviorClose": behavior_close,
        "duration": 2,
        "remoteCloseCode": 1000,
        "reportfile": f"rawws_protocol_lane_on_case_{case.replace('.', '_')}.json",
    }


def write(folder: Path, agent: str, cases: Mapping[str, object]) -> Path:
    """Write an `index.json` as wstest does."""
    index = folder / "index.json"
    index.write_text(json.dumps({agent: cases}))
    return index


@pytest.mark.parametrize("behavior", ["OK", "INFORMATIONAL"])
@pytest.mark.parametrize("behavior_close", ["OK", "INFORMATIONAL"])
def test_ok_and_informational_pass(tmp_path: Path, behavior: str, behavior_close: str) -> None:
    index = write(tmp_path, AGENT, {"1.1.1": entry(behavior, behavior_close)})
    results = report.read(index, AGENT, ["1.1.1"])
    assert report.passed(results)
    assert report.problems(results) == []


@pytest.mark.parametrize("verdict", ["NON-STRICT", "UNIMPLEMENTED", "FAILED", "UNCLEAN", "WRONG CODE", "ok", ""])
def test_any_other_verdict_fails_in_either_place(tmp_path: Path, verdict: str) -> None:
    cases = {"1.1.1": entry(verdict, "OK"), "1.1.2": entry("OK", verdict, "1.1.2")}
    results = report.read(write(tmp_path, AGENT, cases), AGENT, ["1.1.1", "1.1.2"])
    assert [result.passed for result in results] == [False, False]
    assert not report.passed(results)


def test_a_problem_names_case_verdicts_and_the_page_to_open(tmp_path: Path) -> None:
    index = write(tmp_path, AGENT, {"6.4.1": entry("NON-STRICT", "OK", "6.4.1")})
    assert report.problems(report.read(index, AGENT, ["6.4.1"])) == [
        f"{AGENT} case 6.4.1: behavior NON-STRICT, closing OK, "
        f"see {tmp_path / 'rawws_protocol_lane_on_case_6_4_1.html'}"
    ]


def test_at_most_forty_problems_are_named_and_the_rest_counted() -> None:
    results = [report.Result(AGENT, f"6.{n}", "FAILED", "OK") for n in range(45)]
    lines = report.problems(results)
    assert len(lines) == 41
    assert lines[-1] == "… and 5 more"


def test_a_case_that_is_not_in_the_report_has_failed(tmp_path: Path) -> None:
    index = write(tmp_path, AGENT, {"1.1.1": entry("OK", "OK")})
    results = report.read(index, AGENT, ["1.1.1", "1.1.2"])
    assert [(result.case, result.behavior) for result in results] == [("1.1.1", "OK"), ("1.1.2", "MISSING")]
    assert not report.passed(results)


def test_cases_of_another_agent_do_not_count(tmp_path: Path) -> None:
    index = write(tmp_path, "another", {"1.1.1": entry("OK", "OK")})
    assert not report.passed(report.read(index, AGENT, ["1.1.1"]))


def test_no_report_at_all_means_that_every_case_failed(tmp_path: Path) -> None:
    results = report.read(tmp_path / "index.json", AGENT, KNOWN)
    assert len(results) == len(KNOWN)
    assert not any(result.passed for result in results)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"rawws-protocol-lane-on": {"1.1.1": {"behav',
        b"[]",
        b'{"rawws-protocol-lane-on": []}',
        b'{"rawws-protocol-lane-on": {"1.1.1": "OK"}}',
        b'{"rawws-protocol-lane-on": {"1.1.1": {}}}',
        b'{"rawws-protocol-lane-on": {"1.1.1": {"behavior": "OK"}}}',
    ],
)
def test_a_report_cut_short_or_of_another_shape_is_no_pass(tmp_path: Path, text: bytes) -> None:
    index = tmp_path / "index.json"
    index.write_bytes(text)
    assert not report.passed(report.read(index, AGENT, ["1.1.1"]))


def test_nothing_played_is_no_pass() -> None:
    assert not report.passed([])


def test_the_table_counts_each_agent_and_all_together() -> None:
    results = [
        report.Result("a", "1", "OK", "OK"),
        report.Result("a", "2", "OK", "INFORMATIONAL"),
        report.Result("b", "1", "NON-STRICT", "OK"),
        report.Result("b", "2", report.MISSING, report.MISSING),
    ]
    assert [line.split() for line in report.table(results).splitlines()] == [
        ["agent", "cases", "OK", "INFORMATIONAL", "other", "missing"],
        ["a", "2", "1", "1", "0", "0"],
        ["b", "2", "0", "0", "1", "1"],
        ["total", "4", "1", "1", "1", "1"],
    ]


def test_all_selects_everything_and_no_compression_leaves_out_sections_12_and_13() -> None:
    assert select(KNOWN, "all") == KNOWN
    assert select(KNOWN, "no-compression") == ("1.1.1", "1.1.2", "6.4.1", "9.1.6", "10.1.1")


def test_a_list_selects_numbers_and_patterns_in_the_suites_order() -> None:
    assert select(KNOWN, "12.1.*, 1.*, 9.1.6") == ("1.1.1", "1.1.2", "9.1.6", "12.1.1", "12.1.2")


def test_a_case_that_does_not_exist_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ValueError, match=r"no case of the suite matches '99\.1'"):
        select(KNOWN, "1.1.1,99.1")


def test_the_full_profile_plays_every_case_against_both_endpoints_on_both_lanes() -> None:
    planned = agents(KNOWN, targets=["echo", "task"], lanes=[True, False], profile="full")
    assert planned == [
        Agent("rawws-protocol-lane-on", "/echo", True, KNOWN),
        Agent("rawws-task-lane-on", "/echo/task", True, KNOWN),
        Agent("rawws-protocol-lane-off", "/echo", False, KNOWN),
        Agent("rawws-task-lane-off", "/echo/task", False, KNOWN),
    ]


def test_the_ci_profile_plays_compression_only_against_the_protocol_with_the_lane_on() -> None:
    planned = agents(KNOWN, targets=["echo", "task"], lanes=[True, False], profile="ci")
    assert [len(agent.cases) for agent in planned] == [9, 5, 5, 5]


def test_a_selection_holds_for_every_agent_whatever_the_profile() -> None:
    planned = agents(KNOWN, targets=["task"], lanes=[False], profile="ci", selection="12.1.1")
    assert planned == [Agent("rawws-task-lane-off", "/echo/task", False, ("12.1.1",))]


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="no target 'chat': choose from echo, task"):
        agents(KNOWN, targets=["chat"], lanes=[True], profile="full")


def test_shards_hold_every_case_once_with_the_slow_ones_first() -> None:
    planned = agents(KNOWN, targets=["echo", "task"], lanes=[True], profile="full")
    dealt = shards(planned)
    assert [shard.label for shard in dealt] == [
        "12.1",
        "12.2",
        "13.7",
        "12.1",
        "12.2",
        "13.7",
        "core",
        "core",
    ]
    for agent in planned:
        played = [case for shard in dealt if shard.agent == agent for case in shard.cases]
        assert sorted(played) == sorted(agent.cases)
