"""The data set: rows with their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.categories import MISSING
from frostline.pictures import Color, Form
from frostline_training.data.cells import Cells
from frostline_training.data.heads import Head, of_head
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, DatePart, Fit, Rgb, Task

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Inputs = Array | Mapping[str, Array]

Split = Literal["words", "spaces", "characters"]

INPUT = "input"
UNKNOWN = "(unknown)"


class Rows(NamedTuple):
    """Rows with their targets.

    Attributes:
        inputs: [N, ...] as a client would send them, or several by name, in the order of the network's arguments.
            Whole numbers [N, T] are tokens; 0 pads them on the right.
        targets: Classes int64 [N]; for several labels float32 [N, C] of 0 and 1; for a regression float32 [N, K]; where
            each pixel has a class int64 [N, H, W]; for several targets of any kind float32 [N, K], of classes the numbers.
        cells: The rows of a table as they were read, before they were encoded.
    """

    inputs: Inputs
    targets: Array
    cells: Cells | None = None


@dataclass(frozen=True)
class DateOf:
    """Where a column of numbers comes from that is a part of a date.

    Attributes:
        column: The dates' own column.
        format: As `DateColumn` has it.
        part: Which part.
        relative_to: What an age is measured from, without an offset; None for other parts.
    """

    column: str
    format: str
    part: DatePart
    relative_to: datetime | None = None


MOST_COLUMNS = 2000
"""As many inputs as servers take in a request."""
MOST_CARD_BYTES = 8 << 20
"""The most bytes of a card that servers read."""


@dataclass(frozen=True)
class Column:
    """One column of a table, as a network takes it.

    Attributes:
        name: As in the file's header; of a part of a date with the part behind a dot.
        categories: The category that each whole number stands for, 0 for any that is not known; None for a number,
            which may be NaN where it is missing. The last one may be `MISSING`, which stands for no value.
        date: What date a number is a part of.
    """

    name: str
    categories: tuple[str, ...] | None = None
    date: DateOf | None = None

    @property
    def cells(self) -> str:
        """The file's column that its cells are in."""
        return self.name if self.date is None else self.date.column

    @property
    def known(self) -> tuple[str, ...]:
        """The categories that cells may have, in the order of their numbers, from 1."""
        categories = self.categories or ()
        return categories[1 : -1 if self.missing else None]

    @property
    def missing(self) -> int:
        """The number that no category is encoded as: that of `MISSING` where the column has it, else that of an unknown one, 0."""
        categories = self.categories or ()
        return len(categories) - 1 if categories[-1:] == (MISSING,) else 0


def check_servable(where: str, columns: Sequence[Column]) -> None:
    """Check, before anything is learnt, that servers will take a model of these columns.

    Raises:
        DataError: There are too many columns, or their categories do not go into a card.
    """
    count = len({column.cells for column in columns})
    if count > MOST_COLUMNS:
        raise DataError(
            f"{where}: {count} columns are more than the {MOST_COLUMNS} that a server takes: leave some out, or train on one "
            "array of numbers, [N, columns] in an .npz"
        )

    def size(column: Column) -> int:
        # A card has each category at least twice.
        return 2 * sum(len(known.encode()) for known in column.known)

    if sum(map(size, columns)) > MOST_CARD_BYTES:
        largest = max(columns, key=size)
        raise DataError(
            f"{where}: the {len(largest.known)} categories of column {largest.name!r} do not go into the model's card, of "
            f"which servers read at most {MOST_CARD_BYTES >> 20} MiB: leave the column out, or group its categories"
        )


@dataclass(frozen=True)
class Text:
    """A column of texts, of which a network takes the bytes, the words of a vocabulary, or a tokenizer's tokens.

    Longer texts are cut, and shorter ones padded. Give `bytes`, or `length` and one of `vocabulary` and `tokenizer`.

    Attributes:
        name: What clients call it.
        bytes: How many bytes of UTF-8 the network takes: one input uint8 [N, `bytes`], padded with 0.
        length: How many words or tokens it takes.
        vocabulary: The words that it knows: one input int64 [N, `length`] of their numbers. 0 pads, 1 is any other word, and
            the vocabulary's are numbered from 2 on.
        tokenizer: Hugging Face's: the path of a ``tokenizer.json``, or a `tokenizers.Tokenizer`. The inputs are those of
            ``input_ids``, ``attention_mask`` and ``token_type_ids`` that the network's forward() names, int64 [N, `length`]
            each; if it names none, ``input_ids`` alone.
        lowercase: Whether the words of a vocabulary are those of the text in small letters; they are by default.
        split: What a word of a vocabulary is: ``words`` (runs of letters, digits and underscores, and each other sign
            alone), which is the default, ``spaces`` (what is between spaces) or ``characters``.
    """

    name: str
    bytes: int | None = None
    length: int | None = None
    vocabulary: Sequence[str] | None = None
    tokenizer: Any = None
    lowercase: bool | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Image:
    """A column of pictures, of which a network takes the pixels: one input float32 [N, C, H, W], 0 (dark) to 255.

    Attributes:
        name: What clients call it.
        size: Height and width of what each is brought to.
        color: ``grey`` (C is 1) or ``rgb`` (3).
        fit: What happens to the aspect: ``pad`` keeps it and fills the rest with `background`, ``crop`` keeps it and cuts
            the longer side at both ends, ``stretch`` does not keep it.
        background: What shows through transparent parts: red, green, blue, 0 to 255.
    """

    name: str
    size: tuple[int, int]
    color: Color = "rgb"
    fit: Fit = "pad"
    background: Rgb = (255, 255, 255)

    @property
    def form(self) -> Form:
        """What pictures are brought to."""
        return Form(self.size, self.color, self.fit, self.background)


@dataclass(frozen=True)
class Inferred:
    """What a column of a user's file was taken for.

    Attributes:
        name: As in the file's header.
        kind: number, category, date, text, skip or target.
        missing: How many cells have no value.
        lowest: The smallest number or the first date, as text; None where there is no order, or no value.
        highest: The largest or the last one.
        categories: How many categories or classes there are, and the first few.
    """

    name: str
    kind: str
    missing: int = 0
    lowest: str | None = None
    highest: str | None = None
    categories: int | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A whole data set.

    Attributes:
        name: What recipes call it.
        rows: All rows; class (or column) `i` of the targets is called `labels[i]`.
        labels: The names of the classes, or of the values; of several heads those of all outputs.
        send: What a client must send, in words (axes, units, range).
        source: Where the rows come from.
        task: What the targets are.
        heads: With the task ``any``, what each column of the targets is.
        columns: What the input's columns are, where it is a table of numbers and categories.
        media: What the input is where it is no table, but texts or pictures, whose raw rows are in `Rows.cells`: texts, or the paths of files.
        sequence: Whether the first input's second axis is a time axis, of any length.
        schema: What each column of the user's file was taken for.
        notes: What a user should know of how the rows were read, before training: a sentence each.
        facts: How the rows were read, for the card, so that others can be read alike.
    """

    name: str
    rows: Rows
    labels: tuple[str, ...]
    send: str
    source: str
    task: Task = "single-label"
    heads: tuple[Head, ...] = ()
    columns: tuple[Column, ...] = ()
    media: Text | Image | None = None
    sequence: bool = False
    schema: tuple[Inferred, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """The inputs' open axes other than the first, by name."""
        return {next(iter(named(self.rows.inputs))): {1: "time"}} if self.sequence else {}

    @property
    def inputs(self) -> Sequence[Column | Text | Image] | None:
        """What raw rows consist of; None where there are none.

        Raises:
            DataError: There should be some, and the rows lost them: what is published would take none, without a word.
        """
        if self.rows.cells is None:
            if self.columns or self.media:
                raise DataError(f"{self.name} has columns, and its rows lack the cells that raw rows are proved with")
            return None
        return (self.media,) if self.media else self.columns

    @property
    def majority(self) -> float | None:
        """The accuracy of always answering the most frequent class, of rows or pixels; None where there are no classes."""
        if self.task == "embedding" or self.task not in (*ONE_CLASS, "dense"):
            return None
        targets = self.rows.targets.ravel()
        return float(np.bincount(targets).max() / len(targets))

    def of_head(self, place: int) -> "Dataset":
        """Return the same rows with the target of one head alone."""
        head = self.heads[place]
        targets = of_head(head, place, self.rows.targets)
        rows = self.rows._replace(targets=targets if head.labels is None else targets.astype(np.int64))
        return replace(self, rows=rows, labels=head.outputs, task=head.task, heads=())


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return the places of at most `most` of `count` things, spread evenly over all."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.intp)


def named(inputs: Inputs) -> dict[str, Array]:
    """Return `inputs` by name; one alone is called ``input``."""
    return dict(inputs) if isinstance(inputs, Mapping) else {INPUT: inputs}


def take(rows: Rows, index: NDArray[np.intp]) -> Rows:
    """Return those of `rows` that `index` names, in its order."""
    cells = None if rows.cells is None else rows.cells.take(index.tolist())
    inputs = rows.inputs
    taken = {name: array[index] for name, array in inputs.items()} if isinstance(inputs, Mapping) else inputs[index]
    return Rows(taken, rows.targets[index], cells)


def tensors(rows: Rows, device: "torch.device") -> "tuple[tuple[torch.Tensor, ...], torch.Tensor]":
    """Return the inputs, in the order of the network's arguments, and the targets, all on `device`."""
    # Recipes and data can be looked at without PyTorch, which takes seconds to import.
    import torch  # noqa: PLC0415

    inputs = tuple(torch.from_numpy(array).to(device) for array in named(rows.inputs).values())
    return inputs, torch.from_numpy(rows.targets).to(device)


def sample(rows: Rows) -> "torch.Tensor | dict[str, torch.Tensor]":
    """Return the inputs as `frostline.publish` takes them: one tensor, or several by name."""
    import torch  # noqa: PLC0415 as above

    if isinstance(rows.inputs, Mapping):
        return {name: torch.from_numpy(array) for name, array in rows.inputs.items()}
    return torch.from_numpy(rows.inputs)
