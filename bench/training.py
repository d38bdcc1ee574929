"""The training study: the time of Frostline's training loop against a loop written by hand.

Both train a recipe's network on its rows with the same steps: shuffle, forward, loss, backward, clip, update, the
learning rate's schedule, validation and the best weights after every epoch. Frostline's loop also reports progress,
writes metrics and a checkpoint, and uses deterministic algorithms. The loops take turns, so that other load on the
machine affects both.

`resnet` is a residual network of four stages over 8192 random images of 32 x 32 pixels, a workload for a GPU.
"""

import argparse
import itertools
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from frostline_training import data
from frostline_training.config import Cnn, Hyperparameters, Recipe, find_recipe
from frostline_training.data import Split
from frostline_training.loop import runs
from frostline_training.loop.device import choose_device, cpu_threads
from frostline_training.loop.progress import Epoch
from frostline_training.loop.trainer import train
from frostline_training.networks.families import build
from frostline_training.sources import NpzFile

_HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stopwatch:
    """A progress watcher that records the end of every epoch, and the best accuracy."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.best = 0.0

    def step(self) -> None:
        """Do nothing: steps are not timed."""

    def epoch(self, epoch: Epoch) -> None:
        """Record the end of an epoch."""
        self.ends.append(time.perf_counter())
        self.best = max(self.best, epoch.validation.score)


def resnet_recipe(folder: Path) -> Recipe:
    """A residual network over random images that contain a faint pattern of their class; writes them into `folder`."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, 8192)
    patterns = rng.normal(0, 0.3, (10, 3, 32, 32))
    images = (rng.normal(size=(len(targets), 3, 32, 32)) + patterns[targets]).astype(np.float32)
    np.savez(folder / "images.npz", input=images, target=targets)
    return Recipe(
        name="resnet",
        data=NpzFile(path=folder / "images.npz"),
        network=Cnn(channels=(64, 128, 256, 512), residual=True),
        hyperparameters=Hyperparameters(batch_size=128),
    )


def ours(recipe: Recipe, split: Split, folder: Path, device: torch.device) -> tuple[list[float], float]:
    """Train with `frostline_training.loop.trainer`; returns each epoch's seconds but the first's, and the best score."""
    watch = Stopwatch()
    train(recipe, split, device=device, watcher=watch, run=runs.start(folder, recipe.name))
    return seconds(watch.ends), watch.best


def by_hand(recipe: Recipe, split: Split, device: torch.device) -> tuple[list[float], float]:
    """Train with the shortest loop that makes the same steps; returns the same."""
    hyper = recipe.hyperparameters
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, split.dataset).to(device)
    inputs, targets, held_out, wanted = (
        torch.from_numpy(array).to(device)
        for rows in (split.train, split.validation)
        for array in (rows.inputs, rows.targets)
    )
    half = _HALF[hyper.precision] if device.type == "cuda" else None
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True
    )
    steps = len(targets) // hyper.batch_size
    total, rise = steps * hyper.epochs, round(hyper.warmup * steps * hyper.epochs)
    step, best, accuracy, ends = 0, math.inf, 0.0, []
    for _ in range(hyper.epochs):
        network.train()
        loss_sum = correct = torch.zeros((), device=device)
        order = torch.randperm(len(targets)).to(device)[: steps * hyper.batch_size]
        for rows in torch.split(order, hyper.batch_size):
            rate = (step + 1) / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
            optimizer.param_groups[0]["lr"] = hyper.learning_rate * rate
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = network(inputs[rows])
                loss = cross_entropy(logits, targets[rows], label_smoothing=hyper.label_smoothing)
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this one method untyped
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), hyper.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            loss_sum = loss_sum + loss.detach() * len(rows)
            correct = correct + (logits.argmax(1) == targets[rows]).sum()
            step += 1
        network.eval()
        with torch.no_grad():
            logits = network(held_out)
            loss_now = cross_entropy(logits, wanted).item()
            accuracy = max(accuracy, (logits.argmax(1) == wanted).float().mean().item())
        if loss_now < best:
            best = loss_now
            {name: value.clone() for name, value in network.state_dict().items()}
        (loss_sum / len(order)).item(), (correct / len(order)).item()
        ends.append(time.perf_counter())
    return seconds(ends), accuracy


def seconds(ends: list[float]) -> list[float]:
    """The seconds between consecutive ends."""
    return [after - before for before, after in itertools.pairwise(ends)]


def main() -> None:
    """Parse the command line, measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="resnet, or one of frostline train --list")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", choices=tuple(_HALF), nargs="+", default=["fp32"], help="of the arithmetic on CUDA, one or more"
    )
    parser.add_argument("--rounds", type=int, default=6, help="how often each loop trains, in turn")
    parser.add_argument("--epochs", type=int, default=5, help="epochs a round; the first is not counted")
    options = parser.parse_args()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        recipe = resnet_recipe(place) if options.recipe == "resnet" else find_recipe(options.recipe)
        split = data.prepare(recipe)
        for precision in options.precision:
            changed = {"epochs": options.epochs, "precision": precision}
            hyper = Hyperparameters.model_validate(recipe.hyperparameters.model_dump() | changed)
            compare(recipe.model_copy(update={"hyperparameters": hyper}), split, place, device, options.rounds)


def compare(recipe: Recipe, split: Split, folder: Path, device: torch.device, rounds: int) -> None:
    """Train with both loops in turn, and print the time of an epoch with each."""
    times: dict[str, list[float]] = {"ours": [], "by hand": []}
    best: dict[str, list[float]] = {"ours": [], "by hand": []}
    with cpu_threads(recipe.threads):
        for _ in range(rounds):
            for name, (took, accuracy) in (
                ("by hand", by_hand(recipe, split, device)),
                ("ours", ours(recipe, split, folder, device)),
            ):
                times[name] += took
                best[name].append(accuracy)
    medians = {name: statistics.median(values) for name, values in times.items()}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{recipe.name}, {recipe.hyperparameters.precision} on {where}")
    for name, values in times.items():
        print(
            f"{name:>8}: median {medians[name]:.4f} s an epoch, {min(values):.4f} to {max(values):.4f} of {len(values)}; "
            f"best accuracy on validation {statistics.median(best[name]):.4f}"
        )
    print(f"   ratio: {medians['ours'] / medians['by hand']:.3f}")


if __name__ == "__main__":
    main()
