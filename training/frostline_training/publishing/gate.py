"""The gate before traffic: the comparison of a new network with the live version, which must be passed to go live.

The live version is scored by its own file, in ONNX Runtime, on the very rows that the new one is scored on. Raw rows are
encoded as the live version encodes them, because its categories may be others.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnxruntime

from frostline.dates import written
from frostline_training.data import Array, Column
from frostline_training.data.cells import Cells, moment
from frostline_training.data.raw import decoded
from frostline_training.data.rows import Image, Text
from frostline_training.data.tables import parts_of
from frostline_training.data.texts import IDS
from frostline_training.data.texts import encoded as encoded_texts
from frostline_training.errors import PublishError, TrainingError, first_line
from frostline_training.evaluation import evaluate
from frostline_training.evaluation.compare import METRICS, Comparison, compare
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.publishing import artifact, preprocessing, raw_rows, rollout, row_schema
from frostline_training.publishing.raw_rows import Raw, RawColumn
from frostline_training.publishing.raw_table import RawTable
from frostline_training.publishing.raw_texts import RawTexts
from frostline_training.publishing.verify import WRONG_FUSIONS, Named
from frostline_training.sources import ONE_CLASS, DateColumn, Task

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


class Tensors(NamedTuple):
    """What a network takes as one of its inputs.

    Attributes:
        dtype: Their type, as a card calls it.
        shape: Their shape without the rows; None for an axis of any length.
    """

    dtype: str
    shape: Sequence[int | None]


def check(
    gate: Gate | None,
    folder: Path,
    task: str,
    labels: Sequence[str] | None,
    columns: Sequence[RawColumn],
    inputs: Mapping[str, Tensors],
) -> None:
    """Check that a network can be compared with the live version of the model in `folder`; fine where none is live.

    Args:
        gate: What is to be compared; None for nothing.
        folder: The model's folder.
        task: The network's task.
        labels: The names of its classes or values.
        columns: Its columns of raw rows; empty where it takes none.
        inputs: Its inputs by name.

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
    _check_columns(live, told, columns)
    if told is None:
        for each in card.get("inputs", [card.get("input")]):
            if each and not _fits(each, inputs.get(each["name"])):
                one = f"{each['name']!r} {each.get('dtype', '')} {each['shape'][1:]}"
                ours = ", ".join(f"{name!r} {taken.dtype} {list(taken.shape)}" for name, taken in inputs.items())
                raise PublishError(f"{live} takes other inputs: {one}, and this one {ours}")


def tensors(rows: Named, dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, Tensors]:
    """Return inputs as `check` takes them.

    Args:
        rows: The inputs [N, ...] by name.
        dynamic: Their axes of any length.
    """
    return {
        name: Tensors(
            str(array.dtype),
            [None if axis in dynamic.get(name, {}) else size for axis, size in enumerate(array.shape[1:], start=1)],
        )
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
    _check_there(gate, new)

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


def check_targets(gate: Gate, task: Task, targets: Array, outputs: int) -> None:
    """Check that rows with these `targets` have the score, whatever a network of so many `outputs` answers to them.

    Raises:
        PublishError: They have not: nothing can be ranked where all or none have a label, and nothing varies in one row.
    """
    if task in ("single-label", "binary", "multi-label", "regression"):  # the others' scores are always there
        _check_there(
            gate, _scored(np.zeros((len(targets), outputs), np.float32), targets, task, gate, probabilities=False)
        )


def _check_there(gate: Gate, new: Evaluation) -> None:
    if gate.metric not in new.scores:
        why = "there is one, or all have the same target" if new.task == "regression" else "all or none have a label"
        raise PublishError(f"if_better: the held-out rows have no {gate.metric}, because {why}")


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


def _fits(told: Mapping[str, Any], taken: Tensors | None) -> bool:
    if taken is None or told.get("dtype", taken.dtype) != taken.dtype:
        return False
    shape = told["shape"][1:]
    # An axis of any length has a name in the card.
    return len(shape) == len(taken.shape) and all(
        not isinstance(size, int) or other is None or size == other
        for size, other in zip(shape, taken.shape, strict=True)
    )


def _check_columns(live: str, told: Mapping[str, Any] | None, columns: Sequence[RawColumn]) -> None:
    """Check that the live version, of whose raw rows its card has `told`, can read rows of `columns`."""
    # Of the parts of a date any one, because they have its format in common.
    ours = {raw_rows.name(column): column for column in columns}
    theirs = {} if told is None else {column["name"]: column for column in told["columns"]}
    if theirs.keys() != ours.keys():
        raise PublishError(f"{live} takes other columns: {_listed(list(theirs))}, and this one {_listed(list(ours))}")
    for name, column in ours.items():
        one, other = theirs[name]["kind"], raw_rows.kind(column)
        if one != other:
            raise PublishError(
                f"{live} takes the column {name!r} as one of the kind {one!r}, and this one as {other!r}"
            )
        if isinstance(column, Column) and column.date is not None:
            known = parts_of(DateColumn(format=column.date.format))
            unknown = [part["part"] for part in theirs[name]["parts"] if part["part"] not in known]
            if unknown:
                raise PublishError(
                    f"{live} takes the {unknown[0]} of the date {name!r}, which the format {column.date.format!r} of this "
                    "one does not have"
                )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, list(names)[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"


def _encoded(raw: Raw, told: Mapping[str, Any], folder: Path) -> dict[str, Array]:
    """Return the held-out raw rows as the version in `folder` takes them, by the names of its inputs."""
    if isinstance(raw, RawTable):
        _check_columns("it", told, raw.columns)  # another version may have become live since `check`
        columns = row_schema.from_card(told)
        rows = preprocessing.sent(_as_read(raw, columns, told["missing"]), columns)
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


def _as_read(raw: RawTable, live: Sequence[Column], missing: Sequence[str]) -> Cells:
    """Return the held-out cells as a client of a version with the columns `live` sends them.

    Dates are written in its format, because what it cannot read would be scored as a missing one, and a server refuses it.
    What stands for no value in the new recipe is left out.

    Raises:
        PublishError: It cannot read a date.
    """
    cells = raw.held_out.cells
    formats = {column.cells: column.date.format for column in raw.columns if column.date is not None}
    texts: dict[str, list[str | None]] = {}
    for column in live:
        name, values = column.cells, cells.values(column.cells)
        if column.date is not None and name not in texts:
            form = column.date.format
            moments = [
                None if cell is None else cells.moment(index, name, cell, formats[name])
                for index, cell in enumerate(values)
            ]
            values = [None if day is None else written(day, form) for day in moments]
            odd = next((text for text in values if text is not None and moment(text, form) is None), None)
            if odd is not None:  # such as the 29th of February without its year
                raise PublishError(f"it cannot read {odd!r}, as the column {name!r} is written in its format {form!r}")
        texts.setdefault(name, values)
    return replace(cells, columns=texts, reading=cells.reading.model_copy(update={"missing": tuple(missing)}))


def _run(file: Path, rows: Mapping[str, Array]) -> Array:
    """Return the file's first output for all rows; what is called "" is its only input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"], disabled_optimizers=WRONG_FUSIONS
    )
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
    right = (
        targets.reshape(len(targets))
        if task in ONE_CLASS
        else targets
        if task == "dense"
        else targets.reshape(logits.shape)
    )
    return evaluate.score(logits, right, task, gate.positive)
