"""The schema of raw rows: a table's columns, texts or pictures as their users have them, before they are numbers.

A version's card says it, under `rows`: see models/README.md.
"""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from frostline.pictures import MOST_BYTES, MOST_PIXELS, Color, Fit, Form
from frostline_server.errors import LoadError
from frostline_server.runtime.signature import TensorSpec

Split = Literal["words", "spaces", "characters"]
DatePart = Literal["year", "month", "day", "weekday", "hour", "minute", "age_days"]
Share = Annotated[float, Field(ge=0, le=1)]
STATES = "frostline_input_states"
"""The name of the output of states, beside those in the graph."""

MOST_TEXT_BYTES = 1 << 20
"""Longer texts are refused before any of them is decoded."""
MOST_TOKENS = 1 << 16
MOST_WORDS = 1 << 20
MOST_TOKENIZED_BYTES = 1 << 17
"""Likewise of texts for a tokenizer, which takes up to two seconds for a megabyte."""
_Side = Annotated[int, Field(ge=1, le=8192)]
_Byte = Annotated[int, Field(ge=0, le=255)]
MOST_COLUMNS = 2000
"""As many inputs as a request may have."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Column(_Frozen):
    """A column.

    Attributes:
        name: as in the table that the network was trained on.
        share_missing: which share of the training rows had no value.
    """

    name: str = Field(min_length=1, max_length=1000)
    share_missing: Share = 0.0


class Number(_Column):
    """A column of numbers.

    Attributes:
        lowest: the lowest number in training; None where there was none.
        highest: the highest.
        edges: where one bin of the training's distribution ends and the next begins.
        shares: which share of the training's numbers was in each bin.
    """

    kind: Literal["number"]
    lowest: FiniteFloat | None = None
    highest: FiniteFloat | None = None
    edges: tuple[FiniteFloat, ...] = Field((), max_length=100)
    shares: tuple[Share, ...] = ()


class Category(_Column):
    """A column of categories.

    Attributes:
        categories: those that the network knows; it takes their places, from 1, and 0 for others.
        missing: what it takes where there is no value: 0 as for others, or the place behind the categories.
        share_unknown: which share of the training rows had another one.
        shares: which share of the training rows had each.
    """

    kind: Literal["category"]
    categories: tuple[str, ...]
    missing: int = 0
    share_unknown: Share = 0.0
    shares: tuple[Share, ...] = ()


class Part(_Frozen):
    """What a network takes of a date.

    Attributes:
        part: such as the year; a weekday from 0, which is Monday; an age in days.
        relative_to: what an age is measured from; None for other parts.
    """

    part: DatePart
    relative_to: datetime | None = None


class Date(_Column):
    """A column of dates or times.

    Attributes:
        format: ``iso``, or as in Python's `strptime`.
        parts: what the network takes of each, in its order.
        lowest: the first date in training; None where there was none.
        highest: the last.
    """

    kind: Literal["date"]
    format: str = Field("iso", max_length=200)
    parts: tuple[Part, ...] = Field(min_length=1)
    lowest: datetime | None = None
    highest: datetime | None = None


class Text(_Column):
    """A column of texts, of which the network takes the bytes in UTF-8, the words of a vocabulary, or a tokenizer's tokens.

    Longer texts are cut, and shorter ones padded.

    Attributes:
        bytes: how many bytes; padded with 0. None where it takes words or tokens.
        length: how many words or tokens.
        vocabulary: the words that are known, which are numbered from 2; 0 pads, and 1 is any other word. None where it takes
            tokens, which the schema's file makes.
        lowercase: whether words are those of the text in small letters.
        split: what a word is: ``words`` (runs of letters and digits, and each other sign alone), ``spaces`` (what is
            between spaces) or ``characters``.
    """

    kind: Literal["text"]
    bytes: int | None = Field(None, ge=1, le=MOST_TEXT_BYTES)
    length: int | None = Field(None, ge=1, le=MOST_TOKENS)
    vocabulary: tuple[str, ...] | None = Field(None, min_length=1, max_length=MOST_WORDS)
    lowercase: bool = False
    split: Split = "words"

    @property
    def tokenized(self) -> bool:
        """Whether a tokenizer makes what the network takes."""
        return self.bytes is None and self.vocabulary is None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.bytes is None) == (self.length is None):
            raise ValueError("a text has either bytes, or a length in words or tokens")
        if self.bytes is not None and self.vocabulary is not None:
            raise ValueError("a text of which the bytes are taken has no vocabulary")
        return self


class Image(_Column):
    """A column of pictures, each an encoded PNG, JPEG or WebP file or its pixels, of which the network takes the pixels.

    Attributes:
        size: height and width of what each is brought to.
        color: of that.
        fit: what happens to the aspect.
        background: what shows through transparent parts: red, green, blue.
    """

    kind: Literal["image"]
    size: tuple[_Side, _Side]
    color: Color = "rgb"
    fit: Fit = "pad"
    background: tuple[_Byte, _Byte, _Byte] = (255, 255, 255)

    @property
    def form(self) -> Form:
        """What pictures are brought to."""
        return Form(self.size, self.color, self.fit, self.background)


Column = Number | Category | Date | Text | Image


def _most_bytes(column: Column) -> int | None:
    """How long one cell may be; None where nothing but the message bounds it."""
    if isinstance(column, Text):
        return MOST_TOKENIZED_BYTES if column.tokenized else MOST_TEXT_BYTES
    return MOST_BYTES if isinstance(column, Image) else None


class RowSchema(_Frozen):
    """The columns of a table, in the network's order; or a column of texts or of pictures alone.

    Attributes:
        file: what makes the network's input: an ONNX file of a table's columns, a tokenizer's file of a text; None where
            the schema says all.
        missing: texts that stand for no value.
        columns: see `Column`.
        example: a row.
        reading: how training read the text of its tables, for who sends others; the server reads none.
    """

    file: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    missing: tuple[str, ...] = ("",)
    columns: tuple[Annotated[Column, Field(discriminator="kind")], ...] = Field(min_length=1, max_length=MOST_COLUMNS)
    example: dict[str, FiniteFloat | str | None] = Field(default_factory=dict)
    reading: dict[str, str | tuple[str, ...] | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        name, count = Counter(column.name for column in self.columns).most_common(1)[0]
        if count > 1:
            raise ValueError(f"the column {name!r} is there twice")
        alone = next((column for column in self.columns if isinstance(column, Text | Image)), None)
        if alone is not None and len(self.columns) > 1:
            raise ValueError(f"the column {alone.name!r} is a {alone.kind}, and must be the only column")
        encoded = alone is None or (isinstance(alone, Text) and alone.tokenized)
        if (self.file is not None) != encoded:
            raise ValueError("a table and a text with tokens, and nothing else, have a file that encodes them")
        for column in self.columns:
            if isinstance(column, Number) and column.shares and len(column.shares) != len(column.edges) + 1:
                raise ValueError(
                    f"the column {column.name!r} has {len(column.shares)} shares for {len(column.edges)} edges"
                )
            if isinstance(column, Category) and column.missing not in (0, len(column.categories) + 1):
                raise ValueError(
                    f"the column {column.name!r} has {column.missing} for no value, not 0 or {len(column.categories) + 1}"
                )
            if isinstance(column, Category) and column.shares and len(column.shares) != len(column.categories):
                raise ValueError(
                    f"the column {column.name!r} has {len(column.shares)} shares for {len(column.categories)} categories"
                )
            if isinstance(column, Date) and any(
                (part.part == "age_days") != (part.relative_to is not None) for part in column.parts
            ):
                raise ValueError(f"the column {column.name!r}: an age, and only an age, is relative to a date")
        return self

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The columns as inputs: numbers FP64, and texts, one for each row."""
        return tuple(
            TensorSpec(column.name, "FP64", np.dtype("<f8"), ())
            if isinstance(column, Number)
            else TensorSpec(
                column.name,
                "BYTES",
                np.dtype(object),
                (),
                binary=isinstance(column, Image),
                most_bytes=_most_bytes(column),
                most_pixels=MOST_PIXELS if isinstance(column, Image) else None,
            )
            for column in self.columns
        )

    @property
    def encoding(self) -> object:
        """What the network's numbers mean: equal for two schemas if equal numbers are the same cells to both."""
        return [
            (
                column.name,
                getattr(column, "categories", ()),
                getattr(column, "missing", 0),
                getattr(column, "format", ""),
                getattr(column, "parts", ()),
                (column.bytes, column.length, column.vocabulary, column.lowercase, column.split)
                if isinstance(column, Text)
                else (),
                getattr(column, "form", None),
            )
            for column in self.columns
        ]

    @property
    def states(self) -> TensorSpec:
        """The output that says what each cell of raw rows is to training: see `row_encoder.KNOWN`."""
        return TensorSpec(STATES, "UINT8", np.dtype(np.uint8), (len(self.columns),), alias="input_states")

    def to_json(self) -> str:
        """The schema as clients read it: with the types that are taken for pictures, without a vocabulary, which may be long."""
        told = self.model_dump(mode="json", exclude={"file"}, exclude_none=True)
        for column in told["columns"]:
            if column["kind"] == "text":
                for key in ("vocabulary", *(("lowercase", "split") if column.get("vocabulary") is None else ())):
                    column.pop(key, None)
            if column["kind"] == "image":
                column["datatypes"] = ["BYTES", "UINT8"]
        return json.dumps(told, ensure_ascii=False, allow_nan=False)


def read_schema(card: Mapping[str, Any]) -> RowSchema | None:
    """The schema that a card says; None where it says none.

    Raises:
        LoadError: it is none.
    """
    told = card.get("rows")
    if told is None:
        return None
    try:
        return RowSchema.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("rows", *first["loc"])))
        raise LoadError(f"card.json: {place}: {first['msg']}") from None
