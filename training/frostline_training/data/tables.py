"""The readers of CSV and Parquet files; an error names the row and the column."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.pythontext import as_bytes
from frostline_training.data.rows import UNKNOWN, Array, Column, Dataset, Rows
from frostline_training.errors import DataError
from frostline_training.sources import ColumnKind, CsvFile, ParquetFile

_MOST_CATEGORIES = 100  # a column with more different texts is more likely an identifier or a text
_LARGEST = float(np.finfo(np.float32).max)  # more is no float32, and NaN is not less
_MOSTLY = 0.9  # a column with more numbers than this is one of numbers, and its other cells are mistakes


@dataclass(frozen=True)
class _Table:
    """A file's cells as text, column by column; None where a cell is missing. `first_row` is what messages count from."""

    path: Path
    cells: Mapping[str, Sequence[str | None]]
    first_row: int

    def wrong(self, index: int, column: str, fact: str) -> DataError:
        """Return the error that `fact` is so in a cell."""
        return DataError(f"{self.path}, row {self.first_row + index}, column {column!r}: {fact}")


def load(source: CsvFile | ParquetFile) -> Dataset:
    """Read a table.

    Raises:
        DataError: It is missing, empty or ragged, lacks a column, or a cell is not what its column is.
    """
    table = _read_csv(source) if isinstance(source, CsvFile) else _read_parquet(source)
    targets = (source.target,) if isinstance(source.target, str) else source.target
    for name in (*targets, *source.columns):
        if name not in table.cells:
            what = "target column" if name in targets else "column"
            raise DataError(f"{source.path} has no {what} {name!r}; its columns are: {', '.join(table.cells)}")
    labels, wanted = _targets(table, targets, source)
    kinds = {name: source.columns.get(name) or _kind(table, name) for name in table.cells if name not in targets}
    kinds = {name: kind for name, kind in kinds.items() if kind != "skip"}
    texts = [name for name, kind in kinds.items() if kind == "text"]
    if not kinds or (texts and len(kinds) > 1):
        rest = ", ".join(name for name in kinds if name not in texts)
        raise DataError(
            f"{source.path}: the text column {texts[0]!r} must be the only one; skip {rest}"
            if texts
            else f"{source.path} has no columns to learn from"
        )
    columns: tuple[Column, ...] = ()
    inputs: Array
    if texts:
        inputs = as_bytes([(cell or "").encode() for cell in table.cells[texts[0]]], source.text_bytes)
        send = f"the bytes of a UTF-8 text as uint8, trained on at most {inputs.shape[1]}; 0 pads on the right"
    else:
        columns, inputs = _features(table, kinds)
        send = "; ".join(_sentence(column) for column in columns)
    return Dataset(
        name=source.path.name,
        rows=Rows(inputs, wanted),
        labels=labels,
        send=send,
        source=f"{len(wanted)} rows of {source.path.name}",
        task=source.task,
        columns=columns,
        sequence=bool(texts),
    )


def _read_csv(source: CsvFile) -> _Table:
    try:
        with source.path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            numbered = [(lines.line_num, line) for line in lines if line]
    except OSError as error:
        raise DataError(f"cannot read {source.path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source.path} is not a CSV file in UTF-8: {error}") from error
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError(f"{source.path} is empty; its first line must name the columns")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise DataError(f"{source.path} has more than one column {repeated[0]!r}")
    if not numbered:
        raise DataError(f"{source.path} holds column names, but no rows")
    for index, (_, line) in enumerate(numbered):
        if len(line) != len(names):
            raise DataError(
                f"{source.path}, row {index + 1}: {len(line)} cells, but the header names {len(names)} columns"
            )
    rows = [[None if (cell := text.strip()) in source.missing else cell for text in line] for _, line in numbered]
    return _Table(source.path, dict(zip(names, zip(*rows, strict=True), strict=True)), first_row=1)


def _read_parquet(source: ParquetFile) -> _Table:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 an optional package
    except ModuleNotFoundError as error:
        raise DataError(f"reading {source.path} needs pyarrow, which is not installed: pip install pyarrow") from error
    try:
        columns = parquet.read_table(source.path).to_pydict()
    except OSError as error:
        raise DataError(f"cannot read {source.path}: {error.strerror or error}") from error
    except ArrowException as error:
        raise DataError(f"{source.path} is not a Parquet file: {error}") from error
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{source.path} is empty: it has no rows")
    cells = {
        name: [None if value is None or str(value) in source.missing else str(value) for value in values]
        for name, values in columns.items()
    }
    return _Table(source.path, cells, first_row=1)


def _kind(table: _Table, name: str) -> ColumnKind:
    cells = [(index, cell) for index, cell in enumerate(table.cells[name]) if cell is not None]
    others = [(index, cell) for index, cell in cells if _number(cell) is None]
    if not cells:
        raise DataError(f"{table.path}: column {name!r} has no values; skip it")
    if not others:
        return "number"
    if len(others) < (1 - _MOSTLY) * len(cells):
        index, cell = others[0]
        raise table.wrong(index, name, f"{cell!r} is not a number, unlike {len(cells) - len(others)} other cells")
    different = len({cell for _, cell in cells})
    if different > _MOST_CATEGORIES:
        raise DataError(
            f"{table.path}: column {name!r} holds {different} different texts; "
            f"say in columns whether it is text, a category, or to skip"
        )
    return "category"


def _features(table: _Table, kinds: Mapping[str, ColumnKind]) -> tuple[tuple[Column, ...], NDArray[np.float32]]:
    columns = []
    values = []
    for name, kind in kinds.items():
        cells = table.cells[name]
        if kind == "number":
            columns.append(Column(name))
            values.append(_numbers(table, name, missing=True))
        else:
            categories = (UNKNOWN, *sorted({cell for cell in cells if cell is not None}))
            place = {category: index for index, category in enumerate(categories)}
            columns.append(Column(name, categories))
            values.append([0.0 if cell is None else float(place[cell]) for cell in cells])
    return tuple(columns), np.array(values, dtype=np.float32).T.copy()


def _targets(table: _Table, names: Sequence[str], source: CsvFile | ParquetFile) -> tuple[tuple[str, ...], Array]:
    for name in names:
        for index, cell in enumerate(table.cells[name]):
            if cell is None:
                raise table.wrong(index, name, "the target is missing")
    if source.task != "single-label":
        values = np.array([_numbers(table, name, missing=False) for name in names], dtype=np.float32).T.copy()
        if source.task == "multi-label" and not np.isin(values, (0, 1)).all():
            index, column = np.argwhere(~np.isin(values, (0, 1)))[0]
            raise table.wrong(int(index), names[column], f"{values[index, column]:g} is neither 0 nor 1")
        return tuple(names), values
    if len(names) != 1:
        raise DataError(f"{table.path}: a single-label task has one target column, not {len(names)}")
    cells = [cell or "" for cell in table.cells[names[0]]]
    labels = in_order(set(cells))
    place = {label: index for index, label in enumerate(labels)}
    return labels, np.array([place[cell] for cell in cells], dtype=np.int64)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return `labels` sorted, by value where all are numbers."""
    numbers = {label: _number(label) for label in labels}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(numbers, key=lambda label: (numbers[label] or 0.0, label)))
    return tuple(sorted(numbers))


def _numbers(table: _Table, name: str, *, missing: bool) -> list[float]:
    values = []
    for index, cell in enumerate(table.cells[name]):
        value = math.nan if cell is None and missing else _number(cell or "")
        if value is None:
            raise table.wrong(index, name, f"{cell!r} is not a number")
        if cell is not None and not abs(value) <= _LARGEST:
            raise table.wrong(index, name, f"{cell} is no finite number; leave the cell empty where a value is missing")
        values.append(value)
    if all(math.isnan(value) for value in values):
        raise DataError(f"{table.path}: column {name!r} has no values; skip it")
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _sentence(column: Column) -> str:
    if column.categories is None:
        return f"{column.name} (a number, NaN where it is missing)"
    listed = ", ".join(f"{index} {category}" for index, category in enumerate(column.categories))
    return f"{column.name} ({listed})"
