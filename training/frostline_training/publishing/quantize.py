"""Quantization: it rewrites an ONNX graph to float16 or int8, and keeps its inputs and outputs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

LARGEST_FLOAT16 = 65504.0

# Operators that hold the weights. What stands before the first of them is normalisation.
_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather", "Einsum", "Attention")
# Sums of exponentials and squares, which float16 spoils. They weigh nothing.
_DELICATE = ("Softmax", "LayerNormalization", "Gelu")
_QUANTISED = ("Conv", "MatMul", "Gemm")
_FLOAT = onnx.TensorProto.FLOAT
_SMALLEST = 256  # numbers; below it the scales take more room than is saved


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with weights and arithmetic in float16, and float32 still going in and coming out.

    Raw values are normalised in float32 first: 70 000 is infinity in float16. The result's types are checked.

    Raises:
        onnx.shape_inference.InferenceError: An operator of the graph cannot compute in float16.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    first = _Normalising(graph)
    floats = {value.name for value in (*graph.input, *graph.value_info) if value.type.tensor_type.elem_type == _FLOAT}
    outputs = {value.name for value in graph.output if value.type.tensor_type.elem_type == _FLOAT}
    borders = floats & first.reached  # float32 tensors that float16 nodes may take
    renamed = {name: f"{name}_fp16" for name in (*borders, *outputs)}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _FLOAT}
    wide = {node.name for node in graph.node if node.name in first.names or node.op_type in _DELICATE}
    taken = {name for node in graph.node if node.name not in first.names for name in node.input}
    kept = {name for node in graph.node if node.name in wide for name in node.input} | outputs
    halved = {name for node in graph.node if node.name not in wide for name in node.input}

    nodes = [_cast(value.name, onnx.TensorProto.FLOAT16) for value in graph.input if value.name in borders & taken]
    for node in graph.node:
        nodes.append(node)
        if node.name in first.names:
            nodes += [_cast(name, onnx.TensorProto.FLOAT16) for name in node.output if name in borders & taken]
            continue
        if node.op_type in _DELICATE:
            nodes[-1:] = _widened(node, floats, renamed)
            continue
        node.input[:] = [f"{name}_fp16" if name in weights else renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        _halve_attributes(node)
    nodes += [
        onnx.helper.make_node("Cast", [renamed[name]], [name], name=f"{name}_to_float", to=_FLOAT)
        for name in sorted(outputs - first.reached)
    ]
    halves = [_halved(tensor, f"{name}_fp16") for name, tensor in weights.items() if name in halved]
    others = [tensor for tensor in graph.initializer if tensor.name not in weights or tensor.name in kept]
    for field, items in (("node", nodes), ("initializer", [*others, *halves]), ("value_info", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def to_int8(full: Path, calibration: Sequence[Mapping[str, NDArray[np.generic]]], workshop: Path) -> onnx.ModelProto:
    """Return the model at `full` with int8 weights and, around its convolutions and products, uint8 activations.

    The range of every activation is fixed by the `calibration` batches, not measured again for each batch: a row's
    answer must not depend on the rows beside it. Weights use 7 of the 8 bits, because 8 overflow on processors
    without VNNI, and the same file must answer alike on all. Recurrent layers and embeddings are stored in int8
    and computed in float32.

    Args:
        full: The float32 file.
        calibration: Batches of real rows, by input name.
        workshop: A folder for the files on the way.
    """
    ready, quantised = workshop / "ready.onnx", workshop / "quantised.onnx"
    with _quiet():
        quant_pre_process(str(full), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(quantised),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=_Normalising(onnx.load(ready).graph).names,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(quantised)
    _store_in_int8(model.graph)
    return model


class _Normalising:
    """The nodes between the inputs and the first operators that hold weights.

    Attributes:
        names: Theirs; a node without a name is given one.
        reached: The inputs, and the tensors that they give.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        constants = {tensor.name for tensor in graph.initializer}
        self.reached = {value.name for value in graph.input} - constants
        self.names: list[str] = []
        for index, node in enumerate(graph.node):
            node.name = node.name or f"node_{index}"
            variable = [name for name in node.input if name and name not in constants]
            if not variable and node.op_type != "ConstantOfShape":
                constants |= set(node.output)
            elif node.op_type not in _HEAVY and all(name in self.reached for name in variable):
                self.reached |= set(node.output)
                self.names.append(node.name)


def _widened(node: onnx.NodeProto, floats: set[str], renamed: Mapping[str, str]) -> list[onnx.NodeProto]:
    # The node in float32, between casts from float16 and back.
    before = [
        onnx.helper.make_node("Cast", [renamed.get(name, name)], [f"{node.name}_in_{place}"], to=_FLOAT)
        for place, name in enumerate(node.input)
        if name in floats
    ]
    node.input[:] = [f"{node.name}_in_{place}" if name in floats else name for place, name in enumerate(node.input)]
    after = [
        onnx.helper.make_node("Cast", [f"{node.name}_out"], [renamed.get(name, name)], to=onnx.TensorProto.FLOAT16)
        for name in node.output[:1]
    ]
    node.output[:1] = [f"{node.name}_out"]
    return [*before, node, *after]


def _cast(name: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [name], [f"{name}_fp16"], name=f"{name}_to_fp16", to=kind)


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == _FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == _FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))


def _halved(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    # What is finite stays finite (masks are often the lowest float32), and what is not 0 stays so (divisors).
    limited = np.where(np.isfinite(values), np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16), values)
    halves = limited.astype(np.float16)
    lost = (halves == 0) & (values != 0)
    return numpy_helper.from_array(
        np.where(lost, np.copysign(np.float16(6e-8), values), halves).astype(np.float16), name
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships without types
    """Hands out the batches one by one, as ONNX Runtime asks for them."""

    def __init__(self, batches: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the next batch, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def _store_in_int8(graph: onnx.GraphProto) -> None:
    large = [
        tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2 and np.prod(tensor.dims) >= _SMALLEST
    ]
    for tensor in large:
        values = numpy_helper.to_array(tensor)
        axis = values.ndim - 2  # one scale for each row of the weights, or for each entry of an embedding
        others = tuple(place for place in range(values.ndim) if place != axis)
        scale = np.abs(values).max(axis=others).astype(np.float32) / 127
        scale[scale == 0] = 1
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        rounded = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.extend(
            [numpy_helper.from_array(rounded, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        restore = onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], name=f"{name}_restore", axis=axis
        )
        graph.node.insert(0, restore)


@contextmanager
def _quiet() -> Iterator[None]:
    # ONNX Runtime's quantiser logs advice to whoever runs it by hand.
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
