"""The Autobahn suite itself: a Python 2.7 virtualenv with autobahntestsuite 0.8.2, made once and kept.

The suite runs on Python 2.7 only. `install` finds such an interpreter (pyenv's, or the one that
RAWWS_PYTHON27 names), makes a virtualenv with the last release that still can, and installs the pinned
requirements into it; a stamp holding their digest tells the next run that nothing is to be done. Making
it takes up to half a minute, most of it compiling extension modules.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Suite", "SuiteUnavailableError", "install"]

_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_VIRTUALENV = "virtualenv==20.21.1"  # 20.22 no longer makes environments for Python 2.7
_SECONDS_TO_INSTALL = 900
_LIST_CASES = """\
import json
from autobahntestsuite.case import Cases, CaseBasename
ids = [cls.__name__[len(CaseBasename):].replace("_", ".") for cls in Cases]
print(json.dumps(sorted(ids, key=lambda case: [int(part) for part in case.split(".")])))
"""


class SuiteUnavailableError(Exception):
    """The suite cannot be had; the message is one that says what to do."""


@final
@dataclass(frozen=True, slots=True)
class Suite:
    """An installed suite."""

    environment: Path

    @property
    def python(self) -> tuple[str, ...]:
        """The command of its interpreter, deaf to PYTHONPATH, which may name code for Python 3."""
        return (str(self.environment / "bin" / "python"), "-E", "-W", "ignore")

    @property
    def wstest(self) -> tuple[str, ...]:
        """The command of `wstest`, unbuffered so that its progress can be followed.

        By way of the interpreter, because a `#!` line longer than 127 characters would not work.
        """
        return (*self.python, "-u", str(self.environment / "bin" / "wstest"))

    def cases(self) -> list[str]:
        """Ask the suite for the numbers of all its cases, in order."""
        listed = _run([*self.python, "-c", _LIST_CASES], seconds=60)
        cases: list[str] = json.loads(listed.splitlines()[-1])
        return cases


def install(home: Path) -> Suite:
    """Return the suite under `home`, installing it there when it is not or when the pins have changed.

    Raises:
        SuiteUnavailableError: there is no Python 2.7, or an installing command failed.
    """
    environment = home / "python2.7"
    stamp = environment / "installed"
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return Suite(environment)
    python27 = _find_python27(os.environ)
    print(f"installing autobahntestsuite into {environment} ({python27})", flush=True)
    tools = home / "virtualenv"
    for folder in (environment, tools):
        shutil.rmtree(folder, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    # Made by this interpreter, so that nothing is added to the 2.7 that a person may use for other things.
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), _VIRTUALENV])
    make = [sys.executable, "-m", "virtualenv", "--quiet", "--no-download", "--python", str(python27)]
    _run([*make, str(environment)], extra={"PYTHONPATH": str(tools)})
    suite = Suite(environment)
    pip = [*suite.python, "-m", "pip", "--no-python-version-warning", "install", "--quiet"]
    _run([*pip, "--requirement", str(_REQUIREMENTS)])
    stamp.write_text(digest)
    return suite


def _find_python27(environ: Mapping[str, str]) -> Path:
    for candidate in _candidates(environ):
        try:
            # Started, not only looked for: pyenv's shim exists even when no 2.7 is switched on.
            said = _run([str(candidate), "-c", "import sys; print(sys.version_info[:2] == (2, 7))"], seconds=60)
        except SuiteUnavailableError:
            continue
        if said.strip() == "True":
            return candidate
    raise SuiteUnavailableError(
        "the Autobahn suite needs Python 2.7 and none was found: "
        "run `pyenv install 2.7.18`, or name an interpreter in RAWWS_PYTHON27"
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    if named := environ.get("RAWWS_PYTHON27"):
        yield Path(named)
        return
    versions = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(versions.glob("2.7*/bin/python2.7"), reverse=True)
    if on_path := shutil.which("python2.7", path=environ.get("PATH")):
        yield Path(on_path)


def _run(command: list[str], *, seconds: float = _SECONDS_TO_INSTALL, extra: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
            env={**os.environ, **(extra or {})},
        )
    except subprocess.CalledProcessError as error:
        raise SuiteUnavailableError(
            f"`{' '.join(command)}` ended with status {error.returncode}:\n{error.stderr.strip()[-2000:]}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SuiteUnavailableError(f"`{' '.join(command)}`: {error}") from error
    return done.stdout
