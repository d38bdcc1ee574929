"""Data sets and their splits."""

import numpy as np
import pytest

from training import data
from training.config import find_recipe
from training.data import Dataset, Rows
from training.errors import DataError


def _as_set(rows: Rows) -> set[bytes]:
    return {row.tobytes() for row in rows.inputs}


@pytest.mark.parametrize(("name", "row", "classes"), [("digits", (1, 8, 8), 10), ("iris", (4,), 3)])
def test_a_data_set_holds_raw_float32_rows_with_a_label_for_every_class(
    name: str, row: tuple[int, ...], classes: int
) -> None:
    dataset = data.load(name)
    assert dataset.rows.inputs.dtype == np.float32
    assert dataset.rows.inputs.shape == (len(dataset.rows.targets), *row)
    assert dataset.rows.targets.dtype == np.int64
    assert sorted(set(dataset.rows.targets.tolist())) == list(range(classes))
    assert len(dataset.labels) == classes


def test_digits_are_ink_from_0_to_16_as_clients_send_them() -> None:
    inputs = data.load("digits").rows.inputs
    assert (inputs.min(), inputs.max()) == (0, 16)


def test_an_unknown_data_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="no data set is called 'mnist'; there are: digits, iris"):
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
    known = {row.tobytes(): target for row, target in zip(blobs.rows.inputs, blobs.rows.targets, strict=True)}
    test = data.split(blobs, seed=1, validation=0.2, test=0.3).test
    assert [known[row.tobytes()] for row in test.inputs] == test.targets.tolist()


def test_the_seed_alone_decides_the_split(blobs: Dataset) -> None:
    np.random.seed(0)  # the global state is what must not matter
    first = data.split(blobs, seed=1, validation=0.2, test=0.3)
    again = data.split(blobs, seed=1, validation=0.2, test=0.3)
    other = data.split(blobs, seed=2, validation=0.2, test=0.3)
    np.testing.assert_array_equal(first.test.inputs, again.test.inputs)
    assert _as_set(first.test) != _as_set(other.test)


def test_the_digits_recipe_holds_out_a_fifth() -> None:
    split = data.prepare(find_recipe("digits"))
    assert [len(part.targets) for part in (split.train, split.validation, split.test)] == [1167, 270, 360]


def test_a_class_of_one_row_cannot_be_split(blobs: Dataset) -> None:
    rows = Rows(blobs.rows.inputs[:41], blobs.rows.targets[:41])
    lonely = Dataset("lonely", rows, ("a", "b"), "", "")
    with pytest.raises(DataError, match="cannot split 41 rows of 'lonely' class by class"):
        data.split(lonely, seed=1, validation=0.2, test=0.2)
