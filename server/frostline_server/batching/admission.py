"""Admission control: it refuses a request whose answer would come later than the model's latency limit.

It learns the cost of a batch from the batches that ran. It admits a request only if its answer would be in time even if
later requests fill its batch. A batch may take little more than half of a request's time limit, so that a request that
arrives during one batch can still join the next. Without that reserve, requests would reach the device with no time
left and run alone, because no larger batch would be in time. Batching would then be lost just when the load needs it.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence

from frostline_server.batching.entry import Entry
from frostline_server.errors import Overloaded

AIM = 0.75
"""The part of the time a request has in which its answer is aimed at; the rest is for the network and for surprises."""
LATEST = 0.87
"""The part of it after which a waiting request is given up."""
SHARE = 0.55
"""The part of the time aimed at that a batch is to take."""
THRIFT = 0.7
"""How much of the rows a second of a full batch a smaller one must reach to be run for the sake of its most urgent row."""
TRIAL_S = 0.1
"""How long a model has nothing to do before a request that looks hopeless is let in, to see what a run costs now; doubled
with every such trial."""
LONGEST_TRIAL_S = 10.0

_GAIN = 0.1
_FRESH_GAIN = 0.5
_LARGEST_JUMP = 8.0
_TABLE = 4096


class Costs:
    """The cost model of a batch, until its last answer: c(rows) = slowness x run(rows) + fixed + row x rows.

    Args:
        run_s: measured run times, in seconds, by number of rows; empty if nothing could be measured.
        max_rows: the most rows of a batch.
    """

    def __init__(self, run_s: Mapping[int, float], max_rows: int) -> None:
        self._max_rows = max_rows
        self._run_s = _table(run_s or {1: 1e-3, max_rows: 1e-3 * max_rows}, min(max_rows, _TABLE))
        self.slowness = 1.0 if run_s else 0.0
        """How much longer runs take now than they were measured to, surprises included."""
        self._mean = self.slowness
        self._deviation = 0.0
        self._known = bool(run_s)
        self._fixed_s = 0.0
        self._row_s = 0.0

    def of(self, rows: int) -> float:
        """The predicted time of a batch of so many rows, in seconds."""
        return self._run(rows) * self.slowness + self._fixed_s + self._row_s * rows

    def probably(self, rows: int) -> float:
        """The same without the allowance for unexpected delays."""
        return self._run(rows) * self._mean + self._fixed_s + self._row_s * rows

    def _run(self, rows: int) -> float:
        table = self._run_s
        last = len(table) - 1
        return table[rows] if rows <= last else table[last] * rows / last

    def most(self, seconds: float) -> int:
        """The most rows of a batch that takes at most this time; at least 1."""
        return max(1, bisect_right(range(self._max_rows + 1), seconds, key=self.of) - 1)

    def learn(self, rows: int, run_s: float, around_s: float, *, afresh: bool) -> None:
        """A batch ran.

        Args:
            rows: of the batch.
            run_s: the network's own time.
            around_s: the time for assembling and answering.
            afresh: earlier measurements are old, and get less weight.
        """
        ratio = run_s / max(self._run(rows), 1e-9)
        if not self._known:
            self._known = True
            self._mean = ratio
        gain = _FRESH_GAIN if afresh else _GAIN
        # One stall of the machine is not its new speed.
        ratio = min(ratio, self._mean * _LARGEST_JUMP)
        self._deviation += gain * (abs(ratio - self._mean) - self._deviation)
        self._mean += gain * (ratio - self._mean)
        self.slowness = self._mean + self._deviation
        # Small batches teach the fixed part, large ones the part of each row.
        share = rows / 32
        step = _GAIN * (around_s - self._fixed_s - self._row_s * rows) / (1 + share * share)
        self._fixed_s = max(0.0, self._fixed_s + step)
        self._row_s = max(0.0, self._row_s + step * share / 32)


class AdmissionController:
    """Decides who is let in, and how large a batch may be.

    Whoever owns it calls it under one lock, except for `learn` and `freed`.

    Args:
        slo_s: how long a request may take, in seconds.
        costs: what batches cost.
        devices: how many batches can run side by side.
        spread: gives numbers in [0, 1), so that clients that were refused together do not come back together.
    """

    def __init__(
        self,
        slo_s: float,
        costs: Costs,
        devices: int = 1,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.slo_s = slo_s
        self._costs = costs
        self._devices = devices
        self._spread = spread
        # When what each busy device runs is expected to be answered.
        self._ends: dict[Hashable, float] = {}
        self._batch = costs.most(slo_s * AIM * SHARE)
        self._batch_s = costs.of(self._batch)
        self._learned_s = self._active_s = -math.inf
        self._trial_after_s = TRIAL_S
        self._refusal = f"Overloaded: an answer within {slo_s * 1000:g} ms (slo_ms) cannot be expected now; retry later"
        self.refused = 0
        """Requests that were refused when they arrived."""
        self.shed = 0
        """Requests that waited, and were given up before they reached the device."""

    @property
    def slowness(self) -> float:
        """How much longer runs take now than measured at warm-up."""
        return self._costs.slowness

    def admit(self, entry: Entry, ahead: int, lanes: int = 1) -> None:
        """Admit an entry at its `arrived_s`, and set the time when its answer is due, `due_s`.

        Args:
            entry: what arrived.
            ahead: queued rows that go before it.
            lanes: number of queued row shapes, which cannot share a batch.

        Raises:
            Overloaded: its answer would be late.
        """
        now, rows = entry.arrived_s, entry.rows
        left_s = self.slo_s
        full, full_s = self._batch, self._batch_s
        own_s = full_s
        if entry.deadline_s is not None and entry.deadline_s - now < left_s:
            left_s = entry.deadline_s - now
            own_s = self._costs.of(self._costs.most(left_s * AIM * SHARE))
        if rows > 1:
            own_s = max(own_s, self._costs.of(rows))
        free_s = self._free_s(now)
        batches, turn = divmod(
            max(lanes - 1, (ahead + rows - 1) // full if rows < full else -(-ahead // full)), self._devices
        )
        late_s = free_s[turn] + batches * full_s + own_s - left_s * AIM
        if late_s <= 0:
            entry.due_s = now + left_s * LATEST
            self._trial_after_s = TRIAL_S
        elif not ahead and not free_s[-1] and self._costs.probably(rows) <= left_s * LATEST:
            # Nothing else wants the device, and caution would be in vain.
            entry.due_s = math.inf
        elif not ahead and left_s > 0 and now - self._active_s >= self._trial_after_s:
            # Nothing happens, so nothing would ever show that the estimate is too high.
            entry.due_s = math.inf
            self._active_s = now
            self._trial_after_s = min(2 * self._trial_after_s, LONGEST_TRIAL_S)
        else:
            self.refused += 1
            alone_s = self._costs.probably(rows)
            if rows > 1 and alone_s > left_s:
                raise Overloaded(
                    f"Overloaded: {rows} rows take about {alone_s * 1000:.3g} ms now, and {left_s * 1000:.3g} ms are allowed "
                    "(slo_ms, or the call's own deadline); send fewer rows in one request, or allow more time",
                    self._pushback_ms(late_s),
                )
            raise Overloaded(self._refusal, self._pushback_ms(late_s))

    def give_up(self) -> Overloaded:
        """The error of a queued entry that can no longer be answered in time."""
        self.shed += 1
        return Overloaded(self._refusal, self._pushback_ms(0.0))

    def _pushback_ms(self, late_s: float) -> int:
        # By then what waits now has been answered, or has gone.
        return math.ceil((late_s + (0.5 + self._spread()) * self.slo_s) * 1000)

    def _free_s(self, now: float) -> Sequence[float]:
        """In how many seconds each device is free, the first one first."""
        ends = list(self._ends.values())
        if self._devices == 1 and len(ends) <= 1:
            # Who is late by a second is expected to take a second more.
            return (abs(ends[0] - now),) if ends else (0.0,)
        left = sorted([abs(end - now) for end in ends])
        return [0.0] * (self._devices - len(left)) + left

    def finish_s(self, now: float, rows: int) -> float:
        """When a batch that is taken now will be answered."""
        return now + self._costs.of(rows)

    def begin_s(self, due_s: float, rows: int) -> float:
        """The latest time to take a batch so that it is answered in time, with a margin for a timer that fires late."""
        return due_s - self._costs.of(rows) - (LATEST - AIM) * self.slo_s

    def spoils(self, left_s: float, waiting: int) -> bool:
        """Whether a batch that must be answered in `left_s` seconds is too small for the number of queued rows."""
        rows, whole = self._costs.most(left_s), min(waiting, self._batch)
        return rows < whole and rows * self._costs.of(whole) < THRIFT * whole * self._costs.of(rows)

    def took(self, device: Hashable, now: float, rows: int) -> None:
        """A device takes a batch to run; it counts as busy until it is `freed`."""
        self._active_s = now
        self._ends[device] = now + self._costs.of(rows)

    def freed(self, device: Hashable) -> None:
        """A device is done with its batch, however that ended."""
        self._ends.pop(device, None)

    def learn(self, rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float) -> None:
        """A batch ran and was answered; all times on the `time.monotonic` clock."""
        afresh = started_s - self._learned_s >= TRIAL_S
        self._costs.learn(rows, ran_s - assembled_s, assembled_s - started_s + finished_s - ran_s, afresh=afresh)
        self._learned_s = finished_s
        self._active_s = max(self._active_s, finished_s)
        self._batch = self._costs.most(self.slo_s * AIM * SHARE)
        self._batch_s = self._costs.of(self._batch)


def _table(run_s: Mapping[int, float], most: int) -> list[float]:
    """Run times of 0 to `most` rows: straight lines between those measured, through zero beyond, and never falling."""
    sizes = sorted(run_s)
    table = [0.0] * (most + 1)
    for rows in range(1, most + 1):
        above = bisect_left(sizes, rows)
        if above == len(sizes):
            seconds = run_s[sizes[-1]] * rows / sizes[-1]
        elif sizes[above] == rows or not above:
            seconds = run_s[sizes[above]]
        else:
            low, high = sizes[above - 1], sizes[above]
            seconds = run_s[low] + (run_s[high] - run_s[low]) * (rows - low) / (high - low)
        table[rows] = max(seconds, table[rows - 1])
    return table
