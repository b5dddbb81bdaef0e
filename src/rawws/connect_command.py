"""The flags of `rawws connect`, and what they make of the terminal client.

Argparse and nothing else: `terminal.py` does the work. What a person can get wrong is a `TerminalError`, one line that
says what to do.
"""

from __future__ import annotations

import argparse
import ssl
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from .limits import Limits
from .terminal import Settings, TerminalError, talk

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_parser", "run"]

_EXAMPLES: Final = """\
examples:
  rawws connect localhost:8000/communicate
  rawws connect wss://example.com/feed --header Authorization:secret
  rawws connect wss://localhost:8443/echo --cacert authority.pem
  echo hi | rawws connect localhost:8000/communicate
"""


def add_parser(
    commands: argparse._SubParsersAction[Any], number: Callable[[str], int], seconds: Callable[[str], float]
) -> None:
    """Add the command `connect`.

    Args:
        commands: where to.
        number: reads a whole number from 1.
        seconds: reads a time above 0.
    """
    parser = commands.add_parser(
        "connect",
        help="talk to a WebSocket server",
        description=textwrap.fill(
            "Talk to a WebSocket server: what is typed is sent, what arrives is shown, and /help says what else there "
            "is. In a pipe each line is sent and each message printed; after the end of the input the connection is "
            "closed when no message has come for --wait seconds. The exit status is 0 when it was closed with 1000 or "
            "1001, 1 when it ended otherwise, 2 when there was no connection, or something was not sent or printed.",
            width=100,
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("url", metavar="URL", help="ws:// or wss://; without either it is ws://")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="send a header field with the request; may be repeated",
    )
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="offer a subprotocol; may be repeated"
    )
    parser.add_argument("--origin", help="send an Origin, such as https://example.com")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--cacert", metavar="FILE", help="trust the certificate authorities in this PEM file alone")
    trust.add_argument("--insecure", action="store_true", help="trust any certificate")
    parser.add_argument("--proxy", metavar="URL", help="connect through http://, socks5:// or socks4://HOST:PORT")
    parser.add_argument("--no-compression", action="store_true", help="do not offer permessage-deflate")
    parser.add_argument("--binary", action="store_true", help="send lines as binary messages")
    parser.add_argument(
        "--max-message-size",
        type=number,
        default=Limits().max_message_size,
        metavar="BYTES",
        help="size of a message, received or sent (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="in a pipe, silence of the server after which to close; inf never does (default: %(default)s)",
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not name or not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no header field: it should look like Name:value")
    return name, value.strip()


def run(options: argparse.Namespace, _: object) -> int:
    """Talk; return the exit status.

    Raises:
        TerminalError: a flag, or what `talk` says.
    """
    settings = Settings(
        url=options.url,
        headers=tuple(options.header),
        subprotocols=tuple(options.subprotocol),
        origin=options.origin,
        ssl_context=_ssl_context(options),
        proxy=options.proxy,
        compression=not options.no_compression,
        limits=Limits(max_message_size=options.max_message_size),
        binary=options.binary,
        wait=options.wait,
    )
    return trio.run(partial(talk, settings))


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Return what is trusted; None for what the system trusts."""
    if options.insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if options.cacert is None:
        return None
    try:
        return ssl.create_default_context(cafile=options.cacert)
    except ssl.SSLError as exc:
        raise TerminalError(f"--cacert {options.cacert}: no certificate in PEM; name a file that has one") from exc
    except OSError as exc:
        raise TerminalError(f"--cacert {options.cacert}: {exc.strerror}; name a file that can be read") from exc
