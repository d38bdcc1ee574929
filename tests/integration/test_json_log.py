"""`--log-format json`: whatever happens, each line on standard error is one JSON object, and says what happened."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.protocol import ERROR_KIND, pack_bytes
from tests.support import bad_data, onnx_models
from tests.support.bad_data import BAD
from tests.support.calls import stub
from tests.support.servers import TIMEOUT_S

SERVED = [operator for operator, bad in BAD.items() if bad.rank is not None]
DATATYPES = {"f": "FP32", "i": "INT64", "O": "BYTES"}


def request_for(operator: str) -> pb.ModelInferRequest:
    """A request that the operator refuses."""
    request = pb.ModelInferRequest(model_name=operator, outputs=[{"name": "y"}])
    for name, value in BAD[operator].inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[value.dtype.kind], shape=value.shape)
        raw = pack_bytes(value.ravel()) if value.dtype.hasobject else value.tobytes()
        request.raw_input_contents.append(raw)
    return request


def is_event(line: dict[str, Any]) -> bool:
    """Whether a line was an object of our log; others are given as their text alone."""
    return {"event", "level", "timestamp"} <= set(line)


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_bad_requests_of_every_kind_are_told_to_the_client_and_to_the_log(tmp_path: Path, transport: str) -> None:
    for operator in SERVED:
        folder = tmp_path / operator / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bad_data.network(operator).SerializeToString())
        (folder.parent / "config.pbtxt").write_text("max_batch_size: 0")
    flags = ["--models", str(tmp_path), "--device", "cpu", "--transport", transport]
    lines: list[dict[str, Any]] = []
    with (
        server_process.serve(flags, lines.append) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        for operator in SERVED:
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as caught:
                    stub(channel).ModelInfer(request_for(operator), timeout=TIMEOUT_S)
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            words = f"{operator} node 'the {operator}': {BAD[operator].words}"
            assert error.details() == f"the network does not take this data: {words}"
            assert dict(error.trailing_metadata())[ERROR_KIND] == "invalid_data"
    assert [line for line in lines if not is_event(line)] == []
    told = {line["model"]: line for line in lines if line["event"] == "run failed"}
    assert list(told) == SERVED
    for operator in SERVED:
        line = told[operator]
        assert (line["level"], line["kind"], line["version"]) == ("info", "invalid_data", "1")
        assert BAD[operator].words in line["reason"]


def test_a_handshake_that_fails_writes_no_line_that_is_no_json(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    onnx_models.write_artifact(tmp_path / "models", "linear", 1)
    flags = ["--models", str(tmp_path / "models"), "--device", "cpu"]
    flags += ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    lines: list[dict[str, Any]] = []
    with server_process.serve(flags, lines.append) as served:
        host, _, port = served.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(1024):  # until the server has given the handshake up
                pass
    assert [line for line in lines if not is_event(line)] == []


ODD = """
import sys, threading, warnings, logging, asyncio
from frostline_server.app import Server
start = Server.start
class Left:
    def __del__(self):
        raise ValueError("left")
async def start_and_err(self):
    await start(self)
    warnings.warn("old\\nways")
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
    Left()
    logging.getLogger("library").warning("%d", "no number")
    try:
        [][1]
    except IndexError:
        logging.getLogger("library").exception("lost")
    asyncio.get_running_loop().call_exception_handler({"message": "odd", "exception": KeyError("k")})
    raise OSError("the end")
Server.start = start_and_err
from frostline.cli.main import main
sys.argv.insert(1, "serve")
main()
"""


def test_what_python_writes_by_itself_is_json_too(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    flags = ["--models", str(tmp_path), "--port", "0", "--metrics-port", "0", "--log-format", "json"]
    ended = subprocess.run(
        [sys.executable, "-c", ODD, *flags], stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S * 2, check=False
    )
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all(is_event(line) for line in lines)
    after = lines[[line["event"] for line in lines].index("ready") + 1 :]
    assert [(line["level"], line.get("logger")) for line in after] == [
        ("warning", "py.warnings"),
        ("critical", None),
        ("error", None),
        ("error", "library"),
        ("error", "library"),
        ("error", "asyncio"),
        ("critical", None),
    ]
    assert "old\nways" in after[0]["event"]
    assert after[1]["thread"] == "worker"
    assert [line["exception"][0]["exc_type"] for line in (after[1], after[2], *after[4:])] == [
        "ZeroDivisionError",
        "ValueError",
        "IndexError",
        "KeyError",
        "OSError",
    ]
    assert after[3]["line"] == "%d"


@pytest.mark.parametrize(
    ("models", "processes", "reason"),
    [("nothing", "1", "no such models folder: "), ("/dev/null", "1", "/dev/null is no folder; "), ("/dev/null", "2", "/dev/null is no folder; ")],
)  # fmt: skip
def test_a_server_that_cannot_start_says_so_in_json(tmp_path: Path, models: str, processes: str, reason: str) -> None:
    flags = ["--models", str(tmp_path / models), "--port", "0", "--metrics-port", "0", "--log-format", "json"]
    flags += ["--processes", processes]
    ended = subprocess.run(
        [*server_process.PROGRAM, *flags], stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S * 2, check=False
    )
    assert ended.returncode == 2
    (line,) = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["event"], line["level"]) == ("cannot start", "critical")
    assert line["reason"].startswith(reason)
