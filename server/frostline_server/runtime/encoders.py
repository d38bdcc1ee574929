"""The encoders of raw rows, one kind for each kind of schema."""

import threading
from collections.abc import Sequence

import numpy as np

from frostline_server.errors import LoadError
from frostline_server.runtime.picture_encoder import PictureEncoder
from frostline_server.runtime.row_encoder import RowEncoder
from frostline_server.runtime.row_schema import Image, RowSchema, Text
from frostline_server.runtime.signature import TensorSpec
from frostline_server.runtime.text_encoder import ByteEncoder, WordEncoder
from frostline_server.runtime.token_encoder import TokenEncoder

Encoder = RowEncoder | ByteEncoder | WordEncoder | TokenEncoder | PictureEncoder


def open_encoder(
    schema: RowSchema, content: bytes, specs: Sequence[TensorSpec], threads: int, alone: threading.Lock
) -> Encoder:
    """The encoder of a version's raw rows.

    Args:
        schema: the columns.
        content: the file that encodes a table, or a text's tokenizer; empty for others.
        specs: the network's inputs.
        threads: how many decode pictures at once.
        alone: held while a large one is decoded.

    Raises:
        LoadError: the network takes something else than it makes of such rows, or the file cannot be run.
    """
    column = schema.columns[0]
    if isinstance(column, Text) and column.tokenized:
        return TokenEncoder(schema, column, content, specs)
    if len(specs) != 1:
        raise LoadError(f"raw rows make one tensor, and the network takes {len(specs)}")
    (spec,) = specs
    match column:
        case Text(bytes=int(size)):
            _check(spec, np.dtype(np.uint8), (size,), "text")
            return ByteEncoder(schema, column)
        case Text(length=int(length)):
            _check(spec, np.dtype(np.int64), (length,), "text")
            return WordEncoder(schema, column)
        case Image():
            _check(spec, np.dtype(np.float32), column.form.shape, "picture")
            return PictureEncoder(schema, column, threads, alone)
        case _:
            if len(spec.shape) != 1:
                raise LoadError(f"{schema.file} makes one tensor [rows, numbers], and the network takes something else")
            return RowEncoder(schema, content, spec.name, spec.shape[0])


def meaning(encoder: Encoder | None) -> object:
    """What the network's numbers mean: equal for two versions if equal numbers are the same rows to both."""
    return encoder and (encoder.schema.encoding, encoder.digest if isinstance(encoder, TokenEncoder) else "")


def _check(spec: TensorSpec, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str) -> None:
    """Check that the network takes what is made of a row."""
    fits = len(spec.shape) == len(shape) and all(
        size in (None, made) for size, made in zip(spec.shape, shape, strict=True)
    )
    if not fits or spec.dtype != dtype:
        raise LoadError(
            f"a {what} becomes {dtype} {['rows', *shape]}, and the network takes {spec.dtype} {['rows', *spec.shape]}"
        )
