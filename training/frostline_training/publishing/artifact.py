"""The artifact folder: written under a hidden name and renamed last, so a version is complete or not there."""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.rows import MOST_CARD_BYTES
from frostline_training.errors import PublishError

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
CARD_FILE = "card.json"
MAX_VERSION = 2**63 - 1
"""The highest number of a version that a server takes."""

_STAGING = ".staging-"
_ATTEMPTS = 100
_ABANDONED_S = 24 * 60 * 60.0  # no export takes a day; a killed one leaves its folder behind


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a new hidden folder inside `folder` (models/<name>), and remove whatever is left of it at the end.

    Folders that were made for it and are empty at the end go too. Hidden folders of publishers that
    died more than a day ago are removed first.
    """
    hidden = folder / f"{_STAGING}{secrets.token_hex(8)}"
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        _remove_abandoned(folder)
        _make(hidden)
        yield hidden
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | os.PathLike) else hidden
        here, there = folder.absolute(), named.absolute()
        if not (there.is_relative_to(here) or here.is_relative_to(there)):
            # Of something that is done meanwhile, such as by the user's own code.
            raise PublishError(f"{named}: {error.strerror}; nothing was published") from error
        raise PublishError(f"cannot write into {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # nothing is left of it where it was renamed
        with suppress(OSError):  # not empty: it now holds a version, or another publisher's work
            for path in made:
                path.rmdir()


def write_golden(
    hidden: Path,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Mapping[str, NDArray[Any]],
    *,
    rtol: float,
    atol: float,
    raw: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the golden sample: inputs and the network's own outputs, [R, ...] by name, the tolerances, and `raw` rows."""
    taken: dict[str, Any] = {"input" if len(inputs) == 1 else f"input.{name}": rows for name, rows in inputs.items()}
    given: dict[str, Any] = {
        "logits" if len(outputs) == 1 else f"output.{name}": rows for name, rows in outputs.items()
    }
    np.savez(hidden / GOLDEN_FILE, rtol=np.float64(rtol), atol=np.float64(atol), **taken, **given, **raw)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extend(hidden: Path, extras: Callable[[Path], None]) -> None:
    """Let `extras` add files to `hidden`, whose own files are proved already.

    Raises:
        PublishError: It has changed one of these or taken it away, or has written the card.
    """
    before = {path: sha256(path) for path in hidden.rglob("*") if path.is_file()}
    extras(hidden)
    for path, digest in before.items():
        if not path.is_file() or sha256(path) != digest:
            raise PublishError(
                f"extras has changed {path.relative_to(hidden)}, which was proved before: write files of other names; nothing was "
                "published"
            )
    if (hidden / CARD_FILE).exists():
        raise PublishError(f"extras has written {CARD_FILE}, which is the version's own; nothing was published")


def place(hidden: Path, card: Mapping[str, object]) -> tuple[int, Path]:
    """Write `card` with the next free version number into `hidden`, then rename `hidden` to that number.

    Returns:
        The version, and its folder. Two publishers at once get two versions.

    Raises:
        PublishError: The card is larger than servers read, or no number is left.
    """
    folder = hidden.parent
    version = 1 + max((version_number(entry.name) for entry in folder.iterdir()), default=0)
    while True:
        if version > MAX_VERSION:
            raise PublishError(
                f"{folder} has a version {MAX_VERSION}, and servers take none with a higher number: give it a lower one; "
                "nothing was published"
            )
        text = (json.dumps({**card, "version": version}, indent=2, ensure_ascii=False) + "\n").encode()
        if len(text) > MOST_CARD_BYTES:
            raise PublishError(
                f"the card would have {len(text)} bytes, and servers read at most {MOST_CARD_BYTES}: fewer labels or "
                "categories make it smaller"
            )
        (hidden / CARD_FILE).write_bytes(text)
        for path in (*hidden.rglob("*"), hidden):
            sync(path)
        target = folder / str(version)
        try:
            hidden.rename(target)
        except OSError:
            if not target.exists():
                raise
            version += 1  # somebody was faster
        else:
            sync(folder)
            return version, target


def version_number(name: str) -> int:
    """Return the number of the version that a folder of this name is for servers; 0 if it is none."""
    number = int(name) if re.fullmatch(r"[1-9][0-9]{0,18}", name) else 0
    return number if number <= MAX_VERSION else 0


def _make(hidden: Path) -> None:
    for left in reversed(range(_ATTEMPTS)):
        try:
            hidden.parent.mkdir(parents=True, exist_ok=True)
            hidden.mkdir()
        except FileNotFoundError:
            # Another publisher may just now have removed the folders that it had made; where none can be, it stays so.
            if not left:
                raise
        else:
            return


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_STAGING}*"):
        with suppress(FileNotFoundError):  # somebody else was faster
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file, or which files a folder has, to the disk."""
    # A rename may reach the disk before the bytes it names; after a power cut that would be a broken version.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and does not need it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
