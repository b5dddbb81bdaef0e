"""The bounds themselves: what they may be, and what follows from them. That each one holds is tested where it does."""

from __future__ import annotations

import dataclasses
from math import inf, nan
from typing import Any

import pytest

from rawws import Limits

NUMBERS = [field.name for field in dataclasses.fields(Limits) if field.name != "slow_consumer"]
TIMES = [name for name in NUMBERS if name.endswith(("_timeout", "_interval"))]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, -inf, nan])
def test_a_bound_is_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be positive, not {value!r}$"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted({*NUMBERS} - {"max_fragments"}))
def test_a_bound_is_a_number(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a number, not None; math.inf turns a deadline off$"):
        Limits(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TIMES)
def test_a_deadline_can_be_turned_off(name: str) -> None:
    assert getattr(Limits(**{name: inf}), name) == inf  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["close", "drop_newest", "drop_oldest"])
def test_a_slow_consumer_has_one_of_three_policies(policy: Any) -> None:
    assert Limits(slow_consumer=policy).slow_consumer == policy


@pytest.mark.parametrize("policy", ["drop", "", None, 1])
def test_any_other_policy_is_a_value_error(policy: Any) -> None:
    with pytest.raises(
        ValueError, match=f"^slow_consumer must be 'close', 'drop_newest' or 'drop_oldest', not {policy!r}$"
    ):
        Limits(slow_consumer=policy)


@pytest.mark.parametrize(("size", "fragments"), [(1024 * 1024, 16_384), (6400, 100), (1024, 16), (1, 16)])
def test_fragments_follow_from_the_size_of_a_message_and_are_at_least_16(size: int, fragments: int) -> None:
    assert Limits(max_message_size=size).fragments == fragments


def test_fragments_are_what_was_said_where_something_was() -> None:
    assert Limits(max_fragments=1).fragments == 1
    assert Limits(max_fragments=100_000, max_message_size=1).fragments == 100_000


def test_bounds_do_not_change_and_are_given_by_name() -> None:
    limits = Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_connections = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(16)  # type: ignore[call-arg]
    assert dataclasses.replace(limits, max_connections=5).max_head_size == limits.max_head_size
