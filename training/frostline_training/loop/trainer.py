"""The training loop: from a recipe and its rows to the weights with the best validation score."""

import math
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from frostline_training import data
from frostline_training.config import Recipe
from frostline_training.data import Rows, Split
from frostline_training.errors import DivergedError
from frostline_training.evaluation.evaluate import device_of, rows_at_once
from frostline_training.loop import checkpoint
from frostline_training.loop.device import cpu_threads, repeatable
from frostline_training.loop.distributed import ALONE, Group
from frostline_training.loop.losses import Objective
from frostline_training.loop.progress import Epoch, Measure, Progress, Scores
from frostline_training.loop.runs import Run
from frostline_training.loop.unknown_categories import fit_unknown
from frostline_training.networks.families import build

_CHECKPOINT_SHARE = 0.02  # of a training's time, at most, goes into checkpoints after the first
_KEPT_ANSWERS = 2**16  # numbers that wait to be scored together: one batch at a time costs small networks a tenth
_RELATIVE: tuple[Measure, ...] = ("r2", "mean_score")
_HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trained:
    """A finished training: `network` holds the best epoch's weights and is in evaluation mode.

    `seconds` counts those before an interruption too.
    """

    network: nn.Module
    history: tuple[Epoch, ...]
    best: Epoch
    seconds: float


class Watcher(Protocol):
    """Who is told how it goes. Neither call may change the training."""

    def step(self) -> None:
        """One batch was learnt from."""

    def epoch(self, epoch: Epoch) -> None:
        """One pass is over."""


def steps_per_epoch(recipe: Recipe, split: Split) -> int:
    """Return how many batches one epoch has. A rest smaller than a batch waits for the next epoch's shuffle."""
    return max(1, len(split.train.targets) // recipe.hyperparameters.batch_size)


def train(  # noqa: PLR0915 the loop is read from top to bottom, and its steps are statements
    recipe: Recipe,
    split: Split,
    *,
    device: torch.device,
    watcher: Watcher,
    run: Run | None = None,
    resume: bool = False,
    group: Group = ALONE,
) -> Trained:
    """Train `recipe`'s network on `split.train`, stopping by `split.validation`; `split.test` is not looked at.

    The same arguments on the same machine give the same weights, interrupted and resumed or not: all that an epoch
    draws (the order of the rows, dropout) is decided by the seed and the epoch's number. Processes that train together
    make the steps that one alone would, up to the rounding of the last digits.

    Args:
        recipe: What to train.
        split: The rows.
        device: Where to compute.
        watcher: Is told of every step and epoch.
        run: Where the metrics and a checkpoint go after every epoch. Only the first process of a group has one.
        resume: Go on from the run's checkpoint.
        group: The processes that train together; each computes its part of every batch.

    Raises:
        DivergedError: The loss is no longer a finite number.
        ResumeError: The checkpoint is of another recipe or other rows.
        TrainingError: A batch has fewer rows than there are processes.
    """
    hyper = recipe.hyperparameters
    clock = time.perf_counter()
    with cpu_threads(recipe.threads), repeatable(device):
        torch.manual_seed(recipe.seed)
        network = build(recipe.network, split.dataset, dimensions=hyper.dimensions).to(device)
        inputs, targets = data.tensors(split.train, device)
        objective = Objective.fit(
            split.dataset.task,
            targets,
            classes=len(split.dataset.labels),
            label_smoothing=hyper.label_smoothing,
            class_weights=hyper.class_weights,
            temperature=hyper.temperature,
            heads=split.dataset.heads,
        )
        classes = split.train.targets if split.dataset.task == "embedding" else None
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True
        )
        half = _HALF[hyper.precision] if device.type == "cuda" else None
        scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)  # fp16 gradients would underflow
        moving: checkpoint.Moving = {"network": network, "optimizer": optimizer, "scaler": scaler}
        origin = checkpoint.origin(recipe, split)
        saved = group.first(lambda: checkpoint.load(run.checkpoint, origin) if run and resume else None)
        progress = checkpoint.restore(moving, saved) if saved else Progress()
        clock -= progress.seconds
        if run:
            run.rewrite(progress.history)
        next_checkpoint_s = -math.inf
        steps = steps_per_epoch(recipe, split)
        parallel = group.parallel(network, min(hyper.batch_size, len(targets)))

        while not progress.over(hyper):
            number = len(progress.history) + 1
            torch.manual_seed(_drawn(recipe.seed, number))
            order = _order(recipe.seed, number, len(targets), classes)[: steps * hyper.batch_size].to(device)
            # A rest smaller than a batch is not scored: R2 is relative to the mean of the rows that are.
            scored = objective.judging(targets[order]) if objective.measure in _RELATIVE else objective
            sums = torch.zeros(2, dtype=torch.float64, device=device)  # of loss, of right rows
            answered: list[tuple[Tensor, Tensor]] = []
            parallel.train()
            for step, batch in enumerate(torch.split(order, hyper.batch_size), start=(number - 1) * steps):
                factor = learning_rate_factor(step, steps * hyper.epochs, hyper.warmup)
                for parameters in optimizer.param_groups:
                    parameters["lr"] = hyper.learning_rate * factor
                wanted = targets[batch]

                with torch.autocast(device.type, dtype=half, enabled=half is not None):
                    outputs = parallel(*(values[batch] for values in inputs))
                    loss = objective.loss(outputs, wanted)
                optimizer.zero_grad()
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this method untyped
                scaler.unscale_(optimizer)
                clip_grad_norm_(network.parameters(), hyper.clip_norm)
                scaler.step(optimizer)
                scaler.update()

                answered.append((outputs.detach(), wanted))
                if len(answered) * outputs.numel() >= _KEPT_ANSWERS or step + 1 == number * steps:
                    sums += _sums(scored, answered)
                    answered.clear()
                watcher.step()

            train_loss, train_score = (sums / len(order)).tolist()
            scores = Scores(train_loss, train_score, objective.measure)
            # All must decide the same, and another machine may round otherwise.
            validation = group.first(lambda: scores_on(network, split.validation, objective))
            if not (math.isfinite(scores.loss) and math.isfinite(validation.loss)):
                raise DivergedError(
                    f"the loss is no longer a number in epoch {number}: lower the learning rate ({hyper.learning_rate})"
                )
            rate = float(optimizer.param_groups[0]["lr"])
            epoch = Epoch(number, rate, scores, validation, progress.improves(validation))
            progress = progress.then(epoch, network.state_dict(), time.perf_counter() - clock)
            if run:
                run.log(epoch)
                # Where an epoch is short beside writing all weights, not every one is worth it: a resumed run computes the
                # epochs since the last checkpoint again, to the same numbers.
                began = time.perf_counter()
                if began >= next_checkpoint_s or progress.over(hyper):
                    checkpoint.save(run.checkpoint, origin, moving, progress)
                    ended = time.perf_counter()
                    next_checkpoint_s = ended + (ended - began) / _CHECKPOINT_SHARE
            watcher.epoch(epoch)

    assert progress.best is not None  # noqa: S101 for the type checker: there is at least one epoch
    assert progress.best_weights is not None  # noqa: S101 as above
    network.load_state_dict(progress.best_weights)
    fit_unknown(network.eval(), inputs, targets, objective, _order(recipe.seed, 0, len(targets), classes))
    return Trained(network.eval(), progress.history, progress.best, progress.seconds)


def scores_on(network: nn.Module, rows: Rows, objective: Objective) -> Scores:
    """Return `network`'s scores on `rows`, in evaluation mode, on the device it is on.

    R2 is relative to the mean of these rows, and each vector is compared with those of all other rows.
    """
    device = device_of(network)
    network.eval()
    inputs, targets = data.tensors(rows, device)
    objective = objective.judging(targets)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    answered: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for part in torch.split(torch.arange(len(targets), device=device), rows_at_once(inputs, 1024)):
            answered.append((network(*(values[part] for values in inputs)), targets[part]))
            # How many rows are answered at once is a matter of memory, and must not decide which vectors are compared.
            if objective.task != "embedding":
                sums += _sums(objective, answered)
                answered.clear()
        if answered:
            sums += _sums(objective, answered)
    loss_sum, right_sum = sums.tolist()
    return Scores(loss_sum / len(targets), right_sum / len(targets), objective.measure)


def _sums(objective: Objective, answered: list[tuple[Tensor, Tensor]]) -> Tensor:
    # They stay on the device: reading a number back would wait for it.
    outputs, wanted = (torch.cat(parts) for parts in zip(*answered, strict=True))
    return torch.stack((objective.judge(outputs.float(), wanted), objective.right(outputs, wanted)))


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return what to multiply the learning rate by at `step` (from 0) of `steps`: a rise, then a cosine fall."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return max(1e-3, (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def _drawn(*decided_by: int) -> int:
    return int(np.random.SeedSequence(decided_by).generate_state(1)[0])


def _order(seed: int, number: int, rows: int, classes: NDArray[np.generic] | None) -> Tensor:
    order = np.random.default_rng((seed, number)).permutation(rows)
    return torch.from_numpy(order if classes is None else in_pairs(order, classes))


def in_pairs(order: NDArray[np.int64], classes: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return `order` [N] of rows with two of a class beside each other, so that a batch has a mate for each, or nearly each.

    Args:
        order: The rows in random order.
        classes: Of each row, [N].
    """
    places = np.argsort(classes[order], kind="stable")
    own = classes[order][places]
    begins = np.flatnonzero(np.append(True, own[1:] != own[:-1]))
    sizes = np.diff(np.append(begins, len(own)))
    second = (np.arange(len(own)) - np.repeat(begins, sizes)) % 2 == 1
    beside = places.copy()
    beside[second] = places[np.flatnonzero(second) - 1]  # where the first of its pair is
    key = np.empty_like(places)
    key[places] = beside
    return order[np.argsort(key, kind="stable")]
