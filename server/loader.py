"""Turn one version's folder into what answers requests: checked, loaded, warm and proved."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.pb import model_config_pb2
from server.batcher import Batcher
from server.codec import Codec
from server.config import MAX_BATCH_SIZE
from server.errors import LoadError
from server.folder import read_card, read_labels, sha256
from server.metrics import ModelStats
from server.session import Golden, Provider, Session, load_session, read_golden

Array = np.ndarray[Any, Any]

MAX_WARM_SIZE = 1024
"""Larger batches are not run before READY: filling memory for them would cost more than their first run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How requests are batched, unless a model's own configuration says otherwise."""

    max_batch_size: int
    max_queue_size: int
    max_queue_delay_s: float


@dataclass(slots=True, eq=False)
class Served:
    """What a READY version answers with.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        config: the model's own configuration.
        stats: what happened to it.
        session: the network on its device.
        codec: its messages.
        batcher: its queue.
        limits: how its requests are batched.
        golden: its golden sample, if it has one.
        sha256: of its ONNX file.
        labels: names of its classes.
        fault: why its device does not answer as it should, or "".
    """

    name: str
    version: str
    config: model_config_pb2.ModelConfig
    stats: ModelStats
    session: Session
    codec: Codec
    batcher: Batcher
    limits: Limits
    golden: Golden | None
    sha256: str
    labels: Sequence[str] | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions.

    Attributes:
        providers: execution providers for every session, best first.
        strict: whether falling back from the first provider is a failure.
        threads: threads of one run on the CPU.
        limits: batching of models whose configuration does not say.
    """

    providers: Sequence[Provider]
    strict: bool
    threads: int
    limits: Limits

    def load(
        self, folder: Path, name: str, config: model_config_pb2.ModelConfig, warn: Callable[[str], None]
    ) -> Served:
        """Load, warm and prove one version; its batcher is started.

        Args:
            folder: the version's folder, named by its number.
            name: the model's name.
            config: the model's own configuration.
            warn: told of what could not be done and is not a failure.

        Raises:
            LoadError: it cannot be served.
        """
        file = config.default_model_filename or "model.onnx"
        if Path(file).name != file:
            raise LoadError(f"config.pbtxt names the file '{file}'; it must be one in the version's own folder")
        path, version = folder / file, folder.name
        card = read_card(folder / "card.json")
        digest = sha256(path)
        if card.get("sha256", digest) != digest:
            raise LoadError(f"{file} is not the file its card describes: sha256 {digest}, card says {card['sha256']}")
        session = load_session(path, self.providers, threads=self.threads, strict=self.strict)
        limits = model_limits(config, session, self.limits)
        golden: Golden | None = None
        if (folder / "golden.npz").is_file():
            golden = read_golden(folder / "golden.npz", session.signature)
        if not session.warm_up(batch_sizes(limits.max_batch_size), golden):
            warn("the shape of a row is not known, so it could not be warmed up; add a golden.npz")
        if golden is not None:
            session.check_golden(golden, limits.max_batch_size)
        labels = read_labels(card, session.metadata, session.signature.classes)
        stats = ModelStats(labels)
        batcher = Batcher(
            _observed(session, stats),
            stats,
            batched=session.signature.batched,
            max_batch_size=limits.max_batch_size,
            max_queue_size=limits.max_queue_size,
            max_queue_delay_s=limits.max_queue_delay_s,
            name=f"device-{name}-{version}",
        )
        codec = Codec(name, version, session.signature, limits.max_batch_size, labels)
        batcher.start()
        return Served(name, version, config, stats, session, codec, batcher, limits, golden, digest, labels)


def model_limits(config: model_config_pb2.ModelConfig, session: Session, defaults: Limits) -> Limits:
    """How a model's requests are batched: its own configuration over the server's defaults.

    Raises:
        LoadError: the configuration contradicts the graph.
    """
    signature = session.signature
    if config.max_batch_size < 0:
        raise LoadError(f"config.pbtxt sets max_batch_size {config.max_batch_size}; it must not be negative")
    if config.max_batch_size > MAX_BATCH_SIZE:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {config.max_batch_size}; at most {MAX_BATCH_SIZE} is possible"
        )
    if config.max_batch_size > 0 and not signature.batched:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {config.max_batch_size}, but the graph has no free batch axis on every input and output"
        )
    _check_tensors("input", config.input, [spec.name for spec in signature.inputs])
    _check_tensors("output", config.output, [spec.name for spec in signature.outputs])
    batching = config.dynamic_batching
    return Limits(
        max_batch_size=(config.max_batch_size or defaults.max_batch_size) if signature.batched else 1,
        max_queue_size=batching.default_queue_policy.max_queue_size or defaults.max_queue_size,
        max_queue_delay_s=batching.max_queue_delay_microseconds / 1e6 or defaults.max_queue_delay_s,
    )


def _check_tensors(what: str, configured: Iterable[Any], in_graph: Sequence[str]) -> None:
    for tensor in configured:
        if tensor.name not in in_graph:
            raise LoadError(f"config.pbtxt names the {what} '{tensor.name}', the graph has {list(in_graph)}")


def batch_sizes(max_batch_size: int) -> list[int]:
    """The sizes to warm: powers of two up to the most rows of a batch, and that, but nothing above `MAX_WARM_SIZE`."""
    max_batch_size = min(max_batch_size, MAX_WARM_SIZE)
    sizes = [2**power for power in range(max_batch_size.bit_length()) if 2**power < max_batch_size]
    return [*sizes, max_batch_size]


def _observed(session: Session, stats: ModelStats) -> Callable[[list[Array], tuple[str, ...]], list[Array]]:
    """The session's run, with the predictions of every batch counted whatever its clients asked for."""
    heads = session.signature.heads
    if heads is None:
        return session.run
    watched = (heads.argmax, heads.confidence)
    plans: dict[tuple[str, ...], tuple[str, ...]] = {}

    def run(inputs: list[Array], wanted: tuple[str, ...]) -> list[Array]:
        names = plans.get(wanted)
        if names is None:
            names = plans[wanted] = tuple(dict.fromkeys((*wanted, *watched)))
        outputs = session.run(inputs, names)
        stats.predicted(outputs[names.index(heads.argmax)], outputs[-1])
        return outputs[: len(wanted)]

    return run
