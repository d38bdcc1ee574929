"""The pictures whose pixels were answered worst: each beside its true mask and the predicted one."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.patches import Patch

from frostline_training.data import Array, Split, named
from frostline_training.evaluation.evaluate import Evaluation, predictions
from frostline_training.plots import canvas
from frostline_training.plots.canvas import FAINT, GREEN, RED, shortened

_MOST = 8
_BESIDE = 2  # pictures in a line, three panels each
_PANEL = 1.7  # inches
_FIRST_COLOUR = "#e8eaee"  # most often it is the background
_MOST_NAMES = 24


def draw(path: Path, evaluation: Evaluation, split: Split, title: str) -> Path:
    """Draw the test pictures with the fewest pixels right, the worst first: input, true mask, predicted mask."""
    assert evaluation.overlaps is not None  # noqa: S101 each pixel has a class, or it is not called
    targets, answered = evaluation.targets, predictions(evaluation.logits, evaluation.task)
    right = evaluation.overlaps.hits.sum(axis=1) / targets[0].size
    worst = np.argsort(right, kind="stable")[:_MOST].tolist()
    inputs = next(iter(named(split.test.inputs).values()))
    labels = split.dataset.labels
    colours = _colours(len(labels))
    lines = -(-len(worst) // _BESIDE)
    with canvas.style():
        made, axes = canvas.figure(
            3 * _BESIDE * _PANEL + 0.4, lines * (_PANEL + 0.25) + 1.4, columns=3 * _BESIDE, rows=lines
        )
        made.suptitle(
            f"{title}: the worst of {len(targets)} test pictures, mean IoU {evaluation.scores['mean_iou']:.1%} of all",
            x=0.012, ha="left", weight="bold",
        )  # fmt: skip
        for panel in axes:
            panel.set_axis_off()
        for place, row in enumerate(worst):
            shown, true, given = axes[3 * place : 3 * place + 3]
            shown.imshow(_as_picture(inputs[row], inputs), cmap="gray")
            shown.set_title(f"row {row}", fontsize=8, color=FAINT)
            for panel, mask, words, colour in (
                (true, targets[row], "true", GREEN),
                (given, answered[row], f"answered, {right[row]:.1%} right", RED),
            ):
                panel.imshow(mask, cmap=colours, vmin=0, vmax=len(labels) - 1, interpolation="nearest")
                panel.set_title(words, fontsize=8, color=colour)
        present = np.union1d(np.unique(targets[worst]), np.unique(answered[worst]))[:_MOST_NAMES]
        made.legend(
            handles=[Patch(color=colours(int(index)), label=shortened(labels[index], 18)) for index in present],
            loc="outside lower center", ncols=6, fontsize=8,
        )  # fmt: skip
        return canvas.save(made, path)


def _as_picture(row: Array, every: Array) -> Array:
    # [C, H, W] as matplotlib has it; of other numbers of channels than one or three, their mean.
    low, high = float(every.min()), float(every.max())
    scaled = (row - low) / ((high - low) or 1)
    return np.moveaxis(scaled, 0, -1) if len(row) == 3 else scaled.mean(axis=0)


def _colours(classes: int) -> ListedColormap:
    twenty = [to_hex(colour) for colour in colormaps["tab20"].colors]  # type: ignore[attr-defined]  # a listed one has them
    strong = [*twenty[::2], *twenty[1::2]]
    return ListedColormap([_FIRST_COLOUR, *(strong[index % len(strong)] for index in range(classes - 1))])
