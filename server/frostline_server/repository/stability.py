"""The stability check: whether a version's files have stopped changing.

A version whose files are still being copied must not be loaded.
"""

import math
from collections.abc import Callable, Set

from frostline_server.repository.plan import Fingerprint

SETTLE_S = 1.0
"""How long files that do not prove that they are whole have to stay as they are."""

Key = tuple[str, int]
"""A model's name and a version's number."""


class StabilityCheck:
    """Remembers since when files are as they are.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Files that were first seen, and when; None before the first look, when nobody is believed to be writing.
        self._seen: dict[Key, tuple[Fingerprint, float]] | None = None

    def settled(self, key: Key, files: Fingerprint, whole: Callable[[], bool]) -> bool:
        """Whether files are all there.

        Args:
            key: whose they are.
            files: what they are.
            whole: tells whether they prove it themselves; asked once.
        """
        if self._seen is None:
            return True
        now_s, seen = self._clock(), self._seen.get(key)
        if seen is None and whole():
            seen = files, -math.inf
        elif seen is None or seen[0] != files:
            # Whether they are whole is not asked again: to read a file that grows at every look would take for ever.
            seen = files, now_s
        self._seen[key] = seen
        return now_s - seen[1] >= SETTLE_S

    def looked(self, present: Set[Key]) -> None:
        """A look is over; what was not `present` in it is forgotten."""
        self._seen = {key: seen for key, seen in (self._seen or {}).items() if key in present}
