"""Starting what the matrix plays: the programs in `peers/`, and nginx and HAProxy with files of their own.

A client is run to its end, a server until its first line has told where it listens. What a machine lacks is a
`MissingError` that says what to install; npm fetches Node and `ws` into build/npm.
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.interop.matrix import Peer

__all__ = [
    "PROGRAMS",
    "ROOT",
    "MissingError",
    "ProgramError",
    "installed_version",
    "program_command",
    "run_client",
    "running_proxy",
    "running_server",
]

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(__file__).with_name("peers")
_NPM: Final = ROOT / "build" / "npm"
_NODE: Final = f"node-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
"""npm's package of Node itself: that of Debian is older than Node's own WebSocket."""
_NODE_PACKAGES: Final = {_NODE: "24", "ws": "8"}
_SECONDS_TO_START: Final = 20.0
_SECONDS_TO_PLAY: Final = 90.0
"""For all cells of a peer, which take a few seconds; a cell that hangs takes those after it along."""

_CAPTURED: Final[Mapping[str, Any]] = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "check": True,
}

_NGINX: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    ssl_certificate {folder}/both.pem;
    ssl_certificate_key {folder}/both.pem;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "Upgrade";
    proxy_set_header Host $http_host;
{servers}
}}
"""
_NGINX_SERVER: Final = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        location / {{ proxy_pass http://{upstream}; }}
    }}
"""
_HAPROXY: Final = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 1h
"""
_HAPROXY_SERVER: Final = """\
listen port{port}
    bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn http/1.1
    server rawws {upstream}
"""


class MissingError(Exception):
    """A peer is not installed; the message says what to do."""


class ProgramError(Exception):
    """A peer ended, or did not start, as it should not; the message has what it said."""


def program_command(peer: Peer) -> list[str]:
    """Return the command of a program in `peers/`.

    Raises:
        MissingError: it needs what is not there.
    """
    if peer.kind == "node":
        return [str(_node()), str(PROGRAMS / f"{peer.program}.js")]
    return [sys.executable, "-m", f"tests.interop.peers.{peer.program}"]


def _node() -> Path:
    """Return npm's Node, fetched with the other packages where one of them is missing."""
    modules = _NPM / "node_modules"
    if not all((modules / name / "package.json").exists() for name in _NODE_PACKAGES):
        wanted = [f"{name}@{number}" for name, number in _NODE_PACKAGES.items()]
        if npm := shutil.which("npm"):
            subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(_NPM), *wanted], check=False)
        if not all((modules / name / "package.json").exists() for name in _NODE_PACKAGES):
            raise MissingError(f"install npm, or run `npm install --prefix build/npm {' '.join(wanted)}`")
    return modules / _NODE / "bin" / "node"


def installed_version(peer: Peer) -> str:
    """Return the version of what a peer is made of, as that says itself."""
    if peer.kind == "python":
        return version(peer.package)
    if peer.kind == "node":
        package = _NODE if peer.package == "node" else peer.package
        _node()
        found = json.loads((_NPM / "node_modules" / package / "package.json").read_text(encoding="utf-8"))
        return str(found["version"])
    said = subprocess.run([_command(peer.package), "-v" if peer.kind == "proxy" else "--version"], **_CAPTURED)
    match = re.search(r"\d+(\.\d+)+", said.stdout)
    return match[0] if match else "?"


def _command(name: str) -> str:
    # Debian's daemons are where the path of a person who is not root does not lead.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingError(f"install Debian's {'nginx-light' if name == 'nginx' else name}")
    return found


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    return {**os.environ, "PYTHONPATH": path, "NODE_PATH": str(_NPM / "node_modules")}


def run_client(command: Sequence[str], addresses: Mapping[str, str], cells: Sequence[str]) -> list[dict[str, Any]]:
    """Run a client to its end and return its lines, fewer than cells where it did not come to all of them.

    What it said besides is printed when something went wrong.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, json.dumps(addresses), *cells],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=_environment(),
        )
        try:
            output, _ = process.communicate(timeout=_SECONDS_TO_PLAY)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        told = [json.loads(line) for line in output.splitlines()]
        if process.returncode or any("problem" in line for line in told):
            errors.seek(0)
            print(f"{command[-1]} ended with {process.returncode}, and said:\n{errors.read()[-4000:]}")
    return told


@contextmanager
def running_server(command: Sequence[str]) -> Iterator[dict[str, str]]:
    """Start a server, yield the addresses that its first line tells, and end it.

    Raises:
        ProgramError: it ended, or told nothing in time.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=_environment(),
        )
        try:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], _SECONDS_TO_START)[0]
            line = process.stdout.readline() if ready else ""
            if not line:
                errors.seek(0)
                raise ProgramError(f"{command[-1]} did not start:\n{errors.read()[-4000:]}")
            yield json.loads(line)
        finally:
            _end(process)


@contextmanager
def running_proxy(name: str, behind: Mapping[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """Start a proxy with TLS in front of each address of a server, yield its addresses, and end it.

    Args:
        name: `nginx` or `haproxy`.
        behind: the server's addresses.
        folder: it holds the certificate, `both.pem`, and takes the proxy's files.

    Raises:
        MissingError, ProgramError: as for a server.
    """
    command = _command(name)
    ports = dict(zip(behind, _free_ports(len(behind)), strict=True))
    template = _NGINX_SERVER if name == "nginx" else _HAPROXY_SERVER
    servers = "".join(
        template.format(port=ports[key], upstream=url.removeprefix("ws://"), folder=folder)
        for key, url in behind.items()
    )
    config = folder / f"{name}.conf"
    config.write_text(_NGINX.format(folder=folder, servers=servers) if name == "nginx" else _HAPROXY + servers)
    arguments = ["-p", str(folder), "-c", str(config)] if name == "nginx" else ["-f", str(config)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen([command, *arguments], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            deadline = time.monotonic() + _SECONDS_TO_START
            for port in ports.values():
                while not _listens(port):
                    if process.poll() is not None or time.monotonic() > deadline:
                        errors.seek(0)
                        raise ProgramError(f"{name} did not start:\n{errors.read()[-4000:]}")
                    time.sleep(0.01)
            yield {key: f"wss://localhost:{port}" for key, port in ports.items()}
        finally:
            _end(process)


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on, all of them found before any is given back."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
