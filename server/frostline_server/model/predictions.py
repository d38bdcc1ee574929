"""The predictions of a version: rows by predicted class, and how probable the predicted classes were.

Prometheus keeps a time series for every label it ever saw, so the number of labels is bounded, whatever a model predicts.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from frostline_server.model.stats import Histogram

Array = np.ndarray[Any, Any]

CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
OTHER = "other"
"""The label under which all classes without a count of their own are counted; in parentheses if a class is called so."""
UNDECIDED = "undecided"
"""The label of rows whose probabilities are no numbers, so that no class is answered; in parentheses as above."""
EARNED_AT = 10
"""How often a class of many is predicted before it is counted by itself: the most frequent classes get there first."""

_BOUNDS = np.array(CONFIDENCE)
_INDICES = (np.int64, np.int32)
# Counting one array costs as much as counting many, and what waits is memory.
_PENDING_BATCHES = 64
_PENDING_ROWS = 4096
_CANDIDATES = 4096


class Predictions:
    """Counts what a classifier predicts, under a bounded number of labels.

    Of two classes with a threshold, what is counted is the class that is answered, and its probability. A row whose
    probability is NaN is counted under `UNDECIDED`.

    Each class is counted by itself where there are at most `max_series` of them. Where there may be more, a class is
    counted under `OTHER` until it was predicted `EARNED_AT` times, and by itself from then on, as long as fewer than
    `max_series` are. A class that has a count of its own keeps it. So no count ever falls, as Prometheus requires, and
    together they are the number of rows.

    Args:
        labels: names of the classes, or None; a class without a name is counted by index.
        classes: how many classes there are, where the graph says so.
        max_series: the most classes that are counted by themselves.
        decision: of two classes, which one is answered from which probability on; None where the most probable is.
    """

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        classes: int | None = None,
        max_series: int = 100,
        decision: tuple[int, float] | None = None,
    ) -> None:
        self._labels = labels or ()
        self._other, self._undecided = self._unlike(OTHER), self._unlike(UNDECIDED)
        self._decision = decision
        self._max_series = max_series
        # Where nobody knows how many there are, the first index beyond the bound tells.
        self._many = max(classes or 0, len(self._labels)) > max_series
        self._lock = threading.Lock()
        self._pending: list[tuple[Array, Array]] = []
        self._pending_rows = 0
        self._own: dict[int, int] = {}
        self._rest = 0
        self._without = 0
        self._candidates: dict[int, int] = {}
        self._confidence_counts = np.zeros(len(CONFIDENCE) + 1, np.int64)
        self._confidence_total = 0.0

    def add(self, classes: Array, confidence: Array) -> None:
        """Count a batch's predicted classes [rows], integers, and their probabilities [rows], floats.

        A graph may answer with another rank than it declares; a batch of anything else is left out.
        """
        with self._lock:
            self._pending.append((classes, confidence))
            self._pending_rows += classes.size
            if len(self._pending) >= _PENDING_BATCHES or self._pending_rows >= _PENDING_ROWS:
                self._count()

    def counts(self) -> tuple[dict[str, int], Histogram]:
        """Rows by answered label, and the histogram of the answered class's probability."""
        with self._lock:
            self._count()
            by_label: Counter[str] = Counter()
            for index, rows in self._own.items():
                # Two classes may share a name.
                by_label[self._label(index)] += rows
            if self._rest:
                by_label[self._other] = self._rest
            if self._without:
                by_label[self._undecided] = self._without
            confidence = Histogram(CONFIDENCE)
            confidence.counts = self._confidence_counts.tolist()
            confidence.total = self._confidence_total
        return by_label, confidence

    def _unlike(self, word: str) -> str:
        while word in self._labels:
            word = f"({word})"
        return word

    def _label(self, index: int) -> str:
        return self._labels[index] if 0 <= index < len(self._labels) else str(index)

    def _count(self) -> None:
        # Emptied before anything can fail: what could not be counted would pile up, and fail every batch after it.
        pending, self._pending, self._pending_rows = self._pending, [], 0
        classes, confidence = _joined(pending)
        if self._decision is not None:
            classes, confidence = _decided(classes, confidence, *self._decision)
        self._count_confidence(confidence)
        undecided = np.isnan(confidence)
        if undecided.any():
            self._without += int(np.count_nonzero(undecided))
            classes = classes[~undecided]
        if not classes.size:
            return
        self._many = self._many or classes.min() < 0 or classes.max() >= self._max_series
        if self._many:
            indices, rows = np.unique(classes, return_counts=True)
            self._count_many(dict(zip(indices.tolist(), rows.tolist(), strict=True)))
        else:
            for index, count in enumerate(np.bincount(classes).tolist()):
                if count:
                    self._own[index] = self._own.get(index, 0) + count

    def _count_many(self, rows: dict[int, int]) -> None:
        own = self._own
        # Those seen most first, because there may be less room than there are classes that have earned it.
        for index, count in sorted(rows.items(), key=itemgetter(1), reverse=True):
            if index in own:
                own[index] += count
            elif len(own) < self._max_series and self._earned(index, count):
                own[index] = count
            else:
                self._rest += count
        if len(own) >= self._max_series:
            self._candidates = {}

    def _earned(self, index: int, rows: int) -> bool:
        """Whether a class has been predicted often enough with these rows."""
        seen = self._candidates.pop(index, 0) + rows
        if seen >= EARNED_AT:
            return True
        self._candidates[index] = seen
        if len(self._candidates) > _CANDIDATES:
            # Whoever was seen once is forgotten; who is seen often gets there all the same.
            self._candidates = {index: seen // 2 for index, seen in self._candidates.items() if seen > 1}
        return False

    def _count_confidence(self, confidence: Array) -> None:
        # Rounding may lift a probability a little above 1; it still belongs in the last bucket.
        values = np.minimum(np.maximum(confidence, 0.0, dtype=np.float64), 1.0)
        bins = np.searchsorted(_BOUNDS, values)
        self._confidence_counts += np.bincount(bins, minlength=len(self._confidence_counts))
        self._confidence_total += float(values[~np.isnan(values)].sum())


def _decided(classes: Array, confidence: Array, positive: int, threshold: float) -> tuple[Array, Array]:
    """Of two classes, those that are answered and their probabilities, by those that are more probable and theirs."""
    other = 1 - confidence
    probability = np.where(classes == positive, confidence, other)
    answered = np.where(probability >= threshold, positive, 1 - positive)
    return answered, np.where(answered == classes, confidence, other)


def _joined(pending: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """All classes and all probabilities, of the batches that have one of each for each row."""
    try:
        joined = _concatenated(pending)
        fits = _one_for_each_row(*joined)
    except (TypeError, ValueError):
        fits = False
    # Looked at one by one only if something is odd, because this is done for every batch.
    return joined if fits else _concatenated([pair for pair in pending if _one_for_each_row(*pair)])


def _concatenated(pending: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    if not pending:
        return np.zeros(0, np.int64), np.zeros(0)
    classes = np.concatenate([classes for classes, _ in pending])
    return classes, np.concatenate([confidence for _, confidence in pending])


def _one_for_each_row(classes: Array, confidence: Array) -> bool:
    return (
        classes.ndim == 1
        and classes.shape == confidence.shape
        and classes.dtype in _INDICES
        and confidence.dtype.kind == "f"
    )
