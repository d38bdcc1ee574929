"""Whether a version proves that all of it is there, before any of it is loaded."""

import hashlib
import json
from pathlib import Path

import pytest

from frostline.pb import model_config_pb2
from frostline_server.model import artifact
from frostline_server.model.artifact import whole
from frostline_server.regular_files import FileReader
from tests.support import onnx_models

CONFIG = model_config_pb2.ModelConfig()
WEIGHTS = bytes(range(256)) * 64


def published(root: Path, digest: str) -> Path:
    """A version whose card lists a file of weights with this SHA-256."""
    folder = onnx_models.write_artifact(root, "m")
    (folder / "weights.bin").write_bytes(WEIGHTS)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "files": {"weights.bin": digest}}))
    return folder


def test_a_version_with_all_that_its_card_lists_is_whole(tmp_path: Path) -> None:
    folder = published(tmp_path, hashlib.sha256(WEIGHTS).hexdigest())
    assert whole(folder, CONFIG, FileReader(tmp_path)) is not None
    (folder / "weights.bin").write_bytes(WEIGHTS[:-1])
    assert whole(folder, CONFIG, FileReader(tmp_path)) is None


def test_files_that_are_too_large_to_be_read_before_they_are_loaded_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(tmp_path, hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(artifact, "memory_limit_bytes", lambda: 4 * len(WEIGHTS))
    assert whole(folder, CONFIG, FileReader(tmp_path)) is not None
    monkeypatch.setattr(artifact, "memory_limit_bytes", lambda: 4 * (len(WEIGHTS) - 1))
    assert whole(folder, CONFIG, FileReader(tmp_path)) is None
