"""The plots of scores: learning curves, confusion matrix, precision and recall, calibration, predicted values."""

# ruff: noqa: RUF001 - axes are written with the minus sign

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from frostline_training.evaluation.decide import Decision, outcome
from frostline_training.evaluation.evaluate import BINS, Evaluation, Reliability, wilson
from frostline_training.evaluation.ranking import Numbers, curve, log_odds, one_vs_rest
from frostline_training.loop.progress import MEASURE_NAMES, Epoch
from frostline_training.plots import canvas
from frostline_training.plots.canvas import BLUE, FAINT, GREEN, INK, ORANGE, PAPER, RED, shortened

_MOST_NUMBERS = 20  # with more classes the cells are too small for numbers
_MOST_COUNTED = 10_000  # longer numbers do not fit
_MOST_NAMES = 60
_MOST_PANELS = 12
_BLUES = LinearSegmentedColormap.from_list("blues", [PAPER, "#bcd3ec", BLUE, "#153e6b"])


def learning_curves(path: Path, history: Sequence[Epoch], best: Epoch, title: str, *, dropout: bool = False) -> Path:
    """Draw loss and score of training and validation, epoch by epoch.

    Both losses are the plain one, see `losses.Objective.judge`; what still sets them apart stands in the picture.
    """
    numbers = [epoch.number for epoch in history]
    with canvas.style():
        made, (left, right) = canvas.figure(11, 4.6, columns=2)
        made.suptitle(f"{title}: learning", x=0.012, ha="left", weight="bold")
        for axes, name in ((left, "loss"), (right, "score")):
            for part, colour in (("train", BLUE), ("validation", ORANGE)):
                values = [getattr(getattr(epoch, part), name) for epoch in history]
                axes.plot(numbers, values, color=colour, lw=1.8, marker="o" if len(values) < 3 else "", label=part)
            axes.axvline(best.number, color=GREEN, lw=1.2, ls="--", label=f"best epoch: {best.number}")
            axes.set(title=MEASURE_NAMES[best.validation.measure] if name == "score" else name, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        if max(epoch.train.loss for epoch in history) > 20 * min(epoch.validation.loss for epoch in history) > 0:
            canvas.logarithmic(left)
        if best.validation.measure not in ("r2", "mean_score"):
            right.yaxis.set_major_formatter(PercentFormatter(1.0))
        plain = {
            "r2": "smooth L1, in deviations",
            "recall_at_1": "contrastive, less that of vectors all alike",
            "mean_score": "the mean of the targets' losses, no label smoothing",
        }.get(best.validation.measure, "no label smoothing, no class weights")
        made.supxlabel(
            f"the same loss on both ({plain}); train: the mean over the epoch, "
            f"{'with dropout, ' if dropout else ''}while the weights move; validation: after the epoch",
            fontsize=8,
            color=FAINT,
        )
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
        what = "test rows" if evaluation.overlaps is None else "test pixels"
        axes.set_title(f"{title}: {right} of {rows} {what} right", weight="bold", pad=10)
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
        if classes <= _MOST_NUMBERS and rows < _MOST_COUNTED:
            for row, column in np.argwhere(counts > 0):
                colour = PAPER if shares[row, column] > 0.5 else INK
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=9)
        bar = made.colorbar(image, ax=axes, shrink=0.75, format=PercentFormatter(1.0, decimals=0))
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        return canvas.save(made, path)


def calibration(path: Path, evaluation: Evaluation, before: Evaluation | None, title: str) -> Path:
    """Draw confidence against the share that is right, and how often each confidence comes up, before and after."""
    found = [("before calibration" if before else "as published", before or evaluation)]
    if before is not None:
        found.append(("as published, calibrated", evaluation))
    with canvas.style():
        made, axes = canvas.figure(5.2 * len(found) + 0.4, 5.0, columns=len(found), sharey=True)
        made.suptitle(f"{title}: calibration", x=0.012, ha="left", weight="bold")
        for place, (words, shown) in zip(axes, found, strict=True):
            bins = shown.reliability
            assert bins is not None  # noqa: S101 no regression comes here
            _diagonal(place, bins, right="share that is right", answers="share of answers")
            place.set_title(f"{words}: ECE {bins.ece:.2%}")
            what = "probability of a label" if evaluation.task == "multi-label" else "confidence of the answer"
            place.set_xlabel(what)
        axes[0].set_ylabel("share that is right, and share of answers")
        axes[-1].legend(loc="upper left", fontsize=8)
        return canvas.save(made, path)


def class_calibration(path: Path, evaluation: Evaluation, labels: Sequence[str], title: str) -> Path:
    """Draw the probability of each class or label against the share of rows that have it, the worst twelve.

    Of two classes the positive one is drawn; the other is its mirror image.
    """
    bins = evaluation.class_reliability
    errors = np.array([one.ece for one in bins])
    places, note = _panels(-errors, evaluation.positive, "furthest off")
    with canvas.style():
        made, axes = _small_multiples(len(places))
        whose = "of each" if evaluation.positive is None else f"of {shortened(labels[evaluation.positive], 30)!r}"
        made.suptitle(f"{title}: calibration {whose}{note}", x=0.012, ha="left", weight="bold")
        for panel, place in zip(axes, places, strict=True):
            reach = float(bins[place].confidence.max())
            reach = min(1.0, math.ceil(reach * 10) / 10 + 0.1)
            _diagonal(panel, bins[place], right="share that has the class", answers="share of rows", reach=reach)
            panel.set_title(f"{shortened(labels[place], 20)}: ECE {errors[place]:.2%}", fontsize=9)
            panel.set_xlabel("probability", fontsize=8)
            panel.tick_params(labelsize=8)
        made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return canvas.save(made, path)


def precision_recall(
    path: Path, evaluation: Evaluation, labels: Sequence[str], title: str, *, decision: Decision | None
) -> Path:
    """Draw precision against recall at every threshold, with the one that is used: of each class, the worst twelve.

    Of two classes the positive one is drawn. Where the highest of several probabilities decides there is no threshold.
    """
    assert evaluation.ranking is not None  # noqa: S101 no regression comes here
    scores = evaluation.ranking.average_precision
    places, note = _panels(scores, evaluation.positive, "lowest")
    odds, wanted = log_odds(evaluation.logits, evaluation.task), one_vs_rest(evaluation.targets, len(scores))
    cuts = {} if decision is None else {cut.index: (cut.threshold, cut.test) for cut in decision.cuts}
    with canvas.style():
        made, axes = _small_multiples(len(places))
        whose = "of each" if evaluation.positive is None else f"of {shortened(labels[evaluation.positive], 30)!r}"
        made.suptitle(f"{title}: precision and recall {whose}{note}", x=0.012, ha="left", weight="bold")
        for panel, place in zip(axes, places, strict=True):
            found = curve(odds[:, place], wanted[:, place])
            share = float(wanted[:, place].mean())
            panel.step(found.recall, found.precision, where="post", color=BLUE, lw=1.6, label="every threshold")
            panel.axhline(share, color=FAINT, lw=1, ls="--", label=f"at random: {share:.1%}")
            if place in cuts or evaluation.task == "multi-label" or evaluation.positive is not None:
                cut, there = cuts.get(place) or (
                    0.5,
                    outcome(0.5, evaluation.probabilities[:, place], wanted[:, place]),
                )
                words = f"probability {cut:.3g}: precision {there.precision:.0%}, recall {there.recall:.0%}"
                panel.plot(
                    there.recall, there.precision, color=RED, marker="o", ms=7, ls="", label=words, clip_on=False
                )
            panel.set_title(f"{shortened(labels[place], 20)}: average precision {scores[place]:.3f}", fontsize=9)
            panel.set(xlim=(0, 1.01), ylim=(0, 1.03))
            panel.tick_params(labelsize=8)
            corner: Literal["lower left", "upper right"] = "lower left" if scores[place] > 0.5 else "upper right"
            panel.legend(fontsize=7, loc=corner, frameon=True, framealpha=0.9, edgecolor="none")
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        made.supxlabel("recall: the share of the rows with the class that are found", fontsize=9)
        made.supylabel("precision: the share of those found that have it", fontsize=9)
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
    """Draw predicted against true values, and below the residuals against the predicted, of the first four values."""
    answers, wanted = evaluation.logits.astype(np.float64), np.asarray(evaluation.targets, np.float64)
    count = min(4, answers.shape[1])
    with canvas.style():
        made, panels = canvas.figure(max(5.6, 4.6 * count + 0.6), 8.4, columns=count, rows=2)
        more = f", the first {count} of {answers.shape[1]} values" if count < answers.shape[1] else ""
        name, value = evaluation.headline
        told = f"R² {value:.3f}" if name == "r2" else f"MAE {value:.4g}"
        made.suptitle(f"{title}: {told}{more}", x=0.012, ha="left", weight="bold")
        for index in range(count):
            name = shortened(labels[index], 34) if labels else "value"
            true, given, scores = wanted[:, index], answers[:, index], evaluation.per_value[index]
            above, below = panels[index], panels[count + index]
            ends = [min(true.min(), given.min()), max(true.max(), given.max())]
            above.plot(ends, ends, color=FAINT, lw=1, ls="--", label="predicted = true")
            above.scatter(true, given, s=16, color=BLUE, alpha=0.6, edgecolors="none")
            above.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
            above.set_title(f"MAE {scores['mae']:.4g}, RMSE {scores['rmse']:.4g}", fontsize=10)
            above.legend(loc="upper left")
            off = given - true
            below.axhline(0, color=FAINT, lw=1, ls="--")
            below.axhline(off.mean(), color=ORANGE, lw=1.2, label=f"mean residual {off.mean():+.3g}")
            below.scatter(given, off, s=16, color=BLUE, alpha=0.6, edgecolors="none")
            below.set(xlabel=f"predicted {name}", ylabel="residual: predicted − true")
            # Beside the panel: one row that is far off has all others, and both lines, at one of its edges.
            below.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        return canvas.save(made, path)


def _panels(order: Numbers, positive: int | None, which: str) -> tuple[list[int], str]:
    # In the labels' own order; where there are too many, those that come first by `order`. NaN is not drawn.
    if positive is not None:
        return [positive], ""
    known = np.flatnonzero(np.isfinite(order))
    if len(known) <= _MOST_PANELS:
        return known.tolist(), ""
    chosen = known[np.argsort(order[known], kind="stable")[:_MOST_PANELS]]
    return sorted(chosen.tolist()), f" (the {_MOST_PANELS} {which} of {len(order)})"


def _small_multiples(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(4, count) if count != 6 else 3
    rows = -(-count // columns)
    size = 4.9 if count == 1 else 3.4
    made, axes = canvas.figure(max(6.4, size * columns + 0.6), size * rows + 0.9, columns=columns, rows=rows)
    for panel in axes[count:]:
        panel.set_axis_off()
    return made, axes[:count]


def _diagonal(axes: Axes, bins: Reliability, *, right: str, answers: str, reach: float = 1.0) -> None:
    middles = (np.arange(BINS) + 0.5) / BINS
    filled = bins.rows > 0
    axes.bar(middles, bins.rows / bins.rows.sum(), width=0.9 / BINS, color="#dfe3e8", label=answers)
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--", label="perfectly calibrated")
    hits = np.round(bins.right * bins.rows).astype(np.int64)
    low, high = np.array([wilson(int(hits[place]), int(bins.rows[place])) for place in np.flatnonzero(filled)]).T
    axes.vlines(bins.confidence[filled], low, high, color="#a9c4e2", lw=4, label="its 95 % interval")
    axes.vlines(bins.confidence[filled], bins.confidence[filled], bins.right[filled], color=RED, lw=1.4, label="gap")
    # A point stands for as many rows as it is large; a line through bins of one row would only show their luck.
    sizes = 12 + 60 * np.sqrt(bins.rows[filled] / bins.rows.max())
    axes.scatter(bins.confidence[filled], bins.right[filled], sizes, color=BLUE, zorder=3, label=right, clip_on=False)
    axes.set(xlim=(0, 1.01 * reach), ylim=(0, 1.03))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
