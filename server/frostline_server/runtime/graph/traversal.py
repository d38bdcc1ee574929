"""The traversal of an ONNX file: its graphs, nodes and constants, those inside other nodes and in functions included."""

from collections.abc import Iterable, Iterator

import onnx


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


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        own: Iterable[onnx.GraphProto] = (attribute.g,) if attribute.HasField("g") else ()
        for graph in (*own, *attribute.graphs):
            yield from graphs(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
