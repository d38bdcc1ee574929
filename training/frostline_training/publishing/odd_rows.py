"""Odd rows: what real rows rarely hold and clients send sooner or later, as a golden sample has them.

Each is a copy of a real row with one cell changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

from frostline_training.data import Column, evenly
from frostline_training.data.cells import Cells, moment

_MOST = 1024  # of a table of hundreds of columns; those of all would be a golden sample of hundreds of megabytes
_NUMBERS = (0.0, -1.0, 1e38, 1e-40)
_TEXTS = ("\N{FOX FACE}", "a\0b", "")
_DAYS = (datetime(2024, 2, 29, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC))
_WITH_OFFSET = datetime(2024, 2, 29, 23, 59, 59, tzinfo=timezone(timedelta(hours=2)))


@dataclass(frozen=True)
class Change:
    """A cell that is changed.

    Attributes:
        column: The cell's column.
        cell: What it becomes, as a client sends it, with the spaces around it; None for no value.
        far: Whether it may be far from everything that training saw, where the network's answer may not be one.
    """

    column: str
    cell: str | None
    far: bool = False

    @property
    def told(self) -> str:
        """What is odd, in words."""
        return f"{self.column!r} is {'missing' if self.cell is None else repr(self.cell)}"


def changes(columns: Sequence[Column], real: Cells) -> list[Change]:
    """Return the changes, at most 1024, spread evenly over the columns of a table.

    Args:
        columns: The network's.
        real: Real rows, to say how numbers are written and what is missing.
    """
    first = {column.cells: column for column in reversed(columns)}
    every = [change for name in dict.fromkeys(column.cells for column in columns) for change in _of(first[name], real)]
    return [every[index] for index in evenly(len(every), _MOST)]


def changed(real: Cells, made: Sequence[Change]) -> Cells:
    """Return a copy of a real row for each of the changes, as training reads it."""
    rows = real.take([index % _count(real) for index in range(len(made))])
    columns = {name: list(cells) for name, cells in rows.columns.items()}
    for index, change in enumerate(made):
        columns[change.column][index] = None if change.cell is None else change.cell.strip()
    return replace(rows, columns=columns)


def storable(cells: Cells) -> list[int]:
    """Return the rows whose texts NumPy keeps as they are: it cuts those that end in NUL."""
    bad = {
        index
        for texts in cells.columns.values()
        for index, cell in enumerate(texts)
        if cell is not None and cell.endswith("\0")
    }
    return [index for index in range(_count(cells)) if index not in bad]


def _of(column: Column, real: Cells) -> Iterator[Change]:
    name = column.cells
    yield Change(name, None)
    if column.date is not None:
        form = column.date.format
        texts = [day.date().isoformat() if form == "iso" else day.strftime(form) for day in _DAYS]
        for text in (*texts, *([_WITH_OFFSET.isoformat()] if form == "iso" else ())):
            if moment(text, form) is not None:
                yield Change(name, text, far=True)
    elif column.categories is not None:
        unknown = "Narnia"
        while unknown in (*column.categories, *real.reading.missing):
            unknown += "'"
        for text in (unknown, *_TEXTS, f" {column.known[-1]} "):
            yield Change(name, text)
    else:
        for number in _NUMBERS:
            yield Change(name, repr(number).replace(".", real.reading.decimal), far=True)


def _count(cells: Cells) -> int:
    return len(next(iter(cells.columns.values())))
