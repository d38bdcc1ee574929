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
from frostline_training.data.rows import Dataset, Rows, named, take
from frostline_training.errors import DataError
from frostline_training.sources import ONE_CLASS, CsvFile, ImageFolder, MaskFolder, NpzFile, ParquetFile, Source

_COMPARED_BYTES = 1 << 26  # rows that are compared with one another; more would take a while
_NAMED = 5  # classes in one sentence
_REPEATED = 0.05  # of the test rows: what is worth a word
_PARTS = 3
_LEARNT = 2  # rows: of one alone there is nothing to tell apart, and none to export the network with


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
    """Split the rows at random, keeping each class's share as nearly as whole rows can, and one of each class to train on.

    Of a few rows the validation or the test may get none. Of several targets the shares are those of the first that is a
    class; one to train on each has.

    The same arguments give the same parts, whatever else ran before.

    Args:
        dataset: What to split.
        seed: Decides which row goes where.
        validation: Fraction of all rows to stop training by.
        test: Fraction of all rows that training never sees.

    Raises:
        DataError: There are too few rows to train on, or of some class to be in every part; or the task is an embedding, and
            some part has no two rows of a class.
    """
    # scikit-learn takes about a second to import; only training needs it.
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    rows = dataset.rows
    total = len(rows.targets)
    _check_classes(dataset)
    classes = _classes(dataset)
    strata = classes[:, 0] if classes.shape[1] else None
    counts = {part: _count(fraction, total) for part, fraction in (("validation", validation), ("test", test))}
    left = total - sum(counts.values())
    if left < _LEARNT:
        raise DataError(
            f"{dataset.name} has {total} rows: validation={validation:g} takes {counts['validation']} of them and test={test:g} "
            f"{counts['test']}, and {max(0, left)} of the {_LEARNT} that a training takes at least would be left: give more "
            "rows, or lower validation and test"
        )
    try:
        rest, judged = train_test_split(np.arange(total), test_size=counts["test"], stratify=strata, random_state=seed)
        _bring_each_class(classes, rest, judged, least=2)  # one to train on, and one to stop by
        learnt, stopping = train_test_split(
            rest,
            test_size=counts["validation"],
            stratify=None if strata is None else strata[rest],
            random_state=seed,
        )
        _bring_each_class(classes, learnt, stopping, least=1)
    except ValueError as error:
        raise DataError(
            f"cannot split {total} rows of {dataset.name!r} class by class: {error}; give more rows of each "
            "class, or change test and validation"
        ) from error
    _check_learnt(dataset, learnt)
    if dataset.task == "embedding":
        _check_pairs(dataset, {"training": learnt, "validation": stopping, "test": judged})
    train, tested = take(rows, learnt), take(rows, judged)
    notes = (*dataset.notes, *_repeated(train, tested), *_unlearnt(dataset, train))
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


def _unlearnt(dataset: Dataset, train: Rows) -> Iterator[str]:
    """Name the classes of pixels, or labels, of which the training rows have none, so that a network cannot learn them.

    Where a row has one class, `_bring_each_class` has seen to it.
    """
    if dataset.task == "dense":
        counts = np.bincount(train.targets.ravel(), minlength=len(dataset.labels))
    elif dataset.task == "multi-label":
        counts = np.count_nonzero(train.targets, axis=0)
    else:
        return
    missing = [repr(label) for label, count in zip(dataset.labels, counts, strict=True) if not count]
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        what = "a pixel of the class" if dataset.task == "dense" else "the label"
        yield f"no training row has {what} {shown}, which the network cannot learn"


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


def _classes(dataset: Dataset) -> NDArray[np.int64]:
    """Return the class of each row, [N, 1], or those of several targets, [N, K]; [N, 0] where a row has none."""
    targets = dataset.rows.targets
    if dataset.task in ONE_CLASS:
        return targets[:, np.newaxis].astype(np.int64)
    each = [targets[:, place] for place, head in enumerate(dataset.heads) if head.labels is not None]
    return np.array(each, dtype=np.int64).reshape(len(each), len(targets)).T


def _bring_each_class(
    classes: NDArray[np.int64], part: NDArray[np.intp], other: NDArray[np.intp], *, least: int
) -> None:
    """Exchange rows of `part` and `other` until `part` has `least` rows of each class, where that can be."""
    for own in classes.T:
        for lacking in np.flatnonzero(np.bincount(own[part], minlength=own.max() + 1) < least):
            while np.count_nonzero(own[part] == lacking) < least:
                wanted = np.flatnonzero(own[other] == lacking)
                spare = np.flatnonzero(np.all([np.bincount(each)[each] > least for each in classes[part].T], axis=0))
                if not (wanted.size and spare.size):
                    break
                part[spare[0]], other[wanted[0]] = other[wanted[0]], part[spare[0]]


def _check_learnt(dataset: Dataset, learnt: NDArray[np.intp]) -> None:
    """Find out before the training that there is a class of which nothing would be learnt."""
    for place, head in enumerate(dataset.heads):
        if head.labels is not None:
            _check_learnt(replace(dataset.of_head(place), name=f"{dataset.name}, target {head.name!r}"), learnt)
    if dataset.task in ONE_CLASS:
        rows = np.bincount(dataset.rows.targets[learnt], minlength=len(dataset.labels))
        if rows.min() == 0:
            raise DataError(
                f"{dataset.name}: no row of the class {dataset.labels[int(rows.argmin())]!r} is among the {len(learnt)} to train "
                "on: lower validation and test, or give more rows of it"
            )


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
