"""The log of a version's failed runs: a line when a kind of failure begins, and one now and then while it goes on.

A client gets every error in its answer. What the operator reads must not grow with the traffic: neither a dead device
nor a client that sends bad data may fill a disk.
"""

import threading
import time
from collections.abc import Callable

import structlog

from frostline_server.errors import InvalidData, PredictionError

PERIOD_S = 10.0
"""The least time between two lines of one version about one kind of failure, in seconds."""

_log = structlog.get_logger(__name__)


class FailureLog:
    """Logs what runs fail on; called from any thread.

    Args:
        model: the model's name.
        version: the version that runs.
        clock: gives seconds.
    """

    def __init__(self, model: str, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._version = version
        self._clock = clock
        self._lock = threading.Lock()
        self._logged_s: dict[str, float] = {}
        self._requests: dict[str, int] = {}

    def __call__(self, error: PredictionError, requests: int) -> None:
        """Log a failure, unless a line about its kind was written a moment ago.

        The line's `requests` are those that failed so since the line before it.

        Args:
            error: what they fail with.
            requests: how many.
        """
        kind = error.kind
        with self._lock:
            now = self._clock()
            total = self._requests[kind] = self._requests.get(kind, 0) + requests
            if now < self._logged_s.get(kind, -PERIOD_S) + PERIOD_S:
                return
            self._logged_s[kind], self._requests[kind] = now, 0
        # What a client sent is no fault of the server.
        log = _log.info if isinstance(error, InvalidData) else _log.error
        log("run failed", model=self._model, version=self._version, kind=kind, requests=total, reason=str(error))
