"""The peers: which servers and clients there are, how each is started, what it needs and what it cannot do.

This module is data and a few look-ups. A peer is one small program of `benchmarks.peers` (or the compiled
floor) in one style. Nothing here runs a peer's code; a missing one is skipped by name with the reason.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.cases import Case

__all__ = ["PEERS", "REFERENCE", "Installed", "Peer", "distributions", "importable", "select_peers", "variant"]

REFERENCE = "rawws"
"""The peer that ratios are taken to."""


class Installed(Protocol):
    """What is made of installed distributions: a peer, or a subject of another benchmark."""

    @property
    def distributions(self) -> tuple[str, ...]:
        """Whose versions belong to the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server, or one client, to measure."""

    name: str
    label: str
    program: str
    """A module of `benchmarks.peers` or `benchmarks.clients`, or the name of a C program beside this file."""
    style: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """What must be importable."""
    distributions: tuple[str, ...] = ()
    """Whose versions belong to the result."""
    default: bool = True
    """Measured when no peers are named."""
    default_cases: tuple[str, ...] = ()
    """Where it is measured when no peers are named; empty: in every case."""
    compiled: bool = False
    """The program is C."""
    is_client: bool = False
    """It is a client; the floor is its server."""
    has_deflate: bool = True
    has_chat: bool = False
    """Comes with the chat of rawws, an async handler."""
    keepalive: Literal["own", "recipe", "none"] = "own"
    """Whether it sends pings: by itself, by a recipe of its documentation, or not at all."""
    may_drop_close: bool = False
    """It is known to leave some Close frames unanswered; a remark counts them."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, port: int, mode: str, *, deflate: bool, ping_interval: float) -> list[str]:
        """Return the command that starts this server."""
        arguments = [str(port), mode, "1" if deflate else "0", str(ping_interval), *self.style]
        if self.compiled:
            return [str(build.program(self.program)), *arguments]
        return [sys.executable, "-m", f"benchmarks.peers.{self.program}", *arguments]

    def client_command(
        self, port: int, *, connections: int, warmup: float, seconds: float, server_pid: int
    ) -> list[str]:
        """Return the command that starts this client."""
        arguments = [str(port), str(connections), str(warmup), str(seconds), str(server_pid)]
        return [sys.executable, "-m", f"benchmarks.clients.{self.program}", *arguments]

    def missing(self) -> str:
        """Return why this peer cannot run here, or an empty string."""
        if self.compiled:
            return build.missing()
        absent = [module for module in self.modules if not importable(module)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def takes_part(self, case: Case) -> bool:
        """Whether the case is one for servers, or for clients, as this peer is, and not outside its default cases."""
        return self.is_client == (case.mode == "client") and (not self.default_cases or case.name in self.default_cases)

    def unsupported(self, case: Case) -> str:
        """Return why this peer has no row in a case, or an empty string."""
        if case.mode == "chat" and not self.has_chat:
            return "no chat"
        return "no permessage-deflate" if case.payload.deflated and not self.has_deflate else ""


def importable(module: str) -> bool:
    """Return whether a module is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


_RAWWS = ("rawws", "trio", "wsproto", "h11", "numpy", "isal", "zlib-ng", "prometheus-client")
"""What rawws is made of, and what it uses where it is installed."""

PEERS: tuple[Peer, ...] = (
    Peer(
        name="rawws",
        label="rawws, Protocol",
        program="rawws_server",
        modules=("rawws", "rawws.server"),
        distributions=_RAWWS,
    ),
    Peer(
        name="rawws-task",
        label="rawws, async handler",
        program="rawws_server",
        style=("task",),
        modules=("rawws", "rawws.server"),
        distributions=_RAWWS,
        has_chat=True,
    ),
    Peer(
        name="rawws-no-lane",
        label="rawws, Protocol, fast lane off",
        program="rawws_server",
        style=("no-lane",),
        modules=("rawws", "rawws.server"),
        distributions=_RAWWS,
        default=False,
    ),
    Peer(
        name="rawws-plain",
        label="rawws, Protocol, without numpy and isal",
        program="rawws_server",
        style=("plain",),
        modules=("rawws", "rawws.server"),
        distributions=("rawws", "trio", "wsproto", "h11", "prometheus-client"),
        default_cases=("binary-64k", "binary-1m"),
    ),
    Peer(
        name="floor",
        label="C epoll loop (the floor)",
        program="floor",
        compiled=True,
        has_deflate=False,
        keepalive="none",
    ),
    Peer(
        name="picows",
        label="picows on uvloop",
        program="picows_server",
        modules=("picows", "uvloop"),
        distributions=("picows", "aiofastnet", "uvloop"),
        has_deflate=False,
    ),
    Peer(
        name="aiohttp",
        label="aiohttp on uvloop",
        program="aiohttp_server",
        modules=("aiohttp", "uvloop"),
        distributions=("aiohttp", "uvloop"),
    ),
    Peer(
        name="websockets",
        label="websockets on asyncio, uvloop",
        program="websockets_asyncio_server",
        modules=("websockets", "uvloop"),
        distributions=("websockets", "uvloop"),
    ),
    Peer(
        name="websockets-trio",
        label="websockets on trio",
        program="websockets_trio_server",
        modules=("websockets.trio", "trio"),
        distributions=("websockets", "trio"),
        may_drop_close=True,  # 17.4 loses it now and then when the client's Close follows the 101 at once
    ),
    Peer(
        name="uvicorn",
        label="uvicorn with wsproto, uvloop",
        program="uvicorn_server",
        modules=("uvicorn", "wsproto", "uvloop", "httptools"),
        distributions=("uvicorn", "wsproto", "uvloop", "httptools"),
    ),
    Peer(
        name="hypercorn",
        label="Hypercorn, trio worker",
        program="hypercorn_server",
        modules=("hypercorn", "trio"),
        distributions=("hypercorn", "wsproto", "trio"),
    ),
    Peer(
        name="trio-websocket",
        label="trio-websocket",
        program="trio_websocket_server",
        modules=("trio_websocket", "trio"),
        distributions=("trio-websocket", "wsproto", "trio"),
        has_deflate=False,
        keepalive="recipe",
    ),
    Peer(
        name="rawws-client",
        label="rawws",
        program="rawws_client",
        is_client=True,
        modules=("rawws", "rawws.client"),
        distributions=_RAWWS,
    ),
    Peer(
        name="picows-client",
        label="picows on uvloop",
        program="picows_client",
        is_client=True,
        modules=("picows", "uvloop"),
        distributions=("picows", "aiofastnet", "uvloop"),
    ),
    Peer(
        name="aiohttp-client",
        label="aiohttp on uvloop",
        program="aiohttp_client",
        is_client=True,
        modules=("aiohttp", "uvloop"),
        distributions=("aiohttp", "uvloop"),
    ),
    Peer(
        name="websockets-client",
        label="websockets on asyncio, uvloop",
        program="websockets_asyncio_client",
        is_client=True,
        modules=("websockets", "uvloop"),
        distributions=("websockets", "uvloop"),
    ),
    Peer(
        name="websockets-trio-client",
        label="websockets on trio",
        program="websockets_trio_client",
        is_client=True,
        modules=("websockets.trio", "trio"),
        distributions=("websockets", "trio"),
    ),
    Peer(
        name="trio-websocket-client",
        label="trio-websocket",
        program="trio_websocket_client",
        is_client=True,
        modules=("trio_websocket", "trio"),
        distributions=("trio-websocket", "wsproto", "trio"),
    ),
)


def select_peers(names: Sequence[str] | None, compiled: str | None = None) -> tuple[Peer, ...]:
    """Return the named peers in the table's order, for every case, or the default ones; spaces about a name are none.

    With `compiled`, a folder that holds a compiled build of the package rawws, the same rawws peers come a
    second time under the names `rawws-compiled` and so on, imported from there.

    Raises:
        ValueError: a name is not in the table.
    """
    known = {peer.name for peer in PEERS}
    names = None if names is None else [name.strip() for name in names]
    for name in names or ():
        if name not in known:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(peer.name for peer in PEERS)}")
    if names is None:
        chosen = [peer for peer in PEERS if peer.default]
    else:
        chosen = [dataclasses.replace(peer, default_cases=()) for peer in PEERS if peer.name in names]
    if compiled is not None:
        chosen += [
            variant(peer, "compiled", compiled) for peer in chosen if peer.program in ("rawws_server", "rawws_client")
        ]
    return tuple(chosen)


def variant(peer: Peer, word: str, path: str) -> Peer:
    """Return a rawws peer that imports rawws from another folder: `rawws-task` becomes `rawws-WORD-task`."""
    return dataclasses.replace(
        peer,
        name=peer.name.replace("rawws", f"rawws-{word}", 1),
        label=peer.label.replace("rawws", f"rawws {word}", 1),
        environment={"PYTHONPATH": path},
    )


def distributions(peers: Iterable[Installed]) -> dict[str, str]:
    """Return the installed version of everything that the peers are made of."""
    versions = {}
    for name in sorted({name for peer in peers for name in peer.distributions}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
