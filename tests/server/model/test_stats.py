"""The accumulators: what is counted, under which name, and that nothing is lost between scrapes."""

from collections.abc import Sequence

import numpy as np
import pytest

from frostline_server.batching.entry import Entry
from frostline_server.errors import Cancelled, InvalidInput, QueueFull, RunFailed
from frostline_server.model.stats import CONFIDENCE, BatchTimes, Histogram, ModelStats, Unrouted
from tests.support.puppet import make_entry


def arrived(*moments_s: float) -> list[Entry]:
    """One-row entries that came at these moments."""
    entries = [make_entry(np.zeros((1, 1), np.float32), reply=lambda group: None) for _ in moments_s]
    for entry, moment_s in zip(entries, moments_s, strict=True):
        entry.arrived_s = moment_s
    return entries


def predict(stats: ModelStats, classes: Sequence[int], confidence: Sequence[float] | None = None) -> None:
    given = [0.5] * len(classes) if confidence is None else confidence
    stats.predicted(np.array(classes), np.array(given, np.float32))


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


def test_predictions_are_counted_by_label_and_by_confidence() -> None:
    stats = ModelStats(["ant", "bee", "cat"])
    predict(stats, [0, 2, 2], [0.05, 0.5, 1.0])
    by_label, confidence = stats.predictions()
    assert by_label == {"ant": 1, "cat": 2}
    assert confidence.bounds == CONFIDENCE
    assert dict(confidence.buckets()) == {
        "0.1": 1, "0.2": 1, "0.3": 1, "0.4": 1, "0.5": 2, "0.6": 2, "0.7": 2, "0.8": 2, "0.9": 2, "0.95": 2,
        "0.99": 2, "1": 3, "+Inf": 3,
    }  # fmt: skip
    assert confidence.total == pytest.approx(1.55)


@pytest.mark.parametrize("batches", [1, 63, 64, 65, 200])
def test_predictions_counted_in_bulk_lose_nothing_however_many_batches_there_were(batches: int) -> None:
    stats = ModelStats(["ant", "bee"])
    for _ in range(batches):
        predict(stats, [0, 1, 1])
    by_label, confidence = stats.predictions()
    assert by_label == {"ant": batches, "bee": 2 * batches}
    assert confidence.count == 3 * batches
    assert stats.predictions()[0] == by_label


def test_predictions_that_nobody_scrapes_do_not_pile_up() -> None:
    stats = ModelStats()
    for _ in range(200):
        predict(stats, [0])
        assert len(stats._pending) < 64


def test_batches_without_one_class_a_row_are_left_out_and_neither_fail_a_request_nor_a_scrape() -> None:
    stats = ModelStats(["ant", "bee"])
    predict(stats, [1])
    for _ in range(200):
        stats.predicted(np.zeros((2, 3), np.int64), np.ones((2, 3), np.float32))
        assert len(stats._pending) < 64
    predict(stats, [1])
    by_label, confidence = stats.predictions()
    assert (by_label, confidence.count) == ({"bee": 2}, 2)


def test_a_class_seen_for_the_first_time_late_joins_the_counts() -> None:
    stats = ModelStats()
    predict(stats, [0])
    assert stats.predictions()[0] == {"0": 1}
    predict(stats, [3])
    assert stats.predictions()[0] == {"0": 1, "3": 1}
    predict(stats, [1])
    assert stats.predictions()[0] == {"0": 1, "1": 1, "3": 1}


def test_a_class_beyond_the_labels_is_counted_under_its_index() -> None:
    stats = ModelStats(["ant"])
    predict(stats, [0, 2])
    assert stats.predictions()[0] == {"ant": 1, "2": 1}


def test_before_the_first_prediction_there_is_nothing_to_show() -> None:
    by_label, confidence = ModelStats().predictions()
    assert by_label == {}
    assert confidence.count == 0


def test_a_probability_that_rounding_lifted_above_one_is_still_in_the_last_bucket() -> None:
    stats = ModelStats()
    predict(stats, [0], [np.nextafter(np.float32(1), np.float32(2))])
    assert dict(stats.predictions()[1].buckets())["1"] == 1


def test_half_precision_probabilities_are_summed_without_overflow() -> None:
    stats = ModelStats()
    for _ in range(64):
        stats.predicted(np.zeros(2000, np.int64), np.ones(2000, np.float16))
    assert stats.predictions()[1].total == 128_000


def test_requests_for_no_known_model_are_counted_by_status() -> None:
    unrouted = Unrouted()
    unrouted.failed(InvalidInput(""))
    unrouted.failed(InvalidInput(""))
    codes = unrouted.codes()
    unrouted.failed(QueueFull(""))
    assert codes == {"INVALID_ARGUMENT": 2}


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [(["crane", "x", "crane"], [0, 0, 2], {"crane": 3}), (["1"], [0, 1, 1], {"1": 3})],
)
def test_classes_that_share_a_name_are_counted_together(
    labels: list[str], classes: list[int], expected: dict[str, int]
) -> None:
    stats = ModelStats(labels)
    stats.predicted(np.array(classes), np.ones(len(classes)))
    assert stats.predictions()[0] == expected


def test_one_prediction_that_is_no_number_does_not_spoil_the_sum() -> None:
    stats = ModelStats()
    stats.predicted(np.array([0, 0]), np.array([np.nan, 0.5], np.float32))
    assert stats.predictions()[1].total == 0.5
