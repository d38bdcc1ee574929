"""Ranking scores: how far a network puts the rows that have a class or label before those that have not.

They depend on no threshold, so they stay telling where one row in twenty has the label.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline_training.sources import Task

Numbers = NDArray[np.float64]


class Ranking(NamedTuple):
    """One number per class or label, each [C]; NaN where all rows have it or none has.

    Attributes:
        roc_auc: The share of pairs, one row with the label and one without, in which the one with it comes first.
        average_precision: The precision averaged over the recall: as high as the label's share for a random order.
    """

    roc_auc: Numbers
    average_precision: Numbers


class Curve(NamedTuple):
    """Precision and recall at every threshold, each [T], from all rows (recall 1) to none (recall 0, precision 1)."""

    precision: Numbers
    recall: Numbers


def log_odds(logits: NDArray[np.floating], task: Task) -> Numbers:
    """Return the logarithm of the odds of each class against all others, or of each label, [N, C].

    It orders the rows as the probability does, and still tells them apart where that is rounded to 0 or 1.
    """
    wide = logits.astype(np.float64)
    if task != "single-label" or wide.shape[1] == 1:
        return wide
    rows, best = np.arange(len(wide)), wide.argmax(axis=1)
    highest = wide[rows, best][:, np.newaxis]
    powers = np.exp(wide - highest)
    # What stands beside the best class may be too small to be told from 0 beside it: its odds are summed without it.
    powers[rows, best] = 0
    others = wide.copy()
    others[rows, best] = -np.inf
    odds = np.asarray(wide - highest - np.log1p(powers.sum(axis=1, keepdims=True) - powers))
    odds[rows, best] = highest[:, 0] - np.logaddexp.reduce(others, axis=1)
    return odds


def one_vs_rest(targets: NDArray[np.generic], classes: int) -> NDArray[np.bool_]:
    """Return which rows have which class or label, [N, C], for classes [N] or labels 0 and 1 [N, C]."""
    return np.asarray(targets[:, np.newaxis] == np.arange(classes) if targets.ndim == 1 else targets == 1)


def rank(odds: Numbers, wanted: NDArray[np.bool_]) -> Ranking:
    """Return the ranking scores of `odds` [N, C], of which those in `wanted` [N, C] should be high."""
    # scikit-learn takes about a second to import; only evaluation needs it.
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415

    classes = odds.shape[1]
    auc, precision = np.full(classes, np.nan), np.full(classes, np.nan)
    some = wanted.any(axis=0) & ~wanted.all(axis=0)
    for index in np.flatnonzero(some & np.isfinite(odds).all(axis=0)):
        auc[index] = roc_auc_score(wanted[:, index], odds[:, index])
        precision[index] = average_precision_score(wanted[:, index], odds[:, index])
    return Ranking(auc, precision)


def rank_resamples(name: str, odds: Numbers, wanted: NDArray[np.bool_], counts: NDArray[np.int64]) -> Numbers:
    """Return one ranking score of each of many resamples, [D]; NaN where a resample has only rows of one kind.

    scikit-learn's functions would take a second for every few hundred resamples.

    Args:
        name: ``roc_auc`` or ``average_precision``.
        odds: One class's or label's, [N].
        wanted: Which rows have it, [N].
        counts: How often each row is in each resample, [D, N].
    """
    order = np.argsort(-odds, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(odds[order]) != 0, True))  # equal odds are one threshold
    taken = counts[:, order]
    all_above = np.cumsum(taken, axis=1)[:, ends].astype(np.float64)
    right_above = np.cumsum(taken * wanted[order], axis=1)[:, ends].astype(np.float64)
    right, wrong = right_above[:, -1], all_above[:, -1] - right_above[:, -1]
    gained = np.diff(right_above, axis=1, prepend=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "roc_auc":
            wrong_above = all_above - right_above
            # A pair of equals counts half.
            before = wrong[:, np.newaxis] - wrong_above
            tied = np.diff(wrong_above, axis=1, prepend=0)
            scores = (gained * (before + tied / 2)).sum(axis=1) / (right * wrong)
        else:
            precision = np.where(all_above > 0, right_above / all_above, 0.0)
            scores = (gained * precision).sum(axis=1) / right
    return np.where((right > 0) & (wrong > 0), scores, np.nan)


def curve(odds: Numbers, wanted: NDArray[np.bool_]) -> Curve:
    """Return the precision-recall curve of `odds` [N], of which those in `wanted` [N], at least one, should be high."""
    from sklearn.metrics import precision_recall_curve  # noqa: PLC0415 as above

    precision, recall, _ = precision_recall_curve(wanted, odds)
    return Curve(precision, recall)
