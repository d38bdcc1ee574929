"""A token bucket: so many requests a second in the long run, and so many at once."""

import math

from frostline_server.errors import RateLimited


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
        full_at_s = max(self._full_at_s, now_s)
        wait_s = full_at_s - now_s - self._depth_s
        if wait_s > 1e-9:  # sums of floats are not exact
            raise RateLimited(
                f"this caller may send {self.requests_per_s:g} requests a second; send less, or ask the operator to raise "
                "`requests_per_s` in the access file",
                pushback_ms=math.ceil(wait_s * 1000),
            )
        self._full_at_s = full_at_s + self._token_s

    def reserve(self, now_s: float) -> float:
        """Take a token, also one that is still to come, and return in how many seconds it will be there.

        So a stream is read no faster than its caller may send, instead of being refused.
        """
        full_at_s = max(self._full_at_s, now_s)
        self._full_at_s = full_at_s + self._token_s
        return max(0.0, full_at_s - now_s - self._depth_s)
