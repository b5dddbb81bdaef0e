"""Drive targets by atheris, in slices, each a process of its own; what was done is read from the slices' logs.

Under `home` each target has a folder: `corpus` (libFuzzer's), `seeds` (the kept inputs), `findings` (an input each)
and the logs `slice-0001.log` and so on. A run that was stopped goes on where it was: the executions of all logs count.
A slice fails when an input raises, takes over ten seconds or makes the process larger than a gibibyte; and when it has
grown by more than `MAX_GROWTH` after its first quarter, which leaves room for libFuzzer's own corpus but for no leak.

The first slice of each four follows the branches of h11 and wsproto as well; the others, which follow those of rawws
alone, are up to twice as fast.
"""

from __future__ import annotations

import gc
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from subprocess import STDOUT
from typing import TYPE_CHECKING, Final, final

import trio

from tests.fuzz import corpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["MAX_GROWTH", "Fuzzer", "Slice", "drive", "read_slice"]

MAX_GROWTH: Final = 48
"""Mebibytes by which a slice may grow after its first quarter."""
_SLICE: Final = 1_000_000
"""Executions of one process; long enough for a leak of a few bytes each to be seen."""
_SECONDS_TO_START: Final = 60.0
_OURS: Final = ["rawws"]
_ALL: Final = [*_OURS, "wsproto", "h11"]

_PROGRESS: Final = re.compile(r"^#(\d+)\t.* rss: (\d+)Mb", re.MULTILINE)
_COVERAGE: Final = re.compile(r"^#\d+\t.* ft: (\d+) corp: (\d+)/", re.MULTILINE)
_DONE: Final = re.compile(r"^Done \d+ runs in (\d+) second", re.MULTILINE)
_EXECUTED: Final = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)
_PEAK: Final = re.compile(r"^stat::peak_rss_mb:\s+(\d+)", re.MULTILINE)


def drive(name: str, number: int, arguments: Sequence[str]) -> None:
    """Become the fuzzer of a target for its slice of this number; never returns.

    Raises:
        ImportError: atheris is not installed.
    """
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=_ALL if number % 4 == 1 else _OURS):
        targets = import_module("tests.fuzz.targets")
    # What is there for good does not put off the collector, which would look like growth.
    gc.collect()
    gc.freeze()
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name].check)
    atheris.Fuzz()


@final
@dataclass(frozen=True, slots=True)
class Slice:
    """What the log of one process says.

    Attributes:
        executions: inputs that were run.
        seconds: how long that took, whole ones; 0 when it was stopped.
        peak: mebibytes, the largest that it was.
        growth: mebibytes by which it grew after its first quarter.
        features: what libFuzzer counts: branches, and how often each is taken.
        inputs: inputs in its corpus at the end.
    """

    executions: int
    seconds: int
    peak: int
    growth: int
    features: int
    inputs: int


def read_slice(log: str) -> Slice:
    """Read a log; one that ends in the middle counts as far as it goes."""
    progress = [(int(count), int(size)) for count, size in _PROGRESS.findall(log)]
    done = _EXECUTED.search(log)
    executions = int(done[1]) if done else max((count for count, _ in progress), default=0)
    later = [size for count, size in progress if count >= executions / 4]
    peak = _PEAK.search(log)
    coverage = _COVERAGE.findall(log)
    seconds = _DONE.search(log)
    return Slice(
        executions,
        int(seconds[1]) if seconds else 0,
        int(peak[1]) if peak else max((size for _, size in progress), default=0),
        later[-1] - later[0] if later else 0,
        int(coverage[-1][0]) if coverage else 0,
        int(coverage[-1][1]) if coverage else 0,
    )


@final
class Fuzzer:
    """Runs targets until each has had its executions.

    Args:
        home: where the folders are.
        executions: how many each target is to have, those of earlier runs included.
        seconds: how long each may take this time.
        jobs: processes at a time.

    Attributes:
        errors: what was found, a sentence each.
    """

    def __init__(self, home: Path, executions: int, seconds: float, jobs: int) -> None:
        self._home = home
        self._executions = executions
        self._seconds = seconds
        self._jobs = trio.CapacityLimiter(jobs)
        self.errors: list[str] = []

    async def run(self, names: Iterable[str]) -> None:
        """Run these targets."""
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._run, name)

    async def _run(self, name: str) -> None:
        folder = self._home / name
        for part in ("corpus", "findings"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        corpus.unpack(name, folder / "seeds")
        targets = import_module("tests.fuzz.targets").TARGETS
        words = "".join(f'"{_escaped(word)}"\n' for word in targets[name].words)
        (folder / "words").write_text(words)
        async with self._jobs:
            until = trio.current_time() + self._seconds
            while (left := self._executions - self._executed(name)) > 0 and until - trio.current_time() >= 1:
                status = await self._slice(
                    name, min(left, _SLICE), int(min(until - trio.current_time(), 1e6)), targets[name].max_length
                )
                self._look(name, status)
                if status:
                    return

    async def _slice(self, name: str, executions: int, seconds: int, max_length: int) -> int:
        folder = self._home / name
        arguments = [
            f"-runs={executions}",
            f"-max_total_time={seconds}",
            f"-max_len={max_length}",
            f"-dict={folder / 'words'}",
            f"-artifact_prefix={folder / 'findings'}/",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            str(folder / "corpus"),
            str(folder / "seeds"),
        ]
        number = len(self._logs(name)) + 1
        command = [sys.executable, "-m", "tests.fuzz", "drive", name, str(number), *arguments]
        with (folder / f"slice-{number:04}.log").open("wb") as log:
            with trio.move_on_after(seconds + _SECONDS_TO_START):
                done = await trio.run_process(command, stdout=log, stderr=STDOUT, check=False)
                return done.returncode
        return -1

    def _look(self, name: str, status: int) -> None:
        log = self._logs(name)[-1]
        found = read_slice(log.read_text(errors="replace"))
        rate = found.executions / found.seconds if found.seconds else 0
        print(
            f"{name}: {found.executions:,} executions, {rate:,.0f} a second, {found.features} features, "
            f"{found.inputs} inputs, {found.peak} MiB at most, {found.growth:+} MiB after the first quarter; "
            f"{self._executed(name):,} in all",
            flush=True,
        )
        if status:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            self.errors.append(f"{name}: the fuzzer ended with {status}, see {log}:\n{tail}")
        elif found.growth > MAX_GROWTH:
            self.errors.append(f"{name}: the process grew by {found.growth} MiB, see {log}")

    def _logs(self, name: str) -> list[Path]:
        return sorted((self._home / name).glob("slice-*.log"))

    def _executed(self, name: str) -> int:
        return sum(read_slice(log.read_text(errors="replace")).executions for log in self._logs(name))


def _escaped(word: bytes) -> str:
    """Write a word as libFuzzer's dictionaries do."""
    return "".join(f"\\x{byte:02x}" for byte in word)
