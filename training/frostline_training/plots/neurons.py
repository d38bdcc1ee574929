"""The neuron diagram of a small dense network: circles, lines, and bias nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from torch import nn

from frostline_training.networks.families import Table
from frostline_training.plots import canvas, glyphs
from frostline_training.plots.canvas import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, shortened, text_width
from frostline_training.plots.stages import Stage, by, described
from frostline_training.plots.trace import Layer

_MOST_STAGES, _SHOWN = 6, 8  # more layers than that are told better by blocks; more circles than that are left out
_RADIUS, _PITCH = 14.0, 38.0
_TOP, _COLUMN, _MARGIN = 150.0, 190.0, 60.0
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class _Column:
    """A column of circles: `indices` are the units drawn, of `units`; a gap stands before the last where some are left out."""

    x: float
    units: int
    indices: tuple[int, ...]
    ys: NDArray[np.float64]


def suits(found: Sequence[Stage]) -> bool:
    """Say whether all that learns is a few dense layers, one behind the other (norms aside)."""
    heads = [
        layer
        for stage in found
        for layer in stage.layers
        if layer.kind not in ("norm", "activation", "dropout", "reshape") and not _standardises(layer)
    ]
    return 0 < len(heads) <= _MOST_STAGES and all(
        isinstance(layer.module, nn.Linear) and len(layer.took) == 1 for layer in heads
    )


def _standardises(layer: Layer) -> bool:
    """Say whether it is a table of numbers alone, each of which stays one value."""
    return isinstance(layer.module, Table) and not layer.module.categories


def draw(
    found: Sequence[Stage],
    *,
    title: str,
    learnt: int,
    labels: Sequence[str],
    columns: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> Figure:
    """Draw the stages, and below the outputs what becomes of them, and return the figure.

    Args:
        found: The stages of the network.
        title: What stands above it.
        learnt: How many numbers it has learnt.
        labels: The names of the outputs.
        columns: The names of the inputs.
        answer: What becomes of the outputs, step by step.
    """
    dense = [next(layer for layer in stage.layers if isinstance(layer.module, nn.Linear)) for stage in found[1:]]
    widths = (dense[0].took[-1], *(layer.gave[-1] for layer in dense))
    deepest = max(min(width, _SHOWN) for width in widths) + 1
    names = [shortened(label, 22) for label in labels] if len(labels) == widths[-1] else []
    given = [shortened(column, 22) for column in columns] if len(columns) == widths[0] else []
    left = max([text_width(name, 9) for name in given], default=0.0)
    right = max([text_width(name, 9) for name in names], default=0.0) + 20
    captions = [_caption(stage, number, len(widths)) for number, stage in enumerate(found)]
    captions[-1] += [(GREEN, f"→ {words}") for words in answer]
    foot = max(len(lines) for lines in captions)
    step = max(_COLUMN, *(max(text_width(text, 9) for _, text in lines) + 24 for lines in captions))
    width = 2 * _MARGIN + left + step * (len(widths) - 1) + right + 20
    bottom = _TOP + deepest * _PITCH
    made, axes = canvas.sheet(max(width, 600.0), bottom + foot * 15 + 62)
    places = [_column(_MARGIN + 20 + left + step * index, units, deepest) for index, units in enumerate(widths)]

    axes.text(24, 30, title, fontsize=14, weight="bold", va="center")
    axes.text(
        24, 50, f"{learnt:,} learnt parameters: " + _sum(found, dense, learnt), fontsize=9, color=FAINT, va="center"
    )
    for number, (before, after, layer) in enumerate(zip(places, places[1:], dense, strict=False), start=1):
        _lines(axes, before, after, layer, number)
    for number, (column, stage) in enumerate(zip(places, found, strict=True)):
        last = number == len(places) - 1
        activation = next((layer.title for layer in stage.layers if layer.kind == "activation"), "") if number else ""
        _circles(axes, column, stage, activation, names if last else [], "x" if number == 0 else "z" if last else "")
        for line, (colour, words) in enumerate(captions[number]):
            bold = "bold" if line == 0 else "normal"
            axes.text(
                column.x, bottom + 8 + line * 15, words, fontsize=9, ha="center", va="center", color=colour, weight=bold
            )
    for index, y in zip(places[0].indices, places[0].ys, strict=True):
        if given:
            axes.text(places[0].x - _RADIUS - 8, y, given[index], fontsize=9, ha="right", va="center", color=INK)
    _legend(axes, bottom + foot * 15 + 38)
    return made


def _column(x: float, units: int, deepest: int) -> _Column:
    shown = tuple(range(units)) if units <= _SHOWN else (*range(_SHOWN - 2), units - 1)
    # One place is left free for the dots where units are left out; the top one is the bias node's.
    places = np.arange(len(shown), dtype=np.float64)
    if units > _SHOWN:
        places[-1] += 1
    span = places[-1] if len(places) else 0.0
    offset = (deepest - 1 - 1 - span) / 2 + 1
    return _Column(x, units, shown, _TOP + (places + offset) * _PITCH)


def _lines(axes: Axes, before: _Column, after: _Column, layer: Layer, number: int) -> None:
    module = layer.module
    assert isinstance(module, nn.Linear)  # noqa: S101 `suits` has seen to it
    weights = module.weight.detach().cpu().double().numpy()[np.ix_(after.indices, before.indices)]
    strength = np.abs(weights) / (np.abs(weights).max() or 1.0)
    ends = [((before.x + _RADIUS, y0), (after.x - _RADIUS, y1)) for y1 in after.ys for y0 in before.ys]
    colours = [
        to_rgba(BLUE if weight >= 0 else RED, 0.18 + 0.72 * share)
        for weight, share in zip(weights.ravel(), strength.ravel(), strict=True)
    ]
    axes.add_collection(LineCollection(ends, colors=colours, linewidths=0.5 + 1.9 * strength.ravel(), zorder=1))
    middle = (before.x + after.x) / 2
    mark = str(number).translate(_SUBSCRIPT)
    axes.text(middle, 78, f"weights W{mark}", fontsize=9, ha="center", va="center", color=BLUE, weight="bold")
    axes.text(
        middle,
        92,
        f"{by(tuple(module.weight.shape))} = {module.weight.numel():,}",
        fontsize=9,
        ha="center",
        va="center",
        color=BLUE,
    )
    if module.bias is None:
        axes.text(middle, 108, "no biases", fontsize=9, ha="center", va="center", color=FAINT)
        return
    axes.text(
        middle,
        108,
        f"biases b{mark}: {module.bias.numel():,}",
        fontsize=9,
        ha="center",
        va="center",
        color=ORANGE,
        weight="bold",
    )
    top = _TOP - 6
    bias = [((before.x + 12, top), (after.x - _RADIUS, y)) for y in after.ys]
    axes.add_collection(LineCollection(bias, colors=[to_rgba(ORANGE, 0.55)], linewidths=0.9, linestyles="--", zorder=1))
    axes.add_patch(Circle((before.x, top), 12, fc="#fdf0e6", ec=ORANGE, lw=1.3, zorder=3))
    axes.text(before.x, top, f"b{mark}", fontsize=9, ha="center", va="center", color=ORANGE, zorder=4)


def _circles(axes: Axes, column: _Column, stage: Stage, activation: str, names: Sequence[str], letter: str) -> None:
    colour = {"input": FAINT, "output": GREEN}.get(stage.role, BLUE)
    shape = glyphs.curve(activation) if activation else None
    for index, y in zip(column.indices, column.ys, strict=True):
        axes.add_patch(Circle((column.x, y), _RADIUS, fc="white", ec=colour, lw=1.4, zorder=3))
        if shape is not None:
            axes.plot(column.x + 8 * shape[0], y - 7 * shape[1], color=GREEN, lw=1.5, zorder=4)
        elif letter:
            mark = f"{letter}{str(index + 1).translate(_SUBSCRIPT)}"
            axes.text(
                column.x, y, mark, fontsize=9 if len(mark) < 4 else 7.5, ha="center", va="center", color=INK, zorder=4
            )
        if names:
            axes.text(column.x + _RADIUS + 8, y, names[index], fontsize=9, va="center", color=INK)
    if column.units > len(column.indices):
        axes.text(column.x, column.ys[-1] - _PITCH, "⋮", fontsize=15, ha="center", va="center", color=FAINT)


def _caption(stage: Stage, number: int, columns: int) -> list[tuple[str, str]]:
    units = stage.gave[-1] if stage.gave else 1
    colour = {"input": FAINT, "output": GREEN}.get(stage.role, BLUE)
    what = "values" if number == 0 else "units" if number < columns - 1 else "outputs"
    lines = [(colour, f"{stage.role.upper()}: {units} {what}")]
    for layer in stage.layers:
        match layer.kind:
            case "activation":
                lines.append((GREEN, f"activation {layer.title}"))
            case "dropout":
                lines.append((FAINT, f"{layer.title} (training only)"))
            case "norm":
                lines.append((PURPLE, layer.title))
                lines += [(FAINT, words) for _, words in described(layer)]
            case "table":
                lines.append((FAINT, "standardised: mean, std"))
            case "reshape" if layer.took != layer.gave:
                lines.append((FAINT, f"{by(layer.took)} in one row"))
    return lines


def _sum(found: Sequence[Stage], dense: Sequence[Layer], learnt: int) -> str:
    parts: list[str] = []
    for layer in dense:
        parts.append(by((layer.took[-1], layer.gave[-1])))
        if len(layer.parameters) > 1:
            parts.append(f"{layer.gave[-1]}")
    norms = sum(layer.count for stage in found for layer in stage.layers if layer.kind == "norm")
    rest = learnt - norms - sum(layer.count for layer in dense)
    told = [" + ".join(parts)]
    told += [f"and {norms:,} of normalisation"] if norms else []
    told += [f"and {rest:,} others"] if rest > 0 else []
    told += ["some of them used more than once"] if rest < 0 else []
    return ", ".join(told)


def _legend(axes: Axes, y: float) -> None:
    x = 24.0
    for colour, style, words in (
        (BLUE, "-", "weight above 0"),
        (RED, "-", "weight below 0 (the thicker, the further from 0)"),
        (ORANGE, "--", "bias"),
        (GREEN, "-", "the activation's curve"),
    ):
        axes.plot([x, x + 20], [y, y], color=colour, lw=1.8, ls=style)
        axes.text(x + 26, y, words, fontsize=8, va="center", color=FAINT)
        x += text_width(words, 8) + 44
