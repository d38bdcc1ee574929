"""Divisions of whole numbers: the lowest number divided by -1, which no type holds, ends the whole process in a kernel.

A client may send both. Divisions in the bodies of other nodes and in functions stay as they are.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.graph.shape_inference import inferred
from frostline_server.runtime.graph.traversal import STANDARD, constants_of, opset_of, unused_prefix

_SIGNED = (TensorProto.INT32, TensorProto.INT64)
"""Shorter ones are divided as longer ones."""
_OPSET_OF_WHERE = 9


def guard_divisions(model: onnx.ModelProto) -> bool:
    """Have the divisions of whole numbers in a graph take no divisor of -1; returns whether there are any.

    x / -1 becomes x / 1 * -1, the same for all numbers but the lowest, of which that is the lowest itself.
    """
    constants = constants_of(model.graph)
    for value in model.graph.input:
        constants.pop(value.name, None)
    doubtful = [node for node in model.graph.node if _divides(node) and not _is_safe(constants.get(node.input[1]))]
    if not doubtful or opset_of(model) < _OPSET_OF_WHERE:
        return False
    types = _types(model)
    found = {id(node): types.get(node.output[0]) for node in doubtful if types.get(node.output[0]) in _SIGNED}
    if not found:
        return False
    prefix = unused_prefix(model, "guarded_")
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        element = found.get(id(node))
        nodes.extend([node] if element is None else _guarded(node, element, f"{prefix}{number}_"))
    kept = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept.node)
    return True


def _divides(node: onnx.NodeProto) -> bool:
    if node.domain not in STANDARD or len(node.input) != 2 or node.op_type not in ("Div", "Mod"):
        return False
    # With fmod, it is done in floating point.
    return not any(attribute.name == "fmod" and attribute.i for attribute in node.attribute)


def _is_safe(divisor: onnx.TensorProto | None) -> bool:
    """Whether a divisor is the same in each run, and never -1."""
    if divisor is None or divisor.data_location == TensorProto.EXTERNAL:
        return False
    return not bool(np.any(numpy_helper.to_array(divisor) == -1))


def _types(model: onnx.ModelProto) -> Mapping[str, int]:
    """The types of the tensors of a graph, as far as they follow from it."""
    try:
        graph = inferred(model)
    except Exception:  # noqa: BLE001  whatever a damaged file raises; whoever opens the session says what is wrong with it
        return {}
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


def _guarded(node: onnx.NodeProto, element: int, prefix: str) -> Iterator[onnx.NodeProto]:
    """The nodes in the place of a division."""
    minus, one, turned, divisor, quotient, sign = (
        f"{prefix}{name}" for name in ("minus", "one", "turned", "divisor", "quotient", "sign")
    )
    for name, number in ((minus, -1), (one, 1)):
        yield helper.make_node("Constant", [], [name], value=helper.make_tensor(name, element, [], [number]))
    yield helper.make_node("Equal", [node.input[1], minus], [turned])
    yield helper.make_node("Where", [turned, one, node.input[1]], [divisor])
    own = onnx.NodeProto()
    own.CopyFrom(node)
    own.input[1] = divisor
    if node.op_type == "Mod":
        yield own
        return
    own.output[0] = quotient
    yield own
    yield helper.make_node("Where", [turned, minus, one], [sign])
    yield helper.make_node("Mul", [quotient, sign], list(node.output))
