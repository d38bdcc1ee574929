"""The columns of a table in a diagram: what the network makes of each, side by side, before they are joined."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import nn

from frostline_training.networks.families import Table
from frostline_training.plots.canvas import BLUE, FAINT, INK, shortened, text_width
from frostline_training.plots.stages import by
from frostline_training.plots.trace import Layer

Cell = tuple[str, ...]  # one line each: names, then what is made of them, and how many numbers come of it

_PAD, _GAP, _LEAD, _SIZE = 6.0, 8.0, 15.0, 8.0
_WIDEST = 760.0
_MOST, _MOST_NAMES = 24, 6
_EMBEDDED = "Embedding"


def rows(layer: Layer, names: Sequence[str]) -> list[list[Cell]]:
    """Return the cells of a table's `layer`, in rows that are not too wide; columns without a name are x1, x2."""
    table = layer.module
    assert isinstance(table, Table)  # noqa: S101 it is what this kind of layer is
    known = [shortened(names[index], 20) if index < len(names) else f"x{index + 1}" for index in range(layer.took[-1])]
    cells: list[Cell] = []
    if table.numbers:
        first = [known[index] for index in table.numbers[:_MOST_NAMES]]
        more = len(table.numbers) - len(first)
        told = [*first, *([f"and {more} more"] if more else [])]
        cells.append((*told, "standardised: mean, std", f"→ {len(table.numbers)}"))
    for index, embedding in zip(table.categories, table.embeddings, strict=True):
        assert isinstance(embedding, nn.Embedding)  # noqa: S101 for the type checker
        size, gives = embedding.weight.shape
        cells.append((known[index], _EMBEDDED, f"{by((size, gives))} = {size * gives:,}", f"→ {gives}"))
    left = len(cells) - _MOST
    if left > 0:
        cells = [*cells[:_MOST], (f"and {left} more", "columns", "")]
    found: list[list[Cell]] = [[]]
    for cell in cells:
        if found[-1] and width([*found[-1], cell]) > _WIDEST:
            found.append([])
        found[-1].append(cell)
    return found


def width(cells: Sequence[Cell]) -> float:
    """Return how many points a row of cells is wide."""
    return sum(_width(cell) for cell in cells) + _GAP * (len(cells) - 1)


def height(cells: Sequence[Cell]) -> float:
    """Return how many points a row of cells is high, with some space above and below."""
    return _LEAD * max(len(cell) for cell in cells) + 2 * _PAD + 6


def draw(axes: Axes, cells: Sequence[Cell], x: float, y: float, high: float) -> None:
    """Draw a row of cells whose upper left corner is at `x` and `y`, `high` points high."""
    for cell in cells:
        learnt = _EMBEDDED in cell
        axes.add_patch(
            FancyBboxPatch(
                (x, y + 3),
                _width(cell),
                high - 6,
                boxstyle="round,pad=0,rounding_size=3",
                fc="#eaf1f9" if learnt else "#f1f2f4",
                ec=BLUE if learnt else FAINT,
                lw=0.9,
            )
        )
        names = len(cell) - (3 if learnt else 2)
        for place, words in enumerate(cell):
            own = place < names
            axes.text(
                x + _PAD,
                y + 3 + _PAD + _LEAD * (place + 0.5),
                words,
                fontsize=_SIZE,
                va="center",
                weight="bold" if own else "normal",
                color=INK if own else FAINT,
            )
        x += _width(cell) + _GAP


def _width(cell: Cell) -> float:
    return max(text_width(words, _SIZE, "bold") for words in cell) + 2 * _PAD
