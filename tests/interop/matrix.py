"""Who is tried with rawws, with what, and what a peer cannot do.

A cell is named from the peer's side: "sends fragments" is the peer's client against rawws's server, or the peer's
server against rawws's client. What a peer cannot do is declared here with its reason, and nowhere else; everything
else is played, and a cell that a program does not play has failed. `markdown` draws the declaration for the README.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CELLS", "CLIENTS", "PEERS", "SERVERS", "WINDOWS_GOOD", "Peer", "declared", "markdown", "plays", "table"]

Kind = Literal["python", "node", "chromium", "proxy"]

CELLS: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("text", "text"),
    "binary": ("binary", "binary"),
    "empty": ("empty", "empty"),
    "1 MiB": ("large", "large"),
    "sends fragments": ("client_fragments", "server_fragments"),
    "reads fragments": ("server_fragments", "client_fragments"),
    "window asked": ("asked", "asked"),
    "window given": ("given", "given"),
    "subprotocol": ("subprotocol", "subprotocol"),
    "pings": ("client_ping", "server_ping"),
    "answers pings": ("server_ping", "client_ping"),
    "closes": ("client_close", "server_close"),
    "is closed": ("server_close", "client_close"),
    "403": ("refusal", "refusal"),
}
"""Each cell, and what the scenarios call it when the peer is the client, and when it is the server."""

WINDOWS_GOOD: Final = "9\N{EN DASH}15"
"""What a cell says when every window has worked."""
_WINDOWS: Final = ("window asked", "window given")
_FRAGMENTS: Final = "each message leaves in one frame"
_NO_DEFLATE: Final = "it has no permessage-deflate"
_PAGE: Final[Mapping[str, str]] = {
    "sends fragments": _FRAGMENTS,
    "window asked": "the interface of browsers has no say in it",
    "pings": "the interface of browsers has none",
}
_PAGE_NOTES: Final[Mapping[str, str]] = {
    "closes": "with 1000, 3000 and 4999; the interface of browsers allows no other codes of these",
    "403": "no connection opens; the interface of browsers does not tell the status",
}
_ASGI: Final[Mapping[str, str]] = {
    "sends fragments": "ASGI has none",
    "window given": "it has no setting for that",
}


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """A client that is tried against rawws's server, or a server against rawws's client."""

    name: str
    kind: Kind
    program: str
    """In `peers/`, without its suffix; for a proxy, the command."""
    package: str
    """Whose version is told, as Python, npm or the command calls it."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Cells that it cannot play, and why."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Cells that it plays, with what is to be known of them."""
    deflates: bool = True
    """Whether it compresses what it sends."""
    largest_window: int = 15
    """The bits beyond which it does not go with its own window, whatever it is asked for."""


CLIENTS: Final = (
    Peer("websockets", "python", "websockets_client", "websockets"),
    Peer(
        "aiohttp",
        "python",
        "aiohttp_client",
        "aiohttp",
        lacks={"sends fragments": _FRAGMENTS},
        notes={"window asked": "it asks for the server's alone"},
    ),
    Peer("picows", "python", "picows_client", "picows", lacks=dict.fromkeys(_WINDOWS, _NO_DEFLATE)),
    Peer(
        "trio-websocket",
        "python",
        "trio_websocket_client",
        "trio-websocket",
        lacks={"sends fragments": _FRAGMENTS, **dict.fromkeys(_WINDOWS, _NO_DEFLATE)},
    ),
    Peer(
        "websocket-client",
        "python",
        "websocket_client_client",
        "websocket-client",
        lacks=dict.fromkeys(_WINDOWS, _NO_DEFLATE),
    ),
    Peer("ws", "node", "ws_client", "ws"),
    Peer(
        "Node's WebSocket",
        "node",
        "node_client",
        "node",
        lacks=_PAGE,
        notes={"window given": "it inflates, and does not deflate", **_PAGE_NOTES},
        deflates=False,
    ),
    Peer("Chromium", "chromium", "scenario", "chromium", lacks=_PAGE, notes=_PAGE_NOTES),
)

SERVERS: Final = (
    Peer("websockets", "python", "websockets_server", "websockets"),
    Peer(
        "aiohttp",
        "python",
        "aiohttp_server",
        "aiohttp",
        lacks={"sends fragments": _FRAGMENTS, "window given": "it has no setting for that"},
    ),
    Peer(
        "uvicorn",
        "python",
        "uvicorn_server",
        "uvicorn",
        lacks=_ASGI,
        notes={"window asked": "it never takes more than 12 bits"},
        largest_window=12,
    ),
    Peer(
        "Hypercorn",
        "python",
        "hypercorn_server",
        "hypercorn",
        lacks={**_ASGI, "pings": "it pings, but lives on without the pong, so that nothing would tell"},
        notes={"is closed": "it answers the Close, and tells its application neither code nor reason"},
    ),
    Peer("ws", "node", "ws_server", "ws"),
    Peer("nginx, TLS", "proxy", "nginx", "nginx"),
    Peer("HAProxy, TLS", "proxy", "haproxy", "haproxy"),
)

PEERS: Final = (*CLIENTS, *SERVERS)


def plays(peer: Peer) -> dict[str, str]:
    """The cells that a peer plays, and what its scenario calls each."""
    side = 0 if peer in CLIENTS else 1
    return {cell: names[side] for cell, names in CELLS.items() if cell not in peer.lacks}


def declared(peer: Peer) -> list[str]:
    """What the row of a peer says when all is well."""
    row = []
    for cell in CELLS:
        word = "\N{EN DASH}" if cell in peer.lacks else WINDOWS_GOOD if cell in _WINDOWS else "✓"
        row.append(word + "*" * (cell in peer.notes))
    return row


def table(title: str, rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Draw a table in Markdown: peers down, cells across."""
    drawn = [[title, *CELLS], ["---"] * (1 + len(CELLS)), *([name, *row] for name, row in rows.items())]
    return [f"| {' | '.join(line)} |" for line in drawn]


def reasons(peers: Sequence[Peer]) -> list[str]:
    """Say why there is a dash, and what a star means."""
    whose: dict[tuple[str, str], list[str]] = {}
    for cell in CELLS:
        for peer in peers:
            if why := peer.lacks.get(cell) or peer.notes.get(cell):
                whose.setdefault((cell, why), []).append(peer.name)
    return [f"- {cell}: {why} ({', '.join(names)})." for (cell, why), names in whose.items()]


def markdown() -> str:
    """Draw what the README shows."""
    parts = []
    for title, peers in (("client", CLIENTS), ("server", SERVERS)):
        parts += [*table(title, {peer.name: declared(peer) for peer in peers}), "", *reasons(peers), ""]
    return "\n".join(parts).rstrip("\n")
