"""The models of a server, as it describes them."""

from dataclasses import dataclass

from frostline.pb import inference_pb2 as pb


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        name: Its name.
        datatype: The Open Inference Protocol's name of the element type, such as `FP32`.
        shape: The shape, batch axis first; -1 marks an axis of any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} [{', '.join('any' if n < 0 else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Model:
    """One version of a model on a server.

    Attributes:
        name: The model's name.
        version: The version in decimal.
        state: `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
        reason: Why the version is not ready; empty when it is.
        inputs: The inputs; empty unless the version is ready.
        outputs: The outputs; empty unless the version is ready.
        max_batch_size: The most rows in one request; 0 for a model without a batch axis, and when unknown.
        task: What it was published for, such as `regression`; empty unless the version is ready.
        columns: The names of the columns of raw rows that it takes, which then are its inputs; empty if it takes none.
        version_labels: The labels under which it answers, such as `stable`.
        share: The part of the requests naming no version that it answers, 0 to 1.
        shadow_of: The version of whose traffic it gets a copy; empty when it gets none.
        rollout_problem: Why the model's versions do not share its traffic as its rollout says; empty when they do.
    """

    name: str
    version: str
    state: str
    reason: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    version_labels: tuple[str, ...] = ()
    share: float = 0.0
    shadow_of: str = ""
    rollout_problem: str = ""
    task: str = ""
    columns: tuple[str, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether the first axis of all inputs and outputs is the batch; only told of a version that is ready."""
        return self.max_batch_size > 0

    @property
    def ready(self) -> bool:
        """Whether the version answers requests."""
        return self.state == "READY"


def unready(entry: pb.RepositoryIndexResponse.ModelIndex) -> Model:
    """Reads one entry of a repository's index.

    Args:
        entry: The message.

    Returns:
        The model version, without inputs and outputs.
    """
    return Model(entry.name, entry.version, entry.state, entry.reason)


def answering(version: str, config: pb.ModelConfigResponse) -> str:
    """Which version answered a question about a model.

    Args:
        version: The version asked for: a number, a label, empty or `latest`.
        config: The answer.

    Returns:
        The version's number; as asked for, where the server does not say.
    """
    return config.config.parameters["frostline.version"].string_value or version


def described(version: str, metadata: pb.ModelMetadataResponse, config: pb.ModelConfigResponse) -> Model:
    """Reads the description of a ready version.

    Args:
        version: The version asked for; empty or `latest` for the highest ready one.
        metadata: Its metadata.
        config: Its configuration.

    Returns:
        The model version.
    """

    def parameter(name: str) -> str:
        return str(config.config.parameters[f"frostline.{name}"].string_value)

    return Model(
        name=metadata.name,
        version=version if version.isdecimal() else max(metadata.versions, key=int, default=""),
        state="READY",
        inputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in metadata.inputs),
        outputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in metadata.outputs),
        max_batch_size=config.config.max_batch_size,
        version_labels=tuple(parameter("version_labels").split()),
        share=float(parameter("share") or 0),
        shadow_of=parameter("shadow_of"),
        rollout_problem=parameter("rollout_problem"),
        task=parameter("task"),
        columns=tuple(t.name for t in metadata.inputs) if parameter("rows") else (),
    )
