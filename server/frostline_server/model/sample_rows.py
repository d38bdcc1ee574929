"""Sample rows: inputs to run a network with before a client has sent any.

Real rows come from the golden sample or from `model_warmup`. Without them rows are generated. A generated row is a
guess: the network may refuse it, which says nothing about the network.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import numpy as np

from frostline_server.runtime.golden import Golden
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]
Row = tuple[Array, ...]
"""For each input, in graph order, one row: [1, ...], or the whole tensor without a batch axis."""

MOST = 4
"""As many different rows show whether rows depend on each other; fewer may do so by chance only, as with a maximum."""

_NAMELESS = frozenset(("", "?", "-1", "None", "none", "unk", "unknown"))
"""What exporters write for an axis that has no name of its own."""


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Rows of one shape.

    Attributes:
        rows: different ones first; none where a golden sample fills no run.
        origin: where they come from, for messages.
        real: whether the network must be able to answer the first.
    """

    rows: tuple[Row, ...]
    origin: str
    real: bool


def names_an_axis(name: str) -> bool:
    """Whether a file's name of an axis says something: equal names are then equal sizes."""
    return name not in _NAMELESS and not name.startswith("unk_")


def golden_rows(golden: Golden, signature: Signature, step: int) -> SampleRows:
    """The first different rows of a golden sample; where there are too few, also the first one in other orders.

    Args:
        golden: the sample.
        signature: what the network takes.
        step: how many of its rows make the smallest run.
    """
    names = [spec.name for spec in signature.inputs]
    starts = range(0, len(golden.logits) - step + 1, step)
    rows = _different(tuple(golden.inputs[name][at : at + step] for name in names) for at in starts)
    if rows and len(rows) < MOST:
        rows = _different(chain(rows, _shuffled(rows[0])))
    return SampleRows(rows, "golden.npz", real=True)


def warmup_rows(requests: Sequence[Row]) -> SampleRows | None:
    """The rows of `model_warmup` that have the first one's shape, and the first one with its elements in other orders.

    Shuffled elements stay in the range that the network can take, such as that of an index.
    """
    if not requests:
        return None
    first = requests[0]
    shapes = [array.shape for array in first]
    alike = (row for row in requests if [array.shape for array in row] == shapes)
    return SampleRows(_different(chain(alike, _shuffled(first))), "model_warmup", real=True)


def _shuffled(row: Row) -> Iterator[Row]:
    random = np.random.default_rng(0)
    for _ in range(2 * MOST):
        yield tuple(random.permutation(array.ravel()).reshape(array.shape) for array in row)


def _different(rows: Iterable[Row]) -> tuple[Row, ...]:
    found: list[Row] = []
    for row in islice(rows, 64):
        if not any(_same(row, other) for other in found):
            found.append(row)
        if len(found) == MOST:
            break
    return tuple(found)


def _same(left: Row, right: Row) -> bool:
    return all(same_elements(one, other) for one, other in zip(left, right, strict=True))


def same_elements(one: Array, other: Array) -> bool:
    """Whether two arrays have equal elements; a missing number equals another."""
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def generated_rows(signature: Signature) -> Iterator[SampleRows]:
    """Guesses, the most telling first; nothing in them differs from one load to the next.

    The rows of the first guess are of different kinds. A network may look at its rows only if one of them is large,
    negative, no number, or like another, and rows that are all alike would not show it.

    Axes that the file gives one name have one size. No free axis has a size as small as a batch of `MOST` rows, so that
    an axis that is not the batch cannot pass for it.
    """
    free = any(None in spec.graph_shape for spec in signature.inputs)
    for seed, (kinds, sizes) in enumerate(_GUESSES):
        if not free and sizes is not _PRIMES:
            continue
        random = np.random.default_rng(seed)
        axes = _axis_sizes(signature, sizes)
        shapes = [(*((1,) if signature.batched else ()), *shape) for shape in axes]
        elements = sum(math.prod(shape) for shape in shapes)
        if elements > _MOST_ELEMENTS:
            continue
        # More than are needed, because the network may refuse some; fewer where they are large.
        count = (2 * MOST if elements <= _FEW_ELEMENTS else 3) if signature.batched else 1
        rows = tuple(
            tuple(
                _values(kinds[number % len(kinds)], spec.dtype, shape, random)
                for spec, shape in zip(signature.inputs, shapes, strict=True)
            )
            for number in range(count)
        )
        yield SampleRows(rows, "generated values", real=False)


def odd_rows(row: Row, signature: Signature) -> Iterator[tuple[str, Row]]:
    """Copies of a row with a value in it that may mean something to a network: padding, no value, out of range.

    One input has it at a time: in some elements first, then in all.

    Yields:
        What is odd, in words, and the row.
    """
    for every in (4, 1):
        for place, (spec, array) in enumerate(zip(signature.inputs, row, strict=True)):
            if every == 1 and array.size <= 1:  # as before
                continue
            for value in _odd_values(array, signature):
                odd = array.copy()
                with np.errstate(over="ignore"):
                    odd.reshape(-1)[::every] = value
                yield f"{value!r} in input '{spec.name}'", (*row[:place], odd, *row[place + 1 :])


def far_rows(row: Row) -> Iterator[tuple[str, Row]]:
    """Copies of a row in which all elements of one input are a number far above those of most rows, or far below.

    Yields:
        What is far, in words, and the row.
    """
    for place, array in enumerate(row):
        if array.dtype.kind not in "iuf":
            continue
        bounds = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
        for value in dict.fromkeys((min(_FAR, int(bounds.max)), max(-_FAR, int(bounds.min)))):
            yield f"{value} in all elements", (*row[:place], np.full_like(array, value), *row[place + 1 :])


def varied_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """Any number of rows of the first one's shapes: numbers around 0, and of other types the elements that the rows have."""
    random = np.random.default_rng(0)
    known = [np.concatenate([array.ravel() for array in arrays]) for arrays in zip(*rows, strict=True)]

    def varied(array: Array, elements: Array) -> Array:
        if array.dtype.kind == "f":
            return np.asarray(random.standard_normal(array.shape)).astype(array.dtype)
        return random.choice(elements, array.shape) if len(elements) else array

    while True:
        yield tuple(varied(array, elements) for array, elements in zip(rows[0], known, strict=True))


_FAR = 1000
_ODD_NUMBERS = (
    -1,
    0,
    255,
    -100,
    1000,
    127,
    1,
    -999,
    999,
    128,
    9999,
    -9999,
    32767,
    65535,
    1_000_000,
    -1_000_000,
    2**31 - 1,
)
_ODD_FLOATS = (math.inf, -math.inf, math.nan, *map(float, _ODD_NUMBERS), 0.5, 1e9, -1e9, 1e20, 1e-9)
_ODD_TEXTS = (
    "",
    "a b c d e f",
    "a,b;c|d/e.f:g-h_i\tj\nk",
    " ",
    "nan",
    "NA",
    "unknown",
    "<pad>",
    "[PAD]",
    "[MASK]",
    "0",
    "-1",
    "a",
    "A",
    "é",
    "x" * 100,
)


def _odd_values(array: Array, signature: Signature) -> Sequence[Any]:
    dtype = array.dtype
    if dtype.hasobject:
        # Where texts are taken apart, the longest may decide how long all others are.
        return (*(separator.join("abcdef") for separator in signature.traits.separators), *_ODD_TEXTS)
    if dtype.kind == "f":
        return _ODD_FLOATS
    if dtype.kind == "b":
        return (True, False)
    if dtype.kind not in "iu":
        return ()
    if array.ndim < 2 and not signature.batched:
        return (1, 2, 3, 4)  # as `_values` has it; with a batch it is one number for each row
    bounds = np.iinfo(dtype)
    # One number alone may be a length, for which room is made. Not the lowest: to divide it by -1 ends the whole process.
    most = min(int(bounds.max), 1000) if array.size <= 1 else int(bounds.max)
    least = 0 if dtype.kind == "u" else -most
    # Once each: the largest may be one of the numbers.
    return [value for value in dict.fromkeys((*_ODD_NUMBERS, int(bounds.max))) if least <= value <= most]


_MOST_ELEMENTS = 1 << 26
_FEW_ELEMENTS = 1 << 20
_PRIMES = "primes"
_MIXED = ("unit", "wide", "counts", "gaps")
_GUESSES: tuple[tuple[Sequence[str], str | int], ...] = (
    (_MIXED, _PRIMES),
    (_MIXED, 32),
    (("unit",), _PRIMES),
    (("zero",), _PRIMES),
    (("small",), _PRIMES),
    (("wide",), _PRIMES),
    (("small",), 32),
    (("unit",), 64),
    (("one",), _PRIMES),
    (("unit",), 224),
    (("zero",), 64),
)
"""Kinds of values of the rows in turn, see `_values`, with sizes of free axes: a prime number for each name, or the same
number for all."""


def _axis_sizes(signature: Signature, sizes: str | int) -> list[tuple[int, ...]]:
    """For each input a shape without free axes."""
    primes = iter((5, 7, 11, 13, 17, 19, 23))
    by_name: dict[str, int] = {}
    unnamed = count()

    def size(known: int | None, name: str) -> int:
        if known is not None:
            return known
        key = name if names_an_axis(name) else f"\0{next(unnamed)}"
        if key not in by_name:
            by_name[key] = sizes if isinstance(sizes, int) else next(primes, 29)
        return by_name[key]

    return [
        tuple(size(known, name) for known, name in zip(spec.graph_shape, _names(spec), strict=True))
        for spec in signature.inputs
    ]


def _names(spec: TensorSpec) -> Sequence[str]:
    """The file's names of the axes of `spec.graph_shape`; empty ones where the configuration reshapes them."""
    rank = len(spec.graph_shape)
    names = spec.axis_names[len(spec.axis_names) - rank :]
    return names if len(names) == rank else ("",) * rank


def _values(kind: str, dtype: np.dtype[Any], shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Elements of one kind.

    - unit: numbers in [0, 1), whole numbers 0 and 1, digits as text
    - zero: numbers in [0, 1), whole numbers 0, words
    - small: numbers around 0 in steps of any size, whole numbers from 1 to 4
    - wide: numbers around 0 of sizes from 0.1 to 100, whole numbers from 1 to 100
    - one: numbers in [1, 2), whole numbers 1, empty texts
    - counts: numbers 0, 1 and 2, whole numbers 0 and 1, words
    - gaps: the same, and one number in four is missing (NaN)

    Whole numbers on fewer than two axes are often a size, a step or a divisor. They are from 1 to 4: zero ends the whole
    process in some of ONNX Runtime's kernels (STFT divides by its step), and a large number allocates.
    """
    if dtype.hasobject:
        words = ("a", "b", "the", "of")
        texts = {"zero": words, "counts": words, "gaps": words, "one": ("",)}.get(kind, ("0", "1", "2", "3"))
        return np.array(texts, object)[random.integers(0, len(texts), shape)]
    if dtype.kind == "f":
        return _floats(kind, shape, random).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    low, high = {"zero": (0, 1), "small": (1, 5), "wide": (1, 101), "one": (1, 2)}.get(kind, (0, 2))
    if len(shape) < 2:
        low, high = 1, max(2, min(high, 5))
    elif dtype.itemsize == 1 and kind == "unit":
        high = 128
    return random.integers(low, high, shape).astype(dtype)


def _floats(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if kind in ("counts", "gaps"):
        numbers = random.integers(0, 3, shape).astype(np.float64)
        if kind == "gaps":
            numbers[random.random(shape) < 1 / 4] = np.nan
            numbers.flat[:1] = np.nan
        return numbers
    if kind in ("small", "wide"):
        numbers = np.asarray(random.standard_normal(shape))
        if kind == "wide":
            numbers *= 10.0 ** random.uniform(-1, 2, shape)
            # However few there are, one is large, and the next one far below 0.
            numbers.flat[:1], numbers.flat[1:2] = 100, -100
        return numbers
    return np.asarray(random.random(shape) + (kind == "one"))


class RecentRow:
    """The latest row that a network answered at once, for the device probe; a copy is made only when one is wanted.

    A row on which a run took long would take long in the probe too, and look like a device that hangs.

    Args:
        wanted: whether the next run is to leave its first row here.

    Attributes:
        wanted: as given, and again after each probe.
        row: that row, or None.
    """

    __slots__ = ("row", "wanted")

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.row: Row | None = None

    def keep(self, inputs: Sequence[Array], signature: Signature, began_s: float) -> None:
        """Keep the first row of a batch that was answered, unless it is large or took long.

        Args:
            inputs: the batch.
            signature: of the network.
            began_s: when its run began, on the `time.monotonic` clock; NaN where nobody looked.
        """
        if not time.monotonic() - began_s <= _LONGEST_S:
            return
        self.wanted = False
        rows = [array[:1] if signature.batched else array for array in inputs]
        if sum(row.nbytes for row in rows) <= _MOST_BYTES:
            # A device that casts by itself was given bytes.
            self.row = tuple(
                row.astype(spec.dtype, copy=True) for row, spec in zip(rows, signature.inputs, strict=True)
            )


_LONGEST_S = 1.0
"""A tenth of the patience of the probe."""
_MOST_BYTES = 16 << 20
