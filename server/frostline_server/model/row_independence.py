"""The proof of row independence: rows may share a batch only if each is answered as it is answered alone.

A free first axis does not say that. It may be time, the network may normalise over it, or each row may see the others.
So different rows are run alone and in company, and their answers are compared. Alone and in company a sum may be computed
in another order, so small differences are allowed there. Beside other companions a row's answer must stay as it is, to
the last bit where the device computes the same bits again: beside a large number, such as a time, what rows add to one
another may be smaller than any rounding.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from frostline_server.errors import OutOfMemory, PredictionError
from frostline_server.model.sample_rows import (
    MOST,
    Row,
    SampleRows,
    far_rows,
    names_an_axis,
    odd_rows,
    same_elements,
    varied_rows,
)
from frostline_server.runtime.session import Run
from frostline_server.runtime.signature import Signature

Array = np.ndarray[Any, Any]

_NOTHING = 1e-20
"""Answers that small are all the same."""

_ALIGNMENT = 64

_DOUBTFUL = 10.0
"""Generated rows disprove nothing where an answer is off by less than so many times the rounding."""

_ODD_S = 0.5
_MOST_ODD = 256
"""How long, and beside how many rows with odd values, a row is run; networks that take longer than 1 ms meet fewer of them."""

_CROWD = 32
"""Rows of which one may be five standard deviations from their mean."""
_RUNS_IN_CROWD = 6
"""There is time for so many runs of a crowd, or none is made: as many as one input takes, and one more."""
_MOST_VARIED = 100

SAME_ARITHMETIC = 1e-5
"""How far answers of runs that differ in nothing that the row can see may be apart, as a part of the largest number, if
they are not the same each time. Such runs compute the same sums in the same order; only some kernels of a GPU do not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about the rows of a network.

    Attributes:
        independent: whether it is proved that rows may share a batch.
        disproved: whether it is proved that they may not; neither is known where no sample row could show it.
        reason: why it is not proved; "" where it is.
        single: whether one row gets one row of every output, as far as is known, so that it can be served with a batch of one.
    """

    independent: bool
    disproved: bool = False
    reason: str = ""
    single: bool = True


class RowsDepend(Exception):
    """Rows must not share a batch; the message says what showed it.

    Args:
        message: what showed it.
        apart: how far an answer is from that of the row alone, as a part of its largest number.
    """

    def __init__(self, message: str, apart: float = math.inf) -> None:
        super().__init__(message)
        self.apart = apart


def examine(
    run: Run, signature: Signature, samples: Iterable[SampleRows], same: float = SAME_ARITHMETIC
) -> tuple[SampleRows | None, Verdict]:
    """Look for rows that the network answers and, with a batch axis, for a proof that they are independent.

    Args:
        run: runs a batch, as `Session.run`.
        signature: what the network takes and gives.
        samples: tried in turn until one decides.
        same: how far equal runs may be apart, as a part of an answer's largest number.

    Returns:
        The last rows that the network answered, if there are any, and the verdict.

    Raises:
        PredictionError: the network does not answer the first of real rows.
    """
    outputs = signature.own_outputs
    known = _known_otherwise(signature) if signature.batched else ""
    answered: SampleRows | None = None
    seen = _Seen(signature)
    problem = "no sample row was answered"
    single = True
    for sample in samples:
        rows, alone, refusal = _alone(run, outputs, sample)
        if refusal is not None:
            if answered is None:
                problem = f"{sample.origin} were refused: {refusal}"
            continue
        answered = SampleRows(rows, sample.origin, sample.real)
        single = single and all(answer.shape[:1] == (1,) for answer in alone[0])
        if known or not signature.batched:
            break
        try:
            doubt = _doubt(run, signature, answered, alone, same)
            if not doubt:
                seen.add(answered, alone)
            problem = doubt or seen.missing(answered)
            if doubt or not problem:
                _check_sizes(run, signature, rows)
                _beside_odd_ones(run, signature, rows, same)
        except OutOfMemory as error:
            problem = f"there is not enough memory for rows of several requests: {error}"
            break
        except RowsDepend as found:
            return answered, Verdict(independent=False, disproved=True, reason=str(found), single=single)
        if not problem:
            return answered, Verdict(independent=True)
    return answered, Verdict(independent=False, disproved=bool(known), reason=known or problem, single=single)


class _Seen:
    """What the samples that passed have shown: only what differs from row to row can show that rows mix."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = signature.own_outputs
        self._differed: set[tuple[str, str]] = set()
        self._numbers: set[str] = set()

    def add(self, sample: SampleRows, alone: Sequence[Sequence[Array]]) -> None:
        """Add the rows of a sample and their answers."""
        self._differed |= {("input", name) for name in _different(self._inputs, sample.rows)}
        self._differed |= {("output", name) for name in _different(self._outputs, alone)}
        self._numbers |= {
            name for name, answer in zip(self._outputs, alone[0], strict=True) if answer.dtype.kind == "f"
        }

    def missing(self, sample: SampleRows) -> str:
        """What has not differed and should have; "" if nothing is missing.

        A class or a flag need not differ where a number has. In real rows an input need not, because it may be one that
        never does.
        """
        outputs = [name for name in self._outputs if name in self._numbers] or self._outputs
        silent = next((name for name in outputs if ("output", name) not in self._differed), "")
        if silent:
            return f"different rows of {sample.origin} all got the same '{silent}'"
        same = next((name for name in self._inputs if ("input", name) not in self._differed), "")
        return f"only rows with the same '{same}' were answered" if same and not sample.real else ""


def _known_otherwise(signature: Signature) -> str:
    """What the file itself says against a batch; "" if it says nothing.

    By its name, the batch cannot be an axis inside a row too.
    """
    if signature.traits.batch_wide:
        return f"its operator {signature.traits.batch_wide} computes with all rows of a batch"
    inner = {name for spec in signature.inputs for name in spec.axis_names[1:] if names_an_axis(name)}
    for spec in signature.inputs:
        if spec.axis_names[:1] and spec.axis_names[0] in inner:
            return (
                f"the first axis of input '{spec.name}' is '{spec.axis_names[0]}', which is also an axis inside a row"
            )
    return ""


def _alone(
    run: Run, outputs: Sequence[str], sample: SampleRows
) -> tuple[tuple[Row, ...], list[list[Array]], PredictionError | None]:
    """The first `MOST` rows that the network answers, their answers, and why it refused the first if it answers none."""
    rows: list[Row] = []
    alone: list[list[Array]] = []
    refusal: PredictionError | None = None
    for tried, row in enumerate(sample.rows):
        if len(rows) == MOST or (tried == MOST and not rows):
            break
        try:
            alone.append(run(row, outputs))
        except PredictionError as error:
            if sample.real and not rows:
                raise
            # Its traceback would tie it and this frame into a cycle, with the session in it.
            refusal = refusal or error.with_traceback(None)
        else:
            rows.append(row)
    return tuple(rows), alone, None if rows else refusal


def _doubt(run: Run, signature: Signature, sample: SampleRows, alone: Sequence[Sequence[Array]], same: float) -> str:
    """Run rows in company; returns why that shows nothing, or "".

    Raises:
        RowsDepend: as `_in_company`.
        OutOfMemory: as `_in_company`.
    """
    try:
        _in_company(run, signature, sample.rows, alone, same)
    except RowsDepend as found:
        if sample.real or found.apart > _DOUBTFUL * signature.traits.rounding:
            raise
        # Generated values may be such that the network divides by next to nothing. Others decide.
        return str(found)
    return ""


def _in_company(
    run: Run, signature: Signature, rows: Sequence[Row], alone: Sequence[Sequence[Array]], same: float
) -> None:
    """Run batches of different rows in different orders.

    Raises:
        RowsDepend: an answer depends on the rows beside it, or is not the one that its row gets alone.
        OutOfMemory: there is not enough for a few rows.
    """
    outputs = signature.own_outputs
    for name, answer in zip(outputs, alone[0], strict=True):
        if answer.shape[:1] != (1,):
            raise RowsDepend(f"output '{name}' has shape {list(answer.shape)} for one row")
    for name, one, other in zip(outputs, alone[0], run(rows[0], outputs), strict=True):
        if not alike(one, other, same):
            raise RowsDepend(f"output '{name}' differs from run to run for the same row")

    def together(order: Sequence[int]) -> list[Array]:
        try:
            answers = run(joined([rows[index] for index in order]), outputs)
        except OutOfMemory:
            raise
        except PredictionError as error:
            raise RowsDepend(f"it fails on {len(order)} rows, each of which it answers alone: {error}") from error
        check_shapes(outputs, answers, len(order))
        return answers

    def again(place: int, orders: Sequence[tuple[int, ...]]) -> list[list[Array]]:
        return [_at(place, together(order)) for order in orders]

    few, many = company_sizes(rows[0])
    last = len(rows) - 1
    batches: dict[tuple[int, ...], list[Array]] = {}
    for place, *companions in ((0, 1, 2), (1, 0, 2)) if last > 1 else ((0, 0, last), (last, last, 0)):
        # The same row at the same place of as many rows, beside one row and beside another.
        orders = [_beside(place, companion, few) for companion in companions]
        for order in orders:
            if order not in batches:
                batches[order] = together(order)
        beside_one, beside_other = (_at(place, batches[order]) for order in orders)
        _check_beside(outputs, beside_one, beside_other, same, partial(again, place, orders))
    order = tuple([(2 + place) % len(rows) for place in range(many)])
    # Where memory allows a few rows and no more, a few have to do.
    with suppress(OutOfMemory):
        batches[order] = together(order)
    for order, answers in batches.items():
        check_company(outputs, [alone[index] for index in order], answers, range(len(order)), signature.traits.rounding)


def _check_beside(
    outputs: Sequence[str],
    beside_one: Sequence[Array],
    beside_other: Sequence[Array],
    same: float,
    again: Callable[[], Sequence[Sequence[Array]]],
    what: str = "",
) -> None:
    """Compare the answers that a row gets at the same place of as many rows, beside one row and beside another.

    Args:
        outputs: their names.
        beside_one: beside one row.
        beside_other: beside the other.
        same: how far equal runs may be apart.
        again: runs both again.
        what: of the other, for the message.

    Raises:
        RowsDepend: they are not the same.
    """
    for name, one, other in zip(outputs, beside_one, beside_other, strict=True):
        if not alike(one, other, same):
            raise RowsDepend(f"output '{name}' of a row depends on the rows beside it{what}")
    moved = _moved(outputs, beside_one, beside_other)
    if moved and same <= SAME_ARITHMETIC:
        # Only what has the same bits each time shows something by them.
        one_again, other_again = again()
        if not _moved(outputs, beside_one, one_again) and not _moved(outputs, beside_other, other_again):
            raise RowsDepend(f"output '{moved}' of a row depends on the rows beside it{what}")


def _beside_odd_ones(run: Run, signature: Signature, rows: Sequence[Row], same: float) -> None:
    """Run rows together with such as have a value that may mean something to the network, for a while.

    Neither may change the other's answers, before it or behind it. What the network refuses shows nothing: the batcher finds
    whose row it is.

    Raises:
        RowsDepend: the answer of one depends on the others.
    """
    outputs, began_s = signature.own_outputs, time.monotonic()
    # Two, because the first may have the value itself.
    pair = rows[:2]

    def alike_ones(row: Row, size: int) -> list[Array]:
        return _without(1, run(joined([row] * size), outputs))

    for least in (3, 2):
        size = _no_inner_size(least, rows[0])
        with suppress(OutOfMemory):
            usual = [alike_ones(row, size) for row in pair]
            break
    else:
        return
    run_s = (time.monotonic() - began_s) / len(pair)

    def around(odd: Row, row: Row) -> list[Array]:
        """The answers to a row, an odd one, and the row again."""
        batch = run(joined([row, odd, *[row] * (size - 2)]), outputs)
        check_shapes(outputs, batch, size)
        return batch

    def again_beside(odd: Row, row: Row) -> list[list[Array]]:
        return [alike_ones(row, size), _without(1, around(odd, row))]

    def again_odd(odd: Row, company: Row) -> list[list[Array]]:
        return [_at(1, around(odd, row)) for row in (pair[0], company)]

    if run_s * _CROWD / size * _RUNS_IN_CROWD < _ODD_S:
        _in_a_crowd(run, signature, rows[0], same, until_s=began_s + _ODD_S / 2)
    for what, odd in islice(odd_rows(rows[0], signature), _MOST_ODD):
        if time.monotonic() - began_s > _ODD_S:
            return
        with refusals_left_out():
            batches = [around(odd, row) for row in pair]
            for row, before, batch in zip(pair, usual, batches, strict=True):
                beside, again = _without(1, batch), partial(again_beside, odd, row)
                _check_beside(outputs, before, beside, same, again, f", such as one with {what}")
            among_one = _at(1, batches[0])
            again = partial(again_odd, odd, pair[-1])
            _check_beside(outputs, among_one, _at(1, batches[-1]), same, again, f"; it has {what}")
            # Among its like, the largest or the longest row is no larger or longer than it is itself.
            again = partial(again_odd, odd, odd)
            _check_beside(outputs, among_one, _at(1, around(odd, odd)), same, again, f"; it has {what}")


@contextmanager
def refusals_left_out() -> Iterator[None]:
    """Go on behind the block where the network refuses rows in it."""
    try:
        yield
    except PredictionError as refused:
        # Its traceback would tie it and the session's frames into a cycle.
        refused.with_traceback(None)


def _in_a_crowd(run: Run, signature: Signature, row: Row, same: float, until_s: float) -> None:
    """Run a row that is far from many others: of a few rows none is far from their mean, as standard deviations go.

    Raises:
        RowsDepend: its answer, or that of another, depends on the others.
    """
    outputs, size = signature.own_outputs, _no_inner_size(_CROWD, row)

    def answers(first: Row, others: Row) -> list[Array]:
        batch = run(joined([first, *[others] * (size - 1)]), outputs)
        check_shapes(outputs, batch, size)
        return batch

    def again(place: int, seen: Row, far: Row) -> list[list[Array]]:
        return [_at(place, answers(seen, seen)), _at(place, answers(far, row))]

    with refusals_left_out():
        usual = answers(row, row)
        for what, far in far_rows(row):
            if time.monotonic() > until_s:
                return
            among = f", where one of {size} has {what} and the others do not"
            with refusals_left_out():
                mixed = answers(far, row)
                for place, seen, before in ((0, far, answers(far, far)), (1, row, usual)):
                    one, other = _at(place, before), _at(place, mixed)
                    _check_beside(outputs, one, other, same, partial(again, place, seen, far), among)


def _check_sizes(run: Run, signature: Signature, rows: Sequence[Row]) -> None:
    """Run many rows of one shape alone, for a while: where an answer's size depends on elements, no batch can hold two.

    Only of networks that may compute a size from elements, as a loop does that ends at a word.

    Raises:
        RowsDepend: answers to rows of one shape have different shapes.
    """
    free = any(None in spec.graph_shape for spec in signature.outputs if spec.name in signature.own_outputs)
    if not free or not signature.traits.data_dependent:
        return
    outputs, until_s = signature.own_outputs, time.monotonic() + _ODD_S
    first: list[Array] | None = None
    for row in islice(varied_rows(rows), _MOST_VARIED):
        if time.monotonic() > until_s:
            return
        with refusals_left_out():
            answers = run(row, outputs)
            first = first or answers
            for name, one, other in zip(outputs, first, answers, strict=True):
                if one.shape != other.shape:
                    raise RowsDepend(
                        f"output '{name}' has shape {list(one.shape)} for one row and {list(other.shape)} for another of "
                        "the same shape"
                    )


def _without(place: int, answers: Sequence[Array]) -> list[Array]:
    """The answers of all rows of a batch but one."""
    return [np.delete(answer, place, axis=0) for answer in answers]


def _at(place: int, answers: Sequence[Array]) -> list[Array]:
    """The answers of one row of a batch."""
    return [answer[place : place + 1] for answer in answers]


def _moved(outputs: Sequence[str], answers: Sequence[Array], others: Sequence[Array]) -> str:
    """The first output that is not the same to the last bit in both; "" if all are."""
    return next(
        (n for n, one, other in zip(outputs, answers, others, strict=True) if not same_elements(one, other)), ""
    )


def _beside(place: int, companion: int, size: int) -> tuple[int, ...]:
    """A batch of one row, at the place that is its number, and its companion at all others."""
    return tuple(place if index == place else companion for index in range(size))


def company_sizes(row: Row) -> tuple[int, int]:
    """A few rows, and as many as there are different ones, or the next numbers that are no size of an axis inside a row."""
    return _no_inner_size(2, row), _no_inner_size(MOST, row)


def _no_inner_size(least: int, row: Row) -> int:
    """The least number from this on that is no size of an axis inside a row."""
    inner = {size for array in row for size in array.shape[1:]}
    return next(size for size in range(least, least + len(inner) + 1) if size not in inner)


def joined(rows: Sequence[Row]) -> list[Array]:
    """One array [rows, ...] for each input."""
    return [_concatenated(arrays) for arrays in zip(*rows, strict=True)]


def _concatenated(arrays: Sequence[Array]) -> Array:
    """Arrays after one another, from a multiple of 64 bytes on: some kernels add in an order that depends on where data is."""
    first = arrays[0]
    if first.dtype.hasobject:
        return np.concatenate(arrays)
    shape = (sum([len(array) for array in arrays]), *first.shape[1:])
    size = math.prod(shape) * first.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return np.concatenate(arrays, out=buffer[start : start + size].view(first.dtype).reshape(shape))


def check_shapes(outputs: Sequence[str], together: Sequence[Array], rows: int) -> None:
    """Check that each output of a batch has so many rows.

    Raises:
        RowsDepend: one has not.
    """
    for name, batch in zip(outputs, together, strict=True):
        if batch.shape[:1] != (rows,):
            raise RowsDepend(f"output '{name}' has shape {list(batch.shape)} for {rows} rows")


def check_company(
    outputs: Sequence[str],
    alone: Sequence[Sequence[Array]],
    together: Sequence[Array],
    places: Sequence[int],
    rounding: float,
) -> None:
    """Compare the answers of a batch with those that its rows get alone.

    Args:
        outputs: their names.
        alone: for each row of the batch, one array [1, ...] for each output.
        together: one array [rows, ...] for each output.
        places: of the rows to compare.
        rounding: the network's own, see `Traits`.

    Raises:
        RowsDepend: one is another.
    """
    size = len(alone)
    check_shapes(outputs, together, size)
    for number, (name, batch) in enumerate(zip(outputs, together, strict=True)):
        for place in places:
            if not alike(alone[place][number], batch[place : place + 1], rounding):
                raise RowsDepend(
                    f"output '{name}' of a row among {size} is not the one that the row gets alone",
                    difference(alone[place][number], batch[place : place + 1]),
                )


def difference(one: Array, other: Array) -> float:
    """How far two answers are apart, as a part of their largest number; infinite if they are not comparable."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    if one.dtype.kind != "f":
        return 0.0 if (one == other).all() else math.inf
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return math.inf
    furthest = float(np.abs(left[finite] - right[finite]).max(initial=0.0))
    largest = max(float(np.abs(left[finite]).max(initial=0.0)), float(np.abs(right[finite]).max(initial=0.0)))
    return furthest / max(largest, _NOTHING)


def alike(one: Array, other: Array, rounding: float) -> bool:
    """Whether two answers are the same but for rounding, of the network or of their own type."""
    least = 4 * float(np.finfo(one.dtype).eps) if one.dtype.kind == "f" else 0.0
    return difference(one, other) <= max(rounding, least)


def _different(names: Sequence[str], rows: Sequence[Sequence[Array]]) -> set[str]:
    """The tensors that differ from the first row to another."""
    return {
        name
        for place, name in enumerate(names)
        if any(not same_elements(rows[0][place], row[place]) for row in rows[1:])
    }
