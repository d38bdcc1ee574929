"""The traits of a network that its operators and weights imply, and that no run of a few rows would show for certain."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from frostline_server.runtime.graph.data_dependence import data_dependent
from frostline_server.runtime.graph.traversal import nodes, tensors

_SINGLE = 1e-2
"""The rounding of single precision: sums in another order differ in the sixth digit, and networks that divide by a small
difference lose most digits of it."""
_QUANTISED = 2e-2
_HALF = 2e-2
_BFLOAT16 = 5e-2
_RECURRENT = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "AttnLSTM"))


@dataclass(frozen=True, slots=True)
class Traits:
    """What follows from a network's file.

    Attributes:
        rounding: how far the answers to one row in batches of different sizes may be apart by rounding, as a part of an
            answer's largest number.
        batch_wide: an operator that takes a number from all rows of a batch at once, whatever the axes say; "" without one.
            Dynamic quantisation takes its scale so. It moves an answer by as little as rounding does, which no comparison
            of answers can tell apart.
        data_dependent: an operator because of which the time of a run may depend on the elements of its inputs; "" where only
            their shapes count.
        recurrent: a recurrent operator; "" without one. In ONNX Runtime an axis of size 0 in one ends the whole process.
        separators: where operators take texts apart.
        wrong_fusions: optimizers of ONNX Runtime after which it would compute something else.
    """

    rounding: float = _SINGLE
    batch_wide: str = ""
    data_dependent: str = ""
    recurrent: str = ""
    separators: tuple[str, ...] = ()
    wrong_fusions: tuple[str, ...] = ()


def traits_of(model: onnx.ModelProto) -> Traits:
    """The traits of a network."""
    operators = dict.fromkeys(node.op_type for node in nodes(model))
    return Traits(
        rounding=_rounding({tensor.data_type for tensor in tensors(model)}, operators),
        batch_wide=next((operator for operator in operators if operator.startswith("DynamicQuantize")), ""),
        data_dependent=data_dependent(model),
        recurrent=next((operator for operator in operators if operator in _RECURRENT), ""),
        separators=tuple(_separators(model)),
        wrong_fusions=("Pad_Fusion",) if _pools_padding(model) else (),
    )


def _pools_padding(model: onnx.ModelProto) -> bool:
    """Whether a MaxPool takes what a Pad has made larger: fused with it, ONNX Runtime pads with the least number instead."""
    padded = {name for node in nodes(model) if node.op_type == "Pad" for name in node.output}
    return any(node.op_type == "MaxPool" and node.input[0] in padded for node in nodes(model))


def _separators(model: onnx.ModelProto) -> Iterator[str]:
    for node in nodes(model):
        for attribute in node.attribute if node.op_type in ("StringSplit", "Tokenizer") else ():
            if attribute.name in ("delimiter", "separators"):
                yield from (each.decode(errors="replace") for each in (attribute.s, *attribute.strings) if each)


def _rounding(types: Collection[int], operators: Collection[str]) -> float:
    """A difference in the last digit may become one step of a coarser number on the way."""
    if onnx.TensorProto.BFLOAT16 in types:
        return _BFLOAT16
    if "QuantizeLinear" in operators:
        return _QUANTISED
    return _HALF if onnx.TensorProto.FLOAT16 in types else _SINGLE
