"""Dialling through proxies: CONNECT, and SOCKS with the real python-socks; allowed and refused."""

from __future__ import annotations

import base64
import builtins
import socket
import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair

import rawws
from rawws.dial import Proxy, ProxyFailed, open_tunnel
from tests.conftest import FAST_LANE
from tests.drivers import client_context, server_context
from tests.raw_client import echo
from tests.raw_client import serving as serving_rawws
from tests.raw_server import url_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytest.importorskip("python_socks", reason="pip install python-socks")


async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()


async def relay(client: trio.SocketStream, port: int) -> None:
    """What a proxy does once it is connected."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
        nursery.start_soon(copy, client, server)
        nursery.start_soon(copy, server, client)


class Http:
    """A proxy that speaks HTTP: CONNECT and nothing else."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer = answer
        self.asked = b""

    async def __call__(self, client: trio.SocketStream) -> None:
        while b"\r\n\r\n" not in self.asked:
            self.asked += await client.receive_some()
        await client.send_all(self.answer)
        if b" 200 " in self.answer:
            await relay(client, int(self.asked.split(b" ")[1].rpartition(b":")[2]))


class Socks5:
    """A SOCKS proxy (RFC 1928).

    Args:
        reply: 0 connects.
        method: of authentication; 2 is user and password (RFC 1929), 255 that it takes none that is offered.
        accepts: whether it takes the user and password.
    """

    def __init__(self, reply: int = 0, *, method: int = 0, accepts: bool = True) -> None:
        self.reply = reply
        self.method = method
        self.accepts = accepts
        self.offered = b""
        self.credentials = b""
        self.asked = b""

    async def __call__(self, client: trio.SocketStream) -> None:
        self.offered = bytes(await client.receive_some())
        await client.send_all(bytes((5, self.method)))
        if self.method == 2:
            self.credentials = bytes(await client.receive_some())
            await client.send_all(bytes((1, not self.accepts)))
        self.asked = bytes(await client.receive_some())
        # Version, reply, reserved, IPv4, 0.0.0.0, port 0.
        await client.send_all(bytes((5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0)))
        if not self.reply:
            await relay(client, int.from_bytes(self.asked[-2:], "big"))


class Socks4:
    """A proxy of SOCKS 4, which says no."""

    def __init__(self, reply: int) -> None:
        self.reply = reply
        self.asked = b""

    async def __call__(self, client: trio.SocketStream) -> None:
        self.asked = bytes(await client.receive_some())
        # Version 0, reply, port 0, 0.0.0.0.
        await client.send_all(bytes((0, self.reply, 0, 0, 0, 0, 0, 0)))


@asynccontextmanager
async def proxying(proxy: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Run a proxy; yields its host and port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), proxy, 0)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def talk(url: str, proxy: str, **options: Any) -> None:
    async with rawws.connect(url, proxy=proxy, fast_lane=FAST_LANE, **options) as ws:
        await ws.send("through it")
        assert await ws.receive() == "through it"


async def test_an_http_proxy_is_asked_to_connect() -> None:
    proxy = Http()
    async with serving_rawws(echo) as server, proxying(proxy) as address:
        await talk(url_of(server), f"http://{address}")
        assert proxy.asked.startswith(
            url_of(server).replace("ws://", "CONNECT ").rstrip("/").encode() + b" HTTP/1.1\r\n"
        )


async def test_an_http_proxy_gets_its_user_and_password_and_the_server_does_not() -> None:
    seen = []

    async def handler(ws: rawws.WebSocket) -> None:
        seen.append(set(ws.request.headers))
        await echo(ws)

    proxy = Http()
    async with serving_rawws(handler) as server, proxying(proxy) as address:
        await talk(url_of(server), f"http://user:pass@{address}")
    assert base64.b64encode(b"user:pass") in proxy.asked
    assert not seen[0] & {"authorization", "proxy-authorization"}


class TestTunnels:
    """What is said to a proxy of HTTP, over memory."""

    async def tunnel(
        self,
        nursery: trio.Nursery,
        *pieces: bytes,
        host: str = "a",
        credentials: tuple[str, str] | None = None,
    ) -> bytes:
        """Open a tunnel through a proxy that answers with pieces and ends; returns what it was asked."""
        ours, theirs = memory_stream_pair()
        asked = b""

        async def proxy() -> None:
            nonlocal asked
            while b"\r\n\r\n" not in asked:
                asked += await theirs.receive_some()
            for piece in pieces:
                await theirs.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await theirs.send_eof()

        nursery.start_soon(proxy)
        await open_tunnel(ours, host, 443, credentials)
        return asked

    async def test_the_server_is_named_with_its_port_and_we_by_our_name(self, nursery: trio.Nursery) -> None:
        assert await self.tunnel(nursery, b"HTTP/1.1 200 OK\r\n\r\n", host="::1") == (
            b"CONNECT [::1]:443 HTTP/1.1\r\n"
            b"Host: [::1]:443\r\n"
            b"User-Agent: rawws/" + rawws.__version__.encode() + b"\r\n\r\n"
        )

    async def test_user_and_password_are_said_in_utf_8(self, nursery: trio.Nursery) -> None:
        asked = await self.tunnel(nursery, b"HTTP/1.1 200 OK\r\n\r\n", credentials=("grüße", "p:€"))
        assert b"\r\nProxy-Authorization: Basic " + base64.b64encode("grüße:p:€".encode()) + b"\r\n" in asked

    @pytest.mark.parametrize("size", [100, 7, 1])
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nVia: x\r\nProxy-Agent: y\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 201 Created\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ],
    )
    async def test_its_answer_may_come_in_pieces(self, nursery: trio.Nursery, head: bytes, size: int) -> None:
        await self.tunnel(nursery, *(head[at : at + size] for at in range(0, len(head), size)))

    async def test_bytes_after_its_answer_are_an_error_for_the_client_speaks_first(self, nursery: trio.Nursery) -> None:
        with pytest.raises(ProxyFailed, match="the proxy sends more than its answer"):
            await self.tunnel(nursery, b"HTTP/1.1 200 OK\r\n\r\n\x81\x00")

    @pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\n",)])
    async def test_an_end_before_its_answer_is_a_connection_error(
        self, nursery: trio.Nursery, pieces: tuple[bytes, ...]
    ) -> None:
        with pytest.raises(ProxyFailed, match="the proxy ended the connection before it answered"):
            await self.tunnel(nursery, *pieces)

    async def test_an_answer_without_end_is_a_connection_error(self, nursery: trio.Nursery) -> None:
        with pytest.raises(ConnectionError, match="the head of the proxy's answer is too long"):
            await self.tunnel(nursery, b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"x" * 1000] * 20)


async def test_a_socks_proxy_looks_the_name_up() -> None:
    proxy = Socks5()
    async with serving_rawws(echo) as server, proxying(proxy) as address:
        await talk(url_of(server, "ws://no.such.name.invalid"), f"socks5://{address}")
    assert proxy.asked[3:5] == bytes((3, len("no.such.name.invalid")))


async def test_tls_is_between_us_and_the_server() -> None:
    proxy = Socks5()
    async with serving_rawws(echo, ssl_context=server_context()) as server, proxying(proxy) as address:
        await talk(url_of(server, "wss://localhost"), f"socks5h://{address}", ssl_context=client_context())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 407, 499])
async def test_a_proxy_that_does_not_let_us_through_is_a_permission_error(status: int) -> None:
    async with proxying(Http(b"HTTP/1.1 %d No\r\n\r\n" % status)) as address:
        with pytest.raises(PermissionError, match=str(status)):
            await talk("ws://localhost/", f"http://{address}")


@pytest.mark.parametrize(
    ("address", "proxy"),
    [
        ("socks5://", Socks5(reply=2)),  # connection not allowed by ruleset
        ("socks5://", Socks5(method=255)),
        ("socks5://", Socks5(method=2)),  # which was not offered, for there is no password
        ("socks5://", Socks5(method=1)),
        ("socks5://", Socks5(method=7)),
        ("socks5://user:pass@", Socks5(method=2, accepts=False)),
        ("socks4a://", Socks4(91)),
        ("socks4a://", Socks4(92)),
        ("socks4a://", Socks4(93)),
    ],
)
async def test_a_socks_proxy_that_says_no_is_a_permission_error(address: str, proxy: Any) -> None:
    async with proxying(proxy) as where:
        with pytest.raises(PermissionError, match="the proxy does not let us through: "):
            await talk("ws://localhost/", f"{address}{where}")


async def test_a_loop_does_not_ask_a_proxy_again_that_said_no() -> None:
    async with proxying(Socks5(reply=2)) as where:
        with pytest.raises(PermissionError) as caught:
            async for _ in rawws.connect("ws://localhost/", proxy=f"socks5://{where}"):
                pass
    assert caught.value.__notes__ == ["not connected again: it would be denied again"]


@pytest.mark.parametrize(
    ("scheme", "proxy"),
    [
        ("http", Http(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")),
        ("http", Http(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n")),
        ("http", Http(b"HTTP/1.1 408 Request Timeout\r\n\r\n")),
        ("http", Http(b"HTTP/1.1 425 Too Early\r\n\r\n")),
        ("http", Http(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")),
        ("http", Http(b"nonsense\r\n\r\n")),
        ("socks5", Socks5(reply=1)),
        ("socks5", Socks5(reply=4)),
    ],
)
async def test_a_proxy_that_does_not_reach_the_server_is_a_connection_error(scheme: str, proxy: Any) -> None:
    async with proxying(proxy) as address:
        with pytest.raises(ConnectionError, match="proxy"):
            await talk("ws://localhost/", f"{scheme}://{address}")


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
async def test_a_proxy_that_is_not_there_is_an_os_error(scheme: str) -> None:
    async with proxying(Http()) as address:
        pass
    with pytest.raises(ProxyFailed, match=f"the proxy {address} cannot be reached: "):
        await talk("ws://localhost/", f"{scheme}://{address}")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_has_no_address_is_named_too(scheme: str) -> None:
    with pytest.raises(ProxyFailed, match=r"the proxy no\.such\.name\.invalid:1 cannot be reached: "):
        await talk("ws://localhost/", f"{scheme}://no.such.name.invalid:1")


async def reset(client: trio.SocketStream) -> None:
    await client.receive_some()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def odd(client: trio.SocketStream) -> None:
    """A SOCKS proxy that bound a name which is no text."""
    await client.receive_some()
    await client.send_all(b"\x05\x00")
    await client.receive_some()
    await client.send_all(b"\x05\x00\x00\x03\x01\xff\x00\x00")


@pytest.mark.parametrize(("scheme", "proxy"), [("http", reset), ("socks5", reset), ("socks4a", reset), ("socks5", odd)])
async def test_a_proxy_that_does_not_answer_as_one_is_named(scheme: str, proxy: Any) -> None:
    async with proxying(proxy) as address:
        with pytest.raises(ProxyFailed, match="the proxy "):
            await talk("ws://localhost/", f"{scheme}://{address}")


async def test_an_http_proxy_gets_a_user_without_a_password_too() -> None:
    proxy = Http()
    async with serving_rawws(echo) as server, proxying(proxy) as address:
        await talk(url_of(server), f"http://user@{address}")
    assert b"Basic " + base64.b64encode(b"user:") in proxy.asked


async def test_a_socks5_proxy_gets_user_and_password_in_utf_8() -> None:
    proxy = Socks5(method=2)
    async with serving_rawws(echo) as server, proxying(proxy) as address:
        await talk(url_of(server), f"socks5://us%3A%C3%A9r:{'%C3%BC' * 127}@{address}")
    assert proxy.offered == b"\x05\x02\x00\x02"
    assert proxy.credentials == b"\x01\x06us:\xc3\xa9r\xfe" + "ü".encode() * 127


async def test_a_socks4_proxy_gets_a_user_in_utf_8() -> None:
    proxy = Socks4(91)
    async with proxying(proxy) as address:
        with pytest.raises(PermissionError):
            await talk("ws://a:80/", f"socks4a://%C3%A9@{address}")
    # Version 4, CONNECT, port 80, an address that says "see the name", user, name.
    assert proxy.asked == b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"\xc3\xa9\x00" + b"a\x00"


@pytest.mark.parametrize(
    "address",
    [
        "http://secret%3A:x@a:1",  # a colon in the user
        "http://secret:%ff@a:1",
        f"socks5://{'secret' * 43}:x@a:1",
        f"socks5://x:{'secret' * 43}@a:1",
        f"socks5://x:secret{'%C3%BC' * 125}@a:1",  # 256 bytes
        "socks5://secret@a:1",  # no password
        "socks5h://:secret@a:1",
        "socks4://secret:secret@a:1",
        "socks4a://secret%00@a:1",
    ],
)
def test_what_its_kind_of_proxy_cannot_be_told_is_a_value_error(address: str) -> None:
    with pytest.raises(ValueError, match="the proxy cannot be used: ") as caught:
        Proxy(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "localhost:1", "ftp://a:1", "http://a", "http://:1", "socks5://secret@a:x"])
def test_what_is_no_proxy_is_a_value_error_that_does_not_quote_it(address: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        Proxy(address)
    assert "secret" not in str(caught.value)


def test_without_python_socks_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("python_socks"):
            raise ImportError(name)
        return there(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"rawws\[proxy\]"):
        rawws.connect("ws://localhost/", proxy="socks5://localhost:1")
    rawws.connect("ws://localhost/", proxy="http://localhost:1")  # needs none


async def test_the_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving_rawws(echo) as server, rawws.connect(url_of(server)) as ws:
        await ws.send("directly")
        assert await ws.receive() == "directly"
