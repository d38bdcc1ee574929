"""Options of the CUDA execution provider for one network: CUDA graphs and the precision of its arithmetic."""

from collections.abc import Mapping, Sequence

import onnx

from frostline_server.runtime.devices import CUDA, Provider
from frostline_server.runtime.graph.shape_inference import inferred


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
    """Whether a run does the same work for any input, so that a captured run can be replayed for another input.

    It does where the batch decides the size of every tensor. A kernel whose output size depends on the data (NonZero, say)
    asks the device for that size, and gets a wrong one while a graph is captured. The graph then reads memory that belongs to
    nobody, and the CUDA context of the whole process is lost. A network that draws random numbers would draw the same numbers
    in every replay.
    """
    try:
        graph = inferred(model, _SOME_ROWS)
    except Exception:  # noqa: BLE001  of no public class; whoever opens the session says what is wrong with the network
        return False
    if not graph.input or any(node.op_type in _RANDOM or _has_body(node) for node in graph.node):
        return False
    known = {value.name for value in (*graph.value_info, *graph.output) if _fixed_size(value)}
    return all(_fixed_size(value) for value in graph.input) and all(
        name in known for node in graph.node for name in node.output if name
    )


_RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_SOME_ROWS = 3


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _fixed_size(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def with_precision(providers: Sequence[Provider], graph: onnx.GraphProto) -> list[Provider]:
    """The same providers, with CUDA told not to shorten numbers to TensorFloat-32 unless the network's own are as short.

    TensorFloat-32 keeps 10 bits of a number, and logits move by more than a golden sample's usual tolerance. Half precision has
    no more bits to lose, and without TensorFloat-32 ONNX Runtime looks for its convolutions without tensor cores first, in vain.

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
