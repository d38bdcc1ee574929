"""The drawing surface: matplotlib figures, made and saved without global state."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, NullFormatter

DPI = 144
INK, FAINT, LINE, PAPER = "#1f2430", "#5c6470", "#c9ced6", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#c53030"

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a picture is the same everywhere
    "text.parse_math": False,  # labels are the user's own words, and may hold a dollar
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "svg.hashsalt": "frostline",  # the same picture gives the same bytes
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside it: one look for all pictures, and none of the user's own settings."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        for key, value in _STYLE.items():
            mpl.rcParams[key] = value  # type: ignore[index]  # a key that is not there is refused at run time
        # A label in a script that the font lacks shows as boxes; that is no reason to stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(
    width: float, height: float, *, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` by `height` inches with `columns` axes beside each other, in `rows` rows."""
    made = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.12))
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(axes.ravel())


def logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with its powers of ten in plain text: 10⁻³."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    # matplotlib's own are written in its mathematical notation, which is off: see `_STYLE`.
    exponent = round(math.log10(value))
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty sheet of `width` by `height` points whose axes count points from the upper left corner."""
    made = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(made)
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    return made, axes


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return how many points `text` is wide."""
    return (
        float(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().x1) if text else 0.0
    )


def shortened(text: str, limit: int) -> str:
    """Return `text` in one line with at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def save(made: Figure, path: Path) -> Path:
    """Write the figure in the format that the file's name ends in, and return `path`."""
    made.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
    return path
