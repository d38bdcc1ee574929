"""Raw rows: dicts and tables of what users have, as one array for each column of a model's schema.

Columns are matched by name. A value that its column cannot hold is refused with its place; a value that is not there is
missing, as it was in training.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import date
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from frostline.categories import meant, missing_word
from frostline.client import media
from frostline.client.arrays import is_table, names_of
from frostline.client.cells import Cells, Place, is_missing, is_scalar, is_unordered, located, texts, told
from frostline.client.errors import InvalidInput
from frostline.client.schema import Column, Schema
from frostline.dates import written

Extra = Literal["refuse", "ignore"]
"""What becomes of columns that the model does not take."""

_LISTED = 8
"""Categories that a message lists."""

_NUMBERS = (bool, int, float, Decimal, np.number, np.bool_)


def may_be(inputs: object) -> bool:
    """Whether these may be raw rows: a dict, a list of dicts, texts or pictures, or a table; or no rows at all."""
    if isinstance(inputs, list | tuple) and not inputs:
        return True
    return isinstance(inputs, Mapping) or is_records(inputs) or media.may_be(inputs) or is_table(inputs)


def is_records(inputs: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether it is a list with a dict for each row."""
    return isinstance(inputs, list | tuple) and len(inputs) > 0 and isinstance(inputs[0], Mapping)


def are_of(inputs: object, schema: Schema) -> bool:
    """Whether these are raw rows for a model, and not arrays by the names of the network's own inputs, or for the only one."""
    if media.may_be(inputs):
        shape = media.shape_of_pixels(inputs)
        if shape is not None and any(_fits(shape, spec.shape) for spec in schema.inputs):
            return False
        if media.is_pixels(inputs):
            return [column.pixels for column in schema.columns] == [True]
        return [column.kind in media.KINDS for column in schema.columns] == [True]
    own = {spec.name for spec in schema.inputs}
    return bool(schema.columns) and not (isinstance(inputs, Mapping) and inputs and own.issuperset(inputs))


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(size == want or want < 0 for size, want in zip(shape, wanted, strict=True))


def takes(cell: Any, column: Column) -> bool:
    """Whether a column takes a cell."""
    try:
        _KINDS[column.kind]([cell], column, "", partial(located, column.name, None))
    except InvalidInput:
        return False
    return True


def encoded(rows: Any, schema: Schema, extra: Extra = "refuse", *, paths: bool = True) -> dict[str, NDArray[Any]]:
    """Makes the model's columns of raw rows.

    Args:
        rows: A dict for each row, a dict of one row, a dict with a list or array for each column, or a table of pandas,
            polars or pyarrow; of a model that takes texts or pictures also what `media.may_be` these. None, NaN, NaT and
            NA are missing values. A column that is not there at all is missing in all rows, if it was missing in some rows
            of the training; a row has at least one.
        schema: What the model takes; it has columns.
        extra: Whether to refuse columns that the model does not take, or to ignore them.
        paths: Whether a text may be the path of a picture's file, which is read.

    Returns:
        For each column of the schema its cells [rows]: numbers float64, NaN where one is missing, or objects that are texts
        or files of pictures; of pictures also their pixels uint8 [rows, height, width, channels].

    Raises:
        InvalidInput: The rows do not have the columns, or a cell is not what its column is; the message says which, and what
            it may be. Rows count from 0.
        ValueError: `extra` is none of its words.
    """
    if extra not in get_args(Extra):
        raise ValueError(f"extra is {extra!r}; it may be {' or '.join(map(repr, get_args(Extra)))}")
    if media.may_be(rows):
        alone = media.cells_of(rows)
        count, columns = len(alone), {schema.columns[0].name: alone}
    elif is_records(rows):
        count, columns = len(rows), _of_records(rows, schema, extra)
    else:
        count, columns = _of_columns(rows, schema, extra)
    if count == 0:
        raise InvalidInput(f"there are no rows; {schema.expects}")
    arrays = {}
    for column in schema.columns:
        make = _KINDS.get(column.kind)
        if make is None:
            raise InvalidInput(
                f"{schema.model} has the column {column.name!r} of a kind that this client does not know ({column.kind}); "
                "install a newer version of frostline"
            )
        cells = columns.get(column.name)
        # Of one row nobody needs to know which it is.
        place = partial(located, column.name, 0 if count > 1 else None)
        if column.kind == "image" and not paths:
            media.refuse_paths([] if cells is None else cells, place)
        empty = missing_word(schema.missing, column.categories)
        arrays[column.name] = make([None] * count if cells is None else cells, column, empty, place)
    return arrays


def _of_records(rows: Sequence[Mapping[str, Any]], schema: Schema, extra: Extra) -> dict[str, Cells]:
    names = [column.name for column in schema.columns]
    known = frozenset(names)
    there: set[str] = set()
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(f"row {index} is {told(row)}, and rows before it are dicts; give a dict for each row")
        if not known.issuperset(row) and extra == "refuse":
            strange = [name for name in row if name not in known]
            raise _extra_columns(f"row {index} has", strange, schema)
        _refuse_none(row, known, schema, f"row {index} has")
        there.update(row)
    _refuse_absent(there, schema, "the rows have")
    return {name: [row.get(name) for row in rows] for name in names if name in there}


def _of_columns(table: Any, schema: Schema, extra: Extra) -> tuple[int, dict[str, Cells]]:
    one = isinstance(table, Mapping)
    what = "the row has" if one else "the table has"
    names = list(table) if one else names_of(table, schema.expects)
    known = {column.name for column in schema.columns}
    strange = [name for name in names if name not in known]
    if strange and extra == "refuse":
        raise _extra_columns(what, strange, schema)
    twice = next((name for name in known if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"the table has several columns {twice!r}")
    _refuse_absent(set(names), schema, what)
    _refuse_none(names, known, schema, what)
    found = {name: table[name] for name in names if name in known}
    unordered = next((name for name, value in found.items() if is_unordered(value)), None)
    if unordered is not None:
        raise InvalidInput(f"column {unordered!r} is a set, which has no order that its rows could have; give a list")
    pictures = {column.name for column in schema.columns if column.kind == "image"}
    alone = (not _is_column(value) or (name in pictures and media.is_picture(value)) for name, value in found.items())
    if one and all(alone):
        return 1, {name: [value] for name, value in found.items()}
    columns = {
        name: _pictures_of(name, value) if name in pictures else _cells(name, value) for name, value in found.items()
    }
    counts = {name: len(cells) for name, cells in columns.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidInput(f"the columns have different numbers of rows: {counted}")
    return next(iter(counts.values())), columns


def _refuse_absent(there: set[str], schema: Schema, what: str) -> None:
    absent = [column.name for column in schema.columns if column.name not in there and not column.share_missing]
    if absent:
        which = f"column {absent[0]!r}" if len(absent) == 1 else f"columns {', '.join(map(repr, absent))}"
        raise InvalidInput(
            f"{what} no {which}, and no row of the training lacked a value there; {schema.expects}. Give None where a value is "
            "missing"
        )


def _refuse_none(there: Iterable[Any], known: Set[str], schema: Schema, what: str) -> None:
    """Refuses what has no column of the model: that is no row in which all is missing, but one of something else."""
    if known.isdisjoint(there):
        has = ", ".join(map(repr, islice(there, _LISTED)))
        raise InvalidInput(
            f"{what} none of the columns of {schema.model}: {', '.join(column.name for column in schema.columns)}"
            f"{f'; there is {has}' if has else ''}. Give None where a value is missing"
        )


def _extra_columns(what: str, strange: Sequence[Any], schema: Schema) -> InvalidInput:
    names = ", ".join(map(repr, strange[:_LISTED])) + (", ..." if len(strange) > _LISTED else "")
    expected = ", ".join(column.name for column in schema.columns)
    return InvalidInput(
        f"{what} {names}, and {schema.model} expects only the columns {expected}; leave out the others, or say extra='ignore'"
    )


def _is_column(value: object) -> bool:
    """Whether it is a value for each row, and not one value."""
    # An array without axes has a length to Python, and refuses to tell it.
    if is_scalar(value):
        return False
    return not isinstance(value, str | bytes | np.generic) and hasattr(value, "__len__")


def _cells(name: str, values: Any) -> Cells:
    """The values of a column, one for each row: an array of numbers, or a list."""
    if not _is_column(values) or isinstance(values, Mapping):
        raise InvalidInput(
            f"column {name!r} is {told(values)} beside columns with a value for each row; give a list or an array, or a dict "
            "for each row"
        )
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(object)  # whose masked elements become None
    if isinstance(values, np.ndarray) and values.ndim > 1:
        if values.shape[1:] != (1,):
            raise InvalidInput(
                f"column {name!r} is an array of shape {list(values.shape)}; a column has one value for each row"
            )
        values = values[:, 0]
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
        return np.asarray(values)
    if isinstance(dtype, np.dtype) and dtype.kind == "M":
        # Finer ones have no Python value.
        values = np.asarray(values).astype("datetime64[us]")
    values = media.unboxed(values, f"column {name!r}")
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _pictures_of(name: str, values: Any) -> Cells:
    """The pictures of a column, whose arrays stay such."""
    if not _is_column(values) or isinstance(values, Mapping):
        return _cells(name, values)
    return values if media.is_pixels(values) else list(media.unboxed(values, f"column {name!r}"))


# Numbers


def _numbers(cells: Cells, column: Column, empty: str, place: Place) -> NDArray[Any]:
    del column, empty
    if isinstance(cells, np.ndarray):
        array = cells.astype(np.float64)
    else:
        array = np.array([_number(cell, index, place) for index, cell in enumerate(cells)], np.float64)
    with np.errstate(over="ignore"):
        infinite = np.isinf(array.astype(np.float32))
    if infinite.any():
        index = int(infinite.argmax())
        raise InvalidInput(
            f"{place(index)}: {array[index]:g} is no finite number of float32 (at most 3.4e38); give None where a value is "
            "missing"
        )
    return array


def _number(cell: Any, index: int, place: Place) -> float:
    if type(cell) is float:
        return cell
    if is_missing(cell):
        return float("nan")
    if isinstance(cell, _NUMBERS) and not isinstance(cell, np.complexfloating | np.timedelta64):
        try:
            return float(cell)
        except OverflowError:  # of an int
            return float("inf") if cell > 0 else float("-inf")
    if is_scalar(cell):
        return _number(cell.tolist(), index, place)
    raise InvalidInput(f"{place(index)}: a number is expected, but it is {told(cell)}{_remedy(cell)}")


def _remedy(cell: Any) -> str:
    if not isinstance(cell, str):
        return ""
    try:
        float(cell)
    except ValueError:
        return "; give a number, or None where it is missing"
    return f"; convert it: float({cell!r:.40})"


# Categories


def _categories(cells: Cells, column: Column, empty: str, place: Place) -> NDArray[Any]:
    listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
    return texts([_category(cell, index, column, empty, place) for index, cell in enumerate(listed)], place)


def _category(cell: Any, index: int, column: Column, empty: str, place: Place) -> str:
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        return empty
    if is_scalar(cell):
        return _category(cell.tolist(), index, column, empty, place)
    found = meant(cell, column.categories)
    if found is None:
        known = ", ".join(map(repr, column.categories[:_LISTED]))
        more = f" and {len(column.categories) - _LISTED} more" if len(column.categories) > _LISTED else ""
        raise InvalidInput(
            f"{place(index)}: the text of a category is expected, but it is {told(cell)}; the model knows {known}{more}"
        )
    return found


# Dates


def _dates(cells: Cells, column: Column, empty: str, place: Place) -> NDArray[Any]:
    listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
    return texts([_date(cell, index, column, empty, place) for index, cell in enumerate(listed)], place)


def _date(cell: Any, index: int, column: Column, empty: str, place: Place) -> str:
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        return empty
    value = cell
    if is_scalar(cell):
        return _date(np.asarray(cell)[()], index, column, empty, place)
    if isinstance(cell, np.datetime64):
        value = cell.astype("datetime64[us]").item()  # a whole number where Python has no such date
    if not isinstance(value, date):
        wanted = "an ISO date" if column.format == "iso" else f"a date of the format {column.format}"
        raise InvalidInput(
            f"{place(index)}: a date is expected, but it is {told(cell)}; give a datetime, a date, or the text of {wanted}"
        )
    try:
        return written(value, column.format)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{place(index)}: {told(cell)} cannot be written as a date of the format {column.format}: {error}"
        ) from error


# Texts and pictures


def _free_texts(cells: Cells, column: Column, empty: str, place: Place) -> NDArray[Any]:
    del column
    return media.free_texts(cells.tolist() if isinstance(cells, np.ndarray) else cells, place, empty)


def _pictures(cells: Cells, column: Column, empty: str, place: Place) -> NDArray[Any]:
    del empty
    return media.pictures(cells, place, pixels=column.pixels)


_KINDS: Mapping[str, Callable[[Cells, Column, str, Place], NDArray[Any]]] = {
    "number": _numbers,
    "category": _categories,
    "date": _dates,
    "text": _free_texts,
    "image": _pictures,
}
"""What makes an array of the cells of a column, by its kind: of the cells, the column, the word for no value, and where they are."""
