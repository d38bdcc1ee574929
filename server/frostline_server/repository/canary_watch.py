"""The watch over canaries: once a second it judges each one whose rollout says when it is to be taken back.

It reads the counters that metrics are made of, in a thread of its own; a request notices nothing of it.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from frostline_server.model.loaded_model import LoadedModel
from frostline_server.repository.registry import Repository
from frostline_server.repository.rollout import CANARY, Rollout
from frostline_server.repository.take_back import Counted, Trial

PERIOD_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A canary beside the stable version, and what both had done when its trial began."""

    rollout: Rollout
    canary: LoadedModel
    stable: LoadedModel
    begun: tuple[Counted, Counted]
    trial: Trial


class CanaryWatch:
    """Judges the canaries, in its own thread.

    Args:
        rollouts: returns the rollout of each model that has one.
        repository: the versions in service.
        on_worse: called with a model's name, its rollout and the reason, when its canary is to be taken back.
        period_s: seconds between two looks.
    """

    def __init__(
        self,
        rollouts: Callable[[], Mapping[str, Rollout]],
        repository: Repository,
        on_worse: Callable[[str, Rollout, str], None],
        period_s: float = PERIOD_S,
    ) -> None:
        self._rollouts = rollouts
        self._repository = repository
        self._on_worse = on_worse
        self._period_s = period_s
        self._watched: dict[str, _Watched] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="canary-watch", daemon=True)

    def start(self) -> None:
        """Start; the first look is one period from now."""
        self._thread.start()

    def close(self) -> None:
        """Stop; does not wait for a look in progress."""
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.look()
            except Exception:  # noqa: BLE001  the next look may find what this one did not
                _log.exception("the rollouts could not be looked at")

    def look(self) -> None:
        """Judge each canary once."""
        asked = {name: rollout for name, rollout in self._rollouts().items() if rollout.take_back is not None}
        self._watched = {name: watched for name, watched in self._watched.items() if name in asked}
        for name, rollout in asked.items():
            try:
                self._judge(name, rollout)
            except Exception:  # noqa: BLE001  one model's trouble is its own
                _log.exception("a canary could not be judged", model=name)

    def _judge(self, name: str, rollout: Rollout) -> None:
        watched = self._begun(name, rollout)
        if watched is None:
            self._watched.pop(name, None)
            return
        self._watched[name] = watched
        canary, stable = (
            _counted(served).since(before)
            for served, before in zip((watched.canary, watched.stable), watched.begun, strict=True)
        )
        version = watched.canary.version
        compared = [
            counts for model, shadow, _, counts in self._repository.shadows() if (model, shadow) == (name, version)
        ]
        reason = watched.trial.look(canary, stable, compared[0] if compared else None)
        if reason:
            del self._watched[name]
            self._on_worse(name, rollout, reason)

    def _begun(self, name: str, rollout: Rollout) -> _Watched | None:
        """The trial that goes on, or a new one; None while one of the two versions does not answer."""
        routes, versions = self._repository.traffic(name).routes, self._repository.of(name)
        number = rollout.labels[CANARY]
        if rollout.take_back is None or not routes.steady or routes.default is None or number not in versions:
            return None
        canary, stable = versions[number].served, versions[routes.default].served
        if canary is None or stable is None or canary is stable:
            return None
        known = self._watched.get(name)
        # What was decided of the shadow begins no other trial.
        same = known is not None and replace(known.rollout, given_up=None) == replace(rollout, given_up=None)
        if known is not None and same and (known.canary, known.stable) == (canary, stable):
            return known
        return _Watched(rollout, canary, stable, (_counted(canary), _counted(stable)), Trial(rollout.take_back))


def _counted(served: LoadedModel) -> Counted:
    stats = served.stats.snapshot()
    # Whom the caller gave up, the version did not fail.
    failed = sum(stats.codes.values()) - stats.succeeded - stats.codes["CANCELLED"]
    return Counted(stats.succeeded, failed, stats.request_s)
