"""The plots of scores: learning curves, confusion matrix, calibration, labels, predicted values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, PercentFormatter

from frostline_training.evaluation.evaluate import BINS, Evaluation, Reliability
from frostline_training.loop.progress import Epoch
from frostline_training.plots import canvas
from frostline_training.plots.canvas import BLUE, FAINT, GREEN, INK, ORANGE, PAPER, RED, shortened
from frostline_training.sources import Task

_MOST_NUMBERS = 20  # with more classes the cells are too small for numbers
_MOST_NAMES = 60
_BLUES = LinearSegmentedColormap.from_list("blues", [PAPER, "#bcd3ec", BLUE, "#153e6b"])


def learning_curves(path: Path, history: Sequence[Epoch], best: Epoch, task: Task, title: str) -> Path:
    """Draw loss and accuracy (R2 for a regression) of training and validation, epoch by epoch."""
    numbers = [epoch.number for epoch in history]
    score_name = "R²" if task == "regression" else "accuracy"
    with canvas.style():
        made, (left, right) = canvas.figure(11, 4.2, columns=2)
        made.suptitle(f"{title}: learning", x=0.012, ha="left", weight="bold")
        for axes, name in ((left, "loss"), (right, "accuracy")):
            for part, colour in (("train", BLUE), ("validation", ORANGE)):
                values = [getattr(getattr(epoch, part), name) for epoch in history]
                axes.plot(numbers, values, color=colour, lw=1.8, marker="o" if len(values) < 3 else "", label=part)
            axes.axvline(best.number, color=GREEN, lw=1.2, ls="--", label=f"best epoch: {best.number}")
            axes.set(title=score_name if name == "accuracy" else name, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        if max(epoch.train.loss for epoch in history) > 20 * min(epoch.validation.loss for epoch in history) > 0:
            left.set_yscale("log")
        if task != "regression":
            right.yaxis.set_major_formatter(PercentFormatter(1.0))
        return canvas.save(made, path)


def confusion(path: Path, evaluation: Evaluation, labels: Sequence[str], title: str) -> Path:
    """Draw how often each true class was taken for each class; shades are shares of the true class."""
    assert evaluation.confusion is not None  # noqa: S101 one class a row, or it is not called
    counts = evaluation.confusion
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [shortened(label, 18) for label in labels]
    size = min(14.0, max(4.6, 0.52 * classes + 2.4))
    with canvas.style():
        made, (axes,) = canvas.figure(size + 0.9, size)
        image = axes.imshow(shares, cmap=_BLUES, vmin=0, vmax=1)
        right, rows = int(np.trace(counts)), int(counts.sum())
        axes.set_title(f"{title}: {right} of {rows} test rows right", weight="bold", pad=10)
        axes.set(xlabel="answered", ylabel="true")
        if classes <= _MOST_NAMES:
            axes.set_xticks(
                range(classes), names, rotation=45 if max(map(len, names)) > 3 else 0, rotation_mode="anchor"
            )
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right" if tick.get_rotation() else "center")
            axes.set_yticks(range(classes), names)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=9 if classes <= _MOST_NUMBERS else 6, pad=6)
        if classes <= _MOST_NUMBERS:
            for row, column in np.argwhere(counts > 0):
                colour = PAPER if shares[row, column] > 0.5 else INK
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=9)
        bar = made.colorbar(image, ax=axes, shrink=0.75, format=PercentFormatter(1.0, decimals=0))
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        return canvas.save(made, path)


def calibration(path: Path, evaluation: Evaluation, before: Evaluation | None, title: str) -> Path:
    """Draw confidence against the share that is right, and how often each confidence comes up, before and after."""
    found = [("as trained" if before else "as published", before or evaluation)]
    if before is not None:
        found.append(("as published, with its temperature", evaluation))
    with canvas.style():
        made, axes = canvas.figure(5.2 * len(found) + 0.4, 5.0, columns=len(found), sharey=True)
        made.suptitle(f"{title}: calibration", x=0.012, ha="left", weight="bold")
        for place, (words, shown) in zip(axes, found, strict=True):
            bins = shown.reliability
            assert bins is not None  # noqa: S101 no regression comes here
            _diagonal(place, bins)
            place.set_title(f"{words}: ECE {bins.ece:.2%}")
            what = "probability of a label" if evaluation.task == "multi-label" else "confidence of the answer"
            place.set_xlabel(what)
        axes[0].set_ylabel("share that is right, and share of answers")
        axes[-1].legend(loc="upper left", fontsize=8)
        return canvas.save(made, path)


def per_label(path: Path, evaluation: Evaluation, labels: Sequence[str], title: str) -> Path:
    """Draw precision and recall of every label."""
    assert evaluation.per_class is not None  # noqa: S101 no regression comes here
    scores = evaluation.per_class
    places = np.arange(len(scores.f1))
    with canvas.style():
        made, (axes,) = canvas.figure(8, max(2.6, 0.36 * len(places) + 1.6))
        axes.set_title(f"{title}: micro F1 {evaluation.scores['micro_f1']:.1%}", weight="bold", pad=10)
        axes.hlines(places, scores.precision, scores.recall, color="#d5d9df", lw=3, zorder=1)
        axes.scatter(scores.precision, places, color=BLUE, s=42, label="precision", zorder=2)
        axes.scatter(scores.recall, places, color=ORANGE, s=42, marker="D", label="recall", zorder=2)
        names = [f"{shortened(label, 24)} ({count})" for label, count in zip(labels, scores.support, strict=True)]
        axes.set_yticks(places, names)
        axes.set(
            xlim=(-0.02, 1.02), ylim=(len(places) - 0.5, -0.5), xlabel="the number of rows that have it in brackets"
        )
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return canvas.save(made, path)


def predicted(path: Path, evaluation: Evaluation, labels: Sequence[str], title: str) -> Path:
    """Draw answered against true values, one panel for each (the first four)."""
    answers, wanted = evaluation.logits, np.asarray(evaluation.targets, np.float64)
    count = min(4, answers.shape[1])
    with canvas.style():
        made, panels = canvas.figure(4.6 * count + 0.6, 4.9, columns=count)
        made.suptitle(f"{title}: R² {evaluation.scores['r2']:.3f}", x=0.012, ha="left", weight="bold")
        for index, axes in enumerate(panels):
            ends = (
                [float(values[:, index].min()) for values in (answers, wanted)],
                [float(values[:, index].max()) for values in (answers, wanted)],
            )
            axes.plot(
                [min(ends[0]), max(ends[1])], [min(ends[0]), max(ends[1])], color=FAINT, lw=1, ls="--", label="right"
            )
            axes.scatter(wanted[:, index], answers[:, index], s=16, color=BLUE, alpha=0.6, edgecolors="none")
            axes.set(title=shortened(labels[index], 30) if labels else "", xlabel="true", ylabel="answered")
            axes.legend(loc="upper left")
        return canvas.save(made, path)


def _diagonal(axes: Axes, bins: Reliability) -> None:
    middles = (np.arange(BINS) + 0.5) / BINS
    filled = bins.rows > 0
    axes.bar(middles, bins.rows / bins.rows.sum(), width=0.9 / BINS, color="#dfe3e8", label="share of answers")
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--", label="perfectly calibrated")
    axes.vlines(bins.confidence[filled], bins.confidence[filled], bins.right[filled], color=RED, lw=1.4, label="gap")
    axes.plot(bins.confidence[filled], bins.right[filled], color=BLUE, marker="o", ms=4.5, lw=1.4, label="share right")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
