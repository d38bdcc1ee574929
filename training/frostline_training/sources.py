"""Data sources: where a user's own data is, as typed values for a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

_VALUE = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Task = Literal["single-label", "multi-label", "regression"]
ColumnKind = Literal["number", "category", "text", "skip"]
Fit = Literal["pad", "crop", "stretch"]
_Byte = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[_Byte, _Byte, _Byte]


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
    """Pictures in one folder per class, brought to `size` (height, width) pixels of grey or colour, 0 to 255.

    `fit` says what happens to the aspect: ``pad`` keeps it and fills the rest with `background`, ``crop`` keeps it and
    cuts the longer side at both ends, ``stretch`` does not keep it. `background` (red, green, blue) is also what shows
    through transparent parts. Pictures that cannot be read are skipped; if they are more than one and more than the
    share `unreadable` of all, the training does not start. With 0 none may be unreadable.
    """

    model_config = _VALUE
    kind: Literal["images"] = "images"
    path: Path
    size: tuple[PositiveInt, PositiveInt] = (32, 32)
    color: Literal["grey", "rgb"] = "rgb"
    fit: Fit = "pad"
    background: Rgb = (255, 255, 255)
    unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.01


Source = Annotated[CsvFile | ParquetFile | NpzFile | ImageFolder, Field(discriminator="kind")]
