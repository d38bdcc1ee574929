"""The schema of a model: what its users send, as the server that has it says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frostline.client.catalog import TensorSpec
from frostline.pb import predictor_pb2 as pb


@dataclass(frozen=True)
class Column:
    """A column of raw rows.

    Attributes:
        name: Its name, as in the table that the model was trained on.
        kind: `number`, `category`, `date`, `text` or `image`.
        categories: The categories that the model knows; others are answered as unknown.
        lowest: The lowest number in training, or the first date in ISO 8601; None where there was none.
        highest: The highest, or the last.
        format: How dates are written: `iso`, or the directives of Python's `strptime`; empty where there are none.
        share_missing: The share of the training rows that had no value, 0 to 1.
        pixels: Whether pictures may be sent as pixels, and not only as files.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    lowest: float | str | None = None
    highest: float | str | None = None
    format: str = ""
    share_missing: float = 0.0
    pixels: bool = False


@dataclass(frozen=True)
class Schema:
    """What a version of a model takes and answers.

    Attributes:
        model: The model's name.
        version: The version in decimal.
        task: What it was published for, such as `single-label`.
        labels: The names of its classes, labels or values; empty where it has none.
        columns: The columns of raw rows, in the model's order; empty for a model that takes none.
        missing: The texts that stand for no value in a column of texts.
        example: A row, by column, with None where it has no value; empty where none is known.
        inputs: The network's own inputs, which a model with columns takes too.
        outputs: The outputs.
        max_rows: The most rows in one request, of which more are sent in several; 0 for a model without a batch axis.
        reading: How training read the text of its tables, such as the `separator` and the `decimal` mark; empty where that
            is not known.
    """

    model: str
    version: str
    task: str = ""
    labels: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    missing: tuple[str, ...] = ()
    example: Mapping[str, float | str | None] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_rows: int = 0
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expects(self) -> str:
        """What the model takes, for a message to the user."""
        own = "; ".join(map(str, self.inputs))
        if not self.columns:
            return f"{self.model} expects {own}"
        names = ", ".join(column.name for column in self.columns)
        kinds = [column.kind for column in self.columns]
        if kinds == ["text"]:
            raw = f"a list of texts, or rows with the column {names}"
        elif kinds == ["image"]:
            raw = (
                "a list of pictures (paths, files as bytes, pictures of Pillow, arrays uint8 [height, width, 3]), or rows with "
                f"the column {names}"
            )
        else:
            raw = f"rows with the columns {names}"
        return f"{self.model} expects {raw}, or {own}"


def described(told: pb.SchemaResponse) -> Schema:
    """Reads what a server says of a version."""
    return Schema(
        model=told.model,
        version=told.version,
        task=told.task,
        labels=tuple(told.labels),
        columns=tuple(map(_column, told.columns)),
        missing=tuple(told.missing),
        example={
            name: _shortest(cell) if isinstance(cell, float) else cell
            for name, cell in json.loads(told.example or "{}").items()
        },
        inputs=tuple(map(_tensor, told.inputs)),
        outputs=tuple(map(_tensor, told.outputs)),
        max_rows=told.max_rows,
        reading=json.loads(told.reading or "{}"),
    )


def _column(told: pb.Column) -> Column:
    numbers = told.HasField("lowest") and told.HasField("highest")
    # A kind that this client does not know goes by its number.
    known = told.kind in pb.ColumnKind.values()
    return Column(
        name=told.name,
        kind=pb.ColumnKind.Name(told.kind).lower() if known else f"kind {told.kind}",
        categories=tuple(told.categories),
        lowest=_shortest(told.lowest) if numbers else told.earliest or None,
        highest=_shortest(told.highest) if numbers else told.latest or None,
        format=told.format,
        share_missing=told.share_missing,
        pixels=told.pixels,
    )


def _shortest(number: float) -> float:
    """The shortest decimals of a number of single precision, as which training saw all numbers: 0.1, not 0.10000000149."""
    return float(str(np.float32(number)))


def _tensor(told: pb.Tensor) -> TensorSpec:
    return TensorSpec(told.name, pb.DataType.Name(told.dtype), tuple(told.shape))
