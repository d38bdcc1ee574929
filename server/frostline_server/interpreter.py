"""How the interpreter is set for a server: its threads hold up one another as briefly as they can.

What is set holds for the whole process; `leave` is for one that goes on without a server.
"""

import gc
import sys

_TURN_S = 0.0005
"""How long a thread keeps the interpreter while others wait for it; Python's own choice is 5 ms."""
_NEVER = 2**31 - 1
_USUAL_S, _USUAL = sys.getswitchinterval(), gc.get_threshold()
COLLECT_S = 60.0
"""Seconds between two looks of the garbage collector at everything."""


def share() -> None:
    """Have threads take short turns."""
    sys.setswitchinterval(min(_TURN_S, sys.getswitchinterval()))


def settle() -> None:
    """Keep all that there is now, such as loaded models, out of garbage collection.

    Of the rest, the collector looks by itself at what is new. At everything, for which all threads must wait, it looks when
    it is asked to.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _NEVER)


def leave() -> None:
    """Set all as it was, but for what is kept out."""
    sys.setswitchinterval(_USUAL_S)
    gc.set_threshold(*_USUAL)


class Collector:
    """Has the garbage collector look at everything now and then.

    Args:
        now_s: the time, on a monotonic clock.
    """

    def __init__(self, now_s: float) -> None:
        self._next_s = now_s + COLLECT_S

    def look(self, now_s: float) -> bool:
        """Collect if it is time; whether it was."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + COLLECT_S
        gc.collect()
        return True
