"""The token bucket, on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.access.rate_limit import RateLimit
from frostline_server.errors import RateLimited


def admitted(limit: RateLimit, times_s: list[float]) -> list[bool]:
    results = []
    for now_s in times_s:
        try:
            limit.admit(now_s)
        except RateLimited:
            results.append(False)
        else:
            results.append(True)
    return results


def test_a_burst_is_let_in_and_then_the_rate() -> None:
    assert admitted(RateLimit(10, 3), [5.0] * 4 + [5.1, 5.1, 5.2]) == [True, True, True, False, True, False, True]


def test_after_a_pause_there_is_one_burst_and_no_more() -> None:
    assert admitted(RateLimit(10, 2), [0.0, 1000.0, 1000.0, 1000.0]) == [True, True, True, False]


def test_a_refusal_says_when_there_will_be_a_token_and_takes_none() -> None:
    limit = RateLimit(4, 1)
    limit.admit(0.0)
    for now_s, wait_ms in ((0.0, 250), (0.1, 150), (0.2, 50)):
        with pytest.raises(RateLimited, match="this caller may send 4 requests a second") as caught:
            limit.admit(now_s)
        assert caught.value.pushback_ms == wait_ms
    limit.admit(0.25)


def test_a_stream_waits_for_each_request_as_long_as_the_rate_says() -> None:
    limit = RateLimit(10, 2)
    assert [round(limit.reserve(1.0), 6) for _ in range(4)] == [0.0, 0.0, 0.1, 0.2]
    assert limit.reserve(9.0) == 0.0


@given(
    rate=st.floats(0.5, 1000),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 0.2), min_size=1, max_size=200),
)
def test_never_are_more_let_in_than_the_burst_and_the_rate_together(
    rate: float, burst: int, gaps_s: list[float]
) -> None:
    times_s, now_s = [], 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        times_s.append(now_s)
    results = admitted(RateLimit(rate, burst), times_s)
    for at, begin_s in enumerate(times_s):
        for until in range(at, len(times_s)):
            count = sum(results[at : until + 1])
            assert count <= burst + rate * (times_s[until] - begin_s) + 1e-3
