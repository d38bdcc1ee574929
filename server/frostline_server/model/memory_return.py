"""The return of memory after exceptional runs: ONNX Runtime and the C library keep what a large run took for the next one.

Nothing is paid for it by runs: models are looked at now and then, and one gives memory back only once its long runs are over,
so that a model whose usual runs are large keeps what it needs.
"""

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

LONG_S = 0.02
"""A run that takes this long may have taken memory worth giving back: to touch 64 MiB takes about as long."""
QUIET_S = 2.0
"""How long a model has had no such run when it gives memory back."""
RISE_BYTES = 16 << 20
"""So much more memory than there was is given back too if no long run was seen."""
PAUSE_S = 5.0
"""The least time between two times that this is done."""
TRIES = 30
"""How often it is done again while memory has not come back: answers that nobody reads hold what they are in for minutes."""
_M_ARENA_MAX = -8  # as in glibc's malloc.h


class Keeper(Protocol):
    """A session, as far as its memory is concerned."""

    def longest_s(self, now_s: float) -> float:
        """How long the run has taken that has gone on for longest, in seconds; 0 without one."""
        ...

    def shrink(self) -> None:
        """Give back what no run uses."""
        ...


def resident_bytes() -> int:
    """The memory of this process, in bytes; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def use_one_heap() -> None:
    """Have all threads that are yet to start take memory from one heap; once, before they do.

    Of the heaps that glibc makes for threads, it never returns what is free at their end, up to 64 MiB of each.
    """
    set_option = _of_the_c_library("mallopt")
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Have the C library return what is free."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_the_c_library(name: str) -> Callable[..., int] | None:
    """One of glibc's functions; musl and macOS have none of those used here, and need none."""
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found


class MemoryReturn:
    """Gives memory back; called by one thread.

    Args:
        keepers: the sessions.
        resident: the process's memory, in bytes.
        trim: has the C library return what the sessions gave to it.
        held: bytes of messages in flight. Large answers lie in what a session's runs took, and hold it until they have left.
    """

    def __init__(
        self,
        keepers: Callable[[], Sequence[Keeper]],
        resident: Callable[[], int] = resident_bytes,
        trim: Callable[[], None] = trim_heap,
        held: Callable[[], int] = lambda: 0,
    ) -> None:
        self._keepers = keepers
        self._resident = resident
        self._trim = trim
        self._held = held
        # What was held the last time that memory was given back.
        self._held_then = 0
        self._long_s: WeakKeyDictionary[Keeper, float] = WeakKeyDictionary()
        # Those that have given back less than was taken, how often they are still asked, and what there was before.
        self._again: WeakKeyDictionary[Keeper, tuple[int, float]] = WeakKeyDictionary()
        self._least = math.inf
        self._next_s = -math.inf

    def look(self, now_s: float) -> None:
        """Have those sessions give memory back that should, at this time on a monotonic clock."""
        keepers = self._keepers()
        for keeper in keepers:
            if keeper.longest_s(now_s) >= LONG_S:
                self._long_s[keeper] = now_s
        over = [keeper for keeper in keepers if now_s - self._long_s.get(keeper, now_s) >= QUIET_S]
        resident = self._resident()
        self._least = min(self._least, resident)
        left_bytes = self._held_then - self._held()
        if now_s >= self._next_s and max(resident - self._least, left_bytes) >= RISE_BYTES:
            over = [keeper for keeper in keepers if now_s - self._long_s.get(keeper, -math.inf) >= QUIET_S]
        elif now_s >= self._next_s:
            over += [keeper for keeper in keepers if keeper in self._again and keeper not in over]
        if not over:
            return
        self._held_then = self._held()
        for keeper in over:
            keeper.shrink()
            if self._long_s.pop(keeper, None) is not None:
                self._again.setdefault(keeper, (TRIES, self._least))
        self._trim()
        left = self._resident()
        for keeper in over:
            tries, least = self._again.pop(keeper, (0, left))
            if tries and left - least >= RISE_BYTES:
                self._again[keeper] = tries - 1, least
        # What is still there then is needed, as far as is known.
        self._least, self._next_s = left, now_s + PAUSE_S
