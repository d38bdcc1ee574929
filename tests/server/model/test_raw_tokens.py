"""Texts by a tokenizer's file: whatever the file is, or a text does to it, the server goes on and says what is wrong."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2, predictor_pb2, predictor_pb2_grpc
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import LoadError
from frostline_server.model.loader import Loader
from frostline_server.runtime import token_encoder
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.row_schema import MOST_TOKENIZED_BYTES
from tests.support import calls, raw_media
from tests.support.raw_media import logits_of
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

LENGTH = 6
WORDS = {"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3, "a": 4, "b": 5}
TEXTS = ["good film", "", "film", "a b a b a b a b", "none of it"]
ENDLESS = "a" * 40 + "b"
"""A text on which the regular expression of `endless` gives up only after millions of steps."""


def tokenizer(split: Any = None, length: int = LENGTH) -> Tokenizer:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = split or pre_tokenizers.WhitespaceSplit()
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=0, pad_token="[PAD]")
    return made


def endless() -> Tokenizer:
    return tokenizer(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("(a|aa)+$"), "isolated")])
    )


def bomb() -> Tokenizer:
    """What makes a megabyte into a terabyte."""
    made = tokenizer()
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *[normalizers.Replace("a", "a" * 1000)] * 2])
    return made


def numbers_of(texts: list[str]) -> Array:
    """The words' numbers, int64 [N, 6], written down anew."""
    rows = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in enumerate(texts):
        for at, word in enumerate(text.split()[:LENGTH]):
            rows[row, at] = WORDS.get(word, 1)
    return rows


def write(
    root: Path,
    name: str = "mood",
    content: bytes | None = None,
    golden: list[str] = TEXTS,
    card: dict[str, Any] | None = None,
) -> Path:
    """Write a version whose texts a tokenizer reads; `content` takes the place of its file."""
    column = {"name": "text", "kind": "text", "length": LENGTH, **(card or {})}
    rows = {"file": "tokenizer.json", "missing": [""], "columns": [column], "example": {"text": "good"}}
    raw = {"rows.text": np.array(golden), "rows_logits": logits_of(numbers_of(golden))}
    file = tokenizer().to_str().encode() if content is None else content
    network = raw_media.network([LENGTH], TensorProto.INT64)
    return raw_media.write(root, name, 1, network, numbers_of(TEXTS), raw, rows, {"tokenizer.json": file})


def load(folder: Path) -> None:
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))
    loader.load(folder, "mood", model_config_pb2.ModelConfig(), lambda warning: None).batcher.close(TIMEOUT_S)


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    write(root)
    write(root, "endless", endless().to_str().encode())
    with running(root, transport=request.param, log_level="error") as instance:
        yield instance


def request(model: str, texts: list[str]) -> pb.ModelInferRequest:
    return calls.infer_request(model, {"text": np.array(texts, object)}, ["logits"])


def test_a_text_on_which_the_tokenizer_fails_fails_its_own_request_alone(
    server: Running, channel: grpc.Channel, capfd: pytest.CaptureFixture[str]
) -> None:
    stub = calls.stub(channel)
    with server.held("endless") as held:
        good = stub.ModelInfer.future(request("endless", TEXTS), timeout=TIMEOUT_S)
        bad = stub.ModelInfer.future(request("endless", ["good", "a b " * 25_000, ENDLESS]), timeout=TIMEOUT_S)
        held.wait_until_queued(len(TEXTS) + 3)
    assert bad.exception(TIMEOUT_S).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "column 'text', row 2: the tokenizer fails on the text: Onig: Regex" in bad.exception().details()
    for _ in range(2):
        np.testing.assert_allclose(
            calls.answers(good.result(TIMEOUT_S))["logits"], logits_of(numbers_of(TEXTS)), rtol=1e-5
        )
        good = stub.ModelInfer.future(request("endless", TEXTS), timeout=TIMEOUT_S)
    capfd.readouterr()  # the library writes a trace of its own


def test_texts_that_are_too_long_or_no_utf_8_are_refused_before_they_are_tokenized(channel: grpc.Channel) -> None:
    stub = calls.stub(channel)
    message = calls.refused(stub.ModelInfer, request("mood", ["a", "x" * 10_000_000]))[1]
    assert f"row 1: 10000000 bytes are too many; send at most {MOST_TOKENIZED_BYTES} bytes" in message
    broken = request("mood", ["a"])
    broken.raw_input_contents[0] = b"\x02\x00\x00\x00\xff\xfe"
    code, message = calls.refused(stub.ModelInfer, broken)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "not UTF-8" in message


def test_the_longest_text_is_answered(channel: grpc.Channel) -> None:
    longest = "good " * (MOST_TOKENIZED_BYTES // 5)
    got = calls.answers(calls.stub(channel).ModelInfer(request("mood", [longest]), timeout=TIMEOUT_S))["logits"]
    np.testing.assert_allclose(got, logits_of(numbers_of([longest])), rtol=1e-5)


def test_clients_are_told_how_many_tokens_count(channel: grpc.Channel) -> None:
    question = predictor_pb2.SchemaRequest(model="mood")
    (column,) = predictor_pb2_grpc.PredictorStub(channel).Schema(question, timeout=TIMEOUT_S).columns
    assert (column.kind, column.bytes, column.length) == (predictor_pb2.TEXT, 0, LENGTH)
    config = calls.stub(channel).ModelConfig(pb.ModelConfigRequest(name="mood"), timeout=TIMEOUT_S).config
    (told,) = json.loads(config.parameters["frostline.rows"].string_value)["columns"]
    assert told == {"name": "text", "share_missing": 0.0, "kind": "text", "length": LENGTH}


GOOD = tokenizer().to_str()
ODD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no tokenizer that the package tokenizers reads: EOF"),
    "cut": (GOOD[:100].encode(), "is no tokenizer that the package tokenizers reads: EOF"),
    "another file": (b"{}", "is no tokenizer that the package tokenizers reads: "),
    "no UTF-8": (b"\xff\xfe", "is no tokenizer that the package tokenizers reads: "),
    "deeply nested": (b"[" * 1_000_000, "is no tokenizer that the package tokenizers reads: "),
    "unknown model": (GOOD.replace("WordLevel", "Nobody").encode(), "is no tokenizer that the package tokenizers"),
    "pads to more than memory holds": (
        GOOD.replace('"Fixed":6', '"Fixed":1000000000000').encode(),
        "cuts texts to 6 tokens and pads them to 1000000000000; the card says that both are 6",
    ),
    "does not cut": (
        GOOD.replace('"max_length":6', '"max_length":7').encode(),
        "cuts texts to 7 tokens and pads them to 6; the card says that both are 6",
    ),
    "makes texts longer than memory holds": (
        bomb().to_str().encode(),
        "makes texts up to 1000000 times as long before they are tokenized; the most is 64",
    ),
    "another vocabulary": (
        GOOD.replace('"good":2', '"godo":2').encode(),
        "golden check failed: the answers 'logits' to raw rows differ from PyTorch's",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_a_version_that_fails_with_the_reason(tmp_path: Path, name: str) -> None:
    content, words = ODD[name]
    assert content != GOOD.encode()
    with pytest.raises(LoadError) as refusal:
        load(write(tmp_path, content=content))
    assert words in str(refusal.value)


def test_a_regular_expression_that_never_ends_is_found_with_the_golden_sample(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, content=endless().to_str().encode(), golden=[*TEXTS, ENDLESS])
    with pytest.raises(
        LoadError, match="golden check failed: raw rows: column 'text', row 5: the tokenizer fails on the text"
    ):
        load(folder)
    capfd.readouterr()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_encoder, "MOST_FILE_BYTES", 100)
    with pytest.raises(LoadError, match=r"tokenizer\.json has \d+ bytes; the most is 100"):
        load(write(tmp_path))


def test_a_server_without_the_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LoadError, match=r"pip install 'frostline\[text\]'"):
        load(write(tmp_path))


def test_another_file_than_the_cards_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "tokenizer.json").write_text(GOOD + " ")
    with pytest.raises(LoadError, match=r"tokenizer\.json is not the file its card describes: sha256"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 5}, "cuts texts to 6 tokens and pads them to 6; the card says that both are 5"),
        ({"length": 1 << 17}, "card.json: rows.columns.0.text.length"),
        ({"bytes": 6}, "a text has either bytes, or a length in words or tokens"),
        ({"length": None}, "a text has either bytes, or a length in words or tokens"),
        ({"vocabulary": ["good"]}, "a table and a text with tokens, and nothing else, have a file that encodes them"),
    ],
)
def test_a_card_that_is_wrong_about_the_tokens_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError) as refusal:
        load(write(tmp_path, card=change))
    assert words in str(refusal.value)
