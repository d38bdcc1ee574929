"""The calibration of probabilities: without the odds that class weights have added, and at the right temperature."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from frostline_training.evaluation.evaluate import device_of

# How far the temperature may be from 1 on the word of a single row (a prior's deviation, of its logarithm).
# Without it a validation split with every row right would ask for certainty: a temperature of 0.
_DOUBT = 0.5
_FLAT = 1e-9


class Tempered(nn.Module):
    """`network` with its logits divided by `temperature`, which is a constant of the exported graph."""

    temperature: Tensor

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        divisor = torch.tensor(temperature, dtype=torch.float32, device=device_of(network))
        self.register_buffer("temperature", divisor)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return the network's logits [N, C], divided."""
        logits: Tensor = self.network(first, *others)
        return logits / self.temperature


class Unweighted(nn.Module):
    """`network`, which learnt with class weights, with logits of the rows as they are.

    With weights w it has learnt odds that are w times too high, so the logarithm of `weights` [C] is subtracted, as a
    constant of the exported graph.
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


def temperature(logits: NDArray[np.float32], targets: NDArray[np.generic]) -> float:
    """Find what to divide `logits` [N, C] by, so that the probabilities fit `targets` best.

    The negative log-likelihood of these rows is never worse than without: 1 is returned where nothing is gained.

    Args:
        logits: The network's answers to validation rows.
        targets: Their classes [N], or their labels, 0 or 1, [N, C].
    """
    answers = torch.from_numpy(np.asarray(logits, np.float64))
    if targets.ndim == 1:
        wanted = torch.from_numpy(targets.astype(np.int64))
    else:
        wanted = torch.from_numpy(targets.astype(np.float64))
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=_FLAT)

    def likelihood(log_temperature: Tensor) -> Tensor:
        divided = answers / log_temperature.exp()
        if wanted.ndim == 1:
            return cross_entropy(divided, wanted, reduction="sum")
        return binary_cross_entropy_with_logits(divided, wanted, reduction="sum")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = likelihood(logarithm) + (logarithm / _DOUBT) ** 2 / 2
        value.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this one method untyped
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # as above
    with torch.no_grad():
        found = logarithm.exp().item()
        better = likelihood(logarithm) < likelihood(torch.zeros_like(logarithm))
    return found if np.isfinite(found) and bool(better) else 1.0
