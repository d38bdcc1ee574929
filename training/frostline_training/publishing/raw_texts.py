"""A network for texts that takes them as they are: what the golden sample and the card say of them, proved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from frostline_training.data import Array, evenly
from frostline_training.data.cells import Cells
from frostline_training.data.raw import RawRows, texts_of
from frostline_training.data.rows import Text
from frostline_training.data.texts import IDS, encoded, in_small_letters, split_of, tokenizer_of
from frostline_training.errors import PublishError
from frostline_training.publishing import artifact
from frostline_training.publishing.raw_answers import answered, golden_arrays
from frostline_training.publishing.verify import GOLDEN_ROWS, Answer, Tolerance

_TRACED = 64  # texts; more show an export nothing new
_BEYOND = 64  # characters of a text behind those that count, in a golden sample
_EXAMPLE = 200  # characters
_A_TOKEN = 8  # characters; few texts have more for each, and a golden sample holds every text as wide as its widest
_TOKENIZER = "tokenizer.json"


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

    def sample(self, names: Sequence[str]) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return training texts as the network takes them: [N, T], or by name where it takes several.

        Args:
            names: Of the arguments of forward().
        """
        arrays = self._taken([self.train[index] for index in evenly(len(self.train), _TRACED)], names)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return tensors.get("", tensors)

    def test(self, names: Sequence[str]) -> tuple[Array | dict[str, Array], ArrayLike | None]:
        """Return the texts of the proof as the network takes them, as `sample` does, and their targets."""
        arrays = self._taken(self.held_out, names)
        return arrays.get("", arrays), self.targets

    def freeze(
        self,
        hidden: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        names: Sequence[str],
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
            self._named(texts, names),
            len(real),
            [f"a text is {told}" for told in odd],
            tolerance,
            fails=f"an embedding of fewer than the {self._values} may have",
            no_number="a text of nothing but padding, such as a mean over no letters, words or tokens",
        )
        sent = np.array([self._empty if text is None else text for text in texts], object)
        return golden_arrays({self.column.name: sent}, outputs)

    def card(self, hidden: Path) -> dict[str, Any]:
        """Return what the card says of the texts and of their tokenizer's file in `hidden`, which it writes."""
        example = next((text for text in self.train if text), self._empty)[:_EXAMPLE].strip()
        share = sum(text is None for text in self.train) / len(self.train)
        text = self.column
        told: dict[str, Any] = {"name": text.name, "kind": "text"}
        rows: dict[str, Any] = {"missing": list(self.missing)}
        files: dict[str, Any] = {}
        if text.bytes is not None:
            told["bytes"] = text.bytes
        elif text.vocabulary is not None:
            words = {"lowercase": in_small_letters(text), "split": split_of(text)}
            told |= {"length": text.length, "vocabulary": list(text.vocabulary), **words}
        else:
            told["length"] = text.length
            rows["file"] = _TOKENIZER
            (hidden / _TOKENIZER).write_text(tokenizer_of(text).to_str(), encoding="utf-8")
            files["files"] = {_TOKENIZER: artifact.sha256(hidden / _TOKENIZER)}
        told["share_missing"] = share
        return {"rows": {**rows, "columns": [told], "example": {text.name: example}}, **files}

    @property
    def _empty(self) -> str:
        return self.missing[-1]

    def _real(self) -> list[str | None]:
        """Return texts of the proof, spread evenly, without those that a golden sample cannot hold."""
        most = self.column.bytes or (self.column.length or 0) * _A_TOKEN
        short = [None if text is None else text[: most + _BEYOND] for text in self.held_out]
        # NumPy cuts texts that end in NUL; and one that is cut within its spaces becomes another.
        kept = [text for text in short if text is None or (not text.endswith("\0") and text == text.strip())]
        if not kept:
            raise PublishError("every held-out text ends in NUL, which a golden sample cannot hold")
        return [kept[index] for index in evenly(len(kept), GOLDEN_ROWS)]

    def _odd(self) -> dict[str, str | None]:
        size = self.column.bytes or self.column.length or 0
        longer = "a" if self.column.bytes is not None else "a "
        return {
            "missing": None,
            "a space": " ",
            "an emoji": "\N{FOX FACE}",
            "an accent": "é",
            "a NUL between letters": "a\0b",
            "a letter with spaces around it": " a ",
            "nothing but unknown words": "\u16a0\u16a1 \u16a2",
            "longer than what counts": (longer * (size + _BEYOND)).strip(),
            "cut within a character": "a" * (size - 1) + "\N{FOX FACE}",
        }

    @property
    def _values(self) -> str:
        return "256 values that a byte" if self.column.bytes is not None else "numbers that a text"

    def _named(self, texts: Sequence[str | None], names: Sequence[str]) -> dict[str, Array]:
        """Return texts by the names of the network's inputs, of which the only one may have any."""
        arrays = encoded(texts, self.column)
        if len(names) == 1 and names[0] not in arrays:
            return {names[0]: arrays[IDS]}
        return {name: arrays[name] for name in names}

    def _taken(self, texts: Sequence[str | None], names: Sequence[str]) -> dict[str, Array]:
        """Return texts by the names of the arguments that are theirs; under "" where none is, or there is but one kind."""
        arrays = encoded(texts, self.column)
        chosen = [name for name in arrays if name in names] if self.column.tokenizer is not None else []
        return {name: arrays[name] for name in chosen} or {"": arrays[IDS]}
