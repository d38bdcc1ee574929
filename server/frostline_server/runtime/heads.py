"""Classification heads: softmax and argmax nodes, appended to the graph after its logits.

They run on the device with the network.

The rule for which graphs get heads: exactly one output, a float tensor [N, C] or, as for a class at each pixel, [N,
C, ...] with C fixed, and no `frostline.task` in the file's metadata that says it is something else than one class for
each row (a regression, several labels at once). The classes are axis 1. Softmax subtracts the true maximum (ONNX
Runtime's kernel does), and argmax takes the lowest index on a tie.
"""

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

SINGLE_LABEL = "single-label"
SOFTMAX = "softmax"
ARGMAX = "argmax"
CONFIDENCE = "frostline_confidence"
"""The predicted class's probability, [N]; computed for the metrics, never offered to clients.

Not for a class at each pixel: moving all of them off the device for every batch would cost more than the answer.
"""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class Heads:
    """Names of the outputs that read one network's last layer.

    Attributes:
        logits: the network's own output, [N, C, ...].
        softmax: probabilities, [N, C, ...].
        argmax: indices of the most probable classes, [N, ...].
        confidence: their probabilities, [N]; "" where there is more than one class for each row.
    """

    logits: str
    softmax: str = SOFTMAX
    argmax: str = ARGMAX
    confidence: str = CONFIDENCE


def add_heads(model: onnx.ModelProto) -> tuple[Heads | None, bytes]:
    """The heads of a network whose one output is a float tensor [N, C] or [N, C, ...].

    Returns:
        The outputs' names, and what to append to the serialised network to add them: protobuf merges messages that follow
        each other. None and nothing when the graph is to be served as it is.
    """
    addition = onnx.ModelProto()
    heads = _add_heads(model, addition.graph)
    return heads, addition.SerializeToString() if heads else b""


def _add_heads(model: onnx.ModelProto, added: onnx.GraphProto) -> Heads | None:
    graph = model.graph
    if len(graph.output) != 1 or _task(model) != SINGLE_LABEL:
        return None
    logits = graph.output[0]
    tensor = logits.type.tensor_type
    shape = [_dimension(dim) for dim in tensor.shape.dim]
    if tensor.elem_type not in _FLOATS or len(shape) < 2 or shape[1] == 0:
        return None
    if len(shape) > 2 and not isinstance(shape[1], int):
        # An axis of any size, such as time, cannot be the class axis.
        return None
    taken = {name for node in graph.node for name in node.output}
    taken |= {value.name for value in graph.input} | {constant.name for constant in graph.initializer}
    if taken & {SOFTMAX, ARGMAX, CONFIDENCE}:
        return None
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    # Which of equal maxima ArgMax picks is part of its definition only from opset 12 on.
    first_index: dict[str, Any] = {"select_last_index": 0} if opset >= 12 else {}
    added.node.extend(_softmax(logits.name, len(shape), opset))
    added.node.append(
        helper.make_node("ArgMax", [logits.name], [ARGMAX], name=f"{ARGMAX}_head", axis=1, keepdims=0, **first_index)
    )
    added.output.extend(
        [
            helper.make_tensor_value_info(SOFTMAX, tensor.elem_type, shape),
            helper.make_tensor_value_info(ARGMAX, TensorProto.INT64, [shape[0], *shape[2:]]),
        ]
    )
    if len(shape) > 2:
        return Heads(logits.name, confidence="")
    # ReduceMax took its axes as an attribute before opset 18 and as an input since.
    axes: dict[str, Any] = {"axes": [1]} if opset < 18 else {}
    inputs = [SOFTMAX]
    if opset >= 18:
        inputs.append(f"{CONFIDENCE}_axes")
        added.initializer.append(helper.make_tensor(inputs[1], TensorProto.INT64, [1], [1]))
    added.node.append(
        helper.make_node("ReduceMax", inputs, [CONFIDENCE], name=f"{CONFIDENCE}_head", keepdims=0, **axes)
    )
    added.output.append(helper.make_tensor_value_info(CONFIDENCE, tensor.elem_type, shape[:1]))
    return Heads(logits.name)


def _softmax(logits: str, rank: int, opset: int) -> list[onnx.NodeProto]:
    if rank == 2 or opset >= 13:
        return [helper.make_node("Softmax", [logits], [SOFTMAX], name=f"{SOFTMAX}_head", axis=1)]
    # Before opset 13 Softmax ran over all axes from the given one on, so the class axis moves last and back.
    there, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    last, probabilities = f"{SOFTMAX}_last", f"{SOFTMAX}_probabilities"
    return [
        helper.make_node("Transpose", [logits], [last], name=f"{SOFTMAX}_there", perm=there),
        helper.make_node("Softmax", [last], [probabilities], name=f"{SOFTMAX}_head", axis=rank - 1),
        helper.make_node("Transpose", [probabilities], [SOFTMAX], name=f"{SOFTMAX}_back", perm=back),
    ]


def _task(model: onnx.ModelProto) -> str:
    return next((entry.value for entry in model.metadata_props if entry.key == "frostline.task"), SINGLE_LABEL)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> str | int | None:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None
