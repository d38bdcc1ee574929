"""The JSON Schema of what `predict` takes for one model, from what the server says of its columns and inputs.

It is as wide as the server and no wider, but for what no schema can say: that columns are equally long, that a text is
a date or the file of a picture, that a float has a whole number.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from frostline.client.rows import takes
from frostline.client.schema import Column, Schema
from frostline_server.http.numbers import NOT_FINITE
from frostline_server.http.rows.answers import chooses_a_class
from frostline_server.http.rows.body import ONE_OF_TWO
from frostline_server.runtime.dtypes import DTYPES

Json = dict[str, Any]

_MOST_CATEGORIES = 500
"""Categories that are listed; of more, a document would be too long to read."""
_NO_CATEGORY = 10**15 + 1
_FILE: Json = {"type": "string", "contentEncoding": "base64"}
_PICTURE: Json = {
    "anyOf": [
        {"type": "object", "properties": {"b64": _FILE}, "required": ["b64"], "additionalProperties": False},
        _FILE,
    ],
    "description": "the bytes of a PNG, JPEG or WebP file in base64, or a data URL",
}
_MEDIA = (["text"], ["image"])
"""The kinds of columns of models whose rows may be just the cells of their only column."""
_EXTRA: Json = {
    "type": "string",
    "enum": ["refuse", "ignore"],
    "description": "columns that it does not take; refuse without it",
}


def request(schema: Schema, name: str, reference: Callable[[str], Json]) -> dict[str, Json]:
    """What a body for the model is.

    Args:
        schema: what the model takes.
        name: that schemas of the model begin with.
        reference: refers to one of them, by its name.

    Returns:
        The schemas, by their names.
    """
    made: dict[str, Json] = {}

    def named(what: str, body: Json) -> Json:
        made[name + what] = body
        return reference(name + what)

    listed, alone = [], []
    for forms in (_of_columns(schema, named), _of_inputs(schema, named)):
        listed += forms[0]
        alone += forms[1]
    top_k: Json = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    if chooses_a_class(schema):
        top_k["description"] = "classes to list; 0, as without it, for up to 1000"
    else:
        top_k |= {"maximum": 0, "description": "it lists no classes"}
    nothing: Json = {"type": "null"}
    rows = _any_of([*listed, *alone, nothing]) | {"description": schema.expects}
    if schema.columns and schema.example:
        rows["examples"] = [[*schema.example.values()] if _kinds(schema) == ["text"] else [dict(schema.example)]]
    body = _closed({"rows": rows, "inputs": _any_of([*alone, nothing]), "extra": _EXTRA, "top_k": top_k}, [])
    made[f"{name}Request"] = body | dict(ONE_OF_TWO) | _without_others(schema) | {"description": schema.expects}
    return made


def _of_columns(schema: Schema, named: Callable[[str, Json], Json]) -> tuple[list[Json], list[Json]]:
    """Raw rows: as lists, and as objects."""
    if not schema.columns:
        return [], []
    names = [column.name for column in schema.columns]
    required = [column.name for column in schema.columns if not column.share_missing]
    # Each row has some column, and all rows together have those that no row of the training lacked.
    none: Json = {"propertyNames": {"not": {"enum": names}}}
    # An object with b64 is a picture, whatever else it has.
    some: Json = {"not": _any_of([none, {"required": ["b64"]}]) if _kinds(schema) == ["image"] else none}
    properties = {column.name: _cell(column) for column in schema.columns}
    row = named("Row", {"type": "object", "properties": properties, **some, **_example(schema)})
    rows: Json = {"type": "array", "minItems": 1, "items": row}
    if required:
        rows["allOf"] = [{"contains": {"type": "object", "required": [column]}} for column in required]
    cells = {
        name: {"type": "array", "minItems": 1, "items": _plain(column)}
        for name, column in zip(names, schema.columns, strict=True)
    }
    columns = named("Columns", {"type": "object", "properties": cells, "required": required, **some})
    listed, alone = [rows], [{"allOf": [row, {"required": required}]}, columns]
    if _kinds(schema) in _MEDIA:
        listed.append({"type": "array", "minItems": 1, "items": _cell(schema.columns[0])})
    if _kinds(schema) == ["image"]:
        alone.append(_PICTURE["anyOf"][0])
    return listed, alone


def _of_inputs(schema: Schema, named: Callable[[str, Json], Json]) -> tuple[list[Json], list[Json]]:
    """The network's own inputs: of the only one as lists, and of all as an object."""
    # Where texts are taken, a word stands for itself.
    words = _kinds(schema) != ["image"] and all(spec.datatype != "BYTES" for spec in schema.inputs)
    arrays = {
        spec.name: _array(spec.shape, spec.datatype, batched=schema.max_rows > 0, words=words) for spec in schema.inputs
    }
    alone = [named("Inputs", _closed(arrays, list(arrays)))]
    return ([each for each in arrays.values() if each.get("type") == "array"] if len(arrays) == 1 else []), alone


def _without_others(schema: Schema) -> Json:
    """That rows have no columns that the model does not take, unless these are to be ignored."""
    if not schema.columns:
        return {}
    groups = [[column.name for column in schema.columns]] + [["b64"]] * (_kinds(schema) == ["image"])
    of_one = [{"propertyNames": {"enum": names}} for names in [*groups, [spec.name for spec in schema.inputs]]]
    known: Json = {"if": {"type": "array"}, "then": {"items": _any_of(of_one[:-1])}, "else": _any_of(of_one)}
    ignored: Json = {"properties": {"extra": {"const": "ignore"}}, "required": ["extra"]}
    return {"allOf": [{"if": ignored, "else": {"properties": {"rows": known, "inputs": known}}}]}


def _kinds(schema: Schema) -> list[str]:
    return [column.kind for column in schema.columns]


def _example(schema: Schema) -> Json:
    return {"examples": [dict(schema.example)]} if schema.example else {}


def _cell(column: Column) -> Json:
    """A cell, with what is known of it."""
    known = f"in training {column.share_missing:.1%} had none" if column.share_missing else ""
    between = "" if column.lowest is None else f"from {column.lowest} to {column.highest} in training"
    plain = _plain(column)
    match column.kind:
        case "number":
            return plain | _described("a number", between, known)
        case "category" if len(column.categories) <= _MOST_CATEGORIES:
            told = "a category, of which the model knows the examples"
            return plain | {"examples": list(column.categories)} | _described(told, known)
        case "category":
            return plain | _described(f"a category, of which the model knows {len(column.categories)}", known)
        case "date":
            written = "in ISO 8601" if column.format == "iso" else f"of the format {column.format}"
            return plain | _described(f"a date or time {written}", between, known)
        case "image":
            return plain
    return plain | _described("a text", known)


def _plain(column: Column) -> Json:
    """A cell, with nothing but its type."""
    if column.kind == "image":
        return _PICTURE
    if column.kind == "number":
        return {"type": ["number", "boolean", "null"]} | _between("FP32")
    types = ["string", "null"]
    if takes(_NO_CATEGORY, column):
        types.append("integer")
    truths = [each for each in (False, True) if takes(each, column)]
    if len(truths) == 1:
        return {"anyOf": [{"type": types}, {"enum": truths}]}
    return {"type": [*types, "boolean"] if truths else types}


def _array(shape: Sequence[int], datatype: str, *, batched: bool, words: bool) -> Json:
    """Lists of lists, as an input is: an axis of -1 has any size."""
    element = _element(datatype, words=words)
    if batched and len(shape) == 1:
        # A row of one number may be a list of it.
        element = {"anyOf": [element, {"type": "array", "items": element, "minItems": 1, "maxItems": 1}]}
    told = element
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        # No list of no lists has their sizes.
        least = 1 if axis < len(shape) - 1 or (batched and not axis) else 0
        sizes = {"minItems": size, "maxItems": size} if size >= 0 else {"minItems": least}
        told = {"type": "array", "items": told} | sizes
    return told


def _element(datatype: str, *, words: bool) -> Json:
    if datatype == "BYTES":
        return {"type": "string"}
    if datatype == "BOOL":
        return {"type": ["boolean", "integer"], "minimum": 0, "maximum": 1}
    if datatype.startswith("FP"):
        number = {"type": ["number", "boolean"]} | _between(datatype)
        return {"anyOf": [number, {"type": "string", "pattern": f"^({'|'.join(NOT_FINITE)})$"}]} if words else number
    limits = np.iinfo(DTYPES[datatype])
    return {"type": ["integer", "boolean"], "minimum": int(limits.min), "maximum": int(limits.max)}


def _between(datatype: str) -> Json:
    """The doubles that are rounded to finite floats."""
    dtype = DTYPES[datatype]
    if dtype.itemsize == 8:
        return {}
    limits = np.finfo(dtype)
    largest = float(limits.max)
    # From the middle between the largest and what would follow it on, they become infinity.
    most = math.nextafter(largest + math.ulp(largest) * 2.0 ** (51 - limits.nmant), 0)
    return {"minimum": -most, "maximum": most}


def _any_of(forms: Sequence[Json]) -> Json:
    return {"anyOf": list(forms)}


def _closed(properties: Json, required: Sequence[str]) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _described(*parts: str) -> Json:
    return {"description": "; ".join(filter(None, parts))}
