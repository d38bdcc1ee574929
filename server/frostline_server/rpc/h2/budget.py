"""A memory budget: how many bytes of messages, of all connections together, are held at one time."""


class Budget:
    """Bytes that may be held, and those that are; used by one thread only.

    Args:
        limit: the most bytes held.
    """

    __slots__ = ("limit", "peak", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        """The most that was used since somebody set this back."""

    def take(self, size: int) -> bool:
        """Hold `size` more bytes; False, and nothing changes, if they are more than there is room for."""
        used = self.used + size
        if used > self.limit:
            return False
        self.used = used
        self.peak = max(self.peak, used)
        return True

    def give(self, size: int) -> None:
        """Hold `size` bytes less."""
        self.used -= size
