"""The watchdog: one thread that looks at the clock for the runs of all models, and gives memory back after a peak.

What it watches only writes down when a run begins. A run that takes too long is told to end; one that does not end is given
up by the batcher that waits for it.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from weakref import WeakSet

import structlog

from frostline_server.runtime.session import Session

PERIOD_S = 0.25
"""Time between two looks, in seconds."""
_PAUSE_S = 10 * PERIOD_S
"""After a longer time without a look, the process was stopped, and what ran then has lost that time."""

_log = structlog.get_logger(__name__)


class Watched(Protocol):
    """What has runs."""

    def look(self, now_s: float, since_s: float) -> None:
        """Act on runs that have taken too long, as of `now_s`; time before `since_s` does not count."""
        ...


class Watchdog:
    """Watches until it is closed, and keeps nothing alive that it watches.

    Args:
        clock: gives seconds; of the same clock as the times of runs.

    Attributes:
        idle: called with the time after each look, for what else is to be done now and then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.idle: Callable[[float], object] = lambda _: None
        self._lock = threading.Lock()
        self._sessions: WeakSet[Session] = WeakSet()
        self._others: WeakSet[Watched] = WeakSet()
        self._looked_s = self._since_s = -math.inf
        self._defects: set[type[Exception]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking; does not wait for a look in progress."""
        self._stop.set()

    @property
    def looking(self) -> bool:
        """Whether its thread has not ended; it may be in ONNX Runtime, to have memory given back."""
        return self._thread.is_alive()

    def watch_session(self, session: Session) -> Session:
        """Watch the runs of a session, whoever runs it; returns it."""
        with self._lock:
            self._sessions.add(session)
        return session

    def watch(self, watched: Watched) -> None:
        """Look at something else that has runs."""
        with self._lock:
            self._others.add(watched)

    def sessions(self) -> list[Session]:
        """The sessions that are watched."""
        with self._lock:
            return list(self._sessions)

    def look(self) -> None:
        """Look at everything once."""
        now_s = self._clock()
        if now_s - self._looked_s > _PAUSE_S:
            self._since_s = now_s
        self._looked_s = now_s
        with self._lock:
            watched: Iterable[Watched] = [*[session.limit for session in self._sessions], *self._others]
        for one in watched:
            self._try(one.look, now_s, self._since_s)
        self._try(self.idle, now_s)

    def end_runs(self) -> int:
        """Tell all runs to end, because the process does; returns how many there still are."""
        return sum([session.limit.end_all() for session in self.sessions()])

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.look()

    def _try(self, look: Callable[..., object], *times_s: float) -> None:
        """A defect at one model must not leave the others unwatched."""
        try:
            look(*times_s)
        except Exception as error:  # noqa: BLE001  as the docstring says
            # Once for each kind, because the next look would bring it again.
            if type(error) not in self._defects:
                self._defects.add(type(error))
                _log.exception("the watchdog failed")
