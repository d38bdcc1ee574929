"""What the server as a whole says of itself: ready, not ready, and when it gives up."""

import os
import shutil
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from frostline_server import app
from frostline_server.app import Server
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.repository.registry import ModelVersion
from frostline_server.rpc.supervised import Place
from frostline_server.runtime import host_limits
from tests.support.calls import row_request, stub
from tests.support.onnx_models import linear, write_artifact
from tests.support.servers import TIMEOUT_S, Running, running

SERVICE = "inference.GRPCInferenceService"


def status(server: Running, service: str) -> str:
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_a_model_that_is_called_like_a_service_does_not_speak_for_it(tmp_path: Path) -> None:
    write_artifact(tmp_path, SERVICE)
    (write_artifact(tmp_path, "bad") / "model.onnx").write_bytes(b"")
    with running(tmp_path, model_control="none", log_level="error") as server:
        assert (status(server, SERVICE), status(server, f"{SERVICE}/1")) == ("NOT_SERVING", "SERVING")


def readiness(server: Running, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether the server is ready once a version has come to a state, by the state."""
    states = dict[str, bool]()
    announce = server.server._on_change

    def watched(version: ModelVersion) -> None:
        announce(version)
        states[version.state] = server.server.ready()

    monkeypatch.setattr(server.server.reconciler, "_on_change", watched)
    return states


def test_a_model_that_is_new_takes_nothing_from_the_others_while_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, "m")
    with running(tmp_path, model_control="none", log_level="error") as server:
        states = readiness(server, monkeypatch)
        write_artifact(tmp_path, "new")
        server.server.reconciler.reconcile()
        assert states == {"LOADING": True, "READY": True}
        (write_artifact(tmp_path, "bad") / "model.onnx").write_bytes(b"")
        server.server.reconciler.reconcile()
        server.server.reconciler.reconcile()
        assert "FAILED" not in states, "it is left alone until nobody writes it"


def test_a_model_that_is_unloaded_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, "m")
    write_artifact(tmp_path, "other")
    with running(tmp_path, model_control="explicit", load_models="m,other", log_level="error") as server:
        states = readiness(server, monkeypatch)
        server.server.reconciler.unload_model("other")
        assert states.pop("UNLOADING")
        assert all(states.values())
        assert server.server.ready()


def test_a_fault_that_left_with_its_version_is_no_reason_to_give_up(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    with running(tmp_path, model_control="none", log_level="error") as server:
        repository, instance = server.server.repository, server.server

        async def give_up_on_first() -> bool:
            instance._give_up_on(first)
            return instance.broken.is_set()

        first = repository.get("m", "")
        first.probe_fault = "dead"
        write_artifact(tmp_path, "m", 2, linear(shift=1))
        server.server.reconciler.reconcile()
        assert repository.get("m", "").version == "2"
        assert not server.call(give_up_on_first())


def test_a_fault_that_stays_is(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    with running(tmp_path, model_control="none", log_level="error") as server:
        served, instance = server.server.repository.get("m", ""), server.server

        async def give_up() -> tuple[bool, bool]:
            instance._give_up_on(served)
            before = instance.broken.is_set()
            served.probe_fault = "dead"
            instance._give_up_on(served)
            return before, instance.broken.is_set()

        assert server.call(give_up()) == (False, True)
        served.probe_fault = ""


def test_a_model_that_is_to_be_loaded_and_is_not_there_keeps_the_server_from_being_ready(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m")
    with running(tmp_path, model_control="explicit", load_models="m,typo", log_level="error") as server:
        assert server.server.unready() == "required models without a ready version: typo"
        write_artifact(tmp_path, "typo")
        server.server.reconciler.load_model("typo")
        assert server.server.ready()


def test_a_server_that_is_told_to_end_while_it_loads_never_says_that_it_is_ready(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    instance = Running(tmp_path, model_control="none", log_level="error")
    loading, go_on, phases = threading.Event(), threading.Event(), list[str]()

    def load() -> None:
        loading.set()
        assert go_on.wait(TIMEOUT_S)

    instance.server._load = load  # type: ignore[method-assign]  # a load that takes as long as the test wants
    starter = threading.Thread(target=instance.start)
    starter.start()
    assert loading.wait(TIMEOUT_S)
    instance.server.hurry()
    phases.append(instance.server.unready())
    go_on.set()
    starter.join(TIMEOUT_S)
    phases.append(instance.server.unready())
    assert phases == ["draining", "draining"]
    assert instance.call(instance.server.drain())
    instance.close_loop()
    shutil.rmtree(tmp_path / "m")


def test_a_model_whose_output_has_another_rank_than_it_declares_breaks_neither_requests_nor_metrics(
    tmp_path: Path,
) -> None:
    # A classifier's output as it is declared; its true rank is the request's choice.
    liar = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        liar (float[1, n] input, int64[rank] shape) => (float[1, m] y) { y = Reshape (input, shape) }
    """)
    (tmp_path / "liar" / "1").mkdir(parents=True)
    onnx.save(liar, tmp_path / "liar" / "1" / "model.onnx")
    write_artifact(tmp_path, "good")
    with (
        running(tmp_path, model_control="none", log_level="error") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        x, shape = np.ones((1, 4), np.float32), np.array([1, 2, 2])
        tensors = [("input", "FP32", x), ("shape", "INT64", shape)]
        lie = row_request(
            x,
            model="liar",
            inputs=[{"name": name, "datatype": kind, "shape": array.shape} for name, kind, array in tensors],
            raw_input_contents=[array.tobytes() for _, _, array in tensors],
        )
        # Predictions of 64 batches are counted together.
        for _ in range(65):
            assert stub(channel).ModelInfer(lie, timeout=TIMEOUT_S).outputs[0].shape == [1, 2, 2]
        stub(channel).ModelInfer(row_request(x, model="good"), timeout=TIMEOUT_S)
        with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
            text = page.read().decode()
    assert 'frostline_model_state{model="liar",state="READY",version="1"} 1.0' in text
    assert 'frostline_predictions_total{label="ant",model="good",version="1"} 1.0' in text
    assert "frostline_scrape_errors_total 0.0" in text


@pytest.mark.parametrize(
    ("asked", "cpus", "processes", "expected"),
    [(0, 8, 1, 4), (0, 1, 1, 1), (0, 3, 1, 1), (5, 2, 1, 5), (0, 16, 2, 4), (0, 2, 2, 1), (0, 2, 8, 1), (5, 2, 2, 5)],
)
def test_a_run_gets_half_the_cpus_that_the_process_may_use_unless_told_otherwise(
    asked: int, cpus: int, processes: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(host_limits, "_quotas", lambda _: iter(()))
    write_artifact(tmp_path, "m")
    with running(tmp_path, model_control="none", log_level="error", threads=asked, processes=processes) as server:
        options = server.server.repository.get("m", "").session._compute.__self__.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (expected, expected)


@pytest.mark.parametrize("control", ["none", "explicit"])
def test_a_name_for_one_model_is_warned_of_where_the_folder_holds_models_of_other_names(
    tmp_path: Path, control: str
) -> None:
    write_artifact(tmp_path, "m", golden=False)
    structlog.reset_defaults()
    with capture_logs() as logged:
        for folder, name in ((tmp_path, "fraud"), (tmp_path, "m"), (tmp_path / "m", "fraud")):
            with running(folder, model_control=control, model_name=name):
                pass
    (warning,) = [line["warning"] for line in logged if line["event"] == "configuration"]
    assert warning == (
        f"model_name has no effect: {tmp_path} is no single model, and its models have the names of their folders, such as 'm'; "
        "leave model_name out, or give one model's own folder as models"
    )


def test_one_of_several_processes_takes_its_share_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "memory_limit_bytes", lambda: 80_000_000)
    monkeypatch.setattr(app, "cpu_count", lambda: 2)
    with running(tmp_path, model_control="none", log_level="error", processes=4) as server:
        network, report = server.server._transport.network(), server.server._transport._report
    assert network is not None
    assert network.limit == 5_000_000
    assert report.__self__._cpus == 0.5  # type: ignore[union-attr]  # it is a method


async def test_one_of_several_processes_does_not_start_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "choose_providers", lambda *_: [("CUDAExecutionProvider", {})])
    config = ServerConfig.load(environ={}, models=tmp_path, processes=2)
    with pytest.raises(StartError, match="several processes are for the CPU, and here is a GPU; use --device cpu"):
        await Server(config, Place("unused", "unused", lambda **_: None)).start()
