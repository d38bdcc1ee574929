"""The elements of tensors in JSON, without a change of any value: what JSON cannot say exactly is refused.

NaN and infinity, which JSON has not, are the texts "NaN", "Infinity" and "-Infinity", as in protobuf's JSON. Whole numbers
may have 64 bits. A float of single precision is written with as few digits as tell it from its neighbours, and read as
the one that is nearest to what was written.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.protocol import pack_bytes
from frostline_server.http.statuses import Failure, invalid
from frostline_server.runtime.dtypes import DTYPES

Array = NDArray[Any]

NOT_FINITE = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
}
"""The words for what JSON has no number for: protobuf's, and NumPy's."""
_SHORTEST = 4096
"""Elements that are written with as few digits as possible. More are written as doubles, which takes a tenth of the time."""

_HALF_BYTES = 2
"""The size of a float of half precision."""
_ALL_DIGITS = 2048
"""From here on, such floats are whole numbers that are known by fewer digits than they have."""

_BEHIND_HALF: Mapping[int, Array] = {2: np.array(2**41 - 1, np.uint64), 4: np.array(2**28 - 1, np.uint64)}
"""By the size of a float, the bits of a double behind those that it has and the one that is halfway to the next."""

DATATYPES = tuple(DTYPES)
"""The protocol's names of element types that are understood."""


def raw_elements(
    name: str,
    datatype: str,
    shape: Sequence[int],
    data: Any,
    as_written: Callable[[], Any],
) -> bytes:
    """The elements of a tensor as they are on the wire.

    Args:
        name: the tensor's, for messages.
        datatype: the protocol's name of the element type.
        shape: sizes of the axes.
        data: the elements: a list, flat or nested as the shape is.
        as_written: gives the same as it was written; see `json_bodies.as_written`.

    Raises:
        Failure: they are not so many elements of this type.
    """
    where = f"input '{name}'"
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise invalid(f"{where} has the datatype {datatype!r}; it may be {', '.join(DATATYPES)}")
    flat = _flat(data, shape, where)
    kinds = set(map(type, flat))
    match dtype.kind:
        case "O":
            if kinds - {str}:
                raise _unlike(where, datatype, flat, (str,), "a text")
            return pack_bytes(_encoded(where, flat))
        case "b":
            if kinds - {bool}:
                raise _unlike(where, datatype, flat, (bool,), "true or false")
            return np.array(flat, np.bool_).tobytes()
        case "f":
            return _floats(where, datatype, flat, kinds, dtype, lambda: _flat(as_written(), shape, where))
    if kinds - {int}:
        raise _unlike(where, datatype, flat, (int,), "a whole number")
    limits = np.iinfo(dtype)
    wrong = next((each for each in flat if not limits.min <= each <= limits.max), None)
    if wrong is not None:
        raise invalid(
            f"{where} has the element {wrong}, which is no {datatype}: it goes from {limits.min} to {limits.max}"
        )
    return np.array(flat, dtype).tobytes()


def _floats(
    where: str,
    datatype: str,
    flat: list[Any],
    kinds: set[type],
    dtype: np.dtype[Any],
    as_written: Callable[[], list[Any]],
) -> bytes:
    if kinds - {int, float, str}:
        raise _unlike(where, datatype, flat, (int, float, str), "a number")
    if str in kinds:
        strange = next((each for each in flat if isinstance(each, str) and each not in NOT_FINITE), None)
        if strange is not None:
            raise invalid(
                f'{where} has the element {_shown(strange)}; a number, "NaN", "Infinity" or "-Infinity" is expected'
            )
        flat = [NOT_FINITE[each] if isinstance(each, str) else each for each in flat]
    try:
        wide = np.array(flat, np.float64)
    except OverflowError as error:  # a whole number beyond what floats have
        raise invalid(f"{where} has an element that is too large for {datatype}") from error
    if int in kinds:
        _check_whole(where, datatype, flat, dtype)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
        if halfway := _halfway(wide, array):
            # Rounded again, those that were rounded already may become the neighbour of what was written.
            written = as_written()
            for at in halfway:
                if written[at] is not None:
                    side = math.inf if Decimal(written[at]) > Decimal(flat[at]) else -math.inf
                    array[at] = math.nextafter(flat[at], side)
    overflown = np.isinf(array) & np.isfinite(wide)
    if overflown.any():
        raise invalid(f"{where} has the element {wide[int(overflown.argmax())]:g}, which is too large for {datatype}")
    return array.tobytes()


def _halfway(wide: NDArray[np.float64], array: Array) -> list[int]:
    """Where doubles may be halfway between two of the floats that they were rounded to."""
    mask = _BEHIND_HALF.get(array.itemsize)
    if mask is None:
        return []
    behind = wide.view(np.uint64) & mask
    if behind.all():
        return []
    halfway = (behind == 0) & (array != wide)
    return np.flatnonzero(halfway & np.isfinite(wide)).tolist() if halfway.any() else []


def _check_whole(where: str, datatype: str, flat: list[Any], dtype: np.dtype[Any]) -> None:
    """Refuse whole numbers that floats would change: whoever writes them so means them so."""
    exact = 2 ** (np.finfo(dtype).nmant + 1)
    for each in flat:
        if type(each) is int and not -exact <= each <= exact and not _is_held(each, dtype):
            raise invalid(
                f"{where} has the element {each}, which {datatype} cannot hold exactly; write it with a decimal point if it may "
                "be rounded"
            )


def _is_held(number: int, dtype: np.dtype[Any]) -> bool:
    """Whether a type of floats has a whole number, or has the one that JavaScript writes so.

    JavaScript writes floats from 2**53 on as whole numbers, with zeros after the digits that tell them apart.
    """
    wide = float(number)
    with np.errstate(over="ignore"):
        if float(np.float64(wide).astype(dtype)) != wide:
            return False
    return int(wide) == number or int(Decimal(repr(wide))) == number


def _flat(data: Any, shape: Sequence[int], where: str) -> list[Any]:
    """The elements of nested lists, which are as the shape says, or one flat list."""
    count = math.prod(shape)
    if not isinstance(data, list):
        if shape or data is None or isinstance(data, dict):
            raise invalid(f"{where} has as data {_shown(data)}; a list of {count} elements is expected, flat or nested")
        return [data]
    if data and isinstance(data[0], list):
        for depth in range(1, len(shape)):
            if len(data) != math.prod(shape[:depth]) or not all(isinstance(each, list) for each in data):
                raise invalid(
                    f"{where} has data that are not nested as its shape {list(shape)} says; nest them so, or send a flat list"
                )
            # A level of the nesting; the lists of the next one follow each other.
            data = list(itertools.chain.from_iterable(_alike(data, shape, where)))
    if len(data) != count:
        raise invalid(f"{where} has {len(data)} elements, and its shape {list(shape)} has {count}")
    flat: list[Any] = data
    return flat


def _alike(data: list[Any], shape: Sequence[int], where: str) -> list[Any]:
    if len({len(each) for each in data}) > 1:
        raise invalid(f"{where} has lists of different lengths, and its shape is {list(shape)}")
    return data


def _encoded(where: str, flat: list[Any]) -> list[bytes]:
    try:
        return [text.encode() for text in flat]
    except UnicodeEncodeError as error:
        raise invalid(f"{where} has a text with half a character (a surrogate); send whole ones") from error


def elements(array: Array) -> list[Any]:
    """The elements of an array as JSON has them, in one list.

    Args:
        array: numbers, truth values, or bytes that are texts in UTF-8.

    Raises:
        Failure: its bytes are no texts.
    """
    flat = array.ravel()
    if flat.dtype.hasobject:
        return [_text(each) for each in flat.tolist()]
    listed: list[Any] = flat.tolist()
    if flat.dtype.kind != "f":
        return listed
    if flat.dtype.itemsize < 8 and flat.size <= _SHORTEST:
        shortest = [float(text) for text in flat.astype(str).tolist()]
        if flat.dtype.itemsize == _HALF_BYTES:
            # 65500 for 65504 is no shorter, and to readers of FP64 another number.
            listed = np.where(abs(flat) < _ALL_DIGITS, shortest, flat).tolist()
        # Of one number in billions, such as 7.038531e-26, the decimals are a double that rounds to its neighbour.
        elif np.array_equal(np.array(shortest, np.float64).astype(flat.dtype), flat, equal_nan=True):
            listed = shortest
    if np.isfinite(flat).all():
        return listed
    return [each if math.isfinite(each) else _word(each) for each in listed]


def nested(array: Array) -> Any:
    """The elements of an array as JSON has them, nested as its shape is."""
    listed: list[Any] = elements(array)
    for size in reversed(array.shape[1:]):
        if not size:
            return np.empty(array.shape, object).tolist()
        listed = [listed[start : start + size] for start in range(0, len(listed), size)]
    return listed if array.ndim else listed[0]


def _word(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _text(element: Any) -> str:
    try:
        return element.decode() if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError as error:
        raise invalid(
            "an output has bytes that are no text in UTF-8, which JSON cannot hold; ask for it with binary_data true"
        ) from error


def _unlike(where: str, datatype: str, flat: list[Any], kinds: tuple[type, ...], expected: str) -> Failure:
    strange = next(each for each in flat if type(each) not in kinds)
    return invalid(f"{where} has the element {_shown(strange)}; {expected} is expected for {datatype}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "null" if value is None else repr(value) if not isinstance(value, bool) else str(value).lower()
