"""The changes of the models folder during a soak: new versions, and hostile models that come and go."""

import itertools
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from bench.hostile_models import zoo
from bench.load import versions

KEPT = 2
"""Versions of a model that stay in the folder."""
STAY = 3
"""Hostile models that are in the folder at a time."""


class Versions:
    """Publishes versions of the good models in turn, and removes the old ones, so that the folder stays bounded.

    Args:
        folder: the models folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._there: dict[str, deque[int]] = {name: deque() for name in versions.NAMES}
        self._turns = itertools.cycle(versions.NAMES)
        for name in versions.NAMES:
            self._publish(name, 1)

    def _publish(self, name: str, version: int) -> None:
        versions.publish(self._folder, name, version)
        self._there[name].append(version)

    def publish(self) -> tuple[str, int]:
        """Publish the next version; returns its model and number."""
        name = next(self._turns)
        there = self._there[name]
        self._publish(name, there[-1] + 1)
        if len(there) > KEPT:
            versions.withdraw(self._folder, name, there.popleft())
        return name, there[-1]


class Hostile:
    """Moves hostile models into the folder one at a time, and out again when others have come.

    Args:
        models: the models folder.
        staging: a folder beside it, of the same file system.
        names: of hostile models, in their order; all over again at the end.
    """

    def __init__(self, models: Path, staging: Path, names: Iterable[str]) -> None:
        self._models = models
        self._staging = staging
        self._there: deque[str] = deque()
        listed = list(names)
        zoo.build(staging, listed)
        self._turns = itertools.cycle(listed)

    def publish(self) -> str:
        """Move the next one in; returns its name."""
        if len(self._there) == STAY:
            zoo.withdraw(self._staging, self._models, self._there.popleft())
        name = next(self._turns)
        zoo.publish(self._staging, self._models, name)
        self._there.append(name)
        return name
