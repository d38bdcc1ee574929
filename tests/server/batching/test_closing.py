"""Closing a batcher: what was accepted is finished, what comes later is refused, and nothing is kept."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.request_queue import QueuePolicy
from frostline_server.errors import (
    BatcherClosed,
    ServerStopping,
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
)

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
    with pytest.raises(BatcherClosed, match="has stopped accepting new inference requests"):
        on.submit(on.entry([1]))


def test_a_request_that_a_closed_batcher_refused_is_answered_by_the_one_that_took_its_place(staging: Staging) -> None:
    old, new = staging(), staging(policies=(QueuePolicy(100),) * 2, default_priority=2)
    old.finish()
    entry = old.entry([1])
    with pytest.raises(BatcherClosed):
        old.submit(entry)
    entry.rebind(old.entry([2], [3], wanted=("double",), priority=1))
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


def test_closing_while_a_batch_runs_and_nothing_waits_says_it_was_not_finished(staging: Staging) -> None:
    on = staging()
    on.occupy()
    assert not on.batcher.close(0)
