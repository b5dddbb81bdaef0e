"""The terminal client, through a pseudo-terminal with the bytes of real keys, and through pipes."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import terminal as terminal_module
from rawws.terminal import Settings, TerminalError, talk
from tests.raw_client import echo, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

fcntl = pytest.importorskip("fcntl", reason="there are no descriptors here")
pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
termios = pytest.importorskip("termios", reason="there are no terminals here")

COLUMNS = 40
CTRL_C, CTRL_D, LEFT, UP = b"\x03", b"\x04", b"\x1b[D", b"\x1b[A"


def address(server: rawws.Server, path: str = "/") -> str:
    """Where a server is, as a person would type it."""
    bound = server.addresses[0]
    assert isinstance(bound, tuple)
    return f"127.0.0.1:{bound[1]}{path}"


class Person:
    """Who sits at a terminal of `COLUMNS` columns: types, and sees rows of text and a cursor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._sequence = ""
        self.rows = [""]
        self.column = 0

    def types(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    async def sees(self, *rows: str) -> None:
        """Wait until the last rows are these, the one with the cursor among them; patience is 15 seconds."""
        await self.waits_until(lambda: self.rows[-len(rows) :] == list(rows), rows)

    async def waits_until(self, condition: Callable[[], bool], what: object) -> None:
        with trio.move_on_after(15) as patience:
            while not condition():
                await trio.lowlevel.wait_readable(self._descriptor)
                for char in self._decode.decode(os.read(self._descriptor, 4096)):
                    self._show(char)
        assert not patience.cancelled_caught, f"instead of {what!r} there is {self.rows!r}"

    def _show(self, char: str) -> None:
        """Do what a terminal does, with the two sequences that there may be; anything else is an error."""
        if self._sequence or char == "\x1b":
            self._sequence += char
            if len(self._sequence) > 2 and char.isalpha():
                sequence, self._sequence = self._sequence, ""
                if sequence == "\x1b[K":
                    self.rows[-1] = self.rows[-1][: self.column]
                else:
                    assert sequence.startswith("\x1b["), sequence
                    assert sequence.endswith("C"), sequence
                    self.column += int(sequence[2:-1])
        elif char == "\r":
            self.column = 0
        elif char == "\n":
            self.rows.append("")
        else:
            assert char.isprintable(), f"{char!r} reached the terminal"
            row = self.rows[-1].ljust(self.column)
            self.rows[-1] = row[: self.column] + char + row[self.column + 1 :]
            self.column += 1


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end of the person, and the end of the program."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, COLUMNS))
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


class Sitting:
    """A person at a terminal, and how it ended."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.ended = trio.Event()
        self.status: int | None = None

    async def ends(self) -> int | None:
        with trio.fail_after(15):
            await self.ended.wait()
        return self.status


@asynccontextmanager
async def sitting(settings: Settings) -> AsyncIterator[Sitting]:
    """Somebody who has just connected."""
    with terminal() as (master, slave):
        before = termios.tcgetattr(slave)
        seat = Sitting(Person(master))

        async def run() -> None:
            seat.status = await talk(settings, stdin=slave, stdout=slave, stderr=slave)
            seat.ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await seat.person.waits_until(lambda: seat.person.rows[-1].startswith("> "), "the prompt")
            yield seat
            nursery.cancel_scope.cancel()
        assert termios.tcgetattr(slave) == before


class Told:
    """An application that says what it is told to say, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str | bytes] = []
        self._news = trio.Event()
        self.connected = trio.Event()
        self.ws: rawws.WebSocket

    async def __call__(self, ws: rawws.WebSocket) -> None:
        await ws.accept()
        self.ws = ws
        self.connected.set()
        async for message in ws:
            self.heard.append(message)
            self._news.set()

    async def hears(self, *messages: str | bytes) -> None:
        """Wait until it has heard as many messages as these, which they must be."""
        with trio.fail_after(15):
            while len(self.heard) < len(messages):
                self._news = trio.Event()
                await self._news.wait()
        assert self.heard == list(messages)


DEAF = rawws.Limits(receive_queue_messages=1)
"""Of a server that reads no further when one message waits for its application."""


async def deaf(ws: rawws.WebSocket) -> None:
    """An application that listens to nothing."""
    await ws.accept()
    await ws.wait_closed()


def _counts(rows: list[str], row: str, number: int) -> bool:
    return rows.count(row) == number


class TestAtATerminal:
    async def test_a_line_is_sent_and_its_answer_shown_above_the_prompt(self) -> None:
        async with serving(echo) as server, sitting(Settings(url=address(server, "/a?b"))) as seat:
            person = seat.person
            assert person.rows[0].startswith("* connected to /a;")
            person.types("grüße\r".encode())
            await person.sees("> grüße", "< grüße", "> ")
            person.types(UP + LEFT + b"!\r")
            await person.sees("> grüß!e", "< grüß!e", "> ")
            assert person.column == 2

    async def test_a_message_does_not_tear_the_line_being_typed(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            person = seat.person
            person.types(b"half a line" + LEFT * 4)
            await person.sees("> half a line")
            await app.ws.send("one")
            await app.ws.send("two\nand three")
            await person.sees("< one", "< two", "  and three", "> half a line")
            assert person.column == len("> half a ")
            person.types(b"whole \r")
            await person.sees("> half a whole line", "> ")
            await app.hears("half a whole line")
            assert seat.status is None

    async def test_what_a_server_sends_is_escaped(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            await app.ws.send("\x1b[2J\x07 \u202eevil \x9b")
            await seat.person.sees("< \\x1b[2J\\x07 \\u202eevil \\x9b", "> ")
            await app.ws.send(b"\x1b\x00binary")
            await seat.person.sees("< 8 bytes: 1b 00 62 69 6e 61 72 79", "> ")
            await app.ws.send(bytes(33))
            await seat.person.sees(f"< 33 bytes: {' '.join(['00'] * 32)} …", "> ")
            await app.ws.send("x" * 3000)
            await seat.person.sees(f"< {'x' * 3000}", "> ")

    def test_a_screen_is_shown_the_beginning_of_a_long_message(self) -> None:
        assert terminal_module._shown("x" * 20_000) == "x" * 16_384 + " … (20000 characters)"

    async def test_two_slashes_send_one(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(b"//ping\r\r/\r")
            await seat.person.sees("> //ping", "> /", "* there is no /; /help says what there is", "> ")
            await app.hears("/ping")

    async def test_ping_shows_the_latency_and_state_how_the_connection_is(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server), compression=False)) as seat:
            person = seat.person
            person.types(b"/state\r")
            await person.sees(
                "> /state",
                "* sent 0 messages, 0 bytes; received 0 messages, 0 bytes",
                "* subprotocol: none; extensions: none",
                "* latency: not measured; /ping does",
                "> ",
            )
            person.types(b"/ping\r")
            await person.waits_until(lambda: person.rows[-2].startswith("* pong after "), "the pong")
            assert person.rows[-2].endswith(" ms")
            person.types(b"/state\r")
            await person.waits_until(lambda: person.rows[-2].startswith("* latency: "), "the state")
            assert person.rows[-2].endswith(" ms")

    async def test_subprotocol_and_compression_are_those_that_were_agreed(self) -> None:
        async def app(ws: rawws.WebSocket) -> None:
            assert ws.request.origin == "https://example.com"
            assert ws.request.headers["x-token"] == "1"
            await ws.accept(subprotocol="b")
            await ws.receive()

        async with serving(app, origins="*") as server:
            settings = Settings(
                url=address(server),
                subprotocols=("a", "b"),
                origin="https://example.com",
                headers=(("X-Token", "1"),),
            )
            async with sitting(settings) as seat:
                seat.person.types(b"/state\r")
                await seat.person.waits_until(
                    lambda: "subprotocol: b; extensions: permessage-deflate" in "".join(seat.person.rows),
                    "the agreement",
                )

    async def test_a_pong_that_does_not_come_is_said(self) -> None:
        settings = Settings(url="", limits=rawws.Limits(ping_timeout=0.1))
        async with serving(deaf, limits=DEAF) as server:
            settings = dataclasses.replace(settings, url=address(server))
            async with sitting(settings) as seat:
                seat.person.types(b"1\r2\r")
                await seat.person.sees("> 1", "> 2", "> ")
                seat.person.types(b"/ping\r")
                await seat.person.sees("> /ping", "* no pong within 0.1 s", "> ")

    async def test_help_names_every_command(self) -> None:
        async with serving(echo) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(b"/help\r")
            await seat.person.waits_until(lambda: seat.person.rows[-1] == "> " and len(seat.person.rows) > 5, "help")
            said = "\n".join(seat.person.rows)
            assert all(f"\n  /{command}" in said for command in ("ping", "send", "state", "close", "help"))

    async def test_a_file_is_sent_as_one_binary_message(self, tmp_path: Path) -> None:
        app = Told()
        file = tmp_path / "a \x1bfile"
        file.write_bytes(bytes(range(256)))
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(b"/send ~no-such-user/x\r")
            await seat.person.waits_until(lambda: "home directory" in seat.person.rows[-2], "the mistake")
            os.environ["HOME"], home = str(tmp_path), os.environ.get("HOME", "")
            try:
                seat.person.types(b"/send ~/a*\r")
                await seat.person.sees("> /send ~/a*", "* ~/a*: No such file or directory", "> ")
            finally:
                os.environ["HOME"] = home
            seat.person.types(f"/send {tmp_path}\r".encode())
            await seat.person.sees(f"* {tmp_path}: Is a directory", "> ")
            seat.person.types(b"/send /dev/null\r")
            await seat.person.sees("* /dev/null: not a file", "> ")
            seat.person.types(b"/send\r")
            await seat.person.sees("* /send needs the name of a file", "> ")
            # ESC cannot be typed; the name is reached by a link.
            (tmp_path / "link").symlink_to(file)
            seat.person.types(f"/send {tmp_path}/link\r".encode())
            await seat.person.sees(f"* {tmp_path}/link: 256 bytes", "> ")
            await app.hears(bytes(range(256)))

    async def test_a_file_has_the_bound_of_a_message(self, tmp_path: Path) -> None:
        app = Told()
        file = tmp_path / "file"
        settings = Settings(url="", limits=rawws.Limits(max_message_size=100))
        async with serving(app) as server, sitting(dataclasses.replace(settings, url=address(server))) as seat:
            file.write_bytes(bytes(101))
            seat.person.types(f"/send {file}\r".encode())
            await seat.person.sees(f"* {file}: more than 100 bytes; --max-message-size allows more", "> ")
            file.write_bytes(bytes(100))
            seat.person.types(f"/send {file}\r".encode())
            await seat.person.sees(f"* {file}: 100 bytes", "> ")
            await app.hears(bytes(100))

    async def test_what_a_server_does_not_take_is_not_kept_for_ever(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(bytes(1 << 20))
        async with (
            serving(deaf, limits=DEAF, compression=False) as server,
            sitting(Settings(url=address(server))) as seat,
        ):
            rows = seat.person.rows
            sent = f"* {file}: {1 << 20} bytes"
            for number in range(1, 17):  # more than the buffers of two sockets and of a connection hold
                seat.person.types(f"/send {file}\r".encode())
                await seat.person.waits_until(partial(_counts, rows, sent, number), sent)
            for _ in range(64):
                seat.person.types(b"a line\r")
            said = "* not sent: the server does not take what was sent before"
            await seat.person.waits_until(lambda: said in rows and rows.count("> a line") == 64, said)
            seat.person.types(CTRL_C + CTRL_C)
            assert await seat.ends() == 0

    async def test_a_paste_may_have_more_lines_than_may_wait(self) -> None:
        app = Told()
        lines = [f"line {number}" for number in range(300)]
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types("".join(f"{line}\r" for line in lines).encode())
            await seat.person.sees("> line 298", "> line 299", "> ")
            await app.hears(*lines)

    async def test_lines_can_be_binary(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server), binary=True)) as seat:
            seat.person.types("é\r//x\r".encode())
            await seat.person.sees("> é", "> //x", "> ")
            await app.hears("é".encode(), b"/x")


class TestTheEnd:
    @pytest.mark.parametrize("key", [CTRL_C, CTRL_D], ids=["Ctrl-C", "Ctrl-D"])
    async def test_a_key_closes_in_order(self, key: bytes) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(key)
            assert await seat.ends() == 0
            await seat.person.sees("closed by this side with 1000, normal closure", "")
            closed = await app.ws.wait_closed()
            assert (closed.code, closed.by) == (1000, "peer")

    @pytest.mark.parametrize(
        ("command", "code", "reason", "status"),
        [
            (b"/close", 1000, "", 0),
            (b"/close 1001 going home", 1001, "going home", 0),
            ("/close 4001 é ".encode(), 4001, "é", 1),
        ],
    )
    async def test_close_takes_a_code_and_a_reason(self, command: bytes, code: int, reason: str, status: int) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(command + b"\r")
            assert await seat.ends() == status
            closed = await app.ws.wait_closed()
            assert (closed.code, closed.reason) == (code, reason)

    async def test_a_code_that_cannot_be_sent_is_refused_and_nothing_ends(self) -> None:
        async with serving(echo) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(b"/close now\r/close 1006\rstill here\r")
            await seat.person.waits_until(lambda: seat.person.rows[-2:] == ["< still here", "> "], "the echo")
            assert "* a code is a number, such as 1000 or 3000 to 4999" in seat.person.rows
            assert any(row.startswith("* ") and "1006" in row for row in seat.person.rows)

    async def test_the_servers_close_ends_it_with_its_code_in_words(self) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            seat.person.types(b"half a line")
            await seat.person.sees("> half a line")
            app.ws.close_nowait(4000, "\x1b[31mno")
            assert await seat.ends() == 1
            await seat.person.sees(
                "closed by the server with 4000, a code of the application: \\x1b[31mno", ""
            )  # and the line that was typed is gone

    async def test_a_broken_rule_of_the_server_ends_it(self) -> None:
        app = Told()
        async with serving(app) as server:
            settings = Settings(url=address(server), limits=rawws.Limits(max_message_size=10))
            async with sitting(settings) as seat:
                await app.ws.send("x" * 11)
                assert await seat.ends() == 1
                await seat.person.waits_until(lambda: "1009, message too big" in seat.person.rows[-2], "the code")

    async def test_a_terminal_that_goes_away_ends_it(self) -> None:
        app = Told()
        async with serving(app) as server:
            master, slave = pty.openpty()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(talk, Settings(url=address(server)), stdin=slave, stdout=slave, stderr=2))
                await app.connected.wait()
                await Person(master).sees("> ")
                os.close(master)
            os.close(slave)
            assert (await app.ws.wait_closed()).code == 1000

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_a_signal_closes_in_order(self, number: signal.Signals) -> None:
        app = Told()
        async with serving(app) as server, sitting(Settings(url=address(server))) as seat:
            os.kill(os.getpid(), number)
            assert await seat.ends() == 0
            assert (await app.ws.wait_closed()).code == 1000

    async def test_a_signal_before_there_is_a_connection_gives_up(self) -> None:
        asked = trio.Event()

        async def never(ws: rawws.WebSocket) -> None:
            asked.set()
            await ws.wait_closed()

        async with serving(never) as server, trio.open_nursery() as nursery:
            status = []

            async def run() -> None:
                status.append(await talk(Settings(url=address(server))))

            nursery.start_soon(run)
            await asked.wait()
            os.kill(os.getpid(), signal.SIGINT)
        assert status == [130]


_numbers = itertools.count(200)


class Pipe:
    """The client between two pipes."""

    def __init__(self) -> None:
        stdin, self.input = os.pipe()
        # A thread that was left behind must find nobody else's pipe under the number that it reads.
        self.stdin = fcntl.fcntl(stdin, fcntl.F_DUPFD_CLOEXEC, next(_numbers))
        os.close(stdin)
        self.output, self.stdout = os.pipe()
        self.errors, self.stderr = os.pipe()
        self._open = {self.stdin, self.input, self.output, self.stdout, self.errors, self.stderr}

    def close(self, *ends: int) -> None:
        for end in ends or tuple(self._open):
            os.close(end)
            self._open.discard(end)

    def writes(self, data: bytes, *, ends: bool = True) -> None:
        os.write(self.input, data)
        if ends:
            self.close(self.input)

    async def runs(self, settings: Settings) -> int:
        with trio.fail_after(15):
            return await talk(settings, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr)

    def reads(self, size: int) -> bytes:
        """Wait for so many bytes of the output, and return them."""
        with open(self.output, "rb", closefd=False) as file:
            return file.read(size)

    def said(self) -> bytes:
        self.close(self.stdout)
        return os.read(self.output, 1 << 16)

    def complained(self) -> bytes:
        self.close(self.stderr)
        return os.read(self.errors, 1 << 16)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def mock_clock() -> MockClock:
    """Stands still until a test lets it jump; it is to begin with the test."""
    return MockClock()


async def settled() -> None:
    """Wait until nothing has happened for a while, in threads and between sockets of this process too."""
    await wait_all_tasks_blocked(0.05)


LARGE = "x" * 300_000
"""More than a pipe holds, so that printing it blocks until somebody reads."""


def quick(server: rawws.Server) -> Settings:
    """Waits as long as the tests can without being slow; answers on loopback come sooner, on a busy machine too."""
    return Settings(url=address(server), wait=0.8)


class TestInAPipe:
    async def test_each_line_is_sent_and_each_answer_printed(self, pipe: Pipe) -> None:
        app = Told()

        async def both(ws: rawws.WebSocket) -> None:
            async for message in ws:
                app.heard.append(message)
                await ws.send(message)

        async with serving(both) as server:
            pipe.writes("one\r\n\ngrüße".encode())
            assert await pipe.runs(quick(server)) == 0
        assert app.heard == ["one", "", "grüße"]
        assert pipe.said() == "one\n\ngrüße\n".encode()
        assert pipe.complained() == b"closed by this side with 1000, normal closure\n"

    async def test_it_closes_only_when_the_server_has_been_silent(self, pipe: Pipe) -> None:
        async def slow(ws: rawws.WebSocket) -> None:
            await ws.receive()
            for number in range(4):
                await trio.sleep(0.3)
                await ws.send(str(number))
            await ws.receive()

        async with serving(slow) as server:
            pipe.writes(b"go\n")
            assert await pipe.runs(quick(server)) == 0
        assert pipe.said() == b"0\n1\n2\n3\n"

    @pytest.mark.parametrize("ends_first", [True, False], ids=["input ends first", "input ends meanwhile"])
    async def test_a_slow_reader_of_the_output_loses_nothing(
        self, pipe: Pipe, mock_clock: MockClock, nursery: trio.Nursery, ends_first: bool
    ) -> None:
        app = Told()
        async with serving(app) as server:
            nursery.start_soon(pipe.runs, Settings(url=address(server), wait=1))
            if ends_first:
                pipe.writes(b"")
            await app.connected.wait()
            await settled()
            await app.ws.send(LARGE)
            await app.ws.send("the last")
            await settled()
            if not ends_first:
                pipe.writes(b"")
                await settled()
            mock_clock.jump(4)  # nothing was read for longer than it waits
            await settled()
            assert app.ws.closed is None
            whole = f"{LARGE}\nthe last\n".encode()
            assert await trio.to_thread.run_sync(pipe.reads, len(whole)) == whole
            await settled()
            assert app.ws.closed is None
            mock_clock.jump(1)
            assert (await app.ws.wait_closed()).code == 1000

    async def test_messages_leave_as_they_came_where_no_terminal_reads_them(self, pipe: Pipe) -> None:
        app = Told()
        async with serving(app) as server, trio.open_nursery() as nursery:
            nursery.start_soon(pipe.runs, quick(server))
            await app.connected.wait()
            await app.ws.send("\x1b[2J two\nlines")
            await app.ws.send(b"\x00\xff")
            pipe.writes(b"")
        assert pipe.said() == b"\x1b[2J two\nlines\n\x00\xff\n"

    async def test_a_terminal_that_reads_them_is_protected(self, pipe: Pipe) -> None:
        app = Told()
        with terminal() as (master, slave):
            async with serving(app) as server, trio.open_nursery() as nursery:
                nursery.start_soon(partial(talk, quick(server), stdin=pipe.stdin, stdout=slave, stderr=pipe.stderr))
                await app.connected.wait()
                await app.ws.send("\x1b[2J")
                await app.ws.send(b"\x1b")
                await Person(master).sees("\\x1b[2J", "1 bytes: 1b", "")
                pipe.close(pipe.input)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_an_output_that_blocks_is_no_obstacle_to_a_signal(
        self, pipe: Pipe, mock_clock: MockClock, nursery: trio.Nursery, number: signal.Signals
    ) -> None:
        async with self.blocking(pipe, nursery) as (app, statuses):
            os.kill(os.getpid(), number)
            assert (await app.ws.wait_closed()).code == 1000
            await settled()
            assert statuses == []  # a reader may come yet
            mock_clock.jump(5)
            await settled()
            assert statuses == [0]
        assert pipe.complained() == b"closed by this side with 1000, normal closure\n"

    async def test_a_second_signal_ends_it_at_once(
        self, pipe: Pipe, mock_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        async with self.blocking(pipe, nursery) as (_, statuses):
            os.kill(os.getpid(), signal.SIGINT)
            await settled()
            os.kill(os.getpid(), signal.SIGINT)
            await settled()
            assert statuses == [0]

    async def test_an_output_for_messages_and_words_that_blocks_is_none_either(
        self, pipe: Pipe, mock_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        async with self.blocking(pipe, nursery, stderr=pipe.stdout) as (_, statuses):
            os.kill(os.getpid(), signal.SIGINT)
            await settled()
            os.kill(os.getpid(), signal.SIGINT)
            await settled()
            mock_clock.jump(1)
            await settled()
            assert statuses == [0]

    @asynccontextmanager
    async def blocking(
        self, pipe: Pipe, nursery: trio.Nursery, *, stderr: int | None = None
    ) -> AsyncIterator[tuple[Told, list[int]]]:
        """A client whose output takes nothing more, and its exit status once it has ended."""
        app = Told()
        statuses: list[int] = []

        async def run() -> None:
            outputs = {"stdout": pipe.stdout, "stderr": stderr or pipe.stderr}
            statuses.append(await talk(Settings(url=address(server)), stdin=pipe.stdin, **outputs))

        async with serving(app) as server:
            nursery.start_soon(run)
            await app.connected.wait()
            await app.ws.send(LARGE)
            await settled()
            yield app, statuses

    async def test_lines_can_be_binary(self, pipe: Pipe) -> None:
        app = Told()
        async with serving(app) as server:
            pipe.writes(b"\xff\nb")
            assert await pipe.runs(dataclasses.replace(quick(server), binary=True)) == 0
        assert app.heard == [b"\xff", b"b"]

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"ok\n\xff\n", "line 2 is not text in UTF-8; --binary sends lines as they are"),
            (b"ok\n" + b"x" * 101 + b"\n", "line 2 is longer than --max-message-size; raise that"),
            (b"x" * 101, "line 1 is longer than --max-message-size; raise that"),
        ],
        ids=["not UTF-8", "long", "endless"],
    )
    async def test_what_cannot_be_sent_is_a_line_that_says_what_to_do(self, pipe: Pipe, data: bytes, says: str) -> None:
        app = Told()
        async with serving(app) as server:
            pipe.writes(data, ends=False)
            settings = dataclasses.replace(quick(server), limits=rawws.Limits(max_message_size=100))
            with pytest.raises(TerminalError) as caught:
                await pipe.runs(settings)
            assert str(caught.value) == says
            assert (await app.ws.wait_closed()).code == 1000

    @pytest.mark.parametrize("wait", [0.8, math.inf])
    async def test_what_was_sent_before_a_bad_line_is_answered_first(self, pipe: Pipe, wait: float) -> None:
        async with serving(echo) as server:
            pipe.writes(b"ok\n\xff\nlost\n", ends=False)
            with pytest.raises(TerminalError, match="line 2"):
                await pipe.runs(Settings(url=address(server), wait=wait))
        assert pipe.said() == b"ok\n"

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
    async def test_an_output_that_cannot_be_written_is_told(self, pipe: Pipe) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            async with serving(echo) as server:
                pipe.writes(b"one\n", ends=False)
                with pytest.raises(TerminalError) as caught:
                    await talk(quick(server), stdin=pipe.stdin, stdout=full, stderr=pipe.stderr)
        finally:
            os.close(full)
        assert str(caught.value) == "the output cannot be written: No space left on device; give it another place"

    async def test_an_end_by_the_server_is_told_and_the_input_left(self, pipe: Pipe) -> None:
        async def app(ws: rawws.WebSocket) -> None:
            await ws.accept()
            await ws.close(1011, "sorry")

        async with serving(app) as server:
            assert await pipe.runs(quick(server)) == 1
        assert pipe.complained() == b"closed by the server with 1011, internal error: sorry\n"

    async def test_an_output_that_nobody_reads_ends_it_in_order(self, pipe: Pipe) -> None:
        async with serving(echo) as server:
            pipe.close(pipe.output)
            pipe.writes(b"one\ntwo\n", ends=False)
            assert await pipe.runs(quick(server)) == 0

    async def test_an_input_that_cannot_be_read_says_what_to_do(self, pipe: Pipe, tmp_path: Path) -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            async with serving(echo) as server:
                with pytest.raises(TerminalError) as caught:
                    await talk(quick(server), stdin=folder, stdout=pipe.stdout, stderr=pipe.stderr)
        finally:
            os.close(folder)
        assert str(caught.value) == "the input cannot be read: Is a directory; give it a file, a pipe or a terminal"

    async def test_tls_with_an_authority_that_is_trusted_and_without(self, pipe: Pipe) -> None:
        authority = trustme.CA()
        of_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(of_server)
        of_client = ssl.create_default_context()
        authority.configure_trust(of_client)
        pipe.writes(b"hi\n")
        async with serving(echo, ssl_context=of_server) as server:
            settings = dataclasses.replace(quick(server), url=f"wss://{address(server)}")
            with pytest.raises(TerminalError) as caught:
                await pipe.runs(settings)
            assert re.fullmatch(r"the certificate of \S+ is not trusted \(.+\); name its .*", str(caught.value))
            assert await pipe.runs(dataclasses.replace(settings, ssl_context=of_client)) == 0
        assert pipe.said() == b"hi\n"

    async def test_tls_where_none_is_spoken_says_what_to_do(self, pipe: Pipe) -> None:
        async with serving(echo) as server:
            with pytest.raises(TerminalError) as caught:
                await pipe.runs(dataclasses.replace(quick(server), url=f"wss://{address(server)}"))
        assert str(caught.value).endswith("; try ws:// if it is not meant to")

    async def test_nobody_there_says_what_to_do(self, pipe: Pipe) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TerminalError) as caught:
            await pipe.runs(Settings(url=where))
        assert str(caught.value) == f"nothing listens on {where}; start the server there, or check the port"

    async def test_a_dead_proxy_is_named_and_not_the_server(self, pipe: Pipe) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TerminalError) as caught:
            await pipe.runs(Settings(url="ws://localhost", proxy=f"http://me:secret@{where}"))
        assert re.fullmatch(f"the proxy {where} cannot be reached: .+; check --proxy", str(caught.value))
        assert "secret" not in str(caught.value)

    async def test_without_a_connection_it_says_what_to_do(self, pipe: Pipe) -> None:
        with pytest.raises(TerminalError) as caught:
            await pipe.runs(Settings(url="ftp://localhost"))
        assert str(caught.value) == "the address should begin with ws:// or wss://; see rawws connect --help"


@contextmanager
def command(*arguments: str, stdin: int, stdout: int, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """`rawws connect` in a process of its own."""
    whole = [sys.executable, "-m", "rawws", "connect", *arguments]
    with subprocess.Popen(whole, stdin=stdin, stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


class TestTheCommand:
    async def test_a_line_through_a_pipe_is_answered(self) -> None:
        async with serving(rawws.EchoProtocol()) as server:
            pipe = subprocess.PIPE
            with command(address(server), "--wait", "0.8", stdin=pipe, stdout=pipe, stderr=pipe) as process:
                out, err = await trio.to_thread.run_sync(process.communicate, b"hi\n")
            assert (process.returncode, out) == (0, b"hi\n")
            assert err == b"closed by this side with 1000, normal closure\n"

    async def test_ctrl_c_at_a_terminal_leaves_it_as_it_was(self) -> None:
        async with serving(echo) as server:
            with terminal() as (master, slave):
                before = termios.tcgetattr(slave)
                person = Person(master)
                with command(address(server), stdin=slave, stdout=slave, stderr=slave) as process:
                    await person.waits_until(lambda: person.rows[-1] == "> ", "the prompt")
                    assert termios.tcgetattr(slave) != before
                    person.types("grüße\r".encode())
                    await person.sees("> grüße", "< grüße", "> ")
                    person.types(b"half" + CTRL_C)
                    assert await trio.to_thread.run_sync(process.wait, 10) == 0
                await person.sees("closed by this side with 1000, normal closure", "")
                assert "Traceback" not in "\n".join(person.rows)
                assert termios.tcgetattr(slave) == before
