"""What every test shares: hypothesis's profiles, and whether the fast lane is on.

`HYPOTHESIS_PROFILE=ci` has no luck in it, `HYPOTHESIS_PROFILE=long` is for nights. `RAWWS_FAST_LANE=0` runs every test
of behaviour through wsproto alone; the tests of the lane itself run both ways whatever it says.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from tests.redis_server import RedisServer, running_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST_LANE: Final = os.environ.get("RAWWS_FAST_LANE", "1") != "0"

# A busy machine is no reason to fail. In CI the same examples run each time: what is new there is the commit.
settings.register_profile("day", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("day"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("day"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "day"))


@pytest.fixture(scope="session")
def fast_lane() -> bool:
    """Whether servers and decoders are to use the fast lane."""
    return FAST_LANE


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests that do not end it: each has its own prefix of keys."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
