"""WebSocket URIs: what is dialled, what is asked for, where a redirect leads (RFC 6455 §3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.uri import Uri, parse_uri


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("ws://localhost", Uri(False, "localhost", 80, "/")),
        ("wss://localhost", Uri(True, "localhost", 443, "/")),
        ("http://localhost", Uri(False, "localhost", 80, "/")),
        ("https://localhost", Uri(True, "localhost", 443, "/")),
        ("WS://EXAMPLE.com:8080/Chat?a=1&b", Uri(False, "example.com", 8080, "/Chat?a=1&b")),
        ("ws://localhost?query", Uri(False, "localhost", 80, "/?query")),
        ("ws://127.0.0.1:80/", Uri(False, "127.0.0.1", 80, "/")),
        ("ws://[::1]:99/x", Uri(False, "::1", 99, "/x")),
        ("ws://bücher.de/straße?größe=ö", Uri(False, "xn--bcher-kva.de", 80, "/stra%C3%9Fe?gr%C3%B6%C3%9Fe=%C3%B6")),
        ('ws://a/%20%C3%BC"<>', Uri(False, "a", 80, "/%20%C3%BC%22%3C%3E")),
        ("ws://user@a/", Uri(False, "a", 80, "/", ("user", ""))),
        ("ws://us%20er:p%3Aw%40:d@a/", Uri(False, "a", 80, "/", ("us er", "p:w@:d"))),
        ("ws://@a/", Uri(False, "a", 80, "/", ("", ""))),
        ("ws://a.b.:81/", Uri(False, "a.b.", 81, "/")),  # the one trailing dot that names have
        (f"ws://{'a' * 63}.b/", Uri(False, f"{'a' * 63}.b", 80, "/")),
        (f"ws://{'a.' * 126}a./", Uri(False, f"{'a.' * 126}a.", 80, "/")),  # 253 bytes and the dot
        (
            "ws://[2001:db8:1111:2222:3333:4444:5555:6666]/",
            Uri(False, "2001:db8:1111:2222:3333:4444:5555:6666", 80, "/"),
        ),
    ],
)
def test_an_address_says_what_to_dial_and_what_to_ask_for(address: str, uri: Uri) -> None:
    assert parse_uri(address) == uri


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:8000",
        "ftp://localhost/",
        "mailto:me@localhost",
        "ws:",
        "ws://",
        "ws:///path",
        "ws://:80/",
        "ws://a:65536/",
        "ws://a:0/",
        "ws://a:b/",
        "ws://[::1/",
        "ws://[localhost]/",
        "ws://a/#fragment",
        "ws://a/#",
        "ws://a /",
        " ws://a/",
        "ws://a/b c",
        "ws://a/\n",
        "ws://a\\b/",
        "ws://a/\x80",
        "ws://a/%",
        "ws://a/%4x",
        "ws://us%3Aer:secret@a/",  # a colon in the user, which Basic authentication cannot say
        "ws://us%ffer:secret@a/",
        "ws://a..ü/",
        "ws://a..b/",
        "ws://.a/",
        "ws://a../",
        "ws://./",
        f"ws://{'a' * 64}.b/",
        f"ws://{'a.' * 127}a/",  # 255 bytes
        f"ws://{'ü' * 63}/",  # longer in ASCII
        "ws://secret@℀.com/",
        "ws://xn--a-ü.com:80/",
    ],
)
def test_what_is_no_address_is_a_value_error_that_does_not_quote_it(address: str) -> None:
    with pytest.raises(ValueError, match="address") as caught:
        parse_uri(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        ("ws://a", "a"),
        ("ws://a:80", "a"),
        ("ws://a:443", "a:443"),
        ("wss://a:443", "a"),
        ("wss://a:80", "a:80"),
        ("ws://[::1]:80", "[::1]"),
        ("ws://user:password@[::1]:81", "[::1]:81"),
    ],
)
def test_the_host_field_has_the_port_unless_it_is_the_schemes(address: str, authority: str) -> None:
    assert parse_uri(address).authority == authority


def test_it_is_shown_without_its_password() -> None:
    uri = parse_uri("wss://user:secret@a:99/b?c")
    assert str(uri) == "wss://a:99/b?c"
    assert "secret" not in repr(uri)


class TestRedirects:
    @pytest.mark.parametrize(
        ("location", "where"),
        [
            ("c", "wss://a/b/c"),
            ("../c", "wss://a/c"),
            ("?d", "wss://a/b/?d"),
            ("/c?d#fragment", "wss://a/c?d"),
            ("//other/c", "wss://other/c"),
            ("https://a:444/c", "wss://a:444/c"),
            ("wss://A:443/c", "wss://a/c"),
        ],
    )
    def test_a_location_is_relative_to_where_it_came_from(self, location: str, where: str) -> None:
        assert str(parse_uri("wss://a/b/").redirected(location)) == where

    @pytest.mark.parametrize("location", ["ws://a/", "http://a/", "HTTP://b/"])
    def test_tls_is_not_left(self, location: str) -> None:
        with pytest.raises(ValueError, match="plain text"):
            parse_uri("wss://a/").redirected(location)

    @pytest.mark.parametrize(
        "location", ["mailto:a", "http://[::1", "\thttp://b/", "/b c", "http:// b/", "//a:b/", "//a..b/"]
    )
    def test_what_is_no_address_is_not_followed(self, location: str) -> None:
        with pytest.raises(ValueError, match="address"):
            parse_uri("ws://a/").redirected(location)

    @pytest.mark.parametrize("location", ["/c", "ws://a:80/", "http://A", "ws://other:one@a/"])
    def test_credentials_stay_with_their_origin(self, location: str) -> None:
        assert parse_uri("ws://user:secret@a/").redirected(location).credentials == ("user", "secret")

    @pytest.mark.parametrize("location", ["//b/", "wss://a/", "ws://a:81/", "ws://user:secret@b/", "ws://a.b/"])
    def test_credentials_never_go_to_another_origin(self, location: str) -> None:
        assert parse_uri("ws://user:secret@a/").redirected(location).credentials is None

    def test_credentials_that_were_left_behind_do_not_come_back(self) -> None:
        assert parse_uri("ws://user:secret@a/").redirected("//b/").redirected("//a/").credentials is None


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(rest: str) -> None:
    for address in (rest, f"ws://{rest}", f"ws://a/{rest}"):
        try:
            uri = parse_uri(address)
        except ValueError:
            continue
        # What goes on the wire is printable ASCII, and means the same when it is read again.
        assert (uri.authority + uri.target).isascii()
        assert (uri.authority + uri.target).isprintable()
        assert " " not in uri.authority + uri.target
        assert parse_uri(str(uri)).target == uri.target
