"""The readers of CSV and Parquet files: what each column holds, and the rows as a network takes them."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from frostline.categories import MISSING
from frostline.dates import coarse
from frostline_training.data import delimited
from frostline_training.data.cells import (
    Cells,
    check_once,
    foreign,
    leads_with_zero,
    moment,
    notation,
    number,
    text_of,
)
from frostline_training.data.encoding import encode, exact
from frostline_training.data.heads import Head, output_names
from frostline_training.data.pythontext import as_bytes
from frostline_training.data.rows import (
    UNKNOWN,
    Array,
    Column,
    Dataset,
    DateOf,
    Inferred,
    Rows,
    Text,
    check_servable,
)
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, ColumnKind, CsvFile, DateColumn, DatePart, ParquetFile, Reading

_MOST_CATEGORIES = 100  # a column with more different texts is more likely an identifier or a text
_MOSTLY = 0.9  # a column with more numbers than this is one of numbers, and its other cells are mistakes
_MISSING_SHARE = 0.01  # of a category's cells: from so many on, a network learns what a missing one says
_EXACT = 2.0**53  # float64 holds all whole numbers up to here
_KEPT = 0.99  # of different numbers, those that float32 must tell apart
_SMALLER = "skip the column, make it a category, or give smaller numbers, such as the days since a date"
_ROW_NUMBERS = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name
_EXAMPLES = 5  # categories that a summary names

_Kinds = Mapping[str, ColumnKind | DateColumn]


def load(source: CsvFile | ParquetFile) -> Dataset:
    """Read a table.

    Raises:
        DataError: It is missing, empty or ragged, lacks a column, or a cell is not what its column is.
    """
    cells = _read_csv(source) if isinstance(source, CsvFile) else read_parquet(source.path, source.reading)
    targets = (source.target,) if isinstance(source.target, str) else source.target
    for name in (*targets, *source.columns):
        if name not in cells.columns and not (_ROW_NUMBERS.fullmatch(name) and source.columns.get(name) == "skip"):
            what = "target column" if name in targets else "column"
            raise DataError(f"{source.path} has no {what} {name!r}; its columns are: {', '.join(cells.columns)}")
        if name in targets and source.columns.get(name) == "skip":
            raise DataError(f"{source.path}: columns skips {name!r}, which is a target; leave it out of columns")
    for name in cells.columns:
        if name in cells.nested and source.columns.get(name) != "skip":
            raise DataError(
                f"{source.path}: column {name!r} holds {cells.nested[name]}, and a column has one value for each row; skip it "
                "with columns, or write its parts as columns of their own"
            )
    labels, wanted, heads = _targets(cells, targets, source)
    every = {name: source.columns.get(name) or _kind(cells, name) for name in cells.columns if name not in targets}
    kinds = {name: kind for name, kind in every.items() if kind != "skip"}
    texts = [name for name, kind in kinds.items() if kind == "text"]
    if not kinds or (texts and len(kinds) > 1):
        rest = ", ".join(name for name in kinds if name not in texts)
        raise DataError(
            f"{source.path}: the text column {texts[0]!r} must be the only one; skip {rest}"
            if texts
            else f"{source.path} has no columns to learn from"
        )
    columns: tuple[Column, ...] = ()
    numeric = targets if source.task == "regression" else [head.name for head in heads if head.labels is None]
    measured = [Column(name) for name in numeric]
    notes = tuple(
        _rounded(cells, measured, exact(cells, measured), "give smaller numbers, such as the difference from one")
    )
    inputs: Array
    if texts:
        inputs = as_bytes([(cell or "").encode() for cell in cells.values(texts[0])], source.text_bytes)
        send = f"the bytes of a UTF-8 text as uint8, trained on at most {inputs.shape[1]}; 0 pads on the right"
    else:
        columns = _columns(cells, kinds)
        check_servable(str(source.path), columns)
        numbers = exact(cells, columns)
        inputs = numbers.astype(np.float32)
        notes = (*_rounded(cells, columns, numbers, _SMALLER), *notes)
        send = "; ".join(_sentence(column) for column in columns)
    return Dataset(
        name=source.path.name,
        rows=Rows(inputs, wanted, cells.only(kinds)),
        labels=labels,
        send=send,
        source=f"{len(wanted)} rows of {source.path.name}",
        task=source.task,
        heads=heads,
        columns=columns,
        media=Text(texts[0], inputs.shape[1]) if texts else None,
        sequence=bool(texts),
        notes=notes,
        schema=_schema(
            cells,
            every,
            targets,
            {targets[0]: labels} if source.task in ONE_CLASS else {head.name: head.labels for head in heads},
        ),
        facts={"reading": source.reading.model_dump(mode="json")}
        # Where all texts are shorter than may be, the network has not learnt what comes behind them.
        | ({"text": {"column": texts[0], "bytes": inputs.shape[1]}} if texts else {}),
    )


def _rounded(cells: Cells, columns: Sequence[Column], numbers: Array, remedy: str) -> Iterator[str]:
    """Yield a note for each column of numbers that float32 cannot tell apart, such as epochs in milliseconds."""
    for place, column in enumerate(columns):
        if column.categories is not None or column.date is not None:
            continue
        values = numbers[:, place]
        values = values[~np.isnan(values)]
        huge = bool((np.abs(values) > _EXACT).any())
        # What float64 does not tell apart either, such as identifiers of 18 digits, the texts do.
        texts = {cell for cell in cells.values(column.cells) if cell is not None} if huge else ()
        lost = lost_in_single(values, len(texts))
        if lost:
            yield f"Column {column.name!r} of {Path(cells.path).name}: {lost}; {remedy}"


def lost_in_single(values: Array, different: int = 0) -> str:
    """What is lost if numbers become single precision: how many of them it does not tell apart; "" if it is next to none.

    Args:
        values: The numbers, of any shape; none is NaN.
        different: How many there are, if they do not tell it themselves.
    """
    if values.dtype.kind == "f" and values.dtype.itemsize <= np.dtype(np.float32).itemsize:
        return ""
    different = different or len(np.unique(values))
    kept = len(np.unique(values.astype(np.float32)))
    if kept >= _KEPT * different:
        return ""
    return f"of {different} different numbers float32, which networks compute with, tells only {kept} apart"


def _read_csv(source: CsvFile) -> Cells:
    try:
        content = source.path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source.path}: {error.strerror or error}") from error
    return delimited.read(source.path, content, source.reading)


def read_parquet(path: Path | str, reading: Reading, *, content: bytes | None = None, first: int = 1) -> Cells:
    """Return the cells of a Parquet file.

    Args:
        path: The file, as messages call it.
        reading: How its texts are read.
        content: Its bytes, if they were read already.
        first: The number of its first row, in messages.

    Raises:
        DataError: It is missing, empty, or no Parquet, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet, types  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415 optional
    except ModuleNotFoundError as error:
        raise DataError(f"reading {path} needs pyarrow, which is not installed: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path if content is None else io.BytesIO(content))
        check_once(path, file.schema_arrow.names)
        table = file.read()
        nested = {field.name: str(field.type) for field in table.schema if types.is_nested(field.type)}
        # A data frame that was filtered or shuffled has its row numbers with it, which no client sends.
        numbered = [field.name for field in table.schema if types.is_integer(field.type)]
        table = table.drop_columns([name for name in numbered if _ROW_NUMBERS.fullmatch(name)])
        columns = {
            name: coarse(column).to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)
        }
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ArrowException as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    except (ValueError, OverflowError) as error:  # such as a date that Python's do not reach
        raise DataError(f"{path}: a value is no value of Python: {error}") from error
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{path} is empty: it has no rows")
    texts = {
        name: [
            None if value is None else text_of(value, path, row, name).strip()
            for row, value in enumerate(values, first)
        ]
        for name, values in columns.items()
    }
    return Cells(path, texts, reading, first=first, nested=nested)


def _kind(cells: Cells, name: str) -> ColumnKind:
    if not name:
        raise DataError(f'{cells.path}: a column has no name; name it, or skip it with columns={{"": "skip"}}')
    filled = [(index, cell) for index, cell in enumerate(cells.values(name)) if cell is not None]
    others = [(index, cell) for index, cell in filled if number(cell, cells.reading) is None]
    if not filled:
        raise DataError(f"{cells.path}: column {name!r} has no values; skip it")
    zeros = [cell for _, cell in filled if leads_with_zero(cell) and number(cell, cells.reading) is not None]
    if not others and not zeros:
        return "number"
    undated = [(index, cell) for index, cell in filled if moment(cell, "iso") is None] if others else filled
    if not undated:
        return "date"
    odd = [(index, cell) for index, cell in others if foreign(cell)]
    if odd and not zeros and len(others) - len(odd) < (1 - _MOSTLY) * len(filled):
        index, cell = odd[0]
        raise cells.wrong(
            index,
            name,
            f"{cell!r} is not a number{notation(cell, cells.reading)}{cells.remedy(cell)}; if it is none, "
            f"columns={{{name!r}: 'category'}}",
        )
    for what, few in (("a number", [] if zeros else others), ("an ISO date", undated)):
        if few and len(few) < (1 - _MOSTLY) * len(filled):
            index, cell = few[0]
            raise cells.wrong(index, name, f"{cell!r} is not {what}, unlike {len(filled) - len(few)} other cells")
    different = len({cell for _, cell in filled})
    if different > _MOST_CATEGORIES:
        like = f", such as {zeros[0]!r} (a number would lose the zero)" if zeros else f", such as {filled[0][1]!r}"
        raise DataError(
            f"{cells.path}: column {name!r} holds {different} different texts{like}; say in columns whether it is "
            "text, a category, a date (DateColumn, with its format), or to skip"
        )
    return "category"


def _columns(cells: Cells, kinds: _Kinds) -> tuple[Column, ...]:
    dates = {name: _date(kind) for name, kind in kinds.items() if kind == "date" or isinstance(kind, DateColumn)}
    newest = max(
        (found for name, date in dates.items() if "year" in parts_of(date) for found in _moments(cells, name, date)),
        default=None,
    )
    columns: list[Column] = []
    for name, kind in kinds.items():
        if name in dates:
            columns += _date_columns(cells, name, dates[name], newest)
            continue
        filled = [cell for cell in cells.values(name) if cell is not None]
        if not filled:
            raise DataError(f"{cells.path}: column {name!r} has no values; skip it")
        if kind == "number":
            columns.append(Column(name))
            continue
        for word, what in ((UNKNOWN, "every unknown category"), (MISSING, "a cell without a value")):
            if word in filled:
                index = cells.values(name).index(word)
                raise cells.wrong(index, name, f"{word!r} stands for {what}; add it to missing, or rename it")
        every = cells.values(name)
        learnt = len(every) - len(filled) >= _MISSING_SHARE * len(every)
        columns.append(Column(name, (UNKNOWN, *sorted(set(filled)), *([MISSING] if learnt else []))))
    return tuple(columns)


def _date_columns(cells: Cells, name: str, date: DateColumn, newest: datetime | None) -> list[Column]:
    found = _moments(cells, name, date)
    if not found:
        raise DataError(f"{cells.path}: column {name!r} has no values; skip it")
    told = parts_of(date)
    absent = [part for part in date.parts or () if part not in told]
    if absent:
        raise DataError(f"{cells.path}: column {name!r}: the format {date.format} has no {absent[0]}")
    if date.format == "iso" and all(each.hour == each.minute == 0 for each in found):
        told = tuple(part for part in told if part != "hour")
    usual = tuple(part for part in told if part != "minute") if "year" in told else told
    return [
        Column(
            f"{name}.{part}",
            date=DateOf(name, date.format, part, (date.relative_to or newest) if part == "age_days" else None),
        )
        for part in date.parts or usual
    ]


def _date(kind: ColumnKind | DateColumn) -> DateColumn:
    return kind if isinstance(kind, DateColumn) else DateColumn()


def _moments(cells: Cells, name: str, date: DateColumn) -> list[datetime]:
    return [
        cells.moment(index, name, cell, date.format)
        for index, cell in enumerate(cells.values(name))
        if cell is not None
    ]


def parts_of(date: DateColumn) -> tuple[DatePart, ...]:
    """Return what the format of `date` tells: those parts whose change changes the text."""
    every: tuple[DatePart, ...] = get_args(DatePart)
    if date.format == "iso":
        return every
    base = datetime(2001, 2, 3, 4, 5)  # noqa: DTZ001 any moment will do
    plain = ("year", "month", "day", "hour", "minute")
    told = {
        part
        for part, changed in zip(plain, (2002, 3, 4, 5, 6), strict=True)
        if base.replace(**{part: changed}).strftime(date.format) != base.strftime(date.format)  # type: ignore[arg-type]
    }
    whole = told >= {"year", "month", "day"}
    return tuple(part for part in every if part in told or (whole and part in ("weekday", "age_days")))


def _targets(
    cells: Cells, names: Sequence[str], source: CsvFile | ParquetFile
) -> tuple[tuple[str, ...], Array, tuple[Head, ...]]:
    values = {name: cells.values(name) for name in names}
    for name in names:
        for index, cell in enumerate(values[name]):
            if cell is None:
                written = cells.columns[name][index]
                why = f": {written!r} stands for no value; if it is a class, change missing" if written else ""
                raise cells.wrong(index, name, f"the target is missing{why}")
    if source.task == "any":
        heads, wanted = _heads(cells, names, source)
        return output_names(heads), wanted, heads
    if source.task not in ONE_CLASS:
        numbers = _numbers(cells, names)
        if source.task == "multi-label" and not np.isin(numbers, (0, 1)).all():
            index, column = np.argwhere(~np.isin(numbers, (0, 1)))[0]
            raise cells.wrong(int(index), names[column], f"{numbers[index, column]:g} is neither 0 nor 1")
        return tuple(names), numbers, ()
    if len(names) != 1:
        raise DataError(f"{cells.path}: a {source.task} task has one target column, not {len(names)}")
    labels, places = _classes(cells, names[0])
    return labels, places, ()


def _numbers(cells: Cells, names: Sequence[str]) -> NDArray[np.float32]:
    numbers = encode(cells, [Column(name) for name in names])
    if np.isnan(numbers).any():
        index, column = np.argwhere(np.isnan(numbers))[0]
        written = cells.columns[names[column]][index]
        raise cells.wrong(int(index), names[column], f"the target is missing: {written!r} stands for no value")
    return numbers


def _classes(cells: Cells, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    classes = [cell or "" for cell in cells.values(name)]
    labels = in_order(set(classes))
    place = {label: index for index, label in enumerate(labels)}
    return labels, np.array([place[cell] for cell in classes], dtype=np.int64)


def _heads(
    cells: Cells, names: Sequence[str], source: CsvFile | ParquetFile
) -> tuple[tuple[Head, ...], NDArray[np.float32]]:
    if len(set(names)) < max(2, len(names)):
        raise DataError(
            f"{cells.path}: the task any has two or more different target columns, not {', '.join(map(repr, names))}; "
            "of one target say what it is: single-label, binary or regression"
        )
    heads: list[Head] = []
    columns: list[Array] = []
    for name in names:
        kind = source.columns.get(name) or _kind(cells, name)
        if kind not in ("number", "category"):
            what = kind if isinstance(kind, str) else "date"
            raise DataError(
                f"{cells.path}: the target {name!r} is of the kind {what}, and a target is a number or a class; if it is a "
                f"class, columns={{{name!r}: 'category'}}"
            )
        if kind == "number":
            heads.append(Head(name))
            columns.append(_numbers(cells, [name])[:, 0])
        else:
            labels, places = _classes(cells, name)
            heads.append(Head(name, labels))
            columns.append(places)
    return tuple(heads), np.stack(columns, axis=1).astype(np.float32)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return `labels` sorted, by value where all are numbers."""
    numbers = {label: number(label, Reading()) for label in labels}
    if all(value is not None for value in numbers.values()):
        return tuple(sorted(numbers, key=lambda label: (numbers[label] or 0.0, label)))
    return tuple(sorted(numbers))


def _schema(
    cells: Cells, kinds: _Kinds, targets: Sequence[str], classes: Mapping[str, tuple[str, ...] | None]
) -> tuple[Inferred, ...]:
    return tuple(
        Inferred(name, "target", categories=len(labels), examples=labels[:_EXAMPLES])
        if (labels := classes.get(name)) is not None
        else _inferred(cells, name, "target" if name in targets else kinds[name])
        for name in cells.columns
    )


def _inferred(cells: Cells, name: str, kind: ColumnKind | DateColumn | str) -> Inferred:
    values = cells.values(name)
    filled = [cell for cell in values if cell is not None]
    missing = len(values) - len(filled)
    if isinstance(kind, DateColumn) or kind == "date":
        found = _moments(cells, name, kind if isinstance(kind, DateColumn) else DateColumn())
        return Inferred(name, "date", missing, _shown(min(found)), _shown(max(found)))
    if kind in ("number", "target"):
        numbers = {cell: number(cell, cells.reading) or 0.0 for cell in filled}
        return Inferred(
            name, kind, missing, min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
        )
    if kind == "category":
        names = sorted(set(filled))
        return Inferred(name, kind, missing, categories=len(names), examples=tuple(names[:_EXAMPLES]))
    return Inferred(name, kind, missing)


def _shown(moment: datetime) -> str:
    return moment.isoformat(" ").removesuffix(" 00:00:00")


def _sentence(column: Column) -> str:
    if column.date is not None:
        what = {
            "weekday": ", 0 is Monday",
            "age_days": f", days until {_shown(column.date.relative_to)}" if column.date.relative_to else "",
        }
        return f"{column.name} (a number{what.get(column.date.part, '')}, NaN where the date is missing)"
    if column.categories is None:
        return f"{column.name} (a number, NaN where it is missing)"
    listed = ", ".join(f"{index} {category}" for index, category in enumerate(column.categories))
    return f"{column.name} ({listed})"
