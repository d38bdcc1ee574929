"""The bounded request queue, with priorities, deadlines and a separate lane for each row shape.

It uses neither threads nor clocks: its owner holds a lock and passes the time.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from frostline_server.batching.admission import AdmissionController
from frostline_server.batching.entry import Entry
from frostline_server.errors import DeadlineExceeded, InvalidInput, QueueFull, QueueTimeout

Shapes = tuple[tuple[int, ...], ...]
Lanes = dict[Shapes, deque[Entry]]

_ANY: Shapes = ()


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The limits of one priority's queue.

    Attributes:
        max_rows: the most rows that may be queued, or one request; further requests are refused at once.
        timeout_s: how long a request may be queued, in seconds; 0 for no limit.
        delay: what happens after the timeout: True runs the request after the others of its priority, False refuses it.
        allow_override: whether a request's own timeout counts if it is shorter.
    """

    max_rows: int
    timeout_s: float = 0.0
    delay: bool = False
    allow_override: bool = False


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model's requests are batched.

    Attributes:
        max_batch_size: the most rows in one run.
        policies: the queue policy of each priority, the highest first; a single one without priorities.
        default_priority: the priority, from 1, of requests that name none; 0 without priorities: then a request's own
            priority is ignored.
        max_queue_delay_s: how long an incomplete batch waits for more rows while a device is idle, in seconds.
        preferred_sizes: numbers of rows at which a batch does not wait; the largest that can be formed is run.
        preserve_ordering: whether answers leave in the order of the requests, with several instances too.
    """

    max_batch_size: int
    policies: tuple[QueuePolicy, ...]
    default_priority: int = 0
    max_queue_delay_s: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    preserve_ordering: bool = False

    def limited(self, most: int) -> "Batching":
        """The same with at most so many rows in one run; what is preferred beyond that is not preferred any more."""
        sizes = tuple([size for size in self.preferred_sizes if size <= most])
        return replace(self, max_batch_size=most, preferred_sizes=sizes)


class _Level:
    """The entries of one priority, in one lane for each row shape.

    Attributes:
        policy: its bounds.
        timed: whether its entries can wait too long.
        max_rows: the most rows that may wait here.
        guarded: whether more than that bound is checked when an entry joins.
        fresh: the entries that have not waited too long.
        late: the entries that have; they are run after the fresh ones.
        rows: how many rows wait here.
        last_shapes: the shape of the newest entry; most entries are of one, and comparing is cheaper than hashing.
        last_lane: its lane, which is in `fresh` unless it is empty.
    """

    __slots__ = ("fresh", "guarded", "last_lane", "last_shapes", "late", "max_rows", "policy", "rows", "timed")

    def __init__(self, policy: QueuePolicy, *, paced: bool) -> None:
        self.policy = policy
        self.max_rows = policy.max_rows
        self.timed = policy.timeout_s > 0 or policy.allow_override
        self.guarded = self.timed or paced
        self.fresh: Lanes = {}
        self.late: Lanes = {}
        self.rows = 0
        self.last_shapes: Shapes | None = None
        self.last_lane: deque[Entry] = deque()


class RequestQueue:
    """A bounded queue of entries.

    Args:
        batching: how they are batched.
        batched: False for a network without a batch axis: every entry then runs alone.
        admission: decides which requests can be answered in time, with a latency limit.
    """

    def __init__(self, batching: Batching, *, batched: bool, admission: AdmissionController | None = None) -> None:
        self._admission = admission
        self._fill = self._fill_all if admission is None else self._fill_in_time
        self._batching = batching
        # An entry without a batch axis counts as one row.
        self._max_batch = batching.max_batch_size if batched else 1
        self._max_entry = batching.max_batch_size if batched else math.inf
        self._levels = [_Level(policy, paced=admission is not None) for policy in batching.policies]
        self._only = self._levels[0] if batching.default_priority == 0 else None
        # In the order in which they are served.
        self._ranks = [(level, lanes) for level in self._levels for lanes in (level.fresh, level.late)]
        if not any(level.timed and level.policy.delay for level in self._levels):
            self._ranks = self._ranks[::2]
        self._preferred = frozenset(batching.preferred_sizes)
        self._largest = max(batching.preferred_sizes, default=self._max_batch)
        self._delay_s = batching.max_queue_delay_s
        self.eager = not batched or not (self._delay_s or self._preferred)
        # One lane for all shapes keeps the order of arrival across them.
        self._ordered = batching.preserve_ordering
        self._next_expiry_s = math.inf

    @property
    def rows(self) -> int:
        """Rows queued now."""
        if self._only is not None:
            return self._only.rows
        return sum([level.rows for level in self._levels])

    @property
    def requests(self) -> int:
        """Requests queued now; counted when asked, because only scrapes do."""
        return sum([len(lane) for _, lanes in self._ranks for lane in lanes.values()])

    @property
    def empty(self) -> bool:
        """Whether the queue is empty."""
        return not any([lanes for _, lanes in self._ranks])

    @property
    def first(self) -> Entry | None:
        """The entry that `take` would begin with if none has ended and no batch waits for more rows; None if empty."""
        for _, lanes in self._ranks:
            if lanes:
                return lanes[_next_shapes(lanes)][0]
        return None

    def push(self, entry: Entry) -> None:
        """Queue an entry at its `arrived_s`.

        Raises:
            InvalidInput: it has more rows than a batch or the queue can take.
            QueueFull: the queue is full.
            Overloaded: its answer would be late.
        """
        rows = entry.rows
        level = self._only or self._level(entry.priority)
        if rows > self._max_entry:
            # It would never fit into a batch, and wait for ever.
            raise InvalidInput(f"{rows} rows are more than the {self._max_entry} of a batch")
        # Where nothing waits, a request of more rows than may wait is taken, or it never would be.
        if level.rows and level.rows + rows > level.max_rows:
            raise QueueFull(
                f"Exceeds maximum queue size: {level.rows} rows wait and at most {level.max_rows} may, so {rows} more are "
                "refused; retry later"
            )
        if level.guarded:
            self._guard(entry, level)
        shapes = _ANY if self._ordered else entry.kind.shapes
        lane = level.last_lane
        if not lane or shapes is not level.last_shapes:
            # An empty lane is nobody's any more and can be used again.
            lane = level.fresh.setdefault(shapes, deque() if lane else lane)
            level.last_shapes, level.last_lane = shapes, lane
        lane.append(entry)
        entry.level = level
        level.rows += rows

    def _level(self, priority: int) -> _Level:
        # A level there is not means the default, as in Triton, whose clients may rely on it.
        known = 1 <= priority <= len(self._levels)
        return self._levels[(priority if known else self._batching.default_priority) - 1]

    def _guard(self, entry: Entry, level: _Level) -> None:
        if self._admission is not None:
            ahead = level.rows
            for other in self._levels:
                if other is level:
                    break
                ahead += other.rows
            self._admission.admit(entry, ahead, len(level.fresh) or 1)
        if level.timed:
            self._set_timeout(entry, level.policy)

    def _set_timeout(self, entry: Entry, policy: QueuePolicy) -> None:
        timeout_s = policy.timeout_s or math.inf
        if policy.allow_override and entry.timeout_s:
            timeout_s = min(timeout_s, entry.timeout_s)
        entry.expires_s = entry.arrived_s + timeout_s
        self._next_expiry_s = min(self._next_expiry_s, entry.expires_s)

    def remove(self, entry: Entry) -> bool:
        """Remove an entry.

        Returns:
            Whether it was still queued.
        """
        level: _Level | None = entry.level
        if level is None:
            return False
        entry.level = None
        level.rows -= entry.rows
        shapes = _ANY if self._ordered else entry.kind.shapes
        for lanes in (level.fresh, level.late):
            lane = lanes.get(shapes)
            if lane is not None and entry in lane:
                lane.remove(entry)
                if not lane:
                    del lanes[shapes]
        return True

    def clear(self) -> list[Entry]:
        """Remove and return all entries."""
        entries: list[Entry] = []
        for level, lanes in self._ranks:
            for lane in lanes.values():
                entries += lane
                lane.clear()
            lanes.clear()
            level.rows = 0
        for entry in entries:
            entry.level = None
        return entries

    def take(self, now: float, *, closing: bool = False) -> tuple[list[Entry], list[Entry], float]:
        """Take the next batch.

        Args:
            now: on the `time.monotonic` clock.
            closing: no entry will be added any more, so batches do not wait for more rows.

        Returns:
            The batch; the entries that expired, each with its error; and, if there are neither, after how many seconds
            to call again if nothing arrives, which may be infinity.
        """
        ended: list[Entry] = []
        if self._next_expiry_s <= now:
            self._expire(now, ended)
        if not (self.eager or closing):
            return self._choose(now, ended)
        for _, lanes in self._ranks:
            if lanes:
                return self._fill(_next_shapes(lanes), self._max_batch, now, ended), ended, 0.0
        return [], ended, math.inf

    def _fill_all(self, shapes: Shapes, room: int, now: float, ended: list[Entry]) -> list[Entry]:
        batch: list[Entry] = []
        ordered = self._ordered
        for level, lanes in self._ranks:
            lane = lanes.get(shapes)
            if lane is None:
                continue
            gone = 0
            while lane:
                entry = lane[0]
                rows = entry.rows
                places = rows * entry.kind.weight
                if entry.deadline_s is not None and entry.deadline_s <= now:
                    entry.error = DeadlineExceeded("Deadline exceeded while the request was queued")
                    ended.append(entry)
                # Whatever it weighs, an entry may go alone.
                elif (places <= room or not batch) and not (
                    ordered and batch and entry.kind.shapes != batch[0].kind.shapes
                ):
                    batch.append(entry)
                    room -= places
                else:
                    break
                lane.popleft()
                entry.level = None
                gone += rows
            level.rows -= gone
            if lane:
                # Whoever does not fit is not overtaken.
                break
            del lanes[shapes]
        return batch

    def _fill_in_time(self, shapes: Shapes, room: int, now: float, ended: list[Entry]) -> list[Entry]:
        """As `_fill_all`, but no larger than its most urgent entry allows, and without those that would be late."""
        admission = self._admission
        assert admission is not None, "chosen only then"  # noqa: S101  an invariant, not a check
        batch: list[Entry] = []
        total, due_s = 0, math.inf
        for level, lanes in self._ranks:
            lane = lanes.get(shapes)
            if lane is None:
                continue
            while lane:
                entry = lane[0]
                rows = entry.rows
                places = rows * entry.kind.weight
                if entry.deadline_s is not None and entry.deadline_s <= now:
                    entry.error = DeadlineExceeded("Deadline exceeded while the request was queued")
                    ended.append(entry)
                elif admission.finish_s(now, rows) > entry.due_s or (
                    not batch and admission.spoils(entry.due_s - now, level.rows)
                ):
                    entry.error = admission.give_up()
                    ended.append(entry)
                elif (
                    (places <= room or not batch)
                    and not (batch and entry.kind.shapes != batch[0].kind.shapes)
                    and admission.finish_s(now, total + rows) <= min(due_s, entry.due_s)
                ):
                    batch.append(entry)
                    room -= places
                    total += rows
                    due_s = min(due_s, entry.due_s)
                else:
                    break
                lane.popleft()
                entry.level = None
                level.rows -= rows
            if lane:
                break
            del lanes[shapes]
        return batch

    def _choose(self, now: float, ended: list[Entry]) -> tuple[list[Entry], list[Entry], float]:
        """The first batch, in the order of service, that need not wait."""
        wait_s = self._next_expiry_s - now
        for shapes in self._in_turn():
            rows, left_s = self._plan(shapes, now)
            if left_s <= 0:
                return self._fill(shapes, rows, now, ended), ended, 0.0
            wait_s = min(wait_s, left_s)
        return [], ended, wait_s

    def _in_turn(self) -> list[Shapes]:
        turns: dict[Shapes, None] = {}
        for _, lanes in self._ranks:
            turns |= dict.fromkeys(sorted(lanes, key=_head_arrived_s(lanes)))
        return list(turns)

    def _plan(self, shapes: Shapes, now: float) -> tuple[int, float]:
        """How many rows of a shape to run, none if all have expired; and in how many seconds unless more come."""
        best = total = 0
        full = False
        oldest_s = due_s = math.inf
        first: Shapes | None = None
        for entry in self._queued(shapes):
            if entry.deadline_s is not None and entry.deadline_s <= now:
                continue
            first = first or entry.kind.shapes
            if (total and total + entry.rows > self._largest) or entry.kind.shapes != first:
                full = True
                break
            total += entry.rows
            oldest_s = min(oldest_s, entry.arrived_s)
            if self._admission is not None:
                due_s = min(due_s, entry.due_s)
            if total in self._preferred:
                best = total
        if best:
            return best, 0.0
        if full or total >= self._largest or oldest_s == math.inf:
            return total, 0.0
        if self._admission is not None:
            # No company is worth being late for.
            oldest_s = min(oldest_s, self._admission.begin_s(due_s, total) - self._delay_s)
        return total, oldest_s + self._delay_s - now

    def _queued(self, shapes: Shapes) -> Iterator[Entry]:
        for _, lanes in self._ranks:
            yield from lanes.get(shapes, ())

    def _expire(self, now: float, ended: list[Entry]) -> None:
        """Refuse or put back every entry that has waited too long."""
        next_s = math.inf
        for level in self._levels:
            if not level.timed:
                continue
            for shapes, lane in list(level.fresh.items()):
                kept = []
                for entry in lane:
                    if entry.expires_s > now:
                        kept.append(entry)
                        next_s = min(next_s, entry.expires_s)
                    elif level.policy.delay:
                        level.late.setdefault(shapes, deque()).append(entry)
                    else:
                        entry.level = None
                        level.rows -= entry.rows
                        entry.error = QueueTimeout("Request timeout expired")
                        ended.append(entry)
                lane.clear()
                lane.extend(kept)
                if not lane:
                    del level.fresh[shapes]
        self._next_expiry_s = next_s


def _next_shapes(lanes: Lanes) -> Shapes:
    """The lane whose head has waited longest."""
    return next(iter(lanes)) if len(lanes) == 1 else min(lanes, key=_head_arrived_s(lanes))


def _head_arrived_s(lanes: Lanes) -> Callable[[Shapes], float]:
    return lambda shapes: lanes[shapes][0].arrived_s
