"""A token bucket: so many requests a second in the long run, and so many at once."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from frostline_server.errors import RateLimited

_AT_ONCE = 16
"""Requests that are taken in one go, where there are tokens for more; then others have their turn."""

After = Callable[[float, Callable[[], None]], None]
"""Runs a function after some seconds."""


class RateLimit:
    """The requests of one identity.

    It holds one number, the time at which the bucket is full again (the generic cell rate algorithm), and no lock: two
    threads that ask in the same instant may both be let in by the last token.

    Args:
        requests_per_s: how many tokens the bucket gets a second; each request takes one.
        burst: how many tokens it holds, at least 1.
    """

    def __init__(self, requests_per_s: float, burst: float) -> None:
        self.requests_per_s = requests_per_s
        self._token_s = 1 / requests_per_s
        # A bucket that lacks more than this much time of tokens has less than one.
        self._depth_s = (burst - 1) * self._token_s
        self._full_at_s = -math.inf

    def admit(self, now_s: float) -> None:
        """Take a token.

        Args:
            now_s: the time on any monotonic clock, always the same.

        Raises:
            RateLimited: there is none; the error says in how many milliseconds there will be one.
        """
        if wait_s := self.take(now_s):
            raise RateLimited(
                f"this caller may send {self.requests_per_s:g} requests a second; send less, or ask the operator to raise "
                "`requests_per_s` in the access file",
                pushback_ms=math.ceil(wait_s * 1000),
            )

    def take(self, now_s: float) -> float:
        """Take a token and return 0, or take none and return in how many seconds there may be one.

        A stream asks again then, so that it is read no faster than its caller may send, instead of being refused. None is
        taken before it is there: whoever gives up waiting owes nothing, and nobody else waits for that.
        """
        full_at_s = max(self._full_at_s, now_s)
        wait_s = full_at_s - now_s - self._depth_s
        if wait_s > 1e-9:  # sums of floats are not exact
            return wait_s
        self._full_at_s = full_at_s + self._token_s
        return 0.0


class Waiting(Protocol):
    """What waits for a token, such as a stream."""

    def woken(self) -> None:
        """A token was taken for it; it waits no more, unless it asks again."""
        ...


class RateQueue:
    """Those who wait for a token, by the limit that it is of: first come, first served; used by one thread only.

    Only once for all who wait for the same the time is looked at, and a token is taken only once it is there: however many
    wait, and however they end, nothing is taken from those who come after them.

    Args:
        clock: the time in seconds, on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[RateLimit, OrderedDict[Waiting, None]] = {}

    def admit(self, limit: RateLimit, who: Waiting, after: After) -> bool:
        """Take a token, or wait for one behind all who do already; whether it was taken."""
        waiting = self._waiting.get(limit)
        if waiting is not None:
            waiting[who] = None
        elif wait_s := limit.take(self._clock()):
            self._waiting[limit] = OrderedDict({who: None})
            self._look_again(limit, after, wait_s)
        else:
            return True
        return False

    def leave(self, limit: RateLimit, who: Waiting) -> None:
        """Wait no more."""
        self._waiting[limit].pop(who)

    def _look_again(self, limit: RateLimit, after: After, wait_s: float) -> None:
        after(wait_s, partial(self._look, limit, after))

    def _look(self, limit: RateLimit, after: After) -> None:
        waiting, wait_s = self._waiting[limit], 0.0
        try:
            for _ in range(_AT_ONCE):
                if not waiting or (wait_s := limit.take(self._clock())):
                    break
                waiting.popitem(last=False)[0].woken()
        finally:
            # Also after a defect in one of them, or all others would wait for ever.
            if waiting:
                self._look_again(limit, after, wait_s)
            else:
                del self._waiting[limit]
