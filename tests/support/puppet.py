"""A run that blocks until it is released, and witnesses of what the batcher does with it: time is irrelevant to a test."""

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline_server.batching.batcher import Batcher
from frostline_server.batching.device import Afterwards
from frostline_server.batching.entry import Entry, RowKind
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import PredictionError
from tests.support.servers import until

Array = np.ndarray[Any, Any]

TIMEOUT_S = 30.0
"""How long a test waits for what must happen; only a failing test ever waits that long."""


HOUR_S = 3600.0


def computed(inputs: Sequence[Array], wanted: Sequence[str]) -> list[Array]:
    """The puppet network's outputs: `same` and `double` [rows, ...], and `total` [rows], of the first input."""
    first = inputs[0]
    outputs: dict[str, Callable[[], Array]] = {
        "same": lambda: first,
        "double": lambda: first * 2,
        "total": lambda: first.reshape(len(first), -1).sum(axis=1),
    }
    return [outputs[name]() for name in wanted]


@dataclass(frozen=True)
class Ran:
    """One call of the puppet."""

    inputs: list[Array]
    wanted: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.inputs[0])


class Puppet:
    """A run whose every call blocks until the test releases it.

    Attributes:
        ran: the calls so far, the one that blocks included.
        answer: computes a call's outputs; may raise.
        afterwards: what each call leaves to do once its batch is answered.
    """

    def __init__(self, *, blocking: bool = True) -> None:
        self.ran: list[Ran] = []
        self.answer: Callable[[Sequence[Array], Sequence[str]], list[Array]] = computed
        self.afterwards: Afterwards = None
        self._blocking = blocking
        self._permits = 0
        self._changed = threading.Condition()

    def __call__(self, inputs: list[Array], wanted: tuple[str, ...]) -> tuple[list[Array], Afterwards]:
        return self.outputs(inputs, wanted), self.afterwards

    def outputs(self, inputs: Sequence[Array], wanted: Sequence[str]) -> list[Array]:
        """The same without what is left to do, as a session runs."""
        with self._changed:
            self.ran.append(Ran(list(inputs), tuple(wanted)))
            self._changed.notify_all()
            released = self._changed.wait_for(lambda: not self._blocking or self._permits > 0, TIMEOUT_S)
            assert released, "the test never released the run"
            self._permits -= 1
        return self.answer(inputs, wanted)

    def release(self) -> None:
        """Let one call, present or future, return."""
        with self._changed:
            self._permits += 1
            self._changed.notify_all()

    def release_all(self) -> None:
        """Never block again."""
        with self._changed:
            self._blocking = False
            self._changed.notify_all()

    def wait_for(self, calls: int) -> Ran:
        """Wait until that many calls have begun; returns the last of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ran) >= calls, TIMEOUT_S), f"only {len(self.ran)} calls came"
            return self.ran[calls - 1]


class Replies:
    """A front end that keeps the groups of entries it is handed.

    Attributes:
        groups: what each call brought.
    """

    def __init__(self) -> None:
        self.groups: list[list[Entry]] = []
        self._changed = threading.Condition()

    def __call__(self, entries: list[Entry]) -> None:
        with self._changed:
            self.groups.append(list(entries))
            self._changed.notify_all()

    @property
    def entries(self) -> list[Entry]:
        return [entry for group in self.groups for entry in group]

    def wait_for(self, count: int) -> list[Entry]:
        """Wait until that many entries have been answered; returns all of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.entries) >= count, TIMEOUT_S), "answers are missing"
            return self.entries


@dataclass(frozen=True)
class ToldBatch:
    """What an observer is told of a batch."""

    entries: list[Entry]
    rows: int
    times_s: tuple[float, float, float, float]


class Witness:
    """An observer that keeps what it is told.

    Attributes:
        batches: those that ran and were answered.
        failures: errors of entries that ended without outputs, and how long each had waited, in seconds.
    """

    def __init__(self) -> None:
        self.batches: list[ToldBatch] = []
        self.failures: list[tuple[PredictionError, float]] = []

    def batch(
        self, entries: Sequence[Entry], rows: int, started_s: float, assembled_s: float, ran_s: float, finished_s: float
    ) -> None:
        self.batches.append(ToldBatch(list(entries), rows, (started_s, assembled_s, ran_s, finished_s)))

    def failed(self, error: PredictionError, seconds: float, entry: Entry) -> None:
        self.failures.append((error, seconds))


@dataclass(frozen=True)
class Stage:
    """A started batcher and everything around it."""

    batcher: Batcher
    puppet: Puppet
    replies: Replies
    witness: Witness

    def submit(self, *entries: Entry) -> None:
        for entry in entries:
            self.batcher.submit(entry)

    def occupy(self) -> Entry:
        """Put the device to work on an entry of its own, so that whatever is submitted next waits."""
        entry = self.entry([0.0])
        self.submit(entry)
        self.puppet.wait_for(len(self.puppet.ran) + 1)
        return entry

    def entry(self, *values: Sequence[Any], **options: Any) -> Entry:
        """An entry with one row for each list of values, that replies to this stage."""
        return make_entry(np.array(values, options.pop("cast", np.float32)), reply=self.replies, **options)

    def wait_until_idle(self, instances: int = 1) -> None:
        """Wait until that many device threads sleep."""
        until(lambda: len(self.batcher._asleep) == instances, 0.001)

    def wait_until_closing(self) -> None:
        """Wait until the batcher refuses new entries."""
        until(lambda: self.batcher._closing, 0.001)

    def finish(self) -> None:
        """Let everything run, and wait until all of it is answered and told."""
        self.puppet.release_all()
        assert self.batcher.close(TIMEOUT_S)


def batching(*, max_batch_size: int = 8, max_queue_size: int = 100, **options: Any) -> Batching:
    """Without priorities unless `policies` are given."""
    policies = options.pop("policies", (QueuePolicy(max_queue_size),))
    return Batching(max_batch_size, policies, **options)


def stage(*, batched: bool = True, instances: int = 1, **options: Any) -> Stage:
    """A batcher over a blocking puppet, started; several instances are one puppet run from several threads."""
    puppet, replies, witness = Puppet(), Replies(), Witness()
    batcher = Batcher([puppet] * instances, witness, batching(**options), batched=batched)
    batcher.start()
    return Stage(batcher, puppet, replies, witness)


def make_entry(
    array: Array,
    *,
    reply: Callable[[list[Entry]], None],
    wire: Any = None,
    wanted: tuple[str, ...] = ("same",),
    deadline_s: float | None = None,
    batched: bool = True,
    priority: int = 0,
    timeout_s: float | None = None,
) -> Entry:
    """An entry of these rows for a network with one input of the array's dtype.

    Args:
        array: [rows, ...], or the whole tensor for a network without a batch axis.
        reply: takes the finished entry.
        wire: the dtype the rows come in, if not the network's own.
        wanted: names of outputs.
        deadline_s: on the `time.monotonic` clock.
        batched: whether the first axis is the batch axis.
        priority: the level asked for.
        timeout_s: how long it may wait.
    """
    sent = array.astype(wire or array.dtype)
    kind = _kind((array.shape[1:] if batched else array.shape,), (sent.dtype,), (array.dtype,))
    data = sent.ravel() if sent.dtype.hasobject else sent.tobytes()
    rows = len(array) if batched else 1
    return Entry(kind, rows, [data], wanted, deadline_s, reply, None, priority=priority, timeout_s=timeout_s)


# As the codec has it: equal kinds are one object.
_kind = functools.cache(RowKind)


Staging = Callable[..., Stage]
"""Builds stages whose threads end with the test."""


def rows_of(entry: Entry) -> Any:
    """The rows an entry was answered with."""
    assert entry.error is None
    return entry.outputs[0].tolist()


def spoilt(inputs: Any, wanted: Any) -> Any:
    """A network that no negative row may reach."""
    if (inputs[0] < 0).any():
        raise ValueError("a negative row")
    return computed(inputs, wanted)
