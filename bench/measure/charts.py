"""The charts of the results, drawn with matplotlib."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.load.baselines import CPP, H2
from bench.measure.targets import Results
from bench.scaling import Growth
from frostline_training.plots import canvas

_COLOURS = (canvas.BLUE, canvas.ORANGE, canvas.GREEN)


@dataclass(frozen=True)
class Curves:
    """One chart with logarithmic axes.

    Attributes:
        title: of the chart.
        x_label: the title of the x axis.
        x: its values.
        y: by the name of a curve, its values; the first is drawn strongest.
    """

    title: str
    x_label: str
    x: Sequence[float]
    y: Mapping[str, Sequence[float]]


def concurrency(results: Results, in_flight: Sequence[int], path: Path) -> Path:
    """Throughput and p99 of the MLP against requests in flight, with those of the echoes, into a PNG."""
    names = {"Frostline": "", **{f"{kind}, same bytes": f" {kind}" for kind in (CPP, H2)}}
    charts = []
    for number, title in (("rate", "answers a second"), ("p99_ms", "99th percentile of latency, ms")):
        curves = {
            label: [statistics.median(results[f"mlp@{count}{suffix}"][number]) for count in in_flight]
            for label, suffix in names.items()
            if f"mlp@{in_flight[0]}{suffix}" in results
        }
        charts.append(Curves(title, "requests in flight", in_flight, curves))
    return draw(charts, path)


def growth(growths: Sequence[Growth], path: Path) -> Path:
    """Microseconds a request against each quantity, into a PNG."""
    charts = [Curves("µs a request", growth.name, growth.x, {growth.name: growth.micros}) for growth in growths]
    return draw(charts, path)


def draw(charts: Sequence[Curves], path: Path) -> Path:
    """Draw charts beside each other into a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with canvas.style():
        made, axes = canvas.figure((4.6 if len(charts) < 3 else 3.4) * len(charts), 3.6, columns=len(charts))
        for chart, place in zip(charts, axes, strict=True):
            _draw(chart, place)
        return canvas.save(made, path)


def _draw(chart: Curves, place: Axes) -> None:
    for number, (label, values) in enumerate(chart.y.items()):
        width, line = (2.2, "-") if number == 0 else (1.2, "--")
        place.plot(
            chart.x, values, line, marker="o", markersize=4, label=label, color=_COLOURS[number], linewidth=width
        )
    place.set(title=chart.title, xlabel=chart.x_label, xscale="log", yscale="log")
    place.set_xticks(list(chart.x))
    for axis in (place.xaxis, place.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    place.minorticks_off()
    place.tick_params(labelsize=8)
    values = [value for curve in chart.y.values() for value in curve]
    # From a round number below to one above, so that a flat curve looks flat.
    place.set_ylim(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.01)))
    if len(chart.y) > 1:
        place.legend(fontsize=8)


def _short(value: float) -> str:
    return f"{value / 1000:,.10g}k" if value >= 1000 and value % 1000 == 0 else f"{value:,.10g}"
