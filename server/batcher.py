"""Many concurrent requests become few runs of one callable, fairly and boundedly.

A batch is whatever queued while the device was busy: back-pressure gathers rows, not a clock. Only
rows of equal shape share a batch. The batcher is given a callable and knows neither ONNX, asyncio
nor gRPC: it is one thread, a bounded queue, and entries that carry their own reply.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import structlog

from server.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    PredictionError,
    QueueFull,
    Retired,
    RunFailed,
    ServerStopping,
)

Array = np.ndarray[Any, Any]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RowKind:
    """What every row of a request is like; requests with equal `shapes` may share a batch.

    Attributes:
        shapes: for each input of the network, the shape of one row (of the whole tensor if the
            network has no batch axis).
        wire: for each input, the dtype the rows arrive in.
        cast: for each input, the dtype the network takes.
    """

    shapes: tuple[tuple[int, ...], ...]
    wire: tuple[np.dtype[Any], ...]
    cast: tuple[np.dtype[Any], ...]


class Entry:
    """One request while it waits and runs: its rows, the outputs it wants, and where its answer goes.

    Attributes:
        kind: what each row is like.
        rows: how many rows the request has.
        data: for each input, the rows' elements: bytes as they came, or an array of objects for strings.
        wanted: names of the outputs to compute.
        deadline_s: when the client stops waiting, on the `time.monotonic` clock; None for never.
        reply: takes the finished entries of one batch that share this reply; called once per entry.
        call: whatever the caller needs to answer; the batcher never looks at it.
        priority: the request's own; 0 for the default.
        timeout_s: how many seconds it may wait in the queue; None for as long as any.
        outputs: one array for each name in `wanted`, once the entry has run.
        error: why it has no outputs.
        arrived_s: when it was submitted, on the `time.monotonic` clock.
        queued: whether it still waits. Owned by the batcher.
    """

    __slots__ = (
        "arrived_s",
        "call",
        "data",
        "deadline_s",
        "error",
        "kind",
        "outputs",
        "priority",
        "queued",
        "reply",
        "rows",
        "timeout_s",
        "wanted",
    )

    def __init__(
        self,
        kind: RowKind,
        rows: int,
        data: Sequence[bytes | Array],
        wanted: tuple[str, ...],
        deadline_s: float | None,
        reply: "Reply",
        call: Any,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        self.kind = kind
        self.rows = rows
        self.data = data
        self.wanted = wanted
        self.deadline_s = deadline_s
        self.reply = reply
        self.call = call
        self.priority = priority
        self.timeout_s = timeout_s
        self.arrived_s = 0.0
        self.queued = False
        self.outputs: list[Array] = []
        self.error: PredictionError | None = None

    def readdress(self, other: "Entry") -> None:
        """Become what `other` is, for another version's queue; whoever holds this entry goes on holding it."""
        self.kind, self.rows, self.data, self.wanted, self.call = (
            other.kind,
            other.rows,
            other.data,
            other.wanted,
            other.call,
        )


Reply = Callable[[list[Entry]], None]
Run = Callable[[list[Array], tuple[str, ...]], list[Array]]
"""Takes one array for each input, [rows, ...], and names of outputs; returns an array [rows, ...] for each name."""


class Observer(Protocol):
    """What the batcher tells of its work; called from the device thread, or from whoever submits."""

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        """A batch ran and was answered; all times on the `time.monotonic` clock."""
        ...

    def failed(self, error: PredictionError, seconds: float) -> None:
        """An entry ended without outputs, `seconds` after it was submitted."""
        ...


class Batcher:
    """A bounded queue before one device thread.

    Args:
        run: computes a batch; only ever called from the device thread.
        observer: told of every batch and every failed entry.
        batched: False for a network without a batch axis: every entry then runs alone.
        max_batch_size: the most rows in one run.
        max_queue_size: the most rows that may wait; further entries are refused at once.
        max_queue_delay_s: how long an incomplete batch waits for more rows while the device is idle.
        name: the device thread's name.
    """

    def __init__(
        self,
        run: Run,
        observer: Observer,
        *,
        batched: bool = True,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_delay_s: float = 0.0,
        name: str = "device",
    ) -> None:
        self._run = run
        self._observer = observer
        self._batched = batched
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_queue_delay_s = max_queue_delay_s
        self._changed = threading.Condition(threading.Lock())
        # Entries wait in one lane for each row shape; the lane whose head is oldest goes first.
        self._lanes: dict[tuple[tuple[int, ...], ...], deque[Entry]] = {}
        self._queued_rows = 0
        self._idle = False
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows waiting now."""
        return self._queued_rows

    def submit(self, entry: Entry) -> None:
        """Queue an entry; its `reply` will be called exactly once, unless this raises.

        Raises:
            InvalidInput: it has more rows than a batch, or the queue, ever takes.
            QueueFull: as many rows wait as may wait.
            ServerStopping: the batcher is closing.
        """
        entry.arrived_s = time.monotonic()
        with self._changed:
            if self._closing:
                raise Retired("Server is stopping, scheduler for model has stopped accepting new inference requests")
            if self._batched and entry.rows > self._max_batch_size:
                # It would never fit into a batch, and wait for ever.
                raise InvalidInput(f"{entry.rows} rows are more than the {self._max_batch_size} of a batch")
            if entry.rows > self._max_queue_size:
                raise InvalidInput(f"{entry.rows} rows are more than the {self._max_queue_size} that may wait")
            if self._queued_rows + entry.rows > self._max_queue_size:
                raise QueueFull(
                    f"Exceeds maximum queue size: {self._queued_rows} rows wait and at most {self._max_queue_size} may, "
                    f"so {entry.rows} more are refused; retry later"
                )
            lane = self._lanes.get(entry.kind.shapes)
            if lane is None:
                lane = self._lanes[entry.kind.shapes] = deque()
            lane.append(entry)
            entry.queued = True
            self._queued_rows += entry.rows
            if self._idle:
                self._changed.notify()

    def cancel(self, entry: Entry) -> None:
        """Give an entry up. If it still waits it never reaches the device; `reply` is then not called.

        An entry that already runs is finished with its batch and `reply` is called as usual.
        """
        with self._changed:
            if not entry.queued:
                return
            entry.queued = False
            self._queued_rows -= entry.rows
            lane = self._lanes[entry.kind.shapes]
            lane.remove(entry)
            if not lane:
                del self._lanes[entry.kind.shapes]
        self._observer.failed(Cancelled("cancelled by the client"), time.monotonic() - entry.arrived_s)

    def close(self, timeout_s: float) -> bool:
        """Refuse new entries, finish the queued ones, and end the thread.

        Entries still queued after `timeout_s` seconds are failed with `ServerStopping`.

        Returns:
            Whether everything queued was finished in time.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._changed:
            left = [entry for lane in self._lanes.values() for entry in lane]
            for entry in left:
                entry.queued = False
            self._lanes.clear()
            self._queued_rows = 0
        if left:
            self._fail(
                left, ServerStopping("Server is stopping; the request was still queued when the grace period ended")
            )
        return False

    def _loop(self) -> None:
        while (taken := self._take()) is not None:
            batch, expired = taken
            if expired:
                self._fail(expired, DeadlineExceeded("Deadline exceeded while the request was queued"))
            if batch:
                self._execute(batch)

    def _take(self) -> tuple[list[Entry], list[Entry]] | None:
        """Wait for the next batch; returns it with the entries that expired on the way, or None at the end."""
        with self._changed:
            while True:
                lanes = self._lanes
                if not lanes:
                    if self._closing:
                        return None
                    self._wait(None)
                    continue
                waits_s = []
                for lane in lanes.values() if len(lanes) == 1 else sorted(lanes.values(), key=_head_arrived_s):
                    left_s = self._delay_left_s(lane)
                    if left_s <= 0:
                        return self._fill(lane)
                    waits_s.append(left_s)
                self._wait(min(waits_s))

    def _wait(self, timeout_s: float | None) -> None:
        self._idle = True
        self._changed.wait(timeout_s)
        self._idle = False

    def _delay_left_s(self, lane: deque[Entry]) -> float:
        if not self._max_queue_delay_s or self._closing or not self._batched:
            return 0.0
        rows = sum(entry.rows for entry in lane)
        if rows >= self._max_batch_size:
            return 0.0
        return lane[0].arrived_s + self._max_queue_delay_s - time.monotonic()

    def _fill(self, lane: deque[Entry]) -> tuple[list[Entry], list[Entry]]:
        batch: list[Entry] = []
        expired: list[Entry] = []
        room = self._max_batch_size
        now = time.monotonic()
        shapes = lane[0].kind.shapes
        while lane:
            entry = lane[0]
            if entry.deadline_s is not None and entry.deadline_s <= now:
                expired.append(entry)
            elif entry.rows <= room:
                batch.append(entry)
                room = room - entry.rows if self._batched else 0
            else:
                break
            lane.popleft()
            entry.queued = False
            self._queued_rows -= entry.rows
        if not lane:
            del self._lanes[shapes]
        return batch, expired

    def _execute(self, batch: list[Entry]) -> None:
        rows = sum([entry.rows for entry in batch])
        started_s = time.monotonic()
        try:
            wanted = _union(batch)
            inputs = _assemble(batch, rows, batched=self._batched)
            assembled_s = time.monotonic()
            outputs = self._run(inputs, wanted)
            ran_s = time.monotonic()
            _split(batch, rows, wanted, outputs, batched=self._batched)
        except PredictionError as error:
            self._fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001  whatever the network throws belongs to this batch alone
            self._fail(batch, RunFailed(f"the network failed on a batch of {rows} rows: {error}"))
            return
        _reply(batch)
        self._observer.batch(batch, rows, started_s, assembled_s, ran_s, time.monotonic())

    def _fail(self, entries: list[Entry], error: PredictionError) -> None:
        for entry in entries:
            entry.error = error
        _reply(entries)
        now = time.monotonic()
        for entry in entries:
            self._observer.failed(error, now - entry.arrived_s)


def _head_arrived_s(lane: deque[Entry]) -> float:
    return lane[0].arrived_s


def _union(batch: list[Entry]) -> tuple[str, ...]:
    """The outputs that somebody in the batch wants, each once."""
    first = batch[0].wanted
    if all([entry.wanted == first for entry in batch]):
        return first
    return tuple(dict.fromkeys(name for entry in batch for name in entry.wanted))


def _assemble(batch: list[Entry], rows: int, *, batched: bool) -> list[Array]:
    """One array [rows, ...] for each input. This is the only copy of a row on its way to the device."""
    first = batch[0].kind
    same = all([entry.kind is first for entry in batch])
    inputs = []
    for index, (shape, wire, cast) in enumerate(zip(first.shapes, first.wire, first.cast, strict=True)):
        full = (rows, *shape) if batched else shape
        if cast.hasobject:
            array = np.concatenate([entry.data[index] for entry in batch]).reshape(full)
        elif same:
            data = batch[0].data[index] if len(batch) == 1 else b"".join([entry.data[index] for entry in batch])  # type: ignore[misc]  # and all else bytes
            array = np.frombuffer(data, wire).reshape(full).astype(cast, copy=False)
        else:
            # Rows of several wire types share the batch: each is cast as it is copied in.
            array = np.empty(full, cast)
            at = 0
            for entry in batch:
                array[at : at + entry.rows] = np.frombuffer(entry.data[index], entry.kind.wire[index]).reshape(
                    entry.rows, *shape
                )
                at += entry.rows
        inputs.append(array)
    return inputs


def _split(batch: list[Entry], rows: int, wanted: tuple[str, ...], outputs: list[Array], *, batched: bool) -> None:
    """Give every entry its own rows of the outputs it wants."""
    for name, output in zip(wanted, outputs, strict=True):
        if batched and output.shape[:1] != (rows,):
            raise RunFailed(f"output '{name}' has shape {list(output.shape)} for a batch of {rows} rows")
    if len(batch) == 1:
        batch[0].outputs = outputs
        return
    if len(wanted) == 1:
        (output,) = outputs
        at = 0
        for entry in batch:
            entry.outputs = [output[at : at + entry.rows]]
            at += entry.rows
        return
    by_name = dict(zip(wanted, outputs, strict=True))
    at = 0
    for entry in batch:
        entry.outputs = [by_name[name][at : at + entry.rows] for name in entry.wanted]
        at += entry.rows


def _reply(entries: list[Entry]) -> None:
    """Hand finished entries over, those that share a reply together: a door is woken once a batch."""
    groups: dict[Reply, list[Entry]] = {}
    first = entries[0].reply
    if all([entry.reply is first for entry in entries]):
        groups[first] = entries
    else:
        for entry in entries:
            groups.setdefault(entry.reply, []).append(entry)
    for reply, group in groups.items():
        try:
            reply(group)
        except Exception:  # noqa: BLE001  one door's defect must not end the device thread for all
            _log.exception("a reply failed", requests=len(group))
