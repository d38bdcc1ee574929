"""The proof: the network answers like itself, and the exported file answers like the network."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training.data import Array, evenly
from frostline_training.errors import RefusedError, first_line, own_line
from frostline_training.publishing.calling import Caller, by_position, outputs
from frostline_training.publishing.onnx_export import Axes, troublesome_layer

Named = Mapping[str, Array]
Answer = Callable[[Named], Named]

BATCH_SIZES = (1, 2, 7, 64)
GOLDEN_ROWS = 64

_ACROSS_ROWS = (
    "batch-norm that uses the batch's own statistics (training mode, or track_running_stats=False), "
    "or another operation across the rows of a batch"
)
_RANDOM = (
    "dropout or other randomness that stays on in evaluation mode, or a state that forward() keeps from call to call"
)
_FROZEN = "a number of rows frozen into the graph, from a Python branch or a number in forward()"
_FROZEN_TIME = "a length frozen into the graph, from a loop over steps, a Python branch or a number in forward()"
WRONG_FUSIONS = ["Pad_Fusion"]
"""Of ONNX Runtime, without which servers run a file too: with it, a MaxPool behind a Pad pads with the least number."""
CONVERTED = (
    "an operator that the exporter converts wrongly, or a branch in forward() that is taken only during the export"
)


ROUNDING = 5e-7
"""Of the largest number of a row: four roundings of single precision, as sums in another order have them. Servers allow the
same."""

ABSOLUTE = 1e-5
"""The absolute tolerance where nobody says another one: of outputs whose rows differ by some thousandths and more."""
_SHARE = 0.1


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the right one: ``absolute + relative * |right one|``, and what rounding there is.

    A number near 0 may be the difference of large ones, and is then as inexact as the large ones of its row.

    Attributes:
        relative: A share of the right number.
        absolute: Whatever the right number is. At most `ABSOLUTE`, it is less for an output of smaller numbers: see `scaled`.
        spreads: How far an output's rows are apart, by its name, where that is known.
    """

    relative: float
    absolute: float
    spreads: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, outputs: Named) -> "Tolerance":
        """Return the same for these outputs [N, ...]: of what tells their rows apart, an error may be a tenth at most.

        What a user allows beyond `ABSOLUTE` is allowed.
        """
        if self.absolute > ABSOLUTE:
            return self
        with np.errstate(invalid="ignore"):  # of infinities, which are refused elsewhere
            spreads = {
                name: float(rows.astype(np.float64).std(axis=0).max(initial=0.0))
                for name, rows in outputs.items()
                if rows.dtype.kind == "f"
            }
        return replace(self, spreads=spreads)

    def absolute_of(self, name: str) -> float:
        """Return what is allowed of an output whatever the right number is; `absolute` where its rows are all alike."""
        spread = self.spreads.get(name, 0.0)
        return min(self.absolute, _SHARE * spread) if 0 < spread < math.inf else self.absolute

    @property
    def loosest(self) -> float:
        """The most that is allowed of any output, whatever the right number is: a golden sample has one for all."""
        return max(map(self.absolute_of, self.spreads), default=self.absolute)

    def allowed(self, right: Array, name: str = "") -> NDArray[np.float64]:
        """Return the distance allowed at each of the `right` numbers of an output: none where they are whole numbers.

        It is finite, so that an infinite number is at a distance from every other, as the server's check has it.
        """
        if right.dtype.kind != "f":
            return np.zeros(right.shape)
        sizes: NDArray[np.float64] = np.abs(np.where(np.isfinite(right), right, 0.0).astype(np.float64))
        largest: NDArray[np.float64] = sizes.max(axis=tuple(range(1, sizes.ndim)), initial=0.0, keepdims=True)
        return self.absolute_of(name) + self.relative * sizes + ROUNDING * largest


# Two classes this close are as good as equal (their probabilities differ by 0.1 %), whatever tolerance a user sets.
_NEAR_TIE = Tolerance(relative=1e-4, absolute=1e-3)


@dataclass(frozen=True)
class HeldOut:
    """The rows of the proof: `inputs` [N, ...] and the network's own `outputs` [N, ...] for them, both by name.

    `stretched` are the golden rows at other lengths of their open axes, by what those lengths are.
    """

    inputs: Named
    outputs: Named
    stretched: Mapping[str, "HeldOut"] = field(default_factory=dict)

    @property
    def golden(self) -> NDArray[np.intp]:
        """Indices of at most 64 rows, spread evenly over all: those that every batch size is tried on."""
        return evenly(_count(self.inputs), GOLDEN_ROWS)


@dataclass(frozen=True)
class Proof:
    """What was measured on the exported file, against the network.

    Attributes:
        differences: Largest absolute difference on the golden rows, per batch size.
        differences_by_length: The same per length of the open axes other than the batch, as ``time=5``.
        whole_difference: Largest absolute difference on all held-out rows.
        near_ties: Held-out rows for which the file prefers another class than the network, both being as good as equal.
        outputs: The file's answers [N, ...] to all held-out rows, by name.
    """

    differences: Mapping[int, float]
    differences_by_length: Mapping[str, float]
    whole_difference: float
    near_ties: tuple[int, ...]
    outputs: Named

    @property
    def max_abs_difference(self) -> float:
        """The largest difference anywhere."""
        return max(self.whole_difference, *self.differences.values(), *self.differences_by_length.values())


@dataclass(frozen=True)
class _Comparison:
    """The file's answers `got` beside the network's `wanted`, each [R, ...] by name, for the held-out rows `rows`."""

    where: str
    rows: NDArray[np.intp]
    got: Named
    wanted: Named

    def _distances(self, name: str) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # of infinities, which count as infinitely far
            apart = np.abs(self.got[name].astype(np.float64) - self.wanted[name])
        return np.where(np.isfinite(apart), apart, np.inf)

    @property
    def largest(self) -> float:
        return max(float(self._distances(name).max(initial=0)) for name in self.wanted)

    @property
    def worst_row(self) -> int:
        by_row = [self._distances(name).reshape(len(self.rows), -1).max(axis=1, initial=0) for name in self.wanted]
        return int(self.rows[np.max(by_row, axis=0).argmax()])

    @property
    def wrong(self) -> str:
        """Which output is the farthest off; "" where there is only one."""
        return (
            "" if len(self.wanted) == 1 else f" in output {max(self.wanted, key=lambda n: self._distances(n).max())!r}"
        )

    def within(self, tolerance: Tolerance) -> bool:
        return all(
            (self._distances(name) <= tolerance.allowed(wanted, name)).all() for name, wanted in self.wanted.items()
        )

    def flips(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the held-out rows whose class differs, and for each whether the two classes are a near-tie."""
        ((name, wanted),) = self.wanted.items()
        got = self.got[name]
        here, there = got.argmax(axis=1), wanted.argmax(axis=1)
        (flipped,) = np.nonzero(here != there)
        best = wanted[flipped, there[flipped]]
        margins = best.astype(np.float64) - wanted[flipped, here[flipped]]
        return self.rows[flipped], margins <= _NEAR_TIE.allowed(best)


def check_network(
    network: nn.Module,
    inputs: Named,
    tolerance: Tolerance,
    dynamic: Axes = MappingProxyType({}),
    *,
    call: Caller = by_position,
    single: str = "logits",
    columns: Sequence[str] = (),
) -> HeldOut:
    """Run `network` on held-out rows and check that a row's answer depends on that row alone.

    Args:
        network: In evaluation mode, on the CPU.
        inputs: Rows [N, ...] by name.
        tolerance: How far apart two answers to one row may be.
        dynamic: Open axes other than the batch's: the network is also run on shorter and longer ones.
        call: Calls the network as its user does.
        single: What its output is called if it is a tensor alone.
        columns: Names of the columns of a table, [N, F].

    Raises:
        RefusedError: The answers are no numbers [N, ...], not finite, or change with the run or the batch.
    """

    def answer(rows: Named) -> Named:
        return _run_network(network, rows, call, single)

    held_out = HeldOut(inputs, _in_batches(answer, inputs, 64))
    tolerance = tolerance.scaled(held_out.outputs)
    count = _count(inputs)
    everything, golden = np.arange(count), held_out.golden
    few = _take(inputs, golden)
    shapes = {name: rows.shape[1:] for name, rows in held_out.outputs.items()}
    for name, numbers in held_out.outputs.items():
        (broken,) = np.nonzero(~np.isfinite(numbers.reshape(count, -1)).all(axis=1))
        if broken.size:
            raise RefusedError(
                f"the network answers {broken.size} of {count} held-out rows with infinity or NaN"
                + ("" if len(shapes) == 1 else f" in output {name!r}"),
                row=int(broken[0]),
                cause=_why_not_finite(network, _take(inputs, broken[:1]), columns),
            )
    again = _Comparison("", everything, _in_batches(answer, inputs, 64), held_out.outputs)
    alone = _Comparison("", golden, _in_batches(answer, few, 1), _take(held_out.outputs, golden))
    for comparison, fact, cause in (
        (again, "the network answers the same rows differently from run to run", _RANDOM),
        (alone, "the network answers a row alone differently than among others", _across_rows(network)),
    ):
        if {name: rows.shape[1:] for name, rows in comparison.got.items()} != shapes:
            raise RefusedError(f"{fact}: with other outputs or shapes", cause=cause)
        if not comparison.within(tolerance):
            learning = _still_training(network)
            raise RefusedError(
                f"{fact}{comparison.wrong}",
                cause=f"{learning}{cause}",
                largest=comparison.largest,
                row=comparison.worst_row,
            )
    stretched: dict[str, HeldOut] = {}
    for length, rows in _stretched(few, dynamic).items():
        try:
            stretched[length] = HeldOut(rows, _in_batches(answer, rows, 64))
        except RefusedError as error:
            raise RefusedError(
                f"{error.fact}; Frostline had {'repeated the steps of' if stretched else 'cut'} the rows, to {length}, to prove "
                "that the axis is open",
                cause="lengths or places of steps that the rows do not have, which forward() must limit: "
                "lengths.clamp(max=x.shape[1]); or a number of steps that the network is built for, such as of positions",
            ) from error
    return HeldOut(inputs, held_out.outputs, stretched)


def answering(network: nn.Module, *, call: Caller = by_position, single: str = "logits") -> Answer:
    """Return what answers rows [N, ...], by name, as `network` does; the arguments are as in `check_network`."""

    def answer(rows: Named) -> Named:
        return _in_batches(lambda part: _run_network(network, part, call, single), rows, min(64, _count(rows)))

    return answer


def answering_file(path: Path, wanted: Named, suspect: str = "") -> Answer:
    """Return what answers rows as the file at `path` does, which must give outputs like those `wanted` [R, ...].

    Args:
        path: The file.
        wanted: Answers of the network, by name.
        suspect: The cause to name if it fails, where one is known.
    """
    return _file_answer(_session(path), wanted, suspect)


def agree(got: Named, wanted: Named, tolerance: Tolerance) -> bool:
    """Return whether two answers are the same numbers within `tolerance`; none that is infinite or NaN is."""
    return _Comparison("", np.arange(_count(wanted)), got, wanted).within(tolerance)


def check_file(
    path: Path, held_out: HeldOut, tolerance: Tolerance, *, classes: bool = True, suspect: str = ""
) -> Proof:
    """Run the file at `path` in ONNX Runtime on the CPU and compare it with the network's own answers.

    Args:
        path: The file.
        held_out: The rows, with the network's answers.
        tolerance: How far apart the two may be.
        classes: Whether the highest of a row's logits [N, C] is its answer, and must be the same one.
        suspect: The cause to name if something differs, where one is known.

    Raises:
        RefusedError: It does not run at some batch size, or answers differently.
    """
    session = _session(path)
    answer = _file_answer(session, held_out.outputs, suspect)
    golden, everything = held_out.golden, np.arange(_count(held_out.inputs))
    few = _take(held_out.inputs, golden)
    whole = _in_batches(answer, held_out.inputs, 64)
    on_golden = {
        size: _Comparison(
            f"in batches of {size}",
            golden,
            _in_batches(answer, few, size),
            _take(held_out.outputs, golden),
        )
        for size in BATCH_SIZES
    }
    on_all = _Comparison("on all held-out rows", everything, whole, held_out.outputs)
    by_length = {
        length: _Comparison(
            f"at {length}",
            golden,
            _in_batches(_file_answer(session, rows.outputs, suspect), rows.inputs, 7),
            rows.outputs,
        )
        for length, rows in held_out.stretched.items()
    }
    comparisons = (*on_golden.values(), on_all, *by_length.values())

    wrong = [comparison for comparison in comparisons if not comparison.within(tolerance)]
    if wrong:
        worst = max(wrong, key=lambda comparison: comparison.largest)
        again = _in_batches(answer, held_out.inputs, 64)
        if not all(np.array_equal(whole[name], again[name], equal_nan=True) for name in whole):
            cause = _RANDOM
        elif suspect:
            cause = suspect
        elif len(wrong) == len(comparisons):
            cause = CONVERTED
        else:
            cause = _FROZEN_TIME if all(comparison in by_length.values() for comparison in wrong) else _FROZEN
        raise RefusedError(
            f"ONNX Runtime disagrees with PyTorch {worst.where}{worst.wrong}",
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
        outputs=whole,
    )


def _run_network(network: nn.Module, inputs: Named, call: Caller, single: str) -> Named:
    count = _count(inputs)
    try:
        with torch.no_grad():
            answer = call(network, {name: torch.from_numpy(rows) for name, rows in inputs.items()})
    except Exception as error:  # the user's own code: anything may come out
        learning = _still_training(network)
        raise RefusedError(
            f"the network fails on a batch of {count}: {type(error).__name__}: {first_line(error)}",
            cause=f"{learning}{_across_rows(network)}" if count == 1 else _why_it_fails(network, inputs, error),
        ) from error
    try:
        tensors = outputs(answer, single)
    except TypeError as error:
        raise RefusedError(
            f"the network answers with {error}, not with tensors of different names",
            cause="forward() returns something else than tensors, or tuples, dicts and dataclasses of them",
        ) from None
    if not tensors:
        raise RefusedError("the network answers with no tensor", cause="forward() returns nothing")
    halved = bool(_float_types(network) & _HALVES)
    return {
        name: _numbers(name if len(tensors) > 1 else "", tensor, count, halved=halved)
        for name, tensor in tensors.items()
    }


def _numbers(name: str, tensor: torch.Tensor, count: int, *, halved: bool) -> Array:
    """The array of an output, a copy: the network may answer with its own parameters, or with what it was given."""
    what = f"output {name!r}" if name else "its output"
    if tensor.layout != torch.strided or tensor.is_nested:
        raise RefusedError(
            f"the network answers with a {'nested' if tensor.is_nested else 'sparse'} tensor in {what}",
            cause="a kind of tensor that clients do not have; end forward() with .to_padded_tensor(0) or .to_dense()",
        )
    if tensor.ndim < 1 or len(tensor) != count:
        raise RefusedError(
            f"the network answers a batch of {count} with {list(tensor.shape)}"
            + (f" in {what}" if name else "")
            + f", and not with [{count}, ...]",
            cause="an output whose first axis is not the batch, such as the last states of nn.LSTM [layers, N, ...]; "
            "transpose it in forward(), or return only what clients need",
        )
    if str(tensor.dtype) not in _DTYPES:
        raise RefusedError(
            f"the network answers with {tensor.dtype} in {what}"
            if name
            else f"the network answers with {tensor.dtype}",
            cause=_why_no_numbers(tensor.dtype, halved=halved),
        )
    return np.array(tensor.detach().cpu().numpy())


def _why_no_numbers(kind: torch.dtype, *, halved: bool) -> str:
    if kind in _HALVES and halved:
        return "weights in half precision; publish module.float(), and `variants` makes smaller files of it"
    if kind in _HALVES:
        return "autocast, or .half() or .bfloat16(), in forward(), while the weights are not; end it with .float()"
    if kind.is_complex:
        return "a type that clients do not have; return torch.view_as_real(answer)"
    return "a type that clients do not have; convert it with .float() or .long()"


def _float_types(network: nn.Module) -> set[torch.dtype]:
    return {weights.dtype for weights in network.parameters() if weights.is_floating_point()}


def _why_it_fails(network: nn.Module, inputs: Named, error: Exception) -> str:
    text = str(error)
    if "requires_grad" in text or "require grad" in text:
        return "a forward() that computes gradients, which a served file does not have; publish the part without them"
    mistyped = _NO_INDEX.search(text) is not None
    if isinstance(error, IndexError) and not mistyped and any(isinstance(p, nn.Embedding) for p in network.modules()):
        return (
            "an nn.Embedding without a place for some number of the rows; it needs as many as the largest number and one "
            "more, because categories are counted from 1, and an unknown or missing one is 0"
        )
    if isinstance(error, NotImplementedError):
        return "a module, or a part of it, without forward() or without this operation"
    if re.search("same device|cuda|mps|meta", text, re.IGNORECASE):
        return (
            "a tensor that does not move with the module, such as a plain attribute, or .cuda() in forward(); use "
            "register_buffer, and the device of an input"
        )
    if mistyped or re.search(r"dtype|scalar type|Tensor type|\b(Double|Float|Half|BFloat16|Long|Int|Byte|Bool)", text):
        return _why_types_do_not_fit(network, inputs, text)
    where = own_line(error)
    return "rows that do not fit the network" + (
        f", or a mistake in forward(), which fails in {where}" if where else ""
    )


def _why_types_do_not_fit(network: nn.Module, inputs: Named, text: str) -> str:
    if _NO_INDEX.search(text):
        return _why_no_index(inputs, text)
    weights = _float_types(network)
    for name, rows in inputs.items():
        kind = torch.from_numpy(rows[:0]).dtype
        if len(weights) == 1 and kind not in weights:
            (wanted,) = weights
            if wanted in _HALVES:  # whose answers clients do not take either
                return f"the weights are {_plain(wanted)}; publish module.float(), and `variants` makes smaller files of it"
            called = _called(inputs, name)
            to = f"{called}.{_CONVERSIONS.get(wanted, f'to({wanted})')}"
            also = f", or publish module.{_CONVERSIONS[kind]}" if kind in (torch.float32, torch.float64) else ""
            return f"{called} is {_plain(kind)}, and the weights are {_plain(wanted)}; give {to}{also}"
    return "types of numbers that do not fit together"


def _why_no_index(inputs: Named, text: str) -> str:
    kinds = {name: torch.from_numpy(rows[:0]).dtype for name, rows in inputs.items()}
    fractions = {name: kind for name, kind in kinds.items() if kind.is_floating_point}
    whole = {name: kind for name, kind in kinds.items() if name not in fractions and kind not in _INDICES}
    # Numbers beside the index may well be fractions.
    for name, kind in () if _FRACTIONS.search(text) else whole.items():
        called = _called(inputs, name)
        return f"{called} is {_plain(kind)}, and nn.Embedding and other indices take int64; give {called}.long()"
    for name in fractions:
        return f"a sample of fractions where nn.Embedding takes whole numbers; give {_called(inputs, name)}.long()"
    return "an index of another type than int64, which forward() makes itself; use .long() there"


def _called(inputs: Named, name: str) -> str:
    return f"sample[{name!r}]" if len(inputs) > 1 else "sample"


def _plain(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


# What PyTorch says of an index whose type is none of one; of one that is too large it says something else.
_NO_INDEX = re.compile(r"'indices' to have one of|dtype \S.* for index|index tensor of type|used as indices must be")
_FRACTIONS = re.compile("(Float|Double|Half|BFloat16)T")
_INDICES = frozenset((torch.int64, torch.int32))
_HALVES = frozenset((torch.float16, torch.bfloat16))
_CONVERSIONS = {torch.float32: "float()", torch.float64: "double()"}

_DTYPES = frozenset(
    f"torch.{kind}" for kind in ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
)


def _across_rows(network: nn.Module) -> str:
    layer = troublesome_layer(network)
    return f"{layer}; or {_ACROSS_ROWS}" if layer else _ACROSS_ROWS


def _why_not_finite(network: nn.Module, row: Named, columns: Sequence[str]) -> str:
    if not all(np.isfinite(numbers).all() for numbers in row.values()):
        return (
            f"infinity or NaN in the row itself{_where_not_finite(row, columns)}; a missing number is NaN: replace it in forward(), "
            "for example with torch.nan_to_num, or leave the row out if no client sends such"
        )
    if any(isinstance(part, nn.MultiheadAttention) for part in network.modules()):
        return (
            "a row of nothing but padding, in which attention has nothing to attend to; leave one step of each row "
            "unmasked; or a training that diverged, or values that overflow"
        )
    return "a training that diverged, or values that overflow"


def _where_not_finite(row: Named, columns: Sequence[str]) -> str:
    for name, numbers in row.items():
        places = np.argwhere(~np.isfinite(numbers))
        if len(places):
            place = places[0][1:].tolist()
            return f", column {columns[place[0]]!r}" if columns else f", input {name!r} at {place}"
    return ""


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait make a busy machine many times slower, and here nobody waits for a reply.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised; its log lines would only repeat it
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=WRONG_FUSIONS
        )
    except Exception as error:  # ONNX Runtime's exceptions have no class of their own in common
        raise RefusedError(
            f"ONNX Runtime cannot load the exported file: {first_line(error)}",
            cause="an operator that it does not have for these types of numbers, such as bfloat16 under autocast; leave the "
            "autocast out, or write the operator with others"
            if "NOT_IMPLEMENTED" in str(error)
            else CONVERTED,
        ) from error


def _file_answer(session: onnxruntime.InferenceSession, wanted: Named, suspect: str) -> Answer:
    """Answers with the file's outputs, which must have the names, types and shapes of those `wanted` [R, ...]."""

    def answer(inputs: Named) -> Named:
        count = _count(inputs)
        try:
            found = dict(zip(wanted, session.run(list(wanted), dict(inputs)), strict=True))
        except Exception as error:  # as above
            raise RefusedError(
                f"the exported file fails on a batch of {count}: {first_line(error)}",
                cause=suspect or _FROZEN,
            ) from error
        for name, array in found.items():
            shape = (count, *wanted[name].shape[1:])
            if np.shape(array) != shape or array.dtype != wanted[name].dtype:
                raise RefusedError(
                    f"the exported file answers a batch of {count} with {array.dtype} {list(np.shape(array))} in {name}, "
                    f"not {wanted[name].dtype} {list(shape)}",
                    cause=_FROZEN if np.shape(array)[:1] != (count,) else CONVERTED,
                )
        return found

    return answer


def _in_batches(answer: Answer, inputs: Named, size: int) -> Named:
    # Every batch has exactly `size` rows: the last is filled up from the beginning.
    count = _count(inputs)
    rows = np.arange(-(-count // size) * size) % count
    parts = [answer(_take(inputs, part)) for part in rows.reshape(-1, size)]
    first = parts[0]
    for part in parts:
        if {name: (array.shape, array.dtype) for name, array in part.items()} != {
            name: (array.shape, array.dtype) for name, array in first.items()
        }:
            raise RefusedError(
                f"the network answers batches of {size} rows with outputs of different names, shapes or types",
                cause="outputs that depend on the values of the rows, such as the number of objects found",
            )
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in first}


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
