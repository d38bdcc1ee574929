"""Who is let in where answers must be in time: never whom the estimate calls late, and never nobody for ever."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline_server.batching.admission import AIM, LATEST, LONGEST_TRIAL_S, TRIAL_S, AdmissionController, Costs
from frostline_server.batching.entry import Entry
from frostline_server.batching.request_queue import QueuePolicy, RequestQueue
from frostline_server.errors import DeadlineExceeded, Overloaded
from tests.support.overload import AROUND_S, simulate
from tests.support.puppet import batching, make_entry

SLO_S = 0.010
MS = 0.001
DEVICE = "the only one"


def linear(rows: int) -> float:
    return rows * MS


def pace_of(run_s: dict[int, float] | None = None, max_rows: int = 64, devices: int = 1) -> AdmissionController:
    """A millisecond a row, unless said otherwise."""
    table = {2**power: linear(2**power) for power in range(7)} if run_s is None else run_s
    return AdmissionController(SLO_S, Costs(table, max_rows), devices, spread=lambda: 0.5)


def arriving(at: float = 0.0, *, rows: int = 1, **options: Any) -> Entry:
    entry = make_entry(np.zeros((rows, 1), np.float32), reply=lambda _: None, **options)
    entry.arrived_s = at
    return entry


def queue(admission: AdmissionController, **options: Any) -> RequestQueue:
    return RequestQueue(batching(**{"max_batch_size": 64, **options}), batched=True, admission=admission)


def test_rows_that_weigh_more_take_the_place_of_others_and_none_waits_for_ever() -> None:
    waiting = queue(pace_of({1: MS / 100, 64: MS / 10}), max_batch_size=4)
    entries = [arriving() for _ in range(5)]
    for entry, weight in zip(entries, (2, 1, 1, 1, 9), strict=True):
        entry.kind = replace(entry.kind, weight=weight)
        waiting.push(entry)
    assert [waiting.take(0.0)[0] for _ in range(3)] == [entries[:3], entries[3:4], entries[4:]]


# What a batch costs


def test_run_times_between_two_measured_sizes_lie_between_theirs_and_beyond_they_grow_with_the_rows() -> None:
    costs = Costs({1: 1.0, 4: 2.5, 8: 2.0}, 32)
    assert [costs.of(rows) for rows in (1, 2, 3, 4)] == [1.0, 1.5, 2.0, 2.5]
    assert costs.of(8) == 2.5, "more rows never cost less"
    assert costs.of(16) == 4.0
    assert costs.of(100_000) == pytest.approx(100_000 / 32 * costs.of(32))


def test_the_largest_batch_within_a_time_is_never_less_than_a_row() -> None:
    costs = Costs({1: MS, 64: 64 * MS}, 64)
    assert [costs.most(seconds) for seconds in (0.0, 1.5 * MS, 20.1 * MS, 1.0)] == [1, 1, 20, 64]


def test_what_real_batches_cost_is_learned_with_all_that_is_around_the_run() -> None:
    costs = Costs({1: MS, 64: 64 * MS}, 64)
    for rows in (1, 64, 8) * 100:
        costs.learn(rows, 2 * rows * MS, 3 * MS + rows * MS / 10, afresh=False)
    assert costs.slowness == pytest.approx(2, rel=0.05)
    for rows in (1, 8, 64):
        assert costs.of(rows) == pytest.approx(3 * MS + 2.1 * rows * MS, rel=0.15)


def test_a_run_that_stalls_once_counts_as_little_more_than_others() -> None:
    costs = Costs({1: MS}, 1)
    costs.learn(1, 60.0, 0.0, afresh=False)
    assert costs.of(1) < 3 * MS


def test_where_nothing_could_be_measured_everybody_is_let_in_until_the_first_batch_has_run() -> None:
    admission = pace_of({})
    admission.admit(arriving(), 500)
    admission.learn(2, 0.0, 0.0, 0.012, 0.012)
    with pytest.raises(Overloaded):
        admission.admit(arriving(), 500)


# Who is let in


def test_a_request_that_would_be_answered_too_late_is_refused_with_a_push_back() -> None:
    admission = pace_of()
    admission.admit(arriving(), 3)
    admission.took(DEVICE, 0.0, 3)
    admission.admit(arriving(), 0)
    with pytest.raises(Overloaded, match=r"10 ms \(slo_ms\)") as caught:
        admission.admit(arriving(), 10)
    assert caught.value.pushback_ms is not None
    assert SLO_S * 1000 <= caught.value.pushback_ms <= 5 * SLO_S * 1000
    assert (admission.refused, admission.shed) == (1, 0)


def test_a_request_that_is_too_large_for_its_time_is_told_so() -> None:
    admission = pace_of()
    admission.took(DEVICE, 0.0, 1)
    with pytest.raises(Overloaded, match=r"30 rows take about 30 ms now, and 10 ms are allowed .*; send fewer rows"):
        admission.admit(arriving(rows=30), 0)
    with pytest.raises(Overloaded, match=r"5 rows take about 5 ms now, and 4 ms are allowed"):
        admission.admit(arriving(rows=5, deadline_s=4 * MS), 0)


def test_a_clients_own_deadline_counts_where_it_is_earlier() -> None:
    admission = pace_of()
    admission.took(DEVICE, 0.0, 2)
    admission.admit(arriving(deadline_s=1.0), 0)
    entry = arriving(deadline_s=8 * MS)
    admission.admit(entry, 0)
    assert entry.due_s == pytest.approx(8 * MS * LATEST)
    with pytest.raises(Overloaded):
        admission.admit(arriving(deadline_s=3 * MS), 0)


def test_rows_that_cannot_share_a_batch_are_batches_of_their_own() -> None:
    admission = pace_of()
    admission.admit(arriving(), 1, lanes=1)
    with pytest.raises(Overloaded):
        admission.admit(arriving(), 1, lanes=3)


def test_a_second_device_takes_what_the_first_one_cannot() -> None:
    one, two = pace_of(), pace_of(devices=2)
    for admission in (one, two):
        admission.took(DEVICE, 0.0, 5)
    with pytest.raises(Overloaded):
        one.admit(arriving(), 3)
    two.admit(arriving(), 3)


def test_a_run_that_takes_longer_than_expected_is_expected_to_take_as_much_longer_again() -> None:
    admission = pace_of()
    admission.took(DEVICE, 0.0, 4)
    admission.admit(arriving(5 * MS), 0)
    with pytest.raises(Overloaded):
        admission.admit(arriving(15 * MS), 0)
    admission.freed(DEVICE)
    admission.admit(arriving(15 * MS), 0)


def test_a_run_of_which_nobody_hears_again_does_not_refuse_everybody_for_ever() -> None:
    admission = pace_of()
    admission.took(DEVICE, 0.0, 5)
    with pytest.raises(Overloaded):
        admission.admit(arriving(0.02), 0)
    entry = arriving(TRIAL_S)
    admission.admit(entry, 0)
    assert entry.due_s == math.inf, "nothing is promised"
    with pytest.raises(Overloaded):
        admission.admit(arriving(TRIAL_S), 1)


def test_who_has_answered_a_batch_is_free() -> None:
    admission = pace_of()
    admission.took(DEVICE, 0.0, 5)
    admission.learn(5, 0.0, 0.0, 5 * MS, 5 * MS)
    admission.freed(DEVICE)
    admission.admit(arriving(5 * MS), 3)


@given(
    row_ms=st.floats(0.01, 4),
    fixed_ms=st.floats(0, 4),
    load=st.floats(0.2, 5),
    devices=st.integers(1, 3),
    own_ms=st.none() | st.floats(6, 30),
)
@settings(max_examples=60, deadline=None)
def test_what_is_let_in_is_in_time_where_runs_take_as_long_as_they_were_measured(
    row_ms: float, fixed_ms: float, load: float, devices: int, own_ms: float | None
) -> None:
    def run_s(rows: int) -> float:
        return (fixed_ms + row_ms * rows) * MS

    rate = load * devices * 64 / run_s(64)
    outcome = simulate(
        run_s,
        slo_s=SLO_S,
        rate=rate,
        seconds=min(0.3, 2000 / rate),
        devices=devices,
        deadline_s=None if own_ms is None else own_ms * MS,
    )
    limit_s = min(SLO_S, SLO_S if own_ms is None else own_ms * MS)
    late = sum(took > limit_s for took in outcome.latency_s.values())
    # Those let in to see what a run costs are promised nothing.
    assert late <= outcome.trials
    assert outcome.refused + outcome.shed + len(outcome.latency_s) == outcome.offered


@pytest.mark.parametrize(
    ("row_ms", "fixed_ms", "slo_s", "share"),
    [
        (1, 0, 0.010, 0.93),
        (0.05, 2, 0.010, 0.8),
        (0.005, 0.03, 0.010, 0.93),
        (0.05, 2, 0.050, 0.93),
        (4, 0, 0.010, 0.85),
    ],
    ids=["a row each", "batches pay", "tiny", "batches pay, time enough", "few fit"],
)
def test_twice_the_capacity_is_answered_nearly_as_fast_as_the_capacity_and_the_rest_refused_on_arrival(
    row_ms: float, fixed_ms: float, slo_s: float, share: float
) -> None:
    def run_s(rows: int) -> float:
        return (fixed_ms + row_ms * rows) * MS

    seconds = 2000 * row_ms * MS
    capacity = 64 / (run_s(64) + AROUND_S)
    outcome = simulate(run_s, slo_s=slo_s, rate=2 * capacity, seconds=seconds)
    assert outcome.inside(slo_s) >= share * capacity * seconds
    assert len(outcome.latency_s) - outcome.inside(slo_s) <= 0.01 * outcome.offered
    assert outcome.shed <= 0.01 * outcome.offered


def test_runs_that_vary_cost_few_answers() -> None:
    outcome = simulate(linear, slo_s=SLO_S, rate=2000, seconds=3.0, slower=lambda at, rnd: math.exp(rnd.gauss(0, 0.3)))
    assert outcome.inside(SLO_S) >= 0.85 * 3000
    assert len(outcome.latency_s) - outcome.inside(SLO_S) <= 0.05 * 3000


def test_after_a_slow_patch_all_is_as_before() -> None:
    outcome = simulate(
        linear, slo_s=SLO_S, rate=2000, seconds=3.0, slower=lambda at, rnd: 15.0 if 1.0 < at < 1.5 else 1.0
    )
    assert outcome.inside(SLO_S, since_s=2.0) >= 0.9 * 1000


def test_measurements_that_were_far_too_high_do_not_refuse_everybody_for_ever() -> None:
    outcome = simulate(linear, slo_s=SLO_S, rate=2000, seconds=6.0, believed_s={1: 15 * MS, 64: 15 * 64 * MS})
    assert outcome.inside(SLO_S, since_s=3.0) >= 0.8 * 3000


def test_a_model_that_is_too_slow_for_its_limit_is_tried_ever_more_seldom() -> None:
    admission = pace_of({1: 1.0}, max_rows=1)
    at, tried = 0.0, []
    while at < 60.0:
        try:
            admission.admit(entry := arriving(at), 0)
            tried.append(at)
            assert entry.due_s == math.inf, "nothing is promised"
            admission.learn(1, at, at, at + 1e-9, at + 1e-9)
            admission.learn(1, at, at, at + 1.0, at)
        except Overloaded:
            at += 0.01
    gaps = np.diff(tried)
    assert 5 <= len(tried) <= 15
    assert TRIAL_S <= gaps[0] < gaps[-1] <= LONGEST_TRIAL_S + 1


# Which batch is taken


def test_a_batch_is_the_largest_that_meets_the_deadline_of_its_oldest_request() -> None:
    waiting = queue(pace_of())
    for _ in range(4):
        waiting.push(arriving(0.0))
    batch, ended, _ = waiting.take(SLO_S * LATEST - 3.5 * MS)
    assert (len(batch), ended) == (3, [])
    assert waiting.rows == 1


def test_a_request_whose_answer_would_come_too_late_never_reaches_the_device() -> None:
    admission = pace_of()
    waiting = queue(admission)
    late, good = arriving(0.0), arriving(5 * MS)
    waiting.push(late)
    waiting.push(good)
    batch, ended, _ = waiting.take(9 * MS)
    assert (batch, ended) == ([good], [late])
    assert isinstance(late.error, Overloaded)
    assert late.error.pushback_ms is not None
    assert admission.shed == 1
    assert waiting.empty
    assert waiting.rows == 0


def test_a_request_whose_client_has_stopped_waiting_is_told_so() -> None:
    waiting = queue(pace_of())
    entry = arriving(0.0, deadline_s=8 * MS)
    waiting.push(entry)
    assert waiting.take(9 * MS)[:2] == ([], [entry])
    assert isinstance(entry.error, DeadlineExceeded)


def test_many_are_not_kept_small_for_the_sake_of_one() -> None:
    admission = pace_of({1: 3 * MS, 64: 3.64 * MS})
    waiting = queue(admission)
    urgent = arriving(0.0, deadline_s=7 * MS)
    waiting.push(urgent)
    others = [arriving(0.0) for _ in range(30)]
    for entry in others:
        waiting.push(entry)
    batch, ended, _ = waiting.take(7 * MS * LATEST - 3.05 * MS)
    assert (batch, ended) == (others, [urgent])


def test_company_is_waited_for_only_as_long_as_everybody_is_in_time() -> None:
    waiting = queue(pace_of(), max_queue_delay_s=1.0)
    waiting.push(arriving(0.0))
    batch, _, wait_s = waiting.take(0.0)
    assert not batch
    assert wait_s == pytest.approx(SLO_S * AIM - MS)
    waiting.push(arriving(2 * MS))
    batch, _, wait_s = waiting.take(2 * MS)
    assert wait_s == pytest.approx(SLO_S * AIM - 2 * MS - 2 * MS)
    batch, ended, _ = waiting.take(2 * MS + wait_s + MS / 2)
    assert (len(batch), ended) == (2, []), "a clock that wakes a little late harms nobody"


def test_what_waits_in_a_higher_priority_goes_before_and_counts() -> None:
    policies = (QueuePolicy(100), QueuePolicy(100))
    waiting = queue(pace_of(), policies=policies, default_priority=2)
    for _ in range(4):
        waiting.push(arriving(0.0, priority=1))
    with pytest.raises(Overloaded):
        waiting.push(arriving(0.0, priority=2))


def test_without_an_aim_beyond_the_latest_nothing_is_promised_that_is_given_up_at_once() -> None:
    assert 0 < AIM < LATEST < 1
