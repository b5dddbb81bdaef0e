"""Whether and when a client connects again, without I/O.

Facts: what a server said decides, and there is one table for each way in which it says it. A refusal with a status
of `HEALING_STATUSES`, or any of the server's own faults (5xx), is a matter of time; another one is not. A Close
frame of `FINAL_CODES` says that the next connection would end in the same way, whoever sent it; 1000 from the server
says that all is done (RFC 6455 §7.4.1); any other code, and an end without one, is a matter of time.

Strategy of the delays: each is twice as long as the one before, up to a maximum, and shortened by up to a half at
random, so that the clients of a server that restarts do not return at once (RFC 6455 §7.2.3). A connection that
lasted starts the series anew. What a server asks for with Retry-After comes on top.

This module knows no sockets, no trio and no clock: times are durations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, final

from .errors import CloseCode, HandshakeRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .errors import ConnectionClosed, HandshakeFailed

__all__ = ["FINAL_CODES", "HEALING_STATUSES", "MAX_RETRY_AFTER", "Backoff", "retry_after", "why_not_again", "will_heal"]

HEALING_STATUSES: Final = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: refusals of this moment, not of this request."""

FINAL_CODES: Final[Mapping[int, str]] = {
    CloseCode.PROTOCOL_ERROR: "a protocol error would be made again",
    CloseCode.UNSUPPORTED_DATA: "the same kind of data would be refused again",
    CloseCode.INVALID_PAYLOAD: "the same data would be refused again",
    CloseCode.POLICY_VIOLATION: "the same policy would be violated again",
    CloseCode.MESSAGE_TOO_BIG: "the same message would be too big again",
    CloseCode.MANDATORY_EXTENSION: "the same extension would be missing again",
    3000: "the server asks for authentication",
    3003: "the server forbids it",
}
"""Close codes after which nobody should come back, and why; the last two are IANA's Unauthorized and Forbidden."""

MAX_RETRY_AFTER: Final = 600.0
"""Seconds that a Retry-After is obeyed for at most."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before connecting again.

    Raises:
        ValueError: a duration is not positive, or the factor below 1.
    """

    first: float = 1.0
    """Seconds before the first attempt to connect again."""
    factor: float = 2.0
    """By what the delay grows from one attempt to the next."""
    maximum: float = 60.0
    """Seconds beyond which it does not grow."""
    steady: float = 30.0
    """Seconds that a connection has to last for the series to start anew."""
    random: Callable[[], float] = field(default=random.random, repr=False)
    """Returns a number from 0 to 1: 0 halves a delay, 1 leaves it as it is."""

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.maximum >= self.first and self.factor >= 1 and self.steady >= 0):
            raise ValueError("a backoff needs 0 < first <= maximum, factor >= 1 and steady >= 0")

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, 1 or more."""
        delay = self.first
        for _ in range(1, failures):
            delay *= self.factor
            if delay >= self.maximum:
                delay = self.maximum
                break
        return delay * (1 + self.random()) / 2


def will_heal(failed: HandshakeFailed) -> bool:
    """Whether a handshake that failed like this may succeed later, with the same request."""
    return isinstance(failed, HandshakeRejected) and (failed.status in HEALING_STATUSES or failed.status >= 500)


def why_not_again(closed: ConnectionClosed) -> str | None:
    """Return why nobody should connect again after this end, None where there is no reason."""
    return FINAL_CODES.get(closed.code)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After field (RFC 9110 §10.2.3), at most `MAX_RETRY_AFTER`; 0 without one.

    A date is taken relative to the answer's own Date, so that clocks need not agree.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        seconds = (until - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
