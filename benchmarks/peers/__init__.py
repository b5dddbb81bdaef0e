"""The servers that are measured, each a small program: `python -m benchmarks.peers.NAME ARGUMENTS`.

They do the same two things: in mode `echo` every message goes back as it came, text as text and binary as
binary; in mode `broadcast` every message goes to every connection, the sender included. Mode `chat`, a whole
application, is for rawws alone.

Each is set up as its documentation recommends for production: no access log, the garbage collector as it is, the
library's own broadcast where it has one, limits and keepalive at their defaults. permessage-deflate is on in the
case that measures it and off elsewhere; the ping interval is short in the case that waits for pings.

This file stays light: its import is part of every peer's time from start to listening.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

__all__ = ["Settings", "settings"]


class Settings(NamedTuple):
    """What the command line of a server says: PORT MODE DEFLATE PING_INTERVAL [STYLE ...]."""

    port: int
    """The port to listen on, on 127.0.0.1."""
    broadcast: bool
    """Send each message to every connection, not to its sender alone."""
    chat: bool
    """Serve the chat instead."""
    deflate: bool
    """Agree to permessage-deflate, with 12 window bits where that can be set."""
    ping_interval: float | None
    """Seconds of silence before a ping; None: the library's default."""
    style: frozenset[str]
    """Variants of one server, such as `task` for rawws's async handler."""


def settings() -> Settings:
    """Read the settings from this process's command line."""
    port, mode, deflate, ping_interval, *style = sys.argv[1:]
    return Settings(
        port=int(port),
        broadcast=mode == "broadcast",
        chat=mode == "chat",
        deflate=deflate == "1",
        ping_interval=float(ping_interval) or None,
        style=frozenset(style),
    )
