"""The queue without threads or clocks: who goes next, with whom, and when."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.batching.entry import Entry
from frostline_server.batching.request_queue import QueuePolicy, RequestQueue
from frostline_server.errors import DeadlineExceeded, InvalidInput, QueueFull, QueueTimeout
from tests.support.puppet import batching, make_entry


class Queue:
    """A queue whose entries are known by a letter.

    Attributes:
        waiting: the queue.
    """

    def __init__(self, *, batched: bool = True, **options: Any) -> None:
        self.waiting = RequestQueue(batching(**options), batched=batched)
        self._names: dict[Entry, str] = {}

    def push(self, names: str, at: float = 0.0, *, rows: int = 1, width: int = 1, **options: Any) -> list[Entry]:
        """Let an entry for each letter wait, from the time `at` on."""
        entries = [make_entry(np.zeros((rows, width), np.float32), reply=lambda _: None, **options) for _ in names]
        for name, entry in zip(names, entries, strict=True):
            entry.arrived_s = at
            self.waiting.push(entry)
            self._names[entry] = name
        return entries

    def take(self, now: float = 0.0, *, closing: bool = False) -> str:
        """The letters of the next batch, and after a slash of those that ended."""
        batch, ended, _ = self.waiting.take(now, closing=closing)
        assert not any(entry.level for entry in (*batch, *ended))
        return self.letters(batch) + ("/" + self.letters(ended) if ended else "")

    def take_all(self, now: float = 0.0) -> list[str]:
        """Batches until there is none."""
        batches = []
        while taken := self.take(now):
            batches.append(taken)
        return batches

    def wait_s(self, now: float = 0.0) -> float:
        """In how many seconds to ask again, when there is nothing to run."""
        batch, ended, wait_s = self.waiting.take(now)
        assert not batch
        assert not ended
        return wait_s

    def letters(self, entries: list[Entry]) -> str:
        return "".join(self._names[entry] for entry in entries)


def levels(count: int, **options: Any) -> dict[str, Any]:
    """Options of a queue with that many priorities, the lowest being the default."""
    return {"policies": (QueuePolicy(100, **options),) * count, "default_priority": count}


# Weights


@pytest.mark.parametrize("options", [{}, {"preserve_ordering": True}, {"preferred_sizes": (2, 4)}])
def test_rows_that_weigh_more_take_the_place_of_others_and_none_waits_for_ever(options: dict[str, Any]) -> None:
    queue = Queue(max_batch_size=4, **options)
    for name, weight in (("a", 2), ("b", 1), ("c", 1), ("d", 1), ("e", 4), ("f", 9), ("g", 1)):
        (entry,) = queue.push(name)
        entry.kind = replace(entry.kind, weight=weight)
    batches = []
    while taken := queue.take(closing=True):
        batches.append(taken)
    assert batches == ["abc", "d", "e", "f", "g"]


# Priorities


def test_a_higher_priority_goes_first_and_lower_ones_fill_the_batch() -> None:
    queue = Queue(max_batch_size=3, **levels(3))
    for name, priority in (("a", 3), ("b", 2), ("c", 1), ("d", 2), ("e", 1)):
        queue.push(name, priority=priority)
    assert queue.take_all() == ["ceb", "da"]


def test_the_order_within_a_priority_is_that_of_arrival() -> None:
    queue = Queue(max_batch_size=2, **levels(2))
    queue.push("ab", priority=2)
    queue.push("cd", priority=1)
    assert queue.take() == "cd"
    queue.push("e", priority=1)
    assert queue.take_all() == ["ea", "b"]


def test_priority_zero_is_the_default() -> None:
    queue = Queue(max_batch_size=1, policies=(QueuePolicy(9),) * 3, default_priority=2)
    queue.push("a", priority=3)
    queue.push("b")
    queue.push("c", priority=1)
    assert queue.take_all() == ["c", "b", "a"]


@pytest.mark.parametrize("priority", [-1, 3, 2**63])
def test_a_priority_there_is_not_is_the_default(priority: int) -> None:
    queue = Queue(max_batch_size=1, policies=(QueuePolicy(9),) * 2, default_priority=1)
    queue.push("a", priority=2)
    queue.push("b", priority=priority)
    assert queue.take_all() == ["b", "a"]


def test_a_model_without_priorities_ignores_them() -> None:
    queue = Queue()
    queue.push("a", priority=9)
    queue.push("b", priority=1)
    assert queue.take() == "ab"


def test_a_large_request_of_high_priority_is_not_overtaken_by_a_small_one_of_low_priority() -> None:
    queue = Queue(max_batch_size=3, **levels(2))
    queue.push("a", rows=2, priority=1)
    queue.push("b", rows=2, priority=1)
    queue.push("c", priority=2)
    assert queue.take_all() == ["a", "bc"]


def test_a_high_priority_of_one_shape_goes_before_an_older_low_priority_of_another() -> None:
    queue = Queue(**levels(2))
    queue.push("a", at=0, priority=2)
    queue.push("b", at=1, priority=1, width=2)
    queue.push("c", at=2, priority=2, width=2)
    assert queue.take_all() == ["bc", "a"]


def test_each_priority_has_its_own_bound() -> None:
    queue = Queue(policies=(QueuePolicy(1), QueuePolicy(2)), default_priority=2)
    queue.push("a", priority=1)
    queue.push("bc", priority=2)
    with pytest.raises(QueueFull, match="1 rows wait and at most 1 may"):
        queue.push("d", priority=1)
    with pytest.raises(QueueFull, match="2 rows wait and at most 2 may"):
        queue.push("d")
    with pytest.raises(QueueFull, match="1 rows wait and at most 1 may, so 2 more"):
        queue.push("d", priority=1, rows=2)
    assert queue.waiting.rows == 3
    assert queue.take() == "abc"
    assert queue.waiting.rows == 0


# Timeouts


def test_who_waited_too_long_is_refused_wherever_in_the_queue_it_is() -> None:
    queue = Queue(max_batch_size=1, policies=(QueuePolicy(9, timeout_s=10, allow_override=True),))
    queue.push("a")
    late = queue.push("b", timeout_s=3)
    queue.push("c", timeout_s=99)
    queue.push("d", timeout_s=0)
    assert queue.take(now=3) == "a/b"
    assert isinstance(late[0].error, QueueTimeout)
    assert str(late[0].error) == "Request timeout expired"
    assert queue.waiting.rows == 2
    assert queue.take(now=9.9) == "c"
    assert queue.take(now=10) == "/d"
    assert queue.waiting.empty


def test_a_requests_own_timeout_is_ignored_unless_the_policy_allows_it() -> None:
    queue = Queue(policies=(QueuePolicy(9, timeout_s=10),))
    queue.push("a", timeout_s=1)
    assert queue.take(now=9) == "a"


def test_a_requests_own_timeout_counts_where_the_policy_has_none() -> None:
    queue = Queue(policies=(QueuePolicy(9, allow_override=True),))
    queue.push("a", timeout_s=1)
    queue.push("b")
    assert queue.take(now=1000) == "b/a"


def test_with_the_action_delay_who_waited_too_long_runs_after_all_others_of_its_priority() -> None:
    queue = Queue(max_batch_size=1, **levels(2, timeout_s=10, delay=True))
    queue.push("a", at=0, priority=1)
    queue.push("b", at=0, priority=2)
    queue.push("c", at=5, priority=1)
    queue.push("d", at=5, priority=2)
    assert queue.take(now=10) == "c"
    queue.push("e", at=11, priority=1)
    assert [queue.take(now=12) for _ in range(5)] == ["e", "a", "d", "b", ""]


def test_delayed_entries_fill_a_batch_of_fresh_ones_and_count_as_waiting() -> None:
    queue = Queue(policies=(QueuePolicy(3, timeout_s=1, delay=True),))
    queue.push("a")
    queue.push("bc", at=1)
    assert queue.waiting.rows == 3
    with pytest.raises(QueueFull):
        queue.push("d", at=1)
    assert queue.take(now=1.5) == "bca"


def test_a_delayed_entry_can_be_cancelled() -> None:
    queue = Queue(max_batch_size=1, policies=(QueuePolicy(9, timeout_s=1, delay=True),))
    (late,) = queue.push("a")
    queue.push("b", at=1)
    assert queue.take(now=1) == "b"
    assert queue.waiting.remove(late)
    assert not queue.waiting.remove(late)
    assert queue.waiting.empty
    assert queue.waiting.rows == 0


def test_a_queue_that_waits_for_company_asks_again_when_somebody_times_out() -> None:
    queue = Queue(policies=(QueuePolicy(9, timeout_s=2),), max_queue_delay_s=10)
    queue.push("a", at=0)
    assert queue.wait_s(now=1) == 1
    assert queue.take(now=2) == "/a"
    assert queue.wait_s(now=2) == math.inf


def test_entries_are_pushed_and_taken_in_order_after_others_timed_out() -> None:
    queue = Queue(policies=(QueuePolicy(9, timeout_s=2),), max_batch_size=2)
    queue.push("a", at=0)
    queue.push("b", at=1)
    assert queue.take(now=2) == "b/a"
    queue.push("c", at=2)
    queue.push("d", at=3)
    assert queue.take(now=4) == "d/c"


# Preferred sizes, and the delay


@pytest.mark.parametrize(
    ("waiting", "batches"),
    [
        ([1], [1]),
        ([1, 1, 1], [3]),
        ([1] * 4, [4]),
        ([1] * 5, [4, 1]),
        ([1] * 9, [8, 1]),
        ([3, 3, 3], [6, 3]),
        ([3, 1, 3], [4, 3]),
        ([9, 1], [9, 1]),
        ([2, 7], [2, 7]),
    ],
)
def test_the_largest_preferred_batch_is_run_and_otherwise_what_does_not_exceed_it(
    waiting: list[int], batches: list[int]
) -> None:
    queue = Queue(max_batch_size=16, preferred_sizes=(4, 8))
    for rows in waiting:
        queue.push("a", rows=rows)
    got = []
    while batch := queue.waiting.take(0.0)[0]:
        got.append(sum(entry.rows for entry in batch))
    assert got == batches


def test_a_preferred_size_does_not_wait_for_the_delay_and_what_is_left_does() -> None:
    queue = Queue(max_batch_size=16, preferred_sizes=(2,), max_queue_delay_s=10)
    queue.push("a", at=0)
    assert queue.wait_s(now=4) == 6
    queue.push("bc", at=4)
    assert queue.take(now=4) == "ab"
    assert queue.wait_s(now=5) == 9
    assert queue.take(now=14) == "c"


def test_a_delay_that_is_over_still_makes_a_preferred_batch() -> None:
    queue = Queue(max_batch_size=16, preferred_sizes=(2,), max_queue_delay_s=1)
    queue.push("abc")
    assert queue.take(now=5) == "ab"
    assert queue.take(now=5) == "c"


def test_the_delay_counts_from_the_oldest_of_the_batch() -> None:
    queue = Queue(max_queue_delay_s=10, **levels(2))
    queue.push("a", at=0, priority=2)
    queue.push("b", at=5, priority=1)
    assert queue.wait_s(now=6) == 4
    assert queue.take(now=10) == "ba"


def test_a_batch_that_cannot_grow_does_not_wait() -> None:
    queue = Queue(max_batch_size=4, max_queue_delay_s=10)
    queue.push("a", rows=3)
    assert queue.wait_s() == 10
    queue.push("b", rows=2)
    assert queue.take() == "a"
    assert queue.wait_s() == 10


def test_an_expired_deadline_neither_fills_nor_delays_a_batch() -> None:
    queue = Queue(max_batch_size=2, max_queue_delay_s=10)
    (late,) = queue.push("a", at=0, deadline_s=1.0)
    queue.push("b", at=1)
    assert queue.wait_s(now=2) == 9
    queue.push("c", at=2)
    assert queue.take(now=2) == "bc/a"
    assert isinstance(late.error, DeadlineExceeded)


def test_a_queue_of_nothing_but_expired_deadlines_ends_them_though_there_is_a_delay() -> None:
    queue = Queue(max_queue_delay_s=10)
    queue.push("ab", deadline_s=1.0)
    assert queue.take(now=1) == "/ab"


def test_nobody_waits_for_company_that_will_not_come() -> None:
    queue = Queue(max_queue_delay_s=10, preferred_sizes=(8,))
    queue.push("ab")
    assert queue.take(closing=True) == "ab"
    assert queue.take(closing=True) == ""


# The order of arrival


def test_to_keep_the_order_a_batch_ends_where_the_shape_changes() -> None:
    shapes = [("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 1)]
    for ordered, batches in ((True, ["ab", "c", "de"]), (False, ["abde", "c"])):
        queue = Queue(preserve_ordering=ordered)
        for at, (name, width) in enumerate(shapes):
            queue.push(name, at=at, width=width)
        assert queue.take_all(now=9) == batches


def test_to_keep_the_order_a_full_batch_waits_behind_an_incomplete_one_of_another_shape() -> None:
    queue = Queue(preserve_ordering=True, max_batch_size=2, max_queue_delay_s=10)
    queue.push("a", at=0)
    assert queue.wait_s() == 10
    queue.push("bc", at=0, width=2)
    assert queue.take_all() == ["a", "bc"]


def test_an_entry_can_be_cancelled_where_the_order_is_kept() -> None:
    queue = Queue(preserve_ordering=True)
    _, second, _ = queue.push("abc", width=3)
    assert queue.waiting.remove(second)
    assert queue.take() == "ac"


# Emptying


def test_everything_can_be_taken_out_at_once() -> None:
    queue = Queue(max_batch_size=1, **levels(2, timeout_s=1, delay=True))
    queue.push("ab", at=0, priority=2)
    queue.push("c", at=1, priority=1, width=2)
    assert queue.take(now=1) == "c"
    queue.push("d", at=1, priority=1)
    left = queue.waiting.clear()
    assert sorted(queue.letters(left)) == ["a", "b", "d"]
    assert queue.waiting.empty
    assert queue.waiting.rows == 0
    assert not any(queue.waiting.remove(entry) for entry in left)
    queue.push("e", at=2)
    assert queue.take(now=2) == "e"


# Whatever comes

policies = st.builds(
    QueuePolicy,
    max_rows=st.integers(5, 30),
    timeout_s=st.sampled_from([0.0, 2.0, 5.0]),
    delay=st.booleans(),
    allow_override=st.booleans(),
)
batchings = st.tuples(
    st.integers(3, 6),
    st.lists(policies, min_size=1, max_size=3),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from([(), (2,), (2, 3)]),
    st.booleans(),
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.integers(1, 3),
            st.integers(1, 2),
            st.integers(0, 3),
            st.sampled_from([None, 1.0, 4.0]),
            st.sampled_from([None, 0.0, 2.0]),
        ),
        st.tuples(st.just("remove"), st.integers(0, 20)),
        st.tuples(st.just("take")),
        st.tuples(st.just("tick"), st.sampled_from([0.5, 1.0, 3.0])),
    ),
    max_size=40,
)


@given(batchings=batchings, steps=steps)
def test_every_entry_leaves_the_queue_once_and_no_bound_is_ever_broken(batchings: Any, steps: list[Any]) -> None:
    most, policies, delay_s, preferred, ordered = batchings
    many = len(policies) > 1
    queue = RequestQueue(
        batching(
            max_batch_size=most,
            policies=tuple(policies),
            default_priority=1 if many else 0,
            max_queue_delay_s=delay_s,
            preferred_sizes=preferred,
            preserve_ordering=ordered and not many,
        ),
        batched=True,
    )
    now, pushed, gone = 0.0, list[Entry](), list[Entry]()

    def take(*, closing: bool = False) -> bool:
        batch, ended, wait_s = queue.take(now, closing=closing)
        gone.extend(batch + ended)
        assert sum(entry.rows for entry in batch) <= most
        assert len({entry.kind.shapes for entry in batch}) <= 1
        assert all(entry.error for entry in ended)
        assert not any(entry.error for entry in batch)
        assert batch or ended or wait_s > 0
        return bool(batch or ended)

    for step in steps:
        match step:
            case ("push", rows, width, priority, timeout_s, left_s):
                entry = make_entry(
                    np.zeros((rows, width), np.float32),
                    reply=lambda _: None,
                    priority=priority,
                    timeout_s=timeout_s,
                    deadline_s=None if left_s is None else now + left_s,
                )
                entry.arrived_s = now
                try:
                    queue.push(entry)
                except (QueueFull, InvalidInput):
                    continue
                pushed.append(entry)
            case ("remove", index) if index < len(pushed):
                waited = pushed[index] not in gone
                assert queue.remove(pushed[index]) == waited
                if waited:
                    gone.append(pushed[index])
            case ("take",):
                take()
            case ("tick", seconds):
                now += seconds
        assert queue.rows == sum(entry.rows for entry in pushed if entry not in gone)
        assert queue.rows <= sum(policy.max_rows for policy in policies)
    while take(closing=True):
        pass
    assert queue.empty
    assert len(gone) == len(set(gone))
    assert set(gone) == set(pushed)
