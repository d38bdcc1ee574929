"""The comparison of two networks on the same held-out rows, with a paired significance test.

Accuracy and the share of rows with every label right are compared by McNemar's test, all other scores by a bootstrap of
the rows, each resample taken of both networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline_training.evaluation.evaluate import LOWER_IS_BETTER, Evaluation, Overlaps, predictions, score
from frostline_training.evaluation.ranking import log_odds, one_vs_rest, rank_resamples
from frostline_training.sources import Task

METRICS: Mapping[Task, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro_f1", "loss", "roc_auc", "average_precision"),
    "binary": ("accuracy", "macro_f1", "loss", "roc_auc", "average_precision"),
    "multi-label": ("micro_f1", "macro_f1", "exact_match", "loss", "roc_auc", "average_precision"),
    "regression": ("r2", "mae", "rmse", "rmse_over_std", "mae_over_mad"),
    "dense": ("mean_iou", "pixel_accuracy", "loss"),
    "embedding": ("recall_at_1", "map_at_r"),
}
"""The scores of each task, as a card calls them behind ``test_``."""

_MCNEMAR = ("accuracy", "exact_match")
_RANKED = ("roc_auc", "average_precision")
_SHARES = (*_MCNEMAR, "macro_f1", "micro_f1", "mean_iou", "pixel_accuracy", "recall_at_1", "map_at_r")
_MOST_RESAMPLES, _LEAST_RESAMPLES = 1000, 200
_RESAMPLED_ROWS = 2_000_000  # bounds the time: about ten seconds for the slowest score
_TOGETHER = 50  # resamples, which bounds the memory
_SIGNIFICANT = 0.05
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """What a new network scores against the live one, on the same rows.

    Attributes:
        metric: The score, as a card calls it.
        margin: By how much the new one must be better.
        live: The live version's score.
        new: The new network's.
        rows: How many rows there are.
        p_value: How likely a difference as large as this is between networks that are equally good, two-sided.
        test: The name of the test.
        detail: What the test was made from, in words: the rows that only one of the two has right, or a 95 % interval.
    """

    metric: str
    margin: float
    live: float
    new: float
    rows: int
    p_value: float
    test: str
    detail: str

    @property
    def gain(self) -> float:
        """By how much the new one is better; negative where it is worse."""
        return self.live - self.new if self.metric in LOWER_IS_BETTER else self.new - self.live

    @property
    def better(self) -> bool:
        """Whether it is better, and by the margin."""
        return self.gain > 0 and self.gain >= self.margin - _ROUNDING

    @property
    def told(self) -> str:
        """Both scores and the test as a part of a sentence."""
        by = "better" if self.gain > 0 else "worse"
        size = "no better" if self.gain == 0 else f"{_apart(self.metric, abs(self.gain))} {by}"
        wanted = f", and {_apart(self.metric, self.margin)} are wanted" if self.margin and not self.better else ""
        chance = "" if self.p_value < _SIGNIFICANT else "; the difference may be chance"
        return (
            f"{self.metric} {_shown(self.metric, self.new)}, the live version {_shown(self.metric, self.live)} on the same "
            f"{self.rows} rows: {size}{wanted} ({self.test}: p = {self.p_value:.2g}, {self.detail}{chance})"
        )

    def card(self) -> dict[str, object]:
        """Return it as JSON values, for the card."""
        return {
            "metric": self.metric,
            "margin": self.margin,
            "live": self.live,
            "new": self.new,
            "rows": self.rows,
            "test": self.test,
            "p_value": self.p_value,
            "detail": self.detail,
            "better": self.better,
        }


def compare(metric: str, live: Evaluation, new: Evaluation, *, margin: float = 0.0) -> Comparison:
    """Compare two evaluations of the same rows.

    Args:
        metric: One of `METRICS` of their task.
        live: The live version's.
        new: The new network's.
        margin: By how much it must be better.

    Raises:
        KeyError: One of them has no such score: every row has a label, or none has, so that nothing can be ranked.
    """
    before, after = live.scores[metric], new.scores[metric]
    test, p_value, detail = _mcnemar(live, new) if metric in _MCNEMAR else _bootstrap(metric, live, new)
    return Comparison(metric, margin, before, after, len(live.targets), p_value, test, detail)


def _shown(metric: str, value: float) -> str:
    return f"{value:.2%}" if metric in _SHARES else f"{value:.4g}"


def _apart(metric: str, value: float) -> str:
    return f"{100 * value:.2f} points" if metric in _SHARES else f"{value:.4g}"


def _right(evaluation: Evaluation) -> NDArray[np.bool_]:
    right = np.asarray(predictions(evaluation.logits, evaluation.task) == evaluation.targets)
    return right if right.ndim == 1 else np.asarray(right.all(axis=1))


def _mcnemar(live: Evaluation, new: Evaluation) -> tuple[str, float, str]:
    from scipy.stats import binom  # noqa: PLC0415 takes a moment to import

    before, after = _right(live), _right(new)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    # Mid-p: the exact test's p-value less half of the probability of what was seen, so that it is not too cautious.
    fewer, rows = min(gained, lost), gained + lost
    p_value = min(1.0, 2 * float(binom.cdf(fewer, rows, 0.5)) - float(binom.pmf(fewer, rows, 0.5))) if rows else 1.0
    return "McNemar's mid-p test", p_value, f"{gained} rows right only now and {lost} only before"


def _bootstrap(metric: str, live: Evaluation, new: Evaluation) -> tuple[str, float, str]:
    rows, random = len(live.targets), np.random.default_rng(0)
    draws = int(np.clip(_RESAMPLED_ROWS // rows, _LEAST_RESAMPLES, _MOST_RESAMPLES))
    if new.overlaps is not None:
        resample = _overlapping
    elif new.neighbours is not None:
        resample = _near
    else:
        resample = _ranked if metric in _RANKED else _scored
    gains = []
    for start in range(0, draws, _TOGETHER):
        chosen = random.integers(rows, size=(min(_TOGETHER, draws - start), rows))
        gains.append(resample(metric, new, chosen) - resample(metric, live, chosen))
    differences = np.concatenate(gains)
    differences = differences[
        np.isfinite(differences)
    ]  # a resample may have rows of one class alone, and then ranks nothing
    low, high = np.quantile(differences, (0.025, 0.975))
    # Each side with one more, as a p-value of 0 cannot be known from so many resamples.
    sides = [(np.count_nonzero(side) + 1) / (len(differences) + 1) for side in (differences <= 0, differences >= 0)]
    return (
        "paired bootstrap",
        float(min(1.0, 2 * min(sides))),
        f"95 % interval of the difference {low:.4g} to {high:.4g}",
    )


def _scored(metric: str, evaluation: Evaluation, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the score of each resample, [D], of the rows in `chosen`, [D, N]."""
    logits, targets, task, positive = evaluation.logits, evaluation.targets, evaluation.task, evaluation.positive
    each = (score(logits[rows], targets[rows], task, positive, ranked=False).scores for rows in chosen)
    return np.array([scores.get(metric, np.nan) for scores in each])


def _overlapping(metric: str, evaluation: Evaluation, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """As `_scored`, where each pixel has a class: its pixels are counted once, and not for each resample."""
    assert evaluation.overlaps is not None  # noqa: S101 seen by the caller
    assert evaluation.losses is not None  # noqa: S101 as above
    if metric == "loss":
        return np.asarray(evaluation.losses[chosen].mean(axis=1))
    each = [Overlaps(*(counts[rows] for counts in evaluation.overlaps)) for rows in chosen]
    return np.array([one.mean_iou() if metric == "mean_iou" else one.pixel_accuracy() for one in each])


def _near(metric: str, evaluation: Evaluation, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """As `_scored`, of an embedding: the rows that are asked about are drawn, and all are there to be near to them."""
    assert evaluation.neighbours is not None  # noqa: S101 seen by the caller
    each = evaluation.neighbours._asdict()[metric]
    return np.asarray(np.nanmean(each[chosen], axis=1))


def _ranked(metric: str, evaluation: Evaluation, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """As `_scored`, of a ranking score: of the positive class of two, or the mean over all that can be ranked."""
    odds = log_odds(evaluation.logits, evaluation.task)
    wanted = one_vs_rest(evaluation.targets, odds.shape[1])
    counts = np.stack([np.bincount(rows, minlength=len(odds)) for rows in chosen])
    classes = range(odds.shape[1]) if evaluation.positive is None else [evaluation.positive]
    some = [index for index in classes if 0 < np.count_nonzero(wanted[:, index]) < len(wanted)]
    each = np.stack([rank_resamples(metric, odds[:, index], wanted[:, index], counts) for index in some])
    # As the score itself, of the classes that a resample has; the same ones for both networks.
    ranks = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(ranks, each, 0).sum(axis=0) / ranks.sum(axis=0))
