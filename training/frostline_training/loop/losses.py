"""The losses and the metrics of each kind of task."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from frostline_training.loop.progress import Measure
from frostline_training.sources import Task

_MEASURES: dict[Task, Measure] = {
    "single-label": "accuracy",
    "multi-label": "labels_right",
    "binary": "accuracy",
    "regression": "r2",
    "dense": "pixel_accuracy",
}


@dataclass(frozen=True)
class Objective:
    """The losses of one task. Outputs are logits [N, C] or [N, C, H, W], or values [N, K] with regression.

    A binary task is one of a single label, whose targets are classes [N].

    Attributes:
        task: ``single-label`` or ``binary`` (targets int64 [N]), ``multi-label`` (targets 0 or 1, float32 [N, C]),
            ``regression`` (targets float32 [N, K]) or ``dense`` (targets int64 [N, H, W]).
        label_smoothing: How much of a label's probability is spread over all classes, while it learns.
        weights: [C] of the classes, or of the ones of each label with a multi-label or binary task, while it learns.
        deviations: [K] of the targets, the unit that errors of regression are measured in.
    """

    task: Task
    label_smoothing: float = 0.0
    weights: Tensor | None = None
    deviations: Tensor | float = 1.0

    @property
    def measure(self) -> Measure:
        """What `right` counts; see `Scores`."""
        return _MEASURES[self.task]

    @classmethod
    def fit(
        cls, task: Task, targets: Tensor, *, classes: int = 0, label_smoothing: float, class_weights: bool
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
                deviations = targets.double().std(0, correction=0).float()
                return cls(task, deviations=torch.where(deviations > 0, deviations, 1.0))
        return cls(task, label_smoothing, weights.float() if class_weights else None)

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

    def corrected(self, outputs: Tensor) -> Tensor:
        """Return the logits of the rows as they are, without the odds that the weights have added.

        A network that learns with weights w finds the odds w times as high as they are.
        """
        return outputs if self.weights is None else outputs - along_classes(self.weights, outputs.ndim).log()

    def judge(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the rows of the plain loss: no smoothing, no weights; what the best epoch is chosen by.

        It is cross-entropy in nats (mean over the labels with a multi-label task, or over the pixels) of the corrected logits, or the
        smooth L1 error in deviations of the target.
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

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many rows of a batch are right: see `Scores.score`, times the rows."""
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
                return (1 - ((outputs - targets) / self.deviations) ** 2).mean(1).sum()


def along_classes(values: Tensor, axes: int) -> Tensor:
    """Return one number for each class, [C], so that it broadcasts against logits [N, C, ...] of so many axes."""
    return values.reshape(-1, *(1,) * (axes - 2))


def _of_labels(targets: Tensor) -> Tensor:
    # Classes 0 and 1 [N] are what one label [N, 1] is.
    return targets[:, None].float() if targets.ndim == 1 else targets
