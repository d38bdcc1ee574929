"""Rows to predict are read as training read its own, by nothing but the card."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from frostline.cli.table_rows import InvalidTableError, TableRows
from frostline_training import data
from frostline_training.data import named
from frostline_training.sources import CsvFile, DateColumn

NAN = float("nan")
MANY = st.integers(min_value=12, max_value=20)


def _card(folder: Path, **told: object) -> TableRows:
    path = folder / "card.json"
    path.write_text(json.dumps({"data": told}))
    return TableRows.of_card(path)


def _both(folder: Path, content: bytes, **options: object) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows of a file as training reads them, and as they are read with the card of that training."""
    (folder / "t.csv").write_bytes(content)
    dataset = data.load(CsvFile.model_validate({"path": folder / "t.csv", "target": "y", **options}))
    (trained,) = named(dataset.rows.inputs).values()
    card = data.describe(data.split(dataset, seed=1, validation=0.2, test=0.2))
    return trained, _card(folder, **card).read("t.csv", content)


def test_every_kind_of_column_is_read_by_the_card(tmp_path: Path) -> None:
    rows = _card(
        tmp_path,
        reading={"decimal": ",", "thousands": ".", "missing": ["", "none"]},
        columns=[
            {"name": "size"},
            {"name": "zip", "categories": ["(unknown)", "05090", "51929"]},
            {"name": "day.month", "date": {"column": "day", "format": "%d.%m.%Y", "part": "month"}},
            {
                "name": "day.age_days",
                "date": {
                    "column": "day",
                    "format": "%d.%m.%Y",
                    "part": "age_days",
                    "relative_to": "2024-01-12T12:00:00",
                },
            },
        ],
    )
    content = "day;other;zip;size\n31.12.2023;x;05090;1.234,5\nnone;y;none;none\n12.01.2024;z;51929;-0,25\n"
    expected = [[1234.5, 1, 12, 12.5], [NAN, 0, NAN, NAN], [-0.25, 2, 1, 0.5]]
    np.testing.assert_array_equal(rows.read("t.csv", content.encode()), np.array(expected, np.float32))
    np.testing.assert_array_equal(
        rows.read("t.csv.gz", gzip.compress(content.encode())), np.array(expected, np.float32)
    )


def test_a_card_without_a_way_of_reading_means_the_usual_one(tmp_path: Path) -> None:
    rows = _card(tmp_path, columns=[{"name": "age"}, {"name": "colour", "categories": ["(unknown)", "red", "blue"]}])
    np.testing.assert_array_equal(rows.read("-", b"colour,age\nblue,1.5\n?,NA\n"), np.array([[1.5, 2], [NAN, 0]]))


def test_a_text_is_read_as_its_bytes(tmp_path: Path) -> None:
    rows = _card(tmp_path, text={"column": "text", "bytes": 4})
    assert [bytes(row) for row in rows.read("-", "id,text\n1,über\n2,\n".encode())] == ["übe".encode(), b"\0\0\0\0"]
    long = "x" * 200_000  # more than what Python's csv takes by itself
    assert bytes(rows.read("-", f'text\n"{long}"\n'.encode())[0]) == b"xxxx"
    with pytest.raises(InvalidTableError, match="- has no column of the model, which takes 'text'; it has: 'id'"):
        rows.read("-", b"id\n1\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"size,day\n1e39,2024-01-01\n",
            r"t.csv, row 0 \(line 2\), column 'size': 1e39 is no finite number of float32",
        ),
        (b"size,day\ninf,2024-01-01\n", r"row 0 \(line 2\), column 'size': inf is no finite number"),
        (
            b'size,day\n"1,5",2024-01-01\n',
            r"row 0 \(line 2\), column 'size': '1,5' is not a number; write it as the table that the model was trained on$",
        ),
        (
            b"size,day\n1,caf\xe9\n",
            r"line 2: byte 0xe9 \(number 15 of the file\) is not utf-8; write it as the table that the model",
        ),
        (b"size,day\n1,2024-01-01\n2,1.1.24\n", r"row 1 \(line 3\), column 'day': '1.1.24' is not an ISO date such as"),
        (b"size,day\n1\n", r"row 0 \(line 2\): 1 cells, but the header names 2 columns"),
        (b"size,size,day\n1,1,1\n", "more than one column 'size'"),
        (b"size,day\n\xff,1\n", r"line 2: byte 0xff \(number 10 of the file\) is not utf-8"),
    ],
)
def test_what_training_refuses_is_refused_with_the_place(tmp_path: Path, content: bytes, sentence: str) -> None:
    date = {"column": "day", "format": "iso", "part": "year"}
    rows = _card(tmp_path, columns=[{"name": "size"}, {"name": "day.year", "date": date}])
    with pytest.raises(InvalidTableError, match=sentence):
        rows.read("t.csv", content)


@pytest.mark.parametrize(
    "told",
    [
        {"columns": 3},
        {"columns": [{"name": "a", "date": {"column": "a", "format": "iso", "part": "century"}}]},
        {"columns": [], "reading": {"decimal": "x"}},
        {"text": {"column": "a"}},
        [],
    ],
)
def test_a_card_of_something_else_is_refused(tmp_path: Path, told: object) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"data": told}))
    with pytest.raises(InvalidTableError, match=r"card\.json is not the card of a model that was trained on a table"):
        TableRows.of_card(path)


def test_a_text_column_comes_out_of_training_as_it_comes_out_of_the_card(tmp_path: Path) -> None:
    content = "text,y\n" + "".join(f"{'wörd ' * index}{index},{'uv'[index % 2]}\n" for index in range(12))
    trained, read = _both(tmp_path, content.encode(), columns={"text": "text"}, text_bytes=20)
    np.testing.assert_array_equal(read, trained)


# What users' cells look like: padded, quoted, missing in many words, with signs, exponents and leading zeros.
_MISSING = st.sampled_from(["", " ", "NA", "N/A", "?", "-", "null", "NaN", "nan", "#N/A"])
_NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**12), 10**12).map(str),
    st.sampled_from(["+5", "-0", ".5", "5.", "1e-46", "3.4e38", " 7 ", "1E5"]),
    _MISSING,
)
_WORDS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6),
    st.sampled_from(["05090", "true", 'say "so"', "a;b", "München", "0", "1_000", "Inf", "two\nlines"]),
    _MISSING,
)
_DATES = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat(sep=" ", timespec="seconds")), st.dates().map(str), _MISSING
)


@given(st.data())
def test_what_training_read_is_what_prediction_reads(
    tmp_path_factory: pytest.TempPathFactory, drawn: st.DataObject
) -> None:
    count = drawn.draw(MANY)
    separator = drawn.draw(st.sampled_from([",", ";", "\t"]))
    encoding = drawn.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    first = {"number": "1", "word": "w", "day": "2024-02-29 07:30:00", "y": "u"}
    columns = [
        [first["number"], *drawn.draw(st.lists(_NUMBERS, min_size=count, max_size=count))],
        [first["word"], *drawn.draw(st.lists(_WORDS, min_size=count, max_size=count))],
        [first["day"], *drawn.draw(st.lists(_DATES, min_size=count, max_size=count))],
        [first["y"], *("uv"[index % 2] for index in range(count))],
    ]
    lines = [list(first), *map(list, zip(*columns, strict=True))]
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
    kinds = {"number": "number", "word": "category", "day": DateColumn()}
    options = {"separator": separator, "encoding": encoding.removesuffix("-sig"), "columns": kinds}
    trained, read = _both(tmp_path_factory.mktemp("t"), "\r\n".join(quoted).encode(encoding), **options)
    assert trained.dtype == read.dtype == np.float32
    assert trained.shape == (count + 1, 8)
    np.testing.assert_array_equal(read, trained)
    assert trained[0, [0, 2, 3, 4, 5, 6]].tolist() == [1, 2024, 2, 29, 3, 7]
