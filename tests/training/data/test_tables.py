"""Users' tables: every cell is read as its writer meant it, or refused with the place and the remedy."""

import gzip
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from frostline_training import data
from frostline_training.data import Array, Dataset
from frostline_training.data.cells import Cells
from frostline_training.data.encoding import encode, from_card
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, DateColumn, Reading
from tests.support.training.datasets import only_input

NAN = float("nan")


def _load(folder: Path, content: str | bytes, /, **options: object) -> Dataset:
    path = folder / str(options.pop("name", "t.csv"))
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return data.load(CsvFile.model_validate({"path": path, "target": "y", **options}))


def _column(folder: Path, cells: Sequence[str], **options: object) -> Array:
    """Return column ``x``, whose cells are written in quotes, after it was read."""
    content = "x,y\n" + "".join(f'"{cell}",{"uv"[index % 2]}\n' for index, cell in enumerate(cells))
    return only_input(_load(folder, content, **options))[:, 0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_shows_what_separates_the_cells(tmp_path: Path, separator: str) -> None:
    dataset = _load(tmp_path, "a,b,y\n1,2,u\n3,4,v\n".replace(",", separator))
    assert only_input(dataset).tolist() == [[1, 2], [3, 4]]


def test_a_decimal_comma_is_no_separator(tmp_path: Path) -> None:
    dataset = _load(tmp_path, "a;b;y\n1,5;2,25;u\n3,0;-4,5e1;v\n", decimal=",")
    assert only_input(dataset).tolist() == [[1.5, 2.25], [3, -45]]


def test_a_separator_within_quotes_separates_nothing(tmp_path: Path) -> None:
    assert _load(tmp_path, '"a;b",y\n1,u\n2,v\n').columns[0].name == "a;b"


def test_two_separators_that_both_fit_are_refused_until_one_is_said(tmp_path: Path) -> None:
    content = "day;price, net;y\n1;2,5;u\n2;3,5;v\n"
    with pytest.raises(DataError, match="either ',' or ';' may separate the cells; say separator=',' in CsvFile"):
        _load(tmp_path, content)
    assert only_input(_load(tmp_path, content, separator=";", decimal=",")).tolist() == [[1, 2.5], [2, 3.5]]


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "utf-8-sig"), ("u8", "utf-8-sig"), ("cp1252", "cp1252"), ("utf-16", "utf-16")],
)
def test_the_encoding_can_be_said_and_a_byte_order_mark_is_none_of_the_name(
    tmp_path: Path, encoding: str, written: str
) -> None:
    dataset = _load(tmp_path, "größe,y\n1,für\n2,wider\n".encode(written), encoding=encoding)
    assert (dataset.columns[0].name, dataset.labels) == ("größe", ("für", "wider"))


def test_a_byte_order_mark_is_none_of_the_name_in_an_encoding_without_one(tmp_path: Path) -> None:
    content = "\ufeffx,y\n1,u\n2,v\n".encode("utf-16-le")
    assert _load(tmp_path, content, encoding="utf-16-le").columns[0].name == "x"


@pytest.mark.parametrize("hint", ["sep=;\n", '"SEP=;"\r\n', "\ufeffsep=;\r"])
def test_a_first_line_of_excels_says_what_separates_the_cells(tmp_path: Path, hint: str) -> None:
    dataset = _load(tmp_path, hint + "a;b,c;y\n1;2;u\n3;4;v\n")
    assert [column.name for column in dataset.columns] == ["a", "b,c"]
    with pytest.raises(DataError, match=r"row 2 \(line 4\), column 'a': 'red' is not a number"):
        _load(tmp_path, hint + "a;y\n1;u\nred;v\n", columns={"a": "number"}, separator=";")


def test_a_line_of_blanks_is_an_empty_one(tmp_path: Path) -> None:
    assert only_input(_load(tmp_path, "x,y\n1,u\n  \n2,v\n\t \n")).tolist() == [[1], [2]]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv"])
def test_a_compressed_file_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    assert only_input(_load(tmp_path, gzip.compress(b"x,y\n1,u\n2,v\n", mtime=0), name=name)).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (
            "x,y\nä,1\n".encode("latin-1"),
            {},
            't.csv, line 2: byte 0xe4 (number 5 of the file) is not utf-8; say encoding="cp1252" in CsvFile',
        ),
        (b"\xef\xbb\xbfx,y\n1,\xff\n", {}, "line 2: byte 0xff (number 10 of the file) is not utf-8"),
        (
            "x,y\n1,2\n".encode("utf-16"),
            {},
            'line 1: byte 0xff (number 1 of the file) is not utf-8; say encoding="utf-16"',
        ),
        (b"x,y\n1,\x81\n", {"encoding": "cp1252"}, "byte 0x81 (number 7 of the file) is not cp1252; say its encoding"),
        (gzip.compress(b"x,y\n1,u\n", mtime=0)[:-9], {}, "t.csv is damaged: gzip cannot unpack it"),
    ],
)
def test_bytes_that_cannot_be_read_are_refused_with_the_byte_and_the_remedy(
    tmp_path: Path, content: bytes, options: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(DataError) as refusal:
        _load(tmp_path, content, **options)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("cells", "options", "values"),
    [
        (["1.234,56", "-7,5", "1234"], {"decimal": ",", "thousands": "."}, [1234.56, -7.5, 1234]),
        (["1,234.5", "1,234,567", ".5"], {"thousands": ","}, [1234.5, 1234567, 0.5]),
        (["1 234,5", "1\u00a0234", "1\u202f000"], {"decimal": ",", "thousands": " "}, [1234.5, 1234, 1000]),
        (["0", "-0,5", "+0", "-1.234"], {"decimal": ",", "thousands": "."}, [0, -0.5, 0, -1234]),
        (["+1e3", "2.", " 3 ", "0", "0.5", "-0.25"], {}, [1000, 2, 3, 0, 0.5, -0.25]),
    ],
)
def test_numbers_are_read_in_the_notation_that_is_said(
    tmp_path: Path, cells: Sequence[str], options: Mapping[str, object], values: Sequence[float]
) -> None:
    assert _column(tmp_path, cells, **options).tolist() == np.array(values, np.float32).tolist()


@pytest.mark.parametrize(
    ("cells", "options", "sentence"),
    [
        (["1.234,56", "7,5"], {}, "row 1 (line 2), column 'x': '1.234,56' is not a number; say decimal=\",\""),
        (["1.234", "1.234,56"], {}, "row 2 (line 3), column 'x': '1.234,56' is not a number; say decimal=\",\""),
        (["1_000", "2"], {}, "row 1 (line 2), column 'x': '1_000' is not a number"),
        (["1 000", "2 000"], {}, "'1 000' is not a number"),
        (
            ["1.5", "2,5"],
            {"decimal": ",", "columns": {"x": "number"}},
            "row 1 (line 2), column 'x': '1.5' is not a number; the source says decimal=',' and thousands=''",
        ),
        (["1.23.4"] * 2, {"decimal": ",", "thousands": ".", "columns": {"x": "number"}}, "'1.23.4' is not a number"),
        *(
            ([cell, "1,5"], {"decimal": ",", "thousands": "."}, f"row 1 (line 2), column 'x': {cell!r} is not a number")
            for cell in ("0.500", "-0.500", "000.500", "01.500")  # not 500 and 1500
        ),
        (["1", "inf"], {}, "t.csv, row 2 (line 3), column 'x': inf is no finite number of float32"),
        (["1", "-Infinity"], {}, "row 2 (line 3), column 'x': -Infinity is no finite number"),
        (["1e39", "1"], {}, "row 1 (line 2), column 'x': 1e39 is no finite number of float32 (at most 3.4e38)"),
        (["1", "NAN"], {}, "row 2 (line 3), column 'x': NAN is no finite number"),
    ],
)
def test_a_number_in_another_notation_is_refused_and_never_misread(
    tmp_path: Path, cells: Sequence[str], options: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(DataError) as refusal:
        _column(tmp_path, cells, **options)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("cells", [["01.02.2024", "03.04.2024"], ["192.168.0.1", "10.0.0.1"], ["1.2.3", "1.10.0"]])
def test_what_only_has_digits_and_points_is_a_category(tmp_path: Path, cells: Sequence[str]) -> None:
    assert sorted(_column(tmp_path, cells).tolist()) == [1, 2]


def test_one_cell_that_is_no_date_among_many_is_refused_with_the_place(tmp_path: Path) -> None:
    cells = [*(f"2024-01-{day:02}" for day in range(1, 21)), "2024-13-01"]
    with pytest.raises(DataError, match=r"row 21 \(line 22\), column 'x': '2024-13-01' is not an ISO date, unlike 20"):
        _column(tmp_path, cells)


def test_cells_that_only_look_like_numbers_can_be_a_category(tmp_path: Path) -> None:
    assert _column(tmp_path, ["1,2", "3,4"], columns={"x": "category"}).tolist() == [1, 2]


def test_the_words_for_no_value_are_none(tmp_path: Path) -> None:
    words = ["", " ", "NA", "N/A", "n/a", "#N/A", "?", "-", "null", "NULL", "NaN", "nan"]
    np.testing.assert_array_equal(_column(tmp_path, ["1", *words]), [1, *[NAN] * 12])
    assert _column(tmp_path, ["red", *words]).tolist() == [1, *[2] * 12]
    np.testing.assert_array_equal(_column(tmp_path, ["1", "none", "2"], missing=("none",)), [1, NAN, 2])


def test_a_class_that_is_a_word_for_no_value_is_refused_with_the_word(tmp_path: Path) -> None:
    content = "x,y\n1,+\n2,-\n"
    with pytest.raises(
        DataError, match=r"row 2 \(line 3\), column 'y': the target is missing: '-' stands for no value"
    ):
        _load(tmp_path, content)
    assert _load(tmp_path, content, missing=("",)).labels == ("+", "-")


def test_leading_zeros_make_a_column_of_texts(tmp_path: Path) -> None:
    dataset = _load(tmp_path, "zip,y\n05090,u\n51929,v\n5090,v\n")
    assert dataset.columns[0].categories == ("(unknown)", "05090", "5090", "51929")
    assert _column(tmp_path, ["05090", "51929"], columns={"x": "number"}).tolist() == [5090, 51929]
    with pytest.raises(DataError, match=r"holds 101 different texts, such as '0007' \(a number would lose the zero"):
        _column(tmp_path, ["0007", *(str(1000 + index) for index in range(100))])


@pytest.mark.parametrize(("missing", "last"), [(0, "red"), (1, "red"), (2, "(missing)")])
def test_a_missing_category_has_a_number_of_its_own_where_one_cell_in_a_hundred_is(
    tmp_path: Path, missing: int, last: str
) -> None:
    colours = ["blue", "red"] * 100
    rows = "".join(f"{colour},{'uv'[index % 2]}\n" for index, colour in enumerate([*[""] * missing, *colours][:200]))
    dataset = _load(tmp_path, f"colour,y\n{rows}")
    (column,) = dataset.columns
    assert (column.categories or ())[-1] == last
    assert column.known == ("blue", "red")
    cells = Cells("new.csv", {"colour": [None, "", "NA", "red", "green"]}, Reading())
    absent = 3 if last == "(missing)" else 0
    assert encode(cells, [column])[:, 0].tolist() == [absent, absent, absent, 2, 0]


def test_a_category_called_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"column 'x': '\(missing\)' stands for a cell without a value; add it to missing"
    ):
        _column(tmp_path, ["red", "(missing)"])


def test_a_category_called_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 2 \(line 3\), column 'x': '\(unknown\)' stands for every unknown category"
    ):
        _column(tmp_path, ["red", "(unknown)"])


def test_a_column_without_a_name_is_refused_or_skipped(tmp_path: Path) -> None:
    content = ",x,y\n0,5,u\n1,6,v\n"
    with pytest.raises(DataError, match="a column has no name; name it, or skip it"):
        _load(tmp_path, content)
    assert only_input(_load(tmp_path, content, columns={"": "skip"})).tolist() == [[5], [6]]


def test_lines_are_those_of_the_file_where_cells_have_several_and_lines_are_empty(tmp_path: Path) -> None:
    content = 'x,note,y\n\n1,"two\nlines",u\n2,n,v\n\nred,n,v\n'
    with pytest.raises(DataError, match=r"row 3 \(line 7\), column 'x': 'red' is not a number"):
        _load(tmp_path, content, columns={"x": "number"})


def test_iso_dates_become_their_parts_and_an_age(tmp_path: Path) -> None:
    dataset = _load(tmp_path, "d,y\n2024-02-29,u\n2023-12-31,v\n,v\n")
    assert [column.name for column in dataset.columns] == ["d.year", "d.month", "d.day", "d.weekday", "d.age_days"]
    # Thursday and Sunday; from New Year's Eve to 29 February are 60 days.
    np.testing.assert_array_equal(only_input(dataset), [[2024, 2, 29, 3, 0], [2023, 12, 31, 6, 60], [NAN] * 5])
    assert dataset.send.endswith("d.age_days (a number, days until 2024-02-29, NaN where the date is missing)")


def test_the_newest_date_of_all_columns_is_what_ages_count_from(tmp_path: Path) -> None:
    dataset = _load(tmp_path, "a,b,y\n2024-01-01,2024-01-03,u\n2024-01-02,2024-01-11,v\n")
    ages = [index for index, column in enumerate(dataset.columns) if column.name.endswith("age_days")]
    assert only_input(dataset)[:, ages].tolist() == [[10, 8], [9, 0]]


def test_times_have_an_hour_and_offsets_are_brought_to_utc(tmp_path: Path) -> None:
    column = DateColumn(parts=("day", "hour", "minute", "age_days"), relative_to=datetime(2024, 5, 2))  # noqa: DTZ001
    cells = ["2024-05-01T23:30:00-02:00", "2024-05-01 12:00", "2024-05-01", "2024-05-01T00:15:00.5Z"]
    content = "d,y\n" + "".join(f"{cell},{'uv'[index % 2]}\n" for index, cell in enumerate(cells))
    dataset = _load(tmp_path, content, columns={"d": column})
    expected = [[2, 1, 30, -1.5 / 24], [1, 12, 0, 0.5], [1, 0, 0, 1], [1, 0, 15, 1 - 900.5 / 86400]]
    np.testing.assert_array_equal(only_input(dataset), np.array(expected, np.float32))
    assert "d.hour" in [each.name for each in _load(tmp_path, content).columns]


def test_dates_in_another_format_are_read_by_it(tmp_path: Path) -> None:
    column = DateColumn(format="%d.%m.%Y", relative_to=datetime(2024, 1, 1))  # noqa: DTZ001
    dataset = _load(tmp_path, "d,y\n31.12.2023,u\n02.01.2024,v\n", columns={"d": column})
    assert only_input(dataset).tolist() == [[2023, 12, 31, 6, 1], [2024, 1, 2, 1, -1]]


def test_dates_of_a_format_with_an_offset_are_taken_in_utc(tmp_path: Path) -> None:
    column = DateColumn(format="%d.%m.%Y %H:%M %z", parts=("day", "hour"))
    dataset = _load(tmp_path, "d,y\n01.01.2024 01:30 +0200,u\n02.01.2024 00:00 +0000,v\n", columns={"d": column})
    assert only_input(dataset).tolist() == [[31, 23], [2, 0]]


def test_a_time_of_day_has_hours_and_minutes(tmp_path: Path) -> None:
    dataset = _load(tmp_path, "t,y\n07:45,u\n23:05,v\n", columns={"t": DateColumn(format="%H:%M")})
    assert [column.name for column in dataset.columns] == ["t.hour", "t.minute"]
    assert only_input(dataset).tolist() == [[7, 45], [23, 5]]


@pytest.mark.parametrize(
    ("cell", "column", "sentence"),
    [
        ("2024-02-30", "date", "row 1 (line 2), column 'd': '2024-02-30' is not an ISO date such as 2024-05-31"),
        ("0001-01-01T00:00:00+02:00", "date", "'0001-01-01T00:00:00+02:00' is not an ISO date"),
        ("20240229", "date", "'20240229' is not an ISO date"),
        (
            "1/2/2024",
            DateColumn(format="%d.%m.%Y"),
            "row 1 (line 2), column 'd': '1/2/2024' is not of the format %d.%m.%Y",
        ),
        ("07:45", DateColumn(format="%H:%M", parts=("year",)), "column 'd': the format %H:%M has no year"),
        ("", "date", "column 'd' has no values; skip it"),
    ],
)
def test_what_is_no_such_date_is_refused_with_the_place(
    tmp_path: Path, cell: str, column: object, sentence: str
) -> None:
    with pytest.raises(DataError) as refusal:
        _load(tmp_path, f"d,y\n{cell},u\n{cell},v\n", columns={"d": column})
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("form", ["%Q", "day", "%Y-%"])
def test_a_format_that_python_does_not_know_is_refused(form: str) -> None:
    with pytest.raises(ValidationError, match=r"of datetime\.strptime"):
        DateColumn(format=form)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoding": "klingon"}, "'klingon' is no encoding"),
        ({"encoding": "base64"}, "'base64' is no encoding"),
        ({"separator": '"'}, "cannot separate cells"),
        ({"decimal": ",", "thousands": ","}, "',' cannot be both the decimal and the thousands separator"),
    ],
)
def test_a_way_of_reading_that_cannot_be_is_refused(options: Mapping[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        CsvFile.model_validate({"path": "t.csv", "target": "y", **options})


def test_the_card_holds_how_a_table_is_read_and_what_its_columns_are(tmp_path: Path) -> None:
    content = "id;size;colour;day;y\n" + "".join(
        f"{index};{index},5;{'red' if index % 3 else 'NA'};2024-01-{index + 1:02};{'uv'[index % 2]}\n"
        for index in range(12)
    )
    column = DateColumn(parts=("weekday", "age_days"))
    dataset = _load(tmp_path, content, decimal=",", columns={"id": "skip", "day": column})
    card = data.describe(data.split(dataset, seed=1, validation=0.2, test=0.2))
    assert card["reading"] == {
        "separator": None,
        "encoding": "utf-8",
        "decimal": ",",
        "thousands": "",
        "missing": ["", "NA", "N/A", "n/a", "#N/A", "?", "-", "null", "NULL", "NaN", "nan"],
    }
    assert card["columns"] == [
        {"name": "size"},
        {"name": "colour", "categories": ["(unknown)", "red", "(missing)"]},
        {"name": "day.weekday", "date": {"column": "day", "format": "iso", "part": "weekday"}},
        {
            "name": "day.age_days",
            "date": {"column": "day", "format": "iso", "part": "age_days", "relative_to": "2024-01-12T00:00:00"},
        },
    ]
    assert from_card(card["columns"]) == dataset.columns
    assert card["schema"] == [
        {"name": "id", "kind": "skip", "missing": 0},
        {"name": "size", "kind": "number", "missing": 0, "lowest": "0,5", "highest": "11,5"},
        {"name": "colour", "kind": "category", "missing": 4, "categories": 1, "examples": ("red",)},
        {"name": "day", "kind": "date", "missing": 0, "lowest": "2024-01-01", "highest": "2024-01-12"},
        {"name": "y", "kind": "target", "missing": 0, "categories": 2, "examples": ("u", "v")},
    ]


def test_a_number_that_stands_for_no_value_does_however_it_is_written(tmp_path: Path) -> None:
    column = _column(tmp_path, ["-999", "-999.0", "-9.99e2", "1", "0"], missing=("", "-999"))
    np.testing.assert_array_equal(column, [NAN, NAN, NAN, 1, 0])


def test_a_target_that_is_a_number_for_no_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'y': the target is missing: '-1\.0' stands for no"):
        _load(tmp_path, "x,y\n1,2\n2,-1.0\n", task="regression", missing=("", "-1"))


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([str(10**15 + index) for index in range(200)], "of 200 different numbers float32, .*, tells only 1 apart"),
        ([str(1_700_000_000_000 + 1000 * index) for index in range(200)], "of 200 different numbers .* only 2 apart"),
        ([f"{10**17 + index}" for index in range(20)], "of 20 different numbers .* only 1 apart"),
        ([str(index) for index in range(200)], None),
        ([f"0.{index:09d}1" for index in range(200)], None),
        ([str(2**24 - index) for index in range(200)], None),
        ([f"{index + 1}e30" for index in range(200)], None),
        (["7"] * 20, None),
    ],
)
def test_numbers_that_float32_does_not_tell_apart_are_noted(tmp_path: Path, cells: list[str], told: str | None) -> None:
    rows = "".join(f"{cell},{'uv'[index % 2]}\n" for index, cell in enumerate(cells))
    notes = _load(tmp_path, f"x,y\n{rows}").notes
    if told is None:
        assert notes == ()
    else:
        (note,) = notes
        assert re.search(f"^Column 'x' of t.csv: {told}; skip the column", note)
