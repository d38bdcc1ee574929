"""The baselines, on rows whose scores are known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from frostline_training.data import Column, Dataset, Rows, Split
from frostline_training.data.heads import Head, output_names
from frostline_training.evaluation import baselines as module
from frostline_training.evaluation.baselines import Baseline, baselines


def _split(inputs: NDArray[np.generic], targets: NDArray[np.generic], task: str, labels: tuple[str, ...]) -> Split:
    rows = Rows(inputs, targets)
    columns = tuple(Column(str(index)) for index in range(inputs.shape[1]))
    dataset = Dataset("d", rows, labels, "", "", task=task, columns=columns)  # type: ignore[arg-type]
    return Split(dataset, rows, rows, rows)


def _numbers(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(rows, columns)).astype(np.float32)


def _scores(found: tuple[Baseline, ...]) -> dict[str, dict[str, object]]:
    return {one.name: one.card() for one in found}


def test_the_majority_class_is_right_as_often_as_it_comes_and_ranks_nothing() -> None:
    inputs = _numbers(200, 2)
    targets = (inputs[:, 0] > np.quantile(inputs[:, 0], 0.9)).astype(np.int64)
    found = _scores(baselines(_split(inputs, targets, "single-label", ("no", "yes")), seed=1))
    assert found["majority class"]["test_accuracy"] == 0.9
    assert found["majority class"]["test_roc_auc"] == 0.5
    assert found["majority class"]["test_average_precision"] == pytest.approx(0.1)
    assert found["logistic regression"]["test_roc_auc"] == 1  # one value decides
    assert found["gradient boosting"]["test_roc_auc"] == pytest.approx(1)


def test_the_mean_explains_nothing_and_a_line_is_found() -> None:
    inputs = _numbers(100, 2)
    targets = (3 * inputs[:, :1] - 1).astype(np.float32)
    found = _scores(baselines(_split(inputs, targets, "regression", ("y",)), seed=1))
    assert found["mean"]["test_r2"] == pytest.approx(0, abs=1e-6)
    assert found["mean"]["test_rmse_over_std"] == pytest.approx(1)
    assert found["linear regression"]["test_r2"] == pytest.approx(1)
    assert set(found) == {"mean", "linear regression", "gradient boosting"}


def test_every_label_has_a_model_and_one_that_never_varies_needs_none() -> None:
    inputs = _numbers(100, 2)
    targets = np.stack([inputs[:, 0] > 0, np.ones(100)], axis=1).astype(np.float32)
    found = _scores(baselines(_split(inputs, targets, "multi-label", ("a", "b")), seed=1))
    assert found["logistic regression"]["test_micro_f1"] == pytest.approx(1, abs=0.02)
    assert found["logistic regression"]["test_roc_auc"] == 1


def test_missing_numbers_and_categories_are_no_obstacle() -> None:
    inputs = _numbers(90, 2)
    inputs[:, 1] = np.arange(90) % 3 + 1
    inputs[::7, 0] = np.nan
    targets = (inputs[:, 1] == 2).astype(np.int64)
    split = _split(inputs, targets, "single-label", ("no", "yes"))
    columns = (Column("n"), Column("c", ("(unknown)", "a", "b", "c")))
    split = replace(split, dataset=replace(split.dataset, columns=columns))
    found = _scores(baselines(split, seed=1))
    assert found["logistic regression"]["test_accuracy"] == 1
    assert found["gradient boosting"]["test_accuracy"] == 1


def test_what_would_take_long_is_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 100)
    split = _split(_numbers(51, 2), np.arange(51) % 2, "single-label", ("a", "b"))
    found = _scores(baselines(split, seed=1))
    assert found["logistic regression"] == {"skipped": "102 values to learn from, and at most 100 are compared"}
    assert found["majority class"]["test_accuracy"] == 26 / 51


def test_pictures_are_no_table() -> None:
    rows = Rows(np.zeros((6, 1, 4, 4), np.float32), np.arange(6) % 2)
    split = Split(Dataset("d", rows, ("a", "b"), "", ""), rows, rows, rows)
    assert [one.name for one in baselines(split, seed=1)] == ["majority class"]


def test_the_same_seed_gives_the_same_scores() -> None:
    split = _split(_numbers(60, 3), np.arange(60) % 3, "single-label", ("a", "b", "c"))
    assert _scores(baselines(split, seed=4)) == _scores(baselines(split, seed=4))


def test_pixels_are_compared_with_the_majority_class_and_a_model_of_their_own_value() -> None:
    random = np.random.default_rng(1)
    targets = (random.random((6, 4, 5)) < 0.3).astype(np.int64)
    inputs = (targets[:, None] * 10 + random.normal(size=(6, 1, 4, 5))).astype(np.float32)
    rows = Rows(inputs, targets)
    dataset = Dataset("d", rows, ("ground", "spot", "never"), "", "", task="dense")
    found = _scores(baselines(Split(dataset, rows, rows, rows), seed=1))
    share = 1 - targets.mean()
    assert found["majority class"]["test_pixel_accuracy"] == pytest.approx(share)
    assert found["majority class"]["test_mean_iou"] == pytest.approx(share / 2)
    assert found["logistic regression of each pixel"]["test_mean_iou"] == 1


def test_an_embedding_is_compared_with_the_inputs_and_their_principal_components() -> None:
    random = np.random.default_rng(1)
    classes = np.arange(60) % 3
    inputs = (np.eye(3)[classes] + random.normal(size=(60, 3)) * 0.01).reshape(60, 1, 1, 3).astype(np.float32)
    rows = Rows(inputs, classes)
    dataset = Dataset("d", rows, ("a", "b", "c"), "", "", task="embedding")
    found = _scores(baselines(Split(dataset, rows, rows, rows), seed=1, dimensions=2))
    assert found == {
        "raw inputs": {"test_recall_at_1": 1.0, "test_map_at_r": 1.0},
        "principal components": {"test_recall_at_1": 1.0, "test_map_at_r": 1.0},
    }


def test_the_columns_of_a_table_count_alike_for_what_is_near() -> None:
    inputs = _numbers(90, 2) * np.array([1000, 1], np.float32)
    inputs[::7, 0] = np.nan
    inputs[:, 1] = np.arange(90) % 3 + 1
    split = _split(inputs, np.arange(90) % 3, "embedding", ("a", "b", "c"))
    columns = (Column("n"), Column("c", ("(unknown)", "a", "b", "c")))
    found = _scores(baselines(replace(split, dataset=replace(split.dataset, columns=columns)), seed=1))
    assert found["raw inputs"]["test_recall_at_1"] == pytest.approx(1, abs=0.1)


def test_tokens_are_near_to_nothing() -> None:
    rows = Rows(np.ones((6, 4), np.int64), np.arange(6) % 2)
    dataset = Dataset("d", rows, ("a", "b"), "", "", task="embedding", sequence=True)
    found = _scores(baselines(Split(dataset, rows, rows, rows), seed=1))
    assert found["raw inputs"] == {"skipped": "tokens are no numbers that could be near to each other"}


def test_several_targets_have_models_of_their_own_which_are_scored_together() -> None:
    inputs = _numbers(90, 2)
    targets = np.stack([inputs[:, 0] > 0, 3 * inputs[:, 1]], axis=1).astype(np.float32)
    heads = (Head("side", ("left", "right")), Head("height"))
    split = _split(inputs, targets, "any", output_names(heads))
    found = _scores(baselines(replace(split, dataset=replace(split.dataset, heads=heads)), seed=1))
    assert list(found) == [
        "majority class and mean",
        "logistic regression and linear regression",
        "gradient boosting",
    ]
    linear = found["logistic regression and linear regression"]
    assert linear["test_height.r2"] == pytest.approx(1)
    side = _split(inputs, (inputs[:, 0] > 0).astype(np.int64), "single-label", ("left", "right"))
    alone = _scores(baselines(side, seed=1))["logistic regression"]
    assert linear["test_side.accuracy"] == alone["test_accuracy"]
    constant = found["majority class and mean"]
    assert constant["test_height.r2"] == pytest.approx(0, abs=0.1)
    assert constant["test_mean_score"] == pytest.approx(
        np.mean([constant["test_side.accuracy"], constant["test_height.r2"]])
    )


def test_of_several_targets_one_that_takes_too_long_leaves_out_the_model_and_says_which() -> None:
    classes = module.MOST_LABELS + 1
    targets = np.stack([np.arange(3 * classes) % classes, np.arange(3 * classes)], axis=1).astype(np.float32)
    heads = (Head("many", tuple(map(str, range(classes)))), Head("height"))
    split = _split(_numbers(3 * classes, 2), targets, "any", output_names(heads))
    found = _scores(baselines(replace(split, dataset=replace(split.dataset, heads=heads)), seed=1))
    assert found["gradient boosting"] == {"skipped": "target 'many': 51 labels, and at most 50 are compared"}


@pytest.mark.parametrize("task", ["dense", "single-label"])
def test_a_model_that_cannot_be_fitted_is_told_and_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    random = np.random.default_rng(1)
    if task == "dense":
        rows = Rows(_numbers(12, 20).reshape(12, 1, 4, 5), (random.random((12, 4, 5)) < 0.3).astype(np.int64))
        dataset = Dataset("d", rows, ("a", "b"), "", "", task="dense")
        split = Split(dataset, rows, rows, rows)
    else:
        split = _split(_numbers(90, 2), np.arange(90) % 2, task, ("a", "b"))
    found = _scores(baselines(split, seed=1))
    assert {name for name, card in found.items() if "skipped" not in card} == set(found) - {
        name for name in found if name.startswith("logistic")
    }
    assert {card["skipped"] for card in found.values() if "skipped" in card} == {
        "it failed: MemoryError: Unable to allocate 9 GiB"
    }
