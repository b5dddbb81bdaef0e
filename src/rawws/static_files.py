"""A folder of files, served from memory.

Facts: the folder is read once, at start; afterwards no request touches the file system, so no path can leave
the folder and no slow disk can hold up the reactor. Dotfiles are skipped, and so is whatever is no regular
file or is reached through a symbolic link that leads out of the folder. Bytes and files are bounded.

Strategy: each file has one or two representations, as it is and gzip where that pays, and each of these its
two whole answers, made at load. Its entity tag is strong and covers the header fields too: a changed policy
must reach a browser that has the same body. Preconditions: RFC 9110 §13.1.2; negotiation: §12.5.3.

Cost: the folder's bytes in memory; a look-up in a dictionary and one or two header fields to parse a request.
This module knows no connections, clocks or routes, and what a missing file gets is the router's business.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, final
from urllib.parse import quote

from rawws.http import Response, check_fields, require_get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rawws.http import Request

__all__ = ["BUNDLED_CONTENT_SECURITY_POLICY", "StaticFiles"]

BUNDLED_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the bundled page may do: load its own files and talk to its own server, nothing else (CSP Level 3)."""

_MAX_TOTAL_SIZE: Final = 64 * 1024 * 1024
"""Bytes of all files together: they stay in memory, and a folder named by mistake should say so at once."""
_MAX_FILES: Final = 10_000
"""Files in the folder, for the same reason."""
_WHAT_TO_DO: Final = ", and they are kept in memory; name a smaller one, and leave the rest to a server for files"
_MIN_GZIP_GAIN: Final = 256
"""Bytes that gzip must save, besides a tenth of the file; a smaller gain is not worth the inflating."""

_OCTET_STREAM: Final = "application/octet-stream"
# Our own table, since `mimetypes` answers what the machine's configuration says. Text is UTF-8 here.
_CONTENT_TYPES: Final = {
    ".avif": "image/avif",
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
_GZIP_TYPES: Final = re.compile(r"text/|application/(?:json|manifest\+json|wasm|xml)|image/svg\+xml")

_OPAQUE_TAG: Final = re.compile(r'"([^"]*)"')
# One member of Accept-Encoding: a coding and its weight (RFC 9110 §12.4.2, §12.5.3).
_CODING: Final = re.compile(
    r"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.IGNORECASE
)


class _Representation(NamedTuple):
    """One file in one content coding, with both of its possible answers."""

    opaque_tag: str
    """The entity tag without its quotes."""
    ok: Response
    not_modified: Response


class _File(NamedTuple):
    identity: _Representation
    gzip: _Representation | None


@final
class StaticFiles:
    """The files of one folder and the answers to requests for them; immutable once loaded."""

    __slots__ = ("_files", "_moved")

    def __init__(self, files: dict[str, _File], policies: list[tuple[str, str]]) -> None:
        self._files = files
        # Without its slash a folder is no base for the links of its page. The path is ours, and not what was asked for.
        self._moved = {path[:-1]: _moved(path, policies) for path in files if path.endswith("/") and path != "/"}

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, content_security_policy: str | None = None) -> StaticFiles:
        """Read a folder and everything below it into memory.

        Blocks while it reads and compresses, so call it before serving. A file `a/b.txt` answers to the path
        `/a/b.txt`, an `index.html` to its folder's path too (`/`, `/a/`), to which `/a` redirects.

        Args:
            folder: its path; at most 64 MiB in at most 10 000 files.
            content_security_policy: the value of a Content-Security-Policy header on every answer; None
                sends none.

        Raises:
            OSError: the folder or a file in it cannot be read; FileNotFoundError or NotADirectoryError, with
                its name, when there is no such folder.
            ValueError: the folder holds too many bytes or files, or the policy is no header value.
        """
        policies: list[tuple[str, str]] = []
        if content_security_policy is not None:
            policies.append(("Content-Security-Policy", content_security_policy))
            check_fields(policies, owned=frozenset())  # here, so that it fails for an empty folder too
        return cls(_load(folder, policies), policies)

    @classmethod
    def bundled(cls) -> StaticFiles:
        """Load the page that comes with rawws, under a policy that forbids inline script and other origins.

        Raises:
            OSError: the installation is broken; the page's folder is missing or cannot be read.
        """
        policies = [
            ("Content-Security-Policy", BUNDLED_CONTENT_SECURITY_POLICY),
            ("Referrer-Policy", "no-referrer"),
        ]
        with resources.as_file(resources.files("rawws") / "static") as packaged:
            # A checkout has no copy inside the package: there the folder stands beside `src`.
            folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "static"
            return cls(_load(folder, policies), policies)

    def respond(self, request: Request) -> Response | None:
        """Answer a request for a file, or for a folder with a page; None when there is neither.

        The body is there for HEAD too; whoever writes the answer leaves it out.

        Raises:
            HandshakeError: 405, when there is one and the method is neither GET nor HEAD.
        """
        file = self._files.get(request.path)
        moved = self._moved.get(request.path)
        if file is None and moved is None:
            return None
        require_get(request)
        if file is None:
            return moved
        representation = file.identity
        if file.gzip is not None and _prefers_gzip(request.headers.get("Accept-Encoding", "")):
            representation = file.gzip
        if _matches(request.headers.get("If-None-Match", ""), representation.opaque_tag):
            return representation.not_modified
        return representation.ok


def _load(folder: str | os.PathLike[str], policies: list[tuple[str, str]]) -> dict[str, _File]:
    """Read what `_walk` finds, and stop as soon as one of the bounds is passed."""
    files: dict[str, _File] = {}
    room = _MAX_TOTAL_SIZE
    for count, (path, name) in enumerate(_walk(os.fspath(folder)), 1):
        if count > _MAX_FILES:
            raise ValueError(f"the folder {os.fspath(folder)!r} holds more than {_MAX_FILES} files{_WHAT_TO_DO}")
        with open(name, "rb") as source:
            body = source.read(room + 1)
        room -= len(body)
        if room < 0:
            raise ValueError(f"the folder {os.fspath(folder)!r} holds more than {_MAX_TOTAL_SIZE} bytes{_WHAT_TO_DO}")
        file = _file(path, body, policies)
        files[path] = file
        if path.endswith("/index.html"):
            files[path.removesuffix("index.html")] = file
    return files


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Yield URL path and file name of each file that may be served, in a stable order."""
    root = os.path.realpath(folder)

    def walk(name: str, path: str, parents: frozenset[str]) -> Iterator[tuple[str, str]]:
        with os.scandir(name) as listing:
            entries = sorted(entry.name for entry in listing if not entry.name.startswith("."))
        for entry in entries:
            # A link's own name counts, not its target's: Kubernetes mounts files as links into a dot-folder.
            target = os.path.realpath(os.path.join(name, entry))
            if os.path.commonpath((root, target)) != root:
                continue
            if os.path.isfile(target):
                yield path + entry, target
            elif os.path.isdir(target) and target not in parents:  # a link to one of these would never end
                yield from walk(target, f"{path}{entry}/", parents | {target})

    # The folder by the name that was given, so that an error says what its reader wrote.
    yield from walk(folder, "/", frozenset({root}))


def _file(path: str, body: bytes, policies: list[tuple[str, str]]) -> _File:
    content_type = _CONTENT_TYPES.get(os.path.splitext(path)[1].lower(), _OCTET_STREAM)
    if _GZIP_TYPES.match(content_type):
        packed = gzip.compress(body, mtime=0)  # no time in it: every start and every worker has the same tag
        if len(body) - len(packed) > max(_MIN_GZIP_GAIN, len(body) // 10):
            vary = [("Vary", "Accept-Encoding")]
            return _File(
                _representation(body, content_type, vary, [], policies),
                _representation(packed, content_type, vary, [("Content-Encoding", "gzip")], policies),
            )
    return _File(_representation(body, content_type, [], [], policies), None)


def _representation(
    body: bytes,
    content_type: str,
    vary: list[tuple[str, str]],
    coding: list[tuple[str, str]],
    policies: list[tuple[str, str]],
) -> _Representation:
    described = [("Content-Type", content_type), *coding, ("X-Content-Type-Options", "nosniff"), *policies]
    digest = hashlib.sha256(repr(described).encode())
    digest.update(body)
    opaque_tag = digest.hexdigest()[:32]
    # What a 304 repeats of a 200 (RFC 9110 §15.4.5). no-cache: kept, but asked about each time, so that a new
    # page is seen at once and an old one costs a 304.
    validators = (("Cache-Control", "no-cache"), ("ETag", f'"{opaque_tag}"'), *vary)
    ok = Response(200, (*described, *validators), body)
    return _Representation(opaque_tag, ok, Response(304, validators))


def _moved(path: str, policies: list[tuple[str, str]]) -> Response:
    """Return the redirection to a folder's path (RFC 9110 §15.4.2); a name that is not UTF-8 is never asked for."""
    location = quote(path, errors="surrogateescape")
    fields = (("Location", location), *policies, ("Cache-Control", "no-cache"))
    return Response.text(301, "The path of a folder ends with a slash.", fields)


def _matches(if_none_match: str, opaque_tag: str) -> bool:
    """Compare a value of If-None-Match weakly: a `W/` makes no difference (RFC 9110 §8.8.3.2)."""
    return if_none_match == "*" or opaque_tag in _OPAQUE_TAG.findall(if_none_match)


def _prefers_gzip(accept_encoding: str) -> bool:
    """Whether a field value of Accept-Encoding asks for gzip at least as much as for the file as it is.

    A member that is not well formed is passed over. Without the header anything would do (§12.5.3), and the
    file as it is does for everybody.
    """
    weights: dict[str, float] = {}
    for member in accept_encoding.split(","):
        coding = _CODING.fullmatch(member.strip(" \t"))
        if coding is not None:
            weights[coding[1].lower()] = float(coding[2] or 1)
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return weight > 0 and weight >= weights.get("identity", 0.0)
