"""Messages that take long to decode, through both front ends: they hold nobody up, and are answered like any other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from frostline.pb import inference_pb2 as pb
from frostline.protocol import pack_bytes
from frostline_server.codec.chunks import CHUNK_BYTES
from tests.support import onnx_models
from tests.support.calls import row_request, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import Conversation

COUNT = 40_000


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    for name, element in (("numbers", TensorProto.INT64), ("texts", TensorProto.STRING)):
        model = onnx_models.passed_through(["rows", "length"], element=element, output="echo")
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None)
    with running(models, transport=request.param, log_level="error", require="none") as instance:
        yield instance


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@contextmanager
def nothing_decoded(server: Running) -> Iterator[None]:
    """Keep the thread busy in which messages are decoded that take long."""
    go_on = threading.Event()
    server.server._inference._decoding.submit(go_on.wait, TIMEOUT_S)
    try:
        yield
    finally:
        go_on.set()


TEXTS = np.array([[f"text {number}" for number in range(COUNT)]], object)


def request_of(model: str, datatype: str, request_id: str = "", **fields: Any) -> pb.ModelInferRequest:
    raw = fields.pop("raw_input_contents", [])
    tensor = {"name": "input", "datatype": datatype, "shape": [1, COUNT], **fields}
    return pb.ModelInferRequest(model_name=model, id=request_id, inputs=[tensor], raw_input_contents=raw)


def numbers(request_id: str = "") -> pb.ModelInferRequest:
    return request_of("numbers", "INT64", request_id, contents={"int64_contents": list(range(COUNT))})


LARGE = {
    "numbers": (numbers(), np.arange(COUNT).tobytes()),
    "strings": (
        request_of("texts", "BYTES", contents={"bytes_contents": [text.encode() for text in TEXTS[0]]}),
        pack_bytes(TEXTS[0]),
    ),
    "raw strings": (request_of("texts", "BYTES", raw_input_contents=[pack_bytes(TEXTS[0])]), pack_bytes(TEXTS[0])),
}


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", LARGE)
def test_others_are_answered_while_a_large_message_is_decoded(
    server: Running, channel: grpc.Channel, name: str, compression: Any
) -> None:
    request, answer = LARGE[name]
    with nothing_decoded(server):
        call = stub(channel).ModelInfer.future(request, timeout=TIMEOUT_S, compression=compression)
        for number in range(3):
            small = row_request(onnx_models.rows(1), str(number))
            assert stub(channel).ModelInfer(small, timeout=TIMEOUT_S).id == str(number)
        assert not call.done()
    assert call.result().raw_output_contents[0] == answer


@pytest.mark.parametrize("name", LARGE)
def test_a_stream_takes_its_messages_in_order(server: Running, channel: grpc.Channel, name: str) -> None:
    request, answer = LARGE[name]
    conversation = Conversation(channel)
    conversation.send(request, row_request(onnx_models.rows(1), "later"), request)
    answers = conversation.rest()
    assert [each.error_message for each in answers] == [""] * 3
    assert [each.infer_response.raw_output_contents[0] for each in answers if not each.infer_response.id] == [
        answer,
        answer,
    ]
    assert conversation.call.code() == grpc.StatusCode.OK


def test_a_large_message_that_is_refused_is_told_so_with_its_id(channel: grpc.Channel) -> None:
    request = numbers("7")
    request.inputs[0].shape[1] = 3
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith("[request id: 7] input byte size mismatch")
    conversation = Conversation(channel)
    conversation.send(request)
    (answer,) = conversation.rest()
    assert answer.error_message.startswith("[request id: 7] input byte size mismatch")


def test_who_gives_up_while_its_message_waits_leaves_nothing_behind(server: Running, channel: grpc.Channel) -> None:
    with nothing_decoded(server):
        calls = [stub(channel).ModelInfer.future(numbers("gone"), timeout=TIMEOUT_S) for _ in range(3)]
        stream = Conversation(channel)
        stream.send(numbers("gone"), numbers("gone"))
        assert stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        for call in (*calls, stream.call):
            call.cancel()
        assert stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
    assert stub(channel).ModelInfer(numbers("stays"), timeout=TIMEOUT_S).id == "stays"
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 20)):
        network = server.server._transport.network()
        if network is None or network.held == 0:
            return
        waited.wait(0.05)
    pytest.fail("the budget still holds something")


def test_a_shape_that_no_array_can_have_is_an_invalid_argument(channel: grpc.Channel) -> None:
    for shape in ([1, 2**63 - 1, 0], [1, 2**63 - 1], [1, -1], [1] * 10_000, [2**62, 2**62, 0]):
        request = pb.ModelInferRequest(
            model_name="numbers",
            inputs=[{"name": "input", "datatype": "INT64", "shape": shape}],
            raw_input_contents=[b""],
        )
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, shape


INFERENCE = "/inference.GRPCInferenceService"


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "method",
    [
        *(f"{INFERENCE}/{name}" for name in ("ModelInfer", "LogSettings", "TraceSetting", "RepositoryModelLoad", "SystemSharedMemoryRegister")),
        "/frostline.v1.Predictor/Predict",
        "/grpc.health.v1.Health/Check",
    ],
)  # fmt: skip
def test_a_message_of_millions_of_fields_is_refused(
    server: Running, channel: grpc.Channel, method: str, compression: Any
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method, bytes, bytes)(b"\x0a\x00" * 1_000_000, timeout=TIMEOUT_S, compression=compression)
    # grpc.aio has one status for all that cannot be parsed before its handlers see it.
    aside = method.endswith("Check") and server.config.transport == "grpcio"
    assert caught.value.code() == (grpc.StatusCode.UNKNOWN if aside else grpc.StatusCode.INVALID_ARGUMENT)
    assert "the message has more than 16384 fields" in str(caught.value.details())
    assert stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)


MANY = np.arange(3 * CHUNK_BYTES // 8 + 5).reshape(1, -1)
"""What is answered in four chunks."""


def many(request_id: str = "") -> pb.ModelInferRequest:
    tensor = {"name": "input", "datatype": "INT64", "shape": MANY.shape}
    return pb.ModelInferRequest(
        model_name="numbers", id=request_id, inputs=[tensor], raw_input_contents=[MANY.tobytes()]
    )


def test_a_large_answer_is_whole(server: Running) -> None:
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        unary = stub(channel).ModelInfer(many("7"), timeout=TIMEOUT_S)
        conversation = Conversation(channel)
        conversation.send(many("a"), many("b"))
        streamed = [each.infer_response for each in conversation.rest()]
    assert [unary.id, *sorted(each.id for each in streamed)] == ["7", "a", "b"]
    for answer in (unary, *streamed):
        assert answer.raw_output_contents[0] == MANY.tobytes()
    assert all(each.parameters["triton_final_response"].bool_param for each in streamed)
