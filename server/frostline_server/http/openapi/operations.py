"""The table of operations: what each path of the HTTP port takes and answers, in the words of OpenAPI.

Only those are told of that the server has a route for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from pydantic import BaseModel

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.http.infer import HEADER_LENGTH, InferRequest, InferResponse
from frostline_server.http.openapi.answers import PredictResponse
from frostline_server.http.rows.body import PredictRequest
from frostline_server.http.views import PromoteRequest, RollbackRequest
from frostline_server.rpc.log_settings import LOG_FORMATS, LOG_KINDS
from frostline_server.rpc.trace_settings import TRACE, TRACE_FIXED, TRACE_RANGES

Json = dict[str, Any]
Body = type[BaseModel] | type[Message] | Json
"""A schema: a model of pydantic's, a message of protobuf, or as it is."""

PREDICT = "/frostline.v1.Predictor/Predict"
_SERVICE = "/inference.GRPCInferenceService/"
_SCHEMA = "/frostline.v1.Predictor/Schema"
_TEXT: Json = {"type": "string"}
_BINARY: Json = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_TRACE_WORDS = {"trace_level": ["OFF", "TIMESTAMPS"], "trace_mode": ["triton", "opentelemetry"]}
"""TIMESTAMPS and opentelemetry where the server traces; without that the other one."""
_LOG_VALUES: Mapping[str, Json] = {
    "bool_param": {"type": "boolean"},
    "uint32_param": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "string_param": _TEXT,
}
_PICTURES = ("image/png", "image/jpeg", "image/webp")


@dataclass(frozen=True)
class Operation:
    """What one method of one path takes and answers.

    Attributes:
        path: as a route has it.
        name: of the operation, unique together with the path's kind.
        summary: one line on what it does.
        tag: the group that it is in.
        rpc: the method of gRPC whose roles it needs; "" for one that is open to everybody.
        roles: the roles of which it needs one, where it has no method of gRPC.
        takes: the body's schema by its type; empty for a GET.
        gives: the answer's schema by its type; empty for an answer without a body.
        headers: of the request.
        fails: the statuses that it may fail with, besides those of all.
        required: whether there must be a body.
    """

    path: str
    name: str
    summary: str
    tag: str
    rpc: str = ""
    roles: Sequence[str] = ()
    takes: Mapping[str, Body] | None = None
    gives: Mapping[str, Body] | None = None
    headers: Sequence[str] = ()
    fails: Sequence[int] = ()
    required: bool = True

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "get" if self.takes is None else "post"


def operations() -> list[Operation]:
    """All of them."""
    return [*_inference(), *_models(), *_server(), *_shared_memory(), *_settings(), *_views()]


def _json(schema: Body) -> Mapping[str, Body]:
    return {"application/json": schema}


def _object(properties: Json, required: Iterable[str] = (), **more: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def _closed(properties: Json, required: Iterable[str] = ()) -> Json:
    return _object(properties, required, additionalProperties=False)


def _list(items: Body) -> Json:
    return {"type": "array", "items": items}


def _versioned(tail: str) -> tuple[tuple[str, str], ...]:
    """The path of a model, and that of one of its versions, with what is added to the operation's name."""
    return (f"/v2/models/{{model}}{tail}", ""), (f"/v2/models/{{model}}/versions/{{version}}{tail}", "Version")


def _inference() -> list[Operation]:
    form = _object(
        {
            "file": _list(_BINARY)
            | {"minItems": 1}
            | {"description": "pictures, a part for each row; the name of a part does not matter"},
            "top_k": {"type": "integer", "minimum": 0, "maximum": 10**9 - 1},
            "extra": {"type": "string", "enum": ["refuse", "ignore"]},
        },
        ["file"],
    )
    rows = {**_json(PredictRequest), "multipart/form-data": form, **dict.fromkeys(_PICTURES, _BINARY)}
    behind = {**_json(InferRequest), "application/octet-stream": _BINARY}
    answered = {**_json(InferResponse), "application/octet-stream": _BINARY}
    made = []
    for path, suffix in _versioned("/infer"):
        made.append(
            Operation(
                path, f"infer{suffix}", "Run tensors through a network", "inference", f"{_SERVICE}ModelInfer",
                takes=behind, gives=answered, headers=[HEADER_LENGTH], fails=[404, 413, 415, 503, 504],
            )
        )  # fmt: skip
    for path, suffix in _versioned("/predict"):
        made.append(
            Operation(
                path, f"predict{suffix}", "Predict rows as people hold them", "inference", PREDICT,
                takes=rows, gives=_json(PredictResponse), fails=[404, 413, 415, 503, 504],
            )
        )  # fmt: skip
    return made


def _models() -> list[Operation]:
    ready = _object({"name": _TEXT, "ready": {"type": "boolean"}}, ["name", "ready"])
    told: Sequence[tuple[str, str, str, str, Body]] = (
        ("", "metadata", "What a model takes and answers, as tensors", f"{_SERVICE}ModelMetadata",
         pb.ModelMetadataResponse),
        ("/config", "config", "A model's configuration", f"{_SERVICE}ModelConfig",
         ModelConfig),
        ("/stats", "statistics", "A model's counters", f"{_SERVICE}ModelStatistics",
         pb.ModelStatisticsResponse),
        ("/ready", "ready", "Whether a model is ready", f"{_SERVICE}ModelReady", ready),
        ("/schema", "schema", "What a model takes and answers, as rows", _SCHEMA, typed.SchemaResponse),
    )  # fmt: skip
    return [
        Operation(path, f"model{name.title()}{suffix}", summary, "models", rpc, gives=_json(schema), fails=[404, 503])
        for tail, name, summary, rpc, schema in told
        for path, suffix in _versioned(tail)
    ]


def _server() -> list[Operation]:
    flag: Json = {"type": "boolean"}
    nothing: Json = {}
    config = _TEXT | {"description": "the configuration as JSON, in place of the folder's"}
    load = _closed({"parameters": _closed({"config": config})})
    unload = _closed({"parameters": _closed({"unload_dependents": flag})})
    index = _list(pb.RepositoryIndexResponse.ModelIndex)
    models = "/v2/repository/models/{model}"
    return [
        Operation(
            "/v2", "serverMetadata", "The server's name, version and extensions", "server",
            f"{_SERVICE}ServerMetadata", gives=_json(pb.ServerMetadataResponse),
        ),
        Operation(
            "/v2/", "serverMetadataSlash", "As without the slash", "server",
            f"{_SERVICE}ServerMetadata", gives=_json(pb.ServerMetadataResponse),
        ),
        Operation(
            "/v2/health/live", "live", "Whether the server runs", "server", gives=_json(_object({"live": flag}, ["live"]))
        ),
        Operation(
            "/v2/health/ready", "ready", "Whether the server answers inference", "server",
            gives=_json(_object({"ready": flag}, ["ready"])), fails=[503],
        ),
        Operation(
            "/v2/models/stats", "statistics", "The counters of all models", "models",
            f"{_SERVICE}ModelStatistics", gives=_json(pb.ModelStatisticsResponse),
        ),
        Operation(
            "/v2/repository/index", "index", "Every version of every model, with its state", "repository",
            f"{_SERVICE}RepositoryIndex", takes=_json(_closed({"ready": flag, "repository_name": _TEXT})),
            gives=_json(index), required=False,
        ),
        Operation(
            f"{models}/load", "load", "Load a model, or load it again", "repository",
            f"{_SERVICE}RepositoryModelLoad", takes=_json(load), gives=nothing, fails=[404, 501, 503], required=False,
        ),
        Operation(
            f"{models}/unload", "unload", "Unload a model", "repository",
            f"{_SERVICE}RepositoryModelUnload", takes=_json(unload), gives=nothing, fails=[404, 501, 503],
            required=False,
        ),
        Operation("/openapi.json", "openapi", "This document", "server", gives=_json({"type": "object"})),
    ]  # fmt: skip


def _shared_memory() -> list[Operation]:
    size: Json = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    key = _TEXT | {"pattern": "^/?[^/]+$", "description": "the name of a shared memory object, such as /tensors"}
    handle = _object({"b64": {"type": "string", "contentEncoding": "base64"}}, ["b64"])
    kinds: Mapping[str, tuple[str, type[Message], Json]] = {
        "system": (
            "SystemSharedMemory",
            pb.SystemSharedMemoryStatusResponse.RegionStatus,
            _closed({"key": key, "offset": size, "byte_size": size}, ["key", "byte_size"]),
        ),
        "cuda": (
            "CudaSharedMemory",
            pb.CudaSharedMemoryStatusResponse.RegionStatus,
            _closed({"raw_handle": handle, "device_id": size, "byte_size": size}, ["raw_handle", "byte_size"]),
        ),
    }
    made = []
    for kind, (rpc, region, register) in kinds.items():
        base, tag = f"/v2/{kind}sharedmemory", f"{kind} shared memory"
        for path, suffix, which in ((base, "s", "all regions"), (f"{base}/region/{{region}}", "", "one region")):
            name = f"{kind}Region{suffix}"
            made += [
                Operation(
                    f"{path}/status", f"{name}Status", f"The status of {which}", tag, f"{_SERVICE}{rpc}Status",
                    gives=_json(_list(region)), fails=[404],
                ),
                Operation(
                    f"{path}/unregister", f"{name}Unregister", f"Unregister {which}", tag,
                    f"{_SERVICE}{rpc}Unregister", takes=_json({"type": "object"}), gives={}, fails=[501], required=False,
                ),
            ]  # fmt: skip
        made.append(
            Operation(
                f"{base}/region/{{region}}/register", f"{kind}RegionRegister", "Register a region", tag,
                f"{_SERVICE}{rpc}Register", takes=_json(register), gives={}, fails=[409, 501],
            )
        )  # fmt: skip
    return made


def _settings() -> list[Operation]:
    logs: Json = {name: _LOG_VALUES[kind] for name, kind in LOG_KINDS.items()}
    logs |= {"log_format": _TEXT | {"enum": list(LOG_FORMATS)}}
    # Lines always go to standard error, and those of errors always do.
    taken = logs | {"log_file": _TEXT | {"enum": [""]}, "log_error": {"type": "boolean", "enum": [True]}}
    rpc = f"{_SERVICE}LogSettings"
    made = [
        Operation("/v2/logging", "logSettings", "The settings of the log", "settings", rpc,
            gives=_json(_object(logs, list(logs))),
        ),
        Operation(
            "/v2/logging", "setLogSettings", "Change settings of the log (role control)", "settings", rpc,
            takes=_json(_closed(taken)), gives=_json(_object(logs, list(logs))), fails=[501], required=False,
        ),
    ]  # fmt: skip
    rpc = f"{_SERVICE}TraceSetting"
    told = _object({name: _list(_TEXT) if name == "trace_level" else _TEXT for name in TRACE}, list(TRACE))
    asked = _closed({name: _trace_setting(name) for name in TRACE})
    for path, name, whose in (
        ("/v2/trace/setting", "raceSettings", "of all models"),
        ("/v2/models/{model}/trace/setting", "raceSettingsOfModel", "of a model"),
    ):
        made += [
            Operation(path, f"t{name}", f"The trace settings {whose}", "settings", rpc, gives=_json(told), fails=[404]),
            Operation(
                path, f"setT{name}", f"Change trace settings {whose} (role control)", "settings", rpc,
                takes=_json(asked), gives=_json(told), fails=[404, 501], required=False,
            ),
        ]  # fmt: skip
    return made


def _trace_setting(name: str) -> Json:
    """One value, or a list of it; null, or an empty list, for what it was at the start."""
    one: Json = {"type": ["string", "integer"]}
    if name in TRACE_RANGES:
        least, most = TRACE_RANGES[name]
        one |= {"minimum": least, "maximum": most, "pattern": "^[0-9]+$" if least == 0 else f"^({least}|[0-9]+)$"}
    if name in _TRACE_WORDS:
        one = {"type": "string", "enum": _TRACE_WORDS[name]}
    if name in TRACE_FIXED:
        (value,) = TRACE[name]
        one = one | {"minimum": 0, "maximum": 0, "pattern": "^0$"} if value else {"type": "string", "maxLength": 0}
    return {"anyOf": [one, {"type": "null"}, _list(one) | {"maxItems": 1}]}


def _views() -> list[Operation]:
    version, observe = "/v2/models/{model}/versions/{version}", ("observe",)
    anything: Json = {"type": "object"}
    rollout = _object({"rollout": _TEXT}, ["rollout"])
    me = _object({"name": _TEXT, "credential": _TEXT, "roles": _list(_TEXT)}, ["name", "credential", "roles"])
    flag: Json = {"type": "boolean"}
    facts: dict[str, Json] = {"ready": flag, "reason": _TEXT, "grpc": _TEXT, "model_control": flag}
    status = _object(facts, list(facts))
    live = _object({"model": _TEXT, "at_s": {"type": "number"}, "traffic": anything, "versions": _list(anything)})
    pictures: Json = dict.fromkeys(("image/png", "image/svg+xml"), _BINARY)
    return [
        Operation(
            "/v2/status", "status", "Whether the server is ready and why not, where gRPC is, and if clients load models", "server",
            gives=_json(status),
        ),
        Operation("/v2/me", "me", "Who the caller is taken for", "server", gives=_json(me)),
        Operation(
            "/v2/models/{model}/live", "modelLive", "A model's numbers since the start, for charts", "models",
            roles=observe, gives=_json(live), fails=[404],
        ),
        Operation(f"{version}/card", "card", "A version's card", "models", _SCHEMA, gives=_json(anything), fails=[404]),
        Operation(
            f"{version}/pictures/{{file}}", "picture", "A picture of a version's card", "models", _SCHEMA,
            gives=pictures, fails=[404],
        ),
        Operation(
            "/v2/models/{model}/promote", "promote", "Promote a version, or try it beside the stable one", "rollout",
            roles=("control",), takes=_json(PromoteRequest), gives=_json(rollout), fails=[404, 409], required=False,
        ),
        Operation(
            "/v2/models/{model}/rollback", "rollback", "End a trial, or return to the version before", "rollout",
            roles=("control",), takes=_json(RollbackRequest), gives=_json(rollout), fails=[404, 409], required=False,
        ),
    ]  # fmt: skip
