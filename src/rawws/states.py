"""The life of a connection as data: states, events, and one table of transitions (RFC 6455 §7).

Facts: `TRANSITIONS` has a row for every state and every event; `connection.py` follows it and changes the state
in no other way. A stricter or looser choice than the RFC's stands beside its row. This module knows nothing but
the words.
"""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import Final

__all__ = ["TRANSITIONS", "Action", "Event", "State"]


class State(Enum):
    """Where a connection is in its life."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hashes their names, in Python

    CONNECTING = auto()
    """The opening handshake is not answered."""
    OPEN = auto()
    PEER_CLOSED = auto()
    """The peer's Close was read, ours is not queued: sending still works, reading has stopped."""
    FAILED = auto()
    """The peer broke a rule or a limit, our Close is not queued: sending still works, reading has stopped."""
    HALF_CLOSED = auto()
    """The peer's FIN came without a Close: nothing more will come, and sending still works (RFC 9293 §3.6)."""
    CLOSING = auto()
    """Our Close is queued, the peer's has not come: messages are read and discarded."""
    CLOSED = auto()


class Event(Enum):
    """What moves a connection from one state to the next."""

    __hash__ = object.__hash__

    ACCEPT = auto()
    LOCAL_CLOSE = auto()
    """The application, its end, or the server's shutdown."""
    PEER_CLOSE = auto()
    FAILURE = auto()
    """_Fail the WebSocket Connection_ (RFC 6455 §7.1.7)."""
    FIN = auto()
    """The peer sends no more, and the application may still have something to say."""
    EOF = auto()
    """The stream is over, in both directions."""
    TIMEOUT = auto()
    """The closing handshake has taken `close_timeout`."""
    CUT = auto()
    """The connection is not worth waiting for: no progress, a cancelled close, the end of a shutdown."""


class Action(Flag):
    """What a transition does."""

    NOTHING = 0
    STOP_READING = auto()
    """What arrived before the end is still delivered; nothing after it is read."""
    DISCARD = auto()
    """Nothing that arrived is delivered any more."""
    SEND_CLOSE = auto()
    FINISH = auto()
    """End the TCP connection in order: what is queued, FIN, the peer's FIN."""
    ABORT = auto()


_N, _S, _D = Action.NOTHING, Action.STOP_READING, Action.DISCARD
_ANSWER = Action.SEND_CLOSE | Action.FINISH
_CUT = Action.STOP_READING | Action.DISCARD | Action.ABORT
_S0, _S1, _S2, _S3, _SH, _S4, _S5 = State

TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, Action]]] = {
    (_S0, Event.ACCEPT): (_S1, _N),
    (_S0, Event.LOCAL_CLOSE): (_S5, Action.FINISH),
    (_S0, Event.PEER_CLOSE): (_S0, _N),  # nothing is read before the handshake is answered
    (_S0, Event.FAILURE): (_S0, _N),
    (_S0, Event.FIN): (_S0, _N),
    (_S0, Event.EOF): (_S5, _N),
    (_S0, Event.TIMEOUT): (_S5, Action.ABORT),
    (_S0, Event.CUT): (_S5, Action.ABORT),
    (_S1, Event.ACCEPT): (_S1, _N),
    (_S1, Event.LOCAL_CLOSE): (_S4, _D | Action.SEND_CLOSE),
    (_S1, Event.PEER_CLOSE): (_S2, _S),
    (_S1, Event.FAILURE): (_S3, _S),
    (_S1, Event.FIN): (_SH, _N),
    (_S1, Event.EOF): (_S5, _N),  # what had arrived is still delivered
    (_S1, Event.TIMEOUT): (_S1, _N),
    (_S1, Event.CUT): (_S5, _CUT),
    (_S2, Event.ACCEPT): (_S2, _N),
    (_S2, Event.LOCAL_CLOSE): (_S5, _D | _ANSWER),  # §5.5.1: it echoes the peer's code
    (_S2, Event.PEER_CLOSE): (_S2, _N),
    (_S2, Event.FAILURE): (_S2, _N),
    (_S2, Event.FIN): (_S2, _N),
    (_S2, Event.EOF): (_S5, _N),
    (_S2, Event.TIMEOUT): (_S5, _ANSWER),
    (_S2, Event.CUT): (_S5, _CUT),
    (_S3, Event.ACCEPT): (_S3, _N),
    (_S3, Event.LOCAL_CLOSE): (_S5, _D | _ANSWER),  # §7.1.7: the failure's code, and no wait for the peer's Close
    (_S3, Event.PEER_CLOSE): (_S3, _N),
    (_S3, Event.FAILURE): (_S3, _N),
    (_S3, Event.FIN): (_S3, _N),
    (_S3, Event.EOF): (_S5, _N),
    (_S3, Event.TIMEOUT): (_S5, _ANSWER),
    (_S3, Event.CUT): (_S5, _CUT),
    (_SH, Event.ACCEPT): (_SH, _N),
    (_SH, Event.LOCAL_CLOSE): (_S5, _D | Action.FINISH),  # a Close frame would answer none
    (_SH, Event.PEER_CLOSE): (_SH, _N),
    (_SH, Event.FAILURE): (_SH, _N),
    (_SH, Event.FIN): (_SH, _N),
    (_SH, Event.EOF): (_S5, _N),
    (_SH, Event.TIMEOUT): (_S5, Action.ABORT),
    (_SH, Event.CUT): (_S5, _CUT),
    (_S4, Event.ACCEPT): (_S4, _N),
    (_S4, Event.LOCAL_CLOSE): (_S4, _N),  # the first code wins
    (_S4, Event.PEER_CLOSE): (_S5, _S | Action.FINISH),
    (_S4, Event.FAILURE): (_S5, _S | Action.FINISH),  # one Close frame is all that a peer ever gets
    (_S4, Event.FIN): (_S4, _N),
    (_S4, Event.EOF): (_S5, _N),
    (_S4, Event.TIMEOUT): (_S5, _CUT),
    (_S4, Event.CUT): (_S5, _CUT),
    (_S5, Event.ACCEPT): (_S5, _N),
    (_S5, Event.LOCAL_CLOSE): (_S5, _D),
    (_S5, Event.PEER_CLOSE): (_S5, _S),  # like FAILURE, found in what had arrived before EOF
    (_S5, Event.FAILURE): (_S5, _S),
    (_S5, Event.FIN): (_S5, _N),
    (_S5, Event.EOF): (_S5, _N),
    (_S5, Event.TIMEOUT): (_S5, _N),
    (_S5, Event.CUT): (_S5, Action.ABORT),  # the TCP connection may still be waiting for the peer's FIN
}
"""Every state and event: the next state, and what is done on the way."""
