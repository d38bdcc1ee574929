"""What is left in memory of requests that were refused: nothing, also as long as no garbage is collected."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from frostline_server.codec import message_scan
from frostline_server.rpc.h2 import front_end
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running

REFUSALS = 200
BYTES = 1 << 18
MOST_LEFT_BYTES = 64 * BYTES
"""gRPC itself keeps up to 4 MiB to read into at either end of a connection."""
ROWS = BYTES // 16


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "lookup", 1, onnx_models.lookup(), golden=False, labels=None)
    settings = {"max_batch_size": ROWS, "max_queue_size": ROWS, "max_message_bytes": 2 * BYTES, "probe_s": 0.0}
    with pytest.MonkeyPatch.context() as patched:
        # Fewer fields, which are counted 200 times; still so many that another thread counts them.
        patched.setattr(message_scan, "BRIEF_FIELDS", 200)
        patched.setattr(message_scan, "MOST_FIELDS", 300)
        with running(models, transport=request.param, log_level="error", **settings) as instance:
            yield instance


def message(model: str = "linear", shape: tuple[int, ...] = (ROWS, 4), **fields: Any) -> bytes:
    tensor = {"name": "input", "datatype": "FP32", "shape": shape, **fields}
    raw = [] if "contents" in fields else [bytes(BYTES)]
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=raw).SerializeToString()


def tokens() -> bytes:
    """A request that its network fails on."""
    x = np.full((ROWS, 2), 99, np.int64)
    tensor = {"name": "tokens", "datatype": "INT64", "shape": x.shape}
    return pb.ModelInferRequest(
        model_name="lookup", inputs=[tensor], raw_input_contents=[x.tobytes()]
    ).SerializeToString()


def numbers() -> bytes:
    """So many that they are decoded elsewhere."""
    return message(datatype="INT64", shape=(1, 4), contents={"int64_contents": [7] * BYTES})


TOO_LARGE = "a message that is too large"
REFUSED = {
    "an unknown model": (message("nobody"), grpc.StatusCode.NOT_FOUND),
    "a wrong shape": (message(shape=(ROWS, 5)), grpc.StatusCode.INVALID_ARGUMENT),
    "a wrong size": (message(shape=(1, 4)), grpc.StatusCode.INVALID_ARGUMENT),
    "a damaged message": (b"\x7a\xff\xff\x3f" + bytes(BYTES), grpc.StatusCode.INVALID_ARGUMENT),
    "too many fields": (b"\x2a\x00" * (BYTES // 2), grpc.StatusCode.INVALID_ARGUMENT),
    "too many numbers": (numbers(), grpc.StatusCode.INVALID_ARGUMENT),
    "data that its network cannot use": (tokens(), grpc.StatusCode.INVALID_ARGUMENT),
    TOO_LARGE: (message() + message(), grpc.StatusCode.RESOURCE_EXHAUSTED),
}


_NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Allocations(ctypes.Structure):
    """The C library's own account of what is allocated; see mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES]


def allocated() -> int:
    """Bytes that are allocated in blocks of more than 512; Python keeps smaller ones itself."""
    count = ctypes.CDLL(None).mallinfo2
    count.restype = Allocations
    found = count()
    return int(found.uordblks + found.hblkhd)


pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library keeps no account")


@contextmanager
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if more is in memory after the block than before it, without the help of a collector."""
    monkeypatch.setattr(front_end, "give_back", lambda: None)
    gc.collect()
    gc.disable()
    try:
        before = allocated()
        yield
        waited = threading.Event()
        for _ in range(int(TIMEOUT_S * 20)):
            left = allocated() - before
            if left < MOST_LEFT_BYTES:
                break
            waited.wait(0.05)
        else:
            pytest.fail(f"{left} bytes are left of {REFUSALS} messages of {BYTES} bytes")
    finally:
        gc.enable()


def codes(channel: grpc.Channel, method: str, payload: bytes, timeout_s: float = TIMEOUT_S) -> set[grpc.StatusCode]:
    """With which statuses many calls with this message end."""
    call, found = channel.unary_unary(method, bytes, bytes), set()
    for _ in range(REFUSALS):
        with pytest.raises(grpc.RpcError) as refused:
            call(payload, timeout=timeout_s)
        found.add(refused.value.code())
        del refused
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_left_of_a_request_that_is_refused(
    server: Running, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == TOO_LARGE and server.config.transport == "grpcio":
        pytest.skip("gRPC itself refuses these, and takes its time")
    payload, status = REFUSED[name]
    with grpc.insecure_channel(server.address) as channel, nothing_left(monkeypatch):
        assert codes(channel, MODEL_INFER, payload) == {status}


@pytest.mark.parametrize("name", [name for name in REFUSED if name != TOO_LARGE])
def test_nothing_is_left_of_a_message_that_is_refused_in_a_stream(
    server: Running, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    payload, _ = REFUSED[name]
    with grpc.insecure_channel(server.address) as channel, nothing_left(monkeypatch):
        stream = channel.stream_stream(MODEL_STREAM_INFER, bytes, pb.ModelStreamInferResponse.FromString)
        answers = [answer.error_message for answer in stream(iter([payload] * REFUSALS), timeout=TIMEOUT_S)]
        assert len(answers) == REFUSALS
        assert all(answers)
        del answers


def test_nothing_is_left_of_a_request_that_finds_the_queue_full(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with grpc.insecure_channel(server.address) as channel, server.held("linear") as device:
        waiting = channel.unary_unary(MODEL_INFER, bytes, bytes).future(message(), timeout=TIMEOUT_S)
        device.wait_until_queued(ROWS)
        with nothing_left(monkeypatch):
            assert codes(channel, MODEL_INFER, message()) == {grpc.StatusCode.UNAVAILABLE}
        device.release()
        assert waiting.result()


def test_nothing_is_left_of_a_request_whose_time_is_over(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with grpc.insecure_channel(server.address) as channel, server.held("linear"), nothing_left(monkeypatch):
        found = codes(channel, MODEL_INFER, message(), timeout_s=0.01)
    # Where many were given up, gRPC's own server turns further ones away.
    assert grpc.StatusCode.DEADLINE_EXCEEDED in found
    assert found <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("method", ["ModelMetadata", "LogSettings", "RepositoryModelLoad", "ServerReady"])
def test_nothing_is_left_of_a_question_that_is_refused(
    server: Running, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    payload = b"\x7a\xff\xff\x3f" + bytes(BYTES)
    with grpc.insecure_channel(server.address) as channel, nothing_left(monkeypatch):
        assert codes(channel, f"/inference.GRPCInferenceService/{method}", payload) == {
            grpc.StatusCode.INVALID_ARGUMENT
        }


def test_this_test_sees_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bytes] = []
    monkeypatch.setattr("tests.server.rpc.test_refused_memory.TIMEOUT_S", 0.1)
    with pytest.raises(pytest.fail.Exception), nothing_left(monkeypatch):
        left += [bytes(BYTES) for _ in range(REFUSALS)]
