"""Failing batches: the guilty request fails, its mates are answered, and the device thread goes on."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.bisect_failures import MAX_STREAK
from frostline_server.batching.entry import Entry, Room
from frostline_server.errors import (
    DeadlineExceeded,
    InvalidInput,
    MessageTooLarge,
    NetworkFull,
    OutOfMemory,
    PredictionError,
    RunFailed,
)
from tests.support.puppet import (
    HOUR_S,
    TIMEOUT_S,
    Puppet,
    Replies,
    Staging,
    Witness,
    batching,
    computed,
    make_entry,
    rows_of,
    spoilt,
)

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


def test_requests_whose_rows_cannot_be_told_apart_run_alone(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2]), on.entry([3])]
    on.submit(*entries)
    on.puppet.release()
    on.puppet.wait_for(2)
    on.puppet.answer = lambda inputs, wanted: [np.repeat(inputs[0], 2, axis=0)]
    on.finish()
    assert [entry.outputs[0].tolist() for entry in entries] == [[[1], [1]], [[2], [2]], [[3], [3]]]


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


def test_a_lone_request_gets_whatever_the_network_answers(staging: Staging) -> None:
    on = staging()
    on.puppet.answer = lambda inputs, wanted: [inputs[0][:1]]
    entry = on.entry([1], [2])
    on.submit(entry)
    on.finish()
    assert entry.error is None
    assert [output.tolist() for output in entry.outputs] == [[[1]]]


# Answers without room


class Held:
    """Where answers are held; `fits` as it is told, and there could be room for what has 100 bytes."""

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self.fits = fits

    def has_room_for(self, size: int) -> bool:
        return size <= 100


def test_what_finds_no_room_for_its_answer_is_not_run_and_its_mates_are_answered(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2]), on.entry([3]), on.entry([4])]
    # Of one budget, with room for the first of them alone; and of another, with room.
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= 10

    full, empty = Held(fits), Held(lambda _: True)
    entries[0].room, entries[2].room, entries[3].room = Room(full, 10), Room(full, 1), Room(empty, 99)
    on.submit(*entries)
    on.finish()
    assert asked == [10, 11]
    assert on.puppet.ran[1].rows == 3
    assert [rows_of(entry) for entry in entries if entry.error is None] == [[[1]], [[2]], [[4]]]
    assert isinstance(entries[2].error, NetworkFull)
    assert [error for error, _ in on.witness.failures] == [entries[2].error]


@pytest.mark.parametrize(("size", "error"), [(100, NetworkFull), (101, MessageTooLarge)])
def test_a_batch_of_which_nothing_finds_room_is_not_run(
    staging: Staging, size: int, error: type[PredictionError]
) -> None:
    on = staging()
    on.occupy()
    full = on.entry([1])
    full.room = Room(Held(lambda _: False), size)
    on.submit(full)
    on.finish()
    assert type(full.error) is error
    assert len(on.puppet.ran) == 1


# Only the guilty


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
            monkeypatch.setattr("frostline_server.batching.batcher.time.monotonic", lambda: start + 2 * HOUR_S)
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


def test_memory_that_a_batch_cannot_have_is_no_fault_of_the_network(staging: Staging) -> None:
    on = staging()

    def too_much(inputs: Any, wanted: Any) -> Any:
        raise MemoryError("Unable to allocate 8 EiB")

    on.puppet.answer = too_much
    entry = on.entry([1])
    on.submit(entry)
    on.finish()
    assert isinstance(entry.error, OutOfMemory)
    assert str(entry.error) == (
        "not enough memory for a batch of 1 rows: Unable to allocate 8 EiB; send fewer rows in one request"
    )


def test_each_part_of_a_batch_that_failed_is_told_once_with_its_requests() -> None:
    told: list[tuple[str, int]] = []
    puppet, replies = Puppet(), Replies()
    puppet.answer = spoilt
    batcher = Batcher(
        [puppet], Witness(), batching(), on_failure=lambda error, requests: told.append((str(error), requests))
    )
    batcher.start()
    for value in (0, 1, -2, 3, -4):
        batcher.submit(make_entry(np.full((1, 1), value, np.float32), reply=replies))
    puppet.release_all()
    replies.wait_for(5)
    assert batcher.close(TIMEOUT_S)
    assert told == [("the network failed on a batch of 1 rows: a negative row", 1)] * 2


# Whoever is told fails


def test_a_reply_that_raises_does_not_end_the_device_thread(staging: Staging) -> None:
    on = staging()

    def broken(entries: list[Entry]) -> None:
        raise RuntimeError("the front end is gone")

    on.submit(make_entry(np.ones((1, 1), np.float32), reply=broken))
    after = on.entry([5])
    on.submit(after)
    on.finish()
    assert rows_of(after) == [[5]]
