"""The prediction: what a model answered for some rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from frostline.client.errors import FrostlineError

T = TypeVar("T")

# For each of a row's best classes: its index, its label ("" when the model has none), its probability.
Ranking = tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction:
    """The answer to one request, as the model's task reads it.

    A network that chooses one of several classes has `argmax`, `labels`, `softmax` (also `probabilities`), `logits` and
    `top`; where it chooses at each place, `map` and `names`.  One of several labels, or of yes and no, has
    `probabilities` and `labels`.  A regression has `values`, an embedding `vector`, and whatever else there is `outputs`.

    Arrays are read-only views of the received message.  A reading that the task does not have, or that the request did
    not ask for, raises `AttributeError` when it is read, so `hasattr` tells whether it is there.

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
    _values: Mapping[str, NDArray[Any]] | None = None
    _task: str = ""
    _names: tuple[str, ...] = ()
    _thresholds: tuple[float, ...] = ()

    @property
    def task(self) -> str:
        """What the model was published for, such as ``regression``; where nothing says it, what its outputs are."""
        return self._task

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes or labels, or of the values of a regression; empty where the model has none."""
        # A map comes with them, since nothing else says what its indices stand for.
        if self._task != "dense":
            self._own("names", *_YES_OR_NO, "regression", *_ONE_CLASS)
        return self._names

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """The network's own outputs by their names in its file, [rows, ...] each."""
        return self._asked_for(self._values, "outputs", "outputs=['values']")

    @property
    def values(self) -> NDArray[np.floating]:
        """What a regression predicts, in the target's own unit: [rows, values], or [rows]."""
        return self._own("values", "regression")

    @property
    def vector(self) -> NDArray[np.floating]:
        """The embedding of each row, [rows, size]."""
        return self._own("vector", "embedding")

    @property
    def map(self) -> NDArray[np.int64]:
        """The index of the most probable class at each place of a row, such as each pixel: [rows, ...]."""
        if self._argmax is not None and self._argmax.ndim < 2:
            raise AttributeError(f"{self.model} chooses one class for each row, so there is no map; read .argmax")
        return self._asked_for(self._argmax, "map", "outputs=['argmax']")

    @property
    def probabilities(self) -> NDArray[np.floating]:
        """The probability of each class or label, [rows, classes, ...].

        Those of one class among several sum to 1.  Those of labels do not, as any number of them may hold.
        """
        if self._task in _YES_OR_NO:
            return self._output("probabilities")
        return self._asked_for(self._softmax, "probabilities", "outputs=['softmax']")

    @property
    def logits(self) -> NDArray[np.floating]:
        """The network's own output, [rows, classes]: raw scores, or probabilities where its file ends at a softmax.

        In the network's own precision.
        """
        if self._logits is None and self._task in _YES_OR_NO:
            return self._output("logits")
        return self._asked_for(self._logits, "logits", "outputs=['logits']")

    @property
    def softmax(self) -> NDArray[np.floating]:
        """The probabilities, [rows, classes], in the network's own precision; each row sums to 1."""
        return self._asked_for(self._softmax, "softmax", "outputs=['softmax']")

    @property
    def argmax(self) -> NDArray[np.int64]:
        """The index of each row's most probable class, [rows]; the lowest one on a tie."""
        return self._asked_for(self._argmax, "argmax", "outputs=['argmax']")

    @property
    def labels(self) -> tuple[Any, ...]:
        """The label of each row's most probable class; empty when the model has no labels.

        A model of two classes may have been published with a threshold, which decides instead. Where any number of labels
        may hold, a tuple of those of each row whose probability has reached the model's threshold; of a model of yes and
        no, which of the two.

        None for a row with a probability that is NaN, as far as the answer holds its probabilities: nothing is decided.
        """
        if self._task in _YES_OR_NO:
            return self._decided()
        if self._task == "dense":
            raise AttributeError(self._no("labels"))
        self._asked_for(self._argmax, "labels", "outputs=['argmax']")
        if not self._labels:
            return ()
        # The server leaves the label empty where a threshold could not decide.
        return tuple(
            None if unknown or (self._thresholds and not label) else label
            for label, unknown in zip(self._labels, self._unknown(), strict=True)
        )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """From which probability on each label holds: one for all, or one for each; 0.5 unless the model says another.

        Of two classes, from which on the positive one is the label. Where the most probable class is, there is no threshold.
        """
        if self._task == "single-label":
            if not self._thresholds:
                raise AttributeError(
                    f"{self.model} has no threshold: the label of a row is that of its most probable class"
                )
        else:
            self._own("thresholds", *_YES_OR_NO)
        # The shortest decimals of the floats that were sent.
        return tuple([float(str(np.float32(threshold))) for threshold in self._thresholds]) or (0.5,)

    def _unknown(self) -> NDArray[np.bool_]:
        """Of which rows the answer holds a probability of one of several classes that is NaN."""
        if self._softmax is not None:
            return np.asarray(np.isnan(self._softmax).reshape(len(self._softmax), -1).any(axis=1))
        if self._rankings:
            return np.array([any(math.isnan(p) for _, _, p in ranking) for ranking in self._rankings])
        return np.zeros(len(self._labels), bool)

    def _decided(self) -> tuple[Any, ...]:
        probabilities = self._output("probabilities")
        rows = probabilities.reshape(len(probabilities), -1)
        holds, unknown = rows >= np.asarray(self.thresholds, rows.dtype), np.isnan(rows).any(axis=1)
        if self._task == "binary":
            names: tuple[Any, ...] = self._names or (False, True)
            return tuple(None if nan else names[int(yes)] for yes, nan in zip(holds[:, 0], unknown, strict=True))
        names = self._names or tuple(range(holds.shape[1]))
        return tuple(
            None if nan else tuple(names[place] for place in np.flatnonzero(row))
            for row, nan in zip(holds, unknown, strict=True)
        )

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
            AttributeError: The request asked neither for a ranking that long nor for `softmax`, or the model does not choose
                one of several classes for a row.
        """
        if k < 1:
            raise ValueError(f"top() needs a k of at least 1, not {k}")
        if self._task not in ("", "single-label"):
            raise AttributeError(self._no("top()"))
        if k <= self._top_k:
            return [tuple((label or index, p) for index, label, p in ranking[:k]) for ranking in self._rankings]
        softmax = self._asked_for(self._softmax, f"ranking of {k} classes", f"top_k={k}")
        best = np.argsort(-softmax, axis=1, kind="stable")[:, :k]
        probabilities = np.take_along_axis(softmax, best, axis=1)
        return [
            tuple(zip(row.tolist(), row_probabilities.tolist(), strict=True))
            for row, row_probabilities in zip(best, probabilities, strict=True)
        ]

    def check_rows(self, sent: int) -> None:
        """Checks that each row has its own answer, which a network need not give that lists what it finds.

        Args:
            sent: How many rows were sent.

        Raises:
            FrostlineError: The answer has other rows, of which nobody knows which are whose.
        """
        read = {"logits": self._logits, "softmax": self._softmax, "argmax": self._argmax, **(self._values or {})}
        shapes = {name: array.shape for name, array in read.items() if array is not None}
        if self._top_k:
            shapes["top"] = (len(self._rankings),)
        for name, shape in shapes.items():
            if shape[:1] != (sent,):
                has = f"{shape[0]} row{'s' * (shape[0] != 1)}" if shape else "no rows"
                raise FrostlineError(
                    f"{self.model} gave an answer of {has} in {name} for {sent} sent, so nobody knows which is whose; infer "
                    "gives it whole, and so does .outputs of the Python client for the rows of one request",
                    "UNIMPLEMENTED",
                    "unsupported",
                )

    def __len__(self) -> int:
        own = next(iter(self._values.values()), None) if self._values else None
        readings = (self._argmax, self._softmax, self._logits, self._rankings, own)
        return next((len(reading) for reading in readings if reading is not None and len(reading)), 0)

    def __repr__(self) -> str:
        return f"<Prediction of {len(self)} rows by {self.model} version {self.version}>"

    def _asked_for(self, reading: T | None, name: str, fix: str) -> T:
        if reading is not None:
            return reading
        if self._task and self._task not in _ONE_CLASS and name != "outputs":
            raise AttributeError(self._no(name))
        raise AttributeError(f"this prediction holds no {name}: ask for it with predict(..., {fix})")

    def _own(self, name: str, *tasks: str) -> NDArray[Any]:
        """The network's first own output, if the task is one of those that read it so."""
        if self._task and self._task not in tasks:
            raise AttributeError(self._no(name))
        return next(iter(self._asked_for(self._values, name, "outputs=['values']").values()))

    def _output(self, name: str) -> NDArray[Any]:
        values = self._asked_for(self._values, name, "outputs=['values']")
        if name not in values:
            raise AttributeError(f"{self.model} gives no {name}; it gives {', '.join(values)}")
        return values[name]

    def _no(self, name: str) -> str:
        there = _READ.get(self._task, (".outputs",))
        return f"{self.model} is a model of the task {self._task!r}, which has no .{name}; it has {', '.join(there)}"


_ONE_CLASS = ("single-label", "dense")
_YES_OR_NO = ("multi-label", "binary")
_READ = {
    "multi-label": (".probabilities", ".labels", ".thresholds", ".logits", ".names", ".outputs"),
    "binary": (".probabilities", ".labels", ".thresholds", ".logits", ".names", ".outputs"),
    "regression": (".values", ".names", ".outputs"),
    "embedding": (".vector", ".outputs"),
    "single-label": (
        ".argmax",
        ".labels",
        ".thresholds",
        ".probabilities",
        ".softmax",
        ".logits",
        ".top()",
        ".names",
        ".outputs",
    ),
    "dense": (".map", ".argmax", ".names", ".probabilities", ".softmax", ".logits", ".outputs"),
}
