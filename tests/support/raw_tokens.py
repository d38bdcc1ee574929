"""Tokenizers trained on a few sentences, and small networks with random weights that take what they make."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

SENTENCES = [
    "A great film, with a lovely cast.",
    "Dull, and far too long: a poor play.",
    "Über gut! The café scene is the best one \N{FOX FACE}",
    "not good, not bad",
    "the film of the play of the film",
] * 4

ODD = [
    "",
    " ",
    "\N{FOX FACE}",
    "a\0b",
    "  a great film ",
    "\u16a0\u16a1 \u16a2",
    "the film " * 5000,
    "x" * 20_000,
    "good\nbad\tplay",
]
"""Empty, a space, an emoji, a NUL, spaces around it, only unknown words, very long, one very long word, other spaces."""


def word_piece(size: int = 120) -> Tokenizer:
    """A tokenizer as BERT's, the same each time."""
    return Tokenizer.from_str(_word_piece(size))


def byte_pairs(size: int = 300) -> Tokenizer:
    """A tokenizer as GPT-2's, to which spaces count and nothing is unknown; it pads on the left. The same each time."""
    return Tokenizer.from_str(_byte_pairs(size))


@cache  # of pairs that are as frequent, the trainer takes any
def _word_piece(size: int) -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return str(tokenizer.to_str())


@cache
def _byte_pairs(size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="<pad>")
    return str(tokenizer.to_str())


class Transformer(nn.Module):
    """A layer of attention over tokens, without those that pad, and two logits."""

    def __init__(self, size: int = 400, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = nn.Embedding(size, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask.unsqueeze(-1).float()
        # The first place always counts, so that a text without tokens has an answer.
        ignored = attention_mask == 0
        ignored = torch.cat([torch.zeros_like(ignored[:, :1]), ignored[:, 1:]], dim=1)
        vectors = self.layer(self.tokens(input_ids), src_key_padding_mask=ignored)
        answer: Tensor = self.head((vectors * there).sum(1) / (there.sum(1) + 1))
        return answer


def expected(module: nn.Module, tokenizer: Tokenizer, texts: list[str], length: int, **padding: Any) -> Any:
    """What `module(**tokenizer(texts))` answers, float32 [N, 2]; the tokenizer is made to cut and pad as its users do."""
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, **padding)
    encodings = tokenizer.encode_batch(texts)
    with torch.no_grad():
        return module(
            input_ids=torch.tensor([each.ids for each in encodings]),
            attention_mask=torch.tensor([each.attention_mask for each in encodings]),
        ).numpy()
