"""How much of a client is read at a time, so that none holds up the others: some bytes mean much more work than others.

What a client sends may take `LONG_S` in a turn, or less of it is read in the next. Clients whose last read was not brief
share that time, so that many of them are no worse than one; first comes who has taken least of late.
"""

LONG_S = 0.003
MOST_BYTES = 1 << 18
_FIRST_BYTES, _LEAST_BYTES = 1 << 14, 1 << 10


class Share:
    """What one client takes of the front end's time.

    Attributes:
        appetite: bytes read of it in a turn.
        busy: whether the last read was not brief.
    """

    __slots__ = ("_last_s", "_spent_s", "appetite", "busy")

    def __init__(self) -> None:
        self.appetite = _FIRST_BYTES
        self.busy = False
        # How much time the reads that were not brief have taken, and when the last one began.
        self._spent_s = 0.0
        self._last_s = 0.0

    def took(self, size: int, begun_s: float, ended_s: float) -> None:
        """So many bytes were read and worked on, from then to then on a monotonic clock."""
        took_s = ended_s - begun_s
        self.busy = took_s > LONG_S / 3
        if self.busy:
            self._spent_s, self._last_s = self.spent_s(begun_s) + took_s, begun_s
        if took_s > LONG_S:
            self.appetite = max(_LEAST_BYTES, self.appetite // 4)
        elif size == self.appetite and took_s < LONG_S / 2:
            self.appetite = min(MOST_BYTES, 2 * size)

    def spent_s(self, now_s: float) -> float:
        """How much time it has taken of late; half of it is forgotten every second."""
        spent_s: float = self._spent_s * 0.5 ** (now_s - self._last_s)
        return spent_s
