"""The numerics of a network: how coarse its numbers are, and whether it computes with all rows of a batch at once."""

import onnx

from frostline_server.runtime.graph.traversal import nodes, tensors

ROUNDING = 1e-2
"""Of a network in single precision: sums in another order differ in the sixth digit, and networks that divide by a small
difference lose most digits of it."""
_QUANTISED = 2e-2
_HALF = 2e-2
_BFLOAT16 = 5e-2


def rounding_of(model: onnx.ModelProto) -> float:
    """How far the answers to one row in batches of different sizes may be apart by rounding.

    A difference in the last digit may become one step of a coarser number on the way.

    Returns:
        A part of an answer's largest number.
    """
    types = {tensor.data_type for tensor in tensors(model)}
    if onnx.TensorProto.BFLOAT16 in types:
        return _BFLOAT16
    if any(node.op_type == "QuantizeLinear" for node in nodes(model)):
        return _QUANTISED
    return _HALF if onnx.TensorProto.FLOAT16 in types else ROUNDING


def recurrent_operator(model: onnx.ModelProto) -> str:
    """The first recurrent operator; "" without one. In ONNX Runtime an axis of size 0 in one ends the whole process."""
    names = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "AttnLSTM")
    return next((node.op_type for node in nodes(model) if node.op_type in names), "")


def batch_wide_operator(model: onnx.ModelProto) -> str:
    """The first operator that takes a number from all rows of a batch at once; "" without one.

    Dynamic quantisation takes its scale so. It moves an answer by as little as rounding does, which no comparison of
    answers can tell apart.
    """
    return next((node.op_type for node in nodes(model) if node.op_type.startswith("DynamicQuantize")), "")
