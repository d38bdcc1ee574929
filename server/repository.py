"""Which versions of which models exist, the state of each, and handing out the one asked for.

    LOADING -> READY -> UNLOADING -> gone, or FAILED with a reason; forward only.

A version is READY only once it is loaded, warm, and proved against its golden sample. If it fails, the version before
it is tried, so that one bad publication never takes a model away.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from frostline.pb import model_config_pb2
from server.batcher import Batcher
from server.codec import Codec
from server.config import MAX_BATCH_SIZE
from server.errors import InvalidInput, LoadError, ModelNotFound, ModelNotReady
from server.folder import Model, is_version, read_card, read_labels, scan, sha256
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
    """What a READY version answers with."""

    name: str
    version: str
    config: model_config_pb2.ModelConfig
    stats: ModelStats
    session: Session
    codec: Codec
    batcher: Batcher
    limits: Limits


@dataclass(slots=True, eq=False)
class ModelVersion:
    """One version of a model.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        path: its folder.
        config: the model's own configuration.
        state: LOADING, READY, UNLOADING or FAILED.
        reason: why it is FAILED.
        stats: what happened to it.
        served: what it answers with, from READY on.
        load_s: how long loading took.
        sha256: of its ONNX file.
        verified: whether its golden sample was reproduced.
        labels: names of its classes.
    """

    name: str
    version: str
    path: Path
    config: model_config_pb2.ModelConfig
    state: str = "LOADING"
    reason: str = ""
    stats: ModelStats = field(default_factory=ModelStats)
    served: Served | None = None
    load_s: float = 0.0
    sha256: str = ""
    verified: bool = False
    labels: Sequence[str] | None = None


class Repository:
    """Every version the server knows.

    Args:
        root: the folder of models.
        providers: execution providers for every session, best first.
        strict: whether falling back from the first provider is a failure.
        threads: threads of one run on the CPU.
        limits: batching of models whose configuration does not say.
        on_change: told of each version whose state has changed.
        on_warning: told of a model's name and of what in its configuration is not honoured.
    """

    def __init__(
        self,
        root: Path,
        providers: Sequence[Provider],
        *,
        strict: bool,
        threads: int,
        limits: Limits,
        on_change: Callable[[ModelVersion], None],
        on_warning: Callable[[str, str], None],
    ) -> None:
        self._root = root
        self._providers = providers
        self._strict = strict
        self._threads = threads
        self._limits = limits
        self._on_change = on_change
        self._on_warning = on_warning
        self._versions: dict[str, dict[str, ModelVersion]] = {}
        # What a request's (name, version) means; replaced whole, so readers need no lock.
        self._ready: dict[tuple[str, str], Served] = {}
        self._closing = False

    def load(self) -> None:
        """Find and load every version the policies ask for; blocks. Failures become states, never exceptions."""
        for model in scan(self._root):
            for warning in model.warnings:
                self._on_warning(model.name, warning)
            if model.problem:
                self._fail(self._add(model, "0"), model.problem)
                continue
            tried: set[int] = set()
            for group in model.groups:
                for number in group:
                    if self._closing:
                        return
                    if number in tried:
                        continue
                    tried.add(number)
                    if self._load(self._add(model, str(number))):
                        break

    def _add(self, model: Model, version: str) -> ModelVersion:
        entry = ModelVersion(model.name, version, model.path / version, model.config)
        self._versions.setdefault(model.name, {})[version] = entry
        self._on_change(entry)
        return entry

    def _load(self, version: ModelVersion) -> bool:
        started_s = time.monotonic()
        try:
            version.served = self._serve(version)
        except LoadError as error:
            self._fail(version, str(error))
            return False
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            self._fail(version, f"unexpected {type(error).__name__} while loading: {error}")
            return False
        version.load_s = time.monotonic() - started_s
        version.state = "READY"
        self._publish()
        self._on_change(version)
        return True

    def _serve(self, version: ModelVersion) -> Served:
        name = version.config.default_model_filename or "model.onnx"
        if Path(name).name != name:
            raise LoadError(f"config.pbtxt names the file '{name}'; it must be one in the version's own folder")
        path = version.path / name
        card = read_card(version.path / "card.json")
        version.sha256 = sha256(path)
        if card.get("sha256", version.sha256) != version.sha256:
            raise LoadError(
                f"{path.name} is not the file its card describes: sha256 {version.sha256}, card says {card['sha256']}"
            )
        session = load_session(path, self._providers, threads=self._threads, strict=self._strict)
        limits = model_limits(version.config, session, self._limits)
        golden: Golden | None = None
        if (version.path / "golden.npz").is_file():
            golden = read_golden(version.path / "golden.npz", session.signature)
        if not session.warm_up(batch_sizes(limits.max_batch_size), golden):
            self._on_warning(
                version.name, "the shape of a row is not known, so it could not be warmed up; add a golden.npz"
            )
        if golden is not None:
            session.check_golden(golden, limits.max_batch_size)
            version.verified = True
        version.labels = read_labels(card, session.metadata)
        version.stats = ModelStats(version.labels)
        batcher = Batcher(
            _observed(session, version.stats),
            version.stats,
            batched=session.signature.batched,
            max_batch_size=limits.max_batch_size,
            max_queue_size=limits.max_queue_size,
            max_queue_delay_s=limits.max_queue_delay_s,
            name=f"device-{version.name}-{version.version}",
        )
        batcher.start()
        codec = Codec(version.name, version.version, session.signature, limits.max_batch_size, version.labels)
        return Served(version.name, version.version, version.config, version.stats, session, codec, batcher, limits)

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.reason = reason
        version.state = "FAILED"
        self._on_change(version)

    def _publish(self) -> None:
        ready: dict[tuple[str, str], Served] = {}
        for version in self.versions():
            if version.state == "READY" and version.served is not None:
                ready[version.name, version.version] = version.served
                # Versions come in ascending order, so the last one written is the highest.
                ready[version.name, ""] = ready[version.name, "latest"] = version.served
        self._ready = ready

    def get(self, name: str, version: str) -> Served:
        """The version that answers a request.

        Args:
            name: the model.
            version: a number in decimal; "" or "latest" for the highest that is READY.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it exists and is not READY.
            InvalidInput: the version is no number.
        """
        found = self._ready.get((name, version))
        if found is None:
            raise self._explain(name, version)
        return found

    def _explain(self, name: str, version: str) -> Exception:
        versions = self._versions.get(name)
        if versions is None:
            return ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version in ("", "latest"):
            coming = [entry for entry in list(versions.values()) if entry.state != "FAILED"]
            if coming:
                return ModelNotReady(
                    f"Request for unknown model: '{name}' version {coming[0].version} is not at ready state"
                )
            reasons = "; ".join(
                f"version {entry.version} is FAILED: {entry.reason}" for entry in list(versions.values())
            )
            return ModelNotFound(f"Request for unknown model: '{name}' has no available versions ({reasons})")
        if not is_version(version):
            return InvalidInput(
                f"failed to get model version from specified version string '{version}' for model '{name}', version should be an "
                "integer > 0"
            )
        entry = versions.get(version)
        if entry is None:
            return ModelNotFound(f"Request for unknown model: '{name}' version {version} is not found")
        because = f": {entry.reason}" if entry.reason else ""
        return ModelNotReady(
            f"Request for unknown model: '{name}' version {version} is not at ready state (it is {entry.state}{because})"
        )

    def versions(self, name: str = "") -> list[ModelVersion]:
        """Every version, of one model or of all, by name and number."""
        models = {name: self._versions.get(name, {})} if name else dict(self._versions)
        return [
            version
            for _, versions in sorted(models.items())
            for version in sorted(versions.values(), key=lambda v: int(v.version))
        ]

    def ready_versions(self, name: str) -> list[str]:
        """Numbers of a model's READY versions, ascending."""
        return [version.version for version in self.versions(name) if version.state == "READY"]

    def stop_loading(self) -> None:
        """Make a `load` under way return after the version it is at."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued for every version and release them; blocks at most `timeout_s` seconds.

        Returns:
            Whether everything accepted was finished.
        """
        deadline_s = time.monotonic() + timeout_s
        for version in self.versions():
            if version.state == "READY":
                version.state = "UNLOADING"
                self._on_change(version)
        self._publish()
        # Every queue drains at the same time; each is only waited for in turn.
        served = [version.served for version in self.versions() if version.served is not None]
        return all([entry.batcher.close(max(0.0, deadline_s - time.monotonic())) for entry in served])


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
