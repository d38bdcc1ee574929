"""The Open Inference Protocol as REST, with Triton's extensions: each path is a method of the gRPC service.

Every method but inference is the handler that gRPC has too, with its guard and its line in the audit log. Here a request's
path and JSON become its message, and its answer JSON.
"""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER
from frostline_server.errors import PredictionError
from frostline_server.http import infer
from frostline_server.http.call import Call, Context
from frostline_server.http.h1.shared import LONG_BYTES, too_long
from frostline_server.http.inference_calls import InferenceCalls
from frostline_server.http.json_bodies import read, whole
from frostline_server.http.json_size import INSTEAD, MOST_BYTES
from frostline_server.http.messages import to_json
from frostline_server.http.raw_request import raw_request
from frostline_server.http.sending import Pieces
from frostline_server.http.statuses import Failure, failure_of, invalid
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.repository.registry import Repository
from frostline_server.rpc.methods import Methods

_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_ANSWER_FACTOR = 12
"""About how many bytes of Python's objects and of JSON a byte of elements becomes."""
_SERVICE = "/inference.GRPCInferenceService/"


class Rest:
    """The endpoints of the protocol.

    Args:
        methods: the guarded handlers of all methods but inference, by path.
        calls: has inference requests answered.
        repository: the models.
        call_of: makes the call of a request.
    """

    def __init__(
        self, methods: Methods, calls: InferenceCalls, repository: Repository, call_of: Callable[[Request], Call]
    ) -> None:
        self._methods = {path: handler for path, handler in methods if path.startswith(_SERVICE)}
        self._calls = calls
        self._repository = repository
        self._call_of = call_of
        self._headers = infer.Headers()

    def inference(self) -> list[Route]:
        """The paths of inference."""
        return [Route(f"{path}/infer", self.infer, methods=["POST"]) for path in _MODEL]

    def routes(self) -> list[Route]:
        """All other paths with what answers them."""
        get, post = self._get, self._post
        model = _MODEL
        return [
            Route("/v2", get("ServerMetadata", lambda _: pb.ServerMetadataRequest(), to_json)),
            Route("/v2/", get("ServerMetadata", lambda _: pb.ServerMetadataRequest(), to_json)),
            Route("/v2/health/live", self._ready("ServerLive", lambda _: pb.ServerLiveRequest(), "live")),
            Route("/v2/health/ready", self._ready("ServerReady", lambda _: pb.ServerReadyRequest(), "ready")),
            Route("/v2/models/stats", get("ModelStatistics", lambda _: pb.ModelStatisticsRequest(), to_json)),
            *(Route(path, get("ModelMetadata", _named(pb.ModelMetadataRequest), to_json)) for path in model),
            *(
                Route(f"{path}/ready", self._ready("ModelReady", _named(pb.ModelReadyRequest), "ready"))
                for path in model
            ),
            *(Route(f"{path}/config", get("ModelConfig", _named(pb.ModelConfigRequest), _config)) for path in model),
            *(
                Route(f"{path}/stats", get("ModelStatistics", _named(pb.ModelStatisticsRequest), to_json))
                for path in model
            ),
            Route("/v2/repository/index", post("RepositoryIndex", _index, _models), methods=["POST"]),
            Route("/v2/repository/models/{model}/load", post("RepositoryModelLoad", _load, _nothing), methods=["POST"]),
            Route(
                "/v2/repository/models/{model}/unload",
                post("RepositoryModelUnload", _unload, _nothing),
                methods=["POST"],
            ),
            *self._shared_memory("system", "SystemSharedMemory", _register_system),
            *self._shared_memory("cuda", "CudaSharedMemory", _register_cuda),
            Route("/v2/logging", get("LogSettings", lambda _: pb.LogSettingsRequest(), _log_settings)),
            Route("/v2/logging", post("LogSettings", _set_log, _log_settings), methods=["POST"]),
            *(
                route
                for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting")
                for route in (
                    Route(path, get("TraceSetting", _trace, _trace_settings)),
                    Route(path, post("TraceSetting", _set_trace, _trace_settings), methods=["POST"]),
                )
            ),
        ]

    def _shared_memory(
        self, kind: str, method: str, register: Callable[[Mapping[str, Any], Mapping[str, Any]], Message]
    ) -> list[Route]:
        base = f"/v2/{kind}sharedmemory"
        status, unregister = (getattr(pb, f"{method}{what}Request") for what in ("Status", "Unregister"))
        named: Callable[[Mapping[str, Any]], Any] = lambda path: status(name=path.get("region", ""))  # noqa: E731  a line
        dropped: Callable[..., Any] = lambda path, _: unregister(name=path.get("region", ""))  # noqa: E731  a line
        routes = []
        for path in (base, f"{base}/region/{{region}}"):
            routes += [
                Route(f"{path}/status", self._get(f"{method}Status", named, _regions)),
                Route(f"{path}/unregister", self._post(f"{method}Unregister", dropped, _nothing), methods=["POST"]),
            ]
        path = f"{base}/region/{{region}}/register"
        return [*routes, Route(path, self._post(f"{method}Register", register, _nothing), methods=["POST"])]

    # Inference

    async def infer(self, request: Request) -> Response:
        """Answer an inference request."""
        call = self._call_of(request)
        with self._calls.counting(call):
            try:
                return await self._infer(call)
            except Failure as failure:
                if failure.kind == "invalid_input" and not failure.code and not call.queued:
                    # What is wrong with the body matters only where the model is there, as over gRPC.
                    self._served(call.parameters["model"], call.parameters.get("version", ""))
                raise

    async def _infer(self, call: Call) -> Response:
        self._calls.admit(call, MODEL_INFER)
        length = call.all_of(infer.HEADER_LENGTH.lower())
        body = await call.body(MOST_BYTES if length is None else None)
        path = call.parameters
        text, behind = infer.split(body, length)
        if len(text) > MOST_BYTES:
            raise too_long(MOST_BYTES, f"of JSON; {INSTEAD}")
        model, version = path["model"], path.get("version", "")
        if length is not None and not text:
            header, behind = raw_request(version, self._served(model, version), behind)
        elif len(text) > LONG_BYTES:
            header = await call.read(text, partial(infer.header_of, model, version))
        else:
            header = self._headers.read(model, version, text)
        # What travels behind the JSON is not touched.
        factor = 1 if header.form.is_all_binary else _ANSWER_FACTOR
        response = await self._calls.answer(call, MODEL_INFER, infer.message_of(header, behind), factor)
        size = 0 if header.form.is_all_binary else len(response)
        pieces, json_bytes = await call.written(size, factor, partial(infer.answer_of, response, header.form))
        if json_bytes is None:
            return Pieces(pieces, "application/json")
        return Pieces(pieces, "application/octet-stream", {infer.HEADER_LENGTH: str(json_bytes)})

    def _served(self, model: str, version: str) -> LoadedModel:
        """What would answer a request now.

        Raises:
            Failure: nothing.
        """
        try:
            return self._repository.get(model, version)
        except PredictionError as error:
            failure = failure_of(error)
            # No request has come as far as to be counted.
            failure.code = ""
            raise failure from error

    # All other methods

    async def ask(self, call: Call, method: str, message: Message) -> Any:
        """The answer of a handler to a message.

        Raises:
            Failure: it has none.
        """
        answer: Any = self._methods[_SERVICE + method].unary_unary  # the stubs know blocking handlers only
        return await answer(message.SerializeToString(), Context(call))

    def _get(
        self, method: str, made: Callable[[Mapping[str, Any]], Message], told: Callable[[Any], Any]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = self._call_of(request)
            return _unpacked(told(await self.ask(call, method, made(call.parameters))))

        return endpoint

    def _post(
        self,
        method: str,
        made: Callable[[Mapping[str, Any], Mapping[str, Any]], Message],
        told: Callable[[Any], Any],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = self._call_of(request)
            message = await call.read(await call.body(), lambda body: made(call.parameters, json_object(body)))
            answer = told(await self.ask(call, method, message))
            return Response() if answer is None else _unpacked(answer)

        return endpoint

    def _ready(
        self, method: str, made: Callable[[Mapping[str, Any]], Message], field: str
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = self._call_of(request)
            answer = await self.ask(call, method, made(call.parameters))
            named = {"name": call.parameters["model"]} if "model" in call.parameters else {}
            # Triton says it with the status alone, and KServe's client reads it.
            return _unpacked(named | {field: getattr(answer, field)}, 200 if getattr(answer, field) else 503)

        return endpoint


def _unpacked(answer: Any, status: int = 200) -> Response:
    """An answer that is not compressed: Triton's client for asyncio asks for that and cannot read it, but for inference."""
    return JSONResponse(answer, status, {"cache-control": "no-transform"})


def json_object(body: bytes) -> Mapping[str, Any]:
    """A body that is a JSON object, or empty.

    Raises:
        Failure: it is something else.
    """
    if not body.strip():
        return {}
    found = read(body)
    if not isinstance(found, dict):
        raise invalid(f"the body is {json.dumps(found)[:40]}; a JSON object is expected")
    return found


def _named(message: Callable[..., Message]) -> Callable[[Mapping[str, Any]], Message]:
    return lambda path: message(name=path["model"], version=path.get("version", ""))


def _nothing(_: Any) -> None:
    return None


def _config(answer: pb.ModelConfigResponse) -> Any:
    return to_json(answer.config)


def _models(answer: pb.RepositoryIndexResponse) -> Any:
    return [to_json(model, defaults=False) for model in answer.models]


def _index(_: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    _only(body, {"ready", "repository_name"})
    ready, name = body.get("ready", False), body.get("repository_name", "")
    if not isinstance(ready, bool):
        raise _unlike("ready", ready, "true or false")
    if not isinstance(name, str):
        raise _unlike("repository_name", name, "a text")
    return pb.RepositoryIndexRequest(ready=ready, repository_name=name)


def _load(path: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    _only(body, {"parameters"})
    message = pb.RepositoryModelLoadRequest(model_name=path["model"])
    for name, value in _object(body, "parameters").items():
        target, value = message.parameters[name], whole(value)  # noqa: PLW2901  the same number
        if name.startswith("file:"):
            target.bytes_param = _base64(value, name)
        elif isinstance(value, bool):
            target.bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            target.int64_param = value
        elif isinstance(value, str):
            target.string_param = value
        else:
            raise _unlike(name, value, "a truth value, a whole number or a text")
    return message


def _unload(path: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    _only(body, {"parameters"})
    message = pb.RepositoryModelUnloadRequest(model_name=path["model"])
    for name, value in _object(body, "parameters").items():
        if not isinstance(value, bool):
            raise _unlike(name, value, "true or false")
        message.parameters[name].bool_param = value
    return message


def _register_system(path: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    _only(body, {"key", "offset", "byte_size"})
    key = body.get("key")
    if not isinstance(key, str):
        raise _unlike("key", key, "the name of a shared memory object")
    return pb.SystemSharedMemoryRegisterRequest(
        name=path["region"], key=key, offset=_whole(body, "offset", 0), byte_size=_whole(body, "byte_size")
    )


def _register_cuda(path: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    _only(body, {"raw_handle", "device_id", "byte_size"})
    return pb.CudaSharedMemoryRegisterRequest(
        name=path["region"],
        raw_handle=_base64(_object(body, "raw_handle").get("b64", ""), "raw_handle"),
        device_id=_whole(body, "device_id", 0),
        byte_size=_whole(body, "byte_size"),
    )


def _regions(answer: Any) -> Any:
    return [to_json(region) for _, region in sorted(answer.regions.items())]


def _log_settings(answer: pb.LogSettingsResponse) -> Any:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in sorted(answer.settings.items())
    }


def _set_log(_: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    message = pb.LogSettingsRequest()
    for name, value in body.items():
        setting, value = message.settings[name], whole(value)  # noqa: PLW2901  the same number
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int) and 0 <= value < 2**32:
            setting.uint32_param = value
        elif isinstance(value, str):
            setting.string_param = value
        else:
            raise _unlike(name, value, "a truth value, a whole number or a text")
    return message


def _trace(path: Mapping[str, Any]) -> Message:
    return pb.TraceSettingRequest(model_name=path.get("model", ""))


def _set_trace(path: Mapping[str, Any], body: Mapping[str, Any]) -> Message:
    message = pb.TraceSettingRequest(model_name=path.get("model", ""))
    for name, value in body.items():
        values = [whole(each) for each in (value if isinstance(value, list) else [] if value is None else [value])]
        if not all(type(each) in (str, int) for each in values):
            raise _unlike(name, value, "a text, a number, a list of them, or null to reset it")
        # Also where it has no values.
        message.settings[name].value.extend(map(str, values))
    return message


def _trace_settings(answer: pb.TraceSettingResponse) -> Any:
    told: dict[str, Any] = {}
    for name, setting in sorted(answer.settings.items()):
        values = list(setting.value)
        told[name] = values if name == "trace_level" or len(values) != 1 else values[0]
    return told


def _only(body: Mapping[str, Any], known: set[str]) -> None:
    strange = next((name for name in body if name not in known), None)
    if strange is not None:
        raise invalid(f"the body has {strange!r}; it may have {', '.join(sorted(known))}")


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name, {})
    if not isinstance(found, dict):
        raise _unlike(name, found, "an object")
    return found


def _whole(body: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = whole(body.get(name, default))
    if type(found) is not int or not 0 <= found < 2**63:
        raise _unlike(name, found, "a whole number, 0 or more")
    return found


def _base64(value: Any, name: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise _unlike(name, value, "bytes in base64") from error


def _unlike(name: str, value: Any, expected: str) -> Failure:
    return invalid(f"{name} is {json.dumps(value)[:80]}; it must be {expected}")
