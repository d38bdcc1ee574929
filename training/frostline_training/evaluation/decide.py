"""The decision threshold: from which probability on a class or label is the answer.

It is chosen on the validation rows by the recipe's rule; the test rows only tell what it does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline_training.config import LeastCost, LeastPrecision, LeastRecall, Recipe, Threshold
from frostline_training.data import Dataset
from frostline_training.errors import DataError
from frostline_training.evaluation.evaluate import Evaluation, rarer, score
from frostline_training.evaluation.ranking import Numbers, one_vs_rest
from frostline_training.sources import Task

CLASS_WEIGHTS = "class-weights"


@dataclass(frozen=True)
class Outcome:
    """What a threshold does to some rows: how many it takes rightly and wrongly, and how many it misses."""

    hits: int
    false: int
    missed: int

    @property
    def precision(self) -> float:
        """The share of the rows taken that are right; 0 where none is taken."""
        return self.hits / max(1, self.hits + self.false)

    @property
    def recall(self) -> float:
        """The share of the rows that have the label that are taken; 0 where none has it."""
        return self.hits / max(1, self.hits + self.missed)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.false + self.missed)

    def card(self) -> dict[str, float]:
        """Return it as JSON values."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "true_positives": self.hits,
            "false_positives": self.false,
            "false_negatives": self.missed,
        }


@dataclass(frozen=True)
class Cut:
    """One threshold, and what it does.

    Attributes:
        label: What is answered where its probability is at least `threshold`.
        index: Its place among the labels.
        threshold: A probability, from 0 to 1.
        reached: Whether the validation rows reach what the rule asks for; else it is the threshold that comes nearest,
            or a half where no validation row has the label.
        validation: What it does to the rows that it was chosen on.
        test: What it does to the test rows.
    """

    label: str
    index: int
    threshold: float
    reached: bool
    validation: Outcome
    test: Outcome


@dataclass(frozen=True)
class Decision:
    """The thresholds of a network: one for the positive class of two, or one for each label.

    Attributes:
        rule: How they were chosen: the recipe's rule, or ``class-weights``.
        cuts: In the labels' order.
        each: Whether every label has a threshold of its own.
    """

    rule: Threshold | str
    cuts: tuple[Cut, ...]
    each: bool

    @property
    def weakest(self) -> Cut:
        """The threshold with the least F1 on the test rows, of those whose label some test row has."""
        there = [cut for cut in self.cuts if cut.test.hits + cut.test.missed]
        return min(there or self.cuts, key=lambda cut: cut.test.f1)

    def card(self) -> dict[str, object]:
        """Return it as JSON values, one for two classes, or lists in the labels' order."""
        told = [
            {
                "threshold": cut.threshold,
                "label": cut.label,
                "reached": cut.reached,
                "validation": cut.validation.card(),
                "test": cut.test.card(),
            }
            for cut in self.cuts
        ]
        rule = self.rule if isinstance(self.rule, str) else self.rule.model_dump(mode="json")
        if not self.each:
            return {"threshold": told[0].pop("threshold"), "rule": rule, **told[0]}
        lists = {name: [one[name] for one in told] for name in told[0]}
        return {"threshold": lists.pop("threshold"), "rule": rule, **lists}


def positive(recipe: Recipe, dataset: Dataset) -> int | None:
    """Return which class of two the threshold and average precision are about; None for other data.

    It is the recipe's, or else the rarer one of the training rows (the second where they are as many); of a binary task
    it is yes, the second.

    Raises:
        DataError: The recipe's threshold or positive class does not suit the data.
    """
    labels, two = dataset.labels, dataset.task in ("single-label", "binary") and len(dataset.labels) == 2
    many = f"{len(labels)} classes" if dataset.task == "single-label" else f"the task {dataset.task}"
    if recipe.threshold is not None and not two and dataset.task != "multi-label":
        raise DataError(
            f"threshold is for two classes or several labels, and {dataset.name} has {many}: leave threshold out"
        )
    if recipe.positive is not None and not two:
        raise DataError(f"positive is for two classes, and {dataset.name} has {many}: leave positive out")
    if recipe.positive is not None and recipe.positive not in labels:
        raise DataError(f"positive is {recipe.positive!r}, and {dataset.name} has the classes: {', '.join(labels)}")
    if not two:
        return None
    if dataset.task == "binary":
        return 1
    return rarer(dataset.rows.targets) if recipe.positive is None else labels.index(recipe.positive)


def is_asked_for(
    rule: Threshold | None, weights: NDArray[np.floating] | None, task: Task, positive: int | None
) -> bool:
    """Return whether anything asks for a threshold, of the `positive` class of two or of each label; see `decide`."""
    return (rule is not None or weights is not None) and (task == "multi-label" or positive is not None)


def decide(
    rule: Threshold | None,
    validation: Evaluation,
    test: Evaluation,
    labels: tuple[str, ...],
    weights: NDArray[np.floating] | None = None,
) -> Decision | None:
    """Choose a threshold by `rule` on the validation rows, for the positive class or each label.

    Args:
        rule: How to choose it. Without one a network that learnt with `weights` keeps the answers they ask for.
        validation: The network's answers to the validation rows.
        test: Its answers to the test rows.
        labels: The names of the classes or labels.
        weights: [C] what each class counted, or the ones of each label, where that was not always 1.

    Returns:
        None where nothing but the highest probability, or one above a half, is asked for.
    """
    if not is_asked_for(rule, weights, validation.task, validation.positive):
        return None
    each = validation.task == "multi-label"
    places = range(len(labels)) if validation.positive is None else (validation.positive,)
    cuts = []
    for place in places:
        columns = [
            (part.probabilities[:, place], one_vs_rest(part.targets, len(labels))[:, place])
            for part in (validation, test)
        ]
        if rule is not None:
            threshold, reached = choose(rule, *columns[0])
        else:
            assert weights is not None  # noqa: S101 for the type checker: seen above
            threshold, reached = _even(weights, place, each=each), True
        known, unseen = (outcome(threshold, *column) for column in columns)
        cuts.append(Cut(labels[place], place, threshold, reached, known, unseen))
    return Decision(CLASS_WEIGHTS if rule is None else rule, tuple(cuts), each)


def weighted(test: Evaluation, weights: NDArray[np.floating]) -> dict[str, float] | None:
    """Return what the answers that class weights ask for score: the class of the highest probability times weight.

    None for fewer than three classes: of those the threshold of a `Decision` gives these answers. Of more no threshold
    does, nor of pixels, and the most probable class is the answer.

    Args:
        test: The network's answers to the test rows, with the weights taken out.
        weights: [C] what each class counted.
    """
    names = {"single-label": ("accuracy", "macro_f1"), "dense": ("mean_iou", "pixel_accuracy")}.get(test.task)
    if names is None or test.positive is not None:
        return None
    odds = np.log(weights).reshape(-1, *(1,) * (test.logits.ndim - 2))
    asked = score((test.logits + odds).astype(np.float32), test.targets, test.task)
    return {name: asked.scores[name] for name in names}


def outcome(threshold: float, shares: Numbers, wanted: NDArray[np.bool_]) -> Outcome:
    """Count what is taken of rows with the probabilities `shares` [N], of which `wanted` [N] should be."""
    taken = shares >= threshold
    hits, false, missed = (int(rows.sum()) for rows in (taken & wanted, taken & ~wanted, ~taken & wanted))
    return Outcome(hits, false, missed)


def choose(rule: Threshold, shares: Numbers, wanted: NDArray[np.bool_]) -> tuple[float, bool]:
    """Return the threshold of the probabilities `shares` [N] that `rule` asks for, and whether it is reached.

    Thresholds lie in the middle between two probabilities, so the last digit of one decides nothing. Of equally good
    ones it is the lowest: the one that takes most rows. Rows of which none is wanted can choose nothing: it is a half.
    """
    if not wanted.any():
        return 0.5, False
    order = np.sort(shares)
    edges = np.concatenate([[0.0], np.unique(shares), [1.0]])
    candidates = (edges[1:] + edges[:-1]) / 2
    taken = len(order) - np.searchsorted(order, candidates, side="left")
    hits = wanted.sum() - np.searchsorted(np.sort(shares[wanted]), candidates, side="left")
    false, there = taken - hits, int(wanted.sum())
    precision, recall = hits / np.maximum(taken, 1), hits / there
    reached = True
    match rule:
        case "max-f1":
            best = int(np.argmax(2 * hits / np.maximum(taken + there, 1)))
        case LeastPrecision(precision=least):
            enough = (precision >= least) & (taken > 0)
            reached = bool(enough.any())
            best = int(np.argmax(np.where(enough, recall, -1))) if reached else int(np.argmax(precision))
        case LeastRecall(recall=least):
            enough = recall >= least
            reached = bool(enough.any())
            best = int(np.argmax(np.where(enough, precision, -1))) if reached else 0
        case LeastCost(cost=(of_false, of_missed)):
            best = int(np.argmin(of_false * false + of_missed * (there - hits)))
    return float(candidates[best]), reached


def _even(weights: NDArray[np.floating], place: int, *, each: bool) -> float:
    # A row is taken where its probability times the weight is at least that of what else it may be.
    own = float(weights[place])
    other = 1.0 if each else float(weights[1 - place])
    return other / (own + other)
