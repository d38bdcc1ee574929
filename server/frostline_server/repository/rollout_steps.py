"""The steps of a rollout: each is a pure function from the present rollout to the next one."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from frostline_server.errors import ConfigError
from frostline_server.repository.rollout import CANARY, FILE, STABLE, Rollout
from frostline_server.repository.take_back import GivenUp, TakeBack, TakenBack

_MAX_PREVIOUS = 10
"""The number of steps that can be rolled back, so that the file does not grow without limit."""


def promote(rollout: Rollout | None, version: int) -> Rollout:
    """Make a version the stable version, and end the trial of any other."""
    before = rollout or Rollout()
    stable = before.labels.get(STABLE, version)
    previous = before.previous if stable == version else (*before.previous, stable)
    labels = {label: number for label, number in before.labels.items() if label != CANARY}
    return Rollout({**labels, STABLE: version}, previous=previous[-_MAX_PREVIOUS:])


def with_canary(rollout: Rollout | None, version: int, percent: float, take_back: TakeBack | None = None) -> Rollout:
    """Give a version the label `canary` and a share of the traffic.

    Args:
        rollout: the present rollout.
        version: the version.
        percent: its share.
        take_back: when the server takes it back; None for never.

    Raises:
        ConfigError: no version is stable, this version is, or the share is not a valid percentage.
    """
    before = _with_stable(rollout, version)
    labels, split = {**before.labels, CANARY: version}, {**before.split, CANARY: percent}
    return replace(before, labels=labels, split=split, take_back=take_back, taken_back=None, given_up=None)


def with_shadow(rollout: Rollout | None, version: int) -> Rollout:
    """Give a version a copy of the stable version's traffic.

    Raises:
        ConfigError: no version is stable, or this one is.
    """
    return replace(_with_stable(rollout, version), shadow=version, taken_back=None, given_up=None)


def _with_stable(rollout: Rollout | None, version: int) -> Rollout:
    stable = rollout.labels.get(STABLE) if rollout else None
    if rollout is None or stable is None:
        raise ConfigError("no version is stable yet; first promote the version that answers now")
    if stable == version:
        raise ConfigError(f"version {version} is the stable version; only another version can be tried beside it")
    return rollout


def take_back(rollout: Rollout, reason: str, at: str) -> Rollout:
    """End the trial of the canary, because it is worse than the stable version.

    Args:
        rollout: the present rollout, which has a canary.
        reason: what was seen.
        at: when, in ISO 8601.
    """
    canary = rollout.labels[CANARY]
    return replace(
        rollout,
        labels={label: version for label, version in rollout.labels.items() if label != CANARY},
        split={label: percent for label, percent in rollout.split.items() if label != CANARY},
        shadow=None if rollout.shadow == canary else rollout.shadow,
        take_back=None,
        taken_back=TakenBack(canary, reason, at),
    )


def give_up(rollout: Rollout, reason: str, at: str) -> Rollout:
    """Note that the shadow is not promoted, because it does not agree with the stable version; its test goes on.

    Args:
        rollout: the present rollout, which has a shadow.
        reason: what was seen.
        at: when, in ISO 8601.
    """
    if rollout.shadow is None:
        raise ConfigError("there is no shadow, so there is nothing to give up")
    return replace(rollout, given_up=GivenUp(rollout.shadow, reason, at))


def rollback(rollout: Rollout | None, on_disk: Collection[int]) -> Rollout:
    """Undo the last step: end the trial or, without a trial, make the previous stable version stable again.

    Args:
        rollout: the present rollout; None where the newest version answers.
        on_disk: versions that exist; a previous stable version that was deleted is skipped.

    Raises:
        ConfigError: there is nothing to roll back to.
    """
    if rollout is None:
        # The newest answers, so the one before it is meant.
        before = sorted(on_disk)[:-1]
        if not before:
            raise ConfigError(f"there is no {FILE} and no older version, so there is nothing to roll back to")
        return Rollout({STABLE: before[-1]})
    if rollout.on_trial:
        labels = {label: version for label, version in rollout.labels.items() if label != CANARY}
        return replace(rollout, labels=labels, split={}, shadow=None, take_back=None)
    previous = [version for version in rollout.previous if version in on_disk]
    if not previous:
        raise ConfigError(
            "no version is on trial, and no previous stable version exists, so there is nothing to roll back to"
        )
    return replace(rollout, labels={**rollout.labels, STABLE: previous[-1]}, previous=tuple(previous[:-1]))


def next_step(
    rollout: Rollout | None,
    on_disk: Sequence[int],
    version: int | None,
    *,
    canary: float | None = None,
    shadow: bool = False,
    take_back: TakeBack | None = None,
) -> Rollout:
    """Promote a version, or try it with a share of the traffic, a copy of it, or both.

    Args:
        rollout: the present rollout.
        on_disk: versions that exist, ascending.
        version: the one that is meant; None for the newest, and where one is promoted, for the one on trial if there is one.
        canary: its share of the traffic in percent.
        shadow: whether it gets a copy of the traffic.
        take_back: when the server takes the canary back; None for never.

    Raises:
        ConfigError: there is no such version, or it cannot be tried so.
    """
    trial = canary is not None or shadow
    on_trial = None if trial or rollout is None else rollout.labels.get(CANARY, rollout.shadow)
    chosen = version or on_trial or on_disk[-1]
    if chosen not in on_disk:
        raise ConfigError(f"there is no version {chosen}; there are: {', '.join(map(str, on_disk))}")
    taken = rollout.taken_back if rollout else None
    if version is None and taken is not None and taken.version == chosen:
        raise ConfigError(f"{taken.told}; to use it all the same, name it")
    if take_back is not None and canary is None:
        raise ConfigError("only a canary is taken back; say which share of the traffic it is to have")
    if not trial:
        return promote(rollout or Rollout({STABLE: on_disk[-1]}), chosen)
    if shadow or rollout is None:
        rollout = with_shadow(rollout, chosen)
    return rollout if canary is None else with_canary(rollout, chosen, canary, take_back)


def decisions(before: Rollout | None, after: Rollout | None, newest: int = 0) -> list[str]:
    """What was decided between two rollouts: promoted, rolled_back, canary, shadow, taken_back, given_up and ended.

    Args:
        before: the earlier one; None where the newest version answered.
        after: the later one.
        newest: the newest version at the time of the earlier one.
    """
    old, new = before or Rollout(), after or Rollout()
    found = []
    if new.labels.get(STABLE) != old.labels.get(STABLE):
        back = new.labels.get(STABLE) in old.previous and len(new.previous) < len(old.previous)
        # A promotion would remember the version that answered.
        back = back or (before is None and not new.previous and new.labels.get(STABLE, newest) < newest)
        found.append("rolled_back" if back else "promoted")
    if CANARY in new.labels and (new.labels[CANARY], new.split) != (old.labels.get(CANARY), old.split):
        found.append("canary")
    if new.shadow is not None and new.shadow != old.shadow:
        found.append("shadow")
    if new.taken_back is not None and new.taken_back != old.taken_back:
        found.append("taken_back")
    if new.given_up is not None and new.given_up != old.given_up:
        found.append("given_up")
    return found or (["ended"] if old.on_trial and not new.on_trial else [])


def staged(rollout: Rollout | None, appeared: Collection[int]) -> list[int]:
    """Which of the versions that have appeared are newer than the stable one, and wait for somebody to use them."""
    if rollout is None or STABLE not in rollout.labels:
        return []
    used = {*rollout.labels.values(), rollout.shadow}
    return sorted(version for version in appeared if version > rollout.labels[STABLE] and version not in used)
