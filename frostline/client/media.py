"""Texts and pictures as people hold them, as the cells of a column: the only one of the models that take them."""

import io
import os
from collections.abc import Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from frostline.client.arrays import is_table, place
from frostline.client.cells import Cells, Place, is_missing, is_unordered, texts, told
from frostline.client.errors import InvalidInput
from frostline.client.schema import Schema
from frostline.dates import coarse
from frostline.pictures import CHANNELS, PictureError, are_pixels, as_file, is_open, pixels_in

KINDS = ("text", "image")
"""The kinds of columns whose cells are texts or pictures."""

_MOST_PIXEL_BYTES = 1 << 20
"""Pictures of more bytes are sent as files: these are smaller, and one must fit into a message."""

_BYTES = (bytes, bytearray, memoryview)


def listed(inputs: Any) -> Any:
    """What holds rows in an order, but is no list and no array, as a list of them; anything else as it is.

    Iterators can be read only once, and rows may be needed twice. Columns of a table stay what they are if they hold numbers.

    Raises:
        InvalidInput: It has no order.
    """
    if isinstance(inputs, list | tuple | np.ndarray) or _is_one(inputs) or is_table(inputs):
        return inputs
    if isinstance(inputs, Mapping):
        return {name: listed(values) if isinstance(values, Iterator) else values for name, values in inputs.items()}
    if is_unordered(inputs):
        raise InvalidInput("the rows are a set, which has no order that the answers could have; give a list")
    # Numbers in an array of Python's, or what else NumPy reads by itself, keep their type.
    if isinstance(inputs, Iterator | KeysView | ValuesView | Sequence) and not hasattr(type(inputs), "__array__"):
        return inputs if _is_buffer(inputs) else list(inputs)
    series = unboxed(inputs)
    return series if isinstance(series, list) and may_be(series) else inputs


def unboxed(values: Any, what: str = "the input") -> Any:
    """The values of a column of a table as a list; anything else as it is. Messages call it `what`.

    Raises:
        InvalidInput: One is no value of Python, such as a date that its own do not reach.
    """
    values = coarse(values)
    for method in ("to_pylist", "to_list"):
        if hasattr(type(values), method):
            try:
                return list(getattr(values, method)())
            except (ValueError, OverflowError) as error:
                raise InvalidInput(f"{what} holds a value that Python has none for: {error}") from error
    return values


def may_be(inputs: object) -> bool:
    """Whether these may be texts or pictures, one or one for each row."""
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind in "OSUT" or is_pixels(inputs)
    if isinstance(inputs, list | tuple):
        first = next((cell for cell in inputs if not is_missing(cell)), None)
        return len(inputs) > 0 and (first is None or _is_one(first) or _may_be_pixels(first))
    return _is_one(inputs)


def is_pixels(inputs: object) -> TypeGuard[NDArray[np.uint8]]:
    """Whether it is an array that may be pictures: uint8 [rows, height, width] or [rows, height, width, channels]."""
    return isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and inputs.ndim in (3, 4)


def shape_of_pixels(inputs: object) -> tuple[int, ...] | None:
    """The shape of pictures' pixels, where they are held as arrays of one size."""
    if is_pixels(inputs):
        return inputs.shape
    if isinstance(inputs, list | tuple) and inputs and _are_alike(inputs):
        return (len(inputs), *inputs[0].shape)
    return None


def cells_of(inputs: Any) -> Cells:
    """The cells of what `may_be` texts or pictures.

    Raises:
        InvalidInput: It is an array of several axes that are no pixels.
    """
    if isinstance(inputs, list | tuple) or is_pixels(inputs):
        return inputs
    if not isinstance(inputs, np.ndarray):
        return [inputs]
    if inputs.ndim > 1 and inputs.shape[1:] != (1,):
        raise InvalidInput(
            f"the input is an array of shape {list(inputs.shape)}; give a list with a value for each row"
        )
    # Masked elements of objects become None.
    return list(inputs.reshape(-1).astype(object).tolist())


def is_picture(value: object) -> bool:
    """Whether it is one picture, held in any way but as a path in a text."""
    if isinstance(value, np.ndarray):
        return are_pixels(value)
    return _is_one(value) and not isinstance(value, str)


def free_texts(cells: Cells, where: Place, empty: str) -> NDArray[Any]:
    """The texts of a column as objects [rows]; `empty` stands for no value.

    Raises:
        InvalidInput: A cell is no text.
    """
    return texts([_free_text(cell, index, empty, where) for index, cell in enumerate(cells)], where)


def _free_text(cell: Any, index: int, empty: str, where: Place) -> str:
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        return empty
    hint = ""
    if isinstance(cell, _BYTES):
        hint = "; decode it: .decode()" if isinstance(cell, bytes | bytearray) else "; decode it: bytes(...).decode()"
    elif isinstance(cell, os.PathLike):
        hint = "; give what the file holds: .read_text()"
    elif hasattr(type(cell), "read"):
        hint = "; give what it holds: .read()"
    raise InvalidInput(f"{where(index)}: a text is expected, but it is {told(cell)}{hint}")


def pictures(cells: Cells, where: Place, *, pixels: bool) -> NDArray[Any]:
    """The pictures of a column as files, objects [rows]; or their pixels uint8 [rows, height, width, channels].

    Args:
        cells: The pictures, one or more.
        where: Says where a cell is.
        pixels: Whether the model takes pixels.

    Raises:
        InvalidInput: A cell is no picture, or cannot be read.
    """
    if is_pixels(cells):
        _refuse_masked(cells, "the pictures are")
        return np.asarray(cells)
    if pixels and is_picture(cells[0]) and _are_alike(cells) and cells[0].nbytes <= _MOST_PIXEL_BYTES:
        for index, cell in enumerate(cells):
            _refuse_masked(cell, f"{where(index)}: the picture is")
        stacked = np.stack([np.asarray(cell) for cell in cells])
        return stacked if stacked.ndim == 4 else stacked[:, :, :, np.newaxis]
    array = np.empty(len(cells), object)
    array[:] = [_picture(cell, index, where) for index, cell in enumerate(cells)]
    return array


def refuse_paths(cells: Cells, where: Place) -> None:
    """Refuses what would be read as a file.

    Raises:
        InvalidInput: A cell is a path, or a text that would be taken for one.
    """
    for index, cell in enumerate(cells):
        if isinstance(cell, str | os.PathLike):
            raise InvalidInput(
                f"{where(index)}: a picture is expected, but it is {told(cell)}; give the bytes of its file"
            )


def _are_alike(cells: Cells) -> bool:
    """Whether all are arrays of pixels of one shape."""
    first = cells[0]
    return isinstance(first, np.ndarray) and all(_may_be_pixels(cell) and cell.shape == first.shape for cell in cells)


def _picture(cell: Any, index: int, where: Place) -> bytes:
    if isinstance(cell, _BYTES):
        return bytes(cell)
    if isinstance(cell, io.BytesIO):
        return cell.getvalue()
    if isinstance(cell, str | os.PathLike):
        try:
            return Path(cell).read_bytes()
        except (OSError, ValueError, TypeError) as error:
            fact = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{where(index)}: the picture {str(cell)!r:.200} cannot be read: {fact}") from error
    if are_pixels(cell):
        _refuse_masked(cell, f"{where(index)}: the picture is")
        return _png(cell, index, where)
    if is_open(cell):
        return _png(cell, index, where)
    hint = "give a path, the bytes of a file, a picture of Pillow, or an array uint8 [height, width] or [height, width, 3 or 4]"
    if hasattr(type(cell), "read"):
        hint = "give its path, or what it holds: .read()"
    if isinstance(cell, np.ndarray):
        if _may_be_pixels(cell) and cell.shape[0] in CHANNELS:
            hint = "the channels come last: .transpose(1, 2, 0)"
        raise InvalidInput(
            f"{where(index)}: a picture is expected, but it is array({cell.dtype} {list(cell.shape)}); {hint}"
        )
    raise InvalidInput(f"{where(index)}: a picture is expected, but it is {told(cell)}; {hint}")


def _png(picture: Any, index: int, where: Place) -> bytes:
    """A picture without a file as one, of the same pixels."""
    try:
        return as_file(picture)
    except PictureError as error:
        raise InvalidInput(f"{where(index)}: the picture {error}") from error


def pixels_of(columns: Mapping[str, NDArray[Any]], schema: Schema) -> list[int]:
    """How many pixels each row has, by the headers of files; nothing where rows are no pictures."""
    if schema.columns[0].kind != "image":
        return []
    (pictures,) = columns.values()
    if pictures.dtype.hasobject:
        return [pixels_in(picture) for picture in pictures]
    _, height, width, *_ = pictures.shape
    return [height * width] * len(pictures)


def _refuse_masked(pixels: object, what: str) -> None:
    """Refuses masked pixels, which would be sent with whatever lies below the mask."""
    if isinstance(pixels, np.ma.MaskedArray):
        masked = np.flatnonzero(np.ma.getmaskarray(pixels))
        if masked.size:
            at = place(int(masked[0]), pixels.shape)
            raise InvalidInput(f"{what} masked at {at}, so there is no pixel to send; fill it first: .filled(255)")


def _is_one(value: object) -> bool:
    """Whether it is a text, a path, a file or a picture of Pillow, and can be no number or list of them."""
    return (
        isinstance(value, str | bytes | bytearray | memoryview | os.PathLike)
        or hasattr(type(value), "read")
        or is_open(value)
    )


def _may_be_pixels(value: object) -> TypeGuard[NDArray[np.uint8]]:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3)


def _is_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return False
    return True
