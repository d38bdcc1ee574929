"""The traversal of an ONNX file: its graphs, nodes and constants, those inside other nodes and in functions included."""

from collections.abc import Iterable, Iterator

import onnx

STANDARD = ("", "ai.onnx")
"""The names of the default domain."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set; 0 where a file has none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors of a graph that its file has, by name; an initializer that is an input, too, may be another in a run."""
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        yield from _inside(node)


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a file."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node
        for node in function.node:
            for graph in _inside(node):
                yield from graph.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The constants of a file."""
    for graph in graphs(model.graph):
        yield from _initializers(graph)
    for function in model.functions:
        for node in function.node:
            for graph in _inside(node):
                yield from _initializers(graph)
    for node in nodes(model):
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def unused_prefix(model: onnx.ModelProto, prefix: str) -> str:
    """What no name in a file's graphs begins with: a prefix, or that with underscores behind it."""
    taken = {name for graph in graphs(model.graph) for name in _names_in(graph)}
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    return prefix


def _names_in(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
    for value in (*graph.input, *graph.output):
        yield value.name
    for constant in graph.initializer:
        yield constant.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        own: Iterable[onnx.GraphProto] = (attribute.g,) if attribute.HasField("g") else ()
        for graph in (*own, *attribute.graphs):
            yield from graphs(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
