"""The chat's messages, by literal JSON in both directions."""

from __future__ import annotations

import json
import unicodedata
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.chat_protocol import (
    MAX_MESSAGE,
    ChatError,
    Hello,
    History,
    Join,
    Leave,
    Said,
    Typing,
    before_number,
    encode_body,
    encode_confirmed,
    encode_error,
    encode_event,
    encode_gap,
    encode_history,
    encode_members,
    encode_welcome,
    is_event,
    name_key,
    parse,
)

SESSION: Final = "0123456789abcdef"


def refused(frame: str | bytes) -> ChatError:
    with pytest.raises(ChatError) as caught:
        parse(frame)
    return caught.value


def said(text: str) -> str:
    message = parse(json.dumps({"type": "message", "room": "tea", "text": text}))
    assert isinstance(message, Said)
    return message.text


def name(name: str) -> str:
    message = parse(json.dumps({"type": "hello", "name": name, "rooms": []}))
    assert isinstance(message, Hello)
    return message.name


class TestWhatIsRight:
    def test_a_hello_has_a_name_and_rooms(self) -> None:
        frame = '{"type":"hello","name":"Ada","rooms":[{"room":"tea"},{"room":"café 7","last":1763886000000123}]}'
        assert parse(frame) == Hello("Ada", (Join("tea"), Join("café 7", 1763886000000123)))

    def test_a_hello_may_name_its_session(self) -> None:
        frame = f'{{"type":"hello","name":"Ada","session":"{SESSION}","rooms":[]}}'
        assert parse(frame) == Hello("Ada", (), SESSION)

    def test_a_hello_of_128_rooms_in_escapes_fits(self) -> None:
        rooms = [{"room": f"{number:04}" + "\N{GRINNING FACE}" * 28, "last": 2**53 - 1} for number in range(128)]
        frame = json.dumps({"type": "hello", "name": "Ada", "rooms": rooms})
        assert len(frame) < MAX_MESSAGE
        message = parse(frame)
        assert isinstance(message, Hello)
        assert len(message.rooms) == 128

    def test_each_other_type_has_its_fields(self) -> None:
        assert parse('{"type":"join","room":"tea"}') == Join("tea")
        assert parse('{"type":"join","room":"tea","last":0}') == Join("tea", 0)
        assert parse('{"type":"leave","room":"tea"}') == Leave("tea")
        assert parse('{"type":"typing","room":"tea"}') == Typing("tea")
        assert parse('{"type":"message","room":"tea","text":"hi"}') == Said("tea", "hi")
        assert parse('{"type":"message","room":"tea","text":"hi","client":"a1-1"}') == Said("tea", "hi", "a1-1")
        assert parse('{"type":"history","room":"tea","before":12}') == History("tea", 12, 50)
        assert parse('{"type":"history","room":"tea","before":12,"limit":1}') == History("tea", 12, 1)

    def test_unknown_fields_are_ignored_and_null_is_as_if_it_were_not_there(self) -> None:
        assert parse('{"type":"join","room":"tea","last":null,"colour":"\\ud800"}') == Join("tea")

    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "שלום عليكم",
            "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} \N{GRINNING FACE}",
            "<script>alert(1)</script>",
            "x" * 4096,
            "\N{GRINNING FACE}" * 1024,  # 4 bytes each
            "two\nlines\tand a tab",
            "line\u2028separator",
            "\u202eabc",
            " around ",
        ],
    )
    def test_a_text_is_any_unicode(self, text: str) -> None:
        assert said(text) == text

    @pytest.mark.parametrize("text", ["\u200ba", "\N{WHITE SMILING FACE}\ufe0f", "\u0301", "\ue000", "\u2800."])
    def test_what_is_not_seen_may_stand_beside_what_is(self, text: str) -> None:
        assert said(text) == text

    def test_control_characters_are_taken_out_of_a_text(self) -> None:
        assert said("a\x00b\x1b[31m\x7f\x85\x9bc") == "ab[31mc"

    def test_every_end_of_a_line_in_a_text_is_a_line_feed(self) -> None:
        assert said("a\r\nb\rc\nd") == "a\nb\nc\nd"

    @pytest.mark.parametrize(
        ("given_name", "cleaned"),
        [
            ("Ada", "Ada"),
            ("  Ada \t\n Lovelace ", "Ada Lovelace"),
            ("A\x00d\x1ba\x7f", "Ada"),
            ("\u202eevil\u202c", "evil"),
            ("\u200bAda\ufeff", "Ada"),
            ("a \u200e b", "a b"),
            ("Ange\u0301lique", "Ang\u00e9lique"),
            ("\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}"),
            ("<script>", "<script>"),
            ("x" * 32, "x" * 32),
            ("x" * 32 + " " * 90, "x" * 32),
        ],
    )
    def test_a_name_is_one_clean_line(self, given_name: str, cleaned: str) -> None:
        assert name(given_name) == cleaned

    @pytest.mark.parametrize(
        "room",
        [
            "\u062e\u0627\u0646\u0647\u200c\u0647\u0627",
            "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}",
            "\u0915\u094d\u200d\u0937",
            "\u2764\ufe0f\u200d\U0001f525",
        ],
    )
    def test_a_room_is_spelt_as_its_script_is(self, room: str) -> None:
        assert parse(json.dumps({"type": "join", "room": room})) == Join(room)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        "frame",
        [
            b'{"type":"typing","room":"tea"}',
            "",
            "hello",
            "[]",
            '"typing"',
            "null",
            "17",
            '{"type":"typing","room":"tea"',
            '{"type":"typing","room":"tea"} ,',
            '{"type":"typing","type":"leave","room":"tea"}',
            '{"type":"typing","room":"tea","x":{"a":1,"a":1}}',
            '{"type":"history","room":"tea","before":NaN}',
            '{"type":"history","room":"tea","before":Infinity}',
            '{"type":"history","room":"tea","before":-Infinity}',
            '{"type":"history","room":"tea","before":' + "9" * 5000 + "}",
            '{"type":"typing","room":"tea\n"}',
            '{"x":' * 10_000,
            "[" * 60_000,
            '{"type":"typing","room":' + "[" * 20_000 + "]" * 20_000 + "}",
        ],
    )
    def test_what_is_not_json_is_an_error_of_the_whole(self, frame: str | bytes) -> None:
        error = refused(frame)
        assert (error.field, error.code) == ("json", "bad_json")

    def test_more_characters_than_a_message_may_have_are_not_even_read(self) -> None:
        error = refused("[" * (MAX_MESSAGE + 1))
        assert (error.field, error.code) == ("json", "too_long")

    @pytest.mark.parametrize("kind", ["", "Message", "welcome", "\\ud800", "__class__"])
    def test_an_unknown_type_is_an_error(self, kind: str) -> None:
        error = refused(f'{{"type":"{kind}"}}')
        assert (error.field, error.code) == ("type", "unknown_type")

    @pytest.mark.parametrize(
        ("frame", "field", "code"),
        [
            ("{}", "type", "missing"),
            ('{"type":7}', "type", "wrong_type"),
            ('{"type":"hello","rooms":[]}', "name", "missing"),
            ('{"type":"hello","name":["Ada"],"rooms":[]}', "name", "wrong_type"),
            ('{"type":"hello","name":"","rooms":[]}', "name", "empty"),
            ('{"type":"hello","name":" \\u0000\\u200b\\u0301 ","rooms":[]}', "name", "empty"),
            ('{"type":"hello","name":"' + "x" * 33 + '","rooms":[]}', "name", "too_long"),
            ('{"type":"hello","name":"' + "x" * 60_000 + '","rooms":[]}', "name", "too_long"),
            ('{"type":"hello","name":"\\ud800","rooms":[]}', "name", "invalid"),
            ('{"type":"hello","name":"Ada"}', "rooms", "missing"),
            ('{"type":"hello","name":"Ada","rooms":"tea"}', "rooms", "wrong_type"),
            ('{"type":"hello","name":"Ada","rooms":["tea"]}', "rooms[0]", "wrong_type"),
            ('{"type":"hello","name":"Ada","rooms":[{"room":"a"},{}]}', "rooms[1].room", "missing"),
            ('{"type":"hello","name":"Ada","rooms":[{"room":"a"},{"room":"a"}]}', "rooms[1].room", "invalid"),
            ('{"type":"hello","name":"Ada","rooms":[{"room":"a","last":"1"}]}', "rooms[0].last", "wrong_type"),
            ('{"type":"hello","name":"Ada","rooms":[' + ",".join(['{"room":"a"}'] * 129) + "]}", "rooms", "too_long"),
            ('{"type":"hello","name":"Ada","rooms":[],"session":"short"}', "session", "invalid"),
            ('{"type":"hello","name":"Ada","rooms":[],"session":"0123456789abcde!"}', "session", "invalid"),
            ('{"type":"hello","name":"Ada","rooms":[],"session":"' + "x" * 65 + '"}', "session", "too_long"),
            ('{"type":"hello","name":"Ada","rooms":[],"session":5}', "session", "wrong_type"),
            ('{"type":"join"}', "room", "missing"),
            ('{"type":"join","room":{}}', "room", "wrong_type"),
            ('{"type":"join","room":""}', "room", "empty"),
            ('{"type":"join","room":"\\u200d"}', "room", "empty"),
            ('{"type":"join","room":"' + "x" * 33 + '"}', "room", "too_long"),
            ('{"type":"join","room":" tea"}', "room", "invalid"),
            ('{"type":"join","room":"te  a"}', "room", "invalid"),
            ('{"type":"join","room":"te\\na"}', "room", "invalid"),
            ('{"type":"join","room":"te\\u0000a"}', "room", "invalid"),
            ('{"type":"join","room":"\\u202etea"}', "room", "invalid"),
            ('{"type":"join","room":"cafe\\u0301"}', "room", "invalid"),
            ('{"type":"join","room":"\\udfff"}', "room", "invalid"),
            ('{"type":"join","room":"tea","last":-1}', "last", "invalid"),
            ('{"type":"join","room":"tea","last":9007199254740992}', "last", "invalid"),
            ('{"type":"join","room":"tea","last":1.0}', "last", "wrong_type"),
            ('{"type":"join","room":"tea","last":1e999}', "last", "wrong_type"),
            ('{"type":"join","room":"tea","last":true}', "last", "wrong_type"),
            ('{"type":"message","room":"tea"}', "text", "missing"),
            ('{"type":"message","room":"tea","text":7}', "text", "wrong_type"),
            ('{"type":"message","room":"tea","text":""}', "text", "empty"),
            ('{"type":"message","room":"tea","text":" \\n\\t\\u00a0 "}', "text", "empty"),
            ('{"type":"message","room":"tea","text":"\\u0000\\u001b\\r"}', "text", "empty"),
            ('{"type":"message","room":"tea","text":"\\u200b"}', "text", "empty"),
            ('{"type":"message","room":"tea","text":" \\ufeff\\u200d\\n\\u2800\\ufe0f"}', "text", "empty"),
            ('{"type":"message","room":"tea","text":"\\u3164\\u115f\\u1160\\uffa0\\u00ad"}', "text", "empty"),
            ('{"type":"hello","name":"\\u3164","rooms":[]}', "name", "empty"),
            ('{"type":"hello","name":"\\u115f\\u1160\\uffa0 \\u2800","rooms":[]}', "name", "empty"),
            ('{"type":"hello","name":"\\u200c\\u200d\\ufe0f","rooms":[]}', "name", "empty"),
            ('{"type":"join","room":"\\u2800"}', "room", "empty"),
            ('{"type":"join","room":"a\\u200db"}', "room", "invalid"),
            ('{"type":"join","room":"\\u200dtea"}', "room", "invalid"),
            ('{"type":"join","room":"\\u0645\\u200c"}', "room", "invalid"),
            ('{"type":"join","room":"\\u0645\\u200c\\u200d\\u0645"}', "room", "invalid"),
            ('{"type":"join","room":"\\u0645\\u200ca"}', "room", "invalid"),
            ('{"type":"message","room":"tea","text":"' + "x" * 4097 + '"}', "text", "too_long"),
            ('{"type":"message","room":"tea","text":"' + "é" * 2049 + '"}', "text", "too_long"),
            ('{"type":"message","room":"tea","text":"a\\ud800b"}', "text", "invalid"),
            ('{"type":"message","room":"tea","text":"\\ude00\\ud83d"}', "text", "invalid"),
            ('{"type":"message","room":"tea","text":"a","client":""}', "client", "invalid"),
            ('{"type":"message","room":"tea","text":"a","client":"a b"}', "client", "invalid"),
            ('{"type":"message","room":"tea","text":"a","client":"' + "x" * 41 + '"}', "client", "too_long"),
            ('{"type":"message","room":"tea","text":"a","client":1}', "client", "wrong_type"),
            ('{"type":"history","room":"tea"}', "before", "missing"),
            ('{"type":"history","room":"tea","before":"9"}', "before", "wrong_type"),
            ('{"type":"history","room":"tea","before":9,"limit":0}', "limit", "invalid"),
            ('{"type":"history","room":"tea","before":9,"limit":51}', "limit", "invalid"),
        ],
    )
    def test_the_error_names_the_field(self, frame: str, field: str, code: str) -> None:
        error = refused(frame)
        assert (error.field, error.code) == (field, code)
        assert str(error).startswith(f"{field}: ")

    def test_the_error_tells_which_message_it_is_about_where_that_can_be_told(self) -> None:
        error = refused('{"type":"message","room":"tea","text":"","client":"a1"}')
        assert (error.room, error.client) == ("tea", "a1")
        error = refused('{"type":"message","room":"\\ud800","text":"hi","client":"a1"}')
        assert (error.room, error.client) == (None, "a1")

    @given(st.text() | st.binary())
    def test_no_bytes_make_it_raise_anything_else(self, frame: str | bytes) -> None:
        try:
            parse(frame)
        except ChatError as exc:
            encode_error(exc).encode()

    @given(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["hello", "join", "leave", "message", "typing", "history"])},
            optional={
                key: st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["room", "last"]), inner),
                    max_leaves=5,
                )
                for key in ["name", "session", "rooms", "room", "last", "text", "client", "before", "limit"]
            },
        )
    )
    def test_no_fields_make_it_raise_anything_else(self, fields: dict[str, object]) -> None:
        try:
            message = parse(json.dumps(fields))
        except ChatError as exc:
            encode_error(exc).encode()
        else:
            assert repr(message)

    @given(st.text(st.characters(codec=None)))
    def test_no_control_character_and_no_surrogate_gets_through(self, text: str) -> None:
        for read in (said, name):
            try:
                passed = read(text)
            except ChatError:
                continue
            assert not {c for c in passed if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
            encode_event("tea", "message", 1, 2, passed, encode_body(passed, "me", None)).encode()

    @given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)), st.none() | st.text())
    def test_what_is_kept_of_a_message_is_an_event(self, wanted: str, text: str, client: str | None) -> None:
        try:
            kept, called = said(text), name(wanted)
        except ChatError:
            return
        assert is_event("message", called, encode_body(kept, "0123456789abcdef", "a-1"))
        assert is_event("joined", called, "")
        body = encode_body(text, "0123456789abcdef", client)
        if is_event("message", wanted, body):
            sent = json.loads(encode_event("tea", "message", 1, 2, wanted, body).encode())
            assert (sent["name"], sent["text"]) == (wanted, text)
            assert not {c for c in wanted + text if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}


class TestWhatOthersMayHaveWritten:
    BODY: Final = '{"by":"9d3e","client":"a1","text":"h\\"i\\n\\t \N{GRINNING FACE}"}'

    def test_what_the_server_wrote_is_an_event(self) -> None:
        assert is_event("message", "Ada 2", self.BODY)
        assert is_event("message", "Ada", '{"by":"0123456789abcdef","text":"' + "é" * 2048 + '"}')
        assert is_event("joined", "x" * 32, "")
        assert is_event("typing", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "")

    @pytest.mark.parametrize("kind", ["message", "joined"])
    @pytest.mark.parametrize("name", ["", "x" * 33, "A\x00da", "A\nda", "Ada\x9b31m", "Ada\ud800"])
    def test_a_name_that_no_person_has_makes_it_none(self, kind: str, name: str) -> None:
        assert not is_event(kind, name, self.BODY if kind == "message" else "")

    def test_only_a_message_has_a_body(self) -> None:
        assert not is_event("typing", "Ada", self.BODY)
        assert not is_event("left", "Ada", " ")

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{}",
            "[]",
            "7",
            '{"by":',
            '{"by":"9d3e","text":"hi"} ',
            '{"by": "9d3e","text":"hi"}',
            '{"text":"hi","by":"9d3e"}',
            '{"by":"9d3e","text":"h\\u0069"}',
            '{"by":"9d3e"}',
            '{"text":"hi"}',
            '{"by":"9d3e","text":5}',
            '{"by":"9d3e","text":null}',
            '{"by":"9d3e","text":["hi"]}',
            '{"by":"9d3e","text":""}',
            '{"by":"9d3e","text":"a\x00b"}',
            '{"by":"9d3e","text":"a\\u0000b"}',
            '{"by":"9d3e","text":"a\\u001b[31mb"}',
            '{"by":"9d3e","text":"a\\rb"}',
            '{"by":"9d3e","text":"a\x85b"}',
            '{"by":"9d3e","text":"a\\ud800b"}',
            '{"by":"9d3e","text":"' + "x" * 4097 + '"}',
            '{"by":"9d3e","text":"' + "é" * 2049 + '"}',
            '{"by":5,"text":"hi"}',
            '{"by":"","text":"hi"}',
            '{"by":"Eve!","text":"hi"}',
            '{"by":"0123456789abcdef0","text":"hi"}',
            '{"by":"9d3e","client":null,"text":"hi"}',
            '{"by":"9d3e","client":7,"text":"hi"}',
            '{"by":"9d3e","client":"","text":"hi"}',
            '{"by":"9d3e","client":"a b","text":"hi"}',
            '{"by":"9d3e","client":"' + "x" * 41 + '","text":"hi"}',
            '{"by":"9d3e","text":"hi","type":"welcome","room":"other"}',
            '{"by":"9d3e","text":"hi","text":"ho"}',
            '{"x":' * 10_000,
            "[" * 60_000,
            '{"by":' + "9" * 5000 + ',"text":"hi"}',
            '{"by":NaN,"text":"hi"}',
        ],
    )
    def test_what_it_did_not_write_is_none(self, body: str) -> None:
        assert not is_event("message", "Ada", body)


class TestNamesThatAreTaken:
    @pytest.mark.parametrize(
        "other",
        [
            "ADA",
            "\uff21\uff44\uff41",
            "A\u200dda",
            "A\u200cda",
            "Ada\ufe0f",
            "Ada\u034f",
            "\u3164Ada",
            "Ada\u2800",
            "\u00adada",
        ],
    )
    def test_names_that_look_alike_have_one_key(self, other: str) -> None:
        assert name_key(other) == name_key("Ada")

    def test_names_that_do_not_have_not(self) -> None:
        names = ["Ada", "\u00c1da", "Ada 2", "Adam", "A da", "\N{WHITE SMILING FACE}"]
        assert len({name_key(name) for name in names}) == len(names)
        assert name_key("A\u2800da") == name_key("A da")
        assert name_key("e\u034f\u0301") == name_key("\u00e9")

    @pytest.mark.parametrize(
        ("name", "digits", "before"),
        [
            ("Ada", 1, "Ada "),
            ("x" * 30, 1, "x" * 30 + " "),
            ("x" * 31, 1, "x" * 30 + " "),
            ("x" * 32, 2, "x" * 29 + " "),
            ("x" * 29 + " yz", 1, "x" * 29 + " "),
            ("x" * 29 + "e\u0323\u0301", 1, "x" * 29 + " "),
            ("x" * 28 + "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}y", 1, "x" * 28 + " "),
            ("x" * 29 + "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", 1, "x" * 29 + " "),
            ("x" * 29 + "\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}y", 1, "x" * 29 + " "),
            ("a" + "\u0301" * 31, 1, "a" + "\u0301" * 29 + " "),
            ("\u0301" * 32, 1, "\u0301" * 30 + " "),
        ],
    )
    def test_a_name_is_cut_to_leave_room_for_its_number(self, name: str, digits: int, before: str) -> None:
        assert before_number(name, digits)[0] == before

    @given(st.text(max_size=40), st.integers(2, 99_999))
    def test_a_number_behind_a_name_stands_behind_its_key_too(self, wanted: str, number: int) -> None:
        before, key_before = before_number(wanted, len(str(number)))
        assert len(f"{before}{number}") <= 32
        assert name_key(f"{before}{number}") == f"{key_before}{number}"


class TestWhatTheServerSays:
    def test_a_message(self) -> None:
        assert (
            encode_event("tea", "message", 7, 1763886000456, 'A"da', encode_body('h"i\n', "9d3e", "a1"))
            == '{"type":"message","room":"tea","id":7,"time":1763886000456,"name":"A\\"da",'
            '"by":"9d3e","client":"a1","text":"h\\"i\\n"}'
        )

    def test_a_message_without_a_client_id(self) -> None:
        assert (
            encode_event("tea", "message", 7, 8, "Ada", encode_body("hi", "9d3e", None))
            == '{"type":"message","room":"tea","id":7,"time":8,"name":"Ada","by":"9d3e","text":"hi"}'
        )

    def test_text_that_is_not_ascii_is_not_escaped(self) -> None:
        assert '"text":"é\N{GRINNING FACE}"' in encode_body("é\N{GRINNING FACE}", "9d3e", None)

    def test_presence_and_typing(self) -> None:
        assert (
            encode_event("tea", "joined", 7, 8, "Ada", "")
            == '{"type":"presence","event":"joined","room":"tea","id":7,"time":8,"name":"Ada"}'
        )
        assert (
            encode_event("tea", "typing", 7, 8, "Ada", "")
            == '{"type":"typing","room":"tea","id":7,"time":8,"name":"Ada"}'
        )

    def test_members(self) -> None:
        assert (
            encode_members("tea", 7, 8, "Ada 2", "Ada", ["Ada", "Ada 2"], 2)
            == '{"type":"presence","event":"members","room":"tea","id":7,"time":8,"name":"Ada 2","wanted":"Ada",'
            '"members":["Ada","Ada 2"],"count":2}'
        )
        assert "wanted" not in encode_members("tea", 7, 8, "Ada", "Ada", ["Ada"], 1)

    def test_history_holds_whole_messages(self) -> None:
        message = encode_event("tea", "message", 7, 8, "Ada", encode_body("hi", "9d3e", None))
        assert (
            encode_history("tea", "recent", [message, message], more=True)
            == f'{{"type":"history","room":"tea","kind":"recent","more":true,"messages":[{message},{message}]}}'
        )
        assert json.loads(encode_history("tea", "missed", [], more=False))["messages"] == []

    def test_the_rest(self) -> None:
        assert encode_gap("tea", 7) == '{"type":"gap","room":"tea","last":7}'
        assert encode_confirmed("tea", "a1", 7, 8) == '{"type":"confirmed","room":"tea","client":"a1","id":7,"time":8}'
        assert (
            encode_welcome(SESSION, "9d3e", 8)
            == '{"type":"welcome","version":1,"session":"0123456789abcdef","by":"9d3e","time":8}'
        )
        assert (
            encode_error(ChatError("text", "empty", "A text is not empty.", room="tea", client="a1"))
            == '{"type":"error","field":"text","code":"empty","message":"A text is not empty.",'
            '"room":"tea","client":"a1"}'
        )
        assert (
            encode_error(ChatError("json", "bad_json", "This is not JSON."))
            == '{"type":"error","field":"json","code":"bad_json","message":"This is not JSON."}'
        )
