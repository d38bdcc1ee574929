"""Predictions as tables, JSON and CSV."""

import csv
import io
import json
from typing import Any, NoReturn

import numpy as np
import pytest

from frostline.client.catalog import Model
from frostline.tables import PredictedRow, write_predictions

SERVED = Model("m", "3", "READY")


def written(
    probabilities: Any, labels: list[str], form: str, *, top: int | None = None, source: str = "rows.npy"
) -> str:
    rows = [PredictedRow(source, number, each) for number, each in enumerate(probabilities)]
    out = io.StringIO()
    write_predictions(rows, labels, SERVED, form, out, top=top)
    return out.getvalue()


def strict(text: str) -> Any:
    """JSON as the standard has it."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("dtype", "text"),
    [(np.float16, "0.7"), (np.float32, "0.7"), (np.float64, "0.7"), (np.float64, "0.12345678901234566")],
)
def test_a_probability_is_written_in_its_own_precision(dtype: Any, text: str) -> None:
    probabilities = np.array([[1 - float(text), text]], float).astype(dtype)
    [row] = csv.DictReader(io.StringIO(written(probabilities, ["no", "yes"], "csv")))
    assert row["yes"] == text
    assert dtype(row["yes"]) == probabilities[0, 1]
    answer = strict(written(probabilities, ["no", "yes"], "json", top=2))
    assert float(text) in [each["probability"] for each in answer["rows"][0]["top"]]
    assert f"{probabilities[0, 1]:.4f}" in written(probabilities, ["no", "yes"], "table")


def test_csv_quotes_labels_and_names_classes_without_one() -> None:
    text = written(np.array([[0.25, 0.5, 0.25]]), ['a "b", c', "line\nbreak"], "csv", source="a,b.npy")
    assert text.splitlines()[0] == 'id,prediction,probability,"a ""b"", c","line'
    [row] = csv.DictReader(io.StringIO(text))
    assert row == {
        "id": "a,b.npy:0",
        "prediction": "line\nbreak",
        "probability": "0.5",
        'a "b", c': "0.25",
        "line\nbreak": "0.5",
        "class_2": "0.25",
    }
    assert written(np.array([[0.25, 0.75]]), [], "csv") == (
        "id,prediction,probability,class_0,class_1\nrows.npy:0,1,0.75,0.25,0.75\n"
    )


def test_no_two_columns_have_one_name() -> None:
    text = written(np.array([[0.25, 0.25, 0.25, 0.25]]), ["id", "twice", "twice", "own"], "csv")
    assert text.splitlines()[0] == "id,prediction,probability,class_0,class_1,class_2,own"


def test_json_has_null_where_a_probability_is_no_finite_number() -> None:
    answer = strict(written(np.array([[np.nan, 0.5], [np.inf, 0.5]]), ["no", "yes"], "json", top=2))
    assert answer["rows"] == [
        {
            "row": 0,
            "input": "rows.npy",
            "id": "rows.npy:0",
            "top": [{"prediction": "yes", "probability": 0.5}, {"prediction": "no", "probability": None}],
        },
        {
            "row": 1,
            "input": "rows.npy",
            "id": "rows.npy:1",
            "top": [{"prediction": "no", "probability": None}, {"prediction": "yes", "probability": 0.5}],
        },
    ]


def test_ties_go_to_the_lower_index_and_top_may_ask_for_more_than_there_are() -> None:
    text = written(np.array([[0.25, 0.5, 0.25]], np.float16), [], "csv", top=9)
    assert text == ("id,rank,prediction,probability\nrows.npy:0,1,1,0.5\nrows.npy:0,2,0,0.25\nrows.npy:0,3,2,0.25\n")


def test_rows_of_different_lengths_leave_cells_empty() -> None:
    text = written([np.array([1.0]), np.array([0.25, 0.75]), np.array([])], [], "csv")
    assert text.splitlines()[1:] == ["rows.npy:0,0,1.0,1.0,", "rows.npy:1,1,0.75,0.25,0.75", "rows.npy:2,,,,"]


def test_a_table_shows_all_classes_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    four, five = (written(np.full((1, n), 1 / n), [], "table") for n in (4, 5))
    assert four.splitlines()[0].split() == ["id", "prediction", "probability", *(f"class_{n}" for n in range(4))]
    assert [line.split() for line in five.splitlines()[::2]] == [
        ["id", "prediction", "probability"],
        ["rows.npy:0", "0", "0.2000"],
    ]
