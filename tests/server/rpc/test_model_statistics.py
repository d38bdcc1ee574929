"""ModelStatistics after a known mixture of traffic: every count, through both front ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2, predictor_pb2_grpc
from tests.support import onnx_models
from tests.support.calls import row_request, statistics, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import Conversation


@pytest.fixture(params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    (tmp_path / "linear" / "config.pbtxt").write_text("version_policy { all {} }")
    onnx_models.write_artifact(tmp_path, "linear", 2)
    settings = {"max_batch_size": 8, "max_queue_size": 20, "probe_s": 0.0, "log_level": "error"}
    with running(tmp_path, transport=request.param, **settings) as instance:
        yield instance


def status_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = call.code()
    return code


def test_a_version_that_has_answered_nothing_has_counted_nothing(channel: grpc.Channel) -> None:
    stats = statistics(channel, "linear")
    assert (stats.name, stats.version, stats.last_inference) == ("linear", "2", 0)
    assert (stats.inference_count, stats.execution_count, len(stats.batch_stats)) == (0, 0, 0)
    assert stats.inference_stats.success.count == stats.inference_stats.fail.count == 0


def test_every_count_is_right_after_requests_of_every_fate(server: Running, channel: grpc.Channel) -> None:
    infer, rows = stub(channel).ModelInfer, onnx_models.rows
    predict = predictor_pb2_grpc.PredictorStub(channel).Predict
    stream, given_up = Conversation(channel), Conversation(channel)
    with server.held("linear") as device:  # a row of its own, answered
        answered = infer.future(row_request(rows(2)), timeout=TIMEOUT_S)
        tensor = {"dtype": "FP32", "shape": [1, 4], "data": rows(1).tobytes()}
        predicted = predict.future(predictor_pb2.PredictRequest(model="linear", inputs=[tensor]), timeout=TIMEOUT_S)
        device.wait_until_queued(3)
        stream.send(*(row_request(rows(1), str(number)) for number in range(5)))
        # One that fails and counts, two that name no model and do not.
        stream.send(row_request(rows(1, 5)), row_request(rows(1), model="nobody"), b"\xff")
        refusals = stream.take(3)
        device.wait_until_queued(8)
        cancelled = infer.future(row_request(rows(3)), timeout=TIMEOUT_S)
        given_up.send(*(row_request(rows(1)) for _ in range(4)))
        device.wait_until_queued(15)
        full = infer.future(row_request(rows(6)), timeout=TIMEOUT_S)
        assert status_of(full) == grpc.StatusCode.UNAVAILABLE
        expired = infer.future(row_request(rows(1)), timeout=0.05)
        assert status_of(expired) == grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled.cancel()
        given_up.call.cancel()
        device.wait_until_queued(8)
    assert all(answer.error_message for answer in refusals)
    assert len(stream.rest()) == 5
    assert status_of(answered) == status_of(predicted) == grpc.StatusCode.OK
    infer(row_request(rows(8)), timeout=TIMEOUT_S)

    stats = statistics(channel, "linear", 9 + 8)
    spent = stats.inference_stats
    # The held row, one unary, one predicted, five streamed, and the last.
    assert spent.success.count == 9
    # A wrong shape, one cancelled, four of a cancelled stream, a full queue, a deadline.
    assert spent.fail.count == 8
    for stage in (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output):
        assert stage.count == spent.success.count
    assert stats.inference_count == 1 + 8 + 8
    assert stats.execution_count == 3
    assert {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats} == {1: 1, 8: 2}
    assert spent.success.ns >= spent.queue.ns + spent.compute_infer.ns
    assert spent.fail.ns > 0
    assert stats.last_inference > 0
    # Nothing is cached, held memory is not known, and no model here answers twice.
    assert (spent.cache_hit.count, spent.cache_miss.count) == (0, 0)
    assert (len(stats.memory_usage), len(stats.response_stats)) == (0, 0)


@pytest.mark.parametrize(("version", "listed"), [("", ["1", "2"]), ("1", ["1"]), ("2", ["2"]), ("latest", ["2"])])
def test_statistics_are_of_the_versions_asked_for(channel: grpc.Channel, version: str, listed: list[str]) -> None:
    request = pb.ModelStatisticsRequest(name="linear", version=version)
    stats = stub(channel).ModelStatistics(request, timeout=TIMEOUT_S).model_stats
    assert [entry.version for entry in stats] == listed


def test_requests_of_one_version_are_not_counted_for_another(channel: grpc.Channel) -> None:
    stub(channel).ModelInfer(row_request(onnx_models.rows(2)), timeout=TIMEOUT_S)
    statistics(channel, "linear", 1)
    stats = stub(channel).ModelStatistics(pb.ModelStatisticsRequest(), timeout=TIMEOUT_S).model_stats
    assert [(entry.version, entry.inference_count) for entry in stats] == [("1", 0), ("2", 2)]
