"""Who may open a WebSocket from a browser: Origin and Host, through the wire, with a handler that must not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rawws
from tests.raw_client import connected, handshake, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

COOKIE = b"Cookie: session=0123456789abcdef"


class Secrets:
    """An application that trusts a cookie, and counts who came to it."""

    def __init__(self) -> None:
        self.origins: list[str | None] = []

    async def __call__(self, ws: rawws.WebSocket) -> None:
        self.origins.append(ws.request.origin)
        if "session=" not in ws.request.headers.get("cookie", ""):
            await ws.reject(401)
        else:
            await ws.send("the secret")


def from_page(host: str | None, *origins: str) -> bytes:
    """A handshake as a browser with a cookie sends it."""
    data = handshake("/", *(f"Origin: {origin}".encode("latin-1") for origin in origins), COOKIE)
    field = b"" if host is None else f"Host: {host}\r\n".encode("latin-1")
    return data.replace(b"Host: server.example.com\r\n", field)


async def status(data: bytes, *, app: Any = None, **options: Any) -> int:
    async with serving(app or Secrets(), **options) as server, connected(server) as client:
        await client.send(data)
        return (await client.answer()).status


class TestOrigin:
    @pytest.mark.parametrize(
        ("host", "origins", "expected"),
        [
            pytest.param("localhost:9000", ["http://localhost:9000"], 101, id="own"),
            pytest.param("localhost:9000", ["https://localhost:9000"], 101, id="own-behind-a-proxy-with-tls"),
            pytest.param("localhost:9000", ["http://localhost:90000"], 403, id="longer-port"),
            pytest.param("localhost:9000", ["http://localhost:900"], 403, id="shorter-port"),
            pytest.param("localhost:9000", ["http://localhost"], 403, id="no-port"),
            pytest.param("localhost:9000", ["http://127.0.0.1:9000"], 403, id="another-name-of-the-same"),
            pytest.param("bank.example", ["http://bank.example.evil"], 403, id="prefix"),
            pytest.param("bank.example", ["http://evilbank.example"], 403, id="suffix"),
            pytest.param("bank.example", ["http://evil.bank.example"], 403, id="subdomain"),
            pytest.param("bank.example", ["http://bank.example@evil"], 403, id="user"),
            pytest.param("bank.example", ["http://bank.example/"], 403, id="path"),
            pytest.param("bank.example", ["null"], 403, id="null"),
            pytest.param("null", ["null"], 403, id="null-of-a-host-named-so"),
            pytest.param("bank.example", [""], 403, id="empty"),
            pytest.param("bank.example", ["bank.example"], 403, id="no-scheme"),
            pytest.param("bank.example", ["http://bank.example", "http://bank.example"], 400, id="two-of-them"),
            pytest.param("bank.example", ["http://bank.example", "http://evil"], 400, id="two-different-ones"),
            pytest.param("bank.example", ["http://bank.example, http://evil"], 400, id="two-in-one"),
            pytest.param("", ["http://"], 400, id="no-host-in-either"),
            pytest.param("a b", ["http://a b"], 400, id="a-host-that-is-none"),
            pytest.param("bank.example/", ["http://bank.example/"], 400, id="a-host-with-a-path"),
            pytest.param("user@bank.example", ["http://user@bank.example"], 400, id="a-host-with-a-user"),
            pytest.param(None, ["http://bank.example"], 400, id="without-a-host"),
        ],
    )
    async def test_a_cookie_alone_opens_nothing_from_a_foreign_page(
        self, host: str | None, origins: Sequence[str], expected: int
    ) -> None:
        app = Secrets()
        assert await status(from_page(host, *origins), app=app) == expected
        assert app.origins == ([] if expected != 101 else list(origins))

    @pytest.mark.parametrize("header", ["Sec-WebSocket-Origin: http://bank.example", "X-Forwarded-Host: evil.example"])
    async def test_no_other_header_makes_up_for_it(self, header: str) -> None:
        data = from_page("bank.example", "http://evil.example").replace(COOKIE, COOKIE + b"\r\n" + header.encode())
        assert await status(data) == 403

    async def test_who_sends_no_origin_is_no_browser_and_is_the_applications_concern(self) -> None:
        app = Secrets()
        assert await status(from_page("bank.example"), app=app) == 101
        assert await status(from_page("bank.example").replace(b"session=", b"x="), app=app) == 401
        assert app.origins == [None, None]

    async def test_pages_of_other_sites_may_connect_where_they_are_listed(self) -> None:
        data = from_page("bank.example", "https://partner.example")
        assert await status(data, origins=["https://partner.example"]) == 101
        assert await status(data, origins=["http://partner.example"]) == 403
        assert await status(data, origins="*") == 101
        own = from_page("bank.example", "https://bank.example")
        assert await status(own, origins=["https://partner.example"]) == 101


class TestHost:
    """DNS rebinding: a stranger's page whose own name was made to lead here is same-origin with what it reaches."""

    HOSTS = ("localhost", "127.0.0.1", "chat.example:8000")

    async def test_by_its_origin_alone_such_a_page_cannot_be_told(self) -> None:
        assert await status(from_page("rebound.example:8000", "http://rebound.example:8000")) == 101

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("localhost", 101),
            ("LocalHost:8000", 101),
            ("127.0.0.1:1", 101),
            ("chat.example:8000", 101),
            ("chat.example", 421),
            ("chat.example:80", 421),
            ("chat.example.:8000", 421),
            ("rebound.example", 421),
            ("rebound.example:8000", 421),
            ("localhost.rebound.example", 421),
            ("[::1]", 421),
            ("", 400),
            ("local host", 400),
        ],
    )
    async def test_with_a_list_of_hosts_others_are_misdirected(self, host: str, expected: int) -> None:
        app = Secrets()
        assert await status(from_page(host, f"http://{host}"), app=app, hosts=self.HOSTS) == expected
        assert bool(app.origins) is (expected == 101)

    @pytest.mark.parametrize(("host", "expected"), [("localhost", 200), ("rebound.example", 421)])
    @pytest.mark.parametrize("path", ["/page", "/health", "/metrics"])
    async def test_pages_too(self, host: str, expected: int, path: str) -> None:
        def page(request: rawws.Request) -> rawws.Response:
            return rawws.Response.text(200, "the page")

        data = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert await status(data, pages={"/page": page}, admin=True, hosts=self.HOSTS) == expected

    async def test_an_absolute_target_names_the_host(self) -> None:
        for host, expected in (("rebound.example", 421), ("localhost", 426)):
            data = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            assert await status(data, hosts=self.HOSTS) == expected

    async def test_http_1_0_without_a_host_is_misdirected(self) -> None:
        assert await status(b"GET / HTTP/1.0\r\n\r\n", hosts=self.HOSTS) == 421

    @pytest.mark.parametrize(("port", "expected"), [("", 101), (":80", 101), (":443", 421), (":8000", 421)])
    async def test_a_default_port_may_be_left_out(self, port: str, expected: int) -> None:
        assert await status(from_page(f"chat.example{port}"), hosts=["chat.example:80"]) == expected
