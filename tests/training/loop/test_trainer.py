"""The training loop."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import nn

from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.data import Rows, Split, take
from frostline_training.data.heads import Head
from frostline_training.errors import DivergedError
from frostline_training.evaluation.evaluate import score
from frostline_training.loop import trainer
from frostline_training.loop.losses import Objective
from frostline_training.loop.progress import Epoch, Progress, Scores
from frostline_training.loop.runs import start
from frostline_training.loop.trainer import Trained, in_pairs, learning_rate_factor, scores_on, steps_per_epoch, train
from frostline_training.sources import Task

CPU = torch.device("cpu")


class Recorder:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.steps = 0
        self.epochs: list[Epoch] = []

    def step(self) -> None:
        self.steps += 1

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def _train(recipe: Recipe, split: Split) -> Trained:
    return train(recipe, split, device=CPU, watcher=Recorder())


def _scores(network: nn.Module, rows: Rows) -> Scores:
    return scores_on(network, rows, Objective("single-label"))


def _same_weights(one: Trained, other: Trained) -> bool:
    states = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _recipe(*, epochs: int) -> Recipe:
    hyper = Hyperparameters(epochs=epochs, batch_size=16, learning_rate=0.02, patience=epochs)
    return Recipe(name="r", data="blobs", network=Mlp(hidden=(16,)), hyperparameters=hyper)


def _changed(split: Split, task: Task, change: Callable[[Rows], Rows]) -> Split:
    train, validation, test = (change(rows) for rows in (split.train, split.validation, split.test))
    labels = tuple("ab"[: train.targets.shape[1]])
    return Split(replace(split.dataset, rows=train, task=task, labels=labels), train, validation, test)


def _with(recipe: Recipe, **hyperparameters: object) -> Recipe:
    hyper = Hyperparameters.model_validate(recipe.hyperparameters.model_dump() | hyperparameters)
    return recipe.model_copy(update={"hyperparameters": hyper})


def test_training_lowers_the_loss_and_learns_the_classes(small: Recipe, blobs_split: Split) -> None:
    trained = _train(_with(small, epochs=30), blobs_split)
    assert trained.history[-1].train.loss < 0.3 * trained.history[0].train.loss
    assert _scores(trained.network, blobs_split.test).score > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small: Recipe, blobs_split: Split) -> None:
    first = _train(small, blobs_split)
    torch.manual_seed(999)
    again = _train(small, blobs_split)
    other = _train(small.model_copy(update={"seed": 1}), blobs_split)
    assert _same_weights(first, again)
    assert not _same_weights(first, other)


def test_training_leaves_the_callers_random_state_and_settings_alone(small: Recipe, blobs_split: Split) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    _train(small.model_copy(update={"threads": threads + 1}), blobs_split)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_best_weights_by_validation_are_kept(small: Recipe, blobs_split: Split) -> None:
    # So fast that the loss goes up and down.
    trained = _train(_with(small, epochs=25, learning_rate=0.5, patience=25), blobs_split)
    losses = [epoch.validation.loss for epoch in trained.history]
    assert trained.best.number - 1 == int(np.argmin(losses))
    assert trained.best.number < len(losses)
    assert _scores(trained.network, blobs_split.validation).loss == pytest.approx(min(losses), rel=1e-6)
    assert not trained.network.training


def test_training_stops_when_validation_has_not_improved_for_the_patience(small: Recipe, blobs_split: Split) -> None:
    trained = _train(_with(small, epochs=200, learning_rate=0.5, patience=3), blobs_split)
    assert len(trained.history) == trained.best.number + 3
    assert not any(epoch.improved for epoch in trained.history[-3:])


def test_the_watcher_sees_every_step_and_epoch(small: Recipe, blobs_split: Split) -> None:
    watcher = Recorder()
    trained = train(small, blobs_split, device=CPU, watcher=watcher)
    assert tuple(watcher.epochs) == trained.history
    assert [epoch.number for epoch in trained.history] == list(range(1, 9))
    assert watcher.steps == 8 * steps_per_epoch(small, blobs_split) == 8 * (72 // 16)


def test_the_training_computes_with_the_recipes_threads(small: Recipe, blobs_split: Split) -> None:
    class Counting(Recorder):
        def epoch(self, epoch: Epoch) -> None:
            assert torch.get_num_threads() == 3
            super().epoch(epoch)

    watcher = Counting()
    train(small.model_copy(update={"threads": 3}), blobs_split, device=CPU, watcher=watcher)
    assert watcher.epochs


def test_fewer_rows_than_a_batch_make_one_batch(small: Recipe, blobs_split: Split) -> None:
    assert steps_per_epoch(_with(small, batch_size=1000), blobs_split) == 1
    assert len(_train(_with(small, batch_size=1000), blobs_split).history) == 8


def test_batch_norm_never_meets_a_batch_of_one_row(small: Recipe, blobs_split: Split) -> None:
    few = take(blobs_split.train, np.arange(17))
    recipe = _with(small, epochs=2).model_copy(update={"network": Mlp(hidden=(4,), norm="batch")})
    assert len(_train(recipe, replace(blobs_split, train=few)).history) == 2


def test_several_labels_are_learnt(blobs_split: Split) -> None:
    def above(rows: Rows) -> Rows:
        return Rows(rows.inputs, (np.asarray(rows.inputs) > [104, 0.3]).astype(np.float32))

    trained = _train(_recipe(epochs=40), _changed(blobs_split, "multi-label", above))
    assert trained.best.validation.score > 0.9
    assert trained.history[0].validation.score < 0.9


def test_values_are_learnt(blobs_split: Split) -> None:
    def products(rows: Rows) -> Rows:
        return Rows(rows.inputs, np.asarray(rows.inputs).prod(axis=1, keepdims=True))

    trained = _train(_recipe(epochs=60), _changed(blobs_split, "regression", products))
    assert trained.best.validation.score > 0.9  # of the variance
    assert trained.best.validation.loss < 0.1 * trained.history[0].validation.loss


def test_class_weights_find_more_of_a_rare_class(small: Recipe, blobs_split: Split) -> None:
    random = np.random.default_rng(1)
    targets = np.repeat([0, 1], [300, 15])
    rows = Rows((random.normal(size=(315, 2)) + targets[:, np.newaxis]).astype(np.float32), targets)
    split = Split(replace(blobs_split.dataset, rows=rows, labels=("often", "rare")), rows, rows, rows)

    def found(*, weighted: bool) -> int:
        network = _train(_with(small, class_weights=weighted), split).network
        return int(network(torch.from_numpy(rows.inputs))[targets == 1].argmax(1).sum())

    assert found(weighted=True) > 2 * found(weighted=False)


def test_gradients_are_clipped(small: Recipe, blobs_split: Split) -> None:
    # AdamW takes its usual steps however short the gradients are, but for those far below its epsilon, 1e-8.
    still = _train(_with(small, clip_norm=1e-14, weight_decay=0.0), blobs_split)
    losses = [epoch.validation.loss for epoch in still.history]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-4)


def test_the_cpu_computes_in_fp32_whatever_precision_is_for_cuda(small: Recipe, blobs_split: Split) -> None:
    full, half = (_train(_with(small, precision=precision), blobs_split) for precision in ("fp32", "fp16"))
    assert _same_weights(full, half)


def test_a_finished_training_is_resumed_without_another_step(small: Recipe, blobs_split: Split, tmp_path: Path) -> None:
    run = start(tmp_path, "small")
    whole = train(small, blobs_split, device=CPU, watcher=Recorder(), run=run)
    watcher = Recorder()
    resumed = train(small, blobs_split, device=CPU, watcher=watcher, run=run, resume=True)
    assert watcher.steps == 0
    assert resumed.history == whole.history
    assert resumed.seconds == whole.seconds
    assert _same_weights(resumed, whole)


def test_a_run_folder_changes_nothing_in_the_weights(small: Recipe, blobs_split: Split, tmp_path: Path) -> None:
    with_folder = train(small, blobs_split, device=CPU, watcher=Recorder(), run=start(tmp_path, "small"))
    assert _same_weights(with_folder, _train(small, blobs_split))


@pytest.mark.parametrize(("save_s", "saved"), [(0.0, [1, 2, 3, 4, 5]), (0.02, [1, 3, 5]), (10.0, [1, 5])])
def test_checkpoints_take_a_small_share_of_the_time_and_the_last_epoch_has_one(
    small: Recipe, blobs_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_s: float, saved: list[int]
) -> None:
    now_s, numbers = 0.0, []

    def save(path: Path, origin: object, moving: object, progress: Progress) -> None:
        nonlocal now_s
        numbers.append(len(progress.history))
        now_s += save_s

    class Slow(Recorder):
        def epoch(self, epoch: Epoch) -> None:
            nonlocal now_s
            now_s += 0.75

    monkeypatch.setattr("frostline_training.loop.checkpoint.save", save)
    monkeypatch.setattr("frostline_training.loop.trainer.time", SimpleNamespace(perf_counter=lambda: now_s))
    train(_with(small, epochs=5), blobs_split, device=CPU, watcher=Slow(), run=start(tmp_path, "small"))
    assert numbers == saved


def test_a_loss_that_is_no_longer_a_number_ends_the_training(small: Recipe, blobs_split: Split) -> None:
    poisoned = Rows(np.full_like(blobs_split.validation.inputs, np.inf), blobs_split.validation.targets)
    split = Split(blobs_split.dataset, blobs_split.train, poisoned, blobs_split.test)
    with pytest.raises(DivergedError, match=r"no longer a number in epoch 1: lower the learning rate \(0.02\)"):
        _train(small, split)


def test_an_interrupt_passes_through(small: Recipe, blobs_split: Split) -> None:
    class Impatient(Recorder):
        def step(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small, blobs_split, device=CPU, watcher=Impatient())
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluating_in_parts_counts_every_row_once(small: Recipe, blobs_split: Split) -> None:
    network = _train(small, blobs_split).network
    many = Rows(np.tile(np.asarray(blobs_split.test.inputs), (50, 1)), np.tile(blobs_split.test.targets, 50))
    once, often = _scores(network, blobs_split.test), _scores(network, many)
    assert often.score == pytest.approx(once.score)
    assert often.loss == pytest.approx(once.loss, rel=1e-5)


@pytest.mark.parametrize("kept", [1, 100, 2**16])
def test_the_loss_on_training_rows_is_the_one_that_validation_has(
    small: Recipe, blobs_split: Split, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    # Weights that hardly move, and every row in one of three batches: what sets the losses apart is left out.
    monkeypatch.setattr(trainer, "_KEPT_ANSWERS", kept)
    recipe = _with(small, epochs=1, batch_size=24, learning_rate=1e-9, label_smoothing=0.5, class_weights=True)
    few = Rows(np.asarray(blobs_split.train.inputs)[:72], blobs_split.train.targets[:72])
    split = replace(blobs_split, train=few)
    trained = _train(recipe, split)
    objective = Objective.fit("single-label", torch.from_numpy(few.targets), label_smoothing=0.5, class_weights=True)
    expected = scores_on(trained.network, few, objective)
    assert trained.history[0].train.loss == pytest.approx(expected.loss, rel=1e-4)
    assert trained.history[0].train.score == pytest.approx(expected.score)


def _summed(rows: Rows) -> Rows:
    """The same rows, whose target is the sum of their numbers."""
    return Rows(rows.inputs, np.asarray(rows.inputs).sum(1, keepdims=True, dtype=np.float32))


def test_what_is_explained_of_the_validation_rows_is_relative_to_their_own_mean(
    small: Recipe, blobs_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "rows_at_once", lambda *_: 7)

    def summed(rows: Rows) -> Rows:
        sums = np.asarray(rows.inputs).sum(1, dtype=np.float32)
        return Rows(rows.inputs, np.stack([sums, 100 * sums], axis=1))

    split = _changed(blobs_split, "regression", summed)
    split.train.targets[0] = 1e4  # one row that is far off makes the spread of the training rows large
    trained = _train(_with(small, epochs=3), split)
    with torch.no_grad():
        values = trained.network(torch.from_numpy(np.asarray(split.validation.inputs))).numpy()
    assert trained.best.validation.measure == "r2"
    assert trained.best.validation.score == pytest.approx(r2_score(split.validation.targets, values), rel=1e-4)


@pytest.mark.parametrize("task", ["regression", "any"])
def test_what_is_explained_of_an_epochs_rows_is_relative_to_the_mean_of_those_that_were_scored(
    task: Task, small: Recipe, blobs_split: Split
) -> None:
    split = _changed(blobs_split, "regression", _summed)
    rows = split.train
    scored = trainer._order(small.seed, 1, 72, None)[:64].numpy()
    rows.targets[np.setdiff1d(np.arange(72), scored)] = 1e4  # the rest of two batches is far off
    dataset = replace(split.dataset, task=task, heads=(Head("sum"),) if task == "any" else ())
    # Weights that hardly move answer as those after the epoch.
    recipe = _with(small, epochs=1, batch_size=32, learning_rate=1e-9)
    trained = _train(recipe, replace(split, dataset=dataset))
    with torch.no_grad():
        values = trained.network(torch.from_numpy(np.asarray(rows.inputs)[scored])).numpy()
    assert trained.history[0].train.score == pytest.approx(r2_score(rows.targets[scored], values), rel=1e-3)


def test_so_is_a_number_among_several_targets() -> None:
    heads = (Head("length"), Head("kind", ("a", "b")))
    kinds, lengths = np.arange(20) % 2, np.arange(20.0)
    training = torch.tensor([[0.0, 0], [1000.0, 1]])
    objective = Objective.fit("any", training, label_smoothing=0.0, class_weights=False, heads=heads)
    answered = np.where(lengths < 5, 1 - kinds, kinds)  # a quarter is wrong
    answers = np.stack([lengths + 1, 1 - answered, answered], 1).astype(np.float32)
    scores = scores_on(nn.Identity(), Rows(answers, np.stack([lengths, kinds], 1).astype(np.float32)), objective)
    assert scores.score == pytest.approx((r2_score(lengths, answers[:, 0]) + 0.75) / 2)


def test_one_validation_row_has_no_r2_and_the_loss_stops_the_training_as_ever(
    small: Recipe, blobs_split: Split, tmp_path: Path
) -> None:
    split = _changed(blobs_split, "regression", _summed)
    alone = replace(split, validation=take(split.validation, np.arange(1)))
    run = start(tmp_path, "m")
    trained = train(_with(small, epochs=6), alone, device=CPU, watcher=Recorder(), run=run)
    assert all(math.isnan(epoch.validation.score) and not math.isnan(epoch.train.score) for epoch in trained.history)
    assert trained.best.validation.loss == min(epoch.validation.loss for epoch in trained.history)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["validation_r2"] for line in lines] == [None] * len(lines)


def test_the_mean_score_of_an_epoch_leaves_out_a_target_that_never_varies() -> None:
    heads = (Head("length"), Head("kind", ("a", "b")))
    training = torch.tensor([[0.0, 0], [1000.0, 1]])
    objective = Objective.fit("any", training, label_smoothing=0.0, class_weights=False, heads=heads)
    scores = scores_on(
        nn.Identity(), Rows(np.array([[9.0, 0, 1]], np.float32), np.array([[5.0, 1]], np.float32)), objective
    )
    assert scores.score == 1
    assert scores.loss > 0


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_vectors_are_compared_with_all_others_however_large_their_inputs_are(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    random = np.random.default_rng(0)
    classes = random.permutation(np.repeat(np.arange(30), 4))
    vectors = (random.normal(size=(30, 8))[classes] + random.normal(size=(120, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    objective = Objective("embedding", temperature=0.1)
    monkeypatch.setattr(trainer, "rows_at_once", lambda *_: at_once)
    scores = scores_on(nn.Identity(), Rows(vectors, classes), objective)
    assert scores.score == pytest.approx(score(vectors, classes, "embedding").scores["recall_at_1"])
    whole = objective.judge(torch.from_numpy(vectors), torch.from_numpy(classes)).item()
    assert scores.loss == pytest.approx(whole / 120)


def test_the_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[:20] == sorted(factors[:20])
    assert factors[19] == factors[20] == 1
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[0] == pytest.approx(0.05)
    assert factors[-1] == pytest.approx(1e-3)


def test_without_warmup_the_learning_rate_starts_at_its_full_value() -> None:
    assert learning_rate_factor(0, 10, 0.0) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_learns_the_classes(small: Recipe, blobs_split: Split) -> None:
    trained = train(_with(small, epochs=30), blobs_split, device=torch.device("cuda"), watcher=Recorder())
    assert _scores(trained.network, blobs_split.test).score > 0.9


def test_rows_of_a_class_come_two_by_two_in_an_order_that_is_still_random() -> None:
    classes = np.random.default_rng(0).integers(0, 7, 100)
    order = np.random.default_rng(1).permutation(100)
    paired = in_pairs(order, classes)
    assert sorted(paired.tolist()) == list(range(100))
    own = classes[paired]
    beside = (own[:-1] == own[1:]).sum()
    assert beside >= sum(np.bincount(classes) // 2)
    # Each row that is the first of its pair stands where it stood among these.
    firsts = {row: place for place, row in enumerate(order.tolist())}
    alone = [row for place, row in enumerate(paired.tolist()) if place == 0 or own[place - 1] != own[place]]
    assert [firsts[row] for row in alone] == sorted(firsts[row] for row in alone)
