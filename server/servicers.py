"""The RPCs as grpc.aio servicers: translate, call, translate."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message_factory import GetMessageClass

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2
from server.batcher import Entry
from server.codec import parse
from server.declared import complete
from server.errors import PredictionError, RunFailed
from server.inference import MODEL_INFER, PREDICT, Call, Inference, Refused, encode
from server.loader import Served
from server.metrics import BatchTimes, Snapshot
from server.model_config import BACKEND, MODEL_FILE, PLATFORM
from server.repository import Repository, Traffic
from server.signature import TensorSpec
from server.status import status

Context = grpc.aio.ServicerContext[Any, Any]

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
"""Protocol extensions that are answered, by the protocol's names for them."""

_PASSING = ("LOADING", "UNLOADING")

_log = structlog.get_logger(__name__)


class InferenceDoor:
    """The two inference methods as coroutines over message bytes.

    Args:
        inference: takes the calls.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        # One object, so that the batcher sees that entries share it.
        self._reply = self._answer
        self._loop: asyncio.AbstractEventLoop | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Answer both methods on `server`, without (de)serialisers: the bytes are the inference's own business."""
        for method in (MODEL_INFER, PREDICT):
            _, service, name = method.split("/")
            handlers = {name: grpc.unary_unary_rpc_method_handler(self._handler(method))}
            server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]  # the stubs predate it

    def _handler(self, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def call(payload: bytes, context: Context) -> bytes:
            return await self._call(method, payload, context)

        return call

    async def _call(self, method: str, payload: bytes, context: Context) -> bytes:
        self._loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = self._loop.create_future()
        left_s = context.time_remaining()
        deadline_s = None if left_s is None else time.monotonic() + left_s
        try:
            entry = self._inference.prepare(method, payload, deadline_s, self._reply, answered)
            self._inference.submit(entry, method, payload)
        except Refused as refused:
            await context.abort(*status(refused.error, refused.request_id))
        except Exception as error:  # noqa: BLE001  a defect in one request's path is that request's failure
            _log.exception("request failed unexpectedly")
            await context.abort(*status(RunFailed(f"unexpected {type(error).__name__}: {error}")))
        try:
            await answered
        except asyncio.CancelledError:
            self._inference.cancel(entry)
            raise
        if entry.error is not None:
            # The server ends a call with a status, never by cancelling: that would leave the client waiting.
            await context.abort(*status(entry.error, entry.call.request_id))
        try:
            return encode(entry)
        except PredictionError as error:
            await context.abort(*status(error, entry.call.request_id))

    def _answer(self, entries: list[Entry]) -> None:
        """Wake the loop once for a whole batch; runs in the device thread."""
        assert self._loop is not None, "an entry can only come from a call"  # noqa: S101  an invariant, not a check
        self._loop.call_soon_threadsafe(_set_answered, entries)


def _set_answered(entries: list[Entry]) -> None:
    for entry in entries:
        call: Call = entry.call
        if not call.token.done():
            call.token.set_result(None)


class InferenceService:
    """The Open Inference Protocol apart from inference itself.

    Args:
        repository: the models.
        ready: whether the server is ready for traffic.
        version: the release.
    """

    def __init__(self, repository: Repository, ready: Callable[[], bool], version: str) -> None:
        self._repository = repository
        self._ready = ready
        self._version = version

    def register(self, server: grpc.aio.Server) -> None:
        """Answer every method of the protocol but ModelInfer on `server`; a damaged message is refused as everywhere."""
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _parsing(GetMessageClass(method.input_type), getattr(self, method.name)),
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
            if f"/{service.full_name}/{method.name}" != MODEL_INFER and hasattr(self, method.name)
        }
        server.add_registered_method_handlers(service.full_name, handlers)  # type: ignore[attr-defined]  # the stubs predate it

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Whether every required model is READY."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """The server's name, release and extensions."""
        return pb.ServerMetadataResponse(name="frostline", version=self._version, extensions=EXTENSIONS)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether a version is READY; a model that does not exist is an error, one that failed to load is just not ready."""
        if not self._repository.versions(request.name):
            await self._served(request.name, request.version, context)
        try:
            served = self._repository.get(request.name, request.version)
        except PredictionError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not served.fault)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """A model's versions, inputs and outputs."""
        served = await self._served(request.name, request.version, context)
        signature = served.session.signature
        return pb.ModelMetadataResponse(
            name=served.name,
            versions=self._repository.ready_versions(served.name),
            platform=PLATFORM,
            inputs=[_metadata(spec, batched=signature.batched) for spec in signature.inputs],
            outputs=[_metadata(spec, batched=signature.batched) for spec in signature.outputs],
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """The configuration a model is served with, defaults filled in, and the version's part in the model's traffic."""
        served = await self._served(request.name, request.version, context)
        config = _config(served)
        for name, value in _part(served.version, self._repository.traffic(served.name)).items():
            config.parameters[f"frostline.{name}"].string_value = value
        return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """The counters of one version, of every version of a model, or of all."""
        wanted = request.version
        if request.name:
            # Refuses what does not exist, and knows which number a label means.
            served = await self._served(request.name, request.version, context)
            wanted = served.version if request.version else ""
        return pb.ModelStatisticsResponse(
            model_stats=[
                _statistics(version.served)
                for version in self._repository.versions(request.name)
                if version.state == "READY" and version.served and wanted in ("", version.version)
            ]
        )

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """Every version, its state, and why it is not READY."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=version.name,
                    version=version.version,
                    # The protocol's word for what cannot be relied on, whatever this server calls it.
                    state=version.state if version.ready or version.state in _PASSING else "UNAVAILABLE",
                    reason=version.reason or (version.served.fault if version.served else ""),
                )
                for version in self._repository.versions()
                if version.ready or not request.ready
            ]
            + [
                pb.RepositoryIndexResponse.ModelIndex(name=name)
                for name in self._repository.unloaded()
                if not request.ready
            ]
        )

    async def _served(self, name: str, version: str, context: Context) -> Served:
        try:
            return self._repository.get(name, version)
        except PredictionError as error:
            await context.abort(*status(error))


def _parsing(message: type[Any], method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[bytes, Context], Any]:
    async def call(payload: bytes, context: Context) -> Any:
        try:
            request = parse(message, payload)
        except PredictionError as error:
            await context.abort(*status(error))
        return await method(request, context)

    return call


def _metadata(spec: TensorSpec, *, batched: bool) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = (None, *spec.shape) if batched else spec.shape
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=[-1 if size is None else size for size in shape]
    )


def _config(served: Served) -> model_config_pb2.ModelConfig:
    signature, batching = served.session.signature, served.batching
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(served.config)
    config.name = served.name
    config.platform = PLATFORM
    config.backend = BACKEND
    config.max_batch_size = batching.max_batch_size if signature.batched else 0
    config.default_model_filename = served.config.default_model_filename or MODEL_FILE
    config.model_transaction_policy.decoupled = False
    if not config.version_policy.WhichOneof("policy_choice"):
        config.version_policy.latest.num_versions = 1
    if signature.batched:
        config.dynamic_batching.max_queue_delay_microseconds = round(batching.max_queue_delay_s * 1e6)
        default = config.dynamic_batching.default_queue_policy
        default.max_queue_size = default.max_queue_size or batching.policies[0].max_rows
    else:
        config.ClearField("dynamic_batching")
    complete(config, signature, served.session.device)
    return config


def _part(version: str, traffic: Traffic) -> dict[str, str]:
    """What a client is told of a version's part in its model's traffic."""
    number, ways = int(version), traffic.routes
    labels = [label for label, labelled in ways.labels.items() if labelled == number]
    return {
        "version": version,
        "version_labels": " ".join(labels),
        "share": f"{ways.shares().get(number, 0.0):.6g}",
        "shadow_of": str(ways.default) if ways.shadow == number else "",
        "rollout_problem": "; ".join(traffic.problems),
    }


def _statistics(version: Served) -> pb.ModelStatistics:
    snapshot = version.stats.snapshot()
    return pb.ModelStatistics(
        name=version.name,
        version=version.version,
        last_inference=snapshot.last_inference_ms,
        inference_count=snapshot.rows,
        execution_count=snapshot.executions,
        inference_stats=_stages(snapshot),
        batch_stats=[_batch(size, times) for size, times in snapshot.by_size.items()],
    )


def _stages(snapshot: Snapshot) -> pb.InferStatistics:
    answered = snapshot.succeeded
    return pb.InferStatistics(
        success=_duration(answered, snapshot.request_s),
        fail=_duration(sum(snapshot.reasons.values()), snapshot.failed_s),
        queue=_duration(answered, snapshot.queue_s),
        compute_input=_duration(answered, snapshot.assemble_s),
        compute_infer=_duration(answered, snapshot.run_s),
        compute_output=_duration(answered, snapshot.answer_s),
    )


def _batch(size: int, times: BatchTimes) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(times.count, times.assemble_s),
        compute_infer=_duration(times.count, times.run_s),
        compute_output=_duration(times.count, times.answer_s),
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=max(0, int(seconds * 1e9)))
