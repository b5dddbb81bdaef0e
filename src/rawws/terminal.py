"""A WebSocket for people: what `rawws connect` does at a terminal, and in a pipe.

Strategy: at a terminal one task reads keys and another one prints what arrives. Both write through `_Screen`, which
wipes the line being typed, prints, and draws it again in one write, so that nothing tears. In a pipe threads read and
write, for a file has no readiness, and messages leave as they came. Rules:

* Whatever a server says reaches a terminal through `printable` only.
* Every way out closes in order: Ctrl-C, Ctrl-D, SIGINT, SIGTERM, the end of the input. A second Ctrl-C or signal cuts.
  An output that nobody reads delays it by `close_timeout` at most.
* Keys are read whatever the server does: what it does not take waits in a short queue beside them.
* The terminal is left as it was found, whatever happened.

It uses `connect` as anybody would; `wording.py` says in words what went wrong. Cost: one write a message.
"""

from __future__ import annotations

import os
import signal
import stat
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import trio

from .client import connect
from .errors import CloseCode, ConnectionClosed, HandshakeFailed
from .limits import Limits
from .line_editor import WIPE, Key, LineEditor
from .logs import printable
from .wording import how_it_ended, what_to_do

try:
    import termios
except ImportError:  # Windows: there a person is served as a pipe is
    termios = None  # type: ignore[assignment]  # asked for before each use

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from .websocket import WebSocket

__all__ = ["Settings", "TerminalError", "talk"]

_SHOWN: Final = 16 * 1024
"""Characters of a message that a terminal is shown."""
_SHOWN_BYTES: Final = 32
"""Bytes of a binary message that a terminal is shown."""
_READ: Final = 64 * 1024
_WAITING: Final = 64
"""Messages that may wait for a server that does not read."""
_TROUBLE_WAITS: Final = 1.0
"""Seconds without a message after which a line that cannot be sent is told, where `wait` is longer."""
_LAST_WORDS: Final = 1.0
"""Seconds that it may take to say how it ended, where an output that blocks was interrupted."""
_TURNS: Final = 8
"""Turns of Trio in which a message that the server takes has certainly left the queue; it takes one or two."""
_INTERRUPTED: Final = 130
"""The exit status of what Ctrl-C ended before it had begun, a shell's number for SIGINT."""
_GOOD: Final = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY)
_HELP: Final = """\
A line is sent as a message. One that begins with / is a command; // sends a message that begins with /.
  /ping                   measure how long the server takes to answer
  /send FILE              send a file as one binary message
  /state                  say how the connection is
  /close [CODE] [REASON]  close it, with 1000 if no code is given
  /help                   show this
Ctrl-C and Ctrl-D close it too. The arrows bring back what was typed before."""


class TerminalError(Exception):
    """Something that a person can put right; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person asked for."""

    url: str
    """Where to; without a scheme it is `ws://`."""
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = None
    compression: bool = True
    limits: Limits = field(default_factory=Limits)
    binary: bool = False
    """Whether lines are sent as binary messages."""
    wait: float = 1.0
    """Seconds without a message, after the end of a piped input, after which the connection is closed."""

    @property
    def address(self) -> str:
        """Where to, with a scheme."""
        return self.url if "://" in self.url else f"ws://{self.url}"


async def talk(settings: Settings, *, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> int:
    """Connect, and pass messages between a person and a server until one of them ends it.

    Where both `stdin` and `stdout` are a terminal it is a conversation. Otherwise it is a pipe: each line of `stdin`
    is sent, each message goes to `stdout` as it came, or escaped to a terminal, with a line break after it; after the
    end of `stdin` the connection is closed with 1000 as soon as no message has come for `settings.wait` seconds. How
    it ended is told on `stderr`.

    Must run in the main thread, for it listens to signals.

    Returns:
        The exit status: 0 when the connection was closed with 1000 or 1001, otherwise 1; 130 when it was interrupted
        before there was a connection.

    Raises:
        TerminalError: there is no connection, or what was piped in cannot be sent, or what came cannot be written.
    """
    at_terminal = termios is not None and os.isatty(stdin) and os.isatty(stdout)
    kind = _AtTerminal if at_terminal else _InPipe
    return await kind(settings, stdin, stdout, stderr).run()


class _Talk:
    """What both ways to talk have in common."""

    def __init__(self, settings: Settings, stdin: int, stdout: int, stderr: int) -> None:
        self._settings = settings
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._opening = trio.CancelScope()
        self._ws: WebSocket | None = None
        self._interrupted = False
        self._patience = inf  # until when a write may block
        self._writing: trio.CancelScope | None = None
        self._trouble: str | None = None

    async def run(self) -> int:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            status = 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                status = await self._run()
                nursery.cancel_scope.cancel()
        if self._trouble is not None:
            raise TerminalError(self._trouble)
        return status

    async def _run(self) -> int:
        settings = self._settings
        async with AsyncExitStack() as stack:
            try:
                with self._opening:
                    link = connect(
                        settings.address,
                        headers=settings.headers,
                        subprotocols=settings.subprotocols,
                        origin=settings.origin,
                        ssl_context=settings.ssl_context,
                        proxy=settings.proxy,
                        compression=settings.compression,
                        limits=settings.limits,
                    )
                    self._ws = await stack.enter_async_context(link)
            except (ValueError, ImportError, OSError, HandshakeFailed) as exc:
                self._trouble = what_to_do(exc, settings.address)
                return 2
            if self._ws is None:
                return _INTERRUPTED
            await self._talk(self._ws)
        closed = self._ws.closed
        assert closed is not None
        if self._trouble is not None:
            return 2
        with suppress(OSError):  # there may be nobody left to tell
            await self._put_out(self._stderr, f"{how_it_ended(closed)}\n".encode(), grace=_LAST_WORDS)
        return 0 if closed.code in _GOOD else 1

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._interrupt()

    def _interrupt(self) -> None:
        """Close in order; the second time, cut."""
        if self._ws is None:
            self._opening.cancel()
            return
        if self._interrupted:
            self._ws.cut()
            self._patience = trio.current_time()
        else:
            self._interrupted = True
            self._ws.close_nowait()
            self._patience = trio.current_time() + self._settings.limits.close_timeout
        if self._writing is not None:
            self._writing.deadline = self._patience

    async def _put_out(self, descriptor: int, data: bytes, *, grace: float = 0.0) -> bool:
        """Write, for as long as nobody interrupts; return whether all of it was written.

        A thread does it, which is left behind where it blocks for longer.

        Args:
            grace: seconds that it may take at least.

        Raises:
            OSError: it cannot be written.
        """
        with trio.CancelScope(deadline=max(self._patience, trio.current_time() + grace)) as self._writing:
            await trio.to_thread.run_sync(_write, descriptor, data, abandon_on_cancel=True)
        return not self._writing.cancelled_caught

    async def _talk(self, ws: WebSocket) -> None:
        """Pass messages until the connection has ended."""
        raise NotImplementedError


# -- in a pipe -----------------------------------------------------------------------------------------------


@final
class _InPipe(_Talk):
    """Lines in, messages out."""

    _silence: trio.CancelScope | None = None
    """Ends the wait for answers, once the input has ended."""
    _printing = False

    async def _talk(self, ws: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, ws)
            try:
                await self._print(ws)
            except (ConnectionClosed, BrokenPipeError):
                pass  # the latter when nobody reads what we print, as with `| head`
            except OSError as exc:
                self._trouble = f"the output cannot be written: {exc.strerror}; give it another place"
            await ws.close()
            nursery.cancel_scope.cancel()

    async def _print(self, ws: WebSocket) -> None:
        as_shown = os.isatty(self._stdout)
        async for message in ws:
            data = _shown(message).encode() if as_shown else _as_bytes(message)
            self._printing = True
            self._wait_anew()
            if not await self._put_out(self._stdout, data + b"\n"):
                return
            self._printing = False
            self._wait_anew()

    def _wait_anew(self) -> None:
        """Begin the wait for answers anew; while a message is being printed, others may wait behind it."""
        if self._silence is not None:
            wait = self._settings.wait if self._trouble is None else min(self._settings.wait, _TROUBLE_WAITS)
            self._silence.deadline = inf if self._printing else trio.current_time() + wait

    async def _send(self, ws: WebSocket) -> None:
        try:
            await self._send_lines(ws)
        except ConnectionClosed:
            return  # how it ended is told at the end
        except OSError as exc:
            self._trouble = f"the input cannot be read: {exc.strerror}; give it a file, a pipe or a terminal"
        with trio.CancelScope() as self._silence:
            self._wait_anew()
            await trio.sleep_forever()
        ws.close_nowait()

    async def _send_lines(self, ws: WebSocket) -> None:
        """Send the whole input, or what can be sent of it, and keep what to say of the rest."""
        async with aclosing(self._lines()) as lines:
            async for number, line in lines:
                if len(line) > self._settings.limits.max_message_size:
                    self._trouble = f"line {number} is longer than --max-message-size; raise that"
                    return
                try:
                    await ws.send(line if self._settings.binary else line.decode())
                except UnicodeDecodeError:
                    self._trouble = f"line {number} is not text in UTF-8; --binary sends lines as they are"
                    return

    async def _lines(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Read the input line by line; one that is too long comes before its end has been read."""
        number = 1
        line = b""
        while data := await trio.to_thread.run_sync(os.read, self._stdin, _READ, abandon_on_cancel=True):
            first, *others = data.split(b"\n")
            line += first
            for other in others:
                yield number, line.removesuffix(b"\r")
                number += 1
                line = other
            if len(line) > self._settings.limits.max_message_size:
                break
        if line:
            yield number, line


def _as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


# -- at a terminal -------------------------------------------------------------------------------------------


class _Screen:
    """The terminal's output: what was said, and below it the line being typed.

    A terminal that takes nothing holds everything up; one that is gone is for the keys to tell.
    """

    def __init__(self, descriptor: int, editor: LineEditor) -> None:
        self._descriptor = descriptor
        self._editor = editor

    def say(self, text: str) -> None:
        """Print lines above the line being typed."""
        self._write(f"{WIPE}{text}\n{self._drawn()}")

    def draw(self) -> None:
        """Draw the line being typed."""
        self._write(self._drawn())

    def leave(self) -> None:
        """Take the line being typed away."""
        self._write(WIPE)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            _write(self._descriptor, text.encode())

    def _drawn(self) -> str:
        try:
            columns = os.get_terminal_size(self._descriptor).columns
        except OSError:  # the terminal is gone
            columns = 0
        return self._editor.draw(columns or 80)  # 0: a terminal that does not know


@final
class _AtTerminal(_Talk):
    """A person types, and sees what arrives."""

    def __init__(self, settings: Settings, stdin: int, stdout: int, stderr: int) -> None:
        super().__init__(settings, stdin, stdout, stderr)
        self._editor = LineEditor()
        self._screen = _Screen(stdout, self._editor)
        self._outbox, self._to_send = trio.open_memory_channel[str | bytes](_WAITING)

    async def _talk(self, ws: WebSocket) -> None:
        with _raw(self._stdin):
            self._screen.say(f"* connected to {printable(ws.request.path)}; /help says what there is, Ctrl-D closes")
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, ws)
                    nursery.start_soon(self._read_keys, ws, nursery)
                    with suppress(ConnectionClosed):
                        async for message in ws:
                            self._screen.say(_indented(_shown(message)))
                    await ws.close()
                    nursery.cancel_scope.cancel()
            finally:
                self._screen.leave()

    async def _send(self, ws: WebSocket) -> None:
        with suppress(ConnectionClosed):
            async for message in self._to_send:
                await ws.send(message)

    async def _read_keys(self, ws: WebSocket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._stdin)
            try:
                data = os.read(self._stdin, _READ)
            except OSError:  # how Linux says that the terminal is gone
                data = b""
            if not data:
                ws.close_nowait()
                return
            for typed in self._editor.feed(data):
                if isinstance(typed, Key):
                    self._interrupt()
                elif typed:
                    self._screen.say(f"> {printable(typed)}")
                    await self._make_room()
                    self._do(typed, ws, nursery)
            self._screen.draw()

    async def _make_room(self) -> None:
        """Let messages that wait be sent, if the server takes them: a paste may have more lines than may wait."""
        for _ in range(_TURNS):
            if self._outbox.statistics().current_buffer_used < _WAITING:
                return
            await trio.lowlevel.checkpoint()

    def _do(self, line: str, ws: WebSocket, nursery: trio.Nursery) -> None:
        """Send a line, or do what it commands."""
        if line.startswith("//") or not line.startswith("/"):
            text = line.removeprefix("/") if line.startswith("//") else line
            self._put(text.encode() if self._settings.binary else text)
            return
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        match command:
            case "/ping":
                nursery.start_soon(self._ping, ws)
            case "/send" if rest:
                nursery.start_soon(self._send_file, rest)
            case "/state":
                self._screen.say(_state(ws))
            case "/close":
                self._close(ws, rest)
            case "/help":
                self._screen.say(_HELP)
            case "/send":
                self._screen.say("* /send needs the name of a file")
            case _:
                self._screen.say(f"* there is no {printable(command)}; /help says what there is")

    def _put(self, message: str | bytes) -> bool:
        try:
            self._outbox.send_nowait(message)
        except trio.WouldBlock:
            self._screen.say("* not sent: the server does not take what was sent before")
            return False
        return True

    async def _ping(self, ws: WebSocket) -> None:
        try:
            seconds = await ws.ping()
        except ConnectionClosed:
            return
        except trio.TooSlowError:
            self._screen.say(f"* no pong within {self._settings.limits.ping_timeout:g} s")
        else:
            self._screen.say(f"* pong after {_milliseconds(seconds)}")

    async def _send_file(self, name: str) -> None:
        path = Path(name)
        shown = printable(name)
        limit = self._settings.limits.max_message_size
        try:
            data = await trio.to_thread.run_sync(_read_file, path, limit)
        except (OSError, ValueError, RuntimeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            self._screen.say(f"* {shown}: {why}")
            return
        if self._put(data):
            self._screen.say(f"* {shown}: {len(data)} bytes")

    def _close(self, ws: WebSocket, rest: str) -> None:
        code, _, reason = rest.partition(" ")
        if code and not code.isdecimal():
            self._screen.say("* a code is a number, such as 1000 or 3000 to 4999")
            return
        try:
            ws.close_nowait(int(code or CloseCode.NORMAL_CLOSURE), reason.strip())
        except ValueError as exc:
            self._screen.say(f"* {printable(str(exc))}")


def _shown(message: str | bytes) -> str:
    """Return what a terminal is shown of a message; only its line breaks are obeyed."""
    if isinstance(message, bytes):
        more = " …" if len(message) > _SHOWN_BYTES else ""
        return f"{len(message)} bytes: {message[:_SHOWN_BYTES].hex(' ')}{more}"
    more = f" … ({len(message)} characters)" if len(message) > _SHOWN else ""
    return "\n".join(printable(line) for line in message[:_SHOWN].split("\n")) + more


def _indented(text: str) -> str:
    """Mark the first line of a message, and set the others under it."""
    return "< " + text.replace("\n", "\n  ")


def _state(ws: WebSocket) -> str:
    response = ws.response
    extensions = response.headers.get("sec-websocket-extensions") if response is not None else None
    latency = "not measured; /ping does" if ws.latency is None else _milliseconds(ws.latency)
    return (
        f"* sent {ws.messages_sent} messages, {ws.bytes_sent} bytes; "
        f"received {ws.messages_received} messages, {ws.bytes_received} bytes\n"
        f"* subprotocol: {printable(ws.subprotocol or 'none')}; extensions: {printable(extensions or 'none')}\n"
        f"* latency: {latency}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _read_file(path: Path, limit: int) -> bytes:
    """Read a file that one message can hold.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, or too large.
        RuntimeError: `~` stands for nothing.
    """
    path = path.expanduser()
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes; --max-message-size allows more")
    return data


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, past the buffers of sys.stdout."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Let a terminal give each key as it is pressed, without showing it; leave it as it was found."""
    before: list[Any] = termios.tcgetattr(descriptor)
    raw: list[Any] = termios.tcgetattr(descriptor)
    raw[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON)
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    termios.tcsetattr(descriptor, termios.TCSANOW, raw)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
