"""Shape inference: what follows for every tensor of a graph from the shapes of its inputs.

What the file itself says of its outputs is left out, because files are sometimes wrong about it.
"""

import math

import onnx
import onnx.inliner
import onnx.shape_inference

_SMALL = 1024
"""Elements of a constant that may be a shape. The contents of larger constants decide no size, and are left out."""


def inferred(model: onnx.ModelProto, rows: int | None = None) -> onnx.GraphProto:
    """The graph with the shapes of its tensors, with the nodes of functions in place of their calls, without weights.

    Args:
        model: the network.
        rows: the size of each input's first axis, if the file leaves it free; None leaves it free.

    Raises:
        Exception: of no public class; whoever opens the session says what is wrong with the network.
    """
    skeleton = _skeleton(model, rows)
    if skeleton.functions:
        skeleton = onnx.inliner.inline_local_functions(skeleton)
    return onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph


def _skeleton(model: onnx.ModelProto, rows: int | None) -> onnx.ModelProto:
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
        if rows is not None and dims and value.name not in constants and not dims[0].HasField("dim_value"):
            dims[0].dim_value = rows
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return skeleton
