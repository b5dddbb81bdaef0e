"""What a connection's failure or end means to a person, in one line.

Two tables and what reads them: close codes with their words, and the exceptions of `connect` with what to do about
each. Text of a server goes through `printable`. It does no I/O and decides nothing.
"""

from __future__ import annotations

import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from .dial import ProxyFailed, ProxyRefused
from .errors import CloseCode, HandshakeFailed, HandshakeRejected
from .logs import printable
from .reconnect import will_heal

if TYPE_CHECKING:
    from .errors import ConnectionClosed

__all__ = ["how_it_ended", "what_to_do"]

_CLOSE_CODES: Final = {
    CloseCode.NORMAL_CLOSURE: "normal closure",
    CloseCode.GOING_AWAY: "going away",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.UNSUPPORTED_DATA: "this kind of data is not accepted",
    CloseCode.NO_STATUS_RECEIVED: "no code given",
    CloseCode.ABNORMAL_CLOSURE: "no closing handshake",
    CloseCode.INVALID_PAYLOAD: "malformed data",
    CloseCode.POLICY_VIOLATION: "policy violation",
    CloseCode.MESSAGE_TOO_BIG: "message too big",
    CloseCode.MANDATORY_EXTENSION: "an extension is missing",
    CloseCode.INTERNAL_ERROR: "internal error",
    CloseCode.SERVICE_RESTART: "service restart",
    CloseCode.TRY_AGAIN_LATER: "try again later",
    CloseCode.BAD_GATEWAY: "bad gateway",
    3000: "unauthorized",
    3003: "forbidden",
    3008: "timeout",
}
"""RFC 6455 §7.4.1 and the IANA registry."""
_BY: Final = {"peer": "the server", "us": "this side", "network": "the network"}

_STATUSES: Final = {
    401: "give what it asks for with --header Authorization:…",
    403: "it may want another --origin, or a --header",
    404: "check the path",
    407: "give the proxy's user and password in --proxy",
    426: "check the path",
}
_REASON_SHOWN: Final = 200
"""Characters of a refusal's body that are worth a line."""


def how_it_ended(closed: ConnectionClosed) -> str:
    """Say who closed a connection, with what code, and what that means."""
    if closed.code in _CLOSE_CODES:
        words = _CLOSE_CODES[closed.code]
    elif closed.code >= 4000:
        words = "a code of the application"
    else:
        words = "a registered code"
    reason = f": {printable(closed.reason)}" if closed.reason else ""
    return f"closed by {_BY[closed.by]} with {closed.code}, {words}{reason}"


def what_to_do(exc: Exception, address: str) -> str:
    """Say why there is no connection, and what to do.

    Args:
        exc: what `connect` raised.
        address: where to; it is not quoted whole, for it may hold a password.
    """
    if isinstance(exc, HandshakeRejected):
        return _refused(exc)
    if isinstance(exc, HandshakeFailed):
        return f"{_of_host(address)} does not answer as a WebSocket server: {exc}; check the address"
    if isinstance(exc, (ValueError, ImportError)) and not isinstance(exc, ssl.SSLError):
        return f"{printable(str(exc))}; see rawws connect --help"
    if isinstance(exc, ProxyFailed):
        return f"{printable(str(exc))}; check --proxy"
    if isinstance(exc, ProxyRefused):
        return f"{printable(str(exc))}; check --proxy, and the user and password in it"
    host = _of_host(address)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} is not trusted ({printable(exc.verify_message)}); "
            "name its authority with --cacert, or look away with --insecure"
        )
    if isinstance(exc, ssl.SSLError):
        return f"{host} does not speak TLS as expected ({exc.reason}); try ws:// if it is not meant to"
    if isinstance(exc, socket.gaierror):
        return f"the name in {host} is not known here; check the spelling"
    if all(isinstance(leaf, ConnectionRefusedError) for leaf in _leaves(exc)):
        return f"nothing listens on {host}; start the server there, or check the port"
    if isinstance(exc, TimeoutError):
        return f"{host} did not answer in time; check the address, or whether a firewall is in between"
    return f"{host} cannot be reached: {printable(str(exc) or type(exc).__name__)}; check the address"


def _leaves(exc: BaseException) -> list[BaseException]:
    """Return what an exception was made from: a name may stand for several addresses, each with an error of its own."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return _leaves(exc.__cause__) if isinstance(exc.__cause__, (OSError, BaseExceptionGroup)) else [exc]


def _refused(exc: HandshakeRejected) -> str:
    try:
        phrase = f" {HTTPStatus(exc.status).phrase}"
    except ValueError:
        phrase = ""
    body = exc.reason
    if not body and exc.headers.get("content-type", "text/plain").startswith("text/plain"):
        body = exc.body.decode(errors="replace").strip()
    said = f" ({printable(body[:_REASON_SHOWN])})" if body else ""
    otherwise = "try again later" if will_heal(exc) else "check the address"
    return f"the server refused with {exc.status}{phrase}{said}; {_STATUSES.get(exc.status, otherwise)}"


def _of_host(address: str) -> str:
    """Return host and port of an address, without user and password."""
    return printable(urlsplit(address).netloc.rpartition("@")[2]) or "the server"
