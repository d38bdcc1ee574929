"""Texts to what a network takes: the numbers of their words, or of a tokenizer's tokens."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.pythontext import encoded as text_bytes
from frostline_training.data.rows import Split, Text
from frostline_training.errors import DataError, first_line

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"

_LONGEST_TEXT = 1 << 20  # bytes that a server takes
_MOST_TOKENS = 1 << 16  # as above
_MOST_WORDS = 1 << 20  # as above
_FIRST = 2  # the number of a vocabulary's first word; 0 pads, 1 is any other
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


def check_text(text: Text) -> None:
    """Check what a text says of itself.

    Raises:
        DataError: It cannot be; the text says why.
    """
    what = f"the text {text.name!r}"
    kinds = [text.bytes, text.vocabulary, text.tokenizer]
    if kinds.count(None) != 2:
        raise DataError(f"{what}: give one of bytes, vocabulary and tokenizer, which say what the network takes of it")
    if text.vocabulary is None:
        for name, value in (("lowercase", text.lowercase), ("split", text.split)):
            if value is not None:
                raise DataError(f"{what} has {name}={value!r}, which is about the words of a vocabulary: leave it out")
    if text.bytes is not None:
        _check_number(what, "bytes", text.bytes, _LONGEST_TEXT)
        if text.length is not None:
            raise DataError(f"{what} has bytes and length: leave one out, they say the same")
        return
    _check_number(what, "length", text.length, _MOST_TOKENS)
    if text.vocabulary is None:
        if text.name in (IDS, MASK, TYPES):
            raise DataError(f"{what} is called as the network's own input is: rename it")
        tokenizer_of(text)
        return
    _check_vocabulary(what, text, text.vocabulary)


def _check_vocabulary(what: str, text: Text, words: Sequence[str]) -> None:
    if text.split not in (None, *get_args(Split)):
        raise DataError(f"{what} has split={text.split!r}: give {', '.join(get_args(Split))}")
    if text.lowercase not in (None, True, False):
        raise DataError(f"{what} has lowercase={text.lowercase!r}: give True or False")
    if isinstance(words, str | Mapping) or not words or len(words) > _MOST_WORDS:
        raise DataError(f"{what} has no vocabulary: give a list of 1 to {_MOST_WORDS} words, without those for padding")
    known: set[str] = set()
    for word in words:
        if not isinstance(word, str) or words_of(word, text) != [word]:
            raise DataError(
                f"{what} has {word!r} in its vocabulary, which no text becomes: its words are split by {split_of(text)}"
                f"{', in small letters' if in_small_letters(text) else ''}; leave it out (0 pads and 1 is any other word)"
            )
        if word in known:
            raise DataError(f"{what} has {word!r} in its vocabulary twice")
        known.add(word)


def _check_number(what: str, name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise DataError(f"{what} has {name}={value!r}: give a number from 1 to {most}")


def in_small_letters(column: Text) -> bool:
    """Return whether the words of a text with a vocabulary are those of the text in small letters."""
    return column.lowercase is not False


def split_of(column: Text) -> Split:
    """Return what a word of a text with a vocabulary is."""
    return column.split or "words"


def words_of(text: str, column: Text) -> list[str]:
    """Return the words of a text as its column splits it."""
    if in_small_letters(column):
        text = text.lower()
    match split_of(column):
        case "characters":
            return list(text)
        case "spaces":
            return re.findall(r"\S+", text)
        case "words":
            return re.findall(r"\w+|[^\w\s]", text)


def encoded(texts: Sequence[str | None], text: Text) -> dict[str, NDArray[Any]]:
    """Return texts as a network takes them: the bytes or words under ``input_ids``, or what a tokenizer makes by name.

    Args:
        texts: None where one is missing.
        text: What the network takes.

    Raises:
        DataError: The tokenizer fails on a text.
    """
    if text.bytes is not None:
        return {IDS: text_bytes([None if each is None else each.strip() for each in texts], text.bytes)}
    length = text.length or 0
    if text.vocabulary is None:
        return _tokens([each or "" for each in texts], tokenizer_of(text))
    numbers = {word: number for number, word in enumerate(text.vocabulary, _FIRST)}
    rows = np.zeros((len(texts), length), np.int64)
    for row, each in zip(rows, texts, strict=True):
        words = words_of((each or "").strip(), text)[:length]
        row[: len(words)] = [numbers.get(word, 1) for word in words]
    return {IDS: rows}


def _tokens(texts: list[str], tokenizer: Any) -> dict[str, NDArray[Any]]:
    try:
        encodings = tokenizer.encode_batch(texts)
    except BaseException as error:  # a defect in the library is no kind of Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"the tokenizer fails on a text: {first_line(error)}") from error
    return {
        IDS: np.array([each.ids for each in encodings], np.int64),
        MASK: np.array([each.attention_mask for each in encodings], np.int64),
        TYPES: np.array([each.type_ids for each in encodings], np.int64),
    }


def tokenizer_of(text: Text) -> Any:
    """Return a copy of the text's tokenizer that cuts and pads every text to `length` tokens.

    Raises:
        DataError: It is none, or cannot be written into a file, or has no token to pad with.
    """
    what = f"the text {text.name!r}"
    try:
        import tokenizers  # noqa: PLC0415 only who has such texts needs it
    except ImportError as error:
        raise DataError(
            f"{what} has a tokenizer, which needs the package tokenizers: pip install 'frostline[text]'"
        ) from error
    given = getattr(text.tokenizer, "backend_tokenizer", text.tokenizer)  # as Hugging Face's transformers have it
    try:
        content = Path(given).read_text(encoding="utf-8") if isinstance(given, str | Path) else given.to_str()
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise DataError(
            f"{what} has a tokenizer that cannot be read: {first_line(error)}; give the path of a tokenizer.json, or a "
            "tokenizers.Tokenizer without parts written in Python"
        ) from error
    length = text.length or 0
    own = tokenizer.num_special_tokens_to_add(is_pair=False)
    if own >= length:
        raise DataError(f"{what} has length={length}, and its tokenizer adds {own} tokens of its own to each text")
    padding = tokenizer.padding or _padding(tokenizer, text)
    cut = tokenizer.truncation or {"direction": "right"}
    tokenizer.enable_truncation(length, direction=cut["direction"])
    kept = {key: padding[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token") if key in padding}
    tokenizer.enable_padding(length=length, **kept)
    return tokenizer


def _padding(tokenizer: Any, text: Text) -> dict[str, Any]:
    wanted = getattr(text.tokenizer, "pad_token", None)
    for token in (wanted,) if wanted else _PADS:
        number = tokenizer.token_to_id(token)
        if number is not None:
            return {"pad_id": number, "pad_token": token}
    raise DataError(
        f"the tokenizer of the text {text.name!r} has no token to pad with: call its enable_padding(pad_id=..., pad_token=...)"
    )
