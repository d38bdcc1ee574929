"""One scrape of all processes: it asks each worker for its metrics, and adds the supervisor's own.

The supervisor's own are which workers run, how often each was restarted, whether the server is ready, and what the
supervisor's process takes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from frostline_server.metrics.exchange import dump
from frostline_server.processes.child import Child
from frostline_server.processes.totals import Totals
from frostline_server.rpc.private_port import METRICS

_ANSWER_S = 5.0
"""How long a worker may take, in seconds; a scraper waits 10."""
_SUPERVISOR = "supervisor"


class Scrape:
    """The metrics of one server of several processes.

    Args:
        loop: the event loop of the workers' connections.
        children: the workers that run, by number.
        restarts: how often each was restarted.
        unready: why the server is not ready, or "".

    Attributes:
        registry: what /metrics shows.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        children: Mapping[int, Child],
        restarts: Mapping[int, int],
        unready: Callable[[], str],
    ) -> None:
        self._loop = loop
        self._children = children
        self._restarts = restarts
        self._unready = unready
        self._up: Mapping[int, bool] = {}
        self._own = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR, self):
            self._own.register(collector)
        self._totals = Totals(self._pages)
        self._totals.begin(_SUPERVISOR)
        self.registry = CollectorRegistry()
        self.registry.register(self._totals)

    def begin(self, child: Child) -> None:
        """Take in a worker."""
        self._totals.begin(child.name)

    def end(self, child: Child) -> None:
        """A worker has ended."""
        self._totals.end(child.name)

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry need not know the names before they are read."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """The supervisor's own families."""
        yield GaugeMetricFamily(
            "frostline_ready", "1 when the server is ready for traffic.", float(not self._unready())
        )
        up = GaugeMetricFamily(
            "frostline_process_up",
            "1 for a process that accepts connections and answered this scrape.",
            labels=["process"],
        )
        restarts = CounterMetricFamily(
            "frostline_process_restarts", "Times that a process was started again.", labels=["process"]
        )
        for number, times in self._restarts.items():
            up.add_metric([str(number)], float(self._up.get(number, False)))
            restarts.add_metric([str(number)], times)
        yield from (up, restarts)

    def _pages(self) -> Mapping[str, bytes | None]:
        """What every process says; called by the threads of HTTP, one at a time."""
        pages = dict(asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result())
        pages[_SUPERVISOR] = dump(self._own, {})
        return pages

    async def _ask(self) -> Mapping[str, bytes | None]:
        children = list(self._children.values())
        calls = (child.call(METRICS, b"", _ANSWER_S) for child in children)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        pages = {
            child.name: answer if isinstance(answer, bytes) else None
            for child, answer in zip(children, answers, strict=True)
        }
        self._up = {child.number: child.open and pages[child.name] is not None for child in children}
        return pages
