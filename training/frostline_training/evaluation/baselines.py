"""The baselines: what a score is worth beside the answer that costs nothing, and beside simpler models.

They learn from the same training rows and are scored on the same test rows; scikit-learn's models do the learning.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline_training.data import Array, Dataset, Rows, Split, named
from frostline_training.errors import first_line
from frostline_training.evaluation.evaluate import Evaluation, score

MOST_CELLS = 2_000_000  # rows times columns times models; above it they take more than about ten seconds
MOST_LABELS = 50  # a label or value has a model of its own
MOST_PIXELS = 20_000  # that a model of single pixels learns from
_ITERATIONS = 1000
_MOST_CATEGORIES = 255  # that gradient boosting takes apart; more are taken for numbers
_LEAST = 1e-12  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Baseline:
    """A simpler model, with its scores on the test rows, or the reason why there are none."""

    name: str
    evaluation: Evaluation | None
    skipped: str = ""

    def card(self) -> dict[str, object]:
        """Return it as JSON values."""
        if self.evaluation is None:
            return {"skipped": self.skipped}
        return {f"test_{name}": value for name, value in self.evaluation.scores.items()}


def baselines(split: Split, *, seed: int, positive: int | None = None, dimensions: int = 64) -> tuple[Baseline, ...]:
    """Fit the baselines on `split.train` and score them on `split.test`.

    The first always gives the shares of the classes or labels, or the mean. Where the inputs are a table there are
    also a linear model and gradient boosting; they are skipped, with the reason, where they would take long. Where each
    pixel has a class there is also a linear model of the pixel's own values. Those of an embedding are the inputs
    themselves, and their principal components. Of several targets each has its own models, and together they are one.

    Args:
        split: The rows.
        seed: Decides what gradient boosting draws.
        positive: Which class of two is looked for.
        dimensions: How many principal components there are at most.
    """
    if split.dataset.task == "binary":
        # Their two probabilities are those of two classes.
        split = replace(split, dataset=replace(split.dataset, task="single-label"))
    dataset, task = split.dataset, split.dataset.task
    if task == "any":
        return _of_heads(split, seed)
    if task == "dense":
        return _of_pixels(split, seed)
    if task == "embedding":
        return _of_vectors(split, seed, dimensions)
    constant = np.repeat(_prior(split.train, dataset)[np.newaxis], len(split.test.targets), axis=0)
    regression = task == "regression"
    found = [Baseline("mean" if regression else "majority class", _scored(constant, split, positive))]
    table = _table(split.train, dataset)
    if table is None:
        return tuple(found)
    models: Mapping[str, Callable[[], Any]] = {
        "linear regression" if regression else "logistic regression": lambda: _linear(dataset, table),
        "gradient boosting": lambda: _boosting(dataset, table, seed),
    }
    outputs = 1 if task == "single-label" and len(dataset.labels) == 2 else len(dataset.labels)
    for name, make in models.items():
        reason = _too_large(table, outputs)
        if reason:
            found.append(Baseline(name, None, reason))
            continue
        found.append(_tried(name, partial(_answers, make, split, table), split, positive))
    return tuple(found)


def _tried(name: str, answer: Callable[[], NDArray[np.floating]], split: Split, positive: int | None) -> Baseline:
    """Return a baseline of what `answer` answers to the test rows, or why there is none."""
    try:
        return Baseline(name, _scored(answer(), split, positive))
    except ValueError as error:  # scikit-learn's word for rows that it does not take
        return Baseline(name, None, f"scikit-learn refuses the rows: {first_line(error)}")
    except Exception as error:  # noqa: BLE001 the network took long to train; what it is compared with must not cost it
        return Baseline(name, None, f"it failed: {type(error).__name__}: {first_line(error)}")


def _of_heads(split: Split, seed: int) -> tuple[Baseline, ...]:
    heads = split.dataset.heads
    found = []
    for each in zip(*(baselines(split.of_head(place), seed=seed) for place in range(len(heads))), strict=True):
        name = " and ".join(dict.fromkeys(one.name for one in each))
        answers = [one.evaluation.logits for one in each if one.evaluation is not None]
        if len(answers) < len(each):
            why = next(
                f"target {head.name!r}: {one.skipped}" for head, one in zip(heads, each, strict=True) if one.skipped
            )
            found.append(Baseline(name, None, why))
        else:
            found.append(Baseline(name, _scored(np.concatenate(answers, axis=1), split, None)))
    return tuple(found)


def _of_vectors(split: Split, seed: int, dimensions: int) -> tuple[Baseline, ...]:
    from sklearn.decomposition import PCA  # noqa: PLC0415 scikit-learn takes about a second to import

    names = ("raw inputs", "principal components")
    learnt, test = (next(iter(named(rows.inputs).values())) for rows in (split.train, split.test))
    if np.issubdtype(learnt.dtype, np.integer):
        return tuple(Baseline(name, None, "tokens are no numbers that could be near to each other") for name in names)
    with _quietly():
        if _table(split.train, split.dataset) is not None:
            prepared = _prepared(split.dataset, learnt).set_params(sparse_threshold=0).fit(learnt)
            learnt, test = (np.asarray(prepared.transform(table), dtype=np.float64) for table in (learnt, test))
        learnt, test = (rows.reshape(len(rows), -1) for rows in (learnt, test))
        found = Baseline(names[0], _scored(test, split, None))
        reason = _too_large(learnt, 1)
        if reason:
            return found, Baseline(names[1], None, reason)
        components = PCA(min(dimensions, *learnt.shape), random_state=seed)
        return found, _tried(names[1], lambda: components.fit(learnt).transform(test), split, None)


def _of_pixels(split: Split, seed: int) -> tuple[Baseline, ...]:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 scikit-learn takes about a second to import
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 as above
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 as above

    (shown, wanted), (test, targets) = (
        (next(iter(named(rows.inputs).values())), rows.targets) for rows in (split.train, split.test)
    )
    shape = (len(targets), len(split.dataset.labels), *targets.shape[1:])
    prior = _prior(split.train, split.dataset).reshape(-1, *(1,) * (targets.ndim - 1))
    found = Baseline("majority class", _scored(np.broadcast_to(prior, shape), split, None))
    pixels, classes = np.moveaxis(shown, 1, -1).reshape(-1, shown.shape[1]), wanted.ravel()
    chosen = np.random.default_rng(seed).permutation(len(classes))[:MOST_PIXELS]
    name = "logistic regression of each pixel"
    if np.ptp(classes[chosen]) == 0:
        return found, Baseline(name, None, f"{len(chosen)} pixels taken at random have one class")

    def answers() -> NDArray[np.floating]:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
        model.fit(pixels[chosen], classes[chosen])
        shares = np.zeros((targets.size, shape[1]))
        shares[:, model.classes_] = model.predict_proba(np.moveaxis(test, 1, -1).reshape(-1, test.shape[1]))
        return np.moveaxis(_logarithm(shares).reshape(*targets.shape, shape[1]), -1, 1)

    with _quietly():
        return found, _tried(name, answers, split, None)


@contextmanager
def _quietly() -> Iterator[None]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415 comes with scikit-learn

    # On a busy machine several threads wait for each other more than they compute: 29 s instead of 2.5 s on the digits.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # that a baseline has not converged is no news of the network
        yield


def _scored(answers: NDArray[np.floating], split: Split, positive: int | None) -> Evaluation:
    return score(
        answers.astype(np.float32), split.test.targets, split.dataset.task, positive, heads=split.dataset.heads
    )


def _prior(train: Rows, dataset: Dataset) -> NDArray[np.float64]:
    targets = train.targets
    match dataset.task:
        case "single-label" | "dense":  # which a binary task is by now
            return _logarithm(np.bincount(targets.ravel(), minlength=len(dataset.labels)) / targets.size)
        case "multi-label":
            return _log_odds(targets.mean(axis=0, dtype=np.float64))
        case _:  # values; several targets come one by one
            return np.asarray(targets.mean(axis=0, dtype=np.float64))


def _table(rows: Rows, dataset: Dataset) -> Array | None:
    # Rows of numbers and categories; not pictures, sequences or tokens.
    inputs = named(rows.inputs)
    first = next(iter(inputs.values()))
    flat = len(inputs) == 1 and first.ndim == 2 and np.issubdtype(first.dtype, np.floating)
    return first if flat and not dataset.sequence else None


def _too_large(table: Array, outputs: int) -> str:
    cells = table.size * outputs
    if outputs > MOST_LABELS:
        return f"{outputs} labels, and at most {MOST_LABELS} are compared"
    if cells > MOST_CELLS:
        return f"{cells:,} values to learn from, and at most {MOST_CELLS:,} are compared"
    return ""


def _answers(make: Callable[[], Any], split: Split, table: Array) -> NDArray[np.float64]:
    targets, test = split.train.targets, next(iter(named(split.test.inputs).values()))
    task, count = split.dataset.task, len(split.dataset.labels)
    with _quietly():
        if task == "single-label":
            model = make().fit(table, targets)
            shares = np.zeros((len(test), count))
            shares[:, model.classes_] = model.predict_proba(test)
            return _logarithm(shares)
        columns = []
        for column in targets.T:
            if task == "regression":
                columns.append(make().fit(table, column).predict(test))
            elif column.min() == column.max():  # nothing to learn
                columns.append(np.full(len(test), _log_odds(column[:1].astype(np.float64))[0]))
            else:
                columns.append(_log_odds(make().fit(table, column).predict_proba(test)[:, 1]))
    return np.stack(columns, axis=1)


def _linear(dataset: Dataset, table: Array) -> Any:
    from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: PLC0415 as below
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 as below

    model = LinearRegression() if dataset.task == "regression" else LogisticRegression(max_iter=_ITERATIONS)
    return make_pipeline(_prepared(dataset, table), model)


def _prepared(dataset: Dataset, table: Array) -> Any:
    """Return what makes comparable numbers of a table: standardised, missing ones at the mean, categories one-hot."""
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415 scikit-learn takes about a second to import
    from sklearn.impute import SimpleImputer  # noqa: PLC0415 as above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 as above
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415 as above

    numbers, categories = _columns(dataset, table)
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
        ]
    )


def _boosting(dataset: Dataset, table: Array, seed: int) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415 scikit-learn takes about a second to import
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    _, categories = _columns(dataset, table)
    few = [index for index in categories if len(dataset.columns[index].categories or ()) <= _MOST_CATEGORIES]
    model = HistGradientBoostingRegressor if dataset.task == "regression" else HistGradientBoostingClassifier
    return model(categorical_features=few, random_state=seed)


def _columns(dataset: Dataset, table: Array) -> tuple[list[int], list[int]]:
    categories = [index for index, column in enumerate(dataset.columns) if column.categories is not None]
    return [index for index in range(table.shape[1]) if index not in categories], categories


def _logarithm(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(shares, _LEAST)))


def _log_odds(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(shares, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(inside) - np.log1p(-inside))
