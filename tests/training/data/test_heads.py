"""Several targets of different kinds: which are classes and which numbers, and what cannot be learnt."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frostline_training import data
from frostline_training.data import Array, Dataset, Rows
from frostline_training.data.heads import Head, divided
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, DateColumn, NpzFile

TWO = ("kind", "size")


def _csv(folder: Path, content: str, **options: object) -> Dataset:
    (folder / "t.csv").write_text(content, encoding="utf-8")
    source = {"path": folder / "t.csv", "target": TWO, "task": "any", **options}
    return data.load(CsvFile.model_validate(source))


def _rows(count: int, kinds: str = "uv") -> str:
    lines = (f"{index / 4},{kinds[index % len(kinds)]},{index % 5}" for index in range(count))
    return "\n".join(["x,kind,size", *lines])


def _npz(folder: Path, **arrays: Array) -> Dataset:
    np.savez(folder / "t.npz", **arrays)  # type: ignore[arg-type]  # arrays by their names
    return data.load(NpzFile(path=folder / "t.npz", task="any"))


def test_a_target_that_is_not_all_numbers_is_a_class_and_any_other_a_number(tmp_path: Path) -> None:
    dataset = _csv(tmp_path, "x,kind,size\n1,v,2.5\n2,u,3\n3,v,4\n")
    assert dataset.heads == (Head("kind", ("u", "v")), Head("size"))
    assert dataset.rows.targets.tolist() == [[1, 2.5], [0, 3], [1, 4]]
    assert dataset.labels == ("kind: u", "kind: v", "size")
    assert [column.name for column in dataset.columns] == ["x"]
    told = {column.name: (column.kind, column.categories, column.highest) for column in dataset.schema}
    assert told == {"x": ("number", None, "3"), "kind": ("target", 2, None), "size": ("target", None, "4")}


def test_a_number_is_a_class_where_the_columns_say_so(tmp_path: Path) -> None:
    dataset = _csv(tmp_path, "x,kind,size\n1,u,10\n2,u,9\n3,v,10\n", columns={"size": "category"})
    assert dataset.heads == (Head("kind", ("u", "v")), Head("size", ("9", "10")))
    assert dataset.rows.targets.tolist() == [[0, 1], [0, 0], [1, 1]]


def test_arrays_of_whole_numbers_or_texts_are_classes_and_those_of_floats_numbers(tmp_path: Path) -> None:
    targets = {
        "target.digit": np.array([7, 3, 7]),
        "target.ink": np.array([0.5, 1, 2]),
        "target.hand": np.array(["left", "right", "left"]),
    }
    dataset = _npz(tmp_path, input=np.zeros((3, 2)), **targets)
    assert dataset.heads == (Head("digit", ("3", "7")), Head("ink"), Head("hand", ("left", "right")))
    assert dataset.rows.targets.tolist() == [[1, 0.5, 0], [0, 1, 1], [1, 2, 0]]


def test_the_rows_are_split_by_the_first_target_that_is_a_class(tmp_path: Path) -> None:
    dataset = _csv(tmp_path, _rows(60, "uuuv"), target=("size", "kind"))
    parts = data.split(dataset, seed=1, validation=0.2, test=0.2)
    assert [Counter(rows.targets[:, 1].tolist()) for rows in (parts.train, parts.validation, parts.test)] == [
        {0: 27, 1: 9},
        {0: 9, 1: 3},
        {0: 9, 1: 3},
    ]


def test_a_card_says_what_each_target_is(tmp_path: Path) -> None:
    parts = data.split(_csv(tmp_path, _rows(60)), seed=1, validation=0.2, test=0.2)
    assert data.describe(parts)["targets"] == {"kind": ["u", "v"], "size": None}


def test_each_head_has_its_own_outputs_and_targets() -> None:
    heads = (Head("size"), Head("kind", ("u", "v", "w")), Head("age"))
    outputs, targets = np.arange(10).reshape(2, 5), np.array([[0.5, 2, 8], [1.5, 0, 9]])
    found = [(head.name, own.tolist(), wanted.tolist()) for head, own, wanted in divided(heads, outputs, targets)]
    assert found == [
        ("size", [[0], [5]], [[0.5], [1.5]]),
        ("kind", [[1, 2, 3], [6, 7, 8]], [2, 0]),
        ("age", [[4], [9]], [[8], [9]]),
    ]
    dataset = Dataset("d", Rows(outputs, targets), (), "", "", task="any", heads=heads)
    alone = dataset.of_head(1)
    assert (alone.task, alone.labels, alone.heads) == ("single-label", ("u", "v", "w"), ())
    assert alone.rows.targets.dtype == np.int64
    assert alone.rows.targets.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (_rows(9), {"target": "kind"}, "two or more different target columns, not 'kind'; of one target say"),
        (_rows(9), {"target": ("kind", "kind")}, "two or more different target columns, not 'kind', 'kind'"),
        (
            _rows(9),
            {"target": ("kind", "weight")},
            "t.csv has no target column 'weight'; its columns are: x, kind, size",
        ),
        (_rows(9), {"columns": {"kind": DateColumn()}}, "the target 'kind' is of the kind date, .* 'category'"),
        (_rows(9), {"columns": {"kind": "number"}}, r"t.csv, row 1 \(line 2\), column 'kind': 'u' is not a number"),
        (
            _rows(40) + "\n1,u,big\n",
            {},
            r"t.csv, row 41 \(line 42\), column 'size': 'big' is not a number, unlike 40 other cells",
        ),
        (
            _rows(9) + "\n1,u,nan\n",
            {},
            r"t.csv, row 10 \(line 11\), column 'size': the target is missing: 'nan' stands for no",
        ),
        (_rows(9) + "\n1,,3\n", {}, r"t.csv, row 10 \(line 11\), column 'kind': the target is missing"),
    ],
)
def test_a_table_whose_targets_cannot_be_told_is_refused_with_the_place(
    tmp_path: Path, content: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        _csv(tmp_path, content, **options)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({}, "two or more targets, an array target.NAME each; it has: input$"),
        ({"target.a": np.arange(3)}, "two or more targets, .*; it has: input, target.a$"),
        (
            {"target.a": np.arange(3), "target.b": np.array([1, np.nan, 2])},
            "row 2, target.b: nan is no finite number",
        ),
        ({"target.a": np.arange(3), "target.b": np.arange(4)}, r"target.b is int64 \[4\], not a class .* 3 rows"),
        ({"target.a": np.arange(3), "target.b": np.ones((3, 2))}, r"target.b is float64 \[3, 2\], not a class"),
    ],
)
def test_arrays_that_are_no_targets_are_refused_with_the_place(
    tmp_path: Path, targets: dict[str, Array], said: str
) -> None:
    with pytest.raises(DataError, match=f"t.npz.*{said}"):
        _npz(tmp_path, input=np.zeros((3, 2)), **targets)


def test_labels_of_one_target_are_refused_for_several(tmp_path: Path) -> None:
    _npz(tmp_path, input=np.zeros((3, 2)), **{"target.a": np.arange(3), "target.b": np.arange(3.0)})
    with pytest.raises(DataError, match=r"t\.npz: labels are the names of one target's classes"):
        data.load(NpzFile(path=tmp_path / "t.npz", task="any", labels=("u", "v")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_rows(9, "u"), "t.csv, target 'kind' has only the class 'u': there is nothing to tell apart"),
        (_rows(9, "uuuuuuuuv"), "t.csv, target 'kind': class 'v' has 1 row, and needs at least 3"),
        ("x,kind,size\n" + "1,u,2\n2,v,2\n" * 4, "t.csv, target 'size': every row has the same target 'size'"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused_by_its_name(tmp_path: Path, content: str, said: str) -> None:
    dataset = _csv(tmp_path, content)
    with pytest.raises(DataError, match=said):
        data.split(dataset, seed=1, validation=0.2, test=0.2)
