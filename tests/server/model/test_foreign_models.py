"""ONNX files that are not ours, through both front ends: served as ONNX Runtime answers, or refused at load with a reason."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, predictor_pb2, predictor_pb2_grpc
from tests.support import calls, onnx_models
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]
passed_through = onnx_models.passed_through

MISDECLARED = """
    output { name: "output" dims: [ 1, 2, 3 ] }
    model_warmup {
      inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 3, 4 ] zero_data: true } }
      inputs { key: "shape" value { data_type: TYPE_INT64 dims: 1 input_data_file: "shape" } }
    }
"""

SERVED: dict[str, tuple[onnx.ModelProto, str]] = {
    "tokens": (onnx_models.tokens(), ""),
    "text": (onnx_models.strings(), ""),
    "pair": (onnx_models.two_inputs(), ""),
    "whole": (onnx_models.no_batch_axis(), ""),
    "eight": (onnx_models.fixed_batch(8), ""),
    "picture": (passed_through([1, 3, 4, 4]), ""),
    "dense": (onnx_models.dense(), ""),
    "half-dense": (passed_through(["n", 2, "h", "w"], element=TensorProto.FLOAT16), ""),
    "half": (onnx_models.half(), ""),
    "double": (onnx_models.linear(element=TensorProto.DOUBLE), ""),
    "outputs": (onnx_models.two_outputs(), ""),
    "total": (onnx_models.total(), ""),
    "truths": (onnx_models.truths(), ""),
    "found": (onnx_models.places(), ""),
    "shaped": (onnx_models.unranked(), 'output { name: "output" data_type: TYPE_FP32 dims: [ -1, -1 ] }'),
    "shapeless": (onnx_models.unranked(), ""),
    "misdeclared": (onnx_models.unranked(), MISDECLARED),
    "empty": (passed_through(["rows", "any"], element=TensorProto.INT32, output="same"), ""),
    "nothing": (passed_through(["rows", 0], output="same"), ""),
    "constant": (onnx_models.constant(), ""),
    "alone": (onnx_models.averaging(), ""),
    "time-major": (onnx_models.time_major(), ""),
    "picked": (onnx_models.picked(), ""),
    "independent": (onnx_models.linear(), ""),
    "number": (
        onnx_models.numbers(),
        """
        max_batch_size: 4
        input { name: "input" data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } }
        output { name: "double" data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } }
        """,
    ),
}

CANNOT_PASS = "which this server cannot pass to ONNX Runtime; it takes tensors of numbers, booleans and strings:"
NOT_THE_BATCH = "it is not proved that rows of several requests may share a run: output 'places' has shape"
REFUSED: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "bf16": (
        passed_through(["rows", 2], element=TensorProto.BFLOAT16),
        "",
        f"the input 'input' is a tensor(bfloat16), {CANNOT_PASS} cast it in the graph",
    ),
    "sequence": (
        onnx_models.sequences(),
        "",
        f"the output 'parts' is a seq(tensor(float)), {CANNOT_PASS} list the other outputs in config.pbtxt",
    ),
    "not-the-batch": (
        onnx_models.places(),
        "max_batch_size: 4",
        NOT_THE_BATCH,
    ),
    "op": (onnx_models.unknown_operator(), "", "No Op registered for Frobnicate"),
    "batched-by-word": (onnx_models.fixed_batch(8), "max_batch_size: 8", "the graph has no free batch axis"),
    "warm": (
        onnx_models.linear(),
        'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }',
        "model_warmup 'w' has the inputs ['x']; the network takes ['input']",
    ),
    "threads": (
        onnx_models.linear(),
        'parameters { key: "intra_op_thread_count" value { string_value: "many" } }',
        "config.pbtxt sets parameters.intra_op_thread_count 'many'; it must be a whole number from 0 to 1024",
    ),
}


def write(root: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").write_bytes(model.SerializeToString())
    if config:
        (root / name / "config.pbtxt").write_text(config, encoding="utf-8")


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    for name, (model, config) in SERVED.items():
        write(root, name, model, config)
    for name, (model, config, _) in REFUSED.items():
        write(root, name, model, config)
    (root / "misdeclared" / "warmup").mkdir()
    (root / "misdeclared" / "warmup" / "shape").write_bytes(np.array([-1], "<i8").tobytes())
    with running(root, transport=request.param, log_level="error", require="none") as instance:
        yield instance


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


Ask = Callable[..., dict[str, Array]]


@pytest.fixture
def ask(stub: Any) -> Ask:
    """Sends arrays as the inputs of a model; gives its answer by output."""

    def send(model: str, *wanted: str, **arrays: Array) -> dict[str, Array]:
        return calls.answers(stub.ModelInfer(calls.infer_request(model, arrays, wanted), timeout=TIMEOUT_S))

    return send


def test_what_is_served_and_what_is_refused(stub: Any) -> None:
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    reasons = {entry.name: entry.reason for entry in index}
    assert {entry.name: entry.state for entry in index} == {
        **dict.fromkeys(SERVED, "READY"),
        **dict.fromkeys(REFUSED, "UNAVAILABLE"),
    }
    for name, (_, _, reason) in REFUSED.items():
        assert reason in reasons[name], name


WORDS = np.array([["a", ""], ["é", "word"]], object)


@pytest.mark.parametrize(
    ("model", "arrays"),
    [
        ("tokens", {"ids": np.array([[1, 2, 0], [3, 0, 0]])}),
        ("tokens", {"ids": np.array([[1, 2, 3, 3, 2]])}),
        ("text", {"input": WORDS}),
        ("pair", {"left": onnx_models.rows(3), "right": onnx_models.rows(3, 2, 2)}),
        ("whole", {"input": onnx_models.rows(1)[0]}),
        ("eight", {"input": onnx_models.rows(8)}),
        ("picture", {"input": onnx_models.rows(1, 3, 4, 4)}),
        ("dense", {"input": onnx_models.rows(2, 2, 3, 3)}),
        ("half-dense", {"input": onnx_models.rows(2, 2, 5, 1, dtype=np.float16)}),
        ("half", {"input": onnx_models.rows(2, dtype=np.float16)}),
        ("double", {"input": onnx_models.rows(2, dtype=np.float64)}),
        ("outputs", {"input": onnx_models.rows(5)}),
        ("total", {"input": onnx_models.rows(5)}),
        ("truths", {"input": np.array([[0, 1], [2, 0]], np.uint8)}),
        ("found", {"input": onnx_models.rows(3)}),
        ("found", {"input": np.zeros((2, 4), np.float32)}),
        ("shaped", {"input": onnx_models.rows(3), "shape": np.array([6, 2])}),
        ("shapeless", {"input": onnx_models.rows(3), "shape": np.array([2, 3, 2])}),
        ("misdeclared", {"input": onnx_models.rows(3), "shape": np.array([6, 2])}),
        ("empty", {"input": np.zeros((2, 0), np.int32)}),
        ("empty", {"input": np.ones((2, 3), np.int32)}),
        ("nothing", {"input": np.zeros((3, 0), np.float32)}),
        ("constant", {}),
        ("alone", {"input": onnx_models.rows(3)}),
        ("alone", {"input": onnx_models.rows(100)}),
    ],
)  # fmt: skip
def test_the_answer_is_onnx_runtimes_own(ask: Ask, model: str, arrays: dict[str, Array]) -> None:
    session = ort.InferenceSession(SERVED[model][0].SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answer = ask(model, **arrays)
    assert list(answer) == names
    for name, expected in zip(names, session.run(names, arrays), strict=True):
        got = answer[name]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=1e-6)
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("model", "make"),
    [
        ("alone", lambda caller: onnx_models.rows(2) + caller),
        ("time-major", lambda caller: onnx_models.rows(1, 3, 2) + caller),
        ("independent", lambda caller: onnx_models.rows(2) + caller),
        ("picked", lambda caller: onnx_models.rows(2) * (caller + 1)),
    ],
)
def test_callers_at_once_get_their_own_answers(stub: Any, model: str, make: Callable[[int], Array]) -> None:
    session = ort.InferenceSession(SERVED[model][0].SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = [output.name for output in session.get_outputs()]
    sent, expected = [], []
    for caller in range(8):
        arrays = {"input": make(caller).astype(np.float32)}
        if model == "picked":
            arrays["places"] = np.array([1, 0], np.int64)
        sent.append(calls.infer_request(model, arrays))
        expected.append(session.run([name], arrays)[0])
    for _ in range(10):
        started = [stub.ModelInfer.future(request, timeout=TIMEOUT_S) for request in sent]
        for call, answer in zip(started, expected, strict=True):
            (got,) = calls.answers(call.result()).values()
            assert got.shape == answer.shape
            np.testing.assert_allclose(got, answer, rtol=1e-6)


def test_a_number_for_each_row_may_be_a_column_to_clients(ask: Ask, stub: Any) -> None:
    answer = ask("number", input=np.array([[1.5], [2.5]], np.float32))
    assert answer["double"].tolist() == [[3.0], [5.0]]
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="number"), timeout=TIMEOUT_S)
    assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [[-1, 1], [-1, 1]]


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        ("eight", (7, 4), "Expected [8,4], got [7,4]"),
        ("picture", (2, 3, 4, 4), "Expected [1,3,4,4], got [2,3,4,4]"),
        ("whole", (1, 4), "Expected [4], got [1,4]"),
        ("number", (2,), "Expected [-1,1], got [2]"),
    ],
)
def test_a_shape_that_is_not_the_models_is_refused(ask: Ask, model: str, shape: tuple[int, ...], expected: str) -> None:
    code, message = calls.refused(lambda: ask(model, input=np.zeros(shape, np.float32)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in message


def test_values_that_the_graph_cannot_use_fail_that_request_alone(ask: Ask) -> None:
    x = onnx_models.rows(3)
    code, message = calls.refused(lambda: ask("shaped", input=x, shape=np.array([5, 5])))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        "the network does not take this data: Reshape node: The input tensor cannot be reshaped to the requested shape. "
        "Input shape:{3,4}, requested shape:{5,5}"
    )
    assert ask("shaped", input=x, shape=np.array([4, 3]))["output"].shape == (4, 3)


# A class at each place


def predict(channel: grpc.Channel, model: str, x: Array, **fields: Any) -> predictor_pb2.PredictResponse:
    dtype = {"float32": "FP32", "float16": "FP16"}[x.dtype.name]
    tensor = {"dtype": dtype, "shape": x.shape, "data": x.tobytes()}
    request = predictor_pb2.PredictRequest(model=model, inputs=[tensor], **fields)
    response: predictor_pb2.PredictResponse = predictor_pb2_grpc.PredictorStub(channel).Predict(
        request, timeout=TIMEOUT_S
    )
    return response


@pytest.mark.parametrize(("model", "dtype"), [("dense", np.float32), ("half-dense", np.float16)])
def test_a_map_of_logits_is_read_at_each_place(channel: grpc.Channel, ask: Ask, model: str, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(dtype)
    response = predict(channel, model, x)
    assert list(response.labels) == []
    softmax = np.frombuffer(response.softmax.data, dtype).reshape(response.softmax.shape)
    argmax = np.frombuffer(response.argmax.data, "<i8").reshape(response.argmax.shape)
    np.testing.assert_array_equal(np.frombuffer(response.logits.data, dtype).reshape(response.logits.shape), x)
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(x), rtol=2e-3 if dtype == np.float16 else 1e-5)
    np.testing.assert_array_equal(argmax, x.argmax(axis=1))
    np.testing.assert_array_equal(ask(model, "argmax", input=x)["argmax"], argmax)


def test_there_is_no_ranking_of_a_row_that_has_a_class_at_each_place(channel: grpc.Channel) -> None:
    code, message = calls.refused(lambda: predict(channel, "dense", onnx_models.rows(1, 2, 3, 3), top_k=1))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        "model 'dense' has a class at each place of a row, so there is no ranking of classes for a row; ask for SOFTMAX "
        "(in Python outputs=['softmax']) instead of top_k"
    )


def test_a_network_without_one_output_of_logits_has_no_typed_classes(channel: grpc.Channel) -> None:
    code, message = calls.refused(lambda: predict(channel, "outputs", onnx_models.rows(1), top_k=1))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert message.startswith(
        "model 'outputs' does not choose one of several classes (its task is 'any'), so it has no "
    )


def test_a_fixed_batch_has_its_typed_answer_too(channel: grpc.Channel) -> None:
    x = onnx_models.rows(8)
    response = predict(channel, "eight", x, top_k=1)
    best = [ranking.classes[0].index for ranking in response.top]
    assert best == onnx_models.logits_of(x).argmax(axis=1).tolist()
