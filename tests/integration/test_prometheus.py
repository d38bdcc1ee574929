"""The shipped Prometheus configuration, rules and dashboard against a real server under ordinary traffic."""

import http.client
import json
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from bench.panels import prometheus as prometheuses
from bench.panels.dashboard import filled, load
from bench.panels.prometheus import DEPLOY, Prometheus
from frostline.pb import inference_pb2, inference_pb2_grpc, predictor_pb2, predictor_pb2_grpc
from tests.support import calls, raw_rows

ROOT = Path(__file__).parents[2]
POLL_S = 0.2
ATTEMPTS = 200
WINDOW = "10s"  # of the dashboard's rates; scrapes come every second here


def eventually(what: str, attempt: Callable[[], Any]) -> Any:
    """The first true answer of `attempt`, asked a bounded number of times."""
    pause = threading.Event()
    for _ in range(ATTEMPTS):
        if answer := attempt():
            return answer
        pause.wait(POLL_S)
    pytest.fail(f"{what}: not after {ATTEMPTS} attempts")


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log`; it is told to stop, and waited for, at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.partition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def write_model(folder: Path) -> None:
    """A network of one dense layer, [N, 4] -> logits [N, 3], that leaves each row's own largest of three."""
    weights = np.eye(4, 3, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "flowers",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"frostline.labels": json.dumps(["setosa", "versicolor", "virginica"])})
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


@dataclass(frozen=True)
class Served:
    """A server's addresses."""

    grpc: str
    metrics: str

    def traffic(self) -> None:
        """Requests of several sizes through both services, and what clients get wrong."""
        with grpc.insecure_channel(self.grpc) as channel:
            predictor = predictor_pb2_grpc.PredictorStub(channel)
            oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            for rows in (1, 3, 8):
                batch = np.random.default_rng(rows).normal(size=(rows, 4)).astype("<f4")
                tensor = predictor_pb2.Tensor(dtype=predictor_pb2.FP32, shape=batch.shape, data=batch.tobytes())
                predictor.Predict(predictor_pb2.PredictRequest(model="flowers", inputs=[tensor]), timeout=10)
                asked = inference_pb2.ModelInferRequest(model_name="flowers", raw_input_contents=[batch.tobytes()])
                asked.inputs.add(name="input", datatype="FP32", shape=batch.shape)
                oip.ModelInfer(asked, timeout=10)
            # As many raw rows as the drift of their columns is told from.
            raw = calls.infer_request("churn", raw_rows.columns_of([raw_rows.ROWS[at % 4] for at in range(50)]))
            for _ in range(4):
                oip.ModelInfer(raw, timeout=10)
            wide = predictor_pb2.Tensor(dtype=predictor_pb2.FP32, shape=[1, 5], data=bytes(20))
            for model, code in (("flowers", grpc.StatusCode.INVALID_ARGUMENT), ("weeds", grpc.StatusCode.NOT_FOUND)):
                with pytest.raises(grpc.RpcError) as refused:
                    predictor.Predict(predictor_pb2.PredictRequest(model=model, inputs=[wide]), timeout=10)
                assert refused.value.code() is code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The real server with one small model, a shadow of it, and one that takes raw rows, on ports of its choosing."""
    folder = tmp_path_factory.mktemp("server")
    log = folder / "log"
    for version in ("1", "2"):
        write_model(folder / "models" / "flowers" / version)
    raw_rows.write(folder / "models")
    (folder / "models" / "flowers" / "rollout.json").write_text('{"labels": {"stable": 1}, "shadow": 2}')
    command = f"-m frostline serve --models {folder}/models --port 0 --metrics-port 0 --device cpu --log-format json"
    # Traced, because of the exemplars; nobody takes the spans.
    traced = ["--traces", "otlp", "--trace-ratio", "1"]
    nobody = ["env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"]
    with running([*nobody, sys.executable, *command.split(), *traced], log) as process:

        def ready() -> dict[str, Any] | None:
            assert process.poll() is None, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
            return next((line for line in lines if line["event"] == "ready"), None)

        event = eventually(f"the server is ready ({log})", ready)
        yield Served(event["address"], event["metrics"].removeprefix("http://").removesuffix("/metrics"))


@pytest.fixture(scope="module")
def prometheus(
    server: Served, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """The real Prometheus, after a few scrapes of the server under traffic, and evaluations of the rules after them."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = prometheuses.configure(folder, {server.metrics: server.metrics})
    server.traffic()
    with prometheuses.running(tool("prometheus"), configuration) as api:

        def scraped() -> bool:
            server.traffic()
            return bool(
                api.values('sum_over_time(up{job="frostline"}[1m]) >= 4')
                and api.values("frostline_shadow_rows_total > 0")
                # The last to be recorded, from what others record.
                and api.values(
                    "model:frostline_latency:burn3d and on (model) model_version:frostline_predictions:drift1h"
                )
            )

        eventually("Prometheus has scraped the server", scraped)
        yield api


@pytest.mark.parametrize(("name", "without"), [("frostline", set()), ("frostline-fleet", {"Certificate valid for"})])
def test_every_query_of_the_dashboard_returns_data(name: str, without: set[str], prometheus: Prometheus) -> None:
    panels = load(DEPLOY / f"grafana/dashboards/{name}.json")["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    assert queries
    empty = {
        title
        for title, expression in queries
        if not any(math.isfinite(value) for value in prometheus.values(filled(expression, WINDOW)))
    }
    # The server has no TLS.
    assert empty == without


def test_every_variable_of_the_dashboards_has_values(prometheus: Prometheus) -> None:
    queries = {
        variable["name"]: re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        for name in ("frostline", "frostline-fleet")
        for variable in load(DEPLOY / f"grafana/dashboards/{name}.json")["templating"]["list"]
        if variable["type"] == "query"
    }
    assert set(queries) == {"job", "instance", "model", "version", "label"}
    found = {}
    for name, query in queries.items():
        assert query
        found[name] = prometheus.ask(f"label/{query[2]}/values", **{"match[]": filled(query[1], WINDOW)})
    assert found["job"] == ["frostline"]
    assert found["model"] == ["churn", "flowers"]
    assert found["version"] == ["1", "2"]
    assert len(found["instance"]) == 1
    assert {"no", "setosa"} <= {*found["label"]}


def test_the_dashboard_shows_a_healthy_server_as_one(prometheus: Prometheus) -> None:
    expressions = {
        panel["title"]: panel["targets"][0]["expr"]
        for panel in load(DEPLOY / "grafana/dashboards/frostline.json")["panels"]
        if panel["type"] == "stat"
    }
    shown = {title: prometheus.values(filled(expression, WINDOW)) for title, expression in expressions.items()}
    [p99_s] = shown.pop("p99 latency")
    assert 0 < p99_s < 10
    assert shown == {
        "Ready": [1],
        "Versions ready": [3],
        "Versions failed": [0],
        "Server errors": [0],
        "Fell back to the CPU": [0],
    }


def test_every_rule_can_be_evaluated_and_a_healthy_server_fires_none(prometheus: Prometheus) -> None:
    files = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["rule_files"]
    groups = [group for file in files for group in yaml.safe_load((DEPLOY / "prometheus" / file).read_text())["groups"]]
    for group in groups:
        for rule in group["rules"]:
            prometheus.values(rule["expr"])
    loaded = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(loaded) == sum(len(group["rules"]) for group in groups)
    assert [rule for rule in loaded if rule.get("lastError")] == []
    assert prometheus.values('ALERTS{alertstate="firing"}') == []


def test_buckets_of_latencies_have_exemplars_with_trace_ids(prometheus: Prometheus) -> None:
    for name in ("request", "queue", "run"):
        found = prometheus.ask("query_exemplars", query=f"frostline_{name}_seconds_bucket", start="0", end=str(2**33))
        labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
        assert labels, name
        assert all(re.fullmatch("[0-9a-f]{32}", each["trace_id"]) for each in labels)


def test_client_mistakes_are_counted_by_code(prometheus: Prometheus) -> None:
    answer = prometheus.ask("query", query="sum by (model, code) (frostline_requests_total) > 0")
    counted = {(sample["metric"].get("model", ""), sample["metric"]["code"]) for sample in answer["result"]}
    assert counted == {("churn", "OK"), ("flowers", "OK"), ("flowers", "INVALID_ARGUMENT"), ("", "NOT_FOUND")}


def test_rows_are_counted_by_the_label_they_were_given(prometheus: Prometheus) -> None:
    answer = prometheus.ask("query", query='frostline_predictions_total{model="flowers"}')
    assert {sample["metric"]["label"] for sample in answer["result"]} <= {"setosa", "versicolor", "virginica"}
    difference = "sum(frostline_predictions_total) - sum(frostline_rows_total)"
    # The last scrape under traffic may have come between the two counts of a batch.
    eventually("every row has a label", lambda: prometheus.values(difference) == [0])


def test_promtool_finds_nothing_to_mend_in_the_metrics_of_our_own(server: Served, tool: Callable[[str], str]) -> None:
    status, page = get(server.metrics, "/metrics")
    own = re.findall(r"^(?:# \w+ )?(?:frostline|process|python)_.*\n", page, flags=re.MULTILINE)
    assert status == 200
    assert own
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input="".join(own), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_guide_lists_every_metric_that_is_served(server: Served) -> None:
    page = get(server.metrics, "/metrics")[1]
    types = dict(re.findall(r"^# TYPE ((?:frostline|nv)_\w+) (\w+)$", page, flags=re.MULTILINE))
    guide = (ROOT / "docs/operating.md").read_text()
    rows = dict(re.findall(r"^\| `((?:frostline|nv)_\w+)(?:\{.*?\})?` \| (\w+) \|", guide, flags=re.MULTILINE))
    only_elsewhere = {name for name in rows if name.startswith(("nv_gpu", "nv_energy", "frostline_process_"))} - set(
        types
    )
    assert types == {name: kind for name, kind in rows.items() if name not in only_elsewhere}
