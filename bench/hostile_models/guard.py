"""The guard of the machine: it kills a server whose memory, with that of all its processes, passes a limit."""

import os
import signal
import threading
from contextlib import suppress
from types import TracebackType

from bench.measure import process


class Guard:
    """Watches a server for as long as a `with` block.

    Args:
        pid: its process.
        most_mib: the limit.

    Attributes:
        peak_mib: the most that was seen, of the server and its processes.
        killed: whether it was killed.
    """

    def __init__(self, pid: int, most_mib: float) -> None:
        self.peak_mib = 0.0
        self.killed = False
        self._pid = pid
        self._most_mib = most_mib
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-guard", daemon=True)

    def __enter__(self) -> "Guard":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.2):
            now_mib = process.whole_mib([self._pid, *process.descendants(self._pid)])
            self.peak_mib = max(self.peak_mib, now_mib)
            if now_mib > self._most_mib:
                self.killed = True
                for each in [self._pid, *process.descendants(self._pid)]:
                    with suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)
                return
