"""Shadow traffic: a version gets a copy of another version's requests, and their answers are compared.

The shadow runs in a thread of its own and never delays the live version.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import structlog

from frostline_server.model.stats import Histogram
from frostline_server.runtime.session import Run
from frostline_server.runtime.signature import Signature

Array = np.ndarray[Any, Any]

DIFFERENCE = (
    1e-6, 1e-5, 1e-4, 1e-3, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 100.0,
)  # fmt: skip
"""Bucket bounds of logit differences: from the rounding of single precision to another network altogether."""

_MAX_ROWS = 4096
_MAX_BYTES = 64 * 2**20
_CLOSE_S = 2.0
_PERIOD_S = 0.05
_SHARE = 0.05
"""Of the time, at most, that the shadow computes: the median request of the live version never meets it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a shadow has seen, in rows; every row that was offered is in exactly one of `rows`, `dropped` and `failed`, or still waits.

    Attributes:
        rows: compared.
        disagreements: of those, with another argmax.
        dropped: never run, because as many waited as may wait, or because they mean something else to the shadow.
        failed: the shadow's run failed, or gave logits of another shape.
        difference: each compared row's largest absolute difference of a logit. One that is no finite number is in the
            last bucket and not in the sum.
    """

    rows: int
    disagreements: int
    dropped: int
    failed: int
    difference: Histogram


class _Sample(NamedTuple):
    """A batch that waits; a tuple, because the live version's thread makes one for every batch."""

    inputs: list[Array]
    logits: Array
    argmax: Array
    rows: int
    size: int
    raw: bool


class Tap:
    """Where a version's device thread looks, once a batch, whether anyone listens.

    Attributes:
        shadow: who listens; may be replaced at any time, from any thread.
    """

    __slots__ = ("shadow",)

    def __init__(self) -> None:
        self.shadow: Shadow | None = None


class Shadow:
    """Runs a version on copies of another one's batches, in a thread of its own, and compares.

    What is offered waits in a bounded queue, and the thread looks into it now and then, so that offering wakes nobody. The
    thread rests in proportion to the time it computed. It is not `nice`d: a thread of low priority that holds the
    interpreter lock would keep every other one waiting.

    Args:
        run: the shadow's own run.
        outputs: the shadow's names of its logits and of its argmax.
        order: for each input of the shadow, the place of the same input among the live version's; None if they mean
            something else to it.
        encode: makes the shadow's inputs of raw rows; None if it takes none, or none with the live version's columns.
        columns: for each column of the shadow, the place of the same column among the live version's.
        max_batch_size: the most rows in one run; None for a network without a batch axis.
        name: the thread's name.
        max_rows: the most rows that may wait, if they are more than one batch.
        max_bytes: the most bytes that may wait, if they are more than one batch.
        share: of the time that the thread may compute, above 0 and up to 1.
        clock: seconds.
    """

    def __init__(
        self,
        run: Run,
        outputs: tuple[str, str],
        order: Sequence[int] | None,
        *,
        encode: Callable[[Sequence[Array]], Sequence[Array]] | None = None,
        columns: Sequence[int] = (),
        max_batch_size: int | None,
        name: str = "shadow",
        max_rows: int = _MAX_ROWS,
        max_bytes: int = _MAX_BYTES,
        share: float = _SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._outputs = outputs
        self._order = order
        self._encode = encode
        self._columns = columns
        self._max_batch_size = max_batch_size
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._share = share
        self._clock = clock
        self._waiting: deque[_Sample] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._dropped = 0
        # Held for a few instructions by either side, never while anything is computed.
        self._queue = threading.Lock()
        self._rows = 0
        self._disagreements = 0
        self._failed = 0
        self._difference = Histogram(DIFFERENCE)
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """End the thread after the run it is at; what still waits is given up.

        A run that takes longer than `timeout_s` seconds is left to itself: on a dead device it may never return.
        """
        self._closing.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._waiting.clear()

    def offer(self, inputs: Sequence[Array], logits: Array, argmax: Array, *, raw: bool = False) -> None:
        """Hand over a batch that was answered; called from the live version's device thread, and never waits.

        Args:
            inputs: one array for each input of the live version, [rows, ...]; copied, unless it is a view of bytes.
            logits: [rows, ...]; kept, so nobody may write to it any more, as nobody may who answers from it.
            argmax: [rows, ...]; kept as well.
            raw: whether the inputs are the columns of raw rows, [rows] each.
        """
        rows, size = len(argmax), logits.nbytes + argmax.nbytes
        for array in inputs:
            size += sum(map(_bytes, array.ravel())) if array.dtype.hasobject else array.nbytes
        if (self._encode if raw else self._order) is None:
            with self._queue:
                self._dropped += rows
            return
        with self._queue:
            full = self._waiting_rows + rows > self._max_rows or self._waiting_bytes + size > self._max_bytes
            # A batch larger than the bounds is taken when nothing waits, or it could never be compared.
            if full and self._waiting_rows:
                self._dropped += rows
                return
            # Taken before the copying, so that several device threads together cannot exceed the bounds.
            self._waiting_rows += rows
            self._waiting_bytes += size
        # The next batch may be assembled where this one was; only over bytes can nobody write.
        kept = [array if isinstance(array.base, bytes) else array.copy() for array in inputs]
        self._waiting.append(_Sample(kept, logits, argmax, rows, size, raw))

    def counts(self) -> Counts:
        """What it has seen until now."""
        with self._counting:
            return Counts(self._rows, self._disagreements, self._dropped, self._failed, self._difference.copy())

    def _loop(self) -> None:
        pause_s = _PERIOD_S
        while not self._closing.wait(pause_s):
            pause_s = self.compare()

    def compare(self) -> float:
        """Run and compare what waits, for a slice of time.

        Returns:
            Seconds to rest before the next slice.
        """
        began_s = self._clock()
        until_s = began_s + _PERIOD_S * self._share
        while samples := self._take():
            self._compare(samples)
            if self._clock() >= until_s or self._closing.is_set():
                break
        return max(_PERIOD_S, (self._clock() - began_s) / self._share) * (1 - self._share)

    def _take(self) -> list[_Sample]:
        """Samples of equal rows, together as large as one run may be; more only if the first one alone is."""
        taken: list[_Sample] = []
        rows = size = 0
        while self._waiting:
            sample = self._waiting[0]
            fits = self._max_batch_size is not None and rows + sample.rows <= self._max_batch_size
            if taken and not (fits and _kind(sample) == _kind(taken[0])):
                break
            taken.append(self._waiting.popleft())
            rows += sample.rows
            size += sample.size
        with self._queue:
            self._waiting_rows -= rows
            self._waiting_bytes -= size
        return taken

    def _compare(self, samples: list[_Sample]) -> None:
        logits = _joined([sample.logits for sample in samples])
        argmax = _joined([sample.argmax for sample in samples])
        raw = samples[0].raw
        order = self._columns if raw else self._order or ()
        inputs = [_joined([sample.inputs[place] for sample in samples]) for place in order]
        # Without a batch axis the first axis of an input need not be the rows.
        step = self._max_batch_size
        parts = [slice(None)] if step is None else [slice(at, at + step) for at in range(0, len(argmax), step)]
        for part in parts:
            try:
                rows: Sequence[Array] = [array[part] for array in inputs]
                got = self._run(self._encode(rows) if raw and self._encode is not None else rows, self._outputs)
                different, differences = compare(logits[part], argmax[part], *got)
            except Exception as error:  # noqa: BLE001  whatever the shadow does, it must not disturb what is live
                self._fail(len(argmax[part]), error)
                continue
            with self._counting:
                self._rows += len(different)
                self._disagreements += int(different.sum())
                finite = np.isfinite(differences)
                bins = np.searchsorted(DIFFERENCE, differences)
                for place, count in enumerate(np.bincount(bins, minlength=len(DIFFERENCE) + 1)):
                    self._difference.counts[place] += int(count)
                self._difference.total += float(differences[finite].sum())

    def _fail(self, rows: int, error: Exception) -> None:
        with self._counting:
            first = not self._failed
            self._failed += rows
        if first:
            # Once: a shadow that always fails would fill the log.
            _log.error(
                "the shadow failed; further failures are only counted", thread=self._thread.name, reason=str(error)
            )


def compare(logits: Array, argmax: Array, shadow_logits: Array, shadow_argmax: Array) -> tuple[Array, Array]:
    """How two versions differ on the same rows.

    Args:
        logits: the live version's, [rows, ...].
        argmax: the live version's, [rows, ...].
        shadow_logits: of the same shape.
        shadow_argmax: of the same shape.

    Returns:
        Whether each row's argmax differs, [rows] bool; and each row's largest absolute difference of a logit, [rows]
        float64, infinite or NaN where only one of the two is a number.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != shadow_logits.shape or argmax.shape != shadow_argmax.shape:
        raise ValueError(
            f"the shadow's logits are {list(shadow_logits.shape)}, the live version's {list(logits.shape)}"
        )
    rows = len(logits)
    live, other = logits.astype(np.float64), shadow_logits.astype(np.float64)
    # Equal infinities do not differ, though their difference is no number.
    with np.errstate(invalid="ignore"):
        difference = np.where((live == other) | (np.isnan(live) & np.isnan(other)), 0.0, np.abs(live - other))
    return (argmax != shadow_argmax).reshape(rows, -1).any(axis=1), difference.reshape(rows, -1).max(axis=1)


def mismatch(
    live: Signature, live_labels: Sequence[str] | None, shadow: Signature, shadow_labels: Sequence[str] | None
) -> str:
    """Why one version's answers cannot be compared with another's to the same rows; "" when they can."""
    if why := _other_heads(live, shadow):
        return why
    if live.batched != shadow.batched:
        return "only one of the two has a batch axis"
    classes, others = (_logits_shape(signature) for signature in (live, shadow))
    if not _fit(classes, others):
        return f"its logits are {list(others)} for each row, the live version's {list(classes)}"
    if live_labels and shadow_labels and list(live_labels) != list(shadow_labels):
        return "its labels are not the live version's"
    return ""


def _other_heads(live: Signature, shadow: Signature) -> str:
    ours, theirs = live.heads, shadow.heads
    if not (ours and theirs and ours.confidence and theirs.confidence):
        return "only classifiers, with one class for each row, can be compared"
    if ours.probabilities != theirs.probabilities:
        return "only one of the two ends at a softmax; the other one's logits are no probabilities"
    return ""


def other_inputs(live: Signature, shadow: Signature) -> str:
    """Why one version's own inputs are none of another's; "" when they are."""
    ours, theirs = ({spec.name: spec for spec in signature.inputs} for signature in (live, shadow))
    if set(ours) != set(theirs):
        return f"its inputs are {sorted(theirs)}, the live version's are {sorted(ours)}"
    for name, spec in ours.items():
        other = theirs[name]
        if spec.dtype != other.dtype or not _fit(spec.shape, other.shape):
            return f"its input '{name}' is {other.datatype} {list(other.shape)}, the live version's {spec.datatype} {list(spec.shape)}"
    return ""


def input_order(live: Signature, shadow: Signature) -> list[int]:
    """For each input of the shadow, the place of the same input among the live version's."""
    names = [spec.name for spec in live.inputs]
    return [names.index(spec.name) for spec in shadow.inputs]


def _logits_shape(signature: Signature) -> tuple[int | None, ...]:
    assert signature.heads is not None, "asked only of classifiers"  # noqa: S101  an invariant, not a check
    return next(spec.shape for spec in signature.outputs if spec.name == signature.heads.logits)


def _fit(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes can be the same; None is any size."""
    return len(one) == len(other) and all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))


def _kind(sample: _Sample) -> tuple[bool, *tuple[tuple[int, ...], ...]]:
    return (sample.raw, *[array.shape[1:] for array in (*sample.inputs, sample.logits)])


def _bytes(element: object) -> int:
    """What an element takes; a picture's pixels are an array that lies in a message."""
    return element.nbytes if isinstance(element, np.ndarray) else sys.getsizeof(element)


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
