"""What CI checks besides tests: the README's lines, that nothing skipped, that a wheel serves.

`.ci/run` and the Makefile call it by subcommand; it needs Python 3.11 and nothing else. A check prints
what it saw and exits 0, or says in a line what is wrong and exits 1. The README's lines are found by a
comment right above their fenced block, `<!-- ci: test -->` and `<!-- ci: serve -->`, so that the text
around them is free.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

CHECKOUT = Path(__file__).resolve().parents[1]
SECONDS_TO_SERVE = 300.0  # a README line creates an environment and installs into it first
SECONDS_TO_STOP = 20.0  # more than the default shutdown_timeout
IN_THE_WHEEL = ("rawws/__init__.py", "rawws/py.typed", "rawws/static/index.html")


class CheckError(Exception):
    """A check failed; the message says what was found."""


def readme_line(name: str) -> str:
    """Return the one line of the fenced block under `<!-- ci: NAME -->` in the README."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(rf"^<!-- ci: {re.escape(name)} -->\n+```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if len(marked) != 1:
        raise CheckError(f"README.md has {len(marked)} fenced blocks under a line `<!-- ci: {name} -->`; it needs one")
    lines = [line for line in marked[0].splitlines() if line.strip()]
    if len(lines) != 1:
        raise CheckError(f"the block under `<!-- ci: {name} -->` in README.md has {len(lines)} lines, not one")
    return str(lines[0].strip())


def no_skips(junit: Path) -> str:
    """Say how many tests a pytest report holds, all of which must have run and passed."""
    try:
        cases = list(ElementTree.parse(junit).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise CheckError(f"no report of the tests in {junit}: {error}") from error
    if not cases:
        raise CheckError(f"{junit} holds no test")
    bad = []
    for case in cases:
        # An expected failure is reported as skipped too, and is as little of a proof.
        for kind in ("skipped", "failure", "error"):
            if (found := case.find(kind)) is not None:
                name = f"{case.get('classname')}::{case.get('name')}"
                bad.append(f"{kind}: {name}: {found.get('message', '').partition(chr(10))[0]}")
    if bad:
        raise CheckError("\n".join([f"{len(bad)} of {len(cases)} tests did not run and pass:", *bad]))
    return f"{len(cases)} tests, none skipped"


def wheel(file: Path) -> str:
    """Install a wheel into a fresh environment and see that the command in it serves the page."""
    names = set(zipfile.ZipFile(file).namelist())
    if missing := [name for name in IN_THE_WHEEL if name not in names]:
        raise CheckError(f"{file.name} lacks {', '.join(missing)}")
    version = file.name.split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        bin_ = Path(folder, "bin")
        subprocess.run([bin_ / "python", "-m", "pip", "install", "--quiet", file.resolve()], check=True)
        rawws = str(bin_ / "rawws")
        told = subprocess.run([rawws, "--version"], check=True, capture_output=True, text=True, cwd=folder)
        if version not in told.stdout.split():
            raise CheckError(f"`rawws --version` of {file.name} says {told.stdout.strip()!r}")
        return f"{file.name}: {serves([rawws, 'serve', '--port', '0'], Path(folder))}"


def serves(command: list[str], folder: Path) -> str:
    """Start a command that serves, fetch the page, say hello on `/communicate`, and end it with SIGTERM.

    The command runs in `folder`, as the leader of its own process group, which is what gets the signal: a
    line of shell has children.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = _address(process, output.fileno())
            with urllib.request.urlopen(address, timeout=10) as answer:
                page = answer.read().decode()
            if 'id="messageText"' not in page:
                raise CheckError(f"{address} is not the page: {page[:200]!r}")
            _say_hello(address)
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(SECONDS_TO_STOP)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CheckError(f"{error}\n{_read(output.fileno())}") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = _read(output.fileno())
    if "Traceback (most recent call last)" in said:
        raise CheckError(f"the server ended with a traceback:\n{said}")
    return "the page came, hello was answered, SIGTERM ended it"


def _address(process: subprocess.Popen[bytes], output: int) -> str:
    end = time.monotonic() + SECONDS_TO_SERVE
    while process.poll() is None and time.monotonic() < end:
        if found := re.search(r"http://\S+:\d+/", _read(output)):
            return found[0]
        time.sleep(0.1)
    raise CheckError(f"no address was printed (exit status {process.poll()}):\n{_read(output)}")


def _read(file: int) -> str:
    return os.pread(file, 1 << 20, 0).decode(errors="replace")


def _say_hello(address: str) -> None:
    at = urlsplit(address)
    with socket.create_connection((at.hostname, at.port), timeout=10) as sock, sock.makefile("rb") as answer:
        sock.sendall(
            b"GET /communicate HTTP/1.1\r\n"
            b"Host: " + at.netloc.encode() + b"\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            b"\x81\x85\x00\x00\x00\x00hello"  # FIN and text, masked, 5 bytes, a masking key of zeros
        )
        status = answer.readline()
        if b" 101 " not in status:
            raise CheckError(f"/communicate answers {status!r}")
        while answer.readline().strip():
            pass
        frame = answer.read(16)
        if frame != b"\x81\x0eReceived:hello":
            raise CheckError(f"/communicate answers hello with {frame!r}")


def main() -> int:
    """Run one check and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="check", required=True)
    commands.add_parser("readme-line", help="print a line of the README").add_argument("name")
    commands.add_parser("readme-serves", help="run the README's serve line").add_argument("folder", type=Path)
    commands.add_parser("no-skips", help="read a JUnit report").add_argument("file", type=Path)
    commands.add_parser("wheel", help="try a wheel").add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        match options.check:
            case "readme-line":
                print(readme_line(options.name))
            case "readme-serves":
                print(serves(["bash", "-c", readme_line("serve")], options.folder))
            case "no-skips":
                print(no_skips(options.file))
            case "wheel":
                print(wheel(options.file))
    except (CheckError, subprocess.CalledProcessError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
