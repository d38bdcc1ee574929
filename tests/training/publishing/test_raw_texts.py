"""A published network for texts takes them as they are: its golden sample holds real and odd ones, its card their column."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn

import frostline
from frostline_training import publish
from frostline_training.data.rows import Text
from frostline_training.errors import DataError, PublishError, RefusedError
from tests.support import raw_tokens

TEXTS = ["good film", "bad film", "", None, "  good  ", "über gut"] * 4
TEXT = Text("text", 8)


class Mood(nn.Module):
    """An embedding of each byte; `symbols` of them are known, and padding counts where `padded`."""

    def __init__(self, symbols: int = 256, *, padded: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(symbols, 4)
        self.head = nn.Linear(4, 2)
        self.padded = padded

    def forward(self, text: Tensor) -> Tensor:
        vectors = self.letters(text.long())
        if not self.padded:
            there = (text != 0).float().unsqueeze(-1)
            vectors = vectors * there / there.sum(1, keepdim=True)
        answer: Tensor = self.head(vectors.sum(1))
        return answer


def test_the_golden_sample_holds_texts_as_they_are_sent_and_what_the_network_answers(tmp_path: Path) -> None:
    published = publish(Mood(), TEXTS, inputs=[TEXT], test=(TEXTS, [0, 1] * 12), name="mood", models=tmp_path)
    card = json.loads((published.path / "card.json").read_text())
    assert card["rows"] == {
        "missing": [""],
        "columns": [{"name": "text", "kind": "text", "bytes": 8, "share_missing": pytest.approx(1 / 3)}],
        "example": {"text": "good film"},
    }
    assert "files" not in card
    with np.load(published.path / "golden.npz", allow_pickle=False) as golden:
        texts, answers = golden["rows.text"].tolist(), golden["rows_logits"]
    assert {"", " ", "\N{FOX FACE}", "a\0b", " a ", "aaaaaaa\N{FOX FACE}"} < set(texts)
    assert max(map(len, texts)) > 8
    rows = np.zeros((len(texts), 8), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        content = text.strip().encode()[:8]
        row[: len(content)] = list(content)
    with torch.no_grad():
        np.testing.assert_allclose(answers, Mood()(torch.from_numpy(rows)).numpy(), rtol=1e-4, atol=1e-5)


def test_texts_may_be_a_column_of_a_table(tmp_path: Path) -> None:
    rows = {"other": list(range(24)), "text": np.array(TEXTS, object)}
    np.testing.assert_array_equal(frostline.encode(rows, [TEXT]), frostline.encode(TEXTS, [TEXT]))
    assert publish(Mood(), rows, inputs=[TEXT], name="mood", models=tmp_path).version == 1


def test_texts_may_be_an_array_or_an_iterator_and_missing_ones_may_come_first() -> None:
    texts = [None, "good", float("nan"), " bad "]
    expected = frostline.encode([None, "good", None, "bad"], [TEXT])
    np.testing.assert_array_equal(frostline.encode(np.array(texts, object), TEXT), expected)
    np.testing.assert_array_equal(frostline.encode(iter(texts), TEXT), expected)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Mood(128), "fewer than the 256 values that a byte may have"),
        (Mood(padded=False), "infinity or NaN where a text is missing; .* nothing but padding"),
    ],
)
def test_a_network_without_an_answer_to_an_odd_text_is_refused(tmp_path: Path, module: nn.Module, words: str) -> None:
    plain = ["good film", "bad film"] * 4
    with pytest.raises(RefusedError, match=words):
        publish(module, plain, inputs=[TEXT], name="mood", models=tmp_path)


@pytest.mark.parametrize(
    ("sample", "inputs", "words"),
    [
        (TEXTS, [TEXT, Text("more", 8)], "the text 'text' must be the only input"),
        (TEXTS, [Text("text", 0)], "the text 'text' has bytes=0: give a number from 1 to 1048576"),
        (TEXTS, [Text("input", 8)], "a column is called 'input', as the network's own input is"),
        ([1.5, 2.5], [TEXT], "column 'text': 1.5 is float, not a text"),
        ([1, 2], [TEXT], "row 1, column 'text': 1 is int, not a text"),
        (["a", True], [TEXT], "row 2, column 'text': True is bool, not a text"),
        ([b"a", b"b"], [TEXT], "row 1, column 'text': b'a' is bytes, not a text"),
        ("great film", [TEXT], "the raw rows are a single str: give a list of texts for the column 'text'"),
        (
            TEXTS,
            {"text": TEXT},
            "inputs are dict: give a list with a Number, Category or Date for each column, or one Text",
        ),
        (["a", "\ud800"], [TEXT], "the raw rows, row 2, column 'text': 'utf-8' codec can't encode"),
        ([{"text": "a"}, {"other": "b"}], [TEXT], "row 2 has no 'text'"),
        ([], [TEXT], "there are no raw rows"),
    ],
)
def test_what_are_no_texts_is_refused(tmp_path: Path, sample: Any, inputs: list[Text], words: str) -> None:
    with pytest.raises(PublishError) as refusal:
        publish(Mood(), sample, inputs=inputs, name="mood", models=tmp_path)
    assert words in str(refusal.value)


WORDS = ["good", "bad", "film"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one of bytes, vocabulary and tokenizer"),
        ({"bytes": 8, "vocabulary": WORDS}, "give one of bytes, vocabulary and tokenizer"),
        ({"bytes": 8, "length": 8}, "has bytes and length: leave one out"),
        ({"vocabulary": WORDS}, "has length=None: give a number from 1 to 65536"),
        ({"vocabulary": WORDS, "length": True}, "has length=True: give a number from 1 to 65536"),
        ({"vocabulary": [], "length": 4}, "has no vocabulary: give a list"),
        ({"vocabulary": "good", "length": 4}, "has no vocabulary: give a list"),
        ({"vocabulary": ["good", "Bad"], "length": 4}, "has 'Bad' in its vocabulary, which no text becomes"),
        ({"vocabulary": ["<pad>"], "length": 4}, "has '<pad>' in its vocabulary, which no text becomes"),
        ({"vocabulary": ["a b"], "length": 4, "split": "spaces"}, "has 'a b' in its vocabulary, which no text becomes"),
        ({"vocabulary": ["good", "good"], "length": 4}, "has 'good' in its vocabulary twice"),
        ({"vocabulary": WORDS, "length": 4, "split": "letters"}, "has split='letters': give words, spaces, characters"),
        ({"vocabulary": WORDS, "length": 4, "lowercase": "no"}, "has lowercase='no': give True or False"),
        (
            {"bytes": 8, "split": "letters"},
            "has split='letters', which is about the words of a vocabulary: leave it out",
        ),
        ({"bytes": 8, "lowercase": True}, "has lowercase=True, which is about the words of a vocabulary: leave it out"),
        (
            {"tokenizer": "t.json", "length": 4, "split": "words"},
            "has split='words', which is about the words of a vocab",
        ),
        ({"tokenizer": "nowhere.json", "length": 4}, "has a tokenizer that cannot be read"),
        ({"tokenizer": 3, "length": 4}, "has a tokenizer that cannot be read"),
        (
            {"tokenizer": raw_tokens.word_piece(), "length": 2},
            "has length=2, and its tokenizer adds 2 tokens of its own",
        ),
        (
            {"tokenizer": Tokenizer(WordLevel({"a": 0})), "length": 4},
            "has no token to pad with: call its enable_padding",
        ),
        (
            {"name": "input_ids", "tokenizer": raw_tokens.word_piece(), "length": 4},
            "is called as the network's own input",
        ),
    ],
)
def test_a_text_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as refusal:
        frostline.encode(TEXTS, [Text(**{"name": "text", **options})])
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("split", "text", "numbers"),
    [
        ("words", "Good, BAD\tfilm_2 \N{FOX FACE}film", [2, 1, 3, 1, 1, 4]),
        ("spaces", "Good, BAD  film\nfilm", [1, 3, 4, 4]),
        ("characters", "ab A", [2, 3, 4, 2]),
        ("words", None, []),
    ],
)
def test_words_have_the_numbers_of_their_places_from_2(split: Any, text: str | None, numbers: list[int]) -> None:
    known = ["a", "b", " "] if split == "characters" else WORDS
    column = Text("text", vocabulary=known, length=6, split=split)
    np.testing.assert_array_equal(frostline.encode([text], [column]), [numbers + [0] * (6 - len(numbers))])


def test_small_letters_are_only_made_where_it_says_so() -> None:
    column = Text("text", vocabulary=["Good"], length=2, lowercase=False)
    np.testing.assert_array_equal(frostline.encode(["Good good"], [column]), [[2, 1]])


def test_a_network_gets_those_of_a_tokenizers_inputs_that_it_names(tmp_path: Path) -> None:
    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(200, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            answer: Tensor = self.words(tokens).sum(1)
            return answer

    class Typed(Ids):
        def forward(self, token_type_ids: Tensor, input_ids: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(input_ids + token_type_ids)

    text = Text("text", tokenizer=raw_tokens.word_piece(), length=6)
    for module, names in ((Ids(), ["input"]), (Typed(), ["input_ids", "token_type_ids"])):
        published = publish(module, TEXTS, inputs=[text], name="mood", models=tmp_path)
        session = onnxruntime.InferenceSession(published.path / "model.onnx")
        assert sorted(node.name for node in session.get_inputs()) == names
