"""Which devices admission control takes for busy: those that run a batch, however that ends, and no others."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry
from frostline_server.errors import Cancelled, DeadlineExceeded, PredictionError, RunFailed
from tests.support.puppet import TIMEOUT_S, Puppet, Replies, Stage, Witness, batching, computed, rows_of

BROKEN = 13.0
"""A row that the network fails on."""


class Limited(Stage):
    """A stage whose answers are due within a minute."""

    @property
    def admission(self) -> AdmissionController:
        admission = self.batcher._admission
        assert admission is not None
        return admission

    @property
    def busy(self) -> int:
        """How many devices admission control takes for busy."""
        return len(self.admission._ends)

    def make_brief(self, instances: int) -> None:
        """Block no more, and make the batcher believe that runs are brief."""
        self.puppet.release_all()
        self.wait_until_idle(instances)
        self.batcher._inline.ran(8, ((1,),), 0.0)

    def assert_free(self, instances: int = 1) -> None:
        """An hour later, a request is promised its answer as on the first day."""
        self.wait_until_idle(instances)
        assert self.busy == 0
        entry = self.entry([1.0])
        entry.arrived_s = time.monotonic() + 3600.0
        self.admission.admit(entry, 0)
        assert entry.due_s < math.inf


def fails_on_a_broken_row(inputs: Any, wanted: Any) -> Any:
    if BROKEN in inputs[0]:
        raise ValueError("broken")
    return computed(inputs, wanted)


@pytest.fixture
def limited() -> Iterator[Callable[..., Limited]]:
    """Builds stages with admission control, whose puppet fails on broken rows; ends their threads after the test."""
    stages: list[Limited] = []

    def build(*, instances: int = 1, witness: Witness | None = None, **options: Any) -> Limited:
        puppet, replies = Puppet(), Replies()
        puppet.answer = fails_on_a_broken_row
        admission = AdmissionController(60.0, Costs({1: 0.001, 8: 0.002}, 8), instances)
        witness = witness or Witness()
        batcher = Batcher([puppet] * instances, witness, batching(**options), admission=admission)
        stages.append(Limited(batcher, puppet, replies, witness))
        batcher.start()
        return stages[-1]

    yield build
    for built in stages:
        built.finish()


def test_an_inline_run_that_fails_while_others_wait_leaves_no_device_busy(limited: Callable[..., Limited]) -> None:
    on = limited(max_batch_size=1)
    on.make_brief(1)
    guilty, innocent = on.entry([BROKEN]), on.entry([2.0])
    on.batcher.submit(guilty, inline=True)
    on.batcher.submit(innocent, inline=True)
    on.batcher.run_inline()
    assert isinstance(guilty.error, RunFailed), "it ran in this thread"
    on.replies.wait_for(2)
    assert rows_of(innocent) == [[2.0]]
    on.assert_free()


def test_a_run_that_fails_on_the_devices_thread_leaves_no_device_busy(limited: Callable[..., Limited]) -> None:
    on = limited()
    on.puppet.release_all()
    guilty = on.entry([BROKEN])
    on.submit(guilty)
    on.replies.wait_for(1)
    assert isinstance(guilty.error, RunFailed)
    on.assert_free()


def test_a_device_that_runs_a_failed_batch_again_in_parts_stays_busy_until_the_last(
    limited: Callable[..., Limited],
) -> None:
    on = limited()
    busy: list[int] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        busy.append(on.busy)
        return fails_on_a_broken_row(inputs, wanted)

    on.puppet.answer = answer
    on.occupy()
    entries = [on.entry([value]) for value in (1.0, 2.0, BROKEN, 4.0)]
    on.submit(*entries)
    on.puppet.release_all()
    on.replies.wait_for(5)
    assert [entry.error is None for entry in entries] == [True, True, False, True]
    assert busy == [1] * len(busy)
    assert len(busy) > 3
    on.assert_free()


def test_requests_that_expire_are_cancelled_or_fail_leave_no_device_busy(limited: Callable[..., Limited]) -> None:
    on = limited()
    on.occupy()
    expired, cancelled = on.entry([1.0], deadline_s=time.monotonic() + 5.0), on.entry([2.0])
    on.submit(expired, cancelled)
    on.batcher.cancel(cancelled)
    expired.deadline_s = time.monotonic()
    on.puppet.release_all()
    on.replies.wait_for(2)
    assert isinstance(expired.error, DeadlineExceeded)
    assert isinstance(on.witness.failures[0][0], Cancelled)
    assert len(on.puppet.ran) == 1
    on.assert_free()


def test_an_observer_that_fails_leaves_no_device_busy(limited: Callable[..., Limited]) -> None:
    class Defective(Witness):
        def failed(self, error: PredictionError, seconds: float, entry: Entry) -> None:
            super().failed(error, seconds, entry)
            raise RuntimeError("a defect")

    on = limited(witness=Defective())
    on.puppet.release_all()
    on.submit(on.entry([BROKEN]))
    on.replies.wait_for(1)
    on.assert_free()


def test_an_inline_run_whose_answers_another_thread_sends_leaves_no_device_busy(
    limited: Callable[..., Limited],
) -> None:
    on = limited(instances=2, max_batch_size=1, preserve_ordering=True)
    on.make_brief(2)
    first, second, third = on.entry([1.0]), on.entry([2.0]), on.entry([3.0])
    may_end = threading.Event()
    inline: list[float] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        value = inputs[0][0][0]
        if threading.current_thread() is threading.main_thread():
            inline.append(value)
        if value == 1.0:
            assert may_end.wait(TIMEOUT_S)
        return computed(inputs, wanted)

    on.puppet.answer = answer
    on.submit(first)
    on.puppet.wait_for(1)
    # Ends before the first, whose device's thread therefore sends its answer.
    on.batcher.submit(second, inline=True)
    on.batcher.submit(third, inline=True)
    on.batcher.run_inline()
    assert inline == [2.0]
    may_end.set()
    assert on.replies.wait_for(3) == [first, second, third]
    on.assert_free(2)
