"""Data sets as arrays with labels, split once into rows to train on, to stop by and to judge by."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import Recipe
from training.errors import DataError


class Rows(NamedTuple):
    """Rows with their classes: `inputs` float32 [N, ...] as a client would send them, `targets` int64 [N]."""

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A whole data set.

    Attributes:
        name: What recipes call it.
        rows: All rows; class `i` of the targets is called `labels[i]`.
        labels: The classes' names.
        send: What a client must send, in words (axes, units, range).
        source: Where the rows come from.
    """

    name: str
    rows: Rows
    labels: tuple[str, ...]
    send: str
    source: str


@dataclass(frozen=True)
class Split:
    """A data set's rows, each in exactly one part."""

    dataset: Dataset
    train: Rows
    validation: Rows
    test: Rows


def load(name: str) -> Dataset:
    """Return the data set called `name`, without network access.

    Raises:
        DataError: There is none; the text lists those there are.
    """
    try:
        loader = DATASETS[name]
    except KeyError:
        raise DataError(f"no data set is called {name!r}; there are: {', '.join(sorted(DATASETS))}") from None
    return loader()


def split(dataset: Dataset, *, seed: int, validation: float, test: float) -> Split:
    """Split the rows at random, keeping each class's share (so every part knows every class).

    The same arguments give the same parts, whatever else ran before.

    Args:
        dataset: What to split.
        seed: Decides which row goes where.
        validation: Fraction of all rows to stop training by.
        test: Fraction of all rows that training never sees.

    Raises:
        DataError: Some class has too few rows to be in every part.
    """
    # scikit-learn takes about a second to import; only training needs it.
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    targets = dataset.rows.targets
    counts = {part: _count(fraction, len(targets)) for part, fraction in (("validation", validation), ("test", test))}
    try:
        rest, test_rows = train_test_split(
            np.arange(len(targets)), test_size=counts["test"], stratify=targets, random_state=seed
        )
        train_rows, validation_rows = train_test_split(
            rest, test_size=counts["validation"], stratify=targets[rest], random_state=seed
        )
    except ValueError as error:
        raise DataError(f"cannot split {len(targets)} rows of {dataset.name!r} class by class: {error}") from error

    def part(rows: NDArray[np.intp]) -> Rows:
        return Rows(dataset.rows.inputs[rows], targets[rows])

    return Split(dataset, part(train_rows), part(validation_rows), part(test_rows))


def prepare(recipe: Recipe) -> Split:
    """Load and split what `recipe` trains on: `.test` holds exactly the rows its training never sees."""
    return split(load(recipe.data), seed=recipe.seed, validation=recipe.validation, test=recipe.test)


def _count(fraction: float, rows: int) -> int:
    # Rounded first: 0.2 * 120 must not become 25 because it is 24.000000000000004.
    return math.ceil(round(fraction * rows, 6))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # noqa: PLC0415 as above

    bunch = load_digits()
    return Dataset(
        name="digits",
        rows=Rows(bunch.images[:, np.newaxis].astype(np.float32), bunch.target.astype(np.int64)),
        labels=tuple(str(name) for name in bunch.target_names),
        send="one grey image of 8x8 pixels: [1, 8, 8], ink from 0 (none) to 16 (full)",
        source="UCI Optical Recognition of Handwritten Digits, as scikit-learn ships it",
    )


def _iris() -> Dataset:
    from sklearn.datasets import load_iris  # noqa: PLC0415 as above

    bunch = load_iris()
    return Dataset(
        name="iris",
        rows=Rows(bunch.data.astype(np.float32), bunch.target.astype(np.int64)),
        labels=tuple(str(name) for name in bunch.target_names),
        send="four lengths in cm: sepal length, sepal width, petal length, petal width",
        source="UCI Iris, as scikit-learn ships it",
    )


DATASETS: Mapping[str, Callable[[], Dataset]] = MappingProxyType({"digits": _digits, "iris": _iris})
