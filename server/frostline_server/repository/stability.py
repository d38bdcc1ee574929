"""The stability check: whether a version's files have stopped changing.

It keeps the server from loading a version whose files are still being copied.
"""

import math
from collections.abc import Callable, Set

from frostline_server.repository.plan import Fingerprint

SETTLE_S = 1.0
"""How long files without a proof of completeness must stay unchanged."""

Key = tuple[str, int]
"""A model's name and a version's number, or 0 for the model's folder."""


class StabilityCheck:
    """Remembers how long files have been unchanged.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Fingerprints, and when each was first seen.
        self._seen: dict[Key, tuple[Fingerprint, float]] = {}
        self._first = True
        self._asked: set[Key] = set()

    def settled(self, key: Key, files: Fingerprint) -> bool:
        """Whether files are complete: they were there at the first scan, were proved, or have not changed for a while.

        Args:
            key: the version that the files belong to.
            files: their fingerprint.
        """
        now_s, seen = self._clock(), self._seen.get(key)
        if seen is None or seen[0] != files:
            # Whatever the first scan finds counts as complete.
            seen = self._seen[key] = files, -math.inf if self._first else now_s
        return now_s - seen[1] >= SETTLE_S

    def trust(self, key: Key, files: Fingerprint) -> None:
        """Count files as complete for as long as they do not change."""
        if self._seen.get(key) != (files, -math.inf):
            self._seen[key] = files, -math.inf

    def prove(self, key: Key, files: Fingerprint, whole: Callable[[], bool]) -> bool:
        """Whether files prove that they are complete, and so need not settle.

        Args:
            key: as for `settled`.
            files: as for `settled`.
            whole: returns whether the files prove it. It is called once for each key: to read a growing file at every
                scan would take too long.
        """
        if key in self._asked:
            return False
        self._asked.add(key)
        if not whole():
            return False
        self.trust(key, files)
        return True

    def looked(self, present: Set[Key]) -> None:
        """End a scan, and forget the keys that were not `present` in it."""
        for gone in self._seen.keys() - present:
            del self._seen[gone]
        self._asked &= present
        self._first = False
