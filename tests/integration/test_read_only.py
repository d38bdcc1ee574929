"""A server that finds no folder to write to, as in a pod with readOnlyRootFilesystem."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support.calls import row_request, stub
from tests.support.onnx_models import write_artifact
from tests.support.servers import TIMEOUT_S

READ_ONLY = """
set -e
mount --make-rprivate /
for folder in "$TMPDIR" /tmp /var/tmp /usr/tmp /dev/shm "$PWD" {models}; do
    [ -d "$folder" ] && mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"
done
exec "$@"
"""
FLAGS = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json"]


@pytest.fixture
def read_only(tmp_path: Path) -> list[str]:
    """What starts a program with every folder that it could write to mounted read-only."""
    command = ["unshare", "--mount", "bash", "-c", READ_ONLY.format(models=tmp_path), "_"]
    try:
        tried = subprocess.run([*command, "true"], check=False, capture_output=True, cwd=tmp_path)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if tried.returncode:
        pytest.skip("needs root, for a mount namespace")
    return command


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_artifact(tmp_path, "linear")
    return tmp_path


def serve(prefix: list[str], models: Path, *flags: str) -> subprocess.Popen[str]:
    # Coverage would write into the folder, and complain.
    environment = {
        name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR" and not name.startswith("COV")
    }
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "frostline", "serve", "--models", str(models), *FLAGS, *flags],
        stderr=subprocess.PIPE,
        text=True,
        cwd=models,
        env=environment | {"TMPDIR": tempfile.gettempdir()},
    )


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, str]]:
    assert process.stderr is not None
    for line in process.stderr:
        yield json.loads(line)


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_a_server_needs_no_folder_to_write_to(read_only: list[str], models: Path, transport: str) -> None:
    with serve(read_only, models, "--transport", transport) as process:
        told = events(process)
        ready = next(event for event in told if event["event"] == "ready")
        assert ready["transport"] == transport
        with grpc.insecure_channel(ready["address"]) as channel:
            answer = stub(channel).ModelInfer(row_request(np.ones((1, 4), np.float32)), timeout=TIMEOUT_S)
        assert answer.outputs[0].shape == [1, 3]
        process.terminate()
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0
