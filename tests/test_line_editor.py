"""The line being typed: what keys make of it, and where a terminal shows what."""

from __future__ import annotations

import pytest

from rawws.line_editor import Key, LineEditor, Typed

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END, DELETE = b"\x1b[H", b"\x1b[F", b"\x1b[3~"


def typed(*keys: bytes) -> str:
    """What the line is after keys, none of which finishes it."""
    editor = LineEditor()
    for key in keys:
        assert editor.feed(key) == []
    return editor.text


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "line"),
        [
            ([b"hello"], "hello"),
            (["grüße €\U0001f600".encode()], "grüße €\U0001f600"),
            ([b"a\tb"], "a\tb"),
            ([b"helo", LEFT, b"l"], "hello"),
            ([b"ello", HOME, b"h"], "hello"),
            ([b"ello", b"\x01", b"h", b"\x05", b"!"], "hello!"),
            ([b"ello", HOME, b"h", END, b"!"], "hello!"),
            ([b"\x1bOH\x1b[1~\x1b[7~b\x1bOF\x1b[4~\x1b[8~c", b"\x1b[Ha"], "abc"),
            ([b"ab", LEFT, LEFT, LEFT, RIGHT, b"x"], "axb"),
            ([b"ab", b"\x02\x02\x06", b"x", RIGHT, RIGHT, b"y"], "axby"),
            ([b"abc\x7f"], "ab"),
            ([b"abc\x08\x08"], "a"),
            ([b"\x7fa"], "a"),
            ([b"abc", HOME, DELETE], "bc"),
            ([b"abc", DELETE], "abc"),
            ([b"abc", HOME, b"\x04"], "bc"),
            ([b"abc", LEFT, b"\x15"], "c"),
            ([b"abc", LEFT, b"\x0b"], "ab"),
            ([b"one two  ", b"\x17"], "one "),
            ([b"one two", LEFT, b"\x17"], "one o"),
            ([b"one", b"\x17\x17"], ""),
            ([b"a\x0c\x1a\x00b"], "ab"),  # Ctrl-L, Ctrl-Z, Ctrl-Space: nothing
            ([b"a\x1b[5~\x1b[1;5C\x1bfb"], "ab"),  # Page up, Ctrl-right, Alt-f: nothing
            ([b"a\xffb\xc3"], "ab"),  # what is no UTF-8, and a character whose end is still to come
        ],
    )
    @pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
    def test_keys_edit_the_line(self, keys: list[bytes], line: str, bytewise: bool) -> None:
        data = b"".join(keys)
        assert typed(*([data[at : at + 1] for at in range(len(data))] if bytewise else [data])) == line

    def test_enter_finishes_a_line_and_pasted_lines_are_finished_one_by_one(self) -> None:
        editor = LineEditor()
        assert editor.feed(b"one\rtwo\nthr") == ["one", "two"]
        assert editor.text == "thr"
        assert editor.feed(b"ee\r\r") == ["three", ""]

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"\x03", [Key.INTERRUPT]),
            (b"\x04", [Key.END]),
            (b"abc\x03", [Key.INTERRUPT]),
            (b"a\x04\r\x04", ["a", Key.END]),
        ],
    )
    def test_ctrl_c_interrupts_and_ctrl_d_ends_an_empty_line(self, data: bytes, found: list[Typed]) -> None:
        assert LineEditor().feed(data) == found

    def test_an_escape_that_no_key_sends_is_dropped(self) -> None:
        editor = LineEditor()
        assert editor.feed(b"\x1b") == []
        assert editor.feed(b"[\x80x") == []
        assert editor.text == "[x"


class TestHistory:
    def test_the_arrows_go_through_it_and_come_back_to_the_line_that_was_begun(self) -> None:
        editor = LineEditor()
        editor.feed(b"one\rtwo\rth")
        seen = []
        for key in (UP, UP, UP, DOWN, DOWN, DOWN):
            editor.feed(key)
            seen.append(editor.text)
        assert seen == ["two", "one", "one", "two", "th", "th"]

    def test_ctrl_p_and_ctrl_n_do_the_same_and_what_comes_back_can_be_sent_again(self) -> None:
        editor = LineEditor()
        editor.feed(b"one\rtwo\r")
        assert editor.feed(b"\x10\x10\x0e!\r") == ["two!"]
        assert editor.feed(b"\x10\r") == ["two!"]

    def test_empty_and_repeated_lines_are_kept_once_or_not_at_all(self) -> None:
        editor = LineEditor()
        editor.feed(b"one\rone\r\r\r" + UP + UP)
        assert editor.text == "one"
        editor.feed(DOWN)
        assert editor.text == ""

    def test_it_has_a_bound(self) -> None:
        editor = LineEditor()
        for number in range(300):
            editor.feed(b"%d\r" % number)
        editor.feed(UP * 400)
        assert editor.text == "100"


class TestDrawing:
    @pytest.mark.parametrize(
        ("keys", "columns", "drawn"),
        [
            (b"", 10, "\r\x1b[K> \r\x1b[2C"),
            (b"abc", 10, "\r\x1b[K> abc\r\x1b[5C"),
            (b"abc" + LEFT, 10, "\r\x1b[K> abc\r\x1b[4C"),
            (b"abcdefghij", 10, "\r\x1b[K> defghij\r\x1b[9C"),  # one column is the cursor's
            (b"abcdefghij" + HOME, 10, "\r\x1b[K> abcdefg\r\x1b[2C"),
            ("日本語".encode(), 10, "\r\x1b[K> 日本語\r\x1b[8C"),  # two columns each
            ("日本語日".encode(), 10, "\r\x1b[K> 本語日\r\x1b[8C"),
            ("e\u0301x".encode(), 10, "\r\x1b[K> e\u0301x\r\x1b[4C"),  # an accent of its own takes none
            (
                "1\ufe0f\u20e3x".encode(),
                10,
                "\r\x1b[K> 1\ufe0f\u20e3x\r\x1b[4C",
            ),  # nor a selector, nor a keycap
            ("कुx".encode(), 10, "\r\x1b[K> कुx\r\x1b[4C"),  # nor a vowel below
            ("a\u202eb\t".encode(), 20, "\r\x1b[K> a\\u202eb\\t\r\x1b[12C"),
            (b"ab", 1, "\r\x1b[K> b\r\x1b[3C"),
        ],
    )
    def test_the_row_shows_the_part_around_the_cursor(self, keys: bytes, columns: int, drawn: str) -> None:
        editor = LineEditor()
        editor.feed(keys)
        assert editor.draw(columns) == drawn
