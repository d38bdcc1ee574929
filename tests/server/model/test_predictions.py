"""What a version predicts: every row is counted once, under a bounded number of labels, whatever the model answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from frostline_server.model.predictions import CONFIDENCE, EARNED_AT, OTHER, Predictions


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


@pytest.mark.parametrize(("labels", "word"), [(("ant", "bee"), "undecided"), (("ant", "undecided"), "(undecided)")])
def test_a_row_whose_probability_is_no_number_has_no_class(labels: tuple[str, str], word: str) -> None:
    seen = Predictions(labels)
    predict(seen, [0, 0, 1], [np.nan, 0.75, np.nan])
    by_label, confidence = seen.counts()
    assert by_label == {"ant": 1, word: 2}
    assert confidence.count == 3


@pytest.mark.parametrize(
    ("positive", "counted", "total"), [(1, {"no": 2, "yes": 3}, 3.5), (0, {"no": 4, "yes": 1}, 3.8)]
)
def test_of_two_classes_with_a_threshold_the_one_that_is_answered_is_counted(
    positive: int, counted: dict[str, int], total: float
) -> None:
    seen = Predictions(["no", "yes"], decision=(positive, 0.25))
    # The probabilities of yes are 0.1, 0.2, 0.25, 0.6 and 0.95.
    predict(seen, [0, 0, 0, 1, 1, 0], [0.9, 0.8, 0.75, 0.6, 0.95, np.nan])
    by_label, confidence = seen.counts()
    assert by_label == counted | {"undecided": 1}
    assert confidence.total == pytest.approx(total)


# Answers no classifier should give


@pytest.mark.parametrize(
    ("classes", "confidence"),
    [
        (np.zeros((2, 3), np.int64), np.ones((2, 3), np.float32)),
        (np.array(1), np.array(0.5, np.float32)),
        (np.zeros(3, np.int64), np.ones(2, np.float32)),
        (np.zeros(2, np.int64), np.ones((2, 1), np.float32)),
        (np.array([0.0, np.nan]), np.ones(2, np.float32)),
        (np.array([b"ant", "bee"], object), np.ones(2, np.float32)),
        (np.zeros(2, np.uint64), np.ones(2, np.float32)),
        (np.zeros(2, np.int64), np.array(["high", "low"], object)),
        (np.zeros(0, np.int64), np.ones(0, np.float32)),
    ],
    ids=["rank 2", "rank 0", "fewer", "another rank", "floats", "objects", "unsigned", "words", "nothing"],
)
def test_what_is_not_a_class_and_a_probability_for_each_row_is_left_out_and_spoils_nothing(
    classes: Any, confidence: Any
) -> None:
    seen = Predictions(["ant", "bee"])
    for _ in range(200):
        seen.add(classes, confidence)
        assert len(seen._pending) < 64
    predict(seen, [1])
    seen.add(classes, confidence)
    predict(seen, [1])
    by_label, histogram = seen.counts()
    assert (by_label, histogram.count) == ({"bee": 2}, 2)


@pytest.mark.parametrize("index", [-1, -(2**63), 2**40, 2**63 - 1])
def test_an_index_that_no_class_has_is_counted_and_costs_no_memory(index: int) -> None:
    seen = Predictions(["ant", "bee"])
    predict(seen, [0])
    seen.counts()
    predict(seen, [0, index])
    assert seen.counts()[0] == {"ant": 2, OTHER: 1}
    predict(seen, [index] * EARNED_AT)
    assert seen.counts()[0] == {"ant": 2, str(index): EARNED_AT, OTHER: 1}


def test_probabilities_that_are_none_are_in_the_outer_buckets_and_never_lower_the_sum() -> None:
    seen = Predictions()
    predict(seen, [0] * 5, [np.nan, np.inf, -np.inf, -5.0, 0.5])
    _, confidence = seen.counts()
    assert (confidence.count, confidence.total) == (5, 1.5)
    assert dict(confidence.buckets()) == {
        "0.1": 2, "0.2": 2, "0.3": 2, "0.4": 2, "0.5": 3, "0.6": 3, "0.7": 3, "0.8": 3, "0.9": 3, "0.95": 3,
        "0.99": 3, "1": 4, "+Inf": 5,
    }  # fmt: skip


@pytest.mark.parametrize("rows", [1, 100, 5000])
def test_what_waits_to_be_counted_is_bounded_in_batches_and_in_rows(rows: int) -> None:
    seen = Predictions()
    for _ in range(200):
        predict(seen, [0] * rows)
        assert len(seen._pending) < 64
        assert sum(len(classes) for classes, _ in seen._pending) < 4096
    assert seen.counts()[0] == {"0": 200 * rows}


# Many classes


def test_as_many_classes_as_the_bound_are_each_counted_from_the_first_row() -> None:
    seen = Predictions(classes=100, max_series=100)
    predict(seen, range(100))
    assert seen.counts()[0] == {str(index): 1 for index in range(100)}


def test_of_many_classes_those_seen_most_get_a_series_and_the_rest_share_one() -> None:
    seen = Predictions(classes=50_000, max_series=3)
    rare = list(range(1000, 1400))
    predict(seen, [7] * 500 + [49_999] * 300 + [3] * 200 + [11] * 50 + rare)
    assert seen.counts()[0] == {"7": 500, "49999": 300, "3": 200, OTHER: 450}
    predict(seen, [11] * 1000 + [3])
    assert seen.counts()[0] == {"7": 500, "49999": 300, "3": 201, OTHER: 1450}


def test_a_class_that_gets_its_series_late_leaves_its_earlier_rows_where_they_were_counted() -> None:
    seen = Predictions(["a", "b", "c"], max_series=2)
    for _ in range(EARNED_AT - 1):
        predict(seen, [2])
    assert seen.counts()[0] == {OTHER: EARNED_AT - 1}
    predict(seen, [2])
    predict(seen, [2])
    assert seen.counts()[0] == {OTHER: EARNED_AT - 1, "c": 2}


@pytest.mark.parametrize("classes", [None, 50_000])
def test_no_count_ever_falls_none_is_lost_and_the_labels_stay_within_the_bound(classes: int | None) -> None:
    seen = Predictions(classes=classes, max_series=20)
    random = np.random.default_rng(1)
    before: dict[str, int] = {}
    rows = 0
    for _ in range(60):
        for _ in range(int(random.integers(1, 90))):
            drawn = np.minimum(random.zipf(1.3, int(random.integers(1, 40))) - 1, 49_999)
            seen.add(drawn, np.full(len(drawn), 0.5))
            rows += len(drawn)
        now, confidence = seen.counts()
        assert before.keys() <= now.keys()
        assert all(now[label] >= count for label, count in before.items())
        assert (sum(now.values()), confidence.count) == (rows, rows)
        before = now
    assert len(before) == 20 + 1
    # The commonest of all are among them.
    assert {"0", "1", "2", "3"} < before.keys()


def test_the_memory_of_a_vocabulary_in_which_no_word_stands_out_is_bounded() -> None:
    seen = Predictions(classes=2**31)
    for start in range(0, 100_000, 5000):
        predict(seen, range(start, start + 5000))
    assert seen.counts()[0] == {OTHER: 100_000}
    assert len(seen._candidates) <= 4096


def test_a_class_that_is_seen_often_gets_its_series_however_many_others_pass_by() -> None:
    seen = Predictions(classes=2**31)
    for start in range(1, 100_000, 5000):
        predict(seen, [0] * EARNED_AT + list(range(start, start + 5000)))
    assert seen.counts()[0] == {"0": 20 * EARNED_AT, OTHER: 100_000}


def test_without_any_series_every_class_is_counted_with_the_rest() -> None:
    seen = Predictions(["ant", "bee"], max_series=0)
    predict(seen, [0, 1, 1] * EARNED_AT)
    assert seen.counts()[0] == {OTHER: 3 * EARNED_AT}


@pytest.mark.parametrize(
    ("labels", "rest"),
    [(["other", "a", "b"], "(other)"), (["other", "(other)", "b"], "((other))"), (["a", "b", "c"], "other")],
)
def test_a_class_that_is_called_other_keeps_its_name_and_the_rest_has_another(labels: list[str], rest: str) -> None:
    seen = Predictions(labels, max_series=1)
    predict(seen, [0] * EARNED_AT + [1])
    assert seen.counts()[0] == {labels[0]: EARNED_AT, rest: 1}
