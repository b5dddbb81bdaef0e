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
import ssl
import sys
import typing
from typing import TYPE_CHECKING, Final

from ._version import __version__
from .deflate import DeflateOptions
from .echo import applications
from .limits import Limits
from .server import Server, run
from .static_files import StaticFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_EXAMPLES: Final = """\
examples:
  rawws                                     serve the page and its WebSockets on 127.0.0.1:8000
  rawws serve --port 0                      on a free port, which is printed
  rawws serve --static ./public             serve your own folder instead of the page
  rawws serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  rawws serve --origin https://example.com  let pages of another site connect
"""


class _UsageError(Exception):
    """Something a person can put right; the message says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for what a person can put right."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    options = _parser().parse_args(arguments)
    try:
        _serve(options)
    except _UsageError as exc:
        print(f"rawws: {exc}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawws",
        description="The WebSocket server for Trio. Without a command it serves.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rawws {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve the chat page and its WebSockets (the default)",
        description="Serve a static folder on plain HTTP, and WebSockets on /communicate, /echo, /echo/task and "
        "/broadcast of the same port.",
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
    limits = serve.add_argument_group("limits")
    for field in dataclasses.fields(Limits):
        _add_limit(limits, field)
    return parser


def _add_limit(group: argparse._ArgumentGroup, field: dataclasses.Field[typing.Any]) -> None:
    """Add the flag of a field of `Limits`: its name, its type, the unit that its name or type says."""
    flag = "--" + field.name.replace("_", "-")
    if field.name == "slow_consumer":
        group.add_argument(
            flag, choices=("close", "drop_newest", "drop_oldest"), default=field.default, help="(default: %(default)s)"
        )
        return
    kind = str(field.type)
    if "float" in kind:
        group.add_argument(flag, type=float, default=field.default, metavar="SECONDS", help="(default: %(default)s)")
        return
    metavar = "BYTES" if field.name.endswith(("_size", "_buffer")) else "N"
    shown = "max-message-size / 64" if field.default is None else "%(default)s"
    group.add_argument(flag, type=int, default=field.default, metavar=metavar, help=f"(default: {shown})")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _serve(options: argparse.Namespace) -> None:
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    limits = _limits(options)
    static = _static(options)
    context = _ssl_context(options)
    _raise_descriptor_limit()
    scheme = "http" if context is None else "https"

    def announce(server: Server) -> None:
        for address in server.addresses:
            if isinstance(address, tuple):
                host = f"[{address[0]}]" if ":" in address[0] else address[0]
                print(f"rawws is listening on {scheme}://{host}:{address[1]}/", flush=True)

    try:
        run(
            applications(),
            options.host,
            options.port,
            ssl_context=context,
            on_start=announce,
            static=static,
            origins="*" if options.origin and "*" in options.origin else options.origin,
            limits=limits,
            compression=False if options.no_compression else DeflateOptions(),
            fast_lane=not options.no_fast_lane,
        )
    except ValueError as exc:
        raise _UsageError(str(exc)) from exc
    except OSError as exc:
        raise _UsageError(_explain(exc, options.host, options.port)) from exc


def _limits(options: argparse.Namespace) -> Limits:
    try:
        return Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})
    except ValueError as exc:
        raise _UsageError(f"--{str(exc).replace('_', '-')}") from exc


def _static(options: argparse.Namespace) -> StaticFiles:
    if options.static is None:
        if options.content_security_policy is not None:
            raise _UsageError("--content-security-policy goes with --static; the page has a policy of its own")
        return StaticFiles.bundled()
    try:
        return StaticFiles.load(options.static, content_security_policy=options.content_security_policy)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise _UsageError(f"--static {options.static}: {reason}; name a folder that can be read") from exc


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise _UsageError("--tls-key needs --tls-cert beside it")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except ssl.SSLError as exc:
        raise _UsageError(
            f"--tls-cert {options.tls_cert}: no certificate in PEM with the key that belongs to it ({exc.reason})"
        ) from exc
    except OSError as exc:
        raise _UsageError(f"--tls-cert {options.tls_cert}: {exc.strerror}; name PEM files that can be read") from exc
    return context


def _explain(exc: OSError, host: str, port: int) -> str:
    """Return what a person can do about a failure to listen."""
    number = exc.errno
    cause: BaseException | None = exc
    while cause is not None and number is None:
        cause = cause.__cause__ or cause.__context__
        number = getattr(cause, "errno", None)
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
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
