"""One execution of a target under watch: counted, timed, and kept where another process finds it if this one dies."""

import mmap
import struct
import time
from pathlib import Path

from bench.fuzz.oracle import Found
from bench.fuzz.readers.target import Check

HANGS_S = 1.0
"""CPU time of one execution; of wall time, a busy machine may take any."""

_HEAD = struct.Struct("<QQ")
_LARGEST = 1 << 20


class Watch:
    """Runs inputs through a target.

    Args:
        check: of the target.
        board: a file that always has the number of executions, and the input of the last one that began.

    Attributes:
        executions: how many have ended.
        slowest_s: CPU time of the longest.
    """

    def __init__(self, check: Check, board: Path) -> None:
        self._check = check
        with board.open("w+b") as file:
            file.truncate(_HEAD.size + _LARGEST)
            self._board = mmap.mmap(file.fileno(), 0)
        self.executions = 0
        self.slowest_s = 0.0

    def run(self, data: bytes) -> None:
        """Run one input.

        Raises:
            Exception: whatever the target raises, and `Found` if it took too long.
        """
        self._board[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._board, 0, self.executions, len(data))
        began_s = time.thread_time()
        self._check(data)
        took_s = time.thread_time() - began_s
        self.executions += 1
        if took_s > self.slowest_s:
            self.slowest_s = took_s
            if took_s > HANGS_S:
                raise Found(f"it took {took_s:.1f} s", data)


def last_seen(board: Path) -> tuple[int, bytes]:
    """How many executions have ended, and the input of the one that began last; (0, b"") before the first."""
    try:
        with board.open("rb") as file:
            ended, size = _HEAD.unpack(file.read(_HEAD.size))
            return ended, file.read(size)
    except (FileNotFoundError, struct.error):
        return 0, b""
