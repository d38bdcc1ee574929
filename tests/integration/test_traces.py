"""Traces from the client through queue and batch to a collector over real gRPC, and the samplers and settings before them."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from tritonclient.utils import InferenceServerException

from frostline_server.errors import StartError
from tests.support import onnx_models
from tests.support.calls import refused, row_request, stub
from tests.support.http_calls import ask
from tests.support.otlp import Collector, attributes, collecting, joined
from tests.support.servers import TIMEOUT_S, Running, running, until

CLIENT = Path(__file__).parent / "clients" / "tracing.py"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-b7ad6b7169203331-{flags}" for flags in ("01", "00"))
X = np.ones((2, 4), np.float32)
BODY = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(folder, "linear", 1)
    onnx_models.write_artifact(folder, "other", 1)
    return folder


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{opened.port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield opened


def infer(address: str, request: Any = None, **metadata: str) -> Any:
    """Ask over gRPC, with metadata."""
    with grpc.insecure_channel(address) as channel:
        asked = row_request(X) if request is None else request
        return stub(channel).ModelInfer(asked, metadata=tuple(metadata.items()), timeout=TIMEOUT_S)


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_a_clients_span_leads_through_the_request_to_the_batch_it_joined(
    models: Path, collector: Collector, transport: str
) -> None:
    with running(models, traces="otlp", trace_ratio=0.0, transport=transport) as server:
        subprocess.run([sys.executable, CLIENT, server.address], check=True, timeout=TIMEOUT_S)
        # Of each of two clients: its own span around it, its call, the request, the batch.
        spans = collector.until(lambda spans: len(spans) >= 8)
    by_id = {span.span_id: span for span in spans}
    requests = joined(spans)
    assert len(requests) == 2
    for request, batch in requests:
        called = by_id[request.parent_span_id]
        assert called.kind == Span.SPAN_KIND_CLIENT
        assert by_id[called.parent_span_id].name in ("a question", "an asynchronous question")
        assert len({span.trace_id for span in (request, called, by_id[called.parent_span_id])}) == 1
        assert request.name == called.name == "frostline.v1.Predictor/Predict"
        assert request.trace_state == called.trace_state
        assert [link.span_id for link in batch.links] == [request.span_id]
        assert batch.trace_id != request.trace_id
        queue, run, encode = request.events
        assert [event.name for event in request.events] == ["queue", "run", "encode"]
        assert called.start_time_unix_nano <= request.start_time_unix_nano <= queue.time_unix_nano
        assert queue.time_unix_nano <= batch.start_time_unix_nano <= run.time_unix_nano < encode.time_unix_nano
        assert encode.time_unix_nano <= batch.end_time_unix_nano == request.end_time_unix_nano
        assert attributes(called).items() >= {"rpc.system.name": "grpc", "rpc.response.status_code": "OK"}.items()
        assert attributes(request) == attributes(request) | {
            "rpc.system.name": "grpc",
            "rpc.method": "frostline.v1.Predictor/Predict",
            "rpc.response.status_code": "OK",
            "network.peer.address": "127.0.0.1",
            "frostline.model.name": "linear",
            "frostline.model.version": "1",
            "frostline.rows": 2,
        }
        assert attributes(batch).items() >= {"frostline.batch.requests": 1, "frostline.batch.rows": 2}.items()


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_requests_of_a_stream_are_spans_that_link_to_the_batch_they_share(
    models: Path, collector: Collector, transport: str
) -> None:
    with running(models, traces="otlp", trace_ratio=1.0, transport=transport) as server:
        with grpc.insecure_channel(server.address) as channel:
            with server.held("linear") as held:
                requests = [row_request(X, str(number)) for number in range(3)]
                answers = stub(channel).ModelStreamInfer(iter(requests), timeout=TIMEOUT_S)
                held.wait_until_queued(6)
            assert len(list(answers)) == 3
        spans = collector.until(lambda spans: len(joined(spans)) >= 3)
    pairs = joined(spans)
    assert {request.name for request, _ in pairs} == {"inference.GRPCInferenceService/ModelStreamInfer"}
    assert sorted(attributes(request)["frostline.request.id"] for request, _ in pairs) == ["0", "1", "2"]
    (batch,) = {batch.span_id: batch for _, batch in pairs}.values()
    assert {link.span_id for link in batch.links} == {request.span_id for request, _ in pairs}
    assert attributes(batch)["frostline.batch.rows"] == 6


def test_a_request_over_http_is_a_span_of_its_route_below_its_caller(models: Path, collector: Collector) -> None:
    with running(models, traces="otlp", trace_ratio=0.0, http=True) as server:
        url, headers = server.server.http_url, {"traceparent": SAMPLED, "tracestate": "vendor=7"}
        assert ask(url, "/v2/models/linear/versions/1/infer", BODY, headers=headers).status == 200
        assert ask(url, "/v2/models/linear/infer", {"inputs": []}, headers=headers).status == 400
        answered, _, failed = collector.take(3)
    assert answered.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert answered.trace_state == "vendor=7"
    assert (
        attributes(answered).items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v2/models/{model}/versions/{version}/infer",
            "http.response.status_code": 200,
            "url.path": "/v2/models/linear/versions/1/infer",
            "url.scheme": "http",
        }.items()
    )
    assert attributes(failed)["http.response.status_code"] == 400
    assert failed.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_a_span_says_how_a_request_failed_and_whose_fault_it_was(
    models: Path, collector: Collector, transport: str
) -> None:
    with running(models, traces="otlp", trace_ratio=1.0, transport=transport) as server:
        refused(infer, server.address, row_request(X, "7", "nobody"))
        (unknown,) = collector.take(1)
        with server.held("linear"), grpc.insecure_channel(server.address) as channel:
            # While it is queued.
            assert (
                refused(stub(channel).ModelInfer, row_request(X), timeout=0.2)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
            )
            (late,) = collector.take(1)
    assert unknown.status.code == Status.STATUS_CODE_UNSET
    assert (
        attributes(unknown).items()
        >= {
            "rpc.response.status_code": "NOT_FOUND",
            "error.type": "NOT_FOUND",
            "frostline.error.kind": "model_not_found",
            "frostline.model.name": "nobody",
            "frostline.request.id": "7",
        }.items()
    )
    assert (late.status.code, len(late.links), len(late.events)) == (Status.STATUS_CODE_ERROR, 0, 0)
    assert late.status.message == "Deadline exceeded while the request was queued"
    assert attributes(late).items() >= {"error.type": "DEADLINE_EXCEEDED", "frostline.rows": 2}.items()


def test_the_caller_decides_whether_its_request_is_traced(models: Path, collector: Collector) -> None:
    with running(models, traces="otlp", trace_ratio=1.0) as server:
        infer(server.address, traceparent=UNSAMPLED)
        infer(server.address, traceparent="00-broken")
        infer(server.address, traceparent=SAMPLED)
        own, _, called, _ = collector.take(4)
    assert own.parent_span_id == b""
    assert called.trace_id.hex() == TRACE
    assert collector.spans == []


def test_the_standard_variables_say_who_sends_and_what_is_sampled(
    models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "irises")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1.0")
    with running(models, traces="otlp") as server:
        # The sampler looks at the ratio alone.
        infer(server.address, traceparent=UNSAMPLED)
        request, _ = collector.until(lambda spans: len(spans) >= 2)
    assert request.trace_id.hex() == TRACE
    told = {"service.name": "irises", "deployment.environment.name": "staging"}
    assert collector.resources[0].items() >= told.items()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "jaeger_remote")
    with pytest.raises(StartError, match="may be always_on"), running(models, traces="otlp"):
        pass


def test_a_collector_that_is_away_is_told_of_once_and_holds_up_nothing(
    models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with structlog.testing.capture_logs() as lines, running(models, traces="otlp", trace_ratio=1.0) as server:
        for failed in (2, 4):
            infer(server.address)
            until(partial(has_failed, server, failed))
        infer(server.address)
    assert [line["warning"] for line in lines if line["event"] == "traces"] == [
        "the collector does not take traces (OTEL_EXPORTER_OTLP_ENDPOINT); they are lost"
    ]
    assert collector.spans == []


def test_the_last_spans_are_sent_before_the_server_ends(
    models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with running(models, traces="otlp", trace_ratio=1.0) as server:
        infer(server.address)
    assert [span.name for span in collector.spans] == ["inference.GRPCInferenceService/ModelInfer", "batch linear"]


def test_tritons_clients_decide_which_models_are_traced(models: Path, collector: Collector) -> None:
    with running(models, traces="otlp", http=True) as server:
        grpc_client: Any = triton_grpc.InferenceServerClient(server.address)
        http_client: Any = triton_http.InferenceServerClient(server.server.http_url.removeprefix("http://"))
        first = http_client.get_trace_settings()
        assert first == {
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": "100",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": "opentelemetry",
        }
        grpc_client.update_trace_settings("linear", {"trace_rate": "1", "trace_count": "2"})
        http_client.update_trace_settings("other", {"trace_level": ["OFF"]})
        for _ in range(4):
            infer(server.address)
            infer(server.address, row_request(X, model="other"), traceparent=SAMPLED)
        spans = collector.take(4)
        assert [span.name for span in spans[::2]] == ["inference.GRPCInferenceService/ModelInfer"] * 2
        assert {attributes(span)["frostline.model.name"] for span in spans} == {"linear"}
        assert http_client.get_trace_settings("linear")["trace_count"] == "2"
        # Cleared, they are the server's again.
        cleared = http_client.update_trace_settings("linear", {"trace_rate": None, "trace_count": None})
        assert cleared == first
        http_client.update_trace_settings("other", {"trace_level": None})
        infer(server.address, row_request(X, model="other"), traceparent=SAMPLED)
        assert {attributes(span)["frostline.model.name"] for span in collector.take(2)} == {"other"}
        for settings, sentence in {
            "trace_level": ("TENSORS", "traces never hold what requests and answers hold"),
            "trace_mode": ("triton", "the only mode of this server is opentelemetry"),
            "trace_file": ("a.json", "to no file"),
        }.items():
            with pytest.raises(InferenceServerException, match=sentence[1]):
                grpc_client.update_trace_settings(settings={settings: sentence[0]})
        assert http_client.get_trace_settings() == first
        grpc_client.close()
        http_client.close()


def test_a_scrape_of_openmetrics_has_the_latest_trace_of_each_bucket(models: Path, collector: Collector) -> None:
    with running(models, traces="otlp", trace_ratio=0.0) as server:
        infer(server.address)
        infer(server.address, traceparent=SAMPLED)
        collector.take(2)
        until(lambda: "trace_id" in page(server, "application/openmetrics-text"))
        parsed: Any = text_string_to_metric_families
        told = list(parsed(page(server, "application/openmetrics-text")))
        plain = page(server, "text/plain")
    exemplars = {family.name: [sample.exemplar for sample in family.samples if sample.exemplar] for family in told}
    for name in ("frostline_request_seconds", "frostline_queue_seconds", "frostline_run_seconds"):
        (exemplar,) = exemplars[name]
        assert exemplar.labels == {"trace_id": TRACE}
        assert 0 <= exemplar.value < TIMEOUT_S
    in_microseconds = exemplars["nv_inference_request_duration_histogram_us"][0].value
    assert in_microseconds == pytest.approx(1e6 * exemplars["frostline_request_seconds"][0].value)
    assert "trace_id" not in plain
    assert list(plain_families(plain))


@pytest.mark.parametrize("settings", [{"traces": "otlp"}, {"traces": "off"}])
def test_opentelemetry_is_imported_by_a_server_that_traces_and_by_no_other(
    models: Path, settings: dict[str, str]
) -> None:
    asked = f"""
import sys, threading
from pathlib import Path
import numpy as np
from tests.support.http_calls import ask
from tests.support.servers import running
import frostline
with running(Path({str(models)!r}), http=True, **{settings!r}) as server:
    with frostline.connect(server.address) as client:
        client.predict("linear", np.ones((2, 4), np.float32))
    assert ask(server.server.http_url, "/v2/models/linear/infer", {BODY!r}).status == 200
    print("\\nimported:", "opentelemetry" in sys.modules, "recorder" in [thread.name for thread in threading.enumerate()])
"""
    printed = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    traces = settings["traces"] == "otlp"
    assert f"imported: {traces} {traces}" in printed.stdout.splitlines()


def test_traces_without_their_library_are_refused_with_the_remedy(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "frostline_server.telemetry.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartError, match=r"pip install 'frostline\[otel\]'"), running(models, traces="otlp"):
        pass


def page(server: Running, accept: str) -> str:
    """The metrics in a format."""
    asked = urllib.request.Request(f"{server.metrics_url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
        text: str = answer.read().decode()
        return text


def outcomes(server: Running) -> dict[str, float]:
    """Spans by what became of them, as the metrics say it."""
    (family,) = [each for each in plain_families(page(server, "text/plain")) if each.name == "frostline_trace_spans"]
    return {sample.labels["outcome"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def has_failed(server: Running, spans: int) -> bool:
    """Whether so many spans could not be sent."""
    return outcomes(server)["failed"] >= spans
