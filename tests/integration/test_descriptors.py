"""A real server that may open no more files: who is connected goes on, probes are answered, and it recovers by itself."""

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import row_request, stub
from tests.support.https import Files, get
from tests.support.servers import TIMEOUT_S

# No folder is watched, because whoever watches one opens and closes files.
FLAGS = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json", "--model-control", "none"]


class Server:
    """A server's process.

    Attributes:
        process: it.
        ready: its first line that says where it is.
        lines: all lines so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.ready: dict[str, Any] = {}
        self._there = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._there.wait(TIMEOUT_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == "ready":
                self.ready = self.lines[-1]
                self._there.set()
        self._there.set()

    def stop(self) -> int:
        self.process.terminate()
        self._thread.join(TIMEOUT_S)
        return self.process.wait(TIMEOUT_S)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    onnx_models.write_artifact(folder / "models", "linear", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(folder / "models"), *FLAGS, *flags]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """A process cannot open another file."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # Not those that are open for a moment.
    looks = [{int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()} for _ in range(20)]
    taken = set.intersection(*looks)
    lowest = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def answered(opened: grpc.Channel) -> bool:
    request = row_request(np.ones((1, 4), np.float32))
    return len(stub(opened).ModelInfer(request, timeout=TIMEOUT_S).outputs) > 0


def test_without_descriptors_clients_go_on_new_ones_are_refused_and_probes_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        address, url = server.ready["address"], server.ready["metrics"]
        assert 'frostline_network_refused_total{reason="files"} 0.0' in get(f"{url}/metrics")[1]
        with channel(address) as before:
            assert answered(before)
            with no_more_files(server.process.pid):
                for _ in range(5):
                    with channel(address) as new, pytest.raises(grpc.RpcError) as refused:
                        answered(new)
                    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert [get(f"{url}/{page}")[0] for page in ("healthz", "readyz", "metrics")] == [200] * 3
                assert answered(before)
            with channel(address) as new:
                assert answered(new)
            assert answered(before)
        page = get(f"{url}/metrics")[1]
        assert server.stop() == 0
    [counted] = [
        line for line in page.splitlines() if line.startswith('frostline_network_refused_total{reason="files"}')
    ]
    assert float(counted.split()[1]) >= 5
    # Whatever the number of connections, one line a minute and port.
    told = [line["port"] for line in server.lines if line["event"] == "cannot accept connections"]
    assert sorted(told) == ["grpc", "metrics"]


def test_without_descriptors_probes_are_answered_over_tls_too(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write("first.example")
    flags = [
        "--tls-cert",
        str(files.settings["tls_cert"]),
        "--tls-key",
        str(files.settings["tls_key"]),
        "--metrics-tls",
    ]
    with serving(tmp_path, *flags) as server, no_more_files(server.process.pid):
        assert [get(f"{server.ready['metrics']}/{page}")[0] for page in ("healthz", "readyz")] == [200, 200]


def test_without_descriptors_the_supervisor_of_several_processes_answers_probes(tmp_path: Path) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        with no_more_files(server.process.pid):
            for _ in range(5):
                assert [get(f"{server.ready['metrics']}/{page}")[0] for page in ("healthz", "readyz")] == [200, 200]
        with channel(server.ready["address"]) as client:
            assert stub(client).ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        assert server.stop() == 0
