"""The client's opening handshake: what is asked, what a 101 must say, where a redirect leads (RFC 6455 §4.1)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from rawws import __version__
from rawws.client_handshake import MAX_REDIRECTS, Opening, Wishes
from rawws.deflate import DeflateOptions, DeflateParameters
from rawws.errors import HandshakeFailed, HandshakeRejected
from rawws.http import Headers
from rawws.http_client import Answer
from rawws.uri import parse_uri

# The example of RFC 6455 §1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def opening(address: str = "ws://server.example.com/chat", **wishes: Any) -> Opening:
    return Opening(parse_uri(address), Wishes(**wishes), key=KEY)


def answer(*fields: tuple[str, str], without: str = "") -> Answer:
    """A 101 to the example, with more fields, or without one of its own."""
    own = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)]
    return Answer(101, Headers([*(field for field in own if field[0] != without), *fields]))


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status, Headers([("Location", location)]), b"elsewhere")


def failure(given: Answer, **wishes: Any) -> str:
    with pytest.raises(HandshakeFailed) as caught:
        opening(**wishes).agree(given)
    assert type(caught.value) is HandshakeFailed
    return str(caught.value)


class TestRequest:
    def test_it_has_what_the_rfc_asks_for_in_its_order(self) -> None:
        assert opening().request.headers.raw == (
            ("Host", "server.example.com"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Version", "13"),
            ("User-Agent", f"rawws/{__version__}"),
        )

    def test_it_says_what_is_wished_for(self) -> None:
        request = opening(
            "wss://user:pass@a:99/x%20y?z",
            headers=(("X-One", "1"), ("User-Agent", "mine")),
            subprotocols=("chat", "superchat"),
            origin="https://example.com",
            compression=DeflateOptions(),
        ).request
        assert (request.method, request.target, request.path, request.query) == ("GET", "/x%20y?z", "/x y", "z")
        assert (request.secure, request.origin, request.subprotocols) == (
            True,
            "https://example.com",
            ("chat", "superchat"),
        )
        assert request.headers["host"] == "a:99"
        assert request.headers["authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()
        assert request.headers["sec-websocket-extensions"] == (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
        )
        assert request.headers["user-agent"] == "mine"
        assert request.headers["x-one"] == "1"

    def test_an_authorization_of_the_application_wins_over_the_address(self) -> None:
        request = opening("ws://user:pass@a/", headers=(("authorization", "Bearer x"),)).request
        assert request.headers["authorization"] == "Bearer x"

    def test_user_and_password_are_utf_8(self) -> None:
        request = opening("ws://%C3%BC:%E2%82%AC@a/").request
        assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode() == "ü:€"

    def test_every_key_is_fresh_and_of_sixteen_bytes(self) -> None:
        keys = {Opening(parse_uri("ws://a"), Wishes()).request.headers["sec-websocket-key"] for _ in range(50)}
        assert len(keys) == 50
        assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}

    @pytest.mark.parametrize(
        ("wishes", "said"),
        [
            ({"headers": (("Host", "b"),)}, "Host"),
            ({"headers": (("sec-websocket-key", KEY),)}, "sec-websocket-key"),
            ({"headers": (("Origin", "http://a"),)}, "Origin"),
            ({"headers": (("X", "a\r\nY: b"),)}, "printable"),
            ({"headers": (("X Y", "a"),)}, "name"),
            ({"subprotocols": ("a b",)}, "subprotocol"),
            ({"subprotocols": ("",)}, "subprotocol"),
            ({"subprotocols": ("a", "a")}, "twice"),
            ({"origin": "https://example.com/"}, "origin"),
            ({"origin": "x\r\nY: b"}, "origin"),
        ],
    )
    def test_wishes_that_cannot_be_said_are_value_errors(self, wishes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Wishes(**wishes)


class TestAnswer:
    def test_the_example_of_the_rfc_is_accepted(self) -> None:
        assert opening().agree(answer()) == (None, None)

    @pytest.mark.parametrize("value", ["WebSocket", "WEBSOCKET"])
    def test_upgrade_is_compared_without_case(self, value: str) -> None:
        assert opening().agree(answer(("Upgrade", value), without="Upgrade")) == (None, None)

    @pytest.mark.parametrize("fields", [("keep-alive, UPGRADE",), ("keep-alive", "upgrade")])
    def test_connection_is_a_list_over_all_its_lines(self, fields: tuple[str, ...]) -> None:
        """TRAPS 12."""
        lines = [("Connection", value) for value in fields]
        assert opening().agree(answer(*lines, without="Connection")) == (None, None)

    @pytest.mark.parametrize("name", ["Upgrade", "Connection", "Sec-WebSocket-Accept"])
    def test_each_of_its_three_fields_must_be_there(self, name: str) -> None:
        assert name.lower() in failure(answer(without=name)).lower()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Upgrade", "h2c"),
            ("Upgrade", "websocket, h2c"),
            ("Upgrade", "websocket\xe4"),
            ("Connection", "close"),
            ("Connection", "upgraded"),
            ("Connection", "\xfcpgrade"),
            ("Sec-WebSocket-Accept", ""),
            ("Sec-WebSocket-Accept", ACCEPT.lower()),
            ("Sec-WebSocket-Accept", KEY),
            ("Sec-WebSocket-Accept", ACCEPT + "\xe4"),
        ],
    )
    def test_another_value_fails(self, name: str, value: str) -> None:
        """TRAPS 10: bytes beyond ASCII fail as well, and raise nothing else."""
        failure(answer((name, value), without=name))

    def test_two_accepts_fail(self) -> None:
        failure(answer(("Sec-WebSocket-Accept", ACCEPT)))

    def test_the_subprotocol_is_the_servers_choice_of_those_offered(self) -> None:
        offer = opening(subprotocols=("chat", "superchat"))
        assert offer.agree(answer(("Sec-WebSocket-Protocol", "superchat"))) == ("superchat", None)
        assert offer.agree(answer()) == (None, None)

    @pytest.mark.parametrize("value", ["", "Chat", "soap", "chat, superchat", "\xe4"])
    def test_any_other_subprotocol_fails(self, value: str) -> None:
        assert "subprotocol" in failure(answer(("Sec-WebSocket-Protocol", value)), subprotocols=("chat", "superchat"))

    def test_a_subprotocol_fails_where_none_was_offered_and_so_do_two(self) -> None:
        failure(answer(("Sec-WebSocket-Protocol", "chat")))
        twice = answer(("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "chat"))
        failure(twice, subprotocols=("chat",))

    def test_compression_is_agreed_where_it_was_offered(self) -> None:
        offered = answer(("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=10"))
        assert opening(compression=DeflateOptions()).agree(offered) == (
            None,
            DeflateParameters(
                server_no_context_takeover=False,
                client_no_context_takeover=False,
                server_max_window_bits=10,
                client_max_window_bits=12,
            ),
        )

    def test_an_extension_that_was_not_offered_fails(self) -> None:
        deflate = answer(("Sec-WebSocket-Extensions", "permessage-deflate"))
        assert "extension" in failure(deflate)
        other = answer(("Sec-WebSocket-Extensions", "x-webkit-deflate-frame"))
        assert "extension" in failure(other, compression=DeflateOptions())
        assert "server" in failure(deflate, compression=DeflateOptions())  # it ignored server_max_window_bits


class TestRefusals:
    @pytest.mark.parametrize("status", [200, 204, 300, 304, 400, 401, 404, 500, 503])
    def test_what_is_no_redirect_is_a_refusal(self, status: int) -> None:
        refused = Answer(status, Headers([("X", "y"), ("Location", "/")]), b"no")
        with pytest.raises(HandshakeRejected) as caught:
            opening().follow(refused)
        assert (caught.value.status, caught.value.headers["x"], caught.value.body) == (status, "y", b"no")
        assert str(caught.value) == f"the server answered the opening handshake with {status}"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_leads_to_the_next_attempt(self, status: int) -> None:
        first = opening("ws://a/x", subprotocols=("chat",))
        following = first.follow(redirect("/y", status))
        assert str(following.uri) == "ws://a/y"
        assert following.request.subprotocols == ("chat",)
        assert following.request.headers["sec-websocket-key"] != KEY

    def test_a_redirect_without_a_location_is_a_refusal(self) -> None:
        with pytest.raises(HandshakeRejected):
            opening().follow(Answer(302, Headers()))

    @pytest.mark.parametrize("location", ["http://a/", "mailto:a", "wss://[", "/a, /b", "wss://a..b/"])
    def test_a_redirect_that_is_not_followed_says_why(self, location: str) -> None:
        with pytest.raises(HandshakeRejected, match="the redirect is not followed") as caught:
            opening("wss://a/").follow(redirect(location))
        assert (caught.value.status, caught.value.body) == (302, b"elsewhere")

    def test_ten_redirects_are_followed_and_no_more(self) -> None:
        attempt = opening("ws://a/")
        for _ in range(MAX_REDIRECTS):
            attempt = attempt.follow(redirect("/"))
        with pytest.raises(HandshakeRejected, match="more than 10 redirects"):
            attempt.follow(redirect("/"))


class TestCredentials:
    HEADERS = (("authorization", "Bearer x"), ("COOKIE", "a=b"), ("Proxy-Authorization", "z"), ("X-Other", "y"))

    @staticmethod
    def carried(attempt: Opening) -> set[str]:
        return set(attempt.request.headers) & {"authorization", "cookie", "proxy-authorization", "x-other"}

    def test_they_stay_with_the_origin(self) -> None:
        following = opening("ws://a/", headers=self.HEADERS).follow(redirect("/x"))
        assert self.carried(following) == {"authorization", "cookie", "proxy-authorization", "x-other"}
        assert "authorization" in opening("ws://user:pass@a/").follow(redirect("/x")).request.headers

    @pytest.mark.parametrize("location", ["//b/", "//a:81/", "wss://a/", "//user:pass@a.b/"])
    def test_they_never_go_to_another_one(self, location: str) -> None:
        following = opening("ws://a/", headers=self.HEADERS).follow(redirect(location))
        assert self.carried(following) == {"x-other"}
        assert "authorization" not in opening("ws://user:pass@a/").follow(redirect(location)).request.headers

    def test_those_that_were_left_behind_do_not_come_back(self) -> None:
        there_and_back = opening("ws://u:p@a/", headers=self.HEADERS).follow(redirect("//b/")).follow(redirect("//a/"))
        assert self.carried(there_and_back) == {"x-other"}
