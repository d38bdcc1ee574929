"""Pictures of the dashboards under real load, made by `make panels`; needs `prometheus`.

Three servers with a canary, a shadow and a version that fails are asked for a minute and a half, with trouble in the
middle. A Prometheus with the shipped configuration scrapes them every second. The ranges of the shipped rules are
shortened in the same way (five minutes to twenty seconds, an hour to one minute), so that a picture shows what they do.
On a machine without a GPU a stand-in for NVIDIA's library reports the cores in place of GPUs.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench.panels import dashboard, draw, fleet, prometheus

_WINDOWS = {"5m": "20s", "30m": "40s", "1h": "1m", "2h": "2m", "6h": "3m", "1d": "5m", "3d": "10m"}
_RATES = "10s"
_SETTLED_S = 6.0
_FIRED = 'count by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s]))'
_OUTPUT = Path(__file__).parents[2] / "docs" / "images"
_DASHBOARDS = ("frostline", "frostline-fleet", "frostline-gpu")


def main() -> None:
    """Parse the command line, run the play, draw, and name the alerts that fired and the panels that are empty."""
    parser = argparse.ArgumentParser(prog="python -m bench.panels", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="length of the load (default 90)")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder of the pictures (default docs/images)")
    options = parser.parse_args()
    binary = shutil.which("prometheus")
    if binary is None:
        parser.error("prometheus is not installed (Debian package prometheus)")
    console = Console()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console.print("training and publishing")
        fleet.publish(folder / "models")
        with fleet.serving(folder / "models", folder) as served:
            configuration = prometheus.configure(folder, served.targets, windows=_WINDOWS)
            with prometheus.running(binary, configuration) as api:
                console.print(f"asking {len(served.clients)} servers for {options.seconds:g} s")
                start_s = time.time() + _SETTLED_S
                fleet.load(served, options.seconds)
                end_s = time.time()
                fired = api.ask("query", query=_FIRED.format(seconds=round(options.seconds)))["result"]
                names = sorted(sample["metric"]["alertname"] for sample in fired)
                console.print(f"alerts that fired: {', '.join(names) or 'none'}")
                for stem in _DASHBOARDS:
                    shown = dashboard.load(prometheus.DEPLOY / f"grafana/dashboards/{stem}.json")
                    panels = dashboard.panels(shown, api, start_s, end_s, _RATES)
                    path = draw.draw(shown, panels, options.output / f"dashboard-{stem}.png")
                    empty = [panel.json["title"] for panel in panels if panel.kind != "row" and not panel.series]
                    console.print(
                        f"{path}: {path.stat().st_size // 1000} KB; empty panels: {', '.join(empty) or 'none'}"
                    )


if __name__ == "__main__":
    main()
