"""A healthy client: echoes on a WebSocket until its standard input ends, then tells what it has seen.

Run as `python pulse.py PORT PATH`; prints `ready`, then, at the end, the number of echoes and the seconds that the
slowest one took. It is a process of its own, so that an attacker at work in another does not slow it down, and knows
nothing but sockets, so that it starts at once.
"""

from __future__ import annotations

import select
import socket
import sys
import time

REQUEST = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
REST = 0.01
"""Seconds between an echo and the next message."""


def main(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(REQUEST.format(path).encode())
        answer = sock.makefile("rb")
        assert answer.readline().startswith(b"HTTP/1.1 101 ")
        while answer.readline() != b"\r\n":
            pass
        print("ready", flush=True)
        count, slowest, ended = 0, 0.0, False
        while not ended:
            ended = bool(select.select([sys.stdin], [], [], REST)[0])
            payload = b"%08d" % count
            began = time.perf_counter()
            sock.sendall(b"\x81\x88\x00\x00\x00\x00" + payload)  # FIN and text, masked with zeros, 8 bytes
            while (echo := answer.read(10)) == b"\x89\x00":  # a ping may come first
                pass
            assert echo == b"\x81\x08" + payload, echo
            slowest = max(slowest, time.perf_counter() - began)
            count += 1
    print(count, slowest, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
