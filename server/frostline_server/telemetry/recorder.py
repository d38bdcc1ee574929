"""The recorder: it takes requests that have ended, and makes spans and lines of them in a thread of its own.

What takes a request appends one object to a queue, without a lock. The thread looks every half second, and sooner once
many wait: the more at once, the less each costs. What finds no room in the queue is dropped and counted.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import structlog

from frostline_server.batching.entry import Entry
from frostline_server.errors import PredictionError
from frostline_server.telemetry.access_log import AccessLog
from frostline_server.telemetry.finished import Batch, Counts, Finished, Origin, Report
from frostline_server.telemetry.sampling import Draws, Rule, Rules

MOST = 16384
"""Requests that wait for the thread at most."""
PERIOD_S = 0.5
MANY = 2048
"""So many requests that wait wake the thread before its time."""

_log = structlog.get_logger(__name__)


class Spans(Protocol):
    """What makes spans of requests and sends them; see `telemetry.spans`."""

    @property
    def outcomes(self) -> dict[str, int]:
        """Spans by what became of them."""
        ...

    def make(self, batch: Batch | None, requests: Sequence[Finished], offset_s: float) -> None:
        """Make spans of requests that shared a batch, or of one that joined none, and set their `trace_id`."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what is left, for so many seconds at most."""
        ...


class Recorder:
    """Records requests.

    Args:
        rules: decide which are traced; None for none.
        spans: makes spans of them; None for none.
        log: the access log; None for none.
        log_ratio: the share of requests that are logged.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        spans: Spans | None = None,
        log: AccessLog | None = None,
        log_ratio: float = 1.0,
    ) -> None:
        self._rules = rules
        self._spans = spans
        self._log = log
        self.log_ratio = log_ratio if log is not None else 0.0
        """The share of requests that are logged; 0 without a log."""
        self._queue: deque[Finished] = deque()
        self._dropped = {"traced": 0, "logged": 0}
        self._dropping = threading.Lock()
        self._stopping = False
        self._wake = threading.Event()
        self._reopen = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Record what has come, send it, and end, within so many seconds."""
        until_s = time.monotonic() + timeout_s
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._spans is not None:
            self._spans.close(max(0.0, until_s - time.monotonic()))
        if self._log is not None and not self._thread.is_alive():
            self._log.close()

    def reopen(self) -> None:
        """Have the access log opened again, as after it was rotated."""
        self._reopen = True

    @property
    def spans(self) -> dict[str, int] | None:
        """Spans and requests to be traced, by what became of them; None without traces."""
        if self._spans is None:
            return None
        outcomes = self._spans.outcomes
        return {**outcomes, "dropped": outcomes["dropped"] + self._dropped["traced"]}

    @property
    def lines(self) -> dict[str, int] | None:
        """Lines of the access log, by what became of them; None without one."""
        log = self._log
        return None if log is None else {"written": log.written, "dropped": log.lost + self._dropped["logged"]}

    def watch(self, counts: Counts, model: str, version: str) -> "Watch":
        """An observer of a version's batcher that counts as `counts` does, and records."""
        return Watch(self, counts, model, version)

    def refused(
        self,
        origin: Origin | None,
        error: PredictionError,
        request_id: str = "",
        model: str = "",
        version: str = "",
    ) -> None:
        """Record a request that ended before it was queued, if it is to be recorded."""
        if origin is None:
            return
        now_s, rule = time.monotonic(), self.rule(model)
        traced, logged = rule is not None and rule.wants(origin.header(b"traceparent")), self.logs()
        if traced or logged:
            told = _told(origin, error)
            self.put([Finished(*told, request_id, model, version, 0, now_s, now_s, error, None, None, traced, logged)])

    def rule(self, model: str) -> Rule | None:
        """What decides which requests of a model are traced; None if none are, for now."""
        if self._rules is None:
            return None
        rule = self._rules.of(model)
        return rule if rule.open else None

    def logs(self) -> bool:
        """Whether the next request is to be logged."""
        return self.log_ratio > 0 and random.random() < self.log_ratio  # noqa: S311  no secret

    def put(self, requests: list[Finished]) -> None:
        """Queue requests, those of a batch together."""
        waiting = len(self._queue) + len(requests)
        if waiting <= MOST:
            # At once, so that the thread never sees half a batch.
            self._queue.extend(requests)
            if waiting >= MANY and not self._wake.is_set():
                self._wake.set()
            return
        with self._dropping:
            self._dropped["traced"] += sum([request.traced for request in requests])
            self._dropped["logged"] += sum([request.logged for request in requests])

    def _run(self) -> None:
        failing = False
        while True:
            self._wake.wait(PERIOD_S)
            # Before the queue is looked at, so that what comes afterwards wakes it again.
            self._wake.clear()
            stopping = self._stopping
            try:
                self._record()
            except Exception:  # noqa: BLE001  the requests to come are recorded all the same
                if not failing:
                    _log.exception("requests could not be recorded")
                failing = True
            if stopping:
                return

    def _record(self) -> None:
        queue, log = self._queue, self._log
        if self._reopen and log is not None:
            self._reopen = False
            log.reopen()
        taken = [queue.popleft() for _ in range(len(queue))]
        if not taken:
            return
        # Each time, so that a clock that was set takes effect.
        offset_s = time.time() - time.monotonic()
        if self._spans is not None and self._rules is not None:
            for batch, group in groupby(taken, key=lambda request: request.batch):
                traced = [each for each in group if each.traced and self._rules.of(each.model).count.take()]
                if traced:
                    self._spans.make(batch, traced, offset_s)
        if log is not None:
            # The thread that answers may have been held up before it told of it.
            logged = sorted([request for request in taken if request.logged], key=lambda request: request.ended_s)
            log.write(logged, offset_s)


class Watch:
    """The observer of a version's batcher; see `batching.batcher.Observer`.

    Args:
        recorder: takes what is to be recorded.
        counts: is told of everything first.
        model: the version's model.
        version: its number.
    """

    def __init__(self, recorder: Recorder, counts: Counts, model: str, version: str) -> None:
        self._recorder = recorder
        self._counts = counts
        self._model = model
        self._version = version
        self._logged, self._traced = Draws(), Draws()

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        """Count a batch, and record those of its requests that are to be."""
        self._counts.batch(entries, rows, started_s, assembled_s, ran_s, finished_s)
        recorder, count = self._recorder, len(entries)
        rule, ratio = recorder.rule(self._model), recorder.log_ratio
        logged = self._logged.take(ratio, count) if ratio else ()
        traced = () if rule is None else self._of(rule, entries)
        if not logged and not traced:
            return
        thread = threading.current_thread().name
        batch = Batch(count, rows, started_s, assembled_s, ran_s, finished_s, thread)
        finished = [
            self._finished(entry, finished_s, entry.error, batch, number in traced, number in logged)
            for number in sorted({*traced, *logged})
            # A row of the server's own has no call.
            if (entry := entries[number]).call is not None and entry.call.origin is not None
        ]
        if finished:
            recorder.put(finished)

    def _of(self, rule: Rule, entries: Sequence[Entry]) -> Sequence[int]:
        """Which entries a rule has traced: of those whose callers have not decided, the ones that are drawn."""
        drawn = self._traced.take(rule.ratio, len(entries))
        decided = {}
        undecided: object = None
        for number, entry in enumerate(entries):
            # Most calls of a client have the same headers, without that one.
            if (call := entry.call) is None or (origin := call.origin) is None or origin.headers is undecided:
                continue
            parent = origin.header(b"traceparent")
            if parent is None:
                undecided = origin.headers
            else:
                decided[number] = rule.wants(parent)
        if not decided:
            return drawn
        return [
            *(number for number in drawn if number not in decided),
            *(each for each, wanted in decided.items() if wanted),
        ]

    def failed(self, error: PredictionError, seconds: float, entry: Entry) -> None:
        """Count a request that ended without outputs, and record it if it is to be."""
        self._counts.failed(error, seconds, entry)
        call, recorder = entry.call, self._recorder
        if call is None or call.origin is None:
            return
        rule = recorder.rule(self._model)
        traced, logged = rule is not None and rule.wants(call.origin.header(b"traceparent")), recorder.logs()
        if traced or logged:
            recorder.put([self._finished(entry, entry.arrived_s + seconds, error, None, traced, logged)])

    def _finished(
        self,
        entry: Entry,
        ended_s: float,
        error: PredictionError | None,
        batch: Batch | None,
        traced: bool,
        logged: bool,
    ) -> Finished:
        call = entry.call
        return Finished(
            *_told(call.origin, error), call.request_id, self._model, self._version, entry.rows, entry.arrived_s, ended_s,
            error, batch, self._counts, traced, logged,
        )  # fmt: skip


def _told(origin: Origin, error: PredictionError | None) -> tuple[Report, bytes | None, bytes | None]:
    """What is told of a call, and its headers about traces; so that nothing keeps the call until the thread looks."""
    parent = origin.header(b"traceparent")
    return origin.report(error), parent, None if parent is None else origin.header(b"tracestate")
