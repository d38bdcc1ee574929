"""Tiny data and networks, so that a training takes a moment."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frostline_training.config import Hyperparameters, Mlp, Recipe, find_recipe
from frostline_training.data import Dataset, Rows, Split, split
from frostline_training.publishing.onnx_export import freeze
from frostline_training.publishing.publish import Published, publish


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Networks that tests make begin with the same weights each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def blobs() -> Dataset:
    """Three clouds of points in the plane, far from zero and of unlike scales."""
    random = np.random.default_rng(7)
    targets = np.repeat(np.arange(3), 40)
    centres = np.array([[100.0, 0.1], [110.0, 0.3], [100.0, 0.5]])
    inputs = centres[targets] + random.normal(size=(120, 2)) * [2.0, 0.04]
    return Dataset("blobs", Rows(inputs.astype(np.float32), targets), ("a", "b", "c"), "two numbers", "made here")


@pytest.fixture(scope="session")
def blobs_split(blobs: Dataset) -> Split:
    return split(blobs, seed=3, validation=0.2, test=0.2)


@pytest.fixture
def small() -> Recipe:
    return Recipe(
        name="small",
        data="blobs",
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=8, batch_size=16, learning_rate=0.02),
    )


def _sample() -> torch.Tensor:
    return torch.randn(70, 4, generator=torch.Generator().manual_seed(5))


def _linear() -> nn.Module:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 12).reshape(3, 4))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer.eval()


@pytest.fixture
def sample() -> torch.Tensor:
    """Seventy rows of four features: more than a batch of 64."""
    return _sample()


@pytest.fixture
def linear() -> nn.Module:
    """Four features to three logits, the same every time."""
    return _linear()


@pytest.fixture(scope="session")
def frozen_linear(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that `linear` freezes to: one export for all tests that only read or edit it."""
    path = tmp_path_factory.mktemp("frozen") / "m.onnx"
    freeze(_linear(), {"input": _sample()}, path, metadata={"frostline.name": "m"})
    return path.read_bytes()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """`linear`, published with everything said about it: one publication for all tests that only read it."""
    linear, sample = _linear(), _sample()
    targets = linear(sample).argmax(1).numpy()
    targets[0] = (targets[0] + 1) % 3
    return publish(
        linear,
        sample,
        name="m",
        models=tmp_path_factory.mktemp("published") / "models",
        labels=("a", "b", "ö"),
        test=(sample.double().numpy(), targets),
        recipe=find_recipe("iris"),
        scores={"test_accuracy": 0.5},
        data={"name": "flowers", "rows": {"train": np.int64(9)}},
        send="four lengths",
        rtol=2e-4,
        atol=3e-5,
    )


@pytest.fixture
def everything_under() -> Callable[[Path], list[str]]:
    """Return every path under a folder, hidden ones too."""

    def listing(folder: Path) -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    return listing
