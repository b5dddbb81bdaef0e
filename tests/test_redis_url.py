"""URLs of Redis: every form, and what is wrong with the others."""

from __future__ import annotations

import pytest

from rawws.redis_url import RedisUrl


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis://localhost", RedisUrl("single", (("localhost", 6379),))),
        ("redis://localhost:", RedisUrl("single", (("localhost", 6379),))),
        ("redis://[::1]:7000/2", RedisUrl("single", (("::1", 7000),), database=2)),
        ("redis://:p%40ss@host", RedisUrl("single", (("host", 6379),), password="p@ss")),
        ("redis://ada:pw@host/", RedisUrl("single", (("host", 6379),), user="ada", password="pw")),
        (
            "rediss://host?ca=%2Fa.pem&cert=b.pem&key=c.pem",
            RedisUrl("single", (("host", 6379),), tls=True, ca="/a.pem", cert="b.pem", key="c.pem"),
        ),
        ("unix:///run/my%20redis.sock", RedisUrl("single", (), "/run/my redis.sock")),
        ("unix://:pw@/redis.sock?db=3", RedisUrl("single", (), "/redis.sock", database=3, password="pw")),
        ("redis+cluster://a:1,b:2,c", RedisUrl("cluster", (("a", 1), ("b", 2), ("c", 6379)))),
        ("rediss+cluster://a/0", RedisUrl("cluster", (("a", 6379),), tls=True)),
        (
            "redis+sentinel://ada:pw@a,b:5/my%20service/4",
            RedisUrl("sentinel", (("a", 26379), ("b", 5)), service="my service", database=4, user="ada", password="pw"),
        ),
    ],
)
def test_a_url_says_where_redis_is(url: str, read: RedisUrl) -> None:
    assert RedisUrl.parse(url) == read


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "the scheme"),
        ("localhost:6379", "the scheme"),
        ("unix+cluster://host", "the scheme"),
        ("redis+ring://host", "the scheme"),
        ("redis://", "names a host"),
        ("redis+cluster://a,,b", "names a host"),
        ("redis://a,b", "several hosts"),
        ("redis://a:port", "Port could not be cast"),
        ("redis://a:65536", "Port out of range"),
        ("redis://127.0.0.1:0", "a port is a number from 1 to 65535"),
        ("redis+cluster://a:1,b:0", "a port is a number from 1 to 65535"),
        ("redis://a/x", "a database is a number"),
        ("redis://a/1/2", "a database is a number"),
        ("unix:///a?db=-1", "a database is a number"),
        ("unix://", "names a socket"),
        ("redis+cluster://a/1", "a cluster has no databases"),
        ("redis+sentinel://a", "names the service"),
        ("redis://a?ca=x", "'ca' in its query"),
        ("rediss://a?insecure=1", "'insecure' in its query"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RedisUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ada:secret@host/1", "host:6379"),
        ("redis+sentinel://:secret@a,[::1]:5/main", "a:26379, [::1]:5 (main)"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
    ],
)
def test_what_is_shown_of_a_url_is_no_secret(url: str, shown: str) -> None:
    assert str(RedisUrl.parse(url)) == shown
