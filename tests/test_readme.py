"""What the README says is true: its example runs, its tables are those of the code."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import rawws

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _python_block(name: str) -> str:
    found = re.search(rf"^<!-- test: {name} -->\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _connect(port: int, server: subprocess.Popen[bytes]) -> socket.socket:
    """Connect as soon as the server listens; the example prints nothing that would tell when."""
    while True:
        assert server.poll() is None, "the example ended by itself"
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            os.sched_yield()


def _table(title: str) -> list[list[str]]:
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_echo_example_echoes() -> None:
    port = _free_port()
    code = _python_block("echo").replace("8000", str(port))
    assert str(port) in code
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        with _connect(port, server) as sock:
            key = base64.b64encode(bytes(16))
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
            )
            # FIN and text, masked, 5 bytes, a masking key of zeros.
            sock.sendall(b"\x81\x85\x00\x00\x00\x00hello")
            answer = b""
            while not answer.endswith(b"\x81\x05hello"):
                received = sock.recv(4096)
                assert received, answer
                answer += received
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    finally:
        server.kill()
        server.wait()


def test_the_table_of_limits_is_that_of_the_code() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(rawws.Limits)}
    told = {row[0].strip("`"): row[1] for row in _table("Limits")}
    assert list(told) == list(fields)
    for name, default in fields.items():
        if isinstance(default, (int, float)):
            assert float(re.sub(r"[^\d.]", "", told[name])) in (default, default / 1024, default / 1024**2), name


def test_the_table_of_modules_names_every_module() -> None:
    told = set(re.findall(r"`(\w+)\.py`", README.partition("\n## Architecture\n")[2].partition("\n## ")[0]))
    there = {path.stem for path in (ROOT / "src" / "rawws").glob("*.py")} - {"__init__", "__main__", "_version"}
    assert told == there
