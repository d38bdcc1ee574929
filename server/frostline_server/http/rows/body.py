"""The rows of a request: of JSON, of a form with files, or of one picture."""

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from frostline.client.rows import are_of, may_be
from frostline.client.schema import Schema
from frostline_server.http.call import Call
from frostline_server.http.json_bodies import WHOLE, Strict, parsed
from frostline_server.http.json_size import MOST_BYTES
from frostline_server.http.numbers import NOT_FINITE
from frostline_server.http.statuses import Failure, invalid

_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "application/octet-stream")
_MOST_PARTS = 4096
_NO_JSON = (
    "image/",
    "audio/",
    "video/",
    "application/pdf",
    "application/zip",
    "application/xml",
    "text/html",
    "text/csv",
)
"""Types of bodies that are certainly no JSON; programs are careless with others."""


ONE_OF_TWO: Mapping[str, Any] = {
    "if": {"required": ["rows"], "properties": {"rows": {"type": ["array", "object"]}}},
    "then": {"properties": {"inputs": {"type": "null"}}},
    "else": {"required": ["inputs"], "properties": {"inputs": {"type": "object"}}},
}
"""That there are rows or inputs, and not both, in the words of JSON Schema."""


class PredictRequest(Strict):
    """Rows to predict, or the inputs of a network that has several.

    Rows are, of a table, an object for each, by column, with null for what is missing; texts; pictures as `{"b64": ...}`;
    or lists of numbers.
    """

    model_config = ConfigDict(json_schema_extra=dict(ONE_OF_TWO))

    rows: Any = Field(None, json_schema_extra={"type": ["array", "object", "null"], "items": {}})
    inputs: dict[str, Any] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31), WHOLE] = Field(
        0, description="how many of the most probable classes to list; 0 for up to 1000"
    )
    extra: str = Field(
        "refuse", pattern="^(refuse|ignore)$", description="what becomes of columns that the model does not take"
    )


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        rows: the rows, or a network's inputs by name, as the Python client takes them.
        top_k: how many of the most probable classes to list; 0 for up to 1000.
        extra: what becomes of columns that the model does not take.
    """

    rows: Any
    top_k: int = 0
    extra: Any = "refuse"


def most_bytes(call: Call) -> int | None:
    """How long a body may be, by its type; None for as long as any."""
    kind = _kind(call)
    return None if kind == "multipart/form-data" or kind in _PICTURES else MOST_BYTES


def _kind(call: Call) -> str:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()


async def asked_of(call: Call, body: bytes, schema: Schema) -> "Asked":
    """What a request asks, by the type of its body.

    Args:
        call: the call.
        body: of it.
        schema: of the version that is to answer.

    Raises:
        Failure: it is of a type, or has a form, that is not understood.
    """
    kind = _kind(call)
    if kind == "multipart/form-data":
        return await _form(call, body)
    if kind in _PICTURES:
        return Asked([body])
    if kind.startswith(_NO_JSON):
        raise Failure(
            415,
            f"Content-Type is {kind[:100]}; send JSON (application/json), a form (multipart/form-data), or a picture "
            "(image/png, image/jpeg, image/webp)",
            "unsupported",
        )
    return await call.read(body, partial(_json, schema))


def _json(schema: Schema, body: bytes) -> Asked:
    """The rows of a body.

    Raises:
        Failure: it is no JSON, or has no rows.
    """
    asked = parsed(PredictRequest, body)
    if (asked.rows is None) == (asked.inputs is None):
        has = "has neither `rows` nor `inputs`" if asked.rows is None else "has both `rows` and `inputs`"
        raise invalid(f"the body {has}; give one of them; {schema.expects}")
    given = asked.rows if asked.inputs is None else asked.inputs
    if not isinstance(given, list | dict):
        raise invalid(f"rows is {_told(given)}; a list with a value for each row is expected; {schema.expects}")
    if not schema.columns and isinstance(given, dict) and "" in given:
        raise invalid(f"there is an input without a name; {schema.expects}")
    if pictures := [column.name for column in schema.columns if column.kind == "image"]:
        given = _pictures(given, pictures[0])
    elif not are_raw(given, schema) and all(spec.datatype != "BYTES" for spec in schema.inputs):
        given = _numbers(given)
    return Asked(given, asked.top_k, asked.extra)


def are_raw(given: Any, schema: Schema) -> bool:
    """Whether these are raw rows, and not the network's own input."""
    return bool(schema.columns) and may_be(given) and are_of(given, schema)


def _numbers(value: Any) -> Any:
    """Lists of numbers, which may have the words for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list) and not {str, list}.isdisjoint(map(type, value)):
        return [_numbers(each) for each in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _pictures(given: Any, column: str) -> Any:
    """The files of pictures: in a list, in one or more rows, or as a column."""
    if isinstance(given, dict) and "b64" not in given:
        cells = given.get(column)
        if isinstance(cells, list):
            return {**given, column: [_file(cell, f"row {row}, column {column!r}") for row, cell in enumerate(cells)]}
        return _picture(given, column, "the row")
    listed = given if isinstance(given, list) else [given]
    return [_picture(row, column, f"row {number}") for number, row in enumerate(listed)]


def _picture(row: Any, column: str, where: str) -> Any:
    if isinstance(row, dict) and "b64" not in row:
        return {
            name: _file(cell, f"{where}, column {name!r}") if name == column else cell for name, cell in row.items()
        }
    return row if isinstance(row, list) else _file(row, where)


def _file(cell: Any, where: str) -> bytes:
    text = cell.get("b64") if isinstance(cell, dict) and len(cell) == 1 else cell
    if isinstance(text, str):
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            # Programs break its lines.
            return base64.b64decode("".join(encoded.split()), validate=True)
        except (ValueError, binascii.Error) as error:
            if text is not cell:
                raise invalid(
                    f"{where}: b64 is no base64 ({error}); send the bytes of a PNG, JPEG or WebP file"
                ) from error
    raise invalid(
        f'{where} is {_told(cell)}; a picture is {{"b64": "..."}}, the bytes of a PNG, JPEG or WebP file in base64'
    )


async def _form(call: Call, body: bytes) -> Asked:
    """The pictures of a form.

    Raises:
        Failure: it is no form, or has something else.
    """

    async def stream() -> Any:
        yield body

    headers = Headers({"content-type": call.headers.get("content-type", "")})
    try:
        parser = MultiPartParser(headers, stream(), max_files=_MOST_PARTS, max_fields=16, max_part_size=1 << 16)
        # They are in memory already, and not every server has a disk to write to.
        parser.spool_max_size = len(body) + 1
        form: FormData = await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError, ValueError) as error:
        raise invalid(
            f"the body is no form of the type multipart/form-data: {error or type(error).__name__}"
        ) from error
    files, said = [], {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(await value.read())
            elif name in said:
                raise invalid(f"the form has the field {name!r} twice; say it once")
            elif name in ("top_k", "extra"):
                said[name] = value
            else:
                raise invalid(f"the form has the field {name[:100]!r}; it may have files, `top_k` and `extra`")
    finally:
        await form.close()
    if not files:
        raise invalid("the form has no files; give each picture as a file, as in `curl -F file=@picture.jpg`")
    top_k = said.get("top_k", "0")
    if (
        not (top_k.isascii() and top_k.isdecimal())
        or len(top_k) > 9
        or said.get("extra", "refuse") not in ("refuse", "ignore")
    ):
        raise invalid("top_k must be a whole number, and extra refuse or ignore")
    return Asked(files, int(top_k), said.get("extra", "refuse"))


def _told(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "no number of JSON's"
    return "null" if value is None else f"the text {value[:40]!r}" if isinstance(value, str) else str(value)
