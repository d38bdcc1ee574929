"""The training loop: from a recipe and its rows to the weights that did best on validation."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.config import Recipe
from training.data import Rows, Split
from training.errors import DeviceError, DivergedError
from training.networks import build

_EVALUATION_ROWS = 1024  # bounds memory; the result does not depend on it


@dataclass(frozen=True)
class Scores:
    """How a network does on some rows: mean cross-entropy (nats), and the fraction of rows it gets right."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows, counted from 1. `train` is measured while the weights still move."""

    number: int
    learning_rate: float
    train: Scores
    validation: Scores
    improved: bool


@dataclass(frozen=True)
class Trained:
    """A finished training: `network` holds the best epoch's weights and is in evaluation mode."""

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


def choose_device(asked: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Raises:
        DeviceError: It is not there, or not one of these words.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cpu":
        return torch.device("cpu")
    kind, _, index = asked.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()) or asked.endswith(":"):
        raise DeviceError(f"device {asked!r} is not one of auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"device {asked!r}: this PyTorch ({torch.__version__}) finds no CUDA device; "
            "install a CUDA build of PyTorch and a driver, or use auto or cpu"
        )
    if index and int(index) >= torch.cuda.device_count():
        raise DeviceError(f"device {asked!r}: there are only {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device(asked)


def steps_per_epoch(recipe: Recipe, split: Split) -> int:
    """Return how many batches one epoch has. A rest smaller than a batch waits for the next epoch's shuffle."""
    return max(1, len(split.train.targets) // recipe.hyperparameters.batch_size)


def train(recipe: Recipe, split: Split, *, device: torch.device, watcher: Watcher) -> Trained:
    """Train `recipe`'s network on `split.train`, stopping by `split.validation`; `split.test` is not looked at.

    The same arguments on the same machine give the same weights.

    Raises:
        DivergedError: The loss is no longer a finite number.
    """
    hyper = recipe.hyperparameters
    started = time.perf_counter()
    with cpu_threads(recipe.threads), _repeatable(recipe.seed, device):
        network = build(recipe.network, split.train.inputs, classes=len(split.dataset.labels)).to(device)
        inputs, targets = _on(device, split.train)
        steps = steps_per_epoch(recipe, split)
        optimizer = torch.optim.AdamW(network.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps * hyper.epochs, hyper.warmup)
        )
        history: list[Epoch] = []
        best: Epoch | None = None
        best_weights: dict[str, Tensor] = {}

        for number in range(1, hyper.epochs + 1):
            network.train()
            loss_sum = correct = torch.zeros((), device=device)
            learning_rate = float(schedule.get_last_lr()[0])
            order = torch.randperm(len(targets))[: steps * hyper.batch_size].to(device)
            for rows in torch.split(order, hyper.batch_size):
                logits = network(inputs[rows])
                loss = cross_entropy(logits, targets[rows], label_smoothing=hyper.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this one method untyped
                optimizer.step()
                schedule.step()
                # Kept on the device: reading a number back would wait for it at every step.
                loss_sum = loss_sum + loss.detach() * len(rows)
                correct = correct + (logits.argmax(1) == targets[rows]).sum()
                watcher.step()

            validation = evaluate(network, split.validation)
            scores = Scores(loss_sum.item() / len(order), correct.item() / len(order))
            if not (math.isfinite(scores.loss) and math.isfinite(validation.loss)):
                raise DivergedError(
                    f"the loss is no longer a number in epoch {number}: lower the learning rate ({hyper.learning_rate})"
                )
            improved = best is None or validation.loss < best.validation.loss
            epoch = Epoch(number, learning_rate, scores, validation, improved)
            history.append(epoch)
            watcher.epoch(epoch)
            if best is None or improved:
                best = epoch
                best_weights = {name: value.clone() for name, value in network.state_dict().items()}
            elif number - best.number >= hyper.patience:
                break

    assert best is not None  # noqa: S101 for the type checker: there is at least one epoch
    network.load_state_dict(best_weights)
    return Trained(network.eval(), tuple(history), best, time.perf_counter() - started)


def evaluate(network: nn.Module, rows: Rows) -> Scores:
    """Return `network`'s scores on `rows`, in evaluation mode, on the device it is on."""
    device = next(network.parameters()).device
    network.eval()
    inputs, targets = _on(device, rows)
    loss_sum = correct = 0.0
    with torch.no_grad():
        for part, wanted in zip(
            torch.split(inputs, _EVALUATION_ROWS), torch.split(targets, _EVALUATION_ROWS), strict=True
        ):
            logits = network(part)
            loss_sum += cross_entropy(logits, wanted, reduction="sum").item()
            correct += (logits.argmax(1) == wanted).sum().item()
    return Scores(loss_sum / len(targets), correct / len(targets))


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return what to multiply the learning rate by at `step` (from 0) of `steps`: a rise, then a cosine fall."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return max(1e-3, (1 + math.cos(math.pi * min(1.0, progress))) / 2)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with `count` CPU threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    # The caller's random state and settings come back as they were.
    settings = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        # cuBLAS reads it once; without it deterministic algorithms are refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=settings[0], warn_only=settings[1])


def _on(device: torch.device, rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.inputs).to(device), torch.from_numpy(rows.targets).to(device)
