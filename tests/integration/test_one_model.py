"""A folder that is one model, served by a server of its own as where a volume holds nothing else.

The other layout, the network right in the folder, is served to a pod of KServe in `test_kubelet`.
"""

import threading
from pathlib import Path

import pytest

import frostline
from frostline.server_process import serve
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S


def test_versions_right_in_the_folder_are_served_under_the_name_of_the_environment_and_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROSTLINE_MODEL_NAME", "fraud")
    onnx_models.write_artifact(tmp_path, "mount", 1)
    flags = ["--device", "cpu", "--models", str(tmp_path / "mount")]
    with serve(flags, lambda _: None) as served, frostline.connect(served.address, timeout_s=TIMEOUT_S) as client:
        assert client.predict("fraud", onnx_models.rows(1)).version == "1"
        onnx_models.write_artifact(tmp_path / "new", "mount", 2).rename(tmp_path / "mount" / "2")
        waited = threading.Event()
        while client.predict("fraud", onnx_models.rows(1)).version != "2":
            waited.wait(0.02)
