"""What models answer that choose no single class for a row: values, labels, vectors and maps, as a table, JSON or CSV."""

import csv
import itertools
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from frostline.client.catalog import Model
from frostline.client.errors import InvalidInput
from frostline.tables import PredictedRow, column_names, fits, joined, write_table

if TYPE_CHECKING:
    from frostline.client.connection import Client
    from frostline.client.messages import OutputName
    from frostline.client.prediction import Prediction

Id = tuple[str, int]
"""The file that a row is from, and its number in it, from 0."""

Cells = NDArray[Any] | tuple[Any, ...]
"""What each row was answered in one column."""

Requests = Iterable[tuple[Mapping[str, NDArray[Any]], Sequence[Id]]]

_ROW = ("row", "input", "id")
"""What the command itself says of each row."""

_SHOWN = 4
"""Numbers of a row's vector, and classes of its map, that a table shows."""


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        ids: For each row the file and the number.
        columns: What each row was answered, by the names of the columns: a number, a text, a tuple of labels, an array, or
            None where nothing was decided.
        task: What the model was published for.
        names: The names of the classes, where they are not the names of columns.
    """

    ids: list[Id] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    task: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranked:
    """The probabilities of classes or labels.

    Attributes:
        rows: What each row was answered.
        labels: The names of the classes.
        decision: What a threshold decides for each row, whatever is the most probable: its `prediction` or its `labels`; ""
            where none does.
    """

    rows: list[PredictedRow] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    decision: str = ""


def chooses(model: Model) -> bool:
    """Whether a version chooses one of several classes for a row."""
    # Servers before 0.4 do not say what a model was published for.
    return model.task == "single-label" or (
        not model.task and any(output.name == "softmax" and len(output.shape) == 2 for output in model.outputs)
    )


def rank(client: "Client", model: Model, requests: Requests) -> Ranked:
    """Asks a model that chooses one of several classes, or of several labels those that hold, for all probabilities.

    Args:
        client: Asks.
        model: The version.
        requests: As for `ask`.
    """
    several = model.task == "multi-label"
    ranked = Ranked()
    for arrays, origins in requests:
        outputs: list[OutputName] = ["values"] if several else ["softmax", "argmax"]
        if not several and not ranked.rows:
            outputs.append("values")  # which bring the names of the classes, and are the same with every answer
        answer = _predicted(client, model, arrays, origins, outputs)
        if not ranked.rows:
            decision = "labels" if several else "prediction" if hasattr(answer, "thresholds") else ""
            ranked = Ranked([], answer.names, decision)
        probabilities = answer.probabilities
        said = answer.labels if several else _decided(answer, ranked.labels)
        # Without a batch axis an answer has as many rows as it has.
        places = origins if model.batched else [(origins[0][0], number) for number in range(len(probabilities))]
        ranked.rows.extend(PredictedRow(*place, *row) for *row, place in zip(probabilities, said, places, strict=True))
    return ranked


def _decided(answer: "Prediction", labels: Sequence[str]) -> list[int | None]:
    """For each row the class whose label is the answer, if that is not its most probable class; else None."""
    best = answer.argmax.tolist()
    if not labels or len(answer.labels) != len(best):
        return [None] * len(best)
    return [
        labels.index(label) if label in labels and label != labels[index] else None
        for label, index in zip(answer.labels, best, strict=True)
    ]


def ask(client: "Client", model: Model, requests: Requests) -> Answers:
    """Asks a model for what it answers.

    Args:
        client: Asks.
        model: The version.
        requests: For each request the inputs by name; and for each of its rows the file and the number in it. Without a batch
            axis each request is one row.
    """
    dense = model.task == "dense" or (not model.task and any(output.name == "argmax" for output in model.outputs))
    outputs: list[OutputName] = ["argmax" if dense else "values"]
    answers = Answers()
    for arrays, origins in requests:
        answer = _predicted(client, model, arrays, origins, outputs)
        if not answers.ids:
            answers = Answers(task=answer.task, names=answer.names if dense else ())
        answers.ids.extend(origins if model.batched else origins[:1])
        for name, cells in columns(answer).items():
            answers.columns.setdefault(name, []).extend(cells if model.batched else [cells])
    return answers


def _predicted(
    client: "Client",
    model: Model,
    arrays: Mapping[str, NDArray[Any]],
    origins: Sequence[Id],
    outputs: Sequence["OutputName"],
) -> "Prediction":
    """The answer to one request.

    Raises:
        InvalidInput: The server refuses a row; the message says which row of which file it is.
        FrostlineError: The answer has other rows than were sent.
    """
    try:
        answer = client.predict(model.name, arrays, version=model.version, outputs=outputs)
    except InvalidInput as error:
        if error.row is None:
            raise
        source, number = origins[error.row]
        # A picture is a whole file.
        is_file = any(array.dtype.hasobject and isinstance(array[error.row], bytes) for array in arrays.values())
        where = source if is_file else f"{source}, row {number}, {error.where}"
        raise InvalidInput(f"{where}: {error.fact}", error.code, error.kind) from error.__cause__
    if model.batched:
        answer.check_rows(len(origins))
    return answer


def columns(answer: "Prediction") -> dict[str, Cells]:
    """What a prediction says of each row, by the names of the columns, of which no two are alike.

    Args:
        answer: The prediction, with its own outputs, or with a class at each place of a row.
    """
    match answer.task:
        case "regression":
            values = answer.values.reshape(len(answer), -1)
            names = _names(answer, values.shape[1], "value", _ROW)
            return {name: values[:, at] for at, name in enumerate(names)}
        case "multi-label":
            probabilities = answer.probabilities
            names = _names(answer, probabilities.shape[1], "label", (*_ROW, "labels"))
            return {"labels": answer.labels, **{name: probabilities[:, at] for at, name in enumerate(names)}}
        case "binary":
            return {"prediction": answer.labels, "probability": answer.probabilities.reshape(len(answer))}
        case "embedding":
            return {"vector": answer.vector}
        case "dense" | "":
            return {"map": answer.map}
        case _:
            return dict(zip(column_names(list(answer.outputs), _ROW, "output"), answer.outputs.values(), strict=True))


def _names(answer: "Prediction", count: int, kind: str, taken: Sequence[str]) -> list[str]:
    return column_names(answer.names if len(answer.names) == count else [""] * count, taken, kind)


def write(answers: Answers, model: Model, form: str, out: TextIO) -> None:
    """Writes the answers.

    JSON has them as they are, and null for a number that is not finite. CSV has a column for each number of a vector, a
    map or another array. A table shows the first numbers of an array, and of a map how many places each class has.

    Args:
        answers: What was answered.
        model: Who predicted.
        form: `table`, `json` or `csv`.
        out: Where to write.
    """
    ids = [f"{source}:{number}" for source, number in answers.ids]
    if form == "json":
        rows = [
            {
                "row": number,
                "input": source,
                "id": ids[number],
                **{column: _json(cells[number]) for column, cells in answers.columns.items()},
            }
            for number, (source, _) in enumerate(answers.ids)
        ]
        names = {"names": answers.names} if answers.names else {}
        out.write(
            json.dumps({"model": model.name, "version": model.version, **names, "rows": rows}, allow_nan=False) + "\n"
        )
    elif form == "csv":
        flat = [column for name, cells in answers.columns.items() for column in _flat(name, cells)]
        header = column_names([name for name, _ in flat], ["id"], "output")
        lines = [[name, *(cells[number] for _, cells in flat)] for number, name in enumerate(ids)]
        csv.writer(out, lineterminator="\n").writerows([["id", *header], *lines])
    else:
        header = ["id", *answers.columns]
        numeric = [name for name, cells in answers.columns.items() if isinstance(cells[0], np.number)]
        lines = [
            [name, *(_shown(cells[number], answers) for cells in answers.columns.values())]
            for number, name in enumerate(ids)
        ]
        if answers.task == "multi-label" and not fits(header, lines, out):
            header, lines = header[:2], [line[:2] for line in lines]
        write_table(header, lines, out, numbers=numeric)


def _json(cell: Any) -> Any:
    """A cell as JSON has it; an array of one number stays one."""
    if isinstance(cell, np.ndarray | np.generic):
        # The shortest decimals of the network's own precision.
        cell = (cell.astype(str).astype(np.float64) if cell.dtype in (np.float16, np.float32) else cell).tolist()
    if isinstance(cell, list | tuple):
        return [_json(each) for each in cell]
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _flat(name: str, cells: Sequence[Any]) -> Iterable[tuple[str, list[str]]]:
    """A column of texts for each place of a column's arrays; empty where a row's array is smaller."""
    arrays = [cell if isinstance(cell, np.ndarray) else np.array(_text(cell), object) for cell in cells]
    for place in itertools.product(
        *(range(max(sizes)) for sizes in zip(*(array.shape for array in arrays), strict=True))
    ):
        yield (
            "_".join(map(str, (name, *place))),
            [_text(array[place]) if all(map(operator.lt, place, array.shape)) else "" for array in arrays],
        )


def _text(cell: Any) -> str:
    """A cell of CSV. NumPy's text of a number is the shortest of its precision."""
    return "" if cell is None else joined(cell) if isinstance(cell, tuple) else str(cell)


def _shown(cell: Any, answers: Answers) -> str:
    """A cell of a table."""
    if cell is None:
        return "-"
    if not isinstance(cell, np.ndarray):
        return f"{cell:.4f}" if isinstance(cell, np.floating) else _text(cell)
    if answers.task == "dense":
        return _counted(cell, answers.names)
    numbers = " ".join(_shown(each, answers) for each in cell.ravel()[:_SHOWN])
    return numbers + (f" ... {list(cell.shape)}" if cell.size > _SHOWN else "")


def _counted(places: NDArray[Any], names: Sequence[str]) -> str:
    """How many places each class has, the most frequent first."""
    classes, counts = np.unique(places, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [
        f"{(names[at] if at < len(names) else '') or f'class {at}'} {count}"
        for at, count in zip(classes[order].tolist(), counts[order].tolist(), strict=True)
    ]
    more = f", {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"{', '.join(parts[:_SHOWN])}{more} of {list(places.shape)}"
