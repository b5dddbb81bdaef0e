"""What stands in the log, and that no peer can write in it."""

from __future__ import annotations

import io
import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

import rawws
from rawws import server as server_module
from rawws.logs import JsonFormatter, TextFormatter, configure, escape, log_connection, peer_name, printable
from tests.raw_client import CLOSE, CLOSE_1000, TEXT, connected, echo, frame, handshake, serving
from tests.test_reactor import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rawws.http import Address
    from rawws.server import Server

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
EVIL = "\x1b[2J\r\n2026-01-01 forged\x07\x7f\u202e\ud800é'\"\\"


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("rawws", logging.INFO, __file__, 1, message, args, more.pop("exc_info", None))
    made.created = 1_700_000_000.25
    made.__dict__.update(more)
    return made


def raised(message: str) -> Any:
    try:
        raise ValueError(message)
    except ValueError as exc:
        return (type(exc), exc, exc.__traceback__)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The facts of every connection's line, as they come."""
    caplog.set_level(logging.INFO, logger="rawws")
    facts: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if hasattr(record, "rawws"):
                facts.append({**record.rawws, "line": record.getMessage()})

    handler = Keep()
    logging.getLogger("rawws").addHandler(handler)
    yield facts
    logging.getLogger("rawws").removeHandler(handler)


async def until_gone(server: Server) -> None:
    await eventually(lambda: not server.websockets)


class TestEscaping:
    def test_a_peers_text_is_quoted_printable_ascii_on_one_line(self) -> None:
        quoted = escape(EVIL)
        assert quoted.isascii()
        assert quoted.isprintable()
        assert quoted[0] == quoted[-1] == "'"
        assert escape("/chat") == "'/chat'"

    def test_nothing_that_a_peer_sends_ends_its_quotes(self) -> None:
        for text in ("'", "\\'", "'\"", "\\"):
            quoted = escape(text)
            assert re.fullmatch(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", quoted), quoted

    @pytest.mark.parametrize(
        ("client", "name"),
        [
            (("192.0.2.1", 80), "192.0.2.1:80"),
            (("2001:db8::1", 80), "[2001:db8::1]:80"),
            ("/tmp/\x1bsocket", r"'/tmp/\x1bsocket'"),
            (None, "a client"),
        ],
    )
    def test_a_peer_is_named_by_its_address(self, client: Address, name: str) -> None:
        assert peer_name(client) == name


class TestFormats:
    def test_text_is_time_level_logger_and_message(self) -> None:
        line = TextFormatter().format(record("%s is here", "somebody"))
        assert line == "2023-11-14T22:13:20.250Z INFO rawws: somebody is here"

    def test_text_has_no_line_break_and_no_control_character_of_others(self) -> None:
        line = TextFormatter().format(record("%s", EVIL))
        assert line.isprintable()
        assert r"\x1b[2J\r\n2026" in line
        assert "é" in line  # what a terminal shows may stay

    def test_the_lines_of_a_traceback_are_indented_and_escaped(self) -> None:
        text = TextFormatter().format(record("it raised", exc_info=raised(EVIL), stack_info="Stack:\n  \x1b"))
        first, *rest = text.split("\n")
        assert first.endswith("rawws: it raised")
        assert "    Traceback (most recent call last):" in rest
        assert "    Stack:" in rest
        assert all(line.startswith("    ") and line.isprintable() for line in rest)

    def test_json_is_an_object_a_line_in_ascii(self) -> None:
        line = JsonFormatter().format(record("%s", EVIL, exc_info=raised(EVIL), rawws={"path": EVIL, "code": 1000}))
        assert line.isascii()
        assert line.isprintable()
        entry = json.loads(line)
        assert entry["time"] == "2023-11-14T22:13:20.250Z"
        assert (entry["level"], entry["logger"], entry["message"]) == ("info", "rawws", EVIL)
        assert (entry["path"], entry["code"]) == (EVIL, 1000)
        assert entry["traceback"].startswith("Traceback")

    def test_json_without_more_has_four_fields_and_takes_any_object(self) -> None:
        assert set(json.loads(JsonFormatter().format(record("hello")))) == {"time", "level", "logger", "message"}
        entry = json.loads(JsonFormatter().format(record("hello", rawws={"error": LookupError("x")})))
        assert entry["error"] == "x"

    @pytest.mark.parametrize("format_", ["text", "json"])
    def test_configure_sends_records_to_a_stream(self, format_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        root = logging.RootLogger(logging.WARNING)
        monkeypatch.setattr(logging, "root", root)
        stream = io.StringIO()
        configure("error", format_, stream)
        root.error("hello")
        root.warning("not this")
        for number in range(3):
            short = record("accept returned EMFILE", exc_info=(OSError, OSError(), None))
            short.name = "trio.serve_listeners"
            short.created = 1000.0 + number * 31
            root.handle(short)
        line, *shortages = stream.getvalue().splitlines()
        assert ["EMFILE" in each for each in shortages] == [True, True]  # one a minute, each without a traceback
        assert ("message" in json.loads(line)) if format_ == "json" else line.endswith(" ERROR root: hello")


class TestConnections:
    async def test_a_connection_is_one_line_with_what_it_did(self, lines: list[dict[str, Any]]) -> None:
        async with serving(echo) as server, connected(server) as client:
            await client.open("/%20a%27?secret")
            await client.send(frame(TEXT, b"hello") + frame(TEXT, b"you") + frame(CLOSE, b"\x03\xe8\xe2\x80\xaebye"))
            await client.ended()
            await client.stream.aclose()
            await until_gone(server)
        (facts,) = lines
        seconds = facts.pop("seconds")
        line = facts.pop("line")
        assert 0 < seconds < 5
        name = facts.pop("client")
        assert re.fullmatch(r"127\.0\.0\.1:\d+", name)
        assert facts == {
            "path": "/ a'",
            "messages_received": 2,
            "bytes_received": 34,  # headers of 6 bytes; 5, 3 and 8 bytes of payload, the close code among them
            "messages_sent": 2,
            "bytes_sent": 16,  # headers of 2 bytes, and the answering Close with its code
            "code": 1000,
            "reason": "\u202ebye",
            "by": "peer",
        }
        assert line == (
            f"{name} \"/ a'\": closed by peer with 1000 '\\u202ebye' after {seconds:.3f} s;"
            " 2 messages, 34 bytes received; 2 messages, 16 bytes sent"
        )

    async def test_where_the_peer_gave_no_reason_none_is_told(self, lines: list[dict[str, Any]]) -> None:
        async with serving(rawws.EchoProtocol()) as server, connected(server) as client:
            await client.open()
            await client.send(CLOSE_1000)
            await client.ended()
            await client.stream.aclose()
            await until_gone(server)
        (facts,) = lines
        assert facts["reason"] == ""
        assert " closed by peer with 1000 after 0." in facts["line"]

    async def test_a_refused_handshake_says_so(self, lines: list[dict[str, Any]]) -> None:
        async def app(ws: rawws.WebSocket) -> None:
            await ws.reject(401)

        async with serving(app) as server, connected(server) as client:
            await client.send(handshake())
            await client.ended()
            await client.stream.aclose()
            await until_gone(server)
        (facts,) = lines
        assert (facts["refused"], facts["reason"], facts["messages_sent"]) == ("application", "rejected with 401", 0)
        assert facts["line"].endswith("; refused: application")

    @pytest.mark.parametrize("reactor", [True, False], ids=["reactor", "stream"])
    async def test_a_peer_that_keeps_us_waiting_has_a_line_that_says_how_things_stood(
        self, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, reactor: bool
    ) -> None:
        if not reactor:
            monkeypatch.setattr(server_module, "is_supported", lambda: False)

        async def pour(ws: rawws.WebSocket) -> None:
            while ws.send_nowait(bytes(50_000)) is not rawws.SendStatus.CLOSED:
                pass

        limits = rawws.Limits(max_send_buffer=200_000, close_timeout=0.1)
        async with serving(pour, limits=limits) as server, connected(server) as client:
            await client.open()
            await until_gone(server)
        (facts,) = lines
        assert (facts["code"], facts["by"]) == (1013, "us")
        assert facts["send_queue"] >= 200_000
        reason = rf"send buffer full: {facts['send_queue']} bytes wait, none left for \d\.\d s"
        assert re.fullmatch(reason, facts["reason"])
        assert (facts["receive_queue"], facts["round_trip"]) == (0, None)
        assert re.search(
            r"; round trip unknown, \d+ bytes to send, 0 bytes to receive, lag \d+\.\d{3} s$", facts["line"]
        )

    async def test_so_has_one_that_does_not_answer_a_ping(self, lines: list[dict[str, Any]]) -> None:
        limits = rawws.Limits(ping_interval=0.05, ping_timeout=0.05, close_timeout=0.05)
        async with serving(rawws.EchoProtocol(), limits=limits) as server, connected(server) as client:
            await client.open()
            assert await client.frame() == (0x89, b"")
            await client.send(frame(0x8A))
            await until_gone(server)
        (facts,) = lines
        assert (facts["code"], facts["reason"]) == (1011, "no answer to a ping for 0.05 s")
        assert facts["round_trip"] > 0
        assert "; round trip 0.0" in facts["line"]

    async def test_where_info_is_off_nothing_is_written(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, logger="rawws")
        async with serving(echo) as server, connected(server) as client:
            await client.open()
            (ws,) = server.websockets
            await client.send(CLOSE_1000)
            await client.ended()
            await client.stream.aclose()
            await until_gone(server)
        log_connection(ws, 1.0, 0.0)
        assert caplog.records == []

    def test_the_readme_shows_what_is_written(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="rawws")
        closed = rawws.ConnectionClosed(1013, "send buffer full: 1048583 bytes wait, none left for 3.2 s", "us")
        closed.queues = (1_048_583, 0)
        ws = SimpleNamespace(
            request=rawws.Request("GET", "/chat", "/chat", "", rawws.Headers(), client=("192.0.2.1", 4321)),
            closed=closed,
            refusal="",
            latency=0.032,
            messages_received=12,
            bytes_received=1030,
            messages_sent=260,
            bytes_sent=31_222,
        )
        log_connection(cast("rawws.WebSocket", ws), 73.204, 0.004)
        (record,) = caplog.records
        record.created = datetime(2026, 11, 23, 12, 17, 6, 123_000, UTC).timestamp()
        found = re.search(r"<!-- test: log -->\n```text\n(.*)\n(.*)\n```\n", README)
        assert found is not None
        assert TextFormatter().format(record) == found[1]
        assert {**json.loads(JsonFormatter().format(record)), "message": "…"} == json.loads(found[2])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, grüße, 日本 \U0001f600", "plain, grüße, 日本 \U0001f600"),
        ("\x1b[2J\x07\x00\r\n\t", "\\x1b[2J\\x07\\x00\\r\\n\\t"),
        ("\x7f\x80\x9b31m", "\\x7f\\x80\\x9b31m"),  # DEL, and C1: 0x9B is CSI in one character
        ("\u202egnp.exe\u2066\u200e\u061c", "\\u202egnp.exe\\u2066\\u200e\\u061c"),
        ("\ud800\u2028", "\\ud800\\u2028"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()
