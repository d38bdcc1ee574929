"""The built-in data sets: real data that needs no download."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from frostline_training.data.cells import Cells
from frostline_training.data.heads import Head, output_names
from frostline_training.data.pythontext import python_text
from frostline_training.data.rows import Array, Column, Dataset, Rows
from frostline_training.data.scenes import GROUND, SIZE, digit_scenes
from frostline_training.sources import Reading, Task

_IMAGE = "one grey image of 8x8 pixels: [1, 8, 8], ink from 0 (none) to 16 (full)"


def _digits(name: str, shape: tuple[int, ...], send: str, task: Task = "single-label") -> Dataset:
    bunch = _bunch("load_digits")
    return Dataset(
        name=name,
        rows=Rows(bunch.images.reshape(-1, *shape).astype(np.float32), bunch.target.astype(np.int64)),
        labels=tuple(str(label) for label in bunch.target_names),
        send=send,
        source="UCI Optical Recognition of Handwritten Digits, as scikit-learn ships it",
        task=task,
        sequence=name == "digits-rows",
    )


def _scenes() -> Dataset:
    bunch = _bunch("load_digits")
    return Dataset(
        name="digits-scenes",
        rows=Rows(*digit_scenes(bunch.images, bunch.target)),
        labels=(GROUND, *(str(label) for label in bunch.target_names)),
        send=f"one grey picture of {SIZE}x{SIZE} pixels with several digits: [1, {SIZE}, {SIZE}], 0 (dark) to 255",
        source="pictures made of UCI Optical Recognition of Handwritten Digits, as scikit-learn ships it, each digit in one",
        task="dense",
    )


def _measurements(name: str, loader: str, send: str, source: str) -> Dataset:
    bunch = _bunch(loader)
    columns, rows = _table(name, bunch, bunch.target.astype(np.int64))
    return Dataset(
        name=name,
        rows=rows,
        labels=tuple(str(label) for label in bunch.target_names),
        send=send,
        source=f"{source}, as scikit-learn ships it",
        columns=columns,
    )


def _wine_and_alcohol() -> Dataset:
    bunch = _bunch("load_wine")
    place = bunch.feature_names.index("alcohol")
    targets = np.stack([bunch.target, bunch.data[:, place]], axis=1).astype(np.float32)
    heads = (Head("cultivar", tuple(str(label) for label in bunch.target_names)), Head("alcohol"))
    bunch.feature_names = [name for name in bunch.feature_names if name != "alcohol"]
    bunch.data = np.delete(bunch.data, place, axis=1)
    columns, rows = _table("wine-and-alcohol", bunch, targets)
    return Dataset(
        name="wine-and-alcohol",
        rows=rows,
        labels=output_names(heads),
        send="twelve chemical measurements of a wine, without its alcohol",
        source="UCI Wine Recognition, as scikit-learn ships it",
        task="any",
        heads=heads,
        columns=columns,
    )


def _diabetes() -> Dataset:
    bunch = _bunch("load_diabetes", scaled=False)
    columns, rows = _table("diabetes", bunch, bunch.target.astype(np.float32)[:, np.newaxis])
    return Dataset(
        name="diabetes",
        rows=rows,
        labels=("progression after one year",),
        send="ten baseline measurements of a patient: age, sex, body mass index, blood pressure, six blood values",
        source="Efron and others, Least Angle Regression (2004), as scikit-learn ships it",
        task="regression",
        columns=columns,
    )


def _table(name: str, bunch: Any, targets: Array) -> tuple[tuple[Column, ...], Rows]:
    """Return the columns of a table of numbers, by the data set's own names, and its rows."""
    names = [str(column) for column in bunch.feature_names]
    cells = {
        column: [repr(value) for value in values] for column, values in zip(names, bunch.data.T.tolist(), strict=True)
    }
    rows = Rows(bunch.data.astype(np.float32), targets, Cells(name, cells, Reading(missing=("",))))
    return tuple(map(Column, names)), rows


def _bunch(loader: str, **arguments: bool) -> Any:
    # scikit-learn takes about a second to import; only training needs it.
    from sklearn import datasets  # noqa: PLC0415

    return getattr(datasets, loader)(**arguments)


DATASETS: Mapping[str, Callable[[], Dataset]] = MappingProxyType(
    {
        "digits": partial(_digits, "digits", (1, 8, 8), _IMAGE),
        "digits-alike": partial(_digits, "digits-alike", (1, 8, 8), _IMAGE, "embedding"),
        "digits-rows": partial(
            _digits,
            "digits-rows",
            (8, 8),
            "rows of pixels from top to bottom, trained on 8: [8, 8], ink from 0 (none) to 16 (full)",
        ),
        "digits-flat": partial(
            _digits, "digits-flat", (64,), "8x8 pixels row by row: [64], ink from 0 (none) to 16 (full)"
        ),
        "digits-scenes": _scenes,
        "iris": partial(
            _measurements,
            "iris",
            "load_iris",
            "four lengths in cm: sepal length, sepal width, petal length, petal width",
            "UCI Iris",
        ),
        "wine": partial(
            _measurements, "wine", "load_wine", "thirteen chemical measurements of a wine", "UCI Wine Recognition"
        ),
        "wine-and-alcohol": _wine_and_alcohol,
        "breast-cancer": partial(
            _measurements,
            "breast-cancer",
            "load_breast_cancer",
            "thirty measurements of cell nuclei",
            "UCI Breast Cancer Wisconsin (Diagnostic)",
        ),
        "diabetes": _diabetes,
        "python-text": python_text,
    }
)
