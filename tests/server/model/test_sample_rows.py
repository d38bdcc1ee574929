"""Where the rows come from that a network is tried with before a client has sent any."""

import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frostline_server.model.sample_rows import (
    RecentRow,
    far_rows,
    generated_rows,
    golden_rows,
    odd_rows,
    varied_rows,
    warmup_rows,
)
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]


def spec(name: str, datatype: str, dtype: Any, *shape: int | None, axes: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec(name, datatype, np.dtype(dtype), shape, axis_names=axes or ("n", *[""] * len(shape)))


def signature(*inputs: TensorSpec, batched: bool = True) -> Signature:
    return Signature(inputs, (), (), batched, None)


IMAGE = signature(spec("image", "FP32", "f4", 3, None, None))


def test_golden_rows_are_the_first_different_ones() -> None:
    x = np.array([[1], [1], [2], [3], [4], [5]], np.float32)
    rows = golden_rows(Golden({"x": x}, x, 0, 0), signature(spec("x", "FP32", "f4", 1)), 1)
    assert [row[0].tolist() for row in rows.rows] == [[[1]], [[2]], [[3]], [[4]]]
    assert rows.real


def test_a_golden_sample_of_one_row_gives_others_with_its_elements() -> None:
    x = np.arange(4, dtype=np.float32)[None]
    rows = golden_rows(Golden({"x": x}, x, 0, 0), signature(spec("x", "FP32", "f4", 4)), 1).rows
    assert len(rows) == 4
    assert rows[0][0].tolist() == x.tolist()
    assert all(sorted(row[0].ravel()) == [0, 1, 2, 3] for row in rows)


def test_golden_rows_of_a_fixed_batch_are_as_many_as_fill_it() -> None:
    x = np.arange(5, dtype=np.float32)[:, None]
    rows = golden_rows(Golden({"x": x}, x, 0, 0), signature(spec("x", "FP32", "f4", 2, 1), batched=False), 2)
    assert [row[0].tolist() for row in rows.rows[:2]] == [[[0], [1]], [[2], [3]]]


def test_a_warmup_request_is_followed_by_others_of_its_shape_and_by_its_own_elements_in_another_order() -> None:
    first = (np.array([[7, 8, 9, 10]]),)
    second = (np.array([[1, 2, 3, 4]]),)
    rows = warmup_rows([first, (np.array([[1, 2]]),), second])
    assert rows is not None
    assert [row[0].tolist() for row in rows.rows[:2]] == [first[0].tolist(), second[0].tolist()]
    assert sorted(rows.rows[2][0].ravel()) == [7, 8, 9, 10]
    assert rows.real
    assert warmup_rows([]) is None


def test_a_request_of_equal_elements_has_no_other_order() -> None:
    rows = warmup_rows([(np.zeros((1, 4)),)])
    assert rows is not None
    assert len(rows.rows) == 1


def test_free_axes_have_no_size_of_a_small_batch_and_one_size_for_each_name() -> None:
    inputs = (
        spec("a", "FP32", "f4", None, None, axes=("n", "time", "width")),
        spec("b", "FP32", "f4", None, axes=("n", "time")),
        spec("c", "FP32", "f4", None, axes=("n", "?")),
        spec("d", "FP32", "f4", None, axes=("n", "?")),
    )
    for guess in generated_rows(signature(*inputs)):
        a, b, c, d = [array.shape for array in guess.rows[0]]
        assert a[:2] == (1, b[1])
        assert min(*a[1:], c[1], d[1]) > 3
    a, b, c, d = [array.shape[1:] for array in next(generated_rows(signature(*inputs))).rows[0]]
    assert len({*a, *c, *d}) == 4, "the first guess has a size for each name"
    assert not guess.real


def test_the_axis_names_are_those_of_the_row_without_a_batch_axis_too() -> None:
    whole = signature(spec("a", "FP32", "f4", None, None, axes=("t", "t")), batched=False)
    (array,) = next(generated_rows(whole)).rows[0]
    assert array.shape[0] == array.shape[1]


def test_some_guess_has_sides_that_networks_of_images_take() -> None:
    assert {guess.rows[0][0].shape for guess in generated_rows(IMAGE)} >= {(1, 3, 32, 32), (1, 3, 64, 64)}


def test_guesses_are_the_same_at_every_load_and_their_rows_differ() -> None:
    for one, other in zip(generated_rows(IMAGE), generated_rows(IMAGE), strict=True):
        for row, again in zip(one.rows, other.rows, strict=True):
            np.testing.assert_array_equal(row[0], again[0])
        assert len({row[0].tobytes() for row in one.rows}) == len(one.rows)


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", "?"),
        ("UINT8", "u1"),
        ("INT8", "i1"),
        ("INT64", "i8"),
        ("FP16", "f2"),
        ("FP64", "f8"),
        ("BYTES", object),
    ],
)
def test_elements_have_the_networks_type(datatype: str, dtype: Any) -> None:
    for guess in generated_rows(signature(spec("x", datatype, dtype, 4))):
        (array,) = guess.rows[0]
        assert (array.dtype, array.shape) == (np.dtype(dtype), (1, 4))
        if datatype == "BYTES":
            assert all(isinstance(text, str) for text in array.ravel())


def test_some_guess_has_indices_that_every_table_has_and_some_guess_divides() -> None:
    guesses = [guess.rows[0][0] for guess in generated_rows(signature(spec("x", "INT64", "i8", 8)))]
    assert any((guess == 0).all() for guess in guesses)
    assert any((guess != 0).all() for guess in guesses)


@pytest.mark.parametrize("whole", [True, False])
def test_sizes_steps_and_divisors_are_never_zero_nor_large(whole: bool) -> None:
    # ONNX Runtime's STFT divides by its step, and the signal ends the process.
    inputs = signature(spec("step", "INT64", "i8"), batched=not whole)
    values = np.concatenate([guess.rows[0][0].ravel() for guess in generated_rows(inputs)])
    assert set(values) <= {1, 2, 3, 4}


def test_a_network_without_free_axes_is_not_tried_with_several_sizes() -> None:
    fixed, free = signature(spec("x", "FP32", "f4", 4)), signature(spec("x", "FP32", "f4", None))
    assert len(list(generated_rows(fixed))) < len(list(generated_rows(free)))


def test_the_first_guess_has_rows_of_different_kinds() -> None:
    rows = [row[0] for row in next(generated_rows(signature(spec("x", "FP32", "f4", 40)))).rows]
    assert any(((row >= 0) & (row < 1)).all() for row in rows)
    assert any((row < -1).any() and (row > 10).any() for row in rows)
    assert any(set(row.ravel()) == {0, 1, 2} for row in rows)
    assert any(np.isnan(row).any() for row in rows)


def test_large_rows_are_few() -> None:
    assert len(next(generated_rows(signature(spec("x", "UINT8", "u1", 1 << 21)))).rows) == 3


def test_inputs_too_large_to_make_up_are_left_alone() -> None:
    assert list(generated_rows(signature(spec("x", "FP32", "f4", 1 << 20, 1 << 20)))) == []


def test_a_row_is_kept_as_the_network_takes_it_unless_it_is_large(tmp_path: Path) -> None:
    recent = RecentRow()
    recent.keep([np.array([[1, 2], [3, 4]], np.uint8)], signature(spec("x", "FP32", "f4", 2)), time.monotonic())
    assert recent.row is not None
    assert recent.row[0].dtype == np.float32
    assert recent.row[0].tolist() == [[1, 2]]
    assert not recent.wanted
    whole = signature(spec("x", "UINT8", "u1", None), batched=False)
    recent.keep([np.zeros(1 << 25, np.uint8)], whole, time.monotonic())
    assert recent.row[0].tolist() == [[1, 2]]


@pytest.mark.parametrize("seconds", [1.5, math.nan])
def test_a_row_whose_run_took_long_is_not_kept_and_the_next_one_is(seconds: float) -> None:
    recent, network = RecentRow(), signature(spec("x", "FP32", "f4", 2))
    recent.keep([np.ones((1, 2), np.float32)], network, time.monotonic() - seconds)
    assert recent.row is None
    assert recent.wanted
    recent.keep([np.zeros((1, 2), np.float32)], network, time.monotonic())
    assert recent.row is not None
    assert not recent.wanted


def odd(shape: tuple[int, ...], datatype: str, dtype: str, *, batched: bool = True) -> set[Any]:
    """The values that rows of ones are given in some elements or in all."""
    row = (np.ones(shape, dtype),)
    found = odd_rows(row, signature(spec("x", datatype, dtype, *shape[1:]), batched=batched))
    return {value for _, (array,) in found for value in array.ravel().tolist()}


def test_odd_values_are_those_of_the_type() -> None:
    assert {-1, 0, 255, 65535, 2**63 - 1} <= odd((1, 4), "INT64", "i8")
    assert odd((1, 4), "INT64", "i8") > odd((1, 4), "INT32", "i4") >= {2**31 - 1}
    assert min(odd((1, 4), "UINT8", "u1")) == 0
    assert max(odd((1, 4), "UINT8", "u1")) == 255
    assert {math.inf, -math.inf} < odd((1, 4), "FP32", "f4")
    assert odd((1, 2), "BOOL", "?") == {True, False}


def test_one_number_for_each_row_has_the_odd_values_that_a_column_of_one_has() -> None:
    assert odd((1,), "INT64", "i8") == odd((1, 1), "INT64", "i8") > {-1, 0, 255}


def test_what_may_be_a_size_is_not_large() -> None:
    assert odd((1,), "INT64", "i8", batched=False) == {1, 2, 3, 4}
    assert max(odd((1, 1), "INT64", "i8")) == 1000
    assert min(odd((1, 1), "INT64", "i8")) == -999


def test_far_rows_are_far_above_and_below_and_of_the_type() -> None:
    row = (np.ones((1, 2), np.float32), np.ones((1,), np.uint8), np.array([["a"]], object))
    found = [far for _, far in far_rows(row)]
    assert [(far[0].tolist(), far[1].tolist()) for far in found] == [
        ([[1000, 1000]], [1]),
        ([[-1000, -1000]], [1]),
        ([[1, 1]], [255]),
        ([[1, 1]], [0]),
    ]


def test_varied_rows_have_the_elements_that_rows_of_whole_numbers_have() -> None:
    rows = [(np.array([[3, 5]]), np.zeros((1, 2), np.float32)), (np.array([[7, 9]]), np.zeros((1, 2), np.float32))]
    words, numbers = zip(*islice(varied_rows(rows), 50), strict=True)
    assert {word for row in words for word in row.ravel().tolist()} == {3, 5, 7, 9}
    assert np.concatenate(numbers).dtype == np.float32
    assert 0.5 < np.concatenate(numbers).std() < 2
