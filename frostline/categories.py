"""The categories of raw rows: which text a value means, and what stands for none; the same to training and to clients."""

from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np

MISSING = "(missing)"
"""Stands for no value among the categories of a column that has one for that."""

_YES = {True: ("true", "yes"), False: ("false", "no")}
"""How truth values are written in tables, in small letters."""


def missing_word(missing: Sequence[str], categories: Collection[str]) -> str:
    """The text that is sent where a column of raw rows has no value, which is no category of it: the empty one, if it may be.

    Args:
        missing: the texts that stand for no value where they are no categories.
        categories: those of the column.
    """
    words = ("", *missing) if "" in missing or not missing else (*missing, "")
    text = next((word for word in (*words, MISSING) if word not in categories), MISSING)
    while text in categories:  # an unknown one is encoded as missing
        text += "?"
    return text


def meant(value: object, categories: Sequence[str]) -> str | None:
    """The text that bytes, a truth value or a whole number mean; None if that cannot be told.

    Args:
        value: a number that is none of categories that are numbers means its digits, which are unknown to the model.
        categories: those that the model knows.
    """
    if isinstance(value, bytes):  # as a column of Parquet may have them
        with suppress(UnicodeDecodeError):
            return value.decode().strip()
    if isinstance(value, bool | np.bool_):
        return _only([text for text in categories if text.casefold() in _YES[bool(value)]], str(bool(value)))
    if isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and value.is_integer()):
        # A table of pandas has floats where a whole number is missing.
        digits = str(int(value))
        numbers = {text: number for text in categories if (number := _whole(text)) is not None}
        alike = [text for text, number in numbers.items() if number == int(value)]
        return _only(alike, digits) if alike or not numbers else digits
    return None


def _only(texts: Sequence[str], exact: str) -> str | None:
    """The text that is meant: the exact one, or the only one; None if there is none, or one of several."""
    return exact if exact in texts else texts[0] if len(texts) == 1 else None


def _whole(text: str) -> int | None:
    """The whole number that a category is written as, also with zeros before it: 05090, or 3.0."""
    try:
        number = float(text)
        return int(text) if text.isdecimal() else int(number) if number.is_integer() else None
    except ValueError:
        return None
