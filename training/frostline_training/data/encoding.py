"""The encoding of a table's rows: from cells to the numbers that a network takes, and to the card and back."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from frostline_training.data.cells import Cells, missing_numbers
from frostline_training.data.rows import Column, DateOf
from frostline_training.sources import DatePart

_DAY_S = 86400.0
_COLUMNS = TypeAdapter(tuple[Column, ...])


def encode(cells: Cells, columns: Sequence[Column]) -> NDArray[np.float32]:
    """Return the rows as float32 [N, F]: numbers, NaN where one is missing, and categories by their position.

    A category that its column does not have is encoded as unknown, 0; so is one that is missing where the column has no
    number of its own for that. `unknown` tells which.

    Raises:
        DataError: A column is not there, or a cell is not what its column is; the text says where.
    """
    return exact(cells, columns).astype(np.float32)


def exact(cells: Cells, columns: Sequence[Column]) -> NDArray[np.float64]:
    """Return what `encode` does, before float32 rounds it.

    Raises:
        DataError: As there.
    """
    return np.array([_encoded(cells, column) for column in columns], dtype=np.float64).T.copy()


def unknown(cells: Cells, columns: Sequence[Column]) -> list[str]:
    """Return a sentence for each column that holds categories which it does not know.

    Raises:
        DataError: A column is not there.
    """
    sentences = []
    for column in columns:
        if column.categories is None:
            continue
        place = places(column, ("", *cells.reading.missing))
        strange = [
            (index, cell)
            for index, cell in enumerate(cells.values(column.cells))
            if cell is not None and cell not in place
        ]
        if strange:
            index, cell = strange[0]
            more = "" if len(strange) == 1 else f", and {len(strange) - 1} more such cells"
            fact = f"{cell!r} is no category that the model knows{more}: sent as unknown; it knows: {', '.join(column.known)}"
            sentences.append(str(cells.wrong(index, column.name, fact)))
    return sentences


def to_card(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return what a card says of `columns`."""
    told: list[dict[str, Any]] = _COLUMNS.dump_python(tuple(columns), mode="json", exclude_none=True)
    return told


def from_card(told: object) -> tuple[Column, ...]:
    """Return the columns that a card tells of.

    Raises:
        ValueError: It tells of none.
    """
    return _COLUMNS.validate_python(told)


def places(column: Column, missing: Sequence[str]) -> dict[str, float]:
    """Return the number of each text that a column of categories knows; any other text is unknown, 0.

    Args:
        column: The column.
        missing: Texts that stand for no value. They have a number only where the column has one of its own for that.
    """
    categories = {category: float(index) for index, category in enumerate(column.categories or ()) if index}
    absent = dict.fromkeys(missing, float(column.missing)) if column.missing else {}
    return absent | categories


def part_of(moment: datetime, part: DatePart, relative_to: datetime | None) -> float:
    """Return a part of a date as a number: weekdays from 0 (Monday), an age in days until `relative_to`."""
    match part:
        case "weekday":
            return float(moment.weekday())
        case "age_days":
            return math.nan if relative_to is None else (relative_to - moment).total_seconds() / _DAY_S
        case _:
            return float(getattr(moment, part))


def _encoded(cells: Cells, column: Column) -> list[float]:
    values = list(enumerate(cells.values(column.cells)))
    if column.date is not None:
        return [math.nan if cell is None else _part(cells, index, cell, column.date) for index, cell in values]
    if column.categories is not None:
        place, absent = places(column, ("", *cells.reading.missing)), float(column.missing)
        return [absent if cell is None else place.get(cell, 0.0) for _, cell in values]
    numbers = [math.nan if cell is None else cells.number(index, column.name, cell) for index, cell in values]
    stand_ins = missing_numbers(cells.reading)
    return [math.nan if float(np.float32(value)) in stand_ins else value for value in numbers] if stand_ins else numbers


def _part(cells: Cells, index: int, cell: str, date: DateOf) -> float:
    return part_of(cells.moment(index, date.column, cell, date.format), date.part, date.relative_to)
