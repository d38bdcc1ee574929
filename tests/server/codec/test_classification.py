"""The best classes of a row, as Triton's clients read them, through both front ends."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from frostline_server.codec.outputs import best_classes, check_classes
from frostline_server.errors import InvalidInput
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.signatures import spec

Array = np.ndarray[Any, Any]

LABELS = ["ant", "bee", "cat"]


def ranked(values: Any, count: int, labels: list[str] | None = None, dtype: Any = np.float32) -> list[Any]:
    """The best classes of rows of `values`."""
    classes: list[Any] = best_classes(np.array(values, dtype), count, labels, batched=True).tolist()
    return classes


# Ranking


def test_the_best_classes_come_first_with_six_decimals_their_index_and_their_label() -> None:
    got = ranked([[0.1, 0.7, 0.2], [-1.5, 3e9, 0]], 2, LABELS)
    assert got == [["0.700000:1:bee", "0.200000:2:cat"], ["3000000000.000000:1:bee", "0.000000:2:cat"]]


def test_without_labels_an_element_ends_at_its_index() -> None:
    assert ranked([[0.25, 0.75]], 1) == [["0.750000:1"]]


def test_whole_numbers_have_no_decimals() -> None:
    assert ranked([[1, -9, 7]], 3, dtype=np.int64) == [["7:2", "1:0", "-9:1"]]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
def test_the_ends_of_a_whole_number_type_are_ranked_without_overflow(dtype: Any) -> None:
    info = np.iinfo(dtype)
    assert ranked([[info.min, 1, info.max]], 3, dtype=dtype) == [[f"{info.max}:2", "1:1", f"{info.min}:0"]]


def test_equal_values_come_in_order_of_their_index() -> None:
    assert ranked([[2, 5, 2, 5]], 4) == [["5.000000:1", "5.000000:3", "2.000000:0", "2.000000:2"]]


def test_what_is_not_a_number_comes_last_and_the_infinities_at_their_ends() -> None:
    values = [[np.nan, -np.inf, 0, np.inf]]
    assert ranked(values, 4) == [["inf:3", "0.000000:2", "-inf:1", "nan:0"]]


def test_more_classes_than_there_are_gives_all_of_them() -> None:
    assert ranked([[1, 2]], 2**63 - 1) == [["2.000000:1", "1.000000:0"]]


def test_what_follows_the_batch_axis_is_one_row_of_classes() -> None:
    assert ranked([[[1, 2], [4, 3]], [[8, 7], [6, 5]]], 1) == [["4.000000:2"], ["8.000000:0"]]


def test_without_a_batch_axis_the_whole_tensor_is_ranked() -> None:
    got = best_classes(np.array([0.5, 1.5, 1], np.float64), 2, LABELS, batched=False)
    assert got.tolist() == ["1.500000:1:bee", "1.000000:2:cat"]


def test_labels_are_left_out_where_a_row_has_no_number_for_each() -> None:
    assert ranked([2, 0], 1, LABELS, np.int64) == [["2:0"], ["0:0"]]
    assert ranked([[[1, 2], [4, 3]]], 1, LABELS) == [["4.000000:2"]]


def test_axes_of_one_place_do_not_hide_the_classes() -> None:
    assert ranked([[[1], [3], [2]]], 1, LABELS) == [["3.000000:1:bee"]]


def test_an_index_beyond_the_labels_or_with_an_empty_one_has_none() -> None:
    assert ranked([[1, 2, 3]], 3, ["ant", ""]) == [["3.000000:2", "2.000000:1", "1.000000:0:ant"]]


def test_rows_without_elements_have_no_classes() -> None:
    assert best_classes(np.empty((2, 0), np.float32), 3, None, batched=True).shape == (2, 0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12), st.integers(1, 14))
def test_the_order_is_that_of_a_stable_sort(values: list[float], count: int) -> None:
    order = sorted(range(len(values)), key=lambda index: -values[index])[:count]
    assert ranked([values], count) == [[f"{values[index]:.6f}:{index}" for index in order]]


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_elements_that_are_no_numbers_cannot_be_ranked(datatype: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"^class result not available for output 'out' .* unsupported type '{datatype}'"
    ):
        check_classes("m", spec("out", datatype, 3))


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_one_number_that_decides_between_two_classes_is_not_ranked_alone(output: str) -> None:
    # Its index would be 0, whatever it is: always "no".
    with pytest.raises(
        InvalidInput, match=rf"output '{output}' of model 'm': it is one number .* read 'probabilities'"
    ):
        check_classes("m", spec(output, "FP32", 1), "binary")
    check_classes("m", spec("values", "FP32", 1), "regression")


# Through the front ends


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    onnx_models.write_artifact(models, "single", 1, onnx_models.no_batch_axis(), golden=False, labels=None)
    for name, files in {"one-list": ["same"], "two-lists": ["same", "minus"]}.items():
        folder = onnx_models.write_artifact(
            models, name, 1, onnx_models.two_vectors(), golden=False, labels=None
        ).parent
        outputs = [
            f'{{ name: "{output}" label_filename: "{output}.txt" }}' if output in files else f'{{ name: "{output}" }}'
            for output in ("same", "minus")
        ]
        (folder / "config.pbtxt").write_text(f"output [ {', '.join(outputs)} ]", encoding="utf-8")
        for output in files:
            (folder / f"{output}.txt").write_text("".join(f"{output}{at}\n" for at in range(4)), encoding="utf-8")
    with running(models, transport=request.param, log_level="error", max_batch_size=8) as instance:
        yield instance


@pytest.fixture
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(x: Array, model: str = "linear", **classification: Any) -> pb.ModelInferRequest:
    """A request for outputs by name, with the value of each one's `classification`; None for none."""
    request = pb.ModelInferRequest(model_name=model, id="é/7", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=x.shape)
    for name, parameter in classification.items():
        output = request.outputs.add(name=name)
        if parameter is not None:
            output.parameters["classification"].MergeFrom(pb.InferParameter(**parameter))
    return request


def elements(raw: bytes) -> list[str]:
    """The strings of a BYTES tensor."""
    found, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def test_an_output_is_answered_as_classes_beside_others_as_they_are(stub: Any) -> None:
    x = onnx_models.rows(3)
    request = request_of(x, softmax={"int64_param": 2}, argmax=None, logits={"int64_param": 9})
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    logits = onnx_models.logits_of(x)
    assert (response.model_name, response.model_version, response.id) == ("linear", "1", "é/7")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs] == [
        ("softmax", "BYTES", [3, 2]),
        ("argmax", "INT64", [3]),
        ("logits", "BYTES", [3, 3]),
    ]
    assert np.frombuffer(response.raw_output_contents[1], "<i8").tolist() == logits.argmax(axis=1).tolist()
    best = [index for row in logits for index in np.argsort(-row, kind="stable")]
    found = elements(response.raw_output_contents[2])
    assert found == [
        f"{logits[at // 3, index]:.6f}:{index}:{onnx_models.LABELS[index]}" for at, index in enumerate(best)
    ]
    classes = [element.split(":")[1:] for element in elements(response.raw_output_contents[0])]
    assert classes == [element.split(":")[1:] for at, element in enumerate(found) if at % 3 < 2]


def test_a_network_without_a_batch_axis_answers_classes_without_one(stub: Any) -> None:
    x = onnx_models.rows(1)[0]
    response = stub.ModelInfer(request_of(x, "single", scores={"int64_param": 1}), timeout=TIMEOUT_S)
    scores = onnx_models.logits_of(x[None])[0]
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1])
    assert elements(response.raw_output_contents[0]) == [f"{scores.max():.6f}:{scores.argmax()}"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("two-lists", {"same": "9.000000:3:same3", "minus": "-1.000000:0:minus0"}),
        ("one-list", {"same": "9.000000:3:same3", "minus": "-1.000000:0"}),
    ],
)
def test_the_classes_of_an_output_have_the_labels_of_its_own_file_and_without_one_none(
    stub: Any, model: str, expected: dict[str, str]
) -> None:
    x = np.array([[1, 2, 3, 9]], np.float32)
    for output, best in expected.items():
        response = stub.ModelInfer(request_of(x, model, **{output: {"int64_param": 1}}), timeout=TIMEOUT_S)
        assert elements(response.raw_output_contents[0]) == [best]


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"int64_param": 0}, "invalid value for 'classification' parameter for output 'softmax', expected how many classes, > 0, got 0"),
        ({"int64_param": -1}, "invalid value for 'classification' parameter for output 'softmax'"),
        ({"string_param": "3"}, "invalid value type for 'classification' parameter for output 'softmax', expected int64_param, got string_param"),
        ({}, "invalid value type for 'classification' parameter for output 'softmax', expected int64_param, got no value"),
    ],
)  # fmt: skip
def test_a_wrong_number_of_classes_is_refused(stub: Any, parameter: dict[str, Any], message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_of(onnx_models.rows(1), softmax=parameter), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").removeprefix("[request id: é/7] ").startswith(message)


def test_classes_of_strings_are_refused(stub: Any) -> None:
    request = pb.ModelInferRequest(model_name="text", raw_input_contents=[b"\0\0\0\0" * 2])
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 2])
    request.outputs.add(name="echo").parameters["classification"].int64_param = 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("class result not available for output 'echo' of model 'text'")
