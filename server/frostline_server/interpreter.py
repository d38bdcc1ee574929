"""How the interpreter is set for a server: its threads hold up one another as briefly as they can.

What is set holds for the whole process; `leave` is for one that goes on without a server.
"""

import gc
import sys

_TURN_S = 0.0005
"""How long a thread keeps the interpreter while others wait for it; Python's own choice is 5 ms."""
_USUAL_S = sys.getswitchinterval()


def share() -> None:
    """Have threads take short turns."""
    sys.setswitchinterval(min(_TURN_S, sys.getswitchinterval()))


def settle() -> None:
    """Keep all that there is now, such as loaded models, out of garbage collection."""
    gc.collect()
    gc.freeze()


def leave() -> None:
    """Have threads take the turns that they took before."""
    sys.setswitchinterval(_USUAL_S)
