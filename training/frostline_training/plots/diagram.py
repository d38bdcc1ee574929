"""The diagram of a network: circles and lines for a small dense network, blocks for every other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor, nn

from frostline_training.data.heads import Head
from frostline_training.errors import first_line
from frostline_training.evaluation.decide import Decision
from frostline_training.plots import blocks, canvas, listing, neurons
from frostline_training.plots.stages import stages
from frostline_training.plots.trace import trace
from frostline_training.sources import Task


def draw(
    network: nn.Module,
    sample: Sequence[Tensor],
    paths: Sequence[Path],
    *,
    title: str,
    labels: Sequence[str] = (),
    columns: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> None:
    """Draw `network` as it answers `sample` (one tensor [N, ...] per argument) into every one of `paths`.

    A network that cannot be followed through a sample is not drawn: the picture says why, and lists what it has learnt.

    Args:
        network: Any module.
        sample: What it is called with.
        paths: Files that end in ``.png``, ``.svg`` or ``.pdf``.
        title: What stands above it.
        labels: The names of the outputs.
        columns: The names of a table's columns.
        answer: What becomes of the outputs behind the network, step by step; see `behind`.
    """
    with canvas.style():
        made = figure(network, sample, title=title, labels=labels, columns=columns, answer=answer)
        for path in paths:
            canvas.save(made, path)


def figure(
    network: nn.Module,
    sample: Sequence[Tensor],
    *,
    title: str,
    labels: Sequence[str] = (),
    columns: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> Figure:
    """Return the diagram; draw it inside `canvas.style`."""
    network = getattr(network, "_orig_mod", network)  # a compiled module calls the one that was compiled
    learnt = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    try:
        layers = trace(network, sample)
    except Exception as error:  # noqa: BLE001 the user's own code: anything may come out
        why = f"it could not be followed through a sample: {type(error).__name__}: {first_line(error)}"
        return listing.draw(network, title=title, learnt=learnt, why=why)
    if not layers:
        why = "it consists of no layers that could be drawn, only of PyTorch's functions"
        return listing.draw(network, title=title, learnt=learnt, why=why)
    found = stages(layers)
    if neurons.suits(found):
        return neurons.draw(found, title=title, learnt=learnt, labels=labels, columns=columns, answer=answer)
    return blocks.draw(found, title=title, learnt=learnt, names=columns, answer=answer)


def behind(task: Task, decision: Decision | None = None, heads: Sequence[Head] = ()) -> tuple[str, ...]:
    """Return what becomes of the outputs behind the network, step by step: nothing where they are served as they are."""
    if decision is not None and task == "single-label":
        (cut,) = decision.cuts
        return "softmax", f"{canvas.shortened(cut.label, 24)} from {cut.threshold:.3g} on"
    if decision is not None and task == "multi-label":
        return "sigmoid", "yes from a threshold on, label by label"
    if heads:
        return (canvas.shortened(f"outputs: {', '.join(head.name for head in heads)}", 48),)
    steps: Mapping[Task, tuple[str, ...]] = {
        "single-label": ("softmax", "argmax: the class"),
        "binary": ("sigmoid", f"yes from {0.5 if decision is None else decision.cuts[0].threshold:.3g} on"),
        "multi-label": ("sigmoid", "yes above 0.5, label by label"),
        "dense": ("softmax of each pixel", "argmax: the class of each"),
    }
    return steps.get(task, ())
