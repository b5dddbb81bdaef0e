"""Measure the codec alone, without sockets: `python -m benchmarks codec [OPERATION ...]`.

Decode a masked client frame, encode a message, unmask, inflate, deflate, and answer an Upgrade: rawws, plain
wsproto and websockets' sans-IO layer, with the C routine where there is one to call. Results are checked
before the clock starts. One turn of everybody is a round; the median microseconds of the rounds are printed,
and the median ratio to rawws within them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Payload
from benchmarks.results import median_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from benchmarks.codec_subjects import Work

__all__ = ["CASES", "CodecCase", "Timing", "main", "measure_case", "table_of"]

_CHECKED = 70
"""Results that are checked: one full turn of the 64 messages, and beyond its end."""


@dataclass(frozen=True, slots=True)
class CodecCase:
    """One operation on one kind of message."""

    operation: str
    title: str
    payload: Payload


def _sizes(operation: str, first: Payload) -> list[CodecCase]:
    sizes = (
        ("32 B", first),
        *((f"{size} KiB binary", Payload(kind="binary", size=size << 10, count=1)) for size in (1, 64)),
    )
    largest = Payload(kind="binary", size=1 << 20, count=1)
    return [CodecCase(operation, title, payload) for title, payload in (*sizes, ("1 MiB binary", largest))]


_JSON = Payload(kind="json", size=4096, deflated=True)

CASES: tuple[CodecCase, ...] = (
    *_sizes("decode", Payload()),
    *_sizes("encode", Payload()),
    *_sizes("unmask", Payload(kind="binary")),
    CodecCase("inflate", "4 KiB JSON", _JSON),
    CodecCase("deflate", "4 KiB JSON", _JSON),
    CodecCase("handshake", "request to 101", Payload()),
)


@dataclass(slots=True)
class Timing:
    """What one library took."""

    subject: str
    microseconds: list[float | None] = field(default_factory=list)


def _time_once(work: Work, count: int) -> float:
    """Return the seconds that `count` runs take."""
    run = work.run
    began = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - began


def _calibrate(work: Work, seconds: float) -> int:
    """Return how many runs take about `seconds`."""
    count = 1
    while (took := _time_once(work, count)) < seconds / 4:
        count *= 2
    return max(1, round(count * seconds / took))


def measure_case(works: Sequence[Work], seconds: float, repeat: int) -> list[Timing]:
    """Time everybody in turns of about `seconds` each.

    Raises:
        ValueError: a result is wrong.
    """
    for work in works:
        for _ in range(_CHECKED):
            if not work.check(work.run()):
                raise ValueError(f"{work.subject} returns a wrong result")
    counts = [_calibrate(work, seconds) for work in works]
    timings = [Timing(work.subject) for work in works]
    for _ in range(repeat):
        for work, count, timing in zip(works, counts, timings, strict=True):
            timing.microseconds.append(_time_once(work, count) / count * 1e6)
    return timings


def _summary(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    base = timings[0].microseconds
    return [
        {
            "subject": timing.subject,
            "median_us": statistics.median(value for value in timing.microseconds if value is not None),
            "ratio": median_ratio(timing.microseconds, base),
            "runs_us": timing.microseconds,
        }
        for timing in timings
    ]


def table_of(data: Sequence[dict[str, Any]]) -> Table:
    """Build the table: a row for each case, a column for each library."""
    from rich import box
    from rich.table import Table

    from benchmarks.report import figure

    columns = ["rawws", "wsproto", "websockets", "C"]
    table = Table(title="Codec, µs (÷ rawws); lower is better", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("operation")
    for column in columns:
        table.add_column(column, justify="right")
    for row in data:
        cells = dict.fromkeys(columns, "")
        for entry in row["timings"]:
            ratio = "" if entry["subject"] == "rawws" else f" ({entry['ratio']:.2f})"
            cells[entry["subject"].partition(" ")[0]] = figure(entry["median_us"]) + ratio
        table.add_row(f"{row['operation']}, {row['title']}", *cells.values())
    return table


def main(argv: Sequence[str]) -> int:
    """Run `python -m benchmarks codec` and return its exit status."""
    operations = list(dict.fromkeys(case.operation for case in CASES))
    parser = argparse.ArgumentParser(prog="python -m benchmarks codec", description=__doc__.partition("\n\n")[0])
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=f"of: {', '.join(operations)}")
    parser.add_argument("--seconds", type=float, default=0.2, help="seconds of one turn (default: 0.2)")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each library (default: 5)")
    parser.add_argument("--json", type=Path, help="write every turn to this file")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.operations if name not in operations]:
        parser.error(f"no operation is called {unknown[0]!r}")
    if not 0 < arguments.seconds < math.inf or arguments.repeat < 1:
        parser.error("--seconds and --repeat must be positive, and --seconds finite")
    from rich.progress import track

    from benchmarks.codec_subjects import absent, subjects
    from benchmarks.machine import describe
    from benchmarks.registry import PEERS
    from benchmarks.report import make_console

    console = make_console()
    chosen = [case for case in CASES if not arguments.operations or case.operation in arguments.operations]
    for name in absent():
        console.print(f"skipped {name}: not installed")
    data = []
    finished = False
    try:
        for case in track(chosen, "codec", console=console, disable=not console.is_terminal):
            timings = measure_case(subjects(case.operation, case.payload), arguments.seconds, arguments.repeat)
            data.append({"operation": case.operation, "title": case.title, "timings": _summary(timings)})
        finished = True
    except KeyboardInterrupt:
        console.print("interrupted: what follows is what was measured until then")
    console.print(table_of(data))
    if arguments.json:
        described = describe(peer for peer in PEERS if peer.name in ("rawws", "websockets"))
        arguments.json.write_text(json.dumps({"machine": described, "codec": data}, indent=1) + "\n")
    return 0 if finished else 1
