"""The sending half of one connection, without I/O: what leaves at once, what waits, and what is dropped.

Bytes leave through the `Transport`. `Connection` adds what is received and how it ends. Rules:

* Output is kept in two places: at most `HIGH_WATER` bytes (and one frame) in the transport, and behind them whole
  messages in a `Backlog`, which a policy may drop. What is there waits for `drained`, so nothing is put there unless
  the transport is blocked, or a message is being written in pieces.
* Whether anything can be sent is told by `_state`, and by `_pending_close`, the close that was asked for and has not
  begun. Both are read here; `Connection` writes them.
* Sending runs no callback of the application, so who sends to many finds none of one connection in his way.

Cost: a message to a peer that keeps up costs its encoding and one write. This module knows no sockets, no trio and no
clock.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from ._mypyc import mypyc_attr
from .backlog import Backlog
from .encoder import Encoder, SharedMessage
from .frames import PING
from .limits import check_policy
from .states import State
from .transport import HIGH_WATER, Receiver, Transport

if TYPE_CHECKING:
    from .errors import ConnectionClosed
    from .limits import Limits, SlowConsumerPolicy

__all__ = ["LARGE", "SendStatus", "Sending"]


class SendStatus(Enum):
    """What became of a message given to `send_nowait`."""

    SENT = "sent"
    """It left, or leaves when the callback or the batch that sent it ends: the peer keeps up."""
    QUEUED = "queued"
    """The peer is behind; the message waits within `max_send_buffer`."""
    DROPPED = "dropped"
    """The send buffer is full and the policy dropped this message."""
    CLOSED = "closed"
    """The connection takes no more messages."""


# The hot paths below compare against these names: a module global is found faster than a member of an Enum.
_OPEN: Final = State.OPEN
_SENT: Final = SendStatus.SENT
_QUEUED: Final = SendStatus.QUEUED

LARGE: Final = 32_768
"""Bytes (characters for text) from which on a message is sent without copying it behind its header."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Sending(Receiver):
    """The sending half of one WebSocket connection.

    Args:
        transport: where bytes leave.
        limits: the bounds that hold.
    """

    __slots__ = (
        "_backlog",
        "_crowded",
        "_encoder",
        "_high_water",
        "_limits",
        "_pending_close",
        "_state",
        "_transport",
        "_writing",
        "bytes_sent",
        "messages_sent",
        "pings_sent",
        "slow_consumer_actions",
    )

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits
        self._high_water = min(HIGH_WATER, limits.max_send_buffer - 1)
        self._state = State.CONNECTING
        self._encoder: Encoder | None = None
        self._backlog: Backlog | None = None
        self._pending_close: ConnectionClosed | None = None
        self.messages_sent = 0
        self.bytes_sent = 0
        self.pings_sent = 0
        self.slow_consumer_actions: dict[str, int] | None = None
        # Last, for compiled they share a word with those that `Connection` has first.
        self._crowded = False
        self._writing = False

    # -- what a subclass adds ------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Accept the handshake as it is, because the application began to talk."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Look again at what `receive` or a sender waits for."""
        raise NotImplementedError

    def _hold_reading(self) -> None:
        """Read nothing from the peer, which does not take what we send, until it has."""
        raise NotImplementedError

    def _give_up(self, waiting: int) -> None:
        """Have the connection closed, once the driver proceeds, because so many bytes wait for the peer."""
        raise NotImplementedError

    # -- messages ------------------------------------------------------------------------------------------

    def send_nowait(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        compress: bool | None = None,
        policy: SlowConsumerPolicy | None = None,
    ) -> SendStatus:
        """Send a message without waiting, whatever the peer does.

        Args:
            message: `str` leaves as text, anything bytes-like as binary.
            compress: whether to compress it where that was negotiated; None compresses from the threshold on.
            policy: what to do when the send buffer is full, if not what the limits say.

        Returns:
            What became of it. Never raises for the peer's state.

        Raises:
            TypeError: neither text nor bytes.
            ValueError: text with a lone surrogate (RFC 6455 §8.1); to a peer that is behind, a policy that is none.
        """
        if self._state is not _OPEN and not self._may_send():
            return SendStatus.CLOSED
        transport = self._transport
        if self._crowded or transport.queued > self._high_water:
            return self._send_crowded(message, compress, policy)
        if len(message) >= LARGE:
            self._send_large(message, compress)
        else:
            encoder = self._encoder
            assert encoder is not None
            frame = encoder.message(message, compress)
            self.messages_sent += 1
            self.bytes_sent += len(frame)
            transport.write(frame)
        if transport.blocked:
            if transport.queued > self._high_water:
                self._hold_reading()
            return _QUEUED
        return _SENT

    def _send_large(self, message: str | bytes | bytearray | memoryview, compress: bool | None) -> None:
        """Write a message whose payload is not worth copying."""
        assert self._encoder is not None
        header, payload = self._encoder.large_message(message, compress)
        self.messages_sent += 1
        self.bytes_sent += len(header) + len(payload)
        transport = self._transport
        transport.write(header, True)
        transport.write(payload, True)
        transport.flush()

    def send_shared(self, message: SharedMessage, policy: SlowConsumerPolicy | None = None) -> SendStatus:
        """Send what many peers get; like `send_nowait`, but encoded once for all of them."""
        if self._state is not _OPEN and not self._may_send():
            return SendStatus.CLOSED
        transport = self._transport
        if self._crowded or transport.queued > self._high_water:
            return self._send_crowded(message, None, policy)
        assert self._encoder is not None
        frame = self._encoder.shared(message)
        self.messages_sent += 1
        self.bytes_sent += len(frame)
        # Whoever broadcasts is seldom alone: what several send in one turn leaves in one piece.
        transport.write(frame, True)
        if transport.queued > self._high_water:
            self._relieve()
        return _QUEUED if transport.blocked else _SENT

    def _may_send(self) -> bool:
        """Whether messages can still be queued; accepts the handshake if nothing did."""
        if self._state is State.CONNECTING:
            self._accept()
        return self._state is not State.CLOSING and self._state is not State.CLOSED

    def _send_crowded(
        self,
        message: str | bytes | bytearray | memoryview | SharedMessage,
        compress: bool | None,
        policy: SlowConsumerPolicy | None,
    ) -> SendStatus:
        """Send to a peer that is behind, or behind a message that is being written in pieces."""
        if policy is not None:
            check_policy(policy)
        transport = self._transport
        if self._pending_close is not None:
            return SendStatus.CLOSED
        if not transport.blocked:
            transport.flush()  # it may only look behind because this batch has not been sent yet
        waiting = self.send_buffer
        if waiting >= self._limits.max_send_buffer:
            policy = policy or self._limits.slow_consumer
            if policy == "close":
                self._crowded = True
                self._give_up(waiting)
                return SendStatus.CLOSED
            if policy == "drop_newest" or not self._drop_oldest():
                self._acted("drop_newest", 1)
                return SendStatus.DROPPED
        if self._writing:
            if self._backlog is None:
                self._backlog = Backlog()
            self._backlog.put_behind(message, compress)
            return _QUEUED
        self._post(message, compress)
        return _QUEUED if transport.blocked else _SENT

    # -- what waits ----------------------------------------------------------------------------------------

    @property
    def send_buffer(self) -> int:
        """Bytes that are queued to the peer and have not reached the kernel; a short message may count as 64."""
        backlog = self._backlog
        return self._transport.queued + (0 if backlog is None else backlog.cost)

    @property
    def _frames_buffer(self) -> int:
        """The same without messages that wait behind one in pieces."""
        backlog = self._backlog
        return self._transport.queued + (0 if backlog is None else backlog.frames_cost)

    @property
    def _backlog_size(self) -> int:
        """Bytes of encoded messages that wait for room in the transport."""
        return 0 if self._backlog is None else self._backlog.frames_size

    def _post(self, message: str | bytes | bytearray | memoryview | SharedMessage, compress: bool | None) -> None:
        """Encode a message and put it where it belongs, behind all that is queued."""
        encoder = self._encoder
        assert encoder is not None
        frame = encoder.shared(message) if isinstance(message, SharedMessage) else encoder.message(message, compress)
        droppable = not (encoder.has_context and frame[0] & 0x40)
        self.messages_sent += 1
        self.bytes_sent += len(frame)
        self._queue_frame(frame, droppable)

    def _queue_frame(self, frame: bytes, droppable: bool) -> None:
        transport = self._transport
        if not self._backlog_size:
            if transport.queued > self._high_water:
                self._relieve()
            if transport.queued <= self._high_water:
                transport.write(frame)
                if transport.queued > self._high_water:
                    self._relieve()
                return
        if self._backlog is None:
            self._backlog = Backlog()
        self._backlog.put(frame, droppable)
        self._crowded = True

    def _release_behind(self) -> None:
        """Send what waited behind a message in pieces."""
        self._writing = False
        behind = () if self._backlog is None else self._backlog.take_behind()
        if self._may_send():
            for message, compress in behind:
                self._post(message, compress)
            self._crowded = bool(self._backlog_size) or self._pending_close is not None
        if not self._backlog_size:
            self._backlog = None
        self._wake()

    def _send_all_queued(self) -> None:
        """Write what is encoded, for a Close is to follow it, and forget what waits behind a message in pieces."""
        backlog = self._backlog
        while backlog is not None and backlog.frames_size:
            self._transport.write(backlog.take())
        self._forget_queued()

    def _forget_queued(self) -> None:
        """Drop what is queued here: nothing will follow it that could refer to it."""
        self._backlog = None
        self._crowded = False

    def _drop_oldest(self) -> bool:
        """Drop whole, unsent messages that no later frame refers to, or none and False where that is not enough."""
        excess = self.send_buffer - self._limits.max_send_buffer + 1
        dropped = None if self._backlog is None else self._backlog.drop_oldest(excess)
        if dropped is None:
            return False
        self.messages_sent -= dropped.frames
        self.bytes_sent -= dropped.frame_bytes
        for frame in dropped.passed:
            self._transport.write(frame)
        self._acted("drop_oldest", dropped.messages)
        return True

    def _acted(self, action: str, count: int) -> None:
        """Count what was done about a peer that does not read; most connections never need the dictionary."""
        actions = self.slow_consumer_actions
        if actions is None:
            actions = self.slow_consumer_actions = {}
        actions[action] = actions.get(action, 0) + count

    def _catch_up(self) -> bool:
        """Send on to a peer that takes more; whether nothing waits here any more and there is room for what follows."""
        self._refill()
        if self._backlog_size:
            return False
        if not self._writing:
            self._backlog = None
        self._crowded = self._writing or self._pending_close is not None
        return self._transport.queued <= self._high_water

    def _refill(self) -> None:
        """Move whole messages from the backlog to the transport while it has room for them."""
        transport = self._transport
        while True:
            if transport.queued > self._high_water:
                self._relieve()
                if transport.queued > self._high_water:
                    return
            backlog = self._backlog
            if backlog is None or not backlog.frames_size:
                return
            transport.write(backlog.take())

    def _relieve(self) -> None:
        """Send what this batch has queued; stop reading when the peer does not take it."""
        transport = self._transport
        if not transport.blocked:
            transport.flush()
        if transport.queued > self._high_water:
            self._hold_reading()

    # -- control frames ------------------------------------------------------------------------------------

    def ping_nowait(self, payload: bytes = b"") -> bool:
        """Send a ping (RFC 6455 §5.5.2); False when the connection takes no more.

        Raises:
            ValueError: more than 125 bytes of payload.
        """
        if self._state is State.CONNECTING:
            self._accept()
        if self._state is not _OPEN or self._pending_close is not None:
            return False
        self._send_control(PING, payload)
        self.pings_sent += 1
        return True

    def _send_control(self, opcode: int, payload: bytes) -> None:
        """Send a control frame; it passes messages that wait, for it may stand between any two frames (§5.4)."""
        assert self._encoder is not None
        frame = self._encoder.control(opcode, payload)
        self.bytes_sent += len(frame)
        self._transport.write(frame)
