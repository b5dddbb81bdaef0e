"""Several processes on one port, with real processes: what clients see when one dies, is replaced, or all end."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from rawws import cli
from rawws.supervisor import WorkersDidNotStartError
from rawws.workers import Listening, lead, spawner
from tests.conftest import FAST_LANE
from tests.raw_client import CLOSE_1000, TEXT, Client, frame, handshake
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need POSIX")

LANE = [] if FAST_LANE else ["--no-fast-lane"]
SECONDS = 20.0
"""What a busy machine may take for something that takes it well below one."""


class Running:
    """The command with workers."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.process = process
        found = re.fullmatch(r"rawws is listening on https?://127\.0\.0\.1:(\d+)/\n", line)
        assert found is not None, (line, process.communicate())
        self.port = int(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """Fetch a page: its status and body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as sock, sock.makefile("rb") as answer:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            head, _, body = answer.read().partition(b"\r\n\r\n")
        return int(head[9:12]), body.decode()

    def workers(self) -> dict[int, int]:
        """The processes that serve and answer, by place."""
        status, body = self.get("/health")
        assert status == (200 if body.startswith("ok\n") else 503), body
        found = re.findall(r"worker (\d+): serving for \d+ s as process (\d+), \d+ connections", body)
        return {int(place): int(pid) for place, pid in found}

    def until(self, condition: Callable[[dict[int, int]], bool]) -> dict[int, int]:
        """Wait until the workers are as they should be."""
        by = time.monotonic() + SECONDS
        while not condition(workers := self.workers()):
            assert time.monotonic() < by, workers
            time.sleep(0.02)
        return workers

    def open(self, path: str) -> socket.socket:
        """Open a WebSocket."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        sock.sendall(handshake(path))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            received = sock.recv(4096)
            assert received, answer
            answer += received
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return sock

    def open_on_each(self, path: str) -> dict[int, socket.socket]:
        """Open a WebSocket on each worker; the place of the worker of each."""
        pids = self.workers()
        found: dict[int, socket.socket] = {}
        spare = []
        for _ in range(1000):
            sock = self.open(path)
            place = next(place for place, pid in pids.items() if has_peer(pid, sock))
            spare.append(found.pop(place, None))
            found[place] = sock
            if len(found) == len(pids):
                break
        for other in spare:
            if other is not None:
                other.close()
        assert len(found) == len(pids)
        return found

    def end(self, number: int = signal.SIGTERM) -> list[str]:
        """Have it end; the lines of its log but for the one about rooms."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        assert out == ""
        assert self.process.returncode == 0
        assert "Traceback" not in err, err
        first, *lines = err.splitlines()
        assert "WARNING rawws: /chat and /broadcast are refused: With several workers" in first
        return lines


def has_peer(pid: int, sock: socket.socket) -> bool:
    """Whether a process holds the other end of a TCP connection (Linux)."""
    ours = "{1:04X}".format(*sock.getsockname())
    with open(f"/proc/{pid}/net/tcp") as table:
        inodes = {row.split()[9] for row in table if row.split()[2].endswith(f":{ours}")}
    return bool(inodes & {name[8:-1] for name in descriptors(pid).values() if name.startswith("socket:[")})


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open (Linux)."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def children(pid: int) -> set[int]:
    """The processes that a process has started and that have not ended (Linux)."""
    found: set[int] = set()
    for table in Path(f"/proc/{pid}/task").glob("*/children"):  # of each thread, for any may have started one
        with suppress(OSError):  # that thread has ended
            found.update(map(int, table.read_text().split()))
    return found


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    by = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < by
        time.sleep(0.02)


def rest(sock: socket.socket) -> bytes:
    """What still comes until the end."""
    sock.settimeout(SECONDS)
    data = b""
    while received := sock.recv(4096):
        data += received
    return data


@contextmanager
def running(*arguments: str, pass_fds: tuple[int, ...] = ()) -> Iterator[Running]:
    """Run the command in a process of its own, with two workers on a free port."""
    command = [sys.executable, "-m", "rawws", "serve", "--workers", "2", "--port", "0", *LANE, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "--admin" in arguments:
                assert process.stdout.readline() == f"/health and /metrics are on {arguments[-1]}\n"
            yield Running(process, line)
        finally:
            process.kill()


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class TestServing:
    def test_all_of_them_serve_and_one_tells_of_all(self) -> None:
        with running() as command:
            assert set(command.workers()) == {0, 1}
            for number in range(20):
                with command.open("/echo") as sock:
                    sock.sendall(frame(TEXT, b"%02d" % number) + CLOSE_1000)
                    assert rest(sock) == b"\x81\x02%02d\x88\x02\x03\xe8" % number
            status, metrics = command.get("/metrics")
            assert status == 200
            assert "\nrawws_messages_received_total 20.0\n" in metrics
            assert '\nrawws_websockets_closed_total{by="peer",code="1000"} 20.0\n' in metrics
            assert '\nrawws_workers{state="serving"} 2.0\n' in metrics
            assert "\nrawws_worker_deaths_total 0.0\n" in metrics
            assert command.end() == []

    def test_what_a_second_process_would_split_is_refused(self) -> None:
        with running() as command:
            for path in ("/chat", "/broadcast"):
                for request in (
                    handshake(path),
                    f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode(),
                ):
                    with socket.create_connection(("127.0.0.1", command.port), timeout=SECONDS) as sock:
                        sock.sendall(request)
                        answer = rest(sock)
                    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                    assert b"Start rawws with --backplane, or without --workers." in answer
            assert command.get("/")[0] == 200
            assert command.end() == []

    @linux
    def test_a_worker_that_hangs_is_told_and_the_others_answer(self) -> None:
        with running() as command:
            pids = command.workers()
            os.kill(pids[0], signal.SIGSTOP)
            try:
                began = time.monotonic()
                # The one that hangs accepts nothing; but it might have been about to.
                status, body = command.get("/health")
                assert time.monotonic() - began < SECONDS
                assert status == 503
                assert re.search(rf"worker 0: serving for \d+ s as process {pids[0]}, does not answer\n", body)
                assert command.get("/metrics")[0] == 200
            finally:
                os.kill(pids[0], signal.SIGCONT)
            assert command.until(lambda workers: len(workers) == 2) == pids
            assert command.end() == []

    def test_an_address_of_its_own_tells_of_all(self, tmp_path: Path) -> None:
        path = tmp_path / "admin"
        with running("--admin", f"unix:{path}") as command:
            assert command.get("/health")[0] == 404
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = rest(sock)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.count(b": serving for ") == 2
            assert command.end() == []
        assert not path.exists()

    @linux
    def test_a_worker_gets_the_listening_socket_its_own_stream_and_nothing_else(self) -> None:
        read, write = os.pipe()
        try:
            with running(pass_fds=(write,)) as command:
                pipe = os.readlink(f"/proc/self/fd/{write}")
                parent = descriptors(command.process.pid)
                assert pipe in parent.values()
                first, second = (descriptors(pid) for pid in command.workers().values())
                assert pipe not in {*first.values(), *second.values()}
                # What they have in common is the socket that listens; stdin and stdout, and stderr, lead elsewhere.
                both = {name for name in set(first.values()) & set(second.values()) if name.startswith("socket:[")}
                assert len(both) == 1
                assert both <= set(parent.values())
                # What the parent has of a worker's is that socket; the ends of their streams are not the same.
                assert {name for name in first.values() if name.startswith("socket:[")} & set(parent.values()) == both
                assert first[0] == first[1] == os.devnull
                assert command.end() == []
        finally:
            os.close(read)
            os.close(write)


@linux
class TestDying:
    def test_one_that_is_killed_is_replaced_and_the_connections_of_the_other_live(self) -> None:
        with running() as command:
            pids = command.workers()
            socks = command.open_on_each("/echo")
            os.kill(pids[0], signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert rest(socks[0]) == b""
            new = command.until(lambda workers: len(workers) == 2)
            assert new[1] == pids[1]
            assert new[0] != pids[0]
            socks[1].sendall(frame(TEXT, b"still here") + CLOSE_1000)
            assert rest(socks[1]) == b"\x81\x0astill here\x88\x02\x03\xe8"
            assert "\nrawws_worker_deaths_total 1.0\n" in command.get("/metrics")[1]
            for sock in socks.values():
                sock.close()
            (line,) = command.end()
            assert line.endswith(f"ERROR rawws: worker 0 (process {pids[0]}) died of SIGKILL")

    def test_one_that_is_sent_sigterm_goes_in_order_and_is_replaced(self) -> None:
        with running() as command:
            pids = command.workers()
            socks = command.open_on_each("/communicate")
            os.kill(pids[1], signal.SIGTERM)
            socks[1].settimeout(SECONDS)
            data = b""
            while len(data) < 27:
                data += socks[1].recv(4096)
            assert data == b"\x81\x06Bye!!!\x88\x11\x03\xe9server shutdown"
            socks[1].close()
            command.until(lambda workers: len(workers) == 2 and workers[1] != pids[1])
            socks[0].close()
            (line,) = command.end()
            assert line.endswith(f"ERROR rawws: worker 1 (process {pids[1]}) ended with status 0")

    def test_workers_whose_parent_is_killed_shut_down_in_order(self) -> None:
        with running() as command:
            pids = command.workers()
            socks = command.open_on_each("/communicate")
            command.process.kill()
            for sock in socks.values():
                sock.sendall(frame(0x88, b"\x03\xe9"))
                assert rest(sock) in (
                    b"\x81\x06Bye!!!\x88\x11\x03\xe9server shutdown",
                    b"\x81\x06Bye!!!\x88\x02\x03\xe9",  # our Close frame was faster
                )
                sock.close()
            wait_until(lambda: not any(map(is_alive, pids.values())))


class TestEnding:
    @linux
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_has_all_of_them_say_goodbye(self, number: signal.Signals) -> None:
        with running() as command:
            pids = command.workers()
            socks = command.open_on_each("/communicate")
            command.process.send_signal(number)
            for sock in socks.values():
                sock.settimeout(SECONDS)
                data = b""
                while len(data) < 27:
                    data += sock.recv(4096)
                assert data == b"\x81\x06Bye!!!\x88\x11\x03\xe9server shutdown"
                sock.sendall(frame(0x88, b"\x03\xe9"))
                assert rest(sock) == b""
                sock.close()
            out, err = command.process.communicate(timeout=SECONDS)
            assert (out, len(err.splitlines()), command.process.returncode) == ("", 1, 0)
            assert not any(map(is_alive, pids.values()))

    @linux
    def test_a_terminal_that_is_closed_ends_them_and_a_hangup_from_elsewhere_does_not(self) -> None:
        terminal, theirs = os.openpty()
        command = ["setsid", "--ctty", sys.executable, "-m", "rawws", "serve", "--workers", "2", "--port", "0", *LANE]
        with subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            os.close(theirs)
            try:
                assert process.stdout is not None
                running = Running(process, process.stdout.readline())
                before = running.workers()
                process.send_signal(signal.SIGHUP)
                running.until(lambda workers: len(workers) == 2 and not set(workers.values()) & set(before.values()))
                os.close(terminal)
                out, err = process.communicate(timeout=SECONDS)
                assert (out, len(err.splitlines()), process.returncode) == ("", 1, 0)
            finally:
                process.kill()

    def test_a_second_signal_cuts(self) -> None:
        with running("--close-timeout", "60", "--shutdown-timeout", "60") as command:
            pids = command.workers()
            sock = command.open("/echo")
            command.process.terminate()
            assert sock.recv(4096) == b"\x88\x11\x03\xe9server shutdown"
            # The client does not answer, and would be waited for.
            command.process.terminate()
            command.process.communicate(timeout=SECONDS)
            assert command.process.returncode == 0
            assert not any(map(is_alive, pids.values()))
            sock.close()


class TestReplacing:
    @linux
    def test_one_worker_is_replaced_too_and_has_rooms(self) -> None:
        with running("--workers", "1", "--log-level", "info") as command:
            before = command.workers()
            assert set(before) == {0}
            command.open("/chat").close()
            command.process.send_signal(signal.SIGHUP)
            after = command.until(lambda workers: len(workers) == 1 and workers != before)
            assert set(after) == {0}
            command.open("/chat").close()
            command.process.terminate()
            assert "are refused" not in command.process.communicate(timeout=SECONDS)[1]
            assert command.process.returncode == 0

    @linux
    @pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
    def test_sighup_replaces_all_and_refuses_and_resets_nobody(self, tls: bool, tmp_path: Path) -> None:
        arguments: list[str] = []
        context: ssl.SSLContext | None = None
        if tls:
            authority = trustme.CA()
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
            context = ssl.create_default_context()
            authority.configure_trust(context)
            arguments = ["--tls-cert", str(tmp_path / "cert.pem")]
        with running(*arguments, "--admin", f"unix:{tmp_path / 'admin'}") as command:
            served = trio.run(partial(_connect_while_replacing, command, context, tmp_path / "admin"))
            assert served >= 200
            assert command.end() == []

    @linux
    def test_sighup_rereads_the_certificate_and_a_wrong_one_changes_nothing(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        path = tmp_path / "cert.pem"
        context = ssl.create_default_context()
        authority.configure_trust(context)

        def serial(port: int) -> Any:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as sock,
            ):
                certificate = sock.getpeercert()
                assert certificate is not None
                return certificate["serialNumber"]

        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
        with running("--tls-cert", str(path)) as command:
            first = serial(command.port)
            assert serial(command.port) == first
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
            old = children(command.process.pid)
            assert len(old) == 2
            command.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not children(command.process.pid) & old)
            second = serial(command.port)
            assert second != first
            path.write_text("nothing")
            command.process.send_signal(signal.SIGHUP)
            assert command.process.stderr is not None
            assert "are refused" in command.process.stderr.readline()
            assert command.process.stderr.readline().startswith(f"rawws: --tls-cert {path}: no certificate in PEM")
            said = [command.process.stderr.readline() for _ in range(3)]
            assert re.search(r"worker 0 \(process \d+\) ended with status 2\n", said[0])
            assert re.search(r"worker 0 \(process \d+\) stays: the one to take its place did not serve\n", said[1])
            assert said[2].endswith("the other workers are not replaced either\n")
            assert {serial(command.port) for _ in range(4)} == {second}
            command.process.terminate()
            assert command.process.communicate(timeout=SECONDS) == ("", "")
            assert command.process.returncode == 0


async def _connect_while_replacing(command: Running, context: ssl.SSLContext | None, admin: Path) -> int:
    """Connect and connect while SIGHUP replaces all workers; return how often."""
    served = 0
    over = False

    async def connect() -> None:
        nonlocal served
        while not over:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", command.port)
            if context is not None:
                stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
            client = Client(stream)
            await client.open("/echo")  # asserts 101
            with suppress(trio.BrokenResourceError):  # it has been sent away, and reads why
                await client.send(frame(TEXT, b"hello"))
            assert await client.frame() in ((TEXT, b"hello"), (0x88, b"\x03\xe9server shutdown"))
            await trio.aclose_forcefully(stream)
            served += 1

    async def pids() -> set[bytes]:
        async with await trio.open_unix_socket(admin) as stream:
            client = Client(stream)
            await client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            body = (await client.answer()).body
            return set(re.findall(rb"process (\d+)", body))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            before = await pids()
            for _ in range(4):
                nursery.start_soon(connect)
            command.process.send_signal(signal.SIGHUP)
            for _ in range(1000):
                if served >= 200 and not before & await pids():
                    break
                await trio.sleep(0.05)
            over = True
            assert not before & await pids()
    return served


def never(listening: Listening) -> None:
    pytest.fail("they serve")


class TestLeading:
    """The parent in this process."""

    async def test_it_listens_starts_workers_and_ends_with_them(self) -> None:
        seen: list[Listening] = []
        served = trio.Event()

        def started(listening: Listening) -> None:
            seen.append(listening)
            served.set()

        async def be_served() -> None:
            await served.wait()
            (address,) = seen[0].addresses
            (admin,) = seen[0].admin_addresses
            assert isinstance(address, tuple)
            assert isinstance(admin, tuple)
            for host, port in (address, admin):
                async with await trio.open_tcp_stream(host, port) as stream:
                    client = Client(stream)
                    await client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                    answer = await client.answer()
                    assert answer.status == (200 if (host, port) == admin else 404)
            os.kill(os.getpid(), signal.SIGTERM)

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(be_served)
                arguments = ["serve", "--admin", "127.0.0.1:0", *LANE]
                await lead(
                    2,
                    arguments,
                    "127.0.0.1",
                    0,
                    admin=("127.0.0.1", 0),
                    shutdown_timeout=10.0,
                    started=started,
                )
        assert len(seen) == 1

    async def test_workers_that_do_not_start_are_told(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "admin"
        with pytest.raises(WorkersDidNotStartError) as caught, trio.fail_after(SECONDS):
            await lead(2, ["dance"], "127.0.0.1", 0, admin=path, shutdown_timeout=1.0, started=never)
        assert caught.value.status == 2
        assert capfd.readouterr().err.startswith("rawws: COMMAND: invalid choice: 'dance'")
        assert not path.exists()

    async def test_a_port_that_is_taken_is_raised_bare(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            await lead(
                2,
                ["serve"],
                "127.0.0.1",
                taken.getsockname()[1],
                admin=None,
                shutdown_timeout=1.0,
                started=never,
            )

    async def test_an_admin_address_that_is_taken_is_raised_and_leaves_nothing_open(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            await lead(2, ["serve"], "127.0.0.1", 0, admin=taken.getsockname(), shutdown_timeout=1.0, started=never)


class TestSpawning:
    async def test_a_process_may_be_killed_and_its_stream_ends_then(self) -> None:
        process = await spawner(["serve"], [])()
        process.kill()
        with trio.fail_after(SECONDS):
            assert await process.wait() == -signal.SIGKILL
            assert await process.stream.receive_some(1) == b""
        await process.stream.aclose()

    async def test_one_that_cannot_be_started_leaves_nothing_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(FileNotFoundError):
            await spawner(["serve"], [])()

    @pytest.mark.parametrize(("here", "options"), [(True, []), (False, ["-P"])])
    async def test_it_imports_from_where_it_is_started_only_if_its_parent_does(
        self, here: bool, options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        seen: list[list[str]] = []

        async def open_process(command: list[str], **_: object) -> None:
            seen.append(command)
            raise OSError("this is enough")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [str(tmp_path) if here else "/usr/lib/python3"])
        monkeypatch.setattr(trio.lowlevel, "open_process", open_process)
        with pytest.raises(OSError, match="this is enough"):
            await spawner(["serve", "--port", "0"], [7, 8])()
        assert seen[0][:-1] == [sys.executable, *options, "-m", "rawws", "serve", "--port", "0", "--worker"]
        assert re.fullmatch(r"\d+,7,8", seen[0][-1])


NO_NUMBER = r"--workers: give a whole number from 1 to 1024, or auto for one for each core; see rawws serve --help"


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--workers", "0"], NO_NUMBER),
            (["--workers", "many"], NO_NUMBER),
            (["--workers", "1025"], NO_NUMBER),
            (["--workers", "3000000"], NO_NUMBER),
            (["--workers", "9" * 5000], NO_NUMBER),
            (["--workers", "2", "--tls-cert", "/no/such"], r"/no/such: No such file or directory; name PEM files .*"),
            (["--workers", "2", "--static", "/no/such"], r"--static /no/such: No such file or directory; .*"),
        ],
    )
    def test_a_mistake_is_one_line(self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(arguments) == 2
        assert re.fullmatch(f"rawws: {says}\n", capsys.readouterr().err)

    def test_a_port_that_is_taken_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert cli.main(["--workers", "2", "--port", str(port)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"rawws: port {port} on 127.0.0.1 is taken; stop what listens there")
        assert len(said.splitlines()) == 1

    def test_a_redis_that_is_not_there_is_one_line(self, capfd: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("coredis")
        url = f"redis://127.0.0.1:{free_port()}"
        assert cli.main(["--workers", "2", "--port", "0", "--backplane", url]) == 2
        out, said = capfd.readouterr()
        assert said.startswith("rawws: --backplane: Redis at 127.0.0.1:")
        assert (out, len(said.splitlines())) == ("", 1)

    def test_a_system_without_posix_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cli, "os", type("os", (), {"name": "nt"}))
        assert cli.main(["--workers", "2"]) == 2
        assert capsys.readouterr().err == "rawws: --workers needs a POSIX system, such as Linux; leave it out\n"

    @pytest.mark.parametrize(("status", "result", "lines"), [(2, 2, 0), (1, 1, 1), (None, 1, 1), (-9, 1, 1)])
    def test_workers_that_do_not_start_are_its_end(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        status: int | None,
        result: int,
        lines: int,
    ) -> None:
        async def fail(*arguments: object, **options: object) -> None:
            raise WorkersDidNotStartError(status)

        monkeypatch.setattr(cli, "lead", fail)
        assert cli.main(["--workers", "2", "--log-level", "critical"]) == result
        said = [line for line in capsys.readouterr().err.splitlines() if "are refused" not in line]
        assert said == ["rawws: the first worker ended before it served; what stands above may say why"][:lines]

    @pytest.mark.parametrize(
        ("arguments", "cores", "workers"),
        [
            (["--workers", "auto"], {0, 1, 2}, 3),
            (["--workers", "auto"], {0}, 1),
            (["--workers", "auto"], set(range(2000)), 1024),
            (["--workers", "1"], {0, 1, 2}, 1),
            (["--workers", "1024"], {0}, 1024),
            ([], {0, 1, 2}, None),
        ],
    )
    def test_auto_is_one_for_each_core_and_there_is_a_parent_whenever_workers_are_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str], cores: set[int], workers: int | None
    ) -> None:
        led: list[int] = []
        ran: list[object] = []

        async def fake(count: int, *arguments: object, **options: object) -> None:
            led.append(count)

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
        monkeypatch.setattr(cli, "lead", fake)
        monkeypatch.setattr(cli, "run", lambda *arguments, **options: ran.append(arguments))
        assert cli.main(arguments) == 0
        assert led == ([] if workers is None else [workers])
        assert len(ran) == (workers is None)

    @pytest.mark.parametrize("admin", [[], ["--admin", "127.0.0.1:0"]], ids=["here", "elsewhere"])
    def test_a_worker_ends_with_its_parent(self, admin: list[str]) -> None:
        before = signal.getsignal(signal.SIGHUP)
        ours, theirs = socket.socketpair()
        try:
            with ours, socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(handshake("/chat"))
                    ours.shutdown(socket.SHUT_WR)
                    assert (
                        cli.main(
                            [
                                "serve",
                                *LANE,
                                *admin,
                                "--close-timeout",
                                "0.1",
                                "--worker",
                                f"{theirs.detach()},{listening.detach()}",
                            ]
                        )
                        == 0
                    )
                    assert ours.makefile().readline() == '{"type":"ready"}\n'
                    assert rest(sock).startswith(b"HTTP/1.1 503 ")
        finally:
            signal.signal(signal.SIGHUP, before)
