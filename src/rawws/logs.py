"""What rawws writes to its log: one line a connection, as text or JSON, in which no peer can write lines of its own.

Rules:

* A peer's text is quoted by `escape` wherever it stands in a message: printable ASCII, whatever it was. The formatters
  escape what is left, in messages and tracebacks of others: no control character reaches a terminal, and no line break
  begins anything but a line of ours.
* A line is a sentence for people; the same facts go with its record as the dictionary `record.rawws`, of which the
  JSON formatter makes fields. A formatter of somebody else's may do the same.

Cost: nothing for a message, one line at INFO for a connection, and next to nothing where INFO is off. It decides
nothing, and knows no sockets, no Trio and no clock.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from typing import TextIO

    from .http import Address
    from .websocket import WebSocket

__all__ = [
    "JsonFormatter",
    "LogFormat",
    "TextFormatter",
    "configure",
    "escape",
    "log_connection",
    "peer_name",
    "printable",
]

LogFormat: TypeAlias = Literal["text", "json"]
"""How lines are written."""

_log = logging.getLogger("rawws")

_TROUBLES: Final = (1011, 1013)
"""Codes of our own whose cause lies in a peer, or in us, that does not keep up: their lines say how things stood."""


def escape(text: str) -> str:
    """Return text of a peer in quotes, as printable ASCII without a line break, for a log line or a terminal."""
    return ascii(text)


def printable(text: str) -> str:
    """Return text with everything escaped that a terminal would obey or hide instead of showing it.

    That is C0 and C1 controls, ESC among them, and the characters of Unicode that turn the direction of writing or
    cannot be seen.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def peer_name(client: Address) -> str:
    """Return a peer's address for a log line."""
    if isinstance(client, tuple):
        host, port = client
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return escape(client) if client else "a client"


def log_connection(ws: WebSocket, seconds: float, lag: float) -> None:
    """Write the one line of a connection that is over, at INFO.

    Args:
        ws: the connection; its `closed` is set.
        seconds: how long it lasted, from its request.
        lag: the longest delay of the event loop of late, in seconds.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    closed = ws.closed
    assert closed is not None
    request = ws.request
    facts: dict[str, object] = {
        "client": peer_name(request.client),
        "path": request.path,
        "seconds": round(seconds, 6),
        "messages_received": ws.messages_received,
        "bytes_received": ws.bytes_received,
        "messages_sent": ws.messages_sent,
        "bytes_sent": ws.bytes_sent,
        "code": closed.code,
        "reason": closed.reason,
        "by": closed.by,
    }
    line = f"{peer_name(request.client)} {escape(request.path)}: closed by {closed.by} with {closed.code}"
    if closed.reason:
        line += f" {escape(closed.reason)}"
    line += (
        f" after {seconds:.3f} s; {ws.messages_received} messages, {ws.bytes_received} bytes received;"
        f" {ws.messages_sent} messages, {ws.bytes_sent} bytes sent"
    )
    if ws.refusal:
        facts["refused"] = ws.refusal
        line += f"; refused: {ws.refusal}"
    if closed.by == "us" and closed.code in _TROUBLES:
        to_send, to_receive = closed.queues or (0, 0)
        facts |= {"round_trip": ws.latency, "send_queue": to_send, "receive_queue": to_receive, "lag": round(lag, 6)}
        latency = "unknown" if ws.latency is None else f"{ws.latency:.3f} s"
        line += f"; round trip {latency}, {to_send} bytes to send, {to_receive} bytes to receive, lag {lag:.3f} s"
    _log.info("%s", line, extra={"rawws": facts})


class TextFormatter(logging.Formatter):
    """One line a record, `time level logger: message`; a traceback below it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text in which only our own line breaks are."""
        lines = [f"{_time_of(record)} {record.levelname} {record.name}: {printable(record.getMessage())}"]
        lines += [f"    {printable(line)}" for line in _traceback_of(self, record).splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and what else there is."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as an object in ASCII without a line break."""
        entry: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "rawws", {})
        if traceback := _traceback_of(self, record):
            entry["traceback"] = traceback
        return json.dumps(entry, default=str)


def configure(level: str, format_: LogFormat, stream: TextIO) -> None:
    """Send every log record of the process from a level on to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    handler.addFilter(_Seldom("trio.serve_listeners", 60.0))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Seldom(logging.Filter):
    """Passes a record of one logger without its traceback, and no other of it for so many seconds.

    Trio says ten times a second that there are no descriptors to accept a connection with.
    """

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__()
        self._name = name
        self._seconds = seconds
        self._passed_at = -inf

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != self._name:
            return True
        if record.created - self._passed_at < self._seconds:
            return False
        self._passed_at = record.created
        record.exc_info = None
        return True


def _time_of(record: logging.LogRecord) -> str:
    """Return when a record was made, in UTC (RFC 3339)."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
