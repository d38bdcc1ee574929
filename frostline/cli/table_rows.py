"""Rows of a table for a model whose card is at hand: read by the rules that its training read them by."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.cli import raw_rows
from frostline.client.schema import Schema
from frostline_training.data import Column, delimited
from frostline_training.data.cells import Cells
from frostline_training.data.encoding import encode, from_card, unknown
from frostline_training.data.pythontext import as_bytes
from frostline_training.data.tables import read_parquet
from frostline_training.errors import DataError
from frostline_training.sources import Reading


class InvalidTableError(Exception):
    """A card or a table cannot be used. The message is one sentence for the user."""


def raw(path: str, content: bytes, schema: Schema, warn: Callable[[str], None]) -> dict[str, NDArray[Any]]:
    """Returns the raw rows of a csv or Parquet file, by column, as `Client.predict` takes them.

    Columns may have any order, and others are ignored. Messages number the rows as ids do, from 0.

    Args:
        path: The file, as messages call it.
        content: Its bytes.
        schema: What the model takes.
        warn: Is told of each column with cells that are missing, or not as training saw them.

    Raises:
        InvalidTableError: A column is missing, or a cell is not what its column is; the message says where.
    """
    try:
        reading = raw_rows.reading_of(schema)
    except ValueError as error:
        raise InvalidTableError(
            f"{schema.model} was trained on tables that this version cannot read: {error}"
        ) from error
    try:
        takes = [column.name for column in schema.columns]
        return raw_rows.columns_of(_cells(path, content, reading, schema.model, takes), schema, warn)
    except DataError as error:
        raise _invalid(error) from error


def _invalid(error: DataError) -> InvalidTableError:
    """The same without what only a recipe can say."""
    instead = "; write it as the table that the model was trained on"
    return InvalidTableError(error.fact + (instead if error.remedy else ""))


def _cells(path: str, content: bytes, reading: Reading, model: str, takes: Sequence[str]) -> Cells:
    if path.lower().endswith(".parquet"):
        return read_parquet(path, reading, content=content, first=0)
    check = partial(raw_rows.check_names, path=path, model=model, takes=takes)
    return delimited.read(path, content, reading, first=0, check=check)


class TableRows:
    """The reader of tables for one model.

    Args:
        reading: How the text is read.
        columns: What the model's input consists of; none if it is a text.
        text: The column that holds the text, and how many bytes of it count.
    """

    def __init__(self, reading: Reading, columns: tuple[Column, ...], text: tuple[str, int] | None = None) -> None:
        self._reading = reading
        self._columns = columns
        self._text = text

    @classmethod
    def of_card(cls, path: Path) -> "TableRows":
        """Returns the reader for the model whose card.json is at `path`.

        Raises:
            InvalidTableError: There is no such file, or it is not the card of a model for tables.
        """
        try:
            data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["data"]
            # Cards of earlier versions do not say how the table was read.
            reading = Reading.model_validate(data.get("reading", {}))
            if "text" in data:
                return cls(reading, (), (str(data["text"]["column"]), int(data["text"]["bytes"])))
            return cls(reading, from_card(data["columns"]))
        except OSError as error:
            raise InvalidTableError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidTableError(f"{path} is not the card of a model that was trained on a table") from error

    def read(self, path: str, content: bytes, warn: Callable[[str], None] = lambda _: None) -> NDArray[Any]:
        """Returns the rows of a csv file, compressed or not, or of a Parquet file, as float32 [N, F], or of texts as uint8 [N, T].

        Columns may have any order, and others are ignored. `warn` is told of each column with categories that the model
        does not know; they are sent as unknown. Messages number the rows
        as ids do, from 0.

        Raises:
            InvalidTableError: A column is missing, or a cell is not what its column is; the message says where.
        """
        try:
            takes = [column.cells for column in self._columns] if self._text is None else [self._text[0]]
            cells = _cells(path, content, self._reading, "the model", list(dict.fromkeys(takes)))
            if self._text is None:
                for sentence in unknown(cells, self._columns):
                    warn(sentence)
                return encode(cells, self._columns)
            column, longest = self._text
            return np.asarray(as_bytes([(cell or "").encode() for cell in cells.values(column)], longest))
        except DataError as error:
            raise _invalid(error) from error
