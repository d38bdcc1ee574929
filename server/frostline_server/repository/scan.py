"""The scan of the models folder: models, versions, fingerprints, configurations and rollouts.

It only reads; `plan` decides which versions to load.
"""

import errno
import os
import stat
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from frostline.pb import model_config_pb2
from frostline_server.errors import ConfigError, LoadError
from frostline_server.model.artifact import is_version
from frostline_server.model_config.pbtxt import read_model_config
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
        versions: the fingerprint of every version by number; it covers the model's own files too.
        warnings: about unsupported fields of its configuration.
        problem: why none of its versions can be served, or "".
        rollout: how its traffic is divided among its versions; the last valid one, or None.
        rollout_problem: why its rollout.json cannot be used, or "".
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


def scan(root: Path, before: Mapping[str, Model] = MappingProxyType({}), only: str = "") -> dict[str, Model]:
    """Every model in a folder, by name. Hidden folders and folders whose name is no number are not versions.

    Args:
        root: the folder of models.
        before: the result of the last scan; unchanged configurations are not read again.
        only: the name of a model, to scan no other; all models when None.

    Raises:
        OSError: the folder cannot be read.
    """
    paths = [root / only] if only else root.iterdir()
    folders = sorted(path for path in paths if not path.name.startswith(".") and _is_folder(path))
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
        own = fingerprint(folder, folders=("warmup",))
        versions = {
            int(path.name): own + _inside(path, frozenset())
            for path in folder.iterdir()
            if is_version(path.name) and _is_folder(path)
        }
    except FileNotFoundError:  # gone since it was listed
        return None
    except OSError as error:
        rollout = before.rollout if before else None
        problem = f"the folder cannot be read: {error.strerror}"
        return Model(folder.name, folder, _unreadable(folder), config, {}, (), problem, rollout)
    rollout, rollout_problem = _rollout(folder, before)
    if before is not None and before.fingerprint == own and before.versions.keys() == versions.keys():
        return replace(before, versions=versions, rollout=rollout, rollout_problem=rollout_problem)
    warnings: list[str] = []
    problem = ""
    if (folder / "config.pbtxt").is_file():
        try:
            config, warnings = read_model_config(folder / "config.pbtxt")
        except LoadError as error:
            problem = str(error)
    if config.name and config.name != folder.name:
        problem = f"config.pbtxt names the model '{config.name}', but its folder is '{folder.name}'"
    absent = sorted(set(config.version_policy.specific.versions) - set(versions))
    if absent:
        warnings = [*warnings, f"config.pbtxt asks for versions that do not exist: {absent}"]
    if not (versions or problem or absent):
        return None
    return Model(folder.name, folder, own, config, versions, tuple(warnings), problem, rollout, rollout_problem)


def _rollout(folder: Path, before: Model | None) -> tuple[Rollout | None, str]:
    """The rollout to use, and why it is not the content of the file, or ""."""
    try:
        return rollouts.read(folder), ""
    except ConfigError as error:
        last = before.rollout if before else None
        instead = "the previous one stays in force" if last else "the newest version answers"
        return last, f"{error}; {instead}"


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
