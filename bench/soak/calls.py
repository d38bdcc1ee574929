"""The outcomes of calls: each ends as it asked to, or it is lost; an answer that is not what it should be is wrong."""

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Period:
    """What was seen in a period.

    Attributes:
        ended: calls by their kind and how they ended, such as "infer OK".
        lost: those of them that ended otherwise than they asked for, with the reason.
        wrong: answers that were wrong, by how.
        latency_ms: of calls that were answered, from when they were due.
    """

    ended: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    latency_ms: list[float] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As one object of JSON; without an answer, its latencies are None."""
        numbers: dict[str, float | None] = dict.fromkeys(("p50_ms", "p99_ms", "most_ms"))
        if self.latency_ms:
            p50, p99 = np.percentile(self.latency_ms, [50, 99], method="higher")
            numbers = {"p50_ms": float(p50), "p99_ms": float(p99), "most_ms": max(self.latency_ms)}
        return {"ended": self.ended, "lost": self.lost, "wrong": self.wrong, **numbers}


class Ledger:
    """Every call that was made, and how it ended; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._period = Period()
        self._open = 0

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return self._open

    def begin(self) -> None:
        """Note that a call has begun."""
        with self._lock:
            self._open += 1

    def end(
        self, kind: str, status: str, allowed: Collection[str], *, why: str = "", wrong: str = "", took_s: float | None
    ) -> None:
        """Note how a call has ended.

        Args:
            kind: of call.
            status: that it ended with.
            allowed: statuses that it asked for.
            why: what the server said of it.
            wrong: what is wrong with its answer.
            took_s: from when it was due; None if that says nothing of the server.
        """
        with self._lock:
            self._open -= 1
            self._period.ended[f"{kind} {status}"] += 1
            if wrong:
                self._period.wrong[f"{kind}: {wrong}"] += 1
            elif status not in allowed:
                # Numbers and names differ from call to call; the beginning of the reason is enough to find it.
                self._period.lost[f"{kind} {status}: {why[:160]}"] += 1
            elif took_s is not None:
                self._period.latency_ms.append(took_s * 1000)

    def period(self) -> dict[str, Any]:
        """What was seen since the last time, and how many calls are `open`."""
        with self._lock:
            period, self._period = self._period, Period()
            still = self._open
        return {**period.json(), "open": still}


def total(periods: Collection[Mapping[str, Any]], key: str) -> Counter[str]:
    """The sum of one count, such as `lost`, over periods."""
    found: Counter[str] = Counter()
    for period in periods:
        found.update(period[key])
    return found
