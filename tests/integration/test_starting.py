"""While a server starts, what is on disk and not reached yet is to be waited for, on every surface and behind both front ends."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from frostline_server.model.loader import Loader
from frostline_server.repository.scan import scan
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running

FRONT_ENDS = ("h2", "grpcio")


class Gate:
    """What a server stops at while it starts."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._open.wait(TIMEOUT_S)

    def open(self) -> None:
        self._open.set()


@contextmanager
def starting(models: Path, gate: Gate, **settings: Any) -> Iterator[tuple[Running, Callable[[], None]]]:
    """A server that has come as far as the gate, and what waits until it is started."""
    server = Running(models, log_level="error", **settings)
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        assert gate.reached.wait(TIMEOUT_S)
        yield server, lambda: thread.join(TIMEOUT_S)
    finally:
        gate.open()
        thread.join(TIMEOUT_S)
        server.call(server.server.drain())
        server.close_loop()


def infer(stub: Any, name: str, version: str = "") -> None:
    x = onnx_models.rows(1)
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    stub.ModelInfer(
        pb.ModelInferRequest(model_name=name, model_version=version, inputs=[tensor], raw_input_contents=[x.tobytes()]),
        timeout=TIMEOUT_S,
    )


def code(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def surfaces(channel: grpc.Channel, name: str) -> dict[str, str]:
    """How each method that names a model ends, and what readiness and health say."""
    stub, health = inference_pb2_grpc.GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)

    def ready() -> str:
        return str(stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=TIMEOUT_S).ready)

    def status() -> str:
        found = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found))

    return {
        "infer": code(lambda: infer(stub, name)),
        "metadata": code(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=TIMEOUT_S)),
        "config": code(lambda: stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=TIMEOUT_S)),
        "statistics": code(lambda: stub.ModelStatistics(pb.ModelStatisticsRequest(name=name), timeout=TIMEOUT_S)),
        "ready": code(ready) if code(ready) != "OK" else ready(),
        "health": code(status) if code(status) != "OK" else status(),
    }


METHODS = ("infer", "metadata", "config", "statistics")
WAITING = {**dict.fromkeys(METHODS, "UNAVAILABLE"), "ready": "False", "health": "NOT_SERVING"}
UNKNOWN = {**dict.fromkeys(METHODS, "NOT_FOUND"), "ready": "NOT_FOUND", "health": "NOT_FOUND"}
SERVED = {**dict.fromkeys(METHODS, "OK"), "ready": "True", "health": "SERVING"}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"model_control": "explicit", "load_models": "*"}, {"model_control": "explicit", "load_models": "a,b"}],
)
def test_a_model_that_is_not_reached_yet_is_waited_for_and_an_unknown_one_is_not_found(
    front_end: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        onnx_models.write_artifact(tmp_path, name)
    gate, load = Gate(), Loader.load

    def gated(self: Loader, folder: Path, *rest: Any) -> Any:
        if folder.parent.name == "a":
            gate.pass_through()
        return load(self, folder, *rest)

    monkeypatch.setattr(Loader, "load", gated)
    with (
        starting(tmp_path, gate, transport=front_end, **settings) as (server, started),
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert {name: surfaces(channel, name) for name in ("a", "b", "nobody")} == {
            "a": WAITING,
            "b": WAITING,
            "nobody": UNKNOWN,
        }
        assert code(lambda: infer(stub, "b", "1")) == "UNAVAILABLE"
        assert code(lambda: infer(stub, "b", "2")) == "NOT_FOUND"
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
        assert [(entry.name, entry.version, entry.state, entry.reason) for entry in index] == [
            ("a", "1", "LOADING", ""),
            ("b", "1", "LOADING", "waits to be loaded"),
        ]
        assert not stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=TIMEOUT_S).models
        gate.open()
        started()
        assert {name: surfaces(channel, name) for name in ("a", "b", "nobody")} == {
            "a": SERVED,
            "b": SERVED,
            "nobody": UNKNOWN,
        }


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_before_the_folder_was_read_every_model_is_waited_for(
    front_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.write_artifact(tmp_path, "a")
    gate = Gate()

    def gated(*arguments: Any, **options: Any) -> Any:
        gate.pass_through()
        return scan(*arguments, **options)

    monkeypatch.setattr("frostline_server.repository.models_folder.scan", gated)
    with (
        starting(tmp_path, gate, transport=front_end) as (server, started),
        grpc.insecure_channel(server.address) as channel,
    ):
        assert surfaces(channel, "a") == surfaces(channel, "nobody") == WAITING
        gate.open()
        started()
        assert (surfaces(channel, "a"), surfaces(channel, "nobody")) == (SERVED, UNKNOWN)
