"""The model loader: from a version's folder to a loaded model.

A loaded model has files that match its card, is warm, and has answered its golden sample as PyTorch did.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from frostline.pb import model_config_pb2
from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.batching.batcher import Batcher, Observer
from frostline_server.batching.request_queue import Batching
from frostline_server.codec.codec import Codec
from frostline_server.errors import LoadError, PredictionError
from frostline_server.model.artifact import Artifact, check_artifact, model_folder, read_labels, read_task, version_in
from frostline_server.model.failure_log import FailureLog
from frostline_server.model.input_stats import InputStats
from frostline_server.model.instance import instance_run
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.predictions import Predictions
from frostline_server.model.preparation import Preparation
from frostline_server.model.sample_rows import RecentRow, SampleRows
from frostline_server.model.shadow import Tap
from frostline_server.model.stats import ModelStats
from frostline_server.model.trial import Outcome, Trials
from frostline_server.model.warmup import batch_sizes, cycled
from frostline_server.model.watchdog import Watchdog
from frostline_server.model_config.accelerators import accelerators_of, providers_for
from frostline_server.model_config.pbtxt import label_file
from frostline_server.model_config.scheduling import model_max_run_s, model_slo_s, placements
from frostline_server.model_config.session_options import check_threads, tuning_of
from frostline_server.model_config.tensor_config import agreed
from frostline_server.regular_files import FileReader
from frostline_server.runtime.cuda_thread import Captures
from frostline_server.runtime.devices import CPU, Provider, why_unbound
from frostline_server.runtime.encoders import Encoder, open_encoder
from frostline_server.runtime.golden import Golden, GoldenRows, compare, read_golden, read_golden_rows
from frostline_server.runtime.host_limits import cpu_count
from frostline_server.runtime.picture_encoder import PictureEncoder
from frostline_server.runtime.row_schema import read_schema
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.signature import Signature
from frostline_server.runtime.token_encoder import TokenEncoder
from frostline_server.telemetry.recorder import Recorder

Warn = Callable[[str], None]
"""Is told of what could not be done and is not a failure."""


class Opener(Protocol):
    """Opens sessions of one artifact."""

    def __call__(
        self, providers: Sequence[Provider], /, *, graphs: bool = True, probabilities: bool = False
    ) -> Session:
        """Open one on these execution providers, best first.

        Args:
            providers: the providers.
            graphs: whether CUDA graphs may be captured.
            probabilities: whether the network is known to end at probabilities, also where its graph does not show it.
        """


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
        max_run_bytes: memory that one run may take; batches are made no larger than it allows.
        max_run_s: how long one run may take, in seconds, where a model's configuration does not say.
        watchdog: watches the runs of all sessions.
        on_hang: called when a model may have ceased to answer because its runs do not end, or began to again.
        captures: keeps runs and captures of CUDA graphs apart; one for the process.
        max_class_series: the most classes of a model that are counted by themselves.
        files: reads what is in the models folder; by default only what really lies there.
        trials: loads versions in a child process first; None for no such trial.
        decoding: held while a large picture is decoded; one for the process.
        recorder: records requests; None for none.
    """

    providers: Sequence[Provider]
    strict: bool
    threads: int
    batching: Batching
    devices: int = 0
    slo_s: float = 0.0
    max_run_bytes: int = 1 << 40
    max_run_s: float = 60.0
    watchdog: Watchdog = field(default_factory=Watchdog)
    on_hang: Callable[[], None] = lambda: None
    captures: Captures = field(default_factory=Captures)
    max_class_series: int = 100
    files: FileReader | None = None
    trials: Trials | None = None
    decoding: threading.Lock = field(default_factory=threading.Lock)
    recorder: Recorder | None = None

    def check(self, folder: Path, config: model_config_pb2.ModelConfig) -> Artifact:
        """What is in a version's folder, checked against its card.

        Raises:
            LoadError: a file cannot be read, or is not the one that the card describes.
        """
        return check_artifact(folder, config, self.files or FileReader(model_folder(folder).parent))

    def needs_trial(self, artifact: Artifact, config: model_config_pb2.ModelConfig) -> bool:
        """Whether a version must be tried in a child process before it is loaded."""
        most_rows = max(config.max_batch_size, self.batching.max_batch_size)
        return self.trials is not None and self.trials.needed(artifact, most_rows)

    def load(
        self,
        folder: Path,
        name: str,
        config: model_config_pb2.ModelConfig,
        warn: Warn,
        given_up: Callable[[], bool] = lambda: False,
        artifact: Artifact | None = None,
        tried: Outcome | None = None,
    ) -> LoadedModel:
        """Load, warm and prove one version; its batcher is started. Whether it must be tried first, `needs_trial` says.

        Args:
            folder: the version's folder, named by its number.
            name: the model's name.
            config: the model's own configuration.
            warn: told of what could not be done and is not a failure.
            given_up: asked between runs whether it is wanted no more.
            artifact: what is in the folder, if it was checked already.
            tried: how its trial load went; None if it was not tried.

        Raises:
            LoadError: it cannot be served, or was given up, or is not what was tried.
        """
        warn, go_on, version = _once(warn), _unless(given_up), version_in(folder)
        if tried is not None:
            self._heed(tried, warn)
        if artifact is None:
            artifact = self.check(folder, config)
        if tried is not None and tried.sha256 != artifact.sha256:
            raise LoadError(f"{artifact.file.name} changed while it was being loaded")

        places = self._places(config, warn)
        max_run_s = model_max_run_s(config, self.max_run_s)
        open_on = self._opener(artifact, config, warn, max_run_s)
        sessions = open_all(open_on, places, go_on)
        signature = sessions[0].signature
        artifact.check_weights(sessions[0].external, warn)
        artifact.release()

        golden = read_golden(artifact.golden_file, signature, artifact.files) if artifact.golden_file else None
        preparation = Preparation(
            config, model_folder(folder), artifact.files, golden, self.batching, self.max_run_bytes, warn, go_on
        )

        def reopen(index: int) -> Session:
            return open_on(places[index], graphs=False)

        prepared = preparation.prepare(sessions, reopen)
        if prepared.probabilities:
            open_on = partial(open_on, probabilities=True)
            sessions = open_all(open_on, places, go_on)
            prepared = preparation.prepare(sessions, reopen)
        batching, rows = prepared.batching, prepared.rows

        named = label_files(model_folder(folder), artifact.files, sessions[0].signature, config, warn)
        labels = labels_of(artifact.card, sessions[0], named)
        stats, tap = ModelStats(), Tap()
        task = read_task(artifact.card, sessions[0].metadata, labels)
        decision = None if task is None or task.positive is None else (task.positive, task.thresholds[0])
        predictions = Predictions(labels, sessions[0].signature.classes, self.max_class_series, decision)
        admission = admission_of(sessions, batching, model_slo_s(config, self.slo_s), rows, warn)
        probe_row = rows.rows[0] if rows is not None and rows.real else None
        recent, failures = RecentRow(wanted=probe_row is None), FailureLog(name, version)
        # Twice as many as run the network: the other half of the CPUs is for reading requests, and this is a part of that.
        threads = tuning_of(config)[0].intra_op_threads or min(2 * self.threads, cpu_count())
        encoder = encoder_of(artifact, sessions, golden, threads, self.decoding, warn)
        # Of a picture, nothing is missing, unknown or outside.
        counted = encoder is not None and not isinstance(encoder, PictureEncoder)
        input_stats = InputStats(encoder.schema, self.max_class_series) if encoder and counted else None
        observer = stats if self.recorder is None else self.recorder.watch(stats, name, version)
        batcher = batcher_of(
            f"device-{name}-{version}", sessions, batching, observer, predictions, tap, recent, admission, failures,
            max_run_s, self.on_hang, encoder, input_stats,
        )  # fmt: skip
        self.watchdog.watch(batcher)
        codec = Codec(
            name, version, sessions[0].signature, batching.max_batch_size, labels, task,
            encoder.schema if encoder else None, _NO_ROWS if encoder is None and read_schema(artifact.card) else "", named,
        )  # fmt: skip
        batcher.start()
        return LoadedModel(
            name=name,
            version=version,
            config=config,
            stats=stats,
            predictions=predictions,
            sessions=sessions,
            codec=codec,
            batcher=batcher,
            batching=batching,
            golden=golden,
            probe_row=probe_row,
            recent=recent,
            sha256=artifact.sha256,
            labels=labels,
            fell_back=fell_back(places, sessions),
            tap=tap,
            admission=admission,
            encoder=encoder,
            input_stats=input_stats,
        )

    def try_first(
        self,
        folder: Path,
        name: str,
        config: model_config_pb2.ModelConfig,
        sha256: str,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Load a version in a child process, as it will be loaded here; blocks for as long as that takes.

        A child has no GPU, because to open one there would take seconds and hundreds of MiB.

        Args:
            folder: as for `load`.
            name: as for `load`.
            config: as for `load`.
            sha256: of its ONNX file, for a child that does not say it.
            given_up: asked again and again whether it is wanted no more.
        """
        assert self.trials is not None, "only with trials a version needs one"  # noqa: S101  an invariant, not a check
        loader = {
            "providers": [(CPU, {})] if self._on_gpu else list(self.providers),
            "strict": False,
            "threads": self.threads,
            "batching": self.batching,
            "slo_s": self.slo_s,
            "max_run_bytes": self.max_run_bytes,
            "max_class_series": self.max_class_series,
            "files": self.files,
        }
        tried = model_config_pb2.ModelConfig()
        tried.CopyFrom(config)
        if self._on_gpu:
            tried.ClearField("instance_group")
            tried.ClearField("optimization")
        try:
            outcome = self.trials.run(folder, name, tried.SerializeToString(), loader, _unless(given_up))
        except LoadError as error:
            return Outcome(ended=str(error))
        return replace(outcome, sha256=outcome.sha256 or sha256)

    def _heed(self, tried: Outcome, warn: Warn) -> None:
        """Tell what a trial warned of.

        What the CPU refuses a GPU may run, so what counts for one is only how the child ended.

        Raises:
            LoadError: the version ended the child, or the child refuses it.
        """
        if tried.ended:
            raise LoadError(tried.ended)
        if self._on_gpu:
            return
        for warning in tried.warnings:
            warn(warning)
        if tried.refused:
            raise LoadError(tried.refused)

    @property
    def _on_gpu(self) -> bool:
        return self.devices > 0 or any(provider != CPU for provider, _ in self.providers)

    def _places(self, config: model_config_pb2.ModelConfig, warn: Warn) -> list[Sequence[Provider]]:
        """The execution providers of each instance, best first.

        Raises:
            LoadError: the configuration asks for too much, or for what does not exist.
        """
        places, warnings = placements(config.instance_group, self.providers, self.devices)
        for warning in warnings:
            warn(warning)
        check_threads(tuning_of(config)[0], len(places), self.threads, cpu_count())
        return places

    def _opener(self, artifact: Artifact, config: model_config_pb2.ModelConfig, warn: Warn, max_run_s: float) -> Opener:
        """What opens a session of this artifact on given execution providers, and has it watched."""
        opened = partial(
            open_session,
            artifact.file,
            config,
            threads=self.threads,
            strict=self.strict,
            warn=warn,
            captures=self.captures,
            artifact=artifact,
            max_run_s=max_run_s,
        )

        def watched(providers: Sequence[Provider], /, *, graphs: bool = True, probabilities: bool = False) -> Session:
            return self.watchdog.watch_session(opened(providers, graphs=graphs, probabilities=probabilities))

        return watched


def _once(warn: Warn) -> Warn:
    """`warn` that is told nothing twice, however many sessions a version has."""
    told: set[str] = set()

    def tell(warning: str) -> None:
        if warning not in told:
            told.add(warning)
            warn(warning)

    return tell


def _unless(given_up: Callable[[], bool]) -> Callable[[], None]:
    """What raises once the version is given up, to be called between runs."""

    def go_on() -> None:
        if given_up():
            raise LoadError("given up, because it is wanted no more or the server stops")

    return go_on


def open_all(open_on: Opener, places: Sequence[Sequence[Provider]], go_on: Callable[[], None]) -> list[Session]:
    """One session for each instance.

    Raises:
        LoadError: one cannot be opened, or the version was given up.
    """
    sessions = []
    for place in places:
        go_on()
        sessions.append(open_on(place))
    return sessions


def open_session(
    path: Path,
    config: model_config_pb2.ModelConfig,
    providers: Sequence[Provider],
    *,
    threads: int,
    strict: bool,
    warn: Warn,
    captures: Captures | None = None,
    graphs: bool = True,
    artifact: Artifact | None = None,
    max_run_s: float = math.inf,
    probabilities: bool = False,
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
        artifact: gives the content of the files, if it was checked; by default they are read.
        max_run_s: how long a run may take, in seconds.
        probabilities: whether the network is known to end at probabilities, also where its graph does not show it.

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
        agree=partial(agreed, config=config),
        files=artifact,
        max_run_s=max_run_s,
        probabilities=probabilities,
    )
    own = {name for name, _ in providers}
    unbound = [name for name, _ in chosen if name not in own and name not in session.providers]
    for name in unbound:
        warn(f"ONNX Runtime could not load {name}, which config.pbtxt asks for: {why_unbound(name)}")
    return session


def label_files(
    folder: Path, files: FileReader, signature: Signature, config: model_config_pb2.ModelConfig, warn: Warn
) -> Mapping[str, tuple[str, ...]]:
    """The labels of each output that has a `label_filename`, a file in the model's folder.

    Raises:
        LoadError: one cannot be read.
    """
    specs, named = {spec.client_name: spec for spec in signature.outputs}, dict[str, tuple[str, ...]]()
    for output in config.output:
        if not output.label_filename:
            continue
        labels, classes = label_file(files, folder, output.label_filename), signature.classes_of(specs[output.name])
        if classes not in (None, len(labels)):
            warn(f"the label file of the output '{output.name}' has {len(labels)} labels for {classes} classes")
        # A line more, such as an empty one, is no class's.
        named[output.name] = labels[:classes]
    return named


def labels_of(card: Mapping[str, Any], session: Session, named: Mapping[str, tuple[str, ...]]) -> Sequence[str] | None:
    """Names of the model's classes: the card's, or the ONNX metadata's, or a label file's, or an operator's.

    Args:
        card: the card.
        session: a session of the version.
        named: the labels of outputs in files, of which those of the outputs that tell the classes are the model's.

    Raises:
        LoadError: the artifact's own are not one for each class.
    """
    signature, heads = session.signature, session.signature.heads
    labels = read_labels(card, session.metadata, signature.classes)
    if labels is not None:
        return labels
    of_scores = [named[name] for name in signature.scores if name in named]
    if of_scores:
        return of_scores[0]
    # The only file is meant for the classes, whichever output has it; but not where another output has numbers for these.
    if len(set(named.values())) == 1 and (heads is not None or not signature.scores):
        return next(iter(named.values()))
    return list(heads.classes) if heads is not None and heads.classes else None


def admission_of(
    sessions: Sequence[Session], batching: Batching, slo_s: float, rows: SampleRows | None, warn: Warn
) -> AdmissionController | None:
    """What keeps a model's answers within its slo; None without one."""
    if not slo_s:
        return None
    session, run_s = sessions[0], dict[int, float]()
    # What a generated row of any size costs says nothing about real ones.
    if rows is not None and (rows.real or all(None not in spec.graph_shape for spec in session.signature.inputs)):
        sizes = batch_sizes(batching) if session.signature.batched else [1]
        # A generated row may be refused in another order; then the costs are learned from requests.
        with suppress(PredictionError):
            run_s = session.measure(
                sizes, lambda size: cycled(rows, size) if session.signature.batched else rows.rows[0]
            )
    if run_s and run_s[1] > slo_s:
        warn(f"slo_ms {slo_s * 1000:g} cannot be met: a run of one row takes {run_s[1] * 1000:.3g} ms here")
    return AdmissionController(slo_s, Costs(run_s, batching.max_batch_size), len(sessions))


def batcher_of(
    name: str,
    sessions: Sequence[Session],
    batching: Batching,
    observer: Observer,
    predictions: Predictions,
    tap: Tap,
    recent: RecentRow,
    admission: AdmissionController | None,
    failures: FailureLog,
    max_run_s: float,
    on_hang: Callable[[], None],
    encoder: Encoder | None,
    input_stats: InputStats | None,
) -> Batcher:
    """The request queue in front of the instances, not started."""
    return Batcher(
        [instance_run(session, predictions, tap, recent, encoder, input_stats) for session in sessions],
        observer,
        batching,
        batched=sessions[0].signature.batched,
        name=name,
        admission=admission,
        on_failure=failures,
        # Only then can no request hold a front end's thread for longer than those before it.
        inline=not sessions[0].signature.traits.data_dependent
        and not isinstance(encoder, PictureEncoder | TokenEncoder),
        max_run_s=max_run_s,
        # A session on the CPU can run again while a run hangs. On a CUDA device all its runs are in one thread.
        spares=len(sessions) if all(session.device == "cpu" for session in sessions) else 0,
        on_hang=on_hang,
        uncast=frozenset.intersection(*[session.uncast for session in sessions]),
    )


_NO_ROWS = "raw rows are not taken, because the model is served without a batch axis; its version's warnings say why"


def encoder_of(
    artifact: Artifact,
    sessions: Sequence[Session],
    golden: Golden | None,
    threads: int,
    decoding: threading.Lock,
    warn: Warn,
) -> Encoder | None:
    """What encodes a version's raw rows, proved to answer as training did; None if it takes none.

    Raises:
        LoadError: its file or its card is wrong, or the proof fails.
    """
    schema = read_schema(artifact.card)
    if schema is None:
        return None
    content, signature = artifact.listed(schema.file) if schema.file else b"", sessions[0].signature
    if not signature.batched:
        warn(_NO_ROWS)
        return None
    own = {spec.name for spec in signature.inputs}
    for column in schema.columns:
        if column.name in own:
            warn(f"only raw rows are taken: a column is called '{column.name}', as the network's own input is")
    encoder = open_encoder(schema, content, signature.inputs, threads, decoding)
    if golden is None or artifact.golden_file is None:
        raise LoadError("golden.npz is not there, which proves that raw rows are encoded as in training")
    proof = read_golden_rows(artifact.golden_file, schema, signature.own_outputs, artifact.files)
    encoded = encoded_rows(encoder, proof)
    for session in sessions:
        prove_rows(session, encoded, proof, golden)
    return encoder


def encoded_rows(encoder: Encoder, proof: GoldenRows) -> list[np.ndarray[Any, Any]]:
    """The network's inputs for the raw rows of a golden sample, the same whether they come one by one or together.

    Raises:
        LoadError: it is not, or a row cannot be encoded.
    """
    count = len(proof.columns[0])
    try:
        together, _ = encoder.encode(proof.columns)
        each = [encoder.encode([cells[at : at + 1] for cells in proof.columns])[0] for at in range(count)]
    except PredictionError as error:
        raise LoadError(f"golden check failed: raw rows: {error}") from error
    alone = [np.concatenate(arrays) for arrays in zip(*each, strict=True)]
    if not all(
        np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f") for pair in zip(together, alone, strict=True)
    ):
        raise LoadError("golden check failed: raw rows are encoded differently alone and together")
    return alone


def prove_rows(session: Session, encoded: Sequence[np.ndarray[Any, Any]], proof: GoldenRows, golden: Golden) -> None:
    """Prove that raw rows are answered as training answered them.

    Raises:
        LoadError: they are not.
    """
    names = list(proof.outputs)
    try:
        # One run for each: what a batch of them answers, the numeric rows have shown.
        answers = [session.run([array[at : at + 1] for array in encoded], names) for at in range(len(encoded[0]))]
    except PredictionError as error:
        raise LoadError(f"golden check failed: raw rows: {error}") from error
    for name, *got in zip(names, *answers, strict=True):
        compare(np.concatenate(got), proof.outputs[name], golden, 0, 1, f"answers '{name}' to raw rows", session.axis)


def fell_back(places: Sequence[Sequence[Provider]], sessions: Sequence[Session]) -> bool:
    """Whether an instance that should be on a GPU is on the CPU."""
    return any(place[0][0] != CPU and session.provider == CPU for place, session in zip(places, sessions, strict=True))
