"""Tables as raw rows: files read by the rules that training read its own by, for a server that encodes them.

Beside the rows there is a sentence for each column in which cells are missing, or not as training saw them.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.categories import missing_word
from frostline.client.schema import Column, Schema
from frostline_training.data.cells import Cells, missing_numbers, moment
from frostline_training.errors import DataError
from frostline_training.sources import Reading


def reading_of(schema: Schema) -> Reading:
    """How the text of a model's tables is read.

    Raises:
        ValueError: The server tells of a way that this version does not know.
    """
    # Cards of earlier versions do not say it.
    return Reading.model_validate(schema.reading or {"missing": schema.missing})


def columns_of(cells: Cells, schema: Schema, warn: Callable[[str], None]) -> dict[str, NDArray[Any]]:
    """The columns of a model in a table; others are ignored, such as the target.

    Args:
        cells: The table.
        schema: What the model takes.
        warn: Is told of each column with cells that are missing, of unknown categories, or outside of what training saw.

    Returns:
        For each column its cells [rows], as `Client.predict` takes them.

    Raises:
        DataError: A column is missing, or a cell is not what its column is; the text says where.
    """
    arrays: dict[str, NDArray[Any]] = {}
    told = []
    check_names(cells.columns, cells.path, schema.model, [column.name for column in schema.columns])
    for column in schema.columns:
        if column.name not in cells.columns and column.share_missing:
            values: Sequence[str | None] = [None] * len(next(iter(cells.columns.values())))
            told.append(_absent(cells, column.name))
        else:
            values = cells.values(column.name)
        numbers = _numbers(cells, values, column) if column.kind == "number" else None
        if column.kind == "date":
            for index, value in enumerate(values):
                if value is not None:
                    cells.moment(index, column.name, value, column.format)
        if numbers is not None:
            arrays[column.name] = numbers
            values = [None if absent else value for value, absent in zip(values, np.isnan(numbers), strict=True)]
        else:
            texts = np.empty(len(values), object)
            empty = missing_word(schema.missing, column.categories)
            texts[:] = [empty if value is None else value for value in values]
            arrays[column.name] = texts
        facts = list(_facts(cells, values, column)) if column.name in cells.columns else []
        if facts:
            told.append(f"{cells.path}, column {column.name!r}: of {len(values)} cells {', '.join(facts)}")
    # Not before it is known that they can be sent.
    for sentence in told:
        warn(sentence)
    return arrays


def check_names(names: Collection[str], path: Path | str, model: str, takes: Sequence[str]) -> None:
    """Checks that the names of a table's columns may be names, and not the first row of a file without them.

    Raises:
        DataError: None of them is of a column that the model takes.
    """
    # One that differs by spaces and capital letters is a name, and told apart later.
    if {_folded(name) for name in names}.isdisjoint(map(_folded, takes)):
        has, expected = (", ".join(map(repr, each)) for each in (names, takes))
        raise DataError(
            f"{path} has no column of {model}, which takes {expected}; it has: {has}. The first line of a csv file names its "
            "columns"
        )


def _absent(cells: Cells, name: str) -> str:
    """What there is to say of a column that the table does not have.

    Raises:
        DataError: It has one of that name but for spaces and capital letters.
    """
    for other in cells.columns:
        if _folded(other) == _folded(name):
            raise DataError(f"{cells.path} has no column {name!r}, but {other!r}; rename it")
    return f"{cells.path} has no column {name!r}: it is missing in all rows"


def _folded(name: str) -> str:
    return name.strip().casefold()


def _numbers(cells: Cells, values: Sequence[str | None], column: Column) -> NDArray[np.float64]:
    numbers = np.array(
        [np.nan if value is None else cells.number(at, column.name, value) for at, value in enumerate(values)],
        np.float64,
    )
    # Words such as -999, however they are written.
    numbers[np.isin(numbers.astype(np.float32), list(missing_numbers(cells.reading)))] = np.nan
    return numbers


def _facts(cells: Cells, values: Sequence[str | None], column: Column) -> Iterator[str]:
    """What there is to say of a column's cells."""
    filled = {at: value for at, value in enumerate(values) if value is not None}
    if len(filled) < len(values):
        yield f"{len(values) - len(filled)} missing"
    if column.kind == "category":
        known = frozenset(column.categories)
        strange = [at for at, value in filled.items() if value not in known]
        what = "of a category that the model does not know"
    else:
        strange = [at for at, value in filled.items() if _is_outside(cells, at, value, column)]
        what = f"outside of what training saw, {_shown(column.lowest)} to {_shown(column.highest)}"
    if strange:
        first = strange[0]
        yield f"{len(strange)} {what}, such as {filled[first]!r} in row {cells.first + first}"


def _is_outside(cells: Cells, index: int, value: str, column: Column) -> bool:
    if column.lowest is None or column.highest is None:
        return False
    if isinstance(column.lowest, str) or isinstance(column.highest, str):
        found, lowest, highest = (
            moment(value, column.format), moment(str(column.lowest), "iso"), moment(str(column.highest), "iso")
        )  # fmt: skip
        return not (found and lowest and highest) or not lowest <= found <= highest
    # In single precision, as training saw them.
    lowest, number, highest = np.array(
        [column.lowest, cells.number(index, column.name, value), column.highest], np.float32
    )
    return not lowest <= number <= highest


def _shown(bound: float | str | None) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound).removesuffix("T00:00:00").replace("T", " ")
