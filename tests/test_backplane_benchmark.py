"""The benchmark of rooms over several processes: its generator against a real room, and what it makes of reports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
from benchmarks import backplane, build
from benchmarks.payloads import key_lines
from benchmarks.processes import BenchmarkError

pytestmark = [
    pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "it can be built"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server (Debian package)"),
]
RAWWS = next(subject for subject in backplane.SUBJECTS if subject.name == "rawws")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(key_lines())
    return path


def test_a_room_over_two_processes_is_measured(keys: Path) -> None:
    report = backplane.measure(RAWWS, 2, keys, 0.5, connections=4, speakers=2, pace=20)
    assert report["said"] >= 20
    assert report["rate"] > 40
    assert report["far_p50_ms"] > 0
    assert report["near_p50_ms"] > 0


def test_a_server_that_says_something_else_is_an_error(keys: Path) -> None:
    wrong = replace(RAWWS, say='{"type":"message","room":"ROOM","text":"~0~7~1~%s"}')
    with pytest.raises(BenchmarkError, match="heard message 7 of 0, not 0"):
        backplane.measure(wrong, 1, keys, 0.2, connections=2, speakers=1)


def test_medians_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = iter([1.0, 3.0, 2.0])

    def measure(subject: object, processes: int, keys: Path, seconds: float, **room: object) -> dict[str, float]:
        if "pace" in room:
            return {"rate": 0.0, "near_p50_ms": 0.5}
        if processes == 2:
            raise BenchmarkError("it is stuck")
        return {"rate": next(rates), "server_cpu": 0.5, "near_p50_ms": 9.0}

    monkeypatch.setattr(backplane, "measure", measure)
    assert backplane.main(["rawws", "--rounds", "3", "--json", str(tmp_path / "results.json")]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["medians"] == {"rawws-1": {"rate": 2.0, "rate_per_core": 4.0, "near_p50_ms": 0.5}}
    assert results["machine"]["command"].startswith("python -m benchmarks.backplane")
    assert {"date", "revision", "cpu", "kernel", "python"} <= results["machine"].keys()
    assert results["machine"]["redis"].startswith("Redis server v=")
    assert results["machine"]["versions"].keys() >= {"rawws", "trio"}
    output = capsys.readouterr()
    assert "round 2, rawws-2: it is stuck" in output.err
    assert "rawws, 1 process " in output.out


def test_a_subject_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        backplane.main(["nobody"])
    assert "no subject is called 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seconds=nan", "--seconds=inf", "--seconds=0", "--rounds=0"])
def test_a_time_that_is_none_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        backplane.main([option])
    assert "must be positive" in capsys.readouterr().err


def test_without_a_compiler_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setenv("CC", str(tmp_path / "nowhere"))
    assert backplane.main(["rawws"]) == 2
    assert capsys.readouterr().err == "cannot build room.c: no C compiler\n"


def test_an_interrupted_run_keeps_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(subject: object, processes: int, keys: Path, seconds: float, **room: object) -> dict[str, float]:
        if processes == 2:
            raise KeyboardInterrupt
        return {"rate": 2.0, "server_cpu": 0.5, "near_p50_ms": 9.0}

    monkeypatch.setattr(backplane, "measure", measure)
    assert backplane.main(["rawws", "--json", str(tmp_path / "results.json")]) == 1
    assert json.loads((tmp_path / "results.json").read_text())["medians"]["rawws-1"]["rate"] == 2.0
    assert "interrupted: what follows is what was measured until then" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_run_and_all_that_it_started(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("it is ignored, as under nohup")
    command = [sys.executable, "-m", "benchmarks.backplane", "memory", "--json", str(tmp_path / "results.json")]
    marker = f"rawws-test-{os.getpid()}"
    environment = {**os.environ, "BENCHMARK_MARKER": marker}
    with subprocess.Popen(command, cwd=build.ROOT, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while len(marked(marker)) < 3 and time.monotonic() < deadline:  # itself, Redis and a server
            time.sleep(0.02)
        assert len(marked(marker)) >= 3
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted: what follows is what was measured until then" in output
    assert errors == ""
    assert marked(marker) == []


def marked(marker: str) -> list[str]:
    """Return the ids of the processes that have a word in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
