"""Texts of a vocabulary and of tokenizers, from `publish` to a server: answered as PyTorch answers what the tokenizer makes."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline_training import publish
from frostline_training.data.rows import Text
from tests.support import calls, raw_clients, raw_tokens
from tests.support.raw_tokens import ODD, SENTENCES
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

LENGTH = 12
TEXTS = [*SENTENCES[:5], *ODD]
VOCABULARY = ["the", "film", "good", "bad", ",", "über", "great"]
LEFT = {"direction": "left", "pad_id": 0, "pad_token": "<pad>"}


class Words(nn.Module):
    """The mean of the words' vectors, without padding, and two logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Embedding(2 + len(VOCABULARY), 8)
        self.head = nn.Linear(8, 2)

    def forward(self, words: Tensor) -> Tensor:
        there = (words != 0).unsqueeze(-1).float()
        answer: Tensor = self.head((self.words(words) * there).sum(1) / (there.sum(1) + 1))
        return answer


def words_of(texts: Sequence[str]) -> Array:
    """The numbers of words, int64 [N, 12], written down anew."""
    rows = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in enumerate(texts):
        words = [word for word in re.split(r"(\W)", text.strip().lower()) if word.strip() or word == "\0"]
        for at, word in enumerate(words[:LENGTH]):
            rows[row, at] = VOCABULARY.index(word) + 2 if word in VOCABULARY else 1
    return rows


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    file = root / "word-piece.json"
    raw_tokens.word_piece().save(str(file))
    publish(
        raw_tokens.Transformer(), SENTENCES, inputs=[Text("review", tokenizer=file, length=LENGTH)], name="piece",
        labels=["bad", "good"], models=root, test=(SENTENCES, [0, 1] * 10),
    )  # fmt: skip
    publish(
        raw_tokens.Transformer(), SENTENCES, name="pairs", models=root,
        inputs=[Text("review", tokenizer=raw_tokens.byte_pairs(), length=LENGTH)],
    )  # fmt: skip
    publish(
        Words(), SENTENCES, name="words", models=root,
        inputs=[Text("review", vocabulary=VOCABULARY, length=LENGTH)],
    )  # fmt: skip
    return root


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[Running]:
    with running(models, transport=request.param, log_level="error") as instance:
        yield instance


def expected(model: str, texts: list[str]) -> Any:
    if model == "words":
        with torch.no_grad():
            return Words()(torch.from_numpy(words_of(texts))).numpy()
    if model == "pairs":
        return raw_tokens.expected(raw_tokens.Transformer(), raw_tokens.byte_pairs(), texts, LENGTH, **LEFT)
    return raw_tokens.expected(raw_tokens.Transformer(), raw_tokens.word_piece(), texts, LENGTH)


def ask(channel: grpc.Channel, model: str, texts: Sequence[str], outputs: Sequence[str] = ("logits",)) -> Array:
    request = calls.infer_request(model, {"review": np.array(texts, object)}, list(outputs))
    return calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))[outputs[0]]


@pytest.mark.parametrize("model", ["piece", "pairs", "words"])
def test_texts_are_answered_as_pytorch_answers_their_tokens(channel: grpc.Channel, model: str) -> None:
    answers = expected(model, TEXTS)
    assert len({row.tobytes() for row in answers}) > 8
    np.testing.assert_allclose(ask(channel, model, TEXTS), answers, rtol=1e-4, atol=1e-4)
    for text, answer in zip(TEXTS, answers, strict=True):
        np.testing.assert_allclose(ask(channel, model, [text]), answer[None], rtol=1e-4, atol=1e-4, err_msg=text[:20])


def test_many_callers_get_the_answers_to_their_own_texts(server: Running) -> None:
    answers = expected("piece", TEXTS)

    def one(number: int) -> None:
        at = number % len(TEXTS)
        with grpc.insecure_channel(server.address) as channel:
            np.testing.assert_allclose(ask(channel, "piece", [TEXTS[at]]), answers[at : at + 1], rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(64)))


def test_the_clients_own_tokens_are_still_taken(channel: grpc.Channel) -> None:
    text = Text("review", tokenizer=raw_tokens.word_piece(), length=LENGTH)
    tokens = frostline.encode(TEXTS, [text])
    assert {name: array.shape for name, array in tokens.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "token_type_ids"], (len(TEXTS), LENGTH)
    )
    del tokens["token_type_ids"]
    request = calls.infer_request("piece", tokens, ["logits"])
    got = calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))["logits"]
    np.testing.assert_allclose(got, expected("piece", TEXTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "states"),
    [
        ("piece", {"": 1, " ": 1, "great film": 0, "\u16a0 \u16a1": 2, "the " * 50: 3}),
        ("words", {"": 1, " ": 1, "great film": 0, "\u16a0 \u16a1": 2, "the " * 50: 3}),
        ("pairs", {"": 1, " ": 1, "great film": 0, "\u16a0": 0, "the " * 50: 3}),
    ],
)
def test_a_text_may_be_missing_unknown_or_cut(channel: grpc.Channel, model: str, states: dict[str, int]) -> None:
    got = ask(channel, model, list(states), ["input_states"])
    assert dict(zip(states, got[:, 0].tolist(), strict=True)) == states


def test_the_python_client_sends_texts_and_is_told_how_many_tokens_count(server: Running) -> None:
    with frostline.connect(server.address, timeout_s=TIMEOUT_S) as client:
        for model in ("piece", "pairs", "words"):
            got = client.predict(model, [*TEXTS, None]).logits
            np.testing.assert_allclose(got, expected(model, [*TEXTS, ""]), rtol=1e-4, atol=1e-4)
            (column,) = client.schema(model).columns
            assert (column.name, column.kind) == ("review", "text")


def test_the_file_belongs_to_the_version(models: Path) -> None:
    folder = models / "piece" / "1"
    card = json.loads((folder / "card.json").read_text())
    content = (folder / "tokenizer.json").read_bytes()
    assert card["files"] == {"tokenizer.json": hashlib.sha256(content).hexdigest()}
    assert card["rows"]["file"] == "tokenizer.json"
    assert card["rows"]["columns"] == [{"name": "review", "kind": "text", "length": LENGTH, "share_missing": 0.0}]
    told = json.loads(content)
    assert (told["truncation"]["max_length"], told["padding"]["strategy"]) == (LENGTH, {"Fixed": LENGTH})
    words = json.loads((models / "words" / "1" / "card.json").read_text())
    assert words["rows"]["columns"] == [
        {"name": "review", "kind": "text", "length": LENGTH, "vocabulary": VOCABULARY, "lowercase": True,
         "split": "words", "share_missing": 0.0}
    ]  # fmt: skip
    with np.load(folder / "golden.npz") as golden:
        assert {"", " ", "\N{FOX FACE}", "a\0b", "\u16a0\u16a1 \u16a2"} < set(golden["rows.review"].tolist())
        assert max(map(len, golden["rows.review"].tolist())) > 2 * LENGTH


@pytest.mark.parametrize("model", ["piece", "words"])
def test_stock_clients_send_texts_that_are_tokenized(
    models: Path, model: str, kserve_python: Path, tool: Callable[[str], str], node_packages: Path
) -> None:
    assert node_packages.is_dir()
    answers = raw_clients.softmax(expected(model, TEXTS))
    with running(models, log_level="error") as server:
        for command in (
            raw_clients.triton(server.address, model, 1),
            raw_clients.kserve(kserve_python, server.address, model, 16),
            raw_clients.node(tool("node"), server.address, model, 64),
        ):
            got = raw_clients.ask({"review": raw_clients.texts(TEXTS)}, command)
            np.testing.assert_allclose(got, answers, rtol=1e-4, atol=1e-4, err_msg=" ".join(command))
