"""The rules of the soak: each is broken by what it is there for. The soak itself is a chore and a step of CI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.chart import draw_timelines

from tests.soak.rules import MIN_RISE, broken_rules, line_through, percentile

if TYPE_CHECKING:
    from pathlib import Path


def summary(**changed: Any) -> dict[str, Any]:
    """What a soak without a fault says, but for what is changed."""
    return {
        "errors": [],
        "spared": [],
        "attacks": {"garbage": 3},
        "most_connections": 1000,
        "wanted_connections": 1000,
        "memory": {"at_warm_up": 50e6, "rise": 0.0},
        "descriptors": {"left": 110, "expected": 110},
        "kept": 100,
        "parted": 100,
        "exit_status": 0,
        "shutdown_seconds": 0.2,
        "shutdown_allowed": 15.0,
        "logged": "",
        **changed,
    }


def test_a_soak_without_a_fault_breaks_no_rule() -> None:
    assert broken_rules(summary()) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"errors": ["echo: a wrong reply", "x"]}, "healthy peers: 2 errors, the first: echo: a wrong reply"),
        ({"spared": ["a_bomb: x"]}, "hostile peers: 1 did not get what they deserve, the first: a_bomb: x"),
        ({"attacks": {"garbage": 0, "a_bomb": 1}}, "hostile peers: never seen to the end: garbage"),
        ({"most_connections": 949}, "load: 949 connections at most, 1000 were wanted"),
        (
            {"memory": {"at_warm_up": 50e6, "rise": MIN_RISE + 1e5}},
            "memory: rose by 8.5 MB after the warm-up, 8.4 MB are allowed",
        ),
        (
            {"memory": {"at_warm_up": 200e6, "rise": 16.1e6}},
            "memory: rose by 16.1 MB after the warm-up, 16.0 MB are allowed",
        ),
        (
            {"descriptors": {"left": 111, "expected": 110}},
            "descriptors: 111 were open when all but 100 peers had left, 110 were expected",
        ),
        ({"parted": 99}, "shutdown: 99 of 100 peers had a good end"),
        ({"exit_status": -9}, "shutdown: the server ended with -9"),
        ({"exit_status": None}, "shutdown: the server ended with None"),
        ({"shutdown_seconds": 15.1}, "shutdown: it took 15.1 s"),
        ({"logged": "ValueError"}, "log: ValueError"),
    ],
)
def test_a_broken_rule_is_named(changed: dict[str, Any], sentence: str) -> None:
    assert broken_rules(summary(**changed)) == [sentence]


def test_the_line_of_points_on_a_line_is_that_line() -> None:
    slope, height = line_through([(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)])
    assert slope == pytest.approx(2.0)
    assert height == pytest.approx(3.0)


def test_what_comes_and_goes_has_no_slope() -> None:
    slope, _ = line_through([(float(x), 10.0 + (x % 2)) for x in range(101)])
    assert abs(slope) < 0.001


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(100)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([3.0], 0.99) == 3.0


def test_timelines_are_drawn(tmp_path: Path) -> None:
    plot = {"title": "memory", "legend": "lower right", "series": {"a": [(0, 1), (1, 2)], "line": [(0, 1), (1, 1)]}}
    machine = {"cpu": "a processor", "kernel": "Linux", "python": "CPython 3", "date": "2026-01-01"}
    assert draw_timelines({"machine": machine, "plots": [plot, plot]}, tmp_path / "soak.svg") == 2
    text = (tmp_path / "soak.svg").read_text()
    assert text.count("memory") == 2
    assert "a processor" in text
