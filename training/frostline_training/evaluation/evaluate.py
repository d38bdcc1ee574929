"""The evaluation of a network on the test set, with confidence intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training.data import Inputs, Rows, named
from frostline_training.data.heads import Head, divided
from frostline_training.errors import TrainingError
from frostline_training.evaluation.neighbours import Neighbours, neighbours
from frostline_training.evaluation.ranking import Ranking, log_odds, one_vs_rest, rank
from frostline_training.sources import Task

Logits = NDArray[np.float32]
Numbers = NDArray[np.float64]

LOWER_IS_BETTER = frozenset(("loss", "mae", "rmse", "rmse_over_std", "mae_over_mad"))
"""Of the scores; of all others higher is better."""
BINS = 15
_MOST_CONFUSED = 200  # classes: the square of their number goes into the card, which servers read up to 8 MiB
_BATCH_ROWS = 256
_BATCH_NUMBERS = 2**22  # bounds the memory of large rows; the result does not depend on it
_NORMAL_95 = 1.959963984540054  # the standard normal's 97.5 % quantile: 95 % lie within plus and minus this


class PerClass(NamedTuple):
    """One number per class, each [C]: `support` is how many rows have it. A ratio without a case is 0."""

    precision: Numbers
    recall: Numbers
    f1: Numbers
    support: NDArray[np.int64]

    @property
    def weakest(self) -> int:
        """The class with the least F1 of those that some row has."""
        return int(np.where(self.support > 0, self.f1, np.inf).argmin())


class Overlaps(NamedTuple):
    """Of each row how many pixels have each class, all [N, C]: rightly, as answered, and in truth."""

    hits: NDArray[np.int64]
    answered: NDArray[np.int64]
    there: NDArray[np.int64]

    def iou(self) -> Numbers:
        """Return intersection over union of each class over all rows, [C]; NaN where no row has it either way."""
        hits, answered, there = (counts.sum(axis=-2) for counts in self)
        union = answered + there - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    def pixel_accuracy(self) -> Numbers:
        """Return the share of all pixels that are right."""
        return np.asarray(self.hits.sum(axis=(-2, -1)) / self.there.sum(axis=(-2, -1)))

    def mean_iou(self) -> Numbers:
        """Return the mean of `iou` over the classes that some row has."""
        return np.asarray(np.nanmean(self.iou(), axis=-1))


class Reliability(NamedTuple):
    """Equal-width bins of confidence, each [BINS]: rows in it, their mean confidence, the share that is right."""

    rows: NDArray[np.int64]
    confidence: Numbers
    right: Numbers

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap between confidence and share right, weighted by rows."""
        return float(np.abs(self.confidence - self.right) @ self.rows / self.rows.sum())

    @property
    def mean_confidence(self) -> float:
        """The mean over all rows."""
        return float(self.confidence @ self.rows / self.rows.sum())


@dataclass(frozen=True)
class Evaluation:
    """What a network scores on some rows.

    Attributes:
        task: What kind of answer it gives; one logit of yes (``binary``) is taken for the logits of two classes.
        logits: Its answers [N, C], or [N, C, H, W] where each pixel has a class; for a regression the values [N, K];
            of an embedding the vectors [N, D].
        targets: What was right: classes [N] or [N, H, W], or 0 and 1 [N, C], or values [N, K], or several targets [N, K].
        scores: The first is the one to judge by. Accuracy, macro F1 and cross-entropy; or micro F1, macro F1,
            share of rows with every label right, and cross-entropy; or R2, mean absolute and root mean square error
            in the target's unit, and both relative to the spread of the targets: 1 is as far off as their mean. Without a
            spread, as of one row, only the errors in the unit are there.
            Where each pixel has a class they are the mean intersection over union, the share of pixels that are right,
            and cross-entropy; of an embedding recall at 1 and mean average precision at R. Of several targets they are the
            mean of the first score of each, and then the scores of each behind its name and a dot. Macro F1 is the mean over
            the classes or labels that some row has or is answered with: of the others there is no F1. Classes and labels
            also have the area under the ROC curve, and average precision: those of the positive class of two, or else the
            mean over all that some rows have and others have not.
        interval: Wilson's 95 % interval of the accuracy, of the recall at 1, or of the share of rows with every label right.
        per_class: Precision, recall and F1 of each class; None for a regression.
        per_value: The scores of each value of a regression; the mean over several may mix their units.
        confusion: Rows or pixels [true class, predicted class]; only where each has one class.
        reliability: Confidence against share right; None for a regression.
        class_reliability: The probability of each class or label against the share of rows that have it.
        ranking: ROC AUC and average precision of each class against the others, or of each label.
        positive: Which class of two is looked for.
        overlaps: Where each pixel has a class, the pixels of each row.
        losses: The loss of each row [N], where rows are resampled by it.
        neighbours: Of an embedding, what is near to each row.
        heads: Of several targets, what each scores alone.
    """

    task: Task
    logits: Logits
    targets: NDArray[np.generic]
    scores: Mapping[str, float]
    interval: tuple[float, float] | None = None
    per_class: PerClass | None = None
    per_value: tuple[Mapping[str, float], ...] = ()
    confusion: NDArray[np.int64] | None = None
    reliability: Reliability | None = None
    class_reliability: tuple[Reliability, ...] = ()
    ranking: Ranking | None = None
    positive: int | None = None
    overlaps: Overlaps | None = None
    losses: Numbers | None = None
    neighbours: Neighbours | None = None
    heads: "tuple[tuple[Head, Evaluation], ...]" = ()

    @property
    def probabilities(self) -> Numbers:
        """The probability of each class or label [N, C, ...]; of the tasks that have some."""
        return probabilities(self.logits, self.task)

    @property
    def headline(self) -> tuple[str, float]:
        """The name and value of the score to judge by: higher is better, 1 is perfect.

        Where no target varies there is no R2, and it is the mean absolute error.
        """
        return next(iter(self.scores.items()))

    @property
    def accuracy(self) -> float | None:
        """The share of rows with the right class; None for other tasks."""
        return self.scores.get("accuracy")

    @property
    def ece(self) -> float | None:
        """The expected calibration error of the answers' confidence; None for a regression."""
        return None if self.reliability is None else self.reliability.ece

    @property
    def classwise_ece(self) -> float | None:
        """The expected calibration error of one class's or label's probability, mean over all; None for a regression."""
        return float(np.mean([bins.ece for bins in self.class_reliability])) if self.class_reliability else None

    def card(self, labels: tuple[str, ...]) -> dict[str, object]:
        """Return all of it as JSON values, for the card: scores first, then each class under its label."""
        card: dict[str, object] = {f"test_{name}": value for name, value in self.scores.items()}
        card["test_rows"] = len(self.targets)
        if self.interval is not None:
            card["interval_95"] = list(self.interval)
        if self.reliability is not None:
            card["ece"] = self.reliability.ece
            card["classwise_ece"] = self.classwise_ece
        if self.per_class is not None:
            columns = self.per_class._asdict() | ({} if self.ranking is None else self.ranking._asdict())
            columns["ece"] = np.array([bins.ece for bins in self.class_reliability])
            columns["mean_probability"] = np.array([bins.mean_confidence for bins in self.class_reliability])
            if self.overlaps is not None:
                columns["iou"] = self.overlaps.iou()
            card["per_class"] = {
                label: {name: _number(numbers[index]) for name, numbers in columns.items()}
                for index, label in enumerate(labels)
            }
        if self.per_value:
            card["per_value"] = {label: dict(one) for label, one in zip(labels, self.per_value, strict=True)}
        if self.positive is not None:
            card["positive"] = labels[self.positive]
        if self.confusion is not None and len(self.confusion) <= _MOST_CONFUSED:
            card["confusion"] = self.confusion.tolist()
        if self.heads:
            card["targets"] = {
                head.name: {
                    name: value for name, value in own.card(head.outputs).items() if not name.startswith("test_")
                }
                for head, own in self.heads
            }
        return card


def evaluate(
    network: nn.Module, rows: Rows, task: Task, positive: int | None = None, heads: Sequence[Head] = ()
) -> Evaluation:
    """Run `network` on `rows` (inputs and targets), in evaluation mode on the device it is on, and score it."""
    return score(answers(network, rows.inputs), rows.targets, task, positive, heads=heads)


def device_of(network: nn.Module) -> torch.device:
    """Return the device that `network`'s parameters and buffers are on; the CPU where it has none."""
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))


def rows_at_once(columns: Sequence[torch.Tensor], most: int) -> int:
    """Return how many rows of `columns` [N, ...] go through a network together, so that their numbers are not too many."""
    return max(1, min(most, _BATCH_NUMBERS // sum(math.prod(column.shape[1:]) for column in columns)))


def answers(network: nn.Module, inputs: Inputs) -> Logits:
    """Return `network`'s answers [N, C, ...] to `inputs`, in evaluation mode on the device it is on."""
    device = device_of(network)
    columns = [torch.from_numpy(column) for column in named(inputs).values()]
    size = rows_at_once(columns, _BATCH_ROWS)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            parts = [
                network(*(part.to(device) for part in batch)).cpu()
                for batch in zip(*(torch.split(column, size) for column in columns), strict=True)
            ]
    finally:
        network.train(training)
    return np.asarray(torch.cat(parts).float().numpy())


def score(
    logits: Logits,
    targets: NDArray[np.generic],
    task: Task,
    positive: int | None = None,
    *,
    ranked: bool = True,
    heads: Sequence[Head] = (),
) -> Evaluation:
    """Score answers [N, C, ...] against what was right, whoever gave them: PyTorch or ONNX Runtime.

    Args:
        logits: The answers.
        targets: What was right.
        task: What kind of answer it is.
        positive: Which class of two is looked for; the rarer one unless it is given.
        ranked: Whether to score how the rows are ranked, too, which takes longer than all else.
        heads: With the task ``any``, what each target is.

    Raises:
        TrainingError: An answer is no finite number.
    """
    (broken,) = np.nonzero(~np.isfinite(logits).reshape(len(logits), -1).all(axis=1))
    if broken.size:
        raise TrainingError(
            f"{broken.size} of {len(logits)} rows are answered with infinity or NaN, the first is row {broken[0]} (from 0); "
            "likely cause: a training that diverged, values that overflow, or infinity in the data"
        )
    match task:
        case "single-label" | "binary":
            looked_for = 1 if task == "binary" else positive
            return _single_label(logits, targets.astype(np.int64), looked_for, ranked=ranked)
        case "multi-label":
            return _multi_label(logits, targets.astype(np.int64), ranked=ranked)
        case "regression":
            return _regression(logits, targets)
        case "dense":
            return _dense(logits, targets.astype(np.int64))
        case "embedding":
            return _embedding(logits, targets.astype(np.int64))
        case "any":
            return _several(logits, targets, heads, ranked=ranked)


def predictions(logits: Logits, task: Task) -> NDArray[np.generic]:
    """Return what the answers mean: classes [N, ...], labels 0 or 1 [N, C], or the answers themselves."""
    if task in ("regression", "embedding", "any"):
        return logits
    return logits.argmax(axis=1) if task in ("single-label", "dense") else (logits > 0).astype(np.int64)


def probabilities(logits: Logits, task: Task) -> Numbers:
    """Return the probability of each class or label, [N, C, ...] in float64; of the tasks that have some."""
    if task in ("single-label", "dense"):
        return softmax(logits)
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))


def rarer(targets: NDArray[np.generic]) -> int:
    """Return which of the classes 0 and 1 fewer of the `targets` [N] have; 1 where they have as many."""
    return int(2 * np.count_nonzero(targets == 1) <= len(targets))


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share: sensible for few rows and near 0 and 1, where p +- 2 s is not."""
    share, z2 = right / rows, _NORMAL_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _NORMAL_95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(confidence: Numbers, right: NDArray[np.bool_]) -> Reliability:
    """Sort answers into `BINS` equal bins of their confidence (from 0 to 1)."""
    return _means_of_bins(_sums_of_bins(confidence, right))


def _sums_of_bins(confidence: Numbers, right: NDArray[np.bool_]) -> Numbers:
    # [3, BINS]: rows, and the sums of what they have; of several parts it is the sum of theirs.
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    weights = (None, confidence, right.astype(np.float64))
    return np.stack([np.bincount(bins, weights=numbers, minlength=BINS) for numbers in weights])


def _means_of_bins(sums: Numbers) -> Reliability:
    rows, confidence, right = sums
    count = np.maximum(rows, 1)
    return Reliability(rows.astype(np.int64), confidence / count, right / count)


def reliability_of_each(shares: Numbers, wanted: NDArray[np.bool_]) -> tuple[Reliability, ...]:
    """Sort the probabilities [N, C] of each class or label into bins, beside the rows that have it, [N, C]."""
    return tuple(reliability(shares[:, index], wanted[:, index]) for index in range(shares.shape[1]))


def softmax(logits: Logits) -> Numbers:
    """Return the probabilities [N, C, ...] of each row, or of each place in it, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _single_label(logits: Logits, targets: NDArray[np.int64], positive: int | None, *, ranked: bool) -> Evaluation:
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # the softmax of the two is the sigmoid of one
    classes = logits.shape[1]
    if classes == 2 and positive is None:
        positive = rarer(targets)
    predicted = logits.argmax(axis=1)
    right = predicted == targets
    shares = softmax(logits)
    confusion = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)
    counts = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    wanted = one_vs_rest(targets, classes)
    ranking = rank(log_odds(logits, "single-label"), wanted) if ranked else None
    seen = np.maximum(shares[np.arange(len(targets)), targets], np.finfo(np.float64).tiny)
    return Evaluation(
        "single-label",
        logits,
        targets,
        scores={
            "accuracy": float(right.mean()),
            "macro_f1": _macro_f1(*counts),
            "loss": float(-np.log(seen).mean()),
            **_ranked(ranking, positive),
        },
        interval=wilson(int(right.sum()), len(right)),
        per_class=_per_class(*counts),
        confusion=confusion,
        reliability=reliability(shares.max(axis=1), right),
        class_reliability=reliability_of_each(shares, wanted),
        ranking=ranking,
        positive=positive,
    )


def _dense(logits: Logits, targets: NDArray[np.int64]) -> Evaluation:
    rows, classes = logits.shape[:2]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    counts = np.zeros((3, rows, classes), dtype=np.int64)
    losses = np.zeros(rows)
    bins = np.zeros((1 + classes, 3, BINS))
    # Row by row: the probabilities of all pixels together would be several times as large as the answers.
    for row in range(rows):
        wanted = targets[row].ravel()
        shares = softmax(logits[row : row + 1]).reshape(classes, -1)
        answered = logits[row].reshape(classes, -1).argmax(axis=0)
        right = answered == wanted
        own = np.bincount(wanted * classes + answered, minlength=classes**2).reshape(classes, classes)
        confusion += own
        counts[:, row] = np.diag(own), own.sum(axis=0), own.sum(axis=1)
        losses[row] = -np.log(np.maximum(shares[wanted, np.arange(len(wanted))], np.finfo(np.float64).tiny)).mean()
        bins[0] += _sums_of_bins(shares.max(axis=0), right)
        for index in range(classes):
            bins[1 + index] += _sums_of_bins(shares[index], wanted == index)
    overlaps = Overlaps(*counts)
    whole, *each = (_means_of_bins(sums) for sums in bins)
    return Evaluation(
        "dense",
        logits,
        targets,
        scores={
            "mean_iou": float(overlaps.mean_iou()),
            "pixel_accuracy": float(overlaps.pixel_accuracy()),
            "loss": float(losses.mean()),
        },
        per_class=_per_class(*counts.sum(axis=1)),
        confusion=confusion,
        reliability=whole,
        class_reliability=tuple(each),
        overlaps=overlaps,
        losses=losses,
    )


def _embedding(vectors: Logits, targets: NDArray[np.int64]) -> Evaluation:
    found = neighbours(vectors, targets)
    asked = np.isfinite(found.recall_at_1)
    if not asked.any():
        raise TrainingError("no two rows have the same class, so nothing says which should be near to each other")
    recall, precision = (float(np.nanmean(values)) for values in found[1:])
    return Evaluation(
        "embedding",
        vectors,
        targets,
        scores={"recall_at_1": recall, "map_at_r": precision},
        interval=wilson(int(np.nansum(found.recall_at_1)), int(asked.sum())),
        neighbours=found,
    )


def _several(logits: Logits, targets: NDArray[np.generic], heads: Sequence[Head], *, ranked: bool) -> Evaluation:
    each = tuple(
        (head, score(own, wanted, head.task, ranked=ranked)) for head, own, wanted in divided(heads, logits, targets)
    )
    shares = [value for name, value in (own.headline for _, own in each) if name not in LOWER_IS_BETTER]
    scores = {"mean_score": float(np.mean(shares))} if shares else {}
    scores |= {f"{head.name}.{name}": value for head, own in each for name, value in own.scores.items()}
    return Evaluation("any", logits, targets, scores, heads=each)


def _multi_label(logits: Logits, targets: NDArray[np.int64], *, ranked: bool) -> Evaluation:
    predicted = predictions(logits, "multi-label") == 1
    wanted = targets == 1
    hits, guessed, there = ((cells).sum(axis=0) for cells in (predicted & wanted, predicted, wanted))
    whole = (predicted == wanted).all(axis=1)
    wide = logits.astype(np.float64)
    # log(1 + exp(x)) - y x, written so that no exponential overflows.
    loss = np.logaddexp(0, wide) - wide * targets
    ranking = rank(wide, wanted) if ranked else None
    shares = probabilities(logits, "multi-label")
    return Evaluation(
        "multi-label",
        logits,
        targets,
        scores={
            "micro_f1": float(2 * hits.sum() / max(1, guessed.sum() + there.sum())),
            "macro_f1": _macro_f1(hits, guessed, there),
            "exact_match": float(whole.mean()),
            "loss": float(loss.mean()),
            **_ranked(ranking, None),
        },
        interval=wilson(int(whole.sum()), len(whole)),
        per_class=_per_class(hits, guessed, there),
        # Every label of every row is one yes-or-no answer, and the confidence is that of "yes".
        reliability=reliability(shares.ravel(), wanted.ravel()),
        class_reliability=reliability_of_each(shares, wanted),
        ranking=ranking,
    )


def _regression(values: Logits, targets: NDArray[np.generic]) -> Evaluation:
    wanted = targets.astype(np.float64).reshape(values.shape)
    errors = values.astype(np.float64) - wanted
    each = tuple(_errors(errors[:, index], wanted[:, index]) for index in range(values.shape[1]))
    names = max(each, key=len)
    scores = {name: float(np.mean([one[name] for one in each if name in one])) for name in names}
    # Of several values the whole error, not the mean of theirs.
    scores["rmse"] = float(np.sqrt((errors**2).mean()))
    return Evaluation("regression", values, wanted, scores=scores, per_value=each)


def _errors(errors: Numbers, wanted: Numbers) -> dict[str, float]:
    square, absolute = float((errors**2).mean()), float(np.abs(errors).mean())
    if np.ptp(wanted) == 0:  # one row, say: there is nothing to explain, and no spread to measure an error in
        return {"mae": absolute, "rmse": math.sqrt(square)}
    away = wanted - wanted.mean()
    spread = float((away**2).mean())
    return {
        "r2": 1 - square / spread,
        "mae": absolute,
        "rmse": math.sqrt(square),
        "rmse_over_std": math.sqrt(square / spread),
        "mae_over_mad": absolute / float(np.abs(away).mean()),
    }


def _ranked(ranking: Ranking | None, positive: int | None) -> dict[str, float]:
    if ranking is None:
        return {}
    # Left out where nothing can be ranked: every row has the label, or none.
    found = {name: numbers if positive is None else numbers[[positive]] for name, numbers in ranking._asdict().items()}
    return {name: float(np.nanmean(numbers)) for name, numbers in found.items() if np.isfinite(numbers).any()}


def _number(value: np.generic) -> object:
    # JSON has no NaN.
    return None if np.isnan(value) else value.item()


def _macro_f1(hits: NDArray[np.int64], guessed: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes [C] that some row has or is answered with; 0 where there is none."""
    some = guessed + there > 0
    return float(_per_class(hits, guessed, there).f1[some].mean()) if some.any() else 0.0


def _per_class(hits: NDArray[np.int64], guessed: NDArray[np.int64], there: NDArray[np.int64]) -> PerClass:
    return PerClass(
        precision=hits / np.maximum(guessed, 1),
        recall=hits / np.maximum(there, 1),
        f1=2 * hits / np.maximum(guessed + there, 1),
        support=there,
    )
