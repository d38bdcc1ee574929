"""The signature of a network: its inputs and outputs, as the graph and as clients see them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnxruntime as ort

from frostline_server.errors import LoadError
from frostline_server.runtime.dtypes import DTYPES, ONNX_TYPES
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.graph.traits import Traits

Array = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: its name in the graph.
        datatype: the protocol's name of its element type, such as FP32.
        dtype: the same for numpy.
        shape: the shape of one row, or of the whole tensor without a batch axis, as clients see it; None is an axis of
            any size.
        reshape: the same as the network sees it, where the model's configuration gives clients another.
        ranked: whether it is known how many axes there are; if not, any shape is taken and `shape` is empty.
        axis_names: the file's names of all axes of the graph's tensor, with the batch axis; "" where it has none.
        alias: what clients call it, if that is not its name in the graph.
        binary: whether elements of BYTES are bytes, and not texts.
        most_bytes: how long an element may be, if it is of BYTES; None for as long as any.
        most_pixels: how many pixels a picture may have; None if elements are no pictures. Encoded ones are BYTES; pixels
            are UINT8.
    """

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    reshape: tuple[int | None, ...] | None = None
    ranked: bool = True
    axis_names: tuple[str, ...] = field(default=(), compare=False)
    alias: str = ""
    binary: bool = False
    most_bytes: int | None = None
    most_pixels: int | None = None

    @property
    def client_name(self) -> str:
        """Its name for clients."""
        return self.alias or self.name

    @property
    def graph_shape(self) -> tuple[int | None, ...]:
        """`shape` as the network sees it."""
        return self.shape if self.reshape is None else self.reshape


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a network.

    Attributes:
        inputs: in graph order.
        outputs: those clients may ask for, in graph order, appended heads last.
        own_outputs: names of the outputs that answer a request which names none: the file's own.
        batched: whether every input and output has a free first axis, so that rows of several requests may share a run.
        heads: the names in the graph of what tells the classes, when heads were appended.
        traits: what follows from the network's operators and weights.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    own_outputs: tuple[str, ...]
    batched: bool
    heads: Heads | None
    traits: Traits = field(default_factory=Traits)

    def whole(self) -> "Signature":
        """The same network served without a batch axis: each request runs alone, and its first axis is part of it."""

        def widened(spec: TensorSpec) -> TensorSpec:
            reshape = None if spec.reshape is None else (None, *spec.reshape)
            return replace(spec, shape=(None, *spec.shape), reshape=reshape)

        return replace(
            self,
            inputs=tuple(widened(spec) for spec in self.inputs),
            outputs=tuple(widened(spec) for spec in self.outputs),
            batched=False,
        )

    def repeated(self, row: Sequence[Array], rows: int) -> list[Array]:
        """A batch of so many copies of this row; the row itself without a batch axis."""
        return [np.repeat(array, rows, axis=0) if self.batched else array for array in row]

    def row_bytes(self, names: Sequence[str]) -> int | None:
        """The bytes of a row of these outputs, or of the whole without a batch axis; None if that depends on the data."""
        total = 0
        for spec in self.outputs:
            if spec.name in names:
                if not spec.ranked or None in spec.shape or spec.dtype.hasobject:
                    return None
                total += spec.dtype.itemsize * math.prod(size or 0 for size in spec.shape)
        return total

    @property
    def known_row_bytes(self) -> int:
        """The bytes of a row of all outputs together of which that does not depend on the data."""
        return sum(self.row_bytes([spec.name]) or 0 for spec in self.outputs)

    @property
    def classes(self) -> int | None:
        """How many classes a classifier tells apart; None for others, and where the graph does not say."""
        logits = next((spec for spec in self.outputs if self.heads and spec.name == self.heads.logits), None)
        return logits.graph_shape[0 if self.batched else 1] if logits else None

    @property
    def scores(self) -> tuple[str, ...]:
        """What clients call the outputs that have a number for each of the model's classes; none where several may."""
        if self.heads is not None:
            of_classes = (self.heads.logits, self.heads.softmax)
            return tuple(spec.client_name for spec in self.outputs if spec.name in of_classes)
        own = [spec for spec in self.outputs if spec.name in self.own_outputs]
        floats = [spec for spec in own if spec.dtype.kind == "f"] or own
        return (floats[0].client_name,) if len(floats) == 1 else ()

    def classes_of(self, output: TensorSpec) -> int | None:
        """How many classes an output has a number for in each row; None where the graph does not say, or has one number."""
        if self.heads is not None and output.client_name in self.scores:
            return self.classes
        return output.shape[0] if self.batched and len(output.shape) == 1 and output.shape != (1,) else None


def signature_of(
    session: ort.InferenceSession,
    own_outputs: tuple[str, ...],
    heads: Heads | None,
    unranked: frozenset[str],
    traits: Traits,
) -> Signature:
    """The signature of an open session.

    Args:
        session: ONNX Runtime's own session.
        own_outputs: names of the file's own outputs.
        heads: the appended heads, if there are any.
        unranked: names of tensors whose number of axes the file does not say.
        traits: see `Signature`.

    Raises:
        LoadError: an input or output has an unsupported type.
    """
    offered = heads.offered(own_outputs) if heads else {name: name for name in own_outputs}
    outputs = [node for node in session.get_outputs() if node.name in offered]
    nodes = [*session.get_inputs(), *outputs]
    batched = bool(session.get_inputs()) and all(node.shape and not isinstance(node.shape[0], int) for node in nodes)
    return Signature(
        inputs=tuple(_spec(node, unranked, batched=batched, sent=True) for node in session.get_inputs()),
        outputs=tuple(
            replace(spec, alias="" if offered[spec.name] == spec.name else offered[spec.name])
            for spec in (_spec(node, unranked, batched=batched) for node in outputs)
        ),
        own_outputs=own_outputs,
        batched=batched,
        heads=heads,
        traits=traits,
    )


def reshaped(shape: Sequence[int], source: Shape, target: Shape) -> tuple[int, ...]:
    """`shape`, which matches `source`, reshaped to match `target`; axes of any size keep their order."""
    free = iter([size for size, known in zip(shape, source, strict=True) if known is None])
    return tuple(next(free) if size is None else size for size in target)


def _spec(node: Any, unranked: frozenset[str], *, batched: bool, sent: bool = False) -> TensorSpec:
    if node.type not in ONNX_TYPES:
        if node.type.startswith("tensor"):
            remedy = "cast it in the graph"
        elif sent:
            remedy = "have the graph take tensors, and make of them what it needs"
        else:
            remedy = (
                "list the other outputs in config.pbtxt, if there are any, or have the graph give tensors; scikit-learn's "
                "converter does for classifiers of one target with zipmap=False"
            )
        raise LoadError(
            f"the {'input' if sent else 'output'} '{node.name}' is a {node.type}, which this server cannot pass to ONNX Runtime; it takes tensors of numbers, "
            f"booleans and strings: {remedy}"
        )
    datatype = ONNX_TYPES[node.type]
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    # If ONNX Runtime inferred the axes, the file need not declare them.
    ranked = bool(shape) or node.name not in unranked
    names = tuple(size if isinstance(size, str) else "" for size in node.shape)
    row = shape[1:] if batched else shape
    return TensorSpec(node.name, datatype, DTYPES[datatype], row, ranked=ranked, axis_names=names)
