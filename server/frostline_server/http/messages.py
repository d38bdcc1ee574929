"""Protobuf messages as the JSON of Triton's REST, and back: field names as in the protocol, whole numbers as numbers.

Protobuf's own JSON writes 64-bit numbers as texts, which no client of the protocol reads.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from frostline.pb import inference_pb2 as pb
from frostline_server.http.statuses import invalid

_WHOLE_64 = range(-(2**63), 2**64)


def to_json(message: Message, *, defaults: bool = True) -> dict[str, Any]:
    """A message as what `json.dumps` takes.

    Args:
        message: the message.
        defaults: whether fields that have their default are there too; presence of others is kept.
    """
    told: dict[str, Any] = {}
    fields: Any = message.DESCRIPTOR.fields  # the stubs know two kinds of them
    for field in fields:
        value = getattr(message, field.name)
        if _is_map(field):
            item = field.message_type.fields_by_name["value"]
            if value or defaults:
                told[field.name] = {
                    str(key): _value(item, each, defaults=defaults) for key, each in sorted(value.items())
                }
        elif field.is_repeated:
            if value or defaults:
                told[field.name] = [_value(field, each, defaults=defaults) for each in value]
        elif field.has_presence:
            if message.HasField(field.name):
                told[field.name] = _value(field, value, defaults=defaults)
        elif defaults or value != field.default_value:
            told[field.name] = _value(field, value, defaults=defaults)
    return told


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _value(field: Any, value: Any, *, defaults: bool) -> Any:
    if field.message_type is not None:
        return to_json(value, defaults=defaults)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def parameter(value: Any, name: str) -> pb.InferParameter:
    """A parameter of a request.

    Raises:
        Failure: it is no truth value, number or text.
    """
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int() if -(2**63) <= value < 2**63:
            return pb.InferParameter(int64_param=value)
        case int() if value in _WHOLE_64:
            return pb.InferParameter(uint64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
    raise invalid(f"parameter {name!r} is {json.dumps(value)[:80]}; it may be a truth value, a number or a text")


def parameters_to_json(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Parameters of an answer."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in parameters.items()
    }
