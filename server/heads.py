"""Graph surgery: softmax and argmax behind the logits, so that they run on the device with the network.

The rule for which graphs get heads: exactly one output, a float tensor [N, C], and no `frostline.task` in the file's metadata
that says it is something else than one class for each row (a regression, several labels at once). Softmax subtracts each row's true
maximum (ONNX Runtime's kernel does), and argmax takes the lowest index on a tie.
"""

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

SINGLE_LABEL = "single-label"
SOFTMAX = "softmax"
ARGMAX = "argmax"
CONFIDENCE = "frostline_confidence"
"""The predicted class's probability, [N]; computed for the metrics, never offered to clients."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class Heads:
    """Names of the outputs that read one network's last layer."""

    logits: str
    softmax: str = SOFTMAX
    argmax: str = ARGMAX
    confidence: str = CONFIDENCE


def add_heads(model: onnx.ModelProto) -> Heads | None:
    """Append the heads to `model`, in place, if its one output is a float tensor [N, C].

    Returns:
        The outputs' names, or None when the graph is to be served as it is.
    """
    graph = model.graph
    if len(graph.output) != 1 or _task(model) != SINGLE_LABEL:
        return None
    logits = graph.output[0]
    tensor = logits.type.tensor_type
    if tensor.elem_type not in _FLOATS or len(tensor.shape.dim) != 2:
        return None
    taken = {name for node in graph.node for name in node.output}
    taken |= {value.name for value in graph.input} | {constant.name for constant in graph.initializer}
    if taken & {SOFTMAX, ARGMAX, CONFIDENCE}:
        return None
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    # Which of equal maxima ArgMax picks is part of its definition only from opset 12 on.
    first_index: dict[str, Any] = {"select_last_index": 0} if opset >= 12 else {}
    graph.node.extend(
        [
            helper.make_node("Softmax", [logits.name], [SOFTMAX], name=f"{SOFTMAX}_head", axis=1),
            helper.make_node(
                "ArgMax", [logits.name], [ARGMAX], name=f"{ARGMAX}_head", axis=1, keepdims=0, **first_index
            ),
        ]
    )
    # ReduceMax took its axes as an attribute before opset 18 and as an input since.
    if opset >= 18:
        axes = f"{CONFIDENCE}_axes"
        graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [1], [1]))
        graph.node.append(
            helper.make_node("ReduceMax", [SOFTMAX, axes], [CONFIDENCE], name=f"{CONFIDENCE}_head", keepdims=0)
        )
    else:
        graph.node.append(
            helper.make_node("ReduceMax", [SOFTMAX], [CONFIDENCE], name=f"{CONFIDENCE}_head", axes=[1], keepdims=0)
        )
    rows, classes = (_dimension(dim) for dim in tensor.shape.dim)
    graph.output.extend(
        [
            helper.make_tensor_value_info(SOFTMAX, tensor.elem_type, [rows, classes]),
            helper.make_tensor_value_info(ARGMAX, TensorProto.INT64, [rows]),
            helper.make_tensor_value_info(CONFIDENCE, tensor.elem_type, [rows]),
        ]
    )
    return Heads(logits=logits.name)


def _task(model: onnx.ModelProto) -> str:
    return next((entry.value for entry in model.metadata_props if entry.key == "frostline.task"), SINGLE_LABEL)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> str | int | None:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None
