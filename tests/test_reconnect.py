"""Whether and when a client connects again: tables, delays, Retry-After."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rawws.errors import ConnectionClosed, HandshakeFailed, HandshakeRejected
from rawws.http import Headers
from rawws.reconnect import MAX_RETRY_AFTER, Backoff, retry_after, why_not_again, will_heal


class TestBackoff:
    def test_delays_double_up_to_the_maximum(self) -> None:
        backoff = Backoff(first=1.0, factor=2.0, maximum=10.0, random=lambda: 1.0)
        assert [backoff.delay(failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]
        assert backoff.delay(10_000) == 10

    def test_chance_shortens_a_delay_by_up_to_a_half(self) -> None:
        shares = iter([0.0, 0.5, 1.0])
        backoff = Backoff(first=2.0, random=lambda: next(shares))
        assert [backoff.delay(1) for _ in range(3)] == [1.0, 1.5, 2.0]

    def test_the_defaults_begin_within_a_second_and_end_below_a_minute(self) -> None:
        backoff = Backoff()
        delays = [backoff.delay(failures) for failures in range(1, 20)]
        assert 0.5 <= delays[0] <= 1.0
        assert 30.0 <= delays[-1] <= 60.0
        assert len(set(delays)) == len(delays)  # no two by the same chance

    def test_a_factor_of_one_keeps_the_delay(self) -> None:
        backoff = Backoff(first=3.0, factor=1.0, random=lambda: 1.0)
        assert all(a == b == 3.0 for a, b in pairwise(backoff.delay(failures) for failures in (1, 2, 50)))

    @pytest.mark.parametrize(
        "wrong", [{"first": 0}, {"first": -1}, {"first": 2, "maximum": 1}, {"factor": 0.9}, {"steady": -1}]
    )
    def test_what_makes_no_sense_is_a_value_error(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="backoff"):
            Backoff(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "heals"),
    [(408, True), (425, True), (429, True), (500, True), (502, True), (503, True), (504, True)]
    + [(status, False) for status in (200, 204, 301, 302, 400, 401, 403, 404, 405, 407, 410, 426)],
)
def test_a_refusal_heals_or_not(status: int, heals: bool) -> None:
    assert will_heal(HandshakeRejected(status, {}, b"")) is heals


def test_a_wrong_answer_does_not_heal() -> None:
    assert not will_heal(HandshakeFailed("wrong"))


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003])
def test_these_close_codes_are_final_and_say_why(code: int) -> None:
    assert why_not_again(ConnectionClosed(code, "", "peer"))


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 3008, 4000, 4999])
def test_those_close_codes_are_not(code: int) -> None:
    assert why_not_again(ConnectionClosed(code, "", "peer")) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 0.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "99999999999999999999"}, MAX_RETRY_AFTER),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "1.5"}, 0.0),
        ({"Retry-After": "²"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({"Retry-After": "Thu, 21 Oct 2100 07:28:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:30 GMT"}, MAX_RETRY_AFTER),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),  # relative to a clock that we do not know
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(fields: dict[str, str], seconds: float) -> None:
    assert retry_after(Headers(fields.items())) == seconds
