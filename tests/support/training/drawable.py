"""Networks of every family, as a user's own script would write them, each with two rows that it takes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from frostline_training.networks.recurrent import LastState


class LastStep(nn.Module):
    """An LSTM, and a dense layer on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.output = nn.Linear(32, 10)

    def forward(self, steps: Tensor) -> Tensor:
        logits: Tensor = self.output(self.lstm(steps)[0][:, -1])
        return logits


class Packed(nn.Module):
    """A GRU over packed tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8, padding_idx=0)
        self.state = LastState(nn.GRU(8, 16, batch_first=True))
        self.output = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(self.state(self.embedding(tokens), (tokens != 0).sum(1)))
        return logits


class Reader(nn.Module):
    """Self-attention over tokens with learnt positions and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(32, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.output = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens != 0).unsqueeze(-1).float()
        vectors = self.embed(tokens) + self.positions[: tokens.shape[1]]
        vectors = self.encoder(vectors, src_key_padding_mask=tokens == 0)
        logits: Tensor = self.output((vectors * kept).sum(1) / kept.sum(1))
        return logits


class Block(nn.Module):
    """Two convolutions that are passed by."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.second(torch.relu(self.norm(self.first(images)))))


class TwoInputs(nn.Module):
    """Numbers and a category."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Linear(5, 8)
        self.city = nn.Embedding(30, 4)
        self.output = nn.Linear(12, 2)

    def forward(self, numbers: Tensor, city: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.cat([torch.relu(self.numbers(numbers)), self.city(city)], 1))
        return logits


def mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Small enough for every circle."""
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
    ), (torch.randn(2, 4),)


def wide() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Too wide for every circle."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.BatchNorm1d(100), nn.GELU(), nn.Linear(100, 12)), (
        torch.randn(2, 1, 8, 8),
    )


def cnn() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Convolutions, two of them passed by, pooling, and dense layers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        Block(),
        Block(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    ), (torch.randn(2, 1, 8, 8),)


FAMILIES: Mapping[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = MappingProxyType(
    {
        "mlp": mlp,
        "wide": wide,
        "cnn": cnn,
        "lstm": lambda: (LastStep(), (torch.randn(2, 8, 8),)),
        "packed": lambda: (Packed(), (torch.tensor([[3, 4, 5], [6, 7, 0]]),)),
        "transformer": lambda: (Reader(), (torch.randint(1, 50, (2, 12)),)),
        "two": lambda: (TwoInputs(), (torch.randn(2, 5), torch.tensor([3, 4]))),
    }
)
