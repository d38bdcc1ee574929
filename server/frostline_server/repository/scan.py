"""The scan of the models folder: models, versions, fingerprints, configurations and rollouts.

It only reads; `plan` decides which versions to load.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from types import MappingProxyType

from frostline.pb import model_config_pb2
from frostline_server.errors import ConfigError, LoadError
from frostline_server.model.artifact import MAX_VERSION, is_version, model_folder, version_in
from frostline_server.model_config.pbtxt import MODEL_FILE, read_model_config
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.fingerprint import MAX_ENTRIES, TooManyEntries, Walk, unreadable
from frostline_server.repository.layout import MAX_LISTED, layout_of, models_among, why_both
from frostline_server.repository.plan import Fingerprint
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.routes import standing, wanted


@dataclass(frozen=True, slots=True)
class Model:
    """A model's folder as the scan found it.

    Attributes:
        name: the folder's name, or what the model is called where the models folder is one model.
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
        flat: whether its only version lies right in its folder.
        misconfigured: whether the problem is its own configuration, so that there is none with another.
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
    flat: bool = False
    misconfigured: bool = False

    def version_folder(self, number: int) -> Path:
        """The folder of one of its versions."""
        return self.path if self.flat else self.path / str(number)


def scan(
    root: Path,
    before: Mapping[str, Model] = MappingProxyType({}),
    only: str = "",
    files: FileReader | None = None,
    name: str = "",
) -> dict[str, Model]:
    """Every model in a folder, by name. Hidden folders and folders whose name is no number are not versions.

    A folder without versions is found too, with a remark or a problem that says so. Left out are a folder that is being
    published, in which everything is hidden, and what the file system keeps at the root of a volume. Whatever is wrong
    with one folder, the others are found all the same.

    The folder may also be one model itself, as where a volume holds nothing else: with versions right in it, or with the
    network, which is then its only version.

    Args:
        root: the folder of models.
        before: the result of the last scan; unchanged configurations are not read again.
        only: the name of a model, to scan no other; all models when "".
        files: reads what is in the folder; by default only what really lies there.
        name: of the model, where the folder is one itself; by default the folder's, or its parent's where it is a version's.

    Raises:
        OSError: the folder cannot be read.
    """
    files = files or FileReader(root)
    # Only a look at all that is in it tells whether it is one model.
    whole = not only or (only in before and before[only].path == root)
    paths = root.iterdir() if whole else [root / only]
    folders = sorted(
        (path for path in paths if not path.name.startswith(".") and path.name != _RESCUED and _is_folder(path)),
        key=lambda path: path.name,
    )
    was_model = any(model.path == root and not model.flat for model in before.values())
    layout = layout_of(root, folders, was_model=was_model) if whole else "models"
    if layout == "models":
        found = [_read(folder, before.get(folder.name), files) for folder in folders]
    else:
        name = name or model_folder(root.absolute()).name
        if models := models_among(folders):
            # Which of the two was meant, nothing says; the models are served as they would be without the rest.
            found = [_read(folder, before.get(folder.name), files) for folder in models]
            found.append(_unusable(root, before.get(name), legible(why_both(root, models[0].name)), name))
        else:
            found = [_read(root, before.get(name), files, name, flat=layout == "network")]
    return {model.name: model for model in found if model is not None}


def _read(folder: Path, before: Model | None, files: FileReader, name: str = "", *, flat: bool = False) -> Model | None:
    """The model in a folder; None if the folder is not a model. Failures become problems, never exceptions."""
    name = name or folder.name
    if not name.isprintable():
        # Messages and metrics cannot hold such a name, so they show an escaped one.
        config, problem = model_config_pb2.ModelConfig(), "the folder's name is not printable text; rename it"
        return Model(legible(name), folder, (), config, {}, (), problem)
    try:
        if folder.is_symlink() and (outside := files.outside(folder)):
            return _unusable(folder, before, outside, name)
        return _found(folder, before, files, name, flat=flat)
    except OSError as error:
        return _unusable(folder, before, legible(f"the folder cannot be read: {error.strerror or error}"), name)
    except Exception as error:  # noqa: BLE001  one model's trouble is its own, also if there is no memory for it
        problem = legible(f"unexpected {type(error).__name__} while it was read: {error}")
        return _unusable(folder, before, problem, name)


def _unusable(folder: Path, before: Model | None, problem: str, name: str) -> Model:
    """A model of which nothing can be loaded now; what is in service of it stays."""
    rollout, versions = (before.rollout, dict(before.versions)) if before else (None, {})
    config, flat = model_config_pb2.ModelConfig(), before is not None and before.flat
    return Model(name, folder, unreadable(folder), config, versions, (), problem, rollout, flat=flat)


def _found(folder: Path, before: Model | None, files: FileReader, name: str, *, flat: bool) -> Model | None:
    walk = Walk(files)
    try:
        own = walk.fingerprint(folder, (_WARMUP,))
        entries = sorted(walk.listed(folder), key=lambda path: path.name)
        if flat:
            versions = {int(version_in(folder)): walk.inside(folder, frozenset())}
        else:
            versions = {
                int(path.name): own + walk.inside(path, frozenset())
                for path in entries
                if is_version(path.name) and _is_folder(path)
            }
            if entries and not versions and all(path.name.startswith(".") for path in entries):
                return None  # its first version is being published
        remarks = () if flat else _remarks(entries, versions)
        # Whatever it is: what is no file is not ignored.
        configured = os.path.lexists(folder / _CONFIG)
    except FileNotFoundError:  # gone since it was listed
        return None
    except TooManyEntries:
        return _unusable(folder, before, _TOO_MANY, name)
    rollout, rollout_problem = _rollout(folder, before, files)
    if not versions and rollout is None and before is not None:
        # What is still in service keeps its labels while the folder is written anew.
        rollout = before.rollout
    if (
        before is not None
        and before.fingerprint == own
        and before.versions.keys() == versions.keys()
        and before.remarks == remarks
        and before.flat == flat
    ):
        return replace(before, versions=versions, rollout=rollout, rollout_problem=rollout_problem)
    config, warnings, problem = (
        _configuration(folder, files) if configured else (model_config_pb2.ModelConfig(), [], "")
    )
    if config.name and config.name != name:
        named = "its folder is" if name == folder.name else "model_name is"
        problem = f"config.pbtxt names the model '{config.name}', but {named} '{name}'"
    absent, none = absent_versions("config.pbtxt", config, versions, rollout)
    if none:
        problem = problem or absent
    elif absent:
        warnings = [*warnings, absent]
    misconfigured = bool(problem and versions)
    if not versions and (remarks != (_EMPTY,) or configured):
        # It was meant to be a model.
        problem = problem or "; ".join(remarks)
    return Model(
        name, folder, own, config, versions, tuple(warnings), problem, rollout, rollout_problem, remarks, flat,
        misconfigured,
    )  # fmt: skip


def absent_versions(
    source: str, config: model_config_pb2.ModelConfig, versions: Collection[int], rollout: Rollout | None
) -> tuple[str, bool]:
    """What is to be said of the versions that a configuration asks for and that do not exist.

    Args:
        source: of the configuration, for the message.
        config: the configuration.
        versions: that exist.
        rollout: of the model.

    Returns:
        That, "" where there are none; and whether versions exist, and none of them is to be served.
    """
    asked = set(config.version_policy.specific.versions)
    absent = sorted(asked.difference(versions))
    if not absent:
        return "", False
    told = f"{source} asks for versions that do not exist: {absent}"
    if not versions or not {*asked, *wanted(rollout), *standing(rollout)}.isdisjoint(versions):
        return told, False
    return f"{told}; the folder has {sorted(versions)}", True


def _configuration(folder: Path, files: FileReader) -> tuple[model_config_pb2.ModelConfig, list[str], str]:
    """A model's own configuration, warnings about it, and why it cannot be used, or ""."""
    try:
        return (*read_model_config(files, folder / _CONFIG), "")
    except LoadError as error:
        return model_config_pb2.ModelConfig(), [], legible(str(error))


def _remarks(entries: Sequence[Path], versions: Collection[int]) -> tuple[str, ...]:
    """What looks like a version in a model's folder and is none, or that there is nothing; a sentence for each.

    Args:
        entries: all that is in the folder.
        versions: the versions among it.
    """
    remarks: list[str] = []
    first = max(versions, default=0) + 1
    free = next(number for number in count(first if first <= MAX_VERSION else 1) if number not in versions)
    for path in entries:
        name = path.name
        if name.startswith(".") or name == _WARMUP or (is_version(name) and int(name) in versions):
            continue
        if len(remarks) == _MAX_REMARKS:
            remarks.append("and more like these")
            break
        name = legible(name)
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
        elif name.isdecimal() or _has_network(path):
            digits = "".join(character for character in name if character.isdecimal())[:_MAX_DIGITS]
            number = int(digits or "0")
            number = free if number == 0 or number in versions else number
            largest = f", up to {MAX_VERSION}" if len(name) > _MAX_DIGITS else ""
            remarks.append(
                f"the folder '{name}' is not a version; the name of a version is a whole number above 0 without leading "
                f"zeros{largest}, so rename it, for example to '{number}'"
            )
    return tuple(remarks) if remarks or versions else (_EMPTY,)


def _has_network(folder: Path) -> bool:
    """Whether an ONNX file is among the first files that a folder lists."""
    try:
        with os.scandir(folder) as listing:
            return any(entry.name.endswith(".onnx") for entry in islice(listing, MAX_LISTED))
    except OSError:
        return False


def rerouted(model: Model, files: FileReader) -> Model:
    """A model with its rollout as the file says now, and with everything else as it was found.

    Args:
        model: as it was found.
        files: reads what is in the folder.
    """
    try:
        rollout, problem = _rollout(model.path, model, files)
        if (rollout, problem) == (model.rollout, model.rollout_problem):
            return model
        if rollout is None and not any(is_version(path.name) for path in model.path.iterdir()):
            return model  # what is still in service keeps its labels, as above
    except OSError:  # which a look at the folder reports
        return model
    return replace(model, rollout=rollout, rollout_problem=problem)


def _rollout(folder: Path, before: Model | None, files: FileReader) -> tuple[Rollout | None, str]:
    """The rollout to use, and why it is not the content of the file, or ""."""
    try:
        return rollouts.read(folder, files), ""
    except ConfigError as error:
        last = before.rollout if before else None
        instead = "the previous one stays in force" if last else "the newest version answers"
        return last, legible(f"{error}; {instead}")


_CONFIG = "config.pbtxt"
_WARMUP = "warmup"
_RESCUED = "lost+found"
"""Where a file system's repair puts what it finds, at the root of a volume."""
_EMPTY = f"the folder has no version; put the network into 1/{MODEL_FILE}, or remove the folder"
_MAX_DIGITS = 18
"""More digits are no version's number, but a date or a hash."""
_TOO_MANY = (
    f"the folder has more than {MAX_ENTRIES} files and folders, so changes in it are not followed; remove versions that "
    "are no longer needed, and what is no part of the model"
)
_MAX_REMARKS = 20
_MAX_TEXT = 2000
"""The most characters of a sentence about a model."""


def legible(text: str) -> str:
    """A text that every log, message and metric can hold: printable, and of bounded length."""
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}..."
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def _is_folder(path: Path) -> bool:
    """Whether it is a folder. An entry that cannot be read counts as one, so that its problem is shown."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno != errno.ELOOP
