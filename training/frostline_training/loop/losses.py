"""The losses and the metrics of each kind of task."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from frostline_training.data.heads import Head, divided, of_head
from frostline_training.loop.progress import Measure
from frostline_training.sources import Task

_COMPARED_PAIRS = 2**20  # of rows at a time, which bounds the memory of many; the result does not depend on it
_MEASURES: dict[Task, Measure] = {
    "single-label": "accuracy",
    "multi-label": "labels_right",
    "binary": "accuracy",
    "regression": "r2",
    "dense": "pixel_accuracy",
    "embedding": "recall_at_1",
    "any": "mean_score",
}


@dataclass(frozen=True)
class Objective:
    """The losses of one task. Outputs are logits [N, C] or [N, C, H, W], or values [N, K] with regression.

    A binary task is one of a single label, whose targets are classes [N]. Outputs of an embedding are vectors [N, D] of
    length 1, and a row is compared with all others of its batch: the loss is the supervised contrastive one (Khosla and
    others, 2020, equation 2). Of several targets the loss is the mean of what each alone would have.

    Attributes:
        task: ``single-label`` or ``binary`` (targets int64 [N]), ``multi-label`` (targets 0 or 1, float32 [N, C]),
            ``regression`` (targets float32 [N, K]), ``dense`` (targets int64 [N, H, W]), ``embedding`` (int64 [N])
            or ``any`` (float32 [N, K], of classes the numbers).
        label_smoothing: How much of a label's probability is spread over all classes, while it learns.
        weights: [C] of the classes, or of the ones of each label with a multi-label or binary task, while it learns.
        deviations: [K] of the training targets, the unit that errors of regression are measured in.
        spreads: [K] the deviations of the targets of the rows that `right` counts, from their own mean: R2 is relative to it.
        temperature: What the similarities of an embedding are divided by.
        heads: With the task ``any``, what each target is.
        parts: The losses of each head.
    """

    task: Task
    label_smoothing: float = 0.0
    weights: Tensor | None = None
    deviations: Tensor | float = 1.0
    spreads: Tensor | float = 1.0
    temperature: float = 1.0
    heads: tuple[Head, ...] = ()
    parts: "tuple[Objective, ...]" = ()

    @property
    def measure(self) -> Measure:
        """What `right` counts; see `Scores`."""
        return _MEASURES[self.task]

    @classmethod
    def fit(
        cls,
        task: Task,
        targets: Tensor,
        *,
        classes: int = 0,
        label_smoothing: float,
        class_weights: bool,
        temperature: float = 1.0,
        heads: tuple[Head, ...] = (),
    ) -> "Objective":
        """Measure what the losses need on the training `targets`, of which there are at least `classes`.

        With `class_weights` every class counts the same, however many rows or pixels it has.
        """
        match task:
            case "single-label" | "dense":
                counts = torch.bincount(targets.flatten(), minlength=classes)
                weights = targets.numel() / (len(counts) * counts.clamp(min=1))
                weights[counts == 0] = 1.0  # nothing of it is learnt, and its odds are as they are
            case "multi-label" | "binary":
                ones = targets.reshape(len(targets), -1).sum(0).clamp(min=1)
                weights = (len(targets) - ones).clamp(min=1) / ones
            case "regression":
                spreads = _spreads(targets)
                return cls(task, deviations=torch.where(spreads > 0, spreads, 1.0), spreads=spreads)
            case "embedding":
                return cls(task, temperature=temperature)
            case "any":
                parts = tuple(
                    cls.fit(
                        head.task,
                        _as_learnt(head, of_head(head, place, targets)),
                        classes=len(head.outputs),
                        label_smoothing=label_smoothing,
                        class_weights=False,
                    )
                    for place, head in enumerate(heads)
                )
                return cls(task, heads=heads, parts=parts)
        return cls(task, label_smoothing, weights.float() if class_weights else None)

    def judging(self, targets: Tensor) -> "Objective":
        """Return the same losses for other rows, which have these `targets`: their R2 is relative to their own mean."""
        parts = tuple(
            part.judging(of_head(head, place, targets))
            for place, (part, head) in enumerate(zip(self.parts, self.heads, strict=True))
        )
        return replace(self, parts=parts, spreads=_spreads(targets) if self.task == "regression" else self.spreads)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch: what the weights are moved against."""
        match self.task:
            case "single-label" | "dense":
                return cross_entropy(outputs, targets, self.weights, label_smoothing=self.label_smoothing)
            case "multi-label" | "binary":
                targets = _of_labels(targets)
                smooth = targets + self.label_smoothing * (0.5 - targets)
                return binary_cross_entropy_with_logits(outputs, smooth, pos_weight=self.weights)
            case "regression":
                return smooth_l1_loss(outputs / self.deviations, targets / self.deviations)
            case "embedding":
                return contrastive(outputs, targets, self.temperature)
            case "any":
                return self._each(Objective.loss, outputs, targets).mean()

    def corrected(self, outputs: Tensor) -> Tensor:
        """Return the logits of the rows as they are, without the odds that the weights have added.

        A network that learns with weights w finds the odds w times as high as they are.
        """
        return outputs if self.weights is None else outputs - along_classes(self.weights, outputs.ndim).log()

    def judge(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the rows of the plain loss: no smoothing, no weights; what the best epoch is chosen by.

        It is cross-entropy in nats (mean over the labels with a multi-label task, or over the pixels) of the corrected logits, or the
        smooth L1 error in deviations of the target. Of an embedding it is the loss less that of vectors that are all
        alike, so that it does not depend on how many rows are compared: 0 is chance, and lower is better.
        """
        outputs = self.corrected(outputs)
        match self.task:
            case "single-label":
                return cross_entropy(outputs, targets, reduction="sum")
            case "dense":
                return cross_entropy(outputs, targets, reduction="none").flatten(1).mean(1).sum()
            case "multi-label" | "binary":
                targets = _of_labels(targets)
                return binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1).sum()
            case "regression":
                scaled, wanted = outputs / self.deviations, targets / self.deviations
                return smooth_l1_loss(scaled, wanted, reduction="none").mean(1).sum()
            case "embedding":
                rows = len(outputs)
                return (contrastive(outputs, targets, self.temperature) - math.log(max(1, rows - 1))) * rows
            case "any":
                return self._each(Objective.judge, outputs, targets).mean()

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many rows of a batch are right: see `Scores.score`, times the rows; NaN where nothing tells."""
        outputs = self.corrected(outputs)
        match self.task:
            case "single-label":
                return (outputs.argmax(1) == targets).sum()
            case "dense":
                return (outputs.argmax(1) == targets).float().flatten(1).mean(1).sum()
            case "multi-label" | "binary":
                targets = _of_labels(targets)
                return ((outputs > 0) == (targets > 0.5)).float().mean(1).sum()
            case "regression":
                errors, spreads = outputs - targets, torch.as_tensor(self.spreads)
                # Where the targets never vary, as of one row, there is nothing to explain.
                explained = torch.where(spreads > 0, 1 - (errors / spreads) ** 2, math.nan)
                return explained.nanmean(1).sum()
            case "embedding":
                each = [
                    (mates.gather(1, similar.argmax(1, keepdim=True)).sum(), mates.any(1).sum())
                    for similar, mates in _compared(outputs, targets)
                ]
                right, some = (torch.stack(counts).sum() for counts in zip(*each, strict=True))
                return right / some.clamp(min=1) * len(outputs)
            case "any":
                return self._each(Objective.right, outputs, targets).nanmean()

    def _each(self, of: Callable[["Objective", Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack(
            [
                of(part, own, _as_learnt(head, wanted))
                for part, (head, own, wanted) in zip(self.parts, divided(self.heads, outputs, targets), strict=True)
            ]
        )


def contrastive(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss of vectors [N, D] of length 1, the mean over rows that have a mate.

    A row's mates are the others of its class. It is 0 where no row has one.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        losses, some = [], []
        for similar, mates in _compared(vectors, classes):
            logarithms = (similar / temperature).log_softmax(1)
            counts = mates.sum(1)
            losses.append((-torch.where(mates, logarithms, 0.0).sum(1) / counts.clamp(min=1)).sum())
            some.append((counts > 0).sum())
        return torch.stack(losses).sum() / torch.stack(some).sum().clamp(min=1)


def _compared(vectors: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Of some rows at a time, [M, N]: how similar each is to each other one, and which of these have its class.
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    places = torch.arange(len(wide), device=wide.device)
    size = max(1, _COMPARED_PAIRS // max(1, len(wide)))
    for own, rows in zip(torch.split(wide, size), torch.split(places, size), strict=True):
        itself = rows[:, None] == places
        # Not minus infinity, whose softmax alone is no number.
        yield (own @ wide.T).masked_fill(itself, -1e4), (classes[rows, None] == classes) & ~itself


def _spreads(targets: Tensor) -> Tensor:
    return targets.double().std(0, correction=0).float()


def along_classes(values: Tensor, axes: int) -> Tensor:
    """Return one number for each class, [C], so that it broadcasts against logits [N, C, ...] of so many axes."""
    return values.reshape(-1, *(1,) * (axes - 2))


def _as_learnt(head: Head, targets: Tensor) -> Tensor:
    return targets if head.labels is None else targets.long()


def _of_labels(targets: Tensor) -> Tensor:
    # Classes 0 and 1 [N] are what one label [N, 1] is.
    return targets[:, None].float() if targets.ndim == 1 else targets
