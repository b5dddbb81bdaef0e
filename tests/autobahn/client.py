"""The client that Autobahn's fuzzing server judges: `python -m tests.autobahn.client URL AGENT CASE…`.

It plays the cases it is told, one connection each, and echoes what it gets: whole messages, text as text and binary
as binary. What a case ends a connection with is the case's affair; what ends this program is a server that cannot be
reached, or an error of rawws that is none of the network's.
"""

from __future__ import annotations

import argparse
import sys
from urllib.parse import urlencode

import trio

import rawws

__all__ = ["main"]

_LIMITS = rawws.Limits(max_message_size=64 * 1024 * 1024)  # the suite sends messages of 16 MiB
# An offer that leaves every choice to the server, as sections 12 and 13 make them all.
_OPEN_TO_ALL = rawws.DeflateOptions(server_max_window_bits=15, client_max_window_bits=15)


async def _play(url: str, agent: str, cases: list[str], fast_lane: bool) -> None:
    for case in cases:
        query = urlencode({"agent": agent, "casetuple": case})
        async with rawws.connect(
            f"{url}/runCase?{query}", limits=_LIMITS, compression=_OPEN_TO_ALL, fast_lane=fast_lane
        ) as ws:
            try:
                async for message in ws:
                    await ws.send(message)
            except rawws.ConnectionClosed:
                pass  # what the case was about; the server judges it
    async with rawws.connect(f"{url}/updateReports?{urlencode({'agent': agent})}", open_timeout=60) as ws:
        await ws.wait_closed()


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn.client", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="the fuzzing server, ws://…")
    parser.add_argument("agent", help="the name that the reports have")
    parser.add_argument("cases", nargs="+", help="numbers of cases")
    parser.add_argument("--no-fast-lane", action="store_true", help="every frame through wsproto")
    options = parser.parse_args()
    trio.run(_play, options.url, options.agent, options.cases, not options.no_fast_lane)
    return 0


if __name__ == "__main__":
    sys.exit(main())
