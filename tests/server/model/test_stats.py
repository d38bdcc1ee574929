"""The accumulators: what is counted, under which name, and that nothing is lost between scrapes."""

import numpy as np

from frostline_server.batching.entry import Entry
from frostline_server.errors import Cancelled, InvalidInput, QueueFull, RunFailed
from frostline_server.model.stats import BatchTimes, Histogram, ModelStats, Unrouted
from tests.support.puppet import make_entry


def arrived(*moments_s: float) -> list[Entry]:
    """One-row entries that came at these moments."""
    entries = [make_entry(np.zeros((1, 1), np.float32), reply=lambda group: None) for _ in moments_s]
    for entry, moment_s in zip(entries, moments_s, strict=True):
        entry.arrived_s = moment_s
    return entries


def test_a_histograms_buckets_are_cumulative_and_end_with_all_observations() -> None:
    histogram = Histogram((1, 2.5, 10))
    for value in (0, 1, 1.5, 2.5, 3, 11, 12):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 2), ("2.5", 4), ("10", 5), ("+Inf", 7)]
    assert histogram.count == 7
    assert histogram.total == 31


def test_a_histograms_bounds_can_be_told_in_another_unit() -> None:
    histogram = Histogram((0.00025, 1.0))
    histogram.observe(0.0002)
    assert histogram.buckets(1e6) == [("250", 1), ("1000000", 1), ("+Inf", 1)]


def test_a_new_histogram_is_all_zeros() -> None:
    assert Histogram((1.0,)).buckets() == [("1", 0), ("+Inf", 0)]


def test_a_batch_counts_its_requests_its_rows_and_one_execution() -> None:
    stats = ModelStats()
    stats.batch(arrived(10.0, 10.25), rows=5, started_s=10.5, assembled_s=10.75, ran_s=12.75, finished_s=13.0)
    snapshot = stats.snapshot()
    assert snapshot.codes == {"OK": 2}
    assert (snapshot.succeeded, snapshot.rows, snapshot.executions) == (2, 5, 1)
    assert snapshot.last_inference_ms > 0


def test_stage_durations_are_summed_over_requests() -> None:
    stats = ModelStats()
    stats.batch(arrived(10.0, 10.25), rows=5, started_s=10.5, assembled_s=10.75, ran_s=12.75, finished_s=13.0)
    snapshot = stats.snapshot()
    assert snapshot.queue_s == 0.5 + 0.25
    assert snapshot.assemble_s == 2 * 0.25
    assert snapshot.run_s == 2 * 2.0
    assert snapshot.answer_s == 2 * 0.25
    assert snapshot.request_s == 3.0 + 2.75


def test_batches_are_told_apart_by_their_size_and_each_counted_once() -> None:
    stats = ModelStats()
    for rows in (4, 2, 4):
        stats.batch(arrived(0.0, 0.0), rows=rows, started_s=1.0, assembled_s=1.5, ran_s=3.5, finished_s=3.75)
    assert stats.snapshot().by_size == {
        2: BatchTimes(count=1, assemble_s=0.5, run_s=2.0, answer_s=0.25),
        4: BatchTimes(count=2, assemble_s=1.0, run_s=4.0, answer_s=0.5),
    }
    assert list(stats.snapshot().by_size) == [2, 4]


def test_the_histograms_see_one_run_for_each_batch_and_one_wait_for_each_request() -> None:
    stats = ModelStats()
    stats.batch(arrived(0.0, 1.0), rows=3, started_s=1.0, assembled_s=1.0, ran_s=3.0, finished_s=3.0)
    assert (stats.run_seconds.count, stats.run_seconds.total) == (1, 2.0)
    assert (stats.batch_rows.count, stats.batch_rows.total) == (1, 3.0)
    assert (stats.queue_seconds.count, stats.queue_seconds.total) == (2, 1.0)
    assert (stats.request_seconds.count, stats.request_seconds.total) == (2, 5.0)


def test_failures_are_counted_by_status_and_by_tritons_reason() -> None:
    stats = ModelStats()
    for error in (InvalidInput(""), InvalidInput(""), QueueFull(""), Cancelled(""), RunFailed("")):
        stats.failed(error, 0.5)
    snapshot = stats.snapshot()
    assert snapshot.codes == {"INVALID_ARGUMENT": 2, "UNAVAILABLE": 1, "CANCELLED": 1, "INTERNAL": 1}
    assert snapshot.reasons == {"OTHER": 2, "REJECTED": 1, "CANCELED": 1, "BACKEND": 1}
    assert (snapshot.failed_s, snapshot.succeeded) == (2.5, 0)


def test_a_snapshot_does_not_change_afterwards() -> None:
    stats = ModelStats()
    stats.batch(arrived(0.0), rows=1, started_s=1.0, assembled_s=1.0, ran_s=1.0, finished_s=1.0)
    before = stats.snapshot()
    stats.batch(arrived(0.0), rows=1, started_s=1.0, assembled_s=1.0, ran_s=1.0, finished_s=1.0)
    stats.failed(QueueFull(""))
    assert (before.codes, before.reasons, before.by_size[1].count) == ({"OK": 1}, {}, 1)
    histograms = (before.request_seconds, before.queue_seconds, before.run_seconds, before.batch_rows)
    assert [(histogram.count, histogram.total) for histogram in histograms] == [(1, 1.0), (1, 1.0), (1, 0.0), (1, 1.0)]


def test_requests_for_no_known_model_are_counted_by_status() -> None:
    unrouted = Unrouted()
    unrouted.failed(InvalidInput(""))
    unrouted.failed(InvalidInput(""))
    codes = unrouted.codes()
    unrouted.failed(QueueFull(""))
    assert codes == {"INVALID_ARGUMENT": 2}
