"""Who carries a client's connections, from their handshake to their end.

Strategy: plain TCP goes to one reactor that all such connections of a Trio run share, and that ends with the last of
them; every other stream gets a driver of its own. Both are system tasks. So a connection needs no nursery, and an
application's exceptions are not wrapped in groups; what a system task may not do, raise, a driver does not: it tells
its receiver and the log. A run that ends with connections open cuts them.

Cost: starting a reactor takes three descriptors and three tasks. It does not know what the bytes mean.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from .reactor import Reactor, is_supported
from .stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import Receiver, Transport

__all__ = ["Greet", "carry"]

_log = logging.getLogger("rawws")

Greet: TypeAlias = "Callable[[Transport, Callable[[], object]], Receiver]"
"""Makes the receiver of a transport; the function that it gets is to be called when the transport has ended."""


def carry(stream: trio.abc.Stream, greet: Greet, *, stall_timeout: float) -> None:
    """Move the bytes of a connected stream, which becomes the driver's.

    Args:
        stall_timeout: seconds that bytes may be queued to the peer without progress.

    Raises:
        OSError: there is no descriptor left for a reactor; the stream is still the caller's.
    """
    if is_supported() and isinstance(stream, trio.SocketStream):
        _SharedReactor.of(stall_timeout).adopt(stream, greet)
    else:
        transport = StreamTransport(stream, stall_timeout=stall_timeout)
        transport.receiver = greet(transport, _nothing)
        trio.lowlevel.spawn_system_task(_drive, transport)


@final
class _SharedReactor:
    """The reactor of the plain connections of one Trio run; it ends with the last of them.

    Connections share one where they agree on how long nothing may leave.
    """

    def __init__(self, stall_timeout: float) -> None:
        self._reactor = Reactor(stall_timeout=stall_timeout)
        self._stall_timeout = stall_timeout
        self._connections = 0
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run)

    @staticmethod
    def of(stall_timeout: float) -> _SharedReactor:
        """Return the one that runs, or start it."""
        reactors = _reactors.get(None)
        if reactors is None:
            reactors = {}
            _reactors.set(reactors)
        shared = reactors.get(stall_timeout)
        if shared is None:
            shared = reactors[stall_timeout] = _SharedReactor(stall_timeout)
        return shared

    async def _run(self) -> None:
        with self._scope:
            await self._reactor.run()

    def adopt(self, stream: trio.SocketStream, greet: Greet) -> None:
        """Take the socket of a stream over."""
        sock = _detach(stream)
        self._connections += 1
        self._reactor.adopt(sock, lambda transport, _: greet(transport, self._release), None)

    def _release(self) -> None:
        self._connections -= 1
        if not self._connections:
            reactors = _reactors.get()
            assert reactors is not None
            reactors.pop(self._stall_timeout, None)
            self._scope.cancel()


_reactors: Final[trio.lowlevel.RunVar[dict[float, _SharedReactor] | None]] = trio.lowlevel.RunVar("rawws reactors")


def _detach(stream: trio.SocketStream) -> socket.socket:
    """Take a stream's socket out of Trio's hands; what is left of the stream is closed."""
    family, kind, protocol = stream.socket.family, stream.socket.type, stream.socket.proto
    return socket.socket(family, kind, protocol, fileno=stream.socket.detach())


async def _drive(transport: StreamTransport) -> None:
    try:
        await transport.run()
    except Exception:
        _log.exception("a stream raised what a Trio stream does not")


def _nothing() -> None:
    pass
