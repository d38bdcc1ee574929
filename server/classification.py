"""The best classes of each row of an output, as Triton's classification extension writes them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from server.errors import InvalidInput
from server.signature import TensorSpec

Array = np.ndarray[Any, Any]


def check_classes(model: str, spec: TensorSpec) -> None:
    """Check that the elements of an output can be ranked.

    Raises:
        InvalidInput: they are no numbers.
    """
    if spec.dtype.kind not in "fiu":
        raise InvalidInput(
            f"class result not available for output '{spec.name}' of model '{model}' due to unsupported type '{spec.datatype}'"
        )


def best_classes(array: Array, count: int, labels: Sequence[str] | None, *, batched: bool) -> Array:
    """The best classes of each row, the best first.

    Args:
        array: numbers; [rows, ...] if batched. What follows the first axis are the classes, row-major.
        count: how many classes are wanted.
        labels: names of the classes, or None. They are used where a row is one number for each class.
        batched: whether the first axis is that of the rows.

    Returns:
        Strings `value:index` or `value:index:label`, [rows, min(count, classes)], or without the first axis. Equal values
        are in order of their index, and what is not a number comes last.
    """
    rows = array.shape[0] if batched else 1
    values = array.reshape(rows, math.prod(array.shape[1:] if batched else array.shape))
    classes = values.shape[1]
    # Both turn the order round without overflow; a stable sort then keeps equal values in order of their index.
    descending = -values if values.dtype.kind == "f" else ~values
    order = np.argsort(descending, axis=1, kind="stable")[:, :count]
    # As C's %f and %d print them.
    pattern = "{:.6f}:{}" if values.dtype.kind == "f" else "{}:{}"
    names: Sequence[str] = labels or ()
    # A row of several axes has a class at each of many places, and one of a single number has none; a list of labels that
    # ends early names the first classes, as in Triton.
    one_axis = array.ndim == 1 + batched
    if len(names) > classes or (len(names) < classes and not one_axis):
        names = ()
    ranked = np.empty(order.shape, object)
    best = np.take_along_axis(values, order, axis=1)
    for row, (indices, numbers) in enumerate(zip(order.tolist(), best.tolist(), strict=True)):
        for at, (index, number) in enumerate(zip(indices, numbers, strict=True)):
            text = pattern.format(number, index)
            label = names[index] if index < len(names) else ""
            ranked[row, at] = f"{text}:{label}" if label else text
    return ranked if batched else ranked[0]
