"""The answers to raw rows: those of the network, which the file beside it is proved with, and the golden sample holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from frostline_training.data import Array
from frostline_training.errors import RefusedError
from frostline_training.publishing.verify import Answer, HeldOut, Named, Tolerance, check_file


def is_answer(answer: Answer, row: Named, where: str, *, fails: str, no_number: str) -> None:
    """Check that the network answers a row with numbers.

    Args:
        answer: Answers rows.
        row: The row as the network takes it.
        where: What is odd about it, in words.
        fails: What is likely to be wrong if it fails.
        no_number: What is likely to be wrong if it answers with infinity or NaN.

    Raises:
        RefusedError: It does not.
    """
    try:
        if all(np.isfinite(rows).all() for rows in answer(row).values()):
            return
    except RefusedError as error:
        raise RefusedError(f"{error.fact}, where {where}", cause=fails) from error
    raise RefusedError(f"the network answers a row with infinity or NaN where {where}", cause=no_number)


def checked(model: Path, rows: Named, outputs: Named, tolerance: Tolerance, told: Sequence[str]) -> None:
    """Check that the file at `model` answers encoded raw rows as the network does.

    Args:
        model: The file.
        rows: The rows as the network takes them.
        outputs: The network's answers.
        tolerance: How far apart two answers may be.
        told: What each row is, in words.

    Raises:
        RefusedError: It does not.
    """
    try:
        check_file(model, HeldOut(rows, outputs), tolerance, classes=False)
    except RefusedError as error:
        where = "" if error.row is None else f" where {told[error.row]}"
        raise RefusedError(f"raw rows: {error.fact}{where}", cause=error.cause, largest=error.largest) from error


def answered(
    model: Path,
    answer: Answer,
    rows: Named,
    real: int,
    odd: Sequence[str],
    tolerance: Tolerance,
    *,
    fails: str,
    no_number: str,
) -> Named:
    """Return the network's answers to encoded raw rows, which the file at `model` gives too.

    Args:
        model: The file.
        answer: Answers rows as the network does.
        rows: The rows as the network takes them: real ones, then odd ones.
        real: How many are real.
        odd: What each of the others is, in words.
        tolerance: How far apart two answers may be.
        fails: As for `is_answer`.
        no_number: As for `is_answer`.

    Raises:
        RefusedError: The network has no answer to an odd row, or the file has another one.
    """
    for at, told in enumerate(odd, start=real):
        is_answer(answer, {name: array[[at]] for name, array in rows.items()}, told, fails=fails, no_number=no_number)
    outputs = answer(rows)
    checked(model, rows, outputs, tolerance, [*["as they are"] * real, *odd])
    return outputs


def golden_arrays(rows: Named, outputs: Named) -> dict[str, Array]:
    """Return what a golden sample holds of raw rows.

    Args:
        rows: Numbers [Q] and texts [Q] by column.
        outputs: The right answers [Q, ...] by the names of the file's outputs.
    """
    taken = {
        f"rows.{name}": values.astype(np.str_) if values.dtype == object else values for name, values in rows.items()
    }
    given = {"rows_logits" if len(outputs) == 1 else f"rows_output.{name}": values for name, values in outputs.items()}
    return taken | given


def golden_rows(golden: Mapping[str, Array]) -> dict[str, Array]:
    """Return the raw rows of a golden sample, by column."""
    return {key.removeprefix("rows."): values for key, values in golden.items() if key.startswith("rows.")}
