"""The trial queue: the versions that are to be tried in a child process, and a thread that tries one after the other.

What has passed so far comes first: a model whose trial ended its child waits behind those that have done nothing of the
kind, however many versions it has.
"""

import threading
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import structlog

from frostline_server.model.trial import Outcome
from frostline_server.repository.plan import Fingerprint
from frostline_server.repository.stability import Key

Run = Callable[[Callable[[], bool]], Outcome]
"""Tries a version; its argument says whether it is wanted no more."""


_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Trial:
    name: str
    files: Fingerprint
    run: Run
    started: bool = False
    given_up: bool = False
    outcome: Outcome | None = None

    def unwanted(self) -> bool:
        return self.given_up


class TrialQueue:
    """Tries versions, one at a time. Its methods may be called from any thread; only `join` waits.

    There is a thread only while there is something to try.

    Args:
        ended: called from that thread with a model's name when a trial of it has an outcome.
    """

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        # By model and number, in the order in which they came.
        self._trials: dict[str, dict[int, _Trial]] = {}
        self._ends: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, key: Key, files: Fingerprint, run: Run) -> None:
        """Have a version tried, in place of an earlier trial of the same number.

        Args:
            key: its model's name and its number.
            files: its fingerprint.
            run: tries it.
        """
        name, number = key
        with self._lock:
            self._drop(key)
            self._trials.setdefault(name, {})[number] = _Trial(name, files, run)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._work, name="trials", daemon=True)
                self._thread.start()

    def of(self, name: str) -> Mapping[int, Fingerprint]:
        """The fingerprints of a model's versions whose trial waits, goes on, or has an outcome that nobody took."""
        with self._lock:
            return {number: trial.files for number, trial in self._trials.get(name, {}).items()}

    def unfinished(self, name: str) -> set[int]:
        """Numbers of a model's versions whose trial waits or goes on."""
        with self._lock:
            return {number for number, trial in self._trials.get(name, {}).items() if trial.outcome is None}

    def take(self, key: Key) -> Outcome | None:
        """How a version's trial went, given away; None if it was not tried."""
        name, number = key
        with self._lock:
            trial = self._trials.get(name, {}).get(number)
            if trial is None or trial.outcome is None:
                return None
            self._drop(key)
            return trial.outcome

    def give_up(self, key: Key) -> None:
        """Forget a version; a trial that goes on is ended."""
        with self._lock:
            self._drop(key)

    def keep(self, names: Container[str]) -> None:
        """Forget how the trials of all other models ended."""
        with self._lock:
            for gone in [name for name in self._ends if name not in names]:
                del self._ends[gone]

    def stop(self) -> None:
        """Give every trial up, and begin no other."""
        with self._lock:
            self._stopped = True
            for trials in self._trials.values():
                for trial in trials.values():
                    trial.given_up = True

    def join(self, timeout_s: float) -> None:
        """Wait until a trial that was given up has ended, if that is soon."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _drop(self, key: Key) -> None:
        name, number = key
        trials = self._trials.get(name, {})
        trial = trials.pop(number, None)
        if trial is not None:
            trial.given_up = True
        if not trials:
            self._trials.pop(name, None)

    def _next(self) -> _Trial | None:
        """The trial that is next; without one, the thread ends."""
        with self._lock:
            waiting = [trial for trials in self._trials.values() for trial in trials.values() if not trial.started]
            if not waiting or self._stopped:
                self._thread = None
                return None
            trial = min(waiting, key=lambda trial: self._ends.get(trial.name, 0))
            trial.started = True
            return trial

    def _work(self) -> None:
        while (trial := self._next()) is not None:
            try:
                outcome = trial.run(trial.unwanted)
            except Exception as error:  # noqa: BLE001  one version's trouble is its own
                outcome = Outcome(ended=f"unexpected {type(error).__name__} while it was tried: {error}")
            with self._lock:
                if trial.given_up:
                    continue
                trial.outcome = outcome
                self._ends[trial.name] = self._ends.get(trial.name, 0) + 1 if outcome.ended else 0
            try:
                self._ended(trial.name)
            except Exception:  # noqa: BLE001  the next look at the folder takes it up; the other trials go on
                _log.exception("taking up a trial failed", model=trial.name)
