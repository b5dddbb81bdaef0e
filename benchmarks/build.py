"""Compile the C programs of the suite, into a folder outside version control.

A program is built again when its source, or a header beside it, is newer. Needs Linux (epoll) and a C
compiler: `$CC`, else `cc`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["BUILD", "ROOT", "missing", "program"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def missing() -> str:
    """Return why nothing can be compiled here, or an empty string."""
    if sys.platform != "linux":
        return "needs Linux"
    return "" if _compiler() else "no C compiler"


def program(name: str) -> Path:
    """Return the path of a compiled program, building it first when it is missing or older than what it is made of.

    Raises:
        RuntimeError: there is no compiler, or it refuses the source; the text says why.
    """
    if reason := missing():
        raise RuntimeError(f"cannot build {name}.c: {reason}")
    source, target = Path(__file__).parent / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime_ns for path in (source, *source.parent.glob("*.h")))
    if target.exists() and target.stat().st_mtime_ns > newest:
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = _compiler()
    assert compiler is not None
    scratch = BUILD / f"{name}.{os.getpid()}"
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", str(scratch), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"cannot build {name}.c: {done.stderr.strip()}")
    scratch.replace(target)
    return target
