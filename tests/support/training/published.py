"""A recipe that is trained and published, with the network that was."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from frostline_training import pipeline
from frostline_training.config import Recipe
from frostline_training.publishing import publish as publishing
from frostline_training.publishing.publish import Published


def trained(recipe: Recipe, models: Path, **options: Any) -> nn.Module:
    """Run the recipe as `frostline train` does, and return the network in evaluation mode that it has published in `models`."""
    networks: list[nn.Module] = []

    def publish(module: nn.Module, *args: Any, **named: Any) -> Published:
        networks.append(module)
        return real(module, *args, **named)

    real = publishing.publish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "publish", publish)
        pipeline.run(recipe, models=models, device="cpu", console=Console(quiet=True), runs=None, **options)
    return networks[0].eval()
