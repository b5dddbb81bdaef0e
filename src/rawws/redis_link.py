"""The connection to Redis: what is asked and what is heard over it, how its end is noticed, and the next one.

Strategy: one life after the other. A life is a client of coredis with one connection for commands, on which calls
follow each other without waiting, and one for messages. It ends as a whole, with whatever first goes wrong: a
connection that is closed, or a round of the keepalive (a message published over one connection, heard on the other)
that took too long, as it does on a connection that is frozen and not closed. Then every call in it fails at once,
and the next life begins, at first after 0.1 s, later after 2.

Rules: who asks waits for a connection first, for as long as its own caller lets it; calls under way are bounded, and
so is what waits to be written. Nothing here knows what the scripts do. Only this module knows coredis.

Cost: a call is about 0.1 ms of Python, most of it in coredis.
"""

from __future__ import annotations

import logging
import random
import secrets
import ssl
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import coredis
import trio
from coredis.connection import TCPLocation
from coredis.exceptions import RedisError
from coredis.patterns.pubsub import BasePubSub, ClusterPubSub, PubSub
from coredis.retry import NoRetryPolicy

from .backplane import BackplaneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from coredis.client import Client
    from coredis.commands.script import Script

    from .redis_url import RedisUrl

__all__ = ["RedisLink"]

_log: Final = logging.getLogger("rawws.backplane")

_MAX_CALLS: Final = 1024
"""Calls under way; more wait for one of them to end."""
_MAX_CONNECTIONS: Final = 4
"""To one server: one for messages, one for commands, and as many again while they are replaced."""
_LAST_TURNS: Final = 64
"""Turns of Trio that what has arrived may take to be heard."""
_UNSUBSCRIBE_SECONDS: Final = 0.1
"""Time for which coredis waits for an answer at the end of a life, whatever happens; the next one begins later."""
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
"""Seconds between two attempts to connect."""
_FAILURES: Final = (
    RedisError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    trio.TooSlowError,
)


@final
class _Life:
    """One connection to Redis, of which there is one at a time."""

    __slots__ = ("calls", "client", "pubsub", "scripts")

    def __init__(self, client: Client[bytes], pubsub: BasePubSub[bytes, Any], sources: Sequence[str]) -> None:
        self.client = client
        self.pubsub = pubsub
        self.scripts: dict[str, Script[bytes]] = {source: client.register_script(source) for source in sources}
        self.calls: set[trio.CancelScope] = set()


@final
class RedisLink:
    """The connection to Redis, while `run` runs.

    Args:
        url: where Redis is.
        keepalive: seconds within which a connection that is dead without having been closed is noticed.
        scripts: the scripts that will be called.
        heard: called with a channel and what was published to it; must not raise.
        connected: called when there is a connection, all channels subscribed to; must not raise.

    Raises:
        OSError: a file that the URL names cannot be read, or is not what it should be; names it.
    """

    def __init__(
        self,
        url: RedisUrl,
        *,
        keepalive: float,
        scripts: Sequence[str],
        heard: Callable[[str, object], object],
        connected: Callable[[], object],
    ) -> None:
        _ssl_context(url)  # each life reads the files anew; what is wrong with them is said before the first
        self._url = url
        self._keepalive = keepalive
        self._sources = tuple(scripts)
        self._heard = heard
        self._connected = connected
        self._life: _Life | None = None
        self._up = trio.Event()
        self._channels: set[str] = set()
        self._limiter = trio.CapacityLimiter(_MAX_CALLS)
        self._own_channel = f"rawws:keepalive:{secrets.token_hex(8)}"
        self._echo = trio.Event()

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._life is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be connected, again and again; started when the first connection is there.

        Raises:
            BackplaneError: the first attempt failed.
        """
        lives = 0
        delay = _FIRST_DELAY
        while True:
            failure: BaseException | None = None
            before = lives
            try:
                async with _connection(self._url, self._keepalive) as (client, pubsub):
                    with trio.fail_after(self._keepalive):
                        await pubsub.subscribe(self._own_channel, *self._channels)
                    lives += 1
                    if lives == 1:
                        task_status.started()
                    else:
                        _log.warning("connected to Redis at %s again", self._url)
                    await self._live(client, pubsub)
            except* _FAILURES as group:
                failure = _leaf(group)
            if lives == 0:
                raise BackplaneError(f"Redis at {self._url} cannot be used: {_reason(failure)}") from failure
            if lives > before:
                delay = _FIRST_DELAY
                _log.warning("the connection to Redis at %s has ended: %s", self._url, _reason(failure))
            await trio.sleep(delay * random.uniform(0.5, 1))
            delay = min(delay * 2, _LONGEST_DELAY)

    async def ready(self) -> None:
        """Wait until there is a connection."""
        while self._life is None:
            await self._up.wait()

    async def call(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script, and return what it returns. When this is cancelled, or raises, the script may have run.

        Raises:
            BackplaneError: there is no connection, or none any more, or the script has failed.
        """
        async with self._limiter:
            return await self._in_life(lambda life: life.scripts[script](keys, arguments))

    async def subscribe(self, channel: str) -> None:
        """Hear a channel from now on, over this connection and those that follow it.

        Raises:
            BackplaneError: there is no connection, or none any more.
        """
        self._channels.add(channel)
        try:
            await self._in_life(lambda life: life.pubsub.subscribe(channel))
        except BaseException:
            self._channels.discard(channel)
            raise

    async def publish(self, channel: str, message: bytes) -> None:
        """Publish to a channel.

        Raises:
            BackplaneError: there is no connection, or none any more.
        """
        async with self._limiter:
            await self._in_life(lambda life: life.client.publish(channel, message))

    async def unsubscribe(self, channel: str) -> None:
        """Hear a channel no longer.

        That is said to Redis at once, and no answer is waited for: it comes before a later `subscribe`, also when this
        is cancelled. Where there is no connection, the next one is without the channel.
        """
        self._channels.discard(channel)
        if self._life is not None:
            with trio.move_on_after(0), suppress(BackplaneError):
                await self._in_life(lambda life: life.pubsub.unsubscribe(channel))

    # -- a life ------------------------------------------------------------------------------------------------------

    async def _in_life(self, ask: Callable[[_Life], Awaitable[Any]]) -> Any:
        """Ask something over the connection that there is now; a new one is another."""
        life = self._life
        if life is not None:
            with trio.CancelScope() as scope:
                life.calls.add(scope)
                try:
                    return await ask(life)
                except _FAILURES as exc:
                    raise BackplaneError(f"Redis did not do what it was asked for: {_reason(exc)}") from exc
                finally:
                    life.calls.discard(scope)
        raise BackplaneError("the connection to Redis has ended")

    async def _live(self, client: Client[bytes], pubsub: BasePubSub[bytes, Any]) -> None:
        """Be connected until something goes wrong."""
        life = self._life = _Life(client, pubsub, self._sources)
        self._up.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, pubsub)
                nursery.start_soon(self._watch, client)
                self._connected()
        finally:
            self._life = None
            self._up = trio.Event()
            for scope in life.calls:
                scope.cancel()

    async def _listen(self, pubsub: BasePubSub[bytes, Any]) -> None:
        """Hand on what is published to the channels."""
        own = self._own_channel.encode()
        while True:
            message = await pubsub.get_message()
            if message is None or message["type"] != "message":
                continue
            channel = message["channel"]
            assert isinstance(channel, bytes)
            if channel == own:
                self._echo.set()
            else:
                self._heard(channel.decode(), message["data"])

    async def _watch(self, client: Client[bytes]) -> None:
        """End the life when a message to ourselves, published over it, is not heard in time."""
        half = self._keepalive / 2
        while True:
            await trio.sleep(half)
            self._echo = trio.Event()
            with trio.move_on_after(half) as scope:
                await client.publish(self._own_channel, b"")
                await self._echo.wait()
            for _ in range(_LAST_TURNS):  # if this process was stopped meanwhile, the message may only wait to be read
                if self._echo.is_set():
                    break
                await trio.lowlevel.checkpoint()
            if scope.cancelled_caught and not self._echo.is_set():
                raise TimeoutError(f"it has been silent for {half:g} s")


@asynccontextmanager
async def _connection(url: RedisUrl, timeout: float) -> AsyncIterator[tuple[Client[bytes], BasePubSub[bytes, Any]]]:
    """Connect, for commands and for messages; all waits of coredis end after `timeout` seconds, at the latest."""
    async with _client(url, timeout) as client:
        pool: Any = client.connection_pool
        kind: type[BasePubSub[bytes, Any]] = ClusterPubSub if url.kind == "cluster" else PubSub
        pubsub = kind(
            pool,
            ignore_subscribe_messages=True,
            retry_policy=NoRetryPolicy(),  # a life ends as a whole
            subscription_timeout=timeout,
            unsubscription_timeout=_UNSUBSCRIBE_SECONDS,
        )
        async with pubsub:
            yield client, pubsub


@asynccontextmanager
async def _client(url: RedisUrl, timeout: float) -> AsyncIterator[Client[bytes]]:
    options: dict[str, Any] = {
        "username": url.user,
        "password": url.password,
        "ssl_context": _ssl_context(url),
        "connect_timeout": timeout,
        "stream_timeout": timeout,
    }
    policy = NoRetryPolicy()  # what was not answered may have been done
    if url.kind == "cluster":
        nodes = [TCPLocation(host, port) for host, port in url.hosts]
        cluster: Any = coredis.RedisCluster(startup_nodes=nodes, retry_policy=policy, pool_timeout=timeout, **options)
        async with cluster:
            yield cluster
        return
    options |= {"db": url.database, "max_connections": _MAX_CONNECTIONS}
    if url.kind == "sentinel":
        theirs = {key: options[key] for key in ("ssl_context", "connect_timeout", "stream_timeout")}
        sentinels = [TCPLocation(host, port) for host, port in url.hosts]
        async with (
            coredis.Sentinel(sentinels, sentinel_kwargs=theirs, retry_policy=policy) as sentinel,
            sentinel.primary_for(url.service, timeout=timeout, **options) as client,
        ):
            yield client
        return
    host, port = url.hosts[0] if url.hosts else (None, None)
    place: dict[str, Any] = {"host": host, "port": port, "unix_socket_path": url.socket}
    async with coredis.Redis(**place, retry_policy=policy, pool_timeout=timeout, **options) as client:
        yield client


def _ssl_context(url: RedisUrl) -> ssl.SSLContext | None:
    """Return a context that trusts no server without a certificate for its name.

    Raises:
        OSError: a file cannot be read, or is not what it should be; names it.
    """
    if not url.tls:
        return None
    with _naming("certificates", url.ca):
        context = ssl.create_default_context(cafile=url.ca)
    if url.cert is not None:
        with _naming("certificate with its key", url.cert, url.key):
            context.load_cert_chain(url.cert, url.key, "")  # OpenSSL would ask for a password at the terminal
    return context


@contextmanager
def _naming(what: str, *names: str | None) -> Iterator[None]:
    """Name the files that are read, with what is wrong with them."""
    try:
        yield
    except OSError as exc:
        reason = f"no {what} in PEM" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise OSError(f"{' or '.join(name for name in names if name is not None)}: {reason}") from exc


def _leaf(error: BaseException) -> BaseException:
    """Return the first of what went wrong at one time."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException | None) -> str:
    """Return what went wrong, with what coredis put it in."""
    causes = []
    while error is not None:
        causes.append(str(error) or type(error).__name__)
        error = error.__cause__
    return ": ".join(causes)
