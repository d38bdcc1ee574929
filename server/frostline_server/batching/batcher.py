"""The dynamic batcher: it runs many concurrent requests as few batches of one callable.

A batch is what was queued while the devices were busy: back-pressure, not a timer, collects rows. Only rows of equal
shape share a batch. The batcher gets a callable for each device and does not depend on ONNX, asyncio or gRPC: it has
one thread for each callable, one bounded queue, and entries that carry their own reply callback.

A device is a run with the thread that calls it. While that thread sleeps, the thread that submits may run a batch on
the device itself (`run_inline`); `inline_execution` has the rule.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import structlog

from frostline_server.batching.admission import AdmissionController
from frostline_server.batching.assembler import Assembler, split, union
from frostline_server.batching.bisect_failures import isolate
from frostline_server.batching.entry import Entry, Reply
from frostline_server.batching.inline_execution import InlineExecution
from frostline_server.batching.reorder_buffer import ReorderBuffer
from frostline_server.batching.request_queue import Batching, RequestQueue
from frostline_server.errors import (
    BatcherClosed,
    Cancelled,
    DeadlineExceeded,
    OutOfMemory,
    PredictionError,
    RunFailed,
    ServerStopping,
)

Array = np.ndarray[Any, Any]
Afterwards = Callable[[], None] | None
"""What is left to do with a batch after its run, such as to count it; called at most once, by the same thread, and after the
answers unless they must wait for their turn."""
Run = Callable[[list[Array], tuple[str, ...]], tuple[list[Array], Afterwards]]
"""Takes one array for each input, [rows, ...], and names of outputs; returns an array [rows, ...] for each name, and what
is to be done afterwards. The inputs are only lent: neither may keep them."""

Answers = list[Callable[[], None]]

# A client whose time is over cancels its call, a little before the time is over here: its clock began earlier, and
# gRPC rounds timeouts up by one percent at most. Twice that is allowed.
_EARLY_S = 0.002
_EARLY = 0.02

_LONGEST_SLEEP_S = 3600.0
"""The platform's locks cannot wait for as long as a configuration can say."""

_log = structlog.get_logger(__name__)


class _Device:
    """What one device thread runs with; in `Batcher._asleep` exactly while nobody uses it.

    Attributes:
        run: computes a batch.
        assembler: makes its inputs.
        wake: a held lock; releasing it wakes the thread.
    """

    __slots__ = ("assembler", "run", "wake")

    def __init__(self, run: Run, *, batched: bool, uncast: frozenset[int] = frozenset()) -> None:
        self.run = run
        self.assembler = Assembler(batched=batched, uncast=uncast)
        self.wake = threading.Lock()
        self.wake.acquire()


class Observer(Protocol):
    """The observer of a batcher; called from the device threads, or from the thread that submits."""

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        """A batch ran and was answered; all times on the `time.monotonic` clock.

        An entry whose answer could not be made already has an error.
        """
        ...

    def failed(self, error: PredictionError, seconds: float) -> None:
        """An entry ended without outputs, `seconds` after it was submitted."""
        ...


class Batcher:
    """A bounded queue before one or several device threads.

    Args:
        runs: computes a batch; each is only ever called from one thread at a time.
        observer: called for every batch and every failed entry.
        batching: batch sizes, priorities, and the limits of the queues.
        batched: False for a network without a batch axis: every entry then runs alone.
        name: the device threads' name.
        admission: decides which requests can be answered in time, with a latency limit; learns from every batch.
        uncast: indices of the inputs that every run also takes as bytes.
        on_failure: called with the error of each part of a batch that failed, and its number of requests.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        observer: Observer,
        batching: Batching,
        *,
        batched: bool = True,
        name: str = "device",
        admission: AdmissionController | None = None,
        uncast: frozenset[int] = frozenset(),
        on_failure: Callable[[PredictionError, int], None] = lambda *_: None,
    ) -> None:
        self._runs = tuple(runs)
        self._on_failure = on_failure
        self._observer = observer
        self._batched = batched
        self._uncast = uncast
        self._name = name
        self._lock = threading.Lock()
        self._queue = RequestQueue(batching, batched=batched, admission=admission)
        self._admission = admission
        self._asleep: list[_Device] = []
        self._inline = InlineExecution(batching.max_batch_size if batched else 1, enabled=self._queue.eager)
        self._closing = False
        self._reorder_buffer = ReorderBuffer() if batching.preserve_ordering and len(self._runs) > 1 else None
        self._threads: list[threading.Thread] = []
        self._defects: set[type[Exception]] = set()

    def start(self) -> None:
        """Start the device threads."""
        self._threads = [
            threading.Thread(
                target=self._loop,
                args=(run,),
                name=self._name if len(self._runs) == 1 else f"{self._name}-{index}",
                daemon=True,
            )
            for index, run in enumerate(self._runs)
        ]
        # From here on only the threads hold what they run, so that it is free when they end.
        self._runs = ()
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows queued now."""
        return self._queue.rows

    @property
    def queued_requests(self) -> int:
        """Requests queued now."""
        with self._lock:
            return self._queue.requests

    def submit(self, entry: Entry, *, inline: bool = False) -> None:
        """Queue an entry; its `reply` will be called exactly once, unless this raises.

        Args:
            entry: the request.
            inline: whether the caller will call `run_inline` soon, so that no thread need be woken for a run that may be
                inline.

        Raises:
            InvalidInput: it has more rows than a batch or the queue can take.
            QueueFull: the queue is full.
            Overloaded: its answer would be late.
            BatcherClosed: the batcher is closing.
        """
        entry.arrived_s = time.monotonic()
        with self._lock:
            if self._closing:
                raise BatcherClosed(
                    "Server is stopping, scheduler for model has stopped accepting new inference requests"
                )
            self._queue.push(entry)
            if self._asleep and not (
                inline and self._inline.allows(self._queue.rows, entry.kind.shapes, entry.arrived_s)
            ):
                self._asleep.pop().wake.release()

    def run_inline(self) -> None:
        """Run one batch of what waits in this thread, if a device is idle and the rule allows it, or wake the device.

        Replies are called before this returns.
        """
        with self._lock:
            first = self._queue.first
            if first is None or not self._asleep:
                return
            device = self._asleep.pop()
            now = time.monotonic()
            if not self._inline.allows(self._queue.rows, first.kind.shapes, now):
                device.wake.release()
                return
            batch, ended, turn, _ = self._take(device, now)
        try:
            self._work(device, batch, ended, turn)
        finally:
            self._inline.held(now, time.monotonic())
            with self._lock:
                if self._closing or not self._queue.empty:
                    device.wake.release()
                else:
                    self._asleep.append(device)

    def cancel(self, entry: Entry) -> None:
        """Cancel an entry. If it is still queued, it never reaches the device and `reply` is not called.

        An entry that already runs finishes with its batch, and `reply` is called as usual.
        """
        with self._lock:
            if not self._queue.remove(entry):
                return
        now = time.monotonic()
        self._tell(self._observer.failed, _given_up(entry, now), now - entry.arrived_s)

    def close(self, timeout_s: float) -> bool:
        """Refuse new entries, finish the queued ones, and end the threads; may be called again.

        Entries still queued after `timeout_s` seconds fail with `ServerStopping`. A thread whose run never returns is
        abandoned.

        Returns:
            Whether everything queued was finished in time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._closing = True
            self._runs = ()
            while self._asleep:
                self._asleep.pop().wake.release()
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        with self._lock:
            left = self._queue.clear()
        if left:
            self._fail(
                left, ServerStopping("Server is stopping; the request was still queued when the grace period ended")
            )
        return not (left or self._threads)

    def _loop(self, run: Run) -> None:
        device = _Device(run, batched=self._batched, uncast=self._uncast)
        while self._step(device):
            pass

    def _step(self, device: _Device) -> bool:
        """Take and run one batch; False at the end. A frame of its own, so that an idle thread holds no entry."""
        while True:
            with self._lock:
                batch, ended, turn, wait_s = self._take(device, time.monotonic())
                if batch or ended:
                    if self._asleep and not self._queue.empty:
                        # One arrival may have made two batches ready, or left one that is timed.
                        self._asleep.pop().wake.release()
                    break
                if self._closing:
                    return False
                self._asleep.append(device)
            self._sleep(device, wait_s)
        self._work(device, batch, ended, turn)
        return True

    def _take(self, device: _Device, now: float) -> tuple[list[Entry], list[Entry], int | None, float]:
        """Take the next batch for a device, which is busy from now on; as `RequestQueue.take`, and the batch's turn."""
        batch, ended, wait_s = self._queue.take(now, closing=self._closing)
        turn = None
        if batch:
            if self._reorder_buffer is not None:
                turn = self._reorder_buffer.take()
            if self._admission is not None:
                self._tell(self._admission.took, device, now, sum([entry.rows for entry in batch]))
        return batch, ended, turn, wait_s

    def _sleep(self, device: _Device, wait_s: float) -> None:
        if device.wake.acquire(timeout=min(wait_s, _LONGEST_SLEEP_S)):
            return
        with self._lock:
            if device in self._asleep:
                self._asleep.remove(device)
                return
        # Woken at the last moment, or in use by an inline run: that puts the device back to sleep, or wakes this thread.
        device.wake.acquire()

    def _work(self, device: _Device, batch: list[Entry], ended: list[Entry], turn: int | None) -> None:
        """Answer what has ended, and run a batch; the device is free afterwards, however that went."""
        try:
            if ended:
                self._end(ended)
            if batch:
                self._execute(device.run, device.assembler, batch, turn)
        except Exception:  # noqa: BLE001  a device whose thread has ended would leave every later request waiting
            _log.exception("a batch failed", thread=threading.current_thread().name)
        finally:
            if self._admission is not None:
                self._admission.freed(device)

    def _execute(self, run: Run, assembler: Assembler, batch: list[Entry], turn: int | None) -> None:
        answers: Answers | None = None if turn is None else []
        error = self._attempt(run, assembler, batch, answers)
        if error is not None:
            parts = (
                [(batch, error)]
                if len(batch) == 1
                else isolate(batch, error, lambda part: self._attempt_again(run, assembler, part, answers))
            )
            for part, found in parts:
                self._fail([entry for entry in part if entry.error is None], found, answers)
                self._tell(self._on_failure, found, len(part))
        if self._reorder_buffer is not None and turn is not None:
            self._reorder_buffer.leave(turn, answers or ())

    def _attempt(
        self, run: Run, assembler: Assembler, batch: list[Entry], answers: Answers | None
    ) -> PredictionError | None:
        """Run and answer a batch, or say why it cannot be; the answers go to `answers` if they must wait for their turn."""
        rows = sum([entry.rows for entry in batch])
        started_s = time.monotonic()
        try:
            wanted = union(batch)
            inputs = assembler.assemble(batch, rows)
            assembled_s = time.monotonic()
            outputs, afterwards = run(inputs, wanted)
            ran_s = time.monotonic()
            self._inline.ran(rows, batch[0].kind.shapes, ran_s - assembled_s)
            split(batch, rows, wanted, outputs, batched=self._batched)
            assembler.settle(outputs)
        except PredictionError as error:
            # Their tracebacks would tie the entries, the error and the session into a cycle.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except MemoryError as error:
            return OutOfMemory(f"not enough memory for a batch of {rows} rows: {error}; send fewer rows in one request")
        except Exception as error:  # noqa: BLE001  whatever the network throws belongs to this batch alone
            return RunFailed(f"the network failed on a batch of {rows} rows: {error}")
        if answers is None:
            self._answer(batch, rows, started_s, assembled_s, ran_s)
        else:
            answers.append(partial(self._answer, batch, rows, started_s, assembled_s, ran_s))
        if afterwards is not None:
            # Answers that wait for their turn leave later; the inputs are this batch's only until the next one is assembled.
            self._tell(afterwards)
        return None

    def _attempt_again(
        self, run: Run, assembler: Assembler, part: list[Entry], answers: Answers | None
    ) -> PredictionError | None:
        """Run a part of a failed batch, without those whose clients have stopped waiting meanwhile."""
        now = time.monotonic()
        part = [entry for entry in part if entry.error is None]
        expired = [entry for entry in part if entry.deadline_s is not None and entry.deadline_s <= now]
        self._fail(expired, DeadlineExceeded("Deadline exceeded while the batch was run again"), answers)
        part = [entry for entry in part if entry.error is None]
        return self._attempt(run, assembler, part, answers) if part else None

    def _answer(self, batch: list[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float) -> None:
        _reply(batch)
        finished_s = time.monotonic()
        if self._admission is not None:
            self._tell(self._admission.learn, rows, started_s, assembled_s, ran_s, finished_s)
        self._tell(self._observer.batch, batch, rows, started_s, assembled_s, ran_s, finished_s)

    def _fail(self, entries: list[Entry], error: PredictionError, answers: Answers | None = None) -> None:
        if not entries:
            return
        for entry in entries:
            entry.error = error
        if answers is None:
            self._end(entries)
        else:
            answers.append(partial(self._end, entries))

    def _end(self, entries: list[Entry]) -> None:
        """Answer entries that have an error."""
        _reply(entries)
        now = time.monotonic()
        for entry in entries:
            if entry.error is not None:
                self._tell(self._observer.failed, entry.error, now - entry.arrived_s)

    def _tell(self, told: Callable[..., None], *about: Any) -> None:
        """Tell what only counts or learns; a defect there must not keep any answer back."""
        try:
            told(*about)
        except Exception as error:  # noqa: BLE001  as the docstring says
            # Once for each kind, because the next batch would bring it again.
            if type(error) not in self._defects:
                self._defects.add(type(error))
                _log.exception("an observer failed", thread=threading.current_thread().name)


def _given_up(entry: Entry, now: float) -> PredictionError:
    """Why a client no longer waits for a queued entry."""
    if entry.deadline_s is not None and entry.deadline_s - now <= _EARLY_S + _EARLY * (now - entry.arrived_s):
        return DeadlineExceeded("Deadline exceeded while the request was queued")
    return Cancelled("cancelled by the client")


def _reply(entries: list[Entry]) -> None:
    """Call the replies of finished entries, once for those that share one: a front end is woken once a batch."""
    first = entries[0].reply
    if all([entry.reply is first for entry in entries]):
        _hand_over(first, entries)
        return
    groups: dict[Reply, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.reply, []).append(entry)
    for reply, group in groups.items():
        _hand_over(reply, group)


def _hand_over(reply: Reply, entries: list[Entry]) -> None:
    try:
        reply(entries)
    except Exception as error:  # noqa: BLE001  one front end's defect must not end the device thread for all
        _log.exception("a reply failed", requests=len(entries))
        # Nobody knows how far it came; an answer that may not have left does not count as one.
        for entry in entries:
            entry.error = entry.error or RunFailed(f"the answer could not be sent: {error}")
