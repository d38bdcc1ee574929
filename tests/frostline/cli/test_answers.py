"""What `frostline predict` writes of each task, without a server."""

import csv
import io
import json
from typing import Any

import numpy as np
import pytest

from frostline.cli.answers import Answers, columns, write
from frostline.client.catalog import Model
from frostline.client.prediction import Prediction

SERVED = Model("m", "3", "READY")
NAN = float("nan")


def said(form: str, task: str, outputs: Any = None, argmax: Any = None, names: tuple[str, ...] = ()) -> str:
    """What is written of an answer, as the command does for one request."""
    values = {
        name: np.array(value, None if isinstance(value, np.ndarray) else np.float32)
        for name, value in (outputs or {}).items()
    }
    answer = Prediction(
        model="m", version="3", _values=values or None, _task=task, _names=names,
        _argmax=None if argmax is None else np.array(argmax),
    )  # fmt: skip
    cells = {name: list(column) for name, column in columns(answer).items()}
    count = len(next(iter(cells.values())))
    out = io.StringIO()
    write(Answers([("x", at) for at in range(count)], cells, task, names if task == "dense" else ()), SERVED, form, out)
    return out.getvalue()


def lines(*given: Any, **more: Any) -> list[list[str]]:
    return list(csv.reader(io.StringIO(said("csv", *given, **more), newline="")))


def rows(*given: Any, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said("json", *given, **more))["rows"]
    for at, row in enumerate(found):
        assert (row.pop("row"), row.pop("input"), row.pop("id")) == (at, "x", f"x:{at}")
    return found


def table(*given: Any, **more: Any) -> list[list[str]]:
    return [line.split() for line in said("table", *given, **more).splitlines() if line.strip("─ ")]


def test_no_label_is_lost_to_another_or_to_the_commands_own_columns() -> None:
    labels = ("labels", "id", "a", "a", "row", "a_2")
    given = ("multi-label", {"probabilities": [[0.75, 0.25, 0.5, 0.125, 0, 1]]})
    header = ["labels", "labels_2", "id_2", "a", "a_3", "row_2", "a_2"]
    assert lines(*given, names=labels) == [
        ["id", *header], ["x:0", "labels; a; a_2", "0.75", "0.25", "0.5", "0.125", "0.0", "1.0"]
    ]  # fmt: skip
    [row] = rows(*given, names=labels)
    assert row == dict(zip(header, [["labels", "a", "a_2"], 0.75, 0.25, 0.5, 0.125, 0, 1], strict=True))
    assert table(*given, names=labels)[0] == ["id", *header]


def test_no_value_and_no_output_is_lost_either() -> None:
    assert rows("regression", {"values": [[1, 2, 3]]}, names=("v", "v", "input")) == [{"v": 1, "v_2": 2, "input_2": 3}]
    outputs = {"id": [1.5], "row": [[2]], "y": [[3, 4]], "y_0": [5]}
    assert rows("any", outputs) == [{"id_2": 1.5, "row_2": [2], "y": [3, 4], "y_0": 5}]
    assert lines("any", outputs) == [
        ["id", "id_2", "row_2_0", "y_0", "y_1", "y_0_2"],
        ["x:0", "1.5", "2.0", "3.0", "4.0", "5.0"],
    ]


def test_labels_can_be_told_apart_whatever_they_hold() -> None:
    given = ("multi-label", {"probabilities": [[1, 1, 0], [0, 0, 1], [0, 0, 0]]})
    labels = ("a; b", "c", "")
    cells = [line[1] for line in lines(*given, names=labels)[1:]]
    assert cells == ['"a; b"; c', '""', ""]
    assert [list(csv.reader([cell], delimiter=";", skipinitialspace=True)) for cell in cells] == [
        [["a; b", "c"]],
        [[""]],
        [[]],
    ]
    assert [row["labels"] for row in rows(*given, names=labels)] == [["a; b", "c"], [""], []]


def test_one_number_is_one_by_meaning_and_a_list_of_one_by_shape() -> None:
    assert rows("regression", {"values": [[1.5]]}) == rows("regression", {"values": [1.5]}) == [{"value_0": 1.5}]
    assert rows("binary", {"probabilities": [[0.75]]}, names=("no", "yes")) == [
        {"prediction": "yes", "probability": 0.75}
    ]
    assert rows("embedding", {"embedding": [[1.5]]}) == [{"vector": [1.5]}]
    assert rows("any", {"a": [[1.5]], "b": [1.5], "c": [[[2]]]}) == [{"a": [1.5], "b": 1.5, "c": [[2]]}]
    assert rows("dense", argmax=[[[1]]]) == [{"map": [[1]]}]


@pytest.mark.parametrize(
    ("task", "values", "column"),
    [("binary", [[NAN]], "prediction"), ("multi-label", [[NAN, NAN]], "labels")],
)
def test_a_row_of_nan_has_no_answer(task: str, values: Any, column: str) -> None:
    given = (task, {"probabilities": values})
    assert rows(*given)[0][column] is None
    assert lines(*given)[1][1:] == ["", *["nan"] * len(values[0])]
    assert table(*given)[1][1:] == ["-", *["nan"] * len(values[0])]


def test_yes_and_no_without_names_are_true_and_false() -> None:
    given = ("binary", {"probabilities": [0.75, 0.25]})
    assert [row["prediction"] for row in rows(*given)] == [True, False]
    assert [line[1] for line in lines(*given)] == ["prediction", "True", "False"]


def test_a_number_has_the_shortest_decimals_of_its_precision() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        value = np.array([[0.1]]).astype(dtype)
        assert rows("embedding", {"embedding": value}) == [{"vector": [0.1]}]
        assert lines("embedding", {"embedding": value})[1] == ["x:0", "0.1"]


def test_a_map_counts_the_labels_and_json_names_them() -> None:
    places = [[[1, 1, 0], [1, 2, 2]]]
    assert table("dense", argmax=places, names=("sky", "road", ""))[1] == [
        "x:0",
        "road",
        "3,",
        "class",
        "2",
        "2,",
        "sky",
        "1",
        "of",
        "[2,",
        "3]",
    ]
    document = json.loads(said("json", "dense", argmax=places, names=("sky", "road", "car")))
    assert (document["names"], document["rows"][0]["map"]) == (["sky", "road", "car"], places[0])
    assert "names" not in json.loads(said("json", "dense", argmax=places))
    [_, shown] = table("dense", argmax=[[0, 1, 2, 3, 4, 5, 5]])
    assert " ".join(shown) == "x:0 class 5 2, class 0 1, class 1 1, class 2 1, 2 more of [7]"


def test_a_table_of_many_labels_shows_those_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    probabilities = np.zeros((1, 50), np.float32)
    probabilities[0, 7] = 0.75
    assert table("multi-label", {"probabilities": probabilities}) == [["id", "labels"], ["x:0", "7"]]
