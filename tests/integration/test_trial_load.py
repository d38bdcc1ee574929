"""A folder of hostile ONNX files beside a good model: the server goes on, says why each is FAILED, and ends as it should."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import onnx
import pytest

from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import hostile_models, onnx_models
from tests.support.calls import row_request
from tests.support.processes import Served, children_of, wait_until_gone
from tests.support.servers import TIMEOUT_S

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has trial loads"),
    pytest.mark.usefixtures("traced_processes"),
]

HOSTILE: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "chained": hostile_models.chained_functions,
    "endless": hostile_models.endless,
    "expanded": hostile_models.expanded,
    "featureless": hostile_models.without_features,
    "folded": hostile_models.folded,
    "growing": hostile_models.growing,
    "nested-functions": hostile_models.nested_functions,
    "nested-graphs": hostile_models.nested_graphs,
    "overflowing": hostile_models.overflowing,
    "slow": hostile_models.slowly_optimised,
    "wide": hostile_models.wide,
}
BUDGET = ["--load-timeout-s", "1", "--load-memory-bytes", str(128 << 20)]


def publish(models: Path, *names: str) -> None:
    for name in names:
        model = HOSTILE[name]()
        folder = models / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())


def test_every_hostile_file_is_failed_with_a_reason_while_a_good_model_answers(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "good")
    publish(tmp_path, *HOSTILE)
    flags = ["--models", str(tmp_path), "--require", "good", "--model-control", "none", *BUDGET]
    with (
        server_process.serve(flags, lambda _: None) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        assert served.ready["models"] == ["good:1"]
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(row_request(onnx_models.rows(1), model="good"), timeout=TIMEOUT_S)
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S)
    reasons = {entry.name: entry.reason for entry in index.models if entry.state == "UNAVAILABLE"}
    assert set(reasons) == set(HOSTILE)
    assert [
        reason for reason in reasons.values() if not reason.startswith(("loading it ", "model.onnx cannot be read"))
    ] == []


@contextmanager
def a_server_in_a_trial(models: Path) -> Iterator[tuple[Served, int, int]]:
    """A server that tries an endless model, the process that makes the child, and the child."""
    publish(models, "endless")
    command = [sys.executable, "-m", "frostline", "serve", "--models", str(models), "--device", "cpu"]
    command += ["--port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        served = Served(process)
        yield served, *_in_a_trial(process.pid)
        served.events += served.rest()


def _in_a_trial(pid: int) -> tuple[int, int]:
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 100)):
        for maker in children_of(pid):
            if children := children_of(maker):
                return maker, children[0]
        waited.wait(0.01)
    raise AssertionError("nothing is tried")


def test_a_server_that_is_told_to_stop_gives_a_trial_up(tmp_path: Path) -> None:
    with a_server_in_a_trial(tmp_path) as (served, maker, child):
        served.process.send_signal(signal.SIGTERM)
        served.until("stopped")
        for pid in (maker, child):
            wait_until_gone(pid)
    assert served.process.returncode == 0
    assert served.events[-1]["event"] == "stopped", "it need not end in the middle of a load"


def test_a_good_model_is_loaded_while_a_trial_goes_on(tmp_path: Path) -> None:
    models = tmp_path / "models"
    onnx_models.write_artifact(models, "there")
    with a_server_in_a_trial(models) as (served, maker, child):
        served.until("model", model="there", state="READY")
        onnx_models.write_artifact(tmp_path, "late").parent.rename(models / "late")
        served.until("model", model="late", state="READY")
        assert child in children_of(maker), "the trial goes on"
        served.process.send_signal(signal.SIGTERM)
        served.until("stopped")
    assert served.process.returncode == 0
    assert not [event for event in served.events if event["event"] in ("ready", "not ready")]


def test_a_trial_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with a_server_in_a_trial(tmp_path) as (served, maker, child):
        served.process.kill()
        for pid in (maker, child):
            wait_until_gone(pid)
