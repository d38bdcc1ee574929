"""The gate before traffic: the comparison of a new network with the live version, which must be passed to go live.

The live version is scored by its own file, in ONNX Runtime, on the very rows that the new one is scored on. Raw rows are
encoded as the live version encodes them, because its categories may be others.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from frostline_training.data import Array
from frostline_training.data.raw import decoded
from frostline_training.data.rows import Image, Text
from frostline_training.data.texts import IDS
from frostline_training.data.texts import encoded as encoded_texts
from frostline_training.errors import PublishError, TrainingError, first_line
from frostline_training.evaluation import evaluate
from frostline_training.evaluation.compare import METRICS, Comparison, compare
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.publishing import artifact, preprocessing, rollout, row_schema
from frostline_training.publishing.raw_rows import Raw
from frostline_training.publishing.raw_table import RawTable
from frostline_training.publishing.raw_texts import RawTexts
from frostline_training.publishing.verify import Named
from frostline_training.sources import Task

_BATCH_ROWS = 64


@dataclass(frozen=True)
class Gate:
    """The condition for going live: the score to compare, and by how much a new version must be better.

    Attributes:
        metric: One of the scores of the task; see `frostline_training.evaluation.compare.METRICS`.
        margin: By how much, in the unit of the score: 0.01 of an accuracy is one point.
        positive: Which class of two is looked for; the rarer one of the held-out rows unless it is given.
    """

    metric: str
    margin: float = 0.0
    positive: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Return the gate that ``METRIC`` or ``METRIC:MARGIN`` says.

        Raises:
            PublishError: It says none.
        """
        metric, colon, number = text.partition(":")
        known = sorted({name for names in METRICS.values() for name in names})
        if metric not in known:
            raise PublishError(f"if_better: there is no score {metric!r}; there are: {', '.join(known)}")
        try:
            margin = float(number) if colon else 0.0
        except ValueError:
            margin = math.nan
        if not (math.isfinite(margin) and margin >= 0):
            raise PublishError(
                f"if_better: the margin of {metric} is {number!r}; give a number of at least 0, such as 0.01"
            )
        return cls(metric, margin)


def of(if_better: Gate | str | None, *, stage: bool) -> Gate | None:
    """Return the gate that `frostline.publish` was given.

    Raises:
        PublishError: It says none, or the version is to be staged whatever it scores.
    """
    if if_better is not None and stage:
        raise PublishError("stage and if_better exclude each other: say one of them")
    return Gate.parse(if_better) if isinstance(if_better, str) else if_better


Scorer = Callable[[Path], Comparison]
"""Compares the new network with the version in a folder."""


def check(
    gate: Gate | None,
    folder: Path,
    task: str,
    labels: Sequence[str] | None,
    columns: Sequence[str],
    inputs: Mapping[str, Sequence[int | None]],
) -> None:
    """Check that a network can be compared with the live version of the model in `folder`; fine where none is live.

    Args:
        gate: What is to be compared; None for nothing.
        folder: The model's folder.
        task: The network's task.
        labels: The names of its classes or values.
        columns: The names of its columns of raw rows; empty where it takes none.
        inputs: The shapes of its inputs by name, without the rows; None for an axis of any length.

    Raises:
        PublishError: It cannot.
    """
    if gate is None:
        return
    _check_metric(gate, task)
    now = rollout.live(folder)
    if now.version is None:
        return
    live, card = f"version {now.version} of {folder.name}, which is live,", _card(folder / str(now.version))
    other = card.get("task", "single-label")
    if other != task:
        raise PublishError(f"{live} has the task {other!r}, and this one {task!r}: their scores cannot be compared")
    theirs = card.get("labels")
    if theirs and labels and list(theirs) != list(labels):
        raise PublishError(f"{live} has other labels: {_listed(theirs)}, and this one {_listed(labels)}")
    told = card.get("rows")
    ours = [] if told is None else [column["name"] for column in told["columns"]]
    if sorted(ours) != sorted(set(columns)):
        raise PublishError(f"{live} takes other columns: {_listed(ours)}, and this one {_listed(columns)}")
    if told is None:
        taken = {each["name"]: each["shape"][1:] for each in card.get("inputs", [card.get("input")]) if each}
        for name, shape in taken.items():
            if name not in inputs or not _fits(shape, inputs[name]):
                raise PublishError(f"{live} takes other inputs: {name!r} {shape}, and this one {dict(inputs)}")


def shapes(rows: Named, dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, list[int | None]]:
    """Return the shapes of inputs as `check` takes them.

    Args:
        rows: The inputs [N, ...] by name.
        dynamic: Their axes of any length.
    """
    return {
        name: [None if axis in dynamic.get(name, {}) else size for axis, size in enumerate(array.shape[1:], start=1)]
        for name, array in rows.items()
    }


def scorer(
    gate: Gate,
    task: str,
    *,
    answers: Array,
    targets: Array | None,
    probabilities: bool,
    inputs: Named,
    raw: Raw | None,
) -> Scorer:
    """Return what compares the new network with the version in a folder.

    Args:
        gate: What is compared.
        task: The network's task.
        answers: Of the new network's file to the held-out rows.
        targets: What was right for them.
        probabilities: Whether the answers are probabilities.
        inputs: The held-out rows, as the new network takes them.
        raw: The same, where the network takes raw rows.

    Raises:
        PublishError: The task has no such score, or nothing is known of what was right.
    """
    _check_metric(gate, task)
    if targets is None:
        raise PublishError(
            "if_better: nothing can be scored without held-out rows and what was right for them; give test"
        )
    right: Array = targets
    new = _scored(answers, right, cast("Task", task), gate, probabilities=probabilities)
    if gate.metric not in new.scores:
        raise PublishError(f"if_better: the held-out rows have no {gate.metric}, because all or none have a label")

    def compared(folder: Path) -> Comparison:
        card = _card(folder)
        told = card.get("rows")
        output = card.get("output") or card.get("outputs", [{}])[0]
        try:
            rows = inputs if raw is None or told is None else _encoded(raw, told, folder)
            answered = _run(folder / artifact.MODEL_FILE, rows)
            live = _scored(answered, right, cast("Task", task), gate, probabilities=bool(output.get("probabilities")))
        except TrainingError as error:
            raise PublishError(f"the live version in {folder} cannot be scored: {error}") from error
        except Exception as error:  # ONNX Runtime's exceptions have no class of their own in common
            raise PublishError(
                f"the live version in {folder} cannot answer the held-out rows: {first_line(error)}"
            ) from error
        return compare(gate.metric, live, new, margin=gate.margin)

    return compared


def _check_metric(gate: Gate, task: str) -> None:
    known = METRICS.get(cast("Task", task))
    if known is None:
        raise PublishError(f"if_better: the task {task!r} is not scored; the tasks {', '.join(METRICS)} are")
    if gate.metric not in known:
        raise PublishError(f"if_better: the task {task!r} has no score {gate.metric!r}; it has: {', '.join(known)}")


def _card(folder: Path) -> dict[str, Any]:
    path = folder / artifact.CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(
            f"the live version in {folder} cannot be compared: {path.name} cannot be read ({first_line(error)}); publish "
            "without if_better, or promote another version first"
        ) from error
    return card if isinstance(card, dict) else {}


def _fits(told: Sequence[object], shape: Sequence[int | None]) -> bool:
    # An axis of any length has a name in the card.
    return len(told) == len(shape) and all(
        not isinstance(size, int) or other is None or size == other for size, other in zip(told, shape, strict=True)
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, list(names)[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"


def _encoded(raw: Raw, told: Mapping[str, Any], folder: Path) -> dict[str, Array]:
    """Return the held-out raw rows as the version in `folder` takes them, by the names of its inputs."""
    if isinstance(raw, RawTable):
        columns = row_schema.from_card(told)
        rows = preprocessing.sent(raw.held_out.cells, columns)
        session = preprocessing.session(folder / told["file"])
        (numbers,) = session.run(None, preprocessing.feed(rows, columns, told["missing"]))
        return {"": numbers}
    (column,) = told["columns"]
    if isinstance(raw, RawTexts):
        kinds = ("bytes", "length", "vocabulary", "lowercase", "split")
        named = {kind: column[kind] for kind in kinds if kind in column}
        if "file" in told:
            named["tokenizer"] = str(folder / told["file"])
        tensors = encoded_texts(raw.held_out, Text(column["name"], **named))
        return tensors if len(tensors) > 1 else {"": tensors[IDS]}
    image = Image(column["name"], tuple(column["size"]), column["color"], column["fit"], tuple(column["background"]))
    return {"": decoded(raw.held_out, image)}


def _run(file: Path, rows: Mapping[str, Array]) -> Array:
    """Return the file's first output for all rows; what is called "" is its only input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    taken = {name: rows[name] if name in rows else rows[""] for name in names} if "" in rows else rows
    output, count = session.get_outputs()[0].name, len(next(iter(taken.values())))
    parts = [
        session.run([output], {name: taken[name][start : start + _BATCH_ROWS] for name in names})[0]
        for start in range(0, count, _BATCH_ROWS)
    ]
    return np.concatenate(parts)


def _scored(answers: Array, targets: Array, task: Task, gate: Gate, *, probabilities: bool) -> Evaluation:
    logits = answers if task == "dense" else answers.reshape(len(answers), -1)
    if probabilities:
        shares = np.clip(logits.astype(np.float64), 1e-12, 1.0)
        # Of one class among several the logarithm, of each yes or no the log-odds: their probabilities are the same.
        others = np.clip(1 - logits.astype(np.float64), 1e-12, 1.0)
        logits = np.log(shares) if task in ("single-label", "dense") else np.log(shares) - np.log(others)
    right = targets.reshape(len(targets)) if task in ("single-label", "binary", "embedding") else targets
    return evaluate.score(logits, right, task, gate.positive)
