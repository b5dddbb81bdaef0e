"""Start servers and load generators, each on its own core, and end each by its own process id.

A process inherits the cores of the thread that starts it, so a server never runs a moment elsewhere, and its
start is timed from before the fork. Everything is bounded: a server that does not answer a handshake within
20 seconds, or a generator that outlives its time, is an error. All of it stays on the loopback interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from benchmarks import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "BenchmarkError",
    "Cores",
    "Generator",
    "Server",
    "end_as_interrupted",
    "free_port",
    "generate",
    "generator",
    "launch",
    "raise_descriptor_limit",
    "resident_bytes",
    "run_client",
]

_START_TIMEOUT = 20.0
_REQUEST = (
    b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # FIN, Close, masked with zeros, 1000


class BenchmarkError(Exception):
    """A measurement that did not work out: the server was wrong, stuck or absent."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of the server and of the load generator; None where the system cannot pin."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that this process may use; both the same one when there is no second."""
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[min(1, len(cores) - 1)])


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Hold this thread, and what it starts, to one core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does: through the blocks that end what it started.

    SIGHUP stays ignored where it is, as under nohup.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit, for the processes started from here too; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process that this module started: ask, wait, kill."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    pid: int
    port: int
    start_seconds: float
    """From before its process was started to the end of its first handshake."""


@contextlib.contextmanager
def launch(
    command: Sequence[str], port: int, core: int | None, environment: Mapping[str, str] | None = None, path: str = "/"
) -> Iterator[Server]:
    """Start a server, wait for its first handshake, and end it at the end of the block.

    Raises:
        BenchmarkError: it ended, or did not answer an Upgrade in time. The text has the end of its output.
    """
    with tempfile.TemporaryFile() as output:
        with _on_core(core):
            began = time.perf_counter()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=build.ROOT,
                env=_environment(environment),
            )
        try:
            _wait_for_handshake(process, port, path, began + _START_TIMEOUT, output)
            yield Server(process.pid, port, time.perf_counter() - began)
            if process.poll() is not None:
                raise BenchmarkError(f"the server ended by itself{_last_words(output)}")
        finally:
            _end(process)


def _environment(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a peer: it finds its own modules first, then the suite's, then those of the user.

    Modules are compiled once and kept, as an installed peer's are anyway.
    """
    own, users = ((values or {}).get("PYTHONPATH", "") for values in (environment, os.environ))
    python_path = os.pathsep.join(filter(None, [own, str(build.ROOT), users]))
    return {**os.environ, **(environment or {}), "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": ""}


def run_client(
    command: Sequence[str], core: int | None, timeout: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a client to its end and return its report.

    Raises:
        BenchmarkError: it failed, or reported nothing within `timeout` seconds. The text has the end of its output.
    """
    with tempfile.TemporaryFile() as output:
        with _on_core(core):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=build.ROOT,
                env=_environment(environment),
            )
        try:
            report, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the client did not report within {timeout:g} s{_last_words(output)}") from None
        finally:
            _end(process)
        if process.returncode or not report:
            raise BenchmarkError(f"the client ended with status {process.returncode}{_last_words(output)}")
        result: dict[str, Any] = json.loads(report)
        return result


def _last_words(output: IO[bytes]) -> str:
    """Return the last line with letters that a server wrote, without a traceback's frame."""
    output.seek(0)
    lines = [line.strip(" |+-") for line in output.read().decode(errors="replace").splitlines()]
    return next((f": {line}" for line in reversed(lines) if any(map(str.isalpha, line))), "")


def _wait_for_handshake(
    process: subprocess.Popen[bytes], port: int, path: str, deadline: float, output: IO[bytes]
) -> None:
    """Try until an Upgrade is answered with 101; the connection is closed by the time it returns."""
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"the server ended with status {process.returncode}{_last_words(output)}")
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.001)
            continue
        with connection:
            try:
                _shake_hands(connection, port, path)
            except BenchmarkError as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # a server that fails says why a little later
                raise BenchmarkError(f"{error}{_last_words(output)}") from error
        return
    raise BenchmarkError(f"the server did not answer within {_START_TIMEOUT:g} s{_last_words(output)}")


def _shake_hands(connection: socket.socket, port: int, path: str) -> None:
    """Upgrade and close one connection, up to the end of the stream."""
    head = b""
    try:
        connection.sendall(_REQUEST % (path.encode(), port))
        while b"\r\n\r\n" not in head and (data := connection.recv(4096)):
            head += data
    except OSError as error:
        raise BenchmarkError(f"the first handshake failed: {error}") from error
    if not head.startswith(b"HTTP/1.1 101"):
        raise BenchmarkError(f"the first handshake was answered with {head[:60]!r}")
    with contextlib.suppress(OSError):
        connection.sendall(_CLOSE)
        while connection.recv(4096):
            pass


class Generator:
    """A running load generator that reports more than once, one JSON line at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pending = b""

    def report(self, timeout: float) -> dict[str, Any] | None:
        """Return the next line, or None when there is none within `timeout` seconds.

        Raises:
            BenchmarkError: the line reports an error, or the generator ended.
        """
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                return None
            data = os.read(stdout.fileno(), 65536)
            if not data:
                raise BenchmarkError("the load generator ended without a report")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        if "error" in report:
            raise BenchmarkError(report["error"])
        return report


@contextlib.contextmanager
def generator(mode: str, port: int | str, core: int | None, **options: object) -> Iterator[Generator]:
    """Start the load generator of a mode and end it at the end of the block."""
    arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
    program = [build.program(mode)] if mode in ("chat", "room") else [build.program("load"), mode]
    command = [*map(str, program), str(port), *arguments]
    with _on_core(core):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield Generator(process)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        _end(process)


def generate(mode: str, port: int | str, core: int | None, timeout: float, **options: object) -> dict[str, Any]:
    """Run a load generator to its end and return its report.

    Raises:
        BenchmarkError: a reply was wrong, or nothing was reported within `timeout` seconds.
    """
    with generator(mode, port, core, **options) as running:
        report = running.report(timeout)
        if report is None:
            raise BenchmarkError(f"the load generator did not report within {timeout:g} s")
        return report
