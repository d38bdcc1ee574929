"""What the models folder holds: which versions, which of them are to be served, their cards and their labels."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.pb import model_config_pb2
from server.errors import LoadError
from server.model_config import read_model_config


@dataclass(frozen=True, slots=True)
class Model:
    """A model's folder as it was found.

    Attributes:
        name: the folder's name.
        path: the folder.
        config: its own configuration, empty without a config.pbtxt.
        groups: numbers of versions to serve; within a group each is tried only if the one before it failed.
        warnings: what in its configuration is not honoured.
        problem: why nothing of it can be served, or "".
    """

    name: str
    path: Path
    config: model_config_pb2.ModelConfig
    groups: tuple[tuple[int, ...], ...]
    warnings: tuple[str, ...] = ()
    problem: str = ""


def version_groups(policy: model_config_pb2.ModelVersionPolicy, on_disk: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Which versions to serve, as groups: within a group each is tried only if the one before it failed.

    With the policy `latest`, each of the newest n leads a group, with all versions older than those n behind it.
    """
    numbers = sorted(on_disk, reverse=True)
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return tuple((number,) for number in numbers)
    if choice == "specific":
        return tuple((number,) for number in numbers if number in policy.specific.versions)
    wanted = max(1, policy.latest.num_versions)
    # Each of the newest n may fall back on any version older than all n.
    newest, older = numbers[:wanted], numbers[wanted:]
    return tuple((number, *older) for number in newest)


def scan(root: Path) -> list[Model]:
    """Every model in a folder, by name. Hidden folders and folders whose name is no number are not versions."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [model for folder in folders if (model := _read(folder)) is not None]


def _read(folder: Path) -> Model | None:
    """The model in a folder; None where nothing asks for one."""
    config = model_config_pb2.ModelConfig()
    if not folder.name.isprintable():
        # Such a name fits neither into a message nor into a metric, so an escaped one stands for it.
        name = folder.name.encode("unicode_escape", "backslashreplace").decode()
        return Model(name, folder, config, (), (), "the folder's name is not printable text; rename it")
    warnings: list[str] = []
    numbers: list[int] = []
    problem = ""
    try:
        numbers = [int(path.name) for path in folder.iterdir() if path.is_dir() and is_version(path.name)]
        if (folder / "config.pbtxt").is_file():
            config, warnings = read_model_config(folder / "config.pbtxt")
    except LoadError as error:
        problem = str(error)
    except OSError as error:
        problem = f"the folder cannot be read: {error.strerror}"
    if config.name and config.name != folder.name:
        problem = f"config.pbtxt names the model '{config.name}', its folder is '{folder.name}'"
    groups = version_groups(config.version_policy, numbers)
    absent = sorted(set(config.version_policy.specific.versions) - set(numbers))
    if absent:
        warnings = [*warnings, f"config.pbtxt asks for versions that are not there: {absent}"]
    if not (groups or problem or absent):
        return None
    return Model(folder.name, folder, config, groups, tuple(warnings), problem)


def is_version(name: str) -> bool:
    """Whether a folder's name is a version number: a positive decimal without leading zeros."""
    return name.isdecimal() and name.isascii() and not name.startswith("0")


def read_card(path: Path) -> Mapping[str, Any]:
    """A version's card; empty when there is none.

    Raises:
        LoadError: it is not a JSON object.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise LoadError(f"{path.name} holds no JSON object")
    return card


def read_labels(card: Mapping[str, Any], metadata: Mapping[str, str], classes: int | None) -> Sequence[str] | None:
    """Names of the classes: from the card, or from the ONNX file's own metadata.

    Args:
        card: the version's card.
        metadata: the file's metadata.
        classes: how many classes the network tells apart, if that is known.

    Raises:
        LoadError: they are no list of texts, or not one for each class, or the card and the file disagree.
    """
    in_file: Any = None
    if "frostline.labels" in metadata:
        try:
            in_file = json.loads(metadata["frostline.labels"])
        except ValueError as error:
            raise LoadError(f"the ONNX file's frostline.labels cannot be read: {error}") from error
    labels = in_file if card.get("labels") is None else card["labels"]
    if labels is None:
        return None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise LoadError("labels must be a list of texts")
    if classes is not None and len(labels) != classes:
        raise LoadError(f"there are {len(labels)} labels for {classes} classes")
    if in_file is not None and in_file != labels:
        raise LoadError(f"the card's labels are not the ONNX file's: {labels[:5]} and {in_file[:5]}")
    return labels


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
