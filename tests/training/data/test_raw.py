"""Raw rows, as people hold them, become the same numbers as a file of theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import frostline
from frostline_training.data.cells import Cells
from frostline_training.data.raw import Category, Date, Input, Number, RawRows, columns_of, encode
from frostline_training.data.rows import Column, DateOf
from frostline_training.errors import DataError
from frostline_training.sources import Reading

NAN = float("nan")
INPUTS: list[Input] = [
    Number("size"),
    Category("plan", ["basic", "größer"]),
    Date("day", parts=["month", "age_days"], relative_to=datetime(2024, 3, 1)),  # noqa: DTZ001 as dates of tables
]
COLUMNS: dict[str, list[Any]] = {
    "day": ["2024-02-29", None, " 2024-01-31T12:00 "],
    "ignored": [object(), object(), object()],
    "plan": ["größer", "Narnia", " basic "],
    "size": [1.5, None, 3],
}
ENCODED = np.array([[1.5, 2, 2, 1], [NAN, 0, NAN, NAN], [3, 1, 1, 29.5]], np.float32)


@dataclass
class Listed:
    """A column of polars (``to_list``), or one of pyarrow (``to_pylist``)."""

    values: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def to_list(self) -> list[Any]:
        return self.values

    to_pylist = to_list


@dataclass
class Framed:
    """What pandas' and polars' tables have in common."""

    table: Mapping[str, list[Any]]

    @property
    def columns(self) -> list[str]:
        return list(self.table)

    def __getitem__(self, name: str) -> Listed:
        return Listed(self.table[name])


@dataclass
class Arrow:
    """A table of pyarrow: its `columns` have no names."""

    table: Mapping[str, list[Any]]

    @property
    def columns(self) -> list[Listed]:
        return [Listed(values) for values in self.table.values()]

    @property
    def column_names(self) -> list[str]:
        return list(self.table)

    def column(self, name: str) -> Listed:
        return Listed(self.table[name])


@pytest.mark.parametrize(
    "rows",
    [
        COLUMNS,
        {name: np.array(values, object) for name, values in COLUMNS.items()},
        [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)],
        Framed(COLUMNS),
        Arrow(COLUMNS),
        Cells("t.csv", {**COLUMNS, "plan": ["größer", "?", "basic"], "size": ["1.5", "NA", "3"], "day": ["2024-02-29", "", "2024-01-31 12:00"]}, Reading()),
    ],
)  # fmt: skip
def test_rows_are_encoded_alike_whoever_holds_them(rows: RawRows) -> None:
    encoded = encode(rows, INPUTS)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, ENCODED)


def test_the_names_are_those_of_frostline() -> None:
    assert (frostline.encode, frostline.Number, frostline.Category, frostline.Date) == (encode, Number, Category, Date)


class NaTType:
    """As pandas and pyarrow call what is no time."""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 2**24 + 1], np.int64), [1, 2**24]),
        (np.array([0.1, np.nan], np.float32), [np.float32(0.1), NAN]),
        (np.ma.masked_array([1.0, 2.0], [False, True]), [1, NAN]),
        ([True, np.False_], [1, 0]),
        ([np.float16(0.5), np.float32("nan")], [0.5, NAN]),
        ([Decimal("1E+3"), "-2.5e-3"], [1000, np.float32(-0.0025)]),
        ((1e-40, ""), [np.float32(1e-40), NAN]),
    ],
)
def test_numbers_of_every_type_are_float32(values: Any, expected: Sequence[float]) -> None:
    np.testing.assert_array_equal(encode({"x": values}, [Number("x")])[:, 0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    "values",
    [
        ["2024-02-29T23:30:00", None],
        [datetime(2024, 2, 29, 23, 30), NAN],  # noqa: DTZ001 both kinds are dates
        [datetime(2024, 2, 29, 23, 30, tzinfo=UTC), NaTType()],
        np.array(["2024-02-29T23:30", "NaT"], "datetime64[ns]"),
    ],
)
def test_dates_of_every_type_have_their_parts(values: Any) -> None:
    encoded = encode({"d": values}, [Date("d", parts=["day", "hour", "weekday"])])
    np.testing.assert_array_equal(encoded, np.array([[29, 23, 3], [NAN, NAN, NAN]], np.float32))


def test_times_of_arrow_are_read_to_the_microsecond() -> None:
    arrow = pytest.importorskip("pyarrow")
    inputs = [Date("d", parts=["day", "hour"])]
    for zone in (None, "Europe/Berlin"):
        times = arrow.array([1_709_164_800_123_456_789, None], arrow.timestamp("ns", zone))
        for rows in (arrow.table({"d": times}), {"d": times}):
            np.testing.assert_array_equal(encode(rows, inputs), np.array([[29, 0], [NAN, NAN]], np.float32))
    with pytest.raises(DataError, match="the raw rows, column 'd': it holds a value that Python has none for: "):
        encode({"d": arrow.array([10**12], arrow.timestamp("s"))}, inputs)


def test_a_date_is_written_in_the_format_of_its_column() -> None:
    inputs = [Date("d", parts=["month"], format="%d.%m.%y")]
    assert encode({"d": [date(2024, 2, 1), "03.04.24"]}, inputs).tolist() == [[2], [4]]


@pytest.mark.parametrize(
    ("form", "value", "hour"),
    [
        ("%Y-%m-%d %H:%M", datetime(2024, 2, 29, 1, 30, tzinfo=timezone(timedelta(hours=2))), 23),
        ("%Y-%m-%d %H:%M %z", datetime(2024, 2, 29, 1, 30, tzinfo=timezone(timedelta(hours=2))), 23),
        ("%Y-%m-%d %H:%M %z", datetime(2024, 2, 29, 1, 30), 1),  # noqa: DTZ001 it is in UTC
        ("%Y-%m-%d %H:%M", datetime(800, 2, 29, 1, 30), 1),  # noqa: DTZ001 as above
    ],
)
def test_a_time_is_written_in_utc(form: str, value: datetime, hour: float) -> None:
    assert encode({"d": [value]}, [Date("d", parts=["hour"], format=form)]).tolist() == [[hour]]


def test_a_time_without_a_year_in_utc_is_refused_with_its_place() -> None:
    value = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(DataError, match=r"the raw rows, column 'd': .* cannot be written as a date"):
        encode({"d": [value]}, [Date("d")])


def test_whole_numbers_and_yes_or_no_can_be_categories() -> None:
    inputs = [Category("zip", ["10115", "05090"]), Category("ok", ["yes", "no"])]
    rows = {"zip": [5090, np.int32(10115), 10115.0, 7], "ok": [True, False, np.True_, b"no"]}
    assert encode(rows, inputs).tolist() == [[2, 1], [1, 2], [1, 1], [0, 2]]


def test_masked_elements_are_missing() -> None:
    masked = {
        "x": np.ma.masked_array([1.0, 2.0], [False, True]),
        "d": np.ma.masked_array(np.array(["2024-02-29", "2024-03-01"], "datetime64[ns]"), [False, True]),
    }
    encoded = encode(masked, [Number("x"), Date("d", parts=["day"])])
    np.testing.assert_array_equal(encoded, np.array([[1, 29], [NAN, NAN]], np.float32))


def test_a_number_in_another_notation_is_refused_without_a_word_of_files() -> None:
    with pytest.raises(DataError) as refused:
        encode({"x": ["1,5", "2"]}, [Number("x")])
    assert str(refused.value) == (
        "the raw rows, row 1, column 'x': '1,5' is not a number; give a number, or its text with a decimal point and nothing "
        "between the thousands"
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"y": [1]}, "the raw rows have no column 'x'; they have: y"),
        ([{"x": 1}, {"y": 2}], "the raw rows, row 2 has no 'x'; it has: y; give None where it is missing"),
        ([1, 2], "a raw row is int, not a dict"),
        (np.zeros((2, 1)), "the raw rows are ndarray: give a list or array for each column"),
        ({"x": 3}, "column 'x': it is int, not a list or an array"),
        ({"x": "12"}, "column 'x': it is str, not a list or an array"),
        ({"x": []}, "there are no raw rows"),
        ([], "there are no raw rows"),
        ({"x": [1, "two"]}, "the raw rows, row 2, column 'x': 'two' is not a number"),
        ({"x": [1, float("inf")]}, "row 2, column 'x': inf is no finite number of float32"),
        ({"x": [10**400]}, "row 1, column 'x': 1000+ is no finite number of float32"),
        ({"x": [[1], [2]]}, r"column 'x': \[1\] is list, not a number"),
        ({"x": [b"1"]}, "column 'x': b'1' is bytes, not a number"),
        ({"x": [date(2024, 1, 1)]}, "is date, not a number"),
    ],
)
def test_what_are_no_rows_of_numbers_is_refused_with_the_place(rows: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        encode(rows, [Number("x")])


@pytest.mark.parametrize(
    ("one", "value", "sentence"),
    [
        (Category("x", ["a"]), 1.0, "1.0 is float, not a text"),
        (Category("x", ["True"]), False, "False is bool, not a text"),
        (Category("x", ["1", "01"]), 1.5, "1.5 is float, not a text"),
        (Category("x", ["a"]), b"\xff", r"b'\\xff' is bytes, not a text"),
        (Date("x"), 5, "5 is int, not a date or a text"),
        (Date("x"), "31.12.2024", "row 1, column 'x': '31.12.2024' is not an ISO date"),
        (Date("x", format="%d.%m.%Y"), "2024-12-31", "'2024-12-31' is not of the format %d.%m.%Y"),
    ],
)
def test_a_value_of_another_kind_is_refused(one: Input, value: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        encode({"x": [value]}, [one])


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"the raw rows' columns differ in length: {'x': 1, 'y': 2}"):
        encode({"x": [1], "y": [1, 2]}, [Number("x"), Number("y")])


def test_a_table_with_two_columns_of_one_name_is_refused() -> None:
    table = Arrow({"x": [1]})
    table.table = {"x": [1]}
    twice = type("Twice", (Arrow,), {"column_names": property(lambda _: ["x", "x"])})(table.table)
    with pytest.raises(DataError, match="more than one column 'x'"):
        encode(twice, [Number("x")])


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([], "inputs are empty"),
        (["x"], r"inputs\[0\] is str: give Number, Category, Date, Text or Image"),
        ([Number("")], "'' is no name of a column"),
        ([Number("a\0b")], r"'a\\x00b' is no name of a column"),
        ([Number("input")], "a column is called 'input', as the network's own input is"),
        ([Number("x"), Category("x", ["a"])], "two inputs of the network are called 'x'"),
        ([Number("x.year"), Date("x")], "two inputs of the network are called 'x.year'"),
        ([Date("x", parts=["year", "year"])], "two inputs of the network are called 'x.year'"),
        ([Category("x", [])], "the column 'x' has no categories"),
        ([Category("x", "ab")], "the categories of 'x' are one text"),
        ([Category("x", [1])], "the category 1 of 'x' is int, not a text"),  # type: ignore[list-item]
        ([Category("x", ["a", "a"])], "the category 'a' twice"),
        ([Category("x", [" a"])], "cannot have the category ' a'"),
        ([Category("x", [""])], "cannot have the category ''"),
        ([Category("x", ["(unknown)"])], r"cannot have the category '\(unknown\)'"),
        ([Date("x", parts=["age_days"])], "age_days needs relative_to"),
        ([Date("x", parts=["year"], format="%m-%d")], "the format %m-%d has no year"),
        ([Date("x", parts=["century"])], "the date 'x': parts.0: Input should be"),  # type: ignore[list-item]
        ([Date("x", parts=[])], "the date 'x': parts: "),
        ([Date("x", format="never")], "holds no directive"),
    ],
)
def test_inputs_that_cannot_be_are_refused(inputs: list[Input], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        columns_of(inputs)


def test_the_columns_of_a_recipe_are_inputs_too() -> None:
    columns = (
        Column("d.year", date=DateOf("d", "iso", "year")),
        Column("d.day", date=DateOf("d", "iso", "day")),
        Column("x"),
    )
    assert columns_of(columns) == columns
