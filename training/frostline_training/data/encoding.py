"""The encoding of a table's rows: from cells to the numbers that a network takes, and to the card and back."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from frostline_training.data.cells import Cells
from frostline_training.data.rows import Column, DateOf
from frostline_training.sources import DatePart

_DAY_S = 86400.0
_COLUMNS = TypeAdapter(tuple[Column, ...])


def encode(cells: Cells, columns: Sequence[Column]) -> NDArray[np.float32]:
    """Return the rows as float32 [N, F]: numbers, NaN where one is missing, and categories by their position.

    Raises:
        DataError: A column is not there, or a cell is not what its column is; the text says where.
    """
    return np.array([_encoded(cells, column) for column in columns], dtype=np.float32).T.copy()


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
        place = {category: index for index, category in enumerate(column.categories) if index}
        return [0.0 if cell is None else _place(cells, index, column, cell, place) for index, cell in values]
    return [math.nan if cell is None else cells.number(index, column.name, cell) for index, cell in values]


def _part(cells: Cells, index: int, cell: str, date: DateOf) -> float:
    return part_of(cells.moment(index, date.column, cell, date.format), date.part, date.relative_to)


def _place(cells: Cells, index: int, column: Column, cell: str, place: dict[str, int]) -> float:
    if cell not in place:
        # The first category stands for unknown values, such as an empty cell.
        raise cells.wrong(
            index,
            column.name,
            f"{cell!r} is no category that the model knows; it knows: {', '.join(place)}; "
            "leave the cell empty to send it as unknown",
        )
    return float(place[cell])
