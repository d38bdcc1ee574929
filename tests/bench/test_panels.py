"""The pictures of the dashboards: every panel is drawn from its JSON, values as Grafana writes them."""

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.panels import dashboard, draw, units
from bench.panels.dashboard import Panel, Series
from bench.panels.prometheus import DEPLOY, configure

SHIPPED = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (90.0, "s", "1.5 min"),
        (250.0, "µs", "250 µs"),
        (0.0, "s", "0 s"),
        (0.125, "percentunit", "12.5 %"),
        (3 * 2**20, "bytes", "3 MiB"),
        (12_300.0, "reqps", "12.3K req/s"),
        (0.25, "none", "0.25"),
        (math.nan, "short", "-"),
    ],
)
def test_values_are_written_with_their_unit(value: float, unit: str, text: str) -> None:
    assert units.written(value, unit) == text


def test_a_value_has_the_colour_of_the_highest_threshold_it_reaches() -> None:
    steps = {
        "steps": [{"color": "green", "value": None}, {"color": "orange", "value": 1}, {"color": "red", "value": 2}]
    }
    assert [units.colour(value, steps) for value in (0, 1, 5)] == ["green", "orange", "red"]


def some(panel: dict[str, Any]) -> Panel:
    """A panel with data as its expressions would give: two series of two moments."""
    labels = {"model": "m", "version": "1", "instance": "a:8002"}
    series = [
        Series(f"{target['refId']}{number}", {**labels, "le": bound}, [0.0, 1.0], [1.0, float(number)])
        for target in panel.get("targets", ())
        for number, bound in ((1, "0.5"), (2, "+Inf"))
    ]
    return Panel(panel, tuple(series))


def test_a_panel_of_every_kind_is_drawn_with_data_and_without(tmp_path: Path) -> None:
    shipped = [panel for path in SHIPPED for panel in dashboard.load(path)["panels"]]
    chosen = list({panel["type"]: panel for panel in reversed(shipped)}.values())
    assert {panel["type"] for panel in chosen} == {"row", "stat", "table", "timeseries", "heatmap"}
    # One below the other, wherever they were.
    shown: dict[str, Any] = {
        "title": "one of each",
        "panels": [{**panel, "gridPos": {"x": 0, "y": 6 * at, "w": 8, "h": 6}} for at, panel in enumerate(chosen)],
    }
    seen = []
    for name, panels in (
        ("data", [some(panel) for panel in shown["panels"]]),
        ("none", [Panel(panel, ()) for panel in shown["panels"]]),
    ):
        with Image.open(draw.draw(shown, panels, tmp_path / f"{name}.png")) as picture:
            seen.append((picture.size, picture.convert("RGB").tobytes()))
    (size, data), (other, none) = seen
    assert size == other
    assert data != none


def test_prometheus_is_given_the_shipped_rules_with_shorter_ranges(tmp_path: Path) -> None:
    written = configure(tmp_path, {"a:8002": "127.0.0.1:1"}, windows={"5m": "20s"})
    assert "instance: a:8002" in written.read_text()
    rules = (tmp_path / "rules.yml").read_text()
    assert "[20s]" in rules
    assert "[5m]" not in rules
    assert "interval: 1m" not in rules
    assert "[1h]" in rules
