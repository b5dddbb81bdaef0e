"""What the measuring commands share: their options, and a run behind a progress bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks import build
from benchmarks.machine import describe
from benchmarks.processes import BenchmarkError, raise_descriptor_limit
from benchmarks.report import Display
from benchmarks.results import Results
from benchmarks.runner import Plan, programs, run, step_seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.console import Console

    from benchmarks.cases import Case
    from benchmarks.registry import Peer

__all__ = ["add_plan_arguments", "measure_all", "plan_from"]

_OWN_DESCRIPTORS = 64
"""Descriptors that a server or the load generator needs besides its connections."""


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every measuring command has."""
    parser.add_argument("--seconds", type=float, default=2.0, help="measured seconds of one run (default: 2)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before them (default: 0.5)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each peer in each case (default: 3)")


def plan_from(arguments: argparse.Namespace) -> Plan:
    """Return the plan that the options describe.

    Raises:
        ValueError: there would be nothing to measure.
    """
    if not 0 < arguments.seconds < math.inf or not 0 <= arguments.warmup < math.inf or arguments.repeat < 1:
        raise ValueError("--seconds and --repeat must be positive, --warmup not negative, and all of them finite")
    return Plan(arguments.seconds, arguments.warmup, arguments.repeat)


def measure_all(
    console: Console, cases: Sequence[Case], peers: Sequence[Peer], plan: Plan, reference: str
) -> tuple[Results, bool]:
    """Run cases on peers behind a progress bar; return the results, and whether the run came to its end.

    Raises:
        BenchmarkError: no step remains.
        BuildError: a program that the run needs cannot be compiled.
    """
    limit = raise_descriptor_limit()
    absent = {peer.name: reason for peer in peers if (reason := peer.missing())}
    for name, reason in absent.items():
        console.print(f"skipped {name}: {reason}")
    present = [peer for peer in peers if peer.name not in absent]
    fitting = [case for case in cases if case.connections + _OWN_DESCRIPTORS <= limit]
    for case in cases:
        if case not in fitting:
            console.print(f"skipped {case.name}: needs {case.connections} descriptors, the limit is {limit}")
    if plan.cores.server == plan.cores.load:
        console.print("only one core: the load generator and the server share it, the figures say little")
    results = Results(
        {**describe(present), "cores_used": [plan.cores.server, plan.cores.load]}, reference, absent=absent
    )
    seconds = {case.name: step_seconds(case, plan) for case in fitting}
    steps = [
        (case, peer) for case in fitting for peer in present if peer.takes_part(case) and not peer.unsupported(case)
    ]
    if not steps:
        raise BenchmarkError("there is nothing to measure: none of these peers takes part in any of these cases here")
    for name in sorted(set[str]().union(*(programs(case, peer) for case, peer in steps))):
        build.program(name)
    total = plan.repeat * sum(seconds[case.name] for case, _ in steps)
    try:
        with Display(console, seconds, plan.repeat * len(steps), total) as display:
            run(fitting, present, plan, results, display)
    except KeyboardInterrupt:
        console.print("interrupted: what follows is what was measured until then")
        return results, False
    return results, True
