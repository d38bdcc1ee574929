"""Several processes behind one address, with tokens and TLS: who may do what is asked once, and recorded once."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import refused, row_request, stub
from tests.support.https import Files, get, name_seen
from tests.support.processes import Served, serve
from tests.support.servers import TIMEOUT_S
from tests.support.tokens import TOKENS, bearer, entry, write_access_file

pytestmark = pytest.mark.usefixtures("traced_processes")

LATER = pb.RepositoryModelLoadRequest(model_name="later")


@dataclass(frozen=True)
class Server:
    """The server of this module."""

    served: Served
    files: Files
    access: Path
    models: Path
    address: str
    admin: str
    metrics: str

    def connect(self, address: str) -> grpc.Channel:
        """A connection of its own."""
        trusted = grpc.ssl_channel_credentials(self.files.authority.read_bytes())
        return grpc.secure_channel(address, trusted, options=[("grpc.use_local_subchannel_pool", 1)])

    def audited(self, method: str) -> list[dict[str, Any]]:
        """The audit lines so far."""
        return [line for line in self.served.events if line["event"] == "audit" and line["method"] == method]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    for model in ("linear", "later"):
        onnx_models.write_artifact(models, model)
    files, access = Files(folder), write_access_file(folder / "access.toml")
    files.write("first.example")
    flags = ["--model-control", "explicit", "--load-models", "linear", "--admin-port", "0", "--metrics-tls"]
    flags += ["--tls-cert", str(files.chain), "--tls-key", str(files.key)]
    flags += ["--access-file", str(access), "--metrics-access", "observe", "--allow-anonymous", "none"]
    with serve(models, *flags) as process:
        try:
            served = Served(process)
            ready = served.until("ready")
            yield Server(served, files, access, models, ready["address"], ready["admin"], ready["metrics"])
            process.terminate()
            served.rest()
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def test_every_process_asks_who_calls(server: Server) -> None:
    for _ in range(8):
        with server.connect(server.address) as channel:
            infer, request = stub(channel).ModelInfer, row_request(onnx_models.rows(1))
            assert infer(request, timeout=TIMEOUT_S, **bearer(TOKENS["predict"])).raw_output_contents
            assert refused(infer, request, timeout=TIMEOUT_S)[0] == grpc.StatusCode.UNAUTHENTICATED


def test_a_control_call_is_guarded_and_audited_where_it_came_in_and_nowhere_else(server: Server) -> None:
    control = bearer(TOKENS["control"])
    with server.connect(server.admin) as admin, server.connect(server.address) as public:
        stub(admin).RepositoryModelLoad(LATER, timeout=TIMEOUT_S, **control)
        code, said = refused(stub(public).RepositoryModelUnload, LATER, timeout=TIMEOUT_S, **control)
        assert (code, said.rpartition("; ")[2]) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "connect to the admin port (admin_port)",
        )
        code, _ = refused(stub(admin).RepositoryModelUnload, LATER, timeout=TIMEOUT_S, **bearer(TOKENS["observe"]))
        assert code == grpc.StatusCode.PERMISSION_DENIED
    # A process that starts is told of the call too.
    os.kill(server.served.pids()[1], signal.SIGKILL)
    server.served.until("process ready", process=1)
    (loaded,) = server.audited("RepositoryModelLoad")
    assert (loaded["identity"], loaded["credential"], loaded["model"]) == ("control", "token", "later")
    assert loaded["peer"].startswith("ipv4:127.0.0.1:")
    assert loaded["status"] == "OK"
    assert loaded["process"] in (0, 1)
    refusals = [(line["identity"], line["status"]) for line in server.audited("RepositoryModelUnload")]
    assert refusals == [("control", "PERMISSION_DENIED"), ("observe", "PERMISSION_DENIED")]


def test_the_metrics_of_all_processes_are_for_who_may_observe(server: Server) -> None:
    page = f"{server.metrics}/metrics"
    assert [get(page, token)[0] for token in (None, "wrong", TOKENS["predict"])] == [401, 401, 403]
    status, said, _ = get(page, TOKENS["observe"])
    assert status == 200
    assert 'frostline_process_up{process="0"} 1.0' in said
    assert 'frostline_process_up{process="1"} 1.0' in said
    assert [get(f"{server.metrics}/{name}")[0] for name in ("healthz", "readyz")] == [200, 200]


def test_hanging_up_has_the_supervisor_too_read_its_files_again(server: Server) -> None:
    page = f"{server.metrics}/metrics"
    assert name_seen(server.metrics) == "first.example"
    server.files.write("second.example")
    write_access_file(server.access, entry("scraper", "new", "observe"))
    before = len(server.served.events)
    server.served.process.send_signal(signal.SIGHUP)
    while "process" in server.served.until("access"):
        pass
    # It did so at once, before it passed the signal on.
    assert {line["event"] for line in server.served.events[before:]} <= {"access", "certificate"}
    assert get(page, "new")[0] == 200
    assert name_seen(server.metrics) == "second.example"


def test_a_second_server_on_the_admin_port_does_not_start(server: Server) -> None:
    port = server.admin.rpartition(":")[2]
    with serve(server.models, "--admin-port", port) as second:
        _, log = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in log.splitlines()[-1]
