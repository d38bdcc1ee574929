"""Returns memory to the operating system after a peak: Python and the C library keep what was freed within their heaps."""

import gc
from collections.abc import Callable

from frostline_server.model.memory_return import trim_heap

_WORTH_BYTES = 8 << 20
_WORTH_CALLS = 1000
"""Calls and connections that have ended, from which on what they left is worth looking for."""
_PAUSE_S = 5.0


class Trim:
    """Gives freed memory back once a peak is over, and no more often than every few seconds.

    Args:
        trim: does it.
    """

    def __init__(self, trim: Callable[[], object]) -> None:
        self._trim = trim
        self._peak = 0
        self._most = 0
        self._next_s = 0.0

    def look(self, now_s: float, peak: int, open_now: int) -> bool:
        """Give memory back if much was held since the last time, and little is now.

        Args:
            now_s: the time, on a monotonic clock.
            peak: the most bytes of messages held since the last look, those held now included.
            open_now: connections and calls that are open.

        Returns:
            Whether it was given back.
        """
        self._peak, self._most = max(self._peak, peak), max(self._most, open_now)
        messages = self._peak - peak >= max(_WORTH_BYTES, self._peak // 2)
        calls = self._most - open_now >= max(_WORTH_CALLS, self._most // 2)
        if now_s < self._next_s or not (messages or calls):
            return False
        self._next_s = now_s + _PAUSE_S
        self._peak, self._most = peak, open_now
        self._trim()
        return True


def give_back() -> None:
    """Collect garbage, and have the C library return what is free; in a thread that nobody waits for."""
    gc.collect()
    trim_heap()
