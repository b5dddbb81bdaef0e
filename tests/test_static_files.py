"""static_files: what a folder answers, from the literal bytes of a request to the whole answer."""

from __future__ import annotations

import gzip
import os
import random
import re
from importlib import resources
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawws import static_files
from rawws.errors import HandshakeError
from rawws.http import Request, Response
from rawws.limits import Limits
from rawws.request_reader import RequestReader
from rawws.static_files import BUNDLED_CONTENT_SECURITY_POLICY, StaticFiles

if TYPE_CHECKING:
    from pathlib import Path

LONG_TEXT = "".join(f"line {number}: the same words again and again\n" for number in range(100))


def request(path: str = "/", *fields: str, method: str = "GET") -> Request:
    """Return what the bytes of a request become."""
    reader = RequestReader(Limits())
    lines = [f"{method} {path} HTTP/1.1", "Host: example.org", *fields]
    reader.feed("".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n")
    parsed = reader.next_request()
    assert parsed is not None
    return parsed


def ask(files: StaticFiles, path: str = "/", *fields: str, method: str = "GET") -> Response:
    """Return the answer to a request for a file that exists."""
    response = files.respond(request(path, *fields, method=method))
    assert response is not None
    return response


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one page, one long text that gzip shrinks, and one long binary file."""
    return write(
        tmp_path / "folder",
        {"index.html": "<!doctype html>hello", "long.txt": LONG_TEXT, "long.bin": LONG_TEXT},
    )


class TestPaths:
    def test_a_file_is_served_whole_with_type_tag_and_nosniff(self, folder: Path) -> None:
        response = ask(StaticFiles.load(folder), "/index.html")
        assert response.status == 200
        assert response.body == b"<!doctype html>hello"
        names = [name for name, _ in response.headers]
        assert names == ["Content-Type", "X-Content-Type-Options", "Cache-Control", "ETag"]
        headers = dict(response.headers)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-cache"
        assert re.fullmatch(r'"[0-9a-f]{32}"', headers["ETag"])

    def test_the_answer_goes_out_as_http(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        reader = RequestReader(Limits())
        reader.feed(b"HEAD /long.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        parsed = reader.next_request()
        assert parsed is not None
        response = files.respond(parsed)
        assert response is not None
        answer = reader.respond(response)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(response.body)}\r\n".encode() in answer
        assert answer.endswith(b"\r\n\r\n")

    def test_a_folder_answers_with_its_index(self, tmp_path: Path) -> None:
        files = StaticFiles.load(write(tmp_path, {"index.html": "top", "a/index.html": "a", "b/c/x.txt": "x"}))
        assert ask(files, "/").body == b"top"
        assert ask(files, "/a/").body == b"a"
        assert ask(files, "/b/c/x.txt").body == b"x"
        assert files.respond(request("/b/")) is None
        assert files.respond(request("/b")) is None

    def test_a_folder_with_a_page_redirects_to_its_path_with_the_slash(self, tmp_path: Path) -> None:
        files = StaticFiles.load(
            write(
                tmp_path,
                {"index.html": "top", "a/b/index.html": "b", "grüße und/index.html": "c", "x\\y/index.html": ""},
            ),
            content_security_policy="default-src 'self'",
        )
        for path, location in (
            ("/a/b", "/a/b/"),
            ("/a/b?x=//evil.example", "/a/b/"),
            ("http://example.org/a/b", "/a/b/"),
            ("/%61/b", "/a/b/"),
            ("/gr%C3%BC%C3%9Fe%20und", "/gr%C3%BC%C3%9Fe%20und/"),
            ("/x%5Cy", "/x%5Cy/"),
        ):
            response = ask(files, path)
            assert response == ask(files, path, method="HEAD")
            headers = dict(response.headers)
            assert (response.status, headers["Location"], headers["Cache-Control"]) == (301, location, "no-cache")
            assert headers["Content-Security-Policy"] == "default-src 'self'"
        for path in ("/a", "//a/b", "/a//b", "/a/b//"):
            assert files.respond(request(path)) is None
        with pytest.raises(HandshakeError, match="GET"):
            files.respond(request("/a/b", method="POST"))

    def test_a_folder_whose_name_is_not_utf_8_hurts_nobody(self, tmp_path: Path) -> None:
        write(tmp_path, {os.fsdecode(b"\xff") + "/index.html": "x", "a/index.html": "a"})
        assert ask(StaticFiles.load(tmp_path), "/a/").body == b"a"

    def test_names_are_compared_as_text_after_percent_decoding(self, tmp_path: Path) -> None:
        files = StaticFiles.load(write(tmp_path, {"grüße und so.txt": "x"}))
        assert ask(files, "/gr%C3%BC%C3%9Fe%20und%20so.txt").body == b"x"

    @pytest.mark.parametrize(
        "path",
        [
            "/none",
            "/index.html/",
            "//index.html",
            "/./index.html",
            "/../folder/index.html",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/..%5csecret.txt",
            "/INDEX.HTML",
        ],
    )
    def test_no_other_spelling_of_a_path_finds_a_file(self, folder: Path, path: str) -> None:
        write(folder.parent, {"secret.txt": "secret"})
        assert StaticFiles.load(folder).respond(request(path)) is None

    def test_the_query_makes_no_difference(self, folder: Path) -> None:
        assert ask(StaticFiles.load(folder), "/index.html?v=2").body == b"<!doctype html>hello"

    def test_requests_do_not_touch_the_file_system(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        (folder / "index.html").unlink()
        write(folder, {"new.txt": "new"})
        assert ask(files, "/").body == b"<!doctype html>hello"
        assert files.respond(request("/new.txt")) is None


class TestMethods:
    def test_head_gets_the_answer_of_get(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        assert ask(files, "/", method="HEAD") == ask(files, "/")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
    def test_another_method_on_a_file_gets_405_with_allow(self, folder: Path, method: str) -> None:
        with pytest.raises(HandshakeError) as caught:
            StaticFiles.load(folder).respond(request("/index.html", method=method))
        assert caught.value.status == 405
        assert caught.value.headers == (("Allow", "GET, HEAD"),)

    def test_another_method_where_no_file_is_gets_nothing_from_here(self, folder: Path) -> None:
        assert StaticFiles.load(folder).respond(request("/none", method="POST")) is None


class TestContentTypes:
    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("a.html", "text/html; charset=utf-8"),
            ("a.HTML", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.min.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml; charset=utf-8"),
            ("a.png", "image/png"),
            ("a.woff2", "font/woff2"),
            ("a.wasm", "application/wasm"),
            ("a.unknown", "application/octet-stream"),
            ("html", "application/octet-stream"),
            ("a.", "application/octet-stream"),
        ],
    )
    def test_the_suffix_names_the_type(self, tmp_path: Path, name: str, content_type: str) -> None:
        response = ask(StaticFiles.load(write(tmp_path, {name: "x"})), f"/{name}")
        assert dict(response.headers)["Content-Type"] == content_type


class TestGzip:
    def test_a_text_goes_out_packed_to_a_client_that_takes_gzip(self, folder: Path) -> None:
        response = ask(StaticFiles.load(folder), "/long.txt", "Accept-Encoding: gzip, deflate, br, zstd")
        headers = dict(response.headers)
        assert headers["Content-Encoding"] == "gzip"
        assert headers["Vary"] == "Accept-Encoding"
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert gzip.decompress(response.body) == LONG_TEXT.encode()
        assert response.body[4:8] == bytes(4)  # no modification time (RFC 1952 §2.3.1)

    def test_the_same_text_as_it_is_varies_too(self, folder: Path) -> None:
        response = ask(StaticFiles.load(folder), "/long.txt")
        assert response.body == LONG_TEXT.encode()
        assert dict(response.headers)["Vary"] == "Accept-Encoding"
        assert "Content-Encoding" not in dict(response.headers)

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("long.bin", LONG_TEXT.encode()),  # not a text
            ("short.txt", b"x" * 200),  # saves less than 256 bytes
            ("noise.txt", random.Random(1).randbytes(100_000)),  # saves nothing
            # Noise and 3000 spaces save more than 256 bytes, but less than a tenth.
            ("mixed.txt", random.Random(1).randbytes(97_000) + b" " * 3000),
        ],
    )
    def test_what_gains_too_little_is_never_packed(self, tmp_path: Path, name: str, body: bytes) -> None:
        response = ask(StaticFiles.load(write(tmp_path, {name: body})), f"/{name}", "Accept-Encoding: gzip")
        assert response.body == body
        assert "Vary" not in dict(response.headers)

    @pytest.mark.parametrize(
        ("accept_encoding", "packed"),
        [
            ("gzip", True),
            ("GZip", True),
            ("x-gzip", True),
            ("*", True),
            ("br, gzip", True),
            ("gzip;q=0.001", True),
            ("gzip ; q=1.000", True),
            ("gzip\t;\tQ=0.5 ,\tbr", True),
            (", ,gzip,", True),
            ("*;q=0, gzip", True),
            ("gzip;q=0.5, identity;q=0.5", True),
            ("identity;q=0, gzip;q=0.1", True),
            ("", False),
            ("br", False),
            ("identity", False),
            ("gzip;q=0", False),
            ("gzip;q=0.000", False),
            ("gzip;q=0, *", False),
            ("*;q=0", False),
            ("x-gzip;q=0, *", False),
            ("gzip;q=0.4, identity;q=0.5", False),
            # Not well formed: passed over.
            ("gzip;q=2", False),
            ("gzip;q=1.001", False),
            ("gzip;q=0.0001", False),
            ("gzip;q=", False),
            ("gzip;q=-1", False),
            ("gzip;level=9", False),
            ("gzip gzip", False),
            ("gzipped", False),
            # Nothing fits; the file as it is beats 406 (RFC 9110 §12.5.3).
            ("identity;q=0", False),
        ],
    )
    def test_accept_encoding_chooses(self, folder: Path, accept_encoding: str, packed: bool) -> None:
        response = ask(StaticFiles.load(folder), "/long.txt", f"Accept-Encoding: {accept_encoding}")
        assert ("Content-Encoding" in dict(response.headers)) is packed

    def test_repeated_fields_are_one_list(self, folder: Path) -> None:
        fields = ("Accept-Encoding: br", "Accept-Encoding: gzip;q=0.5")
        assert "Content-Encoding" in dict(ask(StaticFiles.load(folder), "/long.txt", *fields).headers)

    @settings(deadline=None)
    @given(st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"])))
    def test_no_value_of_accept_encoding_or_if_none_match_raises(self, value: str) -> None:
        files = StaticFiles.bundled()
        response = ask(files, "/style.css", f"Accept-Encoding: {value}", f"If-None-Match: {value}")
        assert response.status in (200, 304)


class TestEntityTags:
    def test_the_tag_follows_the_content_alone(self, tmp_path: Path) -> None:
        files = StaticFiles.load(write(tmp_path, {"a.txt": "same", "b.txt": "same", "c.txt": "other"}))
        tags = [dict(ask(files, path).headers)["ETag"] for path in ("/a.txt", "/b.txt", "/c.txt")]
        assert tags[0] == tags[1] != tags[2]

    def test_each_representation_has_its_own_tag(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        plain = ask(files, "/long.txt")
        packed = ask(files, "/long.txt", "Accept-Encoding: gzip")
        assert dict(plain.headers)["ETag"] != dict(packed.headers)["ETag"]

    def test_a_changed_policy_changes_the_tag(self, folder: Path) -> None:
        before = ask(StaticFiles.load(folder, content_security_policy="default-src 'self'"))
        after = ask(StaticFiles.load(folder, content_security_policy="default-src 'none'"))
        assert dict(before.headers)["ETag"] != dict(after.headers)["ETag"]

    def test_tags_are_the_same_after_every_start(self, folder: Path) -> None:
        fields = "Accept-Encoding: gzip"
        first = ask(StaticFiles.load(folder), "/long.txt", fields)
        assert ask(StaticFiles.load(folder), "/long.txt", fields) == first

    @pytest.mark.parametrize(
        "pattern", ["{tag}", "W/{tag}", '"x", {tag}', '{tag},"x"', 'W/"x",\tW/{tag}', '"a,b" , {tag}', "*"]
    )
    def test_a_matching_tag_gets_304(self, folder: Path, pattern: str) -> None:
        files = StaticFiles.load(folder)
        tag = dict(ask(files).headers)["ETag"]
        for method in ("GET", "HEAD"):
            response = ask(files, "/", f"If-None-Match: {pattern.format(tag=tag)}", method=method)
            assert response == Response(304, (("Cache-Control", "no-cache"), ("ETag", tag)))

    @pytest.mark.parametrize("value", ["", '""', '"x"', 'W/"x"', "x", "W/", '"*"', '"'])
    def test_another_tag_gets_the_file(self, folder: Path, value: str) -> None:
        assert ask(StaticFiles.load(folder), "/", f"If-None-Match: {value}").status == 200

    def test_the_tag_without_its_quotes_matches_nothing(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        tag = dict(ask(files).headers)["ETag"]
        assert ask(files, "/", f"If-None-Match: {tag[1:-1]}").status == 200

    def test_only_the_tag_of_the_chosen_representation_matches(self, folder: Path) -> None:
        files = StaticFiles.load(folder)
        plain = dict(ask(files, "/long.txt").headers)["ETag"]
        packed = dict(ask(files, "/long.txt", "Accept-Encoding: gzip").headers)["ETag"]
        assert ask(files, "/long.txt", f"If-None-Match: {packed}").status == 200
        again = ask(files, "/long.txt", "Accept-Encoding: gzip", f"If-None-Match: {packed}")
        assert again.status == 304
        assert dict(again.headers) == {"Cache-Control": "no-cache", "ETag": packed, "Vary": "Accept-Encoding"}
        assert ask(files, "/long.txt", "Accept-Encoding: gzip", f"If-None-Match: {plain}").status == 200

    def test_a_date_alone_is_no_precondition_without_last_modified(self, folder: Path) -> None:
        field = "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"
        assert ask(StaticFiles.load(folder), "/", field).status == 200


class TestPolicies:
    def test_a_folder_has_no_policy_of_its_own(self, folder: Path) -> None:
        assert "Content-Security-Policy" not in dict(ask(StaticFiles.load(folder)).headers)

    def test_a_policy_goes_out_with_every_file(self, folder: Path) -> None:
        files = StaticFiles.load(folder, content_security_policy="default-src 'self'")
        for path in ("/", "/long.txt", "/long.bin"):
            headers = dict(ask(files, path, "Accept-Encoding: gzip").headers)
            assert headers["Content-Security-Policy"] == "default-src 'self'"
            assert "Referrer-Policy" not in headers

    @pytest.mark.parametrize("policy", ["a\r\nSet-Cookie: b", "a\nb", "a\0b", "ä", " a", "a "])
    def test_a_policy_that_is_no_header_value_is_refused(self, tmp_path: Path, policy: str) -> None:
        with pytest.raises(ValueError, match="Content-Security-Policy"):
            StaticFiles.load(tmp_path, content_security_policy=policy)


class TestBundledPage:
    def test_the_page_goes_out_under_its_policies(self) -> None:
        headers = dict(ask(StaticFiles.bundled()).headers)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Content-Security-Policy"] == BUNDLED_CONTENT_SECURITY_POLICY
        assert headers["Referrer-Policy"] == "no-referrer"

    def test_every_file_that_the_page_names_is_there(self) -> None:
        files = StaticFiles.bundled()
        page = ask(files).body.decode()
        names = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
        names |= set(re.findall(r'url\("([^"]+)"\)', ask(files, "/style.css").body.decode()))
        unread = {"page.js"}
        while unread:
            imports = set(re.findall(r'from "\./([^"]+)"', ask(files, f"/{unread.pop()}").body.decode()))
            unread |= imports - names
            names |= imports
        assert names == {"chat.js", "connection.js", "favicon.svg", "log.js", "page.js", "style.css"}
        for name in names:
            assert ask(files, f"/{name}").status == 200

    def test_the_page_has_no_inline_script_or_style(self) -> None:
        page = ask(StaticFiles.bundled()).body.decode()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
        assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]

    def test_the_packaged_folder_comes_before_the_one_of_a_checkout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, {"static/index.html": "packaged"})
        monkeypatch.setattr(resources, "files", lambda package: tmp_path)
        assert ask(StaticFiles.bundled()).body == b"packaged"


class TestLoading:
    def test_a_missing_folder_says_its_name(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing")
        with pytest.raises(FileNotFoundError) as caught:
            StaticFiles.load(missing)
        assert caught.value.filename == missing

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        with pytest.raises(NotADirectoryError) as caught:
            StaticFiles.load(folder / "index.html")
        assert caught.value.filename == str(folder / "index.html")

    def test_an_empty_folder_answers_nothing(self, tmp_path: Path) -> None:
        assert StaticFiles.load(tmp_path).respond(request("/")) is None

    def test_a_relative_path_with_links_is_a_folder_too(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder.parent / "link").symlink_to("folder", target_is_directory=True)
        monkeypatch.chdir(folder.parent)
        assert ask(StaticFiles.load("link")).body == b"<!doctype html>hello"

    def test_dotfiles_are_not_served(self, tmp_path: Path) -> None:
        files = StaticFiles.load(write(tmp_path, {".env": "secret", ".git/config": "secret", "a/.b": "secret"}))
        for path in ("/.env", "/.git/config", "/a/.b"):
            assert files.respond(request(path)) is None

    def test_links_that_lead_out_of_the_folder_are_not_followed(self, folder: Path) -> None:
        write(folder.parent, {"secret.txt": "secret", "folder-secrets/a.txt": "secret"})
        (folder / "file.txt").symlink_to(folder.parent / "secret.txt")
        (folder / "up").symlink_to("..", target_is_directory=True)
        (folder / "beside").symlink_to(folder.parent / "folder-secrets", target_is_directory=True)
        (folder / "twice.txt").symlink_to("file.txt")
        files = StaticFiles.load(folder)
        for path in ("/file.txt", "/up/secret.txt", "/beside/a.txt", "/twice.txt", "/up/folder/index.html"):
            assert files.respond(request(path)) is None

    def test_links_within_the_folder_are_followed(self, folder: Path) -> None:
        write(folder, {"..data/page.html": "mounted", "deep/er/a.txt": "a"})
        (folder / "page.html").symlink_to("..data/page.html")
        (folder / "short").symlink_to("deep/er", target_is_directory=True)
        files = StaticFiles.load(folder)
        assert ask(files, "/page.html").body == b"mounted"
        assert ask(files, "/short/a.txt").body == b"a"

    def test_links_in_a_circle_end(self, folder: Path) -> None:
        write(folder, {"a/x.txt": "x"})
        (folder / "a" / "top").symlink_to("..", target_is_directory=True)
        (folder / "a" / "self").symlink_to(".", target_is_directory=True)
        (folder / "broken").symlink_to("nothing")
        (folder / "itself").symlink_to("itself")
        files = StaticFiles.load(folder)
        assert ask(files, "/a/x.txt").body == b"x"
        assert files.respond(request("/a/self/x.txt")) is None
        assert files.respond(request("/a/top/a/x.txt")) is None

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
    def test_a_named_pipe_is_passed_over_and_holds_up_nothing(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe")
        assert StaticFiles.load(folder).respond(request("/pipe")) is None

    def test_a_file_that_cannot_be_read_is_an_error_with_its_name(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(name: str, mode: str) -> None:
            raise PermissionError(13, "Permission denied", name)

        monkeypatch.setattr(static_files, "open", refuse, raising=False)
        with pytest.raises(PermissionError, match=r"index\.html"):
            StaticFiles.load(folder)

    def test_the_bytes_of_a_folder_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(static_files, "_MAX_TOTAL_SIZE", 10)
        write(tmp_path, {"a.txt": "12345", "b.txt": "12345"})
        assert ask(StaticFiles.load(tmp_path), "/b.txt").body == b"12345"
        write(tmp_path, {"c.txt": "1"})
        with pytest.raises(ValueError, match=r"holds more than 10 bytes, and they .*; name a smaller one"):
            StaticFiles.load(tmp_path)

    def test_the_files_of_a_folder_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(static_files, "_MAX_FILES", 2)
        write(tmp_path, {"a.txt": "", "b/c.txt": ""})
        assert ask(StaticFiles.load(tmp_path), "/b/c.txt").body == b""
        write(tmp_path, {"b/d.txt": ""})
        with pytest.raises(ValueError, match=r"holds more than 2 files, and they .*; name a smaller one"):
            StaticFiles.load(tmp_path)
