"""The progress of a training: its epochs, the best of them, and whether early stopping ends it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Self

from torch import Tensor

from frostline_training.config import Hyperparameters

Measure = Literal["accuracy", "labels_right", "r2", "pixel_accuracy", "recall_at_1", "mean_score"]
MEASURE_NAMES: Mapping[Measure, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "labels_right": "labels right",
        "r2": "R²",
        "pixel_accuracy": "pixels right",
        "recall_at_1": "recall@1",
        "mean_score": "mean score",
    }
)
"""What people call them."""


@dataclass(frozen=True)
class Scores:
    """How a network does on some rows.

    Attributes:
        loss: Mean loss, in what `losses.Objective.judge` counts.
        score: What `measure` names; 1 is perfect, and NaN that there is none, such as R2 of one row.
        measure: ``accuracy``, the fraction of rows that it gets right; ``labels_right``, that of single labels with a
            multi-label task; ``pixel_accuracy``, that of pixels; ``recall_at_1``, that of rows whose nearest
            neighbour has their class; ``r2``, the share of the variance that it explains (may be negative), with regression;
            or ``mean_score``, the mean of the accuracies and R2 of several targets.
    """

    loss: float
    score: float
    measure: Measure = "accuracy"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows, counted from 1.

    `learning_rate` is that of its last step; `train` is measured while the weights still move, and with dropout.
    """

    number: int
    learning_rate: float
    train: Scores
    validation: Scores
    improved: bool


@dataclass(frozen=True)
class Progress:
    """The epochs so far.

    Attributes:
        history: All of them, in order.
        best_weights: The network's state after the last one that improved on all before.
        seconds: How long they took.
    """

    history: tuple[Epoch, ...] = ()
    best_weights: Mapping[str, Tensor] | None = None
    seconds: float = 0.0

    @property
    def best(self) -> Epoch | None:
        """The epoch that `best_weights` are from."""
        return next((epoch for epoch in reversed(self.history) if epoch.improved), None)

    def over(self, hyper: Hyperparameters) -> bool:
        """Whether all epochs are done, or validation has not improved for the patience."""
        behind = 0 if self.best is None else len(self.history) - self.best.number
        return len(self.history) >= hyper.epochs or behind >= hyper.patience

    def improves(self, validation: Scores) -> bool:
        """Whether `validation` is better than that of every epoch so far."""
        return self.best is None or validation.loss < self.best.validation.loss

    def then(self, epoch: Epoch, weights: Mapping[str, Tensor], seconds: float) -> Self:
        """Return the progress after `epoch`, which ended `seconds` after the training began with `weights`."""
        best = {name: value.clone() for name, value in weights.items()} if epoch.improved else self.best_weights
        return replace(self, history=(*self.history, epoch), best_weights=best, seconds=seconds)

    def packed(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "best_weights": self.best_weights,
            "seconds": self.seconds,
        }

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Self:
        """Return what `packed` was made from."""
        history = tuple(
            Epoch(**{**epoch, "train": Scores(**epoch["train"]), "validation": Scores(**epoch["validation"])})
            for epoch in packed["history"]
        )
        return cls(history, packed["best_weights"], packed["seconds"])
