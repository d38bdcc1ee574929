"""The card's schema of raw rows: what a server compares its traffic with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from frostline_training.data import Column
from frostline_training.data.cells import Cells
from frostline_training.data.encoding import encode
from frostline_training.data.raw import Category, Date, Input, Number, columns_of
from frostline_training.publishing import odd_rows
from frostline_training.publishing.row_schema import from_card, to_card
from frostline_training.sources import Reading

READING = Reading(missing=("?", "-999"))


def _card(columns: Sequence[Column], cells: Mapping[str, list[str | None]]) -> dict[str, Any]:
    train = Cells("t.csv", cells, READING)
    return to_card(columns, train, encode(train, columns))


def _told(one: Input, cells: list[str | None]) -> dict[str, object]:
    (column,) = _card(columns_of([one]), {"x": cells})["columns"]
    return dict(column)


def test_a_number_has_a_range_and_bins_of_which_none_is_empty() -> None:
    values = [*map(str, range(100)), "?", "-999.0"]
    told = _told(Number("x"), list(values))
    assert {key: told[key] for key in ("name", "kind", "lowest", "highest")} == {
        "name": "x", "kind": "number", "lowest": 0, "highest": 99,
    }  # fmt: skip
    assert told["share_missing"] == 2 / 102
    assert told["edges"] == [9, 19, 29, 39, 49, 59, 69, 79, 89]
    assert told["shares"] == [0.09, *[0.1] * 8, 0.11]


@pytest.mark.parametrize(
    ("cells", "edges", "shares"),
    [
        (["0"] * 95 + ["1", "2", "3", "4", "5"], [1], [0.95, 0.05]),
        (["0"] * 98 + ["1"] * 2, [1], [0.98, 0.02]),
        (["0"] * 2 + ["1"] * 98, [1], [0.02, 0.98]),
        (["-1", "1"] + ["0"] * 18, [0, 1], [0.05, 0.9, 0.05]),
        (["1", "2", "3"] * 4, [2, 3], [1 / 3] * 3),
        (["0"] * 55 + ["7"] * 45, [7], [0.55, 0.45]),
        (["3"], [], [1.0]),
        (["0.1", "0.2"], [float(np.float32(0.2))], [0.5, 0.5]),
    ],
)
def test_edges_are_different_float32_numbers_of_the_data(
    cells: list[str | None], edges: list[float], shares: list[float]
) -> None:
    told = _told(Number("x"), cells)
    assert (told["edges"], told["shares"]) == (edges, shares)


def test_a_category_has_the_share_of_each_among_the_known_ones() -> None:
    told = _told(Category("x", ["a", "b"]), ["a", "a", "b", "?", "c", "a", None, "a"])
    assert told == {
        "name": "x",
        "kind": "category",
        "categories": ["a", "b"],
        "share_missing": 0.25,
        "share_unknown": 0.125,
        "shares": [0.8, 0.2],
    }


def test_a_category_may_have_a_number_for_what_is_missing() -> None:
    one = Category("x", ["a", "b", "(missing)"])
    told = _told(one, ["a", "a", "b", "?", "c", "a", None, "a"])
    assert told == {
        "name": "x",
        "kind": "category",
        "categories": ["a", "b"],
        "missing": 3,
        "share_missing": 0.25,
        "share_unknown": 0.125,
        "shares": [0.8, 0.2],
    }
    assert from_card({"columns": [told]}) == columns_of([one])


def test_a_date_has_its_format_its_range_and_its_parts() -> None:
    told = _told(Date("x", parts=["year", "month"], format="%d.%m.%Y"), ["31.12.2023", "?", "01.02.2021", "?"])
    assert told == {
        "name": "x",
        "kind": "date",
        "format": "%d.%m.%Y",
        "lowest": "2021-02-01T00:00:00",
        "highest": "2023-12-31T00:00:00",
        "share_missing": 0.5,
        "parts": [{"part": "year"}, {"part": "month"}],
    }


@pytest.mark.parametrize("one", [Number("x"), Category("x", ["a"]), Date("x")])
def test_a_column_without_a_value_in_training_has_no_range(one: Input) -> None:
    told = _told(one, ["?", None])
    assert (told.get("lowest"), told.get("highest"), told["share_missing"]) == (None, None, 1)
    assert told.get("shares", []) == []


def test_the_example_is_a_row_without_missing_values_if_there_is_one() -> None:
    columns = columns_of([Number("n"), Category("c", ["a"]), Date("d", parts=["year", "day"])])
    cells: dict[str, list[str | None]] = {"d": ["2024-01-01", "2024-01-02"], "c": ["a", "a"], "n": ["?", "0.1"]}
    told = _card(columns, cells)
    assert told["example"] == {"n": float(np.float32(0.1)), "c": "a", "d": "2024-01-02"}
    assert told["reading"] == READING.model_dump(mode="json")
    assert told["missing"] == ["", "?", "-999"]
    assert told["file"] == "preprocessing.onnx"
    only = {name: values[:1] for name, values in cells.items()}
    assert _card(columns, only)["example"] == {"n": None, "c": "a", "d": "2024-01-01"}
    assert from_card(told) == columns


def test_odd_rows_are_spread_over_a_table_of_very_many_columns() -> None:
    columns = columns_of([Number(f"x{index}") for index in range(1000)])
    made = odd_rows.changes(columns, Cells("t.csv", {}, READING))
    assert len(made) == 1024
    assert len({change.column for change in made}) == 1000


def test_odd_numbers_are_written_as_the_table_writes_them() -> None:
    made = odd_rows.changes(columns_of([Number("x")]), Cells("t.csv", {}, Reading(decimal=",", thousands=".")))
    assert [change.cell for change in made] == [None, "0,0", "-1,0", "1e+38", "1e-40"]


def test_a_format_without_years_or_days_has_only_odd_dates_that_it_can_write() -> None:
    made = odd_rows.changes(columns_of([Date("x", parts=["hour"], format="%H:%M")]), Cells("t.csv", {}, READING))
    assert [change.cell for change in made] == [None, "00:00", "00:00"]


def test_a_text_that_ends_in_nul_is_no_row_of_a_golden_sample() -> None:
    cells = Cells("t.csv", {"x": ["a\0", "a\0b", None], "y": ["", "b", "c\0"]}, READING)
    assert odd_rows.storable(cells) == [1]
