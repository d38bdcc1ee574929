"""Classification heads: softmax and argmax nodes, appended to the graph after its last layer.

They run on the device with the network, and have names that the file does not use: clients know them by others. Which
graphs get heads, and whether they end at logits or at probabilities, `frostline_server.runtime.graph.last_layer` decides. Softmax
subtracts the true maximum (ONNX Runtime's kernel does), and argmax takes the lowest index on a tie.
"""

from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper

from frostline_server.runtime.graph.last_layer import LastLayer, Meaning, last_layer
from frostline_server.runtime.graph.traversal import STANDARD, graphs, opset_of, unused_prefix

SOFTMAX = "softmax"
ARGMAX = "argmax"


@dataclass(frozen=True, slots=True)
class Heads:
    """Names in the graph of the outputs that tell a network's classes.

    Attributes:
        logits: the file's own output, [N, C, ...]. Where it ends at a softmax, these are probabilities.
        softmax: probabilities, [N, C, ...].
        argmax: indices of the most probable classes, [N, ...].
        confidence: their probabilities, [N]; computed for the metrics, never offered to clients. "" where there is more
            than one class for each row: moving all of them off the device for every batch would cost more than the
            answer.
        probabilities: whether the file's own output is.
        classes: the file's own names of the classes; empty where it has none.
    """

    logits: str
    softmax: str
    argmax: str
    confidence: str = ""
    probabilities: bool = False
    classes: tuple[str, ...] = ()

    def offered(self, own_outputs: tuple[str, ...]) -> dict[str, str]:
        """By what name clients may ask for each of these: an output of the file keeps its own."""
        names = {self.softmax: SOFTMAX, self.argmax: ARGMAX}
        return {name: name for name in own_outputs} | {
            name: public for name, public in names.items() if public not in own_outputs
        }


def add_heads(model: onnx.ModelProto, *, probabilities: bool = False) -> tuple[Heads | None, bytes]:
    """The heads of a network that chooses one of several classes.

    Args:
        model: the network.
        probabilities: whether it is known to end at probabilities, also where its graph does not show it.

    Returns:
        The outputs' names, and what to append to the serialised network to add them: protobuf merges messages that follow
        each other. None and nothing when the graph is to be served as it is.
    """
    layer = last_layer(model)
    addition = onnx.ModelProto()
    opset = _opset(model, addition)
    if layer is not None and probabilities:
        layer = replace(layer, meaning=Meaning.PROBABILITIES)
    if layer is None or opset is None or (not layer.certain and opset < _OPSET_OF_IF):
        return None, b""
    heads = _names(model, layer)
    nodes, values = _nodes(layer, heads, opset)
    if not layer.certain:
        nodes = _guarded(layer, heads, opset)
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    addition.graph.node.extend(nodes)
    addition.graph.output.extend(values)
    return heads, addition.SerializeToString()


def _opset(model: onnx.ModelProto, addition: onnx.ModelProto) -> int | None:
    """The version of the default operator set; added where the file has none. None where that could change the file's meaning."""
    if any(entry.domain in STANDARD for entry in model.opset_import):
        return opset_of(model)
    if any(node.domain in STANDARD for graph in graphs(model.graph) for node in graph.node):
        # ONNX Runtime takes its newest for these.
        return None
    opset = 13 if model.ir_version >= _IR_OF_OPSET_13 else 7
    addition.opset_import.add(domain="", version=opset)
    return opset


_IR_OF_OPSET_13 = 7
_OPSET_OF_IF = 11
"""From this operator set on, the branches of an If may have different shapes."""


def _names(model: onnx.ModelProto, layer: LastLayer) -> Heads:
    """Names of the heads that begin as no name in the file does."""
    prefix = unused_prefix(model, "frostline_")
    own = layer.meaning is Meaning.PROBABILITIES and layer.name == SOFTMAX
    return Heads(
        logits=layer.name,
        softmax=layer.name if own else f"{prefix}softmax",
        argmax=f"{prefix}argmax",
        confidence="" if len(layer.shape) > 2 else f"{prefix}confidence",
        probabilities=layer.meaning is Meaning.PROBABILITIES,
        classes=layer.classes,
    )


def _nodes(layer: LastLayer, heads: Heads, opset: int) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    """The nodes of the heads, and their outputs."""
    element, shape = layer.element, layer.shape
    nodes, values = [], []
    if heads.softmax != layer.name:
        nodes += _softmax(layer, heads.softmax, opset)
        values.append(helper.make_tensor_value_info(heads.softmax, element, shape))
    # Which of equal maxima ArgMax picks is part of its definition only from opset 12 on.
    first_index: dict[str, Any] = {"select_last_index": 0} if opset >= 12 else {}
    nodes.append(_node("ArgMax", [layer.name], heads.argmax, axis=1, keepdims=0, **first_index))
    values.append(helper.make_tensor_value_info(heads.argmax, TensorProto.INT64, [shape[0], *shape[2:]]))
    if heads.confidence:
        # ReduceMax took its axes as an attribute before opset 18 and as an input since.
        inputs, axes = [heads.softmax], {"axes": [1]}
        if opset >= 18:
            inputs.append(f"{heads.confidence}_axes")
            nodes.append(_constant(inputs[1], [1], [1]))
            axes = {}
        nodes.append(_node("ReduceMax", inputs, heads.confidence, keepdims=0, **axes))
        values.append(helper.make_tensor_value_info(heads.confidence, element, shape[:1]))
    return nodes, values


def _softmax(layer: LastLayer, softmax: str, opset: int) -> list[onnx.NodeProto]:
    logits, rank = layer.name, len(layer.shape)
    if layer.meaning is Meaning.PROBABILITIES:
        return [_node("Identity", [logits], softmax)]
    if rank == 2 or opset >= 13:
        return [_node("Softmax", [logits], softmax, axis=1)]
    # Before opset 13 Softmax ran over all axes from the given one on, so the class axis moves last and back.
    there, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    last, probabilities = f"{softmax}_last", f"{softmax}_probabilities"
    return [
        _node("Transpose", [logits], last, perm=there),
        _node("Softmax", [last], probabilities, axis=rank - 1),
        _node("Transpose", [probabilities], softmax, perm=back),
    ]


def _guarded(layer: LastLayer, heads: Heads, opset: int) -> list[onnx.NodeProto]:
    """The same, for a network that may answer with another shape than its file says: the heads are empty then.

    ArgMax fails on an axis that is missing or has no elements, and would fail the run with it.
    """
    guard, rank, classes = f"{heads.argmax}_guard", len(layer.shape), int(layer.shape[1] or 0)
    inner = replace(
        heads,
        softmax=heads.softmax if heads.softmax == layer.name else f"{heads.softmax}_there",
        argmax=f"{heads.argmax}_there",
        confidence=heads.confidence and f"{heads.confidence}_there",
    )
    there, values = _nodes(layer, inner, opset)
    kinds = [(value.name.removesuffix("_there"), value.type.tensor_type) for value in values]
    absent = [_constant(f"{name}_absent", [0] * len(kind.shape.dim), [], kind.elem_type) for name, kind in kinds]
    branches: dict[str, Any] = {
        "then_branch": helper.make_graph(there, f"{guard}_there", [], values),
        "else_branch": helper.make_graph(
            absent,
            f"{guard}_absent",
            [],
            [
                helper.make_tensor_value_info(f"{name}_absent", kind.elem_type, [0] * len(kind.shape.dim))
                for name, kind in kinds
            ],
        ),
    }
    return [
        _node("Shape", [layer.name], f"{guard}_shape"),
        _node("Size", [f"{guard}_shape"], f"{guard}_rank"),
        _constant(f"{guard}_rank_wanted", [], [rank]),
        _node("Equal", [f"{guard}_rank", f"{guard}_rank_wanted"], f"{guard}_rank_fits"),
        # So that there is a second size.
        _constant(f"{guard}_padding", [2], [-1, -1]),
        _node("Concat", [f"{guard}_shape", f"{guard}_padding"], f"{guard}_sizes", axis=0),
        _constant(f"{guard}_axis", [], [1]),
        _node("Gather", [f"{guard}_sizes", f"{guard}_axis"], f"{guard}_classes", axis=0),
        _constant(f"{guard}_classes_wanted", [], [classes]),
        _node("Equal", [f"{guard}_classes", f"{guard}_classes_wanted"], f"{guard}_classes_fit"),
        _node("And", [f"{guard}_rank_fits", f"{guard}_classes_fit"], f"{guard}_fits"),
        helper.make_node("If", [f"{guard}_fits"], [name for name, _ in kinds], name=guard, **branches),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def _constant(name: str, dims: list[int], elements: list[int], element: int = TensorProto.INT64) -> onnx.NodeProto:
    return _node("Constant", [], name, value=helper.make_tensor(name, element, dims, elements))
