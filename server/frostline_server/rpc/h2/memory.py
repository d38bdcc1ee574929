"""Returns memory to the operating system after a peak: the C library keeps what was freed in the middle of its heap."""

import ctypes
from collections.abc import Callable

_WORTH_BYTES = 32 << 20


class Trim:
    """Gives freed memory back once a peak is over.

    Args:
        trim: does it.
    """

    def __init__(self, trim: Callable[[], object] | None) -> None:
        self._trim = trim

    def look(self, peak: int, used: int) -> bool:
        """Give memory back if `peak` bytes were held, and now only `used` are; returns whether it was worth it."""
        if self._trim is None or peak - used < _WORTH_BYTES or used > peak // 2:
            return False
        self._trim()
        return True


def malloc_trim() -> Callable[[], object] | None:
    """The C library's function for it; None where it has none."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # musl, macOS
        return None
    return lambda: function(0)
