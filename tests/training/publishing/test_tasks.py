"""Tasks: what outputs mean, by their shapes and targets, and what fits together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frostline_training import publish
from frostline_training.data import Array
from frostline_training.errors import PublishError, RefusedError
from frostline_training.publishing import tasks
from frostline_training.publishing.tasks import Asked


def zeros(*shape: int, kind: str = "f4") -> Array:
    return np.zeros(shape, kind)


@pytest.mark.parametrize(
    ("answer", "targets", "labels", "asked"),
    [
        (zeros(4, 3), None, None, Asked("single-label", "o", 3)),
        (zeros(4, 3), zeros(4, kind="i8"), None, Asked("single-label", "o", 3)),
        (zeros(4, 3), zeros(4, 3, kind="i8"), None, Asked("multi-label", "o", 3)),
        (zeros(4, 3), zeros(4, 3) + 1, None, Asked("multi-label", "o", 3)),
        (zeros(4, 3), zeros(4, 3) + 0.5, None, Asked("regression", "o", 3)),
        (zeros(4, 3, 5, 5), zeros(4, 5, 5, kind="i8"), None, Asked("dense", "o", 3)),
        (zeros(4, 3, 5, 5), None, ("a", "b", "c"), Asked("dense", "o", 3)),
        (zeros(4, 3, 5, 5), None, None, Asked("any", "o", None)),
        (zeros(4, 3, kind="i8"), None, None, Asked("any", "o", None)),
    ],
)
def test_a_task_is_guessed_where_only_one_is_likely(
    answer: Array, targets: Array | None, labels: tuple[str, ...] | None, asked: Asked
) -> None:
    assert tasks.settle(None, {"o": answer}, targets, labels) == asked


@pytest.mark.parametrize("answer", [zeros(4), zeros(4, 1)])
@pytest.mark.parametrize("targets", [None, zeros(4, kind="i8"), zeros(4) + 0.5])
def test_one_number_a_row_is_asked_about(answer: Array, targets: Array | None) -> None:
    with pytest.raises(PublishError, match=r"one number for each row.*task='binary' for one logit.*task='regression'"):
        tasks.settle(None, {"o": answer}, targets, None)


@pytest.mark.parametrize(
    ("task", "answer", "targets", "labels", "fact"),
    [
        ("single-label", zeros(4, 1), None, None, r"\[N, 1\]; one number for each row is no choice.*task='binary'"),
        ("single-label", zeros(4, 3), np.array([0, 1, 2, 3]), None, "from 0 to 3, and a network with 3 classes"),
        ("single-label", zeros(4, 3), np.array([0, 1, 2, -1]), None, "from -1 to 2, and a network with 3 classes"),
        ("single-label", zeros(4, 3), zeros(4, 1, kind="i8"), None, "not one whole number for each of 4 rows"),
        ("multi-label", zeros(4, 3), np.full((4, 3), 2), None, "are 0 and 1, and there is 2"),
        ("multi-label", zeros(4, 3), zeros(4, kind="i8"), None, r"shape \[4\], not \[4, C\]"),
        (
            "binary",
            zeros(4, 2),
            None,
            None,
            r"takes float outputs \[N, 1\] or \[N\], and the network gives float32 \[N, 2\]",
        ),
        ("binary", zeros(4, 1), np.array([0, 1, 2, 1]), None, "are 0 and 1, and there is 2"),
        ("binary", zeros(4, 1), None, ("yes",), "1 labels for a network with 2 classes, no and yes in this order"),
        ("regression", zeros(4, 2), np.full((4, 2), np.nan), None, "must all be finite numbers"),
        ("regression", zeros(4, 2), zeros(4, 3), None, "3 columns, and the network gives 2"),
        ("embedding", zeros(4, 2), zeros(4), None, "is not scored, so it takes no targets"),
        ("embedding", zeros(4, 2), None, ("a", "b"), "whose outputs have no names"),
        ("dense", zeros(4, 3, 5), zeros(4, 6, kind="i8"), None, r"for each of the places \[4, 5\]"),
        ("dense", zeros(4, 3), None, None, r"\[N, C, ...\] with C of at least 2 and an axis behind it"),
        ("regression", zeros(4, 3, kind="i8"), None, None, "takes float outputs"),
    ],
)
def test_what_does_not_fit_is_refused(
    task: tasks.Task, answer: Array, targets: Array | None, labels: tuple[str, ...] | None, fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        tasks.settle(task, {"o": answer}, targets, labels)


def test_several_outputs_have_no_other_task_than_any() -> None:
    outputs = {"a": zeros(4, 3), "b": zeros(4, 2)}
    assert tasks.settle(None, outputs, None, None) == Asked("any", "a", None)
    with pytest.raises(PublishError, match=r"2 outputs \(a, b\), and task 'regression' has one; .* task='any'"):
        tasks.settle("regression", outputs, None, None)


@pytest.mark.parametrize(
    ("task", "answer", "targets", "share"),
    [
        ("single-label", np.array([[1, 2], [3, 0], [0, 1]], "f4"), np.array([1, 0, 0]), 2 / 3),
        ("binary", np.array([[-1], [2], [3]], "f4"), np.array([0, 1, 0]), 2 / 3),
        ("binary", np.array([-1, 2, 3], "f4"), np.array([[0], [1], [1]]), 1.0),
        ("dense", np.array([[[1, 0], [0, 1]]], "f4"), np.array([[0, 0]]), 0.5),
        ("regression", zeros(3, 1), zeros(3, 1), None),
        ("single-label", zeros(3, 2), None, None),
    ],
)
def test_accuracy_is_the_share_of_right_classes(
    task: tasks.Task, answer: Array, targets: Array | None, share: float | None
) -> None:
    assert tasks.accuracy(task, answer, targets) == share


class Ends(nn.Module):
    """A layer and what follows it."""

    def __init__(self, ending: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(4, classes)
        self.ending = ending

    def forward(self, rows: Tensor) -> Tensor:
        answer: Tensor = self.ending(self.layer(rows))
        return answer


class ByHand(nn.Module):
    """A softmax that is no operator."""

    def forward(self, logits: Tensor) -> Tensor:
        powers = logits.exp()
        return powers / powers.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("ending", "task", "classes"),
    [
        (nn.Softmax(1), None, 3),
        (ByHand(), None, 3),
        (nn.Sigmoid(), "multi-label", 3),
        (nn.Sigmoid(), "binary", 1),
        (nn.Sigmoid(), "single-label", 3),
    ],
)
def test_a_network_that_ends_at_probabilities_is_asked_about(
    tmp_path: Path, sample: Tensor, ending: nn.Module, task: tasks.Task | None, classes: int
) -> None:
    module = Ends(ending, classes)
    with pytest.raises(RefusedError, match=r"are probabilities already.*leave it out.*or say probabilities=True"):
        publish(module, sample, name="m", models=tmp_path, task=task)
    assert publish(module, sample, name="m", models=tmp_path, task=task, probabilities=True).version == 1


@pytest.mark.parametrize(
    ("ending", "task", "classes"),
    [
        (nn.LogSoftmax(1), None, 3),  # softmax makes the same of these as of the logits
        (nn.Identity(), None, 3),
        (nn.Sigmoid(), "regression", 1),  # a share is a value like any other
        (nn.Sigmoid(), "embedding", 3),
        (nn.ReLU(), None, 3),
    ],
)
def test_other_endings_are_no_question(
    tmp_path: Path, sample: Tensor, ending: nn.Module, task: tasks.Task | None, classes: int
) -> None:
    torch.manual_seed(0)
    assert publish(Ends(ending, classes), sample, name="m", models=tmp_path, task=task).version == 1
