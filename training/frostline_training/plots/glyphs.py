"""The symbols of the diagrams: arrows, activations with their curve, additions, time steps."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from frostline_training.plots.canvas import FAINT, GREEN, INK

Curve = NDArray[np.float64]

_X = np.linspace(-3.0, 3.0, 41)
_CURVES: Mapping[str, Callable[[Curve], Curve]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leakyrelu": lambda x: np.where(x > 0, x, 0.1 * x),
    "gelu": lambda x: x / (1 + np.exp(-1.702 * x)),  # the curve as drawn, not as computed
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "σ": lambda x: 1 / (1 + np.exp(-x)),
}


def curve(name: str) -> tuple[Curve, Curve] | None:
    """Return the curve of the activation that `name` begins with, inside -1 to 1; None where it is not known."""
    found = _CURVES.get(name.partition(" ")[0].lower())
    if found is None:
        return None
    y = np.asarray(found(_X), np.float64)
    middle = (y.max() + y.min()) / 2
    return _X / 3, (y - middle) / (y.max() - y.min()) * 2


def arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = INK) -> None:
    """Draw a line through `points` with a head at its end."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=colour, lw=1.2, solid_joinstyle="round", solid_capstyle="butt")
    axes.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
    )


def pill(axes: Axes, x: float, middle: float, words: str, width: float) -> None:
    """Draw an activation: its curve where it is known, and its name, on green."""
    axes.add_patch(
        FancyBboxPatch(
            (x, middle - 9), width, 18, boxstyle="round,pad=0,rounding_size=8", fc="#e3f4ea", ec=GREEN, lw=0.9
        )
    )
    shape = curve(words)
    if shape is not None:
        axes.plot(x + 13 + 7 * shape[0], middle - 5 * shape[1], color=GREEN, lw=1.4)
    axes.text(x + (25 if shape is not None else 9), middle, words, fontsize=9, va="center", color="#1c5a39")


def plus(axes: Axes, x: float, middle: float) -> None:
    """Draw the sign of an addition."""
    axes.add_patch(Circle((x, middle), 5.5, fc="white", ec=INK, lw=1.0))
    axes.plot([x - 3, x + 3], [middle, middle], color=INK, lw=1.0)
    axes.plot([x, x], [middle - 3, middle + 3], color=INK, lw=1.0)


def steps(axes: Axes, x: float, middle: float, width: float, *, backward: bool = False) -> None:
    """Draw one cell that is used again at every step in time, from the first to the last or from the last to the first."""
    places = np.linspace(x + 12, x + min(width, 190.0) - 12, 4)
    names = ("t=1", "t=2", "…", "t=T")
    for before, after in pairwise(places):
        ends = [(before + 12, middle), (after - 12, middle)]
        arrow(axes, ends[::-1] if backward else ends, FAINT)
    for place, name in zip(places, names, strict=True):
        if name != "…":
            axes.add_patch(Rectangle((place - 12, middle - 10), 24, 20, fc="#e8f0f9", ec=FAINT, lw=0.9))
        axes.text(place, middle, name, fontsize=8, ha="center", va="center", color=INK)
