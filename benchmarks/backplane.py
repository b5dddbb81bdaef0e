"""Measure rooms that are spread over processes: `python -m benchmarks.backplane`.

rawws with its Redis backplane beside python-socketio with its Redis manager and Django Channels with channels-redis
(both its layers), all over one Redis that keeps nothing. Two measurements of each, with one server process and with
two: deliveries a second in a large room whose speakers always have a message on the way, and the time from saying to
hearing in a small one at a slow pace. rawws alone, without Redis, is measured too: the difference is the hop.

Subjects take turns, round by round, and medians are printed. Servers, Redis and generator share the cores that this
process may use; where there are fewer than processes, the CPU time that the servers took for a delivery says more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.machine import describe, first_line
from benchmarks.payloads import key_lines
from benchmarks.processes import (
    BenchmarkError,
    Server,
    end_as_interrupted,
    free_port,
    generate,
    launch,
    raise_descriptor_limit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SUBJECTS", "Subject", "main", "measure", "summary"]

_MARGIN = 60.0
"""Seconds that opening the connections may take, and the last deliveries."""
_MEMBERS, _SPEAKERS, _WINDOW = 1000, 16, 2
"""Of the large room; a speaker of rawws may say 50 messages a second."""
_FEW, _PACE = 10, 50
"""Members of the small room, and the messages a second that two of them say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One way to spread a room."""

    name: str
    label: str
    command: tuple[str, ...]
    """What `python -m` runs; {port} and {redis} stand for what they say."""
    path: str
    hello: str = ""
    ready: str = ""
    say: str = "%s"
    processes: tuple[int, ...] = (1, 2)
    distributions: tuple[str, ...] = ("rawws", "trio", "wsproto", "h11", "coredis", "anyio")
    """Whose versions belong to the result."""
    ordered: bool = True
    """Whether it keeps a sender's messages in their order."""


_HELLO = '{"type":"hello","name":"member %u","rooms":[{"room":"ROOM"}]}'
_SAY = '{"type":"message","room":"ROOM","text":"%s"}'
_RAWWS = ("rawws", "serve", "--port", "{port}", "--log-level", "error", "--no-compression")
_UVICORN = ("uvicorn", "uvloop", "httptools", "websockets", "redis")
_CHANNELS = ("benchmarks.peers.channels_server", "{port}", "{redis}")

SUBJECTS: tuple[Subject, ...] = (
    Subject(
        name="memory",
        label="rawws, without Redis",
        command=_RAWWS,
        path="/chat",
        hello=_HELLO,
        ready='"event":"members"',
        say=_SAY,
        processes=(1,),
    ),
    Subject(
        name="rawws",
        label="rawws",
        command=(*_RAWWS, "--backplane", "{redis}"),
        path="/chat",
        hello=_HELLO,
        ready='"event":"members"',
        say=_SAY,
    ),
    Subject(
        name="socketio",
        label="python-socketio, AsyncRedisManager",
        command=("benchmarks.peers.socketio_server", "{port}", "{redis}"),
        path="/socket.io/?EIO=4&transport=websocket",
        hello="40",
        ready="40{",
        say='42["say","%s"]',
        distributions=("python-socketio", "python-engineio", *_UVICORN),
        ordered=False,
    ),
    Subject(
        name="channels-core",
        label="Django Channels, channels-redis core",
        command=(*_CHANNELS, "core"),
        path="/",
        ready="ready",
        distributions=("Django", "channels", "channels-redis", *_UVICORN),
    ),
    Subject(
        name="channels-pubsub",
        label="Django Channels, channels-redis pubsub",
        command=(*_CHANNELS, "pubsub"),
        path="/",
        ready="ready",
        distributions=("Django", "channels", "channels-redis", *_UVICORN),
    ),
)


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis that keeps nothing; its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchmarkError("redis-server is not installed (Debian package redis-server)")
    with tempfile.TemporaryDirectory() as folder:
        socket_path = Path(folder, "ready")
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        command += ["--unixsocket", str(socket_path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 10
                while not socket_path.exists():  # it listens on TCP by then
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise BenchmarkError("redis-server does not start")
                    time.sleep(0.01)
                yield f"redis://127.0.0.1:{port}"
            finally:
                process.terminate()


def measure(subject: Subject, processes: int, keys: Path, seconds: float, **room: object) -> dict[str, Any]:
    """Start Redis and so many servers, run a room over them, and return the generator's report.

    Args:
        room: further options of the generator.

    Raises:
        BenchmarkError: a server did not start, a delivery was wrong or is missing.
    """
    name = f"benchmark-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_redis())
        servers: list[Server] = []
        ports = [free_port() for _ in range(processes)]
        for port in ports:
            words = [word.format(port=port, redis=url) for word in subject.command]
            servers.append(stack.enter_context(launch([sys.executable, "-m", *words], port, None, path=subject.path)))
        return generate(
            "room",
            ",".join(map(str, ports)),
            None,
            seconds + _MARGIN,
            path=subject.path,
            hello=subject.hello.replace("ROOM", name),
            ready=subject.ready,
            say=subject.say.replace("ROOM", name),
            order=int(subject.ordered),
            keys=keys,
            seconds=seconds,
            warmup=1,
            pid=servers[0].pid,
            **room,
        )


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the median of every figure of every subject's reports."""
    return {
        name: {key: statistics.median(report[key] for report in reports) for key in reports[0]}
        for name, reports in found.items()
    }


def _print(found: dict[str, dict[str, float]]) -> None:
    print(f"\n{'':58}{'deliveries/s':>14}{'per core':>12}{'p50 near':>10}{'p50 far':>10}{'p99 far':>10}")
    for subject in SUBJECTS:
        for processes in subject.processes:
            row = found.get(f"{subject.name}-{processes}")
            if row is not None:
                times = [f"{row[key]:.2f}" if key in row else "" for key in ("near_p50_ms", "far_p50_ms", "far_p99_ms")]
                label = f"{subject.label}, {processes} process{'es' * (processes > 1)}"
                print(
                    f"{label:58}{row['rate']:14,.0f}{row['rate_per_core']:12,.0f}"
                    + "".join(f"{text:>10}" for text in times)
                )
    print("per core: for a second of CPU time of the servers; times in ms, in a room of", _FEW)


def _run(subjects: Sequence[Subject], rounds: int, seconds: float, found: dict[str, list[dict[str, Any]]]) -> bool:
    """Measure subjects in turns, adding their reports to `found`; return whether nothing went wrong."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.write_text(key_lines())
        for number in range(rounds):
            for subject, processes in [(each, count) for each in subjects for count in each.processes]:
                name = f"{subject.name}-{processes}"
                try:
                    large = measure(
                        subject, processes, keys, seconds, connections=_MEMBERS, speakers=_SPEAKERS, window=_WINDOW
                    )
                    small = measure(subject, processes, keys, seconds, connections=_FEW, speakers=2, pace=_PACE)
                except BenchmarkError as error:
                    failures += 1
                    print(f"round {number + 1}, {name}: {error}", file=sys.stderr)
                    continue
                times = {key: value for key, value in small.items() if key.endswith("_ms")}
                # All processes do the same, so the first one stands for each.
                work = large["rate"] / processes / max(large["server_cpu"], 0.001)
                found.setdefault(name, []).append({"rate": large["rate"], "rate_per_core": work, **times})
                print(f"round {number + 1}, {name}: {large['rate']:,.0f} deliveries/s, {times}", flush=True)
    return not failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backplane", description=__doc__.partition("\n\n")[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of: {', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, default=build.BUILD / "backplane.json", help="where the results go")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.subjects if name not in names]:
        parser.error(f"no subject is called {unknown[0]!r}")
    if not 0 < arguments.seconds < math.inf or arguments.rounds < 1:
        parser.error("--seconds and --rounds must be positive, and --seconds finite")
    try:
        build.program("room")
    except build.BuildError as error:
        print(error, file=sys.stderr)
        return 2
    raise_descriptor_limit()
    chosen = [subject for subject in SUBJECTS if subject.name in (arguments.subjects or names)]
    machine = describe(chosen, "benchmarks.backplane") | {"redis": first_line("redis-server", "--version")}
    found: dict[str, list[dict[str, Any]]] = {}
    complete = False
    try:
        complete = _run(chosen, arguments.rounds, arguments.seconds, found)
    except KeyboardInterrupt:
        print("interrupted: what follows is what was measured until then")
    results = summary(found)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "reports": found, "medians": results}, indent=1) + "\n")
    _print(results)
    return 0 if complete else 1


if __name__ == "__main__":
    end_as_interrupted()
    sys.exit(main())
