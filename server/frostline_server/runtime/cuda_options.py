"""Options of the CUDA execution provider for one network: CUDA graphs and the precision of its arithmetic."""

import math
from collections.abc import Mapping, Sequence

import onnx
import onnx.inliner
import onnx.shape_inference

from frostline_server.runtime.devices import CUDA, Provider


def graphs_wanted(providers: Sequence[Provider], model: onnx.ModelProto, run_entries: Mapping[str, str]) -> bool:
    """Whether capturing CUDA graphs is worth trying; whether it works, ONNX Runtime says when the session is opened.

    Args:
        providers: of the session, best first.
        model: the network.
        run_entries: of every run's configuration.
    """
    name, options = providers[0]
    if name != CUDA or options.get("enable_cuda_graph", "1") != "1":
        return False
    # Shrinking the arena after a run would take the memory from under the graphs.
    if any("gpu" in value for value in run_entries.values()):
        return False
    return replayable(model)


def replayable(model: onnx.ModelProto) -> bool:
    """Whether a run does the same work for any input, so that a captured run can be replayed for another input.

    It does where the batch decides the size of every tensor. A kernel whose output size depends on the data (NonZero, say)
    asks the device for that size, and gets a wrong one while a graph is captured. The graph then reads memory that belongs to
    nobody, and the CUDA context of the whole process is lost. A network that draws random numbers would draw the same numbers
    in every replay.
    """
    try:
        # A function's nodes count as the graph's own.
        skeleton = onnx.inliner.inline_local_functions(_skeleton(model))
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # noqa: BLE001  of no public class; whoever opens the session says what is wrong with the network
        return False
    if not inferred.input or any(node.op_type in _RANDOM or _has_body(node) for node in inferred.node):
        return False
    known = {value.name for value in (*inferred.value_info, *inferred.output) if _fixed_size(value)}
    return all(_fixed_size(value) for value in inferred.input) and all(
        name in known for node in inferred.node for name in node.output if name
    )


_RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_SMALL = 1024
"""Elements of a constant that may be a shape. The contents of larger constants decide no size, and are left out."""
_SOME_ROWS = 3


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network without the contents of its weights, and with a batch of some size."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for constant in model.graph.initializer:
        if math.prod(constant.dims) <= _SMALL and constant.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(constant)
        else:
            graph.initializer.add(name=constant.name, dims=constant.dims, data_type=constant.data_type)
    constants = {constant.name for constant in model.graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and value.name not in constants and not dims[0].HasField("dim_value"):
            dims[0].dim_value = _SOME_ROWS
    for value in graph.output:
        # What the file says of them may be less than what follows.
        value.type.tensor_type.ClearField("shape")
    return skeleton


def _fixed_size(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def with_precision(providers: Sequence[Provider], graph: onnx.GraphProto) -> list[Provider]:
    """The same providers, with CUDA told not to shorten numbers to TensorFloat-32 unless the network's own are as short.

    TensorFloat-32 keeps 10 bits of a number, and logits move by more than a golden sample's usual tolerance. Half precision has
    no more bits to lose, and without TensorFloat-32 ONNX Runtime looks for its convolutions without tensor cores first, in vain.

    Args:
        providers: of the session, best first; an option that is set already stays.
        graph: the network's.
    """
    if any(constant.data_type in _HALF and len(constant.dims) > 1 for constant in graph.initializer):
        return list(providers)
    return [(name, {"use_tf32": "0", **options} if name == CUDA else options) for name, options in providers]


_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def with_graphs(providers: Sequence[Provider], *, enabled: bool) -> list[Provider]:
    """The same providers, with CUDA told to capture graphs, or not to, which is its own default."""
    return [(name, _switched(options, enabled=enabled) if name == CUDA else options) for name, options in providers]


def _switched(options: Mapping[str, str], *, enabled: bool) -> dict[str, str]:
    others = {name: value for name, value in options.items() if name != "enable_cuda_graph"}
    return {**others, "enable_cuda_graph": "1"} if enabled else others
