"""A line that is being typed at a terminal: bytes of keys in, finished lines and what to draw out.

Facts: the terminal is in raw mode and speaks UTF-8 and the escape sequences that all of today's do. The line takes
one row however long it is; what does not fit scrolls sideways, so that it can be wiped with one sequence and drawn
again below whatever is printed meanwhile. Keys are those of Emacs and readline, and the arrows.

Nothing of it does I/O: it knows no terminal, no Trio and no WebSocket. `printable` is what every text of a peer goes
through on its way to a screen. Cost: a key is drawn with one write of the row.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, TypeAlias

from .logs import printable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WIPE", "Key", "LineEditor", "Typed"]

WIPE: Final = "\r\x1b[K"
"""Go to the beginning of the row and empty it (ECMA-48 EL)."""

_HISTORY: Final = 200
"""Lines that are kept to come back with the arrow up."""
_SEQUENCE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|[^\[O])")
"""A whole escape sequence of a key: CSI, SS3, or Alt and a character."""
_UNFINISHED: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")


class Key(Enum):
    """A key that is not for the line."""

    INTERRUPT = auto()
    """Ctrl-C."""
    END = auto()
    """Ctrl-D on an empty line."""


Typed: TypeAlias = str | Key
"""A finished line, or a key that is not for the line."""


class LineEditor:
    """One line after the other, typed behind a prompt.

    Args:
        prompt: printable characters of ASCII, each a column wide.
    """

    def __init__(self, prompt: str = "> ") -> None:
        self._prompt = prompt
        self._line: list[str] = []
        self._at = 0  # characters before the cursor
        self._history: list[str] = []
        self._place = 0  # in the history; behind its end is the line that is new
        self._put_aside = ""  # that line, while an older one is shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._pending = b""  # the beginning of an escape sequence

    @property
    def text(self) -> str:
        """What has been typed of the line."""
        return "".join(self._line)

    def feed(self, data: bytes) -> list[Typed]:
        """Take bytes from the keyboard, cut anywhere; return the lines that they finish, in order."""
        typed: list[Typed] = []
        data = self._pending + data
        at = 0
        while at < len(data):
            if data[at] == 0x1B:
                sequence = _SEQUENCE.match(data, at)
                if sequence is None:
                    if _UNFINISHED.match(data, at):
                        break
                    at += 1  # something that no key sends
                    continue
                self._edit(_SEQUENCES.get(sequence[0]))
                at = sequence.end()
                continue
            for char in self._decoder.decode(data[at : at + 1]):
                self._take(char, typed)
            at += 1
        self._pending = data[at:]
        return typed

    def _take(self, char: str, typed: list[Typed]) -> None:
        if char in "\r\n":
            typed.append(self._finish())
        elif char == "\x03":
            typed.append(Key.INTERRUPT)
        elif char == "\x04" and not self._line:
            typed.append(Key.END)
        elif char == "\t" or (char >= " " and char != "\x7f"):
            self._line.insert(self._at, char)
            self._at += 1
        else:
            self._edit(_CONTROLS.get(char))

    def _edit(self, action: Callable[[LineEditor], None] | None) -> None:
        if action is not None:
            action(self)

    def _finish(self) -> str:
        line = self.text
        if line and line not in self._history[-1:]:
            self._history = [*self._history[1 - _HISTORY :], line]
        self._place = len(self._history)
        self._put_aside = ""
        self._replace("")
        return line

    def _replace(self, text: str) -> None:
        self._line = list(text)
        self._at = len(self._line)

    # -- what keys do ----------------------------------------------------------------------------------------

    def _left(self) -> None:
        self._at = max(0, self._at - 1)

    def _right(self) -> None:
        self._at = min(len(self._line), self._at + 1)

    def _home(self) -> None:
        self._at = 0

    def _end(self) -> None:
        self._at = len(self._line)

    def _backspace(self) -> None:
        if self._at:
            self._at -= 1
            del self._line[self._at]

    def _delete(self) -> None:
        del self._line[self._at : self._at + 1]

    def _delete_to_home(self) -> None:
        del self._line[: self._at]
        self._at = 0

    def _delete_to_end(self) -> None:
        del self._line[self._at :]

    def _delete_word(self) -> None:
        before = "".join(self._line[: self._at]).rstrip()
        start = before.rfind(" ") + 1
        del self._line[start : self._at]
        self._at = start

    def _older(self) -> None:
        if self._place:
            if self._place == len(self._history):
                self._put_aside = self.text
            self._place -= 1
            self._replace(self._history[self._place])

    def _newer(self) -> None:
        if self._place < len(self._history):
            self._place += 1
            self._replace(self._history[self._place] if self._place < len(self._history) else self._put_aside)

    # -- drawing ---------------------------------------------------------------------------------------------

    def draw(self, columns: int) -> str:
        """Return what draws the row anew, from wherever in it the cursor is.

        Args:
            columns: how wide the terminal is.
        """
        cells = [printable(char) for char in self._line]
        widths = [_width(cell) for cell in cells]
        # The last column stays free: a cursor behind it would be on the next row.
        room = max(1, columns - len(self._prompt) - 1)
        first = 0
        before = sum(widths[: self._at])
        while before > room:
            before -= widths[first]
            first += 1
        last, used = first, 0
        while last < len(cells) and used + widths[last] <= room:
            used += widths[last]
            last += 1
        shown = "".join(cells[first:last])
        column = len(self._prompt) + before
        return f"{WIPE}{self._prompt}{shown}\r\x1b[{column}C"


def _width(cell: str) -> int:
    """Return the columns that something printable takes (UAX #11)."""
    return sum(0 if _is_mark(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in cell)


def _is_mark(char: str) -> bool:
    """Whether a character is drawn over the one before it."""
    return unicodedata.combining(char) != 0 or unicodedata.category(char) in ("Mn", "Me")


_CONTROLS: Final = {
    "\x01": LineEditor._home,
    "\x02": LineEditor._left,
    "\x04": LineEditor._delete,
    "\x05": LineEditor._end,
    "\x06": LineEditor._right,
    "\x08": LineEditor._backspace,
    "\x0b": LineEditor._delete_to_end,
    "\x0e": LineEditor._newer,
    "\x10": LineEditor._older,
    "\x15": LineEditor._delete_to_home,
    "\x17": LineEditor._delete_word,
    "\x7f": LineEditor._backspace,
}
_SEQUENCES: Final = {
    start + key: action
    for start in (b"\x1b[", b"\x1bO")
    for key, action in {
        b"A": LineEditor._older,
        b"B": LineEditor._newer,
        b"C": LineEditor._right,
        b"D": LineEditor._left,
        b"F": LineEditor._end,
        b"H": LineEditor._home,
        b"1~": LineEditor._home,
        b"3~": LineEditor._delete,
        b"4~": LineEditor._end,
        b"7~": LineEditor._home,
        b"8~": LineEditor._end,
    }.items()
}
