"""Compression on the wire: what clients compress is understood, and answers are compressed where that is set."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import refused, row_request, stub
from tests.support.relay import relay
from tests.support.servers import TIMEOUT_S, running
from tests.support.streams import Conversation, logits

ROWS = np.zeros((4096, 4), np.float32)
"""Rows that compress well; their bytes are far more than all else in a request."""

SETTINGS: dict[str, Any] = {"max_batch_size": 4096, "max_queue_size": 1 << 16, "log_level": "error"}
GZIP, DEFLATE = grpc.Compression.Gzip, grpc.Compression.Deflate


@pytest.mark.parametrize("compression", [GZIP, DEFLATE])
@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_compressed_requests_are_understood_and_are_small_on_the_wire(
    tmp_path: Path, front_end: str, compression: grpc.Compression
) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=front_end, **SETTINGS) as server,
        relay(server.address) as wire,
        grpc.insecure_channel(wire.address, compression=compression) as channel,
    ):
        response = stub(channel).ModelInfer(row_request(ROWS), timeout=TIMEOUT_S)
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(-1, 3)
        np.testing.assert_allclose(got, onnx_models.logits_of(ROWS), rtol=1e-5)
        conversation = Conversation(channel)
        conversation.send(row_request(ROWS, "1"), row_request(ROWS, "2"))
        for answer in conversation.rest():
            np.testing.assert_allclose(logits(answer), onnx_models.logits_of(ROWS), rtol=1e-5)
        assert stub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
        # Three requests, a tenth of one.
        assert wire.sent < ROWS.nbytes / 10


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_the_limit_is_of_the_message_and_not_of_what_is_on_the_wire(tmp_path: Path, front_end: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=front_end, max_message_bytes=ROWS.nbytes, **SETTINGS) as server,
        grpc.insecure_channel(server.address, compression=GZIP) as channel,
    ):
        code, message = refused(stub(channel).ModelInfer, row_request(ROWS), timeout=TIMEOUT_S)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in message
        conversation = Conversation(channel)
        conversation.send(row_request(ROWS))
        assert conversation.call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub(channel).ModelInfer(row_request(ROWS[:8]), timeout=TIMEOUT_S).model_name == "linear"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_answers_are_compressed_where_that_is_set(tmp_path: Path, front_end: str, compression: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=front_end, compression=compression, **SETTINGS) as server,
        relay(server.address) as wire,
        grpc.insecure_channel(wire.address) as channel,
    ):
        response = stub(channel).ModelInfer(row_request(ROWS), timeout=TIMEOUT_S)
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(-1, 3)
        np.testing.assert_allclose(got, onnx_models.logits_of(ROWS), rtol=1e-5)
        conversation = Conversation(channel)
        conversation.send(row_request(ROWS))
        (answer,) = conversation.rest()
        np.testing.assert_allclose(logits(answer), got)
        assert wire.sent > 2 * ROWS.nbytes
        assert wire.answered < got.nbytes / 10


def test_answers_are_not_compressed_unless_that_is_set(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport="grpcio", **SETTINGS) as server,
        relay(server.address) as wire,
        grpc.insecure_channel(wire.address, compression=GZIP) as channel,
    ):
        response = stub(channel).ModelInfer(row_request(ROWS), timeout=TIMEOUT_S)
        assert wire.answered > len(response.raw_output_contents[0])
