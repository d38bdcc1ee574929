"""The map of an embedding: test vectors in the plane in which they differ most, coloured by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.plots import canvas
from frostline_training.plots.canvas import shortened

_MOST_NAMES = 20


def draw(path: Path, evaluation: Evaluation, labels: Sequence[str], title: str) -> Path:
    """Draw the first two principal components of the test vectors."""
    wide = evaluation.logits.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    _, sizes, axes_of = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes_of[:2].T
    shares = sizes[:2] ** 2 / max(float((sizes**2).sum()), np.finfo(np.float64).tiny)
    colours = colormaps["tab20"]
    with canvas.style():
        made, (axes,) = canvas.figure(7.6, 5.6)
        axes.set_title(
            f"{title}: recall@1 {evaluation.scores['recall_at_1']:.1%} of {len(wide)} test rows", weight="bold"
        )
        for index in np.unique(evaluation.targets).tolist():
            own = plane[evaluation.targets == index]
            name = shortened(labels[index], 18) if index < _MOST_NAMES else None
            place = index % 10 * 2 + index // 10 % 2  # strong colours first
            axes.scatter(own[:, 0], own[:, -1], s=14, color=colours(place), alpha=0.8, label=name, linewidths=0)
        words = [f"principal component {number}: {share:.0%}" for number, share in enumerate(shares, start=1)]
        axes.set(xlabel=words[0], ylabel=words[-1])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        return canvas.save(made, path)
