"""Real Redis servers for tests: on a free port, in a folder of their own, ended by their own process id."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["RedisServer", "free_port", "running_redis"]

_START_SECONDS: Final = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, nor on the one that a Cluster's node derives from it."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + 10_000))
                return port


class RedisServer:
    """One `redis-server`.

    Args:
        folder: where it keeps what it persists.
        options: of its command line.
        program: what comes first on it, for a Sentinel.
    """

    def __init__(self, folder: Path, *options: str, program: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._program = program
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed (Debian package redis-server)")
        command = [program, *self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        if not self._program:
            command += ["--dir", str(self._folder), "--save", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if self.command("PING") == b"+PONG\r\n":
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def command(self, *words: str | bytes) -> bytes:
        """Send one command over a connection of its own; return the first 64 KiB of the answer."""
        data = b"*%d\r\n" % len(words)
        for word in words:
            raw = word if isinstance(word, bytes) else word.encode()
            data += b"$%d\r\n%b\r\n" % (len(raw), raw)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(data)
            return connection.recv(65536)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal, and wait for that."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


@contextlib.contextmanager
def running_redis(folder: Path, *options: str, program: Sequence[str] = ()) -> Iterator[RedisServer]:
    """Run a Redis server that keeps nothing, unless `options` say otherwise; skip where there is no program."""
    server = RedisServer(folder, *options, program=program)
    server.start()
    try:
        yield server
    finally:
        server.stop()
