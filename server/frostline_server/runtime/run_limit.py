"""The time limit of a session's runs: one that takes too long is told to end, by ONNX Runtime's `RunOptions.terminate`.

A run costs two looks at the clock and no lock. ONNX Runtime looks at the mark between two operators, in the body of a loop
too, so a run ends at once unless a single operator keeps it.
"""

import math
import time
from collections.abc import Callable
from typing import Any


class TimedRun:
    """One run at a time, and the options it runs with.

    Attributes:
        options: ONNX Runtime's `RunOptions`.
        began_s: when it began, on the `time.monotonic` clock; infinity while nothing runs.
    """

    __slots__ = ("began_s", "options")

    def __init__(self, options: Any) -> None:
        self.options = options
        self.began_s = math.inf


class RunLimit:
    """The runs of one session, which may go side by side.

    Args:
        limit_s: how long one may take, in seconds.
        options: makes options for runs.

    Attributes:
        stopped: whether all were told to end, because the process does.
    """

    def __init__(self, limit_s: float, options: Callable[[], Any]) -> None:
        self.limit_s = limit_s
        self._options = options
        self._idle: list[TimedRun] = []
        self._known: list[TimedRun] = []
        self.stopped = False

    def begin(self) -> TimedRun:
        """A run begins; whoever runs it tells its `end`."""
        try:
            run = self._idle.pop()
        except IndexError:
            run = TimedRun(self._options())
            self._known.append(run)
        run.began_s = time.monotonic()
        return run

    def end(self, run: TimedRun) -> bool:
        """A run has ended.

        Returns:
            Whether it took longer than the limit, so that it may have been told to end.
        """
        began_s, run.began_s = run.began_s, math.inf
        # In this order: whoever was seen to be late below is late here as well, and its options, which may be marked at any
        # moment, are not used again.
        if time.monotonic() > began_s + self.limit_s:
            self._known.remove(run)
            return True
        self._idle.append(run)
        return False

    def look(self, now_s: float, since_s: float = -math.inf) -> None:
        """Tell runs to end that have taken too long.

        Args:
            now_s: the time, on the `time.monotonic` clock.
            since_s: since when the process has run without a pause; time before that does not count.
        """
        for run in tuple(self._known):
            if now_s > max(run.began_s, since_s) + self.limit_s:
                run.options.terminate = True

    def longest_s(self, now_s: float) -> float:
        """How long the run has taken that has gone on for longest, in seconds; 0 without one."""
        return max([0.0, *[now_s - run.began_s for run in tuple(self._known)]])

    def end_all(self) -> int:
        """Tell every run to end, because the process does; returns how many there are."""
        self.stopped = True
        running = [run for run in tuple(self._known) if run.began_s < math.inf]
        for run in running:
            run.options.terminate = True
        return len(running)
