"""Untrained networks of every family, published, and PyTorch's answers to requests of any batch size and length."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frostline_training import data, publish
from frostline_training.config import RECIPES
from frostline_training.data import Split
from frostline_training.networks.families import build
from frostline_training.publishing.publish import Published

Array = np.ndarray[Any, Any]

RECIPE_NAMES = ("digits", "digits-mlp", "digits-rnn", "digits-lstm", "digits-gru", "digits-transformer", "text")
SEQUENCES = ("digits-rnn", "digits-lstm", "digits-gru", "digits-transformer", "text")
BATCHES = (1, 3, 64)
LENGTHS = (2, 8, 21)


@dataclass(frozen=True)
class Family:
    """A published network: untrained, because it is the arithmetic that is compared.

    Attributes:
        network: the network.
        rows: 80 rows of the recipe's own data, by input.
        split: all of these.
        published: what came of publishing it.
    """

    network: nn.Module
    rows: Mapping[str, Array]
    split: Split
    published: Published


@dataclass(frozen=True)
class Question:
    """One request, and PyTorch's answer."""

    model: str
    inputs: Mapping[str, Array]
    logits: Array


def publish_families(models: Path) -> dict[str, Family]:
    """Publish the network of one recipe of each kind, on the recipe's own data."""
    built = {}
    for name in RECIPE_NAMES:
        split = data.prepare(RECIPES[name])
        torch.manual_seed(1)
        network = build(RECIPES[name].network, split.dataset).eval()
        few = data.take(split.test, np.arange(80))
        made = publish(
            network,
            data.sample(few),
            name=name,
            models=models,
            test=few,
            dynamic=split.dataset.dynamic,
            probabilities=False,  # untrained, some answer from 0 to 1
        )
        built[name] = Family(network, data.named(few.inputs), split, made)
    return built


def questions(families: Mapping[str, Family]) -> list[Question]:
    """Each family at every batch size and, for sequences, at every length; models and lengths interleaved."""
    asked = []
    for batch in BATCHES:
        for length in LENGTHS:
            for name, family in families.items():
                inputs = {key: array[:batch] for key, array in family.rows.items()}
                if name in SEQUENCES:
                    steps = inputs["input"].shape[1]
                    inputs["input"] = np.ascontiguousarray(inputs["input"].take(np.arange(length) % steps, 1))
                with torch.inference_mode():
                    logits = family.network(*(torch.from_numpy(array) for array in inputs.values())).numpy()
                asked.append(Question(name, inputs, logits))
    return asked
