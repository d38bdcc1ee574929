"""The Prometheus collector: turns accumulators into metric families at every scrape.

Each number has Frostline's name and, where Triton has one, Triton's name too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from frostline_server.batching.admission import AdmissionController
from frostline_server.metrics.host import CpuClock, host_families
from frostline_server.model.shadow import Counts
from frostline_server.model.stats import ModelStats, Unrouted

STATES = ("LOADING", "READY", "UNLOADING", "FAILED")
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


@dataclass(frozen=True, slots=True)
class ModelView:
    """One version as the collector sees it."""

    name: str
    version: str
    state: str
    reason: str
    load_s: float
    healthy: bool
    queued_rows: int
    provider: str
    device: str
    sha256: str
    verified: bool
    stats: ModelStats
    admission: AdmissionController | None = None
    bound_bytes: int = 0
    cuda_graphs: int = 0


@dataclass(frozen=True, slots=True)
class ShadowView:
    """One shadow as the collector sees it."""

    model: str
    version: str
    live_version: str
    counts: Counts


@dataclass(slots=True)
class ServerView:
    """The server as the collector sees it; whoever wires the server fills it in.

    Attributes:
        version: the release.
        transport: the front end in use.
        ready: whether the server is ready, asked at every scrape.
        models: every version, asked at every scrape.
        device_fallback: whether a GPU was wanted and the CPU is used.
        shadows: every version that gets a copy of another one's traffic, asked at every scrape.
    """

    version: str
    transport: str
    ready: Callable[[], bool]
    models: Callable[[], Iterable[ModelView]]
    device_fallback: Callable[[], bool]
    unrouted: Unrouted = field(default_factory=Unrouted)
    shadows: Callable[[], Iterable[ShadowView]] = tuple


class Collector:
    """Turns the accumulators into metric families at every scrape."""

    def __init__(self, server: ServerView) -> None:
        self._server = server
        self._cpu = CpuClock()

    def collect(self) -> Iterator[Metric]:
        """Every family, Frostline's own names first, then Triton's."""
        models = list(self._server.models())
        yield from self._server_families()
        yield from _model_families(models, self._server.unrouted.codes())
        yield from _gpu_families(models)
        yield from _shadow_families(self._server.shadows())
        yield from _triton_families(models)
        yield from host_families(self._cpu)

    def _server_families(self) -> Iterator[Metric]:
        yield _gauge("frostline_ready", "1 when the server is ready for traffic.", float(self._server.ready()))
        yield _gauge(
            "frostline_device_fallback",
            "1 when device=auto found no usable GPU and models run on the CPU.",
            float(self._server.device_fallback()),
        )
        info = GaugeMetricFamily(
            "frostline_build_info", "The release and the front end in use.", labels=["version", "transport"]
        )
        info.add_metric([self._server.version, self._server.transport], 1)
        yield info


def register(registry: CollectorRegistry, server: ServerView) -> None:
    """Put every series on `registry`."""
    registry.register(Collector(server))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


_ID = ["model", "version"]


def _model_families(models: list[ModelView], unrouted: Counter[str]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "frostline_requests", "Requests by the gRPC status they ended with.", labels=[*_ID, "code"]
    )
    rows = CounterMetricFamily("frostline_rows", "Rows answered.", labels=_ID)
    predictions = CounterMetricFamily("frostline_predictions", "Rows by predicted label.", labels=[*_ID, "label"])
    state = GaugeMetricFamily("frostline_model_state", "1 for the version's present state.", labels=[*_ID, "state"])
    failure = GaugeMetricFamily("frostline_model_failure_info", "Why a version is FAILED.", labels=[*_ID, "reason"])
    info = GaugeMetricFamily(
        "frostline_model_info",
        "What a version runs on: the execution provider actually bound, its device, the file's sha256, and whether its "
        "golden sample was reproduced.",
        labels=[*_ID, "provider", "device", "sha256", "verified"],
    )
    healthy = GaugeMetricFamily(
        "frostline_model_healthy", "1 when the version's device answers its golden row as it should.", labels=_ID
    )
    load = GaugeMetricFamily("frostline_model_load_seconds", "Time from reading the file to READY.", labels=_ID)
    shed = CounterMetricFamily(
        "frostline_shed",
        "Requests refused because their answer would be too late: on arrival, or after they had waited.",
        labels=[*_ID, "when"],
    )
    slowness = GaugeMetricFamily(
        "frostline_run_slowness",
        "How much longer runs take now than at warm-up, an allowance for surprises included; only with slo_ms.",
        labels=_ID,
    )
    queue = GaugeMetricFamily("frostline_queue_rows", "Rows waiting for the device.", labels=_ID)
    histograms = {
        "request_seconds": HistogramMetricFamily(
            "frostline_request_seconds", "From a request's arrival to its answer.", labels=_ID
        ),
        "queue_seconds": HistogramMetricFamily(
            "frostline_queue_seconds", "A request's wait for the device.", labels=_ID
        ),
        "run_seconds": HistogramMetricFamily("frostline_run_seconds", "The network's run of one batch.", labels=_ID),
        "batch_rows": HistogramMetricFamily("frostline_batch_rows", "Rows in one batch.", labels=_ID),
    }
    confidence = HistogramMetricFamily(
        "frostline_prediction_confidence", "Softmax probability of the predicted class.", labels=_ID
    )
    for code, count in unrouted.items():
        requests.add_metric(["", "", code], count)
    for model in models:
        identity = [model.name, model.version]
        snapshot = model.stats.snapshot()
        by_label, confidences = model.stats.predictions()
        for code, count in {"OK": 0, **snapshot.codes}.items():
            requests.add_metric([*identity, code], count)
        rows.add_metric(identity, snapshot.rows)
        for label, count in by_label.items():
            predictions.add_metric([*identity, label], count)
        for name in STATES:
            state.add_metric([*identity, name], float(name == model.state))
        if model.state == "FAILED":
            failure.add_metric([*identity, model.reason], 1)
        if not model.provider:  # not loaded
            continue
        info.add_metric([*identity, model.provider, model.device, model.sha256, str(model.verified).lower()], 1)
        healthy.add_metric(identity, float(model.healthy))
        load.add_metric(identity, model.load_s)
        queue.add_metric(identity, model.queued_rows)
        if model.admission is not None:
            shed.add_metric([*identity, "arrival"], model.admission.refused)
            shed.add_metric([*identity, "queued"], model.admission.shed)
            slowness.add_metric(identity, model.admission.slowness)
        for name, family in histograms.items():
            histogram = getattr(model.stats, name)
            family.add_metric(identity, histogram.buckets(), histogram.total)
        confidence.add_metric(identity, confidences.buckets(), confidences.total)
    yield from (
        requests,
        rows,
        predictions,
        state,
        failure,
        info,
        healthy,
        load,
        queue,
        shed,
        slowness,
        *histograms.values(),
        confidence,
    )


def _gpu_families(models: list[ModelView]) -> Iterator[Metric]:
    bound = GaugeMetricFamily(
        "frostline_model_bound_bytes", "Device memory of the buffers a version's batches are bound to.", labels=_ID
    )
    graphs = GaugeMetricFamily("frostline_model_cuda_graphs", "CUDA graphs a version replays.", labels=_ID)
    for model in models:
        if "cuda" in model.device:
            bound.add_metric([model.name, model.version], model.bound_bytes)
            graphs.add_metric([model.name, model.version], model.cuda_graphs)
    yield from (bound, graphs)


def _shadow_families(shadows: Iterable[ShadowView]) -> Iterator[Metric]:
    labels = [*_ID, "live_version"]
    counters = {
        "rows": CounterMetricFamily(
            "frostline_shadow_rows", "Rows answered by the live version that its shadow answered too.", labels=labels
        ),
        "disagreements": CounterMetricFamily(
            "frostline_shadow_disagreements", "Of those, rows with another argmax.", labels=labels
        ),
        "dropped": CounterMetricFamily(
            "frostline_shadow_dropped_rows", "Rows the shadow had no time for.", labels=labels
        ),
        "failed": CounterMetricFamily("frostline_shadow_failed_rows", "Rows the shadow failed on.", labels=labels),
    }
    difference = HistogramMetricFamily(
        "frostline_shadow_logit_difference", "A row's largest absolute difference of a logit.", labels=labels
    )
    for shadow in shadows:
        identity = [shadow.model, shadow.version, shadow.live_version]
        for name, family in counters.items():
            family.add_metric(identity, getattr(shadow.counts, name))
        histogram = shadow.counts.difference
        difference.add_metric(identity, histogram.buckets(), histogram.total)
    yield from (*counters.values(), difference)


def _triton_families(models: list[ModelView]) -> Iterator[Metric]:
    """Triton's bare names. They are untyped, because a counter's name would gain a suffix Triton's dashboards lack."""
    success = Metric(
        "nv_inference_request_success", "Number of successful inference requests, all batch sizes", "unknown"
    )
    failure = Metric("nv_inference_request_failure", "Number of failed inference requests, all batch sizes", "unknown")
    count = Metric("nv_inference_count", "Number of inferences performed (does not include cached requests)", "unknown")
    executions = Metric("nv_inference_exec_count", "Number of model executions performed", "unknown")
    load = Metric("nv_model_load_duration_secs", "Model load time in seconds", "gauge")
    pending = Metric(
        "nv_inference_pending_request_count", "Instantaneous number of pending requests awaiting execution", "gauge"
    )
    durations = {
        "request_s": Metric(
            "nv_inference_request_duration_us", "Cumulative inference request duration in microseconds", "unknown"
        ),
        "queue_s": Metric(
            "nv_inference_queue_duration_us", "Cumulative inference queuing duration in microseconds", "unknown"
        ),
        "assemble_s": Metric(
            "nv_inference_compute_input_duration_us", "Cumulative compute input duration in microseconds", "unknown"
        ),
        "run_s": Metric(
            "nv_inference_compute_infer_duration_us", "Cumulative compute inference duration in microseconds", "unknown"
        ),
        "answer_s": Metric(
            "nv_inference_compute_output_duration_us",
            "Cumulative inference compute output duration in microseconds",
            "unknown",
        ),
    }
    histograms = {
        "request_seconds": HistogramMetricFamily(
            "nv_inference_request_duration_histogram_us", "Inference request duration in microseconds", labels=_ID
        ),
        "queue_seconds": HistogramMetricFamily(
            "nv_inference_queue_duration_histogram_us", "Inference queuing duration in microseconds", labels=_ID
        ),
        "run_seconds": HistogramMetricFamily(
            "nv_inference_compute_infer_duration_histogram_us", "Compute inference duration in microseconds", labels=_ID
        ),
    }
    for model in models:
        if not model.provider:  # not loaded
            continue
        labels = {"model": model.name, "version": model.version}
        snapshot = model.stats.snapshot()
        success.add_sample(success.name, labels, snapshot.succeeded)
        for reason in REASONS:
            failure.add_sample(failure.name, {**labels, "reason": reason}, snapshot.reasons[reason])
        count.add_sample(count.name, labels, snapshot.rows)
        executions.add_sample(executions.name, labels, snapshot.executions)
        load.add_sample(load.name, labels, model.load_s)
        pending.add_sample(pending.name, labels, model.queued_rows)
        for stage, family in durations.items():
            family.add_sample(family.name, labels, int(getattr(snapshot, stage) * 1e6))
        for name, histogram_family in histograms.items():
            histogram = getattr(model.stats, name)
            histogram_family.add_metric(list(labels.values()), histogram.buckets(1e6), histogram.total * 1e6)
    yield from (success, failure, count, executions, *durations.values(), pending, load, *histograms.values())
