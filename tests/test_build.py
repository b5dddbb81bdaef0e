"""The two builds: which one runs, and that what applications subclass, patch or refer to weakly is the same on both.

`make test-compiled` runs the whole suite on the compiled build, and says so in `RAWWS_EXPECT_COMPILED`.
"""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest
import trio

import rawws
from rawws import connection, encoder, frames, loop, masking, sending, socket_transport, states, transport
from rawws._build import COMPILED
from tests.raw_client import CLOSE_1000, TEXT, connected, frame, serving

EXPECT_COMPILED = os.environ.get("RAWWS_EXPECT_COMPILED") == "1"
HOT = (connection, encoder, frames, loop, masking, sending, socket_transport, states, transport)


def test_the_build_is_the_one_that_was_asked_for() -> None:
    assert COMPILED == EXPECT_COMPILED


@pytest.mark.parametrize("module", HOT, ids=lambda module: module.__name__)
def test_hot_modules_are_all_compiled_or_none_is(module: object) -> None:
    file = getattr(module, "__file__", None)
    assert file is not None
    assert (Path(file).suffix != ".py") == COMPILED


def test_interfaces_can_be_subclassed_by_ordinary_code() -> None:
    class Receiver(transport.Receiver):
        def __init__(self) -> None:
            self.anything = 1

    class Transport(transport.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.anything = 2

    assert (Receiver().anything, Transport().anything) == (1, 2)
    assert Transport().queued == 0


def test_a_protocol_is_an_ordinary_class() -> None:
    class Mine(rawws.Protocol):
        def __init__(self) -> None:
            self.anything = 3

    mine = Mine()
    assert weakref.ref(mine)() is mine
    assert vars(mine) == {"anything": 3}
    assert type(mine).on_close is rawws.Protocol.on_close


async def test_a_websocket_can_be_referred_to_weakly_and_kept_in_sets() -> None:
    seen: weakref.WeakSet[rawws.WebSocket] = weakref.WeakSet()

    class Mine(rawws.Protocol):
        def on_open(self, ws: rawws.WebSocket) -> None:
            seen.add(ws)

        def on_message(self, ws: rawws.WebSocket, message: str | bytes) -> None:
            assert ws in seen
            ws.send_nowait(f"{len(seen)} of {ws.request.path}")

    async with serving({"/": Mine()}) as server:
        async with connected(server) as client:
            await client.open("/")
            await client.send(frame(TEXT, b"who"))
            assert await client.frame() == (TEXT, b"1 of /")
            await client.send(CLOSE_1000)
            await client.ended()
        await trio.testing.wait_all_tasks_blocked(0.05)
        gc.collect()
        assert not seen
