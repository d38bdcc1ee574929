"""Whether a version proves that all of it is there, before any of it is loaded."""

import hashlib
import json
from pathlib import Path

import pytest

from frostline.pb import model_config_pb2
from frostline_server.codec.typed_answers import Task
from frostline_server.errors import LoadError
from frostline_server.model import artifact
from frostline_server.model.artifact import read_task, whole
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


@pytest.mark.parametrize(
    ("card", "metadata", "labels", "task"),
    [
        ({}, {}, None, None),
        ({"task": 5}, {}, None, None),
        ({"task": "x" * 41}, {}, None, None),
        ({"task": "regression"}, {}, None, Task("regression")),
        ({"task": "regression"}, {"frostline.task": "any"}, None, Task("any")),
        ({"task": "any", "scores": {"decision": 3}}, {}, None, Task("any")),
        ({"task": "binary", "scores": {"decision": {"threshold": 0.2}}}, {}, None, Task("binary", (0.2,))),
        (
            {"task": "multi-label", "scores": {"decision": {"threshold": [0.2, 1], "label": ["a", "b"]}}},
            {},
            ["a", "b"],
            Task("multi-label", (0.2, 1.0)),
        ),
        (
            {"task": "single-label", "scores": {"decision": {"threshold": 0.2, "label": "b"}}},
            {},
            ["a", "b"],
            Task("single-label", (0.2,), 1),
        ),
        (
            {"task": "single-label", "scores": {"decision": {"threshold": 0.2, "label": "z"}}},
            {},
            ["a", "b"],
            Task("single-label", (0.2,)),
        ),
    ],
)
def test_a_task_is_what_the_card_and_the_file_say(
    card: dict[str, object], metadata: dict[str, str], labels: list[str] | None, task: Task | None
) -> None:
    assert read_task(card, metadata, labels) == task


@pytest.mark.parametrize(
    ("threshold", "fact"),
    [
        (2, "the threshold 2; expected probabilities from 0 to 1"),
        ([0.5, True], "the threshold True"),
        (["0.5"], "the threshold 0.5; expected"),
        (float("nan"), "the threshold nan"),
        ([0.5, 0.5, 0.5], "3 thresholds for 2 labels"),
    ],
)
def test_a_decision_that_is_none_fails_the_version(threshold: object, fact: str) -> None:
    with pytest.raises(LoadError, match=fact):
        read_task({"task": "multi-label", "scores": {"decision": {"threshold": threshold}}}, {}, ["a", "b"])
