"""The stability check: whether a version's files have stopped changing.

It keeps the server from loading a version whose files are still being copied.
"""

import math
from collections.abc import Callable, Set

from frostline_server.repository.plan import Fingerprint

SETTLE_S = 1.0
"""How long files without a proof of completeness must stay unchanged."""

Key = tuple[str, int]
"""A model's name and a version's number."""


class StabilityCheck:
    """Remembers how long files have been unchanged.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Fingerprints, and when each was first seen; None before the first scan, when all files count as complete.
        self._seen: dict[Key, tuple[Fingerprint, float]] | None = None

    def settled(self, key: Key, files: Fingerprint, whole: Callable[[], bool]) -> bool:
        """Whether files are complete.

        Args:
            key: the version that the files belong to.
            files: their fingerprint.
            whole: returns whether the files prove that they are complete; called once.
        """
        if self._seen is None:
            return True
        now_s, seen = self._clock(), self._seen.get(key)
        if seen is None and whole():
            seen = files, -math.inf
        elif seen is None or seen[0] != files:
            # `whole` is not called again: to read a growing file at every scan would take too long.
            seen = files, now_s
        self._seen[key] = seen
        return now_s - seen[1] >= SETTLE_S

    def looked(self, present: Set[Key]) -> None:
        """End a scan, and forget the versions that were not `present` in it."""
        self._seen = {key: seen for key, seen in (self._seen or {}).items() if key in present}
