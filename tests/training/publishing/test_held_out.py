"""Held-out rows in all the forms that people have them in."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from frostline_training.errors import PublishError
from frostline_training.publishing.held_out import Test, held_out_rows

X = torch.arange(24, dtype=torch.float32).reshape(6, 4)
Y = torch.arange(6)
ONE = {"input": X[:2]}
TWO = {"a": X[:2], "b": X[:2, :1]}
BATCHES = [slice(0, 4), slice(4, 6)]


@pytest.mark.parametrize(
    "test",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.tolist()),
        (X.clone().requires_grad_(), Y),
        (X.double(), Y),
        ({"input": X}, Y),
        [(X[part], Y[part]) for part in BATCHES],
        [[X[part], Y[part]] for part in BATCHES],
        DataLoader(TensorDataset(X, Y), batch_size=4),
        [{"input": X[part], "target": Y[part]} for part in BATCHES],
        [{"pixels": X[part], "labels": Y[part]} for part in BATCHES],
        [({"input": X[part]}, Y[part]) for part in BATCHES],
    ],
)
def test_rows_of_one_input_and_their_targets(test: Test) -> None:
    inputs, targets = held_out_rows(test, ONE)
    assert list(inputs) == ["input"]
    np.testing.assert_array_equal(inputs["input"], X.numpy())
    assert inputs["input"].dtype == np.float32
    np.testing.assert_array_equal(targets, Y.numpy())


@pytest.mark.parametrize(
    "test",
    [
        ({"b": X[:, :1], "a": X}, Y),
        [({"a": X[part], "b": X[part, :1]}, Y[part]) for part in BATCHES],
        [{"b": X[part, :1], "a": X[part], "y": Y[part]} for part in BATCHES],
        DataLoader(TensorDataset(X, X[:, :1], Y), batch_size=4),
    ],
)
def test_rows_of_two_inputs_and_their_targets(test: Test) -> None:
    inputs, targets = held_out_rows(test, TWO)
    assert list(inputs) == ["a", "b"]
    np.testing.assert_array_equal(inputs["a"], X.numpy())
    np.testing.assert_array_equal(inputs["b"], X.numpy()[:, :1])
    np.testing.assert_array_equal(targets, Y.numpy())


@pytest.mark.parametrize("test", [(X, None), [(X[part], None) for part in BATCHES], [{"input": X[p]} for p in BATCHES]])
def test_rows_without_targets(test: Test) -> None:
    inputs, targets = held_out_rows(test, ONE)
    np.testing.assert_array_equal(inputs["input"], X.numpy())
    assert targets is None


def test_without_held_out_rows_the_sample_is_taken() -> None:
    inputs, targets = held_out_rows(None, ONE)
    assert targets is None
    np.testing.assert_array_equal(inputs["input"], ONE["input"].numpy())


@pytest.mark.parametrize(
    ("test", "sample", "fact"),
    [
        ([(X, Y, Y)], ONE, r"is 3 things: it must be \(inputs, targets\), and the network has the input input"),
        ([(X, X, X, Y)], TWO, "is 4 things.*has the inputs a, b"),
        ([X], ONE, "is Tensor: it must be"),
        ([{"a": X, "b": X}], ONE, "has a, b; it must have the inputs input and one more"),
        ([{"a": X, "y": Y}], TWO, "has a, y; it must have the inputs a, b"),
        ([{"a": X, "b": X[:, :1], "y": Y, "z": Y}], TWO, "has a, b, y, z; it must"),
        (5, ONE, "test is int: give"),
        ([], ONE, "gives no batches"),
        ([(X, Y), (X, None)], ONE, "some batches .* have targets, and some have none"),
        ([(X, Y), (X[:, :3], Y)], ONE, "batches do not fit together: input"),
        ((X[:, :3], Y), ONE, r"test rows \[6, 3\] do not have the sample's shape"),
        (([[1, 2], [3]], Y), ONE, "test rows are no array"),
        ((X, [[1], [2, 3]]), ONE, "test targets are no array"),
        (({"a": X, "b": X[:2, :1]}, Y), TWO, "disagree on the number of rows"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(test: Test, sample: dict[str, Tensor], fact: str) -> None:
    with pytest.raises(PublishError, match=fact):
        held_out_rows(test, sample)


def test_two_batches_in_a_list_are_no_pair_of_inputs_and_targets() -> None:
    inputs, _ = held_out_rows([[X[:3], Y[:3]], [X[3:], Y[3:]]], ONE)
    assert inputs["input"].shape == (6, 4)
