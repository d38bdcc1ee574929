"""The batcher over a puppet network: who shares a batch, when it runs, and on which instance."""

import threading
from typing import Any

import numpy as np
import pytest

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.device import Device
from frostline_server.errors import (
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


def test_a_full_batch_does_not_wait_behind_an_incomplete_one_of_another_shape(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=HOUR_S)
    full = on.entry([2, 2], [3, 3])
    on.submit(on.entry([1]), full)
    assert on.puppet.wait_for(1).rows == 2
    on.finish()
    assert rows_of(full) == [[2, 2], [3, 3]]


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

    device = Device(Puppet(), batched=True)
    device.wake = Late()  # type: ignore[assignment]  # all it needs of a lock
    Batcher([Puppet()], Witness(), batching())._sleep(device, 1.0)
    assert device.wake.held  # type: ignore[attr-defined]  # as above
