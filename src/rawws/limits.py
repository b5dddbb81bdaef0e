"""Every bound of rawws, in one frozen dataclass.

Facts: each field has its unit in its docstring or name, a default that is safe on the open internet, and a
command-line flag of its name. `math.inf` turns a deadline off. Nothing here enforces anything; the module
that reads a limit does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

__all__ = ["Limits", "SlowConsumerPolicy", "check_policy"]

SlowConsumerPolicy: TypeAlias = Literal["close", "drop_newest", "drop_oldest"]
"""What `send_nowait` and a broadcast do to a peer whose send buffer is full."""

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds that hold for each connection of a server or client.

    Raises:
        ValueError: a bound is negative, zero where that makes no sense, or not a known policy.
    """

    max_head_size: int = 16 * _KIB
    """Bytes of a request head, from the method to the empty line; beyond: 431 (h11's and Apache's order of size).
    A client holds the head of the server's answer to it, and to the next one."""
    max_header_count: int = 100
    """Header fields in a request head; beyond: 431 (Apache's LimitRequestFields)."""
    head_timeout: float = 10.0
    """Seconds from accepting the TCP connection, the TLS handshake included, to a complete request head; also
    from one answer on a kept-alive connection to the next complete head; beyond: 408 where something came, cut."""
    accept_timeout: float = 10.0
    """Seconds from a complete head to the application's accept or reject; beyond: 503."""
    max_message_size: int = _MIB
    """Bytes of a message after inflating; beyond: 1009."""
    max_fragments: int | None = None
    """Frames of a message; beyond: 1008. None: `max_message_size` ÷ 64, at least 16."""
    ping_interval: float = 20.0
    """Seconds without a byte from the peer after which a ping is sent."""
    ping_timeout: float = 20.0
    """Seconds from the ping's leaving without a byte from the peer, after which it is closed with 1011; they begin anew
    while its machine acknowledges what was sent before the ping, so that a slow peer is not taken for a gone one."""
    close_timeout: float = 5.0
    """Seconds that the closing handshake may take, from before any write can block; then the connection is cut."""
    shutdown_timeout: float = 10.0
    """Seconds that a server's shutdown may take; then what is left is cut."""
    max_send_buffer: int = _MIB
    """Bytes queued to a peer from which on no further message is taken; one whole message may come on top."""
    send_timeout: float = 10.0
    """Seconds that bytes may be queued to a peer without any progress, which is looked for four times in them; then it
    is cut, with 1013 as the code."""
    slow_consumer: SlowConsumerPolicy = "close"
    """What `send_nowait` and a broadcast do when the send buffer is full: close with 1013, or drop whole messages."""
    receive_queue_messages: int = 16
    """Decoded messages waiting for the application; from then on reading stops."""
    receive_queue_size: int = 64 * _KIB
    """Bytes (characters for text) of decoded messages waiting for the application; from then on reading stops."""
    max_control_rate: int = 100
    """Control frames, and empty data frames that are not final, a second; beyond: 1008."""
    max_connections: int = 10_000
    """Connections of a server, plain HTTP included; beyond: 503. Those that are refused have a second to read why, and
    do not count; beyond `max_pending_handshakes` more in all, the oldest of them is cut."""
    max_connections_per_address: int = 200
    """Connections from one address, loopback excepted; beyond: 503."""
    max_pending_handshakes: int = 512
    """Connections whose request head is not complete; beyond, the oldest is answered with 503 and dropped."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "slow_consumer":
                check_policy(value, field.name)
            elif value is None and field.default is not None:
                raise ValueError(f"{field.name} must be a number, not None; math.inf turns a deadline off")
            elif value is not None and not value > 0:
                raise ValueError(f"{field.name} must be positive, not {value!r}")

    @property
    def fragments(self) -> int:
        """Frames that one message may have, `max_fragments` or what follows from `max_message_size`."""
        if self.max_fragments is not None:
            return self.max_fragments
        return _fragments_of(self.max_message_size)


def check_policy(policy: str, name: str = "policy") -> None:
    """Raise ValueError for what is no slow-consumer policy; `name` is what the caller calls it."""
    if policy not in ("close", "drop_newest", "drop_oldest"):
        raise ValueError(f"{name} must be 'close', 'drop_newest' or 'drop_oldest', not {policy!r}")


@lru_cache(maxsize=16)
def _fragments_of(size: int) -> int:
    """Return what `max_fragments` is by default: the same object each time, for every connection keeps it."""
    return max(16, size // 64)
