"""The picture encoder: pictures of any size to the pixels that the network takes, decoded by several threads at once."""

import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from PIL import Image as pillow  # noqa: N813  a column is called so here

from frostline.pictures import PictureError, decoded, of_pixels, pixels_in, read
from frostline_server.errors import InvalidData
from frostline_server.runtime.row_schema import Image, RowSchema

Array = np.ndarray[Any, Any]

_LARGE_PIXELS = 4_000_000
"""Pictures of more pixels are decoded one after the other: the largest takes half a gigabyte for a moment."""
_BLOCK_BYTES = 64 << 20
"""What Pillow takes memory in, for pictures that are as large. The C library's own limit is 32 MiB."""


class PictureEncoder:
    """Encodes the pictures of one version.

    Args:
        schema: its columns, of which there is one.
        column: that one.
        threads: how many decode at once. Pillow lets go of the interpreter's lock.
        alone: held while a large picture is decoded; one for the process.
    """

    def __init__(self, schema: RowSchema, column: Image, threads: int, alone: threading.Lock) -> None:
        self.schema = schema
        self._form = column.form
        self._where = f"column {column.name!r}"
        # Its threads start when they are needed, and end with the encoder.
        self._pool = ThreadPoolExecutor(threads - 1, "decode-pictures") if threads > 1 else None
        self._threads = threads
        self._large = alone
        # Of odd metadata, which changes no pixel. A filter of its own for each call would not be safe among threads.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # Larger blocks than the C library has in its heaps, of which each thread has its own and keeps what was freed.
        pillow.core.set_block_size(_BLOCK_BYTES)  # type: ignore[attr-defined]  # which its documentation names

    def encode(self, columns: Sequence[Array]) -> tuple[list[Array], Array]:
        """The network's input for rows.

        Args:
            columns: the pictures [N]: bytes of files, or pixels uint8 [height, width] or [height, width, channels].

        Returns:
            The pixels, float32 [N, C, H, W], 0 (dark) to 255; and what each picture is, uint8 [N, 1], always known.

        Raises:
            InvalidData: a picture cannot be used; the error names all such rows.
        """
        (given,) = columns
        made = np.empty((len(given), *self._form.shape), np.float32)

        # Whoever is free takes the next one; this thread too.
        waiting = iter(range(len(given)))
        bad: dict[int, str] = {}

        def decode() -> None:
            for row in waiting:
                try:
                    made[row] = self._pixels(given[row])
                except PictureError as error:
                    bad[row] = str(error)

        helpers = [self._pool.submit(decode) for _ in range(min(self._threads, len(given)) - 1)] if self._pool else []
        try:
            decode()
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()
        if bad:
            raise InvalidData.of_rows(self._where, dict(sorted(bad.items())))
        return [made], np.zeros((len(given), 1), np.uint8)

    def _pixels(self, picture: bytes | Array) -> Array:
        if isinstance(picture, bytes):
            with self._alone(pixels_in(picture)):
                return read(picture, self._form)
        height, width, *_ = picture.shape
        with self._alone(height * width):
            return decoded(of_pixels(picture), self._form)

    def _alone(self, pixels: int) -> AbstractContextManager[object]:
        return self._large if pixels > _LARGE_PIXELS else nullcontext()
