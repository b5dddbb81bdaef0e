"""Every cell of the matrix, played: `make interop`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop import matrix

if TYPE_CHECKING:
    from tests.interop.conftest import Play
    from tests.interop.matrix import Peer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

CELLS = [
    pytest.param(peer, cell, name, id=f"{peer.program}-{name}")
    for peer in matrix.PEERS
    for cell, name in matrix.plays(peer).items()
]


@pytest.mark.parametrize(("peer", "cell", "name"), CELLS)
def test_a_cell(play: Play, outcomes: dict[Peer, dict[str, bool]], peer: Peer, cell: str, name: str) -> None:
    played = [line for line in play.told(peer) if line["cell"] == name]
    found = outcomes.setdefault(peer, {})
    found[cell] = False
    assert len(played) == 1, "the peer did not come to it"
    assert "problem" not in played[0]
    if cell in ("window asked", "window given"):
        _check_windows(peer, cell, played[0])
    found[cell] = True


def _check_windows(peer: Peer, cell: str, sizes: dict[str, Any]) -> None:
    """Each larger window saves bytes: for its server where the client asks, for both where the server gives it."""
    of_peer = "client" if peer in matrix.CLIENTS else "server"
    limited = {"server"} if cell == "window asked" else {"client", "server"}
    for side in limited:
        assert len(sizes[side]) == 7
        if side == of_peer and not peer.deflates:
            assert len(set(sizes[side])) == 1
            continue
        fall = [smaller > larger for smaller, larger in pairwise(sizes[side])]
        steps = peer.largest_window - 9 if side == of_peer else 6
        assert fall == [True] * steps + [False] * (6 - steps), (side, sizes)
