"""The Prometheus collector: it fills the metric families from one snapshot of the registry at every scrape.

Which families there are, and where each number comes from, is in `families`.
"""

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample

from frostline_server.errors import sendable
from frostline_server.metrics import families
from frostline_server.metrics.families import Family, Reading, Sources
from frostline_server.metrics.host import CpuClock, host_families
from frostline_server.model.stats import Histogram
from frostline_server.repository.registry import VersionSnapshot

T = TypeVar("T")
Labels = Mapping[str, str]

_NO_REQUESTS = dict.fromkeys(("OK", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"), 0)
"""The statuses that rules and alerts read, from the start: what rises before its first scrape rises for nobody."""

_log = structlog.get_logger(__name__)


class Collector:
    """Fills the tables of `families` at every scrape.

    A family that fails for one model is left out for that model only, and counted.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._cpu = CpuClock()
        # Scrapes may overlap.
        self._lock = Lock()
        self._errors = 0
        self._logged: set[tuple[str, ...]] = set()

    def collect(self) -> Iterator[Metric]:
        """Every family, Frostline's own names first, then Triton's."""
        sources, versions = self._sources, self._sources.repository.snapshot()
        known = [(_identity(v), v) for v in versions]
        loaded = [(_identity(v), v.loaded) for v in versions if v.loaded]
        codes = [(_identity(v), {**_NO_REQUESTS, **(v.loaded.stats.codes if v.loaded else {})}) for v in versions]
        shadows = [
            ({"model": model, "version": version, "live_version": live}, counts)
            for model, version, live, counts in sources.repository.shadows()
        ]
        yield from self._fill(families.SERVER, [({}, sources)])
        yield from self._fill(families.REQUESTS, [({"model": "", "version": ""}, sources.unrouted.codes()), *codes])
        yield from self._fill(families.VERSION, known)
        yield from self._fill(families.LOADED, loaded)
        yield from self._fill(families.SHADOW, shadows)
        decided = [({"model": name}, counts) for name, counts in sources.repository.decisions.items()]
        yield from self._fill(families.DECISIONS, decided)
        taken_back = [({"model": name}, taken) for name, taken in sources.repository.taken_back.items()]
        yield from self._fill(families.TAKEN_BACK, taken_back)
        yield from self._fill(families.TRITON, loaded)
        yield from self._host()
        yield from self._fill(families.ERRORS, [({}, self._errors)])

    def _host(self) -> Iterator[Metric]:
        """The machine's families, as far as they can be read: that takes files, which may have run out."""
        metrics = host_families(self._cpu)
        while True:
            try:
                metric = next(metrics, None)
            except Exception as error:  # noqa: BLE001  as in `_fill`
                self._failed("nv_*", {}, error)
                return
            if metric is None:
                return
            yield metric

    def _fill(self, table: Sequence[Family[T]], subjects: Sequence[tuple[Labels, T]]) -> Iterator[Metric]:
        """The families of a table with the samples of each subject; the labels beside it say which one it is."""
        for family in table:
            metric = Metric(family.name.removesuffix("_total"), family.help, family.type)
            for labels, subject in subjects:
                try:
                    metric.samples += _samples(family, labels, family.read(subject))
                except Exception as error:  # noqa: BLE001  whatever one model does, the others are still shown
                    self._failed(family.name, labels, error)
            yield metric

    def _failed(self, name: str, labels: Labels, error: Exception) -> None:
        key = (name, *labels.values())
        with self._lock:
            self._errors += 1
            first = key not in self._logged
            self._logged.add(key)
        if first:
            # Once, because a scrape comes every few seconds.
            told = {label: sendable(text) for label, text in labels.items()}
            _log.error(
                "a metric was left out", metric=name, **told, reason=sendable(f"{type(error).__name__}: {error}")
            )


def register(registry: CollectorRegistry, sources: Sources) -> None:
    """Put every series on `registry`."""
    registry.register(Collector(sources))


def _identity(version: VersionSnapshot) -> Labels:
    return {"model": version.name, "version": version.version}


def _samples(family: Family[T], labels: Labels, reading: Reading) -> list[Sample]:
    if reading is None:
        return []
    if isinstance(reading, Histogram):
        buckets = reading.buckets(family.scale)
        return [
            *(
                _sample(
                    f"{family.name}_bucket", {**labels, "le": bound}, count, _exemplar(reading, index, family.scale)
                )
                for index, (bound, count) in enumerate(buckets)
            ),
            _sample(f"{family.name}_count", labels, reading.count),
            _sample(f"{family.name}_sum", labels, reading.total * family.scale),
        ]
    if isinstance(reading, tuple):
        return [_sample(family.name, {**labels, **dict(zip(family.labels, reading, strict=True))}, 1)]
    if isinstance(reading, Mapping):
        (label,) = family.labels
        return [_sample(family.name, {**labels, label: text}, value) for text, value in reading.items()]
    return [_sample(family.name, labels, reading)]


def _exemplar(histogram: Histogram, bucket: int, scale: float) -> Exemplar | None:
    """A bucket's example as OpenMetrics has it; other formats leave it out."""
    example = histogram.examples.get(bucket)
    return None if example is None else Exemplar({"trace_id": example.trace_id}, example.value * scale, example.time_s)


def _sample(name: str, labels: Labels, value: float, exemplar: Exemplar | None = None) -> Sample:
    """A sample that can be rendered for certain.

    Raises:
        ValueError, TypeError or AttributeError: the value is no number, or a label is no text that UTF-8 can hold.
    """
    for text in labels.values():
        text.encode()
    return Sample(name, dict(labels), float(value), exemplar=exemplar)
