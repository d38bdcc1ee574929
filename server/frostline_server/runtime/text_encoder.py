"""The text encoder: texts to the bytes that the network takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frostline_server.runtime.row_encoder import MISSING, OUTSIDE
from frostline_server.runtime.row_schema import RowSchema, Text

Array = np.ndarray[Any, Any]


class TextEncoder:
    """Encodes the texts of one version.

    Args:
        schema: its columns, of which there is one.
        column: that one.
    """

    def __init__(self, schema: RowSchema, column: Text) -> None:
        self.schema = schema
        self._width = column.bytes
        self._missing = frozenset(schema.missing)

    def encode(self, columns: Sequence[Array]) -> tuple[Array, Array]:
        """The network's input for rows.

        Args:
            columns: the texts [N].

        Returns:
            The texts' first bytes in UTF-8, uint8 [N, T], padded with 0, so that they do not depend on each other; and what
            each text is, uint8 [N, 1]: missing, outside of what the network takes where it was cut, or known.
        """
        (texts,) = columns
        width = self._width
        states = np.zeros((len(texts), 1), np.uint8)
        rows = []
        for row, text in enumerate(texts.tolist()):
            cell = text.strip()
            if cell in self._missing:
                states[row] = MISSING
                cell = ""
            # No more of a long text is encoded than may be needed.
            content = cell[: width + 1].encode()
            if len(content) > width:
                states[row] = OUTSIDE
            rows.append(content[:width].ljust(width, b"\0"))
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width), states
