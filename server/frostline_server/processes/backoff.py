"""Exponential backoff: how long to wait before something that failed is tried again."""


class Backoff:
    """The waits before restarts; one that comes after a long life is immediate.

    Args:
        first_s: the wait after the first failure, in seconds; it doubles with each that follows.
        most_s: the longest wait.
        steady_s: how long something must have run so that earlier failures no longer count.
    """

    def __init__(self, first_s: float = 0.5, most_s: float = 30.0, steady_s: float = 60.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._steady_s = steady_s
        self._next_s = first_s

    def wait_s(self, lived_s: float) -> float:
        """Count a failure.

        Args:
            lived_s: how long it ran before, in seconds.

        Returns:
            How long to wait, in seconds.
        """
        if lived_s >= self._steady_s:
            self._next_s = self._first_s
            return 0.0
        wait_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return wait_s
