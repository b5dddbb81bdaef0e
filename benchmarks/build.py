"""Compile the C programs of the suite, into a folder outside version control.

A program is built again when its source, or a header beside it, is newer. Needs Linux (epoll) and a C
compiler: `$CC`, which may have options too, else `cc`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["BUILD", "ROOT", "BuildError", "compiler", "missing", "program"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"


class BuildError(Exception):
    """A program of the suite cannot be compiled here."""


def compiler() -> list[str]:
    """Return the words that run the C compiler; none where there is no such program."""
    try:
        words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError:  # an open quote
        return []
    return words if shutil.which(words[0]) else []


def missing() -> str:
    """Return why nothing can be compiled here, or an empty string."""
    if sys.platform != "linux":
        return "needs Linux"
    return "" if compiler() else "no C compiler"


def program(name: str) -> Path:
    """Return the path of a compiled program, building it first when it is missing or older than what it is made of.

    Raises:
        BuildError: there is no compiler, or it refuses the source; the text says why.
    """
    if reason := missing():
        raise BuildError(f"cannot build {name}.c: {reason}")
    source, target = Path(__file__).parent / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime_ns for path in (source, *source.parent.glob("*.h")))
    if target.exists() and target.stat().st_mtime_ns > newest:
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    scratch = BUILD / f"{name}.{os.getpid()}"
    command = [*compiler(), "-O2", "-Wall", "-Wextra", "-o", str(scratch), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot build {name}.c: {error}") from error
    if done.returncode:
        why = done.stderr.strip() or f"{command[0]} ended with status {done.returncode}"
        raise BuildError(f"cannot build {name}.c: {why}")
    scratch.replace(target)
    return target
