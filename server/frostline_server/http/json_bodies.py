"""JSON bodies: read as they are written, or refused with the place of what is wrong.

JSON's readers keep the last of several fields of one name, and take a number that is too large for infinity. Either
would be a wrong answer without a word.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from frostline_server.codec.message_scan import MOST_FIELDS
from frostline_server.http.statuses import invalid

_EXPECTED: Mapping[str, str] = {
    "model_type": "a JSON object is expected",
    "dict_type": "a JSON object is expected",
    "list_type": "a list is expected",
    "string_type": "a text is expected",
    "int_type": "a whole number is expected",
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
}
"""What is told of pydantic's types of errors."""

T = TypeVar("T", bound=BaseModel)


def whole(value: Any) -> Any:
    """A whole number that is written with a fraction, as 4.0, as the same number; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(whole)
"""Of a field that is a whole number, which JSON Schema takes with a fraction of zeros, too."""


class Strict(BaseModel):
    """A part of a request: it has no fields that are not known, and no value is converted.

    pydantic collects all that is wrong, which takes seconds and gigabytes where a body has nothing else; so it is shown the
    first of what there may be any number of.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _first_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() <= cls.model_fields.keys():
            return value
        unknown = next(name for name in value if name not in cls.model_fields)
        return {name: value[name] for name in (*(value.keys() & cls.model_fields.keys()), unknown)}


def _first_wrong(value: Any) -> Any:
    """Parameters, or the first that cannot be one."""
    if not isinstance(value, dict):
        return value
    if len(value) > MOST_FIELDS:
        raise PydanticCustomError("too_many", f"there are {len(value)}; a message may have {MOST_FIELDS}")
    wrong = next((name for name in value if not isinstance(value[name], str | int | float)), None)
    return value if wrong is None else {wrong: value[wrong]}


Parameters = Annotated[dict[str, bool | int | float | str], BeforeValidator(_first_wrong)]
"""Parameters of a request or a part of it, by name."""


def parsed(model: type[T], text: bytes) -> T:
    """JSON as a model of pydantic's.

    Raises:
        Failure: it is no JSON, or something else; the message says where, what is expected and what came.
    """
    try:
        return model.model_validate(read(text))
    except ValidationError as error:
        raise invalid(_told(error.errors(include_url=False)[0])) from error


def read(text: bytes) -> Any:
    """What a JSON text says.

    Raises:
        Failure: it is no JSON, an object has a field twice, or a number is larger than any float.
    """
    try:
        found = from_json(text, cache_strings="none")
    except ValueError as error:
        raise invalid(f"the body is no JSON: {error}") from error
    survey = _Survey()
    survey.look(found)
    # A field that is there twice has a colon in the text, and none in what was read. Others may be written \\u003a.
    if survey.infinite or text.count(b":") > survey.colons or (b"\\" in text and b"\\u003" in text):
        # Takes several times as long, and sees all. Not both at once, which would take twice the memory.
        del found
        return json.loads(text, parse_float=_in_range, object_pairs_hook=_once)
    return found


def as_written(text: bytes) -> Any:
    """What a JSON text says, with None for its numbers, but those that were rounded to at most 25 bits as written.

    Only these can be halfway between two floats of single or half precision, and not be what was written.
    """

    def kept(number: str) -> str | None:
        found = float(number)
        return number if (math.frexp(found)[0] * 2**25).is_integer() and Decimal(number) != found else None

    return json.loads(text, parse_float=kept, parse_int=lambda _: None)


class _Survey:
    """What is in something that was read from JSON.

    Attributes:
        infinite: whether it has an infinity, which may have been written as a number.
        colons: how many its text must have.
    """

    def __init__(self) -> None:
        self.infinite = False
        self.colons = 0

    def look(self, value: Any) -> None:
        """Add a value."""
        if isinstance(value, list):
            kinds = set(map(type, value))
            # The sum is the quicker question; it is not finite for other reasons, too.
            if float in kinds and not (len(kinds) == 1 and math.isfinite(sum(value))):
                self.infinite = self.infinite or math.inf in value or -math.inf in value
            if str in kinds:
                self.colons += sum([each.count(":") for each in value if isinstance(each, str)])
            if not kinds.isdisjoint((list, dict)):
                for each in value:
                    if isinstance(each, list | dict):
                        self.look(each)
        elif isinstance(value, dict):
            self.colons += len(value) + "".join(value).count(":")
            for each in value.values():
                kind = type(each)
                if kind is str:
                    self.colons += each.count(":")
                elif kind is float:
                    self.infinite = self.infinite or math.isinf(each)
                elif kind is list or kind is dict:
                    self.look(each)
        else:
            self.look([value])


def _in_range(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise invalid(f'the number {number[:40]} is larger than any FP64; "Infinity" is written so, as a text')
    return found


def _once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        twice = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise invalid(f"an object has the field {twice[:100]!r} twice; say it once")
    return found


def _told(problem: Any) -> str:
    place, kind, came = list(problem["loc"]), problem["type"], problem.get("input")
    expected = _EXPECTED.get(kind, f"{problem['msg'][0].lower()}{problem['msg'][1:]}")
    if "parameters" in place[:-2]:
        # A union has a problem for each of its types.
        place = place[: place.index("parameters") + 2]
        expected = "a truth value, a number or a text is expected"
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    got = "" if kind == "missing" or isinstance(came, dict | list) else f", got {json.dumps(came)[:60]}"
    return f"{where or 'the body'}: {expected}{got}"
