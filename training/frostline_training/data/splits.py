"""The split of a data set into training, validation and test rows.

The same arguments give the same split every time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline_training.config import Hyperparameters, Recipe
from frostline_training.data import builtin, encoding, files, folders, tables
from frostline_training.data.rows import Array, Dataset, Rows, named, take
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, CsvFile, ImageFolder, MaskFolder, NpzFile, ParquetFile, Source

_COMPARED_BYTES = 1 << 26  # rows that are compared with one another; more would take a while
_REPEATED = 0.05  # of the test rows: what is worth a word
_PARTS = 3


@dataclass(frozen=True)
class Split:
    """A data set's rows, each in exactly one part. `dataset.rows` are those to train on: a network is made for them."""

    dataset: Dataset
    train: Rows
    validation: Rows
    test: Rows

    def of_head(self, place: int) -> "Split":
        """Return the same rows with the target of one head alone."""
        train, validation, test = (
            replace(self.dataset, rows=rows).of_head(place) for rows in (self.train, self.validation, self.test)
        )
        return Split(train, train.rows, validation.rows, test.rows)


def load(source: str | Source) -> Dataset:
    """Return the built-in data set called `source`, without network access, or read the user's own.

    Raises:
        DataError: There is none; the text lists those there are. Or a file holds something wrong; the text says where.
    """
    match source:
        case str():
            if source not in builtin.DATASETS:
                known = ", ".join(sorted(builtin.DATASETS))
                raise DataError(f"no data set is called {source!r}; there are: {known}")
            return builtin.DATASETS[source]()
        case CsvFile() | ParquetFile():
            return tables.load(source)
        case NpzFile():
            return files.load_npz(source)
        case ImageFolder():
            return folders.load_images(source)
        case MaskFolder():
            return folders.load_masks(source)


def split(dataset: Dataset, *, seed: int, validation: float, test: float) -> Split:
    """Split the rows at random, keeping each class's share as nearly as whole rows can: of a few rows a part may get none.

    Of several targets it is the first that is a class.

    The same arguments give the same parts, whatever else ran before.

    Args:
        dataset: What to split.
        seed: Decides which row goes where.
        validation: Fraction of all rows to stop training by.
        test: Fraction of all rows that training never sees.

    Raises:
        DataError: Some class has too few rows to be in every part; or the task is an embedding, and some part has no two
            rows of a class.
    """
    # scikit-learn takes about a second to import; only training needs it.
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    rows = dataset.rows
    total = len(rows.targets)
    _check_classes(dataset)
    classes = _strata(dataset)
    counts = {part: _count(fraction, total) for part, fraction in (("validation", validation), ("test", test))}
    try:
        rest, judged = train_test_split(np.arange(total), test_size=counts["test"], stratify=classes, random_state=seed)
        learnt, stopping = train_test_split(
            rest,
            test_size=counts["validation"],
            stratify=None if classes is None else classes[rest],
            random_state=seed,
        )
    except ValueError as error:
        raise DataError(
            f"cannot split {total} rows of {dataset.name!r} class by class: {error}; give more rows of each "
            "class, or change test and validation"
        ) from error
    if dataset.task == "embedding":
        _check_pairs(dataset, {"training": learnt, "validation": stopping, "test": judged})
    train, tested = take(rows, learnt), take(rows, judged)
    notes = (*dataset.notes, *_repeated(train, tested))
    return Split(replace(dataset, rows=train, notes=notes), train, take(rows, stopping), tested)


def _repeated(train: Rows, test: Rows) -> Iterator[str]:
    """Say how many rows of the test are rows of the training too, which makes its scores better than they are."""
    inputs = list(named(train.inputs).values())
    if len(inputs) == 1 and inputs[0].nbytes <= _COMPARED_BYTES:
        known = {row.tobytes() for row in inputs[0]}
        (tested,) = named(test.inputs).values()
        again = sum(row.tobytes() in known for row in tested)
        if again >= max(1, _REPEATED * len(tested)):
            yield f"{again} of the {len(tested)} test rows are in the training rows too, so scores may be better than for new rows"


def prepare(recipe: Recipe) -> Split:
    """Load and split what `recipe` trains on: `.test` holds exactly the rows its training never sees."""
    dataset = load(recipe.data)
    if dataset.task in ("regression", "embedding", "any"):
        _check_unweighted(dataset, recipe.hyperparameters)
    parts = split(dataset, seed=recipe.split_seed, validation=recipe.validation, test=recipe.test)
    # Of a binary task the second class is yes. The rows are held out by chance, and not by what they are called.
    return _turned(parts) if dataset.task == "binary" and recipe.positive == dataset.labels[0] else parts


def _check_unweighted(dataset: Dataset, hyper: Hyperparameters) -> None:
    if hyper.class_weights:
        why = {
            "regression": "has no classes to weigh",
            "embedding": "learns from pairs of rows, not from classes",
        }.get(dataset.task, "has several targets, and only the classes of a target alone can be weighed")
        raise DataError(f"{dataset.name} {why}: leave out class_weights for the task {dataset.task}")
    if hyper.label_smoothing and dataset.task in ("embedding", "regression"):
        raise DataError(
            f"{dataset.name} has the task {dataset.task}, whose loss has no labels to smooth: leave out label_smoothing"
        )


def _turned(parts: Split) -> Split:
    """Return the same rows with the two classes in the other order."""
    train, validation, test = (
        rows._replace(targets=1 - rows.targets) for rows in (parts.train, parts.validation, parts.test)
    )
    return Split(replace(parts.dataset, rows=train, labels=parts.dataset.labels[::-1]), train, validation, test)


def describe(split: Split) -> dict[str, object]:
    """Return what a card says of the data: the source, how many rows, the baseline, and each column's categories."""
    dataset = split.dataset
    described: dict[str, object] = {
        "name": dataset.name,
        "source": dataset.source,
        "task": dataset.task,
        "rows": {part: len(getattr(split, part).targets) for part in ("train", "validation", "test")},
    }
    if dataset.majority is not None:
        described["majority_baseline"] = dataset.majority
    if dataset.task == "embedding":
        described["classes"] = list(dataset.labels)  # no outputs are called so
    if dataset.heads:
        described["targets"] = {head.name: head.labels and list(head.labels) for head in dataset.heads}
    if dataset.columns:
        described["columns"] = encoding.to_card(dataset.columns)
    if dataset.schema:
        described["schema"] = [
            {name: value for name, value in asdict(column).items() if value not in (None, ())}
            for column in dataset.schema
        ]
    return described | dict(dataset.facts)


def _strata(dataset: Dataset) -> Array | None:
    targets = dataset.rows.targets
    if dataset.task in ONE_CLASS:
        return targets
    classes = [place for place, head in enumerate(dataset.heads) if head.labels is not None]
    return targets[:, classes[0]] if classes else None


def _check_classes(dataset: Dataset) -> None:
    targets = dataset.rows.targets
    if len(targets) < _PARTS:
        raise DataError(f"{dataset.name} has {len(targets)} rows: too few to train on, to stop by and to judge by")
    for place, head in enumerate(dataset.heads):
        _check_classes(replace(dataset.of_head(place), name=f"{dataset.name}, target {head.name!r}"))
    if dataset.task == "regression":
        constant = [label for label, values in zip(dataset.labels, targets.T, strict=True) if np.ptp(values) == 0]
        if constant:
            raise DataError(
                f"{dataset.name}: every row has the same target {constant[0]!r} (in float32): there is nothing to learn"
            )
    if dataset.task == "dense" and np.ptp(targets) == 0:
        raise DataError(
            f"{dataset.name}: every pixel has the class {dataset.labels[targets.flat[0]]!r}: there is nothing to tell apart"
        )
    if dataset.task not in ONE_CLASS:
        return
    if dataset.task == "binary" and len(dataset.labels) > 2:
        raise DataError(
            f"{dataset.name} has {len(dataset.labels)} classes, and a binary task has no and yes: leave task out"
        )
    rows: NDArray[np.intp] = np.bincount(targets, minlength=len(dataset.labels))
    if len(dataset.labels) < 2:
        raise DataError(f"{dataset.name} has only the class {dataset.labels[0]!r}: there is nothing to tell apart")
    if rows.min() < _PARTS:
        label = dataset.labels[int(rows.argmin())]
        raise DataError(
            f"{dataset.name}: class {label!r} has {rows.min()} row{'' if rows.min() == 1 else 's'}, and needs at least {_PARTS}: "
            "with fewer it cannot have one to train on, one to stop by and one to judge by"
        )


def _check_pairs(dataset: Dataset, parts: Mapping[str, NDArray[np.intp]]) -> None:
    """Find out before the training that an embedding has nothing to learn from, to stop by or to be judged by."""
    for part, places in parts.items():
        if len(np.unique(dataset.rows.targets[places])) == len(places):
            instead = "lower validation and test" if part == "training" else f"raise {part}"
            raise DataError(
                f"{dataset.name}: no two of the {len(places)} {part} rows have the same class, so nothing says which of "
                f"them should be near to each other: {instead}, or give more rows of each class"
            )


def _count(fraction: float, rows: int) -> int:
    # Rounded first: 0.2 * 120 must not become 25 because it is 24.000000000000004.
    return math.ceil(round(fraction * rows, 6))
