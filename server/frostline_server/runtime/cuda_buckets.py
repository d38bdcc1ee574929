"""What is bound and captured for a network on a CUDA device: which sizes, which outputs, under which ids, at what cost in memory.

Everything here is decided from a signature and numbers; `frostline_server.runtime.cuda_runner` acts on it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from frostline_server.runtime.devices import CUDA, Provider
from frostline_server.runtime.signature import Signature, TensorSpec

NO_GRAPH = "-1"
"""The `gpu_graph_id` of a run that is neither captured nor replayed. Left out it would mean graph 0, and a capture."""

MAX_BYTES = 1 << 30
"""Device memory for the bound buffers of one session, besides ONNX Runtime's own; larger batches are run without them."""

MIN_CAST_BYTES = 4096
"""Smaller rows of single precision are made from bytes on the host: the kernel's launch would cost more than the bytes."""

WIRE = np.dtype(np.uint8)
"""The type that is cast on the device: images come in it. The others a client may send are cast on the host."""

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


def plan(signature: Signature, sizes: Sequence[int], max_bytes: int = MAX_BYTES) -> BindingPlan | None:
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
    """Whether rows of bytes for this input cross to the device as they came: a quarter of the bytes, and none written by the host."""
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


def graphs_wanted(providers: Sequence[Provider], model: onnx.ModelProto, run_entries: Mapping[str, str]) -> bool:
    """Whether capturing CUDA graphs is worth trying; whether it works, ONNX Runtime says when the session is opened.

    Args:
        providers: of the session, best first.
        model: the network.
        run_entries: of every run's configuration.
    """
    name, options = providers[0]
    if name != CUDA or options.get("enable_cuda_graph", "1") != "1":
        return False
    # Shrinking the arena after a run would take the memory from under the graphs.
    if any("gpu" in value for value in run_entries.values()):
        return False
    return replayable(model)


def replayable(model: onnx.ModelProto) -> bool:
    """Whether a run does the same work whatever its input holds, so that a captured one can be replayed for another input.

    It does where the batch decides the size of every tensor. A kernel whose output is as long as the data make it (NonZero, say)
    asks the device how long that is, and gets nonsense while a graph is captured: the graph then reads memory that is nobody's, and
    the CUDA context of the whole process is lost. What draws random numbers would draw the same ones in every replay.
    """
    graph = model.graph
    if not graph.input or any(node.op_type in _RANDOM or _has_body(node) for node in graph.node):
        return False
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True).graph
    except Exception:  # noqa: BLE001  of no public class; whoever opens the session says what is wrong with the network
        return False
    known = {value.name for value in (*inferred.value_info, *inferred.output) if _fixed_size(value)}
    return all(_fixed_size(value) for value in inferred.input) and all(
        name in known for node in graph.node for name in node.output if name
    )


_RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_SMALL = 1024
"""Elements of a constant that may be a shape; what larger ones hold decides no size."""
_SOME_ROWS = 3


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network without the contents of its weights, and with a batch of some size."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for constant in model.graph.initializer:
        if math.prod(constant.dims) <= _SMALL and constant.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(constant)
        else:
            graph.initializer.add(name=constant.name, dims=constant.dims, data_type=constant.data_type)
    constants = {constant.name for constant in model.graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and value.name not in constants and not dims[0].HasField("dim_value"):
            dims[0].dim_value = _SOME_ROWS
    for value in graph.output:
        # What the file says of them may be less than what follows.
        value.type.tensor_type.ClearField("shape")
    return skeleton


def _fixed_size(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def with_precision(providers: Sequence[Provider], graph: onnx.GraphProto) -> list[Provider]:
    """The same providers, with CUDA told not to shorten numbers to TensorFloat-32 unless the network's own are as short.

    It keeps 10 bits of a number, and logits move by more than a golden sample's usual tolerance. Half precision has no more bits to
    lose, and what switches TensorFloat-32 off makes ONNX Runtime look for convolutions without tensor cores first, in vain for these.

    Args:
        providers: of the session, best first; an option that is set already stays.
        graph: the network's.
    """
    if any(constant.data_type in _HALF and len(constant.dims) > 1 for constant in graph.initializer):
        return list(providers)
    return [(name, {"use_tf32": "0", **options} if name == CUDA else options) for name, options in providers]


_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def with_graphs(providers: Sequence[Provider], *, enabled: bool) -> list[Provider]:
    """The same providers, with CUDA told to capture graphs, or not to, which is its own default."""
    return [(name, _switched(options, enabled=enabled) if name == CUDA else options) for name, options in providers]


def _switched(options: Mapping[str, str], *, enabled: bool) -> dict[str, str]:
    others = {name: value for name, value in options.items() if name != "enable_cuda_graph"}
    return {**others, "enable_cuda_graph": "1"} if enabled else others
