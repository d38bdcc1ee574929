"""Predictions as tables, JSON and CSV."""

import csv
import io
import json
from typing import Any, NoReturn

import numpy as np
import pytest

from frostline.client.catalog import Model
from frostline.tables import PredictedRow, column_names, joined, write_models, write_predictions

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
    assert text.splitlines()[0] == "id,prediction,probability,id_2,twice,twice_2,own"


def test_a_label_is_not_taken_for_the_column_of_another_class() -> None:
    text = written(np.full((1, 4), 0.25), ["class_2", "probability", "", "class_2_2"], "csv")
    assert text.splitlines()[0] == "id,prediction,probability,class_2,probability_2,class_2_3,class_2_2"


def test_columns_keep_their_names_and_their_order_where_they_can() -> None:
    assert column_names(["a", "id", "id_2", "row"], ["row", "id"], "output") == ["a", "id_3", "id_2", "row_2"]
    assert column_names(["v", "v", "", "w", "v"], [], "value") == ["v", "v_2", "value_2", "w", "v_3"]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((), ""),
        (("red", "dark blue"), "red; dark blue"),
        (("a;b", "c"), '"a;b"; c'),
        (('say "x"', "", " y"), '"say ""x"""; ""; " y"'),
        (("two\nlines", 3), '"two\nlines"; 3'),
    ],
)
def test_several_labels_in_one_cell_can_be_told_apart(labels: tuple[Any, ...], text: str) -> None:
    assert joined(labels) == text
    read = list(csv.reader(io.StringIO(text, newline=""), delimiter=";", skipinitialspace=True))
    assert read == ([list(map(str, labels))] if labels else [])


def test_a_row_of_nan_has_no_answer() -> None:
    rows = [PredictedRow("x", 0, np.array([np.nan, np.nan])), PredictedRow("x", 1, np.array([0.25, 0.75]))]

    def shown(form: str, top: int | None = None, decision: str = "") -> str:
        out = io.StringIO()
        write_predictions(rows, ["no", "yes"], SERVED, form, out, top=top, decision=decision)
        return out.getvalue()

    assert shown("csv").splitlines()[1:] == ["x:0,,nan,nan,nan", "x:1,yes,0.75,0.25,0.75"]
    assert shown("csv", 1).splitlines()[1:] == ["x:0,,,nan", "x:1,1,yes,0.75"]
    assert shown("csv", 1, "prediction").splitlines()[1:] == ["x:0,,,,nan", "x:1,yes,1,yes,0.75"]
    assert [line.split() for line in shown("table").splitlines()[2:]] == [
        ["x:0", "-", "nan", "nan", "nan"], ["x:1", "yes", "0.7500", "0.2500", "0.7500"],
    ]  # fmt: skip
    none, yes = strict(shown("json"))["rows"]
    assert (none["prediction"], none["probability"], none["top"]) == (None, None, [])
    assert (yes["prediction"], yes["probability"], yes["top"]) == ("yes", 0.75, [{"class": "yes", "probability": 0.75}])


def test_what_a_threshold_decides_stands_beside_what_is_most_probable() -> None:
    out = io.StringIO()
    rows = [PredictedRow("x", 0, np.array([0.75, 0.25]), 1)]
    write_predictions(rows, ["no", "yes"], SERVED, "csv", out, top=2, decision="prediction")
    write_predictions(rows, ["no", "yes"], SERVED, "csv", out)
    assert out.getvalue().splitlines() == [
        "id,prediction,rank,class,probability", "x:0,yes,1,no,0.75", "x:0,yes,2,yes,0.25",
        "id,prediction,probability,no,yes", "x:0,yes,0.25,0.75,0.25",
    ]  # fmt: skip
    out = io.StringIO()
    write_predictions(rows, ["no", "yes"], SERVED, "json", out, top=1, decision="prediction")
    [row] = strict(out.getvalue())["rows"]
    assert (row["prediction"], row["probability"]) == ("yes", 0.25)
    assert row["top"] == [{"class": "no", "probability": 0.75}]


def test_the_labels_that_hold_stand_beside_the_most_probable_ones() -> None:
    rows = [PredictedRow("x", 0, np.array([0.75, 0.5]), ("a;b", "c")), PredictedRow("x", 1, np.array([0.25, 0]), ())]
    out = io.StringIO()
    write_predictions(rows, ["a;b", "c"], SERVED, "csv", out, top=1, decision="labels")
    assert out.getvalue().splitlines() == [
        "id,labels,rank,class,probability", 'x:0,"""a;b""; c",1,a;b,0.75', "x:1,,1,a;b,0.25"
    ]  # fmt: skip
    out = io.StringIO()
    write_predictions(rows, ["a;b", "c"], SERVED, "json", out, top=1, decision="labels")
    first, second = strict(out.getvalue())["rows"]
    assert (first["labels"], second["labels"], "probability" in first) == (["a;b", "c"], [], False)


def test_json_has_null_where_a_probability_is_no_finite_number() -> None:
    answer = strict(written(np.array([[np.nan, 0.5], [np.inf, 0.5]]), ["no", "yes"], "json", top=2))
    assert answer["rows"] == [
        {
            "row": 0,
            "input": "rows.npy",
            "id": "rows.npy:0",
            "prediction": None,
            "probability": None,
            "top": [{"class": "yes", "probability": 0.5}, {"class": "no", "probability": None}],
        },
        {
            "row": 1,
            "input": "rows.npy",
            "id": "rows.npy:1",
            "prediction": "no",
            "probability": None,
            "top": [{"class": "no", "probability": None}, {"class": "yes", "probability": 0.5}],
        },
    ]


def test_ties_go_to_the_lower_index_and_top_may_ask_for_more_than_there_are() -> None:
    text = written(np.array([[0.25, 0.5, 0.25]], np.float16), [], "csv", top=9)
    assert text == ("id,rank,class,probability\nrows.npy:0,1,1,0.5\nrows.npy:0,2,0,0.25\nrows.npy:0,3,2,0.25\n")


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


def test_a_table_shows_what_would_command_the_terminal_and_other_forms_keep_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    labels, probabilities = ["\x1b[31mred\x1b[0m", "[bold]\x9b"], np.array([[0.75, 0.25]], np.float32)
    for top in (None, 2):
        table = written(probabilities, labels, "table", top=top, source="a\x07.npy")
        for shown in (r"a\x07.npy:0", r"\x1b[31mred\x1b[0m", r"[bold]\x9b"):
            assert shown in table
        assert not set(table) & {"\x1b", "\x07", "\x9b"}
    assert labels[0] in written(probabilities, labels, "csv")
    assert strict(written(probabilities, labels, "json"))["rows"][0]["prediction"] == labels[0]


def test_what_a_server_says_of_its_models_cannot_command_the_terminal() -> None:
    out = io.StringIO()
    write_models(
        [Model("a\x1b[2J", "1", "UNAVAILABLE", "no\r\x1b]0;x\x07", rollout_problem="\x1b[8m"), SERVED], "table", out
    )
    for shown in (r"a\x1b[2J", r"no\x0d\x1b]0;x\x07", r"a\x1b[2J: \x1b[8m"):
        assert shown in out.getvalue()
    assert "\x1b" not in out.getvalue()
