"""The training loop."""

import numpy as np
import pytest
import torch

from training.config import Cnn, Hyperparameters, Recipe
from training.data import Rows, Split
from training.errors import DeviceError, DivergedError
from training.trainer import Epoch, Trained, choose_device, evaluate, learning_rate_factor, steps_per_epoch, train

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


def _with(recipe: Recipe, **hyperparameters: object) -> Recipe:
    hyper = Hyperparameters.model_validate(recipe.hyperparameters.model_dump() | hyperparameters)
    return recipe.model_copy(update={"hyperparameters": hyper})


def test_training_lowers_the_loss_and_learns_the_classes(small: Recipe, blobs_split: Split) -> None:
    trained = _train(_with(small, epochs=30), blobs_split)
    assert trained.history[-1].train.loss < 0.3 * trained.history[0].train.loss
    assert evaluate(trained.network, blobs_split.test).accuracy > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small: Recipe, blobs_split: Split) -> None:
    first = _train(small, blobs_split)
    torch.manual_seed(999)
    again = _train(small, blobs_split)
    other = _train(small.model_copy(update={"seed": 1}), blobs_split)
    weights = [trained.network.state_dict()["2.weight"] for trained in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


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
    assert evaluate(trained.network, blobs_split.validation).loss == pytest.approx(min(losses), rel=1e-6)
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


def test_batch_norm_never_meets_a_batch_of_one_row(blobs_split: Split) -> None:
    images = {
        part: Rows(rows.inputs.reshape(-1, 2, 1, 1), rows.targets)
        for part, rows in (
            ("train", Rows(blobs_split.train.inputs[:17], blobs_split.train.targets[:17])),
            ("validation", blobs_split.validation),
            ("test", blobs_split.test),
        )
    }
    recipe = Recipe(
        name="r",
        data="blobs",
        network=Cnn(channels=(4,), hidden=()),
        hyperparameters=Hyperparameters(epochs=2, batch_size=16),
    )
    assert len(_train(recipe, Split(blobs_split.dataset, **images)).history) == 2


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
    many = Rows(np.tile(blobs_split.test.inputs, (50, 1)), np.tile(blobs_split.test.targets, 50))
    once, often = evaluate(network, blobs_split.test), evaluate(network, many)
    assert often.accuracy == pytest.approx(once.accuracy)
    assert often.loss == pytest.approx(once.loss, rel=1e-5)


def test_the_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[:20] == sorted(factors[:20])
    assert factors[19] == factors[20] == 1
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[0] == pytest.approx(0.05)
    assert factors[-1] == pytest.approx(1e-3)


def test_without_warmup_the_learning_rate_starts_at_its_full_value() -> None:
    assert learning_rate_factor(0, 10, 0.0) == 1


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_a_word_that_is_no_device_is_refused(asked: str) -> None:
    with pytest.raises(DeviceError, match="is not one of auto, cpu, cuda, cuda:N"):
        choose_device(asked)


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU


def test_cuda_is_refused_in_one_sentence_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(
        DeviceError, match=r"device 'cuda': this PyTorch .* finds no CUDA device; install .*, or use auto"
    ):
        choose_device("cuda")


def test_a_cuda_device_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="there are only 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_learns_the_classes(small: Recipe, blobs_split: Split) -> None:
    trained = train(_with(small, epochs=30), blobs_split, device=torch.device("cuda"), watcher=Recorder())
    assert evaluate(trained.network, blobs_split.test).accuracy > 0.9
