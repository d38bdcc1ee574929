"""Test scores, against hand-made numbers and scikit-learn's."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from frostline_training.data import Rows
from frostline_training.data.heads import Head
from frostline_training.errors import TrainingError
from frostline_training.evaluation.evaluate import answers, evaluate, reliability, score, wilson
from frostline_training.evaluation.ranking import log_odds, rank_resamples
from frostline_training.sources import Task


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


def test_a_class_that_no_row_has_and_none_is_answered_with_is_left_out_of_macro_f1() -> None:
    logits = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    evaluation = score(logits, np.array([0, 0, 1, 1]), "single-label")
    assert (evaluation.accuracy, evaluation.scores["macro_f1"]) == (1, 1)
    assert evaluation.per_class is not None
    assert evaluation.per_class.f1.tolist() == [1, 1, 0, 0]
    labels = score(np.array([[2, -2, -2], [-2, -2, -2]], np.float32), np.array([[1, 1, 0], [0, 0, 0]]), "multi-label")
    assert labels.scores["macro_f1"] == 0.5  # of the first two: the third has no row
    nothing = score(np.full((2, 3), -2, np.float32), np.zeros((2, 3)), "multi-label")
    assert nothing.scores["macro_f1"] == 0


def test_a_class_that_is_only_answered_counts_as_wrong_in_macro_f1_as_scikit_learn_has_it(
    guesses: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, targets = guesses
    assert set(logits.argmax(1)) == {0, 1, 2, 3}
    assert set(targets) == {0, 1, 2}
    macro = score(logits, targets, "single-label").scores["macro_f1"]
    assert macro == pytest.approx(metrics.f1_score(targets, logits.argmax(1), average="macro"))
    without = logits - np.array([0, 0, 0, 1e3], np.float32)  # now nobody is answered with it either
    macro = score(without, targets, "single-label").scores["macro_f1"]
    assert macro == pytest.approx(metrics.f1_score(targets, without.argmax(1), average="macro"))
    wanted = np.eye(4)[targets]
    macro = score(without, wanted, "multi-label").scores["macro_f1"]
    assert macro == pytest.approx(metrics.f1_score(wanted, without > 0, average="macro", zero_division=np.nan))


def test_the_weakest_class_is_one_that_some_row_has() -> None:
    logits = np.eye(4, dtype=np.float32)[[0, 0, 1, 0]]
    evaluation = score(logits, np.array([0, 0, 1, 1]), "single-label")
    assert evaluation.per_class is not None
    assert evaluation.per_class.weakest == 1


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


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_answers_that_are_no_numbers_have_no_score(task: Task, broken: float) -> None:
    answered = np.zeros((4, 2), np.float32)
    answered[2, 1] = broken
    targets = np.array([0, 1, 0, 1]) if task == "single-label" else np.ones((4, 2))
    with pytest.raises(TrainingError, match=r"1 of 4 rows are answered with infinity or NaN, the first is row 2"):
        score(answered, targets, task)


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
    nobody = per_class["d"]
    assert {name: nobody[name] for name in ("precision", "recall", "f1", "support")} == dict.fromkeys(
        ("precision", "recall", "f1", "support"), 0
    )
    assert (nobody["roc_auc"], nobody["average_precision"]) == (None, None)
    assert nobody["ece"] == pytest.approx(nobody["mean_probability"])


def test_the_ranking_of_two_classes_is_that_of_the_rarer_one_counted_by_hand() -> None:
    # Odds of class 1 in falling order: yes, no, yes, no. Of the 4 pairs 3 are in order; precision is 1, then 2 of 3.
    logits = np.array([[0, 4], [0, 3], [0, 2], [0, 1], [5, 0]], np.float32)
    evaluation = score(logits, np.array([1, 0, 1, 0, 0]), "single-label")
    assert evaluation.positive == 1
    assert evaluation.scores["roc_auc"] == pytest.approx(5 / 6)
    assert evaluation.scores["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    card = evaluation.card(("no", "yes"))
    assert (card["test_roc_auc"], card["positive"]) == (pytest.approx(5 / 6), "yes")


def test_the_positive_class_may_be_the_frequent_one() -> None:
    logits = np.array([[0, 4], [0, 3], [0, 2], [0, 1], [5, 0]], np.float32)
    evaluation = score(logits, np.array([1, 0, 1, 0, 0]), "single-label", positive=0)
    assert evaluation.scores["roc_auc"] == pytest.approx(5 / 6)  # the same pairs
    assert evaluation.scores["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_the_ranking_scores_of_each_class_are_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = guesses
    evaluation = score(logits, targets, "single-label")
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert evaluation.ranking is not None
    for place in range(3):
        assert evaluation.ranking.roc_auc[place] == pytest.approx(
            metrics.roc_auc_score(targets == place, shares[:, place])
        )
        assert evaluation.ranking.average_precision[place] == pytest.approx(
            metrics.average_precision_score(targets == place, shares[:, place])
        )
    assert np.isnan(evaluation.ranking.roc_auc[3])  # nobody has it
    assert evaluation.scores["roc_auc"] == pytest.approx(evaluation.ranking.roc_auc[:3].mean())


def test_each_label_is_ranked_and_one_that_all_rows_have_is_not() -> None:
    logits = np.array([[1, 5], [-1, 5], [3, 5]], np.float32)
    evaluation = score(logits, np.array([[0, 1], [0, 1], [1, 1]]), "multi-label")
    assert evaluation.ranking is not None
    np.testing.assert_array_equal(evaluation.ranking.roc_auc, [1, np.nan])
    assert evaluation.scores["average_precision"] == 1


def test_without_both_kinds_of_rows_there_is_no_ranking_score() -> None:
    assert "roc_auc" not in score(np.eye(2, dtype=np.float32), np.array([0, 0]), "single-label").scores


def test_certain_answers_are_still_ranked() -> None:
    # Both probabilities are 1 in float64; the odds tell them apart.
    evaluation = score(np.array([[-90, 0], [-80, 0]], np.float32), np.array([1, 0]), "single-label")
    assert evaluation.scores["roc_auc"] == 1


def test_the_log_odds_are_those_of_one_class_against_all_others() -> None:
    odds = log_odds(np.log(np.array([[0.5, 0.3, 0.2]])), "single-label")
    np.testing.assert_allclose(np.exp(odds), [[1, 3 / 7, 1 / 4]])
    far = log_odds(np.array([[1000.0, 0, 0]]), "single-label")
    np.testing.assert_allclose(far, [[1000 - np.log(2), -1000, -1000]])


def test_the_calibration_of_a_rare_class_is_its_own() -> None:
    # All rows get 10 % for class 1, and 3 of 10 have it: off by 0.2, though the answers' confidence is too.
    logits = np.tile(np.log(np.array([[0.9, 0.1]], np.float32)), (10, 1))
    evaluation = score(logits, np.array([1] * 3 + [0] * 7), "single-label")
    assert [bins.ece for bins in evaluation.class_reliability] == pytest.approx([0.2, 0.2])
    assert evaluation.classwise_ece == pytest.approx(0.2)
    per_class = evaluation.card(("no", "yes"))["per_class"]
    assert isinstance(per_class, dict)
    assert per_class["yes"]["ece"] == pytest.approx(0.2)
    assert per_class["yes"]["mean_probability"] == pytest.approx(0.1)


def test_errors_of_a_regression_are_in_its_unit_and_relative_to_its_spread() -> None:
    # Errors 1, 1, 0, 2; targets 1, 2, 3, 6 with mean 3, squared deviations 4, 1, 0, 9, absolute ones 2, 1, 0, 3.
    evaluation = score(np.array([[2.0], [1], [3], [8]], np.float32), np.array([[1.0], [2], [3], [6]]), "regression")
    assert evaluation.scores == pytest.approx(
        {"r2": 1 - 6 / 14, "mae": 1.0, "rmse": 1.5**0.5, "rmse_over_std": (6 / 14) ** 0.5, "mae_over_mad": 4 / 6}
    )


def test_each_value_of_a_regression_has_its_own_scores() -> None:
    targets = np.array([[0.0, 100.0], [2.0, 300.0]])
    evaluation = score((targets + np.array([1, 10])).astype(np.float32), targets, "regression")
    card = evaluation.card(("rooms", "rent"))["per_value"]
    assert isinstance(card, dict)
    assert card["rooms"]["mae"] == 1
    assert card["rent"]["rmse_over_std"] == pytest.approx(0.1)


@pytest.mark.parametrize("targets", [[[7.0], [7.0]], [[0.1], [0.1], [0.1]], [[3.0]]])
def test_where_no_target_varies_there_is_no_r2_and_no_spread_to_be_measured_in(targets: list[list[float]]) -> None:
    wanted = np.array(targets)
    found = score((wanted + 1).astype(np.float32), wanted, "regression")
    assert found.scores == pytest.approx({"mae": 1, "rmse": 1})
    assert found.headline[0] == "mae"
    assert found.card(("size",))["per_value"] == {"size": pytest.approx({"mae": 1, "rmse": 1})}


def test_r2_is_the_mean_over_the_values_that_vary() -> None:
    wanted = np.array([[1.0, 5.0], [3.0, 5.0]])
    found = score(np.array([[1.0, 4.0], [2.0, 5.0]], np.float32), wanted, "regression")
    assert found.scores["r2"] == 0.5
    assert found.scores["mae"] == 0.5


def test_the_mean_score_leaves_out_a_target_that_never_varies() -> None:
    heads = (Head("kind", ("a", "b")), Head("size"))
    answers = np.array([[2, 0, 1.5]], np.float32)
    found = score(answers, np.array([[0, 1]], np.float32), "any", heads=heads)
    assert found.headline == ("mean_score", 1.0)
    assert "size.r2" not in found.scores
    numbers = score(answers[:, 1:], np.array([[0, 1]], np.float32), "any", heads=(Head("width"), Head("size")))
    assert "mean_score" not in numbers.scores
    assert numbers.headline == ("width.mae", 0)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_ranking_scores_of_resamples_are_scikit_learns_with_ties_too(name: str) -> None:
    random = np.random.default_rng(2)
    odds, wanted = np.round(random.normal(size=60), 1), random.random(60) < 0.3
    counts = np.stack([np.bincount(random.integers(60, size=60), minlength=60) for _ in range(20)])
    theirs = getattr(metrics, f"{name}_score")
    found = rank_resamples(name, odds, wanted, counts)
    np.testing.assert_allclose(found, [theirs(wanted, odds, sample_weight=each) for each in counts])
    assert np.isnan(rank_resamples(name, odds, wanted, counts * wanted)).all()


def test_the_overlap_of_pixels_is_counted_by_hand() -> None:
    # Two pictures of 1 x 4 pixels: true 0 0 1 1 and 0 0 0 2, answered 0 1 1 1 and 0 0 2 2; nobody has or answers 3.
    targets, answered = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 2]]]), np.array([[[0, 1, 1, 1]], [[0, 0, 2, 2]]])
    logits = np.moveaxis(np.eye(4, dtype=np.float32)[answered] * 2, -1, 1)
    evaluation = score(logits, targets, "dense")
    assert evaluation.overlaps is not None
    assert evaluation.overlaps.iou().tolist() == pytest.approx([3 / 5, 2 / 3, 1 / 2, np.nan], nan_ok=True)
    assert evaluation.headline[0] == "mean_iou"
    assert evaluation.headline[1] == pytest.approx((3 / 5 + 2 / 3 + 1 / 2) / 3)
    assert evaluation.scores["pixel_accuracy"] == 6 / 8
    right, wrong = -np.log(np.exp(2) / (np.exp(2) + 3)), -np.log(1 / (np.exp(2) + 3))
    assert evaluation.scores["loss"] == pytest.approx((6 * right + 2 * wrong) / 8)
    assert evaluation.confusion is not None
    assert evaluation.confusion.tolist() == [[3, 1, 1, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    card = json.loads(json.dumps(evaluation.card(("a", "b", "c", "d"))))
    assert (card["test_mean_iou"], card["per_class"]["c"]["iou"]) == (evaluation.scores["mean_iou"], 0.5)
    assert card["per_class"]["d"]["iou"] is None
    assert card["per_class"]["a"]["support"] == 5


def test_the_confidence_of_pixels_is_that_of_rows() -> None:
    random = np.random.default_rng(3)
    logits, targets = random.normal(size=(5, 3, 4, 6)).astype(np.float32) * 3, random.integers(0, 3, (5, 4, 6))
    pixels = score(logits, targets, "dense")
    rows = score(np.moveaxis(logits, 1, -1).reshape(-1, 3), targets.ravel(), "single-label", ranked=False)
    assert pixels.scores["pixel_accuracy"] == rows.scores["accuracy"]
    assert pixels.scores["loss"] == pytest.approx(rows.scores["loss"])
    assert (pixels.ece, pixels.classwise_ece) == pytest.approx((rows.ece, rows.classwise_ece))
    assert pixels.per_class is not None
    assert rows.per_class is not None
    np.testing.assert_array_equal(pixels.per_class.f1, rows.per_class.f1)


def test_pictures_are_answered_few_at_a_time_and_alike() -> None:
    network = nn.Conv2d(1, 2, 1)
    inputs = np.random.default_rng(0).normal(size=(5, 1, 1500, 1500)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(answers(network, inputs)[4], network(torch.from_numpy(inputs[4:]))[0], rtol=1e-6)


@pytest.mark.parametrize(("classes", "told"), [(200, True), (201, False)])
def test_a_card_has_no_confusion_of_very_many_classes(classes: int, told: bool) -> None:
    found = score(np.eye(classes, dtype=np.float32), np.arange(classes), "single-label")
    card = found.card(tuple(map(str, range(classes))))
    assert found.confusion is not None
    assert card.get("confusion") == (found.confusion.tolist() if told else None)
    assert len(card["per_class"]) == classes  # type: ignore[arg-type]


def test_several_targets_are_scored_each_alone_and_judged_by_the_mean() -> None:
    heads = (Head("kind", ("a", "b")), Head("size"))
    answers = np.array([[2, 0, 1.5], [0, 2, 2], [3, 1, 2.5], [2, 1, 4.5]], np.float32)
    targets = np.array([[0, 1], [1, 2], [0, 3], [1, 4]], np.float32)
    found = score(answers, targets, "any", heads=heads)
    # The squares of the errors are a quarter, and those of the distances from the mean of 2.5 are 5.
    r2 = 1 - 0.75 / 5
    assert found.scores["kind.accuracy"] == 0.75
    assert found.scores["size.r2"] == pytest.approx(r2)
    assert found.scores["size.mae"] == pytest.approx(1.5 / 4)
    assert found.headline[0] == "mean_score"
    assert found.headline[1] == pytest.approx((0.75 + r2) / 2)
    card = found.card(())
    assert card["test_kind.accuracy"] == 0.75
    assert card["targets"]["kind"]["confusion"] == [[2, 0], [1, 1]]  # type: ignore[index]
    assert card["targets"]["size"]["per_value"]["size"]["r2"] == pytest.approx(r2)  # type: ignore[index]
    alone = score(answers[:, :2], targets[:, 0], "single-label")
    assert {f"kind.{name}": value for name, value in alone.scores.items()}.items() <= found.scores.items()
