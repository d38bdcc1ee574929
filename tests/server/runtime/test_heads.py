"""Softmax and argmax behind the logits: for which graphs, and that they compute what numpy computes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.graph.heads import Heads, add_heads
from tests.support import onnx_models

Array = np.ndarray[Any, Any]

NAMES = ["logits", "frostline_softmax", "frostline_argmax", "frostline_confidence"]
LINEAR = onnx_models.HEADS
DENSE = replace(LINEAR, confidence="")


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
    return readings(onnx_models.passed_through(["rows", array.shape[1]], element=element, opset=opset), array)


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
    assert heads == replace(LINEAR, logits=name)
    assert [output.name for output in model.graph.output] == [name, *NAMES[1:]]


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.two_outputs,
        onnx_models.strings,
        lambda: onnx_models.passed_through(["rows", "time", 5]),
        lambda: onnx_models.passed_through(["rows", 0]),
        onnx_models.no_batch_axis,
        lambda: onnx_models.passed_through(["rows", "found"]),
        lambda: onnx_models.passed_through(["rows", 1]),
        lambda: onnx_models.passed_through(["rows", 1, 5, 5]),
        onnx_models.sequences,
        lambda: onnx_models.passed_through(["rows", 3], element=TensorProto.INT64),
        lambda: onnx_models.passed_through(["rows", 3], element=TensorProto.BFLOAT16),
    ],
    ids=[
        "two outputs", "strings", "a row for each moment", "no classes", "a vector", "as many as are found", "one number",
        "one number for each pixel", "a sequence", "whole numbers", "brain floats",
    ],
)  # fmt: skip
def test_any_other_graph_is_left_as_it_is(build: Callable[[], onnx.ModelProto]) -> None:
    assert add_heads(build()) == (None, b"")


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


def test_asking_for_argmax_alone_is_allowed() -> None:
    model = onnx_models.linear()
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = onnx_models.rows(3)
    (argmax,) = session.run(["frostline_argmax"], {"input": x})
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
    assert heads == DENSE
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    softmax, argmax = session.run(["frostline_softmax", "frostline_argmax"], {"input": x})
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(x), rtol=2e-3 if x.dtype == np.float16 else 1e-5)
    np.testing.assert_array_equal(argmax, x.argmax(axis=1))
    assert (softmax.dtype, argmax.shape) == (x.dtype, (2, *shape))


def test_of_equal_logits_at_a_place_argmax_takes_the_lowest_index() -> None:
    model = onnx_models.dense()
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (argmax,) = session.run(["frostline_argmax"], {"input": np.ones((2, 2, 3, 3), np.float32)})
    assert not argmax.any()


def test_a_map_with_any_number_of_places_has_heads_too() -> None:
    model = onnx_models.passed_through(["rows", 2, "height", "width"])
    _, model = with_heads(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (argmax,) = session.run(["frostline_argmax"], {"input": onnx_models.rows(2, 2, 5, 4)})
    assert argmax.shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("task", "gets_heads"), [("single-label", True), ("multi-label", False), ("regression", False)]
)
def test_only_networks_that_choose_one_class_get_heads(task: str, *, gets_heads: bool) -> None:
    model = onnx_models.linear()
    onnx.helper.set_model_props(model, {"frostline.task": task})
    assert (add_heads(model)[0] is not None) is gets_heads


# Names


@pytest.mark.parametrize(
    "name", ["softmax", "argmax", "frostline_confidence", "frostline_softmax", "frostline__argmax"]
)
@pytest.mark.parametrize("place", ["input", "weights", "product", "logits", "node"])
def test_no_name_in_a_file_is_in_the_way_of_its_heads(name: str, place: str) -> None:
    model = onnx_models.linear()
    graph = model.graph
    for node in graph.node:
        node.input[:] = [name if one == place else one for one in node.input]
        node.output[:] = [name if one == place else one for one in node.output]
    if place == "node":
        graph.node[0].name = name
    values: list[Any] = [*graph.input, *graph.output, *graph.initializer]
    for value in values:
        value.name = name if value.name == place else value.name
    heads, model = with_heads(model)
    assert heads is not None
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = onnx_models.rows(5)
    asked = [heads.logits, heads.softmax, heads.argmax, heads.confidence]
    logits, softmax, argmax, confidence = session.run(asked, {graph.input[0].name: x})
    np.testing.assert_array_equal(logits, onnx_models.logits_of(x))
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(logits), rtol=1e-5)
    assert (argmax.tolist(), confidence.tolist()) == (logits.argmax(axis=1).tolist(), softmax.max(axis=1).tolist())


def test_names_inside_the_bodies_of_a_graph_are_not_taken_either() -> None:
    scores = helper.make_tensor_value_info("frostline_softmax", TensorProto.FLOAT, ["rows", 3])
    body = helper.make_graph([helper.make_node("Neg", ["product"], ["frostline_softmax"])], "body", [], [scores])
    other = helper.make_graph([helper.make_node("Abs", ["product"], ["frostline_softmax_"])], "other", [], [])
    other.output.add().CopyFrom(scores)
    other.output[0].name = "frostline_softmax_"
    model = onnx_models.linear()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    branch = helper.make_node("If", ["yes"], ["chosen"], then_branch=body, else_branch=other)
    last = helper.make_node("Add", ["chosen", "bias"], ["logits"])
    model.graph.node[1].CopyFrom(branch)
    model.graph.node.append(last)
    heads, _ = with_heads(model)
    assert heads is not None
    assert heads.softmax == "frostline__softmax"
    x = onnx_models.rows(2)
    logits, softmax, _, _ = readings(model, x)
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(logits), rtol=1e-5)


@pytest.mark.parametrize(
    ("own", "offered"),
    [
        ("logits", {"logits": "logits", "frostline_softmax": "softmax", "frostline_argmax": "argmax"}),
        ("softmax", {"softmax": "softmax", "frostline_argmax": "argmax"}),
        ("argmax", {"argmax": "argmax", "frostline_softmax": "softmax"}),
    ],
)
def test_an_output_of_the_file_keeps_its_name_for_clients(own: str, offered: dict[str, str]) -> None:
    heads, _ = with_heads(onnx_models.linear(output=own))
    assert heads is not None
    assert heads.offered((own,)) == offered


# Operator sets


@pytest.mark.parametrize(("ir", "opset"), [(4, 7), (6, 7), (7, 13), (8, 13), (10, 13)])
def test_a_file_without_the_default_operator_set_gets_one_that_fits_its_format(ir: int, opset: int) -> None:
    model = onnx_models.learner(
        "LinearClassifier",
        coefficients=onnx_models.WEIGHTS.T.ravel().tolist(),
        intercepts=onnx_models.BIAS.tolist(),
        classlabels_ints=[0, 1, 2],
        post_transform="SOFTMAX",
    )
    model.ir_version = ir
    heads, model = with_heads(model)
    assert heads == replace(LINEAR, logits="probabilities", probabilities=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("ai.onnx.ml", 1), ("", opset)]
    x = onnx_models.rows(5)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    label, softmax, argmax, confidence = session.run(["label", *NAMES[1:]], {"input": x})
    expected = onnx_models.softmax_of(onnx_models.logits_of(x))
    np.testing.assert_allclose(softmax, expected, rtol=1e-5, atol=1e-7)
    assert label.tolist() == argmax.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_array_equal(confidence, softmax.max(axis=1))


def test_operators_whose_set_the_file_does_not_name_keep_the_one_onnx_runtime_takes() -> None:
    model = onnx_models.linear()
    del model.opset_import[:]
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    assert add_heads(model) == (None, b"")


# Answers of another shape than the file says


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("declared", [["rows", 3], ["rows", 3, "width"]])
@pytest.mark.parametrize("shape", [[12], [4, 3], [3, 4], [2, 3, 2], [2, 2, 3], [1, 2, 3, 2], [0, 3], [3, 0], [0], []])
def test_an_answer_of_another_shape_than_the_file_says_is_given_as_it_is(
    opset: int, declared: list[int | str], shape: list[int]
) -> None:
    heads, model = with_heads(onnx_models.zeros(declared, opset=opset))
    assert heads is not None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [heads.logits, heads.softmax, heads.argmax, *([heads.confidence] if heads.confidence else [])]
    output, softmax, argmax, *confidence = session.run(names, {"shape": np.array(shape, np.int64)})
    assert output.shape == tuple(shape)
    fits = len(shape) == len(declared) and shape[1] == 3
    assert softmax.shape == (output.shape if fits else (0,) * len(declared))
    np.testing.assert_allclose(softmax, np.full(softmax.shape, 1 / 3), rtol=1e-6)
    assert argmax.shape == ((*shape[:1], *shape[2:]) if fits else (0,) * (len(declared) - 1))
    assert [one.shape for one in confidence] == [argmax.shape][: len(confidence)]


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_heads_that_may_be_empty_keep_the_networks_own_precision(element: int) -> None:
    heads, model = with_heads(onnx_models.zeros(["rows", 3], element=element))
    assert heads is not None
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape, expected in (([2, 3], [1 / 3] * 2), ([6], [])):
        softmax, confidence = session.run([heads.softmax, heads.confidence], {"shape": np.array(shape)})
        assert softmax.dtype == confidence.dtype == helper.tensor_dtype_to_np_dtype(element)
        np.testing.assert_allclose(confidence, expected, rtol=1e-3)


def test_before_branches_could_differ_in_shape_such_a_file_is_left_as_it_is() -> None:
    assert add_heads(onnx_models.zeros(["rows", 3], opset=9)) == (None, b"")


def test_a_file_that_contradicts_its_own_graph_is_left_as_it_is() -> None:
    shapes: list[list[str | int | None]] = [["rows", 4], ["rows", 3, 1], ["rows"]]
    for shape in shapes:
        model = onnx_models.linear()
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
        assert add_heads(model) == (None, b"")
