"""The bounds of the queue: who is refused, who is cancelled, and who expires while it waits."""

import time

import pytest

from frostline_server.batching.request_queue import QueuePolicy
from frostline_server.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    QueueFull,
    QueueTimeout,
)
from tests.support.puppet import HOUR_S, Staging, rows_of

# The queue's bound


def test_a_full_queue_refuses_at_once_and_says_how_many_rows_wait(staging: Staging) -> None:
    on = staging(max_queue_size=5)
    on.occupy()
    on.submit(on.entry([1], [1], [1]), on.entry([2]))
    with pytest.raises(QueueFull, match=r"^Exceeds maximum queue size: 4 rows wait and at most 5 may, so 2 more"):
        on.submit(on.entry([3], [3]))
    on.submit(on.entry([4]))
    assert on.batcher.queued_rows == 5
    on.finish()
    assert [ran.rows for ran in on.puppet.ran] == [1, 5]
    assert on.batcher.queued_rows == 0


def test_a_request_of_more_rows_than_may_wait_is_taken_where_none_waits(staging: Staging) -> None:
    on = staging(max_queue_size=2)
    on.occupy()
    large = on.entry([1], [1], [1])
    on.submit(large)
    for later in (on.entry([2]), on.entry([2], [2], [2])):
        with pytest.raises(QueueFull, match="3 rows wait and at most 2 may"):
            on.submit(later)
    on.finish()
    assert rows_of(large) == [[1], [1], [1]]


def test_a_request_with_more_rows_than_a_batch_is_refused_and_harms_nobody(staging: Staging) -> None:
    on = staging(max_batch_size=2)
    with pytest.raises(InvalidInput, match="3 rows are more than the 2 of a batch"):
        on.submit(on.entry([1], [1], [1]))
    fitting = on.entry([2], [2])
    on.submit(fitting)
    on.finish()
    assert rows_of(fitting) == [[2], [2]]


def test_rows_that_run_no_longer_count_as_waiting(staging: Staging) -> None:
    on = staging(max_queue_size=1)
    on.occupy()
    on.submit(on.entry([1]))
    with pytest.raises(QueueFull):
        on.submit(on.entry([2]))
    on.puppet.release()
    on.puppet.wait_for(2)
    on.submit(on.entry([3]))
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran[1:]] == [[[1]], [[3]]]


# Cancelling, and deadlines


def test_a_request_cancelled_while_it_waits_never_reaches_the_device_and_frees_its_room(staging: Staging) -> None:
    on = staging(max_queue_size=3)
    on.occupy()
    kept, given_up = on.entry([1]), on.entry([2], [2])
    on.submit(kept, given_up)
    on.batcher.cancel(given_up)
    assert on.batcher.queued_rows == 1
    on.submit(on.entry([3], [3]))
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran[1:]] == [[[1], [3], [3]]]
    assert given_up not in on.replies.entries
    assert [type(error) for error, _ in on.witness.failures] == [Cancelled]


def test_cancelling_one_request_does_not_harm_its_batch_mates(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([n]) for n in range(4)]
    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.batcher.cancel(entries[1])
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[[0]], [[1]], [[2]], [[3]]]
    assert on.witness.failures == []


def test_cancelling_twice_counts_once(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entry = on.entry([1], [1])
    on.submit(entry)
    on.batcher.cancel(entry)
    on.batcher.cancel(entry)
    assert on.batcher.queued_rows == 0
    assert len(on.witness.failures) == 1


def test_cancelling_a_finished_request_changes_nothing(staging: Staging) -> None:
    on = staging()
    entry = on.occupy()
    on.puppet.release()
    on.replies.wait_for(1)
    on.batcher.cancel(entry)
    assert rows_of(entry) == [[0]]
    assert on.witness.failures == []


def test_a_queue_of_cancelled_requests_is_no_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([n]) for n in range(3)]
    on.submit(*entries)
    for entry in entries:
        on.batcher.cancel(entry)
    on.finish()
    assert len(on.puppet.ran) == 1


def test_a_request_whose_deadline_passed_never_reaches_the_device_and_its_mates_do(staging: Staging) -> None:
    on = staging()
    on.occupy()
    now = time.monotonic()
    late, early, patient = (
        on.entry([1], deadline_s=now),
        on.entry([2], deadline_s=now + HOUR_S),
        on.entry([3]),
    )
    on.submit(late, early, patient)
    on.finish()
    assert on.puppet.ran[1].inputs[0].tolist() == [[2], [3]]
    assert isinstance(late.error, DeadlineExceeded)
    assert [type(error) for error, _ in on.witness.failures] == [DeadlineExceeded]
    assert [rows_of(entry) for entry in (early, patient)] == [[[2]], [[3]]]


def test_an_expired_request_takes_no_room_in_the_batch(staging: Staging) -> None:
    on = staging(max_batch_size=2)
    on.occupy()
    on.submit(on.entry([1], [1], deadline_s=time.monotonic()), on.entry([2], [2]))
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran[1:]] == [[[2], [2]]]


def test_a_queue_of_expired_requests_is_no_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    on.submit(*[on.entry([n], deadline_s=time.monotonic()) for n in range(3)])
    on.finish()
    assert len(on.puppet.ran) == 1
    assert [len(group) for group in on.replies.groups] == [1, 3]


# Policies, seen through the threads


def test_a_request_that_waits_too_long_is_refused_while_its_device_idles(staging: Staging) -> None:
    on = staging(policies=(QueuePolicy(100, timeout_s=0.001),), max_queue_delay_s=HOUR_S)
    entry = on.entry([1])
    on.submit(entry)
    on.replies.wait_for(1)
    assert isinstance(entry.error, QueueTimeout)
    assert on.puppet.ran == []


def test_a_higher_priority_overtakes_what_waits(staging: Staging) -> None:
    on = staging(max_batch_size=1, policies=(QueuePolicy(100),) * 2, default_priority=2)
    on.occupy()
    on.submit(on.entry([1]), on.entry([2], priority=1))
    on.finish()
    assert [ran.inputs[0].item() for ran in on.puppet.ran[1:]] == [2, 1]


def test_a_delay_longer_than_a_lock_can_wait_is_a_long_delay(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=2.0**64 / 1e6)
    on.submit(on.entry([1]))
    on.submit(on.entry([2]))
    assert on.puppet.wait_for(1).rows == 2
