"""How entries are answered, and that each ends exactly once whatever the order of events."""

import time
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline_server.batching.entry import Entry
from frostline_server.batching.request_queue import QueuePolicy
from frostline_server.errors import (
    Cancelled,
    DeadlineExceeded,
    QueueFull,
    QueueTimeout,
    RunFailed,
)
from tests.support.puppet import HOUR_S, Replies, Staging, computed, make_entry, spoilt, stage

# Answering


def test_a_front_end_is_handed_its_entries_of_a_batch_in_one_go(staging: Staging) -> None:
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
    errors = {id(entry.error) for entry in answered}
    given_up = [error for error, _ in on.witness.failures if id(error) not in errors]
    assert len(answered) + len(given_up) == len(accepted)
    assert all(isinstance(error, (Cancelled, DeadlineExceeded)) for error in given_up)
    assert all(ran.rows <= options["max_batch_size"] for ran in on.puppet.ran)
    assert on.batcher.queued_rows == 0
