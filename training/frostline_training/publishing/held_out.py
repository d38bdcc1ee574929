"""Held-out rows: what `publish` proves a file with, as people have them: arrays, tensors, pairs, loaders of pairs or dicts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from frostline_training.data import Array, Rows
from frostline_training.errors import PublishError, first_line

Test = (
    Rows
    | tuple[ArrayLike | Mapping[str, ArrayLike], ArrayLike | None]
    | Iterable[Sequence[object]]
    | Iterable[Mapping[str, object]]
)
"""Inputs and targets, or a loader of batches of both."""

_TARGETS = ("target", "targets", "label", "labels", "y")


def held_out_rows(test: Test | None, sample: Mapping[str, Tensor]) -> tuple[dict[str, Array], Array | None]:
    """Return the held-out rows [N, ...] by the sample's names, and what was right for them, or None.

    Args:
        test: What the user gave; None for the sample's own rows.
        sample: The sample by name, whose types and shapes the rows must have.

    Raises:
        PublishError: They do not fit, or cannot be told from the targets.
    """
    expected = {name: tensor.numpy() for name, tensor in sample.items()}
    if test is None:
        return expected, None
    if isinstance(test, Rows):
        test = test.inputs, test.targets
    given, wanted = test if _is_pair(test) else _gathered(test, list(expected))
    arrays: dict[str, Any] = dict(given) if isinstance(given, Mapping) else dict.fromkeys(list(expected)[:1], given)
    if set(arrays) != set(expected):
        raise PublishError(f"test rows have the inputs {', '.join(arrays)}, the sample has {', '.join(expected)}")
    inputs = {name: _checked_rows(_array("test rows", arrays[name]), rows) for name, rows in expected.items()}
    count = len(next(iter(inputs.values())))
    if any(len(rows) != count for rows in inputs.values()):
        raise PublishError(
            f"test inputs disagree on the number of rows: { {name: len(rows) for name, rows in inputs.items()} }"
        )
    return inputs, None if wanted is None else _array("test targets", wanted)


def _is_pair(test: object) -> bool:
    """Whether it is inputs and targets, and not a loader or list of batches of them."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        return False
    return not all(isinstance(part, tuple | list | Mapping) for part in test) or isinstance(test, tuple)


def _array(what: str, value: Any) -> Array:
    try:
        return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise PublishError(f"{what} are no array: {first_line(error)}") from error


def _checked_rows(rows: Array, expected: Array) -> Array:
    if rows.ndim < 1 or rows.shape[1:] != expected.shape[1:] or len(rows) == 0:
        raise PublishError(f"test rows {list(rows.shape)} do not have the sample's shape {['N', *expected.shape[1:]]}")
    if not np.can_cast(rows.dtype, expected.dtype, "same_kind"):
        raise PublishError(f"test rows are {rows.dtype}, the sample is {expected.dtype}")
    return np.ascontiguousarray(rows, dtype=expected.dtype)


def _gathered(loader: Iterable[object], names: Sequence[str]) -> tuple[Mapping[str, Array], Array | None]:
    """Put the batches of a loader together: (inputs by name, targets)."""
    try:
        batches = [_batch(batch, names) for batch in loader]
    except TypeError as error:
        raise PublishError(
            f"test is {type(loader).__name__}: give (inputs, targets), or a loader of such batches"
        ) from error
    if not batches:
        raise PublishError("the test loader gives no batches")
    inputs = {name: _joined([each[name] for each, _ in batches], name) for name in batches[0][0]}
    targets = [wanted for _, wanted in batches if wanted is not None]
    if targets and len(targets) < len(batches):
        raise PublishError("some batches of the test loader have targets, and some have none")
    return inputs, _joined(targets, "the targets") if targets else None


def _batch(batch: object, names: Sequence[str]) -> tuple[dict[str, Array], Array | None]:
    if isinstance(batch, Mapping):
        inputs = {name: batch[name] for name in names if name in batch}
        rest = [key for key in batch if key not in inputs]
        if len(names) == 1 and not inputs and len(batch) == 2:
            # One input goes by any name, beside targets that say that they are.
            targets = [key for key in batch if str(key).lower() in _TARGETS]
            rest = targets if len(targets) == 1 else rest
            inputs = dict.fromkeys(names, next((batch[key] for key in batch if key not in rest), None))
        if set(inputs) != set(names) or len(rest) > 1:
            raise PublishError(
                f"a batch of the test loader has {', '.join(map(str, batch))}; it must have the inputs {', '.join(names)} and "
                "one more, the targets"
            )
        wanted = batch[rest[0]] if rest else None
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        given, wanted = batch
        inputs = dict(given) if isinstance(given, Mapping) else {names[0]: given}
    elif isinstance(batch, tuple | list) and len(batch) == len(names) + 1:
        *given, wanted = batch
        inputs = dict(zip(names, given, strict=True))
    else:
        shown = f"{len(batch)} things" if isinstance(batch, tuple | list) else type(batch).__name__
        raise PublishError(
            f"a batch of the test loader is {shown}: it must be (inputs, targets), and the network has the "
            f"{'input' if len(names) == 1 else 'inputs'} {', '.join(names)}"
        )
    arrays = {name: _array(f"test rows of {name}", value) for name, value in inputs.items()}
    return arrays, None if wanted is None else _array("test targets", wanted)


def _joined(parts: Sequence[Array], what: str) -> Array:
    try:
        return np.concatenate(parts)
    except ValueError as error:
        raise PublishError(f"the test loader's batches do not fit together: {what}: {first_line(error)}") from error
