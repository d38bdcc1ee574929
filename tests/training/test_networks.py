"""The network families."""

import numpy as np
import pytest
import torch

from training.config import Activation, Cnn, Mlp
from training.networks import Standardise, build, count_parameters


def test_standardise_brings_every_feature_to_mean_0_and_deviation_1() -> None:
    inputs = np.random.default_rng(1).normal([5, -300], [0.1, 40], size=(500, 2)).astype(np.float32)
    values = Standardise.fit(inputs)(torch.from_numpy(inputs))
    torch.testing.assert_close(values.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_standardise_measures_images_channel_by_channel() -> None:
    images = np.stack([np.full((4, 4), 10.0), np.arange(16.0).reshape(4, 4)])[np.newaxis].repeat(3, 0)
    layer = Standardise.fit(images.astype(np.float32))
    assert layer.mean.shape == (2, 1, 1)
    assert layer.mean.flatten().tolist() == [10.0, 7.5]


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    layer = Standardise.fit(np.full((9, 1), 4, dtype=np.float32))
    assert layer(torch.tensor([[4.0], [6.0]])).flatten().tolist() == [0.0, 2.0]


def test_what_standardise_measured_is_not_learnt() -> None:
    inputs = np.ones((3, 4), dtype=np.float32)
    assert count_parameters(build(Mlp(hidden=()), inputs, classes=2)) == 4 * 2 + 2


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
@pytest.mark.parametrize(
    ("family", "row"),
    [(Mlp(hidden=(5, 6), dropout=0.1), (4,)), (Mlp(), (2, 3)), (Cnn(channels=(2, 3, 4), hidden=(5,)), (3, 9, 5))],
)
def test_every_family_ends_at_one_logit_per_class(
    family: Mlp | Cnn, row: tuple[int, ...], activation: Activation
) -> None:
    inputs = np.random.default_rng(1).normal(size=(6, *row)).astype(np.float32)
    network = build(family.model_copy(update={"activation": activation}), inputs, classes=7)
    assert network(torch.from_numpy(inputs)).shape == (6, 7)


def test_a_deep_cnn_stops_halving_at_one_pixel() -> None:
    network = build(Cnn(channels=(2,) * 6), np.zeros((2, 1, 4, 4), dtype=np.float32), classes=2)
    assert network(torch.zeros(2, 1, 4, 4)).shape == (2, 2)


def test_the_chosen_activation_is_used() -> None:
    network = build(Mlp(hidden=(4,), activation="gelu"), np.zeros((2, 4), dtype=np.float32), classes=2)
    assert [type(layer).__name__ for layer in network.modules() if isinstance(layer, torch.nn.GELU)] == ["GELU"]
