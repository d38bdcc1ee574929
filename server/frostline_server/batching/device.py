"""A device as the batcher sees it: what is called for a batch, its thread, and the batch that it runs now."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from frostline_server.batching.assembler import Assembler
from frostline_server.batching.entry import Entry

Array = np.ndarray[Any, Any]
Afterwards = Callable[[], None] | None
"""What is left to do with a batch after its run, such as to count it; called at most once, by the same thread, and after the
answers unless they must wait for their turn."""
Run = Callable[[list[Array], tuple[str, ...]], tuple[list[Array], Afterwards]]
"""Takes one array for each input, [rows, ...], and names of outputs; returns an array [rows, ...] for each name, and what
is to be done afterwards. The inputs are only lent: neither may keep them."""

Answers = list[Callable[[], None]]
"""What gives answers that wait for their turn."""

NEVER = math.inf
"""When what does not run began."""
NOTHING: list[Entry] = []
"""The batch of a device that is idle."""


class Device:
    """What one device thread runs with; in `Batcher`'s list of those asleep exactly while nobody uses it.

    Attributes:
        run: computes a batch.
        assembler: makes its inputs.
        wake: a held lock; releasing it wakes the thread.
        batch: what it runs; empty while it is idle.
        turn: of that batch, where answers leave in order.
        answers: those of the batch that wait for its turn.
        began_s: when a run began, on the `time.monotonic` clock; infinity while none is under way.
        thread: its own thread.
        lent: whether another thread than its own runs the batch.
        hangs: whether the run was given up; it may still return.
        replaced: whether another device has taken its place then.
    """

    __slots__ = (
        "answers",
        "assembler",
        "batch",
        "began_s",
        "hangs",
        "lent",
        "replaced",
        "run",
        "thread",
        "turn",
        "wake",
    )

    def __init__(self, run: Run, *, batched: bool, uncast: frozenset[int] = frozenset()) -> None:
        self.run = run
        self.assembler = Assembler(batched=batched, uncast=uncast)
        self.wake = threading.Lock()
        self.wake.acquire()
        self.thread = threading.current_thread()
        self.batch = NOTHING
        self.turn: int | None = None
        self.answers: Answers | None = None
        self.began_s = NEVER
        self.lent = self.hangs = self.replaced = False
