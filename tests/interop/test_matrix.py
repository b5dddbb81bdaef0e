"""The declaration of the matrix: what the README shows is what is played."""

from __future__ import annotations

import re

import pytest

from tests.interop import matrix
from tests.interop.programs import PROGRAMS, ROOT


def test_the_readme_shows_the_matrix() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^<!-- test: interop -->\n(.*?)\n<!-- /test -->$", readme, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == matrix.markdown()


@pytest.mark.parametrize("peer", matrix.PEERS, ids=lambda peer: f"{peer.name}-{peer.program}")
def test_a_dash_and_a_star_belong_to_a_cell_and_have_a_reason(peer: matrix.Peer) -> None:
    assert {*peer.lacks, *peer.notes} <= set(matrix.CELLS)
    assert not set(peer.lacks) & set(peer.notes)
    assert all(peer.lacks.values())
    assert all(peer.notes.values())


def test_every_program_belongs_to_a_peer_or_is_shared() -> None:
    shared = {"__init__", "asgi", "asyncio_runner", "rawws_client", "rawws_server", "scenario"}
    assert {path.stem for path in PROGRAMS.iterdir() if path.is_file()} == shared | {
        peer.program for peer in matrix.PEERS if peer.kind != "proxy"
    }
