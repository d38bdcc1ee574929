"""A loaded model version: its sessions, codec, batcher and statistics as one value."""

from collections.abc import Sequence
from dataclasses import dataclass

from frostline.pb import model_config_pb2
from frostline_server.batching.admission import AdmissionController
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.request_queue import Batching
from frostline_server.codec.codec import Codec
from frostline_server.model.input_stats import InputStats
from frostline_server.model.predictions import Predictions
from frostline_server.model.sample_rows import RecentRow, Row
from frostline_server.model.shadow import Tap
from frostline_server.model.stats import ModelStats
from frostline_server.runtime.encoders import Encoder
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import TensorSpec


@dataclass(slots=True, eq=False, kw_only=True)
class LoadedModel:
    """What a READY version answers with.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        config: the model's own configuration.
        stats: what happened to it.
        predictions: what it predicted.
        sessions: the network on its devices, one for each instance.
        codec: its messages.
        batcher: its queue.
        batching: how its requests are batched.
        golden: its golden sample, if it has one.
        probe_row: a real row that the device probe runs, from the golden sample or `model_warmup`; None without one.
        recent: the latest row that was answered, for the probe of a model without a `probe_row`.
        sha256: of its ONNX file.
        labels: names of its classes.
        fell_back: whether an instance that should be on a GPU is on the CPU.
        tap: where a shadow of it is attached.
        admission: who is let in, where there is an slo.
        encoder: encodes raw rows; None for a version that takes none.
        input_stats: what raw rows were like; None likewise.
        probe_fault: why its device failed its last probe, or "".
    """

    name: str
    version: str
    config: model_config_pb2.ModelConfig
    stats: ModelStats
    predictions: Predictions
    sessions: Sequence[Session]
    codec: Codec
    batcher: Batcher
    batching: Batching
    golden: Golden | None
    probe_row: Row | None
    recent: RecentRow
    sha256: str
    labels: Sequence[str] | None
    fell_back: bool
    tap: Tap
    admission: AdmissionController | None = None
    encoder: Encoder | None = None
    input_stats: InputStats | None = None
    probe_fault: str = ""

    @property
    def fault(self) -> str:
        """Why it does not answer as it should, or ""."""
        return self.batcher.fault or self.probe_fault

    @property
    def session(self) -> Session:
        """The first instance; what is true of the file is true of it."""
        return self.sessions[0]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What clients are told to send: the columns of raw rows, or the network's own inputs."""
        return self.encoder.schema.specs if self.encoder else self.session.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What clients may ask for."""
        own = self.session.signature.outputs
        return (*own, self.encoder.schema.states) if self.encoder else own

    @property
    def provider(self) -> str:
        """The execution providers its instances are bound to, each once."""
        return ",".join(dict.fromkeys(session.provider for session in self.sessions))

    @property
    def device(self) -> str:
        """Where its instances run, such as cpu or cuda:0,cuda:1."""
        return ",".join(dict.fromkeys(session.device for session in self.sessions))

    @property
    def bound_bytes(self) -> int:
        """Device memory of the buffers its instances are bound to."""
        return sum(session.bound.bytes for session in self.sessions if session.bound)

    @property
    def cuda_graphs(self) -> int:
        """CUDA graphs its instances replay."""
        return sum(session.cuda_graphs for session in self.sessions)
