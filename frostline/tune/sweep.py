"""The parameter sweep: which settings of a model are tried, and which of them is the best.

Both are decided from numbers alone.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline.pb import model_config_pb2

THREADS = "intra_op_thread_count"
SLO = "slo_ms"
SIZES = (1, 4, 16, 64, 256)
FRACTIONS = (0.3, 0.5, 0.7, 0.85, 0.95)
"""The offered loads, as parts of what a candidate answers when it is always kept busy."""


@dataclass(frozen=True)
class Setting:
    """One candidate.

    Attributes:
        instances: how many sessions run side by side.
        threads: threads of one run on the CPU; 0 where that means nothing.
        max_batch_size: the most rows of a batch; 0 for a network without a batch axis.
    """

    instances: int
    threads: int
    max_batch_size: int

    def fields(self) -> model_config_pb2.ModelConfig:
        """The fields of a config.pbtxt that say so."""
        config = model_config_pb2.ModelConfig(max_batch_size=self.max_batch_size)
        config.instance_group.add(count=self.instances)
        if self.threads:
            config.parameters[THREADS].string_value = str(self.threads)
        return config

    def __str__(self) -> str:
        parts = [f"batch {self.max_batch_size}"] * bool(self.max_batch_size)
        parts += [f"{self.instances} x {self.threads} threads" if self.threads else f"{self.instances} instances"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Point:
    """What one offered load gave.

    Attributes:
        rate: requests offered a second.
        p50_ms: their median latency, from when each was due.
        p99_ms: its 99th percentile; infinite where one in a hundred was not answered.
        late_ms: the load generator's own share of that, 99th percentile.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    late_ms: float


@dataclass(frozen=True)
class Trial:
    """A candidate and what was measured.

    Attributes:
        setting: the candidate.
        capacity: answers a second when it was always kept busy.
        points: by offered load, ascending.
    """

    setting: Setting
    capacity: float
    points: tuple[Point, ...]

    def best(self, slo_ms: float) -> Point | None:
        """The largest load up to which every load kept its 99th percentile within the limit."""
        kept = None
        for point in self.points:
            if point.p99_ms > slo_ms:
                break
            kept = point
        return kept


def shapes(cores: int, *, gpu: bool) -> list[tuple[int, int]]:
    """Instances and threads to try: powers of two that together use half of the cores, or all; on a GPU 1, 2 and 4 instances."""
    if gpu:
        return [(1, 0), (2, 0), (4, 0)]
    powers = [2**power for power in range(min(cores, 64).bit_length()) if 2**power <= cores]
    found = [(n, k) for n in powers for k in powers if n * k <= cores and (2 * n * k >= powers[-1])]
    # No more than a handful: with many cores, few instances of many threads and the other way round say enough.
    return found if len(found) <= 6 else [found[round(step * (len(found) - 1) / 5)] for step in range(6)]


def sizes(most: int) -> list[int]:
    """Batch sizes to try besides the one there is."""
    return [size for size in SIZES if size != most]


def choose(trials: Sequence[Trial], slo_ms: float) -> Trial | None:
    """The candidate that keeps within the limit at the largest load; None where none does at any."""
    able = [(point.rate, trial) for trial in trials if (point := trial.best(slo_ms)) is not None]
    return max(able, key=lambda pair: pair[0])[1] if able else None


def nearest(trials: Sequence[Trial]) -> tuple[Trial, Point]:
    """The candidate and the load with the lowest 99th percentile."""
    return min(((trial, point) for trial in trials for point in trial.points), key=lambda pair: pair[1].p99_ms)


def between(points: Sequence[Point], slo_ms: float) -> float | None:
    """The load half way between the largest that kept within the limit and the next one, which did not."""
    for low, high in itertools.pairwise(points):
        if low.p99_ms <= slo_ms < high.p99_ms:
            return (low.rate + high.rate) / 2
    return None


def with_point(trial: Trial, point: Point) -> Trial:
    """The trial with one more point."""
    return replace(trial, points=tuple(sorted((*trial.points, point), key=lambda each: each.rate)))
