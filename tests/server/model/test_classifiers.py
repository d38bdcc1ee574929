"""Classifiers as their files end, through both front ends: what clients get as softmax, argmax and top classes, and what is counted."""

import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2, predictor_pb2_grpc
from frostline_server.runtime.dtypes import DTYPES
from tests.support import calls, onnx_models
from tests.support.onnx_models import ending
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

X = onnx_models.rows(5)
SCORES = onnx_models.logits_of(X)
SOFTMAX = onnx_models.softmax_of(SCORES)
CLASSES = SCORES.argmax(axis=1)


def last(operator: str, **attributes: Any) -> onnx.ModelProto:
    """Scores, and one more operator to `probabilities`."""
    return ending([helper.make_node(operator, ["scores"], ["probabilities"], **attributes)], ["rows", 3])


def gated() -> onnx.ModelProto:
    """`linear` with a softmax and an argmax inside, which are named so."""
    nodes = [
        helper.make_node("Softmax", ["scores"], ["softmax"], name="softmax", axis=1),
        helper.make_node("ArgMax", ["scores"], ["argmax"], name="argmax", axis=1, keepdims=1),
        helper.make_node("Cast", ["argmax"], ["frostline_confidence"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["softmax", "frostline_confidence"], ["moved"]),
        helper.make_node("Sub", ["moved", "moved"], ["nothing"]),
        helper.make_node("Add", ["nothing", "scores"], ["probabilities"]),
    ]
    return ending(nodes, ["rows", 3])


def averaged() -> onnx.ModelProto:
    """The mean of two softmaxes, by a product that no look at the graph takes for one."""
    nodes = [
        helper.make_node("Softmax", ["scores"], ["first"], axis=1),
        helper.make_node("Unsqueeze", ["first", "last"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["both"], axis=2),
        helper.make_node("MatMul", ["both", "halves"], ["mean"]),
        helper.make_node("Squeeze", ["mean", "last"], ["probabilities"]),
    ]
    return ending(nodes, ["rows", 3], last=np.array([2]), halves=np.full((2, 1), 0.5, np.float32))


CHOOSE = {
    "logits": onnx_models.linear(),
    "gated": gated(),
    "softmax": last("Softmax", axis=1),
    "log-softmax": last("LogSoftmax", axis=1),
    "averaged": averaged(),
    "named-softmax": onnx_models.already_softmax(),
    "named-argmax": onnx_models.linear(output="argmax"),
    "learner": onnx_models.learner(
        "LinearClassifier",
        label=TensorProto.STRING,
        coefficients=onnx_models.WEIGHTS.T.ravel().tolist(),
        intercepts=onnx_models.BIAS.tolist(),
        classlabels_strings=["ant", "bee", "cat"],
        post_transform="SOFTMAX",
    ),
}
OTHERS = {
    "sigmoid": last("Sigmoid"),
    "one-number": onnx_models.product(onnx_models.WEIGHTS[:, :1]),
    "over-rows": last("Softmax", axis=0),
    "found": onnx_models.zeros([1, "found"]),
    "other-shape": onnx_models.zeros(["rows", 3]),
    "other-rank": onnx_models.zeros(["rows", 3]),
}


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    for name, model in {**CHOOSE, **OTHERS}.items():
        onnx_models.write_artifact(root, name, model=model, labels=None, golden=False, card=False)
    for name in ("found", "other-shape"):
        (root / name / "config.pbtxt").write_text(WHOLE, encoding="utf-8")
        (root / name / "warmup").mkdir()
        (root / name / "warmup" / "shape").write_bytes(np.array([1, 3], "<i8").tobytes())
    with running(root, transport=request.param, log_level="error", require="none") as instance:
        yield instance


WHOLE = """
    max_batch_size: 0
    model_warmup {
      inputs { key: "shape" value { data_type: TYPE_INT64 dims: 2 input_data_file: "shape" } }
    }
"""


def infer(channel: grpc.Channel, model: str, *wanted: str, **arrays: Array) -> dict[str, Array]:
    """The outputs of a model by name."""
    request = calls.infer_request(model, arrays, wanted)
    return calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))


def predict(channel: grpc.Channel, model: str, **fields: Any) -> predictor_pb2.PredictResponse:
    request = predictor_pb2.PredictRequest(
        model=model, inputs=[{"dtype": "FP32", "shape": X.shape, "data": X.tobytes()}], **fields
    )
    stub = predictor_pb2_grpc.PredictorStub(channel)
    response: predictor_pb2.PredictResponse = stub.Predict(request, timeout=TIMEOUT_S)
    return response


def array_of(tensor: predictor_pb2.Tensor) -> Array:
    name = predictor_pb2.DataType.Name(tensor.dtype)
    return np.frombuffer(tensor.data, DTYPES[name]).reshape(tensor.shape)


def outputs_of(channel: grpc.Channel, model: str) -> list[str]:
    metadata = calls.stub(channel).ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=TIMEOUT_S)
    config = calls.stub(channel).ModelConfig(pb.ModelConfigRequest(name=model), timeout=TIMEOUT_S).config
    names = [output.name for output in metadata.outputs]
    assert [output.name for output in config.output] == names
    return names


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("logits", ["logits", "softmax", "argmax"]),
        ("gated", ["probabilities", "softmax", "argmax"]),
        ("softmax", ["probabilities", "softmax", "argmax"]),
        ("log-softmax", ["probabilities", "softmax", "argmax"]),
        ("averaged", ["probabilities", "softmax", "argmax"]),
        ("named-softmax", ["softmax", "argmax"]),
        ("named-argmax", ["argmax", "softmax"]),
        ("learner", ["label", "probabilities", "softmax", "argmax"]),
        ("sigmoid", ["probabilities"]),
        ("one-number", ["logits"]),
        ("over-rows", ["probabilities"]),
        ("found", ["output"]),
        ("other-shape", ["output", "softmax", "argmax"]),
    ],
)
def test_clients_see_the_files_own_outputs_and_the_heads_under_names_of_their_own(
    channel: grpc.Channel, model: str, names: list[str]
) -> None:
    assert outputs_of(channel, model) == names


@pytest.mark.parametrize("model", [name for name in CHOOSE if name != "named-argmax"])
def test_softmax_is_the_probabilities_and_argmax_their_class(channel: grpc.Channel, model: str) -> None:
    expected = onnx_models.softmax_of(X @ onnx_models.WEIGHTS) if model == "named-softmax" else SOFTMAX
    answer = infer(channel, model, "argmax", "softmax", input=X)
    assert list(answer) == ["argmax", "softmax"]
    np.testing.assert_allclose(answer["softmax"], expected, rtol=1e-5, atol=1e-7)
    assert answer["argmax"].tolist() == expected.argmax(axis=1).tolist()


def test_an_output_that_the_file_names_argmax_stays_what_it_is(channel: grpc.Channel) -> None:
    answer = infer(channel, "named-argmax", "argmax", "softmax", input=X)
    np.testing.assert_array_equal(answer["argmax"], SCORES)
    np.testing.assert_allclose(answer["softmax"], SOFTMAX, rtol=1e-5, atol=1e-7)
    assert array_of(predict(channel, "named-argmax").argmax).tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("logits", SCORES),
        ("gated", SCORES),
        ("softmax", SOFTMAX),
        ("log-softmax", np.log(SOFTMAX)),
        ("averaged", SOFTMAX),
        ("named-softmax", onnx_models.softmax_of(X @ onnx_models.WEIGHTS)),
        ("learner", SOFTMAX),
    ],
)
def test_the_typed_api_reads_the_same_classes(channel: grpc.Channel, model: str, own: Array) -> None:
    expected = onnx_models.softmax_of(X @ onnx_models.WEIGHTS) if model == "named-softmax" else SOFTMAX
    response = predict(channel, model)
    np.testing.assert_allclose(array_of(response.logits), own, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array_of(response.softmax), expected, rtol=1e-5, atol=1e-7)
    assert array_of(response.argmax).tolist() == expected.argmax(axis=1).tolist()
    ranked = predict(channel, model, top_k=1).top
    assert [ranking.classes[0].index for ranking in ranked] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([ranking.classes[0].probability for ranking in ranked], expected.max(axis=1), rtol=1e-5)


def test_outputs_that_a_configuration_or_a_parameter_names_are_the_clients(channel: grpc.Channel) -> None:
    request = calls.row_request(X, model="softmax")
    output = request.outputs.add(name="softmax")
    output.parameters["classification"].int64_param = 1
    response = calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert [(tensor.name, tensor.datatype) for tensor in response.outputs] == [("softmax", "BYTES")]
    assert f"{SOFTMAX[0].max():.6f}:{CLASSES[0]}".encode() in response.raw_output_contents[0]
    request = calls.row_request(X, model="sigmoid", outputs=[{"name": "softmax"}])
    with pytest.raises(grpc.RpcError) as caught:
        calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (
        caught.value.details() == "unexpected inference output 'softmax' for model 'sigmoid'; it has ['probabilities']"
    )


def test_an_answer_of_another_rank_than_the_file_says_is_given(channel: grpc.Channel) -> None:
    assert infer(channel, "other-rank", "output", shape=np.array([2]))["output"].tolist() == [0, 0]


@pytest.mark.parametrize("model", ["sigmoid", "one-number", "over-rows"])
def test_a_network_that_chooses_no_class_is_answered_with_its_outputs(channel: grpc.Channel, model: str) -> None:
    expected = {
        "sigmoid": 1 / (1 + np.exp(-SCORES.astype(np.float64))),
        "one-number": X @ onnx_models.WEIGHTS[:, :1],
        "over-rows": np.exp(SCORES) / np.exp(SCORES).sum(axis=0),
    }[model]
    (answer,) = infer(channel, model, input=X).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)
    response = predict(channel, model)
    (name,) = outputs_of(channel, model)
    assert [tensor.name for tensor in response.values] == [name]
    np.testing.assert_array_equal(array_of(response.values[0]), answer)
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, model, outputs=[predictor_pb2.SOFTMAX])
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == (
        f"model '{model}' does not choose one of several classes (its task is 'any'), so it has no SOFTMAX; ask for VALUES "
        f"(in Python outputs=['values']), its outputs ['{name}']"
    )


@pytest.mark.parametrize("shape", [[1, 0], [1, 3], [1, 1], [1, 7]])
def test_as_many_numbers_as_are_found_are_answered_also_if_there_are_none(
    channel: grpc.Channel, shape: list[int]
) -> None:
    answer = infer(channel, "found", shape=np.array(shape))
    np.testing.assert_array_equal(answer["output"], np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [[1, 3], [3], [2, 1, 6], [3, 0], [0, 3], [2, 4]])
def test_an_answer_of_another_shape_than_the_file_says_is_given(channel: grpc.Channel, shape: list[int]) -> None:
    answer = infer(channel, "other-shape", "output", "argmax", shape=np.array(shape))
    np.testing.assert_array_equal(answer["output"], np.zeros(shape, np.float32))
    assert answer["argmax"].tolist() == ([0] * shape[0] if shape[1:] == [3] else [])


def test_the_metrics_count_the_files_own_probabilities_and_nothing_else(server: Running, channel: grpc.Channel) -> None:
    def scrape() -> dict[str, float]:
        text = urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S).read().decode()
        return {
            key: float(value)
            for key, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            if key.startswith(("frostline_prediction_confidence_", "frostline_predictions_"))
        }

    before, asked = scrape(), {}
    for model in ("softmax", "learner", "sigmoid", "one-number", "over-rows"):
        asked[model] = calls.ended(calls.statistics(channel, model))
        infer(channel, model, input=X)
    for model, requests in asked.items():
        calls.statistics(channel, model, requests + 1)
    after = scrape()
    for model in asked:
        more = {key: after[key] - before.get(key, 0.0) for key in after if f'model="{model}"' in key}
        sums = {key: value for key, value in more.items() if "_sum" in key}
        counted = sum(value for key, value in more.items() if key.startswith("frostline_predictions_total"))
        chooses = model in CHOOSE
        np.testing.assert_allclose(sum(sums.values()), SOFTMAX.max(axis=1).sum() if chooses else 0, rtol=1e-5)
        assert counted == (len(X) if chooses else 0)
