"""`/health` and `/metrics`: where they are, whom they answer, and an address of their own."""

from __future__ import annotations

import errno
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws.admin import admin_name, admin_pages, open_admin_listeners
from tests.raw_client import CLOSE, CLOSE_1000, Answer, Client, connected, echo, serving

PAGES = ("/health", "/metrics")


async def ask(address: Any, path: str, *fields: str) -> Answer:
    if isinstance(address, tuple):
        stream: trio.SocketStream = await trio.open_tcp_stream(*address)
    else:
        stream = await trio.open_unix_socket(address)
    async with stream:
        client = Client(stream)
        await client.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode())
        return await client.answer()


class TestHere:
    async def test_without_being_asked_for_there_are_none(self) -> None:
        async with serving({"/": echo}) as server:
            for path in PAGES:
                assert (await ask(server.addresses[0], path)).status == 404

    async def test_on_the_servers_address_they_answer_peers_on_this_machine(self) -> None:
        async with serving(echo, admin=True) as server:
            health = await ask(server.addresses[0], "/health")
            assert (health.status, health.body) == (200, b"ok\n")
            assert health.fields["cache-control"] == "no-store"
            assert health.fields["server-timing"].startswith("lag;dur=")
            metrics = await ask(server.addresses[0], "/metrics")
            assert metrics.status == 200
            assert metrics.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert b"\nrawws_connections_accepted_total 2.0\n" in metrics.body
            assert server.admin_addresses == []

    @pytest.mark.parametrize("path", PAGES)
    async def test_and_nobody_for_whom_a_proxy_asks(self, path: str) -> None:
        async with serving(echo, admin=True) as server:
            answer = await ask(server.addresses[0], path, "X-Forwarded-For: 192.0.2.1")
            assert (answer.status, answer.body) == (404, b"There is nothing here.\n")

    async def test_pages_of_ones_own_come_first(self) -> None:
        def page(request: rawws.Request) -> rawws.Response:
            return rawws.Response.text(200, "mine")

        async with serving(echo, admin=True, pages={"/health": page}) as server:
            assert (await ask(server.addresses[0], "/health")).body == b"mine\n"
            assert (await ask(server.addresses[0], "/metrics")).status == 200

    async def test_while_the_server_shuts_down_health_is_503(self) -> None:
        async with serving(echo, admin=("127.0.0.1", 0)) as server, connected(server) as client:
            await client.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.shutdown)
                assert await client.frame() == (CLOSE, b"\x03\xe9server shutdown")
                health = await ask(server.admin_addresses[0], "/health")
                assert (health.status, health.body) == (503, b"shutting down\n")
                assert (await ask(server.admin_addresses[0], "/metrics")).status == 200
                await client.send(CLOSE_1000)
                await client.ended()
                await client.stream.aclose()


class TestElsewhere:
    async def test_on_an_address_of_their_own_they_answer_everybody_and_are_nowhere_else(self) -> None:
        async with serving({"/": echo}, admin=("127.0.0.1", 0)) as server:
            (address,) = server.admin_addresses
            for path in PAGES:
                assert (await ask(address, path, "X-Forwarded-For: 192.0.2.1")).status == 200
                assert (await ask(server.addresses[0], path)).status == 404
            assert (await ask(address, "/")).status == 404
            assert b"\nrawws_connections_accepted_total 2.0\n" in (await ask(address, "/metrics")).body
        with pytest.raises(OSError, match="connect"):
            await ask(address, "/health")

    @pytest.mark.parametrize("as_path", [False, True])
    async def test_that_may_be_a_unix_socket_which_is_removed_in_the_end(self, tmp_path: Path, as_path: bool) -> None:
        path = tmp_path / "admin"
        async with serving({"/": echo}, admin=path if as_path else str(path)) as server:
            assert server.admin_addresses == [str(path)]
            for page in PAGES:
                assert (await ask(str(path), page)).status == 200
                assert (await ask(server.addresses[0], page)).status == 404
        assert not path.exists()

    async def test_a_unix_socket_that_somebody_removed_hurts_nobody(self, tmp_path: Path) -> None:
        path = tmp_path / "admin"
        async with serving(echo, admin=path):
            path.unlink()

    async def test_a_unix_socket_of_a_server_that_is_gone_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "admin"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
        async with serving(echo, admin=path):
            assert (await ask(str(path), "/health")).status == 200

    async def test_other_listeners_may_have_one_too(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            serve = partial(rawws.serve_listeners, echo, [listener], admin=("127.0.0.1", 0))
            server = await nursery.start(serve)
            assert (await ask(server.admin_addresses[0], "/health")).status == 200
            nursery.cancel_scope.cancel()

    async def test_so_may_a_server_of_run(self) -> None:
        seen: list[Any] = []

        def on_start(server: rawws.Server) -> None:
            seen.extend(server.admin_addresses)
            raise LookupError("enough")

        run = partial(rawws.run, echo, "127.0.0.1", 0, admin=("127.0.0.1", 0), on_start=on_start)
        with pytest.raises(LookupError, match="enough"):
            await trio.to_thread.run_sync(run)
        assert len(seen) == 1

    async def test_the_pages_may_be_served_by_any_server(self) -> None:
        async with serving(echo) as server, serving({}, pages=admin_pages(server)) as other:
            assert (await ask(other.addresses[0], "/health")).status == 200
            assert b"\nrawws_connections_accepted_total 0.0\n" in (await ask(other.addresses[0], "/metrics")).body


class TestMistakes:
    async def test_an_address_that_is_taken_is_a_bare_oserror_that_names_it_and_leaves_nothing_open(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "taken"
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))
            unix.listen()
            for admin in (tcp.getsockname(), path):
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                with pytest.raises(OSError, match="in use") as caught:
                    await rawws.serve_listeners(echo, [listener], admin=admin)
                assert caught.value.errno == errno.EADDRINUSE
                assert caught.value.filename == admin_name(admin)
                assert listener.socket.fileno() == -1
        assert path.exists()

    async def test_a_file_that_is_no_socket_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(OSError, match="in use"):
            await open_admin_listeners(path)
        assert path.read_text() == "mine"

    async def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            await open_admin_listeners(tmp_path / "nowhere" / "admin")
        assert caught.value.filename == f"unix:{tmp_path}/nowhere/admin"


def test_an_address_is_named_as_people_write_it() -> None:
    assert admin_name(("127.0.0.1", 9000)) == "127.0.0.1:9000"
    assert admin_name(("::1", 9000)) == "[::1]:9000"
    assert admin_name("/run/rawws.sock") == admin_name(Path("/run/rawws.sock")) == "unix:/run/rawws.sock"
