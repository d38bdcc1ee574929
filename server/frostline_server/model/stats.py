"""The accumulators of a model: counts, sums and histograms, updated once for each batch under one lock.

The hot path never touches a Prometheus object; `metrics.prometheus` reads these numbers at every scrape.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline_server.batching.entry import Entry
from frostline_server.errors import PredictionError

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bucket bounds of durations: from a tenth of a millisecond, because a small network answers in that."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(frozen=True, slots=True)
class Example:
    """An observation that can be looked up.

    Attributes:
        trace_id: the trace in which it was made.
        value: what was observed.
        time_s: when, in seconds since 1970.
    """

    trace_id: str
    value: float
    time_s: float


class Histogram:
    """Counts of observations by upper bound, and their sum; with the latest example of each bucket, if there is one."""

    __slots__ = ("bounds", "counts", "examples", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.examples: dict[int, Example] = {}

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, example: Example) -> None:
        """Take an observation that is counted already as the example of its bucket."""
        self.examples[bisect_left(self.bounds, example.value)] = example

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def copy(self) -> "Histogram":
        """The same counts, which no later observation changes."""
        copied = Histogram(self.bounds)
        copied.counts = list(self.counts)
        copied.total = self.total
        copied.examples = dict(self.examples)
        return copied

    def buckets(self, scale: float = 1.0) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them; bounds multiplied by `scale`."""
        cumulative, total = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            label = "+Inf" if bound == float("inf") else f"{bound * scale:.10g}"
            cumulative.append((label, float(total)))
        return cumulative


@dataclass(slots=True)
class BatchTimes:
    """Batches of one size: how many ran, and how long each stage took in all."""

    count: int = 0
    assemble_s: float = 0.0
    run_s: float = 0.0
    answer_s: float = 0.0


@dataclass(slots=True)
class Snapshot:
    """The totals and histograms of one version at one moment.

    Stage durations are summed over requests, as Triton sums them.
    """

    codes: Counter[str]
    reasons: Counter[str]
    failed_s: float
    rows: int
    assemble_s: float
    run_s: float
    answer_s: float
    by_size: dict[int, BatchTimes]
    last_inference_ms: int
    request_seconds: Histogram
    queue_seconds: Histogram
    run_seconds: Histogram
    batch_rows: Histogram

    @property
    def succeeded(self) -> int:
        """Requests that were answered."""
        return self.codes["OK"]

    @property
    def executions(self) -> int:
        """Batches that ran."""
        return self.run_seconds.count

    @property
    def request_s(self) -> float:
        """Seconds from arrival to answer, of all answered requests."""
        return self.request_seconds.total

    @property
    def queue_s(self) -> float:
        """Seconds that all answered requests waited."""
        return self.queue_seconds.total


class ModelStats:
    """What happened to one version of a model; the batcher's observer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._failed_s = 0.0
        self._rows = 0
        self._assemble_s = 0.0
        self._run_s = 0.0
        self._answer_s = 0.0
        self._last_inference_s = 0.0
        self._by_size: dict[int, BatchTimes] = {}
        self.request_seconds = Histogram(SECONDS)
        self.queue_seconds = Histogram(SECONDS)
        self.run_seconds = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        """Count a batch that ran and was answered; times are on the `time.monotonic` clock.

        An entry has an error if its answer could not be made; it counts as failed.
        """
        unanswered = [entry for entry in entries if entry.error is not None]
        answered_rows = rows
        if unanswered:
            for entry in unanswered:
                self.failed(entry.error, finished_s - entry.arrived_s)  # type: ignore[arg-type]  # never None here
            answered_rows -= sum([entry.rows for entry in unanswered])
            entries = [entry for entry in entries if entry.error is None]
        requests = len(entries)
        with self._lock:
            self._codes["OK"] += requests
            self._rows += answered_rows
            self._last_inference_s = time.time()
            self._assemble_s += (assembled_s - started_s) * requests
            self._run_s += (ran_s - assembled_s) * requests
            self._answer_s += (finished_s - ran_s) * requests
            self.run_seconds.observe(ran_s - assembled_s)
            self.batch_rows.observe(rows)
            queue, request = self.queue_seconds, self.request_seconds
            for entry in entries:
                arrived_s = entry.arrived_s
                queue.observe(started_s - arrived_s)
                request.observe(finished_s - arrived_s)
            times = self._by_size.get(rows)
            if times is None:
                times = self._by_size[rows] = BatchTimes()
            times.count += 1
            times.assemble_s += assembled_s - started_s
            times.run_s += ran_s - assembled_s
            times.answer_s += finished_s - ran_s

    def failed(self, error: PredictionError, seconds: float = 0.0, _: Entry | None = None) -> None:
        """Count a request that ended without an answer, `seconds` after it came."""
        with self._lock:
            self._codes[error.code] += 1
            self._reasons[error.reason] += 1
            self._failed_s += seconds

    def exemplify(self, trace_id: str, seconds: Mapping[str, float], time_s: float) -> None:
        """Take a traced request as the example of its buckets; without the lock, as each is replaced as a whole.

        Args:
            trace_id: its trace.
            seconds: how long it took as a whole (`request`), waited (`queue`) and ran (`run`).
            time_s: when it ended, in seconds since 1970.
        """
        for name, histogram in (
            ("request", self.request_seconds),
            ("queue", self.queue_seconds),
            ("run", self.run_seconds),
        ):
            histogram.exemplify(Example(trace_id, seconds[name], time_s))

    def snapshot(self) -> Snapshot:
        """The totals and histograms now."""
        with self._lock:
            return Snapshot(
                codes=Counter(self._codes),
                reasons=Counter(self._reasons),
                failed_s=self._failed_s,
                rows=self._rows,
                assemble_s=self._assemble_s,
                run_s=self._run_s,
                answer_s=self._answer_s,
                by_size={
                    size: BatchTimes(times.count, times.assemble_s, times.run_s, times.answer_s)
                    for size, times in sorted(self._by_size.items())
                },
                last_inference_ms=int(self._last_inference_s * 1000),
                request_seconds=self.request_seconds.copy(),
                queue_seconds=self.queue_seconds.copy(),
                run_seconds=self.run_seconds.copy(),
                batch_rows=self.batch_rows.copy(),
            )


class Unrouted:
    """Requests that failed before it was known which model they are for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: Counter[str] = Counter()

    def failed(self, error: PredictionError) -> None:
        """Count one."""
        with self._lock:
            self._codes[error.code] += 1

    def codes(self) -> Counter[str]:
        """Requests by status."""
        with self._lock:
            return Counter(self._codes)
