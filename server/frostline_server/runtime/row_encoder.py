"""The row encoder: raw columns of a table to the numbers that the network takes.

The version's own `preprocessing.onnx` turns numbers and categories into them. Dates become numbers here, because ONNX has
no operator that reads them. So do categories where the file only looks them up: in the file's own tables, which takes a
tenth of the time, and once it is proved that this gives what the file gives.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import cycle, islice
from struct import Struct, pack
from typing import Any

import numpy as np
import onnxruntime as ort

from frostline_server.errors import InvalidData, LoadError
from frostline_server.runtime.graph.label_encoders import Table, only_joins, without_label_encoders
from frostline_server.runtime.row_schema import Category, Column, Date, Number, Part, RowSchema
from frostline_server.runtime.run_errors import cleaned, run_error

Array = np.ndarray[Any, Any]

KNOWN, MISSING, UNKNOWN, OUTSIDE = range(4)
"""What training makes of a cell: it saw such a one; there is no value; it knows no such category; it saw none so low or so
high."""

_MOST_CELLS = 1 << 16
"""Cells of texts whose numbers are remembered, over all columns: 20 megabytes at most."""
_LONGEST_CELL = 64
"""Characters; longer ones are not."""
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_DAY_S = 86400.0
_LARGEST = float(np.finfo(np.float32).max)


class RowEncoder:
    """Encodes the raw rows of one version.

    Args:
        schema: the columns.
        content: the ONNX file that the schema names.
        input_name: the network's input, which is the file's output.
        width: how many numbers the network takes for a row; None if any.

    Raises:
        LoadError: the file cannot be run, or takes or gives something else.
    """

    def __init__(self, schema: RowSchema, content: bytes, input_name: str, width: int | None) -> None:
        self.schema = schema
        self._output = input_name
        session = _open(schema.file, content)
        self._missing = frozenset(schema.missing)
        # For each column: the names of the file's inputs.
        self._inputs = [_inputs_of(column) for column in schema.columns]
        # Where a column's number is in the network's input.
        starts = np.cumsum([0, *map(len, self._inputs)]).tolist()
        self._places = starts[:-1]
        self._check(session, starts[-1], width)
        numbers = [(at, column) for at, column in enumerate(schema.columns) if isinstance(column, Number)]
        self._numbers = [at for at, _ in numbers]
        self._number_columns = _span(self._numbers)
        self._number_places = _span([self._places[at] for at in self._numbers])
        self._lowest = np.array([-_LARGEST if c.lowest is None else c.lowest for _, c in numbers], np.float32)
        self._highest = np.array([_LARGEST if c.highest is None else c.highest for _, c in numbers], np.float32)
        self._categories = [at for at, column in enumerate(schema.columns) if isinstance(column, Category)]
        self._category_places = _span([self._places[at] for at in self._categories])
        missing = [column.missing for column in schema.columns if isinstance(column, Category)]
        self._missing_places = np.array(missing, np.float32) if any(missing) else None
        self._make: _Make = partial(_run, session, input_name)
        self._readers = self._readers_of(self._look_up_here(content))

    def _readers_of(self, tables: Mapping[str, Table]) -> "list[_Readers | None]":
        """For each column what reads its cells, which repeat; None where the file takes them."""
        plain: list[_Reader | None] = [
            partial(_read_date, column, self._missing)
            if isinstance(column, Date)
            else partial(_read_category, tables[column.name])
            if column.name in tables
            else None
            for column in self.schema.columns
        ]
        each = _MOST_CELLS // max(1, len(plain) - plain.count(None))
        return [None if read is None else (lru_cache(each)(partial(_short, read)), read) for read in plain]

    def _look_up_here(self, content: bytes) -> dict[str, Table]:
        """The tables of the categories by column, of which `_make` is without from now on.

        None where the two together are not known to give what the file gives.
        """
        rest = without_label_encoders(content, [self._inputs[at][0] for at in self._categories])
        if rest is None:
            return {}
        model, tables = rest
        inputs = [(tables[name].output if name in tables else name) for names in self._inputs for name in names]
        # Each category that there is, and one that there is not.
        rows = 1 + max((len(table.numbers) for table in tables.values()), default=0)
        texts: dict[str, Array] = {
            name: np.zeros((rows, 1), np.float32) for names in self._inputs for name in names if name not in tables
        }
        numbers = dict(texts)
        for name, table in tables.items():
            cells = list(islice(cycle([*table.numbers, _no_word(table)]), rows))
            texts[name] = np.array(cells, object)[:, None]
            numbers[table.output] = np.array([[table.number(cell)] for cell in cells], np.float32)
        try:
            make: _Make = (
                _join if only_joins(model, inputs) else partial(_run, _open(self.schema.file, model), self._output)
            )
            same = np.array_equal(self._make(texts), make({name: numbers[name] for name in inputs}), equal_nan=True)
        except Exception:  # noqa: BLE001  the file itself may do with rows as they come
            same = False
        if not same:
            return {}
        self._make = make
        for at in self._categories:
            self._inputs[at] = (tables[self._inputs[at][0]].output,)
        return tables

    def _check(self, session: ort.InferenceSession, width: int, expected: int | None) -> None:
        wanted = {name: "tensor(string)" if isinstance(column, Category) else "tensor(float)"
                  for column, names in zip(self.schema.columns, self._inputs, strict=True) for name in names}  # fmt: skip
        there = {node.name: node.type for node in session.get_inputs()}
        if there != wanted:
            odd = sorted(set(wanted.items()) ^ set(there.items()))
            raise LoadError(f"{self.schema.file} does not take the card's columns: {odd[:4]}")
        outputs = [node.name for node in session.get_outputs()]
        if outputs != [self._output]:
            raise LoadError(f"{self.schema.file} gives {outputs}, and the network takes {self._output!r}")
        if expected not in (None, width):
            raise LoadError(f"the card's columns make {width} numbers, and the network takes {expected}")

    def encode(self, columns: Sequence[Array]) -> tuple[list[Array], Array]:
        """The network's input for rows.

        Args:
            columns: for each column of the schema its cells [N]: numbers float64, NaN where one is missing; texts.

        Returns:
            The input, float32 [N, F]; and what each cell is, uint8 [N, columns]: see `KNOWN`.

        Raises:
            InvalidData: cells are not what their column is; the error names all such rows of the first such column.
        """
        rows = len(columns[0])
        states = np.zeros((rows, len(columns)), np.uint8)
        feed: dict[str, Array] = {}
        with np.errstate(over="ignore"):  # what single precision does not hold becomes infinite, and is refused
            for at, (cells, names, readers) in enumerate(zip(columns, self._inputs, self._readers, strict=True)):
                if readers is not None:
                    parts = np.frombuffer(self._read(at, cells.tolist(), readers), np.float32).reshape(rows, -1)
                    for index, name in enumerate(names):
                        feed[name] = parts[:, index : index + 1]
                    if len(names) < parts.shape[1]:
                        states[:, at] = parts[:, -1]
                elif cells.dtype.hasobject:
                    stripped = np.empty((rows, 1), object)
                    stripped[:, 0] = [cell.strip() for cell in cells.tolist()]
                    feed[names[0]] = stripped
                else:
                    feed[names[0]] = cells.astype(np.float32).reshape(rows, 1)
        try:
            encoded = self._make(feed)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            failure = run_error(error, "cpu")
        else:
            if self._numbers:
                self._look_at_numbers(encoded, columns, states)
            categories = encoded[:, self._category_places]
            odd = categories == 0
            if self._missing_places is not None:
                odd |= categories == self._missing_places
            if odd.any():
                for row, place in np.argwhere(odd).tolist():
                    at = self._categories[place]
                    missing = categories[row, place] > 0 or columns[at][row].strip() in self._missing
                    states[row, at] = MISSING if missing else UNKNOWN
            return [encoded], states
        raise failure

    def _look_at_numbers(self, encoded: Array, columns: Sequence[Array], states: Array) -> None:
        values = encoded[:, self._number_places]
        # Neither within the bounds nor missing: outside of them, or infinite.
        within = (values >= self._lowest) & (values <= self._highest)
        if within.all():
            return
        infinite = np.isinf(values)
        if infinite.any():
            place = int(infinite.any(axis=0).argmax())
            at = self._numbers[place]
            words = "is no finite number of float32 (at most 3.4e38); send NaN where a value is missing"
            bad = {row: f"{columns[at][row]:g} {words}" for row in np.flatnonzero(infinite[:, place]).tolist()}
            raise InvalidData.of_rows(self._where(at), bad)
        states[:, self._number_columns] = np.where(within, KNOWN, np.where(np.isnan(values), MISSING, OUTSIDE))

    def _read(self, at: int, cells: list[str], readers: "_Readers") -> bytes:
        """What a column's cells are read as."""
        remembered, read = readers
        try:
            try:
                return b"".join(map(remembered, cells))
            except _LongCell:
                return b"".join(map(read, cells))
        except _BadCell:
            bad = {row: error for row, cell in enumerate(cells) if (error := _error(read, cell))}
            raise InvalidData.of_rows(self._where(at), bad) from None

    def _where(self, at: int) -> str:
        return f"column {self.schema.columns[at].name!r}"


_Make = Callable[[Mapping[str, Array]], Array]
"""Makes the network's input of the file's inputs, which have the order of the columns."""
_Reader = Callable[[str], bytes]
"""Gives the numbers of a cell, float32, and of a date after them what it is to training."""
_Readers = tuple[_Reader, _Reader]
"""One that remembers, and one that does not."""


def _open(name: str | None, content: bytes) -> ort.InferenceSession:
    """A session of the file.

    Raises:
        LoadError: it cannot be run.
    """
    options = ort.SessionOptions()
    # A lookup for each row is no work for several threads.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise LoadError(f"{name} cannot be run: {cleaned(str(error))}") from error
    session._model_bytes = None  # noqa: SLF001  kept for a fallback, which is off
    return session


class _LongCell(Exception):
    """A cell is too long to be remembered."""


class _BadCell(Exception):
    """A cell is not what its column is, and why."""


def _error(read: _Reader, cell: str) -> str:
    """Why a cell cannot be read; "" where it can."""
    try:
        read(cell)
    except _BadCell as error:
        return str(error)
    return ""


def _short(read: _Reader, cell: str) -> bytes:
    """What a cell is read as; asked of those alone that are not remembered yet.

    Raises:
        _LongCell: it is too long for that.
    """
    if len(cell) > _LONGEST_CELL:
        raise _LongCell
    return read(cell)


def _run(session: ort.InferenceSession, output: str, inputs: Mapping[str, Array]) -> Array:
    (encoded,) = session.run([output], inputs)
    made: Array = encoded
    return made


def _join(inputs: Mapping[str, Array]) -> Array:
    return np.concatenate([*inputs.values()], axis=1)


def _span(places: Sequence[int]) -> slice | list[int]:
    """Places in a row, as NumPy selects them fastest."""
    together = bool(places) and list(places) == list(range(places[0], places[-1] + 1))
    return slice(places[0], places[-1] + 1) if together else list(places)


def _no_word(table: Table) -> str:
    """A text that the table does not have."""
    word = "?"
    while word in table.numbers:
        word += "?"
    return word


def _inputs_of(column: Column) -> tuple[str, ...]:
    """The names of the file's inputs for a column."""
    if isinstance(column, Date):
        return tuple(f"{column.name}.{part.part}" for part in column.parts)
    return (column.name,)


def _read_category(table: Table, cell: str) -> bytes:
    """The number of a category."""
    return _FLOAT(table.number(cell.strip()))


_FLOAT = Struct("=f").pack


def _read_date(column: Date, missing: frozenset[str], cell: str) -> bytes:
    """The parts of a date, and what it is to training.

    Raises:
        _BadCell: it is none.
    """
    parts = len(column.parts)
    text = cell.strip()
    if text in missing:
        return pack(f"={parts + 1}f", *[math.nan] * parts, MISSING)
    moment = _moment(column, text)
    if moment is None:
        iso = "an ISO date such as 2024-05-31 or 2024-05-31 14:05"
        wanted = iso if column.format == "iso" else f"of the format {column.format}"
        raise _BadCell(f"{cell[:80]!r} is not {wanted}; send an empty text where it is missing")
    before = column.lowest is not None and moment < column.lowest
    after = column.highest is not None and moment > column.highest
    numbers = [_number_of(moment, part) for part in column.parts]
    return pack(f"={parts + 1}f", *numbers, OUTSIDE if before or after else KNOWN)


def _moment(column: Date, text: str) -> datetime | None:
    """The date that a text says, in UTC; None if it says none."""
    if column.format == "iso" and not _ISO.fullmatch(text):
        return None
    try:
        moment = (
            datetime.fromisoformat(text) if column.format == "iso" else datetime.strptime(text, column.format)  # noqa: DTZ007  the format says whether it has an offset
        )
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # the latter where there is no such year in UTC
        return None


def _number_of(moment: datetime, part: Part) -> float:
    if part.relative_to is not None:
        return (part.relative_to - moment).total_seconds() / _DAY_S
    return float(moment.weekday() if part.part == "weekday" else getattr(moment, part.part))
