"""A memory budget: how many bytes of messages, of all connections together, are held at one time."""

_LARGE, _MEDIUM = 1024, 16384


class Budget:
    """Bytes that may be held, and those that are; used by one thread only.

    Large messages leave an eighth of it to others, and medium ones a sixty-fourth, so that who sends a few large ones
    does not lock out everybody who sends small ones. Large is more than a 1024th of the budget, medium more than a
    16384th.

    Args:
        limit: the most bytes held.
    """

    __slots__ = ("_for_large", "_for_medium", "_large", "_medium", "limit", "peak", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._large, self._for_large = limit // _LARGE, limit - limit // 8
        self._medium, self._for_medium = limit // _MEDIUM, limit - limit // 64
        self.used = 0
        self.peak = 0
        """The most that was used since somebody set this back."""

    def take(self, size: int) -> bool:
        """Hold `size` more bytes; False, and nothing changes, if they are more than there is room for."""
        used = self.used + size
        if used > self.limit:
            return False
        if size > self._medium and used > (self._for_large if size > self._large else self._for_medium):
            return False
        self.used = used
        if used > self.peak:  # noqa: PLR1730  for each message; max() takes four times as long
            self.peak = used
        return True

    def fits(self, size: int) -> bool:
        """Whether a large message of so many bytes finds room now; from any thread, so that soon it may be otherwise."""
        return self.used + size <= self._for_large

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes could be held if nothing else were."""
        return size <= self._for_large

    @property
    def largest(self) -> int:
        """The most bytes that can be held for one message."""
        return self._for_large

    def give(self, size: int) -> None:
        """Hold `size` bytes less."""
        self.used -= size
