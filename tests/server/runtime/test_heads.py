"""Softmax and argmax behind the logits: for which graphs, and that they compute what numpy computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from frostline_server.runtime.heads import Heads, add_heads
from tests.support import onnx_models

Array = np.ndarray[Any, Any]

NAMES = ["logits", "softmax", "argmax", "frostline_confidence"]


def with_heads(model: onnx.ModelProto) -> tuple[Heads | None, onnx.ModelProto]:
    """The heads' names, and the graph that has them, as a session reads it."""
    before = model.SerializeToString(deterministic=True)
    heads, addition = add_heads(model)
    assert model.SerializeToString(deterministic=True) == before
    return heads, onnx.load_model_from_string(before + addition)


def readings(model: onnx.ModelProto, x: Array) -> list[Array]:
    """Logits, softmax, argmax and confidence of a graph with heads."""
    heads, model = with_heads(model)
    assert heads is not None
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run([heads.logits, heads.softmax, heads.argmax, heads.confidence], {"input": x})
    return outputs


def of_logits(logits: Any, element: int = TensorProto.FLOAT, opset: int = 18) -> list[Array]:
    """The readings of given logits."""
    array = np.array(logits, onnx.helper.tensor_dtype_to_np_dtype(element))
    return readings(onnx_models.passed_through(["rows", "classes"], element=element, opset=opset), array)


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.linear,
        onnx_models.two_inputs,
        onnx_models.half,
        onnx_models.dynamic_inner,
        onnx_models.fixed_batch,
        lambda: onnx_models.linear(element=TensorProto.DOUBLE),
        lambda: onnx_models.linear(batch=None),
        lambda: onnx_models.linear(output="scores"),
    ],
    ids=["linear", "two inputs", "half", "dynamic inner", "fixed batch", "double", "nameless batch axis", "other name"],
)
def test_a_graph_whose_one_output_is_a_float_matrix_gets_heads(build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    name = model.graph.output[0].name
    heads, model = with_heads(model)
    assert heads == Heads(logits=name)
    assert [output.name for output in model.graph.output] == [name, *NAMES[1:]]


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.two_outputs,
        onnx_models.strings,
        lambda: onnx_models.passed_through(["rows", "time", 5]),
        lambda: onnx_models.passed_through(["rows", 0]),
        onnx_models.no_batch_axis,
        onnx_models.already_softmax,
        onnx_models.sequences,
        lambda: onnx_models.passed_through(["rows", 3], element=TensorProto.INT64),
        lambda: onnx_models.passed_through(["rows", 3], element=TensorProto.BFLOAT16),
        lambda: onnx_models.linear(output="argmax"),
        lambda: onnx_models.linear(output="frostline_confidence"),
    ],
    ids=[
        "two outputs", "strings", "a row for each moment", "no classes", "a vector", "a softmax of its own", "a sequence", "whole numbers",
        "brain floats", "an argmax of its own", "a name of ours",
    ],
)  # fmt: skip
def test_any_other_graph_is_left_as_it_is(build: Callable[[], onnx.ModelProto]) -> None:
    assert add_heads(build()) == (None, b"")


def test_an_input_that_is_called_softmax_keeps_the_graph_as_it_is() -> None:
    model = onnx_models.linear()
    model.graph.input[0].name = model.graph.node[0].input[0] = "softmax"
    assert add_heads(model) == (None, b"")


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17, 18, 21])
def test_the_heads_compute_what_numpy_computes_in_every_operator_set(opset: int) -> None:
    x = onnx_models.rows(7)
    logits, softmax, argmax, confidence = readings(onnx_models.linear(opset=opset), x)
    np.testing.assert_array_equal(logits, onnx_models.logits_of(x))
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(logits), rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(argmax, logits.argmax(axis=1))
    np.testing.assert_array_equal(confidence, softmax.max(axis=1))
    assert (softmax.dtype, argmax.dtype) == (np.dtype(np.float32), np.dtype(np.int64))


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_the_heads_keep_the_networks_own_precision(element: int) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    logits, softmax, argmax, confidence = readings(
        onnx_models.linear(element=element), onnx_models.rows(5, dtype=dtype)
    )
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(logits), rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(argmax, logits.argmax(axis=1))
    assert softmax.dtype == confidence.dtype == dtype


@pytest.mark.parametrize(
    "logits", [[5, -100], [-100, 5], [40, -60], [1e4, -1e4], [-1e4, -1e4 - 1], [3e38, -3e38], [88.8, 88.8]]
)
def test_softmax_is_stable_at_extreme_logits(logits: list[float]) -> None:
    array, softmax, argmax, confidence = of_logits([logits])
    assert np.isfinite(softmax).all()
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(array), rtol=1e-6, atol=1e-40)
    assert (argmax[0], confidence[0]) == (softmax[0].argmax(), softmax[0].max())


def test_softmax_is_stable_in_half_precision_too() -> None:
    _, softmax, _, _ = of_logits([[60_000, -60_000, 0]], element=TensorProto.FLOAT16)
    assert softmax.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("opset", [11, 12, 18])
@pytest.mark.parametrize(("logits", "lowest"), [([1, 3, 3], 1), ([0, 0, 0], 0), ([-5, -7, -5], 0), ([2, 1, 2] * 20, 0)])
def test_of_equal_logits_argmax_takes_the_lowest_index(opset: int, logits: list[float], lowest: int) -> None:
    _, _, argmax, _ = of_logits([logits, logits], opset=opset)
    assert argmax.tolist() == [lowest, lowest]


def test_a_network_of_one_class_is_always_sure() -> None:
    _, softmax, argmax, confidence = of_logits([[-3.5], [0]])
    assert (softmax.tolist(), argmax.tolist(), confidence.tolist()) == ([[1], [1]], [0, 0], [1, 1])


def test_asking_for_argmax_alone_is_allowed() -> None:
    model = onnx_models.linear()
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = onnx_models.rows(3)
    (argmax,) = session.run(["argmax"], {"input": x})
    assert argmax.tolist() == onnx_models.logits_of(x).argmax(axis=1).tolist()


def test_the_graph_with_heads_is_still_valid_onnx() -> None:
    for opset in (11, 13, 18):
        model = onnx_models.linear(opset=opset)
        _, model = with_heads(model)
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 18, 21])
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)], ids=["series", "pictures", "volumes"])
def test_a_map_of_logits_is_read_over_the_classes_at_each_place(
    opset: int, element: int, shape: tuple[int, ...]
) -> None:
    model = onnx_models.passed_through(["rows", 3, *shape], element=element, opset=opset)
    heads, model = with_heads(model)
    assert heads == Heads("logits", confidence="")
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    softmax, argmax = session.run(["softmax", "argmax"], {"input": x})
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(x), rtol=2e-3 if x.dtype == np.float16 else 1e-5)
    np.testing.assert_array_equal(argmax, x.argmax(axis=1))
    assert (softmax.dtype, argmax.shape) == (x.dtype, (2, *shape))


def test_of_equal_logits_at_a_place_argmax_takes_the_lowest_index() -> None:
    model = onnx_models.dense()
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (argmax,) = session.run(["argmax"], {"input": np.ones((2, 2, 3, 3), np.float32)})
    assert not argmax.any()


def test_a_map_with_any_number_of_places_has_heads_too() -> None:
    model = onnx_models.passed_through(["rows", 2, "height", "width"])
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (argmax,) = session.run(["argmax"], {"input": onnx_models.rows(2, 2, 5, 4)})
    assert argmax.shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("task", "gets_heads"), [("single-label", True), ("multi-label", False), ("regression", False)]
)
def test_only_networks_that_choose_one_class_get_heads(task: str, *, gets_heads: bool) -> None:
    model = onnx_models.linear()
    onnx.helper.set_model_props(model, {"frostline.task": task})
    assert (add_heads(model)[0] is not None) is gets_heads
