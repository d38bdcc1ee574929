"""The dynamic batcher: it runs many concurrent requests as few batches of one callable.

A batch is what was queued while the devices were busy: back-pressure, not a timer, collects rows. Only rows of equal
shape share a batch. The batcher gets a callable for each device and does not depend on ONNX, asyncio or gRPC: it has
one thread for each callable, one bounded queue, and entries that carry their own reply callback.

A device is a run with the thread that calls it. While that thread sleeps, the thread that submits may run a batch on
the device itself (`run_inline`); `inline_execution` has the rule.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from frostline_server.batching.admission import AdmissionController
from frostline_server.batching.assembler import split, union
from frostline_server.batching.bisect_failures import isolate
from frostline_server.batching.device import NEVER, NOTHING, Answers, Device, Run
from frostline_server.batching.entry import Entry, Room, Space
from frostline_server.batching.inline_execution import InlineExecution
from frostline_server.batching.reorder_buffer import ReorderBuffer
from frostline_server.batching.replies import hand_out
from frostline_server.batching.request_queue import Batching, RequestQueue
from frostline_server.errors import (
    BatcherClosed,
    Cancelled,
    DeadlineExceeded,
    InvalidData,
    MessageTooLarge,
    ModelNotReady,
    NetworkFull,
    OutOfMemory,
    PredictionError,
    RunFailed,
    RunTimedOut,
    ServerStopping,
)

# A client whose time is over cancels its call, a little before the time is over here: its clock began earlier, and
# gRPC rounds timeouts up by one percent at most. Twice that is allowed.
_EARLY_S = 0.002
_EARLY = 0.02

_LONGEST_SLEEP_S = 3600.0
"""The platform's locks cannot wait for as long as a configuration can say."""

RETURN_S = 5.0
"""How long after its time limit a run may take to end, in seconds; then it is given up, and its batch fails."""

_GLANCE_S = 0.1
"""How often a batcher that closes sees which threads are left, in seconds."""

_log = structlog.get_logger(__name__)


class _Abandoned(Exception):
    """A run returned after it was given up, and its batch was answered meanwhile: nothing is left to do with it."""


class Observer(Protocol):
    """The observer of a batcher; called from the device threads, or from the thread that submits."""

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        """A batch ran and was answered; all times on the `time.monotonic` clock.

        An entry whose answer could not be made already has an error.
        """
        ...

    def failed(self, error: PredictionError, seconds: float, entry: Entry) -> None:
        """An entry ended without outputs, `seconds` after it was submitted."""
        ...


class Batcher:
    """A bounded queue before one or several device threads.

    Args:
        runs: computes a batch; each is called from one thread at a time, but again while a call that was given up goes on.
        observer: called for every batch and every failed entry.
        batching: batch sizes, priorities, and the limits of the queues.
        batched: False for a network without a batch axis: every entry then runs alone.
        name: the device threads' name.
        admission: decides which requests can be answered in time, with a latency limit; learns from every batch.
        uncast: indices of the inputs that every run also takes as bytes.
        on_failure: called with the error of each part of a batch that failed, and its number of requests.
        inline: whether runs are known to take equally long for all data, so that a front end may be held by one.
        max_run_s: how long a run may take, in seconds; who runs it sees to it that it ends.
        spares: how many runs that do not end are replaced by further calls.
        on_hang: called when `fault` may have changed, from any thread.
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
        inline: bool = True,
        max_run_s: float = math.inf,
        spares: int = 0,
        on_hang: Callable[[], None] = lambda: None,
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
        self._asleep: list[Device] = []
        self._inline = InlineExecution(batching.max_batch_size if batched else 1, enabled=inline and self._queue.eager)
        self._max_run_s = max_run_s
        self._spares = spares
        self._on_hang = on_hang
        self._devices: list[Device] = []
        # Of those, the ones that are asleep, or run something that has not been given up.
        self._alive = 0
        self._overdue: Counter[str] = Counter()
        self._closing = False
        # What `submit` asks: closing, or no device is alive.
        self._shut = False
        self._reorder_buffer = ReorderBuffer() if batching.preserve_ordering and len(self._runs) > 1 else None
        self._threads: list[threading.Thread] = []
        self._defects: set[type[Exception]] = set()

    def start(self) -> None:
        """Start the device threads."""
        self._threads = [
            self._thread(run, self._name if len(self._runs) == 1 else f"{self._name}-{index}")
            for index, run in enumerate(self._runs)
        ]
        # From here on only the threads hold what they run, so that it is free when they end.
        self._runs = ()
        self._alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    def _thread(self, run: Run, name: str) -> threading.Thread:
        return threading.Thread(target=self._loop, args=(run,), name=name, daemon=True)

    @property
    def queued_rows(self) -> int:
        """Rows queued now."""
        return self._queue.rows

    @property
    def queued_requests(self) -> int:
        """Requests queued now."""
        with self._lock:
            return self._queue.requests

    @property
    def fault(self) -> str:
        """Why no device answers, or ""."""
        return "" if self._closing or not self._shut else self._every_instance_hangs

    @property
    def _every_instance_hangs(self) -> str:
        return f"every instance hangs in a run that has not ended after {self._max_run_s:g} s (max_run_s)"

    @property
    def hanging(self) -> int:
        """Runs that were given up and have not returned yet."""
        return sum([device.hangs for device in tuple(self._devices)])

    @property
    def overdue(self) -> Mapping[str, int]:
        """How many runs took longer than they may: those that were `ended`, and those that hang or hung, `given_up`."""
        return {outcome: self._overdue[outcome] for outcome in ("ended", "given_up")}

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
            ModelNotReady: every device hangs.
        """
        entry.arrived_s = time.monotonic()
        with self._lock:
            if self._shut:
                raise self._closed()
            self._queue.push(entry)
            if self._asleep and not (
                inline and self._inline.allows(self._queue.rows, entry.kind.shapes, entry.arrived_s)
            ):
                self._asleep.pop().wake.release()

    def _closed(self) -> PredictionError:
        if self._closing:
            return BatcherClosed("Server is stopping, scheduler for model has stopped accepting new inference requests")
        return ModelNotReady(f"the model cannot answer: {self.fault}")

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
        device.lent = True
        try:
            self._work(device, batch, ended, turn)
        finally:
            device.lent = False
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
        self._tell(self._observer.failed, _given_up(entry, now), now - entry.arrived_s, entry)

    def close(self, timeout_s: float) -> bool:
        """Refuse new entries, finish the queued ones, and end the threads; may be called again.

        Entries still queued after `timeout_s` seconds fail with `ServerStopping`. A thread whose run does not return in time,
        or was given up before, is abandoned.

        Returns:
            Whether everything queued was finished in time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._closing = self._shut = True
            self._runs = ()
            while self._asleep:
                self._asleep.pop().wake.release()
        while (left_s := deadline_s - time.monotonic()) > 0 and (threads := self._alive_threads()):
            # Again and again, because a run that is given up meanwhile is no longer waited for.
            threads[0].join(min(left_s, _GLANCE_S))
        self._alive_threads()
        with self._lock:
            left = self._queue.clear()
        if left:
            self._fail(
                left, ServerStopping("Server is stopping; the request was still queued when the grace period ended")
            )
        return not (left or self._threads)

    def _alive_threads(self) -> Sequence[threading.Thread]:
        """The threads that have not ended, without those that hang."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            return tuple(self._threads)

    def look(self, now_s: float, since_s: float = -math.inf) -> None:
        """Give up runs that have not ended though their time is over: answer their batches, and replace them.

        Args:
            now_s: the time, on the `time.monotonic` clock.
            since_s: since when the process has run without a pause; time before that does not count.
        """
        limit_s = self._max_run_s + RETURN_S
        for device in tuple(self._devices):
            # A thread that was lent cannot be done without: it is a front end's.
            if now_s - max(device.began_s, since_s) > limit_s and not device.lent:
                self._abandon(device, now_s, since_s)

    def _abandon(self, device: Device, now_s: float, since_s: float) -> None:
        with self._lock:
            # Once more, because it may have returned meanwhile; from here on it asks whether it was given up.
            if device.hangs or now_s - max(device.began_s, since_s) <= self._max_run_s + RETURN_S:
                return
            device.hangs = True
            self._overdue["given_up"] += 1
            # What hangs is no longer waited for.
            if device.thread in self._threads:
                self._threads.remove(device.thread)
            device.replaced = self._spares > 0 and self._again(device)
            if device.replaced:
                self._spares -= 1
                if self._admission is not None:
                    self._admission.freed(device)
            else:
                # To admission it stays busy, because nothing else runs in its place.
                self._alive -= 1
            self._shut = self._closing or not self._alive
            left = self._queue.clear() if not self._alive else []
            # What returns from now on is dropped, and its thread lets go of these.
            batch, turn, answers = device.batch, device.turn, device.answers
        error = RunTimedOut(
            f"the network's run did not end within {self._max_run_s:g} s (max_run_s), and could not be interrupted; it may "
            "depend on the values in the request, or in one that shared its batch"
        )
        # Of a batch that is run again in parts, some are answered already.
        guilty = [entry for entry in batch if entry.error is None and not entry.outputs]
        self._fail(guilty, error, answers)
        if self._reorder_buffer is not None and turn is not None:
            self._reorder_buffer.leave(turn, answers or ())
        self._tell(self._on_failure, error, len(guilty))
        if left:
            self._fail(left, ModelNotReady(f"the model cannot answer: {self._every_instance_hangs}"))
        self._tell(self._on_hang)

    def _again(self, device: Device) -> bool:
        """Start a thread in the place of one that hangs; False if the system has none left."""
        thread = self._thread(device.run, f"{self._name}-again")
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def _returned(self, device: Device) -> bool:
        """A run that was given up has returned; tells whether its device is still needed."""
        with self._lock:
            device.hangs = False
            if device.replaced:
                self._spares += 1
                return False
            self._threads.append(device.thread)
            self._alive += 1
            self._shut = self._closing
        self._tell(self._on_hang)
        return True

    def _loop(self, run: Run) -> None:
        device = Device(run, batched=self._batched, uncast=self._uncast)
        with self._lock:
            self._devices.append(device)
        try:
            while self._step(device):
                pass
        finally:
            with self._lock:
                self._devices.remove(device)

    def _step(self, device: Device) -> bool:
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
        try:
            self._work(device, batch, ended, turn)
        except _Abandoned:
            return self._returned(device)
        return True

    def _take(self, device: Device, now: float) -> tuple[list[Entry], list[Entry], int | None, float]:
        """Take the next batch for a device, which is busy from now on; as `RequestQueue.take`, and the batch's turn."""
        batch, ended, wait_s = self._queue.take(now, closing=self._closing)
        turn = None
        if batch:
            if self._reorder_buffer is not None:
                turn = self._reorder_buffer.take()
            if self._admission is not None:
                self._tell(self._admission.took, device, now, sum([entry.rows for entry in batch]))
        return batch, ended, turn, wait_s

    def _sleep(self, device: Device, wait_s: float) -> None:
        if device.wake.acquire(timeout=min(wait_s, _LONGEST_SLEEP_S)):
            return
        with self._lock:
            if device in self._asleep:
                self._asleep.remove(device)
                return
        # Woken at the last moment, or in use by an inline run: that puts the device back to sleep, or wakes this thread.
        device.wake.acquire()

    def _work(self, device: Device, batch: list[Entry], ended: list[Entry], turn: int | None) -> None:
        """Answer what has ended, and run a batch; the device is free afterwards, however that went."""
        try:
            if ended:
                self._end(ended)
            if batch:
                self._execute(device, batch, turn)
        except _Abandoned:
            raise
        except Exception:  # noqa: BLE001  a device whose thread has ended would leave every later request waiting
            _log.exception("a batch failed", thread=threading.current_thread().name)
        finally:
            device.batch, device.answers = NOTHING, None
            if self._admission is not None:
                self._admission.freed(device)

    def _execute(self, device: Device, batch: list[Entry], turn: int | None) -> None:
        answers: Answers | None = None if turn is None else []
        device.batch, device.turn, device.answers = batch, turn, answers
        if any([entry.room is not None for entry in batch]):
            batch = device.batch = self._with_room(batch, answers)
        error = self._attempt(device, batch, answers) if batch else None
        if error is not None:
            # Not after a run that took too long, because each part with the same row would take as long again.
            parts = (
                [(batch, error)]
                if len(batch) == 1 or isinstance(error, RunTimedOut)
                else isolate(batch, error, partial(self._attempt_again, device, [], answers), _named)
            )
            for part, found in parts:
                self._fail([entry for entry in part if entry.error is None], found, answers)
                self._tell(self._on_failure, found, len(part))
        if self._reorder_buffer is not None and turn is not None:
            self._reorder_buffer.leave(turn, answers or ())

    def _with_room(self, batch: list[Entry], answers: Answers | None) -> list[Entry]:
        """Those of a batch whose answers find room; the others end here, before anything is computed for them."""
        asked = Counter[Space]()
        stay = []
        for entry in batch:
            room = entry.room
            if room is None:
                stay.append(entry)
            elif room.space.fits(asked[room.space] + room.size):
                asked[room.space] += room.size
                stay.append(entry)
            else:
                self._fail([entry], _no_room(room), answers)
        return stay

    def _attempt(self, device: Device, batch: list[Entry], answers: Answers | None) -> PredictionError | None:
        """Run and answer a batch, or say why it cannot be; the answers go to `answers` if they must wait for their turn.

        Raises:
            _Abandoned: the run took so long that the batch was answered meanwhile.
        """
        rows = sum([entry.rows for entry in batch])
        started_s = time.monotonic()
        try:
            wanted = union(batch)
            inputs = device.assembler.assemble(batch, rows)
            assembled_s = device.began_s = time.monotonic()
            try:
                outputs, afterwards = device.run(inputs, wanted)
            finally:
                # In this order: whom `look` sees to be late is late here as well.
                device.began_s = NEVER
                ran_s = time.monotonic()
                if ran_s - assembled_s > self._max_run_s:
                    self._check(device)
            self._inline.ran(rows, batch[0].kind.shapes, ran_s - assembled_s)
            split(batch, rows, wanted, outputs, batched=self._batched)
            device.assembler.settle(outputs)
        except _Abandoned:
            raise
        except PredictionError as error:
            if isinstance(error, RunTimedOut):
                with self._lock:
                    self._overdue["ended"] += 1
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

    def _check(self, device: Device) -> None:
        with self._lock:
            if device.hangs:
                raise _Abandoned from None

    def _attempt_again(
        self, device: Device, timed_out: list[RunTimedOut], answers: Answers | None, part: list[Entry]
    ) -> PredictionError | None:
        """Run a part of a failed batch, without those whose clients have stopped waiting meanwhile.

        Once a part has taken too long, which goes to `timed_out`, no further one is run.
        """
        if timed_out:
            return timed_out[0]
        now = time.monotonic()
        part = [entry for entry in part if entry.error is None]
        expired = [entry for entry in part if entry.deadline_s is not None and entry.deadline_s <= now]
        self._fail(expired, DeadlineExceeded("Deadline exceeded while the batch was run again"), answers)
        part = [entry for entry in part if entry.error is None]
        error = self._attempt(device, part, answers) if part else None
        if isinstance(error, RunTimedOut):
            timed_out.append(error)
        return error

    def _answer(self, batch: list[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float) -> None:
        hand_out(batch)
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
        hand_out(entries)
        now = time.monotonic()
        for entry in entries:
            if entry.error is not None:
                self._tell(self._observer.failed, entry.error, now - entry.arrived_s, entry)

    def _tell(self, told: Callable[..., None], *about: Any) -> None:
        """Tell what only counts or learns; a defect there must not keep any answer back."""
        try:
            told(*about)
        except Exception as error:  # noqa: BLE001  as the docstring says
            # Once for each kind, because the next batch would bring it again.
            if type(error) not in self._defects:
                self._defects.add(type(error))
                _log.exception("an observer failed", thread=threading.current_thread().name)


def _named(part: list[Entry], error: PredictionError) -> list[tuple[Entry, PredictionError]]:
    """The entries of a batch whose rows an error names, each with what is wrong with them."""
    found: list[tuple[Entry, PredictionError]] = []
    if isinstance(error, InvalidData):
        at = 0
        # Those that have failed by other causes were not in the run.
        for entry in [entry for entry in part if entry.error is None]:
            own = error.within(at, at + entry.rows)
            if own is not None:
                found.append((entry, own))
            at += entry.rows
    return found


def _given_up(entry: Entry, now: float) -> PredictionError:
    """Why a client no longer waits for a queued entry."""
    if entry.deadline_s is not None and entry.deadline_s - now <= _EARLY_S + _EARLY * (now - entry.arrived_s):
        return DeadlineExceeded("Deadline exceeded while the request was queued")
    return Cancelled("cancelled by the client")


def _no_room(room: Room) -> PredictionError:
    """What ends an entry whose answer finds no room, now or ever."""
    if room.space.has_room_for(room.size):
        return NetworkFull(
            f"the messages in flight leave no room for an answer of {room.size} bytes (network_bytes); send the request again "
            "later, or fewer rows at a time"
        )
    return MessageTooLarge(
        f"an answer of {room.size} bytes is more than all messages in flight may have (network_bytes); send fewer rows at a time"
    )
