"""The artifact on disk: a version's ONNX file, its card, its labels, and their SHA-256 digests."""

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from frostline.pb import model_config_pb2
from frostline_server.codec.typed_answers import Task
from frostline_server.errors import LoadError
from frostline_server.model_config.pbtxt import MODEL_FILE
from frostline_server.regular_files import FileReader
from frostline_server.runtime.graph.external_data import weights_file
from frostline_server.runtime.host_limits import memory_limit_bytes

_MAX_MODEL_BYTES = 2**31 - 1
"""As many as a protobuf message can have."""
_WEIGHTS_SHARE = 4
"""Which part of the memory files of weights may have that are read to prove that a version is whole."""
MAX_VERSION = 2**63 - 1
"""The largest number of a version that fits the 64 bits that the protocol and a config.pbtxt have for it."""


@dataclass(slots=True, eq=False)
class Artifact:
    """A version's files, the ONNX file being the one that the card describes.

    Attributes:
        folder: the version's folder, named by its number.
        file: the ONNX file.
        card: the version's card; empty when there is none.
        sha256: of the ONNX file.
        files: reads what is in the folder.
    """

    folder: Path
    file: Path
    card: Mapping[str, Any]
    sha256: str
    files: FileReader
    _content: bytes | None = None
    _weights: dict[str, bytes] = field(default_factory=dict)

    @property
    def golden_file(self) -> Path | None:
        """The golden sample's file, if there is one, whatever it is: what cannot be read must not pass for proved."""
        path = self.folder / "golden.npz"
        return path if os.path.lexists(path) else None

    def peek(self) -> bytes:
        """The content of the ONNX file, kept for whoever calls `read`.

        Raises:
            LoadError: see `read`.
        """
        if self._content is None:
            self._content = self.read()
        return self._content

    def read(self) -> bytes:
        """The content of the ONNX file, whose SHA-256 is `sha256`.

        The file was read to be checked, and the first call gives that content away, so that no copy of it stays in
        memory. Further calls, for further sessions, read the file again.

        Raises:
            LoadError: it cannot be read, or is no longer the file that was checked.
        """
        content, self._content = self._content, None
        if content is None:
            content, digest = _read(self.files, self.file, _MAX_MODEL_BYTES)
            if digest != self.sha256:
                raise LoadError(f"{self.file.name} changed while it was being loaded")
        return content

    def weights(self, name: str) -> bytes:
        """The content of a file that holds weights.

        ONNX Runtime would map the file: what is written into it later would be served at once, unproved, and a file that is
        cut off would end the process. It would also not follow a link out of the folder, as in a cache of Hugging Face's.

        Args:
            name: as in the ONNX file or the card.

        Raises:
            LoadError: it is not in the folder, cannot be read, or is not the file that the card describes.
        """
        if name in self._weights:
            return self._weights[name]
        # ONNX Runtime has them a second time, for a moment.
        left = memory_limit_bytes() // 2 - sum(map(len, self._weights.values()))
        content, digest = _read(self.files, weights_file(self.file, name), max(0, left))
        if (listed := self._listed.get(name)) not in (None, digest):
            raise LoadError(f"{name} is not the file its card describes: sha256 {digest}, card says {listed}")
        self._weights[name] = content
        return content

    def listed(self, name: str) -> bytes:
        """The content of a file that the card lists.

        Raises:
            LoadError: the card does not list it, or it cannot be read, or is not the file that the card describes.
        """
        if name not in self._listed:
            raise LoadError(
                f"card.json does not list {name} among its files, so whether it is the right one is not known"
            )
        path = self.folder / name
        content, digest = _read(self.files, path, _MAX_MODEL_BYTES)
        if digest != self._listed[name]:
            raise LoadError(
                f"{name} is not the file its card describes: sha256 {digest}, card says {self._listed[name]}"
            )
        return content

    def prove_weights(self) -> None:
        """Compare the files that the card lists with it; keeps nothing of them.

        Raises:
            LoadError: one cannot be read or is not the file that the card describes, or all together are too large.
        """
        left = memory_limit_bytes() // _WEIGHTS_SHARE
        for name, listed in self._listed.items():
            size, digest = _hashed(self.files, weights_file(self.file, name), left)
            left -= size
            if listed != digest:
                raise LoadError(f"{name} is not the file its card describes")

    def release(self) -> None:
        """Give up what is kept of the files, once the sessions are open."""
        self._content = None
        self._weights.clear()

    def check_weights(self, external: Sequence[str], warn: Callable[[str], None]) -> None:
        """Warn of files that hold weights and that the card does not list, if there is one that lists the ONNX file."""
        for name in external:
            if name not in self._listed and "sha256" in self.card:
                warn(f"the card has no sha256 of {name}, which holds weights of {self.file.name}")

    @property
    def _listed(self) -> Mapping[str, str]:
        """The SHA-256 of each file of weights that the card lists."""
        listed: Any = self.card.get("files", {})
        if not isinstance(listed, Mapping):
            raise LoadError("card.json has files that are no object of names and sha256")
        return listed


def is_version(name: str) -> bool:
    """Whether a folder's name is a version number: a positive decimal without leading zeros, up to `MAX_VERSION`."""
    plain = name.isdecimal() and name.isascii() and not name.startswith("0")
    return plain and len(name) <= len(str(MAX_VERSION)) and int(name) <= MAX_VERSION


def model_folder(folder: Path) -> Path:
    """The folder of the model that a version's folder belongs to: the same one where the network lies right in it."""
    return folder.parent if is_version(folder.name) else folder


def version_in(folder: Path) -> str:
    """The number of the version in a folder: its name, or 1 where the network lies right in the model's folder."""
    return folder.name if is_version(folder.name) else "1"


def check_artifact(folder: Path, config: model_config_pb2.ModelConfig, files: FileReader) -> Artifact:
    """The artifact in a version's folder, its ONNX file read and checked against its card.

    Args:
        folder: the version's folder, named by its number.
        config: the model's own configuration.
        files: reads what is in the folder.

    Raises:
        LoadError: a file cannot be read, or the ONNX file is not the one the card describes.
    """
    file, card = model_file(folder, config), read_card(files, folder / "card.json")
    content, digest = _read(files, file, _MAX_MODEL_BYTES)
    if card.get("sha256", digest) != digest:
        raise LoadError(f"{file.name} is not the file its card describes: sha256 {digest}, card says {card['sha256']}")
    return Artifact(folder, file, card, digest, files, content)


def read_card(files: FileReader, path: Path) -> Mapping[str, Any]:
    """A version's card; empty when there is none.

    Raises:
        LoadError: it cannot be read, is not a JSON object, or has a key twice.
    """
    try:
        card = json.loads(files.text(path), object_pairs_hook=distinct)
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise LoadError(f"{path.name} cannot be read: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise LoadError(f"{path.name} holds no JSON object")
    return card


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which every key is there once; of two, some readers take the first and some the last.

    Raises:
        ValueError: a key is there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is there twice")
    return fields


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
        except (ValueError, RecursionError) as error:
            raise LoadError(f"the ONNX file's frostline.labels cannot be read: {error}") from error
    labels = in_file if card.get("labels") is None else card["labels"]
    if labels is None:
        return None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise LoadError("labels must be a list of texts")
    if not all(map(_is_unicode, labels)):
        raise LoadError(
            "labels must be a list of texts, and one has a part of a character: a surrogate without its other"
        )
    if classes is not None and len(labels) != classes:
        raise LoadError(f"there are {len(labels)} labels for {classes} classes")
    if in_file is not None and in_file != labels:
        raise LoadError(f"the card's labels are not the ONNX file's: {str(labels)[:80]} and {str(in_file)[:80]}")
    return labels


def read_task(card: Mapping[str, Any], metadata: Mapping[str, str], labels: Sequence[str] | None) -> Task | None:
    """What a network was published for; None if nothing says it.

    Args:
        card: the version's card.
        metadata: the ONNX file's metadata.
        labels: names of the classes.

    Raises:
        LoadError: the card's decision is none.
    """
    name = metadata.get("frostline.task") or card.get("task")
    if not isinstance(name, str) or not name or len(name) > _LONGEST_TASK:
        return None
    scores = card.get("scores")
    decision = scores.get("decision") if isinstance(scores, dict) else None
    if not isinstance(decision, dict):
        return Task(name)
    found = decision.get("threshold")
    thresholds = found if isinstance(found, list) else [] if found is None else [found]
    for threshold in thresholds:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise LoadError(
                f"the card's decision has the threshold {str(threshold)[:40]}; expected probabilities from 0 to 1"
            )
    if len(thresholds) > 1 and len(thresholds) != len(labels or ()):
        raise LoadError(f"the card's decision has {len(thresholds)} thresholds for {len(labels or ())} labels")
    # Of two classes one is answered from its threshold on, and the other below it.
    label = decision.get("label")
    positive = None
    if isinstance(label, str) and labels is not None and len(labels) == 2 and len(thresholds) == 1 and label in labels:
        positive = labels.index(label)
    return Task(name, tuple(map(float, thresholds)), positive)


_LONGEST_TASK = 40


def _is_unicode(text: str) -> bool:
    """Whether a text can be sent: JSON can hold what no encoding has."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read(files: FileReader, path: Path, most_bytes: int) -> tuple[bytes, str]:
    """A file's content and its SHA-256 in hexadecimal.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        content = files.read(path, most_bytes)
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    return content, hashlib.sha256(content).hexdigest()


def _hashed(files: FileReader, path: Path, most_bytes: int) -> tuple[int, str]:
    """A file's size and its SHA-256 in hexadecimal, without having it in memory.

    Raises:
        LoadError: it cannot be read, or is larger.
    """
    try:
        with files.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise LoadError(
                    "the files that the card lists are too large to be compared with it before they are loaded"
                )
            return size, hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error


def whole(folder: Path, config: model_config_pb2.ModelConfig, files: FileReader) -> Artifact | None:
    """The artifact in a version's folder if it proves that all of it is there, else None.

    Its files are those its card describes, and the golden sample's file has its end.

    Args:
        folder: the version's folder.
        config: the model's own configuration.
        files: reads what is in the folder.
    """
    try:
        # First what costs nothing: most versions that prove nothing have no card, or are half copied.
        card = read_card(files, folder / "card.json")
        if not ("sha256" in card and _ends(files, folder / "golden.npz")):
            return None
        artifact = check_artifact(folder, config, files)
        artifact.prove_weights()
    except Exception:  # noqa: BLE001  it proves nothing; loading it says why
        return None
    return artifact


def _ends(files: FileReader, path: Path) -> bool:
    """Whether an archive has its end."""
    try:
        with files.open(path) as file:
            return zipfile.is_zipfile(file)
    except OSError:
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
