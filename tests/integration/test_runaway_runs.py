"""A model whose run takes for ever for some values: what its clients, all others, the operator and the end of the process see."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from frostline.pb import inference_pb2 as pb
from frostline.protocol import ERROR_KIND
from frostline_server.batching import batcher
from frostline_server.runtime.run_limit import RunLimit
from tests.support import onnx_models
from tests.support.calls import answers, infer_request, refused, row_request, stub
from tests.support.processes import Served, serve
from tests.support.servers import TIMEOUT_S, Running, running, until
from tests.support.streams import Conversation

UNLIMITED = 'parameters { key: "max_run_s" value { string_value: "0" } }'
BRIEF = 'parameters { key: "max_run_s" value { string_value: "0.1" } }'


def models(folder: Path, config: str = "") -> Path:
    """A model that repeats and one that does not."""
    values = {"input": np.array([[1], [2], [3]], np.float32)}
    onnx_models.write_artifact(
        folder, "repeating", model=onnx_models.repeating(), inputs=values, golden=False, labels=None
    )
    (folder / "repeating" / "config.pbtxt").write_text(config)
    onnx_models.write_artifact(folder, "linear")
    return folder


def turns(count: float) -> pb.ModelInferRequest:
    return infer_request("repeating", {"input": np.array([[count]], np.float32)})


def doubled(response: pb.ModelInferResponse) -> float:
    return float(answers(response)["output"][0, 0])


@pytest.fixture(params=["h2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Calling = Callable[[Running], grpc.Channel]


@pytest.fixture
def calling() -> Iterator[Calling]:
    """Opens channels, and closes them after the test."""
    channels: list[grpc.Channel] = []

    def connect(server: Running) -> grpc.Channel:
        channels.append(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
        return channels[-1]

    yield connect
    for channel in channels:
        channel.close()


def test_a_run_that_takes_too_long_ends_and_the_next_request_is_answered(
    tmp_path: Path, transport: str, calling: Calling
) -> None:
    with running(models(tmp_path, BRIEF), transport=transport) as server:
        infer = stub(calling(server)).ModelInfer
        with pytest.raises(grpc.RpcError) as caught:
            infer(turns(onnx_models.ENDLESS), timeout=TIMEOUT_S)
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "it took longer than 0.1 s (max_run_s)" in error.details()
        assert dict(error.trailing_metadata())[ERROR_KIND] == "run_timed_out"
        assert doubled(infer(turns(3), timeout=TIMEOUT_S)) == 6
        page = urllib.request.urlopen(f"{server.metrics_url}/metrics").read().decode()
    assert 'frostline_overdue_runs_total{model="repeating",outcome="ended",version="1"} 1' in page
    assert 'frostline_hanging_runs{model="repeating",version="1"} 0' in page


@pytest.mark.parametrize("way", ["unary", "stream"])
def test_a_run_that_takes_for_ever_after_many_brief_ones_holds_up_nobody_else(
    tmp_path: Path, transport: str, calling: Calling, way: str
) -> None:
    with running(models(tmp_path, UNLIMITED), transport=transport) as server:
        slow = calling(server)
        stream = Conversation(slow)
        for _ in range(20):
            if way == "unary":
                stub(slow).ModelInfer(turns(1), timeout=TIMEOUT_S)
            else:
                stream.send(turns(1))
                stream.take(1)
        endless: Future[object] | None = None
        with ThreadPoolExecutor(1) as pool:
            if way == "unary":
                endless = pool.submit(stub(slow).ModelInfer, turns(onnx_models.ENDLESS), timeout=TIMEOUT_S)
            else:
                stream.send(turns(onnx_models.ENDLESS))
            session = server.server.repository.get("repeating", "").session
            until(lambda: session.limit.longest_s(1e18) > 0)
            other = calling(server)
            for _ in range(5):
                stub(other).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
                assert stub(other).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
                health = health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
                assert health.status == health_pb2.HealthCheckResponse.SERVING
            assert session.limit.longest_s(1e18) > 0
            server.server._watchdog.end_runs()
        stream.close()
        assert endless is None or isinstance(endless.exception(), grpc.RpcError)


def surfaces(server: Running, channel: grpc.Channel) -> list[bool]:
    """Whether the model is ready, as each surface has it."""
    try:
        http = urllib.request.urlopen(f"{server.metrics_url}/readyz").status == 200
    except urllib.error.HTTPError as error:
        http = error.code == 200
        error.close()
    check = health_pb2_grpc.HealthStub(channel).Check
    page = urllib.request.urlopen(f"{server.metrics_url}/metrics").read().decode()
    index = stub(channel).RepositoryIndex(pb.RepositoryIndexRequest())
    return [
        http,
        stub(channel).ModelReady(pb.ModelReadyRequest(name="repeating")).ready,
        stub(channel).ServerReady(pb.ServerReadyRequest()).ready,
        *[check(health_pb2.HealthCheckRequest(service=name)).status == 1 for name in ("", "repeating", "repeating/1")],
        next(model.state == "READY" for model in index.models if model.name == "repeating"),
        'frostline_model_healthy{model="repeating",version="1"} 1' in page,
        "\nfrostline_ready 1" in page,
    ]


def test_a_model_whose_runs_cannot_be_ended_says_so_everywhere_until_they_do(
    tmp_path: Path, transport: str, calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An operator of its own that goes on for years looks like this: nothing ends it.
    monkeypatch.setattr(RunLimit, "look", lambda *_: None)
    monkeypatch.setattr(batcher, "RETURN_S", 0.05)
    with running(models(tmp_path, BRIEF), transport=transport) as server:
        channel = calling(server)
        infer = stub(channel).ModelInfer
        infer(turns(1), timeout=TIMEOUT_S)
        for hanging in (1, 2):
            code, why = refused(infer, turns(onnx_models.ENDLESS), timeout=TIMEOUT_S)
            assert (code, "could not be interrupted" in why) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
            assert server.server.repository.get("repeating", "").batcher.hanging == hanging
            if hanging == 1:
                # Another thread took its place.
                assert doubled(infer(turns(3), timeout=TIMEOUT_S)) == 6
                assert all(surfaces(server, channel))
        until(lambda: not any(surfaces(server, channel)))
        assert refused(infer, turns(1), timeout=TIMEOUT_S)[0] == grpc.StatusCode.UNAVAILABLE
        # Other models go on.
        stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        server.server._watchdog.end_runs()
        until(lambda: all(surfaces(server, channel)))
        assert doubled(infer(turns(4), timeout=TIMEOUT_S)) == 8


def test_a_version_whose_warm_up_does_not_end_is_failed_with_the_reason(tmp_path: Path) -> None:
    values = {"input": np.array([[1]], np.float32)}
    folder = onnx_models.write_artifact(
        tmp_path, "repeating", model=onnx_models.repeating(), inputs=values, labels=None
    )
    endless = np.array([[onnx_models.ENDLESS]], np.float32)
    np.savez(folder / "golden.npz", **onnx_models.golden_of({"input": endless}, endless))  # type: ignore[arg-type]  # numpy's stub takes the keywords for its options
    with running(tmp_path, max_run_s=0.1, log_level="error") as server:
        (version,) = server.server.repository.versions()
        assert (version.state, "longer than 0.1 s (max_run_s)" in version.reason) == ("FAILED", True)


def told_to_end_in_an_endless_run(served: Served) -> None:
    """Send SIGTERM while a run goes on that would not end; its request must not be answered."""
    ready = served.until("ready")
    with grpc.insecure_channel(ready["address"]) as channel:
        endless = stub(channel).ModelInfer.future(turns(onnx_models.ENDLESS), timeout=TIMEOUT_S)
        # Once something that was sent later is answered, it runs.
        for _ in range(3):
            stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        served.process.send_signal(signal.SIGTERM)
        assert isinstance(endless.exception(TIMEOUT_S), grpc.RpcError)


def test_the_process_ends_cleanly_in_the_middle_of_a_run_that_would_not(tmp_path: Path) -> None:
    flags = ["--processes", "1", "--allow-anonymous", "all", "--grace-s", "0.1"]
    with serve(models(tmp_path, UNLIMITED), *flags) as process:
        served = Served(process)
        told_to_end_in_an_endless_run(served)
        # An accepted request was not answered within the grace period.
        assert process.wait(TIMEOUT_S) == 1
        events = [line["event"] for line in served.rest()]
    assert "stopped" in events
    # It was ended, so there was nothing to abandon.
    assert "ending in the middle of a run" not in events


DEAF = """
import sys
from frostline_server.runtime.run_limit import RunLimit
RunLimit.look = lambda *_: None
RunLimit.end_all = lambda self: sum(run.began_s < 1e18 for run in self._known)
from frostline.cli.main import main
main()
"""
"""A server whose runs cannot be ended, as if one operator went on for years."""


def test_the_process_ends_without_an_abort_in_the_middle_of_a_run_that_cannot_be_ended(tmp_path: Path) -> None:
    flags = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json", "--grace-s", "0.1"]
    command = [sys.executable, "-c", DEAF, "serve", "--models", str(models(tmp_path)), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        served = Served(process)
        told_to_end_in_an_endless_run(served)
        assert process.wait(TIMEOUT_S) == 1
        assert [line["event"] for line in served.rest()][-1] == "ending in the middle of a run"
