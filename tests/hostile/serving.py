"""What the hostile tests share: the server's process, its memory and descriptors, a healthy client, raw peers."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tests.conftest import FAST_LANE
from tests.raw_client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = [
    "MIB",
    "SLACK",
    "Process",
    "attack",
    "descriptors",
    "eventually",
    "frames",
    "healthy",
    "push",
    "serve",
]

MIB: Final = 1024 * 1024
SLACK: Final = 12 * MIB
"""What a server at work takes besides what its peers make it keep: code that is used for the first time, what the
allocator holds in reserve, lists of events."""
SLOWEST_ECHO: Final = 1.0
"""Seconds that an echo of a healthy client may take at worst, on a machine that does other things too."""

_SERVE: Final = """
import resource, sys
import rawws.cli, rawws.masking
rawws.masking.apply_mask(bytes(4096), b"mask")  # NumPy, where it is installed, is not what a peer makes us keep
descriptors = int(sys.argv.pop(1))
if descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
sys.exit(rawws.cli.main())
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.pid = process.pid
        self.port = port
        self._process = process

    def terminate(self, said: str = "") -> None:
        """Shut the server down in order, if that was not done; it ends with 0.

        Args:
            said: all that it has to say, but for the time before it.
        """
        if self._process.poll() is None:
            self._process.terminate()
            out, err = self._process.communicate(timeout=15)
            assert (out, re.sub(r"^\S+Z ", "", err)) == ("", said)
        assert self._process.returncode == 0

    def memory(self, what: str) -> int:
        """A line of the process's status in bytes: VmRSS for what it has, VmHWM for the most that it had."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    @contextmanager
    def grows_at_most(self, bound: int) -> Iterator[None]:
        """Fail if the process's memory has, at any time in the block, grown by more than so many bytes and `SLACK`."""
        before = self.memory("VmRSS")
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        yield
        grown = self.memory("VmHWM") - before
        assert grown <= bound + SLACK, f"grown by {grown / MIB:.1f} MiB, {bound / MIB:.1f} MiB and slack were allowed"

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def connect(self, *, narrow: bool = False) -> Client:
        """Connect; `narrow` makes the window for what the server sends as small as it gets."""
        sock = trio.socket.socket()
        if narrow:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", self.port))
        return Client(trio.SocketStream(sock))

    @asynccontextmanager
    async def peers(
        self, count: int, path: str = "", *fields: bytes, narrow: bool = False
    ) -> AsyncIterator[list[Client]]:
        """Connect several, and open a WebSocket each where there is a path; they are closed in the end."""
        clients: list[Client] = []
        try:
            for _ in range(count):
                clients.append(await self.connect(narrow=narrow))
                if path:
                    await clients[-1].open(path, *fields)
            yield clients
        finally:
            for client in clients:
                await trio.aclose_forcefully(client.stream)

    async def get(self, path: str) -> bytes:
        """The first line of the answer to a new connection that asks for a page."""
        async with self.peers(1) as (client,):
            await client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return (await client.ended()).partition(b"\r\n")[0]


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a server's frames: the first byte and the payload of each; what is cut off at the end is left out."""
    at = 0
    while at + 2 <= len(data):
        first, size = data[at], data[at + 1]
        at += 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + wide], "big")
            at += wide
        if at + size <= len(data):
            yield first, data[at : at + size]
        at += size


async def push(client: Client, data: bytes) -> None:
    """Send what the server may refuse to read."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await client.send(data)


async def attack(client: Client, data: bytes) -> list[tuple[int, bytes]]:
    """Send, and read until the server ends the connection; the frames that it has sent."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, client, data)
        received = await client.ended()
        nursery.cancel_scope.cancel()
    return list(frames(received))


async def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that another process does."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  the other process sets no event
            await trio.sleep(0.01)


@contextmanager
def serve(*arguments: str, descriptors: int = 0) -> Iterator[Process]:
    """Run `rawws serve` on a free port; at the end it must still be there, shut down in order and say nothing.

    Args:
        descriptors: how many the process may have; 0 for as many as the system lets it.
    """
    lane = [] if FAST_LANE else ["--no-fast-lane"]
    command = [sys.executable, "-c", _SERVE, str(descriptors), "serve", "--port", "0", *lane, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+)/$", line)
            assert found is not None, (line, process.stderr and process.stderr.read())
            server = Process(process, int(found[1]))
            yield server
            server.terminate()
        finally:
            process.kill()


@contextmanager
def healthy(server: Process, *paths: str) -> Iterator[None]:
    """Echo from other processes all the while; every echo must come, and soon."""
    pulse = str(Path(__file__).with_name("pulse.py"))
    with ExitStack() as stack:
        clients: list[subprocess.Popen[str]] = []
        for path in paths or ("/echo", "/echo/task"):
            command = [sys.executable, pulse, str(server.port), path]
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            clients.append(stack.enter_context(client))
            stack.callback(client.kill)
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        yield
        for client in clients:
            count, slowest = client.communicate("", timeout=15)[0].split()
            assert client.returncode == 0
            assert int(count) > 0
            assert float(slowest) < SLOWEST_ECHO, f"an echo took {slowest} s"


@contextmanager
def descriptors(wanted: int) -> Iterator[int]:
    """Let this process have so many descriptors, or as many as it may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        yield allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
