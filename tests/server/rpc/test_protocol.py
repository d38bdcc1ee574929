"""What any client may send, through both front ends: every bad request gets its status, and nothing else is disturbed."""

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, predictor_pb2, predictor_pb2_grpc
from frostline_server.errors import StartError
from tests.support import onnx_models
from tests.support.calls import refused
from tests.support.servers import TIMEOUT_S, Running, running

LIMIT = 1 << 20
INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/frostline.v1.Predictor/Predict"

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with every kind of model, behind each front end in turn."""
    models = tmp_path_factory.mktemp("models")
    write = onnx_models.write_artifact
    write(models, "linear", 1)
    write(models, "linear", 3)
    write(models, "pair", 1, onnx_models.two_inputs(), golden=False)
    write(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    write(models, "half", 1, onnx_models.half(), golden=False)
    write(models, "single", 1, onnx_models.no_batch_axis(), golden=False, labels=None)
    broken = write(models, "broken", 1)
    (broken / "model.onnx").write_bytes(b"not an ONNX file")
    (models / "both").mkdir()
    write(models, "both", 1)
    (models / "both" / "config.pbtxt").write_text("version_policy { all {} }")
    damaged = write(models, "both", 2)
    (damaged / "golden.npz").write_bytes(b"damaged")
    settings = {"max_batch_size": 8, "max_queue_size": 12, "max_message_bytes": LIMIT, "require": "none"}
    with running(models, transport=request.param, log_level="error", **settings) as instance:
        yield instance


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    """One channel to it, with no limits of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def predictor(channel: grpc.Channel) -> Any:
    return predictor_pb2_grpc.PredictorStub(channel)


def infer_request(x: Array, model: str = "linear", datatype: str = "FP32", **fields: Any) -> pb.ModelInferRequest:
    """A good request for rows `x`."""
    tensor = {"name": "input", "datatype": datatype, "shape": x.shape}
    return pb.ModelInferRequest(model_name=model, **{"inputs": [tensor], "raw_input_contents": [x.tobytes()], **fields})


def predict_request(x: Array, model: str = "linear", **fields: Any) -> predictor_pb2.PredictRequest:
    tensor = {"dtype": "FP32", "shape": x.shape, "data": x.tobytes()}
    return predictor_pb2.PredictRequest(model=model, **{"inputs": [tensor], **fields})


def output(response: pb.ModelInferResponse, name: str) -> Array:
    """An output of a response as an array."""
    dtypes = {"FP32": "<f4", "INT64": "<i8", "FP16": "<f2"}
    index = [tensor.name for tensor in response.outputs].index(name)
    tensor = response.outputs[index]
    return np.frombuffer(response.raw_output_contents[index], dtypes[tensor.datatype]).reshape(tensor.shape)


def assert_still_answers(stub: Any) -> None:
    """A good request on the same channel is answered right."""
    x = onnx_models.rows(3)
    response = stub.ModelInfer(infer_request(x), timeout=TIMEOUT_S)
    np.testing.assert_allclose(output(response, "logits"), onnx_models.logits_of(x), rtol=1e-5)


# Good requests


def test_logits_softmax_and_argmax_are_answered_in_the_order_asked_for(stub: Any) -> None:
    x = onnx_models.rows(5)
    asked = [{"name": name} for name in ("argmax", "softmax", "logits")]
    response = stub.ModelInfer(infer_request(x, id="7", outputs=asked), timeout=TIMEOUT_S)
    logits = onnx_models.logits_of(x)
    assert (response.model_name, response.model_version, response.id) == ("linear", "3", "7")
    assert [tensor.name for tensor in response.outputs] == ["argmax", "softmax", "logits"]
    assert all(not tensor.HasField("contents") for tensor in response.outputs)
    np.testing.assert_allclose(output(response, "logits"), logits, rtol=1e-5)
    np.testing.assert_allclose(output(response, "softmax"), onnx_models.softmax_of(logits), rtol=1e-5)
    np.testing.assert_array_equal(output(response, "argmax"), logits.argmax(axis=1))


def test_a_request_that_names_no_outputs_gets_the_networks_own(stub: Any) -> None:
    response = stub.ModelInfer(infer_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
    assert [tensor.name for tensor in response.outputs] == ["logits"]


@pytest.mark.parametrize(("asked", "answers"), [("", "3"), ("3", "3"), ("latest", "3")])
def test_a_version_is_the_latest_or_the_one_named(stub: Any, asked: str, answers: str) -> None:
    response = stub.ModelInfer(infer_request(onnx_models.rows(1), model_version=asked), timeout=TIMEOUT_S)
    assert response.model_version == answers


@pytest.mark.parametrize(("datatype", "dtype"), [("UINT8", np.uint8), ("INT8", np.int8), ("FP16", np.float16)])
def test_narrow_rows_are_cast_for_a_float_input(stub: Any, datatype: str, dtype: Any) -> None:
    x = np.abs(onnx_models.rows(4)).astype(dtype)
    response = stub.ModelInfer(infer_request(x, datatype=datatype), timeout=TIMEOUT_S)
    np.testing.assert_allclose(output(response, "logits"), onnx_models.logits_of(x), rtol=1e-5)


def test_typed_contents_are_answered_raw(stub: Any) -> None:
    x = onnx_models.rows(2)
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 4], "contents": {"fp32_contents": x.ravel()}}
    response = stub.ModelInfer(pb.ModelInferRequest(model_name="linear", inputs=[tensor]), timeout=TIMEOUT_S)
    np.testing.assert_allclose(output(response, "logits"), onnx_models.logits_of(x), rtol=1e-5)


def test_inputs_may_come_in_any_order(stub: Any) -> None:
    left, right = onnx_models.rows(3), onnx_models.rows(3, 2, 2) + 1
    request = pb.ModelInferRequest(
        model_name="pair",
        inputs=[
            {"name": "right", "datatype": "FP32", "shape": right.shape},
            {"name": "left", "datatype": "FP32", "shape": left.shape},
        ],
        raw_input_contents=[right.tobytes(), left.tobytes()],
    )
    expected = onnx_models.logits_of(left + right.reshape(3, 4))
    np.testing.assert_allclose(output(stub.ModelInfer(request, timeout=TIMEOUT_S), "logits"), expected, rtol=1e-5)


def test_strings_go_in_and_come_back(stub: Any) -> None:
    words = [b"a", "größe".encode(), b"", b"zz"]
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    tensor = {"name": "input", "datatype": "BYTES", "shape": [2, 2]}
    request = pb.ModelInferRequest(model_name="text", inputs=[tensor], raw_input_contents=[raw])
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    assert response.outputs[0].datatype == "BYTES"
    assert list(response.raw_output_contents) == [raw]


def test_half_precision_is_served(stub: Any) -> None:
    x = onnx_models.rows(2).astype(np.float16)
    response = stub.ModelInfer(infer_request(x, "half", "FP16"), timeout=TIMEOUT_S)
    np.testing.assert_allclose(output(response, "logits"), onnx_models.logits_of(x), rtol=1e-2)


def test_a_network_without_a_batch_axis_is_served_as_it_is(stub: Any) -> None:
    x = onnx_models.rows(1)[0]
    response = stub.ModelInfer(infer_request(x, "single"), timeout=TIMEOUT_S)
    np.testing.assert_allclose(output(response, "scores"), onnx_models.logits_of(x[None])[0], rtol=1e-5)


def test_predict_gives_every_reading_with_labels(predictor: Any) -> None:
    x = onnx_models.rows(4)
    response = predictor.Predict(predict_request(x, id="a"), timeout=TIMEOUT_S)
    logits = onnx_models.logits_of(x)
    assert (response.model, response.version, response.id) == ("linear", "3", "a")
    np.testing.assert_allclose(np.frombuffer(response.logits.data, "<f4").reshape(4, 3), logits, rtol=1e-5)
    got = np.frombuffer(response.softmax.data, "<f4").reshape(4, 3)
    np.testing.assert_allclose(got, onnx_models.softmax_of(logits), rtol=1e-5)
    assert list(response.labels) == [onnx_models.LABELS[index] for index in logits.argmax(axis=1)]


def test_predict_ranks_the_most_probable_classes(predictor: Any) -> None:
    x = onnx_models.rows(2)
    request = predict_request(x, top_k=2, outputs=["ARGMAX"])
    response = predictor.Predict(request, timeout=TIMEOUT_S)
    assert not response.HasField("logits")
    for ranking, row in zip(response.top, onnx_models.softmax_of(onnx_models.logits_of(x)), strict=True):
        best = np.argsort(-row, kind="stable")[:2]
        assert [entry.index for entry in ranking.classes] == best.tolist()
        assert [entry.label for entry in ranking.classes] == [onnx_models.LABELS[index] for index in best]
        np.testing.assert_allclose([entry.probability for entry in ranking.classes], row[best], rtol=1e-5)


def test_a_compressed_message_is_understood(stub: Any) -> None:
    response = stub.ModelInfer(infer_request(onnx_models.rows(1)), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert response.model_name == "linear"


# Bad requests: each has its status and message, and the channel goes on


def header(**fields: Any) -> dict[str, Any]:
    return {"name": "input", "datatype": "FP32", "shape": [1, 4], **fields}


ROW = onnx_models.rows(1).tobytes()
BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "unknown model": (
        {"model_name": "nobody"},
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'nobody' is not found",
    ),
    "unknown version": (
        {"model_version": "99"},
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'linear' version 99 is not found",
    ),
    "a version that is no number": (
        {"model_version": "-1"},
        grpc.StatusCode.INVALID_ARGUMENT,
        "failed to get model version from specified version string '-1'",
    ),
    "version not ready": (
        {"model_name": "both", "model_version": "2"},
        grpc.StatusCode.UNAVAILABLE,
        "Request for unknown model: 'both' version 2 is not at ready state",
    ),
    "nothing loaded": (
        {"model_name": "broken"},
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'broken' has no available versions",
    ),
    "wrong dtype": (
        {"inputs": [header(datatype="INT32")]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference input 'input' data-type is 'INT32', but model 'linear' expects 'FP32'",
    ),
    "bf16": (
        {"inputs": [header(datatype="BF16")]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference input 'input' data-type is 'BF16', but model 'linear' expects 'FP32'",
    ),
    "wrong rank": (
        {"inputs": [header(shape=[1, 4, 1])]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected shape for input 'input' for model 'linear'. Expected [-1,4], got [1,4,1].",
    ),
    "no shape": (
        {"inputs": [header(shape=[])]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'input' has no shape but model requires batch dimension",
    ),
    "wrong row shape": (
        {"inputs": [header(shape=[1, 5])]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected shape for input 'input' for model 'linear'. Expected [-1,4], got [1,5].",
    ),
    "negative dimension": (
        {"inputs": [header(shape=[-1, 4])]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected shape for input 'input' for model 'linear'. Expected [-1,4], got [-1,4].",
    ),
    "too many bytes": (
        {"raw_input_contents": [ROW + b"1234"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input byte size mismatch for input 'input' for model 'linear'. Expected 16, got 20",
    ),
    "too few bytes": (
        {"raw_input_contents": [b"1234"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input byte size mismatch for input 'input' for model 'linear'. Expected 16, got 4",
    ),
    "no data": (
        {"raw_input_contents": []},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unable to find data for input tensor 'input'",
    ),
    "missing input": (
        {"inputs": [], "raw_input_contents": []},
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected 1 inputs but got 0 inputs for model 'linear'. Got input(s) [], but missing required input(s) ['input']",
    ),
    "unknown input": (
        {"inputs": [header(name="z")]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference input 'z' for model 'linear'",
    ),
    "duplicate input": (
        {"inputs": [header(), header()], "raw_input_contents": [ROW, ROW]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'input' already exists in request",
    ),
    "unknown output": (
        {"outputs": [{"name": "z"}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference output 'z' for model 'linear'",
    ),
    "the internal output of the metrics": (
        {"outputs": [{"name": "frostline_confidence"}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference output 'frostline_confidence'",
    ),
    "typed and raw mixed": (
        {"inputs": [header(contents={"fp32_contents": [1, 2, 3, 4]})]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "contents field must not be specified when using raw_input_contents",
    ),
    "empty batch": (
        {"inputs": [header(shape=[0, 4])], "raw_input_contents": [b""]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference request batch-size must be >= 1 for 'linear'",
    ),
    "more rows than a batch has": (
        {"inputs": [header(shape=[9, 4])], "raw_input_contents": [ROW * 9]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference request batch-size must be <= 8 for 'linear'",
    ),
    "a sequence": (
        {"parameters": {"sequence_id": {"int64_param": 1}}},
        grpc.StatusCode.UNIMPLEMENTED,
        "parameter 'sequence_id' is not supported",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_the_channel_goes_on(stub: Any, name: str) -> None:
    fields, code, message = BAD[name]
    good = {"model_name": "linear", "inputs": [header()], "raw_input_contents": [ROW]}
    got_code, got_message = refused(
        lambda: stub.ModelInfer(pb.ModelInferRequest(**{**good, **fields}), timeout=TIMEOUT_S)
    )
    assert got_code == code
    assert got_message.startswith(message)
    assert_still_answers(stub)


PREDICT_BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "unknown model": ({"model": "nobody"}, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nobody' is not found"),
    "no dtype": ({"inputs": [{"shape": [1, 4], "data": ROW}]}, grpc.StatusCode.INVALID_ARGUMENT, "input '' for model 'linear' has no dtype"),
    "unknown dtype": ({"inputs": [{"dtype": 77, "shape": [1, 4], "data": ROW}]}, grpc.StatusCode.INVALID_ARGUMENT, "input '' for model 'linear' has no dtype"),
    "unknown input": (
        {"inputs": [{"name": "z", "dtype": "FP32", "shape": [1, 4], "data": ROW}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference input 'z'",
    ),
    "wrong row shape": (
        {"inputs": [{"dtype": "FP32", "shape": [1, 5], "data": ROW}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected shape for input 'input'",
    ),
    "too few bytes": (
        {"inputs": [{"dtype": "FP32", "shape": [1, 4], "data": b""}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input byte size mismatch for input 'input'",
    ),
    "unknown reading": ({"outputs": [9]}, grpc.StatusCode.INVALID_ARGUMENT, "outputs must be LOGITS, SOFTMAX, ARGMAX, VALUES or STATES, got 9"),
    "a network without logits": (
        {"model": "text", "outputs": [predictor_pb2.SOFTMAX]},
        grpc.StatusCode.UNIMPLEMENTED,
        "model 'text' does not choose one of several classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICT_BAD)
def test_a_bad_prediction_is_refused_and_the_channel_goes_on(stub: Any, predictor: Any, name: str) -> None:
    fields, code, message = PREDICT_BAD[name]
    good = {"model": "linear", "inputs": [{"dtype": "FP32", "shape": [1, 4], "data": ROW}]}
    request = predictor_pb2.PredictRequest(**{**good, **fields})
    got_code, got_message = refused(lambda: predictor.Predict(request, timeout=TIMEOUT_S))
    assert got_code == code
    assert got_message.startswith(message)
    assert_still_answers(stub)


def test_an_error_message_names_the_request(stub: Any) -> None:
    request = infer_request(onnx_models.rows(1), model="nobody", id="abc")
    _, message = refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))
    assert message == "[request id: abc] Request for unknown model: 'nobody' is not found"


@pytest.mark.parametrize("method", [INFER, PREDICT])
def test_a_corrupt_message_is_refused_and_the_channel_goes_on(channel: grpc.Channel, stub: Any, method: str) -> None:
    call = channel.unary_unary(method, lambda message: message, lambda message: message)
    code, message = refused(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("the message is not a valid ")
    assert_still_answers(stub)


def test_a_message_over_the_limit_is_refused_and_the_channel_goes_on(stub: Any) -> None:
    request = pb.ModelInferRequest(model_name="linear", inputs=[header()], raw_input_contents=[bytes(LIMIT)])
    code, message = refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message
    assert_still_answers(stub)


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel, stub: Any) -> None:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/Nothing", lambda message: message, lambda message: message
    )
    code, _ = refused(lambda: call(b"", timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert_still_answers(stub)


# Requests that wait


def requests_total(server: Running, code: str) -> float:
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("frostline_requests_total{") and f'code="{code}",model="linear"' in line:
                return float(line.rpartition(" ")[2])
    return 0.0


def test_an_expired_request_never_reaches_the_device_and_its_mates_are_answered(server: Running, stub: Any) -> None:
    x = onnx_models.rows(2)
    before = requests_total(server, "DEADLINE_EXCEEDED") + requests_total(server, "CANCELLED")
    with server.held("linear") as device:
        mate = stub.ModelInfer.future(infer_request(x), timeout=TIMEOUT_S)
        device.wait_until_queued(2)
        code, _ = refused(lambda: stub.ModelInfer(infer_request(onnx_models.rows(1)), timeout=0.05))
        device.wait_until_queued(2)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    np.testing.assert_allclose(output(mate.result(), "logits"), onnx_models.logits_of(x), rtol=1e-5)
    # The client's own timer and the server's race: either way it is counted once, and never as answered.
    assert requests_total(server, "DEADLINE_EXCEEDED") + requests_total(server, "CANCELLED") == before + 1
    assert_still_answers(stub)


def test_a_cancelled_request_never_reaches_the_device_and_its_mates_are_answered(server: Running, stub: Any) -> None:
    x = onnx_models.rows(2)
    before = requests_total(server, "CANCELLED")
    with server.held("linear") as device:
        mate = stub.ModelInfer.future(infer_request(x), timeout=TIMEOUT_S)
        device.wait_until_queued(2)
        gone = stub.ModelInfer.future(infer_request(onnx_models.rows(3)), timeout=TIMEOUT_S)
        device.wait_until_queued(5)
        gone.cancel()
        device.wait_until_queued(2)
    np.testing.assert_allclose(output(mate.result(), "logits"), onnx_models.logits_of(x), rtol=1e-5)
    assert requests_total(server, "CANCELLED") == before + 1
    assert_still_answers(stub)


def test_a_full_queue_refuses_at_once_and_what_waits_is_answered(server: Running, stub: Any) -> None:
    x = onnx_models.rows(6)
    with server.held("linear") as device:
        waiting = [stub.ModelInfer.future(infer_request(x), timeout=TIMEOUT_S) for _ in range(2)]
        device.wait_until_queued(12)
        code, message = refused(lambda: stub.ModelInfer(infer_request(onnx_models.rows(1)), timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert message.startswith("Exceeds maximum queue size")
    for call in waiting:
        np.testing.assert_allclose(output(call.result(), "logits"), onnx_models.logits_of(x), rtol=1e-5)
    assert_still_answers(stub)


def test_batch_mates_of_bad_requests_are_answered_right(server: Running, stub: Any) -> None:
    x = onnx_models.rows(3)
    with server.held("linear") as device, ThreadPoolExecutor(4) as pool:
        mate = stub.ModelInfer.future(infer_request(x), timeout=TIMEOUT_S)
        device.wait_until_queued(3)
        bad: list[Future[Any]] = []
        for fields, _, _ in BAD.values():
            good = {"model_name": "linear", "inputs": [header()], "raw_input_contents": [ROW]}
            request = pb.ModelInferRequest(**{**good, **fields})
            bad.append(pool.submit(refused, stub.ModelInfer, request, timeout=TIMEOUT_S))
        codes = [call.result(TIMEOUT_S)[0] for call in bad]
        device.wait_until_queued(3)
    assert codes == [code for _, code, _ in BAD.values()]
    np.testing.assert_allclose(output(mate.result(), "logits"), onnx_models.logits_of(x), rtol=1e-5)


def test_requests_of_many_callers_share_batches_and_each_gets_its_own_rows(server: Running, stub: Any) -> None:
    sent = [onnx_models.rows(1) + number for number in range(12)]
    dtypes = [("FP32", np.float32), ("FP16", np.float16)]
    with server.held("linear") as device:
        calls = []
        for number, x in enumerate(sent):
            datatype, dtype = dtypes[number % 2]
            asked = [{"name": name} for name in (("logits",), ("argmax",), ("softmax", "logits"))[number % 3]]
            request = infer_request(x.astype(dtype), datatype=datatype, outputs=asked)
            calls.append(stub.ModelInfer.future(request, timeout=TIMEOUT_S))
        device.wait_until_queued(12)
    for x, call in zip(sent, calls, strict=True):
        response, logits = call.result(), onnx_models.logits_of(x)
        names = [tensor.name for tensor in response.outputs]
        if "logits" in names:
            np.testing.assert_allclose(output(response, "logits"), logits, rtol=1e-5)
        if "argmax" in names:
            np.testing.assert_array_equal(output(response, "argmax"), logits.argmax(axis=1))


# Everything but inference


def test_metadata_lists_heads_beside_the_networks_own_output(stub: Any) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="linear"), timeout=TIMEOUT_S)
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("linear", ["3"], "onnxruntime_onnx")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in (*metadata.inputs, *metadata.outputs)] == [
        ("input", "FP32", [-1, 4]),
        ("logits", "FP32", [-1, 3]),
        ("softmax", "FP32", [-1, 3]),
        ("argmax", "INT64", [-1]),
    ]


def test_configuration_is_what_the_model_is_served_with(stub: Any) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="linear"), timeout=TIMEOUT_S).config
    assert (config.name, config.platform, config.max_batch_size) == ("linear", "onnxruntime_onnx", 8)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("input", [4])]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 12
    assert not config.model_transaction_policy.decoupled
    single = stub.ModelConfig(pb.ModelConfigRequest(name="single"), timeout=TIMEOUT_S).config
    assert single.max_batch_size == 0


def test_statistics_count_requests_rows_and_batches(stub: Any) -> None:
    def statistics() -> Any:
        return stub.ModelStatistics(pb.ModelStatisticsRequest(name="linear"), timeout=TIMEOUT_S).model_stats[0]

    before = statistics()
    stub.ModelInfer(infer_request(onnx_models.rows(5)), timeout=TIMEOUT_S)
    refused(lambda: stub.ModelInfer(infer_request(onnx_models.rows(1, 5)), timeout=TIMEOUT_S))
    after = statistics()
    assert after.inference_count == before.inference_count + 5
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert after.last_inference >= before.last_inference
    batches = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert batches[5] >= 1
    assert sum(batches.values()) == after.execution_count


def test_statistics_of_all_models_are_those_that_are_ready(stub: Any) -> None:
    stats = stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=TIMEOUT_S).model_stats
    assert [entry.name for entry in stats] == ["both", "half", "linear", "pair", "single", "text"]
    code, _ = refused(lambda: stub.ModelStatistics(pb.ModelStatisticsRequest(name="nobody"), timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.NOT_FOUND


def test_the_index_lists_every_version_with_its_state_and_reason(stub: Any) -> None:
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    found = {(entry.name, entry.version): (entry.state, entry.reason) for entry in index}
    assert found["linear", "3"] == ("READY", "")
    assert found["broken", "1"][0] == "UNAVAILABLE"
    assert "sha256" in found["broken", "1"][1]
    assert "golden" in found["both", "2"][1]
    ready = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=TIMEOUT_S).models
    assert {entry.state for entry in ready} == {"READY"}


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("linear", "", True), ("linear", "3", True), ("broken", "", False), ("both", "2", False)],
)
def test_model_ready_tells_ready_from_failed(stub: Any, name: str, version: str, *, ready: bool) -> None:
    response = stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=TIMEOUT_S)
    assert response.ready is ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig"])
def test_an_unknown_model_is_not_found_everywhere(stub: Any, method: str) -> None:
    request = getattr(pb, f"{method}Request")(name="nobody")
    code, message = refused(lambda: getattr(stub, method)(request, timeout=TIMEOUT_S))
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nobody' is not found")


def test_the_server_says_who_it_is(stub: Any) -> None:
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=TIMEOUT_S)
    assert metadata.name == "frostline"
    assert "statistics" in metadata.extensions
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready


def test_health_knows_the_server_its_services_and_its_models(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def check(service: str) -> int:
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S).status
        return status

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    services = ("", "inference.GRPCInferenceService", "frostline.v1.Predictor", "linear")
    assert [check(service) for service in services] == [serving] * 4
    assert check("broken") == not_serving
    code, _ = refused(lambda: check("nobody"))
    assert code == grpc.StatusCode.NOT_FOUND


def reflect(channel: grpc.Channel, api: str, *requests: reflection_pb2.ServerReflectionRequest) -> list[Any]:
    """What reflection of a name answers; the messages of both are the same."""
    call = channel.stream_stream(
        f"/grpc.reflection.{api}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=TIMEOUT_S))


@pytest.mark.parametrize("api", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_has_their_contracts(channel: grpc.Channel, api: str) -> None:
    (response,) = reflect(channel, api, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in response.list_services_response.service}
    assert names == {
        "inference.GRPCInferenceService",
        "frostline.v1.Predictor",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(names)]
    for name, response in zip(sorted(names), reflect(channel, api, *asked), strict=True):
        files = map(FileDescriptorProto.FromString, response.file_descriptor_response.file_descriptor_proto)
        assert name in {f"{file.package}.{service.name}" for file in files for service in file.service}


def test_reflection_finds_methods_and_types_by_their_names(channel: grpc.Channel) -> None:
    service = "inference.GRPCInferenceService"
    names = [
        f"{service}.ModelInfer",
        "inference.ModelInferRequest",
        f"{service}.Nothing",
        "inference.Nothing.ModelInfer",
    ]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    method, message, no_method, no_service = reflect(channel, "v1", *asked)
    assert list(method.file_descriptor_response.file_descriptor_proto) == list(
        message.file_descriptor_response.file_descriptor_proto
    )
    assert method.file_descriptor_response.file_descriptor_proto
    assert method.original_request.file_containing_symbol == names[0]
    assert [each.error_response.error_code for each in (no_method, no_service)] == [5, 5]


# Readiness and drain


@pytest.fixture(params=["h2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    front_end: str = request.param
    return front_end


def readyz(server: Running) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{server.metrics_url}/readyz", timeout=TIMEOUT_S) as page:
            return page.status, page.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()


def test_an_altered_golden_sample_fails_the_version_on_every_surface(
    tmp_path: Path, transport: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write_artifact(tmp_path, "good", 1)
    altered = onnx_models.write_artifact(tmp_path, "bad", 1) / "golden.npz"
    with np.load(altered) as archive:
        arrays = dict(archive)
    arrays["logits"][5, 1] += 0.5
    np.savez(altered, **arrays)
    with running(tmp_path, transport=transport) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
        reasons = {entry.name: entry.reason for entry in index}
        assert reasons["good"] == ""
        assert reasons["bad"].startswith(
            "golden check failed: the logits differ from PyTorch's by 0.5 at row 5, class 1"
        )
        with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
            metrics = page.read().decode()
        assert 'frostline_model_state{model="bad",state="FAILED",version="1"} 1.0' in metrics
        assert 'frostline_model_failure_info{model="bad",reason="golden check failed: the logits differ' in metrics
        assert "frostline_ready 0.0" in metrics
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        assert readyz(server) == (503, "required models without a ready version: bad")
        response = stub.ModelInfer(infer_request(onnx_models.rows(1), "good"), timeout=TIMEOUT_S)
        np.testing.assert_allclose(output(response, "logits"), onnx_models.logits_of(onnx_models.rows(1)), rtol=1e-5)


def test_a_model_that_is_not_required_does_not_hold_readiness_back(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "good", 1)
    (onnx_models.write_artifact(tmp_path, "bad", 1) / "golden.npz").write_bytes(b"")
    with running(tmp_path, transport=transport, require="good") as server:
        assert readyz(server) == (200, "ready")


def test_a_required_model_that_is_missing_holds_readiness_back(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "good", 1)
    with running(tmp_path, transport=transport, require="good,absent") as server:
        assert readyz(server) == (503, "required models without a ready version: absent")


def test_draining_turns_unready_refuses_new_requests_and_answers_accepted_ones(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    x = onnx_models.rows(2)
    with running(tmp_path, transport=transport) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="linear"), timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with server.held("linear") as device:
            accepted = stub.ModelInfer.future(infer_request(x), timeout=TIMEOUT_S)
            device.wait_until_queued(2)
            drained = server.begin_drain()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert readyz(server) == (503, "draining")
            code, message = refused(lambda: stub.ModelInfer(infer_request(x), timeout=TIMEOUT_S))
            assert code == grpc.StatusCode.UNAVAILABLE
            assert message.startswith("Server is stopping")
            watch.cancel()
        np.testing.assert_allclose(output(accepted.result(), "logits"), onnx_models.logits_of(x), rtol=1e-5)
        assert drained.result(TIMEOUT_S)


def test_what_is_still_queued_when_the_grace_ends_is_told_so(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=transport, grace_s=0.05) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with server.held("linear") as device:
            accepted = stub.ModelInfer.future(infer_request(onnx_models.rows(2)), timeout=TIMEOUT_S)
            device.wait_until_queued(2)
            drained = server.begin_drain()
            assert accepted.code() == grpc.StatusCode.UNAVAILABLE
            assert accepted.details().startswith("Server is stopping")
        assert not drained.result(TIMEOUT_S)


def test_an_empty_folder_is_served_and_ready(tmp_path: Path, transport: str) -> None:
    with running(tmp_path, transport=transport) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        assert not stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models


def test_a_server_on_a_unix_socket_answers(tmp_path: Path, transport: str) -> None:
    models = tmp_path / "models"
    onnx_models.write_artifact(models, "linear", 1)
    address = f"unix:{tmp_path}/frostline.sock"
    with running(models, transport=transport, host=address) as server, grpc.insecure_channel(server.address) as channel:
        assert server.address == address
        assert_still_answers(inference_pb2_grpc.GRPCInferenceServiceStub(channel))


def test_open_watches_and_half_sent_calls_do_not_hold_a_stop_up(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=transport, grace_s=TIMEOUT_S) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        next(watch)
        silence = threading.Event()
        half_sent = channel.stream_unary(INFER, bytes, bytes).future(nothing_until(silence), timeout=TIMEOUT_S)
        # It ends well before the grace does, or this result comes too late.
        assert server.begin_drain().result(TIMEOUT_S / 4)
        silence.set()
        assert half_sent.code() != grpc.StatusCode.OK


def nothing_until(event: threading.Event) -> Iterator[bytes]:
    """A request stream that stays open and empty."""
    event.wait(TIMEOUT_S)
    yield from ()


@pytest.mark.parametrize(
    "method", ["ServerReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"]
)
def test_a_corrupt_question_is_refused_as_a_corrupt_request_is(channel: grpc.Channel, stub: Any, method: str) -> None:
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", bytes, bytes)
    code, message = refused(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(f"the message is not a valid inference.{method}Request")
    assert_still_answers(stub)


@pytest.mark.parametrize("letter", ["x", "ä", "😀"])
def test_a_long_name_or_id_in_an_error_does_not_change_its_status(stub: Any, letter: str) -> None:
    request = infer_request(onnx_models.rows(1), model=letter * 100_000, id=letter * 100_000)
    code, message = refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.NOT_FOUND
    assert message.startswith(f"[request id: {letter}")
    assert_still_answers(stub)


def refusal(models: Path, words: str, **settings: Any) -> str:
    """The sentence with these words with which a server does not start."""
    instance = Running(models, **settings)
    try:
        with pytest.raises(StartError, match=words) as caught:
            instance.start()
    finally:
        instance.close_loop()
    return str(caught.value)


@pytest.mark.parametrize("taken", ["port", "metrics_port", "admin_port"])
def test_a_port_that_is_taken_stops_the_start_in_one_sentence(tmp_path: Path, transport: str, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refusal(tmp_path, f"cannot listen on 127.0.0.1:{port}", transport=transport, **{taken: port})
    assert "Address already in use" in told
    assert f"; --{taken.replace('_', '-')}" in told


@pytest.mark.parametrize("setting", ["host", "admin_host"])
def test_an_address_of_another_machine_stops_the_start_and_is_named(
    tmp_path: Path, transport: str, setting: str
) -> None:
    settings: dict[str, Any] = {"admin_port": 0, setting: "192.0.2.1"}
    told = refusal(tmp_path, f"--{setting.replace('_', '-')} another address", transport=transport, **settings)
    assert "assign requested address" in told


def test_files_that_hold_no_certificate_stop_the_start_in_one_sentence(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("not PEM")
    instance = Running(tmp_path, tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")
    try:
        with pytest.raises(StartError, match="tls_cert and tls_key are not a certificate and its private key"):
            instance.start()
    finally:
        instance.close_loop()


def test_a_server_with_tls_answers_those_who_trust_its_certificate(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path / "models", "linear", 1)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    (tmp_path / "cert").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files = {"tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with running(tmp_path / "models", **files) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        with grpc.secure_channel(address, credentials) as channel:
            assert_still_answers(inference_pb2_grpc.GRPCInferenceServiceStub(channel))


def test_a_burst_of_short_calls_is_answered_whole(channel: grpc.Channel, stub: Any) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    calls = [health.Check.future(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S) for _ in range(500)]
    calls += [stub.ServerLive.future(pb.ServerLiveRequest(), timeout=TIMEOUT_S) for _ in range(500)]
    assert {call.code() for call in calls} == {grpc.StatusCode.OK}
