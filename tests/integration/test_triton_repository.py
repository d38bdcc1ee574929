"""A repository written for Triton, served as it is: through both front ends it answers as ONNX Runtime does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, predictor_pb2, predictor_pb2_grpc
from tests.support import calls, onnx_models
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

BATCHED = """
name: "batched"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {
    name: "input"
    data_type: TYPE_FP32
    dims: [ 4 ]
  }
]
output [
  {
    name: "double"
    data_type: TYPE_FP32
    dims: [ 4 ]
  },
  {
    name: "total"
    data_type: TYPE_FP32
    dims: [ 1 ]
    reshape: { shape: [ ] }
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
}
version_policy: { latest: { num_versions: 1 } }
"""

UNBATCHED = """
name: "unbatched"
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "ids", data_type: TYPE_INT64, dims: [ -1, -1 ] } ]
output [
  { name: "mean", data_type: TYPE_FP32, dims: [ -1, 3 ] },
  { name: "length", data_type: TYPE_INT64, dims: [ -1 ] }
]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "execution_mode" value: { string_value: "0" } }
model_warmup [
  {
    name: "a sentence"
    batch_size: 1
    inputs: {
      key: "ids"
      value: { data_type: TYPE_INT64 dims: [ 1, 7 ] random_data: true }
    }
  }
]
"""

FIXED = """
name: "fixed"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [
  {
    name: "input"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 1, 2, 3, 3 ]
  }
]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 1, 2, 3, 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
optimization { graph { level: 1 } }
"""

PAIR = """
name: "pair"
backend: "onnxruntime"
max_batch_size: 4
input [
  { name: "right" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } },
  { name: "left" data_type: TYPE_FP32 dims: [ 4 ] }
]
output { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] }
"""

CLASSIFIER = """
name: "classifier"
platform: "onnxruntime_onnx"
default_model_filename: "network.onnx"
max_batch_size: 16
input [ { name: "input" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [
  {
    name: "scores"
    data_type: TYPE_FP32
    dims: [ 3 ]
    label_filename: "animals.txt"
  }
]
model_warmup [ {
  name: "a row of ours" batch_size: 4 count: 2
  inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "row" } }
} ]
"""

MODELS = {
    "batched": (BATCHED, onnx_models.two_outputs(), "model.onnx"),
    "unbatched": (UNBATCHED, onnx_models.tokens(), "model.onnx"),
    "fixed": (FIXED, onnx_models.passed_through([1, 2, 3, 3]), "model.onnx"),
    "pair": (PAIR, onnx_models.two_inputs(), "model.onnx"),
    "classifier": (CLASSIFIER, onnx_models.linear(output="scores"), "network.onnx"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five models, as a user of Triton keeps them."""
    root = tmp_path_factory.mktemp("model_repository")
    for name, (config, model, file) in MODELS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / file).write_bytes(model.SerializeToString())
        (root / name / "config.pbtxt").write_text(config, encoding="utf-8")
    (root / "classifier" / "animals.txt").write_text("\n".join(onnx_models.LABELS) + "\n", encoding="utf-8")
    (root / "classifier" / "warmup").mkdir()
    (root / "classifier" / "warmup" / "row").write_bytes(onnx_models.rows(1).tobytes())
    return root


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, repository: Path) -> Iterator[Running]:
    with running(repository, transport=request.param, log_level="error") as instance:
        yield instance


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def ask(stub: Any, model: str, **arrays: Array) -> dict[str, Array]:
    """The model's answer to these inputs, sent in this order and raw, as Triton's clients do."""
    return calls.answers(stub.ModelInfer(calls.infer_request(model, arrays), timeout=TIMEOUT_S))


def refusal(stub: Any, model: str, **arrays: Array) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, model, **arrays)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details() or ""


def onnxruntime(model: onnx.ModelProto, **arrays: Array) -> dict[str, Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def test_every_model_of_the_repository_is_ready(stub: Any) -> None:
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    assert {entry.name: (entry.state, entry.reason) for entry in index} == dict.fromkeys(MODELS, ("READY", ""))


def test_a_batched_model_answers_as_onnx_runtime_does(stub: Any) -> None:
    for count in (1, 3, 8):
        x = onnx_models.rows(count)
        answer, expected = ask(stub, "batched", input=x), onnxruntime(MODELS["batched"][1], input=x)
        np.testing.assert_array_equal(answer["double"], expected["double"])
        np.testing.assert_array_equal(answer["total"], expected["total"].reshape(count, 1))
    assert "batch-size must be <= 8 for 'batched'" in refusal(stub, "batched", input=onnx_models.rows(9))


def test_a_model_without_batching_takes_the_whole_shape(stub: Any) -> None:
    for shape in ((1, 5), (70, 2)):
        ids = np.arange(np.prod(shape)).reshape(shape) % 4
        answer, expected = ask(stub, "unbatched", ids=ids), onnxruntime(MODELS["unbatched"][1], ids=ids)
        np.testing.assert_allclose(answer["mean"], expected["mean"], rtol=1e-6)
        np.testing.assert_array_equal(answer["length"], expected["length"])


def test_a_model_of_fixed_shape_takes_that_shape_alone(stub: Any) -> None:
    x = onnx_models.rows(1, 2, 3, 3)
    np.testing.assert_array_equal(ask(stub, "fixed", input=x)["logits"], x)
    assert "Expected [1,2,3,3], got [2,2,3,3]" in refusal(stub, "fixed", input=onnx_models.rows(2, 2, 3, 3))


def test_two_inputs_come_in_any_order_and_in_the_declared_shape(stub: Any) -> None:
    left, right = onnx_models.rows(3), onnx_models.rows(3, 2, 2)
    expected = onnxruntime(MODELS["pair"][1], left=left, right=right)["logits"]
    flat = right.reshape(3, 4)
    for arrays in ({"left": left, "right": flat}, {"right": flat, "left": left}):
        np.testing.assert_allclose(ask(stub, "pair", **arrays)["logits"], expected, rtol=1e-6)
    assert "Expected [-1,4], got [3,2,2]" in refusal(stub, "pair", left=left, right=right)


def test_a_classifier_answers_with_the_labels_of_its_file(stub: Any, channel: grpc.Channel) -> None:
    x = onnx_models.rows(5)
    scores = onnxruntime(MODELS["classifier"][1], input=x)["scores"]
    np.testing.assert_allclose(ask(stub, "classifier", input=x)["scores"], scores, rtol=1e-6)
    tensor = {"dtype": "FP32", "shape": x.shape, "data": x.tobytes()}
    request = predictor_pb2.PredictRequest(model="classifier", inputs=[tensor])
    response = predictor_pb2_grpc.PredictorStub(channel).Predict(request, timeout=TIMEOUT_S)
    assert list(response.labels) == [onnx_models.LABELS[index] for index in scores.argmax(axis=1)]


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("batched", [("input", "FP32", [-1, 4])], [("double", "FP32", [-1, 4]), ("total", "FP32", [-1, 1])]),
        ("unbatched", [("ids", "INT64", [-1, -1])], [("mean", "FP32", [-1, 3]), ("length", "INT64", [-1])]),
        ("pair", [("left", "FP32", [-1, 4]), ("right", "FP32", [-1, 4])], [("logits", "FP32", [-1, 3])]),
    ],
)
def test_the_metadata_is_what_a_client_of_triton_expects(
    stub: Any, model: str, inputs: list[Any], outputs: list[Any]
) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=TIMEOUT_S)
    assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["1"])
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == inputs
    # The readings appended to a network that ends at logits come behind its own outputs.
    offered = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs]
    assert offered[: len(outputs)] == outputs


def test_the_configuration_in_force_has_all_that_perf_analyzer_and_pytriton_read(stub: Any) -> None:
    batched = stub.ModelConfig(pb.ModelConfigRequest(name="batched"), timeout=TIMEOUT_S).config
    assert (batched.name, batched.platform, batched.backend) == ("batched", "onnxruntime_onnx", "onnxruntime")
    assert (batched.max_batch_size, batched.default_model_filename) == (8, "model.onnx")
    assert batched.version_policy.latest.num_versions == 1
    assert list(batched.dynamic_batching.preferred_batch_size) == [4, 8]
    assert batched.dynamic_batching.max_queue_delay_microseconds == 100
    (group,) = batched.instance_group
    assert (group.name, group.kind, group.count, list(group.gpus)) == ("batched_0", group.KIND_CPU, 1, [])
    double, total = batched.output
    assert (double.name, list(double.dims), double.HasField("reshape")) == ("double", [4], False)
    assert (total.name, list(total.dims), total.HasField("reshape"), list(total.reshape.shape)) == (
        "total", [1], True, [],
    )  # fmt: skip
    assert not batched.model_transaction_policy.decoupled
    unbatched = stub.ModelConfig(pb.ModelConfigRequest(name="unbatched"), timeout=TIMEOUT_S).config
    assert (unbatched.max_batch_size, unbatched.WhichOneof("scheduling_choice")) == (0, None)
    assert [(tensor.name, list(tensor.dims)) for tensor in unbatched.input] == [("ids", [-1, -1])]
    assert unbatched.parameters["intra_op_thread_count"].string_value == "1"
    assert unbatched.model_warmup[0].name == "a sentence"
    classifier = stub.ModelConfig(pb.ModelConfigRequest(name="classifier"), timeout=TIMEOUT_S).config
    assert classifier.default_model_filename == "network.onnx"
    assert classifier.output[0].label_filename == "animals.txt"
    fixed = stub.ModelConfig(pb.ModelConfigRequest(name="fixed"), timeout=TIMEOUT_S).config
    assert (list(fixed.input[0].dims), fixed.optimization.graph.level) == ([1, 2, 3, 3], 1)
