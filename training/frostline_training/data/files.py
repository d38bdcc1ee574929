"""The reader of NumPy archives; an error names the file and the row."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.cells import text_of
from frostline_training.data.heads import Head, output_names
from frostline_training.data.rows import INPUT, Array, Dataset, Inputs, Rows
from frostline_training.data.tables import in_order, lost_in_single
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, NpzFile

LENGTHS = "lengths"
_TARGET = "target"
_MOST_TOKENS = 1 << 22
_PICTURES = 4  # axes: [N, C, H, W]


def load_npz(source: NpzFile) -> Dataset:
    """Read arrays of inputs, targets and lengths.

    Raises:
        DataError: The file or an array in it is not what it must be.
    """
    arrays = _arrays(source.path)
    for name in (INPUT,) if source.task == "any" else (INPUT, _TARGET):
        if name not in arrays:
            raise DataError(f"{source.path} has no array {name!r}; it has: {', '.join(arrays) or 'nothing'}")
    values = _values(source.path, INPUT, arrays[INPUT])
    tokens = np.issubdtype(values.dtype, np.integer)
    if source.task == "dense" and values.ndim != _PICTURES:
        raise DataError(
            f"{source.path}: input has shape {list(values.shape)}, and task 'dense' takes pictures [N, C, H, W]"
        )
    heads: tuple[Head, ...] = ()
    if source.task == "any":
        heads, targets = _heads(source, arrays, len(values))
        labels = output_names(heads)
    else:
        labels, targets = _targets(source, arrays[_TARGET], values.shape)
    inputs: Inputs = values
    if LENGTHS in arrays:
        lengths = arrays[LENGTHS]
        if values.ndim < 2 or not np.issubdtype(lengths.dtype, np.integer) or lengths.shape != values.shape[:1]:
            raise DataError(f"{source.path}: lengths must be one whole number for each sequence")
        wrong = np.flatnonzero((lengths < 1) | (lengths > values.shape[1]))
        if wrong.size:
            row = int(wrong[0])
            raise DataError(
                f"{source.path}, row {row + 1}, lengths: {lengths[row]} is not between 1 and {values.shape[1]}"
            )
        inputs = {INPUT: values, LENGTHS: lengths.astype(np.int64)}
    for name, array in (("target", targets), (LENGTHS, arrays.get(LENGTHS, targets))):
        if len(array) != len(values):
            raise DataError(f"{source.path} has {len(values)} rows of input, but {len(array)} of {name}")
    shape = ", ".join(["N", *(str(size) for size in values.shape[1:])])
    return Dataset(
        name=source.path.name,
        rows=Rows(inputs, targets),
        labels=labels,
        send=f"{INPUT} [{shape}] {values.dtype}" + (f", and {LENGTHS} [N] int64" if LENGTHS in arrays else ""),
        source=f"{len(values)} rows of {source.path.name}",
        task=source.task,
        heads=heads,
        sequence=values.ndim == (2 if tokens else 3),
        notes=tuple(_rounded(source, arrays)),
    )


def _rounded(source: NpzFile, arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield a note for each array of numbers that float32 cannot tell apart: targets, and columns of the input."""
    numbers: dict[str, Array] = {}
    if arrays[INPUT].ndim == 2 and arrays[INPUT].dtype.kind == "f":
        numbers = {f"column {place + 1} of {INPUT}": column for place, column in enumerate(arrays[INPUT].T)}
    for name, array in arrays.items():
        if (source.task == "regression" and name == _TARGET) or (
            source.task == "any" and name.startswith(f"{_TARGET}.") and array.dtype.kind == "f"
        ):
            numbers[name] = array
    for name, array in numbers.items():
        lost = lost_in_single(array)
        if lost:
            yield f"{source.path.name}, {name}: {lost}; give smaller numbers, such as the difference from one"


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        TypeError,
        AttributeError,
    ) as error:
        if str(error).startswith("Object arrays"):
            raise DataError(
                f"{path}: an array holds Python objects, which are not read; save numbers as numbers, and texts with "
                "array.astype(str)"
            ) from error
        empty = path.is_file() and path.stat().st_size == 0
        raise DataError(f"{path} is empty" if empty else f"{path} is not an archive of NumPy arrays (.npz)") from error


def _values(path: Path, name: str, array: Array) -> Array:
    if array.ndim < 2 or len(array) == 0:
        raise DataError(f"{path}: {name} has shape {list(array.shape)}, not [N, ...] with at least one row")
    if np.issubdtype(array.dtype, np.integer) and array.ndim == 2:
        if array.min() < 0:
            row, column = np.argwhere(array < 0)[0]
            raise DataError(
                f"{path}, row {row + 1}, column {column + 1}, {name}: token {array[row, column]} is negative"
            )
        if array.max() >= _MOST_TOKENS:
            row, column = np.argwhere(array >= _MOST_TOKENS)[0]
            raise DataError(
                f"{path}, row {row + 1}, column {column + 1}, {name}: whole numbers [N, T] are tokens, each of which gets a "
                f"vector, from 0 to {_MOST_TOKENS - 1}, and {array[row, column]} is none; save numbers as floats"
            )
        return array if array.dtype == np.uint8 else array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise DataError(f"{path}: {name} is {array.dtype}, not numbers")
    return _finite(path, name, array)


def _finite(path: Path, name: str, array: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, *rest = (int(place) for place in broken[0])
        column = ", ".join(str(place + 1) for place in rest)
        where = f", column {column}" if rest else ""
        raise DataError(f"{path}, row {row + 1}{where}, {name}: {array[tuple(broken[0])]} is no finite number")
    return values


def _targets(source: NpzFile, array: Array, inputs: tuple[int, ...]) -> tuple[tuple[str, ...], Array]:
    if source.task == "dense":
        if array.shape[1:] != inputs[2:] or not np.issubdtype(array.dtype, np.integer):
            wanted = ", ".join(map(str, inputs[2:]))
            raise DataError(
                f"{source.path}: target is {array.dtype} {list(array.shape)}, not the class of each pixel, a whole number, "
                f"[N, {wanted}]"
            )
        return _classes(source, array)
    if source.task not in ONE_CLASS:
        if array.ndim not in (1, 2) or not (array.dtype == bool or np.issubdtype(array.dtype, np.number)):
            raise DataError(f"{source.path}: target is {array.dtype} {list(array.shape)}, not numbers [N, K]")
        values = _finite(source.path, _TARGET, array.reshape(len(array), -1))
        if source.task == "multi-label" and not np.isin(values, (0, 1)).all():
            row, column = np.argwhere(~np.isin(values, (0, 1)))[0]
            raise DataError(
                f"{source.path}, row {row + 1}, column {column + 1}, target: {values[row, column]:g} is neither 0 nor 1"
            )
        return _named_by(source, tuple(f"value {index}" for index in range(values.shape[1]))), values
    if array.ndim != 1 or np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{source.path}: target is {array.dtype} {list(array.shape)}, not one class for each row")
    return _classes(source, array)


def _heads(source: NpzFile, arrays: Mapping[str, Array], rows: int) -> tuple[tuple[Head, ...], NDArray[np.float32]]:
    prefix = f"{_TARGET}."
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if len(found) < 2:
        raise DataError(
            f"{source.path}: the task any has two or more targets, an array {prefix}NAME each; it has: {', '.join(arrays)}"
        )
    if source.labels is not None:
        raise DataError(
            f"{source.path}: labels are the names of one target's classes, and the task any has several targets: leave "
            "labels out, and write the names into the arrays"
        )
    heads, columns = [], []
    for name, array in found.items():
        called = f"{prefix}{name}"
        if array.shape != (rows,) or array.dtype.kind not in "iubUSf":
            raise DataError(
                f"{source.path}: {called} is {array.dtype} {list(array.shape)}, not a class (whole numbers or texts) or a "
                f"number (floats) for each of {rows} rows"
            )
        labels, column = (
            (None, _finite(source.path, called, array)) if array.dtype.kind == "f" else _classes(source, array)
        )
        heads.append(Head(name, labels))
        columns.append(column)
    return tuple(heads), np.stack(columns, axis=1).astype(np.float32)


def _classes(source: NpzFile, array: Array) -> tuple[tuple[str, ...], Array]:
    if source.labels is not None and array.dtype.kind in "iub":
        return _numbered(source, array.astype(np.int64), source.labels)
    values, places = np.unique(array, return_inverse=True)
    texts = [text_of(value, source.path) for value in values]
    labels = source.labels or in_order(set(texts))
    unknown = next((text for text in texts if text not in labels), None)
    if unknown is not None:
        raise DataError(f"{source.path} has the class {unknown!r}, which is not among its labels: {', '.join(labels)}")
    place = np.array([labels.index(text) for text in texts], dtype=np.int64)
    return labels, place[places.reshape(array.shape)]


def _numbered(source: NpzFile, array: Array, labels: tuple[str, ...]) -> tuple[tuple[str, ...], Array]:
    wrong = np.argwhere((array < 0) | (array >= len(labels)))
    if len(wrong):
        row, *pixel = wrong[0].tolist()
        where = f", pixel {pixel}" if pixel else ""
        found = array[tuple(wrong[0])]
        raise DataError(
            f"{source.path}, row {row + 1}{where}, target: class {found}, but there are {len(labels)} labels"
        )
    return labels, array


def _named_by(source: NpzFile, names: tuple[str, ...]) -> tuple[str, ...]:
    if source.labels is not None and len(source.labels) != len(names):
        raise DataError(f"{source.path} has {len(names)} classes or values, but {len(source.labels)} labels are given")
    return source.labels or names
