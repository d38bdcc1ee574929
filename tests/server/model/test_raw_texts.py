"""Texts as raw rows, through both front ends and both APIs: the network gets the bytes that training made of them."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2, predictor_pb2, predictor_pb2_grpc
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.codec.tensors import unpack_strings
from frostline_server.errors import InvalidInput, LoadError
from frostline_server.model.loader import Loader
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.row_schema import MOST_TEXT_BYTES
from tests.server.model.test_raw_rows import APIS, numbers_of
from tests.support import calls, raw_media
from tests.support.raw_media import TEXTS, logits_of, text_bytes
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

LOGITS = logits_of(text_bytes())


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_media.write_texts(root)
    with running(root, transport=request.param, log_level="error") as instance:
        yield instance


def column_of(texts: Any) -> dict[str, Array]:
    return {"text": np.array(texts, object)}


@pytest.mark.parametrize("api", APIS)
def test_texts_are_answered_as_training_answers_them_alone_and_together(channel: grpc.Channel, api: str) -> None:
    np.testing.assert_allclose(APIS[api](channel, column_of(TEXTS), "mood"), LOGITS, rtol=1e-5)
    for text, expected in zip(TEXTS, LOGITS, strict=True):
        np.testing.assert_allclose(APIS[api](channel, column_of([[text]]), "mood"), expected[None], rtol=1e-5)


def test_the_networks_own_bytes_are_still_taken(channel: grpc.Channel) -> None:
    np.testing.assert_allclose(APIS["infer"](channel, {"input": text_bytes()}, "mood"), LOGITS, rtol=1e-5)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_any_texts_are_answered_as_training_reads_them(channel: grpc.Channel, texts: list[str]) -> None:
    got = APIS["infer"](channel, column_of(texts), "mood")
    np.testing.assert_allclose(got, logits_of(text_bytes(texts)), rtol=1e-4, atol=1e-4)


def test_a_text_that_is_too_long_is_refused_before_it_is_decoded_and_its_batch_mates_are_answered(
    server: Running, channel: grpc.Channel
) -> None:
    stub = calls.stub(channel)
    with server.held("mood") as held:
        good = stub.ModelInfer.future(calls.infer_request("mood", column_of(TEXTS), ["logits"]), timeout=TIMEOUT_S)
        held.wait_until_queued(len(TEXTS))
        for request in (
            calls.infer_request("mood", column_of(["a", "x" * (MOST_TEXT_BYTES + 1)])),
            _typed(["a", "x" * (MOST_TEXT_BYTES + 1)]),
        ):
            code, message = calls.refused(stub.ModelInfer, request)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert "input 'text'" in message
            assert "row 1: 1048577 bytes are too many; send at most 1048576 bytes" in message
    np.testing.assert_allclose(calls.answers(good.result(TIMEOUT_S))["logits"], LOGITS, rtol=1e-5)


def _typed(texts: list[str]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mood")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    return request


def test_the_longest_text_is_answered(channel: grpc.Channel) -> None:
    got = APIS["infer"](channel, column_of(["x" * MOST_TEXT_BYTES]), "mood")
    np.testing.assert_allclose(got, logits_of(text_bytes(["x" * 8])), rtol=1e-5)


def test_ten_megabytes_of_text_cost_no_memory_but_their_message() -> None:
    size = 10_000_000
    message = size.to_bytes(4, "little") + b"x" * size
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="input 'text' for model 'mood', row 0: 10000000 bytes are too many"):
            unpack_strings("mood", "text", 1, message, MOST_TEXT_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_text_that_is_no_utf_8_is_refused(channel: grpc.Channel) -> None:
    request = calls.infer_request("mood", column_of(["a"]))
    request.raw_input_contents[0] = b"\x02\x00\x00\x00\xff\xfe"
    code, message = calls.refused(calls.stub(channel).ModelInfer, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'text'" in message
    assert "not UTF-8" in message


def test_clients_are_told_that_a_text_is_taken(channel: grpc.Channel) -> None:
    stub = calls.stub(channel)
    question = predictor_pb2.SchemaRequest(model="mood")
    (column,) = predictor_pb2_grpc.PredictorStub(channel).Schema(question, timeout=TIMEOUT_S).columns
    assert (column.name, column.kind, column.dtype) == ("text", predictor_pb2.TEXT, predictor_pb2.BYTES)
    assert (column.bytes, column.most_bytes) == (8, 1 << 20)
    config = stub.ModelConfig(pb.ModelConfigRequest(name="mood"), timeout=TIMEOUT_S).config
    told = json.loads(config.parameters["frostline.rows"].string_value)
    assert told["columns"] == [{"name": "text", "share_missing": 0.1, "kind": "text", "bytes": 8}]


def test_missing_texts_and_those_that_were_cut_are_counted(tmp_path: Path) -> None:
    raw_media.write_texts(tmp_path)
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        APIS["infer"](channel, column_of(TEXTS), "mood")
        calls.statistics(channel, "mood", 1)
        assert numbers_of(server, "frostline_input_missing_total") == {"text": 2}
        assert numbers_of(server, "frostline_input_unknown_total") == {"text": 0}
        assert numbers_of(server, "frostline_input_outside_total") == {"text": 2}
        assert numbers_of(server, "frostline_input_drift") == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bytes": 0}, "card.json: rows.columns.0.text.bytes"),
        ({"bytes": 9}, "a text becomes uint8 ['rows', 9], and the network takes uint8 ['rows', 8]"),
        (
            {"kind": "category", "categories": []},
            "a table and a text with tokens, and nothing else, have a file that encodes them",
        ),
    ],
)
def test_a_card_that_is_wrong_about_the_texts_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))
    folder = raw_media.write_texts(tmp_path, card=change)
    with pytest.raises(LoadError) as refusal:
        loader.load(folder, "mood", model_config_pb2.ModelConfig(), lambda warning: None)
    assert words in str(refusal.value)
