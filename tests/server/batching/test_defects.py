"""Defects around a batch: whoever counts, learns or replies may raise, and every entry is still answered once."""

import time
from typing import Any

import numpy as np
import pytest

from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry
from frostline_server.errors import DeadlineExceeded, PredictionError, RunFailed
from tests.support.puppet import (
    HOUR_S,
    Puppet,
    Replies,
    Stage,
    Staging,
    Witness,
    batching,
    make_entry,
    rows_of,
    spoilt,
)


class DefectiveWitness(Witness):
    """An observer that raises after it is told of what is defective."""

    def __init__(self, defect: str) -> None:
        super().__init__()
        self._defect = defect

    def batch(self, *told: Any) -> None:
        super().batch(*told)
        if self._defect == "batch":
            raise RuntimeError("the counter is gone")

    def failed(self, error: PredictionError, seconds: float, entry: Entry) -> None:
        super().failed(error, seconds, entry)
        if self._defect == "failed":
            raise RuntimeError("the counter is gone")


class DefectiveAdmission(AdmissionController):
    """A latency limit of an hour, that raises when it is to note what is defective."""

    def __init__(self, defect: str, devices: int) -> None:
        super().__init__(HOUR_S, Costs({1: 0.001, 8: 0.002}, 8), devices)
        self._defect = defect

    def took(self, *told: Any) -> None:
        if self._defect == "took":
            raise RuntimeError("no room for another device")
        super().took(*told)

    def learn(self, *told: Any) -> None:
        if self._defect == "learn":
            raise RuntimeError("a cost that is no number")
        super().learn(*told)


def defective(defect: str, *, ordered: bool) -> Stage:
    """A stage in which this raises every time, with one device, or with two whose answers leave in order."""
    instances = 2 if ordered else 1
    puppet, replies, witness = Puppet(), Replies(), DefectiveWitness(defect)
    puppet.answer = spoilt
    if defect == "afterwards":
        puppet.afterwards = lambda: 1 / 0  # type: ignore[assignment]  # it only raises
    batcher = Batcher(
        [puppet] * instances,
        witness,
        batching(preserve_ordering=ordered),
        admission=DefectiveAdmission(defect, instances),
    )
    batcher.start()
    return Stage(batcher, puppet, replies, witness)


@pytest.mark.parametrize("ordered", [False, True], ids=["one device", "two in order"])
@pytest.mark.parametrize("defect", ["batch", "failed", "took", "learn", "afterwards"])
def test_whoever_raises_around_a_batch_all_of_it_is_answered_once_and_so_is_the_next(
    defect: str, ordered: bool
) -> None:
    on = defective(defect, ordered=ordered)
    busy = [on.occupy() for _ in range(2 if ordered else 1)]
    expired = on.entry([1], deadline_s=time.monotonic() + HOUR_S)
    guilty, good, cancelled = on.entry([-1]), [on.entry([2]), on.entry([3])], on.entry([4])
    on.submit(expired, good[0], guilty, good[1], cancelled)
    on.batcher.cancel(cancelled)
    expired.deadline_s = time.monotonic()
    on.puppet.release_all()
    on.replies.wait_for(len(busy) + 4)
    later = [on.entry([n]) for n in (5, 6, 7)]
    for count, entry in enumerate(later, 1):
        on.submit(entry)
        on.replies.wait_for(len(busy) + 4 + count)
    on.wait_until_idle(2 if ordered else 1)
    on.finish()
    answered = on.replies.entries
    assert len(answered) == len(set(answered)) == len(busy) + 4 + 3
    assert [rows_of(entry) for entry in (*good, *later)] == [[[n]] for n in (2, 3, 5, 6, 7)]
    assert isinstance(expired.error, DeadlineExceeded)
    assert isinstance(guilty.error, RunFailed)
    # Whoever does not raise is told of everything all the same.
    told = [entry for batch in on.witness.batches for entry in batch.entries]
    assert len(told) == len(set(told)) == len(busy) + 2 + 3
    assert len(on.witness.failures) == 3
    assert not on.batcher._admission._ends  # type: ignore[union-attr]  # it has one


def test_an_observer_that_raises_keeps_nobody_from_closing(staging: Staging) -> None:
    on = defective("failed", ordered=False)
    running = on.occupy()
    waiting = [on.entry([1]), on.entry([2])]
    on.submit(*waiting)
    assert not on.batcher.close(0.0)
    assert all(entry.error is not None for entry in waiting)
    on.finish()
    assert rows_of(running) == [[0]]


def test_a_reply_that_raises_fails_only_its_own_entries_and_is_not_counted_as_an_answer(staging: Staging) -> None:
    on = staging()

    def broken(entries: list[Entry]) -> None:
        raise RuntimeError("the connection is gone")

    on.occupy()
    mine, lost = on.entry([1]), make_entry(np.array([[2]], np.float32), reply=broken)
    on.submit(lost, mine)
    on.finish()
    assert rows_of(mine) == [[1]]
    assert isinstance(lost.error, RunFailed)
    assert "the connection is gone" in str(lost.error)
    # The observer is told of the batch with the error of what got no answer.
    assert on.witness.batches[-1].entries == [lost, mine]


# What is left to do after a run


def test_what_a_run_leaves_to_do_is_done_once_the_batch_is_answered_and_counted(staging: Staging) -> None:
    on = staging()
    done: list[tuple[int, int]] = []
    on.puppet.afterwards = lambda: done.append((len(on.replies.entries), len(on.witness.batches)))
    on.occupy()
    on.submit(on.entry([1]), on.entry([2]))
    on.finish()
    assert done == [(1, 1), (3, 2)]


def test_nothing_is_left_to_do_for_a_run_that_failed(staging: Staging) -> None:
    on = staging()
    on.puppet.answer = spoilt
    done: list[int] = []
    on.puppet.afterwards = lambda: done.append(len(on.puppet.ran))
    on.occupy()
    on.submit(on.entry([1]), on.entry([-1]))
    on.finish()
    # The batch of both fails, then one of them runs apart, and the guilty one fails again.
    assert done == [1, 3]
