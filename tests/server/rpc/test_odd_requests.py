"""Odd but valid requests, each sent twice, because the second is recognised by its header; through both front ends."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running

SCALARS = {
    name: f'<ir_version: 8, opset_import: ["": 17]> {name} ({given} input) => ({given} y) {{ y = Neg (input) }}'
    for name, given in {"scalar": "float", "scalars": "float[N]"}.items()
}


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "sequence", 1, onnx_models.dynamic_inner(), golden=False)
    onnx_models.write_artifact(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    onnx_models.write_artifact(models, "half", 1, onnx_models.half(), golden=False)
    for name, graph in SCALARS.items():
        (models / name / "1").mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(graph), models / name / "1" / "model.onnx")
    with running(models, transport=request.param, log_level="error", max_batch_size=8) as instance:
        yield instance


@pytest.fixture
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(model: str, shape: Any, datatype: str = "FP32", **fields: Any) -> pb.ModelInferRequest:
    tensor = {"name": "input", "datatype": datatype, "shape": shape}
    return pb.ModelInferRequest(model_name=model, **{"inputs": [tensor], **fields})


@pytest.mark.parametrize(
    ("model", "shape", "answered", "declared"),
    [
        ("scalar", [], [], []),
        ("scalar", [1], [], []),
        ("scalars", [3], [3], [-1]),
        ("scalars", [3, 1], [3], [-1]),
    ],
)
def test_a_scalar_may_have_an_axis_of_one_as_tritons_clients_send_it(
    stub: Any, model: str, shape: list[int], answered: list[int], declared: list[int]
) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=TIMEOUT_S)
    assert list(metadata.inputs[0].shape) == declared
    for start in (2.0, 5.0):
        x = np.arange(start, start + (answered or [1])[0], dtype=np.float32)
        request = request_of(model, shape, raw_input_contents=[x.tobytes()])
        response = stub.ModelInfer(request, timeout=TIMEOUT_S)
        assert list(response.outputs[0].shape) == answered
        assert response.raw_output_contents[0] == (-x).tobytes()


IDS = ["", "0", "größe 🙂", "line\nbreak", "nul\0nul", "x" * 5000, "[request id: 1] "]


@pytest.mark.parametrize("request_id", IDS, ids=range(len(IDS)))
def test_any_id_comes_back_as_it_was_sent(stub: Any, request_id: str) -> None:
    for x in (onnx_models.rows(2), onnx_models.rows(2) + 1):
        request = request_of("linear", x.shape, id=request_id, raw_input_contents=[x.tobytes()])
        response = stub.ModelInfer(request, timeout=TIMEOUT_S)
        assert response.id == request_id
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(2, 3)
        np.testing.assert_allclose(got, onnx_models.logits_of(x), rtol=1e-5)


@pytest.mark.parametrize("request_id", IDS[1:], ids=range(1, len(IDS)))
def test_an_error_begins_with_its_requests_id_however_odd(stub: Any, request_id: str) -> None:
    request = request_of("linear", [1, 5], id=request_id, raw_input_contents=[bytes(20)])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=TIMEOUT_S)
    details = caught.value.details() or ""
    shown = request_id if len(request_id) < 100 else f"{request_id[:128]}..."
    assert details.startswith(f"[request id: {shown}] unexpected shape for input 'input'")


def test_ids_of_one_length_in_one_stream_of_requests_are_not_mixed_up(stub: Any) -> None:
    rows = {f"id{index}": onnx_models.rows(1) + index for index in range(8)}
    calls = {
        name: stub.ModelInfer.future(
            request_of("linear", x.shape, id=name, raw_input_contents=[x.tobytes()]), timeout=TIMEOUT_S
        )
        for name, x in rows.items()
    }
    for name, call in calls.items():
        response = call.result()
        assert response.id == name
        got = np.frombuffer(response.raw_output_contents[0], "<f4")
        np.testing.assert_allclose(got, onnx_models.logits_of(rows[name])[0], rtol=1e-5)


@pytest.mark.parametrize("fields", [{"raw_input_contents": [b""]}, {}], ids=["raw", "typed"])
def test_a_tensor_without_elements_is_a_tensor(stub: Any, fields: dict[str, Any]) -> None:
    for _ in range(2):
        response = stub.ModelInfer(request_of("sequence", [2, 0, 4], **fields), timeout=TIMEOUT_S)
        assert list(response.outputs[0].shape) == [2, 3]
        assert len(response.raw_output_contents[0]) == 24


def test_strings_come_typed_as_well(stub: Any) -> None:
    for words in ([b"a", b""], ["größe".encode(), b"z" * 300]):
        request = request_of("text", [1, 2], "BYTES")
        request.inputs[0].contents.bytes_contents.extend(words)
        response = stub.ModelInfer(request, timeout=TIMEOUT_S)
        raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
        assert list(response.raw_output_contents) == [raw]


def test_half_precision_cannot_come_typed_and_what_to_do_is_said(stub: Any) -> None:
    request = request_of("half", [1, 4], "FP16")
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "FP16 has no typed contents field; send input 'input' in raw_input_contents"


def test_hints_and_scheduling_parameters_change_no_answer(stub: Any) -> None:
    x = onnx_models.rows(1)
    plain = request_of("linear", x.shape, raw_input_contents=[x.tobytes()])
    hinted = request_of("linear", x.shape, raw_input_contents=[x.tobytes()])
    hinted.parameters["priority"].uint64_param = 1
    hinted.parameters["timeout"].int64_param = 10_000_000
    hinted.parameters["binary_data_output"].bool_param = True
    hinted.inputs[0].parameters["binary_data_size"].int64_param = x.nbytes
    expected = stub.ModelInfer(plain, timeout=TIMEOUT_S)
    assert stub.ModelInfer(hinted, timeout=TIMEOUT_S) == expected
    assert stub.ModelInfer(hinted, timeout=TIMEOUT_S) == expected
