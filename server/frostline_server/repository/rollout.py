"""The rollout of versions: reads and writes rollout.json, and assigns a model's traffic to its versions.

Each step of a rollout is a pure function from the old rollout to the new one.
"""

import json
import math
import os
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from reprlib import repr as short
from typing import Any

from frostline_server.errors import ConfigError
from frostline_server.model.artifact import MAX_VERSION, distinct, is_version
from frostline_server.regular_files import FileReader

FILE = "rollout.json"
STABLE = "stable"
"""The label of the version that answers requests which name none."""
CANARY = "canary"
"""The label of a version on trial with a share of those requests."""

LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""What labels are like."""
_MAX_PREVIOUS = 10
"""The number of steps that can be rolled back, so that the file does not grow without limit."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rollout:
    """The content of a rollout.json; an invalid one cannot be constructed.

    Attributes:
        labels: versions by label.
        split: percent of the requests that name no version, by label; the rest goes to `stable`.
        shadow: the version that gets a copy of the requests that the stable version answers.
        previous: previous stable versions, the latest last.

    Raises:
        ConfigError: it contradicts itself.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[str, float] = field(default_factory=dict)
    shadow: int | None = None
    previous: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for label, version in self.labels.items():
            if not LABEL.fullmatch(label) or label == "latest":
                raise ConfigError(
                    f"'{label}' is not a valid label: a label begins with a letter, has only letters, digits, - and "
                    "_, and is not latest"
                )
            _check_version(f"the label '{label}'", version)
        for version in self.previous:
            _check_version("previous", version)
        for label, percent in self.split.items():
            if label not in self.labels or label == STABLE:
                others = sorted(set(self.labels) - {STABLE})
                raise ConfigError(f"split names '{label}'; it can name only labels other than stable: {others}")
            if not _is_number(percent) or not 0 < percent <= 100:
                raise ConfigError(
                    f"split gives '{label}' {short(percent)}; expected a percentage above 0 and up to 100"
                )
        if sum(self.split.values()) > 100 + _ROUNDING:
            raise ConfigError(f"split assigns {sum(self.split.values()):g} percent; the maximum is 100")
        if self.shadow is not None:
            _check_version("shadow", self.shadow)
        if (self.split or self.shadow) and STABLE not in self.labels:
            raise ConfigError("a split or a shadow needs a version that is labelled stable")
        if self.shadow == self.labels.get(STABLE, 0):
            raise ConfigError(f"version {self.shadow} is stable; it cannot be its own shadow")

    @property
    def told(self) -> str:
        """It as one line of text."""
        parts = []
        for label, version in self.labels.items():
            share = f" with {self.split[label]:g} % of the traffic" if label in self.split else ""
            parts.append(f"version {version} is {label}{share}")
        if self.shadow is not None:
            parts.append(f"version {self.shadow} gets a copy of the traffic")
        return ", ".join(parts)

    @property
    def on_trial(self) -> bool:
        """Whether a version is on trial: as the canary, with a share of the traffic, or as the shadow."""
        return bool(self.split) or self.shadow is not None or CANARY in self.labels


def _check_version(what: str, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise ConfigError(f"{what} must be the number of a version, got {short(version)}")


def _is_number(value: object) -> bool:
    # A whole number may be too large to be a float, and is finite.
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


# The file


def parse(text: str) -> Rollout:
    """Parse the text of a rollout.json.

    Raises:
        ConfigError: it is not a rollout; the message says what was expected and what was found.
    """
    try:
        document = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"expected a JSON object, got {type(document).__name__}")
    unknown = sorted(set(document) - {"labels", "split", "shadow", "previous"})
    if unknown:
        raise ConfigError(f"unknown key {short(unknown[0])}; the keys are labels, split, shadow and previous")
    previous = document.get("previous", [])
    if not isinstance(previous, list):
        raise ConfigError(f"previous must be a list of versions, got {short(previous)}")
    return Rollout(_mapping(document, "labels"), _mapping(document, "split"), document.get("shadow"), tuple(previous))


def _mapping(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be an object, got {short(value)}")
    return value


def to_text(rollout: Rollout) -> str:
    """The text of a rollout.json for `rollout`; `parse` is its inverse."""
    document: dict[str, Any] = {"labels": dict(rollout.labels)}
    if rollout.split:
        document["split"] = dict(rollout.split)
    if rollout.shadow is not None:
        document["shadow"] = rollout.shadow
    if rollout.previous:
        document["previous"] = list(rollout.previous)
    return json.dumps(document, indent=2) + "\n"


def read(folder: Path, files: FileReader) -> Rollout | None:
    """A model's rollout; None if there is no rollout.json.

    Args:
        folder: the model's folder.
        files: reads what is in it.

    Raises:
        ConfigError: the file cannot be read, or is not a rollout.
    """
    try:
        return parse(files.text(folder / FILE))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{FILE} cannot be used: {error}") from error


def write(folder: Path, rollout: Rollout) -> None:
    """Replace a model's rollout.json atomically: a reader sees the old file or the new one, never a part.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    # A hidden file on the same file system, so that the rename is atomic.
    staging = folder / f".{FILE}-{secrets.token_hex(8)}"
    try:
        try:
            with staging.open("x", encoding="utf-8") as file:
                file.write(to_text(rollout))
                file.flush()
                os.fsync(file.fileno())
            staging.replace(folder / FILE)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / FILE}: {error.strerror}") from error


# Steps of a rollout


def promote(rollout: Rollout | None, version: int) -> Rollout:
    """Make a version the stable version, and end the trial of any other."""
    before = rollout or Rollout()
    stable = before.labels.get(STABLE, version)
    previous = before.previous if stable == version else (*before.previous, stable)
    labels = {label: number for label, number in before.labels.items() if label != CANARY}
    return Rollout({**labels, STABLE: version}, previous=previous[-_MAX_PREVIOUS:])


def with_canary(rollout: Rollout | None, version: int, percent: float) -> Rollout:
    """Give a version the label `canary` and a share of the traffic.

    Raises:
        ConfigError: no version is stable, this version is, or the share is not a valid percentage.
    """
    before = _with_stable(rollout, version)
    labels, split = {**before.labels, CANARY: version}, {**before.split, CANARY: percent}
    return replace(before, labels=labels, split=split)


def with_shadow(rollout: Rollout | None, version: int) -> Rollout:
    """Give a version a copy of the stable version's traffic.

    Raises:
        ConfigError: no version is stable, or this one is.
    """
    return replace(_with_stable(rollout, version), shadow=version)


def _with_stable(rollout: Rollout | None, version: int) -> Rollout:
    stable = rollout.labels.get(STABLE) if rollout else None
    if rollout is None or stable is None:
        raise ConfigError("no version is stable yet; first promote the version that answers now")
    if stable == version:
        raise ConfigError(f"version {version} is the stable version; only another version can be tried beside it")
    return rollout


def rollback(rollout: Rollout | None, on_disk: Collection[int]) -> Rollout:
    """Undo the last step: end the trial or, without a trial, make the previous stable version stable again.

    Args:
        rollout: the present rollout.
        on_disk: versions that exist; a previous stable version that was deleted is skipped.

    Raises:
        ConfigError: there is nothing to roll back.
    """
    if rollout is None:
        raise ConfigError(f"there is no {FILE}, so there is nothing to roll back")
    if rollout.on_trial:
        labels = {label: version for label, version in rollout.labels.items() if label != CANARY}
        return replace(rollout, labels=labels, split={}, shadow=None)
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
) -> Rollout:
    """Promote a version, or try it with a share of the traffic, a copy of it, or both.

    Args:
        rollout: the present rollout.
        on_disk: versions that exist, ascending.
        version: the one that is meant; None for the newest, and where one is promoted, for the one on trial if there is one.
        canary: its share of the traffic in percent.
        shadow: whether it gets a copy of the traffic.

    Raises:
        ConfigError: there is no such version, or it cannot be tried so.
    """
    trial = canary is not None or shadow
    on_trial = None if trial or rollout is None else rollout.labels.get(CANARY, rollout.shadow)
    chosen = version or on_trial or on_disk[-1]
    if chosen not in on_disk:
        raise ConfigError(f"there is no version {chosen}; there are: {', '.join(map(str, on_disk))}")
    if not trial:
        return promote(rollout, chosen)
    tried = rollout if canary is None else with_canary(rollout, chosen, canary)
    return with_shadow(tried, chosen) if shadow or tried is None else tried


def change(folder: Path, files: FileReader, step: Callable[[Rollout | None, list[int]], Rollout]) -> Rollout:
    """Replace a model's rollout by the next one.

    Args:
        folder: the model's folder.
        files: reads what is in it.
        step: gives the next rollout, from the present one and the versions that exist, ascending.

    Returns:
        The next one.

    Raises:
        ConfigError: there is no version, no next rollout, or the folder cannot be read or written to.
    """
    on_disk = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and is_version(path.name))
    if not on_disk:
        raise ConfigError("it has no version")
    before = read(folder, files)
    after = step(before, on_disk)
    if after != before:
        write(folder, after)
    return after


# Routes


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
    shares = {version: share for version, share in shares.items() if share > _ROUNDING}
    if set(shares) == {default}:
        return ()
    ends = [end / 100 for end in accumulate(shares.values())]
    return (*zip(ends[:-1], shares, strict=False), (1.0, list(shares)[-1]))
