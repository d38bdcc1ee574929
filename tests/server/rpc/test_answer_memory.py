"""Memory for large answers is looked for before they are computed, on every way in; where there is none, nothing is run."""

import json
import os
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2, predictor_pb2_grpc
from frostline.protocol import MODEL_INFER
from tests.support import onnx_models
from tests.support import wire as w
from tests.support.calls import refused, row_request, statistics, stub
from tests.support.http_port import Port
from tests.support.servers import TIMEOUT_S, Running, running, until
from tests.support.streams import Conversation
from tests.support.wires import served

MIB = 1 << 20
FITS, TOO_MANY = 4, 20
"""Rows, each answered with 1 MiB. Of 32 MiB gRPC has two thirds and HTTP has one, and an eighth is left to smaller messages."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    weights = np.ones((1, MIB // 4), np.float32)
    onnx_models.write_artifact(models, "wide", 1, onnx_models.product(weights), golden=False, labels=None)
    with running(models, network_bytes=32 * MIB, http=True, log_level="error") as instance:
        yield instance


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as opened:
        before = runs(opened)
        yield opened
        # Only what fits was run; a run is counted once it has been answered.
        until(lambda: runs(opened) > before)
        assert runs(opened) == before + 1


def runs(channel: grpc.Channel) -> int:
    return int(statistics(channel, "wide").execution_count)


def held(server: Running) -> int:
    network = server.server._network()
    assert network is not None
    return network.held


def asked(rows: int) -> pb.ModelInferRequest:
    return row_request(np.ones((rows, 1), np.float32), model="wide")


def test_a_call_whose_answer_finds_no_room_is_refused_before_it_is_run(channel: grpc.Channel) -> None:
    infer = stub(channel).ModelInfer
    code, text = refused(infer, asked(TOO_MANY), timeout=TIMEOUT_S)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"an answer of {TOO_MANY * MIB} bytes" in text

    (answer,) = infer(asked(FITS), timeout=TIMEOUT_S).raw_output_contents
    assert answer == np.ones((FITS, MIB // 4), np.float32).tobytes()


def test_nothing_stays_held_for_answers(server: Running, channel: grpc.Channel) -> None:
    for _ in range(30):
        refused(stub(channel).ModelInfer, asked(TOO_MANY), timeout=TIMEOUT_S)
    stub(channel).ModelInfer(asked(FITS), timeout=TIMEOUT_S)

    until(lambda: held(server) == 0)


def test_a_request_of_a_stream_is_refused_alone(channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    conversation.send(asked(TOO_MANY), asked(FITS))
    refusal, answer = conversation.take(2)
    conversation.close()

    assert f"an answer of {TOO_MANY * MIB} bytes" in refusal.error_message
    assert [len(raw) for raw in answer.infer_response.raw_output_contents] == [FITS * MIB]


def test_the_typed_call_is_refused_too(channel: grpc.Channel) -> None:
    predict = predictor_pb2_grpc.PredictorStub(channel).Predict

    def typed(rows: int) -> predictor_pb2.PredictRequest:
        tensor = predictor_pb2.Tensor(dtype=predictor_pb2.FP32, shape=[rows, 1], data=bytes(4 * rows))
        return predictor_pb2.PredictRequest(model="wide", inputs=[tensor], outputs=[predictor_pb2.LOGITS])

    code, text = refused(predict, typed(TOO_MANY), timeout=TIMEOUT_S)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"an answer of {TOO_MANY * MIB} bytes" in text
    predict(typed(FITS), timeout=TIMEOUT_S)


def test_a_refusal_is_counted_for_the_port_and_for_the_model(server: Running, channel: grpc.Channel) -> None:
    def counted() -> tuple[int, int]:
        network = server.server._network()
        assert network is not None
        return network.refused.get("message_too_large", 0), statistics(channel, "wide").inference_stats.fail.count

    port, model = counted()
    refused(stub(channel).ModelInfer, asked(TOO_MANY), timeout=TIMEOUT_S)
    stub(channel).ModelInfer(asked(FITS), timeout=TIMEOUT_S)
    assert counted() == (port + 1, model + 1)


def test_a_parameter_of_an_output_changes_nothing(channel: grpc.Channel) -> None:
    request = asked(TOO_MANY)
    request.outputs.add(name="logits").parameters["binary_data"].bool_param = True
    assert refused(stub(channel).ModelInfer, request, timeout=TIMEOUT_S)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub(channel).ModelInfer(asked(FITS), timeout=TIMEOUT_S)


def test_http_is_refused_before_it_is_run(server: Running, channel: grpc.Channel) -> None:
    port = Port(server)

    def ask(rows: int) -> bytes:
        tensor = {"name": "input", "shape": [rows, 1], "datatype": "FP32", "data": [1.0] * rows}
        body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        return port.request("/v2/models/wide/infer", body)

    answer = port.ask(ask(TOO_MANY))
    # All that HTTP has is less.
    assert answer.status == 413
    assert answer.headers["frostline-error"] == "message_too_large"
    assert "retry-after" not in answer.headers
    assert port.ask(ask(FITS)).status == 200
    port.wait_until_quiet()


def test_what_goes_into_shared_memory_needs_no_room_in_the_answer(channel: grpc.Channel) -> None:
    size = TOO_MANY * MIB
    block = shared_memory.SharedMemory(create=True, size=size, name=f"frostline-test-wide-{os.getpid()}")
    try:
        region = pb.SystemSharedMemoryRegisterRequest(name="out", key=block.name, byte_size=size)
        stub(channel).SystemSharedMemoryRegister(region, timeout=TIMEOUT_S)
        request = asked(TOO_MANY)
        output = request.outputs.add(name="logits")
        output.parameters["shared_memory_region"].string_param = "out"
        output.parameters["shared_memory_byte_size"].int64_param = size
        stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        stub(channel).SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=TIMEOUT_S)

        assert block.buf is not None
        assert bytes(block.buf[size - 4 : size]) == np.float32(1).tobytes()
    finally:
        block.close()
        block.unlink()


def test_answers_that_find_no_room_are_counted_as_what_they_became(tmp_path: Path) -> None:
    message = row_request(onnx_models.rows(8), model="wide").SerializeToString()  # answered with 128 KiB
    settings = {"network_bytes": 2 * MIB, "max_message_bytes": MIB, "max_batch_size": 8}
    with served(tmp_path, "h2", **settings) as wire, wire.greeted((w.INITIAL_WINDOW_SIZE, 1000)) as peer:

        def ask(*streams: int) -> None:
            peer.send(*[w.unary(stream, w.request(MODEL_INFER), message) for stream in streams])

        # Nobody reads the answers, of which seven eighths of the memory have room for 13.
        ask(*range(1, 27, 2))
        until(lambda: held(wire.server) > 13 * (1 << 17))
        ask(*range(27, 47, 2))
        with grpc.insecure_channel(wire.server.address) as channel:
            until(lambda: sum(told(channel)) == 23)
            assert told(channel) == (13, 10)
        peer.until(lambda: sum(answer.status == 8 for answer in peer.answers.values()) == 10)


def told(channel: grpc.Channel) -> tuple[int, int]:
    """How many requests to `wide` were answered, and how many failed."""
    counted = statistics(channel, "wide").inference_stats
    return counted.success.count, counted.fail.count
