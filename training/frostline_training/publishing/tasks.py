"""The tasks: what a network's outputs mean, and which outputs and targets each takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from frostline_training.data import Array
from frostline_training.errors import PublishError, RefusedError

Task = Literal["single-label", "multi-label", "binary", "regression", "embedding", "dense", "any"]
"""What the outputs are, and the targets of test rows:

- ``single-label``: logits [N, C], of which the highest is the row's class; classes [N]
- ``multi-label``: a logit for each label [N, C], each a yes or no of its own; 0 and 1 [N, C]
- ``binary``: one logit [N, 1] or [N], yes where it is above 0; 0 and 1 [N]
- ``regression``: values [N, K] or [N] in the target's unit; values of the same shape
- ``embedding``: a vector [N, D]; classes [N], of rows that should be near to each other, or no targets
- ``dense``: logits [N, C, ...], a class at each place, such as a pixel; classes [N, ...]
- ``any``: one or more outputs [N, ...] of any type and meaning; no targets
"""

TASKS = get_args(Task)
PROBABILITIES = "probabilities"
OUTPUT = "output"
"""What a tensor alone is called where the task is not known, or ``any``."""
_OUTPUT_NAMES: Mapping[Task, str] = {"regression": "values", "embedding": "embedding"}
_YES_OR_NO = ("multi-label", "binary")
_ONE_CLASS = ("single-label", "dense")
_CHOICES = (*_ONE_CLASS, *_YES_OR_NO)
_TO_PROBABILITIES = frozenset(("Softmax", "Sigmoid", "HardSigmoid"))
_TO_LOGARITHMS = frozenset(("LogSoftmax", "LogSigmoid"))
_SUM_TOLERANCE = 1e-3  # of a row's probabilities: float32 and a clamp away from 0 take less

_AXES = {
    "single-label": "[N, C] with C of at least 2",
    "multi-label": "[N, C]",
    "binary": "[N, 1] or [N]",
    "regression": "[N, K] or [N]",
    "embedding": "[N, D]",
    "dense": "[N, C, ...] with C of at least 2 and an axis behind it",
}
_WITH_TARGETS = ("single-label", "multi-label", "binary", "regression", "dense", "embedding")
_ASK = (
    "say which it is: task='binary' for one logit that means yes above 0, as BCEWithLogitsLoss trains it, or "
    "task='regression' for a value"
)


@dataclass(frozen=True)
class Asked:
    """The question a network's outputs answer.

    Attributes:
        task: See `Task`.
        output: The name of the output that has the answer; the first of several.
        classes: How many classes, labels or values it has; None where they have no names.
    """

    task: Task
    output: str
    classes: int | None


def settle(
    task: Task | None, outputs: Mapping[str, Array], targets: Array | None, labels: Sequence[str] | None
) -> Asked:
    """Say what the outputs are, by `task` or by their shapes, and check that all fits together.

    Args:
        task: None to guess. Where a guess could be wrong, it is asked for.
        outputs: The network's own answers to the test rows, by name.
        targets: What was right.
        labels: The names of the classes.

    Raises:
        PublishError: They do not fit together, or the task is to be stated.
    """
    if task is None:
        task = _guess(outputs, targets, labels)
    name, answer = next(iter(outputs.items()))
    if task != "any":
        if len(outputs) > 1:
            raise PublishError(
                f"the network gives {len(outputs)} outputs ({', '.join(outputs)}), and task {task!r} has one; return "
                "that one alone, or publish with task='any'"
            )
        _check_shape(task, answer)
    classes = _classes(task, answer)
    if labels is not None:
        _check_labels(task, labels, classes)
    if targets is not None:
        _check_targets(task, targets, answer, classes)
    return Asked(task, name, classes)


def output_name(task: Task, *, probabilities: bool) -> str:
    """What the file calls a network's only output: ``logits`` of all tasks that choose, unless it ends at probabilities."""
    name = _OUTPUT_NAMES.get(task, "logits")
    return PROBABILITIES if probabilities and name == "logits" else name


def adds_sigmoid(asked: Asked, *, probabilities: bool) -> bool:
    """Whether the file has the probabilities beside the logits: each label's own, which no softmax over all gives."""
    return asked.task in _YES_OR_NO and not probabilities


def accuracy(task: Task, answer: Array, targets: Array | None, *, probabilities: bool = False) -> float | None:
    """The share of rows with the right class, or of places where each has one; None for other tasks.

    Args:
        task: See `Task`.
        answer: The network's answers.
        targets: What was right.
        probabilities: Whether the answers are not logits.
    """
    if targets is None or task not in ("single-label", "binary", "dense"):
        return None
    if task == "binary":
        return float(
            np.mean(
                (answer.reshape(len(answer)) > (0.5 if probabilities else 0)) == (targets.reshape(len(targets)) == 1)
            )
        )
    return float(np.mean(answer.argmax(axis=1) == targets))


def check_probabilities(task: Task, answer: Array, ends: frozenset[str], *, stated: bool | None) -> None:
    """Check that the answers are what the task takes: logits, or probabilities where it is stated that they are.

    Probabilities that are taken for logits would go through a second softmax or sigmoid.

    Args:
        task: See `Task`.
        answer: The network's own answers to the test rows.
        ends: The operators that the file ends in; see `frostline_training.publishing.onnx_export.last_operators`.
        stated: Whether the user says that they are probabilities; None where nothing was said.

    Raises:
        PublishError: The task has no probabilities.
        RefusedError: They are not what was stated, or may be either and nothing was stated.
    """
    if task not in _CHOICES:
        if stated:
            raise PublishError(
                f"probabilities=True is for the tasks {', '.join(_CHOICES)}, and this is task {task!r}, whose outputs are "
                "served as they are; leave probabilities out"
            )
        return
    within = bool(answer.min() >= 0 and answer.max() <= 1 + 1e-6)
    if stated:
        _check_stated_probabilities(task, answer, within=within)
        return
    remedy = (
        "leave it out, as the loss that takes logits does (CrossEntropyLoss, BCEWithLogitsLoss), or say "
        "probabilities=True to serve them as they are"
    )
    last = ends & _TO_PROBABILITIES
    if last and (stated is None or last == ends):
        said = "" if stated is None else f" and probabilities=False, but forward() ends in {' and '.join(sorted(last))}"
        raise RefusedError(
            f"the network's outputs are probabilities already, and task {task!r} takes logits{said}",
            cause=f"a softmax or sigmoid at the end of forward(); {remedy}",
        )
    if task in _YES_OR_NO and (ends & _TO_LOGARITHMS or _is_log_distribution(answer)):
        raise RefusedError(
            f"the network's outputs are logarithms of probabilities, and task {task!r} takes logits",
            cause="a log_softmax or logsigmoid at the end of forward(); leave it out, or say task='single-label' if the "
            "network chooses one class, as NLLLoss trains it",
        )
    sure = task in _ONE_CLASS and _is_distribution(answer)
    # Zeros are usual logits of classes, behind a ReLU; as logits of yes or no they would never say no.
    likely = within and (task in _YES_OR_NO or answer.min() > 0)
    if stated is None and (sure or likely):
        kind = "are probabilities already" if sure else f"may be probabilities already, {_range(answer)}"
        raise RefusedError(
            f"the network's outputs {kind}, and task {task!r} takes logits",
            cause=f"a softmax or sigmoid at the end of forward(), in any way of writing it; {remedy}, or "
            "probabilities=False if they are logits that only happen to lie from 0 to 1",
        )


def _check_stated_probabilities(task: Task, answer: Array, *, within: bool) -> None:
    if not within:
        raise RefusedError(
            f"probabilities=True, and the network answers {_range(answer)}",
            cause="log-probabilities, which are logits; leave probabilities=True out"
            if _is_log_distribution(answer)
            else "logits; leave probabilities=True out, or end forward() in a softmax or sigmoid",
        )
    if task in _ONE_CLASS and not _is_distribution(answer):
        raise RefusedError(
            f"probabilities=True, and task {task!r} chooses one of the classes, whose probabilities have the sum 1, but the "
            f"network's have sums {_range(answer.sum(axis=1, dtype=np.float64))}",
            cause="a sigmoid, which gives each class a probability of its own (if each is a yes or no of its own, say "
            "task='multi-label'), or a softmax over another axis than 1; end forward() in the logits, or in softmax(1)",
        )


def _range(numbers: Array) -> str:
    return f"from {numbers.min():.4g} to {numbers.max():.4g}"


def _is_distribution(answer: Array) -> bool:
    """Whether the classes' numbers [N, C, ...] have the sum 1 in each row, or at each place of it."""
    if answer.ndim < 2 or answer.shape[1] < 2 or answer.min() < 0:
        return False
    return bool(np.allclose(answer.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=_SUM_TOLERANCE))


def _is_log_distribution(answer: Array) -> bool:
    return answer.max() <= _SUM_TOLERANCE and _is_distribution(np.exp(answer))


def _guess(outputs: Mapping[str, Array], targets: Array | None, labels: Sequence[str] | None) -> Task:
    answer = next(iter(outputs.values()))
    if len(outputs) > 1 or answer.dtype.kind != "f":
        return "any"
    whole = targets is not None and targets.dtype.kind in "iub"
    if answer.ndim == 1 or (answer.ndim == 2 and answer.shape[1] == 1):
        shape = "[N, 1]" if answer.ndim == 2 else "[N]"
        raise PublishError(f"the network gives one number for each row, {shape}: {_ASK}")
    if answer.ndim == 2:
        if targets is None or targets.ndim == 1:
            return "single-label"
        if targets.shape == answer.shape and targets.dtype.kind in "fiub" and _is_distribution(targets):
            raise PublishError(
                f"the test targets' {targets.shape[1]} numbers have the sum 1 in each row: say what they are: "
                "task='single-label' with targets.argmax(1) if each row has one class, task='multi-label' if several labels "
                "may hold, or task='regression' for shares"
            )
        return "multi-label" if np.isin(targets, (0, 1)).all() else "regression"
    mapped = targets is not None and whole and targets.shape == (answer.shape[0], *answer.shape[2:])
    return "dense" if mapped or (labels is not None and len(labels) == answer.shape[1]) else "any"


def _check_shape(task: Task, answer: Array) -> None:
    fits = {
        "single-label": answer.ndim == 2 and answer.shape[1] >= 2,
        "multi-label": answer.ndim == 2 and answer.shape[1] >= 1,
        "binary": answer.ndim == 1 or (answer.ndim == 2 and answer.shape[1] == 1),
        "regression": answer.ndim in (1, 2),
        "embedding": answer.ndim == 2,
        "dense": answer.ndim >= 3 and answer.shape[1] >= 2,
    }[task]
    if fits and answer.dtype.kind == "f":
        return
    hint = ""
    if task in _CHOICES and answer.dtype.kind in "iub":
        hint = "; return the logits, from which the classes come, instead of the classes"
    elif task == "single-label" and answer.size == len(answer):
        hint = f"; one number for each row is no choice between classes: {_ASK}"
    elif task == "binary" and answer.ndim == 2 and answer.shape[1] == 2:
        hint = "; a logit for no and one for yes are task='single-label' with two classes"
    raise RefusedError(
        f"task {task!r} takes float outputs {_AXES[task]}, and the network gives {answer.dtype} "
        f"[{', '.join(map(str, ('N', *answer.shape[1:])))}]{hint}",
        cause=f"the wrong task (there are: {', '.join(TASKS)}), or a forward() that does not end where the loss took it",
    )


def _classes(task: Task, answer: Array) -> int | None:
    if task in ("embedding", "any"):
        return None
    if task == "binary":
        return 2
    return 1 if answer.ndim == 1 else int(answer.shape[1])


def _check_labels(task: Task, labels: Sequence[str], classes: int | None) -> None:
    if classes is None:
        raise PublishError(f"{len(labels)} labels for a network whose outputs have no names for them: task {task!r}")
    if len(labels) != classes:
        what = {"binary": "2 classes, no and yes in this order", "regression": f"{classes} values"}
        raise PublishError(f"{len(labels)} labels for a network with {what.get(task, f'{classes} classes')}")


def _check_targets(task: Task, targets: Array, answer: Array, classes: int | None) -> None:
    if task not in _WITH_TARGETS:
        raise PublishError(f"task {task!r} is not scored, so it takes no targets; give test=(rows, None)")
    rows, shape, kind = len(answer), targets.shape, f"{targets.dtype} {list(targets.shape)}"
    whole = targets.dtype.kind in "iub"
    if task in _ONE_CLASS:
        wanted = (rows, *answer.shape[2:])
        if shape != wanted or not whole:
            each = f"{rows} rows" if task == "single-label" else f"the places {list(wanted)}"
            raise PublishError(
                f"test targets are {kind}, not one whole number for each of {each}{_to_classes(targets, wanted, classes)}"
            )
        assert classes is not None  # noqa: S101 for the type checker
        lowest, highest = int(targets.min()), int(targets.max())
        if lowest < 0 or highest >= classes:
            raise PublishError(
                f"test targets are from {lowest} to {highest}, and a network with {classes} classes has those from 0 to "
                f"{classes - 1}"
            )
        return
    if task == "embedding":
        if shape != (rows,) or not whole:
            raise PublishError(
                f"test targets are {kind}, not the class of each of {rows} rows, a whole number, or None"
            )
        return
    wanted = (rows,) if task == "binary" else answer.shape
    if shape in ((rows,), (rows, 1)) and answer.size == rows:
        shape = wanted
    if shape != wanted:
        columns = f"{shape[1]} columns, and the network gives {classes}" if len(shape) == len(wanted) == 2 else ""
        raise PublishError(
            f"test targets have {columns}"
            if columns
            else f"test targets have shape {list(shape)}, not {_like(task, rows)}, which {task} needs"
        )
    if task == "regression":
        if targets.dtype.kind not in "fiu" or not np.isfinite(targets).all():
            raise PublishError(f"test targets {kind} of a regression must all be finite numbers")
    elif not np.isin(targets, (0, 1)).all():
        odd = targets[~np.isin(targets, (0, 1))].flat[0]
        raise PublishError(f"test targets of task {task!r} are 0 and 1, and there is {odd!s}")


def _to_classes(targets: Array, wanted: tuple[int, ...], classes: int | None) -> str:
    """How to make classes of such targets; "" where nothing is known."""
    if targets.shape == (wanted[0], 1, *wanted[1:]):
        return "; give targets[:, 0]"
    if targets.shape == (wanted[0], classes, *wanted[1:]):
        return "; if each has a 1 at its class, give targets.argmax(1)"
    whole = targets.shape == wanted and targets.dtype.kind == "f" and np.array_equal(targets, np.rint(targets))
    return "; give targets.long()" if whole else ""


def _like(task: Task, rows: int) -> str:
    return f"[{rows}]" if task == "binary" else f"[{rows}, {'K' if task == 'regression' else 'C'}]"
