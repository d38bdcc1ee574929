"""Answers to rows as JSON: an object for each row, which says what its model's task reads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from frostline.client import messages
from frostline.client.prediction import Prediction
from frostline.client.schema import Schema
from frostline.pb import predictor_pb2 as pb
from frostline_server.http.numbers import elements, nested

Json = dict[str, Any]

_MOST_CLASSES = 1000
"""Of an answer that nobody said another number for."""
_WORDS = {1: "missing", 2: "unknown", 3: "outside"}
"""What a cell is to the training, by its state."""


def chooses_a_class(schema: Schema) -> bool:
    """Whether a version chooses one of several classes for a row."""
    # A file that nobody published with a task has a softmax where it does.
    return schema.task == "single-label" or (
        not schema.task and "softmax" in {output.name for output in schema.outputs}
    )


def answer_of(told: pb.PredictResponse, sent: int, schema: Schema, top_k: int) -> bytes:
    """The body of an answer, row by row: all rows' objects together would take many times its memory.

    Args:
        told: the answer.
        sent: how many rows it is to.
        schema: of the version that gave it.
        top_k: how many of the most probable classes to list; 0 for up to 1000.

    Raises:
        FrostlineError: it has other rows than were sent.
    """
    prediction = messages.prediction(told, 0)
    task = prediction.task or schema.task or ("single-label" if told.HasField("softmax") else "any")
    # All that a network lists for one row is that row's.
    if schema.max_rows and (sent != 1 or task != "any"):
        prediction.check_rows(sent)
    rows = _rows(prediction, sent, task, schema, top_k)
    if told.HasField("states"):
        states = np.frombuffer(told.states.data, np.uint8).reshape(tuple(told.states.shape))
        rows = _with_states(rows, states, [column.name for column in schema.columns])
    said: dict[str, Any] = {"model": told.model, "version": told.version, "task": task}
    if task == "dense":
        said["names"] = list(prediction.names or schema.labels)
    listed = b",".join(to_json(row, inf_nan_mode="strings") for row in rows)
    return to_json(said)[:-1] + b',"predictions":[' + listed + b"]}"


def _with_states(rows: Iterator[Json], states: np.ndarray[Any, Any], names: Sequence[str]) -> Iterator[Json]:
    for row, cells in zip(rows, states, strict=True):
        by_state = {
            word: [name for name, cell in zip(names, cells.tolist(), strict=True) if cell == state]
            for state, word in _WORDS.items()
        }
        yield row | by_state


def _rows(prediction: Prediction, sent: int, task: str, schema: Schema, top_k: int) -> Iterator[Json]:
    """What each row is answered."""
    match task:
        case "single-label":
            yield from _classes(prediction, schema.labels, top_k)
        case "binary":
            probabilities = elements(prediction.probabilities.reshape(len(prediction)))
            labels = schema.labels
            for label, probability in zip(prediction.labels, probabilities, strict=True):
                at = labels.index(label) if label in labels else None
                yield {"label": label, "class": at, "probability": probability}
        case "multi-label":
            names = _named(prediction.names, prediction.probabilities.shape[1], "label")
            for held, row in zip(prediction.labels, prediction.probabilities, strict=True):
                # None where a probability is NaN: nothing is decided.
                told = None if held is None else list(held)
                yield {"labels": told, "probabilities": dict(zip(names, elements(row), strict=True))}
        case "regression":
            values = prediction.values.reshape(len(prediction), -1)
            names = _named(prediction.names, values.shape[1], "value")
            for row in values:
                yield {"values": dict(zip(names, elements(row), strict=True))}
        case "embedding":
            for row in prediction.vector:
                yield {"vector": nested(row)}
        case "dense":
            for row in prediction.map:
                yield {"map": nested(row)}
        case _:
            yield from _outputs_of_rows(prediction.outputs, sent, schema)


def _outputs_of_rows(outputs: Mapping[str, np.ndarray[Any, Any]], sent: int, schema: Schema) -> Iterator[Json]:
    if not schema.max_rows or any(array.shape[:1] != (sent,) for array in outputs.values()):
        # Of the input as a whole.
        yield {"outputs": {name: nested(array) for name, array in outputs.items()}}
        return
    for number in range(sent):
        yield {"outputs": {name: nested(np.asarray(array[number])) for name, array in outputs.items()}}


def _classes(prediction: Prediction, names: Sequence[str], top_k: int) -> Iterator[Json]:
    softmax = prediction.softmax
    decided = prediction.labels or [None] * len(softmax)
    for probabilities, label, first in zip(softmax, decided, prediction.argmax.tolist(), strict=True):
        order = np.argsort(-probabilities, kind="stable")[: top_k or _MOST_CLASSES]
        ranked = zip(order.tolist(), elements(probabilities[order]), strict=True)
        # A threshold may decide for another class than the most probable.
        chosen = names.index(label) if label in names and names[first] != label else first
        undecided = not np.isfinite(probabilities).all()
        yield {
            "label": label or None,
            "class": None if undecided else chosen,
            "probability": elements(probabilities[chosen : chosen + 1])[0],
            "probabilities": [
                {"class": at, "label": names[at] if at < len(names) else None, "probability": each}
                for at, each in ranked
            ],
        }


def _named(names: Sequence[str], count: int, kind: str) -> list[str]:
    """A name for each of so many, of which no two are alike."""
    if len(names) == count and len(set(names)) == count and all(names):
        return list(names)
    return [f"{kind}{at}" for at in range(count)]
