"""A network for a table that takes raw rows: its preprocessing, proved, and what the golden sample and the card say of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from frostline_training.data import Array, Column, Rows, evenly
from frostline_training.data.cells import Cells, missing_numbers
from frostline_training.data.encoding import encode
from frostline_training.data.raw import Input, RawRows, cells_of, columns_of
from frostline_training.errors import PublishError, RefusedError
from frostline_training.publishing import artifact, odd_rows, preprocessing, row_schema
from frostline_training.publishing.far_rows import shaken
from frostline_training.publishing.odd_rows import Change
from frostline_training.publishing.raw_answers import checked, golden_arrays, is_answer
from frostline_training.publishing.verify import GOLDEN_ROWS, Answer, Tolerance, agree

_FAILS = "an embedding or a table without a place for 0, which stands for missing and unknown categories"
_NO_NUMBER = (
    "a missing number is NaN, and a missing or unknown category 0: replace them in forward(), for example with "
    "torch.nan_to_num"
)
_SHAKE = 2.0**-22  # two rounding errors of float32


class Encoded(NamedTuple):
    """Raw rows: as training reads them, and as the network takes them, float32 [N, F]."""

    cells: Cells
    numbers: NDArray[np.float32]


@dataclass(frozen=True)
class RawTable:
    """Raw rows that a network was trained on and is proved with.

    Attributes:
        columns: What the network takes.
        train: The rows that it was trained on.
        held_out: The rows of the proof.
        targets: What was right for them, where it is known.
    """

    columns: tuple[Column, ...]
    train: Encoded
    held_out: Encoded
    targets: ArrayLike | None = None

    @classmethod
    def of(
        cls,
        sample: RawRows | Rows,
        test: tuple[RawRows | Rows, ArrayLike | None] | None,
        inputs: Sequence[Input] | Input,
    ) -> "RawTable":
        """Return the table that `frostline.publish` was given.

        Raises:
            DataError: The rows do not fit the inputs.
        """
        columns = columns_of(inputs)
        train = _encoded(sample, columns)
        _check_known(train, columns)
        return cls(columns, train, train) if test is None else cls(columns, train, _encoded(test[0], columns), test[1])

    def sample(self, names: Sequence[str]) -> torch.Tensor:  # noqa: ARG002 as of texts, which may be several tensors
        """Return the training rows as the network takes them, float32 [N, F]."""
        return torch.from_numpy(self.train.numbers)

    def test(self, names: Sequence[str]) -> tuple[Array, ArrayLike | None]:  # noqa: ARG002 as above
        """Return the rows of the proof as the network takes them, float32 [N, F], and their targets."""
        return self.held_out.numbers, self.targets

    def freeze(
        self,
        hidden: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        names: Sequence[str],
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        """Write the preprocessing beside the network's proved file in `hidden`, and prove the two with raw rows.

        Args:
            hidden: The folder that is to be the version's.
            network: In evaluation mode, on the CPU.
            answers: Makes of a network what answers encoded rows with the file's outputs.
            names: Of the network's inputs, of which a table has one.
            tolerance: How far apart two answers may be.

        Returns:
            What the golden sample holds of raw rows.

        Raises:
            RefusedError: The files do not answer raw rows as the network answers what training encodes.
        """
        path, (name,), reading = hidden / preprocessing.FILE, names, self.held_out.cells.reading
        onnx.save_model(
            preprocessing.graph(self.columns, missing=missing_numbers(reading), words=reading.missing, output=name),
            path,
        )
        # The network's file has answered these very numbers already, so that raw rows are proved by their encoding.
        cells, numbers = self.held_out
        preprocessing.check(path, preprocessing.sent(cells, self.columns), numbers, self.columns, cells.reading.missing)
        return self._golden(path, hidden / artifact.MODEL_FILE, network, answers, name, tolerance)

    def card(self, hidden: Path) -> dict[str, Any]:
        """Return what the card says of the raw rows and of the file that encodes them."""
        return {
            "files": {preprocessing.FILE: artifact.sha256(hidden / preprocessing.FILE)},
            "rows": row_schema.to_card(self.columns, *self.train),
        }

    def _golden(
        self,
        path: Path,
        model: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        name: str,
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        storable = odd_rows.storable(self.held_out.cells)
        if not storable:
            raise PublishError("every held-out row has a text that ends in NUL, which a golden sample cannot hold")
        chosen = [storable[index] for index in evenly(len(storable), GOLDEN_ROWS)]
        real = self.held_out.cells.take(chosen)
        made = odd_rows.changes(self.columns, real)
        odd = odd_rows.changed(real, made)
        answer, otherwise = answers(network), answers(shaken(network, _SHAKE))

        numbers = encode(odd, self.columns)

        def can_be_compared(index: int, change: Change) -> bool:
            row = {name: numbers[[index]]}
            if not change.far:
                is_answer(answer, row, change.told, fails=_FAILS, no_number=_NO_NUMBER)
                return True
            try:
                told = answer(row)
                return agree(otherwise(row), told, tolerance)
            except RefusedError:  # it has no answer to such a number, such as an index of an embedding
                return False

        kept = [index for index, change in enumerate(made) if can_be_compared(index, change)]
        made, odd = [made[index] for index in kept], odd.take(kept)
        rows, encoded = preprocessing.sent(real, self.columns), self.held_out.numbers[chosen]
        if made:
            given = preprocessing.sent(odd, self.columns)
            for index, change in enumerate(made):
                if change.cell is not None and given[change.column].dtype == object:
                    given[change.column][index] = change.cell  # with the spaces around it
            rows = {column: np.concatenate([rows[column], given[column]]) for column in rows}
            encoded = np.concatenate([encoded, numbers[kept]])
        preprocessing.check(path, rows, encoded, self.columns, real.reading.missing)
        outputs = answer({name: encoded})
        told = ["as they are"] * len(chosen) + [each.told for each in made]
        checked(model, {name: encoded}, outputs, tolerance, told)
        return golden_arrays(rows, outputs)


def _encoded(rows: Any, columns: Sequence[Column]) -> Encoded:
    if isinstance(rows, Rows) and rows.cells is not None:  # a recipe's: the very numbers that it learnt from
        return Encoded(rows.cells, np.asarray(rows.inputs, np.float32))
    cells = cells_of(rows, columns)
    return Encoded(cells, encode(cells, columns))


def _check_known(train: Encoded, columns: Sequence[Column]) -> None:
    for place, column in enumerate(columns):
        numbers = train.numbers[:, place]
        if column.categories is None or ((numbers > 0) & (numbers <= len(column.known))).any():
            continue
        cell = next((cell for cell in train.cells.values(column.cells) if cell is not None), None)
        if cell is not None:
            raise PublishError(
                f"no row of the sample has a category that {column.name!r} knows ({', '.join(column.known)}); "
                f"it has {cell!r}"
            )
