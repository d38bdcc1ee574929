"""The cells of a table, and what each stands for: a number, a date, or no value.

Training and `frostline predict` read cells by these rules alone, so a row means the same to both.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from frostline_training.errors import DataError
from frostline_training.sources import Reading

_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_ZERO = re.compile(r"[+-]?0\d", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)  # more is no float32, and NaN is not less
_NO_NUMBERS = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
# What may be a number, in a notation that the source does not name: 1,5 or 1.234,56 or 1 234 or 1'234.5.
_FOREIGN = re.compile(r"[+-]?(\d+|\d{1,3}([., '_\u00a0\u202f]\d{3})+)([.,]\d+)?([eE][+-]?\d+)?", re.ASCII)
_SPACES = re.compile("[\u00a0\u202f]")


@dataclass(frozen=True)
class Cells:
    """A table's cells as text, column by column, without the spaces around them; None where a file has none.

    Attributes:
        path: The file, as messages name it.
        columns: The cells by the names of the columns.
        reading: How they are read.
        lines: The line of the file, from 1, that each row begins in; empty where a file has no lines.
        first: The number of the first row, in messages.
        nested: Columns whose cells are lists or have parts, and what they hold, in words.
    """

    path: Path | str
    columns: Mapping[str, Sequence[str | None]]
    reading: Reading
    lines: Sequence[int] = ()
    first: int = 1
    nested: Mapping[str, str] = field(default_factory=dict)

    def take(self, index: Sequence[int]) -> "Cells":
        """Return those rows that `index` names, in its order; each keeps its line."""
        columns = {name: [cells[row] for row in index] for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in index] if self.lines else ())

    def only(self, columns: Iterable[str]) -> "Cells":
        """Return the cells of `columns` alone."""
        return replace(self, columns={name: self.columns[name] for name in columns})

    def wrong(self, index: int, column: str, fact: str, remedy: str = "") -> DataError:
        """Return the error that `fact` is so in a cell, which a recipe can help with the `remedy`."""
        line = f" (line {self.lines[index]})" if self.lines else ""
        return DataError(f"{self.path}, row {self.first + index}{line}, column {column!r}: {fact}", remedy)

    def values(self, column: str) -> list[str | None]:
        """Return the cells of `column`, None where one has no value.

        Raises:
            DataError: There is no such column.
        """
        if column not in self.columns:
            raise DataError(f"{self.path} has no column {column!r}; it has: {', '.join(self.columns)}")
        missing = frozenset(self.reading.missing)
        return [None if cell is None or cell in missing else cell for cell in self.columns[column]]

    def number(self, index: int, column: str, cell: str) -> float:
        """Return the number that `cell`, in row `index` of `column`, stands for.

        Raises:
            DataError: It is none, or none that float32 can hold.
        """
        value = number(cell, self.reading)
        if value is None:
            fact = f"{cell!r} is not a number{notation(cell, self.reading)}"
            raise self.wrong(index, column, fact, self.remedy(cell))
        if not abs(value) <= _LARGEST:
            raise self.wrong(
                index,
                column,
                f"{cell} is no finite number of float32 (at most 3.4e38); leave the cell empty where a value is missing",
            )
        return value

    def remedy(self, cell: str) -> str:
        """Return what helps where `cell` may be a number in another notation, else nothing."""
        if not foreign(cell) or not _is_plain(self.reading):
            return ""
        if not self.lines:  # texts in a file of typed values, or in memory, whose notation no recipe can say
            return "; give a number, or its text with a decimal point and nothing between the thousands"
        return '; say decimal="," or thousands="," (or ".", " ") in CsvFile if that is how its numbers are written'

    def moment(self, index: int, column: str, cell: str, form: str) -> datetime:
        """Return the date or time that `cell`, in row `index` of `column`, stands for.

        Raises:
            DataError: It is not of the format `form`.
        """
        value = moment(cell, form)
        if value is None:
            wanted = "an ISO date such as 2024-05-31 or 2024-05-31 14:05" if form == "iso" else f"of the format {form}"
            raise self.wrong(index, column, f"{cell!r} is not {wanted}")
        return value


def check_once(path: Path | str, names: Sequence[str]) -> None:
    """Check that each column of a file has a name of its own.

    Raises:
        DataError: One has not.
    """
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path} has more than one column {repeated!r}")


def text_of(value: object, path: Path | str, row: int | None = None, column: str = "") -> str:
    """Return a value as text; bytes are taken for UTF-8.

    Args:
        value: What a file of typed values has in a cell.
        path: The file, as messages call it.
        row: The cell's row, in messages; None where it has none.
        column: Likewise its column.

    Raises:
        DataError: It is bytes of something else.
    """
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        where = path if row is None else f"{path}, row {row}, column {column!r}"
        raise DataError(f"{where}: {value[:20]!r} is no text in UTF-8") from None


def number(cell: str, reading: Reading) -> float | None:
    """Return the number that `cell` stands for; None if it stands for none.

    Infinity and NaN as words are numbers, though no finite ones.
    """
    decimal, thousands = reading.decimal, reading.thousands
    if decimal == "." and not thousands:
        if _PLAIN.fullmatch(cell):
            return float(cell)
    else:
        text = _SPACES.sub(" ", cell) if thousands == " " else cell
        if _pattern(decimal, thousands).fullmatch(text):
            return float(text.replace(thousands, "").replace(decimal, "."))
    return float(cell) if _NO_NUMBERS.fullmatch(cell) else None


@lru_cache(maxsize=65536)  # dates repeat, and each is asked for once for every part
def moment(cell: str, form: str) -> datetime | None:
    """Return the date or time that `cell` stands for in the format `form`, in UTC if it has an offset; None if none."""
    try:
        if form == "iso":
            value = datetime.fromisoformat(cell) if _ISO.fullmatch(cell) else None
        else:
            value = datetime.strptime(cell, form)  # noqa: DTZ007 whether it has an offset is the format's
        return value if value is None or value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # the latter where there is no such year in UTC
        return None


def missing_numbers(reading: Reading) -> frozenset[float]:
    """Return the float32 numbers that the words for no value stand for, such as -999.

    A column of numbers has no value where it holds one of them, however it is written: who sends numbers and no texts
    sends -999.0.
    """
    values = (number(word, reading) for word in reading.missing)
    return frozenset(float(np.float32(value)) for value in values if value is not None and abs(value) <= _LARGEST)


def leads_with_zero(cell: str) -> bool:
    """Return whether `cell` begins with a zero that a number would lose: 05090, but not 0 or 0.5."""
    return cell[:1] in "+-0" and _ZERO.match(cell) is not None


def foreign(cell: str) -> bool:
    """Return whether `cell` may be a number with a decimal comma, or with thousands separated."""
    return _FOREIGN.fullmatch(cell) is not None


def notation(cell: str, reading: Reading) -> str:
    """Return how numbers are written if `cell` may be one in another notation than that, else nothing."""
    if not foreign(cell) or _is_plain(reading):
        return ""
    return f"; the source says decimal={reading.decimal!r} and thousands={reading.thousands!r}"


def _is_plain(reading: Reading) -> bool:
    return (reading.decimal, reading.thousands) == (".", "")


@cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    point = re.escape(decimal)
    # No group comes behind a zero: 0.500 is a half that was written otherwise, and not 500.
    whole = rf"[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+|\d+" if thousands else r"\d+"
    return re.compile(rf"[+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", re.ASCII)
