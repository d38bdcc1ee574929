"""How long a thread may keep Python's interpreter to itself while others wait for it (its switch interval).

The server's usual turns (`interpreter`) are little to wait once. But while HTTP keeps its thread busy, that of the other
front end waits so long for every step, and answers a part of what it could; with Python's own 5 ms, a tenth. Shorter turns
cost each up to a tenth, so they are for those times only: from the begin of a request on, and until nobody asks and the
thread mostly waits.
"""

import sys
from collections.abc import Callable

_BUSY = 0.4
"""Of a thread's time."""
_SHORT_S = 0.0001


class Turns:
    """Shortens the turns of all threads while one of them is busy, or may soon be.

    Args:
        usual_s: how long they are otherwise.
        change: sets how long they are.
    """

    def __init__(
        self,
        usual_s: float | None = None,
        change: Callable[[float], None] = sys.setswitchinterval,
    ) -> None:
        self._usual_s = sys.getswitchinterval() if usual_s is None else usual_s
        self._change = change
        self._short = False
        self._seen: tuple[float, float] | None = None

    def begin(self) -> None:
        """Make them short: there is something to do."""
        if not self._short:
            self._short = True
            self._change(min(_SHORT_S, self._usual_s))

    def look(self, now_s: float, used_s: float, *, asked: bool = False) -> None:
        """Look how busy the thread was since the last time.

        Args:
            now_s: the time on a monotonic clock.
            used_s: the processor time that the thread has taken so far.
            asked: whether there are requests.
        """
        before, self._seen = self._seen, (now_s, used_s)
        if before is None or now_s <= before[0]:
            return
        if asked or used_s - before[1] > _BUSY * (now_s - before[0]):
            self.begin()
        else:
            self.end()

    def end(self) -> None:
        """Make them as long as they were."""
        if self._short:
            self._short = False
            self._change(self._usual_s)
