"""Several processes that serve one port, as the command starts them.

Strategy: the parent owns the listening sockets and gives each worker, by exec, the same ones, so that a worker that
ends takes no connection with it that waits to be accepted (closing one of several SO_REUSEPORT sockets resets those in
its queue). It accepts nothing itself, but for an address of its own that tells how the workers are.

No process is left behind: a worker has one end of a socket pair, hears at once when its parent is gone, and shuts down.

Cost: one process more, with Trio and no connections in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from .admin import open_admin_listeners
from .listeners import open_listeners
from .server import serve_listeners
from .supervisor import Process, Supervisor
from .worker import pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from .admin import AdminAddress
    from .http import Address
    from .supervisor import Spawn

__all__ = ["Listening", "lead", "spawner"]

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class Listening(NamedTuple):
    """What is listened on, as `Server` says it."""

    addresses: Sequence[Address]
    admin_addresses: Sequence[Address]


@final
class _Child(Process):
    """A process of the command."""

    def __init__(self, process: trio.Process, stream: trio.abc.Stream) -> None:
        self.pid = process.pid
        self.stream = stream
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        self._process.kill()


def spawner(arguments: Sequence[str], listeners: Sequence[int]) -> Spawn:
    """Return what starts the command `rawws` with arguments, and with `--worker` and the numbers of its descriptors.

    It gets no others but stderr, and a process group of its own: Ctrl-C is its parent's affair.

    Args:
        listeners: descriptors of listening sockets; that of the stream to the parent is named before them.
    """
    # So that it imports what this process imports, and not what lies in a folder in which somebody started it.
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    command = [sys.executable, *safe, "-m", "rawws", *arguments, "--worker"]

    async def spawn() -> Process:
        ours, theirs = trio.socket.socketpair()
        try:
            with theirs, trio.CancelScope(shield=True):
                descriptors = [theirs.fileno(), *listeners]
                process = await trio.lowlevel.open_process(
                    [*command, ",".join(map(str, descriptors))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        return _Child(process, trio.SocketStream(ours))

    return spawn


@final
class _Signals:
    """Signals as they are meant: SIGHUP is also what a terminal sends when it is closed, and that is to end."""

    def __init__(self, signals: AsyncIterator[int]) -> None:
        self._signals = signals
        self._had_terminal = _has_terminal()

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        number = await anext(self._signals)
        if number == signal.SIGHUP and self._had_terminal and not _has_terminal():
            return signal.SIGTERM
        return number


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def lead(
    count: int,
    arguments: Sequence[str],
    host: str | None,
    port: int,
    *,
    admin: AdminAddress | None,
    shutdown_timeout: float,
    started: Callable[[Listening], object],
) -> None:
    """Listen, and keep workers running: until SIGINT or SIGTERM, which shuts them down, the second one at once.

    SIGHUP replaces them, one after the other, unless a terminal sends it because it is closed; then it ends them.

    Args:
        count: workers.
        arguments: of the command, which are those of each worker.
        host: an address or a name; None binds all interfaces.
        port: 0 lets the system choose.
        admin: where to tell of all workers, instead of on the port that they serve.
        shutdown_timeout: seconds that a worker takes to shut down, at the most.
        started: called once they serve.

    Raises:
        OSError: an address cannot be bound.
        WorkersDidNotStartError: no worker ever served.
        Exception: what `started` raised.
    """
    failure: Exception | None = None
    with trio.open_signal_receiver(*(signal.Signals[name] for name in _SIGNALS)) as signals:
        listeners = await open_listeners(host, port)
        sockets = [listener.socket for listener in listeners if isinstance(listener, trio.SocketListener)]
        ours: list[trio.SocketListener] = []
        try:
            if admin is not None:
                ours = await open_admin_listeners(admin)
            listening = Listening(_addresses(sockets), _addresses(listener.socket for listener in ours))
            spawn = spawner(arguments, [sock.fileno() for sock in sockets])
            supervisor = Supervisor(count, spawn, shutdown_timeout=shutdown_timeout)
            async with trio.open_nursery() as nursery:
                if ours:
                    await nursery.start(partial(serve_listeners, {}, ours, pages=pages(supervisor.ask)))
                try:
                    await supervisor.run(_Signals(signals), partial(started, listening))
                except Exception as exc:
                    failure = exc  # out there, where the nursery does not make a group of it
                nursery.cancel_scope.cancel()
        finally:
            for sock in sockets:
                sock.close()
            for listener in ours:
                listener.socket.close()
                if admin is not None and not isinstance(admin, tuple):
                    with suppress(OSError):  # somebody has removed it
                        os.unlink(admin)
    if failure is not None:
        raise failure


def _addresses(sockets: Iterable[trio.socket.SocketType]) -> list[Address]:
    names = [sock.getsockname() for sock in sockets]
    return [(name[0], name[1]) if isinstance(name, tuple) else name for name in names]
