"""What models answer that choose no single class for a row: values, labels, vectors and maps, as a table, JSON or CSV."""

import csv
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from frostline.client.catalog import Model
from frostline.tables import write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from frostline.client.connection import Client
    from frostline.client.messages import OutputName
    from frostline.client.prediction import Prediction

_SHOWN = 4
"""Numbers of a row's vector or map that a table shows."""


def ranks(model: Model) -> bool:
    """Whether a version has a probability of each of several classes for a row."""
    return any(output.name == "softmax" and len(output.shape) == 2 for output in model.outputs)


def decided(answer: "Prediction", labels: Sequence[str]) -> list[int | None]:
    """For each row the class whose label is the answer, if that is not its most probable class; else None.

    Args:
        answer: The prediction, with classes.
        labels: The names of the classes.
    """
    best = answer.argmax.tolist()
    if not labels or len(answer.labels) != len(best):
        return [None] * len(best)
    return [
        labels.index(label) if label in labels and label != labels[index] else None
        for label, index in zip(answer.labels, best, strict=True)
    ]


def ask(
    client: "Client", model: Model, requests: "Iterable[tuple[Mapping[str, NDArray[Any]], Sequence[tuple[str, int]]]]"
) -> "tuple[list[tuple[str, int]], dict[str, NDArray[Any]]]":
    """Asks a model for what it answers.

    Args:
        client: Asks.
        model: The version.
        requests: For each request the inputs by name; and for each of its rows the file and the number in it.

    Returns:
        For each row the file and the number; and what was answered, [rows, ...] by the names of columns. Without a batch
        axis each request is one row.
    """
    outputs: list[OutputName] = ["argmax" if any(output.name == "argmax" for output in model.outputs) else "values"]
    ids: list[tuple[str, int]] = []
    parts = []
    for arrays, origins in requests:
        answer = client.predict(model.name, arrays, version=model.version, outputs=outputs)
        answered = columns(answer)
        parts.append(answered if model.batched else {name: array[None] for name, array in answered.items()})
        ids += origins if model.batched else origins[:1]
    return ids, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def columns(answer: "Prediction") -> "dict[str, NDArray[Any]]":
    """What a prediction says of each row, [rows, ...], by the names of the columns.

    Args:
        answer: The prediction, with its own outputs, or with a class at each place of a row.
    """
    match answer.task:
        case "regression":
            values = answer.values.reshape(len(answer), -1)
            names = answer.names if len(answer.names) == values.shape[1] else ()
            return {
                name: values[:, at] for at, name in enumerate(names or map("value_{}".format, range(values.shape[1])))
            }
        case "multi-label":
            probabilities = answer.probabilities
            count = probabilities.shape[1]
            names = answer.names if len(answer.names) == count else tuple(map("label_{}".format, range(count)))
            chosen = np.array(["; ".join(map(str, labels)) for labels in answer.labels], object)
            return {"labels": chosen, **{name: probabilities[:, at] for at, name in enumerate(names)}}
        case "binary":
            prediction = np.array(list(map(str, answer.labels)), object)
            return {"prediction": prediction, "probability": answer.probabilities.reshape(len(answer))}
        case "embedding":
            return {"vector": answer.vector}
        case "dense" | "":
            return {"map": answer.map}
        case _:
            return dict(answer.outputs)


def write(
    ids: Sequence[tuple[str, int]], answers: "Mapping[str, NDArray[Any]]", model: Model, form: str, out: TextIO
) -> None:
    """Writes the answers.

    JSON has them as they are, and null for a number that is not finite. CSV has a column for each number of a vector, a
    map or another array. A table shows the first of these.

    Args:
        ids: The file that each row is from, and its number in it, from 0.
        answers: [rows, ...] by the names of the columns.
        model: Who predicted.
        form: `table`, `json` or `csv`.
        out: Where to write.
    """
    names = [f"{source}:{number}" for source, number in ids]
    if form == "json":
        rows = [
            {
                "row": number,
                "input": ids[number][0],
                "id": name,
                **{column: _json(array[number].tolist()) for column, array in _objects(answers).items()},
            }
            for number, name in enumerate(names)
        ]
        document = {"model": model.name, "version": model.version, "rows": rows}
        out.write(json.dumps(document, allow_nan=False) + "\n")
    elif form == "csv":
        flat: dict[str, Sequence[Any]] = {}
        for column, array in answers.items():
            for place in itertools.product(*map(range, array.shape[1:])):
                at: Any = (slice(None), *place)
                # NumPy's text of a number is the shortest of its precision.
                flat["_".join(map(str, (column, *place)))] = list(array[at])
        lines = [[name, *(str(cells[number]) for cells in flat.values())] for number, name in enumerate(names)]
        csv.writer(out, lineterminator="\n").writerows([["id", *flat], *lines])
    else:
        lines = [
            [name, *(_shown(array[number]) for array in _objects(answers).values())]
            for number, name in enumerate(names)
        ]
        numeric = [column for column, array in answers.items() if array.ndim == 1 and array.dtype.kind in "fiu"]
        write_table(["id", *answers], lines, out, numbers=numeric)


def _objects(answers: "Mapping[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
    """With rows that are arrays even where each is one number, or one text."""
    return {column: array[:, None] if array.ndim == 1 else array for column, array in answers.items()}


def _json(value: Any) -> Any:
    """A row as JSON has it; one number or text is no list."""
    cells = _finite(value)
    return cells[0] if len(cells) == 1 and not isinstance(cells[0], list) else cells


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(row: "NDArray[Any]") -> str:
    cells = [f"{cell:.4f}" if isinstance(cell, float | np.floating) else str(cell) for cell in row.ravel()[:_SHOWN]]
    rest = f" ... {list(row.shape)}" if row.size > _SHOWN else ""
    return " ".join(cells) + rest
