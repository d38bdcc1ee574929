"""How the interpreter is set for a server: its threads hold up one another as briefly as they can.

What is set holds for the whole process; `leave` is for one that goes on without a server.
"""

import gc
import sys

_TURN_S = 0.0005
"""How long a thread keeps the interpreter while others wait for it; Python's own choice is 5 ms."""
_USUAL_S = sys.getswitchinterval()
_FEW = 50
"""How often the collector looks at all objects, of the times that it looks at those of middle age; Python's own choice is 10,
which is every 70,000 objects that are new and stay. With many calls open it takes 40 ms, while all threads wait."""
_USUAL_COLLECTIONS = gc.get_threshold()


def share() -> None:
    """Have threads take short turns, and the collector of garbage look at all objects seldom."""
    sys.setswitchinterval(min(_TURN_S, sys.getswitchinterval()))
    young, middle, _ = _USUAL_COLLECTIONS
    gc.set_threshold(young, middle, _FEW)


def settle() -> None:
    """Keep all that there is now, such as loaded models, out of garbage collection."""
    gc.collect()
    gc.freeze()


def leave() -> None:
    """Have threads take the turns that they took before, and garbage collected as often."""
    sys.setswitchinterval(_USUAL_S)
    gc.set_threshold(*_USUAL_COLLECTIONS)
