"""The conversion of arrays to the element type of a model's input, in which no number changes but floats by rounding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.client.arrays import described, place
from frostline.client.errors import InvalidInput

# NumPy's own types are equal to these on a little-endian machine.
NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The element types of numbers, by their names in the Open Inference Protocol."""

NAMES = {dtype: name for name, dtype in NUMPY.items()}

_TAKEN = {"FP32": frozenset({"UINT8", "INT8", "FP16"})}
"""Narrower types that the server itself converts for an input, without a change."""


def taken(array: NDArray[Any], datatype: str) -> bool:
    """Whether an input of this type takes the array as it is."""
    name = NAMES.get(array.dtype)
    return name == datatype or name in _TAKEN.get(datatype, ())


def convert(array: NDArray[Any], datatype: str, name: str = "") -> NDArray[Any]:
    """Converts numbers to an input's element type.

    Floats are rounded to the nearest float of a narrower type. No other number may change.

    Args:
        array: The numbers or truth values. What is neither is returned as it is: only the server knows what to say.
        datatype: The element type, as the Open Inference Protocol calls it.
        name: The input's name; empty for a network's only input.

    Returns:
        The array in that type.

    Raises:
        InvalidInput: The type has no such number: it is too large, not whole, or lies between two floats.
    """
    dtype = NUMPY.get(datatype)
    if dtype is None or array.dtype.kind not in "fiub" or array.dtype == dtype:
        return array
    # What cannot be converted is found by looking at the result.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        converted = array.astype(dtype)
        wrong = _changed(array, converted)
    if wrong is not None and wrong.any():
        index = int(np.argmax(wrong))
        value = array.ravel()[index].item()
        raise InvalidInput(
            f"{described(name)} holds {value!r} at {place(index, array.shape)}, {_why_not(value, datatype)}"
        )
    return converted


def _changed(array: NDArray[Any], converted: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which numbers the conversion changed otherwise than by rounding a float; None if it can change none."""
    if array.dtype.kind == "b":
        return None
    if converted.dtype.kind == "b":
        return np.asarray((array != 0) & (array != 1))
    if converted.dtype.kind == "f":
        return _overflown(array, converted) if array.dtype.kind == "f" else _rounded(array, converted)
    limits = np.iinfo(converted.dtype)
    if array.dtype.kind == "f":
        # Every power of two is a float, also the one beyond the largest whole number.
        wide = array.astype(np.float64, copy=False)
        whole = (wide >= float(limits.min)) & (wide < 2.0 ** int(limits.max).bit_length()) & (np.trunc(wide) == wide)
        return np.asarray(~whole)
    return np.asarray((array < int(limits.min)) | (array > int(limits.max)))


def _overflown(floats: NDArray[Any], converted: NDArray[Any]) -> NDArray[np.bool_] | None:
    if converted.itemsize > floats.itemsize:
        return None
    return np.asarray(np.isinf(converted) & ~np.isinf(floats))


def _rounded(integers: NDArray[Any], floats: NDArray[Any]) -> NDArray[np.bool_] | None:
    limits = np.iinfo(integers.dtype)
    bits = int(limits.max).bit_length()
    if bits <= np.finfo(floats.dtype).nmant + 1:
        return None
    # A comparison with the float would round the whole number once more; so the float is converted back, unless it lies
    # beyond all whole numbers of the type. The lowest one is a float, and has no positive twin.
    within = (np.abs(floats.astype(np.float64)) < 2.0**bits) | (integers == limits.min)
    return np.asarray(~within | (floats.astype(integers.dtype) != integers))


def _why_not(value: float, datatype: str) -> str:
    dtype = NUMPY[datatype]
    if dtype.kind == "b":
        return "but the model takes BOOL: True and False, or 1 and 0"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return f"but the model takes {datatype}: whole numbers from {limits.min} to {limits.max}"
    limits_of_floats = np.finfo(dtype)
    if abs(value) > float(limits_of_floats.max):
        return f"but the model takes {datatype}, whose largest number is {limits_of_floats.max}"
    return (
        f"but the model takes {datatype}, which has no such number; where rounding is meant, do it first: "
        f".astype(np.{dtype.name})"
    )
