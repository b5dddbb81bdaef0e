"""Where Redis is, in one line: `redis://user:password@host:6379/0` and its relatives.

Facts: `rediss` is TLS. `+cluster` names some nodes of a cluster, `+sentinel` some Sentinels and, as the path, the
service whose primary they know; both take several hosts with commas between. A Unix socket is `unix:///path`, its
database `?db=1`. User and password are percent-encoded, and are those of Redis, not of the Sentinels. With TLS the
query names PEM files: `ca`, `cert`, `key`. Nothing else may stand in the query: what is misspelt is not ignored.

This module reads text and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Kind", "RedisUrl"]

Kind: TypeAlias = Literal["single", "cluster", "sentinel"]
"""What is at the other end."""

_KINDS: Final[dict[str, Kind]] = {"": "single", "cluster": "cluster", "sentinel": "sentinel"}
_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_SCHEMES: Final = "redis, rediss, unix, and redis or rediss with +cluster or +sentinel"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL of Redis, read."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    """Names or addresses, and ports; none for a Unix socket."""
    socket: str | None = None
    """The path of a Unix socket."""
    service: str = ""
    """What the Sentinels call the primary."""
    database: int = 0
    user: str | None = None
    password: str | None = None
    tls: bool = False
    ca: str | None = None
    """A PEM file of certificates to trust; None for the system's."""
    cert: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL.

        Raises:
            ValueError: it names no Redis; says what is wrong, without the password.
        """
        parts = urlsplit(url)
        base, _, variant = parts.scheme.partition("+")
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        user, password = _who(parts.netloc)
        if parts.scheme == "unix":
            _check_query(query, {"db"})
            if not parts.path:
                raise ValueError("a unix URL names a socket, such as unix:///run/redis/redis.sock")
            path = unquote(parts.path)
            return cls("single", (), path, database=_database(query.get("db", "")), user=user, password=password)
        if base not in ("redis", "rediss") or variant not in _KINDS:
            raise ValueError(f"the scheme of a Redis URL is one of {_SCHEMES}")
        kind = _KINDS[variant]
        _check_query(query, {"ca", "cert", "key"} if base == "rediss" else set())
        hosts = _hosts(parts.netloc, _PORTS[kind])
        if kind == "single" and len(hosts) > 1:
            raise ValueError("several hosts are for redis+cluster and redis+sentinel")
        path = parts.path.strip("/")
        service = ""
        if kind == "sentinel":
            service, _, path = path.partition("/")
            if not service:
                raise ValueError("a sentinel URL names the service, such as redis+sentinel://host:26379/mymaster")
        database = _database(path)
        if kind == "cluster" and database:
            raise ValueError("a cluster has no databases")
        return cls(
            kind,
            hosts,
            service=unquote(service),
            database=database,
            user=user,
            password=password,
            tls=base == "rediss",
            ca=query.get("ca"),
            cert=query.get("cert"),
            key=query.get("key"),
        )

    def __str__(self) -> str:
        """Say where it is, without user and password, for logs."""
        if self.socket is not None:
            return self.socket
        where = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{where} ({self.service})" if self.service else where


def _who(netloc: str) -> tuple[str | None, str | None]:
    """Return the user and the password of an authority, None where it does not have one."""
    before, at, _ = netloc.rpartition("@")
    user, _, password = before.partition(":")
    return (unquote(user) or None, unquote(password) or None) if at else (None, None)


def _hosts(netloc: str, default: int) -> tuple[tuple[str, int], ...]:
    found = []
    for each in netloc.rpartition("@")[2].split(","):
        address = urlsplit(f"//{each}")
        if not address.hostname:
            raise ValueError("a Redis URL names a host, such as redis://localhost:6379")
        if address.port == 0:
            raise ValueError("a port is a number from 1 to 65535, such as redis://localhost:6379")
        found.append((address.hostname, address.port or default))
    return tuple(found)


def _database(text: str) -> int:
    if text and not (text.isdecimal() and text.isascii()):
        raise ValueError("a database is a number, such as redis://localhost:6379/1")
    return int(text or "0")


def _check_query(query: dict[str, str], known: set[str]) -> None:
    for name in query:
        if name not in known:
            raise ValueError(f"a URL of this scheme has no {name!r} in its query")
