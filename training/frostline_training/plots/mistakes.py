"""The misclassified examples: pictures, texts or rows of a table, the most confident mistakes first."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from frostline_training.data import Array, Dataset, Split, named
from frostline_training.evaluation.evaluate import Evaluation, predictions, softmax
from frostline_training.plots import canvas
from frostline_training.plots.canvas import FAINT, GREEN, LINE, RED, shortened, text_width

_MOST_IMAGES, _IMAGE_COLUMNS = 24, 6
_MOST_ROWS, _MOST_VALUES = 15, 8
_TEXT_LINES, _TEXT_WIDTH = 3, 78
_SMALLEST_IMAGE = 4


def draw(path: Path, evaluation: Evaluation, split: Split, title: str) -> Path:
    """Draw the test rows that were answered wrongly; for a regression those furthest off."""
    worst, wrong, told = _worst(evaluation, split.dataset.labels)
    rows = len(evaluation.targets)
    inputs = named(split.test.inputs)
    first = next(iter(inputs.values()))
    if evaluation.task == "regression":
        headline = f"{title}: the answers furthest off, of {rows} test rows"
    else:
        headline = f"{title}: {wrong} of {rows} test rows wrong" + (", the surest first" if wrong > 1 else "")
    with canvas.style():
        if len(inputs) == 1 and _is_image(first):
            made = _images(first, worst[:_MOST_IMAGES], told, headline)
        elif len(inputs) == 1 and first.dtype == np.uint8 and first.ndim == 2:
            made = _texts(first, worst[:_MOST_ROWS], told, headline)
        else:
            made = _table(inputs, split.dataset, worst[:_MOST_ROWS], told, headline)
        return canvas.save(made, path)


Told = dict[int, tuple[str, str]]  # for each row what was answered, and what was right


def _worst(evaluation: Evaluation, labels: Sequence[str]) -> tuple[list[int], int, Told]:
    logits, targets = evaluation.logits, evaluation.targets
    answered = predictions(logits, evaluation.task)
    match evaluation.task:
        case "single-label":
            sure = softmax(logits).max(axis=1)
            (wrong,) = np.nonzero(answered != targets)
            order = wrong[np.argsort(-sure[wrong], kind="stable")].tolist()
            told = {row: (f"{labels[answered[row]]} {sure[row]:.0%}", str(labels[targets[row]])) for row in order}
        case "multi-label":
            wide = np.where(targets == 1, -logits, logits).astype(np.float64)
            (wrong,) = np.nonzero((answered != targets).any(axis=1))
            order = wrong[np.argsort(-wide[wrong].max(axis=1), kind="stable")].tolist()
            told = {row: (_set(answered[row], labels), _set(targets[row], labels)) for row in order}
        case "embedding":
            assert evaluation.neighbours is not None  # noqa: S101 an embedding has them
            nearest = evaluation.neighbours.nearest
            (wrong,) = np.nonzero(evaluation.neighbours.recall_at_1 == 0)
            sure = (logits * logits[nearest]).sum(axis=1)
            order = wrong[np.argsort(-sure[wrong], kind="stable")].tolist()
            told = {
                row: (f"{labels[targets[nearest[row]]]} ({sure[row]:.2f})", str(labels[targets[row]])) for row in order
            }
        case "regression":
            wanted = targets.astype(np.float64)
            order = np.argsort(-np.abs(logits - wanted).max(axis=1), kind="stable").tolist()
            told = {row: (_values(logits[row]), _values(wanted[row])) for row in order[:_MOST_IMAGES]}
    return order, len(order), told


def _images(inputs: Array, worst: Sequence[int], told: Told, headline: str) -> Figure:
    columns = _IMAGE_COLUMNS
    lines = max(1, -(-len(worst) // columns))
    cell, caption = 112.0, 34.0
    width, height = 24 * 2 + columns * (cell + 26), 62 + lines * (cell + caption + 16)
    made, axes = _page(max(width, text_width(headline, 12, "bold") + 48), height, headline)
    if not worst:
        _nothing(axes, height)
    low, high = float(inputs.min()), float(inputs.max())
    for place, row in enumerate(worst):
        x = 24 + place % columns * (cell + 26)
        y = 56 + place // columns * (cell + caption + 16)
        picture = inputs[row]
        if picture.ndim == 3:
            picture = picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)
            picture = picture if picture.ndim == 2 else (picture - low) / ((high - low) or 1)
        axes.imshow(
            picture, extent=(x, x + cell, y + cell, y), cmap="gray_r", vmin=low, vmax=high, aspect="auto", zorder=2
        )
        axes.plot([x, x + cell, x + cell, x, x], [y, y, y + cell, y + cell, y], color=LINE, lw=0.8, zorder=3)
        answered, wanted = told[row]
        axes.text(x, y + cell + 11, shortened(f"answered {answered}", 24), fontsize=8.5, color=RED, va="center")
        axes.text(x, y + cell + 25, shortened(f"true {wanted}", 24), fontsize=8.5, color=GREEN, va="center")
    axes.set(xlim=(0, axes.get_figure().get_figwidth() * 72), ylim=(height, 0))  # type: ignore[union-attr]  # imshow moved them
    return made


def _texts(inputs: Array, worst: Sequence[int], told: Told, headline: str) -> Figure:
    texts = {row: _text(inputs[row]) for row in worst}
    heights = {row: 14.0 * len(lines) + 34 for row, lines in texts.items()}
    height = 66 + max(40.0, sum(heights.values()))
    made, axes = _page(max(760, text_width(headline, 12, "bold") + 48), height, headline)
    if not worst:
        _nothing(axes, height)
    y = 58.0
    for row in worst:
        answered, wanted = (shortened(words, 40) for words in told[row])
        axes.text(24, y, f"answered {answered}", fontsize=9, color=RED, va="center", weight="bold")
        axes.text(
            24 + text_width(f"answered {answered}", 9, "bold") + 18,
            y,
            f"true {wanted}",
            fontsize=9,
            color=GREEN,
            va="center",
        )
        for line, text in enumerate(texts[row], start=1):
            axes.text(24, y + 2 + 14 * line, text, fontsize=9, va="center", family=canvas.families(mono=True))
        y += heights[row]
        axes.plot([24, 736], [y - 14, y - 14], color=LINE, lw=0.6)
    return made


def _table(inputs: dict[str, Array], dataset: Dataset, worst: Sequence[int], told: Told, headline: str) -> Figure:
    flat = [(name, array.reshape(len(array), -1)) for name, array in inputs.items()]
    names = [column.name for column in dataset.columns] or [
        f"{name if len(flat) > 1 else 'x'}{index + 1}" for name, array in flat for index in range(array.shape[1])
    ]
    values = np.concatenate([array.astype(np.float64) for _, array in flat], axis=1)
    shown = _telling(values, min(_MOST_VALUES, values.shape[1]), worst)
    header = ["row", "answered", "true", *(shortened(names[column], 16) for column in shown)]
    body = [
        [
            str(row),
            *(shortened(words, 22) for words in told[row]),
            *(_cell(values[row, column], dataset, column) for column in shown),
        ]
        for row in worst
    ]
    widths = [max(text_width(line[place], 9, "bold") for line in (header, *body)) + 18 for place in range(len(header))]
    left = len(names) - len(shown)
    note = f"{left} more values of each row are not shown" if left else ""
    width = max(sum(widths), text_width(headline, 12, "bold"), text_width(note, 8)) + 48
    height = 96 + max(1, len(body)) * 20
    made, axes = _page(width, height, headline)
    if not worst:
        _nothing(axes, height)
        return made
    for number, line in enumerate([header, *body]):
        y, x = 58 + 20.0 * number, 24.0
        for place, (text, span) in enumerate(zip(line, widths, strict=True)):
            colour = {1: RED, 2: GREEN}.get(place) if number else FAINT
            axes.text(x, y, text, fontsize=9, va="center", color=colour, weight="normal" if number else "bold")
            x += span
    axes.plot([24, 24 + sum(widths)], [68, 68], color=LINE, lw=0.8)
    axes.text(24, height - 14, note, fontsize=8, color=FAINT, va="center")
    return made


def _page(width: float, height: float, headline: str) -> tuple[Figure, Axes]:
    made, axes = canvas.sheet(width, height)
    axes.text(24, 26, headline, fontsize=12, weight="bold", va="center")
    return made, axes


def _nothing(axes: Axes, height: float) -> None:
    axes.text(24, height / 2 + 14, "none: every test row was answered rightly", fontsize=10, color=FAINT, va="center")


def _is_image(rows: Array) -> bool:
    flat = rows.ndim == 3 or (rows.ndim == 4 and rows.shape[1] in (1, 3))
    return flat and min(rows.shape[-2:]) >= _SMALLEST_IMAGE


def _text(row: Array) -> list[str]:
    words = row.tobytes().rstrip(b"\0").decode("utf-8", "replace")
    lines = wrap(canvas.readable(" ⏎ ".join(words.splitlines())), _TEXT_WIDTH) or ["(empty)"]
    return [*lines[: _TEXT_LINES - 1], lines[_TEXT_LINES - 1][:-1] + "…"] if len(lines) > _TEXT_LINES else lines


def _telling(values: NDArray[np.float64], count: int, worst: Sequence[int]) -> list[int]:
    # Those in which the mistaken rows differ most from the usual row; all of them where there are few.
    if values.shape[1] <= count:
        return list(range(values.shape[1]))
    spread = np.nanstd(values, axis=0)
    away = np.abs(values[list(worst)] - np.nanmean(values, axis=0)) / np.where(spread > 0, spread, 1)
    telling = np.nan_to_num(away).mean(axis=0) if len(worst) else spread
    return sorted(np.argsort(-telling, kind="stable")[:count].tolist())


def _cell(value: float, dataset: Dataset, column: int) -> str:
    if dataset.columns and (categories := dataset.columns[column].categories) is not None:
        return shortened(categories[int(value)], 16) if 0 <= value < len(categories) else "?"
    return "missing" if np.isnan(value) else f"{value:.5g}"


def _set(chosen: Array, labels: Sequence[str]) -> str:
    return ", ".join(label for label, there in zip(labels, chosen, strict=True) if there) or "none"


def _values(numbers: Array) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
