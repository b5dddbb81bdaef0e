"""The command `rawws`, for people.

Rules: what a person can get wrong (a port that is taken, a folder that is not there, a certificate that does not
fit) is one line on stderr that says what to do, and exit status 2. Every limit has a flag of its name. The
command prints the address to open when it listens, and nothing else on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import os
import socket
import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ._build import COMPILED
from ._version import __version__
from .echo import applications
from .handshake import canonical_origin
from .limits import Limits
from .server import Server, run
from .site import health
from .static_files import StaticFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

_EXAMPLES: Final = """\
examples:
  rawws                                     serve the page and its WebSockets on 127.0.0.1:8000
  rawws serve --port 0                      on a free port, which is printed
  rawws serve --static ./public             serve your own folder instead of the page
  rawws serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  rawws serve --origin https://example.com  let pages of another site connect
  rawws serve --help                        every option and limit
"""
_ANY_ADDRESS: Final = ("", "0.0.0.0", "::")
_LIMITS: Final = {
    "max_head_size": "size of a request head; beyond: 431",
    "max_header_count": "header fields in a request head; beyond: 431",
    "head_timeout": "time from accepting a connection to a complete request head; beyond: 408",
    "accept_timeout": "time that an application may take to answer a handshake; beyond: 503",
    "max_message_size": "size of a message after inflating; beyond: 1009",
    "max_fragments": "frames of a message; beyond: 1008",
    "ping_interval": "silence of a peer after which it is pinged",
    "ping_timeout": "silence after the ping after which it is closed with 1011",
    "close_timeout": "time that a closing handshake may take",
    "shutdown_timeout": "time that the server's shutdown may take",
    "max_send_buffer": "what may wait for a peer that does not read",
    "send_timeout": "time that bytes may wait for a peer without any of them leaving; then it is cut",
    "slow_consumer": "what to do when the send buffer is full: close with 1013, or drop messages",
    "receive_queue_messages": "messages that may wait for the application; then reading stops",
    "receive_queue_size": "size of the messages that may wait for the application; then reading stops",
    "max_control_rate": "control and empty frames a second; beyond: 1008",
    "max_connections": "connections of the server; beyond: 503",
    "max_connections_per_address": "connections from one address, loopback excepted; beyond: 503",
    "max_pending_handshakes": "connections that have not asked for anything; beyond, the oldest gets 503",
}


class _UsageError(Exception):
    """Something that a person can put right; the message says what to do."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, without a page of usage before them."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 2 for what a person can put right, 130 for an early Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    try:
        _serve(_parser().parse_args(arguments))
    except _UsageError as exc:
        print(f"rawws: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # before or after the server listened to signals; a shell's number for SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rawws",
        description="The WebSocket server for Trio. Without a command it serves.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build = "compiled" if COMPILED else "pure Python"
    parser.add_argument("--version", action="version", version=f"rawws {__version__} ({build})")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve the page and its WebSockets (the default)",
        description="Serve a static folder on plain HTTP, and WebSockets on /chat, /communicate, /echo, /echo/task and "
        "/broadcast of the same port; and /health, to this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--host", default="127.0.0.1", help="address or name to listen on (default: %(default)s)")
    serve.add_argument(
        "--port", type=_port, default=8000, help="port to listen on; 0 picks a free one (default: %(default)s)"
    )
    serve.add_argument("--static", metavar="DIR", help="folder to serve (default: the page that comes with rawws)")
    serve.add_argument(
        "--content-security-policy", metavar="POLICY", help="policy to send with the files of --static (default: none)"
    )
    serve.add_argument(
        "--origin",
        action="append",
        type=_origin,
        metavar="ORIGIN",
        help="let pages of this origin connect, such as https://example.com; may be repeated; * lets all "
        "(default: the server's own)",
    )
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate chain in PEM; the server then speaks TLS")
    serve.add_argument("--tls-key", metavar="FILE", help="its private key in PEM (default: in the certificate's file)")
    serve.add_argument("--no-compression", action="store_true", help="do not offer permessage-deflate")
    serve.add_argument("--no-fast-lane", action="store_true", help="send every frame through wsproto")
    serve.add_argument(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error", "critical"),
        help="what to log, on stderr (default: %(default)s)",
    )
    limits = serve.add_argument_group("limits", "Times are seconds; inf is for ever.")
    for field in dataclasses.fields(Limits):
        _add_limit(limits, field)
    return parser


def _add_limit(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    """Add the flag of a field of `Limits`: its name, its type, the unit that its name or type says."""
    flag = "--" + field.name.replace("_", "-")
    text = f"{_LIMITS[field.name]} (default: %(default)s)"
    if field.name == "slow_consumer":
        choices = ("close", "drop_newest", "drop_oldest")
        group.add_argument(flag, choices=choices, default=field.default, help=text)
    elif isinstance(field.default, float):
        group.add_argument(flag, type=_seconds, default=field.default, metavar="SECONDS", help=text)
    else:
        metavar = "BYTES" if field.name.endswith(("_size", "_buffer")) else "N"
        if field.default is None:
            text = text.replace("%(default)s", "max-message-size / 64")
        group.add_argument(flag, type=_number, default=field.default, metavar=metavar, help=text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError("give a number of seconds above 0, or inf")
    return seconds


def _origin(text: str) -> str:
    try:
        return text if text == "*" else canonical_origin(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is {exc}") from exc


def _serve(options: argparse.Namespace) -> None:
    static = _static(options)
    context = _ssl_context(options)
    _raise_descriptor_limit()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        run(
            applications(),
            options.host,
            options.port,
            ssl_context=context,
            on_start=_announcement(options.host, "http" if context is None else "https"),
            static=static,
            pages={"/health": health},
            origins=options.origin,
            limits=Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)}),
            compression=not options.no_compression,
            fast_lane=not options.no_fast_lane,
        )
    except (OSError, UnicodeError) as exc:  # the latter for a name that can be none
        raise _UsageError(_explain(exc, options.host, options.port)) from exc


def _announcement(host: str, scheme: str) -> Callable[[Server], None]:
    """Return what prints the address to open."""

    def announce(server: Server) -> None:
        addresses = [address for address in server.addresses if isinstance(address, tuple)]
        name = "localhost" if host in _ANY_ADDRESS else host
        if len({port for _, port in addresses}) == 1:
            addresses = [(name, addresses[0][1])]
        for where, port in addresses:
            shown = f"[{where}]" if ":" in where else where
            try:
                print(f"rawws is listening on {scheme}://{shown}:{port}/", flush=True)
            except OSError as exc:
                raise _UsageError(f"the address cannot be printed: {exc.strerror}; give rawws a stdout") from exc

    return announce


def _static(options: argparse.Namespace) -> StaticFiles:
    if options.static is None:
        if options.content_security_policy is not None:
            raise _UsageError("--content-security-policy goes with --static; the page has a policy of its own")
        return StaticFiles.bundled()
    try:
        return StaticFiles.load(options.static, content_security_policy=options.content_security_policy)
    except OSError as exc:
        raise _UsageError(f"--static {options.static}: {exc.strerror}; name a folder that can be read") from exc
    except ValueError as exc:
        raise _UsageError(f"--static {options.static}: {exc}") from exc


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise _UsageError("--tls-key needs --tls-cert beside it")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except ssl.SSLError as exc:
        why = f" ({exc.reason})" if exc.reason else ""
        raise _UsageError(
            f"--tls-cert {options.tls_cert}: no certificate in PEM with the key that belongs to it{why}; "
            "name both with --tls-cert and --tls-key"
        ) from exc
    except OSError as exc:
        names = " or ".join(name for name in (options.tls_cert, options.tls_key) if name is not None)
        raise _UsageError(f"{names}: {exc.strerror}; name PEM files that can be read") from exc
    return context


def _explain(exc: OSError | UnicodeError, host: str, port: int) -> str:
    """Return what a person can do about a failure to listen."""
    number = exc.errno if isinstance(exc, OSError) else None
    if isinstance(exc, (socket.gaierror, UnicodeError)):
        return f"{host!r} is no name or address that is known here; choose another with --host"
    if number == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or choose another with --port"
    if number == errno.EACCES:
        return f"port {port} on {host} needs more rights; choose one above 1023 with --port"
    if number == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; choose another with --host"
    return f"cannot listen on {host} port {port}: {exc}"


def _raise_descriptor_limit() -> None:
    """Allow as many open connections as the system lets this process have."""
    if os.name == "posix":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):  # some systems call the hard limit unlimited and then refuse it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
