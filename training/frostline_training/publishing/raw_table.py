"""A network for a table that takes raw rows: its preprocessing, proved, and what the golden sample and the card say of it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from frostline_training.data import Array, Column
from frostline_training.data.cells import Cells, missing_numbers
from frostline_training.data.encoding import encode
from frostline_training.data.raw import Input, RawRows, cells_of, columns_of
from frostline_training.errors import DataError, PublishError, RefusedError
from frostline_training.publishing import artifact, odd_rows, preprocessing, row_schema
from frostline_training.publishing.odd_rows import Change
from frostline_training.publishing.raw_answers import checked, golden_arrays, is_answer
from frostline_training.publishing.verify import GOLDEN_ROWS, Answer, Tolerance, agree

_FAILS = "an embedding or a table without a place for 0, which stands for missing and unknown categories"
_NO_NUMBER = (
    "a missing number is NaN, and a missing or unknown category 0: replace them in forward(), for example with "
    "torch.nan_to_num"
)
_SHAKE = 2.0**-22  # two rounding errors of float32


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
    train: Cells
    held_out: Cells
    targets: ArrayLike | None = None

    @classmethod
    def of(cls, sample: RawRows, test: tuple[RawRows, ArrayLike | None] | None, inputs: Sequence[Input]) -> "RawTable":
        """Return the table that `frostline.publish` was given.

        Raises:
            DataError: The rows do not fit the inputs.
        """
        columns = columns_of(inputs)
        train = cells_of(sample, columns)
        return cls(columns, train, train) if test is None else cls(columns, train, cells_of(test[0], columns), test[1])

    def sample(self) -> torch.Tensor:
        """Return the training rows as the network takes them, float32 [N, F].

        Raises:
            PublishError: A cell is not what its column is, or no category is one that its column knows.
        """
        encoded = self._encoded(self.train)
        for place, column in enumerate(self.columns):
            known = column.categories is None or encoded[:, place].any()
            filled = [] if known else [cell for cell in self.train.values(column.cells) if cell is not None]
            if filled:
                raise PublishError(
                    f"no row of the sample has a category that {column.name!r} knows ({', '.join((column.categories or ())[1:])}); "
                    f"it has {filled[0]!r}"
                )
        return torch.from_numpy(encoded)

    def test(self) -> tuple[Array, ArrayLike | None]:
        """Return the rows of the proof as the network takes them, float32 [N, F], and their targets.

        Raises:
            PublishError: A cell is not what its column is.
        """
        return self._encoded(self.held_out), self.targets

    def freeze(
        self,
        hidden: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        name: str,
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        """Write the preprocessing beside the network's proved file in `hidden`, and prove the two with raw rows.

        Args:
            hidden: The folder that is to be the version's.
            network: In evaluation mode, on the CPU.
            answers: Makes of a network what answers encoded rows with the file's outputs.
            name: Of the network's input.
            tolerance: How far apart two answers may be.

        Returns:
            What the golden sample holds of raw rows.

        Raises:
            RefusedError: The files do not answer raw rows as the network answers what training encodes.
        """
        path = hidden / preprocessing.FILE
        onnx.save_model(
            preprocessing.graph(self.columns, missing=missing_numbers(self.held_out.reading), output=name), path
        )
        # The network's file has answered these very numbers already, so that raw rows are proved by their encoding.
        preprocessing.check(path, self.held_out, preprocessing.sent(self.held_out, self.columns), self.columns)
        return self._golden(path, hidden / artifact.MODEL_FILE, network, answers, name, tolerance)

    def card(self, hidden: Path) -> dict[str, Any]:
        """Return what the card says of the raw rows and of the file that encodes them."""
        return {
            "files": {preprocessing.FILE: artifact.sha256(hidden / preprocessing.FILE)},
            "rows": row_schema.to_card(self.columns, self.train),
        }

    def _encoded(self, cells: Cells) -> NDArray[np.float32]:
        try:
            return encode(cells, self.columns)
        except DataError as error:
            raise PublishError(str(error)) from error

    def _golden(
        self,
        path: Path,
        model: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        name: str,
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        storable = odd_rows.storable(self.held_out)
        if not storable:
            raise PublishError("every held-out row has a text that ends in NUL, which a golden sample cannot hold")
        spread = np.linspace(0, len(storable) - 1, min(GOLDEN_ROWS, len(storable))).astype(np.intp)
        real = self.held_out.take([storable[index] for index in spread])
        made = odd_rows.changes(self.columns, real)
        odd = odd_rows.changed(real, made)
        answer, shaken = answers(network), answers(_shaken(network))

        encoded = self._encoded(odd)

        def can_be_compared(index: int, change: Change) -> bool:
            row = {name: encoded[[index]]}
            if not change.far:
                is_answer(answer, row, change.told, fails=_FAILS, no_number=_NO_NUMBER)
                return True
            try:
                told = answer(row)
                return agree(shaken(row), told, tolerance)
            except RefusedError:  # it has no answer to such a number, such as an index of an embedding
                return False

        kept = [index for index, change in enumerate(made) if can_be_compared(index, change)]
        made, odd = [made[index] for index in kept], odd.take(kept)
        rows, cells = preprocessing.sent(real, self.columns), real
        if made:
            given = preprocessing.sent(odd, self.columns)
            for index, change in enumerate(made):
                if change.cell is not None and given[change.column].dtype == object:
                    given[change.column][index] = change.cell  # with the spaces around it
            rows = {column: np.concatenate([rows[column], given[column]]) for column in rows}
            cells = _joined(real, odd)
        encoded = preprocessing.check(path, cells, rows, self.columns)
        outputs = answer({name: encoded})
        told = ["as they are"] * len(spread) + [each.told for each in made]
        checked(model, {name: encoded}, outputs, tolerance, told)
        return golden_arrays(rows, outputs)


def _shaken(network: nn.Module) -> nn.Module:
    """Return a copy whose learnt weights are off by rounding errors.

    Where it answers otherwise, so may every device: what 1e38 became may cancel out.
    """
    shaken = copy.deepcopy(network)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in shaken.parameters():
            if weights.is_floating_point():
                signs = torch.randint(0, 2, weights.shape, generator=random) * 2 - 1
                weights.data = weights * (1 + _SHAKE * signs.to(weights.dtype))
    return shaken


def _joined(first: Cells, second: Cells) -> Cells:
    columns = {name: [*cells, *second.columns[name]] for name, cells in first.columns.items()}
    return Cells(first.path, columns, first.reading)
