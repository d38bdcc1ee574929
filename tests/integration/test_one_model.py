"""A folder that is one model, served by a server of its own as where a volume holds nothing else."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import frostline
from frostline.server_process import serve
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S

FLAGS = ["--device", "cpu"]


def until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 20)):
        if condition():
            return
        waited.wait(0.05)
    raise AssertionError("it never came true")


def flat(root: Path, *, shift: float = 0.0) -> Path:
    """A network with its card and its golden sample right in a folder."""
    written = onnx_models.write_artifact(root, "linear", model=onnx_models.linear(shift=shift))
    return written.rename(root / "mount")


def test_a_network_right_in_the_folder_is_served_under_the_name_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROSTLINE_MODEL_NAME", "fraud")
    mount = flat(tmp_path)
    x = onnx_models.rows(2)
    with serve([*FLAGS, "--models", str(mount)], lambda _: None) as served, frostline.connect(served.address) as client:
        answer = client.predict("fraud", x)
        np.testing.assert_allclose(answer.logits, onnx_models.logits_of(x), rtol=1e-5)
        assert answer.version == "1"
        assert answer.labels[0] in onnx_models.LABELS
        # Replaced in place, as a ConfigMap's or a volume's files are.
        for file in sorted(flat(tmp_path / "next", shift=1.0).iterdir()):
            file.rename(mount / file.name)
        expected = onnx_models.logits_of(x) + 1
        until(lambda: np.allclose(client.predict("fraud", x).logits, expected, rtol=1e-5))


def test_versions_right_in_the_folder_are_served_and_followed(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "digits", 1)
    flags = [*FLAGS, "--models", str(tmp_path / "digits")]
    with serve(flags, lambda _: None) as served, frostline.connect(served.address) as client:
        assert client.predict("digits", onnx_models.rows(1)).version == "1"
        onnx_models.write_artifact(tmp_path / "new", "digits", 2).rename(tmp_path / "digits" / "2")
        until(lambda: client.predict("digits", onnx_models.rows(1)).version == "2")
