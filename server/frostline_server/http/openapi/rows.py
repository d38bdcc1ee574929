"""The JSON Schema of one model's rows, from what the server says of its columns or inputs."""

from collections.abc import Sequence
from typing import Any

from frostline.client.schema import Column, Schema
from frostline_server.http.rows.answers import chooses_a_class

Json = dict[str, Any]

_MOST_CATEGORIES = 500
"""Categories that are listed; of more, a document would be too long to read."""
_FILE: Json = {"type": "string", "contentEncoding": "base64"}
_PICTURE: Json = {
    "anyOf": [
        {"type": "object", "properties": {"b64": _FILE}, "required": ["b64"], "additionalProperties": False},
        _FILE,
    ],
    "description": "the bytes of a PNG, JPEG or WebP file in base64, or a data URL",
}
_WORDS: Json = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
_ELEMENTS: dict[str, Json] = {"BOOL": {"type": "boolean"}, "BYTES": {"type": "string"}}


def request(schema: Schema) -> Json:
    """What a body for the model is."""
    said: Json = {
        "extra": {
            "type": "string",
            "enum": ["refuse", "ignore"],
            "description": "columns that it does not take; refuse without it",
        },
    }
    if chooses_a_class(schema):
        top_k = "classes to list; 0, as without it, for up to 1000"
        said["top_k"] = {"type": "integer", "minimum": 0, "description": top_k}
    if len(schema.inputs) != 1 and not schema.columns:
        inputs = {spec.name: _array(spec.shape, spec.datatype) for spec in schema.inputs}
        given = {"inputs": _closed(inputs, list(inputs))}
    else:
        given = {"rows": _rows(schema)}
    return _closed(given | said, list(given)) | {"description": schema.expects}


def _rows(schema: Schema) -> Json:
    kinds = [column.kind for column in schema.columns]
    if kinds in (["text"], ["image"]):
        items = _cell(schema.columns[0])
    elif kinds:
        items = _row(schema)
    else:
        (spec,) = schema.inputs
        return _array(spec.shape, spec.datatype)
    rows: Json = {"type": "array", "minItems": 1, "items": items}
    if schema.example:
        (alone,) = list(schema.example.values())[:1]
        rows["examples"] = [[alone if kinds == ["text"] else dict(schema.example)]]
    return rows


def _row(schema: Schema) -> Json:
    columns = {column.name: _cell(column) for column in schema.columns}
    row = _closed(columns, [column.name for column in schema.columns if not column.share_missing])
    return row | ({"examples": [dict(schema.example)]} if schema.example else {})


def _cell(column: Column) -> Json:
    told = f"in training {column.share_missing:.1%} had none" if column.share_missing else ""
    between = "" if column.lowest is None else f"from {column.lowest} to {column.highest} in training"
    text: Json = {"type": ["string", "null"]}
    match column.kind:
        case "number":
            return {"type": ["number", "null"]} | _described("a number", between, told)
        case "category" if len(column.categories) <= _MOST_CATEGORIES:
            return text | {"enum": [*column.categories, None]} | _described("a category", told)
        case "category":
            return text | _described(f"one of {len(column.categories)} categories", told)
        case "date":
            written = "in ISO 8601" if column.format == "iso" else f"of the format {column.format}"
            return text | _described(f"a date or time {written}", between, told)
        case "image":
            return _PICTURE
    return text | _described("a text", told)


def _array(shape: Sequence[int], datatype: str) -> Json:
    """Lists of lists, as an input is: an axis of -1 has any size."""
    element = _ELEMENTS.get(datatype, {"type": "integer" if "INT" in datatype else "number"})
    if datatype.startswith("FP"):
        element = {"anyOf": [element, _WORDS]}
    for size in reversed(shape):
        element = {"type": "array", "items": element} | ({"minItems": size, "maxItems": size} if size >= 0 else {})
    return element


def _closed(properties: Json, required: Sequence[str]) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _described(*parts: str) -> Json:
    return {"description": "; ".join(filter(None, parts))}
