"""Values as Grafana writes them: with the prefix of their size, and the unit of the panel."""

import math
from collections.abc import Mapping
from typing import Any

_SECONDS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_COUNTS = ((1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))
_SUFFIX = {"reqps": "req/s", "rowsps": "rows/s", "joule": "J", "watt": "W"}


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit; a value that is not a number is a dash."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{_number(value * 100, decimals)} %"
    if unit == "µs":
        value, unit = value * 1e-6, "s"
    scale = {"s": _SECONDS, "bytes": _BYTES}.get(unit, _COUNTS)
    size, name = next(((size, name) for size, name in scale if abs(value) >= size), scale[-1])
    if value == 0:
        size, name = 1.0, {"s": "s", "bytes": "B"}.get(unit, "")
    elif scale is _COUNTS and abs(value) < 1:
        size = 1.0
    number = _number(value / size, decimals)
    return " ".join(
        filter(None, (f"{number}{name}" if scale is _COUNTS else f"{number} {name}", _SUFFIX.get(unit, "")))
    )


def colour(value: float, thresholds: Mapping[str, Any]) -> str:
    """The name of the colour of the highest threshold that a value reaches."""
    steps = thresholds["steps"]
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def _number(value: float, decimals: int | None) -> str:
    return f"{value:.3g}" if decimals is None and abs(value) < 1000 else f"{value:.{decimals or 0}f}"
