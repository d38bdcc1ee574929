"""Raw rows: tables and texts as their users hold them, and the schema by which they become what a network takes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from frostline import pictures
from frostline.categories import MISSING, meant
from frostline.dates import coarse, written
from frostline_training.data import encoding
from frostline_training.data.cells import Cells
from frostline_training.data.rows import INPUT, UNKNOWN, Column, DateOf, Image, Text, check_servable
from frostline_training.data.tables import parts_of
from frostline_training.data.texts import IDS, check_text, encoded
from frostline_training.errors import DataError
from frostline_training.sources import DateColumn, DatePart, ImageFolder, Reading

_READING = Reading(missing=("",))  # values, not words: what is missing is None, NaN or an empty text
_LONGEST_NAME = 1000  # of an input that a server takes
_LARGEST_SIDE = 8192  # of pictures, as above


@dataclass(frozen=True)
class Number:
    """A column of numbers; it is NaN where one is missing.

    Attributes:
        name: What clients call it.
    """

    name: str


@dataclass(frozen=True)
class Category:
    """A column of texts out of a few; it is the place in `categories`, from 1, and 0 where it is missing or unknown.

    Attributes:
        name: What clients call it.
        categories: Those that the network knows. Where the last one is "(missing)", a missing one has its place.
    """

    name: str
    categories: Sequence[str]


@dataclass(frozen=True)
class Date:
    """A column of dates or times; it is one number for each of its parts, NaN where the date is missing.

    Attributes:
        name: What clients call it.
        parts: The numbers: month and day count from 1, weekday from 0 (Monday); `age_days` are the days until
            `relative_to`.
        format: ``iso``, or as in `datetime.strptime`.
        relative_to: What an age is measured from.
    """

    name: str
    parts: Sequence[DatePart] = ("year", "month", "day", "weekday")
    format: str = "iso"
    relative_to: datetime | None = None


class Frame(Protocol):
    """A table of pandas, polars or pyarrow."""

    @property
    def columns(self) -> Any:
        """Its columns, or their names."""


Input = Number | Category | Date | Column | Text | Image
RawRows = Mapping[str, Any] | Sequence[Any] | NDArray[Any] | Iterator[Any] | Frame | Cells
"""Rows with named columns: a list or array for each, a dict for each row, a table of pandas, polars or pyarrow. Of texts or
pictures, which are the only column, also the values themselves: a list, an array, a series or an iterator of them. A text is
a str, and None where one is missing. A picture is the path of a PNG, JPEG or WebP file, its bytes, a picture of Pillow, or
pixels uint8 [height, width] or [height, width, 1, 3 or 4]."""


def encode(rows: RawRows, inputs: Sequence[Input] | Input) -> Any:
    """Return raw rows as what a network takes, by the rule that a server encodes them by.

    Args:
        rows: A list or array for each column, a dict for each row, or a table of pandas, polars or pyarrow. Columns may
            have any order, and others are ignored. None, NaN and empty texts are missing values. Texts and pictures may
            also be a list of them; see `RawRows`.
        inputs: What each column is; one alone need not be in a list. The network's columns have their order; a date is one
            for each of its parts.

    Returns:
        Numbers float32 [N, F] of a table; bytes uint8 [N, T] or words int64 [N, T] of texts, or what a tokenizer makes of
        them by name, int64 [N, T] each; pixels float32 [N, C, H, W] of pictures.

    Raises:
        DataError: A column is not there, or a cell is not what its column is; the text says where.
    """
    media = media_of(inputs)
    if isinstance(media, Text):
        arrays = encoded(texts_of(rows, media), media)
        return arrays if media.tokenizer is not None else arrays[IDS]
    if media is not None:
        return decoded(files_of(rows, media), media)
    columns = columns_of(inputs)
    return encoding.encode(cells_of(rows, columns), columns)


def check_inputs(inputs: Sequence[Input] | Input | None) -> None:
    """Check what a network takes, if it takes raw rows.

    Raises:
        DataError: `inputs` cannot be the inputs of one network; the text says why.
    """
    if inputs is not None and media_of(inputs) is None:
        columns_of(inputs)


def check_outputs(names: Iterable[str], inputs: Iterable[str]) -> None:
    """Check the names of the targets that a network's outputs are called after.

    Args:
        names: Of the targets.
        inputs: Those of the network's own inputs.

    Raises:
        DataError: Clients could not read one; the text says why.
    """
    taken = set(inputs)
    for name in names:
        _check_name(name, "target")
        if name in taken:
            raise DataError(f"a target is called {name!r}, as an input of the network is: rename it")


def media_of(inputs: Sequence[Input] | Input) -> Text | Image | None:
    """Return the column of texts or pictures; None where `inputs` are a table.

    Raises:
        DataError: It is not the only column, or cannot be sent.
    """
    inputs = _inputs_of(inputs)
    media = next((one for one in inputs if isinstance(one, Text | Image)), None)
    if media is None:
        return None
    if len(inputs) > 1:
        raise DataError(
            f"the {_what(media)} {media.name!r} must be the only input of the network: it is given {len(inputs)}"
        )
    _check_name(media.name)
    if isinstance(media, Image):
        _check_image(media)
    else:
        check_text(media)
    return media


def _inputs_of(inputs: Sequence[Input] | Input) -> Sequence[Input]:
    if isinstance(inputs, Input):
        return [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes):
        raise DataError(
            f"inputs are {type(inputs).__name__}: give a list with a Number, Category or Date for each column, or one Text or "
            "Image"
        )
    return inputs


def _what(media: Text | Image) -> str:
    return "text" if isinstance(media, Text) else "image"


def _check_image(image: Image) -> None:
    try:
        # It checks what it is given, and is what recipes say of pictures.
        told = ImageFolder(path=Path(), size=image.size, color=image.color, fit=image.fit, background=image.background)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"the image {image.name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if max(told.size) > _LARGEST_SIDE:
        raise DataError(f"the image {image.name!r} has size={told.size}: at most {_LARGEST_SIDE} pixels a side")


def files_of(rows: RawRows, image: Image) -> list[bytes]:
    """Return the encoded pictures.

    Raises:
        DataError: `rows` are no pictures, or a file cannot be read; the text says where.
    """
    values = rows.columns[image.name] if isinstance(rows, Cells) else _values_of(rows, image)
    return [
        _file(value, f"the raw rows, row {row}, column {image.name!r}") for row, value in enumerate(values, start=1)
    ]


def _file(value: Any, where: str) -> bytes:
    match value:
        case bytes() | bytearray():
            return bytes(value)
        case str() | Path():
            try:
                return Path(value).read_bytes()
            except (OSError, ValueError) as error:
                raise DataError(f"{where}: cannot read {value}: {getattr(error, 'strerror', None) or error}") from error
    if pictures.is_open(value) or pictures.are_pixels(value):
        try:
            return pictures.as_file(value)
        except pictures.PictureError as error:
            raise DataError(f"{where}: {error}") from error
    told = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(
        f"{where}: {told} is not the path of a file, or its bytes, a picture of Pillow, or an array uint8 [height, width] or "
        "[height, width, 3 or 4]"
    )


def _values_of(rows: Any, media: Text | Image) -> list[Any]:
    """Return the values of the only column, however the rows hold them."""
    what = _what(media)
    one = isinstance(rows, str | bytes | bytearray | Path) or pictures.is_open(rows)
    if isinstance(rows, np.ndarray) and isinstance(media, Image) and rows.dtype != object:
        # Its rows would be taken for grey pictures.
        one = rows.ndim == 3 and rows.shape[2] in pictures.CHANNELS
    if one:
        raise DataError(
            f"the raw rows are a single {type(rows).__name__}: give a list of {what}s for the column {media.name!r}"
        )
    if isinstance(rows, Iterator):
        rows = list(rows)
    named = isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows)
    listed = isinstance(rows, Sequence | np.ndarray) or (_is_series(rows) and not hasattr(rows, "columns"))
    values: Any = rows
    if named or not listed:
        ((_, values),) = _by_column(rows, [media.name])
    try:
        # Not `tolist` of pixels, which would take each picture apart.
        cells = list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else _listed(values)
    except TypeError as error:
        raise DataError(f"the raw rows, column {media.name!r}: {error}") from None
    if not cells:
        raise DataError("there are no raw rows")
    return cells


def _is_series(rows: object) -> bool:
    """Whether it is a column of pandas, polars or pyarrow."""
    return hasattr(rows, "to_list") or hasattr(rows, "to_pylist")


def decoded(files: Sequence[bytes], image: Image) -> NDArray[np.float32]:
    """Return encoded pictures as float32 [N, C, H, W].

    Raises:
        DataError: One cannot be used; the text says why.
    """
    made = np.empty((len(files), *image.form.shape), np.float32)
    for row, content in enumerate(files):
        try:
            made[row] = pictures.read(content, image.form)
        except pictures.PictureError as error:
            raise DataError(f"the raw rows, row {row + 1}, column {image.name!r}: {error}") from error
    return made


def texts_of(rows: RawRows, text: Text) -> list[str | None]:
    """Return the texts, without the spaces around them unless a tokenizer takes them; None where one is missing.

    Raises:
        DataError: `rows` are no texts; the text says where.
    """
    if isinstance(rows, Cells):
        return rows.values(text.name)
    texts: list[str | None] = []
    for row, value in enumerate(_values_of(rows, text), start=1):
        where = f"the raw rows, row {row}, column {text.name!r}"
        if _is_missing(value):
            texts.append(None)
            continue
        if not isinstance(value, str):
            raise DataError(f"{where}: {value!r:.80} is {type(value).__name__}, not a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: {error}") from None
        texts.append((value if text.tokenizer is not None else value.strip()) or None)
    return texts


def columns_of(inputs: Sequence[Input] | Input) -> tuple[Column, ...]:
    """Return the network's columns.

    Raises:
        DataError: `inputs` cannot be the inputs of one network; the text says why.
    """
    columns: list[Column] = []
    taken: list[str] = []
    for place, one in enumerate(_inputs_of(inputs)):
        if not isinstance(one, Input):
            raise DataError(f"inputs[{place}] is {type(one).__name__}: give Number, Category, Date, Text or Image")
        made = _columns(one)
        further = (
            isinstance(one, Column) and one.date is not None and taken[-1:] == [one.cells]
        )  # part of the same date
        if not further:
            taken.append(made[0].cells)
        columns += made
    if not columns:
        raise DataError("inputs are empty: give a Number, Category or Date for each column")
    for name in (*taken, *(column.name for column in columns)):
        _check_name(name)
    for names in (taken, [column.name for column in columns]):
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise DataError(f"two inputs of the network are called {repeated[0]!r}: rename one, or leave it out")
    check_servable("inputs", columns)
    return tuple(columns)


def cells_of(rows: RawRows, columns: Sequence[Column]) -> Cells:
    """Return the cells of `columns` as texts.

    Raises:
        DataError: `rows` are no rows of these columns; the text says why, or where.
    """
    if isinstance(rows, Cells):
        return rows
    wanted = {column.cells: column for column in columns}
    cells = {}
    for name, values in _by_column(rows, wanted):
        try:
            cells[name] = [_text(value, wanted[name]) for value in _listed(values)]
        except TypeError as error:
            raise DataError(f"the raw rows, column {name!r}: {error}") from None
    counts = {name: len(texts) for name, texts in cells.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the raw rows' columns differ in length: {counts}")
    if not all(counts.values()):
        raise DataError("there are no raw rows")
    return Cells("the raw rows", cells, _READING)


def _check_name(name: object, what: str = "column") -> None:
    if not isinstance(name, str) or not name or "\0" in name or len(name) > _LONGEST_NAME:
        raise DataError(f"{name!r} is no name of a {what}: it must be a text of 1 to {_LONGEST_NAME} characters")
    if name == INPUT:
        raise DataError(f"a {what} is called {INPUT!r}, as the network's own input is: rename it, or leave it out")


def _columns(one: Input) -> list[Column]:
    match one:
        case Text() | Image():
            raise DataError(f"the {_what(one)} {one.name!r} must be the only input of the network")
        case Column():
            return [one]
        case Number():
            return [Column(one.name)]
        case Category():
            return [Column(one.name, (UNKNOWN, *_checked_categories(one)))]
        case Date():
            return list(_date_columns(one))


def _checked_categories(one: Category) -> list[str]:
    if isinstance(one.categories, str):
        raise DataError(f"the categories of {one.name!r} are one text: give a list of texts")
    categories = list(one.categories)
    if categories in ([], [MISSING]):
        raise DataError(f"the column {one.name!r} has no categories: give those that the network knows")
    for category in categories:
        if not isinstance(category, str):
            raise DataError(f"the category {category!r} of {one.name!r} is {type(category).__name__}, not a text")
        if category != category.strip() or category in ("", UNKNOWN):
            raise DataError(
                f"the column {one.name!r} cannot have the category {category!r}: an empty text is a missing value, "
                f"{UNKNOWN!r} stands for every unknown category, and spaces around a category are left out"
            )
        if category == MISSING and categories[-1] != MISSING:
            raise DataError(f"the column {one.name!r}: {MISSING!r} stands for no value, and must be the last category")
        if categories.count(category) > 1:
            raise DataError(f"the column {one.name!r} has the category {category!r} twice")
    return categories


def _date_columns(one: Date) -> Iterator[Column]:
    try:
        # It checks what it is given, and is what recipes say of dates.
        told = DateColumn(format=one.format, parts=tuple(one.parts), relative_to=one.relative_to)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"the date {one.name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    there = parts_of(told)
    for part in told.parts or ():
        if part not in there:
            raise DataError(f"the date {one.name!r}: the format {one.format} has no {part}")
        if part == "age_days" and told.relative_to is None:
            raise DataError(f"the date {one.name!r}: age_days needs relative_to, the date that ages are measured from")
        relative_to = told.relative_to if part == "age_days" else None
        yield Column(f"{one.name}.{part}", date=DateOf(one.name, told.format, part, relative_to))


def _by_column(rows: Any, wanted: Iterable[str]) -> Iterator[tuple[str, Any]]:
    get: Callable[[str], Any]
    if isinstance(rows, Mapping):
        there, get = list(rows), rows.__getitem__
    elif isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        strange = next((row for row in rows if not isinstance(row, Mapping)), None)
        if strange is not None:
            raise DataError(f"a raw row is {type(strange).__name__}, not a dict with a value for each column")
        yield from ((name, _of_each(rows, name)) for name in wanted)
        return
    elif hasattr(rows, "column_names"):  # pyarrow
        there, get = list(rows.column_names), rows.column
    elif hasattr(rows, "columns"):  # pandas and polars
        there, get = list(rows.columns), rows.__getitem__
    else:
        raise DataError(
            f"the raw rows are {type(rows).__name__}: give a list or array for each column, a dict for each row, or a table of "
            "pandas, polars or pyarrow"
        )
    for name in wanted:
        if there.count(name) != 1:
            what = "no column" if name not in there else "more than one column"
            raise DataError(f"the raw rows have {what} {name!r}; they have: {', '.join(map(str, there))}")
        yield name, get(name)


def _of_each(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    for index, row in enumerate(rows, start=1):
        if name not in row:
            raise DataError(
                f"the raw rows, row {index} has no {name!r}; it has: {', '.join(map(str, row))}; give None where it is missing"
            )
    return [row[name] for row in rows]


def _listed(values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        raise TypeError(f"it is {type(values).__name__}, not a list or an array with a value for each row")
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind == "M":
        values = np.asanyarray(values).astype("datetime64[us]")  # finer ones have no Python value; a mask stays
    values = coarse(values)
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            try:
                return list(getattr(values, method)())
            except (ValueError, OverflowError) as error:  # such as a date that Python's do not reach
                raise TypeError(f"it holds a value that Python has none for: {error}") from error
    return list(values)


def _text(value: Any, column: Column) -> str | None:
    """Return a value as a file would hold it.

    Raises:
        TypeError: It is none that such a column holds.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value.strip()
    if column.date is not None:
        return _date_text(value, column.date.format)
    return _number_text(value) if column.categories is None else _category_text(value, column.known)


def _is_missing(value: object) -> bool:
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and math.isnan(value))
    )


def _date_text(value: Any, form: str) -> str:
    if isinstance(value, date):
        try:
            return written(value, form)
        except (ValueError, OverflowError) as error:
            raise TypeError(f"{value!r} cannot be written as a date of the format {form}: {error}") from error
    raise TypeError(f"{value!r} is {type(value).__name__}, not a date or a text")


def _category_text(value: Any, known: Sequence[str]) -> str:
    text = meant(value, known)
    if text is None:
        raise TypeError(f"{value!r} is {type(value).__name__}, not a text")
    return text


def _number_text(value: Any) -> str:
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, date | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{value!r} is {type(value).__name__}, not a number")
    return str(int(value) if isinstance(value, bool) else value)  # a whole number, or a decimal one
