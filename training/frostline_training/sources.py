"""Data sources: where a user's own data is, as typed values for a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

_VALUE = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Task = Literal["single-label", "multi-label", "regression"]
"""What recipes train for. `frostline_training.publishing.tasks` has those of modules of one's own beside them."""
ColumnKind = Literal["number", "category", "text", "skip"]


class _Table(BaseModel):
    """Rows with named columns.

    A column whose cells are all numbers is a number, any other a category, unless `columns` says what it is.
    A text column must be the only one that is not skipped. `missing` are the cells that stand for no value.
    """

    model_config = _VALUE
    path: Path
    target: str | tuple[str, ...]
    task: Task = "single-label"
    columns: Mapping[str, ColumnKind] = {}
    missing: tuple[str, ...] = ("", "NA", "?")
    text_bytes: PositiveInt = 256


class CsvFile(_Table):
    """A CSV file in UTF-8 with a header line.

    `target` names the column to predict; several columns of 0 and 1 with `task` ``multi-label``, one or more columns
    of numbers with ``regression``. What a column holds is inferred, unless `columns` says it. Cells in `missing` have
    no value. Texts are cut to `text_bytes` bytes.
    """

    kind: Literal["csv"] = "csv"


class ParquetFile(_Table):
    """A Parquet file; otherwise as `CsvFile`. It needs the package pyarrow."""

    kind: Literal["parquet"] = "parquet"


class NpzFile(BaseModel):
    """Arrays in a NumPy archive: `input` [N, ...], `target` [N] or [N, C], and for padded sequences `lengths` [N].

    Inputs of whole numbers [N, T] are tokens, and 0 pads them on the right; all others are numbers.
    """

    model_config = _VALUE
    kind: Literal["npz"] = "npz"
    path: Path
    task: Task = "single-label"
    labels: tuple[str, ...] | None = None


class ImageFolder(BaseModel):
    """Pictures in one folder per class, brought to `size` (height, width) pixels of grey or colour, 0 to 255."""

    model_config = _VALUE
    kind: Literal["images"] = "images"
    path: Path
    size: tuple[PositiveInt, PositiveInt] = (32, 32)
    color: Literal["grey", "rgb"] = "rgb"


Source = Annotated[CsvFile | ParquetFile | NpzFile | ImageFolder, Field(discriminator="kind")]
