"""Tasks: what outputs mean, by their shapes and targets, and what fits together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
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
        ("single-label", zeros(4, 3), zeros(4, 1, kind="i8"), None, r"each of 4 rows; give targets\[:, 0\]"),
        ("single-label", zeros(4, 3), zeros(4, 3), None, r"; if each has a 1 at its class, give targets.argmax\(1\)"),
        ("single-label", zeros(4, 3), zeros(4), None, r"; give targets.long\(\)"),
        ("single-label", zeros(4, 3), zeros(4) + 0.5, None, "float32 .4., not one whole number for each of 4 rows$"),
        ("dense", zeros(4, 3, 5), zeros(4, 1, 5, kind="i8"), None, r"places \[4, 5\]; give targets\[:, 0\]"),
        (
            "dense",
            zeros(4, 3, 5),
            zeros(4, 3, 5, kind="i8"),
            None,
            r"; if each has a 1 at its class, give targets.argmax",
        ),
        ("multi-label", zeros(4, 3), np.full((4, 3), 2), None, "are 0 and 1, and there is 2"),
        ("multi-label", zeros(4, 3), zeros(4, kind="i8"), None, r"shape \[4\], not \[4, C\]"),
        (
            "binary",
            zeros(4, 2),
            None,
            None,
            r"takes float outputs \[N, 1\] or \[N\], and the network gives float32 \[N, 2\]",
        ),
        ("binary", zeros(4, 2), None, None, "a logit for no and one for yes are task='single-label' with two classes"),
        ("single-label", zeros(4, kind="i8"), None, None, "return the logits, from which the classes come"),
        ("single-label", zeros(4, 0), None, None, r"the network gives float32 \[N, 0\]; likely cause"),
        ("binary", zeros(4, 1), np.array([0, 1, 2, 1]), None, "are 0 and 1, and there is 2"),
        ("binary", zeros(4, 1), None, ("yes",), "1 labels for a network with 2 classes, no and yes in this order"),
        ("regression", zeros(4, 2), np.full((4, 2), np.nan), None, "must all be finite numbers"),
        ("regression", zeros(4, 2), zeros(4, 3), None, "3 columns, and the network gives 2"),
        ("embedding", zeros(4, 2), zeros(4), None, "not the class of each of 4 rows, a whole number, or None"),
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


@pytest.mark.parametrize("targets", [np.eye(3, dtype="f4"), np.eye(3, dtype="i8"), np.eye(3) * 0.7 + 0.1])
def test_targets_with_the_sum_1_in_each_row_are_asked_about(targets: Array) -> None:
    with pytest.raises(PublishError, match=r"task='single-label' with targets.argmax\(1\).*'multi-label' if several"):
        tasks.settle(None, {"o": zeros(3, 3)}, targets, None)


@pytest.mark.parametrize("task", ["multi-label", "binary", "regression"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_of_one_number_a_row_have_an_axis_for_it_or_not(task: tasks.Task, shape: tuple[int, ...]) -> None:
    assert tasks.settle(task, {"o": zeros(4, 1)}, zeros(*shape), None).task == task


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
    ],
)
def test_a_network_that_ends_at_probabilities_is_asked_about(
    tmp_path: Path, sample: Tensor, ending: nn.Module, task: tasks.Task | None, classes: int
) -> None:
    module = Ends(ending, classes)
    with pytest.raises(RefusedError, match=r"are probabilities already.*leave it out.*or say probabilities=True"):
        publish(module, sample, name="m", models=tmp_path, task=task)
    assert publish(module, sample, name="m", models=tmp_path, task=task, probabilities=True).version == 1


def test_a_sigmoid_for_each_of_several_classes_chooses_none(tmp_path: Path, sample: Tensor) -> None:
    module = Ends(nn.Sigmoid())
    with pytest.raises(RefusedError, match=r"are probabilities already.*leave it out"):
        publish(module, sample, name="m", models=tmp_path, task="single-label")
    with pytest.raises(RefusedError, match=r"have sums from .*say task='multi-label'"):
        publish(module, sample, name="m", models=tmp_path, task="single-label", probabilities=True)


class Ending(nn.Module):
    """Any function as an ending."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor) -> Tensor:
        return self.function(logits)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "ending",
    [
        lambda y: 1 / (1 + torch.exp(-y)),
        lambda y: torch.tanh(y) * 0.5 + 0.5,
        lambda y: y.clamp(0, 1),
        lambda y: torch.sigmoid(y).reshape(-1, y.shape[1]),
        lambda y: torch.cat([torch.sigmoid(y[:, :1]), torch.sigmoid(y[:, 1:])], 1),
        lambda y: torch.sigmoid(torch.cat([y, y], 1))[:, : y.shape[1]],
        lambda y: torch.sigmoid(y).double().float() * 1.0,
    ],
)
def test_probabilities_are_asked_about_however_they_are_written(
    tmp_path: Path, sample: Tensor, ending: Callable[[Tensor], Tensor], classes: int
) -> None:
    module = Ends(Ending(ending), classes)
    task: tasks.Task = "binary" if classes == 1 else "multi-label"
    with pytest.raises(RefusedError, match=r"probabilities already.*leave it out.*or say probabilities=True"):
        publish(module, sample, name="m", models=tmp_path, task=task)


YES, NO = np.array([[0.2, 0.8], [0.6, 0.4]], "f4"), np.array([[0.2, 0.9], [0.6, 0.4]], "f4")


@pytest.mark.parametrize(
    ("task", "answer", "ends", "stated", "fact"),
    [
        ("multi-label", NO * 2, "Gemm", True, r"probabilities=True, and the network answers from 0.4 to 1.8.*logits; leave"),
        ("binary", NO[:, 0] - 1, "Gemm", True, r"answers from -0.8 to -0.4"),
        ("single-label", NO, "Sigmoid", True, r"have sums from 1 to 1.1.*say task='multi-label'\), or a softmax over"),
        ("dense", NO.reshape(1, 2, 2), "Softmax", True, r"have sums from 0.8 to 1.3.*over another axis than 1"),
        ("single-label", np.log(YES), "LogSoftmax", True, "log-probabilities, which are logits; leave"),
        ("regression", NO, "Gemm", True, "for the tasks single-label, .* and this is task 'regression'"),
        ("any", NO, "Softmax", True, "this is task 'any', whose outputs are served as they are"),
        ("multi-label", NO, "Gemm", None, r"may be probabilities already, from 0.2 to 0.9, .*or probabilities=False if"),
        ("single-label", NO, "Gemm", None, "may be probabilities already"),
        ("single-label", YES, "Div", None, "are probabilities already"),
        ("multi-label", NO - 3, "Gemm Sigmoid", None, "are probabilities already"),
        ("multi-label", NO, "Sigmoid", False, "takes logits and probabilities=False, but forward.. ends in Sigmoid"),
        ("single-label", YES, "Softmax", False, "ends in Softmax"),
        ("multi-label", np.log(NO), "LogSigmoid", None, "logarithms of probabilities, .* a log_softmax or logsigmoid"),
        ("multi-label", np.log(YES), "Sub", False, "logarithms of probabilities, .*say task='single-label'"),
    ],
)  # fmt: skip
def test_logits_and_probabilities_are_not_mistaken(
    task: tasks.Task, answer: Array, ends: str, stated: bool | None, fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        tasks.check_probabilities(task, answer, frozenset(ends.split()), stated=stated)


@pytest.mark.parametrize(
    ("task", "answer", "ends", "stated"),
    [
        ("multi-label", NO, "Gemm", False),  # believed
        ("single-label", YES, "Div", False),
        ("multi-label", NO, "Gemm Sigmoid", False),
        ("multi-label", NO, "Div", True),
        ("multi-label", YES, "Softmax", True),
        ("single-label", YES + np.float32(4e-4), "Clip", True),
        ("binary", NO[:, 1], "Sigmoid", True),
        ("single-label", np.log(YES), "LogSoftmax", None),
        ("multi-label", NO - 3, "Gemm", None),  # rare labels have low logits
        ("multi-label", NO * 2, "Gemm", None),
        ("regression", NO, "Sigmoid", None),
        ("embedding", YES, "Softmax", False),
    ],
)
def test_what_fits_is_no_question(task: tasks.Task, answer: Array, ends: str, stated: bool | None) -> None:
    tasks.check_probabilities(task, answer, frozenset(ends.split()), stated=stated)


def test_logits_that_happen_to_lie_from_0_to_1_are_published_where_that_is_said(tmp_path: Path, sample: Tensor) -> None:
    module = Ends(nn.Hardtanh(0.1, 0.9), 3)
    with pytest.raises(RefusedError, match=r"may be probabilities already, from 0\.1 to 0\.9"):
        publish(module, sample, name="m", models=tmp_path, task="multi-label")
    assert publish(module, sample, name="m", models=tmp_path, task="multi-label", probabilities=False).version == 1


def test_neither_true_nor_false_is_refused(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    with pytest.raises(PublishError, match="probabilities is 'yes': say True or False, or leave it out"):
        publish(linear, sample, name="m", models=tmp_path, probabilities="yes")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("single-label", ["logits"]),
        ("multi-label", ["logits", "probabilities"]),
        ("regression", ["values"]),
        ("embedding", ["embedding"]),
        ("any", ["probabilities"]),
    ],
)
def test_the_only_output_has_its_tasks_name_whatever_the_dict_calls_it(
    tmp_path: Path, sample: Tensor, task: tasks.Task, outputs: list[str]
) -> None:
    class InADict(Ends):
        def forward(self, rows: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # another answer
            return {"probabilities": super().forward(rows)}

    published = publish(InADict(nn.Identity()), sample, name="m", models=tmp_path, task=task)
    assert [value.name for value in onnx.load(published.path / "model.onnx").graph.output] == outputs


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


def test_the_classes_of_an_embedding_are_taken() -> None:
    assert tasks.settle("embedding", {"o": zeros(4, 2)}, zeros(4, kind="i8"), None) == Asked("embedding", "o", None)
