"""The proof: the network answers like itself, and the exported file answers like the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training.data import Array, Inputs, named
from frostline_training.errors import RefusedError, first_line
from frostline_training.publishing.onnx_export import OUTPUT, Axes

Named = Mapping[str, Array]
Logits = NDArray[np.float32]
Answer = Callable[[Named], Logits]

BATCH_SIZES = (1, 2, 7, 64)
GOLDEN_ROWS = 64

_ACROSS_ROWS = (
    "batch-norm that uses the batch's own statistics (training mode, or track_running_stats=False), "
    "or another operation across the rows of a batch"
)
_RANDOM = "dropout or other randomness that stays on in evaluation mode"
_FROZEN = "a number of rows frozen into the graph, from a Python branch or a number in forward()"
_FROZEN_TIME = "a length frozen into the graph, from a loop over steps, a Python branch or a number in forward()"
_CONVERTED = (
    "an operator that the exporter converts wrongly, or a branch in forward() that is taken only during the export"
)


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the right one: ``absolute + relative * |right one|``."""

    relative: float
    absolute: float

    def allowed(self, logits: Logits) -> NDArray[np.float64]:
        """Return the distance allowed at each of `logits`."""
        return self.absolute + self.relative * np.abs(logits.astype(np.float64))


# Two classes this close are as good as equal (their probabilities differ by 0.1 %), whatever tolerance a user sets.
_NEAR_TIE = Tolerance(relative=1e-4, absolute=1e-3)


@dataclass(frozen=True)
class HeldOut:
    """The rows of the proof: `inputs` [N, ...] by name, and the network's own `logits` [N, C] for them.

    `stretched` are the golden rows at other lengths of their open axes, by what those lengths are.
    """

    inputs: Named
    logits: Logits
    stretched: Mapping[str, "HeldOut"] = field(default_factory=dict)

    @property
    def golden(self) -> NDArray[np.intp]:
        """Indices of at most 64 rows, spread evenly over all: those that every batch size is tried on."""
        rows = len(self.logits)
        return np.linspace(0, rows - 1, min(GOLDEN_ROWS, rows)).astype(np.intp)


@dataclass(frozen=True)
class Proof:
    """What was measured on the exported file, against the network.

    Attributes:
        differences: Largest absolute difference on the golden rows, per batch size.
        differences_by_length: The same per length of the open axes other than the batch, as ``time=5``.
        whole_difference: Largest absolute difference on all held-out rows.
        near_ties: Held-out rows for which the file prefers another class than the network, both being as good as equal.
        classes: The file's class [N] for every held-out row.
    """

    differences: Mapping[int, float]
    differences_by_length: Mapping[str, float]
    whole_difference: float
    near_ties: tuple[int, ...]
    classes: NDArray[np.intp]

    @property
    def max_abs_difference(self) -> float:
        """The largest difference anywhere."""
        return max(self.whole_difference, *self.differences.values(), *self.differences_by_length.values())


@dataclass(frozen=True)
class _Comparison:
    """The file's answers `got` beside the network's `wanted`, both [R, C], for the held-out rows `rows`."""

    where: str
    rows: NDArray[np.intp]
    got: Logits
    wanted: Logits

    @property
    def distances(self) -> NDArray[np.float64]:
        apart = np.abs(self.got.astype(np.float64) - self.wanted)
        return np.where(np.isfinite(apart), apart, np.inf)

    @property
    def largest(self) -> float:
        return float(self.distances.max())

    @property
    def worst_row(self) -> int:
        return int(self.rows[self.distances.max(axis=1).argmax()])

    def within(self, tolerance: Tolerance) -> bool:
        return bool((self.distances <= tolerance.allowed(self.wanted)).all())

    def flips(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the held-out rows whose class differs, and for each whether the two classes are a near-tie."""
        here, there = self.got.argmax(axis=1), self.wanted.argmax(axis=1)
        (flipped,) = np.nonzero(here != there)
        best = self.wanted[flipped, there[flipped]]
        margins = best.astype(np.float64) - self.wanted[flipped, here[flipped]]
        return self.rows[flipped], margins <= _NEAR_TIE.allowed(best)


def check_network(
    network: nn.Module, inputs: Inputs, tolerance: Tolerance, dynamic: Axes = MappingProxyType({})
) -> HeldOut:
    """Run `network` on held-out rows and check that a row's answer depends on that row alone.

    Args:
        network: In evaluation mode, on the CPU.
        inputs: Rows [N, ...], or several inputs by name, in the order of the network's arguments.
        tolerance: How far apart two answers to one row may be.
        dynamic: Open axes other than the batch's: the network is also run on shorter and longer ones.

    Raises:
        RefusedError: The answers are not float32 logits [N, C], not finite, or change with the run or the batch.
    """
    inputs = named(inputs)
    logits = _in_batches(lambda rows: _run_network(network, rows), inputs, 64)
    held_out = HeldOut(inputs, logits)
    everything, golden = np.arange(len(logits)), held_out.golden
    classes = logits.shape[1]
    few = _take(inputs, golden)

    def answer(rows: Named) -> Logits:
        return _run_network(network, rows, classes)

    (broken,) = np.nonzero(~np.isfinite(held_out.logits).all(axis=1))
    if broken.size:
        raise RefusedError(
            f"the network answers {broken.size} of {len(logits)} held-out rows with infinity or NaN",
            row=int(broken[0]),
            cause="a training that diverged, or values that overflow",
        )
    again = _Comparison("", everything, _in_batches(answer, inputs, 64), held_out.logits)
    alone = _Comparison("", golden, _in_batches(answer, few, 1), held_out.logits[golden])
    for comparison, fact, cause in (
        (again, "the network answers the same rows differently from run to run", _RANDOM),
        (alone, "the network answers a row alone differently than among others", _ACROSS_ROWS),
    ):
        if not comparison.within(tolerance):
            learning = _still_training(network)
            raise RefusedError(fact, cause=f"{learning}{cause}", largest=comparison.largest, row=comparison.worst_row)
    stretched = _stretched(few, dynamic)
    return HeldOut(
        inputs,
        logits,
        {length: HeldOut(rows, _in_batches(answer, rows, 64)) for length, rows in stretched.items()},
    )


def check_file(path: Path, held_out: HeldOut, tolerance: Tolerance, *, classes: bool = True) -> Proof:
    """Run the file at `path` in ONNX Runtime on the CPU and compare it with the network's own answers.

    With `classes` the highest logit of a row is its answer, and must be the same one.

    Raises:
        RefusedError: It does not run at some batch size, or answers differently.
    """
    answer = _file_answer(path, classes=held_out.logits.shape[1])
    golden, everything = held_out.golden, np.arange(len(held_out.logits))
    few = _take(held_out.inputs, golden)
    whole = _in_batches(answer, held_out.inputs, 64)
    on_golden = {
        size: _Comparison(
            f"in batches of {size}",
            golden,
            _in_batches(answer, few, size),
            held_out.logits[golden],
        )
        for size in BATCH_SIZES
    }
    on_all = _Comparison("on all held-out rows", everything, whole, held_out.logits)
    by_length = {
        length: _Comparison(f"at {length}", golden, _in_batches(answer, rows.inputs, 7), rows.logits)
        for length, rows in held_out.stretched.items()
    }
    comparisons = (*on_golden.values(), on_all, *by_length.values())

    wrong = [comparison for comparison in comparisons if not comparison.within(tolerance)]
    if wrong:
        worst = max(wrong, key=lambda comparison: comparison.largest)
        if not np.array_equal(whole, _in_batches(answer, held_out.inputs, 64), equal_nan=True):
            cause = _RANDOM
        elif len(wrong) == len(comparisons):
            cause = _CONVERTED
        else:
            cause = _FROZEN_TIME if all(comparison in by_length.values() for comparison in wrong) else _FROZEN
        raise RefusedError(
            f"ONNX Runtime disagrees with PyTorch {worst.where}",
            cause=cause,
            largest=worst.largest,
            row=worst.worst_row,
        )

    near_ties: set[int] = set()
    for comparison in comparisons if classes else ():
        rows, tied = comparison.flips()
        if not tied.all():
            raise RefusedError(
                f"ONNX Runtime prefers another class than PyTorch {comparison.where}, within the tolerance asked for",
                cause="a tolerance too loose to tell the classes apart",
                largest=comparison.largest,
                row=int(rows[~tied][0]),
            )
        near_ties.update(rows.tolist())
    return Proof(
        differences={size: comparison.largest for size, comparison in on_golden.items()},
        differences_by_length={length: comparison.largest for length, comparison in by_length.items()},
        whole_difference=on_all.largest,
        near_ties=tuple(sorted(near_ties)),
        classes=whole.argmax(axis=1),
    )


def _run_network(network: nn.Module, inputs: Named, classes: int | None = None) -> Logits:
    count = _count(inputs)
    try:
        with torch.no_grad():
            answer = network(*(torch.from_numpy(rows) for rows in inputs.values()))
    except Exception as error:  # the user's own code: anything may come out
        learning = _still_training(network)
        raise RefusedError(
            f"the network fails on a batch of {count}: {type(error).__name__}: {first_line(error)}",
            cause=f"{learning}{_ACROSS_ROWS}" if count == 1 else "rows that do not fit the network",
        ) from error
    if not isinstance(answer, torch.Tensor):
        seen = type(answer).__name__
    elif answer.dtype == torch.float32 and answer.ndim == 2 and answer.shape == (count, classes or answer.shape[1]):
        return np.array(answer.numpy())
    else:
        seen = f"{answer.dtype} {list(answer.shape)}"
    raise RefusedError(
        f"the network answers a batch of {count} with {seen}, not with one float32 tensor [{count}, {classes or 'C'}]",
        cause="forward() does not end at its logits",
    )


def _file_answer(path: Path, *, classes: int) -> Answer:
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait make a busy machine many times slower, and here nobody waits for a reply.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised; its log lines would only repeat it
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no class of their own in common
        raise RefusedError(
            f"ONNX Runtime cannot load the exported file: {first_line(error)}", cause=_CONVERTED
        ) from error

    def answer(inputs: Named) -> Logits:
        count = _count(inputs)
        try:
            (logits,) = session.run([OUTPUT], dict(inputs))
        except Exception as error:  # as above
            raise RefusedError(
                f"the exported file fails on a batch of {count}: {first_line(error)}",
                cause=_FROZEN,
            ) from error
        if np.shape(logits) != (count, classes):
            raise RefusedError(
                f"the exported file answers a batch of {count} with {list(np.shape(logits))}, not {[count, classes]}",
                cause=_CONVERTED if len(logits) == count else _FROZEN,
            )
        return np.asarray(logits, dtype=np.float32)

    return answer


def _in_batches(answer: Answer, inputs: Named, size: int) -> Logits:
    # Every batch has exactly `size` rows: the last is filled up from the beginning.
    count = _count(inputs)
    rows = np.arange(-(-count // size) * size) % count
    return np.concatenate([answer(_take(inputs, part)) for part in rows.reshape(-1, size)])[:count]


def _stretched(inputs: Named, dynamic: Axes) -> dict[str, Named]:
    sizes = {called: inputs[name].shape[axis] for name, axes in dynamic.items() for axis, called in axes.items()}
    every: dict[str, Named] = {}
    for factor in (0.5, 2.0):
        lengths = {called: int(factor * size) + 1 for called, size in sizes.items()}
        longer = dict(inputs)
        for name, axes in dynamic.items():
            for axis, called in axes.items():
                # A longer row begins again from its own beginning.
                places = np.arange(lengths[called]) % sizes[called]
                longer[name] = np.ascontiguousarray(longer[name].take(places, axis))
        if sizes:
            every[", ".join(f"{called}={length}" for called, length in lengths.items())] = longer
    return every


def _still_training(network: nn.Module) -> str:
    learning = [f"{name} ({type(part).__name__})" for name, part in network.named_modules() if part.training and name]
    return f"{', '.join(learning[:3])} in training mode although eval() was called: " if learning else ""


def _take(inputs: Named, rows: NDArray[np.intp]) -> Named:
    return {name: array[rows] for name, array in inputs.items()}


def _count(inputs: Named) -> int:
    return len(next(iter(inputs.values())))
