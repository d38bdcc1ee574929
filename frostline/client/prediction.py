"""The prediction: what a model answered for some rows."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

# For each of a row's best classes: its index, its label ("" when the model has none), its probability.
Ranking = tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction:
    """The answer to one request: readings of the network's last layer.

    Arrays are read-only views of the received message.  A reading that the request did not ask for raises
    `AttributeError` when it is read, so `hasattr` tells whether it is there.

    Attributes:
        model: The model's name.
        version: The version that answered, in decimal.
    """

    model: str
    version: str
    _logits: NDArray[np.floating] | None = None
    _softmax: NDArray[np.floating] | None = None
    _argmax: NDArray[np.int64] | None = None
    _labels: tuple[str, ...] = ()
    _rankings: tuple[Ranking, ...] = ()
    _top_k: int = 0

    @property
    def logits(self) -> NDArray[np.floating]:
        """The network's own output, [rows, classes]: raw scores, or probabilities where its file ends at a softmax.

        In the network's own precision.
        """
        return _asked_for(self._logits, "logits", "outputs=['logits']")

    @property
    def softmax(self) -> NDArray[np.floating]:
        """The probabilities, [rows, classes], in the network's own precision; each row sums to 1."""
        return _asked_for(self._softmax, "softmax", "outputs=['softmax']")

    @property
    def argmax(self) -> NDArray[np.int64]:
        """The index of each row's most probable class, [rows]; the lowest one on a tie."""
        return _asked_for(self._argmax, "argmax", "outputs=['argmax']")

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each row's most probable class; empty when the model has no labels."""
        _asked_for(self._argmax, "labels", "outputs=['argmax']")
        return self._labels

    def top(self, k: int = 1) -> list[tuple[tuple[str | int, float], ...]]:
        """The k most probable classes of each row, the best first and the lower index first on a tie.

        The server's ranking is used when the request asked for one of at least `k` classes (`top_k=`): only it
        carries the label of every class.  Otherwise the ranking is made here from `softmax`, with indices.

        Args:
            k: How many classes; all of them when the model has fewer.

        Returns:
            For each row a tuple of (label, probability) pairs; (index, probability) without labels.

        Raises:
            ValueError: `k` is less than 1.
            AttributeError: The request asked neither for a ranking that long nor for `softmax`.
        """
        if k < 1:
            raise ValueError(f"top() needs a k of at least 1, not {k}")
        if k <= self._top_k:
            return [tuple((label or index, p) for index, label, p in ranking[:k]) for ranking in self._rankings]
        softmax = _asked_for(self._softmax, f"ranking of {k} classes", f"top_k={k}")
        best = np.argsort(-softmax, axis=1, kind="stable")[:, :k]
        probabilities = np.take_along_axis(softmax, best, axis=1)
        return [
            tuple(zip(row.tolist(), row_probabilities.tolist(), strict=True))
            for row, row_probabilities in zip(best, probabilities, strict=True)
        ]

    def __len__(self) -> int:
        readings = (self._argmax, self._softmax, self._logits, self._rankings)
        return next((len(reading) for reading in readings if reading is not None and len(reading)), 0)

    def __repr__(self) -> str:
        return f"<Prediction of {len(self)} rows by {self.model} version {self.version}>"


def _asked_for(reading: T | None, name: str, fix: str) -> T:
    if reading is None:
        raise AttributeError(f"this prediction holds no {name}: ask for it with predict(..., {fix})")
    return reading
