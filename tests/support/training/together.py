"""Processes that train together without torchrun, forked from one server process that has imported PyTorch already."""

import multiprocessing
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from frostline_training.config import Cnn, Hyperparameters, Mlp, Network, Recipe, Rnn, Transformer, Unet
from frostline_training.data import Dataset, Rows, Split, named, split, tensors
from frostline_training.data.heads import Head, output_names
from frostline_training.loop.device import cpu_threads, repeatable
from frostline_training.loop.distributed import ALONE, Group
from frostline_training.loop.losses import Objective
from frostline_training.loop.progress import Epoch
from frostline_training.loop.trainer import train
from frostline_training.networks.families import build
from frostline_training.sources import Task

# Each drops out wherever it can, and has all that looks beyond a row.
NETWORKS: dict[str, Network] = {
    "mlp": Mlp(hidden=(8, 8), dropout=0.3, norm="batch"),
    "cnn": Cnn(channels=(3, 4), hidden=(8,), dropout=0.3, residual=True),
    "rnn": Rnn(kind="rnn", state=5, layers=2, hidden=(6,), dropout=0.3),
    "lstm": Rnn(kind="lstm", state=5, layers=3, bidirectional=True, dropout=0.3, norm="layer"),
    "lstm of tokens": Rnn(kind="lstm", state=5, layers=2, embedding=4, dropout=0.3),
    "gru of tokens": Rnn(kind="gru", state=5, layers=3, bidirectional=True, embedding=4, dropout=0.3),
    "transformer": Transformer(width=8, heads=2, feedforward=8, hidden=(6,), dropout=0.3),
    "transformer of tokens": Transformer(width=8, heads=2, feedforward=8, dropout=0.3),
    "unet": Unet(channels=(3, 4, 5), dropout=0.3),
    "embedding": Mlp(hidden=(8, 8), dropout=0.3, norm="batch"),
    "any": Mlp(hidden=(8, 8), dropout=0.3),
}
BATCH = 13  # no number of processes divides it


@dataclass(frozen=True)
class Step:
    """What one step computes, in double precision: the answers to the batch, the gradients, and what is kept besides."""

    answers: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


@dataclass(frozen=True)
class Learnt:
    """What a training of two epochs came to: each epoch's loss, and the answers to rows it never saw."""

    losses: list[float]
    answers: Tensor


class Silent:
    """A watcher to whom nothing matters."""

    def step(self) -> None:
        """Do nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Do nothing."""


def rows_for(case: str) -> Split:
    """Return rows that the network of that name takes: three classes, one of them rare, and tokens of many lengths.

    Where each pixel has a class, it is that of the row, or of the next one. Several targets are the class and a number.
    """
    random = np.random.default_rng(11)
    targets = np.repeat(np.arange(3), [12, 30, 48])
    shape = {"mlp": (4,), "embedding": (4,), "any": (4,), "cnn": (2, 6, 5), "unet": (2, 6, 5)}.get(case, (7, 3))
    inputs = random.normal(size=(len(targets), *shape)).astype(np.float32)
    inputs += targets.reshape(-1, *[1] * len(shape))
    if "tokens" in case:
        inputs = (random.integers(1, 30, size=(len(targets), 9)) + 30 * targets[:, np.newaxis]).astype(np.uint8)
        inputs[np.arange(9) >= random.integers(1, 10, size=len(targets))[:, np.newaxis]] = 0
    sequence = case not in {"mlp", "embedding", "any", "cnn", "unet"}
    tasks: dict[str, Task] = {"unet": "dense", "embedding": "embedding", "any": "any"}
    task = tasks.get(case, "single-label")
    if task == "dense":
        targets = (targets[:, None, None] + (random.random((len(targets), 6, 5)) < 0.3)) % 3
    labels: tuple[str, ...] = ("a", "b", "c")
    heads: tuple[Head, ...] = ()
    if task == "any":
        targets = np.stack([targets, inputs[:, 0]], axis=1).astype(np.float32)
        heads = (Head("class", labels), Head("number"))
        labels = output_names(heads)
    rows = Rows(inputs, targets)
    made = Dataset("made", rows, labels, "numbers", "made here", task=task, heads=heads, sequence=sequence)
    return split(made, seed=1, validation=0.2, test=0.2)


def step(case: str, group: Group) -> Step:
    """Make one step of training."""
    rows = rows_for(case)
    with cpu_threads(1), repeatable(torch.device("cpu")):
        torch.manual_seed(3)
        network = build(NETWORKS[case], rows.dataset).double()
        inputs, targets = tensors(rows.train, torch.device("cpu"))
        batch = [values[:BATCH].double() if values.is_floating_point() else values[:BATCH] for values in inputs]
        fitted = Objective.fit(
            rows.dataset.task, targets, label_smoothing=0.1, class_weights=True, heads=rows.dataset.heads
        )
        objective = replace(fitted, weights=None if fitted.weights is None else fitted.weights.double())
        parallel = group.parallel(network, BATCH)
        torch.manual_seed(4)
        answers = parallel.train()(*batch)
        objective.loss(answers, targets[:BATCH]).backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}
    return Step(answers.detach(), gradients, dict(network.named_buffers()))


def learn(case: str, group: Group) -> Learnt:
    """Train for two epochs."""
    hyper = Hyperparameters(epochs=2, batch_size=BATCH, label_smoothing=0.1, class_weights=True)
    rows = rows_for(case)
    recipe = Recipe(name="made", data="made", network=NETWORKS[case], hyperparameters=hyper)
    trained = train(recipe, rows, device=torch.device("cpu"), watcher=Silent(), group=group)
    with torch.no_grad():
        answers = trained.network(*(torch.from_numpy(array) for array in named(rows.test.inputs).values()))
    return Learnt([epoch.train.loss for epoch in trained.history], answers)


def alone() -> dict[str, tuple[Step, Learnt]]:
    """Step and learn in this process, with each network."""
    return {case: (step(case, ALONE), learn(case, ALONE)) for case in NETWORKS}


def together(size: int, folder: Path) -> list[dict[str, tuple[Step, Learnt]]]:
    """Step and learn in `size` processes, and return what came out in each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["frostline_training.pipeline", "sklearn.model_selection", "torch._dynamo"])
    processes = [context.Process(target=_member, args=(rank, size, folder)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"they ended with {[process.exitcode for process in processes]}")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _member(rank: int, size: int, folder: Path) -> None:
    warnings.simplefilter("error")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    group = Group(rank, size, rank)
    done: dict[str, Any] = {case: (step(case, group), learn(case, group)) for case in NETWORKS}
    torch.save(done, folder / f"{rank}.pt")
    distributed.destroy_process_group()
