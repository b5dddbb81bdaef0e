"""The HTTP side of a connection, over a transport in memory with a clock of its own."""

from __future__ import annotations

import logging
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

import rawws
from rawws.exchange import Exchange, Home, answer_without_connection
from rawws.site import Site
from rawws.static_files import StaticFiles
from rawws.transport import HIGH_WATER
from tests.conftest import FAST_LANE
from tests.memory_transport import MemoryTransport
from tests.raw_client import KEY, echo, handshake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from rawws.http import Address
    from rawws.site import Handler

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BIG = 200_000
CLIENT = ("192.0.2.1", 4321)


class Desk(Home):
    """A home that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.websockets: list[rawws.WebSocket] = []
        self.reasons: list[str] = []
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.closing = False

    def head_complete(self, exchange: Exchange) -> None:
        if "head" not in self.told:
            self.told.append("head")

    def welcome(self, exchange: Exchange, ws: rawws.WebSocket, app: rawws.Protocol | Handler) -> None:
        self.websockets.append(ws)
        self.told.append("welcome")
        if isinstance(app, rawws.Protocol):
            ws.start()

    def run_soon(self, what: Callable[[], Awaitable[None]]) -> None:
        self.tasks.append(what)

    def refused(self, exchange: Exchange, reason: str) -> None:
        self.reasons.append(reason)

    def exchange_gone(self, exchange: Exchange) -> None:
        self.told.append("gone")

    @property
    def websocket_gone(self) -> Callable[[rawws.WebSocket], None]:
        return lambda ws: self.told.append("websocket gone")

    @property
    def is_closing(self) -> bool:
        return self.closing


def test_the_interface_of_a_home_is_what_a_server_must_provide(rig: Rig) -> None:
    home, exchange, ws = Home(), rig.exchange, cast("rawws.WebSocket", None)
    for call in (
        lambda: home.head_complete(exchange),
        lambda: home.welcome(exchange, ws, rawws.EchoProtocol()),
        lambda: home.run_soon(trio.lowlevel.checkpoint),
        lambda: home.refused(exchange, "origin"),
        lambda: home.exchange_gone(exchange),
        lambda: home.websocket_gone,
        lambda: home.is_closing,
    ):
        with pytest.raises(NotImplementedError):
            call()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_bytes(b"<!doctype html>")
    (tmp_path / "big").write_bytes(bytes(BIG))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_bytes(b"inside")
    return tmp_path


class Rig:
    """An exchange at work."""

    def __init__(self, site: Site, window: float = float("inf"), client: Address = CLIENT) -> None:
        self.home = Desk()
        self.transport = MemoryTransport(window)
        self.exchange = Exchange(site, self.home, self.transport, client, secure=False)
        self.transport.receiver = self.exchange

    def ask(self, data: bytes) -> bytes:
        self.transport.data(data)
        return self.transport.take()


@pytest.fixture
def site(folder: Path) -> Site:
    return Site({"/ws": echo, "/protocol": rawws.EchoProtocol()}, static=folder, fast_lane=FAST_LANE)


@pytest.fixture
def rig(site: Site) -> Rig:
    return Rig(site)


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n", answer)
    assert found is not None, answer[:100]
    return int(found[1])


def ask(method: str, path: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: a", *fields, "", ""]).encode()


class TestAnswers:
    @pytest.mark.parametrize(
        ("request_", "expected", "field"),
        [
            (ask("GET", "/"), 200, None),
            (ask("HEAD", "/"), 200, None),
            (ask("GET", "/nowhere"), 404, None),
            (ask("GET", "/ws"), 426, "Upgrade: websocket"),
            (ask("HEAD", "/ws"), 426, "Upgrade: websocket"),
            (ask("PUT", "/ws"), 405, "Allow: GET, HEAD"),
            (ask("GET", "/folder"), 301, "Location: /folder/"),
            (ask("DELETE", "/"), 405, "Allow: GET, HEAD"),
            (ask("PATCH", "/"), 405, "Allow: GET, HEAD"),
            (ask("GET", "/" + "x" * 9000), 414, None),
            (ask("GET", "/", "X: " + "x" * 17_000), 431, None),
            (ask("POST", "/", "Content-Length: 1"), 413, None),
            (ask("BREW", "/"), 501, None),
            (ask("GET", "/", version="2.0"), 505, None),
            (ask("GET", "/", "Expect: miracles"), 417, None),
            (b"GET /\r\n\r\n", 400, None),
            (handshake("/nowhere"), 404, None),
            (handshake("/ws").replace(b"Version: 13", b"Version: 8"), 426, "Sec-WebSocket-Version: 13"),
            (handshake("/ws", b"Origin: https://evil.example"), 403, None),
            (handshake("/ws").replace(b"GET", b"POST"), 405, "Allow: GET"),
        ],
    )
    def test_each_request_gets_its_status_with_a_date_and_a_short_text(
        self, rig: Rig, request_: bytes, expected: int, field: str | None
    ) -> None:
        answer = rig.ask(request_)
        assert status(answer) == expected
        head, _, body = answer.decode().partition("\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        parsedate_to_datetime(fields["Date"])
        if field is not None:
            assert field in head.split("\r\n")
        if expected != 200:
            assert fields["Content-Type"] == "text/plain; charset=utf-8"
            assert body == "" if request_.startswith(b"HEAD") else 0 < len(body) < 100

    def test_an_upgrade_to_something_else_is_ignored(self, rig: Rig) -> None:
        assert status(rig.ask(ask("GET", "/", "Upgrade: h2c", "Connection: Upgrade"))) == 200

    def test_http_1_0_is_answered_and_closed(self, rig: Rig) -> None:
        answer = rig.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert status(answer) == 200
        assert b"Connection: close" in answer
        assert rig.transport.closing_by == rig.transport.clock + 5  # close_timeout

    def test_requests_in_one_piece_or_byte_by_byte_get_the_same_answers(self, site: Site) -> None:
        data = ask("GET", "/") + ask("HEAD", "/big") + ask("GET", "/nowhere") + ask("GET", "/", "Connection: close")
        whole = Rig(site).ask(data + ask("GET", "/after/the/end"))
        rig = Rig(site)
        pieces = b"".join(rig.ask(data[at : at + 1]) for at in range(len(data)))
        without_date = re.compile(rb"Date: [^\r]+\r\n")
        assert without_date.sub(b"", whole) == without_date.sub(b"", pieces)
        assert [status(part) for part in re.findall(rb"HTTP/1\.1 \d{3} [^\r]*\r\n", whole)] == [200, 200, 404, 200]

    def test_an_etag_is_answered_with_304_and_the_connection_stays(self, rig: Rig) -> None:
        found = re.search(rb'ETag: ("[^"]+")', rig.ask(GET))
        assert found is not None
        assert status(rig.ask(ask("GET", "/", f"If-None-Match: {found[1].decode()}"))) == 304
        assert status(rig.ask(GET)) == 200

    def test_a_page_that_raises_is_500_and_one_traceback(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(request: rawws.Request) -> rawws.Response:
            raise LookupError("a bug")

        rig = Rig(Site(echo, pages={"/page": broken}))
        answer = rig.ask(ask("GET", "/page"))
        assert status(answer) == 500
        assert b"bug" not in answer
        assert rig.transport.closing_by is not None
        assert [record.getMessage() for record in caplog.records] == ["192.0.2.1:4321: the answer to '/page' raised"]

    @pytest.mark.parametrize(
        ("client", "name"),
        [
            (("192.0.2.1", 80), "192.0.2.1:80"),
            (("2001:db8::1", 80), "[2001:db8::1]:80"),
            ("/tmp/\x1bsocket", r"'/tmp/\x1bsocket'"),
            (None, "a client"),
        ],
    )
    def test_a_refusal_is_one_line_with_the_address(
        self, site: Site, caplog: pytest.LogCaptureFixture, client: Address, name: str
    ) -> None:
        caplog.set_level(logging.INFO, logger="rawws")
        rig = Rig(site, client=client)
        rig.ask(b"\x1b[2J\r\n\r\n")
        rig.ask(b"more of it\r\n\r\n")
        rig.exchange.refuse(503, "Again.")
        assert [record.getMessage() for record in caplog.records] == [
            f"{name} is refused with 400: This is not an HTTP request."
        ]
        assert facts_of(caplog) == [{"client": name, "path": None, "status": 400, "refused": "malformed"}]

    def test_a_refused_handshake_is_one_line_with_its_path(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="rawws")
        rig = Rig(Site({"/chat": echo}))
        rig.ask(handshake("/%20"))
        (line,) = [record.getMessage() for record in caplog.records]
        assert line == "192.0.2.1:4321 '/ ' is refused with 404: There is no WebSocket here."
        (facts,) = facts_of(caplog)
        assert (facts["path"], facts["status"], facts["refused"]) == ("/ ", 404, "not_found")


def facts_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What goes with the records for those who read them by program."""
    return [record.__dict__["rawws"] for record in caplog.records]


class TestWantOfRoom:
    """Many clients look for an answer when they have asked, and not before."""

    @pytest.fixture
    def rig(self, site: Site) -> Rig:
        rig = Rig(site)
        rig.exchange.refuse_when_asked("No room.", "max_connections")
        assert rig.home.reasons == ["max_connections"]  # counted at once
        assert rig.home.told == ["head"]  # and pending no more
        assert rig.transport.take() == b""
        return rig

    @pytest.mark.parametrize("request_", [GET, GET[:1], handshake("/ws"), b"\x16\x03\x01", GET * 3])
    def test_the_first_bytes_are_answered_with_503(self, rig: Rig, request_: bytes) -> None:
        rig.transport.pass_time(0.9)
        answer = rig.ask(request_)
        assert status(answer) == 503
        assert answer.endswith(b"\r\nConnection: close\r\n\r\nNo room.\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert rig.transport.closing_by == rig.transport.clock + 1
        rig.exchange.data(GET, rig.transport.clock)  # was under way
        assert rig.transport.take() == b""
        assert rig.home.reasons == ["max_connections"]

    def test_head_gets_no_body(self, rig: Rig) -> None:
        answer = rig.ask(ask("HEAD", "/"))
        assert status(answer) == 503
        assert answer.endswith(b"Content-Length: 9\r\nConnection: close\r\n\r\n")

    def test_who_says_nothing_is_told_after_a_second_and_cut_after_another(self, rig: Rig) -> None:
        rig.transport.pass_time(0.9)
        assert rig.transport.take() == b""
        rig.transport.pass_time(0.1)
        assert status(rig.transport.take()) == 503
        assert not rig.transport.aborted
        rig.transport.pass_time(1)
        assert rig.transport.aborted

    def test_who_has_begun_to_ask_is_told_at_once(self, site: Site) -> None:
        rig = Rig(site)
        rig.transport.data(GET[:5])
        rig.exchange.refuse_when_asked("No room.", "max_pending_handshakes")
        assert status(rig.transport.take()) == 503
        assert rig.home.reasons == ["max_pending_handshakes"]

    def test_who_is_cut_has_been_told(self, rig: Rig) -> None:
        rig.exchange.cut()
        assert rig.transport.aborted
        assert status(rig.transport.take()) == 503

    def test_a_shutdown_tells_it_and_waits_until_that_is_read(self, rig: Rig) -> None:
        assert rig.exchange.shut_down()
        assert rig.transport.take().endswith(b"\r\n\r\nNo room.\n")
        assert rig.transport.closing_by == rig.transport.clock + 1


class TestUpgrade:
    @pytest.mark.parametrize("path", ["/ws", "/protocol"])
    def test_a_handshake_becomes_a_websocket_that_takes_over_the_transport(self, rig: Rig, path: str) -> None:
        answer = rig.ask(handshake(path))
        assert rig.home.told == ["head", "welcome"]
        (ws,) = rig.home.websockets
        assert rig.transport.receiver is ws
        assert ws.request.client == CLIENT
        if path == "/ws":
            assert answer == b""
            assert rig.transport.paused  # nothing is read until the application answers
            with rig.transport.cork():
                ws.accept_nowait()
            answer = rig.transport.take()
        assert status(answer) == 101
        assert not rig.transport.paused
        rig.transport.eof()
        assert rig.home.told[-1] == "websocket gone"

    def test_bytes_behind_the_head_are_the_websockets(self, rig: Rig) -> None:
        rig.ask(handshake("/protocol") + b"\x81\x82\x00\x00\x00\x00hi")
        rig.transport.proceed_all()
        assert rig.transport.take().endswith(b"\x81\x02hi")

    def test_while_the_server_closes_it_is_503(self, rig: Rig) -> None:
        rig.home.closing = True
        assert status(rig.ask(handshake("/ws"))) == 503
        assert rig.home.websockets == []

    def test_without_compression_no_extension_is_agreed(self) -> None:
        for compression, agreed in ((True, True), (rawws.DeflateOptions(), True), (False, False)):
            rig = Rig(Site(rawws.EchoProtocol(), compression=compression))
            answer = rig.ask(handshake("/", b"Sec-WebSocket-Extensions: permessage-deflate"))
            assert (b"Sec-WebSocket-Extensions" in answer) is agreed

    @pytest.mark.parametrize(
        ("arguments", "start", "body"),
        [
            ((), b"HTTP/1.1 403 Forbidden\r\n", b"Forbidden.\n"),
            ((401, "Who are you?"), b"HTTP/1.1 401 Unauthorized\r\n", b"Who are you?"),
            ((401, "", {"WWW-Authenticate": "Basic"}), b"HTTP/1.1 401 Unauthorized\r\n", b"Unauthorized.\n"),
            ((302, b"\x00", [("Location", "/x")]), b"HTTP/1.1 302 Found\r\nLocation: /x\r\n", b"\x00"),
        ],
    )
    def test_a_rejection_is_a_whole_answer(self, rig: Rig, arguments: Any, start: bytes, body: bytes) -> None:
        rig.ask(handshake("/ws"))
        with rig.transport.cork():
            rig.home.websockets[0].reject_nowait(*arguments)
        answer = rig.transport.take()
        assert answer.startswith(start)
        assert answer.endswith(b"\r\n\r\n" + body)
        assert b"Connection: close" in answer

    @pytest.mark.parametrize("code", [101, 200, 299, 600])
    def test_a_rejection_has_a_status_that_rejects(self, rig: Rig, code: int) -> None:
        rig.ask(handshake("/ws"))
        with pytest.raises(ValueError, match="300 to 599"):
            rig.home.websockets[0].reject_nowait(code)


class TestBackPressure:
    def test_nothing_is_read_or_answered_while_an_answer_does_not_leave(self, site: Site) -> None:
        rig = Rig(site, window=1000)
        rig.transport.data(ask("GET", "/big") * 5)
        assert rig.transport.paused
        assert rig.transport.queued < BIG + 1000  # one answer, not five
        answers = bytearray(rig.transport.take())
        while answers.count(b"HTTP/1.1 200 OK") < 5 or rig.transport.queued:
            rig.transport.read(50_000)
            assert rig.transport.queued < 2 * BIG
            rig.transport.proceed_all()
            answers += rig.transport.take()
        assert not rig.transport.paused
        assert len(answers) > 5 * BIG

    def test_what_was_under_way_when_reading_paused_waits_too(self, site: Site) -> None:
        rig = Rig(site, window=1000)
        rig.transport.data(ask("GET", "/big"))
        rig.transport.data(ask("GET", "/nowhere"))  # a stream's reader may have had it in hand
        assert rig.transport.queued < BIG + 1000
        rig.transport.read()
        rig.transport.proceed_all()
        assert b"HTTP/1.1 404 Not Found" in rig.transport.take()

    def test_a_large_file_is_handed_on_as_it_is_and_a_small_one_with_its_head(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[tuple[bytes, bool]] = []
        write = MemoryTransport.write

        def record(transport: MemoryTransport, data: bytes, more: bool = False) -> None:
            written.append((data, more))
            write(transport, data, more)

        monkeypatch.setattr(MemoryTransport, "write", record)
        for _ in range(2):
            Rig(site).ask(ask("GET", "/big"))
        (head, more), (body, last), (_, _), (same, _) = written
        assert (head.endswith(b"\r\n\r\n"), more, last) == (True, True, False)
        assert len(body) == BIG
        assert body is same
        written.clear()
        Rig(site).ask(GET + ask("HEAD", "/big") + GET)
        assert [(data.startswith(b"HTTP/1.1 200 "), more) for data, more in written] == [(True, False)] * 3

    def test_a_crowd_of_requests_lets_other_connections_have_their_turn(self, rig: Rig) -> None:
        rig.transport.slice_is_over = True
        turns = 1
        answers = rig.ask(GET * 5)
        assert rig.transport.paused
        while rig.transport.proceed():
            turns += 1
            answers += rig.transport.take()
        assert turns == 5
        assert answers.count(b"HTTP/1.1 200 OK") == 5
        assert not rig.transport.paused

    def test_a_peer_that_is_stalled_is_cut(self, site: Site) -> None:
        rig = Rig(site, window=0)
        rig.transport.data(ask("GET", "/big"))
        rig.exchange.stalled(10)
        assert rig.transport.aborted

    def test_a_slow_peer_has_its_time_for_a_last_answer(self, site: Site) -> None:
        rig = Rig(site, window=1000)
        rig.transport.data(ask("GET", "/big", "Connection: close"))
        for _ in range(3):
            rig.transport.pass_time(20)  # as long as bytes leave, the transport's own deadline is not reached
            assert rig.transport.closing_by is None
            rig.transport.read(10_000)
        rig.transport.read()
        assert rig.transport.closing_by == rig.transport.clock + 5
        assert len(rig.transport.take()) > BIG


class TestDeadlines:
    def test_a_head_that_does_not_end_gets_408_after_head_timeout(self, rig: Rig) -> None:
        rig.transport.data(GET[:-1])
        rig.transport.pass_time(9.9)
        assert rig.transport.take() == b""
        rig.transport.pass_time(0.1)
        assert status(rig.transport.take()) == 408
        assert rig.home.told == ["head"]
        rig.transport.pass_time(1)
        assert rig.transport.aborted

    def test_a_peer_that_says_nothing_is_just_closed(self, rig: Rig) -> None:
        rig.transport.pass_time(10)
        assert rig.transport.take() == b""
        closing_by = rig.transport.closing_by
        assert closing_by is not None
        rig.exchange.shut_down()  # while it lingers
        assert rig.transport.closing_by == closing_by

    def test_an_answer_starts_the_clock_anew(self, rig: Rig) -> None:
        for _ in range(3):
            rig.transport.pass_time(9)
            assert status(rig.ask(GET)) == 200
        rig.transport.pass_time(10)
        assert rig.transport.closing_by is not None

    def test_the_clock_stands_still_while_an_answer_leaves(self, site: Site) -> None:
        rig = Rig(site, window=1000)
        rig.transport.data(ask("GET", "/big"))
        rig.transport.pass_time(60)
        assert rig.transport.closing_by is None
        rig.transport.read()
        rig.transport.proceed_all()
        rig.transport.pass_time(20)
        assert rig.transport.closing_by is not None


class TestShutdown:
    def test_an_idle_connection_is_just_closed(self, rig: Rig) -> None:
        rig.ask(GET)
        assert not rig.exchange.shut_down()  # and not waited for
        assert rig.transport.take() == b""
        assert rig.transport.closing_by is not None

    def test_half_a_request_is_answered_with_503(self, rig: Rig) -> None:
        rig.ask(GET[:20])
        assert rig.exchange.shut_down()
        assert status(rig.transport.take()) == 503

    def test_an_answer_under_way_leaves_first(self, site: Site) -> None:
        rig = Rig(site, window=1000)
        rig.transport.data(ask("GET", "/big"))
        assert rig.exchange.shut_down()
        assert rig.transport.closing_by is None
        rig.transport.read()
        assert len(rig.transport.take()) > BIG
        assert rig.transport.closing_by is not None

    def test_what_comes_after_the_last_answer_is_ignored(self, rig: Rig) -> None:
        rig.exchange.refuse(503, "Too many.")
        assert status(rig.transport.take()) == 503
        rig.exchange.data(GET, rig.transport.clock)  # was under way
        rig.exchange.proceed(rig.transport.clock)
        rig.exchange.shut_down()
        rig.exchange.refuse(400, "Again.")
        assert rig.transport.take() == b""

    def test_the_end_of_the_stream_is_told_once(self, rig: Rig) -> None:
        rig.transport.eof()
        assert rig.home.told == ["gone"]
        assert rig.exchange.due(rig.transport.clock + 100) == float("inf")
        rig.exchange.drained()


def test_a_bundled_page_goes_out_under_a_policy_and_another_folder_without_one(site: Site) -> None:
    assert b"Content-Security-Policy: default-src 'none'" in Rig(Site({}, static=StaticFiles.bundled())).ask(GET)
    assert b"Content-Security-Policy" not in Rig(site).ask(GET)


def test_the_key_of_a_client_is_in_no_answer(rig: Rig) -> None:
    assert KEY not in rig.ask(handshake("/protocol"))


def test_high_water_is_more_than_a_short_answer(rig: Rig) -> None:
    """The tests above rely on it: their big file is over it, a refusal far below."""
    assert BIG > HIGH_WATER > len(rig.ask(b"x\r\n\r\n"))


async def slow_page(request: rawws.Request) -> rawws.Response:
    """Waits as long as its query says, and answers as its path says."""
    await trio.sleep(float(request.query or 0))
    if request.path == "/error":
        raise LookupError("a bug")
    if request.path == "/refused":
        raise rawws.HandshakeError(409, "Not now.", (("X-Kind", "tea"),))
    return rawws.Response.text(200, f"the page, by {request.method}")


class TestAsyncPages:
    @pytest.fixture
    def rig(self, folder: Path) -> Rig:
        pages = dict.fromkeys(("/page", "/error", "/refused"), slow_page)
        return Rig(Site({}, static=folder, pages=pages, limits=rawws.Limits(accept_timeout=7)))

    @staticmethod
    async def run(rig: Rig) -> bytes:
        """Let the pages that were asked for answer."""
        while rig.home.tasks:
            await rig.home.tasks.pop(0)()
        return rig.transport.take()

    async def test_it_answers_in_a_task_and_nothing_is_read_meanwhile(self, rig: Rig) -> None:
        assert rig.ask(ask("GET", "/page")) == b""
        assert rig.transport.paused
        answer = await self.run(rig)
        assert status(answer) == 200
        assert answer.endswith(b"the page, by GET\n")
        assert not rig.transport.paused
        assert status(rig.ask(GET)) == 200

    async def test_what_was_asked_behind_it_is_answered_behind_it(self, rig: Rig) -> None:
        assert rig.ask(ask("GET", "/page") + ask("HEAD", "/page") + ask("GET", "/nowhere")) == b""
        rig.exchange.proceed(rig.transport.clock)  # asked or not, it is not its turn
        assert rig.transport.take() == b""
        answers = re.findall(rb"HTTP/1\.1 (\d{3}) ", await self.run(rig))
        assert answers == [b"200", b"200", b"404"]

    async def test_the_connection_ends_after_it_where_that_was_asked(self, rig: Rig) -> None:
        rig.ask(ask("GET", "/page", "Connection: close"))
        assert status(await self.run(rig)) == 200
        assert rig.transport.closing_by is not None

    async def test_what_it_raises_is_500_and_one_traceback(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        rig.ask(ask("GET", "/error"))
        answer = await self.run(rig)
        assert status(answer) == 500
        assert b"bug" not in answer
        assert rig.home.reasons == ["error"]
        assert [record.getMessage() for record in caplog.records] == ["192.0.2.1:4321: the answer to '/error' raised"]

    async def test_it_may_refuse_in_its_own_words(self, rig: Rig) -> None:
        rig.ask(ask("GET", "/refused"))
        answer = await self.run(rig)
        assert status(answer) == 409
        assert b"X-Kind: tea\r\n" in answer

    async def test_beyond_accept_timeout_it_is_503_and_cancelled(self, rig: Rig, autojump_clock: MockClock) -> None:
        rig.ask(ask("GET", "/page?1000"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.home.tasks.pop())
            await trio.testing.wait_all_tasks_blocked(0)
            rig.transport.pass_time(6.9)
            assert rig.transport.take() == b""
            rig.transport.pass_time(0.2)
        assert trio.current_time() < 1000
        assert status(rig.transport.take()) == 503
        assert rig.home.reasons == ["accept_timeout"]
        rig.transport.pass_time(100)
        assert rig.transport.take() == b""

    async def test_it_is_cancelled_when_the_peer_is_gone(self, rig: Rig, autojump_clock: MockClock) -> None:
        rig.ask(ask("GET", "/page?1000"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.home.tasks.pop())
            await trio.testing.wait_all_tasks_blocked(0)
            rig.transport.eof(ConnectionResetError())
        assert trio.current_time() < 1000
        assert rig.home.told[-1] == "gone"

    @pytest.mark.parametrize("end", ["peer", "accept_timeout", "server"])
    async def test_a_nursery_in_it_that_fails_when_it_is_cancelled_ends_no_more_than_the_connection(
        self, end: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail_in_the_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError("cleaning up")

        async def page(request: rawws.Request) -> rawws.Response:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_in_the_end)
                nursery.start_soon(trio.sleep_forever)
            raise AssertionError("it ends by being cancelled")

        rig = Rig(Site({}, pages={"/page": page}))
        rig.ask(ask("GET", "/page"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.home.tasks.pop())
            await trio.testing.wait_all_tasks_blocked(0)
            if end == "peer":
                rig.transport.eof(ConnectionResetError())
            elif end == "accept_timeout":
                rig.transport.pass_time(10)
            else:
                nursery.cancel_scope.cancel()
        assert [record.getMessage() for record in caplog.records] == ["192.0.2.1:4321: the answer to '/page' raised"]
        assert rig.transport.take()[:12] == (b"HTTP/1.1 503" if end == "accept_timeout" else b"")

    async def test_an_answer_that_comes_too_late_is_dropped(self, rig: Rig) -> None:
        rig.ask(ask("GET", "/page"))
        rig.transport.pass_time(7)
        assert status(rig.transport.take()) == 503
        assert await self.run(rig) == b""

    async def test_a_shutdown_waits_for_it(self, rig: Rig) -> None:
        rig.ask(ask("GET", "/page"))
        rig.home.closing = True
        assert rig.exchange.shut_down()
        answer = await self.run(rig)
        assert status(answer) == 200
        assert b"Connection: close\r\n" in answer

    def test_requests_are_told_to_the_log_at_debug(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="rawws")
        rig.ask(ask("GET", "/%20a%27"))
        assert [record.getMessage() for record in caplog.records] == ['192.0.2.1:4321 GET "/ a\'" is answered with 404']


class TestWithoutConnection:
    """What a client is told for which no descriptor is left."""

    @pytest.fixture
    def site(self) -> Site:
        def health(request: rawws.Request) -> rawws.Response:
            return rawws.Response.text(200, "ok")

        def fail(request: rawws.Request) -> rawws.Response:
            raise OSError(24, "too many open files")

        async def slow(request: rawws.Request) -> rawws.Response:
            raise AssertionError("nobody can wait for it")

        return Site(echo, pages={"/health": health, "/fails": fail, "/slow": slow})

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            (b"POST /health HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"GET /fails HTTP/1.1\r\nHost: a\r\n\r\n", 503),
            (b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", 503),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 503),
            (b"GET /health HTTP/1.1\r\n", 503),
            (b"", 503),
            (handshake("/"), 503),
            (b"\x16\x03\x01\x02\x00", 400),
        ],
    )
    def test_pages_are_answered_and_everything_else_is_503(self, site: Site, sent: bytes, answer: int) -> None:
        data = answer_without_connection(site, ("127.0.0.1", 4321), sent)
        assert status(data) == answer
        assert data.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in data
