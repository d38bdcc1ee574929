"""The label encoders of a graph: what looks up each text of a column in a table, by ONNX's operator LabelEncoder.

ONNX Runtime copies every text that it is given. Whoever looks texts up in the tables, and gives the rest of the graph what is
found, has the same answers without.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper


@dataclass(frozen=True, slots=True)
class Table:
    """What a label encoder does.

    Attributes:
        output: the name of what it gives, the number of each text.
        numbers: by text; single precision.
        default: of every other text.
    """

    output: str
    numbers: Mapping[str, float]
    default: float

    def number(self, text: str) -> float:
        """The number of a text."""
        return self.numbers.get(text, self.default)


def without_label_encoders(content: bytes, inputs: Collection[str]) -> tuple[bytes, dict[str, Table]] | None:
    """A graph that takes numbers where the given one looks them up, and the tables that it looks them up in.

    Args:
        content: a valid model.
        inputs: its inputs of texts, [N, 1].

    Returns:
        The model with the inputs that `Table.output` names in the place of those, and the table of each. None if an input is used
        in any other way than as that of one label encoder, from texts to numbers of single precision.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    tables: dict[str, Table] = {}
    kept = []
    for node in graph.node:
        used = [name for name in node.input if name in inputs]
        if not used:
            kept.append(node)
            continue
        table = _table(node)
        if table is None or used[0] in tables:
            return None
        tables[used[0]] = table
    inner = any(attribute.type in _GRAPHS for node in kept for attribute in node.attribute)
    if inner or set(tables) != set(inputs) or any(output.name in inputs for output in graph.output):
        return None
    others = [value for value in graph.input if value.name not in inputs]
    numbers = [
        helper.make_tensor_value_info(table.output, TensorProto.FLOAT, ["batch", 1]) for table in tables.values()
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend([*others, *numbers])
    return model.SerializeToString(), tables


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _table(node: onnx.NodeProto) -> Table | None:
    if node.op_type != "LabelEncoder" or node.domain != "ai.onnx.ml":
        return None
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    keys, values = told.pop("keys_strings", None), told.pop("values_floats", None)
    default = told.pop("default_float", -0.0)
    if told or not keys or values is None or len(keys) != len(values):
        return None
    # Of a text that is there twice, ONNX Runtime takes the first.
    numbers: dict[str, float] = {}
    for key, value in zip(keys, values, strict=True):
        numbers.setdefault(key.decode(), value)
    return Table(node.output[0], numbers, default)


def only_joins(content: bytes, inputs: Sequence[str]) -> bool:
    """Whether all that a model does is to join these inputs, [N, 1] each, to one output [N, F]."""
    graph = onnx.load_model_from_string(content).graph
    if len(graph.node) != 1 or (graph.node[0].op_type, graph.node[0].domain) != ("Concat", ""):
        return False
    (node,) = graph.node
    return list(node.input) == list(inputs) and helper.get_node_attr_value(node, "axis") in (1, -1)
