"""The calibration of probabilities: no odds of class weights, the right temperature, and each class at its share."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from frostline_training.data import Rows, evenly, take
from frostline_training.evaluation.evaluate import answers, device_of
from frostline_training.sources import Task

# How far the logarithm of the temperature, and a bias, may be from 0 on the word of a single row (a prior's deviation).
# Without it a validation split with every row right would ask for certainty, a temperature of 0, and a label that no
# row has for a bias of minus infinity.
_DOUBT, _DOUBT_OF_BIAS = 0.5, 2.0
_FLAT = 1e-9
_MOST_PIXELS = 200_000  # more take long, and change the third digit


class Calibrated(nn.Module):
    """`network` with its logits divided by `temperature`, plus `bias`: constants of the exported graph.

    The bias is [C], or of a shape that broadcasts against logits [N, C, ...].
    """

    temperature: Tensor
    bias: Tensor

    def __init__(self, network: nn.Module, temperature: float, bias: NDArray[np.floating]) -> None:
        super().__init__()
        self.network = network
        device = device_of(network)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32, device=device))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32, device=device))

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return the network's logits [N, C], divided and shifted."""
        logits: Tensor = self.network(first, *others)
        return logits / self.temperature + self.bias


class Unweighted(nn.Module):
    """`network`, which learnt with class weights, with logits of the rows as they are.

    With weights w it has learnt odds that are w times too high, so the logarithm of `weights` (as `Calibrated`'s bias in
    shape) is subtracted, as a constant of the exported graph.
    """

    offset: Tensor

    def __init__(self, network: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", weights.log().to(device_of(network)))

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return the network's logits [N, C], corrected."""
        logits: Tensor = self.network(first, *others)
        return logits - self.offset


def fit(network: nn.Module, learnt: Rows, stopping: Rows, task: Task) -> tuple[float, NDArray[np.float64]]:
    """Return the temperature and the bias of `Calibrated` for `network`.

    Where each pixel has a class, pixels are rows, and of many pictures some are taken, evenly.

    Args:
        network: What answers with logits.
        learnt: The training rows.
        stopping: The validation rows.
        task: What the answers are.
    """
    stopping, learnt = _fewer(stopping, task), _fewer(learnt, task)
    logits, known = (answers(network, rows.inputs) for rows in (stopping, learnt))
    wanted, others = stopping.targets, learnt.targets
    if task == "binary":
        wanted, others = wanted[:, np.newaxis], others[:, np.newaxis]
    behind = logits.ndim - 2
    logits, known = (np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in (logits, known))
    wanted, others = (part.ravel() if behind else part for part in (wanted, others))
    found = temperature(logits, wanted)
    added = bias(np.concatenate([known, logits]) / found, np.concatenate([others, wanted]))
    return found, added.reshape(-1, *(1,) * behind)


def _fewer(rows: Rows, task: Task) -> Rows:
    if task != "dense":
        return rows
    return take(rows, evenly(len(rows.targets), max(1, _MOST_PIXELS * len(rows.targets) // rows.targets.size)))


def temperature(logits: NDArray[np.float32], targets: NDArray[np.generic]) -> float:
    """Find what to divide `logits` [N, C] by, so that the probabilities fit `targets` best.

    The negative log-likelihood of these rows is never worse than without: 1 is returned where nothing is gained.

    Args:
        logits: The network's answers to validation rows.
        targets: Their classes [N], or their labels, 0 or 1, [N, C].
    """
    answers = torch.from_numpy(np.asarray(logits, np.float64))
    return float(np.exp(_fitted(lambda logarithm: answers / logarithm.exp(), (), targets, _DOUBT)))


def bias(logits: NDArray[np.floating], targets: NDArray[np.generic]) -> NDArray[np.float64]:
    """Find what to add to each class's or label's logit, [C], so that its mean probability is its share of `targets`.

    It is the intercept of greatest likelihood. The mean over the validation rows alone would depend on which rows these
    are, by more than most networks are off: give it the training rows too, which a network knows, but whose mean
    probability training does not move.

    Args:
        logits: The network's answers [N, C], divided by the temperature.
        targets: The classes [N], or labels, 0 or 1, [N, C].
    """
    answers = torch.from_numpy(np.asarray(logits, np.float64))
    return _fitted(lambda added: answers + added, (answers.shape[1],), targets, _DOUBT_OF_BIAS)


def _fitted(
    changed: Callable[[Tensor], Tensor], shape: tuple[int, ...], targets: NDArray[np.generic], doubt: float
) -> NDArray[np.float64]:
    """Return the parameter of `shape` with which what `changed` gives is likeliest; 0 where nothing is gained."""
    wanted = torch.from_numpy(targets.astype(np.int64 if targets.ndim == 1 else np.float64))
    parameter = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameter], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=_FLAT)

    def unlikelihood(value: Tensor) -> Tensor:
        if wanted.ndim == 1:
            return cross_entropy(changed(value), wanted, reduction="sum")
        return binary_cross_entropy_with_logits(changed(value), wanted, reduction="sum")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = unlikelihood(parameter) + (parameter / doubt).square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this one method untyped
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # as above
    with torch.no_grad():
        found = parameter.numpy().copy()
        better = bool(unlikelihood(parameter) < unlikelihood(torch.zeros_like(parameter)))
    return found if better and np.isfinite(found).all() else np.zeros(shape)
