"""The batcher over a puppet network: who shares a batch, who waits, who is refused, and that nobody is forgotten."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from puppet import TIMEOUT_S, Puppet, Replies, Stage, Witness, batching, computed, make_entry, stage

from server.batch import Assembler
from server.batcher import Batcher, Entry, QueuePolicy, RowKind, _Device
from server.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    PredictionError,
    QueueFull,
    QueueTimeout,
    Retired,
    RunFailed,
    ServerStopping,
)
from server.isolation import MAX_STREAK
from server.pace import Costs, Pace

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


# Only the guilty


def spoilt(inputs: Any, wanted: Any) -> Any:
    """A network that no negative row may reach."""
    if (inputs[0] < 0).any():
        raise ValueError("a negative row")
    return computed(inputs, wanted)


def test_of_a_failed_batch_only_the_guilty_request_fails_and_its_mates_are_answered(staging: Staging) -> None:
    on = staging()
    on.occupy()
    on.puppet.answer = spoilt
    entries = [on.entry([1]), on.entry([2], [3]), on.entry([4], [-5]), on.entry([6])]
    on.submit(*entries)
    on.finish()
    guilty = entries.pop(2)
    assert isinstance(guilty.error, RunFailed)
    assert str(guilty.error) == "the network failed on a batch of 2 rows: a negative row"
    assert [rows_of(entry) for entry in entries] == [[[1]], [[2], [3]], [[6]]]


def test_the_observer_is_told_of_each_run_that_answered_and_of_each_request_that_failed(staging: Staging) -> None:
    on = staging()
    on.occupy()
    on.puppet.answer = spoilt
    entries = [on.entry([-1]), on.entry([2]), on.entry([3]), on.entry([4])]
    on.submit(*entries)
    on.finish()
    assert [told.entries for told in on.witness.batches[1:]] == [entries[2:], [entries[1]]]
    assert [told.rows for told in on.witness.batches[1:]] == [2, 1]
    assert [error for error, _ in on.witness.failures] == [entries[0].error]


def test_requests_that_ask_for_different_outputs_get_their_own_from_a_batch_that_is_run_again(staging: Staging) -> None:
    on = staging()
    on.occupy()
    on.puppet.answer = spoilt
    double, guilty, total = on.entry([1], wanted=("double",)), on.entry([-1]), on.entry([3, 4], wanted=("total",))
    total = on.entry([3], wanted=("total", "double"))
    on.submit(double, guilty, total)
    on.finish()
    assert [output.tolist() for output in double.outputs] == [[[2]]]
    assert [output.tolist() for output in total.outputs] == [[3], [[6]]]


def test_a_dead_device_fails_a_batch_after_few_runs(staging: Staging) -> None:
    on = staging(max_batch_size=512, max_queue_size=512)
    on.occupy()
    entries = [on.entry([n]) for n in range(512)]

    def dead(inputs: Any, wanted: Any) -> Any:
        raise OSError("the device is gone")

    on.submit(*entries)
    on.puppet.answer = dead
    on.finish()
    assert all(isinstance(entry.error, RunFailed) for entry in entries)
    assert len(on.puppet.ran) <= 2 + MAX_STREAK + 1
    assert len(on.witness.failures) == 513
    assert sorted(map(id, on.replies.entries)) == sorted({id(entry) for entry in on.replies.entries})


def test_a_request_whose_deadline_passed_meanwhile_is_not_run_again(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = staging()
    on.occupy()
    start = time.monotonic()
    entries = [on.entry([-1]), on.entry([2], deadline_s=start + HOUR_S), on.entry([3]), on.entry([4])]

    def slow(inputs: Any, wanted: Any) -> Any:
        if len(inputs[0]) == 4:
            monkeypatch.setattr("server.batcher.time.monotonic", lambda: start + 2 * HOUR_S)
        return spoilt(inputs, wanted)

    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.puppet.answer = slow
    on.puppet.release_all()
    on.replies.wait_for(5)
    monkeypatch.undo()
    on.finish()
    assert isinstance(entries[0].error, RunFailed)
    assert isinstance(entries[1].error, DeadlineExceeded)
    assert [rows_of(entry) for entry in entries[2:]] == [[[3]], [[4]]]
    assert not any([2] in ran.inputs[0].tolist() for ran in on.puppet.ran[2:])
    assert sorted(type(error).__name__ for error, _ in on.witness.failures) == ["DeadlineExceeded", "RunFailed"]


def test_rows_of_a_network_that_cannot_take_them_together_come_one_by_one(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2])]
    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.puppet.answer = lambda inputs, wanted: [inputs[0][:1]]
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[[1]], [[2]]]


def test_an_error_of_a_run_does_not_keep_the_batch_alive(staging: Staging) -> None:
    on = staging()

    def refuse(inputs: Any, wanted: Any) -> Any:
        raise InvalidInput("index out of range")

    on.puppet.answer = refuse
    entry = on.entry([1])
    on.submit(entry)
    on.finish()
    assert entry.error is not None
    assert entry.error.__traceback__ is None


# Several instances


def test_every_instance_takes_what_waits(staging: Staging) -> None:
    on = staging(instances=3)
    entries = [on.entry([n]) for n in range(3)]
    for count, entry in enumerate(entries, 1):
        on.submit(entry)
        on.puppet.wait_for(count)
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[[0]], [[1]], [[2]]]


def test_two_batches_that_one_arrival_makes_ready_run_side_by_side(staging: Staging) -> None:
    on = staging(instances=2, max_batch_size=4, max_queue_delay_s=HOUR_S)
    on.wait_until_idle(2)
    on.submit(on.entry([1], [1], [1]))
    on.wait_until_idle(2)
    on.submit(on.entry([2], [2], [2], [2]))
    on.puppet.wait_for(2)
    assert sorted(ran.rows for ran in on.puppet.ran) == [3, 4]


def test_each_instance_has_its_own_run_and_a_thread_named_after_it() -> None:
    left, right, replies, witness = Puppet(), Puppet(), Replies(), Witness()
    batcher = Batcher([left, right], witness, batching(max_batch_size=1), name="device-m-1")
    batcher.start()
    for _ in range(2):
        batcher.submit(make_entry(np.ones((1, 1), np.float32), reply=replies))
    left.wait_for(1)
    right.wait_for(1)
    assert [thread.name for thread in batcher._threads] == ["device-m-1-0", "device-m-1-1"]
    left.release()
    right.release()
    replies.wait_for(2)
    assert batcher.close(TIMEOUT_S)


def test_one_instance_that_is_stuck_does_not_stop_the_others(staging: Staging) -> None:
    on = staging(instances=2, max_batch_size=1)
    stuck = on.occupy()
    entries = [on.entry([n]) for n in (1, 2, 3)]
    on.submit(*entries)
    for count in (2, 3, 4):
        on.puppet.wait_for(count)
        on.puppet.release()
    answered = on.replies.wait_for(3)
    assert len(answered) == 3
    assert not on.batcher.close(0)
    on.finish()
    assert sorted(entry.outputs[0].item() for entry in [stuck, *entries]) == [0, 1, 2, 3]


@pytest.mark.parametrize("ordered", [True, False])
def test_answers_keep_the_order_of_the_requests_if_that_is_asked_for(staging: Staging, ordered: bool) -> None:
    on = staging(instances=2, preserve_ordering=ordered)
    released = threading.Event()

    def answer(inputs: Any, wanted: Any) -> Any:
        assert inputs[0].item() != 1 or released.wait(TIMEOUT_S)
        return computed(inputs, wanted)

    on.puppet.answer = answer
    on.puppet.release_all()
    slow, quick = on.entry([1]), on.entry([2])
    on.submit(slow)
    on.puppet.wait_for(1)
    on.submit(quick)
    on.puppet.wait_for(2)
    if not ordered:
        assert on.replies.wait_for(1) == [quick]
    released.set()
    assert on.replies.wait_for(2) == ([slow, quick] if ordered else [quick, slow])
    on.finish()
    assert len(on.witness.batches) == 2


def test_failures_keep_the_order_too(staging: Staging) -> None:
    on = staging(instances=2, max_batch_size=2, preserve_ordering=True)
    released = threading.Event()

    def answer(inputs: Any, wanted: Any) -> Any:
        assert inputs[0].min() != -1 or released.wait(TIMEOUT_S)
        return spoilt(inputs, wanted)

    on.puppet.answer = answer
    on.puppet.release_all()
    bad, quick = on.entry([-1], [1]), on.entry([2])
    on.submit(bad)
    on.puppet.wait_for(1)
    on.submit(quick)
    on.puppet.wait_for(2)
    released.set()
    assert on.replies.wait_for(2) == [bad, quick]
    assert isinstance(bad.error, RunFailed)


def test_a_thread_that_is_woken_just_as_it_stops_waiting_goes_to_work() -> None:
    class Late:
        """A lock that is released right after its timeout."""

        def __init__(self) -> None:
            self.held = True

        def acquire(self, timeout: float = -1) -> bool:
            if timeout < 0:
                assert not self.held
                self.held = True
                return True
            self.held = False
            return False

    device = _Device(Puppet(), batched=True)
    device.wake = Late()  # type: ignore[assignment]  # all it needs of a lock
    Batcher([Puppet()], Witness(), batching())._sleep(device, 1.0)
    assert device.wake.held  # type: ignore[attr-defined]  # as above


def test_views_of_messages_are_joined_as_bytes_are_and_one_alone_is_put_at_an_even_place() -> None:
    def viewed(value: float) -> Entry:
        entry = make_entry(np.full((1, 4), value, np.float32), reply=lambda _: None)
        entry.data = [memoryview(b"odd" + entry.data[0])[3:]]  # type: ignore[arg-type]  # bytes, as it is made
        return entry

    assembler = Assembler(batched=True)
    for batch in ([viewed(1)], [viewed(1), viewed(2), viewed(3)]):
        (array,) = assembler.assemble(batch, len(batch))
        assert array.tolist() == [[value] * 4 for value in range(1, len(batch) + 1)]
        assert array.flags.aligned


# Devices that are lent


def brief(on: Stage, instances: int = 1) -> Stage:
    """A stage whose runs are known to be brief, and do not block."""
    on.puppet.release_all()
    first = on.entry([0.0])
    on.submit(first)
    on.replies.wait_for(1)
    on.wait_until_idle(instances)
    on.batcher._row_s = 0.0
    return on


def witnessed(on: Stage) -> list[str]:
    """The names of the threads that run batches from now on."""
    threads: list[str] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        threads.append(threading.current_thread().name)
        return computed(inputs, wanted)

    on.puppet.answer = answer
    return threads


def test_a_brief_batch_is_run_by_whoever_offers_to_help(staging: Staging) -> None:
    on = brief(staging())
    threads = witnessed(on)
    first, second = on.entry([1]), on.entry([2], [3])
    on.batcher.submit(first, helping=True)
    on.batcher.submit(second, helping=True)
    assert on.puppet.ran[1:] == []
    on.batcher.help()
    assert threads == [threading.current_thread().name]
    assert on.puppet.ran[-1].rows == 3
    assert (rows_of(first), rows_of(second)) == ([[1]], [[2], [3]])
    # Nothing is left, so there is nothing to help with.
    on.batcher.help()
    assert len(threads) == 1
    on.finish()


def test_a_lent_device_whose_run_failed_counts_as_free_again() -> None:
    pace = Pace(1.0, Costs({1: 0.001, 8: 0.002}, 8))
    puppet, replies, witness = Puppet(blocking=False), Replies(), Witness()
    batcher = Batcher([puppet], witness, batching(), pace=pace)
    batcher.start()
    on = Stage(batcher, puppet, replies, witness)
    brief(on)

    def broken(inputs: Any, wanted: Any) -> Any:
        raise ValueError("broken")

    puppet.answer = broken
    entry = on.entry([1])
    batcher.submit(entry, helping=True)
    batcher.help()
    assert isinstance(entry.error, RunFailed)
    assert not pace._ends
    on.finish()


def test_a_run_that_would_take_long_is_left_to_the_devices_thread(staging: Staging) -> None:
    on = brief(staging())
    threads = witnessed(on)
    on.batcher._row_s = 1.0
    on.batcher.submit(on.entry([1]), helping=True)
    on.batcher.help()
    on.replies.wait_for(2)
    # Brief when it was queued, and long by the time help came.
    on.wait_until_idle()
    on.batcher._row_s = 0.0
    on.batcher.submit(on.entry([2]), helping=True)
    on.batcher._row_s = 1.0
    on.batcher.help()
    on.replies.wait_for(3)
    assert threads == ["device", "device"]
    on.finish()


def test_how_long_the_first_run_takes_is_not_guessed(staging: Staging) -> None:
    on = staging()
    on.puppet.release_all()
    on.batcher.submit(on.entry([1]), helping=True)
    on.replies.wait_for(1)
    on.finish()


def test_how_long_rows_of_another_shape_take_is_not_guessed(staging: Staging) -> None:
    on = brief(staging())
    threads = witnessed(on)
    on.batcher.submit(on.entry([1, 2]), helping=True)
    on.batcher.help()
    on.replies.wait_for(2)
    on.wait_until_idle()
    on.batcher._row_s = 0.0
    # Known by now, unlike the shape before it.
    on.batcher.submit(on.entry([3, 4]), helping=True)
    on.batcher.help()
    on.batcher.submit(on.entry([5]), helping=True)
    on.batcher.help()
    on.replies.wait_for(4)
    assert threads == ["device", threading.current_thread().name, "device"]
    on.finish()


def test_a_helper_that_was_held_long_helps_no_more_for_a_hundred_times_as_long(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = brief(staging())
    threads = witnessed(on)
    now = start = time.monotonic()
    monkeypatch.setattr("server.batcher.time.monotonic", lambda: now)
    answer = on.puppet.answer

    def helped(value: int, takes_s: float = 0.0) -> bool:
        """Whether this thread runs the batch of the row with this number, which is believed to be brief."""

        def run(inputs: Any, wanted: Any) -> Any:
            nonlocal now
            now += takes_s
            return answer(inputs, wanted)

        on.puppet.answer = run
        on.wait_until_idle()
        on.batcher._row_s = 0.0
        on.batcher.submit(on.entry([value]), helping=True)
        on.batcher.help()
        on.replies.wait_for(1 + value)
        return threads[-1] == threading.current_thread().name

    assert helped(1, takes_s=0.004)
    assert helped(2, takes_s=1.0)
    assert not helped(3)
    now = start + 100.0
    assert not helped(4)
    now = start + 102.0
    assert helped(5)
    monkeypatch.undo()
    on.finish()


def test_what_does_not_fit_into_the_helpers_batch_goes_to_the_devices_thread(staging: Staging) -> None:
    on = brief(staging(max_batch_size=2))
    for value in range(5):
        on.batcher.submit(on.entry([value]), helping=True)
    on.batcher.help()
    assert on.puppet.ran[1].rows == 2
    on.replies.wait_for(6)
    on.finish()


def test_a_batcher_that_closes_while_its_device_is_lent_ends_its_threads(staging: Staging) -> None:
    on = brief(staging())
    closed: list[bool] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        closer.start()
        on.wait_until_closing()
        return computed(inputs, wanted)

    closer = threading.Thread(target=lambda: closed.append(on.batcher.close(TIMEOUT_S)))
    on.puppet.answer = answer
    on.batcher.submit(on.entry([1]), helping=True)
    on.batcher.help()
    closer.join(TIMEOUT_S)
    assert closed == [True]
    on.batcher.help()


def test_a_batch_that_waits_for_company_is_not_helped_along(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=HOUR_S)
    on.puppet.release_all()
    on.batcher._row_s = 0.0
    on.batcher.submit(on.entry([1]), helping=True)
    on.batcher.help()
    assert on.puppet.ran == []
    on.batcher.submit(on.entry([2]), helping=True)
    on.batcher.help()
    assert on.puppet.wait_for(1).rows == 2
    on.finish()


def test_helpers_in_many_threads_lose_nothing_and_mix_nothing_up(staging: Staging) -> None:
    on = brief(staging(max_batch_size=4, max_queue_size=10_000, instances=2), instances=2)
    entries: list[Entry] = []

    def work(first: int) -> None:
        for value in range(first, first + 200):
            entry = on.entry([value])
            entries.append(entry)
            on.batcher.submit(entry, helping=True)
            if value % 3:
                on.batcher.help()
        on.batcher.help()

    threads = [threading.Thread(target=work, args=(start,)) for start in range(1000, 5000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    on.replies.wait_for(801)
    assert len(set(on.replies.entries)) == 801
    assert sorted(rows_of(entry)[0][0] for entry in entries) == [
        value for start in range(1000, 5000, 1000) for value in range(start, start + 200)
    ]
    on.finish()


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


# Large batches


def assembled(assembler: Assembler, *values: float) -> Any:
    entries = [make_entry(np.full((1, 8), value, np.float32), reply=lambda _: None) for value in values]
    (array,) = assembler.assemble(entries, len(entries))
    return array


def test_a_large_batch_is_copied_into_memory_that_the_next_one_uses_again() -> None:
    assembler = Assembler(batched=True, reused_bytes=64)
    first = assembled(assembler, 1, 2, 3)
    assembler.settle([first.copy()])
    second = assembled(assembler, 4, 5)
    assert np.shares_memory(first, second)
    assert second.tolist() == [[4.0] * 8, [5.0] * 8]
    larger = assembled(assembler, *range(9))
    assert not np.shares_memory(first, larger)
    assert larger[:, 0].tolist() == list(range(9))


def test_memory_that_an_answer_looks_into_is_not_used_again() -> None:
    assembler = Assembler(batched=True, reused_bytes=64)
    first = assembled(assembler, 1, 2, 3)
    assembler.settle([np.zeros(3), first[1:]])
    second = assembled(assembler, 4, 5, 6)
    assert not np.shares_memory(first, second)
    assert first[:, 0].tolist() == [1, 2, 3]


def test_a_batch_of_one_is_the_message_itself() -> None:
    assembler = Assembler(batched=True, reused_bytes=0)
    entry = make_entry(np.ones((2, 2), np.float32), reply=lambda _: None)
    (array,) = assembler.assemble([entry], 2)
    assert np.shares_memory(array, np.frombuffer(entry.data[0], np.float32))


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


def test_a_request_that_a_closed_batcher_refused_is_answered_by_the_one_that_took_its_place(staging: Staging) -> None:
    old, new = staging(), staging(policies=(QueuePolicy(100),) * 2, default_priority=2)
    old.finish()
    entry = old.entry([1])
    with pytest.raises(Retired):
        old.submit(entry)
    entry.readdress(old.entry([2], [3], wanted=("double",), priority=1))
    new.submit(entry)
    new.finish()
    assert rows_of(entry) == [[4], [6]]
    assert old.replies.entries == [entry]
    assert old.witness.failures == []


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


def test_a_closed_batcher_lets_go_of_what_it_ran(staging: Staging) -> None:
    class Network:
        def __call__(self, inputs: Any, wanted: Any) -> Any:
            return computed(inputs, wanted)

    network, replies = Network(), Replies()
    gone = weakref.ref(network)
    batcher = Batcher([network], Witness(), batching())
    batcher.start()
    batcher.submit(make_entry(np.ones((1, 1), np.float32), reply=replies))
    del network
    replies.wait_for(1)
    assert batcher.close(TIMEOUT_S)
    gc.collect()
    assert gone() is None


def test_an_idle_device_holds_no_answered_request(staging: Staging) -> None:
    on = staging()
    entry = on.occupy()
    on.puppet.release_all()
    on.replies.wait_for(1)
    token = Replies()
    entry.call, alive = token, weakref.ref(token)
    on.replies.groups.clear()
    on.witness.batches.clear()
    # A request that has been answered after it shows that the device thread has moved on.
    after = on.entry([1])
    on.submit(after)
    on.replies.wait_for(1)
    on.witness.batches.clear()
    del entry, token
    gc.collect()
    assert alive() is None


def test_a_batcher_that_was_never_started_can_be_closed_and_forgets_nobody() -> None:
    replies, witness = Replies(), Witness()
    batcher = Batcher([Puppet()], witness, batching())
    entry = make_entry(np.ones((1, 1), np.float32), reply=replies)
    batcher.submit(entry)
    assert not batcher.close(TIMEOUT_S)
    assert isinstance(entry.error, ServerStopping)
    assert batcher.close(TIMEOUT_S)


# All of it together

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(1, 3),
            st.integers(1, 2),
            st.sampled_from([np.float32, np.int8, np.float16]),
            st.sampled_from([("same",), ("double",), ("double", "same"), ("total", "same")]),
            st.sampled_from(["fine", "fine", "fine", "expired", "guilty"]),
            st.integers(0, 2),
            st.sampled_from([None, None, 1e-6, HOUR_S]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("release")),
    ),
    max_size=30,
)
settings_of_batching = st.fixed_dictionaries(
    {
        "max_batch_size": st.integers(3, 5),
        "instances": st.integers(1, 3),
        "max_queue_delay_s": st.sampled_from([0.0, 0.0, 1e-4, HOUR_S]),
        "preferred_sizes": st.sampled_from([(), (2,), (1, 3)]),
        "preserve_ordering": st.booleans(),
    }
)
levels = st.lists(
    st.builds(
        QueuePolicy,
        max_rows=st.just(12),
        timeout_s=st.sampled_from([0.0, 1e-6]),
        delay=st.booleans(),
        allow_override=st.booleans(),
    ),
    min_size=2,
    max_size=2,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps, options=settings_of_batching, policies=st.one_of(st.just([QueuePolicy(12)]), levels))
def test_whatever_the_order_of_events_every_entry_ends_once_and_with_its_own_rows(
    steps: list[Any], options: dict[str, Any], policies: list[QueuePolicy]
) -> None:
    many = len(policies) > 1
    on = stage(
        **options | ({"preserve_ordering": False} if many else {}),
        policies=tuple(policies),
        default_priority=2 if many else 0,
    )
    on.puppet.answer = spoilt
    accepted: list[tuple[Entry, Any, str]] = []
    for step in steps:
        match step:
            case ("submit", rows, width, wire, wanted, fate, priority, timeout_s):
                array = np.full((rows, width), len(accepted) + 1, np.float32)
                if fate == "guilty":
                    array[-1, -1] = -1
                entry = make_entry(
                    array,
                    reply=on.replies,
                    wire=wire,
                    wanted=wanted,
                    deadline_s=time.monotonic() if fate == "expired" else None,
                    priority=priority,
                    timeout_s=timeout_s,
                )
                try:
                    on.submit(entry)
                except QueueFull:
                    continue
                accepted.append((entry, array, fate))
            case ("cancel", index) if index < len(accepted):
                on.batcher.cancel(accepted[index][0])
            case ("release",):
                on.puppet.release()
    on.finish()
    answered = on.replies.entries
    assert len(answered) == len(set(answered))
    for entry, array, fate in accepted:
        if entry not in answered:
            continue
        if entry.error is None:
            assert fate == "fine"
            expected = computed([array], entry.wanted)
            assert all(np.array_equal(got, want) for got, want in zip(entry.outputs, expected, strict=True))
        else:
            # Nobody fails for another's sake.
            possible = {"fine": (), "guilty": (RunFailed,), "expired": (DeadlineExceeded,)}[fate]
            assert isinstance(entry.error, (*possible, QueueTimeout))
    told = [entry for batch in on.witness.batches for entry in batch.entries]
    assert len(told) + len(on.witness.failures) == len(accepted)
    assert sum(batch.rows for batch in on.witness.batches) == sum(entry.rows for entry in told)
    cancelled = sum(isinstance(error, Cancelled) for error, _ in on.witness.failures)
    assert len(answered) + cancelled == len(accepted)
    assert all(ran.rows <= options["max_batch_size"] for ran in on.puppet.ran)
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


class Broken:
    """An observer that raises whatever it is told."""

    def batch(self, *told: Any) -> None:
        raise RuntimeError("the counter is gone")

    def failed(self, error: PredictionError, seconds: float) -> None:
        raise RuntimeError("the counter is gone")


@pytest.mark.parametrize("ordered", [True, False])
def test_an_observer_that_raises_does_not_end_the_device_thread(ordered: bool) -> None:
    puppet, replies = Puppet(blocking=False), Replies()
    batcher = Batcher([puppet, puppet], Broken(), batching(preserve_ordering=ordered))
    batcher.start()
    entries = [make_entry(np.full((1, 1), n, np.float32), reply=replies) for n in range(4)]
    for count, entry in enumerate(entries, 1):
        batcher.submit(entry)
        replies.wait_for(count)
    assert batcher.close(TIMEOUT_S)
    assert [rows_of(entry) for entry in entries] == [[[0]], [[1]], [[2]], [[3]]]
