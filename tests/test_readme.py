"""What the README says is true: its example runs, its tables are those of the code."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
import trio
import trio.testing
from benchmarks.tables import load, measured_tables, target_table

import rawws
from rawws import chat_protocol, redis_scripts
from rawws.redis_url import RedisUrl
from rawws.site import Site
from tests.raw_client import TEXT, Client, frame, handshake
from tests.test_chat import NOW, Person, memory, party

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _python_block(name: str) -> str:
    found = re.search(rf"^<!-- test: {name} -->\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _connect(port: int, server: subprocess.Popen[bytes]) -> socket.socket:
    """Connect as soon as the server listens; the example prints nothing that would tell when."""
    while True:
        assert server.poll() is None, "the example ended by itself"
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            os.sched_yield()


def _tables(title: str) -> list[list[list[str]]]:
    """The rows of each table of a section, without their heads."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [
        [[cell.strip() for cell in row.removesuffix("|")[1:].split("|")] for row in table.splitlines()[2:]]
        for table in tables
    ]


def _table(title: str) -> list[list[str]]:
    return _tables(title)[0]


def _code(cell: str) -> list[str]:
    """What of a cell is code."""
    return re.findall(r"`([^`]*)`", cell)


def _block(name: str) -> str:
    """What stands between a block's two comments."""
    return README.partition(f"<!-- test: {name} -->\n")[2].partition("<!-- /test -->")[0]


def test_what_was_measured_is_what_the_results_file_says() -> None:
    results = load(json.loads((ROOT / "benchmarks/results.json").read_text()))
    assert _block("measured") == "\n".join([*measured_tables(results), ""])
    assert _block("targets") == "\n".join([*target_table(results), ""])


def test_the_example_with_a_backplane_serves_a_chat_over_redis(redis_server: RedisServer) -> None:
    port = _free_port()
    code = _python_block("backplane").replace("8000", str(port)).replace("localhost:6379/0", redis_server.url[8:])
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        with _connect(port, server) as sock, sock.makefile("rb") as answer:
            sock.sendall(handshake("/chat") + frame(TEXT, b'{"type":"hello","name":"Ada","rooms":[{"room":"readme"}]}'))
            heard = b""
            while b'"event":"members"' not in heard:
                heard += answer.read(1)
                assert heard
    finally:
        server.kill()
        server.wait()


def test_the_keys_in_redis_are_those_of_the_table() -> None:
    rows = next(table for table in _tables("More than one machine") if table[0][0] == "`room`")
    keys = [key for row in rows for key in _code(row[0])]
    assert sorted(keys[:-1]) == sorted(key.rpartition(":")[2] for key in redis_scripts.room_keys("rawws", "tea"))
    assert keys[-1] == "sent:WHO"


def test_every_url_in_the_readme_names_a_redis() -> None:
    rows = next(table for table in _tables("More than one machine") if "redis://" in table[0][0])
    urls = [url for row in rows for url in _code(row[0])]
    assert len(urls) == 5
    for url in urls:
        RedisUrl.parse(url)


def test_the_echo_example_echoes() -> None:
    port = _free_port()
    code = _python_block("echo").replace("8000", str(port))
    assert str(port) in code
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        with _connect(port, server) as sock:
            key = base64.b64encode(bytes(16))
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
            )
            # FIN and text, masked, 5 bytes, a masking key of zeros.
            sock.sendall(b"\x81\x85\x00\x00\x00\x00hello")
            answer = b""
            while not answer.endswith(b"\x81\x05hello"):
                received = sock.recv(4096)
                assert received, answer
                answer += received
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    finally:
        server.kill()
        server.wait()


def test_the_client_example_talks_and_ends_when_the_server_says_so() -> None:
    async def once(ws: rawws.WebSocket) -> None:
        await ws.send(await ws.receive())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, once, "127.0.0.1", 0))
            code = _python_block("client").replace("8000", str(server.addresses[0][1]))
            done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
            assert done.stdout == b"Hello\n"
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(rawws.Limits)}
    told = {row[0].strip("`"): row[1] for row in _table("Limits")}
    assert list(told) == list(fields)
    for name, default in fields.items():
        if isinstance(default, (int, float)):
            assert float(re.sub(r"[^\d.]", "", told[name])) in (default, default / 1024, default / 1024**2), name


THREATS = _table("What it withstands")


@pytest.mark.parametrize("threat", THREATS, ids=[row[0] for row in THREATS])
def test_what_shows_that_a_threat_is_withstood_is_there(threat: list[str]) -> None:
    shown = _code(threat[3])
    assert shown
    for test in shown:
        file, name = test.split("::")
        assert re.search(rf"^ *(async )?def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE), test


@pytest.mark.parametrize("threat", THREATS, ids=[row[0] for row in THREATS])
def test_the_settings_against_a_threat_and_their_defaults_are_those_of_the_code(threat: list[str]) -> None:
    settings = threat[2]
    if settings == "none: always":
        return
    defaults = {field.name: field.default for field in dataclasses.fields(rawws.Limits)}
    defaults |= {name: parameter.default for name, parameter in inspect.signature(Site).parameters.items()}
    factors = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024**2}
    for setting in settings.split(", "):
        found = re.fullmatch(r"`(\w+)` (?:`(\w+)`|none \(.*\)|([\d ]+?)(?: (s|KiB|MiB))?)", setting)
        assert found is not None, setting
        name, word, number, unit = found.groups()
        told = word if number is None else int(number.replace(" ", "")) * factors[unit or ""]
        assert defaults[name] == told, setting


def test_every_limit_stands_against_a_threat() -> None:
    told = {name for row in THREATS for name in _code(row[2])}
    assert {field.name for field in dataclasses.fields(rawws.Limits)} - told == set()


def test_the_table_of_modules_names_every_module() -> None:
    told = set(re.findall(r"`(\w+)\.py`", README.partition("\n## Architecture\n")[2].partition("\n## ")[0]))
    there = {path.stem for path in (ROOT / "src" / "rawws").glob("*.py")} - {"__init__", "__main__", "_version"}
    assert told == there


CLIENT_TYPES, FIELDS, SERVER_TYPES, ERRORS = range(4)
"""The tables of the chat, in their order."""


def test_the_table_of_what_a_client_sends_is_that_of_the_code() -> None:
    told = {row[0].strip("`"): _code(row[1]) for row in _tables("The chat")[CLIENT_TYPES]}
    there = {}
    for kind in get_args(chat_protocol.ClientMessage):
        name = "message" if kind is chat_protocol.Said else kind.__name__.lower()
        there[name] = [
            field.name if field.default is dataclasses.MISSING else f"{field.name}?"
            for field in dataclasses.fields(kind)
        ]
    assert {name: sorted(fields) for name, fields in told.items()} == {
        name: sorted(fields) for name, fields in there.items()
    }
    for name, fields in told.items():
        # What the parser reads and what it can do without.
        values: dict[str, Any] = {
            "name": "Ada",
            "rooms": [],
            "session": "s" * 16,
            "room": "tea",
            "last": 1,
            "text": "hi",
            "client": "a-1",
            "before": 2,
            "limit": 3,
        }
        whole = {"type": name, **{field.strip("?"): values[field.strip("?")] for field in fields}}
        chat_protocol.parse(json.dumps(whole))
        for field in fields:
            less = json.dumps({key: value for key, value in whole.items() if key != field.strip("?")})
            if field.endswith("?"):
                chat_protocol.parse(less)
            else:
                with pytest.raises(chat_protocol.ChatError) as caught:
                    chat_protocol.parse(less)
                assert (caught.value.code, caught.value.field) == ("missing", field)


def test_the_bounds_of_the_chat_are_those_of_the_code() -> None:
    fields = {name: row[1] for row in _tables("The chat")[FIELDS] for name in _code(row[0])}
    assert fields["name"].startswith(f"1 to {chat_protocol.MAX_NAME} ")
    assert fields["room"].startswith(f"1 to {chat_protocol.MAX_ROOM} ")
    assert fields["text"].startswith(f"1 to {chat_protocol.MAX_TEXT} bytes ")
    assert fields["session"].startswith(f"{chat_protocol.MIN_SESSION} to {chat_protocol.MAX_SESSION} ")
    assert fields["client"].startswith(f"1 to {chat_protocol.MAX_CLIENT} ")
    assert fields["limit"] == f"1 to {chat_protocol.MAX_HISTORY}"
    section = " ".join(README.partition("\n## The chat\n")[2].partition("\n## ")[0].split())
    for words in (
        f"at most {chat_protocol.MAX_MESSAGE} characters",
        f"in at most {chat_protocol.MAX_ROOMS} rooms",
        f"up to {chat_protocol.MAX_MEMBERS} names",
        f"of each session the last {rawws.MemoryBackplane.REMEMBERED} are remembered",
    ):
        assert words in section


def test_the_table_of_what_the_server_sends_is_that_of_the_code() -> None:
    error = chat_protocol.ChatError("text", "empty", "", room="tea", client="a-1")
    bare = chat_protocol.ChatError("text", "empty", "")
    # The fullest and the barest form of each.
    made: dict[tuple[str, ...], tuple[str, str]] = {
        ("welcome",): (welcome := chat_protocol.encode_welcome("s", "b", 1), welcome),
        ("gap",): (gap := chat_protocol.encode_gap("tea", 1), gap),
        ("history",): (history := chat_protocol.encode_history("tea", "recent", [], more=False), history),
        ("presence", "members"): (
            chat_protocol.encode_members("tea", 1, 2, "Ada 2", "Ada", ["Ada 2"], 1),
            chat_protocol.encode_members("tea", 1, 2, "Ada", "Ada", ["Ada"], 1),
        ),
        ("presence", "joined"): (joined := chat_protocol.encode_event("tea", "joined", 1, 2, "Ada", ""), joined),
        ("presence", "left"): (left := chat_protocol.encode_event("tea", "left", 1, 2, "Ada", ""), left),
        ("message",): (
            chat_protocol.encode_event("tea", "message", 1, 2, "Ada", chat_protocol.encode_body("hi", "b", "a-1")),
            chat_protocol.encode_event("tea", "message", 1, 2, "Ada", chat_protocol.encode_body("hi", "b", None)),
        ),
        ("typing",): (typing := chat_protocol.encode_event("tea", "typing", 1, 2, "Ada", ""), typing),
        ("confirmed",): (confirmed := chat_protocol.encode_confirmed("tea", "a-1", 1, 2), confirmed),
        ("error",): (chat_protocol.encode_error(error), chat_protocol.encode_error(bare)),
    }
    assert {name for name in chat_protocol.__all__ if name.startswith("encode_")} - {"encode_body"} == {
        f"encode_{kind}" for kind in ("welcome", "gap", "history", "members", "event", "confirmed", "error")
    }
    told = {tuple(_code(row[0])): _code(row[1]) for row in _tables("The chat")[SERVER_TYPES]}
    assert told.keys() == made.keys()
    for names, texts in made.items():
        fullest, barest = (json.loads(text) for text in texts)
        assert [fullest["type"], *([fullest["event"]] if "event" in fullest else [])] == list(names)
        fields = [key if key in barest else f"{key}?" for key in fullest if key != "type"]
        assert told[names] == fields, names


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.chat.time_ns", lambda: NOW * 1_000_000)


async def test_the_table_of_errors_is_that_of_the_code() -> None:
    rows = {row[0].strip("`"): (_code(row[2]), _code(row[3])) for row in _tables("The chat")[ERRORS]}
    assert sorted(rows) == sorted(get_args(chat_protocol.ErrorCode))
    assert [code for code, (_, examples) in rows.items() if not examples] == ["too_many", "unavailable"]
    async with party() as chat:
        for code, (fields, examples) in rows.items():
            for example in examples:
                ada = await chat.arrive()
                if code != "hello_first":
                    await ada.hello("Ada", "tea")
                await ada.say(example)
                assert await ada.refused() == (fields[0], code)
                await ada.leave()


DIALOGUE: Final = re.search(r"^<!-- test: dialogue -->\n```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("_clock")
async def test_the_dialogue_goes_as_it_is_told() -> None:
    assert DIALOGUE is not None
    async with party(rawws.Chat(memory())) as chat:
        ada: Person = await chat.arrive()
        for line in DIALOGUE[1].splitlines():
            match line[:2]:
                case "→ ":
                    await ada.say(line[2:])
                case "← ":
                    assert await ada.hear() == line[2:]
                case _:
                    await ada.stream.aclose()
                    await trio.testing.wait_all_tasks_blocked()
                    ada = await chat.arrive()


async def test_the_chat_example_lets_members_in_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(rawws, "run", lambda *arguments: served.extend(arguments))
    exec(_python_block("chat"), {})
    app, host, port = served
    assert (host, port) == ("127.0.0.1", 8000)
    async with trio.open_nursery() as nursery:
        for path, status in (("/chat?token=secret", 101), ("/chat?token=guess", 403), ("/chat", 403)):
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(rawws.serve_stream, app, far)
            client = Client(near)
            await client.send(handshake(path))
            assert (await client.answer()).status == status
            if status == 101:
                await client.send(frame(TEXT, b'{"type":"hello","name":"Ada","rooms":[]}'))
                assert json.loads((await client.frame())[1])["type"] == "welcome"
        nursery.cancel_scope.cancel()
