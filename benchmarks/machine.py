"""Say what a measurement was made on: machine, kernel, Python, versions, date, command."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.registry import distributions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.registry import Installed

__all__ = ["describe", "first_line"]


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def first_line(*command: str) -> str:
    """Return the first line that a command prints, or an empty string when it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10, cwd=build.ROOT)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip()


def describe(peers: Iterable[Installed], program: str = "benchmarks") -> dict[str, Any]:
    """Return everything that a figure depends on, as plain data; `program` is the module that Python runs."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_gib(), 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": first_line(*build.compiler(), "--version"),
        "revision": first_line("git", "describe", "--always", "--dirty"),
        "versions": distributions(peers),
    }
