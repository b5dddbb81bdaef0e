"""rawws: the WebSocket server for Trio.

A server is this long:

    async def echo(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    rawws.run(echo, "127.0.0.1", 8000)
"""

from ._version import __version__
from .backplane import Backplane, MemoryBackplane
from .chat import Chat
from .connection import SendStatus
from .deflate import DeflateOptions
from .echo import EchoProtocol
from .errors import CloseCode, ConnectionClosed, FrameError, HandshakeError, RawwsError
from .http import Headers, Request, Response
from .limits import Limits
from .manager import BroadcastResult, ConnectionManager
from .pieces import MessageChunks, MessageWriter
from .protocol import Protocol
from .server import Server, run, serve, serve_listeners, serve_stream
from .static_files import StaticFiles
from .websocket import WebSocket

__all__ = [
    "Backplane",
    "BroadcastResult",
    "Chat",
    "CloseCode",
    "ConnectionClosed",
    "ConnectionManager",
    "DeflateOptions",
    "EchoProtocol",
    "FrameError",
    "HandshakeError",
    "Headers",
    "Limits",
    "MemoryBackplane",
    "MessageChunks",
    "MessageWriter",
    "Protocol",
    "RawwsError",
    "Request",
    "Response",
    "SendStatus",
    "Server",
    "StaticFiles",
    "WebSocket",
    "__version__",
    "run",
    "serve",
    "serve_listeners",
    "serve_stream",
]
