"""The drawing surface: matplotlib figures, made and saved without global state."""

import math
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import BboxBase

DPI = 144
MARGIN = 28.0  # points, around a diagram
_WIDEST_TITLE = 0.988  # of a picture's width is where it ends
INK, FAINT, LINE, PAPER = "#1f2430", "#5c6470", "#c9ced6", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#c53030"

_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's marks that turn the direction of writing: those of a label would turn the numbers beside it too."""
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_SANS, _MONO = "DejaVu Sans", "DejaVu Sans Mono"  # come with matplotlib, so a picture is the same everywhere
# For scripts that those lack; the first of them that this machine has and that has the letter. matplotlib cannot draw
# fonts of coloured emoji.
_OTHERS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Thai",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Symbola",
)

_STYLE: dict[str, Any] = {
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
    with mpl.rc_context():
        mpl.rcdefaults()
        for key, value in _STYLE.items():
            mpl.rcParams[key] = value  # type: ignore[index]  # a key that is not there is refused at run time
        mpl.rcParams["font.family"] = families()
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


@cache
def families(*, mono: bool = False) -> list[str]:
    """Return the fonts to draw with, the first that has a letter: those that come with matplotlib, then the machine's."""
    known = {font.name for font in fontManager.ttflist}
    return [*((_MONO, _SANS) if mono else (_SANS,)), *(name for name in _OTHERS if name in known)]


def readable(text: str) -> str:
    """Return `text` with what no font here can draw replaced: an emoji by its name, any other letter by its number."""
    parts: list[str] = []
    for missing, letters in groupby(text, key=_missing):
        if not missing:
            parts += letters
            continue
        told = [_named(letter) for letter in letters]
        parts.append(f"[{' '.join(word for word in told if word)}]" if any(told) else "")
    return "".join(parts)


@cache
def _missing(letter: str) -> bool:
    if letter == "\n":
        return False
    return letter in _DIRECTIONS or all(not get_font(path).get_char_index(ord(letter)) for path in _paths())


@cache
def _paths() -> tuple[str, ...]:
    return tuple(findfont(FontProperties(family=name), fallback_to_default=False) for name in families())


def _named(letter: str) -> str:
    match unicodedata.category(letter):
        case "So" | "Sk":  # emoji, and the shades of their skin
            return unicodedata.name(letter, f"U+{ord(letter):04X}").lower()
        case "Cf" | "Mn" | "Zs":  # joins or varies what stands beside it
            return ""
    return f"U+{ord(letter):04X}"


def page(width: float, height: float, title: str, below: str) -> tuple[Figure, Axes]:
    """Return a sheet at least `width` wide with a diagram's `title`, and one line `below` it; 80 points are taken."""
    made, axes = sheet(max(width, text_width(title, 14, "bold") + 2 * MARGIN), height)
    axes.text(MARGIN, 30, title, fontsize=14, weight="bold", va="center")
    axes.text(MARGIN, 50, below, fontsize=9, color=FAINT, va="center")
    return made, axes


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return how many points `text` is wide."""
    text = readable(text)
    if not text.strip():  # matplotlib makes no path of it
        return 0.0
    # Not get_extents(), which solves every curve: the points of a glyph lie at its ends too.
    return float(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).vertices[:, 0].max())


def shortened(text: str, limit: int) -> str:
    """Return `text` in one line with at most `limit` characters that can be drawn."""
    line = readable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def save(made: Figure, path: Path) -> Path:
    """Write the figure in the format that the file's name ends in, and return `path`."""
    for text in made.findobj(Text):
        assert isinstance(text, Text)  # noqa: S101 for the type checker
        text.set_text(readable(text.get_text()))
    _cut_titles(made)
    made.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
    return path


def _cut_titles(made: Figure) -> None:
    # The layout places titles, and makes no room for one that is wider than the picture: then no picture would be left.
    titles = {made.get_suptitle(), *(axes.get_title(loc="left") for axes in made.axes)} - {""}
    found = [text for text in made.findobj(Text) if isinstance(text, Text) and text.get_text() in titles]
    for text in found:
        _cut(text, lambda box: box.width > _WIDEST_TITLE * made.bbox.width)
    if found:
        made.draw_without_rendering()
    for text in found:
        _cut(text, lambda box: box.x1 > _WIDEST_TITLE * made.bbox.x1)


def _cut(text: Text, beyond: Callable[[BboxBase], bool]) -> None:
    words = text.get_text()
    while words and beyond(text.get_window_extent()):
        words = words[:-1].rstrip()
        text.set_text(f"{words}…")
