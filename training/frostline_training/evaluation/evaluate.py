"""The evaluation of a network on the test set, with confidence intervals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training.data import Inputs, Rows, named
from frostline_training.sources import Task

Logits = NDArray[np.float32]
Numbers = NDArray[np.float64]

BINS = 15
_BATCH_ROWS = 256  # bounds memory; the result does not depend on it
_NORMAL_95 = 1.959963984540054  # the standard normal's 97.5 % quantile: 95 % lie within plus and minus this


class PerClass(NamedTuple):
    """One number per class, each [C]: `support` is how many rows have it. A ratio without a case is 0."""

    precision: Numbers
    recall: Numbers
    f1: Numbers
    support: NDArray[np.int64]


class Reliability(NamedTuple):
    """Equal-width bins of confidence, each [BINS]: rows in it, their mean confidence, the share that is right."""

    rows: NDArray[np.int64]
    confidence: Numbers
    right: Numbers

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap between confidence and share right, weighted by rows."""
        return float(np.abs(self.confidence - self.right) @ self.rows / self.rows.sum())


@dataclass(frozen=True)
class Evaluation:
    """What a network scores on some rows.

    Attributes:
        task: What kind of answer it gives.
        logits: Its answers [N, C]; for a regression the values themselves [N, K].
        targets: What was right: classes [N], or 0 and 1 [N, C], or values [N, K].
        scores: The first is the one to judge by. Accuracy, macro F1 and cross-entropy; or micro F1, macro F1,
            share of rows with every label right, and cross-entropy; or R2, mean absolute and root mean square error.
        interval: Wilson's 95 % interval of the accuracy, or of the share of rows with every label right.
        per_class: Precision, recall and F1 of each class; None for a regression.
        confusion: Rows [true class, predicted class]; only where a row has one class.
        reliability: Confidence against share right; None for a regression.
    """

    task: Task
    logits: Logits
    targets: NDArray[np.generic]
    scores: Mapping[str, float]
    interval: tuple[float, float] | None = None
    per_class: PerClass | None = None
    confusion: NDArray[np.int64] | None = None
    reliability: Reliability | None = None

    @property
    def headline(self) -> tuple[str, float]:
        """The name and value of the score to judge by: higher is better, 1 is perfect."""
        return next(iter(self.scores.items()))

    @property
    def accuracy(self) -> float | None:
        """The share of rows with the right class; None for other tasks."""
        return self.scores.get("accuracy")

    @property
    def ece(self) -> float | None:
        """The expected calibration error; None for a regression."""
        return None if self.reliability is None else self.reliability.ece

    def card(self, labels: tuple[str, ...]) -> dict[str, object]:
        """Return all of it as JSON values, for the card: scores first, then each class under its label."""
        card: dict[str, object] = {f"test_{name}": value for name, value in self.scores.items()}
        card["test_rows"] = len(self.targets)
        if self.interval is not None:
            card["interval_95"] = list(self.interval)
        if self.reliability is not None:
            card["ece"] = self.reliability.ece
        if self.per_class is not None:
            names = self.per_class._fields
            card["per_class"] = {
                label: dict(zip(names, (numbers[index].item() for numbers in self.per_class), strict=True))
                for index, label in enumerate(labels)
            }
        if self.confusion is not None:
            card["confusion"] = self.confusion.tolist()
        return card


def evaluate(network: nn.Module, rows: Rows, task: Task) -> Evaluation:
    """Run `network` on `rows` (inputs and targets), in evaluation mode on the device it is on, and score it."""
    return score(answers(network, rows.inputs), rows.targets, task)


def device_of(network: nn.Module) -> torch.device:
    """Return the device that `network`'s parameters and buffers are on; the CPU where it has none."""
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))


def answers(network: nn.Module, inputs: Inputs) -> Logits:
    """Return `network`'s answers [N, C] to `inputs`, in evaluation mode on the device it is on."""
    device = device_of(network)
    columns = [torch.from_numpy(column) for column in named(inputs).values()]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            parts = [
                network(*(part.to(device) for part in batch)).cpu()
                for batch in zip(*(torch.split(column, _BATCH_ROWS) for column in columns), strict=True)
            ]
    finally:
        network.train(training)
    return np.asarray(torch.cat(parts).float().numpy())


def score(logits: Logits, targets: NDArray[np.generic], task: Task) -> Evaluation:
    """Score answers [N, C] against what was right, whoever gave them: PyTorch or ONNX Runtime."""
    match task:
        case "single-label":
            return _single_label(logits, targets.astype(np.int64))
        case "multi-label":
            return _multi_label(logits, targets.astype(np.int64))
        case "regression":
            return _regression(logits, targets)


def predictions(logits: Logits, task: Task) -> NDArray[np.generic]:
    """Return what the answers mean: classes [N], labels 0 or 1 [N, C], or the values themselves."""
    if task == "regression":
        return logits
    return logits.argmax(axis=1) if task == "single-label" else (logits > 0).astype(np.int64)


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share: sensible for few rows and near 0 and 1, where p +- 2 s is not."""
    share, z2 = right / rows, _NORMAL_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _NORMAL_95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(confidence: Numbers, right: NDArray[np.bool_]) -> Reliability:
    """Sort answers into `BINS` equal bins of their confidence (from 0 to 1)."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=numbers, minlength=BINS) for numbers in (confidence, right.astype(np.float64)))
    mean_confidence, mean_right = (total / np.maximum(rows, 1) for total in sums)
    return Reliability(rows, mean_confidence, mean_right)


def softmax(logits: Logits) -> Numbers:
    """Return each row's probabilities [N, C] in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _single_label(logits: Logits, targets: NDArray[np.int64]) -> Evaluation:
    classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    right = predicted == targets
    probabilities = softmax(logits)
    confusion = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)
    per_class = _per_class(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))
    seen = np.maximum(probabilities[np.arange(len(targets)), targets], np.finfo(np.float64).tiny)
    return Evaluation(
        "single-label",
        logits,
        targets,
        scores={
            "accuracy": float(right.mean()),
            "macro_f1": float(per_class.f1.mean()),
            "loss": float(-np.log(seen).mean()),
        },
        interval=wilson(int(right.sum()), len(right)),
        per_class=per_class,
        confusion=confusion,
        reliability=reliability(probabilities.max(axis=1), right),
    )


def _multi_label(logits: Logits, targets: NDArray[np.int64]) -> Evaluation:
    predicted = predictions(logits, "multi-label") == 1
    wanted = targets == 1
    hits, guessed, there = ((cells).sum(axis=0) for cells in (predicted & wanted, predicted, wanted))
    per_class = _per_class(hits, guessed, there)
    whole = (predicted == wanted).all(axis=1)
    wide = logits.astype(np.float64)
    # log(1 + exp(x)) - y x, written so that no exponential overflows.
    loss = np.logaddexp(0, wide) - wide * targets
    probabilities = np.exp(-np.logaddexp(0, -wide))
    return Evaluation(
        "multi-label",
        logits,
        targets,
        scores={
            "micro_f1": float(2 * hits.sum() / max(1, guessed.sum() + there.sum())),
            "macro_f1": float(per_class.f1.mean()),
            "exact_match": float(whole.mean()),
            "loss": float(loss.mean()),
        },
        interval=wilson(int(whole.sum()), len(whole)),
        per_class=per_class,
        # Every label of every row is one yes-or-no answer, and the confidence is that of "yes".
        reliability=reliability(probabilities.ravel(), wanted.ravel()),
    )


def _regression(values: Logits, targets: NDArray[np.generic]) -> Evaluation:
    wanted = targets.astype(np.float64).reshape(values.shape)
    errors = values.astype(np.float64) - wanted
    spread = ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=0)
    # Values that never vary leave nothing to explain; all of them then count as explained or none.
    unexplained = (errors**2).sum(axis=0) / np.where(spread > 0, spread, 1.0)
    return Evaluation(
        "regression",
        values,
        wanted,
        scores={
            "r2": float(1 - unexplained.mean()),
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
        },
    )


def _per_class(hits: NDArray[np.int64], guessed: NDArray[np.int64], there: NDArray[np.int64]) -> PerClass:
    return PerClass(
        precision=hits / np.maximum(guessed, 1),
        recall=hits / np.maximum(there, 1),
        f1=2 * hits / np.maximum(guessed + there, 1),
        support=there,
    )
