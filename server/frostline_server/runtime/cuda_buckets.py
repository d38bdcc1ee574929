"""The buffer plan of a session on a CUDA device: batch sizes, sets of outputs, graph ids, and the memory that they take.

All of it follows from the network's signature; `frostline_server.runtime.cuda_runner` acts on it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from frostline_server.runtime.signature import Signature, TensorSpec

NO_GRAPH = "-1"
"""The `gpu_graph_id` of a run that is neither captured nor replayed. A run without an id would capture graph 0."""

MAX_BYTES = 1 << 30
"""The most device memory that the buffers of one session take; batches that are too large for it run without buffers."""

MIN_CAST_BYTES = 4096
"""The host casts smaller rows: launching a kernel would cost more than the bytes that it saves."""

WIRE = np.dtype(np.uint8)
"""The type that the device casts, because images come in it. The host casts the other types that a client may send."""

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BindingPlan:
    """What to bind.

    Attributes:
        sizes: numbers of rows, ascending; (1,) for a network without a batch axis.
        outputs: the sets of outputs that are computed together, small ones first; a run takes the first that has all it
            needs.
        casts: for each input, whether rows of bytes are made single precision on the device.
        left_out: sizes that would have taken too much memory.
        bytes: device memory of all buffers.
    """

    sizes: tuple[int, ...]
    outputs: tuple[Names, ...]
    casts: tuple[bool, ...]
    left_out: tuple[int, ...]
    bytes: int

    def size(self, rows: int) -> int | None:
        """The smallest size that holds `rows` rows; None when they must run without a bound buffer."""
        place = bisect_left(self.sizes, rows)
        return self.sizes[place] if place < len(self.sizes) else None

    def covering(self, wanted: Iterable[str]) -> Names | None:
        """The smallest set of outputs with all that is wanted; None when there is none."""
        needed = set(wanted)
        return next((names for names in self.outputs if needed.issubset(names)), None)

    def graph_ids(self) -> dict[tuple[int, Names], str]:
        """An id for each size and set of outputs, from 1: 0 is what ONNX Runtime takes for a run that says nothing."""
        pairs = [(size, names) for size in self.sizes for names in self.outputs]
        return {pair: str(number) for number, pair in enumerate(pairs, start=1)}


def binding_plan(signature: Signature, sizes: Sequence[int], max_bytes: int = MAX_BYTES) -> BindingPlan | None:
    """What to bind of a network; None when its tensors are not of fixed size, or not numbers.

    Args:
        signature: what it takes and gives.
        sizes: numbers of rows that are to be bound; without a batch axis there is only one.
        max_bytes: device memory for all of it; the largest sizes are left out where it is not enough.
    """
    specs = [*signature.inputs, *computed(signature)]
    if not signature.inputs or not all(fixed(spec) for spec in specs):
        return None
    casts = tuple(cast_on_device(spec) for spec in signature.inputs)
    row_bytes = sum(tensor_bytes(spec) for spec in specs)
    row_bytes += sum(
        tensor_bytes(spec) // spec.dtype.itemsize for spec, cast in zip(signature.inputs, casts, strict=True) if cast
    )
    wanted = sorted(set(sizes)) if signature.batched else [1]
    kept = affordable(wanted, row_bytes, max_bytes)
    if not kept:
        return None
    return BindingPlan(kept, output_sets(signature), casts, tuple(wanted[len(kept) :]), sum(kept) * row_bytes)


def affordable(sizes: Sequence[int], row_bytes: int, max_bytes: int) -> tuple[int, ...]:
    """As many of the ascending `sizes`, from the smallest, as have room together; each has buffers of its own."""
    kept: list[int] = []
    for size in sizes:
        if (sum(kept) + size) * row_bytes > max_bytes:
            break
        kept.append(size)
    return tuple(kept)


def fixed(spec: TensorSpec) -> bool:
    """Whether a tensor has numbers of a known count, so that a buffer can be made for it once."""
    return spec.ranked and None not in spec.graph_shape and not spec.dtype.hasobject


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of one row of a fixed tensor, or of the whole one without a batch axis."""
    return math.prod(size or 0 for size in spec.graph_shape) * spec.dtype.itemsize


def cast_on_device(spec: TensorSpec) -> bool:
    """Whether the device casts rows of bytes for this input: a quarter of the bytes cross, and the host writes none."""
    return spec.datatype == "FP32" and tensor_bytes(spec) >= MIN_CAST_BYTES


def cast_network() -> onnx.ModelProto:
    """Input `wire`, bytes of any shape, to output `cast`, the same in single precision."""
    wire, cast = (
        onnx.helper.make_tensor_value_info(name, element, None)
        for name, element in (("wire", onnx.TensorProto.UINT8), ("cast", onnx.TensorProto.FLOAT))
    )
    node = onnx.helper.make_node("Cast", ["wire"], ["cast"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([node], "cast", [wire], [cast])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def computed(signature: Signature) -> tuple[TensorSpec, ...]:
    """All that the server may ask for: what clients may, and the predicted class's probability, which has its logits' type."""
    heads = signature.heads
    if heads is None or not heads.confidence:
        return signature.outputs
    logits = next(spec for spec in signature.outputs if spec.name == heads.logits)
    # Without a batch axis that of the logits is part of their shape.
    lead = () if signature.batched else logits.graph_shape[:1]
    return (*signature.outputs, TensorSpec(heads.confidence, logits.datatype, logits.dtype, lead))


def output_sets(signature: Signature) -> tuple[Names, ...]:
    """The sets of outputs that are worth a graph of their own, each smaller than the next.

    Everything is always one. A classifier's argmax with its probability, which the metrics need for every batch, is another; so
    are the file's own outputs, where heads were appended that cost as much as they.
    """
    names = tuple(spec.name for spec in computed(signature))
    heads = signature.heads
    sets = {names}
    if heads is not None:
        sets.add((heads.argmax, heads.confidence) if heads.confidence else (heads.argmax,))
        if not heads.confidence:
            sets.add(signature.own_outputs)
    return tuple(
        sorted((chosen for chosen in sets if set(chosen) <= set(names)), key=lambda chosen: (len(chosen), chosen))
    )
