"""A dashboard's panels and their data, as Grafana would ask for it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.panels.prometheus import Prometheus

_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Series:
    """One line of a panel, or one value.

    Attributes:
        name: as the legend shows it.
        labels: of the series.
        times_s: when, in seconds since 1970.
        values: NaN where there is none.
    """

    name: str
    labels: Mapping[str, str]
    times_s: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """A panel with its data.

    Attributes:
        json: as the dashboard has it.
        series: what its expressions gave.
    """

    json: Mapping[str, Any]
    series: tuple[Series, ...]

    @property
    def kind(self) -> str:
        """Its type: row, stat, table, timeseries or heatmap."""
        return str(self.json["type"])

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Its options of fields: unit, thresholds and the like."""
        return self.json.get("fieldConfig", {}).get("defaults", {})  # type: ignore[no-any-return]  # JSON


def load(path: Path) -> dict[str, Any]:
    """A dashboard's JSON."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def filled(expression: str, window: str) -> str:
    """An expression as Grafana sends it with every variable at All, and this interval for rates."""
    return re.sub(r"\$\{?\w+\}?", ".*", expression.replace("$__rate_interval", window))


def panels(
    dashboard: Mapping[str, Any], prometheus: Prometheus, start_s: float, end_s: float, window: str
) -> list[Panel]:
    """All panels of a dashboard, with what their expressions give from `start_s` to `end_s`."""
    return [
        Panel(
            panel,
            tuple(
                series
                for target in panel.get("targets", ())
                for series in _asked(target, prometheus, start_s, end_s, window)
            ),
        )
        for panel in dashboard["panels"]
    ]


def _asked(
    target: Mapping[str, Any], prometheus: Prometheus, start_s: float, end_s: float, window: str
) -> list[Series]:
    expression = filled(target["expr"], window)
    if target["instant"]:
        found = prometheus.ask("query", query=expression, time=str(end_s))["result"]
        points = [(sample["metric"], [sample["value"]]) for sample in found]
    else:
        found = prometheus.ask("query_range", query=expression, start=str(start_s), end=str(end_s), step="1")["result"]
        points = [(sample["metric"], sample["values"]) for sample in found]
    return [
        Series(
            _named(target["legendFormat"], metric),
            metric,
            [float(time_s) for time_s, _ in pairs],
            [float(value) for _, value in pairs],
        )
        for metric, pairs in points
    ]


def _named(legend: str, labels: Mapping[str, str]) -> str:
    return _LABEL.sub(lambda label: labels.get(label[1], ""), legend)
