"""One connection of the client: opening, talking, leaving, over both of its drivers."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import rawws
from tests.conftest import FAST_LANE
from tests.drivers import client_context, jumping_clock, server_context
from tests.raw_client import echo
from tests.raw_client import serving as serving_rawws
from tests.raw_server import DRIVERS, DriverName, Host, frame, serving, url_of

if TYPE_CHECKING:
    from pathlib import Path

drivers = pytest.mark.parametrize("driver", DRIVERS)


@pytest.fixture
def autojump_clock() -> MockClock:
    """Deadlines pass at once, but not while bytes are under way between sockets."""
    return jumping_clock()


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@drivers
class TestTalking:
    async def test_messages_go_both_ways_masked_from_us_and_plain_from_the_server(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept()
            assert await host.frame() == (0x81, b"Hello")
            assert await host.frame() == (0x82, bytes(70_000))
            await host.send(frame(0x81, b"world") + frame(0x82, b"\x00\xff"))
            assert await host.closes() == (1000, "")

        async with serving(script, driver) as connect, connect(compression=False) as ws:
            await ws.send("Hello")
            await ws.send(bytes(70_000))
            assert [await ws.receive(), await ws.receive()] == ["world", b"\x00\xff"]

    async def test_a_frame_in_the_segment_of_the_101_is_delivered(self, driver: DriverName) -> None:
        """TRAPS 15."""

        async def script(host: Host) -> None:
            await host.accept(then=frame(0x81, b"early") + b"\x81\x04la")
            await host.send(b"te")
            await host.closes()

        async with serving(script, driver) as connect, connect() as ws:
            assert [await ws.receive(), await ws.receive()] == ["early", "late"]

    async def test_a_masked_frame_of_the_server_fails_with_1002(self, driver: DriverName) -> None:
        """RFC 6455 §5.1."""

        async def script(host: Host) -> None:
            await host.accept()
            # FIN and text, masked, 5 bytes, a key of zeros.
            await host.send(frame(0x81, b"good") + b"\x81\x85\x00\x00\x00\x00Hello")
            assert (await host.closes())[0] == 1002

        async with serving(script, driver) as connect, connect() as ws:
            assert await ws.receive() == "good"
            with pytest.raises(rawws.ConnectionClosed) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.by) == (1002, "us")

    async def test_pings_are_answered_and_asked_with_masks(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept(then=frame(0x89, b"are you there"))
            assert await host.frame() == (0x8A, b"are you there")
            await host.send(frame(0x81, b"your turn"))
            first, payload = await host.frame()
            assert first == 0x89
            await host.send(frame(0x8A, payload))
            await host.closes()

        async with serving(script, driver) as connect, connect() as ws:
            assert await ws.receive() == "your turn"
            assert await ws.ping() >= 0

    async def test_a_silent_server_is_pinged_and_then_given_up(self, driver: DriverName, autojump_clock: Any) -> None:
        async def script(host: Host) -> None:
            await host.accept()
            assert await host.frame() == (0x89, b"")
            assert (await host.close_frame())[0] == 1011
            await host.rest()

        async with serving(script, driver) as connect, connect() as ws:
            with pytest.raises(rawws.ConnectionClosed) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.by) == (1011, "us")

    async def test_what_was_asked_and_answered_can_be_looked_at(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept("Sec-WebSocket-Protocol: chat", "X-Answer: 42")
            assert host.target == "/x?y"
            assert (host.fields["x-one"], host.fields["origin"]) == ("1", "https://example.com")
            assert host.fields["sec-websocket-protocol"] == "superchat, chat"
            await host.closes()

        async with (
            serving(script, driver) as connect,
            connect(
                "/x?y", headers={"X-One": "1"}, origin="https://example.com", subprotocols=["superchat", "chat"]
            ) as ws,
        ):
            assert ws.subprotocol == "chat"
            assert (ws.request.path, ws.request.query, ws.request.headers["x-one"]) == ("/x", "y", "1")
            assert ws.response is not None
            assert (ws.response.status, ws.response.headers["x-answer"]) == (101, "42")
            with pytest.raises(RuntimeError):
                await ws.accept()

    async def test_both_sides_compress_as_agreed(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9")
            first, payload = await host.frame()
            assert first == 0xC1
            assert zlib.decompressobj(-12).decompress(payload + b"\x00\x00\xff\xff") == b"x" * 5000
            await host.send(frame(0xC1, zlib.compress(b"y" * 5000, wbits=-9) + b"\x00"))
            await host.closes()

        async with serving(script, driver) as connect, connect(compression=rawws.DeflateOptions(level=9)) as ws:
            await ws.send("x" * 5000)
            assert await ws.receive() == "y" * 5000

    async def test_a_window_of_eight_bits_is_met_by_not_compressing(self, driver: DriverName) -> None:
        """RFC 7692 §7.1.2.2: zlib cannot deflate with 256 bytes; any message may leave as it is."""

        async def script(host: Host) -> None:
            await host.accept(
                "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12; client_max_window_bits=8"
            )
            assert await host.frame() == (0x81, b"x" * 5000)
            await host.send(frame(0xC1, zlib.compress(b"y" * 5000, wbits=-12) + b"\x00"))
            await host.closes()

        async with serving(script, driver) as connect, connect() as ws:
            await ws.send("x" * 5000, compress=True)
            assert await ws.receive() == "y" * 5000


@drivers
class TestLeaving:
    async def test_the_server_ends_the_tcp_connection_first(self, driver: DriverName, autojump_clock: Any) -> None:
        """RFC 6455 §7.1.1."""
        told = []

        async def script(host: Host) -> None:
            await host.accept()
            assert await host.close_frame() == (1000, "")
            await host.send(b"\x88\x02\x03\xe8")
            with trio.move_on_after(2):
                await host.rest()
                told.append("the client ended it")
            told.append("the server ends it")
            await host.stream.send_eof()
            assert await host.rest() == b""

        async with serving(script, driver) as connect:
            began = trio.current_time()
            async with connect():
                pass
            assert trio.current_time() - began == pytest.approx(2, abs=0.5)
            assert told == ["the server ends it"]

    async def test_a_server_that_does_not_end_it_is_left_after_close_timeout(
        self, driver: DriverName, autojump_clock: Any
    ) -> None:
        async def script(host: Host) -> None:
            await host.accept()
            await host.close_frame()
            await host.send(b"\x88\x02\x03\xe8")
            assert await host.rest() == b""

        async with serving(script, driver) as connect:
            began = trio.current_time()
            async with connect(limits=rawws.Limits(close_timeout=3)) as ws:
                pass
            assert trio.current_time() - began == pytest.approx(3, abs=0.5)
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.by) == (1000, "us")

    async def test_a_server_that_does_not_answer_is_left_after_close_timeout(
        self, driver: DriverName, autojump_clock: Any
    ) -> None:
        async def script(host: Host) -> None:
            await host.accept()
            await host.rest()

        async with serving(script, driver) as connect:
            began = trio.current_time()
            async with connect(limits=rawws.Limits(close_timeout=3)):
                pass
            assert trio.current_time() - began == pytest.approx(3, abs=0.5)

    async def test_what_the_server_still_sends_is_no_obstacle(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept(then=frame(0x82, bytes(50_000)) * 20)
            await host.send(frame(0x82, bytes(1000)) * 100)
            assert await host.closes() == (1000, "")

        async with serving(script, driver) as connect, connect():
            pass

    @pytest.mark.parametrize(
        ("exc", "code"),
        [
            (KeyError("mine"), 1011),
            (ExceptionGroup("mine", [KeyError("mine")]), 1011),
            (KeyboardInterrupt(), 1001),
            (SystemExit(), 1001),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_an_exception_leaves_bare_and_the_server_is_told(
        self, driver: DriverName, exc: BaseException, code: int
    ) -> None:
        said = []

        async def script(host: Host) -> None:
            await host.accept()
            said.append(await host.closes())

        async with serving(script, driver) as connect:
            with pytest.raises(type(exc)) as caught:
                async with connect():
                    raise exc
            assert caught.value is exc
            await wait_all_tasks_blocked()
            assert said == [(code, "")]

    async def test_a_cancelled_block_says_1001_and_is_cut(self, driver: DriverName, autojump_clock: Any) -> None:
        said = []
        done = trio.Event()

        async def script(host: Host) -> None:
            await host.accept()
            said.append(await host.close_frame())
            assert await host.rest() == b""
            done.set()

        async with serving(script, driver) as connect:
            began = trio.current_time()
            with trio.move_on_after(1) as scope:
                async with connect() as ws:
                    await ws.receive()
            assert scope.cancelled_caught
            assert trio.current_time() - began == pytest.approx(1, abs=0.2)
            await done.wait()
            assert said == [(1001, "")]

    async def test_cancelling_while_it_waits_for_the_server_cuts(self, driver: DriverName, autojump_clock: Any) -> None:
        async def script(host: Host) -> None:
            await host.accept()
            await host.close_frame()
            await host.send(b"\x88\x02\x03\xe8")
            await host.rest()

        async with serving(script, driver) as connect:
            began = trio.current_time()
            with trio.move_on_after(1) as scope:
                async with connect():
                    pass
            assert scope.cancelled_caught
            assert trio.current_time() - began == pytest.approx(1, abs=0.2)

    async def test_a_close_of_the_server_ends_the_loop_and_is_answered(self, driver: DriverName) -> None:
        said = []

        async def script(host: Host) -> None:
            await host.accept(then=frame(0x81, b"last") + frame(0x88, b"\x0f\xa0bye"))
            said.append(await host.close_frame())

        async with serving(script, driver) as connect:
            async with connect() as ws:
                assert [message async for message in ws] == ["last"]
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.reason, ws.closed.by) == (4000, "bye", "peer")
            await wait_all_tasks_blocked()
            assert said == [(4000, "")]

    async def test_the_end_of_the_stream_is_a_connection_closed(self, driver: DriverName) -> None:
        async def script(host: Host) -> None:
            await host.accept(then=frame(0x81, b"last"))

        async with serving(script, driver) as connect, connect() as ws:
            assert await anext(aiter(ws)) == "last"
            with pytest.raises(rawws.ConnectionClosed) as caught:
                await anext(aiter(ws))
            assert (caught.value.code, caught.value.by) == (1006, "network")

    async def test_closing_it_oneself_first_is_fine(self, driver: DriverName) -> None:
        said = []

        async def script(host: Host) -> None:
            await host.accept()
            said.append(await host.closes())

        async with serving(script, driver) as connect, connect() as ws:
            await ws.close(4001, "enough")
            with pytest.raises(rawws.ConnectionClosed):
                await ws.send("more")
        assert said == [(4001, "enough")]


@drivers
class TestRefusals:
    async def refusal(self, driver: DriverName, answer: bytes, kind: type[Exception], **options: Any) -> Any:
        ended = trio.Event()

        async def script(host: Host) -> None:
            await host.request()
            await host.send(answer)
            if b"Content-Length: 99" not in answer:
                await host.stream.send_eof()
            await host.rest()
            ended.set()

        async with serving(script, driver) as connect:
            with pytest.raises(kind) as caught:
                async with connect(**options):
                    pass  # pragma: no cover
            await ended.wait()  # the stream was closed
        return caught.value

    async def test_a_refusal_has_status_headers_and_body(self, driver: DriverName) -> None:
        answer = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nwho?"
        rejected = await self.refusal(driver, answer, rawws.HandshakeRejected)
        assert (rejected.status, rejected.headers["www-authenticate"], rejected.body) == (401, "Basic", b"who?")

    async def test_a_body_that_does_not_come_is_not_waited_for(self, driver: DriverName, autojump_clock: Any) -> None:
        answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\npart"
        rejected = await self.refusal(driver, answer, rawws.HandshakeRejected)
        assert (rejected.status, rejected.body) == (503, b"part")

    async def test_a_wrong_101_is_a_failed_handshake(self, driver: DriverName) -> None:
        answer = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
        failed = await self.refusal(driver, answer, rawws.HandshakeFailed)
        assert "Sec-WebSocket-Accept" in str(failed)

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Yes\r\nUpgr"])
    async def test_an_end_before_the_answer_is_a_connection_error(self, driver: DriverName, answer: bytes) -> None:
        assert "before it answered" in str(await self.refusal(driver, answer, ConnectionError))

    async def test_a_server_that_does_not_speak_is_given_up(self, driver: DriverName, autojump_clock: Any) -> None:
        async def script(host: Host) -> None:
            await host.rest()

        async with serving(script, driver) as connect:
            began = trio.current_time()
            with pytest.raises(TimeoutError, match="3 s"):
                async with connect(open_timeout=3):
                    pass  # pragma: no cover
            assert trio.current_time() - began == pytest.approx(3, abs=0.5)


class TestAnyStream:
    async def test_a_redirect_is_a_refusal(self) -> None:
        async def script(host: Host) -> None:
            await host.request()
            await host.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
            assert await host.rest() == b""

        async with serving(script) as connect:
            with pytest.raises(rawws.HandshakeRejected):
                async with connect():
                    pass  # pragma: no cover

    async def test_a_unix_socket_serves(self, tmp_path: Path) -> None:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(tmp_path / "socket"))
        sock.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rawws.serve_listeners, echo, [trio.SocketListener(sock)], fast_lane=FAST_LANE))
            stream = await trio.open_unix_socket(tmp_path / "socket")
            async with rawws.connect_stream(stream, "ws://localhost/") as ws:
                await ws.send("Hello")
                assert await ws.receive() == "Hello"
            nursery.cancel_scope.cancel()

    async def test_a_stream_that_breaks_its_contract_ends_the_connection_and_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours, theirs = memory_stream_pair()

        async def raises() -> None:
            raise ValueError("not what a stream does")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(Host(theirs).accept)
            async with rawws.connect_stream(ours, "ws://localhost/") as ws:
                ours.send_stream.send_all_hook = raises
                await ws.send("Hello")
                with pytest.raises(rawws.ConnectionClosed):
                    await ws.receive()
        assert "a stream raised what a Trio stream does not" in caplog.text


class TestReactor:
    async def test_a_reset_instead_of_an_answer_is_a_connection_error(self) -> None:
        async def script(host: Host) -> None:
            await host.request()
            assert isinstance(host.stream, trio.SocketStream)
            host.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async with serving(script, "reactor") as connect:
            with pytest.raises(ConnectionError, match="before it answered"):
                async with connect():
                    pass  # pragma: no cover

    async def test_all_connections_share_one_and_it_ends_with_the_last(self) -> None:
        before = open_descriptors()
        async with serving_rawws(echo) as server:
            url = url_of(server)
            serving_only = open_descriptors()
            async with rawws.connect(url) as first:
                alone = open_descriptors()
                async with rawws.connect(url) as second:
                    assert open_descriptors() == alone + 2  # both ends of a socket
                    for ws in (first, second):
                        await ws.send("Hello")
                        assert await ws.receive() == "Hello"
            await wait_all_tasks_blocked()
            assert open_descriptors() == serving_only
            async with rawws.connect(url) as ws:
                await ws.send("again")
                assert await ws.receive() == "again"
        await wait_all_tasks_blocked()
        assert open_descriptors() == before

    async def test_connections_that_wait_for_different_times_have_different_ones(self) -> None:
        async with serving_rawws(echo) as server:
            url = url_of(server)
            async with rawws.connect(url) as one, rawws.connect(url, limits=rawws.Limits(send_timeout=7)) as other:
                for ws in (one, other):
                    await ws.send("Hello")
                    assert await ws.receive() == "Hello"

    async def test_a_nursery_of_clients_echoes_large_and_small(self) -> None:
        messages: list[str | bytes] = ["", "é" * 100, bytes(200_000), "x" * 5000, "é" * 50_000]

        async def client(url: str) -> None:
            async with rawws.connect(url, fast_lane=FAST_LANE) as ws:
                for message in messages:
                    await ws.send(message)
                assert [await ws.receive() for _ in messages] == messages

        async with serving_rawws(echo) as server:
            url = url_of(server)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(client, url)

    def test_a_run_that_ends_in_the_middle_leaves_nothing_open(self) -> None:
        before = open_descriptors()

        async def main() -> None:
            async with serving_rawws(echo) as server:
                connect = rawws.connect(url_of(server))
                ws = await connect.__aenter__()
                await ws.send("Hello")

        trio.run(main)
        assert open_descriptors() == before

    async def test_the_block_is_entered_once_at_a_time(self) -> None:
        async with serving_rawws(echo) as server:
            connect = rawws.connect(url_of(server))
            async with connect:
                with pytest.raises(RuntimeError, match="open already"):
                    await connect.__aenter__()
            async with connect as ws:
                await ws.send("again")
                assert await ws.receive() == "again"


class TestArguments:
    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("localhost", {}),
            ("ws://localhost/#x", {}),
            ("ws://a..b/", {}),
            ("ws://localhost/", {"open_timeout": 0}),
            ("ws://localhost/", {"headers": [("Host", "b")]}),
            ("ws://localhost/", {"subprotocols": "chat"}),
            ("ws://localhost/", {"subprotocols": ["a b"]}),
            ("ws://localhost/", {"origin": "nowhere"}),
            ("ws://localhost/", {"proxy": "localhost:3128"}),
            ("ws://localhost/", {"proxy": "http://localhost"}),
            ("ws://localhost/", {"proxy": "http://a..b:1"}),
        ],
    )
    def test_a_mistake_is_a_value_error_before_anything_is_dialled(self, url: str, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            rawws.connect(url, **options)

    async def test_nobody_listens_is_an_os_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        with pytest.raises(OSError, match="connect"):
            async with rawws.connect(f"ws://127.0.0.1:{port}/"):
                pass  # pragma: no cover


class TestRedirects:
    async def test_it_follows_and_keeps_credentials_from_strangers(self) -> None:
        seen: list[dict[str, str]] = []

        async def script(host: Host) -> None:
            await host.request()
            seen.append(host.fields)
            locations = {"/": b"/second", "/second": b"http://localhost:%d/third" % port, "/third": b"/fourth"}
            if host.target in locations:
                await host.send(b"HTTP/1.1 307 Go\r\nLocation: " + locations[host.target] + b"\r\n\r\n")
            else:
                await host.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
                assert host.target == "/fourth"

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]

            async def run(stream: trio.SocketStream) -> None:
                async with stream:
                    await script(Host(stream))

            nursery.start_soon(trio.serve_listeners, run, listeners)
            with pytest.raises(rawws.HandshakeRejected) as caught:
                async with rawws.connect(f"ws://user:pass@127.0.0.1:{port}/", headers=[("Cookie", "a=b")]):
                    pass  # pragma: no cover
            nursery.cancel_scope.cancel()
        assert caught.value.status == 404
        assert [("authorization" in fields, "cookie" in fields) for fields in seen] == [
            (True, True),
            (True, True),
            (False, False),
            (False, False),
        ]


class TestTls:
    async def test_it_talks_through_tls_and_ends_in_order(
        self,
    ) -> None:
        before = open_descriptors()
        async with serving_rawws(echo, ssl_context=server_context()) as server:
            url = url_of(server, "wss://localhost")
            async with rawws.connect(url, ssl_context=client_context(), fast_lane=FAST_LANE) as ws:
                assert ws.request.secure
                for message in ("Hello", bytes(100_000)):
                    await ws.send(message)
                    assert await ws.receive() == message
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.by) == (1000, "us")
        await wait_all_tasks_blocked()
        assert open_descriptors() == before

    async def test_a_certificate_that_does_not_convince_is_raised_bare(self) -> None:
        async with serving_rawws(echo, ssl_context=server_context()) as server:
            url = url_of(server, "wss://localhost")
            with pytest.raises(ssl.SSLCertVerificationError):
                async with rawws.connect(url):
                    pass  # pragma: no cover

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_a_certificate_that_the_server_misses_is_an_ssl_error_and_not_tried_again(
        self, version: ssl.TLSVersion
    ) -> None:
        """Of TLS 1.3 the alert comes only after our side of the handshake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority = trustme.CA()
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = version
        trust = ssl.create_default_context()
        authority.configure_trust(trust)

        async def demand(stream: trio.SocketStream) -> None:
            """The standard library by hand, for trio's stream would not send the alert."""
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_side=True)
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    await stream.send_all(outgoing.read())
                    incoming.write(await stream.receive_some())
                except ssl.SSLError:
                    await stream.send_all(outgoing.read())
                    while await stream.receive_some():  # a reset would overtake it
                        pass
                    return

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, demand, 0)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(ssl.SSLError, match="ALERT") as caught:
                async for _ in rawws.connect(f"wss://localhost:{port}/", ssl_context=trust):
                    pass  # pragma: no cover
            assert caught.value.__notes__ == ["not connected again: TLS would fail in the same way"]
            nursery.cancel_scope.cancel()

    async def test_a_server_that_hangs_up_during_the_tls_handshake_is_a_connection_error(self) -> None:
        async def hang_up(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, hang_up, 0)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(OSError, match=r"EOF|TLS|reset") as caught:
                async with rawws.connect(f"wss://localhost:{port}/"):
                    pass  # pragma: no cover
            assert not isinstance(caught.value, ssl.SSLCertVerificationError)
            nursery.cancel_scope.cancel()

    async def test_a_reset_during_the_tls_handshake_is_a_connection_error(self) -> None:
        async def reset(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, reset, 0)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(ConnectionError, match="TLS"):
                async with rawws.connect(f"wss://localhost:{port}/"):
                    pass  # pragma: no cover
            nursery.cancel_scope.cancel()

    async def test_a_cancelled_tls_handshake_leaves_nothing_open(self, autojump_clock: Any) -> None:
        async def wait(stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        before = open_descriptors()
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, wait, 0)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(TimeoutError):
                async with rawws.connect(f"wss://localhost:{port}/", open_timeout=1):
                    pass  # pragma: no cover
            nursery.cancel_scope.cancel()
        assert open_descriptors() == before
