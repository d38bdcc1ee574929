"""The rollout.json of a model, as publishing needs it: which version is live, and how another one takes its place.

The server and the command line write the same file. Whoever replaces it holds a lock on the model's folder and looks
first whether it still is what the decision was made from.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline_training.errors import PublishError
from frostline_training.publishing.artifact import sync, version_number

FILE = "rollout.json"
STABLE = "stable"

_MAX_PREVIOUS = 10  # as the server keeps


@dataclass(frozen=True)
class Live:
    """Which version of a model answers requests that name none.

    Attributes:
        version: The stable version, or the newest where no version is called stable; None where there is none at all.
        text: The rollout.json that says so; None where there is no such file.
        but: The version that was not looked at.
    """

    version: int | None
    text: str | None
    but: int | None = None

    @property
    def held(self) -> bool:
        """Whether the live version stays live when a newer one appears."""
        return STABLE in self.document.get("labels", {})

    @property
    def document(self) -> Mapping[str, Any]:
        """The content of the rollout.json; empty where there is none."""
        document: Mapping[str, Any] = json.loads(self.text or "{}")
        return document


def live(folder: Path, but: int | None = None) -> Live:
    """Return which version of the model in `folder` is live, as if the version `but` were not there.

    Raises:
        PublishError: Its rollout.json cannot be read.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        stable = json.loads(text).get("labels", {}).get(STABLE)
    except FileNotFoundError:
        text, stable = None, None
    except (OSError, ValueError, AttributeError) as error:
        raise PublishError(f"{path} cannot be used: {error}; correct or delete it") from error
    if stable is not None and (not isinstance(stable, int) or stable < 1):
        raise PublishError(f"{path} cannot be used: the label 'stable' must be the number of a version, got {stable!r}")
    return Live(_newest(folder, but) if stable is None else stable, text, but)


def hold(folder: Path, but: int | None = None) -> Live:
    """Make the live version stable, so that it stays live when a newer one is published; nothing where there is none.

    The arguments and the result are those of `live`.

    Raises:
        PublishError: The rollout.json cannot be read or written.
    """
    while True:
        now = live(folder, but)
        if now.version is None or now.held:
            return now
        document = now.document
        after = {**document, "labels": {**document.get("labels", {}), STABLE: now.version}}
        if replace(folder, now, after):
            return live(folder, but)


def promote(folder: Path, version: int, before: Live) -> bool:
    """Make `version` stable in place of the one that was live `before`, and end the trial of any other.

    Returns:
        Whether it is; False where the file is no longer what it was `before`, and nothing was changed.

    Raises:
        PublishError: The rollout.json cannot be written.
    """
    document = before.document
    labels = {label: number for label, number in document.get("labels", {}).items() if label != "canary"}
    previous = [*document.get("previous", ()), *([] if before.version is None else [before.version])]
    after = {"labels": {**labels, STABLE: version}, **({"previous": previous[-_MAX_PREVIOUS:]} if previous else {})}
    return replace(folder, before, after)


def replace(folder: Path, before: Live, after: Mapping[str, Any]) -> bool:
    """Replace the rollout.json by `after`, if it still is as `before`; returns whether it was.

    Raises:
        PublishError: It cannot be written.
    """
    hidden = folder / f".{FILE}-{secrets.token_hex(8)}"
    try:
        try:
            with hidden.open("x", encoding="utf-8") as file:
                file.write(json.dumps(after, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with _locked(folder):
                if live(folder, before.but) != before:
                    return False
                hidden.replace(folder / FILE)
            with suppress(OSError):  # some file systems do not bring a folder to the disk; the rollout holds
                sync(folder)
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise PublishError(f"cannot write {folder / FILE}: {error.strerror or error}") from error
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Where folders cannot be locked (Windows, NFS), what is left is the moment between the comparison and the rename.
    try:
        import fcntl  # noqa: PLC0415 what it has depends on the platform
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _newest(folder: Path, but: int | None) -> int | None:
    if not folder.is_dir():
        return None
    numbers = {version_number(path.name) for path in folder.iterdir() if path.is_dir()}
    return max(numbers - {but, 0}, default=None)
