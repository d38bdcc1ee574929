"""The text encoders: texts to the bytes, or the words of a vocabulary, that the network takes."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from frostline_server.runtime.row_encoder import KNOWN, MISSING, OUTSIDE, UNKNOWN
from frostline_server.runtime.row_schema import RowSchema, Split, Text

Array = np.ndarray[Any, Any]

_WORDS: Mapping[Split, re.Pattern[str]] = {
    "words": re.compile(r"\w+|[^\w\s]"),
    "spaces": re.compile(r"\S+"),
    "characters": re.compile(r".", re.DOTALL),
}
_OTHER, _FIRST = 1, 2
"""The number of all words that are not known, and of the first that is. 0 pads."""


class ByteEncoder:
    """Encodes the texts of one version as bytes.

    Args:
        schema: its columns, of which there is one.
        column: that one.
    """

    def __init__(self, schema: RowSchema, column: Text) -> None:
        self.schema = schema
        self._width = column.bytes or 0
        self._missing = frozenset(schema.missing)

    def encode(self, columns: Sequence[Array]) -> tuple[list[Array], Array]:
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
        return [np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)], states


class WordEncoder:
    """Encodes the texts of one version as the numbers of their words.

    Args:
        schema: its columns, of which there is one.
        column: that one.
    """

    def __init__(self, schema: RowSchema, column: Text) -> None:
        self.schema = schema
        self._length = column.length or 0
        self._lowercase = column.lowercase
        self._words = _WORDS[column.split]
        self._numbers = {word: number for number, word in enumerate(column.vocabulary or (), _FIRST)}
        self._missing = frozenset(schema.missing)

    def encode(self, columns: Sequence[Array]) -> tuple[list[Array], Array]:
        """The network's input for rows.

        Args:
            columns: the texts [N].

        Returns:
            The numbers of the first words, int64 [N, T], padded with 0; and what each text is, uint8 [N, 1]: missing,
            unknown where none of its words is known, outside of what the network takes where it was cut, or known.
        """
        (texts,) = columns
        numbers = np.zeros((len(texts), self._length), np.int64)
        states = np.zeros((len(texts), 1), np.uint8)
        for row, text in enumerate(texts.tolist()):
            cell = text.strip()
            if cell in self._missing:
                states[row] = MISSING
                continue
            found = self._words.finditer(cell.lower() if self._lowercase else cell)
            # No more of a long text is looked up than may be needed.
            words = [self._numbers.get(match[0], _OTHER) for match in islice(found, self._length + 1)]
            unknown = all([number == _OTHER for number in words])
            states[row] = UNKNOWN if unknown else OUTSIDE if len(words) > self._length else KNOWN
            kept = words[: self._length]
            numbers[row, : len(kept)] = kept
        return [numbers], states
