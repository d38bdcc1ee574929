"""Turn one version's folder into what answers requests: checked, loaded, warm and proved."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.pb import model_config_pb2
from server.batcher import Batcher, Batching, Observer
from server.codec import Codec
from server.errors import LoadError
from server.folder import read_card, read_labels, sha256
from server.metrics import ModelStats
from server.pace import Costs, Pace, Watched
from server.scheduling import model_batching, model_slo_s, model_threads, placements
from server.session import CPU, Golden, Provider, Session, load_session, read_golden

Array = np.ndarray[Any, Any]

MAX_WARM_SIZE = 1024
"""Larger batches are not run before READY: filling memory for them would cost more than their first run."""


@dataclass(slots=True, eq=False)
class Served:
    """What a READY version answers with.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        config: the model's own configuration.
        stats: what happened to it.
        sessions: the network on its devices, one for each instance.
        codec: its messages.
        batcher: its queue.
        batching: how its requests are batched.
        golden: its golden sample, if it has one.
        sha256: of its ONNX file.
        labels: names of its classes.
        fell_back: whether an instance that should be on a GPU is on the CPU.
        pace: who is let in, where there is an slo.
        fault: why its device does not answer as it should, or "".
    """

    name: str
    version: str
    config: model_config_pb2.ModelConfig
    stats: ModelStats
    sessions: Sequence[Session]
    codec: Codec
    batcher: Batcher
    batching: Batching
    golden: Golden | None
    sha256: str
    labels: Sequence[str] | None
    fell_back: bool
    pace: Pace | None = None
    fault: str = ""

    @property
    def session(self) -> Session:
        """The first instance; what is true of the file is true of it."""
        return self.sessions[0]

    @property
    def provider(self) -> str:
        """The execution providers its instances are bound to, each once."""
        return ",".join(dict.fromkeys(session.provider for session in self.sessions))

    @property
    def device(self) -> str:
        """Where its instances run, such as cpu or cuda:0,cuda:1."""
        return ",".join(dict.fromkeys(session.device for session in self.sessions))


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions.

    Attributes:
        providers: execution providers, best first, of sessions whose model does not say.
        strict: whether falling back from the first provider is a failure.
        threads: threads of one run on the CPU.
        batching: of models whose configuration does not say.
        devices: how many CUDA devices there are.
        slo_s: how long a request may take, in seconds, where a model's configuration does not say; 0 for no limit.
    """

    providers: Sequence[Provider]
    strict: bool
    threads: int
    batching: Batching
    devices: int = 0
    slo_s: float = 0.0

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
        places, warnings = placements(config.instance_group, self.providers, self.devices)
        for warning in warnings:
            warn(warning)
        threads = model_threads(config, self.threads)
        sessions = [load_session(path, place, threads=threads, strict=self.strict) for place in places]
        session = sessions[0]
        signature = session.signature
        _check_tensors("input", config.input, [spec.name for spec in signature.inputs])
        _check_tensors("output", config.output, [spec.name for spec in signature.outputs])
        batching = model_batching(config, self.batching, batched=signature.batched)
        golden: Golden | None = None
        if (folder / "golden.npz").is_file():
            golden = read_golden(folder / "golden.npz", signature)
        warm = [instance.warm_up(batch_sizes(batching), golden) for instance in sessions]
        if not all(warm):
            warn("the shape of a row is not known, so it could not be warmed up; add a golden.npz")
        if golden is not None:
            for instance in sessions:
                instance.check_golden(golden, batching.max_batch_size)
        labels = read_labels(card, session.metadata, signature.classes)
        stats = ModelStats(labels)
        pace = _pace(sessions, batching, model_slo_s(config, self.slo_s), golden, warn)
        observer: Observer = stats if pace is None else Watched(stats, pace)
        batcher = Batcher(
            [_observed(instance, stats) for instance in sessions],
            observer,
            batching,
            batched=signature.batched,
            name=f"device-{name}-{version}",
            pace=pace,
        )
        codec = Codec(name, version, signature, batching.max_batch_size, labels)
        fell_back = any(
            place[0][0] != CPU and instance.provider == CPU for place, instance in zip(places, sessions, strict=True)
        )
        batcher.start()
        return Served(
            name, version, config, stats, sessions, codec, batcher, batching, golden, digest, labels, fell_back, pace
        )


def _check_tensors(what: str, configured: Iterable[Any], in_graph: Sequence[str]) -> None:
    for tensor in configured:
        if tensor.name not in in_graph:
            raise LoadError(f"config.pbtxt names the {what} '{tensor.name}', the graph has {list(in_graph)}")


def batch_sizes(batching: Batching) -> list[int]:
    """The sizes to warm: powers of two up to the most rows of a batch, that, and the preferred; none above `MAX_WARM_SIZE`."""
    most = min(batching.max_batch_size, MAX_WARM_SIZE)
    powers = {2**power for power in range(most.bit_length()) if 2**power < most}
    return sorted(powers | {most} | {size for size in batching.preferred_sizes if size <= most})


def _pace(
    sessions: Sequence[Session], batching: Batching, slo_s: float, golden: Golden | None, warn: Callable[[str], None]
) -> Pace | None:
    """What keeps a model's answers within its slo; None without one."""
    if not slo_s:
        return None
    run_s = sessions[0].measure(batch_sizes(batching), golden)
    if run_s and run_s[1] > slo_s:
        warn(f"slo_ms {slo_s * 1000:g} cannot be met: a run of one row takes {run_s[1] * 1000:.3g} ms here")
    return Pace(slo_s, Costs(run_s, batching.max_batch_size), len(sessions))


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
