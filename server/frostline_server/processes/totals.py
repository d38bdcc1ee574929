"""The metrics of all processes as one page: a Prometheus collector that asks every process at every scrape.

What counts never falls when a process ends: its last numbers are kept and added. The rule for each metric comes with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
        self._last: dict[str, list[Block]] = {}
        self._ended: list[Block] = []

    def begin(self, process: str) -> None:
        """Take in a process, under a name that no other ever has."""
        with self._lock:
            self._last[process] = []

    def end(self, process: str) -> None:
        """A process has ended; what it had counted at the last scrape stays."""
        with self._lock:
            last = [block for block in self._last.pop(process, ()) if block.across == "total"]
            self._ended = combined([self._ended, last])

    def collect(self) -> Iterator[Metric]:
        """Every metric; a process that does not answer counts with its last numbers."""
        with self._scraping:
            written = self._scrape()
            pages = {process: load(page) for process, page in written.items() if page is not None}
            with self._lock:
                for process, page in pages.items():
                    if process in self._last:
                        self._last[process] = page
                blocks = combined([*self._last.values(), self._ended])
        for block in blocks:
            yield _metric(block)


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
