"""Data sets and their splits."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from frostline_training import data
from frostline_training.config import Hyperparameters, Mlp, Recipe, find_recipe
from frostline_training.data import Column, Dataset, Rows, named, pythontext, take
from frostline_training.data.encoding import encode
from frostline_training.data.heads import Head, output_names
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, NpzFile


def _as_set(rows: Rows) -> set[bytes]:
    return {row.tobytes() for row in named(rows.inputs)["input"]}


@pytest.mark.parametrize(
    ("name", "row", "classes"),
    [
        ("digits", (1, 8, 8), 10),
        ("digits-rows", (8, 8), 10),
        ("digits-flat", (64,), 10),
        ("iris", (4,), 3),
        ("wine", (13,), 3),
        ("breast-cancer", (30,), 2),
    ],
)
def test_a_data_set_holds_raw_float32_rows_with_a_label_for_every_class(
    name: str, row: tuple[int, ...], classes: int
) -> None:
    dataset = data.load(name)
    (inputs,) = named(dataset.rows.inputs).values()
    assert inputs.dtype == np.float32
    assert inputs.shape == (len(dataset.rows.targets), *row)
    assert dataset.rows.targets.dtype == np.int64
    assert sorted(set(dataset.rows.targets.tolist())) == list(range(classes))
    assert len(dataset.labels) == classes


def test_digits_are_ink_from_0_to_16_as_clients_send_them() -> None:
    (inputs,) = named(data.load("digits").rows.inputs).values()
    assert (inputs.min(), inputs.max()) == (0, 16)


def test_only_sequences_have_a_time_axis_of_any_length() -> None:
    assert data.load("digits-rows").dynamic == {"input": {1: "time"}}
    assert data.load("digits").dynamic == data.load("wine").dynamic == {}


def test_a_regression_has_no_classes() -> None:
    dataset = data.load("diabetes")
    assert (dataset.task, dataset.majority, dataset.rows.targets.shape) == ("regression", None, (442, 1))
    split = data.split(dataset, seed=1, validation=0.2, test=0.2)
    assert [len(part.targets) for part in (split.train, split.validation, split.test)] == [264, 89, 89]


@pytest.mark.parametrize("name", ["iris", "wine", "breast-cancer", "diabetes"])
def test_a_built_in_table_has_its_rows_by_the_names_of_its_columns(name: str) -> None:
    dataset = data.load(name)
    cells = dataset.rows.cells
    assert cells is not None
    assert dataset.inputs == dataset.columns == tuple(map(Column, cells.columns))
    np.testing.assert_array_equal(encode(cells, dataset.columns), dataset.rows.inputs)
    if name == "iris":
        told = {column: texts[0] for column, texts in cells.columns.items()}
        assert told == {
            "sepal length (cm)": "5.1",
            "sepal width (cm)": "3.5",
            "petal length (cm)": "1.4",
            "petal width (cm)": "0.2",
        }


def test_the_text_set_has_as_many_snippets_of_each_kind_and_the_same_ones_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = data.load("python-text")
    (inputs,) = named(dataset.rows.inputs).values()
    assert (str(inputs.dtype), inputs.shape) == ("uint8", (9000, 128))
    assert dataset.majority == pytest.approx(1 / 3)
    assert len({row.tobytes() for row in inputs}) > 8900
    code, comment, docstring = (inputs[dataset.rows.targets == index] for index in range(3))
    share_of_hashes = [float((part == ord("#")).any(axis=1).mean()) for part in (code, comment, docstring)]
    assert max(share_of_hashes) < 0.05
    # All of them again would take as long once more.
    monkeypatch.setattr(pythontext, "_MODULES", "argparse ast calendar csv")
    few, again = (named(data.load("python-text").rows.inputs)["input"] for _ in range(2))
    assert 300 <= len(few) < len(inputs)
    np.testing.assert_array_equal(few, again)


def test_what_a_network_is_built_for_are_the_rows_it_trains_on(blobs: Dataset) -> None:
    split = data.split(blobs, seed=1, validation=0.2, test=0.3)
    assert split.dataset.rows is split.train
    assert split.dataset.labels == blobs.labels


def test_rows_of_several_inputs_stay_together() -> None:
    rows = Rows({"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}, np.array([5, 6, 7]))
    taken = take(rows, np.array([2, 0]))
    assert {name: array.tolist() for name, array in named(taken.inputs).items()} == {"a": [[4, 5], [0, 1]], "b": [2, 0]}
    assert taken.targets.tolist() == [7, 5]


def test_a_card_says_where_the_rows_come_from_and_what_always_guessing_scores(blobs: Dataset) -> None:
    described = data.describe(data.split(blobs, seed=1, validation=0.2, test=0.3))
    assert described == {
        "name": "blobs",
        "source": "made here",
        "task": "single-label",
        "rows": {"train": 60, "validation": 24, "test": 36},
        "majority_baseline": pytest.approx(1 / 3),
    }


def test_an_unknown_data_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        DataError, match=r"no data set is called 'mnist'; there are: breast-cancer, diabetes, digits, .*, wine"
    ):
        data.load("mnist")


def test_every_row_is_in_exactly_one_part(blobs: Dataset) -> None:
    split = data.split(blobs, seed=1, validation=0.2, test=0.3)
    parts = [_as_set(part) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [60, 24, 36]
    assert set.union(*parts) == _as_set(blobs.rows)


def test_every_part_keeps_each_classs_share(blobs: Dataset) -> None:
    split = data.split(blobs, seed=1, validation=0.2, test=0.3)
    for part, each in ((split.train, 20), (split.validation, 8), (split.test, 12)):
        assert np.bincount(part.targets).tolist() == [each] * 3


def test_rows_keep_their_own_class(blobs: Dataset) -> None:
    inputs = named(blobs.rows.inputs)["input"]
    known = {row.tobytes(): target for row, target in zip(inputs, blobs.rows.targets, strict=True)}
    test = data.split(blobs, seed=1, validation=0.2, test=0.3).test
    assert [known[row.tobytes()] for row in named(test.inputs)["input"]] == test.targets.tolist()


def test_the_seed_alone_decides_the_split(blobs: Dataset) -> None:
    np.random.seed(0)  # the global state is what must not matter
    first = data.split(blobs, seed=1, validation=0.2, test=0.3)
    again = data.split(blobs, seed=1, validation=0.2, test=0.3)
    other = data.split(blobs, seed=2, validation=0.2, test=0.3)
    np.testing.assert_array_equal(named(first.test.inputs)["input"], named(again.test.inputs)["input"])
    assert _as_set(first.test) != _as_set(other.test)


def test_the_positive_class_of_a_binary_task_is_yes(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", input=np.arange(20.0)[:, None], target=np.repeat(["a", "b"], 10))
    recipe = Recipe(name="r", data=NpzFile(path=tmp_path / "two.npz", task="binary"), network=Mlp())
    usual, turned = (data.prepare(recipe.model_copy(update={"positive": name})) for name in ("b", "a"))
    assert (usual.dataset.labels, turned.dataset.labels) == (("a", "b"), ("b", "a"))
    np.testing.assert_array_equal(turned.test.targets, 1 - usual.test.targets)
    assert data.prepare(recipe).dataset.labels == ("a", "b")


def test_a_table_keeps_its_raw_rows_whichever_class_is_positive(tmp_path: Path) -> None:
    rows = "".join(f"{index},{'no' if index % 2 else 'yes'}\n" for index in range(20))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}")
    table = CsvFile(path=tmp_path / "t.csv", target="y", task="binary")
    recipe = Recipe(name="r", data=table, network=Mlp(), positive="no")
    parts = data.prepare(recipe)
    assert parts.dataset.labels == ("yes", "no")
    assert parts.dataset.inputs == (Column("x"),)
    for rows_of_part in (parts.train, parts.validation, parts.test):
        assert rows_of_part.cells is not None
        odd = [float(cell or "") % 2 for cell in rows_of_part.cells.columns["x"]]
        assert odd == rows_of_part.targets.tolist()  # odd numbers are no, which is the second class here


def test_columns_without_the_cells_of_their_rows_are_an_error() -> None:
    rows = Rows(np.zeros((4, 1), np.float32), np.zeros(4, np.int64))
    dataset = Dataset("t", rows, ("a", "b"), "", "", columns=(Column("x"),))
    with pytest.raises(DataError, match="t has columns, and its rows lack the cells that raw rows are proved with"):
        _ = dataset.inputs


def test_a_regression_whose_target_is_constant_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", input=np.arange(20.0)[:, None], target=np.full(20, 3.0))
    with pytest.raises(DataError, match=r"r\.npz: every row has the same target '.*' \(in float32\): there is nothing"):
        data.prepare(Recipe(name="r", data=NpzFile(path=tmp_path / "r.npz", task="regression"), network=Mlp()))


def test_a_regression_has_no_labels_to_smooth(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", input=np.arange(20.0)[:, None], target=np.arange(20.0))
    source = NpzFile(path=tmp_path / "r.npz", task="regression")
    recipe = Recipe(name="r", data=source, network=Mlp(), hyperparameters=Hyperparameters(label_smoothing=0.1))
    with pytest.raises(DataError, match=r"r\.npz has the task regression, .* leave out label_smoothing"):
        data.prepare(recipe)


def test_a_regression_has_no_classes_to_weigh(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", input=np.arange(20.0)[:, None], target=np.arange(20.0))
    source = NpzFile(path=tmp_path / "r.npz", task="regression")
    hyper = Hyperparameters(class_weights=True)
    with pytest.raises(
        DataError, match=r"r\.npz has no classes to weigh: leave out class_weights for the task regression"
    ):
        data.prepare(Recipe(name="r", data=source, network=Mlp(), hyperparameters=hyper))


def test_trainings_with_other_seeds_are_scored_on_the_same_rows() -> None:
    iris = find_recipe("iris")
    held_out = _as_set(data.prepare(iris).test)
    assert _as_set(data.prepare(iris.model_copy(update={"seed": 3})).test) == held_out
    assert _as_set(data.prepare(iris.model_copy(update={"split_seed": 3})).test) != held_out


def test_the_digits_recipe_holds_out_a_fifth() -> None:
    split = data.prepare(find_recipe("digits"))
    assert [len(part.targets) for part in (split.train, split.validation, split.test)] == [1167, 270, 360]


def test_a_class_of_one_row_cannot_be_split(blobs: Dataset) -> None:
    lonely = Dataset("lonely", take(blobs.rows, np.arange(41)), ("a", "b"), "", "")
    with pytest.raises(
        DataError, match="lonely: class 'b' has 1 row, and needs at least 3: with fewer it cannot have one to train on"
    ):
        data.split(lonely, seed=1, validation=0.2, test=0.2)


@pytest.mark.parametrize(
    ("each", "fractions", "said"),
    [
        (
            5,
            (0.2, 0.2),
            "no two of the 40 validation rows have the same class, .*: raise validation, or give more rows of",
        ),
        (10, (0.1, 0.2), "no two of the 40 validation rows have the same class"),
        (
            10,
            (0.2, 0.1),
            "no two of the 40 test rows have the same class, .*: raise test, or give more rows of each class",
        ),
        (5, (0.4, 0.4), "no two of the 40 training rows have the same class, .*: lower validation and test, or give"),
    ],
)
def test_vectors_that_have_nothing_to_be_near_to_are_refused_before_they_are_learnt(
    tmp_path: Path, each: int, fractions: tuple[float, float], said: str
) -> None:
    np.savez(tmp_path / "e.npz", input=np.arange(40.0 * each)[:, None], target=np.repeat(np.arange(40), each))
    validation, test = fractions
    source = NpzFile(path=tmp_path / "e.npz", task="embedding")
    recipe = Recipe(name="r", data=source, network=Mlp(), validation=validation, test=test)
    with pytest.raises(DataError, match=said):
        data.prepare(recipe)
    classified = recipe.model_copy(update={"data": NpzFile(path=tmp_path / "e.npz")})
    assert len(data.prepare(classified).train.targets) == round(40 * each * (1 - validation - test))


def test_vectors_with_two_of_a_class_in_each_part_are_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", input=np.arange(400.0)[:, None], target=np.repeat(np.arange(40), 10))
    source = NpzFile(path=tmp_path / "e.npz", task="embedding")
    split = data.prepare(Recipe(name="r", data=source, network=Mlp(), validation=0.2, test=0.2))
    assert [np.bincount(part.targets).tolist() for part in (split.validation, split.test)] == [[2] * 40] * 2


def test_a_single_class_has_nothing_to_tell_apart(blobs: Dataset) -> None:
    one = Dataset("one", take(blobs.rows, np.arange(40)), ("a",), "", "")
    with pytest.raises(DataError, match="one has only the class 'a'"):
        data.split(one, seed=1, validation=0.2, test=0.2)


def test_parts_too_small_for_every_class_are_refused(blobs: Dataset) -> None:
    few = Dataset("few", take(blobs.rows, np.arange(0, 120, 10)), ("a", "b", "c"), "", "")
    with pytest.raises(DataError, match="cannot split 12 rows of 'few' class by class"):
        data.split(few, seed=1, validation=0.1, test=0.1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fractions", [(0.45, 0.45), (0.1, 0.45), (0.45, 0.1), (0.3, 0.6)])
def test_a_class_of_three_rows_has_one_to_train_on(fractions: tuple[float, float], seed: int) -> None:
    targets = np.repeat(np.arange(3), (3, 100, 97))
    whole = Dataset("rare", Rows(np.arange(200.0)[:, None], targets), ("a", "b", "c"), "", "")
    split = data.split(whole, seed=seed, validation=fractions[0], test=fractions[1])
    assert np.bincount(split.train.targets, minlength=3).min() >= 1
    parts = (split.train, split.validation, split.test)
    held = [round(200 * fraction) for fraction in fractions]
    assert [len(part.targets) for part in parts] == [200 - sum(held), *held]
    assert set.union(*map(_as_set, parts)) == _as_set(whole.rows)


def _of_several_targets(*classes: NDArray[np.int64]) -> Dataset:
    heads = tuple(Head(f"target {place}", tuple("abcdef"[: each.max() + 1])) for place, each in enumerate(classes))
    rows = Rows(np.arange(float(len(classes[0])))[:, None], np.stack(classes, axis=1).astype(np.float32))
    return Dataset("several", rows, output_names(heads), "", "", task="any", heads=heads)


@pytest.mark.parametrize("seed", range(8))
def test_each_class_of_each_of_several_targets_has_a_row_to_train_on(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = [random.permutation(np.repeat(np.arange(3), sizes)) for sizes in ((3, 47, 50), (3, 3, 94))]
    split = data.split(_of_several_targets(*classes), seed=seed, validation=0.4, test=0.4)
    for column in split.train.targets.T:
        assert set(column) == {0, 1, 2}


def test_a_target_of_more_classes_than_rows_to_train_on_is_refused() -> None:
    whole = _of_several_targets(np.arange(12) % 2, np.arange(12) % 4)
    with pytest.raises(
        DataError, match=r"several, target 'target 1': no row of the class '.' is among the 2 to train on: lower"
    ):
        data.split(whole, seed=1, validation=0.4, test=0.4)


def test_a_split_that_leaves_one_row_to_train_on_is_refused_with_its_numbers() -> None:
    three = Dataset("three", Rows(np.arange(3.0)[:, None], np.arange(3.0)[:, None]), ("y",), "", "", task="regression")
    with pytest.raises(
        DataError,
        match=r"three has 3 rows: validation=0\.15 takes 1 of them and test=0\.2 1, and 1 of the 2 that a training takes",
    ):
        data.split(three, seed=1, validation=0.15, test=0.2)
