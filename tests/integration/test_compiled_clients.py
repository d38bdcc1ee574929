"""Clients on gRPC's Go and C++ libraries, built here from Debian's packages, against a server behind each front end.

Building them takes half a minute, so they are not part of every run: `make interop` runs them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from tests.support.servers import TIMEOUT_S
from tests.support.wires import MODEL, WIRES, Wire, assert_response, question, served

CLIENTS = Path(__file__).parent / "clients"
WANTED = "FROSTLINE_COMPILED_CLIENTS"
BUILD_S = 200

pytestmark = pytest.mark.skipif(WANTED not in os.environ, reason="building them takes half a minute; make interop does")


@dataclass(frozen=True)
class Call:
    """A call that a client is to make."""

    method: str
    messages: Sequence[bytes]
    kind: str = "unary"
    encoding: str = "-"
    timeout_ms: int = 0


@dataclass(frozen=True)
class Ended:
    """How it ended, as the client saw it."""

    status: int
    message: str
    answers: Sequence[bytes]


def build_go(program: Path) -> None:
    """Build the Go client with the libraries of golang-google-grpc-dev, without a network."""
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""}
    command = ["go", "build", "-o", str(program), str(CLIENTS / "bytes_client.go")]
    subprocess.run(command, check=True, timeout=BUILD_S, env=environment)


def build_cpp(program: Path) -> None:
    """Build the C++ client with libgrpc++-dev."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], check=True, capture_output=True, text=True)
    command = ["g++", "-O1", "-std=c++17", str(CLIENTS / "bytes_client.cc"), "-o", str(program), *flags.stdout.split()]
    subprocess.run(command, check=True, timeout=BUILD_S)


BUILD = {"go": build_go, "g++": build_cpp}


@pytest.fixture(scope="module", params=BUILD)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    path = tmp_path_factory.mktemp("client") / "client"
    BUILD[request.param](path)
    return path


@pytest.fixture(scope="module", params=[name for name in WIRES if not name.endswith("-tls")])
def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire"), request.param, max_message_bytes=4 << 20) as running:
        yield running


def made(program: Path, wire: Wire, *calls: Call) -> list[Ended]:
    """The calls, all at once on one connection of the client's."""
    lines = [
        " ".join((call.method, call.kind, call.encoding, str(call.timeout_ms), *[f"x{m.hex()}" for m in call.messages]))
        for call in calls
    ]
    command = [str(program), wire.server.address]
    text = "".join(f"{line}\n" for line in lines)
    client = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    ended = []
    for line in client.stdout.splitlines():
        status, message, *answers = line.split()
        ended.append(
            Ended(int(status), bytes.fromhex(message[1:]).decode(), [bytes.fromhex(one[1:]) for one in answers])
        )
    assert len(ended) == len(calls)
    return ended


@pytest.mark.parametrize("encoding", ["-", "gzip"])
def test_calls_at_once_get_their_own_answers(program: Path, wire: Wire, encoding: str) -> None:
    calls = [Call(MODEL_INFER, [question(number)], encoding=encoding) for number in range(200)]
    for number, ended in enumerate(made(program, wire, *calls)):
        assert ended.status == 0, ended.message
        assert_response(pb.ModelInferResponse.FromString(ended.answers[0]), number)


@pytest.mark.parametrize("encoding", ["-", "gzip"])
def test_streams_at_once_get_their_own_answers(program: Path, wire: Wire, encoding: str) -> None:
    numbers = [range(100 * stream, 100 * stream + 50) for stream in range(8)]
    calls = [Call(MODEL_STREAM_INFER, [question(n) for n in those], "stream", encoding) for those in numbers]
    for those, ended in zip(numbers, made(program, wire, *calls), strict=True):
        assert ended.status == 0, ended.message
        left = set(those)
        for one in ended.answers:
            response = pb.ModelStreamInferResponse.FromString(one).infer_response
            number = int(response.id.split()[1])
            left.remove(number)
            assert_response(response, number)
        assert not left


def test_large_messages_go_through_and_larger_ones_are_refused(program: Path, wire: Wire) -> None:
    notes = [{"note": {"string_param": "x" * size}} for size in (3_000_000, 5_000_000)]
    fine, refused = made(program, wire, *[Call(MODEL_INFER, [question(1, parameters=note)]) for note in notes])
    assert fine.status == 0
    assert_response(pb.ModelInferResponse.FromString(fine.answers[0]), 1)
    assert refused.status == 8
    assert "larger than max" in refused.message


def test_errors_come_whole(program: Path, wire: Wire) -> None:
    unknown, missing = made(
        program,
        wire,
        Call("/no.Service/Method", [b""]),
        Call(MODEL_INFER, [question(1, "no", request_id="größe 100% 🙂\nnext")]),
    )
    assert unknown.status == 12
    assert missing.status == 5
    assert missing.message.startswith("[request id: größe 100% 🙂\nnext]")


def test_a_deadline_passes_while_the_device_is_busy(program: Path, wire: Wire) -> None:
    with wire.server.held(MODEL) as held:
        (late,) = made(program, wire, Call(MODEL_INFER, [question(1)], timeout_ms=50))
        held.wait_until_queued(0)
    assert late.status == 4
