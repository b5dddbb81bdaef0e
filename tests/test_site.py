"""What is checked when a site is made, and where a request finds its answer."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import pytest

import rawws
from rawws.errors import HandshakeError
from rawws.http import Headers
from rawws.site import Site, for_this_machine, remote_host
from rawws.static_files import StaticFiles
from tests.raw_client import echo

if TYPE_CHECKING:
    from pathlib import Path

    from rawws.http import Address


def request(path: str, method: str = "GET", client: Address = None, *fields: tuple[str, str]) -> rawws.Request:
    return rawws.Request(method, path, path, "", Headers(fields), client=client)


def page(request: rawws.Request) -> rawws.Response:
    return rawws.Response.text(200, "the page")


async def async_page(request: rawws.Request) -> rawws.Response:
    return page(request)


def answer(site: Site, request: rawws.Request) -> rawws.Response:
    response = site.respond(request)
    assert isinstance(response, rawws.Response)
    return response


class TestChecks:
    @pytest.mark.parametrize("app", [None, "echo", 3, {"/": None}, rawws.EchoProtocol, {"/": rawws.EchoProtocol}])
    def test_what_is_no_application_is_a_type_error(self, app: Any) -> None:
        with pytest.raises(TypeError, match="an application is"):
            Site(app)

    @pytest.mark.parametrize("name", ["on_open", "on_message", "on_closing", "on_close"])
    def test_a_callback_that_nobody_would_await_is_a_type_error(self, name: str) -> None:
        async def callback(*_: object) -> None:
            """Never run."""

        app = type("Late", (rawws.Protocol,), {name: callback})()
        with pytest.raises(TypeError, match=rf"^Late\.{name} is an async function"):
            Site({"/": app})

    @pytest.mark.parametrize("path", ["", "echo", "/echo?x=1", "/echo#top"])
    def test_a_path_that_no_request_has_is_a_value_error(self, path: str) -> None:
        with pytest.raises(ValueError, match="begins with a slash"):
            Site({path: echo})
        with pytest.raises(ValueError, match="begins with a slash"):
            Site({}, pages={path: page})

    def test_a_page_is_a_function(self) -> None:
        with pytest.raises(TypeError, match="a page is"):
            Site({}, pages={"/": "hello"})  # type: ignore[dict-item]

    def test_origins_are_a_collection_of_origins(self) -> None:
        assert Site(echo).origins is None
        assert Site(echo, origins="*").origins == "*"
        assert Site(echo, origins=["https://example.com", "*"]).origins == {"https://example.com", "*"}
        with pytest.raises(ValueError, match="a collection of origins"):
            Site(echo, origins="https://example.com")
        with pytest.raises(ValueError, match="not an origin"):
            Site(echo, origins=["https://example.com/"])

    def test_a_folder_that_is_not_there_is_an_oserror(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Site(echo, static=tmp_path / "nowhere")

    def test_the_settings_have_defaults(self) -> None:
        site = Site(echo)
        assert site.limits == rawws.Limits()
        assert site.compression == rawws.DeflateOptions()
        assert site.fast_lane
        options = rawws.DeflateOptions(server_max_window_bits=10)
        limits = rawws.Limits(max_connections=7)
        site = Site(echo, compression=options, limits=limits, fast_lane=False)
        assert (site.compression, site.limits, site.fast_lane) == (options, limits, False)
        assert Site(echo, compression=False).compression is None


class TestRouting:
    def test_one_application_is_everywhere_several_are_where_they_are_said_to_be(self) -> None:
        assert Site(echo).find_app("/any/where") is echo
        site = Site({"/echo": echo})
        assert site.find_app("/echo") is echo
        assert site.find_app("/echo/") is None
        assert site.find_app("/") is None

    def test_an_application_that_is_false_in_a_condition_is_one_all_the_same(self) -> None:
        class Empty(rawws.Protocol):
            def __len__(self) -> int:
                return 0

        app = Empty()
        assert Site(app).find_app("/") is app

    def test_pages_come_before_files_and_files_before_the_hint_at_a_websocket(self, tmp_path: Path) -> None:
        for name in ("page", "file"):
            (tmp_path / name).write_text(name)
        site = Site(echo, static=StaticFiles.load(tmp_path), pages={"/page": page})
        assert answer(site, request("/page")).body == b"the page\n"
        assert answer(site, request("/page", "HEAD")).body == b"the page\n"
        assert answer(site, request("/file")).body == b"file"
        assert answer(site, request("/ws")).status == 426
        with pytest.raises(HandshakeError) as caught:
            site.respond(request("/page", "PUT"))
        assert (caught.value.status, caught.value.headers) == (405, (("Allow", "GET, HEAD"),))
        with pytest.raises(HandshakeError) as caught:
            site.respond(request("/ws", "PUT"))
        assert (caught.value.status, caught.value.headers) == (405, (("Allow", "GET, HEAD"),))
        assert answer(site, request("/ws", "HEAD")) == answer(site, request("/ws"))

    def test_one_of_several_applications_comes_before_a_file_of_its_name_and_shares_the_path_of_a_folder(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "echo").write_text("a file")
        (tmp_path / "index.html").write_text("the page")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "index.html").write_text("another")
        site = Site({"/echo": echo, "/": echo, "/a": echo}, static=StaticFiles.load(tmp_path))
        assert answer(site, request("/echo")).status == 426
        assert answer(site, request("/a")).status == 426
        assert answer(site, request("/")).body == b"the page"
        assert answer(site, request("/a/")).body == b"another"
        assert answer(Site(echo, static=StaticFiles.load(tmp_path)), request("/echo")).body == b"a file"

    def test_where_there_is_nothing_is_404(self) -> None:
        assert answer(Site({}), request("/")).status == 404

    def test_further_pages_come_behind_those_of_the_site_itself(self) -> None:
        site = Site({}, pages={"/page": page})
        more = site.with_pages({"/page": async_page, "/more": page})
        assert answer(more, request("/page")).status == answer(more, request("/more")).status == 200
        assert answer(site, request("/more")).status == 404


class TestHosts:
    def test_hosts_are_a_collection_of_hosts(self) -> None:
        assert Site(echo).hosts is None
        assert Site(echo, hosts=["Example.com", "LOCALHOST:8000"]).hosts == {"example.com", "localhost:8000"}
        with pytest.raises(ValueError, match="a collection of hosts"):
            Site(echo, hosts="example.com")
        for wrong in ("http://example.com", "example.com/", "*", "", "a:b"):
            with pytest.raises(ValueError, match="not a host"):
                Site(echo, hosts=[wrong])

    def test_without_a_list_every_host_is_served(self) -> None:
        Site(echo).check(request("/", "GET", None, ("Host", "rebound.example")))

    def test_others_than_those_listed_are_misdirected(self) -> None:
        site = Site(echo, hosts=["example.com"])
        site.check(request("/", "GET", None, ("Host", "example.com:8000")))
        with pytest.raises(HandshakeError) as caught:
            site.check(request("/", "GET", None, ("Host", "rebound.example")))
        assert caught.value.status == 421


@pytest.mark.parametrize(
    ("client", "host"),
    [
        (("127.0.0.1", 1), None),
        (("127.9.9.9", 1), None),
        (("::1", 1), None),
        (("::ffff:127.0.0.1", 1), None),
        (("/a/socket"), None),
        (None, None),
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8::1", 1), "2001:db8::1"),
        (("fe80::1%eth0", 1), "fe80::1%eth0"),
        (("a.name", 1), "a.name"),
    ],
)
async def test_a_page_for_this_machine_is_nothing_to_others(client: Address, host: str | None) -> None:
    assert remote_host(client) == host
    asked = request("/", "GET", client)
    response = for_this_machine(page)(asked)
    assert isinstance(response, rawws.Response)
    later = for_this_machine(async_page)(asked)
    assert isawaitable(later)
    expected = (200, b"the page\n") if host is None else (404, b"There is nothing here.\n")
    for told in (response, await later):
        assert (told.status, told.body) == expected


@pytest.mark.parametrize("field", ["X-Forwarded-For", "forwarded", "X-Real-IP", "Via"])
async def test_a_page_for_this_machine_is_nothing_to_whom_a_proxy_speaks_for(field: str) -> None:
    asked = request("/", "GET", ("127.0.0.1", 1), (field, "127.0.0.1"))
    response = for_this_machine(page)(asked)
    later = for_this_machine(async_page)(asked)
    assert isinstance(response, rawws.Response)
    assert isawaitable(later)
    assert response.status == (await later).status == 404
