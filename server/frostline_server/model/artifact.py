"""The artifact on disk: a version's ONNX file, its card, its labels, and their SHA-256 digests."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
from frostline_server.model_config.pbtxt import MODEL_FILE


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version's files, the ONNX file being the one that the card describes.

    Attributes:
        folder: the version's folder, named by its number.
        file: the ONNX file.
        card: the version's card; empty when there is none.
        sha256: of the ONNX file.
    """

    folder: Path
    file: Path
    card: Mapping[str, Any]
    sha256: str

    @property
    def golden_file(self) -> Path | None:
        """The golden sample's file, if there is one."""
        path = self.folder / "golden.npz"
        return path if path.is_file() else None


def is_version(name: str) -> bool:
    """Whether a folder's name is a version number: a positive decimal without leading zeros."""
    return name.isdecimal() and name.isascii() and not name.startswith("0")


def check_artifact(folder: Path, config: model_config_pb2.ModelConfig) -> Artifact:
    """The artifact in a version's folder, its ONNX file checked against its card.

    Args:
        folder: the version's folder, named by its number.
        config: the model's own configuration.

    Raises:
        LoadError: a file cannot be read, or the ONNX file is not the one the card describes.
    """
    file, card = model_file(folder, config), read_card(folder / "card.json")
    digest = sha256(file)
    if card.get("sha256", digest) != digest:
        raise LoadError(f"{file.name} is not the file its card describes: sha256 {digest}, card says {card['sha256']}")
    return Artifact(folder, file, card, digest)


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
        raise LoadError(f"the card's labels are not the ONNX file's: {str(labels)[:80]} and {str(in_file)[:80]}")
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


def whole(folder: Path, config: model_config_pb2.ModelConfig) -> bool:
    """Whether a version proves that all of it is there.

    Its files are those its card describes, and the golden sample's file has its end.

    Args:
        folder: the version's folder.
        config: the model's own configuration.
    """
    try:
        path, card = model_file(folder, config), read_card(folder / "card.json")
        files = {**card.get("files", {}), path.name: card["sha256"]}
        return zipfile.is_zipfile(folder / "golden.npz") and all(
            sha256(path.parent / name) == digest for name, digest in files.items()
        )
    except (LoadError, KeyError, TypeError):
        return False


def model_file(folder: Path, config: model_config_pb2.ModelConfig) -> Path:
    """The ONNX file of a version's folder.

    Raises:
        LoadError: the configuration names one that is somewhere else.
    """
    file = config.default_model_filename or MODEL_FILE
    if Path(file).name != file:
        raise LoadError(f"config.pbtxt names the file '{file}'; it must be one in the version's own folder")
    path = folder / file
    # Triton's layout for a network with weights in files of their own.
    # pathlib would raise for a folder that cannot be read, which whoever reads the file finds out.
    return path / MODEL_FILE if os.path.isdir(path) else path  # noqa: PTH112  as above


def check_weights(path: Path, external: Sequence[str], card: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Check the files that hold an ONNX file's weights against the card's `files`: their sha256 by name.

    Raises:
        LoadError: one is not the file the card describes.
    """
    files = card.get("files", {})
    if not isinstance(files, Mapping):
        raise LoadError("card.json has files that are no object of names and sha256")
    for name in external:
        if name not in files:
            if "sha256" in card:
                warn(f"the card has no sha256 of {name}, which holds weights of {path.name}")
            continue
        digest = sha256(path.parent / name)
        if files[name] != digest:
            raise LoadError(f"{name} is not the file its card describes: sha256 {digest}, card says {files[name]}")
