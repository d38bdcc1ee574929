"""The file of a Unix socket, through both front ends: who may take it, and who may remove it."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from frostline_server.errors import StartError
from frostline_server.rpc.unix_socket import MAX_PATH_BYTES, SocketFile
from tests.support.calls import row_request, stub
from tests.support.onnx_models import write_artifact
from tests.support.servers import TIMEOUT_S, Running, running

ROW = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(params=["h2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder whose path is short: a socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_artifact(tmp_path, "linear")
    return tmp_path


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [path.name for path in folder.iterdir()]


def predicted(address: str) -> str:
    """The label of ROW."""
    with grpc.insecure_channel(address) as channel:
        answer = stub(channel).ModelInfer(
            row_request(ROW, outputs=[{"name": "logits", "parameters": {"classification": {"int64_param": 1}}}]),
            timeout=TIMEOUT_S,
        )
    return str(answer.raw_output_contents[0][4:].decode().rpartition(":")[2])


def refusal(models: Path, address: str, transport: str) -> str:
    """Why a server does not start on an address."""
    instance = Running(models, host=address, transport=transport, model_control="none", log_level="error")
    try:
        with pytest.raises(StartError) as caught:
            instance.start()
    finally:
        instance.close_loop()
    return str(caught.value)


def test_a_second_server_does_not_take_the_socket_of_a_living_one(models: Path, folder: Path, transport: str) -> None:
    address = f"unix:{folder}/f.sock"
    with running(models, host=address, transport=transport, log_level="error"):
        for other in ("h2", "grpcio"):
            assert refusal(models, address, other) == (
                f"cannot listen on {address}: another server listens there; stop it, or choose another path"
            )
        assert names(folder) == ["f.sock"]
        assert predicted(address) == "bee"
    assert names(folder) == []


@pytest.mark.parametrize("slashes", ["", "//"])
def test_the_socket_of_a_server_that_is_gone_is_taken_over(
    models: Path, folder: Path, transport: str, slashes: str
) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(f"{folder}/f.sock")
        gone.listen()
    address = f"unix:{slashes}{folder}/f.sock"
    with running(models, host=address, transport=transport, log_level="error") as server:
        assert server.address == address
        assert predicted(address) == "bee"
    assert names(folder) == []


def test_a_server_that_ends_leaves_a_socket_that_is_no_longer_its_own(
    models: Path, folder: Path, transport: str
) -> None:
    address = f"unix:{folder}/f.sock"
    with running(models, host=address, transport=transport, log_level="error") as first:
        (folder / "f.sock").unlink()
        with running(models, host=address, transport=transport, log_level="error"):
            assert first.call(first.server.drain())
            assert predicted(address) == "bee"
    assert names(folder) == []


def test_what_is_no_socket_is_not_deleted(models: Path, folder: Path, transport: str) -> None:
    (folder / "f.sock").write_text("precious")
    message = refusal(models, f"unix:{folder}/f.sock", transport)
    assert message.endswith("there is a file that is no socket; remove it, or choose another path")
    assert (folder / "f.sock").read_text() == "precious"


def test_a_socket_of_another_kind_is_not_deleted(models: Path, folder: Path, transport: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"{folder}/f.sock")
        message = refusal(models, f"unix:{folder}/f.sock", transport)
    assert message.endswith("a socket that this server cannot connect to: Protocol wrong type for socket")
    assert names(folder) == ["f.sock"]


def test_a_server_that_is_too_busy_to_accept_lives(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(f"{folder}/f.sock")
        busy.listen(0)
        waiting.connect(f"{folder}/f.sock")
        with pytest.raises(StartError, match="another server listens there"):
            SocketFile(f"unix:{folder}/f.sock").claim()


def test_two_servers_that_start_at_once_do_not_share_the_name(folder: Path) -> None:
    files = [SocketFile(f"unix:{folder}/f.sock") for _ in range(2)]
    for file in files:
        file.claim()
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for bound, file in zip((one, other), files, strict=True):
            bound.bind(file.private_address.removeprefix("unix:"))
        files[0].publish()
        with pytest.raises(StartError, match="another server listens there"):
            files[1].publish()
        files[1].remove()
        assert "f.sock" in names(folder)
        files[0].remove()
        assert "f.sock" not in names(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * MAX_PATH_BYTES, "the path of a Unix socket has at most 107 bytes; choose a shorter one"),
        ("nowhere/f.sock", "nowhere is no folder in which this user can create files"),
    ],
)
def test_a_path_that_cannot_be_used_stops_the_start_in_one_sentence(
    models: Path, folder: Path, transport: str, name: str, reason: str
) -> None:
    message = refusal(models, f"unix:{folder}/{name}", transport)
    assert message.startswith(f"cannot listen on unix:{folder}/{name}: ")
    assert message.endswith(reason)


@pytest.mark.parametrize("host", ["unix:", "unix:/", "unix:///"])
def test_an_address_that_names_no_file_stops_the_start_in_one_sentence(models: Path, transport: str, host: str) -> None:
    assert refusal(models, host, transport) == (
        f"cannot listen on {host}: it names no file; write unix:/path/to/a.sock"
    )
