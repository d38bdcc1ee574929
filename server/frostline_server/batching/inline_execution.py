"""Inline execution: when a front end's thread runs a batch itself, instead of waking a device's thread for it.

The one rule: a thread that submits runs a batch itself while a device is idle and the last run of as many rows of that
shape was brief; inline runs that turn out long suspend this, for that model, for a hundred times as long.
"""

import math

from frostline_server.batching.request_queue import Shapes

BRIEF_S = 0.0005
"""A run of no more than this costs a front end, which reads nothing meanwhile, less than waking another thread does."""

LONG_S = 10 * BRIEF_S
SUSPENSION = 100
"""Inline runs of more than `LONG_S` suspend inline execution for this many times as long. How long a run takes may depend on
the elements, which nobody can foresee; so it costs a front end a hundredth of its time at most."""
CREDIT_S = SUSPENSION * 2 * LONG_S
"""So long a suspension is waived, once: what made a run long may have been another thread, which took the interpreter or the
core, and says nothing of the next run."""


class InlineExecution:
    """Decides from the run times of one model. It knows no clock, and may be told of runs without a lock.

    Args:
        max_rows: the most rows of a batch.
        enabled: False where batches wait for more rows, so that no batch is run as soon as it is submitted.
    """

    def __init__(self, max_rows: int, *, enabled: bool) -> None:
        self._max_rows = max_rows
        # The shape of the latest run, and the most rows of that shape that are known to run briefly, infinity once a full
        # batch is. One object, because several threads write and read it.
        self._brief: tuple[Shapes, float] = (), 0
        self._suspended_until_s = -math.inf if enabled else math.inf

    def allows(self, rows: int, shapes: Shapes, now: float) -> bool:
        """Whether the thread that submits may run a batch of what waits, if a device is idle.

        Args:
            rows: how many wait.
            shapes: of one row of the batch.
            now: on the `time.monotonic` clock.
        """
        known, brief_rows = self._brief
        return rows <= brief_rows and now >= self._suspended_until_s and shapes == known

    def ran(self, rows: int, shapes: Shapes, seconds: float) -> None:
        """A batch ran, in any thread, and took so long on the device."""
        known, brief_rows = self._brief
        if shapes != known:
            brief_rows = 0
        if seconds > BRIEF_S:
            brief_rows = min(brief_rows, rows - 1)
        elif rows > brief_rows:
            brief_rows = rows if rows < self._max_rows else math.inf
        self._brief = shapes, brief_rows

    def held(self, from_s: float, until_s: float) -> None:
        """A front end's thread was held by a batch it ran; on the `time.monotonic` clock."""
        held_s = until_s - from_s
        if held_s > LONG_S:
            self._suspended_until_s = max(self._suspended_until_s, until_s - CREDIT_S) + SUSPENSION * held_s
