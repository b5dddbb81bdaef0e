"""The processes of a run: rawws servers, `wstest` clients (or the other way round), and their certain end.

A server is started as a person would start it, on a free port that it prints. Each worker takes the next
shard, writes a specification for it and lets one `wstest` play it, following the cases it says it begins.
When a connection is refused `wstest` reports what it has and ends as if all were well: the line it prints
tells that the server is gone. One shard's failure does not stop another. Every process is ended in a
`finally`, by the handle it was started with; a server that needs more than SIGTERM, or logged a
traceback, is an error too.
"""

from __future__ import annotations

import json
import random
import re
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from .plan import Agent, Shard
    from .suite import Suite

__all__ = ["Player"]

_MAX_MESSAGE_SIZE = 64 * 1024 * 1024  # bytes; the suite sends messages of 16 MiB
_SECONDS_TO_START = 30.0
_SECONDS_TO_STOP = 15.0  # more than the server's own shutdown_timeout
_ADDRESS = re.compile(r"http://(\S+:\d+)/")
_REFUSED = b"Connection to "
_CASE_BEGINS = b"Running test case ID "


class _PlayError(Exception):
    """A process did not do its part; the message says which and how."""


@final
@dataclass(slots=True)
class Player:
    """Plays shards against servers; afterwards `errors` holds what went wrong besides the cases."""

    suite: Suite
    reports: Path
    python: str
    jobs: int
    errors: list[str] = field(default_factory=list)
    _played: int = 0

    def index(self, shard: Shard) -> Path:
        """Say where the report of a shard is, or would be."""
        return self._folder(shard) / "index.json"

    async def play(self, shards: Sequence[Shard], urls: Mapping[Agent, str], seconds: float) -> None:
        """Play all shards in at most `seconds`.

        Args:
            shards: what to play, in the order in which it is to be begun.
            urls: where agents that run already are reached; servers are started for the others.
            seconds: bound of the whole; what has no report by then stays without one.
        """
        async with trio.open_nursery() as outer:
            outer.start_soon(self._stop_on_signal, outer.cancel_scope)
            with trio.move_on_after(seconds) as bound:
                try:
                    async with AsyncExitStack() as servers:
                        reached = await self._reach(shards, urls, servers)
                        await self._work(shards, reached)
                except _PlayError as error:
                    self.errors.append(str(error))
            if bound.cancelled_caught:
                self.errors.append(f"stopped after {seconds:.0f} s, before everything was played")
            outer.cancel_scope.cancel()

    async def _reach(
        self, shards: Sequence[Shard], urls: Mapping[Agent, str], servers: AsyncExitStack
    ) -> dict[Agent, str]:
        reached = dict(urls)
        addresses: dict[bool, str] = {}
        for agent in dict.fromkeys(shard.agent for shard in shards):
            if agent in reached or agent.is_client:
                continue
            if agent.fast_lane not in addresses:
                addresses[agent.fast_lane] = await servers.enter_async_context(self._server(agent.fast_lane))
            reached[agent] = f"ws://{addresses[agent.fast_lane]}{agent.path}"
        return reached

    async def _work(self, shards: Sequence[Shard], reached: Mapping[Agent, str]) -> None:
        waiting = iter(shards)
        async with trio.open_nursery() as nursery:
            for _ in range(min(self.jobs, len(shards))):
                nursery.start_soon(self._worker, waiting, len(shards), reached)

    async def _worker(self, waiting: Iterator[Shard], of: int, reached: Mapping[Agent, str]) -> None:
        for shard in waiting:
            begun = trio.current_time()
            outcome = f"{len(shard.cases)} cases"
            try:
                if shard.agent.is_client:
                    await self._wstest_serves(shard)
                else:
                    await self._wstest(shard, reached[shard.agent])
            except _PlayError as error:
                self.errors.append(str(error))
                outcome = str(error)
            self._played += 1
            seconds = trio.current_time() - begun
            print(
                f"[{self._played:2}/{of}] {shard.agent.name} {shard.label}: {outcome}, {seconds:.1f} s",
                flush=True,
            )

    async def _wstest(self, shard: Shard, url: str) -> None:
        folder = self._folder(shard)
        folder.mkdir(parents=True)
        specification = folder / "specification.json"
        specification.write_text(
            json.dumps(
                {
                    "outdir": str(folder),
                    "servers": [{"agent": shard.agent.name, "url": url}],
                    "cases": list(shard.cases),
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        command = [*self.suite.wstest, "-m", "fuzzingclient", "-s", str(specification)]
        case = "none"
        refused = False
        lines: list[bytes] = []
        async with _process(command, stdout=PIPE, stderr=STDOUT) as process:
            assert process.stdout is not None
            with (folder / "wstest.log").open("wb") as log:
                async for line in _lines(process.stdout):
                    log.write(line + b"\n")
                    lines = [*lines[-4:], line]
                    if line.startswith(_CASE_BEGINS):
                        case = line.removeprefix(_CASE_BEGINS).split(b" ", 1)[0].decode()
                    elif line.startswith(_REFUSED):
                        refused = True
            status = await process.wait()
        if refused:
            raise _PlayError(f"{shard.agent.name}: the server was gone after case {case}")
        if status != 0 or not self.index(shard).is_file():
            said = b"\n".join(lines).decode(errors="replace")
            raise _PlayError(f"{shard.agent.name}: wstest ended with {status} after case {case}:\n{said}")

    async def _wstest_serves(self, shard: Shard) -> None:
        """Let one `wstest` be the server of a shard, and our client its client."""
        folder = self._folder(shard)
        folder.mkdir(parents=True)
        specification = folder / "specification.json"
        port = _free_port()
        specification.write_text(
            json.dumps(
                {
                    "url": f"ws://127.0.0.1:{port}",
                    "outdir": str(folder),
                    "cases": list(shard.cases),
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        serve = [*self.suite.wstest, "-m", "fuzzingserver", "-u", "0", "-s", str(specification)]
        play = [self.python, "-m", "tests.autobahn.client"]
        if not shard.agent.fast_lane:
            play.append("--no-fast-lane")
        play += [f"ws://127.0.0.1:{port}", shard.agent.name, *shard.cases]
        with (folder / "wstest.log").open("wb") as theirs, (folder / "client.log").open("wb") as ours:
            async with _process(serve, stdout=theirs, stderr=STDOUT) as server:
                await _until_it_listens(port, server)
                async with _process(play, stdout=ours, stderr=STDOUT) as client:
                    status = await client.wait()
        if status != 0 or not self.index(shard).is_file():
            said = _tail(folder / "client.log")
            raise _PlayError(f"{shard.agent.name}: the client of {shard.label} ended with {status}:\n{said}")
        if "Traceback (most recent call last)" in _text(folder / "client.log"):
            raise _PlayError(f"{shard.agent.name}: the client logged a traceback, see {folder / 'client.log'}")

    @asynccontextmanager
    async def _server(self, fast_lane: bool) -> AsyncIterator[str]:
        name = f"server-lane-{'on' if fast_lane else 'off'}"
        said, log = self.reports / f"{name}.out", self.reports / f"{name}.log"
        command = [self.python, "-m", "rawws", "serve", "--port", "0"]
        command += ["--max-message-size", str(_MAX_MESSAGE_SIZE)]
        if not fast_lane:
            command.append("--no-fast-lane")
        with said.open("wb") as stdout, log.open("wb") as stderr:
            async with _process(command, stdout=stdout, stderr=stderr) as process:
                yield await _address(process, command, said, log)
                if (status := process.poll()) is not None:
                    raise _PlayError(f"{name} ended by itself with {status}:\n{_tail(log)}")
        if process.returncode == -signal.SIGKILL:
            raise _PlayError(f"{name} did not stop within {_SECONDS_TO_STOP:.0f} s of SIGTERM")
        if "Traceback (most recent call last)" in _text(log):
            raise _PlayError(f"{name} logged a traceback, see {log}:\n{_tail(log)}")

    def _folder(self, shard: Shard) -> Path:
        return self.reports / shard.agent.name / shard.label

    async def _stop_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            self.errors.append(f"stopped by {signal.Signals(await anext(signals)).name}")
            scope.cancel()


@asynccontextmanager
async def _process(
    command: Sequence[str], *, stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(command, stdin=DEVNULL, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        with trio.move_on_after(_SECONDS_TO_STOP, shield=True):
            await process.wait()
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _address(process: trio.Process, command: Sequence[str], said: Path, log: Path) -> str:
    with trio.move_on_after(_SECONDS_TO_START):
        while process.poll() is None:
            if found := _ADDRESS.search(_text(said)):
                return found[1]
            await trio.sleep(0.05)
    status = process.poll()
    how = "printed no address" if status is None else f"ended with {status}"
    raise _PlayError(f"the server {how} ({' '.join(command)}):\n{_tail(log)}")


def _free_port() -> int:
    """Find a port for wstest, below those that a system gives to connections, so that none takes it meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


async def _until_it_listens(port: int, server: trio.Process) -> None:
    with trio.move_on_after(_SECONDS_TO_START):
        while server.poll() is None:
            try:
                await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
            except OSError:
                await trio.sleep(0.05)
            else:
                return
    raise _PlayError(f"the fuzzing server did not listen on port {port}")


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _text(file: Path) -> str:
    return file.read_text(errors="replace")


def _tail(log: Path) -> str:
    return "\n".join(_text(log).splitlines()[-10:])
