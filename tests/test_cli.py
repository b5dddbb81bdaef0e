"""The command: what it serves, what it says to a person who got something wrong, how it ends."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import rawws
from rawws import cli
from rawws._build import COMPILED
from rawws._version import __version__
from tests.conftest import FAST_LANE
from tests.raw_client import CLOSE_1000, TEXT, frame, handshake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LANE = [] if FAST_LANE else ["--no-fast-lane"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command would have served, instead of serving it."""
    seen: dict[str, Any] = {}

    def run(app: object, host: str, port: int, **options: Any) -> None:
        seen.update(app=app, host=host, port=port, **options)

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(cli, "_raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: seen.update(level=options["level"]))
    return seen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.issue_cert("localhost").private_key_pem.write_to_path(folder / "other.pem")
    return folder


@contextmanager
def running(*arguments: str, module: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command in a process of its own; yields it and the first line that it prints."""
    command = [
        sys.executable,
        *(["-m", "rawws"] if module else ["-c", "import sys, rawws.cli; sys.exit(rawws.cli.main())"]),
    ]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def fetch(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    with socket.create_connection((host, port), timeout=5) as sock, sock.makefile("rb") as answer:
        sock.sendall(request)
        return answer.read()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


class TestServing:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("module", [False, True], ids=["rawws", "python -m rawws"])
    def test_it_prints_the_address_serves_and_exits_with_0_on_a_signal(
        self, number: signal.Signals, module: bool
    ) -> None:
        with running("--port", "0", *LANE, module=module) as (process, line):
            found = re.fullmatch(r"rawws is listening on http://127\.0\.0\.1:(\d+)/\n", line)
            assert found is not None, line
            port = int(found[1])
            page = fetch(port, get("/"))
            assert page.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Security-Policy: default-src 'none'" in page
            assert b'id="messageText"' in page
            assert fetch(port, get("/health")).endswith(b"\r\n\r\nok\n")
            assert fetch(port, get("/health", "HEAD")).endswith(b"\r\n\r\n")
            assert fetch(port, get("/echo")).startswith(b"HTTP/1.1 426 ")
            talk = fetch(port, handshake("/communicate") + frame(TEXT, b"hello") + CLOSE_1000)
            assert talk.endswith(b"\x81\x0eReceived:hello\x81\x06Bye!!!\x88\x02\x03\xe8")
            process.send_signal(number)
            assert process.communicate(timeout=5) == ("", "")
            assert process.returncode == 0

    def test_all_addresses_of_a_name_share_the_port_that_is_printed(self) -> None:
        with running("serve", "--port", "0", "--host", "localhost", *LANE) as (_, line):
            found = re.fullmatch(r"rawws is listening on http://localhost:(\d+)/\n", line)
            assert found is not None, line
            assert fetch(int(found[1]), get("/health"), "localhost").endswith(b"ok\n")

    def test_tls(self, certificate: Path) -> None:
        files = ["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem")]
        with running("--host", "localhost", "--port", "0", *files, *LANE) as (process, line):
            found = re.fullmatch(r"rawws is listening on https://localhost:(\d+)/\n", line)
            assert found is not None, line
            context = ssl.create_default_context(cafile=str(certificate / "authority.pem"))
            with (
                socket.create_connection(("localhost", int(found[1])), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as sock,
            ):
                sock.sendall(get("/"))
                assert sock.recv(15) == b"HTTP/1.1 200 OK"
            process.terminate()
            assert process.communicate(timeout=10) == ("", "")
            assert process.returncode == 0

    def test_its_log_has_one_line_a_bad_connection_and_no_control_characters(self) -> None:
        with running("--port", "0", "--log-level", "info", *LANE) as (process, line):
            port = int(line.rstrip("/\n").rpartition(":")[2])
            assert fetch(port, b"\x1b[2J\r\n\r\n").startswith(b"HTTP/1.1 400 ")
            assert fetch(port, b"GET /%1b HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 400 ")
            assert fetch(port, get("/")).startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=5)
        assert len(log.splitlines()) == 2
        assert all(line.isprintable() and "refused with 400" in line for line in log.splitlines())

    def test_a_port_that_is_taken_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with running("--port", str(port)) as (process, line):
                _, said = process.communicate(timeout=5)
        assert line == ""
        assert said == (
            f"rawws: port {port} on 127.0.0.1 is taken; stop what listens there, or choose another with --port\n"
        )
        assert process.returncode == 2

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_an_admin_address_that_is_taken_is_one_line(self, kind: str, tmp_path: Path) -> None:
        path = str(tmp_path / "taken")
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            taken = f"127.0.0.1:{tcp.getsockname()[1]}" if kind == "tcp" else f"unix:{path}"
            with running("--port", "0", "--admin", taken) as (process, line):
                _, said = process.communicate(timeout=5)
        assert line == ""
        assert said == f"rawws: --admin {taken}: Address already in use; choose another address\n"
        assert process.returncode == 2

    def test_with_an_admin_address_health_and_metrics_are_there_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "admin"
        with running("--port", "0", "--admin", f"unix:{path}", *LANE) as (process, line):
            port = int(line.rstrip("/\n").rpartition(":")[2])
            assert process.stdout is not None
            assert process.stdout.readline() == f"/health and /metrics are on unix:{path}\n"
            for page in ("/health", "/metrics"):
                assert fetch(port, get(page)).startswith(b"HTTP/1.1 404 ")
                with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as answer:
                    sock.connect(str(path))
                    sock.sendall(get(page))
                    assert answer.read().startswith(b"HTTP/1.1 200 ")
            process.terminate()
            assert process.communicate(timeout=5) == ("", "")
            assert process.returncode == 0
        assert not path.exists()

    def test_its_log_may_be_json(self) -> None:
        with running("--port", "0", "--log-level", "info", "--log-format", "json", *LANE) as (process, line):
            port = int(line.rstrip("/\n").rpartition(":")[2])
            fetch(port, handshake("/echo") + frame(TEXT, b"hello") + CLOSE_1000)
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=5)
        (entry,) = map(json.loads, log.splitlines())
        assert (entry["level"], entry["path"], entry["code"], entry["by"]) == ("info", "/echo", 1000, "peer")

    def test_an_output_that_nobody_reads_is_one_line(self) -> None:
        read, write = os.pipe()
        os.close(read)
        with subprocess.Popen(
            [sys.executable, "-m", "rawws", "--port", "0"], stdout=write, stderr=subprocess.PIPE, text=True
        ) as process:
            os.close(write)
            _, said = process.communicate(timeout=5)
        assert said.splitlines()[0] == "rawws: the address cannot be printed: Broken pipe; give rawws a stdout"
        assert "Traceback" not in said
        assert process.returncode != 0


class TestOptions:
    def test_without_arguments_it_serves_the_page_on_port_8000_of_loopback(self, served: dict[str, Any]) -> None:
        assert cli.main([]) == 0
        assert (served["host"], served["port"]) == ("127.0.0.1", 8000)
        assert set(served["app"]) >= {"/communicate", "/echo", "/echo/task", "/broadcast"}
        assert served["admin"] is True
        assert served["hosts"] is None
        assert served["ssl_context"] is None
        assert served["origins"] is None
        assert served["limits"] == rawws.Limits()
        assert served["compression"] is True
        assert served["fast_lane"] is True
        assert served["level"] == "WARNING"

    def test_the_arguments_may_be_the_processs_own(
        self, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["rawws", "--port", "1"])
        assert cli.main() == 0
        assert served["port"] == 1

    def test_every_option_reaches_the_server(self, served: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "index.html").write_text("mine")
        arguments = ["serve", "--host", "::1", "--port", "0", "--static", str(tmp_path), "--no-compression"]
        arguments += ["--content-security-policy", "default-src 'self'", "--no-fast-lane", "--log-level", "debug"]
        arguments += ["--origin", "HTTPS://Example.com:443", "--origin", "*", "--log-format", "json"]
        arguments += ["--allowed-host", "Example.com", "--allowed-host", "[::1]:80", "--admin", "[::1]:9000"]
        assert cli.main(arguments) == 0
        assert (served["host"], served["port"]) == ("::1", 0)
        assert served["origins"] == ["https://example.com", "*"]
        assert served["hosts"] == ["example.com", "[::1]:80"]
        assert served["admin"] == ("::1", 9000)
        assert served["compression"] is False
        assert served["fast_lane"] is False
        assert served["level"] == "DEBUG"
        answer = served["static"].respond(rawws.Request("GET", "/", "/", "", rawws.Headers()))
        assert answer.body == b"mine"
        assert ("Content-Security-Policy", "default-src 'self'") in answer.headers

    def test_a_folder_of_ones_own_has_no_policy_unless_asked(self, served: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "index.html").write_text("mine")
        assert cli.main(["--static", str(tmp_path)]) == 0
        answer = served["static"].respond(rawws.Request("GET", "/", "/", "", rawws.Headers()))
        assert "Content-Security-Policy" not in dict(answer.headers)

    @pytest.mark.parametrize("field", dataclasses.fields(rawws.Limits), ids=lambda field: field.name)
    def test_every_limit_has_a_flag_of_its_name(self, served: dict[str, Any], field: dataclasses.Field[Any]) -> None:
        value = {"slow_consumer": "drop_oldest"}.get(field.name, "7")
        assert cli.main([f"--{field.name.replace('_', '-')}", value]) == 0
        limits = served["limits"]
        assert str(getattr(limits, field.name)) in (value, "7.0")
        assert dataclasses.replace(limits, **{field.name: field.default}) == rawws.Limits()

    def test_a_deadline_may_be_off(self, served: dict[str, Any]) -> None:
        assert cli.main(["--ping-interval", "inf", "--head-timeout", "0.5"]) == 0
        assert served["limits"] == rawws.Limits(ping_interval=float("inf"), head_timeout=0.5)

    def test_tls_takes_a_key_beside_or_within_the_certificate(self, served: dict[str, Any], certificate: Path) -> None:
        assert cli.main(["--tls-cert", str(certificate / "both.pem")]) == 0
        assert isinstance(served["ssl_context"], ssl.SSLContext)
        key = ["--tls-key", str(certificate / "key.pem")]
        assert cli.main(["--tls-cert", str(certificate / "cert.pem"), *key]) == 0
        assert isinstance(served["ssl_context"], ssl.SSLContext)


class TestHelp:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["--version"])
        assert caught.value.code == 0
        build = "compiled" if COMPILED else "pure Python"
        assert capsys.readouterr().out == f"rawws {__version__} ({build})\n"

    @pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["serve", "--help"]])
    def test_help_has_examples(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        said = capsys.readouterr().out
        examples = re.findall(r"^  (rawws .*?)(?:  +\S.*)?$", said, re.MULTILINE)
        assert len(examples) >= 5
        parser = cli._parser()
        for example in examples:
            words = example.split()[1:]
            if words and words != ["serve", "--help"]:
                parser.parse_args(words)  # raises

    def test_every_limit_is_explained_with_its_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["serve", "--help"])
        said = " ".join(capsys.readouterr().out.split())
        for field in dataclasses.fields(rawws.Limits):
            assert f"--{field.name.replace('_', '-')} " in said
        assert "(default: 1048576)" in said
        assert "at most 64 MiB in 10 000 files" in said
        assert "414 beyond 8 KiB of its target" in said
        assert "(default: max- message-size / 64)" in said or "(default: max-message-size / 64)" in said


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--port", "99999"], r"--port: a port is a number from 0 to 65535; see rawws serve --help"),
            (["--port", "9" * 5000], r"--port: a port is a number from 0 to 65535; see rawws serve --help"),
            (["--host", "*"], r"--host: give 0\.0\.0\.0 for every IPv4 address of this machine, :: for .*"),
            (["--port", "http"], r"--port: a port is a number from 0 to 65535; see rawws serve --help"),
            (["--static", "/no/such"], r"--static /no/such: No such file or directory; name a folder that can be read"),
            (["--static", __file__], r"--static \S+: Not a directory; name a folder that can be read"),
            (["--content-security-policy", "x"], r"--content-security-policy goes with --static; .*"),
            (["--tls-key", "key.pem"], r"--tls-key needs --tls-cert beside it"),
            (["--tls-cert", "/no/such"], r"/no/such: No such file or directory; name PEM files that can be read"),
            (["--tls-cert", __file__], r"--tls-cert \S+: no certificate in PEM with the key .*; name both .*"),
            (["--origin", "example.com"], r"--origin: 'example.com' is not an origin: it should look like .*"),
            (["--allowed-host", "http://a"], r"--allowed-host: 'http://a' is not a host: it should look like .*"),
            (["--admin", "9000"], r"--admin: '9000' is no address: it should look like 127.0.0.1:9000, .*"),
            (["--admin", "localhost"], r"--admin: 'localhost' is no address: .*"),
            (["--admin", "unix:"], r"--admin: 'unix:' is no address: .*"),
            (["--log-format", "xml"], r"--log-format: invalid choice: 'xml' .*"),
            (["--head-timeout", "0"], r"--head-timeout: give a number of seconds above 0, or inf; .*"),
            (["--head-timeout", "nan"], r"--head-timeout: give a number of seconds above 0, or inf; .*"),
            (["--head-timeout", "soon"], r"--head-timeout: give a number of seconds above 0, or inf; .*"),
            (["--max-connections", "0"], r"--max-connections: give a whole number from 1; .*"),
            (["--max-message-size", "9" * 5000], r"--max-message-size: give a whole number of at most 18 digits; .*"),
            (["--max-message-size", "1MB"], r"--max-message-size: give a whole number from 1; .*"),
            (["--slow-consumer", "wait"], r"--slow-consumer: invalid choice: 'wait' .*"),
            (["--log-level", "loud"], r"--log-level: invalid choice: 'loud' .*"),
            (["--no-such-flag"], r"unrecognized arguments: --no-such-flag; see rawws serve --help"),
            (["dance"], r"COMMAND: invalid choice: 'dance' .*"),
        ],
    )
    def test_a_mistake_is_one_line_that_says_what_to_do_and_status_2(
        self, served: dict[str, Any], capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
    ) -> None:
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(f"rawws: {says}\n", err), err
        assert served == {}

    def test_a_key_that_belongs_to_another_certificate(
        self, served: dict[str, Any], certificate: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = ["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "other.pem")]
        assert cli.main(files) == 2
        assert re.fullmatch(
            r"rawws: --tls-cert \S+: no certificate in PEM with the key that belongs to it \(\w+\); .*\n",
            capsys.readouterr().err,
        )

    @pytest.mark.parametrize(
        ("cert", "key", "missing"),
        [("cert.pem", "nope", "nope"), ("nope", "key.pem", "nope"), ("no", "nope", "no or nope")],
    )
    def test_of_certificate_and_key_the_missing_one_is_named(
        self,
        certificate: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        cert: str,
        key: str,
        missing: str,
    ) -> None:
        monkeypatch.chdir(certificate)
        assert cli.main(["--tls-cert", cert, "--tls-key", key]) == 2
        said = f"rawws: {missing}: No such file or directory; name PEM files that can be read\n"
        assert capsys.readouterr().err == said

    def test_a_key_with_a_password_is_one_line(
        self, served: dict[str, Any], certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        key = load_pem_private_key((certificate / "key.pem").read_bytes(), None)
        encrypted = tmp_path / "encrypted.pem"
        encrypted.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password"))
        )
        assert cli.main(["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(encrypted)]) == 2
        assert re.fullmatch(r"rawws: the key of --tls-cert is encrypted; decrypt it with .*\n", capsys.readouterr().err)
        assert served == {}

    def test_a_folder_that_is_too_large_or_a_policy_that_is_none(
        self, served: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["--static", str(tmp_path), "--content-security-policy", "a\nb"]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (OSError(errno.EADDRINUSE, "x"), "port 80 on a.name is taken; stop what listens there, or choose another"),
            (OSError(errno.EACCES, "x"), "port 80 on a.name needs more rights; choose one above 1023 with --port"),
            (OSError(errno.EADDRNOTAVAIL, "x"), "a.name is no address of this machine; choose another with --host"),
            (socket.gaierror(-2, "x"), "'a.name' is no name or address that is known here; choose another with --host"),
            (UnicodeError("x"), "'a.name' is no name or address that is known here; choose another with --host"),
            (OSError(errno.ENFILE, "odd"), "cannot listen on a.name port 80: "),
        ],
        ids=["taken", "rights", "foreign", "unknown", "no name", "other"],
    )
    def test_what_keeps_it_from_listening_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, says: str
    ) -> None:
        def run(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(cli, "run", run)
        assert cli.main(["--host", "a.name", "--port", "80"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"rawws: {says}")
        assert err.count("\n") == 1

    def test_a_name_that_nobody_knows(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--host", "a..b", "--port", "0"]) == 2
        assert capsys.readouterr().err == (
            "rawws: 'a..b' is no name or address that is known here; choose another with --host\n"
        )

    def test_a_keyboard_interrupt_before_it_listens_is_no_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "run", run)
        assert cli.main([]) == 130


class TestAnnouncement:
    @pytest.mark.parametrize(
        ("host", "addresses", "printed"),
        [
            ("127.0.0.1", [("127.0.0.1", 80)], ["http://127.0.0.1:80/"]),
            ("::1", [("::1", 80)], ["http://[::1]:80/"]),
            ("0.0.0.0", [("0.0.0.0", 80)], ["http://localhost:80/"]),
            ("", [("0.0.0.0", 80), ("::", 80)], ["http://localhost:80/"]),
            ("a.name", [("192.0.2.1", 80), ("2001:db8::1", 80)], ["http://a.name:80/"]),
            (
                "a.name",
                [("192.0.2.1", 80), ("2001:db8::1", 81)],
                ["http://192.0.2.1:80/", "http://[2001:db8::1]:81/"],
            ),
        ],
    )
    def test_it_prints_what_a_browser_can_open(
        self, host: str, addresses: list[Any], printed: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Listening:
            def __init__(self) -> None:
                self.addresses = addresses
                self.admin_addresses: list[Any] = []

        cli._announcement(host, "http")(Listening())  # type: ignore[arg-type]
        assert capsys.readouterr().out.splitlines() == [f"rawws is listening on {url}" for url in printed]

    def test_it_prints_where_health_and_metrics_have_an_address_of_their_own(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Listening:
            addresses = (("127.0.0.1", 80),)
            admin_addresses = (("::1", 9000), "/run/rawws.sock")

        cli._announcement("127.0.0.1", "http")(Listening())  # type: ignore[arg-type]
        assert capsys.readouterr().out.splitlines()[1:] == [
            "/health and /metrics are on http://[::1]:9000",
            "/health and /metrics are on unix:/run/rawws.sock",
        ]


@pytest.mark.skipif(os.name != "posix", reason="is about POSIX limits")
class TestDescriptors:
    def test_it_allows_itself_as_many_as_the_system_lets_it_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import resource

        allowed: list[object] = []
        monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
        monkeypatch.setattr(resource, "setrlimit", lambda which, limits: allowed.append(limits))
        cli._raise_descriptor_limit()
        assert allowed == [(4096, 4096)]

    def test_a_system_that_refuses_is_left_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import resource

        def setrlimit(which: int, limits: tuple[int, int]) -> None:
            raise ValueError("not allowed to raise maximum limit")

        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        cli._raise_descriptor_limit()

    def test_where_there_is_no_such_limit_there_is_nothing_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli, "os", type("os", (), {"name": "nt"}))
        cli._raise_descriptor_limit()


class TestBackplane:
    def test_it_is_shared_by_the_chat_and_the_broadcast_and_open_while_the_server_runs(
        self, served: dict[str, Any]
    ) -> None:
        assert cli.main(["--backplane", "redis://localhost:6379/1"]) == 0
        assert isinstance(served["lifespan"], rawws.RedisBackplane)
        assert served["app"]["/chat"].backplane is served["lifespan"]
        assert type(served["app"]["/broadcast"]).__name__ == "SharedBroadcast"

    def test_without_one_the_process_is_alone(self, served: dict[str, Any]) -> None:
        assert cli.main([]) == 0
        assert served["lifespan"] is None
        assert isinstance(served["app"]["/chat"].backplane, rawws.MemoryBackplane)

    def test_a_url_of_something_else_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--backplane", "http://localhost"]) == 2
        assert capsys.readouterr().err.startswith("rawws: --backplane: the scheme of a Redis URL is one of redis, ")

    @pytest.mark.parametrize("several", [(), ("--workers", "2")])
    def test_a_file_of_the_url_that_is_missing_is_named(
        self, several: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main([*several, "--backplane", "rediss://localhost?ca=/no/such.pem"]) == 2
        said = "rawws: --backplane: /no/such.pem: No such file or directory; name PEM files that can be read\n"
        assert capsys.readouterr().err == said

    def test_redis_that_is_not_there_is_one_line_without_the_password(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # nobody listens
            port = taken.getsockname()[1]
            assert cli.main(["--port", "0", "--backplane", f"redis://:secret@127.0.0.1:{port}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"rawws: --backplane: Redis at 127.0.0.1:{port} cannot be used: ")
        assert said.endswith("start it, or name another\n")
        assert said.count("\n") == 1
        assert "secret" not in said

    def test_without_the_library_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("rawws.redis_backplane", "rawws.redis_link"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, "coredis", None)
        assert cli.main(["--backplane", "redis://localhost"]) == 2
        assert capsys.readouterr().err == (
            "rawws: --backplane needs coredis; install it with: pip install 'rawws[redis]'\n"
        )
        assert rawws.RedisBackplane.__doc__  # it can be read about without
        with pytest.raises(ImportError, match=r"needs coredis: pip install 'rawws\[redis\]'"):
            rawws.RedisBackplane("redis://localhost")
