"""The flags of `rawws connect`: what they become, and what a person is told who gets one wrong."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

import rawws
from rawws import cli, connect_command
from rawws.terminal import Settings

if TYPE_CHECKING:
    from pathlib import Path

URL = "localhost:8000/echo"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the command would have done, instead of doing it."""
    seen: list[Settings] = []

    async def talk(settings: Settings) -> int:
        seen.append(settings)
        return 1

    monkeypatch.setattr(connect_command, "talk", talk)
    return seen


def test_without_flags_everything_is_as_the_library_has_it(asked: list[Settings]) -> None:
    assert cli.main(["connect", URL]) == 1
    assert asked == [Settings(url=URL)]


def test_an_address_without_a_scheme_is_a_plain_one() -> None:
    assert Settings(url=URL).address == f"ws://{URL}"
    assert Settings(url="wss://example.com").address == "wss://example.com"


def test_every_flag_reaches_the_client(asked: list[Settings]) -> None:
    arguments = ["connect", "--header", "X-A: b:c", "--header", "X-D:", "--subprotocol", "a", "--subprotocol", "b"]
    arguments += ["--origin", "https://example.com", "--proxy", "socks5://localhost:1080", "--no-compression"]
    arguments += ["--binary", "--max-message-size", "100", "--wait", "inf", "--insecure", "wss://example.com"]
    assert cli.main(arguments) == 1
    (settings,) = asked
    assert settings.headers == (("X-A", "b:c"), ("X-D", ""))
    assert settings.subprotocols == ("a", "b")
    assert settings.origin == "https://example.com"
    assert settings.proxy == "socks5://localhost:1080"
    assert settings.compression is False
    assert settings.binary is True
    assert settings.limits == rawws.Limits(max_message_size=100)
    assert settings.wait == float("inf")
    assert settings.ssl_context is not None
    assert settings.ssl_context.verify_mode is ssl.CERT_NONE
    assert settings.ssl_context.check_hostname is False


def test_the_named_authority_alone_is_trusted(asked: list[Settings], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    assert cli.main(["connect", URL, "--cacert", str(tmp_path / "authority.pem")]) == 1
    (settings,) = asked
    assert settings.ssl_context is not None
    assert settings.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert len(settings.ssl_context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], r"the following arguments are required: URL; see rawws connect --help"),
        ([URL, "--header", "x"], r"--header: 'x' is no header field: it should look like Name:value; .*"),
        ([URL, "--header", ":x"], r"--header: ':x' is no header field: it should look like Name:value; .*"),
        ([URL, "--wait", "0"], r"--wait: give a number of seconds above 0, or inf; .*"),
        ([URL, "--max-message-size", "0"], r"--max-message-size: give a whole number from 1; .*"),
        ([URL, "--cacert", "/no/such"], r"--cacert /no/such: No such file or directory; name a file that can be read"),
        ([URL, "--cacert", __file__], r"--cacert \S+: no certificate in PEM; name a file that has one"),
        ([URL, "--cacert", "a", "--insecure"], r"--insecure: not allowed with argument --cacert; .*"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do_and_status_2(
    asked: list[Settings], capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert cli.main(["connect", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"rawws: {says}\n", err), err
    assert asked == []


def test_no_connection_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["connect", "ftp://localhost"]) == 2
    assert capsys.readouterr() == (
        "",
        "rawws: the address should begin with ws:// or wss://; see rawws connect --help\n",
    )


def test_help_has_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["connect", "--help"])
    assert caught.value.code == 0
    examples = re.findall(r"^  .*?rawws (connect .*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(examples) >= 4
    for example in examples:
        cli._parser().parse_args(example.split())  # raises
