"""The clients that are measured, each a small program: `python -m benchmarks.clients.NAME PORT CONNECTIONS …`.

All do the same: open so many connections to the floor, which echoes, and on each of them send a text and wait for
it to come back, again and again. What comes back is compared with what was sent. Each is written as its documentation
shows it, without compression. A program prints one line of JSON: the rate over the measured seconds, and what share of
a core the server and it itself took in them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TEXT", "Meter", "Settings", "settings"]

TEXT = "The quick brown fox jumps over 1"
"""The message, 32 bytes."""


class Settings(NamedTuple):
    """What the command line of a client says: PORT CONNECTIONS WARMUP SECONDS SERVER_PID."""

    port: int
    """The port of the floor on 127.0.0.1."""
    connections: int
    warmup: float
    """Seconds from the last handshake until counting begins."""
    seconds: float
    """Seconds that are counted."""
    server_pid: int

    @property
    def url(self) -> str:
        """The address of the floor."""
        return f"ws://127.0.0.1:{self.port}/"


def settings() -> Settings:
    """Read the settings from this process's command line."""
    port, connections, warmup, seconds, server_pid = sys.argv[1:]
    return Settings(int(port), int(connections), float(warmup), float(seconds), int(server_pid))


class Meter:
    """Counts echoes.

    Attributes:
        echoes: how many messages have come back.
    """

    def __init__(self, server_pid: int) -> None:
        self.echoes = 0
        self._server_pid = server_pid

    def check(self, message: object) -> None:
        """Count what came back, which must be what was sent."""
        if message != TEXT:
            raise SystemExit(f"a wrong echo: {message!r}")
        self.echoes += 1

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what happens in the block, and print it."""
        echoes, own, server = self.echoes, time.process_time(), _cpu_seconds(self._server_pid)
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        report = {
            "rate": (self.echoes - echoes) / seconds,
            "server_cpu": (_cpu_seconds(self._server_pid) - server) / seconds,
            "client_cpu": (time.process_time() - own) / seconds,
        }
        print(json.dumps(report), flush=True)


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
