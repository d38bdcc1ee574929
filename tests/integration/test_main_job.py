"""The main job end to end: what was trained is what real processes serve to real concurrent clients."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, predictor_pb2_grpc
from frostline.pb import predictor_pb2 as typed
from frostline_training import data, publish
from frostline_training.config import RECIPES
from frostline_training.loop.device import choose_device
from frostline_training.loop.trainer import train
from tests.support import onnx_models

Array = np.ndarray[Any, Any]

CALLERS = 64
TIMEOUT_S = 60.0
FRONT_ENDS = ("h2", "grpcio")


class Silent:
    """Watches a training without a word."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


@dataclass(frozen=True)
class Trained:
    """A published digits network, the rows its training never saw, and what PyTorch answers for them."""

    models: Path
    inputs: Array
    targets: Array
    logits: Array


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The real recipe, trained for real and published."""
    models = tmp_path_factory.mktemp("digits-models")
    recipe = RECIPES["digits"]
    split = data.prepare(recipe)
    trained = train(recipe, split, device=choose_device("cpu"), watcher=Silent())
    rows = torch.from_numpy(split.test.inputs)
    publish(trained.network, rows, name="digits", labels=split.dataset.labels, models=models, test=split.test)
    with torch.inference_mode():
        logits = trained.network.eval()(rows).numpy()
    assert isinstance(split.test.inputs, np.ndarray)
    return Trained(models, split.test.inputs, split.test.targets, logits)


def quiet(event: dict[str, Any]) -> None:
    """Ignore what the server logs."""


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_held_out_digits_are_served_as_pytorch_answers_them(digits: Trained, front_end: str) -> None:
    assert len(digits.inputs) >= 360
    assert (digits.logits.argmax(axis=1) == digits.targets).mean() >= 0.98
    with (
        server_process.serve(["--models", str(digits.models), "--transport", front_end], quiet) as served,
        grpc.insecure_channel(served.address) as channel,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        stub = predictor_pb2_grpc.PredictorStub(channel)

        def predict(row: Array) -> typed.PredictResponse:
            tensor = typed.Tensor(dtype=typed.FP32, shape=(1, *row.shape), data=row.tobytes())
            request = typed.PredictRequest(model="digits", inputs=[tensor])
            response: typed.PredictResponse = stub.Predict(request, timeout=TIMEOUT_S)
            return response

        answers = list(pool.map(predict, digits.inputs))
        infer = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stats = infer.ModelStatistics(pb.ModelStatisticsRequest(name="digits"), timeout=TIMEOUT_S).model_stats[0]
    logits = np.concatenate([np.frombuffer(answer.logits.data, "<f4").reshape(1, 10) for answer in answers])
    argmax = np.concatenate([np.frombuffer(answer.argmax.data, "<i8") for answer in answers])
    np.testing.assert_allclose(logits, digits.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(argmax, digits.logits.argmax(axis=1))
    assert [answer.labels[0] for answer in answers] == [str(index) for index in argmax]
    # They really came through shared batches of several sizes.
    assert stats.inference_count == len(answers)
    assert stats.execution_count < len(answers)
    assert len(stats.batch_stats) > 1


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_request_accepted_before_sigterm_gets_its_right_answer(tmp_path: Path, front_end: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    command = [
        *server_process.PROGRAM,
        "--models",
        str(tmp_path),
        "--transport",
        front_end,
        "--port",
        "0",
        "--metrics-port",
        "0",
    ]
    with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        ready = next(event for line in server.stderr if (event := json.loads(line))["event"] == "ready")
        enough = threading.Semaphore(0)
        # Retries would hide a lost answer.
        options = [("grpc.enable_retries", 0)]
        with grpc.insecure_channel(ready["address"], options=options) as channel, ThreadPoolExecutor(CALLERS) as pool:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            callers = [pool.submit(call_until_refused, stub, number, enough) for number in range(CALLERS)]
            for _ in range(20 * CALLERS):
                assert enough.acquire(timeout=TIMEOUT_S)
            server.send_signal(signal.SIGTERM)
            ends = [caller.result(TIMEOUT_S) for caller in callers]
        stopped = next(event for line in server.stderr if (event := json.loads(line))["event"] == "stopped")
        assert server.wait(TIMEOUT_S) == 0
    assert stopped["finished"]
    # What the server says it has answered, the callers have got, every answer checked.
    assert stopped["answered"] == sum(answered for answered, _, _ in ends)
    refused = [
        details.startswith("Server is stopping") for _, code, details in ends if code == grpc.StatusCode.UNAVAILABLE
    ]
    assert any(refused)
    # A caller that was late found the port closing, and its call was not looked at: gRPC itself says so in one of these ways.
    assert {code for _, code, _ in ends} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def call_until_refused(stub: Any, number: int, enough: threading.Semaphore) -> tuple[int, grpc.StatusCode, str]:
    """Send one row after another and check every answer; returns how many came, and how the first failure looked."""
    x = onnx_models.rows(1) + number
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    request = pb.ModelInferRequest(model_name="linear", inputs=[tensor], raw_input_contents=[x.tobytes()])
    for answered in itertools.count():
        try:
            response = stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return answered, error.code(), error.details() or ""
        got = np.frombuffer(response.raw_output_contents[0], "<f4")
        np.testing.assert_allclose(got, onnx_models.logits_of(x)[0], rtol=1e-5)
        enough.release()
    raise AssertionError("unreachable")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_message_of_600_mb_is_refused_and_keeps_no_memory(tmp_path: Path, front_end: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        server_process.serve(["--models", str(tmp_path), "--transport", front_end], quiet) as served,
        grpc.insecure_channel(served.address, options=[("grpc.max_send_message_length", -1)]) as channel,
    ):
        pid = served_pid(served.address)
        before = memory_mb(pid)
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(600 << 20), timeout=TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"larger than max ({600 << 20} vs. {64 << 20})" in (caught.value.details() or "")
        after = memory_mb(pid)
        # The channel and the server go on.
        assert inference_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest()).ready
    # Not kept, though the allocators of three libraries may hold on to some of it.
    assert after["VmRSS"] - before["VmRSS"] < 300
    peak = after["VmHWM"] - before["VmRSS"]
    # It is refused by its first five bytes.
    assert peak < 100


def memory_mb(pid: int) -> dict[str, int]:
    """Resident memory of a process, now (VmRSS) and at its peak (VmHWM), in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        line.partition(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
    }


def test_serving_loads_no_torch(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with server_process.serve(["--models", str(tmp_path)], quiet) as served:
        maps = Path(f"/proc/{served_pid(served.address)}/maps").read_text()
    assert "onnxruntime" in maps
    assert "torch" not in maps


def served_pid(address: str) -> int:
    """The process that listens on a port of this machine."""
    port = int(address.rpartition(":")[2])
    # grpcio's sockets are IPv6 ones that take IPv4 too.
    sockets = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    inodes = {entry[9] for entry in sockets if entry[3] == "0A" and int(entry[1].rpartition(":")[2], 16) == port}
    for process in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(process.readlink())
        except OSError:
            continue
        if target.removeprefix("socket:[").rstrip("]") in inodes:
            return int(process.parts[2])
    raise AssertionError(f"nobody listens on {address}")


def test_importing_the_server_imports_neither_torch_nor_training() -> None:
    code = "import sys, frostline_server.app; sys.exit(any(name in sys.modules for name in ('torch', 'frostline_training')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_protocols_field_numbers_are_the_public_ones() -> None:
    ours, theirs = (describe(module) for module in ("frostline.pb", "tritonclient.grpc"))
    missing = {key: value for key, value in ours.items() if theirs.get(key) != value}
    assert len(ours) > 100
    assert missing == {}


def describe(package: str) -> dict[str, Any]:
    """Every field and method of package `inference`, read in a process of its own: two copies cannot share one."""
    script = Path(__file__).parent / "clients" / "describe_protocol.py"
    done = subprocess.run([sys.executable, str(script), package], check=True, capture_output=True, text=True)
    described: dict[str, Any] = json.loads(done.stdout)
    return described


@pytest.fixture(scope="module", params=FRONT_ENDS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server process behind each front end."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    with server_process.serve(["--models", str(models), "--transport", request.param], quiet) as served:
        yield served.address


def expected() -> dict[str, Any]:
    """What every client must have got for the rows it was told to send."""
    logits = onnx_models.logits_of(onnx_models.rows(3))
    return {"logits": logits, "softmax": onnx_models.softmax_of(logits), "argmax": logits.argmax(axis=1)}


@pytest.mark.parametrize("style", ["sync", "aio"])
def test_tritons_own_client_gets_metadata_statistics_and_right_answers(address: str, style: str) -> None:
    script = Path(__file__).parent / "clients" / f"triton_{style}.py"
    sent = json.dumps(onnx_models.rows(3).tolist())
    done = subprocess.run(
        [sys.executable, str(script), address, sent], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    for name, array in expected().items():
        np.testing.assert_allclose(got["outputs"][name], array, rtol=1e-5)
    assert got["live"]
    assert got["server_ready"]
    assert got["model_ready"]
    assert got["server"] == "frostline"
    assert got["inputs"] == [["input", "FP32", [-1, 4]]]
    assert got["outputs_described"] == [["logits", [-1, 3]], ["softmax", [-1, 3]], ["argmax", [-1]]]
    assert got["max_batch_size"] == 64
    assert got["inference_count"] >= 3
    assert got["index"] == [["linear", "1", "READY"]]
    assert "unexpected inference input" in got["refusal"]


@pytest.mark.parametrize("found_by", ["proto", "reflection"])
def test_a_node_client_gets_the_same_answer(address: str, found_by: str, node_packages: Path) -> None:
    rows = onnx_models.rows(3)
    script = Path(__file__).parent / "clients" / "infer.cjs"
    environment = {**os.environ, "NODE_PATH": str(node_packages)}
    done = subprocess.run(
        ["node", str(script), address, json.dumps(rows.tolist()), found_by],
        check=False, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    for name, array in expected().items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5)
