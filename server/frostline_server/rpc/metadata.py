"""The metadata methods: server and model metadata, readiness and model configuration."""

from collections.abc import Callable
from dataclasses import replace

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2
from frostline_server.errors import ModelNotFound, PredictionError
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model_config.pbtxt import BACKEND, MODEL_FILE, PLATFORM
from frostline_server.model_config.tensor_config import complete, protocol_shape
from frostline_server.repository.registry import Repository, Traffic
from frostline_server.runtime.signature import TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
    "trace",
)
"""The protocol extensions that the server always supports, by the protocol's names."""

SHARED_MEMORY = "system_shared_memory"
"""The extension that the server supports only if shared memory is on."""


class Metadata:
    """Answers the methods for health, identity, tensors and configuration.

    Args:
        repository: the models.
        ready: whether the server is ready for traffic.
        version: the release.
        shared_memory: whether tensors may lie in system shared memory.
    """

    def __init__(self, repository: Repository, ready: Callable[[], bool], version: str, *, shared_memory: bool) -> None:
        self._repository = repository
        self._ready = ready
        self._version = version
        self._extensions = (*EXTENSIONS, SHARED_MEMORY) if shared_memory else EXTENSIONS

    def ServerLive(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether every required model is READY."""
        return pb.ServerReadyResponse(ready=self._ready())

    def ServerMetadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """The server's name, release and extensions."""
        return pb.ServerMetadataResponse(name="frostline", version=self._version, extensions=self._extensions)

    def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether a version is READY; an unknown model is an error, one that failed or waits to be loaded is not ready."""
        try:
            served = self._repository.get(request.name, request.version)
        except PredictionError as error:
            if isinstance(error, ModelNotFound) and not self._repository.versions(request.name):
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not served.fault)

    def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """A model's versions, inputs and outputs."""
        served = self._repository.get(request.name, request.version)
        signature = served.session.signature
        return pb.ModelMetadataResponse(
            name=served.name,
            versions=self._repository.ready_versions(served.name),
            platform=PLATFORM,
            inputs=[_metadata(spec, batched=signature.batched) for spec in served.inputs],
            outputs=[_metadata(spec, batched=signature.batched) for spec in served.outputs],
        )

    def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """The configuration a model is served with, defaults filled in, its task, and the version's part in its traffic."""
        served = self._repository.get(request.name, request.version)
        config = _config(served)
        told = {"task": served.codec.task.name, **_part(served.version, self._repository.traffic(served.name))}
        for name, value in told.items():
            config.parameters[f"frostline.{name}"].string_value = value
        if served.encoder is not None:
            config.parameters["frostline.rows"].string_value = served.encoder.schema.to_json()
        return pb.ModelConfigResponse(config=config)


def _metadata(spec: TensorSpec, *, batched: bool) -> pb.ModelMetadataResponse.TensorMetadata:
    lead = [-1] if batched else []
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.client_name, datatype=spec.datatype, shape=[*lead, *protocol_shape(spec)]
    )


def _config(served: LoadedModel) -> model_config_pb2.ModelConfig:
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
    complete(config, replace(signature, inputs=served.inputs, outputs=served.outputs), served.session.device)
    return config


def _part(version: str, traffic: Traffic) -> dict[str, str]:
    """A version's part in its model's traffic, as clients see it."""
    number, ways = int(version), traffic.routes
    labels = [label for label, labelled in ways.labels.items() if labelled == number]
    return {
        "version": version,
        "version_labels": " ".join(labels),
        "share": f"{ways.shares().get(number, 0.0):.6g}",
        "shadow_of": str(ways.default) if ways.shadow == number else "",
        "rollout_problem": "; ".join(traffic.problems),
    }
