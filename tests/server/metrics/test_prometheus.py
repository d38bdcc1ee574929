"""The page Prometheus scrapes: the names the contract promises, Triton's names bare, and the numbers behind both."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.batching.admission import AdmissionController, Costs
from frostline_server.errors import InvalidInput, ModelNotFound, Overloaded, QueueFull
from frostline_server.metrics.families import REASONS, STATES, Network, Sources
from frostline_server.metrics.prometheus import register
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.predictions import Predictions
from frostline_server.model.sample_rows import RecentRow
from frostline_server.model.shadow import DIFFERENCE, Counts, Tap
from frostline_server.model.stats import Histogram, ModelStats, Unrouted
from frostline_server.repository.registry import ModelVersion, Repository
from tests.support.puppet import make_entry

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

OWN = {
    "frostline_requests", "frostline_request_seconds", "frostline_queue_seconds", "frostline_run_seconds",
    "frostline_batch_rows", "frostline_rows", "frostline_queue_rows", "frostline_model_state",
    "frostline_model_failure_info", "frostline_model_info", "frostline_model_load_seconds", "frostline_predictions",
    "frostline_prediction_confidence", "frostline_input_missing", "frostline_input_unknown", "frostline_input_outside",
    "frostline_input_drift", "frostline_ready", "frostline_repository_last_look_timestamp_seconds",
    "frostline_build_info", "frostline_device_fallback", "frostline_certificate_expiry_timestamp_seconds",
    "frostline_shadow_rows", "frostline_shadow_disagreements", "frostline_shadow_dropped_rows",
    "frostline_shadow_failed_rows", "frostline_shadow_logit_difference",
    "frostline_rollout_decisions", "frostline_canary_taken_back_info",
    "frostline_model_healthy", "frostline_shed", "frostline_run_slowness", "frostline_overdue_runs", "frostline_hanging_runs",
    "frostline_model_bound_bytes", "frostline_model_cuda_graphs", "frostline_scrape_errors",
    "frostline_network_bytes", "frostline_network_limit_bytes", "frostline_connections", "frostline_network_refused",
    "frostline_trace_spans", "frostline_access_log_lines", "frostline_log_lines_lost",
}  # fmt: skip
TRITON = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count", "nv_model_load_duration_secs", "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes",
}  # fmt: skip
TRITON_HISTOGRAMS = {
    "nv_inference_request_duration_histogram_us",
    "nv_inference_queue_duration_histogram_us",
    "nv_inference_compute_infer_duration_histogram_us",
}


def view(
    name: str = "digits",
    version: str = "3",
    state: str = "READY",
    reason: str = "",
    stats: ModelStats | None = None,
    *,
    predictions: Predictions | None = None,
    healthy: bool = True,
    sessions: Sequence[Any] = (SimpleNamespace(provider="CPUExecutionProvider", device="cpu"),),
    admission: AdmissionController | None = None,
) -> ModelVersion:
    """A version as the registry has it; what a loaded one answers with is a stand-in."""
    known = ModelVersion(name, version, Path(), ModelConfig(), state=state, reason=reason, load_s=1.25)
    if state in ("READY", "UNLOADING"):
        known.served = LoadedModel(
            name=name,
            version=version,
            config=ModelConfig(),
            stats=stats or ModelStats(),
            predictions=predictions or Predictions(),
            sessions=sessions,
            codec=cast("Any", None),
            batcher=cast(
                "Any",
                SimpleNamespace(
                    queued_rows=7, queued_requests=3, fault="", hanging=1, overdue={"ended": 2, "given_up": 1}
                ),
            ),
            batching=cast("Any", None),
            golden=cast("Any", object()),
            probe_row=None,
            recent=RecentRow(),
            sha256="abc",
            labels=None,
            fell_back=False,
            tap=Tap(),
            admission=admission,
            probe_fault="" if healthy else "dead",
        )
    return known


NETWORK = Network(held=12, limit=100, connections=3, refused={"flood": 2, "network_full": 5})


def server_of(*versions: ModelVersion, ready: Callable[[], bool] = lambda: True, fallback: bool = False) -> Sources:
    repository = Repository()
    for version in versions:
        repository.put(version)
    return Sources(
        repository,
        Unrouted(),
        "1.2.3",
        "h2",
        ready,
        fell_back=lambda: fallback,
        network=lambda: NETWORK,
        last_look=lambda: 1.5e9,
        certificate_expiry=lambda: 1.9e9,
    )


def page_of(server: Sources) -> str:
    registry = CollectorRegistry()
    register(registry, server)
    return generate_latest(registry).decode()


def families_of(server: Sources) -> list[Metric]:
    return list(text_string_to_metric_families(page_of(server)))


def samples_of(server: Sources) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families_of(server)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def values(samples: Samples, name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(labels), number) for (found, labels), number in samples.items() if found == name]


def busy() -> ModelStats:
    """Two requests with three rows in one batch, one refused, one invalid."""
    stats = ModelStats()
    entries = [make_entry(np.zeros((1, 1), np.float32), reply=lambda group: None) for _ in range(2)]
    stats.batch(entries, rows=3, started_s=0.5, assembled_s=0.75, ran_s=2.75, finished_s=3.0)
    stats.failed(QueueFull(""))
    stats.failed(InvalidInput(""))
    return stats


def test_a_model_with_an_slo_tells_what_it_refused_and_how_slow_runs_are() -> None:
    admission = AdmissionController(0.01, Costs({1: 0.02}, 1))
    entry = make_entry(np.zeros((1, 1), np.float32), reply=lambda group: None)
    entry.arrived_s = 0.0
    admission.took("device", 0.0, 1)
    with pytest.raises(Overloaded):
        admission.admit(entry, 0)
    samples = samples_of(server_of(view(admission=admission), view("other")))
    of = {"model": "digits", "version": "3"}
    assert value(samples, "frostline_shed_total", **of, when="arrival") == 1
    assert value(samples, "frostline_shed_total", **of, when="queued") == 0
    assert value(samples, "frostline_run_slowness", **of) == 1
    assert {labels["model"] for labels, _ in values(samples, "frostline_run_slowness")} == {"digits"}


def test_the_families_are_exactly_those_that_are_promised() -> None:
    families = {family.name for family in families_of(server_of(view()))}
    assert {name for name in families if not name.startswith("nv_gpu") and name != "nv_energy_consumption"} == (
        OWN | TRITON | TRITON_HISTOGRAMS
    )


def test_a_device_that_fails_its_probe_shows() -> None:
    samples = samples_of(server_of(view(), view(version="4", healthy=False)))
    assert value(samples, "frostline_model_healthy", model="digits", version="3") == 1
    assert value(samples, "frostline_model_healthy", model="digits", version="4") == 0


def test_the_page_is_also_valid_as_open_metrics() -> None:
    registry = CollectorRegistry()
    register(registry, server_of(view(stats=busy()), view("broken", state="FAILED", reason='no "such" file\n')))
    page = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]  # this part has no annotations
    families = {family.name for family in parse_openmetrics(page)}  # type: ignore[no-untyped-call]  # nor this
    assert families >= OWN | TRITON


def test_every_family_explains_itself() -> None:
    assert [family.name for family in families_of(server_of(view())) if not family.documentation] == []


def test_an_empty_repository_still_shows_the_server() -> None:
    samples = samples_of(server_of())
    assert value(samples, "frostline_ready") == 1
    assert value(samples, "frostline_repository_last_look_timestamp_seconds") == 1.5e9
    assert values(samples, "frostline_requests_total") == []


def test_requests_are_counted_by_status_with_those_that_rules_read_from_the_start() -> None:
    samples = samples_of(server_of(view(stats=busy()), view("quiet", "1")))
    requests = {(labels["model"], labels["code"]): n for labels, n in values(samples, "frostline_requests_total")}
    rules = Path("deploy/prometheus/rules.yml").read_text(encoding="utf-8")
    (read,) = set(re.findall(r'code=~"([A-Z_|]+)"', rules))
    assert {code for model, code in requests if model == "quiet"} == {"OK", *read.split("|")}
    assert {each: count for each, count in requests.items() if count} == {
        ("digits", "OK"): 2,
        ("digits", "UNAVAILABLE"): 1,
        ("digits", "INVALID_ARGUMENT"): 1,
    }


def test_requests_for_no_known_model_have_empty_labels() -> None:
    server = server_of(view())
    server.unrouted.failed(ModelNotFound(""))
    samples = samples_of(server)
    assert value(samples, "frostline_requests_total", model="", version="", code="NOT_FOUND") == 1


def test_rows_predictions_and_histograms_are_those_of_the_version() -> None:
    predictions = Predictions(["ant", "bee"])
    predictions.add(np.array([1, 1, 0]), np.array([0.9, 0.75, 0.7], np.float32))
    samples = samples_of(server_of(view(stats=busy(), predictions=predictions)))
    of = {"model": "digits", "version": "3"}
    assert value(samples, "frostline_rows_total", **of) == 3
    assert value(samples, "frostline_predictions_total", **of, label="ant") == 1
    assert value(samples, "frostline_predictions_total", **of, label="bee") == 2
    assert value(samples, "frostline_batch_rows_bucket", **of, le="2") == 0
    assert value(samples, "frostline_batch_rows_bucket", **of, le="4") == 1
    assert value(samples, "frostline_run_seconds_sum", **of) == 2.0
    assert value(samples, "frostline_run_seconds_count", **of) == 1
    assert value(samples, "frostline_request_seconds_count", **of) == 2
    assert value(samples, "frostline_queue_seconds_sum", **of) == 1.0
    assert value(samples, "frostline_prediction_confidence_count", **of) == 3
    assert value(samples, "frostline_prediction_confidence_bucket", **of, le="0.8") == 2
    assert value(samples, "frostline_queue_rows", **of) == 7
    assert value(samples, "frostline_model_load_seconds", **of) == 1.25


def test_predictions_are_counted_at_the_scrape_even_while_few_batches_have_run() -> None:
    predictions = Predictions()
    server = server_of(view(predictions=predictions))
    predictions.add(np.array([1]), np.array([1.0]))
    assert values(samples_of(server), "frostline_predictions_total")[0][1] == 1
    predictions.add(np.array([1]), np.array([1.0]))
    assert values(samples_of(server), "frostline_predictions_total")[0][1] == 2


def test_a_version_says_what_it_runs_on() -> None:
    samples = samples_of(server_of(view()))
    assert values(samples, "frostline_model_info") == [
        (
            {
                "model": "digits", "version": "3", "provider": "CPUExecutionProvider", "device": "cpu",
                "sha256": "abc", "verified": "true",
            },
            1,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_a_version_is_in_exactly_one_state(state: str) -> None:
    samples = samples_of(server_of(view(state=state)))
    states = {labels["state"]: number for labels, number in values(samples, "frostline_model_state")}
    assert states == {name: float(name == state) for name in ("LOADING", "READY", "UNLOADING", "FAILED")}


def test_a_failed_version_is_shown_with_its_reason() -> None:
    samples = samples_of(server_of(view("broken", "2", "FAILED", 'logits differ: "0.5"\n')))
    assert values(samples, "frostline_model_failure_info") == [
        ({"model": "broken", "version": "2", "reason": 'logits differ: "0.5"\n'}, 1)
    ]


@pytest.mark.parametrize("state", ["LOADING", "FAILED"])
def test_a_version_that_is_not_loaded_has_no_numbers_it_never_had(state: str) -> None:
    samples = samples_of(server_of(view(state=state)))
    for name in ("frostline_model_info", "frostline_model_load_seconds", "nv_inference_count"):
        assert values(samples, name) == []


def test_a_version_that_drains_still_shows_its_numbers() -> None:
    samples = samples_of(server_of(view(state="UNLOADING", stats=busy())))
    assert value(samples, "nv_inference_count", model="digits", version="3") == 3


def test_what_a_version_holds_of_a_gpu_is_shown_where_it_is_on_one() -> None:
    gpus = [
        SimpleNamespace(provider="CUDAExecutionProvider", device=f"cuda:{index}", bound=bound, cuda_graphs=7)
        for index, bound in enumerate([SimpleNamespace(bytes=4096), None])
    ]
    samples, of = samples_of(server_of(view(sessions=gpus), view("iris"))), {"model": "digits", "version": "3"}
    assert values(samples, "frostline_model_bound_bytes") == [(of, 4096)]
    assert values(samples, "frostline_model_cuda_graphs") == [(of, 14)]


def test_versions_that_did_not_fail_have_no_failure() -> None:
    assert values(samples_of(server_of(view())), "frostline_model_failure_info") == []


def test_tritons_names_have_no_suffix() -> None:
    samples = samples_of(server_of(view(stats=busy())))
    names = {name for name, _ in samples}
    assert names >= TRITON
    assert not {f"{name}_total" for name in TRITON} & names
    assert "# TYPE nv_inference_count untyped" in page_of(server_of(view()))


def test_tritons_counters_agree_with_ours() -> None:
    samples = samples_of(server_of(view(stats=busy())))
    of = {"model": "digits", "version": "3"}
    assert value(samples, "nv_inference_request_success", **of) == 2
    assert value(samples, "nv_inference_count", **of) == 3
    assert value(samples, "nv_inference_exec_count", **of) == 1
    assert value(samples, "nv_inference_pending_request_count", **of) == 3
    assert value(samples, "nv_model_load_duration_secs", **of) == 1.25
    assert value(samples, "nv_inference_request_duration_us", **of) == 6_000_000
    assert value(samples, "nv_inference_queue_duration_us", **of) == 1_000_000
    assert value(samples, "nv_inference_compute_input_duration_us", **of) == 500_000
    assert value(samples, "nv_inference_compute_infer_duration_us", **of) == 4_000_000
    assert value(samples, "nv_inference_compute_output_duration_us", **of) == 500_000
    assert value(samples, "nv_inference_compute_infer_duration_histogram_us_sum", **of) == 2_000_000
    assert value(samples, "nv_inference_compute_infer_duration_histogram_us_bucket", **of, le="2500000") == 1
    assert value(samples, "nv_inference_compute_infer_duration_histogram_us_bucket", **of, le="1000000") == 0


def test_tritons_failures_have_all_four_reasons_from_the_start() -> None:
    samples = samples_of(server_of(view(stats=busy())))
    failures = {labels["reason"]: number for labels, number in values(samples, "nv_inference_request_failure")}
    assert failures == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
    assert set(failures) == set(REASONS)


def test_readiness_and_models_are_asked_at_every_scrape() -> None:
    states = iter([True, False])
    server = server_of(ready=lambda: next(states), fallback=True)
    first, second = samples_of(server), samples_of(server)
    assert (value(first, "frostline_ready"), value(second, "frostline_ready")) == (1, 0)
    assert value(first, "frostline_device_fallback") == 1
    assert value(first, "frostline_build_info", version="1.2.3", transport="h2") == 1


def test_the_network_shows_what_is_held_and_what_was_refused() -> None:
    samples = samples_of(server_of())
    assert value(samples, "frostline_network_bytes") == 12
    assert value(samples, "frostline_network_limit_bytes") == 100
    assert value(samples, "frostline_connections") == 3
    assert value(samples, "frostline_network_refused_total", reason="flood") == 2
    assert value(samples, "frostline_network_refused_total", reason="network_full") == 5


def test_a_shadow_shows_how_often_and_by_how_much_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = Histogram(DIFFERENCE)
    for seen in (0.0, 0.002, 3.0, 400.0):
        difference.observe(seen)
    server = server_of(view())
    shadows = [("digits", "4", "3", Counts(4, 1, 7, 2, difference))]
    monkeypatch.setattr(server.repository, "shadows", lambda: shadows)
    samples = samples_of(server)
    of = {"model": "digits", "version": "4", "live_version": "3"}
    assert value(samples, "frostline_shadow_rows_total", **of) == 4
    assert value(samples, "frostline_shadow_disagreements_total", **of) == 1
    assert value(samples, "frostline_shadow_dropped_rows_total", **of) == 7
    assert value(samples, "frostline_shadow_failed_rows_total", **of) == 2
    assert value(samples, "frostline_shadow_logit_difference_count", **of) == 4
    assert value(samples, "frostline_shadow_logit_difference_sum", **of) == pytest.approx(403.002)
    assert value(samples, "frostline_shadow_logit_difference_bucket", **of, le="0.0025") == 2
    assert value(samples, "frostline_shadow_logit_difference_bucket", **of, le="100") == 3


def test_without_a_shadow_there_are_no_numbers_of_one() -> None:
    samples = samples_of(server_of(view()))
    assert [name for name, _ in samples if name.startswith("frostline_shadow")] == []


def test_two_servers_in_one_process_have_registries_of_their_own() -> None:
    one, two = server_of(view(stats=busy())), server_of(view())
    assert value(samples_of(one), "frostline_rows_total", model="digits", version="3") == 3
    assert value(samples_of(two), "frostline_rows_total", model="digits", version="3") == 0


def dead() -> int:
    raise RuntimeError("the queue is gone")


def broken() -> ModelVersion:
    """A version whose queue cannot be asked, in the middle of others."""
    version = view("broken", stats=busy())
    assert version.served is not None
    gone = property(lambda self: dead())
    version.served.batcher = cast(
        "Any",
        type(
            "Batcher",
            (),
            {
                "queued_rows": gone,
                "queued_requests": gone,
                "fault": "",
                "hanging": 1,
                "overdue": {"ended": 2, "given_up": 1},
            },
        )(),
    )
    return version


def test_a_family_that_fails_for_one_model_is_left_out_for_that_model_only() -> None:
    server = server_of(view("ant"), broken(), view("cat"))
    samples = samples_of(server)
    whole = samples_of(server_of(view("ant"), view("broken", stats=busy()), view("cat")))
    missing = {name for name, labels in whole.keys() - samples.keys() if dict(labels)["model"] == "broken"}
    assert missing == {"frostline_queue_rows", "nv_inference_pending_request_count"}
    assert len(whole) == len(samples) + len(missing)


def test_families_that_are_left_out_are_counted_and_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    registry = CollectorRegistry()
    register(registry, server_of(broken()))
    counts = [registry.get_sample_value("frostline_scrape_errors_total") for _ in range(3)]
    # What a scrape leaves out is in its own count.
    assert counts == [2, 4, 6]
    told = capsys.readouterr().out
    assert told.count("a metric was left out") == 2
    assert "the queue is gone" in told


def test_a_scrape_without_errors_says_so() -> None:
    assert value(samples_of(server_of(view())), "frostline_scrape_errors_total") == 0


def test_text_that_utf8_cannot_hold_takes_only_its_own_family_from_the_page() -> None:
    bad = view("bad", "1", "FAILED", reason=f"no such file: {os.fsdecode(b'caf' + bytes([0xE9]))}")
    samples = samples_of(server_of(bad, view()))
    assert values(samples, "frostline_model_failure_info") == []
    assert value(samples, "frostline_model_state", model="bad", version="1", state="FAILED") == 1
    assert value(samples, "frostline_rows_total", model="digits", version="3") == 0
    assert value(samples, "frostline_scrape_errors_total") == 1


def test_a_histogram_is_taken_at_the_same_moment_as_the_totals() -> None:
    stats = busy()
    server = server_of(view(stats=stats))
    (version,) = server.repository.snapshot()
    stats.batch([], rows=5, started_s=0.0, assembled_s=0.0, ran_s=1.0, finished_s=1.0)
    assert version.loaded is not None
    assert (version.loaded.stats.rows, version.loaded.stats.batch_rows.count) == (3, 1)


def test_what_cannot_be_read_of_the_machine_takes_nothing_else_from_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(_: str) -> int:
        raise OSError(24, "Too many open files")

    registry = CollectorRegistry()
    register(registry, server_of())
    monkeypatch.setattr(os, "sysconf", no_more_files)
    page = {family.name: family for family in registry.collect()}
    assert {"frostline_ready", "nv_cpu_utilization"} <= page.keys()
    assert "nv_cpu_memory_total_bytes" not in page
    assert page["frostline_scrape_errors"].samples[0].value == 1
