"""Header fields, requests, answers, and the checks that both sides of a connection share."""

from __future__ import annotations

import pytest

from rawws.errors import HandshakeError
from rawws.http import (
    Headers,
    Request,
    Response,
    check_fields,
    list_elements,
    parse_authority,
    reason_phrase,
    require_get,
    token_list,
)


@pytest.mark.parametrize("status", [99, 101, 199, 600])
def test_a_response_has_a_final_status(status: int) -> None:
    with pytest.raises(ValueError, match="final"):
        Response(status)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("X", "a\r\nb: c", id="30-crlf"),
        pytest.param("X", "a\nb", id="30-lf"),
        pytest.param("X", "a\n", id="30-lf-last"),
        pytest.param("X", "\x1b[2J", id="30-esc"),
        pytest.param("X", "a\x7f", id="30-del"),
        pytest.param("X", "é", id="30-beyond-ascii"),
        pytest.param("X", " a", id="30-space-first"),
        pytest.param("X", "a ", id="30-space-last"),
        pytest.param("X\r\nY", "a", id="30-crlf-in-a-name"),
        pytest.param("", "a", id="30-no-name"),
        pytest.param("X ", "a", id="30-space-in-a-name"),
        pytest.param("Content-length", "5", id="content-length-is-ours"),
        pytest.param("CONNECTION", "close", id="connection-is-ours"),
        pytest.param("Transfer-Encoding", "chunked", id="transfer-encoding-is-ours"),
        pytest.param("Date", "now", id="date-is-ours"),
    ],
)
def test_a_response_with_an_illegal_field_is_a_value_error(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header field"):
        Response(200, ((name, value),))


def test_legal_fields_pass() -> None:
    check_fields([("X", ""), ("!#$%&'*+-.^_`|~0a", "a\tb c"), ("X", "!")], owned=frozenset())


def test_every_status_has_a_constant_reason() -> None:
    assert reason_phrase(413) == b"Content Too Large"
    assert reason_phrase(414) == b"URI Too Long"
    assert reason_phrase(431) == b"Request Header Fields Too Large"
    assert reason_phrase(299) == b"Success"
    assert reason_phrase(499) == b"Client Error"
    assert all(reason_phrase(status) for status in range(200, 600))


def test_headers_are_a_multi_map_without_case() -> None:
    headers = Headers([("Host", "a"), ("X-A", "1"), ("x-a", "2"), ("X-a", "\xe9")])
    assert headers["HOST"] == headers.get("host") == "a"
    assert headers["x-A"] == "1, 2, \xe9"
    assert headers.get_all("X-A") == ("1", "2", "\xe9")
    assert headers.get_all("y") == ()
    assert headers.get("y") is None
    assert headers.get("y", "z") == "z"
    assert list(headers) == ["host", "x-a"]
    assert len(headers) == 2
    assert dict(headers.items()) == {"host": "a", "x-a": "1, 2, \xe9"}
    assert headers.raw[1:3] == (("X-A", "1"), ("x-a", "2"))
    assert "X-A" in headers
    assert "y" not in headers
    assert not headers.__contains__(1)
    with pytest.raises(KeyError):
        headers["y"]
    assert repr(Headers([("A", "b")])) == "Headers([('A', 'b')])"
    assert Headers([("A", "b")]) == Headers([("a", "b")]) != Headers()
    assert not hasattr(headers, "__dict__")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_only_read_takes_get_and_head(method: str) -> None:
    require_get(Request(method, "/", "/", "", Headers()))


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PATCH"])
def test_what_is_only_read_refuses_other_methods_with_405(method: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        require_get(Request(method, "/", "/", "", Headers()))
    assert (caught.value.status, caught.value.headers) == (405, (("Allow", "GET, HEAD"),))


def test_lists_forgive_empty_elements() -> None:
    assert list_elements("A,\t b ,,") == ["a", "b"]
    assert token_list("A,\t b ,,") == ("A", "b")
    assert token_list("") == ()


@pytest.mark.parametrize(
    ("authority", "parts"),
    [
        ("Example.COM", ("example.com", None)),
        ("a:", ("a", None)),
        ("a:0", ("a", 0)),
        ("a:65535", ("a", 65535)),
        ("[::FFFF:1.2.3.4]:1", ("[::ffff:1.2.3.4]", 1)),
        ("[1.2.3.4]", None),
        ("a\n", None),
        ("a:٣", None),
        ("", None),
    ],
)
def test_an_authority_is_a_host_and_perhaps_a_port(authority: str, parts: tuple[str, int | None] | None) -> None:
    assert parse_authority(authority) == parts
