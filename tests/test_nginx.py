"""Smuggling and splitting: each request directly, and through a real nginx.

A proxy and a server that cut a stream of bytes in different places let a client slip a request past the proxy, or
answer another client with it. So each request is sent both ways, and with it one that must not be seen. nginx's log
says what it forwarded and what status came back, a record of rawws what it served: both must be the same requests,
in the same order, and the next client of nginx must get its own answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import trio

import rawws
from rawws.http import Response
from tests.raw_client import CLOSE_1000, KEY, TEXT, Client, frame, handshake, serving
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rawws.http import Request

NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")

CONFIGURATION: Final = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
    log_format told '$request_method $uri $upstream_status';
    access_log {folder}/access.log told;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_of_upgrade {{ default upgrade; '' ''; }}
    upstream rawws {{ server 127.0.0.1:{rawws}; keepalive 2; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://rawws;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_of_upgrade;
        }}
    }}
}}
"""
SLIPPED: Final = b"GET /slipped HTTP/1.1\r\nHost: a\r\n\r\n"
"""What follows each request, and must not be taken for a request by one of the two alone."""


class Case(NamedTuple):
    row: int
    what: str
    sends: bytes
    direct: tuple[int, ...]
    """What rawws answers when it is asked directly; a refusal ends the connection, and SLIPPED with it."""
    mended: bool = False
    """Whether nginx may make a legal request of it, which rawws then serves."""


def get(*fields: bytes, target: bytes = b"/page", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, b"Host: a", *fields]) + b"\r\n\r\n"


def post(*fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"POST /page " + version, b"Host: a", *fields]) + b"\r\n\r\n"


CHUNKED: Final = b"Transfer-Encoding: chunked"
REFUSED: Final = (400,)
CASES: Final = [
    Case(24, "16 KiB of fields", get(*[b"X: " + b"x" * 1000] * 17), (431,)),
    Case(24, "a hundred and one fields", get(*[b"X: y"] * 100), (431,)),
    Case(25, "a request behind a request", get(), (200, 200), mended=True),
    Case(26, "both lengths, the chunks shorter", post(b"Content-Length: 4", CHUNKED) + b"0\r\n\r\n", REFUSED),
    Case(26, "both lengths, the other way round", post(CHUNKED, b"Content-Length: 40") + b"0\r\n\r\n", REFUSED),
    Case(26, "both lengths in an Upgrade", handshake("/ws", b"Content-Length: 4", CHUNKED) + b"0\r\n\r\n", REFUSED),
    Case(26, "chunks in HTTP/1.0", post(CHUNKED, version=b"HTTP/1.0") + b"0\r\n\r\n", REFUSED),
    Case(26, "two lengths that differ", post(b"Content-Length: 0", b"Content-Length: 4") + b"abcd", REFUSED),
    Case(26, "two lengths in one field", post(b"Content-Length: 4, 40") + b"abcd", REFUSED),
    Case(26, "the same length twice", post(b"Content-Length: 4", b"Content-Length: 4") + b"abcd", REFUSED),
    Case(26, "a length with a sign", post(b"Content-Length: +4") + b"abcd", REFUSED),
    Case(26, "a negative length", post(b"Content-Length: -4") + b"abcd", REFUSED),
    Case(26, "a length with an underscore", post(b"Content-Length: 1_0") + b"abcdabcdab", REFUSED),
    Case(26, "a length in hexadecimal", post(b"Content-Length: 0x4") + b"abcd", REFUSED),
    Case(26, "a length beyond 64 bits", post(b"Content-Length: 18446744073709551620") + b"abcd", (413,)),
    Case(26, "an empty length", post(b"Content-Length: ") + b"abcd", REFUSED),
    Case(26, "a transfer coding that is none", post(b"Transfer-Encoding: xchunked", b"Content-Length: 4"), REFUSED),
    Case(26, "two transfer codings", post(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", (501,)),
    Case(26, "chunked behind a vertical tab", post(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n", REFUSED),
    Case(26, "chunked twice", post(CHUNKED, CHUNKED) + b"0\r\n\r\n", (501,)),
    Case(26, "a body", post(b"Content-Length: 4") + b"abcd", (413,)),
    Case(26, "chunks", post(CHUNKED) + b"4\r\nabcd\r\n0\r\n\r\n", (413,)),
    Case(26, "a body of a GET", get(b"Content-Length: 4") + b"abcd", (413,)),
    Case(26, "a body that is a request", get(b"Content-Length: %d" % len(SLIPPED)), (413,)),
    Case(26, "chunks whose size has an extension with LF", post(CHUNKED) + b"2;\nxx\r\n0\r\n\r\n", (413,)),
    Case(26, "a body that waits for leave", post(b"Content-Length: 4", b"Expect: 100-continue") + b"abcd", (413,)),
    Case(27, "bare LF", get().replace(b"\r\n", b"\n"), REFUSED, mended=True),
    Case(27, "one bare LF", get(b"X: y\nContent-Length: 4"), REFUSED),
    Case(27, "bare CR", get(b"X: y\rContent-Length: 4"), REFUSED),
    Case(27, "a folded field", get(b"X: y", b" Content-Length: 4"), REFUSED, mended=True),
    Case(27, "a folded length", get(b"Content-Length:", b" 4") + b"abcd", REFUSED, mended=True),
    Case(27, "white space before the first field", get().replace(b"Host", b" Host"), REFUSED),
    Case(27, "a space before the colon", post(b"Content-Length : 4") + b"abcd", REFUSED, mended=True),
    Case(27, "a space before the colon of the coding", post(CHUNKED.replace(b":", b" :")), REFUSED, mended=True),
    Case(27, "a field without a colon", get(b"Content-Length"), REFUSED, mended=True),
    Case(27, "a field without a name", get(b": x"), REFUSED, mended=True),
    Case(28, "HTTP/9.9", get(version=b"HTTP/9.9"), (505,)),
    Case(28, "HTTP/1.1 in small letters", get(version=b"http/1.1"), REFUSED),
    Case(28, "HTTP/1.2", get(version=b"HTTP/1.2"), (505,), mended=True),
    Case(28, "no version", b"GET /page\r\n\r\n", REFUSED, mended=True),
    Case(29, "ESC in a field", get(b"X: \x1b[2J"), REFUSED),
    Case(29, "NUL in a field", get(b"X: a\x00b"), REFUSED),
    Case(29, "ESC in the path", get(target=b"/page%1b[2J"), REFUSED),
    Case(30, "a line end in the path", get(target=b"/page%0d%0aX:%20y"), REFUSED),
    Case(30, "a line end in the query", get(target=b"/page?%0d%0aX:%20y"), (200, 200), mended=True),
    Case(30, "a space in the target", get(target=b"/page x"), REFUSED),
    Case(32, "another host in the target", get(target=b"http://b/page"), REFUSED, mended=True),
    Case(32, "the same host in the target", get(target=b"http://a/page"), (200, 200), mended=True),
    Case(32, "an authority as target", get(target=b"a:80").replace(b"GET", b"CONNECT"), REFUSED),
    Case(32, "the target *", get(target=b"*").replace(b"GET", b"OPTIONS"), REFUSED),
    Case(32, "an empty line first", b"\r\n" + get(), (200, 200), mended=True),
    Case(32, "two empty lines first", b"\r\n\r\n" + get(), REFUSED, mended=True),
    Case(32, "two hosts", get(b"Host: b"), REFUSED),
    Case(32, "no host", b"GET /page HTTP/1.1\r\n\r\n", REFUSED),
    Case(14, "an Upgrade with a body", handshake("/ws", b"Content-Length: 4") + b"abcd", REFUSED),
    Case(14, "an Upgrade with chunks", handshake("/ws", CHUNKED) + b"4\r\nabcd\r\n0\r\n\r\n", REFUSED),
    Case(14, "an Upgrade with no chunk", handshake("/ws", CHUNKED) + b"0\r\n\r\n", REFUSED, mended=True),
    Case(14, "an Upgrade that is refused", handshake("/ws").replace(b": 13", b": 12"), (426,)),
    Case(14, "an Upgrade without a key", handshake("/ws").replace(KEY, b"x"), REFUSED),
    Case(14, "an Upgrade by POST", handshake("/ws").replace(b"GET", b"POST"), (405,)),
    Case(14, "an Upgrade in HTTP/1.0", handshake("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"), (426,), mended=True),
    Case(14, "an Upgrade to something else", get(b"Upgrade: h2c", b"Connection: Upgrade"), (200, 200), mended=True),
]


class Seen:
    """The pages of the server, and what was asked of them."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def page(self, request: Request) -> Response:
        self.requests.append(f"{request.method} {request.path}")
        return Response.text(200, f"this is {request.path}")


class Sides(NamedTuple):
    """The server and nginx in front of it."""

    server: int
    """The port of rawws."""
    nginx: int
    """The port of nginx."""
    seen: Seen
    folder: Path

    async def ask(self, data: bytes, *, directly: bool) -> bytes:
        """Send, and read until the connection ends or nothing comes for a while."""
        async with await trio.open_tcp_stream("127.0.0.1", self.server if directly else self.nginx) as stream:
            await stream.send_all(data)
            received = b""
            patience = 5.0
            while True:
                more = b""
                with trio.move_on_after(patience):
                    try:
                        more = bytes(await stream.receive_some())
                    except trio.BrokenResourceError:
                        return received
                if not more:
                    return received
                received += more
                patience = 0.1

    async def forwarded(self) -> list[tuple[str, str, str]]:
        """Method, path and rawws's status of what nginx forwarded; what nginx refused itself is left out."""
        lines = (self.folder / "access.log").read_text().splitlines()
        told = [re.fullmatch(r"(\S*) (.*) (\S+)", line) for line in lines]
        return [(found[1], found[2], found[3]) for found in told if found is not None and found[3] != "-"]


@asynccontextmanager
async def running_nginx(folder: Path, port: int, server: int) -> AsyncIterator[None]:
    """Run nginx as a child, with everything that it writes in a folder."""
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(user=user, folder=folder, port=port, rawws=server))
    assert NGINX is not None
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, stderr=subprocess.DEVNULL, check=False))
        with trio.fail_after(10):
            while True:
                assert process.poll() is None, (folder / "error.log").read_text()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield
        process.terminate()


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[Sides]:
    seen = Seen()
    pages = dict.fromkeys(("/page", "/slipped", "/victim"), seen.page)
    port = free_port()
    async with serving({"/ws": rawws.EchoProtocol()}, pages=pages) as server:
        address = server.addresses[0]
        assert isinstance(address, tuple)
        async with running_nginx(tmp_path, port, address[1]):
            yield Sides(address[1], port, seen, tmp_path)


def statuses(answers: bytes) -> tuple[int, ...]:
    """The final ones, and 101."""
    return tuple(int(found) for found in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answers, re.MULTILINE) if found != b"100")


async def test_what_is_slipped_in_is_seen_by_both_or_by_none(sides: Sides) -> None:
    """One test, as starting nginx takes longer than asking it: every case that fails is told."""
    wrong: list[str] = []
    for case in CASES:
        name = f"row {case.row}: {case.what}"
        del sides.seen.requests[:]
        answers = await sides.ask(case.sends + SLIPPED, directly=True)
        if statuses(answers) != case.direct:
            wrong.append(f"{name}, directly: {statuses(answers)}, not {case.direct}")
        if ("GET /slipped" in sides.seen.requests) is not (len(case.direct) == 2):
            wrong.append(f"{name}, directly: served {sides.seen.requests}")

        del sides.seen.requests[:]
        before = len(await sides.forwarded())
        answers = await sides.ask(case.sends + SLIPPED, directly=False)
        for _ in range(3):
            # Whoever comes next, on whichever connection to rawws, gets what was asked for.
            victim = await sides.ask(get(b"Connection: close", target=b"/victim"), directly=False)
            if statuses(victim) != (200,) or not victim.endswith(b"this is /victim\n"):
                wrong.append(f"{name}, the next one: {victim!r}")
        forwarded = (await sides.forwarded())[before:]
        served = [f"{method} {path}" for method, path, status in forwarded if status == "200"]
        if served != sides.seen.requests:
            wrong.append(f"{name}: nginx forwarded {forwarded}, rawws served {sides.seen.requests}")
        if not answers or (not case.mended and statuses(answers)[0] < 400):
            wrong.append(f"{name}, through nginx: {answers!r}")
    assert not wrong, "\n".join(wrong)


async def test_a_websocket_through_nginx(sides: Sides) -> None:
    """The first frame comes with the request, and a request behind it is a frame that is wrong, to both."""
    async with await trio.open_tcp_stream("127.0.0.1", sides.nginx) as stream:
        client = Client(stream)
        await client.send(handshake("/ws") + frame(TEXT, b"early"))
        assert (await client.answer()).status == 101
        assert await client.frame() == (TEXT, b"early")
        await client.send(frame(TEXT, b"late") + CLOSE_1000)
        assert await client.frame() == (TEXT, b"late")
        assert await client.closed() == (1000, "")
    answers = await sides.ask(handshake("/ws") + SLIPPED, directly=False)
    # The bytes of the request are no frame that a client may send: 1002, and nothing else.
    assert statuses(answers) == (101,)
    assert answers.partition(b"\r\n\r\n")[2].startswith(b"\x88")
    assert sides.seen.requests == []
