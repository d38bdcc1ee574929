"""Options of the CUDA provider, decided without a GPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from frostline_server.model_config.accelerators import TENSORRT
from frostline_server.runtime.cuda_options import graphs_wanted, replayable, with_graphs, with_precision
from frostline_server.runtime.devices import CPU, CUDA, Provider
from tests.support import onnx_models

GPU: list[Provider] = [(CUDA, {"device_id": "0"}), (CPU, {})]


@pytest.mark.parametrize(
    ("providers", "model", "entries", "wanted"),
    [
        (GPU, onnx_models.linear(), {}, True),
        (GPU, onnx_models.two_inputs(), {}, True),
        (GPU, onnx_models.fixed_batch(), {}, True),
        ([(CUDA, {"device_id": "0", "enable_cuda_graph": "0"}), (CPU, {})], onnx_models.linear(), {}, False),
        ([(TENSORRT, {}), *GPU], onnx_models.linear(), {}, False),
        ([(CPU, {})], onnx_models.linear(), {}, False),
        (GPU, onnx_models.dynamic_inner(), {}, False),
        (GPU, onnx_models.constant(), {}, False),
        (GPU, onnx_models.linear(), {"memory.enable_memory_arena_shrinkage": "cpu:0;gpu:0"}, False),
        (GPU, onnx_models.linear(), {"memory.enable_memory_arena_shrinkage": "cpu:0"}, True),
    ],
)
def test_graphs_are_captured_where_shapes_are_fixed_and_memory_stays(
    providers: list[Provider], model: Any, entries: dict[str, str], wanted: bool
) -> None:
    assert graphs_wanted(providers, model, entries) is wanted


def network(*nodes: onnx.NodeProto, constants: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """Input `input` [rows, 4] to logits [rows, 4], whatever the nodes make of it."""
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in ("input", "logits")]
    graph = onnx.helper.make_graph(nodes, "some", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


node = onnx.helper.make_node

BY_DATA = network(
    node("NonZero", ["input"], ["places"]),
    node("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT),
    node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
    node("Add", ["input", "sum"], ["logits"]),
)
"""As many places as the data say: captured, it made a real GPU read memory that was nobody's."""

RANDOM = network(node("RandomNormalLike", ["input"], ["noise"]), node("Add", ["input", "noise"], ["logits"]))


def branch(name: str, kind: str) -> onnx.GraphProto:
    output = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
    return onnx.helper.make_graph([node(kind, ["input"], [name])], name, [], [output])


BRANCHING = network(
    node("ReduceSum", ["input"], ["sum"], keepdims=0),
    node("Cast", ["sum"], ["so"], to=TensorProto.BOOL),
    onnx.helper.make_node(
        "If", ["so"], ["logits"], then_branch=branch("negated", "Neg"), else_branch=branch("absolute", "Abs")
    ),
)

OF_ANOTHER_DOMAIN = network(node("FastGelu", ["input"], ["logits"], domain="com.microsoft"))

RESHAPED = network(
    node("Shape", ["input"], ["shape"], end=1),
    node("Concat", ["shape", "inner"], ["wanted"], axis=0),
    node("Reshape", ["input", "wanted"], ["folded"]),
    node("Reshape", ["folded", "flat"], ["logits"]),
    constants=[
        onnx.numpy_helper.from_array(np.array([2, 2]), "inner"),
        onnx.numpy_helper.from_array(np.array([0, 4]), "flat"),
    ],
)


def in_a_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, all of it in a function of the file's own."""
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    opset = onnx.helper.make_opsetid("", 18)
    body = onnx.helper.make_function("own", "whole", ["input"], ["logits"], model.graph.node, [opset])
    wrapped.functions.append(body)
    wrapped.opset_import.append(onnx.helper.make_opsetid("own", 1))
    del wrapped.graph.node[:]
    wrapped.graph.node.append(node("whole", ["input"], ["logits"], domain="own"))
    return wrapped


DOUBLED = network(node("Add", ["input", "input"], ["logits"]))


@pytest.mark.parametrize(
    ("model", "fixed"),
    [
        (BY_DATA, False),
        (RANDOM, False),
        (BRANCHING, False),
        (OF_ANOTHER_DOMAIN, False),
        (in_a_function(BY_DATA), False),
        (in_a_function(DOUBLED), True),
        (RESHAPED, True),
    ],
    ids=[
        "as long as the data make it",
        "random",
        "branching",
        "of another domain",
        "as long as the data make it, in a function",
        "in a function",
        "reshaped by the batch",
    ],
)
def test_only_what_does_the_same_work_for_any_input_is_replayed(model: onnx.ModelProto, fixed: bool) -> None:
    assert replayable(model) is fixed


def test_what_large_weights_hold_is_not_looked_at() -> None:
    model = onnx_models.product(np.zeros((4, 5000), np.float32))
    for weight in model.graph.initializer:
        weight.ClearField("raw_data")
    assert replayable(model)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (onnx_models.linear(), {}, "0"),
        (onnx_models.linear(), {"use_tf32": "1"}, "1"),
        (onnx_models.linear(element=TensorProto.FLOAT16), {}, None),
        (onnx_models.linear(element=TensorProto.FLOAT16), {"use_tf32": "0"}, "0"),
    ],
)
def test_single_precision_is_not_shortened_unless_a_configuration_says_so(
    model: onnx.ModelProto, options: dict[str, str], told: str | None
) -> None:
    (_, cuda), (_, cpu) = with_precision([(CUDA, {"device_id": "0", **options}), (CPU, {})], model.graph)
    assert (cuda.get("use_tf32"), cpu) == (told, {})


def test_only_cuda_is_told_of_graphs() -> None:
    mixed: list[Provider] = [(CUDA, {"device_id": "1", "enable_cuda_graph": "1"}), (CPU, {})]
    assert with_graphs(GPU, enabled=True) == [(CUDA, {"device_id": "0", "enable_cuda_graph": "1"}), (CPU, {})]
    assert with_graphs(mixed, enabled=False) == [(CUDA, {"device_id": "1"}), (CPU, {})]
