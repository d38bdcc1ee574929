"""The opened graph: a model whose first axes are free, and requests of other rows than the suite's own.

A first axis that is free looks like a batch axis. Whether it is one, only the graph knows: of a transposed matrix, or of
weights that are an input, it is none, and rows of different callers must not meet there.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from bench.conformance.reference import Array, Tensors

AXIS = "rows"
"""The name of every opened axis: one name, as an exporter would write it for a batch."""


def open_first_axis(model: bytes) -> bytes | None:
    """The model with a free first axis in every input and output; None where no input has an axis."""
    opened = onnx.load_model_from_string(model)
    constants = {tensor.name for tensor in opened.graph.initializer}
    found = False
    for value in (*opened.graph.input, *opened.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name in constants or not dims:
            continue
        dims[0].Clear()
        dims[0].dim_param = AXIS
        found = found or any(value.name == each.name for each in opened.graph.input)
    # What the shapes inside were inferred from is gone.
    del opened.graph.value_info[:]
    return opened.SerializeToString() if found else None


def others(inputs: Tensors) -> Iterator[dict[str, Array]]:
    """Further requests like this one, with the same elements in another order, so that indices and texts stay valid."""
    random = np.random.default_rng(0)
    yield {name: _backwards(array) for name, array in inputs.items()}
    yield {name: _shuffled(array, random) for name, array in inputs.items()}
    yield {name: _shuffled(array, random) if array.dtype.kind == "f" else array for name, array in inputs.items()}
    yield {
        name: (array * 1.5).astype(array.dtype) if array.dtype.kind == "f" else array for name, array in inputs.items()
    }


def first_rows(inputs: Tensors, count: int) -> dict[str, Array]:
    """The same request with its first rows only."""
    return {name: array[:count] if array.ndim else array for name, array in inputs.items()}


def rounds(callers: Sequence[Tensors]) -> Iterator[list[dict[str, Array]]]:
    """Requests to send at once, so that batches of many sizes come about.

    Sizes matter, because rows of a wrong axis only fit where it is as long as the batch.

    Args:
        callers: four whole requests.
    """
    yield [dict(inputs) for inputs in callers]
    for count in (4, 3, 2):
        yield [first_rows(inputs, 1) for inputs in callers[:count]]
    yield [first_rows(callers[0], 1), first_rows(callers[1], 2), dict(callers[2]), first_rows(callers[3], 1)]


def _backwards(array: Array) -> Array:
    return np.ascontiguousarray(array[::-1]) if array.ndim else array


def _shuffled(array: Array, random: np.random.Generator) -> Array:
    return array.ravel()[random.permutation(array.size)].reshape(array.shape)
