"""The verdict on a soak: nothing wrong, nothing lost, and no growth of memory, threads, descriptors and processes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.soak.calls import total

MOST_MIB_PER_H = 2.0
"""Growth of resident memory; about 2 MB."""
MOST_MORE = 2.0
"""Threads, descriptors or processes at the end over those at the beginning, as medians."""
MOST_STOP_S = 2.0
"""From SIGTERM to the end."""
WARM_S = 600.0
"""The first ten minutes, in which memory may find its level; of a shorter soak the first sixth."""
_T_975 = ((60, 2.00), (30, 2.04), (20, 2.09), (10, 2.23), (5, 2.57), (3, 3.18), (2, 4.30), (1, 12.71))
"""Student's t for 95 %, by degrees of freedom and more."""

Record = Mapping[str, Any]
"""One line of the record: `at_s`, a server's footprint, and what its callers saw."""


@dataclass(frozen=True)
class Slope:
    """A straight line through points.

    Attributes:
        per_h: its slope, a unit an hour; NaN of fewer than three points.
        margin: half of the interval that holds it with 95 % confidence.
    """

    per_h: float
    margin: float

    def __str__(self) -> str:
        return f"{self.per_h:+.2f} ± {self.margin:.2f}"


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The line of least squares through values over time.

    The points of each minute count as one, their mean: samples that follow each other are not independent, and an
    interval that took them for it would be too narrow.

    Args:
        at_s: times in seconds.
        values: at those times.
    """
    points = np.array([np.mean(points, axis=0) for points in _by_minute(at_s, values)]).reshape(-1, 2)
    if len(points) < 3:
        return Slope(math.nan, math.nan)
    hours, level = (points[:, 0] - points[:, 0].mean()) / 3600, points[:, 1] - points[:, 1].mean()
    spread = float(hours @ hours)
    per_h = float(hours @ level) / spread
    free = len(points) - 2
    error = math.sqrt(float(np.sum((level - per_h * hours) ** 2)) / free / spread)
    return Slope(per_h, error * next(t for least, t in _T_975 if free >= least))


def _by_minute(at_s: Sequence[float], values: Sequence[float]) -> list[list[tuple[float, float]]]:
    """The points of each minute, without minutes that have less than half as many as the fullest: the first, the last."""
    minutes: dict[int, list[tuple[float, float]]] = {}
    for at, value in zip(at_s, values, strict=True):
        minutes.setdefault(int(at // 60), []).append((at, value))
    most = max(map(len, minutes.values()), default=0)
    return [points for points in minutes.values() if 2 * len(points) >= most]


def more(records: Sequence[Record], name: str) -> float:
    """How much higher a number is at the end than at the beginning: medians of a fifth of the records each."""
    part = max(1, len(records) // 5)
    numbers = [record["server"][name] for record in records]
    return float(np.median(numbers[-part:]) - np.median(numbers[:part]))


def warm(records: Sequence[Record]) -> list[Record]:
    """The records after the first minutes."""
    end_s = records[-1]["at_s"] if records else 0.0
    return [record for record in records if record["at_s"] >= min(WARM_S, end_s / 6)]


def kept_by_children(records: Sequence[Record]) -> Slope:
    """The growth of what the server's processes keep: of each minute the least, since most come and go."""
    at_s, sizes = [record["at_s"] for record in records], [record["server"]["children_mib"] for record in records]
    least = [min(points, key=lambda point: point[1]) for points in _by_minute(at_s, sizes)]
    return slope([at for at, _ in least], [size for _, size in least])


def memory(records: Sequence[Record]) -> Slope:
    """The growth of the server's resident memory in MiB an hour."""
    return slope([record["at_s"] for record in records], [record["server"]["rss_mib"] for record in records])


def complaints(records: Sequence[Record], end: Mapping[str, Any]) -> list[str]:
    """What is not as it should be; empty if the soak was withstood.

    Args:
        records: of the whole soak.
        end: how it ended: `death` of the server or "", `stop_s` and `open` calls.
    """
    found = [f"the server ended: {end['death']}"] if end.get("death") else []
    found += [f"{count} wrong: {how}" for how, count in sorted(total(records, "wrong").items())]
    found += [f"{count} lost: {how}" for how, count in sorted(total(records, "lost").items())]
    if end.get("open"):
        found.append(f"{end['open']} calls never ended")
    steady = warm(records)
    grown = memory(steady)
    if not grown.per_h < MOST_MIB_PER_H:
        found.append(f"memory grows by {grown} MiB an hour")
    kept = kept_by_children(steady)
    # Of a minute in which some process is there all the time, the least is no more than that process.
    if kept.per_h > MOST_MIB_PER_H and kept.per_h > kept.margin:
        found.append(f"the memory of its processes grows by {kept} MiB an hour")
    if steady:
        found += [
            f"{grown_by:+g} {name}"
            for name in ("threads", "descriptors", "children")
            if (grown_by := more(steady, name)) > MOST_MORE
        ]
    if (stop_s := end.get("stop_s")) is not None and stop_s > MOST_STOP_S:
        found.append(f"it took {stop_s:.1f} s to stop")
    return found
