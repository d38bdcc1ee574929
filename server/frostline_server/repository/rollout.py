"""The rollout of a model: what its rollout.json says, read, and replaced by one of several writers at a time.

Servers, commands and trainings replace the file. Each decides from what it has read, so whoever finds another file when
it is about to replace it changes nothing.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

from frostline_server.errors import ConfigError
from frostline_server.model.artifact import MAX_VERSION, distinct, is_version
from frostline_server.regular_files import FileReader
from frostline_server.repository.take_back import GivenUp, TakeBack, TakenBack, is_number

FILE = "rollout.json"
STABLE = "stable"
"""The label of the version that answers requests which name none."""
CANARY = "canary"
"""The label of a version on trial with a share of those requests."""

_KEYS = {"labels", "split", "shadow", "previous", "take_back", "taken_back", "given_up"}
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""What labels are like."""
ROUNDING = 1e-9


class RolloutChanged(ConfigError):
    """The rollout is no longer the one that a change was meant for, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The content of a rollout.json; an invalid one cannot be constructed.

    Attributes:
        labels: versions by label.
        split: percent of the requests that name no version, by label; the rest goes to `stable`.
        shadow: the version that gets a copy of the requests that the stable version answers.
        previous: previous stable versions, the latest last.
        take_back: when the canary is taken back; None for never.
        taken_back: the canary that was taken back last, until the next step.
        given_up: the shadow whose promotion was given up last, until the next step.

    Raises:
        ConfigError: it contradicts itself.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[str, float] = field(default_factory=dict)
    shadow: int | None = None
    previous: tuple[int, ...] = ()
    take_back: TakeBack | None = None
    taken_back: TakenBack | None = None
    given_up: GivenUp | None = None

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
            if not is_number(percent) or not 0 < percent <= 100:
                raise ConfigError(
                    f"split gives '{label}' {short(percent)}; expected a percentage above 0 and up to 100"
                )
        if sum(self.split.values()) > 100 + ROUNDING:
            raise ConfigError(f"split assigns {sum(self.split.values()):g} percent; the maximum is 100")
        if self.shadow is not None:
            _check_version("shadow", self.shadow)
        if (self.split or self.shadow) and STABLE not in self.labels:
            raise ConfigError("a split or a shadow needs a version that is labelled stable")
        if self.shadow == self.labels.get(STABLE, 0):
            raise ConfigError(f"version {self.shadow} is stable; it cannot be its own shadow")
        if self.take_back is not None:
            self._check_take_back(self.take_back)

    def _check_take_back(self, rule: TakeBack) -> None:
        canary = self.labels.get(CANARY)
        if canary is None or STABLE not in self.labels:
            raise ConfigError("take_back needs a version that is labelled canary, beside a stable one")
        if rule.disagreement is not None and self.shadow != canary:
            raise ConfigError(
                f"take_back looks at disagreement, and only a shadow is compared; make version {canary} the shadow, too"
            )

    @property
    def told(self) -> str:
        """It as one line of text."""
        parts = []
        for label, version in self.labels.items():
            share = f" with {self.split[label]:g} % of the traffic" if label in self.split else ""
            parts.append(f"version {version} is {label}{share}")
        if self.shadow is not None:
            parts.append(f"version {self.shadow} gets a copy of the traffic")
        if self.take_back is not None:
            parts.append(f"the canary is taken back if {self.take_back.told}")
        if self.taken_back is not None:
            parts.append(self.taken_back.told)
        if self.given_up is not None:
            parts.append(self.given_up.told)
        return ", ".join(parts)

    @property
    def on_trial(self) -> bool:
        """Whether a version is on trial: as the canary, with a share of the traffic, or as the shadow."""
        return bool(self.split) or self.shadow is not None or CANARY in self.labels


def _check_version(what: str, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise ConfigError(f"{what} must be the number of a version, got {short(version)}")


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
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        raise ConfigError(f"unknown key {short(unknown[0])}; the keys are {', '.join(sorted(_KEYS))}")
    previous = document.get("previous", [])
    if not isinstance(previous, list):
        raise ConfigError(f"previous must be a list of versions, got {short(previous)}")
    return Rollout(
        _mapping(document, "labels"),
        _mapping(document, "split"),
        document.get("shadow"),
        tuple(previous),
        TakeBack.parse(_mapping(document, "take_back")) if "take_back" in document else None,
        TakenBack.parse(_mapping(document, "taken_back")) if "taken_back" in document else None,
        GivenUp.parse(_mapping(document, "given_up")) if "given_up" in document else None,
    )


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
    if rollout.take_back is not None:
        document["take_back"] = rollout.take_back.document()
    if rollout.taken_back is not None:
        document["taken_back"] = rollout.taken_back.document()
    if rollout.given_up is not None:
        document["given_up"] = rollout.given_up.document()
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


def write(folder: Path, rollout: Rollout, check: Callable[[], None] = lambda: None) -> None:
    """Replace a model's rollout.json atomically: a reader sees the old file or the new one, never a part.

    Args:
        folder: the model's folder.
        rollout: the next one.
        check: called while no other writer can replace the file; what it raises is raised, and nothing is changed.

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
            with _locked(folder):
                check()
                staging.replace(folder / FILE)
            _sync(folder)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / FILE}: {error.strerror}") from error


def _sync(folder: Path) -> None:
    """Bring to the disk which files a folder has, so that no power cut undoes what was told to be done."""
    with suppress(OSError):  # of some file systems, and of Windows, folders cannot be opened or brought there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out. Training takes the same lock, with code of its own."""
    # Where folders cannot be locked (Windows, NFS), what is left is the moment between the comparison and the rename.
    try:
        import fcntl  # noqa: PLC0415  what it has depends on the platform
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def change(
    folder: Path,
    files: FileReader,
    step: Callable[[Rollout | None, list[int]], Rollout],
    expected: int | None = None,
) -> Rollout:
    """Replace a model's rollout by the next one.

    Args:
        folder: the model's folder.
        files: reads what is in it.
        step: gives the next rollout, from the present one and the versions that exist, ascending.
        expected: the version that must be live: stable or, where none is, the newest. None for any.

    Returns:
        The next one.

    Raises:
        RolloutChanged: another version is live, or somebody else has replaced the file meanwhile.
        ConfigError: there is no version, no next rollout, the folder leads out of those that `files` may read, or it cannot
            be read or written to.
    """
    if outside := files.outside(folder):
        raise ConfigError(outside)
    on_disk = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and is_version(path.name))
    if not on_disk:
        raise ConfigError("it has no version")
    before = read(folder, files)
    live = (before or Rollout()).labels.get(STABLE, on_disk[-1])
    if expected not in (None, live):
        raise RolloutChanged(f"version {live} is live by now, and not version {expected}; look at it, and decide again")
    after = step(before, on_disk)

    def check() -> None:
        now = read(folder, files)
        if now != before:
            told = "it has no rollout" if now is None else now.told
            raise RolloutChanged(f"somebody else has just changed the rollout: {told}; look at it, and decide again")

    if after != before:
        write(folder, after, check)
    return after
