"""The batcher over a puppet network: who shares a batch, who waits, who is refused, and that nobody is forgotten."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from puppet import TIMEOUT_S, Replies, Stage, computed, make_entry, stage

from server.batcher import Entry, RowKind
from server.errors import Cancelled, DeadlineExceeded, InvalidInput, QueueFull, Retired, RunFailed, ServerStopping

HOUR_S = 3600.0
FLOAT = np.dtype(np.float32)

Staging = Callable[..., Stage]


@pytest.fixture
def staging() -> Iterator[Staging]:
    """Builds stages, and ends their threads after the test."""
    stages: list[Stage] = []

    def build(**options: Any) -> Stage:
        stages.append(stage(**options))
        return stages[-1]

    yield build
    for built in stages:
        built.finish()


def rows_of(entry: Entry) -> Any:
    """The rows an entry was answered with."""
    assert entry.error is None
    return entry.outputs[0].tolist()


# Who shares a batch


def test_what_queued_while_the_device_was_busy_is_the_next_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    waiting = [on.entry([1]), on.entry([2], [3]), on.entry([4])]
    on.submit(*waiting)
    on.puppet.release()
    assert on.puppet.wait_for(2).inputs[0].tolist() == [[1], [2], [3], [4]]
    on.finish()
    assert [rows_of(entry) for entry in waiting] == [[[1]], [[2], [3]], [[4]]]


def test_a_lone_request_does_not_wait_for_company(staging: Staging) -> None:
    on = staging()
    entry = on.occupy()
    assert on.puppet.ran[0].rows == 1
    on.puppet.release()
    assert on.replies.wait_for(1) == [entry]


def test_a_batch_never_holds_more_rows_than_the_limit(staging: Staging) -> None:
    on = staging(max_batch_size=4)
    on.occupy()
    on.submit(*[on.entry([n], [n]) for n in range(5)])
    on.finish()
    assert [ran.rows for ran in on.puppet.ran] == [1, 4, 4, 2]


def test_a_request_that_does_not_fit_ends_the_batch_and_is_not_overtaken(staging: Staging) -> None:
    on = staging(max_batch_size=8)
    on.occupy()
    on.submit(on.entry(*[[1]] * 3), on.entry(*[[2]] * 6), on.entry(*[[3]] * 2))
    on.finish()
    assert [sorted({row[0] for row in ran.inputs[0].tolist()}) for ran in on.puppet.ran[1:]] == [[1], [2, 3]]


def test_only_rows_of_equal_shape_share_a_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    on.submit(on.entry([1, 1]), on.entry([2, 2, 2]), on.entry([3, 3]), on.entry([4, 4, 4]))
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran[1:]] == [
        [[1, 1], [3, 3]],
        [[2, 2, 2], [4, 4, 4]],
    ]


def test_the_shape_whose_oldest_request_waited_longest_goes_first(staging: Staging) -> None:
    on = staging(max_batch_size=2)
    on.occupy()
    on.submit(on.entry([1, 1], [1, 1]), on.entry([2, 2, 2]), on.entry([3, 3]), on.entry([4, 4, 4]))
    on.finish()
    assert [ran.inputs[0][:, 0].tolist() for ran in on.puppet.ran[1:]] == [[1, 1], [2, 4], [3]]


def test_requests_that_ask_for_different_outputs_share_a_batch_and_each_gets_its_own_in_its_own_order(
    staging: Staging,
) -> None:
    on = staging()
    on.occupy()
    total = on.entry([1, 2], wanted=("total",))
    both = on.entry([3, 4], [5, 6], wanted=("double", "same"))
    turned = on.entry([7, 8], wanted=("same", "total"))
    on.submit(total, both, turned)
    on.puppet.release()
    assert on.puppet.wait_for(2).wanted == ("total", "double", "same")
    on.finish()
    assert [output.tolist() for output in total.outputs] == [[3]]
    assert [output.tolist() for output in both.outputs] == [[[6, 8], [10, 12]], [[3, 4], [5, 6]]]
    assert [output.tolist() for output in turned.outputs] == [[[7, 8]], [15]]


def test_requests_that_ask_for_the_same_outputs_get_them_from_one_run(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([n, n], wanted=("total", "same")) for n in (1, 2)]
    on.submit(*entries)
    on.finish()
    assert [ran.wanted for ran in on.puppet.ran[1:]] == [("total", "same")]
    assert [[output.tolist() for output in entry.outputs] for entry in entries] == [[[2], [[1, 1]]], [[4], [[2, 2]]]]


# What reaches the network


def test_rows_of_several_wire_types_share_a_batch_and_are_cast_to_what_the_network_takes(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [
        on.entry([255, 0], wire=np.uint8),
        on.entry([-128, 127], [1, -1], wire=np.int8),
        on.entry([0.5, -65504], wire=np.float16),
        on.entry([1e-30, 3e38]),
    ]
    on.submit(*entries)
    on.puppet.release()
    (array,) = on.puppet.wait_for(2).inputs
    assert array.dtype == FLOAT
    assert array[:4].tolist() == [[255, 0], [-128, 127], [1, -1], [0.5, -65504]]
    np.testing.assert_array_equal(array[4], np.array([1e-30, 3e38], np.float32))
    on.finish()
    assert rows_of(entries[1]) == [[-128, 127], [1, -1]]


def test_a_request_of_another_wire_type_is_cast_when_it_runs_alone(staging: Staging) -> None:
    on = staging()
    entry = on.entry([1, 2], wire=np.uint8)
    on.submit(entry)
    on.finish()
    assert on.puppet.ran[0].inputs[0].dtype == FLOAT
    assert rows_of(entry) == [[1, 2]]


def test_equal_kinds_that_are_two_objects_still_share_a_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2])]
    entries[1].kind = RowKind(((1,),), (FLOAT,), (FLOAT,))
    on.submit(*entries)
    on.finish()
    assert on.puppet.ran[1].inputs[0].tolist() == [[1], [2]]


def test_each_input_of_a_network_is_assembled_by_itself(staging: Staging) -> None:
    on = staging()
    on.occupy()

    def pair(first: float, second: int, wire: Any) -> Entry:
        kind = RowKind(((2,), ()), (np.dtype(wire), np.dtype(np.int64)), (FLOAT, np.dtype(np.int64)))
        data = [np.full(2, first, wire).tobytes(), np.array([second]).tobytes()]
        return Entry(kind, 1, data, ("same",), None, on.replies, None)

    on.submit(pair(1, 10, np.uint8), pair(2.5, 20, np.float32))
    on.puppet.release()
    left, right = on.puppet.wait_for(2).inputs
    assert left.tolist() == [[1, 1], [2.5, 2.5]]
    assert right.tolist() == [10, 20]
    assert (left.dtype, right.dtype) == (FLOAT, np.dtype(np.int64))


def test_strings_of_several_requests_are_joined_and_split_again(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry(["a", "b"], cast=object), on.entry(["c", ""], ["é", "f"], cast=object)]
    on.submit(*entries)
    on.puppet.release()
    assert on.puppet.wait_for(2).inputs[0].tolist() == [["a", "b"], ["c", ""], ["é", "f"]]
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[["a", "b"]], [["c", ""], ["é", "f"]]]


def test_rows_without_elements_are_still_rows(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([]), on.entry([], [])]
    on.submit(*entries)
    on.finish()
    assert [entry.outputs[0].shape for entry in entries] == [(1, 0), (2, 0)]


def test_entries_of_a_network_without_a_batch_axis_run_alone_and_keep_their_whole_shape(staging: Staging) -> None:
    on = staging(batched=False, max_queue_delay_s=HOUR_S)
    entries = [make_entry(np.full(3, n, np.float32), reply=on.replies, batched=False) for n in range(3)]
    on.submit(*entries)
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert [rows_of(entry) for entry in entries] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


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


def test_a_request_larger_than_the_queue_is_refused_even_by_an_idle_device(staging: Staging) -> None:
    on = staging(max_queue_size=2)
    with pytest.raises(InvalidInput, match="3 rows are more than the 2 that may wait"):
        on.submit(on.entry([1], [1], [1]))
    assert on.puppet.ran == []


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


# Failing


def test_a_failing_run_fails_its_own_batch_only_and_the_next_one_works(staging: Staging) -> None:
    on = staging()

    def fail_once(inputs: Any, wanted: Any) -> Any:
        on.puppet.answer = computed
        raise ValueError("bad weather")

    on.puppet.answer = fail_once
    failed = on.occupy()
    fine = on.entry([1])
    on.submit(fine)
    on.finish()
    assert isinstance(failed.error, RunFailed)
    assert str(failed.error) == "the network failed on a batch of 1 rows: bad weather"
    assert rows_of(fine) == [[1]]
    assert [error for error, _ in on.witness.failures] == [failed.error]
    assert [told.entries for told in on.witness.batches] == [[fine]]


def test_an_error_with_a_meaning_of_its_own_reaches_the_client_as_it_is(staging: Staging) -> None:
    on = staging()

    def refuse(inputs: Any, wanted: Any) -> Any:
        raise InvalidInput("index out of range")

    on.puppet.answer = refuse
    entry = on.entry([1])
    on.submit(entry)
    on.finish()
    assert isinstance(entry.error, InvalidInput)


def test_a_network_that_gives_another_number_of_rows_fails_everybody(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2])]
    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.puppet.answer = lambda inputs, wanted: [inputs[0][:0]]
    on.finish()
    assert [str(entry.error) for entry in entries] == ["output 'same' has shape [0, 1] for a batch of 1 rows"] * 2


def test_a_network_that_gives_too_few_outputs_fails_the_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1], wanted=("same", "double")), on.entry([2], wanted=("same", "double"))]
    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.puppet.answer = lambda inputs, wanted: [inputs[0]]
    on.finish()
    assert [type(entry.error) for entry in entries] == [RunFailed, RunFailed]


# Waiting for more rows


def test_with_a_delay_an_idle_device_waits_until_the_batch_is_full(staging: Staging) -> None:
    on = staging(max_batch_size=3, max_queue_delay_s=HOUR_S)
    on.submit(*[on.entry([n]) for n in range(3)])
    assert on.puppet.wait_for(1).inputs[0].tolist() == [[0], [1], [2]]


def test_a_full_batch_does_not_wait_for_the_delay(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=HOUR_S)
    on.submit(on.entry([1], [2]))
    assert on.puppet.wait_for(1).rows == 2


def test_an_incomplete_batch_runs_once_the_delay_is_over(staging: Staging) -> None:
    on = staging(max_batch_size=100, max_queue_delay_s=0.001)
    on.submit(on.entry([1]))
    assert on.puppet.wait_for(1).rows == 1


@pytest.mark.parametrize("attempt", range(10))
def test_cancelled_rows_do_not_fill_a_batch_that_waits(staging: Staging, attempt: int) -> None:
    on = staging(max_batch_size=3, max_queue_delay_s=HOUR_S)
    on.submit(*[on.entry([n]) for n in range(3)])
    on.puppet.wait_for(1)
    entries = [on.entry([n]) for n in range(4)]
    on.submit(entries[0], entries[1], entries[2])
    on.batcher.cancel(entries[1])
    on.puppet.release()
    on.replies.wait_for(3)
    on.submit(entries[3])
    assert on.puppet.wait_for(2).inputs[0].tolist() == [[0], [2], [3]]


# Answering


def test_a_door_is_handed_its_entries_of_a_batch_in_one_go(staging: Staging) -> None:
    on = staging()
    other = Replies()
    on.occupy()
    mine = [on.entry([1]), on.entry([2])]
    theirs = [make_entry(np.array([[n]], np.float32), reply=other) for n in (3, 4)]
    on.submit(mine[0], theirs[0], mine[1], theirs[1])
    on.finish()
    assert on.replies.groups[1:] == [mine]
    assert other.groups == [theirs]


def test_entries_that_end_before_they_run_are_handed_over_in_one_go_too(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([n], deadline_s=time.monotonic()) for n in (1, 2)]
    on.submit(*entries)
    on.finish()
    assert on.replies.groups[1:] == [entries]


def test_the_observer_is_told_what_ran_and_when(staging: Staging) -> None:
    on = staging()
    first = on.occupy()
    entries = [on.entry([1]), on.entry([2], [3])]
    on.submit(*entries)
    on.finish()
    assert [(told.entries, told.rows) for told in on.witness.batches] == [([first], 1), (entries, 3)]
    one, two = on.witness.batches
    moments = [first.arrived_s, *one.times_s, *two.times_s]
    assert moments == sorted(moments)
    assert all(entry.arrived_s <= two.times_s[0] for entry in entries)


def test_the_observer_is_told_how_long_a_failed_entry_waited(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entry = on.entry([1])
    on.submit(entry)
    before_s = time.monotonic()
    on.batcher.cancel(entry)
    ((_, seconds),) = on.witness.failures
    assert before_s - entry.arrived_s <= seconds <= time.monotonic() - entry.arrived_s


# Closing


def test_closing_drains_everything_that_was_accepted(staging: Staging) -> None:
    on = staging(max_batch_size=2)
    on.occupy()
    entries = [on.entry([n]) for n in range(5)] + [on.entry([n, n]) for n in range(5)]
    on.submit(*entries)
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[[n]] for n in range(5)] + [[[n, n]] for n in range(5)]


def test_closing_does_not_wait_for_the_delay(staging: Staging) -> None:
    on = staging(max_queue_delay_s=HOUR_S)
    entry = on.entry([1])
    on.submit(entry)
    on.finish()
    assert rows_of(entry) == [[1]]


def test_a_closed_batcher_refuses_new_requests(staging: Staging) -> None:
    on = staging()
    on.finish()
    with pytest.raises(Retired, match="has stopped accepting new inference requests"):
        on.submit(on.entry([1]))


def test_closing_an_idle_batcher_twice_is_harmless(staging: Staging) -> None:
    on = staging()
    assert on.batcher.close(TIMEOUT_S)
    assert on.batcher.close(TIMEOUT_S)


def test_what_still_waits_when_the_grace_period_ends_is_failed_and_what_runs_is_answered(staging: Staging) -> None:
    on = staging()
    running = on.occupy()
    waiting = [on.entry([1]), on.entry([2, 2])]
    given_up = on.entry([3])
    on.submit(*waiting, given_up)
    on.batcher.cancel(given_up)
    assert not on.batcher.close(0)
    assert on.replies.wait_for(2) == waiting
    assert [type(entry.error) for entry in waiting] == [ServerStopping, ServerStopping]
    assert on.batcher.queued_rows == 0
    on.finish()
    assert rows_of(running) == [[0]]
    assert len(on.puppet.ran) == 1


# All of it together

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(1, 3),
            st.integers(1, 2),
            st.sampled_from([np.float32, np.uint8, np.float16]),
            st.sampled_from([("same",), ("double",), ("double", "same"), ("total", "same")]),
            st.booleans(),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("release")),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, max_batch_size=st.integers(3, 6))
def test_whatever_the_order_of_events_every_entry_ends_once_and_with_its_own_rows(
    steps: list[Any], max_batch_size: int
) -> None:
    on = stage(max_batch_size=max_batch_size, max_queue_size=12)
    accepted: list[tuple[Entry, Any]] = []
    for step in steps:
        match step:
            case ("submit", rows, width, wire, wanted, expired):
                array = np.full((rows, width), len(accepted) + 1, np.float32)
                deadline_s = time.monotonic() if expired else None
                entry = make_entry(array, reply=on.replies, wire=wire, wanted=wanted, deadline_s=deadline_s)
                try:
                    on.submit(entry)
                except QueueFull:
                    continue
                accepted.append((entry, array))
            case ("cancel", index) if index < len(accepted):
                on.batcher.cancel(accepted[index][0])
            case ("release",):
                on.puppet.release()
    on.finish()
    answered = on.replies.entries
    assert len(answered) == len(set(answered))
    for entry, array in accepted:
        if entry in answered and entry.error is None:
            expected = computed([array], entry.wanted)
            assert all(np.array_equal(got, want) for got, want in zip(entry.outputs, expected, strict=True))
    told = [entry for batch in on.witness.batches for entry in batch.entries]
    assert len(told) + len(on.witness.failures) == len(accepted)
    cancelled = sum(isinstance(error, Cancelled) for error, _ in on.witness.failures)
    assert len(answered) + cancelled == len(accepted)
    assert all(ran.rows <= max_batch_size for ran in on.puppet.ran)
    assert on.batcher.queued_rows == 0


def test_closing_while_a_batch_runs_and_nothing_waits_says_it_was_not_finished(staging: Staging) -> None:
    on = staging()
    on.occupy()
    assert not on.batcher.close(0)


def test_a_full_batch_does_not_wait_behind_an_incomplete_one_of_another_shape(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=HOUR_S)
    full = on.entry([2, 2], [3, 3])
    on.submit(on.entry([1]), full)
    assert on.puppet.wait_for(1).rows == 2
    on.finish()
    assert rows_of(full) == [[2, 2], [3, 3]]


def test_a_lone_request_whose_rows_do_not_come_back_fails_too(staging: Staging) -> None:
    on = staging()
    on.puppet.answer = lambda inputs, wanted: [inputs[0][:1]]
    entry = on.entry([1], [2])
    on.submit(entry)
    on.finish()
    assert isinstance(entry.error, RunFailed)


def test_a_reply_that_raises_does_not_end_the_device_thread(staging: Staging) -> None:
    on = staging()

    def broken(entries: list[Entry]) -> None:
        raise RuntimeError("the door is gone")

    on.submit(make_entry(np.ones((1, 1), np.float32), reply=broken))
    after = on.entry([5])
    on.submit(after)
    on.finish()
    assert rows_of(after) == [[5]]
