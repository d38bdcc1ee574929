"""The routes of a model: which READY version answers which requests, by its rollout."""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from frostline_server.repository.rollout import ROUNDING, STABLE, Rollout


@dataclass(frozen=True, slots=True)
class Routes:
    """Which READY version answers which requests.

    Attributes:
        default: the version for requests that name none, except for the split; None when none is READY.
        labels: the version that answers each label.
        split: versions with the cumulative upper bounds of their shares of requests that name no version, ascending
            from 0 to 1. Empty when `default` answers all of them.
        shadow: the version that gets a copy of the requests that `default` answers.
        problems: deviations from the rollout and their reasons, one sentence each.
        steady: whether `default` is the version that is meant to answer, and does not stand in for it.
    """

    default: int | None
    labels: Mapping[str, int] = field(default_factory=dict)
    split: tuple[tuple[float, int], ...] = ()
    shadow: int | None = None
    problems: tuple[str, ...] = ()
    steady: bool = True

    def choose(self, draw: float) -> int | None:
        """The version for a request that names none; `draw` is uniformly distributed in [0, 1)."""
        if not self.split:
            return self.default
        ends = [end for end, _ in self.split]
        return self.split[min(bisect_right(ends, draw), len(ends) - 1)][1]

    def shares(self) -> dict[int, float]:
        """Each version's share of the requests that name no version, between 0 and 1."""
        if not self.split:
            return {} if self.default is None else {self.default: 1.0}
        begins = [0.0, *(end for end, _ in self.split)]
        return {version: end - begin for begin, (end, version) in zip(begins, self.split, strict=False)}


def wanted(rollout: Rollout | None) -> set[int]:
    """The versions that a rollout needs, in addition to those of the version policy."""
    if rollout is None:
        return set()
    return {*rollout.labels.values(), *([] if rollout.shadow is None else [rollout.shadow])}


def standing(rollout: Rollout | None) -> tuple[int, ...]:
    """The candidates for requests that name no version: the stable version, then the previous ones, latest first."""
    if rollout is None or STABLE not in rollout.labels:
        return ()
    return tuple(dict.fromkeys((rollout.labels[STABLE], *reversed(rollout.previous))))


def routes(rollout: Rollout | None, ready: Collection[int], stood: int | None = None) -> Routes:
    """Which version answers which requests.

    Without a rollout the newest READY version answers everything. If a rollout names a version that is not READY, no
    request fails. In place of the stable version the one answers that was stable until now, which a rollback takes off
    the rollout; or else the previous stable version, or the nearest READY version, older versions first, the shadow
    last. In place of any other version, the version that answers for the stable one does.

    Args:
        rollout: the model's, or None.
        ready: numbers of its READY versions.
        stood: the version that answered last without standing in for another one, or None.
    """
    if not ready:
        return Routes(None, steady=False)
    if rollout is None:
        return Routes(max(ready))
    problems = []
    stable = rollout.labels.get(STABLE)
    default = max(ready) if stable is None else _nearest(_candidates(rollout, stood), ready, rollout.shadow)
    steady = stable in (None, default)
    if not steady:
        problems.append(f"version {stable} is stable and not ready: version {default} answers in its place")
    labels = {}
    for label, version in rollout.labels.items():
        labels[label] = version if version in ready else default
        if version not in ready and label != STABLE:
            problems.append(f"version {version} is {label} and not ready: version {default} answers in its place")
    shadow = rollout.shadow
    if shadow is not None and (shadow not in ready or shadow == default):
        why = "answers requests itself" if shadow == default else "is not ready"
        problems.append(f"version {shadow} is the shadow and {why}: nothing is compared")
        shadow = None
    return Routes(default, labels, _ends(rollout.split, labels, default), shadow, tuple(problems), steady)


def _candidates(rollout: Rollout, stood: int | None) -> tuple[int, ...]:
    stable, *previous = standing(rollout)
    return (stable, *([] if stood is None else [stood]), *previous)


def _nearest(stable: Sequence[int], ready: Collection[int], shadow: int | None) -> int:
    """The READY version used instead: of `stable`, else the next older, else the next newer; a shadow only if alone."""
    candidates = set(ready) - {shadow} or set(ready)
    older = [number for number in candidates if number <= stable[0]]
    return next((number for number in stable if number in candidates), max(older) if older else min(candidates))


def _ends(split: Mapping[str, float], labels: Mapping[str, int], default: int) -> tuple[tuple[float, int], ...]:
    """The split as cumulative upper bounds; empty when `default` gets everything."""
    shares = {default: 100 - sum(split.values())}
    for label, percent in split.items():
        shares[labels[label]] = shares.get(labels[label], 0.0) + percent
    # A remainder that rounding left is not a share.
    shares = {version: share for version, share in shares.items() if share > ROUNDING}
    if set(shares) == {default}:
        return ()
    ends = [end / 100 for end in accumulate(shares.values())]
    return (*zip(ends[:-1], shares, strict=False), (1.0, list(shares)[-1]))
