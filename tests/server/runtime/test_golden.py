"""Whether what is served agrees with what was trained."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frostline_server.errors import LoadError
from frostline_server.runtime.golden import Golden, compare_classes, read_golden
from tests.support.signatures import CLASSIFIER

LOGITS = np.array([[0.0, 1.0, 0.9], [2.0, 0.0, -1.0]], np.float32)


def golden(**tolerances: float) -> Golden:
    return Golden({}, LOGITS, **{"rtol": 0.0, "atol": 0.0, **tolerances})


def test_the_best_classes_pass() -> None:
    compare_classes(LOGITS.argmax(axis=1), LOGITS, golden(), 0, 2)


@pytest.mark.parametrize("tolerances", [{"atol": 0.06}, {"rtol": 0.06}])
def test_a_class_as_good_within_the_tolerance_of_both_logits_passes(tolerances: dict[str, float]) -> None:
    compare_classes(np.array([2, 0]), LOGITS, golden(**tolerances), 0, 2)


@pytest.mark.parametrize(
    ("classes", "row"), [([2, 0], 0), ([1, 1], 1), ([1, -1], 1), ([3, 0], 0)], ids=["near", "far", "below", "above"]
)
def test_another_class_is_found_with_its_row(classes: list[int], row: int) -> None:
    with pytest.raises(LoadError, match=rf"the class differs from PyTorch's at row {row} \(batch of 2\); 1 rows"):
        compare_classes(np.array(classes), LOGITS, golden(atol=0.01), 0, 2)


def test_rows_are_numbered_within_the_sample_however_often_it_is_repeated() -> None:
    with pytest.raises(LoadError, match="at row 1 "):
        compare_classes(np.array([1, 2]), LOGITS, golden(), 4, 2)


def test_a_map_of_classes_is_compared_at_every_place() -> None:
    logits = np.moveaxis(LOGITS.reshape(1, 2, 1, 3), 3, 1)
    sample: Any = Golden({}, logits, 0.0, 0.0)
    compare_classes(logits.argmax(axis=1), logits, sample, 0, 1)
    with pytest.raises(LoadError, match="at row 0 "):
        compare_classes(np.array([[[1], [2]]]), logits, sample, 0, 1)


@pytest.mark.parametrize("shape", [(2,), (2, 0)])
def test_logits_that_tell_no_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LoadError, match=r"classes have shape \[2\] for logits \["):
        compare_classes(np.zeros(2, np.int64), np.zeros(shape), golden(), 0, 2)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", logits=LOGITS, rtol=0.0, atol=0.0)
    with zipfile.ZipFile(tmp_path / "golden.npz", "a") as archive:
        archive.writestr("input.npy", b"no array")
    with pytest.raises(LoadError, match=r"^golden check failed: golden\.npz "):
        read_golden(tmp_path / "golden.npz", CLASSIFIER)


def test_classes_of_another_shape_are_refused() -> None:
    with pytest.raises(LoadError, match=r"classes have shape \[1\] for logits \[2, 3\]"):
        compare_classes(np.array([1]), LOGITS, golden(), 0, 2)
