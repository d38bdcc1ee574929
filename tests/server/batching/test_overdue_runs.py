"""Runs that take too long: what becomes of their batches, their devices and everybody else."""

import threading
import time
from typing import Any

import pytest

from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import RETURN_S, Batcher
from frostline_server.batching.entry import Entry
from frostline_server.errors import BatcherClosed, InvalidData, ModelNotReady, PredictionError, RunTimedOut
from tests.support.puppet import TIMEOUT_S, Puppet, Replies, Stage, Witness, batching, computed, rows_of

LIMIT_S = 1e-9
"""Every run takes longer; only `look` decides, by the time it is given."""
LATE_S = RETURN_S + 1.0


class Hangs(Stage):
    """A stage whose runs are late as soon as somebody looks with a clock that is ahead."""

    def look(self) -> None:
        self.batcher.look(time.monotonic() + LATE_S)

    def wait_until_back(self) -> None:
        """Wait for the threads whose runs were given up; they come back a moment after their runs."""
        give_up_s, pause = time.monotonic() + TIMEOUT_S, threading.Event()
        while self.batcher.hanging and time.monotonic() < give_up_s:
            pause.wait(0.001)


def hanging(
    *,
    instances: int = 1,
    spares: int = 1,
    told: list[str] | None = None,
    admission: AdmissionController | None = None,
    **options: Any,
) -> Hangs:
    puppet, replies, witness = Puppet(), Replies(), Witness()
    batcher = Batcher(
        [puppet] * instances, witness, batching(**options), max_run_s=LIMIT_S, spares=spares,
        on_hang=lambda: None if told is None else told.append(batcher.fault), admission=admission,
    )  # fmt: skip
    batcher.start()
    return Hangs(batcher, puppet, replies, witness)


def error_of(entry: Entry) -> PredictionError:
    assert entry.error is not None
    return entry.error


def test_a_batch_whose_run_does_not_end_fails_and_the_next_one_is_answered() -> None:
    on = hanging()
    stuck = on.occupy()
    waiting = on.entry([2])
    on.submit(waiting)
    on.look()
    on.replies.wait_for(1)
    assert isinstance(error_of(stuck), RunTimedOut)
    assert "could not be interrupted" in str(stuck.error)
    assert on.batcher.hanging == 1
    assert on.batcher.fault == ""
    on.puppet.release_all()
    on.replies.wait_for(2)
    assert rows_of(waiting) == [[2]]
    on.finish()
    # Whoever returned late answered nobody a second time.
    assert len(on.replies.entries) == 2
    assert on.batcher.overdue == {"ended": 0, "given_up": 1}


def test_a_run_that_is_within_its_time_is_left_alone() -> None:
    on = hanging()
    entry = on.occupy()
    on.batcher.look(time.monotonic())
    # The process was stopped for a while, and the run with it.
    on.batcher.look(time.monotonic() + LATE_S, time.monotonic() + LATE_S - 1.0)
    assert on.batcher.hanging == 0
    on.puppet.release_all()
    on.replies.wait_for(1)
    assert rows_of(entry) == [[0]]
    on.look()
    assert on.batcher.hanging == 0
    on.finish()


def test_a_model_whose_every_device_hangs_says_so_and_refuses_until_one_returns() -> None:
    told: list[str] = []
    on = hanging(spares=0, told=told)
    on.occupy()
    waiting = on.entry([2])
    on.submit(waiting)
    on.look()
    on.replies.wait_for(2)
    assert isinstance(error_of(waiting), ModelNotReady)
    assert "every instance hangs in a run" in told[0]
    with pytest.raises(ModelNotReady, match="the model cannot answer: every instance hangs"):
        on.submit(on.entry([3]))
    on.puppet.release_all()
    on.wait_until_back()
    on.wait_until_idle()
    assert told[1:] == [""]
    late = on.entry([4])
    on.submit(late)
    on.replies.wait_for(3)
    assert rows_of(late) == [[4]]
    assert on.batcher.hanging == 0
    on.finish()


def test_no_more_runs_are_replaced_at_one_time_than_there_are_spares() -> None:
    on = hanging(spares=1)
    for _ in range(2):
        on.occupy()
        on.look()
    on.replies.wait_for(2)
    assert (on.batcher.hanging, bool(on.batcher.fault)) == (2, True)
    on.puppet.release_all()
    on.wait_until_back()
    on.wait_until_idle()
    assert (on.batcher.hanging, on.batcher.fault) == (0, "")
    on.finish()


def test_where_the_system_has_no_more_threads_a_run_that_hangs_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    on = hanging(spares=1)
    stuck = on.occupy()

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        on.look()
    on.replies.wait_for(1)
    assert isinstance(error_of(stuck), RunTimedOut)
    assert on.batcher.fault
    on.puppet.release_all()
    on.wait_until_back()
    on.wait_until_idle()
    assert on.batcher.fault == ""
    on.finish()


def test_a_batcher_closes_without_waiting_for_what_hangs() -> None:
    on = hanging(spares=0)
    on.occupy()
    on.look()
    assert on.batcher.close(0.0)
    with pytest.raises(BatcherClosed):
        on.submit(on.entry([1]))
    on.puppet.release_all()


def test_what_is_queued_when_a_batcher_closes_is_answered_by_what_replaces_a_run_that_hangs() -> None:
    on = hanging()
    on.occupy()
    waiting = on.entry([1])
    on.submit(waiting)
    closing = threading.Thread(target=on.batcher.close, args=(TIMEOUT_S,))
    closing.start()
    on.wait_until_closing()
    on.look()
    on.puppet.wait_for(2)
    assert on.batcher.hanging == 1
    on.puppet.release_all()
    on.replies.wait_for(2)
    assert rows_of(waiting) == [[1]]
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()


def test_a_batcher_that_closes_does_not_wait_for_what_is_given_up_meanwhile() -> None:
    on = hanging(spares=0)
    on.occupy()
    waiting = on.entry([1])
    on.submit(waiting)
    closing = threading.Thread(target=on.batcher.close, args=(100 * TIMEOUT_S,))
    closing.start()
    on.wait_until_closing()
    on.look()
    on.replies.wait_for(2)
    assert isinstance(error_of(waiting), ModelNotReady)
    assert "every instance hangs" in str(waiting.error)
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    on.puppet.release_all()


def test_a_run_that_was_replaced_keeps_nobody_out_and_one_that_was_not_does() -> None:
    for spares, free in ((1, 0.0), (0, 10 * LATE_S)):
        admission = AdmissionController(1.0, Costs({1: 0.001}, 8))
        on = hanging(spares=spares, admission=admission)
        on.occupy()
        on.look()
        assert admission._free_s(time.monotonic() + 10 * LATE_S) == pytest.approx((free,), abs=5.0)
        on.puppet.release_all()
        on.wait_until_back()
        on.finish()


def test_answers_in_order_do_not_wait_for_a_run_that_hangs() -> None:
    on = hanging(instances=2, spares=0, preserve_ordering=True)
    first = on.occupy()
    second = on.entry([2])
    on.puppet.answer = computed
    on.submit(second)
    on.puppet.wait_for(2)
    on.puppet.release()
    # One of both has run; which one is the puppet's choice.
    on.look()
    on.puppet.release_all()
    on.replies.wait_for(2)
    assert [bool(entry.error) or bool(entry.outputs) for entry in (first, second)] == [True, True]
    on.finish()


def test_of_a_batch_that_ran_in_parts_only_what_has_no_answer_fails() -> None:
    on = hanging()
    held = threading.Event()
    arrived = threading.Event()

    def answer(inputs: Any, wanted: Any) -> Any:
        values = inputs[0].ravel().tolist()
        if len(values) > 1:
            raise InvalidData("not in company")
        if values == [2.0]:
            arrived.set()
            assert held.wait(TIMEOUT_S)
        return computed(inputs, wanted)

    on.occupy()
    on.puppet.answer = answer
    good, bad = on.entry([1]), on.entry([2])
    on.submit(good, bad)
    on.puppet.release_all()
    assert arrived.wait(TIMEOUT_S)
    on.look()
    on.replies.wait_for(3)
    assert rows_of(good) == [[1]]
    assert isinstance(error_of(bad), RunTimedOut)
    held.set()
    on.finish()
    assert len(on.replies.entries) == 3


def test_whose_rows_were_refused_is_told_so_though_the_others_hang() -> None:
    on = hanging()
    held = threading.Event()
    arrived = threading.Event()

    def answer(inputs: Any, wanted: Any) -> Any:
        if len(inputs[0]) == 3:
            raise InvalidData.of_rows("input 'x'", {0: "is no number"})
        if len(inputs[0]) == 2:
            arrived.set()
            assert held.wait(TIMEOUT_S)
        return computed(inputs, wanted)

    on.occupy()
    on.puppet.answer = answer
    guilty, *others = entries = [on.entry([value]) for value in range(3)]
    on.submit(*entries)
    on.puppet.release_all()
    assert arrived.wait(TIMEOUT_S)
    on.look()
    on.replies.wait_for(4)
    assert (type(guilty.error), str(guilty.error)) == (InvalidData, "input 'x', row 0: is no number")
    assert [type(entry.error) for entry in others] == [RunTimedOut, RunTimedOut]
    held.set()
    on.finish()
    assert len(on.replies.entries) == 4


def test_a_batch_whose_run_was_ended_is_not_run_again() -> None:
    on = hanging()

    def answer(inputs: Any, wanted: Any) -> Any:
        raise RunTimedOut("it took too long")

    on.occupy()
    entries = [on.entry([value]) for value in range(4)]
    on.submit(*entries)
    on.puppet.answer = answer
    on.puppet.release_all()
    on.replies.wait_for(5)
    assert {type(entry.error) for entry in entries} == {RunTimedOut}
    assert len(on.puppet.ran) == 2
    assert on.batcher.overdue == {"ended": 2, "given_up": 0}
    on.finish()


def test_a_part_whose_run_was_ended_is_the_last_part_that_runs() -> None:
    on = hanging()

    def answer(inputs: Any, wanted: Any) -> Any:
        if len(inputs[0]) == 4:
            raise InvalidData("not in company")
        raise RunTimedOut("it took too long")

    on.occupy()
    entries = [on.entry([value]) for value in range(4)]
    on.submit(*entries)
    held = len(on.puppet.ran)
    on.puppet.answer = lambda inputs, wanted: (
        computed(inputs, wanted) if len(inputs[0]) == 1 else answer(inputs, wanted)
    )
    on.puppet.release_all()
    on.replies.wait_for(5)
    assert len(on.puppet.ran) == held + 2
    assert {type(entry.error) for entry in entries} == {RunTimedOut}
    on.finish()


def test_a_thread_that_was_lent_is_never_given_up() -> None:
    on = hanging()
    on.puppet.release_all()
    first = on.entry([0.0])
    on.submit(first)
    on.replies.wait_for(1)
    on.wait_until_idle()
    on.batcher._inline.ran(8, ((1,),), 0.0)
    looked: list[int] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        on.look()
        looked.append(on.batcher.hanging)
        return computed(inputs, wanted)

    on.puppet.answer = answer
    entry = on.entry([1])
    on.batcher.submit(entry, inline=True)
    on.batcher.run_inline()
    assert looked == [0]
    assert rows_of(entry) == [[1]]
    on.finish()


def test_where_time_depends_on_data_nothing_runs_inline() -> None:
    puppet, replies, witness = Puppet(blocking=False), Replies(), Witness()
    batcher = Batcher([puppet], witness, batching(), inline=False)
    batcher.start()
    on = Stage(batcher, puppet, replies, witness)
    threads: list[str] = []

    def answer(inputs: Any, wanted: Any) -> Any:
        threads.append(threading.current_thread().name)
        return computed(inputs, wanted)

    puppet.answer = answer
    batcher._inline.ran(8, ((1,),), 0.0)
    on.batcher.submit(on.entry([1]), inline=True)
    on.batcher.run_inline()
    replies.wait_for(1)
    assert threads == ["device"]
    on.finish()
