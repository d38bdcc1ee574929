"""How the process ends: told to in the middle of a load that cannot be interrupted, and by itself when a device stays dead."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S

pytestmark = pytest.mark.usefixtures("traced_processes")

PATCHED = """
import sys, threading
from pathlib import Path
from frostline_server.errors import RunFailed
from frostline_server.runtime.session import Session
def stuck(*_):
    Path({stuck!r}).touch()
    threading.Event().wait()
{patch}
from frostline.cli.main import main
sys.argv.insert(1, "serve")
main()
"""
NEVER_READY = "Session.bind = stuck"
SECOND_NEVER_READY = """
bind = Session.bind
def once(self, *arguments):
    Session.bind = stuck
    return bind(self, *arguments)
Session.bind = once
"""
DEAD = """
def probe(self, row, golden):
    raise RunFailed("CUDA error 700")
Session.probe = probe
"""


def program(patch: str, stuck: Path) -> list[str]:
    """The server with a patch; a load that is `stuck` makes that file."""
    return [sys.executable, "-c", PATCHED.format(patch=patch, stuck=str(stuck))]


def wait_for(file: Path) -> None:
    """Wait until a load is where it cannot be interrupted."""
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 100)):
        if file.exists():
            return
        waited.wait(0.01)
    pytest.fail(f"nothing made {file.name}")


def test_a_first_load_that_cannot_be_interrupted_does_not_hold_up_the_end(tmp_path: Path) -> None:
    models, stuck = tmp_path / "models", tmp_path / "stuck"
    onnx_models.write_artifact(models, "m", 1)
    flags = ["--models", str(models), "--port", "0", "--metrics-port", "0", "--grace-s", "3600"]
    with subprocess.Popen(
        [*program(NEVER_READY, stuck), *flags, "--log-format", "json"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        wait_for(stuck)
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line) for line in process.stderr]
        assert process.wait(TIMEOUT_S) == 0
    assert "ready" not in [event["event"] for event in events]
    assert [event["event"] for event in events[-2:]] == ["stopped", "ending in the middle of a load"]
    assert events[-2]["finished"]


@pytest.mark.parametrize("control", ["poll", "explicit"])
def test_a_later_load_does_not_either(control: str, tmp_path: Path) -> None:
    models, stuck = tmp_path / "models", tmp_path / "stuck"
    onnx_models.write_artifact(models, "m", 1)
    flags = ["--models", str(models), "--grace-s", "3600", "--model-control", control]
    flags += ["--allow-anonymous", "all"]
    flags += ["--load-models", "m"] if control == "explicit" else ["--poll-s", "0.1"]
    events: list[server_process.Event] = []
    with (
        server_process.serve(
            flags,
            events.append,
            program=program(SECOND_NEVER_READY, stuck),
        ) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        onnx_models.write_artifact(models / ".staging", "m", 2).rename(models / "m" / "2")
        # Refused where the folder decides; kept, because a call that nobody holds is cancelled.
        asked = stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="m"), timeout=TIMEOUT_S)
        wait_for(stuck)
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S)
        assert "LOADING" in [entry.state for entry in index.models], asked
    # That it ended with 0 in time was seen to on the way out of the block.
    assert [event["event"] for event in events[-2:]] == ["stopped", "ending in the middle of a load"]


def test_a_device_that_stays_dead_ends_the_server_if_it_is_to(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    flags = ["--models", str(tmp_path), "--probe-s", "0.05", "--exit-on-fault"]
    flags += ["--port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen([*program(DEAD, tmp_path / "stuck"), *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = [json.loads(line) for line in process.stderr]
        assert process.wait(TIMEOUT_S) == 1
    reasons = [event.get("reason") for event in events if event["event"].startswith("giving up")]
    assert reasons == ["CUDA error 700"]
