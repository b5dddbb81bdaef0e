"""Every exception of rawws, with the close code or the HTTP status that it carries.

Facts: an exception says whose fault it was. `HandshakeError` and `FrameError` are the peer's fault; whoever
raises one picks the HTTP status or the close code, and one place (the HTTP exchange, the connection) puts it
on the wire. `HandshakeFailed` and `HandshakeRejected` tell a client what became of its opening handshake.
`ConnectionClosed` tells an application that its connection is over, and who ended it. A mistake of the caller is an
ordinary ValueError, TypeError or RuntimeError, raised before a byte is queued.

This module imports nothing of rawws and knows no sockets, clocks or frames.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "By",
    "CloseCode",
    "ConnectionClosed",
    "FrameError",
    "HandshakeError",
    "HandshakeFailed",
    "HandshakeRejected",
    "RawwsError",
]

By: TypeAlias = Literal["peer", "us", "network"]
"""Who ended a connection: the peer's Close frame, our own close or failure, or the transport without one."""


class CloseCode(IntEnum):
    """Status codes of a Close frame (RFC 6455 §7.4.1 and the IANA registry it opened)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    """Never on the wire: the peer's Close frame had no code."""
    ABNORMAL_CLOSURE = 1006
    """Never on the wire: the connection ended without a Close frame."""
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


class RawwsError(Exception):
    """The base of every exception that rawws defines."""


class HandshakeError(RawwsError):
    """The peer's HTTP request cannot be served; it is answered with `status` and the connection is closed.

    Attributes:
        status: the HTTP status code of the answer, 400 to 599.
        message: one short sentence, the body of the answer. It never quotes bytes of the peer.
        headers: further header fields of the answer, such as `("Allow", "GET, HEAD")`.
    """

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class HandshakeFailed(RawwsError):
    """The server did not open a WebSocket for us: its answer breaks HTTP/1.1, RFC 6455 or RFC 7692.

    Its one argument says what is wrong, and never quotes bytes of the server.
    """


class HandshakeRejected(HandshakeFailed):
    """The server refused our opening handshake: it answered with an ordinary HTTP response.

    Attributes:
        status: the HTTP status code, such as 401, 404 or 503; 300 to 399 for a redirect that is not followed.
        headers: the header fields of the answer, names without case.
        body: its body, or the first 64 KiB of a longer one.
        reason: why a redirect was not followed, otherwise empty.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, reason: str = "") -> None:
        super().__init__(status, headers, body, reason)
        self.status = status
        self.headers = headers
        self.body = body
        self.reason = reason

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"the server answered the opening handshake with {self.status}{reason}"


class FrameError(RawwsError):
    """The peer broke RFC 6455 or RFC 7692, or one of our limits: fail the connection (RFC 6455 §7.1.7).

    Attributes:
        code: the status code of our Close frame.
        reason: its reason, at most 123 bytes of UTF-8. It never quotes bytes of the peer.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class ConnectionClosed(RawwsError):
    """The connection is over.

    Attributes:
        code: the status code of the Close frame that ended it (RFC 6455 §7.4.1); 1005 when the peer's Close
            had none, 1006 when the connection ended without a Close frame.
        reason: the reason in that frame, or ours for a connection that ended without one; may be empty.
        by: `"peer"` for the peer's Close frame, `"us"` for our own close or for a failure that we found,
            `"network"` for an end of the stream without a Close frame.
        queues: for our own 1011 and 1013, the bytes that waited to be sent and those that waited to be received when
            we decided so; otherwise None.
    """

    def __init__(self, code: int, reason: str = "", by: By = "network") -> None:
        super().__init__(code, reason, by)
        self.code = code
        self.reason = reason
        self.by: By = by
        self.queues: tuple[int, int] | None = None
        self._connection: object = None

    def of(self, connection: object) -> ConnectionClosed:
        """Return a fresh copy to raise for `connection`; an exception that was raised keeps its traceback alive."""
        closed = ConnectionClosed(self.code, self.reason, self.by)
        closed.queues = self.queues
        closed._connection = connection
        return closed

    def concerns(self, connection: object) -> bool:
        """Whether this was raised for `connection`, so that its handler has just ended in the ordinary way."""
        return self._connection is connection

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"closed by {self.by} with {self.code}{reason}"
