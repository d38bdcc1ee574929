"""A published network for texts takes them as they are: its golden sample holds real and odd ones, its card their column."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frostline
from frostline_training import publish
from frostline_training.data.rows import Text
from frostline_training.errors import PublishError, RefusedError

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
        (["a", "\ud800"], [TEXT], "the raw rows, row 2, column 'text': 'utf-8' codec can't encode"),
        ([{"text": "a"}, {"other": "b"}], [TEXT], "row 2 has no 'text'"),
        ([], [TEXT], "there are no raw rows"),
    ],
)
def test_what_are_no_texts_is_refused(tmp_path: Path, sample: Any, inputs: list[Text], words: str) -> None:
    with pytest.raises(PublishError) as refusal:
        publish(Mood(), sample, inputs=inputs, name="mood", models=tmp_path)
    assert words in str(refusal.value)
