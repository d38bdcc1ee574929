"""A network for texts that takes them as they are: what the golden sample and the card say of them, proved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from frostline_training.data import Array, evenly
from frostline_training.data.cells import Cells
from frostline_training.data.pythontext import encoded
from frostline_training.data.raw import RawRows, texts_of
from frostline_training.data.rows import Text
from frostline_training.errors import PublishError
from frostline_training.publishing import artifact
from frostline_training.publishing.raw_answers import answered, golden_arrays
from frostline_training.publishing.verify import GOLDEN_ROWS, Answer, Tolerance

_TRACED = 64  # texts; more show an export nothing new
_BEYOND = 64  # characters of a text behind those that count, in a golden sample
_EXAMPLE = 200  # characters


@dataclass(frozen=True)
class RawTexts:
    """Texts that a network was trained on and is proved with.

    Attributes:
        column: What clients call them, and how many of their bytes the network takes.
        train: Those that it was trained on; None where one is missing.
        held_out: Those of the proof.
        targets: What was right for them, where it is known.
        missing: The texts that stand for no value.
    """

    column: Text
    train: Sequence[str | None]
    held_out: Sequence[str | None]
    targets: ArrayLike | None = None
    missing: Sequence[str] = ("",)

    @classmethod
    def of(cls, sample: RawRows, test: tuple[RawRows, ArrayLike | None] | None, column: Text) -> "RawTexts":
        """Return the texts that `frostline.publish` was given.

        Raises:
            DataError: They are no texts.
        """
        train = texts_of(sample, column)
        held_out, targets = (train, None) if test is None else (texts_of(test[0], column), test[1])
        words = sample.reading.missing if isinstance(sample, Cells) else ()
        return cls(column, train, held_out, targets, tuple(dict.fromkeys(("", *words))))

    def sample(self) -> torch.Tensor:
        """Return training texts as the network takes them, uint8 [N, T]."""
        return torch.from_numpy(self._encoded([self.train[index] for index in evenly(len(self.train), _TRACED)]))

    def test(self) -> tuple[Array, ArrayLike | None]:
        """Return the texts of the proof as the network takes them, uint8 [N, T], and their targets."""
        return self._encoded(self.held_out), self.targets

    def freeze(
        self,
        hidden: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        name: str,
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        """Prove the network's file in `hidden` with raw texts, odd ones among them; return what the golden sample holds.

        The arguments are those of `RawTable.freeze`.

        Raises:
            RefusedError: The network has no answer to a text, or the file has another one.
        """
        real, odd = self._real(), self._odd()
        texts = [*real, *odd.values()]
        outputs = answered(
            hidden / artifact.MODEL_FILE,
            answers(network),
            {name: self._encoded(texts)},
            len(real),
            [f"a text is {told}" for told in odd],
            tolerance,
            fails="an embedding of fewer than the 256 values that a byte may have",
            no_number="a text of nothing but padding, which is 0, such as a mean over no letters",
        )
        sent = np.array([self._empty if text is None else text for text in texts], object)
        return golden_arrays({self.column.name: sent}, outputs)

    def card(self, hidden: Path) -> dict[str, Any]:  # noqa: ARG002 as of a table, which has a file in it
        """Return what the card says of the texts."""
        example = next((text for text in self.train if text), self._empty)[:_EXAMPLE].strip()
        share = sum(text is None for text in self.train) / len(self.train)
        column = {"name": self.column.name, "kind": "text", "bytes": self.column.bytes, "share_missing": share}
        return {
            "rows": {"missing": list(self.missing), "columns": [column], "example": {self.column.name: example}},
        }

    @property
    def _empty(self) -> str:
        return self.missing[-1]

    def _real(self) -> list[str | None]:
        """Return texts of the proof, spread evenly, without those that a golden sample cannot hold."""
        short = [None if text is None else text[: self.column.bytes + _BEYOND] for text in self.held_out]
        # NumPy cuts texts that end in NUL; and one that is cut within its spaces becomes another.
        kept = [text for text in short if text is None or (not text.endswith("\0") and text == text.strip())]
        if not kept:
            raise PublishError("every held-out text ends in NUL, which a golden sample cannot hold")
        return [kept[index] for index in evenly(len(kept), GOLDEN_ROWS)]

    def _odd(self) -> dict[str, str | None]:
        size = self.column.bytes
        return {
            "missing": None,
            "a space": " ",
            "an emoji": "\N{FOX FACE}",
            "an accent": "é",
            "a NUL between letters": "a\0b",
            "a letter with spaces around it": " a ",
            "longer than what counts": "a" * (size + _BEYOND),
            "cut within a character": "a" * (size - 1) + "\N{FOX FACE}",
        }

    def _encoded(self, texts: Sequence[str | None]) -> NDArray[np.uint8]:
        return encoded([None if text is None else text.strip() for text in texts], self.column.bytes)
