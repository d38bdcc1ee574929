"""The model loader: from a version's folder to a loaded model.

A loaded model has files that match its card, is warm, and has answered its golden sample as PyTorch did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from frostline.pb import model_config_pb2
from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import Batcher
from frostline_server.batching.request_queue import Batching
from frostline_server.codec.codec import Codec
from frostline_server.errors import GraphsFailed, LoadError
from frostline_server.model.artifact import check_weights, model_file, read_card, read_labels, sha256
from frostline_server.model.instance import instance_run
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.shadow import Tap
from frostline_server.model.stats import ModelStats
from frostline_server.model.warmup import Sample, samples_of
from frostline_server.model_config.accelerators import accelerators_of, providers_for
from frostline_server.model_config.pbtxt import label_file
from frostline_server.model_config.scheduling import model_batching, model_slo_s, placements
from frostline_server.model_config.session_options import tuning_of
from frostline_server.model_config.tensor_config import agreed
from frostline_server.runtime.cuda_thread import Captures
from frostline_server.runtime.devices import CPU, Provider, why_unbound
from frostline_server.runtime.golden import Golden, read_golden
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session

MAX_WARM_SIZE = 1024
"""Larger batches are not run before READY: filling memory for them would cost more than their first run."""


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
        captures: keeps runs and captures of CUDA graphs apart; one for the process.
    """

    providers: Sequence[Provider]
    strict: bool
    threads: int
    batching: Batching
    devices: int = 0
    slo_s: float = 0.0
    captures: Captures = field(default_factory=Captures)

    def load(
        self,
        folder: Path,
        name: str,
        config: model_config_pb2.ModelConfig,
        warn: Callable[[str], None],
        given_up: Callable[[], bool] = lambda: False,
    ) -> LoadedModel:
        """Load, warm and prove one version; its batcher is started.

        Args:
            folder: the version's folder, named by its number.
            name: the model's name.
            config: the model's own configuration.
            warn: told of what could not be done and is not a failure.
            given_up: asked between runs whether it is wanted no more.

        Raises:
            LoadError: it cannot be served, or was given up.
        """

        def go_on() -> None:
            if given_up():
                raise LoadError("given up, because the server stops")

        warn = _once(warn)
        path, version = model_file(folder, config), folder.name
        card = read_card(folder / "card.json")
        digest = sha256(path)
        if card.get("sha256", digest) != digest:
            raise LoadError(
                f"{path.name} is not the file its card describes: sha256 {digest}, card says {card['sha256']}"
            )
        places, warnings = placements(config.instance_group, self.providers, self.devices)
        for warning in warnings:
            warn(warning)
        opened = partial(
            open_session, path, config, threads=self.threads, strict=self.strict, warn=warn, captures=self.captures
        )
        sessions = []
        for place in places:
            go_on()
            sessions.append(opened(place))
        session, signature = sessions[0], sessions[0].signature
        check_weights(path, session.external, card, warn)
        batching = model_batching(config, self.batching, batched=signature.batched)
        golden: Golden | None = None
        if (folder / "golden.npz").is_file():
            golden = read_golden(folder / "golden.npz", signature)
        samples = samples_of(config, signature, batching.max_batch_size, folder.parent)
        for index, place in enumerate(places):
            try:
                warmed = warm(sessions[index], batching, golden, samples, go_on)
            except GraphsFailed as error:
                warn(f"CUDA graphs are not captured: {error}")
                sessions[index] = opened(place, graphs=False)
                warmed = warm(sessions[index], batching, golden, samples, go_on)
            instance = sessions[index]
            if not warmed:
                warn(
                    "the shape of a row is not known, so it could not be warmed up; add a golden.npz or a model_warmup"
                )
            for remark in instance.remarks:
                warn(remark)
            if golden is not None:
                instance.check_golden(golden, batching.max_batch_size)
        labels = labels_of(folder.parent, card, session, config, warn)
        stats, tap = ModelStats(labels), Tap()
        admission = _admission(sessions, batching, model_slo_s(config, self.slo_s), golden, warn)
        batcher = Batcher(
            [instance_run(instance, stats, tap) for instance in sessions],
            stats,
            batching,
            batched=signature.batched,
            name=f"device-{name}-{version}",
            admission=admission,
            uncast=frozenset.intersection(*[instance.uncast for instance in sessions]),
        )
        codec = Codec(name, version, signature, batching.max_batch_size, labels)
        fell_back = any(
            place[0][0] != CPU and instance.provider == CPU for place, instance in zip(places, sessions, strict=True)
        )
        batcher.start()
        return LoadedModel(
            name,
            version,
            config,
            stats,
            sessions,
            codec,
            batcher,
            batching,
            golden,
            digest,
            labels,
            fell_back,
            tap,
            admission,
        )


def _once(warn: Callable[[str], None]) -> Callable[[str], None]:
    """`warn` that is told nothing twice, however many sessions a version has."""
    told: set[str] = set()

    def tell(warning: str) -> None:
        if warning not in told:
            told.add(warning)
            warn(warning)

    return tell


def open_session(
    path: Path,
    config: model_config_pb2.ModelConfig,
    providers: Sequence[Provider],
    *,
    threads: int,
    strict: bool,
    warn: Callable[[str], None],
    captures: Captures | None = None,
    graphs: bool = True,
) -> Session:
    """One session of an ONNX file, made as the model's configuration wants it.

    Args:
        path: the ONNX file.
        config: the model's configuration.
        providers: the device's own, best first.
        threads: threads of one run on the CPU, where the configuration does not say.
        strict: whether falling back from the first provider is a failure.
        warn: told of what could not be done and is not a failure.
        captures: shared by all sessions of the process.
        graphs: whether CUDA graphs may be captured.

    Raises:
        LoadError: it cannot be run, or the configuration contradicts the graph.
    """
    tuning, unknown = tuning_of(config)
    wanted, unknown_providers = accelerators_of(config)
    chosen, missing = providers_for(wanted, providers, onnxruntime.get_available_providers())
    for warning in (*unknown, *unknown_providers, *missing):
        warn(warning)
    outputs = [output.name for output in config.output]
    session = load_session(
        path,
        chosen,
        threads=threads,
        strict=strict,
        tuning=tuning,
        outputs=outputs,
        captures=captures,
        graphs=graphs,
    )
    own = {name for name, _ in providers}
    unbound = [name for name, _ in chosen if name not in own and name not in session.providers]
    for name in unbound:
        warn(f"ONNX Runtime could not load {name}, which config.pbtxt asks for: {why_unbound(name)}")
    session.signature = agreed(session.signature, config)
    return session


def warm(
    session: Session,
    batching: Batching,
    golden: Golden | None,
    samples: Sequence[Sample],
    go_on: Callable[[], None] = lambda: None,
) -> bool:
    """Run every batch size and every sample of the configuration.

    Args:
        session: the network.
        batching: how its requests are batched.
        golden: where rows come from, if there is one.
        samples: the configuration's own.
        go_on: called before each run; raises when that is no longer wanted.

    Returns:
        False when nothing could be run, because the shape of a row is not known.

    Raises:
        LoadError: the network failed.
    """
    warmed = session.warm_up(batch_sizes(batching), golden, samples[0].row if samples else None, go_on)
    for sample in samples:
        sample.run(session, go_on)
    return warmed


def labels_of(
    folder: Path,
    card: Mapping[str, Any],
    session: Session,
    config: model_config_pb2.ModelConfig,
    warn: Callable[[str], None],
) -> Sequence[str] | None:
    """Names of the classes: the card's, or the ONNX file's own, or those in a `label_filename` of the model's folder.

    Raises:
        LoadError: they cannot be read, or the artifact's own are not one for each class.
    """
    classes = session.signature.classes
    files = {
        output.name: label_file(folder, output.label_filename) for output in config.output if output.label_filename
    }
    labels = read_labels(card, session.metadata, classes)
    if labels is not None or not files:
        return labels
    output, from_file = next(iter(files.items()))
    if len(set(files.values())) > 1:
        warn(f"config.pbtxt has several label files; only the one of the output '{output}' is used")
    if classes not in (None, len(from_file)):
        warn(f"the label file of the output '{output}' has {len(from_file)} labels for {classes} classes")
    return from_file


def batch_sizes(batching: Batching) -> list[int]:
    """The sizes to warm: powers of two up to the most rows of a batch, that, and the preferred; none above `MAX_WARM_SIZE`."""
    most = min(batching.max_batch_size, MAX_WARM_SIZE)
    powers = {2**power for power in range(most.bit_length()) if 2**power < most}
    return sorted(powers | {most} | {size for size in batching.preferred_sizes if size <= most})


def _admission(
    sessions: Sequence[Session], batching: Batching, slo_s: float, golden: Golden | None, warn: Callable[[str], None]
) -> AdmissionController | None:
    """What keeps a model's answers within its slo; None without one."""
    if not slo_s:
        return None
    run_s = sessions[0].measure(batch_sizes(batching), golden)
    if run_s and run_s[1] > slo_s:
        warn(f"slo_ms {slo_s * 1000:g} cannot be met: a run of one row takes {run_s[1] * 1000:.3g} ms here")
    return AdmissionController(slo_s, Costs(run_s, batching.max_batch_size), len(sessions))
