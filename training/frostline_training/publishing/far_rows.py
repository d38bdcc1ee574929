"""Far rows: inputs unlike the sample, on which a file must answer as the network does wherever the network has an answer.

Some operators are converted to formulas that are right for ordinary numbers, and overflow or lose a sign for others.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from frostline_training.data import Array, evenly
from frostline_training.errors import RefusedError
from frostline_training.publishing.verify import CONVERTED, ROUNDING, Answer, Named, Tolerance, answering_file

_ROWS = 2  # of the sample, made far in each way: with all ways less than a batch
_ROUNDINGS = 8.0
_LENIENCE = 4.0  # the file may round in more places than were shaken
_BREAKS_TIES = 1e-30
_DOUBLE = 1e-9

_CURES = {
    "log_sigmoid": "F.logsigmoid, which becomes log(sigmoid(x)); write -F.softplus(-x)",
    "binary_cross_entropy_with_logits": "F.binary_cross_entropy_with_logits, which becomes log(sigmoid(x)); for targets t "
    "write F.softplus(x) - x * t",
    "logaddexp": "torch.logaddexp, which becomes log(exp(a) + exp(b)); write torch.logsumexp(torch.stack([a, b]), 0)",
    "logcumsumexp": "logcumsumexp, which becomes log(cumsum(exp(x))); write torch.logsumexp of the masked steps",
    "atan2": "torch.atan2, which has another sign where y is 0; write torch.where(y == 0, torch.where(x < 0, math.pi, 0.0), "
    "torch.atan2(y, x))",
    "signbit": "torch.signbit, which does not see the sign of -0.0; write x < 0",
}
"""What is known to be converted to a formula that is right for ordinary numbers only, and what is converted rightly."""


class _Network:
    """A network that answers rows, and how exactly it can.

    Args:
        network: In evaluation mode, on the CPU.
        answers: Makes of a network what answers rows [N, ...] by name.
        inputs: Rows, for their types.
    """

    def __init__(self, network: nn.Module, answers: Callable[[nn.Module], Answer], inputs: Named) -> None:
        weights = (tensor.dtype for tensor in network.parameters() if tensor.is_floating_point())
        given = (torch.from_numpy(rows[:0]).dtype for rows in inputs.values() if rows.dtype.kind == "f")
        self._errors = _ROUNDINGS * max(
            (torch.finfo(kind).eps for kind in (*weights, *given)), default=torch.finfo().eps
        )
        self._network, self._answers = network, answers
        self.answer, self._otherwise = answers(network), answers(shaken(network, self._errors))

    def shaken(self, rows: Named) -> list[Named]:
        """Answer rows with numbers and weights that are off by rounding errors, several times."""
        return [self._otherwise(each) for each in _shaken_rows(rows, self._errors)]

    def in_double(self, rows: Named) -> Named:
        """Answer rows in double precision.

        Raises:
            RefusedError: Its forward() is written for another one.
        """
        doubled = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in rows.items()}
        return self._answers(copy.deepcopy(self._network).double())(doubled)


def shaken(network: nn.Module, share: float) -> nn.Module:
    """Return a copy whose learnt weights are off by rounding errors, each by `share` of it.

    Where it answers otherwise, so may every device: what 1e38 became may cancel out.
    """
    copied = copy.deepcopy(network)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in copied.parameters():
            if weights.is_floating_point():
                signs = torch.randint(0, 2, weights.shape, generator=random) * 2 - 1
                weights.data = weights * (1 + share * signs.to(weights.dtype))
    return copied


def check_far_rows(
    path: Path,
    network: nn.Module,
    answers: Callable[[nn.Module], Answer],
    inputs: Named,
    tolerance: Tolerance,
    *,
    unchanged: Iterable[int] = (),
    rounded: str = "",
    suspect: str = "",
) -> None:
    """Compare the file at `path` with the network on far rows, made of a few held-out ones.

    What the network itself has no finite answer to is not compared. Where its answer hangs on rounding errors, as that of
    a network that divides by the spread of a row of equal numbers does, the file's may be as far off.

    Args:
        path: The file, proved on the held-out rows.
        network: The network, in evaluation mode, on the CPU.
        answers: Makes of a network what answers rows [N, ...], by name, with the file's outputs.
        inputs: The held-out rows [N, ...] by name. Whole numbers, and those that are 0 and 1 only, stay as they are.
        tolerance: How far apart two answers may be.
        unchanged: Columns of tables [N, F] that stay as they are, such as categories.
        rounded: Why float64 answers may be less exact than float64 is; they are then compared as exactly as that.
        suspect: The cause to name if something differs, where one is known.

    Raises:
        RefusedError: The file answers otherwise.
    """
    few = {name: rows[evenly(len(rows), _ROWS)] for name, rows in inputs.items()}
    masks = {name for name, rows in inputs.items() if rows.dtype.kind != "f" or np.isin(rows, (0, 1)).all()}
    kinds = dict(_kinds(few, masks, list(unchanged)))
    if rounded:
        kinds["as it is"] = few
    asked = _Network(network, answers, few)
    file: Answer | None = None
    for told, rows, wanted, shakes in _answered(asked, kinds):
        file = file or answering_file(path, wanted, suspect)
        got = file(rows)
        if (found := _worst(rows, got, wanted, shakes, tolerance, exact=bool(rounded))) and not rounded:
            # Numbers inside may be more inexact than those at its ends, as 1 - p is where p is near 1.
            with suppress(RefusedError):
                found = _worst(rows, got, wanted, [*shakes, asked.in_double(rows)], tolerance, exact=False)
        if found:
            name, place = found
            called = "" if len(wanted) == 1 else f" in output {name!r}"
            raise RefusedError(
                f"ONNX Runtime answers {got[name][place]:.9g} where PyTorch answers {wanted[name][place]:.9g}{called}, to a "
                f"row of the sample {told[int(place[0])]}",
                cause=rounded or suspect or _likely(asked, rows),
            )


def _worst(
    rows: Named, got: Named, wanted: Named, shakes: Sequence[Named], tolerance: Tolerance, *, exact: bool
) -> tuple[str, tuple[np.intp, ...]] | None:
    """Return the output and the place in it where an answer is the farthest from where it may be, if there is any."""
    finite = np.logical_and.reduce([_finite(answers) for answers in (wanted, *shakes)])
    sizes = np.max([_largest(array) for array in rows.values()], axis=0)
    for name, right in wanted.items():
        noise = np.max([_largest(_apart(shake[name], right)) for shake in shakes], axis=0)
        allowed = _allowed(right, name, sizes, tolerance, exact=exact) + _LENIENCE * _beside(noise, right)
        apart = _apart(got[name], right)
        wrong = ~(apart <= allowed) & _beside(finite, right)
        if wrong.any():
            beyond = np.where(wrong, np.nan_to_num(apart - allowed, nan=np.inf), -1.0)
            return name, np.unravel_index(beyond.argmax(), wrong.shape)
    return None


def _kinds(few: Named, masks: set[str], unchanged: list[int]) -> Iterator[tuple[str, Named]]:
    moved = {name: rows for name, rows in few.items() if name not in masks}
    if not moved:
        return

    def made(change: Any) -> Named:
        every = dict(few)
        with np.errstate(all="ignore"):  # an overflow is a far row too
            for index, (name, rows) in enumerate(moved.items()):
                every[name] = np.asarray(change(rows, index), rows.dtype)
                if unchanged and rows.ndim == 2:
                    every[name][:, unchanged] = rows[:, unchanged]
        return every

    for factor in (0, -1, 30, -30, 1000, -1000, 1e-10):
        yield f"times {factor:g}", made(lambda rows, _, factor=factor: rows * factor)
    for number in (20, -20):
        yield f"with {number} for each number", made(lambda rows, _, number=number: np.full_like(rows, number))
    for sign, before in ((1, ""), (-1, "times -1 and ")):
        for which, is_zero in _ZEROS.items():
            yield (
                f"{before}with 0 for {which}",
                made(lambda rows, index, sign=sign, is_zero=is_zero: _zeroed(rows * sign, is_zero, swapped=index % 2)),
            )


_ZEROS: Mapping[str, Callable[[NDArray[np.int64], int], NDArray[np.bool_]]] = {
    "every second number": lambda places, _: places % 2 == 1,
    "its first number and every second one from there": lambda places, _: places % 2 == 0,
    "the first half of its numbers": lambda places, size: 2 * places < size,
    "the second half of its numbers": lambda places, size: 2 * places >= size,
}


def _zeroed(rows: Array, is_zero: Callable[[NDArray[np.int64], int], NDArray[np.bool_]], *, swapped: int) -> Array:
    """Return rows with 0 in some places; or in the others, so that of two inputs one is 0 where the other is not."""
    size = rows[0].size
    zero = is_zero(np.arange(size), size).reshape(rows.shape[1:]) ^ bool(swapped)
    return np.asarray(np.where(zero, 0.0, rows))


def _answered(
    network: _Network, kinds: Mapping[str, Named]
) -> Iterator[tuple[list[str], Named, Named, Sequence[Named]]]:
    """Ask the network for the rows of all kinds at once, or for each kind alone where it does not take all.

    Yields:
        What each of some rows is, in words; the rows; the network's answers; and its answers where all is shaken.
    """
    if not kinds:
        return
    every = {name: np.concatenate([rows[name] for rows in kinds.values()]) for name in next(iter(kinds.values()))}
    told = [told for told, rows in kinds.items() for _ in next(iter(rows.values()))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that the user's code does not expect
        if answers := _answers(network, every):
            yield told, every, *answers
            return
        for each, rows in kinds.items():
            if answers := _answers(network, rows):
                yield [each] * len(next(iter(rows.values()))), rows, *answers


def _answers(network: _Network, rows: Named) -> tuple[Named, Sequence[Named]] | None:
    try:
        wanted = network.answer(rows)
        shakes = network.shaken(rows)
    except RefusedError:  # such as of an index that an embedding does not have
        return None
    # A number of outputs, or a shape, that hangs on the numbers is the user's own.
    return (wanted, shakes) if all(_shapes(shake) == _shapes(wanted) for shake in shakes) else None


def _shapes(answers: Named) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in answers.items()}


def _shaken_rows(rows: Named, share: float) -> Iterator[Named]:
    random = np.random.default_rng(0)
    parts = {name: random.uniform(0, 1, array.shape) for name, array in rows.items()}
    # In other orders too, so that of equal numbers another one comes first, second or last: which one it is, is open.
    for sign, turn in ((1, 0), (-1, 0), (1, 1 / 3), (1, 2 / 3)):
        yield {name: _shaken_array(array, share, (sign * parts[name] + turn) % 1) for name, array in rows.items()}


def _shaken_array(array: Array, share: float, parts: NDArray[np.float64]) -> Array:
    if array.dtype.kind != "f":
        return array
    with np.errstate(all="ignore"):
        # Zeros keep their sign, and are no longer equal to each other.
        off = array * (1 + share * (2 * parts - 1)) + np.copysign(_BREAKS_TIES * parts, array)
        return np.asarray(off, array.dtype)


def _finite(answers: Named) -> NDArray[np.bool_]:
    """Return for each row whether all its answers are numbers."""
    finite: NDArray[np.bool_] = np.logical_and.reduce(
        [np.isfinite(array.reshape(len(array), -1)).all(axis=1) for array in answers.values()]
    )
    return finite


def _largest(array: Array) -> NDArray[np.float64]:
    """Return the largest number of each row, without its sign."""
    sizes: NDArray[np.float64] = np.abs(np.nan_to_num(array.astype(np.float64)))
    largest: NDArray[np.float64] = sizes.reshape(len(array), -1).max(axis=1, initial=0.0)
    return largest


def _apart(got: Array, right: Array) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        apart: NDArray[np.float64] = np.abs(got.astype(np.float64) - right.astype(np.float64))
    return apart


def _beside(by_row: NDArray[Any], array: Array) -> NDArray[Any]:
    """Return a number for each row [N] in the form [N, 1, ...] of `array`."""
    return by_row.reshape(-1, *[1] * (array.ndim - 1))


def _allowed(
    right: Array, name: str, sizes: NDArray[np.float64], tolerance: Tolerance, *, exact: bool
) -> NDArray[np.float64]:
    if right.dtype.kind != "f":
        return np.zeros(right.shape)
    if exact and right.dtype == np.float64:
        exactly: NDArray[np.float64] = _DOUBLE * (np.abs(np.nan_to_num(right)) + _beside(_largest(right), right))
        return exactly
    # Large numbers may have cancelled out, or become small ones, which are then as inexact as they are.
    return tolerance.allowed(right, name) + ROUNDING * _beside(sizes, right)


def _likely(network: _Network, rows: Named) -> str:
    called = _Called()
    with called:
        network.answer(rows)
    found = [cure for name, cure in _CURES.items() if name in called.names]
    return "; or ".join(found) or CONVERTED


class _Called(TorchFunctionMode):
    """Notes which functions of PyTorch are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))
