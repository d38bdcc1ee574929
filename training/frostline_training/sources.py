"""Data sources: where a user's own data is, as typed values for a recipe."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

_VALUE = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Task = Literal["single-label", "multi-label", "binary", "regression", "dense", "embedding", "any"]
"""What recipes train for. `frostline_training.publishing.tasks` has those of modules of one's own beside them."""
ONE_CLASS: tuple[Task, ...] = ("single-label", "binary", "embedding")
"""The tasks in which a row has one class: any of several, no or yes, or that of the rows that it is to be near to."""
ColumnKind = Literal["number", "category", "text", "date", "skip"]
DatePart = Literal["year", "month", "day", "weekday", "hour", "minute", "age_days"]
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "?", "-", "null", "NULL", "NaN", "nan")
Fit = Literal["pad", "crop", "stretch"]
_Byte = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[_Byte, _Byte, _Byte]


class DateColumn(BaseModel):
    """A column of dates or times, which becomes several numbers.

    `format` is as in `datetime.strptime`; ``iso`` stands for ISO 8601, such as ``2024-05-31`` or ``2024-05-31 14:05``.
    `parts` are the numbers: month and day count from 1, weekday from 0 (Monday), and `age_days` is how many days come
    between it and `relative_to`; where that is not given, the newest date of the data. Without `parts` they are all
    that the format has, but the minutes of a date. What has an offset is taken in UTC.
    """

    model_config = _VALUE
    format: str = "iso"
    parts: Annotated[tuple[DatePart, ...], Field(min_length=1)] | None = None
    relative_to: datetime | None = None

    @field_validator("format")
    @classmethod
    def _read_what_it_writes(cls, value: str) -> str:
        moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)  # any moment will do; its offset may be written
        try:
            if value != "iso":
                datetime.strptime(moment.strftime(value), value)  # noqa: DTZ007 as above
        except ValueError as error:
            raise ValueError(f"{value!r} is no format of datetime.strptime: {error}") from error
        if "%" not in value and value != "iso":
            raise ValueError(f"{value!r} holds no directive of datetime.strptime, such as %Y-%m-%d")
        return value

    @field_validator("relative_to")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value if value is None or value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


class Reading(BaseModel):
    """How the text of a table is read. The card holds it, so that rows to predict are read alike.

    Attributes:
        separator: What stands between cells; None where each file's header shows it.
        encoding: As Python calls it. A byte order mark of UTF-8 is left out.
        decimal: The decimal separator of numbers.
        thousands: What separates groups of three digits; a space is also a no-break space.
        missing: The cells that have no value, as they are written but for spaces around them.
    """

    model_config = _VALUE
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'", "_"] = ""
    missing: tuple[str, ...] = MISSING

    @field_validator("encoding")
    @classmethod
    def _be_of_text(cls, value: str) -> str:
        try:
            "".encode(value)
        except (LookupError, UnicodeError) as error:
            raise ValueError(
                f"{value!r} is no encoding; there are utf-8, cp1252, latin-1, utf-16 and others"
            ) from error
        return value

    @field_validator("separator")
    @classmethod
    def _separate(cls, value: str | None) -> str | None:
        if value is not None and value in '\r\n"':
            raise ValueError(f"{value!r} cannot separate cells")
        return value

    @model_validator(mode="after")
    def _tell_the_separators_apart(self) -> "Reading":
        if self.decimal == self.thousands:
            raise ValueError(f"{self.decimal!r} cannot be both the decimal and the thousands separator")
        return self


class _Table(BaseModel):
    """Rows with named columns.

    A column whose cells are all numbers is a number, unless one begins with a zero that a number would lose; one of ISO
    dates is a date, and any other a category, unless `columns` says what it is. A text column must be the only one that
    is not skipped. `missing` are the cells that stand for no value.
    """

    model_config = _VALUE
    path: Path
    target: str | tuple[str, ...]
    task: Task = "single-label"
    columns: Mapping[str, ColumnKind | DateColumn] = {}
    missing: tuple[str, ...] = MISSING
    text_bytes: PositiveInt = 256

    @field_validator("task")
    @classmethod
    def _fit_a_table(cls, value: Task) -> Task:
        if value == "dense":
            raise ValueError("a row of a table has no pixels; task='dense' takes an NpzFile or a MaskFolder")
        return value


class CsvFile(_Table):
    """A CSV file with a header line; one that is compressed with gzip is read as it is.

    `target` names the column to predict. With `task` ``binary`` it has two classes, and the network one logit: yes is
    the second class in their order, or the recipe's `positive`. `target` may also name several columns of 0 and 1 with `task` ``multi-label``, one or more columns
    of numbers with ``regression``, or two or more columns of any kind with ``any``: one that is not all numbers, or that
    `columns` calls a category, is a class, and any other a number. What a column holds is inferred, unless `columns` says it. Cells in `missing` have
    no value. Texts are cut to `text_bytes` bytes. `separator`, `encoding`, `decimal` and `thousands` are as in
    `Reading`.
    """

    kind: Literal["csv"] = "csv"
    separator: str | None = None
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'", "_"] = ""

    @model_validator(mode="after")
    def _can_be_read(self) -> "CsvFile":
        _ = self.reading
        return self

    @property
    def reading(self) -> Reading:
        """How its text is read."""
        return Reading(
            separator=self.separator,
            encoding=self.encoding,
            decimal=self.decimal,
            thousands=self.thousands,
            missing=self.missing,
        )


class ParquetFile(_Table):
    """A Parquet file; otherwise as `CsvFile`. It needs the package pyarrow."""

    kind: Literal["parquet"] = "parquet"

    @property
    def reading(self) -> Reading:
        """How its texts are read, and those of a CSV file to predict."""
        return Reading(missing=self.missing)


class NpzFile(BaseModel):
    """Arrays in a NumPy archive: `input` [N, ...], `target` [N] or [N, C], and for padded sequences `lengths` [N].

    Inputs of whole numbers [N, T] are tokens, and 0 pads them on the right; all others are numbers. With `task`
    ``dense`` they are pictures [N, C, H, W], and `target` [N, H, W] is the class of each pixel, a whole number. With ``any``
    there is an array ``target.NAME`` [N] for each of two or more targets: whole numbers or texts are classes, floats numbers.
    `labels` are the names of classes that are whole numbers, from 0 on, or all texts there are, in the order of the classes.
    """

    model_config = _VALUE
    kind: Literal["npz"] = "npz"
    path: Path
    task: Task = "single-label"
    labels: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _tell_the_classes_apart(self) -> "NpzFile":
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be different from each other")
        return self


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
    task: Literal["single-label", "embedding"] = "single-label"
    size: tuple[PositiveInt, PositiveInt] = (32, 32)
    color: Literal["grey", "rgb"] = "rgb"
    fit: Fit = "pad"
    background: Rgb = (255, 255, 255)
    unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.01


class MaskFolder(BaseModel):
    """Pictures in the folder ``images``, and the class of each of their pixels in the folder ``masks``.

    The mask of ``images/street.jpg`` is ``masks/street.png``, a PNG of as many pixels, grey or with a palette, whose
    numbers are classes: 0 is called `labels[0]`. It is brought to `size` as its picture is, but takes the nearest pixel,
    so that no class is mixed of others. `outside` is the class of what ``pad`` adds, the first one unless it is said.
    All else is as in `ImageFolder`.
    """

    model_config = _VALUE
    kind: Literal["masks"] = "masks"
    path: Path
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    size: tuple[PositiveInt, PositiveInt] = (128, 128)
    color: Literal["grey", "rgb"] = "rgb"
    fit: Fit = "pad"
    background: Rgb = (255, 255, 255)
    outside: str | None = None
    unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.01

    @model_validator(mode="after")
    def _know_what_is_outside(self) -> "MaskFolder":
        if self.outside is not None and self.outside not in self.labels:
            raise ValueError(f"outside is {self.outside!r}, and there are the labels: {', '.join(self.labels)}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be different from each other")
        return self


Source = Annotated[CsvFile | ParquetFile | NpzFile | ImageFolder | MaskFolder, Field(discriminator="kind")]
