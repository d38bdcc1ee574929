"""The token encoder: texts to the numbers of tokens, by the library `tokenizers` and the version's own file.

The file also says how texts are cut and padded, always to the same length, so that no text depends on those beside it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from frostline_server.errors import InvalidData, LoadError
from frostline_server.runtime.row_encoder import KNOWN, MISSING, OUTSIDE, UNKNOWN
from frostline_server.runtime.row_schema import RowSchema, Text
from frostline_server.runtime.signature import TensorSpec

Array = np.ndarray[Any, Any]

MOST_FILE_BYTES = 64 << 20
"""The largest tokenizer's file; those of large vocabularies have 20 to 35 MB."""

_TOGETHER = 1 << 18
"""Characters of texts that are tokenized at once."""
_MOST_GROWTH = 64
"""Of those in use, a normaliser puts at most a few characters in place of one. Memory that cannot be had ends the process."""

_MADE: dict[str, Callable[[Any], list[int]]] = {
    "input_ids": lambda encoding: encoding.ids,
    "attention_mask": lambda encoding: encoding.attention_mask,
    "token_type_ids": lambda encoding: encoding.type_ids,
}
"""What is made of a text, by the names that networks give their inputs."""


class TokenEncoder:
    """Encodes the texts of one version as tokens.

    Args:
        schema: its columns, of which there is one.
        column: that one.
        content: the tokenizer's file.
        specs: the network's inputs.

    Attributes:
        digest: of the file: equal tokens mean the same to two versions only if it is the same.

    Raises:
        LoadError: the library is not installed, the file is none of its, or the network takes something else.
    """

    def __init__(self, schema: RowSchema, column: Text, content: bytes, specs: Sequence[TensorSpec]) -> None:
        self.schema = schema
        self.digest = hashlib.sha256(content).hexdigest()
        self._length = column.length or 0
        self._where = f"column {column.name!r}"
        self._missing = frozenset(schema.missing)
        self._tokenizer = _opened(schema.file or "", content, self._length)
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown = self._tokenizer.token_to_id(unknown) if unknown else None
        self._makers = [_maker(spec, self._length, alone=len(specs) == 1) for spec in specs]

    def encode(self, columns: Sequence[Array]) -> tuple[list[Array], Array]:
        """The network's inputs for rows.

        Args:
            columns: the texts [N].

        Returns:
            For each input its numbers, int64 [N, T]; and what each text is, uint8 [N, 1]: missing, unknown where it has
            no token but the unknown one, outside of what the network takes where it was cut, or known.

        Raises:
            InvalidData: the tokenizer fails on a text; the error names all such rows.
        """
        texts = columns[0].tolist()
        inputs = [np.empty((len(texts), self._length), np.int64) for _ in self._makers]
        states = np.empty((len(texts), 1), np.uint8)
        bad: dict[int, str] = {}
        at = 0
        # What the library makes of a text takes a hundred times its memory.
        for group in _groups(texts):
            encodings = self._encoded(group, at, bad)
            for row, (text, encoding) in enumerate(zip(group, encodings, strict=False), at):
                for array, make in zip(inputs, self._makers, strict=True):
                    array[row] = make(encoding)
                states[row] = self._state(text, encoding)
            at += len(group)
        if bad:
            raise InvalidData.of_rows(self._where, bad)
        return inputs, states

    def _state(self, text: str, encoding: Any) -> int:
        if text.strip() in self._missing:
            return MISSING
        own = [
            number
            for number, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True)
            if not special or number == self._unknown
        ]
        if self._unknown is not None and own and all([number == self._unknown for number in own]):
            return UNKNOWN
        # Only a text that fills all places may have been cut.
        return OUTSIDE if encoding.attention_mask.count(1) == self._length and encoding.overflowing else KNOWN

    def _encoded(self, texts: list[str], start: int, bad: dict[int, str]) -> list[Any]:
        """The encodings of texts; none if one fails, and what is wrong with each, by its row, is then added to `bad`."""
        encodings, fault = _tried(self._tokenizer, texts)
        if fault:
            tried = [_tried(self._tokenizer, [text]) for text in texts]
            encodings = [encoding for encoded, _ in tried for encoding in encoded]
            failed = {row: fault for row, (_, fault) in enumerate(tried, start) if fault}
            bad.update({row: f"the tokenizer fails on the text: {fault}" for row, fault in failed.items()})
            if failed:
                return []
        wrong = {
            row: f"the tokenizer makes {len(encoding.ids)} tokens of the text, not {self._length}"
            for row, encoding in enumerate(encodings, start)
            if len(encoding.ids) != self._length
        }
        bad.update(wrong)
        return [] if wrong else encodings


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Texts in their order, some at once that are not long together, or a long one alone."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > _TOGETHER:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def _tried(tokenizer: Any, texts: list[str]) -> tuple[list[Any], str]:
    """The encodings of texts, or why there are none. Of several at once, the library lets go of the interpreter's lock."""
    try:
        return tokenizer.encode_batch_fast(texts), ""
    except Exception as error:  # noqa: BLE001  the library's own are plain exceptions
        return [], _told(error)
    except BaseException as error:
        # A defect in the library, or a regular expression that never ends, is no kind of Exception.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return [], _told(error)


def _opened(name: str, content: bytes, length: int) -> Any:
    """The tokenizer in a file, which cuts and pads to `length` tokens."""
    try:
        import tokenizers  # noqa: PLC0415  only those who have such versions pay for it, or need it
    except ImportError as error:
        raise LoadError(
            "its texts are tokenized by the Python package tokenizers, which this server does not have; install it: "
            "pip install 'frostline[text]'"
        ) from error
    if len(content) > MOST_FILE_BYTES:
        raise LoadError(f"{name} has {len(content)} bytes; the most is {MOST_FILE_BYTES}")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise LoadError(f"{name} is no tokenizer that the package tokenizers reads: {_told(error)}") from None
    growth = _growth(json.loads(tokenizer.normalizer.__getstate__())) if tokenizer.normalizer else 1
    if growth > _MOST_GROWTH:
        raise LoadError(
            f"{name} makes texts up to {growth} times as long before they are tokenized; the most is {_MOST_GROWTH}"
        )
    # Before any text: memory for as many tokens as the file says may not be there.
    cut, padded = (tokenizer.truncation or {}).get("max_length"), (tokenizer.padding or {}).get("length")
    if (cut, padded) != (length, length):
        raise LoadError(
            f"{name} cuts texts to {cut} tokens and pads them to {padded}; the card says that both are {length}"
        )
    return tokenizer


def _growth(normalizer: Any) -> int:
    """How many times as long a normaliser may make a text: what it puts in place of a character, one step after the other."""
    if isinstance(normalizer, list):
        return math.prod(map(_growth, normalizer))
    if not isinstance(normalizer, dict):
        return 1
    own = max(1, len(normalizer["content"])) if normalizer.get("type") == "Replace" else 1
    return own * _growth(normalizer.get("normalizers"))


def _maker(spec: TensorSpec, length: int, *, alone: bool) -> Callable[[Any], list[int]]:
    """What makes an input of the network; the only one may have any name."""
    name = "input_ids" if alone and spec.name not in _MADE else spec.name
    if name not in _MADE:
        raise LoadError(f"the network takes '{spec.name}', and a tokenizer makes {', '.join(_MADE)}")
    if spec.dtype != np.int64 or len(spec.shape) != 1 or spec.shape[0] not in (None, length):
        raise LoadError(
            f"a text becomes int64 ['rows', {length}], and the network takes {spec.name} {spec.dtype} {['rows', *spec.shape]}"
        )
    return _MADE[name]


def _told(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
