"""The threshold, chosen by hand on a few rows."""

import numpy as np
import pytest

from frostline_training.config import LeastCost, LeastPrecision, LeastRecall, Mlp, Recipe, Threshold
from frostline_training.data import Dataset, Rows
from frostline_training.errors import DataError
from frostline_training.evaluation.decide import Cut, Decision, Outcome, choose, decide, outcome, positive, weighted
from frostline_training.evaluation.evaluate import Evaluation, score

# From the surest row down: yes, no, yes, yes, no, no.
SHARES = np.array([0.9, 0.8, 0.6, 0.4, 0.2, 0.1])
WANTED = np.array([1, 0, 1, 1, 0, 0]) == 1


@pytest.mark.parametrize(
    ("rule", "threshold", "reached"),
    [
        ("max-f1", 0.3, True),  # all three of four: 6/7
        (LeastPrecision(precision=0.75), 0.3, True),
        (LeastPrecision(precision=0.8), 0.85, True),  # only the first row is so sure
        (LeastRecall(recall=0.3), 0.85, True),
        (LeastRecall(recall=0.6), 0.3, True),  # three of three among four is more precise than two among three
        (LeastCost(cost=(1, 1)), 0.3, True),  # one false, none missed
        (LeastCost(cost=(5, 1)), 0.85, True),  # none false, two missed
        (LeastCost(cost=(9, 1)), 0.85, True),
    ],
)
def test_the_rule_chooses_the_threshold(rule: Threshold, threshold: float, reached: bool) -> None:
    found = choose(rule, SHARES, WANTED)
    assert found[0] == pytest.approx(threshold)
    assert found[1] is reached


def test_a_precision_that_no_threshold_has_is_said_and_the_nearest_is_taken() -> None:
    shares, wanted = np.array([0.9, 0.8, 0.1]), np.array([False, True, False])
    threshold, reached = choose(LeastPrecision(precision=0.9), shares, wanted)
    assert threshold == pytest.approx(0.45)
    assert not reached


@pytest.mark.parametrize("rule", ["max-f1", LeastPrecision(precision=0.5), LeastRecall(recall=0.5)])
def test_rows_without_the_label_choose_nothing(rule: Threshold) -> None:
    threshold, reached = choose(rule, np.array([0.3, 0.1]), np.array([False, False]))
    assert (threshold, reached) == (0.5, False)


def test_where_a_false_positive_is_dearest_nobody_is_taken() -> None:
    threshold, _ = choose(LeastCost(cost=(100, 1)), np.array([0.7, 0.5]), np.array([False, True]))
    assert threshold == pytest.approx(0.85)
    assert outcome(threshold, np.array([0.7, 0.5]), np.array([False, True])) == Outcome(hits=0, false=0, missed=1)


def test_an_outcome_is_counted_by_hand() -> None:
    found = outcome(0.5, SHARES, WANTED)
    assert found == Outcome(hits=2, false=1, missed=1)
    assert (found.precision, found.recall, found.f1) == (2 / 3, 2 / 3, 2 / 3)


def _binary(shares: np.ndarray, wanted: np.ndarray) -> Evaluation:
    logits = np.log(np.stack([1 - shares, shares], axis=1)).astype(np.float32)
    return score(logits, wanted.astype(np.int64), "single-label", positive=1)


def test_it_is_chosen_on_the_validation_rows_and_reported_on_the_test_rows() -> None:
    test = _binary(np.array([0.5, 0.35, 0.25]), np.array([True, False, False]))
    decision = decide("max-f1", _binary(SHARES, WANTED), test, ("no", "yes"))
    assert decision is not None
    card = decision.card()
    assert (card["threshold"], card["rule"], card["label"]) == (pytest.approx(0.3), "max-f1", "yes")
    assert card["validation"] == {
        "precision": 0.75,
        "recall": 1.0,
        "f1": pytest.approx(6 / 7),
        "true_positives": 3,
        "false_positives": 1,
        "false_negatives": 0,
    }
    assert card["test"] == pytest.approx(
        {
            "precision": 0.5,
            "recall": 1.0,
            "f1": 2 / 3,
            "true_positives": 1,
            "false_positives": 1,
            "false_negatives": 0,
        }
    )


def _labels(decision: Decision | None) -> dict[str, object]:
    assert decision is not None
    return decision.card()


def test_every_label_has_a_threshold_of_its_own() -> None:
    shares = np.stack([SHARES, SHARES[::-1]], axis=1)
    logits = np.log(shares / (1 - shares)).astype(np.float32)
    evaluation = score(logits, np.stack([WANTED, WANTED[::-1]], axis=1).astype(np.int64), "multi-label")
    card = _labels(decide(LeastCost(cost=(5, 1)), evaluation, evaluation, ("a", "b")))
    assert card["threshold"] == pytest.approx([0.85, 0.85])
    assert card["label"] == ["a", "b"]
    assert card["rule"] == {"cost": [5, 1]}
    assert isinstance(card["test"], list)
    assert [one["true_positives"] for one in card["test"]] == [1, 1]


def test_without_a_rule_the_highest_probability_decides() -> None:
    evaluation = _binary(SHARES, WANTED)
    assert decide(None, evaluation, evaluation, ("no", "yes")) is None


def test_class_weights_without_a_rule_keep_the_answers_that_they_ask_for() -> None:
    # Of ten rows one is positive: weights 5/9 and 5, and even odds for both at a probability of 1/10.
    evaluation = _binary(SHARES, WANTED)
    card = _labels(decide(None, evaluation, evaluation, ("no", "yes"), np.array([5 / 9, 5.0])))
    assert (card["threshold"], card["rule"]) == (pytest.approx(0.1), "class-weights")
    logits = np.zeros((2, 1), np.float32)
    several = score(logits, np.array([[1], [0]]), "multi-label")
    assert _labels(decide(None, several, several, ("a",), np.array([3.0])))["threshold"] == [0.25]


def test_more_classes_have_no_threshold() -> None:
    evaluation = score(np.eye(3, dtype=np.float32), np.arange(3), "single-label")
    assert decide(None, evaluation, evaluation, ("a", "b", "c"), np.ones(3)) is None


def _data(*labels: str, task: str = "single-label") -> Dataset:
    targets = np.array([0, 0, 0, 1])
    return Dataset("d", Rows(np.zeros((4, 1), np.float32), targets), labels, "", "", task=task)  # type: ignore[arg-type]


def _recipe(threshold: Threshold | None = None, looked_for: str | None = None) -> Recipe:
    return Recipe(name="r", data="iris", network=Mlp(), threshold=threshold, positive=looked_for)


def test_the_rarer_class_is_looked_for_unless_the_recipe_says_which() -> None:
    assert positive(_recipe(), _data("no", "yes")) == 1
    assert positive(_recipe(looked_for="no"), _data("no", "yes")) == 0
    assert positive(_recipe(), _data("a", "b", "c")) is None


@pytest.mark.parametrize(
    ("recipe", "dataset", "sentence"),
    [
        (_recipe("max-f1"), _data("a", "b", "c"), "d has 3 classes: leave threshold out"),
        (_recipe("max-f1"), _data("a", task="regression"), "d has the task regression: leave threshold out"),
        (_recipe(None, "a"), _data("a", "b", "c"), "d has 3 classes: leave positive out"),
        (_recipe(None, "maybe"), _data("no", "yes"), "positive is 'maybe', and d has the classes: no, yes"),
    ],
)
def test_what_does_not_suit_the_data_is_refused(recipe: Recipe, dataset: Dataset, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        positive(recipe, dataset)


def test_the_weakest_threshold_is_that_of_a_label_which_some_test_row_has() -> None:
    cuts = [
        Cut("label", place, 0.5, reached=True, validation=Outcome(1, 0, 0), test=test)
        for place, test in enumerate((Outcome(3, 0, 0), Outcome(2, 1, 1), Outcome(0, 1, 0)))
    ]
    assert Decision("max-f1", tuple(cuts), each=True).weakest is cuts[1]
    assert Decision("max-f1", tuple(cuts[2:]), each=True).weakest is cuts[2]


def test_of_more_than_two_classes_the_answers_that_weights_ask_for_are_scored_beside() -> None:
    # The third class is rare, and never the most probable; three times its probability is above the others.
    shares = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.4, 0.35, 0.25], [0.35, 0.4, 0.25]])
    test = score(np.log(shares).astype(np.float32), np.array([0, 1, 2, 2]), "single-label")
    assert test.accuracy == 0.5
    assert weighted(test, np.array([1, 1, 3.0])) == {"accuracy": 1, "macro_f1": 1}


def test_of_two_classes_and_of_labels_the_threshold_gives_the_answers_that_weights_ask_for() -> None:
    logits = np.array([[0.0, 1], [1, 0]], np.float32)
    assert weighted(score(logits, np.array([1, 0]), "single-label"), np.array([1, 9.0])) is None
    assert weighted(score(logits, np.array([[0, 1], [1, 0]]), "multi-label"), np.array([1, 9.0])) is None
