"""The report of a soak, for a terminal and for docs/security.md, with a chart of memory, threads and latency."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bench.measure.document import IMAGES
from bench.measure.report import Sheet
from bench.soak import verdict
from bench.soak.calls import total
from bench.soak.verdict import Record
from frostline_training.plots import canvas

DOCUMENT = Path("docs/security.md")
SECTION = "soak"
CHART = IMAGES / "soak.svg"


def read(path: Path) -> tuple[list[Record], dict[str, Any]]:
    """A record that was written as it went: its samples, and how it ended.

    A soak that was cut off has no end; what it saw until then stands.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ends = [line["end"] for line in lines if "end" in line]
    return [line for line in lines if "server" in line], ends[-1] if ends else {"death": "", "cut_off": True}


def summary(records: Sequence[Record], end: Mapping[str, Any]) -> str:
    """Whether the soak was withstood, and what was not as it should be."""
    found = verdict.complaints(records, end)
    cut = " It was cut off." if end.get("cut_off") else ""
    minutes = records[-1]["at_s"] / 60 if records else 0.0
    return f"{minutes:.0f} minutes: {'; '.join(found) or 'met'}.{cut}"


def numbers(records: Sequence[Record], end: Mapping[str, Any]) -> Sheet:
    """What was done, and what was measured."""
    ended = total(records, "ended")
    steady = verdict.warm(records)
    kinds: dict[str, int] = {}
    for how, count in ended.items():
        kind = how.rpartition(" ")[0].partition(" (")[0]
        kinds[kind] = kinds.get(kind, 0) + count
    rows = [
        ("calls and requests of streams", f"{sum(ended.values()):,}"),
        *((f"- {kind}", f"{count:,}") for kind, count in sorted(kinds.items(), key=lambda item: -item[1])),
        ("wrong answers", f"{sum(total(records, 'wrong').values()):,}"),
        ("calls lost", f"{sum(total(records, 'lost').values()):,}"),
        ("new versions", f"{sum(bool(record.get('version')) for record in records):,}"),
        ("hostile models", f"{sum(bool(record.get('hostile')) for record in records):,}"),
        ("resident memory, MiB: after ten minutes / at the end", _ends(steady, "rss_mib")),
        ("slope of resident memory after ten minutes, MiB an hour (95 %)", str(verdict.memory(steady))),
        ("slope of what its processes keep, MiB an hour (95 %)", str(verdict.kept_by_children(steady))),
        ("threads: after ten minutes / at the end", _ends(steady, "threads")),
        ("descriptors: after ten minutes / at the end", _ends(steady, "descriptors")),
        ("cores", f"{_cores(records):.2f}"),
        (
            "p50 / p99 of an answer, ms, medians of 10 s",
            " / ".join(_middle(steady, key) for key in ("p50_ms", "p99_ms")),
        ),
        ("from SIGTERM to the end, s", f"{end['stop_s']:.2f}" if end.get("stop_s") is not None else "-"),
    ]
    return Sheet("The soak", ("what", "measured"), tuple(rows))


def _ends(records: Sequence[Record], name: str) -> str:
    part = max(1, len(records) // 5)
    values = [record["server"][name] for record in records]
    return f"{np.median(values[:part]):,.0f} / {np.median(values[-part:]):,.0f}" if values else "-"


def _middle(records: Sequence[Record], key: str) -> str:
    values = [record[key] for record in records if record[key] is not None]
    return f"{np.median(values):.2f}" if values else "-"


def _cores(records: Sequence[Record]) -> float:
    if len(records) < 2:
        return 0.0
    first, last = records[0], records[-1]
    return float((last["server"]["cpu_s"] - first["server"]["cpu_s"]) / (last["at_s"] - first["at_s"]))


def chart(records: Sequence[Record], path: Path = CHART) -> Path:
    """Draw memory, threads with descriptors, and latency over time, into the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    minutes = [record["at_s"] / 60 for record in records]
    with canvas.style():
        made, places = canvas.figure(13.2, 3.4, columns=3)
        memory, counts, latency = places
        memory.plot(minutes, _of(records, "rss_mib"), color=canvas.BLUE, label="the server")
        memory.plot(minutes, _of(records, "children_mib"), color=canvas.ORANGE, label="its processes", linewidth=0.8)
        counts.plot(minutes, _of(records, "descriptors"), color=canvas.BLUE, label="descriptors")
        counts.plot(minutes, _of(records, "threads"), color=canvas.ORANGE, label="threads")
        counts.plot(minutes, _of(records, "children"), color=canvas.GREEN, label="processes")
        for key, colour in (("p50_ms", canvas.BLUE), ("p99_ms", canvas.ORANGE)):
            values = [np.nan if record[key] is None else record[key] for record in records]
            latency.plot(minutes, values, color=colour, label=key.removesuffix("_ms"))
        latency.set_yscale("log")
        for place, title in ((memory, "resident memory, MiB"), (counts, "held"), (latency, "latency, ms")):
            _finish(place, title, verdict.warm(records)[0]["at_s"] / 60)
        return canvas.save(made, path)


def _of(records: Sequence[Record], name: str) -> list[float]:
    return [record["server"][name] for record in records]


def _finish(place: Axes, title: str, warm_min: float) -> None:
    place.set(title=title, xlabel="minutes")
    if place.get_yscale() == "linear":
        place.set_ylim(bottom=0)
    place.axvspan(0, warm_min, color=canvas.LINE, alpha=0.3, linewidth=0)
    place.legend(fontsize=8)


def body(records: Sequence[Record], end: Mapping[str, Any], how: str) -> str:
    """The section of the document."""
    picture = f"![Memory, threads, descriptors and latency over the soak](images/{CHART.name})"
    return "\n\n".join([f"Measured {how}.", summary(records, end), picture, numbers(records, end).markdown()])
