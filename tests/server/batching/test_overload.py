"""What clients see of a model with an slo, through both front ends: refused at once, told when to come back, and nobody else disturbed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import frostline
from frostline.client.errors import Overloaded
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running

LONG_MS = 60_000
CONFIG = 'parameters {{ key: "slo_ms" value {{ string_value: "{}" }} }}'


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose models have a limit of a minute, except for `free`, which has none, and `never`, which nothing meets."""
    models = tmp_path_factory.mktemp("models")
    for name, limit in {"linear": "", "second": "", "free": "0", "never": "0.0001"}.items():
        onnx_models.write_artifact(models, name)
        if limit:
            (models / name / "config.pbtxt").write_text(CONFIG.format(limit))
    with running(models, transport=request.param, log_level="error", slo_ms=LONG_MS) as instance:
        yield instance


@pytest.fixture
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(model: str, rows: int = 1) -> pb.ModelInferRequest:
    x = onnx_models.rows(rows)
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[x.tobytes()], id="7")


def logits_of(response: pb.ModelInferResponse) -> Any:
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


def trailers_of(error: Any) -> dict[str, str]:
    return dict(error.trailing_metadata())


def assert_answered(call: Any, rows: int) -> None:
    expected = onnx_models.logits_of(onnx_models.rows(rows))
    np.testing.assert_allclose(logits_of(call.result(TIMEOUT_S)), expected, rtol=1e-5)


def refuse_next(server: Running, model: str) -> None:
    """Make the model's estimate of a run so high that nothing waits behind another."""
    admission = server.server.repository.get(model, "").admission
    assert admission is not None
    for _ in range(100):
        admission.learn(1, 0.0, 0.0, LONG_MS / 1000, LONG_MS / 1000)


def test_a_model_with_an_slo_answers_as_any_other(stub: Any) -> None:
    calls = [stub.ModelInfer.future(request_of(model, 3), timeout=TIMEOUT_S) for model in ("linear", "free") * 10]
    for call in calls:
        assert_answered(call, 3)


def test_what_would_be_late_is_refused_at_once_and_told_when_to_come_back(server: Running, stub: Any) -> None:
    with server.held("linear") as held:
        waiting = stub.ModelInfer.future(request_of("linear"), timeout=TIMEOUT_S)
        held.wait_until_queued(1)
        refuse_next(server, "linear")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request_of("linear"), timeout=TIMEOUT_S)
        others = stub.ModelInfer.future(request_of("free"), timeout=TIMEOUT_S)
        assert_answered(others, 1)
        assert not waiting.done()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == (
        "[request id: 7] Overloaded: an answer within 60000 ms (slo_ms) cannot be expected now; retry later"
    )
    trailers = trailers_of(caught.value)
    assert int(trailers["retry-pushback-ms"]) >= LONG_MS / 2
    if server.config.transport == "grpcio":
        assert trailers["grpc-retry-pushback-ms"] == trailers["retry-pushback-ms"]
    snapshot = server.server.repository.get("linear", "").stats.snapshot()
    assert snapshot.codes["RESOURCE_EXHAUSTED"] >= 1
    assert snapshot.reasons["REJECTED"] >= 1


def test_what_waited_and_cannot_be_in_time_any_more_is_refused_without_a_run(server: Running, stub: Any) -> None:
    served = server.server.repository.get("second", "")
    with server.held("second") as held:
        waiting = stub.ModelInfer.future(request_of("second"), timeout=TIMEOUT_S)
        held.wait_until_queued(1)
        refuse_next(server, "second")
        ran = served.stats.snapshot().executions
    with pytest.raises(grpc.RpcError) as caught:
        waiting.result(TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "retry-pushback-ms" in trailers_of(caught.value)
    assert served.stats.snapshot().executions == ran + 1, "only what held the device ran"
    assert served.admission is not None
    assert served.admission.shed == 1


def test_the_client_names_an_overload_as_one(server: Running) -> None:
    with frostline.connect(server.address) as client:
        client.predict("never", onnx_models.rows(1))
        with pytest.raises(Overloaded, match="more to do than its limit allows") as caught:
            client.predict("never", onnx_models.rows(1))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_a_model_without_an_slo_has_nobody_who_counts_time(server: Running) -> None:
    assert server.server.repository.get("free", "").admission is None
    assert server.server.repository.get("linear", "").admission is not None


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1e9"])
def test_a_limit_that_is_no_number_fails_the_version(tmp_path: Path, text: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "linear" / "config.pbtxt").write_text(CONFIG.format(text))
    with running(tmp_path, log_level="error", require="none") as instance:
        (version,) = instance.server.repository.versions()
        assert version.state == "FAILED"
        assert version.reason == f"config.pbtxt sets slo_ms '{text}'; it must be a number in range [0, 3.6e+06]"
