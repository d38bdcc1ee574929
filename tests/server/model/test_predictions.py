"""What a version predicts: every row is counted once, under a bounded number of labels, whatever the model answers."""

from collections.abc import Sequence

import numpy as np
import pytest

from frostline_server.model.predictions import CONFIDENCE, Predictions


def predict(seen: Predictions, classes: Sequence[int], confidence: Sequence[float] | None = None) -> None:
    given = [0.5] * len(classes) if confidence is None else confidence
    seen.add(np.array(classes), np.array(given, np.float32))


def test_predictions_are_counted_by_label_and_by_confidence() -> None:
    seen = Predictions(["ant", "bee", "cat"])
    predict(seen, [0, 2, 2], [0.05, 0.5, 1.0])
    by_label, confidence = seen.counts()
    assert by_label == {"ant": 1, "cat": 2}
    assert confidence.bounds == CONFIDENCE
    assert dict(confidence.buckets()) == {
        "0.1": 1, "0.2": 1, "0.3": 1, "0.4": 1, "0.5": 2, "0.6": 2, "0.7": 2, "0.8": 2, "0.9": 2, "0.95": 2,
        "0.99": 2, "1": 3, "+Inf": 3,
    }  # fmt: skip
    assert confidence.total == pytest.approx(1.55)


@pytest.mark.parametrize("batches", [1, 63, 64, 65, 200])
def test_predictions_counted_in_bulk_lose_nothing_however_many_batches_there_were(batches: int) -> None:
    seen = Predictions(["ant", "bee"])
    for _ in range(batches):
        predict(seen, [0, 1, 1])
    by_label, confidence = seen.counts()
    assert by_label == {"ant": batches, "bee": 2 * batches}
    assert confidence.count == 3 * batches
    assert seen.counts()[0] == by_label


def test_predictions_that_nobody_scrapes_do_not_pile_up() -> None:
    seen = Predictions()
    for _ in range(200):
        predict(seen, [0])
        assert len(seen._pending) < 64


def test_batches_without_one_class_a_row_are_left_out_and_neither_fail_a_request_nor_a_scrape() -> None:
    seen = Predictions(["ant", "bee"])
    predict(seen, [1])
    for _ in range(200):
        seen.add(np.zeros((2, 3), np.int64), np.ones((2, 3), np.float32))
        assert len(seen._pending) < 64
    predict(seen, [1])
    by_label, confidence = seen.counts()
    assert (by_label, confidence.count) == ({"bee": 2}, 2)


def test_a_class_seen_for_the_first_time_late_joins_the_counts() -> None:
    seen = Predictions()
    predict(seen, [0])
    assert seen.counts()[0] == {"0": 1}
    predict(seen, [3])
    assert seen.counts()[0] == {"0": 1, "3": 1}
    predict(seen, [1])
    assert seen.counts()[0] == {"0": 1, "1": 1, "3": 1}


def test_a_class_beyond_the_labels_is_counted_under_its_index() -> None:
    seen = Predictions(["ant"])
    predict(seen, [0, 2])
    assert seen.counts()[0] == {"ant": 1, "2": 1}


def test_before_the_first_prediction_there_is_nothing_to_show() -> None:
    by_label, confidence = Predictions().counts()
    assert by_label == {}
    assert confidence.count == 0


def test_a_probability_that_rounding_lifted_above_one_is_still_in_the_last_bucket() -> None:
    seen = Predictions()
    predict(seen, [0], [np.nextafter(np.float32(1), np.float32(2))])
    assert dict(seen.counts()[1].buckets())["1"] == 1


def test_half_precision_probabilities_are_summed_without_overflow() -> None:
    seen = Predictions()
    for _ in range(64):
        seen.add(np.zeros(2000, np.int64), np.ones(2000, np.float16))
    assert seen.counts()[1].total == 128_000


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [(["crane", "x", "crane"], [0, 0, 2], {"crane": 3}), (["1"], [0, 1, 1], {"1": 3})],
)
def test_classes_that_share_a_name_are_counted_together(
    labels: list[str], classes: list[int], expected: dict[str, int]
) -> None:
    seen = Predictions(labels)
    seen.add(np.array(classes), np.ones(len(classes)))
    assert seen.counts()[0] == expected


def test_one_prediction_that_is_no_number_does_not_spoil_the_sum() -> None:
    seen = Predictions()
    seen.add(np.array([0, 0]), np.array([np.nan, 0.5], np.float32))
    assert seen.counts()[1].total == 0.5
