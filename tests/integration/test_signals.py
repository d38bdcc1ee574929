"""Signals to a real process: none is lost while it starts, also as PID 1, and SIGHUP has it look at its files again."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S

EARLY = """
import os, sys
from frostline.cli import main
run = main.run
def told(arguments):
    # After the first thing that the process does, and before it has imported anything of the server.
    assert not any(name.startswith(("frostline_server", "typer")) for name in sys.modules)
    os.kill(os.getpid(), {number})
    return run(arguments)
main.run = told
sys.argv.insert(1, "serve")
main.main()
"""
FLAGS = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json"]
AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child"]


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    assert process.stderr is not None
    for line in process.stderr:
        yield json.loads(line)


def can_unshare() -> bool:
    program = shutil.which("unshare")
    return program is not None and subprocess.run([*AS_PID_1, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("prefix", [[], AS_PID_1], ids=["with a parent", "as PID 1"])
def test_a_signal_before_the_first_import_ends_the_server_in_order(
    tmp_path: Path, prefix: list[str], number: signal.Signals
) -> None:
    if prefix and not can_unshare():
        pytest.skip("needs root, for a PID namespace")
    onnx_models.write_artifact(tmp_path, "m")
    program = [*prefix, sys.executable, "-c", EARLY.format(number=int(number)), "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        names = [event["event"] for event in events(process)]
        assert process.wait(TIMEOUT_S) == 0
    assert "ready" not in names
    assert names[-2:] == ["draining", "stopped"]


@pytest.mark.parametrize("control", ["watch", "none"])
def test_hanging_up_has_the_server_read_the_models_folder_again(tmp_path: Path, control: str) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen(
        [*program, "--model-control", control, "--poll-s", "3600"], stderr=subprocess.PIPE, text=True
    ) as process:
        told = events(process)
        assert next(event for event in told if event["event"] == "ready")["models"] == ["m:1"]
        onnx_models.write_artifact(tmp_path / ".staging", "m", 2).rename(tmp_path / "m" / "2")
        process.send_signal(signal.SIGHUP)
        ready = next(event for event in told if event["event"] == "model" and event["state"] == "READY")
        assert ready["version"] == "2"
        process.send_signal(signal.SIGTERM)
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0
