"""Batches that are run by the thread that submits them."""

import threading
import time
from typing import Any

import pytest

from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.entry import Entry
from frostline_server.errors import (
    RunFailed,
)
from tests.support.puppet import (
    HOUR_S,
    TIMEOUT_S,
    Puppet,
    Replies,
    Stage,
    Staging,
    Witness,
    batching,
    computed,
    rows_of,
)

# Devices that are lent


def believe(on: Stage, run_s: float, rows: int = 8, width: int = 1) -> None:
    """Make the batcher believe that its latest run had so many rows of so many numbers, and took so long."""
    on.batcher._inline.ran(rows, ((width,),), run_s)


def brief(on: Stage, instances: int = 1) -> Stage:
    """A stage whose runs are known to be brief, and do not block."""
    on.puppet.release_all()
    first = on.entry([0.0])
    on.submit(first)
    on.replies.wait_for(1)
    on.wait_until_idle(instances)
    believe(on, 0.0)
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
    on.batcher.submit(first, inline=True)
    on.batcher.submit(second, inline=True)
    assert on.puppet.ran[1:] == []
    on.batcher.run_inline()
    assert threads == [threading.current_thread().name]
    assert on.puppet.ran[-1].rows == 3
    assert (rows_of(first), rows_of(second)) == ([[1]], [[2], [3]])
    # Nothing is left, so there is nothing to help with.
    on.batcher.run_inline()
    assert len(threads) == 1
    on.finish()


def test_a_lent_device_whose_run_failed_counts_as_free_again() -> None:
    admission = AdmissionController(1.0, Costs({1: 0.001, 8: 0.002}, 8))
    puppet, replies, witness = Puppet(blocking=False), Replies(), Witness()
    batcher = Batcher([puppet], witness, batching(), admission=admission)
    batcher.start()
    on = Stage(batcher, puppet, replies, witness)
    brief(on)

    def broken(inputs: Any, wanted: Any) -> Any:
        raise ValueError("broken")

    puppet.answer = broken
    entry = on.entry([1])
    batcher.submit(entry, inline=True)
    batcher.run_inline()
    assert isinstance(entry.error, RunFailed)
    assert not admission._ends
    on.finish()


def test_a_run_that_would_take_long_is_left_to_the_devices_thread(staging: Staging) -> None:
    on = brief(staging())
    threads = witnessed(on)
    believe(on, 1.0, rows=1)
    on.batcher.submit(on.entry([1]), inline=True)
    on.batcher.run_inline()
    on.replies.wait_for(2)
    # Brief when it was queued, and long by the time help came.
    on.wait_until_idle()
    believe(on, 0.0)
    on.batcher.submit(on.entry([2]), inline=True)
    believe(on, 1.0, rows=1)
    on.batcher.run_inline()
    on.replies.wait_for(3)
    assert threads == ["device", "device"]
    on.finish()


def test_how_long_the_first_run_takes_is_not_guessed(staging: Staging) -> None:
    on = staging()
    on.puppet.release_all()
    on.batcher.submit(on.entry([1]), inline=True)
    on.replies.wait_for(1)
    on.finish()


def test_how_long_rows_of_another_shape_take_is_not_guessed(staging: Staging) -> None:
    on = brief(staging())
    threads = witnessed(on)
    on.batcher.submit(on.entry([1, 2]), inline=True)
    on.batcher.run_inline()
    on.replies.wait_for(2)
    on.wait_until_idle()
    believe(on, 0.0, width=2)
    # Known by now, unlike the shape before it.
    on.batcher.submit(on.entry([3, 4]), inline=True)
    on.batcher.run_inline()
    on.batcher.submit(on.entry([5]), inline=True)
    on.batcher.run_inline()
    on.replies.wait_for(4)
    assert threads == ["device", threading.current_thread().name, "device"]
    on.finish()


def test_a_helper_that_was_held_long_helps_no_more_for_a_hundred_times_as_long(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = brief(staging())
    threads = witnessed(on)
    now = start = time.monotonic()
    monkeypatch.setattr("frostline_server.batching.batcher.time.monotonic", lambda: now)
    answer = on.puppet.answer

    def helped(value: int, takes_s: float = 0.0) -> bool:
        """Whether this thread runs the batch of the row with this number, which is believed to be brief."""

        def run(inputs: Any, wanted: Any) -> Any:
            nonlocal now
            now += takes_s
            return answer(inputs, wanted)

        on.puppet.answer = run
        on.wait_until_idle()
        believe(on, 0.0)
        on.batcher.submit(on.entry([value]), inline=True)
        on.batcher.run_inline()
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
        on.batcher.submit(on.entry([value]), inline=True)
    on.batcher.run_inline()
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
    on.batcher.submit(on.entry([1]), inline=True)
    on.batcher.run_inline()
    closer.join(TIMEOUT_S)
    assert closed == [True]
    on.batcher.run_inline()


def test_a_batch_that_waits_for_company_is_not_helped_along(staging: Staging) -> None:
    on = staging(max_batch_size=2, max_queue_delay_s=HOUR_S)
    on.puppet.release_all()
    believe(on, 0.0)
    on.batcher.submit(on.entry([1]), inline=True)
    on.batcher.run_inline()
    assert on.puppet.ran == []
    on.batcher.submit(on.entry([2]), inline=True)
    on.batcher.run_inline()
    assert on.puppet.wait_for(1).rows == 2
    on.finish()


def test_helpers_in_many_threads_lose_nothing_and_mix_nothing_up(staging: Staging) -> None:
    on = brief(staging(max_batch_size=4, max_queue_size=10_000, instances=2), instances=2)
    entries: list[Entry] = []

    def work(first: int) -> None:
        for value in range(first, first + 200):
            entry = on.entry([value])
            entries.append(entry)
            on.batcher.submit(entry, inline=True)
            if value % 3:
                on.batcher.run_inline()
        on.batcher.run_inline()

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
