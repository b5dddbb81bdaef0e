"""`python -m tests.soak`: run the soak, write `soak.svg` and `summary.json`, say which rule was broken.

The server is `rawws serve` as a person would start it, with every limit at its default. What happens when:

* Peers come over a first part of the time; the warm-up ends after a quarter of it, thirty seconds at least, and
  not before everybody has been there for a while.
* At the end all but a tenth leave at once, most of them without a word. The server must then have as many descriptors
  as before the first of them came, and one for each that stayed.
* SIGTERM: who stayed is told 1001, and the process ends with status 0.

The exit status is 0 when no rule was broken, 1 when one was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

import trio
from benchmarks import machine
from benchmarks.chart import draw_timelines
from benchmarks.processes import raise_descriptor_limit, resident_bytes

from rawws.limits import Limits
from tests.soak import healthy, hostile
from tests.soak.load import Load
from tests.soak.rules import Sample, broken_rules, line_through, percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["main"]

_HOME: Final = Path(__file__).resolve().parents[2] / "build" / "soak"
_ADDRESS: Final = re.compile(r":(\d+)/$")
_SECONDS_TO_START: Final = 20.0
_RAMP: Final = 0.1
"""The part of the time over which the peers come, unless that makes more than `_ARRIVALS`."""
_ARRIVALS: Final = 100
"""Peers that come in a second at most."""
_LOOKS_TO_FORGET: Final = 300
"""Looks at the server's descriptors, twenty a second, until it must have seen that many peers have gone."""
_SHUTDOWN_ALLOWED: Final = Limits().shutdown_timeout + 5.0

# Of a thousand peers; the rest is echo peers, a part of which stays to the end.
_SHARES: Final[dict[str, tuple[Callable[[Load, int], Awaitable[None]], int]]] = {
    "quiet": (healthy.quiet, 250),
    "churn": (healthy.churn, 80),
    "chat": (healthy.chat, 80),
    "hostile": (hostile.attack, 40),
    "broadcast": (healthy.broadcast, 20),
    "slow": (healthy.slow, 10),
}
_KEPT: Final = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    home: Path = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    raise_descriptor_limit()
    summary = trio.run(_soak, options.seconds, options.connections, home)
    summary["broken"] = broken_rules(summary)
    summary["machine"] = {**machine.describe(()), "command": f"python -m tests.soak {' '.join(sys.argv[1:])}"}
    (home / "summary.json").write_text(json.dumps(summary, indent=1))
    draw_timelines(_plot(summary), home / "soak.svg")
    print(_account(summary))
    for sentence in summary["broken"]:
        print(f"broken: {sentence}")
    print(f"soak {'FAILED' if summary['broken'] else 'passed'}; the report is in {home}")
    return 1 if summary["broken"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak rawws.")
    parser.add_argument("--seconds", type=float, default=900.0, help="how long (default: fifteen minutes)")
    parser.add_argument("--connections", type=int, default=5000, help="how many at a time (default: %(default)s)")
    parser.add_argument("--home", type=Path, default=_HOME, help="where the report goes (default: build/soak)")
    return parser


async def _soak(seconds: float, connections: int, home: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "rawws", "serve", "--port", "0"]
    with (home / "server.log").open("wb") as log:
        server = await trio.lowlevel.open_process(command, stdout=PIPE, stderr=log)
        try:
            summary = await _play(server, await _port(server), seconds, connections)
        finally:
            if server.poll() is None:
                server.kill()
            with trio.CancelScope(shield=True):
                await server.wait()
    said = (home / "server.log").read_text(errors="replace")
    summary["logged"] = said.strip().splitlines()[-1] if "Traceback" in said or " ERROR " in said else ""
    return summary


async def _port(server: trio.Process) -> int:
    assert server.stdout is not None
    said = b""
    with trio.fail_after(_SECONDS_TO_START):
        while not said.endswith(b"\n"):
            data = await server.stdout.receive_some()
            if not data:
                raise RuntimeError("the server ended before it listened")
            said += data
    found = _ADDRESS.search(said.decode().strip())
    if found is None:
        raise RuntimeError(f"the server printed no address: {said!r}")
    return int(found[1])


async def _play(server: trio.Process, port: int, seconds: float, connections: int) -> dict[str, Any]:
    load = Load(port)
    await healthy.warm_up(load)
    await healthy.fill(load, connections * _SHARES["chat"][1] // 1000)
    await trio.sleep(1.0)
    bare = _descriptors(server.pid)
    worked = [_cpu_seconds(pid) for pid in (server.pid, os.getpid())]
    samples: list[Sample] = []
    ramp = max(seconds * _RAMP, connections / _ARRIVALS)
    warm = max(30.0, seconds / 4, 1.5 * ramp)
    kept = connections * _KEPT // 1000
    async with trio.open_nursery() as everything:
        everything.start_soon(_watch, server.pid, load, samples, time.monotonic())
        async with trio.open_nursery() as stayers:
            async with trio.open_nursery() as leavers:
                leavers.start_soon(_come, load, leavers, stayers, connections, ramp)
                await trio.sleep(seconds)
                worked = [
                    _cpu_seconds(pid) - before for pid, before in zip((server.pid, os.getpid()), worked, strict=True)
                ]
                leavers.cancel_scope.cancel()
            expected = bare + kept
            for _ in range(_LOOKS_TO_FORGET):
                # Again and again, also because one that stays may be between two lives at one moment.
                if _descriptors(server.pid) == expected:
                    break
                await trio.sleep(0.05)
            left = _descriptors(server.pid)
            load.terminating = True
            began = trio.current_time()
            server.send_signal(signal.SIGTERM)
            with trio.move_on_after(_SHUTDOWN_ALLOWED + 5.0):
                await server.wait()
            took = trio.current_time() - began
            stayers.cancel_scope.deadline = trio.current_time() + 5.0
        everything.cancel_scope.cancel()
    flat = [(sample.seconds, float(sample.memory)) for sample in samples if warm <= sample.seconds <= seconds]
    slope, height = line_through(flat)
    return {
        "seconds": seconds,
        "wanted_connections": connections,
        "most_connections": max(sample.connections for sample in samples),
        "connects": load.connects,
        "replies": load.replies,
        "deliveries": load.deliveries,
        "attacks": {name: load.attacks.get(name, 0) for name in hostile.ATTACKS},
        "errors": load.errors,
        "spared": load.spared,
        "memory": {
            "warm_up": warm,
            "at_warm_up": height + slope * warm,
            "rise": slope * (seconds - warm),
            "most": max(sample.memory for sample in samples),
        },
        "descriptors": {"bare": bare, "expected": expected, "left": left},
        "cores": {"server": worked[0] / seconds, "load": worked[1] / seconds},
        "latency": _latency(samples, warm),
        "kept": kept,
        "parted": load.parted,
        "exit_status": server.returncode,
        "shutdown_seconds": took,
        "shutdown_allowed": _SHUTDOWN_ALLOWED,
        "samples": [asdict(sample) for sample in samples],
    }


async def _come(load: Load, leavers: trio.Nursery, stayers: trio.Nursery, connections: int, seconds: float) -> None:
    """Let the peers come, mixed, over some time."""
    kinds = [name for name, (_, share) in _SHARES.items() for _ in range(connections * share // 1000)]
    kinds += ["echo"] * (connections - len(kinds))
    kept = connections * _KEPT // 1000
    # Visited in an order that mixes the kinds evenly; the last of them, echo peers all, stay.
    step = _coprime(connections)
    for place in range(connections):
        number = place * step % connections
        kind = kinds[number]
        nursery = stayers if number >= connections - kept else leavers
        if kind == "hostile":
            nursery.start_soon(hostile.attack, load, number)
        else:
            peer = _SHARES[kind][0] if kind in _SHARES else healthy.echo
            index = number - kinds.index(kind)
            nursery.start_soon(healthy.serve_time, load, kind, peer, index)
        await trio.sleep(seconds / connections)
    leavers.start_soon(healthy.serve_time, load, "health", healthy.health, 0)


def _coprime(number: int) -> int:
    """Return a step that visits every place below `number` once, far apart."""
    step = max(1, int(number * 0.618))
    while any(number % divisor == 0 and step % divisor == 0 for divisor in range(2, step + 1)):
        step -= 1
    return step


def _cpu_seconds(pid: int) -> float:
    """Seconds that a process has worked, in user mode and in the kernel."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def _watch(pid: int, load: Load, samples: list[Sample], began: float) -> None:
    """Look at the server every second, for as long as it is there."""
    while True:
        latencies = sorted(load.take_latencies())
        try:
            samples.append(
                Sample(
                    time.monotonic() - began,
                    resident_bytes(pid),
                    _descriptors(pid),
                    load.connections(),
                    (percentile(latencies, 0.5), percentile(latencies, 0.99)) if latencies else None,
                )
            )
        except (OSError, IndexError):
            return  # it has ended
        await trio.sleep(1.0)


def _latency(samples: list[Sample], warm: float) -> dict[str, float]:
    """The middle of the seconds after the warm-up, and the worst of them."""
    found = [sample.latencies for sample in samples if sample.latencies and sample.seconds >= warm]
    return {
        "p50_median": percentile(sorted(p50 for p50, _ in found), 0.5),
        "p99_median": percentile(sorted(p99 for _, p99 in found), 0.5),
        "p99_worst": max(p99 for _, p99 in found),
    }


def _plot(summary: dict[str, Any]) -> dict[str, Any]:
    """What `draw_timelines` draws: memory, latency and connections over time."""
    samples = summary["samples"]
    memory = summary["memory"]
    begin, end = memory["warm_up"], summary["seconds"]
    timed = [sample for sample in samples if sample["latencies"]]
    return {
        "machine": summary["machine"],
        "plots": [
            {
                "title": "resident memory of the server, MB",
                "legend": "lower right",
                "series": {
                    "every second": [(sample["seconds"], sample["memory"] / 1e6) for sample in samples],
                    "line after the warm-up": [
                        (begin, memory["at_warm_up"] / 1e6),
                        (end, (memory["at_warm_up"] + memory["rise"]) / 1e6),
                    ],
                },
            },
            {
                "title": "latency of healthy peers, ms",
                "legend": "upper right",
                "series": {
                    name: [(sample["seconds"], 1000 * sample["latencies"][place]) for sample in timed]
                    for place, name in enumerate(("p50 of a second", "p99 of a second"))
                },
            },
            {
                "title": "connections",
                "legend": "lower right",
                "series": {
                    "as the peers count them": [(sample["seconds"], sample["connections"]) for sample in samples],
                    "descriptors of the server": [(sample["seconds"], sample["descriptors"]) for sample in samples],
                },
            },
        ],
    }


def _account(summary: dict[str, Any]) -> str:
    memory, latency = summary["memory"], summary["latency"]
    return (
        f"{summary['seconds']:.0f} s: {summary['most_connections']} connections at most, {summary['connects']:,} in "
        f"all; {summary['replies']:,} replies and {summary['deliveries']:,} deliveries checked, "
        f"{len(summary['errors'])} errors; {sum(summary['attacks'].values()):,} attacks, "
        f"{len(summary['spared'])} spared\n"
        f"memory: {memory['at_warm_up'] / 1e6:.1f} MB after {memory['warm_up']:.0f} s, then {memory['rise'] / 1e6:+.2f}"
        f" MB along the line, {memory['most'] / 1e6:.1f} MB at most\n"
        f"latency: p50 {1000 * latency['p50_median']:.1f} ms, p99 {1000 * latency['p99_median']:.1f} ms, "
        f"worst second's p99 {1000 * latency['p99_worst']:.0f} ms\n"
        f"cores: {summary['cores']['server']:.2f} the server, {summary['cores']['load']:.2f} the peers\n"
        f"shutdown: {summary['parted']} of {summary['kept']} told 1001, status {summary['exit_status']} after "
        f"{summary['shutdown_seconds']:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
