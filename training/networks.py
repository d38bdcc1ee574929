"""The network families: each a handful of PyTorch's own layers, from raw values to logits."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import Activation, Cnn, Mlp

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


class Standardise(nn.Module):
    """Bring raw values to mean 0 and deviation 1, feature by feature.

    It is a layer, so it is exported with the network and clients send raw values.

    Args:
        mean: What to subtract; broadcasts against one row.
        std: What to divide by, nowhere 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, inputs: NDArray[np.float32]) -> "Standardise":
        """Measure `inputs` [N, F] feature by feature, or [N, C, ...] channel by channel."""
        axes = (0, *range(2, inputs.ndim))
        mean = inputs.mean(axes, dtype=np.float64, keepdims=True)[0]
        std = inputs.std(axes, dtype=np.float64, keepdims=True)[0]
        std[std == 0] = 1  # a constant feature says nothing, and must not divide by zero
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` standardised, in the same shape."""
        return (values - self.mean) / self.std


def build(network: Mlp | Cnn, inputs: NDArray[np.float32], *, classes: int) -> nn.Module:
    """Build a network for rows like `inputs` [N, ...] that ends at logits [N, classes].

    The first weights come from PyTorch's global random state; seed it first.
    """
    row = inputs.shape[1:]
    match network:
        case Mlp():
            layers = _mlp(network, row, classes)
        case Cnn():
            layers = _cnn(network, row, classes)
    return nn.Sequential(Standardise.fit(inputs), *layers)


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers training learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _mlp(config: Mlp, row: tuple[int, ...], classes: int) -> list[nn.Module]:
    return [nn.Flatten(), *_dense(int(np.prod(row)), config.hidden, classes, config.activation, config.dropout)]


def _cnn(config: Cnn, row: tuple[int, ...], classes: int) -> list[nn.Module]:
    channels, height, width = row
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise((channels, *config.channels))):
        # No bias: batch-norm subtracts it again.
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [_ACTIVATIONS[config.activation]()]
        if index > 0 and min(height, width) >= 2:
            layers += [nn.MaxPool2d(2)]
            height, width = height // 2, width // 2
    features = config.channels[-1] * height * width
    dense = _dense(features, config.hidden, classes, config.activation, config.dropout)
    return [*layers, nn.Flatten(), nn.Dropout(config.dropout), *dense]


def _dense(
    features: int, hidden: tuple[int, ...], classes: int, activation: Activation, dropout: float
) -> list[nn.Module]:
    widths = (features, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
    return [*layers, nn.Linear(widths[-1], classes)]
