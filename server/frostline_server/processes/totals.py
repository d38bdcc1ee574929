"""The metrics of all processes as one page: a Prometheus collector that asks every process at every scrape.

What counts never falls when a process ends: its last numbers are kept and added. The rule for each metric comes with it.

The counters of a version begin at 0 when it is loaded again, and whoever reads them takes a fall for that. Processes load one
after the other, so their sum would fall several times. It falls once: with the first process that begins again, what all
others had counted until then is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample

from frostline_server.metrics.exchange import Across, Block, Key, load

_COMBINE: Mapping[Across, Callable[[float, float], float]] = {
    "total": lambda one, other: one + other,
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


Version = tuple[str, ...]
"""What one version's counters have in common: the values of the labels that name it."""

_NAMING = ("model", "version", "live_version")


@dataclass(slots=True)
class _Process:
    """What a process had counted at the last scrape.

    Attributes:
        page: all its metrics.
        left_out: for the versions that another process has loaded again, and this one not yet, what it had counted then.
    """

    page: list[Block] = field(default_factory=list)
    left_out: dict[Version, dict[Key, float]] = field(default_factory=dict)

    def counted(self) -> list[Block]:
        """Its metrics, without what is left out."""
        if not self.left_out:
            return self.page
        left_out = {key: value for samples in self.left_out.values() for key, value in samples.items()}
        return [
            replace(block, samples={key: value - left_out.get(key, 0.0) for key, value in block.samples.items()})
            if block.across == "total"
            else block
            for block in self.page
        ]


class Totals:
    """Puts the metrics of processes together.

    Args:
        scrape: asks the processes that run; returns what each wrote, or None of one that did not answer; blocks.
    """

    def __init__(self, scrape: Callable[[], Mapping[str, bytes | None]]) -> None:
        self._scrape = scrape
        # One scrape after the other, or an older page could replace a newer one.
        self._scraping = Lock()
        self._lock = Lock()
        self._running: dict[str, _Process] = {}
        self._ended: list[Block] = []

    def begin(self, process: str) -> None:
        """Take in a process, under a name that no other ever has."""
        with self._lock:
            self._running[process] = _Process()

    def end(self, process: str) -> None:
        """A process has ended; what it had counted at the last scrape stays."""
        with self._lock:
            counted = self._running.pop(process, _Process()).counted()
            self._keep(block for block in counted if block.across == "total")

    def collect(self) -> Iterator[Metric]:
        """Every metric; a process that does not answer counts with its last numbers."""
        with self._scraping:
            written = self._scrape()
            pages = {process: load(page) for process, page in written.items() if page is not None}
            with self._lock:
                for process, page in pages.items():
                    if process in self._running:
                        self._take(self._running[process], page)
                blocks = combined([*(process.counted() for process in self._running.values()), self._ended])
        for block in blocks:
            yield _metric(block)

    def _take(self, process: _Process, page: list[Block]) -> None:
        """Take a newer page of a process."""
        before, now = _by_version(process.page), _by_version(page)
        fell = [
            version
            for version, samples in before.items()
            if any(now.get(version, {}).get(key, -1.0) < value for key, value in samples.items())
        ]
        if fell:
            self._begin_again(process, fell, now)
        process.page = page

    def _begin_again(
        self, process: _Process, fell: Iterable[Version], now: Mapping[Version, Mapping[Key, float]]
    ) -> None:
        """Of versions whose counters a process has begun anew, keep and leave out what all had counted."""
        others = [(other, _by_version(other.page)) for other in self._running.values() if other is not process]
        kept, first = set[Version](), set[Version]()
        for version in fell:
            there = version in now or any(version in counted for _, counted in others)
            (kept if version in process.left_out and there else first).add(version)
        # Another has begun before: what this one counted since then stays.
        counted_since = [_only(block, kept.__contains__) for block in process.counted() if block.across == "total"]
        self._ended = [_only(block, lambda version: version not in first) for block in self._ended]
        self._keep(block for block in counted_since if block.samples)
        for other, counted in others:
            other.left_out |= {version: counted[version] for version in first if version in counted}
        for version in fell:
            process.left_out.pop(version, None)

    def _keep(self, blocks: Iterable[Block]) -> None:
        self._ended = combined([self._ended, blocks])


def _version(key: Key) -> Version | None:
    """The version that a series is of; None for those of the server."""
    labels = dict(key[1])
    return tuple(labels.get(name, "") for name in _NAMING) if "version" in labels else None


def _by_version(page: Iterable[Block]) -> dict[Version, dict[Key, float]]:
    """The counters of each version."""
    found: dict[Version, dict[Key, float]] = {}
    for block in page:
        for key, value in block.samples.items() if block.across == "total" else ():
            if (version := _version(key)) is not None:
                found.setdefault(version, {})[key] = value
    return found


def _only(block: Block, wanted: Callable[[Version | None], bool]) -> Block:
    """A metric's series of the versions that are wanted."""
    samples = {key: value for key, value in block.samples.items() if wanted(_version(key))}
    examples = {key: value for key, value in block.examples.items() if key in samples}
    return replace(block, samples=samples, examples=examples)


def combined(pages: Iterable[Iterable[Block]]) -> list[Block]:
    """Several processes' metrics as one's, in the order in which they come."""
    merged: dict[str, tuple[Block, dict[Key, float], dict[Key, Exemplar]]] = {}
    for page in pages:
        for block in page:
            if block.name not in merged:
                merged[block.name] = block, dict(block.samples), dict(block.examples)
                continue
            combine, (_, samples, examples) = _COMBINE[block.across], merged[block.name]
            for key, value in block.samples.items():
                samples[key] = combine(samples[key], value) if key in samples else value
            for key, example in block.examples.items():
                examples[key] = max(examples.get(key, example), example, key=_time)
    return [
        Block(block.name, block.help, block.type, block.across, samples, examples)
        for block, samples, examples in merged.values()
    ]


def _time(example: Exemplar) -> float:
    return float(example.timestamp or 0)


def _metric(block: Block) -> Metric:
    metric = Metric(block.name, block.help, block.type)
    metric.samples = [
        Sample(name, dict(labels), value, exemplar=block.examples.get((name, labels)))
        for (name, labels), value in block.samples.items()
    ]
    return metric
