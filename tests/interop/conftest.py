"""Who plays in one run: each peer once, with the results kept for the tests of its cells and for the table."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import start_chromium
from tests.interop import matrix
from tests.interop.programs import (
    PROGRAMS,
    MissingError,
    installed_version,
    program_command,
    run_client,
    running_proxy,
    running_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.interop.matrix import Peer

_RAWWS_SERVER = matrix.Peer("rawws", "python", "rawws_server", "rawws")
_RAWWS_CLIENT = matrix.Peer("rawws", "python", "rawws_client", "rawws")
_PLAY_IN_PAGE = """\
const [urls, cells, done] = arguments;
const told = [];
interop.play(interop.whatwg(WebSocket), urls, cells, (line) => told.push(line)).then(() => done(told));
"""


class Play:
    """What the peers of a run have told, each played when it is first asked for."""

    def __init__(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._folder = folder
        self._tmp_path_factory = tmp_path_factory
        self._told: dict[Peer, list[dict[str, Any]]] = {}
        self._stack = ExitStack()
        self._server: dict[str, str] | None = None

    def close(self) -> None:
        self._stack.close()

    def told(self, peer: Peer) -> list[dict[str, Any]]:
        """The lines of a peer; skips, or fails when nothing may be missing, where it is not installed."""
        if peer not in self._told:
            self._told[peer] = []  # a peer that fails to start does not try again for each cell
            try:
                self._told[peer] = self._play(peer)
            except MissingError as error:
                del self._told[peer]
                if os.environ.get("RAWWS_REQUIRE_INTEROP") == "1":
                    pytest.fail(str(error))
                pytest.skip(f"{peer.name} is not there; {error}")
        return self._told[peer]

    def _play(self, peer: Peer) -> list[dict[str, Any]]:
        cells = list(matrix.plays(peer).values())
        if peer.kind == "chromium":
            return self._play_in_chromium(cells)
        if peer in matrix.CLIENTS:
            return run_client(program_command(peer), self._rawws_server(), cells)
        with ExitStack() as stack:
            if peer.kind == "proxy":
                server = running_proxy(peer.package, self._rawws_server(), self._folder)
            else:
                server = running_server(program_command(peer))
            addresses = stack.enter_context(server)
            authority = str(self._folder / "authority.pem")
            return run_client([*program_command(_RAWWS_CLIENT), authority], addresses, cells)

    def _rawws_server(self) -> dict[str, str]:
        if self._server is None:
            self._server = self._stack.enter_context(running_server(program_command(_RAWWS_SERVER)))
        return self._server

    def _play_in_chromium(self, cells: list[str]) -> list[dict[str, Any]]:
        chrome = start_chromium(self._tmp_path_factory.mktemp("chromium"))
        try:
            chrome.set_script_timeout(60)
            # Whatever the server answers is a page of loopback, and only such a page may connect to loopback.
            addresses = self._rawws_server()
            chrome.get(addresses[""].replace("ws:", "http:"))
            script = (PROGRAMS / "scenario.js").read_text(encoding="utf-8") + _PLAY_IN_PAGE
            told: list[dict[str, Any]] = chrome.execute_async_script(script, addresses, cells)
        finally:
            chrome.quit()
        return told


_outcomes: dict[Peer, dict[str, bool]] = {}
"""What was found out in this run, for the table at its end."""


@pytest.fixture(scope="session")
def outcomes() -> dict[Peer, dict[str, bool]]:
    """Where a test puts whether a cell is good."""
    return _outcomes


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """The peers."""
    import trustme

    folder = tmp_path_factory.mktemp("interop")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    playing = Play(folder, tmp_path_factory)
    yield playing
    playing.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what was played."""
    for title, peers in (("client", matrix.CLIENTS), ("server", matrix.SERVERS)):
        played = {peer: _outcomes[peer] for peer in peers if peer in _outcomes}
        rows = {f"{peer.name} {installed_version(peer)}": _row(peer, found) for peer, found in played.items()}
        if rows:
            terminalreporter.section(f"interoperability: {title}s")
            for line in matrix.table(title, rows):
                terminalreporter.line(line)


def _row(peer: Peer, found: Mapping[str, bool]) -> list[str]:
    return [
        word if cell in peer.lacks or found.get(cell) else "✗"
        for cell, word in zip(matrix.CELLS, matrix.declared(peer), strict=True)
    ]
