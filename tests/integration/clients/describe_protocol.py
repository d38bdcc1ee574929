"""Print every field and method of package `inference` as one Python package generated it: `describe_protocol.py PACKAGE`."""

import importlib
import json
import sys
from typing import Any

MODULES = {
    "frostline.pb": ("frostline.pb.inference_pb2", "frostline.pb.model_config_pb2"),
    "tritonclient.grpc": ("tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"),
}


def fields(message: Any) -> dict[str, Any]:
    """Number, type and cardinality of each field, by full name; nested messages included."""
    found = {
        field.full_name: [
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
        ]
        for field in message.fields
    }
    for nested in message.nested_types:
        found.update(fields(nested))
    for enum in message.enum_types:
        found.update({f"{enum.full_name}.{value.name}": value.number for value in enum.values})
    return found


described: dict[str, Any] = {}
for name in MODULES[sys.argv[1]]:
    contract = importlib.import_module(name).DESCRIPTOR
    for top in contract.message_types_by_name.values():
        described.update(fields(top))
    for top_enum in contract.enum_types_by_name.values():
        described.update({f"{top_enum.full_name}.{value.name}": value.number for value in top_enum.values})
    for service in contract.services_by_name.values():
        for method in service.methods:
            described[method.full_name] = [method.input_type.full_name, method.output_type.full_name]
json.dump(described, sys.stdout)
