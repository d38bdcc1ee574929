"""Raw rows: dicts and tables of what users have, as one array for each column of a model's schema.

Columns are matched by name. A value that its column cannot hold is refused with its place; a value that is not there is
missing, as it was in training.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from frostline.client.arrays import is_table, names_of
from frostline.client.errors import InvalidInput
from frostline.client.schema import Column, Schema
from frostline.dates import written

Extra = Literal["refuse", "ignore"]
"""What becomes of columns that the model does not take."""

Cells = Sequence[Any] | NDArray[Any]

_MEDIA = ("text", "image")
"""The kinds of columns that are the only one of their model."""

_LISTED = 8
"""Categories that a message lists."""

_MOST_PIXEL_BYTES = 1 << 20
"""Pictures of more bytes are sent as files: these are smaller, and one must fit into a message."""

_NUMBERS = (bool, int, float, Decimal, np.number, np.bool_)
_YES = {True: ("true", "yes"), False: ("false", "no")}
"""How truth values are written in tables, in small letters."""


def may_be(inputs: object) -> bool:
    """Whether these may be raw rows: a dict, a list of dicts, a list of texts or pictures, or a table."""
    alone = is_media(inputs) or is_pixels(inputs)
    return alone or isinstance(inputs, Mapping) or is_records(inputs) or is_table(inputs)


def is_records(inputs: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether it is a list with a dict for each row."""
    return isinstance(inputs, list | tuple) and len(inputs) > 0 and isinstance(inputs[0], Mapping)


def is_media(inputs: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list that begins with a text or a picture."""
    return (
        isinstance(inputs, list | tuple) and len(inputs) > 0 and (isinstance(inputs[0], str) or _is_picture(inputs[0]))
    )


def is_pixels(inputs: object) -> TypeGuard[NDArray[np.uint8]]:
    """Whether it is an array that may be pictures: uint8 [rows, height, width] or [rows, height, width, channels]."""
    return isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and inputs.ndim in (3, 4)


def are_of(inputs: object, schema: Schema) -> bool:
    """Whether these are raw rows for a model, and not arrays by the names of the network's own inputs, or for the only one."""
    if is_pixels(inputs):
        return [column.pixels for column in schema.columns] == [True] and not any(
            _fits(inputs.shape, spec.shape) for spec in schema.inputs
        )
    if is_media(inputs):
        return [column.kind in _MEDIA for column in schema.columns] == [True]
    own = {spec.name for spec in schema.inputs}
    return bool(schema.columns) and not (isinstance(inputs, Mapping) and inputs and own.issuperset(inputs))


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(size == want or want < 0 for size, want in zip(shape, wanted, strict=True))


def missing_word(schema: Schema) -> str:
    """The text that stands for no value in a column of texts: the empty one, if it does."""
    return "" if "" in schema.missing or not schema.missing else schema.missing[0]


def encoded(rows: Any, schema: Schema, extra: Extra = "refuse") -> dict[str, NDArray[Any]]:
    """Makes the model's columns of raw rows.

    Args:
        rows: A dict for each row, a dict of one row, a dict with a list or array for each column, or a table of pandas,
            polars or pyarrow; of a model that takes texts or pictures also a list of these, and pixels of pictures as
            one array. None, NaN, NaT and NA are missing values. A column that is not there at all is missing in all rows, if it was missing in some rows of the training.
        schema: What the model takes; it has columns.
        extra: Whether to refuse columns that the model does not take, or to ignore them.

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
    if is_media(rows) or is_pixels(rows):
        count = len(rows)
        columns: dict[str, Cells] = {schema.columns[0].name: rows}
    elif is_records(rows):
        count, columns = len(rows), _of_records(rows, schema, extra)
    else:
        count, columns = _of_columns(rows, schema, extra)
    empty = missing_word(schema)
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
        place = partial(_place, column.name, 0 if count > 1 else None)
        arrays[column.name] = make([None] * count if cells is None else cells, column, empty, place)
    return arrays


def _of_records(rows: Sequence[Mapping[str, Any]], schema: Schema, extra: Extra) -> dict[str, Cells]:
    names = [column.name for column in schema.columns]
    known = frozenset(names)
    there: set[str] = set()
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(f"row {index} is {_told(row)}, and rows before it are dicts; give a dict for each row")
        if not known.issuperset(row) and extra == "refuse":
            strange = [name for name in row if name not in known]
            raise _extra_columns(f"row {index} has", strange, schema)
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
    found = {name: table[name] for name in names if name in known}
    pictures = {column.name for column in schema.columns if column.kind == "image"}
    alone = (not _is_column(value) or (name in pictures and _is_picture(value)) for name, value in found.items())
    if one and found and all(alone):
        return 1, {name: [value] for name, value in found.items()}
    columns = {name: list(value) if name in pictures else _cells(name, value) for name, value in found.items()}
    counts = {name: len(cells) for name, cells in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidInput(f"the columns have different numbers of rows: {told}")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise InvalidInput(f"there are no rows; {schema.expects}")
    return count, columns


def _refuse_absent(there: set[str], schema: Schema, what: str) -> None:
    absent = [column.name for column in schema.columns if column.name not in there and not column.share_missing]
    if absent:
        which = f"column {absent[0]!r}" if len(absent) == 1 else f"columns {', '.join(map(repr, absent))}"
        raise InvalidInput(
            f"{what} no {which}, and no row of the training lacked a value there; {schema.expects}. Give None where a value is "
            "missing"
        )


def _extra_columns(what: str, strange: Sequence[Any], schema: Schema) -> InvalidInput:
    names = ", ".join(map(repr, strange[:_LISTED])) + (", ..." if len(strange) > _LISTED else "")
    expected = ", ".join(column.name for column in schema.columns)
    return InvalidInput(
        f"{what} {names}, and {schema.model} expects only the columns {expected}; leave out the others, or say extra='ignore'"
    )


def _is_column(value: object) -> bool:
    """Whether it is a value for each row, and not one value."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return not isinstance(value, str | bytes | np.generic) and hasattr(value, "__len__")


def _cells(name: str, values: Any) -> Cells:
    """The values of a column, one for each row: an array of numbers, or a list."""
    if not _is_column(values) or isinstance(values, Mapping):
        raise InvalidInput(
            f"column {name!r} is {_told(values)} beside columns with a value for each row; give a list or an array, or a dict "
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
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)


_Place = Callable[[int], str]
"""Says where a cell is, by the number of its row."""


def _place(name: str, first: int | None, index: int) -> str:
    return f"column {name!r}" if first is None else f"column {name!r}, row {first + index}"


def _is_missing(cell: Any) -> bool:
    if cell is None:
        return True
    if isinstance(cell, Decimal):
        return cell.is_nan()
    if isinstance(cell, float | np.floating):
        return bool(np.isnan(cell))
    if isinstance(cell, np.datetime64):
        return bool(np.isnat(cell))
    return type(cell).__name__ in {"NAType", "NaTType"}  # of pandas, which need not be installed


# Numbers


def _numbers(cells: Cells, column: Column, empty: str, place: _Place) -> NDArray[Any]:
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


def _number(cell: Any, index: int, place: _Place) -> float:
    if type(cell) is float:
        return cell
    if _is_missing(cell):
        return float("nan")
    if isinstance(cell, _NUMBERS) and not isinstance(cell, np.complexfloating | np.timedelta64):
        try:
            return float(cell)
        except OverflowError:  # of an int
            return float("inf") if cell > 0 else float("-inf")
    hint = f"; convert it: float({cell!r:.40})" if isinstance(cell, str) else ""
    raise InvalidInput(f"{place(index)}: a number is expected, but it is {_told(cell)}{hint}")


# Categories


def _categories(cells: Cells, column: Column, empty: str, place: _Place) -> NDArray[Any]:
    listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
    return _texts([_category(cell, index, column, empty, place) for index, cell in enumerate(listed)], place)


def _category(cell: Any, index: int, column: Column, empty: str, place: _Place) -> str:
    if isinstance(cell, str):
        return cell
    if _is_missing(cell):
        return empty
    found: str | None = None
    if isinstance(cell, bool | np.bool_):
        found = _only([text for text in column.categories if text.casefold() in _YES[bool(cell)]], str(bool(cell)))
    elif isinstance(cell, int | np.integer) or (isinstance(cell, float | np.floating) and cell.is_integer()):
        # A table of pandas has floats where a whole number is missing.
        numbers = {text: number for text in column.categories if (number := _whole(text)) is not None}
        alike = [text for text, number in numbers.items() if number == int(cell)]
        # One among other numbers is a category that the model does not know, as its text would be.
        found = _only(alike, str(int(cell))) if alike or not numbers else str(int(cell))
    if found is None:
        known = ", ".join(map(repr, column.categories[:_LISTED]))
        more = f" and {len(column.categories) - _LISTED} more" if len(column.categories) > _LISTED else ""
        raise InvalidInput(
            f"{place(index)}: the text of a category is expected, but it is {_told(cell)}; the model knows {known}{more}"
        )
    return found


def _only(texts: Sequence[str], exact: str) -> str | None:
    """The text that is meant: the exact one, or the only one; None if there is none, or one of several."""
    return exact if exact in texts else texts[0] if len(texts) == 1 else None


def _whole(text: str) -> int | None:
    """The whole number that a category is written as, also with zeros before it: 05090, or 3.0."""
    try:
        number = float(text)
        return int(text) if text.isdecimal() else int(number) if number.is_integer() else None
    except ValueError:
        return None


# Dates


def _dates(cells: Cells, column: Column, empty: str, place: _Place) -> NDArray[Any]:
    listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
    return _texts([_date(cell, index, column, empty, place) for index, cell in enumerate(listed)], place)


def _date(cell: Any, index: int, column: Column, empty: str, place: _Place) -> str:
    if isinstance(cell, str):
        return cell
    if _is_missing(cell):
        return empty
    value = cell
    if isinstance(cell, np.datetime64):
        value = cell.astype("datetime64[us]").item()  # a whole number where Python has no such date
    if not isinstance(value, date):
        wanted = "an ISO date" if column.format == "iso" else f"a date of the format {column.format}"
        raise InvalidInput(
            f"{place(index)}: a date is expected, but it is {_told(cell)}; give a datetime, a date, or the text of {wanted}"
        )
    try:
        return written(value, column.format)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{place(index)}: {_told(cell)} cannot be written as a date of the format {column.format}: {error}"
        ) from error


# Texts and pictures


def _free_texts(cells: Cells, column: Column, empty: str, place: _Place) -> NDArray[Any]:
    del column
    listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
    return _texts([_free_text(cell, index, empty, place) for index, cell in enumerate(listed)], place)


def _free_text(cell: Any, index: int, empty: str, place: _Place) -> str:
    if isinstance(cell, str):
        return cell
    if _is_missing(cell):
        return empty
    raise InvalidInput(f"{place(index)}: a text is expected, but it is {_told(cell)}")


def _is_picture(value: object) -> bool:
    """Whether it is a file or pixels, and can be no number, category or list of them."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim in (2, 3)
    return isinstance(value, bytes | bytearray | Path) or _is_open(value)


def _is_open(value: object) -> bool:
    """Whether it is a picture of Pillow, which need not be imported for who has none."""
    return hasattr(value, "save") and hasattr(value, "getbands")


def _pictures(cells: Cells, column: Column, empty: str, place: _Place) -> NDArray[Any]:
    del empty
    if is_pixels(cells):
        return cells
    if column.pixels and _are_alike(cells):
        pixels = np.stack(list(cells))
        return pixels if pixels.ndim == 4 else pixels[:, :, :, np.newaxis]
    array = np.empty(len(cells), object)
    array[:] = [_picture(cell, index, place) for index, cell in enumerate(cells)]
    return array


def _are_alike(cells: Cells) -> bool:
    """Whether all are pixels of small pictures of one size."""
    first = cells[0]
    return (
        isinstance(first, np.ndarray)
        and first.nbytes <= _MOST_PIXEL_BYTES
        and all(_is_picture(cell) and getattr(cell, "shape", None) == first.shape for cell in cells)
    )


def _picture(cell: Any, index: int, place: _Place) -> bytes:
    if isinstance(cell, bytes | bytearray):
        return bytes(cell)
    if isinstance(cell, str | Path):
        try:
            return Path(cell).read_bytes()
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{place(index)}: the picture {str(cell)!r:.200} cannot be read: {told}") from error
    if (isinstance(cell, np.ndarray) and _is_picture(cell)) or _is_open(cell):
        return _png(cell, index, place)
    raise InvalidInput(
        f"{place(index)}: a picture is expected, but it is {_told(cell)}; give a path, the bytes of a file, a picture of Pillow, "
        "or an array uint8 [height, width] or [height, width, 3 or 4]"
    )


def _png(picture: Any, index: int, place: _Place) -> bytes:
    """A picture without a file as one, of the same pixels."""
    from PIL import Image  # noqa: PLC0415  slow to load, and only for those who have pictures

    file = io.BytesIO()
    try:
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        # It turns what its EXIF data says, as of a file.
        image.save(file, "PNG", exif=image.getexif())
    except (OSError, TypeError, ValueError) as error:
        raise InvalidInput(f"{place(index)}: the picture cannot be sent as a PNG: {error}") from error
    return file.getvalue()


def _texts(texts: list[str], place: _Place) -> NDArray[Any]:
    array = np.empty(len(texts), object)
    array[:] = texts
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        index = next(at for at, text in enumerate(texts) if any("\ud800" <= each <= "\udfff" for each in text))
        raise InvalidInput(
            f"{place(index)}: {texts[index]!r:.40} has half of a surrogate pair, which is no character"
        ) from None
    return array


def _told(value: object) -> str:
    """A value in a message to the user, with its type."""
    return f"{value!r:.40} ({type(value).__name__})"


_KINDS: Mapping[str, Callable[[Cells, Column, str, _Place], NDArray[Any]]] = {
    "number": _numbers,
    "category": _categories,
    "date": _dates,
    "text": _free_texts,
    "image": _pictures,
}
"""What makes an array of the cells of a column, by its kind: of the cells, the column, the word for no value, and where they are."""
