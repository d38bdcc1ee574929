"""The row encoder: raw columns of a table to the numbers that the network takes.

The version's own `preprocessing.onnx` turns numbers and categories into them. Dates become numbers here, because ONNX has
no operator that reads them.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
import onnxruntime as ort

from frostline_server.errors import InvalidData, LoadError
from frostline_server.runtime.row_schema import Category, Column, Date, Number, Part, RowSchema
from frostline_server.runtime.run_errors import cleaned, run_error

Array = np.ndarray[Any, Any]

KNOWN, MISSING, UNKNOWN, OUTSIDE = range(4)
"""What training makes of a cell: it saw such a one; there is no value; it knows no such category; it saw none so low or so
high."""

_MOST_DATES = 1 << 16
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
        options = ort.SessionOptions()
        # A lookup for each row is no work for several threads.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise LoadError(f"{schema.file} cannot be run: {cleaned(str(error))}") from error
        session._model_bytes = None  # noqa: SLF001  kept for a fallback, which is off
        self._output = input_name
        self._session = session
        self._missing = frozenset(schema.missing)
        # For each column: the names of the file's inputs, and for dates what reads them, which repeat.
        self._inputs = [_inputs_of(column) for column in schema.columns]
        self._dates = {at: column for at, column in enumerate(schema.columns) if isinstance(column, Date)}
        self._readers: list[_Reader | None] = [
            lru_cache(_MOST_DATES)(partial(_read_date, column, self._missing)) if isinstance(column, Date) else None
            for column in schema.columns
        ]
        # Where a column's number is in the network's input.
        starts = np.cumsum([0, *map(len, self._inputs)]).tolist()
        self._places = starts[:-1]
        self._check(starts[-1], width)
        numbers = [(at, column) for at, column in enumerate(schema.columns) if isinstance(column, Number)]
        self._numbers = [at for at, _ in numbers]
        self._number_places = [self._places[at] for at in self._numbers]
        self._lowest = np.array([-_LARGEST if c.lowest is None else c.lowest for _, c in numbers], np.float32)
        self._highest = np.array([_LARGEST if c.highest is None else c.highest for _, c in numbers], np.float32)
        self._categories = [at for at, column in enumerate(schema.columns) if isinstance(column, Category)]
        self._category_places = [self._places[at] for at in self._categories]
        missing = [column.missing for column in schema.columns if isinstance(column, Category)]
        self._missing_places = np.array(missing, np.float32) if any(missing) else None

    def _check(self, width: int, expected: int | None) -> None:
        wanted = {name: "tensor(string)" if isinstance(column, Category) else "tensor(float)"
                  for column, names in zip(self.schema.columns, self._inputs, strict=True) for name in names}  # fmt: skip
        there = {node.name: node.type for node in self._session.get_inputs()}
        if there != wanted:
            odd = sorted(set(wanted.items()) ^ set(there.items()))
            raise LoadError(f"{self.schema.file} does not take the card's columns: {odd[:4]}")
        outputs = [node.name for node in self._session.get_outputs()]
        if outputs != [self._output]:
            raise LoadError(f"{self.schema.file} gives {outputs}, and the network takes {self._output!r}")
        if expected not in (None, width):
            raise LoadError(f"the card's columns make {width} numbers, and the network takes {expected}")

    def encode(self, columns: Sequence[Array]) -> tuple[Array, Array]:
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
        texts: dict[int, list[str]] = {}
        with np.errstate(over="ignore"):  # what single precision does not hold becomes infinite, and is refused
            for at, (cells, names, read) in enumerate(zip(columns, self._inputs, self._readers, strict=True)):
                if read is not None:
                    parts = self._dated(at, cells.tolist(), read, states)
                    for index, name in enumerate(names):
                        feed[name] = parts[:, index : index + 1]
                elif cells.dtype.hasobject:
                    texts[at] = [cell.strip() for cell in cells.tolist()]
                    stripped = np.empty(rows, object)
                    stripped[:] = texts[at]
                    feed[names[0]] = stripped.reshape(rows, 1)
                else:
                    feed[names[0]] = cells.astype(np.float32).reshape(rows, 1)
        try:
            (encoded,) = self._session.run([self._output], feed)
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
                    missing = categories[row, place] > 0 or texts[at][row] in self._missing
                    states[row, at] = MISSING if missing else UNKNOWN
            return encoded, states
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
            raise InvalidData.of_rows(f"column {self.schema.columns[at].name!r}", bad)
        states[:, self._numbers] = np.where(within, KNOWN, np.where(np.isnan(values), MISSING, OUTSIDE))

    def _dated(self, at: int, cells: list[str], read: "_Reader", states: Array) -> Array:
        found = [read(cell) for cell in cells]
        if None in found:
            column = self._dates[at]
            iso = "an ISO date such as 2024-05-31 or 2024-05-31 14:05"
            wanted = iso if column.format == "iso" else f"of the format {column.format}"
            bad = {
                row: f"{cell[:80]!r} is not {wanted}; send '' where it is missing"
                for row, (cell, parts) in enumerate(zip(cells, found, strict=True))
                if parts is None
            }
            raise InvalidData.of_rows(f"column {column.name!r}", bad)
        parts, told = zip(*found, strict=True)
        states[:, at] = told
        return np.array(parts, np.float32)


_Reader = Callable[[str], tuple[tuple[float, ...], int] | None]
"""Gives the parts of a date and what it is to training; None for what is none."""


def _inputs_of(column: Column) -> tuple[str, ...]:
    """The names of the file's inputs for a column."""
    if isinstance(column, Date):
        return tuple(f"{column.name}.{part.part}" for part in column.parts)
    return (column.name,)


def _read_date(column: Date, missing: frozenset[str], cell: str) -> tuple[tuple[float, ...], int] | None:
    """The parts of a date, and what it is to training; None if it is none."""
    cell = cell.strip()
    if cell in missing:
        return (math.nan,) * len(column.parts), MISSING
    if column.format == "iso" and not _ISO.fullmatch(cell):
        return None
    try:
        moment = (
            datetime.fromisoformat(cell) if column.format == "iso" else datetime.strptime(cell, column.format)  # noqa: DTZ007  the format says whether it has an offset
        )
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # the latter where there is no such year in UTC
        return None
    before = column.lowest is not None and moment < column.lowest
    after = column.highest is not None and moment > column.highest
    return tuple(_number_of(moment, part) for part in column.parts), OUTSIDE if before or after else KNOWN


def _number_of(moment: datetime, part: Part) -> float:
    if part.relative_to is not None:
        return (part.relative_to - moment).total_seconds() / _DAY_S
    return float(moment.weekday() if part.part == "weekday" else getattr(moment, part.part))
