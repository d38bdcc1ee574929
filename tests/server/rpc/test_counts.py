"""What /metrics says of requests of every kind, through both front ends: whatever ends, and however early, is counted."""

import itertools
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from prometheus_client.parser import text_string_to_metric_families

from frostline.pb import inference_pb2 as pb
from frostline_server.model.predictions import EARNED_AT
from frostline_server.rpc.h2 import framing, responses
from tests.support import onnx_models
from tests.support.calls import row_request, statistics, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import Conversation

Array = np.ndarray[Any, Any]
Series = dict[tuple[tuple[str, str], ...], float]

LIMIT = 1 << 20
"""The largest message in bytes."""

LIAR = """
    <ir_version: 8, opset_import: ["": 17]>
    liar (float[1, n] x, int64[rank] shape) => (float[1, m] y) { y = Reshape (x, shape) }
"""
"""A classifier's output as it is declared; its true rank is the request's choice."""

WORDS = 50_000
VOCABULARY = f"""
    <ir_version: 8, opset_import: ["": 17]>
    vocabulary (int64[rows] word) => (float[rows, {WORDS}] logits)
    <int64 depth = {{{WORDS}}}, float[2] values = {{0, 9}}>
    {{ logits = OneHot <axis = 1> (word, depth, values) }}
"""


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    for name, text in (("liar", LIAR), ("vocabulary", VOCABULARY)):
        (models / name / "1").mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(text), models / name / "1" / "model.onnx")
    settings = {"probe_s": 0.0, "log_level": "error", "max_message_bytes": LIMIT, "model_control": "none"}
    with running(models, transport=request.param, **settings) as instance:
        yield instance


def series(server: Running, name: str, **labels: str) -> Series:
    """The samples of one name that have these labels, by their other labels; the page has to be whole."""
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
        assert page.status == 200
        text = page.read().decode()
    assert "\nfrostline_scrape_errors_total 0.0" in text
    return {
        tuple(sorted(sample.labels.items() - labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def codes(server: Running, model: str = "linear") -> dict[str, float]:
    """Requests by status."""
    version = {"version": "1" if model else ""}
    return {
        dict(key)["code"]: n for key, n in series(server, "frostline_requests_total", model=model, **version).items()
    }


def wait_for_more(server: Running, before: dict[str, float], model: str = "linear", count: int = 1) -> dict[str, float]:
    """By which statuses so many requests more have ended; waits until they have."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while True:
        more = {code: n - before.get(code, 0) for code, n in codes(server, model).items() if n > before.get(code, 0)}
        if sum(more.values()) >= count or time.monotonic() > give_up_s:
            return more


def request_of(model: str, **arrays: Array) -> pb.ModelInferRequest:
    kinds = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
    tensors = [{"name": name, "datatype": kinds[array.dtype], "shape": array.shape} for name, array in arrays.items()]
    return pb.ModelInferRequest(
        model_name=model, inputs=tensors, raw_input_contents=[array.tobytes() for array in arrays.values()]
    )


# Predictions


def test_a_model_of_another_rank_than_it_declares_is_answered_and_leaks_nothing(
    server: Running, channel: grpc.Channel
) -> None:
    session = ort.InferenceSession(onnx.parser.parse_model(LIAR).SerializeToString())
    x = np.arange(120_000, dtype=np.float32).reshape(1, -1)
    # Ranks that differ, and shapes that differ within a rank.
    shapes = ([2, 1, 60_000], [3, 1, 40_000], [1, 120_000], [2, 60_000], [1, 2, 3, 20_000])
    inputs = [{"x": x, "shape": np.array(shape)} for shape in shapes]
    expected = [session.run(None, given)[0] for given in inputs]
    requests = [request_of("liar", **given) for given in inputs]
    for request in requests:
        request.outputs.add(name="y")
    resident: list[int] = []
    for number in range(300):
        index = number % len(shapes) if number >= 100 else 0
        response = stub(channel).ModelInfer(requests[index], timeout=TIMEOUT_S)
        (output,) = response.outputs
        got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)
        np.testing.assert_array_equal(got, expected[index])
        if number % 20 == 0:
            series(server, "frostline_predictions_total")
            resident.append(resident_bytes())
    # The answers and their indices would be more than 300 MB.
    assert resident[-1] - resident[3] < 64e6
    # Only one row of 120 000 logits, and two rows of 60 000, have a class for each row.
    assert sum(series(server, "frostline_predictions_total", model="liar").values()) <= 40 + 2 * 40


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_a_vocabulary_has_a_bounded_number_of_series_which_only_grow(server: Running, channel: grpc.Channel) -> None:
    before: Series = {}
    common = np.repeat(np.arange(60, 64), 4)
    rows = 0
    for start in range(0, 48 * 24, 48):
        words = np.concatenate([common, np.arange(1000 + start, 1000 + start + 48)])
        request = request_of("vocabulary", word=words.astype(np.int64))
        request.outputs.add(name="argmax")
        response = stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        assert np.frombuffer(response.raw_output_contents[0], np.int64).tolist() == words.tolist()
        rows += len(words)
        now = series(server, "frostline_predictions_total", model="vocabulary", version="1")
        assert all(now.get(key, 0) >= count for key, count in before.items())
        before = now
    statistics(channel, "vocabulary", 24)
    labels = {dict(key)["label"]: count for key, count in series_once_counted(server, rows).items()}
    assert set(labels) == {"60", "61", "62", "63", "other"}
    assert sum(labels.values()) == rows
    assert labels["60"] >= 24 * 4 - 2 * EARNED_AT


def series_once_counted(server: Running, rows: int) -> Series:
    """The predictions, once so many rows are counted: a batch is counted after its answers have left."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while True:
        found = series(server, "frostline_predictions_total", model="vocabulary", version="1")
        if sum(found.values()) >= rows or time.monotonic() > give_up_s:
            return found


# Requests that end early


def test_a_defect_before_the_queue_is_counted_as_the_servers_under_the_model(
    server: Running, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = server.server.repository.get("linear", "")

    def defect(*_: Any, **__: Any) -> Any:
        raise KeyError("a defect")

    before = codes(server)
    for owner, name in ((served.codec, "decode_infer"), (served.batcher, "submit")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, defect)
            with pytest.raises(grpc.RpcError) as caught:
                stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            stream = Conversation(channel)
            stream.send(row_request(onnx_models.rows(1), "7"))
            (answer,) = stream.rest()
            assert "a defect" in answer.error_message
            assert answer.infer_response.model_name == "linear"
    assert wait_for_more(server, before, count=4) == {"INTERNAL": 4}
    # The front end goes on.
    stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)


def test_a_defect_before_the_model_is_known_is_counted_without_one(
    server: Running, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any, **__: Any) -> Any:
        raise KeyError("a defect")

    before = codes(server, "")
    monkeypatch.setattr(server.server.repository, "get", defect)
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    monkeypatch.undo()
    assert wait_for_more(server, before, "") == {"INTERNAL": 1}


def test_a_request_whose_time_is_over_while_it_waits_is_counted_as_that_and_not_as_given_up(
    server: Running, channel: grpc.Channel
) -> None:
    before = codes(server)
    with server.held("linear") as device:
        expired = stub(channel).ModelInfer.future(row_request(onnx_models.rows(1)), timeout=0.2)
        given_up = stub(channel).ModelInfer.future(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        device.wait_until_queued(2)
        given_up.cancel()
        assert expired.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # And the row that held the device.
    assert wait_for_more(server, before, count=3) == {"DEADLINE_EXCEEDED": 1, "CANCELLED": 1, "OK": 1}


def test_a_message_that_is_too_large_is_counted_where_this_server_sees_it(
    server: Running, channel: grpc.Channel
) -> None:
    before = codes(server, "")
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel).ModelInfer(row_request(onnx_models.rows(LIMIT // 16 + 1)), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
    # gRPC's own library refuses it on grpcio, and tells nobody; docs/operating.md says so.
    expected: dict[str, float] = {"RESOURCE_EXHAUSTED": 1.0} if server.config.transport == "h2" else {}
    assert wait_for_more(server, before, "", count=len(expected)) == expected


def test_an_answer_that_cannot_be_sent_keeps_back_no_other_one(
    server: Running, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.config.transport != "h2":
        pytest.skip("only this front end sends its answers itself")
    sent = itertools.count(1)

    def prefixed(message: bytes) -> bytes:
        if next(sent) == 2:
            raise RuntimeError("no room")
        return framing.prefixed(message)

    with server.held("linear") as device:
        calls = []
        for queued in (1, 2, 3):
            calls.append(stub(channel).ModelInfer.future(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S))
            device.wait_until_queued(queued)
        monkeypatch.setattr(responses, "prefixed", prefixed)
    assert [call.code() for call in calls] == [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.OK]
    assert "no room" in calls[1].details()
