"""The Python client's refusals of rows, in the terms of whoever wrote the rows in JSON.

Rows mean the same over HTTP as to the client, whose conversation reads them; but what it tells to do is Python.
"""

import re
from collections.abc import Callable, Mapping

_PHRASES: Mapping[str, str] = {
    r"a missing number is float\('nan'\)": 'a missing number is "NaN"',
    r"where rounding is meant, do it first: \.astype\(np\.\w+\)": "write it with a decimal point if it may be rounded",
    r"convert it: float\('[^']*'?\)?": "send it as a number, without quotes",
    r"list what is there with `frostline models`": "POST /v2/repository/index lists what is there",
    r"say extra='ignore'": 'say "extra": "ignore"',
    r"give a datetime, a date, or the text of": "give the text of",
    r"\bholds None at\b": "holds null at",
    r"\b([Gg]ive|or) None where\b": r"\1 null where",
    r"\bTrue and False\b": "true and false",
    r"\bNone \(NoneType\)": "null",
    r"\bTrue \(bool\)": "true",
    r"\bFalse \(bool\)": "false",
    r" \(str\)": " (a text)",
    r" \((?:int|float)\)": " (a number)",
    r" \(list\)": " (a list)",
    r" \(dict\)": " (an object)",
    r"\ba dict of arrays by name\b": "`inputs`, an object of arrays by name",
    r"\ba list or an array, or a dict for each row\b": "a list, or an object for each row",
    r"\ba dict\b": "an object",
    r"\bdicts\b": "objects",
}
"""By what the client says, as a pattern."""

_QUOTED = r"(?<!\w)'(?:[^'\\]|\\.)*'"
"""What is quoted of the rows, which stays as it is."""

_TOLD: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(phrase), said) for phrase, said in _PHRASES.items()
)
_ANY = re.compile("|".join((*(f"(?:{phrase})" for phrase in _PHRASES), _QUOTED)))


def in_json(sentence: str) -> str:
    """A refusal of the client's for whoever writes JSON."""
    return _ANY.sub(_said, sentence)


def _said(found: re.Match[str]) -> str:
    for phrase, said in _TOLD:
        if phrase.fullmatch(found[0]):
            return phrase.sub(said, found[0])
    return found[0]
