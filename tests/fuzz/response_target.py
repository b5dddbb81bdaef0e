"""What a server may answer to a client's opening handshake.

For every stream: nothing but HandshakeFailed is raised; the same answer, or the same failure, comes of it however it
is cut into reads; what is kept is bounded; a 101 is taken only with what was offered; and a redirect leads from TLS to
TLS only, and to another origin without what would prove who we are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rawws.client_handshake import Opening, Wishes
from rawws.deflate import DeflateOptions
from rawws.errors import HandshakeFailed
from rawws.http_client import MAX_BODY_SIZE, Inquiry
from rawws.limits import Limits
from rawws.uri import parse_uri
from tests.fuzz.frame_targets import cut_up

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["responses"]

_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
_LIMITS: Final = (Limits(), Limits(max_head_size=256, max_header_count=5))
_ADDRESSES: Final = (parse_uri("ws://localhost:8000/chat?a"), parse_uri("wss://example.com/"))
_SECRET: Final = ("Cookie", "session=1")
_WISHES: Final = (
    Wishes(headers=(_SECRET,)),
    Wishes(headers=(_SECRET,), subprotocols=("chat", "superchat"), compression=DeflateOptions()),
)


def responses(data: bytes) -> None:
    """A server's answer, before a client whose limits, address and wishes the first byte chooses."""
    if len(data) < 2:
        return
    stream = data[2:]
    assert _ask(cut_up(stream, data[1]), data[0]) == _ask([stream], data[0])


def _ask(chunks: Iterable[bytes], options: int) -> object:
    """What a client makes of the answer, in a form that compares."""
    limits = _LIMITS[options & 1]
    wishes = _WISHES[options >> 1 & 1]
    opening = Opening(_ADDRESSES[options >> 2 & 1], wishes, key=_KEY)
    inquiry = Inquiry(opening.request.target, opening.request.headers.raw, limits)
    answer = None
    try:
        for chunk in [*chunks, b""]:
            if answer is None or answer.status == 101:
                inquiry.feed(chunk)
            answer = answer or inquiry.next_answer()
            if answer is None:
                assert len(inquiry.trailing_data) <= limits.max_head_size
                assert not inquiry.has_head or len(inquiry.partial_answer().body) <= MAX_BODY_SIZE
        if answer is None:
            return "no answer", inquiry.has_head
        assert len(answer.body) <= MAX_BODY_SIZE
        assert len(answer.headers.raw) <= limits.max_header_count
        if answer.status != 101:
            return answer.status, answer.headers, answer.body, _follow(opening, opening.follow(answer))
        subprotocol, deflate = opening.agree(answer)
    except HandshakeFailed as error:
        return type(error), str(error)
    assert subprotocol is None or subprotocol in wishes.subprotocols
    assert deflate is None or wishes.compression is not None
    return answer.headers, subprotocol, deflate, inquiry.trailing_data


def _follow(before: Opening, after: Opening) -> object:
    assert after.uri.secure or not before.uri.secure
    sent = ("cookie" in after.request.headers, "authorization" in after.request.headers)
    if after.uri.origin != before.uri.origin:
        assert not sent[0]
    return after.uri, sent
