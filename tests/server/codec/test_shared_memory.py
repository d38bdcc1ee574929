"""Tensors in shared memory: bounds kept, other regions untouched, through both front ends."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from frostline_server.access.reach import local_only
from frostline_server.codec import shared_memory
from frostline_server.codec.shared_memory import FOLDER, Regions
from frostline_server.errors import (
    AlreadyExists,
    InvalidInput,
    MessageTooLarge,
    RegionNotFound,
    TooManyRegions,
    Unsupported,
)
from tests.support import onnx_models
from tests.support.calls import ended, statistics
from tests.support.descriptors import descriptors
from tests.support.http_port import Port
from tests.support.servers import TIMEOUT_S, Running, running, until

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no POSIX shared memory to see here")

SIZE = 4096


class Memory:
    """A shared memory object as a client makes one."""

    def __init__(self, size: int) -> None:
        self.key = f"/frostline-test-{uuid.uuid4().hex}"
        self.path = FOLDER / self.key.removeprefix("/")
        self.path.write_bytes(b"\xee" * size)

    def put(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def get(self, offset: int, size: int) -> bytes:
        return self.path.read_bytes()[offset : offset + size]

    def resize(self, size: int) -> None:
        os.truncate(self.path, size)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(SIZE)
    yield made
    made.path.unlink(missing_ok=True)


@pytest.fixture
def regions() -> Regions:
    return Regions(enabled=True, max_tensor_bytes=1024)


# The registry


def test_a_region_is_listed_until_it_is_unregistered(regions: Regions, memory: Memory) -> None:
    regions.register("a", memory.key, 16, 64)
    regions.register("b", memory.key.removeprefix("/"), 0, SIZE)
    assert [(each.name, each.key, each.offset, each.byte_size) for each in regions.status("")] == [
        ("a", memory.key, 16, 64),
        ("b", memory.key.removeprefix("/"), 0, SIZE),
    ]
    regions.unregister("a")
    assert [each.name for each in regions.status("b")] == ["b"]
    with pytest.raises(RegionNotFound, match=r"^Unable to find system shared memory region: 'a'$"):
        regions.status("a")
    regions.unregister("")
    assert regions.status("") == []


def test_unregistering_what_is_unknown_is_no_error(regions: Regions) -> None:
    regions.unregister("nobody")
    regions.unregister("")
    assert regions.status("") == []


def test_a_name_is_registered_once(regions: Regions, memory: Memory) -> None:
    regions.register("a", memory.key, 0, 16)
    with pytest.raises(AlreadyExists, match=r"^shared memory region 'a' already in manager$"):
        regions.register("a", memory.key, 0, 16)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, SIZE + 1), (1, SIZE), (SIZE, 1), (2**64 - 1, 2**64 - 1), (0, 0), (-1, 8), (0, -1)]
)
def test_a_region_beyond_its_object_is_refused(regions: Regions, memory: Memory, offset: int, size: int) -> None:
    with pytest.raises(InvalidInput, match=rf"^failed to register shared memory region 'a': .* the {SIZE} bytes of"):
        regions.register("a", memory.key, offset, size)
    assert regions.status("") == []


@pytest.mark.parametrize(
    "key", ["", "/", "//x", "..", "/..", ".", "../etc/passwd", "/../x", "a/b", "/dev/shm/x", "x\0y", "x" * 256]
)
def test_a_key_that_is_more_than_a_name_is_refused(regions: Regions, key: str) -> None:
    with pytest.raises(InvalidInput, match=r"^failed to register shared memory region 'a': the key must be the name"):
        regions.register("a", key, 0, 1)


def test_an_object_that_does_not_exist_is_refused(regions: Regions) -> None:
    with pytest.raises(InvalidInput, match=r"^Unable to open shared memory region: '/nobody-made-this': No such file"):
        regions.register("a", "/nobody-made-this", 0, 1)


def test_a_link_out_of_the_folder_is_refused(regions: Regions, memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    memory.path.unlink()
    memory.path.symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInput, match=r"^Unable to open shared memory region"):
        regions.register("a", memory.key, 0, 6)


def test_what_is_no_plain_object_is_refused(regions: Regions, memory: Memory) -> None:
    memory.path.unlink()
    os.mkfifo(memory.path)
    with pytest.raises(InvalidInput, match=r"it is no shared memory object$"):
        regions.register("a", memory.key, 0, 1)


def test_a_region_needs_a_name(regions: Regions, memory: Memory) -> None:
    with pytest.raises(InvalidInput, match=r"^a shared memory region needs a name$"):
        regions.register("", memory.key, 0, 16)


def test_the_number_of_regions_is_bounded(regions: Regions, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MAX_REGIONS", 2)
    for name in "ab":
        regions.register(name, memory.key, 0, 16)
    with pytest.raises(TooManyRegions, match=r"^2 shared memory regions are registered; unregister one first$"):
        regions.register("c", memory.key, 0, 16)


def test_a_region_that_was_unregistered_or_refused_holds_no_descriptor(regions: Regions, memory: Memory) -> None:
    before = descriptors()
    for _ in range(3):
        regions.register("a", memory.key, 0, 16)
        regions.unregister("a")
        with pytest.raises(InvalidInput):
            regions.register("b", memory.key, 0, SIZE + 1)
    assert descriptors() - before == set()


def test_where_shared_memory_is_off_nothing_is_registered_and_how_to_turn_it_on_is_said(memory: Memory) -> None:
    off = Regions(enabled=False, max_tensor_bytes=1024)
    with pytest.raises(Unsupported, match=r"^system shared memory is off on this server; .*--shared-memory on"):
        off.register("a", memory.key, 0, 16)
    off.unregister("")
    assert off.status("") == []


def test_a_platform_that_does_not_show_shared_memory_says_so(
    regions: Regions, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", Path("/nowhere"))
    with pytest.raises(Unsupported, match=r"^system shared memory needs /nowhere"):
        regions.register("a", memory.key, 0, 16)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("[::1]", True), ("unix:/run/f.sock", True), ("0.0.0.0", False), ("gpu-box", False)],
)  # fmt: skip
def test_by_default_shared_memory_is_for_addresses_that_only_this_machine_reaches(host: str, *, local: bool) -> None:
    assert local_only(host) is local


# The tensors in a region


def test_a_tensor_is_read_and_written_at_the_regions_own_offset(regions: Regions, memory: Memory) -> None:
    regions.register("a", memory.key, 100, 50)
    memory.put(110, b"tensor")
    assert regions.read("a", 10, 6) == b"tensor"
    regions.find("a").write(44, b"answer")
    assert memory.get(143, 8) == b"\xeeanswer\xee"


@pytest.mark.parametrize(
    ("offset", "size", "message"),
    [
        (51, 0, "Invalid offset for shared memory region: 'a': it has 50 bytes, got offset 51"),
        (-1, 1, "Invalid offset for shared memory region: 'a'"),
        (0, 51, "Invalid offset [+] byte size for shared memory region: 'a': it has 50 bytes, got 0 [+] 51"),
        (50, 1, "Invalid offset [+] byte size for shared memory region: 'a'"),
        (1, -1, "Invalid offset [+] byte size for shared memory region: 'a'"),
    ],
)
def test_a_tensor_beyond_its_region_is_refused(
    regions: Regions, memory: Memory, offset: int, size: int, message: str
) -> None:
    regions.register("a", memory.key, 100, 50)
    with pytest.raises(InvalidInput, match=f"^{message}"):
        regions.read("a", offset, size)


def test_a_tensor_longer_than_a_message_may_be_is_refused(regions: Regions, memory: Memory) -> None:
    regions.register("a", memory.key, 0, SIZE)
    assert len(regions.read("a", 0, 1024)) == 1024
    with pytest.raises(
        MessageTooLarge, match=r"^a tensor in shared memory may have 1024 bytes on this server, got 1025$"
    ):
        regions.read("a", 0, 1025)


def test_an_object_that_became_shorter_is_an_error_and_is_not_made_longer_again(
    regions: Regions, memory: Memory
) -> None:
    regions.register("a", memory.key, 0, SIZE)
    memory.resize(10)
    with pytest.raises(InvalidInput, match=r"^shared memory region 'a' was registered with 4096 bytes, but"):
        regions.read("a", 0, 16)
    with pytest.raises(InvalidInput, match=r"no longer has the first 16 of them$"):
        regions.find("a").write(0, bytes(16))
    assert memory.path.stat().st_size == 10


@pytest.mark.parametrize("outcome", [OSError(28, "No space left on device"), 3])
def test_a_write_the_machine_has_no_memory_for_is_an_error(
    regions: Regions, memory: Memory, monkeypatch: pytest.MonkeyPatch, outcome: OSError | int
) -> None:
    def full(*_: Any) -> int:
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    regions.register("a", memory.key, 0, SIZE)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InvalidInput, match=r"^cannot write to shared memory region 'a'"):
        regions.find("a").write(0, bytes(16))


# Through the front ends


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    write = onnx_models.write_artifact
    write(models, "linear", 1)
    write(models, "pair", 1, onnx_models.two_inputs(), golden=False)
    write(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    with running(models, transport=request.param, log_level="error", max_batch_size=8) as instance:
        yield instance


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def region(server: Running, memory: Memory) -> Iterator[str]:
    """The whole of `memory`, registered."""
    server.server.regions.register("region", memory.key, 0, SIZE)
    yield "region"
    server.server.regions.unregister("")


def place(tensor: Any, region: str, size: int, offset: int = 0) -> None:
    """Say that a tensor lies in shared memory, as clients do."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def request_of(model: str = "linear", **shapes: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id="9")
    for name, shape in shapes.items():
        request.inputs.add(name=name, datatype="FP32", shape=shape)
    return request


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), (caught.value.details() or "").removeprefix("[request id: 9] ")


def floats(data: bytes, *shape: int) -> Array:
    return np.frombuffer(data, "<f4").reshape(shape)


def test_input_and_output_lie_in_shared_memory_and_other_outputs_in_the_answer(
    stub: Any, memory: Memory, region: str
) -> None:
    x = onnx_models.rows(3)
    memory.put(64, x.tobytes())
    request = request_of(input=x.shape)
    place(request.inputs[0], region, x.nbytes, 64)
    for name in ("argmax", "logits", "softmax"):
        request.outputs.add(name=name)
    place(request.outputs[1], region, 40, 1000)
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    logits = onnx_models.logits_of(x)
    np.testing.assert_allclose(floats(memory.get(1000, 36), 3, 3), logits, rtol=1e-5)
    assert memory.get(996, 4) == memory.get(1036, 4) == b"\xee" * 4
    # As Triton's clients count them: one entry for each output, empty for what lies elsewhere.
    argmax, nothing, softmax = response.raw_output_contents
    assert (np.frombuffer(argmax, "<i8").tolist(), nothing) == (logits.argmax(axis=1).tolist(), b"")
    np.testing.assert_allclose(floats(softmax, 3, 3), onnx_models.softmax_of(logits), rtol=1e-5)
    tensor = response.outputs[1]
    assert (tensor.name, tensor.datatype, list(tensor.shape), response.id) == ("logits", "FP32", [3, 3], "9")
    assert {name: value.WhichOneof("parameter_choice") for name, value in tensor.parameters.items()} == {
        "shared_memory_region": "string_param",
        "shared_memory_byte_size": "int64_param",
        "shared_memory_offset": "int64_param",
    }
    assert tensor.parameters["shared_memory_byte_size"].int64_param == 36


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[tuple[Running, pb.ModelInferRequest]]:
    """A server with HTTP and a model that sums the numbers of a row, and a request whose 128 KiB lie in shared memory."""
    numbers = 1 << 15
    weights = np.ones((numbers, 3), np.float32)
    onnx_models.write_artifact(tmp_path, "wide", 1, onnx_models.product(weights), golden=False, labels=None)
    x = np.ones((1, numbers), np.float32)
    shared = Memory(x.nbytes)
    shared.put(0, x.tobytes())
    request = pb.ModelInferRequest(model_name="wide")
    place(request.inputs.add(name="input", datatype="FP32", shape=x.shape), "region", x.nbytes)
    with running(tmp_path, http=True, log_level="error") as server:
        server.server.regions.register("region", shared.key, 0, x.nbytes)
        yield server, request
    shared.path.unlink()


def test_what_is_read_out_of_shared_memory_is_held_as_what_is_sent(wide: tuple[Running, pb.ModelInferRequest]) -> None:
    server, request = wide

    def held() -> int:
        network = server.server._network()
        assert network is not None
        return network.held

    with grpc.insecure_channel(server.address) as channel:
        infer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with server.held("wide") as device:
            calls = [infer.future(request, timeout=TIMEOUT_S) for _ in range(5)]
            device.wait_until_queued(5)
            assert held() >= 5 * 4 << 15
        for call in calls:
            assert floats(call.result().raw_output_contents[0], 1, 3).tolist() == [[1 << 15] * 3]
        until(lambda: held() == 0)


def test_over_http_too(wide: tuple[Running, pb.ModelInferRequest]) -> None:
    server, request = wide
    port = Port(server)
    parameters = {"shared_memory_region": "region", "shared_memory_byte_size": 4 << 15}
    tensor = {"name": "input", "datatype": "FP32", "shape": list(request.inputs[0].shape), "parameters": parameters}
    with port.client() as client:
        with server.held("wide") as device:
            client.send(port.request("/v2/models/wide/infer", json.dumps({"inputs": [tensor]}).encode()))
            device.wait_until_queued(1)
            assert port.front_end.budget.used >= 4 << 15
        assert json.loads(client.answer().body)["outputs"][0]["data"] == [1 << 15] * 3
    until(lambda: port.front_end.budget.used == 0)


def test_inputs_in_shared_memory_take_no_slot_of_the_raw_contents(stub: Any, memory: Memory, region: str) -> None:
    left, right = onnx_models.rows(2), onnx_models.rows(2, 2, 2) + 1
    memory.put(0, left.tobytes())
    request = request_of("pair", left=left.shape, right=right.shape)
    place(request.inputs[0], region, left.nbytes)
    request.raw_input_contents.append(right.tobytes())
    expected = onnx_models.logits_of(left + right.reshape(2, 4))
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    np.testing.assert_allclose(floats(response.raw_output_contents[0], 2, 3), expected, rtol=1e-5)
    del request.raw_input_contents[:]
    request.inputs[1].contents.fp32_contents.extend(right.ravel())
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    np.testing.assert_allclose(floats(response.raw_output_contents[0], 2, 3), expected, rtol=1e-5)


def test_strings_lie_in_shared_memory_both_ways(stub: Any, memory: Memory, region: str) -> None:
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in (b"a", "größe".encode(), b"", b"zz"))
    memory.put(0, raw)
    request = pb.ModelInferRequest(model_name="text", id="9")
    request.inputs.add(name="input", datatype="BYTES", shape=[2, 2])
    request.outputs.add(name="echo")
    place(request.inputs[0], region, len(raw))
    place(request.outputs[0], region, len(raw), 512)
    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
    assert memory.get(512, len(raw) + 1) == raw + b"\xee"
    assert list(response.raw_output_contents) == [b""]
    # How long strings are is known only once they are computed.
    place(request.outputs[0], region, len(raw) - 1, 1024)
    code, message = refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        f"shared memory size specified with the request for output 'echo' ({len(raw) - 1} bytes) should be at least "
        f"{len(raw)} bytes to hold the results"
    )
    assert memory.get(1024, len(raw)) == b"\xee" * len(raw)


def test_an_output_without_room_is_refused_before_it_is_computed_and_nothing_is_written(
    server: Running, stub: Any, memory: Memory, region: str
) -> None:
    request = request_of(input=[2, 4])
    request.raw_input_contents.append(onnx_models.rows(2).tobytes())
    for name, size in (("softmax", 24), ("logits", 23)):
        place(request.outputs.add(name=name), region, size)
    served = server.server.repository.get("linear", "")
    before = served.stats.snapshot().executions
    code, message = refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        "shared memory size specified with the request for output 'logits' (23 bytes) should be at least 24 bytes to hold "
        "the results"
    )
    assert memory.get(0, SIZE) == b"\xee" * SIZE
    assert served.stats.snapshot().executions == before


BAD: dict[str, tuple[Callable[[pb.ModelInferRequest], Any], grpc.StatusCode, str]] = {
    "an unknown region for an input": (
        lambda request: place(request.inputs[0], "nobody", 16),
        grpc.StatusCode.NOT_FOUND,
        "Unable to find shared memory region: 'nobody'",
    ),
    "an unknown region for an output": (
        lambda request: place(request.outputs[0], "nobody", 16),
        grpc.StatusCode.NOT_FOUND,
        "Unable to find shared memory region: 'nobody'",
    ),
    "an input beyond its region": (
        lambda request: place(request.inputs[0], "region", 16, SIZE - 15),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid offset + byte size for shared memory region: 'region'",
    ),
    "an output beyond its region": (
        lambda request: place(request.outputs[0], "region", 16, SIZE + 1),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid offset for shared memory region: 'region'",
    ),
    "an input of another size": (
        lambda request: place(request.inputs[0], "region", 12),
        grpc.StatusCode.INVALID_ARGUMENT,
        "input byte size mismatch for input 'input' for model 'linear'. Expected 16, got 12",
    ),
    "contents besides": (
        lambda request: request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected 'content' provided when using shared memory for input tensor 'input' for model 'linear'",
    ),
    "raw contents besides": (
        lambda request: request.raw_input_contents.append(bytes(16)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected 0 raw_input_contents for model 'linear', one for each input that is not in shared memory, got 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_a_good_one_still_answered(
    stub: Any, memory: Memory, region: str, name: str
) -> None:
    change, code, message = BAD[name]
    request = request_of(input=[1, 4])
    request.outputs.add(name="logits")
    place(request.inputs[0], region, 16)
    place(request.outputs[0], region, 12, 100)
    memory.put(0, onnx_models.rows(1).tobytes())
    bad = pb.ModelInferRequest()
    bad.CopyFrom(request)
    change(bad)
    got_code, got_message = refused(lambda: stub.ModelInfer(bad, timeout=TIMEOUT_S))
    assert got_code == code
    assert got_message.startswith(message)
    stub.ModelInfer(request, timeout=TIMEOUT_S)
    np.testing.assert_allclose(floats(memory.get(100, 12), 1, 3), onnx_models.logits_of(onnx_models.rows(1)), rtol=1e-5)


def test_unregistering_while_a_request_waits_leaves_it_its_memory(
    server: Running, stub: Any, memory: Memory, region: str
) -> None:
    x = onnx_models.rows(2)
    memory.put(0, x.tobytes())
    request = request_of(input=x.shape)
    request.outputs.add(name="logits")
    place(request.inputs[0], region, x.nbytes)
    place(request.outputs[0], region, 24, 256)
    with server.held("linear") as device:
        call = stub.ModelInfer.future(request, timeout=TIMEOUT_S)
        device.wait_until_queued(2)
        server.server.regions.unregister("")
        assert refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))[0] == grpc.StatusCode.NOT_FOUND
    call.result()
    np.testing.assert_allclose(floats(memory.get(256, 24), 2, 3), onnx_models.logits_of(x), rtol=1e-5)


def test_a_client_that_shrinks_its_memory_hurts_only_itself(
    server: Running, stub: Any, memory: Memory, region: str
) -> None:
    x = onnx_models.rows(1)
    request = request_of(input=x.shape)
    request.raw_input_contents.append(x.tobytes())
    request.outputs.add(name="logits")
    place(request.outputs[0], region, 12)
    with server.held("linear") as device:
        call = stub.ModelInfer.future(request, timeout=TIMEOUT_S)
        device.wait_until_queued(1)
        memory.resize(0)
    code, message = refused(call.result)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "no longer has the first 12 of them" in message
    place(request.inputs[0], region, x.nbytes)
    del request.raw_input_contents[:]
    assert refused(lambda: stub.ModelInfer(request, timeout=TIMEOUT_S))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert memory.path.stat().st_size == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_could_not_be_delivered_counts_as_failed_and_its_mates_as_answered(
    server: Running, channel: grpc.Channel, stub: Any, memory: Memory, region: str, *, streamed: bool
) -> None:
    x = onnx_models.rows(2)
    lost = request_of(input=x.shape)
    lost.raw_input_contents.append(x.tobytes())
    mate = request_of(input=[1, 4])
    mate.raw_input_contents.append(bytes(16))
    lost.outputs.add(name="logits")
    place(lost.outputs[0], region, 24)
    with server.held("linear") as device:
        before = statistics(channel, "linear")
        if streamed:
            answers = stub.ModelStreamInfer(iter([lost, mate]), timeout=TIMEOUT_S)
        else:
            calls = [stub.ModelInfer.future(request, timeout=TIMEOUT_S) for request in (lost, mate)]
        device.wait_until_queued(3)
        memory.resize(0)
    if streamed:
        assert sorted(bool(answer.error_message) for answer in answers) == [False, True]
    else:
        assert refused(calls[0].result)[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert len(calls[1].result().raw_output_contents) == 1
    after = statistics(channel, "linear", ended(before) + 3)
    # The row that held the device is answered, too.
    assert after.inference_stats.success.count == before.inference_stats.success.count + 2
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_count == before.inference_count + 2


@pytest.mark.parametrize(
    ("host", "setting", "allowed"),
    [("127.0.0.1", "auto", True), ("127.0.0.1", "off", False), ("0.0.0.0", "auto", False), ("0.0.0.0", "on", True)],
)  # fmt: skip
def test_a_server_allows_what_its_setting_and_its_address_say(
    tmp_path: Path, memory: Memory, host: str, setting: str, *, allowed: bool
) -> None:
    with running(tmp_path, host=host, shared_memory=setting, transport="grpcio", log_level="error") as instance:
        if allowed:
            instance.server.regions.register("a", memory.key, 0, 16)
        else:
            with pytest.raises(Unsupported, match=r"^system shared memory is off on this server"):
                instance.server.regions.register("a", memory.key, 0, 16)
