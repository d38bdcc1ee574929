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
        """Take a token and return 0, or take none and return in how many seconds there may be one."""
        wait_s = self._wait_s(now_s)
        if not wait_s:
            self._full_at_s = max(self._full_at_s, now_s) + self._token_s
        return wait_s

    def reserve(self, now_s: float) -> float:
        """Take a token, also one that is still to come, and return in how many seconds it will be there.

        So a stream is read no faster than its caller may send, instead of being refused, and other calls do not keep taking
        what it waits for. Only the first of all that wait may, and whoever gives up gives it back: so nobody owes more.
        """
        wait_s = self._wait_s(now_s)
        self._full_at_s = max(self._full_at_s, now_s) + self._token_s
        return wait_s

    def give_back(self) -> None:
        """Give a token back that was not used."""
        self._full_at_s -= self._token_s

    def _wait_s(self, now_s: float) -> float:
        """In how many seconds there will be a token; 0 if there is one."""
        wait_s = max(self._full_at_s, now_s) - now_s - self._depth_s
        return wait_s if wait_s > 1e-9 else 0.0  # sums of floats are not exact


class Waiting(Protocol):
    """What waits for a token, such as a stream."""

    def woken(self) -> None:
        """A token was taken for it; it waits no more, unless it asks again."""
        ...


class RateQueue:
    """Those who wait for a token, by the limit that it is of: first come, first served; used by one thread only.

    The first of them has a token reserved, and nobody else: however many wait, and however they end, no more is taken from
    those who come after them.

    Args:
        clock: the time in seconds, on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # None of them is empty.
        self._waiting: dict[RateLimit, OrderedDict[Waiting, None]] = {}

    def admit(self, limit: RateLimit, who: Waiting, after: After) -> bool:
        """Take a token, or wait for one behind all who do already; whether it was taken."""
        waiting = self._waiting.get(limit)
        if waiting is not None:
            waiting[who] = None
        elif wait_s := limit.reserve(self._clock()):
            waiting = self._waiting[limit] = OrderedDict({who: None})
            after(wait_s, partial(self._wake, limit, waiting, after))
        else:
            return True
        return False

    def leave(self, limit: RateLimit, who: Waiting) -> None:
        """Wait no more; if it was the first, the next one has its token."""
        waiting = self._waiting[limit]
        del waiting[who]
        if not waiting:
            del self._waiting[limit]
            limit.give_back()

    def _wake(self, limit: RateLimit, waiting: OrderedDict[Waiting, None], after: After) -> None:
        """Wake the first, whose token is there, and all others for whom there are tokens too."""
        for left in reversed(range(_AT_ONCE)):
            if self._waiting.get(limit) is not waiting:
                return  # they have all left
            first, _ = waiting.popitem(last=False)
            wait_s = 0.0
            if waiting:
                wait_s = limit.reserve(self._clock())
            else:
                del self._waiting[limit]
            later = bool(waiting) and (wait_s > 0 or not left)
            try:
                first.woken()
            except BaseException:
                later = bool(waiting)  # a defect in one of them stops no other
                raise
            finally:
                if later:
                    after(wait_s, partial(self._wake, limit, waiting, after))
            if later:
                return
