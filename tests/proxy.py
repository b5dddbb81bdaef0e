"""A TCP proxy that tests put before a server, to make its network slow, frozen or cut."""

from __future__ import annotations

import contextlib
from typing import final

import trio

__all__ = ["Proxy"]


@final
class Proxy:
    """Passes bytes between connections to itself and a port of 127.0.0.1; started with `nursery.start(proxy.run)`.

    Attributes:
        delay: seconds for which each piece is held back.
    """

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.port = 0
        self._target = target
        self._thawed = trio.Event()
        self._thawed.set()
        self._connections: set[trio.CancelScope] = set()
        self._frozen: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        """As a Redis."""
        return f"redis://127.0.0.1:{self.port}"

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._pass_on, listeners)

    def freeze(self) -> None:
        """Pass nothing on, and close nothing: what a partition looks like."""
        self._thawed = trio.Event()

    def freeze_connections(self) -> None:
        """Pass nothing more on over the connections that there are, for good, and close none; new ones work."""
        self._frozen.update(self._connections)

    def thaw(self) -> None:
        self._thawed.set()

    def cut(self) -> None:
        """Close all connections."""
        for scope in self._connections:
            scope.cancel()

    async def _pass_on(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, contextlib.suppress(OSError):
            self._connections.add(scope)
            try:
                await self._thawed.wait()
                server = await trio.open_tcp_stream("127.0.0.1", self._target)
                async with client, server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, scope)
                    nursery.start_soon(self._pump, server, client, scope)
            finally:
                self._connections.discard(scope)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                await trio.sleep(self.delay)
                await self._thawed.wait()
                if scope in self._frozen:
                    await trio.sleep_forever()
                await sink.send_all(data)
        scope.cancel()
