"""The encoders of raw rows, one kind for each kind of schema."""

import numpy as np

from frostline_server.errors import LoadError
from frostline_server.runtime.picture_encoder import PictureEncoder
from frostline_server.runtime.row_encoder import RowEncoder
from frostline_server.runtime.row_schema import Image, RowSchema, Text
from frostline_server.runtime.signature import TensorSpec
from frostline_server.runtime.text_encoder import TextEncoder

Encoder = RowEncoder | TextEncoder | PictureEncoder


def open_encoder(schema: RowSchema, content: bytes, spec: TensorSpec, threads: int) -> Encoder:
    """The encoder of a version's raw rows.

    Args:
        schema: the columns.
        content: the file that encodes a table; empty for others.
        spec: the network's input.
        threads: how many decode pictures at once.

    Raises:
        LoadError: the network takes something else than it makes of such rows, or the file cannot be run.
    """
    match schema.columns[0]:
        case Text() as text:
            _check(spec, np.dtype(np.uint8), (text.bytes,), "text")
            return TextEncoder(schema, text)
        case Image() as image:
            _check(spec, np.dtype(np.float32), image.form.shape, "picture")
            return PictureEncoder(schema, image, threads)
        case _:
            if len(spec.shape) != 1:
                raise LoadError(f"{schema.file} makes one tensor [rows, numbers], and the network takes something else")
            return RowEncoder(schema, content, spec.name, spec.shape[0])


def _check(spec: TensorSpec, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str) -> None:
    """Check that the network takes what is made of a row."""
    fits = len(spec.shape) == len(shape) and all(
        size in (None, made) for size, made in zip(spec.shape, shape, strict=True)
    )
    if not fits or spec.dtype != dtype:
        raise LoadError(
            f"a {what} becomes {dtype} {['rows', *shape]}, and the network takes {spec.dtype} {['rows', *spec.shape]}"
        )
