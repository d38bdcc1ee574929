"""The OpenAPI document of a server: its operations, and the rows of its models.

It is made of the routes that there are, of the schemas that requests are read by, of the descriptors of the protocol's
messages, and of what each model says of its columns. So it cannot say anything else than the server does.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from google.protobuf.message import Message
from pydantic.json_schema import models_json_schema

from frostline.client.schema import Schema
from frostline_server.access.permissions import NEEDED
from frostline_server.http.openapi import rows
from frostline_server.http.openapi.answers import OF_TASKS, Error, PredictResponse
from frostline_server.http.openapi.operations import PREDICT, Body, Json, Operation, operations
from frostline_server.http.statuses import KIND
from frostline_server.repository.rollout import LABEL

_REF = "#/components/schemas/{model}"
_EVERYWHERE = (400, 401, 403, 429, 500)
_PHRASES = {
    400: "the request is not what is expected", 401: "the caller must show who it is", 403: "the caller may not do this",
    404: "there is no such model, version, region or file", 409: "it contradicts what there is",
    413: "the body is too large", 415: "the body is packed in a way that is not understood", 429: "too many calls at once, or the queue is full",
    500: "the server or the model has failed", 501: "the server does not do this", 503: "not now: not ready, stopping or out of memory",
    504: "no answer in time",
}  # fmt: skip
_PARAMETERS = {
    "model": "the model's name",
    "version": "a version's number, or a label of the rollout such as stable or canary",
    "region": "the name of a region of shared memory",
    "file": "the picture's name, as the card lists it",
}
_PATTERNS: Mapping[str, Json] = {"version": {"pattern": f"^([1-9][0-9]*|{LABEL.pattern})$"}}
_INTEGERS = {"int32", "int64", "uint32", "uint64"}


def document(version: str, routes: Collection[tuple[str, str]], models: Sequence[Schema]) -> Json:
    """The document.

    Args:
        version: of the server.
        routes: the HTTP methods and paths that are answered.
        models: whose rows are told.
    """
    there = [each for each in operations() if (each.method.upper(), each.path) in routes]
    schemas = _Schemas()
    paths: Json = {}
    for operation in there:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas.of)
    predict = next(each for each in there if each.rpc == PREDICT)
    for model in models:
        path = f"/v2/models/{_quoted(model.model)}/predict"
        paths[path] = {"post": _of_model(model, predict, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Frostline",
            "version": version,
            "description": "Predictions of trained networks: the Open Inference Protocol v2 with Triton's extensions, and rows "
            "as people hold them. Floats that JSON has no number for are the texts NaN, Infinity and -Infinity.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        # Who needs a token depends on the address: on this machine alone anonymous callers may predict and observe.
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.made.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The schemas that operations refer to."""

    def __init__(self) -> None:
        self.made: Json = {}

    def of(self, body: Body) -> Json:
        """A reference to a schema, or one that has no name."""
        if isinstance(body, dict):
            return {name: self.of(value) if isinstance(value, type | dict) else value for name, value in body.items()}
        if issubclass(body, Message):
            return self._of_message(body.DESCRIPTOR)
        if body.__name__ not in self.made:
            _, found = models_json_schema([(body, "validation")], ref_template=_REF)
            for name, schema in found["$defs"].items():
                for field in schema["properties"].values():
                    # Generators of clients take a field with a default for one that is always there.
                    field.pop("default", None)
                self.made[name] = schema
        return _reference(body.__name__)

    def _of_message(self, message: Any) -> Json:
        name = message.full_name.partition(".")[2].replace(".", "_").removeprefix("v1_")
        # The answers of `predict` have the name, too.
        if name not in self.made:
            self.made[name] = {}  # a message may hold itself
            properties = {field.name: self._of_field(field) for field in message.fields}
            required = [field.name for field in message.fields if not field.has_presence]
            if name == "SchemaResponse":
                properties |= {key: {"type": ["object", "null"]} for key in ("example", "reading")}
            if name == "RepositoryIndexResponse_ModelIndex":
                required = ["name"]
            self.made[name] = {"type": "object", "properties": properties, "required": required}
        return _reference(name)

    def _of_field(self, field: Any) -> Json:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {
                "type": "object",
                "additionalProperties": self._single(field.message_type.fields_by_name["value"]),
            }
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: Any) -> Json:
        if field.message_type is not None:
            return self._of_message(field.message_type)
        if field.enum_type is not None:
            return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        kind = _KINDS[field.cpp_type]
        if field.type == field.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return {"type": "integer", "format": kind} if kind in _INTEGERS else {"type": kind}


_KINDS: Mapping[int, str] = {
    1: "int32", 2: "int64", 3: "uint32", 4: "uint64", 5: "number", 6: "number", 7: "boolean", 9: "string",
}  # fmt: skip
"""JSON's types by the numbers of protobuf's `cpp_type`."""


def _reference(name: str) -> Json:
    return {"$ref": _REF.format(model=name)}


def _operation(operation: Operation, schema_of: Callable[[Body], Json]) -> Json:
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"} | _PATTERNS.get(name, {}),
            "description": _PARAMETERS[name],
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "schema": {"type": "integer", "minimum": 0},
            "description": "how long the JSON is, of a body that goes on with binary tensors; 0 for one that is the "
            "elements of the only input",
        }
        for name in operation.headers
    ]
    if operation.name == "openapi":
        parameters.append(_MODEL_PARAMETER)
    roles = sorted(NEEDED[operation.rpc]) if operation.rpc else list(operation.roles)
    told: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": _responses(operation, schema_of),
    }
    if roles:
        told["description"] = f"Needs the role {' or '.join(roles)}."
    if operation.takes is not None:
        content = {kind: {"schema": schema_of(body)} for kind, body in operation.takes.items()}
        told["requestBody"] = {"required": operation.required, "content": content}
    return told


_MODEL_PARAMETER: Json = {
    "name": "model",
    "in": "query",
    "schema": {"type": "array", "items": {"type": "string"}},
    "description": "the models whose rows are told; all that are ready, if they are few, without it",
}


def _responses(operation: Operation, schema_of: Callable[[Body], Json]) -> Json:
    given: Json = {"description": "what was asked for"}
    if operation.gives:
        given["content"] = {kind: {"schema": schema_of(body)} for kind, body in operation.gives.items()}
    failures = {
        str(status): {
            "description": _PHRASES[status],
            "headers": {KIND: {"schema": {"type": "string"}, "description": "one word for programs"}},
            "content": {"application/json": {"schema": schema_of(Error)}},
        }
        for status in sorted({*_EVERYWHERE, *operation.fails})
    }
    if operation.name in ("ready", "modelReady", "modelReadyVersion"):
        failures["503"] = {**given, "description": "it is not ready"}
    return {"200": given} | failures


def _of_model(model: Schema, predict: Operation, schemas: _Schemas) -> Json:
    """The operation that predicts one model's rows."""
    name = _component(model.model)
    schemas.made |= rows.request(model, name, _reference)
    answer = schemas.of(OF_TASKS.get(model.task, OF_TASKS["any"]))
    schemas.of(PredictResponse)
    response = dict(schemas.made["PredictResponse"]["properties"])
    response["predictions"] = {"type": "array", "items": answer}
    schemas.made[f"{name}Response"] = {
        **schemas.made["PredictResponse"],
        "title": f"{name}Response",
        "properties": response,
    }
    told = _operation(predict, schemas.of)
    told["operationId"] = f"predict{name}"
    told["summary"] = f"Predict rows of {model.model}"
    told["parameters"] = []
    content = told["requestBody"]["content"]
    kinds = [column.kind for column in model.columns]
    if kinds != ["image"]:
        content = {"application/json": content["application/json"]}
    content["application/json"] = {"schema": _reference(f"{name}Request")}
    told["requestBody"] = {**told["requestBody"], "content": content}
    told["responses"]["200"]["content"] = {"application/json": {"schema": _reference(f"{name}Response")}}
    return told


def _component(model: str) -> str:
    """A name for a model's schemas, which may have letters and digits only; no two models have the same."""
    plain = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", model))
    exact = re.fullmatch(r"[a-z][a-z0-9]*", model) is not None
    return f"Model{plain}" + ("" if exact else hashlib.sha256(model.encode()).hexdigest()[:6])


def _quoted(model: str) -> str:
    return quote(model, safe="")
