"""The readers of NumPy archives and image folders; an error names the file and the row."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline.pictures import FORMATS, MOST_BYTES, MOST_PIXELS
from frostline_training.data.cells import Cells
from frostline_training.data.pictures import UnreadableError, read
from frostline_training.data.rows import INPUT, Array, Dataset, Image, Inputs, Rows
from frostline_training.data.tables import in_order
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, Fit, ImageFolder, NpzFile, Reading, Rgb

LENGTHS = "lengths"
_IMAGE = "image"
_TARGET = "target"
_NO_PICTURES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # what systems leave in folders
_SHOWN = 5  # how many skipped files are named; the rest is counted
_FITTED: dict[Fit, str] = {
    "pad": "resized with its aspect kept and padded",
    "crop": "resized with its aspect kept and cropped at the centre",
    "stretch": "stretched to this size",
}


def load_npz(source: NpzFile) -> Dataset:
    """Read arrays of inputs, targets and lengths.

    Raises:
        DataError: The file or an array in it is not what it must be.
    """
    arrays = _arrays(source.path)
    for name in (INPUT, _TARGET):
        if name not in arrays:
            raise DataError(f"{source.path} has no array {name!r}; it has: {', '.join(arrays) or 'nothing'}")
    values = _values(source.path, INPUT, arrays[INPUT])
    tokens = np.issubdtype(values.dtype, np.integer)
    labels, targets = _targets(source, arrays[_TARGET])
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
        sequence=values.ndim == (2 if tokens else 3),
    )


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
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


def _targets(source: NpzFile, array: Array) -> tuple[tuple[str, ...], Array]:
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
    texts = [str(value) for value in array]
    if source.labels is not None and np.issubdtype(array.dtype, np.integer):
        return _numbered(source, array, source.labels)
    labels = in_order(set(texts))
    place = {label: index for index, label in enumerate(labels)}
    return _named_by(source, labels), np.array([place[text] for text in texts], dtype=np.int64)


def _numbered(source: NpzFile, array: Array, labels: tuple[str, ...]) -> tuple[tuple[str, ...], Array]:
    wrong = np.flatnonzero((array < 0) | (array >= len(labels)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"{source.path}, row {row + 1}, target: class {array[row]}, but there are {len(labels)} labels")
    return labels, array.astype(np.int64)


def _named_by(source: NpzFile, names: tuple[str, ...]) -> tuple[str, ...]:
    if source.labels is not None and len(source.labels) != len(names):
        raise DataError(f"{source.path} has {len(names)} classes or values, but {len(source.labels)} labels are given")
    return source.labels or names


@dataclass(frozen=True)
class _Skipped:
    """A file that is not read; `broken` where it should have been a picture."""

    path: Path
    reason: str
    broken: bool = False


def load_images(source: ImageFolder) -> Dataset:
    """Read the pictures of every class's folder.

    What is no picture is skipped and listed in the data set's notes; so is a picture that cannot be read.

    Raises:
        DataError: There is no such folder, a class has no pictures, or more pictures cannot be read than `source`
            allows.
    """
    folders, skipped = _folders(source.path)
    media = Image(_IMAGE, source.size, source.color, source.fit, source.background)
    paths: list[str] = []
    pictures: list[Array] = []
    targets: list[int] = []
    several = 0
    refused: list[_Skipped] = []
    for label, folder in enumerate(folders):
        before, left_out = len(pictures), len(skipped)
        for path in _files(folder, skipped):
            try:
                picture = read(path, media.form)
            except UnreadableError as error:
                skipped.append(_Skipped(path, str(error), broken=error.broken))
                continue
            pictures.append(picture.pixels)
            paths.append(str(path))
            several += picture.frames > 1
            if picture.refused:
                refused.append(_Skipped(path, picture.refused))
        if len(pictures) == before:
            why = f"; skipped: {_listed(skipped[left_out:], source.path)}" if len(skipped) > left_out else ""
            raise DataError(f"{folder} is empty: class {folder.name!r} has no pictures{why}")
        targets += [label] * (len(pictures) - before)
    _check_share(source, skipped, len(pictures))
    channels = "1" if source.color == "grey" else "3"
    height, width = source.size
    notes = []
    if skipped:
        notes.append(f"{len(skipped)} of {source.path.name} not read: {_listed(skipped, source.path)}")
    if several:
        notes.append(f"{several} pictures of {source.path.name} have several frames or pages; the first one is used")
    if refused:
        notes.append(
            f"{len(refused)} of {_count(len(pictures), 'picture')} of {source.path.name} no client can send: "
            f"{_listed(refused, source.path)}; a server takes {FORMATS} of at most {MOST_PIXELS} pixels and "
            f"{MOST_BYTES >> 20} MiB, without further frames"
        )
    return Dataset(
        name=source.path.name,
        rows=Rows(
            np.stack(pictures),
            np.array(targets, dtype=np.int64),
            Cells(source.path, {_IMAGE: paths}, Reading(missing=())),
        ),
        media=media,
        labels=tuple(folder.name for folder in folders),
        send=f"one {source.color} picture of {width}x{height} pixels: [{channels}, {height}, {width}], 0 (dark) to 255; "
        f"upright, {_FITTED[source.fit]}, transparent parts on the colour {_hex(source.background)}",
        source=f"{len(targets)} pictures of the folder {source.path.name}",
        notes=tuple(notes),
        facts={
            "pictures": {
                "size": list(source.size),
                "color": source.color,
                "fit": source.fit,
                "background": list(source.background),
                "skipped": dict(Counter("unreadable" if one.broken else "no picture" for one in skipped)),
            }
        },
    )


def _folders(path: Path) -> tuple[list[Path], list[_Skipped]]:
    try:
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    folders = [entry for entry in inside if entry.is_dir() and entry.name.lower() not in _NO_PICTURES]
    if not folders:
        raise DataError(f"{path} is empty: it must hold one folder of pictures for each class")
    return folders, [_Skipped(entry, "not in the folder of a class") for entry in inside if entry not in folders]


def _files(folder: Path, skipped: list[_Skipped]) -> list[Path]:
    """Return what may be a picture, and add everything else to `skipped`."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error
    files = []
    for path in inside:
        if path.name.startswith(".") or path.name.lower() in _NO_PICTURES:
            skipped.append(_Skipped(path, "hidden, or a system's own"))
        elif path.is_dir():
            within = sum(1 for each in path.rglob("*") if each.is_file())
            skipped.append(_Skipped(path, f"a folder in a class's folder, with {_count(within, 'file')}"))
        elif not path.is_file():
            skipped.append(_Skipped(path, "not a regular file"))
        else:
            files.append(path)
    return files


def _check_share(source: ImageFolder, skipped: Sequence[_Skipped], read: int) -> None:
    broken = [one for one in skipped if one.broken]
    total = read + len(broken)
    allowed = max(1, int(source.unreadable * total)) if source.unreadable else 0
    if len(broken) > allowed:
        raise DataError(
            f"{source.path}: {len(broken)} of {_count(total, 'picture')} cannot be read, and at most {allowed} may "
            f"(unreadable={source.unreadable:g}): {_listed(broken, source.path)}; repair or remove them"
        )


def _listed(skipped: Sequence[_Skipped], root: Path) -> str:
    shown = ", ".join(f"{one.path.relative_to(root)} ({one.reason})" for one in skipped[:_SHOWN])
    return shown if len(skipped) <= _SHOWN else f"{shown} and {len(skipped) - _SHOWN} more"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _hex(color: Rgb) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
