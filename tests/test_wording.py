"""What went wrong, in words for a person."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from rawws.dial import ProxyFailed, ProxyRefused
from rawws.errors import CloseCode, ConnectionClosed, HandshakeFailed, HandshakeRejected
from rawws.wording import how_it_ended, what_to_do

ADDRESS = "wss://me:secret@example.com:8443/path?token=secret"


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        (ConnectionClosed(1000, "", "us"), "closed by this side with 1000, normal closure"),
        (ConnectionClosed(1001, "bye, é", "peer"), "closed by the server with 1001, going away: bye, é"),
        (ConnectionClosed(1006), "closed by the network with 1006, no closing handshake"),
        (ConnectionClosed(1013, "", "peer"), "closed by the server with 1013, try again later"),
        (ConnectionClosed(3000, "", "peer"), "closed by the server with 3000, unauthorized"),
        (ConnectionClosed(3999, "", "peer"), "closed by the server with 3999, a registered code"),
        (
            ConnectionClosed(4000, "\x1b[2J", "peer"),
            "closed by the server with 4000, a code of the application: \\x1b[2J",
        ),
    ],
)
def test_an_end_has_who_and_why(closed: ConnectionClosed, says: str) -> None:
    assert how_it_ended(closed) == says


@pytest.mark.parametrize("code", list(CloseCode))
def test_every_code_of_the_rfc_has_words_of_its_own(code: CloseCode) -> None:
    assert "registered" not in how_it_ended(ConnectionClosed(code, "", "peer"))


def verification_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def refused_twice() -> OSError:
    """What Trio raises when a name has two addresses."""
    error = OSError("all attempts to connect failed")
    error.__cause__ = ExceptionGroup("", [ConnectionRefusedError(errno.ECONNREFUSED, "x") for _ in range(2)])
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            HandshakeFailed("the server does not speak HTTP/1.1"),
            "example.com:8443 does not answer as a WebSocket server: "
            "the server does not speak HTTP/1.1; check the address",
        ),
        (ValueError("the address has the port 0"), "the address has the port 0; see rawws connect --help"),
        (ImportError("a proxy needs python-socks"), "a proxy needs python-socks; see rawws connect --help"),
        (
            verification_error(),
            "the certificate of example.com:8443 is not trusted (self-signed certificate); "
            "name its authority with --cacert, or look away with --insecure",
        ),
        (socket.gaierror(-2, "x"), "the name in example.com:8443 is not known here; check the spelling"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "x"),
            "nothing listens on example.com:8443; start the server there, or check the port",
        ),
        (refused_twice(), "nothing listens on example.com:8443; start the server there, or check the port"),
        (
            TimeoutError("x"),
            "example.com:8443 did not answer in time; check the address, or whether a firewall is in between",
        ),
        (OSError("odd\x1b"), "example.com:8443 cannot be reached: odd\\x1b; check the address"),
        (
            ProxyFailed("the proxy p:1 cannot be reached: [Errno 111] \x1b"),
            "the proxy p:1 cannot be reached: [Errno 111] \\x1b; check --proxy",
        ),
        (
            ProxyRefused("the proxy does not let us through: 407"),
            "the proxy does not let us through: 407; check --proxy, and the user and password in it",
        ),
        (ConnectionError(), "example.com:8443 cannot be reached: ConnectionError; check the address"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_keeps_it_from_connecting_says_what_to_do_and_no_secret(error: Exception, says: str) -> None:
    assert what_to_do(error, ADDRESS) == says


def test_a_server_without_tls_is_named_as_that() -> None:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    assert what_to_do(error, "wss://localhost:1/") == (
        "localhost:1 does not speak TLS as expected (WRONG_VERSION_NUMBER); try ws:// if it is not meant to"
    )


@pytest.mark.parametrize(
    ("status", "headers", "body", "says"),
    [
        (401, {}, b"", "401 Unauthorized; give what it asks for with --header Authorization:…"),
        (403, {}, b"no\n", "403 Forbidden (no); it may want another --origin, or a --header"),
        (404, {"content-type": "text/html"}, b"<html>", "404 Not Found; check the path"),
        (500, {"content-type": "text/plain; charset=utf-8"}, b"\x1b\xff" + b"x" * 300,
         f"500 Internal Server Error (\\x1b\N{REPLACEMENT CHARACTER}{'x' * 198}); try again later"),
        (599, {}, b"", "599; try again later"),
        (503, {}, b"", "503 Service Unavailable; try again later"),
        (429, {}, b"", "429 Too Many Requests; try again later"),
        (410, {}, b"", "410 Gone; check the address"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_status_and_what_the_server_says(
    status: int, headers: dict[str, str], body: bytes, says: str
) -> None:
    assert what_to_do(HandshakeRejected(status, headers, body), ADDRESS) == f"the server refused with {says}"


def test_a_redirect_that_is_not_followed_says_why() -> None:
    error = HandshakeRejected(302, {}, b"moved", "more than 10 redirects")
    assert what_to_do(error, ADDRESS) == "the server refused with 302 Found (more than 10 redirects); check the address"
