"""Several processes behind one address: one server to clients, to operators, and when one of its processes is killed."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from frostline.pb import inference_pb2 as pb
from frostline.protocol import ERROR_KIND
from frostline_server.runtime.host_limits import memory_limit_bytes
from tests.support import onnx_models
from tests.support.calls import refused, row_request, statistics, stub
from tests.support.http_calls import ask
from tests.support.processes import Served, serve
from tests.support.servers import TIMEOUT_S

pytestmark = pytest.mark.usefixtures("traced_processes")

ROW = onnx_models.rows(1)
# Each its own connection: channels to one address would share one.
ALONE = ("grpc.use_local_subchannel_pool", 1)
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Server:
    """The server of this module."""

    served: Served
    address: str
    metrics: str
    http: str
    models: Path

    def page(self) -> Mapping[Series, float]:
        """What /metrics shows now."""
        with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=TIMEOUT_S) as page:
            families = text_string_to_metric_families(page.read().decode())
            return {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for each in families
                for sample in each.samples
            }

    def number(self, name: str, **labels: str) -> float:
        """One series of it."""
        return self.page()[name, frozenset(labels.items())]

    def connect(self, *options: tuple[str, object]) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.address, options=[ALONE, *options])

    def connections(self) -> Mapping[int, int]:
        """The connections of clients that each process has, by its number."""
        port = int(self.address.rpartition(":")[2])
        # grpc.aio listens with sockets of IPv6 for both.
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        found = {}
        for number, pid in self.served.pids().items():
            inodes = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
            lines = [line.split() for table in tables for line in table]
            ours = [line for line in lines if line[3] == "01" and int(line[1].rpartition(":")[2], 16) == port]
            found[number] = sum(f"socket:[{line[9]}]" in inodes for line in ours)
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear")
    onnx_models.write_artifact(models, "later")
    flags = ["--model-control", "explicit", "--load-models", "linear", "--allow-anonymous", "all"]
    process = serve(models, *flags, "--http", "--http-port", "0")
    with process:
        served = Served(process)
        try:
            ready = served.until("ready")
            yield Server(served, ready["address"], ready["metrics"], ready["http"], models)
            process.terminate()
            events = served.rest()
            assert process.wait(TIMEOUT_S) == 0
            assert events[-1]["event"] == "stopped"
            assert sorted(line["process"] for line in events if line["event"] == "stopped" and "process" in line) == [
                0,
                1,
            ]
        finally:
            process.kill()


@pytest.fixture
def everywhere(server: Server) -> Iterator[list[grpc.Channel]]:
    """Channels that together reach every process."""
    with ExitStack() as stack:
        channels: list[grpc.Channel] = []
        while not channels or not all(server.connections().values()):
            assert len(channels) < 64, "the kernel gives all connections to one process"
            channels.append(stack.enter_context(server.connect()))
            grpc.channel_ready_future(channels[-1]).result(TIMEOUT_S)
        yield channels


def states(channel: grpc.Channel) -> dict[str, str]:
    """The state of each model, by name."""
    index = stub(channel).RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S)
    return {entry.name: entry.state for entry in index.models}


def predicts(channel: grpc.Channel, model: str) -> bool:
    answer = stub(channel).ModelInfer(row_request(ROW, model=model), timeout=TIMEOUT_S)
    return bool(answer.raw_output_contents)


def test_a_model_that_is_loaded_through_one_process_is_loaded_in_all(
    server: Server, everywhere: list[grpc.Channel]
) -> None:
    first = everywhere[0]
    assert states(first) == {"linear": "READY", "later": ""}
    stub(first).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="later"), timeout=TIMEOUT_S)
    assert all(predicts(channel, "later") for channel in everywhere)
    assert states(everywhere[-1]) == {"linear": "READY", "later": "READY"}
    stub(everywhere[-1]).RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="later"), timeout=TIMEOUT_S)
    for channel in everywhere:
        code, _ = refused(stub(channel).ModelInfer, row_request(ROW, model="later"), timeout=TIMEOUT_S)
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)


def test_the_processes_share_the_http_port_and_what_is_controlled_there_reaches_all(
    server: Server, everywhere: list[grpc.Channel]
) -> None:
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": ROW.ravel().tolist()}]}
    assert ask(server.http, "/v2/repository/models/later/load", {}).status == 200
    try:
        for channel in everywhere:
            assert stub(channel).ModelReady(pb.ModelReadyRequest(name="later")).ready
        for _ in range(16):  # each on a connection of its own, so that both processes answer some
            assert ask(server.http, "/v2/models/later/infer", body).status == 200
        assert ask(server.http, "/v2/models/later/stats").json["model_stats"][0]["execution_count"] == 16
        assert ask(server.http, "/v2/models/later/live").json["processes"] == 2
    finally:
        assert ask(server.http, "/v2/repository/models/later/unload", {}).status == 200
    index = {each["name"]: each.get("state") for each in ask(server.http, "/v2/repository/index", {}).json}
    assert index["linear"] == "READY"
    assert index["later"] != "READY"


def test_a_refusal_of_all_processes_is_the_refusal_of_one(server: Server, everywhere: list[grpc.Channel]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(everywhere[0]).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="none"), timeout=TIMEOUT_S)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details() == "failed to load 'none', failed to poll from model repository: it has no such model"
    assert dict(error.trailing_metadata())[ERROR_KIND] == "model_not_found"


def test_settings_and_regions_hold_in_all_processes(server: Server, everywhere: list[grpc.Channel]) -> None:
    first = stub(everywhere[0])
    region = SharedMemory(create=True, size=64)
    try:
        first.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name="r", key=region.name, byte_size=64), timeout=TIMEOUT_S
        )
        seven = pb.TraceSettingRequest.SettingValue(value=["7"])
        first.TraceSetting(pb.TraceSettingRequest(settings={"trace_rate": seven}), timeout=TIMEOUT_S)
        for channel in everywhere:
            known = stub(channel).SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), timeout=TIMEOUT_S)
            assert list(known.regions) == ["r"]
            settings = stub(channel).TraceSetting(pb.TraceSettingRequest(), timeout=TIMEOUT_S).settings
            assert list(settings["trace_rate"].value) == ["7"]
        stub(everywhere[-1]).SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=TIMEOUT_S)
        for channel in everywhere:
            known = stub(channel).SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), timeout=TIMEOUT_S)
            assert not known.regions
    finally:
        region.close()
        region.unlink()


def test_metrics_and_statistics_are_those_of_all_processes(server: Server, everywhere: list[grpc.Channel]) -> None:
    labels = {"model": "linear", "version": "1"}
    before = server.number("frostline_requests_total", code="OK", **labels)
    counted = statistics(everywhere[0], "linear").inference_count
    for channel in everywhere:
        assert predicts(channel, "linear")
    answered = len(everywhere)
    assert statistics(everywhere[-1], "linear", int(counted) + answered).inference_count == counted + answered
    page = server.page()
    assert page["frostline_requests_total", frozenset({"code": "OK", **labels}.items())] == before + answered
    assert page["nv_inference_request_success", frozenset(labels.items())] == before + answered
    assert page["frostline_request_seconds_count", frozenset(labels.items())] == before + answered
    assert page["frostline_model_state", frozenset({"state": "READY", **labels}.items())] == 1
    assert page["frostline_ready", frozenset()] == 1
    assert page["frostline_connections", frozenset()] >= len(everywhere)
    assert page["frostline_network_limit_bytes", frozenset()] == 2 * (memory_limit_bytes() // 8)
    assert [page["frostline_process_up", frozenset({"process": each}.items())] for each in "01"] == [1, 1]


class Client:
    """Calls in a loop, on a connection of its own, and counts how they end."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ended: Counter[grpc.StatusCode] = Counter()
        self._channel = channel
        self._stopped = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._call, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_for(self, answers: int) -> None:
        """Wait for so many more answers."""
        with self._progress:
            wanted = self.ended[grpc.StatusCode.OK] + answers
            assert self._progress.wait_for(lambda: self.ended[grpc.StatusCode.OK] >= wanted, TIMEOUT_S)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(TIMEOUT_S)

    def failures(self) -> dict[grpc.StatusCode, int]:
        return {code: count for code, count in self.ended.items() if code != grpc.StatusCode.OK}

    def _call(self) -> None:
        infer, request = stub(self._channel).ModelInfer, row_request(ROW)
        while not self._stopped.is_set():
            try:
                infer(request, timeout=TIMEOUT_S)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
            with self._progress:
                self.ended[code] += 1
                self._progress.notify_all()


def test_a_killed_process_costs_only_its_own_calls_and_comes_back_as_it_was(server: Server) -> None:
    control = server.connect()
    stub(control).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="later"), timeout=TIMEOUT_S)
    labels = {"model": "linear", "version": "1"}
    with ExitStack() as stack:
        channels: list[grpc.Channel] = []
        # Several on each, every other one of which tries again.
        while len(channels) < 8 or min(server.connections().values()) < 4:
            assert len(channels) < 64, "the kernel gives all connections to one process"
            retries = (("grpc.service_config", RETRYING),) if len(channels) % 2 else (("grpc.enable_retries", 0),)
            channels.append(stack.enter_context(server.connect(*retries)))
            grpc.channel_ready_future(channels[-1]).result(TIMEOUT_S)
        clients = [Client(channel) for channel in channels]
        for client in clients:
            client.start()
        for client in clients:
            client.wait_for(5)
        seen = server.number("frostline_requests_total", code="OK", **labels)
        lost = server.connections()[1]
        os.kill(server.served.pids()[1], signal.SIGKILL)
        assert server.served.until("process ended", process=1)["signal"] == "SIGKILL"
        assert server.number("frostline_process_up", process="1") == 0
        # The others go on, and to whoever asks, the server is ready and has forgotten nothing.
        for client in clients:
            client.wait_for(5)
        with urllib.request.urlopen(f"{server.metrics}/readyz", timeout=TIMEOUT_S) as ready:
            assert ready.read() == b"ready\n"
        assert server.number("frostline_requests_total", code="OK", **labels) >= seen
        # Scrapes that come before a process can answer must not keep it from serving.
        waited = threading.Event()
        for _ in range(int(TIMEOUT_S * 20)):
            if server.number("frostline_process_up", process="1"):
                break
            waited.wait(0.05)
        server.served.until("process ready", process=1)
        for client in clients:
            client.stop()
    failed = [client.failures() for client in clients[::2]]
    assert set().union(*failed) <= {grpc.StatusCode.UNAVAILABLE}
    # The clients of the process that lives saw nothing.
    assert sum(map(bool, failed)) <= lost
    assert [client.failures() for client in clients[1::2]] == [{} for _ in clients[1::2]]
    # Loaded by request, so nothing but the journal could tell the new process.
    assert states(control) == {"linear": "READY", "later": "READY"}
    assert server.number("frostline_process_restarts_total", process="1") == 1
    control.close()


def test_hanging_up_has_every_process_read_the_folder_again(server: Server) -> None:
    server.served.process.send_signal(signal.SIGHUP)
    told: set[int] = set()
    while told != {0, 1}:
        told.add(server.served.until("reading the models folder, the certificate and the access file again")["process"])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_second_server_on_the_port_does_not_start(server: Server, processes: str) -> None:
    port = server.address.rpartition(":")[2]
    with serve(server.models, "--processes", processes, "--port", port) as second:
        _, log = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    assert json.loads(log.splitlines()[-1])["reason"].startswith(f"cannot listen on 127.0.0.1:{port}")


def test_a_server_whose_processes_cannot_start_says_why_and_ends(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "none.pem").write_text("no certificate")
    pem = str(tmp_path / "none.pem")
    with serve(tmp_path, "--tls-cert", pem, "--tls-key", pem) as process:
        _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    last = json.loads(log.splitlines()[-1])
    assert last["event"] == "cannot start"
    assert last["reason"].startswith("tls_cert and tls_key are not a certificate and its private key")


def test_processes_whose_supervisor_is_gone_end_in_order(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    with serve(tmp_path) as process:
        served = Served(process)
        served.until("ready")
        process.kill()
        stopped = [line for line in served.rest() if line["event"] == "stopped"]
    assert sorted(line["process"] for line in stopped) == [0, 1]
    assert all(line["finished"] for line in stopped)
