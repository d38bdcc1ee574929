"""How long a thread may keep Python's interpreter to itself while others wait for it (its switch interval).

The server's usual turns (`interpreter`) are little to wait once. But while the event loop's thread is busy, with HTTP or
with gRPC's methods other than inference, the thread of gRPC's front end waits so long for every step, and answers a part of
what it could; with Python's own 5 ms, a tenth. Shorter turns cost each up to a tenth, so they are for those times only: from
the begin of an HTTP request on, and until none is open and the thread mostly waits.
"""

import asyncio
import sys
import time
from collections.abc import Callable

_BUSY = 0.1
"""Of the thread's time. Inference over gRPC takes none of it."""
_SHORT_S = 0.0001
_LOOK_S = 0.1
"""How often it is looked how busy the thread is, in seconds."""


class Turns:
    """Shortens the turns of all threads while the event loop's is busy, or may soon be.

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
        self._timer: asyncio.TimerHandle | None = None

    def start(self, asked: Callable[[], bool]) -> None:
        """Look every now and then from now on; on the event loop, as everything here.

        Args:
            asked: whether there are HTTP requests.
        """
        self.look(time.monotonic(), time.thread_time(), asked=asked())
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self.start, asked)

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
            asked: whether there are HTTP requests.
        """
        before, self._seen = self._seen, (now_s, used_s)
        if before is None or now_s <= before[0]:
            return
        if asked or used_s - before[1] > _BUSY * (now_s - before[0]):
            self.begin()
        else:
            self._lengthen()

    def stop(self) -> None:
        """Look no more; they are as long as they were."""
        if self._timer is not None:
            self._timer.cancel()
        self._lengthen()

    def _lengthen(self) -> None:
        if self._short:
            self._short = False
            self._change(self._usual_s)
