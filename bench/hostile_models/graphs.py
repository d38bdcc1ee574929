"""Hostile ONNX files: graphs that never finish loading, grow, crash their kernels, run for ever, or name files outside.

Every function here makes a way: a callable that writes a hostile model into a folder that does not exist yet.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.hostile_models.files import Build
from frostline.pb import inference_pb2 as pb

Array = np.ndarray[Any, Any]

WIDTH = 4
_TYPES = {"FP32": np.float32, "INT32": np.int32}
_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def later(make: Callable[..., Build], *arguments: Any, **named: Any) -> Build:
    """The way that `make` returns for these arguments, made only when the model is written."""

    def build(folder: Path) -> None:
        make(*arguments, **named)(folder)

    return build


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("logits",), **attributes: Any) -> onnx.NodeProto:
    """A node."""
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array | TensorProto] | None = None,
    *,
    row: Sequence[int | str | None] = (WIDTH,),
    answer: Sequence[int | str | None] = (WIDTH,),
    element: int = _FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> Build:
    """A model of one graph, from `input` [batch, row] to `logits` [batch, answer]."""

    def build(folder: Path) -> None:
        made = helper.make_graph(
            list(nodes),
            "hostile",
            [helper.make_tensor_value_info("input", element, ["batch", *row])],
            [helper.make_tensor_value_info("logits", element, ["batch", *answer])],
            [
                tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(np.asarray(tensor), name)
                for name, tensor in (constants or {}).items()
            ],
        )
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("local", 1)] if functions else [])]
        model = helper.make_model(made, opset_imports=opsets, ir_version=9, functions=list(functions))
        (folder / "1").mkdir(parents=True)
        (folder / "1/model.onnx").write_bytes(model.SerializeToString())

    return build


def nested_functions(levels: int = 30) -> Build:
    """Functions that each call the one below twice: 2^30 nodes once they are written out."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "f0", ["x"], ["y"], [node("Neg", ["x"], ["y"])], opsets)]
    for level in range(1, levels):
        below = f"f{level - 1}"
        calls = [node(below, ["x"], ["m"], domain="local"), node(below, ["m"], ["y"], domain="local")]
        functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], calls, opsets))
    return graph([node(f"f{levels - 1}", ["input"], domain="local")], functions=functions)


def folded(gib: int) -> Build:
    """A constant of so many GiB that is computed while the file is loaded."""
    nodes = [
        node("ConstantOfShape", ["shape"], ["large"]),
        node("ReduceSum", ["large"], ["sum"], keepdims=0),
        node("Add", ["input", "sum"]),
    ]
    return graph(nodes, {"shape": np.array([gib << 28])})


def folded_range(count: int) -> Build:
    """Numbers from 0 to so many, computed while the file is loaded, and added up."""
    nodes = [
        node("Range", ["zero", "count", "one"], ["many"]),
        node("ReduceSum", ["many"], ["sum"], keepdims=0),
        node("Add", ["input", "sum"]),
    ]
    return graph(
        nodes, {"zero": np.array(0, np.float32), "count": np.array(count, np.float32), "one": np.array(1, np.float32)}
    )


def doubled(times: int) -> Build:
    """A constant that is joined to itself so often that it has 2^times elements."""
    nodes = [node("Concat", [f"c{at}", f"c{at}"], [f"c{at + 1}"], axis=0) for at in range(times)]
    nodes += [node("ReduceSum", [f"c{times}"], ["sum"], keepdims=0), node("Add", ["input", "sum"])]
    return graph(nodes, {"c0": np.ones(1, np.float32)})


def multiplied(size: int, times: int) -> Build:
    """Products of large constants, computed while the file is loaded: minutes of arithmetic from a few kilobytes."""
    nodes = [node("ConstantOfShape", ["shape"], ["m0"])]
    nodes += [node("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(times)]
    nodes += [node("ReduceMax", [f"m{times}"], ["most"], keepdims=0), node("Add", ["input", "most"])]
    return graph(nodes, {"shape": np.array([size, size])})


def wide(width: int) -> Build:
    """An output so wide that a single row of it takes hundreds of MB."""
    nodes = [node("ReduceSum", ["input", "axis"], ["one"], keepdims=1), node("Expand", ["one", "shape"])]
    return graph(nodes, {"axis": np.array([1]), "shape": np.array([1, width])}, answer=(width,))


def squared(width: int) -> Build:
    """A table of every element with every other, inside the run: the answer is small, the way to it is not."""
    nodes = [
        node("Expand", ["input", "shape"], ["large"]),
        node("ReduceMean", ["large"], ["mean"], axes=[0, 2], keepdims=0),
        node("Add", ["input", "mean"]),
    ]
    return graph(nodes, {"shape": np.array([width, 1, WIDTH])})


def chain(length: int) -> Build:
    """A chain of so many nodes that differ."""
    nodes = [node("Add", ["input" if at == 0 else f"x{at}", f"c{at % 7}"], [f"x{at + 1}"]) for at in range(length)]
    nodes.append(node("Identity", [f"x{length}"]))
    return graph(nodes, {f"c{at}": np.full(WIDTH, at, np.float32) for at in range(7)})


def deep(levels: int) -> Build:
    """Branches inside branches, so deep that whoever follows them by recursion runs out of stack."""
    value = helper.make_tensor_value_info("deepest", _FLOAT, None)
    branch = helper.make_graph([node("Identity", ["input"], ["deepest"])], "g", [], [value])
    for level in range(levels):
        name = f"y{level}"
        choice = node("If", ["yes"], [name], then_branch=branch, else_branch=branch if level < 1 else _flat(level))
        branch = helper.make_graph([choice], "g", [], [helper.make_tensor_value_info(name, _FLOAT, None)])
    nodes = [node("If", ["yes"], then_branch=branch, else_branch=_flat(levels))]
    return graph(nodes, {"yes": np.array(True)})


def _flat(level: int) -> onnx.GraphProto:
    name = f"e{level}"
    value = helper.make_tensor_value_info(name, _FLOAT, None)
    return helper.make_graph([node("Identity", ["input"], [name])], "g", [], [value])


def declared(*shape: int) -> Build:
    """Weights that say they have this shape, and have 16 bytes."""
    tensor = TensorProto(name="w", data_type=_FLOAT, dims=shape, raw_data=bytes(16))
    return graph([node("MatMul", ["input", "w"])], {"w": tensor}, answer=("any",))


def _body(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array]) -> onnx.GraphProto:
    """A loop's body: from `i`, `go_on`, `a` to `still`, `b`."""
    return helper.make_graph(
        list(nodes),
        "body",
        [
            helper.make_tensor_value_info("i", _INT64, []),
            helper.make_tensor_value_info("go_on", _BOOL, []),
            helper.make_tensor_value_info("a", _FLOAT, None),
        ],
        [helper.make_tensor_value_info("still", _BOOL, []), helper.make_tensor_value_info("b", _FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )


def endless() -> Build:
    """A loop without an end, whatever the input is."""
    body = _body([node("Identity", ["go_on"], ["still"]), node("Sin", ["a"], ["b"])], {})
    return graph([node("Loop", ["", "yes", "input"], body=body)], {"yes": np.array(True)})


def counted(most: int) -> Build:
    """A loop of so many turns, whatever the input is."""
    body = _body([node("Identity", ["go_on"], ["still"]), node("Sin", ["a"], ["b"])], {})
    return graph([node("Loop", ["most", "yes", "input"], body=body)], {"yes": np.array(True), "most": np.array(most)})


def counted_by_input() -> Build:
    """A loop of as many turns as the largest element says."""
    body = _body([node("Identity", ["go_on"], ["still"]), node("Sin", ["a"], ["b"])], {})
    nodes = [
        node("ReduceMax", ["input"], ["largest"], keepdims=0),
        node("Cast", ["largest"], ["turns"], to=_INT64),
        node("Loop", ["turns", "yes", "input"], body=body),
    ]
    return graph(nodes, {"yes": np.array(True)})


def while_positive() -> Build:
    """A loop that goes on while an element is positive, and does not change it."""
    body = _body(
        [
            node("ReduceMax", ["a"], ["largest"], keepdims=0),
            node("Greater", ["largest", "zero"], ["still"]),
            node("Identity", ["a"], ["b"]),
        ],
        {"zero": np.array(0, np.float32)},
    )
    nodes = [
        node("ReduceMax", ["input"], ["first"], keepdims=0),
        node("Greater", ["first", "nothing"], ["begin"]),
        node("Loop", ["", "begin", "input"], body=body),
    ]
    return graph(nodes, {"nothing": np.array(0, np.float32)})


def loops_in_loops() -> Build:
    """A loop of a million turns, in each of which another one takes a million."""
    million = {"million": np.array(1_000_000), "yes": np.array(True)}
    inner = helper.make_graph(
        [node("Identity", ["go_on2"], ["still2"]), node("Sin", ["a2"], ["b2"])],
        "inner",
        [
            helper.make_tensor_value_info("i2", _INT64, []),
            helper.make_tensor_value_info("go_on2", _BOOL, []),
            helper.make_tensor_value_info("a2", _FLOAT, None),
        ],
        [helper.make_tensor_value_info("still2", _BOOL, []), helper.make_tensor_value_info("b2", _FLOAT, None)],
    )
    body = _body([node("Identity", ["go_on"], ["still"]), node("Loop", ["million", "yes", "a"], ["b"], body=inner)], {})
    return graph([node("Loop", ["million", "yes", "input"], body=body)], million)


def large_by_input() -> Build:
    """A run that takes as many MiB as the largest element says."""
    nodes = [
        node("ReduceMax", ["input"], ["largest"], keepdims=0),
        node("Cast", ["largest"], ["mib"], to=_INT64),
        node("Unsqueeze", ["mib", "axis"], ["rows"]),
        node("Concat", ["rows", "width"], ["shape"], axis=0),
        node("Expand", ["one", "shape"], ["large"]),
        node("ReduceSum", ["large"], ["sum"], keepdims=0),
        node("Add", ["input", "sum"]),
    ]
    constants = {"axis": np.array([0]), "width": np.array([1 << 18]), "one": np.ones((1, 1), np.float32)}
    return graph(nodes, constants)


def asked(name: str, value: float, inputs: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    """A request of one row to a hostile model whose elements all have this value.

    Args:
        name: of the model.
        value: of the elements.
        inputs: name, datatype and shape of each, as the server's metadata has them.
    """
    request = pb.ModelInferRequest(model_name=name)
    for key, datatype, shape in inputs:
        array = np.full([1 if size < 0 else size for size in shape], value, _TYPES[datatype])
        request.inputs.add(name=key, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def recurrent(kind: str, gates: int, hidden: int) -> Build:
    """A recurrent operator whose sequence has no step, or whose state no element."""
    sizes = {"w": (1, gates * hidden, WIDTH), "r": (1, gates * hidden, hidden)}
    nodes = [
        node("Unsqueeze", ["input", "axis"], ["steps"]),
        node("Slice", ["steps", "none", "none", "axis"], ["nothing"]),
        node(kind, ["nothing", "w", "r"], ["y", "last"], hidden_size=hidden),
        node("Squeeze", ["last", "axis"]),
    ]
    constants: dict[str, Array] = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    return graph(nodes, constants | {"axis": np.array([0]), "none": np.array([0])}, answer=(hidden,))


def short_time_fourier(step: int) -> Build:
    """A short-time Fourier transform that moves by so many samples."""
    nodes = [node("STFT", ["input", "step", "", "length"], ["spectrum"]), node("Identity", ["spectrum"])]
    constants = {"step": np.array(step), "length": np.array(4)}
    return graph(nodes, constants, row=(64,), answer=("frames", 3, 2))


def divided(kind: str, by: int) -> Build:
    """Whole numbers divided by a constant: by 0, or the smallest number by -1, which processors trap."""
    numbers = {"by": np.array([by], np.int32), "least": np.array([-(2**31)], np.int32)}
    nodes = [node("Add", ["input", "least"], ["numbers"]), node(kind, ["numbers", "by"])]
    return graph(nodes, numbers, element=TensorProto.INT32)


def pooled(**attributes: Any) -> Build:
    """A pooling with senseless attributes."""
    return graph([node("MaxPool", ["input"], **attributes)], row=(1, 8, 8), answer=(1, "h", "w"))


def resized(scale: float) -> Build:
    """An image that is made so many times as large."""
    nodes = [node("Resize", ["input", "", "scales"], mode="nearest")]
    return graph(nodes, {"scales": np.array([1, 1, scale, scale], np.float32)}, row=(1, 8, 8), answer=(1, "h", "w"))


def external(location: str, *, link: str = "", where: str = "initializer", **numbers: int) -> Build:
    """Weights that lie in another file.

    Args:
        location: the file, as the ONNX file names it.
        link: where the file in the version's folder links to; empty for none.
        where: `initializer`, `constant` of a node, `function`, or `sparse` initializer.
        numbers: `offset` and `length` in the file.
    """

    def build(folder: Path) -> None:
        tensor = TensorProto(name="w", data_type=_FLOAT, dims=[WIDTH, WIDTH], data_location=TensorProto.EXTERNAL)
        for key, value in {"location": location, **numbers}.items():
            tensor.external_data.add(key=key, value=str(value))
        constant = helper.make_node("Constant", [], ["w"])
        constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
        product = node("MatMul", ["input", "w"])
        if where == "constant":
            graph([constant, product])(folder)
        elif where == "function":
            inside = [constant, node("MatMul", ["x", "w"], ["y"])]
            function = helper.make_function("local", "f", ["x"], ["y"], inside, [helper.make_opsetid("", 17)])
            graph([node("f", ["input"], domain="local")], functions=[function])(folder)
        else:
            graph([product], {"w": tensor})(folder)
        if link:
            (folder / "1" / location).symlink_to(link)

    return build
