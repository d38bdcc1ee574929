"""The scan of the models folder: models, versions, fingerprints, configurations and rollouts.

It only reads; `plan` decides which versions to load.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from frostline.pb import model_config_pb2
from frostline_server.errors import ConfigError, LoadError
from frostline_server.model.artifact import is_version
from frostline_server.model_config.pbtxt import MODEL_FILE, read_model_config
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.plan import Fingerprint
from frostline_server.repository.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Model:
    """A model's folder as the scan found it.

    Attributes:
        name: the folder's name.
        path: the folder.
        fingerprint: of the model's own files, including its configuration.
        config: its own configuration, empty without a config.pbtxt.
        versions: the fingerprint of every version by number; it covers the model's own files too. Of a folder that cannot
            be read, those of the last scan.
        warnings: about its configuration and its folder.
        problem: why none of its versions can be served, or "".
        rollout: how its traffic is divided among its versions; the last valid one, or None.
        rollout_problem: why its rollout.json cannot be used, or "".
        remarks: what looks like a version in its folder and is none, or that there is nothing in it; a sentence for each.
    """

    name: str
    path: Path
    fingerprint: Fingerprint
    config: model_config_pb2.ModelConfig
    versions: Mapping[int, Fingerprint]
    warnings: tuple[str, ...] = ()
    problem: str = ""
    rollout: Rollout | None = None
    rollout_problem: str = ""
    remarks: tuple[str, ...] = ()


def scan(root: Path, before: Mapping[str, Model] = MappingProxyType({}), only: str = "") -> dict[str, Model]:
    """Every model in a folder, by name. Hidden folders and folders whose name is no number are not versions.

    A folder without versions is found too, with a remark or a problem that says so. Left out are a folder that is being
    published, in which everything is hidden, and what the file system keeps at the root of a volume.

    Args:
        root: the folder of models.
        before: the result of the last scan; unchanged configurations are not read again.
        only: the name of a model, to scan no other; all models when "".

    Raises:
        OSError: the folder cannot be read.
    """
    paths = [root / only] if only else root.iterdir()
    folders = sorted(
        path for path in paths if not path.name.startswith(".") and path.name != _RESCUED and _is_folder(path)
    )
    found = [_read(folder, before.get(folder.name)) for folder in folders]
    return {model.name: model for model in found if model is not None}


def _read(folder: Path, before: Model | None) -> Model | None:
    """The model in a folder; None if the folder is not a model."""
    config = model_config_pb2.ModelConfig()
    if not folder.name.isprintable():
        # Messages and metrics cannot hold such a name, so they show an escaped one.
        name = folder.name.encode("unicode_escape", "backslashreplace").decode()
        return Model(name, folder, (), config, {}, (), "the folder's name is not printable text; rename it")
    try:
        own = fingerprint(folder, folders=(_WARMUP,))
        entries = sorted(folder.iterdir())
        versions = {
            int(path.name): own + _inside(path, frozenset())
            for path in entries
            if is_version(path.name) and _is_folder(path)
        }
        if entries and not versions and all(path.name.startswith(".") for path in entries):
            return None  # its first version is being published
        remarks = _remarks(entries, versions)
        configured = (folder / _CONFIG).is_file()
    except FileNotFoundError:  # gone since it was listed
        return None
    except OSError as error:
        rollout, versions = (before.rollout, dict(before.versions)) if before else (None, {})
        problem = f"the folder cannot be read: {error.strerror}"
        return Model(folder.name, folder, _unreadable(folder), config, versions, (), problem, rollout)
    rollout, rollout_problem = _rollout(folder, before)
    if not versions and rollout is None and before is not None:
        # What is still in service keeps its labels while the folder is written anew.
        rollout = before.rollout
    if (
        before is not None
        and before.fingerprint == own
        and before.versions.keys() == versions.keys()
        and before.remarks == remarks
    ):
        return replace(before, versions=versions, rollout=rollout, rollout_problem=rollout_problem)
    warnings: list[str] = []
    problem = ""
    if configured:
        try:
            config, warnings = read_model_config(folder / _CONFIG)
        except LoadError as error:
            problem = str(error)
    if config.name and config.name != folder.name:
        problem = f"config.pbtxt names the model '{config.name}', but its folder is '{folder.name}'"
    absent = sorted(set(config.version_policy.specific.versions) - set(versions))
    if absent:
        warnings = [*warnings, f"config.pbtxt asks for versions that do not exist: {absent}"]
    if not versions and (remarks != (_EMPTY,) or configured):
        # It was meant to be a model.
        problem = problem or "; ".join(remarks)
    return Model(
        folder.name, folder, own, config, versions, tuple(warnings), problem, rollout, rollout_problem, remarks
    )


def _remarks(entries: Sequence[Path], versions: Collection[int]) -> tuple[str, ...]:
    """What looks like a version in a model's folder and is none, or that there is nothing; a sentence for each.

    Args:
        entries: all that is in the folder.
        versions: the versions among it.
    """
    remarks = []
    free = max(versions, default=0) + 1
    for path in entries:
        name = path.name
        if name.startswith(".") or name == _WARMUP or (is_version(name) and int(name) in versions):
            continue
        if path.is_symlink() and not path.exists():
            if is_version(name):
                remarks.append(f"'{name}' is not a version, because it is a link to nothing")
        elif not _is_folder(path):
            if path.suffix == ".onnx":
                remarks.append(
                    f"'{name}' is not served, because it is in no version's folder; move it to {free}/{name}"
                )
            elif is_version(name):
                remarks.append(
                    f"'{name}' is not a version, because it is a file; a version is a folder with {MODEL_FILE}"
                )
        elif name.isdecimal() or any(path.glob("*.onnx")):
            digits = "".join(character for character in name if character.isdecimal())[:_MAX_DIGITS]
            number = int(digits or "0")
            number = free if number == 0 or number in versions else number
            remarks.append(
                f"the folder '{name}' is not a version; the name of a version is a whole number above 0 without leading "
                f"zeros, so rename it, for example to '{number}'"
            )
    return tuple(remarks) if remarks or versions else (_EMPTY,)


def _rollout(folder: Path, before: Model | None) -> tuple[Rollout | None, str]:
    """The rollout to use, and why it is not the content of the file, or ""."""
    try:
        return rollouts.read(folder), ""
    except ConfigError as error:
        last = before.rollout if before else None
        instead = "the previous one stays in force" if last else "the newest version answers"
        return last, f"{error}; {instead}"


_CONFIG = "config.pbtxt"
_WARMUP = "warmup"
_RESCUED = "lost+found"
"""Where a file system's repair puts what it finds, at the root of a volume."""
_EMPTY = f"the folder has no version; put the network into 1/{MODEL_FILE}, or remove the folder"
_MAX_DIGITS = 18
"""More digits are no version's number, but a date or a hash."""
NOT_CONTENT = frozenset((rollouts.FILE,))
"""Files of a model's folder that select versions and do not change them."""
_UNREADABLE = -1
"""The size in a fingerprint of a file that cannot be read."""


def fingerprint(folder: Path, folders: Sequence[str] | None = None) -> Fingerprint:
    """The fingerprint of all files below a folder, except hidden ones.

    Unreadable files are marked, so that the fingerprint changes when they become readable.

    Args:
        folder: the folder.
        folders: the only subfolders to include; all when None.

    Raises:
        OSError: the folder cannot be read.
    """
    return _walk(folder, folders, frozenset())


def _walk(folder: Path, folders: Sequence[str] | None, above: Set[tuple[int, int]]) -> Fingerprint:
    place = folder.stat()
    above = above | {(place.st_dev, place.st_ino)}
    files: Fingerprint = ()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in NOT_CONTENT:
            continue
        try:
            if entry.is_dir():
                if folders is None or entry.name in folders:
                    files += _inside(Path(entry.path), above)
                continue
            status = entry.stat()
        except FileNotFoundError:  # gone since it was listed, or a link to nothing
            continue
        except OSError:
            files += _unreadable(entry.path)
            continue
        size = status.st_size if os.access(entry.path, os.R_OK) else _UNREADABLE
        files += ((entry.path, size, status.st_mtime_ns, status.st_ino),)
    return files


def _inside(folder: Path, above: Set[tuple[int, int]]) -> Fingerprint:
    """The fingerprint of a subfolder; a subfolder that cannot be read does not affect the others.

    Args:
        folder: the folder.
        above: device and inode of its parent folders, to detect links to one of them.
    """
    try:
        place = folder.stat()
        return () if (place.st_dev, place.st_ino) in above else _walk(folder, None, above)
    except FileNotFoundError:  # gone since it was listed
        return ()
    except OSError:
        return _unreadable(folder)


def _unreadable(path: Path | str) -> Fingerprint:
    return ((os.fspath(path), _UNREADABLE, 0, 0),)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder. An entry that cannot be read counts as one, so that its problem is shown."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno != errno.ELOOP
