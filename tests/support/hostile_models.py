"""ONNX files that stop, fill or end a process that loads them and runs them once; each is small."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import Array, Dim

_OWN = "hostile"
Value = tuple[int, Sequence[Dim]]
"""An element type and a shape."""


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    constants: Mapping[str, Array] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "hostile",
        [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, *value) for name, value in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid(_OWN, 1)] * bool(functions)
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def _rows(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], **more: Sequence[onnx.FunctionProto]
) -> onnx.ModelProto:
    """From `input` [rows, 4] to `logits` [rows, 4]."""
    four: Value = (TensorProto.FLOAT, ["rows", 4])
    return _model(nodes, {"input": four}, {"logits": four}, constants, **more)


def folded(*, size: int = 1 << 31) -> onnx.ModelProto:
    """A constant of so many floats, by default 8 GiB, which is made when the graph is optimised."""
    return _rows(
        [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("Add", ["zeros", "one"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
            helper.make_node("Add", ["input", "sum"], ["logits"]),
        ],
        {"size": np.array([size]), "one": np.ones(1, np.float32)},
    )


def expanded() -> onnx.ModelProto:
    """The same by Expand."""
    return _rows(
        [
            helper.make_node("Expand", ["one", "size"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
            helper.make_node("Add", ["input", "sum"], ["logits"]),
        ],
        {"size": np.array([1 << 31]), "one": np.ones(1, np.float32)},
    )


def slowly_optimised() -> onnx.ModelProto:
    """A thousand products of constant matrices, which are computed when the graph is optimised: minutes."""
    count = 1000
    nodes = [helper.make_node("Expand", ["half", "size"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(count)]
    nodes += [
        helper.make_node("ReduceSum", [f"m{count}"], ["sum"], keepdims=0),
        helper.make_node("Add", ["input", "sum"], ["logits"]),
    ]
    return _rows(nodes, {"size": np.array([2048, 2048]), "half": np.full(1, 1 / 2048, np.float32)})


def nested_functions(depth: int = 30) -> onnx.ModelProto:
    """A call that stands for 2 to the power of `depth` nodes."""
    functions = [_function("f0", [helper.make_node("Relu", ["x"], ["y"])])]
    for level in range(1, depth):
        calls = [
            helper.make_node(f"f{level - 1}", ["x"], ["h"], domain=_OWN),
            helper.make_node(f"f{level - 1}", ["h"], ["y"], domain=_OWN),
        ]
        functions.append(_function(f"f{level}", calls))
    call = helper.make_node(f"f{depth - 1}", ["input"], ["logits"], domain=_OWN)
    return _rows([call], {}, functions=functions)


def chained_functions(depth: int = 3_000) -> onnx.ModelProto:
    """Functions that call one another, so deep that who follows them runs out of stack."""
    functions = [_function("f0", [helper.make_node("Relu", ["x"], ["y"])])]
    functions += [
        _function(f"f{level}", [helper.make_node(f"f{level - 1}", ["x"], ["y"], domain=_OWN)])
        for level in range(1, depth)
    ]
    return _rows([helper.make_node(f"f{depth - 1}", ["input"], ["logits"], domain=_OWN)], {}, functions=functions)


def _function(name: str, nodes: Sequence[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(
        _OWN, name, ["x"], ["y"], list(nodes), [helper.make_opsetid("", 17), helper.make_opsetid(_OWN, 1)]
    )


def wide() -> onnx.ModelProto:
    """From `input` [rows, 4] to `wide` [rows, 500 000 000]: 2 GB a row."""
    width = 500_000_000
    return _model(
        [
            helper.make_node("MatMul", ["input", "weights"], ["one"]),
            helper.make_node("Expand", ["one", "size"], ["wide"]),
        ],
        {"input": (TensorProto.FLOAT, ["rows", 4])},
        {"wide": (TensorProto.FLOAT, ["rows", width])},
        {"weights": np.ones((4, 1), np.float32), "size": np.array([1, width])},
    )


def endless() -> onnx.ModelProto:
    """A Loop of 2^62 steps in every run."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["rows", 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["rows", 4]),
        ],
    )
    loop = helper.make_node("Loop", ["steps", "yes", "input"], ["logits"], body=body)
    return _rows([loop], {"steps": np.array(1 << 62), "yes": np.array(True)})


def growing() -> onnx.ModelProto:
    """A Loop that keeps a matrix of every step, until memory is full."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Expand", ["x", "size"], ["kept"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, None),
        ],
    )
    return _rows(
        [
            helper.make_node("ReduceSum", ["input"], ["x"], keepdims=0),
            helper.make_node("Loop", ["steps", "yes"], ["all"], body=body),
            helper.make_node("ReduceSum", ["all"], ["sum"], keepdims=0),
            helper.make_node("Add", ["input", "sum"], ["logits"]),
        ],
        {"steps": np.array(1 << 62), "yes": np.array(True), "size": np.array([1 << 20])},
    )


def nested_graphs(depth: int = 2_000) -> bytes:
    """A file of graphs within graphs, deeper than any stack; bytes, because protobuf would not write it."""
    graph = b""
    for _ in range(depth):
        attribute = _field(1, b"then_branch") + _field(6, graph)
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    return _field(7, graph)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that has a length."""
    length, size = b"", len(content)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def without_features() -> onnx.ModelProto:
    """A recurrent layer over an axis of size 0: a check in its threads ends the process with SIGABRT."""
    units = 4
    return _model(
        [helper.make_node("GRU", ["input", "w", "r"], ["all", "last"], hidden_size=units)],
        {"input": (TensorProto.FLOAT, [2, "rows", 0])},
        {"last": (TensorProto.FLOAT, [1, "rows", units])},
        {"w": np.ones((1, 3 * units, 0), np.float32), "r": np.ones((1, 3 * units, units), np.float32)},
    )


def overflowing() -> onnx.ModelProto:
    """A constant that is -2^63 / -1, at which the processor stops the process with SIGFPE."""
    numbers: Value = (TensorProto.INT64, ["rows", 4])
    model = _model(
        [
            helper.make_node("Quotient", ["least", "minus"], ["quotient"], domain="local"),
            helper.make_node("Add", ["input", "quotient"], ["sum"]),
        ],
        {"input": numbers},
        {"sum": numbers},
        {"least": np.full(4, -(2**63)), "minus": np.full(1, -1)},
    )
    # Within a function, where the server lets it be.
    divided = helper.make_node("Div", ["a", "b"], ["c"])
    opset = helper.make_opsetid("", model.opset_import[0].version)
    model.functions.append(helper.make_function("local", "Quotient", ["a", "b"], ["c"], [divided], [opset]))
    model.opset_import.add(domain="local", version=1)
    return model
