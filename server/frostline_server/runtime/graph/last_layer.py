"""The last layer of a classifier: whether the numbers that a network ends at are logits or probabilities.

All of it follows from the graph, without a run. In doubt a network is no classifier.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.graph.shape_inference import inferred
from frostline_server.runtime.graph.traversal import STANDARD, constants_of, opset_of

Shape = tuple[str | int | None, ...]
"""A size, the name of a size, or None for an axis of which nothing is known."""

SINGLE_LABEL = "single-label"
_OF_CLASSES = (SINGLE_LABEL, "dense")

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_LABELS = (TensorProto.INT64, TensorProto.STRING)
_LEARNERS = "ai.onnx.ml"


class Meaning(Enum):
    """What the numbers along the class axis are."""

    LOGITS = "logits"
    """Their softmax is the probabilities. Log-probabilities are logits too."""
    PROBABILITIES = "probabilities"
    """They sum to 1."""
    OTHER = "other"
    """Neither: several labels at once, values, or softmax over another axis."""


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The output in which a network has a number for each of several classes.

    Attributes:
        name: the output's name.
        element: ONNX's number of its element type.
        shape: [N, C, ...]; C is a number.
        meaning: logits or probabilities.
        certain: whether the number of axes and C follow from the graph; else the file only says so.
        classes: the file's own names of the classes; empty where it has none but their indices.
    """

    name: str
    element: int
    shape: Shape
    meaning: Meaning
    certain: bool
    classes: tuple[str, ...] = ()


def last_layer(model: onnx.ModelProto) -> LastLayer | None:
    """The output of a network in which it has a number for each of several classes; None if there is none, or in doubt.

    It is the only output, a float tensor [N, C] or [N, C, ...] with C fixed and at least 2. Or it has one label for each
    row beside it, and ends at probabilities: so converters write the classifiers of other libraries.
    """
    output = _candidate(model)
    try:
        return None if output is None else _judged(model, output)
    except Exception:  # noqa: BLE001  whatever a damaged file raises; whoever opens the session says what is wrong with it
        return None


def _judged(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> LastLayer | None:
    graph = _Graph.of(model)
    name, follows = output.name, graph.shape(output.name)
    shape = _merged(shape_of(output), follows, graph.labels(name))
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int) or shape[1] < 2:
        return None
    if not isinstance(shape[0], int) and not any(_may_have_rows(value) for value in model.graph.input):
        # It has as many rows as were found, say, and not as many as were sent.
        return None
    stated = _stated(model, "frostline.output") == Meaning.PROBABILITIES.value
    meaning = Meaning.PROBABILITIES if stated else graph.meaning(name, len(shape))
    if meaning is Meaning.OTHER or (len(model.graph.output) > 1 and meaning is not Meaning.PROBABILITIES):
        return None
    certain = follows is not None and isinstance(follows[1], int)
    others = [value.name for value in model.graph.output if value.name != name]
    classes = graph.classes((*others, name), shape[1])
    return LastLayer(name, output.type.tensor_type.elem_type, shape, meaning, certain, classes)


def _candidate(model: onnx.ModelProto) -> onnx.ValueInfoProto | None:
    """The output that may be the last layer, judged by the outputs alone."""
    task = _stated(model, "frostline.task") or SINGLE_LABEL
    outputs = [value for value in model.graph.output if value.type.tensor_type.elem_type not in _LABELS]
    labels = [value for value in model.graph.output if value.type.tensor_type.elem_type in _LABELS]
    if task not in _OF_CLASSES or len(outputs) != 1 or len(labels) > 1:
        return None
    if outputs[0].type.tensor_type.elem_type not in _FLOATS or any(len(shape_of(value) or ()) > 1 for value in labels):
        return None
    return outputs[0]


def _stated(model: onnx.ModelProto, key: str) -> str:
    """What the publisher says of the file; "" where it does not."""
    return next((entry.value for entry in model.metadata_props if entry.key == key), "")


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """What a file says of a tensor's shape; None if it does not even say the number of axes."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)


def _may_have_rows(value: onnx.ValueInfoProto) -> bool:
    shape = shape_of(value)
    return shape is None or (bool(shape) and not isinstance(shape[0], int))


def _merged(declared: Shape | None, follows: Shape | None, labels: int | None) -> Shape | None:
    """All that is known of a shape; None if that is nothing, or a contradiction.

    Args:
        declared: what the file says.
        follows: what follows from the graph.
        labels: how many classes the operator has that it comes from.
    """
    shape = declared or follows
    if shape is None or (follows is not None and len(follows) != len(shape)):
        return None
    sizes = []
    for axis, size in enumerate(shape):
        known = (size, follows[axis] if follows else None, labels if axis == 1 else None)
        numbers = {one for one in known if isinstance(one, int)}
        if len(numbers) > 1:
            return None
        sizes.append(numbers.pop() if numbers else size)
    return tuple(sizes)


_ALIKE = frozenset(
    ("Identity", "Cast", "CastLike", "Clip", "Dropout", "QuantizeLinear", "DequantizeLinear", "ReorderOutput")
)
"""Operators that leave to each number its place, and as good as its value."""
_ROW_MAJOR = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
"""Operators that leave the elements in their order."""
_JOINING = frozenset(("Add", "Sub", "Mul", "Div", "Mean", "Sum", "Max", "Min", "Concat"))
_MULTIPLYING = frozenset(("MatMul", "Einsum", "FusedMatMul"))
_MIXING = (
    frozenset(
        (
            "Slice", "Gather", "GatherElements", "GatherND", "Transpose", "Where", "TopK", "Split", "Expand", "Tile", "Pad",
            "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool",
            "Resize", "Upsample", "Pow", "Sqrt", "Neg", "Abs",
        )
    )
    | _JOINING
    | _MULTIPLYING
)  # fmt: skip
"""Operators that make no logits of probabilities; a product with weights does, so factors must all be probabilities."""
_WITH_BODIES = frozenset(("If", "Loop", "Scan"))
_SQUASHING = frozenset(("Softmax", "QLinearSoftmax", "Sigmoid", "QLinearSigmoid", "HardSigmoid"))


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph as seen from its end.

    Attributes:
        producers: the node that each tensor comes from, by the tensor's name.
        shapes: of the tensors whose number of axes follows from the graph.
        constants: tensors that are the same in each run.
        opset: the version of the default operator set.
    """

    producers: Mapping[str, onnx.NodeProto]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, onnx.TensorProto]
    opset: int

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "_Graph":
        graph = inferred(model)
        shapes = {value.name: shape_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
        shapes |= {constant.name: tuple(constant.dims) for constant in graph.initializer}
        return cls(
            producers={name: node for node in graph.node for name in node.output},
            shapes={name: shape for name, shape in shapes.items() if shape is not None},
            # Shapes were inferred without the elements of large constants.
            constants={**constants_of(graph), **constants_of(model.graph)},
            opset=opset_of(model),
        )

    def shape(self, name: str) -> Shape | None:
        """What follows for the shape of a tensor; None if not even the number of axes does."""
        if name in self.shapes:
            return self.shapes[name]
        for _ in self.producers:
            node = self.producers.get(name)
            if node is None or node.op_type not in _ALIKE | {"Softmax", "LogSoftmax"}:
                break
            name = node.input[0]
        if node is None or node.op_type != "Gemm" or len(weights := self.shapes.get(node.input[1], ())) != 2:
            return None
        # A matrix by definition, whatever its other factor is.
        return (None, weights[0 if _attributes(node).get("transB") else 1])

    def labels(self, name: str) -> int | None:
        """How many classes the operator of ai.onnx.ml has that a tensor [N, C] is the scores of."""
        node = self._source(name, _ALIKE | {"Normalizer"})
        return (len(_classes(node)) or None) if node is not None and node.domain == _LEARNERS else None

    def classes(self, names: Sequence[str], count: int) -> tuple[str, ...]:
        """Names of so many classes, as the operator of ai.onnx.ml has them from which one of these tensors comes.

        Args:
            names: of the labels, if there are any, and of the scores.
            count: of the classes.
        """
        for name in names:
            node = self._source(name, _ALIKE | _ROW_MAJOR | {"Normalizer"})
            if node is None or node.domain != _LEARNERS:
                continue
            found: Sequence[Any] = _classes(node)
            if node.op_type == "ArrayFeatureExtractor":
                # The classes, of which that with the highest score is picked.
                index = self._source(node.input[1], _ALIKE | _ROW_MAJOR)
                if index is not None and index.op_type == "ArgMax":
                    found = self._elements(node.input[0]) or ()
            texts = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in found]
            if len(set(texts)) == count == len(texts) and texts != list(map(str, range(count))):
                return tuple(texts)
        return ()

    def _elements(self, name: str) -> list[Any] | None:
        """The elements of a constant in row-major order; None if it is none, or in a file of its own."""
        constant = self.constants.get(name)
        if constant is None or constant.data_location == TensorProto.EXTERNAL:
            return None
        elements: list[Any] = numpy_helper.to_array(constant).ravel().tolist()
        return elements

    def _source(self, name: str, through: Container[str]) -> onnx.NodeProto | None:
        """The node that a tensor comes from, before operators of these kinds."""
        # A damaged file may go round in circles.
        for _ in self.producers:
            node = self.producers.get(name)
            if node is None or node.op_type not in through:
                return node
            name = node.input[0]
        return None

    def meaning(self, name: str, rank: int) -> Meaning:
        """What the numbers of a tensor [N, C, ...] of so many axes are, along its second axis."""
        axis: int | None = 1
        node = None
        for _ in self.producers:
            node = self.producers.get(name)
            if node is None or node.domain == _LEARNERS:
                break
            if node.op_type in _ROW_MAJOR:
                axis, rank = self._axis_before(node.input[0], name, axis)
            elif node.op_type == "Transpose":
                order = _attributes(node).get("perm") or list(reversed(range(rank)))
                axis = None if axis is None else order[axis]
            elif node.op_type not in _ALIKE:
                break
            name = node.input[0]
        return Meaning.LOGITS if node is None else self._of_operator(node, name, axis, rank)

    def _of_operator(self, node: onnx.NodeProto, name: str, axis: int | None, rank: int) -> Meaning:
        """What a tensor is that comes from this node, along an axis, which is None if it cannot be told."""
        meaning, operator = Meaning.LOGITS, node.op_type
        if node.domain == _LEARNERS:
            meaning = self._of_learner(node, name)
        elif operator in ("Softmax", "QLinearSoftmax"):
            meaning = Meaning.PROBABILITIES if self._is_over(node, axis, rank) else Meaning.OTHER
        elif operator == "LogSoftmax":
            meaning = Meaning.LOGITS if self._is_over(node, axis, rank) else Meaning.OTHER
        elif operator == "Exp" and self._comes_from(node.input[0], "LogSoftmax"):
            over = self._is_over(self.producers[node.input[0]], axis, rank)
            meaning = Meaning.PROBABILITIES if over else Meaning.OTHER
        elif operator == "Div" and self._comes_from(node.input[0], "Exp"):
            meaning = self._of_quotient(node, axis, rank)
        elif operator == "Reciprocal" or (operator == "Div" and node.input[0] in self.constants):
            # As in 1 / (1 + exp(-x)).
            meaning = Meaning.OTHER
        elif operator == "Exp" and not self._comes_from(node.input[0], "Sub"):
            # Rates, say; of a difference it may be x - log(sum(exp(x))).
            meaning = Meaning.OTHER
        elif operator in _WITH_BODIES or self._squashed(name):
            meaning = Meaning.OTHER
        return meaning

    def _comes_from(self, name: str, operator: str) -> bool:
        return name in self.producers and self.producers[name].op_type == operator

    def _axis_before(self, before: str, after: str, axis: int | None) -> tuple[int | None, int]:
        """The class axis of a tensor before its elements were given another shape, if that is certain, and its rank."""
        old, new = self.shapes.get(before), self.shapes.get(after)
        if axis is None or old is None or new is None:
            return None, len(old or ())
        if len(old) > 1 and axis == 1 and old[:2] == new[:2] and isinstance(old[1], int):
            return 1, len(old)
        # Where the other axes have one element each, the order of the elements is that of the classes.
        lead = 0 if len(old) == 1 else 1
        places = [place for place, size in enumerate(old) if place >= lead and size != 1]
        others = [place for place, size in enumerate(new) if place > 0 and size != 1]
        alike = len(places) == 1 and others == [axis] and isinstance(new[axis], int) and old[places[0]] == new[axis]
        return (places[0] if alike else None), len(old)

    def _is_over(self, node: onnx.NodeProto, axis: int | None, rank: int) -> bool:
        """Whether a Softmax or LogSoftmax runs over this axis alone."""
        attributes = _attributes(node)
        flat = attributes.get("opset", self.opset) < 13
        over = attributes.get("axis", 1 if flat and node.domain in STANDARD else -1)
        if axis is None or over not in (axis, axis - rank):
            return False
        # Before operator set 13 it ran over all axes from the given one on.
        shape = self.shapes.get(node.output[0], (None,) * rank)
        return not flat or all(size == 1 for size in shape[axis + 1 :])

    def _of_quotient(self, node: onnx.NodeProto, axis: int | None, rank: int) -> Meaning:
        """What Exp(x) / ... is: probabilities if it is divided by its sum over the classes."""
        total = self.producers.get(node.input[1])
        if total is None or total.op_type != "ReduceSum" or total.input[0] != node.input[0]:
            return Meaning.LOGITS
        attributes = _attributes(total)
        axes = attributes.get("axes")
        if len(total.input) > 1:
            axes = self._elements(total.input[1])
        kept = attributes.get("keepdims", 1)
        over_classes = axis is not None and kept and axes is not None and list(axes) in ([axis], [axis - rank])
        return Meaning.PROBABILITIES if over_classes else Meaning.OTHER

    def _squashed(self, name: str) -> bool:
        """Whether all that varies in a tensor went through a softmax or sigmoid last, as in 1 - p, or a mean of several."""
        found, seen, rest = False, set(self.constants), [name]
        while rest:
            one = rest.pop()
            if one in seen:
                continue
            seen.add(one)
            node = self.producers.get(one)
            if node is None:
                return False
            if _squashes(node):
                found = True
                continue
            operands = _operands(node)
            if node.op_type not in _ALIKE | _ROW_MAJOR | _MIXING or (
                node.op_type in _MULTIPLYING and any(operand in self.constants for operand in operands)
            ):
                return False
            rest.extend(operands)
        return found

    def _of_learner(self, node: onnx.NodeProto, name: str) -> Meaning:
        """What an operator of ai.onnx.ml answers with."""
        if node.op_type == "Normalizer":
            inner = self.producers.get(node.input[0])
            positive = inner is not None and inner.domain == _LEARNERS and _never_negative(inner)
            return Meaning.PROBABILITIES if positive and _text(node, "norm") == "L1" else Meaning.OTHER
        if node.op_type.endswith("Classifier") and (len(node.output) < 2 or name != node.output[1]):
            return Meaning.OTHER
        return Meaning.PROBABILITIES if _is_distribution(node) else Meaning.OTHER


def _squashes(node: onnx.NodeProto) -> bool:
    """Whether a node ends in a softmax or sigmoid, also where ONNX Runtime has joined that with the layer before it."""
    return node.op_type in _SQUASHING or _text(node, "activation") in _SQUASHING


def _operands(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node whose elements it gives on: the others are a condition, a shape, axes, places, bounds or scales."""
    if node.op_type == "Where":
        return list(node.input[1:])
    return list(node.input) if node.op_type in _JOINING | _MULTIPLYING else list(node.input[:1])


def _never_negative(node: onnx.NodeProto) -> bool:
    return _text(node, "post_transform") in ("LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO") or _is_distribution(node)


def _is_distribution(node: onnx.NodeProto) -> bool:
    """Whether an operator of ai.onnx.ml answers with numbers that sum to 1 for each row."""
    attributes = _attributes(node)
    after = _text(node, "post_transform")
    # TreeEnsemble has a number for it.
    if after in ("SOFTMAX", "SOFTMAX_ZERO", 1, 3):
        return True
    if after == "LOGISTIC":
        # Each of two classes has what the other leaves, if there is but one score; others are independent of each other.
        return len(_classes(node)) == 2 and _has_one_score(attributes)
    if node.op_type == "SVMClassifier":
        return bool(attributes.get("prob_a"))
    return node.op_type == "TreeEnsembleClassifier" and after == "NONE" and _votes(attributes)


def _has_one_score(attributes: Mapping[str, Any]) -> bool:
    """Whether the second class's score, of a linear classifier or of trees, is the first one's with the sign turned, or missing."""
    ids = _numbers(attributes, "class_ids", np.int64)
    intercepts = _numbers(attributes, "intercepts", np.float64)
    weights = _numbers(attributes, "coefficients", np.float64)
    if len(ids) or not len(weights):
        return len(np.unique(ids)) == 1
    if len(intercepts) != 2 or len(weights) % 2:
        return len(intercepts) == 1
    return not weights.reshape(2, -1).sum(axis=0).any() and not intercepts.sum()


def _votes(attributes: Mapping[str, Any]) -> bool:
    """Whether the leaves of a TreeEnsembleClassifier hold shares of 1, so that its trees' sums do."""
    weights = _numbers(attributes, "class_weights", np.float64)
    trees, nodes, ids = (_numbers(attributes, f"class_{name}", np.int64) for name in ("treeids", "nodeids", "ids"))
    if not len(weights) or weights.min() < 0 or _numbers(attributes, "base_values", np.float64).any():
        return False
    leaves, leaf = np.unique(np.stack([trees, nodes]), axis=1, return_inverse=True)
    shares = np.bincount(leaf.ravel(), weights)
    by_tree = [shares[leaves[0] == tree] for tree in np.unique(trees)]
    most = sum(float(of_tree.max()) for of_tree in by_tree)
    least = sum(float(of_tree.min()) for of_tree in by_tree)
    # Of two classes only one need be written.
    return most < 1 + _ROUNDING and (least > 1 - _ROUNDING or len(np.unique(ids)) == 1)


_ROUNDING = 1e-3


def _numbers(attributes: Mapping[str, Any], name: str, dtype: Any) -> np.ndarray[Any, Any]:
    tensor = attributes.get(f"{name}_as_tensor")
    found = numpy_helper.to_array(tensor) if tensor is not None else attributes.get(name, ())
    return np.asarray(found, dtype).ravel()


def _classes(node: onnx.NodeProto) -> Sequence[Any]:
    """The labels of an operator that classifies."""
    attributes = _attributes(node)
    names = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
    return next((attributes[name] for name in names if attributes.get(name)), ())


class _Attributes(Mapping[str, Any]):
    """The attributes of a node, each converted when it is read: a forest has millions of numbers."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._by_name = {attribute.name: attribute for attribute in node.attribute}

    def __getitem__(self, name: str) -> Any:
        return helper.get_attribute_value(self._by_name[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return _Attributes(node)


def _text(node: onnx.NodeProto, name: str) -> Any:
    """An attribute that is a word, as text; a number as it is."""
    value = _attributes(node).get(name, b"NONE")
    return value.decode() if isinstance(value, bytes) else value
