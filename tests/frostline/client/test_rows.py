"""Raw rows as people hold them become the columns of a model, or are refused by column and row."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline.client import rows
from frostline.client.errors import InvalidInput
from frostline.client.schema import Column, Schema

NOTHING: Any = type("NAType", (), {})()  # as pandas' NA
NOT_A_TIME: Any = type("NaTType", (), {})()


def schema(*columns: Column, missing: tuple[str, ...] = ("", "NA")) -> Schema:
    return Schema("m", "1", columns=columns, missing=missing)


def number(name: str = "n", share_missing: float = 0.0) -> Column:
    return Column(name, "number", share_missing=share_missing)


def category(*categories: str) -> Column:
    return Column("c", "category", categories)


def dated(form: str = "iso") -> Column:
    return Column("d", "date", format=form)


def cells(column: Column, *values: Any, missing: tuple[str, ...] = ("", "NA")) -> list[Any]:
    """What is sent of a column's values: the same as dicts, as a list and as an array of objects."""
    array = np.empty(len(values), object)
    array[:] = values
    told = schema(column, missing=missing)
    every = [
        list(rows.encoded(held, told)[column.name].tolist())
        for held in ([{column.name: value} for value in values], {column.name: list(values)}, {column.name: array})
    ]
    np.testing.assert_equal(every[1:], every[:1] * 2)
    return every[0]


def refused(column: Column, value: Any) -> str:
    with pytest.raises(InvalidInput) as refusal:
        cells(column, None, value)
    return str(refusal.value)


# Numbers


def test_all_kinds_of_numbers_are_numbers() -> None:
    given = [1, 2.5, True, Decimal("0.1"), np.float16(0.5), np.int8(-3), np.bool_(False), np.uint64(2**64 - 1)]
    assert cells(number(), *given) == [1, 2.5, 1, 0.1, 0.5, -3, 0, 2.0**64]


@pytest.mark.parametrize("missing", [None, math.nan, np.float32("nan"), Decimal("nan"), NOTHING, NOT_A_TIME])
def test_a_number_may_be_missing(missing: Any) -> None:
    assert np.isnan(cells(number(), 1, missing)[1])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("12", "column 'n', row 1: a number is expected, but it is '12' (str); convert it: float('12')"),
        (
            "gold",
            "column 'n', row 1: a number is expected, but it is 'gold' (str); give a number, or None where it is missing",
        ),
        (
            "1.234,5",
            "column 'n', row 1: a number is expected, but it is '1.234,5' (str); give a number, or None where it is missing",
        ),
        (b"1", "column 'n', row 1: a number is expected, but it is b'1' (bytes)"),
        (1j, "column 'n', row 1: a number is expected, but it is 1j (complex)"),
        (
            np.timedelta64(1, "D"),
            "column 'n', row 1: a number is expected, but it is np.timedelta64(1,'D') (timedelta64)",
        ),
        (date(2024, 1, 1), "column 'n', row 1: a number is expected, but it is datetime.date(2024, 1, 1) (date)"),
        (math.inf, "column 'n', row 1: inf is no finite number of float32 (at most 3.4e38)"),
        (-1e39, "column 'n', row 1: -1e+39 is no finite number of float32 (at most 3.4e38)"),
        (10**400, "column 'n', row 1: inf is no finite number of float32 (at most 3.4e38)"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, sentence: str) -> None:
    assert refused(number(), value).startswith(sentence)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">f4", "f2", "g"])
def test_an_array_of_numbers_is_a_column(dtype: str) -> None:
    for shape in ((2,), (2, 1)):
        array = np.array([0, 1]).astype(dtype).reshape(shape)
        [sent] = rows.encoded({"n": array}, schema(number())).values()
        assert (sent.dtype.str, sent.tolist()) == ("<f8", [0, 1])


def test_masked_elements_are_missing() -> None:
    array = np.ma.masked_array([1, 2], [False, True])
    np.testing.assert_equal(rows.encoded({"n": array}, schema(number()))["n"], [1, np.nan])


# Categories


def test_bytes_are_the_text_that_training_reads_in_them() -> None:
    assert cells(category("é"), "é".encode(), b"a") == ["é", "a"]
    with pytest.raises(InvalidInput, match="the text of a category is expected, but it is"):
        cells(category("a"), b"\xff")


def test_a_category_is_sent_as_it_is() -> None:
    assert cells(category("a"), "a", " a ", "zoë 🙂", "a\0b", np.str_("b"), "") == [
        "a",
        " a ",
        "zoë 🙂",
        "a\0b",
        "b",
        "",
    ]


@pytest.mark.parametrize("missing", [None, math.nan, np.float64("nan"), NOTHING, NOT_A_TIME])
def test_a_missing_category_is_a_word_for_no_value(missing: Any) -> None:
    assert cells(category("a"), "a", missing) == ["a", ""]
    assert cells(category("a"), missing, missing=("?", "NA")) == ["?"]


@pytest.mark.parametrize(
    ("categories", "value", "sent"),
    [
        (("False", "True"), True, "True"),
        (("no", "yes"), True, "yes"),
        (("no", "yes"), np.bool_(False), "no"),
        (("TRUE", "FALSE"), False, "FALSE"),
        (("True", "yes"), True, "True"),
        (("1", "2"), 2, "2"),
        (("1", "2"), np.int16(2), "2"),
        (("1", "2"), 2.0, "2"),
        (("05090", "10115"), 5090, "05090"),
        (("3.0", "4.0"), 3, "3.0"),
        (("1", "2"), 7, "7"),
        (("1", "basic"), 1, "1"),
    ],
)
def test_numbers_and_truth_values_are_the_categories_that_training_saw(
    categories: tuple[str, ...], value: Any, sent: str
) -> None:
    assert cells(category(*categories), value) == [sent]


@pytest.mark.parametrize(
    ("categories", "value", "told"),
    [
        (("true", "yes"), True, "True (bool)"),
        (("basic", "pro"), True, "True (bool)"),
        (("basic", "pro"), 3, "3 (int)"),
        (("1", "01"), 1.5, "1.5 (float)"),
        (("05", "005"), 5, "5 (int)"),
        (("basic", "pro"), b"\xff", r"b'\xff' (bytes)"),
    ],
)
def test_what_is_no_category_for_sure_is_refused(categories: tuple[str, ...], value: Any, told: str) -> None:
    known = ", ".join(map(repr, categories))
    assert refused(category(*categories), value) == (
        f"column 'c', row 1: the text of a category is expected, but it is {told}; the model knows {known}"
    )


def test_of_many_categories_a_few_are_listed() -> None:
    assert refused(category(*"abcdefghijk"), 1).endswith(
        "the model knows 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 3 more"
    )


def test_half_a_character_is_refused() -> None:
    assert refused(category("a"), "a\ud800") == (
        "column 'c', row 1: 'a\\ud800' has half of a surrogate pair, which is no character"
    )


# Dates


class Stamp(datetime):
    """As pandas' Timestamp, which has nanoseconds."""

    def isoformat(self, *_: Any) -> str:
        return super().isoformat() + ".000000001"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("2024-05-31", "2024-05-31"),
        (date(2024, 2, 29), "2024-02-29"),
        (date(1, 1, 1), "0001-01-01"),
        (datetime(2024, 5, 31, 14, 5), "2024-05-31T14:05:00"),  # noqa: DTZ001  as tables have it
        (datetime(2024, 5, 31, 14, 5, 6, 7, tzinfo=UTC), "2024-05-31T14:05:06.000007+00:00"),
        (datetime(2024, 5, 31, 1, tzinfo=timezone(timedelta(hours=2))), "2024-05-30T23:00:00+00:00"),
        (Stamp(2024, 5, 31), "2024-05-31T00:00:00"),
        (np.datetime64("2024-05-31"), "2024-05-31T00:00:00"),
        (np.datetime64("2024-05-31T01:02:03.123456789"), "2024-05-31T01:02:03.123456"),
        (None, ""),
        (np.datetime64("NaT"), ""),
        (NOT_A_TIME, ""),
        (math.nan, ""),
    ],
)
def test_dates_are_sent_in_iso(value: Any, sent: str) -> None:
    assert cells(dated(), value) == [sent]


@pytest.mark.parametrize(
    ("form", "value", "sent"),
    [
        ("%d.%m.%Y", date(2024, 5, 31), "31.05.2024"),
        ("%d.%m.%Y", datetime(7, 5, 31, 23), "31.05.0007"),  # noqa: DTZ001  as tables have it
        ("%Y %%Y", date(2024, 5, 31), "2024 %Y"),
        ("%Y-%m-%d %H:%M %z", datetime(2024, 5, 31, 1, tzinfo=timezone(timedelta(hours=2))), "2024-05-30 23:00 +0000"),
        ("%Y-%m-%d %H:%M %z", datetime(2024, 5, 31, 1), "2024-05-31 01:00 +0000"),  # noqa: DTZ001  it is in UTC
        ("%Y-%m-%d %z", date(2024, 5, 31), "2024-05-31 +0000"),
        ("%Y-%m-%d %H", datetime(2024, 5, 31, 1, tzinfo=timezone(timedelta(hours=2))), "2024-05-30 23"),
        ("%d/%m/%Y", "31/05/2024", "31/05/2024"),
    ],
)
def test_dates_are_sent_in_the_format_of_training(form: str, value: Any, sent: str) -> None:
    assert cells(dated(form), value) == [sent]


def test_arrays_of_dates_are_columns() -> None:
    array = np.array(["2024-05-31", "NaT"], "datetime64[ns]")
    assert rows.encoded({"d": array}, schema(dated()))["d"].tolist() == ["2024-05-31T00:00:00", ""]


@pytest.mark.parametrize(
    ("zone", "sent"), [(None, "2024-02-29T00:00:00.123456"), ("Europe/Berlin", "2024-02-29T00:00:00.123456+00:00")]
)
def test_times_of_arrow_are_sent_to_the_microsecond(zone: str | None, sent: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    times = arrow.array([1_709_164_800_123_456_789, None], arrow.timestamp("ns", zone))
    for held in (arrow.table({"d": times}), {"d": times}, {"d": arrow.chunked_array([times])}):
        assert rows.encoded(held, schema(dated()))["d"].tolist() == [sent, ""]


def test_a_time_of_arrow_that_python_does_not_reach_is_refused_with_its_column() -> None:
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(InvalidInput, match="column 'd' holds a value that Python has none for: "):
        rows.encoded({"d": arrow.array([10**12], arrow.timestamp("s"))}, schema(dated()))


def test_what_is_no_date_is_refused() -> None:
    assert refused(dated(), 5) == (
        "column 'd', row 1: a date is expected, but it is 5 (int); give a datetime, a date, or the text of an ISO date"
    )
    assert refused(dated("%Y"), 5.5).endswith("or the text of a date of the format %Y")
    assert "is expected, but it is np.datetime64('200000-01-01') (datetime64)" in refused(
        dated(), np.datetime64("200000-01-01")
    )
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert "cannot be written as a date of the format iso" in refused(dated(), early)


# Rows and columns

TWO = schema(number(), category("a", "b"))


class Frame:
    """A table of two columns as pandas has them."""

    columns = ("c", "n")

    def __getitem__(self, name: str) -> Any:
        return {"n": np.array([1.0, np.nan]), "c": np.array(["a", None], object)}[name]


class Series(list[Any]):
    """A column of polars."""

    to_list = list[Any].copy


class Chunked:
    """A column of pyarrow."""

    def __len__(self) -> int:
        return 2

    def to_pylist(self) -> list[Any]:
        return ["a", None]


class Arrow:
    """A table of pyarrow, whose `columns` are no names."""

    column_names = ("c", "n")
    columns = (Chunked(), Series([1.0, None]))

    def __getitem__(self, name: str) -> Any:
        return dict(zip(self.column_names, self.columns, strict=True))[name]


@pytest.mark.parametrize(
    "given",
    [
        [{"n": 1, "c": "a"}, {"c": None, "n": None}],
        [{"n": 1, "c": "a"}, {"n": None}],
        ({"n": 1, "c": "a"}, {"c": math.nan}),
        {"c": ["a", None], "n": (1, None)},
        {"c": np.array(["a", ""]), "n": np.array([[1], [np.nan]], np.float32)},
        Frame(),
        Arrow(),
    ],
)
def test_rows_may_be_dicts_columns_or_tables(given: Any) -> None:
    sent = rows.encoded(given, TWO)
    np.testing.assert_equal(sent["n"], [1, np.nan])
    assert sent["c"].tolist() == ["a", ""]
    assert list(sent) == ["n", "c"]


def test_a_dict_of_single_values_is_one_row() -> None:
    sent = rows.encoded({"c": "ab", "n": np.float32(2)}, TWO)
    assert (sent["n"].tolist(), sent["c"].tolist()) == ([2], ["ab"])
    with pytest.raises(InvalidInput, match=r"^column 'n': a number is expected"):
        rows.encoded({"c": "a", "n": "2"}, TWO)


@pytest.mark.parametrize("make", [lambda: {"c": ["a"]}, lambda: [{"c": "a"}], lambda: {"c": "a"}])
def test_a_column_that_is_not_there_is_missing_if_it_was_missing_in_training(make: Callable[[], Any]) -> None:
    sent = rows.encoded(make(), schema(number(share_missing=0.1), category("a")))
    np.testing.assert_equal(sent["n"], [np.nan])
    with pytest.raises(
        InvalidInput, match=r"no column 'n', and no row of the training lacked a value there; m expects"
    ):
        rows.encoded(make(), TWO)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"n": 1, "c": "a"}, {"n": 1, "c": "a", "x": 1}], "row 1 has 'x', and m expects only the columns n, c; leave out the others, or say extra='ignore'"),
        ({"n": 1, "c": "a", "x": 1, 2: 3}, "the row has 'x', 2, and m expects only the columns n, c; leave out the others, or say extra='ignore'"),
        ([{"n": 1, "c": "a"}, 5], "row 1 is 5 (int), and rows before it are dicts; give a dict for each row"),
        ({"n": [1, 2], "c": ["a"]}, "the columns have different numbers of rows: n has 2, c has 1"),
        ({"n": [1], "c": "a"}, "column 'c' is 'a' (str) beside columns with a value for each row; give a list or an array, or a dict for each row"),
        ({"n": np.zeros((2, 2)), "c": ["a", "b"]}, "column 'n' is an array of shape [2, 2]; a column has one value for each row"),
        ({"n": {1, 2}, "c": ["a", "b"]}, "column 'n' is a set, which has no order that its rows could have; give a list"),
        ({"n": [1], "c": frozenset("a")}, "column 'c' is a set, which has no order that its rows could have; give a list"),
        ({"n": {1: 1}.items() & {(1, 1)}, "c": "a"}, "column 'n' is a set, which has no order"),
        ({"n": {"x": 1}, "c": ["a"]}, "column 'n' is {'x': 1} (dict) beside columns with a value for each row"),
        ({"n": [], "c": []}, "there are no rows; m expects rows with the columns n, c"),
        ({}, "the row has no columns 'n', 'c', and no row of the training lacked a value there"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        rows.encoded(given, TWO)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{}, {}], "row 0 has none of the columns of m: n, c. Give None where a value is missing"),
        ([{"n": 1, "c": "a"}, {"N": 1}], "row 1 has none of the columns of m: n, c; there is 'N'. Give None"),
        ({}, "the row has none of the columns of m: n, c. Give None"),
        ({"x": 1, "y": 2}, "the row has none of the columns of m: n, c; there is 'x', 'y'. Give None"),
        ({"x": [1, 2]}, "the row has none of the columns of m: n, c; there is 'x'. Give None"),
        (
            type("Strange", (Frame,), {"columns": ("x",)})(),
            "the table has none of the columns of m: n, c; there is 'x'",
        ),
    ],
)
def test_what_has_no_column_of_the_model_is_no_row_where_all_is_missing(given: Any, sentence: str) -> None:
    told = schema(number(share_missing=0.5), Column("c", "category", ("a",), share_missing=0.5))
    with pytest.raises(InvalidInput) as refusal:
        rows.encoded(given, told, "ignore")
    assert str(refusal.value).startswith(sentence)


def test_the_keys_of_a_dict_have_an_order() -> None:
    held = {2: "b", 1: "a"}
    sent = rows.encoded({"n": held.keys(), "c": held.values()}, TWO)
    assert (sent["n"].tolist(), sent["c"].tolist()) == ([2, 1], ["b", "a"])


class ZeroD:
    """An array without axes, as PyTorch has them: it has a length, and refuses to tell it."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self._value = value

    def __len__(self) -> int:
        raise TypeError("len() of a 0-d tensor")

    def tolist(self) -> Any:
        return self._value


@pytest.mark.parametrize("held", [np.array, ZeroD])
def test_an_array_without_axes_is_the_value_that_it_holds(held: Callable[[Any], Any]) -> None:
    for each in ({"n": held(1.5), "c": held("a")}, [{"n": held(1.5), "c": "a"}], {"n": [held(1.5)], "c": ["a"]}):
        sent = rows.encoded(each, TWO)
        assert (sent["n"].tolist(), sent["c"].tolist()) == ([1.5], ["a"])
    assert np.isnan(rows.encoded({"n": np.ma.masked, "c": "a"}, TWO)["n"]).all()


@pytest.mark.parametrize(
    "held", [np.array("2024-01-02"), np.array("2024-01-02", "M8[D]"), np.array("2024-01-02", "M8[ns]")]
)
def test_a_date_in_an_array_without_axes_is_that_date(held: Any) -> None:
    sent = rows.encoded([{"d": held}], schema(Column("d", "date", format="iso")))
    assert sent["d"].tolist()[0].startswith("2024-01-02")


def test_extra_columns_can_be_ignored() -> None:
    for held in ([{"n": 1, "c": "a", "x": 1}], {"n": [1], "c": ["a"], "x": ["?"]}, {"n": 1, "c": "a", "x": [1, 2]}):
        assert rows.encoded(held, TWO, "ignore")["n"].tolist() == [1]
    unheard: Any = "drop"
    with pytest.raises(ValueError, match="extra is 'drop'; it may be 'refuse' or 'ignore'"):
        rows.encoded({"n": 1, "c": "a"}, TWO, unheard)


def test_a_column_of_an_unknown_kind_asks_for_a_newer_client() -> None:
    with pytest.raises(InvalidInput, match=r"does not know \(kind 9\); install a newer version of frostline"):
        rows.encoded({"x": 1}, schema(Column("x", "kind 9")))


def test_a_table_with_two_columns_of_a_name_and_a_query_are_refused() -> None:
    twice: Any = type("Twice", (Frame,), {"columns": ("n", "c", "n")})()
    with pytest.raises(InvalidInput, match="the table has several columns 'n'"):
        rows.encoded(twice, TWO)
    lazy: Any = type("Lazy", (Frame,), {"collect": None})()
    with pytest.raises(InvalidInput, match=r"give its result: \.collect\(\)\. m expects rows with the columns n, c"):
        rows.encoded(lazy, TWO)


# Any rows

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=4), st.dates(),
    st.datetimes(), st.datetimes(timezones=st.timezones()), st.decimals(), st.just(NOTHING), st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys("ncd", VALUES)), min_size=1, max_size=4))
@example([{"n": Decimal("sNaN"), "c": "a", "d": None}])
def test_any_rows_are_sent_or_refused_with_a_column(given: list[dict[str, Any]]) -> None:
    told = schema(number(share_missing=0.1), category("a", "1"), dated("%Y-%m-%d"))
    try:
        sent = rows.encoded(given, told)
    except InvalidInput as error:
        assert "column" in str(error)  # noqa: PT017  either is right
        return
    assert [array.dtype.kind for array in sent.values()] == ["f", "O", "O"]
    assert {len(array) for array in sent.values()} == {len(given)}
    assert np.isfinite(sent["n"][~np.isnan(sent["n"])]).all()
    assert all(isinstance(text, str) for name in "cd" for text in sent[name])
