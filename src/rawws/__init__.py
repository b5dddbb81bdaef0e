"""rawws: the WebSocket server for Trio.

A server is this long:

    async def echo(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    rawws.run(echo, "127.0.0.1", 8000)
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._version import __version__
from .backplane import Backplane, MemoryBackplane
from .chat import Chat
from .client import Connect, connect, connect_stream
from .deflate import DeflateOptions
from .echo import EchoProtocol
from .errors import (
    CloseCode,
    ConnectionClosed,
    FrameError,
    HandshakeError,
    HandshakeFailed,
    HandshakeRejected,
    RawwsError,
)
from .http import Headers, Request, Response
from .limits import Limits
from .manager import BroadcastResult, ConnectionManager
from .pieces import MessageChunks, MessageWriter
from .protocol import Protocol
from .reconnect import Backoff
from .sending import SendStatus
from .server import Server, run, serve, serve_listeners, serve_stream
from .static_files import StaticFiles
from .websocket import WebSocket

__all__ = [
    "Backoff",
    "Backplane",
    "BroadcastResult",
    "Chat",
    "CloseCode",
    "Connect",
    "ConnectionClosed",
    "ConnectionManager",
    "DeflateOptions",
    "EchoProtocol",
    "FrameError",
    "HandshakeError",
    "HandshakeFailed",
    "HandshakeRejected",
    "Headers",
    "Limits",
    "MemoryBackplane",
    "MessageChunks",
    "MessageWriter",
    "Protocol",
    "RawwsError",
    "RedisBackplane",
    "Request",
    "Response",
    "SendStatus",
    "Server",
    "StaticFiles",
    "WebSocket",
    "__version__",
    "connect",
    "connect_stream",
    "run",
    "serve",
    "serve_listeners",
    "serve_stream",
]

if _TYPE_CHECKING:
    from .redis_backplane import RedisBackplane


def __getattr__(name: str) -> object:
    """Import what needs more than rawws when it is asked for."""
    if name != "RedisBackplane":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .redis_backplane import RedisBackplane

    return RedisBackplane
