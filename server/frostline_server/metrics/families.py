"""The metric families on /metrics: one row for each, with its name, type, labels, source and HELP text.

To add a metric, add a row here. A table is named for what its rows read. Each number has Frostline's name and, where
Triton has one, Triton's name too. The collector in `prometheus` does the rest; only the machine's own metrics are
elsewhere, in `host`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from frostline_server.logs import lost_lines
from frostline_server.metrics.exchange import Across
from frostline_server.model.shadow import Counts
from frostline_server.model.stats import Histogram, Unrouted
from frostline_server.repository.registry import LoadedSnapshot, Repository, VersionSnapshot
from frostline_server.repository.take_back import TakenBack
from frostline_server.telemetry.recorder import Recorder

STATES = ("LOADING", "READY", "UNLOADING", "FAILED")
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

T = TypeVar("T")
Reading = float | Histogram | Mapping[str, float] | tuple[str, ...] | None
"""What a row reads: a number; a histogram; a number for each value of the row's label; only the values of all its
labels, which are shown with the number 1; or None, where there is nothing to show."""


@dataclass(frozen=True, slots=True)
class Network:
    """The front end's side of the network.

    Attributes:
        held: bytes of messages in flight, requests and answers.
        limit: the most of these.
        connections: that are open.
        refused: what was refused before it reached a model, by reason.
    """

    held: int
    limit: int
    connections: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the collector's numbers; it reads all of them at every scrape.

    Attributes:
        repository: every version, with its counts.
        unrouted: requests for no known model.
        release: Frostline's version.
        transport: the front end in use.
        ready: whether the server is ready.
        fell_back: whether a GPU was wanted and the CPU is used.
        network: the front end's side of the network; None where it does not say.
        last_look: when the last look at the models folder ended, in seconds since 1970; None where nobody looks again.
        certificate_expiry: when the certificate that new connections are shown expires, in seconds since 1970; None
            without TLS.
        recorder: records requests; None where nothing is recorded.
    """

    repository: Repository
    unrouted: Unrouted
    release: str
    transport: str
    ready: Callable[[], bool]
    fell_back: Callable[[], bool]
    network: Callable[[], Network | None]
    last_look: Callable[[], float | None]
    certificate_expiry: Callable[[], float | None]
    recorder: Recorder | None = None


@dataclass(frozen=True, slots=True)
class Family(Generic[T]):
    """A metric family: one row of a table.

    Attributes:
        name: as it appears on the page.
        type: counter, gauge, histogram, or unknown for Triton's counters, because a counter's name would gain a suffix
            that Triton's dashboards lack.
        labels: besides those of its table.
        read: returns its present value.
        help: its HELP text.
        scale: what a histogram's bounds and sum are multiplied by.
        across: of a gauge, how the values of several processes become one; whatever counts is summed.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    read: Callable[[T], Reading]
    help: str
    scale: float = 1.0
    across: Across | None = None


# Read from the server as a whole. Labels: the row's only.
SERVER: tuple[Family[Sources], ...] = (
    Family("frostline_ready", "gauge", (), lambda server: server.ready(),
           "1 when the server is ready for traffic.", across="supervisor"),
    Family("frostline_device_fallback", "gauge", (), lambda server: server.fell_back(),
           "1 when device=auto found no usable GPU and models run on the CPU.", across="max"),
    Family("frostline_repository_last_look_timestamp_seconds", "gauge", (), lambda server: server.last_look(),
           "When the last look at the models folder ended; only where the server looks by itself.", across="min"),
    Family("frostline_certificate_expiry_timestamp_seconds", "gauge", (), lambda server: server.certificate_expiry(),
           "When the certificate that new connections are shown expires; only with TLS.", across="min"),
    Family("frostline_build_info", "gauge", ("version", "transport"), lambda server: (server.release, server.transport),
           "The release and the front end in use.", across="max"),
    Family("frostline_network_bytes", "gauge", (), lambda server: n.held if (n := server.network()) else None,
           "Bytes of messages in flight, requests and answers of all clients together.", across="sum"),
    Family("frostline_network_limit_bytes", "gauge", (), lambda server: n.limit if (n := server.network()) else None,
           "The most bytes of messages in flight.", across="sum"),
    Family("frostline_connections", "gauge", (), lambda server: n.connections if (n := server.network()) else None,
           "Connections that are open.", across="sum"),
    Family("frostline_network_refused_total", "counter", ("reason",),
           lambda server: n.refused if (n := server.network()) else None,
           "Connections and calls refused by a limit, or because they broke the protocol."),
    Family("frostline_trace_spans_total", "counter", ("outcome",),
           lambda server: server.recorder.spans if server.recorder else None,
           "Spans of traces: exported, failed (the collector did not take them) or dropped (no room)."),
    Family("frostline_access_log_lines_total", "counter", ("outcome",),
           lambda server: server.recorder.lines if server.recorder else None,
           "Lines of the access log: written or dropped (no room, or the file could not be written)."),
    Family("frostline_log_lines_lost_total", "counter", (), lambda _: lost_lines(),
           "Lines of the log that could not be written to standard error."),
)  # fmt: skip

# Read from the requests by status of every known version, and of no known model. Labels: model, version, and the row's.
REQUESTS: tuple[Family[Mapping[str, int]], ...] = (
    Family("frostline_requests_total", "counter", ("code",), lambda codes: codes,
           "Requests by the gRPC status they ended with."),
)  # fmt: skip

# Read from every known version. Labels: model, version, and the row's.
VERSION: tuple[Family[VersionSnapshot], ...] = (
    Family("frostline_rows_total", "counter", (), lambda v: v.loaded.stats.rows if v.loaded else 0,
           "Rows answered."),
    Family("frostline_model_state", "gauge", ("state",), lambda v: {state: state == v.state for state in STATES},
           "1 for the version's present state.", across="max"),
    Family("frostline_model_failure_info", "gauge", ("reason",), lambda v: (v.reason,) if v.state == "FAILED" else None,
           "Why a version is FAILED.", across="max"),
)  # fmt: skip

# Read from every version that is loaded. Labels: model, version, and the row's.
LOADED: tuple[Family[LoadedSnapshot], ...] = (
    Family("frostline_model_info", "gauge", ("provider", "device", "sha256", "verified"),
           lambda v: (v.model.provider, v.model.device, v.model.sha256, "true" if v.model.golden else "false"),
           "What a version runs on: the execution provider actually bound, its device, the file's sha256, and "
           "whether its golden sample was reproduced.", across="max"),
    Family("frostline_model_healthy", "gauge", (), lambda v: v.ready,
           "1 when the version is READY and its device passes its probe.", across="min"),
    Family("frostline_model_load_seconds", "gauge", (), lambda v: v.load_s,
           "Time from reading the file to READY.", across="max"),
    Family("frostline_queue_rows", "gauge", (), lambda v: v.model.batcher.queued_rows,
           "Rows waiting for the device.", across="sum"),
    Family("frostline_shed_total", "counter", ("when",),
           lambda v: {"arrival": a.refused, "queued": a.shed} if (a := v.model.admission) else None,
           "Requests refused because their answer would be late, on arrival or after they were queued."),
    Family("frostline_run_slowness", "gauge", (), lambda v: v.model.admission.slowness if v.model.admission else None,
           "How much longer runs take now than at warm-up, with an allowance for unexpected delays; only with slo_ms.", across="max"),
    Family("frostline_overdue_runs_total", "counter", ("outcome",), lambda v: v.model.batcher.overdue,
           "Runs that took longer than max_run_s: ended, or given up because they did not end."),
    Family("frostline_hanging_runs", "gauge", (), lambda v: v.model.batcher.hanging,
           "Runs that were given up and still go on; each keeps a core busy.", across="sum"),
    Family("frostline_request_seconds", "histogram", (), lambda v: v.stats.request_seconds,
           "Time from a request's arrival to its answer."),
    Family("frostline_queue_seconds", "histogram", (), lambda v: v.stats.queue_seconds,
           "Time that a request waits for the device."),
    Family("frostline_run_seconds", "histogram", (), lambda v: v.stats.run_seconds,
           "Time of the network's run of one batch."),
    Family("frostline_batch_rows", "histogram", (), lambda v: v.stats.batch_rows,
           "Rows in one batch."),
    Family("frostline_predictions_total", "counter", ("label",), lambda v: v.predictions[0],
           "Rows by predicted label; all classes without a series of their own share one."),
    Family("frostline_prediction_confidence", "histogram", (), lambda v: v.predictions[1],
           "Softmax probability of the predicted class."),
    Family("frostline_input_missing_total", "counter", ("column",), lambda v: i.missing() if (i := v.model.input_stats) else None,
           "Cells of raw rows without a value, by column."),
    Family("frostline_input_unknown_total", "counter", ("column",), lambda v: i.unknown() if (i := v.model.input_stats) else None,
           "Cells of raw rows with a category that training did not know, by column."),
    Family("frostline_input_outside_total", "counter", ("column",), lambda v: i.outside() if (i := v.model.input_stats) else None,
           "Cells of raw rows below or above all that training saw, by column."),
    Family("frostline_input_drift", "gauge", ("column",), lambda v: i.drift() if (i := v.model.input_stats) else None,
           "Population stability index of the latest raw rows against the training rows, by column.", across="max"),
    Family("frostline_model_bound_bytes", "gauge", (), lambda v: v.model.bound_bytes if _on_gpu(v) else None,
           "Device memory of the buffers a version's batches are bound to.", across="sum"),
    Family("frostline_model_cuda_graphs", "gauge", (), lambda v: v.model.cuda_graphs if _on_gpu(v) else None,
           "CUDA graphs a version replays.", across="sum"),
)  # fmt: skip

# Read from every shadow. Labels: model, version, live_version, and the row's.
SHADOW: tuple[Family[Counts], ...] = (
    Family("frostline_shadow_rows_total", "counter", (), lambda shadow: shadow.rows,
           "Rows answered by the live version that its shadow answered too."),
    Family("frostline_shadow_disagreements_total", "counter", (), lambda shadow: shadow.disagreements,
           "Of those, rows with another argmax."),
    Family("frostline_shadow_dropped_rows_total", "counter", (), lambda shadow: shadow.dropped,
           "Rows that the shadow had no time for."),
    Family("frostline_shadow_failed_rows_total", "counter", (), lambda shadow: shadow.failed,
           "Rows on which the shadow failed."),
    Family("frostline_shadow_logit_difference", "histogram", (), lambda shadow: shadow.difference,
           "A row's largest absolute difference of a logit."),
)  # fmt: skip

# Read from the rollout of every model whose rollout changed since the start. Labels: model, and the row's.
DECISIONS: tuple[Family[Mapping[str, int]], ...] = (
    Family("frostline_rollout_decisions_total", "counter", ("decision",), lambda counts: counts,
           "Steps of a model's rollout since the server started, whoever took them."),
)  # fmt: skip

# Read from every canary that was taken back, until the next step of its rollout. Labels: model, and the row's.
TAKEN_BACK: tuple[Family[TakenBack], ...] = (
    Family("frostline_canary_taken_back_info", "gauge", ("version", "reason"), lambda taken: (str(taken.version), taken.reason),
           "A canary that was worse than the stable version, and why it was taken back.", across="max"),
)  # fmt: skip

# Triton's names, read from every version that is loaded. Labels: model, version, and the row's.
TRITON: tuple[Family[LoadedSnapshot], ...] = (
    Family("nv_inference_request_success", "unknown", (), lambda v: v.stats.succeeded,
           "Number of successful inference requests, all batch sizes"),
    Family("nv_inference_request_failure", "unknown", ("reason",),
           lambda v: {reason: v.stats.reasons[reason] for reason in REASONS},
           "Number of failed inference requests, all batch sizes"),
    Family("nv_inference_count", "unknown", (), lambda v: v.stats.rows,
           "Number of inferences performed (does not include cached requests)"),
    Family("nv_inference_exec_count", "unknown", (), lambda v: v.stats.executions,
           "Number of model executions performed"),
    Family("nv_inference_request_duration_us", "unknown", (), lambda v: int(v.stats.request_s * 1e6),
           "Cumulative inference request duration in microseconds"),
    Family("nv_inference_queue_duration_us", "unknown", (), lambda v: int(v.stats.queue_s * 1e6),
           "Cumulative inference queuing duration in microseconds"),
    Family("nv_inference_compute_input_duration_us", "unknown", (), lambda v: int(v.stats.assemble_s * 1e6),
           "Cumulative compute input duration in microseconds"),
    Family("nv_inference_compute_infer_duration_us", "unknown", (), lambda v: int(v.stats.run_s * 1e6),
           "Cumulative compute inference duration in microseconds"),
    Family("nv_inference_compute_output_duration_us", "unknown", (), lambda v: int(v.stats.answer_s * 1e6),
           "Cumulative inference compute output duration in microseconds"),
    Family("nv_inference_pending_request_count", "gauge", (), lambda v: v.model.batcher.queued_requests,
           "Instantaneous number of pending requests awaiting execution", across="sum"),
    Family("nv_model_load_duration_secs", "gauge", (), lambda v: v.load_s,
           "Model load time in seconds", across="max"),
    Family("nv_inference_request_duration_histogram_us", "histogram", (), lambda v: v.stats.request_seconds,
           "Inference request duration in microseconds", scale=1e6),
    Family("nv_inference_queue_duration_histogram_us", "histogram", (), lambda v: v.stats.queue_seconds,
           "Inference queuing duration in microseconds", scale=1e6),
    Family("nv_inference_compute_infer_duration_histogram_us", "histogram", (), lambda v: v.stats.run_seconds,
           "Compute inference duration in microseconds", scale=1e6),
)  # fmt: skip

# Read after all others, from the number of families that were left out, so that it counts those of the same scrape.
ERRORS: tuple[Family[int], ...] = (
    Family("frostline_scrape_errors_total", "counter", (), lambda errors: errors,
           "Metric families that a scrape left out for one model, because they could not be rendered."),
)  # fmt: skip

RULES: Mapping[str, Across] = {
    family.name: family.across
    for table in (SERVER, REQUESTS, VERSION, LOADED, SHADOW, DECISIONS, TAKEN_BACK, TRITON, ERRORS)
    for family in table
    if family.across is not None
}
"""How each gauge is put together across processes, by name."""


def _on_gpu(version: LoadedSnapshot) -> bool:
    return "cuda" in version.model.device
