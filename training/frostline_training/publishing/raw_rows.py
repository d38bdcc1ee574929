"""Raw rows of every kind, as `publish` takes them: a table, texts or pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from frostline_training.data import Array
from frostline_training.data.pythontext import encoded as text_bytes
from frostline_training.data.raw import Input, decoded, media_of
from frostline_training.data.rows import Column, Image, Rows, Text
from frostline_training.errors import DataError, PublishError
from frostline_training.publishing import raw_pictures
from frostline_training.publishing.raw_pictures import RawPictures
from frostline_training.publishing.raw_table import RawTable
from frostline_training.publishing.raw_texts import RawTexts

Raw = RawTable | RawTexts | RawPictures
RawColumn = Column | Text | Image


def of(sample: Any, test: Any, inputs: Sequence[Input] | Input, dynamic: object = None) -> Raw:
    """Return the raw rows that `frostline.publish` was given.

    Raises:
        PublishError: They do not fit the inputs, or what else was given does not fit them.
    """
    if isinstance(test, Rows):  # a recipe's
        test = (test, test.targets)
    if test is not None and (not isinstance(test, tuple) or len(test) != 2):
        raise PublishError(f"test is {type(test).__name__}: with inputs, give (raw rows, targets)")
    try:
        media = media_of(inputs)
        if media is not None:
            cells, held_out = _cells(sample), None if test is None else (_cells(test[0]), test[1])
            if isinstance(media, Text):
                return RawTexts.of(cells, held_out, media)
            return RawPictures.of(cells, held_out, media)
        if dynamic:
            raise PublishError("a table has no dynamic axes: leave out dynamic, or inputs")
        return RawTable.of(sample, test, inputs)
    except DataError as error:
        raise PublishError(str(error)) from error


def _cells(rows: Any) -> Any:
    if isinstance(rows, Iterator):
        return list(rows)  # they may be looked at twice
    return rows.cells if isinstance(rows, Rows) else rows


def columns(rows: Raw | None) -> Sequence[RawColumn]:
    """Return the columns of raw rows; nothing where there are none."""
    if rows is None:
        return ()
    return rows.columns if isinstance(rows, RawTable) else (rows.column,)


def name(column: RawColumn) -> str:
    """Return what clients call a column."""
    return column.cells if isinstance(column, Column) else column.name


def kind(column: RawColumn) -> str:
    """Return what a card calls the kind of a column."""
    if isinstance(column, Text | Image):
        return "text" if isinstance(column, Text) else "image"
    return "date" if column.date is not None else "number" if column.categories is None else "category"


def encoded(
    rows: Raw, arguments: Sequence[str]
) -> tuple[Tensor | dict[str, Tensor], tuple[Array | dict[str, Array], ArrayLike | None]]:
    """Return the sample and the rows of the proof, with their targets, as the network takes them.

    Args:
        rows: The raw rows.
        arguments: The names of those of the network's forward().

    Raises:
        PublishError: One is not what it must be.
    """
    try:
        return rows.sample(arguments), rows.test(arguments)
    except DataError as error:
        raise PublishError(str(error)) from error


def encoded_golden(told: Mapping[str, Any], rows: dict[str, Array]) -> Array:
    """Return raw rows of a golden sample that are no table as the network takes them.

    Args:
        told: What the card says of them under `rows`.
        rows: The golden sample's, by column.
    """
    (column,) = told["columns"]
    if column["kind"] == "image":
        image = Image(
            column["name"], tuple(column["size"]), column["color"], column["fit"], tuple(column["background"])
        )
        return decoded(raw_pictures.apart(image.name, rows), image)
    (values,) = rows.values()
    words = told["missing"]
    texts = [text.strip() for text in values.tolist()]
    return text_bytes([None if text in words else text for text in texts], column["bytes"])


def kept_golden(told: Mapping[str, Any], rows: dict[str, Array], kept: Sequence[int]) -> dict[str, Array]:
    """Return those raw rows of a golden sample that `kept` names; otherwise as `encoded_golden`."""
    column = told["columns"][0]
    if column["kind"] != "image":
        return {name: values[list(kept)] for name, values in rows.items()}
    files = raw_pictures.apart(column["name"], rows)
    return raw_pictures.joined(column["name"], [files[row] for row in kept])
