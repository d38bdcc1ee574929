"""The training study: what the training loop costs over a loop written by hand.

Both train the digits recipe's network on its rows with the same steps: shuffle, forward, loss, backward, clip, update,
the learning rate's schedule, validation and the best weights after every epoch. Ours also watches, writes metrics and a
checkpoint, and computes with deterministic algorithms. They take turns, so that a busy machine is busy for both.
"""

import argparse
import itertools
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from frostline_training import data
from frostline_training.config import Hyperparameters, Recipe, find_recipe
from frostline_training.data import Split
from frostline_training.loop import runs
from frostline_training.loop.device import cpu_threads
from frostline_training.loop.progress import Epoch
from frostline_training.loop.trainer import train
from frostline_training.networks.families import build


class Stopwatch:
    """A watcher that notes when every epoch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self) -> None:
        """Steps are not timed."""

    def epoch(self, epoch: Epoch) -> None:  # noqa: ARG002 every watcher is told which
        """Note the time."""
        self.ends.append(time.perf_counter())


def ours(recipe: Recipe, split: Split, folder: Path) -> list[float]:
    """Train with `frostline_training.loop.trainer`, and return each epoch's seconds but the first's."""
    watch = Stopwatch()
    train(recipe, split, device=torch.device("cpu"), watcher=watch, run=runs.start(folder, recipe.name))
    return seconds(watch.ends)


def by_hand(recipe: Recipe, split: Split) -> list[float]:
    """Train with the shortest loop that makes the same steps, and return each epoch's seconds but the first's."""
    hyper = recipe.hyperparameters
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, split.dataset)
    inputs, targets = torch.from_numpy(split.train.inputs), torch.from_numpy(split.train.targets)
    held_out, wanted = torch.from_numpy(split.validation.inputs), torch.from_numpy(split.validation.targets)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True
    )
    steps = len(targets) // hyper.batch_size
    total, rise = steps * hyper.epochs, round(hyper.warmup * steps * hyper.epochs)
    step, best, ends = 0, math.inf, []
    for _ in range(hyper.epochs):
        network.train()
        loss_sum = correct = torch.zeros(())
        order = torch.randperm(len(targets))[: steps * hyper.batch_size]
        for rows in torch.split(order, hyper.batch_size):
            rate = (step + 1) / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
            optimizer.param_groups[0]["lr"] = hyper.learning_rate * rate
            logits = network(inputs[rows])
            loss = cross_entropy(logits, targets[rows], label_smoothing=hyper.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this one method untyped
            torch.nn.utils.clip_grad_norm_(network.parameters(), hyper.clip_norm)
            optimizer.step()
            loss_sum = loss_sum + loss.detach() * len(rows)
            correct = correct + (logits.argmax(1) == targets[rows]).sum()
            step += 1
        network.eval()
        with torch.no_grad():
            logits = network(held_out)
            loss_now = cross_entropy(logits, wanted).item()
            (logits.argmax(1) == wanted).float().mean().item()
        if loss_now < best:
            best = loss_now
            {name: value.clone() for name, value in network.state_dict().items()}
        (loss_sum / len(order)).item(), (correct / len(order)).item()
        ends.append(time.perf_counter())
    return seconds(ends)


def seconds(ends: list[float]) -> list[float]:
    """Return the time between each end and the next."""
    return [after - before for before, after in itertools.pairwise(ends)]


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="one of frostline train --list")
    parser.add_argument("--rounds", type=int, default=6, help="how often each loop trains, in turn")
    parser.add_argument("--epochs", type=int, default=5, help="epochs a round; the first is not counted")
    options = parser.parse_args()
    recipe = find_recipe(options.recipe)
    hyper = Hyperparameters.model_validate(recipe.hyperparameters.model_dump() | {"epochs": options.epochs})
    recipe = recipe.model_copy(update={"hyperparameters": hyper})
    split = data.prepare(recipe)
    times: dict[str, list[float]] = {"ours": [], "by hand": []}
    with tempfile.TemporaryDirectory() as folder, cpu_threads(recipe.threads):
        for _ in range(options.rounds):
            times["by hand"] += by_hand(recipe, split)
            times["ours"] += ours(recipe, split, Path(folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name:>8}: median {medians[name]:.4f} s an epoch, {min(values):.4f} to {max(values):.4f} of {len(values)}"
        )
    print(f"   ratio: {medians['ours'] / medians['by hand']:.3f}")


if __name__ == "__main__":
    main()
