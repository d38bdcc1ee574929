"""The diagram of a network: circles and lines for a small dense network, blocks for every other."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor, nn

from frostline_training.plots import blocks, canvas, neurons
from frostline_training.plots.stages import stages
from frostline_training.plots.trace import trace


def draw(
    network: nn.Module, sample: Sequence[Tensor], paths: Sequence[Path], *, title: str, labels: Sequence[str] = ()
) -> None:
    """Draw `network` as it answers `sample` (one tensor [N, ...] per argument) into every one of `paths`."""
    with canvas.style():
        made = figure(network, sample, title=title, labels=labels)
        for path in paths:
            canvas.save(made, path)


def figure(network: nn.Module, sample: Sequence[Tensor], *, title: str, labels: Sequence[str] = ()) -> Figure:
    """Return the diagram; draw it inside `canvas.style`."""
    found = stages(trace(network, sample))
    learnt = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if neurons.suits(found):
        return neurons.draw(found, title=title, learnt=learnt, labels=labels)
    return blocks.draw(found, title=title, learnt=learnt)
