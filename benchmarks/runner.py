"""Measure one case on one peer; and a whole run, the peers in turn, the rounds repeated.

A server is fresh for every measurement. `measure` is the only place that knows how a case's mode is carried
out; `run` only orders the measurements (peer after peer within a round, so that a slow minute of the machine
hits all of them) and keeps going when one of them fails: its row says why.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks import build, payloads
from benchmarks.processes import (
    BenchmarkError,
    Cores,
    free_port,
    generate,
    generator,
    launch,
    resident_bytes,
    run_client,
)
from benchmarks.results import Outcome, Results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.cases import Case
    from benchmarks.processes import Server
    from benchmarks.registry import Peer

__all__ = ["Plan", "Watcher", "files_for", "idle_memory", "measure", "programs", "run", "serving", "step_seconds"]

PING_INTERVAL = 2.0
"""Seconds between the server's pings where the case waits for two rounds of them."""
PING_ROUNDS = 2
DISTURBED = 0.05
"""Share of a core that other processes may take of the two in use before the row says so."""
_MARGIN = 60.0
"""Seconds that a generator may take beyond what it measures: opening 10 000 connections, noticing a stall."""
_KEEPALIVE_NOTES = {
    "own": (),
    "recipe": ("keepalive: the recipe of its documentation",),
    "none": ("keepalive off, the client pings",),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    seconds: float = 2.0
    warmup: float = 0.5
    repeat: int = 3
    cores: Cores = field(default_factory=Cores.choose)


class Watcher(Protocol):
    """What a run tells whoever looks on."""

    def before(self, case: Case, peer: Peer, round_number: int) -> None:
        """Say that a measurement begins."""

    def after(self, case: Case, peer: Peer, outcome: Outcome) -> None:
        """Say how it ended."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the load generator reads and writes."""

    payloads: Path
    keys: Path
    capture: Path


@contextmanager
def files_for(case: Case) -> Iterator[Files]:
    """Write a case's messages and the handshake keys into a folder that goes at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="rawws-benchmarks-") as folder:
        files = Files(Path(folder, "payloads"), Path(folder, "keys"), Path(folder, "capture"))
        payloads.write_records(files.payloads, payloads.wire_messages(case.payload))
        files.keys.write_text(payloads.key_lines())
        yield files


def serving(
    peer: Peer, mode: str, cores: Cores, *, deflate: bool = False, ping_interval: float = 0
) -> AbstractContextManager[Server]:
    """Start a peer in a mode, as a context manager that gives the running server."""
    port = free_port()
    command = peer.command(port, mode, deflate=deflate, ping_interval=ping_interval)
    return launch(command, port, cores.server, peer.environment)


def step_seconds(case: Case, plan: Plan) -> float:
    """Estimate how long one measurement takes, for the time left."""
    if case.mode == "start":
        return 2.0
    if case.mode == "memory":
        return 4.0 + PING_INTERVAL * PING_ROUNDS + case.connections / 2000
    if case.mode == "chat":
        return plan.seconds + plan.warmup + case.settle + 1.0 + case.connections / 400  # who joins is told to everybody
    return plan.seconds + plan.warmup + 1.0 + case.connections / 4000


def programs(case: Case, peer: Peer) -> set[str]:
    """Return the C programs that a measurement needs."""
    found = {peer.program} if peer.compiled else set()
    if case.mode != "start":
        found.add({"chat": "chat", "client": "floor"}.get(case.mode, "load"))
    return found


def measure(case: Case, peer: Peer, plan: Plan, files: Files) -> Outcome:
    """Carry out one measurement; what goes wrong becomes the outcome's error."""
    try:
        if case.mode == "start":
            return _measure_start(case, peer, plan)
        if case.mode == "memory":
            return _measure_memory(case, peer, plan, files)
        if case.mode == "chat":
            return _measure_chat(case, peer, plan, files)
        if case.mode == "client":
            return _measure_client(case, peer, plan)
        return _measure_load(case, peer, plan, files)
    except BenchmarkError as error:
        return Outcome(error=str(error))


def _measure_start(case: Case, peer: Peer, plan: Plan) -> Outcome:
    with serving(peer, "echo", plan.cores) as server:
        return Outcome({case.metrics[0].key: server.start_seconds * 1e3})


def _measure_load(case: Case, peer: Peer, plan: Plan, files: Files) -> Outcome:
    mode = "broadcast" if case.mode == "broadcast" else "echo"
    deflated = case.payload.deflated
    with serving(peer, mode, plan.cores, deflate=deflated) as server:
        report = generate(
            case.mode,
            server.port,
            plan.cores.load,
            plan.seconds + plan.warmup + case.settle + _MARGIN,
            connections=case.connections,
            active=case.active,
            depth=case.depth,
            opcode=2 if case.payload.kind == "binary" else 1,
            deflate=int(deflated),
            seconds=plan.seconds,
            warmup=plan.warmup,
            settle=case.settle,
            sample=case.sample,
            payloads=files.payloads,
            keys=files.keys,
            capture=files.capture if deflated else None,
            pid=server.pid,
            server_core=plan.cores.server,
            load_core=plan.cores.load,
            may_drop_close=int(peer.may_drop_close),
        )
    notes = []
    if deflated:
        replies = payloads.read_records(files.capture)
        try:
            payloads.check_deflated_replies(replies, payloads.make_messages(case.payload))
        except ValueError as error:
            raise BenchmarkError(str(error)) from error
        notes.append(report["extensions"])
    if report["unclean"]:
        share = report["unclean"] / report["messages"]
        notes.append(f"{share:.1%} of the connections ended without a Close frame")
    return _outcome(case, report, notes)


def _measure_chat(case: Case, peer: Peer, plan: Plan, files: Files) -> Outcome:
    with serving(peer, "chat", plan.cores) as server:
        report = generate(
            case.mode,
            server.port,
            plan.cores.load,
            plan.seconds + plan.warmup + case.settle + _MARGIN,
            connections=case.connections,
            seconds=plan.seconds,
            warmup=plan.warmup,
            settle=case.settle,
            period=case.period,
            payloads=files.payloads,
            keys=files.keys,
            pid=server.pid,
            server_core=plan.cores.server,
            load_core=plan.cores.load,
        )
    return _outcome(case, report)


def _measure_client(case: Case, peer: Peer, plan: Plan) -> Outcome:
    port = free_port()
    floor = [str(build.program("floor")), str(port), "echo", "0", "0"]
    with launch(floor, port, plan.cores.load) as server:
        command = peer.client_command(
            port,
            connections=case.connections,
            warmup=plan.warmup,
            seconds=plan.seconds,
            server_pid=server.pid,
        )
        report = run_client(command, plan.cores.server, plan.seconds + plan.warmup + _MARGIN, peer.environment)
    values = {metric.key: float(report[metric.key]) for metric in case.metrics}
    return Outcome(values, report["server_cpu"], report["client_cpu"])


def _outcome(case: Case, report: Mapping[str, Any], notes: Sequence[str] = ()) -> Outcome:
    """Return what a load generator's report says of a case."""
    if report.get("others_cpu", 0) > DISTURBED:
        notes = [*notes, "disturbed: others used these cores"]
    values = {metric.key: float(report[metric.key]) for metric in case.metrics}
    return Outcome(values, report["client_cpu"], report["server_cpu"], tuple(notes))


def _measure_memory(case: Case, peer: Peer, plan: Plan, files: Files) -> Outcome:
    memory = idle_memory(peer, case.connections, plan, files, deflate=case.payload.deflated, echoes=case.echoes)
    return Outcome({case.metrics[0].key: memory}, notes=_KEEPALIVE_NOTES[peer.keepalive])


def idle_memory(
    peer: Peer, connections: int, plan: Plan, files: Files, *, deflate: bool = False, echoes: int = 0
) -> float:
    """Return the bytes of resident memory that each idle connection costs, after its echoes and two rounds of pings.

    Raises:
        BenchmarkError: the connections could not be opened, or the pings did not come.
    """
    with serving(peer, "echo", plan.cores, deflate=deflate, ping_interval=PING_INTERVAL) as server:
        before = resident_bytes(server.pid)
        with generator(
            "idle",
            server.port,
            plan.cores.load,
            connections=connections,
            rounds=PING_ROUNDS,
            deflate=int(deflate),
            echoes=echoes,
            client_pings=int(peer.keepalive == "none"),
            payloads=files.payloads,
            keys=files.keys,
        ) as running:
            if running.report(_MARGIN + connections / 500) is None:
                raise BenchmarkError(f"could not open {connections} connections in time")
            if running.report(_MARGIN) is None:
                raise BenchmarkError(f"no {PING_ROUNDS} rounds of pings on every connection in time")
            return (resident_bytes(server.pid) - before) / connections


def run(cases: Sequence[Case], peers: Sequence[Peer], plan: Plan, results: Results, watcher: Watcher) -> Results:
    """Measure every case on every peer, `plan.repeat` times each, in rounds.

    A peer that fails in a case is not tried there again. KeyboardInterrupt leaves what was measured in
    `results`.
    """
    for case in cases:
        own = [peer for peer in peers if peer.takes_part(case)]
        rows = {peer.name: results.row(case, peer) for peer in own}
        for peer in own:
            rows[peer.name].skipped = peer.unsupported(case)
        with files_for(case) as files:
            for round_number in range(plan.repeat):
                for peer in own:
                    row = rows[peer.name]
                    if row.skipped:
                        continue
                    watcher.before(case, peer, round_number)
                    # A failed row stays failed; its error was reported in the round that found it.
                    outcome = Outcome() if row.error else measure(case, peer, plan, files)
                    row.outcomes.append(outcome)
                    watcher.after(case, peer, outcome)
    return results
