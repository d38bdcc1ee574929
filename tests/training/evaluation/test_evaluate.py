"""Test scores, against hand-made numbers and scikit-learn's."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from frostline_training.data import Rows
from frostline_training.evaluation.evaluate import answers, evaluate, reliability, score, wilson


@pytest.fixture
def guesses() -> tuple[np.ndarray, np.ndarray]:
    """Answers to 300 rows of four classes, right about half the time; nobody has class 3."""
    random = np.random.default_rng(1)
    targets = random.integers(0, 3, 300)
    logits = random.normal(size=(300, 4)).astype(np.float32)
    logits[np.arange(300), targets] += 1
    return logits, targets


def test_a_small_confusion_is_counted_by_hand() -> None:
    logits = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    evaluation = score(logits, np.array([0, 0, 1, 1]), "single-label")
    assert evaluation.confusion is not None
    assert evaluation.confusion.tolist() == [[2, 0], [1, 1]]
    assert evaluation.accuracy == 0.75
    assert evaluation.per_class is not None
    assert evaluation.per_class.precision.tolist() == [2 / 3, 1]
    assert evaluation.per_class.recall.tolist() == [1, 0.5]
    assert evaluation.per_class.support.tolist() == [2, 2]


def test_single_label_scores_are_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = guesses
    evaluation = score(logits, targets, "single-label")
    wanted = metrics.precision_recall_fscore_support(targets, logits.argmax(1), labels=[0, 1, 2, 3], zero_division=0)
    assert evaluation.per_class is not None
    for mine, theirs in zip(evaluation.per_class, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)).item()
    assert evaluation.scores["loss"] == pytest.approx(loss, rel=1e-5)


def test_multi_label_scores_are_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    logits, _ = guesses
    targets = (logits + np.random.default_rng(2).normal(size=logits.shape) > 0.3).astype(np.float32)
    evaluation = score(logits, targets, "multi-label")
    name, value = evaluation.headline
    assert name == "micro_f1"
    assert value == pytest.approx(metrics.f1_score(targets, logits > 0, average="micro"))
    assert evaluation.scores["macro_f1"] == pytest.approx(metrics.f1_score(targets, logits > 0, average="macro"))
    assert evaluation.scores["exact_match"] == pytest.approx(metrics.accuracy_score(targets, logits > 0))
    assert evaluation.confusion is None


def test_regression_scores_are_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    values, _ = guesses
    targets = values * 2 + 1
    evaluation = score(values, targets, "regression")
    assert evaluation.scores["r2"] == pytest.approx(metrics.r2_score(targets, values), rel=1e-5)
    assert evaluation.scores["mae"] == pytest.approx(metrics.mean_absolute_error(targets, values), rel=1e-5)
    assert (evaluation.accuracy, evaluation.ece, evaluation.interval) == (None, None, None)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (30, 30, 0.8865, 1.0), (0, 20, 0.0, 0.1611)],  # from Wilson's formula in the textbooks
)
def test_wilsons_interval_is_sensible_for_few_rows_and_at_the_ends(
    right: int, rows: int, low: float, high: float
) -> None:
    assert list(wilson(right, rows)) == pytest.approx([low, high], abs=1e-4)


def test_answers_as_sure_as_they_are_right_have_no_calibration_error() -> None:
    confidence = np.repeat([0.5, 0.75], 400)
    right = np.concatenate([np.arange(400) % 2 == 0, np.arange(400) % 4 != 0])
    assert reliability(confidence, right).ece == pytest.approx(0)


def test_answers_that_are_always_sure_and_half_right_are_half_wrong() -> None:
    bins = reliability(np.ones(10), np.arange(10) < 5)
    assert bins.ece == pytest.approx(0.5)
    assert bins.rows.sum() == bins.rows[-1] == 10


def test_certainty_in_the_wrong_class_is_a_finite_loss() -> None:
    evaluation = score(np.array([[1e6, -1e6]], np.float32), np.array([1]), "single-label")
    assert np.isfinite(evaluation.scores["loss"])


def test_a_network_is_run_in_evaluation_mode_and_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9)).train()
    rows = np.ones((600, 3), np.float32)
    once = evaluate(network, Rows(rows, np.zeros(600, np.int64)), "single-label")
    assert len(np.unique(once.logits, axis=0)) == 1
    assert network.training


def test_a_network_with_two_inputs_gets_them_in_order() -> None:
    class Difference(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first - second

    got = answers(Difference(), {"a": np.full((3, 1), 5, np.float32), "b": np.ones((3, 1), np.float32)})
    assert got.tolist() == [[4], [4], [4]]


def test_the_card_names_each_class_and_is_json(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    card = score(*guesses, "single-label").card(("a", "b", "c", "d"))
    assert json.loads(json.dumps(card)) == card
    assert next(iter(card)) == "test_accuracy"
    per_class = card["per_class"]
    assert isinstance(per_class, dict)
    assert per_class["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
