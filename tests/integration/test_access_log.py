"""The access log: a line of JSON for each request, on every front end, and nothing of what it held."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import frostline
from frostline_server.errors import StartError
from tests.support import onnx_models, processes
from tests.support.calls import refused, row_request, stub
from tests.support.http_calls import ask
from tests.support.servers import TIMEOUT_S, Running, running, until
from tests.support.tokens import TOKENS, bearer, write_access_file

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = 271828.0
X = np.full((2, 4), SECRET, np.float32)
BODY = {"id": "h1", "inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(folder, "linear", 1)
    return folder


def lines_of(log: Path, count: int) -> list[dict[str, Any]]:
    """The lines of a log, once there are so many."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S * 50)):
        lines = log.read_text().splitlines() if log.exists() else []
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        pause.wait(0.02)
    raise AssertionError(f"{len(lines)} lines, not {count}: {lines}")


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_each_request_over_grpc_is_a_line_that_says_what_was_called(
    models: Path, tmp_path: Path, transport: str
) -> None:
    log, access = tmp_path / "access.log", write_access_file(tmp_path / "access.toml")
    traceparent = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00")
    with (
        running(models, access_log=str(log), transport=transport, access_file=access) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        calls = stub(channel)
        shown = (("authorization", f"Bearer {TOKENS['predict']}"), traceparent)
        calls.ModelInfer(row_request(X, "one"), metadata=shown, timeout=TIMEOUT_S)
        refused(calls.ModelInfer, row_request(X, "two", "nobody"), timeout=TIMEOUT_S, **bearer(TOKENS["predict"]))
        list(calls.ModelStreamInfer(iter([row_request(X, "three")]), timeout=TIMEOUT_S, **bearer(TOKENS["predict"])))
        with frostline.connect(server.address) as client:
            client.predict("linear", X)
        lines = lines_of(log, 4)
    # A line is written soon after the answer, which may be after the next request's.
    lines.sort(key=lambda line: ("one", "two", "three", "").index(line["request_id"]))
    said = [
        [line[key] for key in ("request_id", "identity", "method", "model", "version", "status", "error", "rows")]
        for line in lines
    ]
    service = "/inference.GRPCInferenceService"
    assert said == [
        ["one", "predict", f"{service}/ModelInfer", "linear", "1", "OK", "", 2],
        ["two", "predict", f"{service}/ModelInfer", "nobody", "", "NOT_FOUND", "model_not_found", 0],
        ["three", "predict", f"{service}/ModelStreamInfer", "linear", "1", "OK", "", 2],
        ["", "anonymous", "/frostline.v1.Predictor/Predict", "linear", "1", "OK", "", 2],
    ]
    assert [line["trace_id"] for line in lines] == [TRACE, "", "", ""]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") and line["protocol"] == "grpc" for line in lines)
    answered = [lines[0], *lines[2:]]
    assert all(0 <= line["queue_us"] + line["run_us"] <= line["total_us"] for line in answered)
    assert all(line["run_us"] > 0 for line in answered)
    written = log.read_text()
    assert not any(token in written for token in TOKENS.values())
    assert str(int(SECRET)) not in written


def test_each_request_over_http_is_a_line_too(models: Path, tmp_path: Path) -> None:
    log, access = tmp_path / "access.log", write_access_file(tmp_path / "access.toml")
    with running(models, access_log=str(log), http=True, access_file=access, allow_anonymous="none") as server:
        headers = {"authorization": f"Bearer {TOKENS['predict']}"}
        assert ask(server.server.http_url, "/v2/models/linear/infer", BODY, headers=headers).status == 200
        assert ask(server.server.http_url, "/v2/models/linear/infer", b"no JSON", headers=headers).status == 400
        assert ask(server.server.http_url, "/v2/models/linear/infer", BODY).status == 401
        assert ask(server.server.http_url, "/v2/models/linear/predict", b"{nope", headers=headers).status == 400
        lines = lines_of(log, 4)
    lines.sort(key=lambda line: (line["status"], line["method"]))
    keys = ("request_id", "identity", "protocol", "method", "status", "error", "rows")
    route, rows = "POST /v2/models/{model}/infer", "POST /v2/models/{model}/predict"
    assert [[line[key] for key in keys] for line in lines] == [
        ["h1", "predict", "http", route, "200", "", 2],
        ["", "predict", "http", route, "400", "invalid_input", 0],
        ["", "predict", "http", rows, "400", "invalid_input", 0],
        ["", "anonymous", "http", route, "401", "unauthenticated", 0],
    ]
    # The path names the model, also where nobody has read the body.
    assert {line["model"] for line in lines} == {"linear"}
    assert str(int(SECRET)) not in log.read_text()


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_a_call_that_may_not_be_made_is_a_line(models: Path, tmp_path: Path, transport: str) -> None:
    log, access = tmp_path / "access.log", write_access_file(tmp_path / "access.toml")
    with (
        running(models, access_log=str(log), access_file=access, allow_anonymous="none", transport=transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        refused(stub(channel).ModelInfer, row_request(X), timeout=TIMEOUT_S)
        refused(list, stub(channel).ModelStreamInfer(iter([row_request(X)]), timeout=TIMEOUT_S, **bearer("wrong")))
        unary, stream = lines_of(log, 2)
    assert (unary["status"], unary["identity"], unary["model"]) == ("UNAUTHENTICATED", "anonymous", "")
    assert (stream["status"], stream["method"].rpartition("/")[2]) == ("UNAUTHENTICATED", "ModelStreamInfer")
    assert "wrong" not in log.read_text()


def test_a_rotated_log_goes_on_in_its_new_file_after_a_reload(models: Path, tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with running(models, access_log=str(log)) as server, grpc.insecure_channel(server.address) as channel:
        stub(channel).ModelInfer(row_request(X, "before"), timeout=TIMEOUT_S)
        lines_of(log, 1)
        log.rename(old)
        call_on_loop(server, server.server.reload)
        until(log.exists)
        stub(channel).ModelInfer(row_request(X, "after"), timeout=TIMEOUT_S)
        assert [line["request_id"] for line in lines_of(log, 1)] == ["after"]
    assert [json.loads(line)["request_id"] for line in old.read_text().splitlines()] == ["before"]


def test_lines_that_cannot_be_written_are_counted_and_harm_nobody(models: Path) -> None:
    with running(models, access_log="/dev/full") as server, grpc.insecure_channel(server.address) as channel:
        for _ in range(3):
            stub(channel).ModelInfer(row_request(X), timeout=TIMEOUT_S)
        until(
            lambda: (
                server.server._recorder is not None and server.server._recorder.lines == {"written": 0, "dropped": 3}
            )
        )
        text = ask(server.metrics_url, "/metrics").body.decode()
    assert 'frostline_access_log_lines_total{outcome="dropped"} 3.0' in text


def test_a_log_that_cannot_be_opened_ends_the_start(models: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match="cannot open the access log"),
        running(models, access_log=str(tmp_path / "missing" / "access.log")),
    ):
        pass


def test_several_processes_write_whole_lines_to_one_file_and_to_standard_output(models: Path, tmp_path: Path) -> None:
    flags = ["--processes", "2", "--access-log", "stdout", "--no-http"]
    with (tmp_path / "output").open("wb") as output:
        command = [sys.executable, "-m", "frostline", "serve", "--models", str(models), "--log-format", "json"]
        command += ["--device", "cpu", "--port", "0", "--metrics-port", "0", "--trial-load", "never", *flags]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)
        with process:
            served = processes.Served(process)
            address = served.until("ready")["address"]
            for number in range(8):
                # A connection of its own, so that both processes are asked.
                options = (("grpc.use_local_subchannel_pool", 1),)
                with grpc.insecure_channel(address, options) as channel:
                    stub(channel).ModelInfer(row_request(X, str(number)), timeout=TIMEOUT_S)
            process.terminate()
            served.rest()
            assert process.wait(TIMEOUT_S) == 0
    lines = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
    assert sorted(line["request_id"] for line in lines) == [str(number) for number in range(8)]


def call_on_loop(server: Running, function: Callable[[], None]) -> None:
    """Call a function on the server's event loop."""

    async def call() -> None:
        function()

    server.call(call())
