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
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from . import connect_command
from ._build import COMPILED
from ._version import __version__
from .admin import admin_name
from .backplane import BackplaneError
from .echo import applications
from .handshake import canonical_host, canonical_origin
from .http import parse_authority
from .limits import Limits
from .logs import configure
from .redis_url import RedisUrl
from .server import Options, Server, run
from .static_files import StaticFiles
from .supervisor import WorkersDidNotStartError
from .terminal import TerminalError
from .worker import Refusing, inherit
from .workers import Listening, lead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .admin import AdminAddress
    from .redis_backplane import RedisBackplane

__all__ = ["main"]

_log = logging.getLogger("rawws")

_EXAMPLES: Final = """\
examples:
  rawws                                     serve the page and its WebSockets on 127.0.0.1:8000
  rawws serve --port 0                      on a free port, which is printed
  rawws serve --static ./public             serve your own folder instead of the page
  rawws serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  rawws serve --workers auto                one process for each core
  rawws serve --backplane redis://cache     share the rooms with other processes
  rawws serve --origin https://example.com  let pages of another site connect
  rawws serve --help                        every option and limit
  rawws connect ws://localhost:8000/echo    talk to a server; rawws connect --help says more
"""
_ANY_ADDRESS: Final = ("", "0.0.0.0", "::")
_SHARED_PATHS: Final = ("/chat", "/broadcast")
"""Where what one connection says reaches others."""
_SPLIT: Final = (
    "With several workers, people here would reach only those on the same one. "
    "Start rawws with --backplane, or without --workers."
)
_MAX_DIGITS: Final = 18
"""Digits of a number: what fits into 64 bits, and no more than Python reads."""
_STATIC_HELP: Final = (
    "folder to serve from memory: at most 64 MiB in 10 000 files (default: the page that comes with rawws)"
)
_LIMITS: Final = {
    "max_head_size": "size of a request head; beyond: 431 (414 beyond 8 KiB of its target)",
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


_MAX_WORKERS: Final = 1024
"""More than any machine has cores for; an idle one takes 21 MB."""


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
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:
            raise _UsageError(f"unrecognized arguments: {' '.join(unknown)}; see rawws {arguments[0]} --help")
        status: int = options.run(options, arguments)
    except (_UsageError, TerminalError) as exc:
        print(f"rawws: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # before or after the command listened to signals; a shell's number for SIGINT
    return status


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
        "/broadcast of the same port; and /health and /metrics, to this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--host",
        type=_listening_host,
        default="127.0.0.1",
        help="address or name to listen on; 0.0.0.0 or :: for every IPv4 or IPv6 address (default: %(default)s)",
    )
    serve.add_argument(
        "--port", type=_port, default=8000, help="port to listen on; 0 picks a free one (default: %(default)s)"
    )
    serve.add_argument("--static", metavar="DIR", help=_STATIC_HELP)
    serve.add_argument(
        "--content-security-policy", metavar="POLICY", help="policy to send with the files of --static (default: none)"
    )
    serve.add_argument(
        "--origin",
        action="append",
        type=_origin,
        metavar="ORIGIN",
        help="let pages of this origin connect too, such as https://example.com; may be repeated; * lets all "
        "(default: the server's own)",
    )
    serve.add_argument(
        "--allowed-host",
        action="append",
        type=_host,
        metavar="HOST",
        help="serve requests for this host alone, such as example.com or localhost:8000; may be repeated "
        "(default: all)",
    )
    serve.add_argument(
        "--admin",
        default=True,
        type=_admin,
        metavar="HOST:PORT",
        help="answer /health and /metrics there alone, in plain HTTP; unix:PATH for a Unix socket "
        "(default: on the port of the server, to this machine)",
    )
    serve.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes that serve the port, each with the limits below, kept running by one more, which replaces them "
        "on SIGHUP; auto: one for each core (default: one process alone)",
    )
    serve.add_argument("--worker", type=_descriptors, help=argparse.SUPPRESS)  # what `workers.spawner` appends
    serve.add_argument(
        "--backplane",
        type=_backplane_url,
        metavar="URL",
        help="share /chat and /broadcast with every other process that names the same Redis: redis://HOST:PORT, rediss "
        "for TLS, redis+cluster://HOST:PORT,..., redis+sentinel://HOST:PORT,.../SERVICE, unix:///PATH "
        "(default: this process is alone)",
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
    serve.add_argument(
        "--log-format", default="text", choices=("text", "json"), help="how to log it (default: %(default)s)"
    )
    limits = serve.add_argument_group("limits", "Times are seconds; inf is for ever.")
    for field in dataclasses.fields(Limits):
        _add_limit(limits, field)
    connect_command.add_parser(commands, _number, _seconds)
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


def _listening_host(text: str) -> str:
    if text == "*":  # some systems take it for every address, and a browser for none
        raise argparse.ArgumentTypeError("give 0.0.0.0 for every IPv4 address of this machine, :: for every IPv6 one")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 0xFFFF:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _workers(text: str) -> int:
    if text == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _MAX_WORKERS)
    if not text.isdecimal() or len(text) > 9 or not 0 < int(text) <= _MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"give a whole number from 1 to {_MAX_WORKERS}, or auto for one for each core")
    return int(text)


def _descriptors(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _number(text: str) -> int:
    if text.isdecimal() and len(text) > _MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"give a whole number of at most {_MAX_DIGITS} digits")
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


def _host(text: str) -> str:
    try:
        return canonical_host(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is {exc}") from exc


def _admin(text: str) -> AdminAddress:
    path = text.removeprefix("unix:")
    if path != text and path:
        return path
    host, port = parse_authority(text) or ("", None)
    if port is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address: it should look like 127.0.0.1:9000, [::1]:9000 or unix:/run/rawws.sock"
        )
    return host.strip("[]"), port


def _backplane_url(text: str) -> str:
    try:
        RedisUrl.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def _backplane(options: argparse.Namespace) -> RedisBackplane | None:
    """Return what --backplane names; it is still to be opened."""
    if options.backplane is None:
        return None
    from .redis_backplane import RedisBackplane

    logging.getLogger("coredis").setLevel(logging.CRITICAL)  # what it says with a traceback, rawws says in a line
    try:
        return RedisBackplane(options.backplane)
    except ImportError as exc:
        raise _UsageError(f"--backplane needs {exc.name}; install it with: pip install 'rawws[redis]'") from exc
    except OSError as exc:
        raise _UsageError(f"--backplane: {exc}; name PEM files that can be read") from exc


def _serve(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Serve as this process, as a worker of another one, or as the parent of workers."""
    static = _static(options)
    context = _ssl_context(options)
    backplane = _backplane(options)
    settings: Options = {
        "static": static,
        "origins": options.origin,
        "hosts": options.allowed_host,
        "limits": Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)}),
        "compression": not options.no_compression,
        "fast_lane": not options.no_fast_lane,
    }
    _raise_descriptor_limit()
    configure(options.log_level, options.log_format, sys.stderr)
    announce = _announcement(options.host, "http" if context is None else "https")
    try:
        if options.worker is not None:
            trio.run(partial(_work, options, context, backplane, settings))
            return 0
        if options.workers is not None:
            del settings, static  # the workers read their own files
            return _lead(options, arguments, announce)
        run(
            applications(backplane),
            options.host,
            options.port,
            ssl_context=context,
            on_start=announce,
            lifespan=backplane,
            admin=options.admin,
            **settings,
        )
    except BackplaneError as exc:
        raise _UsageError(f"--backplane: {exc}; start it, or name another") from exc
    except (OSError, UnicodeError) as exc:  # the latter for a name that can be none
        if isinstance(exc, OSError) and options.admin is not True and exc.filename == admin_name(options.admin):
            raise _UsageError(f"--admin {exc.filename}: {exc.strerror}; choose another address") from exc
        raise _UsageError(_explain(exc, options.host, options.port)) from exc
    return 0


def _lead(
    options: argparse.Namespace, arguments: Sequence[str], announce: Callable[[Server | Listening], object]
) -> int:
    """Be the parent of workers."""
    if os.name != "posix":
        raise _UsageError("--workers needs a POSIX system, such as Linux; leave it out")

    def started(listening: Listening) -> None:
        announce(listening)
        if _is_split(options):
            _log.warning("%s are refused: %s", " and ".join(_SHARED_PATHS), _SPLIT)

    try:
        trio.run(
            partial(
                lead,
                options.workers,
                arguments,
                options.host,
                options.port,
                admin=None if options.admin is True else options.admin,
                shutdown_timeout=options.shutdown_timeout,
                started=started,
            )
        )
    except WorkersDidNotStartError as exc:
        if exc.status != 2:  # with 2 it has said itself what a person can do
            print("rawws: the first worker ended before it served; what stands above may say why", file=sys.stderr)
        return 2 if exc.status == 2 else 1
    return 0


async def _work(
    options: argparse.Namespace, context: ssl.SSLContext | None, backplane: RedisBackplane | None, settings: Options
) -> None:
    """Be one of several workers."""
    worker, listeners = inherit(options.worker, context)
    apps = applications(backplane)
    pages = worker.pages() if options.admin is True else {}
    if _is_split(options):
        refusing = Refusing(_SPLIT)
        apps |= dict.fromkeys(_SHARED_PATHS, refusing)
        pages |= dict.fromkeys(_SHARED_PATHS, refusing.page)
    settings["pages"] = pages
    async with backplane if backplane is not None else nullcontext():
        await worker.serve(apps, listeners, **settings)


def _is_split(options: argparse.Namespace) -> bool:
    """Return whether each of several workers would have rooms of its own."""
    return options.backplane is None and options.workers != 1


def _announcement(host: str, scheme: str) -> Callable[[Server | Listening], None]:
    """Return what prints the address to open."""

    def announce(server: Server | Listening) -> None:
        addresses = [address for address in server.addresses if isinstance(address, tuple)]
        name = "localhost" if host in _ANY_ADDRESS else host
        if len({port for _, port in addresses}) == 1:
            addresses = [(name, addresses[0][1])]
        lines = [f"rawws is listening on {scheme}://{admin_name(address)}/" for address in addresses]
        for address in server.admin_addresses:
            where = f"http://{admin_name(address)}" if isinstance(address, tuple) else f"unix:{address}"
            lines.append(f"/health and /metrics are on {where}")
        try:
            print("\n".join(lines), flush=True)
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
        context.load_cert_chain(options.tls_cert, options.tls_key, _ask_for_no_password)
    except ssl.SSLError as exc:
        why = f" ({exc.reason})" if exc.reason else ""
        raise _UsageError(
            f"--tls-cert {options.tls_cert}: no certificate in PEM with the key that belongs to it{why}; "
            "name both with --tls-cert and --tls-key"
        ) from exc
    except OSError as exc:
        # OpenSSL does not say which of the two it could not read.
        files = [name for name in (options.tls_cert, options.tls_key) if name is not None]
        names = " or ".join([name for name in files if not os.access(name, os.R_OK)] or files)
        raise _UsageError(f"{names}: {exc.strerror}; name PEM files that can be read") from exc
    return context


def _ask_for_no_password() -> str:
    """OpenSSL would ask at the terminal, and a service has none."""
    raise _UsageError("the key of --tls-cert is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`")


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
