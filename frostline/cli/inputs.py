"""Readers of the input files of `frostline predict`: from files and standard input to NumPy arrays."""

import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from frostline.client.catalog import Model, TensorSpec
from frostline.client.datatypes import NUMPY, convert, taken
from frostline.client.errors import InvalidInput
from frostline.client.schema import Schema
from frostline.terminal import visible

Arrays = dict[str, NDArray[Any]]
Reader = Callable[[str, bytes, TensorSpec], NDArray[Any]]

Origin = tuple[str, int]
"""The file that a row comes from, and the row's number in it, from 0."""

Requests = list[tuple[Arrays, list[Origin]]]
"""For each request its arrays by name, and where each of its rows comes from."""


_TABLES = (".csv", ".parquet")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class InputError(Exception):
    """A file cannot be converted to rows of the model. The message is one sentence for the user."""


def requests(
    paths: Sequence[str],
    model: Model,
    stdin: BinaryIO,
    *,
    white: float | None = None,
    card: Path | None = None,
    schema: Schema | None = None,
) -> Requests:
    """Reads what to send from files: their rows, or where the model has no batch axis the whole input of each file.

    Args:
        paths: `.npy`, `.npz`, `.csv` and `.parquet` files, and pictures; `-` for csv, npy, npz or a picture on standard input.
            npy files and pictures may have any other name.
        model: The model that will get the rows.
        stdin: Standard input.
        white: The value of a white pixel for the model; black is 0. None leaves the pixels unchanged, 0 to 255.
        card: The model's card.json. With it, csv columns may have any order, and are read as its training read them:
            categories are given as words, dates as dates. It also says what shows through transparent pictures.
        schema: What the model takes, if that is raw rows. Without a card, tables are read as training read its own, and sent
            as they are; the server encodes them. So are pictures.

    Returns:
        For each request the model's inputs by name, in the types that it takes; and for each of its rows where that comes
        from, or just the file where there is no batch axis. No request has more rows than the model takes.

    Raises:
        InputError: A file is missing, or does not contain what this model takes.
    """
    if not model.inputs:
        raise InputError(f"{model.name} takes no inputs, so there is nothing that could be sent to it")
    takes = _takes(schema) if schema is not None and schema.columns else ""
    files = [_content(path, stdin, takes) for path in paths]
    picture = next((column.name for column in schema.columns if column.kind == "image"), "") if schema else ""
    for path, (kind, _) in zip(paths, files, strict=True):
        if kind in _PICTURES and takes and not picture:
            raise InputError(f"{path} is a picture, and {model.name} takes no pictures as files; {takes}")
        if kind in _PICTURES[1:] and not picture:
            raise InputError(
                f"{path}: as pixels only a .png file is sent; {model.name} takes no pictures as files here"
            )
        if kind in _PICTURES and picture and (white is not None or card is not None):
            raise InputError(
                f"--white and --card are for models that take pixels; {model.name} takes {path} as it is, so leave them out"
            )
        if kind != ".png" and white is not None:
            raise InputError(
                f"--white scales the pixels of png files, and {path} is none; its numbers are sent as they are"
            )
    raw = [kind in (_PICTURES if picture else _TABLES) for kind, _ in files]
    if schema is not None and card is None and any(raw):
        if not all(raw):
            raise InputError(
                f"{paths[raw.index(True)]} has raw rows, and {paths[raw.index(False)]} the network's own input; give "
                "them to two commands"
            )
        rows = [
            {picture: _file(content)} if picture else _raw(path, content, schema)
            for path, (_, content) in zip(paths, files, strict=True)
        ]
        return _split(*_joined(paths, rows), model)
    try:
        return _of_inputs(paths, files, model if schema is None else replace(model, inputs=schema.inputs), white, card)
    except InputError as error:
        if takes:
            raise InputError(f"{error}; {takes}") from error.__cause__
        raise


def _takes(schema: Schema) -> str:
    """The files of raw rows that a model takes, for a message."""
    names = ", ".join(column.name for column in schema.columns)
    match [column.kind for column in schema.columns]:
        case ["image"]:
            return f"{schema.model} takes pictures: png, jpg and webp files"
        case ["text"]:
            return f"{schema.model} takes texts: csv and parquet files with the column {names}"
        case _:
            return f"{schema.model} takes tables: csv and parquet files with the columns {names}"


def _of_inputs(
    paths: Sequence[str],
    contents: Sequence[tuple[str, bytes]],
    model: Model,
    white: float | None,
    card: Path | None,
) -> Requests:
    """The network's own inputs."""
    files = [
        _read_one(path, kind, content, model, white, card)
        for path, (kind, content) in zip(paths, contents, strict=True)
    ]
    if not model.batched:
        return [(arrays, [(path, 0)]) for path, arrays in zip(paths, files, strict=True)]
    return _split(*_joined(paths, _alike(paths, files, model)), model)


def _split(arrays: Arrays, origins: list[Origin], model: Model) -> Requests:
    """Requests of as many rows as the model takes."""
    step = model.max_batch_size
    return [
        ({name: array[start : start + step] for name, array in arrays.items()}, origins[start : start + step])
        for start in range(0, len(origins), step)
    ]


def _alike(paths: Sequence[str], files: Sequence[Arrays], model: Model) -> Sequence[Arrays]:
    """The files, all with the model's own types if they differ: it may take narrower ones too."""
    types = [[array.dtype for array in arrays.values()] for arrays in files]
    if types.count(types[0]) == len(types):
        return files
    datatypes = {spec.name: spec.datatype for spec in model.inputs}
    return [
        {name: _converted(path, array, datatypes[name], name) for name, array in arrays.items()}
        for path, arrays in zip(paths, files, strict=True)
    ]


def _joined(paths: Sequence[str], files: Sequence[Arrays]) -> tuple[Arrays, list[Origin]]:
    """The rows of all files in order, and where each comes from."""
    for path, arrays in zip(paths, files, strict=True):
        for name, array in arrays.items():
            first = files[0][name]
            # NumPy's type of a text has the length of the longest in the array.
            alike = array.dtype == first.dtype or {array.dtype.kind, first.dtype.kind} <= set("SUO")
            if array.shape[1:] != first.shape[1:] or not alike:
                raise InputError(
                    f"{path} holds rows of {array.dtype} {list(array.shape[1:])}, "
                    f"but {paths[0]} holds {first.dtype} {list(first.shape[1:])}"
                )
    origins = [
        (path, number)
        for path, arrays in zip(paths, files, strict=True)
        for number in range(len(next(iter(arrays.values()))))
    ]
    if not origins:
        raise InputError(f"{', '.join(paths)} holds no rows")
    if len(files) == 1:
        return files[0], origins
    return {name: np.concatenate([arrays[name] for arrays in files]) for name in files[0]}, origins


def _content(path: str, stdin: BinaryIO, takes: str) -> tuple[str, bytes]:
    """What kind of file it is, and its bytes; `takes` are the files of raw rows that the model takes."""
    try:
        content = stdin.read() if path == "-" else Path(path).read_bytes()
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; give the files in it, such as {Path(path) / '*'}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return _kind(path, content, takes), content


def _raw(path: str, content: bytes, schema: Schema) -> Arrays:
    # Imported here, because only commands with tables need what training reads them with.
    from frostline.cli.table_rows import InvalidTableError, raw  # noqa: PLC0415

    try:
        return raw(path, content, schema, _warn)
    except InvalidTableError as error:
        raise InputError(str(error)) from error


def _file(content: bytes) -> NDArray[Any]:
    """A row of a file as it is."""
    row = np.empty(1, object)
    row[0] = content
    return row


def _read_one(path: str, kind: str, content: bytes, model: Model, white: float | None, card: Path | None) -> Arrays:
    if kind == ".npz":
        return _npz(path, content, model)
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise InputError(f"{model.name} has several inputs ({names}); give them in one .npz file")
    readers: dict[str, Reader] = {
        ".npy": _npy,
        ".csv": partial(_table, card=card) if card else _csv,
        ".parquet": partial(_table, card=card) if card else _no_parquet,
        ".png": partial(_png, white=white, card=card),
    }
    spec = model.inputs[0]
    return {spec.name: _checked(path, readers[kind](path, content, spec), spec, model)}


def _kind(path: str, content: bytes, takes: str) -> str:
    """The end of the name of such files: this one's, or by its first bytes where it has none that says it."""
    if path == "-":
        return _signed(content) or ".csv"
    kind = Path(path.lower().removesuffix(".gz")).suffix  # of a table alone
    if kind in (".npy", ".npz", *_TABLES, *_PICTURES):
        return kind
    found = _signed(content)
    if found in ("", ".npz"):  # which many files begin as, such as those of offices
        raise InputError(
            f"cannot tell what {path} is: it must end in .npy, .npz, .csv, .parquet, .png, .jpg or .webp"
            + (f"; {takes}" if takes else "")
        )
    return found


def _signed(content: bytes) -> str:
    """The end of the name of files that begin so; empty if any may."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return ".webp"
    signatures = {b"\x93NUMPY": ".npy", b"PK": ".npz", b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
    return next((kind for signature, kind in signatures.items() if content.startswith(signature)), "")


def _npy(path: str, content: bytes, _: TensorSpec) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # what NumPy raises of a damaged file has no class in common
        raise InputError(f"{path} is not a NumPy array of plain numbers") from error
    return np.asarray(array)


# Arrays that are not inputs of the model are ignored, so that the golden.npz of a version can be used unchanged.
def _npz(path: str, content: bytes, model: Model) -> Arrays:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            stored: Arrays = dict(archive)
    except Exception as error:  # as above, and what zipfile and zlib raise
        raise InputError(f"{path} is not an archive of NumPy arrays of plain numbers") from error
    arrays: Arrays = {}
    # In a golden.npz an array with the name of an input may be what an output of that name answers.
    golden = {"rtol", "atol"} <= stored.keys() and any(key.partition(".")[0] == "input" for key in stored)
    for spec in model.inputs:
        keys = [f"input.{spec.name}", *["input"] * (len(model.inputs) == 1)]
        name = next((key for key in (keys if golden else [spec.name, *keys]) if key in stored), None)
        if name is None and len(stored) == len(model.inputs) == 1:
            name = next(iter(stored))
        if name is None:
            has = ", ".join(stored) or "nothing"
            raise InputError(f"{path} holds {has}, but {model.name} needs an array named {spec.name}")
        arrays[spec.name] = _checked(path, stored[name], spec, model)
    if not model.batched:
        return arrays
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} has {n}" for name, n in rows.items())
        raise InputError(f"the arrays in {path} disagree on the number of rows: {counts}")
    return arrays


_TELLING = 3
"""So many cells that count up from 0 in the first line are no row by chance."""


def _csv(path: str, content: bytes, spec: TensorSpec) -> NDArray[Any]:
    starts, lines = _lines(path, content)
    if spec.datatype == "BYTES":
        return _texts(path, lines, spec)
    if lines and _is_header(path, lines):
        del starts[0], lines[0]
    for number, (start, line) in enumerate(zip(starts, lines, strict=True)):
        place = f"{path}, row {number} (line {start})"
        if len(line) != len(lines[0]):
            raise InputError(f"{place}: {len(line)} cells, but row 0 has {len(lines[0])}")
        for column, cell in enumerate(line):
            if not _is_number(cell):
                raise InputError(f"{place}, column {column}: {cell!r:.40} where a number was expected{_remedy(cell)}")
    if not lines:
        raise InputError(f"{path} holds no rows")
    try:
        # Only whole numbers are read as such: as floats, large ones would be rounded.
        whole = NUMPY.get(spec.datatype, np.dtype(np.float64)).kind != "f"
        values = np.array(
            [[_number(cell, whole=whole) for cell in line] for line in lines], object if whole else np.float64
        )
        array = _of_whole_numbers(values) if whole else values
        array = convert(array, spec.datatype, spec.name)
    except InvalidInput as error:
        raise InputError(f"{path} holds numbers that are not {spec.datatype}: {error}") from error
    except OverflowError as error:
        raise InputError(f"{path}: {error}") from error
    # A csv row is flat, but the model's row may have several axes.
    shape = spec.shape[1:]
    if len(shape) > 1 and shape.count(-1) == 0 and int(np.prod(shape)) == array.shape[1]:
        return array.reshape(len(array), *shape)
    return array


def _texts(path: str, lines: Sequence[Sequence[str]], spec: TensorSpec) -> NDArray[Any]:
    """The texts of a column, whose header is asked for: nothing else tells a header from a text."""
    row = spec.shape[1:]
    if not set(row) <= {1, -1} or not lines or list(lines[0]) != [spec.name] or any(len(line) != 1 for line in lines):
        column = f", or in a csv file of one column with the header {spec.name}" if set(row) <= {1, -1} else ""
        raise InputError(f"{path}: the model's input is {spec}: give texts in an .npy file{column}")
    if len(lines) == 1:
        raise InputError(f"{path} holds no rows")
    texts = np.array([line[0] for line in lines[1:]], object)
    return texts.reshape(len(texts), *[1] * len(row))


def _is_header(path: str, lines: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns: it has no number, or it counts the columns, as pandas does."""
    first = lines[0]
    if len(lines) == 1 or len(first) < 2 or first != [str(place) for place in range(len(first))]:
        return not any(_is_number(cell) for cell in first)
    header = len(first) >= _TELLING
    taken = "is the header that pandas writes, and no row" if header else "is taken for a row; a header has no numbers"
    _warn(f"{path}: the first line, which numbers the columns from 0, {taken}")
    return header


def _no_parquet(path: str, _: bytes, spec: TensorSpec) -> NDArray[Any]:
    raise InputError(
        f"{path} has columns with names, and the model's input is {spec}; give its numbers in an .npy file, or the model's "
        "card with --card"
    )


def _number(cell: str, *, whole: bool) -> float:
    if whole:
        try:
            return int(cell)
        except ValueError:
            pass
    value = float(cell)
    if math.isinf(value) and "inf" not in cell.lower():
        raise OverflowError(f"{cell!r:.40} is larger than any number that can be sent")
    return value


def _of_whole_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """The narrowest array that holds Python's whole numbers as they are, if all are; else floats."""
    numbers = values.ravel().tolist()
    if any(isinstance(number, float) and not number.is_integer() for number in numbers):
        return values.astype(np.float64)
    least, most = min(map(int, numbers)), max(map(int, numbers))
    for dtype in (np.dtype(np.int64), np.dtype(np.uint64)):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return np.array([int(number) for number in numbers], dtype).reshape(values.shape)
    raise OverflowError("its whole numbers have no type of 64 bits in common")


def _lines(path: str, content: bytes) -> tuple[list[int], list[list[str]]]:
    """The lines of a file, from 1, that its rows begin in, and their cells."""
    starts, rows, ended = [], [], 0
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig")
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))
        reader = csv.reader(io.StringIO(text, newline=""))
        for row in reader:
            if row:
                starts.append(ended + 1)
                rows.append(row)
            ended = reader.line_num
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a csv file: {error}") from error
    return starts, rows


def _remedy(cell: str) -> str:
    parts = re.split(r"[;\t|]", cell)
    if len(parts) > 1 and any(map(_is_number, parts)):
        return (
            "; separate the cells by commas, or give the model's card with --card, which tells how its tables are read"
        )
    return ""


def _table(path: str, content: bytes, _: TensorSpec, *, card: Path) -> NDArray[Any]:
    # Imported here, because only commands with a card need what training reads tables with.
    from frostline.cli.table_rows import InvalidTableError, TableRows  # noqa: PLC0415

    try:
        return TableRows.of_card(card).read(path, content, _warn)
    except InvalidTableError as error:
        raise InputError(str(error)) from error


def _warn(sentence: str) -> None:
    sys.stderr.write(f"frostline: {visible(sentence)}\n")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which Python's own numbers may have


def _png(path: str, content: bytes, spec: TensorSpec, *, white: float | None, card: Path | None) -> NDArray[Any]:
    # Imported here, because only commands that send pictures need them.
    from PIL import Image  # noqa: PLC0415

    from frostline.pictures import flat  # noqa: PLC0415

    background = _background(card)
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        image.load()
        gray, color = (np.asarray(flat(image, kind, background)) for kind in ("grey", "rgb"))
    except Exception as error:  # what Pillow raises of a damaged file has no class in common
        raise InputError(f"{path} is not a PNG picture") from error
    layouts = (gray, gray[None], gray[:, :, None], color.transpose(2, 0, 1), color, gray.ravel(), color.ravel())
    for pixels in layouts:
        # A row of any length is something else, such as the bytes of a text.
        if _fits(pixels.shape, spec.shape[1:]) and spec.shape[1:] != (-1,):
            return pixels[None] if white is None else pixels[None].astype(np.float32) * np.float32(white / 255)
    height, width = gray.shape
    raise InputError(
        f"{path} is {width} x {height} pixels, but the model's input is {spec}; pictures are never resized"
    )


def _background(card: Path | None) -> tuple[int, int, int]:
    """What shows through transparent parts: white, unless the card says what it was in training."""
    if card is None:
        return 255, 255, 255
    try:
        red, green, blue = json.loads(card.read_text(encoding="utf-8"))["data"]["pictures"]["background"]
        return int(red), int(green), int(blue)
    except OSError as error:
        raise InputError(f"cannot read {card}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{card} is not the card of a model that was trained on a folder of pictures") from error


def _checked(path: str, array: NDArray[Any], spec: TensorSpec, model: Model) -> NDArray[Any]:
    if model.batched:
        fits = array.ndim > 0 and _fits(array.shape[1:], spec.shape[1:])
    else:
        # What a server calls [any] may also have any number of axes, which only it knows.
        fits = spec.shape == (-1,) or _fits(array.shape, spec.shape)
    if fits:
        # Converted here, so that rows of several files can be joined, and the file is named where a number cannot be sent.
        return array if taken(array, spec.datatype) else _converted(path, array, spec.datatype, spec.name)
    raise InputError(f"{path} holds an array of shape {list(array.shape)}, but {model.name} expects {spec}")


def _converted(path: str, array: NDArray[Any], datatype: str, name: str) -> NDArray[Any]:
    try:
        return convert(array, datatype, name)
    except InvalidInput as error:
        raise InputError(f"{path} cannot be sent: {error}") from error


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, n) for n, e in zip(shape, expected, strict=True))
