"""Draws a dashboard's panels with matplotlib, laid out as Grafana does: a grid of 24 columns."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, NullFormatter
from PIL import Image

from bench.panels import units
from bench.panels.dashboard import Panel, Series
from frostline_training.plots import canvas

_UNIT, _ROW, _DPI = 0.58, 0.36, 100  # inches of a column's width and of a row's height
_GAP = 0.05
_LINES = (
    "#3274a1", "#e1812c", "#3a923a", "#c03d3e", "#9372b2", "#845b53", "#d684bd", "#7f7f7f", "#a9aa35", "#2eabb8",
)  # fmt: skip
_COLOURS = {"green": canvas.GREEN, "orange": canvas.ORANGE, "red": canvas.RED, "text": canvas.INK}
_SMALL, _SIZE = 7.0, 8.0
_LINE, _LETTER = 0.21, 0.07  # inches of a table's line, and of a letter in it
_IN_LEGEND = 12

Box = tuple[float, float, float, float]
"""Left, bottom, width and height, in inches."""


def draw(dashboard: Mapping[str, Any], panels: Sequence[Panel], path: Path) -> Path:
    """Draw all panels into one PNG."""
    rows = max(_place(panel)[1] + _place(panel)[3] for panel in panels)
    width, height = 24 * _UNIT, (rows + 1.6) * _ROW
    with canvas.style():
        figure = Figure(figsize=(width, height), facecolor="#f4f5f7")
        FigureCanvasAgg(figure)
        figure.text(0.008, 1 - 0.8 * _ROW / height, dashboard["title"], fontsize=14, weight="bold", va="center")
        for panel in panels:
            x, y, w, h = _place(panel)
            box = (x * _UNIT + _GAP, height - (y + h + 1.6) * _ROW + _GAP, w * _UNIT - 2 * _GAP, h * _ROW - 2 * _GAP)
            _panel(figure, panel, box)
        memory = io.BytesIO()
        figure.savefig(memory, dpi=_DPI, facecolor=figure.get_facecolor())
    # With a palette, which takes a third of the bytes.
    picture = Image.open(memory).convert("RGB")
    palette = picture.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
    return path


def _place(panel: Panel) -> tuple[int, int, int, int]:
    grid = panel.json["gridPos"]
    return grid["x"], grid["y"], grid["w"], grid["h"]


def _axes(figure: Figure, box: Box) -> Axes:
    width, height = figure.get_size_inches()
    left, bottom, w, h = box
    return figure.add_axes((left / width, bottom / height, w / width, h / height))


def _panel(figure: Figure, panel: Panel, box: Box) -> None:
    left, bottom, w, h = box
    frame = _axes(figure, box)
    frame.set(xlim=(0, w), ylim=(0, h), xticks=[], yticks=[])
    if panel.kind == "row":
        frame.set_axis_off()
        frame.text(0, h / 2, f"▾ {panel.json['title']}", fontsize=10, weight="bold", va="center")
        return
    for spine in frame.spines.values():
        spine.set(visible=True, color="#dfe2e7")
    frame.text(0.1, h - 0.17, panel.json["title"], fontsize=9, weight="bold", va="center")
    if not any(math.isfinite(value) for series in panel.series for value in series.values):
        text = panel.defaults.get("noValue", "No data")
        frame.text(w / 2, h / 2, text, fontsize=11, color=canvas.FAINT, ha="center", va="center")
        return
    drawn: dict[str, Callable[[Figure, Axes, Panel, Box], None]] = {
        "stat": _stat, "table": _table, "timeseries": _timeseries, "heatmap": _heatmap,
    }  # fmt: skip
    drawn[panel.kind](figure, frame, panel, (left, bottom, w, h))


def _stat(_figure: Figure, frame: Axes, panel: Panel, box: Box) -> None:
    value = panel.series[0].values[-1]
    defaults = panel.defaults
    mapped = {key: text["text"] for each in defaults.get("mappings", ()) for key, text in each["options"].items()}
    text = mapped.get(f"{value:g}") or units.written(value, defaults["unit"], defaults.get("decimals"))
    colour = _COLOURS.get(units.colour(value, defaults["thresholds"]), canvas.INK)
    frame.text(box[2] / 2, box[3] * 0.42, text, fontsize=20, weight="bold", color=colour, ha="center", va="center")


def _table(_figure: Figure, frame: Axes, panel: Panel, box: Box) -> None:
    [organized] = [each["options"] for each in panel.json["transformations"] if each["id"] == "organize"]
    hidden, order = organized["excludeByName"], organized["indexByName"]
    cells = [{**series.labels, "Value": f"{series.values[-1]:g}"} for series in panel.series]
    present = {name for row in cells for name in row if not hidden.get(name)}
    names = sorted(present, key=lambda name: order.get(name, len(order)))
    titles = [organized["renameByName"].get(name, name) for name in names]
    texts = _mapped(panel)
    rows = sorted(
        [texts.get((title, row.get(name, "")), row.get(name, "")) for name, title in zip(names, titles, strict=True)]
        for row in cells
    )
    for by in reversed(panel.json["options"].get("sortBy", ())):
        at = titles.index(by["displayName"])
        rows.sort(key=itemgetter(at), reverse=by["desc"])
    _, _, w, h = box
    shown = rows[: int((h - 0.62) / _LINE)]
    widths = _column_widths([titles, *shown], w - 0.2)
    starts = 0.1 + np.cumsum([0.0, *widths[:-1]])
    for line, row in enumerate((titles, *shown)):
        for start, width, text in zip(starts, widths, row, strict=True):
            frame.text(
                start,
                h - 0.45 - line * _LINE,
                canvas.shortened(text, max(2, int((width - 0.1) / _LETTER))),
                fontsize=_SIZE,
                color=canvas.FAINT if line == 0 else canvas.INK,
                weight="bold" if line == 0 else "normal",
                va="center",
            )
    if len(shown) < len(rows):
        text = f"{len(rows) - len(shown)} more rows"
        frame.text(w - 0.1, h - 0.17, text, fontsize=_SMALL, color=canvas.FAINT, ha="right", va="center")


def _column_widths(rows: Sequence[Sequence[str]], width: float) -> list[float]:
    """Inches of each column: as its longest cell, and where there is no room for all, the widest give way first."""
    needed = [max(len(row[at]) for row in rows) * _LETTER + 0.2 for at in range(len(rows[0]))]
    while sum(needed) > width:
        needed[needed.index(max(needed))] -= _LETTER
    spare = (width - sum(needed)) / len(needed)
    return [each + spare for each in needed]


def _mapped(panel: Panel) -> dict[tuple[str, str], str]:
    """What cells are shown as, by column and value."""
    return {
        (override["matcher"]["options"], value): shown["text"]
        for override in panel.json["fieldConfig"]["overrides"]
        for option in override["properties"]
        if option["id"] == "mappings"
        for mapping in option["value"]
        for value, shown in mapping["options"].items()
    }


def _timeseries(figure: Figure, frame: Axes, panel: Panel, box: Box) -> None:
    left, bottom, w, h = box
    names = list(dict.fromkeys(series.name for series in panel.series))
    below = _legend(frame, names, w)
    axes = _axes(figure, (left + 0.62, bottom + below + 0.22, w - 0.74, h - below - 0.58))
    custom, defaults = panel.defaults["custom"], panel.defaults
    starts_s = min(series.times_s[0] for series in panel.series)
    if _stacks(panel):
        _stacked(axes, panel.series, starts_s, custom["fillOpacity"] / 100)
    else:
        for number, series in enumerate(panel.series):
            x, y = np.array(series.times_s) - starts_s, np.array(series.values)
            colour = _LINES[number % len(_LINES)]
            axes.plot(x, y, color=colour, linewidth=1.1)
            if len(panel.series) <= 4:
                axes.fill_between(x, y, 0, color=colour, alpha=custom.get("fillOpacity", 0) / 100, linewidth=0)
    _dress(axes, defaults["unit"])
    _bound(axes, panel)
    if defaults["unit"] == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 5))))


def _stacks(panel: Panel) -> bool:
    return bool(panel.defaults["custom"].get("stacking", {}).get("mode") == "normal")


def _bound(axes: Axes, panel: Panel) -> None:
    """The limits of the vertical axis, and a line where the panel has one."""
    defaults, custom = panel.defaults, panel.defaults["custom"]
    values = [value for series in panel.series for value in series.values if math.isfinite(value)]
    least, most = min(values), max(axes.get_ylim()[1] if _stacks(panel) else 0, *values)
    low = defaults.get("min", min(custom.get("axisSoftMin", least), least))
    high = defaults.get("max", most * 1.08 or 1.0)
    if custom.get("thresholdsStyle", {}).get("mode") == "line":
        limit = defaults["thresholds"]["steps"][-1]["value"]
        axes.axhline(limit, color=canvas.RED, linewidth=1, linestyle=(0, (4, 3)))
        high = max(high, limit * 1.1)
    if custom.get("scaleDistribution", {}).get("type") == "symlog":
        axes.set_yscale("symlog", base=10, linthresh=custom["scaleDistribution"]["linearThreshold"])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        # Nothing is below zero, of which this scale shows as much.
        axes.set_ylim(-0.03, high * 1.5)
        return
    axes.set_ylim(low - (high - low) * 0.01, high + (high - low) * (0.02 if "max" in defaults else 0))


def _stacked(axes: Axes, lines: Sequence[Series], starts_s: float, opacity: float) -> None:
    times_s = sorted({time_s for series in lines for time_s in series.times_s})
    total = np.zeros(len(times_s))
    for number, series in enumerate(lines):
        known = dict(zip(series.times_s, series.values, strict=True))
        values = np.nan_to_num(np.array([known.get(time_s, 0.0) for time_s in times_s]))
        x, colour = np.array(times_s) - starts_s, _LINES[number % len(_LINES)]
        axes.fill_between(x, total, total + values, color=colour, alpha=opacity, linewidth=0)
        total = total + values
        axes.plot(x, total, color=colour, linewidth=1)


def _heatmap(figure: Figure, _frame: Axes, panel: Panel, box: Box) -> None:
    left, bottom, w, h = box
    axes = _axes(figure, (left + 0.62, bottom + 0.25, w - 0.74, h - 0.62))
    lines = sorted(panel.series, key=lambda series: float(series.labels["le"]))
    times_s = sorted({time_s for series in lines for time_s in series.times_s})
    known = [dict(zip(series.times_s, series.values, strict=True)) for series in lines]
    totals = np.array([[each.get(time_s, 0.0) for time_s in times_s] for each in known])
    counts = np.diff(totals, axis=0, prepend=0)
    seen = np.flatnonzero(counts.max(axis=1) > 1e-9)
    first, last = seen[0], seen[-1] + 1
    axes.pcolormesh(
        np.append(times_s, times_s[-1] + 1) - times_s[0],
        np.arange(last - first + 1),
        np.sqrt(np.clip(counts[first:last], 0, None)),
        cmap="Blues",
    )
    unit = panel.defaults["unit"]
    bounds = [float(series.labels["le"]) for series in lines[first:last]]
    every = max(1, len(bounds) // 6)
    axes.set_yticks(
        np.arange(1, last - first + 1)[::every],
        ["more" if math.isinf(bound) else units.written(bound, unit) for bound in bounds[::every]],
    )
    axes.grid(visible=False)
    axes.tick_params(labelsize=_SMALL, length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))


def _dress(axes: Axes, unit: str) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.written(float(f"{value:.6g}"), unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0)
    axes.tick_params(labelsize=_SMALL, length=0)


def _clock(seconds: float, _: int) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _legend(frame: Axes, names: Sequence[str], width: float) -> float:
    """Write the legend at the bottom; returns the inches that it takes."""
    shown = [*names[:_IN_LEGEND], *([f"{len(names) - _IN_LEGEND} more"] if len(names) > _IN_LEGEND else ())]
    lines: list[list[tuple[int, str, float]]] = [[]]
    at = 0.1
    for number, name in enumerate(shown):
        text = canvas.shortened(name, int((width - 0.4) * 16))
        wide = canvas.text_width(text, _SMALL) / 72 + 0.28
        if at + wide > width and lines[-1]:
            lines.append([])
            at = 0.1
        lines[-1].append((number, text, at))
        at += wide
    for line, entries in enumerate(reversed(lines)):
        y = 0.12 + line * 0.15
        for number, text, x in entries:
            if number < _IN_LEGEND:
                mark = Rectangle((x, y - 0.015), 0.12, 0.03, color=_LINES[number % len(_LINES)], linewidth=0)
                frame.add_patch(mark)
            frame.text(x + 0.16, y, text, fontsize=_SMALL, color=canvas.FAINT, va="center")
    return 0.1 + 0.15 * len(lines)
