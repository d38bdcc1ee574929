"""The kind of an error as clients see it, through both front ends: in the trailing metadata of every method's refusals."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import frostline
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.pb import predictor_pb2_grpc
from frostline.protocol import ERROR_KIND
from tests.support import onnx_models
from tests.support.calls import row_request, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import Conversation

NOT_READY = "queue-router"
"""A model that failed to load, with a name that once made its errors those of a full queue."""


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "lookup", 1, onnx_models.lookup(), golden=False, labels=None)
    onnx_models.write_artifact(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    (onnx_models.write_artifact(models, NOT_READY, 1) / "model.onnx").write_bytes(b"not an ONNX file")
    settings = {"max_batch_size": 8, "max_queue_size": 12, "max_message_bytes": 1 << 20, "require": "none"}
    with running(models, transport=request.param, log_level="error", **settings) as instance:
        yield instance


Ask = Callable[[grpc.Channel], Any]


def called(method: str, request: Any) -> Ask:
    return lambda channel: getattr(stub(channel), method)(request, timeout=TIMEOUT_S)


def inferred(x: Any, model: str = "linear", **fields: Any) -> Ask:
    return called("ModelInfer", row_request(x, model=model, **fields))


def predicted(model: str, x: Any, **fields: Any) -> Ask:
    tensor = typed.Tensor(dtype=typed.FP32, shape=x.shape, data=x.tobytes())
    request = typed.PredictRequest(model=model, inputs=[tensor], **fields)
    return lambda channel: predictor_pb2_grpc.PredictorStub(channel).Predict(request, timeout=TIMEOUT_S)


ROW = onnx_models.rows(1)
TOKENS = np.array([[9, 0]], np.int64)
SEQUENCE = {"sequence_id": pb.InferParameter(int64_param=7)}
LOOKED_UP = [{"name": "tokens", "datatype": "INT64", "shape": [1, 2]}]


@pytest.mark.parametrize(
    ("kind", "code", "ask"),
    [
        ("model_not_found", "NOT_FOUND", inferred(ROW, "nobody")),
        ("model_not_found", "NOT_FOUND", predicted("nobody", ROW)),
        ("model_not_found", "NOT_FOUND", called("ModelMetadata", pb.ModelMetadataRequest(name="nobody"))),
        ("model_not_found", "NOT_FOUND", called("ModelReady", pb.ModelReadyRequest(name="nobody"))),
        ("model_not_found", "NOT_FOUND", called("ModelStatistics", pb.ModelStatisticsRequest(name="nobody"))),
        ("model_not_ready", "UNAVAILABLE", inferred(ROW, NOT_READY, model_version="1")),
        ("model_not_ready", "UNAVAILABLE", predicted(NOT_READY, ROW, version="1")),
        ("model_not_ready", "UNAVAILABLE", called("ModelConfig", pb.ModelConfigRequest(name=NOT_READY, version="1"))),
        ("invalid_input", "INVALID_ARGUMENT", inferred(onnx_models.rows(1, 5))),
        ("invalid_input", "INVALID_ARGUMENT", predicted("linear", onnx_models.rows(1, 5))),
        ("invalid_input", "INVALID_ARGUMENT", called("LogSettings", pb.LogSettingsRequest(settings={"no": pb.LogSettingsRequest.SettingValue()}))),
        ("invalid_data", "INVALID_ARGUMENT", inferred(TOKENS, "lookup", inputs=LOOKED_UP)),
        ("unsupported", "UNIMPLEMENTED", inferred(ROW, parameters=SEQUENCE)),
        ("unsupported", "UNIMPLEMENTED", called("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="r"))),
        ("model_control_off", "UNAVAILABLE", called("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="linear"))),
        ("region_not_found", "NOT_FOUND", called("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="r"))),
    ],
)  # fmt: skip
def test_every_methods_refusals_name_their_kind(channel: grpc.Channel, kind: str, code: str, ask: Ask) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel)
    error: Any = caught.value
    assert error.code().name == code
    assert dict(error.trailing_metadata())[ERROR_KIND] == kind


def test_a_good_answer_has_no_kind(channel: grpc.Channel) -> None:
    _, call = stub(channel).ModelInfer.with_call(row_request(ROW), timeout=TIMEOUT_S)
    assert ERROR_KIND not in dict(call.trailing_metadata())


def test_a_full_queue_names_its_kind(server: Running, channel: grpc.Channel) -> None:
    with server.held("linear") as device:
        waiting = [stub(channel).ModelInfer.future(row_request(onnx_models.rows(6)), timeout=TIMEOUT_S) for _ in "ab"]
        device.wait_until_queued(12)
        with pytest.raises(grpc.RpcError) as caught:
            inferred(ROW)(channel)
    error: Any = caught.value
    assert (error.code(), dict(error.trailing_metadata())[ERROR_KIND]) == (grpc.StatusCode.UNAVAILABLE, "queue_full")
    for call in waiting:
        call.result(TIMEOUT_S)


def test_a_streams_answers_name_the_kind_of_each_failure(channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    conversation.send(row_request(ROW, "1", "nobody"), row_request(ROW, "2", NOT_READY, model_version="1"), row_request(TOKENS, "3", "lookup", inputs=LOOKED_UP), row_request(ROW, "4"))  # fmt: skip
    answers = {answer.infer_response.id: answer.infer_response for answer in conversation.rest()}
    kinds = {request_id: answer.parameters[ERROR_KIND].string_param for request_id, answer in answers.items()}
    assert kinds == {"1": "model_not_found", "2": "model_not_ready", "3": "invalid_data", "4": ""}


def test_a_stream_that_ends_on_an_error_names_its_kind(channel: grpc.Channel) -> None:
    conversation = Conversation(channel, metadata=[("triton_grpc_error", "true")])
    conversation.send(row_request(ROW, "1", NOT_READY, model_version="1"))
    with pytest.raises(grpc.RpcError):
        conversation.rest()
    call: Any = conversation.call
    assert (call.code(), dict(call.trailing_metadata())[ERROR_KIND]) == (grpc.StatusCode.UNAVAILABLE, "model_not_ready")


def test_the_client_raises_what_the_kind_says_whatever_the_model_is_called(server: Running) -> None:
    with frostline.connect(server.address) as client:
        with pytest.raises(frostline.ModelNotReady) as caught:
            client.predict(NOT_READY, ROW, version="1")
        assert (caught.value.code, caught.value.kind) == ("UNAVAILABLE", "model_not_ready")
        with pytest.raises(frostline.ModelNotFound) as missing:
            client.model("queue")
        assert missing.value.kind == "model_not_found"
        with pytest.raises(frostline.InvalidInput, match="'text' does not choose one of several classes") as odd:
            client.predict("text", np.array([["a", "b"]], object), outputs=["softmax"])
        assert (odd.value.code, odd.value.kind) == ("UNIMPLEMENTED", "unsupported")
        with pytest.raises(frostline.InvalidInput, match="; lookup expects tokens INT64") as bad:
            client.predict("lookup", TOKENS)
        assert bad.value.kind in ("unsupported", "invalid_data")
