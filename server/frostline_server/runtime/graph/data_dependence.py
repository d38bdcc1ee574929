"""Data dependence: whether how long a run takes may depend on the elements of its inputs, or on their shapes alone.

It follows values from the graph's inputs, as a taint analysis does. What is computed from shapes and constants only is known
before a run; a loop, a branch or a size that is computed from elements is not.
"""

from collections.abc import Iterable, Mapping, Sequence, Set

import onnx

from frostline_server.runtime.graph.traversal import STANDARD

_ALWAYS = frozenset(("Loop", "Scan", "SequenceMap", "StringSplit", "StringNormalizer", "RegexFullMatch"))
"""Operators that repeat something an unknown number of times, or work on texts, whose lengths no shape tells."""

_ALL = slice(None)
_SIZES: Mapping[str, slice] = {
    "If": _ALL, "NonZero": _ALL, "Unique": _ALL, "Compress": _ALL, "NonMaxSuppression": _ALL,
    "Range": _ALL, "ConstantOfShape": _ALL, "MelWeightMatrix": _ALL,
    "HannWindow": _ALL, "HammingWindow": _ALL, "BlackmanWindow": _ALL,
    "Expand": slice(1, None), "Tile": slice(1, None), "Resize": slice(1, None), "Upsample": slice(1, None),
    "Pad": slice(1, 2), "CenterCropPad": slice(1, None), "AffineGrid": slice(1, None), "Col2Im": slice(1, None),
    "OneHot": slice(1, 2), "MaxUnpool": slice(2, None), "DFT": slice(1, 2), "STFT": slice(1, None, 2),
    "RoiAlign": slice(1, None), "MaxRoiPool": slice(1, None),
    "Reshape": slice(1, None), "Squeeze": slice(1, None), "Unsqueeze": slice(1, None), "Slice": slice(1, None),
    "TopK": slice(1, None), "Split": slice(1, None), "SplitToSequence": slice(1, None), "SequenceAt": slice(1, None),
    "ReduceMax": slice(1, None), "ReduceMean": slice(1, None), "ReduceMin": slice(1, None), "ReduceProd": slice(1, None),
    "ReduceSum": slice(1, None), "ReduceL1": slice(1, None), "ReduceL2": slice(1, None), "ReduceLogSum": slice(1, None),
    "ReduceLogSumExp": slice(1, None), "ReduceSumSquare": slice(1, None),
}  # fmt: skip
"""Operators of which some inputs decide how much they do, or how large their outputs are and so how much is done with
these; and the places of those inputs."""

_RANDOM = frozenset(("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"))

_CONTRIBUTED = frozenset(
    (
        "Attention", "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "CDist", "DecoderMaskedMultiHeadAttention",
        "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "EmbedLayerNormalization", "FastGelu", "FusedConv",
        "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "GatherBlockQuantized", "GemmFastGelu", "GroupNorm",
        "GroupQueryAttention", "Inverse", "MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits",
        "MultiHeadAttention", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "PackedAttention", "QAttention",
        "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
        "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
        "QLinearWhere", "QOrderedMatMul", "QuantizeLinear", "QuickGelu", "RelativePositionBias", "RotaryEmbedding",
        "SimplifiedLayerNormalization", "SkipGroupNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
        "SparseToDenseMatMul", "TransposeMatMul",
    )
)  # fmt: skip
"""Operators of com.microsoft that are known to do the same work for all elements; others of it search, or take texts apart."""

# Trees, linear models and encoders: the depth of a tree is the file's.
_BOUNDED = ("ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training")
_MOST_CALLS = 1000
_DEEPEST = 64
_TOO_DEEP = "graphs and functions that are nested too deeply"


def data_dependent(model: onnx.ModelProto) -> str:
    """The operator because of which the time of a run may depend on elements; "" if it depends on shapes alone."""
    graph = model.graph
    # Old files list constants among the inputs too.
    constants = {constant.name for constant in graph.initializer}
    return _Analysis(model).graph(graph, {value.name for value in graph.input} - constants)[0]


class _Analysis:
    """One walk over a file; functions are looked at once for each set of inputs that depend on elements."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._functions = {(function.domain, function.name): function for function in model.functions}
        self._called: dict[tuple[str, str, frozenset[int]], tuple[str, frozenset[int]]] = {}
        self._depth = 0

    def graph(self, graph: onnx.GraphProto, data: Set[str]) -> tuple[str, Set[str]]:
        """What makes a graph depend on elements, and the names of all values that do, given some of them."""
        return self._nodes(graph.node, data)

    def _nodes(self, nodes: Iterable[onnx.NodeProto], data: Set[str]) -> tuple[str, Set[str]]:
        known = set(data)
        for node in nodes:
            found, outputs = self._node(node, known)
            if found:
                return found, known
            # An output that nobody uses has no name, and neither has an input that is left out.
            known.update(name for name in outputs if name)
        return "", known

    def _node(self, node: onnx.NodeProto, data: Set[str]) -> tuple[str, Sequence[str]]:
        """What makes it depend on elements, and those of its outputs whose elements do."""
        places = [place for place, name in enumerate(node.input) if name in data]
        if (node.domain, node.op_type) in self._functions:
            found, outputs = self._call(node, frozenset(places))
            return found, [name for place, name in enumerate(node.output) if place in outputs]
        if self._decides(node, places):
            return node.op_type, ()
        if node.op_type in ("Shape", "Size") and node.domain in STANDARD:
            return "", ()
        inner = False
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                found, known = self._deeper(graph, data)
                if found:
                    return found, ()
                inner = inner or any(value.name in known for value in graph.output)
        return "", list(node.output) if places or inner or node.op_type in _RANDOM else ()

    @staticmethod
    def _decides(node: onnx.NodeProto, places: Sequence[int]) -> bool:
        if node.domain in STANDARD:
            sizes = range(len(node.input))[_SIZES.get(node.op_type, slice(0))]
            return node.op_type in _ALWAYS or any(place in sizes for place in places)
        if node.domain == "com.microsoft":
            return node.op_type not in _CONTRIBUTED
        return node.domain not in _BOUNDED

    def _deeper(self, graph: onnx.GraphProto, data: Set[str]) -> tuple[str, Set[str]]:
        if self._depth == _DEEPEST:
            return _TOO_DEEP, data
        self._depth += 1
        found = self.graph(graph, data)
        self._depth -= 1
        return found

    def _call(self, node: onnx.NodeProto, places: frozenset[int]) -> tuple[str, frozenset[int]]:
        """A call of one of the file's own functions; its outputs by place."""
        key = (node.domain, node.op_type, places)
        if key not in self._called:
            if self._depth == _DEEPEST or len(self._called) == _MOST_CALLS:
                return _TOO_DEEP, frozenset()
            function = self._functions[node.domain, node.op_type]
            self._depth += 1
            found, known = self._nodes(
                function.node, {name for place, name in enumerate(function.input) if place in places}
            )
            self._depth -= 1
            self._called[key] = found, frozenset(place for place, name in enumerate(function.output) if name in known)
        return self._called[key]
