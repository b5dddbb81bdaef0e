"""Which cases are played against which endpoint, and by which process.

An agent is what Autobahn's reports call what is under test: here one endpoint with the fast lane on or off, or
the client. `select` turns what a person asks for into case numbers. `shards` deals an agent's cases to `wstest`
processes: each section of the compression cases (12.1 … 13.7, nearly all of the time) is one, the rest
another, so that processes can share the work evenly.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CASES_IN_ALL",
    "CASES_WITHOUT_COMPRESSION",
    "Agent",
    "Shard",
    "agents",
    "client_agents",
    "select",
    "shards",
]

CASES_IN_ALL = 517
"""Cases of autobahntestsuite 0.8.2."""
CASES_WITHOUT_COMPRESSION = 301
"""Those of them outside sections 12 and 13."""

_COMPRESSION = ("12", "13")
_TARGETS = {"echo": ("protocol", "/echo"), "task": ("task", "/echo/task")}


@dataclass(frozen=True, slots=True)
class Agent:
    """One endpoint of one server, or the client, and the cases that are played against it."""

    name: str
    path: str
    fast_lane: bool
    cases: tuple[str, ...]
    is_client: bool = False


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of an agent's cases that one `wstest` process plays, in order."""

    agent: Agent
    label: str
    cases: tuple[str, ...]


def select(known: Sequence[str], selection: str) -> tuple[str, ...]:
    """Pick from the suite's cases, keeping their order.

    Args:
        known: every case of the suite, such as `1.1.1`.
        selection: `all`, `no-compression`, or case numbers and patterns with `*`, separated by commas.

    Raises:
        ValueError: a number or pattern of `selection` matches no case.
    """
    if selection == "all":
        return tuple(known)
    if selection == "no-compression":
        return tuple(case for case in known if _major(case) not in _COMPRESSION)
    wanted: set[str] = set()
    for pattern in selection.split(","):
        matches = fnmatch.filter(known, pattern.strip())
        if not matches:
            raise ValueError(f"no case of the suite matches {pattern.strip()!r}")
        wanted.update(matches)
    return tuple(case for case in known if case in wanted)


def agents(
    known: Sequence[str],
    *,
    targets: Iterable[str],
    lanes: Iterable[bool],
    profile: str,
    selection: str | None = None,
) -> list[Agent]:
    """List what is to be tested.

    Args:
        known: every case of the suite.
        targets: of `echo` (a `Protocol`) and `task` (an async handler).
        lanes: of True (fast lane on) and False.
        profile: `full` plays every case everywhere; `ci` plays the compression cases only against the
            `Protocol` with the lane on, because they take nearly all of the time.
        selection: cases for every agent, as `select` takes them, whatever the profile says.

    Raises:
        ValueError: a target that does not exist, or a selection that matches nothing.
    """
    chosen: list[Agent] = []
    for fast_lane in lanes:
        for target in targets:
            if target not in _TARGETS:
                raise ValueError(f"no target {target!r}: choose from {', '.join(_TARGETS)}")
            kind, path = _TARGETS[target]
            whole = profile == "full" or (target == "echo" and fast_lane)
            cases = select(known, selection or ("all" if whole else "no-compression"))
            name = f"rawws-{kind}-lane-{'on' if fast_lane else 'off'}"
            chosen.append(Agent(name, path, fast_lane, cases))
    return chosen


def client_agents(
    known: Sequence[str], *, lanes: Iterable[bool], profile: str, selection: str | None = None
) -> list[Agent]:
    """List what is to be tested of the client.

    Args:
        known, lanes, selection: as for `agents`.
        profile: `full` plays every case; `ci` those without compression, and with the lane on the first one of each
            section of those with it.
    """
    chosen: list[Agent] = []
    for fast_lane in lanes:
        if selection is not None:
            cases = select(known, selection)
        elif profile == "full":
            cases = select(known, "all")
        else:
            sampled = [case for case in known if fast_lane and _major(case) in _COMPRESSION and case.endswith(".1")]
            cases = (*select(known, "no-compression"), *sampled)
        chosen.append(Agent(f"rawws-client-lane-{'on' if fast_lane else 'off'}", "", fast_lane, cases, is_client=True))
    return chosen


def shards(agents: Iterable[Agent]) -> list[Shard]:
    """Deal the cases of each agent to processes, those that take longest first."""
    dealt: list[Shard] = []
    for agent in agents:
        parts: dict[str, list[str]] = {}
        for case in agent.cases:
            compressed = _major(case) in _COMPRESSION
            label = ".".join(case.split(".")[:2]) if compressed else "core"
            parts.setdefault(label, []).append(case)
        dealt += [Shard(agent, label, tuple(cases)) for label, cases in parts.items()]
    return sorted(dealt, key=lambda shard: shard.label == "core")


def _major(case: str) -> str:
    return case.split(".", 1)[0]
