"""Clients made for Triton and KServe, unchanged, each in a process of its own, against a real server behind each front end.

The table in docs/clients.md says what works with which of them; it must say what is tried here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frostline import server_process
from tests.support import onnx_models

CLIENTS = Path(__file__).parent / "clients"
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
TIMEOUT_S = 120

TRITON: dict[str, tuple[str, ...]] = {
    "health": ("ServerLive", "ServerReady", "ModelReady"),
    "metadata": ("ServerMetadata", "ModelMetadata", "ModelConfig"),
    "infer": ("ModelInfer",),
    "async_infer": ("ModelInfer, many at once",),
    "stream": ("ModelStreamInfer",),
    "cancel": ("cancelling a call or a stream",),
    "strings": ("strings",),
    "classification": ("classification",),
    "system_shared_memory": ("SystemSharedMemory Status, Register, Unregister",),
    "cuda_shared_memory": ("CudaSharedMemory Status, Unregister",),
    "model_control": ("RepositoryIndex", "RepositoryModel Load, Unload"),
    "statistics": ("ModelStatistics",),
    "settings": ("LogSettings", "TraceSetting"),
    "compression": ("compressed requests",),
}
"""What each example of `clients/triton.py` does, in the words of the table."""

TRITON_AIO = (
    "ServerReady", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer", "ModelInfer, many at once",
    "ModelStreamInfer", "RepositoryIndex", "ModelStatistics", "LogSettings", "TraceSetting",
)  # fmt: skip
KSERVE = ("ServerLive", "ServerReady", "ModelReady", "ModelInfer")
NODE = ("ModelInfer", "ModelStreamInfer")
"""The first of them in the tests of the main job."""


def quiet(event: dict[str, Any]) -> None:
    """Ignore what the server logs."""


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    for name in ("linear", "spare"):
        onnx_models.write_artifact(models, name, 1)
    onnx_models.write_artifact(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    flags = ["--models", str(models), "--transport", request.param, "--model-control", "explicit", "--load-models", "*"]
    flags += ["--allow-anonymous", "all"]
    with server_process.serve(flags, quiet) as served:
        yield served.address


def ran(*command: str) -> str:
    """What a client printed; its failure fails the test with all it said."""
    client = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert client.returncode == 0, client.stdout + client.stderr
    return client.stdout


@pytest.mark.parametrize("example", [*TRITON, "aio"])
def test_tritons_client(address: str, example: str) -> None:
    ran(sys.executable, str(CLIENTS / "triton.py"), example, address)


@pytest.mark.parametrize("first", ["tritonclient.grpc", "frostline.client.connection"])
def test_tritons_client_and_ours_live_in_one_process(address: str, first: str) -> None:
    script = f"""
import {first}
import frostline, tritonclient.grpc
with frostline.connect({address!r}) as client:
    print([model.name for model in client.models()], client.predict("linear", [[1, 2, 3, 4]]).argmax)
print(tritonclient.grpc.InferenceServerClient({address!r}).get_model_metadata("linear").name)
"""
    assert ran(sys.executable, "-c", script) == "['linear', 'spare', 'text'] [1]\nlinear\n"


def test_kserves_client(address: str, kserve_python: Path) -> None:
    ran(str(kserve_python), str(CLIENTS / "kserve_client.py"), address)


def test_a_stream_of_node(address: str, tool: Callable[[str], str], node_packages: Path) -> None:
    assert node_packages.is_dir()
    answers = json.loads(ran(tool("node"), str(CLIENTS / "stream.cjs"), address, "200"))
    assert answers.pop("200") == "[request id: 200] Request for unknown model: 'nobody' is not found"
    assert len(answers) == 200
    for number, logits in answers.items():
        row = np.array([[int(number), 1, 2, 3]], np.float32)
        np.testing.assert_allclose(logits, onnx_models.logits_of(row)[0], rtol=1e-5)


def test_the_table_says_what_is_tried() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| .* \| (yes)? ?\| ", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = [{row[0] for row in cells if row[column] == "yes"} for column in range(1, 5)]
    tried = [{call for calls in TRITON.values() for call in calls}, set(TRITON_AIO), set(KSERVE), set(NODE)]
    assert table == tried
