"""Regions of shared memory over the wire, through both front ends; tensors in them are the codec's and inference's."""

import os
from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import refused, row_request, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import Conversation


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    with running(models, transport=request.param, log_level="error") as instance:
        yield instance


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel
        stub(channel).SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=TIMEOUT_S)


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    block = shared_memory.SharedMemory(create=True, size=4096, name=f"frostline-test-{os.getpid()}")
    try:
        yield block
    finally:
        block.close()
        block.unlink()


def register(channel: grpc.Channel, name: str, key: str, offset: int = 0, byte_size: int = 64) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=byte_size)
    stub(channel).SystemSharedMemoryRegister(request, timeout=TIMEOUT_S)


def regions(channel: grpc.Channel, name: str = "") -> dict[str, tuple[str, str, int, int]]:
    request = pb.SystemSharedMemoryStatusRequest(name=name)
    found = stub(channel).SystemSharedMemoryStatus(request, timeout=TIMEOUT_S).regions
    return {name: (entry.name, entry.key, entry.offset, entry.byte_size) for name, entry in found.items()}


def test_a_region_is_known_from_its_registration_to_its_end(
    channel: grpc.Channel, memory: shared_memory.SharedMemory
) -> None:
    register(channel, "a", f"/{memory.name}", 0, 64)
    register(channel, "b", memory.name, 64, 128)
    assert regions(channel) == {"a": ("a", f"/{memory.name}", 0, 64), "b": ("b", memory.name, 64, 128)}
    assert regions(channel, "b") == {"b": ("b", memory.name, 64, 128)}
    calls = stub(channel)
    calls.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"), timeout=TIMEOUT_S)
    assert regions(channel).keys() == {"b"}
    calls.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=TIMEOUT_S)
    assert regions(channel) == {}


def test_wrong_regions_are_refused(channel: grpc.Channel, memory: shared_memory.SharedMemory) -> None:
    register(channel, "a", memory.name)
    assert refused(register, channel, "a", memory.name)[0] == grpc.StatusCode.ALREADY_EXISTS
    for key, byte_size in (("/absent", 64), ("../passwd", 64), (memory.name, 1 << 40), (memory.name, 0)):
        assert refused(register, channel, "b", key, 0, byte_size)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(register, channel, "b", memory.name, 2**63, 64)[0] == grpc.StatusCode.INVALID_ARGUMENT
    code, message = refused(regions, channel, "b")
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Unable to find system shared memory region: 'b'")
    assert regions(channel).keys() == {"a"}


@pytest.mark.parametrize("streamed", [False, True])
def test_tensors_in_shared_memory_are_read_and_written(
    channel: grpc.Channel, memory: shared_memory.SharedMemory, *, streamed: bool
) -> None:
    x = onnx_models.rows(2)
    assert memory.buf is not None
    memory.buf[: x.nbytes] = x.tobytes()
    register(channel, "in", memory.name, 0, 1024)
    register(channel, "out", memory.name, 1024, 1024)

    def place(region: str, byte_size: int) -> dict[str, Any]:
        return {
            "shared_memory_region": {"string_param": region},
            "shared_memory_byte_size": {"int64_param": byte_size},
        }

    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape, "parameters": place("in", x.nbytes)}
    asked = {"name": "logits", "parameters": place("out", 24)}
    request = row_request(x, "1", inputs=[tensor], outputs=[asked], raw_input_contents=[])
    if streamed:
        conversation = Conversation(channel)
        conversation.send(request)
        (answer,) = conversation.rest()
        assert not answer.error_message
        response = answer.infer_response
    else:
        response = stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert response.outputs[0].parameters["shared_memory_region"].string_param == "out"
    got = np.frombuffer(bytes(memory.buf[1024 : 1024 + 24]), "<f4").reshape(2, 3)
    np.testing.assert_allclose(got, onnx_models.logits_of(x), rtol=1e-5)


def test_cuda_regions_are_refused_with_a_reason_and_there_are_none(channel: grpc.Channel) -> None:
    calls = stub(channel)
    assert not calls.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(), timeout=TIMEOUT_S).regions
    # perf_analyzer begins like this, whatever it is going to use.
    calls.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(), timeout=TIMEOUT_S)
    request = pb.CudaSharedMemoryRegisterRequest(name="g", raw_handle=b"x", byte_size=64)
    code, message = refused(calls.CudaSharedMemoryRegister, request, timeout=TIMEOUT_S)
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert message.startswith(
        "failed to register CUDA shared memory region 'g': this server does not support CUDA shared memory"
    )
    code, _ = refused(calls.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest(name="g"), timeout=TIMEOUT_S)
    assert code == grpc.StatusCode.NOT_FOUND


def test_the_server_names_shared_memory_among_its_extensions_only_where_it_is_on(
    channel: grpc.Channel, tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    def extensions(channel: grpc.Channel) -> list[str]:
        return list(stub(channel).ServerMetadata(pb.ServerMetadataRequest(), timeout=TIMEOUT_S).extensions)

    always = [
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "schedule_policy",
        "statistics",
        "trace",
    ]
    assert extensions(channel) == [*always, "system_shared_memory"]
    front_end = request.node.callspec.params["server"]
    with (
        running(tmp_path, transport=front_end, shared_memory="off", log_level="error") as other,
        grpc.insecure_channel(other.address) as closed,
    ):
        assert extensions(closed) == always
        assert refused(register, closed, "a", "/x")[0] == grpc.StatusCode.UNIMPLEMENTED
