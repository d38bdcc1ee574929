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

    Once more a while later, as some of it is only freed meanwhile, and small things that were in its way have gone.

    Args:
        trim: does it; is told how many calls and connections are open.
    """

    def __init__(self, trim: Callable[[int], object]) -> None:
        self._trim = trim
        self._peak = 0
        self._most = 0
        self._next_s = 0.0
        self._again = False

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
        if now_s < self._next_s or not (messages or calls or self._again):
            return False
        self._again = messages or calls
        self._next_s = now_s + _PAUSE_S
        self._peak, self._most = peak, open_now
        self._trim(open_now)
        return True


def give_back(open_now: int) -> None:
    """Collect garbage, and have the C library return what is free; in a thread that nobody waits for.

    Args:
        open_now: how many calls and connections are open; with many, the collector would hold up all other threads.
    """
    if open_now < _WORTH_CALLS:
        gc.collect()
    trim_heap()
