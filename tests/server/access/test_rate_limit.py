"""The token bucket, on a clock of the test's own."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.access.rate_limit import RateLimit, RateQueue
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


def test_a_stream_is_told_how_long_to_wait_and_takes_no_token_that_is_not_there() -> None:
    limit = RateLimit(10, 2)
    assert [round(limit.take(1.0), 6) for _ in range(5)] == [0.0, 0.0, 0.1, 0.1, 0.1]
    assert [round(limit.take(1.1), 6) for _ in range(2)] == [0.0, 0.1]
    assert limit.take(9.0) == 0.0


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


# Streams that wait


class Time:
    """A clock, and what is to be done later."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.later: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        self.later.append((self.now_s + seconds, function))

    def to(self, now_s: float) -> None:
        """Let the time pass, and do what is due."""
        while due := [entry for entry in self.later if entry[0] <= now_s]:
            entry = min(due, key=lambda each: each[0])
            self.later.remove(entry)
            self.now_s = max(self.now_s, entry[0])
            entry[1]()
        self.now_s = now_s


class Stream:
    """Has so many requests to send."""

    def __init__(self, callers: "Callers", name: str, requests: int) -> None:
        self.callers = callers
        self.name = name
        self.requests = requests

    def go_on(self) -> None:
        callers = self.callers
        while self.requests and callers.queue.admit(callers.limit, self, callers.time.after):
            self.sent()

    def woken(self) -> None:
        self.sent()
        self.go_on()

    def sent(self) -> None:
        self.requests -= 1
        self.callers.sent.append((round(self.callers.time.now_s, 6), self.name))


class Callers:
    """Streams that share a limit."""

    def __init__(self, requests_per_s: float = 10, burst: float = 1) -> None:
        self.time = Time()
        self.limit = RateLimit(requests_per_s, burst)
        self.queue = RateQueue(lambda: self.time.now_s)
        self.sent: list[tuple[float, str]] = []

    def stream(self, name: str, requests: int = 1) -> Stream:
        stream = Stream(self, name, requests)
        stream.go_on()
        return stream


def test_streams_send_in_turn_and_no_faster_than_their_caller_may() -> None:
    callers = Callers(burst=2)
    callers.stream("a", 4)
    callers.stream("b", 2)
    callers.time.to(1.0)
    assert callers.sent == [(0.0, "a"), (0.0, "a"), (0.1, "a"), (0.2, "b"), (0.3, "a"), (0.4, "b")]
    assert callers.time.later == [], "nobody waits, and nothing is looked at"


def test_streams_that_end_while_they_wait_owe_nothing() -> None:
    callers = Callers()
    waiting = [callers.stream(str(number)) for number in range(80)]
    for stream in waiting[1:]:
        callers.queue.leave(callers.limit, stream)
    with pytest.raises(RateLimited) as caught:
        callers.limit.admit(0.05)
    assert caught.value.pushback_ms == 50
    callers.time.to(0.1)
    callers.limit.admit(0.1)
    assert callers.sent == [(0.0, "0")]


def test_streams_that_wait_owe_one_token_together() -> None:
    callers = Callers()
    for number in range(80):
        callers.stream(str(number))
    with pytest.raises(RateLimited) as caught:
        callers.limit.admit(0.0)
    assert caught.value.pushback_ms == 200


def test_whoever_is_behind_one_that_ends_waits_less() -> None:
    callers = Callers()
    callers.stream("first")
    gone = callers.stream("gone")
    callers.stream("next")
    callers.queue.leave(callers.limit, gone)
    callers.time.to(0.1)
    assert callers.sent == [(0.0, "first"), (0.1, "next")]


def test_calls_that_take_every_token_they_find_keep_no_stream_waiting() -> None:
    callers = Callers()
    callers.stream("a", 3)
    for step in range(1, 60):
        callers.time.now_s = step / 200  # the thread is late for what is due, and the other call is not
        with suppress(RateLimited):
            callers.limit.admit(callers.time.now_s)
        callers.time.to(step / 200)
    assert [name for _, name in callers.sent] == ["a", "a", "a"]


def test_when_all_have_left_the_next_begins_anew() -> None:
    callers = Callers()
    callers.stream("first")
    gone = callers.stream("gone")
    callers.queue.leave(callers.limit, gone)
    callers.stream("next", 2)
    callers.time.to(0.3)
    assert callers.sent == [(0.0, "first"), (0.1, "next"), (0.2, "next")]
    assert callers.limit.take(0.3) == 0


def test_where_there_are_tokens_for_many_only_some_are_taken_in_one_go() -> None:
    callers = Callers(requests_per_s=10, burst=1000)
    callers.limit.admit(0.0)
    while not callers.limit.take(0.0):
        pass
    for number in range(40):
        callers.stream(str(number))
    # The thread was busy, so that all of them are due.
    callers.time.now_s = 10.0
    (entry,) = callers.time.later
    callers.time.later.clear()
    entry[1]()
    assert 0 < len(callers.sent) < 40
    callers.time.to(10.0)
    assert [name for _, name in callers.sent] == [str(number) for number in range(40)]


def test_a_defect_in_one_stream_stops_no_other() -> None:
    class Defect:
        def woken(self) -> None:
            raise ZeroDivisionError

    callers = Callers()
    callers.stream("first")
    callers.queue.admit(callers.limit, Defect(), callers.time.after)
    callers.stream("next")
    with pytest.raises(ZeroDivisionError):
        callers.time.to(0.1)
    callers.time.to(0.3)
    assert callers.sent == [(0.0, "first"), (0.2, "next")]
